"""Anyone's images or frames: an .npz file with x_train, y_train, x_test and y_test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import (
    DataSet,
    InputRange,
    Split,
    Stored,
    check_finite,
    problems_of_labels,
    read_npz,
)
from neurocompile.errors import DataError, Problem, raise_all

MOST_CHANNELS = 4  # of an image: grey, two polarities, RGB, RGBA


def load_npz(path: Path) -> DataSet:
    """
    Return the data set in the file `path`.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W), frames in time (N, T, C, H, W). uint8 is divided by
    255, other integers are a grid of 1. Raises `DataError` with everything that is wrong.
    """
    arrays = read_npz(path)
    missing = [name for name in ("x_train", "y_train", "x_test", "y_test") if name not in arrays]
    if missing:
        raise DataError(
            Problem(
                "",
                f"'{path}' needs the arrays x_train, y_train, x_test and y_test",
                f"{', '.join(missing)} missing",
            )
        )
    raise_all(DataError, _problems(path, arrays))
    images = {split: arrays[f"x_{split}"] for split in ("train", "test")}
    is_bytes = images["train"].dtype == np.uint8
    labels = {split: arrays[f"y_{split}"].astype(np.int64) for split in images}
    stored = {split: _arranged(values) for split, values in images.items()}
    splits = {
        split: Split(labels[split], Stored(values), 255 if is_bytes else 1)
        for split, values in stored.items()
    }
    return DataSet(
        name=str(path),
        open=splits.__getitem__,
        classes=int(max(values.max() for values in labels.values())) + 1,
        input_shape=stored["train"].shape[2:],
        steps=stored["train"].shape[1],
        input_range=InputRange(0.0, 1.0, 1 / 255) if is_bytes else _range(list(stored.values())),
        facts={"split": "as the file has it"},
    )


def _problems(path: Path, arrays: dict[str, NDArray[Any]]) -> list[Problem]:
    problems: list[Problem] = []
    for split in ("train", "test"):
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        problems += check_finite(f"x_{split} of '{path}'", images)
        if images.ndim not in (3, 4, 5) or 0 in images.shape[1:]:
            problems.append(
                Problem(
                    "",
                    f"x_{split} of '{path}' must be (N, H, W), (N, H, W, C), (N, C, H, W) or (N, T, C, H, W)",
                    f"it has shape {images.shape}",
                )
            )
        count = len(images) if images.ndim else 0
        problems += problems_of_labels(f"y_{split} of '{path}'", labels, count)
    if not problems and arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        problems.append(
            Problem("", f"x_train and x_test of '{path}' must have one shape", "they have two")
        )
    if not problems and arrays["x_train"].dtype != arrays["x_test"].dtype:
        problems.append(
            Problem("", f"x_train and x_test of '{path}' must have one type", "they have two")
        )
    return problems


def _arranged(images: NDArray[Any]) -> NDArray[Any]:
    """Return (N, T, C, H, W), bytes or float32; of four axes, the last holds channels if it alone has few."""
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
    if images.ndim == 3:
        return images[:, np.newaxis, np.newaxis]
    if images.ndim == 4:
        if images.shape[3] <= MOST_CHANNELS < images.shape[1]:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return images[:, np.newaxis]
    return images


def _range(stored: list[NDArray[Any]]) -> InputRange:
    whole = all(np.array_equal(values, np.rint(values)) for values in stored)
    return InputRange(
        min(0.0, *(float(values.min()) for values in stored)),
        max(0.0, *(float(values.max()) for values in stored)),
        1.0 if whole else 0.0,
    )
