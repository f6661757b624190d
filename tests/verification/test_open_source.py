"""Samples are read when they are asked for, and what is no data is refused at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurocompile import data as data_module
from neurocompile.data import DataOptions, Samples, Split
from neurocompile.errors import DataError, OptionError
from neurocompile.samples import open_source, source_of_samples

OPTIONS = DataOptions()


@pytest.fixture
def training_file(tmp_path: Path) -> Callable[..., str]:
    """Writes a data set of `test` and `train` frames in time, which count up."""

    def write(*, test: int = 5, train: int = 3) -> str:
        path = tmp_path / "frames.npz"
        np.savez(
            path,
            x_train=np.zeros((train, 2, 1, 2, 3)),
            y_train=np.zeros(train, np.int64),
            x_test=np.arange(test * 12).reshape(test, 2, 1, 2, 3) / 8,
            y_test=np.arange(test) % 3,
        )
        return str(path)

    return write


def test_a_data_set_is_read_when_it_is_asked_for(
    training_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[int]] = []
    fetch = Split.fetch

    def spying(self: Split, indices: Any) -> Any:
        read.append(list(indices))
        return fetch(self, indices)

    monkeypatch.setattr(Split, "fetch", spying)
    monkeypatch.setattr(data_module, "MOST_VALUES", 1)  # of samples in memory at once

    source = open_source(training_file(), OPTIONS)

    assert not read
    assert (source.count, source.whole) == (5, True)
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 2, 0, 1]
    part = source.part(3, 100)
    assert read == [[3, 4]]
    assert part.inputs[:, 0, 0, 0, 0].tolist() == [36 / 8, 48 / 8]  # type: ignore[index]
    assert part.labels is not None
    assert part.labels.tolist() == [0, 1]


def test_splits_are_named(training_file: Callable[..., str]) -> None:
    path = training_file()

    assert open_source(f"{path}:train", OPTIONS).count == 3
    with pytest.raises(DataError, match="has no split 'dev': use ':train' or ':test'"):
        open_source("digits:dev", OPTIONS)


def test_the_first_ones_are_not_all(training_file: Callable[..., str]) -> None:
    path = training_file()

    assert (
        open_source(path, OPTIONS, count=4).count,
        open_source(path, OPTIONS, count=4).whole,
    ) == (
        4,
        False,
    )
    assert (
        open_source(path, OPTIONS, count=9).count,
        open_source(path, OPTIONS, count=9).whole,
    ) == (
        5,
        True,
    )


def test_a_file_of_inputs_is_served_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, input=np.arange(12).reshape(4, 3, 1), label=np.array([1, 0, 1, 0]))

    source = open_source(str(path), OPTIONS, count=3)

    assert (source.name, source.count, source.whole) == (str(path), 3, False)
    assert source.part(1, 9).inputs.tolist() == [[[3], [4], [5]], [[6], [7], [8]]]  # type: ignore[union-attr]
    assert source.opening is None


def test_samples_in_memory_are_a_source() -> None:
    samples = Samples({"a": np.zeros((3, 1, 2)), "b": np.ones((3, 1, 1))}, None)

    source = open_source(samples, OPTIONS, count=2)

    assert (source.count, source.whole, source.labels) == (2, False, None)
    part = source.part(0, 1).inputs
    assert isinstance(part, dict)
    assert {name: values.shape for name, values in part.items()} == {"a": (1, 1, 2), "b": (1, 1, 1)}


@pytest.mark.parametrize("count", [0, -3])
def test_no_samples_are_no_request(count: int, spikes_in: Samples) -> None:
    with pytest.raises(OptionError, match=f"--samples must be at least 1, but it is {count}"):
        open_source(spikes_in, OPTIONS, count=count)


def test_nothing_to_verify_on_is_refused() -> None:
    with pytest.raises(DataError, match="there are no samples to verify on"):
        open_source(Samples(np.zeros((0, 2, 3)), None), OPTIONS)


def test_unknown_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no data set 'digit'"):
        open_source("digit", OPTIONS)
    with pytest.raises(DataError, match="there is no file"):
        open_source(str(tmp_path / "none.npz"), OPTIONS)


def test_digests_tell_data_apart(training_file: Callable[..., str], spikes_in: Samples) -> None:
    path = training_file()
    source = open_source(path, OPTIONS)

    assert source.digest() == open_source(path, OPTIONS).digest()
    assert source.digest() != open_source(path, OPTIONS, count=4).digest()
    held = source_of_samples(spikes_in)
    assert held.labels is not None
    values = np.array(spikes_in.inputs)
    values[-1, 0, 0, 0, 0] = 1 - values[-1, 0, 0, 0, 0]
    others = [
        source_of_samples(replace(spikes_in, inputs=values)),
        source_of_samples(replace(spikes_in, labels=(held.labels + 1) % 3)),
        source_of_samples(replace(spikes_in, labels=None)),
    ]
    assert len({held.digest(), *(other.digest() for other in others)}) == 4
