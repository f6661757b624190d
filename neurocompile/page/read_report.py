"""The JSON of `verify`, read again as a `Report`; whoever wrote it may have meant harm."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from neurocompile.errors import FormatError, Problem
from neurocompile.page.decode import decode, key_of, mapping, refuse, sequence
from neurocompile.page.drawn import costs_of, drawing_of
from neurocompile.verification.report import (
    SCHEMA,
    Comparison,
    Report,
)

LARGEST_FILE = 64 << 20  # bytes
MOST = {"stages": 64, "comparisons": 256, "budgets": 64}  # no verification has more
RENAMED = {"whole": "whole_data", "facts": "program"}  # in the JSON
ELSEWHERE = ("comparisons", "overall", "exhibits")  # not read by what the dataclass declares
NO_SPIKES = "a report's JSON holds no spikes; `neurocompile verify --report` draws them"


def read_json(path: Path) -> Mapping[str, Any]:
    """Return the object in `path`; raises `FormatError` for what is too large, or is no JSON object."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise FormatError(
                Problem("", f"'{path}' must be at most {LARGEST_FILE} bytes", f"it has {size}")
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(
            Problem("", f"'{path}' cannot be read as JSON ({type(error).__name__}: {error})")
        ) from error
    return mapping(value, "")


def report_of(data: Mapping[str, Any]) -> Report:
    """
    Return the report that `data` (what `Report.to_json` gives) tells of; it has no exhibits.

    Raises `FormatError` that names the key for what no report can say.
    """
    if data.get("schema") != SCHEMA or isinstance(data.get("schema"), bool):
        raise refuse("schema", str(SCHEMA), data.get("schema"))
    for key, most in MOST.items():
        if len(given := sequence(data.get(key, ()), key)) > most:
            raise refuse(key, f"a list of at most {most}", len(given))
    comparisons = tuple(
        _comparison(item, f"comparisons[{at}]")
        for at, item in enumerate(sequence(data.get("comparisons"), "comparisons"))
    )
    stages = sequence(data.get("stages"), "stages")
    if not stages:
        raise refuse("stages", "a list of at least one", stages)
    overall = _comparison(data.get("overall"), "overall")
    found = {
        name: decode(kind, data[key], key)
        for name, kind in get_type_hints(Report).items()
        if (key := RENAMED.get(name, name)) in data and name not in ELSEWHERE
    }
    missing = {**found.get("not_measured", {})}
    missing.setdefault("exhibits", NO_SPIKES)
    try:
        report = Report(
            **{**found, "not_measured": missing}, comparisons=comparisons, overall=overall
        )
    except TypeError as error:
        raise FormatError(Problem("", f"the report is not complete ({error})")) from error
    _check_numbers(report)
    drawing_of(report.network)
    costs_of(report.resources)
    return report


def _comparison(value: object, where: str) -> Comparison:
    given = mapping(value, where)
    output = mapping(given.get("output", {}), f"{where}.output")
    first = given.get("first_divergence")
    return decode(
        Comparison,
        {
            **given,
            "layers": given.get("layers", []),
            "output_slots": output.get("slots", 0),
            "output_mismatches": output.get("mismatches", 0),
            "output_difference": output.get("largest_difference", 0.0),
            "first_divergence": first,
        },
        where,
    )


def _check_numbers(report: Report) -> None:
    """Raise `FormatError` for counts that contradict each other."""
    if report.samples < 1 or report.steps < 1:
        raise refuse("samples" if report.samples < 1 else "steps", "at least 1", 0)
    stages = {stage.name for stage in report.stages}
    for at, stage in enumerate(report.stages):
        if stage.name in {other.name for other in report.stages[:at]}:
            raise refuse(f"stages[{at}].name", "another one than those before", stage.name)
    for where, comparison in _named(report):
        for key, name in (("reference", comparison.reference), ("candidate", comparison.candidate)):
            if name not in stages and not _is_form(name, stages):
                raise refuse(f"{where}.{key}", "one of the stages", name)
    for where, layers in (
        (f"{name}.layers", comparison.layers) for name, comparison in _named(report)
    ):
        for at, layer in enumerate(layers):
            if not 0 <= layer.mismatches <= layer.slots:
                raise refuse(
                    f"{where}[{at}].mismatches", f"from 0 to {layer.slots}", layer.mismatches
                )
    examined = report.examination
    for at, histogram in enumerate((*examined.weights, *examined.membranes) if examined else ()):
        bins = len(histogram.edges) - 1
        if len(histogram.reference) != bins or len(histogram.candidate) != bins:
            raise refuse(
                f"examination histogram {at} ('{key_of(histogram.name)}')",
                "edges for as many bins as it counts",
                f"{bins} bins",
            )


def _is_form(name: str, stages: Container[str]) -> bool:
    """Return whether `name` is another form of a stage's program, as "onnx:sequence"."""
    stage, colon, form = name.partition(":")
    return bool(colon and form) and stage in stages


def _named(report: Report) -> Iterator[tuple[str, Comparison]]:
    """Yield the comparisons with their keys."""
    yield "overall", report.overall
    for at, comparison in enumerate(report.comparisons):
        yield f"comparisons[{at}]", comparison
