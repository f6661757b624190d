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

from neurocompile.errors import FormatError, MissingDependencyError, OptionError
from neurocompile.page import document, write_page
from neurocompile.page.markup import Html, element
from neurocompile.page.summary import pair_verdict
from neurocompile.statistics import Share
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
        self.headings: list[list[str]] = []  # of each table, by column
        self._inside: str | None = None
        self._heading = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside
        if tag == "thead":
            self.headings.append([])
        self._heading = tag == "th" and ("scope", "col") in attrs
        if self._heading:
            self.headings[-1].append("")
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._heading = False
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif self._inside is None:
            self.words.append(data)
            if self._heading:
                self.headings[-1][-1] += data

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
        "loihi2integers80.00 %2 of 360",
        "Undecided samples, in which no output is largest: fixedpoint 2 of 360, loihi2 2 of 360.",
        "weights are off by more than rounding explains: a bug",
        "Looked for in 2 samples, some of them chosen because they differ",
        "Read-outs, float / fixedpoint, on 4 examined samples",
        "readout1 of 4 (4.56 to 69.94 %)2 of 4 (15.00 to 85.00 %)0.1250.25",
        "Estimates are the distances of lif2 (from 256 drawn of 1\N{NARROW NO-BREAK SPACE}024 different pairs of trains).",
        "Versions of this verification",
        "lava-nc0.9.0",
        "Versions of the export",
        "dtnot given",
        "Clearly better than the program as it is: 8 bits.",
        "4 of 4 (51.01 to 100.00 %)",
        "-1.500 to -0.600",
    ):
        assert told in page.text


