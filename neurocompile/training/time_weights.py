"""
The temporally weighted output (TWO, of MSG/TWO): moments that are right more often count for more.

    decision = argmax of 1/T sum_t w_t O(t)          w starts at 1

At the start of an epoch e > start_epoch, from the accuracies acc_t that each moment alone had on the
training batches of the epoch before,

    w_t <- (1 - rho) w_t + rho acc_t / mean(acc)

so that the weights always sum to T (to rounding, which rho forgets). They belong to one number of steps: another one starts again at 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from neurocompile.training.config import TwoSettings
from neurocompile.training.normalisation import processes


class MomentAccuracies:
    """Counts how often each moment alone is right, over the batches of an epoch."""

    def __init__(self, steps: int) -> None:
        self.correct = torch.zeros(steps, dtype=torch.float64)
        self.samples = 0

    @torch.no_grad()
    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """Count a batch: unweighted O(t), (batch, steps, classes), and labels (batch,)."""
        self.correct = self.correct.to(outputs.device)
        self.correct += (outputs.argmax(2) == labels[:, None]).sum(0)
        self.samples += len(labels)

    def mean(self) -> Tensor:
        """
        Return the accuracy of each moment over the samples of all processes, (steps,) in float64.

        Without samples it is 0. Every process must ask, as they add up what they counted.
        """
        counted = torch.cat([self.correct, self.correct.new_tensor([self.samples])])
        if counted.device.type == "mps":  # pragma: no cover - has no float64, and one process
            counted = counted.cpu()
        if processes() > 1:
            distributed.all_reduce(counted)
        return counted[:-1] / counted[-1].clamp(min=1)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts as plain values, for a checkpoint."""
        return {"correct": self.correct.tolist(), "samples": self.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the counts from a checkpoint."""
        self.correct = torch.tensor(state["correct"], dtype=torch.float64)
        self.samples = int(state["samples"])


def updated(weights: Tensor, accuracies: Tensor, settings: TwoSettings, epoch: int) -> Tensor:
    """
    Return the weights (steps,) of `epoch`, counted from 0, from those of the epoch before.

    `accuracies` (steps,) are the epoch before's. Up to `start_epoch` the weights are 1; if no moment was
    ever right they stay. Raises `ValueError` if there is another number of accuracies.
    """
    if accuracies.shape != weights.shape:
        raise ValueError(f"{len(weights)} weights cannot follow {len(accuracies)} accuracies")
    if epoch <= settings.start_epoch:
        return torch.ones_like(weights)
    mean = accuracies.double().mean()
    if mean == 0:
        return weights
    moved = (1 - settings.rate) * weights.double() + settings.rate * accuracies.double() / mean
    return moved.to(weights.dtype)


def for_steps(weights: Tensor, steps: int) -> Tensor:
    """Return `weights` if they belong to `steps` steps, else weights that start again at 1."""
    return weights if len(weights) == steps else weights.new_ones(steps)
