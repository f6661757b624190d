"""
What is in a NIR or `.net` file, and how it is read.

A NIR file of somebody else does not say in which steps its neurons are computed. So it is read as it
is, and then with each profile that its numbers fit: what each of them finds, or what it still asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neurocompile.errors import (
    FormatError,
    NeurocompileError,
    Problem,
    UnsupportedError,
)
from neurocompile.frontend.dialects.frameworks import candidates
from neurocompile.frontend.flatten_graph import GRAPH, FlatGraph, flatten_graph
from neurocompile.frontend.from_netx import from_netx
from neurocompile.frontend.from_nir import Imported, from_nir
from neurocompile.frontend.nir_neurons import read_neurons
from neurocompile.frontend.nir_nodes import MalformedError, kind_of, shape_of
from neurocompile.frontend.read_netx import read_netx
from neurocompile.frontend.read_nir import NirFile, read_nir
from neurocompile.inspection import Found, described, told
from neurocompile.ir import Edge, Network

SETTINGS = (  # fields of nodes that say how, and are no numbers that were learned
    "shape", "input_shape", "stride", "padding", "dilation", "groups", "kernel_size", "start_dim",
    "end_dim", "input_type", "output_type",
)  # fmt: skip
ASSUMED: Mapping[str, Any] = {
    "reset": "zero", "reset_at": "spike", "fires": "above", "max_spikes": 1, "min_membrane": "none",
    "synapse": "now",
}  # fmt: skip
MOST_NUMBERS = 100_000_000  # of a file that is read once for each profile


def inspect_nir(path: Path) -> Found:
    """Return what is in a NIR file; raises `NirFormatError` where it is none."""
    file = read_nir(path)
    if kind_of(file.root) != GRAPH or not isinstance(file.root.get("nodes"), Mapping):
        from_nir(file)  # which says what is wrong
    flat, structure = flatten_graph(file.root)
    count = sum(_numbers(fields) for fields in flat.nodes.values())
    reading, network, error = _read(file)
    readings: list[dict[str, Any]] = []
    problems = [*(structure if error is None else error.problems)]
    damaged = isinstance(error, FormatError)
    if error is not None and count <= MOST_NUMBERS:
        readings, network, further = _by_profile(file, flat)
        problems += [item for item in further.problems if item not in problems] if further else []
        dangling = list(_dangling(flat))  # which nobody looks at while a node has no meaning
        problems += [item for item in (*structure, *dangling) if item not in problems]
        damaged = bool(damaged or structure or dangling or isinstance(further, FormatError))
    shapes = {} if network is None else network.shapes
    late = [] if network is None else sorted(network.feedback)
    return Found(
        {
            "version": file.version,
            "metadata": file.root.get("metadata", {}),
            "nodes": [
                _node(name, flat.nodes[name], shapes) for name in in_order(flat.nodes, flat.edges)
            ],
            "edges": [list(edge) for edge in flat.edges],
            "cycles": cycles(flat.nodes, flat.edges),
            "late_edges": [list(edge) for edge in late],
            "subgraphs": list(_subgraphs("", file.root)),
            "parameters": count,
            "reading": reading,
            "readings": readings,
        },
        tuple(problems),
        damaged,
    )


def _dangling(flat: FlatGraph) -> Iterable[Problem]:
    """Yield the ends of edges that are no nodes, as `ir.Network` words them."""
    for source, target in flat.edges:
        for name in (source, target):
            if name not in flat.nodes:
                need = f"edge {source} -> {target} needs a node '{name}'"
                yield Problem("", need, "there is none")


def _read(file: NirFile, **choices: Any) -> tuple[Any, Network | None, NeurocompileError | None]:
    """Return how a file is read with these choices, the network, and the error where there is none."""
    try:
        imported = from_nir(file, **choices)
    except NeurocompileError as error:
        return (
            {"readable": False, "needs": [dict(vars(item)) for item in error.problems]},
            None,
            error,
        )
    return _told_of(imported), imported.network, None


def _told_of(imported: Imported) -> dict[str, Any]:
    network = imported.network
    return {
        "readable": True,
        "how": dict(imported.inferred),
        "steps": network.steps,
        "nodes": len(network.nodes),
        "late_edges": [list(edge) for edge in sorted(network.feedback)],
    }


def _by_profile(
    file: NirFile, flat: FlatGraph
) -> tuple[list[dict[str, Any]], Network | None, NeurocompileError | None]:
    """
    Return what each profile that the numbers fit finds, the first network that comes of one, and no error.

    Where none comes of any, because choices are missing, they are assumed: shapes do not depend on them,
    nor whether the file contradicts itself. If that fails for each profile, the error is what it is that
    no choice mends.
    """
    neurons, _ = read_neurons(flat.nodes)
    fitting = candidates(neurons.values()) if neurons else ["literal"]
    found: list[dict[str, Any]] = []
    network: Network | None = None
    for fits in fitting if neurons else ():
        profile = fits.split()[0]
        reading, read, _ = _read(file, profile=profile)
        found.append({"profile": profile, "fits": fits, **reading})
        network = network or read
    if network is not None:
        return found, network, None
    error: NeurocompileError | None = None
    shortest = min((item.shortest_time for item in neurons.values()), default=np.inf)
    dt = float(shortest) / 2 if np.isfinite(shortest) and shortest > 0 else 1.0
    for fits in fitting:
        profile = fits.split()[0]
        gain = {"input_gain": "1"} if profile == "sinabs" else {}
        own = {} if " with dt " in fits else {"dt": dt}
        _, read, error = _read(file, profile=profile, **ASSUMED, **gain, **own)
        if read is not None:
            return found, read, None
    return found, None, error


def _node(name: str, fields: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    shape: list[int] | None = list(shapes[name]) if name in shapes else None
    if shape is None and kind_of(fields) in ("Input", "Output"):
        try:
            shape = list(shape_of(fields))
        except MalformedError:
            shape = None  # a problem already
    values = fields if isinstance(fields, Mapping) else {}
    numbers = {
        key: value for key, value in values.items() if key not in ("type", "metadata", "shape")
    }
    return {
        "name": name,
        "type": kind_of(fields),
        "shape": shape,
        "count": _numbers(fields),
        "parameters": {key: _field(value) for key, value in numbers.items()},
    }


def _field(value: Any) -> Any:
    return described(value) if isinstance(value, np.ndarray) else told(value)


def _numbers(fields: Any) -> int:
    """Return how many numbers were learned or chosen for a node."""
    if not isinstance(fields, Mapping):
        return 0
    return sum(
        value.size
        for key, value in fields.items()
        if key not in SETTINGS and isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    )


def _subgraphs(prefix: str, graph: Mapping[str, Any]) -> Iterable[str]:
    nodes = graph.get("nodes")
    for name, fields in nodes.items() if isinstance(nodes, Mapping) else ():
        if kind_of(fields) == GRAPH:
            yield f"{prefix}{name}"
            yield from _subgraphs(f"{prefix}{name}.", fields)


def in_order(nodes: Mapping[str, Any], edges: Iterable[Edge]) -> list[str]:
    """Return the names of `nodes` along the edges, from the inputs on; in cycles from where they are entered."""
    starts = sorted(nodes, key=lambda name: kind_of(nodes[name]) == "Input")
    return _ended(starts, _followers(nodes, edges))[::-1]


def cycles(nodes: Iterable[str], edges: Iterable[Edge]) -> list[list[str]]:
    """
    Return the groups of nodes that reach themselves and each other, as they come in `nodes`.

    Kosaraju's algorithm: walk backwards from the nodes in the order in which forward walks end, last
    first (Aho, Hopcroft, Ullman: Data Structures and Algorithms, 1983, section 6.7).
    """
    names, known = list(nodes), list(edges)
    after = _followers(names, known)
    before = _followers(names, ((target, source) for source, target in known))
    group: dict[str, int] = {}
    reached: set[str] = set()
    for number, name in enumerate(reversed(_ended(names, after))):
        for member in _walk(name, before, reached):
            group[member] = number
    members: dict[int, list[str]] = {}
    for name in names:
        members.setdefault(group[name], []).append(name)
    return [found for found in members.values() if len(found) > 1 or found[0] in after[found[0]]]


def _followers(nodes: Iterable[str], edges: Iterable[Edge]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in edges:
        if source in found and target in found:
            found[source].append(target)
    return found


def _ended(starts: Iterable[str], following: Mapping[str, list[str]]) -> list[str]:
    """Return all nodes in the order in which depth-first walks from `starts` leave them."""
    seen: set[str] = set()
    return [name for start in starts for name in _walk(start, following, seen)]


def _walk(start: str, following: Mapping[str, list[str]], seen: set[str]) -> list[str]:
    """Return what a depth-first walk newly sees from `start`, in the order in which it leaves; adds to `seen`."""
    if start in seen:
        return []
    seen.add(start)
    left: list[str] = []
    path = [(start, iter(following[start]))]
    while path:
        name, rest = path[-1]
        target = next((other for other in rest if other not in seen), None)
        if target is None:
            left.append(name)
            path.pop()
        else:
            seen.add(target)
            path.append((target, iter(following[target])))
    return left


# lava-dl


def inspect_netx(path: Path) -> Found:
    """Return what is in a `.net` file; raises `NetxFormatError` where it is none."""
    file = read_netx(path)
    problems: tuple[Problem, ...] = ()
    damaged = False
    reading: dict[str, Any]
    try:
        reading = _told_of(from_netx(file))
    except (FormatError, UnsupportedError) as error:
        problems, damaged = error.problems, isinstance(error, FormatError)
        reading = {"readable": False, "needs": [dict(vars(item)) for item in problems]}
    layers = [_layer(number, fields) for number, fields in enumerate(file.layers)]
    return Found(
        {
            "layers": layers,
            "simulation": dict(file.simulation),
            "parameters": sum(layer["count"] for layer in layers),
            "reading": reading,
        },
        problems,
        damaged,
    )


def _layer(number: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in fields.items() if key not in ("type", "shape")}
    weights = [value for key, value in rest.items() if key in ("weight", "bias", "delay")]
    return {
        "name": str(number),
        "type": _plain(fields.get("type")),
        "shape": _plain(fields.get("shape")),
        "count": sum(value.size for value in weights if isinstance(value, np.ndarray)),
        "parameters": {key: _plain(value) for key, value in rest.items()},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.size == 1:
        return told(value.ravel()[0])
    return told(value)
