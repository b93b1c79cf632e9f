"""What all learning rules of energy models share: how a direction becomes a step."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.protocols import HasFirstGuess
from genmodels.streams import Key

Tensors = dict[str, Tensor]  # by name of parameter
Schedule = Literal["linear", "cosine", "inverse"]


class Climb(NamedTuple):
    """How far a rule has come."""

    n_steps: int
    chains: Any  # of the rule; None where it has none, and before the first step
    centres: Tensors  # running means of the units of each bias
    average: Tensors  # of the parameters; empty where none is kept


class Direction(NamedTuple):
    """Where a rule wants the parameters to go."""

    ascent: Tensors
    chains: Any
    centres: Tensors
    metrics: dict[str, float]
    rate: float | None = None  # of a rule that chooses its own step


class Moved(NamedTuple):
    """What a step leaves behind besides the parameters."""

    chains: Any
    centres: Tensors
    metrics: dict[str, float]
    norm: float  # of the direction
    rate: float  # step over direction


@dataclass(frozen=True)
class Ascent(ABC):
    """θ ← θ + η_t · direction, on a schedule, with weight decay; averaged parameters if asked for.

    Attributes:
        learning_rate: η of the first step. It refers to ±1 units, where W is a quarter of that of 0/1 units.
        weight_decay: A penalty ½ weight_decay |W|² on `weight_names`.
        n_steps: η falls to 0 over so many steps; constant if None.
        schedule: "linear", or "cosine", or "inverse": η/(1 + 9t/n_steps), which does not reach 0.
        ema: Decay of an average of the parameters that `export` puts in their place; 0 keeps none. The share
            of step t is 1 − min(ema, (1 + t)/(10 + t)), for a short run not to remember its start.
            Polyak & Juditsky 1992.

    Raises:
        InputError: a setting that makes no sense.
    """

    learning_rate: float = 0.02
    weight_decay: float = 0.0
    n_steps: int | None = None
    schedule: Schedule = "linear"
    ema: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        if self.schedule not in get_args(Schedule):
            known = ", ".join(get_args(Schedule))
            raise InputError(f"{self.name}: schedule is '{self.schedule}', expected one of {known}")
        if not 0.0 <= self.ema < 1.0:
            raise InputError(f"{self.name}: ema is {self.ema}, give a number from 0 up to, but not, 1")

    @property
    def name(self) -> str:
        """Return what messages call the rule."""
        return type(self).__name__

    @abstractmethod
    def direction(self, model: Any, state: Climb, batch: Tensor, key: Key) -> Direction:
        """Return where to go from the model's parameters  # batch (image, visible).

        Raises:
            InputError: the rule does not apply to the model.
        """

    def start(self, model: Any, batch: Tensor, key: Key) -> Any:
        """Return the chains before the first step; `key` is for them."""
        return None

    def chain_tensors(self, chains: Any) -> Tensors:
        """Return what the chains are written down as."""
        return {}

    def restart(self, model: Any, tensors: Tensors) -> Any:
        """Return the chains that `chain_tensors` wrote."""
        return None

    def init(self, model: Any) -> Climb:
        """Return the state before the first step: centres and chains start with it."""
        return Climb(0, None, {}, {})

    @torch.no_grad()
    def step(self, model: Any, state: Climb, batch: Tensor, key: Key) -> tuple[Climb, dict[str, float]]:
        """Change the parameters once  # batch (image, visible).

        Metrics: those of the rule; `gradient_norm`, |direction|, weight decay included; `learning_rate`.

        Raises:
            FloatingPointError: the direction is not finite; the parameters are then left as they were.
            InputError: the rule does not apply to the model.
        """
        if state.n_steps == 0:
            state = self._begin(model, state, batch, key.child("start"))
        moved = self.move(model, state, batch, key)
        if not math.isfinite(moved.norm):
            raise FloatingPointError(
                f"{self.name}: the gradient is not finite at step {state.n_steps + 1}: try a smaller "
                "learning rate, or look for non-finite data; the parameters are those of the step before"
            )
        average = self._followed(model, state)
        return Climb(state.n_steps + 1, moved.chains, moved.centres, average), moved.metrics | {
            "gradient_norm": moved.norm,
            "learning_rate": moved.rate,
        }

    def move(self, model: Any, state: Climb, batch: Tensor, key: Key) -> Moved:
        """Change the parameters along the direction, unless that is not finite  # batch (image, visible)."""
        return self.go(model, state, self.direction(model, state, batch, key))

    def go(self, model: Any, state: Climb, to: Direction) -> Moved:
        """Change the parameters along a direction, unless that is not finite."""
        norm = math.sqrt(sum(float(change.square().sum()) for change in to.ascent.values()))
        rate = self.rate(state.n_steps) if to.rate is None else to.rate
        if math.isfinite(norm):
            for name, parameter in model.named_parameters():
                parameter.add_(to.ascent[name], alpha=rate)
        return Moved(to.chains, to.centres, to.metrics, norm, rate)

    def rate(self, step: int) -> float:
        """Return η of step `step`, counted from 0."""
        if self.n_steps is None:
            return self.learning_rate
        t = step / self.n_steps
        if self.schedule == "inverse":
            return self.learning_rate / (1.0 + 9.0 * t)
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(t, 1.0)))
        return self.learning_rate * max(0.0, 1.0 - t)

    def penalty(self, model: Any) -> Tensors:
        """Return the gradient of the penalty on the weights, 0 of the other parameters."""
        return {
            name: self.weight_decay * parameter if name in model.weight_names else torch.zeros_like(parameter)
            for name, parameter in model.named_parameters()
        }

    def _begin(self, model: Any, state: Climb, batch: Tensor, key: Key) -> Climb:
        if isinstance(model, HasFirstGuess):
            model.first_guess(batch, key)
        average = {name: p.clone() for name, p in model.named_parameters()} if self.ema > 0.0 else {}
        return state._replace(chains=self.start(model, batch, key.child("chains")), average=average)

    def _followed(self, model: Any, state: Climb) -> Tensors:
        if not state.average:
            return {}
        share = 1.0 - min(self.ema, (1 + state.n_steps) / (10 + state.n_steps))
        parameters = dict(model.named_parameters())
        return {name: torch.lerp(mean, parameters[name], share) for name, mean in state.average.items()}

    def tensors(self, state: Climb) -> Tensors:
        """Return the state as named tensors."""
        groups = {
            "chains": {} if state.chains is None else self.chain_tensors(state.chains),
            "centre": state.centres,
            "average": state.average,
        }
        named = {f"{group}.{name}": t for group, each in groups.items() for name, t in each.items()}
        return {"n_steps": torch.tensor(state.n_steps)} | named

    def restore(self, model: Any, tensors: Tensors) -> Climb:
        """Return the state that `tensors` wrote."""

        def group(prefix: str) -> Tensors:
            return {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}

        chains = self.restart(model, group("chains.")) if group("chains.") else None
        return Climb(int(tensors["n_steps"]), chains, group("centre."), group("average."))

    @torch.no_grad()
    def export(self, model: Any, state: Climb) -> None:
        """Put the averaged parameters into `model`, where an average was kept."""
        parameters = dict(model.named_parameters())
        for name, mean in state.average.items():
            parameters[name].copy_(mean)
