"""Weights and membranes before and after quantisation, and how much room the range proof leaves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from neurocompile.page.absent import absent, examined_pair, unexamined
from neurocompile.page.drawn import Drawing
from neurocompile.page.markup import Html, Numeric, details, join, label, percent, quantity, table
from neurocompile.page.plots import Plot, Trace, axis, bars, draw, height_of, named_axis
from neurocompile.verification.report import Histogram, Report

MOST_HISTOGRAMS = 50
MOST_BINS = 1500  # of all histograms of a kind together
FEWEST_BINS = 20  # of one


def weights(report: Report) -> Html:
    """Return histograms of weights."""
    found = report.examination.weights if report.examination else ()
    if not found:
        return unexamined(report, "histograms of weights", "weights", "histograms")
    return _histograms(found, "weights", report)


def membranes(report: Report) -> Html:
    """Return histograms of membranes."""
    found = report.examination.membranes if report.examination else ()
    if not found:
        return unexamined(report, "histograms of membranes", "membranes", "histograms")
    return _histograms(found, "membranes", report)


def _histograms(found: Sequence[Histogram], kind: str, report: Report) -> Html:
    stages = examined_pair(report)
    shown = found[:MOST_HISTOGRAMS]
    most = max(FEWEST_BINS, MOST_BINS // len(shown))
    blocks = [
        details(
            f"{item.name}: {_clipping(item)}",
            _histogram(item, kind, f"{kind}-{at}", most, stages),
            open_=at == 0,
            class_="block",
        )
        for at, item in enumerate(shown)
    ]
    if len(found) > MOST_HISTOGRAMS:
        blocks.append(Html(f"<p>{len(found) - MOST_HISTOGRAMS} more are in report.json only.</p>"))
    return join(blocks)


def _clipping(item: Histogram) -> str:
    total = sum(item.candidate)
    if not item.clipped:
        return "none clipped"
    return f"▼ {quantity(item.clipped)} of {quantity(total)} clipped"


def _histogram(item: Histogram, kind: str, key: str, most: int, stages: tuple[str, str]) -> Html:
    first, second = (f"before, {stages[0]}", f"after, {stages[1]}")
    edges, before, after = _coarser(item, most)
    centres = [(left + right) / 2 for left, right in pairwise(edges)]
    widths = [right - left for left, right in pairwise(edges)]
    traces: list[Trace] = [
        {
            "type": "bar",
            "name": label(first),
            "x": centres,
            "y": before,
            "width": widths,
            "marker": {
                "color": "@bar",
                "pattern": {"shape": "/", "fgcolor": "@ink", "size": 6, "fillmode": "overlay"},
            },
            "hoverinfo": "x+y+name",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": label(second),
            "x": [edges[0], *edges],
            "y": [0, *after, 0],
            "line": {"color": "@ink", "width": 2, "shape": "hv"},
            "hoverinfo": "x+y+name",
        },
    ]
    shapes = []
    filled = [at for at, count in enumerate(after) if count]
    if item.clipped and filled:
        ends = (edges[filled[0]], edges[filled[-1] + 1])
        shapes += [_upright(x, "@missing", "dash") for x in ends]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "ends after clipping",
                "x": list(ends),
                "y": [max(*before, *after)] * 2,
                "marker": {"symbol": "triangle-down", "size": 12, "color": "@missing"},
                "hoverinfo": "x+name",
            }
        )
    threshold = ""
    if item.threshold is not None:
        shapes.append(_upright(item.threshold, "@ink", "dot"))
        threshold = f" The dotted line is the threshold, {item.threshold:.6g}."
    return draw(
        Plot(
            key,
            f"{kind.capitalize()} of {item.name}",
            f"Hatched bars before quantisation ({stages[0]}), outline after it ({stages[1]}); "
            f"{_clipping(item)}.{threshold}",
            traces,
            table(
                "Values in each bin",
                ["from", "to", first, second],
                [
                    [Numeric(f"{left:.5g}"), Numeric(f"{right:.5g}"), *counts]
                    for left, right, counts in zip(
                        edges, edges[1:], zip(before, after, strict=True), strict=False
                    )
                    if any(counts)
                ],
            ),
            {
                "xaxis": axis("value, in the source's units"),
                "yaxis": axis("count", rangemode="tozero"),
                "bargap": 0,
                "shapes": shapes,
            },
        )
    )


def _coarser(item: Histogram, most: int) -> tuple[list[float], list[int], list[int]]:
    """Return the bins, several taken together where there are very many."""
    count = len(item.reference)
    each = -(-count // most) or 1
    starts = range(0, count, each)
    edges = [*(item.edges[at] for at in starts), item.edges[-1]]
    return (
        edges,
        [sum(item.reference[at : at + each]) for at in starts],
        [sum(item.candidate[at : at + each]) for at in starts],
    )


def _upright(x: float, colour: str, dash: str) -> Trace:
    return {
        "type": "line",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": colour, "dash": dash, "width": 1.5},
    }


def head_room(report: Report, drawing: Drawing | None) -> Html:
    """Return how near the proven ranges come to their limits."""
    proven = [
        (population, population.bound)
        for population in (drawing.populations if drawing else ())
        if population.bound is not None
    ]
    if not proven:
        return absent(report, "the range proof's head-room", "network", "head_room")
    names = [population.name for population, _ in proven]
    current = [100 * reach.current / max(1, reach.current_limit) for _, reach in proven]
    membrane = [100 * reach.membrane / max(1, reach.membrane_limit) for _, reach in proven]
    return draw(
        Plot(
            "head-room",
            "Range proof: the largest that can be reached, of what fits",
            "% of the limits of current and membrane. At most 100 % is proven for any input; membranes that "
            "saturate are marked in the table.",
            [bars("current", current, 0), bars("membrane", membrane, 1)],
            table(
                "Proven ranges",
                [
                    "layer",
                    "current",
                    "limit of current",
                    "membrane",
                    "limit of membrane",
                    "larger by",
                    "membranes",
                ],
                [
                    [
                        population.name,
                        reach.current,
                        reach.current_limit,
                        reach.membrane,
                        reach.membrane_limit,
                        "-"
                        if population.head_room is None
                        else Numeric(f"{population.head_room:.2f} times"),
                        "saturate" if population.saturates else "proven",
                    ]
                    for population, reach in proven
                ],
            ),
            {
                "barmode": "group",
                "xaxis": axis("% of the limit", range=[0, max(105, *current, *membrane)]),
                "yaxis": named_axis(names),
            },
            height_of(names, 2),
        )
    )


def counters(report: Report) -> Html:
    """Return what the target counted while it ran."""
    if not report.counters or not any(report.counters.values()):
        return absent(report, "what the target counts while it runs", "counters")
    keys = list(dict.fromkeys(key for counts in report.counters.values() for key in counts))
    slots = {layer.name: layer.slots for layer in report.overall.layers}
    return table(
        "What the target counted over all samples, and its share of the layer's places",
        ["layer", *keys],
        [
            [
                layer,
                *(
                    Numeric(
                        quantity(counts[key])
                        + (
                            f" ({percent(counts[key] / slots[layer], 3)})"
                            if slots.get(layer)
                            else ""
                        )
                    )
                    if key in counts
                    else "-"
                    for key in keys
                ),
            ]
            for layer, counts in report.counters.items()
        ],
    )
