"""What the command answers: the best configuration met, log Z(β), and how well the run went."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from genmodels.couplings import Couplings
from genmodels.data.coupling_files import CouplingFile, cut
from genmodels.estimate import Estimate

CONVENTION = "E = −Σ_{i<j} J_ij x_i x_j − Σ_i h_i x_i"


@dataclass(frozen=True)
class Answer:
    """The outcome of a run.

    Attributes:
        file: What was asked about.
        method: "annealing", "tempering", "exchange", "population" or "jarzynski".
        seed: Of the run.
        result: What the sampler measured.
        curve: log Z at the betas of the result in nats, or None where the method gives none.
        diagnostics: JSON-ready.
        seconds: Wall-clock time of the run.
        stopped: Why the run ended before its end, or an empty text.
    """

    file: CouplingFile
    method: str
    seed: int
    result: Any
    curve: list[Estimate] | None
    diagnostics: dict[str, Any]
    seconds: float
    stopped: str

    @property
    def best_state(self) -> np.ndarray:
        """The configuration of the lowest energy met  # (site,), ±1, int8."""
        return np.where(self.result.best_x.numpy() > 0, 1, -1).astype(np.int8)

    @property
    def best_energy(self) -> float:
        """Its energy by the file's own numbers, the exact sum rounded once."""
        return exact_energy(self.file.couplings, self.best_state)

    @property
    def convention(self) -> str:
        """What the energy is, in one line."""
        if self.file.max_cut:
            return f"{CONVENTION}, J_ij = −w_ij; cut = Σ w_ij over edges with x_i ≠ x_j"
        offset = self.file.couplings.offset
        return f"{CONVENTION} + {number(offset)}" if offset else CONVENTION

    def entries(self) -> dict[str, Any]:
        """Return the answer as one JSON object; `cut` is there for max-cut files alone."""
        state = self.best_state
        found = {
            "method": self.method,
            "seed": self.seed,
            "n_spins": self.file.couplings.n_sites,
            "convention": self.convention,
            "best_energy": self.best_energy,
            "best_state": state.tolist(),
            "log_z": None if self.curve is None else log_z_entries(self.result.betas.tolist(), self.curve),
            "diagnostics": self.diagnostics,
            "n_updates": self.result.n_updates,
            "seconds": self.seconds,
        }
        return found | ({"cut": cut(self.file.couplings, state)} if self.file.max_cut else {})


def exact_energy(couplings: Couplings, x: np.ndarray) -> float:
    """Return E(x), the exact sum of its terms rounded once  # (site,), ±1."""
    pairs, fields = couplings.J * x[couplings.i] * x[couplings.j], couplings.h * x
    return math.fsum(np.concatenate([[couplings.offset], -pairs, -fields])) + 0.0  # never −0


def log_z_entries(betas: list[float], curve: list[Estimate]) -> list[dict[str, Any]]:
    """Return log Z by rising β, JSON-ready."""
    return [
        {"beta": shortest(beta), "value": e.value, "stderr": e.stderr, "kind": e.kind, "method": e.method}
        for beta, e in zip(betas, curve, strict=True)
    ]


def shortest(beta: float) -> float:
    """Return the shortest decimal that is the same float32 as beta: samplers compute with that one."""
    return float(str(np.float32(beta)))


def number(value: float) -> str:
    """Return an integer without a point and other numbers with 10 digits."""
    return str(int(value)) if value.is_integer() and abs(value) < 2.0**53 else f"{value:.10g}"
