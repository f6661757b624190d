"""
The float, folded network as ONNX: what `population_reference` computes, step by step, in float32.

    float_step.onnx       one step; states come in and go out
    float_sequence.onnx   whole samples, by a Scan over their steps

It is the network before quantisation, in the units of the source: inputs are real numbers, and weights
are rounded to float32, 24 bits instead of the 53 that the reference computes with. Sums differ from its
by some 1e-7 of their terms, which changes a spike only where the membrane lies as near to its threshold.
Float64 would move that edge and no more; it is not offered, as ONNX Runtime has no convolution of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurocompile import __version__
from neurocompile.errors import Problem, RangeError, raise_all
from neurocompile.integer import Shape
from neurocompile.ir import Conv2d
from neurocompile.populations import (
    Float,
    InputPopulation,
    Population,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SumPopulation,
    SynapseGroup,
)
from neurocompile_onnx.graph import IR_VERSION, OPSET, Graph, Value, model_bytes
from neurocompile_onnx.neurons import State
from neurocompile_onnx.run import INTERFACE, VERSION
from neurocompile_onnx.scan import Names, Shown, Source, Stepped, Written, name_tensors
from neurocompile_onnx.step import batch_shape, zeros

HALF_A_BIT = 2.0**-24  # the relative error of float32
STEP = "float_step.onnx"
SEQUENCE = "float_sequence.onnx"
DOCS = {
    STEP: "One step of a spiking network in real numbers: feed the next states back as states.",
    SEQUENCE: "A spiking network in real numbers, over all steps of each sample, with spikes and membranes.",
}


def real_models(network: PopulationNetwork, *, steps: int) -> dict[str, bytes]:
    """
    Return the files of `network` in real numbers, for samples of at most `steps` steps.

    What arrives later than that never comes, and is not kept. Raises `RangeError` for numbers that float32
    does not hold: beyond its ends, or so near to 0 that they lose bits.
    """
    models = _Models(network, steps)
    return {STEP: models.step(), SEQUENCE: models.sequence()}


def states_of(network: PopulationNetwork, steps: int) -> tuple[State, ...]:
    """Return what `network` remembers from step to step, in samples of at most `steps` steps."""
    found = []
    real, whole = np.dtype(np.float32), np.dtype(np.int32)
    for item in network.populations:
        name, shape = item.name, item.shape
        if isinstance(item, SpikingPopulation | ReadoutPopulation):
            starts = isinstance(item, SpikingPopulation) and item.start.any()
            if item.pulse.any() or starts:
                doc = "1 in the first step of a sample, 0 after it"
                found.append(State(f"first/{name}", real, (1,) * len(shape), 1, doc))
            if item.decay is not None and item.current_decay.any():
                found.append(State(f"u/{name}", real, shape, 0, "currents, in the source's units"))
            if item.decay is not None and item.decay.any():
                doc = "membranes after the reset, in the source's units"
                found.append(State(f"v/{name}", real, shape, 0, doc))
            if isinstance(item, SpikingPopulation) and item.refractory:
                doc = "steps that neurons still rest"
                found.append(State(f"resting/{name}", whole, shape, 0, doc))
        latest = max(
            (int(np.minimum(g.delay, steps).max(initial=0)) for g in network.out_of(name)),
            default=0,
        )
        if latest:
            doc = "what was sent in the last steps, the latest first"
            found.append(State(f"past/{name}", real, (latest, *shape), 0, doc))
    return tuple(found)


def names_of(network: PopulationNetwork, states: Sequence[State]) -> Names:
    """Return a name for each tensor that comes in or goes out."""
    spiking = [item.name for item in network.populations if isinstance(item, SpikingPopulation)]
    return name_tensors(
        inputs=[item.name for item in _inputs(network)],
        outputs=network.outputs,
        states=[state.name for state in states],
        sent=spiking,
        membranes=spiking,
    )


def _inputs(network: PopulationNetwork) -> list[InputPopulation]:
    return [item for item in network.populations if isinstance(item, InputPopulation)]


class _Models:
    """The two models of a network."""

    def __init__(self, network: PopulationNetwork, steps: int) -> None:
        self.network, self.steps = network, steps
        self.states = states_of(network, steps)
        self.names = names_of(network, self.states)
        real = np.dtype(np.float32)
        sources = [Source(item.name, real, item.shape, "real numbers") for item in _inputs(network)]
        self.stepped = Stepped(self.names, sources, self.states)

    def step(self) -> bytes:
        """Return the model of one step: inputs and states to outputs, records and next states."""
        graph = self.stepped.step("float_step", self._write)
        return model_bytes(graph, self._properties(STEP), DOCS[STEP])

    def sequence(self) -> bytes:
        """Return the model of whole samples, (batch, steps, *shape): a `Scan` over the steps."""
        graph = self.stepped.sequence("float_sequence", self._write)
        return model_bytes(graph, self._properties(SEQUENCE), DOCS[SEQUENCE])

    def _write(
        self, graph: Graph, inputs: Mapping[str, Value], states: Mapping[str, Value]
    ) -> Written:
        step = _Step(graph, self.network, self.states, states).make(inputs)
        return Written(self._shown(step), step.left)

    def _shown(self, step: _Step) -> list[Shown]:
        """Return the outputs of the network, then spikes and membranes of each layer."""
        network, names = self.network, self.names
        shown = [
            Shown(names.outputs[output], step.sent[name], network[name].shape, "as in the source")
            for output, name in network.outputs.items()
        ]
        for name in names.sent:
            shape = network[name].shape
            shown += [
                Shown(names.sent[name], step.sent[name], shape, "spikes in this step"),
                Shown(names.membranes[name], step.membranes[name], shape, "before the reset"),
            ]
        return shown

    def _properties(self, file: str) -> dict[str, str]:
        """Return what people read, and the same for programs."""
        network, names = self.network, self.names
        stored = {
            "version": VERSION,
            "neurocompile": __version__,
            "form": "float",
            "steps": self.steps,
            "inputs": {
                name: {"tensor": tensor, "scale": 1} for name, tensor in names.inputs.items()
            },
            "outputs": {
                output: {"tensor": names.outputs[output], **_shown_by(network[population])}
                for output, population in network.outputs.items()
            },
            "sent": dict(names.sent),
            "membranes": dict(names.membranes),
            "origins": {  # of membranes
                item.name: item.origin.tolist()
                for item in network.populations
                if isinstance(item, SpikingPopulation)
            },
            "states": self.stepped.described_states() if file == STEP else [],
        }
        return {
            INTERFACE: json.dumps(stored, separators=(",", ":")),
            "inputs": "real numbers, as the network was trained with",
            "outputs": "in the units of the source network",
            "membranes": "as compared with the threshold; with the origin added, the source's",
            "initial states": "every element is the 'initial' of its state at the first step of a sample",
            "steps": f"delays are kept for samples of at most {self.steps} steps",
            "runtime": f"opset {OPSET}, IR version {IR_VERSION}: ONNX Runtime 1.12 or newer",
        }


def _shown_by(item: Population) -> dict[str, object]:
    """Return how an output is described that shows `item`, as in the metadata of integers."""
    if isinstance(item, SpikingPopulation):
        return {"shows": "spikes"}
    # The bias of a read-out has its origin in it.
    return {"shows": "membrane", "scale": 1, "origin": 0}


class _Step:
    """Writes the nodes of one step into a graph; `before` holds the states as they come in."""

    def __init__(
        self,
        graph: Graph,
        network: PopulationNetwork,
        states: tuple[State, ...],
        before: Mapping[str, Value],
    ) -> None:
        self.graph, self.network, self.before = graph, network, before
        self.shapes = {state.name: state.shape for state in states}
        self.layer, self.unit = (
            "",
            1.0,
        )  # what is being written, and what its membranes are compared with
        self.problems: list[Problem] = []
        self.sent: dict[str, Value] = {}
        self.membranes: dict[str, Value] = {}
        self.left: dict[str, Value] = {}

    def make(self, inputs: Mapping[str, Value]) -> _Step:
        """Write one step of all populations, and return itself, with all that the step made."""
        for item in self.network.populations:
            if isinstance(item, InputPopulation):
                self.sent[item.name] = inputs[item.name]
                continue
            self.layer = item.name
            self.unit = 1.0
            if isinstance(item, SpikingPopulation):
                self.unit = float(np.abs(item.threshold).min())
            with self.graph.scope(item.name):
                arriving = self._arriving(item.name, item.shape)
                match item:
                    case SumPopulation():
                        self.sent[item.name] = arriving
                    case ReadoutPopulation():
                        self.sent[item.name] = self._read_out(item, arriving)
                    case SpikingPopulation():
                        self.sent[item.name] = self._fire(item, arriving)
        self._remember()
        raise_all(RangeError, self.problems)
        return self

    # What arrives

    def _arriving(self, name: str, shape: Shape) -> Value:
        """Return the sum of what all groups deliver to population `name`, (batch, *shape)."""
        total = None
        for group in self.network.into(name):
            with self.graph.scope(group.name):
                delivered = self._deliver(group, shape)
            total = delivered if total is None else self.graph.node("Add", total, delivered)
        if total is None:
            some = next(iter(self.sent.values()))
            total = zeros(self.graph, batch_shape(self.graph, some, shape), np.float32)
        return total

    def _deliver(self, group: SynapseGroup, shape: Shape) -> Value:
        graph, operator, source = self.graph, group.operator, self.network[group.source]
        neurons = np.arange(math.prod(source.shape))
        if group.delay.ndim and group.delay.shape == operator.weight.shape:
            # What each synapse hears, as late as it does: (batch, outputs, inputs)
            heard = self._late(group, np.broadcast_to(neurons, operator.weight.shape))
            weighted = graph.node("Mul", heard, self._real("weight", operator.weight))
            sums = graph.node("ReduceSum", weighted, self._index("inputs", [2]), keepdims=0)
            return self._viewed(sums, operator.weight.shape[:1], shape)
        values = self.sent.get(group.source)
        if group.delay.any():
            values = self._late(group, neurons.reshape(source.shape))
        assert values is not None  # groups without a delay come from earlier populations
        if isinstance(operator, Conv2d):
            sums = graph.node(
                "Conv",
                self._viewed(values, source.shape, group.source_view),
                self._real("weight", operator.weight),
                strides=operator.stride,
                pads=(*operator.padding, *operator.padding),
                dilations=operator.dilation,
                group=operator.groups,
                kernel_shape=operator.weight.shape[2:],
            )
            return self._viewed(sums, group.target_view, shape)
        flat = self._viewed(values, source.shape, neurons.shape)
        sums = graph.node("Gemm", flat, self._real("weight", operator.weight), transB=1)
        return self._viewed(sums, operator.weight.shape[:1], shape)

    def _late(self, group: SynapseGroup, neurons: NDArray[np.int64]) -> Value:
        """Return (batch, *neurons.shape): what these neurons of the source sent, as late as `group` hears it."""
        graph, source = self.graph, self.network[group.source]
        state = f"past/{source.name}"
        longest, size = self.shapes[state][0], math.prod(source.shape)
        past = self._viewed(self.before[state], self.shapes[state], (longest * size,))
        ago = np.broadcast_to(np.minimum(group.delay, longest), neurons.shape) - 1
        if (ago < 0).any():  # what is sent now is no history yet
            now = self._viewed(self.sent[source.name], source.shape, (size,))
            past, ago = graph.node("Concat", now, past, axis=1, name="past"), ago + 1
        return graph.node("Gather", past, self._index("late", ago * size + neurons), axis=1)

    # Neurons

    def _membrane(self, item: SpikingPopulation | ReadoutPopulation, arriving: Value) -> Value:
        """Return decay v + i + bias, where i = current_decay i + `arriving`."""
        if item.pulse.any():
            arriving = self._plus_at_first("pulse", arriving, item.pulse, item)
        if item.decay is None:
            return self._plus("bias", arriving, item.bias)
        state = f"u/{item.name}"
        current = self._leaky("current", state, item.current_decay, arriving)
        if state in self.before:
            self.left[state] = current
        membrane = self._leaky("leak", f"v/{item.name}", item.decay, current)
        return self._plus("bias", membrane, item.bias)

    def _leaky(self, name: str, state: str, decay: Float, added: Value) -> Value:
        """Return `decay` times `state`, if that is remembered, and what is `added`."""
        if state not in self.before:
            return added
        kept = self.before[state]
        with self.graph.scope(name):
            if (decay != 1).any():
                kept = self.graph.node("Mul", kept, self._real("decay", decay))
            return self.graph.node("Add", kept, added)

    def _read_out(self, item: ReadoutPopulation, arriving: Value) -> Value:
        membrane = self._membrane(item, arriving)
        self._leave(f"v/{item.name}", membrane)
        return membrane

    def _fire(self, item: SpikingPopulation, arriving: Value) -> Value:
        """Return the spikes of `item`, and leave its states."""
        graph, zero = self.graph, self._real("zero", 0.0)
        before = self._membrane(item, arriving)
        if item.start.any():
            before = self._plus_at_first("start", before, item.start, item)
        if item.floor is not None:
            before = graph.node("Max", before, self._real("floor", item.floor), name="floor")
        rests = self._rests(item)
        if rests is not None:
            before = graph.node("Where", rests, zero, before, dtype=np.float32)
        self.membranes[item.name] = before
        spikes, fires = self._count(item, before)
        if rests is not None:
            spikes = graph.node("Where", rests, zero, spikes, dtype=np.float32)
            fires = self._rest(item, spikes)
        membrane = f"v/{item.name}"
        if membrane not in self.before:
            return spikes
        if item.reset == "subtract":
            taken = graph.node("Mul", spikes, self._real("taken", item.taken), name="taken")
            self.left[membrane] = graph.node("Sub", before, taken, name="reset")
        else:
            fires = fires or self._any(spikes)
            after = graph.node("Where", fires, zero, before, name="reset", dtype=np.float32)
            self.left[membrane] = after
        return spikes

    def _rests(self, item: SpikingPopulation) -> Value | None:
        """Return which neurons still rest, None if they never do."""
        if not item.refractory:
            return None
        none = self.graph.constant("none", 0, np.int32)
        left = self.before[f"resting/{item.name}"]
        return self.graph.node("Greater", left, none, name="rests", dtype=bool)

    def _rest(self, item: SpikingPopulation, spikes: Value) -> Value:
        """Leave how long neurons rest after `spikes`, and return which of them fire."""
        graph, state = self.graph, f"resting/{item.name}"
        numbers = (("none", 0), ("one", 1), ("refractory", item.refractory))
        none, one, length = (graph.constant(name, number, np.int32) for name, number in numbers)
        rested = graph.node("Max", graph.node("Sub", self.before[state], one), none)
        fires = self._any(spikes)
        self.left[state] = graph.node("Where", fires, length, rested, dtype=np.int32)
        return fires

    def _any(self, spikes: Value) -> Value:
        return self.graph.node("Greater", spikes, self._real("zero", 0.0), name="any", dtype=bool)

    def _count(self, item: SpikingPopulation, membrane: Value) -> tuple[Value, Value | None]:
        """Return how many spikes there are at `membrane`; and whether there are any, where that is known."""
        graph, inclusive = self.graph, item.comparison == ">="
        threshold = self._real("threshold", item.threshold)
        if item.most_spikes == 1:
            operator = "GreaterOrEqual" if inclusive else "Greater"
            fires = graph.node(operator, membrane, threshold, name="fires", dtype=bool)
            return graph.cast(fires, np.float32), fires
        fits = graph.node("Div", membrane, threshold, name="fits")
        if inclusive:
            count = graph.node("Floor", fits)
        else:
            count = graph.node("Sub", graph.node("Ceil", fits), self._real("one", 1.0))
        count = graph.node("Max", count, self._real("zero", 0.0))
        if item.most_spikes is not None:
            count = graph.node("Min", count, self._real("most", item.most_spikes))
        return count, None

    # Between steps

    def _leave(self, state: str, value: Value) -> None:
        """Leave `value` for the next step, if that needs it."""
        if state in self.before:
            self.left[state] = value

    def _remember(self) -> None:
        """Leave what late synapses hear, and that the first step is over."""
        graph = self.graph
        for name, value in self.before.items():
            if name.startswith("first/"):
                self.left[name] = graph.node("Sub", value, value, name=f"{name}/over")
        for name, value in self.sent.items():
            state = f"past/{name}"
            if state in self.before:
                with graph.scope(name):
                    now = graph.node("Unsqueeze", value, self._index("one", [1]), name="now")
                    if self.shapes[state][0] > 1:
                        ends = [
                            self._index(what, [n]) for what, n in (("0", 0), ("-1", -1), ("1", 1))
                        ]
                        kept = graph.node("Slice", self.before[state], *ends, name="kept")
                        now = graph.node("Concat", now, kept, axis=1, name="history")
                    self.left[state] = now

    def _plus(self, name: str, value: Value, added: Float) -> Value:
        """Return the sum of `value` and a constant, which is often 0."""
        if not added.any():
            return value
        with self.graph.scope(name):
            return self.graph.node("Add", value, self._real("values", added))

    def _plus_at_first(self, name: str, value: Value, added: Float, item: Population) -> Value:
        """Return `value`, with `added` at the first step of a sample."""
        graph, first = self.graph, f"first/{item.name}"
        with graph.scope(name):
            once = graph.node("Mul", self.before[first], self._real("values", added))
            return graph.node("Add", value, once)

    def _viewed(self, value: Value, shape: Shape, wanted: Shape) -> Value:
        """Return `value` (batch, *shape) as (batch, *wanted)."""
        return value if shape == wanted else self.graph.reshape(value, (0, *wanted))

    def _real(self, name: str, values: ArrayLike) -> Value:
        exact = np.asarray(values, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # no floor is -inf
            rounded = exact.astype(np.float32)
            off = np.abs(rounded - exact)
        # Numbers near 0 have fewer bits, which matters beside a threshold as small.
        lost = exact[off > np.maximum(np.abs(exact), self.unit) * HALF_A_BIT]
        if lost.size:
            ends = np.finfo(np.float32)
            self.problems.append(
                Problem(
                    self.layer,
                    f"needs what float32 holds in 24 bits, {ends.tiny:.3g} to {ends.max:.3g}",
                    f"{lost.size} of its {name} are others, as {lost[0]:g}",
                    "scale weights and thresholds together, or leave --float out",
                )
            )
        return self.graph.constant(name, rounded)

    def _index(self, name: str, values: ArrayLike) -> Value:
        return self.graph.constant(name, values, np.int64)
