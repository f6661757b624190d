"""
The training run: our network and loss, in the loop of PyTorch Lightning.

Lightning owns the loop, checkpoints, resumption, progress and logs (and, later, many GPUs); what is
here is what the papers say: L_TOTAL, Adam, a cosine over the epochs, accuracy of the mean read-out.
"""

from __future__ import annotations

import json
import logging
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from neurocompile.atomic import check_writable, write_text
from neurocompile.data import DataSet, Images, load_data_set
from neurocompile.errors import CheckpointError, DataError, OptionError, Problem, raise_all
from neurocompile.training.checkpoint import BEST, LAST, METRICS, load_checkpoint
from neurocompile.training.config import Convolutional, TrainSettings
from neurocompile.training.curves import CURVES, plot_curves
from neurocompile.training.losses import tet_loss
from neurocompile.training.networks import SpikingNetwork, build


@dataclass(frozen=True)
class TrainingResult:
    """What `metrics.json` says, as a value."""

    run_directory: Path
    metrics: dict[str, Any]

    @property
    def test_accuracy(self) -> float:
        """Accuracy on the test split of the checkpoint of the last epoch."""
        return float(self.metrics["test_accuracy"]["last"])


class TetModule(lightning.LightningModule):
    """The step of training and of testing; state lives in the network and the optimiser only."""

    def __init__(self, network: SpikingNetwork, settings: TrainSettings, data: DataSet) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.description = {
            "settings": settings.model_dump(mode="json"),
            "input_shape": list(data.input_shape),
            "classes": data.classes,
            "input_range": data.input_range.to_json(),
        }
        self.correct_at: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Return O(t) for `images` (batch, steps or 1, *shape); one step is presented T times."""
        if images.shape[1] == 1:
            images = images.expand(-1, self.settings.timesteps, *images.shape[2:])
        outputs: Tensor = self.network(images)
        return outputs

    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        images, labels = batch
        outputs = self(images)
        loss = tet_loss(
            outputs,
            labels,
            mse_weight=self.settings.loss.mse_weight,
            mse_target=self.settings.loss.mse_target,
        )
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        accuracy = (self.network.decision(outputs).argmax(1) == labels).float().mean()
        self.log("train_accuracy", accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.correct_at = torch.zeros(self.settings.timesteps, device=self.device)

    def validation_step(self, batch: list[Tensor], _index: int) -> None:
        images, labels = batch
        outputs = self(images)
        assert self.correct_at is not None
        self.correct_at += (outputs.argmax(2) == labels[:, None]).sum(0)
        accuracy = (self.network.decision(outputs).argmax(1) == labels).float().mean()
        self.log("test_accuracy", accuracy, batch_size=len(labels), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.Adam(
            self.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.settings.epochs)
        return {"optimizer": optimiser, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store how to rebuild the network, as plain values that load without pickle."""
        checkpoint["neurocompile"] = self.description


class _History(Callback):
    """Keeps what every epoch measured, in the checkpoint too, so that a resumed run has it."""

    KEPT = ("test_accuracy", "train_loss", "per_moment")

    def __init__(self) -> None:
        self.test_accuracy: list[float] = []
        self.train_loss: list[float] = []
        self.per_moment: list[float] = []

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        assert isinstance(pl_module, TetModule)
        assert pl_module.correct_at is not None
        self.test_accuracy.append(float(trainer.callback_metrics["test_accuracy"]))
        self.train_loss.append(float(trainer.callback_metrics["train_loss"]))
        samples = len(trainer.val_dataloaders.dataset)  # type: ignore[union-attr]
        self.per_moment = (pl_module.correct_at / samples).tolist()

    def state_dict(self) -> dict[str, Any]:
        return {name: list(getattr(self, name)) for name in self.KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in self.KEPT:
            setattr(self, name, list(state_dict[name]))


class _Bar(TQDMProgressBar):
    """Lightning's progress bar, without the name of the log folder."""

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, Any]:
        metrics = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        return metrics


def _checkpoints(run_directory: Path) -> list[ModelCheckpoint]:
    """Return what stores the newest epoch and the best one, each under one name."""
    after_epoch: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    return [
        ModelCheckpoint(run_directory, filename=Path(LAST).stem, **after_epoch),
        ModelCheckpoint(
            run_directory,
            filename=Path(BEST).stem,
            monitor="test_accuracy",
            mode="max",
            **after_epoch,
        ),
    ]


