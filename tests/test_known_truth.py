"""Distances from a known distribution, of models whose probabilities can be integrated."""

import numpy as np
import pytest
import torch
from encoders import all_images
from test_vae import quadrature, small

from genmodels.data.bars_and_stripes import bars_and_stripes
from genmodels.data.sources import Request
from genmodels.data.target import Target
from genmodels.estimate import Estimate
from genmodels.estimators import known_truth, likelihood
from genmodels.estimators.route import Effort, Route
from genmodels.models.independent import Independent
from genmodels.models.rbm import RBM
from genmodels.models.vae import VAE
from genmodels.streams import Key

KEY = Key(97, "truth")
EFFORT = Effort(importance_samples=2000, posterior_images=50)
MODEL, V = small(VAE, 2), all_images(6)
LOG_Q = quadrature(MODEL, V).numpy()
LOG_Q -= np.logaddexp.reduce(LOG_Q)


def target(full: bool) -> Target:
    """Return P over all pictures of 3×2 pixels, or over those with an even number of them white."""
    states = V.numpy().astype(np.uint8)
    states = states if full else states[states.sum(1) % 2 == 0]
    log_p = KEY.child("p").numpy().standard_normal(len(states))
    return Target(states, log_p - np.logaddexp.reduce(log_p), full)


def of(truth: Target) -> np.ndarray:
    places = {state.tobytes(): place for place, state in enumerate(V.numpy().astype(np.uint8))}
    return LOG_Q[[places[state.tobytes()] for state in truth.states]]


def off(estimate: Estimate, exact: float) -> float:
    return (estimate.value - exact) / estimate.stderr


def test_a_bounded_model_is_as_far_as_integrals_say() -> None:
    truth = target(True)
    found = known_truth.distances(MODEL, truth, KEY, {}, EFFORT)
    assert list(found) == ["kl", "kl.elbo", "reverse_kl"]  # what is for some images only has no place here
    p, q = np.exp(truth.log_p), np.exp(LOG_Q)
    forward, backward = p @ (truth.log_p - LOG_Q), q @ (LOG_Q - truth.log_p)
    assert found["kl"].kind == "upper"
    assert abs(off(found["kl"], forward)) < 4.0
    assert off(found["kl.elbo"], forward) > 10.0
    assert found["reverse_kl"].kind == "lower"
    assert abs(off(found["reverse_kl"], backward)) < 4.0
    assert abs(off(found["reverse_kl"], forward)) > 4.0  # the directions are told apart
    turned = truth._replace(log_p=truth.log_p[::-1].copy())
    assert abs(off(known_truth.distances(MODEL, turned, KEY, {}, EFFORT)["kl"], forward)) > 10.0


def test_what_falls_on_possible_pictures_is_counted() -> None:
    truth = target(False)
    found = known_truth.distances(MODEL, truth, KEY, {}, EFFORT)
    share = np.exp(of(truth)).sum()
    assert found["mass_on_support"].unit == "probability"
    assert abs(off(found["mass_on_support"], share)) < 4.0
    assert abs(off(found["mass_on_support"], 1.0 - share)) > 4.0
    assert "reverse_kl" not in found  # it is infinite


def test_of_many_states_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = target(True)
    exact = np.exp(truth.log_p) @ (truth.log_p - LOG_Q)
    monkeypatch.setattr(known_truth, "MOST_STATES", 40)
    found = known_truth.distances(MODEL, truth, KEY, {}, EFFORT)["kl"]
    assert found.n == 40
    assert "40 draws of P" in found.method
    assert found.stderr_images > found.stderr_estimator
    assert abs(off(found, exact)) < 4.0


def test_an_exact_model_is_summed() -> None:
    truth = bars_and_stripes(Request(size=(4, 4))).target
    found = known_truth.distances(Independent(16), truth, KEY, {}, EFFORT)
    assert found["kl"].value == pytest.approx(16 * np.log(2.0) - np.log(30))
    assert found["mass_on_support"].value == pytest.approx(30 / 2**16)
    assert {each.kind for each in found.values()} == {"exact"}


def test_a_log_z_that_is_not_determined_determines_no_distance() -> None:
    truth = bars_and_stripes(Request(size=(4, 4))).target
    found = known_truth.distances(RBM(16, 3), truth, KEY, {}, EFFORT)
    assert {(each.kind, each.n) for each in found.values()} == {("undetermined", 0)}
    assert all("log Z is not known" in each.reason for each in found.values())
    summed = likelihood.with_enumeration(RBM(16, 3), {})
    known = known_truth.distances(RBM(16, 3), truth, KEY, summed, EFFORT)
    assert known["kl"].value == pytest.approx(16 * np.log(2.0) - np.log(30))


def test_a_route_without_values_leaves_no_average_of_drawn_states(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, none = target(True), Route("", None, None, 0.0, "undetermined", "a way", "it has none")
    monkeypatch.setattr(likelihood, "routes", lambda *_: [none])
    for most in (40, 64):  # of 64: some are drawn, or all are summed
        monkeypatch.setattr(known_truth, "MOST_STATES", most)
        found = known_truth.distances(MODEL, truth, KEY, {}, EFFORT)["kl"]
        assert (found.kind, found.n, found.reason) == ("undetermined", 0, "it has none")


def test_an_estimated_log_z_drops_out_of_the_reverse_divergence() -> None:
    truth = target(True)
    model, generator = RBM(6, 3), KEY.child("weights").torch()
    with torch.no_grad():
        model.W.copy_(0.5 * torch.randn(6, 3, generator=generator))
    exact = likelihood.with_enumeration(model, {})
    moved = Estimate.from_dict(exact["enumeration"].to_dict() | {"value": exact["enumeration"].value + 0.3})
    right, wrong = (
        known_truth.distances(model, truth, KEY, {"enumeration": each}, EFFORT)
        for each in (exact["enumeration"], moved)
    )
    assert wrong["reverse_kl"].value == pytest.approx(right["reverse_kl"].value)
    assert wrong["kl"].value == pytest.approx(right["kl"].value + 0.3)
