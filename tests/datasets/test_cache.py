"""Frames on disk: when they are made anew, and what others see of one that is being made."""

from __future__ import annotations

import os
import pickle
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.datasets.cache import FOLDER, FrameFile, cached_frames
from neurocompile.errors import DataError


class Maker:
    """Counts how often a recording's frames are made; they hold its size."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, path: Path) -> NDArray[Any]:
        self.made.append(path.name)
        return np.full((2, 3), path.stat().st_size, np.uint16)


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "set" / name for name in ("b", "a")]
    for size, path in enumerate(paths, start=4):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
    return paths


def cache(root: Path, paths: list[Path], maker: Maker, **parameters: Any) -> tuple[Path, int]:
    return cached_frames(root, "set-train", parameters, paths, maker, shape=(2, 3), dtype=np.uint16)


def test_frames_are_made_once_and_read_where_they_lie(
    tmp_path: Path, recordings: list[Path]
) -> None:
    maker = Maker()

    path, most = cache(tmp_path, recordings, maker, steps=2)
    again = cache(tmp_path, recordings, maker, steps=2)

    assert maker.made == ["b", "a"]
    assert again == (path, most) == (path, 5)
    assert FrameFile(path).read(np.array([1, 0])).tolist() == [[[5] * 3] * 2, [[4] * 3] * 2]
    assert FrameFile(path, most=4).read(np.array([1]))[0, 0, 0] == 4
    assert not list((tmp_path / FOLDER).glob(".set-train-*"))


def test_every_parameter_and_file_counts(tmp_path: Path, recordings: list[Path]) -> None:
    maker = Maker()
    first, _ = cache(tmp_path, recordings, maker, steps=2)

    others = [cache(tmp_path, recordings, maker, steps=3)[0]]
    others.append(cache(tmp_path, recordings[::-1], maker, steps=2)[0])
    os.utime(recordings[0], ns=(1, 1))
    others.append(cache(tmp_path, recordings, maker, steps=2)[0])
    recordings[0].write_bytes(bytes(9))
    os.utime(recordings[0], ns=(1, 1))
    others.append(cache(tmp_path, recordings, maker, steps=2)[0])

    assert len({first, *others}) == 5


def test_nothing_is_left_of_a_set_with_a_recording_that_fails(
    tmp_path: Path, recordings: list[Path]
) -> None:
    def fail(path: Path) -> NDArray[Any]:
        if path.name == "a":
            raise KeyboardInterrupt
        return np.zeros((2, 3), np.uint16)

    with pytest.raises(KeyboardInterrupt):
        cached_frames(tmp_path, "set-train", {}, recordings, fail, shape=(2, 3), dtype=np.uint16)

    assert not list((tmp_path / FOLDER).glob("*set-train-*"))


def test_a_file_that_was_cut_off_is_made_anew(tmp_path: Path, recordings: list[Path]) -> None:
    maker = Maker()
    path, _ = cache(tmp_path, recordings, maker)
    path.write_bytes(path.read_bytes()[:-3])
    left = path.with_name(f".{path.name}.0123.npy")  # as of a process that was killed
    left.write_bytes(b"")

    cache(tmp_path, recordings, maker)

    assert len(maker.made) == 4
    assert FrameFile(path).read(np.array([0]))[0, 0, 0] == 4
    assert not left.exists()


def test_frames_go_to_the_cache_of_the_user_where_recordings_are_read_only(
    tmp_path: Path, recordings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and access(path, mode))

    path, _ = cache(tmp_path, recordings, Maker())

    assert path.parent == tmp_path / "caches" / FOLDER
    assert path.is_file()
    assert not (tmp_path / FOLDER).exists()


def test_who_wants_frames_that_are_being_made_waits_for_them(
    tmp_path: Path, recordings: list[Path]
) -> None:
    maker, asked = Maker(), Event()

    def make(path: Path) -> NDArray[Any]:
        assert asked.wait(30)  # for the other one
        return maker(path)

    def ask() -> tuple[Path, int]:
        asked.set()
        return cached_frames(
            tmp_path, "set-train", {}, recordings, make, shape=(2, 3), dtype=np.uint16
        )

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(
            cached_frames,
            tmp_path, "set-train", {}, recordings, make, shape=(2, 3), dtype=np.uint16,
        )  # fmt: skip
        second = pool.submit(ask)
        assert first.result(60) == second.result(60)

    assert maker.made == ["b", "a"]


def test_another_process_opens_the_file_itself(tmp_path: Path, recordings: list[Path]) -> None:
    path, _ = cache(tmp_path, recordings, Maker())
    opened = FrameFile(path, most=4)
    opened.read(np.array([0]))

    sent = pickle.dumps(opened)

    assert len(sent) < 1000
    assert b"_frames" not in sent
    assert pickle.loads(sent).read(np.array([1])).max() == 4  # noqa: S301  # our own bytes


@pytest.mark.parametrize(
    "facts",
    ["{", "[]", '{"maximum": "5"}', '{"maximum": -4}', '{"maximum": 1000000000000}', "\xff"],
)
def test_frames_beside_damaged_facts_are_made_anew(
    tmp_path: Path, recordings: list[Path], facts: str
) -> None:
    maker = Maker()
    path, most = cache(tmp_path, recordings, maker)
    path.with_suffix(".json").write_text(facts, encoding="latin-1")

    assert cache(tmp_path, recordings, maker) == (path, most)
    assert len(maker.made) == 4


@pytest.mark.parametrize("place", [FOLDER, f"{FOLDER}/.set-train.lock/"])
def test_frames_that_cannot_be_kept_are_an_error(
    tmp_path: Path, recordings: list[Path], place: str
) -> None:
    if place.endswith("/"):
        (tmp_path / place).mkdir(parents=True)
    else:
        (tmp_path / place).write_text("")

    with pytest.raises(DataError, match="the frames of 'set-train' cannot be kept in "):
        cache(tmp_path, recordings, Maker())


def test_nothing_is_left_on_a_disk_that_is_full(tmp_path: Path, recordings: list[Path]) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, limit[1]))  # of any file, in bytes
    try:
        with pytest.raises(DataError, match="the frames of 'set-train' cannot be kept in "):
            cache(tmp_path, recordings, Maker())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == [".set-train.lock"]
