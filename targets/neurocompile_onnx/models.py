"""
The models of a program: one step with its states outside, and whole sequences, by `Scan`.

    step.onnx        inputs and states of a step  ->  outputs, what layers sent, and the next states
    sequence.onnx    inputs (batch, steps, ...)   ->  outputs (batch, steps, ...)
    trace.onnx       the same, with what layers sent and their membranes after each step

The body of the `Scan` is the graph of `step.onnx`. `metadata_props` say in words and, under "neurocompile", in
JSON what a caller has to know.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from neurocompile import __version__
from neurocompile.integer import IntegerNeurons
from neurocompile.program import Program
from neurocompile_onnx.digest import digest_of
from neurocompile_onnx.graph import IR_VERSION, OPSET, Graph, Value, model_bytes
from neurocompile_onnx.run import INTERFACE, SEQUENCE, STEP, TRACE, VERSION
from neurocompile_onnx.scan import Shown, Source, Stepped, Written, name_tensors
from neurocompile_onnx.step import StepWriter


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
        self.network = network = program.network
        self.states = writer.states()
        self.names = name_tensors(
            inputs=[item.name for item in network.inputs],
            outputs=network.outputs,
            states=[state.name for state in self.states],
            sent=[
                item.name
                for item in network.populations
                if item not in network.inputs and not getattr(item, "readout", False)
            ],
            membranes=[item.name for item in network.neurons],
        )
        sources = [
            Source(
                item.name,
                writer.type_of(item),
                item.shape,
                f"integers from {item.minimum} to {item.maximum}",
            )
            for item in network.inputs
        ]
        self.stepped = Stepped(self.names, sources, self.states)
        self.digest = digest_of(program)

    def step(self) -> bytes:
        """Return the model of one step; most membranes are states, and not shown a second time."""
        membranes = [
            item.name for item in self.network.neurons if f"v/{item.name}" not in self.names.states
        ]
        write = partial(self._write, sent=True, membranes=membranes)
        return self._finish(self.stepped.step("step", write), STEP)

    def sequence(self, *, trace: bool) -> bytes:
        """Return the model of whole samples, with everything that layers do if it is a `trace`."""
        file = TRACE if trace else SEQUENCE
        membranes = [item.name for item in self.network.neurons] if trace else []
        write = partial(self._write, sent=trace, membranes=membranes)
        return self._finish(self.stepped.sequence(file.removesuffix(".onnx"), write), file)

    def _write(
        self,
        graph: Graph,
        inputs: Mapping[str, Value],
        states: Mapping[str, Value],
        *,
        sent: bool,
        membranes: Collection[str],
    ) -> Written:
        """Write a step, and return it with what is to be shown of it."""
        names, network = self.names, self.network
        step = self.writer.write(graph, inputs, states)
        shown = [
            Shown(
                names.outputs[name], value, network[network.outputs[name]].shape, self._unit(name)
            )
            for name, value in step.outputs.items()
        ]
        if sent:
            shown += [
                Shown(names.sent[name], value, network[name].shape, _SENT)
                for name, value in step.sent.items()
            ]
        shown += [
            Shown(names.membranes[name], value, network[name].shape, _MEMBRANES)
            for name, value in step.membranes.items()
            if name in membranes
        ]
        return Written(shown, step.next_states)

    def _finish(self, graph: Graph, file: str) -> bytes:
        return model_bytes(graph, self._properties(file), _DOCS[file])

    def _unit(self, output: str) -> str:
        neurons = self.network[self.network.outputs[output]]
        assert isinstance(neurons, IntegerNeurons)
        if not neurons.readout:
            return "spikes"
        return "in state units: see the metadata"

    def _properties(self, file: str) -> dict[str, str]:
        """Return what people read, and the same for programs."""
        program, names = self.program, self.names
        stored = {
            "version": VERSION,
            "neurocompile": __version__,
            "form": "integer",
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
            "states": self.stepped.described_states() if file == STEP else [],
        }
        return {
            INTERFACE: json.dumps(stored, separators=(",", ":")),
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


_DOCS = {
    STEP: "One step of a spiking network in integers: feed the next states back as states.",
    SEQUENCE: "A spiking network in integers, over all steps of each sample.",
    TRACE: "A spiking network in integers, over all steps of each sample, with all spikes and membranes, "
    "those in state units.",
}
_SENT = "spikes, or their sum"
_MEMBRANES = "after the reset"
