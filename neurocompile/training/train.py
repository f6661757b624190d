"""
A training run: phases of epochs in one directory, on one device or many.

Lightning owns the loop, processes, precision, accumulation and what a checkpoint holds; what is here is what the
papers and the command say: phases that inherit weights (TIT), what is stored, and how a run goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException

from neurocompile.atomic import check_writable, write_text
from neurocompile.data import DataOptions, DataSet, load_data_set
from neurocompile.errors import (
    CheckpointError,
    DataError,
    MissingDependencyError,
    OptionError,
    Problem,
    RangeError,
    raise_all,
)
from neurocompile.training.allocator import keep_freed_memory
from neurocompile.training.callbacks import (
    AtomicCheckpoints,
    Display,
    EpochStart,
    Records,
    Temperature,
    log_epoch,
    writing,
)
from neurocompile.training.checkpoint import (
    BEST,
    LAST,
    LOGS,
    METRICS,
    SETTINGS,
    Trained,
    inherit,
    load_run,
    load_settings,
)
from neurocompile.training.config import TrainSettings, resolve
from neurocompile.training.evidence import Evidence, EvidenceModule
from neurocompile.training.figures import write_figures
from neurocompile.training.history import History
from neurocompile.training.loading import loaders, problems_of_frames, problems_of_steps
from neurocompile.training.module import TrainingModule
from neurocompile.training.networks import build, check_shapes
from neurocompile.training.normalisation import synchronise
from neurocompile.training.processes import (
    OURS,
    all_processes,
    check_processes,
    device_count,
    is_first,
)
from neurocompile.training.provenance import provenance
from neurocompile.training.time_weights import for_steps

MAY_CHANGE = (  # when a run is resumed
    "epochs",
    "data",  # another place of the same samples
    "input.root",
    "input.workers",
    "running.accelerator",
    "running.devices",
    "running.nodes",
    "running.early_stop",
    "running.compile",
    "running.tensorboard",
)


@dataclass(frozen=True)
class TrainingResult:
    """
    What `metrics.json` says, as a value.

    Of several processes all have it; `first` is the one that writes and speaks.
    """

    run_directory: Path
    metrics: dict[str, Any]
    first: bool = True

    @property
    def test_accuracy(self) -> float:
        """Accuracy on the test split of the checkpoint of the last epoch."""
        return float(self.metrics["test_accuracy"]["last"])


def train(
    settings: TrainSettings,
    run_directory: Path,
    *,
    resume: bool = False,
    progress: bool = False,
    announce: Callable[[TrainSettings], None] | None = None,
) -> TrainingResult:
    """
    Train a network and leave checkpoints, `metrics.json`, logs and pictures in `run_directory`.

    `announce` gets the settings of a run that nothing speaks against, before it starts. `progress` says
    on standard error how far it is: a bar on a terminal, else lines. With `resume` a run goes on after
    its last finished epoch, as if it had never stopped. Where several devices are asked for, this is
    the first of their processes; all return the same. Raises `OptionError` if the directory already
    holds a run and `resume` is off, `DataError` for inputs that the network cannot take, and
    `TrainingError` where the loss is no number any more.
    """
    _check_directory(run_directory, resume=resume)
    check_processes(settings.running)
    _check_tensorboard(settings)
    history, stored = History(), None
    if resume:
        stored, history = load_run(run_directory / LAST)
        _check_continued(settings, stored.settings, history)
    data = _data_sets(settings)
    facts = _facts(data[0])
    if history.data is not None:
        _check_same(history.data, facts)
    history.data = facts
    run = _Run(settings, run_directory, data, history)
    if stored is None:
        run.check_phases()
    if announce is not None and is_first():
        announce(settings)
    if stored is not None and progress and is_first():
        _say_what_changed(stored.settings, settings)
    with _quiet_lightning(), all_processes(settings, run_directory, resume=resume):
        lightning.seed_everything(settings.seed, workers=True, verbose=False)
        evidence = run.train(stored, progress=progress)
    metrics = run.metrics(evidence)
    if run.first:
        with writing(run_directory / METRICS):
            write_text(run_directory / METRICS, json.dumps(metrics, indent=2) + "\n")
        write_figures(run_directory, metrics, evidence)
    return TrainingResult(run_directory, metrics, run.first)


class _Run:
    """The phases of a run, one after the other, and what is told of them."""

    def __init__(
        self,
        settings: TrainSettings,
        directory: Path,
        data: Sequence[DataSet],
        history: History,
    ) -> None:
        self.settings = settings
        self.directory = directory
        self.data = data
        self.history = history
        self.first = True
        self.processes = 1
        self.device = ""

    def check_phases(self) -> None:
        """Raise now what the run's start, or a later phase in integers, would not be possible for."""
        bits = {phase.weight_bits for phase in self.settings.all_phases()} - {None}
        if self.settings.start is None and not bits:
            return
        untrained = self._untrained()
        untrained.network.eval()
        for number, phase in enumerate(self.settings.all_phases()):
            if phase.weight_bits is not None:
                with suppress(RangeError):  # of weights by chance: what is trained may fit
                    self._entered(untrained, number)

    def train(self, stored: Trained | None, *, progress: bool) -> Evidence:
        """Train what is left of the run, from `stored` on if that is given, and look at the result."""
        settings, history = self.settings, self.history
        trainer = self._trainer(0, [])  # says which process this is; each phase has its own
        self.first = trainer.is_global_zero
        self.processes = trainer.world_size
        kind = trainer.strategy.root_device
        self.device = str(kind) if self.processes == 1 else f"{self.processes} x {kind.type}"
        if kind.type == "cpu":
            _check_precision(settings)
            keep_freed_memory()
        if settings.running.compile:
            _check_compiler(kind)
        loggers = self._start() if self.first else []
        samples = (len(self.data[0].train), len(self.data[0].test))
        display = (
            Display(settings, samples, history) if progress and trainer.is_global_zero else None
        )
        trained = stored if stored is not None else self._untrained()
        trained = replace(trained, settings=settings)
        try:
            for number in range(history.current_phase(settings), len(self.data)):
                resumed = stored is not None and stored.phase == number
                if not resumed:
                    trained = self._entered(trained, number)
                self._fit(trained, loggers, display, resumed=resumed)
        finally:
            if display is not None:
                display.stop()
            for logger in loggers:
                logger.finalize("")
        return self._evidence(trained)

    def metrics(self, evidence: Evidence) -> dict[str, Any]:
        """Return what `metrics.json` holds."""
        epochs, best = self.history.epochs, self.history.best
        accuracies = [epoch.test_accuracy for epoch in epochs]
        data = self.data[-1]
        return {
            "test_accuracy": {
                "last": accuracies[-1],
                "best": accuracies[best],
                "best_epoch": best + 1,  # of the test set: there is no other split to choose by
            },
            "accuracy_per_moment": epochs[-1].per_moment,
            "accuracy_per_epoch": accuracies,
            "train_accuracy_per_epoch": [epoch.train_accuracy for epoch in epochs],
            "loss_per_epoch": [epoch.train_loss for epoch in epochs],
            "test_loss_per_epoch": {
                "sdt": [epoch.test_loss_sdt for epoch in epochs],
                "tet": [epoch.test_loss_tet for epoch in epochs],
            },
            "temperature_per_epoch": _known(epoch.temperature for epoch in epochs),
            "time_weights": epochs[-1].time_weights,
            "phases": [self._phase(number) for number in range(len(self.data))],
            "seconds": sum(epoch.seconds for epoch in epochs),
            "seconds_per_epoch": [epoch.seconds for epoch in epochs],
            "device": self.device,
            "processes": self.processes,
            "seed": self.settings.seed,
            "settings": self.settings.model_dump(mode="json"),
            "data": {
                "name": data.name,
                "train": len(data.train),
                "test": len(data.test),
                "input_shape": list(data.input_shape),
                "classes": data.classes,
                "class_names": list(data.class_names),
                "facts": dict(data.facts),
            },
            **evidence.to_json(),
            **provenance(),
        }

    def _phase(self, number: int) -> dict[str, Any]:
        accuracies = [epoch.test_accuracy for epoch in self.history.of_phase(number)]
        return {
            **self.settings.all_phases()[number].model_dump(),
            "epochs": len(accuracies),  # fewer than asked for if it stopped early
            "test_accuracy": {"last": accuracies[-1], "best": max(accuracies)},
        }

    def _start(self) -> list[Logger]:
        """Write the settings, take away what a kill left, and return the logs, with the epochs so far."""
        for name in (LAST, BEST):
            for leftover in self.directory.glob(f".{name}.*.ckpt"):
                leftover.unlink()
        with writing(self.directory / SETTINGS):
            write_text(self.directory / SETTINGS, self.settings.model_dump_json(indent=2) + "\n")
        table = CSVLogger(self.directory, name="", version=LOGS)
        for number, epoch in enumerate(self.history.epochs, start=1):
            log_epoch([table], number, epoch)
        if not self.settings.running.tensorboard:
            return [table]
        return [table, TensorBoardLogger(self.directory, name="", version=LOGS)]

    def _untrained(self) -> Trained:
        data = self.data[0]
        network = build(self.settings, data.input_shape, data.classes, data.normalisation)
        if self.settings.start is not None:
            inherit(network, self.settings, Path(self.settings.start))
        return Trained(network, self.settings, data.classes, data.input_range, data.normalisation)

    def _entered(self, trained: Trained, number: int) -> Trained:
        """Return what a phase starts from: all that was trained, in its number of steps and its integers."""
        entered = replace(trained, phase=number, input_range=self.data[number].input_range)
        network = entered.network.eval()
        if network.time_weights is not None:
            network.time_weights = for_steps(network.time_weights, entered.steps)
        recipe = self.settings.all_phases()[number].recipe
        if recipe is None:
            return entered
        from neurocompile.training.quantised import prepare

        return replace(entered, network=prepare(entered, recipe))

    def _fit(
        self,
        trained: Trained,
        loggers: Sequence[Logger],
        display: Display | None,
        *,
        resumed: bool,
    ) -> None:
        settings, number = self.settings, trained.phase
        if self.processes > 1 and settings.normalisation.sync:
            synchronise(trained.network)
        callbacks = [EpochStart(), Temperature(), Records(self.directory, loggers)]
        if display is not None:
            callbacks.append(display)
        trainer = self._trainer(number, callbacks)
        module = TrainingModule(trained, self.history, compiled=settings.running.compile)
        batches, test = loaders(
            self.data[number], settings, number, trainer.global_rank, trainer.world_size
        )
        # workers start before Lightning tells the sampler which epoch a resumed run is in
        batches.sampler.set_epoch(len(self.history.of_phase(number)))  # type: ignore[attr-defined]
        with self._stopping(trainer):
            trainer.fit(
                module,
                batches,
                test,
                ckpt_path=self.directory / LAST if resumed else None,
                weights_only=True,
            )

    def _evidence(self, trained: Trained) -> Evidence:
        number = trained.phase
        trainer = self._trainer(number, [])
        _, test = loaders(
            self.data[number], self.settings, number, trainer.global_rank, trainer.world_size
        )
        module = EvidenceModule(trained.network.eval(), trained.steps, trained.classes)
        with self._stopping(trainer):
            trainer.test(module, test, verbose=False)
        assert module.evidence is not None
        return module.evidence

    def _trainer(self, number: int, callbacks: list[Any]) -> lightning.Trainer:
        running = self.settings.running
        several = device_count(running) * running.nodes > 1
        try:
            return lightning.Trainer(
                accelerator=running.accelerator,
                devices=device_count(running),
                num_nodes=running.nodes,
                # each process has the statistics of its own batches, where they are not common ones; those
                # of the first are taken for testing, once an epoch
                strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
                precision=running.precision,
                accumulate_grad_batches=running.accumulate,
                gradient_clip_val=running.clip,
                max_epochs=self.settings.all_phases()[number].epochs,
                deterministic="warn",
                plugins=[AtomicCheckpoints()],
                callbacks=callbacks,
                logger=False,
                default_root_dir=self.directory,
                use_distributed_sampler=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            raise OptionError(
                Problem(
                    "",
                    f"cannot train with running.accelerator={running.accelerator}, "
                    f"running.devices={running.devices}, running.precision={running.precision}",
                    str(error).split("\n", 1)[0],
                )
            ) from error

    @contextmanager
    def _stopping(self, trainer: lightning.Trainer) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the run as they end other programs, with a word on how to go on."""
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT)
        try:
            yield
        except SIGTERMException:
            self._say_how_to_go_on()
            raise SystemExit(128 + signal.SIGTERM) from None
        except SystemExit:
            if not trainer.interrupted:
                raise
            self._say_how_to_go_on()
            raise KeyboardInterrupt from None
        finally:
            if main:  # Lightning leaves Ctrl-C without effect
                signal.signal(signal.SIGINT, before)

    def _say_how_to_go_on(self) -> None:
        if not self.first:
            return
        done = len(self.history.epochs)
        text = (
            f"stopped after epoch {done}: 'neurocompile train --resume -o {self.directory}' goes on there"
            if done
            else "stopped in the first epoch: nothing is stored"
        )
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def _known(values: Iterator[float | None]) -> list[float] | None:
    found = [value for value in values if value is not None]
    return found or None


def _check_directory(run_directory: Path, *, resume: bool) -> None:
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
    if not resume and run_directory.is_dir() and not _is_ours(run_directory):
        raise OptionError(
            Problem(
                "",
                f"'{run_directory}' holds files that are not of a training run",
                remedy="choose another directory with -o",
            )
        )


def _is_ours(directory: Path) -> bool:
    """Return whether a directory is empty, or what a run left that was killed before its first checkpoint."""
    names = (path.name for path in directory.iterdir())
    if all(name.startswith(f".{SETTINGS}.") for name in names):
        return True
    try:
        settings = json.loads((directory / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and {"network", "epochs", "running"} <= settings.keys()


def _check_precision(settings: TrainSettings) -> None:
    if settings.running.precision == "16-mixed":
        raise OptionError(
            Problem(
                "",
                "running.precision=16-mixed needs a GPU",
                "this run is on a processor",
                "use running.precision=bf16-mixed",
            )
        )


def _check_tensorboard(settings: TrainSettings) -> None:
    if settings.running.tensorboard and find_spec("tensorboard") is None:
        raise MissingDependencyError(
            Problem(
                "",
                "running.tensorboard needs the package tensorboard",
                "it is not installed",
                "pip install 'neurocompile[tensorboard]'",
            )
        )


def _check_compiler(device: torch.device) -> None:
    """Raise `OptionError` if torch.compile does not work here, before it fails in the first step."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(4, device=device))
    except Exception as error:  # its parts raise errors of many kinds, some without a common base
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise OptionError(
            Problem(
                "",
                "running.compile needs a compiler that torch.compile can use",
                f"it fails on {device} ({reason})",
                "install a C++ compiler, or leave running.compile out",
            )
        ) from error


def settings_to_resume(
    run_directory: Path,
    *,
    preset: str | None = None,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> TrainSettings:
    """
    Return the settings of the run in `run_directory`, with `overrides` and `settings` on top.

    A preset or file must agree with the run in all that may not change, and is not asked for the rest.
    Raises `OptionError` if it does not, `CheckpointError` if there is no run.
    """
    if os.environ.get(OURS):  # the first process has resolved them
        return resolve(config=config)
    _check_directory(run_directory, resume=True)
    before = load_settings(run_directory / LAST)
    if preset is not None or config is not None:
        asked = resolve(preset=preset, config=config, overrides=overrides, **settings)
        raise_all(OptionError, _kept(before, asked, free=(*MAY_CHANGE, "preset")))
    return resolve(stored=before, overrides=overrides, **settings)


def _check_continued(settings: TrainSettings, before: TrainSettings, history: History) -> None:
    """Raise `OptionError` for other settings than the run that is resumed began with."""
    first, last = len(history.of_phase(0)), history.epochs[-1].phase
    problems = _kept(before, settings, free=MAY_CHANGE if last == 0 else MAY_CHANGE[1:])
    if last == 0 and settings.epochs < first:
        need = f"a resumed run has at least the {first} epochs that are done"
        problems.append(Problem("", need, f"epochs={settings.epochs} is asked for"))
    raise_all(OptionError, problems)


def _kept(before: TrainSettings, settings: TrainSettings, free: Sequence[str]) -> list[Problem]:
    return [
        Problem("", f"a resumed run must keep '{name}' at {old}", f"{new} is asked for")
        for name, old, new in _changes(before, settings)
        if name not in free
    ]


def _changes(before: TrainSettings, settings: TrainSettings) -> list[tuple[str, Any, Any]]:
    """Return the settings that differ, by their dotted names, with both values."""
    old, new = _flat(before.model_dump(mode="json")), _flat(settings.model_dump(mode="json"))
    return [
        (name, old.get(name), new.get(name))
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _say_what_changed(before: TrainSettings, settings: TrainSettings) -> None:
    changes = [f"{name} from {old} to {new}" for name, old, new in _changes(before, settings)]
    if changes:
        print(f"the resumed run changes {', '.join(changes)}", file=sys.stderr, flush=True)  # noqa: T201


def _facts(data: DataSet) -> dict[str, Any]:
    """Return what a run must find again when it is resumed, as plain values."""
    labels = hashlib.sha256()
    for split in (data.train, data.test):
        labels.update(np.ascontiguousarray(split.labels, "<i8").tobytes())
    return {
        "input_shape": list(data.input_shape),
        "classes": data.classes,
        "train": len(data.train),
        "test": len(data.test),
        "normalisation": None
        if data.normalisation is None
        else [list(values) for values in data.normalisation],
        "input_range": data.input_range.to_json(),
        "labels": labels.hexdigest(),
    }


def _check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `DataError` where a resumed run would go on with other samples."""
    problems = [
        Problem("", "a resumed run needs the labels that it began with", "these are others")
        if name == "labels"
        else Problem(
            "", f"a resumed run needs data with {name}={before.get(name)}", f"these have {value}"
        )
        for name, value in now.items()
        if before.get(name) != value
    ]
    raise_all(DataError, problems)


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{before}{name}."))
        else:
            flat[f"{before}{name}"] = value
    return flat


def _data_sets(settings: TrainSettings) -> list[DataSet]:
    """Return the data of each phase, in its number of steps; raises `DataError` where a network cannot take it."""
    made: dict[int, DataSet] = {}
    problems: dict[Problem, None] = {}
    data = []
    for phase in settings.all_phases():
        steps = phase.timesteps
        assert steps is not None  # the settings leave nothing open
        if steps not in made:
            options = DataOptions.from_settings(settings.model_dump(mode="json"), steps)
            made[steps] = load_data_set(settings.data, options)
        chosen = made[steps]
        data.append(chosen)
        problems.update(dict.fromkeys(problems_of_steps(chosen, steps)))
        problems.update(dict.fromkeys(check_shapes(settings, chosen.input_shape)))
        problems.update(dict.fromkeys(problems_of_frames(chosen, settings)))
    raise_all(DataError, problems)
    return data


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence hints about worker counts and hardware; errors and progress stay."""
    names = ("pytorch_lightning", "lightning.fabric", "lightning_fabric")
    loggers = [logging.getLogger(name) for name in names]
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
