"""
Understand a NIR graph: which discrete-time network is it?

NIR's neurons are differential equations and its files name no time step. They are read literally,
with the forward Euler step dt, as our exporter and most frameworks mean them (`nir_nodes`). Whatever
a file leaves open (dt, the reset, which edges of a cycle are late) is taken from the options, decided
by a rule or refused; what was taken from where is kept in `Imported.inferred`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurocompile.data import InputRange
from neurocompile.errors import NirFormatError, OptionError, Problem, UnsupportedError, raise_all
from neurocompile.frontend.find_feedback import find_feedback
from neurocompile.frontend.flatten_graph import FlatGraph, flatten_graph
from neurocompile.frontend.import_options import ImportOptions
from neurocompile.frontend.nir_nodes import (
    NEURONS_WITH_RESET,
    Conventions,
    Found,
    MalformedError,
    kind_of,
    read_nodes,
    shape_of,
)
from neurocompile.frontend.read_nir import NirFile, read_nir
from neurocompile.integer import Reset, Shape
from neurocompile.ir import Network

RESETS: tuple[Reset, ...] = ("zero", "subtract")
MOST_STEPS = 1_000_000
FIRST_VERSION_WITH_RESET_VOLTAGE = (1, 0, 6)  # before it, NIR's specification meant subtraction


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
    reset_at: str | None = None,
    fires: str | None = None,
    max_spikes: int | str | None = None,
    min_membrane: float | str | None = None,
    input_gain: str | None = None,
    synapse: str | None = None,
) -> Imported:
    """
    Return the network that a NIR file means; `ImportOptions` says what the options do.

    Raises `NirFormatError` for files that contradict themselves, `UnsupportedError` for nodes and
    dialects that cannot be read yet, `OptionError` for impossible options; with all reasons at once.
    """
    ImportOptions(
        profile, dt, reset, reset_at, fires, max_spikes, min_membrane, input_gain, synapse
    )
    file = read_nir(source) if isinstance(source, Path) else source
    kind = file.root.get("type")
    if not isinstance(kind, str) or kind != "NIRGraph":
        raise NirFormatError(Problem("", "a NIR file must hold a NIRGraph", f"it holds {kind!r}"))
    raw_nodes = file.root.get("nodes")
    if not isinstance(raw_nodes, Mapping):
        raise NirFormatError("the NIR graph has no nodes")
    flat, structure = flatten_graph(file.root)
    conventions = _conventions(file, flat, profile, dt, reset)
    nodes, problems = read_nodes(flat.nodes, conventions)
    ports, of_ports = _port_shapes(flat)
    _raise_by_kind([*((NirFormatError, problem) for problem in structure), *problems, *of_ports])
    feedback, cycles = find_feedback(nodes, flat.edges)
    raise_all(NirFormatError, cycles)
    network = Network(nodes, flat.edges, conventions.steps, frozenset(feedback))
    raise_all(NirFormatError, _problems_of_shapes(network, flat, ports))
    inferred = dict(conventions.origin)
    if feedback:
        late = "; ".join(f"{source} -> {target}" for source, target in feedback)
        inferred["feedback"] = f"{late}, one step later"
    return Imported(network, inferred)


def _port_shapes(flat: FlatGraph) -> tuple[dict[str, Shape], list[Found]]:
    """Return the shapes that spliced ports declare, and what is wrong with the others."""
    shapes: dict[str, Shape] = {}
    problems: list[Found] = []
    for name, fields in flat.ports.items():
        try:
            shapes[name] = shape_of(fields)
        except MalformedError as error:
            problems += [(NirFormatError, Problem(name, *reason)) for reason in error.reasons]
    return shapes, problems


def _problems_of_shapes(
    network: Network, flat: FlatGraph, ports: Mapping[str, Shape]
) -> Iterable[Problem]:
    """Yield where the file's nodes say more about shapes than the network that they became."""
    for name, shape in ports.items():
        for got in sorted({network.shapes[source] for source in flat.fed_by[name]} - {shape}):
            yield Problem(name, f"has the shape {shape}", f"gets {got}")
    for name, fields in flat.nodes.items():
        if kind_of(fields) == "Conv1d":
            got = network.shapes[network.sources(name)[0]]
            if len(got) != 2:
                yield Problem(name, "needs an input (channels, length)", f"gets {got}")


def _conventions(
    file: NirFile, flat: FlatGraph, profile: str, dt: float | None, reset: Reset | None
) -> Conventions:
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
    voltages = [
        "v_reset" in fields
        for fields in flat.nodes.values()
        if kind_of(fields) in NEURONS_WITH_RESET
    ]
    has_voltage = bool(voltages) and all(voltages)
    if chosen_reset is None and has_voltage and version >= FIRST_VERSION_WITH_RESET_VOLTAGE:
        chosen_reset = "zero"
        origin["reset"] = f"to v_reset, which the file (NIR {file.version}) names"
    unused = [name for name, fields in flat.nodes.items() if _has_reset_voltage(fields)]
    if unused and chosen_reset == "subtract":
        origin["v_reset"] = f"not used, as {', '.join(unused)} subtract their thresholds"
    return Conventions(chosen_dt, chosen_reset, steps, input_range, origin)


def _has_reset_voltage(fields: Any) -> bool:
    voltage = fields.get("v_reset") if isinstance(fields, Mapping) else None
    return isinstance(voltage, np.ndarray) and voltage.dtype.kind in "biuf" and bool(voltage.any())


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


def _raise_by_kind(problems: list[Found]) -> None:
    """Raise all problems in one error; a damaged file outweighs an unsupported one."""
    damaged = any(kind is NirFormatError for kind, _ in problems)
    raise_all(NirFormatError if damaged else UnsupportedError, [problem for _, problem in problems])
