"""Deep Boltzmann machine: layers summed, mean field and its bound, gradients, greedy pretraining."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from genmodels.couplings import Bipartite
from genmodels.errors import InputError
from genmodels.estimate import of_scalar
from genmodels.estimators import enumeration, likelihood, posterior
from genmodels.kernels.block_gibbs import BlockGibbs
from genmodels.learners import greedy
from genmodels.learners.doubled_rbm import DoubledRBM
from genmodels.models.dbm import DBM
from genmodels.models.rbm import RBM
from genmodels.streams import Key

KEY = Key(81, "dbm")
SIZES = [(3, (2, 3)), (2, (3, 1, 2))]  # two and three hidden layers
BETAS = [0.0, 0.6, 1.7]


def asymmetric(n_visible: int = 3, hidden: tuple[int, ...] = (2, 3), scale: float = 0.6) -> DBM:
    """Return a machine in float64 whose weights and biases are all different."""
    model = DBM(n_visible, hidden).double()
    generator = KEY.child(f"{n_visible} {hidden}").torch()
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(scale * drawn + 0.15)
    return model.requires_grad_(False)


def every(n_sites: int) -> Tensor:
    return torch.cat(list(enumeration.states(n_sites)))


def by_layer(model: DBM, x: Tensor) -> list[Tensor]:
    return [x[:, sites] for sites in model.layers]


def brute_energy(model: DBM, x: Tensor) -> Tensor:
    layers, energy = by_layer(model, x), torch.zeros(len(x), dtype=torch.float64)
    for k, layer in enumerate(layers):
        for i in range(layer.shape[1]):
            energy -= model.b[k][i] * layer[:, i]
            for j in range(layers[k + 1].shape[1] if k + 1 < len(layers) else 0):
                energy -= model.W[k][i, j] * layer[:, i] * layers[k + 1][:, j]
    return energy


def log_unnormalised(model: DBM, x: Tensor) -> Tensor:
    """Return log Σ_z exp(−E(x, z)) state by state  # (image, visible) -> (image,)."""
    hidden = every(model.n_sites - model.n_visible)
    return torch.stack(
        [(-model.energy(torch.cat([image.expand(len(hidden), -1), hidden], 1))).logsumexp(0) for image in x]
    )


@pytest.mark.parametrize(("n_visible", "hidden"), SIZES)
def test_energy_is_the_sum_over_neighbouring_layers(n_visible: int, hidden: tuple[int, ...]) -> None:
    model = asymmetric(n_visible, hidden)
    x = every(model.n_sites)
    assert torch.allclose(model.energy(x), brute_energy(model, x), atol=1e-12)
    assert not torch.allclose(model.energy(-x), brute_energy(model, x), atol=0.1)
    assert torch.allclose(torch.from_numpy(model.couplings().energy(x.numpy())), model.energy(x), atol=1e-12)


def bipartite_energy(machine: Bipartite, x: Tensor) -> Tensor:
    side = x.split(tuple(machine.W.shape), 1)
    return -((side[0] @ machine.W) * side[1]).sum(1) - x @ machine.h


@pytest.mark.parametrize(("n_visible", "hidden"), SIZES)
def test_even_and_odd_layers_are_two_sides(n_visible: int, hidden: tuple[int, ...]) -> None:
    model = asymmetric(n_visible, hidden)
    x, machine = every(model.n_sites), model.bipartite()
    assert torch.allclose(bipartite_energy(machine, x), model.energy(x), atol=1e-12)
    assert not torch.allclose(bipartite_energy(machine._replace(W=-machine.W), x), model.energy(x), atol=0.1)
    assert not machine.base.any()


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("n_visible", "hidden"), SIZES)
def test_a_block_is_independent_given_the_other(n_visible: int, hidden: tuple[int, ...], beta: float) -> None:
    model = asymmetric(n_visible, hidden)
    x = every(model.n_sites)
    for block in (0, 1):
        p = model.conditional(block, x, torch.full((len(x),), beta, dtype=torch.float64))
        for place, site in enumerate(range(*model.blocks[block].indices(model.n_sites))):
            up, down = x.clone(), x.clone()
            up[:, site], down[:, site] = 1.0, -1.0
            expected = torch.sigmoid(beta * (model.energy(down) - model.energy(up)))
            assert torch.allclose(p[:, place], expected, atol=1e-12)
            if beta > 0.0:  # units 0/1 in place of ±1 lose the factor 2
                assert not torch.allclose(p[:, place].logit() / 2.0, expected.logit(), atol=1e-3)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("n_visible", "hidden"), SIZES)
