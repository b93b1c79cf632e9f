"""The part of a submission that runs in the cluster: the command, then its results into the job's log."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pipelines import tracking
from pipelines.cluster import history, parcel


def arguments() -> argparse.Namespace:
    """Return the parsed command line, which `submit` has written."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.cluster.job")
    parser.add_argument("--mark", required=True, help="what lines with results begin with")
    parser.add_argument("--bring", action="append", default=[], help="pattern of files to send back")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def without_git() -> None:
    """Tell DVC that this folder has no git: Ray sends none."""
    config = Path(".dvc/config.local")
    config.parent.mkdir(exist_ok=True)
    config.write_text("[core]\n    no_scm = true\n")


def ship() -> None:
    """Bring to MLflow what stages have left for a later one: here none will come."""
    try:
        if tracking.left_behind():
            tracking.replay(tracking.connect())
    except Exception as error:  # the outer edge of tracking: the results are worth more
        print(f"genmodels: tracking: {str(error).splitlines()[:1]}", file=sys.stderr)


def main() -> int:
    """Run the command, send back what it wrote, and return its exit status."""
    given = arguments()
    without_git()
    before = parcel.state(given.bring)
    # The programs beside this Python, whatever the node's shell would find.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(given.command, env=os.environ | {"PATH": path}, check=False)
    changed = [name for name, found in parcel.state(given.bring).items() if before.get(name) != found]
    ship()
    if Path("mlflow.db").exists():
        changed += history.export(Path(parcel.RUNS))
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "results.tar.gz"
        parcel.pack(changed, packed)
        sys.stdout.flush()
        print(flush=True)  # a command that ended without a newline must not hide the first line
        for line in parcel.lines(packed, given.mark):
            sys.stdout.write(line)
        sys.stdout.flush()
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


if __name__ == "__main__":
    sys.exit(main())
