"""The variance-preserving noise process of diffusion models, and the terms of the bound that it fixes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (image, site), (image,) levels t -> x̂ (image, site)


class Noise(nn.Module):
    """T noise levels t = 1 … T: z_t = √ᾱ_t x + √(1−ᾱ_t) ε, ᾱ_t = sigmoid(−γ_t), ε ~ N(0, I).

    γ_t rises linearly from γ_min to γ_max, so that SNR_t = ᾱ_t/(1−ᾱ_t) = e^{−γ_t} falls by a constant factor
    a level. Levels count from 1, so a bound has T − 1 matching terms; Kingma et al. 2021 count them from 0,
    and their T is one less than this one. The table is float64 and derived, hence not saved.
    """

    gamma: Tensor  # (T,), level t at index t − 1

    def __init__(self, T: int, gamma_min: float, gamma_max: float) -> None:
        """Tabulate γ_t."""
        super().__init__()
        self.T = T
        gamma = torch.linspace(gamma_min, gamma_max, T, dtype=torch.float64)
        self.register_buffer("gamma", gamma, persistent=False)

    def alpha_bar(self, t: Tensor) -> Tensor:
        """Return ᾱ_t, float64."""
        return torch.sigmoid(-self.gamma[t - 1])

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return √ᾱ_t and √(1−ᾱ_t)  # (image, 1) each, in the type of `like`."""
        gamma = self.gamma[t - 1]
        signal, spread = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
        return signal[:, None].to(like.dtype), spread[:, None].to(like.dtype)

    def add(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return z_t = √ᾱ_t x + √(1−ᾱ_t) ε  # (image, site)."""
        signal, spread = self.scales(t, x)
        return signal * x + spread * eps

    def weight(self, t: Tensor) -> Tensor:
        """Return ½(SNR_{t−1} − SNR_t), what ‖x − x̂‖² costs at level t ≥ 2  # float64, nats."""
        return 0.5 * (torch.exp(-self.gamma[t - 2]) - torch.exp(-self.gamma[t - 1]))

    def prior(self, x: Tensor) -> Tensor:
        """Return D(q(z_T|x) ‖ N(0, I)) = ½ Σ [ᾱ_T x² + σ² − log σ² − 1], σ² = 1−ᾱ_T  # (image,), nats."""
        gamma = self.gamma[-1]
        variance = torch.sigmoid(gamma)
        constant = variance - nn.functional.logsigmoid(gamma) - 1.0
        return 0.5 * (torch.sigmoid(-gamma) * x.double().square() + constant).sum(1)

    def matching(self, x: Tensor, denoiser: Denoiser, generator: torch.Generator, n_times: int) -> Tensor:
        """Return an unbiased draw of Σ_{t=2}^T E ½(SNR_{t−1} − SNR_t)‖x − x̂(z_t, t)‖²  # (image,), nats.

        Each image gets `n_times` levels, one from each of as many strata of 2 … T: their mean is uniform
        over the levels, which keeps the draw unbiased.

        Args:
            x: Clean data, scaled as the denoiser returns them  # (image, site)
            denoiser: (z_t, t) -> x̂, called once on image × n_times rows.
            generator: Source of levels and noise.
            n_times: Number of strata.
        """
        n, strata = len(x), torch.arange(n_times, device=x.device)
        uniform = torch.rand(n, n_times, generator=generator, device=x.device, dtype=torch.float64)
        t = 2 + ((strata + uniform) / n_times * (self.T - 1)).long().clamp(max=self.T - 2).flatten()
        rows = x.repeat_interleave(n_times, dim=0)
        eps = torch.randn(rows.shape, generator=generator, device=x.device, dtype=x.dtype)
        error = (rows - denoiser(self.add(rows, t, eps), t)).double().square().sum(1)
        return (self.T - 1) * (self.weight(t) * error).view(n, n_times).mean(1)

    def step_down(self, z: Tensor, x: Tensor, t: int, s: int, eps: Tensor, eta: float = 1.0) -> Tensor:
        """Return z_s given z_t and an x̂, drawn from N(√ᾱ_s x̂ + √(σ_s² − v) ε̂, v)  # (image, site).

        v = η² σ_s² (1 − SNR_t/SNR_s), ε̂ = (z_t − √ᾱ_t x̂)/σ_t. η = 1 is the posterior q(z_s|z_t, x̂) (Ho et al.
        2020, eq. 7), η = 0 the deterministic rule DDIM (Song et al. 2021, eq. 12).
        """
        gamma_t, gamma_s = self.gamma[t - 1], self.gamma[s - 1]
        variance_s, variance_t = torch.sigmoid(gamma_s), torch.sigmoid(gamma_t)
        fresh = -(eta**2) * variance_s * torch.expm1(gamma_s - gamma_t)
        eps_hat = (z - torch.sigmoid(-gamma_t).sqrt() * x) / variance_t.sqrt()
        mean = torch.sigmoid(-gamma_s).sqrt() * x + (variance_s - fresh).sqrt() * eps_hat
        return (mean + fresh.sqrt() * eps).to(z.dtype)
