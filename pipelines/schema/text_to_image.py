"""The schema of pipelines/text_to_image/params.yaml: pictures with captions, and latent diffusion on them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from genmodels.data.captioned_sources import CAPTIONED
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

Method = Literal["ancestral", "ddim", "flow", "ddpm", "dpm", "unipc"]


class PrepareCaptions(Block):
    """Which pictures, what is held out, and how the others are split."""

    name: str
    path: str | None
    limit: Count | None
    size: tuple[Count, Count] | None
    variants: bool
    recoloured: bool
    held_out: list[str]
    validation: Share
    test: Share

    @model_validator(mode="after")
    def _names_and_shares(self) -> "PrepareCaptions":
        if self.name not in CAPTIONED:
            hint = suggestion(self.name, CAPTIONED)
            raise ValueError(f"name: no pictures with captions are called '{self.name}'; {hint}")
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must leave pictures for training: their sum must be below 1")
        return self


class Learning(Block):
    """How a network learns."""

    batch: Count
    learning_rate: Positive
    warm_up: Whole
    clip: Positive | None
    ema: Fraction
    weight_decay: NonNegative
    mixed_precision: Literal["bf16", "fp16"] | None
    steps: Count


class TrainAutoencoder(Learning):
    """The first stage: its resolutions, the channels of its latent, and the weight of the divergence."""

    channels: Annotated[list[Count], Field(min_length=1)]
    latent: Count
    kl_weight: NonNegative


class Text(Block):
    """Which encoder reads the captions."""

    encoder: str
    max_tokens: Annotated[Integer, Field(ge=4)]
    padded: bool


class TrainLatentDiffusion(Learning):
    """The second stage: its U-Net, its noise levels, and who reads for it."""

    text: Text
    channels: Annotated[list[Count], Field(min_length=1)]
    T: Several
    gamma_min: Real
    gamma_max: Real
    prediction: Literal["eps", "v"]
    dropout: Fraction
    text_drop: Fraction
    precision: Literal["half", "single", "double"]

    @model_validator(mode="after")
    def _noise_rises(self) -> "TrainLatentDiffusion":
        if self.gamma_min >= self.gamma_max:
            raise ValueError(f"gamma_min = {self.gamma_min} must be below gamma_max = {self.gamma_max}")
        return self


class EvaluateCaptions(Block):
    """Effort of the bounds."""

    images: Count | None
    noise_levels: Count
    noise_repeats: Several


class PaintCaptions(Block):
    """What is painted, n of each, besides the held-out captions."""

    prompts: list[str]
    negative: str
    n: Count
    guidance: Real
    steps: Several
    method: Method


class ShowCaptions(Block):
    """What is shown of the model at work: pictures by guidance, between two prompts, and step by step."""

    prompts: Annotated[list[str], Field(min_length=1)]
    seeds: Count
    guidance: Annotated[list[Real], Field(min_length=1)]
    steps: Several
    method: Method
    between: tuple[str, str]
    columns: Several
    film_guidance: Real
    film_steps: Several


class FromText(Block):
    """A prompt becomes a picture: a block a stage."""

    prepare_captions: PrepareCaptions
    train_autoencoder: TrainAutoencoder
    train_latent_diffusion: TrainLatentDiffusion
    evaluate_captions: EvaluateCaptions
    paint_captions: PaintCaptions
    show_captions: ShowCaptions


class Params(FromText):
    """All of params.yaml."""

    pipeline: Literal["text_to_image"]
    seed: Whole
    threads: Count
