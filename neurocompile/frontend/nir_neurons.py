"""
Read NIR's neurons with a membrane, before anybody decides what they mean in discrete time.

Their parameters may be written once for all neurons, as numbers or arrays of size 1; frameworks whose
layers do not know how many neurons they have write them so. The shape then is that of their input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.frontend.nir_nodes import (
    NEURONS,
    Found,
    MalformedError,
    array_of,
    found,
    kind_of,
)
from neurocompile.integer import Shape
from neurocompile.ir import Dense, Edge, Input, Node, Scale, Threshold, output_shape

Float = NDArray[np.float64]

PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "I": ("r",),
    "IF": ("r", "v_threshold"),
    "LI": ("tau", "r", "v_leak"),
    "LIF": ("tau", "r", "v_leak", "v_threshold"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold"),
}
TIME_CONSTANTS = ("tau", "tau_syn", "tau_mem")
UNKNOWN_SHAPE = (
    "needs to know how many neurons it has",
    "its parameters are single numbers, and nothing that feeds it says so",
)
MOST_NEURONS = 1 << 25  # of one node
MAY_BE_INFINITE = (*TIME_CONSTANTS, "r", "w_in")  # of frameworks that divide by 1 - decay


@dataclass(frozen=True)
class NirNeurons:
    """
    The parameters of one population, as its file has them, in float64 and of one shape.

    Time constants are above 0, and like `r` and `w_in` perhaps infinite. `single` says that the file
    has nothing but float32; `names_reset` that it has a reset voltage.
    """

    name: str
    kind: str
    values: Mapping[str, Float]
    shape: Shape
    single: bool
    names_reset: bool

    def __getitem__(self, field: str) -> Float:
        return self.values[field]

    @property
    def fires(self) -> bool:
        return "v_threshold" in self.values

    @property
    def has_current(self) -> bool:
        return "tau_syn" in self.values

    @property
    def leaks(self) -> bool:
        return bool(self.membrane_time)

    @property
    def membrane_time(self) -> str:
        """The field of the membrane's time constant; "" where it has none."""
        return next((name for name in ("tau", "tau_mem") if name in self.values), "")

    @property
    def shortest_time(self) -> float:
        """The shortest time constant; infinite without any."""
        times = [self.values[name] for name in TIME_CONSTANTS if name in self.values]
        return min((float(value.min(initial=np.inf)) for value in times), default=np.inf)

    def of_shape(self, shape: Shape) -> NirNeurons:
        """
        Return the same parameters for neurons of `shape`, to which they broadcast.

        Raises `MalformedError` for more neurons than any file honestly has.
        """
        check_size(shape)
        flat = {
            name: np.broadcast_to(value.reshape(()) if value.size == 1 else value, shape)
            for name, value in self.values.items()
        }
        return replace(self, values=flat, shape=shape)


def check_size(shape: Shape) -> None:
    """Raise `MalformedError` before arrays of `shape` would fill the memory."""
    if math.prod(shape) > MOST_NEURONS:
        raise MalformedError(
            (
                f"needs at most {MOST_NEURONS} neurons",
                f"its shape is {shape}",
                "use a smaller input",
            )
        )


def read_neurons(raw: Mapping[str, Any]) -> tuple[dict[str, NirNeurons], list[Found]]:
    """Return the neurons that could be read, and what is wrong with the others."""
    neurons: dict[str, NirNeurons] = {}
    problems: list[Found] = []
    for name, fields in raw.items():
        if kind_of(fields) not in NEURONS:
            continue
        try:
            neurons[name] = _read(name, fields)
        except MalformedError as error:
            problems += found(name, error)
    return neurons, problems


def _read(name: str, fields: Mapping[str, Any]) -> NirNeurons:
    kind = kind_of(fields)
    values: dict[str, Float] = {}
    reasons: list[tuple[str, ...]] = []
    optional = [field for field in ("w_in", "v_reset") if field in fields]
    if not kind.startswith("Cuba"):
        optional = [field for field in optional if field != "w_in"]
    if "v_threshold" not in PARAMETERS[kind]:
        optional = [field for field in optional if field != "v_reset"]
    for field in (*PARAMETERS[kind], *optional):
        try:
            values[field] = array_of(fields, field, finite=field not in MAY_BE_INFINITE)
        except MalformedError as error:
            reasons += error.reasons
    reasons += [
        ("needs time constants above 0", f"the smallest in '{field}' is {values[field].min():g}")
        for field in TIME_CONSTANTS
        if field in values and values[field].size and values[field].min() <= 0
    ]
    if not reasons:
        shapes = {value.shape for value in values.values() if value.size != 1}
        try:
            shape = np.broadcast_shapes(*shapes) if shapes else next(iter(values.values())).shape
        except ValueError:
            shape = ()
        if len({len(one) for one in shapes}) > 1 or (shapes and not shape):
            reasons.append(("needs parameters of one shape", f"they have {sorted(shapes)}"))
    if reasons:
        raise MalformedError(*reasons)
    if kind.startswith("Cuba"):
        values.setdefault("w_in", np.ones(shape))
    single = all(fields[field].dtype == np.float32 for field in PARAMETERS[kind])
    neurons = NirNeurons(name, kind, values, shape, single, "v_reset" in values)
    return neurons.of_shape(shape)


