"""The whole DAG, run as a user runs it: the same bytes twice, nothing twice, everything tracked."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import SMALL, Checkout, Listeners, ran

from genmodels.artifacts import load_tensors

Twins = tuple[Checkout, Checkout, Listeners]
MODELS = (
    "independent",
    "gaussian",
    "gaussian_mixture",
    "bernoulli_mixture",
    "rbm",
    "boltzmann_machine",
    "neural_energy",
    "vae",
    "hvae",
    "diffusion",
)


def table(checkout: Checkout) -> dict[tuple[str, str], dict]:
    rows = json.loads((checkout.folder / "out/main/report/table.json").read_text())["rows"]
    return {(row["model"], row["name"]): row for row in rows}


def snapshot(folder: Path) -> dict[str, str]:
    """Return the digest of every file but DVC's own scratch."""
    left_out = (".dvc/tmp", ".git", "__pycache__")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part in str(path.relative_to(folder)) for part in left_out)
    }


def test_two_checkouts_on_ray_and_in_process_agree_to_the_byte(twins: Twins) -> None:
    first, second, _ = twins
    # Where there are several pipelines DVC runs stages, and writes a new lock, in an order that is no matter.
    locks = [yaml.safe_load((checkout.folder / "dvc.lock").read_text()) for checkout in (first, second)]
    assert locks[0] == locks[1]
    assert str(locks[0]).count("'md5':") > 100


def test_a_second_repro_runs_track_only_and_writes_nothing(twins: Twins) -> None:
    first, _, _ = twins
    before = snapshot(first.folder)
    assert first.repro() == ["track"]
    assert snapshot(first.folder) == before


def test_every_model_has_a_number_with_an_error_on_the_same_images(twins: Twins) -> None:
    rows = table(twins[0])
    main = [rows[model, "log_likelihood"] for model in MODELS]
    assert all(row["value"] is not None and row["stderr"] > 0 for row in main)
    assert {row["n"] for row in main} == {SMALL["evaluate.images"]}
    kinds = {model: rows[model, "log_likelihood"]["kind"] for model in MODELS}
    assert {kinds[model] for model in MODELS[:5]} == {"exact"}
    assert {kinds[model] for model in MODELS[5:7]} == {"estimate"}
    assert {kinds[model] for model in MODELS[7:]} == {"lower"}
    assert (
        rows["bernoulli_mixture", "log_likelihood"]["value"] > rows["independent", "log_likelihood"]["value"]
    )


def test_routes_to_log_z_agree_within_three_joint_errors(twins: Twins) -> None:
    rows = table(twins[0])
    exact, exchange, annealing = (
        rows["rbm", f"log_z.{route}"] for route in ("enumeration", "replica_exchange", "population_annealing")
    )
    for one, other in ((exact, exchange), (exact, annealing), (exchange, annealing)):
        joint = (one["stderr"] ** 2 + other["stderr"] ** 2) ** 0.5
        assert 0 < joint < 0.5
        assert abs(one["value"] - other["value"]) < 3 * joint


def test_nothing_listens_where_the_work_is_in_process(twins: Twins) -> None:
    assert twins[2].seen == set()


def test_the_report_is_one_file_with_every_picture(twins: Twins) -> None:
    page = (twins[0].folder / "out/main/report/report.html").read_text()
    near = len(MODELS) + 2  # the nearest training images, of two kinds of real images too
    assert page.count('src="data:image/png;base64,') == 7 + len(MODELS) + near
    assert set(re.findall(r"https?://[^\"]*", page)) == {"http://127.0.0.1:5000/#/experiments"}
    assert "<script" not in page


def test_outputs_hold_no_clock_no_host_and_no_pickle(twins: Twins) -> None:
    out = twins[0].folder / "out" / "main"
    suffixes = {path.suffix for path in out.rglob("*") if path.is_file() and path.name != ".gitignore"}
    assert suffixes == {".json", ".npz", ".png", ".csv", ".html", ".safetensors", ".gif"}


def test_compare_prints_every_model_and_json(twins: Twins) -> None:
    first = twins[0]
    text = first.run("genmodels", "compare").stdout
    assert all(model.replace("_", " ") in text for model in MODELS)
    several = first.run("genmodels", "compare", "--json", "main", "out/main/report/table.json").stdout
    assert set(json.loads(several)) == {"main", "out/main/report/table.json"}


