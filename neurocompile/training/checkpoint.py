"""Reading back what `train` stored: a run directory, or one of its checkpoint files."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from neurocompile.data import InputRange
from neurocompile.errors import CheckpointError, NeurocompileError, Problem
from neurocompile.training.config import TrainSettings
from neurocompile.training.networks import SpikingNetwork, build

LAST = "last.ckpt"
BEST = "best.ckpt"
METRICS = "metrics.json"


@dataclass(frozen=True)
class Trained:
    """A trained network in evaluation mode, and what is known about its input."""

    network: SpikingNetwork
    settings: TrainSettings
    classes: int
    input_range: InputRange


def load_checkpoint(source: Path) -> Trained:
    """
    Return the network of a run directory (its last checkpoint) or of a checkpoint file.

    Weights are read without pickle. Raises `CheckpointError` if the file is none of ours.
    """
    path = source / LAST if source.is_dir() else source
    if not path.is_file():
        raise CheckpointError(
            Problem("", f"there is no checkpoint '{path}'", remedy="run 'neurocompile train' first")
        )
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        ours = stored["neurocompile"]
        return rebuild(
            ours,
            {name.removeprefix("network."): value for name, value in stored["state_dict"].items()},
        )
    except (
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        EOFError,
        OSError,
        pickle.UnpicklingError,
        NeurocompileError,
    ) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise CheckpointError(
            Problem("", f"'{path}' is not a checkpoint of 'neurocompile train' ({reason})")
        ) from error


def rebuild(description: dict[str, object], state: dict[str, torch.Tensor]) -> Trained:
    """Return the network that `description` names, with the weights `state`, checked for NaN."""
    settings = TrainSettings.model_validate(description["settings"])
    shape = tuple(int(extent) for extent in description["input_shape"])  # type: ignore[attr-defined]
    classes = int(description["classes"])  # type: ignore[call-overload]
    input_range = InputRange(**description["input_range"])  # type: ignore[arg-type]
    network = build(settings, shape, classes)
    network.load_state_dict(state)
    network.eval()
    return Trained(network, settings, classes, input_range)
