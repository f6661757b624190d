"""
What each NIR primitive means in discrete time, with the forward Euler step dt.

NIR's neurons are differential equations. With I the sum of what arrives at a step, S likewise where
NIR calls it spikes:

    I         v += r dt I
    IF        the same, with a threshold and a reset
    LI, LIF   u = (1 - dt/tau) v + (dt/tau) (v_leak + r I)
    CubaLI,   i = (1 - dt/tau_syn) i + (dt/tau_syn) w_in S
    CubaLIF   u = (1 - dt/tau_mem) v + (dt/tau_mem) (v_leak + r i)        with the i of this step

`ir.LIF` and `ir.Integrator` sum plain inputs in their current. The factor of S is one number per
neuron, so it commutes with the decay and moves into the gain:

    current_decay = 1 - dt/tau_syn        gain = (dt/tau_mem) r (dt/tau_syn) w_in
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import NirFormatError, Problem, UnsupportedError
from neurocompile.integer import Reset, Shape
from neurocompile.ir import (
    LIF,
    Conv2d,
    Delay,
    Dense,
    Flatten,
    Input,
    Integrator,
    Node,
    Output,
    Pool2d,
    Scale,
    Threshold,
)

LARGEST_INTEGER = 1 << 24  # of strides, paddings and shapes
LONGEST_DELAY = 1_000_000  # steps
DT_TOLERANCE = 1e-6  # of float32 files whose tau is dt
DELAY_TOLERANCE = 1e-3  # steps; delays are often float32 seconds
NEURONS_WITH_RESET = ("IF", "LIF", "CubaLIF")

Fields = Mapping[str, Any]
Found = tuple[type[NirFormatError | UnsupportedError], Problem]


@dataclass(frozen=True)
class Conventions:
    """What the file does not say, and was decided: the step, the reset, and where both came from."""

    dt: float | None
    reset: Reset | None
    steps: int | None
    input_range: InputRange | None
    origin: Mapping[str, str]


class MalformedError(Exception):
    """A node contradicts itself or NIR; `reasons` are (need, have, remedy) triples."""

    def __init__(self, *reasons: tuple[str, ...]) -> None:
        self.reasons = reasons


class UndecidedError(MalformedError):
    """A node has two meanings, and nothing says which."""


def read_nodes(
    raw: Mapping[str, Any], conventions: Conventions
) -> tuple[dict[str, Node], list[Found]]:
    """Return the nodes that could be read, and what is wrong with the others."""
    nodes: dict[str, Node] = {}
    problems: list[Found] = []
    for name, fields in raw.items():
        kind = kind_of(fields)
        reader = READERS.get(kind)
        if reader is None:
            supported = "supported are " + ", ".join((*READERS, "NIRGraph"))
            problem = Problem(name, f"is a '{kind}' node", "that cannot be compiled", supported)
            problems.append((UnsupportedError, problem))
            continue
        try:
            nodes[name] = reader(fields, conventions)
        except UndecidedError as error:
            problems += [(UnsupportedError, Problem(name, *reason)) for reason in error.reasons]
        except MalformedError as error:
            problems += [(NirFormatError, Problem(name, *reason)) for reason in error.reasons]
    return nodes, problems


def kind_of(fields: Any) -> str:
    """Return the type that a node's fields name, or 'None'."""
    kind = fields.get("type") if isinstance(fields, Mapping) else None
    return kind if isinstance(kind, str) else str(None)


def _array(fields: Fields, name: str, ndim: int | None = None) -> NDArray[np.float64]:
    value = fields.get(name)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise MalformedError((f"needs numbers in '{name}'", "there are none"))
    if ndim is not None and value.ndim != ndim:
        raise MalformedError(
            (f"needs '{name}' with {ndim} axes", f"it has the shape {value.shape}")
        )
    if not np.isfinite(value).all():
        count = int((~np.isfinite(value)).sum())
        raise MalformedError(
            (
                f"needs finite numbers in '{name}'",
                f"{count} of {value.size} are NaN or infinite",
                "train it again, or repair the file",
            )
        )
    return value.astype(np.float64)


