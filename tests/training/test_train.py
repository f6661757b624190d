"""The training run: what it leaves, that it repeats, and that it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurocompile.errors import CheckpointError, DataError, OptionError
from neurocompile.training.checkpoint import load_checkpoint
from neurocompile.training.config import TrainSettings, resolve
from neurocompile.training.train import train

SMALL = [
    'network.stages=[{"channels":4,"kernel":3,"pool":2},{"channels":4,"kernel":3,"pool":2}]',
    "batch_size=256",
]


def small(**changes: Any) -> TrainSettings:
    changes = {"epochs": 2, "timesteps": 2, **changes}
    return resolve(preset="digits", overrides=SMALL, **changes)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run).network.state_dict()


def test_a_run_leaves_checkpoints_metrics_and_a_picture(tmp_path: Path) -> None:
    result = train(small(), tmp_path / "run")

    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best.ckpt", "curves.png", "last.ckpt", "logs", "metrics.json",
    ]  # fmt: skip
    assert metrics == result.metrics
    assert metrics["test_accuracy"]["last"] == metrics["accuracy_per_epoch"][-1]
    assert metrics["test_accuracy"]["best"] == max(metrics["accuracy_per_epoch"])
    assert len(metrics["accuracy_per_moment"]) == 2
    assert metrics["data"] == {
        "name": "digits",
        "train": 1437,
        "test": 360,
        "input_shape": [1, 8, 8],
    }
    assert metrics["settings"]["seed"] == metrics["seed"] == 0
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(small(seed=seed), tmp_path / name)

    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["body.conv1.weight"], c["body.conv1.weight"])


def test_a_resumed_run_keeps_its_history(tmp_path: Path) -> None:
    train(small(epochs=1), tmp_path / "run")

    result = train(small(epochs=3), tmp_path / "run", resume=True)

    assert len(result.metrics["accuracy_per_epoch"]) == 3
    again = train(small(epochs=3), tmp_path / "run", resume=True)
    assert again.metrics["accuracy_per_epoch"] == result.metrics["accuracy_per_epoch"]


def test_a_run_is_resumed_with_its_own_settings_only(tmp_path: Path) -> None:
    train(small(epochs=1), tmp_path / "run")

    with pytest.raises(OptionError) as raised:
        train(small(epochs=2, seed=3, timesteps=3), tmp_path / "run", resume=True)

    assert "a resumed run must keep 'seed' at 0, but 3 is asked for" in str(raised.value)
    assert "a resumed run must keep 'timesteps' at 2, but 3 is asked for" in str(raised.value)


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train(small(epochs=1), tmp_path / "run")

    with pytest.raises(OptionError, match="already holds a training run.*--resume"):
        train(small(epochs=1), tmp_path / "run")
    with pytest.raises(CheckpointError, match="cannot resume: there is no"):
        train(small(epochs=1), tmp_path / "other", resume=True)


def test_somebodys_images_change_channels_size_and_classes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    path = tmp_path / "mine.npz"
    np.savez(
        path,
        x_train=generator.integers(0, 256, (20, 12, 8, 3), dtype=np.uint8),
        y_train=np.arange(20) % 4,
        x_test=generator.integers(0, 256, (8, 12, 8, 3), dtype=np.uint8),
        y_test=np.arange(8) % 4,
    )

    train(small(data=str(path), epochs=1), tmp_path / "run")

    trained = load_checkpoint(tmp_path / "run")
    assert trained.network.input_shape == (3, 12, 8)
    assert trained.classes == 4
    assert trained.input_range.step == 1 / 255


def test_images_that_pools_do_not_divide_and_wrong_frames_are_refused_together(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tiny.npz"
    frames = np.zeros((4, 5, 1, 3, 3), np.float32)
    np.savez(path, x_train=frames, y_train=np.arange(4), x_test=frames, y_test=np.arange(4))

    with pytest.raises(DataError) as raised:
        train(small(data=str(path)), tmp_path / "run")

    assert "has 5 frames a sample, but 2 steps are asked for: use --timesteps 5" in str(
        raised.value
    )
    assert "layer 'pool1' needs an image that it divides by 2, but it gets 3 x 3" in str(
        raised.value
    )
    assert not (tmp_path / "run").exists()


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")

    for name in ("text", "other"):
        with pytest.raises(CheckpointError, match="is not a checkpoint of 'neurocompile train'"):
            load_checkpoint(tmp_path / f"{name}.ckpt")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.ckpt")
