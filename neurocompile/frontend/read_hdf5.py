"""
Read an HDF5 file into plain values, trusting nothing in it.

Files come from strangers, and HDF5 can link to other files, declare terabytes in a few bytes and nest
without end. So what is needed of a file is read here, whole, into dictionaries of arrays; what it means
is for others to decide.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neurocompile.errors import FormatError, Problem

LARGEST_FILE_BYTES = 4 << 30
LARGEST_EXPANSION = 1024  # declared size over file size; honest compressed weights stay far below
DEEPEST_NESTING = 32
SMALL_BYTES = 64 << 20

HEAP = b"GCOL\x01"  # HDF5's file format, III.E: where the texts are, collections of objects
HEAP_HEADER = 16  # bytes: of a collection, and of each object in it
LENGTH_BYTES = 8  # of HDF5's "size of lengths"; every writer's default


@dataclass(frozen=True)
class Dialect:
    """What a kind of file is called in messages ("NIR file"), and the error that they become."""

    name: str
    error: type[FormatError]


def read_hdf5(
    path: Path, entries: Collection[str], dialect: Dialect
) -> dict[str, dict[str, Any] | Any]:
    """
    Return the `entries` of the HDF5 file at `path` that there are.

    Groups are nested dictionaries, datasets arrays, or texts (str, or arrays of str). Every failure is the
    error of the `dialect`.
    """
    if not path.is_file():
        raise dialect.error(Problem("", f"there is no file '{path}'"))
    size = path.stat().st_size
    if size > LARGEST_FILE_BYTES:
        raise dialect.error(
            Problem("", f"'{path}' must be at most {LARGEST_FILE_BYTES} bytes", f"it has {size}")
        )
    try:
        with h5py.File(path, "r") as file:
            _check_heaps(path, file, dialect)
            reader = _Reader(dialect, max(SMALL_BYTES, size * LARGEST_EXPANSION))
            return {name: reader.item(name, file, name, 0) for name in entries if name in file}
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise dialect.error(Problem("", f"'{path}' is not a {dialect.name} ({error})")) from error


def _check_heaps(path: Path, file: Any, dialect: Dialect) -> None:
    """
    Refuse texts that the HDF5 library would read for ever.

    It walks from object to object by their lengths, and stays where a damaged one is 0 (HDF5 2.0.0).
    """
    if file.id.get_create_plist().get_sizes()[1] != LENGTH_BYTES:
        raise dialect.error(Problem("", f"'{path}' has HDF5 lengths of an unusual size"))
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        steps_left = len(content) // HEAP_HEADER  # as many objects as can lie side by side
        start = content.find(HEAP)
        while start >= 0 and start + HEAP_HEADER <= len(content):
            (size,) = struct.unpack_from("<Q", content, start + 8)
            place, end = start + HEAP_HEADER, min(start + size, len(content))
            while place + HEAP_HEADER <= end:
                index, length = struct.unpack_from("<H6xQ", content, place)
                padded = HEAP_HEADER + (length + 7) // 8 * 8
                step = (length if index == 0 else padded) % (1 << 64)  # 0 is the free space
                steps_left -= 1
                if step < HEAP_HEADER or steps_left < 0:
                    raise dialect.error(
                        Problem("", f"'{path}' is not a {dialect.name} (its texts are damaged)")
                    )
                place += step
            start = content.find(HEAP, start + 1)


class _Reader:
    """Reads groups and datasets; `left` is how many more bytes the file may declare."""

    def __init__(self, dialect: Dialect, left: int) -> None:
        self.dialect = dialect
        self.left = left

    def item(self, name: str, parent: Any, key: str, depth: int) -> Any:
        """Return what `parent` holds under `key`; messages call it `name`."""
        self._spend(name, 64)
        if not isinstance(parent.get(key, getlink=True), h5py.HardLink):
            raise self._refused(f"'{name}' is a link, which a {self.dialect.name} may not have")
        item = parent[key]
        if isinstance(item, h5py.Group):
            return self._group(name, item, depth)
        if isinstance(item, h5py.Dataset):
            return self._dataset(name, item)
        raise self._refused(f"'{name}' is neither a group nor a dataset")

    def _group(self, name: str, group: Any, depth: int) -> dict[str, Any]:
        if depth > DEEPEST_NESTING:
            raise self._refused(f"'{name}' is nested more than {DEEPEST_NESTING} deep")
        return {key: self.item(f"{name}/{key}", group, key, depth + 1) for key in group}

    def _dataset(self, name: str, item: Any) -> Any:
        if item.external or item.is_virtual:
            raise self._refused(f"'{name}' keeps its data in another file")
        string = h5py.check_string_dtype(item.dtype)
        if item.dtype.kind not in "biufS" and string is None:
            raise self._refused(f"'{name}' holds {item.dtype}, neither numbers nor text")
        self._spend(name, int(item.size or 0) * max(1, item.dtype.itemsize))
        value = item[()]
        if string is not None or item.dtype.kind == "S":
            return _text(value)
        return np.asarray(value)

    def _spend(self, name: str, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise self._refused(f"dataset '{name}' declares far more data than the file holds")

    def _refused(self, reason: str) -> FormatError:
        return self.dialect.error(Problem("", reason))


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray):
        return np.array([_text(item) for item in value.ravel()], dtype=str).reshape(value.shape)
    return value
