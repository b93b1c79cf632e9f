"""Pictures from text: diffusion in the small latent of an autoencoder."""

import math
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.networks import schedulers
from genmodels.networks.denoiser import Method
from genmodels.networks.latent_space import LatentSpace
from genmodels.networks.noise import BoundTerms, Noise
from genmodels.networks.prediction import Prediction
from genmodels.networks.schedules import Linear
from genmodels.networks.sketches import Sketches, finished
from genmodels.networks.text_denoiser import TextDenoiser
from genmodels.networks.text_encoder import TextEncoder, Texts
from genmodels.networks.text_pipeline import text_pipeline_of
from genmodels.protocols import Domain
from genmodels.streams import Streams, normal

_LOG_2PI = math.log(2.0 * math.pi)


class LatentTerms(NamedTuple):
    """log q(x) ≥ E[decoder + entropy + least_noise + scale − prior − matching]  # (image,) each, nats."""

    decoder: Tensor  # log p(x|z), z ~ q(z|x)
    entropy: Tensor  # H[q(z|x)]
    least_noise: Tensor  # log p(y|z_1), the density of the latent y = sz
    scale: Tensor  # d log|s|, from a density of y to one of z
    prior: Tensor  # D(q(z_T|y) ‖ N(0, I))
    matching: Tensor  # Σ_{t≥2} D(q(z_{t−1}|z_t, y) ‖ q_θ(z_{t−1}|z_t))


