"""log Σ_z exp(−E(x, z)) of single images: hidden layers of a deep machine, annealed from their mean field."""

from typing import NamedTuple

import torch
from torch import Tensor

from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.protocols import HasMeanField
from genmodels.samplers import work
from genmodels.streams import Key

_LARGEST = 1.0 - 1e-6  # mean, so that its field is finite


class Clamped:
    """Hidden layers on the path from their mean field to the posterior, an image held fixed in every replica.

    P_β(z) ∝ exp(−βE(z) − E_0(z)) with E(z) = E_model(x, z) + fᵀz and E_0(z) = −fᵀz, tanh f the means of the
    mean field. Where that is good there is little work to be done.
    """

    def __init__(self, model: HasMeanField, x: Tensor) -> None:
        """Hold the images fixed  # (replica, visible)."""
        self.model, self.x = model, x
        means = model.mean_field(x)
        hidden = torch.cat([*means[2::2], *means[1::2]], 1)  # as the sites of a configuration after x
        self.fields = torch.atanh(hidden.clamp(-_LARGEST, _LARGEST))
        self.n_sites = hidden.shape[1]
        n_even = model.blocks[0].stop - model.n_visible
        self.blocks = (slice(0, n_even), slice(n_even, self.n_sites))
        self.log_z_reference = (2.0 * torch.cosh(self.fields.double())).log().sum(1)  # (replica,)

    def energy(self, z: Tensor) -> Tensor:
        """Return E_model(x, z) + fᵀz  # (replica, site) -> (replica,), nats."""
        return self.model.energy(torch.cat([self.x, z], 1)) + (z * self.fields).sum(1)

    def reference_energy(self, z: Tensor) -> Tensor:
        """Return −fᵀz  # (replica, site) -> (replica,), nats."""
        return -(z * self.fields).sum(1)

    def draw_reference(self, n: int, generator: torch.Generator) -> Tensor:
        """Return a draw of each image's mean field  # (replica, site), ±1."""
        drawn = torch.rand(n, self.n_sites, generator=generator, device=generator.device)
        return (drawn < torch.sigmoid(2.0 * self.fields)).float() * 2.0 - 1.0

    def conditional(self, block: int, z: Tensor, beta: Tensor) -> Tensor:
        """Return P_β(+1 | the other block): logit P = that of the model + 2(1 − β)f  # (replica, sites)."""
        own = self.model.conditional(block, torch.cat([self.x, z], 1), beta).logit()
        own = own[:, self.model.n_visible :] if block == 0 else own
        return torch.sigmoid(own + 2.0 * (1.0 - beta[:, None]) * self.fields[:, self.blocks[block]])


class Annealed(NamedTuple):
    """What annealing says of each image."""

    log_unnormalised: Tensor  # log of the mean weight, biased low  # (image,), nats
    ess: Tensor  # particles that the weights are worth  # (image,)


@torch.no_grad()
def anneal(model: HasMeanField, x: Tensor, n_particles: int, n_steps: int, key: Key) -> Annealed:
    """Return log Σ_z exp(−E(x, z)) of each image by annealed importance sampling from its mean field.

    Of a single step −⟨work⟩ is the mean-field bound; more steps lead to the truth. The log of a mean of
    weights is biased low. Neal 2001.

    Args:
        model: A deep Boltzmann machine.
        x: Images in ±1  # (image, visible)
        n_particles: Particles per image.
        n_steps: Steps of β from 0 to 1, a sweep before each but the first.
        key: The stream.
    """
    path, n = Clamped(model, x.repeat_interleave(n_particles, 0)), len(x) * n_particles
    betas = torch.linspace(0.0, 1.0, n_steps + 1, dtype=torch.float64)
    kernel = BlockGibbs()
    state, _ = work.draw(None, 0, n, path, kernel, key)
    _, seen = work.advance(state, 0, (0, n_steps), path, kernel, betas, 1, key)
    log_w = (path.log_z_reference - seen.work[:, -1]).view(len(x), n_particles)
    shares = log_w.softmax(1)
    return Annealed(log_w.logsumexp(1) - torch.tensor(n_particles).log(), 1.0 / shares.square().sum(1))