def test_log_z_over_one_parity_is_that_over_all_states(
    n_visible: int, hidden: tuple[int, ...], beta: float
) -> None:
    model = asymmetric(n_visible, hidden)
    brute = float((-beta * brute_energy(model, every(model.n_sites))).logsumexp(0))
    assert enumeration.log_z(model, beta).value == pytest.approx(brute, abs=1e-10)
    for block in (0, 1):
        side = every(model.blocks[block].stop - model.blocks[block].start)
        assert float(model.log_marginal(block, side, beta).logsumexp(0)) == pytest.approx(brute, abs=1e-10)
        if beta == 0.6:
            assert float(0.6 * model.log_marginal(block, side).logsumexp(0)) != pytest.approx(brute, abs=0.1)


def test_block_gibbs_draws_all_layers() -> None:
    model, n, beta = asymmetric(2, (2, 1)).float(), 40_000, 0.7
    kernel = BlockGibbs()
    state = kernel.init(model, n, KEY.child("chains"))
    state, _ = kernel.advance(model, state, torch.full((n,), beta), 30, KEY.child("sweeps"))
    x, states = kernel.configuration(state), every(5)
    counts = (
        (x.double() @ torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0]).double() / 2 + 15.5)
        .long()
        .bincount(minlength=32)
    )

    def chi_square(at: float) -> float:
        """Return (χ² − degrees of freedom) / √(2 · degrees of freedom)."""
        p = (-at * asymmetric(2, (2, 1)).energy(states)).softmax(0)
        return float((((counts - n * p).square() / (n * p)).sum() - 31) / math.sqrt(62))

    assert abs(chi_square(beta)) < 4.0
    assert chi_square(2.0 * beta) > 20.0


def bound_of(model: DBM, means: list[Tensor]) -> Tensor:
    """Return −⟨E⟩ + entropy of a factorised distribution with these means, term by term  # (image,)."""
    total = torch.zeros(len(means[0]), dtype=torch.float64)
    for k, (below, above) in enumerate(itertools.pairwise(means)):
        total += ((below @ model.W[k]) * above).sum(1)
    for k, mean in enumerate(means):
        total += mean @ model.b[k]
        p = (1.0 + mean) / 2.0
        total += (torch.special.entr(p) + torch.special.entr(1.0 - p)).sum(1)
    return total


@pytest.mark.parametrize(("n_visible", "hidden"), SIZES)
def test_the_bound_is_at_a_stationary_point_below_the_truth(n_visible: int, hidden: tuple[int, ...]) -> None:
    model, x = asymmetric(n_visible, hidden), every(n_visible)
    means = model.mean_field(x, tolerance=1e-12, max_rounds=5000)
    bound, truth = model.log_unnormalised_bound(x), log_unnormalised(model, x)
    assert torch.allclose(bound, bound_of(model, means), atol=1e-6)
    assert bool((bound < truth).all())
    assert float((truth - bound).max()) < 1.0
    free = [mean.clone().requires_grad_() for mean in means[1:]]
    slopes = torch.autograd.grad(bound_of(model, [means[0], *free]).sum(), free)
    assert all(float(slope.abs().max()) < 1e-8 for slope in slopes)
    # A mean field that forgets what comes from above is elsewhere, and lower.
    forgetful = [means[0], torch.tanh(x @ model.W[0] + model.b[1]), *means[2:]]
    assert bool((bound_of(model, forgetful) < bound - 1e-4).any())


