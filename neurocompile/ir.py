"""
`Network`: a float network in discrete time, as the front end understood it.

Nodes are the operations of a graph, edges say who feeds whom; several edges into one node add up.
Shapes leave out batch and time, and are channels first. Every array is a private read-only copy, and
a `Network` in hand is legal: names exist, shapes fit, numbers are finite.

A spiking node computes, at each step (NIR's equations, already discretised with the file's dt):

    u = decay * v + (1 - decay) * leak + gain * I
    a = 1 if u > threshold else 0
    v = reset_to if a else u          (reset "zero")     or     u - threshold * a   ("subtract")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurocompile.data import InputRange
from neurocompile.errors import NirFormatError, Problem, raise_all
from neurocompile.integer import conv_output

Float = NDArray[np.float64]
Shape = tuple[int, ...]
Reset = Literal["zero", "subtract"]


def frozen_array(values: ArrayLike, dtype: Any = np.float64) -> NDArray[Any]:
    """Return a read-only copy of `values` in C order."""
    copy = np.array(values, dtype=dtype, order="C")
    copy.flags.writeable = False
    return copy


def _own_arrays(node: Any) -> None:
    """Replace the array fields of a frozen dataclass by read-only float64 copies."""
    for name, value in vars(node).items():
        if isinstance(value, np.ndarray):
            object.__setattr__(node, name, frozen_array(value))


@dataclass(frozen=True)
class Input:
    """What comes in from outside, and the values it can take (None: not known)."""

    shape: Shape
    range: InputRange | None = None


@dataclass(frozen=True)
class Output:
    """What goes out."""

    shape: Shape


@dataclass(frozen=True)
class Dense:
    """`y = weight @ x.ravel() + bias`; a flatten before it is already part of `input_shape`."""

    weight: Float  # (outputs, inputs), inputs in the C order of input_shape
    bias: Float  # (outputs,)
    input_shape: Shape = ()

    def __post_init__(self) -> None:
        _own_arrays(self)
        if not self.input_shape:
            object.__setattr__(self, "input_shape", (self.weight.shape[1],))


@dataclass(frozen=True)
class Conv2d:
    """Cross-correlation with zero padding, as in PyTorch."""

    weight: Float  # (out channels, in channels / groups, kernel h, kernel w)
    bias: Float  # (out channels,)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        _own_arrays(self)


@dataclass(frozen=True)
class Pool2d:
    """Sum of each window times `scale` (1 for sum pooling, 1/(kh kw) for average pooling)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    scale: float = 1.0


@dataclass(frozen=True)
class Flatten:
    """All axes into one, in C order (channels first)."""


@dataclass(frozen=True)
class LIF:
    """Leaky integrate-and-fire neurons; all arrays have the shape of the population."""

    decay: Float
    gain: Float
    leak: Float
    threshold: Float
    reset_to: Float
    reset: Reset = "zero"

    def __post_init__(self) -> None:
        _own_arrays(self)


Node = Input | Output | Dense | Conv2d | Pool2d | Flatten | LIF
Edge = tuple[str, str]


def output_shape(node: Node, shape: Shape) -> Shape:
    """
    Return the shape that `node` makes of an input of `shape`.

    Raises `ValueError` with what the node needs where the input does not fit.
    """
    match node:
        case Input():
            return node.shape
        case Output():
            if shape != node.shape:
                raise ValueError(f"has the shape {node.shape}, but gets {shape}")
            return shape
        case Dense():
            if shape != node.input_shape:
                raise ValueError(f"needs an input of shape {node.input_shape}, but gets {shape}")
            return (node.weight.shape[0],)
        case Conv2d():
            if len(shape) != 3 or shape[0] != node.weight.shape[1] * node.groups:
                channels = node.weight.shape[1] * node.groups
                raise ValueError(f"needs an input ({channels}, height, width), but gets {shape}")
            window = node.weight.shape[2:]
            result = (
                node.weight.shape[0],
                *(
                    conv_output(*sizes)
                    for sizes in zip(
                        shape[1:], window, node.stride, node.padding, node.dilation, strict=True
                    )
                ),
            )
        case Pool2d():
            if len(shape) != 3:
                raise ValueError(f"needs an input (channels, height, width), but gets {shape}")
            result = (
                shape[0],
                *(
                    conv_output(*sizes)
                    for sizes in zip(
                        shape[1:], node.kernel, node.stride, node.padding, (1, 1), strict=True
                    )
                ),
            )
        case Flatten():
            return (int(np.prod(shape)),)
        case LIF():
            if shape != node.threshold.shape:
                raise ValueError(f"has neurons of shape {node.threshold.shape}, but gets {shape}")
            return shape
    if 0 in result:
        raise ValueError(f"has a window larger than its input of shape {shape}")
    return result


