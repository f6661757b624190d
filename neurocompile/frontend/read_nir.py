"""
Read a NIR file into plain values, trusting nothing in it.

Files come from strangers, and HDF5 can link to other files, declare terabytes in a few bytes and nest
without end; nir's own reader, besides, corrects and fills in values silently. So the file is read
here, into dictionaries of arrays, and what the graph means is decided by `from_nir`.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neurocompile.errors import NirFormatError, Problem

LARGEST_FILE_BYTES = 4 << 30
LARGEST_EXPANSION = 1024  # declared size over file size; honest compressed weights stay far below
DEEPEST_NESTING = 32
SMALL_BYTES = 64 << 20

HEAP = b"GCOL\x01"  # HDF5's file format, III.E: where the texts are, collections of objects
HEAP_HEADER = 16  # bytes: of a collection, and of each object in it
LENGTH_BYTES = 8  # of HDF5's "size of lengths"; every writer's default


@dataclass(frozen=True)
class NirFile:
    """The values of a NIR file: the node tree as nested dictionaries, and the writer's version."""

    root: Mapping[str, Any]
    version: str


def read_nir(path: Path) -> NirFile:
    """Return the contents of the NIR file at `path`; every failure is a `NirFormatError`."""
    if not path.is_file():
        raise NirFormatError(Problem("", f"there is no file '{path}'"))
    size = path.stat().st_size
    if size > LARGEST_FILE_BYTES:
        raise NirFormatError(
            Problem("", f"'{path}' must be at most {LARGEST_FILE_BYTES} bytes", f"it has {size}")
        )
    try:
        with h5py.File(path, "r") as file:
            _check_heaps(path, file)
            if "node" not in file or not isinstance(file.get("node", getlink=True), h5py.HardLink):
                raise NirFormatError(Problem("", f"'{path}' is an HDF5 file, but not a NIR graph"))
            budget = _Budget(max(SMALL_BYTES, size * LARGEST_EXPANSION))
            version = file.get("version")
            text = _dataset("version", version, budget) if isinstance(version, h5py.Dataset) else ""
            root = _group("node", file["node"], budget, 0)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise NirFormatError(Problem("", f"'{path}' is not a NIR file ({error})")) from error
    return NirFile(root, str(text))


def _check_heaps(path: Path, file: Any) -> None:
    """
    Refuse texts that the HDF5 library would read for ever.

    It walks from object to object by their lengths, and stays where a damaged one is 0 (HDF5 2.0.0).
    """
    if file.id.get_create_plist().get_sizes()[1] != LENGTH_BYTES:
        raise NirFormatError(Problem("", f"'{path}' has HDF5 lengths of an unusual size"))
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
                    raise NirFormatError(
                        Problem("", f"'{path}' is not a NIR file (its texts are damaged)")
                    )
                place += step
            start = content.find(HEAP, start + 1)


class _Budget:
    """How many more bytes a file may declare."""

    def __init__(self, total: int) -> None:
        self.left = total

    def spend(self, name: str, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise NirFormatError(
                Problem("", f"dataset '{name}' declares far more data than the file holds")
            )


def _group(name: str, group: Any, budget: _Budget, depth: int) -> dict[str, Any]:
    if not isinstance(group, h5py.Group):
        raise NirFormatError(Problem("", f"'{name}' must be an HDF5 group"))
    if depth > DEEPEST_NESTING:
        raise NirFormatError(Problem("", f"'{name}' is nested more than {DEEPEST_NESTING} deep"))
    values: dict[str, Any] = {}
    for key in group:
        budget.spend(f"{name}/{key}", 64)
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise NirFormatError(
                Problem("", f"'{name}/{key}' is a link, which a NIR file may not have")
            )
        item = group[key]
        inner = f"{name}/{key}"
        if isinstance(item, h5py.Group):
            values[key] = _group(inner, item, budget, depth + 1)
        elif isinstance(item, h5py.Dataset):
            values[key] = _dataset(inner, item, budget)
        else:
            raise NirFormatError(Problem("", f"'{inner}' is neither a group nor a dataset"))
    return values


def _dataset(name: str, item: Any, budget: _Budget) -> Any:
    if item.external or item.is_virtual:
        raise NirFormatError(Problem("", f"'{name}' keeps its data in another file"))
    string = h5py.check_string_dtype(item.dtype)
    if item.dtype.kind not in "biufS" and string is None:
        raise NirFormatError(Problem("", f"'{name}' holds {item.dtype}, neither numbers nor text"))
    budget.spend(name, int(item.size or 0) * max(1, item.dtype.itemsize))
    value = item[()]
    if string is not None or item.dtype.kind == "S":
        return _text(value)
    return np.array(value)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray):
        return np.array([_text(item) for item in value.ravel()], dtype=str).reshape(value.shape)
    return value
