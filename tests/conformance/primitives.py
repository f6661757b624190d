"""
Every primitive of NIR in a tiny network of its own, and what each target makes of it.

A network has weights of whole numbers over 8, which quantise without rounding, or drawn from a normal
distribution, which do not; its spikes are compared with those of the float reference.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import nir
import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import NeurocompileError
from neurocompile.frontend.from_nir import from_nir
from neurocompile.ir import LIF, Network
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program
from neurocompile.reference import simulate
from neurocompile.target import find

Weights = Literal["whole", "real"]
Nodes = list[tuple[str, Any]]

TARGETS = ("fixedpoint", "loihi2")
SAMPLES, STEPS = 4, 40
VECTOR, IMAGE = (6,), (2, 6, 6)
DT = 1.0
UNIT = 1 / 128  # of whole weights: what a source that computes in integers calls 1


@dataclass(frozen=True)
class Primitive:
    """A primitive of NIR under test: how it is set, and what its neurons' way of firing is."""

    kind: str
    setting: str = ""
    shape: tuple[int, ...] = VECTOR
    reset: str = "zero"
    firing: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def id(self) -> str:
        return self.kind + (f"-{self.setting}" if self.setting else "")


PRIMITIVES = (
    Primitive("Affine"),
    Primitive("Linear"),
    Primitive("Scale"),
    Primitive("Conv1d", "", (2, 8)),
    Primitive("Conv2d", "padding", IMAGE),
    Primitive("Conv2d", "stride 2", IMAGE),
    Primitive("Conv2d", "dilation 2", IMAGE),
    Primitive("Conv2d", "groups 2", IMAGE),
    Primitive("SumPool2d", "", IMAGE),
    Primitive("AvgPool2d", "", IMAGE),
    Primitive("AvgPool2d", "padding", IMAGE),
    Primitive("Flatten", "", IMAGE),
    Primitive("Delay", "2 steps"),
    Primitive("Delay", "a step for each element"),
    Primitive("NIRGraph", "nested"),
    Primitive("NIRGraph", "recurrent"),
    Primitive("Threshold"),
    Primitive("Threshold", "of a sum of inputs"),
    Primitive("IF"),
    Primitive("IF", "reset by subtraction", reset="subtract"),
    Primitive("LIF"),
    Primitive("LIF", "reset voltage"),
    Primitive("LIF", "leak voltage"),
    Primitive("LIF", "reset by subtraction", reset="subtract"),
    Primitive("LIF", "fires at the threshold", firing={"comparison": ">="}),
    Primitive(
        "LIF",
        "up to 3 spikes a step",
        reset="subtract",
        firing={"comparison": ">=", "most_spikes": 3},
    ),
    Primitive("LIF", "lowest membrane -1", reset="subtract", firing={"floor": -1.0}),
    Primitive("LIF", "a step of rest", firing={"refractory": 1}),
    Primitive("CubaLIF"),
    Primitive("CubaLIF", "reset by subtraction", reset="subtract"),
    Primitive("I", "a read-out"),
    Primitive("LI", "a read-out"),
    Primitive("CubaLI", "a read-out"),
    Primitive("I", "between spiking layers"),
    Primitive("LI", "between spiking layers"),
)


@dataclass(frozen=True)
class Figure:
    """The compiled network beside the float one: a refusal, or what differs."""

    refusal: str = ""
    differs: float = 0.0  # share of the places with other spikes
    output_error: float = 0.0  # of a read-out, as a share of its largest value
    places: int = 0  # compared spikes

    @property
    def exact(self) -> bool:
        return not self.refusal and self.differs == 0 and self.output_error == 0


