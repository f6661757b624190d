"""
The models of a program: one step with its states outside, and whole sequences, by `Scan`.

    step.onnx        inputs and states of a step  ->  outputs, what layers sent, and the next states
    sequence.onnx    inputs (batch, steps, ...)   ->  outputs (batch, steps, ...)
    trace.onnx       the same, with what layers sent and their membranes after each step

Arrays are batch-major, as everywhere in neurocompile: `Scan` itself wants steps first, and is put between two
transpositions. The body of the `Scan` is the graph of `step.onnx`. `metadata_props` say in words and, under
"neurocompile", in JSON what a caller has to know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurocompile import __version__
from neurocompile.integer import IntegerNeurons
from neurocompile.program import Program
from neurocompile_onnx.digest import digest_of
from neurocompile_onnx.graph import IR_VERSION, OPSET, Graph, Value, model_bytes
from neurocompile_onnx.run import INTERFACE, SEQUENCE, STEP, TRACE, VERSION
from neurocompile_onnx.step import StepWriter, filled


@dataclass(frozen=True)
class _Names:
    """What tensors are called: inputs and outputs as in the network, where that is not ambiguous."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    states: Mapping[str, str]
    next_states: Mapping[str, str]
    sent: Mapping[str, str]
    membranes: Mapping[str, str]

    def all(self) -> list[str]:
        return [name for field in vars(self).values() for name in field.values()]


def make_models(program: Program, kernels: str) -> dict[str, bytes]:
    """Return the files with the models of `program`; see `Sums` for `kernels`."""
    models = _Models(program, StepWriter(program, kernels))
    return {
        STEP: models.step(),
        SEQUENCE: models.sequence(trace=False),
        TRACE: models.sequence(trace=True),
    }


