"""diffusers' U-Net for images of any size, one-channel ones of a few pixels included."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genmodels.networks.groups import n_groups
from genmodels.networks.padding import Padding

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
        n_classes: Number of labels; label n_classes stands for none. None: the network takes no labels.

    Raises:
        InputError: the image cannot be halved so often.
    """

    def __init__(
        self,
        height: int,
        width: int,
        channels: Sequence[int],
        dropout: float,
        channels_io: int = 1,
        n_classes: int | None = None,
    ) -> None:
        """Build the network, with torch's random first weights."""
        super().__init__()
        from diffusers import UNet2DModel

        self.padding = Padding(height, width, len(channels))
        self.n_classes = n_classes
        attends = [level > 0 and side <= _ATTENTION_SIDE for level, side in enumerate(self.padding.sides)]
        self.net: Any = UNet2DModel(
            sample_size=(height, width),
            in_channels=channels_io,
            out_channels=channels_io,
            block_out_channels=tuple(channels),
            layers_per_block=1,
            down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
            up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
            norm_num_groups=n_groups(*channels),
            attention_head_dim=math.gcd(8, *channels),
            dropout=dropout,
            num_class_embeds=None if n_classes is None else n_classes + 1,
        )  # type: ignore[no-untyped-call]

    def forward(self, z: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the network's output, of the shape of `z`.

        Args:
            z: Noisy images  # (image, channel, height, width)
            time: Number of the level of noise, from 0 as diffusers' schedulers count  # (image,)
            labels: Of a network with classes, n_classes for none; none for all if None  # (image,)
        """
        if self.n_classes is None:
            given = {}
        else:
            null = torch.full((len(z),), self.n_classes, device=z.device)
            given = {"class_labels": null if labels is None else labels}
        output: Tensor = self.net(self.padding(z), time, return_dict=False, **given)[0]
        return self.padding.crop(output)
