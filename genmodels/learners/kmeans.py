"""Starting points of mixtures: k-means++ and a few rounds of k-means."""

import torch
from torch import Tensor

from genmodels.errors import InputError


def plus_plus(x: Tensor, n_clusters: int, generator: torch.Generator) -> Tensor:
    """Return images drawn one by one with probability ∝ squared distance to the nearest one so far.

    Arthur & Vassilvitskii 2007. Duplicates are drawn only when the data have fewer different images.

    Args:
        x: Data  # (image, site)
        n_clusters: How many.
        generator: Random stream.

    Raises:
        InputError: more clusters than images.
    """
    if n_clusters > len(x):
        raise InputError(f"{n_clusters} components for {len(x)} images: give at most one component per image")
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    squared = (x - x[chosen[0]]).square().sum(1)
    for _ in range(n_clusters - 1):
        odds = squared if bool(squared.any()) else torch.ones_like(squared)
        chosen.append(int(torch.multinomial(odds, 1, generator=generator)))
        squared = torch.minimum(squared, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen]


def assignments(x: Tensor, n_clusters: int, n_rounds: int, generator: torch.Generator) -> Tensor:
    """Return each image's cluster after k-means++ and `n_rounds` of k-means  # (image,), long. Lloyd 1982."""
    centres = plus_plus(x, n_clusters, generator)
    nearest = torch.cdist(x, centres).argmin(1)
    for _ in range(n_rounds):
        members = torch.nn.functional.one_hot(nearest, n_clusters).to(x)
        counts = members.sum(0)[:, None]
        # A cluster that lost all its images keeps its centre.
        centres = torch.where(counts > 0, members.T @ x / counts.clamp(min=1.0), centres)
        nearest = torch.cdist(x, centres).argmin(1)
    return nearest