class _Models:
    def __init__(self, program: Program, writer: StepWriter) -> None:
        self.program, self.writer = program, writer
        self.network = program.network
        self.states = writer.states()
        self.names = self._name()
        self.digest = digest_of(program)

    def step(self) -> bytes:
        """Return the model of one step."""
        names = self.names
        graph = Graph("step", _DOCS[STEP], reserved=names.all())
        inputs = {
            item.name: graph.input(
                names.inputs[item.name],
                self.writer.type_of(item),
                ("batch", *item.shape),
                f"integers from {item.minimum} to {item.maximum}",
            )
            for item in self.network.inputs
        }
        states = {
            state.name: graph.input(
                names.states[state.name],
                state.dtype,
                ("batch", *state.shape),
                f"{state.doc}; {state.initial} before the first step",
            )
            for state in self.states
        }
        step = self.writer.write(graph, inputs, states)
        for name, value in step.outputs.items():
            shape = self.network[self.network.outputs[name]].shape
            graph.output(value, names.outputs[name], ("batch", *shape), self._unit(name))
        for name, value in step.sent.items():
            shape = self.network[name].shape
            graph.output(value, names.sent[name], ("batch", *shape), _SENT)
        for name, value in step.membranes.items():
            if f"v/{name}" not in names.states:
                shape = self.network[name].shape
                graph.output(value, names.membranes[name], ("batch", *shape), _MEMBRANES)
        for state in self.states:
            value = step.next_states[state.name]
            graph.output(value, names.next_states[state.name], ("batch", *state.shape), state.doc)
        return self._finish(graph, STEP)

    def sequence(self, *, trace: bool) -> bytes:
        """Return the model of whole samples, with everything that layers do if it is a `trace`."""
        file = TRACE if trace else SEQUENCE
        names, network = self.names, self.network
        graph = Graph(file.removesuffix(".onnx"), _DOCS[file], reserved=names.all())
        inputs = {
            item.name: graph.input(
                names.inputs[item.name],
                self.writer.type_of(item),
                ("batch", "steps", *item.shape),
                f"integers from {item.minimum} to {item.maximum}",
            )
            for item in network.inputs
        }
        body, shown = self._body(graph, trace=trace)
        initial = self._initial(graph, inputs)
        scanned = [_swapped(graph, value, network[name].shape) for name, value in inputs.items()]
        results = graph.nodes(
            "Scan",
            [*initial, *scanned],
            [(f"last/{state.name}", state.dtype) for state in self.states]
            + [(f"all/{name}", dtype) for name, dtype, _, _ in shown],
            name="steps",
            body=body,
            num_scan_inputs=len(scanned),
        )
        for value, (name, _, shape, doc) in zip(results[len(self.states) :], shown, strict=True):
            graph.output(_swapped(graph, value, shape), name, ("batch", "steps", *shape), doc)
        return self._finish(graph, file)

    def _body(
        self, graph: Graph, *, trace: bool
    ) -> tuple[Graph, list[tuple[str, Any, tuple[int, ...], str]]]:
        """Return the body of the `Scan`, and name, type, shape and meaning of what it shows of each step."""
        names, network = self.names, self.network
        prefix = "step"
        while any(name.startswith(f"{prefix}/") for name in names.all()):
            prefix += "_"
        body = Graph("step", prefix=prefix, reserved=names.all(), inside=graph)
        states = {
            state.name: body.input(names.states[state.name], state.dtype, ("batch", *state.shape))
            for state in self.states
        }
        inputs = {
            item.name: body.input(
                names.inputs[item.name], self.writer.type_of(item), ("batch", *item.shape)
            )
            for item in network.inputs
        }
        step = self.writer.write(body, inputs, states)
        for state in self.states:
            value = step.next_states[state.name]
            body.output(value, names.next_states[state.name], ("batch", *state.shape))
        shown = []

        def show(value: Value, name: str, shape: tuple[int, ...], doc: str) -> None:
            body.output(value, name, ("batch", *shape))
            shown.append((name, value.dtype, shape, doc))

        for name, value in step.outputs.items():
            shape = network[network.outputs[name]].shape
            show(value, names.outputs[name], shape, self._unit(name))
        if trace:
            for name, value in step.sent.items():
                show(value, names.sent[name], network[name].shape, _SENT)
            for name, value in step.membranes.items():
                show(value, names.membranes[name], network[name].shape, _MEMBRANES)
        return body, shown

    def _initial(self, graph: Graph, inputs: Mapping[str, Value]) -> list[Value]:
        """Return what each state is before the first step; equal ones are one tensor."""
        made: dict[tuple[tuple[int, ...], np.dtype[Any], int], Value] = {}
        found = []
        with graph.scope("initial"):
            batch = graph.node("Shape", next(iter(inputs.values())), dtype=np.int64, start=0, end=1)
            for state in self.states:
                key = (state.shape, state.dtype, state.initial)
                if key not in made:
                    made[key] = filled(graph, batch, *key)
                found.append(made[key])
        return found

    def _finish(self, graph: Graph, file: str) -> bytes:
        return model_bytes(graph, self._properties(file), _DOCS[file])

    def _unit(self, output: str) -> str:
        neurons = self.network[self.network.outputs[output]]
        assert isinstance(neurons, IntegerNeurons)
        if not neurons.readout:
            return "spikes"
        return "in state units: divide by the scale in the metadata and add the origin"

    def _properties(self, file: str) -> dict[str, str]:
        """Return what people read, and the same for programs."""
        program, names = self.program, self.names
        stored = {
            "version": VERSION,
            "neurocompile": __version__,
            "digest": self.digest,
            "kernels": self.writer.kernels,
            "steps": program.steps,
            "inputs": {
                item.name: {
                    "tensor": names.inputs[item.name],
                    "scale": item.scale,
                    "minimum": item.minimum,
                    "maximum": item.maximum,
                }
                for item in self.network.inputs
            },
            "outputs": {
                output: {"tensor": names.outputs[output], **self._described_output(population)}
                for output, population in self.network.outputs.items()
            },
            "sent": {
                item.name: names.sent[item.name]
                for item in self.network.populations
                if item.name in names.sent
            },
            "membranes": {
                name: names.next_states.get(f"v/{name}", tensor) if file == STEP else tensor
                for name, tensor in names.membranes.items()
            },
            "states": [
                {
                    "tensor": names.states[state.name],
                    "next": names.next_states[state.name],
                    "type": state.dtype.name,
                    "shape": list(state.shape),
                    "initial": state.initial,
                }
                for state in self.states
                if file == STEP
            ],
        }
        return {
            INTERFACE: json.dumps(stored),
            "inputs": "integers: round(x * scale), halves to even, between minimum and maximum",
            "outputs": "spikes, or state units: real value = integer / scale + origin",
            "initial states": "every element is the 'initial' of its state at the first step of a sample",
            "range proof": f"covers samples of at most {program.steps} steps",
            "runtime": f"opset {OPSET}, IR version {IR_VERSION}, which ONNX Runtime reads since 1.12",
        }

    def _described_output(self, population: str) -> dict[str, Any]:
        neurons = self.network[population]
        assert isinstance(neurons, IntegerNeurons)
        if not neurons.readout:
            return {"shows": "spikes"}
        return {
            "shows": neurons.shows,
            "scale": (neurons.scale * neurons.arithmetic.state_units).tolist(),
            "origin": neurons.origin.tolist(),
        }

    def _name(self) -> _Names:
        taken: set[str] = set()

        def free(wanted: str, other: str) -> str:
            found = wanted
            while found in taken:
                found, other = other, f"{other}_"
            taken.add(found)
            return found

        network = self.network
        inputs = {item.name: free(item.name, f"input/{item.name}") for item in network.inputs}
        outputs = {name: free(name, f"output/{name}") for name in network.outputs}
        states = {state.name: free(state.name, f"state/{state.name}") for state in self.states}
        following = {
            state.name: free(f"next/{state.name}", f"following/{state.name}")
            for state in self.states
        }
        sent = {
            item.name: free(f"spikes/{item.name}", f"sent/{item.name}")
            for item in network.populations
            if item not in network.inputs and not getattr(item, "readout", False)
        }
        membranes = {
            item.name: free(f"membrane/{item.name}", f"after/{item.name}")
            for item in network.neurons
        }
        return _Names(inputs, outputs, states, following, sent, membranes)


_DOCS = {
    STEP: "One step of a spiking network in integers: feed the next states back as states.",
    SEQUENCE: "A spiking network in integers, over all steps of each sample.",
    TRACE: "A spiking network in integers, over all steps of each sample, with all spikes and membranes.",
}
_SENT = "spikes in this step, or their sum"
_MEMBRANES = "membranes after the reset, in state units"


def _swapped(graph: Graph, value: Value, shape: tuple[int, ...]) -> Value:
    """Return (batch, steps, *shape) as (steps, batch, *shape), or the other way round."""
    axes = np.arange(2 + len(shape))
    axes[:2] = 1, 0
    return graph.node("Transpose", value, perm=axes)
