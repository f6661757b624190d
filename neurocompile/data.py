"""
DATA on the command line: a data set by name, `name:split`, or somebody's .npz file.

Images become float32 in the units that the network sees: digits divided by 16, other uint8 by 255.
Because those are grids, the compiler can carry them to the chip as integers without any rounding;
`InputRange` is how the grid travels with the network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import DataError, MissingDependencyError, Problem, raise_all

Float = NDArray[np.float32]
Integer = NDArray[np.int64]

Inputs = NDArray[Any] | Mapping[str, NDArray[Any]]
"""Values for a network: (samples, steps, *input shape), by name where there are several inputs."""

SEVERAL = "input/"  # before an input's name in files for networks with several
DIGITS_SPLIT_SEED = 0
DIGITS_TEST_IMAGES = 360
MOST_CHANNELS = 4  # of an image: grey, two polarities, RGB, RGBA
MOST_CLASSES = 1 << 20


@dataclass(frozen=True)
class InputRange:
    """
    The values an input can take: from `minimum` to `maximum`, on a grid of `step` if that is known.

    `step` is 0 where the values are not known to lie on a grid. Spikes are (0, 1, 1).
    """

    minimum: float
    maximum: float
    step: float = 0.0

    def to_json(self) -> dict[str, float]:
        return {"minimum": self.minimum, "maximum": self.maximum, "step": self.step}


@dataclass(frozen=True)
class Images:
    """A labelled split: `images` (samples, steps or 1, channels, height, width), `labels` (samples,)."""

    images: Float
    labels: Integer


@dataclass(frozen=True)
class DataSet:
    """A data set ready to train on."""

    name: str
    train: Images
    test: Images
    classes: int
    input_range: InputRange

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.train.images.shape[2:]


@dataclass(frozen=True)
class Samples:
    """Inputs for `run` and `verify`: (samples, steps or 1, *input shape), labels where known."""

    inputs: Inputs
    labels: Integer | None

    def first(self, count: int) -> Samples:
        """Return the first `count` samples."""
        labels = None if self.labels is None else self.labels[:count]
        return Samples(map_inputs(lambda values: values[:count], self.inputs), labels)


def by_input(inputs: Inputs, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """
    Return `inputs` by the `names` of a network's inputs; one array is for the only input.

    Raises `DataError` for names that are missing or unknown, and for different numbers of samples or
    steps.
    """
    if not isinstance(inputs, Mapping):
        if len(names) != 1:
            wanted = ", ".join(f"'{name}'" for name in names)
            raise DataError(
                Problem("", f"the network has the inputs {wanted}", "one array is given")
            )
        return dict.fromkeys(names, np.asarray(inputs))
    named = {name: np.asarray(values) for name, values in inputs.items()}
    problems = [
        Problem(name, "needs an input", "there is none") for name in names if name not in named
    ]
    problems += [
        Problem("", f"there is no input '{name}'", remedy=f"there are {', '.join(names)}")
        for name in named
        if name not in names
    ]
    lengths = {name: values.shape[:2] for name, values in named.items()}
    if len(set(lengths.values())) > 1:
        problems.append(Problem("", "inputs need equal samples and steps", f"they have {lengths}"))
    raise_all(DataError, problems)
    return {name: named[name] for name in names}


def sample_count(inputs: Inputs) -> int:
    """Return the number of samples in `inputs`."""
    first = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
    return len(first)


def map_inputs(function: Callable[[NDArray[Any]], NDArray[Any]], inputs: Inputs) -> Inputs:
    """Return `inputs` with `function` applied to each array."""
    if isinstance(inputs, Mapping):
        return {name: function(values) for name, values in inputs.items()}
    return function(inputs)


def load_data_set(name: str) -> DataSet:
    """
    Return the data set called `name`, or the one in the .npz file of that path.

    Raises `DataError` if there is none, listing every problem of a file.
    """
    if name == "digits":
        return _digits()
    path = Path(name)
    if path.suffix == ".npz":
        return _from_training_npz(path)
    raise DataError(
        Problem(
            "", f"there is no data set '{name}'", remedy="use 'digits' or the path of an .npz file"
        )
    )


def load_samples(data: str) -> Samples:
    """
    Return the samples that DATA names: `digits`, `digits:test`, `digits:train` or an .npz file.

    An .npz file holds `input` (samples, steps, *input shape), or `input/<name>` for each of several
    inputs, and perhaps `label`; or it is a training file, of which the test half is taken.
    """
    name, _, split = data.partition(":")
    path = Path(data)
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if any(name == "input" or name.startswith(SEVERAL) for name in arrays):
            return _samples_of(path, arrays)
        name, split = data, "test"
    data_set = load_data_set(name)
    if split not in ("", "test", "train"):
        raise DataError(
            Problem("", f"'{name}' has no split '{split}'", remedy="use ':train' or ':test'")
        )
    chosen = data_set.train if split == "train" else data_set.test
    return Samples(chosen.images, chosen.labels)


def range_of(data: str) -> tuple[InputRange, tuple[int, ...]]:
    """
    Return the values that DATA takes, a data set's own range and grid or what an .npz file spans, and
    the shape of its samples at one step.

    Integers are a grid of 1; a range always holds 0.
    """
    path = Path(data)
    arrays = read_npz(path) if path.suffix == ".npz" else {}
    if any(name.startswith(SEVERAL) for name in arrays):
        raise DataError(
            Problem(
                "", f"'{path}' must hold 'input', for the only input", "it holds 'input/<name>'"
            )
        )
    if "input" not in arrays:
        data_set = load_data_set(data.partition(":")[0] if path.suffix != ".npz" else data)
        return data_set.input_range, data_set.input_shape
    inputs = load_samples(data).inputs
    assert isinstance(inputs, np.ndarray)  # it has 'input'
    if inputs.size == 0:
        raise DataError(f"'{path}' holds no samples")
    step = 1.0 if (inputs == np.rint(inputs)).all() else 0.0
    span = InputRange(min(0.0, float(inputs.min())), max(0.0, float(inputs.max())), step)
    return span, inputs.shape[2:]


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file; no pickles, and every failure is a `DataError`."""
    if not path.is_file():
        raise DataError(Problem("", f"there is no file '{path}'"))
    try:
        with path.open("rb") as stream:
            file: Any = np.load(stream, allow_pickle=False)
            single = isinstance(file, np.ndarray)
            arrays = {} if single else {name: np.asarray(file[name]) for name in file}
    except Exception as error:  # damaged archives fail in zlib, tokenize, struct and elsewhere
        raise DataError(Problem("", f"'{path}' is not a readable .npz file ({error})")) from error
    if single:
        raise DataError(Problem("", f"'{path}' holds one array, not an .npz archive"))
    return arrays


