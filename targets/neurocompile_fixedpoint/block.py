"""
Some samples on their way through all steps, in one thread.

A population pushes its events when it has fired: each group adds them to the sums of its target that are
due `delay` steps later, in a ring of as many as the target waits for. What a step does is bound to
its arrays beforehand, as a small network spends as much time on calls as in kernels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.integer import (
    LOIHI2,
    Integer,
    IntegerInput,
    IntegerNeurons,
    IntegerPopulation,
    IntegerRelay,
    IntegerSynapses,
    Trace,
)
from neurocompile_fixedpoint import kernels
from neurocompile_fixedpoint.definition import Counters, input_sum
from neurocompile_fixedpoint.plan import INT32_MAXIMUM
from neurocompile_fixedpoint.tables import Parameters, Push, Tables

COUNTED = len(vars(Counters()))

Action = Callable[[int], None]  # of a step


class _Cell:
    """One population of a block: its values, and the sums that are due at it in this step and later."""

    def __init__(self, block: Block, item: IntegerPopulation, waits: int) -> None:
        plan, name, samples = block.tables.plan, item.name, block.samples
        self.item, self.layout = item, plan.layouts[name]
        size = samples, self.layout.size
        sum_type = np.int32 if plan.arriving.get(name, 0) <= INT32_MAXIMUM else np.int64
        self.sums = [np.zeros(size, sum_type) for _ in range(1 + waits)]
        largest = plan.sent[name]
        binary = isinstance(item, IntegerNeurons) and item.most < 1 << 8
        self.values = np.zeros(
            size, np.uint8 if binary else np.int32 if largest <= INT32_MAXIMUM else np.int64
        )
        self.events = np.zeros(size, np.int32)
        self.starts = np.zeros((samples, self.layout.units + 1), np.int32)
        self.counts = np.zeros(samples, np.int64)
        self.past: dict[int, Integer] = {}

    def remember(self, latest: int) -> None:
        """Keep the values of `latest` steps, for what computes from values instead of events."""
        size = (len(self.values), *self.item.shape)
        self.past = {delay: np.zeros(size, np.int64) for delay in range(latest + 1)}

    def age(self) -> None:
        """Put the values of this step before those of earlier ones."""
        for delay in range(len(self.past) - 1, 0, -1):
            self.past[delay] = self.past[delay - 1]
        self.past[0] = self.outside(self.values).astype(np.int64)

    def outside(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return `values`, (samples, neurons), as (samples, *shape) in C order."""
        return self.layout.outside(values).reshape(-1, *self.item.shape)


