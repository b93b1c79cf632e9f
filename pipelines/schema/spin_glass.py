"""The schema of pipelines/spin_glass/params.yaml: samplers of spins with given couplings."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from pipelines.schema.block import Block, Count, Integer, Positive, Several, Share, Whole

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]  # of files and of metrics
Pilot = Annotated[Integer, Field(ge=10)]
LATTICES = ("plus_minus", "gaussian", "ferromagnet")


class Instance(Block):
    """prepare_couplings.<name>: couplings drawn on a lattice or between all pairs, or read from a file."""

    kind: Literal["plus_minus", "gaussian", "ferromagnet", "sherrington_kirkpatrick", "file"]
    size: list[Count] | None
    path: str | None
    beta_max: Positive

    @model_validator(mode="after")
    def _size_or_path(self) -> "Instance":
        if (self.path is None) == (self.kind == "file"):
            raise ValueError("path: for kind 'file' give its name, for the others null")
        if self.kind in LATTICES and (not self.size or min(self.size) < 3):
            raise ValueError(f"size: a lattice needs a list of its sides, at least 3 each, not {self.size}")
        if self.kind == "sherrington_kirkpatrick" and (len(self.size or []) != 1 or self.size == [1]):
            raise ValueError(f"size: give the number of spins, at least 2, as [64], not {self.size}")
        return self


class Descent(Block):
    """Restarts of plain descent, the baseline."""

    n_sweeps: Count


class SimulatedAnnealing(Block):
    """Sizes of simulated annealing."""

    n_replicas: Count


class SimulatedTempering(Block):
    """Sizes of simulated tempering."""

    n_chains: Several
    n_rungs: Several
    sweeps_per_round: Count
    burn_in: Share


class ReplicaExchange(Block):
    """Sizes of replica exchange."""

    n_ladders: Several
    n_rungs: Several
    sweeps_per_round: Count
    burn_in: Share


class PopulationAnnealing(Block):
    """Sizes of population annealing."""

    n_populations: Several
    n_pilot: Pilot
    n_sweeps: Count
    ess: Share


class Jarzynski(Block):
    """Sizes of the work done on replicas, driven there and back."""

    n_replicas: Several
    n_pilot: Pilot
    equilibrium: Share
    n_ladders: Several
    n_rungs: Several


class SampleCouplings(Block):
    """What every method may spend, the kernel of all, and the sizes that are a method's own."""

    budget: Annotated[Integer, Field(ge=1000)]
    kernel: Literal["heat_bath", "block_gibbs", "lifted"]  # those of spins that mix at β = 0
    descent: Descent
    simulated_annealing: SimulatedAnnealing
    simulated_tempering: SimulatedTempering
    replica_exchange: ReplicaExchange
    population_annealing: PopulationAnnealing
    jarzynski: Jarzynski

    @classmethod
    def methods(cls) -> list[str]:
        """Return the methods' names in their order."""
        return [name for name in cls.model_fields if name not in ("budget", "kernel")]


class Params(Block):
    """All of params.yaml."""

    pipeline: Literal["spin_glass"]
    seed: Whole
    threads: Count
    prepare_couplings: Annotated[dict[Name, Instance], Field(min_length=1)]
    sample_couplings: SampleCouplings
