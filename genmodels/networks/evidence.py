"""What is minimised in place of the negative evidence lower bound: free bits, a warm-up of the divergence."""

from collections.abc import Sequence

from torch import Tensor

Loss = tuple[Tensor, dict[str, Tensor]]


def evidence_loss(
    log_likelihood: Tensor, divergences: Sequence[Tensor], free_bits: float, warm_up: int, step: int
) -> Loss:
    """Return −⟨log q(x|z)⟩ + w Σ_j max(λ, ⟨D_j⟩), averages over the (micro-)batch, and its terms.

    Without free bits and after the warm-up it is the mean of −elbo. The terms are those of the bound itself,
    with more than one layer also layer by layer. Free bits: Kingma et al. 2016, each coordinate of a latent
    variable being a group; warm-up: Sønderby et al. 2016.

    Args:
        log_likelihood: log q(x|z)  # (image,), nats
        divergences: Of each coordinate of the latent variables, a layer each  # (image, latent), nats
        free_bits: λ, nats below which a coordinate's divergence is not pushed.
        warm_up: Steps in which w rises to 1; 0: it is 1.
        step: Steps done.
    """
    layers = [each.mean(0) for each in divergences]
    reconstruction = -log_likelihood.mean()
    weight = min(1.0, (step + 1) / warm_up) if warm_up > 0 else 1.0
    charged = sum((each.clamp(min=free_bits).sum() for each in layers), reconstruction.new_zeros(()))
    loss = reconstruction + weight * charged
    totals = [each.sum() for each in layers]
    metrics = {
        "loss": loss,
        "reconstruction": reconstruction,
        "divergence": sum(totals, 0.0 * reconstruction),
    }
    if len(totals) > 1:
        metrics |= {f"divergence_{layer}": total for layer, total in enumerate(totals, 1)}
    return loss, {name: value.detach() for name, value in metrics.items()}
