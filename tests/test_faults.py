"""Killed, full, damaged, unreachable, set back: whatever goes wrong around a stage, nothing is lost."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT, Checkout, may_unshare
from PIL import Image
from test_gradient import Line, points
from test_tracking import children, connected, gone, parents, pictures, runs, stage

from genmodels import runs as where
from genmodels.data import images
from genmodels.data.prepare import prepare_dataset
from genmodels.errors import InputError
from genmodels.learners.fit import Whole
from genmodels.learners.gradient import Gradient
from genmodels.streams import Key
from pipelines import execution, spool, tracking
from pipelines.execution import Execution
from pipelines.stage import Stage
from pipelines.training import Every, train

KEY = Key(53, "faults")
N_STEPS = 12


@pytest.fixture(scope="module")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without a run: to migrate one takes seconds."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    tracking._set_up(path)
    return path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_database: Path) -> Path:
    """A folder with a database, in which tracking is at home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(new_database, tmp_path / "mlflow.db")
    return tmp_path


def training(run: tracking.Run) -> None:
    """Note what a training would, for long enough that it is shipped in several parts."""
    for step in range(N_STEPS):
        run.metrics({"loss": 1.0 / (1 + step), "elbo": -float(step)}, step)
        time.sleep(0.1)


def assert_all_is_there_once(folder: Path, n_parents: int = 1) -> None:
    assert len(parents(folder)) == n_parents
    assert len(runs(folder)) == 2 * n_parents
    for parent in parents(folder):
        (child,) = children(folder, parent).values()
        assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
        for key, first in (("loss", 1.0), ("elbo", 0.0)):
            history = sorted(
                connected(folder).get_metric_history(child.info.run_id, key), key=lambda metric: metric.step
            )
            assert [metric.step for metric in history] == list(range(N_STEPS))
            assert history[0].value == first


# --- a tracking server that fails ---


class Failing:
    """MLflow's server in this process, which treats the n-th request as its trouble says."""

    def __init__(self, app: Any) -> None:
        self.app, self.trouble, self.n = app, lambda n: "", 0

    def __call__(self, environ: Any, start_response: Any) -> Any:
        kind = self.trouble(self.n)
        self.n += 1
        if kind == "down":
            raise ConnectionAbortedError
        if kind in ("", "slow", "lost"):
            answer = self.app(environ, start_response if kind == "" else lambda *_: None)
            if kind == "":
                return answer
            b"".join(answer)  # what was asked for is done; the client does not hear of it
        if kind == "slow":
            time.sleep(1.2)
        start_response("500 INTERNAL SERVER ERROR", [("Content-Type", "text/html")])
        return [b"<html>trouble</html>"]


@pytest.fixture(scope="module")
def failing(
    tmp_path_factory: pytest.TempPathFactory, new_database: Path
) -> Iterator[tuple[Failing, str, Path]]:
    """A server that may fail, its address, and the folder of its database."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(new_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", str(folder / "artifacts"))
        from mlflow.server import app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: Any) -> None:
                """Say nothing."""

        server = Failing(app)
        listening = make_server("127.0.0.1", 0, server, threaded=True, request_handler=Quiet)
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield server, f"http://127.0.0.1:{listening.port}", folder
        listening.shutdown()


TROUBLES: dict[str, Callable[[int], str]] = {
    "down at the start": lambda n: "down" if n < 4 else "",
    "down in the middle": lambda n: "down" if 8 <= n < 14 else "",
    "down at the end": lambda n: "down" if n >= 10 else "",
    "never there": lambda n: "down",
    "500 now and then": lambda n: "500" if n % 3 == 1 else "",
    "500 all the time": lambda n: "500",
    "slow to answer": lambda n: "slow" if n in (2, 5, 7) else "",
    "answers that are lost": lambda n: "lost" if n % 2 == 0 else "",
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_whatever_the_server_does_the_training_goes_on_and_every_metric_is_there_once(
    trouble: str, store: Path, failing: tuple[Failing, str, Path], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], new_database: Path,
) -> None:  # fmt: skip
    server, address, folder = failing
    client = connected(folder)
    found = client.get_experiment_by_name(where.EXPERIMENT)
    for run in runs(folder) if found else []:
        client.delete_run(run.info.run_id)
    server.trouble, server.n = TROUBLES[trouble], 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(tracking, "_SHIP_EVERY", 0.1)
    monkeypatch.setattr(tracking, "_PATIENCE", 2.0)
    start = time.monotonic()
    stage(gone(), "train@vae", training)
    assert time.monotonic() - start < 0.1 * N_STEPS + 2.0 + 1.5
    assert server.n > 0
    assert "Traceback" not in "".join(capfd.readouterr())
    server.trouble = lambda n: ""
    tracking.replay(tracking.connect())
    assert tracking.left_behind() == []
    assert_all_is_there_once(folder)


# --- clocks ---


class SetBack:
    """A clock that is set back by an hour, again and again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.n = clock, 0

    def __call__(self, *_: Any) -> float:
        self.n += 1
        return self.clock() - 3600.0 * self.n


