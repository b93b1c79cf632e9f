"""The gradient learner: the same bytes resumed or not, averaged weights, several processes."""

import contextlib
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genmodels.artifacts import load_tensors, save_tensors
from genmodels.errors import InputError
from genmodels.learners import gradient
from genmodels.learners.fit import Shuffled, Whole, checkpoint, fit
from genmodels.learners.gradient import Gradient
from genmodels.models.diffusion import Diffusion
from genmodels.models.hvae import HVAE
from genmodels.models.vae import VAE
from genmodels.protocols import Labelled
from genmodels.streams import Key, stratified

ROOT = Path(__file__).parents[1]


class Line(nn.Module):
    """Least squares y = Wx + b, a noise term in the loss if asked for."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise
        self.W = nn.Parameter(torch.tensor([[0.5, -1.0, 2.0]]))
        self.b = nn.Parameter(torch.tensor([0.3]))

    def loss(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        target = self.noise * torch.randn(len(x), 1, generator=generator)
        loss = (x @ self.W.T + self.b - target).square().mean()
        return loss, {"loss": loss.detach()}


def points(n: int = 12) -> Tensor:
    return torch.randn(n, 3, generator=Key(1, "points").torch())


DEEP = {
    "vae": lambda dropout: VAE((4, 3), 2, (8,), dropout),
    "hvae": lambda dropout: HVAE((4, 3), (3, 2), (8, 6), dropout=dropout, kl_warm_up=5),
    "diffusion": lambda dropout: Diffusion((4, 3), (4, 8), 20, dropout),
}


def build(kind: str, dropout: float = 0.3) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return DEEP[kind](dropout)


def pictures(n: int) -> Tensor:
    return torch.bernoulli(torch.full((n, 12), 0.4), generator=Key(3, "x").torch())


def run(kind: str, folder: Path, stop_at: int | None = None, resume: bool = False) -> dict[str, Tensor]:
    """Train 7 steps and return all tensors; or leave at `stop_at` with a checkpoint, or start from it."""
    model, n_steps = build(kind), 7
    x = pictures(11)
    learner = Gradient(1e-2, n_steps, warm_up=2, weight_decay=0.1)
    start = load_tensors(folder / "learner.safetensors") if resume else None
    done = None
    for done in fit(model, learner, Shuffled(x, 4, Key(3, "order")), Key(3, "train"), n_steps, start):
        if done.step == stop_at:
            save_tensors(folder / "learner.safetensors", checkpoint(learner, done))
            return {}
    assert done is not None
    tensors = learner.tensors(done.state)
    learner.export(model, done.state)
    return tensors | {f"exported/{name}": tensor for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", DEEP)
def test_a_resumed_run_ends_with_the_same_bytes(kind: str, tmp_path: Path) -> None:
    whole = run(kind, tmp_path)
    for stop_at in (1, 4):
        run(kind, tmp_path, stop_at)
        torch.rand(17)  # what else the process draws does not matter
        resumed = run(kind, tmp_path, resume=True)
        save_tensors(tmp_path / "one.safetensors", whole)
        save_tensors(tmp_path / "other.safetensors", resumed)
        assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()


def test_dropout_from_the_global_generator_would_not_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient, "own_randomness", lambda device, key: contextlib.nullcontext())
    whole = run("vae", tmp_path)
    run("vae", tmp_path, 4)
    assert not same(whole, run("vae", tmp_path, resume=True))


@pytest.mark.parametrize("lost", ["exp_avg_sq", "step", "average"])
def test_a_checkpoint_without_its_moments_would_not_resume(lost: str, tmp_path: Path) -> None:
    whole = run("vae", tmp_path)
    run("vae", tmp_path, 4)
    tensors = load_tensors(tmp_path / "learner.safetensors")
    for name in tensors:
        if name.startswith(f"{lost}/"):
            tensors[name] = torch.ones_like(tensors[name])
    save_tensors(tmp_path / "learner.safetensors", tensors)
    assert not same(whole, run("vae", tmp_path, resume=True))


def test_a_step_leaves_the_global_state_of_torch_alone() -> None:
    learner, model = Gradient(1e-2, 5), build("vae")
    state = learner.init(model)
    before = torch.get_rng_state()
    learner.step(model, state, torch.zeros(4, 12), Key(4, "train"))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_step_is_torch_adamw_with_clipping_and_decay_of_matrices() -> None:
    x, n_steps = points(), 9
    learner = Gradient(0.05, n_steps, warm_up=3, clip=0.5, ema=0.0, weight_decay=0.4)
    model, twin = Line(), Line()
    list(fit(model, learner, Whole(x), Key(5, "train"), n_steps))
    groups = [{"params": [twin.W], "weight_decay": 0.4}, {"params": [twin.b], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * min(1.0, (step + 1) / 3) * 0.5 * (1.0 + math.cos(math.pi * step / n_steps))
        optimizer.zero_grad()
        twin.loss(x, Key(5, "unused").torch())[0].backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()
    assert torch.equal(model.W, twin.W)
    assert torch.equal(model.b, twin.b)
    wrong, undecayed = Line(), replace(learner, weight_decay=0.0)
    list(fit(wrong, undecayed, Whole(x), Key(5, "train"), n_steps))
    assert not torch.allclose(wrong.W, twin.W)


def test_the_rate_rises_then_falls_to_zero() -> None:
    learner = Gradient(0.2, 100, warm_up=10)
    rates = [learner.rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.02)
    assert all(a < b for a, b in zip(rates[:9], rates[1:10], strict=True))
    assert all(a > b for a, b in zip(rates[10:100], rates[11:], strict=True))
    assert rates[50] == pytest.approx(0.1)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("ema", [0.0, 0.5, 0.999])
def test_the_exported_weights_are_the_average(ema: float) -> None:
    model, n_steps = Line(0.5), 6
    learner, key = Gradient(0.1, n_steps, warm_up=0, ema=ema), Key(6, "train")
    average, last = model.W.detach().clone(), model.W
    for done in fit(model, learner, Whole(points()), key, n_steps):
        decay = min(ema, done.step / (9 + done.step)) if ema else 0.0
        last = model.W.detach().clone()
        average = decay * average + (1.0 - decay) * last
    learner.export(model, done.state)
    torch.testing.assert_close(model.W.detach(), average)
    assert torch.equal(model.W, last) == (ema == 0.0)
    assert not model.training


def test_the_number_of_processes_is_checked() -> None:
    with pytest.raises(InputError, match=r"processes: 2 asked for, 1 run; .*torchrun") as caught:
        Gradient(0.1, 5, processes=2).init(Line())
    assert "\n" not in str(caught.value)


def test_a_batch_that_cannot_be_shared_says_so() -> None:
    learner, model = Gradient(0.1, 5), Line()
    one_of_two = SimpleNamespace(process_index=0, device=torch.device("cpu"))
    state = learner.init(model)._replace(accelerator=one_of_two)
    with pytest.raises(InputError, match="batch: 3 images cannot be shared by 2 processes"):
        Gradient(0.1, 5, processes=2).step(model, state, points(3), Key(7, "train"))


class Known(Line):
    """Least squares whose target is the class of each image, and a penalty that changes with the steps."""

    n_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[Tensor, int]] = []

    def loss(  # type: ignore[override]
        self, x: Tensor, generator: torch.Generator, labels: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.told.append((labels, step))
        loss = (x @ self.W.T + self.b - labels[:, None]).square().mean() / (1 + step)
        return loss, {"loss": loss.detach()}


def test_labels_and_steps_reach_the_loss_that_names_them() -> None:
    x, labels, model = points(), torch.arange(12) % 3, Known()
    batches = Shuffled(x, 4, Key(7, "order"), labels)
    list(fit(model, Gradient(0.1, 5, accumulate=2), batches, Key(7, "train"), 5))
    assert [step for _, step in model.told] == [step for step in range(5) for _ in range(2)]
    for step in range(5):
        batch = batches(step)
        assert isinstance(batch, Labelled)
        places = [int((x == row).all(1).nonzero()) for row in batch.x]
        assert torch.equal(batch.labels, labels[places])
        for half in range(2):
            assert torch.equal(model.told[2 * step + half][0], batch.labels[half::2])


@pytest.mark.parametrize("kind", DEEP)
def test_noise_is_the_batch_s_however_it_is_cut(kind: str) -> None:
    model, key = build(kind).double().eval(), Key(7, "noise")
    x = pictures(12).double()
    whole = model.loss(x, key.torch())[0].item()
    for parts in (1, 2, 3, 6):
        losses = [model.loss(x[part::parts], key.share(part, parts))[0].item() for part in range(parts)]
        assert sum(losses) / parts == pytest.approx(whole, rel=1e-12)
    same = [model.loss(x[part::2], key.torch())[0].item() for part in range(2)]
    assert sum(same) / 2 != pytest.approx(whole, rel=1e-6)


def test_strata_are_all_taken_and_belong_to_no_row() -> None:
    first, second = (stratified(Key(7, name).torch(), 30) for name in ("one", "other"))
    for levels in (first, second):
        assert torch.equal((levels * 30).floor().long().sort().values, torch.arange(30))
    assert not torch.equal((first * 30).floor(), (second * 30).floor())
    assert not torch.equal(first.argsort(), torch.arange(30))
    parts = [stratified(Key(7, "one").share(part, 3), 10) for part in range(3)]
    assert torch.equal(torch.stack(parts, 1).flatten(), first)


def trained(kind: str, learner: Gradient, n_steps: int = 50) -> tuple[Tensor, list[float]]:
    """Return all weights, and the losses on the way, after steps on batches of 24."""
    model, batches = build(kind, dropout=0.0), Shuffled(pictures(60), 24, Key(3, "order"))
    losses = [done.metrics["loss"] for done in fit(model, learner, batches, Key(9, "train"), n_steps)]
    return torch.cat([p.detach().flatten() for p in model.parameters()]), losses


@pytest.mark.parametrize("kind", DEEP)
def test_micro_batches_take_the_steps_of_the_batch(kind: str) -> None:
    rule = Gradient(0.05, 50, warm_up=5, optimiser="sgd")
    whole, _ = trained(kind, rule)
    for accumulate in (2, 3):
        cut, _ = trained(kind, replace(rule, accumulate=accumulate))
        torch.testing.assert_close(cut, whole, rtol=0.0, atol=1e-6)
    assert float((whole - torch.cat([p.detach().flatten() for p in build(kind).parameters()])).norm()) > 0.02
    adam = Gradient(1e-3, 50, warm_up=5)
    losses, cut_losses = (trained(kind, replace(adam, accumulate=k))[1] for k in (1, 4))
    assert losses == pytest.approx(cut_losses, abs=1e-4, rel=1e-4)


def test_noise_of_each_part_s_own_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Gradient(0.05, 50, warm_up=5, optimiser="sgd")
    whole, _ = trained("vae", rule)
    own = lambda key, part, parts, device="cpu": key.at(shard=part).torch(device)  # noqa: E731
    monkeypatch.setattr(Key, "share", own)
    cut, _ = trained("vae", replace(rule, accumulate=2))
    assert float((cut - whole).abs().max()) > 1e-4


def test_gradients_that_are_added_up_but_not_averaged_are_told_apart() -> None:
    rule = Gradient(0.05, 9, warm_up=0, clip=None, optimiser="sgd", ema=0.0)
    model, summed = Line(), Line()
    list(fit(model, replace(rule, accumulate=3), Whole(points()), Key(9, "train"), 9))
    with torch.no_grad():
        for step in range(9):
            x = points()
            residual = (x @ summed.W.T + summed.b)[:, 0]
            W, b = 2.0 * (residual[:, None] * x).mean(0), 2.0 * residual.mean()
            summed.W -= rule.rate(step) * W
            summed.b -= rule.rate(step) * b
    torch.testing.assert_close(model.W, summed.W, rtol=0.0, atol=1e-6)
    tripled = Line()
    list(fit(tripled, replace(rule, learning_rate=0.15), Whole(points()), Key(9, "train"), 9))
    assert not torch.allclose(tripled.W, summed.W, atol=1e-3)


def test_the_gradient_is_clipped_to_its_norm() -> None:
    steps = {}
    for clip in (0.25, None):
        model, learner = Line(), Gradient(0.1, 1, warm_up=0, clip=clip, optimiser="sgd")
        (done,) = fit(model, learner, Whole(points()), Key(9, "train"), 1)
        moved = torch.cat([model.W[0] - Line().W[0], model.b - Line().b]).norm().item()
        steps[clip] = moved / 0.1, done.metrics["gradient_norm"]
    assert steps[0.25][1] == steps[None][1] > 1.0
    assert steps[0.25][0] == pytest.approx(0.25, rel=1e-4)
    assert steps[None][0] == pytest.approx(steps[None][1], rel=1e-4)


def test_nobody_and_fp16_without_a_gpu_are_refused() -> None:
    for none in ({"processes": 0}, {"accumulate": 0}):
        with pytest.raises(InputError, match="give at least 1 of each"):
            replace(Gradient(0.1, 5), **none).init(Line())  # type: ignore[arg-type]
    here = SimpleNamespace(scaler=None, device=torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accelerate.Accelerator", lambda **_: here)
        with pytest.raises(InputError, match="mixed_precision: fp16 needs a GPU, this is a cpu: take bf16"):
            Gradient(0.1, 5, mixed_precision="fp16").init(Line())


class Overflowing(Line):
    """Least squares whose gradients are too large for half precision at some of its steps."""

    def __init__(self, at: range) -> None:
        super().__init__()
        self.at = at

    def loss(  # type: ignore[override]
        self, x: Tensor, generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(x, generator)
        return loss * (torch.inf if step in self.at else 1.0), metrics


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 on the CPU: losses are scaled as on GPUs, the arithmetic is that of float32."""

    def accelerator(precision: str | None) -> Any:
        from accelerate import Accelerator

        made = Accelerator(cpu=True)
        made.scaler = torch.amp.GradScaler("cpu", growth_interval=4)
        return made

    monkeypatch.setattr(gradient, "_accelerator", accelerator)


