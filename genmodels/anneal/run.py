"""From what the command line asks for to an answer."""

import hashlib
import math
import secrets
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from genmodels import __version__
from genmodels.anneal.answer import Answer
from genmodels.anneal.settings import beta_max, kernel, sampler
from genmodels.anneal.stop import Report, Stop
from genmodels.anneal.terminal import progress_line
from genmodels.data.coupling_files import CouplingFile, read
from genmodels.errors import InputError
from genmodels.estimate import Estimate
from genmodels.estimators import free_energy
from genmodels.models.ising import Ising
from genmodels.placement.choose import placement, resumable
from genmodels.placement.resumable import Resumable
from genmodels.protocols import Placement
from genmodels.streams import Key

_TOLD = ("best_energy", "n_updates")  # in the answer itself, the energy by the file's own numbers


class Request(NamedTuple):
    """The arguments of the command; None is the default."""

    path: Path
    method: str
    format: str | None = None
    seed: int | None = None
    beta_max: float | None = None
    replicas: int | None = None
    sweeps: int | None = None
    time_limit: float | None = None
    workers: int | None = None
    out: Path | None = None
    checkpoint: str | None = None
    checkpoint_every: float = 60.0  # seconds
    shard: int | None = None


def execute(request: Request, *, show_progress: bool = True) -> Answer:
    """Run the sampler and write the folder that is asked for.

    Ctrl-C, like a time limit that is over, ends the run with what has been measured so far.

    Raises:
        InputError: an argument or the file is wrong.
        FloatingPointError: an energy is not finite.
    """
    if request.time_limit is not None and not 0.0 < request.time_limit < math.inf:
        raise InputError(f"--time-limit is {request.time_limit}, give a positive number of seconds")
    if request.checkpoint is not None and request.seed is None:
        raise InputError("--checkpoint needs --seed: a run with another seed would not be the same run")
    file = read(request.path, request.format)
    with ExitStack() as stack:
        folder = None
        if request.out is not None:
            from genmodels.anneal.folder import reserved, write

            folder = stack.enter_context(reserved(request.out))
        place = stack.enter_context(_place(request))
        report = stack.enter_context(progress_line(request.method, show_progress))
        stop = Stop(request.time_limit, _with_workers(report, place))
        with stop.on_interrupt():
            answer = run(file, request, place, stop)
        if folder is not None:
            write(answer, folder)
        if isinstance(place, Resumable) and not answer.stopped:
            place.forget()
    return answer


def _with_workers(report: Report | None, place: Placement) -> Report | None:
    """Return a report that also tells how many workers there are, and how often work was done again."""
    if report is None or not place.n_workers:
        return report

    def told(done: int, total: int, left: float | None, **figures: float) -> None:
        lost = {"failures survived": place.n_failures} if place.n_failures else {}
        report(done, total, left, **figures, workers=place.n_workers, **lost)

    return told


def _place(request: Request) -> AbstractContextManager[Placement]:
    """Return where to work, and what to go on with."""
    if request.checkpoint is None:
        return placement(default=0, n_workers=request.workers)
    # What changes the answer; not where and for how long it is looked for.
    names = ("method", "seed", "beta_max", "replicas", "sweeps", "format", "shard")
    settings = repr([__version__, *(getattr(request, name) for name in names)])
    same = hashlib.sha256(settings.encode() + request.path.read_bytes()).hexdigest()
    return resumable(request.checkpoint, same, request.checkpoint_every, 0, request.workers)


def run(file: CouplingFile, request: Request, place: Placement, stop: Stop) -> Answer:
    """Return the answer about couplings that have been read."""
    seed = secrets.randbits(32) if request.seed is None else request.seed
    started = time.perf_counter()
    chosen = sampler(request.method, file.couplings, beta_max(file.couplings, request.beta_max),
                     request.replicas, request.sweeps, request.shard)  # fmt: skip
    chain = kernel(request.method)
    result = chosen.run(Ising.of(file.couplings), chain, Key(seed, "anneal"), place, stop)
    curve, diagnostics = _evaluated(request.method, result)
    diagnostics = _finite({key: diagnostics[key] for key in diagnostics if key not in _TOLD})
    if stop.reason:
        diagnostics["stopped"] = stop.reason
    seconds = time.perf_counter() - started
    return Answer(file, request.method, seed, result, curve, diagnostics, seconds, stop.reason)


def _finite(value: Any) -> Any:
    """Return a JSON-ready value with None for what is no finite number."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _evaluated(method: str, result: Any) -> tuple[list[Estimate] | None, dict[str, Any]]:
    """Return log Z(β), where the method gives it, and the diagnostics."""
    if method == "annealing":
        return None, result.summary()
    curve, figures = free_energy.evaluate(result)
    diagnostics = result.summary() | figures
    if curve[-1].value is None:
        diagnostics["log_z_reason"] = curve[-1].reason
    return curve, diagnostics
