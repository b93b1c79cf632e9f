"""Packaging, lock files, import contracts and registries hold what they promise."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from hashlib import sha256
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-web.lock")
REGISTRIES = ("models", "kernels", "samplers", "learners")
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.!]*)")  # no local part: the index has none


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def unpinned(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [line for line in lines if not PIN.fullmatch(line)]


def pins(lock: str) -> dict[str, str]:
    matches = [PIN.fullmatch(line) for line in (ROOT / lock).read_text().splitlines()]
    return {canonical(match[1]): match[2] for match in matches if match}


def registry_fault(source: str) -> str | None:
    """Return what makes a registry more than a docstring and one dict of "module:Class" texts, or None."""
    body = ast.parse(source).body
    if len(body) != 2 or ast.get_docstring(ast.parse(source)) is None:
        return "expected a docstring and one assignment"
    if not isinstance(body[1], ast.Assign) or not isinstance(body[1].value, ast.Dict):
        return "expected a dict literal"
    entries = ast.literal_eval(body[1].value)
    wrong = [entry for entry in entries.values() if not re.fullmatch(r"genmodels(\.\w+)+:[A-Z]\w*", entry)]
    return f"not module:Class: {wrong}" if wrong else None


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_of_a_lock_is_pinned(lock: str) -> None:
    assert unpinned((ROOT / lock).read_text()) == []
    assert len(pins(lock)) > 10


@pytest.mark.parametrize("line", ["numpy", "numpy>=2", "torch==2.13.0+cpu", "-e .", "x @ file:///tmp/x"])
def test_a_loose_line_is_seen(line: str) -> None:
    assert unpinned(f"# header\nsix==1.17.0\n{line}\n") == [line]


def test_locks_share_no_package() -> None:
    # The development lock adds to the other: a package in both could differ.
    runtime, development, web = (set(pins(lock)) for lock in LOCKS)
    assert runtime.isdisjoint(development | web)
    assert development.isdisjoint(web)


def test_locks_satisfy_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime, both = pins(LOCKS[0]), pins(LOCKS[0]) | pins(LOCKS[1])
    wanted = [(text, runtime) for text in project["dependencies"]]
    wanted += [(text, both) for text in project["optional-dependencies"]["dev"]]
    wanted += [(text, pins(LOCKS[2])) for text in project["optional-dependencies"]["web"]]
    for text, locked in wanted:
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked[canonical(requirement.name)]), text
        assert str(requirement.specifier).startswith(">="), f"{text} has no lower bound"


def test_import_contracts_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_import_contracts_catch_a_violation_of_each_kind(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("genmodels", "stages", "pipelines"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    planted = {
        "genmodels/models/planted.py": "import yaml, genmodels.kernels.planted, genmodels.models.rbm\n",
        "genmodels/kernels/planted.py": "import ray, accelerate\nfrom genmodels.kernels import other\n",
        "genmodels/kernels/other.py": "import gradio, genmodels.placement\n",
        "genmodels/placement/planted.py": "import genmodels.samplers\n",
    }
    for path, source in planted.items():
        (tmp_path / path).write_text(source)
    result = lint_imports(tmp_path)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    kept = [entry["name"] for entry in contracts if f"{entry['name']} KEPT" in result.stdout]
    assert kept == []
    assert f"0 kept, {len(contracts)} broken" in result.stdout


@pytest.mark.parametrize("folder", REGISTRIES)
def test_a_registry_is_a_literal_dict(folder: str) -> None:
    assert registry_fault((ROOT / "genmodels" / folder / "__init__.py").read_text()) is None


@pytest.mark.parametrize(
    "source",
    [
        '"""Doc."""\nimport torch\nX = {"a": "genmodels.a:A"}\n',
        '"""Doc."""\nX = dict(a="genmodels.a:A")\n',
        '"""Doc."""\nX = {"a": "genmodels.a.A"}\n',
        'X = {"a": "genmodels.a:A"}\n',
    ],
)
def test_a_registry_that_does_more_is_seen(source: str) -> None:
    assert registry_fault(source) is not None


def test_the_licence_is_the_unmodified_apache_2() -> None:
    published = (
        "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # LICENSE-2.0.txt of apache.org
    )
    assert sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == published


def test_make_alone_lists_every_target() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert re.findall(r"^  make (\S+)", listed, re.MULTILINE) == phony[1].split()
