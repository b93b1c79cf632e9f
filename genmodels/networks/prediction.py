"""What the output of a denoising network stands for: noise, data, velocity, or the log-odds of pixels.

With z = αx + σε, α = √ᾱ, each of them gives the other two:

| name     | the output u is       | x̂                      | ε̂          |
| -------- | --------------------- | ---------------------- | ---------- |
| eps      | the noise             | (z − σu)/α             | u          |
| residual | the noise but for σz  | αz − (σ/α)u            | σz + u     |
| x        | the data              | u                      | (z − αu)/σ |
| v        | αε − σx               | αz − σu                | σz + αu    |
| logits   | log-odds but for z's  | sigmoid(αz/σ² + u) − ½ | (z − αx̂)/σ |

eps: Ho et al. 2020; v: Salimans & Ho 2022. With "residual" a network of output 0 is right where pixels are
independent of variance 1. "logits" is for pixels f = ±½, to whose log-odds Bayes' rule adds what the noisy
pixel itself says.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["eps", "residual", "x", "v", "logits"]
# kind, output and z (image, site), α and σ (image, 1) -> (image, site)
Reading = Callable[[Prediction, Tensor, Tensor, Tensor, Tensor], Tensor]


def log_odds(kind: Prediction, output: Tensor, z: Tensor, signal: Tensor, spread: Tensor) -> Tensor:
    """Return the log-odds of pixels ±½, for "logits" only  # (image, site)."""
    assert kind == "logits"
    return signal / spread.square() * z + output


def data(kind: Prediction, output: Tensor, z: Tensor, signal: Tensor, spread: Tensor) -> Tensor:
    """Return x̂  # (image, site)."""
    if kind == "x":
        return output
    if kind == "v":
        return signal * z - spread * output
    if kind == "logits":
        return torch.sigmoid(log_odds(kind, output, z, signal, spread)) - 0.5
    if kind == "residual":
        return signal * z - spread / signal * output
    return (z - spread * output) / signal


def noise(kind: Prediction, output: Tensor, z: Tensor, signal: Tensor, spread: Tensor) -> Tensor:
    """Return ε̂  # (image, site)."""
    if kind == "eps":
        return output
    if kind == "residual":
        return spread * z + output
    if kind == "v":
        return spread * z + signal * output
    return (z - signal * data(kind, output, z, signal, spread)) / spread