def build(primitive: Primitive, weights: Weights) -> Network:
    """Return the network of a primitive."""
    generator = np.random.default_rng(5)

    def draw(*shape: int) -> NDArray[np.float64]:
        if weights == "whole":
            return np.asarray(generator.integers(-3, 7, shape) / 8, np.float64)
        return np.asarray(generator.normal(0.15, 0.4, shape), np.float64)

    nodes = list(_nodes(primitive, draw))
    name = "input"
    graph: dict[str, Any] = {"input": nir.Input({"input": np.array(primitive.shape)})}
    edges = []
    for later, node in nodes:
        graph[later] = node
        edges.append((name, later))
        name = later
    if primitive.setting == "recurrent":
        size = len(draw(8))
        graph["rec"] = nir.Linear(-np.abs(draw(size, size)))
        edges += [("neuron", "rec"), ("rec", "neuron")]
    out = _output_shape(nodes[-1][1])
    graph["output"] = nir.Output({"output": np.array(out)})
    edges.append((name, "output"))
    network = _read(nir.NIRGraph(graph, edges, type_check=False), primitive.reset)
    if weights == "whole":
        network = replace(network, weight_unit=UNIT)
    firing = dict(primitive.firing)
    if not firing:
        return network
    neurons = {}
    for layer in network.of_type(LIF):
        node = network.nodes[layer]
        assert isinstance(node, LIF)
        own = dict(firing)
        if "floor" in own:
            own["floor"] = np.full(node.shape, own["floor"])
        neurons[layer] = replace(node, **own)
    return network.replaced({**network.nodes, **neurons})


def _read(graph: Any, reset: str) -> Network:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.nir"
        nir.write(path, graph)
        return from_nir(path, profile="literal", dt=DT, reset=reset).network


def _output_shape(node: Any) -> tuple[int, ...]:
    for name in ("v_threshold", "threshold", "tau", "tau_mem", "r", "bias"):
        if hasattr(node, name):
            return tuple(getattr(node, name).shape)
    raise ValueError(node)


def _lif(shape: tuple[int, ...], **changes: Any) -> Any:
    one = np.ones(shape)
    values = {"v_leak": 0 * one, "v_threshold": one, "v_reset": 0 * one, **changes}
    return nir.LIF(tau=2 * one, r=2 * one, **values)


