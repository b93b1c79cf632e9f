"""A bar with the remaining time where there is a terminal, a line now and then where there is none."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_LINE_EVERY = 15.0  # seconds


class Report(Protocol):
    """Tell how far the work is, and a few figures of interest."""

    def __call__(self, done: int, total: int, **figures: float) -> None:
        """Show that `done` of `total` are done."""
        ...


@contextmanager
def bar(title: str) -> Iterator[Report]:
    """Yield a function to call with (done, total, figure=value, ...) as the work goes on; shown on stderr."""
    if sys.stderr.isatty():
        with _live(title) as report:
            yield report
    else:
        yield _lines(title)


@contextmanager
def _live(title: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None, figures="")

        def report(done: int, total: int, **figures: float) -> None:
            progress.update(task, completed=done, total=total, figures=_text(figures))

        yield report


def _lines(title: str) -> Report:
    start = last = time.monotonic()
    before: int | None = None  # what had been done when this began: a resumed run has not done all of it

    def report(done: int, total: int, **figures: float) -> None:
        nonlocal before, last, start
        now = time.monotonic()
        if before is None:
            before, start = (done, now) if now - last < _LINE_EVERY else (0, start)
        if now - last < _LINE_EVERY or done == before:
            return
        last = now
        left = (now - start) * (total - done) / (done - before)
        print(
            f"{title}: {done} of {total}, {left:.0f} s left{_text(figures, ', ')}",
            file=sys.stderr,
            flush=True,
        )

    return report


def _text(figures: dict[str, float], before: str = "") -> str:
    text = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
    return before + text if text else ""
