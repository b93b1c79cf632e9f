"""A run that is killed and started again comes to the same bytes, and does nothing twice that was kept."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pytest
import torch

from genmodels.data.lattices import edwards_anderson
from genmodels.errors import InputError
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.kernels.heat_bath import HeatBath
from genmodels.kernels.lifted import Lifted
from genmodels.models.ising import Ising
from genmodels.placement.local import LocalPlacement
from genmodels.placement.resumable import Resumable
from genmodels.placement.store import Store
from genmodels.placement.trees import dumps, loads
from genmodels.samplers.jarzynski import Jarzynski
from genmodels.samplers.lowest import Lowest
from genmodels.samplers.population_annealing import PopulationAnnealing
from genmodels.samplers.replica_exchange import ReplicaExchange
from genmodels.samplers.simulated_annealing import SimulatedAnnealing
from genmodels.samplers.simulated_tempering import SimulatedTempering
from genmodels.streams import Key

KEY = Key(41, "resumable")
EXCHANGE = ReplicaExchange(4, 6, n_rounds=200, burn_in=64, ladders_per_shard=2)
SAMPLERS: dict[str, Any] = {
    "annealing": SimulatedAnnealing(64, 60, replicas_per_shard=16),
    "tempering": SimulatedTempering(16, 5, n_rounds=150, burn_in=64),
    "exchange": EXCHANGE,
    "split": ReplicaExchange(4, 6, n_rounds=30, burn_in=32, ladders_per_shard=2, rungs_per_shard=2),
    "population": PopulationAnnealing(4, 50, n_pilot=50),
    "spread": PopulationAnnealing(4, 48, n_pilot=50, walkers_per_shard=8),
    "jarzynski": Jarzynski(16, 60, exchange=ReplicaExchange(2, 4, n_rounds=10, burn_in=32)),
}


class Stopped(BaseException):
    """What ends a run in the middle: nothing catches it."""


def glass(side: int = 3) -> Ising:
    return Ising.of(edwards_anderson((side,) * 3, KEY))


def digest(result: Any) -> str:
    kept = dict(sorted(result.tensors().items())) | {"n": result.n_updates, "best": result.best_energy}
    return hashlib.sha256(dumps(kept)).hexdigest()


def until(n: int) -> Callable[..., None]:
    """Return a progress callback that ends the run at its n-th call."""
    left = iter(range(n))

    def progress(*_: Any, **__: Any) -> None:
        if next(left, None) is None:
            raise Stopped

    return progress


class Counted(LocalPlacement):
    """In this process, counting the tasks."""

    n_tasks = 0

    def submit(self, *arguments: Any) -> tuple[Any, Any]:
        self.n_tasks += 1
        return super().submit(*arguments)


@pytest.mark.parametrize("kernel", [HeatBath(), Lifted(), BlockGibbs()], ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_bytes_however_often_it_is_killed(name: str, kernel: Any, tmp_path: Path) -> None:
    model, sampler = glass(), SAMPLERS[name]
    whole = Counted()
    expected = digest(sampler.run(model, kernel, KEY, whole))
    place = Resumable(LocalPlacement(), str(tmp_path / "kept"), "a run", every=0.0)
    n_killed = 0
    for n in (1, 4, 9):
        place = Resumable(LocalPlacement(), str(tmp_path / "kept"), "a run", every=0.0)
        try:
            sampler.run(model, kernel, KEY, place, until(n))
        except Stopped:
            n_killed += 1
    assert n_killed > 0
    last = Counted()
    place = Resumable(last, str(tmp_path / "kept"), "a run", every=math.inf)
    assert digest(sampler.run(model, kernel, KEY, place)) == expected
    assert place.n_resumed > 0
    assert last.n_tasks < whole.n_tasks
    place.forget()
    place.close()
    assert not (tmp_path / "kept").exists()


def test_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    model = glass()
    place = Resumable(LocalPlacement(), str(tmp_path), "a run", every=math.inf)
    expected = digest(EXCHANGE.run(model, HeatBath(), KEY, place))
    assert not list(tmp_path.iterdir())
    place.close()
    again = Counted()
    assert digest(EXCHANGE.run(model, HeatBath(), KEY, Resumable(again, str(tmp_path), "a run"))) == expected
    assert again.n_tasks == 0


def test_a_run_that_was_stopped_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model, calls = glass(), iter(range(6))
    expected = digest(EXCHANGE.run(model, HeatBath(), KEY, LocalPlacement()))
    place = Resumable(LocalPlacement(), str(tmp_path), "a run", every=math.inf)
    part = EXCHANGE.run(model, HeatBath(), KEY, place, lambda *_, **__: next(calls, None) is None)
    place.close()
    assert part.n_updates > 0
    again = Resumable(LocalPlacement(), str(tmp_path), "a run")
    assert again.n_resumed > 0
    assert digest(EXCHANGE.run(model, HeatBath(), KEY, again)) == expected


def killed(folder: Path, n: int = 8) -> str:
    """Leave the checkpoint of a run that was killed; return the digest of a run that was not."""
    expected = digest(EXCHANGE.run(glass(), HeatBath(), KEY, LocalPlacement()))
    place = Resumable(LocalPlacement(), str(folder), "a run", 0.0)
    with pytest.raises(Stopped):
        EXCHANGE.run(glass(), HeatBath(), KEY, place, until(n))
    return expected


@pytest.mark.parametrize("kind", ["snapshot", "states", "results"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "removed"])
def test_of_a_damaged_checkpoint_the_one_before_counts(kind: str, harm: str, tmp_path: Path) -> None:
    expected = killed(tmp_path)
    whole = Resumable(LocalPlacement(), str(tmp_path), "a run").n_resumed
    last = max(tmp_path.glob(f"{kind}-*"))
    data = last.read_bytes()
    if harm == "removed":
        last.unlink()
    else:
        last.write_bytes(data[: len(data) // 2] + (b"" if harm == "cut" else bytes([data[len(data) // 2] ^ 1])
                         + data[len(data) // 2 + 1 :]))  # fmt: skip
    place = Resumable(LocalPlacement(), str(tmp_path), "a run")
    # The list has no digest of its own: what it names has.
    assert place.n_resumed < whole or (kind, harm) == ("snapshot", "flipped")
    assert digest(EXCHANGE.run(glass(), HeatBath(), KEY, place)) == expected
    place.save()
    assert Resumable(LocalPlacement(), str(tmp_path), "a run").n_resumed >= whole


def test_where_nothing_is_whole_it_starts_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = killed(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"\0" * 100)
    place = Resumable(LocalPlacement(), str(tmp_path), "a run")
    assert capsys.readouterr().err == f"genmodels: {tmp_path}: no checkpoint there is whole: starting anew\n"
    assert place.n_resumed == 0
    assert digest(EXCHANGE.run(glass(), HeatBath(), KEY, place)) == expected


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    killed(tmp_path)
    with pytest.raises(InputError, match=f"^{tmp_path}: there is the checkpoint of another run .*$"):
        Resumable(LocalPlacement(), str(tmp_path), "another run")


@pytest.mark.parametrize("location", ["nonsense://there", "/proc/there"])
def test_a_place_where_none_can_be_is_named(location: str) -> None:
    with pytest.raises(InputError, match=f"^{location}: no folder for checkpoints can be there .*$"):
        Resumable(LocalPlacement(), location, "a run")


def test_anywhere_that_fsspec_reaches() -> None:
    expected = digest(EXCHANGE.run(glass(), HeatBath(), KEY, LocalPlacement()))
    location = "memory://checkpoints/one"
    with pytest.raises(Stopped):
        EXCHANGE.run(glass(), HeatBath(), KEY, Resumable(LocalPlacement(), location, "a run", 0.0), until(8))
    place = Resumable(LocalPlacement(), location, "a run")
    assert place.n_resumed > 0
    assert digest(EXCHANGE.run(glass(), HeatBath(), KEY, place)) == expected
    place.forget()
    assert not fsspec.filesystem("memory").exists("/checkpoints/one")


def test_two_snapshots_are_kept_and_all_results(tmp_path: Path) -> None:
    killed(tmp_path)
    numbers = sorted(int(path.stem.rsplit("-", 1)[1]) for path in tmp_path.glob("snapshot-*"))
    assert len(numbers) == 2
    assert len(list(tmp_path.glob("states-*"))) == 2
    assert len(list(tmp_path.glob("results-*"))) == numbers[-1]
    assert not list(tmp_path.glob("*.new"))
    assert Store(str(tmp_path)).newest() == numbers[-1]


# --- what a checkpoint is made of ---


def test_a_tree_comes_back_as_it_was() -> None:
    words = np.arange(6, dtype=np.uint64).reshape(2, 3) << np.uint64(60)
    words.flags.writeable = False
    one = torch.arange(4.0)
    tree = [
        Lowest(-0.1, one), Lowest(math.nan, one[1:3]), (None, True, "ß"), {"a": words, "b": [1, math.inf]},
        HeatBath, torch.ones(2, 3, dtype=torch.float64).T, torch.tensor(3),
    ]  # fmt: skip
    back = loads(dumps(tree))
    assert dumps(back) == dumps(tree)
    assert isinstance(back[0], Lowest)
    assert math.isnan(back[1].energy)
    assert torch.equal(back[1].x, one[1:3])
    assert back[2] == (None, True, "ß")
    assert (back[3]["a"] == words).all()
    assert back[3]["a"].dtype == np.uint64
    assert back[4] is HeatBath
    assert (back[5].shape, back[5].dtype) == ((3, 2), torch.float64)


class Foreign(NamedTuple):
    x: int


FOREIGN: list[Any] = [object(), {1, 2}, Foreign(1), os, print, b"bytes"]


@pytest.mark.parametrize("tree", FOREIGN, ids=lambda tree: type(tree).__name__)
def test_what_cannot_be_kept_is_refused(tree: Any) -> None:
    with pytest.raises(TypeError, match="cannot be kept in a checkpoint"):
        dumps(tree)


@pytest.mark.parametrize(
    "name",
    ["os:system", "builtins:eval", "genmodels.placement.store:fsspec", "genmodels.placement.store:json.loads",
     "genmodels.placement.trees:dumps", "genmodels.errors:InputError", "genmodels..lowest:Lowest",
     "genmodels.placement.local:LocalPlacement", "genmodels.samplers.lowest:Lowest.__class__",
     "genmodelsX:y"],
)  # fmt: skip
def test_no_name_in_a_checkpoint_leads_beyond_the_named_tuples_of_the_package(name: str) -> None:
    head = json.dumps({"kind": name, "of": ["true"]}).encode()
    tail = dumps(None)[8 + len(b"null") :]
    with pytest.raises((ValueError, ImportError)):
        loads(len(head).to_bytes(8, "little") + head + tail)


# --- the command ---


def command(folder: Path, out: str, *more: str) -> list[str]:
    sizes = ("--seed", "5", "--beta-max", "1", "--replicas", "64", "--sweeps", "3000")
    return [sys.executable, "-m", "genmodels.cli", "anneal", str(folder / "glass.coo"),
            "--method", "exchange", *sizes, "--out", str(folder / out), *more]  # fmt: skip


def write_glass(path: Path) -> None:
    couplings = edwards_anderson((8, 8, 8), KEY)
    edges = zip(couplings.i.tolist(), couplings.j.tolist(), couplings.J.tolist(), strict=True)
    path.write_text("".join(f"{i} {j} {J}\n" for i, j, J in edges))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("workers", ["2", pytest.param("0", marks=pytest.mark.slow)])
def test_a_killed_command_goes_on_to_the_same_files(workers: str, tmp_path: Path) -> None:
    write_glass(tmp_path / "glass.coo")
    subprocess.run(command(tmp_path, "whole"), check=True, capture_output=True)
    kept = ("--checkpoint", str(tmp_path / "kept"), "--checkpoint-every", "0.2", "--workers", workers)
    with subprocess.Popen(command(tmp_path, "again", *kept), stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("kept/snapshot-*"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "again").exists()
    subprocess.run(command(tmp_path, "again", *kept), check=True, capture_output=True)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert not (tmp_path / "kept").exists()


def test_a_checkpoint_needs_a_seed_and_the_same_settings(tmp_path: Path) -> None:
    write_glass(tmp_path / "glass.coo")
    start = [sys.executable, "-m", "genmodels.cli", "anneal", str(tmp_path / "glass.coo"), "--method"]
    kept = ("--checkpoint", str(tmp_path / "kept"))
    done = subprocess.run([*start, "annealing", *kept], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--checkpoint needs --seed" in done.stderr
    limit = ("--seed", "1", "--time-limit", "0.05")
    subprocess.run([*start, "exchange", *kept, *limit], check=True, capture_output=True)
    done = subprocess.run([*start, "population", *kept, *limit], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the checkpoint of another run" in done.stderr
