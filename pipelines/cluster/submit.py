"""Run a command in a Ray cluster as if it had run here: `python -m pipelines.cluster.submit -- COMMAND`.

The checkout and the files that the command names go to the cluster through Ray's job API. The log is shown as
it grows, and what the command wrote comes back into this checkout, with the MLflow runs.
"""

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from genmodels import runs
from genmodels.artifacts import read_json, write_json
from genmodels.errors import InputError
from pipelines.cluster import history, parcel
from pipelines.cluster.dashboard import Dashboard
from pipelines.cluster.log import Log
from pipelines.stage import one_line_errors

COSTS = "out/costs.json"
ADDRESS = "http://127.0.0.1:8265"
_QUIET = {
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PYTHONUNBUFFERED": "1",
}


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.cluster.submit")
    parser.add_argument(
        "--address",
        default=os.environ.get("RAY_API_SERVER_ADDRESS", ADDRESS),
        help=f"of Ray's dashboard; if not given, $RAY_API_SERVER_ADDRESS or {ADDRESS}",
    )
    parser.add_argument("--certificates", metavar="FILE", help="that an https:// address is checked against")
    parser.add_argument(
        "--bring", action="append", default=[], metavar="PATH", help="to bring back besides out/ and --out"
    )
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="a variable that the job is to have too"
    )
    parser.add_argument("command", nargs="+", help="such as -- genmodels anneal FILE --out DIR")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Submit, follow, bring back; return the job's exit status.

    Raises:
        InputError: no cluster, a command whose files cannot travel, or results that did not arrive.
    """
    given = arguments(words)
    root = Path.cwd()
    if not (root / "pipelines/cluster/job.py").exists():
        raise InputError(f"{root}: no checkout of genmodels; change to the folder that has its dvc.yaml")
    patterns = parcel.wanted(root, given.command, given.bring)
    command, files = parcel.inputs(root, given.command)
    environment = _QUIET | _environment(given.env)
    dashboard = Dashboard(given.address, given.certificates)
    mark = f"results-{secrets.token_hex(8)}"
    bring = [word for pattern in patterns for word in ("--bring", pattern)]
    wrapped = ["python", "-m", "pipelines.cluster.job", "--mark", mark, *bring, "--", *command]
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "checkout.zip"
        parcel.zipped(root, files, package, mark)
        job = dashboard.submit(package, wrapped, environment)
        log = Log(mark, Path(folder) / "results.tar.gz", sys.stdout)
        try:
            details = dashboard.follow(job, log)
        except KeyboardInterrupt:
            how = "has ended" if dashboard.stop(job) else "was told to end"
            print(f"genmodels: stopped: {job} {how}; nothing was brought back", file=sys.stderr)
            return 130
        return _finish(root, job, log, details, patterns)


def _environment(names: list[str]) -> dict[str, str]:
    """Return the variables that a job is to have: those named, and the address of an MLflow server."""
    if missing := [name for name in names if name not in os.environ]:
        raise InputError(f"--env {missing[0]}: not set here; export it first")
    server = runs.server() or ""
    remote = {"MLFLOW_TRACKING_URI": server} if server.startswith(("http://", "https://")) else {}
    return remote | {name: os.environ[name] for name in names}


def _finish(root: Path, job: str, log: Log, details: Any, patterns: list[str]) -> int:
    """Take what has come, say where it is, and return the exit status of the job."""
    if log.whole:
        names, n_runs = _take(root, job, log.parcel, patterns)
        runs_too = f" and {n_runs} MLflow runs" if n_runs else ""
        print(f"genmodels: {job}: brought back {len(names)} files{runs_too}", file=sys.stderr)
        return int(details.driver_exit_code or 0)
    if details.status == "STOPPED":
        raise InputError(f"{job} was stopped; nothing was brought back")
    reason = (details.message or "its results are missing").strip().split("\n")[0]
    raise InputError(f"{job} did not run to its end: {reason}")


def _take(root: Path, job: str, packed: Path, patterns: list[str]) -> tuple[list[str], int]:
    """Check all that has come, then move it into place; return the files and how many runs there were."""
    scratch = root / ".scratch" / "cluster"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        taken, tracked = Path(folder) / "files", Path(folder) / "runs"
        taken.mkdir()
        names = parcel.unpack(packed, patterns, taken, root)
        if (taken / parcel.RUNS).exists():
            (taken / parcel.RUNS).rename(tracked)
            shutil.rmtree(taken / parcel.RUNS.split("/")[0])
        _join(taken / COSTS, root / COSTS)
        parcel.settle(taken, root)
        n_runs = history.adopt(tracked, job, _commit(root)) if tracked.exists() else 0
    results = [name for name in names if not name.startswith(f"{parcel.RUNS}/")]
    _check_out(root, set(results))
    return [name for name in results if not name.startswith(".dvc/")], n_runs


def _join(new: Path, old: Path) -> None:
    """Add to what stages took in the cluster what others have taken here."""
    if new.exists() and old.exists():
        write_json(new, read_json(old) | read_json(new))


def _commit(root: Path) -> str:
    """Return the commit that is checked out, or "" where there is no git."""
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _check_out(root: Path, names: set[str]) -> None:
    """Have DVC remove from folders that came back whole what an earlier run had left in them."""
    for lock in sorted(name for name in names if Path(name).name == "dvc.lock"):
        stages = yaml.safe_load((root / lock).read_text())["stages"].values()
        outs = [out for stage in stages for out in stage.get("outs", []) if "md5" in out]
        cached = {out["path"]: f".dvc/cache/files/md5/{out['md5'][:2]}/{out['md5'][2:]}" for out in outs}
        folders = [path for path, cache in cached.items() if cache.endswith(".dir") and cache in names]
        if folders:
            command = [sys.executable, "-m", "dvc", "checkout", "--quiet", "--force", "--", *folders]
            subprocess.run(command, check=False)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
