"""`genmodels anneal`: ground states, log Z, what is printed and written, limits of time, and errors."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from genmodels import cli
from genmodels.anneal.answer import exact_energy, shortest
from genmodels.anneal.run import Request, execute
from genmodels.anneal.stop import Stop
from genmodels.couplings import Couplings
from genmodels.data import lattices
from genmodels.data.coo import write_coo
from genmodels.data.coupling_files import cut, read
from genmodels.data.rudy import write_rudy
from genmodels.streams import Key

ROOT = Path(os.environ.get("GENMODELS_DATA") or "data") / "couplings"
needs_instances = pytest.mark.skipif(not ROOT.is_dir(), reason="no couplings/ under GENMODELS_DATA")
METHODS = ("annealing", "tempering", "exchange", "population", "jarzynski")
SWEEPS = {"annealing": 1, "tempering": 300, "exchange": 200, "population": 5, "jarzynski": 1}
KEYS = {
    "method", "seed", "n_spins", "convention", "best_energy", "best_state", "log_z", "diagnostics",
    "n_updates", "seconds",
}  # fmt: skip
BETA = 0.7
Run = Callable[..., tuple[int, str, str]]


def lopsided(n: int = 8) -> Couplings:
    rng = Key(11, "lopsided").numpy()
    i = np.arange(n)
    pairs = np.sort(np.concatenate([np.stack([i, (i + 1) % n], 1), np.stack([i[:3], i[:3] + 4], 1)]), axis=1)
    J, h = rng.standard_normal(len(pairs)), 0.4 * rng.standard_normal(n) + 0.2
    return Couplings(n, pairs[:, 0], pairs[:, 1], J, h)


def every_energy(couplings: Couplings) -> np.ndarray:
    states = np.array(np.meshgrid(*[[-1, 1]] * couplings.n_sites, indexing="ij"))
    return couplings.energy(states.reshape(couplings.n_sites, -1).T)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_coo(tmp_path / "lopsided.coo", lopsided())
    return tmp_path / "lopsided.coo"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs the command in this process: exit status, stdout, stderr."""

    def called(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["genmodels", "anneal", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return called


def small(method: str) -> tuple[Any, ...]:
    fixed = ("--method", method, "--seed", 5, "--beta-max", BETA, "--replicas", 256)
    return (*fixed, "--sweeps", SWEEPS[method])


def without_compilation(err: str) -> str:
    """Return stderr without the line that a first call on a machine writes."""
    return "".join(line for line in err.splitlines(True) if not line.startswith("genmodels: compiling"))


@pytest.mark.parametrize("method", METHODS)
def test_one_json_object_with_the_exact_answer(run: Run, file: Path, method: str) -> None:
    status, out, err = run(file, *small(method), "--json")
    assert (status, without_compilation(err)) == (0, "")
    answer = json.loads(out)
    assert set(answer) == KEYS
    couplings = read(file).couplings
    energies = every_energy(couplings)
    assert (answer["method"], answer["seed"], answer["n_spins"]) == (method, 5, 8)
    assert answer["convention"] == "E = −Σ_{i<j} J_ij x_i x_j − Σ_i h_i x_i"
    state = np.array(answer["best_state"])
    assert set(state.tolist()) <= {-1, 1}
    assert answer["best_energy"] == pytest.approx(couplings.energy(state[None]).item(), abs=1e-12)
    assert answer["best_energy"] == pytest.approx(energies.min(), abs=1e-12)
    assert answer["n_updates"] > 0
    assert answer["seconds"] > 0
    if method == "annealing":
        assert answer["log_z"] is None
        return
    curve = answer["log_z"]
    assert all(set(point) == {"beta", "value", "stderr", "kind", "method"} for point in curve)
    betas = [point["beta"] for point in curve]
    assert betas == sorted(set(betas))
    assert (betas[0], betas[-1]) == (0, BETA)
    last = curve[-1]
    log_z, wrong = (np.logaddexp.reduce(-beta * energies) for beta in (BETA, 1.2 * BETA))
    assert last["kind"] == "estimate"
    assert abs(last["value"] - log_z) < 4 * last["stderr"]
    assert abs(last["value"] - wrong) > 4 * last["stderr"]
    assert curve[0]["value"] == pytest.approx(8 * math.log(2))


def test_the_cut_of_a_max_cut_file(run: Run, tmp_path: Path) -> None:
    glass = lattices.edwards_anderson((3, 4), Key(2, "instance"))
    write_rudy(tmp_path / "glass.rud", glass)
    _, out, _ = run(tmp_path / "glass.rud", *small("annealing"), "--json")
    answer = json.loads(out)
    assert set(answer) == KEYS | {"cut"}
    assert "J_ij = −w_ij" in answer["convention"]
    state = np.array(answer["best_state"])
    assert answer["cut"] == cut(glass, state)
    assert answer["cut"] == 0.5 * (-glass.J.sum() - answer["best_energy"])
    assert answer["best_energy"] == every_energy(glass).min()


def test_energies_of_large_integers_are_exact() -> None:
    # A sum of floats in this order loses the 1: it is below the spacing of numbers near 2^53.
    J = np.array([2.0**53, 1.0, -(2.0**53)])
    couplings = Couplings(4, np.array([0, 1, 2]), np.array([1, 2, 3]), J, np.zeros(4))
    assert exact_energy(couplings, np.ones(4, dtype=np.int8)) == -1.0
    assert couplings.energy(np.ones((1, 4))).item() != -1.0


def test_betas_are_the_shortest_that_mean_the_same() -> None:
    assert shortest(float(np.float32(0.7))) == 0.7
    assert float(np.float32(0.7)) != 0.7


@pytest.mark.parametrize("method", METHODS)
def test_the_folder(run: Run, file: Path, tmp_path: Path, method: str) -> None:
    written = []
    for name in ("one", "two"):
        status, out, _ = run(file, *small(method), "--out", tmp_path / name)
        assert status == 0
        assert "lowest energy" in out
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    files = written[0]
    assert files == written[1]  # not a time in them
    expected = {"answer.json", "diagnostics.json", "states.safetensors", "energies.csv", "energy.png"}
    expected |= set() if method == "annealing" else {"log_z.csv", "log_z.png"}
    expected |= {"swap_rates.png", "replica_flow.png"} if method == "exchange" else set()
    assert set(files) == expected | ({"family_entropy.png"} if method == "population" else set())
    answer = json.loads(files["answer.json"])
    assert set(answer) == KEYS - {"seconds"}
    assert answer["best_state"] == load_file(tmp_path / "one/states.safetensors")["best_x"].tolist()
    if method == "annealing":
        return
    rows = list(csv.DictReader(files["log_z.csv"].decode().splitlines()))
    for row, point in zip(rows, answer["log_z"], strict=True):
        assert [float(row["beta"]), float(row["log_z"])] == [point["beta"], point["value"]]
    energies = every_energy(lopsided())
    weight = np.exp(-BETA * energies)
    mean = energies @ weight / weight.sum()
    heat = BETA**2 * ((energies - mean) ** 2 @ weight / weight.sum())
    last = list(csv.DictReader(files["energies.csv"].decode().splitlines()))[-1]
    assert abs(float(last["energy"]) - mean) < 4 * float(last["energy_stderr"])
    if method == "exchange":
        assert abs(float(last["specific_heat"]) - heat) < 4 * float(last["specific_heat_stderr"])
        assert abs(float(last["specific_heat"]) / BETA - heat) > 4 * float(last["specific_heat_stderr"])


def test_labels_of_a_models_variables_are_kept(run: Run, tmp_path: Path) -> None:
    entries = {
        "variable_type": "BINARY", "offset": 2.5, "linear_biases": [1, -2], "quadratic_biases": [-3],
        "quadratic_head": [0], "quadratic_tail": [1], "variable_labels": ["a", ["x", 2]],
    }  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(entries))
    status, out, _ = run(tmp_path / "m.json", *small("annealing"), "--json", "--out", tmp_path / "out")
    answer = json.loads(out)
    assert status == 0
    assert (answer["best_energy"], answer["best_state"]) == (1 - 2 - 3 + 2.5, [1, 1])
    assert answer["convention"].endswith(f" + {2.5 + (1 - 2) / 2 - 3 / 4}")
    assert json.loads((tmp_path / "out/answer.json").read_text())["labels"] == ["a", ["x", 2]]


def test_a_folder_with_other_things_is_left_alone(run: Run, file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    status, out, err = run(file, *small("annealing"), "--out", tmp_path / "mine")
    assert (status, out) == (2, "")
    assert "thesis.tex" in err
    assert (tmp_path / "mine/thesis.tex").read_text() == "years of work"
    status, _, err = run(file, *small("annealing"), "--out", Path.cwd())
    assert status == 2


def test_an_earlier_answer_is_replaced(run: Run, file: Path, tmp_path: Path) -> None:
    for method in ("exchange", "annealing"):
        assert run(file, *small(method), "--out", tmp_path / "out")[0] == 0
    assert not (tmp_path / "out/log_z.csv").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_without_a_folder_nothing_is_written(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(file, *small("exchange"))[0] == 0
    assert list((tmp_path / "here").iterdir()) == []


def test_without_a_seed_a_new_one_is_told(run: Run, file: Path) -> None:
    def seed() -> int:
        return json.loads(run(file, "--method", "annealing", "--replicas", 4, "--json")[1])["seed"]

    first = seed()
    assert first != seed()
    again = [run(file, "--method", "annealing", "--replicas", 4, "--seed", first)[1] for _ in range(1)][0]
    assert f"seed {first}" in again


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=[pytest.mark.slow] if name == "tempering" else []) for name in METHODS],
)
def test_the_time_limit_gives_the_best_so_far(run: Run, tmp_path: Path, method: str) -> None:
    write_rudy(tmp_path / "glass.rud", lattices.edwards_anderson((6, 6, 6), Key(2, "instance")))
    sweeps = 10**6 if method in ("exchange", "tempering") else 1000
    arguments = (tmp_path / "glass.rud", "--method", method, "--seed", 1, "--sweeps", sweeps)
    started = time.monotonic()
    status, out, err = run(*arguments, "--time-limit", 1.0, "--json", "--out", tmp_path / "out")
    assert (status, without_compilation(err)) == (0, "")
    assert time.monotonic() - started < 60
    answer = json.loads(out)
    assert answer["diagnostics"]["stopped"] == "time limit"
    assert answer["best_energy"] < 0
    couplings = read(tmp_path / "glass.rud").couplings
    assert answer["best_energy"] == exact_energy(couplings, np.array(answer["best_state"]))
    assert (tmp_path / "out/energies.csv").exists()


