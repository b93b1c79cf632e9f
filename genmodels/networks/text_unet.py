"""diffusers' U-Net whose blocks attend to the states of a text."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from genmodels.networks.groups import n_groups
from genmodels.networks.padding import Padding
from genmodels.networks.text_encoder import Texts

_HEAD = 16  # features of an attention head


class TextUNet(nn.Module):
    """UNet2DConditionModel, one residual block a resolution, each attending to itself and to the text.

    softmax(QKᵀ/√d) V with Q from the image, K and V from the text's states. Rombach et al. 2022, section 3.3.

    Args:
        height: Pixels.
        width: Pixels.
        channels: Features of each resolution, half as wide as the one before.
        dropout: Share of features silenced in training.
        channels_io: Channels of input and output.
        text_width: Entries of a state.

    Raises:
        InputError: the image cannot be halved so often.
    """

    def __init__(
        self,
        height: int,
        width: int,
        channels: Sequence[int],
        dropout: float,
        channels_io: int,
        text_width: int,
    ) -> None:
        """Build the network, with torch's random first weights."""
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.padding = Padding(height, width, len(channels))
        heads = tuple(width // math.gcd(_HEAD, width) for width in channels)
        self.net: Any = UNet2DConditionModel(
            sample_size=(height, width),
            in_channels=channels_io,
            out_channels=channels_io,
            block_out_channels=tuple(channels),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * len(channels),
            up_block_types=("CrossAttnUpBlock2D",) * len(channels),
            cross_attention_dim=text_width,
            # diffusers takes the number of heads under this name.
            attention_head_dim=heads,
            norm_num_groups=n_groups(*channels),
            dropout=dropout,
        )  # type: ignore[no-untyped-call]

    def forward(self, z: Tensor, time: Tensor, texts: Texts) -> Tensor:
        """Return the network's output, of the shape of `z`.

        Args:
            z: Noisy images  # (image, channel, height, width)
            time: Level of noise on a scale of 0 to 1000, which the sinusoids resolve  # (image,)
            texts: A text an image.
        """
        output: Tensor = self.net(
            self.padding(z),
            time,
            encoder_hidden_states=texts.states,
            encoder_attention_mask=texts.mask,
            return_dict=False,
        )[0]
        return self.padding.crop(output)
