"""Maximum pseudo-likelihood."""

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn

from genmodels.learners.flips import Flips, flip_costs


@final
@dataclass(frozen=True)
class PseudoLikelihood(Flips):
    """Ascend (1/n) Σ_x Σ_i log q(x_i | the other sites of x), each a sum over two states. Besag 1975."""

    def objective(self, model: Any, x: Tensor) -> Tensor:
        """Return the mean log pseudo-likelihood in nats  # (image, visible) -> ()."""
        return log_pseudo_likelihood(model, x).mean()


def log_pseudo_likelihood(model: Any, x: Tensor) -> Tensor:
    """Return Σ_i log q(x_i | rest), log sigmoid(log q(x) − log q(x^i)) each  # (image, site) -> (image,)."""
    return nn.functional.logsigmoid(flip_costs(model, x)).sum(1)
