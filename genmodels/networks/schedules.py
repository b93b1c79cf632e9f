"""How the noise of a diffusion model rises with time: γ(s), s from 0 (least noise) to 1."""

import math
from typing import Any

import torch
from torch import Tensor, nn

_PIECES = 32
_LEAST_SHARE = 0.1  # of an equal one: a piece that no time falls on would never be looked at again


class Linear(nn.Module):
    """γ(s) = γ_min + (γ_max − γ_min) s: the signal-to-noise ratio falls by a constant factor a level."""

    def __init__(self, gamma_min: float, gamma_max: float) -> None:
        """Keep the ends."""
        super().__init__()
        self.first, self.width = gamma_min, gamma_max - gamma_min

    def at(self, s: Tensor) -> Tensor:
        """Return γ(s)  # float64."""
        return self.first + self.width * s.double()

    def slope(self, s: Tensor) -> Tensor:
        """Return γ'(s)  # float64."""
        return torch.full_like(s, self.width, dtype=torch.float64)

    def time(self, gamma: Tensor) -> Tensor:
        """Return the s at which γ(s) is `gamma`  # float64."""
        return (gamma.double() - self.first) / self.width


class Cosine(nn.Module):
    """γ(s) = 2 log tan(πu/2), so that √ᾱ = cos(πu/2), u linear in s and cut to the ends γ_min and γ_max.

    Nichol & Dhariwal 2021, eq. 17, without their offset: γ_min takes its part.
    """

    def __init__(self, gamma_min: float, gamma_max: float) -> None:
        """Keep the ends."""
        super().__init__()
        self.first = 2.0 / math.pi * math.atan(math.exp(0.5 * gamma_min))
        self.width = 2.0 / math.pi * math.atan(math.exp(0.5 * gamma_max)) - self.first

    def at(self, s: Tensor) -> Tensor:
        """Return γ(s)  # float64."""
        return 2.0 * torch.log(torch.tan(0.5 * math.pi * (self.first + self.width * s.double())))

    def slope(self, s: Tensor) -> Tensor:
        """Return γ'(s) = 2π u'/sin(πu)  # float64."""
        return 2.0 * math.pi * self.width / torch.sin(math.pi * (self.first + self.width * s.double()))

    def time(self, gamma: Tensor) -> Tensor:
        """Return the s at which γ(s) is `gamma`  # float64."""
        u = 2.0 / math.pi * torch.atan(torch.exp(0.5 * gamma.double()))
        return (u - self.first) / self.width


class Learned(nn.Module):
    """γ rises from a learned γ(0) to a learned γ(1) by straight pieces of equal height and learned duration.

    γ(0) = m − e^a and γ(1) = m + e^b about the middle m of where they start, and the pieces' shares of the
    time, a softmax, are positive: γ is monotone whatever the parameters. In continuous time a bound does not
    depend on the shares; they only decide how much its draws scatter. They then get no gradient of the bound,
    but that of the scatter by `scatter`. Kingma et al. 2021, section 5 and appendix I.2, with pieces in place
    of a monotone network.
    """

    def __init__(self, gamma_min: float, gamma_max: float, continuous: bool) -> None:
        """Start as a straight line from γ_min to γ_max."""
        super().__init__()
        self.continuous = continuous
        self.middle = 0.5 * (gamma_min + gamma_max)
        half = math.log(0.5 * (gamma_max - gamma_min))
        self.log_ends = nn.Parameter(torch.tensor([half, half]))  # a, b
        self.durations = nn.Parameter(torch.zeros(_PIECES))

    def ends(self) -> tuple[Tensor, Tensor]:
        """Return γ(0) and γ(1) − γ(0)  # float64, numbers."""
        below, above = self.log_ends.double().exp()
        return self.middle - below, below + above

    def shares(self) -> Tensor:
        """Return the share of the time that each piece has  # (piece,), float64."""
        least = _LEAST_SHARE / _PIECES
        return least + (1.0 - _LEAST_SHARE) * torch.softmax(self.durations.double(), 0)

    def _pieces(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return for each s its piece, how far along it is, and the piece's share of the time."""
        shares = self.shares().detach() if self.continuous else self.shares()
        ends = shares.cumsum(0)
        piece = torch.searchsorted(ends.detach(), s.double().contiguous(), right=True).clamp(max=_PIECES - 1)
        share = shares[piece]
        return piece, (s.double() - (ends[piece] - share)) / share, share

    def at(self, s: Tensor) -> Tensor:
        """Return γ(s)  # float64."""
        (first, height), (piece, along, _) = self.ends(), self._pieces(s)
        return first + height * (piece + along) / _PIECES

    def slope(self, s: Tensor) -> Tensor:
        """Return γ'(s)  # float64."""
        _, _, share = self._pieces(s)
        return self.ends()[1] / (_PIECES * share)

    def time(self, gamma: Tensor) -> Tensor:
        """Return the s at which γ(s) is `gamma`  # float64."""
        (first, height), shares = self.ends(), self.shares()
        place = (gamma.double() - first) / height * _PIECES
        piece = place.long().clamp(0, _PIECES - 1)
        return (shares.cumsum(0) - shares)[piece] + shares[piece] * (place - piece)

    def scatter(self, s: Tensor, costs: Tensor) -> Tensor:
        """Return what has, by the shares, the gradient of E[c²] of the bound's draws c at times s.

        At a given γ a draw is inversely proportional to its piece's share π, and of the draws a share π are
        there: E[c²] = Σ_k A_k/π_k has the gradient −E[c² ∇log π].

        Args:
            s: Times of the draws  # (draw,)
            costs: The draws  # (draw,)
        """
        piece, _, _ = self._pieces(s)
        return -(costs.detach().double().square() * self.shares().log()[piece]).mean()


SCHEDULES: dict[str, Any] = {"linear": Linear, "cosine": Cosine, "learned": Learned}
