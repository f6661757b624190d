"""Large arrays, some rows at a time: what is computed in between stays in the processor's cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

VALUES = 1 << 15  # a quarter of a megabyte of float64


def row_blocks(values: NDArray[Any]) -> Iterator[slice]:
    """Yield slices of the first axis of `values`, in order: all rows, about `VALUES` values at a time."""
    rows = max(1, VALUES // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values), rows):
        yield slice(start, start + rows)
