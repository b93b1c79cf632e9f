"""The U-Nets: sizes, labels, noise levels, and what each of their parts has to do with the output."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from genmodels.errors import InputError
from genmodels.networks.compact_unet import CompactUNet
from genmodels.networks.groups import n_groups
from genmodels.networks.padding import Padding
from genmodels.networks.unet import UNet
from genmodels.streams import Key

KINDS = [UNet, CompactUNet]


def built(kind: type[nn.Module], *args: object, **more: object) -> nn.Module:
    """Return a network in evaluation mode all of whose parameters are random, those that start at 0 too."""
    generator = Key(1, "weights").torch()
    network = kind(*args, **more)
    with torch.no_grad():
        for parameter in network.parameters():
            fan = math.prod(parameter.shape[1:]) if parameter.ndim > 1 else 100
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(fan))
    return network.eval()


def noisy(*shape: int) -> Tensor:
    return torch.randn(shape, generator=Key(2, "z").torch())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("height", "width", "channels", "channels_io"),
    [
        (8, 8, (8, 16), 1),
        (28, 28, (8, 8, 8), 1),
        (5, 3, (6, 12), 3),
        (1, 4, (8,), 1),
        (9, 16, (8, 12, 20), 2),
    ],
)
def test_any_size_goes_in_and_comes_out(
    kind: type[nn.Module], height: int, width: int, channels: tuple[int, ...], channels_io: int
) -> None:
    network = built(kind, height, width, channels, 0.0, channels_io)
    z, time = noisy(3, channels_io, height, width), torch.tensor([0.5, 2.0, -3.0])
    output = network(z, time)
    assert output.shape == z.shape
    # An image's output is its own, and every pixel's input matters to it.
    torch.testing.assert_close(network(z[1:2], time[1:2]), output[1:2])
    z.requires_grad_()
    network(z, time)[0].sum().backward()
    assert z.grad is not None
    assert bool((z.grad[0] != 0.0).all())
    assert not bool(z.grad[1:].any())


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_matters(kind: type[nn.Module]) -> None:
    network = built(kind, 8, 8, (8, 16), 0.0, n_classes=3)
    output = network(noisy(4, 1, 8, 8), torch.tensor([-5.0, 0.0, 1.0, 5.0]), torch.tensor([0, 1, 2, 3]))
    output.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_levels_are_heard(kind: type[nn.Module]) -> None:
    network, z, time = built(kind, 8, 8, (8, 8), 0.0, n_classes=3), noisy(4, 1, 8, 8), torch.full((4,), 2.0)
    same = z[:1].expand(4, -1, -1, -1)
    with torch.no_grad():
        outputs = network(same, time, torch.arange(4))
        levels = network(same, torch.tensor([-8.0, -2.0, 2.0, 8.0]))
    assert all(float((one - other).abs().max()) > 1e-3 for one, other in pairwise(outputs))
    # No labels are the last one.
    torch.testing.assert_close(network(same, time), outputs[3:].expand(4, -1, -1, -1))
    assert all(float((one - other).abs().max()) > 1e-3 for one, other in pairwise(levels))


def test_a_group_has_several_features_and_divides_the_widths() -> None:
    assert [n_groups(n) for n in (1, 3, 6, 8, 12, 24, 32, 96)] == [1, 1, 1, 2, 3, 6, 8, 8]
    assert n_groups(32, 48) == 8
    assert n_groups(12, 20) == 2


def test_the_compact_network_tells_all_levels_apart_and_forgets_none() -> None:
    network = built(CompactUNet, 4, 4, (8, 8), 0.0)
    gamma = torch.linspace(-14.0, 8.0, 400)
    condition = network.condition(gamma, None).detach()
    steps = condition.diff(dim=0).norm(dim=1)
    # About as far from one level to the next everywhere: neither jumps nor stretches without a change.
    assert float(steps.max() / steps.min()) < 30.0
    distance = torch.cdist(condition, condition) + 1e3 * torch.eye(400)
    nearest = distance.argmin(1)
    assert bool(((nearest - torch.arange(400)).abs() == 1).all()), "two levels far apart look alike"


def test_the_compact_network_starts_at_zero_and_learns() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = CompactUNet(6, 6, (8, 16), 0.1)
        z, time = noisy(16, 1, 6, 6), torch.zeros(16)
        assert not bool(network(z, time).any())
        optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
        target = z.flip(3)  # no convolution alone does this
        losses = []
        for _ in range(60):
            loss = (network(z, time) - target).square().mean()
            losses.append(float(loss.detach()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_dropout_is_on_in_training_only() -> None:
    network, z, time = built(CompactUNet, 4, 4, (8, 8), 0.5), noisy(2, 1, 4, 4), torch.zeros(2)
    assert torch.equal(network(z, time), network(z, time))
    network.train()
    with torch.random.fork_rng():
        assert not torch.equal(network(z, time), network(z, time))


def test_attention_is_where_maps_are_small() -> None:
    network = CompactUNet(32, 32, (8, 8, 8, 8), 0.0)
    sides = [32, 16, 8, 4]
    assert network.padding.sides == sides
    for levels in (network.down, network.up):
        assert [not isinstance(it.attention, nn.Identity) for it in levels] == [side <= 8 for side in sides]


def test_padding_keeps_the_picture_in_its_place() -> None:
    padding, z = Padding(9, 5, 3), noisy(2, 1, 9, 5)
    assert padding(z).shape == (2, 1, 12, 8)
    assert torch.equal(padding.crop(padding(z)), z)
    assert padding.sides == [12, 6, 3]
    fitting = noisy(1, 1, 8, 4)
    assert Padding(8, 4, 3)(fitting) is fitting


@pytest.mark.parametrize("kind", KINDS)
def test_too_small_an_image_is_one_line(kind: type[nn.Module]) -> None:
    with pytest.raises(InputError, match="give 1 to 3 entries") as caught:
        kind(4, 6, (8, 8, 8, 8), 0.0)
    assert "\n" not in str(caught.value)