class Block:
    """
    The samples `where` of a run; writes into the arrays of `trace`.

    `inputs` are their payloads, (samples, steps, *shape) by input.
    """

    def __init__(
        self,
        tables: Tables,
        inputs: Mapping[str, Integer],
        where: slice,
        steps: int,
        trace: Trace,
        before_reset: bool,
    ) -> None:
        self.tables, self.inputs, self.where = tables, inputs, where
        self.samples, self.steps = where.stop - where.start, steps
        self.trace, self.before_reset = trace, before_reset
        network = tables.network
        # What is later than a sample is long never comes.
        pushes = [push for every in tables.pushes.values() for push in every if push.delay < steps]
        self.cells = {
            item.name: _Cell(self, item, self._waits(item, pushes)) for item in network.populations
        }
        self.own = {
            push.group.name: [
                np.zeros((self.samples, tables.plan.layouts[push.group.target].size), push.own_type)
                for _ in range(1 + push.delay)
            ]
            for push in pushes
            if push.own_type is not None
        }
        self.counted = {item.name: np.zeros(COUNTED, np.int64) for item in network.neurons}
        pulled = [
            group for group in network.synapses if tables.plan.groups[group.name] == "definition"
        ]
        for group in pulled:
            cell = self.cells[group.source]
            latest = min(steps, int(group.delay.max(initial=0)))
            if latest >= len(cell.past):
                cell.remember(latest)
        self.actions: list[Action] = []
        for item in network.populations:
            leaving = [push for push in pushes if push.group.source == item.name]
            if isinstance(item, IntegerInput):
                self._bind_input(item, leaving)
                continue
            self._bind_arriving(item, pushes, pulled)
            if isinstance(item, IntegerRelay):
                self._bind_relay(item)
            else:
                self._bind_neurons(item)
            self._bind_values(item)
            self.actions += [self._sending(push) for push in leaving]

    def run(self, stop: threading.Event) -> dict[str, Integer]:
        """Run all steps, once, unless told to `stop`; return what each population of neurons counted."""
        for step in range(self.steps):
            if stop.is_set():
                break
            for action in self.actions:
                action(step)
        # They hold this block as it holds them: its memory would wait for the garbage collector.
        self.actions.clear()
        return self.counted

    @staticmethod
    def _waits(item: IntegerPopulation, pushes: list[Push]) -> int:
        """Return how many steps the latest spikes that arrive at `item` are late."""
        arriving = (
            push.delay
            for push in pushes
            if push.group.target == item.name and push.own_type is None
        )
        return max(arriving, default=0)

    def _bind_input(self, item: IntegerInput, leaving: list[Push]) -> None:
        cell, layout = self.cells[item.name], self.tables.plan.layouts[item.name]
        values = self.inputs[item.name]
        size = self.samples, layout.size // layout.units, layout.units

        def take(step: int) -> None:
            # A copy: kernels are compiled for a type, of which being contiguous and writable is part.
            payload = np.array(values[:, step], cell.values.dtype, order="C").reshape(size)
            kernels.take_input(payload, cell.values, cell.events, cell.starts, cell.counts)

        if self.steps > 1 and _is_constant(values):
            self.actions.append(lambda step: None if step else take(0))
            self._bind_values(item)
            self.actions += [self._sending_again(push) for push in leaving]
        else:
            self.actions.append(take)
            self._bind_values(item)
            self.actions += [self._sending(push) for push in leaving]

    def _bind_values(self, item: IntegerPopulation) -> None:
        """See that a population's values are remembered and recorded where somebody asks for them."""
        cell = self.cells[item.name]
        if cell.past:
            self.actions.append(lambda _step: cell.age())
        if item.name in self.trace.spikes and not isinstance(item, IntegerInput):
            recorded = self.trace.spikes[item.name][self.where]

            def record(step: int) -> None:
                recorded[:, step] = cell.outside(cell.values)

            self.actions.append(record)

    def _bind_arriving(
        self, item: IntegerPopulation, pushes: list[Push], pulled: list[IntegerSynapses]
    ) -> None:
        """See that what does not push into the sums of `item` is added to them."""
        cell = self.cells[item.name]
        for push in pushes:
            if push.group.target == item.name and push.own_type is not None:
                self.actions.append(self._shifting(push, cell))
        for group in pulled:
            if group.target == item.name:
                self.actions.append(self._pulling(group, cell))

    def _shifting(self, push: Push, cell: _Cell) -> Action:
        bits, own, sums = -push.group.exponent, self.own[push.group.name], cell.sums
        rounding = 1 << (bits - 1) if push.group.on_host else 0

        def shift(step: int) -> None:
            kernels.add_shifted(own[step % len(own)], bits, rounding, sums[step % len(sums)])

        return shift

    def _pulling(self, group: IntegerSynapses, cell: _Cell) -> Action:
        source, views = self.cells[group.source], self.tables.network.views(group)
        group = replace(group, delay=np.minimum(group.delay, self.steps))
        delays = [int(delay) for delay in np.unique(group.delay)]

        def pull(step: int) -> None:
            delivered = input_sum(group, self._history(source, cell, delays), views)
            size = self.samples, cell.layout.size
            every = np.broadcast_to(delivered, (self.samples, *views[1])).reshape(size)
            cell.sums[step % len(cell.sums)] += cell.layout.inside(every)

        return pull

    def _history(self, source: _Cell, target: _Cell, delays: list[int]) -> dict[int, Integer]:
        """
        Return the values of `source` by delay, as seen in this step.

        A source that comes later has not fired yet: what it remembers is a step old.
        """
        names = [item.name for item in self.tables.network.populations]
        later = names.index(source.item.name) >= names.index(target.item.name)
        return {delay: source.past[delay - int(later)] for delay in delays}

    def _bind_relay(self, item: IntegerRelay) -> None:
        cell = self.cells[item.name]

        def relay(step: int) -> None:
            sums = cell.sums[step % len(cell.sums)]
            kernels.relay(sums, cell.values, cell.events, cell.starts, cell.counts)

        self.actions.append(relay)

    def _bind_neurons(self, item: IntegerNeurons) -> None:
        name, cell, trace = item.name, self.cells[item.name], self.trace
        outputs = self.tables.network.outputs.items()
        shown = [trace.outputs[output][self.where] for output, shows in outputs if shows == name]
        told = (item.shows == "membrane" and shown) or (
            self.before_reset and name in trace.membrane
        )
        parameters = self.tables.parameters[name]
        if told and parameters.kernel == "int32":
            parameters = self.tables.wide_parameters(item)
        if item.shows == "input":
            for output in shown:
                self.actions.append(_showing_input(output, cell, item))
        if parameters.pulse.size:
            self.actions.append(_pulsing(parameters, cell))
        narrow = parameters.kernel == "int32"
        bind = self._firing if narrow else self._firing_any
        fire, v, before = bind(item, cell, parameters)
        self.actions.append(fire)
        if item.shows != "input":
            seen = before if item.shows == "membrane" else cell.values
            self.actions += [_showing(output, cell, seen) for output in shown]
        if name in trace.membrane:
            seen = before if self.before_reset else v
            self.actions.append(_showing(trace.membrane[name][self.where], cell, seen))

    def _firing(
        self, item: IntegerNeurons, cell: _Cell, parameters: Parameters
    ) -> tuple[Action, NDArray[Any], NDArray[Any]]:
        """Return what makes neurons of int32 fire, and their membranes; those before a reset are gone."""
        v = np.zeros(cell.values.shape, np.int32)
        counted = self.counted[item.name]
        # Where a membrane stops at a floor, it does not saturate below.
        saturated = np.zeros(2, np.int64) if parameters.floored.any() else counted[2:4]
        subtracts = np.int32(-1 if item.reset == "subtract" else 0)
        rest = (
            parameters.threshold,
            parameters.lowest,
            parameters.amount,
            subtracts,
            cell.values,
            cell.events,
            cell.starts,
            cell.counts,
            saturated,
        )
        leak, leaks, sums = parameters.leak, parameters.leaks, cell.sums
        bias, first_bias, waits = parameters.bias, parameters.first_bias, len(cell.sums)

        def fire(step: int) -> None:
            kernels.fire(sums[step % waits], v, leak, leaks, bias if step else first_bias, *rest)

        def fire_floored(step: int) -> None:
            fire(step)
            counted[3], saturated[0] = saturated[1], 0

        return (fire_floored if parameters.floored.any() else fire), v, v

    def _firing_any(
        self, item: IntegerNeurons, cell: _Cell, parameters: Parameters
    ) -> tuple[Action, NDArray[Any], NDArray[Any]]:
        """Return what makes neurons of int64 fire, and their membranes after and before a reset."""
        u, v, resting, before = np.zeros((4, *cell.values.shape), np.int64)
        start = (parameters.keeps, parameters.leak)
        rest = (
            parameters.threshold,
            parameters.lowest,
            parameters.amount,
            parameters.floored,
            item.inclusive,
            item.reset == "subtract",
            item.most,
            item.refractory,
            before,
            cell.values,
            cell.events,
            cell.starts,
            cell.counts,
            self.counted[item.name],
            None if item.arithmetic == LOIHI2 else kernels.numbers_of(item.arithmetic),
        )

        def fire(step: int) -> None:
            bias = parameters.bias if step else parameters.first_bias
            sums = cell.sums[step % len(cell.sums)]
            kernels.fire_any(sums, u, v, resting, *start, bias, *rest)

        return fire, v, before

    def _target(self, push: Push) -> list[NDArray[Any]]:
        """Return the sums that `push` adds to, one for each step to wait."""
        own = self.own.get(push.group.name)
        return self.cells[push.group.target].sums if own is None else own

    def _sending(self, push: Push) -> Action:
        cell, ring, last = self.cells[push.group.source], self._target(push), self.steps
        deliver, delay, waits = _deliver(cell, push), push.delay, len(ring)

        def send(step: int) -> None:
            if step + delay < last:
                deliver(ring[(step + delay) % waits])

        return send

    def _sending_again(self, push: Push) -> Action:
        """Return what sends events that are the same in every step: they are added up once."""
        cell, ring = self.cells[push.group.source], self._target(push)
        deliver, kept = _deliver(cell, push), np.zeros_like(ring[0])

        def send(step: int) -> None:
            if step == 0:
                deliver(kept)
            if step + push.delay < self.steps:
                sums = ring[(step + push.delay) % len(ring)]
                np.add(sums, kept, out=sums)

        return send


