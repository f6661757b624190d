"""
Splice nested NIR graphs into one.

A graph inside a graph is a node with ports, its own Input and Output nodes. The node `lif` inside
`block` becomes `block.lif`, and the ports vanish: who feeds a port feeds what the port feeds.

    a -> block, block.input -> block.lif        a -> block.lif

Edges name ports only where they must: `block` alone means its only input or output, `block.left` the
port `left`. Where a port would make the same edge twice (two ports that carry one value into one
node), it stays as a `Scale` by 1, for the value really counts twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurocompile.errors import NirFormatError, Problem
from neurocompile.frontend.nir_nodes import Fields, kind_of
from neurocompile.ir import Edge

MOST_EDGES = 1_000_000
GRAPH = "NIRGraph"
JUNCTION: Fields = {"type": "Scale", "scale": np.ones(())}


@dataclass(frozen=True)
class FlatGraph:
    """
    A graph without graphs in it: the fields of each node by full name, and the edges.

    `ports` are the fields of the Input and Output nodes that were spliced, `fed_by` the nodes whose
    sum went through them.
    """

    nodes: Mapping[str, Any]
    edges: tuple[Edge, ...]
    ports: Mapping[str, Fields]
    fed_by: Mapping[str, tuple[str, ...]]


def flatten_graph(root: Fields) -> tuple[FlatGraph, list[Problem]]:
    """Return the graph in a file's root node without nesting, and what is wrong with its structure."""
    collected = _Collected()
    _collect(collected, "", root)
    sources: dict[str, dict[str, None]] = {}
    targets: dict[str, dict[str, None]] = {}
    for source, target in collected.edges:
        sources.setdefault(target, {})[source] = None
        targets.setdefault(source, {})[target] = None
    problems = collected.problems
    problems += [
        Problem(port, "needs an input", "nothing feeds it")
        for port in collected.ports
        if port not in sources
    ]
    fed_by = {port: _feeders(port, sources, collected.ports) for port in collected.ports}
    nodes = dict(collected.nodes)
    for port in collected.ports:
        before, after = sources.get(port, {}), targets.get(port, {})
        if len(before) * len(after) > MOST_EDGES:
            raise NirFormatError(
                Problem(
                    port,
                    f"must join at most {MOST_EDGES} edges",
                    f"it joins {len(before)} to {len(after)}",
                )
            )
        twice = any(source in sources[target] for target in after for source in before)
        if twice:
            nodes[port] = JUNCTION
            continue
        for target in after:
            sources[target] = _replaced(sources[target], port, before)
        for source in before:
            targets[source] = _replaced(targets[source], port, after)
        sources.pop(port, None)
    edges = tuple((source, target) for target, several in sources.items() for source in several)
    return FlatGraph(nodes, edges, collected.ports, fed_by), problems


@dataclass
class _Collected:
    """All nodes of a graph and of those in it, with full names, before any port is spliced."""

    nodes: dict[str, Any] = field(default_factory=dict)
    ports: dict[str, Fields] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def _collect(found: _Collected, name: str, graph: Fields) -> Mapping[str, str]:
    """Add the contents of the graph called `name` to `found`, and return its ports by their own name."""
    prefix = f"{name}." if name else ""
    raw = graph.get("nodes")
    if not isinstance(raw, Mapping):
        found.problems.append(Problem(name, "is a NIR graph without nodes"))
        return {}
    ports: dict[str, str] = {}
    inner: dict[str, Mapping[str, str]] = {}
    for key, fields in raw.items():
        full, kind = prefix + key, kind_of(fields)
        if full in found.nodes or full in found.ports:
            found.problems.append(Problem(full, "is the name of two nodes", remedy="rename one"))
        if kind == GRAPH:
            inner[key] = _collect(found, full, fields)
        elif kind in ("Input", "Output"):
            ports[key] = kind
            (found.ports if name else found.nodes)[full] = fields
        else:
            found.nodes[full] = fields
    edges: list[Edge] = []
    for source, target in _edges(found, name, graph):
        ends = (
            _end(source, raw, inner, "Output", f"{source} -> {target}", name, found.problems),
            _end(target, raw, inner, "Input", f"{source} -> {target}", name, found.problems),
        )
        if ports.get(target) == "Input":
            found.problems.append(Problem(prefix + target, "is an input", f"'{source}' feeds it"))
        elif ports.get(source) == "Output":
            found.problems.append(Problem(prefix + source, "is an output", f"feeds '{target}'"))
        elif ends[0] and ends[1]:
            edges.append((prefix + ends[0], prefix + ends[1]))
    for (source, target), count in Counter(edges).items():
        if count > 1:
            found.problems.append(
                Problem(
                    "",
                    f"the edge {source} -> {target} is there {count} times",
                    remedy="use a weight instead",
                )
            )
    found.edges += edges
    return ports


def _edges(found: _Collected, name: str, graph: Fields) -> list[Edge]:
    edges = graph.get("edges")
    if not isinstance(edges, np.ndarray) or (
        edges.size and (edges.ndim != 2 or edges.shape[1] != 2)
    ):
        found.problems.append(
            Problem(name, "needs edges that are pairs of node names")
            if name
            else Problem("", "the edges of a NIR graph must be pairs of node names")
        )
        return []
    return [(str(source), str(target)) for source, target in edges] if edges.size else []


def _end(
    name: str,
    raw: Fields,
    inner: Mapping[str, Mapping[str, str]],
    kind: str,
    edge: str,
    where: str,
    problems: list[Problem],
) -> str:
    """Return the node or port that an end of an edge means, "" if none; `kind` is what a port must be."""
    if name in raw and name not in inner:
        return name
    block = (
        name if name in inner else next((key for key in inner if name.startswith(f"{key}.")), "")
    )
    if not block:
        return name  # no such node: `Network` says so
    full = f"{where}.{block}" if where else block
    named = name[len(block) + 1 :]
    choices = [port for port, its in inner[block].items() if its == kind]
    if named in choices:
        return name
    if not named and len(choices) == 1:
        return f"{block}.{choices[0]}"
    what = kind.lower()
    listed = ", ".join(choices)
    if not choices:
        problems.append(Problem(full, f"needs an {what} for the edge {edge}", "it has none"))
    elif named:
        problems.append(
            Problem(full, f"has the {what}s {listed}", f"the edge {edge} names '{named}'")
        )
    else:
        problems.append(
            Problem(
                full,
                f"has the {what}s {listed}",
                f"the edge {edge} does not say which",
                f"write {block}.{choices[0]}",
            )
        )
    return ""


def _feeders(
    port: str, sources: Mapping[str, Mapping[str, None]], ports: Mapping[str, Fields]
) -> tuple[str, ...]:
    """Return the nodes that feed a port, through others if need be."""
    feeders: dict[str, None] = {}
    seen: set[str] = set()
    waiting = [port]
    while waiting:
        for source in sources.get(waiting.pop(), {}):
            if source not in ports:
                feeders[source] = None
            elif source not in seen:
                seen.add(source)
                waiting.append(source)
    return tuple(feeders)


def _replaced(names: Mapping[str, None], name: str, others: Mapping[str, None]) -> dict[str, None]:
    """Return `names` with `others` in the place of `name`."""
    result: dict[str, None] = {}
    for kept in names:
        result.update(others if kept == name else {kept: None})
    return result
