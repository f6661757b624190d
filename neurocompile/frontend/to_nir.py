"""
Write a folded network as a NIR graph that means the same.

NIR adds up what several edges bring to a node, and allows one edge between two nodes. A traced tensor
is therefore a sum of NIR nodes, each some times; the rules that keep every value the same, bit for bit:

    a + b           the nodes of both, if adding them in this order is what PyTorch does, or if all
                    are integers, whose order does not matter; else b first becomes a node of its own
    a + a           `Scale` by 2
    cat(a, b)       a sum of 0/1 convolutions, each of which puts its branch in its channels
    max of spikes   is 1 where their sum is above 0: `SumPool2d`, `Threshold`
    used twice      a sum with several users becomes a node, a `Scale` by 1, so that the sums of
                    sums in SEW's blocks stay as short as they are in the program

NIR has no place for dt, the reset, the input's range and the decision's weights: they go into the graph's
metadata.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nir
import numpy as np
import torch
from torch import fx, nn

from neurocompile import __version__
from neurocompile.atomic import replacing
from neurocompile.data import InputRange
from neurocompile.errors import Problem, UnsupportedError, raise_all
from neurocompile.frontend.find_shapes import find_shapes
from neurocompile.frontend.nir_modules import (
    InexpressibleError,
    flatten,
    nir_module,
    or_pool,
    place_channels,
    shape_after,
)
from neurocompile.frontend.plain_pools import plain_pools
from neurocompile.integer import Shape
from neurocompile.training.neurons import LIF

DT_SECONDS = 1e-4  # NIR's de-facto default; for us a label, one step is one dt

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
FLATTENINGS = (torch.flatten, "flatten")

NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # in evaluation

Values = Literal["spikes", "integers", "numbers"]


def to_nir(
    graph: fx.GraphModule,
    input_shape: Sequence[int],
    *,
    steps: int,
    input_range: InputRange,
    time_weights: Sequence[float] | None = None,
    dt: float = DT_SECONDS,
) -> nir.NIRGraph:
    """
    Return the NIR graph of a folded body, for inputs of `input_shape` (no batch, no time).

    `time_weights` are those of the decision, one for each step, if the steps do not count alike.
    Raises `UnsupportedError` with everything that NIR cannot express.
    """
    graph = plain_pools(graph, input_shape)
    find_shapes(graph, input_shape)
    builder = _Builder(graph, dt, tuple(input_shape), _values_of(input_range))
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
    if time_weights is not None:
        metadata["time_weights"] = np.array(time_weights, np.float64)
    # nir's own type check is wrong for groups and for kernels that are not square
    return nir.NIRGraph(builder.nodes, builder.edges, metadata, type_check=False)


def write_nir(path: Path, graph: nir.NIRGraph) -> None:
    """Write `graph` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        nir.write(temporary, graph)


def _values_of(limits: InputRange) -> Values:
    if limits == InputRange(0, 1, 1):
        return "spikes"
    return "integers" if limits.step == 1 and limits.minimum == int(limits.minimum) else "numbers"


@dataclass(frozen=True)
class _Sum:
    """A traced tensor: NIR nodes, each as many `times`, in the order in which they add up."""

    terms: tuple[tuple[str, int], ...]
    shape: Shape
    values: Values

    @property
    def exact(self) -> bool:
        """Whether floats add these values without rounding, in any order."""
        return self.values != "numbers"


