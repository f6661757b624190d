"""Samples that are read a part at a time: a test set need not fit into memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from neurocompile.data import (
    DataOptions,
    Samples,
    is_input_file,
    load_samples,
    open_split,
    sample_count,
)
from neurocompile.errors import DataError, OptionError, Problem
from neurocompile.integer import Integer


@dataclass(frozen=True)
class Opening:
    """How another process opens the same samples: what `open_source` was given."""

    data: str
    options: DataOptions
    count: int


@dataclass(frozen=True)
class SampleSource:
    """
    `count` samples called `name`, of which `fetch` returns those at some indices.

    `whole` says whether these are all samples of the data, and not the first ones only. `labels` are
    those of all samples, where they are known without reading any; `opening` is None where there is no
    name by which another process could open them.
    """

    name: str
    count: int
    fetch: Callable[[Integer], Samples]
    whole: bool = True
    labels: Integer | None = None
    opening: Opening | None = None

    def part(self, start: int, stop: int) -> Samples:
        """Return the samples from `start` up to `stop`."""
        return self.fetch(np.arange(start, min(stop, self.count), dtype=np.int64))

    def digest(self) -> str:
        """
        Return what tells this data from other data: name, number, labels, and three samples to the last bit.

        All samples would have to be read to be sure of each: who adds up counts of parts compares
        `digest_of` each part as well.
        """
        parts = hashlib.sha256(json.dumps([self.name, self.count, self.whole]).encode())
        few = self.fetch(np.unique(np.array([0, self.count // 2, self.count - 1], np.int64)))
        parts.update(digest_of(few))
        parts.update(b"none" if self.labels is None else self.labels.astype(np.int64).tobytes())
        return parts.hexdigest()


def digest_of(samples: Samples) -> bytes:
    """Return 32 bytes that tell samples from all others: inputs as they are, to the last bit, and labels."""
    parts = hashlib.sha256()
    named = samples.inputs if isinstance(samples.inputs, Mapping) else {"": samples.inputs}
    labels = {} if samples.labels is None else {"label": samples.labels.astype(np.int64)}
    for kind, arrays in (("input", named), ("", labels)):
        for name, values in sorted(arrays.items()):
            parts.update(json.dumps([kind, name, str(values.dtype), values.shape]).encode())
            parts.update(np.ascontiguousarray(values).tobytes())
    return parts.digest()


def source_of_samples(samples: Samples, name: str = "", *, whole: bool = True) -> SampleSource:
    """Return samples in memory as a source."""
    return SampleSource(
        name, sample_count(samples.inputs), samples.at, whole, labels=samples.labels
    )


def open_source(
    data: str | Samples, options: DataOptions, *, count: int | None = None
) -> SampleSource:
    """
    Return the samples of DATA, all or the first `count`, without reading a data set's samples yet.

    An .npz file of inputs is read whole, and served in parts. Raises `OptionError` for a `count` below 1,
    `DataError` where there are no samples, and what `load_samples` does.
    """
    if count is not None and count < 1:
        raise OptionError(Problem("", "--samples must be at least 1", f"it is {count}"))
    if isinstance(data, Samples):
        return _held(data, "", count)
    if is_input_file(data):
        return _held(load_samples(data), data, count)
    _, _, split = open_split(data, options)
    taken = len(split) if count is None else min(count, len(split))
    _refuse_none(taken)
    return SampleSource(
        data,
        taken,
        lambda indices: Samples(split.fetch(indices), split.labels[indices]),
        whole=taken == len(split),
        labels=split.labels[:taken],
        opening=Opening(data, options, taken),
    )


def _held(samples: Samples, name: str, count: int | None) -> SampleSource:
    there = sample_count(samples.inputs)
    _refuse_none(there)
    if count is None or count >= there:
        return source_of_samples(samples, name)
    return source_of_samples(samples.first(count), name, whole=False)


def _refuse_none(count: int) -> None:
    if count == 0:
        raise DataError("there are no samples to verify on")