@dataclass(frozen=True)
class Network:
    """
    A legal float network: `nodes` by name in an order in which each follows its sources.

    `steps` is the number of steps a sample was trained with, `None` if the source does not say.
    """

    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    steps: int | None = None
    shapes: Mapping[str, Shape] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        problems = [*self._problems_of_edges(), *self._problems_of_numbers()]
        raise_all(NirFormatError, problems)
        object.__setattr__(self, "edges", tuple(self.edges))
        order = self._order()
        object.__setattr__(self, "nodes", {name: self.nodes[name] for name in order})
        object.__setattr__(self, "shapes", self._infer_shapes())

    def sources(self, name: str) -> tuple[str, ...]:
        """Return the names of the nodes that feed `name`."""
        return tuple(source for source, target in self.edges if target == name)

    def targets(self, name: str) -> tuple[str, ...]:
        """Return the names of the nodes that `name` feeds."""
        return tuple(target for source, target in self.edges if source == name)

    def of_type(self, kind: Any) -> tuple[str, ...]:
        """Return the names of the nodes of a type, in order."""
        return tuple(name for name, node in self.nodes.items() if isinstance(node, kind))

    def _problems_of_edges(self) -> Iterable[Problem]:
        for source, target in self.edges:
            for name in (source, target):
                if name not in self.nodes:
                    yield Problem(
                        "", f"edge {source} -> {target} needs a node '{name}'", "there is none"
                    )
        if len(set(self.edges)) != len(self.edges):
            yield Problem(
                "", "two edges join the same two nodes", remedy="use a weight of 2 instead"
            )
        for name, node in self.nodes.items():
            if not isinstance(node, Input) and not any(target == name for _, target in self.edges):
                yield Problem(name, "needs an input", "nothing feeds it")
            if not isinstance(node, Output) and not any(source == name for source, _ in self.edges):
                yield Problem(name, "needs a consumer", "it feeds nothing", "remove it")
        for kind in (Input, Output):
            if not any(isinstance(node, kind) for node in self.nodes.values()):
                yield Problem("", f"a network needs an {kind.__name__} node", "there is none")

    def _problems_of_numbers(self) -> Iterable[Problem]:
        for name, node in self.nodes.items():
            for field_name, value in vars(node).items():
                if isinstance(value, np.ndarray) and not np.isfinite(value).all():
                    count = int((~np.isfinite(value)).sum())
                    yield Problem(
                        name,
                        f"needs finite numbers in '{field_name}'",
                        f"{count} of {value.size} are NaN or infinite",
                        "train it again, or repair the file",
                    )

    def _order(self) -> tuple[str, ...]:
        graph: TopologicalSorter[str] = TopologicalSorter(
            {name: sorted(self.sources(name)) for name in sorted(self.nodes)}
        )
        try:
            return tuple(graph.static_order())
        except CycleError as error:
            loop = " -> ".join(error.args[1])
            raise NirFormatError(
                Problem(
                    "", f"the network has a cycle: {loop}", remedy="recurrence is not supported yet"
                )
            ) from error

    def _infer_shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        problems: list[Problem] = []
        for name, node in self.nodes.items():
            incoming = {shapes[source] for source in self.sources(name) if source in shapes}
            if len(incoming) > 1:
                problems.append(
                    Problem(name, "needs inputs of one shape", f"gets {sorted(incoming)}")
                )
                continue
            if not incoming and not isinstance(node, Input):
                continue
            try:
                shapes[name] = output_shape(node, incoming.pop() if incoming else ())
            except ValueError as error:
                problems.append(Problem(name, str(error)))
        raise_all(NirFormatError, problems)
        return shapes
