"""
Decide which edges of a recurrent graph carry the previous step's spikes.

NIR draws recurrence as a cycle. In discrete time some edge of it must be late, and every framework
that writes such files lets the spikes of a neuron act one step later. Where a walk from the inputs
closes a cycle, the last layer of spiking neurons on it is the one whose spikes come back:

    input -> fc -> lif -> w_rec -> lif        lif -> w_rec carries the spikes of the step before

so that what `w_rec` adds on its own, its bias, acts from the first step on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from neurocompile.errors import Problem
from neurocompile.ir import Edge, Input, Node, Spiking


def find_feedback(
    nodes: Mapping[str, Node], edges: Iterable[Edge]
) -> tuple[tuple[Edge, ...], list[Problem]]:
    """
    Return the feedback edges of a graph in the order in which they were found, and its impossible cycles.

    The walk is depth first, from the inputs and then from what they do not reach, all in the order
    of names, so that the same graph gets the same feedback however its file is sorted. Without the
    feedback edges the graph has no cycle, except the impossible ones.
    """
    targets: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in sorted(set(edges)):
        if source in nodes and target in nodes:  # others are `Network`'s to complain about
            targets[source].append(target)
    starts = sorted(nodes, key=lambda name: (not isinstance(nodes[name], Input), name))
    feedback: list[Edge] = []
    problems: list[Problem] = []
    while cycle := _first_cycle(targets, starts):
        edge = _last_spiking(nodes, cycle)
        if edge is None:
            problems.append(
                Problem(
                    "",
                    "the network has a cycle without spiking neurons: "
                    + " -> ".join((*cycle, cycle[0])),
                    remedy="a cycle needs a layer of spiking neurons, whose spikes act one step later",
                )
            )
            edge = (cycle[-1], cycle[0])
        else:
            feedback.append(edge)
        targets[edge[0]].remove(edge[1])
    return tuple(feedback), problems


def _first_cycle(targets: Mapping[str, Sequence[str]], starts: Iterable[str]) -> tuple[str, ...]:
    """Return the first cycle that a depth-first walk closes, from where it was entered; () if none."""
    finished: set[str] = set()
    for start in starts:
        if start in finished:
            continue
        path = {start: iter(targets[start])}  # a dictionary keeps the order, and finds at once
        while path:
            name = next(reversed(path))
            following = next(path[name], None)
            if following is None:
                finished.add(name)
                del path[name]
            elif following in path:
                names = tuple(path)
                return names[names.index(following) :]
            elif following not in finished:
                path[following] = iter(targets[following])
    return ()


def _last_spiking(nodes: Mapping[str, Node], cycle: Sequence[str]) -> Edge | None:
    for place in reversed(range(len(cycle))):
        if isinstance(nodes[cycle[place]], Spiking):
            return cycle[place], cycle[(place + 1) % len(cycle)]
    return None
