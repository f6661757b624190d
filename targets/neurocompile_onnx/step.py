"""
One step of a network as a graph: from the inputs and states of a step to its outputs and the next states.

Populations are written in their order, so that everything they hear in the same step is there. What arrives
later comes from a state that holds the source's values of the last steps, the latest first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import numpy_helper

from neurocompile.integer import (
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerRelay,
    IntegerSynapses,
)
from neurocompile.program import Program
from neurocompile_onnx.graph import Graph, Value
from neurocompile_onnx.neurons import Neurons, State
from neurocompile_onnx.ranges import range_of, smallest_type
from neurocompile_onnx.sums import Sum, Sums


@dataclass(frozen=True)
class Step:
    """
    The values that a step makes, by name.

    `outputs` are those of the network, in state units or spikes; `sent` what populations send, but for
    inputs; `membranes` those after the reset; `next_states` has a value for each state.
    """

    outputs: Mapping[str, Value]
    sent: Mapping[str, Value]
    membranes: Mapping[str, Value]
    next_states: Mapping[str, Value]


class StepWriter:
    """Writes the step of a program's network into graphs."""

    def __init__(self, program: Program, kernels: str) -> None:
        self.kernels = kernels
        self.network = without_what_never_comes(program.network, program.steps)
        bounds = {bound.layer: bound for bound in program.bounds}
        self.neurons = {
            item.name: Neurons(item, bounds[item.name]) for item in self.network.neurons
        }
        self.remembered = {
            item.name: max(
                (int(group.delay.max(initial=0)) for group in self.network.out_of(item.name)),
                default=0,
            )
            for item in self.network.populations
        }

    def states(self) -> list[State]:
        """Return all states, in the order of the populations."""
        found = []
        for item in self.network.populations:
            if isinstance(item, IntegerNeurons):
                found += self.neurons[item.name].states()
            if latest := self.remembered[item.name]:
                doc = "what was sent in the last steps, the latest first"
                shape = (latest, *item.shape)
                found.append(State(f"past/{item.name}", self.type_of(item), shape, 0, doc))
        return found

    def type_of(self, item: IntegerPopulation) -> np.dtype[Any]:
        """Return what the values that `item` sends are stored as."""
        return smallest_type(range_of(item))

    def write(self, graph: Graph, inputs: Mapping[str, Value], states: Mapping[str, Value]) -> Step:
        """Write the step into `graph`; `inputs` and `states` are its values at the beginning."""
        step = _Step(self, graph, inputs, states)
        for item in self.network.populations:
            with graph.scope(item.name):
                step.add(item)
        return Step(step.outputs, step.sent, step.membranes, step.next_states)


