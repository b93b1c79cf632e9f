"""Workers, nodes and drivers are lost in the middle of a run: the same bytes all the same."""

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from genmodels.data.lattices import edwards_anderson
from genmodels.kernels.metropolis import Metropolis
from genmodels.models.ising import Ising
from genmodels.placement.local import LocalPlacement
from genmodels.placement.ray import RayPlacement
from genmodels.placement.trees import dumps
from genmodels.protocols import Placement
from genmodels.samplers.population_annealing import PopulationAnnealing
from genmodels.samplers.replica_exchange import ReplicaExchange
from genmodels.streams import Key

KEY = Key(43, "failures")
SAMPLERS: dict[str, Any] = {
    "exchange": ReplicaExchange(8, 16, n_rounds=600, burn_in=200, ladders_per_shard=2),
    "population": PopulationAnnealing(6, 1500, n_sweeps=20),
}


def run(name: str, place: Placement, progress: Any = None) -> str:
    """Return the digest of a run's result."""
    model = Ising.of(edwards_anderson((6, 6, 6), KEY, gaussian=True))
    result = SAMPLERS[name].run(model, Metropolis("random"), KEY, place, progress)
    return hashlib.sha256(dumps(dict(sorted(result.tensors().items())))).hexdigest()


class Midway:
    """A progress callback that does something once, when a share of the work is done."""

    def __init__(self, do: Callable[[], None], share: float = 0.4) -> None:
        self.do, self.share, self.done = do, share, False

    def __call__(self, done: int, total: int, **_: Any) -> None:
        if not self.done and total and done >= self.share * total:
            self.done = True
            self.do()


def workers() -> list[psutil.Process]:
    """Return this process's Ray workers that run a task."""
    mine = psutil.Process().children(recursive=True)
    found = []
    for process in mine:
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] == ["ray::_run"]:
                found.append(process)
    return found


def kill_one() -> None:
    deadline = time.monotonic() + 30
    while not (found := workers()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    found[0].send_signal(signal.SIGKILL)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_worker_is_killed(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    expected = run(name, LocalPlacement())
    capfd.readouterr()
    place = RayPlacement.local(2)
    try:
        midway = Midway(kill_one)
        assert run(name, place, midway) == expected
        assert midway.done
        assert place.n_failures >= 1
    finally:
        place.close()
    assert capfd.readouterr() == ("", "")


class Node:
    """A Ray node of its own on this machine, started and killed without mercy."""

    def __init__(self, *arguments: str, environment: dict[str, str]) -> None:
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus=1",
                   "--object-store-memory=100000000", *arguments]  # fmt: skip
        nothing: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **nothing)

    def kill(self) -> None:
        with contextlib.suppress(psutil.Error):
            for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    process.kill()
        self.process.wait()


def await_port(port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[Node]]]:
    """The address of a cluster of three nodes, and the nodes, the head first."""
    quick = {"RAY_health_check_initial_delay_ms": "500", "RAY_health_check_period_ms": "500",
             "RAY_health_check_timeout_ms": "1000", "RAY_health_check_failure_threshold": "3"}  # fmt: skip
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    root = str(Path(__file__).resolve().parents[1])
    paths = {"PYTHONPATH": f"{root}:{root}/tests", "OMP_NUM_THREADS": "1"}
    environment = dict(os.environ) | quick | own | paths
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="gm-", ignore_cleanup_errors=True) as folder:
        port = 20000 + os.getpid() % 10000
        address = f"127.0.0.1:{port}"
        head = ("--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false",
                f"--temp-dir={folder}")  # fmt: skip
        nodes = [Node(*head, environment=environment)]
        await_port(port)
        more = (f"--address={address}", "--node-ip-address=127.0.0.1")
        nodes += [Node(*more, environment=environment) for _ in "ab"]
        try:
            yield address, nodes
        finally:
            for node in reversed(nodes):
                node.kill()


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_node_is_removed(name: str, three: tuple[str, list[Node]]) -> None:
    import ray

    expected = run(name, LocalPlacement())
    address, nodes = three
    place = RayPlacement.connect(address)
    try:
        deadline = time.monotonic() + 120
        while len([node for node in ray.nodes() if node["Alive"]]) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        # From another thread: the run has to go on meanwhile.
        midway = Midway(lambda: threading.Thread(target=nodes[2].kill).start())
        assert run(name, place, midway) == expected
        assert midway.done
        deadline = time.monotonic() + 60
        while len([node for node in ray.nodes() if node["Alive"]]) != 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        place.close()
