"""Kernels that move their replicas elsewhere: the same chain, and nothing is left there."""

from typing import Any

import pytest
import torch

from genmodels.errors import InputError
from genmodels.kernels.block_gibbs import BlockGibbs, BlockGibbsState
from genmodels.kernels.gibbs_with_gradients import GibbsWithGradients
from genmodels.kernels.heat_bath import HeatBath
from genmodels.kernels.on_device import OnDevice, moved
from genmodels.models.rbm import RBM
from genmodels.paths import BaseRate
from genmodels.placement.choose import placement
from genmodels.placement.local import LocalPlacement
from genmodels.protocols import Kernel
from genmodels.samplers.population_annealing import PopulationAnnealing
from genmodels.samplers.replica_exchange import ReplicaExchange
from genmodels.streams import Key

KEY = Key(17, "device")
N = 9


def machine() -> RBM:
    rbm = RBM(5, 4)
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=KEY.child("weights").torch()) * 0.6 + 0.2)
    return rbm.requires_grad_(False)


def path() -> BaseRate:
    return BaseRate(machine(), torch.linspace(-1.0, 0.7, N))


def mean_energies(kernel: Kernel[Any]) -> torch.Tensor:
    sampler = ReplicaExchange(64, 6, n_rounds=60, burn_in=32)
    return sampler.run(path(), kernel, KEY, LocalPlacement()).energies.mean(1)  # (ladder, rung)


@pytest.mark.parametrize("kernel", [BlockGibbs(), GibbsWithGradients(), HeatBath()])
def test_on_the_cpu_it_is_the_kernel_itself(kernel: Kernel[Any]) -> None:
    assert torch.equal(mean_energies(OnDevice(kernel, "cpu")), mean_energies(kernel))
    sampler = PopulationAnnealing(2, 40, n_sweeps=1)
    there, here = (sampler.run(path(), k, KEY, LocalPlacement()) for k in (OnDevice(kernel, "cpu"), kernel))
    assert torch.equal(there.log_z, here.log_z)
    assert OnDevice(kernel).detailed_balance == kernel.detailed_balance


def test_models_paths_and_states_are_moved_as_copies() -> None:
    here = path()
    there = moved(here, "meta")
    assert {p.device.type for p in there.model.parameters()} == {"meta"} == {there.fields.device.type}
    assert {p.device.type for p in here.model.parameters()} == {"cpu"} == {here.fields.device.type}
    assert (there.n_sites, there.blocks, there.log_z_reference) == (N, here.blocks, here.log_z_reference)
    assert moved(here.model, "cpu") is here.model
    state = moved(BlockGibbsState(torch.ones(2, N), torch.ones(2)), "meta")
    assert type(state) is BlockGibbsState
    assert {tensor.device.type for tensor in state} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_a_gpu_samples_what_the_cpu_samples() -> None:
    on_gpu, on_cpu = mean_energies(OnDevice(BlockGibbs())), mean_energies(BlockGibbs())
    assert on_gpu.device.type == "cpu"
    error = ((on_gpu.var(0) + on_cpu.var(0)) / len(on_cpu)).sqrt()
    assert bool(((on_gpu.mean(0) - on_cpu.mean(0)).abs() < 4.0 * error).all())


@pytest.mark.parametrize("share", ["many", "-1", "1.5", "nan", "inf"])
def test_a_share_that_is_none(share: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENMODELS_GPUS", share)
    with pytest.raises(InputError, match=f"^GENMODELS_GPUS is '{share}', expected a share"), placement(1):
        pass


def test_gpus_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setenv("GENMODELS_GPUS", "0.5")
    with placement(0) as here:
        assert here.gpus == 0.0
    with pytest.raises(InputError, match=r"^GENMODELS_GPUS is 0\.5, but Ray finds no GPU"), placement(1):
        pass
