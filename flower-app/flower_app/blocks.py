"""Large arrays a piece at a time, so that nothing of a model's size is made beside it."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BLOCK = 2**16
"""Elements that are worked on before the next ones are touched: 0.5 MB of float64, which stays in a core's cache."""


def in_blocks(*arrays: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Give the same elements of arrays of one shape, BLOCK at a time, in the order that the first has in memory.

    Pieces of the first are views where it is contiguous, so they may be written to. Another one is copied, once, where its order
    differs.
    """
    order: Literal["C", "F"] = "F" if arrays[0].flags.fnc else "C"
    flat = [values.reshape(-1, order=order) for values in arrays]
    for first in range(0, flat[0].size, BLOCK):
        yield tuple(values[first : first + BLOCK] for values in flat)


def is_finite(values: NDArray[Any]) -> bool:
    """Tell whether an array of numbers is free of NaN and Inf.

    Its sum comes first: it is finite for nearly every healthy array, and one pass that makes no array of answers.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum(dtype=np.float64)):
            return True
    return all(bool(np.isfinite(part).all()) for (part,) in in_blocks(values))
