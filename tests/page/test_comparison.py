from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

import neurocompile
from neurocompile.cli import main
from neurocompile.errors import OptionError
from neurocompile.page.comparison import comparison_json, write_comparison
from neurocompile.page.entries import distinct_labels, entry_of_report, read_entries, told_apart
from neurocompile.page.measures import MEASURES
from neurocompile.page.settings import chosen
from neurocompile.statistics import Share
from neurocompile.verification.report import Report

METRICS = {
    "test_accuracy": {"last": 0.8, "best": 0.85, "best_epoch": 3},
    "accuracy_per_moment": [0.5, 0.8],
    "accuracy_per_epoch": [0.4, 0.85, 0.8],
    "samples": 360,
    "settings": {"neuron": {"tau": 0.5}, "seed": 0},
    "versions": {"numpy": "2.4.6"},
    "data": {"name": "digits"},
}


@pytest.fixture
def save(tmp_path: Path) -> Callable[[str, Report], Path]:
    """Write the report.json of a report as `verify --report` does."""

    def save(name: str, report: Report) -> Path:
        directory = tmp_path / name
        directory.mkdir(parents=True)
        (directory / "report.json").write_text(json.dumps(report.to_json()))
        return directory

    return save


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of three LIF neurons behind a dense layer."""
    full = np.ones(3)
    nodes = {
        "input": nir.Input({"input": np.array([2])}),
        "fc": nir.Affine(weight=np.array([[1.0, 0.3], [0.2, 0.7], [0.9, 0.1]]), bias=full / 8),
        "lif": nir.LIF(
            tau=2e-4 * full, r=full, v_leak=0 * full, v_threshold=full / 4, v_reset=0 * full
        ),
        "output": nir.Output({"output": np.array([3])}),
    }
    directory = tmp_path_factory.mktemp("program")
    nir.write(directory / "graph.nir", nir.NIRGraph(nodes=nodes, edges=list(pairwise(nodes))))
    made = neurocompile.export(
        directory / "graph.nir", target="fixedpoint", profile="literal", dt=1e-4
    )
    made.save(directory / "program")
    return directory / "program"


@pytest.fixture
def with_bits(report: Report) -> Callable[[int], Report]:
    def with_bits(bits: int) -> Report:
        facts: dict[str, Any] = json.loads(json.dumps(report.facts))
        facts["quantisation"]["weight_bits"] = bits
        return replace(report, facts=facts)

    return with_bits


def test_settings_that_differ_stand_first(
    save: Callable[[str, Report], Path], with_bits: Callable[[int], Report], tmp_path: Path
) -> None:
    sources = [str(save(f"{bits}-bits", with_bits(bits))) for bits in (8, 5)]
    page, machine = tmp_path / "page.html", tmp_path / "page.json"

    code = main(["report", *sources, "-o", str(page), "--json", str(machine)])

    assert code == 0
    shown = page.read_text(encoding="utf-8")
    assert (
        '<th scope="row">quantisation.weight_bits</th><td>8</td><td class="differs">5</td>' in shown
    )
    for title in ("8-bits", "Accuracy", "Places that differ, by layer", "Own errors, by layer",
                  "Cores, by layer", "Estimated energy, by layer", "Accuracy over time steps"):  # fmt: skip
        assert title in shown
    found = json.loads(machine.read_text())
    assert found["settings_that_differ"] == {
        "quantisation.weight_bits": {"8-bits": "8", "5-bits": "5"}
    }
    assert found["entries"][0]["accuracy"]["count"] == 288


def test_a_training_run_and_a_program_stand_beside_a_verification(
    save: Callable[[str, Report], Path],
    report: Report,
    program: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(METRICS))

    entries = read_entries([save("verified", report), program, tmp_path / "run"])
    write_comparison(entries, tmp_path / "page.html")

    assert [(entry.label, entry.kind) for entry in entries] == [
        ("verified", "verification"),
        ("program", "program"),
        ("run", "training run"),
    ]
    assert entries[2].accuracy == Share(288, 360)
    shown = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "the program was not verified here: give --input DATA" in shown
    assert "a training run has no integers yet: export it" in shown
    assert "Test accuracy over epochs" in shown
    assert (
        "Verified on all 360 samples of digits:test: verified. Not verified: program (a program), "
        "run (a training run)." in shown
    )
    trained = "80.00 % (75.56 to 83.81 %), by training, of 360 test samples</td>"
    assert f"<td>{trained}" in shown
    assert f'<td class="differs">{trained}' not in shown  # of other samples: no difference to mark
    assert '<td class="differs">training run</td>' in shown
    (data,) = re.findall(r'id="data-accuracy">(.*?)</script>', shown)
    assert [(trace["name"], len(trace["x"])) for trace in json.loads(data)["data"]] == [
        ("deployed", 1),
        ("first stage", 1),
        ("by training", 1),
    ]


def test_a_difference_of_accuracies_has_an_interval(report: Report) -> None:
    """
    Of 360 samples 296 and 288 are right: -2.222 points.

    Wilson's intervals are 77.939 to 85.825 % and 75.561 to 83.806 %, so that it is from -2.222 -
    hypot(4.439, 3.603) = -7.939 to -2.222 + hypot(3.806, 4.283) = 3.507.
    """
    drop = dict(MEASURES)["against its first stage, with 95 % interval"]

    assert drop(entry_of_report(report, "a")) == "-2.22 points (-7.94 to +3.51)"


def test_places_and_spikes_are_told_apart(
    save: Callable[[str, Report], Path],
    report: Report,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The reference fires in a fifth of the places."""
    assert main(["report", str(save("one", report)), "-o", str(tmp_path / "page.html")]) == 0

    assert "spikes differ at 3.1000 % of places (15.50 % of spikes)" in capsys.readouterr().out
    entry = entry_of_report(report, "a")
    told = {name: measure(entry) for name, measure in MEASURES}
    assert told["places that differ"] == "3.100 % (torch / loihi2)"
    assert told["differing places for each spike of the first stage"] == "15.50 %"