def check_finite(what: str, values: NDArray[Any]) -> list[Problem]:
    """Return a problem if `values` are not numbers, or not all of them finite."""
    if values.dtype.kind not in "biuf":
        return [Problem("", f"{what} must be numbers", f"has type {values.dtype}")]
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        return [Problem("", f"{what} must be finite", f"{count} values are NaN or infinite")]
    return []


def _samples_of(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Samples:
    labels = arrays.get("label")
    problems: list[Problem] = []
    found = {
        name: values
        for name, values in arrays.items()
        if name == "input" or name.startswith(SEVERAL)
    }
    if "input" in found and len(found) > 1:
        problems.append(
            Problem("", f"'{path}' must hold 'input' or 'input/<name>'", "it holds both")
        )
    for name, values in found.items():
        problems += check_finite(f"'{name}' of '{path}'", values)
        if values.ndim < 3:
            problems.append(
                Problem(
                    "",
                    f"'{name}' of '{path}' must have the shape (samples, steps, *input shape)",
                    f"it has {values.shape}",
                )
            )
    counts = {len(values) for values in found.values() if values.ndim}
    if len(counts) > 1:
        problems.append(
            Problem("", f"the inputs of '{path}' need equal samples", f"they have {counts}")
        )
    if labels is not None and len(counts) == 1:
        problems += _problems_of_labels(f"'label' of '{path}'", labels, *counts)
    raise_all(DataError, problems)
    floats = {name: values.astype(np.float32) for name, values in found.items()}
    inputs: Inputs = (
        floats["input"]
        if "input" in floats
        else {name.removeprefix(SEVERAL): values for name, values in floats.items()}
    )
    return Samples(inputs, None if labels is None else labels.astype(np.int64))


def _problems_of_labels(what: str, labels: NDArray[Any], count: int) -> list[Problem]:
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        have = f"it is {labels.dtype} of shape {labels.shape}"
        return [Problem("", f"{what} must be {count} integers", have)]
    if labels.size == 0 or labels.min() < 0 or labels.max() >= MOST_CLASSES:
        reach = (
            f"they reach from {labels.min()} to {labels.max()}" if labels.size else "there are none"
        )
        return [Problem("", f"{what} must be classes from 0 on, at least one", reach)]
    return []


def _digits() -> DataSet:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise MissingDependencyError(
            Problem(
                "",
                "the data set 'digits' needs scikit-learn",
                "it is not installed",
                "pip install 'neurocompile[train]'",
            )
        ) from error
    bunch = load_digits()
    images = (bunch.images / 16.0).astype(np.float32)[:, np.newaxis, np.newaxis]
    labels = bunch.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)),
        test_size=DIGITS_TEST_IMAGES,
        stratify=labels,
        random_state=DIGITS_SPLIT_SEED,
    )
    return DataSet(
        name="digits",
        train=Images(images[train], labels[train]),
        test=Images(images[test], labels[test]),
        classes=10,
        input_range=InputRange(0.0, 1.0, 1 / 16),
    )


