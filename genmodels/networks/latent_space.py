"""The small latent in which pictures are described, and the way there and back: diffusers' AutoencoderKL."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genmodels.networks.diagonal_normal import DiagonalNormal
from genmodels.networks.groups import n_groups
from genmodels.networks.padding import Padding
from genmodels.networks.pixels import pixels

_AT_ONCE = 256  # pictures


class LatentSpace(nn.Module):
    """Encoder q(z|x) = N(μ(x), diag σ²(x)) and decoder p(x|z) = Π_i p(x_i|y_i(z)), z a small image.

    Each entry of `channels` is one resolution, half as wide as the one before; z is as wide as the last one.
    Sites of x and of z are in the order row, column, channel. Rombach et al. 2022, section 3.1, with a
    likelihood of the pixels in place of a perceptual loss.

    Args:
        shape: Height, width and channels of the pictures.
        channels: Features of each resolution.
        latent: Channels of z.
        levels: K, values of a pixel: Bernoulli for 2 levels, a discretised logistic for more.

    Attributes:
        shape: Height, width and channels of z.
        scale: s, one over the standard deviation of z over pictures: sz has variance 1.

    Raises:
        InputError: the picture cannot be halved so often.
    """

    scale: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int],
        latent: int = 4,
        levels: int = 256,
    ) -> None:
        """Build both networks, with torch's random first weights."""
        super().__init__()
        from diffusers import AutoencoderKL

        self.height, self.width, self.depth = shape
        self.pixels = pixels(None, levels)
        self.padding = Padding(self.height, self.width, len(channels))
        halved = len(channels) - 1
        left, right, above, below = self.padding.margins
        tall, wide = self.height + above + below, self.width + left + right
        self.shape = (tall >> halved, wide >> halved, latent)
        self.n_latent = math.prod(self.shape)
        self.net: Any = AutoencoderKL(
            in_channels=self.depth,
            out_channels=self.pixels.n_outputs * self.depth,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=tuple(channels),
            layers_per_block=1,
            latent_channels=latent,
            norm_num_groups=n_groups(*channels),
            sample_size=(tall, wide),
        )  # type: ignore[no-untyped-call]
        self.register_buffer("scale", torch.ones(()))

    def encode(self, x: Tensor) -> DiagonalNormal:
        """Return q(z|x)  # (image, site), levels -> (image, latent)."""
        planes = self.pixels.scaled(x).view(-1, self.height, self.width, self.depth).permute(0, 3, 1, 2)
        found = self.net.encode(self.padding(planes), return_dict=False)[0]
        mean, log_variance = (it.permute(0, 2, 3, 1).flatten(1) for it in (found.mean, found.logvar))
        return DiagonalNormal(mean, log_variance)

    def decode(self, z: Tensor) -> Tensor:
        """Return what the pixels' distribution is told  # (image, latent) -> (image, output · site)."""
        planes = self.net.decode(z.view(-1, *self.shape).permute(0, 3, 1, 2), return_dict=False)[0]
        cropped = self.padding.crop(planes)
        split = cropped.reshape(-1, self.pixels.n_outputs, self.depth, self.height, self.width)
        told: Tensor = split.permute(0, 1, 3, 4, 2).flatten(1)
        return told

    def picture(self, z: Tensor) -> Tensor:
        """Return what to show of p(x|z), from 0 to 1  # (image, latent) -> (image, site)."""
        shown: Tensor = self.pixels.shown(self.decode(z))
        return shown

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z)  # (image, site), (image, latent) -> (image,), nats."""
        total: Tensor = self.pixels.log_prob(x, self.decode(z))
        return total

    @torch.no_grad()
    def moments(self, x: Tensor) -> Tensor:
        """Return mean and log-variance of sz, one after the other  # (image, site) -> (image, 2 · latent)."""
        parts = [self.encode(some) for some in torch.split(x, _AT_ONCE)]
        log_scale = self.scale.abs().log()
        scaled = [torch.cat([self.scale * mean, rest + 2.0 * log_scale], 1) for mean, rest in parts]
        return torch.cat(scaled)

    @torch.no_grad()
    def measure(self, x: Tensor) -> None:
        """Set the scale: 1/s² = ⟨σ²⟩ + var μ over pictures and coordinates  # (image, site)."""
        self.scale.fill_(1.0)
        encoded = DiagonalNormal.of(self.moments(x))
        variance = encoded.log_variance.double().exp().mean() + encoded.mean.double().var(correction=0)
        self.scale.copy_(1.0 / variance.sqrt())
