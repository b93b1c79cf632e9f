"""Networks from images to numbers and back: perceptrons, strided convolutions below them if asked for."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.networks.mlp import mlp

_KERNEL = (4, 2, 1)  # side, stride, padding: halves; 2 divides 4, so no checkerboard on the way up


class _Frame:
    """Flattened images (…, height · width · channels) as padded planes that can be halved n times.

    Features are the fastest index in memory, in planes and when flattened, which CPUs like better.
    """

    def __init__(self, shape: Sequence[int], n_halvings: int) -> None:
        self.height, self.width = shape[0], shape[1]
        self.channels = shape[2] if len(shape) > 2 else 1
        if 2**n_halvings > 2 * min(self.height, self.width):
            raise InputError(
                f"channels: {n_halvings} entries halve the image {n_halvings} times, which is too often for "
                f"{self.height}×{self.width} pixels; give fewer"
            )
        right, below = -self.width % 2**n_halvings, -self.height % 2**n_halvings
        self.padding = (right // 2, right - right // 2, below // 2, below - below // 2)
        self.sides = (self.height + below) >> n_halvings, (self.width + right) >> n_halvings

    def planes(self, x: Tensor) -> Tensor:
        """Return (n, site) as (n, channel, padded height, padded width)."""
        images = x.view(-1, self.height, self.width, self.channels)
        return nn.functional.pad(images, (0, 0, *self.padding)).permute(0, 3, 1, 2)

    def sites(self, planes: Tensor, n_outputs: int) -> Tensor:
        """Return (n, output · channel, padded height, padded width) as (n, output · site)."""
        left, _, above, _ = self.padding
        cut = planes[:, :, above : above + self.height, left : left + self.width]
        split = cut.reshape(-1, n_outputs, self.channels, self.height, self.width)
        return split.permute(0, 1, 3, 4, 2).flatten(1)


class Down(nn.Module):
    """Strided convolutions with SiLU after each  # (image, site) -> (image, feature).

    Args:
        shape: Height, width and perhaps channels.
        channels: Features of each resolution, the first half as wide as the image, from the image on.
        dropout: Share of features silenced in training.

    Raises:
        InputError: the image cannot be halved so often.
    """

    def __init__(self, shape: Sequence[int], channels: Sequence[int], dropout: float = 0.0) -> None:
        """Build the layers, with torch's random first weights."""
        super().__init__()
        self.frame = _Frame(shape, len(channels))
        self.n_features = channels[-1] * math.prod(self.frame.sides)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([self.frame.channels, *channels]):
            layers += [nn.Conv2d(n_in, n_out, *_KERNEL), nn.SiLU()]
            layers += [nn.Dropout(dropout)] if dropout > 0.0 else []
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of the coarsest resolution, SiLU applied."""
        features: Tensor = self.net(self.frame.planes(x))
        return features.permute(0, 2, 3, 1).flatten(1)


class Up(nn.Module):
    """Transposed convolutions with SiLU after each, then pixels  # (…, feature) -> (…, output · site).

    Args:
        shape: Height, width and perhaps channels of the images.
        channels: As Down has them: from the image on.
        n_outputs: Numbers that the network says of each site.
        dropout: Share of features silenced in training.

    Raises:
        InputError: the image cannot be halved so often.
    """

    def __init__(
        self, shape: Sequence[int], channels: Sequence[int], n_outputs: int, dropout: float = 0.0
    ) -> None:
        """Build the layers, with torch's random first weights."""
        super().__init__()
        self.frame, self.n_outputs = _Frame(shape, len(channels)), n_outputs
        self.first = (*self.frame.sides, channels[-1])
        self.n_features = math.prod(self.first)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(reversed(channels)):
            layers += [nn.ConvTranspose2d(n_in, n_out, *_KERNEL), nn.SiLU()]
            layers += [nn.Dropout(dropout)] if dropout > 0.0 else []
        # To so few planes at twice the size this is faster than a transposed convolution.
        layers += [nn.Conv2d(channels[0], 4 * n_outputs * self.frame.channels, 3, 1, 1), nn.PixelShuffle(2)]
        self.net = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Return what is said of each site, one output after the other."""
        planes: Tensor = self.net(features.reshape(-1, *self.first).permute(0, 3, 1, 2))
        return self.frame.sites(planes, self.n_outputs).view(*features.shape[:-1], -1)


def encoder(
    shape: Sequence[int], channels: Sequence[int], widths: Sequence[int], dropout: float
) -> nn.Sequential:
    """Return a network from flattened images to widths[-1] numbers, a perceptron above the convolutions.

    Args:
        shape: Height, width and perhaps channels.
        channels: Of the convolutions; none: a perceptron alone.
        widths: Units of the perceptron's hidden layers and of its output.
        dropout: Share of features and hidden units silenced in training.

    Raises:
        InputError: the image cannot be halved so often.
    """
    if not channels:
        return mlp([math.prod(shape), *widths], dropout)
    down = Down(shape, channels, dropout)
    return nn.Sequential(down, *mlp([down.n_features, *widths], dropout))


def decoder(
    shape: Sequence[int], channels: Sequence[int], widths: Sequence[int], n_outputs: int, dropout: float
) -> nn.Sequential:
    """Return a network from (…, widths[0]) to (…, output · site), convolutions below the perceptron.

    Args:
        shape: Height, width and perhaps channels of the images.
        channels: Of the convolutions, from the image on; none: a perceptron alone.
        widths: Units of the perceptron's input and of its hidden layers.
        n_outputs: Numbers that the network says of each site.
        dropout: Share of features and hidden units silenced in training.

    Raises:
        InputError: the image cannot be halved so often.
    """
    if not channels:
        return mlp([*widths, n_outputs * math.prod(shape)], dropout)
    up = Up(shape, channels, n_outputs, dropout)
    return nn.Sequential(*mlp([*widths, up.n_features], dropout), nn.SiLU(), up)


def footprint(shape: Sequence[int], channels: Sequence[int], widths: Sequence[int], n_outputs: int) -> int:
    """Return how many numbers a picture takes in all layers of such a decoder, about."""
    n_sites, total = math.prod(shape), sum(widths) + n_outputs * math.prod(shape)
    return total + sum(features * n_sites >> 2 * depth for depth, features in enumerate(channels, 1))