@pytest.mark.parametrize(("n_visible", "hidden"), SIZES)
def test_every_round_of_mean_field_raises_the_bound(n_visible: int, hidden: tuple[int, ...]) -> None:
    model, x = asymmetric(n_visible, hidden, scale=2.0), every(n_visible)
    bounds = [bound_of(model, model.mean_field(x, 0.0, rounds)) for rounds in range(1, 12)]
    for before, after in itertools.pairwise(bounds):
        assert bool((after >= before - 1e-12).all())
    assert bool((bounds[-1] > bounds[0] + 1e-3).any())


def test_mean_field_is_exact_where_the_upper_layers_are_cut_off() -> None:
    model = asymmetric(3, (2, 3))
    with torch.no_grad():
        model.W[1].zero_()
    x = every(3)
    assert torch.allclose(model.log_unnormalised_bound(x), log_unnormalised(model, x), atol=1e-10)
    rbm = RBM(3, 2).double()
    with torch.no_grad():
        for own, from_dbm in zip((rbm.W, rbm.b, rbm.c), (model.W[0], model.b[0], model.b[1]), strict=True):
            own.copy_(from_dbm)
        top = float((2.0 * torch.cosh(model.b[2])).log().sum())
        assert torch.allclose(log_unnormalised(model, x), rbm.log_unnormalised(x) + top, atol=1e-10)


def test_statistics_are_the_gradient_of_the_bound() -> None:
    model, x = asymmetric(), every(3)[[0, 3, 3, 6]]
    model.rounds = 3  # of any means, converged or not
    means = model.mean_field(x, max_rounds=3)
    model.requires_grad_(True)
    log_z = model.log_marginal(0, every(model.blocks[0].stop)).logsumexp(0)
    slopes = torch.autograd.grad(bound_of(model, means).mean() - log_z, list(model.parameters()))
    model.requires_grad_(False)
    states = every(model.n_sites)
    data, fantasy = model.statistics(x), model.joint_statistics(states, (-model.energy(states)).softmax(0))
    for (name, _), slope in zip(model.named_parameters(), slopes, strict=True):
        assert torch.allclose(data[name] - fantasy[name], slope, atol=1e-10)
        assert not torch.allclose(fantasy[name] - data[name], slope, atol=1e-3)
    counted = model.joint_statistics(states[[3, 9, 9]])
    weighted = model.joint_statistics(states[[3, 9]], torch.tensor([1.0, 2.0], dtype=torch.float64) / 3.0)
    assert all(torch.allclose(counted[name], weighted[name], atol=1e-14) for name in counted)


