"""
What a run knows besides weights and optimiser: its epochs so far, and what the next one needs of them.

Everything else that an epoch depends on (order, augmentation, masks, learning rate, loss) is a function of the
settings and the epoch's number, so that a run that is resumed repeats what an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from neurocompile.training.config import TrainSettings


@dataclass(frozen=True)
class Epoch:
    """
    What an epoch of phase number `phase` measured.

    Training values are means over the epoch's own samples, while weights moved. Test losses are without
    regulariser, weights of steps and label smoothing; `per_moment` is the accuracy of each step alone.
    """

    phase: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    test_loss_sdt: float
    test_loss_tet: float
    per_moment: list[float]
    seconds: float
    temperature: float | None = None  # of Dspike
    probability: float | None = None  # of masks
    time_weights: list[float] | None = None  # of the output (TWO)


@dataclass
class History:
    """
    The epochs of a run, of all phases, and what the next one needs.

    `moments` are the accuracies of each step on the last epoch's training batches, if TWO wants them.
    `data` says what the run is trained on, so that it does not go on with something else.
    """

    epochs: list[Epoch] = field(default_factory=list)
    temperature: float | None = None
    moments: list[float] | None = None
    data: dict[str, Any] | None = None

    @property
    def best(self) -> int:
        """
        The first epoch with the best test accuracy, of the last phase.

        Other steps or integers are another network.
        """
        last = self.epochs[-1].phase
        of_last = [number for number, epoch in enumerate(self.epochs) if epoch.phase == last]
        return max(of_last, key=lambda number: self.epochs[number].test_accuracy)

    def of_phase(self, phase: int) -> list[Epoch]:
        """Return the epochs of phase number `phase`."""
        return [epoch for epoch in self.epochs if epoch.phase == phase]

    def stopped_early(self, phase: int, patience: int | None) -> bool:
        """Whether the last `patience` epochs of a phase were no better than one before them."""
        accuracies = [epoch.test_accuracy for epoch in self.of_phase(phase)]
        if patience is None or len(accuracies) <= patience:
            return False
        return max(accuracies[-patience:]) <= max(accuracies[:-patience])

    def current_phase(self, settings: TrainSettings) -> int:
        """Return the phase that the next epoch belongs to; as many as there are if all is done."""
        phases = settings.all_phases()
        for number in range(self.epochs[-1].phase if self.epochs else 0, len(phases)):
            done = len(self.of_phase(number)) >= phases[number].epochs
            if not done and not self.stopped_early(number, settings.running.early_stop):
                return number
        return len(phases)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> History:
        """Return what `to_json` wrote; raises `ValueError` for anything else."""
        return TypeAdapter(cls).validate_python(dict(stored))
