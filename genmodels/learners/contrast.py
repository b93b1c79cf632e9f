"""The gradient of the log-likelihood: averages over the data less averages over the model."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.learners import surrogate
from genmodels.learners.ascent import Ascent, Climb, Direction, Moved, Tensors
from genmodels.protocols import (
    Chained,
    Contrasted,
    HasCentres,
    HasClimb,
    HasContrast,
    HasContrastiveStep,
    HasJointStatistics,
    HasStatistics,
    Kernel,
    Pace,
)
from genmodels.streams import Key

_SLIDE = 0.01  # share of the newest batch in the running centres
Surrogate = Literal["none", "global", "local"]


class Chains(NamedTuple):
    """Markov chains that outlive a step."""

    kernel: Kernel[Any]
    particles: Any  # the kernel's state


class Fantasy(NamedTuple):
    """What a rule takes the model's averages over."""

    x: Tensor  # (replica, site), or visible sites alone
    weights: Tensor | None  # of each, summing to 1; equal if None  # (replica,)
    chains: Any  # those to go on with
    metrics: dict[str, float]
    first: Tensor | None = None  # fields of the data on the hidden units, where the rule had to know them


class Compared(NamedTuple):
    """What a batch says beside a negative phase."""

    fantasy: Fantasy
    difference: Tensors  # ⟨s⟩_data − ⟨s⟩_model, by parameter
    centres: Tensors  # of the units of each bias; none if not wanted
    metrics: dict[str, float]