@pytest.mark.parametrize(("n_visible", "hidden"), SIZES)
def test_a_contrast_averages_the_odd_layers_out(n_visible: int, hidden: tuple[int, ...]) -> None:
    model = asymmetric(n_visible, hidden)
    x, n_even = every(n_visible)[[0, 1, 1, 3]], model.blocks[0].stop
    even, odd = every(n_even)[[1, 2, 2, 6]], every(model.n_sites - n_even)
    joint = torch.cat([torch.cat([one.expand(len(odd), -1), odd], 1) for one in even])
    given = (-model.energy(joint)).view(len(even), len(odd)).softmax(1).flatten() / len(even)
    data, fantasy = model.statistics(x), model.joint_statistics(joint, given)
    drawn = torch.cat([even, odd[[0, 1, 1, 2]]], 1)  # its odd layers do not matter
    difference, means = model.contrast(x, drawn)
    for name in data:
        assert torch.allclose(difference[name], data[name] - fantasy[name], atol=1e-12)
        assert name[0] == "b" or not torch.allclose(difference[name], fantasy[name] - data[name], atol=1e-3)
        assert name[0] == "W" or torch.allclose(means[name], data[name], atol=1e-12)
    plain = model.joint_statistics(drawn)
    assert not torch.allclose(difference["W.0"], data["W.0"] - plain["W.0"], atol=1e-3)
    coarse, _ = model.float().contrast(x.float(), drawn.bfloat16())
    assert all(torch.allclose(coarse[name].double(), difference[name], atol=0.03) for name in difference)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_centred_ascent_is_the_gradient_in_centred_parameters(decay: float) -> None:
    model = asymmetric(3, (2, 3))
    states, x = every(model.n_sites), every(3)[[0, 3, 3, 6]]
    means = model.mean_field(x)
    generator = KEY.child("centres").torch()
    mu = [torch.rand(n, generator=generator, dtype=torch.float64) - 0.3 for n in (3, 2, 3)]
    W = [w.clone().requires_grad_() for w in model.W]
    offset = [torch.zeros_like(b).requires_grad_() for b in model.b]

    def energy(layers: list[Tensor]) -> Tensor:
        # Only differences matter: offsets of the centred biases, at which the plain energy is the model's.
        total = -sum(
            ((a - m) @ w * (b - n)).sum(1)
            for a, b, w, m, n in zip(layers, layers[1:], W, mu, mu[1:], strict=False)
        )
        for k, layer in enumerate(layers):
            above = (model.W[k] @ mu[k + 1]) if k < 2 else 0.0
            below = (mu[k - 1] @ model.W[k - 1]) if k > 0 else 0.0
            total = total - layer @ (model.b[k] + above + below + offset[k])
        return total

    objective = -energy(means).mean() - (-energy(by_layer(model, states))).logsumexp(0)
    objective = objective - 0.5 * decay * sum(w.square().sum() for w in W)
    slopes = torch.autograd.grad(objective, [*W, *offset])
    model.rounds = 200
    data, fantasy = model.statistics(x), model.joint_statistics(states, (-model.energy(states)).softmax(0))
    difference = {name: data[name] - fantasy[name] for name in data}
    penalty = {name: decay * p for name, p in model.named_parameters() if name in model.weight_names}
    found = model.centred(difference, penalty, {f"b.{k}": m for k, m in enumerate(mu)})
    for k in range(2):
        assert torch.allclose(found[f"W.{k}"], slopes[k], atol=1e-6)
        assert decay == 0.0 or not torch.allclose(found[f"W.{k}"], difference[f"W.{k}"], atol=1e-3)
    for k in range(3):
        db = slopes[2 + k]
        db = db - (slopes[k] @ mu[k + 1] if k < 2 else 0.0) - (mu[k - 1] @ slopes[k - 1] if k > 0 else 0.0)
        assert torch.allclose(found[f"b.{k}"], db, atol=1e-6)


def doubled(copies: tuple[int, int]) -> DoubledRBM:
    model = DoubledRBM(3, 2, copies).double()
    generator = KEY.child("doubled").torch()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator) + 0.2)
    return model.requires_grad_(False)


@pytest.mark.parametrize("copies", [(2, 1), (1, 2), (1, 1)])
def test_a_doubled_machine_is_an_rbm_with_repeated_weights(copies: tuple[int, int]) -> None:
    model = doubled(copies)
    rbm = RBM(3 * copies[0], 2 * copies[1]).double().requires_grad_(False)
    rbm.W.copy_(model.W.repeat(*copies))
    rbm.b.copy_(model.b.repeat(copies[0]))
    rbm.c.copy_(model.c.repeat(copies[1]))
    x = every(model.n_sites)
    assert torch.allclose(model.energy(x), rbm.energy(x), atol=1e-12)
    assert torch.allclose(bipartite_energy(model.bipartite(), x), rbm.energy(x), atol=1e-12)
    beta = torch.full((len(x),), 0.7, dtype=torch.float64)
    for block in (0, 1):
        assert torch.allclose(model.conditional(block, x, beta), rbm.conditional(block, x, beta), atol=1e-12)
    p, images = (-model.energy(x)).softmax(0), every(3)[[1, 2, 2, 7]]
    model.requires_grad_(True)
    repeated = images.repeat(1, copies[0])
    fields = repeated @ model.W.repeat(*copies) + model.c.repeat(copies[1])
    unnormalised = repeated @ model.b.repeat(copies[0]) + torch.logaddexp(fields, -fields).sum(1)
    slopes = torch.autograd.grad(
        unnormalised.mean() - (-model.energy(x)).logsumexp(0), list(model.parameters())
    )
    model.requires_grad_(False)
    data, fantasy = model.statistics(images), model.joint_statistics(x, p)
    for (name, _), slope in zip(model.named_parameters(), slopes, strict=True):
        assert torch.allclose(data[name] - fantasy[name], slope, atol=1e-10)


