"""Where shards of work run: this process, or Ray."""
