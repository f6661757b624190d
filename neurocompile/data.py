"""
DATA on the command line: a data set by name, `name:split`, or somebody's .npz file.

Samples become float32 in the units that the network sees: digits divided by 16, other uint8 by 255.
Because those are grids, the compiler can carry them to the chip as integers without any rounding;
`InputRange` is how the grid travels with the network. What data sets there are is in `datasets`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurocompile.errors import DataError, Problem, raise_all

Float = NDArray[np.float32]
Integer = NDArray[np.int64]

Inputs = NDArray[Any] | Mapping[str, NDArray[Any]]
"""Values for a network: (samples, steps, *input shape), by name where there are several inputs."""

SEVERAL = "input/"  # before an input's name in files for networks with several
LABEL = "label"  # the classes in a file of inputs
OF_TRAINING = ("x_train", "y_train", "x_test", "y_test")  # the arrays of a training file
MOST_NAMED = 8  # arrays that an error names
DATA_DIRECTORY = "NEUROCOMPILE_DATA"  # the environment's name for it
MOST_LABELS = 1 << 20
MOST_CLASSES = (
    1 << 13
)  # of a data set: which is taken for which is counted in 8 bytes for each pair
MOST_VALUES = 1 << 31  # of samples that are in memory at once: 8 GiB


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


class Source(Protocol):
    """Where the samples of a split are: in memory, or in files that are read when they are asked for."""

    def read(self, indices: Integer) -> NDArray[Any]:
        """Return the samples at `indices` as (n, steps or 1, channels, height, width), as they are stored."""


@dataclass(frozen=True)
class Stored:
    """Samples in memory, (N, steps or 1, channels, height, width)."""

    values: NDArray[Any]

    def read(self, indices: Integer) -> NDArray[Any]:
        return self.values[indices]


@dataclass(frozen=True)
class Split:
    """
    A labelled split: `labels` (N,), and samples that `source` holds in units of 1 / `per_unit`.

    Large sets are stored as the integers of their grid; they become floats a batch at a time.
    """

    labels: Integer
    source: Source
    per_unit: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, indices: ArrayLike) -> Float:
        """Return the samples at `indices` as (n, steps or 1, channels, height, width)."""
        return self.scaled(self.source.read(np.asarray(indices, np.int64)))

    def scaled(self, stored: NDArray[Any]) -> Float:
        """Return what `stored` values stand for."""
        values: Float = stored.astype(np.float32)
        if self.per_unit != 1:
            values /= np.float32(self.per_unit)
        return values


@dataclass(frozen=True)
class DataOptions:
    """
    How a data set is read; images need no more than `root`.

    `root` is the directory of data sets that are files; where it is None, that is NEUROCOMPILE_DATA of
    the environment, else ./data. Recordings of events are cut into `steps` frames, by equal numbers of
    "events" or by "time"; `binary` frames say that something happened, others count. `size` is the height
    and width that frames are resized to (None: as recorded).
    """

    root: Path | None = None
    steps: int = 10
    split_by: Literal["events", "time"] = "events"
    binary: bool = False
    resize: Literal["bilinear", "nearest", "area"] = "bilinear"
    size: int | None = None

    @property
    def directory(self) -> Path:
        """The directory of data sets that are files."""
        return self.root or Path(os.environ.get(DATA_DIRECTORY) or "data")

    def where_data_are_now(self) -> DataOptions:
        """Return them for data that may have moved since: NEUROCOMPILE_DATA wins, if it is set."""
        return replace(self, root=None) if os.environ.get(DATA_DIRECTORY) else self

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], steps: int | None = None, phase: int | None = None
    ) -> DataOptions:
        """
        Return the options of training `settings` (as JSON), for `steps` steps.

        Where `steps` is None they are those of `phase`, from 0, or of the last phase. A phase that says
        nothing of them has as many as the one before.
        """
        later = [after.get("timesteps") for after in settings.get("phases", ())]
        last = reversed(later if phase is None else later[:phase])
        given = settings.get("input", {})
        names = ("split_by", "binary", "resize", "size")
        return cls(
            root=None if given.get("root") is None else Path(given["root"]),
            steps=steps or next(filter(None, last), settings["timesteps"]),
            **{name: given[name] for name in names if name in given},
        )


SplitName = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class DataSet:
    """
    A data set ready to train on; a split is opened when it is first asked for.

    Samples have the shape (`steps`, *`input_shape`), images 1 step; `normalisation` is the mean and
    standard deviation by channel that networks are given, None where they take values as they are.
    `facts` say how the set was split and made.
    """

    name: str
    open: Callable[[SplitName], Split]
    classes: int
    input_shape: tuple[int, ...]
    input_range: InputRange
    class_names: tuple[str, ...] = ()
    steps: int = 1
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def train(self) -> Split:
        return self.open("train")

    @cached_property
    def test(self) -> Split:
        return self.open("test")


@dataclass(frozen=True)
class Samples:
    """Inputs for `run` and `verify`: (samples, steps or 1, *input shape), labels where known."""

    inputs: Inputs
    labels: Integer | None

    def at(self, indices: Integer) -> Samples:
        """Return the samples at `indices`."""
        labels = None if self.labels is None else self.labels[indices]
        return Samples(map_inputs(lambda values: values[indices], self.inputs), labels)

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


def load_data_set(name: str, options: DataOptions = DataOptions()) -> DataSet:
    """
    Return the data set called `name`, or the one in the .npz file of that path.

    Raises `DataError` if there is none, listing every problem of a file, or saying what to download, and
    `MissingDependencyError` for a package that reads it.
    """
    from neurocompile.datasets import LOADERS
    from neurocompile.datasets.npz import load_npz

    if name in LOADERS:
        found = LOADERS[name](name, options)
    elif Path(name).suffix == ".npz":
        found = load_npz(Path(name))
    else:
        raise DataError(
            Problem(
                "",
                f"there is no data set '{name}'",
                remedy=f"use {', '.join(LOADERS)} or the path of an .npz file",
            )
        )
    if found.classes > MOST_CLASSES:
        raise DataError(
            Problem(
                "", f"a data set can have {MOST_CLASSES} classes", f"'{name}' has {found.classes}"
            )
        )
    return found


def named_split(data: str, *, unnamed: SplitName = "test") -> tuple[str, SplitName]:
    """
    Return the data set that DATA names, and its split: `unnamed` if none is named.

    The path of an .npz file may have colons of its own. Raises `DataError` for another split.
    """
    name, colon, split = data.rpartition(":")
    if not colon or Path(data).suffix == ".npz":
        return data, unnamed
    if split == "train":
        return name, "train"
    if split in ("", "test"):
        return name, "test"
    raise DataError(
        Problem("", f"'{name}' has no split '{split}'", remedy="use ':train' or ':test'")
    )


def is_input_file(data: str) -> bool:
    """Return whether DATA is an .npz file of inputs, and not a data set; only its names are read."""
    return Path(data).suffix == ".npz" and _holds_inputs(_arrays_in(Path(data)))


def _arrays_in(path: Path) -> list[str]:
    """Return the names of an .npz file's arrays; none of what cannot be read: whoever reads it says why."""
    try:
        with ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, BadZipFile, ValueError, NotImplementedError):
        return []