def test_a_stack_gives_each_unit_half_of_its_evidence_from_either_machine() -> None:
    machines = [doubled((2, 1)), DoubledRBM(2, 4, (1, 1)).double(), DoubledRBM(4, 3, (1, 2)).double()]
    generator = KEY.child("stack").torch()
    with torch.no_grad():
        for machine in machines[1:]:
            for parameter in machine.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator) + 0.1)
    model = DBM(3, (2, 4, 3)).double().requires_grad_(False)
    blank = greedy.machines(model)
    assert [(*m.W.shape, m.copies) for m in blank] == [
        (3, 2, (2, 1)),
        (2, 4, (1, 1)),
        (4, 3, (1, 2)),
    ]
    greedy.stack(model, machines)
    x = every(model.n_sites)
    layers = by_layer(model, x)
    fields = [
        layers[1] @ machines[0].W.T + machines[0].b,
        (2.0 * layers[0] @ machines[0].W + machines[0].c + layers[2] @ machines[1].W.T + machines[1].b) / 2.0,
        (layers[1] @ machines[1].W + machines[1].c + 2.0 * layers[3] @ machines[2].W.T + machines[2].b) / 2.0,
        layers[2] @ machines[2].W + machines[2].c,
    ]
    assert torch.allclose(model.field(0, x[:, model.blocks[1]]), torch.cat(fields[0::2], 1), atol=1e-12)
    assert torch.allclose(model.field(1, x[:, model.blocks[0]]), torch.cat(fields[1::2], 1), atol=1e-12)


def test_the_first_guess_has_base_rates_and_keeps_what_is_trained() -> None:
    model, x = DBM(3, (2, 2)), torch.tensor([[1.0, -1.0, 1.0]] * 3 + [[1.0, 1.0, -1.0]])
    model.first_guess(x, KEY)
    assert torch.allclose(model.b[0].tanh(), x.sum(0) / 6.0, atol=1e-6)
    assert all(0.001 < float(W.detach().abs().max()) < 0.05 for W in model.W)
    kept = model.W[0].detach().clone()
    model.first_guess(-x, KEY.child("again"))
    assert torch.equal(model.W[0], kept)
    with pytest.raises(InputError, match="map binary pixels"):
        model.first_guess((x + 1.0) / 2.0, KEY)


def test_its_likelihood_is_a_bound_and_with_an_estimated_log_z_an_estimate_of_one() -> None:
    model = asymmetric()
    v = (every(3) + 1.0) / 2.0
    exact_log_z = enumeration.log_z(model).value
    assert exact_log_z is not None
    truth = (log_unnormalised(model, every(3)) - exact_log_z).numpy()
    assert sum(math.exp(value) for value in truth) == pytest.approx(1.0)
    route, annealed = likelihood.routes(model, v, KEY, likelihood.with_enumeration(model, {}))
    assert (route.kind, annealed.name, annealed.kind) == ("lower", "annealed", "estimate")
    assert annealed.values.mean() == pytest.approx(truth.mean(), abs=0.02)
    assert route.values.mean() < truth.mean() - 0.05
    assert route.values is not None
    assert (route.values < truth).all()
    assert (truth - route.values).max() < 1.0
    guessed = {
        name: of_scalar(exact_log_z + shift, stderr=0.1, kind="estimate", unit="nats", n=9, method=name)
        for name, shift in (("one", 0.05), ("other", -0.05))
    }
    first, *others, _ = likelihood.routes(model, v, KEY, guessed)
    assert [route.kind for route in (first, *others)] == ["estimate"] * 3
    assert first.method.startswith("mean-field bound, log Z: ")
    assert first.values == pytest.approx(route.values)
    (unknown,) = likelihood.routes(model, v, KEY, {})
    assert unknown.kind == "undetermined"


