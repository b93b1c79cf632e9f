"""Stochastic gradient descent on a model's own loss, on any number of devices: schedule, averaged weights."""

import inspect
import math
import os
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.learners.randomness import own_randomness
from genmodels.protocols import HasLoss, Labelled
from genmodels.streams import Key

RENDEZVOUS = "GENMODELS_RENDEZVOUS"  # a file by which the processes of this machine find each other
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_MOST_SKIPPED = 30  # in a row: the scale of the loss has been halved as often, from 2^16 on


class _Loss(nn.Module):
    """The model's loss as a forward pass, which is what autocast hooks into."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, generator: torch.Generator, **known: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss: tuple[Tensor, dict[str, Tensor]] = self.model.loss(x, generator, **known)
        return loss


class GradientState(NamedTuple):
    """A run's state beside the model's own parameters."""

    accelerator: Any
    loss: Any
    optimizer: Any
    parameters: list[Tensor]
    average: dict[str, Tensor]
    takes_step: bool  # the model's loss changes with the number of steps
    step: int = 0
    n_skipped: int = 0  # steps in a row, up to now


def _accelerator(precision: str | None) -> Any:
    """Return where and in which arithmetic this process works."""
    from accelerate import Accelerator, InitProcessGroupKwargs

    cpu, meeting = not torch.cuda.is_available(), []
    if RENDEZVOUS in os.environ and "RANK" in os.environ:  # else wherever torchrun or Ray say
        # Of processes on CPUs Accelerate says itself which is which.
        who = "" if cpu else f"?rank={os.environ['RANK']}&world_size={os.environ['WORLD_SIZE']}"
        meeting.append(InitProcessGroupKwargs(init_method=f"file://{os.environ[RENDEZVOUS]}{who}"))
    # Without being told of the CPU, Accelerate runs torchrun's processes as so many single ones.
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision or "no", kwargs_handlers=meeting)
    if precision == "fp16" and accelerator.scaler is None:
        # Accelerate would train in float32 without a word.
        raise InputError(f"mixed_precision: fp16 needs a GPU, this is a {accelerator.device.type}: take bf16")
    return accelerator


@dataclass(frozen=True)
class Gradient:
    """AdamW or plain gradient descent on `model.loss`, with an exponential average of the weights.

    Each step's noise and dropout come from its key alone, so that a resumed run takes the same steps. A batch
    is cut into micro-batches, `accumulate` for each process, whose gradients are averaged: noise is drawn for
    the batch as a whole, so that the cut changes roundings only (and dropout). The average of the weights
    moves by 1 − min(ema, (1 + step)/(10 + step)), for a short run not to remember its start. A step whose
    gradient is not finite changes nothing: it ends the run, but under fp16 it is skipped, and the scale of
    the loss halved. Loshchilov & Hutter 2019 (AdamW), 2017 (cosine); Polyak & Juditsky 1992 (averaging);
    Micikevicius et al. 2018 (fp16).

    Attributes:
        learning_rate: At its peak.
        n_steps: Length of the cosine, to a learning rate of 0.
        warm_up: Steps of linear rise.
        clip: Largest norm of the gradient; None for any.
        ema: Decay of the average; 0 keeps the weights themselves.
        weight_decay: Decoupled, on matrices and convolutions only.
        optimiser: "adamw" or "sgd" (without momentum).
        betas: Decay of AdamW's moments.
        mixed_precision: None (float32), "bf16", or "fp16" on GPUs; weights and their steps are float32.
        accumulate: Micro-batches one after the other that make each process's share of a batch.
        processes: World size the run is meant for.
    """

    learning_rate: float
    n_steps: int
    warm_up: int = 100
    clip: float | None = 1.0
    ema: float = 0.999
    weight_decay: float = 0.0
    optimiser: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    mixed_precision: Literal["bf16", "fp16"] | None = None
    accumulate: int = 1
    processes: int = 1

    def init(self, model: Any) -> GradientState:
        """Return the state at step 0.

        Raises:
            InputError: the model has no loss, the number of processes that run is not `processes`, there are
                no micro-batches, or the device has no such precision.
        """
        if not isinstance(model, HasLoss):
            raise InputError(f"Gradient: {type(model).__name__} has no loss: use another learner")
        if self.accumulate < 1 or self.processes < 1:
            raise InputError(
                f"processes: {self.processes}, accumulate: {self.accumulate}: give at least 1 of each"
            )
        accelerator = _accelerator(self.mixed_precision)
        if accelerator.num_processes != self.processes:
            raise InputError(
                f"processes: {self.processes} asked for, {accelerator.num_processes} run; "
                f"start them with torchrun --nproc_per_node {self.processes}"
            )
        takes_step = "step" in inspect.signature(model.loss).parameters
        # No data-parallel wrapper: its buckets, hence the order of sums, change after a run's first step.
        loss = accelerator.prepare_model(_Loss(model), evaluation_mode=True)
        optimizer = self._optimizer(model)
        named = dict(loss.model.named_parameters())
        average = {name: p.detach().clone() for name, p in named.items()}
        return GradientState(accelerator, loss, optimizer, list(named.values()), average, takes_step)

    def _optimizer(self, model: Any) -> torch.optim.Optimizer:
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        settings: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.optimiser == "sgd":
            return torch.optim.SGD(groups, **settings)
        return torch.optim.AdamW(groups, betas=self.betas, fused=True, **settings)

    def rate(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from 0."""
        rise = min(1.0, (step + 1) / max(self.warm_up, 1))
        return self.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * min(step / self.n_steps, 1.0)))

    def step(
        self, model: Any, state: GradientState, batch: Tensor | Labelled, key: Key
    ) -> tuple[GradientState, dict[str, float]]:
        """Take one step on `batch`  # (image, site); `key` is this step's own.

        Raises:
            InputError: the batch cannot be cut into equal parts.
            FloatingPointError: under fp16 too many steps in a row were skipped.
        """
        accelerator, optimizer = state.accelerator, state.optimizer
        for group in optimizer.param_groups:
            group["lr"] = self.rate(state.step)
        if not model.training:
            model.train()
        mask = key.child("dropout").at(shard=accelerator.process_index if self.processes > 1 else None)
        with own_randomness(accelerator.device, mask):
            names, figures = self._backward(state, batch, key)
        figures = self._shared(state, figures)
        if accelerator.scaler is not None:
            accelerator.scaler.unscale_(optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in state.parameters if p.grad is not None])
        # One transfer a step, and before the weights change.
        values = torch.cat([figures, norm[None]]).tolist()
        if self.clip is not None and values[-1] > self.clip:
            torch.nn.utils.clip_grads_with_norm_(state.parameters, self.clip, norm)
        taken = self._move(state, all(map(math.isfinite, values)))
        optimizer.zero_grad()
        if taken:
            self._follow(state)
        metrics = dict(zip([*names, "gradient_norm"], values, strict=True))
        if accelerator.scaler is None:
            return state._replace(step=state.step + 1), metrics
        metrics = metrics | {"skipped": 0.0} if taken else {"skipped": 1.0}
        n_skipped = 0 if taken else state.n_skipped + 1
        return state._replace(step=state.step + 1, n_skipped=n_skipped), metrics

    def _move(self, state: GradientState, finite: bool) -> bool:
        """Change the weights, if the gradients are finite; return whether."""
        scaler = state.accelerator.scaler
        if scaler is None:
            if finite:
                state.optimizer.step()
            return finite
        scale = scaler.get_scale()
        scaler.step(state.optimizer)
        scaler.update()
        if scaler.get_scale() >= scale:
            return True
        if state.n_skipped == _MOST_SKIPPED:
            raise FloatingPointError(
                f"training: the gradients of {_MOST_SKIPPED + 1} steps in a row, up to {state.step + 1}, "
                "are not finite in fp16: try a smaller learning rate or bf16, or look for non-finite data"
            )
        return False

    def _backward(
        self, state: GradientState, batch: Tensor | Labelled, key: Key
    ) -> tuple[list[str], Tensor]:
        """Add up the gradients of this process's micro-batches; return names and means of their metrics."""
        device, parts = state.accelerator.device, self.processes * self.accumulate
        x, labels = batch if isinstance(batch, Labelled) else (batch, None)
        if len(x) % parts:
            times = f" {self.accumulate} times" if self.accumulate > 1 else ""
            raise InputError(
                f"batch: {len(x)} images cannot be shared by {self.processes} processes{times}; "
                f"give a multiple of {parts}"
            )
        known: dict[str, Any] = {"step": state.step} if state.takes_step else {}
        first, figures = state.accelerator.process_index * self.accumulate, []
        for part in range(first, first + self.accumulate):
            rows = slice(part, None, parts)
            if labels is not None:
                known["labels"] = labels[rows].to(device)
            loss, metrics = state.loss(x[rows].to(device), key.share(part, parts, device), **known)
            state.accelerator.backward(loss / self.accumulate)
            figures.append(torch.stack([value.float() for value in metrics.values()]))
        return list(metrics), figures[0] if len(figures) == 1 else torch.stack(figures).mean(0)

    def _shared(self, state: GradientState, figures: Tensor) -> Tensor:
        """Average gradients and figures over the processes, in one message; return the figures."""
        if self.processes == 1:
            return figures
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in state.parameters]
        pieces = [*gradients, figures]
        whole = state.accelerator.reduce(torch.cat([piece.flatten() for piece in pieces]), "mean")
        *gradients, figures = whole.split([piece.numel() for piece in pieces])
        for parameter, gradient in zip(state.parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return figures

    @torch.no_grad()
    def _follow(self, state: GradientState) -> None:
        share = 1.0 - min(self.ema, (1 + state.step) / (10 + state.step)) if self.ema > 0.0 else 1.0
        torch._foreach_lerp_(list(state.average.values()), state.parameters, share)

    def tensors(self, state: GradientState) -> dict[str, Tensor]:
        """Return steps, weights, their average, the optimiser's moments and the scale of fp16, copied."""
        saved = {"step": torch.tensor(state.step), "n_skipped": torch.tensor(state.n_skipped)}
        for name, parameter in state.loss.model.named_parameters():
            saved[f"weight/{name}"] = parameter.detach().clone()
            saved[f"average/{name}"] = state.average[name].clone()
            for moment, value in state.optimizer.state[parameter].items():
                saved[f"{moment}/{name}"] = value.detach().clone()
        if state.accelerator.scaler is not None:
            for name, number in state.accelerator.scaler.state_dict().items():
                saved[f"scaler/{name}"] = torch.tensor(number, dtype=torch.float64)
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
            state.optimizer.state[parameter] = {m: v.to(parameter.device) for m, v in moments.items()}
        if (scaler := state.accelerator.scaler) is not None:
            written = scaler.state_dict()
            kinds = {name: type(number) for name, number in written.items()}
            scaler.load_state_dict({name: kind(tensors[f"scaler/{name}"]) for name, kind in kinds.items()})
        return state._replace(step=int(tensors["step"]), n_skipped=int(tensors["n_skipped"]))

    @torch.no_grad()
    def export(self, model: Any, state: GradientState) -> None:
        """Put the averaged weights into `model`, in evaluation mode; to train on, start from a checkpoint."""
        for name, parameter in model.named_parameters():
            parameter.copy_(state.average[name])
        model.eval()
