"""
Put a PyTorch module on Loihi 2 as it is, without writing a file, and prove what it fires there.

    python examples/export_module.py

Modules of snnTorch's and SpikingJelly's neurons go the same way.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import neurocompile
from neurocompile.data import InputRange, Samples
from neurocompile.training.neurons import LIF

STEPS = 8
GREY = InputRange(0, 1, 1 / 16)


class Network(nn.Module):
    """Two layers of spiking neurons, and a read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.lif1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), LIF()
        self.pool, self.flatten = nn.AvgPool2d(2), nn.Flatten()
        self.hidden, self.lif2 = nn.Linear(64, 16), LIF(tau=0.75, threshold=0.5)
        self.readout = nn.Linear(16, 10)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Return the logits of every step, (batch * steps, 10), for images (batch * steps, 1, 8, 8)."""
        x = self.lif1(self.norm(self.conv(x)), steps)
        x = self.lif2(self.hidden(self.flatten(self.pool(x))), steps)
        logits: Tensor = self.readout(x)
        return logits


def main() -> int:
    """Return how many spikes of the chip's simulator are not those of our integers."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 17, (5, STEPS, 1, 8, 8)) / 16
    with neurocompile.export(
        Network(), input_shape=(1, 8, 8), steps=STEPS, input_range=GREY, target="loihi2"
    ) as program:
        for name, how in program.facts["import"]["inferred"].items():
            print(f"{name}: {how}")
        report = neurocompile.verify(program, data=Samples(images, None))
    for comparison in report.comparisons:
        print(
            f"{comparison.reference} / {comparison.candidate}: "
            f"spikes differ at {comparison.mismatches} of {comparison.slots} places"
        )
    assert not report.failed, "the chip's simulator and our integers fire different spikes"
    return report.comparisons[-1].mismatches


if __name__ == "__main__":
    main()
