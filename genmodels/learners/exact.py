"""Maximum likelihood of models whose every state can be listed."""

import functools
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from genmodels.errors import InputError
from genmodels.estimators import enumeration
from genmodels.learners.contrast import Contrast, Fantasy
from genmodels.protocols import HasLogUnnormalised
from genmodels.streams import Key


@functools.lru_cache(maxsize=1)
def _states(n_sites: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.cat([x.to(device, dtype) for x in enumeration.states(n_sites)])


@final
@dataclass(frozen=True)
class Exact(Contrast):
    """The model's averages are sums over all states of the visible spins, 2²⁰ at most."""

    def fantasy(self, model: Any, chains: Any, batch: Tensor, key: Key) -> Fantasy:
        """Return all visible states with their probabilities.

        Raises:
            InputError: too many sites, or a model that is not normalised by a sum over spins.
        """
        n_sites = batch.shape[1]
        if n_sites > enumeration.MAX_SITES:
            raise InputError(
                f"{self.name}: {n_sites} visible sites, {enumeration.MAX_SITES} is the most that can be "
                "summed; use a rule that samples"
            )
        if model.domain != "spin" or not isinstance(model, HasLogUnnormalised):
            kind = type(model).__name__
            raise InputError(f"{self.name}: {kind} is no sum over spins: use another rule")
        x = _states(n_sites, batch.dtype, batch.device)
        log_q = model.log_unnormalised(x)
        return Fantasy(x, log_q.double().softmax(0).to(log_q), None, {})
