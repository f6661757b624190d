"""The residual networks and VGGSNN of the papers, at any width and resolution, trained for a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from neurocompile.data import InputRange
from neurocompile.frontend.fold_batchnorm import fold_batchnorm
from neurocompile.frontend.from_nir import from_nir
from neurocompile.frontend.to_nir import to_nir, write_nir
from neurocompile.ir import Network
from neurocompile.training.config import TrainSettings
from neurocompile.training.networks import build, trace

SETTLING = 30
GRID = InputRange(0.0, 1.0, 1 / 255)


NETWORKS: dict[str, dict[str, Any]] = {
    "resnet19": {"name": "resnet19"},
    "sew-resnet18": {"name": "sew-resnet34", "blocks": (2, 2, 2, 2)},
    "vggsnn": {"name": "vggsnn"},
}


@dataclass(frozen=True)
class Trained:
    """A network as the compiler sees it, and images for it (samples, steps, channels, h, w)."""

    network: Network
    images: NDArray[np.float64]


@pytest.fixture(scope="session")
def train_briefly(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    """
    Makes a network by name, trains it for some steps on real images, folds it and imports its NIR file.

    The weights stay close to random; the batch norms have real statistics, scales and offsets.
    """

    def make(
        name: str,
        images: NDArray[Any],
        *,
        width: float,
        steps: int = 4,
        rounds: int = 12,
    ) -> Trained:
        torch.manual_seed(7)
        settings = TrainSettings.model_validate(
            {
                "network": {**NETWORKS[name], "width": width},
                "initialisation": "torch",
                "timesteps": steps,
                "epochs": 1,
                "learning_rate": 1e-3,
            }
        )
        network = build(settings, images.shape[1:], 10)
        data = torch.tensor(images, dtype=torch.float32)
        shown = data[:, None].expand(-1, steps, *images.shape[1:])
        labels = torch.arange(len(images)) % 10
        optimiser = torch.optim.Adam(network.parameters(), 1e-3)
        network.train()
        for _ in range(rounds):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(shown).mean(1), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            for _ in range(SETTLING):
                network(shown)  # running statistics catch up with the weights
        network.eval()
        folded = fold_batchnorm(trace(network.body))
        graph = to_nir(folded, images.shape[1:], steps=steps, input_range=GRID)
        path = tmp_path_factory.mktemp("proof") / "graph.nir"
        write_nir(path, graph)
        inputs = np.repeat(images[:, np.newaxis], steps, axis=1).astype(np.float64)
        return Trained(from_nir(path).network, inputs)

    return make


@pytest.fixture(scope="session")
def digit_images() -> Callable[[int, int], NDArray[np.float64]]:
    """Real digits (scikit-learn's) as 8-bit images of a size, in three channels: ink, paper, edge."""

    def make(count: int, size: int) -> NDArray[np.float64]:
        datasets = pytest.importorskip("sklearn.datasets", reason="the digits are scikit-learn's")
        ink = datasets.load_digits().images[:count] / 16
        edge = np.abs(np.diff(ink, axis=2, prepend=0))
        channels = np.stack([ink, 1 - ink, edge], axis=1)
        larger = channels.repeat(size // 8, axis=2).repeat(size // 8, axis=3)
        return np.asarray(np.rint(larger * 255) / 255)

    return make


@pytest.fixture(scope="session")
def cifar_images(shared_data: Path) -> Callable[[int, int], NDArray[np.float64]]:
    """CIFAR-10 test images, averaged down to a size; skipped where they are not at hand."""

    def make(count: int, size: int) -> NDArray[np.float64]:
        file = shared_data / "images" / "cifar10_jpeg.npz"
        with np.load(file, allow_pickle=False) as arrays:
            images = arrays["x_test"][:count].transpose(0, 3, 1, 2) / 255
        factor = 32 // size
        smaller = images.reshape(count, 3, size, factor, size, factor).mean((3, 5))
        return np.asarray(np.rint(smaller * 255) / 255)

    return make
