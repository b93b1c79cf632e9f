"""Langevin, MALA and coupled Langevin against closed forms at finite steps and integrals on a grid."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from machines import Quadratic
from scipy.linalg import solve_discrete_lyapunov
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.kernels import mala
from genmodels.kernels.coupled_langevin import CoupledLangevin
from genmodels.kernels.langevin import Langevin
from genmodels.kernels.mala import MALA
from genmodels.paths import StandardNormal
from genmodels.streams import Key

KEY = Key(31, "continuous")
BETA, N = 1.4, 150_000
PRECISION, MEAN = Quadratic().precision.detach().numpy(), Quadratic().mean.detach().numpy()
EYE = np.eye(4)


def worst_z(x: Tensor, mean: np.ndarray, covariance: np.ndarray) -> float:
    """Return the largest z-score among means, second moments and their trace, whitened  # (replica, site)."""
    n, d = x.shape
    y = (x.double().numpy() - mean) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    second = y.T @ y / n - np.eye(d)
    scales = np.sqrt(n / (1.0 + np.eye(d)))
    parts = [y.mean(0) * math.sqrt(n), second * scales, second.trace() * math.sqrt(n / (2.0 * d))]
    return max(float(np.abs(part).max()) for part in parts)


def curvature(beta: float) -> np.ndarray:
    """Return the curvature of U_β on the path from N(0, I) to `Quadratic`."""
    return beta * PRECISION + (1.0 - beta) * EYE


def middle(beta: float) -> np.ndarray:
    return np.linalg.solve(curvature(beta), beta * PRECISION @ MEAN)


def settled(kernel: Any, beta: float = BETA, n: int = N, time: float = 2.2) -> Tensor:
    """Return replicas of `Quadratic` at β, which has no reference, after a start that is too wide."""
    wide = torch.randn(n, 4, generator=KEY.child("wide").torch()) + torch.tensor(MEAN, dtype=torch.float32)
    state = kernel.start(Quadratic(), wide)
    n_sweeps = math.ceil(time / (kernel.dt * kernel.n_steps))
    after, info = kernel.advance(Quadratic(), state, torch.full((n,), beta), n_sweeps, KEY)
    assert info.n_updates == n_sweeps * kernel.n_steps * n * 4
    return kernel.configuration(after)


def biased(precision: np.ndarray, dt: float) -> np.ndarray:
    """Return the covariance that Euler–Maruyama steps leave invariant: (1/λ)/(1 − λdt/2) along each axis."""
    return np.linalg.inv(precision @ (np.eye(len(precision)) - 0.5 * dt * precision))


@pytest.mark.parametrize("dt", [0.1, 0.05, 0.025])
def test_langevin_has_the_bias_of_its_step(dt: float) -> None:
    x = settled(Langevin(dt, 5))
    right = biased(BETA * PRECISION, dt)
    assert worst_z(x, MEAN, right) < 4.0
    # Without the step's bias, at a β off by 2 %, and with the reference's share of a path.
    assert worst_z(x, MEAN, np.linalg.inv(BETA * PRECISION)) > 8.0
    assert worst_z(settled(Langevin(dt, 5), 1.02 * BETA), MEAN, right) > 6.0
    assert worst_z(x, middle(BETA), biased(curvature(BETA), dt)) > 8.0


def test_the_bias_is_proportional_to_the_step() -> None:
    exact = np.linalg.inv(BETA * PRECISION)
    sizes = [np.trace(np.cov(settled(Langevin(dt, 5)).numpy().T) - exact) for dt in (0.2, 0.1, 0.05)]
    error = 2.0 * math.sqrt(2.0 * np.trace(exact @ exact) / N)
    for coarse, fine, dt in ((*sizes[:2], 0.2), (*sizes[1:], 0.1)):
        limit = [np.trace(biased(BETA * PRECISION, step) - exact) for step in (dt, dt / 2)]
        assert 2.0 < limit[0] / limit[1] < 3.5
        assert abs(coarse / fine - limit[0] / limit[1]) < 4.0 * error / fine * math.hypot(1.0, coarse / fine)


def test_noise_without_the_root_of_two_is_seen() -> None:
    # x − g dt + √dt ξ is a right step of dt/2 at 2β.
    wrong = settled(Langevin(0.05, 5), 2.0 * BETA)
    assert worst_z(wrong, MEAN, biased(BETA * PRECISION, 0.1)) > 100.0


