"""
Reading back what `train` stored: a run directory, or one of its checkpoint files.

A checkpoint is Lightning's, with two entries of ours, both plain values that load without pickle:
`neurocompile` describes the network, `neurocompile_run` is what the run knows besides weights and
optimiser.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurocompile.data import InputRange
from neurocompile.errors import CheckpointError, NeurocompileError, Problem
from neurocompile.training.config import TrainSettings
from neurocompile.training.history import History
from neurocompile.training.networks import SpikingNetwork, build

LAST = "last.ckpt"
BEST = "best.ckpt"
METRICS = "metrics.json"
SETTINGS = "settings.json"
LOGS = "logs"

FORMAT = 2
DESCRIPTION, RUN = "neurocompile", "neurocompile_run"
PREFIX = "network."  # of the network's weights among those of the module that trains it

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of each channel

DAMAGED = (
    RuntimeError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    ValueError,
    EOFError,
    OSError,
    pickle.UnpicklingError,
    NeurocompileError,
)


@dataclass(frozen=True)
class Trained:
    """
    A trained network in evaluation mode, and what is known about its input.

    `phase` is that of the run's phases, from 0, which trained it.
    """

    network: SpikingNetwork
    settings: TrainSettings
    classes: int
    input_range: InputRange
    normalisation: Normalisation | None = None
    phase: int = 0

    @property
    def steps(self) -> int:
        """The time steps that the network was trained with, in its last phase."""
        steps = self.settings.all_phases()[self.phase].timesteps
        assert steps is not None  # all_phases leaves nothing open
        return steps

    def description(self) -> dict[str, Any]:
        """Return what `rebuild` needs besides the weights, as plain values."""
        from neurocompile.training.quantised import describe

        return {
            "format": FORMAT,
            "settings": self.settings.model_dump(mode="json"),
            "input_shape": list(self.network.input_shape),
            "classes": self.classes,
            "input_range": self.input_range.to_json(),
            "normalisation": None
            if self.normalisation is None
            else [list(values) for values in self.normalisation],
            "phase": self.phase,
            "quantised": describe(self.network),
        }


def load_checkpoint(source: Path) -> Trained:
    """
    Return the network of a run directory (its last checkpoint) or of a checkpoint file.

    Weights are read without pickle. Raises `CheckpointError` if the file is none of ours.
    """
    with _opened(source) as stored:
        return _trained(stored)


def load_run(source: Path) -> tuple[Trained, History]:
    """Return what `load_checkpoint` does, and the run's epochs; raises as it does if none can follow."""
    with _opened(source) as stored:
        trained, history = _trained(stored), History.from_json(stored[RUN])
        phases = [epoch.phase for epoch in history.epochs]
        if not phases or phases != sorted(phases) or phases[0] < 0 or phases[-1] != trained.phase:
            raise ValueError("its epochs are not those of its phases")
        if not stored["optimizer_states"] or "fit_loop" not in stored["loops"]:
            raise ValueError("there is no optimiser in it")
        return trained, history


def load_settings(source: Path) -> TrainSettings:
    """Return the settings of a run directory or checkpoint; raises `CheckpointError`."""
    with _opened(source) as stored:
        return TrainSettings.model_validate(stored[DESCRIPTION]["settings"])


@contextmanager
def _opened(source: Path) -> Iterator[dict[str, Any]]:
    """Yield what is stored; raises `CheckpointError` for that, and for what the block finds wrong."""
    path = source / LAST if source.is_dir() else source
    if not path.is_file():
        raise CheckpointError(
            Problem("", f"there is no checkpoint '{path}'", remedy="run 'neurocompile train' first")
        )
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if stored[DESCRIPTION]["format"] != FORMAT:
            raise CheckpointError(
                Problem(
                    "",
                    f"'{path}' was written by another version of neurocompile",
                    remedy="train it again",
                )
            )
        yield stored
    except CheckpointError:
        raise
    except DAMAGED as error:
        reason = str(error).split("\n", 1)[0][:200]
        if isinstance(error, pickle.UnpicklingError):  # PyTorch advises to run what is in the file
            reason = "it holds something else than weights and plain values"
        elif isinstance(error, KeyError):
            reason = f"there is no {reason} in it"
        raise CheckpointError(
            Problem("", f"'{path}' is not a checkpoint of 'neurocompile train' ({reason})")
        ) from error


def _trained(stored: Mapping[str, Any]) -> Trained:
    state = {name.removeprefix(PREFIX): value for name, value in stored["state_dict"].items()}
    return rebuild(stored[DESCRIPTION], state)


def rebuild(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> Trained:
    """Return the network that `description` names, with the weights `state`."""
    settings = TrainSettings.model_validate(description["settings"])
    shape = tuple(int(extent) for extent in description["input_shape"])
    classes = int(description["classes"])
    input_range = InputRange(**description["input_range"])
    normalisation = _normalisation(description.get("normalisation"))
    network = build(settings, shape, classes, normalisation)
    quantised = description.get("quantised")
    if quantised is not None:
        from neurocompile.training.quantised import restore

        network = restore(network, input_range, quantised)
    if "time_weights" in state:  # a later phase may have another number of steps
        network.time_weights = torch.ones_like(state["time_weights"])
    network.load_state_dict(state)
    network.eval()
    phase = int(description.get("phase", 0))
    if not 0 <= phase < len(settings.all_phases()):
        raise ValueError(f"there is no phase {phase}")
    return Trained(network, settings, classes, input_range, normalisation, phase)


def _normalisation(stored: Any) -> Normalisation | None:
    if stored is None:
        return None
    mean, deviation = (tuple(float(value) for value in values) for values in stored)
    return mean, deviation


def inherit(network: SpikingNetwork, settings: TrainSettings, source: Path) -> None:
    """
    Give `network` of `settings` the weights and statistics of the run or checkpoint `source`.

    Weights of time steps (TWO) start anew. Raises `CheckpointError` with each difference if it is another
    network.
    """
    from neurocompile.training.quantised import describe

    trained = load_checkpoint(source)
    if describe(trained.network) is not None:
        raise CheckpointError(
            Problem(
                "",
                f"cannot start from '{source}'",
                "it was trained in integers",
                "start from a run without weight_bits",
            )
        )
    given, wanted = trained.network.state_dict(), network.state_dict()
    given.pop("time_weights", None)
    if "time_weights" in wanted:
        given["time_weights"] = wanted["time_weights"]
    problems = _other_norms(settings, trained.settings, source)
    problems += [
        Problem(
            name.removeprefix("body."),
            f"cannot start from '{source}': it needs {_text(_shape(wanted, name))}",
            f"there it is {_text(_shape(given, name))}",
        )
        for name in dict.fromkeys([*wanted, *given])
        if _shape(wanted, name) != _shape(given, name)
    ]
    if problems:
        raise CheckpointError(*problems)
    network.load_state_dict(given)


def _other_norms(wanted: TrainSettings, given: TrainSettings, source: Path) -> list[Problem]:
    """Return in what the factors of batch norms differ, which are no weights."""
    kinds = (wanted.normalisation.kind, given.normalisation.kind)
    if "tdbn" not in kinds:
        return []
    pairs = (
        ("normalisation.kind", *kinds),
        ("neuron.threshold", wanted.neuron.threshold, given.neuron.threshold),
    )
    return [
        Problem("", f"cannot start from '{source}': it needs {name}={need}", f"there it is {have}")
        for name, need, have in pairs
        if need != have
    ]


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None


def _text(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"the shape {shape}"
