"""The schema of pipelines/learning_rules/params.yaml: learning rules on distributions that are known."""

from typing import Annotated, Literal

from pydantic import Field

from pipelines.schema.block import Block, Count, NonNegative, Positive, Several, Whole
from pipelines.schema.images import Rule

Side = Annotated[Count, Field(le=4)]  # up to 4×4 pixels: all states are summed at every point


class Ising(Block):
    """Exact samples of an Ising ferromagnet."""

    beta: Positive
    n_samples: Count


class Learning(Block):
    """A rule and its settings; each takes those that it has."""

    rule: Rule
    learning_rate: Positive
    schedule: Literal["linear", "cosine", "inverse"] | None
    weight_decay: NonNegative
    centred: bool
    n_chains: Count
    n_sweeps: Count
    n_rungs: Several


class LearnRules(Block):
    """The two distributions, the machine, and how every rule learns it."""

    size: tuple[Side, Side]
    ising: Ising
    n_hidden: Count
    batch: Count
    steps: Count
    points: Count
    exact: Learning
    monte_carlo: Learning
    contrastive_divergence_1: Learning
    contrastive_divergence_10: Learning
    persistent_contrastive_divergence: Learning
    tempered: Learning
    minimum_probability_flow: Learning
    pseudo_likelihood: Learning

    @classmethod
    def rules(cls) -> list[str]:
        """Return the names of what is compared, in their order."""
        return [name for name, field in cls.model_fields.items() if field.annotation is Learning]


class Params(Block):
    """All of params.yaml."""

    pipeline: Literal["learning_rules"]
    seed: Whole
    threads: Count
    learn_rules: LearnRules
