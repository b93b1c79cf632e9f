"""What every schema is made of: blocks that know all their keys, and numbers that are numbers."""

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


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
Real = Annotated[float, BeforeValidator(_finite)]
Count = Annotated[Integer, Field(ge=1)]
Whole = Annotated[Integer, Field(ge=0)]
Several = Annotated[Integer, Field(ge=2)]
Positive = Annotated[Real, Field(gt=0)]
NonNegative = Annotated[Real, Field(ge=0)]
Share = Annotated[Real, Field(gt=0, lt=1)]
Fraction = Annotated[Real, Field(ge=0, lt=1)]


class Block(BaseModel):
    """A mapping of params.yaml that knows all of its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
