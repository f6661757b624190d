"""CIFAR-10 and CIFAR-100, which torchvision reads; pixels stay what they are, 0 to 255 divided by 255."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from neurocompile.data import DataOptions, DataSet, InputRange, Split, SplitName, Stored
from neurocompile.datasets.packages import needed, versions
from neurocompile.errors import DataError, Problem

CLASSES = {"cifar10": 10, "cifar100": 100}
READERS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
NORMALISATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}


def load_cifar(name: str, options: DataOptions) -> DataSet:
    """
    Return "cifar10" or "cifar100" with its official splits, 50,000 and 10,000 images of 3x32x32.

    Raises `DataError` for files that are missing or not the published ones.
    """
    vision = needed("torchvision.datasets", "images", f"the data set '{name}'")
    reader = getattr(vision, READERS[name])
    directory = options.directory / reader.base_folder

    # The files are pickles. torchvision compares them with their published MD5 sums before it reads
    # them, so that they are what their authors packed; nothing else here reads pickles.
    @cache
    def read(split: SplitName) -> Any:
        try:
            return reader(str(options.directory), train=split == "train", download=False)
        except (RuntimeError, OSError) as error:
            raise DataError(
                Problem(
                    "",
                    f"'{name}' needs its files in '{directory}'",
                    "they are missing, or not those that were published",
                    f"unpack {reader.filename} (md5 {reader.tgz_md5}) from {reader.url} in"
                    f" '{options.directory}', or name another directory with NEUROCOMPILE_DATA",
                )
            ) from error

    def open_split(split: SplitName) -> Split:
        found = read(split)
        images = np.ascontiguousarray(found.data.transpose(0, 3, 1, 2))[:, np.newaxis]
        return Split(np.array(found.targets, np.int64), Stored(images), 255)

    return DataSet(
        name=name,
        open=open_split,
        classes=CLASSES[name],
        class_names=tuple(read("test").classes),
        input_shape=(3, 32, 32),
        input_range=InputRange(0.0, 1.0, 1 / 255),
        normalisation=NORMALISATION[name],
        facts={"split": "official", "versions": versions("torchvision")},
    )
