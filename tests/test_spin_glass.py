"""The pipeline pipelines/spin_glass: equal work, exact answers, the same bytes twice, everything tracked."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import SPY, Checkout
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from test_dependencies import require_covered

from genmodels.data.coupling_files import read
from genmodels.estimate import Estimate, joint_z_score
from genmodels.streams import Key
from pipelines import dag
from pipelines.execution import Execution
from pipelines.schema.spin_glass import Instance
from stages import compare_samplers, prepare_couplings

DVC_YAML, PARAMS = "pipelines/spin_glass/dvc.yaml", "pipelines/spin_glass/params.yaml"
OUT = Path("out/spin_glass")
METHODS = [
    "descent",
    "simulated_annealing",
    "simulated_tempering",
    "replica_exchange",
    "population_annealing",
    "jarzynski",
]
FREE_ENERGIES = METHODS[2:]
STAGES = ["prepare_couplings", *(f"sample_couplings@{method}" for method in METHODS), "compare_samplers"]
FIELDS = "0 1 1.5\n1 2 -0.7\n0 2 0.4\n2 3 1.1\n3 4 -2\n0 0 0.8\n1 1 -0.3\n3 3 0.5\n4 4 0.9\n"
INSTANCES = {
    "ferromagnet": {"kind": "ferromagnet", "size": [5, 6], "path": None, "beta_max": 0.5},
    "glass": {"kind": "gaussian", "size": [3, 3], "path": None, "beta_max": 1.3},
    "mine": {"kind": "file", "size": None, "path": "mine.coo", "beta_max": 0.7},
}
SMALL: dict[str, Any] = {
    "prepare_couplings": INSTANCES,
    "sample_couplings.budget": 250000,
    "sample_couplings.kernel": "block_gibbs",  # the others would be compiled for every checkout
    "sample_couplings.simulated_tempering.n_rungs": 6,
    "sample_couplings.replica_exchange.n_rungs": 8,
    "sample_couplings.jarzynski.n_replicas": 128,
}


def repro(checkout: Checkout, **more: str) -> list[str]:
    return [name.split(":")[-1] for name in checkout.repro(DVC_YAML, **more)]


@pytest.fixture(scope="module")
def glass(checkout: Callable[..., Checkout]) -> Checkout:
    """A checkout after the pipeline ran, in process; what its stages imported is in "glass-spy" beside it."""
    one = checkout("glass")
    one.change(SMALL, PARAMS)
    (one.folder / "mine.coo").write_text(FIELDS)
    spy = one.folder.with_name("glass-spy")
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(SPY)
    ran = repro(one, GENMODELS_WORKERS="0", PYTHONPATH=f"{one.folder}:{spy}")
    assert sorted(ran) == sorted([*STAGES, "track"])
    return one


def result(checkout: Checkout, method: str) -> dict[str, Any]:
    return json.loads((checkout.folder / OUT / "sample_couplings" / f"{method}.json").read_text())


def exact(checkout: Checkout) -> dict[str, dict[str, Estimate]]:
    known = json.loads((checkout.folder / OUT / "prepare_couplings/instances.json").read_text())
    return {
        name: {key: Estimate.from_dict(entries) for key, entries in of["exact"].items()}
        for name, of in known.items()
    }


def test_every_method_has_the_same_budget_and_spends_it(glass: Checkout) -> None:
    sizes = {"ferromagnet": 30, "glass": 9, "mine": 5}
    for method in METHODS:
        for name, n in sizes.items():
            sweeps = result(glass, method)[name]["n_updates"] / n
            assert 0.85 * SMALL["sample_couplings.budget"] <= sweeps <= SMALL["sample_couplings.budget"], (
                method,
                name,
            )


def test_log_z_of_every_method_is_the_exact_one(glass: Checkout) -> None:
    known = exact(glass)
    for method in FREE_ENERGIES:
        for name, answer in result(glass, method).items():
            estimate = Estimate.from_dict(answer["log_z"])
            assert estimate.value is not None, (method, name, estimate.reason)
            assert 0.0 < estimate.stderr < 0.2, (method, name)
            assert joint_z_score(estimate, known[name]["log_z"]) < 4.0, (method, name)
            # At a β off by 2 % log Z is another one.
            off = dataclasses.replace(estimate, value=estimate.value - 0.02 * answer["energies"][-1]["value"])
            assert method != "replica_exchange" or joint_z_score(off, known[name]["log_z"]) > 4.0, name


def test_ground_states_are_met_and_never_undercut(glass: Checkout) -> None:
    known = exact(glass)
    for method in METHODS:
        for name, answer in result(glass, method).items():
            energy, lowest = answer["best_energy"], known[name]["best_energy"].value
            assert energy["kind"] == "upper"
            assert energy["value"] == pytest.approx(lowest, abs=1e-5), (method, name)


def test_methods_without_a_free_energy_say_so(glass: Checkout) -> None:
    for method in set(METHODS) - set(FREE_ENERGIES):
        for answer in result(glass, method).values():
            assert answer["log_z"]["value"] is None
            assert answer["log_z"]["reason"]


def test_the_page_has_a_line_for_every_method_and_links_the_costs(glass: Checkout) -> None:
    page = (glass.folder / OUT / "compare_samplers/report.html").read_text()
    assert page.count("<tr>") == len(INSTANCES) * (1 + len(METHODS))
    assert page.count('<tr class="exact">') == len(INSTANCES)
    assert 'href="../../costs.json"' in page
    assert "http" not in page
    costs = json.loads((glass.folder / "out/costs.json").read_text())
    assert {f"sample_couplings@{m}/{name}" for m in METHODS for name in INSTANCES} <= set(costs)


def test_a_second_repro_runs_track_only_and_no_clock_is_in_an_output(glass: Checkout) -> None:
    assert repro(glass) == ["track"]
    lock = (glass.folder / DVC_YAML).with_name("dvc.lock").read_text()
    assert "times.png" not in lock
    assert "costs.json" not in lock
    ignored = glass.run("git", "status", "--porcelain", "--ignored", "out").stdout
    assert "!! out/spin_glass/compare_samplers/times.png" in ignored


def test_deps_cover_what_the_stages_imported(glass: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(glass.folder)
    require_covered(glass.folder.with_name("glass-spy"), dag.entries(Path(DVC_YAML)))


def test_one_parent_carries_the_table_and_its_pictures_a_child_each_stage(glass: Checkout) -> None:
    client = MlflowClient(f"sqlite:///{glass.folder}/mlflow.db")
    parent, *others = executions(client)
    assert others == []
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name.startswith("pipeline-spin_glass-")
    assert parent.data.params["sample_couplings.budget"] == str(SMALL["sample_couplings.budget"])
    assert "glass.log_z.replica_exchange.stderr" in parent.data.metrics
    assert parent.data.metrics["mine.best_energy.exact"] == pytest.approx(lowest(FIELDS))
    at_the_top = {entry.path for entry in client.list_artifacts(parent.info.run_id)}
    assert at_the_top == {"overview.png", "times.png", "report", "table_of_models.json"}
    children = children_of(client, parent)
    assert sorted(children) == sorted(STAGES)
    assert {child.data.tags["dvc.cached"] for child in children.values()} == {"false"}
    assert children["sample_couplings@jarzynski"].data.metrics["seconds/glass"] > 0.0


def test_one_number_repeats_one_method_and_the_comparison(glass: Checkout) -> None:
    twin = glass.copy("glass-changed")
    twin.change({"sample_couplings.descent.n_sweeps": 17}, PARAMS)
    changed = ["sample_couplings@descent", "compare_samplers"]
    assert sorted(repro(twin, GENMODELS_WORKERS="0")) == sorted([*changed, "track"])
    client = MlflowClient(f"sqlite:///{twin.folder}/mlflow.db")
    last = max(executions(client), key=lambda run: run.info.start_time)
    cached = {name: run.data.tags["dvc.cached"] for name, run in children_of(client, last).items()}
    assert cached == {name: str(name not in changed).lower() for name in STAGES}


@pytest.mark.slow
def test_the_bytes_are_the_same_on_ray(glass: Checkout, checkout: Callable[..., Checkout]) -> None:
    other = checkout("glass-on-ray")
    other.change(SMALL, PARAMS)
    (other.folder / "mine.coo").write_text(FIELDS)
    repro(other, GENMODELS_WORKERS="2")
    assert digests(other) == digests(glass)
    assert len(digests(glass)) == len(STAGES)


def digests(checkout: Checkout) -> dict[str, Any]:
    """Return what dvc.lock says of all outputs; a new one lists the stages in the order in which they ran."""
    lock = yaml.safe_load((checkout.folder / DVC_YAML).with_name("dvc.lock").read_text())
    return {name: entry["outs"] for name, entry in lock["stages"].items() if "outs" in entry}


def test_pipelines_that_one_dvc_runs_are_executions_of_their_own() -> None:
    main, other = (Execution(7, 1.5, pipeline) for pipeline in ("main", "spin_glass"))
    assert main.key == Execution(7, 1.5).key
    assert main.key != other.key
    assert "spin_glass" in other.key


def executions(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("genmodels").experiment_id
    return client.search_runs([experiment], "tags.`genmodels.kind` = 'pipeline'")


def children_of(client: MlflowClient, parent: Run) -> dict[str, Run]:
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    return {run.info.run_name: run for run in client.search_runs([parent.info.experiment_id], query)}


def lowest(text: str) -> float:
    """Return the ground state's energy of a small COO file, by trying all configurations."""
    entries = [(int(i), int(j), float(v)) for i, j, v in (line.split() for line in text.splitlines())]
    n = 1 + max(j for _, j, _ in entries)
    x = 1.0 - 2.0 * np.array([[state >> k & 1 for k in range(n)] for state in range(2**n)])
    return float(min(-sum((x[:, i] if i == j else x[:, i] * x[:, j]) * v for i, j, v in entries)))


