"""Which of several models to keep, by images that none of them was trained on."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from genmodels.errors import InputError
from genmodels.estimators import sequential, variational
from genmodels.protocols import HasBoundTerms, HasComponents
from genmodels.streams import Key

T = TypeVar("T", bound=Hashable)
_TIMES, _REPEATS = 16, 2  # of a bound: 34 calls of the network an image


class Score(NamedTuple):
    """How likely held-out images are."""

    mean: float  # nats per image
    stderr: float  # over images


def score(model: Any, v: Tensor, key: Key) -> Score:
    """Return the mean of log q(v), of Gaussians by their sequential conditionals, of diffusions its bound.

    Args:
        model: With log_prob, with Gaussian components, or with the terms of a variational bound.
        v: Images in the model's levels  # (image, site)
        key: Of the bound's noise.
    """
    if isinstance(model, HasComponents):
        log_q = sequential.log_prob(model, v).numpy()
    elif isinstance(model, HasBoundTerms):
        log_q = variational.bound(model, v, key, _TIMES, _REPEATS)[0]
    else:
        log_q = model.log_prob(v).numpy()
    values = np.asarray(log_q, dtype=np.float64)
    return Score(float(values.mean()), float(values.std(ddof=1) / len(v) ** 0.5))


def likeliest(models: Mapping[T, Any], v: Tensor, key: Key) -> tuple[T, dict[T, Score]]:
    """Return the name of the model under which held-out images are likeliest, and all scores.

    The score of the chosen one is too good by having been chosen: report it on other images.

    Args:
        models: By name, as by number of components.
        v: Images in the models' levels that no model was trained on  # (image, site)
        key: Of noise, where a score has any: the same for all models.
    """
    scores = {name: score(model, v, key) for name, model in models.items()}
    return max(scores, key=lambda name: scores[name].mean), scores


def by_least_noise(model: Any, gamma_min: Sequence[float]) -> dict[float, Any]:
    """Return a trained diffusion with its bound's end at each of several γ_min, by γ_min.

    Its network is told γ, so that one training, which went down to the lowest, serves them all: the bound is
    charged from γ_min on, and the pixels are read from z there. Kingma et al. 2021, section 5.

    Args:
        model: A Diffusion whose network is compact and whose schedule is not learned.
        gamma_min: −log SNR of the least noise, none below that of the training.

    Raises:
        InputError: the network knows levels by their number, the schedule has parameters, or a γ_min that was
            not trained for.
    """
    known = model.args()
    if known["network"] != "compact" or known["schedule"] == "learned":
        raise InputError("gamma_min: several are for network: compact, and a schedule that is not learned")
    if min(gamma_min) < known["gamma_min"]:
        raise InputError(f"gamma_min: {min(gamma_min)} is below {known['gamma_min']}, where training ended")
    ends = {}
    for gamma in gamma_min:
        ends[gamma] = type(model)(**known | {"gamma_min": gamma})
        ends[gamma].load_state_dict(model.state_dict())
        ends[gamma].eval()
    return ends
