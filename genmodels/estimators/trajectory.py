"""log Z while a model learns: annealed importance sampling whose path is the training itself."""

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genmodels.estimate import Estimate, of_scalar, undetermined
from genmodels.estimators import jackknife
from genmodels.kernels.choose import kernel_for
from genmodels.paths import draw_0, log_z_0
from genmodels.protocols import Kernel
from genmodels.samplers import population
from genmodels.streams import Key

MAX_ERROR = 0.5  # nats; a larger one is none that a curve is drawn with
_LEAST_ESS = 0.5  # share of the walkers of a population, below which it is resampled


class Followers(NamedTuple):
    """Populations of walkers that have come along with the parameters so far."""

    parameters: dict[str, Tensor]
    x: Tensor  # (population · walker, site)
    log_w: Tensor  # (population, walker), since the last resampling, float64
    log_z: Tensor  # (population,), log Z at the last resampling, nats, float64


@dataclass(frozen=True)
class Trajectory:
    """Walkers drawn where all parameters are 0, and taken along the parameters of a model that learns.

    Between two calls of `follow` the parameters go in a straight line: log w += E_θ(x) − E_θ'(x) at fixed x,
    then sweeps at θ'. ⟨w⟩ = Z(θ')/Z(0) at any speed; a population of which less than half is worth something
    is resampled. The log of a mean is biased low, the likelihood then flattered; the error is that of the
    independent populations. Neal 2001; Del Moral, Doucet & Jasra 2006; Desjardins, Courville & Bengio 2011.

    Attributes:
        n_populations: Independent ones: the error bar comes from them.
        n_walkers: Of each.
        n_between: Steps of the parameters between two calls.
        n_sweeps: Sweeps at each.
        kernel: What moves the walkers; None for what suits the model.
    """

    n_populations: int = 8
    n_walkers: int = 64
    n_between: int = 40
    n_sweeps: int = 1
    kernel: Kernel[Any] | None = None

    def start(self, model: Any, key: Key) -> Followers:
        """Return walkers drawn where E = 0: uniform, or from the model's reference."""
        shape = (self.n_populations, self.n_walkers)
        x = draw_0(model, shape[0] * shape[1], key.child("followers").torch())
        origin = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        nothing = torch.zeros(shape, dtype=torch.float64)
        return Followers(origin, x, nothing, torch.full(shape[:1], log_z_0(model), dtype=torch.float64))

    @torch.no_grad()
    def follow(self, model: Any, state: Followers, key: Key) -> Followers:
        """Return the walkers after they have come to the model's parameters; `key` is this call's own."""
        moving, kernel = copy.deepcopy(model), self.kernel or kernel_for(model)
        to = {name: p.detach().clone() for name, p in model.named_parameters()}
        _set(moving, state.parameters)
        particles, log_w, log_z = kernel.start(moving, state.x), state.log_w, state.log_z
        beta = torch.ones(len(state.x), device=state.x.device)
        for k in range(1, self.n_between + 1):
            before = particles.energy
            share = k / self.n_between
            _set(moving, {name: torch.lerp(state.parameters[name], to[name], share) for name in to})
            particles = kernel.start(moving, kernel.configuration(particles))
            log_w = log_w + (before - particles.energy).double().cpu().view_as(log_w)
            index, log_w, log_z = self._resampled(log_w, log_z, key.child("resample").at(shard=k))
            particles = kernel.select(particles, index.to(state.x.device))
            moves = key.child("move").at(shard=k)
            particles, _ = kernel.advance(moving, particles, beta, self.n_sweeps, moves)
        return Followers(to, kernel.configuration(particles), log_w, log_z)

    def _resampled(self, log_w: Tensor, log_z: Tensor, key: Key) -> tuple[Tensor, Tensor, Tensor]:
        """Return which walkers go on, and weights and log Z after that."""
        uniform = key.numpy().random(self.n_populations).tolist()
        index = torch.arange(log_w.numel()).view_as(log_w)
        log_w, log_z = log_w.clone(), log_z.clone()
        for row in range(self.n_populations):
            if float(population.effective_share(log_w[row])) < _LEAST_ESS:
                index[row] = index[row][population.systematic(log_w[row], uniform[row])]
                log_z[row] += population.log_mean_weight(log_w[row])
                log_w[row] = 0.0
        return index.flatten(), log_w, log_z

    def log_z(self, state: Followers) -> Estimate:
        """Return log Z where the walkers are, in nats; undetermined if its error is large."""
        each = state.log_z + torch.stack([population.log_mean_weight(row) for row in state.log_w])
        left_out = jackknife.log_mean(each.numpy())
        error, method = float(jackknife.standard_error(left_out.rest)), "annealing along the training"
        n = state.log_w.numel()
        if not error <= MAX_ERROR:
            reason = f"the populations are {error:.2g} nats apart: give more walkers, or more steps between"
            return undetermined(reason, unit="nats", n=n, method=method)
        value = float(left_out.every)
        return of_scalar(value, stderr=error, kind="estimate", unit="nats", n=n, method=method)


def tensors(state: Followers) -> dict[str, Tensor]:
    """Return the walkers as named tensors for a checkpoint."""
    parameters = {f"parameter.{name}": tensor for name, tensor in state.parameters.items()}
    return {"x": state.x, "log_w": state.log_w, "log_z": state.log_z} | parameters


def restored(named: dict[str, Tensor]) -> Followers:
    """Return the walkers that `tensors` wrote."""
    prefix = "parameter."
    parameters = {n.removeprefix(prefix): tensor for n, tensor in named.items() if n.startswith(prefix)}
    return Followers(parameters, named["x"], named["log_w"], named["log_z"])


def _set(model: Any, parameters: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(parameters[name])
