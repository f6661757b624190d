"""
Read the exact network that a NIR file of `network_to_nir` carries, trusting nothing in it.

The exact fields decide, and NIR's own are held against them: a file in which a tool changed the one and
not the other says two things, and is refused. `exact_fields` says what is where.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import NirFormatError, Problem, raise_all
from neurocompile.frontend.exact_fields import (
    FIELDS,
    FRAMEWORK,
    KINDS,
    VERSION,
    VIEW,
    Field,
    FileGraph,
    file_graph,
)
from neurocompile.frontend.read_nir import NirFile
from neurocompile.integer import Shape
from neurocompile.ir import (
    LIF,
    Conv2d,
    Dense,
    Edge,
    Integrator,
    MaxPool2d,
    Network,
    Node,
)

LARGEST_EXTENT = 1 << 24
LARGEST_SIZE = 1 << 40  # elements of a tensor
MOST_AXES = 32  # that any numpy has
LARGEST_COUNT = 1 << 31  # spikes or refractory steps
LONGEST_DELAY = MOST_STEPS = 1_000_000

AS_LITERAL = "export it again, or read it with --profile literal"


def exact_network(file: NirFile) -> Network | None:
    """
    Return the network that was written into `file`, bit for bit; None if none was.

    Raises `NirFormatError` with all that is damaged in the exact fields, or that NIR's own fields deny.
    """
    metadata = file.root.get("metadata")
    if not isinstance(metadata, Mapping) or "exact" not in metadata:
        return None
    framework = metadata.get("framework")
    if not isinstance(framework, str) or framework != FRAMEWORK:
        return None
    version = metadata["exact"]
    if not _is_array(version, "iu", 0) or int(version) != VERSION:
        raise NirFormatError(
            Problem(
                "",
                f"the file's exact numbers must be of version {VERSION}",
                f"they are of {_short(version)}",
                "read it with the neurocompile that wrote it, or with --profile literal",
            )
        )
    raw = file.root.get("nodes")
    if not isinstance(raw, Mapping):
        raise NirFormatError("the NIR graph has no nodes")
    nodes, problems = _read_nodes(raw)
    graph = _Fields("", metadata, problems)
    edges = graph.edges("edges")
    feedback = graph.edges("feedback") if "feedback" in metadata else ()
    steps = graph.perhaps_integer("steps", 1, MOST_STEPS)
    unit = graph.weight_unit()
    raise_all(NirFormatError, problems)
    try:
        network = Network(nodes, edges, steps, frozenset(feedback), unit)
    except OverflowError:  # of shapes in numpy
        raise NirFormatError("the network's shapes are too large") from None
    raise_all(NirFormatError, _too_large(network))
    raise_all(NirFormatError, _contradictions(file_graph(network), raw, file.root.get("edges")))
    return network


def _read_nodes(raw: Mapping[str, Any]) -> tuple[dict[str, Node], list[Problem]]:
    """Return the nodes that could be read by their names, and what is wrong with the others."""
    nodes: dict[str, Node] = {}
    problems: list[Problem] = []
    for key, fields in raw.items():
        metadata = fields.get("metadata") if isinstance(fields, Mapping) else None
        if not isinstance(metadata, Mapping):
            problems.append(
                Problem(key, "needs its exact fields", "it has no metadata", AS_LITERAL)
            )
            continue
        kind, name = metadata.get("kind"), metadata.get("name")
        if isinstance(kind, str) and kind == VIEW:
            continue
        if not isinstance(kind, str) or kind not in KINDS:
            known = ", ".join(KINDS)
            problems.append(Problem(key, f"needs a kind of {known}", f"it is {_short(kind)}"))
            continue
        if not isinstance(name, str) or name in nodes:
            have = "another has its" if isinstance(name, str) else "it has none"
            problems.append(Problem(key, "needs a name of its own in its metadata", have))
            continue
        found: list[Problem] = []
        values = _values(KINDS[kind], fields, metadata, _Fields(name, metadata, found))
        if not found:
            node = KINDS[kind](**values)
            found += [Problem(name, *reason) for reason in _misfits(node)]
            nodes[name] = node
        problems += found
    return nodes, problems


def _values(
    kind: type[Node], fields: Mapping[str, Any], metadata: Mapping[str, Any], exact: _Fields
) -> dict[str, Any]:
    """Return the fields of a node; what is wrong with them is told to `exact`."""
    values: dict[str, Any] = {}
    for name, field in FIELDS[kind].items():
        if field.in_nir:
            value = _Fields(exact.name, fields, exact.problems).value(name, field)
            if kind is Conv2d and name == "weight" and value is not None and value.ndim == 3:
                value = value[:, :, np.newaxis]  # of a Conv1d
            values[name] = value
        elif name in metadata or not field.optional:
            values[name] = exact.value(name, field)
        else:
            values[name] = None
    return values


class _Fields:
    """The values of a group, asked for by name; what is wrong becomes a problem, and None."""

    def __init__(self, name: str, values: Mapping[str, Any], problems: list[Problem]) -> None:
        self.name = name
        self.values = values
        self.problems = problems

    def wrong(self, need: str, key: str) -> None:
        have = f"it is {_short(self.values[key])}" if key in self.values else "there is none"
        self.problems.append(Problem(self.name, f"needs {need} '{key}'", have))

    def value(self, key: str, field: Field) -> Any:
        """Return the value of a field of a node."""
        least = field.least
        match field.value:
            case "numbers":
                return self._numbers(key)
            case "number":
                return self._number(key)
            case "steps":
                return self._integers(key, 0, LONGEST_DELAY)
            case "integer":
                return self._integer(key, least, LARGEST_COUNT)
            case "pair":
                return self._tuple(key, least, LARGEST_EXTENT, 2)
            case "shape":
                return self._shape(key)
            case "range":
                return self._range(key)
            case "word":
                word = self.values.get(key)
                if isinstance(word, str) and word in field.words:
                    return word
                self.wrong(f"one of {', '.join(field.words)} in", key)
        return None

    def edges(self, key: str) -> tuple[Edge, ...]:
        """Return pairs of names."""
        pairs: Any = self.values.get(key)
        if not _is_array(pairs, "U", 2) or pairs.shape[1] != 2:
            self.problems.append(Problem("", f"the exact numbers need pairs of names in '{key}'"))
            return ()
        return tuple((str(source), str(target)) for source, target in pairs)

    def weight_unit(self) -> float | dict[str, float] | None:
        """Return the weight unit of all populations, or of those named, or None if there is none."""
        if "weight_units" not in self.values:
            unit = self.perhaps_number("weight_unit")
            if unit is not None and unit <= 0:
                self.wrong("a number above 0 in", "weight_unit")
            return unit
        units = self._numbers("weight_units")
        names: Any = self.values.get("units_of")
        if units is None:
            return None
        if units.ndim != 1 or (units <= 0).any():
            self.wrong("numbers above 0 in", "weight_units")
        elif not _is_array(names, "U", 1) or len(set(names.tolist())) != len(units):
            self.wrong("a name for each unit in", "units_of")
        else:
            return dict(zip(names.tolist(), units.tolist(), strict=True))
        return None

    def perhaps_integer(self, key: str, least: int, most: int) -> int | None:
        """Return an integer, None if there is none."""
        return self._integer(key, least, most) if key in self.values else None

    def perhaps_number(self, key: str) -> float | None:
        """Return a number, None if there is none."""
        return self._number(key) if key in self.values else None

    def _numbers(self, key: str) -> NDArray[np.float64] | None:
        value: Any = self.values.get(key)
        if not _is_array(value, "f") or value.itemsize != 8:
            self.wrong("float64 numbers in", key)
            return None
        if not np.isfinite(value).all():
            count = int((~np.isfinite(value)).sum())
            have = f"{count} of {value.size} are NaN or infinite"
            self.problems.append(Problem(self.name, f"needs finite numbers in '{key}'", have))
            return None
        if 0 in value.shape:
            self.wrong("at least one number in", key)
            return None
        result: NDArray[np.float64] = value.astype(np.float64)
        return result

    def _number(self, key: str) -> float | None:
        value = self._numbers(key)
        if value is not None and value.shape != ():
            self.wrong("one number in", key)
            return None
        return None if value is None else float(value)

    def _range(self, key: str) -> InputRange | None:
        value = self._numbers(key)
        if value is None:
            return None
        if value.shape != (3,) or value[0] > value[1] or value[2] < 0:
            self.wrong("a minimum, a maximum above it and a step in", key)
            return None
        return InputRange(*(float(number) for number in value))

    def _integers(self, key: str, least: int, most: int) -> NDArray[np.int64] | None:
        value: Any = self.values.get(key)
        whole = _is_array(value, "iu")
        if not whole or (value.size and (value.min() < least or value.max() > most)):
            self.wrong(f"integers from {least} to {most} in", key)
            return None
        result: NDArray[np.int64] = value.astype(np.int64)
        return result

    def _integer(self, key: str, least: int, most: int) -> int | None:
        value = self._integers(key, least, most)
        if value is not None and value.shape != ():
            self.wrong("one integer in", key)
            return None
        return None if value is None else int(value)

    def _tuple(self, key: str, least: int, most: int, count: int | None) -> Shape | None:
        value = self._integers(key, least, most)
        if value is None:
            return None
        if value.ndim != 1 or (len(value) != count if count else len(value) > MOST_AXES):
            self.wrong(f"{count} integers in" if count else "a shape in", key)
            return None
        return tuple(int(number) for number in value)

    def _shape(self, key: str) -> Shape | None:
        shape = self._tuple(key, 1, LARGEST_EXTENT, None)
        if shape is not None and math.prod(shape) > LARGEST_SIZE:
            self.wrong(f"at most {LARGEST_SIZE} elements in", key)
            return None
        return shape


def _is_array(value: Any, kinds: str, axes: int | None = None) -> bool:
    return (
        isinstance(value, np.ndarray) and value.dtype.kind in kinds and axes in (None, value.ndim)
    )


def _short(value: Any) -> str:
    """Return what there is in a few words; a stranger wrote it, at whatever length."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}" if value.size > 4 else str(value.tolist())
    if isinstance(value, Mapping):
        return "a group"
    return repr(value)[:60]


