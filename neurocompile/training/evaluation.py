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
from torch import Tensor

from neurocompile.data import DataOptions, Split, load_data_set
from neurocompile.errors import DataError, OptionError, Problem, raise_all
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
    first ones only. Raises `DataError` for data that the network cannot take.
    """
    trained = load_checkpoint(source)
    steps = trained.steps if steps is None else steps
    raise_all(OptionError, _wrong_counts(steps, samples))
    name, _, split_name = (data or trained.settings.data).partition(":")
    if split_name not in ("", "test", "train"):
        raise DataError(
            Problem("", f"'{name}' has no split '{split_name}'", remedy="use ':train' or ':test'")
        )
    options = DataOptions.from_settings(trained.settings.model_dump(mode="json"), steps)
    chosen = load_data_set(name, options)
    split = chosen.train if split_name == "train" else chosen.test
    _check(trained, chosen.input_shape, chosen.steps, steps, split)
    count = len(split) if samples is None else min(samples, len(split))

    network = trained.network.to(_device())
    collector = Collector(network, steps, trained.classes)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        size = 4 * trained.settings.batch_size
        for start in range(0, count, size):
            indices = np.arange(start, min(start + size, count))
            inputs = torch.from_numpy(split.fetch(indices)[:, :steps]).to(_device())
            labels = torch.from_numpy(split.labels[indices]).to(_device())
            with collector.watching():
                outputs = network(shown(inputs, steps)).float()
            collector.add(outputs, labels)
            progress(int(indices[-1]) + 1, count)
            yield outputs, labels

    scalability = scalability_of(batches(), trained.steps)
    evidence = collector.result(_device())
    return Evaluation(
        data=f"{name}:{split_name or 'test'}",
        steps=steps,
        scalability=scalability,
        evidence=evidence,
        class_names=chosen.class_names,
    )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _wrong_counts(steps: int, samples: int | None) -> list[Problem]:
    return [
        Problem("", f"{what} must be at least 1", f"it is {value}")
        for what, value in (("--steps", steps), ("--samples", samples))
        if value is not None and value < 1
    ]


def _check(
    trained: Trained, shape: tuple[int, ...], own_steps: int, steps: int, split: Split
) -> None:
    problems: list[Problem] = []
    if shape != trained.network.input_shape:
        need = f"the network takes inputs of the shape {trained.network.input_shape}"
        problems.append(Problem("", need, f"the data have {shape}"))
    if 1 < own_steps < steps:
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
