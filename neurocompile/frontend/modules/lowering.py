"""
Lower the graph of one step to the nodes and edges of a network.

Several edges into a node add up, so a traced tensor is a sum of nodes, each some times; it becomes a
node of its own, a `Scale` by 1, where several others use a sum.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from neurocompile.data import InputRange
from neurocompile.errors import Problem
from neurocompile.frontend.modules.channel_affine import is_batchnorm
from neurocompile.frontend.modules.layers import nodes_of, reshaped
from neurocompile.frontend.modules.neurons import Population, UnreadableError, spread
from neurocompile.frontend.modules.recording import UNKNOWN, Called
from neurocompile.frontend.modules.step_graph import PREVIOUS, Firing, membrane
from neurocompile.integer import Shape
from neurocompile.ir import (
    LIF,
    Conv2d,
    Dense,
    Edge,
    Float,
    Input,
    Integrator,
    Node,
    Output,
    Scale,
    output_shape,
)

LARGEST_IDENTITY = 4096  # neurons that may get a bias each through a matrix


@dataclass(frozen=True)
class Term:
    """A node's value, `times` over; of the step before if `late`."""

    source: str
    times: float = 1.0
    late: bool = False


@dataclass(frozen=True)
class Sum:
    """A traced tensor."""

    terms: tuple[Term, ...]
    shape: Shape


class UnknownError(Exception):
    """What a node works on is a problem already."""