class _Step:
    """A step that is being written."""

    def __init__(
        self,
        writer: StepWriter,
        graph: Graph,
        inputs: Mapping[str, Value],
        states: Mapping[str, Value],
    ) -> None:
        self.writer, self.graph, self.inputs, self.states = writer, graph, inputs, states
        self.network = writer.network
        self.sums = Sums(graph, writer.network, writer.kernels)
        self.values: dict[str, Value] = {}
        self.outputs: dict[str, Value] = {}
        self.sent: dict[str, Value] = {}
        self.membranes: dict[str, Value] = {}
        self.next_states: dict[str, Value] = {}
        self._late: dict[tuple[str, int], Value] = {}

    def add(self, item: IntegerPopulation) -> None:
        name, graph = item.name, self.graph
        if isinstance(item, IntegerInput):
            self.values[name] = self.inputs[name]
        elif isinstance(item, IntegerRelay):
            arriving = self._arriving(item, 1)
            self.values[name] = graph.cast(arriving.value, self.writer.type_of(item))
            self.sent[name] = self.values[name]
        else:
            self._add_neurons(item)
        if self.writer.remembered[name]:
            self.next_states[f"past/{name}"] = self._remember(item)

    def _add_neurons(self, item: IntegerNeurons) -> None:
        name = item.name
        arriving = self._arriving(item, item.arithmetic.state_units)
        fired = self.writer.neurons[name].step(self.graph, arriving, self.states)
        self.next_states |= fired.next_states
        if fired.spikes is not None:
            self.values[name] = self.sent[name] = fired.spikes
        elif self.network.out_of(name):
            # It is proven never to fire.
            self.values[name] = self._zeros(item, self.writer.type_of(item))
        self.membranes[name] = fired.after
        shown = fired.spikes if item.shows == "spikes" else fired.shown
        for output, population in self.network.outputs.items():
            if population == name:
                assert shown is not None
                self.outputs[output] = shown

    def _arriving(self, item: IntegerPopulation, times: int) -> Sum:
        parts = []
        for group in self.network.into(item.name):
            with self.graph.scope(group.name):
                parts += self._delivered(group, times)
        total = self.sums.total(parts)
        return total or Sum(self._zeros(item, np.dtype(np.int32)), 0)

    def _delivered(self, group: IntegerSynapses, times: int) -> list[Sum]:
        """Return the sums of one group, one for each delay that is shifted by itself."""
        delays = [int(delay) for delay in np.unique(group.delay)]
        if len(delays) <= 1:
            value = self._sent(group.source, delays[0] if delays else 0)
            return [self.sums.deliver(group, value, times)]
        if group.delay.shape == group.weight.shape:
            return [
                self.sums.deliver(group, self._sent(group.source, delay), times, only=delay)
                for delay in delays
            ]
        if group.exponent >= 0:
            return [self.sums.deliver(group, self._gathered(group), times)]
        return [self.sums.deliver(group, self._masked(group, delay), times) for delay in delays]

    def _sent(self, source: str, delay: int) -> Value:
        """Return what `source` sent `delay` steps ago."""
        if delay == 0:
            return self.values[source]
        past = self.states[f"past/{source}"]
        if (source, delay) not in self._late:
            index = self.graph.constant(f"{delay - 1}", delay - 1, np.int64)
            late = self.graph.node("Gather", past, index, name=f"late_{delay}", axis=1)
            self._late[source, delay] = late
        return self._late[source, delay]

    def _gathered(self, group: IntegerSynapses) -> Value:
        """Return the values of the source, each neuron's as late as its own delay."""
        graph, shape = self.graph, self.network[group.source].shape
        past = self.states[f"past/{group.source}"]
        held, offset = past, 1
        if not group.delay.all():
            now = graph.reshape(self.values[group.source], (0, 1, *shape))
            held, offset = graph.node("Concat", now, past, name="now_and_past", axis=1), 0
        steps = self.writer.remembered[group.source] + 1 - offset
        count = int(np.prod(shape, dtype=np.int64))
        flat = graph.reshape(held, (0, steps * count))
        places = (group.delay.reshape(-1) - offset) * count + np.arange(count)
        where = graph.constant("places", places.reshape(shape).astype(smallest_index(places)))
        return graph.node("Gather", flat, graph.cast(where, np.int64), name="late", axis=1)

    def _masked(self, group: IntegerSynapses, delay: int) -> Value:
        """Return the values of the neurons with this delay, and 0 for the others."""
        graph = self.graph
        value = self._sent(group.source, delay)
        # `Where` takes bytes, but no other narrow types.
        if value.dtype not in (np.dtype(np.uint8), np.dtype(np.int64)):
            value = graph.cast(value, np.int32)
        mask = graph.constant(f"has_delay_{delay}", group.delay == delay)
        zero = graph.constant("0", 0, value.dtype)
        return graph.node("Where", mask, value, zero, dtype=value.dtype)

    def _remember(self, item: IntegerPopulation) -> Value:
        graph, latest = self.graph, self.writer.remembered[item.name]
        now = graph.reshape(self.values[item.name], (0, 1, *item.shape))
        if latest == 1:
            return now
        ends = (
            graph.constant(name, [number], np.int64)
            for name, number in (("from", 0), ("to", latest - 1), ("along", 1))
        )
        kept = graph.node("Slice", self.states[f"past/{item.name}"], *ends)
        return graph.node("Concat", now, kept, axis=1)

    def _zeros(self, item: IntegerPopulation, dtype: np.dtype[Any]) -> Value:
        """Return zeros, one for each neuron of a population that nothing arrives at."""
        first = next(iter(self.inputs.values()))
        shape = batch_shape(self.graph, first, item.shape)
        return zeros(self.graph, shape, dtype)


def batch_shape(graph: Graph, value: Value, shape: tuple[int, ...]) -> Value:
    """Return (batch, *shape) as a tensor, the batch being that of `value`."""
    with graph.scope("batch"):
        batch = graph.node("Shape", value, dtype=np.int64, start=0, end=1)
        return _behind(graph, batch, shape)


def zeros(graph: Graph, shape: Value, dtype: Any, value: int = 0) -> Value:
    """Return a tensor of a shape that is known when the model runs, of zeros or another `value`."""
    one = numpy_helper.from_array(np.full(1, value, dtype))
    return graph.node("ConstantOfShape", shape, name="all", dtype=dtype, value=one)


def filled(graph: Graph, batch: Value, shape: tuple[int, ...], dtype: Any, value: int) -> Value:
    """Return a tensor (batch, *shape) of one value."""
    return zeros(graph, _behind(graph, batch, shape), dtype, value)


def _behind(graph: Graph, batch: Value, shape: tuple[int, ...]) -> Value:
    if not shape:
        return batch
    return graph.node("Concat", batch, graph.constant("extents", shape, np.int64), axis=0)


def smallest_index(places: Integer) -> np.dtype[Any]:
    """Return what indices are stored as."""
    return smallest_type((0, int(places.max(initial=0))))


def without_what_never_comes(network: IntegerNetwork, steps: int) -> IntegerNetwork:
    """
    Return `network` without synapses that are later than a sample is long.

    Single neurons or synapses with such delays keep their places, with weights of 0.
    """
    kept = []
    for group in network.synapses:
        never = group.delay >= steps
        if not never.any():
            kept.append(group)
        elif not never.all():
            if group.delay.shape == group.weight.shape:
                weight = np.where(never, 0, group.weight)
                soonest = group.delay[~never].min()
                delay = np.where(never, soonest, group.delay)
                kept.append(replace(group, weight=weight, delay=delay))
            else:
                kept.append(replace(group, delay=np.minimum(group.delay, steps)))
    return replace(network, synapses=tuple(kept))
