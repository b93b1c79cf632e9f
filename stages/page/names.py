"""What models, quantities and routes are called on the page."""

from typing import NamedTuple


class Track(NamedTuple):
    """How the likelihoods of binary images, or of grey ones, are shown."""

    heading: str
    unit: str
    axis: str  # of the figure
    better: str  # which way, and what a bound says


TRACKS = {
    "log_likelihood": Track(
        "Held-out log-likelihood, binary images",
        "nats per image",
        "held-out log-likelihood, nats per image (right is better; ▸ at least this good)",
        "Larger is better. lower: a lower bound, the model is at least this good.",
    ),
    "bits_per_dimension": Track(
        "Held-out bits per dimension, grey images",
        "bits per dimension",
        "held-out bits per dimension (left is better; ◂ at most this many)",
        "Smaller is better: −log q(x) divided by the number of pixels and by log 2. upper: an upper bound on "
        "the bits, from a lower bound on the likelihood: the model needs at most so many.",
    ),
}

TITLES = {
    "independent": "Independent pixels",
    "independent_levels": "Independent pixels",
    "gaussian": "Gaussian",
    "gaussian_mixture": "Gaussian mixture",
    "bernoulli_mixture": "Bernoulli mixture",
    "boltzmann_machine": "Boltzmann machine",
    "rbm": "RBM",
    "dbm": "Deep Boltzmann machine",
    "neural_energy": "Neural energy",
    "vae": "VAE",
    "hvae": "Hierarchical VAE",
    "diffusion": "Diffusion",
}


def title(model: str) -> str:
    """Return a model's name in words."""
    return TITLES.get(model, model.replace("_", " ").capitalize())
