"""
The network as a drawing: populations from left to right by depth, groups of synapses between them.

Groups that skip populations (branches, residuals) pass above, those that lead back below, dashed. A
drawing has its natural size and scrolls, so that deep networks stay readable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from neurocompile.page.drawn import Drawing, Group, Population
from neurocompile.page.markup import Html, clean, element, join, percent, quantity
from neurocompile.verification.report import LayerComparison

WIDTH, HEIGHT = 148, 84  # of a box, in pixels
ACROSS, DOWN = 50, 20  # between boxes
LANE = 13
BAR = WIDTH - 20
MOST_POPULATIONS = 400


@dataclass(frozen=True)
class Place:
    """The upper left corner of a box."""

    x: int
    y: int


def draw_network(
    drawing: Drawing, layers: Iterable[LayerComparison], loads: Mapping[str, float], load_unit: str
) -> Html:
    """Return the drawing; `loads` are by population, in `load_unit`."""
    mismatches = {layer.name: layer for layer in layers}
    shown = drawing.populations[:MOST_POPULATIONS]
    names = {population.name for population in shown}
    groups = [item for item in drawing.synapses if {item.source, item.target} <= names]
    columns = sorted({population.depth for population in shown})
    column_of = {population.name: columns.index(population.depth) for population in shown}
    above, below = _lanes(groups, column_of)
    top = 14 + LANE * (1 + max(above.values(), default=-1)) + (12 if above else 0)
    places: dict[str, Place] = {}
    filled = dict.fromkeys(range(len(columns)), 0)
    for population in shown:
        column = column_of[population.name]
        y = top + filled[column] * (HEIGHT + DOWN)
        places[population.name] = Place(12 + column * (WIDTH + ACROSS), y)
        filled[column] += 1
    bottom = max(place.y for place in places.values()) + HEIGHT
    width = 24 + len(columns) * WIDTH + (len(columns) - 1) * ACROSS
    height = bottom + 14 + LANE * (1 + max(below.values(), default=-1)) + (12 if below else 0)
    largest = max(loads.values(), default=0.0)
    edges = [
        _edge(group, places, column_of, top - 12, bottom + 12, above.get(at), below.get(at))
        for at, group in enumerate(groups)
    ]
    boxes = [
        _box(
            item,
            places[item.name],
            mismatches.get(item.name),
            loads.get(item.name),
            largest,
            load_unit,
        )
        for item in shown
    ]
    hidden = len(drawing.populations) - len(shown)
    svg = element(
        "svg",
        *edges,
        *boxes,
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"The network: {len(shown)} populations, {len(groups)} groups of synapses.",
    )
    back = (
        " Dashed lines lead back in time."
        if any(_is_back(item, column_of) for item in groups)
        else ""
    )
    more = f" {hidden} populations more are in the table only." if hidden else ""
    return join(
        (
            element(
                "div", svg, class_="scroll", tabindex="0", role="region", aria_label="The network"
            ),
            element(
                "p",
                "Upper bar: places that differ, on a scale of powers of ten from 0.001 % to 100 %. "
                f"Lower bar, hatched: load, {load_unit}, full where it is largest."
                f"{back}{more}",
                class_="faint small",
            ),
        )
    )


def definitions() -> Html:
    """Return the hatching and the arrow head that drawings of a page use."""
    hatch = element(
        "pattern",
        element("rect", class_="load", width=6, height=6),
        element("path", d="M0 6L6 0", class_="hatch"),
        id="hatched",
        width=6,
        height=6,
        patternUnits="userSpaceOnUse",
    )
    head = element(
        "marker",
        element("path", d="M0 0L8 4L0 8z", class_="head"),
        id="head",
        markerWidth=8,
        markerHeight=8,
        refX=8,
        refY=4,
        orient="auto",
        markerUnits="userSpaceOnUse",
    )
    return element(
        "svg",
        element("defs", hatch, head),
        width=0,
        height=0,
        style="position:absolute",
        aria_hidden="true",
    )


def _is_back(group: Group, column_of: Mapping[str, int]) -> bool:
    return column_of[group.target] <= column_of[group.source]


def _lanes(
    groups: list[Group], column_of: Mapping[str, int]
) -> tuple[dict[int, int], dict[int, int]]:
    """Return the lanes above of groups that skip columns and below of those that lead back."""
    lanes: tuple[dict[int, int], dict[int, int]] = ({}, {})
    taken: tuple[list[list[range]], list[list[range]]] = ([], [])
    for at, group in enumerate(groups):
        start, end = sorted((column_of[group.source], column_of[group.target]))
        back = _is_back(group, column_of)
        if not back and end == start + 1:
            continue
        span = range(start, max(end, start + 1))
        lane = next((n for n, spans in enumerate(taken[back]) if _is_free(span, spans)), None)
        if lane is None:
            lane = len(taken[back])
            taken[back].append([])
        taken[back][lane].append(span)
        lanes[back][at] = lane
    return lanes


def _is_free(span: range, taken: Iterable[range]) -> bool:
    return all(span.stop <= other.start or span.start >= other.stop for other in taken)


def _edge(
    group: Group,
    places: Mapping[str, Place],
    column_of: Mapping[str, int],
    top: int,
    bottom: int,
    above: int | None,
    below: int | None,
) -> Html:
    source, target = places[group.source], places[group.target]
    x1, y1 = source.x + WIDTH, source.y + HEIGHT // 2
    x2, y2 = target.x, target.y + HEIGHT // 2
    if above is not None:
        y = top - LANE * above
        path = f"M{x1} {y1 - 8}C{x1 + 30} {y1 - 8} {x1 + 8} {y} {x1 + 44} {y}"
        path += f"L{x2 - 44} {y}C{x2 - 8} {y} {x2 - 30} {y2 - 8} {x2} {y2 - 8}"
    elif below is not None:
        y = bottom + LANE * below
        path = f"M{x1} {y1 + 10}C{x1 + 34} {y1 + 10} {x1 + 34} {y} {x1} {y}"
        path += f"L{x2} {y}C{x2 - 34} {y} {x2 - 34} {y2 + 10} {x2} {y2 + 10}"
    else:
        path = f"M{x1} {y1}C{x1 + 26} {y1} {x2 - 26} {y2} {x2} {y2}"
    told = f"{group.name}: {group.source} to {group.target}, {group.kind}, "
    told += f"{quantity(group.synapses)} synapses"
    told += f", delay {group.delay}" if group.delay else ""
    told += ", computed by the host" if group.on_host else ""
    back = " back" if _is_back(group, column_of) else ""
    return element(
        "path", element("title", told), d=path, class_=f"edge{back}", marker_end="url(#head)"
    )


def _box(
    population: Population,
    place: Place,
    layer: LayerComparison | None,
    load: float | None,
    largest: float,
    unit: str,
) -> Html:
    x, y = place.x, place.y
    shape = "\N{MULTIPLICATION SIGN}".join(map(str, population.shape))
    parts = [
        element("title", f"{population.name}: {population.kind}, {shape}"),
        element(
            "rect",
            x=x,
            y=y,
            width=WIDTH,
            height=HEIGHT,
            rx=5,
            class_="box" if population.kind == "neurons" else "box plain",
        ),
        element("text", _short(population.name), x=x + 10, y=y + 17, font_weight="600"),
        element(
            "text", _short(f"{population.kind} {shape}", 24), x=x + 10, y=y + 31, class_="faint"
        ),
    ]
    if layer is not None and layer.slots:
        share = layer.mismatches / layer.slots
        parts += [
            element("text", f"{percent(share, 3)} differ", x=x + 10, y=y + 45, class_="faint"),
            _bar(x + 10, y + 48, _decades(share), "differ"),
        ]
    if load is not None:
        told = f"load {quantity(load)}"
        parts += [
            element(
                "text", _short(told, 22), element("title", unit), x=x + 10, y=y + 67, class_="faint"
            ),
            _bar(x + 10, y + 70, load / largest if largest else 0.0, "load"),
        ]
    return element("g", *parts)


def _bar(x: int, y: int, share: float, kind: str) -> Html:
    filled = round(BAR * min(1.0, share), 1)
    fill = "url(#hatched)" if kind == "load" else None
    return join(
        (
            element("rect", x=x, y=y, width=BAR, height=7, class_="track"),
            element(
                "rect",
                x=x,
                y=y,
                width=filled,
                height=7,
                class_="differ" if kind == "differ" else None,
                fill=fill,
            ),
        )
    )


def _decades(share: float) -> float:
    """Return how full a bar from 0.001 % to 100 % is, a fifth for each power of ten."""
    if share <= 0:
        return 0.0
    return min(1.0, max(0.02, (math.log10(share) + 5) / 5))


def _short(name: str, most: int = 18) -> str:
    shown = clean(name)
    return shown if len(shown) <= most else f"{shown[: most // 2 - 1]}…{shown[-(most // 2) :]}"