def test_when_to_stop() -> None:
    told: list[tuple[Any, ...]] = []
    stop = Stop(1e-9, lambda *figures, **more: told.append((*figures, more)))
    assert not stop(10, 10)  # all is done: nothing is cut short
    assert stop.reason == ""
    assert stop(5, 10, best_energy=-3.0)
    assert (stop.reason, told[-1]) == ("time limit", (5, 10, 0.0, {"best_energy": -3.0}))
    assert not Stop(1000.0)(5, 10)
    stop = Stop()
    with stop.on_interrupt():
        signal.raise_signal(signal.SIGINT)
        assert stop(5, 10)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.reason == "interrupted"


def test_ctrl_c_gives_the_best_so_far(tmp_path: Path) -> None:
    write_rudy(tmp_path / "glass.rud", lattices.edwards_anderson((6, 6, 6), Key(2, "instance")))
    command = [sys.executable, "-m", "genmodels.cli", "anneal", str(tmp_path / "glass.rud"), "--json",
               "--method", "exchange", "--sweeps", "1000000", "--replicas", "64", "--seed", "1",
               "--out", str(tmp_path / "out")]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob(".out-*")):
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(5.0)  # some rounds
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    answer = json.loads(out)
    assert answer["diagnostics"]["stopped"] == "interrupted"
    assert answer["best_energy"] < 0
    assert (tmp_path / "out/answer.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--method", "magic"), "magic"),
        ((), "--method"),
        (("--method", "exchange", "--beta-max", "0"), "--beta-max is 0.0"),
        (("--method", "exchange", "--beta-max", "nan"), "--beta-max"),
        (("--method", "exchange", "--beta-max", "1e300"), "--beta-max"),
        (("--method", "exchange", "--beta-max", "hot"), "--beta-max"),
        (("--method", "exchange", "--replicas", "0"), "--replicas"),
        (("--method", "exchange", "--sweeps", "0"), "--sweeps"),
        (("--method", "exchange", "--sweeps", "1.5"), "--sweeps"),
        (("--method", "exchange", "--seed", "-1"), "--seed"),
        (("--method", "exchange", "--time-limit", "0"), "--time-limit"),
        (("--method", "exchange", "--format", "csv"), "csv"),
        (("--method", "exchange", "--format", "rudy"), "lopsided.coo, line"),
        (("--method", "exchange", "--workers", "-1"), "--workers"),
        (("--method", "exchange", "--anneal-harder"), "--anneal-harder"),
    ],
)
def test_wrong_arguments_end_in_one_line(run: Run, file: Path, arguments: tuple[str, ...], says: str) -> None:
    status, out, err = run(file, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("genmodels: error: ")
    assert says in err
    assert err.count("\n") == 1


def test_wrong_files_end_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "flat.coo").write_text("0 1 0\n")
    (tmp_path / "noise.rud").write_bytes(os.urandom(10000))
    for name, says in (("absent.rud", "no such file"), ("flat.coo", "are 0"), ("noise.rud", "line 1")):
        status, out, err = run(tmp_path / name, "--method", "exchange", "--out", tmp_path / "out")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert says in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "shard"),
    [("annealing", None), ("exchange", None), ("exchange", 5), ("population", None), ("population", 6)],
)
def test_the_files_do_not_depend_on_the_workers(tmp_path: Path, method: str, shard: int | None) -> None:
    write_rudy(tmp_path / "glass.rud", lattices.edwards_anderson((4, 4, 4), Key(2, "instance")))
    request = Request(tmp_path / "glass.rud", method, seed=3, replicas=256, sweeps=20, shard=shard)
    written = []
    for workers in (0, 1, 2, 4):
        out = tmp_path / f"out-{workers}"
        execute(request._replace(workers=workers, out=out), show_progress=False)
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert len(written[0]) > 3
    assert all(files == written[0] for files in written)
    other = tmp_path / "other"
    execute(request._replace(seed=4, out=other), show_progress=False)
    assert {path.name: path.read_bytes() for path in other.iterdir()} != written[0]


@needs_instances
def test_the_best_known_cut_of_toruspm3_8_50(run: Run) -> None:
    for method in ("annealing", "exchange"):
        _, out, _ = run(ROOT / "toruspm3-8-50.rud", "--method", method, "--seed", 1, "--json")
        assert json.loads(out)["cut"] == 458


@needs_instances
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "best"),
    [("G11.txt", 564), ("G1.txt", 11624), ("t2g10_5555.rud", 6049461), ("t3g5_5555.rud", 10933215)],
)
def test_best_known_cuts(run: Run, name: str, best: int) -> None:
    _, out, _ = run(ROOT / name, "--method", "exchange", "--seed", 1, "--json")
    assert json.loads(out)["cut"] == best