@pytest.mark.parametrize("hidden", [(), (4,), (4, 0)])
def test_fewer_than_two_layers_are_refused(hidden: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="two or more layers"):
        DBM(5, hidden)


def test_other_numbers_of_copies_are_refused() -> None:
    with pytest.raises(InputError, match="each 1 or 2"):
        DoubledRBM(3, 2, (3, 1))


def test_units_are_drawn_from_the_machine_given_images() -> None:
    machine, n = doubled((2, 1)), 20_000
    x = every(3)[[1, 6]]
    z = greedy.units(machine, x.repeat(n, 1), KEY.child("units")).view(n, 2, 2)
    assert set(z.unique().tolist()) == {-1.0, 1.0}
    joint = torch.cat([x, x, torch.zeros(2, 2)], 1)
    up = machine.conditional(1, joint, torch.ones(2, dtype=torch.float64))
    error = (up * (1.0 - up) / n).sqrt()
    assert float((((z > 0).double().mean(0) - up) / error).abs().max()) < 4.0
    once = torch.sigmoid(2.0 * (x @ machine.W + machine.c))  # images that count once are not the same
    assert float((((z > 0).double().mean(0) - once) / error).abs().max()) > 10.0


@pytest.mark.parametrize(("n_visible", "hidden"), SIZES)
def test_annealing_leads_from_the_bound_to_the_truth(n_visible: int, hidden: tuple[int, ...]) -> None:
    model = asymmetric(n_visible, hidden, scale=0.7).float()
    x, n = every(n_visible).float(), 4000
    exact = asymmetric(n_visible, hidden, scale=0.7)
    truth, bound = log_unnormalised(exact, x.double()), exact.log_unnormalised_bound(x.double())
    assert float((truth - bound).mean()) > 0.05
    found = posterior.anneal(model, x, n, 60, KEY.child("anneal"))
    error = (n / found.ess - 1.0).clamp(min=1e-3).sqrt() / math.sqrt(n)  # of the log of a mean of weights
    assert float(((found.log_unnormalised - truth) / error).abs().max()) < 4.0
    assert float(((found.log_unnormalised + 0.1 - truth) / error).abs().max()) > 4.0
    jump = posterior.Clamped(model, x.repeat_interleave(n, 0))
    z = jump.draw_reference(len(x) * n, KEY.child("jump").torch())
    at_once = (jump.log_z_reference - jump.energy(z)).view(len(x), n)  # its mean is the bound
    error = at_once.std(1) / math.sqrt(n) + 1e-4
    assert float(((at_once.mean(1) - bound) / error).abs().max()) < 4.0


def test_the_way_to_the_posterior_is_sampled_as_it_is_summed() -> None:
    model = asymmetric()
    hidden = every(5)
    for image in every(3)[[2, 5]]:
        one = posterior.Clamped(model, image.expand(len(hidden), -1))
        reference = -one.reference_energy(hidden)
        assert float(reference.logsumexp(0)) == pytest.approx(float(one.log_z_reference[0]))
        beta = torch.full((len(hidden),), 0.3, dtype=torch.float64)
        log_p = reference - beta * one.energy(hidden)
        for block in (0, 1):
            p = one.conditional(block, hidden, beta)
            for place, site in enumerate(range(*one.blocks[block].indices(5))):
                up, down = hidden.clone(), hidden.clone()
                up[:, site], down[:, site] = 1.0, -1.0
                places = ((up + 1) / 2) @ torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0]).double()
                below = ((down + 1) / 2) @ torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0]).double()
                expected = torch.sigmoid(log_p[places.long()] - log_p[below.long()])
                assert torch.allclose(p[:, place], expected, atol=1e-8)
