"""
Data sets by name: what loads each, from `DataOptions`.

    digits.py    handwritten digits that come with Python packages
    cifar.py     CIFAR-10 and CIFAR-100, through torchvision
    imagenet.py  ImageNet, or any images in a folder for each class, through torchvision
    events.py    recordings of event cameras, through tonic: files.py finds them, frames.py makes frames
                 of them, cache.py keeps those on disk
    npz.py       anyone's images or frames in an .npz file

A loader opens nothing that is not asked for, never downloads, and says what is missing. `augment.py` is
what training does to the samples of any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from neurocompile.data import DataOptions, DataSet
from neurocompile.datasets.cifar import load_cifar
from neurocompile.datasets.digits import load_digits, load_mnist5k
from neurocompile.datasets.events import load_events
from neurocompile.datasets.imagenet import load_imagenet

LOADERS: Mapping[str, Callable[[str, DataOptions], DataSet]] = {
    "digits": load_digits,
    "mnist5k": load_mnist5k,
    "cifar10": load_cifar,
    "cifar100": load_cifar,
    "imagenet": load_imagenet,
    "cifar10dvs": load_events,
    "nmnist": load_events,
    "dvsgesture": load_events,
}
