"""A run in the terminal: the line of its progress, and the table of its answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from genmodels.anneal.answer import Answer, number
from genmodels.anneal.stop import Report
from genmodels.data.coupling_files import cut

_TEMPERATURES = 8  # of log Z(β) that are shown


@contextmanager
def progress_line(method: str, show: bool) -> Iterator[Report | None]:
    """Yield what draws a line on stderr: how far, how long still, the best energy; None unless `show`."""
    console = Console(stderr=True)
    if not show or not console.is_terminal:
        yield None
        return
    columns = (TextColumn(method), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(method, total=None, words="")

        def report(done: int, total: int, left: float | None, **figures: float) -> None:
            words = [] if left is None else [f"{_duration(left)} left"]
            words += [f"{_words(name)} {value:.6g}" for name, value in figures.items()]
            bar.update(task, completed=done, total=total, words=", ".join(words))

        yield report


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _words(name: str) -> str:
    return name.replace("log_z", "log Z").replace("_", " ")


def show(answer: Answer) -> None:
    """Print the answer as tables."""
    console = Console(width=None if Console().is_terminal else 110)
    console.print(_summary(answer))
    if answer.curve is not None:
        console.print(_curve(answer))


def _summary(answer: Answer) -> Table:
    couplings, result = answer.file.couplings, answer.result
    table = Table(title=answer.convention, title_justify="left", show_header=False)
    table.add_row("spins, couplings", f"{couplings.n_sites}, {len(couplings.J)}")
    table.add_row("method", f"{answer.method}, seed {answer.seed}")
    table.add_row("lowest energy", number(answer.best_energy), style="bold")
    if answer.file.max_cut:
        table.add_row("largest cut", number(cut(couplings, answer.best_state)), style="bold")
    rate = result.n_updates / answer.seconds / 1e6 if answer.seconds else 0.0
    table.add_row("updates", f"{result.n_updates:.3g} in {answer.seconds:.1f} s, {rate:.3g} million a second")
    if answer.stopped:
        table.add_row("ended early", answer.stopped)
    for name, value in answer.diagnostics.items():
        if isinstance(value, int | float | str) and name != "stopped":
            shown = value if isinstance(value, int | str) else f"{value:.4g}"
            table.add_row(_words(name), str(shown), style="dim")
    return table


def _curve(answer: Answer) -> Table:
    """Return log Z at some temperatures, the last among them."""
    table = Table(header_style="bold")
    for heading in ("β", "log Z, nats", "kind", "how"):
        table.add_column(heading, justify="right" if heading in ("β", "log Z, nats") else "left")
    points: list[Any] = list(zip(answer.result.betas.tolist(), answer.curve or [], strict=True))
    last = len(points) - 1
    for k in sorted({round(part * last / (_TEMPERATURES - 1)) for part in range(_TEMPERATURES)}):
        beta, estimate = points[k]
        known = estimate.value is not None
        value = f"{estimate.value:.6g} ± {estimate.stderr:.2g}" if known else "not determined"
        table.add_row(f"{beta:.4g}", value, estimate.kind, estimate.method)
    return table
