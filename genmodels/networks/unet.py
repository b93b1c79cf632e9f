"""diffusers' U-Net for images of any size, one-channel ones of a few pixels included."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from genmodels.errors import InputError

_ATTENTION_SIDE = 8  # attend where the feature map is at most this wide: the cost grows as its fourth power


class UNet(nn.Module):
    """UNet2DModel of diffusers, one residual block a resolution, the image padded to a size it can halve.

    Each entry of `channels` is one resolution, half as wide as the one before; the full resolution never
    attends, the coarser ones do where they are small, the middle always does. Ronneberger et al. 2015; Ho et
    al. 2020.

    Args:
        height: Pixels.
        width: Pixels.
        channels: Features of each resolution.
        dropout: Share of features silenced in training.
        channels_io: Channels of input and output.

    Raises:
        InputError: the image cannot be halved so often.
    """

    def __init__(
        self, height: int, width: int, channels: Sequence[int], dropout: float, channels_io: int = 1
    ) -> None:
        """Build the network, with torch's random first weights."""
        super().__init__()
        from diffusers import UNet2DModel

        n_levels, allowed = len(channels), min(height, width).bit_length()
        if not 1 <= n_levels <= allowed:
            raise InputError(
                f"channels: {n_levels} entries halve the image {n_levels - 1} times, but {height}×{width} "
                f"pixels allow {allowed - 1} halvings; give 1 to {allowed} entries"
            )
        self.height, self.width = height, width
        multiple = 2 ** (n_levels - 1)
        right, below = -width % multiple, -height % multiple
        self.padding = (right // 2, right - right // 2, below // 2, below - below // 2)
        sides = [max(height + below, width + right) >> level for level in range(n_levels)]
        attends = [level > 0 and sides[level] <= _ATTENTION_SIDE for level in range(n_levels)]
        unit = math.gcd(8, *channels)  # groups of the norms and width of an attention head must divide all
        self.net: Any = UNet2DModel(
            in_channels=channels_io,
            out_channels=channels_io,
            block_out_channels=tuple(channels),
            layers_per_block=1,
            down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
            up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
            norm_num_groups=unit,
            attention_head_dim=unit,
            dropout=dropout,
        )  # type: ignore[no-untyped-call]

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        """Return the network's output, of the shape of `z`.

        Args:
            z: Noisy images  # (image, channel, height, width)
            time: Level of noise on a scale of 0 to 1000, which the sinusoids resolve  # (image,)
        """
        left, _, above, _ = self.padding
        padded = nn.functional.pad(z, self.padding)
        output: Tensor = self.net(padded, time, return_dict=False)[0]
        return output[:, :, above : above + self.height, left : left + self.width]
