"""A run on event recordings, exported and verified by the data set's name: the same frames everywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import neurocompile
from neurocompile.datasets import events as event_sets
from neurocompile.errors import DataError


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixteen recordings of N-MNIST's format to train on and four to test, of two classes."""
    pytest.importorskip("tonic")
    few = {"train": 16, "test": 4}
    sets = event_sets.SETS
    changed = event_sets.EventSet(**{**vars(sets["nmnist"]), "fewest": few})
    monkeypatch.setattr(event_sets, "SETS", {**sets, "nmnist": changed})
    monkeypatch.delenv("NEUROCOMPILE_DATA", raising=False)
    draw = np.random.default_rng(0)
    for folder, count in (("Train", 16), ("Test", 4)):
        for number in range(count):
            events = draw.integers(0, 17, (200, 5), dtype=np.uint8)
            events[:, 0] += 17 * (number % 2)  # on the left, or on the right
            events[:, 3] = 0
            events[:, 4] = np.arange(200)
            path = tmp_path / f"NMNIST/{folder}/{number % 2}/{number:05}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(events.tobytes())
    return tmp_path


def test_a_run_on_recordings_is_verified_with_its_own_frames(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = neurocompile.train(
        output=tmp_path / "run",
        data="nmnist",
        epochs=2,
        timesteps=3,
        overrides=[
            "network.name=dense",
            "network.hidden=[8]",
            f"input.root={recordings}",
            "input.size=17",
            "input.resize=area",
            'input.augment=["roll"]',
        ],
    )
    program = neurocompile.export(tmp_path / "run", target="fixedpoint", calibrate="nmnist")
    settings = program.facts["reference"]["settings"]
    assert str(recordings) not in str(settings)  # programs move, recordings do not
    monkeypatch.setenv("NEUROCOMPILE_DATA", str(recordings))

    report = neurocompile.verify(program, data="nmnist:test", samples=3)

    assert result.metrics["data"]["input_shape"] == [2, 17, 17]
    assert program.network.inputs[0].shape == (2, 17, 17)
    assert report.to_json()["samples"] == 3
    assert report.to_json()["steps"] == 3
    assert not report.failed
    monkeypatch.setenv("NEUROCOMPILE_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="'nmnist' needs 16 recordings .* in '.*elsewhere/NMNIST'"):
        neurocompile.verify(program, data="nmnist:test", samples=3)


def test_frames_are_cut_as_in_the_phase_that_trained_the_network(
    recordings: Path, tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del no_pictures
    run = tmp_path / "run"
    neurocompile.train(
        output=run,
        data="nmnist",
        epochs=1,
        timesteps=2,
        overrides=[
            "network.name=dense",
            "network.hidden=[8]",
            f"input.root={recordings}",
            'phases=[{"epochs":1,"timesteps":4}]',
        ],
    )
    shutil.copy(run / "last.ckpt", tmp_path / "second.ckpt")
    stored = torch.load(run / "last.ckpt", weights_only=True)
    stored["neurocompile"]["phase"] = 0
    torch.save(stored, tmp_path / "first.ckpt")

    all_steps = neurocompile.evaluate(tmp_path / "second.ckpt")
    fewer = neurocompile.evaluate(tmp_path / "second.ckpt", steps=3)

    assert fewer.scalability.per_moment == all_steps.scalability.per_moment[:3]
    with pytest.raises(DataError, match="samples have 4 frames of their own: use --steps 4"):
        neurocompile.evaluate(tmp_path / "second.ckpt", steps=8)
    program = neurocompile.export(tmp_path / "first.ckpt", target="fixedpoint", calibrate="nmnist")
    monkeypatch.setenv("NEUROCOMPILE_DATA", str(recordings))
    assert neurocompile.verify(program, data="nmnist", samples=3).to_json()["steps"] == 2
    monkeypatch.setenv("NEUROCOMPILE_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="elsewhere/NMNIST"):
        neurocompile.evaluate(run)
