"""
Recordings of event cameras, which tonic reads: CIFAR10-DVS, N-MNIST and DVS-Gesture.

    <directory>/CIFAR10DVS/<class>/cifar10_<class>_<number>.aedat4
    <directory>/NMNIST/{Train,Test}/<digit>/<number>.bin
    <directory>/DVSGesture/{ibmGestureTrain,ibmGestureTest}/<user>_<light>/<class>.npy

as tonic unpacks them. CIFAR10-DVS has no official split: of each class the recordings with the numbers 0
to 899 are for training and 900 to 999 to test, as in the TET paper's code. Other splits give other
accuracies; the one that was used is in `facts`. Recordings are in the order of their numbers, so that the
first ones are of many classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import DataOptions, DataSet, InputRange, Split, SplitName
from neurocompile.datasets.cache import FrameFile, cached_frames
from neurocompile.datasets.frames import Framing
from neurocompile.datasets.packages import needed, versions
from neurocompile.errors import DataError, NeurocompileError, Problem

TRAINING_NUMBERS = 900
AEDAT4_HEAD = 18  # bytes: the name of the format, and how long the description is
AEDAT4_DESCRIPTION = 1 << 20

Events = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]  # t, x, y, p, each (N,)


@dataclass(frozen=True)
class Recording:
    """A file, what is in it, and its place in the order of its split."""

    path: Path
    label: int
    order: tuple[int, ...]


@dataclass(frozen=True)
class EventSet:
    """
    Where a set is and how it is read.

    `reader` names tonic's class, which knows archives and classes; `find` returns a split's recordings,
    of which there must be `fewest` at least. `archives` say what to download.
    """

    reader: str
    suffix: str
    find: Callable[[Any, Path, SplitName], list[Recording]]
    read: Callable[[Path], Events]
    fewest: Mapping[SplitName, int]
    split: str
    archives: Callable[[Any], str]


def load_events(name: str, options: DataOptions) -> DataSet:
    """
    Return "cifar10dvs", "nmnist" or "dvsgesture" as frames, which are made when a split is first opened.

    The range of counts is that of the training split; larger ones to test are clipped to it. Raises
    `DataError` for recordings that are missing or damaged.
    """
    events = SETS[name]
    reader = getattr(needed("tonic.datasets", "events", f"the data set '{name}'"), events.reader)
    width, height, _ = reader.sensor_size
    size = (options.size, options.size) if options.size else (height, width)
    framing = Framing(
        height, width, options.steps, options.split_by, options.binary, options.resize, size
    )
    directory = options.directory / events.reader

    def frames_of(path: Path) -> NDArray[Any]:
        return framing.frames(*_read(events, path, (width, height)))

    @cache
    def found(split: SplitName) -> list[Recording]:
        return _recordings(events, reader, directory, split, name)

    def open_frames(split: SplitName) -> tuple[Path, int]:
        return cached_frames(
            options.directory,
            f"{name}-{split}",
            asdict(framing),
            [recording.path for recording in found(split)],
            frames_of,
            shape=framing.shape,
            dtype=framing.dtype,
        )

    most = framing.per_unit if framing.binary else open_frames("train")[1]

    def open_split(split: SplitName) -> Split:
        path, _ = open_frames(split)
        source = FrameFile(path, None if framing.binary else most)
        labels = [recording.label for recording in found(split)]
        return Split(np.array(labels, np.int64), source, framing.per_unit)

    unit = 1 / framing.per_unit
    return DataSet(
        name=name,
        open=open_split,
        classes=len(reader.classes),
        class_names=tuple(reader.classes),
        input_shape=(2, *size),
        steps=options.steps,
        input_range=InputRange(0.0, most * unit, unit),
        facts={
            "split": events.split,
            "frames": {**asdict(framing), "values": f"multiples of 1/{framing.per_unit}"},
            "versions": versions("tonic"),
        },
    )


def _recordings(
    events: EventSet, reader: Any, directory: Path, split: SplitName, name: str
) -> list[Recording]:
    """Return the recordings of a split in their order; raises `DataError` if they are not all there."""
    found = sorted(events.find(reader, directory, split), key=lambda recording: recording.order)
    if len(found) < events.fewest[split]:
        raise DataError(
            Problem(
                "",
                f"'{name}' needs {events.fewest[split]} recordings ({events.suffix}) to {split}"
                f"{' on' if split == 'train' else ''} in '{directory}'",
                f"{len(found)} are there",
                f"unpack {events.archives(reader)} there, or name another directory with"
                " NEUROCOMPILE_DATA",
            )
        )
    return found


def _read(events: EventSet, path: Path, size: tuple[int, int]) -> Events:
    """Return the events in the file `path`; raises `DataError` unless all are within the sensor."""
    try:
        t, x, y, p = events.read(path)
    except NeurocompileError:
        raise
    except BaseException as error:  # damaged files fail in numpy, tonic and aedat, which can panic
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataError(
            Problem("", f"'{path}' is not a readable recording ({error})", remedy="unpack it again")
        ) from error
    width, height = size
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height) | (p < 0) | (p > 1)
    if outside.any():
        raise DataError(
            Problem(
                "",
                f"the events of '{path}' must be in {width} x {height} pixels of two polarities",
                f"{int(outside.sum())} are not",
                "unpack it again",
            )
        )
    return t, x, y, p


def _find_by_number(reader: Any, directory: Path, split: SplitName) -> list[Recording]:
    """Return a split of CIFAR10-DVS: by the number in a file's name, whatever order files come in."""
    found = []
    for class_name, label in reader.classes.items():
        for path in (directory / class_name).glob("*.aedat4"):
            number = _number(path)
            if (number < TRAINING_NUMBERS) == (split == "train"):
                found.append(Recording(path, label, (number, label)))
    places = [recording.order for recording in found]
    if len(set(places)) < len(places):
        raise DataError(
            Problem("", f"the recordings of a class in '{directory}' need different numbers")
        )
    return found


