"""Functions that numba compiles, once for a machine: the machine code is kept beside the source."""

import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import llvmlite.binding as llvm
import numba
from numba import njit


def _version() -> str:
    """Return a name for numba and this folder's sources: machine code depends on all of them."""
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


_VERSION = _version()


def _use_wide_registers() -> None:
    """Let the compiler use all 512 bits where there are such registers; it would take half of one."""
    features, config = llvm.get_host_cpu_features(), cast(Any, numba.config)
    if config.CPU_NAME is None and config.CPU_FEATURES is None and features.get("avx512vl"):
        config.CPU_FEATURES = f"{features.flatten()},-prefer-256-bit"


_use_wide_registers()


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function that other compiled ones call."""
    return njit(error_model="numpy", nogil=True)(function)


def contracted(function: Callable[..., Any]) -> Any:
    """Compile a function whose products and sums may be fused where the processor can do so."""
    return njit(error_model="numpy", nogil=True, fastmath={"contract"})(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function into each place where it is called, loops and all."""
    return njit(inline="always")(function)


class Loop:
    """A compiled function that is called from Python; the first call of all says that it compiles.

    Numba would keep machine code until the function's own file changes. Functions of this folder call each
    other: here the files in which it is kept are named after all of it, and those of other versions removed.
    Where no folder can be written to (numba takes $NUMBA_CACHE_DIR, this one, the user's cache) none is kept.
    """

    _told = False

    def __init__(self, function: Callable[..., Any], compile_: Callable[..., Any] = compiled) -> None:
        """Wrap a function of arrays and numbers."""
        self.__doc__ = function.__doc__
        name, source = function.__qualname__, Path(function.__code__.co_filename)
        function.__qualname__ = f"{name}_{_VERSION}"
        self.compiled: Any = compile_(function)
        self.ready = False
        with suppress(RuntimeError):
            self.compiled.enable_caching()
            cache = Path(self.compiled.stats.cache_path)
            self.ready = any(cache.glob(f"{source.stem}.{function.__qualname__}-*.nbi"))
            for path in [] if self.ready else cache.glob(f"{source.stem}.{name}_{'?' * 12}-*.nb[ci]"):
                path.unlink(missing_ok=True)

    def __call__(self, *arguments: Any) -> Any:
        """Call it, after compiling it if this machine has not done so yet."""
        if not (self.ready or Loop._told):
            Loop._told = True
            print("genmodels: compiling loops for this machine, once: half a minute", file=sys.stderr)
        self.ready = True
        return self.compiled(*arguments)
