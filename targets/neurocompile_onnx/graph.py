"""
Build an ONNX graph node by node, with `onnx.helper`: every node and every tensor has a readable name.

A node's name is that of its scope and of what it is, as in "conv1/leak/Div", numbered where it comes twice;
what it makes is called by what it is alone, "Div_7": a tensor's name is stored three times and more. Values
carry their type, as ONNX converts none by itself; shapes are inferred when the model is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike
from onnx import helper, numpy_helper

from neurocompile import __version__

OPSET = 17  # the newest operators used are of 16; ONNX Runtime knows it since 1.12, of 2022
IR_VERSION = 8  # of onnx 1.12, which came with opset 17
PRODUCER = "neurocompile"

Dimensions = Sequence[int | str]  # a name stands for an extent that is known when the model runs


@dataclass(frozen=True)
class Value:
    """A tensor of a graph: its name and its type."""

    name: str
    dtype: np.dtype[Any]


class Graph:
    """
    A graph that grows. A `Graph` is also the attribute `body` of a `Scan`.

    `reserved` are names that `input` and `output` will ask for, and that nothing else may take before. A body is
    `inside` the graph that it is for, and shares no name with it; its inputs and outputs begin with `prefix`.
    """

    def __init__(
        self,
        name: str,
        doc: str = "",
        *,
        prefix: str = "",
        reserved: Iterable[str] = (),
        inside: Graph | None = None,
    ) -> None:
        self.name, self.doc = name, doc
        self._prefix = f"{prefix}/" if prefix else ""
        self.names: _Names = _Names() if inside is None else inside.names
        self.names.reserved.update(self._prefix + name for name in reserved)
        self._scopes: list[str] = []
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._made: set[str] = set()
        self._shown: set[str] = set()
        self._renamed: dict[str, str] = {}
        self._constants: list[onnx.TensorProto] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], Value] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Put `name` and a slash before the names of all that is made inside."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def input(self, name: str, dtype: DTypeLike, shape: Dimensions, doc: str = "") -> Value:
        """Return a new input of the graph, called exactly `name`, behind the prefix."""
        own = self._exactly(name)
        self._inputs.append(_described(own, np.dtype(dtype), shape, doc))
        return Value(own, np.dtype(dtype))

    def output(self, value: Value, name: str, shape: Dimensions, doc: str = "") -> None:
        """
        Make `value` an output of the graph, called exactly `name`, behind the prefix.

        The node that makes it calls it so; only what is an input, a constant or an output already takes another.
        """
        own = self._exactly(name)
        self._outputs.append(_described(own, value.dtype, shape, doc))
        old = self._known_as(value)
        if old in self._made and old not in self._shown:
            self._renamed[old] = own
            for node in self._nodes:
                node.input[:] = [own if used == old else used for used in node.input]
                node.output[:] = [own if made == old else made for made in node.output]
        else:
            node_name = self._free(f"{name}/Identity", scoped=False)
            self._nodes.append(helper.make_node("Identity", [old], [own], name=node_name))
        self._shown.add(own)

    def constant(self, name: str, values: ArrayLike, dtype: DTypeLike | None = None) -> Value:
        """Return the constant `values`; what is equal, in type and shape as well, is stored once."""
        array = np.ascontiguousarray(np.asarray(values, dtype)).reshape(np.shape(values))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            # What is small is shared by several layers, and belongs to none.
            own = self._free(name) if array.size > 1 else self._free(name, scoped=False)
            self._constants.append(numpy_helper.from_array(array, own))
            self._known[key] = Value(own, array.dtype)
        return self._known[key]

    def node(
        self,
        operator: str,
        *inputs: Value | None,
        name: str = "",
        dtype: DTypeLike | None = None,
        **attributes: Any,
    ) -> Value:
        """
        Return the only output of a new node; None is an input that is left out.

        It is called `name`, or as its operator; its type is `dtype`, or that of the first input.
        """
        first = inputs[0] if inputs else None
        found = np.dtype(dtype) if first is None or dtype is not None else first.dtype
        own = self._free(name or operator)
        made = self._free(name or operator, scoped=False) if self._scopes else own
        self._append(operator, inputs, [made], own, attributes)
        return Value(made, found)

    def nodes(
        self,
        operator: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[tuple[str, DTypeLike]],
        *,
        name: str = "",
        **attributes: Any,
    ) -> tuple[Value, ...]:
        """Return the outputs, (name, type), of a new node that has several."""
        own = self._free(name or operator)
        values = tuple(Value(self._free(called), np.dtype(dtype)) for called, dtype in outputs)
        self._append(operator, inputs, [value.name for value in values], own, attributes)
        return values

    def cast(self, value: Value, dtype: DTypeLike) -> Value:
        """Return `value` in another type, or itself if it has that already."""
        wanted = np.dtype(dtype)
        if value.dtype == wanted:
            return value
        to = helper.np_dtype_to_tensor_dtype(wanted)
        return self.node("Cast", value, dtype=wanted, to=to)

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """Return `value` in another shape; 0 keeps the extent of that place, -1 is what is left."""
        return self.node("Reshape", value, self.constant("shape", shape, np.int64))

    def to_proto(self) -> onnx.GraphProto:
        """Return the graph as ONNX stores it, with the shapes that were declared."""
        return helper.make_graph(
            self._nodes,
            self.name,
            self._inputs,
            self._outputs,
            initializer=self._constants,
            doc_string=self.doc,
        )

    def _append(
        self,
        operator: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[str],
        name: str,
        attributes: Mapping[str, Any],
    ) -> None:
        taken = ["" if item is None else self._known_as(item) for item in inputs]
        node = helper.make_node(operator, taken, outputs, name=name)
        for key, value in sorted(attributes.items()):
            held = value.to_proto() if isinstance(value, Graph) else value
            held = held.tolist() if isinstance(held, np.ndarray) else held
            node.attribute.append(helper.make_attribute(key, held))
        self._nodes.append(node)
        self._made.update(outputs)

    def _known_as(self, value: Value) -> str:
        """Return what `value` is called now that it may be an output."""
        return self._renamed.get(value.name, value.name)

    def _exactly(self, name: str) -> str:
        return self.names.exactly(self._prefix + name)

    def _free(self, name: str, *, scoped: bool = True) -> str:
        return self.names.free("/".join([*self._scopes, name]) if scoped else name)


@dataclass
class _Names:
    """
    The names of nodes and tensors in a graph and its bodies, and which are reserved.

    Nodes and tensors have name spaces of their own in ONNX, but not in all tools.
    """

    taken: set[str] = field(default_factory=set)
    reserved: set[str] = field(default_factory=set)
    numbers: dict[str, int] = field(default_factory=dict)  # the last one behind each name

    def exactly(self, name: str) -> str:
        """Return `name`, taken now; raises `ValueError` if it was before."""
        if name in self.taken:
            raise ValueError(f"the graph has a '{name}' already")
        self.taken.add(name)
        return name

    def free(self, name: str) -> str:
        """Return `name`, or a free one with a number behind it."""
        found, number = name, self.numbers.get(name, 1)
        while found in self.taken or found in self.reserved:
            number += 1
            found = f"{name}_{number}"
        self.numbers[name] = number
        self.taken.add(found)
        return found


def model_bytes(graph: Graph, properties: Mapping[str, str], doc: str = "") -> bytes:
    """
    Return the model of `graph`, checked, with the shapes of all its tensors; the same graph, the same bytes.

    `properties` are its `metadata_props`.
    """
    model = helper.make_model(
        graph.to_proto(),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
        producer_version=__version__,
        doc_string=doc,
    )
    helper.set_model_props(model, dict(properties))
    model = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _described(name: str, dtype: np.dtype[Any], shape: Dimensions, doc: str) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    return helper.make_tensor_value_info(name, kind, list(shape), doc_string=doc)
