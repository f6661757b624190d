from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurocompile.errors import FormatError, MissingDependencyError
from neurocompile.page import document, write_page
from neurocompile.page.markup import Html, element
from neurocompile.verification.report import Divergence, Exhibit, Histogram, Report

SECTIONS = [
    "summary",
    "network",
    "differences",
    "rasters",
    "causes",
    "decisions",
    "values",
    "resources",
    "energy",
    "alternatives",
    "facts",
    "not-measured",
]


class Elements(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._inside: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif self._inside is None:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Report], Elements]:
    def read(report: Report) -> Elements:
        write_page(report, tmp_path / "page.html")
        return Elements((tmp_path / "page.html").read_text(encoding="utf-8"))

    return read


def test_every_part_of_the_report_has_its_place(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    page = read(report)

    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert [key for key in ids if key in SECTIONS] == SECTIONS
    assert len(ids) == len(set(ids))
    for told in (
        "A budget was missed: min-accuracy. Integers are equal.",
        "80.00 %",
        "75.56 to 83.81 %",
        "sample 7, step 1, layer lif1, neuron 37: torch fired and loihi2 did not.",
        "The margin moved from +0.02 to -0.036, most by: weights rounded -0.061",
        "5 (estimated)",
        "125.6 nJ a sample, loihi2",
        "✗--min-accuracy 82 % missed by 2 %: accuracy 80.00 %",
        "quantisation-aware training takes a training run",
        "--scales channel",
        "dt0.0001, from the file's metadata",
        "An estimate from counted operations, not a measurement of any chip.",
        "What each layer takes; * marks estimates",
        "12 (0.003 %)",
        "▼ 8 of",
    ):
        assert told in page.text


def test_plots_have_a_sentence_a_table_and_data(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    page = read(report)

    plots = [attributes for _, attributes in page.tags if "data-plot" in attributes]
    data = {attributes["id"]: script for attributes, script in page.scripts if "id" in attributes}
    assert len(plots) == 17
    assert page.text.count("The numbers as a table") == len(plots)
    for attributes in plots:
        assert len(attributes["aria-label"] or "") > 30
        assert json.loads(data[attributes["data-plot"]])["data"]


def test_plotly_accepts_every_plot(report: Report, read: Callable[[Report], Elements]) -> None:
    figures = pytest.importorskip("plotly.graph_objects", reason="plotly is not installed")

    def coloured(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: coloured(item) for key, item in value.items()}
        if isinstance(value, list):
            return [coloured(item) for item in value]
        return "#123456" if isinstance(value, str) and value.startswith("@") else value

    for attributes, script in read(report).scripts:
        if str(attributes.get("id")).startswith("data-"):
            figures.Figure(coloured(json.loads(script)))  # raises for what Plotly does not know


def test_series_differ_by_more_than_colour(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    for attributes, script in read(report).scripts:
        if not str(attributes.get("id")).startswith("data-"):
            continue
        looks = [
            (
                trace["type"],
                trace.get("line", {}).get("dash"),
                trace.get("marker", {}).get("symbol"),
                trace.get("marker", {}).get("pattern", {}).get("shape"),
            )
            for trace in json.loads(script)["data"]
        ]
        assert len(looks) == len(set(looks)), attributes["id"]


def test_the_same_report_gives_the_same_bytes_of_bounded_size(
    report: Report, tmp_path: Path
) -> None:
    write_page(report, tmp_path / "a.html")
    write_page(report, tmp_path / "b.html")

    content = (tmp_path / "a.html").read_bytes()
    assert content == (tmp_path / "b.html").read_bytes()
    assert len(content) < document.LARGEST_PAGE


def test_the_policy_allows_the_page_s_own_scripts_and_nothing_else(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    page = read(report)

    (policy,) = (
        attributes["content"]
        for _, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    hashes = r"( 'sha256-[0-9A-Za-z+/]{43}='){3}"
    assert re.fullmatch(
        rf"default-src 'none'; script-src{hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'",
        policy,
    )
    run = [script for attributes, script in page.scripts if "type" not in attributes]
    found = {
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in run
    }
    assert found == set(re.findall(r"'sha256-[^']+'", policy))
    for tag, attributes in page.tags:
        assert not {"src", "onclick", "onerror", "onload"} & set(attributes), tag
        if "href" in attributes:
            assert str(attributes["href"]).startswith(("#", "data:,"))


def test_names_cannot_become_markup(hostile: Report, read: Callable[[Report], Elements]) -> None:
    page = read(hostile)

    assert "img" not in {tag for tag, _ in page.tags}
    assert sum("type" not in attributes for attributes, _ in page.scripts) == 3
    assert "</script><script>alert(1)</script>" in page.text
    assert "\u202e" not in page.text


def test_a_deep_network_is_drawn_with_branches_and_loops(
    deep: Report, read: Callable[[Report], Elements]
) -> None:
    page = read(deep)

    edges = [str(attributes["class"]) for tag, attributes in page.tags if tag == "path"]
    assert sum(name.startswith("edge") for name in edges if name) == 36 + 9 + 1
    assert sum(name == "edge back" for name in edges) == 1
    assert "stage8.block3.lif" in page.text


def test_what_was_not_measured_is_said_and_no_plot_is_empty(
    bare: Report, read: Callable[[Report], Elements]
) -> None:
    page = read(bare)

    for told in (
        "Not measured: accuracy, for the data have no labels.",
        "Not measured: what the program takes of its target.",
        "Not measured: the network's populations and synapses.",
        "Not measured: spikes of single samples.",
        "Not measured: causes of first differences (--examine 0 was asked for).",
        "Not measured: own and inherited errors (--examine 0 was asked for).",
        "Not measured: differences by step.",
        "Not measured: histograms of weights (--examine 0 was asked for).",
        "Not measured: distances of spike trains (--examine 0 was asked for).",
        "Not measured: an energy estimate.",
        "Not measured: other ways to quantise (--suggest) (--examine 0 was asked for).",
        "Not measured: the range proof's head-room.",
        "float and fixedpoint fire the same spikes; no two stages of integers were compared.",
        "1 thing was not measured",
    ):
        assert told in page.text
    assert sum("data-plot" in attributes for _, attributes in page.tags) == 2


def test_integers_that_differ_are_the_verdict(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    pairs = list(report.comparisons)
    layers = (replace(pairs[3].layers[0], mismatches=3), *pairs[3].layers[1:])
    first = Divergence(5, 2, "lif1", 9, 0, 1, 12.0, 13.0)
    pairs[3] = replace(pairs[3], layers=layers, first_divergence=first)

    page = read(replace(report, comparisons=tuple(pairs)))

    assert "No: integers differ between fixedpoint and loihi2." in page.text
    assert (
        "sample 5, step 2, layer lif1, neuron 9: loihi2 fired and fixedpoint did not" in page.text
    )
    assert "Not measured: its cause" in page.text


def test_numbers_that_are_none_do_not_break_a_page(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    assert report.examination is not None
    odd = Histogram("odd", (0.0, float("nan"), float("inf")), (1, 2), (2, 1), 0)
    examination = replace(report.examination, weights=(odd,))

    page = read(replace(report, examination=examination))

    assert "Weights of odd" in page.text


def test_a_page_of_a_very_large_network_stays_small(report: Report, tmp_path: Path) -> None:
    names = [f"stage{at}.block.convolution.neurons" for at in range(200)]
    draws = np.random.default_rng(0)
    found = report.examination
    assert found is not None
    cause, histogram, pair = found.causes[0], found.weights[0], report.overall
    trace = replace(
        cause.trace,
        reference=tuple(draws.normal(size=500).tolist()),
        candidate=tuple(draws.normal(size=500).tolist()),
        reference_spikes=(1,) * 500,
        candidate_spikes=(0,) * 500,
    )
    causes = tuple(
        replace(cause, divergence=replace(cause.divergence, layer=name, step=300), trace=trace)
        for name in names
    )
    counts = tuple(draws.integers(0, 9**9, 512).tolist())
    edges = tuple(np.linspace(-1, 1, 513).tolist())
    histograms = tuple(
        replace(histogram, name=name, edges=edges, reference=counts, candidate=counts)
        for name in names
    )
    steps = tuple(draws.integers(0, 9**9, 1000).tolist())
    layers = tuple(
        replace(pair.layers[0], name=name, slots=10**12, mismatches=10**10, by_step=steps)
        for name in names
    )
    overall = replace(pair, layers=layers)
    spikes = draws.integers(0, 2, (50, 4096), dtype=np.uint8)
    large = replace(
        report,
        overall=overall,
        comparisons=(overall,) * 5,
        energy=tuple(
            replace(item, layers=tuple(replace(item.layers[0], name=name) for name in names))
            for item in report.energy * 3
        ),
        examination=replace(found, causes=causes, weights=histograms, membranes=histograms),
        exhibits=(
            Exhibit(
                0, None, dict.fromkeys(("torch", "loihi2"), dict.fromkeys(names, spikes)), {}, {}
            ),
        ),
        network={
            "populations": [
                {"name": name, "kind": "neurons", "shape": [64, 8, 8], "neurons": 4096, "depth": at}
                for at, name in enumerate(names)
            ],
            "synapses": [
                {
                    "name": f"conv{at}",
                    "source": source,
                    "target": name,
                    "kind": "dense",
                    "synapses": 9,
                }
                for at, (source, name) in enumerate(pairwise(names))
            ],
        },
    )

    write_page(large, tmp_path / "page.html")

    assert (tmp_path / "page.html").stat().st_size < document.LARGEST_PAGE
    shown = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "140 causes more are in report.json only." in shown
    assert "Steps 280 to 319 are shown." in shown
    assert "10 steps are taken together." in shown


def test_what_has_no_room_is_left_out_and_says_so() -> None:
    small, large = element("p", "x"), element("p", "y" * 1000)
    huge = Html("<p>" + "z" * document.LARGEST_PAGE + "</p>")

    kept = document.fitting([("a", "A", small), ("b", "B", huge), ("c", "C", large)])

    assert [content for _, _, content in kept] == [small, document.LEFT_OUT, large]


def test_the_cause_that_is_known_is_told(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    """PyTorch shows no membranes: the way from float to the target has a cause, that from torch has none."""
    found = report.examination
    assert found is not None
    causes = (replace(found.causes[0], reference="float", candidate="quantised"),)

    page = read(replace(report, examination=replace(found, causes=causes)))

    assert "float / quantised: sample 7, step 1, layer lif1, neuron 37" in page.text


def test_a_target_without_cores_says_so(
    renamed: Callable[..., Report], read: Callable[[Report], Elements]
) -> None:
    totals = {"neurons": {"value": 778, "status": "exact"}}
    figures = {"kind": "neurons", "neurons": {"value": 778, "status": "exact"}}

    page = read(renamed(target="onnx", resources={"layers": {"lif1": figures}, "totals": totals}))

    assert "The target 'onnx' has no cores: there is no floor plan." in page.text
    assert "this target has no cores" in page.text


def test_a_network_that_contradicts_itself_writes_nothing(
    renamed: Callable[..., Report], tmp_path: Path
) -> None:
    network = {
        "populations": [{"name": "a", "kind": "input", "shape": [1], "neurons": 1, "depth": 0}],
        "synapses": [{"name": "s", "source": "a", "target": "b", "kind": "dense", "synapses": 1}],
    }

    with pytest.raises(
        FormatError,
        match=r"'network.synapses\[0\].target' must be a population, but there is no 'b'",
    ):
        write_page(renamed(network=network), tmp_path / "page.html")

    assert list(tmp_path.iterdir()) == []


def test_without_plotly_the_remedy_is_told(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "find_spec", lambda _name: None)

    with pytest.raises(MissingDependencyError, match=r"pages need plotly.*neurocompile\[plot\]"):
        write_page(report, tmp_path / "page.html")
