"""Any kernel, on a GPU."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genmodels.paths import device
from genmodels.protocols import Info, Kernel
from genmodels.streams import Key


@dataclass(frozen=True)
class OnDevice:
    """Another kernel's moves on a device; between them states, βs and energies are on the CPU.

    What directs the chains, sends them to other processes or writes them down need not know where they are
    moved. Random numbers are drawn on the device: a GPU's are others than the CPU's.

    Attributes:
        kernel: What moves the replicas.
        name: Of the device; None is the first GPU that this process may use, or the CPU if there is none.
    """

    kernel: Kernel[Any]
    name: str | None = None

    @property
    def device(self) -> torch.device:
        """Return the device of this process."""
        return torch.device(self.name or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def detailed_balance(self) -> bool:
        """Return whether one update satisfies it."""
        return self.kernel.detailed_balance

    def init(self, model: Any, n_replicas: int, key: Key) -> Any:
        """Return independent replicas at β = 0, drawn from the reference."""
        return moved(self.kernel.init(moved(model, self.device), n_replicas, key), "cpu")

    def start(self, model: Any, x: Tensor) -> Any:
        """Return the state of given configurations  # (replica, site)."""
        return moved(self.kernel.start(moved(model, self.device), x.to(self.device)), "cpu")

    def advance(self, model: Any, state: Any, beta: Tensor, n_sweeps: int, key: Key) -> tuple[Any, Info]:
        """Advance every replica by `n_sweeps` sweeps at beta (replica,) or (sweep, replica)."""
        model, state = moved(model, self.device), moved(state, self.device)
        state, info = self.kernel.advance(model, state, beta, n_sweeps, key)
        return moved(state, "cpu"), info

    def configuration(self, state: Any) -> Tensor:
        """Return the configurations  # (replica, site)."""
        return self.kernel.configuration(state)

    def select(self, state: Any, index: Tensor) -> Any:
        """Return the state whose replica r is `state`'s replica index[r]."""
        return self.kernel.select(state, index)


def moved(thing: Any, where: torch.device | str) -> Any:
    """Return a model, wrapped or not, or a kernel's state, with its tensors on a device; itself untouched."""
    if isinstance(thing, Tensor):
        return thing.to(where)
    if isinstance(thing, tuple):
        parts = [moved(part, where) for part in thing]
        return type(thing)(*parts) if hasattr(thing, "_fields") else type(thing)(parts)
    if isinstance(thing, nn.Module):
        return thing if device(thing) == torch.device(where) else copy.deepcopy(thing).to(where)
    if hasattr(thing, "model"):  # a path to it
        wrapped = copy.copy(thing)
        wrapped.__dict__ = {name: moved(part, where) for name, part in vars(thing).items()}
        return wrapped
    return thing
