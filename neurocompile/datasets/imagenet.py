"""
ImageNet, or any images in a folder for each class: JPEG files that are decoded when they are asked for.

    <directory>/imagenet/train/<class>/*.JPEG, <directory>/imagenet/val/<class>/*.JPEG

Samples to test, and to train on without "resized-crop", are 224 x 224 pixels from the middle of an image
whose shorter side was resized to 256.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import (
    DataOptions,
    DataSet,
    InputRange,
    Integer,
    Split,
    SplitName,
)
from neurocompile.datasets.packages import needed, versions
from neurocompile.errors import DataError, Problem, raise_all

SHORTER_SIDE = 256
SIZE = 224
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FOLDERS = {"train": "train", "test": "val"}

Box = tuple[int, int, int, int]  # left, upper, right, lower


@dataclass(frozen=True)
class ImageFiles:
    """Images in files, as (n, 1, 3, 224, 224) bytes."""

    paths: tuple[str, ...]

    def read(self, indices: Integer) -> NDArray[Any]:
        return np.stack([self._decoded(index, _middle) for index in indices])

    def read_crop(self, index: int, choose: Callable[[int, int], Box]) -> NDArray[Any]:
        """Return the part of an image, (1, 3, 224, 224), that `choose` takes from its height and width."""

        def cut(image: Any) -> Any:
            width, height = image.size
            part = image.crop(choose(height, width))
            return part.resize((SIZE, SIZE), resample=_bilinear())

        return self._decoded(index, cut)

    def _decoded(self, index: int, cut: Callable[[Any], Any]) -> NDArray[Any]:
        from PIL import Image

        path = self.paths[index]
        try:
            with Image.open(path) as image:
                pixels = np.asarray(cut(image.convert("RGB")))
        except Exception as error:  # Pillow's decoders fail in many ways
            raise DataError(
                Problem("", f"'{path}' is not a readable image ({error})", remedy="unpack it again")
            ) from error
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))[np.newaxis]


def load_imagenet(name: str, options: DataOptions) -> DataSet:
    """
    Return the images of a directory, those in "val" to test.

    They are in the order of their files' names, so that the first ones are of many classes. Raises
    `DataError` where folders are missing, or hold other classes to test than to train on.
    """
    vision = needed("torchvision.datasets", "images", f"the data set '{name}'")
    directory = options.directory / name
    folders = {split: directory / folder for split, folder in FOLDERS.items()}
    found = {split: _find(vision, folder) for split, folder in folders.items()}
    raise_all(
        DataError,
        [
            Problem(
                "",
                f"'{name}' needs a folder of images for each class in '{folder}'",
                str(found[split]),
                "download ILSVRC2012_img_train.tar (md5 1d675b47d978889d74fa0da5fadfb00e) and"
                " ILSVRC2012_img_val.tar (md5 29b22e2961454d5413ddabcf34fc5622) from image-net.org and"
                " unpack them so, or name another directory with NEUROCOMPILE_DATA",
            )
            for split, folder in folders.items()
            if isinstance(found[split], str)
        ],
    )
    classes = found["train"].classes
    if classes != found["test"].classes:
        differ = sorted(set(classes) ^ set(found["test"].classes))
        raise DataError(
            Problem(
                "",
                f"'{folders['train']}' and '{folders['test']}' need the same classes",
                f"{len(differ)} are in one only, as '{differ[0]}'",
            )
        )

    def open_split(split: SplitName) -> Split:
        images = sorted(found[split].samples, key=lambda sample: Path(sample[0]).name)
        labels = np.array([label for _, label in images], np.int64)
        return Split(labels, ImageFiles(tuple(path for path, _ in images)), 255)

    return DataSet(
        name=name,
        open=open_split,
        classes=len(classes),
        class_names=tuple(classes),
        input_shape=(3, SIZE, SIZE),
        input_range=InputRange(0.0, 1.0, 1 / 255),
        normalisation=(MEAN, DEVIATION),
        facts={
            "split": "folders train and val",
            "resize": f"{SHORTER_SIDE}, {SIZE} in the middle",
            "versions": versions("torchvision", "pillow"),  # which decode JPEG files differently
        },
    )


def _find(vision: Any, folder: Path) -> Any:
    """Return what torchvision finds in `folder`, or why that is nothing."""
    try:
        return vision.ImageFolder(str(folder))
    except OSError as error:
        return str(error).split("\n", 1)[0]


def _middle(image: Any) -> Any:
    """Return the middle of `image` whose shorter side is resized to 256, as torchvision's recipes do."""
    width, height = image.size
    scale = SHORTER_SIDE / min(width, height)
    size = (max(SHORTER_SIDE, int(width * scale)), max(SHORTER_SIDE, int(height * scale)))
    left, upper = round((size[0] - SIZE) / 2), round((size[1] - SIZE) / 2)
    resized = image.resize(size, resample=_bilinear())
    return resized.crop((left, upper, left + SIZE, upper + SIZE))


def _bilinear() -> Any:
    from PIL import Image

    return Image.Resampling.BILINEAR