def test_evaluate_and_sample_from_the_command(twins: Twins) -> None:
    first = twins[0]
    done = first.run(
        "genmodels",
        "evaluate",
        "out/main/fit_baselines/independent",
        "--data",
        "out/main/prepare/images",
        "--json",
    )
    estimate = json.loads(done.stdout)
    assert estimate["kind"] == "exact"
    assert estimate["value"] < 0 < estimate["stderr"]
    # By its name the data set means the split beside the model, not a new one.
    named = first.run(
        "genmodels", "evaluate", "out/main/fit_baselines/independent", "--data", "digits", "--json"
    )
    assert (json.loads(named.stdout), named.stderr) == (estimate, "")
    for model in ("train/rbm", "train/vae"):
        pictures = []
        for name in ("a.png", "b.png"):
            first.run("genmodels", "sample", f"out/main/{model}", "-n", "4", "--seed", "3", "--out", name)
            pictures.append((first.folder / name).read_bytes())
            (first.folder / name).unlink()
        assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("evaluate", "nowhere", "--data", "digits"), ("nowhere", "config.json")),
        (("evaluate", "out/main/train/vae", "--data", "nothing"), ("--data nothing", "digits")),
        (("sample", "out/main/train/vae", "--out", "a.txt"), ("a.txt", ".png")),
        (("sample", "out/main/train/vae", "-n", "0", "--out", "a.png"), ("-n", "greater")),
        (("compare", "no-such-run"), ("no-such-run",)),
        (("evaluate", "out/main/train/vae", "--dat", "digits"), ("--dat",)),
    ],
)
def test_the_command_refuses_in_one_line(
    twins: Twins, command: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = twins[1].run("genmodels", *command, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("genmodels: error: ")
    assert all(word in done.stderr for word in words), done.stderr
    assert not list(twins[1].folder.glob("a.*"))


def test_one_parameter_reruns_one_model_and_its_dependents(twins: Twins) -> None:
    second = twins[1]
    second.change({"train.vae.latent": 5})
    stages = second.repro(GENMODELS_WORKERS="0")
    assert sorted(stages[:-2]) == ["evaluate@vae", "judge_samples@vae", "sample@vae", "train@vae"]
    assert stages[-2:] == ["report", "track"]


def test_editing_one_model_reruns_what_uses_it_and_nothing_else(twins: Twins) -> None:
    second = twins[1]
    code = second.folder / "genmodels" / "models" / "vae.py"
    code.write_text(code.read_text() + "\n# A remark.\n")
    stages = second.repro(GENMODELS_WORKERS="0")
    # The same bytes come out, so that nothing after them runs.
    assert sorted(stages[:-1]) == ["evaluate@vae", "sample@vae", "train@vae"]
    assert stages[-1] == "track"


def test_it_runs_from_an_archive_without_git(checkout: Callable[..., Checkout]) -> None:
    bare = checkout("archive", git=False)
    bare.run("dvc", "config", "--local", "core.no_scm", "true")
    assert bare.repro("prepare") == ["prepare"]
    assert bare.repro("prepare") == []


def test_a_killed_dvc_leaves_no_writer_and_the_next_run_resumes_to_the_same_bytes(
    checkout: Callable[..., Checkout],
) -> None:
    one = checkout("killed", {"train.vae.steps": 1500, "train.vae.checkpoint_every.steps": 1})
    process = psutil.Popen(
        ["dvc", "repro", "train@vae"], cwd=one.folder, env=one.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while (
        not list(one.folder.glob(".scratch/stages/*/fit/learner.safetensors")) and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    children = process.children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert not (one.folder / "out/main/train/vae/config.json").exists()
    (saved,) = one.folder.glob(".scratch/stages/*/fit/curve.json")
    step = json.loads(saved.read_text())["rows"][-1]["step"]
    assert 0 < step < 1500
    assert ran(one.run("dvc", "repro", "train@vae").stdout) == ["train@vae"]
    resumed = snapshot(one.folder / "out/main/train")
    shutil.rmtree(one.folder / "out/main/train")
    one.run("dvc", "repro", "--force", "--single-item", "train@vae")
    assert snapshot(one.folder / "out/main/train") == resumed


def test_ctrl_c_ends_a_stage_in_one_line_and_leaves_its_checkpoint(checkout: Callable[..., Checkout]) -> None:
    one = checkout("interrupted", {"train.vae.steps": 1500, "train.vae.checkpoint_every.steps": 1})
    one.run("python", "-m", "stages.prepare")
    process = psutil.Popen(
        ["python", "-m", "stages.train", "--model", "vae"], cwd=one.folder, env=one.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while (
        not list(one.folder.glob(".scratch/stages/*/fit/learner.safetensors")) and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    # On a slow machine a line of progress may stand before it.
    assert (process.returncode, said.splitlines()[-1]) == (130, "genmodels: stopped")
    assert "Traceback" not in said
    (saved,) = one.folder.glob(".scratch/stages/*/fit/learner.safetensors")
    assert 0 < int(load_tensors(saved)["fit.step"]) < 1500


@pytest.mark.slow
def test_two_processes_train_the_same_model_twice(checkout: Callable[..., Checkout]) -> None:
    changes = {"train.vae.processes": 2, "train.vae.steps": 200}
    trained = []
    for name in ("pair", "other-pair"):
        one = checkout(name, changes)
        one.repro("train@vae")
        trained.append(snapshot(one.folder / "out/main/train"))
    assert trained[0] == trained[1]
    alone = checkout("alone", changes | {"train.vae.processes": 1})
    alone.repro("train@vae")
    assert snapshot(alone.folder / "out/main/train") != trained[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"data.name": "mnist"},
        {"data.name": "mnist5k"},
        {"data.name": "binarized_mnist"},
        {"data.name": "ising", "data.size": [3, 3], "data.limit": None, "data.n_samples": 500},
    ],
    ids=lambda changes: changes["data.name"],
)
def test_the_same_stages_run_on_other_images(checkout: Callable[..., Checkout], changes: dict) -> None:
    name = changes["data.name"]
    if (
        name in ("mnist", "binarized_mnist")
        and not (Path(os.environ.get("GENMODELS_DATA", "data")) / name).exists()
    ):
        pytest.skip(f"no {name} under GENMODELS_DATA")
    one = checkout(f"on-{name}", {"data.limit": 600, "sample.n": 4} | changes)
    one.repro(GENMODELS_WORKERS="0")
    rows = table(one)
    assert all(rows[model, "log_likelihood"]["value"] < 0 for model in MODELS)
    assert all(("kl" in {key for m, key in rows if m == model}) == (name == "ising") for model in MODELS)
    if name == "ising":
        # P has full support: both directions, and exact models may not be nearer than 0.
        assert all(rows[model, "reverse_kl"]["value"] > 0 for model in MODELS[:5])


# Notes, and may wait at, each time that a stage renames something to, or opens, what is asked for.
WAITING = """
import os, sys, time
words = sys.orig_argv
if "-m" in words and words[words.index("-m") + 1].startswith("stages."):
    folder, at, nth = os.path.dirname(__file__), os.environ["WAIT_AT"], int(os.environ["WAIT_NTH"])
    def wait(event, arguments):
        renamed = event == "os.rename"
        if event in ("os.rename", "sqlite3.connect") and at in repr(os.fspath(arguments[renamed])):
            with open(os.path.join(folder, "noted"), "a") as file:
                file.write("x")
            if os.path.getsize(os.path.join(folder, "noted")) == nth:
                time.sleep(60)
    sys.addaudithook(wait)
"""
STRUCK = {
    "prepare": "/prepare/",
    "fit_baselines@gaussian": "/gaussian'",
    "train@vae": "/fit'",
    "estimate_log_z@rbm": "/estimate_log_z/",
    "evaluate@vae": "/evaluate/",
    "sample@vae": "/sample/",
    "train_classifier": "/train_classifier/",
    "judge_samples@vae": "/judge_samples/",
    "report": "/report/",
    "track": "mlflow.db",
}


@pytest.fixture(scope="module")
def struck(twins: Twins) -> Checkout:
    """A checkout in which everything has run, whose stages note what they rename."""
    one = twins[0].copy("struck")
    one.change({"train.vae.checkpoint_every.steps": 7})  # which changes no byte
    spy = one.folder.with_name("struck-spy")
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(WAITING)
    return one


def strike(one: Checkout, stage: str, number: int, nth: int) -> tuple[str, int]:
    """Let dvc run a stage, and be hit while that waits at its n-th renaming, or imports where n is 0.

    Returns:
        What was said, and how many renamings were noted.
    """
    spy = one.folder.with_name("struck-spy")
    (spy / "noted").unlink(missing_ok=True)
    environment = one.environment(
        GENMODELS_WORKERS="0", PYTHONPATH=f"{one.folder}:{spy}", WAIT_AT=STRUCK[stage], WAIT_NTH=str(nth)
    )
    if number == signal.SIGINT:  # of which other shells die before, and the stage with them
        environment["SHELL"] = "/bin/bash"
    process = psutil.Popen(
        ["dvc", "repro", "--force", "--single-item", stage], cwd=one.folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    deadline, children = time.monotonic() + 120, []
    while number and time.monotonic() < deadline and process.poll() is None:
        children = [child for child in process.children(recursive=True) if is_stage(child)]
        if children and (nth == 0 or noted(spy) >= nth):
            break
        time.sleep(0.01)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    elif number:
        process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    assert bool(children) == bool(number)
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert (process.returncode == 0) == (number == 0), said
    return said, noted(spy)


def is_stage(process: psutil.Process) -> bool:
    try:
        return any(word.startswith("stages.") for word in process.cmdline())
    except psutil.Error:
        return False


def noted(spy: Path) -> int:
    return (spy / "noted").stat().st_size if (spy / "noted").exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", STRUCK)
def test_whatever_ends_dvc_in_whatever_stage_the_next_run_writes_the_same_bytes(
    stage: str, struck: Checkout, twins: Twins
) -> None:
    nth = 6 if stage == "train@vae" else 1
    strike(struck, stage, signal.SIGKILL, 0)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        said, n = strike(struck, stage, number, nth)
        assert n >= nth  # tracking may try again
        assert "Traceback" not in said
        assert ("genmodels: stopped" in said.splitlines()) == (number == signal.SIGINT)
    _, n = strike(struck, stage, 0, 0)
    if stage == "train@vae":
        # Three times it had gone on from where it was: of 42 checkpoints few are left to be written.
        assert 0 < n <= 42 - 3 * (nth - 1)
    out = {path: digest for path, digest in snapshot(struck.folder / "out").items() if path != "costs.json"}
    assert out == {
        path: digest for path, digest in snapshot(twins[0].folder / "out").items() if path != "costs.json"
    }
    if stage != "track":  # which always runs
        assert struck.run("dvc", "status", stage).stdout.startswith("Data and pipelines are up to date")