def _deliver(cell: _Cell, push: Push) -> Callable[[NDArray[Any]], None]:
    """Return what adds the events of `cell` to the sums it is called with."""
    if push.kernel == "gather":
        kernel: Any = kernels.gather
        arguments = (cell.events, cell.starts, cell.values, push.graded, *push.arguments)
    else:
        kernel = kernels.scatter
        arguments = (cell.events, cell.values, cell.counts, push.graded, *push.arguments)

    def deliver(sums: NDArray[Any]) -> None:
        kernel(*arguments, sums)

    return deliver


def _showing_input(output: NDArray[Any], cell: _Cell, item: IntegerNeurons) -> Action:
    def show(step: int) -> None:
        arrived = cell.outside(cell.sums[step % len(cell.sums)]).astype(np.int64)
        output[:, step] = (arrived << item.arithmetic.fraction_bits) + item.bias

    return show


def _pulsing(parameters: Parameters, cell: _Cell) -> Action:
    def pulse(step: int) -> None:
        if step == 0:
            cell.sums[0] += parameters.pulse.astype(cell.sums[0].dtype)

    return pulse


def _showing(output: NDArray[Any], cell: _Cell, seen: NDArray[Any]) -> Action:
    def show(step: int) -> None:
        output[:, step] = cell.outside(seen)

    return show


def _is_constant(values: Integer) -> bool:
    """Return whether every step of `values`, (samples, steps, ...), is the first one again."""
    steps = range(1, values.shape[1])
    return all(np.array_equal(values[:, step], values[:, 0]) for step in steps)
