"""The order of the table: models by what stands for them, best first, those without a number last."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Row = TypeVar("Row", bound=Mapping[str, Any])
# Of which quantities more is better; the others are costs. Binary and grey images never share a column.
BETTER = {"log_likelihood": 1.0, "bits_per_dimension": -1.0}


def ranked(rows: Sequence[Row], quantity: str) -> list[Row]:
    """Return the rows of a quantity, each model's further routes below its first, best model first.

    A model whose number is not determined has no place in the ranking: it stands below all others, where the
    reason can be read. Equals stay in their order.
    """
    mine = [row for row in rows if row["name"].partition(".")[0] == quantity]
    first = {row["model"]: row["value"] for row in mine if row["name"] == quantity}
    places = {
        model: -BETTER[quantity] * value if value is not None else math.inf for model, value in first.items()
    }
    return sorted(mine, key=lambda row: places.get(row["model"], math.inf))
