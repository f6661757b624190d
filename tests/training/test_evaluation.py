"""A trained network is looked at again: more steps, other data, fewer samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import neurocompile
from neurocompile.cli import main
from neurocompile.errors import DataError, OptionError

SMALL = ['network.stages=[{"channels":4,"kernel":3,"pool":2}]', "batch_size=256"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("evaluation") / "run"
    neurocompile.train(
        preset="digits", epochs=1, timesteps=2, overrides=SMALL, output=directory, seed=1
    )
    return directory


def test_one_pass_says_what_passes_of_their_own_would(run: Path) -> None:
    long = neurocompile.evaluate(run, steps=5)

    assert (long.scalability.trained_steps, long.steps, long.data) == (2, 5, "digits:test")
    for steps in range(1, 5):
        alone = neurocompile.evaluate(run, steps=steps)
        assert alone.scalability.cumulative == long.scalability.cumulative[:steps]
        assert alone.scalability.per_moment == long.scalability.per_moment[:steps]
        assert alone.evidence.accuracy == alone.scalability.cumulative[-1]


def test_as_trained_it_is_what_the_run_measured(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())

    found = neurocompile.evaluate(run).to_json()

    assert found["cumulative"][-1] == metrics["test_accuracy"]["last"]
    assert found["per_moment"] == metrics["accuracy_per_moment"]
    assert found["confusion"] == metrics["confusion"]
    assert found["layers"] == metrics["layers"]


def test_the_command_prints_a_table_and_leaves_json_and_pictures(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(
        ["evaluate", str(run), "--input", "digits:train", "--steps", "4", "--samples", "50",
         "--json", str(tmp_path / "e.json"), "--report", str(tmp_path / "report")]
    )  # fmt: skip

    assert code == 0
    printed = capsys.readouterr().out
    assert "50 samples of digits:train, trained with T = 2" in printed
    assert "T' = 4" in printed
    stored = json.loads((tmp_path / "e.json").read_text())
    assert (stored["samples"], len(stored["cumulative"])) == (50, 4)
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "activity.png", "confusion.png", "steps.png",
    }  # fmt: skip


def test_impossible_requests_are_refused_together(run: Path, tmp_path: Path) -> None:
    frames = np.zeros((3, 2, 1, 4, 4), np.float32)
    labels = np.array([0, 1, 20])
    np.savez(tmp_path / "x.npz", x_train=frames, y_train=labels, x_test=frames, y_test=labels)

    with pytest.raises(OptionError, match="2 problems") as options:
        neurocompile.evaluate(run, steps=0, samples=0)
    with pytest.raises(DataError) as data:
        neurocompile.evaluate(run, data=str(tmp_path / "x.npz"), steps=3)
    with pytest.raises(DataError, match="'digits' has no split 'all'"):
        neurocompile.evaluate(run, data="digits:all")

    assert "--steps must be at least 1, but it is 0" in str(options.value)
    text = str(data.value)
    assert "takes inputs of the shape (1, 8, 8), but the data have (1, 4, 4)" in text
    assert "3 steps are asked for, but samples have 2 frames of their own: use --steps 2" in text
    assert "the network knows 10 classes, but the data have labels up to 20" in text