def instance(**changes: Any) -> Instance:
    return Instance(**{"kind": "plus_minus", "size": [3, 3, 3], "path": None, "beta_max": 1.0} | changes)


@pytest.mark.parametrize(
    ("changes", "n_sites", "n_edges"),
    [
        ({}, 27, 81),
        ({"kind": "gaussian", "size": [3, 4]}, 12, 24),
        ({"kind": "ferromagnet", "size": [4, 5]}, 20, 40),
        ({"kind": "sherrington_kirkpatrick", "size": [7]}, 7, 21),
    ],
)
def test_instances_are_what_their_settings_say(changes: dict, n_sites: int, n_edges: int) -> None:
    one, other = (prepare_couplings.made(instance(**changes), Key(seed, "test")) for seed in (1, 2))
    assert (one.n_sites, len(one.J)) == (n_sites, n_edges)
    drawn = changes.get("kind") != "ferromagnet"
    assert np.array_equal(one.J, other.J) != drawn


def test_a_file_is_found_here_and_under_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.coo").write_text(FIELDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENMODELS_DATA", raising=False)
    wanted = instance(kind="file", size=None, path="mine.coo", beta_max=0.7)
    couplings = prepare_couplings.made(wanted, Key(1, "test"))
    assert np.array_equal(couplings.h, read(tmp_path / "data" / "mine.coo").couplings.h)
    known = prepare_couplings.exact(wanted, couplings)
    assert known["best_energy"].value == pytest.approx(lowest(FIELDS), abs=1e-12)


