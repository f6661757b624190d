"""
Understand a NIR graph: which discrete-time network is it?

NIR's neurons are differential equations and its files name no time step, and no framework runs them
quite as written. A profile names the framework whose recurrence a file means (`dialects`); without one,
files of ours say it themselves, and all others are refused. Whatever a file leaves open (profile, dt,
the reset, which edges of a cycle are late) is taken from the options, decided by a rule or refused;
what was taken from where is kept in `Imported.inferred`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from neurocompile.data import InputRange
from neurocompile.decision import checked_weights
from neurocompile.errors import NirFormatError, OptionError, Problem, UnsupportedError, raise_all
from neurocompile.frontend.dialects.frameworks import DIALECTS, candidates
from neurocompile.frontend.dialects.readings import Context, Reading
from neurocompile.frontend.dialects.surroundings import Graph, fire_without_reset, splice, untangle
from neurocompile.frontend.exact_nir import exact_network
from neurocompile.frontend.find_feedback import find_feedback
from neurocompile.frontend.flatten_graph import FlatGraph, flatten_graph
from neurocompile.frontend.import_options import ImportOptions
from neurocompile.frontend.nir_neurons import NirNeurons, fit_shapes, read_neurons
from neurocompile.frontend.nir_nodes import (
    Found,
    MalformedError,
    Surroundings,
    found,
    kind_of,
    read_nodes,
    shape_of,
)
from neurocompile.frontend.read_nir import NirFile, read_nir
from neurocompile.frontend.value_bounds import ValueBounds
from neurocompile.integer import Shape
from neurocompile.ir import LIF, Conv2d, Dense, Input, Network, Node, Output, Pool2d, Scale

RESETS = ("zero", "subtract")
MOST_STEPS = 1_000_000
FIRST_VERSION_WITH_RESET_VOLTAGE = (1, 0, 6)  # before it, NIR's specification meant subtraction
LAVA_DL_UNIT = 1 / 64
DECAY_STEPS = 4096  # of lava-dl, in one


@dataclass(frozen=True)
class Imported:
    """
    A network, and how the open questions of its file were decided.

    `time_weights` are those of the decision, one for each step; None where all steps count alike.
    """

    network: Network
    inferred: Mapping[str, str]
    time_weights: tuple[float, ...] | None = None


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

    Raises `NirFormatError` for files that contradict themselves, `UnsupportedError` for nodes that cannot
    be read and for what neither the file nor an option decides, `OptionError` for impossible options; with
    all reasons at once.
    """
    options = ImportOptions(
        profile, dt, reset, reset_at, fires, max_spikes, min_membrane, input_gain, synapse
    )
    file = read_nir(source) if isinstance(source, Path) else source
    kind = file.root.get("type")
    if not isinstance(kind, str) or kind != "NIRGraph":
        raise NirFormatError(Problem("", "a NIR file must hold a NIRGraph", f"it holds {kind!r}"))
    raw_nodes = file.root.get("nodes")
    if not isinstance(raw_nodes, Mapping):
        raise NirFormatError("the NIR graph has no nodes")
    if options.profile in ("auto", "ours") and (exact := exact_network(file)) is not None:
        _refuse_options(options)
        notes = {"profile": "ours, exact numbers in the file's metadata"}
        return Imported(exact, notes, _time_weights(file.root["metadata"]))
    flat, structure = flatten_graph(file.root)
    ports, of_ports = _port_shapes(flat)
    neurons, problems = read_neurons(flat.nodes)
    said, options = _said(file, options)
    name, undecided = _profile(options, neurons.values(), ours=bool(said.trusted), notes=said.notes)
    problems += undecided
    if options.input_gain is not None and name != "sinabs":
        raise OptionError(
            Problem("", "--input-gain is for --profile sinabs", f"the file is read as {name}")
        )
    options = _with_dt(options, name, neurons.values(), said.notes)
    nodes, of_nodes = read_nodes(flat.nodes, Surroundings(options.dt, said.input_range))
    problems += of_nodes
    if name == "rockpool":
        nodes = _without_batch(nodes, said.notes)
    nodes, neurons, of_shapes = fit_shapes(nodes, neurons, flat.edges)
    problems += of_shapes
    graph = untangle(flat.edges, neurons, moves=name == "spyx", notes=said.notes)
    readings: dict[str, Reading] = {}
    if not undecided:
        context = Context(
            options,
            options.dt,
            said.notes,
            graph.recurrent,
            _means_reset(file, options, neurons),
            min((item.shortest_time for item in neurons.values()), default=np.inf),
            _version(file.version) < (1,),
        )
        readings, of_readings = _read_all(name, neurons, context)
        problems += of_readings
    _raise_by_kind([*((NirFormatError, problem) for problem in structure), *problems, *of_ports])
    network = _assembled(nodes, readings, graph, said)
    if name == "lava-dl":
        network = _in_integers(network, said.notes)
    raise_all(NirFormatError, _problems_of_shapes(network, flat, ports))
    return Imported(network, said.notes, _time_weights(said.trusted))


