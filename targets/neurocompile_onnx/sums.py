"""
Input sums in ONNX's integer operators, which multiply bytes.

`ConvInteger` and `MatMulInteger` take 8-bit integers and add up in 32 bits. So numbers become bytes, exactly:

    weights    divided by what they have in common (2 for Loihi's even weights), as int8, if they fit
    wider      bytes of their two's complement: w = sum of 256^j w_j, unsigned but for the last
    values     uint8; signed ones by a zero point of 128, wider ones byte by byte as well

    sum = divisor 2^exponent  sum over i, j of 256^(i + j)  x_i * w_j

Each `x_i * w_j` must fit into 32 bits in the worst case, which `digits.problems_of_sums` proves from the weights.

On x86 without VNNI, ONNX Runtime multiplies uint8 with int8 by an instruction that adds pairs of products in
saturating 16 bits (its documentation calls that the U8S8 saturation issue). Where two products could leave 16
bits, weights are stored as uint8 with a zero point of 128, for which another kernel is taken. So are those of
convolutions, as older versions have no `ConvInteger` for others.

With `kernels` "float", what float32 computes exactly (no partial sum reaches 2^24, again from the weights) is a
`Conv` or `MatMul`: on most processors that is quicker, and the weights are stored as integers all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurocompile.integer import IntegerNetwork, IntegerSynapses, Shape
from neurocompile_onnx.digits import BYTE, SIGNED, Digit, Weights, places_of, row_sums, split
from neurocompile_onnx.graph import Graph, Value
from neurocompile_onnx.ranges import (
    Range,
    magnitude,
    range_of,
    smallest_type,
    span,
    wide_type,
)

EXACT_IN_FLOAT32 = 1 << 24


@dataclass(frozen=True)
class Sum:
    """Sums in a graph, (batch, *shape), and the largest magnitude they can have."""

    value: Value
    largest: int


class Sums:
    """Writes the sums of groups of synapses into `graph`; bytes of a source's values are made once."""

    def __init__(self, graph: Graph, network: IntegerNetwork, kernels: str) -> None:
        self.graph, self.network, self.kernels = graph, network, kernels
        self._digits: dict[str, tuple[Digit[Value], ...]] = {}

    def deliver(
        self, group: IntegerSynapses, x: Value, times: int = 1, *, only: int | None = None
    ) -> Sum:
        """
        Return what `group` delivers of the values `x`, (batch, *source shape), `times` that number.

        The sum has the target's shape, and the exponent is applied, rounded as in `definition.shift`.
        `only` takes the synapses of one delay, where each has its own.
        """
        source = self.network[group.source].shape
        target = self.network[group.target].shape
        views = self.network.views(group)
        values = range_of(self.network[group.source])
        # `Where` takes uint8 alone, and so does the ConvInteger of ONNX Runtime up to 1.23 at least.
        unsigned = only is not None or group.geometry is not None
        weights = split(group.weight, values, unsigned=unsigned)
        worst = weights.largest * magnitude(values)
        graph = self.graph
        as_float = (
            self.kernels == "float"
            and only is None
            and worst < EXACT_IN_FLOAT32 * weights.divisor
            and magnitude(values) < EXACT_IN_FLOAT32
        )
        if as_float:
            summed = self._in_float(group, x, weights.divisor, views)
        else:
            digits = self._bytes_of(x, values)
            summed = self._in_bytes(group, digits, weights, source, views, only)
        largest = worst // weights.divisor
        left = weights.divisor
        if group.exponent >= 0:
            left = (left << group.exponent) * times
        result = self._times(Sum(summed, largest), left)
        if group.exponent < 0:
            result = self._shifted(result, -group.exponent, to_nearest=group.on_host)
            result = self._times(result, times)
        shaped = views[1] if group.geometry is not None else (_count(target),)
        if shaped != target:
            result = replace(result, value=graph.reshape(result.value, (0, *target)))
        return result

    def total(self, parts: Iterable[Sum]) -> Sum | None:
        """Return the sum of `parts`, None if there are none."""
        found: Sum | None = None
        for part in parts:
            found = part if found is None else self.add(found, part)
        return found

    def add(self, first: Sum, second: Sum) -> Sum:
        """Return the sum of two sums."""
        largest = first.largest + second.largest
        dtype = wide_type(largest)
        operands = [self.graph.cast(part.value, dtype) for part in (first, second)]
        return Sum(self.graph.node("Add", *operands), largest)

    def _times(self, item: Sum, factor: int) -> Sum:
        if factor == 1:
            return item
        largest = item.largest * factor
        # A group of zeros may have any exponent.
        dtype = wide_type(max(largest, factor))
        by = self.graph.constant(f"times_{factor}", factor, dtype)
        return Sum(self.graph.node("Mul", self.graph.cast(item.value, dtype), by), largest)

    def _shifted(self, item: Sum, bits: int, *, to_nearest: bool) -> Sum:
        """Return `item >> bits`, by a division of what is not negative."""
        rounding = 1 << (bits - 1) if to_nearest else 0
        offset = (item.largest >> bits) + 1
        dtype = wide_type(item.largest + (offset << bits) + rounding)
        graph = self.graph
        add = graph.constant("offset", (offset << bits) + rounding, dtype)
        divisor = graph.constant(f"two_to_{bits}", 1 << bits, dtype)
        divided = graph.node("Div", graph.node("Add", graph.cast(item.value, dtype), add), divisor)
        shifted = graph.node("Sub", divided, graph.constant("offset", offset, dtype))
        return Sum(shifted, ((item.largest + rounding) >> bits) + 1)

    def _bytes_of(self, x: Value, values: Range) -> tuple[Digit[Value], ...]:
        if x.name not in self._digits:
            self._digits[x.name] = tuple(self._split_values(x, values))
        return self._digits[x.name]

    def _split_values(self, x: Value, values: Range) -> Iterable[Digit[Value]]:
        graph, (low, high) = self.graph, values
        if low >= 0 and high < BYTE:
            yield Digit(graph.cast(x, np.uint8), 0, 0, low, high)
            return
        count, offset = places_of(low, high)
        if count == 1:
            moved = graph.node(
                "Add", graph.cast(x, np.int32), graph.constant("signed", SIGNED, np.int32)
            )
            yield Digit(graph.cast(moved, np.uint8), 0, SIGNED, low, high)
            return
        dtype = wide_type(high + offset)
        rest = graph.cast(x, dtype)
        if offset:
            rest = graph.node("Add", rest, graph.constant("offset", offset, dtype))
        byte = graph.constant("byte", BYTE, dtype)
        for place in range(count - 1):
            digit = graph.node("Mod", rest, byte)
            yield Digit(graph.cast(digit, np.uint8), place, 0, 0, BYTE - 1)
            rest = graph.node("Div", rest, byte)
        zero = SIGNED if offset else 0
        scale = BYTE ** (count - 1)
        # The last digit is the number's, rounded down.
        yield Digit(graph.cast(rest, np.uint8), count - 1, zero, low // scale, high // scale)

    def _in_bytes(
        self,
        group: IntegerSynapses,
        values: tuple[Digit[Value], ...],
        weights: Weights,
        source: Shape,
        views: tuple[Shape, Shape],
        only: int | None,
    ) -> Value:
        seen = [(x, self._seen(group, x.value, source, views)) for x in values]
        found: Value | None = None
        largest = 0
        graph = self.graph
        narrow = smallest_type(span(group.delay))
        for w in weights.digits:
            weight = graph.constant("weight", _laid_out(group, w.value))
            if only is not None:
                delays = graph.constant("delay", _laid_out(group, group.delay.astype(narrow)))
                late = graph.constant(f"{only}", only, np.int32)
                has = graph.node("Equal", graph.cast(delays, np.int32), late, dtype=bool)
                zero = self._zero(w.zero, np.uint8)
                weight = graph.node("Where", has, weight, zero, dtype=np.uint8)
            for x, value in seen:
                zeros = []
                if x.zero or w.zero:
                    zeros.append(self._zero(x.zero, np.uint8))
                if w.zero:
                    zeros.append(self._zero(w.zero, w.value.dtype))
                product = self._multiply(group, "Integer", value, weight, zeros, np.int32)
                scale = BYTE ** (x.place + w.place)
                reach = row_sums(w) * x.magnitude * scale
                part = self._times(Sum(product, reach // scale), scale)
                if found is None:
                    found, largest = part.value, reach
                else:
                    both = self.add(Sum(found, largest), part)
                    found, largest = both.value, both.largest
        assert found is not None
        return found

    def _in_float(
        self, group: IntegerSynapses, x: Value, divisor: int, views: tuple[Shape, Shape]
    ) -> Value:
        graph = self.graph
        source = self.network[group.source].shape
        narrow = group.weight // divisor
        stored = narrow.astype(smallest_type(span(narrow)))
        weight = graph.cast(graph.constant("weight", _laid_out(group, stored)), np.float32)
        value = self._seen(group, graph.cast(x, np.float32), source, views)
        product = self._multiply(group, "", value, weight, (), np.float32)
        return graph.cast(product, np.int32)

    def _seen(
        self, group: IntegerSynapses, x: Value, source: Shape, views: tuple[Shape, Shape]
    ) -> Value:
        """Return values of the source as `group` sees them: an image, or a row."""
        shape = views[0] if group.geometry is not None else (_count(source),)
        return x if shape == source else self.graph.reshape(x, (0, *shape))

    def _multiply(
        self,
        group: IntegerSynapses,
        suffix: str,
        x: Value,
        weight: Value,
        zeros: Sequence[Value],
        dtype: Any,
    ) -> Value:
        if group.geometry is None:
            return self.graph.node(f"MatMul{suffix}", x, weight, *zeros, name="sum", dtype=dtype)
        geometry = group.geometry
        return self.graph.node(
            f"Conv{suffix}",
            x,
            weight,
            *zeros,
            name="sum",
            dtype=dtype,
            strides=geometry.stride,
            pads=(*geometry.padding, *geometry.padding),
            dilations=geometry.dilation,
            group=geometry.groups,
            kernel_shape=group.weight.shape[2:],
        )

    def _zero(self, number: int, dtype: Any) -> Value:
        return self.graph.constant("zero_point", number, dtype)


def _laid_out(group: IntegerSynapses, weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return weights as the operators take them: (in, out) for a product of matrices."""
    return weight.T if group.geometry is None else weight


def _count(shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64))
