"""What is seen of an energy model while it learns."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genmodels.estimate import Estimate, over_images
from genmodels.estimators import enumeration, trajectory
from genmodels.estimators.diagnostics import autocorrelation_time
from genmodels.learners.contrast import Chains
from genmodels.learners.pseudo_likelihood import log_pseudo_likelihood
from genmodels.protocols import HasReconstruction, HasSides
from genmodels.streams import Key

MAX_STATES = 16  # sites or hidden units up to which log Z is summed at every point
_IMAGES = 1000  # of a split, at most
_FLIPPED = 100  # of them, for pseudo-likelihoods
_SINGULAR = 3  # values of W that are shown
_LAGS = 100  # sweeps on which the autocorrelation time is measured


class Monitor:
    """Figures of an energy model at points of its training, which they leave untouched.

    `log_likelihood_<split>`, nats per image, and `…_stderr`: exact where log Z can be summed, else with log Z
    from walkers that follow the training; left out where that is undetermined. `pseudo_likelihood_<split>`,
    nats; `reconstruction_error`, the share of pixels lost by one step of mean field; `singular_value_<k>` of
    W; `autocorrelation_time` of the chains' energies, in sweeps.
    """

    def __init__(
        self, splits: Mapping[str, Tensor], key: Key, follow: trajectory.Trajectory | None = None
    ) -> None:
        """Keep the images by split  # (image, visible), and the stream of the figures."""
        self.splits = {name: x[:_IMAGES] for name, x in splits.items()}
        self.key, self.trajectory = key, follow or trajectory.Trajectory()
        self.walkers: trajectory.Followers | None = None
        self.n_points = 0

    @torch.no_grad()
    def __call__(self, model: Any, state: Any) -> dict[str, float]:
        """Return the figures by name, `state` being the learner's."""
        self.n_points += 1
        figures = self._likelihoods(model, self._log_z(model))
        if model.domain == "spin":
            for name, x in self.splits.items():
                pseudo = log_pseudo_likelihood(model, x[:_FLIPPED])
                figures[f"pseudo_likelihood_{name}"] = float(pseudo.double().mean())
        if isinstance(model, HasReconstruction):
            x = self.splits["train"]
            figures["reconstruction_error"] = float((x - model.reconstruct(x)).square().mean()) / 4.0
        if isinstance(model, HasSides):
            values = torch.linalg.svdvals(model.W.detach())  # type: ignore[attr-defined]
            figures |= {f"singular_value_{k + 1}": float(s) for k, s in enumerate(values[:_SINGULAR])}
        if isinstance(chains := getattr(state, "chains", None), Chains):
            figures["autocorrelation_time"] = self._memory(model, chains)
        return figures

    def _log_z(self, model: Any) -> Estimate:
        n = min(model.n_visible, model.n_hidden) if isinstance(model, HasSides) else model.n_sites
        exact = enumeration.known_log_z(model) if n <= MAX_STATES else None
        if exact is not None:
            return exact
        key = self.key.child("follow").at(round=self.n_points)
        if self.walkers is None:
            self.walkers = self.trajectory.start(model, key)
        self.walkers = self.trajectory.follow(model, self.walkers, key)
        return self.trajectory.log_z(self.walkers)

    def _likelihoods(self, model: Any, log_z: Estimate) -> dict[str, float]:
        figures: dict[str, float] = {}
        if log_z.value is None:
            return figures
        for name, x in self.splits.items():
            values = model.log_unnormalised(x).double().cpu().numpy() - log_z.value
            found = over_images(values, kind=log_z.kind, method=log_z.method, stderr_estimator=log_z.stderr)
            figures[f"log_likelihood_{name}"] = found.value or 0.0
            figures[f"log_likelihood_{name}_stderr"] = found.stderr or 0.0
        return figures

    def _memory(self, model: Any, chains: Chains) -> float:
        particles, energies = chains.particles, []
        beta = torch.ones(len(particles.energy), device=particles.energy.device)
        for lag in range(_LAGS):
            key = self.key.child("memory").at(shard=lag, round=self.n_points)
            particles, _ = chains.kernel.advance(model, particles, beta, 1, key)
            energies.append(particles.energy.double().cpu())
        return float(autocorrelation_time(torch.stack(energies, 1).numpy()).value or 0.0)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a resumed monitor needs, for a checkpoint."""
        walkers = {} if self.walkers is None else trajectory.tensors(self.walkers)
        return {"n_points": torch.tensor(self.n_points)} | walkers

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` returned."""
        self.n_points = int(tensors["n_points"])
        if "x" in tensors:
            self.walkers = trajectory.restored(tensors)
