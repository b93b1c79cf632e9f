"""A sampler for dimod, the interface of the annealing world's tools; needs the extra `dimod`."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import dimod
import numpy as np
import torch
from torch import Tensor

from genmodels import registry
from genmodels.couplings import Couplings
from genmodels.data.bqm import BinaryQuadraticModel
from genmodels.errors import InputError
from genmodels.kernels import KERNELS
from genmodels.models.ising import Ising
from genmodels.placement.choose import placement
from genmodels.protocols import Kernel
from genmodels.samplers.replica_exchange import ReplicaExchange
from genmodels.samplers.temperatures import beta_range as default_beta_range
from genmodels.streams import Key

METHODS = ("annealing", "exchange")
SCHEDULES = ("geometric", "linear")
_SHARD = 256  # reads that advance together; the random streams depend on it
_SEGMENT = 256  # sweeps a call


class GenmodelsSampler(dimod.Sampler, dimod.Initialized):  # type: ignore[misc, name-defined]
    """Samples of low energy from binary quadratic models, by simulated annealing or replica exchange.

    Reads of "annealing" are where independent chains end that go from a high temperature to a low one
    (Kirkpatrick, Gelatt & Vecchi 1983). Those of "exchange" are draws from exp(−βE)/Z at the last β, after
    replica exchange has come to equilibrium (Hukushima & Nemoto 1996).
    """

    @property
    def parameters(self) -> Mapping[str, Sequence[str]]:
        """The arguments of `sample`, and the properties that bear on them."""
        return {
            "num_reads": [],
            "num_sweeps": [],
            "beta_range": [],
            "beta_schedule_type": ["beta_schedule_options"],
            "seed": [],
            "initial_states": [],
            "initial_states_generator": [],
            "method": ["methods"],
        }

    @property
    def properties(self) -> Mapping[str, Any]:
        """What can be chosen from."""
        return {"methods": METHODS, "beta_schedule_options": SCHEDULES}

    def sample(
        self,
        bqm: Any,
        *,
        num_reads: int | None = None,
        num_sweeps: int = 1000,
        beta_range: tuple[float, float] | None = None,
        beta_schedule_type: Literal["geometric", "linear"] = "geometric",
        seed: int | None = None,
        initial_states: Any = None,
        initial_states_generator: str = "random",
        method: Literal["annealing", "exchange"] = "annealing",
        **kwargs: Any,
    ) -> Any:
        """Return a dimod.SampleSet of reads of a binary quadratic model with their energies.

        Args:
            bqm: A dimod.BinaryQuadraticModel; its labels, its type of variables and its offset are kept.
            num_reads: How many; as many as `initial_states` if there are any, else 1.
            num_sweeps: Attempted updates of each spin of a read; for exchange those of a rung before the
                first draw, 32 at least, and between two of a ladder at most.
            beta_range: First and last inverse temperature; from the gaps of the energies if not given.
                Exchange starts from 0 whatever the first says.
            beta_schedule_type: Whether annealing's β rises by equal factors or by equal steps.
            seed: The same seed gives the same reads; a new one, kept in `info`, if not given.
            initial_states: Where reads start, for annealing only; at random if not given.
            initial_states_generator: "none", "tile" or "random": what to do if there are too few.
            method: "annealing" or "exchange".
            **kwargs: What other samplers know, ignored with a warning.

        Raises:
            ValueError: an argument is out of its range.
        """
        self.remove_unknown_kwargs(**kwargs)
        if num_sweeps < 1 or (num_reads is not None and num_reads < 1):
            raise InputError(f"num_sweeps is {num_sweeps}, num_reads {num_reads}: give at least 1 of each")
        if method not in METHODS or beta_schedule_type not in SCHEDULES:
            raise InputError(f"method '{method}', schedule '{beta_schedule_type}': see `properties`")
        if initial_states is not None and method != "annealing":
            raise InputError(f"initial_states are for annealing, not for '{method}'")
        seed = secrets.randbits(32) if seed is None else seed
        given = self._given(bqm, initial_states, initial_states_generator, num_reads, seed)
        n = len(given) if given is not None else (num_reads or 1)
        couplings = _couplings(bqm)
        first, last = _betas(couplings, beta_range, beta_schedule_type)
        if not couplings.n_sites:
            x = torch.empty(n, 0)
        elif method == "exchange":
            x = _exchange(couplings, n, num_sweeps, last, Key(seed, "dimod"))
        else:
            space = np.geomspace if beta_schedule_type == "geometric" else np.linspace
            schedule = torch.from_numpy(space(first, last, num_sweeps)).float()
            x = _anneal(couplings, n, schedule, given, Key(seed, "dimod"))
        spins = x.numpy().astype(np.int8)
        values = spins if bqm.vartype is dimod.SPIN else (spins + 1) // 2
        info: dict[str, Any] = {"method": method, "seed": seed, "beta_range": (first, last)}
        info["beta_schedule_type"] = beta_schedule_type
        samples: Any = dimod.SampleSet
        return samples.from_samples_bqm((values, list(bqm.variables)), bqm, info=info)

    def _given(
        self, bqm: Any, states: Any, generator: str, num_reads: int | None, seed: int
    ) -> Tensor | None:
        """Return the states that reads start from, as spins in the model's order  # (read, site)."""
        if states is None:
            return None
        parsed = self.parse_initial_states(bqm, states, generator, num_reads, seed % 2**32, copy_always=True)
        found = parsed.initial_states
        order = [found.variables.index(variable) for variable in bqm.variables]
        values = torch.from_numpy(found.record.sample[:, order]).float()
        return values if bqm.vartype is dimod.SPIN else values * 2.0 - 1.0


