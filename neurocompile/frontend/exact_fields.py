"""
What a `Network` looks like in a NIR file that gives it back to the last bit.

NIR says less than `ir` (no comparison, no floor, no rest after a spike, no largest value), and says it
with time constants, through which a leak of 0.3 does not come back. So every node is written twice:

    its type and fields      the nearest NIR has, forward Euler with dt = 1e-4 s, for other tools
    its group `metadata`     `kind`, the name in `ir`; `name`, as file names have no "/"; and its exact
                             fields by their names in `ir`, float64 and int64; those that are None are
                             left out, and so are those that NIR's node has itself: weights and biases

Forward Euler with r for the gain, leaks of 1 being 2^-60 from it, so that time constants are finite:

    tau = dt / (1 - decay)      r = gain / (1 - decay)      w_in = 1 / (1 - current_decay)

NIR has no node for these, which are the nearest there is:

    MaxPool2d       SumPool2d, which is the same where it is compared with 0
    Pool2d          SumPool2d, if its scale is neither that of a sum nor that of an average
    Reshape         Flatten, which is the same for vectors
    Conv2d          Conv2d, also for inputs (channels, length) if its kernel is higher than they are
    Dense           a Flatten of its own before it, where it is fed images; its metadata says "view"
    LIF             LIF, IF or CubaLIF, which fire above the threshold, once a step, from 0 on

A broadcast `Scale` or `Delay` is written in full, as NIR wants it. The root's `metadata` has `framework`,
`framework_version`, `exact` (the version of all this), `edges` in their order, and where there are some,
`feedback`, `steps` and `weight_unit`, or `weight_units` and whose they are, `units_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neurocompile.integer import Shape
from neurocompile.ir import (
    LIF,
    Conv2d,
    Delay,
    Dense,
    Edge,
    Flatten,
    Float,
    Input,
    Integrator,
    MaxPool2d,
    Network,
    Node,
    Output,
    Pool2d,
    Reshape,
    Scale,
    Threshold,
)
from neurocompile.names import free_name

VERSION = 1
FRAMEWORK = "neurocompile"
VIEW = "view"  # the kind of nodes that only the file has
DT_SECONDS = 1e-4
LEAST_LEAK = 2.0**-60  # so small that 1 - it is 1; a power of two, so that r dt / tau is the gain

Value = Literal["numbers", "number", "steps", "integer", "pair", "shape", "range", "word"]


@dataclass(frozen=True)
class Field:
    """How a field is stored: the kind of its `value`, and whether NIR's node has it under this name."""

    value: Value
    least: int = 0
    words: tuple[str, ...] = ()
    optional: bool = False
    in_nir: bool = False


_NUMBERS = Field("numbers")
_PERHAPS = Field("numbers", optional=True)
_IN_NIR = Field("numbers", in_nir=True)
_COMPARISON = Field("word", words=(">", ">="))
_WINDOWS = {
    "kernel": Field("pair", 1),
    "stride": Field("pair", 1),
    "padding": Field("pair"),
}

FIELDS: Mapping[type[Node], Mapping[str, Field]] = {
    Input: {"shape": Field("shape", in_nir=True), "range": Field("range", optional=True)},
    Output: {"shape": Field("shape", in_nir=True)},
    Dense: {"weight": _IN_NIR, "bias": _IN_NIR, "input_shape": Field("shape")},
    Conv2d: {
        "weight": _IN_NIR,
        "bias": _IN_NIR,
        "stride": Field("pair", 1),
        "padding": Field("pair"),
        "dilation": Field("pair", 1),
        "groups": Field("integer", 1),
    },
    Pool2d: {**_WINDOWS, "scale": Field("number")},
    MaxPool2d: _WINDOWS,
    Scale: {"scale": _NUMBERS},
    Flatten: {"start": Field("integer", -64), "end": Field("integer", -64)},
    Reshape: {"shape": Field("shape")},
    Delay: {"steps": Field("steps")},
    LIF: {
        "decay": _NUMBERS,
        "gain": _NUMBERS,
        "leak": _NUMBERS,
        "threshold": _NUMBERS,
        "reset_to": _NUMBERS,
        "reset": Field("word", words=("zero", "subtract")),
        "current_decay": _PERHAPS,
        "start": _PERHAPS,
        "origin": _PERHAPS,
        "comparison": _COMPARISON,
        "subtracts": _PERHAPS,
        "most_spikes": Field("integer", 1, optional=True),
        "floor": _PERHAPS,
        "refractory": Field("integer"),
    },
    Threshold: {"threshold": _NUMBERS, "comparison": _COMPARISON},
    Integrator: {
        "decay": _NUMBERS,
        "gain": _NUMBERS,
        "leak": _NUMBERS,
        "current_decay": _PERHAPS,
    },
}
KINDS: Mapping[str, type[Node]] = {kind.__name__: kind for kind in FIELDS}


@dataclass(frozen=True)
class FileGraph:
    """The graph that a file has for a network: NIR's fields of each node by file name, and edges."""

    names: Mapping[str, str]  # of the network's nodes in the file
    nodes: Mapping[str, Mapping[str, Any]]
    edges: tuple[Edge, ...]