class LatentDiffusion(nn.Module):
    """q_θ(x) = ∫ p(x|z) p(z) dz: an autoencoder's decoder and a prior that diffuses, given a caption or not.

    The prior is a TextDenoiser on y = sz; guidance is ε̂_u + w (ε̂_c − ε̂_u), w = 0 without the caption and 1
    with it. Rombach et al. 2022; its bound composes those of Kingma & Welling 2013 and Kingma et al. 2021.

    Args:
        shape: Height, width and channels of the pictures.
        first_channels: Features of the autoencoder's resolutions.
        latent: Channels of z.
        levels: K, values of a pixel.
        channels: Features of the U-Net's resolutions, from z's on.
        T: Number of noise levels; None for continuous time.
        gamma_min: −log SNR of the least noisy level.
        gamma_max: −log SNR of the noisiest level.
        prediction: What the U-Net's output is: eps, or v.
        dropout: Share of the U-Net's features silenced in training.
        text_drop: Share of captions taken away in training.
        text_width: Entries of a text's state.
        empty_tokens: Tokens of an empty prompt.
        text_encoder: Name, digest and longest prompt of the encoder whose states it was trained on, and
            whether prompts are padded.

    Raises:
        InputError: settings that do not fit each other.
    """

    def __init__(
        self,
        shape: Sequence[int],
        first_channels: Sequence[int] = (16, 32, 48),
        latent: int = 4,
        levels: int = 256,
        channels: Sequence[int] = (48, 96),
        T: int | None = 1000,
        gamma_min: float = -7.0,
        gamma_max: float = 7.0,
        prediction: Prediction = "v",
        dropout: float = 0.0,
        text_drop: float = 0.1,
        text_width: int = 384,
        empty_tokens: int = 2,
        text_encoder: dict[str, Any] | None = None,
    ) -> None:
        """Build all networks, with torch's random first weights; the autoencoder learns nothing here."""
        super().__init__()
        if T is not None and T < 2:
            raise InputError(f"T: {T} noise levels are too few, give at least 2, or none for continuous time")
        if gamma_min >= gamma_max:
            raise InputError(f"gamma_min: {gamma_min} is not below gamma_max {gamma_max}: noise grows with t")
        shape = (*shape, 1)[:3]
        self._args = {
            "shape": list(shape), "first_channels": list(first_channels), "latent": latent, "levels": levels,
            "channels": list(channels), "T": T, "gamma_min": gamma_min, "gamma_max": gamma_max,
            "prediction": prediction, "dropout": dropout, "text_drop": text_drop, "text_width": text_width,
            "empty_tokens": empty_tokens, "text_encoder": text_encoder,
        }  # fmt: skip
        self.T, self.levels, self.text_encoder = T, levels, text_encoder
        self.n_sites = math.prod(shape)
        self.space = LatentSpace(shape, first_channels, latent, levels).requires_grad_(False)
        noise = Noise(T, Linear(gamma_min, gamma_max))
        self.prior = TextDenoiser(
            self.space.shape, channels, noise, prediction, text_width, empty_tokens, dropout, text_drop
        )
        self.domain: Domain = self.space.pixels.domain

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._args)

    def terms(
        self, x: Tensor, generator: torch.Generator, n_times: int = 1, labels: Tensor | None = None
    ) -> LatentTerms:
        """Return an unbiased draw of the bound's terms, one z an image  # (image, site).

        Args:
            x: Pictures in levels  # (image, site)
            generator: Source of z, of noise and of levels.
            n_times: Strata of noise levels, each a call of the U-Net.
            labels: Numbers of the captions that `prior.tell` was given, −1 for none  # (image,)
        """
        encoded = self.space.encode(x)
        z = encoded.draw(normal(generator, *encoded.mean.shape, dtype=x.dtype))
        y = self.space.scale * z
        rows = None if labels is None else labels.repeat_interleave(n_times)
        eps = normal(generator, *y.shape, dtype=y.dtype)
        return LatentTerms(
            self.space.log_likelihood(x, z).double(),
            0.5 * (encoded.log_variance.double() + 1.0 + _LOG_2PI).sum(1),
            self.prior.log_density(y, eps, labels),
            (y.shape[1] * self.space.scale.double().abs().log()).expand(len(x)),
            self.prior.noise.prior(y),
            self.prior.noise.matching(y, lambda z, t: self.prior.denoise(z, t, rows), generator, n_times),
        )

    def bound_terms(
        self, x: Tensor, generator: torch.Generator, n_times: int = 1, labels: Tensor | None = None
    ) -> BoundTerms:
        """Return the same as costs; whatever is no matter of noise levels is the reconstruction's."""
        terms = self.terms(x, generator, n_times, labels)
        rest = -(terms.decoder + terms.entropy + terms.least_noise + terms.scale)
        return BoundTerms(rest, terms.prior, terms.matching)

    def elbo(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return one unbiased draw of the bound, without captions  # (image, site) -> (image,), nats."""
        return self.bound_terms(x, generator).elbo()

    def loss(
        self, x: Tensor, generator: torch.Generator, labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the prior's loss on the pictures' latents; with these at hand `prior.loss` is quicker."""
        return self.prior.loss(self.space.moments(x), generator, labels)

    def paint(
        self,
        streams: Streams,
        texts: Texts | None = None,
        negative: Texts | None = None,
        guidance: float = 3.0,
        n_steps: int = 50,
        method: str = "ddim",
    ) -> tuple[Tensor, Tensor]:
        """Return what `painting` returns, which has the same arguments  # (picture, site) twice."""
        return finished(self.painting(streams, texts, negative, guidance, n_steps, method))

    @torch.no_grad()
    def painting(
        self,
        streams: Streams,
        texts: Texts | None = None,
        negative: Texts | None = None,
        guidance: float = 3.0,
        n_steps: int = 50,
        method: str = "ddim",
    ) -> Sketches:
        """Yield ŷ at each level; return a picture a stream in levels, and one to look at, in [0, 1].

        The first is a draw of the model, which starts from y ~ N(ŷ(z_1), v I). The other shows what the
        decoder makes of ŷ(z_1) itself, without noise.

        `seen` makes pictures of ŷ: that costs as much as the U-Net, and is for whoever looks at them.

        Args:
            streams: One a picture: it is the same, but for roundings, whatever the others are.
            texts: A prompt a picture; None for pictures of anything.
            negative: A prompt to keep away from: it takes the place of no prompt in the guidance.
            guidance: w.
            n_steps: Noise levels visited.
            method: ancestral, ddim, flow, or one of diffusers' schedulers by its name in SCHEDULERS.

        Raises:
            InputError: another number of prompts than of pictures, an unknown method, or too few steps.
        """
        n = len(streams)
        if texts is not None and len(texts.states) != n:
            raise InputError(f"prompts: {len(texts.states)} for {n} pictures, give one for each")
        labels = None if texts is None else torch.arange(n, device=streams.device)
        with self.prior.told(texts, negative):
            mean = yield from self._latents(streams, labels, guidance, n_steps, method)
        y = mean + self.prior.variance.sqrt().to(mean.dtype) * streams.normal(self.space.n_latent)
        drawn = self.space.pixels.draw(self.space.decode(y / self.space.scale), streams.uniform(self.n_sites))
        return drawn, self.seen(mean)

    @torch.no_grad()
    def seen(self, y: Tensor) -> Tensor:
        """Return what to show of a ŷ, in [0, 1]  # (picture, latent) -> (picture, site)."""
        return self.space.picture(y / self.space.scale)

    def _latents(
        self, streams: Streams, labels: Tensor | None, guidance: float, n_steps: int, method: str
    ) -> Generator[Tensor, None, Tensor]:
        """Yield ŷ at each level, and return ŷ(z_1) at the end of the way from noise  # (picture, latent)."""
        if method in schedulers.SCHEDULERS and method not in get_args(Method):
            for z, mean in schedulers.path(self.prior, streams, method, n_steps, labels, guidance):  # noqa: B007
                yield mean
            return z
        own: Any = method  # which `descend` checks
        normal = partial(streams.normal, self.space.n_latent)
        for _, _, mean in self.prior.descend(normal, own, n_steps, labels, guidance):
            yield mean
        return mean

    def diffusers_pipeline(self) -> Any | None:
        """Return a pipeline of diffusers that draws the same pictures, or None where there cannot be one."""
        known = self.text_encoder
        if known is None:
            return None
        return text_pipeline_of(self.space, self.prior, TextEncoder.known(known))

    def pictures(self, streams: Streams) -> tuple[Tensor, Tensor]:
        """Return pictures of anything, drawn and to look at: `paint` without prompts."""
        return self.paint(streams)
