"""From a PyTorch network to a NIR file and back: identical spikes, for every time step and leak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurocompile.data import InputRange
from neurocompile.errors import UnsupportedError
from neurocompile.frontend.fold_batchnorm import fold_batchnorm
from neurocompile.frontend.from_nir import from_nir
from neurocompile.frontend.to_nir import to_nir, write_nir
from neurocompile.frontend.to_torch import to_torch
from neurocompile.reference import simulate
from neurocompile.training.config import resolve
from neurocompile.training.networks import SpikingNetwork, build, spikes_of, trace
from neurocompile.training.neurons import LIF

RANGE = InputRange(0, 1, 1 / 16)


def exported(network: SpikingNetwork, path: Path, **options: Any) -> SpikingNetwork:
    """Fold `network`, write it to `path`, and return the folded one."""
    folded = fold_batchnorm(trace(network.body))
    write_nir(path, to_nir(folded, network.input_shape, steps=3, input_range=RANGE, **options))
    return SpikingNetwork(folded, network.input_shape)


@pytest.mark.parametrize("dt", [1.0, 1e-3, 1e-4])
@pytest.mark.parametrize("tau", [0.5, 0.3, 1.0])
def test_the_file_fires_the_same_spikes(tmp_path: Path, dt: float, tau: float) -> None:
    torch.manual_seed(0)
    settings = resolve(preset="digits", overrides=[f"neuron.tau={tau}"])
    network = build(settings, (1, 8, 8), 10)
    network.train()
    for _ in range(30):  # move the running statistics to where batches have them
        network(torch.rand(8, 3, 1, 8, 8))
    path = tmp_path / "graph.nir"
    folded = exported(network, path, dt=dt)

    read = to_torch(from_nir(path).network)

    x = torch.rand(16, 3, 1, 8, 8)
    before, after = spikes_of(folded, x), spikes_of(read, x)
    assert torch.equal(before[0], after[0])
    for name, spikes in before[1].items():
        assert torch.equal(spikes, after[1][name])
        assert 0 < spikes.mean() < 1


def test_nir_itself_reads_the_file_and_metadata_says_what_nir_cannot(tmp_path: Path) -> None:
    path = tmp_path / "graph.nir"
    exported(build(resolve(preset="digits"), (1, 8, 8), 10), path)

    graph = nir.read(path)
    imported = from_nir(path)

    assert type(graph.nodes["lif1"]).__name__ == "LIF"
    np.testing.assert_allclose(graph.nodes["lif1"].tau, 2e-4)
    assert graph.metadata["reset"] == "zero"
    assert imported.network.steps == 3
    assert imported.inferred["dt"] == "0.0001, from the file's metadata"
    (source,) = [node for node in imported.network.nodes.values() if type(node).__name__ == "Input"]
    assert getattr(source, "range") == RANGE  # noqa: B009


def test_the_numpy_reference_agrees_with_pytorch(tmp_path: Path) -> None:
    """float64 against float32: flips are possible, but only where a membrane touches the threshold."""
    torch.manual_seed(1)
    path = tmp_path / "graph.nir"
    folded = exported(build(resolve(preset="digits"), (1, 8, 8), 10), path)
    x = torch.randint(0, 17, (16, 3, 1, 8, 8)) / 16

    ours = simulate(from_nir(path).network, x.numpy(), membranes=True)
    output, spikes = spikes_of(folded, x)

    for name, theirs in spikes.items():
        differs = ours.spikes[name] != theirs.numpy()
        assert differs.mean() < 1e-4
        if name == "lif1":
            assert (np.abs(ours.membrane[name][differs] - 1) < 1e-5).all()
    assert np.abs(ours.output - output.numpy()).max() < 1e-4


class Residual(nn.Module):
    """An identity shortcut that is added to the membrane input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.lif1 = nn.Conv2d(1, 2, 3, padding=1), LIF()
        self.conv2, self.bn2, self.lif2 = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), LIF()
        self.drop, self.flatten, self.fc = nn.Dropout(), nn.Flatten(), nn.Linear(32, 3)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        s = self.lif1(self.conv1(x), steps)
        y = self.lif2(self.bn2(self.conv2(s)) + s, steps)
        result: Tensor = self.fc(self.flatten(self.drop(y)))
        return result


def test_a_residual_addition_becomes_two_edges(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SpikingNetwork(Residual(), (1, 4, 4))
    folded = exported(network, tmp_path / "graph.nir")

    imported = from_nir(tmp_path / "graph.nir").network

    assert sorted(imported.sources("lif2")) == ["conv2", "lif1"]
    x = torch.rand(8, 3, 1, 4, 4)
    assert torch.equal(spikes_of(folded, x)[0], spikes_of(to_torch(imported), x)[0])


class Odd(nn.Module):
    """Modules that NIR cannot express, in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
        self.pool = nn.MaxPool2d(2)
        self.average = nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        del steps
        result: Tensor = torch.tanh(self.average(self.pool(self.conv(x))))
        return result


def test_all_that_nir_cannot_express_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as raised:
        exported(SpikingNetwork(Odd(), (1, 8, 8)), tmp_path / "graph.nir")

    text = str(raised.value)
    assert "layer 'conv' needs zero padding, but it pads with 'reflect'" in text
    assert (
        "layer 'pool' needs spikes, 0 or 1, to take the largest of, but it gets other numbers"
        in text
    )
    assert "layer 'average' needs a plain average pool" in text
    assert "layer 'tanh' is 'tanh', which NIR cannot express" in text
    assert not (tmp_path / "graph.nir").exists()