def _sizes(
    fields: Fields, name: str, axes: int, least: int, default: int | None = None
) -> tuple[int, ...]:
    """Return `axes` integers, of which the file may give one for all."""
    if name not in fields and default is not None:
        return (default,) * axes
    value = _array(fields, name).ravel()
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
    value = _array(fields, name)
    if value.size != 1 or value.flat[0] != np.rint(value.flat[0]):
        raise MalformedError((f"needs an integer in '{name}'", f"it is {fields[name]}"))
    return int(value.flat[0])


def shape_of(fields: Fields, name: str = "shape") -> Shape:
    """Return the shape in a field of a node."""
    value = np.atleast_1d(_array(fields, name))
    whole = (value == np.rint(value)) & (value >= 1) & (value <= LARGEST_INTEGER)
    if not whole.all() or value.ndim != 1:
        raise MalformedError((f"needs a shape in '{name}'", f"it is {fields[name]}"))
    return tuple(int(extent) for extent in value)


def _input(fields: Fields, conventions: Conventions) -> Input:
    return Input(shape_of(fields), conventions.input_range)


def _output(fields: Fields, _conventions: Conventions) -> Output:
    return Output(shape_of(fields))


def _bias(fields: Fields, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    bias = _array(fields, "bias") if "bias" in fields else np.zeros(len(weight))
    if bias.shape != weight.shape[:1]:
        raise MalformedError((f"needs a bias of shape {weight.shape[:1]}", f"it has {bias.shape}"))
    return bias


def _affine(fields: Fields, _conventions: Conventions) -> Dense:
    weight = _array(fields, "weight", 2)
    return Dense(weight, _bias(fields, weight))


def _linear(fields: Fields, _conventions: Conventions) -> Dense:
    weight = _array(fields, "weight", 2)
    return Dense(weight, np.zeros(len(weight)))


def _scale(fields: Fields, _conventions: Conventions) -> Scale:
    return Scale(_array(fields, "scale"))


def _conv1d(fields: Fields, _conventions: Conventions) -> Conv2d:
    weight = _array(fields, "weight", 3)
    (stride,), (padding,), (dilation,) = _sliding(fields, weight)
    return Conv2d(
        weight[:, :, np.newaxis],
        _bias(fields, weight),
        (1, stride),
        (0, padding),
        (1, dilation),
        _groups(fields, weight),
    )


def _conv2d(fields: Fields, _conventions: Conventions) -> Conv2d:
    weight = _array(fields, "weight", 4)
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


def _flatten(fields: Fields, _conventions: Conventions) -> Flatten:
    """NIR counts the axes without batch, as we do, although its default for the first one is 1."""
    if "input_type" in fields:
        shape_of(fields, "input_type")
    return Flatten(_integer(fields, "start_dim", 1), _integer(fields, "end_dim", -1))


def _threshold(fields: Fields, _conventions: Conventions) -> Threshold:
    return Threshold(_array(fields, "threshold"))


def _delay(fields: Fields, conventions: Conventions) -> Delay:
    dt = _needs_dt(conventions)
    delay = _array(fields, "delay")
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


def _if(fields: Fields, conventions: Conventions) -> LIF:
    decay, gain, leak = _integrating(fields, conventions)
    return _neuron(fields, conventions, decay=decay, gain=gain, leak=leak)


def _lif(fields: Fields, conventions: Conventions) -> LIF:
    decay, gain, leak = _leaking(fields, conventions, "tau")
    return _neuron(fields, conventions, decay=decay, gain=gain, leak=leak)


def _cuba_lif(fields: Fields, conventions: Conventions) -> LIF:
    decay, gain, leak = _leaking(fields, conventions, "tau_mem")
    current_decay, weight = _synapse(fields, conventions)
    gain, weight = _broadcast(gain, weight)
    return _neuron(
        fields,
        conventions,
        decay=decay,
        gain=gain * weight,
        leak=leak,
        current_decay=current_decay,
    )


def _i(fields: Fields, conventions: Conventions) -> Integrator:
    return Integrator(*_integrating(fields, conventions))


def _li(fields: Fields, conventions: Conventions) -> Integrator:
    return Integrator(*_leaking(fields, conventions, "tau"))


def _cuba_li(fields: Fields, conventions: Conventions) -> Integrator:
    decay, gain, leak = _leaking(fields, conventions, "tau_mem")
    current_decay, weight = _synapse(fields, conventions)
    return Integrator(*_broadcast(decay, gain * weight, leak, current_decay))


def _integrating(
    fields: Fields, conventions: Conventions
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return decay, gain and leak voltage of I and IF."""
    r = _array(fields, "r")
    return np.ones_like(r), r * _needs_dt(conventions), np.zeros_like(r)


def _leaking(
    fields: Fields, conventions: Conventions, tau: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return decay, gain and leak voltage of a membrane with the time constant in field `tau`."""
    fraction = _fraction(fields, conventions, tau)
    r, leak = _array(fields, "r"), _array(fields, "v_leak")
    fraction, r, leak = _broadcast(fraction, r, leak)
    return 1 - fraction, r * fraction, leak


def _synapse(
    fields: Fields, conventions: Conventions
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the decay of a synaptic current, and the factor of what arrives."""
    fraction = _fraction(fields, conventions, "tau_syn")
    weight = _array(fields, "w_in") if "w_in" in fields else np.ones_like(fraction)
    fraction, weight = _broadcast(fraction, weight)
    return 1 - fraction, fraction * weight


def _fraction(fields: Fields, conventions: Conventions, name: str) -> NDArray[np.float64]:
    """Return dt / tau for the time constants in a field; forward Euler needs it in (0, 1]."""
    dt = _needs_dt(conventions)
    tau = _array(fields, name)
    if (tau <= 0).any():
        raise MalformedError(
            ("needs time constants above 0", f"the smallest in '{name}' is {tau.min():g}")
        )
    fraction = dt / tau
    if (fraction > 1 + DT_TOLERANCE).any():
        raise MalformedError(
            (
                f"needs a time step of at most its time constant, {tau.min():g} s",
                f"dt is {dt:g} s",
                "give the dt that the network was trained with: --dt",
            )
        )
    return np.minimum(fraction, 1)


def _neuron(
    fields: Fields,
    conventions: Conventions,
    *,
    decay: NDArray[np.float64],
    gain: NDArray[np.float64],
    leak: NDArray[np.float64],
    current_decay: NDArray[np.float64] | None = None,
) -> LIF:
    threshold = _array(fields, "v_threshold")
    if conventions.reset is None:
        raise UndecidedError(
            (
                "can reset to zero or subtract its threshold",
                "the file does not say which",
                "choose with --reset zero or --reset subtract",
            )
        )
    reset_to = _array(fields, "v_reset") if "v_reset" in fields else np.zeros_like(threshold)
    if conventions.reset == "subtract":
        reset_to = np.zeros_like(threshold)
    parameters = [decay, gain, leak, threshold, reset_to]
    if current_decay is not None:
        parameters.append(current_decay)
    decay, gain, leak, threshold, reset_to, *rest = _broadcast(*parameters)
    return LIF(
        decay,
        gain,
        leak,
        threshold,
        reset_to,
        conventions.reset,
        current_decay=rest[0] if rest else None,
    )


def _broadcast(*arrays: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    try:
        return tuple(np.broadcast_arrays(*arrays))
    except ValueError:
        shapes = sorted({array.shape for array in arrays})
        raise MalformedError(("needs parameters of one shape", f"they have {shapes}")) from None


def _needs_dt(conventions: Conventions) -> float:
    if conventions.dt is None:
        raise UndecidedError(
            (
                "needs the time step that it was trained with",
                "NIR files name none",
                "give it with --dt",
            )
        )
    return conventions.dt


READERS: Mapping[str, Callable[[Fields, Conventions], Node]] = {
    "Input": _input,
    "Output": _output,
    "Affine": _affine,
    "Linear": _linear,
    "Scale": _scale,
    "Conv1d": _conv1d,
    "Conv2d": _conv2d,
    "AvgPool2d": lambda fields, _conventions: _pool(fields, average=True),
    "SumPool2d": lambda fields, _conventions: _pool(fields, average=False),
    "Flatten": _flatten,
    "Delay": _delay,
    "Threshold": _threshold,
    "I": _i,
    "IF": _if,
    "LI": _li,
    "LIF": _lif,
    "CubaLI": _cuba_li,
    "CubaLIF": _cuba_lif,
}
