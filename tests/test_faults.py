"""Killed, full, damaged, unreachable, set back: whatever goes wrong around a stage, nothing is lost."""

import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_tracking import children, connected, gone, parents, runs, stage

from genmodels import runs as where
from pipelines import execution, spool, tracking
from pipelines.execution import Execution

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