def _holds_inputs(names: Iterable[str]) -> bool:
    return any(name == "input" or name.startswith(SEVERAL) for name in names)


def load_samples(
    data: str,
    options: DataOptions = DataOptions(),
    *,
    count: int | None = None,
    unnamed: SplitName = "test",
    spread: bool = False,
) -> Samples:
    """
    Return the samples that DATA names: `digits`, `digits:test`, `digits:train` or an .npz file.

    An .npz file holds `input` (samples, steps, *input shape), or `input/<name>` for each of several
    inputs, and perhaps `label` (samples,), and no other arrays; or it is a training file. Where DATA names
    no split, `unnamed` is taken.
    With `count` only that many are read: the first ones, or some that are `spread` evenly over all.
    """
    path = Path(data)
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if _holds_inputs(arrays):
            samples = _samples_of(path, arrays)
            if count is None or not spread:
                return samples if count is None else samples.first(count)
            return samples.at(_evenly(count, sample_count(samples.inputs)))
    name, data_set, chosen = open_split(data, options, unnamed=unnamed)
    count = len(chosen) if count is None else min(count, len(chosen))
    values = count * data_set.steps * math.prod(data_set.input_shape)
    if values > MOST_VALUES:
        raise DataError(
            Problem(
                "",
                f"{count} samples of '{name}' are more than fit into memory at once",
                f"they are {values * 4 / 2**30:.0f} GiB",
                "take the first ones with --samples",
            )
        )
    indices = _evenly(count, len(chosen)) if spread else np.arange(count)
    return Samples(chosen.fetch(indices), chosen.labels[indices])


