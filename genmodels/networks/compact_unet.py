"""A small U-Net that is told the noise level as γ = −log SNR; most parameters sit where images are small."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from genmodels.networks.groups import n_groups
from genmodels.networks.padding import Padding

_ATTENTION_SIDE = 8  # attend where the feature map is at most this wide: the cost grows as its fourth power
_HEAD = 32  # features of an attention head
_FREQUENCIES = 16
_SLOWEST, _FASTEST = 1 / 16, 4.0  # radians per unit of γ, which runs over some 20 units


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(n_groups(width), width)


class _Block(nn.Module):
    """h + conv(dropout(silu(norm(conv(silu(norm(h))) + shift)))), h convolved where widths differ."""

    def __init__(self, width_in: int, width_out: int, dropout: float) -> None:
        super().__init__()
        self.norm_in, self.norm_out = _norm(width_in), _norm(width_out)
        self.conv_in = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.conv_out = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, h: Tensor, shift: Tensor) -> Tensor:  # (image, width_in, …), (image, width_out)
        inner = self.conv_in(silu(self.norm_in(h))) + shift[:, :, None, None]
        update = self.conv_out(self.dropout(silu(self.norm_out(inner))))
        output: Tensor = update + self.skip(h)
        return output


class _Attention(nn.Module):
    """h + softmax(QKᵀ/√d)V over all pixels of a feature map. Vaswani et al. 2017."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n_heads = width // math.gcd(width, _HEAD)
        self.norm = _norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:  # (image, width, row, column)
        n, width, height, columns = h.shape
        tokens = self.norm(h).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).view(n, -1, 3, self.n_heads, width // self.n_heads).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, width)
        update: Tensor = self.out(mixed).transpose(1, 2).reshape(n, width, height, columns)
        return h + update


class _Level(nn.Module):
    """A residual block and, where the feature map is small, attention."""

    def __init__(self, width_in: int, width_out: int, dropout: float, attends: bool) -> None:
        super().__init__()
        self.width = width_out
        self.block = _Block(width_in, width_out, dropout)
        self.attention = _Attention(width_out) if attends else nn.Identity()

    def forward(self, h: Tensor, shift: Tensor) -> Tensor:
        mixed: Tensor = self.attention(self.block(h, shift))
        return mixed


class _Condition(nn.Module):
    """Sinusoids of γ through a perceptron, plus a learnt vector a label."""

    frequencies: Tensor

    def __init__(self, width: int, n_classes: int | None) -> None:
        super().__init__()
        steps = torch.linspace(0.0, 1.0, _FREQUENCIES)
        frequencies = _SLOWEST * (_FASTEST / _SLOWEST) ** steps
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * _FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(n_classes + 1, width) if n_classes else None

    def forward(self, gamma: Tensor, labels: Tensor | None) -> Tensor:  # (image,) -> (image, width)
        angles = gamma[:, None].to(self.frequencies) * self.frequencies
        condition: Tensor = self.layers(torch.cat([angles.sin(), angles.cos()], 1))
        if self.label is not None:
            null = self.label.num_embeddings - 1
            labels = torch.full_like(gamma, null, dtype=torch.long) if labels is None else labels
            condition = condition + self.label(labels)
        return silu(condition)


class CompactUNet(nn.Module):
    """A U-Net with one residual block a resolution on the way down and one on the way up, two in the middle.

    Each entry of `channels` is one resolution, half as wide as the one before, padded to what can be halved.
    A convolution of stride 2 leads down, repeated pixels lead up. All but the finest attend where they are at
    most 8 wide. γ and label shift the features within each block; one product makes the shifts of all
    blocks. The last convolution starts at 0. Ronneberger et al. 2015; Ho et al. 2020.

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
        self.padding = Padding(height, width, len(channels))
        attends = [level > 0 and side <= _ATTENTION_SIDE for level, side in enumerate(self.padding.sides)]
        sizes = list(zip(channels, attends, strict=True))
        deepest = channels[-1]
        self.first = nn.Conv2d(channels_io, channels[0], 3, padding=1)
        self.down = nn.ModuleList(_Level(n, n, dropout, attend) for n, attend in sizes)
        self.halve = nn.ModuleList(
            nn.Conv2d(wide, narrow, 3, stride=2, padding=1)
            for wide, narrow in zip(channels[:-1], channels[1:], strict=True)
        )
        self.middle = nn.ModuleList(
            [_Level(deepest, deepest, dropout, True), _Level(deepest, deepest, dropout, False)]
        )
        below = [*channels[1:], deepest]
        self.up = nn.ModuleList(
            _Level(under + n, n, dropout, attend) for under, (n, attend) in zip(below, sizes, strict=True)
        )
        levels = [*self.down, *self.middle, *self.up]
        self.widths = [int(level.width) for level in levels]
        self.condition = _Condition(4 * channels[0], n_classes)
        self.shifts = nn.Linear(4 * channels[0], sum(self.widths))
        self.norm, self.last = _norm(channels[0]), nn.Conv2d(channels[0], channels_io, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, z: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the network's output, of the shape of `z`.

        Args:
            z: Noisy images  # (image, channel, height, width)
            time: γ of the level of noise  # (image,)
            labels: Of a network with classes, n_classes for none; none for all if None  # (image,)
        """
        shifts = iter(self.shifts(self.condition(time, labels)).split(self.widths, 1))
        h, kept = self.first(self.padding(z)), []
        for level, module in enumerate(self.down):
            h = module(h if level == 0 else self.halve[level - 1](h), next(shifts))
            kept.append(h)
        for module in self.middle:
            h = module(h, next(shifts))
        # The deepest level comes last in `up`, first on the way.
        for level, shift in reversed(list(enumerate(shifts))):
            if level < len(self.up) - 1:
                h = interpolate(h, scale_factor=2.0)
            h = self.up[level](torch.cat([h, kept.pop()], 1), shift)
        output: Tensor = self.last(silu(self.norm(h)))
        return self.padding.crop(output)
