"""
Understand a NIR graph: which discrete-time network is it?

NIR's neurons are differential equations and its files name no time step. With the forward Euler step
dt, as our exporter and most frameworks use it, a LIF node is

    u = (1 - dt/tau) v + (dt/tau) v_leak + (r dt/tau) I          decay, leak and gain of `ir.LIF`

and an IF node has decay 1 and gain r dt. Whatever a file leaves open (dt, the reset) is taken from
the options or refused; what was taken from where is kept in `Imported.inferred`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import NirFormatError, OptionError, Problem, UnsupportedError, raise_all
from neurocompile.frontend.read_nir import NirFile, read_nir
from neurocompile.ir import (
    LIF,
    Conv2d,
    Dense,
    Flatten,
    Input,
    Network,
    Node,
    Output,
    Pool2d,
    Reset,
    Shape,
)

PROFILES = ("auto", "ours", "literal")
RESETS: tuple[Reset, ...] = ("zero", "subtract")
MOST_STEPS = 1_000_000
LARGEST_INTEGER = 1 << 24  # of strides, paddings and shapes
DT_TOLERANCE = 1e-6  # of float32 files whose tau is dt
FIRST_VERSION_WITH_RESET_VOLTAGE = (1, 0, 6)  # before it, NIR's specification meant subtraction

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Conventions:
    """What the file does not say, and was decided: the step, the reset, and where both came from."""

    dt: float | None
    reset: Reset | None
    steps: int | None
    input_range: InputRange | None
    origin: Mapping[str, str]


@dataclass(frozen=True)
class Imported:
    """A network, and how the open questions of its file were decided."""

    network: Network
    inferred: Mapping[str, str]


def from_nir(
    source: Path | NirFile,
    *,
    profile: str = "auto",
    dt: float | None = None,
    reset: str | None = None,
) -> Imported:
    """
    Return the network that a NIR file means.

    Raises `NirFormatError` for files that contradict themselves, `UnsupportedError` for nodes and
    dialects that cannot be read yet, `OptionError` for impossible options; with all reasons at once.
    """
    if profile not in PROFILES:
        raise OptionError(
            Problem(
                "", f"there is no profile '{profile}'", remedy=f"choose from {', '.join(PROFILES)}"
            )
        )
    if reset is not None and reset not in RESETS:
        raise OptionError(
            Problem("", f"there is no reset '{reset}'", remedy="use zero or subtract")
        )
    if dt is not None and not (np.isfinite(dt) and dt > 0):
        raise OptionError(Problem("", "--dt must be a positive number of seconds", f"it is {dt}"))
    file = read_nir(source) if isinstance(source, Path) else source
    kind = file.root.get("type")
    if not isinstance(kind, str) or kind != "NIRGraph":
        raise NirFormatError(Problem("", "a NIR file must hold a NIRGraph", f"it holds {kind!r}"))
    raw_nodes = file.root.get("nodes")
    if not isinstance(raw_nodes, Mapping):
        raise NirFormatError("the NIR graph has no nodes")
    conventions = _conventions(file, profile, dt, reset)
    edges = _edges(file.root)
    nodes, problems = _read_nodes(raw_nodes, conventions)
    _raise_by_kind(problems)
    network = Network(nodes, edges, conventions.steps)
    return Imported(network, dict(conventions.origin))


def _edges(root: Fields) -> tuple[tuple[str, str], ...]:
    edges = root.get("edges")
    if not isinstance(edges, np.ndarray) or (
        edges.size and (edges.ndim != 2 or edges.shape[1] != 2)
    ):
        raise NirFormatError("the edges of a NIR graph must be pairs of node names")
    return tuple((str(source), str(target)) for source, target in edges)


def _conventions(file: NirFile, profile: str, dt: float | None, reset: Reset | None) -> Conventions:
    metadata = file.root.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    framework = metadata.get("framework")
    ours = isinstance(framework, str) and framework == "neurocompile"
    if profile == "ours" and not ours:
        raise OptionError(
            Problem(
                "", "--profile ours needs a file of neurocompile", "its metadata says otherwise"
            )
        )
    trusted = metadata if ours and profile != "literal" else {}
    origin: dict[str, str] = {"profile": "ours" if trusted else "literal, forward Euler"}

    def choose(name: str, option: Any, convert: Callable[[Any], Any]) -> Any:
        if option is not None:
            origin[name] = f"{option}, as asked for"
            return option
        if name in trusted:
            try:
                value = convert(trusted[name])
            except (TypeError, ValueError) as error:
                raise NirFormatError(
                    Problem("", f"metadata '{name}' is damaged", f"it is {trusted[name]!r}")
                ) from error
            origin[name] = f"{value}, from the file's metadata"
            return value
        return None

    chosen_dt = choose("dt", dt, _positive)
    chosen_reset = choose("reset", reset, _reset)
    steps = choose("steps", None, _whole)
    choose("scheme", None, lambda value: _only("euler", value))
    choose("fire", None, lambda value: _only(">", value))
    input_range = None
    if "input_minimum" in trusted:
        limits = [choose(f"input_{end}", None, float) for end in ("minimum", "maximum", "step")]
        if None in limits or not np.isfinite(limits).all() or limits[0] > limits[1]:
            raise NirFormatError(
                Problem("", "the metadata's input range is damaged", f"it is {limits}")
            )
        input_range = InputRange(*limits)
    else:
        origin["input"] = "spikes, 0 or 1, as the file names no range"
    version = _version(file.version)
    has_voltage = all(
        "v_reset" in fields
        for fields in file.root["nodes"].values()
        if isinstance(fields, Mapping) and str(fields.get("type")) in ("LIF", "IF")
    )
    if chosen_reset is None and has_voltage and version >= FIRST_VERSION_WITH_RESET_VOLTAGE:
        chosen_reset = "zero"
        origin["reset"] = f"to v_reset, which the file (NIR {file.version}) names"
    return Conventions(chosen_dt, chosen_reset, steps, input_range, origin)


def _positive(value: Any) -> float:
    number = float(value)
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{number} is not positive")
    return number


def _whole(value: Any) -> int:
    number = _positive(value)
    if number != int(number) or number > MOST_STEPS:
        raise ValueError(f"{number} is no number of steps")
    return int(number)


def _only(known: str, value: Any) -> str:
    if not isinstance(value, str) or value != known:
        raise ValueError(f"only '{known}' is known")
    return value


def _reset(value: Any) -> Reset:
    if not isinstance(value, str) or value not in RESETS:
        raise ValueError(f"{value} is no reset")
    return value


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def _raise_by_kind(
    problems: list[tuple[type[NirFormatError | UnsupportedError], Problem]],
) -> None:
    """Raise all problems in one error; a damaged file outweighs an unsupported one."""
    damaged = any(kind is NirFormatError for kind, _ in problems)
    raise_all(NirFormatError if damaged else UnsupportedError, [problem for _, problem in problems])


def _read_nodes(
    raw_nodes: Fields, conventions: Conventions
) -> tuple[dict[str, Node], list[tuple[type[NirFormatError | UnsupportedError], Problem]]]:
    nodes: dict[str, Node] = {}
    problems: list[tuple[type[NirFormatError | UnsupportedError], Problem]] = []
    for name, fields in raw_nodes.items():
        kind = fields.get("type") if isinstance(fields, Mapping) else None
        reader = READERS.get(kind) if isinstance(kind, str) else None
        if reader is None:
            problems.append(
                (
                    UnsupportedError,
                    Problem(
                        name,
                        f"is a '{kind}' node",
                        "that cannot be compiled",
                        "supported are " + ", ".join(READERS),
                    ),
                )
            )
            continue
        try:
            nodes[name] = reader(fields, conventions)
        except _UndecidedError as error:
            problems += [(UnsupportedError, Problem(name, *reason)) for reason in error.reasons]
        except _MalformedError as error:
            problems += [(NirFormatError, Problem(name, *reason)) for reason in error.reasons]
    return nodes, problems


class _MalformedError(Exception):
    """A node contradicts itself or NIR; `reasons` are (need, have, remedy) triples."""

    def __init__(self, *reasons: tuple[str, ...]) -> None:
        self.reasons = reasons


class _UndecidedError(_MalformedError):
    """A node has two meanings, and nothing says which."""


def _array(fields: Fields, name: str, ndim: int | None = None) -> NDArray[np.float64]:
    value = fields.get(name)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise _MalformedError((f"needs numbers in '{name}'", "there are none"))
    if ndim is not None and value.ndim != ndim:
        raise _MalformedError(
            (f"needs '{name}' with {ndim} axes", f"it has the shape {value.shape}")
        )
    if not np.isfinite(value).all():
        count = int((~np.isfinite(value)).sum())
        raise _MalformedError(
            (
                f"needs finite numbers in '{name}'",
                f"{count} of {value.size} are NaN or infinite",
                "train it again, or repair the file",
            )
        )
    return value.astype(np.float64)


def _pair(fields: Fields, name: str, least: int, default: int | None = None) -> tuple[int, int]:
    if name not in fields and default is not None:
        return (default, default)
    value = _array(fields, name).ravel()
    if value.size == 1:
        value = np.repeat(value, 2)
    whole = (value == np.rint(value)) & (value >= least) & (value <= LARGEST_INTEGER)
    if value.size != 2 or not whole.all():
        raise _MalformedError(
            (f"needs one or two integers from {least} in '{name}'", f"it is {fields[name]}")
        )
    return int(value[0]), int(value[1])


def _integer(fields: Fields, name: str, default: int) -> int:
    if name not in fields:
        return default
    value = _array(fields, name)
    if value.size != 1 or value.flat[0] != np.rint(value.flat[0]):
        raise _MalformedError((f"needs an integer in '{name}'", f"it is {fields[name]}"))
    return int(value.flat[0])


def _shape(fields: Fields, name: str) -> Shape:
    value = np.atleast_1d(_array(fields, name))
    whole = (value == np.rint(value)) & (value >= 1) & (value <= LARGEST_INTEGER)
    if not whole.all() or value.ndim != 1:
        raise _MalformedError((f"needs a shape in '{name}'", f"it is {fields[name]}"))
    return tuple(int(extent) for extent in value)


def _input(fields: Fields, conventions: Conventions) -> Input:
    return Input(_shape(fields, "shape"), conventions.input_range)


def _output(fields: Fields, _conventions: Conventions) -> Output:
    return Output(_shape(fields, "shape"))


def _affine(fields: Fields, _conventions: Conventions) -> Dense:
    weight = _array(fields, "weight", 2)
    bias = _array(fields, "bias") if "bias" in fields else np.zeros(len(weight))
    if bias.shape != weight.shape[:1]:
        raise _MalformedError((f"needs a bias of shape {weight.shape[:1]}", f"it has {bias.shape}"))
    return Dense(weight, bias)


def _conv2d(fields: Fields, _conventions: Conventions) -> Conv2d:
    weight = _array(fields, "weight", 4)
    bias = _array(fields, "bias") if "bias" in fields else np.zeros(len(weight))
    groups = _integer(fields, "groups", 1)
    dilation = _pair(fields, "dilation", 1, default=1)
    stride = _pair(fields, "stride", 1, default=1)
    if bias.shape != weight.shape[:1]:
        raise _MalformedError((f"needs a bias of shape {weight.shape[:1]}", f"it has {bias.shape}"))
    if groups < 1 or weight.shape[0] % groups:
        raise _MalformedError(
            (f"needs groups that divide {weight.shape[0]} channels", f"there are {groups}")
        )
    padding = fields.get("padding", 0)
    if isinstance(padding, str) and padding == "valid":
        pads = (0, 0)
    elif isinstance(padding, str):
        extents = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if padding != "same" or stride != (1, 1) or any(extent % 2 for extent in extents):
            raise _MalformedError(
                (
                    "needs a padding that is the same on both sides",
                    f"it is '{padding}'",
                    "write it as numbers",
                )
            )
        pads = (extents[0] // 2, extents[1] // 2)
    else:
        pads = _pair(fields, "padding", 0, default=0)
    return Conv2d(weight, bias, stride, pads, dilation, groups)


def _pool(fields: Fields, *, average: bool) -> Pool2d:
    kernel = _pair(fields, "kernel_size", 1)
    scale = 1 / (kernel[0] * kernel[1]) if average else 1.0
    return Pool2d(kernel, _pair(fields, "stride", 1), _pair(fields, "padding", 0, default=0), scale)


def _flatten(fields: Fields, _conventions: Conventions) -> Flatten:
    start = _integer(fields, "start_dim", 1)
    end = _integer(fields, "end_dim", -1)
    axes = len(_shape(fields, "input_type")) if "input_type" in fields else None
    if start != 0 or (end != -1 and (axes is None or end != axes - 1)):
        raise _MalformedError(
            (
                "must flatten all axes (NIR counts them without batch)",
                f"start_dim is {start}, end_dim {end}",
            )
        )
    return Flatten()


def _lif(fields: Fields, conventions: Conventions) -> LIF:
    dt = _needs_dt(conventions)
    tau = _array(fields, "tau")
    if (tau <= 0).any():
        raise _MalformedError(("needs time constants above 0", f"the smallest is {tau.min():g}"))
    fraction = dt / tau
    if (fraction > 1 + DT_TOLERANCE).any():
        raise _MalformedError(
            (
                f"needs a time step of at most its time constant, {tau.min():g} s",
                f"dt is {dt:g} s",
                "give the dt that the network was trained with: --dt",
            )
        )
    r, leak = _array(fields, "r"), _array(fields, "v_leak")
    fraction, r, leak = _broadcast(np.minimum(fraction, 1), r, leak)
    return _neuron(fields, conventions, decay=1 - fraction, gain=r * fraction, leak=leak)


def _if(fields: Fields, conventions: Conventions) -> LIF:
    r = _array(fields, "r")
    return _neuron(
        fields,
        conventions,
        decay=np.ones_like(r),
        gain=r * _needs_dt(conventions),
        leak=np.zeros_like(r),
    )


def _neuron(
    fields: Fields,
    conventions: Conventions,
    *,
    decay: NDArray[np.float64],
    gain: NDArray[np.float64],
    leak: NDArray[np.float64],
) -> LIF:
    threshold = _array(fields, "v_threshold")
    if conventions.reset is None:
        raise _UndecidedError(
            (
                "can reset to zero or subtract its threshold",
                "the file does not say which",
                "choose with --reset zero or --reset subtract",
            )
        )
    reset_to = _array(fields, "v_reset") if "v_reset" in fields else np.zeros_like(threshold)
    if conventions.reset == "subtract":
        reset_to = np.zeros_like(threshold)
    arrays = _broadcast(decay, gain, leak, threshold, reset_to)
    names = ("decay", "gain", "leak", "threshold", "reset_to")
    return LIF(**dict(zip(names, arrays, strict=True)), reset=conventions.reset)


def _broadcast(*arrays: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    try:
        return tuple(np.broadcast_arrays(*arrays))
    except ValueError:
        shapes = sorted({array.shape for array in arrays})
        raise _MalformedError(("needs parameters of one shape", f"they have {shapes}")) from None


def _needs_dt(conventions: Conventions) -> float:
    if conventions.dt is None:
        raise _UndecidedError(
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
    "Linear": _affine,
    "Conv2d": _conv2d,
    "AvgPool2d": lambda fields, _conventions: _pool(fields, average=True),
    "SumPool2d": lambda fields, _conventions: _pool(fields, average=False),
    "Flatten": _flatten,
    "LIF": _lif,
    "IF": _if,
}
