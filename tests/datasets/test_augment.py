"""What is done to samples in training: the same to all frames, on the grid, as the papers say."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.data import Stored
from neurocompile.datasets import augment
from neurocompile.datasets.augment import AUGMENTATIONS, choose_box, read_augmented
from neurocompile.datasets.imagenet import ImageFiles


class Fixed:
    """A generator whose draws are given."""

    def __init__(self, *draws: Any) -> None:
        self.draws = list(draws)

    def integers(self, *_: Any) -> Any:
        return self.draws.pop(0)

    def random(self) -> Any:
        return self.draws.pop(0)

    def uniform(self, *_: Any) -> Any:
        return self.draws.pop(0)


def fixed(*draws: Any) -> Any:
    return Fixed(*draws)


@pytest.fixture
def sample() -> NDArray[Any]:
    """Three different frames of 2 x 12 x 16 bytes."""
    return np.random.default_rng(0).integers(0, 256, (3, 2, 12, 16), dtype=np.uint8)


def test_a_crop_moves_and_fills_with_zeros(sample: NDArray[Any]) -> None:
    moved = augment.crop(sample, fixed(np.array([3, -4])))

    assert np.array_equal(moved[..., 3:, :-4], sample[..., :-3, 4:])
    assert moved[..., :3, :].sum() == moved[..., -4:].sum() == 0


def test_crops_take_every_place_of_four_pixels_around() -> None:
    image = np.zeros((1, 1, 9, 9), np.uint8)
    image[..., 4, 4] = 1
    draw = np.random.default_rng(0)

    places = {int(augment.crop(image, draw).argmax()) for _ in range(1500)}

    assert places == set(range(81))
    assert not augment.crop(np.ones((1, 1, 3, 3)), fixed(np.array([4, 0]))).any()


def test_half_of_the_samples_are_flipped(sample: NDArray[Any]) -> None:
    draw = np.random.default_rng(0)
    flipped = [np.array_equal(augment.flip(sample, draw), sample[..., ::-1]) for _ in range(400)]

    assert 150 < sum(flipped) < 250


def test_a_roll_is_circular_on_both_axes(sample: NDArray[Any]) -> None:
    draw = np.random.default_rng(0)
    rolled = augment.roll(sample, fixed(np.array([-5, 2])))

    assert np.array_equal(rolled[..., -5:, 2:], sample[..., :5, :-2])
    assert np.array_equal(np.sort(rolled.ravel()), np.sort(sample.ravel()))
    image = np.zeros((1, 1, 11, 11))
    image[..., 5, 5] = 1
    places = {int(augment.roll(image, draw).argmax()) for _ in range(2500)}
    assert places == set(range(121))


def test_nda_rotates_and_shears_as_torchvision_does(vision: Any, sample: NDArray[Any]) -> None:
    del vision
    functional = import_module("torchvision.transforms.functional")
    # Pixels a hair from the middle between two go to either, in float32
    for degrees in (-29.3, -7.1, 0.0, 12.7, 28.9):
        rotated = augment.nda(sample, fixed(1, degrees))
        sheared = augment.nda(sample, fixed(2, degrees))

        image = import_module("torch").from_numpy(sample)
        expected = functional.affine(image, -degrees, [0, 0], 1.0, [0.0, 0.0]).numpy()
        assert (rotated != expected).mean() < 0.02
        expected = functional.affine(image, 0.0, [0, 0], 1.0, [0.0, degrees]).numpy()
        other = functional.affine(image, 0.0, [0, 0], 1.0, [degrees, 0.0]).numpy()
        assert min((sheared != expected).mean(), (sheared != other).mean()) < 0.02


def test_shears_keep_rows(sample: NDArray[Any]) -> None:
    rows = np.broadcast_to(np.arange(1, 13, dtype=np.uint8)[:, None], (1, 1, 12, 16))

    sheared = augment.nda(rows, fixed(2, 25.0))

    assert all(set(row.tolist()) <= {0, number} for number, row in enumerate(sheared[0, 0], 1))
    assert sheared.sum() < rows.sum()
    assert np.array_equal(sample, augment.nda(sample, fixed(2, 0.0)))


def test_nda_takes_one_of_three(sample: NDArray[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.array_equal(
        augment.nda(sample, fixed(0, np.array([1, 1]))), np.roll(sample, (1, 1), (-2, -1))
    )
    rolls: list[NDArray[Any]] = []

    def count(image: NDArray[Any], _: Any) -> NDArray[Any]:
        rolls.append(image)
        return image

    monkeypatch.setattr(augment, "roll", count)
    draw = np.random.default_rng(0)
    for _ in range(300):
        augment.nda(sample, draw)
    assert 70 < len(rolls) < 130


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_all_frames_change_alike_and_stay_on_the_grid(name: str, sample: NDArray[Any]) -> None:
    same = np.repeat(sample[:1], 3, axis=0)
    for seed in range(20):
        changed = AUGMENTATIONS[name](same, np.random.default_rng(seed))

        assert changed.shape == same.shape
        assert changed.dtype == np.uint8
        assert all(np.array_equal(frame, changed[0]) for frame in changed)


def test_boxes_have_the_areas_and_sides_of_the_recipe() -> None:
    draw = np.random.default_rng(0)
    for _ in range(300):
        left, upper, right, lower = choose_box(300, 400, draw=draw)
        across, down = right - left, lower - upper
        assert 0 <= left < right <= 400
        assert 0 <= upper < lower <= 300
        assert 0.079 < across * down / 120_000 <= 1
        assert 0.74 < across / down < 1.36
    # None fits into a strip: the middle, as square as it gets
    assert choose_box(1000, 10, draw=draw) == (0, 493, 10, 506)


def test_a_whole_box_changes_nothing(sample: NDArray[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "choose_box", lambda height, width, **_: (0, 0, width, height))

    assert np.array_equal(augment.resized_crop(sample, fixed()), sample)


def test_resized_parts_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((1, 1, 4, 4), np.uint8)
    image[..., 1] = 255
    monkeypatch.setattr(augment, "choose_box", lambda *_, **__: (0, 0, 2, 2))

    resized = augment.resized_crop(image, fixed())

    assert resized[0, 0].tolist() == [[0, 64, 191, 255]] * 4  # of 63.75 and 191.25


def test_images_in_files_are_cropped_before_they_are_cut(
    vision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del vision
    from PIL import Image

    pixels = np.zeros((260, 600, 3), np.uint8)
    pixels[:, 590:] = 200  # outside the middle 224 pixels
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = ImageFiles((str(tmp_path / "a.png"),))
    monkeypatch.setattr(augment, "choose_box", lambda *_, **__: (590, 0, 600, 10))

    changed = read_augmented(source, np.array([0]), ("resized-crop", "flip"), [fixed(0.9)])

    assert source.read(np.array([0])).max() == 0
    assert changed.shape == (1, 1, 3, 224, 224)
    assert (changed == 200).all()


def test_changes_come_in_the_order_of_their_names(sample: NDArray[Any]) -> None:
    source = Stored(sample[np.newaxis])
    index = np.array([0])

    first = read_augmented(source, index, ("roll", "flip"), [fixed(np.array([0, 1]), 0.1)])
    second = read_augmented(source, index, ("flip", "roll"), [fixed(0.1, np.array([0, 1]))])

    assert np.array_equal(first[0], np.roll(sample, 1, -1)[..., ::-1])
    assert np.array_equal(second[0], np.roll(sample[..., ::-1], 1, -1))


def test_what_is_stored_is_not_changed(sample: NDArray[Any]) -> None:
    before = sample.copy()
    source = Stored(sample[np.newaxis])
    make: Callable[[int], Any] = np.random.default_rng

    for seed in range(9):
        read_augmented(source, np.array([0]), tuple(AUGMENTATIONS), [make(seed)])

    assert np.array_equal(sample, before)
