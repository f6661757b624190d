"""`neurocompile verify` as a person types it: what it writes, refuses, and answers with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import neurocompile
from neurocompile.cli import main
from neurocompile.console import text_of
from neurocompile.errors import ExecutionError, Problem, ProgramFormatError
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

    assert list(tmp_path.iterdir()) == []


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
    assert "--jobs, --min-accuracy, --report, --resume change nothing where a golden is" in said
    assert "leave them out" in said
    said = refused(*golden, "--suggest", data=None)
    assert "--suggest changes nothing where a golden is compared: give --input, or leave it" in said
    assert "--against names stages, separated by commas, but it is ''" in refused("--against", "")
    assert "but it is 'float,'" in refused("--against", "float,")
    assert "'-' is no name of a file" in refused("--json", "-")
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


@pytest.mark.parametrize(
    ("arguments", "option", "what"),
    [
        (["--report", "r", "--json", "r/report.html"], "--json", "what --report"),
        (["--report", "r", "--json", "r/unfinished/x.json"], "--json", "what --report"),
        (["--report", "r", "--json", "r"], "--json", "what --report"),
        (["--report", "a/r", "--json", "a"], "--json", "what --report"),
        (["--report", "link", "--json", "real/raster.png"], "--json", "what --report"),
        (["--golden", "g", "--json", "g/golden.json"], "--json", "--golden"),
        (["--golden", "g", "--json", "./x/../g"], "--json", "--golden"),
        (["--golden", "g", "--report", "g"], "--report", "--golden"),
        (["--golden", "g", "--report", "g/report"], "--report", "--golden"),
        (["--golden", "r/report.json", "--report", "r"], "--golden", "what --report"),
        (["--golden", "r/unfinished", "--report", "r"], "--golden", "what --report"),
        (["--json", "PROGRAM/manifest.json"], "--json", "the program's directory"),
        (["--report", "PROGRAM"], "--report", "the program's directory"),
        (["--golden", "PROGRAM/golden"], "--golden", "the program's directory"),
        (["--json", "INPUT"], "--json", "the samples"),
    ],
)
def test_places_that_would_be_written_twice_are_refused(
    arguments: list[str],
    option: str,
    what: str,
    place: Path,
    refused: Refused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    named = {"PROGRAM": str(place / "program"), "INPUT": str(place / "in.npz")}
    given = [re.sub("PROGRAM|INPUT", lambda found: named[found[0]], item) for item in arguments]
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}

    assert f"{option} must be elsewhere, but it lies in {what}" in refused(*given)

    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_places_beside_each_other_are_taken(verify: Callable[..., int], tmp_path: Path) -> None:
    report = tmp_path / "report"
    beside = ["--json", f"{report}/report.json", "--golden", f"{report}/golden"]

    assert verify("--samples", "9", "--examine", "0", "--report", str(report), *beside) == 0

    assert sorted(path.name for path in report.iterdir()) == [
        "golden", "raster.png", "report.html", "report.json",
    ]  # fmt: skip


def test_a_replay_does_not_write_over_the_golden(
    verify: Callable[..., int], refused: Refused, tmp_path: Path
) -> None:
    golden = tmp_path / "golden"
    assert verify("--samples", "9", "--examine", "0", "--golden", str(golden)) == 0

    said = refused("--golden", str(golden), "--json", str(golden / "golden.json"), data=None)

    assert "--json must be elsewhere, but it lies in --golden" in said
    assert verify("--golden", str(golden), data=None) == 0


def test_more_samples_than_there_are_are_refused(refused: Refused) -> None:
    assert "--samples 301 is more than there are, but there are 300" in refused("--samples", "301")


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Samples of one step."""
    shown = np.random.default_rng(5).integers(0, 2, (7, 1, 6)).astype(np.float32)
    np.savez(tmp_path / "images.npz", input=shown, label=np.arange(7) % 3)
    return str(tmp_path / "images.npz")


def test_an_input_of_one_step_is_shown_as_often_as_asked(
    verify: Callable[..., int], images: str, tmp_path: Path
) -> None:
    steps = {}
    for asked in ([], ["--steps", "1"], ["--steps", "3", "--jobs", "2"]):
        facts = tmp_path / "facts.json"
        assert verify("--json", str(facts), "--golden", f"{tmp_path}/g", *asked, data=images) == 0
        steps[asked[1] if asked else ""] = json.loads(facts.read_text())["steps"]
        golden = json.loads((tmp_path / "g" / "golden.json").read_text())
        assert golden["steps"] == json.loads(facts.read_text())["steps"]

    assert steps == {"": 5, "1": 1, "3": 3}


