"""Stochastic gradient descent on a model's own loss: AdamW, a cosine schedule, averaged weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.streams import Key

Precision = Literal["no", "bf16"]
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class _Loss(nn.Module):
    """The model's loss as a forward pass, which is what data-parallel wrappers and autocast hook into."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        loss: tuple[Tensor, dict[str, Tensor]] = self.model.loss(x, generator)
        return loss


class GradientState(NamedTuple):
    """A run's state beside the model's own parameters."""

    accelerator: Any
    loss: Any
    optimizer: Any
    average: dict[str, Tensor]
    step: int


@contextmanager
def _own_randomness(device: torch.device, key: Key) -> Iterator[None]:
    """Seed torch's global generators, from which dropout draws, and put them back afterwards."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filling: Any = torch.utils.deterministic
    fill = filling.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key.counter())
        # Some CUDA kernels have no deterministic form: a warning says so, and equality is statistical.
        torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
        filling.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            filling.fill_uninitialized_memory = fill


@dataclass(frozen=True)
class Gradient:
    """AdamW on `model.loss(x, generator)`, with an exponential average of the weights for evaluation.

    Each step's noise and dropout come from its key alone, so that a resumed run takes the same steps. The
    average moves by 1 − min(ema, (1 + step)/(10 + step)), for a short run not to remember its start.
    Loshchilov & Hutter 2019 (AdamW), 2017 (cosine); Polyak & Juditsky 1992 (averaging).

    Attributes:
        learning_rate: At its peak.
        n_steps: Length of the cosine, to a learning rate of 0.
        warmup: Steps of linear rise.
        clip: Largest norm of the gradient.
        ema: Decay of the average; 0 keeps the weights themselves.
        weight_decay: Decoupled, on matrices and convolutions only.
        betas: Decay of AdamW's moments.
        precision: "no" (float32) or "bf16".
        processes: World size the run is meant for; each process takes its share of the batch.
    """

    learning_rate: float
    n_steps: int
    warmup: int = 100
    clip: float = 1.0
    ema: float = 0.999
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    precision: Precision = "no"
    processes: int = 1

    def init(self, model: Any) -> GradientState:
        """Return the state at step 0.

        Raises:
            InputError: the number of processes that run is not `processes`, or the model has no loss.
        """
        if not hasattr(model, "loss"):
            raise InputError(f"Gradient: {type(model).__name__} has no loss: use another learner")
        from accelerate import Accelerator

        # Without being told of the CPU, Accelerate runs torchrun's processes as so many single ones.
        accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=self.precision)
        if accelerator.num_processes != self.processes:
            raise InputError(
                f"processes: {self.processes} asked for, {accelerator.num_processes} run; "
                f"start them with torchrun --nproc_per_node {self.processes}"
            )
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(
            groups, lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay
        )
        loss, optimizer = accelerator.prepare(_Loss(model), optimizer)
        average = {name: p.detach().clone() for name, p in model.named_parameters()}
        return GradientState(accelerator, loss, optimizer, average, 0)

    def rate(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from 0."""
        rise = min(1.0, (step + 1) / max(self.warmup, 1))
        return self.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * min(step / self.n_steps, 1.0)))

    def step(
        self, model: Any, state: GradientState, batch: Tensor, key: Key
    ) -> tuple[GradientState, dict[str, float]]:
        """Take one step on `batch`  # (image, site); `key` is this step's own.

        Raises:
            InputError: the processes cannot share the batch equally.
        """
        accelerator, optimizer = state.accelerator, state.optimizer
        rank = accelerator.process_index
        if len(batch) % self.processes:
            raise InputError(
                f"batch: {len(batch)} images cannot be shared by {self.processes} processes; give a multiple"
            )
        key = key.at(shard=rank) if self.processes > 1 else key
        x = batch[rank :: self.processes].to(accelerator.device)
        for group in optimizer.param_groups:
            group["lr"] = self.rate(state.step)
        model.train()
        with _own_randomness(accelerator.device, key.child("dropout")):
            loss, metrics = state.loss(x, key.torch(accelerator.device))
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(model.parameters(), self.clip)
            optimizer.step()
            optimizer.zero_grad()
        self._follow(model, state)
        values = {name: float(accelerator.reduce(value, "mean")) for name, value in metrics.items()}
        return state._replace(step=state.step + 1), values | {"gradient_norm": float(norm)}

    @torch.no_grad()
    def _follow(self, model: Any, state: GradientState) -> None:
        share = 1.0 - min(self.ema, (1 + state.step) / (10 + state.step)) if self.ema > 0.0 else 1.0
        current = [p.detach() for p in model.parameters()]
        torch._foreach_lerp_(list(state.average.values()), current, share)

    def tensors(self, state: GradientState) -> dict[str, Tensor]:
        """Return step, weights, their average and AdamW's moments, copied."""
        model = state.accelerator.unwrap_model(state.loss).model
        saved = {"step": torch.tensor(state.step)}
        for name, parameter in model.named_parameters():
            saved[f"weight/{name}"] = parameter.detach().clone()
            saved[f"average/{name}"] = state.average[name].clone()
            for moment, value in state.optimizer.state[parameter].items():
                saved[f"{moment}/{name}"] = value.detach().clone()
        return saved

    def restore(self, model: Any, tensors: dict[str, Tensor]) -> GradientState:
        """Return the state that `tensors` wrote, its weights put into `model`; the next step is the same."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[f"weight/{name}"])
        state = self.init(model)
        for name, parameter in model.named_parameters():
            state.average[name].copy_(tensors[f"average/{name}"])
            moments = {m: tensors[f"{m}/{name}"].clone() for m in _MOMENTS if f"{m}/{name}" in tensors}
            # AdamW keeps its count of steps where it was made, the moments beside their parameter.
            state.optimizer.state[parameter] = {
                m: value if m == "step" else value.to(parameter.device) for m, value in moments.items()
            }
        return state._replace(step=int(tensors["step"]))

    @torch.no_grad()
    def export(self, model: Any, state: GradientState) -> None:
        """Put the averaged weights into `model`, in evaluation mode; to train on, start from a checkpoint."""
        for name, parameter in model.named_parameters():
            parameter.copy_(state.average[name])
        model.eval()
