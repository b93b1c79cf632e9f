"""One DVC stage a file: read params, call the library, write outs, track."""
