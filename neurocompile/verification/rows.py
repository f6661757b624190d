"""
The synapses and the numbers of one neuron, cut out of a network, with real weights and integers.

A cause concerns one neuron of one sample: its row of every group of synapses, and its membrane, are all
that has to run again, however large the network is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.integer import (
    Geometry,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerSynapses,
    Shape,
)
from neurocompile.ir import Conv2d, Float
from neurocompile.populations import PopulationNetwork, SpikingPopulation, SynapseGroup

LEAST_GAIN, MOST_GAIN = 0.5, 1.5  # of thresholds that samples fitted beside the same weights
EXACT = 1e-9  # of a bound: what float64 leaves of a division


@dataclass(frozen=True)
class Ends:
    """
    What rounding may make of a group's weights: integers from `least` to `most`.

    The nearest of them is off by half a step. Where samples chose the weights, a weight may be off by more,
    but by `error` units at the most, and thresholds may have been scaled beside them.
    """

    least: int
    most: int
    error: float | None = None

    @property
    def step(self) -> int:
        """The distance of two integers: a range of both signs has one step more below zero than above it."""
        step = -self.least - self.most if self.least < 0 else self.most & -self.most
        return max(1, step)


@dataclass(frozen=True)
class Row:
    """
    The synapses of one group that end in one neuron: `places` are those of the source, in C order.

    `real` are their weights and `unit` is what one integer stands for, in the source's units (of a host's
    values: times one payload). `cut` are the real weights, cut where the integers end; `moved` are those,
    but for weights that are off by more than rounding, which are the integers' already.

    Where weights were cut is told by the program's scale. Samples may have chosen them at another one: there
    the line between clipping and rounding is a guess, and the sum of both is not.
    """

    name: str
    source: str
    places: Integer
    real: Float
    cut: Float
    moved: Float
    weight: Integer
    unit: float
    delay: Integer
    exponent: int
    on_host: bool


def rows_of(
    real: PopulationNetwork,
    network: IntegerNetwork,
    layer: str,
    neuron: int,
    ends: Mapping[str, Ends],
) -> tuple[Row, ...]:
    """
    Return the synapses that end in neuron number `neuron` (in C order) of `layer`, group by group.

    `ends` are those of each group's integers, where they are known.
    """
    groups = {group.name: group for group in real.synapses}
    target = network[layer]
    assert isinstance(target, IntegerNeurons)
    scale = float(np.broadcast_to(target.scale, target.shape).flat[neuron])
    return tuple(
        _row(network, groups[group.name], group, scale, neuron, ends.get(group.name))
        for group in network.into(layer)
    )


def _row(
    network: IntegerNetwork,
    real: SynapseGroup,
    group: IntegerSynapses,
    scale: float,
    neuron: int,
    ends: Ends | None,
) -> Row:
    source = network[group.source]
    views = network.views(group)
    places, taps = _synapses(group.weight.shape, group.geometry, views, neuron)
    own, weight = real.operator.weight.reshape(-1)[taps], group.weight.reshape(-1)[taps]
    payload = source.scale if isinstance(source, IntegerInput) else 1.0
    unit = 2.0**group.exponent * payload / scale
    delay = group.delay
    if delay.ndim and delay.shape == group.weight.shape and group.geometry is None:
        delay = delay.reshape(-1)[taps]
    else:
        delay = np.broadcast_to(delay, source.shape).reshape(-1)[places]
    cut = moved = own
    if ends is not None:
        cut = np.where(
            _beyond(own / unit, ends), np.clip(own, ends.least * unit, ends.most * unit), own
        )
        moved = np.where(_too_far(cut / unit, weight, ends), weight * unit, cut)
    return Row(
        group.name,
        group.source,
        places,
        own,
        cut,
        moved,
        weight,
        unit,
        delay,
        group.exponent,
        group.on_host,
    )


def _beyond(wanted: Float, ends: Ends) -> NDArray[np.bool_]:
    """Return which weights, in units, lie beyond the ends by more than rounding."""
    half = ends.step / 2
    return (wanted > ends.most + half) | (wanted < ends.least - half)


def _too_far(wanted: Float, weight: Integer, ends: Ends) -> NDArray[np.bool_]:
    """Return which integers are off from what was `wanted`, in units, by more than rounding can explain."""
    bound = float(ends.step)
    if ends.error is not None:
        bound += ends.error
        squares = float(wanted @ wanted)
        gain = float(wanted @ weight) / squares if squares else 1.0
        wanted = wanted * min(max(gain, LEAST_GAIN), MOST_GAIN)
    return np.abs(wanted - weight) > bound * (1 + EXACT)


def _synapses(
    shape: Shape, geometry: Geometry | Conv2d | None, views: tuple[Shape, Shape], neuron: int
) -> tuple[Integer, Integer]:
    """Return the places of the source that reach `neuron`, and of their weights, all in C order."""
    if geometry is None:
        columns = np.arange(shape[1], dtype=np.int64)
        return columns, neuron * shape[1] + columns
    source, target = views
    channel, row, column = (int(place) for place in np.unravel_index(neuron, target))
    _, depth, height, width = shape
    first = channel // (shape[0] // geometry.groups) * depth
    y = row * geometry.stride[0] - geometry.padding[0] + np.arange(height) * geometry.dilation[0]
    x = column * geometry.stride[1] - geometry.padding[1] + np.arange(width) * geometry.dilation[1]
    # Every tap (input channel, row, column) of the kernel, but for those on the padding.
    c, i, j = np.meshgrid(np.arange(depth), np.arange(height), np.arange(width), indexing="ij")
    inside = (y[i] >= 0) & (y[i] < source[1]) & (x[j] >= 0) & (x[j] < source[2])
    c, i, j = c[inside], i[inside], j[inside]
    places = ((first + c) * source[1] + y[i]) * source[2] + x[j]
    taps = ((channel * depth + c) * height + i) * width + j
    return places.astype(np.int64), taps.astype(np.int64)


@dataclass(frozen=True)
class Numbers:
    """The numbers of one neuron in the source's units, its membrane measured from its `origin`."""

    decay: float
    current_decay: float
    threshold: float
    taken: float
    bias: float
    pulse: float
    start: float
    floor: float
    reset: str
    refractory: int
    origin: float


def numbers_of(population: SpikingPopulation, neuron: int) -> Numbers:
    """Return the numbers of neuron number `neuron` of `population`."""

    def at(values: NDArray[Any]) -> float:
        return float(np.broadcast_to(values, population.shape).flat[neuron])

    return Numbers(
        decay=at(population.decay),
        current_decay=at(population.current_decay),
        threshold=at(population.threshold),
        taken=at(population.taken),
        bias=at(population.bias),
        pulse=at(population.pulse),
        start=at(population.start),
        floor=-math.inf if population.floor is None else at(population.floor),
        reset=population.reset,
        refractory=population.refractory,
        origin=at(population.origin),
    )


def late(values: NDArray[Any], row: Row) -> NDArray[Any]:
    """Return what arrives of a source's `values` (steps, neurons) at each synapse of `row`, as late as that is."""
    seen = values[:, row.places]
    if not row.delay.any():
        return seen
    steps = np.arange(len(values))[:, np.newaxis] - row.delay
    here = np.take_along_axis(seen, np.maximum(steps, 0), 0)
    result: NDArray[Any] = np.where(steps >= 0, here, 0)
    return result