@pytest.mark.usefixtures("scaled")
def test_a_step_of_fp16_that_overflows_is_skipped_and_counted() -> None:
    model, learner, key = Overflowing(range(3, 6)), Gradient(0.05, 12, warm_up=0), Key(9, "train")
    seen = []
    for done in fit(model, learner, Whole(points()), key, 12):
        seen.append((done.metrics, model.W.detach().clone(), done.state.average["W"].clone()))
    assert [metrics["skipped"] for metrics, _, _ in seen] == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert seen[3][0] == {"skipped": 1.0}
    assert all(torch.equal(seen[2][1], seen[k][1]) and torch.equal(seen[2][2], seen[k][2]) for k in (3, 4, 5))
    assert not torch.equal(seen[5][1], seen[6][1])
    # Halved three times, doubled after each four good steps.
    assert float(learner.tensors(done.state)["scaler/scale"]) == 2.0**14


@pytest.mark.usefixtures("scaled")
def test_the_scale_of_the_loss_is_resumed() -> None:
    learner, key = Gradient(0.05, 12, warm_up=0), Key(9, "train")
    *_, whole = fit(Overflowing(range(3, 6)), learner, Whole(points()), key, 12)
    for stop in (2, 4, 7):
        steps = fit(Overflowing(range(3, 6)), learner, Whole(points()), key, 12)
        kept = checkpoint(learner, [next(steps) for _ in range(stop)][-1])
        *_, done = fit(Overflowing(range(3, 6)), learner, Whole(points()), key, 12, kept)
        assert same(learner.tensors(done.state), learner.tensors(whole.state))
        kept["scaler/scale"] *= 2.0
        *_, done = fit(Overflowing(range(3, 6)), learner, Whole(points()), key, 12, kept)
        assert not same(learner.tensors(done.state), learner.tensors(whole.state))