def test_mala_has_no_bias() -> None:
    kernel, right = MALA(0.25, 5), np.linalg.inv(BETA * PRECISION)
    assert worst_z(settled(kernel, time=5.0), MEAN, right) < 4.0
    assert worst_z(settled(kernel, 1.02 * BETA, time=5.0), MEAN, right) > 8.0
    assert worst_z(settled(Langevin(kernel.dt, 5)), MEAN, right) > 100.0  # MALA without its correction


def test_mala_without_the_asymmetry_of_its_proposal_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mala, "log_proposal", lambda x, gradient, to, dt: torch.zeros(len(x)))
    assert worst_z(settled(MALA(0.25, 5)), MEAN, np.linalg.inv(BETA * PRECISION)) > 100.0


KERNELS = {"langevin": Langevin(0.1, 10), "mala": MALA(0.2, 10), "coupled": CoupledLangevin(0.04, 25, 1.5)}


@pytest.mark.parametrize("name", KERNELS)
def test_a_path_from_the_standard_normal_has_a_beta_for_each_replica(name: str) -> None:
    kernel, n = KERNELS[name], 80_000
    betas = (0.0, 0.6, 1.0, 1.4)
    model = StandardNormal(Quadratic())
    first = kernel.init(model, n, KEY.child("init"))
    assert worst_z(kernel.configuration(first), np.zeros(4), EYE) < 4.0
    # Pairs of different β: driven or not, each has the distribution of its own.
    beta = torch.tensor(betas).repeat(n // 4)
    after, info = kernel.advance(model, first, beta, 10, KEY)
    x = kernel.configuration(after)
    assert torch.allclose(after.energy, model.energy(x).detach())
    assert info.n_nonfinite == 0
    for r, b in enumerate(betas):
        if name == "coupled":
            pair = 2 * (r // 2)
            right = stationary_pair(*(curvature(betas[k]) for k in (pair, pair + 1)), kernel)
            covariance = right[:4, :4] if r % 2 == 0 else right[4:, 4:]
        else:
            covariance = biased(curvature(b), kernel.dt if name == "langevin" else 0.0)
        assert worst_z(x[r::4], middle(b), covariance) < 4.0
        assert worst_z(x[r::4], middle(1.05 * b + 0.05), covariance) > 6.0


def drift(first: np.ndarray, second: np.ndarray, gamma: float) -> np.ndarray:
    """Return A of d(x_1, x_2) = −A (x_1, x_2) dt + √2 dW for curvatures of the two."""
    return np.block([[first, gamma * second], [-gamma * first, second]])


def stationary_pair(first: np.ndarray, second: np.ndarray, kernel: CoupledLangevin) -> np.ndarray:
    """Return the covariance that the pair's steps leave invariant: C = (1 − A dt) C (1 − A dt)ᵀ + 2dt."""
    step = np.eye(8) - kernel.dt * drift(first, second, kernel.gamma)
    return solve_discrete_lyapunov(step, 2.0 * kernel.dt * np.eye(8))


@pytest.mark.parametrize(("dt", "gamma"), [(0.05, 1.5), (0.05, -0.8)])
def test_coupled_pairs_have_the_covariance_of_their_linear_recursion(dt: float, gamma: float) -> None:
    kernel = CoupledLangevin(dt, 5, gamma)
    pairs = settled(kernel, n=2 * N).reshape(N, 8)
    right = stationary_pair(BETA * PRECISION, BETA * PRECISION, kernel)
    means = np.concatenate([MEAN, MEAN])
    assert worst_z(pairs, means, right) < 4.0
    assert worst_z(pairs, means, np.kron(np.eye(2), np.linalg.inv(BETA * PRECISION))) > 8.0
    assert worst_z(settled(kernel, 1.02 * BETA, 2 * N).reshape(N, 8), means, right) > 8.0
    halved = CoupledLangevin(dt / 2, 5, gamma)  # at 2β: noise without its root of two
    assert worst_z(settled(halved, 2.0 * BETA, 20_000).reshape(-1, 8), means, right) > 50.0


def test_without_steps_the_drive_changes_no_distribution() -> None:
    first, second = curvature(0.6), curvature(1.4)
    product = np.block([[np.linalg.inv(first), 0 * EYE], [0 * EYE, np.linalg.inv(second)]])
    A = drift(first, second, 1.5)
    np.testing.assert_allclose(A @ product + product @ A.T, 2.0 * np.eye(8), atol=1e-12)
    symmetric = np.block([[first, 1.5 * second], [1.5 * first, second]])
    assert np.abs(symmetric @ product + product @ symmetric.T - 2.0 * np.eye(8)).max() > 1.0
    fine = stationary_pair(first, second, CoupledLangevin(1e-4, 1, 1.5))
    finer = stationary_pair(first, second, CoupledLangevin(5e-5, 1, 1.5))
    assert np.abs(fine - product).max() / np.abs(finer - product).max() == pytest.approx(2.0, rel=1e-2)


class Symmetric(CoupledLangevin):
    """A wrong pair, of which both pull the same way."""

    def _driven(self, gradient: Tensor) -> Tensor:
        partner = gradient.view(-1, 2, gradient.shape[1]).flip(1).reshape(gradient.shape)
        return gradient + self.gamma * partner


def test_a_symmetric_coupling_is_seen() -> None:
    right, wrong = CoupledLangevin(0.05, 5, 0.5), Symmetric(0.05, 5, 0.5)
    for kernel, seen in ((right, False), (wrong, True)):
        pairs = settled(kernel, n=40_000, time=10.0).reshape(-1, 8)
        covariance = stationary_pair(BETA * PRECISION, BETA * PRECISION, right)
        assert (worst_z(pairs, np.concatenate([MEAN, MEAN]), covariance) > 50.0) == seen


def autocovariance(kernel: Any, x: Tensor, n_sweeps: int) -> np.ndarray:
    """Return ⟨δx_i(t) δx_i(0)⟩ over the even replicas, from equilibrium on  # (sweep, site)."""
    model, beta = Quadratic(), torch.full((len(x),), BETA)
    state, rows = kernel.start(model, x), []
    origin = x[::2] - torch.tensor(MEAN, dtype=x.dtype)
    for t in range(n_sweeps):
        now = kernel.configuration(state)[::2] - torch.tensor(MEAN, dtype=x.dtype)
        rows.append((now * origin).double().mean(0).numpy())
        state, _ = kernel.advance(model, state, beta, 1, KEY.at(round=t))
    return np.stack(rows)


def test_driven_pairs_forget_faster() -> None:
    n, n_sweeps, dt, gamma = 80_000, 60, 0.02, 2.0
    plain, driven = Langevin(dt, 2), CoupledLangevin(dt, 2, gamma)
    A = drift(BETA * PRECISION, BETA * PRECISION, gamma)
    axes = np.linalg.eigvalsh(BETA * PRECISION)
    spectrum = np.sort_complex(np.concatenate([axes * (1 + 1j * gamma), axes * (1 - 1j * gamma)]))
    np.testing.assert_allclose(np.sort_complex(np.linalg.eigvals(A)), spectrum, atol=1e-10)
    times = {}
    for name, kernel, slow, C in (
        ("plain", plain, BETA * PRECISION, biased(BETA * PRECISION, dt)),
        ("driven", driven, A, stationary_pair(BETA * PRECISION, BETA * PRECISION, driven)),
    ):
        generator = KEY.child(name).torch()
        noise = torch.randn(2 * n // len(C) * 4, len(C), generator=generator) @ torch.tensor(
            np.linalg.cholesky(C).T, dtype=torch.float32
        )
        x = noise.reshape(-1, 4) + torch.tensor(MEAN, dtype=torch.float32)
        step = np.linalg.matrix_power(np.eye(len(C)) - dt * slow, kernel.n_steps)
        exact = np.stack([np.diag(np.linalg.matrix_power(step, t) @ C)[:4] for t in range(n_sweeps)])
        measured = autocovariance(kernel, x, n_sweeps)
        error = np.sqrt((exact[0] ** 2 + exact**2) / (len(x) // 2))
        assert np.abs((measured - exact) / error).max() < 4.5
        # Integrated times, in units of 1: the sum over all t is a resolvent.
        tau = np.diag(np.linalg.inv(slow) @ C)[:4] / np.diag(C)[:4]
        times[name] = (tau, kernel.dt * kernel.n_steps * measured.sum(0) / measured[0])
    exact_ratio, measured_ratio = (times["driven"][k] / times["plain"][k] for k in (0, 1))
    np.testing.assert_allclose(exact_ratio, 1.0 / (1.0 + gamma**2), rtol=0.15)
    assert (measured_ratio < 0.35).all()


def test_the_last_of_an_odd_number_goes_alone() -> None:
    x = torch.randn(5, 4, generator=KEY.torch())
    beta, model = torch.full((5,), BETA), Quadratic()
    alone, _ = Langevin(0.02, 3).advance(model, Langevin().start(model, x), beta, 4, KEY)
    kernel = CoupledLangevin(0.02, 3, 1.5)
    driven, _ = kernel.advance(model, kernel.start(model, x), beta, 4, KEY)
    off = CoupledLangevin(0.02, 3, 0.0)
    undriven, _ = off.advance(model, off.start(model, x), beta, 4, KEY)
    assert torch.equal(driven.x[4], alone.x[4])
    assert not torch.isclose(driven.x[:4], alone.x[:4]).any()
    assert torch.equal(undriven.x, alone.x)


@pytest.mark.parametrize("name", KERNELS)
def test_a_schedule_gives_each_sweep_its_beta(name: str) -> None:
    kernel, n, model = KERNELS[name], 15_000, StandardNormal(Quadratic())
    state = kernel.init(model, n, KEY.child("init"))
    rising = torch.tensor([0.0] * 8 + [1.3] * 8)[:, None].expand(16, n)
    there, _ = kernel.advance(model, state, rising, 16, KEY)
    back, _ = kernel.advance(model, there, rising.flip(0), 16, KEY.at(round=1))
    assert worst_z(back.x, np.zeros(4), np.cov(back.x.numpy().T)) < 4.0
    assert worst_z(there.x, middle(1.3), np.cov(there.x.numpy().T)) < 4.0
    wrong, _ = kernel.advance(model, state, rising.flip(0), 16, KEY)
    assert worst_z(wrong.x, middle(1.3), np.cov(wrong.x.numpy().T)) > 30.0


class DoubleWell(nn.Module):
    """E(x) = Σ_i (x_i² − 1)² + 0.4 Σ_i x_i (+ 0.7 x_0 x_1): two unequal wells, or four in two dimensions."""

    def __init__(self, n_sites: int) -> None:
        super().__init__()
        self.n_sites = n_sites

    def energy(self, x: Tensor) -> Tensor:
        wells = ((x.square() - 1.0) ** 2 + 0.4 * x).sum(1)
        return wells + (0.7 * x[:, 0] * x[:, 1] if self.n_sites == 2 else 0.0)


GRID = torch.linspace(-3.0, 3.0, 601, dtype=torch.float64)
CELL = float(GRID[1] - GRID[0])
EDGES = np.linspace(-1.8, 1.8, 25)


def density(beta: float, n_sites: int = 1) -> np.ndarray:
    """Return P_β on the grid, of site 0: the others summed out."""
    sides = torch.cartesian_prod(*([GRID] * n_sites)).view(-1, n_sites)
    p = torch.softmax(-beta * DoubleWell(n_sites).energy(sides), 0)
    return p.view(len(GRID), -1).sum(1).numpy()


def drawn(beta: float, n_sites: int, n: int) -> Tensor:
    """Return independent draws of P_β."""
    sides = torch.cartesian_prod(*([GRID] * n_sites)).view(-1, n_sites)
    p = torch.softmax(-beta * DoubleWell(n_sites).energy(sides), 0)
    return sides[torch.multinomial(p, n, replacement=True, generator=KEY.child("drawn").torch())].float()


def steps(beta: float, dt: float) -> np.ndarray:
    """Return q[x', x] of a Langevin step in one dimension on the grid."""
    x = GRID.numpy()
    gradient = beta * (4.0 * x * (x**2 - 1.0) + 0.4)
    q = np.exp(-((x[:, None] - x + dt * gradient) ** 2) / (4.0 * dt))
    return q / q.sum(0)


def chi_square_z(x: Tensor, p: np.ndarray) -> float:
    """Return the z-score of Pearson's χ² of site 0 in 24 bins and two tails."""
    edges = np.concatenate([[-np.inf], EDGES, [np.inf]])
    spread = np.interp(EDGES, GRID.numpy() + CELL / 2, np.cumsum(p))
    expected = np.diff(np.concatenate([[0.0], spread, [1.0]])) * len(x)
    counts, _ = np.histogram(x[:, 0].double().numpy(), np.where(np.isinf(edges), np.sign(edges) * 1e6, edges))
    return float((((counts - expected) ** 2 / expected).sum() - 25.0) / math.sqrt(50.0))


def in_the_well(kernel: Any, n_sites: int, beta: float, n: int, n_sweeps: int) -> tuple[Tensor, float]:
    model = DoubleWell(n_sites)
    x = 2.4 * torch.rand(n, n_sites, generator=KEY.child("well").torch()) - 1.2
    after, info = kernel.advance(model, kernel.start(model, x), torch.full((n,), beta), n_sweeps, KEY)
    return kernel.configuration(after), info.acceptance


def test_a_double_well_is_sampled_by_langevin_with_the_bias_of_its_step() -> None:
    beta, dt = 1.3, 0.04
    q = np.linalg.matrix_power(steps(beta, dt), 2**14)
    invariant = q[:, 300]
    x, _ = in_the_well(Langevin(dt, 10), 1, beta, 60_000, 30)
    assert abs(chi_square_z(x, invariant)) < 4.0
    assert chi_square_z(x, density(beta)) > 8.0
    x, _ = in_the_well(Langevin(dt, 10), 1, 1.1 * beta, 60_000, 30)
    assert chi_square_z(x, invariant) > 8.0


@pytest.mark.parametrize("n_sites", [1, 2])
def test_a_double_well_is_sampled_by_mala_without_bias(n_sites: int) -> None:
    beta, kernel = 1.3, MALA(0.12, 10)
    x, _ = in_the_well(kernel, n_sites, beta, 60_000, 30)
    assert abs(chi_square_z(x, density(beta, n_sites))) < 4.0
    assert chi_square_z(x, density(1.1 * beta, n_sites)) > 8.0


@pytest.mark.parametrize("n_sites", [1, 2])
def test_coupled_pairs_stay_in_a_double_well_and_independent_of_each_other(n_sites: int) -> None:
    betas, n, model = (0.8, 1.3), 20_000, DoubleWell(n_sites)
    x = torch.stack([drawn(beta, n_sites, n) for beta in betas], 1)
    x[:, 0] = x[torch.randperm(n, generator=KEY.child("order").torch()), 0]
    beta = torch.tensor(betas).repeat(n)
    # In steps so short that their bias, of about (1 + γ²)λdt/2, is beyond the resolution.
    right, wrong = CoupledLangevin(0.0005, 50, 1.0), Symmetric(0.0005, 50, 1.0)
    for kernel, seen in ((right, False), (wrong, True)):
        state = kernel.start(model, x.flatten(0, 1))
        after, _ = kernel.advance(model, state, beta, 24, KEY)
        pairs = after.x.view(n, 2, n_sites)
        z = [abs(chi_square_z(pairs[:, k], density(b, n_sites))) for k, b in enumerate(betas)]
        correlation = np.corrcoef(pairs[:, 0, 0].numpy(), pairs[:, 1, 0].numpy())[0, 1] * math.sqrt(n)
        assert (max(*z, abs(correlation)) > 20.0) if seen else (max(*z, abs(correlation)) < 4.0)
    assert chi_square_z(pairs[:, 1], density(1.1 * betas[1], n_sites)) > 8.0


def test_the_acceptance_is_the_integral_over_proposals() -> None:
    beta, dt, n = 1.3, 0.15, 60_000
    p, q = density(beta), steps(beta, dt)
    flow = q * p
    exact = float(np.minimum(flow, flow.T).sum())
    kernel, model = MALA(dt, 1), DoubleWell(1)
    state = kernel.start(model, drawn(beta, 1, n))
    _, info = kernel.advance(model, state, torch.full((n,), beta), 1, KEY)
    assert 0.5 < exact < 0.95
    assert abs(info.acceptance - exact) < 4.0 * 0.5 / math.sqrt(n)
    _, wrong = kernel.advance(model, state, torch.full((n,), 1.1 * beta), 1, KEY)
    assert abs(wrong.acceptance - exact) > 4.0 * 0.5 / math.sqrt(n)


def test_what_leads_nowhere_is_said_in_one_line() -> None:
    for kernel in (Langevin, MALA, CoupledLangevin):
        for settings in ({"dt": 0.0}, {"dt": math.nan}, {"dt": -0.1}, {"n_steps": 0}):
            with pytest.raises(InputError, match="give dt > 0"):
                kernel(**settings)
        with pytest.raises(InputError, match="DoubleWell: no reference .*StandardNormal"):
            kernel().init(DoubleWell(2), 3, KEY)
    with pytest.raises(InputError, match="finite gamma"):
        CoupledLangevin(gamma=math.inf)


def test_energies_that_are_not_finite_are_counted() -> None:
    model, beta = DoubleWell(2), torch.ones(6)
    x = torch.full((6, 2), 10.0)
    for kernel in (Langevin(0.5), CoupledLangevin(0.5)):
        _, info = kernel.advance(model, kernel.start(model, x), beta, 5, KEY)
        assert info.n_nonfinite == 6
    x[0, 0] = math.nan
    kernel = MALA(0.5, 4)
    after, info = kernel.advance(model, kernel.start(model, x), beta, 1, KEY)
    assert info.n_nonfinite == 5  # four proposals from nowhere, and where it is
    assert info.acceptance < 0.1
    assert after.energy[1:].isfinite().all()


def test_what_is_declared() -> None:
    kernels = (Langevin(), MALA(), CoupledLangevin())
    assert [kernel.detailed_balance for kernel in kernels] == [False, True, False]
