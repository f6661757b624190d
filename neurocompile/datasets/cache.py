"""
Frames of a whole split in one file on disk, made once and read where they lie.

The file's name holds a hash of everything that its content depends on: the parameters, the split, and
each recording's path, size and time of change. It appears when it is whole; processes that want the same
one wait for the first. What training does to samples comes after it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from rich.console import Console
from rich.progress import track

from neurocompile.atomic import replacing, write_text
from neurocompile.data import Integer
from neurocompile.errors import DataError, OptionError, Problem

FORMAT = 1
FOLDER = "neurocompile-frames"


@dataclass(frozen=True)
class FrameFile:
    """The frames of a split, (N, steps, polarities, height, width); values above `most` are `most`."""

    path: Path
    most: int | None = None

    def read(self, indices: Integer) -> NDArray[Any]:
        values = np.asarray(self._frames[indices])
        return values if self.most is None else np.minimum(values, self.most, dtype=values.dtype)

    @cached_property
    def _frames(self) -> NDArray[Any]:
        frames: NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return frames

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the frames: another process opens the file itself."""
        return {"path": self.path, "most": self.most}


def cached_frames(
    root: Path,
    name: str,
    parameters: Mapping[str, Any],
    recordings: Sequence[Path],
    frames_of: Callable[[Path], NDArray[Any]],
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
) -> tuple[Path, int]:
    """
    Return the file of the frames of `recordings`, made by `frames_of` if it is not there, and its maximum.

    `parameters` are all that `frames_of` depends on but the recordings, below `root`; `shape` and `dtype`
    are those of one recording's frames. Raises `DataError` where no frames can be kept.
    """
    try:
        return _cached(root, name, parameters, recordings, frames_of, shape, np.dtype(dtype))
    except (OSError, OptionError) as error:
        raise DataError(
            Problem(
                "",
                f"the frames of '{name}' cannot be kept in '{_folder(root)}'",
                str(error.__cause__ or error),
                "make room there, or make it writable",
            )
        ) from error


def _cached(
    root: Path,
    name: str,
    parameters: Mapping[str, Any],
    recordings: Sequence[Path],
    frames_of: Callable[[Path], NDArray[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> tuple[Path, int]:
    described = {"format": FORMAT, "name": name, **parameters}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for recording in recordings:
        found = recording.stat()
        place = os.fsencode(recording.relative_to(root))
        digest.update(b"%s %d %d\n" % (place, found.st_size, found.st_mtime_ns))
    folder = _folder(root)
    path = folder / f"{name}-{digest.hexdigest()[:24]}.npy"
    facts = path.with_suffix(".json")
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f".{name}.lock"):
        most = _stored_maximum(facts, dtype)
        if most is None or not _is_whole(path, (len(recordings), *shape), dtype):
            for left in folder.glob(f".{path.name}.*"):  # by a process that was killed
                left.unlink()
            most = _write(path, recordings, frames_of, shape, dtype)
            write_text(facts, json.dumps({**described, "maximum": most}, indent=2) + "\n")
    return path, most


def _write(
    path: Path,
    recordings: Sequence[Path],
    frames_of: Callable[[Path], NDArray[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> int:
    most = 0
    whole = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (len(recordings), *shape),
    }
    console = Console(stderr=True)
    shown = track(
        recordings, f"frames of {path.stem}", console=console, disable=not sys.stderr.isatty()
    )
    # written, not mapped: where a disk is full, a mapped file ends the process without a word
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, whole)
        for recording in shown:
            frames = np.empty(shape, dtype)
            frames[...] = frames_of(recording)
            most = max(most, int(frames.max()))
            stream.write(frames.tobytes())
    return most


def _is_whole(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, TypeError, OverflowError, SyntaxError):
        return False
    return bool(found.shape == shape and found.dtype == dtype)


def _stored_maximum(facts: Path, dtype: np.dtype[Any]) -> int | None:
    """Return the maximum that `facts` tell of frames, None if they are missing or damaged."""
    try:
        most = json.loads(facts.read_text(encoding="utf-8"))["maximum"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return most if type(most) is int and 0 <= most <= np.iinfo(dtype).max else None


def _folder(root: Path) -> Path:
    """Return where frames are kept: beside the recordings, or in the user's cache if that is read-only."""
    beside = root / FOLDER
    if os.access(beside if beside.is_dir() else root, os.W_OK):
        return beside
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / FOLDER


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process is in the block of this `lock`."""
    with lock.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
