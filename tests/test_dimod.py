"""The dimod sampler: dimod's own checks, exact Boltzmann statistics, and the same reads for the same seed."""

import unittest
from typing import Any

import numpy as np
import pytest

dimod = pytest.importorskip("dimod")

from genmodels.dimod_sampler import GenmodelsSampler  # noqa: E402 — without dimod it cannot be imported


@dimod.testing.load_sampler_bqm_tests(GenmodelsSampler)
class TestModels(unittest.TestCase):
    """Every kind of model that dimod knows: empty, one variable, paths, odd labels, either type."""


def lopsided(vartype: str = "SPIN") -> Any:
    linear = {"a": 0.4, ("b", 1): -0.7, 3: 0.2, "d": 0.9}
    quadratic = {("a", ("b", 1)): 0.8, (("b", 1), 3): -1.1, (3, "d"): 0.6, ("a", "d"): 0.5}
    return dimod.BinaryQuadraticModel(linear, quadratic, 0.25, vartype)


def test_dimods_check_of_the_interface() -> None:
    dimod.testing.assert_sampler_api(GenmodelsSampler())


@pytest.mark.parametrize("method", ["annealing", "exchange"])
@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
def test_the_ground_state_is_found(vartype: str, method: str) -> None:
    bqm = lopsided(vartype)
    exact = dimod.ExactSolver().sample(bqm).first
    reads = GenmodelsSampler().sample(bqm, num_reads=8, seed=3, method=method)
    assert reads.vartype is bqm.vartype
    assert reads.first.sample == exact.sample
    assert reads.first.energy == pytest.approx(exact.energy)
    dimod.testing.assert_sampleset_energies(reads, bqm)


def z_scores(bqm: Any, beta: float, reads: Any) -> np.ndarray:
    """Return how far each variable's and the energy's mean is from the exact one, in standard errors."""
    every = dimod.ExactSolver().sample(bqm)
    weight = np.exp(-beta * every.record.energy)
    weight /= weight.sum()
    columns = [every.variables.index(v) for v in reads.variables]
    expected = np.column_stack([every.record.sample[:, columns], every.record.energy])
    seen = np.column_stack([reads.record.sample, reads.record.energy])
    mean = weight @ expected
    variance = weight @ expected**2 - mean**2
    return (seen.mean(0) - mean) / np.sqrt(variance / len(seen))


@pytest.mark.parametrize("method", ["annealing", "exchange"])
@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
def test_reads_have_the_distribution_of_the_last_beta(vartype: str, method: str) -> None:
    bqm, beta = lopsided(vartype), 0.7
    reads = GenmodelsSampler().sample(
        bqm, num_reads=4000, num_sweeps=60, beta_range=(0.1, beta), seed=5, method=method
    )
    assert np.abs(z_scores(bqm, beta, reads)).max() < 4.0
    # The same reads are not those of another β, nor of the opposite energy.
    assert np.abs(z_scores(bqm, 1.25 * beta, reads)).max() > 4.0
    assert np.abs(z_scores(bqm, -beta, reads)).max() > 4.0


@pytest.mark.parametrize("method", ["annealing", "exchange"])
def test_the_same_seed_gives_the_same_reads(method: str) -> None:
    def reads(seed: int | None) -> list[list[int]]:
        found = GenmodelsSampler().sample(lopsided(), num_reads=20, num_sweeps=5, beta_range=(0.1, 0.3),
                                          seed=seed, method=method)  # fmt: skip
        return found.record.sample.tolist()

    assert reads(7) == reads(7)
    assert reads(7) != reads(8)
    assert reads(None) != reads(None)


def test_the_first_reads_do_not_depend_on_how_many_there_are() -> None:
    bqm = lopsided()
    few, many = (
        GenmodelsSampler().sample(bqm, num_reads=n, num_sweeps=5, beta_range=(0.1, 0.3), seed=7).record.sample
        for n in (256, 600)
    )
    np.testing.assert_array_equal(few, many[:256])


def test_reads_start_where_they_are_told_to() -> None:
    # So cold from the start that nothing moves uphill: a local minimum stays where it is.
    bqm = dimod.BinaryQuadraticModel({"b": 0.1}, {("a", "b"): -1, ("b", "c"): -1}, 0.0, "SPIN")
    for value in (1, -1):
        start = {variable: value for variable in "abc"}
        reads = GenmodelsSampler().sample(
            bqm, initial_states=[start] * 3, beta_range=(50.0, 60.0), num_sweeps=5, seed=1
        )
        assert len(reads) == 3
        assert (reads.record.sample == value).all()
    binary = bqm.change_vartype("BINARY", inplace=False)
    reads = GenmodelsSampler().sample(
        binary, initial_states={v: 0 for v in "abc"}, num_reads=4, initial_states_generator="tile",
        beta_range=(50.0, 60.0), num_sweeps=5, seed=1,
    )  # fmt: skip
    assert len(reads) == 4
    assert (reads.record.sample == 0).all()


def test_a_model_that_is_flat() -> None:
    bqm = dimod.BinaryQuadraticModel({"a": 0.0, "b": 0.0}, {}, 2.5, "SPIN")
    reads = GenmodelsSampler().sample(bqm, num_reads=400, num_sweeps=3, seed=2)
    assert (reads.record.energy == 2.5).all()
    assert abs(reads.record.sample.mean()) < 4 / np.sqrt(800)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_reads": 0}, "num_reads"),
        ({"num_sweeps": 0}, "num_sweeps"),
        ({"beta_range": (0.0, 1.0)}, "beta_range"),
        ({"beta_range": (0.1, float("nan"))}, "beta_range"),
        ({"method": "magic"}, "magic"),
        ({"beta_schedule_type": "custom"}, "custom"),
        ({"method": "exchange", "initial_states": {"a": 1}}, "initial_states"),
        ({"initial_states": {"a": 1}}, "mismatch"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GenmodelsSampler().sample(lopsided(), **arguments)


def test_arguments_of_other_samplers_are_ignored_with_a_warning() -> None:
    with pytest.warns(dimod.exceptions.SamplerUnknownArgWarning):
        GenmodelsSampler().sample(lopsided(), num_sweeps=5, chain_strength=2.0)
