"""Each method of the three papers learns digits in a few epochs, in the run that its settings name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import methods
import pytest

from neurocompile.training.config import TrainSettings
from neurocompile.training.train import train

LEARNT = 0.7  # guessing is 0.1


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", methods.METHODS)
def test_it_learns(name: str, tmp_path: Path, small: Callable[..., TrainSettings]) -> None:
    overrides = [*methods.METHODS[name], "batch_size=32", "weight_decay=0"]
    overrides += ['network.stages=[{"channels":8,"kernel":3},{"channels":16,"kernel":3,"pool":4}]']

    result = train(small(*overrides, epochs=5, timesteps=None), tmp_path / "run")

    assert result.test_accuracy > LEARNT
    losses = result.metrics["loss_per_epoch"]
    assert losses[3] < losses[0]