def _couplings(bqm: Any) -> Couplings:
    doubles: Any = dimod.BinaryQuadraticModel(bqm, dtype=np.float64)
    linear, (rows, columns, quadratic), offset = doubles.to_numpy_vectors(list(bqm.variables))
    low, high = (end(rows, columns).astype(np.int64) for end in (np.minimum, np.maximum))
    model = BinaryQuadraticModel(bqm.vartype.name, linear, low, high, quadratic, float(offset), None)
    return model.couplings()


def _betas(couplings: Couplings, given: tuple[float, float] | None, schedule: str) -> tuple[float, float]:
    if given is None:
        flat = not (couplings.J.any() or couplings.h.any())
        return (0.1, 1.0) if flat else default_beta_range(couplings)
    first, last = map(float, given)
    least = np.finfo(np.float32).tiny if schedule == "geometric" else 0.0
    if not (least <= first < np.inf and least <= last < np.inf):
        raise InputError(f"beta_range is {given}: give two finite numbers > 0, or ≥ 0 with 'linear'")
    return first, last


def _exchange(couplings: Couplings, n: int, n_sweeps: int, beta_max: float, key: Key) -> Tensor:
    sampler = ReplicaExchange(beta_max=beta_max, burn_in=max(16, n_sweeps // 2))
    with placement(default=0) as place:
        # Metropolis' rule does not mix at β = 0, where every ladder begins.
        return sampler.draw(Ising.of(couplings), _kernel("heat_bath"), n, key, place)


def _anneal(couplings: Couplings, n: int, schedule: Tensor, given: Tensor | None, key: Key) -> Tensor:
    """Return where n chains end  # (read, site)."""
    model, kernel = Ising.of(couplings), _kernel("metropolis")
    with placement(default=0) as place:
        nothing, parts = place.put(None), []
        for shard, start in enumerate(range(0, n, _SHARD)):
            size = min(_SHARD, n - start)
            begin = None if given is None else given[start : start + size]
            small = (shard, size, begin, model, kernel, schedule, key)
            parts.append(place.submit(_chains, nothing, *small)[1])
        return torch.cat([place.fetch(part) for part in parts])


def _chains(
    _: None,
    shard: int,
    n: int,
    begin: Tensor | None,
    model: Ising,
    kernel: Kernel[Any],
    betas: Tensor,
    key: Key,
) -> tuple[None, Tensor]:
    key = key.at(shard=shard)
    state = kernel.init(model, n, key.child("start")) if begin is None else kernel.start(model, begin)
    for segment, part in enumerate(torch.split(betas, _SEGMENT)):
        beta = part[:, None].expand(-1, n)
        state, _info = kernel.advance(model, state, beta, len(part), key.child("move").at(round=segment))
    return None, kernel.configuration(state)


def _kernel(name: str) -> Kernel[Any]:
    kernel: Kernel[Any] = registry.load(KERNELS, name)()
    return kernel
