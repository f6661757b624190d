"""The page of several verifications, programs and training runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neurocompile import __version__
from neurocompile.page import comparison_plots
from neurocompile.page.document import write_document
from neurocompile.page.entries import Entry, check_together
from neurocompile.page.markup import (
    Html,
    clean,
    element,
    join,
    pairs,
    paragraph,
    quantity,
)
from neurocompile.page.measures import MEASURES, energy_of
from neurocompile.page.settings import chosen, compared, keys_of, settings_of
from neurocompile.verification.report import Report


def write_comparison(entries: Sequence[Entry], path: Path) -> None:
    """
    Write one page that shows `entries` side by side; labels must be distinct.

    Raises `OptionError` for entries of different data, `MissingDependencyError` without Plotly.
    """
    check_together(entries)
    title = (
        f"{len(entries)} side by side" if len(entries) > 1 else f"About {clean(entries[0].label)}"
    )
    write_document(
        path,
        title,
        join(
            (
                paragraph(_about(entries), class_="faint small"),
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
    found = {
        f"{'all' if entry.report.whole else 'the first'} {quantity(entry.report.samples)} samples of "
        f"{entry.report.data or 'data without a name'}"
        for entry in entries
        if entry.report is not None
    }
    told = f"Verified on {' and '.join(sorted(found))}." if found else "Nothing here was verified."
    return f"{told} Cells that differ from the first column are bold and marked ≠."


def _measures(entries: Sequence[Entry]) -> Html:
    """Return what was measured: a column for each entry."""
    rows = [[name, *(measure(entry) for entry in entries)] for name, measure in MEASURES]
    return compared("What was measured", entries, rows)


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
