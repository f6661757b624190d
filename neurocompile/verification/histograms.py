"""
Weights and membranes before and after quantisation, in the same bins and the source's units.

Bins of membranes are whole multiples of a power of two, so that chunks of samples add up to what all at
once give: where a range grows, two bins become one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.integer import IntegerNeurons, IntegerRelay
from neurocompile.populations import PopulationNetwork
from neurocompile.program import Program
from neurocompile.verification.report import Histogram
from neurocompile.verification.rows import Ends

WEIGHT_BINS = 40
MOST_BINS = 64  # of membranes
FINEST = 5  # bits below the largest value, where all are the same

Float = NDArray[np.float64]


def weight_ends(program: Program) -> dict[str, Ends]:
    """Return what each group's weights may be, where the manifest says it."""
    quantisation = program.facts.get("quantisation")
    # Then samples may have chosen weights: how far off the farthest is, the manifest says.
    fitted = isinstance(quantisation, Mapping) and "calibration" in quantisation
    ends = {}
    for group in _told(program):
        try:
            name, least, most = str(group["name"]), group["least"], group["most"]
        except KeyError:
            continue
        if not (isinstance(least, int) and isinstance(most, int) and least < most):
            continue
        error = group.get("largest_error")
        if not fitted:
            ends[name] = Ends(least, most)
        elif isinstance(error, int | float) and math.isfinite(error):
            ends[name] = Ends(least, most, abs(float(error)))
    return ends


def clipped_weights(program: Program) -> dict[str, int]:
    """Return how many weights of each group were cut where integers end, where the manifest says it."""
    return {
        str(group["name"]): int(group["clipped"])
        for group in _told(program)
        if "name" in group and isinstance(group.get("clipped"), int)
    }


def _told(program: Program) -> Iterable[Mapping[str, Any]]:
    """Yield what the manifest tells of each group's weights."""
    quantisation = program.facts.get("quantisation")
    layers = quantisation.get("layers") if isinstance(quantisation, Mapping) else None
    for layer in layers.values() if isinstance(layers, Mapping) else ():
        groups = layer.get("weights") if isinstance(layer, Mapping) else None
        for group in groups if isinstance(groups, list | tuple) else ():
            if isinstance(group, Mapping):
                yield group


def weight_histograms(
    program: Program, real: PopulationNetwork, middle: PopulationNetwork
) -> tuple[tuple[Histogram, ...], dict[str, str]]:
    """
    Return the weights into each layer before (`real`) and after (`middle`), zeros left out as before.

    What has no synapses of its own (sums of spikes) has none; where the manifest does not count clipped
    weights, that is said by layer instead.
    """
    clipped = clipped_weights(program)
    found: list[Histogram] = []
    missing: dict[str, str] = {}
    for item in program.network.populations:
        if isinstance(item, IntegerRelay):
            continue
        groups = [group.name for group in program.network.into(item.name)]
        if not groups:
            continue
        if any(name not in clipped for name in groups):
            missing[f"weights of '{item.name}'"] = "the program does not count clipped weights"
            continue
        before, after = (_weights(network, item.name) for network in (real, middle))
        # What was never a synapse is no weight.
        used = before != 0
        before, after = before[used], after[used]
        if not before.size:
            continue
        edges = _edges(before, after)
        found.append(
            Histogram(
                item.name,
                tuple(edges.tolist()),
                _counted(before, edges),
                _counted(after, edges),
                sum(clipped[name] for name in groups),
            )
        )
    return tuple(found), missing


def _weights(network: PopulationNetwork, layer: str) -> Float:
    return np.concatenate(
        [
            group.operator.weight.ravel()
            for group in sorted(network.into(layer), key=lambda group: group.name)
        ]
    )


def _edges(before: Float, after: Float) -> Float:
    low = min(float(before.min()), float(after.min()))
    high = max(float(before.max()), float(after.max()))
    if low == high:
        reach = abs(low) / 2 or 0.5
        low, high = low - reach, high + reach
    return np.linspace(low, high, WEIGHT_BINS + 1)


def _counted(values: Float, edges: Float) -> tuple[int, ...]:
    return tuple(int(count) for count in np.histogram(values, edges)[0])


@dataclass(frozen=True)
class Binned:
    """
    How many values of two networks fell into bins of width 2^`exponent`: bin n is [n, n + 1) widths.

    `first` is the number of the first bin of both counts; `saturated` of the second network's values are at
    an end of their range.
    """

    exponent: int
    first: int
    reference: NDArray[np.int64] = field(repr=False)
    candidate: NDArray[np.int64] = field(repr=False)
    saturated: int = 0

    def __add__(self, other: Binned) -> Binned:
        exponent = max(self.exponent, other.exponent)
        while True:
            ours, theirs = self._wider(exponent), other._wider(exponent)
            first = min(ours.first, theirs.first)
            last = max(ours.last, theirs.last)
            if last - first < MOST_BINS:
                break
            exponent += 1
        counts = np.zeros((2, last - first + 1), np.int64)
        for part in (ours, theirs):
            there = slice(part.first - first, part.last - first + 1)
            counts[0, there] += part.reference
            counts[1, there] += part.candidate
        return Binned(exponent, first, counts[0], counts[1], self.saturated + other.saturated)

    @property
    def last(self) -> int:
        return self.first + len(self.reference) - 1

    def _wider(self, exponent: int) -> Binned:
        """Return the same counts in bins of width 2^`exponent`, which is no less than now."""
        by = exponent - self.exponent
        if not by:
            return self
        bins = (np.arange(len(self.reference)) + self.first) >> by
        first = int(bins[0])
        counts = [
            np.bincount(bins - first, weights=values).astype(np.int64)
            for values in (self.reference, self.candidate)
        ]
        return Binned(exponent, first, counts[0], counts[1], self.saturated)

    def histogram(self, name: str, threshold: float | None) -> Histogram:
        """Return the counts as a histogram called `name`."""
        width = 2.0**self.exponent
        return Histogram(
            name,
            tuple(float(self.first + place) * width for place in range(len(self.reference) + 1)),
            tuple(self.reference.tolist()),
            tuple(self.candidate.tolist()),
            self.saturated,
            threshold,
        )


def binned(reference: Float, candidate: Float, saturated: int = 0) -> Binned:
    """Return the counts of all values of both."""
    low = min(float(reference.min()), float(candidate.min()))
    high = max(float(reference.max()), float(candidate.max()))
    largest = max(abs(low), abs(high), 2.0**-40)
    reach = max(high - low, largest * 2.0**-FINEST)
    exponent = math.ceil(math.log2(reach / (MOST_BINS - 1)))
    first, last = (math.floor(value / 2.0**exponent) for value in (low, high))
    counts = []
    for values in (reference, candidate):
        places = np.floor(values / 2.0**exponent).astype(np.int64).ravel() - first
        counts.append(np.bincount(places, minlength=last - first + 1))
    return Binned(exponent, first, counts[0], counts[1], saturated)


def joined(parts: Iterable[Binned]) -> Binned:
    """Return the counts of all `parts`, of which there is one at least."""
    return reduce(lambda one, other: one + other, parts)


def saturated(neurons: IntegerNeurons, states: NDArray[np.int64]) -> int:
    """Return how many membranes, in state units before their reset, are at an end of their range."""
    end = neurons.arithmetic.membrane_end
    return int((np.abs(states) >= end).sum())
