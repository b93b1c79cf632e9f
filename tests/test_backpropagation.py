"""Back-propagation by hand, layer by layer, gives what autograd gives."""

import pytest
import torch
from torch import Tensor, nn

from genmodels.networks.mlp import mlp
from genmodels.streams import Key


def slope(u: Tensor) -> Tensor:
    """Return f'(u) of f(u) = uσ(u)."""
    return torch.sigmoid(u) * (1.0 + u * (1.0 - torch.sigmoid(u)))


def by_hand(network: nn.Sequential, x: Tensor, d: Tensor, chain: bool = True) -> list[Tensor]:
    """Return ∂E/∂w and ∂E/∂b of every layer for E = ½Σ(y − d)²; without `chain` f' is forgotten."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    inputs, sums = [x], []
    for layer in layers:
        sums.append(inputs[-1] @ layer.weight.T + layer.bias)
        inputs.append(sums[-1] * torch.sigmoid(sums[-1]))
    delta = sums[-1] - d  # the output is the identity
    gradients: list[Tensor] = []
    for place in reversed(range(len(layers))):
        gradients = [delta.T @ inputs[place], delta.sum(0), *gradients]
        if place > 0:
            delta = delta @ layers[place].weight
            delta = delta * slope(sums[place - 1]) if chain else delta
    return gradients


@pytest.mark.parametrize("widths", [(3, 2), (3, 4, 2), (3, 5, 4, 2)])
def test_deltas_by_hand_equal_autograd(widths: tuple[int, ...]) -> None:
    generator = Key(1, "backpropagation").torch()
    network = mlp(widths).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(7, widths[0], generator=generator, dtype=torch.float64)
    d = torch.randn(7, widths[-1], generator=generator, dtype=torch.float64)
    (0.5 * (network(x) - d).square().sum()).backward()
    expected = [parameter.grad for parameter in network.parameters()]
    with torch.no_grad():
        gradients, forgetful = by_hand(network, x, d), by_hand(network, x, d, chain=False)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    if len(widths) > 2:  # without f' only the last layer is right
        assert not torch.allclose(forgetful[0], expected[0], rtol=1e-3)


def test_the_output_delta_of_bernoulli_pixels_is_y_minus_x() -> None:
    generator = Key(2, "backpropagation").torch()
    logits = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    x = torch.bernoulli(torch.full((4, 6), 0.3, dtype=torch.float64), generator=generator)
    (-(x * logits - nn.functional.softplus(logits)).sum()).backward()
    torch.testing.assert_close(logits.grad, torch.sigmoid(logits.detach()) - x, rtol=1e-12, atol=1e-12)


def test_dropout_sits_between_the_layers_only() -> None:
    network = mlp((3, 4, 5, 2), dropout=0.5)
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Linear", "SiLU", "Dropout", "Linear", "SiLU", "Dropout", "Linear"]
