"""
What training does to samples: the same for all frames of one, drawn from its own generator.

    crop          4 pixels of 0 around, then a random part of the old size
    flip          left and right, every second time
    roll          up to 5 pixels along both axes; what leaves comes back on the other side (TET)
    nda           one of roll, a rotation and a shear along rows of up to 30 degrees (NDA)
    resized-crop  8 to 100 % of the area, sides of 3:4 to 4:3, resized to the old size (ImageNet)

Stored integers stay integers, so that a network trains on the grid that it is compiled for: rotations and
shears take the nearest pixel, resized parts are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import Integer, Source
from neurocompile.datasets.frames import resized
from neurocompile.datasets.imagenet import Box, ImageFiles

PADDING = 4
ROLL = 5
DEGREES = 30.0
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
TRIES = 10

Draw = np.random.Generator


def read_augmented(
    source: Source, indices: Integer, names: Sequence[str], draws: Sequence[Draw]
) -> NDArray[Any]:
    """
    Return the samples of `source` at `indices`, changed by what `names` say, in this order.

    Each sample has its own generator of `draws`.
    """
    if names[:1] == ("resized-crop",) and isinstance(source, ImageFiles):
        # Before the image is cut to its size, and more quickly
        boxes = (partial(choose_box, draw=draw) for draw in draws)
        samples = np.stack(
            [source.read_crop(index, box) for index, box in zip(indices, boxes, strict=True)]
        )
        names = names[1:]
    else:
        samples = source.read(indices)
    if not names:
        return samples
    changed = []
    for sample, draw in zip(samples, draws, strict=True):
        for name in names:
            sample = AUGMENTATIONS[name](sample, draw)  # noqa: PLW2901
        changed.append(sample)
    return np.stack(changed)


def crop(sample: NDArray[Any], draw: Draw) -> NDArray[Any]:
    """Return a part of `sample` (steps, channels, height, width), padded with 0."""
    height, width = sample.shape[-2:]
    down, right = draw.integers(-PADDING, PADDING + 1, 2)
    moved = np.zeros_like(sample)
    rows, columns = _overlap(height, down), _overlap(width, right)
    moved[..., rows[0], columns[0]] = sample[..., rows[1], columns[1]]
    return moved


def flip(sample: NDArray[Any], draw: Draw) -> NDArray[Any]:
    """Return `sample` or its mirror image."""
    return sample[..., ::-1] if draw.random() < 0.5 else sample


def roll(sample: NDArray[Any], draw: Draw) -> NDArray[Any]:
    """Return `sample` moved along both axes, around its borders."""
    down, right = draw.integers(-ROLL, ROLL + 1, 2)
    return np.roll(sample, (down, right), axis=(-2, -1))


def nda(sample: NDArray[Any], draw: Draw) -> NDArray[Any]:
    """Return `sample` rolled, rotated or sheared."""
    kind = draw.integers(3)
    if kind == 0:
        return roll(sample, draw)
    angle = math.radians(draw.uniform(-DEGREES, DEGREES))
    if kind == 1:
        sine, cosine = math.sin(angle), math.cos(angle)
        return _mapped(sample, ((cosine, sine), (-sine, cosine)))
    return _mapped(sample, ((1.0, 0.0), (math.tan(angle), 1.0)))


def resized_crop(sample: NDArray[Any], draw: Draw) -> NDArray[Any]:
    """Return a part of `sample` in its size; integers stay integers."""
    height, width = sample.shape[-2:]
    left, upper, right, lower = choose_box(height, width, draw=draw)
    part = resized(sample[..., upper:lower, left:right], "bilinear", (height, width))
    if sample.dtype.kind in "iu":
        part = np.rint(part)
    result: NDArray[Any] = part.astype(sample.dtype)
    return result


def choose_box(height: int, width: int, *, draw: Draw) -> Box:
    """Return a part of an image as torchvision's `RandomResizedCrop` draws it."""
    for _ in range(TRIES):
        area = height * width * draw.uniform(*AREA)
        aspect = math.exp(draw.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            upper = int(draw.integers(0, height - down + 1))
            left = int(draw.integers(0, width - across + 1))
            return left, upper, left + across, upper + down
    across = min(width, round(height * ASPECT[1]))
    down = min(height, round(width / ASPECT[0]))
    left, upper = (width - across) // 2, (height - down) // 2
    return left, upper, left + across, upper + down


def _overlap(extent: int, moved: int) -> tuple[slice, slice]:
    """Return where pixels arrive, and where they come from, if a row of `extent` moves by `moved`."""
    kept = max(0, extent - abs(moved))
    arrive, leave = max(0, moved), max(0, -moved)
    return slice(arrive, arrive + kept), slice(leave, leave + kept)


def _mapped(
    sample: NDArray[Any], matrix: tuple[tuple[float, float], tuple[float, float]]
) -> NDArray[Any]:
    """Return `sample` where the pixel at p, from the middle, is what was at `matrix` p = (row, column)."""
    height, width = sample.shape[-2:]
    middle = ((height - 1) / 2, (width - 1) / 2)
    row, column = np.mgrid[:height, :width]
    row, column = row - middle[0], column - middle[1]
    from_row, from_column = (
        np.rint(a * row + b * column + center).astype(np.int64)
        for (a, b), center in zip(matrix, middle, strict=True)
    )
    inside = (from_row >= 0) & (from_row < height) & (from_column >= 0) & (from_column < width)
    moved: NDArray[Any] = sample[..., from_row.clip(0, height - 1), from_column.clip(0, width - 1)]
    moved[..., ~inside] = 0
    return moved


AUGMENTATIONS: Mapping[str, Callable[[NDArray[Any], Draw], NDArray[Any]]] = {
    "crop": crop,
    "flip": flip,
    "roll": roll,
    "nda": nda,
    "resized-crop": resized_crop,
}
