"""A trained network is looked at again: more steps, other data, fewer samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import neurocompile
from neurocompile.cli import main
from neurocompile.data import InputRange, load_data_set
from neurocompile.errors import DataError, OptionError
from neurocompile.training.checkpoint import load_checkpoint
from neurocompile.training.evaluation import _unknown_values
from neurocompile.training.summary import evaluation_lines

SMALL = ['network.stages=[{"channels":4,"kernel":3,"pool":2}]', "batch_size=256"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("evaluation") / "run"
    neurocompile.train(
        preset="digits", epochs=1, timesteps=2, overrides=SMALL, output=directory, seed=1
    )
    return directory


def digits(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    split = load_data_set("digits").test
    return split.fetch(range(count)), split.labels[:count]


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


def test_what_decides_with_weighted_steps_is_weighted_there_alone(tmp_path: Path) -> None:
    neurocompile.train(
        preset="digits",
        epochs=3,
        timesteps=2,
        overrides=[*SMALL, 'two={"rate":1,"start_epoch":0}'],
        output=tmp_path / "run",
    )
    assert load_checkpoint(tmp_path / "run").network.time_weights is not None
    stored = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    stored["state_dict"]["network.time_weights"] = torch.tensor([2.0, -0.5])
    torch.save(stored, tmp_path / "changed.ckpt")

    as_trained = neurocompile.evaluate(tmp_path / "changed.ckpt")
    longer = neurocompile.evaluate(tmp_path / "changed.ckpt", steps=3)
    shorter = neurocompile.evaluate(tmp_path / "changed.ckpt", steps=1)

    assert as_trained.to_json()["weighted"] is True
    assert as_trained.evidence.accuracy == as_trained.scalability.cumulative[-1]
    assert longer.scalability.cumulative[:2] == as_trained.scalability.cumulative
    assert longer.evidence.accuracy == longer.scalability.cumulative[-1]
    assert "the mean at T' = 2 has the trained weights" in "\n".join(evaluation_lines(longer))
    assert shorter.to_json()["weighted"] is False


def test_inputs_with_labels_are_evaluated_as_the_data_set_is(run: Path, tmp_path: Path) -> None:
    images, labels = digits(40)
    (tmp_path / "a:b").mkdir()
    path = tmp_path / "a:b/in.npz"
    np.savez(path, input=images, label=labels)

    found = neurocompile.evaluate(run, data=str(path), steps=3)

    assert found.data == str(path)
    expected = neurocompile.evaluate(run, samples=40, steps=3)
    assert found.scalability == expected.scalability
    np.savez(path, input=images)
    with pytest.raises(DataError, match="needs 'label', the class of each sample, but it has none"):
        neurocompile.evaluate(run, data=str(path))
    named: dict[str, Any] = {"input/x": images, "label": labels}
    np.savez(path, **named)
    with pytest.raises(DataError, match="must hold 'input', for the only input"):
        neurocompile.evaluate(run, data=str(path))
    np.savez(path, input=np.zeros((2, 0, 1, 8, 8)), label=np.arange(2))
    with pytest.raises(DataError, match="samples need a step at least"):
        neurocompile.evaluate(run, data=str(path))


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (16, "trained on values from 0 to 1, but [0-9]+ of the data's reach from 0 to 16"),
        (0.3, "trained on multiples of 0.0625, but [0-9]+ values of the data are none"),
    ],
)
def test_values_that_the_network_was_not_trained_on_are_refused(
    run: Path, tmp_path: Path, factor: float, text: str
) -> None:
    images, labels = digits(20)
    images = images[:, 0, 0] * np.float32(factor)
    np.savez(tmp_path / "x.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)

    with pytest.raises(DataError, match=text):
        neurocompile.evaluate(run, data=str(tmp_path / "x.npz"))


def test_the_pictures_of_a_run_are_not_replaced(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "confusion.png").read_bytes()

    assert main(["evaluate", str(run), "--samples", "9", "--report", str(run)]) == 2
    assert f"'{run}' holds a training run: use --report {run}/evaluation" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--report", str(run / "metrics.json")]) == 2
    assert "choose another place with --report" in capsys.readouterr().err

    assert (run / "confusion.png").read_bytes() == before


def test_the_ends_of_a_grid_that_floats_do_not_hold_are_known() -> None:
    values = np.arange(8).astype(np.float32) / np.float32(9)

    assert float(values[-1]) > 7 * (1 / 9)
    assert _unknown_values(values, InputRange(0.0, 7 * (1 / 9), 1 / 9)) == []
