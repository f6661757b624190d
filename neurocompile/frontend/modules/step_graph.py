"""
Write what a recorded run computes in one step as a graph of layers, for batch norms to be folded in.

Neurons are modules that hand on what they get. Spikes of the step before are inputs of the graph, and
layers that the run called as functions become modules.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn

from neurocompile.errors import Problem
from neurocompile.frontend.modules.evaluation_copy import evaluation_copy
from neurocompile.frontend.modules.layers import NOTHING
from neurocompile.frontend.modules.recording import UNKNOWN, Expr, Recorder, RefusedError

INPUT = "input"
PREVIOUS = "previous"  # in a node's meta: whose spikes of the step before it is


class Firing(nn.Module):
    """A layer of neurons, in a graph that is not run."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class StepGraph:
    """One step: `graph` from the input and earlier spikes to the output, and what is wrong with it."""

    graph: fx.GraphModule
    problems: tuple[Problem, ...]


def step_graph(recorder: Recorder, output: Expr) -> StepGraph:
    """
    Return one step of a recorded run, as far as `output` depends on it.

    The graph's outputs are that, and all layers of neurons, even those that only later steps see. What
    cannot be written is a problem, and an input of the graph marked as unknown.
    """
    writer = _Writer(recorder)
    result = writer.node(output, late=False)
    fired = writer.all_fired()
    writer.graph.output((result, *fired))
    graph = evaluation_copy(
        fx.GraphModule(writer.modules, writer.graph)
    )  # the module stays as it is
    return StepGraph(graph.double(), tuple(dict.fromkeys(writer.problems)))


def membrane(x: Tensor) -> Tensor:
    """Return the membrane of a layer of neurons, in a graph that is not run."""
    return x


class _Writer:
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.graph = fx.Graph()
        self.modules: dict[str, nn.Module] = {}
        self.nodes: dict[tuple[int, bool], fx.Node] = {}
        self.problems: list[Problem] = []
        self.looked_back: list[Expr] = []
        self.parts = dict(recorder.module.named_modules())

    def node(self, expr: Expr, *, late: bool) -> fx.Node:
        """Return the graph's node of `expr`, of the step before if `late`."""
        key = (id(expr), late)
        if key not in self.nodes:
            try:
                node = self._made(expr, late=late)
            except RefusedError as error:
                self.problems.append(error.problem)
                node = self.graph.placeholder(f"{UNKNOWN}_{len(self.nodes)}")
                node.meta[UNKNOWN] = True
            node.meta.setdefault("tensor_meta", SimpleNamespace(shape=(1, *expr.shape)))
            self.nodes[key] = node
        return self.nodes[key]

    def all_fired(self) -> list[fx.Node]:
        """Return the layers of neurons, after writing those that only later steps see."""
        done = 0
        while done < len(self.looked_back):
            self.node(self.looked_back[done], late=False)
            done += 1
        firing = {name for name, part in self.modules.items() if isinstance(part, Firing)}
        return [node for node in self.graph.nodes if str(node.target) in firing]

    def _made(self, expr: Expr, *, late: bool) -> fx.Node:
        match expr.kind:
            case "input":
                if late:
                    raise RefusedError(
                        "", "must take the input of its own step", "it takes that of the one before"
                    )
                return self.graph.placeholder(INPUT)
            case "spikes":
                if not late:
                    self.modules[expr.name] = Firing()
                    inputs = self._input_of(expr.name)
                    return self.graph.call_module(expr.name, (inputs,))
                self.looked_back.append(expr)  # its own input may need this
                node = self.graph.placeholder(f"{PREVIOUS}_{len(self.nodes)}")
                node.meta[PREVIOUS] = expr.name
                return node
            case "membrane":
                if late:
                    raise RefusedError(
                        expr.name, "must show its membrane at once", "it is used a step later"
                    )
                spikes = self.recorder.expr("spikes", expr.name, (), expr.shape)
                return self.graph.call_function(membrane, (self.node(spikes, late=False),))
            case "current":
                raise RefusedError(
                    expr.name,
                    "can only show its spikes or its membrane",
                    "its synaptic current is used",
                )
            case "late":
                if late or expr.detail != 1:
                    raise RefusedError(
                        "", "must go back one step at most", "it takes values of earlier ones"
                    )
                return self.node(expr.arguments[0], late=True)
            case "module":
                part = self.parts[expr.name]
                before = self.node(expr.arguments[0], late=late)
                if isinstance(part, NOTHING) or type(part).__name__.startswith("Dropout"):
                    return before
                if isinstance(part, nn.Flatten | nn.Unflatten):
                    return self._call(torch.reshape, expr, (before, expr.shape))
                self.modules[expr.name] = part
                return self.graph.call_module(expr.name, (before,))
            case "layer":
                before = self.node(expr.arguments[0], late=late)
                name = self._free(f"{expr.name}_{len(self.nodes)}")
                self.modules[name] = expr.detail
                return self.graph.call_module(name, (before,))
            case "operation":
                return self._operation(expr, late=late)
        assert expr.kind == UNKNOWN
        raise RefusedError(*_reason(expr))

    def _input_of(self, name: str) -> fx.Node:
        """Return what feeds neurons, at the last step of the run."""
        key = self.recorder.called[name].inputs[-1]
        return self.node(key, late=False)

    def _operation(self, expr: Expr, *, late: bool) -> fx.Node:
        before = [self.node(part, late=late) for part in expr.arguments]
        match expr.name:
            case "reshape":
                return self._call(torch.reshape, expr, (before[0], expr.shape))
            case "scale":
                return self._call(operator.mul, expr, (before[0], expr.detail))
            case "shift":
                constant, factor = expr.detail
                return self._call(torch.add, expr, (before[0], constant), {"alpha": factor})
            case "cat":
                return self._call(torch.cat, expr, (before, 1))
        factors = expr.detail
        if factors == (1.0, 1.0):
            return self._call(operator.add, expr, tuple(before))
        return self._call(
            torch.sub, expr, tuple(before if factors == (1.0, -1.0) else before[::-1])
        )

    def _call(self, function: Any, _expr: Expr, arguments: Any, more: Any = None) -> fx.Node:
        return self.graph.call_function(function, arguments, more or {})

    def _free(self, name: str) -> str:
        number, free = 2, name
        while free in self.modules or free in self.parts:
            number, free = number + 1, f"{name}_{number}"
        return free


def _reason(expr: Expr) -> Iterable[str]:
    if expr.name in ("relu", "relu6", "sigmoid", "tanh", "gelu", "leaky_relu", "elu", "softmax"):
        return (
            expr.name,
            f"is a '{expr.name}', a layer of networks without spikes",
            "neurons can only compute their own activation",
            "replace it by a layer of neurons and train again",
        )
    return (
        expr.name,
        "is something that a compiled network cannot compute",
        "the output depends on it",
        "use layers of neurons, linear layers, pools, sums and reshapes",
    )
