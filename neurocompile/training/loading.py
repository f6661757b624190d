"""
Batches for training and testing, the same however many processes and workers make them.

The order of an epoch depends on (seed, epoch), what is done to a sample on (seed, epoch, index). Process r
of w takes every w-th sample of the order, from the r-th on: the batches k of all processes are batch k of
one process whose batches are w times as large.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from neurocompile.data import DataSet, Split
from neurocompile.datasets.augment import read_augmented
from neurocompile.errors import DataError, Problem, raise_all
from neurocompile.training.config import InputSettings, TrainSettings

ORDER, CHANGE = range(2)  # what is drawn: generators of the one never meet those of the other
TEST_BATCH = 4  # times that of training: where nothing is kept for gradients, more fits

Key = tuple[int, int]  # epoch and index, as workers do not hear of new epochs otherwise


class EpochOrder(Sampler[Key]):
    """
    A process's share of all samples, in a new order every epoch.

    All processes get equally many: at most `world` - 1 samples come twice in an epoch.
    """

    def __init__(self, count: int, seed: int, first_epoch: int, rank: int, world: int) -> None:
        self.count, self.seed = count, seed
        self.rank, self.world = rank, world
        self.first_epoch = self.epoch = first_epoch

    def set_epoch(self, epoch: int) -> None:
        """Take the order of an epoch, counted from the phase's first one."""
        self.epoch = self.first_epoch + epoch

    def __iter__(self) -> Iterator[Key]:
        order = np.random.default_rng((ORDER, self.seed, self.epoch)).permutation(self.count)
        whole = np.resize(order, len(self) * self.world)
        return ((self.epoch, index) for index in whole[self.rank :: self.world].tolist())

    def __len__(self) -> int:
        return math.ceil(self.count / self.world)


class _Share(Sampler[Key]):
    """A process's share of the samples to test: together they take each once."""

    def __init__(self, count: int, rank: int, world: int) -> None:
        self.indices = range(rank, count, world)

    def __iter__(self) -> Iterator[Key]:
        return ((0, index) for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class Batches(Dataset[Any]):
    """A split, of which a loader asks for a whole batch at once."""

    def __init__(self, split: Split, augment: Sequence[str], seed: int) -> None:
        self.split = split
        self.augment = tuple(augment)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, keys: list[Key]) -> list[Tensor]:
        indices = np.array([index for _, index in keys], np.int64)
        if self.augment:
            draws = [np.random.default_rng((CHANGE, self.seed, *key)) for key in keys]
            stored = read_augmented(self.split.source, indices, self.augment, draws)
        else:
            stored = self.split.source.read(indices)
        inputs = torch.from_numpy(self.split.scaled(stored))
        return [inputs, torch.from_numpy(self.split.labels[indices])]


def loaders(
    data: DataSet, settings: TrainSettings, phase: int = 0, rank: int = 0, world: int = 1
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """
    Return what gives the batches to train on, and those to test, in one of `world` processes.

    A batch is [inputs, labels]: float32 (B, steps or 1, channels, height, width) and int64 (B,). `phase` is
    the number of a phase of `settings`. The sampler of the first loader has `set_epoch`. Raises `DataError`
    for samples of another number of steps than the phase has.
    """
    phases = settings.all_phases()
    steps = phases[phase].timesteps
    raise_all(DataError, problems_of_steps(data, steps))
    first_epoch = sum(earlier.epochs for earlier in phases[:phase])
    order = EpochOrder(len(data.train), settings.seed, first_epoch, rank, world)
    workers = settings.input.workers

    def loader(batches: Batches, sampler: Sampler[Key], batch_size: int) -> DataLoader[Any]:
        return DataLoader(
            batches,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
        )

    return (
        loader(
            Batches(data.train, settings.input.augment, settings.seed), order, settings.batch_size
        ),
        loader(
            Batches(data.test, (), settings.seed),
            _Share(len(data.test), rank, world),
            TEST_BATCH * settings.batch_size,
        ),
    )


def problems_of_steps(data: DataSet, steps: int | None) -> list[Problem]:
    """Return a problem if samples of `data` have frames of their own, and not `steps` of them."""
    if data.steps in (1, steps):
        return []
    return [
        Problem(
            "",
            f"'{data.name}' has {data.steps} frames a sample",
            f"{steps} steps are asked for",
            f"use --timesteps {data.steps}",
        )
    ]


def problems_of_frames(data: DataSet, settings: TrainSettings) -> list[Problem]:
    """Return a problem if `settings` say how to make frames, and `data` makes none."""
    if "frames" in data.facts:
        return []
    own, fresh = settings.input, InputSettings()
    given = [
        f"input.{name}"
        for name in ("split_by", "binary", "resize", "size")
        if getattr(own, name) != getattr(fresh, name)
    ]
    if not given:
        return []
    back = " ".join(
        f"--set {key}={_plain(getattr(fresh, key.removeprefix('input.')))}" for key in given
    )
    return [
        Problem(
            "",
            f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} for recordings of events",
            f"'{data.name}' has none",
            f"use {back}",
        )
    ]


def _plain(value: str | bool | None) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _as_it_is(batch: list[Tensor]) -> list[Tensor]:
    return batch
