"""What a page does in a browser: headless Chromium, without any network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from neurocompile.page import write_comparison, write_page
from neurocompile.page.entries import entry_of_report
from neurocompile.verification.report import Report

READY = "html[data-ready='yes']"
WIDTH = "document.documentElement.scrollWidth"
DRAWN = "#raster-plot .main-svg"


@dataclass
class Shown:
    """A page in the browser, what it asked the network for and what went wrong."""

    page: Any
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def all_drawn(self) -> None:
        """Open everything and scroll through it, so that every plot is drawn."""
        self.page.evaluate(
            "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
        )
        for place in self.page.query_selector_all("[data-plot]"):
            place.scroll_into_view_if_needed()
            key = place.get_attribute("id")
            self.page.wait_for_selector(f"#{key} .main-svg", state="attached")


@pytest.fixture(scope="module")
def show(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Shown]]:
    """Write a page, open it from disk and watch it."""
    opened = []

    def show(write: Callable[[Path], None], width: int = 1280, **more: Any) -> Shown:
        file = tmp_path_factory.mktemp("page") / "page.html"
        write(file)
        page = chromium.new_page(viewport={"width": width, "height": 800}, **more)
        page.set_default_timeout(60_000)
        opened.append(page)
        shown = Shown(page)

        def refuse(dialog: Any) -> None:
            shown.problems.append("dialog")
            dialog.dismiss()

        page.on("request", lambda request: shown.requests.append(request.url))
        page.on("pageerror", lambda error: shown.problems.append(str(error)))
        page.on("console", lambda message: shown.problems.append(message.text))
        page.on("dialog", refuse)
        page.goto(file.as_uri())
        page.wait_for_selector(READY)
        return shown

    yield show
    for page in opened:
        page.close()


@pytest.fixture(scope="module")
def opened(show: Callable[..., Shown], report: Report) -> Shown:
    """The page of the full report, opened once."""
    return show(lambda path: write_page(report, path))


@pytest.fixture
def page(opened: Shown) -> Any:
    """The open page as it was at first: sample 1, lif1, all of it, nothing in focus."""
    page = opened.page
    page.wait_for_selector(DRAWN)
    for key, value in (("pair", "0"), ("sample", "1"), ("layer", "0"), ("drag", "zoom")):
        page.select_option(f"#raster-{key}", value)
    page.click("[data-move='reset']")
    page.evaluate("document.body.tabIndex = -1; document.body.focus(); window.scrollTo(0, 0)")
    return page


def test_a_page_loads_without_errors_and_without_network(opened: Shown, tmp_path: Path) -> None:
    opened.all_drawn()

    opened.page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert opened.problems == []
    assert opened.requests == [opened.page.url]
    assert opened.page.evaluate(WIDTH) <= 1280
    cut = """boxes => boxes.filter((box) => box.scrollWidth > box.clientWidth)
        .map((box) => box.getAttribute('aria-label'))"""
    assert opened.page.eval_on_selector_all("section:not(#network) .scroll", cut) == []


def test_a_dark_phone_shows_the_page_as_well(
    show: Callable[..., Shown], report: Report, tmp_path: Path
) -> None:
    shown = show(lambda path: write_page(report, path), 400, color_scheme="dark")
    shown.all_drawn()

    shown.page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert shown.problems == []
    assert len(shown.requests) == 1
    assert shown.page.evaluate(WIDTH) <= 400


def test_a_phone_shows_the_accuracies_whole(show: Callable[..., Shown], report: Report) -> None:
    shown = show(lambda path: write_page(report, path), 400)

    boxes = shown.page.eval_on_selector_all(
        "#summary .scroll", "boxes => boxes.map((box) => [box.scrollWidth, box.clientWidth])"
    )
    assert len(boxes) == 2
    for reach, room in boxes:
        assert reach <= room
    ends = shown.page.eval_on_selector_all(
        "svg.whisker",
        "drawn => drawn.map((one) => one.getBoundingClientRect().right"
        " - one.closest('.scroll').getBoundingClientRect().right)",
    )
    assert len(ends) == 5
    assert max(ends) <= 0


def test_a_comparison_of_four_fits_a_screen(show: Callable[..., Shown], report: Report) -> None:
    entries = [
        entry_of_report(report, name) for name in ("8-bits", "5-bits", "loihi2", "fixedpoint")
    ]

    shown = show(lambda path: write_comparison(entries, path))

    box = "document.querySelector('.scroll')"
    assert shown.page.evaluate(f"{box}.scrollWidth <= {box}.clientWidth")


def test_the_summary_is_one_screen(page: Any) -> None:
    box = page.query_selector("#summary").bounding_box()
    assert box["y"] + box["height"] <= 800


def test_choosing_changes_the_raster(page: Any, opened: Shown) -> None:
    said = page.text_content("#raster-says")
    assert said.startswith("Sample 1, layer lif1, torch above loihi2: 40 neurons differ")

    page.select_option("#raster-layer", label="lif2: 21 neurons differ")
    assert "layer lif2" in page.text_content("#raster-says")
    page.select_option("#raster-sample", "0")
    assert "Sample 0" in page.text_content("#raster-says")
    assert "no neuron differs" in page.text_content("#raster-says")
    page.select_option("#raster-pair", label="fixedpoint / loihi2")

    assert "fixedpoint above loihi2" in page.text_content("#raster-says")
    assert page.text_content("#raster-more") == "No differences."
    assert opened.problems == []


def test_the_raster_tells_its_differences_as_a_table(page: Any, report: Report) -> None:
    exhibit = report.exhibits[1]
    first, last = (exhibit.spikes[stage]["lif2"].reshape(4, -1) for stage in ("torch", "loihi2"))
    steps, neurons = (first != last).nonzero()

    page.select_option("#raster-layer", index=1)

    rows = page.eval_on_selector_all(
        "#raster-list tr",
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))",
    )
    assert [(int(row[0]), int(row[1])) for row in rows] == list(
        zip(steps.tolist(), neurons.tolist(), strict=True)
    )
    assert {row[2] for row in rows} == {"missing", "extra"}


def test_zoom_and_pan_work_by_button_and_by_key(page: Any) -> None:

    def reach() -> list[float]:
        found: list[float] = page.evaluate(
            "[...document.getElementById('raster-plot')._fullLayout.xaxis.range]"
        )
        return found

    assert reach() == pytest.approx([-0.6, 3.6])
    page.click("[data-move='in']")
    assert reach() == pytest.approx([0.45, 2.55])
    page.focus("#raster-plot")
    page.keyboard.press("ArrowRight")
    assert reach() == pytest.approx([0.975, 3.075])
    page.keyboard.press("0")
    assert reach() == pytest.approx([-0.6, 3.6])


def test_dragging_zooms(page: Any) -> None:
    page.query_selector("#raster-plot").scroll_into_view_if_needed()
    box = page.query_selector("#raster-plot .nsewdrag").bounding_box()

    page.mouse.move(box["x"] + 50, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 140, steps=5)
    page.mouse.up()

    page.wait_for_function(
        "(([a, b]) => b - a < 3)(document.getElementById('raster-plot')._fullLayout.xaxis.range)"
    )


def test_everything_is_reached_by_keyboard(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    reached = []
    for _ in range(400):
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
        if reached[-1] == "raster-plot":
            break
        page.keyboard.press("Tab")

    order = ["raster-pair", "raster-sample", "raster-layer", "raster-drag", "BUTTON", "raster-plot"]
    assert [key for key in order if key in reached] == order


def test_names_of_strangers_do_not_run(show: Callable[..., Shown], hostile: Report) -> None:
    shown = show(lambda path: write_page(hostile, path))
    shown.all_drawn()

    assert shown.problems == []
    assert shown.page.query_selector("img") is None
    assert shown.page.query_selector("svg a") is None


def test_a_deep_network_scrolls_in_its_own_box(show: Callable[..., Shown], deep: Report) -> None:
    shown = show(lambda path: write_page(deep, path), 400)
    shown.all_drawn()

    assert shown.problems == []
    assert shown.page.evaluate(WIDTH) <= 400


def test_print_shows_what_was_closed_on_white_paper(
    show: Callable[..., Shown], report: Report
) -> None:
    shown = show(lambda path: write_page(report, path), color_scheme="dark")
    page = shown.page
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "document.querySelector('#plot-weights-1 .xtick text').style.fill"
    assert page.evaluate(paper) == "rgb(20, 23, 27)"

    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")

    page.wait_for_selector("#plot-weights-1 .main-svg", state="attached")
    assert page.query_selector("details.block:not([open])") is None
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    assert page.evaluate(ink) == "rgb(22, 25, 29)"
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(paper) == "rgb(20, 23, 27)"
    assert shown.problems == []


def test_a_comparison_loads_without_errors(
    show: Callable[..., Shown], report: Report, bare: Report
) -> None:
    entries = [entry_of_report(report, "first"), entry_of_report(bare, "second")]

    shown = show(lambda path: write_comparison(entries, path))
    shown.all_drawn()

    assert shown.page.evaluate(WIDTH) <= 1280
    shown.page.set_viewport_size({"width": 400, "height": 800})
    assert shown.page.evaluate(WIDTH) <= 400
    assert shown.problems == []
    assert len(shown.requests) == 1


def test_texts_have_contrast(page: Any) -> None:
    """WCAG 2.1, 1.4.3: at least 4.5 to 1, in both schemes."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ratios = page.evaluate("""() => {
          const style = getComputedStyle(document.documentElement);
          const light = (name) => {
            const hex = style.getPropertyValue(name).trim().slice(1);
            const part = (at) => {
              const value = parseInt(hex.slice(at, at + 2), 16) / 255;
              return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
            };
            return 0.2126 * part(0) + 0.7152 * part(2) + 0.0722 * part(4);
          };
          const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          const found = {};
          for (const front of ["ink", "faint", "accent", "good", "bad", "warn"]) {
            for (const back of ["paper", "raised"]) {
              found[front + " on " + back] = ratio(light("--" + front), light("--" + back));
            }
          }
          for (const back of ["low", "high"]) {
            found["ink on " + back] = ratio(light("--ink"), light("--" + back));
          }
          return found;
        }""")
        assert {name: value for name, value in ratios.items() if value < 4.5} == {}
