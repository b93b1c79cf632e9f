"""Nine in ten of a sample of small mistakes in kernels, samplers, estimators and models are noticed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("kernels", "samplers", "estimators", "models")
EXCHANGE = "test_samplers.py -k 'exchange or ladder or swaps or acceptance or trips or adaptation'"
ANNEALING = (
    "test_samplers.py -k 'population or annealing_keeps or families or resampling or longest or counted'"
)
REFUSED = "test_shards_without_walkers_are_refused"
# The quickest files of tests that are about the modules of each kind; of a module, those that are about it.
TESTS: dict[str, str] = {
    "genmodels.kernels.block_gibbs": "test_block_gibbs.py",
    "genmodels.kernels.choose": "test_registry.py",
    "genmodels.kernels.coupled_langevin": "test_langevin.py",
    "genmodels.kernels.gibbs_with_gradients": "test_gibbs_with_gradients.py",
    "genmodels.kernels.heat_bath": "test_single_flip.py",
    "genmodels.kernels.langevin": "test_langevin.py",
    "genmodels.kernels.lifted": "test_lifted.py",
    "genmodels.kernels.mala": "test_langevin.py",
    "genmodels.kernels.metropolis": "test_single_flip.py",
    "genmodels.kernels.on_device": "test_on_device.py::test_on_the_cpu_it_is_the_kernel_itself"
    " test_on_device.py::test_models_paths_and_states_are_moved_as_copies",
    "genmodels.samplers.expanded": "test_simulated_tempering.py",
    "genmodels.samplers.jarzynski": "test_jarzynski.py",
    "genmodels.samplers.ladder": EXCHANGE,
    "genmodels.samplers.lowest": "test_simulated_annealing.py test_resumable.py",
    "genmodels.samplers.pilot": ANNEALING,
    "genmodels.samplers.population": f"test_spread_population.py {ANNEALING}",
    "genmodels.samplers.population_annealing": f"test_spread_population.py::{REFUSED} {ANNEALING}",
    "genmodels.samplers.replica_exchange": EXCHANGE,
    "genmodels.samplers.resampling": "test_spread_population.py",
    "genmodels.samplers.shards": "test_samplers.py -k 'turns or order or progress or stopped'",
    "genmodels.samplers.simulated_annealing": "test_simulated_annealing.py",
    "genmodels.samplers.simulated_tempering": "test_simulated_tempering.py",
    "genmodels.samplers.split_ladder": "test_split_ladder.py",
    "genmodels.samplers.spread": "test_spread_population.py",
    "genmodels.samplers.temperatures": "test_temperatures.py",
    "genmodels.samplers.work": "test_work.py test_jarzynski.py",
    "genmodels.estimators.averages": "test_averages.py",
    "genmodels.estimators.classifier": "test_sample_quality.py test_recognition.py",
    "genmodels.estimators.dequantised": "test_binary_gaussians.py",
    "genmodels.estimators.diagnostics": "test_diagnostics.py",
    "genmodels.estimators.enumeration": "test_enumeration.py",
    "genmodels.estimators.exchange": "test_free_energy.py",
    "genmodels.estimators.free_energy": "test_free_energy.py",
    "genmodels.estimators.importance_weighted": "test_vae.py test_hvae.py",
    "genmodels.estimators.ising_2d": "test_kaufman.py",
    "genmodels.estimators.jackknife": "test_work.py test_mbar.py",
    "genmodels.estimators.known_truth": "test_known_truth.py",
    "genmodels.estimators.latent_annealing": "test_latent_annealing.py",
    "genmodels.estimators.likelihood": "test_known_truth.py test_grey.py test_vae.py",
    "genmodels.estimators.mbar": "test_mbar.py",
    "genmodels.estimators.population": "test_free_energy.py",
    "genmodels.estimators.posterior": "test_dbm.py test_hvae.py",
    "genmodels.estimators.probability_flow": "test_probability_flow.py",
    "genmodels.estimators.recognition": "test_recognition.py",
    "genmodels.estimators.route": "test_grey.py test_known_truth.py",
    "genmodels.estimators.sample_quality": "test_sample_quality.py",
    "genmodels.estimators.selection": "test_mixtures.py",
    "genmodels.estimators.sequential": "test_mixtures.py test_binary_gaussians.py",
    "genmodels.estimators.stepping_stones": "test_mbar.py test_free_energy.py",
    "genmodels.estimators.tempering": "test_averages.py test_free_energy.py",
    "genmodels.estimators.trajectory": "test_monitor.py",
    "genmodels.estimators.variational": "test_diffusion.py",
    "genmodels.estimators.work": "test_work.py",
    "genmodels.models.autoencoder": "test_autoencoder.py",
    "genmodels.models.bernoulli_mixture": "test_mixtures.py test_baselines.py",
    "genmodels.models.boltzmann_machine": "test_learning_rules.py",
    "genmodels.models.dbm": "test_dbm.py",
    "genmodels.models.diffusion": "test_diffusion.py",
    "genmodels.models.gaussian": "test_baselines.py",
    "genmodels.models.gaussian_mixture": "test_mixtures.py test_binary_gaussians.py",
    "genmodels.models.hvae": "test_hvae.py",
    "genmodels.models.independent": "test_baselines.py",
    "genmodels.models.independent_gaussian": "test_baselines.py",
    "genmodels.models.independent_levels": "test_grey.py",
    "genmodels.models.ising": "test_ising.py",
    "genmodels.models.latent_diffusion": "test_latent_diffusion.py",
    "genmodels.models.neural_energy": "test_learning_rules.py",
    "genmodels.models.rbm": "test_rbm.py test_contrastive_step.py",
    "genmodels.models.vae": "test_vae.py",
}

# Those of the sample that nothing can notice, or should, and why.
ANSWERED: dict[str, str] = {
    "kernels.gibbs_with_gradients GibbsWithGradients.advance: "
    "log_proposal(x, gradient) → log_proposal(gradient, x)": "only their product counts",
    "samplers.jarzynski _Run.drive: len(first[0].work) * self.n_sites * self.settings.n_sweeps → "
    "2 * (len(first[0].work) * self.n_sites * self.settings.n_sweeps)": "how much work a task is; no result",
    "samplers.replica_exchange _Run.warm_up: burn_in // 8 → burn_in // 9": "when a ladder is adapted",
    "samplers.spread judge: population.log_weights(energies, step) → "
    "population.log_weights(step, energies)": "only their product counts",
    "samplers.spread run: placement.room // len(shares) → "
    "placement.room * len(shares)": "how much is under way at once; no result",
    "samplers.temperatures _smallest_sum: [zero + 1 - below.bit_length()] * bool(below) → "
    "2 * ([zero + 1 - below.bit_length()] * bool(below))": "a number twice in a list whose least is sought",
    "estimators.classifier learn: n_init=1 → n_init=2": "as good a search for clusters",
    "models.diffusion Diffusion.elbo: max(1, _ROWS // len(x)) → max(2, _ROWS // len(x))": "memory; no result",
}


def test_every_module_has_tests_of_its_own() -> None:
    there = {
        f"genmodels.{folder}.{path.stem}"
        for folder in FOLDERS
        for path in (ROOT / "genmodels" / folder).glob("[!_]*.py")
    }
    assert set(TESTS) == there
    words = [word.partition("::")[0] for tests in TESTS.values() for word in tests.split()]
    assert all((ROOT / "tests" / word).exists() for word in words if word.endswith(".py"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nine_in_ten_small_mistakes_are_noticed() -> None:
    program = [sys.executable, str(ROOT / "tests" / "mutated.py")]
    lines = "".join(f"{module} {tests}\n" for module, tests in TESTS.items())
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        program, input=lines, env=own, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [one for one in said if "tests" in one and one["outcome"] != "survived"]
    assert not wrong, f"tests that fail on the code as it is: {wrong}\n{done.stderr[-2000:]}"
    met = {one["mutant"]: one["outcome"] for one in said if "mutant" in one}
    assert len(met) >= 100
    assert set(met.values()) <= {"died", "survived"}
    survivors = {name for name, outcome in met.items() if outcome == "survived"}
    assert survivors == set(ANSWERED), survivors.symmetric_difference(ANSWERED)
    assert len(survivors) <= 0.1 * len(met)