def open_split(
    data: str, options: DataOptions = DataOptions(), *, unnamed: SplitName = "test"
) -> tuple[str, DataSet, Split]:
    """
    Return the name of the data set that DATA names, the set itself, and the split that is meant.

    None of its samples is read. Raises what `named_split` and `load_data_set` do, and `DataError` for an
    .npz file that is one of neither inputs nor training.
    """
    name, split = named_split(data, unnamed=unnamed)
    _check_kind(name)
    data_set = load_data_set(name, options)
    return name, data_set, data_set.train if split == "train" else data_set.test


def _check_kind(name: str) -> None:
    """Raise `DataError` for an .npz file called `name` that is neither one of inputs nor of training."""
    held = _arrays_in(Path(name)) if Path(name).suffix == ".npz" else []
    if held and not _holds_inputs(held) and not set(held) & set(OF_TRAINING):
        raise DataError(
            Problem(
                "",
                f"'{name}' must hold 'input' (samples, steps, *input shape), and perhaps '{LABEL}' "
                f"(samples,), or {', '.join(OF_TRAINING)}",
                f"it holds {_listed(held)}",
            )
        )


def _listed(names: Iterable[str]) -> str:
    """Return names of arrays, shortened where they are many."""
    named = [f"'{name}'" for name in names]
    more = len(named) - MOST_NAMED
    return ", ".join(named[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _evenly(count: int, length: int) -> Integer:
    """Return `count` places of `length`, or all, in order."""
    count = min(count, length)
    places: Integer = np.arange(count, dtype=np.int64) * length // max(1, count)
    return places


def range_of(
    data: str,
    options: DataOptions = DataOptions(),
) -> tuple[InputRange, tuple[int, ...]]:
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
        _check_kind(data)
        data_set = load_data_set(named_split(data)[0], options)
        return data_set.input_range, data_set.input_shape
    inputs = load_samples(data).inputs
    assert isinstance(inputs, np.ndarray)  # it has 'input'
    return _span(path, inputs), inputs.shape[2:]


def ranges_of(data: str, names: Collection[str]) -> dict[str, tuple[InputRange, tuple[int, ...]]]:
    """Return what `range_of` does for each of several inputs, of an .npz file of inputs by `names`."""
    named = by_input(load_samples(data).inputs, names)
    return {name: (_span(Path(data), values), values.shape[2:]) for name, values in named.items()}


def _span(path: Path, values: NDArray[Any]) -> InputRange:
    if values.size == 0:
        raise DataError(f"'{path}' holds no samples")
    step = 1.0 if (values == np.rint(values)).all() else 0.0
    return InputRange(min(0.0, float(values.min())), max(0.0, float(values.max())), step)


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
    """Return a problem if `values` are not numbers, or not all of them finite as float32."""
    if values.dtype.kind not in "biuf":
        return [Problem("", f"{what} must be numbers", f"has type {values.dtype}")]
    if values.dtype.kind != "f":
        return []
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32))
    if not finite.all():
        large = "" if np.array_equal(finite, np.isfinite(values)) else " as float32"
        have = f"{int((~finite).sum())} values are NaN or infinite{large}"
        return [Problem("", f"{what} must be finite", have)]
    return []


def problems_of_labels(what: str, labels: NDArray[Any], count: int) -> list[Problem]:
    """Return a problem if `labels` are not `count` classes from 0 on."""
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        have = f"it is {labels.dtype} of shape {labels.shape}"
        return [Problem("", f"{what} must be {count} integers", have)]
    if labels.size == 0 or labels.min() < 0 or labels.max() >= MOST_LABELS:
        reach = (
            f"they reach from {labels.min()} to {labels.max()}" if labels.size else "there are none"
        )
        return [Problem("", f"{what} must be classes from 0 on, at least one", reach)]
    return []


def _samples_of(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Samples:
    labels = arrays.get(LABEL)
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
    if unknown := sorted(arrays.keys() - found.keys() - {LABEL}):
        problems.append(
            Problem(
                "",
                f"'{path}' must hold inputs, and perhaps their classes as '{LABEL}', alone",
                f"it also holds {_listed(unknown)}",
                "rename or remove what is not meant",
            )
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
        problems += problems_of_labels(f"'{LABEL}' of '{path}'", labels, *counts)
    raise_all(DataError, problems)
    floats = {name: values.astype(np.float32) for name, values in found.items()}
    inputs: Inputs = (
        floats["input"]
        if "input" in floats
        else {name.removeprefix(SEVERAL): values for name, values in floats.items()}
    )
    return Samples(inputs, None if labels is None else labels.astype(np.int64))
