"""Variational diffusion on binary pixels."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.networks.noise import Noise
from genmodels.networks.unet import UNet
from genmodels.protocols import Domain
from genmodels.streams import Streams

_HALF = 0.5  # pixels are f(v) = v − ½ inside, Kingma's 2(v + ½)/K − 1 at K = 2 levels
_TIME_SCALE = 1000.0
_HALF_WAY = -0.5  # γ


class BoundTerms(NamedTuple):
    """The three terms of log q(x) ≥ −reconstruction − prior − matching  # (image,) each, nats."""

    reconstruction: Tensor  # −log q(x|z_1)
    prior: Tensor  # D(q(z_T|x) ‖ N(0, I))
    matching: Tensor  # Σ_{t≥2} D(q(z_{t−1}|z_t, x) ‖ q_θ(z_{t−1}|z_t))

    def elbo(self) -> Tensor:
        """Return −(reconstruction + prior + matching)."""
        return -(self.reconstruction + self.prior + self.matching)


class Diffusion(nn.Module):
    """A hierarchy z_T → … → z_1 → x whose encoder is fixed noise and whose decoder is a denoising U-Net.

    The network's output u is the log-odds of each pixel but for its own noisy value, which Bayes' rule adds:
    x̂ = σ(u + e^{−γ_t} z_t/√ᾱ_t) − ½. Pixels given z_1 are independent, with the same log-odds: however noisy
    z_1 is, they know of each other through the network. Kingma et al. 2021; Luo 2022.

    Args:
        shape: Height and width; a third entry, the channels, must be 1.
        channels: Channels of the U-Net, one entry a resolution.
        T: Number of noise levels.
        dropout: Share of features silenced in training.
        gamma_min: −log SNR of the least noisy level; the reconstruction is charged there.
        gamma_max: −log SNR of the noisiest level; the prior is charged there.

    Raises:
        InputError: several channels, T < 2, γ_min ≥ γ_max, or the U-Net cannot halve the image so often.
    """

    domain: Domain = "binary"

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int] = (32, 32),
        T: int = 1000,
        dropout: float = 0.0,
        gamma_min: float = -3.0,
        gamma_max: float = 6.0,
    ) -> None:
        """Build the U-Net, with torch's random first weights."""
        super().__init__()
        if len(shape) not in (2, 3) or tuple(shape[2:]) not in ((), (1,)):
            raise InputError(f"shape: {list(shape)} is not height, width (, 1): give images of one channel")
        if T < 2:
            raise InputError(f"T: {T} noise levels are too few, give at least 2")
        if gamma_min >= gamma_max:
            raise InputError(f"gamma_min: {gamma_min} is not below gamma_max {gamma_max}: noise grows with t")
        self._args = {
            "shape": list(shape), "channels": list(channels), "T": T, "dropout": dropout,
            "gamma_min": gamma_min, "gamma_max": gamma_max,
        }  # fmt: skip
        self.T = T
        self.height, self.width = shape[0], shape[1]
        self.n_sites = self.height * self.width
        self.noise = Noise(T, gamma_min, gamma_max)
        self.unet = UNet(self.height, self.width, channels, dropout)

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._args)

    def network(self, z: Tensor, t: Tensor) -> Tensor:
        """Return the U-Net's output at level t  # (image, site), (image,) -> (image, site)."""
        time = (t - 1).to(z.dtype) * (_TIME_SCALE / (self.T - 1))
        output: Tensor = self.unet(z.view(-1, 1, self.height, self.width), time)
        return output.flatten(1)

    def logits(self, z: Tensor, t: Tensor) -> Tensor:
        """Return the log-odds of each pixel given z_t  # (image, site)."""
        evidence = torch.exp(-self.noise.gamma[t - 1]) / self.noise.alpha_bar(t).sqrt()
        return evidence[:, None].to(z.dtype) * z + self.network(z, t)

    def denoise(self, z: Tensor, t: Tensor) -> Tensor:
        """Return x̂, the mean of f(x) given z_t  # (image, site), (image,) -> (image, site)."""
        return torch.sigmoid(self.logits(z, t)) - _HALF

    def bound_terms(self, x: Tensor, generator: torch.Generator, n_times: int = 1) -> BoundTerms:
        """Return an unbiased draw of the bound's terms, levels from `n_times` strata  # (image, site)."""
        scaled = x - _HALF
        first = torch.ones(len(x), dtype=torch.long, device=x.device)
        eps = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        logits = self.logits(self.noise.add(scaled, first, eps), first)
        surprise = nn.functional.softplus(logits.double()) - x.double() * logits.double()
        matching = self.noise.matching(scaled, self.denoise, generator, n_times)
        return BoundTerms(surprise.sum(1), self.noise.prior(scaled), matching)

    def elbo(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return one unbiased draw of the bound  # (image, site) -> (image,), nats."""
        return self.bound_terms(x, generator).elbo()

    def loss(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean of min(SNR_t, 1) (−log q(x_i|z_t)) over pixels, levels stratified over the batch.

        The posterior minimises this as it does the bound's ½(SNR_{t−1} − SNR_t)‖x − x̂‖², whose rare large
        values at low noise make a noisier gradient. The weights are those of Hang et al. 2023, cut at 1.
        """
        n = len(x)
        uniform = torch.rand((), generator=generator, device=x.device, dtype=torch.float64)
        strata = torch.arange(n, device=x.device)
        t = 1 + ((strata + uniform) / n * self.T).long().clamp(max=self.T - 1)
        scaled = x - _HALF
        eps = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        logits = self.logits(self.noise.add(scaled, t, eps), t)
        surprise = (nn.functional.softplus(logits) - x * logits).mean(1)
        loss = (torch.exp(-self.noise.gamma[t - 1]).clamp(max=1.0).to(x.dtype) * surprise).mean()
        return loss, {"loss": loss.detach()}

    @torch.no_grad()
    def chains(
        self, normal: Callable[[], Tensor], n_steps: int = 250, eta: float = 1.0
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield each level t of chains z_T → z_1 with the pixel probabilities given z_t  # (picture, site).

        Args:
            normal: Source of z_T and of the steps' noise, standard normal  # () -> (picture, site)
            n_steps: Levels visited, spread evenly over the T, first and last included.
            eta: 1 ancestral, 0 deterministic (DDIM).

        Raises:
            InputError: fewer than 2 levels.
        """
        if n_steps < 2:
            raise InputError(f"n_steps: {n_steps} level leads nowhere, give at least 2")
        device = self.noise.gamma.device
        levels = torch.linspace(self.T, 1, min(n_steps, self.T)).round().long().tolist()
        z = normal()
        n = len(z)
        for t, s in zip(levels, levels[1:], strict=False):
            x0 = self.denoise(z, torch.full((n,), t, device=device))
            yield t, x0 + _HALF
            z = self.noise.step_down(z, x0, t, s, normal(), eta)
        yield 1, torch.sigmoid(self.logits(z, torch.ones(n, dtype=torch.long, device=device)))

    def sample_means(
        self, n: int, generator: torch.Generator, n_steps: int = 250, eta: float = 1.0
    ) -> Tensor:
        """Return the pixel probabilities at the end of `chains`  # (n, site) in [0, 1]."""

        def normal() -> Tensor:
            return torch.randn(n, self.n_sites, generator=generator, device=generator.device)

        *_, (_, means) = self.chains(normal, n_steps, eta)
        return means

    def sample(self, n: int, generator: torch.Generator, n_steps: int = 250, eta: float = 1.0) -> Tensor:
        """Return n pictures drawn from the last step's pixel probabilities  # (n, site) in {0, 1}."""
        return torch.bernoulli(self.sample_means(n, generator, n_steps, eta), generator=generator)

    def pictures(self, streams: Streams) -> tuple[Tensor, Tensor]:
        """Return a picture a stream and the pixel probabilities half-way  # (picture, site) twice.

        Half-way is log SNR = ½: there the shape is decided, and the single pixels are not yet.
        """
        shape: Tensor | None = None
        for t, means in self.chains(lambda: streams.normal(self.n_sites)):
            if shape is None and float(self.noise.gamma[t - 1]) <= _HALF_WAY:
                shape = means
        pixels = (streams.uniform(self.n_sites) < means).to(means.dtype)
        return pixels, means if shape is None else shape
