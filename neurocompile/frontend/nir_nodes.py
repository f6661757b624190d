"""What each NIR primitive means in discrete time, but for its neurons with a membrane (`nir_neurons`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import NirFormatError, Problem, UnsupportedError
from neurocompile.integer import Shape
from neurocompile.ir import (
    Conv2d,
    Delay,
    Dense,
    Flatten,
    Input,
    Node,
    Output,
    Pool2d,
    Scale,
    Threshold,
)

LARGEST_INTEGER = 1 << 24  # of strides, paddings and shapes
LONGEST_DELAY = 1_000_000  # steps
DELAY_TOLERANCE = 1e-3  # steps; delays are often float32 seconds
NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")  # which `nir_neurons` reads

Fields = Mapping[str, Any]
Reason = tuple[str, ...]  # need, have, remedy
Found = tuple[type[NirFormatError | UnsupportedError], Problem]


@dataclass(frozen=True)
class Surroundings:
    """What the nodes of a file do not say themselves: the step in seconds, and the inputs' range."""

    dt: float | None
    input_range: InputRange | None


class MalformedError(Exception):
    """A node contradicts itself or NIR; `reasons` are (need, have, remedy) triples."""

    def __init__(self, *reasons: Reason) -> None:
        self.reasons = reasons


class UndecidedError(MalformedError):
    """A node has two meanings, and nothing says which."""


def read_nodes(raw: Mapping[str, Any], around: Surroundings) -> tuple[dict[str, Node], list[Found]]:
    """Return the nodes without a membrane that could be read, and what is wrong with the others."""
    nodes: dict[str, Node] = {}
    problems: list[Found] = []
    for name, fields in raw.items():
        kind = kind_of(fields)
        if kind in NEURONS:
            continue
        reader = READERS.get(kind)
        if reader is None:
            supported = "supported are " + ", ".join((*READERS, *NEURONS, "NIRGraph"))
            problem = Problem(name, f"is a '{kind}' node", "that cannot be compiled", supported)
            problems.append((UnsupportedError, problem))
            continue
        try:
            nodes[name] = reader(fields, around)
        except MalformedError as error:
            problems += found(name, error)
    return nodes, problems


def found(name: str, error: MalformedError) -> list[Found]:
    """Return the problems that `error` reports of the node `name`."""
    kind = UnsupportedError if isinstance(error, UndecidedError) else NirFormatError
    return [(kind, Problem(name, *reason)) for reason in error.reasons]


def kind_of(fields: Any) -> str:
    """Return the type that a node's fields name, or 'None'."""
    kind = fields.get("type") if isinstance(fields, Mapping) else None
    return kind if isinstance(kind, str) else str(None)


def array_of(
    fields: Fields, name: str, ndim: int | None = None, *, finite: bool = True
) -> NDArray[np.float64]:
    """
    Return the numbers in a field of a node, in float64, read-only.

    Raises `MalformedError` where there are none, another number of axes than `ndim`, or numbers that
    are not `finite` (without it NaN alone is refused).
    """
    value = fields.get(name)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise MalformedError((f"needs numbers in '{name}'", "there are none"))
    if ndim is not None and value.ndim != ndim:
        raise MalformedError(
            (f"needs '{name}' with {ndim} axes", f"it has the shape {value.shape}")
        )
    if np.isnan(value).any() or (finite and not np.isfinite(value).all()):
        raise MalformedError(not_finite(name, value))
    numbers = value.astype(np.float64, order="C")
    numbers.flags.writeable = False  # so that the node that it becomes need not copy it
    return numbers


def not_finite(name: str, value: NDArray[Any]) -> Reason:
    """Return why a field with NaN or infinity cannot be read."""
    return (
        f"needs finite numbers in '{name}'",
        f"{int((~np.isfinite(value)).sum())} of {value.size} are NaN or infinite",
        "train it again, or repair the file",
    )


def _sizes(
    fields: Fields, name: str, axes: int, least: int, default: int | None = None
) -> tuple[int, ...]:
    """Return `axes` integers, of which the file may give one for all."""
    if name not in fields and default is not None:
        return (default,) * axes
    value = array_of(fields, name).ravel()
    if value.size == 1:
        value = np.repeat(value, axes)
    whole = (value == np.rint(value)) & (value >= least) & (value <= LARGEST_INTEGER)
    if value.size != axes or not whole.all():
        count = "one or two integers" if axes == 2 else "an integer"
        raise MalformedError((f"needs {count} from {least} in '{name}'", f"it is {fields[name]}"))
    return tuple(int(size) for size in value)


def _pair(fields: Fields, name: str, least: int, default: int | None = None) -> tuple[int, int]:
    first, second = _sizes(fields, name, 2, least, default)
    return first, second


def _integer(fields: Fields, name: str, default: int) -> int:
    if name not in fields:
        return default
    value = array_of(fields, name)
    if value.size != 1 or value.flat[0] != np.rint(value.flat[0]):
        raise MalformedError((f"needs an integer in '{name}'", f"it is {fields[name]}"))
    return int(value.flat[0])


def shape_of(fields: Fields, name: str = "shape") -> Shape:
    """Return the shape in a field of a node."""
    value = np.atleast_1d(array_of(fields, name))
    whole = (value == np.rint(value)) & (value >= 1) & (value <= LARGEST_INTEGER)
    if not whole.all() or value.ndim != 1:
        raise MalformedError((f"needs a shape in '{name}'", f"it is {fields[name]}"))
    return tuple(int(extent) for extent in value)


def _input(fields: Fields, around: Surroundings) -> Input:
    return Input(shape_of(fields), around.input_range)


def _output(fields: Fields, _around: Surroundings) -> Output:
    return Output(shape_of(fields))


