"""What is known of numbers before the model runs: the type that holds them follows from it."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

from neurocompile.integer import Integer, IntegerInput, IntegerPopulation, IntegerRelay

INT32_END = (1 << 31) - 1

Range = tuple[int, int]  # the least and the largest value, both included


def range_of(population: IntegerPopulation) -> Range:
    """Return the least and the largest value that `population` sends."""
    if isinstance(population, IntegerInput):
        return population.minimum, population.maximum
    if isinstance(population, IntegerRelay):
        return 0, population.largest
    return 0, population.most


def magnitude(values: Range) -> int:
    """Return the largest magnitude in a range."""
    return max(abs(values[0]), abs(values[1]))


def smallest_type(values: Range) -> np.dtype[Any]:
    """Return the narrowest of uint8 and the signed types that holds a range."""
    low, high = values
    if low >= 0 and high <= np.iinfo(np.uint8).max:
        return np.dtype(np.uint8)
    for dtype in (np.int8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.int64)


def wide_type(largest: int) -> np.dtype[Any]:
    """Return int32, or int64 for what may be larger in magnitude."""
    return np.dtype(np.int32 if largest <= INT32_END else np.int64)


def span(values: Integer) -> Range:
    """Return the least and the largest of `values`; 0 and 0 if there are none."""
    if not values.size:
        return 0, 0
    return int(values.min()), int(values.max())


def common_divisor(values: Integer) -> int:
    """Return the largest number that divides all of `values`; 1 if they are zeros."""
    low, high = span(values)
    # Most weights are small: few different ones, whatever their number.
    found = 0
    for value in np.unique(values) if high - low < values.size else values.reshape(-1):
        found = gcd(found, int(value))
        if found == 1:
            break
    return found or 1