def _refuse_options(options: ImportOptions) -> None:
    given = [name for name in options.given if name != "--profile"]
    if given:
        raise OptionError(
            Problem(
                "",
                f"{', '.join(given)} is for files that leave something open",
                "this one has the exact numbers of its network",
                "leave it out, or read it with --profile literal",
            )
        )


@dataclass(frozen=True)
class _Said:
    """What a file says besides its graph: metadata of ours, how long samples are, what inputs can be."""

    trusted: Mapping[str, Any]
    steps: int | None
    input_range: InputRange | None
    notes: dict[str, str]


def _profile(
    options: ImportOptions,
    neurons: Iterable[NirNeurons],
    *,
    ours: bool,
    notes: dict[str, str],
) -> tuple[str, list[Found]]:
    """Return the profile to read with, and that it is undecided where it is."""
    items = list(neurons)
    if options.profile != "auto":
        notes["profile"] = f"{options.profile}, as asked for"
        return options.profile, []
    if ours:
        notes["profile"] = "ours, from the file's metadata"
        return "ours", []
    if not items:
        notes["profile"] = "literal, as there are no neurons with a membrane"
        return "literal", []
    problem = Problem(
        "",
        "neurons are computed differently by each framework",
        "the file does not say which one trained them",
        f"choose with --profile; the numbers fit {', '.join(candidates(items))}",
    )
    return "literal", [(UnsupportedError, problem)]


def _without_batch(nodes: Mapping[str, Node], notes: dict[str, str]) -> dict[str, Node]:
    """Return `nodes` whose ports do not count the batch, as those of Rockpool's exporter do."""
    result = dict(nodes)
    for name, node in nodes.items():
        if isinstance(node, Input | Output) and set(node.shape[:-1]) == {1}:
            result[name] = replace(node, shape=node.shape[-1:])
            notes["ports"] = "without the batch of 1 that Rockpool writes"
    return result


def _with_dt(
    options: ImportOptions, profile: str, neurons: Iterable[NirNeurons], notes: dict[str, str]
) -> ImportOptions:
    """Return `options` with the time step that the profile finds in the numbers, if none is given."""
    if options.dt is not None:
        return options
    dt = DIALECTS[profile].find_dt(list(neurons))
    if dt is None:
        return options
    notes["dt"] = f"{dt:g}, " + (
        "as sinabs counts in steps" if profile == "sinabs" else f"from the numbers of {profile}"
    )
    return replace(options, dt=dt)


def _means_reset(file: NirFile, options: ImportOptions, neurons: Mapping[str, NirNeurons]) -> bool:
    """
    Return whether the file's reset voltages say that neurons reset to them.

    Newer versions of nir fill in 0 for writers that never thought of it, so that 0 is no evidence unless
    the file is to be taken literally.
    """
    if _version(file.version) < FIRST_VERSION_WITH_RESET_VOLTAGE:
        return False
    named = [item.values["v_reset"] for item in neurons.values() if item.names_reset]
    return options.profile in ("literal", "ours") or any(bool(value.any()) for value in named)


def _read_all(
    profile: str, neurons: Mapping[str, NirNeurons], context: Context
) -> tuple[dict[str, Reading], list[Found]]:
    """Return the reading of each population, and what is wrong with or undecided about the others."""
    readings: dict[str, Reading] = {}
    problems: list[Found] = []
    for name, item in neurons.items():
        try:
            readings[name] = DIALECTS[profile].read(item, context)
        except MalformedError as error:
            problems += found(name, error)
    return readings, problems


