"""
HTML from values that strangers chose: everything is escaped unless it is `Html` already.

Names of layers come from files of others. Besides the characters that HTML gives a meaning to, those are
replaced which move or hide text (controls, changes of direction) and lone surrogates, which no file holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

LONGEST_TEXT = 2000  # characters of one value shown
LONGEST_LABEL = 28  # characters of a name in a plot
TURNS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"


class Html(str):
    """Markup that is safe as it stands."""

    __slots__ = ()


def clean(value: object) -> str:
    """Return `value` as text that shows itself, cut where it is too long."""
    shown = "".join(_shown(character) for character in str(value)[: LONGEST_TEXT + 1])
    return shown if len(shown) <= LONGEST_TEXT else shown[:LONGEST_TEXT] + "…"


def _shown(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return " "
    hidden = code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 or code in TURNS
    return "\N{REPLACEMENT CHARACTER}" if hidden else character


def text(value: object) -> Html:
    """Return `value` for a text or an attribute."""
    return value if isinstance(value, Html) else Html(escape(clean(value), quote=True))


def label(value: object) -> str:
    """Return a short name for a plot; Plotly reads a few tags in texts, so they are escaped for it too."""
    shown = clean(value)
    if len(shown) > LONGEST_LABEL:
        half = LONGEST_LABEL // 2
        shown = f"{shown[: half - 1]}…{shown[-half:]}"
    return escape(shown, quote=False)


def join(parts: Iterable[object]) -> Html:
    """Return parts one after the other."""
    return Html("".join(text(part) for part in parts))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """
    Return an element. Attributes that are None or False are left out, True stands without a value.

    An underscore at the end of a name is dropped, others become hyphens.
    """
    given = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{tag}{given}>{join(content)}</{tag}>")


def paragraph(*content: object, class_: str | None = None) -> Html:
    """Return a paragraph."""
    return element("p", *content, class_=class_)


def details(summary: object, *content: object, open_: bool = False, class_: str = "") -> Html:
    """Return a block that opens by its summary."""
    return element(
        "details", element("summary", summary), *content, open=open_, class_=class_ or None
    )


def table(
    caption: str,
    heading: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    differs: Iterable[tuple[int, int]] = (),
    aligned: bool = True,
) -> Html:
    """
    Return a table in a box that scrolls; the first cell of a row names it.

    Columns with numbers or `Numeric` stand to the right and are not broken, unless `aligned` says that cells
    are of different kinds; `differs` are cells (row, column) to mark.
    """
    marked = set(differs)
    given = [list(row) for row in rows]
    numeric = {
        column
        for row in given
        for column, value in enumerate(row)
        if aligned and column and _is_number(value)
    }

    def names_of(at: int | None, column: int) -> str | None:
        names = ["number"] if column in numeric else []
        names += ["differs"] if (at, column) in marked else []
        return " ".join(names) or None

    body = [
        element(
            "tr",
            *(
                element(
                    "td" if column else "th",
                    quantity(value) if isinstance(value, (int, float)) else value,
                    scope=None if column else "row",
                    class_=names_of(at, column),
                )
                for column, value in enumerate(row)
            ),
        )
        for at, row in enumerate(given)
    ]
    head = element(
        "tr",
        *(
            element("th", name, scope="col", class_=names_of(None, column))
            for column, name in enumerate(heading)
        ),
    )
    return join(
        (
            element("p", caption, class_="caption"),
            element(
                "div",
                element(
                    "table", element("thead", head), element("tbody", *body), aria_label=caption
                ),
                class_="scroll",
                tabindex="0",
                role="region",
                aria_label=caption,
            ),
        )
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Numeric)) and not isinstance(value, bool)


class Numeric(str):
    """Text that stands where numbers stand."""

    __slots__ = ()


def pairs(items: Iterable[tuple[object, object]]) -> Html:
    """Return names and what they are."""
    return element(
        "dl",
        *(join((element("dt", name), element("dd", value))) for name, value in items),
        class_="pairs",
    )


def quantity(value: float) -> Numeric:
    """Return a number as people read it: thousands apart, four digits that count."""
    if isinstance(value, float) and not math.isfinite(value):
        return Numeric("not a number" if math.isnan(value) else f"{value:+}")
    if isinstance(value, int) or (abs(value) >= 1000 and abs(value) < 1e15):
        return Numeric(f"{round(value):,}".replace(",", NARROW_SPACE))
    return Numeric(f"{value:.4g}")


def percent(value: float, digits: int = 2) -> Numeric:
    """Return a share in percent; a small one is never shown as none."""
    if 0 < value < 0.5 * 10.0 ** -(digits + 2):
        return Numeric(f"< {10.0**-digits:.{digits}f} %")
    return Numeric(f"{100 * value:.{digits}f} %")


def json_script(key: str, value: object) -> Html:
    """Return `value` as a data block of the page that no text in it can leave."""
    written = json.dumps(finite(value), separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{text(key)}">{written}</script>')


def finite(value: Any) -> Any:
    """Return `value` with None for what JSON has no number for; numbers lose digits nobody sees."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