def fit_shapes(
    nodes: Mapping[str, Node], neurons: Mapping[str, NirNeurons], edges: Iterable[Edge]
) -> tuple[dict[str, Node], dict[str, NirNeurons], list[Found]]:
    """
    Return nodes and neurons with parameters of their inputs' shapes, and what cannot be fitted.

    Shapes are followed from the inputs on, in circles too; whatever else is wrong with them is
    `Network`'s to tell.
    """
    sources: dict[str, list[str]] = {}
    for source, target in edges:
        sources.setdefault(target, []).append(source)
    shapes: dict[str, Shape] = {}
    waiting = [*nodes, *neurons]
    while True:
        left = [name for name in waiting if not _follow(name, nodes, neurons, sources, shapes)]
        if len(left) == len(waiting):
            break
        waiting = left
    fitted_nodes, fitted = dict(nodes), dict(neurons)
    problems: list[Found] = []
    for name in [*nodes, *neurons]:
        got = next((shapes[source] for source in sources.get(name, []) if source in shapes), None)
        try:
            if name not in neurons:
                fitted_nodes[name] = nodes[name] if got is None else _fitted(nodes[name], got)
            elif got is not None and _broadcasts(neurons[name].shape, got, "parameters"):
                fitted[name] = neurons[name].of_shape(got)
            elif got is None and not neurons[name].shape:
                raise MalformedError(UNKNOWN_SHAPE)
        except MalformedError as error:
            problems += found(name, error)
    return fitted_nodes, fitted, problems


def _follow(
    name: str,
    nodes: Mapping[str, Node],
    neurons: Mapping[str, NirNeurons],
    sources: Mapping[str, list[str]],
    shapes: dict[str, Shape],
) -> bool:
    """Note the shape behind a node, if it is known by now; return whether it is."""
    got = next((shapes[source] for source in sources.get(name, []) if source in shapes), None)
    node = neurons.get(name) or nodes[name]
    shape: Shape | None = got
    match node:
        case NirNeurons() | Threshold():
            if math.prod(node.shape) != 1 or got is None:
                shape = node.shape or None
        case Input():
            shape = node.shape
        case Dense():
            shape = (node.weight.shape[0],)
        case _ if got is not None:
            try:
                shape = output_shape(node, got)
            except ValueError:
                shape = None
    if shape is not None:
        shapes[name] = shape
    return shape is not None


def _fitted(node: Node, got: Shape) -> Node:
    """Return `node` with parameters for an input of shape `got`."""
    match node:
        case Threshold() if _broadcasts(node.shape, got, "thresholds"):
            check_size(got)
            value = node.threshold
            full = np.broadcast_to(value.reshape(()) if value.size == 1 else value, got)
            return replace(node, threshold=full)
        case Scale():
            _broadcasts(node.scale.shape, got, "factors")
        case Dense():
            outputs, inputs = node.weight.shape
            if got == (outputs,) and outputs != inputs:
                raise MalformedError(
                    (
                        f"needs an input of shape {(inputs,)}",
                        f"gets {got}, which its weight {node.weight.shape} would fit transposed",
                        "write it as NIR does, (outputs, inputs)",
                    )
                )
    return node


def _broadcasts(own: Shape, got: Shape, what: str) -> bool:
    """
    Return whether parameters of shape `own` clearly are those of an input of shape `got`.

    Raises `MalformedError` where they have another number of axes: numpy would put an axis of channels,
    (C,), along the last one of (C, H, W), where its writer may have meant the first.
    """
    if math.prod(own) == 1:
        return True
    if len(own) != len(got):
        raise MalformedError(
            (
                f"needs {what} of the shape {got} of its input, or one for all",
                f"they have the shape {own}",
                "write those of channels as (channels, 1, 1)",
            )
        )
    return all(one in (1, other) for one, other in zip(own, got, strict=True))
