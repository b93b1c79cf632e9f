"""What greedy pretraining trains: a restricted Boltzmann machine of which one side is there twice."""

import torch
from torch import Tensor, nn

from genmodels.couplings import Bipartite
from genmodels.errors import InputError
from genmodels.paths import base_rate_fields
from genmodels.streams import Key

_WEIGHT = 0.01  # standard deviation of the first W: enough to tell the hidden units apart


class DoubledRBM(nn.Module):
    """q ∝ exp(Σ_{a,b} x_aᵀ W z_b + Σ_a bᵀx_a + Σ_b cᵀz_b) over copies x_a and z_b, all with the same weights.

    Two copies of x give z the evidence that will come from below and from above once it is the first hidden
    layer of a deep machine; two copies of z do so for x, in its last. An image is the same in every copy. A
    configuration is x_1 | x_2 | z, or x | z_1 | z_2. Salakhutdinov & Hinton 2009.

    Args:
        n_below: Units of a copy of x.
        n_above: Units of a copy of z.
        copies: Of x and of z, 1 or 2 each; [1, 1] is the RBM.

    Raises:
        InputError: other numbers of copies.
    """

    weight_names = ("W",)

    def __init__(self, n_below: int, n_above: int, copies: tuple[int, int] = (2, 1)) -> None:
        """Start with all parameters 0: the uniform distribution."""
        super().__init__()
        if len(copies) != 2 or not set(copies) <= {1, 2}:
            raise InputError(f"copies: {list(copies)} is not two numbers, each 1 or 2")
        self.copies = tuple(copies)
        n_x = copies[0] * n_below
        self.n_sites = n_x + copies[1] * n_above
        self.blocks = (slice(0, n_x), slice(n_x, self.n_sites))
        self.W = nn.Parameter(torch.zeros(n_below, n_above))
        self.b = nn.Parameter(torch.zeros(n_below))
        self.c = nn.Parameter(torch.zeros(n_above))

    def _sums(self, block: int, side: Tensor) -> Tensor:
        """Return the sum over the copies of one side  # (replica, copy · unit) -> (replica, unit)."""
        return side.view(len(side), self.copies[block], -1).sum(1)

    def energy(self, x: Tensor) -> Tensor:
        """Return E of all copies  # (replica, site) -> (replica,), nats."""
        visible, hidden = (self._sums(block, x[:, self.blocks[block]]) for block in (0, 1))
        return -((visible @ self.W * hidden).sum(1) + visible @ self.b + hidden @ self.c)

    def bipartite(self) -> Bipartite:
        """Return W for each copy of x and z, and the fields of all copies."""
        h = torch.cat([self.b.repeat(self.copies[0]), self.c.repeat(self.copies[1])]).detach()
        return Bipartite(self.W.detach().repeat(*self.copies), h, torch.zeros_like(h))

    def field(self, block: int, total: Tensor) -> Tensor:
        """Return the field on each copy of side `block`, given the sum over the others  # (replica, unit)."""
        return total @ self.W.T + self.b if block == 0 else total @ self.W + self.c

    def conditional(self, block: int, x: Tensor, beta: Tensor) -> Tensor:
        """Return P_β(+1 | the other side) for each site of `block`  # (replica, sites of the block)."""
        field = self.field(block, self._sums(1 - block, x[:, self.blocks[1 - block]]))
        return torch.sigmoid(2.0 * beta[:, None] * field).repeat(1, self.copies[block])

    def hidden_means(self, x: Tensor) -> Tensor:
        """Return ⟨z⟩ of a copy given images, the same in every copy of x  # (image, visible)."""
        return torch.tanh(self.field(1, self.copies[0] * x))

    def statistics(self, x: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return ⟨Σ_ab x_a z_bᵀ⟩, ⟨Σ_a x_a⟩ and ⟨Σ_b z_b⟩, z averaged out  # (image, visible), (image,)."""
        return self._averages(self.copies[0] * x, self.copies[1] * self.hidden_means(x), weights)

    def joint_statistics(self, x: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return the same averages over whole configurations  # (replica, site), (replica,)."""
        visible = self._sums(0, x[:, self.blocks[0]])
        return self._averages(visible, self.copies[1] * torch.tanh(self.field(1, visible)), weights)

    def _averages(self, x: Tensor, z: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
        w = x.new_full((len(x),), 1.0 / len(x)) if weights is None else weights
        return {"W": (x * w[:, None]).T @ z, "b": w @ x, "c": w @ z}

    def centred(
        self, difference: dict[str, Tensor], penalty: dict[str, Tensor], centres: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the ascent direction about fixed centres of Σ_a x_a and Σ_b z_b, as `RBM.centred` does."""
        dx, dz, mu, lam = difference["b"], difference["c"], centres["b"], centres["c"]
        dW = difference["W"] - torch.outer(mu, dz) - torch.outer(dx, lam) - penalty["W"]
        return {"W": dW, "b": dx - dW @ lam, "c": dz - dW.T @ mu}

    @torch.no_grad()
    def first_guess(self, x: Tensor, key: Key) -> None:
        """Give an untrained machine, W = 0, base rates and small random weights  # (image, visible)."""
        fields = base_rate_fields(x)
        if not bool(self.W.any()):
            self.b.copy_(fields)
            self.W.copy_(_WEIGHT * torch.randn(self.W.shape, generator=key.child("W").torch()))