def _misfits(node: Node) -> Iterable[tuple[str, str]]:
    """Yield needs and haves of a node whose fields do not fit each other."""
    match node:
        case Dense() | Conv2d():
            axes = 2 if isinstance(node, Dense) else 4
            if node.weight.ndim != axes:
                yield f"needs a weight with {axes} axes", f"its shape is {node.weight.shape}"
                return
            outputs = node.weight.shape[:1]
            if node.bias.shape != outputs:
                yield f"needs a bias of shape {outputs}", f"it has {node.bias.shape}"
            if isinstance(node, Conv2d) and outputs[0] % node.groups:
                yield f"needs groups that divide {outputs[0]} channels", f"there are {node.groups}"
            if isinstance(node, Dense) and math.prod(node.input_shape) != node.weight.shape[1]:
                yield (
                    f"needs an input of {node.weight.shape[1]} numbers",
                    f"its input_shape is {node.input_shape}",
                )
        case MaxPool2d() if any(
            2 * padding > kernel for padding, kernel in zip(node.padding, node.kernel, strict=True)
        ):
            yield "needs a padding of at most half its kernel", f"it is {node.padding}"
        case LIF() | Integrator():
            shapes = {
                name: value.shape for name, value in vars(node).items() if _is_array(value, "f")
            }
            if len(set(shapes.values())) > 1:
                yield "needs parameters of one shape", f"they have {sorted(set(shapes.values()))}"