@dataclass(frozen=True)
class Contrast(Ascent):
    """Ascent along ⟨s⟩_data − ⟨s⟩_model, s = −∂E/∂θ; what tells the rules apart is the negative phase.

    Ackley, Hinton & Sejnowski 1985. Attributes beside those of `Ascent`:

    Attributes:
        centred: Whether the gradient is centred at running means of the units, where the model says how.
        surrogate: How long a step is. "none": η. "global": 1/sup λ_max of the curvature, which never lowers
            the likelihood if the model's averages are exact. "local": 1/λ_max at the parameters, by power
            iteration over the negative phase, halved until the likelihood rises, as measured there; no step
            if it never does. Both need an uncentred direction, and replace η and its schedule.
    """

    centred: bool = True
    surrogate: Surrogate = "none"

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        super().__post_init__()
        if self.surrogate not in get_args(Surrogate):
            known = ", ".join(get_args(Surrogate))
            raise InputError(f"{self.name}: surrogate is '{self.surrogate}', expected one of {known}")
        if self.surrogate != "none" and self.centred:
            raise InputError(f"{self.name}: a surrogate step is for the plain gradient: set centred to false")

    @abstractmethod
    def fantasy(self, model: Any, chains: Any, batch: Tensor, key: Key) -> Fantasy:
        """Return configurations that stand for the model, from `chains` on."""

    def chained(self, chains: Any, batch: Tensor) -> Chained | None:
        """Return the chains of a step, where block Gibbs from `chains` or `batch` on is all they do."""
        return None

    def chains_at(self, chains: Any, x: Tensor) -> Any:
        """Return what to go on with, the chains of `chained` having come to x  # (chain, site)."""
        return None

    def move(self, model: Any, state: Climb, batch: Tensor, key: Key) -> Moved:
        """Make the model's own step, or go as it does, where it has a way to, else along the direction."""
        if self.surrogate != "none":
            return super().move(model, state, batch, key)
        slide = (1.0 if state.n_steps == 0 else _SLIDE) if self.centred else 0.0
        pace, kind = Pace(self.rate(state.n_steps), self.weight_decay, slide), type(model)
        chained = self.chained(state.chains, batch)
        # Of the class: asking the object takes Python a tenth of such a step.
        if chained is not None and issubclass(kind, HasContrastiveStep):
            stepped = model.contrastive_step(batch, chained, state.centres, pace, key)
            if stepped is not None:
                chains = self.chains_at(state.chains, stepped.x)
                metrics = {"moment_mismatch": stepped.mismatch, "acceptance": 1.0}
                centres = stepped.centres if self.centred else {}
                return Moved(chains, centres, metrics, stepped.norm, pace.rate)
        found = self._compared(model, state, batch, key)
        norm = model.climb(found.difference, found.centres, pace) if issubclass(kind, HasClimb) else None
        if norm is None:
            return self.go(model, state, self._along(model, found, batch, key))
        return Moved(found.fantasy.chains, found.centres, found.metrics, norm, pace.rate)

    def direction(self, model: Any, state: Climb, batch: Tensor, key: Key) -> Direction:
        """Return the centred, decayed difference of the averages.

        Metrics: `moment_mismatch`, the root mean square of ⟨x⟩_data − ⟨x⟩_model; those of the chains.
        """
        return self._along(model, self._compared(model, state, batch, key), batch, key)

    def _compared(self, model: Any, state: Climb, batch: Tensor, key: Key) -> Compared:
        if not isinstance(model, HasStatistics):
            raise InputError(f"{self.name}: {type(model).__name__} is no energy model: use another learner")
        fantasy = self.fantasy(model, state.chains, batch, key)
        difference, means = _contrasted(model, batch, fantasy)
        visible, weights = fantasy.x[:, : batch.shape[1]], fantasy.weights
        mean = visible.mean(0, dtype=batch.dtype) if weights is None else weights.to(visible) @ visible
        mismatch = float((batch.mean(0) - mean).square().mean().sqrt())
        metrics = {"moment_mismatch": mismatch} | fantasy.metrics
        return Compared(fantasy, difference, self._centres(model, state, means), metrics)

    def _along(self, model: Any, found: Compared, batch: Tensor, key: Key) -> Direction:
        fantasy, difference, centres, metrics = found
        penalty = self.penalty(model)
        if centres:
            ascent = model.centred(difference, penalty, centres)
        else:
            ascent = {name: difference[name] - penalty[name] for name in difference}
        rate, more = self._surrogate_rate(model, ascent, batch, fantasy, key)
        return Direction(ascent, fantasy.chains, centres, metrics | more, rate)

    def _centres(self, model: HasStatistics, state: Climb, means: Tensors) -> Tensors:
        if not (self.centred and isinstance(model, HasCentres)):
            return {}
        if state.n_steps == 0:
            return means
        return {name: torch.lerp(state.centres[name], mean, _SLIDE) for name, mean in means.items()}

    def _surrogate_rate(
        self, model: Any, ascent: Tensors, batch: Tensor, fantasy: Fantasy, key: Key
    ) -> tuple[float | None, dict[str, float]]:
        if self.surrogate == "none":
            return None, {}
        if self.surrogate == "global":
            return surrogate.global_rate(model, self.weight_decay), {}
        visible = fantasy.x[:, : batch.shape[1]]
        samples = surrogate.Samples(batch, visible, fantasy.weights)
        rate, gain = surrogate.local_rate(model, ascent, samples, self.weight_decay, key.child("curvature"))
        return rate, {"surrogate_gain": gain}


def _contrasted(model: HasStatistics, batch: Tensor, fantasy: Fantasy) -> Contrasted:
    if isinstance(model, HasContrast) and fantasy.weights is None:
        return model.contrast(batch, fantasy.x, fantasy.first)
    data, averages = model.statistics(batch), model_statistics(model, fantasy, batch.shape[1])
    means = {name: mean for name, mean in data.items() if name not in model.weight_names}
    return Contrasted({name: data[name] - averages[name] for name in data}, means)


def model_statistics(model: Any, fantasy: Fantasy, n_visible: int) -> Tensors:
    """Return ⟨s⟩ over a negative phase, from whole configurations where the model says so."""
    if isinstance(model, HasJointStatistics) and fantasy.x.shape[1] > n_visible:
        return model.joint_statistics(fantasy.x, fantasy.weights)
    found: Tensors = model.statistics(fantasy.x[:, :n_visible], fantasy.weights)
    return found
