"""A run on event recordings, exported and verified by the data set's name: the same frames everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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

    report = neurocompile.verify(program, data="nmnist:test", samples=3)

    assert result.metrics["data"]["input_shape"] == [2, 17, 17]
    assert program.network.inputs[0].shape == (2, 17, 17)
    assert report.to_json()["samples"] == 3
    assert report.to_json()["steps"] == 3
    assert not report.failed
    monkeypatch.setenv("NEUROCOMPILE_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="'nmnist' needs 16 recordings .* in '.*elsewhere/NMNIST'"):
        neurocompile.verify(program, data="nmnist:test", samples=3)
