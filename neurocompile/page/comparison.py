"""The page of several verifications, programs and training runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from neurocompile import __version__
from neurocompile.page import comparison_plots
from neurocompile.page.document import write_document
from neurocompile.page.entries import Entry, check_together, told_apart
from neurocompile.page.markup import (
    Html,
    clean,
    element,
    join,
    pairs,
    paragraph,
    quantity,
)
from neurocompile.page.measures import MEASURES, ON_DATA, energy_of
from neurocompile.page.settings import chosen, compared, keys_of, settings_of
from neurocompile.verification.report import Report


def write_comparison(entries: Sequence[Entry], path: Path) -> None:
    """
    Write one page that shows `entries` side by side; labels that look the same are numbered.

    Raises `OptionError` for entries of different data, `MissingDependencyError` without Plotly.
    """
    check_together(entries)
    entries = _labelled(entries)
    title = (
        f"{len(entries)} side by side" if len(entries) > 1 else f"About {clean(entries[0].label)}"
    )
    write_document(
        path,
        title,
        join(
            (
                paragraph(_about(entries), class_="faint small"),
                *(paragraph(f"{entry.label}: {entry.note}.") for entry in entries if entry.note),
                _measures(entries),
            )
        ),
        [
            ("settings", "Settings", settings_of(entries)),
            ("accuracy", "Accuracy", comparison_plots.accuracy(entries)),
            ("over-steps", "Accuracy over time steps", comparison_plots.over_steps(entries)),
            (
                "differences",
                "Where spikes differ",
                join((comparison_plots.mismatches(entries), comparison_plots.own(entries))),
            ),
            ("resources", "Resources", comparison_plots.resources(entries)),
            ("energy", "Energy, estimated", comparison_plots.energy(entries)),
            ("training", "Training", comparison_plots.training(entries)),
            ("not-measured", "What was not measured", _not_measured(entries)),
        ],
        paragraph(f"Written by neurocompile {__version__}. It asks the network for nothing."),
    )


def comparison_json(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the measures and the settings that differ, as plain values, schema 1."""
    entries = _labelled(entries)
    settings = [chosen(entry.settings) for entry in entries]
    return {
        "schema": 1,
        "entries": [
            {
                "label": entry.label,
                "kind": entry.kind,
                "target": entry.target or None,
                "failed": None if entry.report is None else entry.report.failed,
                "accuracy": None if entry.accuracy is None else entry.accuracy.to_json(),
                "mismatches": _mismatch_json(entry.report),
                "resources": {
                    name: figure.value
                    for name, figure in (entry.costs.totals if entry.costs else {}).items()
                },
                "picojoules": None if (found := energy_of(entry)) is None else found.picojoules,
                "not_measured": dict(entry.missing),
            }
            for entry in entries
        ],
        "settings_that_differ": {
            key: {
                entry.label: values.get(key)
                for entry, values in zip(entries, settings, strict=True)
            }
            for key in keys_of(settings)
            if len({values.get(key) for values in settings}) > 1
        },
    }


def _labelled(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    names = told_apart([entry.label for entry in entries])
    return tuple(replace(entry, label=name) for entry, name in zip(entries, names, strict=True))


def _mismatch_json(report: Report | None) -> dict[str, Any] | None:
    if report is None:
        return None
    pair = report.overall
    return {
        "reference": pair.reference,
        "candidate": pair.candidate,
        "mismatches": pair.mismatches,
        "slots": pair.slots,
    }


def _about(entries: Sequence[Entry]) -> str:
    verified: dict[str, list[str]] = {}
    for entry in entries:
        if entry.report is not None:
            samples = "sample" if entry.report.samples == 1 else "samples"
            what = (
                f"{'all' if entry.report.whole else 'the first'} {quantity(entry.report.samples)} {samples} "
                f"of {entry.report.data or 'data without a name'}"
            )
            verified.setdefault(what, []).append(entry.label)
    others = [f"{entry.label} (a {entry.kind})" for entry in entries if entry.report is None]
    told = [f"Verified on {what}: {', '.join(names)}." for what, names in sorted(verified.items())]
    told += [f"Not verified: {', '.join(others)}."] if others else []
    told.append(
        "Cells that differ from the first column are bold and marked ≠, where both were measured alike."
    )
    return " ".join(told)


def _measures(entries: Sequence[Entry]) -> Html:
    """Return what was measured: a column for each entry."""
    rows = [[name, *(measure(entry) for entry in entries)] for name, measure in MEASURES]
    unlike = {
        (at, column)
        for at, (name, _) in enumerate(MEASURES)
        if name in ON_DATA
        for column, entry in enumerate(entries, start=1)
        if (entry.report is None) != (entries[0].report is None)
    }
    return compared("What was measured", entries, rows, unlike)


def _not_measured(entries: Sequence[Entry]) -> Html:
    if not any(entry.missing for entry in entries):
        return paragraph("Nothing that this page knows of was left out.")
    return join(
        join(
            (
                element("h3", entry.label),
                pairs((name.replace("_", " "), reason) for name, reason in entry.missing.items()),
            )
        )
        for entry in entries
        if entry.missing
    )
