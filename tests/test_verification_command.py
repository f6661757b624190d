"""`neurocompile verify` as a person types it: what it writes, refuses, and answers with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import neurocompile
from neurocompile.cli import main
from neurocompile.frontend.network_to_nir import network_to_nir
from neurocompile.ir import Network

Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    chain: Callable[..., Network],
    dense: Callable[..., Any],
    lif: Callable[..., Any],
) -> Path:
    """A directory with the program of a small network, samples, and samples without labels."""
    directory = tmp_path_factory.mktemp("place")
    generator = np.random.default_rng(3)
    network = chain(
        (6,),
        {
            "fc": dense(generator.normal(size=(9, 6))),
            "lif": lif((9,)),
            "out": dense(generator.normal(size=(3, 9))),
        },
        steps=5,
    )
    graph = directory / "graph.nir"
    graph.write_bytes(network_to_nir(network))
    neurocompile.export(graph, target="fixedpoint", weight_bits=4, output=directory / "program")
    shown = generator.integers(0, 2, (300, 5, 6)).astype(np.float32)
    np.savez(directory / "in.npz", input=shown, label=generator.integers(0, 3, 300))
    np.savez(directory / "bare.npz", input=shown[:3])
    return directory


@pytest.fixture
def verify(place: Path) -> Callable[..., int]:
    """Run the command on the program; "--input" is that of the samples with labels."""

    def run(*arguments: str, data: str | None = "in.npz") -> int:
        given = [] if data is None else ["--input", str(place / data)]
        return main(["verify", str(place / "program"), *given, *arguments])

    return run


@pytest.fixture
def refused(verify: Callable[..., int], capsys: Capture) -> Refused:
    """Run the command, check that it refuses, and return what it says."""

    def run(*arguments: str, data: str | None = "in.npz") -> str:
        capsys.readouterr()
        assert verify(*arguments, data=data) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        return captured.err

    return run


def test_the_report_is_a_page_its_facts_and_a_picture(
    verify: Callable[..., int], tmp_path: Path, capsys: Capture
) -> None:
    report = tmp_path / "report"

    assert verify("--samples", "40", "--report", str(report), "--json", f"{tmp_path}/j.json") == 0

    assert sorted(path.name for path in report.iterdir()) == [
        "raster.png", "report.html", "report.json",
    ]  # fmt: skip
    facts = json.loads((report / "report.json").read_text())
    assert (report / "report.json").read_bytes() == (tmp_path / "j.json").read_bytes()
    assert (facts["samples"], facts["whole_data"], facts["failed"]) == (40, False, False)
    printed = capsys.readouterr().out
    for path in report.iterdir():
        assert f"wrote {path}" in printed
    before = {path.name: path.read_bytes() for path in report.iterdir()}
    assert verify("--samples", "40", "--report", str(report)) == 0
    assert {path.name: path.read_bytes() for path in report.iterdir()} == before


def test_nothing_is_written_if_anything_of_a_report_cannot_be(
    verify: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr("neurocompile.commands.verify.draw_raster", fail)

    with pytest.raises(OSError, match="no room"):
        verify("--samples", "9", "--report", f"{tmp_path}/report", "--json", f"{tmp_path}/j.json")

    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_missed_floor_is_exit_code_1_and_says_by_how_much(
    verify: Callable[..., int], tmp_path: Path, capsys: Capture
) -> None:
    assert verify("--max-mismatch", "99%", "--json", str(tmp_path / "met.json")) == 0
    assert "--max-mismatch 99 % met: float / fixedpoint: spikes differ" in capsys.readouterr().out
    code = verify("--min-accuracy", "99.5%", "--samples", "50", "--json", f"{tmp_path}/j.json")

    assert code == 1
    printed = " ".join(capsys.readouterr().out.split())
    facts = json.loads((tmp_path / "j.json").read_text())
    (budget,) = facts["budgets"]
    assert facts["failed"]
    assert budget["failed"]
    assert budget["measured"] == facts["accuracy"]["fixedpoint"]
    low, high = budget["interval"]
    assert low < budget["measured"] < high
    assert f"--min-accuracy 99.5 % missed by {100 * (0.995 - budget['measured']):.4g} %" in printed
    assert f"(95 %: {100 * low:.4g} % to {100 * high:.4g} %)" in printed


def test_a_golden_is_written_and_compared_with(
    verify: Callable[..., int], refused: Refused, tmp_path: Path, capsys: Capture
) -> None:
    golden = str(tmp_path / "golden")

    assert verify("--samples", "20", "--golden", golden) == 0
    assert f"wrote {golden}" in capsys.readouterr().out
    assert verify("--golden", golden, "--json", str(tmp_path / "j.json"), data=None) == 0
    assert json.loads((tmp_path / "j.json").read_text())["failed"] is False
    assert "8 samples" in capsys.readouterr().out
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "mine.txt").touch()
    said = refused("--golden", str(tmp_path / "else"))
    assert "exists and is no golden: choose another place with --golden" in said


def test_a_verification_that_failed_leaves_no_golden(
    verify: Callable[..., int], tmp_path: Path, capsys: Capture
) -> None:
    golden = tmp_path / "golden"

    assert verify("--min-accuracy", "100%", "--golden", str(golden)) == 1

    assert f"wrote no golden '{golden}': the verification failed" in capsys.readouterr().out
    assert not golden.exists()


def test_options_that_would_change_nothing_are_refused(refused: Refused, tmp_path: Path) -> None:
    golden, report = ["--golden", str(tmp_path / "golden")], ["--report", str(tmp_path / "report")]

    assert "verify needs samples: give --input DATA, or --golden DIR" in refused(data=None)
    said = refused(*golden, *report, "--jobs", "1", "--resume", "--min-accuracy", "1", data=None)
    assert "--jobs, --min-accuracy, --report, --resume changes nothing where a golden is" in said
    assert "--resume keeps what is done in --report DIR, but there is none" in refused("--resume")
    said = refused("--suggest", "--examine", "0")
    assert "--suggest measures on the examined samples, but --examine is 0" in said
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_make_no_sense_are_refused_all_together(refused: Refused) -> None:
    said = refused("--jobs", "0", "--examine", "-1", "--samples", "0", "--deadline", "0")

    for text in (
        "--samples must be at least 1, but it is 0",
        "--jobs must be at least 1, but it is 0",
        "--examine must be at least 0, but it is -1",
        "--deadline must be more than 0 seconds, but it is 0",
    ):
        assert text in said


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--max-mismatch", "much"], "--max-mismatch must be a share, as 0.5% or 0.005"),
        (["--min-accuracy", "98"], "write 98% for that"),
        (["--max-accuracy-drop", "-1%"], "--max-accuracy-drop must be from 0 to 100 %"),
        (["--min-accuracy", "120%"], "--min-accuracy must be from 0 to 100 %, but it is 120 %"),
        (["--max-mismatch", "nan"], "but it is 'nan'"),
        (["--max-mismatch", "100%"], "--max-mismatch 100 % can never be missed"),
    ],
)
def test_floors_that_make_no_sense_are_refused(
    arguments: list[str], text: str, refused: Refused
) -> None:
    assert text in refused(*arguments)


def test_floors_without_what_they_need_are_refused(refused: Refused) -> None:
    said = refused("--min-accuracy", "90%", data="bare.npz")

    assert "--min-accuracy needs labels, but the data has none" in said


def test_jobs_do_not_change_a_byte(verify: Callable[..., int], tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"

    assert verify("--json", str(one)) == 0
    assert verify("--json", str(two), "--jobs", "2") == 0

    assert one.read_bytes() == two.read_bytes()


def test_an_interrupted_verification_goes_on_where_it_was(
    verify: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurocompile.verification import stream

    report = tmp_path / "report"
    counted: list[int] = []
    count = stream.count_chunk

    def interrupted(runner: Any, samples: Any, offset: int, **options: Any) -> Any:
        if len(counted) == 2:
            raise KeyboardInterrupt
        counted.append(offset)
        return count(runner, samples, offset, **options)

    monkeypatch.setattr(stream, "count_chunk", interrupted)
    assert verify("--report", str(report), "--resume") == 2
    assert os.listdir(report) == ["unfinished"]  # noqa: PTH208

    def resumed(runner: Any, samples: Any, offset: int, **options: Any) -> Any:
        counted.append(offset)
        return count(runner, samples, offset, **options)

    monkeypatch.setattr(stream, "count_chunk", resumed)
    assert verify("--report", str(report), "--resume") == 0

    assert len(counted) == len(set(counted)) == 3
    assert "unfinished" not in os.listdir(report)  # noqa: PTH208
    assert verify("--json", str(tmp_path / "whole.json")) == 0
    assert (report / "report.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_only_one_of_several_processes_speaks(
    verify: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    from neurocompile.verification.ranks import Ranks

    monkeypatch.setattr("neurocompile.commands.verify.ranks_here", lambda: Ranks(1, 2))

    assert verify("--samples", "5", "--json", str(tmp_path / "facts.json")) == 0

    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_examining_nothing_is_said(verify: Callable[..., int], tmp_path: Path) -> None:
    assert verify("--examine", "0", "--samples", "5", "--json", str(tmp_path / "facts.json")) == 0

    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["examination"] is None
    assert facts["not_measured"]["examination"] == "it was left out (--examine 0)"
