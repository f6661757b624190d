"""
Input sums on PyTorch tensors: exact matrix products of floats, and the ranges that prove it.

An integer below 2^24 is a float32, one below 2^53 a float64. A matrix product adds products of its
entries, in an order that we do not know, with or without fused multiply-adds: it rounds nothing if every
sum of any of the products is such an integer, for which max_rows(sum |w|) * max |x| below 2^24 (or 2^53)
is enough. Multiplying all weights by the same power of two moves exponents only. Where neither is proven,
the values of each step are checked, and refused as the definition refuses them.

Convolutions of libraries may go through Winograd's transform or an FFT, whose coefficients are no
integers. So windows are copied out (im2col), and multiplied as a matrix. Several windows side by side may
share one row of the product (`Convolution.side_by_side`); weights that do not belong to a window are 0.

Populations lie in memory with their channels last, as windows do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocompile.integer import Integer, IntegerSynapses, Shape, conv_output
from neurocompile_fixedpoint.definition import DECAY_BITS, EXACT_IN_FLOAT64

EXACT_IN_FLOAT32 = 1 << 24
INT32 = 1 << 31
UNKNOWN = 1 << 62


@dataclass(frozen=True)
class Span:
    """Integers from `low` to `high`; 0, which everything is before a sample, is among them."""

    low: int = 0
    high: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", min(int(self.low), 0))
        object.__setattr__(self, "high", max(int(self.high), 0))

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def union(self, other: Span) -> Span:
        return Span(min(self.low, other.low), max(self.high, other.high))

    @property
    def magnitude(self) -> int:
        return max(-self.low, self.high)

    def shifted(self, exponent: int, rounding: int = 0) -> Span:
        if exponent >= 0:
            return Span(self.low << exponent, self.high << exponent)
        return Span((self.low + rounding) >> -exponent, (self.high + rounding) >> -exponent)

    def decayed(self, factor: int) -> Span:
        return Span(-((-self.low * factor) >> DECAY_BITS), (self.high * factor) >> DECAY_BITS)


def span_of(values: NDArray[Any]) -> Span:
    """Return where all of `values` are."""
    return Span(values.min(initial=0), values.max(initial=0))


def places(shape: Shape) -> Integer:
    """Return, for each place of a population that is stored channels last, its place in C order."""
    order = np.arange(int(np.prod(shape))).reshape(shape)
    return np.moveaxis(order, 0, -1).ravel() if len(shape) in {2, 3} else order.ravel()


def channels_last(shape: Shape) -> Shape:
    """Return the shape in which a population of `shape` is stored."""
    return (*shape[1:], shape[0]) if len(shape) in {2, 3} else shape


def _inverse(places: Integer) -> Integer:
    inverse = np.empty_like(places)
    inverse[places] = np.arange(len(places))
    return inverse


class Scratch:
    """Memory for a block of samples, kept from block to block: new memory costs a CPU as much as work."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kept: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, use: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """Return memory of this shape, with anything in it; until `use` is asked for again."""
        size = int(np.prod(shape))
        memory = self.kept.get((use, dtype))
        if memory is None or memory.numel() < size:
            memory = torch.empty(size, dtype=dtype, device=self.device)
            self.kept[use, dtype] = memory
        return memory[:size].view(shape)


class Dense:
    """Products with a whole matrix, (target, source), as stored."""

    def __init__(self, weight: Integer, source: Shape, target: Shape) -> None:
        self.weight, self.source, self.target = weight, source, target
        self.per_sample = 0

    def bias(self, values: Integer) -> Integer | None:
        """Return `values`, one for each neuron, as they are added to each row of the product."""
        return values

    def matrix(self) -> Integer:
        stored: Integer = self.weight[np.ix_(places(self.target), places(self.source))]
        return stored

    def add(
        self,
        x: Tensor,
        matrix: Tensor,
        bias: Tensor | None,
        sums: Tensor,
        scratch: Scratch,
        *,
        more: bool,
    ) -> None:
        """Put the products of `x` and the bias into `sums`, or add them if there are `more`."""
        values = x if x.dtype == sums.dtype else scratch.take("x", sums.dtype, *x.shape).copy_(x)
        _multiply(values, matrix.T, bias, sums, more=more)


def _multiply(
    rows: Tensor, matrix: Tensor, bias: Tensor | None, sums: Tensor, *, more: bool
) -> None:
    if more:
        sums.addmm_(rows, matrix)
    elif bias is not None:
        torch.addmm(bias, rows, matrix, out=sums)
    else:
        torch.mm(rows, matrix, out=sums)


class Convolution:
    """
    Products with windows of an image.

    A row of the product is what `side_by_side` windows of one row of the image cover together, and gives
    their results: fewer and longer runs to copy, for more products with 0.
    """

    def __init__(
        self,
        group: IntegerSynapses,
        shapes: tuple[Shape, Shape],
        views: tuple[Shape, Shape],
        device: torch.device,
    ) -> None:
        assert group.geometry is not None
        self.device = device
        self.geometry = geometry = group.geometry
        out, self.channels = group.weight.shape[:2]
        self.kernel: Shape = group.weight.shape[2:]
        self.image: Shape = views[0]
        self.padded = [
            extent + 2 * padding
            for extent, padding in zip(views[0][1:], geometry.padding, strict=True)
        ]
        self.size = [
            conv_output(extent, size, stride, 0, dilation)
            for extent, size, stride, dilation in zip(
                self.padded, self.kernel, geometry.stride, geometry.dilation, strict=True
            )
        ]
        self.out = out
        self.weight = group.weight
        self.side_by_side = self._cheapest()
        self.from_source = self._moved(places(shapes[0]), places(views[0]))
        rows = self.size[0] * self.size[1] // max(self.side_by_side, 1)
        columns = self._columns(self.side_by_side)[0]
        values = self.kernel[0] * columns * self.channels * geometry.groups
        self.per_sample = rows * values + int(np.prod(self.padded)) * self.image[0]
        self.to_target = self._moved(places((out, *self.size)), places(shapes[1]))
        # The device keeps a padded image; its border stays 0.
        self.images: dict[torch.dtype, Tensor] = {}

    def _moved(self, have: Integer, want: Integer) -> Tensor | None:
        """Return which stored value is wanted at each place, or None if all are there already."""
        if np.array_equal(have, want):
            return None
        return torch.from_numpy(_inverse(have)[want]).to(self.device)

    def _columns(self, windows: int) -> tuple[int, int]:
        """Return how many columns so many windows take from the image, and how far these are apart."""
        dilation = self.geometry.dilation[1]
        if windows == 1:
            return self.kernel[1], dilation
        return (windows - 1) * self.geometry.stride[1] + (self.kernel[1] - 1) * dilation + 1, 1

    def _cheapest(self) -> int:
        """Return how many windows go into a row: a divisor of the width, by what copies and products cost."""
        run, element, product = (10.0, 0.1, 0.02) if self.device.type == "cpu" else (0.0, 60.0, 1.0)
        groups, width = self.geometry.groups, self.size[1]

        def cost(windows: int) -> float:
            columns, apart = self._columns(windows)
            values = columns * self.channels
            runs = columns * groups if apart > 1 or groups > 1 else 1
            each: float = run * runs + (element * groups + product * windows * self.out) * values
            return each / windows

        return min((n for n in range(1, width + 1) if width % n == 0), key=cost)

    def bias(self, values: Integer) -> Integer | None:
        """Return `values` as they are added to each row of the product, if it can have them."""
        rows = values.reshape(-1, self.out)
        if self.geometry.groups > 1 or self.to_target is not None or (rows != rows[:1]).any():
            return None
        return np.tile(rows[0], self.side_by_side)

    def matrix(self) -> Integer:
        groups, windows = self.geometry.groups, self.side_by_side
        columns, apart = self._columns(windows)
        each = self.out // groups
        kernels = self.weight.reshape(groups, each, self.channels, *self.kernel)
        matrix = np.zeros((groups, self.kernel[0], columns, self.channels, windows, each), np.int64)
        for window in range(windows):
            for tap in range(self.kernel[1]):
                dilation = self.geometry.dilation[1] // apart
                column = window * self.geometry.stride[1] + tap * dilation
                matrix[:, :, column, :, window] = kernels[..., tap].transpose(0, 3, 2, 1)
        matrix = matrix.reshape(groups, -1, windows * each)
        return matrix if groups > 1 else matrix[0]

    def add(
        self,
        x: Tensor,
        matrix: Tensor,
        bias: Tensor | None,
        sums: Tensor,
        scratch: Scratch,
        *,
        more: bool,
    ) -> None:
        """Put the products of `x` and the bias into `sums`, or add them if there are `more`."""
        samples, groups, windows = len(x), self.geometry.groups, self.side_by_side
        if self.from_source is not None:
            x = x.index_select(1, self.from_source)
        rows = self._windows(x, sums.dtype, scratch)
        height, width = self.size
        if self.to_target is None and groups == 1:
            _multiply(rows, matrix, bias, sums.view(len(rows), -1), more=more)
            return
        shape = (samples * height * width // windows, windows, groups, self.out // groups)
        apart = scratch.take("apart", sums.dtype, groups, shape[0], windows * shape[3])
        torch.bmm(
            rows.view(groups, shape[0], -1), matrix.view(groups, rows.shape[-1], -1), out=apart
        )
        together = apart.view(groups, *shape[:2], shape[3]).permute(1, 2, 0, 3)
        if self.to_target is not None:
            flat = together.reshape(samples, -1).index_select(1, self.to_target)
        else:
            flat = together
        goal = sums.view(flat.shape)
        if more:
            goal.add_(flat)
        else:
            goal.copy_(flat)

    def _windows(self, x: Tensor, dtype: torch.dtype, scratch: Scratch) -> Tensor:
        """Return the windows of `x`, (rows, values), for each group if there are several."""
        samples, groups = len(x), self.geometry.groups
        (height, width), channels = self.padded, self.image[0]
        image = self.images.get(dtype)
        if image is None or len(image) < samples:
            size = (samples, height, width, channels)
            image = torch.zeros(size, dtype=dtype, device=self.device)
            self.images[dtype] = image
        image = image[:samples]
        (top, left), (down, right) = self.geometry.padding, self.geometry.stride
        inner = image[:, top : height - top, left : width - left]
        inner.copy_(x.view(inner.shape))
        columns, apart = self._columns(self.side_by_side)
        shape: Shape = (
            *(groups, samples, self.size[0], self.size[1] // self.side_by_side),
            *(self.kernel[0], columns, self.channels),
        )
        line = width * channels
        strides = (
            *(self.channels, height * line, down * line, self.side_by_side * right * channels),
            *(self.geometry.dilation[0] * line, apart * channels, 1),
        )
        windows = image.as_strided(shape, strides)
        values = self.kernel[0] * columns * self.channels
        rows = (samples * self.size[0] * self.size[1] // self.side_by_side, values)
        if groups > 1:
            rows = (groups * rows[0], values)
        if windows.is_contiguous():
            return windows.view(rows)
        copied = scratch.take("windows", dtype, *rows)
        copied.view(shape).copy_(windows)
        return copied


@dataclass
class Part:
    """
    The sum over one delay of a group, or over all that share a sum (as in `definition.input_sum`).

    `late` holds the delays, with 1 for each source neuron that has it, as stored; None for all of them.
    """

    group: IntegerSynapses
    product: Dense | Convolution
    late: tuple[tuple[int, Tensor | None], ...]
    negative: Integer  # sums over each row of the weights
    positive: Integer
    matrices: dict[tuple[torch.dtype, int], Tensor] = field(default_factory=dict)

    @property
    def rounding(self) -> int:
        exponent = self.group.exponent
        return 1 << (-exponent - 1) if exponent < 0 and self.group.on_host else 0

    def worst(self, source: Span) -> int:
        """Return a bound of every sum of any of the products."""
        return int((self.positive - self.negative).max(initial=0)) * source.magnitude

    def sums(self, source: Span) -> Span:
        """Return where the sums are, before the shift."""
        if max(worst := self.worst(source), source.magnitude) >= UNKNOWN:
            return Span(-worst, worst)
        low = self.positive * source.low + self.negative * source.high
        high = self.positive * source.high + self.negative * source.low
        return Span(low.min(initial=0), high.max(initial=0))

    def delivers(self, source: Span) -> Span:
        return self.sums(source).shifted(self.group.exponent, self.rounding)

    def matrix(self, dtype: torch.dtype, exponent: int, device: torch.device) -> Tensor:
        """Return the weights times 2^exponent, as the product takes them."""
        found = self.matrices.get((dtype, exponent))
        if found is None:
            numbers = np.ldexp(self.product.matrix().astype(np.float64), exponent)
            found = torch.from_numpy(np.ascontiguousarray(numbers)).to(device, dtype)
            self.matrices[dtype, exponent] = found
        return found

    def before(self, steps: int) -> Part | None:
        """Return what is left of this part in samples of so many steps: what comes later is nothing."""
        late = tuple((delay, mask) for delay, mask in self.late if delay < steps)
        return replace(self, late=late) if late else None

    def values(self, history: History, step: int) -> Tensor:
        """Return what arrives at `step`, (samples, source)."""
        found: Tensor | None = None
        for delay, has in self.late:
            values = history.at(step - delay)
            if has is not None:
                values = values * has
            found = values if found is None else found.add_(values)
        assert found is not None
        return found


class History:
    """The values of one population now and in the last steps, each (samples, neurons)."""

    def __init__(self, past: list[Tensor]) -> None:
        self.past = past

    def at(self, step: int) -> Tensor:
        return self.past[step % len(self.past)]

    def put(self, step: int, values: Tensor) -> None:
        self.past[step % len(self.past)] = values


class Arrivals:
    """
    The input sums of one population, times 2^`unit`, in int32 if they are `narrow`, else int64.

    Where no sum is shifted to the right, and all together stay exact, the products add up in float32,
    scaled by their weights; and `bias` comes with them, if `has_bias`.
    """

    def __init__(
        self,
        parts: list[Part],
        spans: Mapping[str, Span],
        device: torch.device,
        size: int,
        *,
        unit: int = 0,
        narrow: bool,
        bias: Integer | None = None,
    ) -> None:
        self.device, self.size, self.unit = device, size, unit
        self.dtype = torch.int32 if narrow else torch.int64
        self.spans = spans
        left = [part for part in parts if part.group.exponent >= 0]
        worst = sum(self._worst(part) << part.group.exponent for part in left)
        fold = narrow and worst < EXACT_IN_FLOAT32
        self.parts = parts
        self.folded = left if fold else []
        self.apart = [part for part in parts if not fold or part.group.exponent < 0]
        self.bias: Tensor | None = None
        if bias is not None and self.folded:
            total = (worst << unit) + int(np.abs(bias).max(initial=0))
            row = self.folded[0].product.bias(bias) if total < EXACT_IN_FLOAT32 else None
            if row is not None:
                self.bias = torch.from_numpy(row).to(device, torch.float32)

    @property
    def has_bias(self) -> bool:
        return self.bias is not None

    def _worst(self, part: Part) -> int:
        return part.worst(self.spans[part.group.source])

    def at(
        self, step: int, history: Mapping[str, History], samples: int, scratch: Scratch
    ) -> Tensor:
        """Return the sums at `step`, (samples, neurons), in scratch memory."""
        total = scratch.take("total", self.dtype, samples, self.size)
        if self.folded:
            sums = scratch.take("sums", torch.float32, samples, self.size)
            for number, part in enumerate(self.folded):
                x = part.values(history[part.group.source], step)
                matrix = part.matrix(torch.float32, self.unit + part.group.exponent, self.device)
                part.product.add(x, matrix, self.bias, sums, scratch, more=number > 0)
            total.copy_(sums)
        else:
            total.zero_()
        for part in self.apart:
            total.add_(self._shifted(part, part.values(history[part.group.source], step), scratch))
        return total

    def _shifted(self, part: Part, x: Tensor, scratch: Scratch) -> Tensor:
        """Return the sums of one part, shifted by its exponent and to the unit."""
        worst, exponent = self._worst(part), part.group.exponent
        exact = torch.float32 if worst < EXACT_IN_FLOAT32 else torch.float64
        if worst >= EXACT_IN_FLOAT64:
            _refuse_beyond_float64(part, x)
        sums = scratch.take("sums", exact, len(x), self.size)
        matrix = part.matrix(exact, 0, self.device)
        part.product.add(x, matrix, None, sums, scratch, more=False)
        whole = torch.int32 if worst << max(exponent, 0) + self.unit < INT32 // 2 else torch.int64
        shifted = scratch.take("shifted", whole, len(x), self.size).copy_(sums)
        if exponent < 0:
            shifted.add_(part.rounding).bitwise_right_shift_(-exponent)
        return shifted.bitwise_left_shift_(max(exponent, 0) + self.unit)


def _refuse_beyond_float64(part: Part, x: Tensor) -> None:
    """Refuse sums that float64 may not hold, as the definition does; the one place that waits for them."""
    largest = Span(0, int(x.abs().max().item()) if x.numel() else 0)
    worst = part.worst(largest)
    if worst >= EXACT_IN_FLOAT64:
        raise OverflowError(f"sums of '{part.group.name}' could reach {worst}, beyond 2^53")
