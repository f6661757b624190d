"""
Look again at a trained network: other numbers of steps, other data, who fires how often.

One pass over the data with the largest number of steps says all of it (see `scalability`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocompile.data import (
    DataOptions,
    InputRange,
    Split,
    Stored,
    is_input_file,
    load_data_set,
    load_samples,
    named_split,
)
from neurocompile.errors import DataError, OptionError, Problem, raise_all
from neurocompile.program import GRID_TOLERANCE
from neurocompile.target import Progress
from neurocompile.training.checkpoint import Trained, load_checkpoint
from neurocompile.training.evidence import Collector, Evidence, shown
from neurocompile.training.scalability import TimeScalability, scalability_of


@dataclass(frozen=True)
class Evaluation:
    """Accuracies by number of steps, and what was seen with all `steps`."""

    data: str
    steps: int
    scalability: TimeScalability
    evidence: Evidence
    class_names: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "schema": 1,
            "data": self.data,
            "steps": self.steps,
            **self.scalability.to_json(),
            **self.evidence.to_json(),
        }


@dataclass(frozen=True)
class _Data:
    """Samples to evaluate on, with `steps` steps of their own, and what they are called."""

    name: str
    split: Split
    input_shape: tuple[int, ...]
    steps: int
    class_names: tuple[str, ...] = ()


@torch.no_grad()
def evaluate(
    source: Path,
    *,
    data: str | None = None,
    steps: int | None = None,
    samples: int | None = None,
    progress: Progress = lambda _done, _of: None,
) -> Evaluation:
    """
    Return how the network of a run directory or checkpoint does on `data`, with 1 to `steps` steps.

    Without `data` and `steps` they are those of its training, the test split of it; `samples` takes the
    first ones only. Recordings of events are cut into frames as in training, whatever `steps` is. Raises
    `DataError` for data that the network cannot take, or values that it was not trained on.
    """
    trained = load_checkpoint(source)
    steps = trained.steps if steps is None else steps
    raise_all(OptionError, _wrong_counts(steps, samples))
    shown_data = _opened(trained, trained.settings.data if data is None else data)
    split = shown_data.split
    _check(trained, shown_data, steps)
    count = len(split) if samples is None else min(samples, len(split))

    network = trained.network.to(_device())
    collector = Collector(network, steps, trained.classes)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        size = 4 * trained.settings.batch_size
        for start in range(0, count, size):
            indices = np.arange(start, min(start + size, count))
            values = split.fetch(indices)[:, :steps]
            raise_all(DataError, _unknown_values(values, trained.input_range))
            inputs = torch.from_numpy(values).to(_device())
            labels = torch.from_numpy(split.labels[indices]).to(_device())
            with collector.watching():
                outputs = network(shown(inputs, steps)).float()
            collector.add(outputs, labels)
            progress(int(indices[-1]) + 1, count)
            yield outputs, labels

    scalability = scalability_of(batches(), trained.steps, network.time_weights)
    evidence = collector.result(_device())
    return Evaluation(
        data=shown_data.name,
        steps=steps,
        scalability=scalability,
        evidence=evidence,
        class_names=shown_data.class_names,
    )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _wrong_counts(steps: int, samples: int | None) -> list[Problem]:
    return [
        Problem("", f"{what} must be at least 1", f"it is {value}")
        for what, value in (("--steps", steps), ("--samples", samples))
        if value is not None and value < 1
    ]


def _opened(trained: Trained, data: str) -> _Data:
    """Return what DATA names: a split of a data set, or the inputs and labels of an .npz file."""
    if is_input_file(data):
        samples = load_samples(data)
        if not isinstance(samples.inputs, np.ndarray):
            have = "it holds 'input/<name>'"
            raise DataError(Problem("", f"'{data}' must hold 'input', for the only input", have))
        if samples.labels is None:
            have = "it has none"
            raise DataError(Problem("", f"'{data}' needs 'label', the class of each sample", have))
        shape = samples.inputs.shape
        return _Data(data, Split(samples.labels, Stored(samples.inputs)), shape[2:], shape[1])
    name, half = named_split(data)
    settings = trained.settings.model_dump(mode="json")
    options = DataOptions.from_settings(settings, trained.steps).where_data_are_now()
    chosen = load_data_set(name, options)
    split = chosen.train if half == "train" else chosen.test
    return _Data(f"{name}:{half}", split, chosen.input_shape, chosen.steps, chosen.class_names)


def _unknown_values(values: NDArray[np.float32], known: InputRange) -> list[Problem]:
    """Return a problem if `values` are none that a network was trained on."""
    slack = known.step * GRID_TOLERANCE  # float32 does not hold the ends of a grid of 1/9
    low, high = known.minimum - slack, known.maximum + slack
    outside = int(((values < low) | (values > high)).sum())
    if outside:
        return [
            Problem(
                "",
                f"the network was trained on values from {known.minimum:g} to {known.maximum:g}",
                f"{outside} of the data's reach from {values.min():g} to {values.max():g}",
                "scale them as in training",
            )
        ]
    if known.step:
        units = values.astype(np.float64) / known.step
        off = int((np.abs(units - np.rint(units)) > GRID_TOLERANCE).sum())
        if off:
            return [
                Problem(
                    "",
                    f"the network was trained on multiples of {known.step:g}",
                    f"{off} values of the data are none",
                    "prepare them as in training",
                )
            ]
    return []


def _check(trained: Trained, shown_data: _Data, steps: int) -> None:
    problems: list[Problem] = []
    shape, own_steps, split = shown_data.input_shape, shown_data.steps, shown_data.split
    if shape != trained.network.input_shape:
        need = f"the network takes inputs of the shape {trained.network.input_shape}"
        problems.append(Problem("", need, f"the data have {shape}"))
    if own_steps == 0:
        problems.append(Problem("", "samples need a step at least", "they have none"))
    elif 1 < own_steps < steps:
        have = f"samples have {own_steps} frames of their own"
        problems.append(
            Problem("", f"{steps} steps are asked for", have, f"use --steps {own_steps}")
        )
    if len(split) == 0:
        problems.append(Problem("", "there are no samples to evaluate on"))
    elif split.labels.max() >= trained.classes:
        have = f"the data have labels up to {split.labels.max()}"
        problems.append(Problem("", f"the network knows {trained.classes} classes", have))
    raise_all(DataError, problems)
