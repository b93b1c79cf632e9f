"""A U-Net that removes noise of a known level, with what its output stands for, labels and guidance."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from genmodels import registry
from genmodels.errors import InputError
from genmodels.networks import UNETS, pipeline, prediction, reversal
from genmodels.networks.noise import Noise
from genmodels.networks.prediction import Prediction, Reading

Method = Literal["ancestral", "ddim", "flow"]


class Denoiser(nn.Module):
    """x̂(z_t, t) and ε̂(z_t, t) of noisy images z_t = √ᾱ_t x + σ_t ε, with labels or without.

    diffusers' U-Net is told the number of the level, from 0, the compact one γ_t itself. What it puts out is
    the prediction, plain, so that schedulers made for such networks can drive it. One class more than there
    are stands for no label.

    Args:
        shape: Height, width and perhaps channels; sites are in this order, channels last.
        channels: Features of the U-Net, one entry a resolution.
        dropout: Share of features silenced in training.
        noise: The noise levels.
        prediction: What the network's output is.
        network: Which U-Net: diffusers or compact.
        n_classes: Classes that labels name; 0 without labels.
        reach: The largest value that a pixel can have, by amount.

    Raises:
        InputError: no such network, or it cannot halve the image so often.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int],
        dropout: float,
        noise: Noise,
        prediction: Prediction,
        network: str,
        n_classes: int,
        reach: float,
    ) -> None:
        """Build the U-Net, with torch's random first weights."""
        super().__init__()
        self.height, self.width, self.depth = (*shape, 1)[:3]
        self.n_sites = self.height * self.width * self.depth
        self.noise, self.prediction, self.n_classes, self.reach = noise, prediction, n_classes, reach
        self.compact = network == "compact"
        build = registry.load(UNETS, network)
        sizes = self.height, self.width, channels, dropout, self.depth
        self.unet: nn.Module = build(*sizes, n_classes or None)

    def network(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the U-Net's output at level t  # (image, site), (image,) -> (image, site).

        Args:
            z: Noisy images  # (image, site)
            t: Levels 1 … T, or times 0 … 1 in continuous time  # (image,)
            labels: Classes, −1 for none; None for none at all  # (image,)

        Raises:
            InputError: a label that is no class.
        """
        time = self.noise.at(t) if self.compact else t.double() - 1.0
        image = z.view(-1, self.height, self.width, self.depth).permute(0, 3, 1, 2)
        output: Tensor = self.unet(image, time.to(z.dtype), self._classes(labels))
        return output.permute(0, 2, 3, 1).flatten(1)

    def _classes(self, labels: Tensor | None) -> Tensor | None:
        """Return the labels with the class that stands for none in place of −1  # (image,)."""
        if labels is None:
            return None
        if self.n_classes == 0:
            raise InputError("labels: this model was built without classes, give none")
        if not bool(((labels >= -1) & (labels < self.n_classes)).all()):
            raise InputError(f"labels: classes are 0 to {self.n_classes - 1}, and -1 for none")
        return torch.where(labels < 0, self.n_classes, labels.long())

    def guided(self, read: Reading, z: Tensor, t: Tensor, labels: Tensor | None, guidance: float) -> Tensor:
        """Return u + w (c − u) of what `read` makes of the outputs without labels (u) and with them (c)."""
        scales = self.noise.scales(t, z)
        if labels is None or guidance in (0.0, 1.0):
            output = self.network(z, t, labels if guidance else None)
            return read(self.prediction, output, z, *scales)
        both = torch.cat([torch.full_like(labels, -1), labels])
        outputs = self.network(z.repeat(2, 1), t.repeat(2), both).chunk(2)
        without, given = (read(self.prediction, output, z, *scales) for output in outputs)
        return without + guidance * (given - without)

    def eps(self, z: Tensor, t: Tensor, labels: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """Return ε̂ given z_t: ε̂_u + w (ε̂_c − ε̂_u), w = 0 without labels and 1 with them  # (image, site).

        The arguments are those of `network`, and the guidance w. Ho & Salimans 2022, in the convention of
        Rombach et al. 2022.
        """
        return self.guided(prediction.noise, z, t, labels, guidance)

    def denoise(self, z: Tensor, t: Tensor, labels: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """Return x̂, the mean of x given z_t, guided like `eps`  # (image, site)."""
        return self.guided(prediction.data, z, t, labels, guidance)

    def drift(self, z: Tensor, gamma: float, labels: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """Return dz/dγ = ½ σ (ε̂ − σz) of the probability flow  # (image, site).

        Song et al. 2021 (score-based models), eq. 13, with γ for the time.
        """
        level = torch.tensor(gamma, dtype=torch.float64, device=z.device)
        spread = torch.sigmoid(level).sqrt().to(z.dtype)
        t = self.noise.level(level).detach().expand(len(z))
        return 0.5 * spread * (self.eps(z, t, labels, guidance) - spread * z)

    def diffusers_pipeline(self) -> Any | None:
        """Return a pipeline of diffusers that draws the same pictures, or None where there cannot be one."""
        return pipeline.pipeline_of(self)

    def descend(
        self,
        normal: Callable[[], Tensor],
        method: Method = "ancestral",
        n_steps: int = 250,
        labels: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Iterator[tuple[float, Tensor, Tensor]]:
        """Yield levels t, the noisiest first, with z_t and x̂, which is clipped to what pixels can be.

        Args:
            normal: Source of z_T and of the steps' noise, standard normal  # () -> (picture, site)
            method: ancestral (draws from the posterior), ddim (deterministic), or flow (the probability flow
                by Runge and Kutta in γ, four calls of the network a step; it yields its end alone).
            n_steps: Levels visited, or steps of the flow.
            labels: Classes, −1 for none  # (picture,)
            guidance: w of `eps`.

        Raises:
            InputError: an unknown method, or too few steps.
        """

        def denoiser(z: Tensor, t: Tensor) -> Tensor:
            return self.denoise(z, t, labels, guidance).clamp(-self.reach, self.reach)

        if method not in get_args(Method):
            raise InputError(f"method: '{method}' is none of {', '.join(get_args(Method))}")
        if method != "flow":
            eta = 1.0 if method == "ancestral" else 0.0
            yield from reversal.chain(self.noise, denoiser, normal, n_steps, eta)
            return
        least, most = self.noise.table(2).tolist()
        z = reversal.runge_kutta(
            lambda z, gamma: self.drift(z, gamma, labels, guidance), normal(), most, least, n_steps
        )
        yield self.noise.first, z, denoiser(z, self.noise.least(z))
