"""Samples that are read a part at a time: a test set need not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from neurocompile.data import Samples, sample_count
from neurocompile.integer import Integer


@dataclass(frozen=True)
class SampleSource:
    """
    `count` samples called `name`, of which `fetch` returns those at some indices.

    `whole` says whether these are all samples of the data, and not the first ones only.
    """

    name: str
    count: int
    fetch: Callable[[Integer], Samples]
    whole: bool = True

    def part(self, start: int, stop: int) -> Samples:
        """Return the samples from `start` up to `stop`."""
        return self.fetch(np.arange(start, min(stop, self.count), dtype=np.int64))


def source_of_samples(samples: Samples, name: str = "", *, whole: bool = True) -> SampleSource:
    """Return samples in memory as a source."""
    return SampleSource(name, sample_count(samples.inputs), samples.at, whole)
