"""Event data sets from files in their formats: splits, order, counts, and what is wrong with files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.data import DataOptions, InputRange, load_data_set, load_samples
from neurocompile.datasets.events import load_events
from neurocompile.errors import DataError

pytest.importorskip("tonic", reason="tonic is not installed")

Write = Callable[[Path, NDArray[Any]], None]
Recording = Callable[..., NDArray[Any]]
Few = Callable[[str, int, int], None]


@pytest.fixture
def nmnist(tmp_path: Path, write_bin: Write, recording: Recording, few_recordings: Few) -> Path:
    """Four recordings to train on, two to test, of the digits 3 and 7."""
    few_recordings("nmnist", 4, 2)
    for number in range(4):
        path = tmp_path / f"NMNIST/Train/{(3, 7)[number % 2]}/{number:05}.bin"
        write_bin(path, recording(300, 34, 34, seed=number))
    for number in range(2):
        path = tmp_path / f"NMNIST/Test/{(7, 3)[number]}/{number:05}.bin"
        write_bin(path, recording(3000, 34, 34, seed=10 + number))
    return tmp_path


def test_events_of_every_format_come_back(
    tmp_path: Path,
    recording: Recording,
    write_bin: Write,
    write_aedat4: Write,
    write_npy: Write,
) -> None:
    from neurocompile.datasets.events import SETS

    pytest.importorskip("aedat")
    events = recording(1234, 34, 34)
    for name, write in (
        ("nmnist", write_bin),
        ("cifar10dvs", write_aedat4),
        ("dvsgesture", write_npy),
    ):
        path = tmp_path / f"1{SETS[name].suffix}"
        write(path, events)

        columns = SETS[name].read(path)

        for column, values in zip("txyp", columns, strict=True):
            assert np.array_equal(values, events[column]), (name, column)


def test_cifar10dvs_is_split_by_the_number_in_the_name(
    tmp_path: Path, write_aedat4: Write, recording: Recording, few_recordings: Few
) -> None:
    pytest.importorskip("aedat")
    few_recordings("cifar10dvs", 4, 2)
    for name in ("frog", "airplane"):
        for number in (900, 7, 899):
            write_aedat4(
                tmp_path / f"CIFAR10DVS/{name}/cifar10_{name}_{number}.aedat4",
                recording(number, 128, 128, seed=number),
            )

    data = load_data_set("cifar10dvs", DataOptions(root=tmp_path, steps=3, binary=True, size=48))

    assert data.train.labels.tolist() == [0, 6, 0, 6]
    assert data.test.labels.tolist() == [0, 6]
    assert data.input_shape == (2, 48, 48)
    assert data.steps == 3
    assert data.input_range == InputRange(0, 1, 1 / 255)
    assert data.class_names[6] == "frog"
    fetched = data.train.fetch([0, 3])
    assert fetched.shape == (2, 3, 2, 48, 48)
    assert fetched[0].sum() < fetched[1].sum()  # 7 events, and 899
    assert "0 to 899 of each class" in data.facts["split"]
    assert data.facts["frames"]["split_by"] == "events"
    assert list(data.facts["versions"]) == ["tonic"]
    assert json.loads(json.dumps(data.facts))["frames"]["size"] == [48, 48]


def test_official_splits_in_the_order_of_numbers(nmnist: Path) -> None:
    data = load_data_set("nmnist", DataOptions(root=nmnist, steps=5))

    assert data.train.labels.tolist() == [3, 7, 3, 7]
    assert data.test.labels.tolist() == [7, 3]
    assert data.input_shape == (2, 34, 34)
    assert data.train.fetch(range(4)).shape == (4, 5, 2, 34, 34)
    assert data.train.fetch([2]).sum() == 300


def test_the_range_of_counts_is_that_of_the_training_split(nmnist: Path) -> None:
    options = DataOptions(root=nmnist, steps=1)
    data = load_data_set("nmnist", options)

    largest = data.train.fetch(range(4)).max()

    assert data.input_range == InputRange(0, largest, 1)
    assert data.test.fetch(range(2)).max() == largest  # ten times the events, clipped
    samples = load_samples("nmnist:test", options, count=1)
    assert isinstance(samples.inputs, np.ndarray)
    assert samples.inputs.shape == (1, 1, 2, 34, 34)


def test_gestures_are_named_by_their_file(
    tmp_path: Path, write_npy: Write, recording: Recording, few_recordings: Few
) -> None:
    few_recordings("dvsgesture", 2, 1)
    for place in ("Train/user01_led/10", "Train/user01_led/2", "Test/user24_lab/0"):
        write_npy(tmp_path / f"DVSGesture/ibmGesture{place}.npy", recording(99, 128, 128))

    data = load_data_set("dvsgesture", DataOptions(root=tmp_path, steps=2, resize="area", size=32))

    assert sorted(data.train.labels) == [2, 10]
    assert data.test.labels.tolist() == [0]
    assert data.classes == 11
    assert data.input_range.step == 1 / 16
    assert data.test.fetch([0]).sum() * 16 == pytest.approx(98)  # of 99 events, two halves


def test_missing_recordings_are_told_with_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        load_events("nmnist", DataOptions(root=tmp_path))

    text = str(raised.value)
    assert f"'nmnist' needs 60000 recordings (.bin) to train on in '{tmp_path / 'NMNIST'}'" in text
    assert "but 0 are there" in text
    assert "train.zip (md5 20959b8e626244a1b502305a9e6e2031)" in text
    assert "test.zip (md5 69ca8762b2fe404d9b9bad1103e97832)" in text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (bytes(7), "must hold 5 bytes for each event, but it has 7"),
        (bytes([40, 3, 0, 0, 0]), "must be in 34 x 34 pixels of two polarities, but 1 are not"),
    ],
)
def test_damaged_recordings_are_named(nmnist: Path, content: bytes, text: str) -> None:
    path = nmnist / "NMNIST/Train/7/00001.bin"
    path.write_bytes(content)

    with pytest.raises(DataError) as raised:
        load_data_set("nmnist", DataOptions(root=nmnist))

    assert str(path) in str(raised.value)
    assert text in str(raised.value)


def test_pickles_are_not_read_as_recordings(tmp_path: Path, few_recordings: Few) -> None:
    few_recordings("dvsgesture", 1, 1)
    path = tmp_path / "DVSGesture/ibmGestureTrain/user01_led/1.npy"
    path.parent.mkdir(parents=True)
    np.save(path, np.array([{}], dtype=object))

    with pytest.raises(DataError, match="1.npy' is not a readable recording.*allow_pickle=False"):
        load_data_set("dvsgesture", DataOptions(root=tmp_path))


def test_damaged_aedat4_files_are_named_whatever_breaks(
    tmp_path: Path, write_aedat4: Write, recording: Recording, few_recordings: Few
) -> None:
    pytest.importorskip("aedat")
    few_recordings("cifar10dvs", 1, 1)
    path = tmp_path / "CIFAR10DVS/cat/cifar10_cat_0.aedat4"
    write_aedat4(path, recording(300, 128, 128))
    content = path.read_bytes()
    draw = np.random.default_rng(0)
    failed = 0
    for number in range(120):
        damaged = bytearray(content)
        if number % 2:
            damaged = damaged[: draw.integers(len(content))]
        else:
            for place in draw.integers(0, 900, 3):
                damaged[place] = draw.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            load_data_set("cifar10dvs", DataOptions(root=tmp_path))
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017  # some damage does no harm
            failed += 1
    assert failed > 60


def test_an_empty_recording_has_frames_without_events(nmnist: Path) -> None:
    (nmnist / "NMNIST/Train/3/00000.bin").write_bytes(b"")

    data = load_data_set("nmnist", DataOptions(root=nmnist, steps=2))

    assert data.train.fetch([0]).sum() == 0
    assert data.train.fetch([1]).sum() > 0


def test_frames_for_other_options_are_not_those_of_the_cache(nmnist: Path) -> None:
    seen = {
        load_data_set("nmnist", DataOptions(root=nmnist, **options)).train.fetch([0]).tobytes()
        for options in ({}, {"steps": 5}, {"binary": True}, {"size": 17}, {"split_by": "time"})
    }

    assert len(seen) == 5


def test_real_recordings_come_through_the_file_format(
    shared_data: Path,
    tmp_path: Path,
    write_bin: Write,
    recording: Recording,
    few_recordings: Few,
) -> None:
    few_recordings("nmnist", 8, 0)
    expected = np.zeros((8, 10, 2, 34, 34))
    with np.load(shared_data / "events/nmnist_small.npz") as file:
        for index in range(8):
            start, end = file["train_offsets"][index : index + 2]
            x, y, t, p = (file[f"train_{name}"][start:end].astype(np.int64) for name in "xytp")
            events = recording(len(t), 34, 34)
            for name, values in zip("txyp", (t, x, y, p), strict=True):
                events[name] = values
            write_bin(tmp_path / f"NMNIST/Train/{file['train_label'][index]}/{index}.bin", events)
            each = len(t) // 10
            for step in range(10):
                part = slice(step * each, (step + 1) * each)
                np.add.at(expected[index, step], (p[part], y[part], x[part]), 1)

    data = load_data_set("nmnist", DataOptions(root=tmp_path))

    assert np.array_equal(data.train.fetch(range(8)), expected)
