"""What dvc.yaml says a stage depends on covers the code that it runs, and no other model's."""

import ast
from pathlib import Path

import grimp
import pytest
from conftest import ROOT, Checkout, Listeners

from pipelines import dag

# Checks, records, and names: none of them can change an output.
NAMES = ("digits", "learning_rules", "mnist", "spin_glass", "text_to_image")
OTHERS = tuple(f"pipelines/{name}/dvc.yaml" for name in NAMES)
EXEMPT = ("genmodels/__init__.py", "genmodels/runs.py", "stages/__init__.py")


@pytest.fixture(scope="module")
def entries(monkeypatch_module: pytest.MonkeyPatch) -> dict[str, dag.Entry]:
    monkeypatch_module.chdir(ROOT)
    return dag.entries(Path("dvc.yaml"))


@pytest.fixture(scope="module", params=["dvc.yaml", *OTHERS])
def any_entries(
    request: pytest.FixtureRequest, monkeypatch_module: pytest.MonkeyPatch
) -> dict[str, dag.Entry]:
    """The stages of each pipeline in turn."""
    monkeypatch_module.chdir(ROOT)
    return dag.entries(Path(request.param))


@pytest.fixture(scope="module")
def monkeypatch_module() -> pytest.MonkeyPatch:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def source(module: str) -> str:
    path = ROOT / module.replace(".", "/")
    return f"{module.replace('.', '/')}/__init__.py" if path.is_dir() else f"{module.replace('.', '/')}.py"


def harmless(path: str) -> bool:
    """Return whether a file only says what others are: a docstring, and a dict of names."""
    if path.startswith("pipelines/") or path in EXEMPT:
        return True
    return path.endswith("__init__.py") and all(
        isinstance(node, ast.Expr | ast.Assign) for node in ast.parse((ROOT / path).read_text()).body
    )


def uncovered(files: set[str], deps: tuple[Path, ...]) -> set[str]:
    def covered(path: str) -> bool:
        return any(Path(path) == dep or dep in Path(path).parents for dep in deps)

    return {path for path in files if not harmless(path) and not covered(path)}


def test_deps_cover_what_a_stage_imported_when_it_ran(
    twins: tuple[Checkout, Checkout, Listeners], entries: dict[str, dag.Entry]
) -> None:
    require_covered(twins[0].folder.with_name("spy"), entries)


def require_covered(spy: Path, entries: dict[str, dag.Entry]) -> None:
    """Assert that the modules which each stage imported, noted in the folder `spy`, are in its deps."""
    spied = {
        path.name: path for path in spy.iterdir() if "_" not in path.name[:1] and "." not in path.name
    }
    assert set(spied) == set(entries)
    for name, path in spied.items():
        if not entries[name].outs:
            continue  # track, which runs always
        modules = {line for line in path.read_text().split() if (ROOT / source(line)).exists()}
        files = {source(module) for module in modules}
        assert len(files) > 3, name
        assert uncovered(files, entries[name].deps) == set(), name


def test_deps_cover_what_a_stage_could_import(any_entries: dict[str, dag.Entry]) -> None:
    graph = grimp.build_graph(
        "genmodels", "stages", "pipelines", exclude_type_checking_imports=True, cache_dir=None
    )
    for name, entry in any_entries.items():
        if not entry.outs:
            continue
        seen, todo = set(), [f"stages.{name.split('@')[0]}"]
        while todo:
            module = todo.pop()
            if module not in seen and not module.startswith("pipelines"):
                seen.add(module)
                todo += graph.find_modules_directly_imported_by(module)
        assert uncovered({source(module) for module in seen}, entry.deps) == set(), name


def test_no_stage_depends_on_another_models_file(entries: dict[str, dag.Entry]) -> None:
    for name, entry in entries.items():
        models = {dep.stem for dep in entry.deps if dep.parts[:2] == ("genmodels", "models")}
        judged = name.startswith("judge_samples@")  # which looks at pictures, whoever drew them
        own = {name.split("@")[1]} if "@" in name and not judged else set()
        if "@" not in name:  # from captions to pictures: a model of two parts
            own = models & {"autoencoder", "latent_diffusion"}
        assert models == own, name


def test_a_missing_dependency_is_seen(entries: dict[str, dag.Entry]) -> None:
    deps = entries["train@vae"].deps
    assert uncovered({"genmodels/models/vae.py", "genmodels/learners/gradient.py"}, deps) == set()
    assert uncovered({"genmodels/models/rbm.py"}, deps) == {"genmodels/models/rbm.py"}


def test_track_covers_every_stage(entries: dict[str, dag.Entry]) -> None:
    made = {out for name, entry in entries.items() if name != "track" for out in entry.outs}
    assert all(out.parts[:2] == ("out", "main") for out in made)
    assert len(made) == sum(len(entry.outs) for entry in entries.values())
