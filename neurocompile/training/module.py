"""
A network, its loss and its optimiser, as Lightning wants them.

Nothing here remembers an earlier epoch: sums start anew with each, and are added up over all processes once, at
its end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor, distributed, nn

from neurocompile.errors import Problem, TrainingError
from neurocompile.training.checkpoint import DESCRIPTION, RUN, Trained
from neurocompile.training.config import PhaseSettings, TrainSettings
from neurocompile.training.evidence import shown
from neurocompile.training.history import Epoch, History
from neurocompile.training.losses import loss_of, sdt_loss, tet_loss
from neurocompile.training.surrogates import Dspike, Masked
from neurocompile.training.time_weights import MomentAccuracies

CHECKED_EVERY = 16  # batches; asking whether a loss is finite makes a GPU wait
REMEDIES = "try a lower learning_rate, running.clip=1, warmup_epochs=5 or running.precision=32"


class TrainingModule(lightning.LightningModule):
    """Trains `trained`'s network in its phase of the run whose `history` this continues."""

    def __init__(self, trained: Trained, history: History, *, compiled: bool = False) -> None:
        super().__init__()
        self.trained = trained
        self.history = history
        self.network = trained.network.train()
        self.steps = trained.steps
        self.phase: PhaseSettings = trained.settings.all_phases()[trained.phase]
        self.loss = loss_of(trained.settings.loss, 0)
        # a share of the test set may be empty where there are more processes than samples
        self.allow_zero_length_dataloader_with_multiple_devices = True
        # in a list, since a compiled module is not another module with weights of its own
        compiled = compiled and not self.in_integers
        self._callable = [torch.compile(self.network) if compiled else self.network]

    @property
    def settings(self) -> TrainSettings:
        return self.trained.settings

    @property
    def in_integers(self) -> bool:
        """Whether the network computes in integers, which neither differences nor compilers are for."""
        from neurocompile.training.quantised import QuantisedBody

        return isinstance(self.network.body, QuantisedBody)

    @property
    def masked(self) -> Masked | None:
        """The masks around the network's surrogate, if there are any."""
        found = _surrogate(self.network)
        return found if isinstance(found, Masked) else None

    @property
    def dspike(self) -> Dspike | None:
        """The surrogate that has a temperature, if the network has it, masked or not."""
        found = _surrogate(self.network)
        base = found.base if isinstance(found, Masked) else found
        return base if isinstance(base, Dspike) else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return O(t) in float32 for `inputs` (batch, steps or 1, *shape)."""
        outputs: Tensor = self._callable[0](shown(inputs, self.steps))
        return outputs.float()

    def on_train_epoch_start(self) -> None:
        self.train_sums = self._zeros(3)  # loss, right decisions, samples
        self.moments = MomentAccuracies(self.steps)
        self.first_bad = torch.full((), math.inf, device=self.device)

    def on_train_batch_start(self, batch: list[Tensor], batch_idx: int) -> None:
        """Let all chance in a step depend on its place in the run only."""
        del batch
        place = (self.settings.seed, len(self.history.epochs), batch_idx, self.global_rank)
        dropped, masks = np.random.SeedSequence(place).generate_state(2).tolist()
        torch.manual_seed(dropped)
        if self.masked is not None:
            self.masked.reseed(masks)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        inputs, labels = batch
        outputs = self(inputs)
        loss = self.loss(outputs, labels, self._weights(outputs))
        with torch.no_grad():
            right = (self.network.decision(outputs).argmax(1) == labels).sum()
            values = [loss.detach() * len(labels), right, torch.tensor(len(labels))]
            self.train_sums += torch.stack([value.to(self.train_sums) for value in values])
            if self.settings.two is not None:
                self.moments.add(outputs, labels)
            place = torch.full_like(self.first_bad, index)
            at = torch.where(torch.isfinite(loss), torch.inf, place)
            self.first_bad = torch.minimum(self.first_bad, at)
        if index % CHECKED_EVERY == CHECKED_EVERY - 1:
            self.check_finite()
        return loss * self._share(index)

    def on_validation_epoch_start(self) -> None:
        if self.trainer.world_size > 1:
            # each process has seen its own batches; all test with the statistics that are stored
            for buffer in self.network.buffers():
                distributed.broadcast(buffer, 0)
        self.test_sums = self._zeros(4)  # both losses, right decisions, samples
        self.right_at = self._zeros(self.steps)

    def validation_step(self, batch: list[Tensor], _index: int) -> None:
        inputs, labels = batch
        outputs, count = self(inputs), len(labels)
        losses = (sdt_loss(outputs, labels) * count, tet_loss(outputs, labels) * count)
        right = (self.network.decision(outputs).argmax(1) == labels).sum()
        values = [*losses, right, torch.tensor(count)]
        self.test_sums += torch.stack([value.to(self.test_sums) for value in values])
        self.right_at += (outputs.argmax(2) == labels[:, None]).sum(0)

    def check_finite(self) -> None:
        """Raise `TrainingError` if a loss of this epoch was NaN or infinite, in any process."""
        first = float(self.trainer.strategy.all_gather(self.first_bad).min())
        if math.isfinite(first):
            raise self.diverged(f"step {int(first) + 1}")

    def check_weights(self) -> None:
        """
        Raise `TrainingError` if a weight or statistic is NaN or infinite, in any process.

        A loss does not show it: a membrane that is no number does not fire.
        """
        bad = [
            name
            for name, values in self.network.state_dict().items()
            if not bool(torch.isfinite(values).all())
        ]
        anywhere = self.trainer.strategy.all_gather(torch.tensor(len(bad), device=self.device))
        if int(anywhere.max()):
            name = bad[0].removeprefix("body.") if bad else "of another process"
            raise self.diverged(f"layer '{name}'")

    def diverged(self, where: str) -> TrainingError:
        """Return the error that says where in the run the loss stopped being a number."""
        done = len(self.history.epochs)
        kept = "the checkpoints are those of the epoch before" if done else "nothing is stored yet"
        return TrainingError(
            Problem(
                "",
                "the loss, weights and statistics must stay finite numbers",
                f"they did not in epoch {done + 1}, {where}",
                f"{REMEDIES}; {kept}",
            )
        )

    def finish_epoch(self, seconds: float) -> tuple[Epoch, list[float] | None]:
        """
        Return what the epoch measured, and the accuracy of each step in training if TWO wants it.

        Every process must ask, since sums are added up over all of them. Raises `TrainingError` for losses
        that are not finite.
        """
        self.check_finite()
        self.check_weights()
        loss, right, count = self._total(self.train_sums)
        sdt, tet, test_right, test_count = self._total(self.test_sums)
        if not (math.isfinite(sdt) and math.isfinite(tet)):
            raise self.diverged("on the test set")
        weights = self.network.time_weights
        epoch = Epoch(
            phase=self.trained.phase,
            learning_rate=self.trainer.optimizers[0].param_groups[0]["lr"],
            train_loss=loss / count,
            train_accuracy=right / count,
            test_accuracy=test_right / test_count,
            test_loss_sdt=sdt / test_count,
            test_loss_tet=tet / test_count,
            per_moment=[value / test_count for value in self._total(self.right_at)],
            seconds=seconds,
            temperature=None if self.dspike is None else self.dspike.temperature,
            probability=None if self.masked is None else self.masked.probability,
            time_weights=None if weights is None else weights.tolist(),
        )
        return epoch, None if self.settings.two is None else self.moments.mean().tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the phase's optimiser; callbacks set the learning rate at the start of each epoch."""
        parameters = [value for value in self.network.parameters() if value.requires_grad]
        rate, decay = self.phase.learning_rate, self.phase.weight_decay
        assert rate is not None
        assert decay is not None  # the settings leave nothing open
        if self.phase.optimiser == "sgd":
            momentum = self.settings.momentum
            return torch.optim.SGD(parameters, rate, momentum=momentum, weight_decay=decay)
        if self.phase.optimiser == "adamw":
            return torch.optim.AdamW(parameters, rate, weight_decay=decay)
        return torch.optim.Adam(parameters, rate, weight_decay=decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store how to rebuild the network and the run, as plain values that load without pickle."""
        checkpoint[DESCRIPTION] = self.trained.description()
        checkpoint[RUN] = self.history.to_json()

    def _share(self, index: int) -> float:
        """Return what makes the loss of batch `index` a mean over the batches of its step."""
        together = self.settings.running.accumulate
        if together == 1:
            return 1.0
        left = int(self.trainer.num_training_batches) - index // together * together
        # Lightning divides by `together`, also for the last batches of an epoch, if they are fewer
        return together / min(together, left)

    def _weights(self, outputs: Tensor) -> Tensor | None:
        weights = self.network.time_weights
        return None if weights is None else weights.to(outputs)

    def _zeros(self, count: int) -> Tensor:
        # sums of a whole epoch, for which Apple's GPUs have no double precision
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.zeros(count, dtype=kind, device=self.device)

    def _total(self, sums: Tensor) -> list[float]:
        """Return `sums` over all processes."""
        total: Any = self.trainer.strategy.reduce(sums.clone(), reduce_op="sum")
        return [float(value) for value in total]


def _surrogate(network: nn.Module) -> Any:
    """Return the surrogate that all neurons of a network share; None if they have none."""
    found = (getattr(module, "surrogate", None) for module in network.modules())
    return next((surrogate for surrogate in found if surrogate is not None), None)
