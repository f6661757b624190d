"""
What happens at the ends of epochs and batches, besides the step itself.

Callbacks are called in the order in which a run lists them: `EpochStart` and `Temperature` before an epoch,
`Records` before whatever reads the history.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from neurocompile.atomic import replacing
from neurocompile.errors import Problem, TrainingError
from neurocompile.training.checkpoint import BEST, LAST, LOGS
from neurocompile.training.config import PhaseSettings, TrainSettings
from neurocompile.training.evidence import shown
from neurocompile.training.fdg import adapt_temperature
from neurocompile.training.history import Epoch, History
from neurocompile.training.losses import loss_of
from neurocompile.training.module import TrainingModule
from neurocompile.training.surrogates import probability_at
from neurocompile.training.time_weights import updated

TRAINING_COSTS = 3  # times what testing a sample does, for the time that is left
LONGEST_SILENCE = 60.0  # seconds between two lines where there is no bar
BAR_EVERY = 0.25  # seconds; asking for a loss makes a GPU wait


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and then moves it there: a kill leaves the old one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        del storage_options
        with replacing(Path(path)) as temporary, writing(path):
            torch.save(checkpoint, temporary)


class EpochStart(Callback):
    """Sets what the settings say of an epoch: learning rate, loss, masks, weights of the steps."""

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        module = _ours(pl_module)
        settings, history = module.settings, module.history
        rate = learning_rate(settings, module.phase, trainer.current_epoch)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate
        epoch = len(history.epochs)
        module.loss = loss_of(settings.loss, epoch)
        if module.masked is not None and settings.mask is not None:
            epochs = sum(phase.epochs for phase in settings.all_phases())
            module.masked.probability = probability_at(settings.mask, epoch, epochs)
        if module.dspike is not None and history.temperature is not None:
            module.dspike.temperature = history.temperature
        weights = module.network.time_weights
        if settings.two is not None and weights is not None:
            since = _epochs_with(module.steps, settings, history.epochs)
            moments = history.moments if since else None
            accuracies = torch.tensor(moments or [0.0] * len(weights)).to(weights.device)
            weights.copy_(updated(weights, accuracies, settings.two, since))


class Temperature(Callback):
    """Before an epoch's first step, lets the temperature of Dspike follow the finite difference gradient."""

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        del trainer
        module = _ours(pl_module)
        chosen, epoch = module.settings.surrogate, len(module.history.epochs)
        if batch_idx or chosen.name != "dspike" or chosen.adapt is None or module.dspike is None:
            return
        if epoch % chosen.adapt.every or module.in_integers:
            return  # integers have no derivative that finite differences could find
        inputs, labels = batch
        temperature, _ = adapt_temperature(
            module.network,
            module.dspike,
            partial(module.loss, weights=module.network.time_weights),
            shown(inputs, module.steps),
            labels,
            chosen.adapt,
            module.settings.seed + epoch,
        )
        module.dspike.temperature = module.history.temperature = temperature


class Records(Callback):
    """Puts each epoch into the history and the logs, stores checkpoints, and stops where nothing improves."""

    def __init__(self, run_directory: Path, loggers: Sequence[Logger]) -> None:
        self.run_directory = run_directory
        self.loggers = loggers
        self.started = 0.0

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        del trainer, pl_module
        self.started = time.perf_counter()

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        module = _ours(pl_module)
        history = module.history
        epoch, history.moments = module.finish_epoch(time.perf_counter() - self.started)
        history.epochs.append(epoch)
        # the best one first: a run that is killed between the two repeats the epoch, and with it both
        if history.best == len(history.epochs) - 1:
            trainer.save_checkpoint(self.run_directory / BEST)
        trainer.save_checkpoint(self.run_directory / LAST)
        if trainer.is_global_zero:
            with writing(self.run_directory / LOGS):
                log_epoch(self.loggers, len(history.epochs), epoch)
        if history.stopped_early(epoch.phase, module.settings.running.early_stop):
            trainer.should_stop = True


def log_epoch(loggers: Sequence[Logger], number: int, epoch: Epoch) -> None:
    """Write an epoch's row to all `loggers`; `number` counts from 1."""
    row = {
        "epoch": number,
        "phase": epoch.phase + 1,
        "learning_rate": epoch.learning_rate,
        "train_loss": epoch.train_loss,
        "train_accuracy": epoch.train_accuracy,
        "test_accuracy": epoch.test_accuracy,
        "test_loss_sdt": epoch.test_loss_sdt,
        "test_loss_tet": epoch.test_loss_tet,
        "seconds": epoch.seconds,
    }
    more = {"temperature": epoch.temperature, "mask_probability": epoch.probability}
    row.update({name: value for name, value in more.items() if value is not None})
    for logger in loggers:
        logger.log_metrics(row, number)
        logger.save()