@dataclass
class Lowered:
    """The parts of a network; `problems` say what is missing."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    feedback: set[Edge] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    limited: dict[str, Float] = field(default_factory=dict)  # neurons, and their largest inputs


def lower(
    graph: fx.GraphModule, called: Mapping[str, Called], shape: Shape, limits: InputRange | None
) -> Lowered:
    """Return the network of a folded step graph, for inputs of `shape` with the values `limits`."""
    lowering = _Lowering(graph, called, shape, limits)
    for node in graph.graph.nodes:
        lowering.add(node)
    return lowering.made


class _Lowering:
    def __init__(
        self,
        graph: fx.GraphModule,
        called: Mapping[str, Called],
        shape: Shape,
        limits: InputRange | None,
    ) -> None:
        self.graph = graph
        self.called = called
        self.made = Lowered()
        self.sums: dict[fx.Node, Sum] = {}
        self.reserved = {str(n.target) for n in graph.graph.nodes if n.op == "call_module"}
        self.populations: dict[str, Population] = {}
        for name in self._fired():
            try:
                self.populations[name] = called[name].neurons.population(called[name].shape)
            except UnreadableError as error:
                self.made.problems.append(Problem(name, *error.reason))
        self.input = self._free("input")
        self.made.nodes[self.input] = Input(shape, limits)

    def add(self, node: fx.Node) -> None:
        """Add a node of the graph; one that cannot be is a problem, and what follows is still checked."""
        try:
            match node.op:
                case "placeholder":
                    self._placeholder(node)
                case "output":
                    shown: Any = node.args[0]
                    result = self._sum(shown[0])
                    self._insert(self._free("output"), Output(result.shape), result)
                case "call_module":
                    self.sums[node] = self._module(node)
                case _:
                    self.sums[node] = self._joined_up(node, self._function(node))
        except UnreadableError as error:
            name = str(node.target) if node.op == "call_module" else node.name
            self.made.problems.append(Problem(name, *error.reason))
            self.sums[node] = Sum((), self._shape(node))
        except UnknownError:
            pass

    def _fired(self) -> list[str]:
        """Return the names of the neurons of the graph."""
        names = [
            str(node.target)
            for node in self.graph.graph.nodes
            if node.op == "call_module" and isinstance(self._part(node), Firing)
        ]
        return list(dict.fromkeys(names))

    def _part(self, node: fx.Node) -> nn.Module:
        return self.graph.get_submodule(str(node.target))

    def _shape(self, node: fx.Node) -> Shape:
        return tuple(node.meta["tensor_meta"].shape[1:])

    def _placeholder(self, node: fx.Node) -> None:
        if UNKNOWN in node.meta:
            return
        if PREVIOUS not in node.meta:
            self.sums[node] = Sum((Term(self.input),), self._shape(node))
            return
        name = node.meta[PREVIOUS]
        spikes = Sum((Term(name, late=True),), self._shape(node))
        population = self.populations.get(name)
        if population is not None and population.factor is not None:
            spikes = self._insert(self._free(f"{name}.previous"), Scale(population.factor), spikes)
        self.sums[node] = spikes

    def _module(self, node: fx.Node) -> Sum:
        before = self._sum(node.args[0])
        part = self._part(node)
        name = str(node.target)
        if isinstance(part, Firing):
            return self._neurons(node, name, before)
        if is_batchnorm(part):
            return before  # could not be folded, which is told already
        made = nodes_of(part, before.shape)
        for place, one in enumerate(made):
            before = self._insert(self._free(name if not place else f"{name}.{place}"), one, before)
        return before

    def _neurons(self, node: fx.Node, name: str, before: Sum) -> Sum:
        population = self.populations.get(name)
        if population is None:
            return Sum((), before.shape)
        recurrent = population.recurrent
        if recurrent is not None:
            spikes = Sum((Term(name, late=True),), before.shape)
            back = f"{name}.recurrent"
            if isinstance(recurrent, np.ndarray):
                returned = self._insert(self._free(back), Scale(recurrent), spikes)
            else:
                assert isinstance(recurrent, nn.Module)
                for part in nodes_of(recurrent, before.shape):
                    spikes = self._insert(self._free(back), part, spikes)
                returned = spikes
            if returned.shape != before.shape:
                raise UnreadableError(
                    f"needs a recurrence of its own shape, {before.shape}",
                    f"it has {returned.shape}",
                )
            before = Sum((*before.terms, *returned.terms), before.shape)
        shown = [user for user in node.users if user.target is membrane]
        if shown:
            self._show(shown, name, population, before)
        others = [user for user in node.users if user.op != "output" or user.args[0][0] is node]  # type: ignore[index]
        if others == shown and recurrent is None and not self._looked_back(name):
            return before  # its spikes go nowhere
        fired = self._insert(name, population.node, before)
        if population.largest_input is not None:
            self.made.limited[name] = population.largest_input
        if population.factor is not None:
            return self._insert(self._free(f"{name}.graded"), Scale(population.factor), fired)
        return fired

    def _looked_back(self, name: str) -> bool:
        return any(node.meta.get(PREVIOUS) == name for node in self.graph.graph.nodes)

    def _show(
        self, shown: Sequence[fx.Node], name: str, population: Population, before: Sum
    ) -> None:
        """Add neurons without a threshold, which show the membrane of those that never reset."""
        node: LIF = population.node
        if node.reset != "subtract" or node.taken.any():
            self.made.problems.append(
                Problem(
                    name,
                    "must never reset to show its membrane",
                    "its membrane is used, and its spikes reset it",
                    "return its spikes, or use reset_mechanism='none' in a read-out",
                )
            )
            for user in shown:
                self.sums[user] = Sum((), before.shape)
            return
        integrator = Integrator(node.decay, node.gain, node.leak, node.current_decay)
        value = self._insert(self._free(f"{name}.membrane"), integrator, before)
        for user in shown:
            self.sums[user] = value

    def _function(self, node: fx.Node) -> Sum:
        if node.target is membrane:
            return self._sum(node)  # with its neurons
        if node.target is torch.cat:
            return self._concatenated(node)
        before = self._sum(node.args[0])
        if node.target is torch.reshape:
            shape = self._shape(node)
            if shape == before.shape:
                return before
            return self._insert(self._free(node.name), reshaped(shape), before)
        if node.target is operator.mul:
            factor = spread(node.args[1], before.shape, "factor")
            uniform = np.array(factor.flat[0]) if (factor == factor.flat[0]).all() else factor
            return self._insert(self._free(node.name), Scale(uniform), before)
        if node.target is torch.add:
            return self._shifted(node, before)
        other = self._sum(node.args[1])
        if other.shape != before.shape:
            raise UnreadableError(
                "needs tensors of one shape to add", f"it gets {before.shape} and {other.shape}"
            )
        sign = -1.0 if node.target is torch.sub else 1.0
        times: Counter[tuple[str, bool]] = Counter()
        for term in before.terms:
            times[term.source, term.late] += term.times  # type: ignore[assignment]
        for term in other.terms:
            times[term.source, term.late] += sign * term.times  # type: ignore[assignment]
        terms = tuple(Term(source, count, late) for (source, late), count in times.items())
        return Sum(terms, before.shape)

    def _shifted(self, node: fx.Node, before: Sum) -> Sum:
        """Add a constant to each value: the bias of a layer that changes nothing else."""
        shape = before.shape
        shift = spread(node.args[1], shape, "summand")
        factor = float(node.kwargs["alpha"])  # type: ignore[arg-type]
        per_channel = shift.reshape(shape[0], -1)
        if len(shape) > 1 and (per_channel == per_channel[:, :1]).all():
            weight = np.full((shape[0], 1, 1, 1), factor)
            made: Node = Conv2d(weight, per_channel[:, 0], groups=shape[0])
        elif shift.size <= LARGEST_IDENTITY:
            made = Dense(factor * np.eye(shift.size), shift.ravel(), shape)
        else:
            raise UnreadableError(
                "needs a constant for each channel to add",
                f"it adds one to each of {shift.size} values",
            )
        value = self._insert(self._free(node.name), made, before)
        if value.shape != shape:
            value = self._insert(self._free(f"{node.name}.1"), reshaped(shape), value)
        return value

    def _concatenated(self, node: fx.Node) -> Sum:
        """Put each part in its channels, zeros elsewhere, and add them up."""
        arguments: Any = node.args[0]
        parts = [self._sum(argument) for argument in arguments]
        total = sum(part.shape[0] for part in parts)
        terms: list[Term] = []
        start = 0
        for place, part in enumerate(parts):
            channels = part.shape[0]
            weight = np.zeros((total, channels))
            weight[start : start + channels] = np.eye(channels)
            made: Node = Dense(weight, np.zeros(total))
            if len(part.shape) > 1:
                made = Conv2d(weight[:, :, np.newaxis, np.newaxis], np.zeros(total))
            terms += self._insert(self._free(f"{node.name}.{place}"), made, part).terms
            start += channels
        return Sum(tuple(terms), (total, *parts[0].shape[1:]))

    def _joined_up(self, node: fx.Node, value: Sum) -> Sum:
        """Return a sum that several others use as one node, so that sums of sums stay short."""
        if len(value.terms) > 1 and len(node.users) > 1:
            return self._insert(self._free(node.name), Scale(np.array(1.0)), value)
        return value

    def _insert(self, name: str, node: Node, before: Sum) -> Sum:
        """Add a node that is fed by `before`, and return its value."""
        if not before.terms:
            try:
                return Sum((), output_shape(node, before.shape))
            except ValueError as error:
                raise UnreadableError(str(error)) from None
        try:
            shape = output_shape(node, before.shape)
        except ValueError as error:
            raise UnreadableError(str(error)) from None
        self.made.nodes[name] = node
        for term in before.terms:
            direct = (term.source, name)
            if term.times == 1 and direct not in self.made.edges:
                self._edge(direct, late=term.late)
                continue
            between = self._free(f"{term.source}.{'previous' if term.late else 'times'}")
            self.made.nodes[between] = Scale(np.array(term.times))
            self._edge((term.source, between), late=term.late)
            self._edge((between, name), late=False)
        return Sum((Term(name),), shape)

    def _edge(self, edge: Edge, *, late: bool) -> None:
        self.made.edges.append(edge)
        if late:
            self.made.feedback.add(edge)

    def _sum(self, argument: Any) -> Sum:
        if argument not in self.sums:
            raise UnknownError
        return self.sums[argument]

    def _free(self, name: str) -> str:
        """Return `name` for a node, or where one is called so, or a module is, another."""
        number, free = 2, name
        own = name in self.reserved and name not in self.made.nodes
        while free in self.made.nodes or (free in self.reserved and not own):
            number, free = number + 1, f"{name}.{number}"
            own = False
        return free
