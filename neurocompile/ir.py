"""
`Network`: a float network in discrete time, as the front end understood it.

Nodes are the operations of a graph, edges say who feeds whom; several edges into one node add up.
Shapes leave out batch and time, and are channels first. Every array is a private read-only copy, and
a `Network` in hand is legal: names exist, shapes fit, numbers are finite, every cycle is cut.

A spiking node computes, at each step (NIR's equations, already discretised with the file's dt):

    i = current_decay * i + I         0 for LIF and IF: i is the input of this step
    u = decay * v + (1 - decay) * leak + gain * i             at least `floor`, where there is one
    a = 1 if u > threshold else 0                             or u >= threshold, as `comparison` says
    v = reset_to if a else u          (reset "zero")     or     u - subtracts * a   ("subtract")

with i = 0 and v = start before a sample. Neurons that fire up to `most_spikes` times in one step count
how often their threshold fits into u, floor(u / threshold) for ">=" and ceil(u / threshold) - 1 for ">",
and send that number as one graded spike. In the `refractory` steps after a spike u and v are reset_to,
and nothing fires; the current goes on. A feedback edge carries the spikes of the previous step, and
nothing at the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurocompile.data import InputRange
from neurocompile.errors import NirFormatError, Problem, raise_all
from neurocompile.integer import Comparison, Reset, Shape, conv_output, image_shape
from neurocompile.legal import LONGEST_DELAY

MOST_VALUES = 1 << 26  # of one node: more is damage, or an attack on the memory

Float = NDArray[np.float64]


def frozen_array(values: ArrayLike, dtype: Any = np.float64) -> NDArray[Any]:
    """Return `values` in C order and read-only: a copy, or itself if nobody can write to it."""
    if isinstance(values, np.ndarray) and values.dtype == dtype and _is_frozen(values):
        return values
    copy = np.array(values, dtype=dtype, order="C")
    copy.flags.writeable = False
    return copy


def _is_frozen(values: NDArray[Any]) -> bool:
    """Return whether `values` owns its memory, which is read-only."""
    return values.base is None and values.flags.c_contiguous and not values.flags.writeable


def _own_arrays(node: Any) -> None:
    """Replace the array fields of a frozen dataclass by read-only copies, in float64 or int64."""
    for name, value in vars(node).items():
        if isinstance(value, np.ndarray):
            dtype = np.int64 if value.dtype.kind in "iu" and name == "steps" else np.float64
            object.__setattr__(node, name, frozen_array(value, dtype))


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
    """
    Cross-correlation with zero padding, as in PyTorch.

    An input with two axes, (channels, length), is an image of height 1: with a kernel of height 1
    this is PyTorch's Conv1d.
    """

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
class MaxPool2d:
    """The largest value of each window; padding never wins, as in PyTorch."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Scale:
    """`y = scale * x`; `scale` broadcasts to the input's shape."""

    scale: Float

    def __post_init__(self) -> None:
        _own_arrays(self)


@dataclass(frozen=True)
class Flatten:
    """The axes from `start` to `end` (inclusive; -1 is the last) into one, in C order."""

    start: int = 0
    end: int = -1


@dataclass(frozen=True)
class Reshape:
    """The same values in C order under another shape."""

    shape: Shape


@dataclass(frozen=True)
class Delay:
    """What came in `steps` steps ago, 0 before the first; one number, or one per element."""

    steps: NDArray[np.int64]  # () or the input's shape

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", frozen_array(self.steps, np.int64))


@dataclass(frozen=True)
class LIF:
    """
    Leaky integrate-and-fire neurons, with a synaptic current where `current_decay` is given (CUBA).

    All arrays have the shape of the population. Passes may shift the membrane: what the source of the
    network calls its membrane is u + `origin`. `subtracts` is what a spike takes off the membrane (None:
    the threshold); `most_spikes` how many a step can have (None: no limit).
    """

    decay: Float
    gain: Float
    leak: Float
    threshold: Float
    reset_to: Float
    reset: Reset = "zero"
    current_decay: Float | None = None
    start: Float | None = None  # of the membrane, before the first step; None is 0
    origin: Float | None = None  # None is 0
    comparison: Comparison = ">"
    subtracts: Float | None = None
    most_spikes: int | None = 1
    floor: Float | None = None
    refractory: int = 0  # steps

    def __post_init__(self) -> None:
        _own_arrays(self)

    @property
    def shape(self) -> Shape:
        return self.threshold.shape

    @property
    def taken(self) -> Float:
        """What a spike takes off the membrane, where it is not reset to a voltage."""
        return self.threshold if self.subtracts is None else self.subtracts


