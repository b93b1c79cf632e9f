"""Images of any size in networks that halve them several times."""

from torch import Tensor, nn

from genmodels.errors import InputError


class Padding(nn.Module):
    """Zeros around an image that make its sides multiples of 2^(n_levels − 1), and the way back.

    Args:
        height: Pixels.
        width: Pixels.
        n_levels: Resolutions of the network, each half as wide as the one before.

    Raises:
        InputError: the image cannot be halved so often.
    """

    def __init__(self, height: int, width: int, n_levels: int) -> None:
        """Share the zeros between both ends."""
        super().__init__()
        allowed = min(height, width).bit_length()
        if not 1 <= n_levels <= allowed:
            raise InputError(
                f"channels: {n_levels} entries halve the image {n_levels - 1} times, but {height}×{width} "
                f"pixels allow {allowed - 1} halvings; give 1 to {allowed} entries"
            )
        self.height, self.width = height, width
        multiple = 2 ** (n_levels - 1)
        right, below = -width % multiple, -height % multiple
        self.margins = (right // 2, right - right // 2, below // 2, below - below // 2)
        self.sides = [max(height + below, width + right) >> level for level in range(n_levels)]

    def forward(self, z: Tensor) -> Tensor:
        """Return `z` with its margins  # (image, channel, height, width) -> (…, padded height and width)."""
        return nn.functional.pad(z, self.margins) if any(self.margins) else z

    def crop(self, z: Tensor) -> Tensor:
        """Return `z` without its margins  # (image, channel, padded height and width)."""
        left, _, above, _ = self.margins
        return z[:, :, above : above + self.height, left : left + self.width]
