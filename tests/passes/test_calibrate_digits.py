"""Calibration at the command line: a network trained on digits, at few bits, on data it was not chosen by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import neurocompile
from neurocompile.cli import main
from neurocompile.data import load_samples

Capture = pytest.CaptureFixture[str]
SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "timesteps": 3,
    "network": {
        "name": "convolutional",
        "stages": [
            {"channels": 8, "kernel": 3, "pool": 2},
            {"channels": 16, "kernel": 3, "pool": 1},
        ],
    },
}
FEW = ("--calibration-samples", "24")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "digits"
    neurocompile.train(preset="digits", output=path, **SETTINGS)
    return path


def export(run: Path, output: Path, *options: str) -> Path:
    target = ["--target", "fixedpoint", "--no-validate"]
    assert main(["export", str(run), *target, *options, "-o", str(output)]) == 0
    return output


def differing(program: Path) -> float:
    """Return the share of spikes that differ from the float network on the test set."""
    report = neurocompile.verify(program, data="digits:test", samples=120, against=["float"])
    comparison = report.between("float", "fixedpoint")
    return comparison.mismatches / comparison.slots


def facts(program: Path) -> dict[str, Any]:
    with neurocompile.load(program) as loaded:
        told: dict[str, Any] = loaded.facts["quantisation"]
    return told


def test_a_search_on_training_data_beats_the_largest_weight_on_test_data(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    bits = ("--weight-bits", "3")
    searched = ("--method", "search", "--calibrate", "digits", *FEW)
    best = ("--scales", "channel", "--rounding", "adaptive", "--correct-biases")

    simple = export(run, tmp_path / "simple", *bits, "--method", "max")
    found = export(run, tmp_path / "found", *bits, *searched)
    finest = export(run, tmp_path / "finest", *bits, *searched, *best)

    assert differing(found) < 0.9 * differing(simple)
    assert differing(finest) < 0.75 * differing(simple)
    assert "calibrated on 24 samples of 'digits', 3 steps" in capsys.readouterr().out
    told = facts(finest)
    assert (told["method"], told["scales"], told["rounding"]) == ("search", "channel", "adaptive")
    assert told["calibration"]["data"] == "digits"
    for layer in told["calibration"]["layers"].values():
        assert layer["minimised"]["after"] <= layer["minimised"]["before"]


def test_the_same_command_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    options = ("--method", "search", "--calibrate", "digits", "--calibration-samples", "6")

    one = export(run, tmp_path / "one", *options)
    two = export(run, tmp_path / "two", *options)

    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_an_npz_file_of_inputs_calibrates_as_a_data_set_does(run: Path, tmp_path: Path) -> None:
    images = load_samples("digits:train", count=8).inputs
    assert isinstance(images, np.ndarray)
    np.savez(tmp_path / "mine.npz", input=images)

    program = export(
        run,
        tmp_path / "program",
        "--correct-biases",
        "--calibrate",
        str(tmp_path / "mine.npz"),
    )

    told = facts(program)["calibration"]
    assert (told["data"], told["samples"], told["steps"]) == ("mine.npz", 8, 3)


@pytest.mark.parametrize(("brightest", "noted"), [(0.5, True), (1.0, False)])
def test_samples_that_show_less_than_the_source_allows_are_told(
    run: Path, tmp_path: Path, capsys: Capture, brightest: float, noted: bool
) -> None:
    """The run was trained on pixels from 0 to 1; what is proven is what the samples have."""
    images = load_samples("digits:train", count=8).inputs
    assert isinstance(images, np.ndarray)
    np.savez(tmp_path / "mine.npz", input=images * brightest)

    export(run, tmp_path / "program", "--calibrate", str(tmp_path / "mine.npz"))

    told = (
        "'input' takes values from 0 to 0.5 alone, which is all that is proven; the source has them"
    )
    assert (told in capsys.readouterr().out) == noted


def test_a_memory_budget_is_kept_and_told(run: Path, tmp_path: Path, capsys: Capture) -> None:
    """
    The first kernels are 8 x 9 weights, the second ones, over pools of 2 x 2, 16 x 8 x 36, the last layer
    10 x 256: 7240 in all, of which 4000 bytes hold 4.4 bits each, and 1810 hold 2.
    """
    program = export(run, tmp_path / "program", "--memory", "4000")

    told = facts(program)["calibration"]["memory"]
    assert told["budget_bytes"] == 4000
    assert told["bytes"] <= 4000
    assert len(set(told["bits"].values())) > 1
    assert f"weights take {told['bytes']} of 4000 bytes" in capsys.readouterr().out
    codes = [
        main(["check", str(run), "--target", "fixedpoint", "--memory", size])
        for size in ("4000", "1809")
    ]
    assert codes == [0, 2]


def test_what_needs_samples_and_what_does_not_fit_is_refused_and_nothing_is_written(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    output = tmp_path / "program"
    command = ["export", str(run), "--target", "fixedpoint", "-o", str(output)]

    for options, text in (
        (["--method", "search"], "--method search needs samples, but there are none"),
        (["--rounding", "adaptive"], "--rounding adaptive needs samples"),
        (["--correct-biases"], "give some with --calibrate DATA"),
        (["--memory", "1809"], "allow at least --memory 1810"),
        (["--method", "search", "--calibrate", "nothing.npz"], "there is no file 'nothing.npz'"),
    ):
        assert main([*command, *options]) == 2
        assert text in capsys.readouterr().err
        assert main(["check", str(run), "--target", "fixedpoint", *options]) == 2

    assert not output.exists()


def test_check_says_what_an_export_with_samples_would_do(run: Path, capsys: Capture) -> None:
    options = ["--method", "search", "--calibrate", "digits:train", "--calibration-samples", "4"]

    code = main(["check", str(run), "--target", "fixedpoint", *options])

    assert code == 0
    assert "would export to fixedpoint: yes" in capsys.readouterr().out