def test_steps_that_cannot_be_are_refused(refused: Refused, images: str) -> None:
    said = refused("--steps", "3")
    assert "the inputs have 5 steps of their own, but --steps 3 is asked for: leave" in said
    said = refused("--steps", "6", data=images)
    assert "--steps must be from 1 to 5, which the program's proof covers, but it is 6" in said


def test_what_is_kept_stays_until_the_report_is_written(
    verify: Callable[..., int],
    refused: Refused,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = tmp_path / "report"

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for where in (
        "neurocompile.verification.verify.look_closely",
        "neurocompile.commands.verify.draw_raster",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, interrupted)
            assert verify("--report", str(report), "--resume") == 2
        said = f"'{report}/unfinished' keeps what is counted: the same command goes on there"
        assert said in capsys.readouterr().err
        assert len(list((report / "unfinished").glob("*.tally"))) == 3

    said = refused("--report", str(report))
    assert "keeps what an interrupted verification has counted, but --resume is not given" in said

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it was counted before")

    monkeypatch.setattr("neurocompile.verification.stream.count_chunk", never)
    assert verify("--report", str(report), "--resume") == 0
    assert "unfinished" not in os.listdir(report)  # noqa: PTH208


def test_an_interruption_without_resume_leaves_nothing(
    verify: Callable[..., int], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("neurocompile.verification.stream.count_chunk", interrupted)

    assert verify("--report", str(tmp_path / "report")) == 2

    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.strip() == "neurocompile: stopped"


STARTED = """
import os, signal, sys
from neurocompile import cli
from neurocompile.verification import stream

def ending(*given, **options):
    {}

stream.count_chunk = ending
cli.run()
"""


@pytest.fixture
def start(place: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command as a process, in which something happens when it begins to count."""

    def run(what: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "tmp").mkdir()
        command = ["verify", str(place / "program"), "--input", str(place / "in.npz"), *arguments]
        return subprocess.run(
            [sys.executable, "-c", STARTED.format(what), *command],
            env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_a_termination_cleans_up(
    start: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    found = start(
        "import tempfile\n"
        "    with tempfile.TemporaryDirectory():\n"
        "        os.kill(os.getpid(), signal.SIGTERM)"
    )

    assert (found.returncode, found.stdout, found.stderr) == (143, "", "")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_nobody_expected_is_no_difference(
    start: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    found = start("raise ZeroDivisionError('a bug')")

    assert (found.returncode, found.stdout) == (3, "")
    assert "Traceback" in found.stderr
    assert found.stderr.endswith("ZeroDivisionError: a bug\n")


def test_a_closed_pipe_is_no_difference(place: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        found = subprocess.run(
            [
                sys.executable, "-m", "neurocompile",
                "verify", str(place / "program"), "--input", str(place / "in.npz"),
                "--samples", "5", "--examine", "0",
            ],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )  # fmt: skip
    finally:
        os.close(writing)

    assert (found.returncode, found.stderr) == (128 + signal.SIGPIPE, "")


def test_a_deadline_is_kept(refused: Refused) -> None:
    said = refused("--deadline", "1e-9")

    assert "'float' did not finish before the deadline: give it more with --deadline" in said


def test_the_share_is_of_places(verify: Callable[..., int], capsys: Capture) -> None:
    assert verify("--help") == 0

    said = " ".join(capsys.readouterr().out.split())
    assert "--max-mismatch SHARE Of places (sample, step, neuron) at most" in said


def test_names_of_strangers_do_not_steer_the_terminal(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "\x1b]0;pwned\x07\x1b[31mRED\nneurocompile: all is well"

    def replay(*_: Any) -> None:
        raise ProgramFormatError(Problem(name, "is another"), Problem("", "is damaged", name))

    monkeypatch.setattr("neurocompile.verification.golden.replay_golden", replay)

    said = refused("--golden", "golden", data=None)

    assert r"\x1b]0;pwned\x07\x1b[31mRED\nneurocompile: all is well" in said
    assert all(letter.isprintable() or letter == "\n" for letter in said)
    assert not any(line.startswith("neurocompile: all is well") for line in said.splitlines())


def test_what_a_runtime_printed_keeps_its_lines() -> None:
    quoted = Problem("", "it failed", remedy="it said:\n    one\x1b\n    two")

    assert text_of(ExecutionError(quoted)) == "it failed: it said:\n    one\\x1b\n    two"
    two = ExecutionError("one\n", "two")
    assert text_of(two) == "2 problems\n  - one\\n\n  - two"