@dataclass(frozen=True)
class Threshold:
    """
    Neurons without memory: a spike at each step whose input is above `threshold` (*shape).

    With the `comparison` ">=" an input at the threshold fires as well.
    """

    threshold: Float
    comparison: Comparison = ">"

    def __post_init__(self) -> None:
        _own_arrays(self)

    @property
    def shape(self) -> Shape:
        return self.threshold.shape


@dataclass(frozen=True)
class Integrator:
    """
    Neurons that never fire and show their membrane: NIR's I, LI and CubaLI.

    The equations are those of `LIF` without the threshold; all arrays have the population's shape.
    """

    decay: Float
    gain: Float
    leak: Float
    current_decay: Float | None = None

    def __post_init__(self) -> None:
        _own_arrays(self)

    @property
    def shape(self) -> Shape:
        return self.decay.shape


Spiking = LIF | Threshold
Linear = Dense | Conv2d | Pool2d | Scale | Flatten | Reshape | Delay
Node = Input | Output | Linear | MaxPool2d | Spiking | Integrator
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
            image = image_shape(shape)
            if len(image) != 3 or image[0] != node.weight.shape[1] * node.groups:
                channels = node.weight.shape[1] * node.groups
                raise ValueError(f"needs an input ({channels}, height, width), but gets {shape}")
            size = _windows(node.weight.shape[2:], node, node.dilation, image)
            if len(shape) == 2 and size[0] > 1:
                raise ValueError(f"needs a kernel of height 1 for an input of shape {shape}")
            result = (node.weight.shape[0], *(size if len(shape) == 3 else size[1:]))
        case Pool2d() | MaxPool2d():
            if len(shape) != 3:
                raise ValueError(f"needs an input (channels, height, width), but gets {shape}")
            result = (shape[0], *_windows(node.kernel, node, (1, 1), shape))
        case Scale():
            try:
                np.broadcast_to(node.scale, shape)
            except ValueError:
                scale = node.scale.shape
                raise ValueError(f"scales shape {scale}, but gets {shape}") from None
            return shape
        case Flatten():
            axes = len(shape)
            start, end = (axis + axes if axis < 0 else axis for axis in (node.start, node.end))
            if not 0 <= start <= end < max(1, axes):
                raise ValueError(f"flattens axes {node.start} to {node.end}, but gets {shape}")
            return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])
        case Reshape():
            if math.prod(shape) != math.prod(node.shape):
                raise ValueError(f"makes the shape {node.shape}, but gets {shape}")
            return node.shape
        case Delay():
            if node.steps.shape not in ((), shape):
                raise ValueError(f"delays the shape {node.steps.shape}, but gets {shape}")
            if node.steps.size and node.steps.min() < 0:
                raise ValueError(f"delays by {node.steps.min()} steps, into the future")
            return shape
        case LIF() | Threshold() | Integrator():
            if shape != node.shape:
                raise ValueError(f"has neurons of shape {node.shape}, but gets {shape}")
            return shape
    if 0 in result:
        raise ValueError(f"has a window larger than its input of shape {shape}")
    return result


def _windows(
    kernel: tuple[int, ...],
    node: Conv2d | Pool2d | MaxPool2d,
    dilation: tuple[int, int],
    shape: Shape,
) -> tuple[int, int]:
    height, width = (
        conv_output(*sizes)
        for sizes in zip(shape[1:], kernel, node.stride, node.padding, dilation, strict=True)
    )
    return height, width


def _problems_of_firing(name: str, node: LIF) -> Iterable[Problem]:
    """Yield why neurons cannot fire several times a step, or rest afterwards."""
    if node.most_spikes != 1:
        if (node.threshold <= 0).any():
            least = node.threshold.min()
            yield Problem(
                name, "needs thresholds above 0 to fire several times", f"one is {least:g}"
            )
        if node.reset == "zero" and node.reset_to.any():
            # Moving the reset to 0 would move the threshold, but not what it is counted from.
            yield Problem(name, "needs a reset to 0 to fire several times a step", "it is another")
        if node.most_spikes is not None and node.most_spikes < 1:
            yield Problem(name, "needs at least 1 spike a step", f"it has {node.most_spikes}")
    if not 0 <= node.refractory <= LONGEST_DELAY:
        yield Problem(
            name,
            f"needs refractory steps from 0 to {LONGEST_DELAY}",
            f"there are {node.refractory}",
        )
    if node.refractory and node.reset == "subtract" and node.reset_to.any():
        yield Problem(name, "needs to rest at 0, as it subtracts", "its reset voltage is another")
    if node.floor is not None and (node.floor > node.threshold).any():
        yield Problem(name, "needs a lowest membrane below its threshold", "it is above")