@pytest.fixture
def set_back(monkeypatch: pytest.MonkeyPatch) -> SetBack:
    """Set back the clock, and with it the time at which the machine started by that clock."""
    clock, started = SetBack(time.time), SetBack(psutil._psplatform.boot_time)
    monkeypatch.setattr(spool.time, "time", clock)
    monkeypatch.setattr(psutil._psplatform, "boot_time", started)
    return clock


def test_a_clock_that_is_set_back_loses_no_metric(
    store: Path, set_back: SetBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_SHIP_EVERY", 0.1)
    stage(gone(), "train@vae", training)
    assert set_back.n > N_STEPS
    tracking.replay(tracking.connect())
    assert_all_is_there_once(store)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes are known by the clock alone")
def test_an_execution_is_the_same_and_alive_whatever_the_clock_says(set_back: SetBack) -> None:
    first, second = execution.current(), execution.current()
    assert first.key == second.key
    assert first.alive
    # By the clock it would be another one each time.
    me = psutil.Process()
    by_clock = [Execution(me.pid, psutil.Process().create_time()) for _ in range(2)]
    assert by_clock[0].key != by_clock[1].key


# --- several at once ---


def track(name: str, barrier: Any) -> None:
    """Be one experiment of several."""
    os.environ["DVC_EXP_NAME"] = name
    tracking._SHIP_EVERY = 0.05
    barrier.wait()
    stage(execution.current(), "train@vae", training)


def test_six_experiments_at_once_on_one_database(store: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(6)
    processes = [context.Process(target=track, args=(f"experiment-{k}", barrier)) for k in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    tracking.replay(tracking.connect())
    assert_all_is_there_once(store, 6)
    assert {run.data.tags["DVC_EXP_NAME"] for run in parents(store)} == {f"experiment-{k}" for k in range(6)}


# --- damaged files ---


def bumpy(folder: Path, stop_at: int | None = None, seen: list[int] | None = None) -> Any:
    """Train for 40 steps, with a checkpoint every five; it may end at one, as a killed process does."""

    def batches(step: int) -> Any:
        if step == stop_at:
            raise InterruptedError
        if seen is not None:
            seen.append(step)
        return Whole(points())(step)

    model, learner = Line(0.3), Gradient(0.05, 40)
    nowhere = Stage("train@line", "line", None, folder, folder, tracking.Silent())
    train(nowhere, "fit", model, learner, batches, KEY, 40, every=Every(5, None))
    return model.W.detach()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)


HARMED = [
    ("model.safetensors", flip),
    ("learner.safetensors", cut),
    ("learner.safetensors", Path.unlink),
    ("curve.json", flip),
    ("sha256.json", cut),
]


@pytest.mark.parametrize(("name", "harm"), HARMED)
def test_of_a_damaged_checkpoint_the_one_before_counts(
    name: str, harm: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = bumpy(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        bumpy(tmp_path, stop_at=23)
    harm(tmp_path / "fit" / name)
    seen: list[int] = []
    assert torch.equal(bumpy(tmp_path, seen=seen), expected)
    assert seen == list(range(15, 40))
    told = "this checkpoint is damaged: going on from the one before"
    assert capsys.readouterr().err == f"genmodels: {tmp_path / 'fit'}: {told}\n"


def test_a_training_without_a_whole_checkpoint_starts_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = bumpy(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        bumpy(tmp_path, stop_at=23)
    for folder in ("fit", "fit-before"):
        flip(tmp_path / folder / "learner.safetensors")
    seen: list[int] = []
    assert torch.equal(bumpy(tmp_path, seen=seen), expected)
    assert seen == list(range(40))
    assert capsys.readouterr().err.endswith("this checkpoint is damaged: going on from the start\n")


def test_a_training_that_ended_between_two_renamings_goes_on_from_the_checkpoint_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bumpy(tmp_path / "whole")
    replace = os.replace

    def killed(source: Any, target: Any) -> None:
        if Path(target).name == "fit" and (tmp_path / "fit-before").exists():
            raise InterruptedError
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(InterruptedError):
        bumpy(tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "fit").exists()
    seen: list[int] = []
    assert torch.equal(bumpy(tmp_path, seen=seen), expected)
    assert seen == list(range(5, 40))
    assert capsys.readouterr().err == ""


def test_no_flipped_bit_of_prepared_images_goes_unseen(tmp_path: Path) -> None:
    prepared, target = prepare_dataset("digits", None, 200, None, 0, 0.0, 0.1, 0.2, seed=3)
    images.save(tmp_path, prepared, target)
    path = tmp_path / "images.npz"
    whole, n_refused = path.read_bytes(), 0
    for place in range(0, len(whole), max(len(whole) // 97, 1)):
        data = bytearray(whole)
        data[place] ^= 4
        path.write_bytes(data)
        try:
            read = images.load(tmp_path)
        except InputError:
            n_refused += 1
        else:
            for name, split in read.splits.items():
                for one, other in zip(split, prepared.splits[name], strict=True):
                    np.testing.assert_array_equal(one, other)
    assert n_refused > 60


# --- disks that are full or not to be written to, and processes that are killed ---

needs_namespace = pytest.mark.skipif(
    not may_unshare(), reason="mounts of its own are not allowed here (unshare -rm)"
)


def in_namespace(*command: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a script of the shell that mounts what only it can see."""
    return subprocess.run(["unshare", "-rm", "sh", "-ec", *command], capture_output=True, text=True, **more)


FULL = """
mount -t tmpfs -o size="$2" none "$1"
python -m stages.train --model vae >&2 && echo 0 || echo $?
python -m stages.track >&2
find "$1" -name mlflow.db -o -name "*.safetensors" -o -name ".*-????????"
echo ---
mount -o remount,size=64m "$1"
python -m stages.train --model vae
python -m stages.track
cp -r out/main/train results
cp mlflow.db results
"""


@pytest.fixture(scope="module")
def prepared(checkout: Callable[..., Checkout]) -> Checkout:
    """A checkout with prepared images and a model that was trained undisturbed."""
    one = checkout("faults", {"train.vae.steps": 200, "train.vae.checkpoint_every.steps": 40}, git=False)
    one.run("dvc", "config", "--local", "core.no_scm", "true")
    one.run("python", "-m", "stages.prepare")
    one.run("python", "-m", "stages.train", "--model", "vae")
    (one.folder / "out/main/train").rename(one.folder / "undisturbed")
    return one


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder but MLflow's database."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "mlflow.db")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@needs_namespace
@pytest.mark.slow
@pytest.mark.parametrize(
    ("full", "size"),
    [
        ("out/main/train", "16k"),
        (".scratch", "160k"),
    ],
    ids=["models", "checkpoints"],
)
def test_a_full_disk_is_said_in_a_line_and_the_next_run_finishes(
    full: str, size: str, prepared: Checkout
) -> None:
    one = prepared.copy(f"full-{Path(full).name}")
    (one.folder / full).mkdir(parents=True, exist_ok=True)
    (one.folder / "results").mkdir()
    done = in_namespace(FULL, "sh", full, size, cwd=one.folder, env=one.environment())
    assert done.returncode == 0, done.stderr
    status, *left = done.stdout.partition("---")[0].splitlines()
    assert status == "2"
    told = [line for line in done.stderr.splitlines() if line.startswith("genmodels: ")]
    assert len(told) == 1, done.stderr
    said = f"train@vae: no space left on the disk of {one.folder}: make room and start it again"
    assert told == [f"genmodels: error: {said}"]
    assert "Traceback" not in done.stderr
    # Checkpoints that had room may be there, and nothing half written.
    assert all(path.endswith(".safetensors") and "/.fit-" not in path for path in left), left
    assert contents(one.folder / "results/train") == contents(prepared.folder / "undisturbed")
    assert parents(one.folder / "results")[0].info.status == "FINISHED"


RUNS = """
import os, subprocess
from pathlib import Path
from pipelines import tracking
from stages import track
from test_tracking import children, gone, parents, stage
root = Path(os.environ["DVC_ROOT"])
stage(gone(), "train@vae", lambda run: run.metrics({"loss": 2.0}))
track.finish(Path("params.yaml"))
assert not (root / "mlflow.db").exists()
subprocess.run(["mount", "-o", "remount,size=64m", str(root)], check=True)
track.finish(Path("params.yaml"))
(parent,) = parents(root)
print(parent.info.status, children(root, parent)["train@vae"].data.metrics, tracking.left_behind())
"""


@needs_namespace
@pytest.mark.slow
def test_runs_wait_until_the_disk_of_the_database_has_room(tmp_path: Path) -> None:
    full, scratch = tmp_path / "full", tmp_path / "scratch"
    full.mkdir()
    scratch.mkdir()
    mounted = 'mount -t tmpfs -o size=200k none "$1"; ln -s "$2" "$1/.scratch"; exec "$3" -c "$4"'
    environment = os.environ | {"DVC_ROOT": str(full), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    arguments = ("sh", str(full), str(scratch), sys.executable, RUNS)
    done = in_namespace(mounted, *arguments, cwd=ROOT, env=environment)
    assert done.stdout == "FINISHED {'loss': 2.0} []\n", done.stderr
    (told,) = done.stderr.splitlines()
    assert told.startswith("genmodels: tracking: ")
    assert told.endswith(f"disk is full; kept in {full}/.scratch/tracking and shipped later")


# --- dvc ---


def test_a_stage_whose_dvc_has_ended_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "from pipelines import execution; print(execution.current().pid)"
    monkeypatch.setenv("DVC_STAGE", "train@vae")
    # This test is a Python program that could have started it; where the shell is alone, none is there.
    for alone, said in (
        ("", None),
        ("sleep 0.5; ", "InputError: train@vae: the dvc that started it has ended: start that again"),
    ):
        written = tmp_path / f"said-{bool(alone)}"
        script = f"{alone}'{sys.executable}' -c '{program}' >'{written}' 2>&1; echo >>'{written}'"
        with subprocess.Popen(["sh", "-c", f"({script}) & {'' if alone else 'wait'}"], cwd=ROOT):
            pass
        while not written.exists() or not written.read_text().endswith("\n\n"):
            time.sleep(0.05)
        last = written.read_text().split("\n")[-3]
        assert last.endswith(said) if said else last.isdigit()


READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"
mount --bind "$2" "$2" && mount -o remount,ro,bind "$2"
! touch "$1/written" "$2/written" 2>/dev/null
export HOME="$1" GENMODELS_DATA="$2"
python -m stages.prepare
python -m stages.fit_baselines --model independent
python -m stages.sample --model independent
python -m stages.track
genmodels evaluate out/main/fit_baselines/independent --data out/main/prepare/images
"""


@needs_namespace
@pytest.mark.slow
def test_data_and_home_may_be_read_only(prepared: Checkout) -> None:
    one = prepared.copy("read-only")
    shutil.rmtree(one.folder / "out")
    data, home = one.folder.with_name("read-only-data"), one.folder.with_name("read-only-home")
    home.mkdir()
    generator = np.random.default_rng(5)
    for k in range(60):
        path = data / "pictures" / str(k % 3) / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    one.change({"data.name": "folder", "data.path": str(data / "pictures"), "data.size": [8, 8]})
    done = in_namespace(READ_ONLY, "sh", str(home), str(data), cwd=one.folder, env=one.environment())
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "nats" in done.stdout
    assert not list(home.iterdir())
    assert parents(one.folder)[-1].info.status == "FINISHED"


@pytest.mark.slow
def test_a_path_of_any_letters_in_the_locale_c(checkout: Callable[..., Checkout], prepared: Checkout) -> None:
    one = checkout("Bücher, 100 % & Äpfel #ω")
    stages = ["fit_baselines@independent", "sample@independent"]
    in_c = {"LC_ALL": "C", "LANG": "C", "LANGUAGE": "", "GENMODELS_WORKERS": "0"}
    assert one.repro(*stages, **in_c) == ["prepare", *stages]
    assert one.run("python", "-m", "stages.track", **in_c).stderr == ""
    plain = prepared.copy("plain")
    for name in ("fit_baselines", "sample"):
        plain.run("python", "-m", f"stages.{name}", "--model", "independent")
    for name in ("prepare/images", "fit_baselines/independent", "sample"):
        made = contents(one.folder / "out/main" / name)
        assert made
        assert made == contents(plain.folder / "out/main" / name) | {
            path: data for path, data in made.items() if path == ".gitignore"
        }
    (child,) = (run for run in runs(one.folder) if run.info.run_name == "sample@independent")
    assert pictures(one.folder, child) == {"independent.png"}
    assert one.repro(*stages, **in_c) == []


# --- dvc ---


@pytest.mark.slow
def test_two_dvc_at_once_in_one_checkout(checkout: Callable[..., Checkout], prepared: Checkout) -> None:
    one = checkout("twice")
    command = ["dvc", "repro", "fit_baselines@independent"]
    environment = one.environment(GENMODELS_WORKERS="0")
    processes = [
        subprocess.Popen(
            command,
            cwd=one.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    for process, (out, err) in zip(processes, said, strict=True):
        assert "Traceback" not in out + err
        assert process.returncode == 0 or "ERROR: " in err, err
    assert 0 in [process.returncode for process in processes], said
    assert one.repro("fit_baselines@independent") == []
    made = contents(one.folder / "out/main/prepare/images")
    assert made == contents(prepared.folder / "out/main/prepare/images")
    assert not list((one.folder / "out").rglob(".*-????????"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_sweep_of_a_hundred_experiments_leaves_whole_books(checkout: Callable[..., Checkout]) -> None:
    one = checkout("sweep")
    one.repro("fit_baselines@independent", GENMODELS_WORKERS="0")
    one.run("git", "add", "-A")
    one.run("git", "commit", "-q", "-m", "Results")
    block = "fit_baselines.independent.pseudo_count"
    one.run(
        "dvc", "exp", "run", "--queue", "-S", f"{block}=range(1,101)", "fit_baselines@independent",
        GENMODELS_WORKERS="0",
    )  # fmt: skip
    one.run("dvc", "queue", "start", "-j", "2", GENMODELS_WORKERS="0")
    deadline = time.monotonic() + 3000
    while time.monotonic() < deadline:
        status = one.run("dvc", "queue", "status").stdout
        if status.count("Success") + status.count("Failed") >= 100:
            break
        time.sleep(20.0)  # asking costs seconds
    assert status.count("Success") == 100, status
    one.run("python", "-m", "stages.track")
    shown = json.loads(one.run("dvc", "exp", "show", "--json").stdout)
    names = {exp["name"] for rev in shown for exp in rev["experiments"] or []}
    assert len(names) == 100
    made = {
        run.data.tags["DVC_EXP_NAME"]: run for run in parents(one.folder) if "DVC_EXP_NAME" in run.data.tags
    }
    assert set(made) == names
    values = set()
    for run in made.values():
        (child,) = children(one.folder, run).values()
        assert (run.info.status, child.info.status) == ("FINISHED", "FINISHED")
        values.add(float(child.data.params[block]))
    assert values == {float(k) for k in range(1, 101)}
    assert tracking_left(one) == []
    assert one.run("git", "status", "--porcelain").stdout == ""


def tracking_left(one: Checkout) -> list[Path]:
    return [path for path in (one.folder / ".scratch/tracking").iterdir() if path.is_dir()]
