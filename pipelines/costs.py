"""What each stage cost when it last ran here: `python -m pipelines.costs [params.yaml]`."""

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines import dag
from pipelines.stage import costs_so_far, one_line_errors


def table(costs: Mapping[str, float], stages: list[str]) -> Table:
    """Return a line a kind of stage: seconds by the clock and of the CPU, and which model took longest.

    Stages that never ran here, as their outputs came from a cache, are counted apart.
    """
    shown = Table(header_style="bold")
    for heading in ("stage", "seconds", "CPU", "the longest", "from cache"):
        shown.add_column(heading, justify="left" if heading in ("stage", "the longest") else "right")
    kinds = list(dict.fromkeys(stage.split("@")[0] for stage in stages))
    totals = [0.0, 0.0]
    for kind in kinds:
        mine = [stage for stage in stages if stage.split("@")[0] == kind]
        known = [stage for stage in mine if stage in costs]
        if not known:
            continue
        clock, cpu = (sum(costs.get(stage + part, 0.0) for stage in known) for part in ("", "/cpu"))
        longest = max(known, key=lambda stage: costs[stage])
        words = f"{longest.split('@')[1]}, {costs[longest]:.1f}" if "@" in longest else ""
        missing = len(mine) - len(known)
        shown.add_row(kind, f"{clock:.1f}", f"{cpu:.1f}", words, str(missing) if missing else "")
        totals = [totals[0] + clock, totals[1] + cpu]
    shown.add_section()
    shown.add_row("all", f"{totals[0]:.1f}", f"{totals[1]:.1f}", "", "")
    return shown


def show(params: Path) -> None:
    """Print what is in out/costs.json of the pipeline beside a params.yaml; nothing where nothing ran yet."""
    costs = costs_so_far()
    stages = list(dag.entries(params.parent / "dvc.yaml"))
    if any(stage in costs for stage in stages):
        Console(width=None if Console().is_terminal else 100).print(table(costs, stages))


if __name__ == "__main__":
    with one_line_errors():
        show(Path(sys.argv[1] if len(sys.argv) > 1 else "params.yaml"))
