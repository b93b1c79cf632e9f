"""Persistent chains moved by replica exchange."""

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.kernels.choose import kernel_for
from genmodels.learners.ascent import Tensors
from genmodels.learners.contrast import Contrast, Fantasy
from genmodels.protocols import Kernel
from genmodels.samplers import ladder, temperatures
from genmodels.streams import Key


class Ladders(NamedTuple):
    """Ladders that outlive a step."""

    kernel: Kernel[Any]
    particles: Any  # the kernel's state; replica r of ladder l is its number l · n_rungs + r
    replica: Tensor  # (ladder, rung): which replica is on the rung
    n_rounds: int


@final
@dataclass(frozen=True)
class Tempered(Contrast):
    """The model's averages come from the last rungs of ladders of β from 0 to 1, which are never restarted.

    A round is sweeps of all replicas, each at its β, and swaps of neighbours, accepted with probability
    min(1, exp[(β_a − β_b)(E_a − E_b)]), E the energy of the joint configuration: on the free energy of the
    visible sites they would be biased. What replicas forget at β = 0 lets them reach all modes. Desjardins,
    Courville, Bengio, Vincent & Delalleau 2010; Salakhutdinov 2010.

    Attributes:
        n_chains: Ladders; each gives one configuration a step.
        n_rungs: Replicas of each.
        n_rounds: Rounds before each step.
        n_sweeps: Sweeps of a round.
        kernel: What moves the replicas; None for what suits the model.
    """

    n_chains: int = 100
    n_rungs: int = 10
    n_rounds: int = 2
    n_sweeps: int = 1
    kernel: Kernel[Any] | None = None

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        super().__post_init__()
        if self.n_rungs < 2:
            raise InputError(f"{self.name}: n_rungs is {self.n_rungs}, give at least 2")

    def start(self, model: Any, batch: Tensor, key: Key) -> Ladders:
        """Return ladders whose replicas are all drawn at β = 0."""
        kernel = self.kernel or kernel_for(model)
        replica, _ = ladder.places(self.n_chains, self.n_rungs)
        return Ladders(kernel, kernel.init(model, replica.numel(), key), replica, 0)

    def fantasy(self, model: Any, chains: Ladders, batch: Tensor, key: Key) -> Fantasy:
        """Return what is on the last rungs after some rounds."""
        kernel, particles, replica, n_rounds = chains
        betas, rate = temperatures.spaced(self.n_rungs, 1.0), 0.0
        for i in range(self.n_rounds):
            moves = key.child("move").at(shard=i)
            beta = betas[replica.argsort(1)].float().flatten().to(batch.device)
            particles, _ = kernel.advance(model, particles, beta, self.n_sweeps, moves)
            energies = particles.energy.double().cpu().view_as(replica).gather(1, replica)
            uniform = torch.from_numpy(key.child("swap").at(shard=i).numpy().random(energies[:, 1:].shape))
            replica = ladder.swap(replica, betas, energies, uniform, (n_rounds + i) % 2)
            rate += 1.0 - float(ladder.rejection(betas, energies).max())
        last = torch.arange(self.n_chains) * self.n_rungs + replica[:, -1]
        x = kernel.configuration(kernel.select(particles, last.to(batch.device)))
        after = Ladders(kernel, particles, replica, n_rounds + self.n_rounds)
        return Fantasy(x, None, after, {"swap_rate": rate / max(1, self.n_rounds)})

    def chain_tensors(self, chains: Ladders) -> Tensors:
        """Return the replicas' configurations, who is where, and the rounds so far."""
        x = chains.kernel.configuration(chains.particles)
        return {"x": x, "replica": chains.replica, "n_rounds": torch.tensor(chains.n_rounds)}

    def restart(self, model: Any, tensors: Tensors) -> Ladders:
        """Return the ladders that `chain_tensors` wrote."""
        kernel = self.kernel or kernel_for(model)
        particles = kernel.start(model, tensors["x"])
        return Ladders(kernel, particles, tensors["replica"], int(tensors["n_rounds"]))
