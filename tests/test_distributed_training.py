"""A training whose processes Ray Train places on a cluster: the bytes of the same number under torchrun."""

from collections.abc import Callable, Iterator

import pytest
from conftest import Checkout
from nodes import Three, three_nodes

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
    broken = checkout("odd", CHANGES | {"train.vae.batch": 3})
    broken.repro("prepare", GENMODELS_WORKERS="0")
    done = broken.run(*TRAIN, check=False, **environment(three))
    assert done.returncode == 2
    assert done.stderr.startswith("genmodels: error: batch: 3 images cannot be shared by 2 processes")
    assert done.stderr.count("\n") == 1
