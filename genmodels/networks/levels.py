"""Pixels of K levels as real numbers, and back: f(v) = 2(v + ½)/K − 1, which is v − ½ for K = 2."""

import torch
from torch import Tensor


def scaled(x: Tensor, n_levels: int) -> Tensor:
    """Return f(x) in (−1, 1)  # (image, site), levels 0 … K − 1."""
    return (2.0 * x + 1.0) / n_levels - 1.0


def log_decoder(z: Tensor, gamma: Tensor, n_levels: int) -> Tensor:
    """Return log softmax_v[−½ e^{−γ}(z/α − f(v))²], what z = αf + σε says of each pixel by itself.

    Kingma et al. 2021, section 3.3. γ is one number  # (image, site) -> float64, (image, site, level)
    """
    values = scaled(torch.arange(n_levels, dtype=torch.float64, device=z.device), n_levels)
    distances = z.double()[..., None] / torch.sigmoid(-gamma).sqrt() - values
    return torch.log_softmax(-0.5 * torch.exp(-gamma) * distances.square(), -1)


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return a level for each pixel: how many k ≥ 1 have u < P(v ≥ k)  # (…, level), (…) -> (…)."""
    beyond = probabilities.flip(-1).cumsum(-1).flip(-1)[..., 1:]  # P(v ≥ 1), …, P(v ≥ K − 1)
    return (uniform[..., None] < beyond).sum(-1).to(uniform.dtype)


def dequantised(x: Tensor, uniform: Tensor, n_levels: int) -> Tensor:
    """Return numbers in [−1, 1) anywhere in the cells of width 2/K about f(x)  # (image, site)."""
    return 2.0 * (x + uniform) / n_levels - 1.0