class Display(Callback):
    """
    Says how far the whole run is: a bar on a terminal, else a line for each epoch.

    Where an epoch takes long there are lines within it. `samples` are those to train on and to test.
    """

    def __init__(self, settings: TrainSettings, samples: tuple[int, int], history: History) -> None:
        self.epochs = sum(phase.epochs for phase in settings.all_phases())
        self.cost = [_cost(phase, samples) for phase in settings.all_phases()]
        self.console = Console(stderr=True, highlight=False)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
            speed_estimate_period=600,
        )
        self.before = self.done = sum(self.cost[epoch.phase] for epoch in history.epochs)
        self.total = self.done
        self.task = self.bar.add_task("", total=self.total, values="")
        self._advance(0)
        self.accuracy = ""
        self.started: float | None = None
        self.spoke = self.drew = time.monotonic()

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        del trainer
        module = _ours(pl_module)
        if self.started is None:  # the first phase; processes may have taken long to come together
            self.started = time.monotonic()
        self.total = self.done + self._remaining(module)
        self.bar.update(self.task, total=self.total)
        self.bar.start()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        del outputs
        module = _ours(pl_module)
        self._advance(TRAINING_COSTS * len(batch[1]) * trainer.world_size * module.steps)
        now = time.monotonic()
        if self.console.is_terminal:
            if now - self.drew > BAR_EVERY:
                self.drew = now
                self._draw(module)
        elif now - self.spoke > LONGEST_SILENCE:
            loss, _, count = module.train_sums.tolist()
            step = f"step {batch_idx + 1} of {trainer.num_training_batches}"
            self._say(f"{self._place(module)}, {step}: loss {loss / count:.4f}")

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        del outputs, batch_idx, dataloader_idx
        self._advance(len(batch[1]) * trainer.world_size * _ours(pl_module).steps)

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        del trainer
        module = _ours(pl_module)
        epoch = module.history.epochs[-1]
        self.accuracy = f"test accuracy {100 * epoch.test_accuracy:.2f} %"
        self.total = self.done + self._remaining(module)
        if not self.console.is_terminal:
            number = len(module.history.epochs)
            self._say(
                f"epoch {number} of {self.epochs}: loss {epoch.train_loss:.4f}, {self.accuracy}"
            )

    def stop(self) -> None:
        """Take the bar away."""
        self.bar.stop()

    def _remaining(self, module: TrainingModule) -> float:
        """Return what the epochs cost that are still to come, if no phase stops early."""
        now, phases = module.trained.phase, module.settings.all_phases()
        left = phases[now].epochs - len(module.history.of_phase(now))
        return left * self.cost[now] + sum(
            phase.epochs * cost
            for phase, cost in zip(phases[now + 1 :], self.cost[now + 1 :], strict=True)
        )

    def _advance(self, work: float) -> None:
        self.done += work
        self.bar.update(self.task, completed=self.done)

    def _place(self, module: TrainingModule) -> str:
        return f"epoch {len(module.history.epochs) + 1} of {self.epochs}"

    def _draw(self, module: TrainingModule) -> None:
        loss, _, count = module.train_sums.tolist()
        values = ", ".join(filter(None, (f"loss {loss / count:.4f}", self.accuracy)))
        self.bar.update(self.task, description=self._place(module), values=values)

    def _say(self, text: str) -> None:
        self.spoke = time.monotonic()
        done = self.done - self.before
        assert self.started is not None
        left = (self.spoke - self.started) / done * max(0.0, self.total - self.done)
        print(f"{text}, {duration(left)} left", file=sys.stderr, flush=True)  # noqa: T201


def learning_rate(settings: TrainSettings, phase: PhaseSettings, epoch: int) -> float:
    """
    Return the learning rate of an epoch of a phase, counted from 0.

    Over the `warmup_epochs` it grows linearly to the phase's own; a cosine falls from there and would
    reach 0 in the epoch after the last.
    """
    assert phase.learning_rate is not None  # the settings leave nothing open
    warm = min(settings.warmup_epochs, phase.epochs)
    if epoch < warm:
        return phase.learning_rate * (epoch + 1) / warm
    if settings.schedule == "constant":
        return phase.learning_rate
    done = (epoch - warm) / (phase.epochs - warm)
    return phase.learning_rate * (1 + math.cos(math.pi * done)) / 2


def duration(seconds: float) -> str:
    """Return a time in words, in two units at most."""
    whole = round(seconds)
    for name, unit, smaller_name, smaller in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {smaller_name}"
    return f"{whole} s"


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raise `TrainingError` that names `path` where the disk does not take it."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # PyTorch's writer has errors of its own
        reason = str(error).split("\n", 1)[0][:200]
        raise TrainingError(
            Problem("", f"'{path}' must be written", f"that failed ({reason})", "is the disk full?")
        ) from error


def _ours(module: lightning.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module


def _cost(phase: PhaseSettings, samples: tuple[int, int]) -> float:
    assert phase.timesteps is not None  # the settings leave nothing open
    train, test = samples
    return float(phase.timesteps * (TRAINING_COSTS * train + test))


def _epochs_with(steps: int, settings: TrainSettings, epochs: Sequence[Epoch]) -> int:
    """Return how many of the last `epochs` had so many time `steps`, without another between."""
    phases, count = settings.all_phases(), 0
    for epoch in reversed(epochs):
        if phases[epoch.phase].timesteps != steps:
            break
        count += 1
    return count
