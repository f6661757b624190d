"""
Numbers in bytes, which is what ONNX's integer operators multiply; needs numpy only.

A number is the sum of 256^`place` (byte - `zero`) over its digits: those of its two's complement, of which all
but the last are unsigned.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import Problem
from neurocompile.integer import Integer, IntegerNetwork
from neurocompile_onnx.ranges import (
    INT32_END,
    Range,
    common_divisor,
    magnitude,
    range_of,
    span,
)

BYTE_BITS = 8
BYTE = 1 << BYTE_BITS
SIGNED = 1 << (BYTE_BITS - 1)  # the zero point of signed numbers in unsigned bytes
PAIR_END = (1 << 15) - 1  # the largest sum of two products, where 16 bits saturate

V = TypeVar("V")  # an array of weights, or a tensor of a graph


@dataclass(frozen=True)
class Digit(Generic[V]):
    """Bytes of numbers, and what they stand for: 256^`place` (byte - `zero`), from `low` to `high`."""

    value: V
    place: int
    zero: int
    low: int
    high: int

    @property
    def magnitude(self) -> int:
        return magnitude((self.low, self.high))


@dataclass(frozen=True)
class Weights:
    """The weights of a group: `divisor` times the sum of `digits`."""

    divisor: int
    digits: tuple[Digit[NDArray[Any]], ...]
    largest: int  # sum of magnitudes in a row, before the division


def problems_of_sums(network: IntegerNetwork) -> Iterable[Problem]:
    """Yield the groups of which the products of bytes could leave 32 bits."""
    for group in network.synapses:
        values = range_of(network[group.source])
        low, high = values
        count, _ = places_of(low, high)
        largest = BYTE - 1 if count > 1 else magnitude(values)
        for digit in split(group.weight, values).digits:
            reach = row_sums(digit) * largest
            if reach > INT32_END:
                yield Problem(
                    group.name,
                    f"needs sums of bytes up to {INT32_END}, which ONNX's operators add up",
                    f"they could reach {reach}",
                    "use smaller kernels or fewer inputs to a neuron",
                )
                break


def split(weight: Integer, values: Range, *, unsigned: bool = False) -> Weights:
    """Return `weight` in bytes, for products with values in a range; `unsigned`: all bytes are uint8."""
    divisor = common_divisor(weight)
    narrow = weight // divisor
    flat = np.abs(weight.reshape(len(weight), -1))
    largest = int(flat.sum(1).max(initial=0))
    byte = _largest_byte(values)
    return Weights(divisor, tuple(_digits(narrow, byte, unsigned=unsigned)), largest)


def _digits(weight: Integer, largest_byte: int, *, unsigned: bool) -> Iterable[Digit[NDArray[Any]]]:
    low, high = span(weight)
    positive = low >= 0 and high >= SIGNED
    count, _ = places_of(low if positive else min(low, -1), high)
    rest = weight
    for place in range(count - 1):
        yield Digit((rest % BYTE).astype(np.uint8), place, 0, 0, BYTE - 1)
        rest = rest >> BYTE_BITS
    low, high = span(rest)
    if positive:
        yield Digit(rest.astype(np.uint8), count - 1, 0, low, high)
    elif unsigned or 2 * magnitude((low, high)) * largest_byte > PAIR_END:
        yield Digit((rest + SIGNED).astype(np.uint8), count - 1, SIGNED, low, high)
    else:
        yield Digit(rest.astype(np.int8), count - 1, 0, low, high)


def _largest_byte(values: Range) -> int:
    """Return the largest byte that values in a range are stored as."""
    low, high = values
    if low >= 0 and high < BYTE:
        return high
    count, _ = places_of(low, high)
    return high + SIGNED if count == 1 else BYTE - 1


def places_of(low: int, high: int) -> tuple[int, int]:
    """Return how many bytes numbers from `low` to `high` take, and what makes them positive."""
    count = 1
    if low >= 0:
        while high >= BYTE**count:
            count += 1
        return count, 0
    while not -(SIGNED * BYTE ** (count - 1)) <= low <= high < SIGNED * BYTE ** (count - 1):
        count += 1
    return count, SIGNED * BYTE ** (count - 1)


def row_sums(digit: Digit[NDArray[Any]]) -> int:
    """Return the largest sum of magnitudes in a row of weights."""
    array = digit.value.astype(np.int64) - digit.zero
    return int(np.abs(array.reshape(len(array), -1)).sum(1).max(initial=0))
