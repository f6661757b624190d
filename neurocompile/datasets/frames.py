"""
Frames of event recordings: counts or ones, by step, polarity, row and column.

    "events"   each frame has floor(N / steps) events that follow each other; the rest is dropped
    "time"     each frame takes floor((t_last - t_first) / steps) microseconds; the rest is dropped

as tonic's `ToFrame` cuts them, but for recordings that are empty or too short, which give frames without
events. Each frame and polarity is resized on its own by W_h X W_w^T:

    "nearest"    row floor(i n / m) becomes row i, as in PyTorch
    "area"       averages over the exact area that a pixel covers: multiples of 1 / (a_h a_w), where a is
                 n / gcd(n, m): 1/64 for 128 to 48 pixels
    "bilinear"   weights of a triangle as wide as two pixels, as with PyTorch's antialias; they are on no
                 grid, so that results are rounded to one: 1/255 of binary frames, as 8-bit images in the
                 TET paper, 1/16 of counts

So frames stay integers in units of 1 / `per_unit`, which is what a compiler wants of its input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Resize = Literal["bilinear", "nearest", "area"]

FINEST = 64  # the finest grid that is kept; areas on a finer one are rounded like bilinear frames
BINARY_LEVELS = 255
COUNT_LEVELS = 16


@dataclass(frozen=True)
class Framing:
    """How recordings of a sensor of `height` and `width` become frames of `size`."""

    height: int
    width: int
    steps: int
    split_by: Literal["events", "time"]
    binary: bool
    resize: Resize
    size: tuple[int, int]

    @property
    def per_unit(self) -> int:
        """Frames are integers in units of one by this."""
        if self.size == (self.height, self.width) or self.resize == "nearest":
            return 1
        if self.resize == "area":
            parts = _parts(self.height, self.size[0]) * _parts(self.width, self.size[1])
            if parts <= FINEST:
                return parts
        return BINARY_LEVELS if self.binary else COUNT_LEVELS

    @property
    def dtype(self) -> type[np.uint8 | np.uint16]:
        """The integers that hold frames: 0 to 1 or, in units of 1 / `per_unit`, counts up to 65,535."""
        return np.uint8 if self.binary else np.uint16

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of a recording's frames: steps, polarities, height, width."""
        return (self.steps, 2, *self.size)

    def frames(
        self, t: NDArray[Any], x: NDArray[Any], y: NDArray[Any], p: NDArray[Any]
    ) -> NDArray[Any]:
        """
        Return the frames of a recording of events at times `t`, columns `x`, rows `y`, polarities `p`.

        All are (N,) and within the sensor; events are taken in the order of time.
        """
        if len(t) and (np.diff(t) < 0).any():
            order = np.argsort(t, kind="stable")
            t, x, y, p = t[order], x[order], y[order], p[order]
        step = _steps_by_count(len(t), self.steps)
        if self.split_by == "time":
            step = _steps_by_time(t, self.steps)
        places = np.ravel_multi_index(
            (step[step >= 0], *(values[step >= 0].astype(np.int64) for values in (p, y, x))),
            (self.steps, 2, self.height, self.width),
        )
        counts = np.bincount(places, minlength=self.steps * 2 * self.height * self.width)
        happened = np.minimum(counts, 1) if self.binary else counts
        return self._resized(happened.reshape(self.steps, 2, self.height, self.width))

    def _resized(self, counts: NDArray[Any]) -> NDArray[Any]:
        if self.size != (self.height, self.width):
            counts = np.rint(resized(counts, self.resize, self.size) * self.per_unit)
        stored: NDArray[Any] = np.minimum(counts, np.iinfo(self.dtype).max).astype(self.dtype)
        return stored


def resized(values: NDArray[Any], resize: Resize, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return `values` (..., height, width) in another `size`, before they are rounded."""
    rows = weights_of(resize, values.shape[-2], size[0])
    columns = weights_of(resize, values.shape[-1], size[1])
    # One product for all frames: many small ones are far slower where cores are busy
    across = np.tensordot(values.astype(np.float64), columns, (-1, 1))
    return np.swapaxes(np.tensordot(across, rows, (-2, 1)), -1, -2)


@lru_cache(maxsize=64)
def weights_of(resize: Resize, before: int, after: int) -> NDArray[np.float64]:
    """Return the weights (after, before) by which `before` pixels in a row become `after`."""
    weights = np.zeros((after, before))
    scale = before / after
    for row in range(after):
        if resize == "nearest":
            weights[row, row * before // after] = 1
            continue
        pixels = np.arange(before)
        if resize == "area":  # in units of 1 / after of a pixel, exactly
            start, end = row * before, (row + 1) * before
            covered = np.minimum(end, (pixels + 1) * after) - np.maximum(start, pixels * after)
            weights[row] = np.maximum(covered, 0) / before
        else:
            distance = np.abs(pixels + 0.5 - (row + 0.5) * scale) / max(scale, 1.0)
            triangle = np.maximum(0.0, 1.0 - distance)
            weights[row] = triangle / triangle.sum()
    return weights


def _parts(before: int, after: int) -> int:
    return before // math.gcd(before, after)


def _steps_by_count(events: int, steps: int) -> NDArray[np.int64]:
    """Return the step of each event, -1 for those that are dropped."""
    each = events // steps
    step = np.full(events, -1)
    step[: each * steps] = np.repeat(np.arange(steps), each)
    return step


def _steps_by_time(t: NDArray[Any], steps: int) -> NDArray[np.int64]:
    """Return the step of each event, -1 for those that are dropped; `t` is in order."""
    times = t.astype(np.int64)
    width = (times[-1] - times[0]) // steps if len(times) else 0
    if width == 0:
        return np.full(len(times), -1)
    step = (times - times[0]) // width
    return np.where(step < steps, step, -1)
