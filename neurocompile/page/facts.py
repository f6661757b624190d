"""Everything that a program says of itself: source, settings that were inferred, versions, notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neurocompile.page.markup import Html, details, element, join, pairs, paragraph, quantity

TITLES = {
    "source": "Source",
    "import": "Import: options and what was inferred",
    "quantisation": "Quantisation",
    "first_layer": "First layer",
    "folding": "Folding",
    "validation": "Validation of the passes",
    "notes": "Notes",
    "versions": "Versions of the export",
    "decision": "Decision",
}
OPEN = ("source", "import", "notes", "versions")
MOST_ITEMS = 400
DEEPEST = 8
OPTIONS = "options"
NOT_GIVEN = "not given"  # an option that nobody set: "none" may be one that somebody did


def facts(given: Mapping[str, Any]) -> Html:
    """Return the facts of a program, a block for each."""
    if not given:
        return paragraph("Not measured: the program says nothing of itself.", class_="absent")
    return join(
        details(
            TITLES.get(name, name),
            value_of(value),
            open_=name in OPEN,
            class_="block",
        )
        for name, value in given.items()
    )


def value_of(value: Any, depth: int = 0) -> Html:
    """Return plain values as they are nested."""
    if depth > DEEPEST:
        return element("span", "…")
    if isinstance(value, Mapping):
        if not value:
            return element("span", "none", class_="faint")
        items = list(value.items())
        shown = pairs(
            (name, _options(item) if name == OPTIONS else value_of(item, depth + 1))
            for name, item in items[:MOST_ITEMS]
        )
        return join((shown, _more(len(items) - MOST_ITEMS)))
    if isinstance(value, (list, tuple)):
        if not value:
            return element("span", "none", class_="faint")
        if all(not isinstance(item, (Mapping, list, tuple)) for item in value):
            words = ", ".join(_word(item) for item in value[:MOST_ITEMS])
            return join((element("span", words), _more(len(value) - MOST_ITEMS)))
        shown = element(
            "ol", *(element("li", value_of(item, depth + 1)) for item in value[:MOST_ITEMS])
        )
        return join((shown, _more(len(value) - MOST_ITEMS)))
    return element("span", _word(value))


def _options(given: Any) -> Html:
    """Return options; those that nobody gave are said to be so."""
    if not isinstance(given, Mapping):
        return value_of(given)
    return value_of({name: NOT_GIVEN if item is None else item for name, item in given.items()})


def _more(count: int) -> Html:
    return element("span", f"{count} more") if count > 0 else Html("")


def _word(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return quantity(value)
    return str(value)
