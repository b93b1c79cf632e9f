"""The exact divergence of every rule while it learns, on two known distributions; what the rules promise."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SPY, Checkout
from test_dependencies import require_covered
from torch import Tensor

from genmodels.data.bars_and_stripes import bars_and_stripes
from genmodels.data.ising import ising
from genmodels.data.sources import Material, Request
from genmodels.data.target import Target
from genmodels.estimate import undetermined
from genmodels.estimators import enumeration
from genmodels.learners import LEARNERS
from genmodels.learners.fit import Shuffled, fit
from genmodels.models.rbm import RBM
from genmodels.registry import build
from genmodels.streams import Key
from pipelines import dag, params, progress
from stages import learn_rules

DVC_YAML, PARAMS = "pipelines/learning_rules/dvc.yaml", "pipelines/learning_rules/params.yaml"
KEY = Key(85, "curves")
SETTINGS = params.read(Path(__file__).parents[1] / "pipelines/learning_rules/params.yaml").learn_rules
STATES = torch.cat(list(enumeration.states(16))).float()


def divergence(model: RBM, target: Target) -> float:
    with torch.no_grad():
        log_z = model.log_unnormalised(STATES).double().logsumexp(0)
        log_q = model.log_unnormalised(2.0 * torch.from_numpy(target.states).float() - 1.0).double() - log_z
    value = enumeration.divergence(torch.from_numpy(target.log_p), log_q).value
    assert value is not None
    return value


def curve(name: str, material: Material, n_steps: int) -> list[float]:
    """Return the divergence at 25 points of a training by the settings that the pipeline ships with."""
    of = getattr(SETTINGS, name).model_dump()
    schedule = {} if of["schedule"] is None else {"n_steps": n_steps, "schedule": of["schedule"]}
    learner: Any = build(LEARNERS, of["rule"], {k: of[k] for k in of if k != "schedule"} | schedule)
    x: Tensor = 2.0 * torch.from_numpy(material.parts["train"].grey).float() - 1.0
    model, batches = RBM(16, SETTINGS.n_hidden), Shuffled(x, SETTINGS.batch, KEY.child("order"))
    wanted = set(np.geomspace(1, n_steps, 25).round().astype(int).tolist())
    assert material.target is not None
    return [
        divergence(model, material.target)
        for done in fit(model, learner, batches, KEY.child(name), n_steps)
        if done.step in wanted
    ]


BARS = bars_and_stripes(Request(size=(4, 4)))
MAGNET = ising(Request(size=(4, 4), beta=0.4, n_samples=10_000, seed=3))


@pytest.mark.slow
def test_what_each_rule_reaches_on_bars_and_stripes() -> None:
    exact, tempered = curve("exact", BARS, 2000), curve("tempered", BARS, 3000)
    assert exact[-1] <= 0.05
    assert tempered[-1] <= 0.2
    assert min(curve("contrastive_divergence_10", BARS, 2000)) <= 0.4
    persistent = curve("persistent_contrastive_divergence", BARS, 2000)
    assert min(persistent) < 0.9
    assert persistent[-1] > 2.0 * min(persistent)  # chains that are stuck lead away again
    assert persistent[-1] > 5.0 * tempered[-1]
    for name in ("contrastive_divergence_1", "minimum_probability_flow", "pseudo_likelihood"):
        others = curve(name, BARS, 2000)
        assert exact[-1] < min(others) < 0.1 * others[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS.rules())
def test_every_rule_learns_a_ferromagnet(name: str) -> None:
    # The floor that 10,000 samples set to 288 parameters is 288/20,000 = 0.014 nats at most.
    found = curve(name, MAGNET, 2000)
    assert min(found) < 0.06
    assert min(found) < 0.1 * found[0]


def test_tempered_chains_learn_in_a_second_what_the_base_rates_do_not_know() -> None:
    found = curve("tempered", BARS, 300)
    assert found[0] > 5.0
    assert found[-1] < 1.5


def test_an_infinite_divergence_is_no_number_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    infinite = undetermined("infinite", unit="nats", n=30, method="sum")
    monkeypatch.setattr(learn_rules, "_divergence", lambda *_: infinite)
    monkeypatch.setattr(progress, "_LINE_EVERY", -1.0)  # a line at once
    told: list[dict[str, float]] = []
    run = SimpleNamespace(metrics=lambda values, step: told.append(values))
    stage: Any = SimpleNamespace(name="learn_rules@exact", run=run)
    few = SETTINGS.model_copy(update={"steps": 3, "points": 3})
    points = learn_rules._learn(stage, few, "pseudo_likelihood", BARS, Key(1, "learn_rules/bars"))
    assert [point["value"] for point in points] == [None] * 3
    assert told == [{}] * 3
    assert "2 of 3" in capsys.readouterr().err


@pytest.mark.slow
def test_the_pipeline_puts_all_rules_on_one_page(
    checkout: Callable[..., Checkout], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = checkout("rules")
    one.change({"learn_rules.steps": 20, "learn_rules.points": 4}, PARAMS)
    spy = one.folder.with_name("rules-spy")
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(SPY)
    one.repro(DVC_YAML, GENMODELS_WORKERS="0", PYTHONPATH=f"{one.folder}:{spy}")
    out = one.folder / "out/learning_rules/compare_rules"
    rows = json.loads((out / "table.json").read_text())["rows"]
    assert [row["kind"] for row in rows] == ["exact"] * 4 * len(SETTINGS.rules())
    for best, last in zip(rows[::2], rows[1::2], strict=True):
        assert best["value"] <= last["value"]
        assert last["step"] == 20
    assert (out / "report.html").read_text().count("data:image/png;base64") == 1
    assert one.repro(DVC_YAML, GENMODELS_WORKERS="0") == [f"{DVC_YAML}:track"]
    monkeypatch.chdir(one.folder)
    require_covered(spy, dag.entries(Path(DVC_YAML)))
