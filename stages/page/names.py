"""What models, quantities and routes are called on the page, and what they mean, in a sentence each."""

from typing import NamedTuple


class Track(NamedTuple):
    """How the likelihoods of binary images, or of grey ones, are shown."""

    heading: str
    unit: str
    axis: str  # of the figure
    better: str  # which way, and what a bound says


class Quality(NamedTuple):
    """How a measure of samples is shown."""

    title: str
    meaning: str


TRACKS = {
    "log_likelihood": Track(
        "Held-out log-likelihood, binary images",
        "nats per image",
        "held-out log-likelihood, nats per image (right is better; ▸ at least this good)",
        "How probable the model holds an image that it has not seen, as a logarithm, on average. Larger is "
        "better. lower: a lower bound, the model is at least this good.",
    ),
    "bits_per_dimension": Track(
        "Held-out bits per dimension, grey images",
        "bits per dimension",
        "held-out bits per dimension (left is better; ◂ at most this many)",
        "How many bits a pixel of an unseen image takes, if the model packs it. Smaller is better: −log q(x) "
        "divided by the number of pixels and by log 2. upper: an upper bound on the bits, from a lower bound "
        "on the likelihood: the model needs at most so many.",
    ),
}

QUALITIES = {
    "frechet_distance.classifier": Quality(
        "Fréchet distance, features",
        "How far Gaussians with the moments of real and of drawn images lie apart, in the features of the "
        "classifier. Smaller is better. It is not FID, which is this in the features of another network.",
    ),
    "precision.classifier": Quality(
        "Precision, features", "The share of drawn images that lie among real ones: are they plausible?"
    ),
    "recall.classifier": Quality(
        "Recall, features", "The share of real images that lie among drawn ones: is anything left out?"
    ),
    "density.classifier": Quality(
        "Density, features",
        "How crowded with real images the places of drawn ones are; about 1 for real ones.",
    ),
    "coverage.classifier": Quality(
        "Coverage, features", "The share of real images that have a drawn one in their neighbourhood."
    ),
    "adversarial_accuracy_held_out.pixels": Quality(
        "Adversarial accuracy, held-out, pixels",
        "How often nearest neighbours tell drawn images from held-out ones: ½ is best, 1 is told apart.",
    ),
    "adversarial_accuracy_training.pixels": Quality(
        "Adversarial accuracy, training, pixels",
        "The same beside training images: ½ is best, and near 0 drawn images are copies of them.",
    ),
    "copying.pixels": Quality(
        "Copying, pixels",
        "How often a drawn image is nearer to its nearest training image than a held-out image is to its: ½ "
        "is best, 1 are copies, and below ½ drawn images are farther out than real ones.",
    ),
    "nearest_training.pixels": Quality(
        "Nearest training image, pixels",
        "The mean distance from a drawn image to the nearest training image.",
    ),
    "mean_gap.pixels": Quality(
        "Pixel means",
        "The root mean square difference between pixels' means in drawn and in held-out images.",
    ),
    "covariance_gap.pixels": Quality(
        "Pixel covariances", "The same of the covariances of all pairs of pixels."
    ),
}
YARDSTICKS = ("validation_images", "training_images")  # real images, judged as if a model had drawn them

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
    "validation_images": "Validation images",
    "training_images": "Training images (copies)",
}


def title(model: str) -> str:
    """Return a model's name in words."""
    return TITLES.get(model, model.replace("_", " ").capitalize())
