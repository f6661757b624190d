"""
What populations do on samples, and the places at which that is compared with integers.

A population is looked at as `rows` of neurons that share their weights, times `pixels`: channels and places
of an image behind convolutions, neurons and 1 elsewhere. A place is a sample and a pixel. Every place has
the same weights, so that some of them stand for all where there are too many; they are drawn with a fixed
seed. At a place, inputs become a matrix of windows once, and each candidate of weights is one product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.integer import (
    Geometry,
    Integer,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerSynapses,
    Shape,
)
from neurocompile.ir import Conv2d
from neurocompile.linear import slide_of
from neurocompile.population_reference import deliver, simulate_populations
from neurocompile.populations import (
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SumPopulation,
    SynapseGroup,
)

Float = NDArray[np.float64]
Values = Mapping[str, NDArray[Any]]

SAMPLES_AT_ONCE = 16
MOST_NEURONS = 1 << 20  # neurons of all places, steps counted, of one population
MOST_INPUTS = 1 << 24  # values in its windows
FEWEST_PLACES = 256
EXACT_IN_FLOAT32 = 1 << 24
SEED = 20261129


@dataclass(frozen=True)
class Places:
    """
    Where a population is looked at: `sample` and `pixel`, (places,) each.

    `every` says that these are all places. A population without windows, `whole`, has one row for each
    of its neurons, and is looked at as a whole.
    """

    shape: Shape
    rows: int
    pixels: int
    sample: Integer
    pixel: Integer
    every: bool
    whole: bool

    def __len__(self) -> int:
        return len(self.sample)

    def of_record(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return (places, steps, rows) of a recording (samples, steps, *shape)."""
        arranged = values.reshape(*values.shape[:2], self.rows, self.pixels)
        return arranged[self.sample, :, :, self.pixel]

    def of_part(self, values: NDArray[Any], start: int, into: NDArray[Any]) -> None:
        """Write the places of some samples, from `start` on, into (places, steps, rows)."""
        here = (self.sample >= start) & (self.sample < start + len(values))
        arranged = values.reshape(*values.shape[:2], self.rows, self.pixels)
        into[here] = arranged[self.sample[here] - start, :, :, self.pixel[here]]

    def of_parameter(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what broadcasts to the population's shape as what broadcasts to (places, rows)."""
        if values.size == 1:
            return values.reshape(())
        arranged = np.broadcast_to(values, self.shape).reshape(self.rows, self.pixels)
        return arranged[:, self.pixel].T

    def neurons(self, neurons: IntegerNeurons) -> IntegerNeurons:
        """Return the neurons at these places; the axis of samples of their states is that of places."""
        arrays = (
            "du",
            "dv",
            "threshold",
            "bias_mantissa",
            "scale",
            "start",
            "pulse",
            "origin",
            "subtracts",
            "floor",
        )
        changes: dict[str, Any] = {
            name: self.of_parameter(getattr(neurons, name)) for name in arrays
        }
        return replace(neurons, shape=(self.rows,), **changes)


def choose_places(
    population: SpikingPopulation | ReadoutPopulation,
    groups: Iterable[SynapseGroup],
    *,
    samples: int,
    steps: int,
) -> Places:
    """Return the places at which a population is looked at: all, or as many as are quickly computed."""
    groups = tuple(groups)
    size = math.prod(population.shape)
    views = {group.target_view for group in groups if isinstance(group.operator, Conv2d)}
    dense = any(not isinstance(group.operator, Conv2d) for group in groups)
    late = any(np.unique(group.delay).size > 1 for group in groups)
    whole = late or len(views) > 1 or (bool(views) and dense)
    rows = next(iter(views))[0] if views and not whole else size
    pixels = size // max(1, rows)
    inputs = sum(math.prod(group.operator.weight.shape[1:]) for group in groups)
    total = samples * pixels
    most = min(MOST_NEURONS // max(1, steps * rows), MOST_INPUTS // max(1, steps * inputs))
    chosen = np.arange(total)
    if not whole and total > max(most, FEWEST_PLACES):
        generator = np.random.default_rng(SEED)
        chosen = np.sort(generator.choice(total, max(most, FEWEST_PLACES), replace=False))
    return Places(
        population.shape,
        rows,
        pixels,
        chosen // max(1, pixels),
        chosen % max(1, pixels),
        len(chosen) == total,
        whole,
    )


@dataclass(frozen=True)
class Record:
    """What a population of real numbers shows at its places, (places, steps, rows); `spikes` of some."""

    membrane: Float  # before the reset; of a read-out, what it shows
    spikes: NDArray[Any] | None


@dataclass(frozen=True)
class Observation:
    """
    What a network of real numbers does on samples.

    `sent` is what each population sends, (samples, steps, *shape); `records` what is compared.
    """

    sent: Values
    places: Mapping[str, Places]
    records: Mapping[str, Record]


def observe(network: PopulationNetwork, inputs: Values) -> Observation:
    """Run `network` on `inputs`, (samples, steps, *shape) by input, and keep what calibration compares."""
    samples, steps = next(iter(inputs.values())).shape[:2]
    layers = [
        item
        for item in network.populations
        if isinstance(item, SpikingPopulation | ReadoutPopulation)
    ]
    places = {
        item.name: choose_places(item, network.into(item.name), samples=samples, steps=steps)
        for item in layers
    }
    shown = {name: output for output, name in network.outputs.items()}
    membranes = {
        name: np.zeros((len(chosen), steps, chosen.rows)) for name, chosen in places.items()
    }
    spikes: dict[str, list[NDArray[Any]]] = {
        item.name: [] for item in layers if isinstance(item, SpikingPopulation)
    }
    for start in range(0, samples, SAMPLES_AT_ONCE):
        part = {
            name: np.asarray(values[start : start + SAMPLES_AT_ONCE], np.float64)
            for name, values in inputs.items()
        }
        trace = simulate_populations(network, part)
        for item in layers:
            if isinstance(item, SpikingPopulation):
                spikes[item.name].append(trace.spikes[item.name])
                values = trace.membrane[item.name]
            elif item.name in shown:
                values = trace.outputs[shown[item.name]]
            else:
                continue
            places[item.name].of_part(values, start, membranes[item.name])
    sent: dict[str, NDArray[Any]] = {name: np.asarray(values) for name, values in inputs.items()}
    sent |= {name: np.concatenate(parts) for name, parts in spikes.items()}
    for relay in network.populations:
        if isinstance(relay, SumPopulation):
            sent[relay.name] = sum_of_spikes(network, relay, sent)
    records = {
        name: Record(membranes[name], chosen.of_record(sent[name]) if name in spikes else None)
        for name, chosen in places.items()
    }
    return Observation(sent, places, records)


def sum_of_spikes(network: PopulationNetwork, item: SumPopulation, sent: Values) -> Integer:
    """Return what a population that adds up spikes sends, (samples, steps, *shape)."""
    groups = network.into(item.name)
    samples, steps = sent[groups[0].source].shape[:2]
    total = np.zeros((samples, steps, *item.shape))
    for group in groups:
        total += delivered(group, sent[group.source], item.shape)
    whole: Integer = np.rint(total).astype(np.int64)
    return whole


def delivered(group: SynapseGroup, values: NDArray[Any], shape: Shape) -> Float:
    """Return what `group` of real weights delivers at every step, (samples, steps, *shape)."""
    samples, steps = values.shape[:2]
    longest = min(int(group.delay.max(initial=0)), steps)
    group = replace(group, delay=np.minimum(group.delay, steps))
    past = np.zeros((longest + 1, samples, *values.shape[2:]))
    result = np.zeros((samples, steps, *shape))
    for step in range(steps):
        past[1:] = past[:-1].copy()
        past[0] = values[:, step]
        result[:, step] = deliver(group, past, (samples, *shape))
    return result


class Windows:
    """The inputs of one group of synapses at the places of its target, as a matrix for each of its groups."""

    def __init__(self, group: SynapseGroup, values: NDArray[Any], places: Places) -> None:
        operator = group.operator
        values = late(values, int(group.delay.max(initial=0)))
        samples, steps = values.shape[:2]
        self.shape = (len(places), steps, places.rows)
        self.largest = float(np.abs(values).max(initial=0))
        if not isinstance(operator, Conv2d):
            flat = values.reshape(samples, steps, -1)
            rows = flat if places.every else flat[places.sample]
            self.parts = [_compact(rows.reshape(-1, rows.shape[-1]))]
            return
        slide = Geometry(*slide_of(operator))
        image = values.reshape(samples, steps, *group.source_view)
        pad_h, pad_w = slide.padding
        image = np.pad(image, ((0, 0), (0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)))
        down, across = np.divmod(places.pixel, max(1, group.target_view[2]))
        kernel_h, kernel_w = operator.weight.shape[2:]
        heights = down[:, None] * slide.stride[0] + np.arange(kernel_h) * slide.dilation[0]
        widths = across[:, None] * slide.stride[1] + np.arange(kernel_w) * slide.dilation[1]
        channels = operator.weight.shape[1]
        self.parts = []
        for number in range(slide.groups):
            chosen = image[:, :, number * channels : (number + 1) * channels]
            # (places, kernel h, kernel w, steps, channels) -> (places, steps, channels, kernel)
            seen = chosen.transpose(0, 3, 4, 1, 2)[
                places.sample[:, None, None], heights[:, :, None], widths[:, None, :]
            ]
            matrix = seen.transpose(0, 3, 4, 1, 2).reshape(len(places) * steps, -1)
            self.parts.append(_compact(matrix))

    def sums(self, weight: NDArray[Any]) -> Float:
        """Return what `weight` makes of the inputs, (places, steps, rows), exactly where it is integers."""
        flat = weight.reshape(len(weight), -1)
        each = len(flat) // len(self.parts)
        largest = float(np.abs(flat).sum(1).max(initial=0)) * self.largest
        whole = np.issubdtype(weight.dtype, np.integer)
        kind = np.float32 if whole and largest < EXACT_IN_FLOAT32 else np.float64
        sums = [
            part.astype(kind, copy=False) @ flat[number * each : (number + 1) * each].T.astype(kind)
            for number, part in enumerate(self.parts)
        ]
        joined: Float = (sums[0] if len(sums) == 1 else np.concatenate(sums, axis=1)).astype(
            np.float64
        )
        return joined.reshape(self.shape)


def _compact(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return spikes and payloads as float32, which holds them, and real numbers as float64."""
    exact = np.issubdtype(matrix.dtype, np.integer)
    return np.ascontiguousarray(matrix, np.float32 if exact else np.float64)


def late(values: NDArray[Any], delay: int) -> NDArray[Any]:
    """Return `values` (samples, steps, ...) `delay` steps later, from zeros."""
    if delay == 0:
        return values
    result = np.zeros_like(values)
    result[:, delay:] = values[:, : max(0, values.shape[1] - delay)]
    return result


def integer_sums(
    groups: Iterable[IntegerSynapses],
    sources: Mapping[str, IntegerPopulation],
    target: IntegerNeurons,
    values: Values,
) -> Integer:
    """Return the input sums of `target` at every step, (samples, steps, *shape), of integers that are sent."""
    from neurocompile_fixedpoint.definition import input_sums

    alone = IntegerNetwork(
        (*(item for name, item in sources.items() if name != target.name), target), (), {}
    )
    total: Integer = np.zeros((), np.int64)
    for group in groups:
        sent = np.asarray(values[group.source], np.int64)
        sums = input_sums(group, sent, alone.views(group))
        total = total + sums.reshape(*sent.shape[:2], *target.shape)
    samples, steps = next(iter(values.values())).shape[:2]
    return np.broadcast_to(total, (samples, steps, *target.shape))


def run_neurons(neurons: IntegerNeurons, sums: Integer) -> tuple[Integer, Integer]:
    """Return the spikes of `neurons`, and their membranes before the reset, for sums (samples, steps, ...)."""
    from neurocompile_fixedpoint.definition import NeuronState, step_neurons

    shape = (sums.shape[0], *sums.shape[2:])
    state = NeuronState(np.zeros(shape, np.int64), np.zeros(shape, np.int64))
    spikes = np.zeros(sums.shape, np.int64)
    membrane = np.zeros(sums.shape, np.int64)
    for step in range(sums.shape[1]):
        spikes[:, step], membrane[:, step] = step_neurons(
            neurons, state, sums[:, step], first=step == 0
        )
    return spikes, membrane