def _assembled(
    nodes: Mapping[str, Node], readings: Mapping[str, Reading], graph: Graph, said: _Said
) -> Network:
    """Return the network of the nodes and the readings."""
    every, edges = splice(nodes, readings, graph)
    every, edges = fire_without_reset(every, edges)
    feedback, cycles = find_feedback(every, edges)
    raise_all(NirFormatError, cycles)
    network = Network(every, edges, said.steps, frozenset(feedback))
    larger = _larger(network, readings)
    if larger:
        said.notes["twice"] = (
            f"membranes of {', '.join(larger)} can exceed two thresholds: a layer beside them tells "
            "whether they are still above one after a reset"
        )
        return _assembled(nodes, {**readings, **larger}, graph, said)
    if feedback:
        late = "; ".join(f"{source} -> {target}" for source, target in feedback)
        said.notes["feedback"] = f"{late}, one step later"
    return network


def _larger(network: Network, readings: Mapping[str, Reading]) -> dict[str, Reading]:
    """Return what populations are whose inputs can be too large for their simpler reading."""
    bounds = ValueBounds(network)
    return {
        name: reading.otherwise
        for name, reading in readings.items()
        if reading.largest_input is not None
        and reading.otherwise is not None
        and (np.maximum(bounds.into(name)[1], 0) > reading.largest_input).any()
    }


def _in_integers(network: Network, notes: dict[str, str]) -> Network:
    """Return `network` with lava-dl's weight unit, where all its numbers are multiples of their units."""
    unit = LAVA_DL_UNIT
    for name, node in network.nodes.items():
        for what, values, step in _counted(node, unit):
            if (values % step).any():
                notes["integers"] = f"none: the {what} of '{name}' are no multiples of {step:g}"
                return network
    notes["integers"] = "weights, biases and thresholds are kept as multiples of 1/64"
    return replace(network, weight_unit=unit)


def _counted(node: Node, unit: float) -> list[tuple[str, Any, float]]:
    """Return the numbers of a node that lava-dl computes in integers, and their unit."""
    match node:
        case Dense() | Conv2d():
            return [("weights", node.weight, 2 * unit), ("biases", node.bias, unit)]
        case Scale():
            return [("factors", node.scale, 1.0)]
        case Pool2d():
            return [("factors", np.array(node.scale), 1.0)]
        case LIF():
            current = np.zeros(()) if node.current_decay is None else node.current_decay
            return [
                ("thresholds", node.threshold, unit),
                ("reset voltages", node.reset_to, unit),
                ("leak voltages", node.leak, unit),
                ("decays", np.stack(np.broadcast_arrays(node.decay, current)), 1 / DECAY_STEPS),
            ]
    return []


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


def _said(file: NirFile, options: ImportOptions) -> tuple[_Said, ImportOptions]:
    """Return what the file says, and `options` with what its metadata adds to them."""
    metadata = file.root.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    framework = metadata.get("framework")
    ours = isinstance(framework, str) and framework == "neurocompile"
    if options.profile == "ours" and not ours:
        raise OptionError(
            Problem(
                "", "--profile ours needs a file of neurocompile", "its metadata says otherwise"
            )
        )
    trusted = metadata if ours and options.profile in ("auto", "ours") else {}
    notes: dict[str, str] = {"profile": ""}  # the first thing to tell

    def choose(name: str, option: Any, convert: Callable[[Any], Any]) -> Any:
        if option is not None:
            notes[name] = f"{option}, as asked for"
            return option
        if name in trusted:
            try:
                value = convert(trusted[name])
            except (TypeError, ValueError) as error:
                raise NirFormatError(
                    Problem("", f"metadata '{name}' is damaged", f"it is {trusted[name]!r}")
                ) from error
            notes[name] = f"{value}, from the file's metadata"
            return value
        return None

    dt = choose("dt", options.dt, _positive)
    reset = choose("reset", options.reset, _reset)
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
        notes["input"] = "spikes, 0 or 1, as the file names no range"
    return (
        _Said(trusted, steps, input_range, notes),
        replace(options, dt=dt, reset=reset),
    )


def _time_weights(metadata: Mapping[str, Any]) -> tuple[float, ...] | None:
    if "time_weights" not in metadata:
        return None
    try:
        return checked_weights(metadata["time_weights"])
    except (TypeError, ValueError) as error:
        raise NirFormatError(
            Problem("", "metadata 'time_weights' is damaged", str(error))
        ) from error


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


def _reset(value: Any) -> str:
    if not isinstance(value, str) or value not in RESETS:
        raise ValueError(f"{value} is no reset")
    return value


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def _raise_by_kind(problems: list[Found]) -> None:
    """Raise all problems in one error; a damaged file outweighs an unsupported one."""
    damaged = any(kind is NirFormatError for kind, _ in problems)
    raise_all(NirFormatError if damaged else UnsupportedError, [problem for _, problem in problems])
