"""The schema of ./params.yaml: generative models of images."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from genmodels.data.sources import SOURCES
from genmodels.errors import suggestion
from pipelines.schema.block import (
    Block,
    Count,
    Fraction,
    Integer,
    NonNegative,
    Positive,
    Real,
    Several,
    Share,
    Whole,
)
from pipelines.schema.text_to_image import FromText

Track = Literal["binary", "grey"]
Rule = Literal[
    "exact",
    "monte_carlo",
    "contrastive_divergence",
    "persistent_contrastive_divergence",
    "tempered",
    "minimum_probability_flow",
    "pseudo_likelihood",
]


class Data(Block):
    """Which images, and how they are split."""

    name: str
    path: str | None
    limit: Count | None
    size: tuple[Count, Count] | None
    n_samples: Count
    beta: NonNegative
    validation: Share
    test: Share

    @model_validator(mode="after")
    def _names_and_shares(self) -> "Data":
        if self.name not in SOURCES:
            hint = suggestion(self.name, SOURCES)
            raise ValueError(f"name: no data set is called '{self.name}'; {hint}")
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must leave images for training: their sum must be below 1")
        return self


class Independent(Block):
    """Independent Bernoulli pixels."""

    track: Literal["binary"]
    pseudo_count: Positive


class Gaussian(Block):
    """One Gaussian."""

    track: Track
    eigenvalue_floor: Positive


class GaussianMixture(Block):
    """A mixture of Gaussians, by EM."""

    track: Track
    components: Count | Annotated[list[Count], Field(min_length=1)]
    iterations: Count
    restarts: Count
    eigenvalue_floor: Positive


class BernoulliMixture(Block):
    """A mixture of independent pixels, by EM."""

    track: Literal["binary"]
    components: Count | Annotated[list[Count], Field(min_length=1)]
    iterations: Count
    restarts: Count
    pseudo_count: Positive


class Baselines(Block):
    """The models with a closed form or EM."""

    independent: Independent
    gaussian: Gaussian
    gaussian_mixture: GaussianMixture
    bernoulli_mixture: BernoulliMixture


class EnergyModel(Block):
    """How an energy model learns; chains and sweeps are for the rules that have them."""

    track: Literal["binary"]
    rule: Rule
    n_chains: Count
    n_sweeps: Count
    learning_rate: Positive
    schedule: Literal["linear", "cosine", "inverse"]
    weight_decay: NonNegative
    centred: bool
    ema: Fraction
    batch: Count
    steps: Count
    n_walkers: Count
    n_between: Count
    patience: Count | None


class BoltzmannMachine(EnergyModel):
    """A Boltzmann machine without hidden units."""


class RBM(EnergyModel):
    """A restricted Boltzmann machine."""

    n_hidden: Count


class NeuralEnergy(EnergyModel):
    """An energy that is a perceptron."""

    hidden: list[Count] = Field(min_length=1)


class Checkpoints(Block):
    """How often a training is written down, by whichever comes first."""

    steps: Count | None
    seconds: Positive | None


class Network(Block):
    """How a model learns by gradients."""

    track: Track
    processes: Count
    dropout: Fraction
    batch: Count
    accumulate: Count
    mixed_precision: Literal["bf16", "fp16"] | None
    optimiser: Literal["adamw", "sgd"]
    learning_rate: Positive
    warm_up: Whole
    clip: Positive | None
    weight_decay: NonNegative
    ema: Fraction
    steps: Count
    patience: Count | None
    checkpoint_every: Checkpoints

    @model_validator(mode="after")
    def _parts(self) -> "Network":
        parts = self.processes * self.accumulate
        if self.batch % parts:
            raise ValueError(
                f"batch = {self.batch} cannot be cut into processes * accumulate = {parts} equal parts"
            )
        return self


class Autoencoder(Network):
    """How an autoencoder's networks are built, and what its loss leaves out of the bound."""

    hidden: list[Count] = Field(min_length=1)
    channels: list[Count]
    free_bits: NonNegative
    kl_warm_up: Whole


class VAE(Autoencoder):
    """train.vae: the autoencoder and how it learns."""

    latent: Count


class HVAE(Autoencoder):
    """train.hvae: the ladder's layers and how they learn."""

    latents: list[Count] = Field(min_length=1)
    depth: Count

    @model_validator(mode="after")
    def _layers(self) -> "HVAE":
        if len(self.hidden) != len(self.latents):
            raise ValueError(
                f"hidden = {self.hidden} must have one entry for each of latents = {self.latents}"
            )
        return self


class Diffusion(Network):
    """train.diffusion: the U-Net, what it predicts, the noise levels and how it learns.

    Of several γ_min, trained down to the least, the bound on validation images takes one.
    """

    channels: list[Count] = Field(min_length=1)
    T: Several | None
    gamma_min: Real | Annotated[list[Real], Field(min_length=1)]
    gamma_max: Real
    prediction: Literal["eps", "residual", "x", "v", "logits"]
    schedule: Literal["linear", "cosine", "learned"]
    objective: Literal["weighted", "eps", "bound"]
    network: Literal["diffusers", "compact"]
    class_conditional: bool
    label_drop: Fraction

    @model_validator(mode="after")
    def _noise_rises(self) -> "Diffusion":
        most = max(self.gamma_min) if isinstance(self.gamma_min, list) else self.gamma_min
        if most >= self.gamma_max:
            raise ValueError(f"gamma_min = {most} must be below gamma_max = {self.gamma_max}")
        return self


class Train(Block):
    """The models that learn by gradients."""

    boltzmann_machine: BoltzmannMachine
    rbm: RBM
    neural_energy: NeuralEnergy
    vae: VAE
    hvae: HVAE
    diffusion: Diffusion


class ReplicaExchange(Block):
    """Sizes of replica exchange."""

    n_ladders: Several
    n_rungs: Several
    n_rounds: Annotated[Integer, Field(ge=4)]
    burn_in: Annotated[Integer, Field(ge=16)]
    sweeps_per_round: Count
    rungs_per_shard: Count | None


class PopulationAnnealing(Block):
    """Sizes of population annealing."""

    n_populations: Several
    n_walkers: Count
    n_sweeps: Count
    ess: Share
    walkers_per_shard: Count | None


class LogZ(Block):
    """Both methods, for one model."""

    replica_exchange: ReplicaExchange
    population_annealing: PopulationAnnealing


class EstimateLogZ(Block):
    """The energy models whose log Z is estimated."""

    boltzmann_machine: LogZ
    rbm: LogZ
    neural_energy: LogZ


class Evaluate(Block):
    """Effort of the likelihood estimators; what is costly is done for the first images only."""

    images: Count | None
    importance_samples: Several
    more_samples: Several
    more_images: Whole
    noise_levels: Count
    noise_repeats: Several
    dequantisation_samples: Several
    posterior_images: Whole
    posterior_particles: Several
    posterior_steps: Count


class Sample(Block):
    """The pictures drawn, and how many of them the grid shows."""

    n: Annotated[Integer, Field(ge=3)]
    shown: Count


class Classifier(Block):
    """The classifier in whose features samples are judged."""

    track: Track
    hidden: list[Count] = Field(min_length=1)
    clusters: Several
    epochs: Count


class Params(FromText):
    """All of params.yaml."""

    seed: Whole
    threads: Count
    data: Data
    fit_baselines: Baselines
    train: Train
    estimate_log_z: EstimateLogZ
    train_classifier: Classifier
    evaluate: Evaluate
    sample: Sample
