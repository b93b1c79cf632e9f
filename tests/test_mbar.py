"""The multistate ratio solves its equations, and reaches exact log Z with an honest error."""

import math

import numpy as np
import pytest
from exact import Exact
from machines import BoltzmannMachine

from genmodels.estimators import mbar, stepping_stones
from genmodels.estimators.jackknife import LeftOut, standard_error
from genmodels.streams import Key

KEY = Key(37, "test")
EXACT = Exact(BoltzmannMachine(6))
BETAS = np.array([0.0, 0.15, 0.4, 0.9, 1.3])
LOG_Z = np.array([EXACT.log_z(beta) for beta in BETAS]) - EXACT.log_z(0.0)


def scores(energies: np.ndarray) -> np.ndarray:
    every, rest = mbar.mbar(BETAS, energies)
    assert every[0] == 0.0
    return (every - LOG_Z)[1:] / standard_error(rest)[1:]


def test_exact_draws_give_log_z_at_every_beta() -> None:
    energies = EXACT.energies(BETAS, 24, 400, KEY)
    assert np.abs(scores(energies)).max() < 3.5
    hot = EXACT.energies(0.9 * BETAS, 24, 400, KEY)
    for wrong in (-energies, hot):
        assert np.abs(scores(wrong)[1:]).min() > 7.0


def test_the_equations_are_solved() -> None:
    energies = EXACT.energies(BETAS, 6, 200, KEY)
    a = mbar.mbar(BETAS, energies).every
    log_p = -a - BETAS * energies.reshape(-1, 1)
    p = np.exp(log_p - np.logaddexp.reduce(log_p, axis=1)[:, None])
    np.testing.assert_allclose(p.sum(axis=0), 6 * 200, rtol=1e-10)


def test_two_rungs_are_bennetts_ratio() -> None:
    energies = EXACT.energies(BETAS[1:3], 8, 100, KEY)
    pair, bennett = mbar.mbar(BETAS[1:3], energies), stepping_stones.bennett(BETAS[1:3], energies)
    np.testing.assert_allclose(pair.every, bennett.every, rtol=1e-8)
    np.testing.assert_allclose(pair.rest, bennett.rest, rtol=1e-8)


def test_a_ladder_left_out_is_as_if_it_had_never_been() -> None:
    energies = EXACT.energies(BETAS, 12, 100, KEY)
    every, rest = mbar.mbar(BETAS, energies)
    without = np.stack([mbar.mbar(BETAS, np.delete(energies, i, axis=0)).every for i in range(12)])
    moved = np.abs(without - every).max()
    assert np.abs(rest - without).max() < moved**2
    assert moved > 1e-3


def test_a_start_far_off_leads_to_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    energies = EXACT.energies(BETAS, 6, 200, KEY)
    near = mbar.mbar(BETAS, energies).every
    for start in (np.zeros(5), LOG_Z + np.array([0.0, 3.0, -4.0, 6.0, -2.0])):
        nothing = LeftOut(start, start[None])
        monkeypatch.setattr(stepping_stones, "bennett", lambda *_, start=nothing: start)
        np.testing.assert_allclose(mbar.mbar(BETAS, energies).every, near, rtol=1e-8)


def test_neither_chunks_nor_repeated_energies_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    energies = EXACT.energies(BETAS, 4, 100, KEY)
    assert len(np.unique(energies)) < energies.size / 20
    whole = mbar.mbar(BETAS, energies)
    noise = 1e-12 * KEY.child("noise").numpy().normal(size=energies.shape)
    monkeypatch.setattr(mbar, "_CHUNK", 7)
    for cut in (mbar.mbar(BETAS, energies), mbar.mbar(BETAS, energies + noise)):
        np.testing.assert_allclose(cut.every, whole.every, atol=1e-10)
        np.testing.assert_allclose(cut.rest, whole.rest, atol=1e-10)


def test_energies_far_from_zero_and_wide_apart() -> None:
    energies = EXACT.energies(BETAS, 6, 200, KEY)
    moved = mbar.mbar(BETAS, energies + 1e6).every
    np.testing.assert_allclose(moved + 1e6 * BETAS, mbar.mbar(BETAS, energies).every, atol=1e-7)
    equal = mbar.mbar(BETAS, np.full((3, 8, 5), -2.0))
    np.testing.assert_allclose(equal.every, 2.0 * BETAS)
    np.testing.assert_allclose(standard_error(equal.rest), 0.0, atol=1e-12)
    normal = KEY.numpy().normal(size=(4, 50, 2))
    apart = mbar.mbar(np.array([0.0, 1.0]), normal - np.array([0.0, 1e5])).every
    assert math.isfinite(apart[1])
