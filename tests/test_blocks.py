"""Blocks of rows: together they are the whole array, in order, and none of them is large."""

from __future__ import annotations

import numpy as np
import pytest

from neurocompile.blocks import VALUES, row_blocks


@pytest.mark.parametrize(
    "shape", [(1, 1), (7, 3), (5, VALUES + 1), (VALUES + 1, 1), (300, 8, 5, 5), (0, 4), (4, 0)]
)
def test_blocks_are_all_rows_in_order(shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, np.int8)
    numbers = np.arange(len(values))

    blocks = list(row_blocks(values))

    assert [row for rows in blocks for row in numbers[rows]] == numbers.tolist()
    assert all(values[rows].size <= max(VALUES, values[:1].size) for rows in blocks)


def test_small_rows_come_many_at_a_time() -> None:
    assert len(list(row_blocks(np.zeros((4 * VALUES, 1), np.int8)))) == 4