def _bias(fields: Fields, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    bias = array_of(fields, "bias") if "bias" in fields else np.zeros(len(weight))
    if bias.shape != weight.shape[:1]:
        raise MalformedError((f"needs a bias of shape {weight.shape[:1]}", f"it has {bias.shape}"))
    return bias


def _affine(fields: Fields, _around: Surroundings) -> Dense:
    weight = _matrix(fields)
    return Dense(weight, _bias(fields, weight))


def _linear(fields: Fields, _around: Surroundings) -> Dense:
    weight = _matrix(fields)
    return Dense(weight, np.zeros(len(weight)))


def _matrix(fields: Fields) -> NDArray[np.float64]:
    """
    Return the weight (outputs, inputs) of a linear map.

    nir allows axes before these two and says that inputs are vectors. Readers disagree on what it means
    (one map for each index, or PyTorch's error), so such weights are refused.
    """
    weight = array_of(fields, "weight")
    if weight.ndim != 2:
        raise MalformedError(
            (
                "needs a weight (outputs, inputs)",
                f"it has the shape {weight.shape}",
                "write one node for each matrix",
            )
        )
    return weight


def _scale(fields: Fields, _around: Surroundings) -> Scale:
    return Scale(array_of(fields, "scale"))


def _conv1d(fields: Fields, _around: Surroundings) -> Conv2d:
    weight = array_of(fields, "weight", 3)
    (stride,), (padding,), (dilation,) = _sliding(fields, weight)
    return Conv2d(
        weight[:, :, np.newaxis],
        _bias(fields, weight),
        (1, stride),
        (0, padding),
        (1, dilation),
        _groups(fields, weight),
    )


def _conv2d(fields: Fields, _around: Surroundings) -> Conv2d:
    weight = array_of(fields, "weight", 4)
    stride, padding, dilation = ((down, right) for down, right in _sliding(fields, weight))
    return Conv2d(weight, _bias(fields, weight), stride, padding, dilation, _groups(fields, weight))


def _groups(fields: Fields, weight: NDArray[np.float64]) -> int:
    groups = _integer(fields, "groups", 1)
    if groups < 1 or weight.shape[0] % groups:
        raise MalformedError(
            (f"needs groups that divide {weight.shape[0]} channels", f"there are {groups}")
        )
    return groups


def _sliding(fields: Fields, weight: NDArray[np.float64]) -> tuple[tuple[int, ...], ...]:
    """Return stride, padding and dilation of a convolution, one number for each axis it slides on."""
    axes = weight.ndim - 2
    dilation = _sizes(fields, "dilation", axes, 1, default=1)
    stride = _sizes(fields, "stride", axes, 1, default=1)
    padding = fields.get("padding", 0)
    if not isinstance(padding, str):
        return stride, _sizes(fields, "padding", axes, 0, default=0), dilation
    if padding == "valid":
        return stride, (0,) * axes, dilation
    extents = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if padding != "same" or set(stride) != {1} or any(extent % 2 for extent in extents):
        raise MalformedError(
            (
                "needs a padding that is the same on both sides",
                f"it is '{padding}'",
                "write it as numbers",
            )
        )
    return stride, tuple(extent // 2 for extent in extents), dilation


def _pool(fields: Fields, *, average: bool) -> Pool2d:
    kernel = _pair(fields, "kernel_size", 1)
    scale = 1 / (kernel[0] * kernel[1]) if average else 1.0
    return Pool2d(kernel, _pair(fields, "stride", 1), _pair(fields, "padding", 0, default=0), scale)


def _flatten(fields: Fields, _around: Surroundings) -> Flatten:
    """
    Return which axes are joined.

    NIR counts them without batch, as we do, although its default for the first one is 1. Its
    `input_type` is not needed, and what writers leave there is often no shape.
    """
    return Flatten(_integer(fields, "start_dim", 1), _integer(fields, "end_dim", -1))


def _threshold(fields: Fields, _around: Surroundings) -> Threshold:
    return Threshold(array_of(fields, "threshold"))


def _delay(fields: Fields, around: Surroundings) -> Delay:
    dt = needed_dt(around.dt)
    delay = array_of(fields, "delay")
    if delay.size == 1:  # for all
        delay = delay.reshape(())
    if (delay < 0).any():
        raise MalformedError(("needs delays from 0 on", f"one is {delay.min():g} s"))
    steps = delay / dt
    whole = np.rint(steps)
    wrong = np.abs(steps - whole) > DELAY_TOLERANCE
    if wrong.any():
        raise MalformedError(
            (
                "needs delays of whole time steps",
                f"{delay[wrong][0]:g} s is {steps[wrong][0]:g} steps of {dt:g} s",
                "give the dt that the network was trained with: --dt",
            )
        )
    if (whole > LONGEST_DELAY).any():
        raise MalformedError(
            (f"needs delays of at most {LONGEST_DELAY} steps", f"one is {whole.max():g}")
        )
    return Delay(whole.astype(np.int64))


def needed_dt(dt: float | None) -> float:
    """Return the time step, or raise `UndecidedError` where nothing says it."""
    if dt is None:
        raise UndecidedError(
            (
                "needs the time step that it was trained with",
                "NIR files name none",
                "give it with --dt",
            )
        )
    return dt


READERS: Mapping[str, Callable[[Fields, Surroundings], Node]] = {
    "Input": _input,
    "Output": _output,
    "Affine": _affine,
    "Linear": _linear,
    "Scale": _scale,
    "Conv1d": _conv1d,
    "Conv2d": _conv2d,
    "AvgPool2d": lambda fields, _around: _pool(fields, average=True),
    "SumPool2d": lambda fields, _around: _pool(fields, average=False),
    "Flatten": _flatten,
    "Delay": _delay,
    "Threshold": _threshold,
}
