"""Do the tests of a module notice small mistakes in it? Run as a program, for it forks.

A line of its input is a module and the files of its tests; they run on a sample of the module's mutants. Each
is compiled from its syntax tree in a forked process, where an import hook hands it out: no cache has it.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import shlex
import signal
import sys
import tempfile
import time
from types import CodeType
from typing import Any

from mutants import ROOT, Mutant, path_of, sample

SECONDS = 120  # of a processor, that the tests of a mutant may take: a loop without an end is noticed
# Of pytest: all pass, one fails, a file of tests cannot be imported; and of a process that took too long.
OUTCOMES = {0: "survived", 1: "died", 2: "died", -signal.SIGXCPU: "died"}


class Hook(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Hands out a mutant when its module is imported."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant, self.used = mutant, False

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.mutant.module:
            return None
        return importlib.util.spec_from_file_location(name, path_of(name), loader=self)

    def get_source(self, name: str) -> str:
        return path_of(name).read_text()

    def get_code(self, name: str) -> CodeType:
        self.used = True
        return self.mutant.code()


def run(tests: list[str], mutant: Mutant | None) -> int:
    """Run tests in this process, on a mutant or on the code as it is, and return pytest's code."""
    import pytest

    hook = Hook(mutant) if mutant else None
    sys.meta_path[:0] = [hook] if hook else []
    with tempfile.TemporaryDirectory() as folder:
        where = [f"{ROOT}/tests/{word}" if word.startswith("test_") else word for word in tests]
        quick = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--basetemp", f"{folder}/tests"]
        code = int(pytest.main([*quick, *where]))
    return 6 if hook and not hook.used else code


def outcome(tests: list[str], mutant: Mutant | None = None) -> str:
    """Return what tests in a process of their own come to: "survived", "died", or what is wrong."""
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        if mutant:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.dup2(2, 1)
        code = 7
        try:
            code = run(tests, mutant)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return OUTCOMES.get(code, f"code {code}")


def main() -> None:
    """Write what its tests say to each module as it is and to its mutants."""
    import accelerate  # noqa: F401
    import conftest  # noqa: F401 - once for all processes, as the next
    import numba  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch  # noqa: F401
    from diffusers import UNet2DModel  # noqa: F401

    passed: set[tuple[str, ...]] = set()
    for line in sys.stdin:
        module, *tests = shlex.split(line)
        if tuple(tests) not in passed:
            passed.add(tuple(tests))
            print(json.dumps({"tests": tests, "outcome": outcome(tests)}), flush=True)
        for mutant in sample(module):
            start = time.monotonic()
            met = {"mutant": mutant.name, "outcome": outcome(tests, mutant)}
            print(json.dumps(met | {"seconds": round(time.monotonic() - start, 1)}), flush=True)


if __name__ == "__main__":
    main()