def _from_training_npz(path: Path) -> DataSet:
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
    problems: list[Problem] = []
    for split in ("train", "test"):
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        problems += check_finite(f"x_{split} of '{path}'", images)
        if images.ndim not in (3, 4, 5):
            problems.append(
                Problem(
                    "",
                    f"x_{split} of '{path}' must be (N, H, W), (N, H, W, C), (N, C, H, W) or (N, T, C, H, W)",
                    f"it has shape {images.shape}",
                )
            )
        problems += _problems_of_labels(f"y_{split} of '{path}'", labels, len(images))
    if not problems and arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        problems.append(
            Problem("", f"x_train and x_test of '{path}' must have one shape", "they have two")
        )
    if not problems and arrays["x_train"].dtype != arrays["x_test"].dtype:
        problems.append(
            Problem("", f"x_train and x_test of '{path}' must have one type", "they have two")
        )
    raise_all(DataError, problems)
    train, test = arrays["x_train"], arrays["x_test"]
    if train.dtype == np.uint8:
        input_range = InputRange(0.0, 1.0, 1 / 255)
    else:
        both = np.concatenate([train.ravel(), test.ravel()])
        input_range = InputRange(min(0.0, float(both.min())), max(0.0, float(both.max())))
    return DataSet(
        name=str(path),
        train=Images(_images(train), arrays["y_train"].astype(np.int64)),
        test=Images(_images(test), arrays["y_test"].astype(np.int64)),
        classes=int(max(arrays["y_train"].max(), arrays["y_test"].max())) + 1,
        input_range=input_range,
    )


def _images(images: NDArray[Any]) -> Float:
    """Return (N, T, C, H, W); of four axes, the last holds channels if it alone has few."""
    scaled: Float = images.astype(np.float32)
    if images.dtype == np.uint8:
        scaled /= np.float32(255)
    if scaled.ndim == 3:
        return scaled[:, np.newaxis, np.newaxis]
    if scaled.ndim == 4:
        if scaled.shape[3] <= MOST_CHANNELS < scaled.shape[1]:
            scaled = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
        return scaled[:, np.newaxis]
    return scaled
