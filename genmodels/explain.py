"""Where each word of a prompt is looked for while a picture comes about: the U-Net's attention, as maps."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from genmodels.artifacts import new_file
from genmodels.data import pictures
from genmodels.errors import InputError
from genmodels.prompts import encoder_of, paint, reading
from genmodels.streams import Key
from genmodels.ways import METHODS, n_steps_of

_MOST = 32  # pictures: their maps are of one batch
_TILE, _HEADER = 96, 22  # screen pixels of a picture's side, and of the line of words
_HOT = (1.0, 0.35, 0.05)  # what is attended to most, in red, green and blue


class Explained(NamedTuple):
    """Pictures of a prompt, and the attention that they paid to its words.

    Attributes:
        pictures: To look at, in [0, 1]  # (picture, site)
        words: Of the prompt.
        maps: Share of the attention, which sums to 1 over all tokens  # (picture, word, row, column)
    """

    pictures: Tensor
    words: tuple[str, ...]
    maps: Tensor


class _Listener:
    """Sums softmax(QKᵀ/√d) of all cross-attentions, over heads, blocks and steps, as wide as the latent."""

    def __init__(self, n: int, n_tokens: int, side: tuple[int, int]) -> None:
        self.n, self.n_tokens, self.side = n, n_tokens, side
        self.queries: dict[str, Tensor] = {}
        self.total: Tensor | None = None
        self.count = 0

    def ask(self, name: str, module: nn.Module, given: Any, output: Tensor) -> None:
        self.queries[name] = output

    def answer(self, name: str, heads: int, module: nn.Module, given: Any, keys: Tensor) -> None:
        """Take the keys of one block, whose queries came before  # (row, token, feature)."""
        queries = self.queries.pop(name)
        # Of a guided step the rows without the prompt come first.
        q, k = (it[-self.n :].view(self.n, it.shape[1], heads, -1).transpose(1, 2) for it in (queries, keys))
        logits = q @ k[:, :, : self.n_tokens].transpose(2, 3) / math.sqrt(q.shape[-1])
        weights = torch.softmax(logits, -1).mean(1)
        maps = weights.transpose(1, 2).reshape(self.n, -1, *_sides(weights.shape[1], self.side))
        wide = nn.functional.interpolate(maps, size=self.side, mode="bilinear", align_corners=False)
        self.total = wide if self.total is None else self.total + wide
        self.count += 1


def _sides(n: int, side: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a block with n sites, halved as often as it takes."""
    height, width = side
    while height * width > n:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


@contextmanager
def _listening(model: Any, listener: _Listener) -> Iterator[None]:
    """Have the U-Net's cross-attentions heard for a while."""
    handles = []
    for name, module in model.prior.unet.named_modules():
        if name.endswith("attn2"):
            handles.append(module.to_q.register_forward_hook(partial(listener.ask, name)))
            handles.append(module.to_k.register_forward_hook(partial(listener.answer, name, module.heads)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def explain(
    model: Any,
    prompt: str,
    n: int,
    key: Key,
    guidance: float = 3.0,
    steps: int | None = None,
    method: str = "dpm",
) -> Explained:
    """Return n pictures of a prompt, and for each of its words where in them it was attended to.

    A word's map is the share of the attention that its tokens have, in the mean over heads, blocks and steps
    (Tang et al. 2023, arXiv:2210.04885).

    Args:
        model: A LatentDiffusion.
        prompt: Brackets are emphasis.
        n: Number of pictures.
        key: Picture i draws from key.at(shard=i).
        guidance: w, not 0.
        steps: Of the method; its usual number if None.
        method: A name in `ways.METHODS`.

    Raises:
        InputError: the model reads no prompts, the prompt has no words, no guidance, or see `paint`.
    """
    reading(model)
    if not 1 <= n <= _MOST:
        raise InputError(f"n: {n} pictures to explain, give 1 to {_MOST}")
    if guidance == 0.0:
        raise InputError("guidance: at 0 the prompt is not read, give another number")
    n_steps = n_steps_of(model, method, steps)
    encoder = encoder_of(model)
    n_tokens = encoder.encode([prompt], emphasised=True).states.shape[1]
    words = encoder.words(prompt, emphasised=True)
    if not words:
        raise InputError("prompt: without words there is nothing to explain, give some")
    left, right, above, below = model.prior.unet.padding.margins
    height, width, _ = model.space.shape
    listener = _Listener(n, n_tokens, (height + above + below, width + left + right))
    with tempfile.TemporaryDirectory() as cache, _listening(model, listener):
        shown = paint(model, [prompt] * n, key, Path(cache), "", guidance, n_steps, METHODS[method].name)[1]
    assert listener.total is not None  # the prompt was read in each step
    tokens = model.prior.unet.padding.crop(listener.total / listener.count)
    maps = torch.stack([tokens[:, numbers].sum(1) for _, numbers in words], 1)
    return Explained(shown, tuple(word for word, _ in words), maps)


def draw(explained: Explained, shape: Sequence[int], path: Path) -> None:
    """Write a PNG: a row a picture, first itself, then the map of each word over it, from its least to most.

    Args:
        explained: What `explain` found.
        shape: Height, width and channels of a picture.
        path: Where to.
    """
    height, width, channels = shape
    n, n_words = explained.maps.shape[:2]
    planes = explained.pictures.float().view(n, height, width, channels).expand(-1, -1, -1, 3)
    wide = nn.functional.interpolate(explained.maps.float(), size=(height, width), mode="bilinear")
    low, high = wide.amin((2, 3), keepdim=True), wide.amax((2, 3), keepdim=True)
    heat = ((wide - low) / (high - low).clamp(min=1e-12))[..., None]  # (picture, word, row, column, 1)
    grey = 0.6 + 0.4 * planes.mean(-1, keepdim=True)[:, None].expand(-1, n_words, -1, -1, 3)
    shown = grey * (1.0 - heat) + heat * torch.tensor(_HOT) * grey
    tiles = torch.cat([planes[:, None], shown], 1).reshape(n * (1 + n_words), -1)
    scale = max(1, -(-_TILE // width))
    sheet = pictures.grid(tiles.numpy(), (height, width, 3), columns=1 + n_words, scale=scale)
    image = Image.new("RGB", (sheet.width, sheet.height + _HEADER), "white")
    image.paste(sheet, (0, _HEADER))
    pen, step = ImageDraw.Draw(image), sheet.width / (1 + n_words)
    for k, word in enumerate(explained.words, 1):
        pen.text((step * k + 2, 2), word, fill="black", font=ImageFont.load_default(_HEADER - 6))
    with new_file(path) as temporary:
        image.save(temporary, format="PNG")
