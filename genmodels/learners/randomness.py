"""What torch's modules draw by themselves, as dropout does, from a stream of the project."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from genmodels.streams import Key


@contextmanager
def own_randomness(device: torch.device, key: Key) -> Iterator[None]:
    """Seed torch's global generators, from which dropout draws, and put them back afterwards."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filling: Any = torch.utils.deterministic
    fill = filling.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key.counter())
        # Some CUDA kernels have no deterministic form: a warning says so, and equality is statistical.
        torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
        filling.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            filling.fill_uninitialized_memory = fill