class _Builder:
    """Collects nodes and edges; `sums` knows the traced nodes that could be expressed."""

    def __init__(self, graph: fx.GraphModule, dt: float, shape: Shape, values: Values) -> None:
        self.graph = graph
        self.dt = dt
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.sums: dict[fx.Node, _Sum] = {}
        self.problems: list[Problem] = []
        self.reserved = {str(n.target) for n in graph.graph.nodes if n.op == "call_module"}
        self.input = _Sum(((self._free("input"), 1),), shape, values)

    def add(self, node: fx.Node) -> None:
        """Add a traced node; one that cannot be expressed is a problem, and what follows is still checked."""
        if node.op == "placeholder":
            if not self.sums:  # the others are the number of steps
                ((name, _),) = self.input.terms
                self.nodes[name] = nir.Input({"input": np.array(self.input.shape)})
                self.sums[node] = self.input
            return
        try:
            if node.op == "output":
                self._add_output(node)
            elif node.op == "call_module":
                self._add_module(node, self.graph.get_submodule(str(node.target)))
            else:
                self._add_function(node)
        except InexpressibleError as error:
            name = str(node.target) if node.op == "call_module" else node.name
            self.problems.append(Problem(name, *error.reason))
            shape = getattr(node.meta.get("tensor_meta"), "shape", None)
            if shape is not None:
                self.sums[node] = _Sum(((name, 1),), tuple(shape[1:]), self._guess(node))
        except _UnknownError:
            pass

    def _guess(self, node: fx.Node) -> Values:
        """Return the values of a node that is a problem, so that it makes no other one in what follows."""
        if node.op == "call_module":
            module = self.graph.get_submodule(str(node.target))
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear | nn.AvgPool2d):
                return "numbers"
        return "spikes"

    def _add_output(self, node: fx.Node) -> None:
        if not isinstance(node.args[0], fx.Node):
            raise InexpressibleError("must be one tensor", f"the network returns {node.args[0]}")
        result = self._sum(node.args[0])
        self._insert(self._free("output"), nir.Output({"output": np.array(result.shape)}), result)

    def _add_function(self, node: fx.Node) -> None:
        arguments = node.args
        if node.op not in ("call_function", "call_method"):
            raise InexpressibleError(f"is a {node.op} '{node.target}', which NIR cannot express")
        if node.target in ADDITIONS:
            if len(arguments) != 2 or node.kwargs:
                raise InexpressibleError("must be a plain addition", "it has a factor")
            added = self._added(node, self._tensor(arguments[0]), self._tensor(arguments[1]))
            if len(added.terms) > 1 and len(node.users) > 1:
                added = self._junction(node.name, added)
            self.sums[node] = added
        elif node.target in CONCATENATIONS:
            tensors = node.kwargs.get("tensors", arguments[0] if arguments else ())
            axis = node.kwargs.get("dim", arguments[1] if len(arguments) > 1 else 0)
            self.sums[node] = self._concatenated(node, tensors, axis)
        elif node.target in FLATTENINGS:
            before = self._tensor(arguments[0])
            start, end = (
                node.kwargs.get(name, arguments[place] if len(arguments) > place else default)
                for place, (name, default) in enumerate((("start_dim", 0), ("end_dim", -1)), 1)
            )
            if not isinstance(start, int) or not isinstance(end, int):
                raise InexpressibleError("must flatten known axes", f"it flattens {start} to {end}")
            made = flatten(before.shape, start, end)
            name = self._free(node.name)
            self.sums[node] = self._insert(name, made, before, before.values)
        else:
            called = getattr(node.target, "__name__", node.target)
            raise InexpressibleError(f"is '{called}', which NIR cannot express")

    def _add_module(self, node: fx.Node, module: nn.Module) -> None:
        before = self._tensor(next(iter((*node.args, *node.kwargs.values())), None))
        if isinstance(module, NOTHING):
            self.sums[node] = before
            return
        name = str(node.target)
        if name in self.nodes:
            if isinstance(module, LIF):
                raise InexpressibleError(
                    "must be used once", "it is used again", "make one for each place"
                )
            name = self._free(name)
        if isinstance(module, nn.MaxPool2d):
            self.sums[node] = self._max_pooled(name, module, before)
            return
        values: Values = "numbers"
        if isinstance(module, LIF):
            values = "spikes"
        elif isinstance(module, nn.Flatten):
            values = before.values
        made = nir_module(module, before.shape, self.dt)
        self.sums[node] = self._insert(name, made, before, values)

    def _max_pooled(self, name: str, module: nn.MaxPool2d, before: _Sum) -> _Sum:
        if before.values != "spikes":
            raise InexpressibleError(
                "needs spikes, 0 or 1, to take the largest of",
                f"it gets {'sums of spikes' if before.exact else 'other numbers'}",
                "put it behind a layer of neurons, or use an average pool",
            )
        pool, fire = or_pool(module, before.shape)
        summed = self._insert(name, pool, before, "integers")
        return self._insert(self._free(f"{name}.or"), fire, summed, "spikes")

    def _added(self, node: fx.Node, first: _Sum, second: _Sum) -> _Sum:
        if first.shape != second.shape:
            raise InexpressibleError(
                "needs tensors of one shape to add", f"gets {first.shape} and {second.shape}"
            )
        exact = first.exact and second.exact
        values: Values = "integers" if exact else "numbers"
        doubled = first.terms == second.terms and len(first.terms) == 1 and first.terms[0][1] == 1
        if exact or doubled:
            times = Counter(dict(first.terms))
            times.update(dict(second.terms))
            return replace(first, terms=tuple(times.items()), values=values)
        known = {name for name, _ in first.terms}
        if len(second.terms) > 1 or second.terms[0][0] in known:
            second = self._junction(f"{node.name}.second", second)
        return replace(first, terms=first.terms + second.terms, values=values)

    def _concatenated(self, node: fx.Node, tensors: Any, axis: Any) -> _Sum:
        if not isinstance(tensors, Sequence) or not tensors:
            raise InexpressibleError("needs a list of tensors to join", f"it joins {tensors}")
        parts = [self._tensor(tensor) for tensor in tensors]
        if axis not in (1, -len(parts[0].shape)):
            raise InexpressibleError("must join channels, axis 1", f"it joins axis {axis}")
        total = sum(part.shape[0] for part in parts)
        start = 0
        terms: list[tuple[str, int]] = []
        for place, part in enumerate(parts):
            made = place_channels(part.shape, start, total)
            name = self._free(f"{node.name}.{place}")
            terms += self._insert(name, made, part).terms
            start += part.shape[0]
        kinds = {part.values for part in parts}
        values: Values = "integers" if "numbers" not in kinds else "numbers"
        if kinds == {"spikes"}:
            values = "spikes"
        return _Sum(tuple(terms), (total, *parts[0].shape[1:]), values)

    def _junction(self, name: str, before: _Sum) -> _Sum:
        """Return `before` as the value of one node."""
        made = nir.Scale(scale=np.ones(before.shape))
        return self._insert(self._free(name), made, before, before.values)

    def _insert(
        self, name: str, made: nir.NIRNode, before: _Sum, values: Values = "numbers"
    ) -> _Sum:
        """Add a node that is fed by `before`, and return its value."""
        shape = shape_after(made, before.shape)
        self.nodes[name] = made
        for source, times in before.terms:
            scaled = source if times == 1 else self._scaled(source, times, before.shape)
            self.edges.append((scaled, name))
        return _Sum(((name, 1),), shape, values)

    def _scaled(self, source: str, times: int, shape: Shape) -> str:
        name = f"{source}.times{times}"
        if name not in self.nodes:
            self.nodes[name] = nir.Scale(scale=np.full(shape, float(times)))
            self.edges.append((source, name))
        return name

    def _free(self, name: str) -> str:
        """Return `name`, or if a module or node is called so, another."""
        number, free = 2, name
        while free in self.nodes or free in self.reserved:
            number, free = number + 1, f"{name}.{number}"
        return free

    def _tensor(self, argument: object) -> _Sum:
        """Return the value of an argument that must be a tensor of the network's."""
        if not isinstance(argument, fx.Node):
            raise InexpressibleError("must work on tensors of the network", f"it gets {argument}")
        return self._sum(argument)

    def _sum(self, node: fx.Node) -> _Sum:
        if node not in self.sums:
            raise _UnknownError
        return self.sums[node]


class _UnknownError(Exception):
    """What a node works on is no tensor of the network's, as an earlier problem says."""
