"""The schema of params.yaml: every key required, none unknown, each error one line.

No key has a default, so that params.yaml is the whole truth about a run and DVC sees every change of it.
"""

import difflib
import math
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from genmodels.data.sources import SOURCES
from genmodels.errors import InputError


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    return value


def _finite(value: Any) -> Any:
    value = _number(value)
    if isinstance(value, float | str) and not math.isfinite(float(value)):
        raise ValueError("expected a finite number")
    return value


Integer = Annotated[int, BeforeValidator(_number)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Whole = Annotated[int, BeforeValidator(_number), Field(ge=0)]
Several = Annotated[int, BeforeValidator(_number), Field(ge=2)]
Positive = Annotated[float, BeforeValidator(_finite), Field(gt=0)]
NonNegative = Annotated[float, BeforeValidator(_finite), Field(ge=0)]
Real = Annotated[float, BeforeValidator(_finite)]
Share = Annotated[float, BeforeValidator(_finite), Field(gt=0, lt=1)]
Track = Literal["binary", "grey"]


class Block(BaseModel):
    """A mapping of params.yaml that knows all of its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


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
            near = difflib.get_close_matches(self.name, SOURCES, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(SOURCES)}"
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

    track: Literal["binary"]
    eigenvalue_floor: Positive


class GaussianMixture(Block):
    """A mixture of Gaussians, by EM."""

    track: Literal["binary"]
    components: Count
    iterations: Count
    restarts: Count
    eigenvalue_floor: Positive


class BernoulliMixture(Block):
    """A mixture of independent pixels, by EM."""

    track: Literal["binary"]
    components: Count
    iterations: Count
    restarts: Count
    pseudo_count: Positive


class Baselines(Block):
    """The models with a closed form or EM."""

    independent: Independent
    gaussian: Gaussian
    gaussian_mixture: GaussianMixture
    bernoulli_mixture: BernoulliMixture


class RBM(Block):
    """A restricted Boltzmann machine, by persistent contrastive divergence."""

    track: Literal["binary"]
    n_hidden: Count
    n_chains: Count
    n_sweeps: Count
    learning_rate: Positive
    weight_decay: NonNegative
    batch: Count
    steps: Count


class VAE(Block):
    """train.vae: the autoencoder's perceptrons and how they learn."""

    track: Literal["binary"]
    processes: Count
    latent: Count
    hidden: list[Count] = Field(min_length=1)
    dropout: Annotated[float, Field(ge=0, lt=1)]
    batch: Count
    learning_rate: Positive
    weight_decay: NonNegative
    ema: Annotated[float, Field(ge=0, lt=1)]
    steps: Count


class Diffusion(Block):
    """train.diffusion: the U-Net, the noise levels and how it learns."""

    track: Literal["binary"]
    processes: Count
    channels: list[Count] = Field(min_length=1)
    T: Several
    gamma_min: Real
    gamma_max: Real
    dropout: Annotated[float, Field(ge=0, lt=1)]
    batch: Count
    learning_rate: Positive
    weight_decay: NonNegative
    ema: Annotated[float, Field(ge=0, lt=1)]
    steps: Count

    @model_validator(mode="after")
    def _noise_rises(self) -> "Diffusion":
        if self.gamma_min >= self.gamma_max:
            raise ValueError(f"gamma_min = {self.gamma_min} must be below gamma_max = {self.gamma_max}")
        return self


class Train(Block):
    """The models that learn by gradients."""

    rbm: RBM
    vae: VAE
    diffusion: Diffusion


class ReplicaExchange(Block):
    """Sizes of replica exchange."""

    n_ladders: Several
    n_rungs: Several
    n_rounds: Annotated[int, BeforeValidator(_number), Field(ge=4)]
    burn_in: Annotated[int, BeforeValidator(_number), Field(ge=16)]
    sweeps_per_round: Count


class PopulationAnnealing(Block):
    """Sizes of population annealing."""

    n_populations: Several
    n_walkers: Count
    n_sweeps: Count
    ess: Share


class LogZ(Block):
    """Both methods, for one model."""

    replica_exchange: ReplicaExchange
    population_annealing: PopulationAnnealing


class EstimateLogZ(Block):
    """The energy models whose log Z is estimated."""

    rbm: LogZ


class Evaluate(Block):
    """Effort of the likelihood estimators."""

    images: Count | None
    importance_samples: Several
    noise_levels: Count
    noise_repeats: Several
    dequantisation_samples: Several


class Sample(Block):
    """The pictures drawn."""

    n: Count


class Params(Block):
    """All of params.yaml."""

    seed: Whole
    threads: Count
    data: Data
    fit_baselines: Baselines
    train: Train
    estimate_log_z: EstimateLogZ
    evaluate: Evaluate
    sample: Sample


class _UniqueKeys(yaml.SafeLoader):
    """A YAML loader that refuses a key given twice, where PyYAML keeps the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read(path: Path) -> Params:
    """Return the validated parameters of a file.

    Raises:
        InputError: one line naming file, key, value and what was expected.
    """
    path = Path(path)
    try:
        values = yaml.load(path.read_text(), _UniqueKeys)  # noqa: S506 - a SafeLoader
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give one with --params") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise InputError(f"{path}:{where} {getattr(error, 'problem', None) or 'not YAML'}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of blocks such as 'data:' and 'train:'")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path}: {_line(error, values)}") from error


def _line(error: ValidationError, values: dict[str, Any]) -> str:
    # An unknown key explains a missing one, so it comes first.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    place, kind = [str(part) for part in problem["loc"]], problem["type"]
    key = ".".join(place)
    if kind == "extra_forbidden":
        known = _keys_beside(place)
        near = difflib.get_close_matches(place[-1], known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here are {', '.join(known)}"
        return f"{key} = {_short(problem['input'])}: unknown key; {hint}{more}"
    if kind == "missing":
        return f"{key}: missing; every key must be given{more}"
    message = problem["msg"].removeprefix("Value error, ")
    value = "" if isinstance(problem["input"], dict) else f" = {_short(problem['input'])}"
    return f"{key}{value}: {message[0].lower()}{message[1:]}{more}"


def _keys_beside(place: list[str]) -> list[str]:
    block: Any = Params
    for part in place[:-1]:
        block = block.model_fields[part].annotation
    return list(block.model_fields)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, its keys joined by dots: {"train.vae.latent": 16, ...}."""
    if isinstance(values, BaseModel):
        values = values.model_dump()
    entries: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            entries |= flat(value, f"{prefix}{key}.")
        else:
            entries[f"{prefix}{key}"] = value
    return entries


if __name__ == "__main__":
    for name in sys.argv[1:] or ["params.yaml"]:
        try:
            read(Path(name))
        except InputError as error:
            print(f"genmodels: error: {error}", file=sys.stderr)
            sys.exit(2)
