"""Which DAG execution a stage belongs to, where its scratch is, and dying together with it."""

import ctypes
import fcntl
import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from genmodels.errors import InputError

_PR_SET_PDEATHSIG = 1
_SHELLS = ("sh", "bash", "dash", "zsh", "fish", "ksh")


class Execution(NamedTuple):
    """One run of a pipeline by `dvc`, named by the process: (pid, `start_of`) is unique on a host."""

    pid: int
    started: float  # as `start_of` has it
    pipeline: str = "main"  # one `dvc` may run several

    @property
    def key(self) -> str:
        """Return a name for files and tags; experiments that share a queue worker differ in theirs."""
        pipeline = "" if self.pipeline == "main" else self.pipeline
        parts = (pipeline, str(self.pid), str(int(self.started * 1000)), os.environ.get("DVC_EXP_NAME", ""))
        return "-".join(part for part in parts if part)

    @property
    def alive(self) -> bool:
        """Return whether that very process still runs."""
        return is_running(self.pid, self.started)


def start_of(process: psutil.Process) -> float:
    """Return when a process started: on Linux in seconds since the machine did, which no set clock changes.

    Raises:
        NoSuchProcess: it has ended.
    """
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return process.create_time()  # elsewhere, the only one there is
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def is_running(pid: int, started: float) -> bool:
    """Return whether the process `pid` whose `start_of` is `started` still runs on this host."""
    try:
        process = psutil.Process(pid)
        return abs(start_of(process) - started) < 0.1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def host() -> str:
    """Return the name of this host."""
    return socket.gethostname()


def current(pipeline: str = "main") -> Execution:
    """Return that of the nearest ancestor that is a `dvc` process, or of this process where there is none.

    Raises:
        InputError: `dvc` started this process, and has ended since.
    """
    process = psutil.Process()
    for ancestor in process.parents():
        if _is_dvc(ancestor):
            return Execution(ancestor.pid, start_of(ancestor), pipeline)
    stage = os.environ.get("DVC_STAGE")
    if stage and not _has_starter(process):
        raise InputError(f"{stage}: the dvc that started it has ended: start that again")
    return Execution(process.pid, start_of(process), pipeline)


def _is_dvc(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()[:4]
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return False
    return any(Path(word).name == "dvc" for word in words)


def _has_starter(process: psutil.Process) -> bool:
    """Return whether the Python program that started a process, itself or by a shell, still runs."""
    for ancestor in process.parents():
        try:
            program = Path(ancestor.exe()).name
        except psutil.Error:  # another user's, such as init
            return False
        if program not in _SHELLS:
            return program.startswith("python")
    return False


def die_with_parent(execution: Execution) -> None:
    """End this process when `execution` ends, so that a killed `dvc` leaves no second writer behind.

    The kernel's parent-death signal tells of the shell in between; a thread watches `dvc` itself.
    """
    if hasattr(ctypes, "CDLL") and os.uname().sysname == "Linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if execution.pid != os.getpid():
        threading.Thread(target=_watch, args=(execution,), daemon=True).start()


def _watch(execution: Execution) -> None:
    while execution.alive:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def digest(paths: list[Path], settings: str) -> str:
    """Return a SHA-256 over `settings` and the names and bytes of all files in and under `paths`."""
    total = hashlib.sha256(settings.encode())
    for path in sorted(paths):
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(f"\0{file}\0".encode())
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel releases it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
