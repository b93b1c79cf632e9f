"""A run's events as lines of a local file, from which any later process can bring them to MLflow."""

import json
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

Status = Literal["FINISHED", "FAILED", "KILLED"]


def milliseconds() -> int:
    """Return the time of MLflow's clock."""
    return int(time.time() * 1000)


class Spool:
    """Append-only events of one stage's run; what has been shipped is counted in a file beside it."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def stage(self) -> str:
        """Return the stage's name, "train@vae"."""
        return self.path.stem

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event, whole or not at all, and push it to the disk.

        Raises:
            OSError: there is no room for it.
        """
        line = (json.dumps({"kind": kind, "time": milliseconds(), **fields}) + "\n").encode()
        with open(self.path, "ab", buffering=0) as file:
            before = file.tell()
            try:
                while line:
                    line = line[file.write(line) :]
            except OSError:
                file.truncate(before)
                raise

    def pending(self) -> list[dict[str, Any]]:
        """Return the whole lines that have not been shipped yet."""
        text = self.path.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [json.loads(line) for line in lines[self.shipped().n_lines :]]

    def inputs(self) -> str:
        """Return the digest of the stage's inputs that its run began with."""
        with open(self.path) as file:
            return str(json.loads(file.readline())["tags"]["genmodels.inputs"])

    def ended(self) -> bool:
        """Return whether the stage ended well."""
        lines = self.path.read_text().splitlines()
        last = json.loads(lines[-1]) if lines and lines[-1].endswith("}") else {}
        return last.get("kind") == "end" and last["status"] == "FINISHED"

    def shipped(self) -> "Shipped":
        """Return how far shipping has come."""
        path = self.path.with_suffix(".shipped")
        return Shipped(**json.loads(path.read_text())) if path.exists() else Shipped(None, 0)

    def note_shipped(self, shipped: "Shipped") -> None:
        """Record how far shipping has come."""
        path = self.path.with_suffix(".shipped")
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(shipped._asdict()))
        temporary.replace(path)


def spools_in(folder: Path) -> list[Spool]:
    """Return the spools of one execution, in the order of their stages' names."""
    return [Spool(path) for path in sorted(folder.glob("*.jsonl"))]


class Shipped(NamedTuple):
    """The MLflow run an event file became, and how many of its lines are there."""

    run_id: str | None
    n_lines: int
