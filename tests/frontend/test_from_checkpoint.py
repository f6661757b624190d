"""From a checkpoint to a folded graph: what is compared, on how many samples, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import pytest
import torch
from torch import fx, nn

from neurocompile.data import InputRange
from neurocompile.errors import EquivalenceError
from neurocompile.frontend import folded_graph
from neurocompile.frontend import from_checkpoint as module
from neurocompile.frontend.fold_batchnorm import fold_batchnorm
from neurocompile.frontend.from_checkpoint import PROBE_SAMPLES, from_checkpoint
from neurocompile.frontend.to_nir import to_nir
from neurocompile.training.checkpoint import Trained
from neurocompile.training.config import Convolutional, StageSettings, TrainSettings
from neurocompile.training.networks import build

SHAPE, STEPS, CLASSES = (1, 6, 6), 3, 4
PIXELS = InputRange(0, 1, 1 / 16)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A network that saw one batch, stored as `train` stores it."""
    settings = TrainSettings(
        network=Convolutional(
            name="convolutional",
            stages=(
                StageSettings(channels=5, kernel=3, pool=2),
                StageSettings(channels=6, kernel=3),
            ),
        ),
        timesteps=STEPS,
        epochs=1,
        learning_rate=1e-3,
    )
    torch.manual_seed(0)
    network = build(settings, SHAPE, CLASSES)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the statistics are those of the one batch
    with torch.no_grad():
        network(torch.rand(8, STEPS, *SHAPE))
    description = Trained(network, settings, CLASSES, PIXELS).description()
    state = {f"network.{name}": values for name, values in network.state_dict().items()}
    torch.save({"neurocompile": description, "state_dict": state}, tmp_path / "net.ckpt")
    return tmp_path / "net.ckpt"


def test_what_folding_did_is_told(checkpoint: Path) -> None:
    """Neurons: 5 x 6 x 6 before the pool, and 6 x 3 x 3."""
    folded = from_checkpoint(checkpoint)

    assert folded.folding["probe_samples"] == PROBE_SAMPLES
    assert folded.folding["spikes_compared"] == PROBE_SAMPLES * STEPS * (5 * 36 + 6 * 9)
    assert folded.folding["largest_logit_difference_without_flips"] == 0  # no norm follows spikes
    assert folded.imported.network.steps == STEPS


def test_networks_whose_samples_are_long_are_compared_on_fewer(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step: 9 weights x 5 x 36 pixels, 45 x 6 x 9, and a read-out of 54 x 4."""
    one = STEPS * (9 * 5 * 36 + 45 * 6 * 9 + 54 * 4)
    monkeypatch.setattr(module, "PROBE_MULTIPLICATIONS", 7.5 * one)
    assert from_checkpoint(checkpoint).folding["probe_samples"] == 7

    monkeypatch.setattr(module, "PROBE_MULTIPLICATIONS", 1)
    assert from_checkpoint(checkpoint).folding["probe_samples"] == module.FEWEST_SAMPLES


def test_folding_that_changes_logits_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrongly(*arguments: Any, **options: Any) -> fx.GraphModule:
        folded = fold_batchnorm(*arguments, **options)
        with torch.no_grad():
            folded.get_parameter("readout.bias").add_(0.1)
        return folded

    monkeypatch.setattr(folded_graph, "fold_batchnorm", wrongly)

    with pytest.raises(EquivalenceError, match="folding may change logits by 1e-05, but it"):
        from_checkpoint(checkpoint)


def test_a_file_that_fires_other_spikes_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrongly(*arguments: Any, **options: Any) -> nir.NIRGraph:
        graph = to_nir(*arguments, **options)
        graph.nodes["conv2"].weight = -graph.nodes["conv2"].weight
        return graph

    monkeypatch.setattr(folded_graph, "to_nir", wrongly)

    with pytest.raises(
        EquivalenceError, match="layer 'lif2' must fire the same spikes from the NIR file"
    ) as raised:
        from_checkpoint(checkpoint)
    assert "logits must be the same from the NIR file" in str(raised.value)
    assert "lif1" not in str(raised.value)
