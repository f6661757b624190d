"""
How a network does with other numbers of steps than it was trained with, from one pass (TET section 5.1).

A network knows nothing of T, and its read-out is a mean over steps: so its outputs in the first T' of
T_max steps are those that it would have with T' steps. Weights of steps (TWO) belong to the number of steps
of training: with that one the mean is weighted, with any other it is plain.
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

    `cumulative` are those of the mean over the first 1, 2, ... steps, `per_moment` of each step alone. Where
    `weighted`, the mean over `trained_steps` steps, and no other, has the weights of TWO.
    """

    trained_steps: int
    samples: int
    cumulative: tuple[float, ...]
    per_moment: tuple[float, ...]
    weighted: bool = False

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
            "weighted": self.weighted,
            "cumulative": list(self.cumulative),
            "per_moment": list(self.per_moment),
            "growth": None if self.growth is None else list(self.growth),
            "variance": self.variance,
        }


def time_scalability(
    outputs: Tensor, labels: Tensor, trained_steps: int, time_weights: Tensor | None = None
) -> TimeScalability:
    """
    Return how O(t), (samples, T_max, classes), answers `labels` (samples,) with each number of steps.

    `time_weights` (trained_steps,) are those of TWO; None counts all steps alike.
    """
    return scalability_of([(outputs, labels)], trained_steps, time_weights)


def scalability_of(
    batches: Iterable[tuple[Tensor, Tensor]], trained_steps: int, time_weights: Tensor | None = None
) -> TimeScalability:
    """Return what `time_scalability` does for a stream of (outputs, labels); only sums are kept."""
    weighted = False
    cumulative: Tensor | float = 0.0
    per_moment: Tensor | float = 0.0
    samples = 0
    for outputs, labels in batches:
        right = labels[:, None]
        decided = outputs.cumsum(1).argmax(2)
        if time_weights is not None and len(time_weights) == trained_steps <= outputs.shape[1]:
            weighted = True
            means = (time_weights[:, None] * outputs[:, :trained_steps]).mean(1)
            decided[:, trained_steps - 1] = means.argmax(1)
        cumulative = cumulative + (decided == right).sum(0)
        per_moment = per_moment + (outputs.argmax(2) == right).sum(0)
        samples += len(labels)
    if not samples:
        raise ValueError("there are no samples to evaluate on")
    counts = (torch.as_tensor(count).tolist() for count in (cumulative, per_moment))
    cumulative_shares, moment_shares = (
        tuple(count / samples for count in of_kind) for of_kind in counts
    )
    return TimeScalability(trained_steps, samples, cumulative_shares, moment_shares, weighted)
