"""The commands of docs/tutorial.md do what the page says, one after the other, in a checkout of their own."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, Checkout

TUTORIAL = ROOT / "docs/tutorial.md"
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]+) -->\n\n)?```sh\n(?P<text>.*?)```\n", re.DOTALL)
CTRL_C, ELSEWHERE = "Ctrl-C", "as in pipelines/cluster/README.md"
LONGER = {
    "train.vae.steps": 3000,  # long enough to be interrupted
    "train.vae.checkpoint_every": {"steps": 20, "seconds": None},
}


class Commands(NamedTuple):
    """A block of the page."""

    mark: str
    text: str


def blocks() -> list[Commands]:
    return [Commands(found["mark"] or "", found["text"]) for found in BLOCK.finditer(TUTORIAL.read_text())]


def with_an_environment(one: Checkout) -> Checkout:
    """Give a checkout a .venv that is this one, and up to date as make sees it."""
    venv = one.folder / ".venv"
    venv.mkdir()
    for path in Path(sys.prefix).iterdir():
        if not path.name.startswith("."):
            (venv / path.name).symlink_to(path)
    for age, stamp in enumerate((".runtime-installed", ".text-installed", ".dev-installed"), start=1):
        (venv / stamp).touch()
        os.utime(venv / stamp, (time.time() + age, time.time() + age))
    return one


def started(one: Checkout, text: str) -> subprocess.Popen[str]:
    script = f"set -euo pipefail\nif [ -e .venv/bin/activate ]; then . .venv/bin/activate; fi\n{text}"
    return subprocess.Popen(
        ["bash", "-c", script], cwd=one.folder, env=one.environment(GENMODELS_WORKERS="0"), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def finished(one: Checkout, text: str) -> str:
    process = started(one, text)
    output, _ = process.communicate()
    assert process.returncode == 0, f"{text}\n{output}"
    return output


def interrupted(one: Checkout, text: str) -> None:
    """Press Ctrl-C once the training has written a checkpoint."""
    process = started(one, text)
    deadline = time.monotonic() + 600
    while not list(one.folder.glob(".scratch/stages/*/fit/learner.safetensors")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    assert "Traceback" not in output
    assert list(one.folder.glob(".scratch/stages/*/fit/learner.safetensors"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(one: Checkout) -> dict[str, float]:
    table = json.loads((one.folder / "out/main/report/table.json").read_text())["rows"]
    return {row["model"]: row["value"] for row in table if row["name"] == "log_likelihood"}


def test_the_page_has_commands_of_each_kind() -> None:
    marks = [block.mark for block in blocks()]
    assert marks.count(CTRL_C) == 1
    assert marks.count(ELSEWHERE) == 3
    assert set(marks) == {"", CTRL_C, ELSEWHERE}
    assert TUTORIAL.read_text().count("```sh\n") == len(marks)


def test_commands_for_two_machines_are_those_that_are_tested_on_two_nodes() -> None:
    manual = {line.strip() for line in (ROOT / "pipelines/cluster/README.md").read_text().splitlines()}
    for block in blocks():
        if block.mark == ELSEWHERE:
            assert set(block.text.splitlines()) <= manual


def run_block(one: Checkout, block: Commands) -> str:
    if block.mark == CTRL_C:
        interrupted(one, block.text)
        return ""
    return finished(one, block.text)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_every_command_does_what_the_page_says(checkout: Callable[..., Checkout]) -> None:
    one = with_an_environment(checkout("tutorial of a näive user", LONGER))
    outputs: dict[str, str] = {}
    model = one.folder / "out/main/train/vae/model.safetensors"
    digests = []
    for block in blocks():
        if block.mark != ELSEWHERE:
            outputs[block.text] = run_block(one, block)
            digests.append(digest(model) if model.exists() else "")
            if "--name shapes" in block.text:
                assert all(value < 0 for value in rows(one).values())
                assert (one.folder / "shapes.png").stat().st_size > 500
                assert (one.folder / "out/main/prepare/preview.png").exists()
    said = "".join(outputs.values())
    assert "latent-4" in said and "latent-8" in said  # noqa: PT018 - headings of one table
    assert (one.folder / "glass/answer.json").exists()
    resumed = outputs["dvc repro\ngit status --short out dvc.lock\n"]
    assert "Running stage 'train@vae'" in resumed
    assert not re.search(r"^( M|M |\?\?|D | D) ?\S", resumed, re.MULTILINE), resumed
    assert digests[-1] == digests[0]
