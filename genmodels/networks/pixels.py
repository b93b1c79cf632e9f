"""What a decoder says of pixels: the distribution of their values, given its network's output."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.networks.levels import scaled
from genmodels.protocols import Domain

_LOG_2PI = math.log(2.0 * math.pi)
_LEAST_LOG_SCALE = -7.0  # of a logistic, the image's range being 2: far below a grey level


class Bernoulli(nn.Module):
    """P(x_i = 1) = σ(a_i); x_i ∈ {0, 1}."""

    domain: Domain = "binary"
    n_outputs = 1
    is_density = False
    levels = 2

    def __init__(self, levels: int = 2) -> None:
        """Take the number of levels, which has to be 2."""
        super().__init__()
        if levels != 2:
            raise InputError(f"decoder: bernoulli is for 2 levels, not {levels}; give discretised_logistic")

    def scaled(self, x: Tensor) -> Tensor:
        """Return the pixels as networks see them, 2x − 1."""
        return 2.0 * x - 1.0

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Return Σ_i x_i a_i − log(1 + e^{a_i})  # (…, site), (…, site) -> (…), nats."""
        return (x * output - nn.functional.softplus(output)).sum(-1)

    def means(self, output: Tensor) -> Tensor:
        """Return P(x_i = 1)  # (…, site)."""
        return torch.sigmoid(output)

    def shown(self, output: Tensor) -> Tensor:
        """Return what to show, the means  # (…, site)."""
        return self.means(output)

    def draw(self, output: Tensor, uniform: Tensor) -> Tensor:
        """Return pixels by numbers uniform in [0, 1)  # (…, site)."""
        return (uniform < self.means(output)).to(output.dtype)


class DiscretisedLogistic(nn.Module):
    """P(x_i = k) = F(k + ½) − F(k − ½), F a logistic distribution function; x_i ∈ {0 … K − 1}.

    The lowest level takes the tail below it, and the highest the one above. Inside, level k is
    f(k) = (2k + 1)/K − 1, and the network says of each pixel the location m and log s. Kingma et al. 2016,
    appendix; Salimans et al. 2017, eq. 2, with one component.

    Args:
        levels: K.
    """

    domain: Domain = "grey"
    n_outputs = 2
    is_density = False

    def __init__(self, levels: int) -> None:
        """Take the number of levels."""
        super().__init__()
        self.levels = levels

    def scaled(self, x: Tensor) -> Tensor:
        """Return f(x) in (−1, 1)."""
        return scaled(x, self.levels)

    def _location_and_scale(self, output: Tensor) -> tuple[Tensor, Tensor]:
        location, log_scale = output.chunk(2, dim=-1)
        return location, torch.exp(log_scale.clamp(min=_LEAST_LOG_SCALE))

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Return Σ_i log P(x_i)  # (…, site), (…, 2 · site) -> (…), nats.

        With u and l the upper and lower edge less m, over s: σ(u) − σ(l) = σ(u) σ(−l) (1 − e^{l − u}),
        which loses no digits in the tails.
        """
        location, scale = self._location_and_scale(output)
        centre, half = (self.scaled(x) - location) / scale, 1.0 / (self.levels * scale)
        upper, lower = centre + half, centre - half
        lowest, highest = x < 0.5, x > self.levels - 1.5
        below = nn.functional.logsigmoid(upper).masked_fill(highest, 0.0)
        above = nn.functional.logsigmoid(-lower).masked_fill(lowest, 0.0)
        between = torch.log(-torch.expm1(-2.0 * half)).masked_fill(lowest | highest, 0.0)
        return (below + above + between).sum(-1)

    def means(self, output: Tensor) -> Tensor:
        """Return ⟨x_i⟩/(K − 1) = Σ_{k < K−1} P(x_i > k)/(K − 1)  # (…, site)."""
        location, scale = self._location_and_scale(output)
        total = torch.zeros_like(location)
        for level in range(self.levels - 1):
            edge = 2.0 * (level + 1) / self.levels - 1.0
            total += torch.sigmoid((location - edge) / scale)
        return total / (self.levels - 1)

    def shown(self, output: Tensor) -> Tensor:
        """Return what to show: medians of x_i/(K − 1), white where white is the likeliest."""
        location, _ = output.chunk(2, dim=-1)
        return (0.5 * (self.levels * (location + 1.0) - 1.0) / (self.levels - 1)).clamp(0.0, 1.0)

    def draw(self, output: Tensor, uniform: Tensor) -> Tensor:
        """Return the levels nearest to logistic numbers, by numbers uniform in [0, 1)  # (…, site)."""
        location, scale = self._location_and_scale(output)
        level = 0.5 * self.levels * (location + scale * torch.logit(uniform) + 1.0)
        return level.floor().clamp(0.0, self.levels - 1.0)


class Gaussian(nn.Module):
    """p(f(x_i)) = N(a_i, σ²), one learnt σ² for all pixels; a density over real x, f(x) = (2x + 1)/K − 1.

    It has a closed form to compare with: with perceptrons without hidden layers it is probabilistic PCA.

    Args:
        levels: K.
    """

    domain: Domain = "grey"
    n_outputs = 1
    is_density = True

    def __init__(self, levels: int) -> None:
        """Start at σ² = 1."""
        super().__init__()
        self.levels = levels
        self.log_variance = nn.Parameter(torch.zeros(()))

    def scaled(self, x: Tensor) -> Tensor:
        """Return f(x)."""
        return scaled(x, self.levels)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Return Σ_i log N(f(x_i); a_i, σ²) + log 2/K, a density of x  # (…, site) twice -> (…), nats."""
        squared = (self.scaled(x) - output).square() * torch.exp(-self.log_variance)
        constant = _LOG_2PI + self.log_variance - 2.0 * math.log(2.0 / self.levels)
        total: Tensor = -0.5 * (squared + constant).sum(-1)
        return total

    def means(self, output: Tensor) -> Tensor:
        """Return the mean level over K − 1, within [0, 1]  # (…, site)."""
        return (0.5 * (self.levels * (output + 1.0) - 1.0) / (self.levels - 1)).clamp(0.0, 1.0)

    def shown(self, output: Tensor) -> Tensor:
        """Return what to show, the means  # (…, site)."""
        return self.means(output)

    def draw(self, output: Tensor, uniform: Tensor) -> Tensor:
        """Return the levels nearest to normal numbers, by numbers uniform in [0, 1)  # (…, site)."""
        normal: Tensor = torch.special.ndtri(uniform)
        value = output + torch.exp(0.5 * self.log_variance) * normal
        return (0.5 * self.levels * (value + 1.0)).floor().clamp(0.0, self.levels - 1.0)


PIXELS: dict[str, Any] = {
    "bernoulli": Bernoulli,
    "discretised_logistic": DiscretisedLogistic,
    "gaussian": Gaussian,
}


def pixels(name: str | None, levels: int) -> Any:
    """Return the distribution called `name`; None: Bernoulli for 2 levels, a discretised logistic for more.

    Raises:
        InputError: no such name, fewer than 2 levels, or several levels for a Bernoulli distribution.
    """
    if levels < 2:
        raise InputError(f"levels: {levels} cannot be told apart, give at least 2")
    name = name or ("bernoulli" if levels == 2 else "discretised_logistic")
    if name not in PIXELS:
        raise InputError(
            f"decoder: no distribution of pixels is called '{name}'; known are {', '.join(PIXELS)}"
        )
    return PIXELS[name](levels)
