"""Frames of events: which event goes where, beside tonic; resizing, beside PyTorch; the grid that stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.datasets.frames import Framing, Resize, weights_of

WIDTH, HEIGHT = 9, 7


@pytest.fixture(scope="module")
def framing() -> Callable[..., Framing]:
    def make(**changes: Any) -> Framing:
        settings: dict[str, Any] = {
            "height": HEIGHT,
            "width": WIDTH,
            "steps": 4,
            "split_by": "events",
            "binary": False,
            "resize": "area",
            "size": (HEIGHT, WIDTH),
        }
        return Framing(**{**settings, **changes})

    return make


def frames_of(framing: Framing, events: NDArray[Any]) -> NDArray[Any]:
    return framing.frames(*(events[name] for name in "txyp"))


@pytest.mark.parametrize(
    ("split_by", "selector"), [("events", "n_event_bins"), ("time", "n_time_bins")]
)
@pytest.mark.parametrize("count", [203, 200, 5])
def test_frames_are_those_of_tonic(
    framing: Callable[..., Framing],
    recording: Callable[..., NDArray[Any]],
    split_by: str,
    selector: str,
    count: int,
) -> None:
    to_frame = pytest.importorskip("tonic.transforms").ToFrame
    events = recording(count, WIDTH, HEIGHT)

    frames = frames_of(framing(split_by=split_by), events)

    expected = to_frame((WIDTH, HEIGHT, 2), **{selector: 4})(events)
    assert np.array_equal(frames, expected)
    assert frames.sum() > 0


def test_events_by_count_and_by_time_by_hand(framing: Callable[..., Framing]) -> None:
    t = np.array([0, 1, 2, 3, 100])
    x, y, p = np.arange(5), np.zeros(5, int), np.ones(5, int)

    by_count = framing(steps=2).frames(t, x, y, p)
    by_time = framing(steps=2, split_by="time").frames(t, x, y, p)

    assert by_count[:, 1, 0].tolist() == [[1, 1] + [0] * 7, [0, 0, 1, 1] + [0] * 5]
    assert by_time[:, 1, 0].tolist() == [[1, 1, 1, 1] + [0] * 5, [0] * 9]


@pytest.mark.parametrize("split_by", ["events", "time"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_recordings_that_are_too_short_have_frames_without_events(
    framing: Callable[..., Framing],
    recording: Callable[..., NDArray[Any]],
    split_by: str,
    count: int,
) -> None:
    events = recording(count, WIDTH, HEIGHT)
    events["t"] = 5

    frames = frames_of(framing(split_by=split_by), events)

    assert frames.shape == (4, 2, HEIGHT, WIDTH)
    assert frames.sum() == 0


def test_events_are_taken_in_the_order_of_time(
    framing: Callable[..., Framing], recording: Callable[..., NDArray[Any]]
) -> None:
    events = recording(200, WIDTH, HEIGHT)
    events["t"] = np.arange(200)
    shuffled = np.random.default_rng(1).permutation(events)

    assert np.array_equal(frames_of(framing(), shuffled), frames_of(framing(), events))


def test_binary_frames_say_where_something_happened(
    framing: Callable[..., Framing], recording: Callable[..., NDArray[Any]]
) -> None:
    events = recording(999, WIDTH, HEIGHT)

    counts, ones = (frames_of(framing(binary=binary), events) for binary in (False, True))

    assert counts.max() > 1
    assert np.array_equal(ones, counts > 0)
    assert ones.dtype == np.uint8


@pytest.mark.parametrize(("before", "after"), [(128, 48), (34, 17), (7, 9), (128, 128), (9, 4)])
@pytest.mark.parametrize("resize", ["bilinear", "nearest"])
def test_weights_are_those_of_pytorch(before: int, after: int, resize: Resize) -> None:
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).random((1, 1, before, before))
    options = {"antialias": True} if resize == "bilinear" else {}

    weights = weights_of(resize, before, after)

    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image), (after, after), mode=resize, **options
    )
    np.testing.assert_allclose(weights @ image @ weights.T, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(("before", "after"), [(128, 48), (34, 17), (7, 9), (9, 4)])
def test_areas_are_averages_of_what_a_pixel_covers(before: int, after: int) -> None:
    image = np.random.default_rng(0).random(before)

    weights = weights_of("area", before, after)

    fine = np.repeat(image, after).reshape(after, before).mean(1)  # each pixel in `after` parts
    np.testing.assert_allclose(weights @ image, fine)


def test_areas_of_128_to_48_pixels_are_on_a_grid_of_64ths(
    framing: Callable[..., Framing], recording: Callable[..., NDArray[Any]]
) -> None:
    made = framing(height=128, width=128, size=(48, 48))
    events = recording(20_000, 128, 128)

    frames = frames_of(made, events)

    weights = weights_of("area", 128, 48)
    whole = frames_of(framing(height=128, width=128, size=(128, 128)), events)
    assert made.per_unit == 64
    assert np.abs(weights @ whole @ weights.T * 64 - frames).max() < 1e-9
    assert frames.sum() == 9 * whole.sum()  # 64/9 pixels become one


@pytest.mark.parametrize(
    ("resize", "binary", "size", "per_unit"),
    [
        ("nearest", False, 48, 1),
        ("bilinear", True, 128, 1),
        ("bilinear", True, 48, 255),
        ("bilinear", False, 48, 16),
        ("area", True, 48, 64),
        ("area", False, 47, 16),
        ("area", True, 47, 255),
    ],
)
def test_every_frame_is_on_a_grid(
    framing: Callable[..., Framing],
    recording: Callable[..., NDArray[Any]],
    resize: str,
    binary: bool,
    size: int,
    per_unit: int,
) -> None:
    made = framing(height=128, width=128, resize=resize, binary=binary, size=(size, size))

    frames = frames_of(made, recording(30_000, 128, 128))

    assert made.per_unit == per_unit
    assert frames.shape == made.shape == (4, 2, size, size)
    assert frames.dtype == made.dtype
    assert 0 < frames.max() <= (per_unit if binary else 20 * per_unit)


def test_one_polarity_does_not_change_the_other(framing: Callable[..., Framing]) -> None:
    made = framing(height=128, width=128, resize="bilinear", binary=True, size=(48, 48), steps=1)
    x, y = np.meshgrid(np.arange(128), np.arange(128))
    t, off, on = np.zeros(128 * 128, int), np.zeros(128 * 128, int), np.ones(128 * 128, int)

    alone = made.frames(t, x.ravel(), y.ravel(), off)
    both = made.frames(*(np.concatenate([a, b]) for a, b in (
        (t, t[:999]), (x.ravel(), x.ravel()[:999]), (y.ravel(), y.ravel()[:999]), (off, on[:999])
    )))  # fmt: skip

    assert np.array_equal(alone[:, 0], both[:, 0])
    assert (alone[:, 0] == 255).all()
