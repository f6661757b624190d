"""What `inspect` prints. Names in files are strangers': they are printed as text, never as markup."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurocompile.console import printable
from neurocompile.errors import Problem
from neurocompile.inspection import Inspection

Facts = Mapping[str, Any]

COLUMNS = 100  # where the output is no terminal
WHAT = {
    "program": "a program",
    "nir": "a NIR graph",
    "netx": "a network of lava-dl (.net)",
    "golden": "a golden: what a program did on a few samples",
    "nirdata": "NIR data: recorded spikes and values",
    "run": "a training run",
    "checkpoint": "a checkpoint of PyTorch",
}
NARROW = 72  # columns; tables need more
MOST_ROWS = 200  # of a table; --json has all
MOST_NOTES = 12
NOTHING: tuple[Any, ...] = (None, "", {}, [])


def print_inspection(inspection: Inspection, console: Console | None = None) -> None:
    """Print all of it, problems last."""
    console = console or _console()
    facts = inspection.to_json()
    _line(console, f"{inspection.path}: {WHAT[inspection.kind]}")
    PRINTERS[inspection.kind](console, facts)
    _files(console, facts["files"])
    count = len(facts["problems"])
    if count:
        _line(console, "")
        _line(console, f"reading it as it is finds {count} problem{'s' if count > 1 else ''}")
        for line in _alike(facts["problems"]):
            _line(console, f"  - {line}")


def _alike(problems: Sequence[Facts]) -> Iterable[str]:
    """Yield the problems, those that differ in their layer only as one."""
    layers: dict[Problem, list[str]] = {}
    for found in problems:
        problem = Problem(**found)
        layers.setdefault(replace(problem, layer=""), []).append(problem.layer)
    for problem, (first, *others) in layers.items():
        also = f"; so for {', '.join(repr(name) for name in others)}" if others else ""
        yield f"{replace(problem, layer=first)}{also}"


def _console() -> Console:
    console = Console(highlight=False, emoji=False)
    return console if console.is_terminal else Console(width=COLUMNS, highlight=False, emoji=False)


def _line(console: Console, text: str) -> None:
    console.print(Text(printable(text)), soft_wrap=True)


def _lines(console: Console, facts: Facts, names: Iterable[str]) -> None:
    for name in names:
        value = facts.get(name)
        if isinstance(value, Mapping):
            value = {key: item for key, item in value.items() if item not in NOTHING}
        if value not in NOTHING:
            parts = (
                [f"{key} {_words(item)}" for key, item in value.items()]
                if isinstance(value, Mapping)
                else [_words(value)]
            )
            _line(console, f"{name.replace('_', ' ')}: {'; '.join(parts)}")


def _table(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """
    Print rows; columns whose name ends in "#" are numbers.

    On a narrow terminal, where cells would break within words, each row becomes a line that wraps.
    """
    if not rows:
        return
    _line(console, "")
    _line(console, title)
    more = len(rows) - MOST_ROWS
    rows = rows[:MOST_ROWS]
    if console.width < NARROW:
        for first, *rest in rows:
            cells = zip(columns[1:], rest, strict=True)
            told = [f"{column.removesuffix('#')} {_words(cell)}" for column, cell in cells]
            _line(console, f"- {_words(first)}: {'; '.join(told)}")
    else:
        console.print(_made(columns, rows))
    if more > 0:
        _line(console, f"and {more} more; --json FILE has all")


def _made(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        number = column.endswith("#")
        table.add_column(
            column.removesuffix("#"), justify="right" if number else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(printable(_words(cell))) for cell in row))
    return table


def _words(value: Any) -> str:
    """Return a value from a file for people: one number, least..most, a list, or what a table holds."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_words, value)) if value else "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items()) or "none"
    return str(value)


def _range(value: Any) -> str:
    return "..".join(map(_words, value)) if isinstance(value, list) else _words(value)


def _shape(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) and value else _words(value)


def _share(value: Any) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


# Programs


