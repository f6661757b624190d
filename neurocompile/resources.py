"""
What a program takes: neurons, synapses and axons, counted; cores and memory, where a target knows them.

Every figure says how it is known:

    exact        counted from the program's integers: borders of images and zero weights taken off
    published    printed by the chip's maker
    estimated    from a formula that was inferred from published figures

This module counts; what a chip makes of the counts is its target's (`Target.resources`). Needs numpy
only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from neurocompile.integer import (
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerSynapses,
)

if TYPE_CHECKING:
    from neurocompile.program import Program

Status = Literal["exact", "published", "estimated"]


@dataclass(frozen=True)
class Figure:
    """A number, and how it is known."""

    value: int
    status: Status

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "status": self.status}


@dataclass(frozen=True)
class ChipLimit:
    """The most that a chip or a core of it holds; `source` says who says so."""

    value: int
    status: Status
    source: str

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "status": self.status, "source": self.source}


@dataclass(frozen=True)
class LayerResources:
    """
    What one population takes: `figures` by name.

    `tightest` is the limit that decides how many cores it needs, `remedy` what would ease it; both are
    empty where a target has no limits. Where not even one neuron fits a core, `fits` is false, and there
    is no number of cores.
    """

    name: str
    kind: str
    figures: Mapping[str, Figure]
    tightest: str = ""
    remedy: str = ""
    fits: bool = True

    def to_json(self) -> dict[str, Any]:
        figures = {name: figure.to_json() for name, figure in self.figures.items()}
        return {**figures, "tightest": self.tightest, "remedy": self.remedy, "fits": self.fits}


@dataclass(frozen=True)
class Resources:
    """
    What a program takes, by population and in all; `notes` are for people.

    `totals` has "cores" and "chips" where the target can say, without the layers that fit no core.
    Inputs take nothing: the host sends them.
    """

    layers: tuple[LayerResources, ...]
    totals: Mapping[str, Figure]
    limits: Mapping[str, ChipLimit] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def unplaced(self) -> tuple[str, ...]:
        """The layers that fit no core as they are."""
        return tuple(layer.name for layer in self.layers if not layer.fits)


def count_resources(program: Program) -> Resources:
    """Return the counts of `program`, for targets without limits of their own."""
    network = program.network
    layers = tuple(
        LayerResources(population.name, kind_of(population), counts_of(network, population.name))
        for population in network.populations
        if not isinstance(population, IntegerInput)
    )
    return Resources(layers, totals_of(layers))


def totals_of(layers: tuple[LayerResources, ...]) -> dict[str, Figure]:
    """Return the sums of what adds up: neurons, synapses and weights."""
    return {
        name: Figure(sum(layer.figures[name].value for layer in layers), "exact")
        for name in ("neurons", "synapses", "weights")
    }


def kind_of(population: IntegerPopulation) -> str:
    """Return what a population is called in reports."""
    if isinstance(population, IntegerNeurons):
        return "read-out" if population.readout else "neurons"
    return "input" if isinstance(population, IntegerInput) else "sum"


def counts_of(network: IntegerNetwork, name: str) -> dict[str, Figure]:
    """
    Return what can be counted of the population `name`; all of it is exact.

    `synapses` end in it, on the chip; `weights` are the numbers that say them, once for all places of a
    kernel. `axons` are the neurons and inputs that reach it; `fan_in` and `fan_out` the most synapses of
    one of its neurons.
    """
    size = math.prod(network[name].shape)
    into = [group for group in network.into(name) if not group.on_host]
    out_of = [group for group in network.out_of(name) if not group.on_host]
    heard = sum((fan_in(network, group) for group in into), np.zeros(size, np.int64))
    sent = sum((fan_out(network, group) for group in out_of), np.zeros(size, np.int64))
    reached: dict[str, NDArray[np.bool_]] = {}
    for group in into:
        there = fan_out(network, group) > 0
        reached[group.source] = reached.get(group.source, np.zeros_like(there)) | there
    counted = {
        "neurons": size,
        "synapses": int(heard.sum()),
        "weights": sum(int(np.count_nonzero(group.weight)) for group in into),
        "axons": sum(int(np.count_nonzero(there)) for there in reached.values()),
        "fan_in": int(heard.max(initial=0)),
        "fan_out": int(sent.max(initial=0)),
    }
    return {key: Figure(value, "exact") for key, value in counted.items()}


def fan_in(network: IntegerNetwork, group: IntegerSynapses) -> Integer:
    """Return how many synapses of `group` end in each neuron of its target, in C order."""
    if group.geometry is None:
        return np.asarray(np.count_nonzero(group.weight, axis=1), np.int64)
    taps = (group.weight != 0).sum(1)  # (out channels, kernel h, kernel w)
    rows, columns = (_inside(network, group, axis) for axis in (0, 1))
    return _over(rows, taps, columns)


def fan_out(network: IntegerNetwork, group: IntegerSynapses) -> Integer:
    """Return how many synapses of `group` start in each neuron of its source, in C order."""
    if group.geometry is None:
        return np.asarray(np.count_nonzero(group.weight, axis=0), np.int64)
    kernel = group.weight.shape[2:]
    by_group = (group.weight != 0).reshape(
        group.geometry.groups, -1, group.weight.shape[1], *kernel
    )
    taps = by_group.sum(1).reshape(-1, *kernel)  # (in channels, kernel h, kernel w)
    rows, columns = (_used(network, group, axis) for axis in (0, 1))
    return _over(rows, taps, columns)


def _over(rows: NDArray[Any], taps: NDArray[Any], columns: NDArray[Any]) -> Integer:
    """Return, by channel, row and column, the sum of `taps` (channels, kernel h, w) that count there."""
    image = rows.astype(np.float64) @ taps.astype(np.float64) @ columns.T.astype(np.float64)
    return np.rint(image).astype(np.int64).ravel()  # sums of counts: exact below 2^53


def _inside(network: IntegerNetwork, group: IntegerSynapses, axis: int) -> NDArray[np.bool_]:
    """Return which taps of a window lie in the image, (windows, taps) along one axis."""
    place = _places(network, group, axis)
    return (place >= 0) & (place < network.views(group)[0][1 + axis])


def _used(network: IntegerNetwork, group: IntegerSynapses, axis: int) -> NDArray[np.int64]:
    """Return how many windows see a pixel through which tap, (pixels, taps) along one axis."""
    place = _places(network, group, axis)
    size = network.views(group)[0][1 + axis]
    used = np.zeros((size, place.shape[1]), np.int64)
    for tap in range(place.shape[1]):
        seen = place[:, tap]
        np.add.at(used[:, tap], seen[(seen >= 0) & (seen < size)], 1)
    return used


def _places(network: IntegerNetwork, group: IntegerSynapses, axis: int) -> NDArray[np.int64]:
    """Return the pixel that each tap of each window reads, (windows, taps), also outside the image."""
    geometry = group.geometry
    assert geometry is not None
    windows = np.arange(network.views(group)[1][1 + axis])[:, np.newaxis]
    taps = np.arange(group.weight.shape[2 + axis])
    result: NDArray[np.int64] = (
        windows * geometry.stride[axis] - geometry.padding[axis] + taps * geometry.dilation[axis]
    )
    return result
