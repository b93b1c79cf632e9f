"""Workers, nodes and drivers are lost in the middle of a run: the same bytes all the same."""

import contextlib
import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from nodes import TOKEN, Three, kill, three_nodes
from test_resumable import command, contents, write_glass

from genmodels.data.lattices import edwards_anderson
from genmodels.kernels.metropolis import Metropolis
from genmodels.models.ising import Ising
from genmodels.placement.choose import placement
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


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Iterator[Three]:
    """A cluster whose nodes are missed soon, and that this process may join."""
    with three_nodes(n_gpus=2) as cluster:
        for name in TOKEN:
            monkeypatch.setenv(name, cluster.environment[name])
        yield cluster


def await_nodes(n: int) -> None:
    import ray

    deadline = time.monotonic() + 120
    while len([each for each in ray.nodes() if each["Alive"]]) != n:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_node_is_removed(name: str, three: Three) -> None:
    expected = run(name, LocalPlacement())
    place = RayPlacement.connect(three.address)
    try:
        await_nodes(3)
        # From another thread: the run has to go on meanwhile.
        midway = Midway(lambda: threading.Thread(target=kill, args=(three.nodes[2],)).start())
        assert run(name, place, midway) == expected
        assert midway.done
        await_nodes(2)
    finally:
        place.close()


@pytest.mark.slow
def test_a_driver_on_a_cluster_is_killed_and_started_again(three: Three, tmp_path: Path) -> None:
    write_glass(tmp_path / "glass.coo")
    here = dict(os.environ) | {"GENMODELS_WORKERS": "0"}
    subprocess.run(command(tmp_path, "whole"), check=True, capture_output=True, env=here)
    there = three.environment | {"RAY_ADDRESS": three.address}
    again = command(tmp_path, "again", "--checkpoint", str(tmp_path / "kept"), "--checkpoint-every", "0.2")
    with subprocess.Popen(again, env=there, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 180
        while len(list(tmp_path.glob("kept/snapshot-*"))) < 2:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert not (tmp_path / "again").exists()
    done = subprocess.run(again, check=True, capture_output=True, text=True, env=there)
    assert done.stderr == ""
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def gpus(state: None) -> tuple[None, tuple[Any, str | None]]:
    """Return which GPUs Ray gives to a task."""
    import ray

    return state, (ray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES"))


@pytest.mark.slow
def test_tasks_have_the_gpus_that_are_asked_for(three: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", three.address)
    for share, visible in (("", 0), ("0.25", 1), ("2", 2)):
        monkeypatch.setenv("GENMODELS_GPUS", share)
        with placement() as place:
            assert place.gpus == float(share or 0)
            given, named = place.fetch(place.submit(gpus, place.put(None))[1])
            assert len(given) == visible
            assert len([number for number in (named or "").split(",") if number]) == visible