def _find_digits(reader: Any, directory: Path, split: SplitName) -> list[Recording]:
    folder = directory / (reader.train_folder if split == "train" else reader.test_folder)
    return [
        Recording(path, digit, (_number(path), digit))
        for digit in range(len(reader.classes))
        for path in (folder / str(digit)).glob("*.bin")
    ]


def _find_gestures(reader: Any, directory: Path, split: SplitName) -> list[Recording]:
    folder = directory / f"ibmGesture{split.title()}"
    found = [
        Recording(path, _number(path), (number, 0))
        for number, path in enumerate(sorted(folder.glob("*/*.npy")))
    ]
    for recording in found:
        if recording.label >= len(reader.classes):
            raise DataError(
                Problem(
                    "",
                    f"the name of '{recording.path}' must be a gesture",
                    f"there are {len(reader.classes)}",
                )
            )
    return found


def _number(path: Path) -> int:
    """Return the number that the name of a recording ends with."""
    number = re.search(r"([0-9]{1,9})$", path.stem)
    if number is None:
        raise DataError(Problem("", f"the name of '{path}' must end with a number", "it does not"))
    return int(number[1])


def _read_aedat4(path: Path) -> Events:
    needed("aedat", "events", "reading .aedat4 files")
    with path.open("rb") as stream:
        head = stream.read(AEDAT4_HEAD)
        size = int.from_bytes(head[-4:], "little")
        description = stream.read(min(size, AEDAT4_DESCRIPTION)).partition(b"<")[2]
    if not description.rpartition(b">")[0].isascii():  # aedat 2.3 ends the process on other text
        raise DataError(
            Problem("", f"the description of '{path}' must be text", "it is not", "unpack it again")
        )
    events = needed("tonic.io", "events", "reading .aedat4 files").read_aedat4(str(path))
    polarity = events.dtype.names[3]  # "on", or "p" where tonic has renamed it
    return events["t"], events["x"], events["y"], events[polarity]


def _read_bin(path: Path) -> Events:
    if path.stat().st_size % 5:
        raise DataError(
            Problem(
                "",
                f"'{path}' must hold 5 bytes for each event",
                f"it has {path.stat().st_size}",
                "unpack it again",
            )
        )
    io = needed("tonic.io", "events", "reading .bin files")
    dtype = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
    events = io.read_mnist_file(str(path), dtype=dtype)
    return events["t"], events["x"], events["y"], events["p"]


def _read_npy(path: Path) -> Events:
    events = np.load(path, allow_pickle=False)
    if events.ndim != 2 or events.shape[1] != 4 or events.dtype.kind not in "iu":
        raise DataError(
            Problem(
                "",
                f"'{path}' must hold x, y, polarity and time of each event as integers",
                f"it has {events.dtype} of shape {events.shape}",
                "unpack it again",
            )
        )
    x, y, p, t = events.T
    return t, x, y, p


SETS: Mapping[str, EventSet] = {
    "cifar10dvs": EventSet(
        "CIFAR10DVS",
        ".aedat4",
        _find_by_number,
        _read_aedat4,
        {"train": 9000, "test": 1000},
        "by the number in the file's name: 0 to 899 of each class to train, 900 to 999 to test",
        lambda reader: (
            f"{reader.filename} (md5 {reader.file_md5}) from {reader.url} and the archives in it"
        ),
    ),
    "nmnist": EventSet(
        "NMNIST",
        ".bin",
        _find_digits,
        _read_bin,
        {"train": 60000, "test": 10000},
        "official",
        lambda reader: (
            f"{reader.train_filename} (md5 {reader.train_md5}) from {reader.train_url} and"
            f" {reader.test_filename} (md5 {reader.test_md5}) from {reader.test_url}"
        ),
    ),
    "dvsgesture": EventSet(
        "DVSGesture",
        ".npy",
        _find_gestures,
        _read_npy,
        {"train": 100, "test": 100},  # as tonic asks; it has cut the recordings itself
        "official, by user; recordings cut into gestures by tonic",
        lambda reader: (
            f"{reader.train_filename} (md5 {reader.train_md5}) from {reader.train_url} and"
            f" {reader.test_filename} (md5 {reader.test_md5}) from {reader.test_url}"
        ),
    ),
}
