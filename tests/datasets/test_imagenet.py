"""Folders of images: which files, how they are cut, and what is wrong with them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurocompile.data import DataOptions, load_data_set
from neurocompile.datasets.imagenet import ImageFiles
from neurocompile.errors import DataError


def write(path: Path, width: int, height: int) -> None:
    from PIL import Image

    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns * 255 / width, rows * 255 / height, np.full_like(rows, 40)], 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, "PNG")


def test_images_are_cut_as_torchvision_cuts_them(vision: Any, tmp_path: Path) -> None:
    from PIL import Image

    del vision
    transforms = import_module("torchvision.transforms")
    recipe = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    for name, size in (("wide", (500, 301)), ("high", (240, 777)), ("square", (256, 256))):
        write(tmp_path / name, *size)

        (image,) = ImageFiles((str(tmp_path / name),)).read(np.array([0]))

        with Image.open(tmp_path / name) as opened:
            expected = np.asarray(recipe(opened)).transpose(2, 0, 1)
        assert image.shape == (1, 3, 224, 224)
        assert np.array_equal(image[0], expected)


def test_the_first_samples_are_of_many_classes(vision: Any, tmp_path: Path) -> None:
    del vision
    for split in ("train", "val"):
        for number, name in enumerate(("n01", "n02", "n01", "n02")):
            write(tmp_path / f"imagenet/{split}/{name}/image_{number}.png", 30, 30)

    data = load_data_set("imagenet", DataOptions(root=tmp_path))

    assert data.test.labels.tolist() == [0, 1, 0, 1]
    assert data.classes == 2
    assert data.class_names == ("n01", "n02")
    assert data.test.fetch([1, 2]).shape == (2, 1, 3, 224, 224)
    assert data.test.fetch([0]).max() <= 1


def test_missing_folders_are_named_with_what_to_download(vision: Any, tmp_path: Path) -> None:
    del vision
    write(tmp_path / "imagenet/train/n01/1.png", 30, 30)

    with pytest.raises(DataError) as raised:
        load_data_set("imagenet", DataOptions(root=tmp_path))

    text = str(raised.value)
    assert f"a folder of images for each class in '{tmp_path / 'imagenet/val'}'" in text
    assert "imagenet/train" not in text
    assert "ILSVRC2012_img_val.tar" in text


def test_other_classes_to_test_are_refused(vision: Any, tmp_path: Path) -> None:
    del vision
    write(tmp_path / "imagenet/train/n01/1.png", 30, 30)
    write(tmp_path / "imagenet/val/n02/1.png", 30, 30)

    with pytest.raises(DataError, match="need the same classes, but 2 are in one only, as 'n01'"):
        load_data_set("imagenet", DataOptions(root=tmp_path))


def test_a_damaged_image_is_named(vision: Any, tmp_path: Path) -> None:
    del vision
    for split in ("train", "val"):
        write(tmp_path / f"imagenet/{split}/n01/1.png", 30, 30)
    path = tmp_path / "imagenet/val/n01/1.png"
    path.write_bytes(path.read_bytes()[:60])
    data = load_data_set("imagenet", DataOptions(root=tmp_path))

    with pytest.raises(DataError, match="n01/1.png' is not a readable image"):
        data.test.fetch([0])
