"""What a trained network does on a test set: which class it takes for which, and who fires how often."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from neurocompile.training.activity import LayerActivity, activity_of
from neurocompile.training.networks import SpikingNetwork
from neurocompile.training.neurons import LIF


@dataclass(frozen=True)
class Evidence:
    """
    What was seen on `samples` test samples.

    `confusion` (classes, classes) counts them by true class and by decision; `layers` are the spikes of
    each layer of neurons, in the order of the network.
    """

    confusion: NDArray[np.int64]
    layers: tuple[LayerActivity, ...]
    samples: int

    @property
    def accuracy(self) -> float:
        """The share of samples that were recognised."""
        return float(np.trace(self.confusion)) / max(1, self.samples)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `metrics.json`."""
        return {
            "samples": self.samples,
            "confusion": self.confusion.tolist(),
            "layers": [layer.to_json() for layer in self.layers],
        }


class Collector:
    """Adds up what a network does, batch by batch; only sums are kept."""

    def __init__(self, network: SpikingNetwork, steps: int, classes: int) -> None:
        self.network = network
        self.steps = steps
        self.classes = classes
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.counts: dict[str, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the spikes of all that the network is shown inside the block."""
        layers = [
            (name, module)
            for name, module in self.network.body.named_modules()
            if isinstance(module, LIF)
        ]
        handles = [
            module.register_forward_hook(partial(self._count, name)) for name, module in layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _count(self, name: str, _module: nn.Module, _inputs: Any, spikes: Tensor) -> None:
        by_step = spikes.reshape(-1, self.steps, *spikes.shape[1:])
        counts = by_step.sum(0, dtype=torch.int64)
        self.counts[name] = self.counts[name] + counts if name in self.counts else counts

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """Count the decisions on a batch: O(t) (batch, steps, classes) and integer labels (batch,)."""
        pairs = labels * self.classes + self.network.decision(outputs).argmax(1)
        counted = torch.bincount(pairs.cpu(), minlength=self.classes**2)
        self.confusion += counted.reshape(self.classes, self.classes)

    def result(self, device: torch.device) -> Evidence:
        """Return the sums, those of all processes together; every process must ask, on its `device`."""
        self.confusion = _over_processes(self.confusion.to(device)).cpu()
        counts = {
            name: _over_processes(values).cpu().numpy() for name, values in self.counts.items()
        }
        samples = int(self.confusion.sum())
        return Evidence(self.confusion.numpy(), activity_of(counts, samples), samples)


class EvidenceModule(lightning.LightningModule):
    """Collects `evidence` in the loop that Lightning tests in, on its devices and in its precision."""

    def __init__(self, network: SpikingNetwork, steps: int, classes: int) -> None:
        super().__init__()
        self.network = network
        self.collector = Collector(network, steps, classes)
        self.evidence: Evidence | None = None

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        del batch_idx
        inputs, labels = batch
        with self.collector.watching():
            outputs = self.network(shown(inputs, self.collector.steps)).float()
        self.collector.add(outputs, labels)

    def on_test_epoch_end(self) -> None:
        self.evidence = self.collector.result(self.device)


def shown(inputs: Tensor, steps: int) -> Tensor:
    """Return `inputs` (batch, steps or 1, *shape) with all `steps`: a single one is shown at each."""
    if inputs.shape[1] == 1:
        return inputs.expand(-1, steps, *inputs.shape[2:])
    return inputs


def _over_processes(values: Tensor) -> Tensor:
    """Return the sum of `values` over all processes."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(values)
    return values