def _nodes(primitive: Primitive, draw: Any) -> Nodes:
    kind, setting, shape = primitive.kind, primitive.setting, primitive.shape
    affine = ("affine", nir.Affine(draw(8, 6), draw(8)))
    if kind in ("Affine", "NIRGraph"):
        neuron = ("neuron", _lif((8,)))
        if setting != "nested":
            return [affine, neuron]
        one = np.array([8])
        inner = {
            "input": nir.Input({"input": one}),
            "inner": _lif((8,)),
            "output": nir.Output({"output": one}),
        }
        graph = nir.NIRGraph(inner, [("input", "inner"), ("inner", "output")])
        return [
            affine,
            ("nested", graph),
            ("affine2", nir.Affine(draw(4, 8), draw(4))),
            ("neuron", _lif((4,))),
        ]
    if kind == "Linear":
        return [("linear", nir.Linear(draw(8, 6))), ("neuron", _lif((8,)))]
    if kind == "Scale":
        return [affine, ("scale", nir.Scale(np.full(8, 1.5))), ("neuron", _lif((8,)))]
    if kind == "Conv1d":
        return [
            ("conv", nir.Conv1d(8, draw(3, 2, 3), 1, 1, 1, 1, draw(3))),
            ("neuron", _lif((3, 8))),
        ]
    if kind == "Conv2d":
        number = {"padding": (1, 1, 1, 1), "stride 2": (2, 0, 1, 1)}
        number |= {"dilation 2": (1, 0, 2, 1), "groups 2": (1, 0, 1, 2)}
        stride, padding, dilation, groups = number[setting]
        weight = draw(4, 2 // groups, 3, 3) / 2
        size = (6 + 2 * padding - dilation * 2 - 1) // stride + 1
        conv = nir.Conv2d((6, 6), weight, stride, padding, dilation, groups, draw(4))
        return [("conv", conv), ("neuron", _lif((4, size, size)))]
    if kind in ("SumPool2d", "AvgPool2d"):
        padding = 1 if setting == "padding" else 0
        size = 4 if padding else 3
        pair = np.array([2, 2])
        pool = getattr(nir, kind)(pair, pair, np.array([padding, padding]))
        return [
            ("pool", pool),
            ("conv", nir.Conv2d((size, size), draw(3, 2, 1, 1), 1, 0, 1, 1, draw(3))),
            ("neuron", _lif((3, size, size))),
        ]
    if kind == "Flatten":
        flatten = nir.Flatten({"input": np.array(shape)}, start_dim=0, end_dim=-1)
        return [
            ("flatten", flatten),
            ("affine", nir.Affine(draw(8, 72) / 8, draw(8))),
            ("neuron", _lif((8,))),
        ]
    if kind == "Delay":
        steps = np.full(6, 2.0) if setting == "2 steps" else np.arange(6.0)
        return [("delay", nir.Delay(steps * DT)), affine, ("neuron", _lif((8,)))]
    return _neuron_nodes(primitive, draw, affine)


def _neuron_nodes(primitive: Primitive, draw: Any, affine: tuple[str, Any]) -> Nodes:
    kind, setting = primitive.kind, primitive.setting
    one = np.ones(8)
    rest = {"v_threshold": one, "v_reset": 0 * one}
    if kind == "Threshold":
        if setting:
            return [affine, ("neuron", nir.Threshold(one))]
        return [affine, ("first", _lif((8,))), ("neuron", nir.Threshold(0.5 * one))]
    if kind == "IF":
        return [affine, ("neuron", nir.IF(r=one, **rest))]
    if kind == "LIF":
        changes = {
            "reset voltage": {"v_reset": -0.25 * one},
            "leak voltage": {"v_leak": 0.25 * one},
        }
        return [affine, ("neuron", _lif((8,), **changes.get(setting, {})))]
    if kind == "CubaLIF":
        neuron = nir.CubaLIF(
            tau_syn=2 * one, tau_mem=2 * one, r=2 * one, v_leak=0 * one, w_in=one, **rest
        )
        return [affine, ("neuron", neuron)]
    size = 4 if "read-out" in setting else 8
    one = np.ones(size)
    shows = {
        "I": lambda: nir.I(r=one),
        "LI": lambda: nir.LI(tau=4 * one, r=one, v_leak=0 * one),
        "CubaLI": lambda: nir.CubaLI(tau_syn=2 * one, tau_mem=4 * one, r=one, v_leak=0 * one),
    }[kind]()
    nodes = [affine, ("first", _lif((8,)))]
    if "read-out" in setting:
        return [*nodes, ("affine2", nir.Affine(draw(4, 8), draw(4))), ("shows", shows)]
    return [
        *nodes,
        ("affine2", nir.Affine(draw(8, 8), draw(8))),
        ("shows", shows),
        ("neuron", _lif((8,))),
    ]


def inputs(primitive: Primitive) -> NDArray[np.float64]:
    """Return spikes for a primitive's network."""
    generator = np.random.default_rng(9)
    return (generator.random((SAMPLES, STEPS, *primitive.shape)) < 0.4).astype(np.float64)


def compiled(primitive: Primitive, weights: Weights, target: str) -> Program:
    """Return the program of a primitive's network."""
    options = CompileOptions(steps=STEPS, validate=False)
    return compile_network(build(primitive, weights), find(target), options)


def measure(primitive: Primitive, weights: Weights, target: str) -> Figure:
    """Compile a primitive for a target, and count what its integers change."""
    try:
        network = build(primitive, weights)
        program = compiled(primitive, weights, target)
    except NeurocompileError as error:
        return Figure(refusal=_reason(error))
    values = inputs(primitive)
    theirs = simulate(network, values)
    ours = program.run(values, ["all"], on="fixedpoint")
    program.close()
    wrong = [
        ours.spikes[name] != spikes for name, spikes in theirs.spikes.items() if name in ours.spikes
    ]
    output = np.abs(ours.output - theirs.output).mean() / max(np.abs(theirs.output).max(), 1e-9)
    spiking = set(np.unique(theirs.output)) <= {0.0, 1.0, 2.0, 3.0}
    places = sum(part.size for part in wrong)
    share = sum(part.sum() for part in wrong) / places
    return Figure("", float(share), 0.0 if spiking else float(output), places)


def _reason(error: NeurocompileError) -> str:
    return " ".join(str(error.problems[0]).split())


def unlisted() -> Iterable[str]:
    """Yield the primitives of the installed nir that no row is about."""
    listed = {primitive.kind for primitive in PRIMITIVES} | {"Input", "Output", "NIRNode"}
    for name, value in vars(nir).items():
        if isinstance(value, type) and issubclass(value, nir.NIRNode) and name not in listed:
            yield name
