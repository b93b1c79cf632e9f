"""What MLflow holds after executions, read back through its client."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas
import psutil
import pytest
from conftest import Checkout, Listeners
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from genmodels.data import images
from pipelines import execution, tracking
from pipelines.execution import Execution
from stages import track

Twins = tuple[Checkout, Checkout, Listeners]
STAGES = 56  # all but track, which is none of the children
YARDSTICKS = {"validation_images", "training_images"}
FROM_TEXT = {"autoencoder", "latent_diffusion"}
MODELS = {
    "independent",
    "gaussian",
    "gaussian_mixture",
    "bernoulli_mixture",
    "rbm",
    "boltzmann_machine",
    "neural_energy",
    "hvae",
    "vae",
    "diffusion",
}


def connected(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def runs(folder: Path, query: str = "") -> list[Run]:
    client = connected(folder)
    return client.search_runs(
        [client.get_experiment_by_name("genmodels").experiment_id], query, max_results=1000
    )


def parents(folder: Path) -> list[Run]:
    return runs(folder, "tags.`genmodels.kind` = 'pipeline'")


def below(folder: Path, parent: Run) -> dict[str, Run]:
    """Return the runs of an execution's stages and models by name."""
    found = runs(folder, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def children(folder: Path, parent: Run) -> dict[str, Run]:
    """Return the runs of an execution's stages by name."""
    return {name: run for name, run in below(folder, parent).items() if "dvc.stage" in run.data.tags}


def pictures(folder: Path, run: Run) -> set[str]:
    listed = connected(folder).list_artifacts(run.info.run_id, "pictures")
    return {Path(entry.path).name for entry in listed}


def test_one_parent_with_a_finished_child_for_every_stage(twins: Twins) -> None:
    folder = twins[0].folder
    (parent,) = parents(folder)
    mine = children(folder, parent)
    assert len(mine) == STAGES
    assert "track" not in mine
    assert {run.info.status for run in [parent, *mine.values()]} == {"FINISHED"}
    assert {run.data.tags["dvc.cached"] for run in mine.values()} == {"false"}
    assert len(runs(folder)) == STAGES + 1 + len(MODELS | YARDSTICKS | FROM_TEXT)


def test_the_parent_carries_parameters_numbers_pictures_and_the_commit(twins: Twins) -> None:
    folder = twins[0].folder
    (parent,) = parents(folder)
    table = json.loads((folder / "out/main/report/table.json").read_text())["rows"]
    for row in table:
        if row["value"] is not None:
            assert parent.data.metrics[f"{row['model']}.{row['name']}"] == pytest.approx(row["value"])
    assert parent.data.params["train.vae.latent"]
    assert parent.data.params["data.name"] == "digits"
    commit = twins[0].run("git", "rev-parse", "HEAD").stdout.strip()
    assert parent.data.tags["mlflow.source.git.commit"] == commit
    listed = connected(folder).list_artifacts(parent.info.run_id)
    shown = {entry.path for entry in listed if not entry.is_dir}
    pictures = {"likelihood.png", "samples.png", "curves.png", "log_z.png", "quality.png"}
    assert shown == pictures | {"table_of_models.json"}


def test_a_run_a_model_has_numbers_and_parameters_of_the_same_names(twins: Twins) -> None:
    folder = twins[0].folder
    (parent,) = parents(folder)
    models = {
        name: run
        for name, run in below(folder, parent).items()
        if run.data.tags.get("genmodels.kind") == "model"
    }
    assert set(models) == MODELS | YARDSTICKS | FROM_TEXT
    alike = {"log_likelihood", "log_likelihood.stderr", "frechet_distance.classifier", "recall.classifier"}
    alike |= {"copying.pixels", "seconds.evaluate", "seconds.sample"}
    for name in MODELS:
        assert alike <= set(models[name].data.metrics), name
        assert models[name].data.params["model"] == name
        assert models[name].info.status == "FINISHED"
    assert {"seconds.train", "log_likelihood.elbo"} <= set(models["vae"].data.metrics)
    assert {"seconds.train", "nats.lost_by_shuffling.test"} <= set(models["latent_diffusion"].data.metrics)
    assert models["vae"].data.params["latent"] == parent.data.params["train.vae.latent"]
    table = {
        (row["model"], row["name"]): row["value"]
        for row in json.loads((folder / "out/main/report/table.json").read_text())["rows"]
    }
    assert models["rbm"].data.metrics["log_likelihood"] == pytest.approx(table["rbm", "log_likelihood"])


def test_the_parent_has_the_table_and_every_run_its_data(twins: Twins) -> None:
    folder = twins[0].folder
    (parent,) = parents(folder)
    tables = [folder / f"out/main/{made_by}/table.json" for made_by in ("report", "report_captions")]
    rows = [row for path in tables for row in json.loads(path.read_text())["rows"]]
    store = connected(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("genmodels")
    shown = mlflow.load_table("table_of_models.json", run_ids=[parent.info.run_id])
    assert shown["model"].tolist() == [row["model"] for row in rows]
    assert shown["name"].tolist() == [row["name"] for row in rows]
    vae = below(folder, parent)["vae"]
    seen = {
        each.dataset.digest
        for run in (parent, vae)
        for each in store.get_run(run.info.run_id).inputs.dataset_inputs
    }
    assert len(seen) == 1


def test_children_have_their_parameters_metrics_over_steps_and_pictures(twins: Twins) -> None:
    folder = twins[0].folder
    mine = children(folder, parents(folder)[0])
    vae = mine["train@vae"]
    assert {key for key in vae.data.params if key.startswith("train.")} == {
        key for key in vae.data.params if key.startswith("train.vae.")
    }
    history = connected(folder).get_metric_history(vae.info.run_id, "fit/loss")
    assert [metric.step for metric in history] == sorted({metric.step for metric in history})
    assert len(history) > 100
    assert history[-1].value < history[0].value
    assert pictures(folder, mine["sample@vae"]) == {"vae.png"}
    assert pictures(folder, mine["prepare"]) == {"preview.png"}


def test_models_are_registered_and_load_and_draw_the_same_for_the_same_seed(twins: Twins) -> None:
    folder = twins[0].folder
    registered = {model.name for model in connected(folder).search_registered_models()}
    assert registered == MODELS | FROM_TEXT
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    for name in ("bernoulli_mixture", "rbm"):
        model = mlflow.pyfunc.load_model(f"models:/{name}/1")
        drawn = model.predict(pandas.DataFrame({"seed": [1, 2, 1]}))
        assert drawn.shape == (3, 64)
        assert set(drawn.ravel()) == {0.0, 1.0}
        assert (drawn[0] == drawn[2]).all()
        assert (drawn[0] != drawn[1]).any()


def test_a_registered_model_scores_pixels_as_the_table_does(twins: Twins) -> None:
    folder = twins[0].folder
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    held_out = images.load(folder / "out/main/prepare/images").splits["test"].binary[:5]
    given = pandas.DataFrame({"pixels": [row.astype(float).tolist() for row in held_out]})
    for name in ("bernoulli_mixture", "rbm"):
        scored = mlflow.pyfunc.load_model(f"models:/{name}/1").predict(given)
        with np.load(folder / f"out/main/evaluate/{name}.npz") as nats:
            assert scored["value"].to_numpy() == pytest.approx(nats["log_likelihood"][:5], abs=1e-4)
        assert set(scored["kind"]) == {"exact"}
    bounded = mlflow.pyfunc.load_model("models:/vae/1").predict(given)
    assert set(bounded["kind"]) == {"lower"}
    assert (bounded["stderr"] > 0.0).all()
    model = mlflow.pyfunc.load_model("models:/rbm/1")
    for wrong, said in (
        (pandas.DataFrame({"pixels": [[0.0, 1.0]]}), "expected 64 levels"),
        (pandas.DataFrame({"pixels": [[0.5] * 64]}), "expected 64 levels"),
        (pandas.DataFrame({"seed": [1], "pixels": [[0.0] * 64]}), "give one column"),
    ):
        with pytest.raises(ValueError, match=said):
            model.predict(wrong)


def test_no_event_file_and_no_checkpoint_is_left(twins: Twins) -> None:
    scratch = twins[0].folder / ".scratch"
    assert [path for path in (scratch / "tracking").iterdir() if path.is_dir()] == []
    assert [path for path in (scratch / "stages").iterdir() if path.is_dir()] == []


def test_cached_stages_are_children_that_point_to_the_run_that_made_them(twins: Twins) -> None:
    again = twins[0].copy("again")
    folder = again.folder
    again.change({"paint_captions.n": 3})
    stages = again.repro(GENMODELS_WORKERS="0")
    assert sorted(stages) == [
        "paint_captions", "recognise_captions", "report", "report_captions", "track",
    ]  # fmt: skip
    first, second = sorted(parents(folder), key=lambda run: run.info.start_time)
    before, after = children(folder, first), children(folder, second)
    assert set(after) == set(before)
    cached = {name for name, run in after.items() if run.data.tags["dvc.cached"] == "true"}
    assert cached == set(before) - set(stages)
    for name in cached:
        assert after[name].data.tags["dvc.source_run"] == before[name].info.run_id
        assert after[name].data.metrics == before[name].data.metrics
        assert after[name].data.params == before[name].data.params
    assert second.info.status == "FINISHED"
    assert second.data.params["paint_captions.n"] == "3"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_a_database_that_was_cut_short_is_made_anew(store: Path) -> None:
    for name in ("mlflow.db.new", "mlflow.db.new-journal"):
        (store / name).write_text("half of one")
    client, experiment = tracking.connect()
    run = client.create_run(experiment)
    assert connected(store).get_run(run.info.run_id).info.status == "RUNNING"
    assert [path.name for path in store.glob("mlflow.db*")] == ["mlflow.db"]


def gone() -> Execution:
    """Return the execution of a process that ended."""
    process = psutil.Popen(["sleep", "30"])
    owner = Execution(process.pid, process.create_time())
    process.kill()
    process.wait()
    return owner


def stage(owner: Execution, name: str, work: Callable[[Any], None]) -> None:
    with tracking.Run(name, "0" * 64, {"a.b": 1}, owner) as run:
        work(run)


def test_a_server_that_is_down_costs_no_training_and_gets_it_all_later(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_SHIP_EVERY", 0.05)
    monkeypatch.setattr(tracking, "_PATIENCE", 5.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    owner = gone()

    def work(run: tracking.Run) -> None:
        for step in range(5):
            run.metrics({"loss": 1.0 / (1 + step)}, step)
        time.sleep(0.2)

    stage(owner, "train@vae", work)
    assert "trouble.txt" in {path.name for path in (tracking.spools() / owner.key).iterdir()}
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracking.replay(tracking.connect())
    (parent,) = parents(store)
    child = children(store, parent)["train@vae"]
    values = [metric.value for metric in connected(store).get_metric_history(child.info.run_id, "loss")]
    assert values == [1.0 / (1 + step) for step in range(5)]
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert not (tracking.spools() / owner.key).exists()


def test_an_error_is_told_and_fails_the_parent(store: Path) -> None:
    def work(run: tracking.Run) -> None:
        raise ValueError("the loss is not finite")

    with pytest.raises(ValueError, match="not finite"):
        stage(gone(), "train@vae", work)
    (parent,) = parents(store)
    child = children(store, parent)["train@vae"]
    assert (parent.info.status, child.info.status) == ("FAILED", "FAILED")
    assert "the loss is not finite" in child.data.tags["genmodels.error"]


def test_only_executions_whose_process_is_gone_are_swept(store: Path) -> None:
    client, experiment = tracking.connect()
    here = execution.host()
    me = psutil.Process()
    cases = {"mine": (here, me.pid, execution.start_of(me)), "elsewhere": ("another-host", 1, 1.0)}
    dead = gone()
    cases["dead"] = (here, dead.pid, dead.started)
    for name, (host, pid, started) in cases.items():
        tags = {"genmodels.kind": "pipeline", "genmodels.host": host}
        tags |= {"genmodels.pid": str(pid), "genmodels.started": str(started)}
        client.create_run(experiment, tags=tags, run_name=name)
    tracking.sweep(client, experiment)
    assert {run.info.run_name: run.info.status for run in parents(store)} == {
        "mine": "RUNNING", "elsewhere": "RUNNING", "dead": "FAILED",
    }  # fmt: skip


def test_a_replaced_file_is_not_taken_for_the_recorded_one(store: Path) -> None:
    picture = store / "a.png"
    picture.write_bytes(b"one")
    stage(gone(), "sample@vae", lambda run: run.picture(picture))
    picture.write_bytes(b"two")
    tracking.replay(tracking.connect())
    (parent,) = parents(store)
    assert pictures(store, children(store, parent)["sample@vae"]) == set()


def test_the_execution_is_the_nearest_dvc_or_this_process() -> None:
    mine = execution.current()
    assert mine.alive
    assert not gone().alive
    assert not Execution(os.getpid(), mine.started - 100.0).alive


def test_the_last_stage_fails_nothing_where_mlflow_does_and_ships_it_all_the_next_time(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage(gone(), "train@vae", lambda run: run.metrics({"loss": 2.0}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    track.finish(Path("pipelines/other/params.yaml"))
    said = capsys.readouterr().err
    assert said.startswith("genmodels: tracking: ")
    assert len(said.splitlines()) == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    track.finish(Path("pipelines/other/params.yaml"))
    assert capsys.readouterr().err == ""
    (parent,) = parents(store)
    assert children(store, parent)["train@vae"].data.metrics["loss"] == 2.0
    assert tracking.left_behind() == []


# Ends the last stage at its n-th call of MLflow, as a kill does.
ENDING = """
import os, sys
from pathlib import Path
from mlflow.tracking import MlflowClient
from stages import track
calls, until = 0, int(sys.argv[1])
def counted(plain):
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == until:
            os._exit(9)
        return plain(*arguments, **named)
    return call
for name in ("create_run", "log_batch", "log_table", "log_inputs", "log_artifact", "set_terminated"):
    setattr(MlflowClient, name, counted(getattr(MlflowClient, name)))
track.finish(Path("params.yaml"))
"""


def test_what_a_last_stage_left_undone_the_next_one_does(twins: Twins) -> None:
    one = twins[0].copy("undone")
    known = {parent.info.run_id for parent in parents(one.folder)}
    one.repro("--force", "--single-item", "sample@vae", GENMODELS_WORKERS="0")
    for until in (2, 30, 90):
        assert one.run("python", "-c", ENDING, str(until), check=False).returncode == 9
    one.run("python", "-m", "stages.track")
    (parent,) = [parent for parent in parents(one.folder) if parent.info.run_id not in known]
    assert parent.info.status == "FINISHED"
    (whole,) = parents(twins[0].folder)
    mine, known = below(one.folder, parent), below(twins[0].folder, whole)
    assert mine.keys() == known.keys()
    assert {run.info.status for run in mine.values()} == {"FINISHED"}
    assert mine["vae"].data.metrics.keys() == known["vae"].data.metrics.keys()
    mlflow.set_tracking_uri(f"sqlite:///{one.folder}/mlflow.db")
    mlflow.set_experiment("genmodels")
    tables = [mlflow.load_table("table_of_models.json", [run.info.run_id]) for run in (parent, whole)]
    assert tables[0].equals(tables[1])
    # Of other parameters by now: what the numbers in out/ say is not of that execution.
    one.repro("--force", "--single-item", "sample@vae", GENMODELS_WORKERS="0")
    assert one.run("python", "-c", ENDING, "2", check=False).returncode == 9
    one.change({"sample.n": 5})
    one.run("python", "-m", "stages.track")
    other = parents(one.folder)[0]
    assert other.info.run_id != parent.info.run_id
    assert other.info.status == "FINISHED"
    assert below(one.folder, other).keys() == {"sample@vae"}
    assert not list((one.folder / ".scratch/tracking").glob("*/owner.json"))


def test_one_folder_that_cannot_be_shipped_hinders_no_other(store: Path) -> None:
    broken, whole = gone(), gone()
    for owner in (broken, whole):
        stage(owner, "train@vae", lambda run: run.metrics({"loss": 2.0}))
    (tracking.spools() / broken.key / "parent.json").write_text(json.dumps({"run_id": "f" * 32}))
    (tracking.spools() / broken.key / "train@vae.shipped").write_text(
        json.dumps({"run_id": "e" * 32, "n_lines": 1})
    )
    tracking.replay(tracking.connect())
    assert [run.info.status for run in parents(store)] == ["FINISHED"]
    assert [folder.name for folder in tracking.left_behind()] == [broken.key]
    assert (tracking.spools() / broken.key / "trouble.txt").exists()
