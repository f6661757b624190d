"""
Plots as Plotly's own JSON, drawn by the page when they come into sight.

Every plot has a fixed key, a sentence and a table that say the same. Colours are names that begin
with "@": the page puts in those of its scheme, light or dark. No two series differ by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neurocompile.page.markup import Html, details, element, json_script, label

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square-open", "triangle-up", "x", "diamond-open", "cross")
PATTERNS = ("", "/", ".", "x", "-", "\\")
ROW = 24  # pixels of a bar

Trace = dict[str, Any]


@dataclass(frozen=True)
class Plot:
    """A plot: `key` is unique in the page, `says` and `table` are for those who do not see it."""

    key: str
    title: str
    says: str
    traces: Sequence[Trace]
    table: Html
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 300


def draw(plot: Plot) -> Html:
    """Return the place of the plot, its data and its table."""
    layout = {"height": plot.height, **plot.layout}
    return element(
        "figure",
        element("figcaption", plot.title, element("span", plot.says, class_="says")),
        element(
            "div",
            id=f"plot-{plot.key}",
            class_="plot",
            role="img",
            aria_label=f"{plot.title}. {plot.says}",
            data_plot=f"data-{plot.key}",
            style=f"min-height:{plot.height}px",
        ),
        json_script(f"data-{plot.key}", {"data": list(plot.traces), "layout": layout}),
        details("The numbers as a table", plot.table),
    )


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a title."""
    return {"title": {"text": title}, **more}


def named_axis(names: Sequence[str], **more: Any) -> dict[str, Any]:
    """Return an axis with a place for each name, the first on top; names need not be distinct."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": [label(name) for name in names],
        "range": [len(names) - 0.5, -0.5],
        "automargin": True,
        "showgrid": False,
        "zeroline": False,
        **more,
    }


def height_of(names: Sequence[str], series: int = 1) -> int:
    """Return the pixels that bars for so many names need."""
    return 110 + max(1, len(names)) * (ROW if series == 1 else 12 * series + 10)


def bars(name: str, values: Sequence[float | None], number: int, **more: Any) -> Trace:
    """Return horizontal bars, one for each name of the axis, in the pattern of series `number`."""
    return {
        "type": "bar",
        "orientation": "h",
        "name": label(name),
        "x": list(values),
        "y": list(range(len(values))),
        "marker": {
            "color": "@bar" if (number + number // 6) % 2 == 0 else "@bar2",
            "line": {"color": "@ink", "width": 0.8},
            "pattern": {
                "shape": PATTERNS[number % len(PATTERNS)],
                "fgcolor": "@ink",
                "size": 6,
                "fillmode": "overlay",
            },
        },
        "hoverinfo": "x+name",
        **more,
    }


def lines(
    name: str,
    x: Sequence[float],
    y: Sequence[float | None],
    number: int,
    *,
    low: Iterable[float] | None = None,
    high: Iterable[float] | None = None,
    **more: Any,
) -> Trace:
    """Return a line in the dashes and symbols of series `number`; `low` to `high` is drawn as its interval."""
    trace: Trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(name),
        "x": list(x),
        "y": list(y),
        "line": {"color": f"@s{number % 6}", "dash": DASHES[number % 6], "width": 2},
        "marker": {
            "symbol": SYMBOLS[(number + number // 6) % 6],
            "size": 8,
            "color": f"@s{number % 6}",
        },
        "hoverinfo": "x+y+name",
        **more,
    }
    if low is not None and high is not None:
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [top - at for top, at in zip(high, y, strict=True) if at is not None],
            "arrayminus": [
                at - bottom for bottom, at in zip(low, y, strict=True) if at is not None
            ],
            "color": f"@s{number % 6}",
            "thickness": 1,
            "width": 3,
        }
    return trace
