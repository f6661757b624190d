"""
How a network does with other numbers of steps than it was trained with, from one pass (TET section 5.1).

A network knows nothing of T, and its read-out is a mean over steps: so its outputs in the first T' of
T_max steps are those that it would have with T' steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import variance
from typing import Any

import torch
from torch import Tensor

LAST_OF_TABLE_4 = 8  # Table 4 of TET goes as far


@dataclass(frozen=True)
class TimeScalability:
    """
    Accuracies in [0, 1] of one network on `samples` samples, trained with `trained_steps` steps.

    `cumulative` are those of the mean over the first 1, 2, ... steps, `per_moment` of each step alone.
    """

    trained_steps: int
    samples: int
    cumulative: tuple[float, ...]
    per_moment: tuple[float, ...]

    @property
    def growth(self) -> tuple[float, ...] | None:
        """What each number of steps gains on that of training, acc(T') / acc(T) - 1; None if unknown."""
        if not 1 <= self.trained_steps <= len(self.cumulative):
            return None
        trained = self.cumulative[self.trained_steps - 1]
        return tuple(value / trained - 1 for value in self.cumulative) if trained else None

    @property
    def variance(self) -> float | None:
        """
        The variance of Table 4, in percent squared: of the moments behind the trained ones, up to 8.

        It is that of a sample (ddof 1); None where there are fewer than two such moments.
        """
        behind = self.per_moment[self.trained_steps : LAST_OF_TABLE_4]
        return variance(100 * value for value in behind) if len(behind) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "trained_steps": self.trained_steps,
            "samples": self.samples,
            "cumulative": list(self.cumulative),
            "per_moment": list(self.per_moment),
            "growth": None if self.growth is None else list(self.growth),
            "variance": self.variance,
        }


def time_scalability(outputs: Tensor, labels: Tensor, trained_steps: int) -> TimeScalability:
    """
    Return how O(t), (samples, T_max, classes), answers `labels` (samples,) with each number of steps.

    The read-out is the plain mean: weights of steps (TWO) belong to one number of steps.
    """
    return scalability_of([(outputs, labels)], trained_steps)


def scalability_of(batches: Iterable[tuple[Tensor, Tensor]], trained_steps: int) -> TimeScalability:
    """Return what `time_scalability` does for a stream of (outputs, labels); only sums are kept."""
    cumulative: Tensor | float = 0.0
    per_moment: Tensor | float = 0.0
    samples = 0
    for outputs, labels in batches:
        right = labels[:, None]
        cumulative = cumulative + (outputs.cumsum(1).argmax(2) == right).sum(0)
        per_moment = per_moment + (outputs.argmax(2) == right).sum(0)
        samples += len(labels)
    if not samples:
        raise ValueError("there are no samples to evaluate on")
    counts = (torch.as_tensor(count).tolist() for count in (cumulative, per_moment))
    shares = [tuple(count / samples for count in of_kind) for of_kind in counts]
    return TimeScalability(trained_steps, samples, *shares)
