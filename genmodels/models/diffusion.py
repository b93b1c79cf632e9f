"""Variational diffusion on pixels of any number of levels."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.networks import UNETS
from genmodels.networks import prediction as predictions
from genmodels.networks.denoiser import Denoiser, Method
from genmodels.networks.levels import draw, log_decoder, scaled
from genmodels.networks.noise import BoundTerms, Noise
from genmodels.networks.prediction import Prediction
from genmodels.networks.schedules import SCHEDULES, Learned
from genmodels.networks.sketches import Sketches, finished
from genmodels.protocols import Domain
from genmodels.streams import Streams, normal, stratified, uniform

Objective = Literal["weighted", "eps", "bound"]
_HALF_WAY = -0.5  # γ
_ROWS = 1000  # levels behind a monitored bound


class Diffusion(Denoiser):
    """A hierarchy z_T → … → z_1 → x whose encoder is fixed noise and whose decoder is a denoising U-Net.

    Inside, a pixel of K levels is f(v) = 2(v + ½)/K − 1. Pixels given z_1 are independent. With the
    prediction "logits", for K = 2, the network's output u is the log-odds of each pixel but for its own noisy
    value, which Bayes' rule adds: x̂ = σ(u + e^{−γ_t} z_t/√ᾱ_t) − ½. Pixels given z_1 then have the same
    log-odds: however noisy z_1 is, they know of each other through the network. With the other predictions
    z_1 alone gives a pixel's odds, so that γ_min has to be lower. Kingma et al. 2021; Luo 2022.

    Args:
        shape: Height, width and perhaps channels; sites are in this order, channels last.
        channels: Features of the U-Net, one entry a resolution.
        T: Number of noise levels; None for continuous time.
        dropout: Share of features silenced in training.
        gamma_min: −log SNR of the least noisy level; the reconstruction is charged there.
        gamma_max: −log SNR of the noisiest level; the prior is charged there.
        levels: K, values of a pixel.
        prediction: What the network's output is: eps, residual, x, v, or logits of binary pixels.
        schedule: How γ rises: linear, cosine, or learned, which starts from γ_min and γ_max.
        objective: What training minimises: weighted (of logits), eps, or bound.
        network: The U-Net: diffusers, or compact, which continuous time and a learned schedule need.
        n_classes: Classes that labels name; 0 without labels.
        label_drop: Share of labels hidden in training, for the model without labels to be learned, too.

    Raises:
        InputError: settings that do not fit each other, or the U-Net cannot halve the image so often.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int] = (32, 32),
        T: int | None = 1000,
        dropout: float = 0.0,
        gamma_min: float = -3.0,
        gamma_max: float = 6.0,
        levels: int = 2,
        prediction: Prediction = "logits",
        schedule: str = "linear",
        objective: Objective = "weighted",
        network: str = "diffusers",
        n_classes: int = 0,
        label_drop: float = 0.1,
    ) -> None:
        """Build the U-Net, with torch's random first weights."""
        settings = {
            "shape": list(shape), "channels": list(channels), "T": T, "dropout": dropout,
            "gamma_min": gamma_min, "gamma_max": gamma_max, "levels": levels, "prediction": prediction,
            "schedule": schedule, "objective": objective, "network": network, "n_classes": n_classes,
            "label_drop": label_drop,
        }  # fmt: skip
        _check(**settings)
        rises = {"gamma_min": gamma_min, "gamma_max": gamma_max}
        free = {"continuous": T is None} if schedule == "learned" else {}
        noise = Noise(T, SCHEDULES[schedule](**rises, **free))
        reach = 1.0 - 1.0 / levels  # of f
        super().__init__(shape, channels, dropout, noise, prediction, network, n_classes, reach)
        self._args = settings
        self.T, self.levels, self.label_drop = T, levels, label_drop
        self.objective: Objective = objective
        self.domain: Domain = "binary" if levels == 2 else "grey"

    def args(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._args)

    def encode(self, x: Tensor) -> Tensor:
        """Return f(x), of which z_t = √ᾱ_t f(x) + σ_t ε  # (image, site)."""
        return scaled(x, self.levels)

    def decode(self, z: Tensor, labels: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """Return log q(v|z_1) of each pixel's levels v  # (image, site) -> (image, site, level), float64."""
        t = self.noise.least(z)
        if self.prediction != "logits":
            return log_decoder(z, self.noise.at(t[:1]), self.levels)
        odds = self.guided(predictions.log_odds, z, t, labels, guidance).double()
        return torch.stack([nn.functional.logsigmoid(-odds), nn.functional.logsigmoid(odds)], -1)

    def log_reconstruction(self, x: Tensor, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log q(x|z_1)  # (image, site) twice -> (image,), nats."""
        return self.decode(z, labels).gather(-1, x.long()[..., None]).squeeze(-1).sum(1)

    def _surprise(self, x: Tensor, data: Tensor, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        eps = normal(generator, *x.shape, dtype=x.dtype)
        return -self.log_reconstruction(x, self.noise.add(data, self.noise.least(x), eps), labels)

    def bound_terms(
        self, x: Tensor, generator: torch.Generator, n_times: int = 1, labels: Tensor | None = None
    ) -> BoundTerms:
        """Return an unbiased draw of the bound's terms, levels from `n_times` strata  # (image, site)."""
        data = self.encode(x)
        rows = None if labels is None else labels.repeat_interleave(n_times)
        surprise = self._surprise(x, data, generator, labels)
        matching = self.noise.matching(data, lambda z, t: self.denoise(z, t, rows), generator, n_times)
        return BoundTerms(surprise, self.noise.prior(data), matching)

    def elbo(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return an unbiased draw of the bound  # (image, site) -> (image,), nats.

        Levels are stratified over the images, and few images get several each: a mean over them scatters
        little enough to tell one state of a training from another.
        """
        data, n = self.encode(x), max(1, _ROWS // len(x))
        rows = data.repeat_interleave(n, 0)
        t = self.noise.strata(stratified(generator, len(rows)))
        matching = self.noise.costs(rows, self.denoise, t, normal(generator, *rows.shape, dtype=x.dtype))
        surprise = self._surprise(x, data, generator, None)
        return BoundTerms(surprise, self.noise.prior(data), matching.view(-1, n).mean(1)).elbo()

    def loss(
        self, x: Tensor, generator: torch.Generator, labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what training minimises, levels stratified over the batch, and what there is to show.

        weighted: the mean over pixels of min(SNR_t, 1) (−log q(x_i|z_t)). The posterior minimises this as it
        does the bound's ½(SNR_{t−1} − SNR_t)‖x − x̂‖², whose rare large values at low noise make a noisier
        gradient; the weights are those of Hang et al. 2023, cut at 1. eps: the mean of (ε − ε̂)² (Ho et al.
        2020, eq. 14). bound: minus the bound per pixel; a learned schedule in continuous time also learns
        where to look, for the bound's draws to scatter less.
        """
        labels = self._hidden(labels, generator)
        data, levels = self.encode(x), stratified(generator, len(x))
        eps = normal(generator, *x.shape, dtype=x.dtype)
        if self.objective == "bound":
            return self._bound_loss(x, data, self.noise.strata(levels), eps, generator, labels)
        t = self.noise.strata(levels, first=1)
        z = self.noise.add(data, t, eps)
        if self.objective == "eps":
            loss = (eps - self.eps(z, t, labels)).square().mean()
        else:
            logits = self.guided(predictions.log_odds, z, t, labels, 1.0)
            surprise = (nn.functional.softplus(logits) - x * logits).mean(1)
            loss = (torch.exp(-self.noise.at(t)).clamp(max=1.0).to(x.dtype) * surprise).mean()
        return loss, {"loss": loss.detach()}

    def _hidden(self, labels: Tensor | None, generator: torch.Generator) -> Tensor | None:
        """Return the labels, a share of them taken away  # (image,)."""
        if labels is None or self.n_classes == 0:
            return labels
        return torch.where(uniform(generator, len(labels)) < self.label_drop, -1, labels)

    def _bound_loss(
        self,
        x: Tensor,
        data: Tensor,
        t: Tensor,
        eps: Tensor,
        generator: torch.Generator,
        labels: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        matching = self.noise.costs(data, lambda z, t: self.denoise(z, t, labels), t, eps)
        surprise = self._surprise(x, data, generator, labels)
        terms = BoundTerms(surprise, self.noise.prior(data), matching)
        loss = -terms.elbo().mean() / self.n_sites
        metrics = {"loss": loss} | {name: term.mean() for name, term in terms._asdict().items()}
        schedule = self.noise.schedule
        if isinstance(schedule, Learned):
            metrics |= {
                "gamma_min": schedule.at(t.new_zeros(1))[0],
                "gamma_max": schedule.at(t.new_ones(1))[0],
            }
            if schedule.continuous:
                scatter = schedule.scatter(t, matching / self.n_sites)
                loss = loss + scatter - scatter.detach()
        return loss, {name: value.detach() for name, value in metrics.items()}

    def finish(
        self, z: Tensor, uniform: Tensor, labels: Tensor | None = None, guidance: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return pixels drawn from q(x|z_1) by uniform numbers, and their means in [0, 1]  # as z."""
        probabilities = self.decode(z, labels, guidance).exp()
        values = torch.arange(self.levels, dtype=torch.float64, device=z.device) / (self.levels - 1)
        return draw(probabilities, uniform), (probabilities @ values).to(z.dtype)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        generator: torch.Generator,
        n_steps: int = 250,
        method: Method = "ancestral",
        labels: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Return n pictures at the end of `descend`  # (n, site), levels."""
        size, device = (n, self.n_sites), generator.device

        def normal() -> Tensor:
            return torch.randn(size, generator=generator, device=device)

        *_, (_, z, _) = self.descend(normal, method, n_steps, labels, guidance)
        uniform = torch.rand(size, generator=generator, device=device)
        return self.finish(z, uniform, labels, guidance)[0]

    def pictures(
        self,
        streams: Streams,
        n_steps: int = 250,
        method: Method = "ancestral",
        labels: Tensor | None = None,
        guidance: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Return what `denoising` returns, which has the same arguments  # (picture, site) twice."""
        return finished(self.denoising(streams, n_steps, method, labels, guidance))

    @torch.no_grad()
    def denoising(
        self,
        streams: Streams,
        n_steps: int = 250,
        method: Method = "ancestral",
        labels: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Sketches:
        """Yield x̂ in [0, 1] at each level; return a picture a stream and its pixels' means in [0, 1].

        Of binary pictures these are the probabilities half-way, log SNR = ½: there the shape is decided, and
        the single pixels are not yet. Else they are those at the end.
        """
        shape: Tensor | None = None
        chain = self.descend(lambda: streams.normal(self.n_sites), method, n_steps, labels, guidance)
        for level, z, x0 in chain:  # noqa: B007  the last z is what is wanted
            early = shape is None and self.levels == 2 and level > self.noise.first
            if early and float(self.noise.at(torch.tensor(level, device=z.device))) <= _HALF_WAY:
                shape = x0 + 0.5
            yield self.seen(x0)
        pixels, means = self.finish(z, streams.uniform(self.n_sites), labels, guidance)
        return pixels, means if shape is None else shape

    def seen(self, x0: Tensor) -> Tensor:
        """Return an x̂ in [0, 1]  # (picture, site) twice."""
        return 0.5 * (1.0 + x0 / self.reach)


def _check(**settings: Any) -> None:
    """Raise InputError where settings of a Diffusion do not fit each other."""
    shape, T, n_levels = settings["shape"], settings["T"], settings["levels"]
    if len(shape) not in (2, 3):
        raise InputError(f"shape: {shape} is not height, width (, channels)")
    if T is not None and T < 2:
        raise InputError(f"T: {T} noise levels are too few, give at least 2, or none for continuous time")
    if settings["gamma_min"] >= settings["gamma_max"]:
        ends = settings["gamma_min"], settings["gamma_max"]
        raise InputError(f"gamma_min: {ends[0]} is not below gamma_max {ends[1]}: noise grows with t")
    if n_levels < 2:
        raise InputError(f"levels: pixels of {n_levels} value say nothing, give at least 2")
    known = {
        "prediction": get_args(Prediction), "schedule": tuple(SCHEDULES), "objective": get_args(Objective),
        "network": tuple(UNETS),
    }  # fmt: skip
    for name, values in known.items():
        if settings[name] not in values:
            raise InputError(f"{name}: '{settings[name]}' is none of {', '.join(values)}")
    if settings["prediction"] == "logits" and n_levels > 2:
        raise InputError(f"prediction: logits are of binary pixels, not of {n_levels} levels: give another")
    if settings["objective"] == "weighted" and settings["prediction"] != "logits":
        raise InputError("objective: weighted is for the prediction logits: give eps or bound")
    if settings["schedule"] == "learned" and settings["objective"] != "bound":
        raise InputError("schedule: learned is learned by the bound: give objective: bound")
    if settings["network"] != "compact" and (T is None or settings["schedule"] == "learned"):
        raise InputError("network: continuous time and a learned schedule need compact, which is told gamma")
    if not 0 <= settings["label_drop"] < 1:
        raise InputError(
            f"label_drop: {settings['label_drop']} is no share of labels, give one from 0 to below 1"
        )
    if settings["n_classes"] < 0:
        raise InputError(f"n_classes: {settings['n_classes']}, give 0 for none, or how many")