def _program(console: Console, facts: Facts) -> None:
    steps = f"{facts['steps']} steps at most"
    _line(console, f"for {facts['target']}, {steps}; options: {_words(facts['options'])}")
    _lines(console, facts, ("source", "chip", "versions"))
    populations = facts["populations"]
    _table(
        console,
        "populations",
        ("name", "kind", "shape", "neurons#", "values or threshold#", "reset"),
        [
            (
                item["name"],
                item["kind"],
                _shape(item["shape"]),
                item["neurons"],
                "-"
                if item["kind"] == "read-out"
                else _range(item.get("threshold", item.get("range"))),
                _firing(item),
            )
            for item in populations
        ],
    )
    neurons = [item for item in populations if "du" in item]
    _table(
        console,
        "integers; scale: weight units in one unit of the source",
        ("name", "du#", "dv#", "bias#", "scale#", "current used#", "membrane used#"),
        [
            (
                item["name"],
                _range(item["du"]),
                _range(item["dv"]),
                _range(item["bias"]),
                _range(item["scale"]),
                *(
                    _share((item["proof"] or {}).get(what, {}).get("used"))
                    for what in ("current", "membrane")
                ),
            )
            for item in neurons
        ],
    )
    _table(
        console,
        "synapses",
        ("name", "from, to", "shape", "nonzero#", "range#", "bits#", "delay, exponent"),
        [
            (
                group["name"],
                f"{group['source']} -> {group['target']}",
                f"{_shape(group['shape'])} {group['kind']}",
                f"{group['nonzero']}/{group['weights']}",
                _range(group["range"]),
                group["bits"],
                f"{_range(group['delay'])}, {group['exponent']}"
                + (", on the host" if group["computed_by"] == "host" else ""),
            )
            for group in facts["synapses"]
        ],
    )
    _line(console, "")
    schedule = facts["schedule"]
    _line(
        console,
        f"schedule: depth {schedule['deepest']}, {schedule['gap']} blank steps between samples, "
        f"{schedule['stride']} machine steps a step",
    )
    _lines(console, facts, ("outputs", "first_layer", "quantisation", "reference", "validation"))
    imported = facts.get("import")
    if isinstance(imported, Mapping):
        _lines(console, imported, ("inferred",))
    _resources(console, facts["resources"])
    notes = facts.get("notes")
    for note in notes[:MOST_NOTES] if isinstance(notes, list) else ():
        _line(console, f"note: {note}")


def _firing(item: Facts) -> str:
    if "reset" not in item:
        return "exact grid" if item.get("exact") else "-"
    if item["kind"] == "read-out":
        return f"shows its {item['shows']}"
    parts = [f"to {item['reset']}" if item["reset"] == "zero" else item["reset"]]
    parts += ["fires at"] if item["fires"] == "at" else []
    parts += [f"up to {item['most_spikes']}"] if item["most_spikes"] > 1 else []
    parts += [f"refractory {item['refractory']}"] if item["refractory"] else []
    return ", ".join(parts)


def _resources(console: Console, resources: Facts) -> None:
    if "not_known" in resources:
        _line(console, f"resources are not known: {resources['not_known']}")
        return
    layers = resources["layers"]
    names = list(
        dict.fromkeys(
            key
            for layer in layers.values()
            for key in layer
            if key not in ("tightest", "remedy", "fits")
        )
    )
    chosen = [
        name
        for name in ("cores", "neurons", "synapses", "weights", "axons", "fan_in")
        if name in names
    ]
    _table(
        console,
        "resources; * is estimated, + published",
        ("layer", *(f"{name.replace('_', ' ')}#" for name in chosen)),
        [
            *(
                (name, *(_figure(layer.get(key)) for key in chosen))
                for name, layer in layers.items()
            ),
            ("all", *(_figure(resources["totals"].get(key)) for key in chosen)),
        ],
    )
    for note in resources["notes"][:MOST_NOTES]:
        _line(console, note)


def _figure(figure: Any) -> str:
    if not isinstance(figure, Mapping):
        return "-"
    return f"{figure['value']}{ {'estimated': '*', 'published': '+'}.get(figure['status'], '') }"


# Graphs


def _nir(console: Console, facts: Facts) -> None:
    _line(
        console,
        f"written by nir {facts['version'] or 'of no version'}; {len(facts['nodes'])} nodes, "
        f"{len(facts['edges'])} edges, {facts['parameters']} parameters",
    )
    _lines(console, facts, ("subgraphs", "metadata"))
    sources: dict[str, list[str]] = {}
    for source, target in facts["edges"]:
        sources.setdefault(target, []).append(source)
    _table(
        console,
        "nodes",
        ("name", "type", "gives", "from", "parameters"),
        [
            (
                node["name"],
                node["type"],
                _shape(node["shape"]),
                ", ".join(sources.get(node["name"], [])),
                "; ".join(_parameter(*item) for item in node["parameters"].items()),
            )
            for node in facts["nodes"]
        ],
    )
    _line(console, "")
    for cycle in facts["cycles"]:
        _line(console, f"cycle: {', '.join(cycle)}")
    for source, target in facts["late_edges"]:
        _line(console, f"one step later: {source} -> {target}")
    if facts["reading"]["readable"]:
        _reading(console, "read as it is", facts["reading"])
    for reading in facts["readings"]:
        _reading(
            console,
            f"with --profile {reading['profile']} (the numbers fit {reading['fits']})",
            reading,
        )


