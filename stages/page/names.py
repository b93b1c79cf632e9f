"""What models, quantities and routes are called on the page."""

TITLES = {
    "independent": "Independent pixels",
    "gaussian": "Gaussian",
    "gaussian_mixture": "Gaussian mixture",
    "bernoulli_mixture": "Bernoulli mixture",
    "boltzmann_machine": "Boltzmann machine",
    "rbm": "RBM",
    "dbm": "Deep Boltzmann machine",
    "neural_energy": "Neural energy",
    "vae": "VAE",
    "diffusion": "Diffusion",
}


def title(model: str) -> str:
    """Return a model's name in words."""
    return TITLES.get(model, model.replace("_", " ").capitalize())
