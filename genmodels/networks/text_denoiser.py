"""A denoiser of latents that reads: captions in place of labels."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.networks.denoiser import Denoiser
from genmodels.networks.diagonal_normal import DiagonalNormal
from genmodels.networks.noise import Noise
from genmodels.networks.prediction import Prediction
from genmodels.networks.text_encoder import Texts, stacked
from genmodels.networks.text_unet import TextUNet
from genmodels.streams import normal, stratified, uniform

_TIME_SCALE = 1000.0  # of continuous time
_MOST_DRAWS = 4096  # latents from which the least noisy level's error is measured


class TextDenoiser(Denoiser):
    """ŷ(z_t, t) and ε̂(z_t, t) of noisy latents z_t = √ᾱ_t y + σ_t ε, given a caption or none.

    A label is the number of a caption among those that `tell` was given last. −1 is no caption: the states of
    an empty prompt, or of a negative prompt if there is one. Rombach et al. 2022, section 3.3.

    Args:
        shape: Height, width and channels of a latent.
        channels: Features of the U-Net, one entry a resolution.
        noise: The noise levels.
        prediction: What the network's output is: eps, or v.
        text_width: Entries of a text's state.
        empty_tokens: Tokens of an empty prompt.
        dropout: Share of features silenced in training.
        text_drop: Share of captions taken away in training, for the model without captions to be learnt, too.

    Attributes:
        empty: States of the empty prompt  # (token, width)
        variance: v of the density N(y; ŷ(z_1), v I) that the least noisy level is given  # float64

    Raises:
        InputError: another prediction, no share, or a latent that cannot be halved so often.
    """

    empty: Tensor
    variance: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int],
        noise: Noise,
        prediction: Prediction,
        text_width: int,
        empty_tokens: int = 2,
        dropout: float = 0.0,
        text_drop: float = 0.1,
    ) -> None:
        """Build the U-Net, with torch's random first weights."""
        nn.Module.__init__(self)  # a network of its own: all else is as Denoiser has it
        if prediction not in ("eps", "v"):
            raise InputError(f"prediction: '{prediction}' is none of eps, v")
        if not 0.0 <= text_drop < 1.0:
            raise InputError(f"text_drop: {text_drop} is no share of captions, give one from 0 to below 1")
        self.height, self.width, self.depth = shape
        self.n_sites = math.prod(shape)
        self.noise, self.prediction, self.reach = noise, prediction, math.inf
        self.n_classes, self.compact, self.text_drop = 0, False, text_drop
        self.unet: nn.Module = TextUNet(self.height, self.width, channels, dropout, self.depth, text_width)
        self.register_buffer("empty", torch.zeros(empty_tokens, text_width))
        first = noise.at(torch.tensor([noise.first], dtype=torch.float64)).detach()
        self.register_buffer("variance", torch.exp(first)[0])
        self._told: Texts | None = None

    def tell(self, texts: Texts | None, negative: Texts | None = None) -> None:
        """Take the captions that labels are the numbers of, and the prompt to keep away from, if any."""
        rows = [self.empty if negative is None else negative.states[0][negative.mask[0]]]
        if texts is not None:
            rows += [states[mask] for states, mask in zip(texts.states, texts.mask, strict=True)]
        self.n_classes = len(rows) - 1
        self._told = stacked([row.to(self.empty) for row in rows])

    @contextmanager
    def told(self, texts: Texts | None, negative: Texts | None = None) -> Iterator[None]:
        """Take captions for a while, as `tell` does, and then those from before again."""
        before = self._told, self.n_classes
        self.tell(texts, negative)
        try:
            yield
        finally:
            self._told, self.n_classes = before

    def network(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the U-Net's output at level t  # (image, site), (image,) -> (image, site).

        Args:
            z: Noisy latents  # (image, site)
            t: Levels 1 … T, or times 0 … 1 in continuous time  # (image,)
            labels: Numbers of captions, −1 for none; None for none at all  # (image,)

        Raises:
            InputError: a label that is no caption's number.
        """
        if self._told is None:
            self.tell(None)
        assert self._told is not None
        if labels is None:
            labels = torch.full((len(z),), -1, device=z.device)
        if not bool(((labels >= -1) & (labels < self.n_classes)).all()):
            raise InputError(f"labels: {self.n_classes} captions are known, and -1 for none")
        states, mask = self._told.to(z.device).select(labels + 1)
        longest = int(mask.sum(1).max())
        texts = Texts(states[:, :longest].to(z.dtype), mask[:, :longest])
        image = z.view(-1, self.height, self.width, self.depth).permute(0, 3, 1, 2)
        time = _TIME_SCALE * t.double() if self.noise.T is None else t.double() - 1.0
        output: Tensor = self.unet(image, time.to(z.dtype), texts)
        return output.permute(0, 2, 3, 1).flatten(1)

    def loss(
        self, x: Tensor, generator: torch.Generator, labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean of (ε − ε̂)², or of (v − v̂)² with v = αε − σy, levels stratified over the batch.

        Args:
            x: Mean and log-variance of each latent, of which y is drawn anew  # (image, 2 · site)
            generator: Source of latents, levels, noise, and of which captions are taken away.
            labels: Numbers of captions  # (image,)
        """
        y = DiagonalNormal.of(x).draw(normal(generator, len(x), self.n_sites, dtype=x.dtype))
        t = self.noise.strata(stratified(generator, len(x)), first=1)
        eps = normal(generator, *y.shape, dtype=y.dtype)
        if labels is not None:
            labels = torch.where(uniform(generator, len(labels)) < self.text_drop, -1, labels)
        signal, spread = self.noise.scales(t, y)
        wanted = eps if self.prediction == "eps" else signal * eps - spread * y
        loss = (wanted - self.network(signal * y + spread * eps, t, labels)).square().mean()
        return loss, {"loss": loss.detach()}

    def log_density(self, y: Tensor, eps: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log N(y; ŷ(z_1), v I) at z_1 = √ᾱ_1 y + σ_1 ε  # (image, site) twice -> (image,), nats.

        A density of the latent, where the model of pixels has a probability: at any v a bound remains one.
        """
        t = self.noise.least(y)
        error = (y - self.denoise(self.noise.add(y, t, eps), t, labels)).double().square()
        return -0.5 * (error / self.variance + torch.log(2.0 * math.pi * self.variance)).sum(1)

    @torch.no_grad()
    def measure(self, x: Tensor, generator: torch.Generator, labels: Tensor | None = None) -> None:
        """Set v to the mean of (y − ŷ(z_1))², at which the bound is best.

        Args:
            x: Mean and log-variance of each latent  # (image, 2 · site)
            generator: Source of latents and noise.
            labels: Numbers of captions  # (image,)
        """
        errors = []
        for k, some in enumerate(torch.split(x[:_MOST_DRAWS], 256)):
            y = DiagonalNormal.of(some).draw(normal(generator, len(some), self.n_sites, dtype=x.dtype))
            t, eps = self.noise.least(y), normal(generator, *y.shape, dtype=y.dtype)
            told = None if labels is None else labels[256 * k : 256 * k + len(some)]
            errors.append((y - self.denoise(self.noise.add(y, t, eps), t, told)).double().square())
        self.variance.copy_(torch.cat(errors).mean())