def _parameter(name: str, value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"{name} {_words(value)}"
    shape = f" ({_shape(value['shape'])})" if value.get("shape") else ""
    odd = f", {value['not_finite']} not finite" if "not_finite" in value else ""
    return f"{name} {_range(value.get('range'))}{shape}{odd}"


def _reading(console: Console, title: str, reading: Facts) -> None:
    if reading["readable"]:
        told = "; ".join(f"{name}: {how}" for name, how in reading["how"].items())
        _line(console, f"{title}: {told}")
        return
    _line(console, f"{title}: it cannot be compiled yet")
    for need in _alike(reading["needs"]):
        _line(console, f"  - {need}")


def _netx(console: Console, facts: Facts) -> None:
    _line(console, f"{len(facts['layers'])} layers, {facts['parameters']} parameters")
    _lines(console, facts, ("simulation",))
    _table(
        console,
        "layers",
        ("layer", "type", "shape", "parameters"),
        [
            (
                layer["name"],
                layer["type"],
                _shape(layer["shape"]),
                "; ".join(_netx_field(*item) for item in layer["parameters"].items()),
            )
            for layer in facts["layers"]
        ],
    )
    _line(console, "")
    if facts["reading"]["readable"]:
        _reading(console, "read as it is", facts["reading"])


def _netx_field(name: str, value: Any) -> str:
    if isinstance(value, Mapping) and "dtype" not in value:
        return f"{name} ({_words(value)})"
    return _parameter(name, value)


# Others


def _golden(console: Console, facts: Facts) -> None:
    labels = "with labels" if facts["labels"] is not None else "without labels"
    _line(
        console,
        f"{facts['samples']} samples of '{facts['data']}' {labels}, {facts['steps']} steps; made by the "
        f"{facts['stage']} stage of a program for {facts['program']['target']}, neurocompile "
        f"{facts['neurocompile']}",
    )
    _line(console, f"fingerprint of the program's integers: {facts['program']['fingerprint']}")
    rows = [
        (name, kind[:-1], _shape(item["shape"]), item["dtype"], facts["rates"].get(name))
        for kind in ("inputs", "layers", "outputs")
        for name, item in facts[kind].items()
    ]
    _table(
        console,
        "tensors; spikes per neuron and step",
        ("name", "what", "shape", "type", "rate#"),
        rows,
    )
    _line(console, "")
    _lines(console, facts, ("decisions", "labels", "nirdata"))


def _nirdata(console: Console, facts: Facts) -> None:
    _table(
        console,
        "observables",
        ("node", "name", "kind", "shape", "type"),
        [
            (item["node"], item["name"], item["kind"], _shape(item.get("shape")), item.get("dtype"))
            for item in facts["observables"]
        ],
    )


def _run(console: Console, facts: Facts) -> None:
    if not facts["finished"]:
        _line(console, "it did not finish: there is no metrics.json")
    names = ("settings", "network", "neuron", "test_accuracy", "accuracy_per_moment", "checkpoints")
    _lines(console, facts, names)


def _checkpoint(console: Console, facts: Facts) -> None:
    _line(
        console,
        f"{facts['tensors']} tensors of {facts['tensor_bytes']} bytes; what they are for is not read",
    )


def _files(console: Console, files: Sequence[Facts]) -> None:
    _table(
        console,
        "files",
        ("name", "bytes#", "sha256", "checksum"),
        [
            (file["name"], file["bytes"], file["sha256"][:16], "right" if file["checked"] else "-")
            for file in files
        ],
    )


PRINTERS: Mapping[str, Callable[[Console, Facts], None]] = {
    "program": _program,
    "nir": _nir,
    "netx": _netx,
    "golden": _golden,
    "nirdata": _nirdata,
    "run": _run,
    "checkpoint": _checkpoint,
}
