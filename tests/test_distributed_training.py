"""Trainings in several processes, started by torchrun or placed on a cluster by Ray Train."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import ROOT, Checkout, Listeners
from nodes import Three, three_nodes
from test_gradient import DEEP
from torch import Tensor

from genmodels.artifacts import load_tensors
from genmodels.streams import Key

CHANGES = {"train.vae.processes": 2, "train.vae.steps": 60}
TRAIN = ("python", "-m", "stages.train", "--params", "params.yaml", "--model", "vae")
MODEL = "out/main/train/vae/model.safetensors"


@pytest.fixture(scope="module")
def three() -> Iterator[Three]:
    with three_nodes() as cluster:
        yield cluster


def environment(three: Three) -> dict[str, str]:
    token = {name: three.environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    return {"RAY_ADDRESS": three.address} | token


@pytest.mark.slow
def test_ray_train_trains_what_torchrun_trains(checkout: Callable[..., Checkout], three: Three) -> None:
    one = checkout("torchrun", CHANGES)
    one.repro("prepare", GENMODELS_WORKERS="0")
    other = one.copy("ray-train")
    one.run(*TRAIN)
    done = other.run(*TRAIN, **environment(three))
    assert (done.stdout, done.stderr) == ("", "")
    assert (other.folder / MODEL).read_bytes() == (one.folder / MODEL).read_bytes()
    alone = one.copy("alone")
    alone.change({"train.vae.processes": 1})
    alone.run(*TRAIN)
    assert (alone.folder / MODEL).read_bytes() != (one.folder / MODEL).read_bytes()


@pytest.mark.slow
def test_what_a_process_got_wrong_is_one_line(checkout: Callable[..., Checkout], three: Three) -> None:
    broken = checkout("odd", CHANGES | {"train.vae.batch": 1000, "data.limit": 130})
    broken.repro("prepare", GENMODELS_WORKERS="0")
    done = broken.run(*TRAIN, check=False, **environment(three))
    assert done.returncode == 2
    assert done.stderr.startswith("genmodels: error: batch: 91 images cannot be shared by 2 processes")
    assert done.stderr.count("\n") == 1


WORLD = """
import os, sys
import torch
sys.path.insert(0, sys.argv[1])
from test_gradient import DEEP, Gradient, Key, Shuffled, build, checkpoint, fit, pictures, save_tensors
torch.set_num_threads(1)
world, learners = int(os.environ["WORLD_SIZE"]), {}
learners["sgd"] = Gradient(0.05, 50, warm_up=5, optimiser="sgd", processes=world)
learners["adamw"] = Gradient(1e-3, 50, warm_up=5, processes=world)
found = {}
for kind in DEEP:
    for name, learner in learners.items():
        start, losses = None, []
        for part in ("whole", "resumed"):
            model, batches = build(kind, 0.0), Shuffled(pictures(60), 24, Key(3, "order"))
            for done in fit(model, learner, batches, Key(9, "train"), 50, start):
                losses.append(done.metrics["loss"])
                if done.step == 17:
                    kept = checkpoint(learner, done)
            start = kept
            weights = torch.cat([p.detach().flatten() for p in model.parameters()])
            found[f"{kind}/{name}/{part}"] = weights
        found[f"{kind}/{name}/losses"] = torch.tensor(losses[:50])
if done.state.accelerator.is_main_process:
    save_tensors(sys.argv[2], found)
