"""
Put readings of neurons into the graph: what their framework does besides, as nodes around them.

Exporters that draw a recurrent layer as a graph of its own disagree about its wiring; some lead the input
through the recurrent weights, which no framework does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from neurocompile.frontend.dialects.readings import Reading
from neurocompile.frontend.nir_neurons import NirNeurons
from neurocompile.ir import LIF, Delay, Edge, Integrator, Node, Threshold
from neurocompile.names import free_name


@dataclass(frozen=True)
class Graph:
    """
    The edges of a file, once the wiring of recurrent layers is understood.

    `loops` are the edges on which neurons hear themselves through one linear node.
    """

    edges: tuple[Edge, ...]
    loops: frozenset[Edge]

    @property
    def recurrent(self) -> frozenset[str]:
        """The neurons that feed themselves through one linear node."""
        return frozenset(source for source, _ in self.loops)


def untangle(
    edges: Iterable[Edge],
    neurons: Mapping[str, NirNeurons],
    *,
    moves: bool,
    notes: dict[str, str],
) -> Graph:
    """
    Find recurrent layers; with `moves`, input that goes through recurrent weights goes to the neurons.

    Otherwise such a wiring is kept as it is drawn, and told.
    """
    kept = tuple(edges)
    known = set(kept)
    loops = frozenset(
        (name, weights)
        for name, weights in kept
        if name in neurons and (weights, name) in known and weights not in neurons
    )
    strange = []
    moved = dict.fromkeys(kept)
    for name, weights in sorted(loops):
        others = [source for source, target in kept if target == weights and source != name]
        direct = any(target == name and source != weights for source, target in kept)
        if not others or direct:
            continue
        strange.append(name)
        if moves:
            for source in others:
                del moved[source, weights]
                moved[source, name] = None
    if strange:
        told = ", ".join(strange)
        how = "leads" if moves else "is read as leading"
        notes["wiring"] = f"the file {how} the input of {told} through the recurrent weights" + (
            ", where its framework adds it behind them" if moves else ""
        )
    return Graph(tuple(moved), loops)


def splice(
    nodes: Mapping[str, Node], readings: Mapping[str, Reading], graph: Graph
) -> tuple[dict[str, Node], tuple[Edge, ...]]:
    """Return all nodes and edges: those of the file, the populations, and what belongs to them."""
    every: dict[str, Node] = {**nodes, **{name: item.node for name, item in readings.items()}}
    entry = {name: name for name in every}
    leaving = {name: name for name in every}
    added: list[Edge] = []
    twins: dict[str, list[str]] = {}
    for name, reading in readings.items():
        own = {"": name}
        for suffix, node in reading.nodes.items():
            own[suffix] = free_name(every, name + suffix)
            every[own[suffix]] = node
        added += [(own[source], own[target]) for source, target in reading.edges]
        twins[name] = [own[suffix] for suffix in reading.twins]
        if reading.before:
            entry[name] = free_name(every, f"{name}.before")
            every[entry[name]] = Delay(np.array(reading.before))
            added += [(entry[name], end) for end in (name, *twins[name])]
        if reading.after:
            leaving[name] = free_name(every, f"{name}.after")
            every[leaving[name]] = Delay(np.array(reading.after))
            added.append((name, leaving[name]))
    joined = [
        # A loop is a step late already.
        (
            source if (source, target) in graph.loops else leaving.get(source, source),
            end,
        )
        for source, target in graph.edges
        for end in (
            [entry[target]]
            if entry.get(target, target) != target
            else [target, *twins.get(target, [])]
        )
    ]
    return every, (*joined, *added)


def fire_without_reset(
    nodes: Mapping[str, Node], edges: Iterable[Edge]
) -> tuple[dict[str, Node], tuple[Edge, ...]]:
    """
    Join integrators and the thresholds that they feed alone to neurons that are never reset.

    Such neurons subtract nothing at their spikes; the threshold keeps its name.
    """
    every, kept = dict(nodes), list(edges)
    for name, node in nodes.items():
        if not isinstance(node, Integrator):
            continue
        targets = [target for source, target in kept if source == name]
        if len(targets) != 1 or not isinstance(every.get(targets[0]), Threshold):
            continue
        (target,) = targets
        firing = every[target]
        assert isinstance(firing, Threshold)
        if sum(end == target for _, end in kept) > 1 or firing.shape != node.shape:
            continue
        every[target] = LIF(
            node.decay,
            node.gain,
            node.leak,
            firing.threshold,
            np.zeros(node.shape),
            "subtract",
            current_decay=node.current_decay,
            comparison=firing.comparison,
            subtracts=np.zeros(node.shape),
        )
        del every[name]
        kept = [(source, target if end == name else end) for source, end in kept if source != name]
    return every, tuple(kept)
