"""A number with its error, its kind and its origin: what every estimator returns."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

Kind = Literal["exact", "lower", "upper", "estimate", "undetermined"]


@dataclass(frozen=True)
class Estimate:
    """A likelihood, log Z or divergence with its standard error.

    Attributes:
        value: The number in `unit`, or None where it is undetermined.
        stderr: Standard error of `value`: both parts below added in quadrature.
        stderr_images: The part that comes from the finite number of held-out images.
        stderr_estimator: The part that comes from the estimator's own randomness (log Z, samples of z).
        kind: exact | lower (bound) | upper (bound) | estimate | undetermined.
        reason: Why the value is undetermined and what would settle it; empty otherwise.
        unit: "nats per image", "nats", "bits per dimension", ...
        n: Number of images, or of independent samples, behind `value`.
        method: How it was obtained, in words that fit a table cell.

    Raises:
        FloatingPointError: the value or an error is no finite number.
        ValueError: no such kind, or a value that does not fit it.
    """

    value: float | None
    stderr: float | None
    stderr_images: float | None
    stderr_estimator: float | None
    kind: Kind
    reason: str
    unit: str
    n: int
    method: str

    def __post_init__(self) -> None:
        """Refuse a kind that does not exist, and numbers that are none."""
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is '{self.kind}', expected one of {get_args(Kind)}")
        if (self.value is None) != (self.kind == "undetermined"):
            raise ValueError("a value is None exactly where its kind is 'undetermined'")
        if self.value is not None and not math.isfinite(self.value):
            raise FloatingPointError(f"{self.method}: the value is {self.value}, not a finite number")
        for error in (self.stderr, self.stderr_images, self.stderr_estimator):
            if error is not None and not 0.0 <= error < math.inf:
                raise FloatingPointError(f"{self.method}: an error is {error}, not a finite number ≥ 0")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> "Estimate":
        """Return the Estimate that `to_dict` wrote; further keys are ignored."""
        return cls(**{field.name: entries[field.name] for field in fields(cls)})

    def __str__(self) -> str:
        """Return value ± standard error, unit, kind and method, or why there is no value."""
        if self.value is None:
            return f"not determined ({self.reason})"
        error = "" if self.stderr is None else f" ± {self.stderr:.2g}"
        return f"{self.value:.4g}{error} {self.unit} ({self.kind}, {self.method})"


def of_scalar(value: float, *, stderr: float | None, kind: Kind, unit: str, n: int, method: str) -> Estimate:
    """Return the Estimate of one number whose error, if any, is the estimator's."""
    return Estimate(value, stderr, None, stderr, kind, "", unit, n, method)


def over_images(
    values: np.ndarray | Sequence[float],
    *,
    kind: Kind,
    method: str,
    stderr_estimator: float | None = None,
    own_variance: float = 0.0,
    unit: str = "nats per image",
) -> Estimate:
    """Return the mean over images of per-image values, with stderr_images = √(var / n − own_variance).

    Args:
        values: One number per image  # (image,)
        kind: What the mean is.
        method: How the values were obtained.
        stderr_estimator: Standard error of the mean due to the estimator, e.g. that of log Z.
        own_variance: The part of stderr_estimator² from noise that is each image's own: the spread of the
            values holds it already.
        unit: Unit of the values.
    """
    array = np.asarray(values, dtype=np.float64)
    n = array.size
    images = math.sqrt(max(0.0, float(array.var(ddof=1)) / n - own_variance)) if n > 1 else None
    parts = [part for part in (images, stderr_estimator) if part is not None]
    total = math.hypot(*parts) if parts else None
    return Estimate(float(array.mean()), total, images, stderr_estimator, kind, "", unit, n, method)


def of_share(hits: int, n: int, *, unit: str, method: str) -> Estimate:
    """Return hits/n with the deviation of the Beta(k + ½, n − k + ½) that k hits in n leave (Jeffreys 1946).

    That is √(p(1 − p)/n) of a binomial, but not 0 where all or none are hits.
    """
    a, b = hits + 0.5, n - hits + 0.5
    error = math.sqrt(a * b / (a + b + 1.0)) / (a + b)
    return Estimate(hits / n, error, error, None, "estimate", "", unit, n, method)


def undetermined(reason: str, *, unit: str, n: int, method: str) -> Estimate:
    """Return the refusal of a number: why, and what would settle it."""
    return Estimate(None, None, None, None, "undetermined", reason, unit, n, method)


def joint_z_score(one: Estimate, other: Estimate) -> float:
    """Return |a − b| in units of their joint standard error; errors of None count as 0."""
    if one.value is None or other.value is None:
        raise ValueError("an undetermined value has no z-score")
    error = math.hypot(one.stderr or 0.0, other.stderr or 0.0)
    difference = abs(one.value - other.value)
    if error == 0.0:
        return 0.0 if difference == 0.0 else math.inf
    return difference / error
