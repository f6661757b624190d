"""
Recipes by name: the papers' where they give one, with the accuracy that they published.

What a paper leaves open is decided here and named in `open_points`; nothing here says that a number was
reproduced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """The accuracy in percent that a paper reports for a recipe, and where."""

    accuracy: float
    source: str


@dataclass(frozen=True)
class Preset:
    """Settings as `TrainSettings` takes them, and what is known about them."""

    summary: str
    settings: Mapping[str, Any]
    published: tuple[Published, ...] = ()
    open_points: tuple[str, ...] = ()


# SNN-5 of the TET paper is 16C3-64C5-AP2-128C5-AP2-256C5-AP2-512C3-AP2-FC on 32x32 images; this is
# its shape on 8x8 ones: a convolution at full resolution, then convolutions that end in pools.
_DIGITS = Preset(
    summary="scikit-learn's handwritten digits, half a minute on two cores",
    settings={
        "data": "digits",
        "network": {
            "name": "convolutional",
            "stages": [
                {"channels": 16, "kernel": 3},
                {"channels": 32, "kernel": 3, "pool": 2},
                {"channels": 64, "kernel": 3, "pool": 2},
            ],
        },
        "epochs": 40,
        "learning_rate": 3e-3,
        "weight_decay": 2e-3,
    },
)

PRESETS: Mapping[str, Preset] = {"digits": _DIGITS}
