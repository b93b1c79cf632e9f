"""Schemas of pipelines whose models have free names, several of one kind: those in mnist/ and digits/."""

from typing import Annotated, Literal

from pydantic import Field

from pipelines.schema import images
from pipelines.schema.block import Block, Count, Fraction, Integer, NonNegative, Positive, Several, Whole

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Precision = Literal["half", "single", "double"]
Products = Literal["float32", "bfloat16"]


class Kept(Block):
    """A model that is written in a precision of its own, under any name."""

    precision: Precision


class Independent(images.Independent, Kept):
    """Independent Bernoulli pixels."""

    model: Literal["independent"]


class IndependentLevels(Kept):
    """A table of levels for each pixel."""

    model: Literal["independent_levels"]
    track: Literal["grey"]
    pseudo_count: Positive


class Gaussian(images.Gaussian, Kept):
    """One Gaussian."""

    model: Literal["gaussian"]


class GaussianMixture(images.GaussianMixture, Kept):
    """A mixture of Gaussians, by EM."""

    model: Literal["gaussian_mixture"]
    components: Count


class BernoulliMixture(images.BernoulliMixture, Kept):
    """A mixture of independent pixels, by EM."""

    model: Literal["bernoulli_mixture"]
    components: Count


class Again(Block):
    """What is different when a machine is trained once more, from where it was, with new chains."""

    learning_rate: Positive
    weight_decay: NonNegative
    steps: Count


class BoltzmannMachine(images.BoltzmannMachine, Kept):
    """A Boltzmann machine without hidden units."""

    model: Literal["boltzmann_machine"]


class RBM(images.RBM, Kept):
    """A restricted Boltzmann machine."""

    model: Literal["rbm"]
    products: Products
    again: list[Again]


class Pretraining(Block):
    """How each layer of a deep machine learns before they learn together."""

    n_chains: Count
    n_sweeps: Count
    learning_rate: Positive
    weight_decay: NonNegative
    batch: Count
    steps: Count


class DBM(Kept):
    """A deep Boltzmann machine, its layers pretrained greedily."""

    model: Literal["dbm"]
    track: Literal["binary"]
    rule: Literal["persistent_contrastive_divergence"]
    hidden: Annotated[list[Count], Field(min_length=2)]
    rounds: Count
    pretraining: Pretraining
    n_chains: Count
    n_sweeps: Count
    learning_rate: Positive
    weight_decay: NonNegative
    ema: Fraction
    products: Products
    batch: Count
    steps: Count


class VAE(images.VAE, Kept):
    """A variational autoencoder."""

    model: Literal["vae"]


class HVAE(images.HVAE, Kept):
    """A hierarchical variational autoencoder."""

    model: Literal["hvae"]


class Diffusion(images.Diffusion, Kept):
    """A variational diffusion model."""

    model: Literal["diffusion"]


Baseline = Annotated[
    Independent | IndependentLevels | Gaussian | GaussianMixture | BernoulliMixture,
    Field(discriminator="model"),
]
Trained = Annotated[BoltzmannMachine | RBM | DBM | VAE | HVAE | Diffusion, Field(discriminator="model")]


class Exchange(Block):
    """Sizes of the replica exchange from which Jarzynski's way back starts."""

    n_ladders: Count
    n_rungs: Several
    burn_in: Annotated[Integer, Field(ge=16)]
    sweeps_per_round: Count


class Jarzynski(Block):
    """Sizes of the work done on replicas, driven there and back."""

    n_replicas: Several
    n_steps: Count
    n_sweeps: Count
    n_pilot: Annotated[Integer, Field(ge=10)]
    n_reverse: Several
    replicas_per_shard: Count
    exchange: Exchange


class LogZ(Block):
    """From which distribution log Z is reached, and how."""

    reference: Literal["uniform", "base_rate"]
    jarzynski: Jarzynski


class Named(Block):
    """What these pipelines have in common."""

    seed: Whole
    threads: Count
    data: images.Data
    train_classifier: images.Classifier
    fit_baselines: dict[Name, Baseline]
    train: dict[Name, Trained]


class BinarisedMNIST(Named):
    """All of pipelines/mnist/params.yaml."""

    pipeline: Literal["mnist"]
    estimate_log_z: dict[Name, LogZ]
    evaluate: images.Evaluate
    sample: images.Sample


class PerClass(images.Sample):
    """The pictures drawn; of models with classes as many of each class."""

    per_class: Count


class GreyDigits(Named):
    """All of pipelines/digits/params.yaml."""

    pipeline: Literal["digits"]
    evaluate: images.Evaluate
    sample: PerClass
