"""CIFAR-10 and CIFAR-100 from files in their format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurocompile.data import DataOptions, InputRange, load_data_set, load_samples
from neurocompile.datasets import packages
from neurocompile.errors import DataError, MissingDependencyError


@pytest.mark.parametrize(("name", "reader"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_pixels_and_labels_are_those_of_the_files(
    tmp_path: Path, write_cifar: Callable[..., None], name: str, reader: str
) -> None:
    draw = np.random.default_rng(0)
    images = {
        split: draw.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        for split, count in (("train", 20), ("test", 6))
    }
    labels = {split: draw.integers(0, 10, len(found)).tolist() for split, found in images.items()}
    classes = [f"class {number}" for number in range(10)]
    write_cifar(reader, tmp_path, images, labels, classes)

    data = load_data_set(name, DataOptions(root=tmp_path))

    assert data.input_shape == (3, 32, 32)
    assert data.steps == 1
    assert data.input_range == InputRange(0, 1, 1 / 255)
    assert data.class_names == tuple(classes)
    assert data.normalisation is not None
    assert [len(part) for part in data.normalisation] == [3, 3]
    for split in ("train", "test"):
        opened = data.open(split)
        assert opened.labels.tolist() == labels[split]
        fetched = opened.fetch([4, 1])
        assert fetched.dtype == np.float32
        assert fetched.shape == (2, 1, 3, 32, 32)
        assert np.array_equal(np.rint(fetched[:, 0] * 255), images[split][[4, 1]])


def test_verify_reads_as_many_samples_as_it_is_asked_for(
    tmp_path: Path, write_cifar: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {split: np.full((9, 3, 32, 32), 51, np.uint8) for split in ("train", "test")}
    labels = {split: list(range(9)) for split in images}
    write_cifar("CIFAR10", tmp_path, images, labels, list("abcdefghij"))
    monkeypatch.setenv("NEUROCOMPILE_DATA", str(tmp_path))

    samples = load_samples("cifar10:test", count=4)

    assert isinstance(samples.inputs, np.ndarray)
    assert samples.inputs.shape == (4, 1, 3, 32, 32)
    assert samples.inputs[0, 0, 0, 0, 0] == np.float32(51) / np.float32(255)
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2, 3]


def test_missing_files_are_named_with_what_to_download(vision: Any, tmp_path: Path) -> None:
    del vision

    with pytest.raises(DataError) as raised:
        load_data_set("cifar100", DataOptions(root=tmp_path))

    text = str(raised.value)
    assert f"'cifar100' needs its files in '{tmp_path / 'cifar-100-python'}'" in text
    assert "cifar-100-python.tar.gz (md5 eb9058c3a382ffc7106e4002c42a8d85)" in text
    assert "https://www.cs.toronto.edu" in text


def test_a_changed_pickle_is_not_read(tmp_path: Path, write_cifar: Callable[..., None]) -> None:
    images = {split: np.zeros((6, 3, 32, 32), np.uint8) for split in ("train", "test")}
    labels = {split: [0] * 6 for split in images}
    write_cifar("CIFAR10", tmp_path, images, labels, list("abcdefghij"))
    path = tmp_path / "cifar-10-batches-py/test_batch"
    path.write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR." + path.read_bytes())

    with pytest.raises(DataError, match="they are missing, or not those that were published"):
        load_data_set("cifar10", DataOptions(root=tmp_path))


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: str) -> None:
        raise ImportError(f"No module named '{module}'")

    monkeypatch.setattr(packages, "import_module", fail)

    with pytest.raises(MissingDependencyError) as raised:
        load_data_set("cifar10")

    assert "the data set 'cifar10' needs torchvision" in str(raised.value)
    assert "pip install 'neurocompile[images]'" in str(raised.value)


def test_a_torchvision_that_does_not_fit_pytorch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: str) -> None:
        del module
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(packages, "import_module", fail)

    with pytest.raises(MissingDependencyError, match="install torch and torchvision from the same"):
        load_data_set("imagenet")


def test_real_images_go_through_the_pickles_unchanged(
    shared_data: Path, tmp_path: Path, write_cifar: Callable[..., None]
) -> None:
    with np.load(shared_data / "images/cifar10_jpeg.npz") as file:
        images = {
            split: file[f"x_{split}"][:20].transpose(0, 3, 1, 2) for split in ("train", "test")
        }
        labels = {split: file[f"y_{split}"][:20].tolist() for split in images}
    write_cifar("CIFAR10", tmp_path, images, labels, list("abcdefghij"))

    data = load_data_set("cifar10", DataOptions(root=tmp_path))

    assert np.array_equal(np.rint(data.test.fetch(range(20))[:, 0] * 255), images["test"])
    assert data.normalisation is not None
    mean = data.train.fetch(range(20)).mean((0, 1, 3, 4))
    np.testing.assert_allclose(mean, data.normalisation[0], atol=0.1)
