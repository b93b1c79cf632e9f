"""Loops as Python runs them, for pytest's `-p interpreted` under NUMBA_DISABLE_JIT=1: what do tests reach?

What numba writes as machine code itself has a line of NumPy here.
"""

from collections.abc import Callable
from typing import Any

import numba
import numba.extending
import numpy as np
import pytest

# Words of the names of tests that need too many sweeps, all of them statistical ones or repetitions.
SLOW = ("distribution", "probabilit", "moments", "any_number", "many_sweeps", "another_rule", "time_measured")
SLOW += ("forgets", "streams_pass", "do_not_pass", "generator_passes")


def add(table: np.ndarray, rows: np.ndarray, signs: np.ndarray, total: np.ndarray) -> None:
    for row, sign in zip(rows, signs, strict=True):
        total += sign * table[row, : len(total)]


WRITTEN: dict[str, Callable[..., Any]] = {
    "_bits": lambda x: np.float32(x).view(np.int32),
    "_float": lambda bits: np.int32(bits).view(np.float32),
    "_written": add,
}


def nothing_to_keep() -> None:
    raise RuntimeError("there is no machine code")


def njit(**_: Any) -> Callable[..., Any]:
    def plain(function: Any) -> Any:
        function.enable_caching, function.py_func = nothing_to_keep, function
        return function

    return plain


assert numba.config.DISABLE_JIT
numba.njit = njit
numba.extending.intrinsic = lambda function: WRITTEN[function.__name__]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not any(word in item.name for word in SLOW)]
