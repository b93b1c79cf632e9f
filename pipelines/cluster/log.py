"""The log of a job as it grows: most of it for the eye, the lines with a mark for a file."""

import base64
import binascii
import hashlib
from pathlib import Path
from typing import TextIO

_END = "end"


class Log:
    """Shows what it is fed, but for the lines that begin with `mark`, which make up the file `parcel`."""

    def __init__(self, mark: str, parcel: Path, screen: TextIO) -> None:
        self.mark, self.parcel, self.screen = f"{mark} ", parcel, screen
        self._n_shown = 0
        self.rewind()

    def rewind(self) -> None:
        """Expect the log from its beginning, as after a lost connection; show nothing of it twice."""
        self.whole = False  # whether the parcel has arrived, to its last byte
        self._rest = ""
        self._n_lines = 0
        self._digest = hashlib.sha256()
        self.parcel.write_bytes(b"")

    def feed(self, text: str) -> None:
        """Take the next piece of the log, which may end within a line."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.startswith(self.mark):
                self._take(line.removeprefix(self.mark))
            else:
                self._show(line)

    def close(self) -> None:
        """Show the last line, if it has no end."""
        if self._rest:
            self.feed("\n")

    def _show(self, line: str) -> None:
        self._n_lines += 1
        if self._n_lines > self._n_shown:
            self._n_shown = self._n_lines
            print(line, file=self.screen, flush=True)

    def _take(self, text: str) -> None:
        kind, _, digest = text.partition(" ")
        if kind == _END:
            self.whole = digest == self._digest.hexdigest()
            return
        try:
            chunk = base64.b64decode(text, validate=True)
        except binascii.Error:  # another program wrote into the line: the digest will differ
            return
        self._digest.update(chunk)
        with open(self.parcel, "ab") as file:
            file.write(chunk)
