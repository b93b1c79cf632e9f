"""How many groups of features a normalisation averages over."""

_MOST, _FEATURES = 8, 4  # a group of one feature would take off what a block adds to it: level and label


def n_groups(*widths: int) -> int:
    """Return the most groups, up to 8, that share each of `widths` features evenly, 4 or more a group.

    Where there are too few features there is one group. Wu & He 2018.
    """
    most = max(1, min(_MOST, min(widths) // _FEATURES))
    return max(n for n in range(1, most + 1) if all(width % n == 0 for width in widths))