def train(
    settings: TrainSettings,
    run_directory: Path,
    *,
    resume: bool = False,
    progress: bool = False,
) -> TrainingResult:
    """
    Train a network and leave checkpoints, `metrics.json`, logs and a plot in `run_directory`.

    `progress` shows Lightning's progress bar. Raises `OptionError` if the directory already holds a
    run and `resume` is off.
    """
    last = run_directory / LAST
    if resume and not last.is_file():
        raise CheckpointError(
            Problem(
                "", f"cannot resume: there is no '{last}'", remedy="train without --resume first"
            )
        )
    if not resume and (run_directory / METRICS).exists() | last.exists():
        raise OptionError(
            Problem(
                "",
                f"'{run_directory}' already holds a training run",
                remedy="choose another directory with -o, or continue it with --resume",
            )
        )
    check_writable(run_directory, directory=True)
    if resume:
        _check_resumable(settings, last)
    data = load_data_set(settings.data)
    _check_shapes(data, settings)

    with _quiet_lightning():
        lightning.seed_everything(settings.seed, workers=True, verbose=False)
        network = build(settings, data.input_shape, data.classes)
        module = TetModule(network, settings, data)
        history = _History()
        trainer = lightning.Trainer(
            max_epochs=settings.epochs,
            accelerator="auto",
            devices=1,
            deterministic="warn",
            default_root_dir=run_directory,
            logger=CSVLogger(run_directory, name="", version="logs"),
            callbacks=[
                history,
                *_checkpoints(run_directory),
                *([_Bar()] if progress else []),
            ],
            enable_progress_bar=progress,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        started = time.perf_counter()
        trainer.fit(
            module,
            _loader(data.train, settings, shuffle=True),
            _loader(data.test, settings, shuffle=False),
            ckpt_path=last if resume else None,
            weights_only=True,
        )
        seconds = time.perf_counter() - started
    accuracies = history.test_accuracy
    metrics = {
        "test_accuracy": {"last": accuracies[-1], "best": max(accuracies)},
        "accuracy_per_moment": history.per_moment,
        "accuracy_per_epoch": accuracies,
        "loss_per_epoch": history.train_loss,
        "seconds": seconds,
        "device": str(trainer.strategy.root_device),
        "seed": settings.seed,
        "settings": settings.model_dump(mode="json"),
        "data": {
            "name": data.name,
            "train": len(data.train.labels),
            "test": len(data.test.labels),
            "input_shape": list(data.input_shape),
        },
        "versions": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "lightning": version("pytorch-lightning"),
        },
    }
    plot_curves(metrics, run_directory / CURVES)
    write_text(run_directory / METRICS, json.dumps(metrics, indent=2) + "\n")
    return TrainingResult(run_directory, metrics)


def _check_resumable(settings: TrainSettings, last: Path) -> None:
    """Refuse to continue with other settings than the run began with; only epochs may change."""
    before, now = load_checkpoint(last).settings.model_dump(), settings.model_dump()
    problems = [
        Problem(
            "", f"a resumed run must keep '{name}' at {before[name]}", f"{now[name]} is asked for"
        )
        for name in before
        if name != "epochs" and before[name] != now[name]
    ]
    raise_all(OptionError, problems)


def _check_shapes(data: DataSet, settings: TrainSettings) -> None:
    problems: list[Problem] = []
    steps = data.train.images.shape[1]
    if steps not in (1, settings.timesteps):
        problems.append(
            Problem(
                "",
                f"'{data.name}' has {steps} frames a sample",
                f"{settings.timesteps} steps are asked for",
                f"use --timesteps {steps}",
            )
        )
    _, *size = data.input_shape
    network = settings.network
    stages = network.stages if isinstance(network, Convolutional) else ()
    for number, stage in enumerate(stages, start=1):
        if any(extent % stage.pool for extent in size):
            problems.append(
                Problem(
                    f"pool{number}",
                    f"needs an image that it divides by {stage.pool}",
                    f"it gets {size[0]} x {size[1]}",
                    "crop or resize the images, or leave out a pool with --config",
                )
            )
            break
        size = [extent // stage.pool for extent in size]
    raise_all(DataError, problems)


def _loader(images: Images, settings: TrainSettings, *, shuffle: bool) -> DataLoader[Any]:
    return DataLoader(
        TensorDataset(torch.from_numpy(images.images), torch.from_numpy(images.labels)),
        batch_size=settings.batch_size if shuffle else 256,
        shuffle=shuffle,
        generator=torch.Generator().manual_seed(settings.seed),
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence hints about worker counts and hardware; errors and progress stay."""
    loggers = [logging.getLogger("pytorch_lightning"), logging.getLogger("lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