@pytest.mark.usefixtures("scaled")
def test_only_many_overflows_in_a_row_end_the_run() -> None:
    learner, n = Gradient(0.05, 200, warm_up=0), gradient._MOST_SKIPPED
    list(fit(Overflowing(range(3, 3 + n)), learner, Whole(points()), Key(9, "train"), 60))
    endless = fit(Overflowing(range(3, 200)), learner, Whole(points()), Key(9, "train"), 200)
    with pytest.raises(
        FloatingPointError, match=f"{n + 1} steps in a row, up to {4 + n}, are not finite"
    ) as e:
        list(endless)
    assert "\n" not in str(e.value)


BF16 = """
import sys
sys.path.insert(0, "tests")
from test_gradient import Gradient, Key, Line, Whole, fit, points
for precision in sys.argv[1:]:
    learner, model = Gradient(0.05, 20, warm_up=0, mixed_precision=precision or None), Line()
    losses = [done.metrics["loss"] for done in fit(model, learner, Whole(points()), Key(8, "train"), 20)]
    print(losses[0], losses[-1], model.W.dtype)
"""


def test_bf16_stays_near_float32() -> None:
    lines = {}
    for precision in ("", "bf16"):  # Accelerate keeps one precision a process
        command = [sys.executable, "-c", BF16, precision]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        lines[precision] = answer.stdout.split()
    assert lines["bf16"][2] == "torch.float32"
    for ours, exact in zip(lines["bf16"][:2], lines[""][:2], strict=True):
        assert ours != exact
        # bfloat16 keeps 8 bits: a square is right to about 1 %.
        assert float(ours) == pytest.approx(float(exact), rel=0.02)