def _too_large(network: Network) -> Iterable[Problem]:
    """Yield the nodes whose outputs no computer holds."""
    for name, shape in network.shapes.items():
        if math.prod(shape) > LARGEST_SIZE or len(shape) > MOST_AXES:
            yield Problem(
                name, f"needs an output of at most {LARGEST_SIZE} numbers", f"it is {shape}"
            )


def _contradictions(graph: FileGraph, raw: Mapping[str, Any], edges: Any) -> Iterable[Problem]:
    """Yield where NIR's own nodes and edges are not those that stand for the exact ones."""
    shown = {key: name for name, key in graph.names.items()}
    for key, expected in graph.nodes.items():
        fields = raw.get(key)
        if not isinstance(fields, Mapping):
            yield Problem(shown.get(key, key), "needs a NIR node", "the file has none", AS_LITERAL)
            continue
        wrong = [name for name, value in expected.items() if not _equal(fields.get(name), value)]
        if wrong:
            told = ", ".join(f"'{name}'" for name in wrong)
            yield Problem(
                shown.get(key, key),
                f"needs {told} as its exact fields in the metadata say",
                "the file was changed after it was written",
                AS_LITERAL,
            )
    for key in raw:
        if key not in graph.nodes:
            yield Problem(key, "must stand for a node of the network", "it does not", AS_LITERAL)
    pairs = edges.tolist() if _is_array(edges, "U", 2) else []
    if sorted(map(tuple, pairs)) != sorted(graph.edges):
        yield Problem(
            "",
            "the file's edges must be those of its metadata",
            "the file was changed after it was written",
            AS_LITERAL,
        )


def _equal(value: Any, expected: Any) -> bool:
    if isinstance(expected, str):
        return isinstance(value, str) and value == expected
    return _is_array(value, "biuf") and np.array_equal(value, expected, equal_nan=True)