@dataclass(frozen=True)
class Network:
    """
    A legal float network: `nodes` by name in an order in which each follows its sources.

    `steps` is the number of steps a sample was trained with, `None` if the source does not say.
    `feedback` are the edges that carry the previous step's spikes; without them there is no cycle.
    `weight_unit` is given where the source computes in integers already: its weights, thresholds and
    biases are multiples of it, and stay these integers. A unit for each of some populations, by name, is
    that of quantisation-aware training: their weights and thresholds stay, biases are rounded.
    """

    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    steps: int | None = None
    feedback: frozenset[Edge] = frozenset()
    weight_unit: float | Mapping[str, float] | None = None
    shapes: Mapping[str, Shape] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        problems = [*self._problems_of_edges(), *self._problems_of_numbers()]
        raise_all(NirFormatError, problems)
        object.__setattr__(self, "edges", tuple(self.edges))
        object.__setattr__(self, "feedback", frozenset(self.feedback))
        order = self._order()
        object.__setattr__(self, "nodes", {name: self.nodes[name] for name in order})
        object.__setattr__(self, "shapes", self._infer_shapes())

    def sources(self, name: str) -> tuple[str, ...]:
        """Return the names of the nodes that feed `name`."""
        return tuple(source for source, target in self.edges if target == name)

    def targets(self, name: str) -> tuple[str, ...]:
        """Return the names of the nodes that `name` feeds."""
        return tuple(target for source, target in self.edges if source == name)

    def replaced(self, nodes: Mapping[str, Node], edges: Iterable[Edge] | None = None) -> Network:
        """Return a network with other nodes and edges; feedback edges that are left stay feedback."""
        kept = self.edges if edges is None else tuple(edges)
        return Network(nodes, kept, self.steps, self.feedback & set(kept), self.weight_unit)

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
        for edge in sorted(self.feedback):
            if edge not in self.edges:
                yield Problem("", f"feedback {edge[0]} -> {edge[1]} must be an edge", "it is none")
            elif not isinstance(self.nodes.get(edge[0]), Spiking):
                yield Problem(
                    edge[0], "must be a layer of spiking neurons to feed back", f"to '{edge[1]}'"
                )
        for source, target in self.edges:
            if isinstance(self.nodes.get(target), Input):
                yield Problem(target, "must be fed from outside alone", f"'{source}' feeds it")
            if isinstance(self.nodes.get(source), Output):
                yield Problem(source, "must feed nothing", f"it feeds '{target}'")
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
            if isinstance(node, LIF):
                yield from _problems_of_firing(name, node)

    def _order(self) -> tuple[str, ...]:
        graph: TopologicalSorter[str] = TopologicalSorter(
            {
                name: sorted(
                    source for source in self.sources(name) if (source, name) not in self.feedback
                )
                for name in sorted(self.nodes)
            }
        )
        try:
            return tuple(graph.static_order())
        except CycleError as error:
            loop = " -> ".join(reversed(error.args[1]))
            raise NirFormatError(
                Problem(
                    "",
                    f"the network has a cycle without a feedback edge: {loop}",
                    remedy="a cycle needs a layer of spiking neurons, whose spikes act one step later",
                )
            ) from error

    def _infer_shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        later = {source: self.nodes[source] for source, _ in self.feedback}
        known = {name: node.shape for name, node in later.items() if isinstance(node, Spiking)}
        problems: list[Problem] = []
        for name, node in self.nodes.items():
            incoming = {
                {**known, **shapes}[source]
                for source in self.sources(name)
                if source in shapes or source in known
            }
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
                continue
            if math.prod(shapes[name]) > MOST_VALUES:
                problems.append(
                    Problem(name, f"needs at most {MOST_VALUES} values", f"it has {shapes[name]}")
                )
        raise_all(NirFormatError, problems)
        return shapes
