"""Snapshots in a folder, local or anywhere that fsspec reaches: files with digests, each there as a whole."""

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from genmodels.errors import InputError

_NAMES = ("snapshot-", "results-", "states-")
_KEPT = 2  # snapshots: the last, and the one before should that be damaged


class Store:
    """snapshot-N.json lists what counts at the N-th snapshot: files of results, and one of states."""

    def __init__(self, location: str) -> None:
        """Make the folder, if need be.

        Raises:
            InputError: it cannot be made, or the place is of a kind that needs a package that is not there.
        """
        self.location = location
        try:
            self._fs, self._folder = fsspec.core.url_to_fs(location)
            self._fs.makedirs(self._folder, exist_ok=True)
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"{location}: no folder for checkpoints can be there ({reason})") from error

    def newest(self) -> int:
        """Return the number of the last snapshot, damaged or not; 0 if there is none."""
        return max(self._numbers(), default=0)

    def snapshots(self) -> Iterator[dict[str, Any]]:
        """Yield the snapshots that can be read, the last one first; say so if none of them can be."""
        numbers = self._numbers()
        for number in sorted(numbers, reverse=True):
            with contextlib.suppress(ValueError, OSError):
                head = json.loads(self._fs.cat_file(self._path(f"snapshot-{number:06d}.json")))
                if isinstance(head, dict):
                    yield head
        if numbers:
            print(f"genmodels: {self.location}: no checkpoint there is whole: starting anew", file=sys.stderr)

    def read(self, entry: dict[str, str]) -> bytes:
        """Return a file's bytes.

        Raises:
            ValueError: it is not there, or not as it was written.
        """
        try:
            data: bytes = self._fs.cat_file(self._path(entry["name"]))
        except OSError as error:
            raise ValueError(f"{entry['name']} cannot be read") from error
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ValueError(f"{entry['name']} is damaged")
        return data

    def write(self, name: str, data: bytes) -> dict[str, str]:
        """Write a file as a whole; return its name and digest."""
        path = self._path(name)
        if isinstance(self._fs, LocalFileSystem):
            # Elsewhere a file appears when all of it has arrived; here it is given its name then.
            self._fs.pipe_file(f"{path}.new", data)
            self._fs.mv(f"{path}.new", path)
        else:
            self._fs.pipe_file(path, data)
        return {"name": name, "sha256": hashlib.sha256(data).hexdigest()}

    def publish(self, number: int, head: bytes) -> None:
        """Write the N-th snapshot's list, and remove what only older ones than the one before need."""
        self.write(f"snapshot-{number:06d}.json", head)
        for old in self._numbers():
            if old <= number - _KEPT:
                for name in (f"snapshot-{old:06d}.json", f"states-{old:06d}"):
                    with contextlib.suppress(FileNotFoundError):
                        self._fs.rm_file(self._path(name))

    def clear(self) -> None:
        """Remove the files of all snapshots, and the folder if nothing else is in it."""
        for path in self._fs.ls(self._folder, detail=False, refresh=True):
            if path.rsplit("/", 1)[-1].startswith(_NAMES):
                self._fs.rm_file(path)
        with contextlib.suppress(OSError):
            self._fs.rmdir(self._folder)

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _numbers(self) -> list[int]:
        paths = self._fs.ls(self._folder, detail=False, refresh=True)
        names = [path.rsplit("/", 1)[-1].removeprefix("snapshot-") for path in paths]
        digits = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        return [int(number) for number in digits if number.isdigit()]
