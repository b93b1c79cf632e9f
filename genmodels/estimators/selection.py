"""Which of several models to keep, by images that none of them was trained on."""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from genmodels.estimators import sequential
from genmodels.protocols import HasComponents

T = TypeVar("T", bound=Hashable)


class Score(NamedTuple):
    """How likely held-out images are."""

    mean: float  # nats per image
    stderr: float  # over images


def score(model: Any, v: Tensor) -> Score:
    """Return the mean of log q(v), of Gaussians by their sequential conditionals.

    Args:
        model: With log_prob, or with Gaussian components.
        v: Images in the model's levels  # (image, site)
    """
    log_q = sequential.log_prob(model, v) if isinstance(model, HasComponents) else model.log_prob(v)
    return Score(float(log_q.mean()), float(log_q.std() / len(v) ** 0.5))


def likeliest(models: Mapping[T, Any], v: Tensor) -> tuple[T, dict[T, Score]]:
    """Return the name of the model under which held-out images are likeliest, and all scores.

    The score of the chosen one is too good by having been chosen: report it on other images.

    Args:
        models: By name, as by number of components.
        v: Images in the models' levels that no model was trained on  # (image, site)
    """
    scores = {name: score(model, v) for name, model in models.items()}
    return max(scores, key=lambda name: scores[name].mean), scores
