"""
Write a folded network as a NIR graph that means the same.

A neuron `u = tau_d v + I` with threshold Vth becomes, for forward Euler with step dt,

    tau = dt / (1 - tau_d)    r = tau / dt    v_leak = 0    v_threshold = Vth    v_reset = 0

NIR has no place for dt, the reset and the input's range: they go into the graph's metadata. Neuron
parameters are float64, so that reading them back with the same dt gives the same leak.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nir
import numpy as np
from torch import fx, nn

from neurocompile import __version__
from neurocompile.atomic import replacing
from neurocompile.data import InputRange
from neurocompile.errors import Problem, UnsupportedError, raise_all
from neurocompile.ir import Conv2d as ConvNode
from neurocompile.ir import Flatten as FlattenNode
from neurocompile.ir import Pool2d, Shape, output_shape
from neurocompile.training.neurons import LIF

DT_SECONDS = 1e-4  # NIR's de-facto default; for us a label, one step is one dt


def to_nir(
    graph: fx.GraphModule,
    input_shape: Sequence[int],
    *,
    steps: int,
    input_range: InputRange,
    dt: float = DT_SECONDS,
) -> nir.NIRGraph:
    """
    Return the NIR graph of a folded body, for inputs of `input_shape` (no batch, no time).

    Raises `UnsupportedError` with every module that NIR cannot express.
    """
    builder = _Builder(graph, dt, tuple(input_shape))
    for node in graph.graph.nodes:
        builder.add(node)
    raise_all(UnsupportedError, builder.problems)
    metadata: dict[str, Any] = {
        "framework": "neurocompile",
        "framework_version": __version__,
        "scheme": "euler",
        "dt": dt,
        "reset": "zero",
        "fire": ">",
        "steps": steps,
        **{f"input_{name}": value for name, value in input_range.to_json().items()},
    }
    return nir.NIRGraph(nodes=builder.nodes, edges=builder.edges, metadata=metadata)


def write_nir(path: Path, graph: nir.NIRGraph) -> None:
    """Write `graph` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        nir.write(temporary, graph)


class _Builder:
    """Collects nodes and edges; `origin` maps a traced node to the NIR nodes whose sum it is."""

    def __init__(self, graph: fx.GraphModule, dt: float, input_shape: Shape) -> None:
        self.graph = graph
        self.dt = dt
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.origin: dict[fx.Node, tuple[str, ...]] = {}
        self.shapes: dict[str, Shape] = {"input": input_shape}
        self.problems: list[Problem] = []

    def add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if not self.origin:
                self.origin[node] = ("input",)
                self.nodes["input"] = nir.Input({"input": np.array(self.shapes["input"])})
        elif node.op == "output":
            sources = self._sources(node.args[0])
            shape = self.shapes[sources[0]] if sources else ()
            self.nodes["output"] = nir.Output({"output": np.array(shape)})
            self.edges += [(source, "output") for source in sources]
        elif node.op == "call_function" and node.target in (operator.add, operator.iadd):
            both = [source for argument in node.args for source in self._sources(argument)]
            if len(set(both)) != len(both):
                self.problems.append(
                    Problem(node.name, "adds a layer to itself", remedy="double its weights")
                )
            self.origin[node] = tuple(dict.fromkeys(both))
        elif node.op == "call_module":
            self._add_module(node, self.graph.get_submodule(str(node.target)))
        else:
            self.problems.append(
                Problem(node.name, f"is '{node.target}', which NIR cannot express")
            )
            self.origin[node] = ()

    def _sources(self, argument: object) -> tuple[str, ...]:
        return self.origin.get(argument, ()) if isinstance(argument, fx.Node) else ()

    def _add_module(self, node: fx.Node, module: nn.Module) -> None:
        sources = self._sources(node.args[0])
        if isinstance(module, nn.Identity | nn.Dropout):
            self.origin[node] = sources
            return
        name = str(node.target).replace("/", "_")
        self.origin[node] = (name,)
        if not sources:
            return  # an earlier problem explains why
        shape = self.shapes[sources[0]]
        made = _convert(module, shape, self.dt)
        if isinstance(made, tuple):
            need, have = made
            self.problems.append(Problem(name, need, have))
            self.shapes[name] = shape
            return
        self.nodes[name] = made
        self.edges += [(source, name) for source in sources]
        self.shapes[name] = _shape_after(made, shape)


