"""The settings of the entries of a comparison: those that differ first."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from neurocompile.page.entries import Entry
from neurocompile.page.facts import NOT_GIVEN, OPTIONS
from neurocompile.page.markup import (
    Html,
    details,
    join,
    pairs,
    paragraph,
    table,
)
from neurocompile.page.measures import UNKNOWN

NOTHING = "-"
MEASURED = ("folding", "notes", "validation")  # of a program's facts: no settings
MOST_SETTINGS = 300  # of those that differ, and of those that are the same
MOST_KEYS = 4000
DEEPEST = 8
LONGEST_LIST = 64


def settings_of(entries: Sequence[Entry]) -> Html:
    """Return the settings: those that differ, those that only some have, those that are the same."""
    settings = [chosen(entry.settings) for entry in entries]
    rows = [[key, *(values.get(key, NOTHING) for values in settings)] for key in keys_of(settings)]
    if len(entries) == 1:
        return join(
            (compared("Settings", entries, rows[:MOST_SETTINGS]), _left(len(rows) - MOST_SETTINGS))
        )
    some = [row for row in rows if NOTHING in row[1:] and len({*row[1:]} - {NOTHING}) == 1]
    same = [row for row in rows if len(set(row[1:])) == 1]
    apart = [row for row in rows if len({*row[1:]} - {NOTHING}) > 1]
    return join(
        (
            compared("Settings that differ", entries, apart[:MOST_SETTINGS])
            if apart
            else paragraph("No setting that all of these have differs."),
            _left(len(apart) - MOST_SETTINGS),
            details(
                f"{len(some)} settings only some of these have",
                compared("Settings that only some have", entries, some[:MOST_SETTINGS]),
                _left(len(some) - MOST_SETTINGS),
            )
            if some
            else "",
            details(
                f"{len(same)} settings are the same in all",
                pairs((row[0], row[1]) for row in same[:MOST_SETTINGS]),
                _left(len(same) - MOST_SETTINGS),
            ),
        )
    )


def chosen(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what was chosen, by dotted keys: of the quantised layers no statistics."""
    return {
        key: value
        for key, value in flat(settings).items()
        if key.partition(".")[0] not in MEASURED
        and not key.endswith(".because")
        and (not key.startswith("quantisation.layers.") or ".chosen." in key)
    }


def _left(count: int) -> Html:
    return paragraph(f"{count} more are not shown.", class_="absent") if count > 0 else Html("")


def keys_of(settings: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the keys that any of them has, in order."""
    return list(dict.fromkeys(key for values in settings for key in values))


def flat(value: Mapping[str, Any]) -> dict[str, str]:
    """Return nested settings as texts by dotted keys."""
    found: dict[str, str] = {}
    _flatten(value, "", found, 0)
    return found


def _flatten(value: object, key: str, found: dict[str, str], depth: int) -> None:
    if len(found) >= MOST_KEYS:
        return
    if isinstance(value, Mapping) and value and depth < DEEPEST:
        options = key.rpartition(".")[2] == OPTIONS
        for name, item in value.items():
            given = NOT_GIVEN if options and item is None else item
            _flatten(given, f"{key}.{name}" if key else str(name), found, depth + 1)
    elif isinstance(value, Mapping):
        found[key] = "…" if value else "none"
    elif isinstance(value, (list, tuple)):
        shown = [_word(item) for item in value[:LONGEST_LIST]]
        more = f", {len(value) - LONGEST_LIST} more" if len(value) > LONGEST_LIST else ""
        found[key] = (", ".join(shown) + more) or "none"
    else:
        found[key] = _word(value)


def _word(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def compared(
    caption: str,
    entries: Sequence[Entry],
    rows: Sequence[Sequence[object]],
    unlike: Container[tuple[int, int]] = (),
) -> Html:
    """
    Return a table with a column for each entry in which what differs from the first is marked.

    `unlike` are cells (row, column) that were measured otherwise than the first column's.
    """
    differs = [
        (at, column)
        for at, row in enumerate(rows)
        for column in range(2, len(row))
        if (at, column) not in unlike
        and str(row[column]) != str(row[1])
        and not {str(row[column]), str(row[1])} & {UNKNOWN, NOTHING}
    ]
    return table(
        caption, ["", *(entry.label for entry in entries)], rows, differs=differs, aligned=False
    )
