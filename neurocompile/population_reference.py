"""What a `PopulationNetwork` means: its equations in float64, step by step, as `reference` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from neurocompile.data import Inputs, by_input, sample_count
from neurocompile.ir import Float
from neurocompile.populations import (
    InputPopulation,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SumPopulation,
    SynapseGroup,
)
from neurocompile.reference import (
    SAMPLES_AT_ONCE,
    Trace,
    apply_stateless,
    delayed,
    fired,
    joined,
    spike_type,
)


def simulate_populations(network: PopulationNetwork, inputs: Inputs) -> Trace:
    """Run `network` on `inputs`, as `reference.simulate` does, with the membranes of spiking layers."""
    names = [item.name for item in network.populations if isinstance(item, InputPopulation)]
    named = by_input(inputs, names)
    parts = []
    for start in range(0, sample_count(inputs), SAMPLES_AT_ONCE):
        stop = start + SAMPLES_AT_ONCE
        parts.append(
            _simulate(network, {name: values[start:stop] for name, values in named.items()})
        )
    return joined(parts)


@dataclass
class _State:
    current: Float
    membrane: Float
    resting: Float  # steps that neurons still rest


def _simulate(network: PopulationNetwork, inputs: Mapping[str, Float]) -> Trace:
    samples, steps = next(iter(inputs.values())).shape[:2]
    populations = network.populations
    zeros = {item.name: np.zeros((samples, *item.shape)) for item in populations}
    states = {item.name: _State(*[zeros[item.name]] * 3) for item in populations}
    # What is later than the sample is long never comes, and needs no memory.
    network = replace(
        network,
        synapses=tuple(
            replace(group, delay=np.minimum(group.delay, steps)) for group in network.synapses
        ),
    )
    arrives = {item.name: network.into(item.name) for item in populations}
    history = {
        item.name: np.zeros(
            (
                1
                + max((int(g.delay.max(initial=0)) for g in network.out_of(item.name)), default=0),
                samples,
                *item.shape,
            )
        )
        for item in populations
    }
    spiking = [item for item in populations if isinstance(item, SpikingPopulation)]
    shape = (samples, steps)
    spikes = {
        item.name: np.zeros((*shape, *item.shape), spike_type(item.most_spikes)) for item in spiking
    }
    membrane = {item.name: np.zeros((*shape, *item.shape)) for item in spiking}
    shown = {
        name: np.zeros((*shape, *network[name].shape)) for name in set(network.outputs.values())
    }
    for step in range(steps):
        for past in history.values():
            past[1:] = past[:-1].copy()
        for item in populations:
            if isinstance(item, InputPopulation):
                history[item.name][0] = inputs[item.name][:, step]
                continue
            arriving = sum(
                (
                    deliver(group, history[group.source], zeros[group.target].shape)
                    for group in arrives[item.name]
                ),
                zeros[item.name],
            )
            state = states[item.name]
            if isinstance(item, SumPopulation):
                history[item.name][0] = arriving
                continue
            if step == 0:
                arriving = arriving + item.pulse
            state.current = item.current_decay * state.current + arriving
            if isinstance(item, ReadoutPopulation):
                if item.decay is None:
                    result = arriving + item.bias
                else:
                    result = item.decay * state.membrane + state.current + item.bias
                    state.membrane = result
            else:
                before = item.decay * state.membrane + state.current + item.bias
                if step == 0:
                    before = before + item.start
                if item.floor is not None:
                    before = np.maximum(before, item.floor)
                if item.refractory:
                    before = np.where(state.resting > 0, 0.0, before)
                result = fired(before, item.threshold, item.comparison, item.most_spikes)
                if item.refractory:
                    result = np.where(state.resting > 0, 0.0, result)
                    rested = np.maximum(state.resting - 1, 0)
                    state.resting = np.where(result > 0, item.refractory, rested)
                kept = before - item.taken * result if item.reset == "subtract" else 0.0
                state.membrane = np.where(result > 0, kept, before)
                history[item.name][0] = result
                spikes[item.name][:, step] = result
                membrane[item.name][:, step] = before
            if item.name in shown:
                shown[item.name][:, step] = result
    return Trace(
        {output: shown[name] for output, name in network.outputs.items()}, spikes, membrane
    )


def deliver(group: SynapseGroup, past: Float, target: tuple[int, ...]) -> Float:
    """Return what `group` delivers now, of shape `target`; `past` is (steps ago, samples, *source shape)."""
    operator = group.operator
    if group.delay.ndim and group.delay.shape == operator.weight.shape:
        total: Float = np.zeros((target[0], len(operator.weight)))
        for delay in np.unique(group.delay):
            weight = np.where(group.delay == delay, operator.weight, 0)
            total = total + past[delay].reshape(target[0], -1) @ weight.T
        return total.reshape(target)
    values = delayed(past, group.delay)
    seen = values.reshape(len(values), *group.source_view)
    return apply_stateless(operator, seen).reshape(target)