def _convert(module: nn.Module, shape: Shape, dt: float) -> nir.NIRNode | tuple[str, str]:
    """Return the NIR node of `module`, or (need, have) if there is none."""
    match module:
        case LIF():
            if module.tau == 1:
                return nir.IF(
                    r=np.full(shape, 1 / dt),
                    v_threshold=np.full(shape, float(module.threshold)),
                    v_reset=np.zeros(shape),
                )
            return nir.LIF(
                tau=np.full(shape, dt / (1 - module.tau)),
                r=np.full(shape, 1 / (1 - module.tau)),
                v_leak=np.zeros(shape),
                v_threshold=np.full(shape, float(module.threshold)),
                v_reset=np.zeros(shape),
            )
        case nn.Conv2d():
            if module.padding_mode != "zeros":
                return "needs zero padding", f"it pads with '{module.padding_mode}'"
            extents = [
                d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)
            ]
            if module.padding == "same" and any(extent % 2 for extent in extents):
                return "needs a padding that is the same on both sides", "its kernel is even"
            return nir.Conv2d(
                input_shape=shape[1:],
                weight=_numpy(module.weight),
                stride=module.stride,
                padding=_padding(module),
                dilation=module.dilation,
                groups=module.groups,
                bias=np.zeros(module.out_channels, np.float32)
                if module.bias is None
                else _numpy(module.bias),
            )
        case nn.AvgPool2d():
            if module.ceil_mode or not module.count_include_pad or module.divisor_override:
                return (
                    "needs a plain average pool",
                    "ceil_mode, count_include_pad or a divisor is set",
                )
            return nir.AvgPool2d(
                kernel_size=_pair(module.kernel_size),
                stride=_pair(module.stride),
                padding=_pair(module.padding),
            )
        case nn.Flatten():
            if module.start_dim != 1 or module.end_dim != -1:
                return "must flatten all axes but the batch", f"it flattens from {module.start_dim}"
            return nir.Flatten(input_type={"input": np.array(shape)}, start_dim=0, end_dim=-1)
        case nn.Linear():
            bias = (
                np.zeros(module.out_features, np.float32)
                if module.bias is None
                else _numpy(module.bias)
            )
            return nir.Affine(weight=_numpy(module.weight), bias=bias)
        case _:
            return (
                f"is a '{type(module).__name__}', which cannot be exported",
                "NIR has no node for it",
            )


def _padding(module: nn.Conv2d) -> tuple[int, int]:
    if module.padding == "valid":
        return (0, 0)
    if module.padding == "same":
        height, width = (
            d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True)
        )
        return (height, width)
    return (int(module.padding[0]), int(module.padding[1]))


def _pair(value: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(value if isinstance(value, Sequence) else (value, value), dtype=np.int64)


def _numpy(parameter: Any) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = parameter.detach().cpu().numpy()
    return array.copy()


def _shape_after(node: nir.NIRNode, shape: Shape) -> Shape:
    """Return the shape behind `node`: computed here, since nir 1.0.8 is wrong for some kernels."""
    match node:
        case nir.Conv2d():
            conv = ConvNode(
                node.weight,
                node.bias,
                tuple(node.stride),
                tuple(node.padding),
                tuple(node.dilation),
                node.groups,
            )
            return output_shape(conv, shape)
        case nir.AvgPool2d():
            pool = Pool2d(
                (int(node.kernel_size[0]), int(node.kernel_size[1])),
                (int(node.stride[0]), int(node.stride[1])),
                (int(node.padding[0]), int(node.padding[1])),
            )
            return output_shape(pool, shape)
        case nir.Flatten():
            return output_shape(FlattenNode(), shape)
        case nir.Affine():
            return (node.weight.shape[0],)
        case _:
            return shape
