"""The schema of pipelines/mnist/params.yaml: models of images whose names are free, several of one kind."""

from typing import Annotated, Literal

from pydantic import Field

from pipelines.schema import images
from pipelines.schema.block import Block, Count, Whole

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Precision = Literal["half", "single", "double"]


class Kept(Block):
    """A model that is written in a precision of its own, under any name."""

    precision: Precision


class Independent(images.Independent, Kept):
    """Independent Bernoulli pixels."""

    model: Literal["independent"]


class Gaussian(images.Gaussian, Kept):
    """One Gaussian."""

    model: Literal["gaussian"]


class GaussianMixture(images.GaussianMixture, Kept):
    """A mixture of Gaussians, by EM."""

    model: Literal["gaussian_mixture"]


class BernoulliMixture(images.BernoulliMixture, Kept):
    """A mixture of independent pixels, by EM."""

    model: Literal["bernoulli_mixture"]


class RBM(images.RBM, Kept):
    """A restricted Boltzmann machine."""

    model: Literal["rbm"]


Baseline = Annotated[
    Independent | Gaussian | GaussianMixture | BernoulliMixture, Field(discriminator="model")
]


class Params(Block):
    """All of params.yaml."""

    pipeline: Literal["mnist"]
    seed: Whole
    threads: Count
    data: images.Data
    fit_baselines: dict[Name, Baseline]
    train: dict[Name, RBM]
    evaluate: images.Evaluate
    sample: images.Sample
