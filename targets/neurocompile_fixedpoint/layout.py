"""
How the compiled engine arranges the neurons of a population, and which sums each event reaches.

The chip's order, and that of every array that comes in or goes out, is C order, channels first. Here
channels come last: what one spike adds to all output channels of a pixel, and of the pixels beside it,
lies side by side in the sums and in the weights alike, so that a spike costs a few long additions.

For a convolution of stride S, padding P and dilation D, the source column x reaches the target column
(x + P - D k) / S by its tap k, where that is whole. Which taps are, depends on x + P mod S alone, so the
weights of a channel are laid out by kernel row, by that remainder, and by falling k; the target columns
then rise by D / gcd(S, D), and are neighbours if that is 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.integer import Geometry, Integer, IntegerSynapses, Shape, image_shape

Index = NDArray[np.int32]
Weights = NDArray[np.signedinteger[Any]]  # of the type that the kernels will read

NARROW_MAXIMUM = (1 << 15) - 1  # of sums that spikes add up to in 16 bits


@dataclass(frozen=True)
class Layout:
    """An image of (channels, height, width) whose channels come last; a vector is one pixel."""

    channels: int
    height: int = 1
    width: int = 1

    @property
    def size(self) -> int:
        return self.channels * self.height * self.width

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def units(self) -> int:
        """How many parts events are counted by: pixels, or the neurons of a vector."""
        return self.pixels if self.pixels > 1 else self.channels

    @property
    def view(self) -> Shape:
        return self.channels, self.height, self.width

    def inside(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return `values`, (..., in C order), in this order."""
        image = values.reshape(*values.shape[:-1], self.channels, self.pixels)
        return np.ascontiguousarray(image.swapaxes(-1, -2)).reshape(values.shape)

    def outside(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return `values`, (..., in this order), in C order."""
        image = values.reshape(*values.shape[:-1], self.pixels, self.channels)
        return image.swapaxes(-1, -2).reshape(values.shape)


def layout_of(shape: Shape, arriving: Iterable[IntegerSynapses]) -> Layout:
    """Return the layout of a population: an image if its shape is one, or if convolutions see it as one."""
    views = [group.target_view for group in arriving if group.geometry is not None]
    image = next((view for view in views if len(view) == 3), image_shape(shape))
    if len(image) == 3:
        return Layout(*image)
    return Layout(math.prod(shape))


@dataclass(frozen=True)
class Segments:
    """
    Which runs of sums an event of each pixel reaches; see `kernels.scatter`.

    `weight` is (channels, all that an event of the channel can add); `offset` is where the targets of a
    channel's group begin.
    """

    channels: int
    first: Index  # (pixels + 1,)
    start: Index
    length: Index
    row: Index
    offset: Index  # (channels,)
    weight: Weights

    @property
    def fan_out(self) -> float:
        """The synapses of an average source neuron."""
        pixels = len(self.first) - 1
        return float(self.length.sum()) / max(1, pixels)


def suits(
    group: IntegerSynapses, views: tuple[Shape, Shape], source: Layout, target: Layout
) -> bool:
    """
    Return whether `segments_of` can lay `group` out.

    It can, but for a convolution that sees its source or target as another image than others do.
    """
    return group.geometry is None or views == (source.view, target.view)


def segments_of(
    weight: Weights, geometry: Geometry | None, source: Layout, target: Layout
) -> Segments:
    """Return what the events of a group's source add to the sums of its target."""
    if geometry is None:
        return _dense(weight, source, target)
    return _convolution(weight, geometry, source, target)


def _dense(weight: Weights, source: Layout, target: Layout) -> Segments:
    by_source = source.inside(target.inside(weight.T).T).T
    zero = np.zeros(1, np.int32)
    return Segments(
        channels=source.size,
        first=np.array([0, 1], np.int32),
        start=zero,
        length=np.array([target.size], np.int32),
        row=zero,
        offset=np.zeros(source.size, np.int32),
        weight=by_source,
    )


def _convolution(weight: Weights, geometry: Geometry, source: Layout, target: Layout) -> Segments:
    outputs, _, kernel_h, kernel_w = weight.shape
    own = outputs // geometry.groups
    taps, place = _order_of_taps(kernel_w, geometry)
    runs = [
        _runs(x, geometry, taps, target.width, target.channels, own) for x in range(source.width)
    ]
    pixel: list[NDArray[np.int64]] = []
    start: list[NDArray[np.int64]] = []
    row: list[NDArray[np.int64]] = []
    length: list[NDArray[np.int64]] = []
    column = np.repeat(np.arange(source.width), [len(found) for found in runs])
    flat = np.array([run for found in runs for run in found], np.int64).reshape(-1, 3)
    for y in range(source.height):
        for tap in range(kernel_h):
            line, rest = divmod(
                y + geometry.padding[0] - tap * geometry.dilation[0], geometry.stride[0]
            )
            if rest or not 0 <= line < target.height:
                continue
            pixel.append(y * source.width + column)
            start.append(line * target.width * target.channels + flat[:, 0])
            row.append(tap * kernel_w * own + flat[:, 1])
            length.append(flat[:, 2])
    pixels = np.concatenate([np.zeros(0, np.int64), *pixel])
    order = np.argsort(pixels, kind="stable")
    counts = np.bincount(pixels, minlength=source.pixels)

    def ordered(parts: list[NDArray[np.int64]]) -> Index:
        return np.concatenate([np.zeros(0, np.int64), *parts])[order].astype(np.int32)

    # (channels in, kernel rows, taps in order, channels out), the groups one after the other.
    grouped = weight.reshape(geometry.groups, own, -1, kernel_h, kernel_w)[..., place]
    by_channel = grouped.transpose(0, 2, 3, 4, 1).reshape(source.channels, -1)
    per_group = source.channels // geometry.groups
    return Segments(
        channels=source.channels,
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        start=ordered(start),
        length=ordered(length),
        row=ordered(row),
        offset=(np.arange(source.channels) // per_group * own).astype(np.int32),
        weight=by_channel,
    )


def _order_of_taps(
    kernel: int, geometry: Geometry
) -> tuple[list[list[tuple[int, int]]], list[int]]:
    """Return, for each remainder of x + padding, its taps with their places in the order; and the order."""
    stride, dilation = geometry.stride[1], geometry.dilation[1]
    place: list[int] = []
    taps: list[list[tuple[int, int]]] = []
    for remainder in range(stride):
        mine = [tap for tap in reversed(range(kernel)) if tap * dilation % stride == remainder]
        taps.append([(tap, len(place) + number) for number, tap in enumerate(mine)])
        place += mine
    return taps, place


def _runs(
    x: int,
    geometry: Geometry,
    taps: list[list[tuple[int, int]]],
    width: int,
    channels: int,
    own: int,
) -> list[tuple[int, int, int]]:
    """Return the runs of sums that column x reaches in a line: start, place in the weights, length."""
    stride, dilation = geometry.stride[1], geometry.dilation[1]
    reached = [
        ((x + geometry.padding[1] - tap * dilation) // stride, place)
        for tap, place in taps[(x + geometry.padding[1]) % stride]
    ]
    runs: list[tuple[int, int, int]] = []
    neighbours = own == channels  # of one group: the next pixel's channels follow this one's
    for column, place in reached:
        if not 0 <= column < width:
            continue
        start, row = column * channels, place * own
        if neighbours and runs and runs[-1][0] + runs[-1][2] == start:
            runs[-1] = (runs[-1][0], runs[-1][1], runs[-1][2] + own)
        else:
            runs.append((start, row, own))
    return runs


@dataclass(frozen=True)
class Lines:
    """
    Which weights each pixel of the target gathers; see `kernels.gather`.

    A line is a run of the source's units whose weights lie row after row in `weight`, (blocks of outputs,
    rows, outputs of a block). `reach` is the largest magnitude that the sum of one line's spikes can have.
    """

    outputs: int
    first: Index  # (pixels of the target + 1,)
    begin: Index
    end: Index
    base: Index
    row: NDArray[np.int64]
    weight: Weights
    reach: int


def gathers(group: IntegerSynapses) -> bool:
    """Return whether `lines_of` can lay `group` out: every channel of its source reaches every output."""
    return group.geometry is None or group.geometry.groups == 1


def lines_of(
    weight: Weights,
    geometry: Geometry | None,
    source: Layout,
    target: Layout,
    widths: Sequence[int],
) -> Lines:
    """Return what each pixel of a group's target gathers, in blocks of one of these widths."""
    if geometry is None:
        return _dense_lines(weight, source, target, widths)
    return _window_lines(weight, geometry, source, target, widths)


def _dense_lines(weight: Weights, source: Layout, target: Layout, widths: Sequence[int]) -> Lines:
    """Cut the source into runs of units whose spikes add up to 16 bits at most, as far as that goes."""
    rows = source.inside(target.inside(weight.T).T).T
    by_unit = rows.reshape(source.units, source.size // source.units, -1)
    cuts, reach = [0], 0
    high = low = np.zeros(target.size, np.int64)
    for unit, weights in enumerate(by_unit):
        positive = np.maximum(weights, 0).sum(0, dtype=np.int64)
        negative = np.minimum(weights, 0).sum(0, dtype=np.int64)
        largest = max((high + positive).max(initial=0), -(low + negative).min(initial=0))
        if largest > NARROW_MAXIMUM and unit > cuts[-1]:
            cuts.append(unit)
            high, low = positive, negative
        else:
            high, low = high + positive, low + negative
        reach = max(reach, int(high.max(initial=0)), -int(low.min(initial=0)))
    cuts.append(source.units)
    ends = np.array(cuts, np.int32)
    return Lines(
        outputs=target.size,
        first=np.array([0, len(cuts) - 1], np.int32),
        begin=ends[:-1],
        end=ends[1:],
        base=np.zeros(len(cuts) - 1, np.int32),
        row=np.zeros(len(cuts) - 1, np.int64),
        weight=_in_blocks(rows, widths),
        reach=reach,
    )


def _window_lines(
    weight: Integer,
    geometry: Geometry,
    source: Layout,
    target: Layout,
    widths: Sequence[int],
) -> Lines:
    """
    A line of a window is one row of its kernel: pixels side by side, weights one after the other.

    It is one tap where taps are apart; or where taps are equal, as in a kernel that begins with an average
    pool: their weights are kept once, as fewer weights stay nearer to the processor.
    """
    outputs, channels, kernel_h, kernel_w = weight.shape
    by_tap = np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).reshape(-1, channels, outputs)
    place, kept = _equal_taps(by_tap)
    single = geometry.dilation[1] > 1 or len(kept) < len(by_tap)
    taps = [(tap, 1) for tap in range(kernel_w)] if single else [(0, kernel_w)]
    top = np.arange(target.height) * geometry.stride[0] - geometry.padding[0]
    left = np.arange(target.width) * geometry.stride[1] - geometry.padding[1]
    shape = target.height, target.width, kernel_h * len(taps)
    inside = np.zeros(shape, np.bool_)
    begin, end, base, row = np.zeros((4, *shape), np.int64)
    number = 0
    for line in range(kernel_h):
        y = (top + line * geometry.dilation[0])[:, np.newaxis]
        for tap, reach in taps:
            x = (left + tap * geometry.dilation[1])[np.newaxis]
            first, last = np.maximum(x, 0), np.minimum(x + reach, source.width)
            inside[..., number] = (y >= 0) & (y < source.height) & (first < last)
            begin[..., number] = y * source.width + first
            end[..., number] = y * source.width + last
            base[..., number] = (y * source.width + x) * channels
            row[..., number] = place[line * kernel_w + tap] * channels
            number += 1
    scale = source.units // source.pixels  # a vector may be seen as one pixel
    together = by_tap.reshape(kernel_h * len(taps), -1, outputs)
    reach = max(
        int(np.maximum(together, 0).sum(1, dtype=np.int64).max(initial=0)),
        int(-np.minimum(together, 0).sum(1, dtype=np.int64).min(initial=0)),
    )
    counts = inside.reshape(target.pixels, -1).sum(1)
    return Lines(
        outputs=outputs,
        first=np.concatenate([[0], counts.cumsum()]).astype(np.int32),
        begin=(begin[inside] * scale).astype(np.int32),
        end=(end[inside] * scale).astype(np.int32),
        base=base[inside].astype(np.int32),
        row=row[inside],
        weight=_in_blocks(by_tap[kept].reshape(-1, outputs), widths),
        reach=reach,
    )


def _equal_taps(by_tap: Weights) -> tuple[list[int], list[int]]:
    """Return for each tap the place of its weights among those that are kept, and which are kept."""
    kept: list[int] = []
    place: list[int] = []
    for tap, weight in enumerate(by_tap):
        same = (number for number, other in enumerate(kept) if (by_tap[other] == weight).all())
        place.append(next(same, len(kept)))
        if place[-1] == len(kept):
            kept.append(tap)
    return place, kept


def _in_blocks(rows: Weights, widths: Sequence[int]) -> Weights:
    """Return `rows`, (rows, outputs), as (blocks, rows, width), padded with zeros."""
    width = next((width for width in widths if width >= rows.shape[1]), max(widths))
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % width)))
    return padded.reshape(len(rows), -1, width).transpose(1, 0, 2)