def test_a_report_beside_a_run_is_taken_and_says_so(
    save: Callable[[str, Report], Path],
    report: Report,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`verify --report RUN` makes such a directory."""
    run, other = save("run", report), save("other", report)
    (run / "metrics.json").write_text(json.dumps(METRICS))

    code = main(["report", str(run), str(other), "-o", str(tmp_path / "page.html")])

    told = capsys.readouterr()
    assert code == 0, told.err
    assert "run: verification, " in told.out
    assert "(report.json was read, metrics.json beside it not)" in told.out
    shown = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "run: report.json was read, metrics.json beside it not." in shown


def test_a_program_beside_its_report_is_verified_anew_if_data_are_given(
    program: Path, report: Report, tmp_path: Path
) -> None:
    both = tmp_path / "both"
    shutil.copytree(program, both)
    (both / "report.json").write_text(json.dumps(report.to_json()))

    (read,) = read_entries([both])
    (verified,) = read_entries([both], lambda _program: replace(report, samples=7))

    assert read.note == "report.json was read, program.json beside it not"
    assert read.report is not None
    assert read.report.samples == 360
    assert verified.report is not None
    assert verified.report.samples == 7


def test_other_files_are_told_what_is_wanted(program: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<!DOCTYPE html>")

    with pytest.raises(OptionError) as refused:
        read_entries([program / "graph.nir", tmp_path / "report.html"])

    wanted = "must be what 'verify --report', 'export' or 'train' wrote, but it is no JSON object"
    assert f"graph.nir' {wanted}: name '{program}'" in str(refused.value)
    assert f"report.html' {wanted}" in str(refused.value)


def test_programs_are_verified_on_the_fly(
    program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(program, tmp_path / "other")
    inputs = np.random.default_rng(0).integers(0, 2, (5, 4, 2)).astype(np.float32)
    np.savez(tmp_path / "in.npz", input=inputs, label=np.arange(5) % 3)
    options = [
        "--input",
        str(tmp_path / "in.npz"),
        "--samples",
        "4",
        "-o",
        str(tmp_path / "page.html"),
    ]

    code = main(["report", str(program), str(tmp_path / "other"), *options])

    assert code == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "program: verification, " in told
    assert "other: verification, " in told
    shown = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Verified on the first 4 samples of " in shown


def test_one_report_gets_its_whole_page(
    save: Callable[[str, Report], Path], report: Report, tmp_path: Path
) -> None:
    assert main(["report", str(save("one", report)), "-o", str(tmp_path / "page.html")]) == 0

    shown = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Verification of a program for loihi2" in shown
    assert "a report&#x27;s JSON holds no spikes" in shown


def test_labels_are_as_long_as_it_takes(tmp_path: Path) -> None:
    paths = [tmp_path / "a/report", tmp_path / "b/report/report.json", tmp_path / "c"]

    assert distinct_labels(paths) == ["a/report", "b/report", "c"]
    assert distinct_labels([tmp_path / "x/bits", tmp_path / "y/bits"]) == ["x/bits", "y/bits"]
    assert distinct_labels([tmp_path / "c", tmp_path / "c"]) == ["c", "c (2)"]
    assert distinct_labels([tmp_path / "c", tmp_path / "c", tmp_path / "c (2)"]) == [
        "1: c",
        "2: c (2)",
        "3: c (2)",
    ]


def test_labels_that_look_the_same_are_numbered(report: Report, tmp_path: Path) -> None:
    """A plot shows the ends of long labels."""
    long = [f"digits-with-a-long-name-{middle}-and-a-long-end" for middle in "ab"]
    assert told_apart(long) == [f"1: {long[0]}", f"2: {long[1]}"]

    write_comparison([entry_of_report(report, "same")] * 2, tmp_path / "page.html")

    shown = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert ">1: same</th>" in shown
    assert ">2: same</th>" in shown
    found = comparison_json([entry_of_report(report, "same")] * 2)
    assert [entry["label"] for entry in found["entries"]] == ["1: same", "2: same"]


def test_numbers_of_different_data_do_not_stand_side_by_side(
    save: Callable[[str, Report], Path],
    report: Report,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = save("one", report)
    other = save("other", replace(report, samples=100, whole=False))

    code = main(["report", str(one), str(other), "-o", str(tmp_path / "page.html")])

    assert code == 2
    told = capsys.readouterr().err
    assert "must be verified on the same data" in told
    assert "the first 100 samples of digits:test" in told
    assert not (tmp_path / "page.html").exists()


def test_all_sources_that_are_wrong_are_told_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text('{"schema": 7}')
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "program.json").write_text("{}")
    (tmp_path / "both" / "metrics.json").write_text("{}")

    code = main(["report", *(str(tmp_path / name) for name in ("empty", "bad.json", "both", "gone")),
                 "-o", str(tmp_path / "page.html")])  # fmt: skip

    assert code == 2
    told = capsys.readouterr().err
    assert (
        "empty' must hold one of report.json, program.json and metrics.json, but it holds none"
        in told
    )
    assert "bad.json: 'schema' must be 1, but it is 7" in told
    assert (
        "both' must hold one of report.json, program.json and metrics.json, but it holds program.json and metrics.json: name the file itself"
        in told
    )
    assert f"there is no '{tmp_path / 'gone'}'" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"test_accuracy": {"last": 1.5, "best": 1.0}}, "'test_accuracy.last' must be a share"),
        ({"test_accuracy": 3}, "'test_accuracy' must be an object"),
        ({"accuracy_per_epoch": [0.1, "x"]}, r"'accuracy_per_epoch\[1\]' must be a number"),
        ({"samples": -1}, "'samples' must be at least 1"),
    ],
)
def test_damaged_metrics_are_refused_by_their_key(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({**METRICS, **change}))

    with pytest.raises(OptionError, match=told):
        read_entries([tmp_path / "metrics.json"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--samples", "3"], "--samples needs --input"),
        (["--input", "digits:test"], "--input needs a program to verify"),
        (["--json", "page.html"], "-o and --json must name two files"),
        (
            ["--json", "one/report.json"],
            "--json must not be what is read, but it is 'one/report.json'",
        ),
        (["-o", "one/../one/report.json"], "-o must not be what is read"),
    ],
)
def test_options_without_effect_are_refused(
    save: Callable[[str, Report], Path],
    report: Report,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    told: str,
) -> None:
    source = save("one", report)
    monkeypatch.chdir(tmp_path)

    assert main(["report", str(source), "-o", "page.html", *options]) == 2

    assert told in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_thirteen_are_too_many(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="from 1 to 12 can stand side by side, but there are 13"):
        read_entries([tmp_path] * 13)


def test_hostile_names_stay_text_side_by_side(hostile: Report, tmp_path: Path) -> None:
    entries = [entry_of_report(hostile, "<script>alert(3)</script>"), entry_of_report(hostile, "b")]

    write_comparison(entries, tmp_path / "page.html")

    shown = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in shown
    assert "<img" not in re.sub(r"<script>.*?</script>", "", shown, flags=re.DOTALL)


def test_statistics_are_no_settings() -> None:
    found = chosen(
        {
            "folding": {"probe_samples": 32},
            "quantisation": {"layers": {"l": {"memory_bits": 9, "chosen": {"method": "mse"}}}},
            "list": [1, 2.5, None, True],
            "import": {"options": {"reset": None}},
        }
    )

    assert found == {
        "quantisation.layers.l.chosen.method": "mse",
        "list": "1, 2.5, none, yes",
        "import.options.reset": "not given",  # "none" is a way to reset
    }


def test_what_is_not_known_is_null_in_the_json(bare: Report) -> None:
    (entry,) = comparison_json([entry_of_report(bare, "bare")])["entries"]

    assert (entry["accuracy"], entry["picojoules"], entry["resources"]) == (None, None, {})
    assert list(entry["not_measured"]) == ["examination", "accuracy"]
