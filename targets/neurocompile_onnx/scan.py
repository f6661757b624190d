"""
A network that goes on from step to step, as graphs: one step, or whole samples by a `Scan` over its steps.

Integers and real numbers have this in common: names, states, and how a step becomes a sequence. Arrays are
batch-major, as everywhere in neurocompile: `Scan` itself wants steps first, and is put between two
transpositions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurocompile.integer import Shape
from neurocompile_onnx.graph import Graph, Value
from neurocompile_onnx.neurons import State
from neurocompile_onnx.step import filled


@dataclass(frozen=True)
class Names:
    """What tensors are called: as in the network, where that is not ambiguous."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    states: Mapping[str, str]
    next_states: Mapping[str, str]
    sent: Mapping[str, str]
    membranes: Mapping[str, str]

    def all(self) -> list[str]:
        return [name for field in vars(self).values() for name in field.values()]


def name_tensors(
    *,
    inputs: Iterable[str],
    outputs: Iterable[str],
    states: Iterable[str],
    sent: Iterable[str],
    membranes: Iterable[str],
) -> Names:
    """Return a name for each tensor that comes in or goes out, no two alike."""
    taken: set[str] = set()

    def free(wanted: str, other: str) -> str:
        found = wanted
        while found in taken:
            found, other = other, f"{other}_"
        taken.add(found)
        return found

    states = tuple(states)
    return Names(
        inputs={name: free(name, f"input/{name}") for name in inputs},
        outputs={name: free(name, f"output/{name}") for name in outputs},
        states={name: free(name, f"state/{name}") for name in states},
        next_states={name: free(f"next/{name}", f"following/{name}") for name in states},
        sent={name: free(f"spikes/{name}", f"sent/{name}") for name in sent},
        membranes={name: free(f"membrane/{name}", f"after/{name}") for name in membranes},
    )


@dataclass(frozen=True)
class Source:
    """An input of the network, (*shape) in each step."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    doc: str


@dataclass(frozen=True)
class Shown:
    """What a step tells: (batch, *shape), called `name`."""

    name: str
    value: Value
    shape: Shape
    doc: str


@dataclass(frozen=True)
class Written:
    """What a step tells, and the next states by the names of the states."""

    shown: Sequence[Shown]
    next_states: Mapping[str, Value]


# Writes a step into a graph, from inputs and states by name.
Write = Callable[[Graph, Mapping[str, Value], Mapping[str, Value]], Written]


class Stepped:
    """The graphs of a network with these `sources` and `states`."""

    def __init__(self, names: Names, sources: Sequence[Source], states: Sequence[State]) -> None:
        self.names, self.sources, self.states = names, sources, states

    def step(self, name: str, write: Write) -> Graph:
        """Return one step, with its states as inputs and outputs."""
        graph = Graph(name, reserved=self.names.all())
        inputs = self._inputs(graph, "batch")
        written = write(graph, inputs, self._states(graph))
        for each in written.shown:
            graph.output(each.value, each.name, ("batch", *each.shape), each.doc)
        self._leave(graph, written)
        return graph

    def sequence(self, name: str, write: Write) -> Graph:
        """Return whole samples, (batch, steps, *shape)."""
        graph = Graph(name, reserved=self.names.all())
        inputs = self._inputs(graph, "batch", "steps")
        body = Graph("step", prefix=self._prefix(), reserved=self.names.all(), inside=graph)
        before = self._states(body, described=False)
        written = write(body, self._inputs(body, "batch", described=False), before)
        self._leave(body, written)
        for each in written.shown:
            body.output(each.value, each.name, ("batch", *each.shape))
        initial = self._initial(graph, inputs)
        scanned = [_swapped(graph, inputs[item.name], item.shape) for item in self.sources]
        results = graph.nodes(
            "Scan",
            [*initial, *scanned],
            [(f"last/{state.name}", state.dtype) for state in self.states]
            + [(f"all/{each.name}", each.value.dtype) for each in written.shown],
            name="steps",
            body=body,
            num_scan_inputs=len(scanned),
        )
        for value, each in zip(results[len(self.states) :], written.shown, strict=True):
            by_sample = _swapped(graph, value, each.shape)
            graph.output(by_sample, each.name, ("batch", "steps", *each.shape), each.doc)
        return graph

    def described_states(self) -> list[dict[str, Any]]:
        """Return what a caller of a step has to know of the states, as plain values."""
        return [
            {
                "tensor": self.names.states[state.name],
                "next": self.names.next_states[state.name],
                "type": state.dtype.name,
                "shape": list(state.shape),
                "initial": state.initial,
            }
            for state in self.states
        ]

    def _inputs(self, graph: Graph, *lengths: str, described: bool = True) -> dict[str, Value]:
        return {
            item.name: graph.input(
                self.names.inputs[item.name],
                item.dtype,
                (*lengths, *item.shape),
                item.doc if described else "",
            )
            for item in self.sources
        }

    def _states(self, graph: Graph, *, described: bool = True) -> dict[str, Value]:
        return {
            state.name: graph.input(
                self.names.states[state.name],
                state.dtype,
                ("batch", *state.shape),
                state.described if described else "",
            )
            for state in self.states
        }

    def _leave(self, graph: Graph, written: Written) -> None:
        for state in self.states:
            value = written.next_states[state.name]
            graph.output(value, self.names.next_states[state.name], ("batch", *state.shape))

    def _prefix(self) -> str:
        """Return what the names in the body of the `Scan` begin with, and no other does."""
        prefix = "step"
        while any(name.startswith(f"{prefix}/") for name in self.names.all()):
            prefix += "_"
        return prefix

    def _initial(self, graph: Graph, inputs: Mapping[str, Value]) -> list[Value]:
        """Return what each state is before the first step; equal ones are one tensor."""
        made: dict[tuple[Shape, np.dtype[Any], int], Value] = {}
        found: list[Value] = []
        if not self.states:
            return found
        with graph.scope("initial"):
            batch = graph.node("Shape", next(iter(inputs.values())), dtype=np.int64, start=0, end=1)
            for state in self.states:
                key = (state.shape, state.dtype, state.initial)
                if key not in made:
                    made[key] = filled(graph, batch, *key)
                found.append(made[key])
        return found


def _swapped(graph: Graph, value: Value, shape: Shape) -> Value:
    """Return (batch, steps, *shape) as (steps, batch, *shape), or the other way round."""
    return graph.node("Transpose", value, perm=(1, 0, *range(2, 2 + len(shape))))