def test_captions_name_the_stages_and_the_samples(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    assert report.examination is not None
    examination = replace(report.examination, reference="torch", candidate="quantised")

    page = read(replace(report, examination=examination))

    for told in (
        "torch / quantised, on 4 examined samples. Own: the layer alone, run on the input spikes of torch",
        "Errors of layers, torch / quantised, on 4 examined samples",
        "torch / quantised, on 4 examined samples. Distances of spike trains (van Rossum",
        "Weights before (torch) and after quantisation (quantised)",
        "Membranes before and after quantisation, torch / quantised, on 4 examined samples",
        "Other ways to quantise, measured on 4 examined samples",
        "Share of places that differ from torch, on 4 examined samples.",
    ):
        assert told in page.text


def test_shares_of_places_are_not_called_shares_of_spikes(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    """Of 1 105 920 places 33 177 differ, but the reference fired only in a fifth of them."""
    page = read(report)

    assert "Differing places (sample, step, neuron), of all places and for each spike" in page.text
    assert "float / quantised≈differ: rounded3.000 %15.00 %" in page.text
    assert "of spikes differ" not in page.text.replace("3.1 % of spikes differ", "")  # a budget's


@pytest.mark.parametrize(
    ("stages", "mismatches", "outputs", "told"),
    [
        (("torch", "float"), 0, 4, "✓all spikes equal, outputs differ by up to 1.2e-06"),
        (("torch", "float"), 3, 4, "≈differ: float noise"),
        (("float", "quantised"), 3, 4, "≈differ: rounded"),
        (("torch", "fixedpoint"), 3, 4, "≈differ: rounded"),
        (("float", "quantised"), 0, 0, "✓equal"),
    ],
)
def test_rounding_is_not_called_float_noise(
    report: Report, stages: tuple[str, str], mismatches: int, outputs: int, told: str
) -> None:
    pair = report.comparisons[0]
    layers = (replace(pair.layers[0], mismatches=mismatches), replace(pair.layers[1], mismatches=0))

    found = pair_verdict(
        replace(
            pair,
            reference=stages[0],
            candidate=stages[1],
            layers=layers,
            output_mismatches=outputs,
            output_difference=1.2e-6,
        )
    )

    assert Elements(found).text == told


def test_a_tie_accuses_no_target(report: Report, read: Callable[[Report], Elements]) -> None:
    """One ulp of float64 above the threshold: nothing was quantised, and no target computed wrongly."""
    found = report.examination
    assert found is not None
    tie = replace(
        found.causes[0].divergence,
        membrane=1.0,
        threshold=1.0,
        reference_membrane=1 + 2**-52,
        reference_threshold=1.0,
    )
    causes = (
        replace(found.causes[0], divergence=tie, contributions=(), note="float64 decides the tie"),
    )
    overall = replace(report.overall, first_divergence=tie)
    pairs = (*report.comparisons[:-1], overall)

    page = read(
        replace(
            report,
            overall=overall,
            comparisons=pairs,
            examination=replace(found, causes=causes),
        )
    )

    assert "Membrane 1 at a threshold of 1; in torch 1 at 1 (2.22e-16 above it)." in page.text
    assert page.text.count("Nothing that was quantised moved the margin.") == 2
    assert page.text.count("float64 decides the tie") == 2
    assert "computed another number" not in page.text


def test_integers_that_differ_are_the_target_s_own(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    found = report.examination
    assert found is not None
    first = found.causes[0].divergence
    pair = replace(report.comparisons[3], first_divergence=first, output_mismatches=1)
    cause = replace(found.causes[0], reference="fixedpoint", candidate="loihi2", contributions=())

    page = read(
        replace(
            report,
            comparisons=(*report.comparisons[:3], pair, report.overall),
            examination=replace(found, causes=(cause,)),
        )
    )

    told = "loihi2 computed another number than fixedpoint from the same integers: no rounding"
    assert page.text.count(told) == 2


def test_nothing_that_is_clearly_better_is_said(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    found = report.examination
    assert found is not None
    unclear = tuple(replace(item, better=False) for item in found.alternatives)
    unknown = tuple(replace(item, difference=None) for item in unclear)

    page = read(replace(report, examination=replace(found, alternatives=unclear)))
    old = read(replace(report, examination=replace(found, alternatives=unknown)))

    assert "None of these is clearly better than the program as it is" in page.text
    assert "clearly better than" not in old.text  # nobody has looked


def test_layers_that_a_pair_leaves_out_are_named(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    missing = {"'pool' in torch / loihi2": "torch does not show it"}

    page = read(replace(report, not_measured=missing))

    assert "Not compared: 'pool' in torch / loihi2 (torch does not show it)." in page.text
    assert "Not compared" not in read(report).text


def test_a_network_of_one_output_has_no_classes(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    found = report.examination
    assert found is not None
    readouts = (replace(found.readouts[0], own=Share(0, 0), total=Share(0, 0)),)
    stages = tuple(
        replace(stage, accuracy=None, accuracy_over_steps=None) for stage in report.stages
    )
    reason = "the network has one output, no classes"

    page = read(
        replace(
            report,
            stages=stages,
            examination=replace(found, readouts=readouts),
            not_measured={"accuracy": reason, "decisions": reason},
        )
    )

    assert f"Not measured: accuracy ({reason})." in page.text
    assert "readoutno classesno classes0.1250.25" in page.text


def test_dashes_are_explained_where_there_are_any(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    network = {**report.network, "synapses": report.network["synapses"][:-1]}

    assert "Dashed lines lead back in time." in read(report).text
    assert "Dashed" not in read(replace(report, network=network)).text


def test_headings_of_a_table_are_distinct(
    report: Report, read: Callable[[Report], Elements]
) -> None:
    for headings in read(report).headings:
        assert len({name.strip() for name in headings}) == len(headings), headings


def test_a_page_that_is_too_large_whatever_is_left_out_is_refused(tmp_path: Path) -> None:
    top = Html("x" * document.LARGEST_PAGE)

    with pytest.raises(OptionError, match="a page must have at most 8000000 bytes"):
        document.write_document(
            tmp_path / "page.html", "t", top, [("a", "A", element("p", "x"))], element("p")
        )

    assert list(tmp_path.iterdir()) == []


def test_what_stands_above_the_sections_takes_room_as_well() -> None:
    small, large = element("p", "x"), element("p", "y" * 2_000_000)
    top = Html("z" * (document.room_beside((small, large)) + 1))

    kept = document.fitting([("a", "A", small), ("b", "B", large)], top)

    assert [content for _, _, content in kept] == [small, document.LEFT_OUT]


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
        "Not measured: accuracy (the data has no labels).",
        "Not measured: accuracy over steps (the data has no labels).",
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
        "2 things were not measured",
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