"""


def of_world(folder: Path, n: int, script: str = WORLD) -> dict[str, Tensor]:
    """Return what n processes learn."""
    program, out = folder / f"{n}.py", folder / f"{n}.safetensors"
    program.write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    command = [*torchrun, str(program), str(ROOT / "tests"), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return load_tensors(out)


@pytest.mark.slow
def test_one_two_and_four_processes_learn_the_same(tmp_path: Path) -> None:
    one = of_world(tmp_path, 1)
    for n in (2, 4):
        several = of_world(tmp_path, n)
        for kind in DEEP:
            sgd, adamw = f"{kind}/sgd", f"{kind}/adamw"
            torch.testing.assert_close(several[f"{sgd}/whole"], one[f"{sgd}/whole"], rtol=0.0, atol=1e-6)
            torch.testing.assert_close(
                several[f"{adamw}/losses"], one[f"{adamw}/losses"], rtol=1e-4, atol=1e-4
            )
            for rule in (sgd, adamw):
                assert torch.equal(several[f"{rule}/resumed"], several[f"{rule}/whole"])
    # Noise of each process's own, as a key of its rank would give it, is told apart.
    own = "Key.share = lambda key, part, parts, device='cpu': key.at(shard=part).torch(device)\n"
    wrong = of_world(tmp_path, 2, WORLD.replace("world, learners", f"{own}world, learners"))
    assert float((wrong["vae/sgd/whole"] - one["vae/sgd/whole"]).abs().max()) > 1e-4


SMALL: dict[str, dict[str, Any]] = {
    "vae": {"hidden": [16], "latent": 3, "steps": 600},
    "hvae": {"hidden": [16, 8], "latents": [3, 2], "steps": 600},
    "diffusion": {"channels": [8, 8], "T": 20, "steps": 120},
}


def small(model: str) -> dict[str, Any]:
    own = {"processes": 2, "accumulate": 2, "batch": 24, "dropout": 0.2, "checkpoint_every.steps": 7}
    return {f"train.{model}.{key}": value for key, value in (SMALL[model] | own).items()}


def last_step(folder: Path) -> int:
    """Return the step of the checkpoint in a checkout, 0 where there is none."""
    for path in folder.glob(".scratch/stages/*/fit/learner.safetensors"):
        try:
            return int(load_tensors(path)["fit.step"])
        except Exception:  # it has just been replaced
            return 0
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vae", "hvae", "diffusion"])
@pytest.mark.parametrize("victim", ["torchrun", "process"])
def test_two_killed_processes_end_with_the_same_bytes(
    checkout: Callable[..., Checkout], model: str, victim: str
) -> None:
    train = [*TRAIN[:-1], model]
    whole = checkout(f"whole-{model}-{victim}", small(model))
    whole.repro("prepare", GENMODELS_WORKERS="0")
    killed = whole.copy(f"killed-{model}-{victim}")
    whole.run(*train)
    kill_at = int(Key(5, f"kill/{model}/{victim}").numpy().integers(10, SMALL[model]["steps"] // 2))
    where = {"cwd": killed.folder, "env": killed.environment()}
    with psutil.Popen(train, **where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while last_step(killed.folder) < kill_at:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        children = process.children(recursive=True)
        workers = [each for each in children if "stages.train" in each.cmdline()]
        assert len(workers) == 2
        (process if victim == "torchrun" else workers[1]).kill()
        assert psutil.wait_procs(children, timeout=60)[1] == []
    assert not (killed.folder / f"out/main/train/{model}/config.json").exists()
    assert last_step(killed.folder) >= kill_at
    killed.run(*train)
    written = f"out/main/train/{model}/model.safetensors"
    assert (killed.folder / written).read_bytes() == (whole.folder / written).read_bytes()


@pytest.mark.slow
def test_two_processes_listen_on_loopback_alone(checkout: Callable[..., Checkout]) -> None:
    one = checkout("listening", small("vae"))
    one.run("python", "-m", "stages.prepare")
    listeners = Listeners()
    with psutil.Popen(TRAIN, cwd=one.folder, env=one.environment()) as process:
        while process.poll() is None:
            listeners.look(process)
            time.sleep(0.3)
    assert process.returncode == 0
    assert listeners.seen, "the processes talk"
    assert {address for _, address, _ in listeners.seen} == {"127.0.0.1"}


@pytest.mark.slow
def test_what_all_processes_got_wrong_is_one_line_under_torchrun(checkout: Callable[..., Checkout]) -> None:
    broken = checkout("odd-torchrun", {"train.vae.processes": 2, "train.vae.batch": 1000, "data.limit": 130})
    broken.repro("prepare", GENMODELS_WORKERS="0")
    done = broken.run(*TRAIN, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("genmodels: error: batch: 91 images cannot be shared by 2")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("genmodels: error") == 1