def test_exact_answers_of_a_ferromagnet_agree_with_sums_over_all_states() -> None:
    wanted = instance(kind="ferromagnet", size=[4, 5], beta_max=0.37)
    couplings = prepare_couplings.made(wanted, Key(1, "test"))
    summed = prepare_couplings.exact(wanted, couplings)
    larger = instance(kind="ferromagnet", size=[4, 6], beta_max=0.37)
    kaufman = prepare_couplings.exact(larger, prepare_couplings.made(larger, Key(1, "test")))
    assert summed["log_z"].method != kaufman["log_z"].method == "Kaufman 1949"
    assert (summed["best_energy"].value, kaufman["best_energy"].value) == (-40.0, -48.0)
    # Per spin a larger torus has nearly the same free energy; at another β it has not.
    density, other = summed["log_z"].value / 20, kaufman["log_z"].value / 24
    assert density == pytest.approx(other, abs=0.02)
    assert abs(math.log(2.0) - other) > 0.1
    cube = instance(kind="ferromagnet", size=[3, 3, 3])
    assert set(prepare_couplings.exact(cube, prepare_couplings.made(cube, Key(1, "test")))) == {"best_energy"}


def test_agreement_is_in_joint_errors_and_leaves_out_what_is_not_determined() -> None:
    def row(method: str, value: float | None, stderr: float | None, kind: str) -> dict[str, Any]:
        answer = Estimate(value, stderr, None, stderr, kind, "" if value else "short", "nats", 9, method)
        return {"model": "glass", "name": f"log_z.{method}"} | answer.to_dict()

    rows = [row("exact", 10.0, 0.0, "exact"), row("one", 10.4, 0.2, "estimate")]
    rows += [row("two", 9.9, 0.15, "estimate"), row("three", None, None, "undetermined")]
    pairs = {(pair["one"], pair["other"]): pair["z"] for pair in compare_samplers._agreement("glass", rows)}
    assert pairs == pytest.approx({("exact", "one"): 2.0, ("exact", "two"): 2 / 3, ("one", "two"): 2.0})
