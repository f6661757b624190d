"""The page of one verification."""

from __future__ import annotations

from pathlib import Path

from neurocompile import __version__
from neurocompile.page import energy_part, facts, layers, values, why
from neurocompile.page.absent import absent, examined, examined_pair
from neurocompile.page.document import Section, room_beside, write_document
from neurocompile.page.drawn import Drawing, costs_of, drawing_of
from neurocompile.page.exhibits import pack_exhibits
from neurocompile.page.floor_plan import draw_floor
from neurocompile.page.markup import (
    Html,
    element,
    join,
    json_script,
    pairs,
    paragraph,
    quantity,
    table,
)
from neurocompile.page.network_graph import draw_network
from neurocompile.page.summary import samples_of, summary
from neurocompile.verification.report import Report

RASTERS_AT = 2  # among the sections
TIMES = " \N{MULTIPLICATION SIGN} "
MOVES = (
    ("in", "Zoom in", "+"),
    ("out", "Zoom out", "-"),
    ("left", "Earlier", "←"),
    ("right", "Later", "→"),
    ("up", "Up", "↑"),
    ("down", "Down", "↓"),
    ("reset", "All", "0"),
)


def write_page(report: Report, path: Path) -> None:
    """
    Write `report` as one HTML page that needs no network and no other file, under 8 MB.

    Raises `MissingDependencyError` without Plotly, `FormatError` if the report's network or resources
    contradict themselves, `OptionError` if `path` cannot be written.
    """
    costs, drawing = costs_of(report.resources), drawing_of(report.network)
    title = f"Verification of a program for {report.target}"
    sections: list[Section] = [
        ("network", "The network", _network(report, drawing)),
        (
            "differences",
            "Where spikes differ",
            join(
                (
                    layers.mismatches(report),
                    layers.blame(report),
                    layers.readouts(report),
                    layers.outputs(report),
                )
            ),
        ),
        ("causes", "Why: first differences of layers", why.causes(report)),
        (
            "decisions",
            "Accuracy and rates",
            join(
                (
                    layers.accuracy_over_steps(report),
                    layers.stages(report),
                    layers.rates(report),
                    layers.distances(report),
                )
            ),
        ),
        (
            "values",
            "Weights, membranes, ranges",
            join(
                (
                    element("h3", _quantised("Weights", report)),
                    values.weights(report),
                    element("h3", _quantised("Membranes", report)),
                    values.membranes(report),
                    element("h3", "Range proof"),
                    values.head_room(report, drawing),
                    element("h3", "Counters"),
                    values.counters(report),
                )
            ),
        ),
        (
            "resources",
            "Chip resources",
            absent(report, "what the program takes of its target", "resources")
            if costs is None
            else draw_floor(costs, report.target),
        ),
        ("energy", "Energy, estimated", energy_part.energy(report)),
        ("alternatives", "What would help", layers.alternatives(report)),
        (
            "facts",
            "Settings and versions",
            join((_remarks(report), _versions(report), facts.facts(report.facts))),
        ),
        ("not-measured", "What was not measured", _not_measured(report)),
    ]
    room = room_beside(content for _, _, content in sections)
    sections.insert(RASTERS_AT, ("rasters", "Spikes side by side", _rasters(report, room)))
    write_document(
        path,
        title,
        join((_about(report), summary(report, costs))),
        sections,
        paragraph(f"Written by neurocompile {__version__}. It asks the network for nothing."),
    )


def _quantised(what: str, report: Report) -> str:
    first, second = examined_pair(report)
    if what == "Weights":
        return f"Weights before ({first}) and after quantisation ({second})"
    return f"Membranes before and after quantisation, {examined(report)}"


def _versions(report: Report) -> Html:
    """Return the versions of what verified; those of the export stand with the program's facts."""
    if not report.versions:
        return absent(report, "versions of what this verification ran on", "versions")
    return join((element("h3", "Versions of this verification"), pairs(report.versions.items())))


def _about(report: Report) -> Html:
    found = report.examination
    looked = (
        f" A closer look at {quantity(len(found.samples))} of them gave errors of layers, distances and "
        "histograms."
        if found and found.samples
        else ""
    )
    steps = "step" if report.steps == 1 else "steps"
    return paragraph(
        f"Spike by spike over {samples_of(report)}, {quantity(report.steps)} {steps} each.{looked}",
        class_="faint small",
    )


def _network(report: Report, drawing: Drawing | None) -> Html:
    if drawing is None:
        return absent(report, "the network's populations and synapses", "network")
    loads, unit = energy_part.loads_of(report)
    found = {layer.name: layer for layer in report.overall.layers}
    rows = []
    for population in drawing.populations:
        layer = found.get(population.name)
        heard = [group for group in drawing.synapses if group.target == population.name]
        rows.append(
            [
                population.name,
                population.kind,
                TIMES.join(map(str, population.shape)),
                population.neurons,
                ", ".join(group.source for group in heard) or "-",
                sum(group.synapses for group in heard),
                "-" if layer is None else layer.mismatches,
                loads.get(population.name, "-"),
            ]
        )
    return join(
        (
            draw_network(drawing, report.overall.layers, loads, unit),
            element(
                "details",
                element("summary", "The network as a table"),
                table(
                    "Populations",
                    ["name", "kind", "shape", "neurons", "hears", "synapses", "differ", unit],
                    rows,
                ),
            ),
        )
    )


def _rasters(report: Report, room: int) -> Html:
    packed = pack_exhibits(report, room)
    if packed is None:
        return absent(report, "spikes of single samples", "exhibits")
    choices = [
        element("label", name, element("select", id=f"raster-{key}"))
        for key, name in (("pair", "Stages"), ("sample", "Sample"), ("layer", "Layer"))
    ]
    drag = element(
        "label",
        "Dragging",
        element(
            "select",
            element("option", "zooms", value="zoom"),
            element("option", "moves", value="pan"),
            id="raster-drag",
        ),
    )
    buttons = [
        element(
            "button",
            name,
            type="button",
            data_move=key,
            title=f"{name} (key {short})",
            aria_keyshortcuts=short,
        )
        for key, name, short in MOVES
    ]
    return join(
        (
            element(
                "div", *choices, drag, class_="controls", role="group", aria_label="What to show"
            ),
            element("div", *buttons, class_="controls", role="group", aria_label="Zoom and move"),
            element("p", id="raster-says", role="status", aria_live="polite"),
            element(
                "div",
                id="raster-plot",
                class_="plot",
                tabindex="0",
                role="application",
                aria_label="Spikes",
                aria_describedby="raster-says",
                style="min-height:430px",
            ),
            paragraph(packed.left_out, class_="absent") if packed.left_out else "",
            element(
                "details",
                element("summary", "Differences of this choice as a table"),
                element(
                    "table",
                    element(
                        "thead",
                        element(
                            "tr",
                            *(
                                element("th", name, scope="col")
                                for name in ("step", "neuron", "which", "reference", "candidate")
                            ),
                        ),
                    ),
                    element("tbody", id="raster-list"),
                    aria_label="Places that differ, by step",
                ),
                element("p", id="raster-more"),
            ),
            json_script("exhibits", packed.data),
        )
    )


def _remarks(report: Report) -> Html:
    items: list[tuple[object, object]] = [
        ("target", report.target),
        ("data", samples_of(report)),
        ("steps", report.steps),
    ]
    return join((pairs(items), *(paragraph(remark) for remark in report.remarks)))


def _not_measured(report: Report) -> Html:
    if not report.not_measured:
        return paragraph("Nothing that this page knows of was left out.")
    return pairs((name.replace("_", " "), reason) for name, reason in report.not_measured.items())
