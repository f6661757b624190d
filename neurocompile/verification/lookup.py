"""
Look up the membranes behind differing spikes, on both sides, in as few runs as there are stages.

Integer stages are looked up in `fixedpoint`, which says what the integers are. A target that fired
something else there has a membrane that nobody saw: it has none here, as PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile import reference
from neurocompile.data import Inputs
from neurocompile.dequantise import simulate_dequantised
from neurocompile.ir import LIF, Float, Threshold
from neurocompile.populations import SpikingPopulation
from neurocompile.samples import SampleSource
from neurocompile.verification.examine import run_integers
from neurocompile.verification.report import Divergence
from neurocompile.verification.stages import Runner

MOST_MEMBRANES = 1 << 23  # numbers that are in memory at once: 64 MiB
WORK = 10_000_000_000  # multiplications of one stage on all samples that are looked up: ten seconds

Key = tuple[str, str]  # the reference and the candidate of a pair


@dataclass(frozen=True)
class _Level:
    """A membrane before its reset, and its threshold, in the source's units; `spikes` it fired there."""

    membrane: float
    threshold: float
    spikes: int


@dataclass(frozen=True)
class _Place:
    sample: int
    step: int
    layer: str
    neuron: int


@dataclass(frozen=True)
class _Seen:
    """`membrane` and `spikes` are (samples, steps, *shape) by layer, `threshold` fits a layer's shape."""

    membrane: Mapping[str, NDArray[Any]]
    spikes: Mapping[str, NDArray[Any]]
    threshold: Mapping[str, NDArray[Any]]


def look_up(
    runner: Runner,
    source: SampleSource,
    found: Mapping[Key, Iterable[Divergence]],
    *,
    steps: int,
) -> dict[Key, dict[int, Divergence]]:
    """
    Return the divergences in `found` with the membranes and thresholds of both stages, by sample.

    Each stage runs once on each sample that any pair names, for its `steps` steps.
    """
    by_sample = {key: {item.sample: item for item in items} for key, items in found.items()}
    wanted: dict[str, set[_Place]] = {}
    for key, items in by_sample.items():
        for stage in {_definition_of(runner, name) for name in key}:
            places = {_place(item) for item in items.values()}
            wanted.setdefault(stage, set()).update(places)
    neurons = sum(math.prod(item.shape) for item in runner.program.network.spiking)
    at_once = max(1, MOST_MEMBRANES // max(1, neurons * steps))
    levels = _levels(runner, source, wanted, at_once)
    return {
        key: {
            sample: _with_levels(
                item, key, *(levels.get((stage, _place(item))) for stage in stages)
            )
            for sample, item in items.items()
        }
        for key, items in by_sample.items()
        for stages in [[_definition_of(runner, name) for name in key]]
    }


def affordable(runner: Runner, steps: int) -> int:
    """Return in how many samples of `steps` steps membranes may be looked up: one at least."""
    network = runner.program.network
    work = sum(map(network.synapse_count, network.synapses)) * steps
    return max(1, WORK // max(1, work))


def _definition_of(runner: Runner, stage: str) -> str:
    """Return the stage in which `stage` is looked up: all integers are those of one definition."""
    integers = stage in runner.plan.integers and stage != "torch"
    return "fixedpoint" if integers else stage


def _place(item: Divergence) -> _Place:
    return _Place(item.sample, item.step, item.layer, item.neuron)


def _with_levels(
    item: Divergence, names: Key, before: _Level | None, after: _Level | None
) -> Divergence:
    if before is not None and names[0] not in LOOKS and before.spikes != item.reference_spike:
        before = None
    if after is not None and names[1] not in LOOKS and after.spikes != item.candidate_spike:
        after = None
    return replace(
        item,
        membrane=None if after is None else after.membrane,
        threshold=None if after is None else after.threshold,
        reference_membrane=None if before is None else before.membrane,
        reference_threshold=None if before is None else before.threshold,
    )


def _levels(
    runner: Runner, source: SampleSource, wanted: Mapping[str, set[_Place]], at_once: int
) -> dict[tuple[str, _Place], _Level]:
    """Return what there is at each of the `wanted` places of each stage; nothing of PyTorch's."""
    samples = sorted({place.sample for places in wanted.values() for place in places})
    levels: dict[tuple[str, _Place], _Level] = {}
    for first in range(0, len(samples), at_once):
        part = samples[first : first + at_once]
        inputs = runner.inputs_of(source.fetch(np.array(part, np.int64)))
        for stage, places in wanted.items():
            here = [place for place in places if place.sample in part]
            look = LOOKS.get(stage)
            if look is None or not here:
                continue
            seen = look(runner, inputs, sorted({place.layer for place in here}))
            for place in here:
                at = part.index(place.sample), place.step
                membrane = seen.membrane[place.layer][at]
                threshold = np.broadcast_to(seen.threshold[place.layer], membrane.shape)
                levels[stage, place] = _Level(
                    float(membrane.flat[place.neuron]),
                    float(threshold.flat[place.neuron]),
                    int(seen.spikes[place.layer][at].flat[place.neuron]),
                )
    return levels


def _float(runner: Runner, inputs: Inputs, layers: Iterable[str]) -> _Seen:
    trace = reference.simulate(runner.network, inputs, membranes=True)
    thresholds: dict[str, Float] = {}
    for layer in layers:
        node = runner.network.nodes[layer]
        assert isinstance(node, LIF | Threshold)
        thresholds[layer] = node.threshold
    return _Seen(trace.membrane, trace.spikes, thresholds)


def _quantised(runner: Runner, inputs: Inputs, layers: Iterable[str]) -> _Seen:
    assert runner.dequantised is not None
    program = runner.program
    trace = simulate_dequantised(program.network, program.payloads(inputs))
    items = [runner.dequantised[layer] for layer in layers]
    spiking = [item for item in items if isinstance(item, SpikingPopulation)]
    return _Seen(
        {item.name: trace.membrane[item.name] + item.origin for item in spiking},
        trace.spikes,
        {item.name: np.asarray(item.threshold + item.origin) for item in spiking},
    )


def _fixedpoint(runner: Runner, inputs: Inputs, layers: Iterable[str]) -> _Seen:
    program, names = runner.program, list(layers)
    record = [*names, *(f"membrane/{layer}" for layer in names)]
    trace = run_integers(program.network, program.payloads(inputs), record)
    return _Seen(
        program.to_source_units(trace).membrane,
        trace.spikes,
        {
            item.name: item.in_source_units(
                np.broadcast_to(item.threshold << item.arithmetic.fraction_bits, item.shape)
            )
            for item in program.network.neurons
            if item.name in names
        },
    )


LOOKS: Mapping[str, Callable[[Runner, Inputs, Iterable[str]], _Seen]] = {
    "float": _float,
    "quantised": _quantised,
    "fixedpoint": _fixedpoint,
}
