from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurocompile.page.markup import (
    LONGEST_TEXT,
    clean,
    element,
    json_script,
    label,
    percent,
    quantity,
    table,
    text,
)


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = element("b", "a < b & c")

    shown = element("p", inner, title='say "x"', class_="faint", hidden=False, open=True)

    assert shown == ('<p title="say &quot;x&quot;" class="faint" open><b>a &lt; b &amp; c</b></p>')


def test_what_moves_or_hides_text_is_replaced() -> None:
    assert clean("a\u202eb\x00c\ud800d\ne") == "a�b�c�d e"
    assert len(clean("x" * 9999)) == LONGEST_TEXT + 1


def test_labels_are_short_and_escaped_for_plotly_too() -> None:
    assert label("<a href='x'>") == "&lt;a href='x'&gt;"
    assert label("stage0.block3.convolution2.neurons") == "stage0.block3…ution2.neurons"


@given(st.text())
def test_no_text_leaves_a_data_block(value: str) -> None:
    shown = json_script("key", {"name": value})

    inside = shown.removeprefix('<script type="application/json" id="key">')
    assert "<" not in inside.removesuffix("</script>")
    assert json.loads(inside.removesuffix("</script>")) == {"name": value}


@given(st.text())
def test_no_text_becomes_an_element(value: str) -> None:
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert len(attrs) <= 1
            found.append(tag)

    Reader().feed(element("p", value, title=value))

    assert found == ["p"]
    text(value).encode()


def test_json_has_no_numbers_that_are_none() -> None:
    shown = json_script("key", [float("nan"), float("inf"), 0.1])

    assert shown.endswith(">[null,null,0.1]</script>")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.00 %"), (1e-9, "< 0.01 %"), (0.5, "50.00 %"), (1.0, "100.00 %")],
)
def test_a_small_share_is_not_shown_as_none(value: float, shown: str) -> None:
    assert percent(value) == shown


def test_thousands_stand_apart() -> None:
    assert quantity(1234567) == "1\u202f234\u202f567"
    assert quantity(0.123456) == "0.1235"


def test_a_table_names_its_rows_and_marks_what_differs() -> None:
    shown = table("What", ["layer", "differ"], [["lif1", 3], ["lif2", "-"]], differs=[(1, 1)])

    assert '<th scope="row">lif1</th><td class="number">3</td>' in shown
    assert '<td class="number differs">-</td>' in shown
    assert '<th scope="col" class="number">differ</th>' in shown
