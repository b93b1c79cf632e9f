"""The variance-preserving noise process of diffusion models, and the terms of the bound that it fixes."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.networks.schedules import Cosine, Learned, Linear

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (image, site), (image,) levels t -> x̂ (image, site)


class BoundTerms(NamedTuple):
    """The three terms of log q(x) ≥ −reconstruction − prior − matching  # (image,) each, nats."""

    reconstruction: Tensor  # −log q(x|z_1)
    prior: Tensor  # D(q(z_T|x) ‖ N(0, I))
    matching: Tensor  # Σ_{t≥2} D(q(z_{t−1}|z_t, x) ‖ q_θ(z_{t−1}|z_t))

    def elbo(self) -> Tensor:
        """Return −(reconstruction + prior + matching)."""
        return -(self.reconstruction + self.prior + self.matching)


class Noise(nn.Module):
    """z_t = √ᾱ_t x + √(1−ᾱ_t) ε with ᾱ_t = sigmoid(−γ_t) and ε ~ N(0, I): SNR_t = ᾱ_t/(1−ᾱ_t) = e^{−γ_t}.

    Of T noise levels t = 1 … T level t is at the time (t − 1)/(T − 1) of the schedule; a t between two levels
    is allowed. In continuous time, T = None, t is the time itself, from 0 to 1. Levels count from 1, so a
    bound has T − 1 matching terms; Kingma et al. 2021 count them from 0, and their T is one less than this
    one. All γ are float64.
    """

    def __init__(self, T: int | None, schedule: Linear | Cosine | Learned) -> None:
        """Keep the number of levels and how γ rises."""
        super().__init__()
        self.T, self.schedule = T, schedule

    @property
    def first(self) -> float:
        """Return the t of the least noise."""
        return 0.0 if self.T is None else 1.0

    @property
    def last(self) -> float:
        """Return the t of the most noise."""
        return 1.0 if self.T is None else float(self.T)

    def least(self, z: Tensor) -> Tensor:
        """Return the t of the least noise for each row of z  # (image,), float64."""
        return torch.full((len(z),), self.first, dtype=torch.float64, device=z.device)

    def position(self, t: Tensor) -> Tensor:
        """Return the time in [0, 1] of level t, float64."""
        return t.double() if self.T is None else (t.double() - 1.0) / (self.T - 1)

    def at(self, t: Tensor) -> Tensor:
        """Return γ_t, float64."""
        return self.schedule.at(self.position(t))

    def level(self, gamma: Tensor) -> Tensor:
        """Return the t, not always whole, at which γ_t is `gamma`, float64."""
        s = self.schedule.time(gamma)
        return s if self.T is None else 1.0 + (self.T - 1) * s

    def levels(self, n: int | None = None) -> Tensor:
        """Return n levels spread evenly, from the least noise to the most; all T if None  # (n,), float64.

        Raises:
            InputError: None in continuous time.
        """
        n = self.T if n is None else n
        if n is None:
            raise InputError("n: continuous time has no number of levels, give one")
        device = next((parameter.device for parameter in self.parameters()), None)
        return torch.linspace(self.first, self.last, n, dtype=torch.float64, device=device)

    @torch.no_grad()
    def table(self, n: int | None = None) -> Tensor:
        """Return γ at `levels(n)`: level t of T is at index t − 1  # (n,), float64."""
        return self.at(self.levels(n))

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return √ᾱ_t and √(1−ᾱ_t)  # (image, 1) each, in the type of `like`."""
        gamma = self.at(t)[:, None]
        return torch.sigmoid(-gamma).sqrt().to(like.dtype), torch.sigmoid(gamma).sqrt().to(like.dtype)

    def add(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return z_t = √ᾱ_t x + √(1−ᾱ_t) ε  # (image, site)."""
        signal, spread = self.scales(t, x)
        return signal * x + spread * eps

    def weight(self, t: Tensor) -> Tensor:
        """Return what ‖x − x̂‖² costs at t  # float64, nats.

        Between level t ≥ 2 and the one before ½(SNR_{t−1} − SNR_t); in continuous time ½ γ'(t) SNR_t, the
        cost per unit of time.
        """
        if self.T is None:
            return 0.5 * self.schedule.slope(t) * torch.exp(-self.at(t))
        return 0.5 * (torch.exp(-self.at(t - 1)) - torch.exp(-self.at(t)))

    def prior(self, x: Tensor) -> Tensor:
        """Return D(q(z_T|x) ‖ N(0, I)) = ½ Σ [ᾱ_T x² + σ² − log σ² − 1], σ² = 1−ᾱ_T  # (image,), nats."""
        gamma = self.at(torch.tensor(self.last, dtype=torch.float64, device=x.device))
        constant = torch.sigmoid(gamma) - nn.functional.logsigmoid(gamma) - 1.0
        return 0.5 * (torch.sigmoid(-gamma) * x.double().square() + constant).sum(1)

    def strata(self, uniform: Tensor, first: int = 2) -> Tensor:
        """Return levels from `first` to T, or times from 0 to 1, for numbers uniform in [0, 1)."""
        if self.T is None:
            return uniform
        n_levels = self.T - first + 1
        return (first + (uniform * n_levels).long().clamp(max=n_levels - 1)).double()

    def costs(self, x: Tensor, denoiser: Denoiser, t: Tensor, eps: Tensor) -> Tensor:
        """Return draws of all matching terms together, by level t ~ `strata` each  # (image,), nats.

        (T − 1) ½(SNR_{t−1} − SNR_t)‖x − x̂(z_t, t)‖², or ½ γ'(t) SNR_t ‖x − x̂(z_t, t)‖² in continuous time.
        """
        error = (x - denoiser(self.add(x, t, eps), t)).double().square().sum(1)
        return (1 if self.T is None else self.T - 1) * self.weight(t) * error

    def matching(self, x: Tensor, denoiser: Denoiser, generator: torch.Generator, n_times: int) -> Tensor:
        """Return an unbiased draw of Σ_{t=2}^T E ½(SNR_{t−1} − SNR_t)‖x − x̂(z_t, t)‖²  # (image,), nats.

        In continuous time the sum is ∫ ½ γ'(t) SNR_t E‖x − x̂‖² dt. Each image gets `n_times` levels, one from
        each of as many strata: their mean is uniform over the levels, which keeps the draw unbiased.

        Args:
            x: Clean data, scaled as the denoiser returns them  # (image, site)
            denoiser: (z_t, t) -> x̂, called once on image × n_times rows.
            generator: Source of levels and noise.
            n_times: Number of strata.
        """
        n, strata = len(x), torch.arange(n_times, device=x.device)
        uniform = torch.rand(n, n_times, generator=generator, device=x.device, dtype=torch.float64)
        t = self.strata(((strata + uniform) / n_times).flatten())
        rows = x.repeat_interleave(n_times, dim=0)
        eps = torch.randn(rows.shape, generator=generator, device=x.device, dtype=x.dtype)
        return self.costs(rows, denoiser, t, eps).view(n, n_times).mean(1)

    def step_down(self, z: Tensor, x: Tensor, t: float, s: float, eps: Tensor, eta: float = 1.0) -> Tensor:
        """Return z_s given z_t and an x̂, drawn from N(√ᾱ_s x̂ + √(σ_s² − v) ε̂, v)  # (image, site).

        v = η² σ_s² (1 − SNR_t/SNR_s), ε̂ = (z_t − √ᾱ_t x̂)/σ_t. η = 1 is the posterior q(z_s|z_t, x̂) (Ho et al.
        2020, eq. 7), η = 0 the deterministic rule DDIM (Song et al. 2021, eq. 12).
        """
        gamma_t, gamma_s = self.at(torch.tensor([t, s], dtype=torch.float64, device=z.device)).unbind()
        variance_s, variance_t = torch.sigmoid(gamma_s), torch.sigmoid(gamma_t)
        fresh = -(eta**2) * variance_s * torch.expm1(gamma_s - gamma_t)
        eps_hat = (z - torch.sigmoid(-gamma_t).sqrt() * x) / variance_t.sqrt()
        mean = torch.sigmoid(-gamma_s).sqrt() * x + (variance_s - fresh).sqrt() * eps_hat
        return (mean + fresh.sqrt() * eps).to(z.dtype)
