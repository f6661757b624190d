"""Cores as tiles, by layer: how full of neurons and of synapse memory they are."""

from __future__ import annotations

from collections.abc import Mapping

from neurocompile.page.drawn import Costs, LayerCosts, Number
from neurocompile.page.markup import (
    Html,
    Numeric,
    clean,
    element,
    join,
    paragraph,
    percent,
    quantity,
    table,
)

TILE, GAP, ACROSS = 30, 4, 12  # pixels, pixels, tiles
MOST_TILES = 96  # of one layer
COUNTED = ("neurons", "synapses", "weights", "axons", "fan_in", "fan_out", "cores", "words")
TOLD = {
    "fan_in": "most fan-in",
    "fan_out": "most fan-out",
    "words": "memory words",
}


def draw_floor(costs: Costs, target: str) -> Html:
    """Return the floor plan and the table of figures."""
    return join((_plan(costs, target), _table(costs), _limits(costs)))


def _plan(costs: Costs, target: str) -> Html:
    placed = [layer for layer in costs.layers if "cores" in layer.figures and layer.fits]
    unplaced = [layer.name for layer in costs.layers if not layer.fits]
    if not placed and not unplaced:
        return paragraph(
            f"The target '{clean(target)}' has no cores: there is no floor plan.", class_="absent"
        )
    statuses = sorted({layer.figures["cores"].status for layer in placed})
    plan = element("div", *(_layer(layer, costs.limits) for layer in placed), class_="floor")
    hidden = ", ".join(map(clean, unplaced))
    return join(
        (
            paragraph(
                f"A tile is a core; numbers of cores are {' and '.join(statuses) or 'unknown'}. "
                "Left bar: neurons, right bar, hatched: synapse memory, each as the mean share of "
                "a core's limit. How a chip's own compiler places them is not known here.",
                class_="faint small",
            ),
            plan,
            paragraph(f"Fits no core as it is: {hidden}.", class_="bad") if unplaced else "",
        )
    )


def _layer(layer: LayerCosts, limits: Mapping[str, Number]) -> Html:
    cores = layer.figures["cores"].value
    shown = max(0, min(cores, MOST_TILES))
    neurons = _share(layer, "neurons", limits.get("neurons_per_core"))
    words = _share(layer, "words", limits.get("words_per_core"))
    tiles = [_tile(at, neurons, words) for at in range(shown)]
    width = max(1, min(shown, ACROSS)) * (TILE + GAP)
    height = max(1, -(-shown // ACROSS)) * (TILE + GAP)
    filled = [
        f"{percent(share, 1)} of {what}"
        for share, what in ((neurons, "neurons"), (words, "synapse memory"))
        if share is not None
    ]
    more = f", {shown} shown" if shown < cores else ""
    told = (
        f"{cores} {'core' if cores == 1 else 'cores'}{more}; {', '.join(filled) or 'load unknown'}"
    )
    return element(
        "div",
        element("h3", layer.name),
        element(
            "svg",
            *tiles,
            width=width,
            height=height,
            viewBox=f"0 0 {width} {height}",
            role="img",
            aria_label=f"{clean(layer.name)}: {told}",
        ),
        element("span", told, class_="faint small"),
    )


def _share(layer: LayerCosts, figure: str, limit: Number | None) -> float | None:
    """Return the mean share of a core's `limit` that the layer's `figure` takes."""
    cores = layer.figures["cores"].value
    if limit is None or figure not in layer.figures or cores < 1 or limit.value < 1:
        return None
    return layer.figures[figure].value / (cores * limit.value)


def _tile(at: int, neurons: float | None, words: float | None) -> Html:
    x, y = (at % ACROSS) * (TILE + GAP), (at // ACROSS) * (TILE + GAP)
    parts = [element("rect", x=x + 0.5, y=y + 0.5, width=TILE, height=TILE, class_="track")]
    for left, share, hatched in ((5, neurons, False), (17, words, True)):
        if share is None:
            continue
        filled = round(max(1.0, min(1.0, share) * (TILE - 4)), 1)
        parts.append(
            element(
                "rect",
                x=x + left,
                y=round(y + TILE - 1.5 - filled, 1),
                width=8,
                height=filled,
                class_=None if hatched else "dot",
                fill="url(#hatched)" if hatched else None,
            )
        )
    return join(parts)


def _table(costs: Costs) -> Html:
    names = [name for name in COUNTED if any(name in layer.figures for layer in costs.layers)]
    limited = any(layer.tightest for layer in costs.layers)
    heading = [
        "layer",
        "kind",
        *(TOLD.get(name, name) for name in names),
        *(("decides", "would ease it") if limited else ()),
    ]
    rows = [
        [
            layer.name,
            layer.kind,
            *(_figure(layer.figures.get(name)) for name in names),
            *(
                (layer.tightest if layer.fits else f"{layer.tightest}: fits no core", layer.remedy)
                if limited
                else ()
            ),
        ]
        for layer in costs.layers
    ]
    if costs.totals:
        rows.append(
            [
                "all",
                "",
                *(_figure(costs.totals.get(name)) for name in names),
                *(("", "") if limited else ()),
            ]
        )
    return join(
        (
            table(
                "What each layer takes; * marks estimates, all else is exact or published",
                heading,
                rows,
            ),
            *(paragraph(note, class_="small") for note in costs.notes),
        )
    )


def _figure(found: Number | None) -> object:
    if found is None:
        return "-"
    return Numeric(quantity(found.value) + ("*" if found.status == "estimated" else ""))


def _limits(costs: Costs) -> Html:
    if not costs.limits:
        return Html("")
    return table(
        "Limits of the chip, and who says so",
        ["limit", "value", "how it is known", "source"],
        [
            [name.replace("_", " "), limit.value, limit.status, limit.source]
            for name, limit in costs.limits.items()
        ],
    )
