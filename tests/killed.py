"""Trainings of deep models as a stage runs them, killed at a step; run as a program, for it forks.

Every case is trained undisturbed, then killed at each of its steps and started again, from its checkpoint.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401 - once for all processes, as the next
import torch
from diffusers import UNet2DModel  # noqa: F401

from genmodels.artifacts import sha256
from genmodels.learners import fit, gradient
from genmodels.streams import Key
from pipelines import params
from pipelines.schema.images import Network
from pipelines.stage import Stage
from pipelines.tracking import Silent
from stages import prepare, train

SMALL: dict[str, Any] = {
    "hidden": [16, 8],
    "latents": [3, 2],
    "kl_warm_up": 12,
    "latent": 3,
    "channels": [8, 8],
    "T": 20,
    "batch": 24,
    "steps": 23,
    "dropout": 0.2,
    "accumulate": 2,
    "warm_up": 5,
    "checkpoint_every": {"steps": 4, "seconds": None},
}


def deep(values: Any) -> list[str]:
    """Return the models of a params.yaml that learn by gradients of their own loss."""
    return [name for name, block in values.train if isinstance(block, Network)]


def small(path: Path) -> Any:
    """Return the values of a params.yaml with deep models that are trained in a second."""
    given = params.read(path)
    values = given.model_dump()
    values["data"]["limit"] = 130  # 91 to train: epochs of 3 batches
    for name in deep(given):
        block = values["train"][name]
        values["train"][name] = block | {key: value for key, value in SMALL.items() if key in block}
    return type(given).model_validate(values)


def stage(name: str, model: str, values: Any, folder: Path, case: str = "") -> Stage:
    """Return what a stage's work is given; each case has its own outputs and scratch."""
    out = folder / "out" / case
    if case and not out.exists():
        out.mkdir()
        (out / "prepare").symlink_to(folder / "out" / "prepare")
    return Stage(
        f"{name}@{model}" if model else name, model, values, out, folder / "scratch" / case, Silent()
    )


class Deadly(fit.Shuffled):
    """Batches, the one of a step being the last thing that this process sees."""

    step = -1

    def __call__(self, step: int) -> Any:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(step)


class FromNow(Deadly):
    """A wrong order: that of the epochs counted from where this process began."""

    first: int | None = None

    def __call__(self, step: int) -> Any:
        if self.first is None:
            self.first = step // self.per_epoch * self.per_epoch
        if step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        return fit.Shuffled.__call__(self, step - self.first)


def without_moments() -> None:
    gradient._MOMENTS = ()  # type: ignore[assignment]


def with_the_epochs_of_this_process() -> None:
    train.Shuffled = FromNow  # type: ignore[attr-defined,misc]


def with_noise_that_goes_on() -> None:
    going_on = Key(1, "noise").torch()
    Key.share = lambda self, part, parts, device="cpu": going_on  # type: ignore[assignment,method-assign]


BROKEN = {
    "moments": without_moments, "epochs": with_the_epochs_of_this_process, "noise": with_noise_that_goes_on,
}  # fmt: skip


def forked(name: str, values: Any, folder: Path, case: str, broken: str = "", kill_at: int = -1) -> int:
    """Train in a process of its own; return the signal that ended it."""
    if (child := os.fork()) == 0:
        Deadly.step = kill_at
        train.Shuffled = Deadly  # type: ignore[attr-defined,misc]
        if broken:
            BROKEN[broken]()
        train.work(stage("train", name, values, folder, case))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path, kill_at: int) -> None:
    """Print digests of what undisturbed and killed trainings wrote, by model and what is broken."""
    torch.set_num_threads(1)
    values, digests = small(Path("params.yaml")), {}
    (folder / "out").mkdir()
    prepare.work(stage("prepare", "", values, folder))
    cases = [(name, "") for name in deep(values)] + [("vae", broken) for broken in BROKEN]
    for name, broken in cases:
        case = f"{name}-{broken}"
        assert forked(name, values, folder, f"{case}-whole", broken) == 0
        assert forked(name, values, folder, f"{case}-killed", broken, kill_at) == -signal.SIGKILL
        assert (folder / "scratch" / f"{case}-killed" / "fit").exists()
        assert forked(name, values, folder, f"{case}-killed", broken) == 0
        written = [folder / "out" / f"{case}-{end}" / "train" for end in ("whole", "killed")]
        digests[f"{name} {broken}".strip()] = [
            sha256(one / name / "model.safetensors") + sha256(one / f"{name}.csv") for one in written
        ]
    print(json.dumps(digests))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