TWO = """
import sys
import torch
from genmodels.artifacts import save_tensors
from genmodels.learners.fit import Shuffled, Whole, checkpoint, fit
from genmodels.learners.gradient import Gradient
from genmodels.streams import Key
sys.path.insert(0, sys.argv[1])
from test_gradient import Line, build, points
torch.set_num_threads(1)
out = sys.argv[2]
learner = Gradient(1e-2, 6, warm_up=2, processes=2)
x = torch.bernoulli(torch.full((12, 12), 0.4), generator=Key(3, "x").torch())
for kind, model, batches in (
    ("vae", build("vae"), Shuffled(x, 4, Key(3, "order"))),
    ("diffusion", build("diffusion"), Shuffled(x, 4, Key(3, "order"))),
    ("line", Line(), Whole(points())),
):
    for done in fit(model, learner, batches, Key(9, "train"), 6):
        pass
    tensors = checkpoint(learner, done)
    if done.state.accelerator.is_main_process:
        save_tensors(f"{out}/{kind}.safetensors", tensors)
"""


@pytest.mark.slow
def test_two_processes_give_the_same_bytes_twice(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        arguments = [str(script), str(ROOT / "tests"), str(tmp_path / name)]
        subprocess.run([*torchrun, *arguments], cwd=ROOT, check=True, capture_output=True, timeout=280)
    for kind in ("vae", "diffusion", "line"):
        one, other = (tmp_path / name / f"{kind}.safetensors" for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()
    # Without noise in the loss, two processes that share a batch take the steps of one.
    model, learner = Line(), Gradient(1e-2, 6, warm_up=2)
    list(fit(model, learner, Whole(points()), Key(9, "train"), 6))
    shared = load_tensors(tmp_path / "one" / "line.safetensors")
    torch.testing.assert_close(shared["weight/W"], model.W.detach(), rtol=1e-5, atol=1e-6)
    halved = Line()
    list(fit(halved, learner, Whole(points()[::2]), Key(9, "train"), 6))
    assert not torch.allclose(shared["weight/W"], halved.W.detach(), rtol=1e-5, atol=1e-6)
