"""
Which operators the bytes of a model hold, read without the package `onnx`.

A model from a stranger may be anything that ONNX can say, a loop without an end among it. So a model is looked
through before ONNX Runtime gets it: of the fields of Protocol Buffers (its documentation calls their layout
the wire format) only those are followed that lead from a model to its nodes, by their numbers in `onnx.proto`.
"""

from __future__ import annotations

from collections.abc import Iterator

# What the compile half writes; the tests hold the two against each other.
WRITTEN = frozenset(
    {
        *("Abs", "Add", "And", "Cast", "Clip", "Concat", "ConstantOfShape", "Conv", "ConvInteger"),
        *("Div", "Equal", "Gather", "Greater", "GreaterOrEqual", "Identity", "LessOrEqual"),
        *("MatMul", "MatMulInteger", "Max", "Min", "Mod", "Mul", "Not", "Reshape", "Scan", "Shape"),
        *("Sign", "Slice", "Sub", "Transpose", "Where"),
    }
)
SCAN = "Scan"  # one, over the steps of a sample: in its body it would be a loop in a loop
MODEL_GRAPH, MODEL_FUNCTIONS = 7, 25
GRAPH_NODE = 1
NODE_OPERATOR, NODE_ATTRIBUTE, NODE_DOMAIN = 4, 5, 7
ATTRIBUTE_GRAPHS = (6, 11)  # `g` and `graphs`
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT = 10

Field = tuple[int, memoryview]  # its number, and what it holds; b"" for numbers


def problem_of(model: bytes) -> str:
    """Return what a model holds that no model of a program does, "" if nothing."""
    try:
        for number, content in _fields(memoryview(model)):
            if number == MODEL_FUNCTIONS:
                return "it has functions"
            if number == MODEL_GRAPH:
                _check_graph(content, inside=False)
    except ValueError as error:
        return str(error)
    return ""


def _check_graph(graph: memoryview, *, inside: bool) -> None:
    """Raise `ValueError` for a node that no model of a program has; `inside`: of the body of a `Scan`."""
    for number, node in _fields(graph):
        if number != GRAPH_NODE:
            continue
        for field, content in _fields(node):
            if field == NODE_OPERATOR:
                operator = bytes(content).decode(errors="replace")
                if operator not in WRITTEN or (inside and operator == SCAN):
                    where = " inside a Scan" if inside else ""
                    raise ValueError(f"it has the operator '{operator[:40]}'{where}")
            elif field == NODE_DOMAIN and content:
                raise ValueError("it has operators of another domain")
            elif field == NODE_ATTRIBUTE:
                for kind, body in _fields(content):
                    if kind in ATTRIBUTE_GRAPHS:
                        if inside:
                            raise ValueError("it has a graph inside the body of a Scan")
                        _check_graph(body, inside=True)


def _fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message in their order; raises `ValueError` for what is none."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        content = message[:0]
        if kind == VARINT:
            _, place = _varint(message, place)
        elif kind == FIXED64:
            place += 8
        elif kind == FIXED32:
            place += 4
        elif kind == BYTES:
            size, start = _varint(message, place)
            place = start + size
            content = message[start:place]
        else:
            raise ValueError("it is no ONNX model")
        if place > len(message):
            raise ValueError("it is no ONNX model")
        yield number, content


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return the number at `place`, seven bits a byte, the lowest first, and where it ends."""
    found = 0
    for count, byte in enumerate(message[place : place + LONGEST_VARINT]):
        found |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return found, place + count + 1
    raise ValueError("it is no ONNX model")
