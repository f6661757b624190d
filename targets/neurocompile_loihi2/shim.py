"""
Make lava-nc 0.10.0 import and compute on Python 3.11 and newer, without touching its files.

Two things stand in the way, neither of which changes a number:

  - `lava.magma.compiler.var_model` uses instances as dataclass defaults, which Python 3.11 refuses
    unless their class is hashable. While that module is imported, `dataclass` makes classes hashable.
  - two reshape ports call `numpy.reshape(newshape=...)`, which numpy 2.4 no longer knows.

On Python 3.10 with numpy 1.26, the vendor's own configuration, nothing is changed at all.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import sys
from typing import Any
from unittest import mock

import numpy as np


def install() -> tuple[str, ...]:
    """Import Lava's core; return what had to be changed for that (nothing on Python 3.10)."""
    changes: list[str] = []
    if sys.version_info >= (3, 11):
        hashable = functools.partial(_dataclass, dataclasses.dataclass)
        with mock.patch.object(dataclasses, "dataclass", hashable):
            importlib.import_module("lava.magma.compiler.var_model")
        changes.append("dataclass defaults of var_model are hashable")
    if "newshape" not in inspect.signature(np.reshape).parameters:
        ports = importlib.import_module("lava.magma.core.process.ports.ports")
        ports.ReshapePort.get_transform_func_fwd = _forward
        ports.ReshapePort.get_transform_func_bwd = _backward
        changes.append("reshape ports name numpy's argument 'shape'")
    return tuple(changes)


def _dataclass(original: Any, cls: Any = None, **options: Any) -> Any:
    return original(cls, **{"unsafe_hash": True, **options})


def _forward(port: Any) -> Any:
    return functools.partial(np.reshape, shape=port.shape)


def _backward(port: Any) -> Any:
    return functools.partial(np.reshape, shape=port.old_shape)
