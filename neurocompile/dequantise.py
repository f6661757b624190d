"""
An `IntegerNetwork` as real numbers again: the numbers stay rounded, the states do not.

It says what rounding weights, biases, thresholds, decays and inputs does alone, between the float
network and the integers, whose states are rounded and may saturate besides. Units are the source
network's: a population's weight unit is 1 / `scale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from neurocompile.data import InputRange
from neurocompile.integer import (
    Geometry,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerRelay,
    IntegerSynapses,
)
from neurocompile.ir import Conv2d, Dense, Float
from neurocompile.population_reference import simulate_populations
from neurocompile.populations import (
    InputPopulation,
    Population,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SumPopulation,
    SynapseGroup,
)
from neurocompile.reference import Trace


def dequantise(network: IntegerNetwork) -> PopulationNetwork:
    """Return `network` with real states: no rounding between steps, no shifts that round, no ends."""
    return PopulationNetwork(
        populations=tuple(_population(item) for item in network.populations),
        synapses=tuple(_group(network, group) for group in network.synapses),
        outputs=dict(network.outputs),
        steps=None,
    )


def simulate_dequantised(network: IntegerNetwork, payloads: Mapping[str, Integer]) -> Trace:
    """
    Return what `dequantise(network)` does on `payloads`, (samples, steps, *shape) by input.

    Outputs and membranes are in the source's units, as `population_reference.simulate_populations` has them.
    """
    values = {item.name: payloads[item.name].astype(np.float64) for item in network.inputs}
    trace = simulate_populations(dequantise(_in_weight_units(network)), values)
    neurons = {item.name: item for item in network.neurons}
    shown = {name: neurons[layer] for name, layer in network.outputs.items()}
    return Trace(
        {
            name: values / shown[name].scale if shown[name].readout else values
            for name, values in trace.outputs.items()
        },
        trace.spikes,
        {name: values / neurons[name].scale for name, values in trace.membrane.items()},
    )


def _in_weight_units(network: IntegerNetwork) -> IntegerNetwork:
    """Return `network` as if its source counted membranes in weight units, and inputs in payloads."""
    populations: list[IntegerPopulation] = []
    for item in network.populations:
        if isinstance(item, IntegerRelay):
            populations.append(item)
        elif isinstance(item, IntegerInput):
            populations.append(replace(item, scale=1.0))
        else:
            populations.append(replace(item, scale=np.ones(()), origin=np.zeros(())))
    return replace(network, populations=tuple(populations))


def _population(item: IntegerPopulation) -> Population:
    if isinstance(item, IntegerInput):
        ends = (item.minimum / item.scale, item.maximum / item.scale)
        return InputPopulation(item.name, item.shape, InputRange(*ends, 1 / item.scale))
    if isinstance(item, IntegerRelay):
        return SumPopulation(item.name, item.shape, item.largest)
    arithmetic, one = item.arithmetic, item.arithmetic.decay_one
    states = item.scale * arithmetic.state_units
    decay, current_decay = 1 - item.dv / one, 1 - (item.du + 1) / one
    if item.readout:
        return ReadoutPopulation(
            item.name,
            item.shape,
            bias=item.bias / states,
            decay=None if item.shows == "input" else decay,
            current_decay=current_decay,
            # What arrives is shown without it.
            pulse=np.zeros(()) if item.shows == "input" else item.pulse / item.scale,
        )
    return SpikingPopulation(
        item.name,
        item.shape,
        decay=decay,
        threshold=item.threshold / item.scale,
        bias=item.bias / states,
        current_decay=current_decay,
        start=item.start / states,
        pulse=item.pulse / item.scale,
        origin=item.origin,
        reset=item.reset,
        comparison=">=" if item.inclusive else ">",
        subtracts=item.subtracts / states,
        most_spikes=item.most,
        floor=item.floor / states if item.floored else None,
        refractory=item.refractory,
    )


def _group(network: IntegerNetwork, group: IntegerSynapses) -> SynapseGroup:
    source, target = network[group.source], network[group.target]
    unit = 2.0**group.exponent
    if isinstance(source, IntegerInput):
        unit *= source.scale
    weight = np.asarray(group.weight * unit, np.float64)
    if isinstance(target, IntegerNeurons):
        rows = target.scale_of_rows(len(weight))
        weight = weight / rows.reshape(-1, *[1] * (weight.ndim - 1))
    views = network.views(group)
    return SynapseGroup(
        name=group.name,
        source=group.source,
        target=group.target,
        operator=operator_of(weight, group.geometry),
        source_view=views[0],
        target_view=views[1],
        delay=group.delay,
    )


def operator_of(weight: Float, geometry: Geometry | None) -> Dense | Conv2d:
    """Return what synapses of real `weight` do, without a bias: a convolution where there is a `geometry`."""
    bias = np.zeros(len(weight))
    if geometry is None:
        return Dense(weight, bias)
    return Conv2d(
        weight,
        bias,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
    )