def file_graph(network: Network) -> FileGraph:
    """Return the NIR graph that stands for `network`; arrays may be read-only views."""
    names = _file_names(network.nodes)
    entries = dict(names)  # where an edge to a node leads
    nodes: dict[str, dict[str, Any]] = {}
    edges: list[Edge] = []
    for name, node in network.nodes.items():
        sources = network.sources(name)
        shape = network.shapes[sources[0]] if sources else ()
        if isinstance(node, Dense) and len(shape) != 1:
            entries[name] = free_name({*names.values(), *nodes}, f"{names[name]}.{VIEW}")
            nodes[entries[name]] = _flatten(shape, 0, -1)
            edges.append((entries[name], names[name]))
            shape = node.weight.shape[1:]
        nodes[names[name]] = nir_fields(node, shape)
    edges += [(names[source], entries[target]) for source, target in network.edges]
    return FileGraph(names, nodes, tuple(edges))


def _file_names(names: Iterable[str]) -> dict[str, str]:
    """Return the name of each node in HDF5, which has groups at every "/", and knows "." as itself."""
    chosen = {name: name for name in names if "/" not in name and name.strip(".")}
    taken = {*chosen}
    for name in names:
        if name not in chosen:
            plain = name.replace("/", ".")
            chosen[name] = free_name(taken, plain if plain.strip(".") else "node")
            taken.add(chosen[name])
    return chosen


def nir_fields(node: Node, shape: Shape) -> dict[str, Any]:
    """Return the type and the fields of the NIR node that is nearest to `node`, fed with `shape`."""
    match node:
        case Input() | Output():
            return {"type": type(node).__name__, "shape": _integers(node.shape)}
        case Dense():
            return {"type": "Affine", "weight": node.weight, "bias": node.bias}
        case Conv2d():
            return _convolution(node, shape)
        case Pool2d() | MaxPool2d():
            average = isinstance(node, Pool2d) and node.scale == 1 / (
                node.kernel[0] * node.kernel[1]
            )
            return {
                "type": "AvgPool2d" if average else "SumPool2d",
                "kernel_size": _integers(node.kernel),
                "stride": _integers(node.stride),
                "padding": _integers(node.padding),
            }
        case Scale():
            return {"type": "Scale", "scale": np.broadcast_to(node.scale, shape)}
        case Flatten():
            return _flatten(shape, node.start, node.end)
        case Reshape():
            return _flatten(shape, 0, -1)
        case Delay():
            return {"type": "Delay", "delay": np.broadcast_to(node.steps * DT_SECONDS, shape)}
        case Threshold():
            return {"type": "Threshold", "threshold": node.threshold}
        case LIF() | Integrator():
            return _neurons(node)


def _integers(values: Iterable[int] | int) -> NDArray[np.int64]:
    return np.array(values if isinstance(values, int) else tuple(values), np.int64)


def _flatten(shape: Shape, start: int, end: int) -> dict[str, Any]:
    return {
        "type": "Flatten",
        "start_dim": _integers(start),
        "end_dim": _integers(end),
        "input_type": _integers(shape),
    }


def _convolution(node: Conv2d, shape: Shape) -> dict[str, Any]:
    slide = {"stride": node.stride, "padding": node.padding, "dilation": node.dilation}
    more = {"groups": _integers(node.groups), "bias": node.bias}
    if len(shape) == 2 and node.weight.shape[2] == 1:
        return {
            "type": "Conv1d",
            "input_shape": _integers(shape[1]),
            "weight": node.weight[:, :, 0],
            **{name: _integers(along) for name, (_, along) in slide.items()},
            **more,
        }
    return {
        "type": "Conv2d",
        "input_shape": _integers(shape[1:]),
        "weight": node.weight,
        **{name: _integers(pair) for name, pair in slide.items()},
        **more,
    }


def _neurons(node: LIF | Integrator) -> dict[str, Any]:
    fires = isinstance(node, LIF)
    ends: dict[str, Any] = {}
    if isinstance(node, LIF):
        ends = {"v_threshold": node.threshold, "v_reset": node.reset_to}
    with np.errstate(all="ignore"):  # numbers of no use to NIR may be infinite there
        if node.current_decay is None and (node.decay == 1).all():
            return {"type": "IF" if fires else "I", "r": node.gain / DT_SECONDS, **ends}
        lost = _lost(node.decay)
        common = {"r": node.gain / lost, "v_leak": node.leak, **ends}
        if node.current_decay is None:
            return {"type": "LIF" if fires else "LI", "tau": DT_SECONDS / lost, **common}
        faded = _lost(node.current_decay)
        return {
            "type": "CubaLIF" if fires else "CubaLI",
            "tau_syn": DT_SECONDS / faded,
            "tau_mem": DT_SECONDS / lost,
            "w_in": 1 / faded,
            **common,
        }


def _lost(decay: Float) -> Float:
    """Return what a step takes off, dt / tau."""
    lost: Float = np.where(decay == 1, LEAST_LEAK, 1 - decay)
    return lost
