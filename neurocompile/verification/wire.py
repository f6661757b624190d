"""
What is counted, as bytes: to other processes, and into files that a later run goes on with.

An .npz file holds the plain values as JSON beside the arrays. Types come from the dataclass that is
read, never from the bytes, and nothing is unpickled: bytes can hold wrong numbers, but run nothing.
"""

from __future__ import annotations

import io
import json
import types
import typing
import zipfile
from collections.abc import Mapping
from dataclasses import astuple, fields, is_dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from neurocompile import errors
from neurocompile.errors import NeurocompileError, Problem
from neurocompile.tensors import npz_bytes

T = TypeVar("T")

VALUES = "values"
ARRAY = "array"  # the key under which a place names the array that belongs there
PLAIN = (str, int, float, bool)


def to_bytes(value: Any) -> bytes:
    """Return a dataclass of plain values, tuples, mappings, dataclasses and arrays as bytes."""
    arrays: dict[str, NDArray[Any]] = {}
    text = json.dumps(_plain(value, arrays))
    return npz_bytes({VALUES: np.frombuffer(text.encode(), np.uint8), **arrays})


def from_bytes(kind: type[T], content: bytes) -> T:
    """Return the `kind` that `to_bytes` made `content` of; raises `ValueError` for other bytes."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file}
        value = json.loads(arrays.pop(VALUES).tobytes())
        result: T = _typed(kind, value, arrays)
    except (KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"these bytes are no {kind.__name__} ({error!r})") from error
    return result


def _plain(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, np.ndarray):
        name = f"{ARRAY}{len(arrays)}"
        arrays[name] = np.array(value, order="C")  # equal numbers, equal bytes
        return {ARRAY: name}
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name), arrays) for item in fields(value)}
    if isinstance(value, Mapping):  # keys may be tuples, and their order counts
        return [[_plain(key, arrays), _plain(item, arrays)] for key, item in value.items()]
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple | list):
        return [_plain(item, arrays) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _typed(kind: Any, value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return `value`, as JSON has it, as the type `kind`."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (only,) = (item for item in inner if item is not type(None))
        return None if value is None else _typed(only, value, arrays)
    if origin is np.ndarray:
        return arrays[value[ARRAY]]
    if origin is tuple and inner[-1] is not Ellipsis:
        return tuple(_typed(each, item, arrays) for each, item in zip(inner, value, strict=True))
    if origin in (tuple, frozenset):
        return origin(_typed(inner[0], item, arrays) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        return {
            _typed(inner[0], key, arrays): _typed(inner[1], item, arrays) for key, item in value
        }
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(
            **{
                item.name: _typed(hints[item.name], value[item.name], arrays)
                for item in fields(kind)
            }
        )  # type: ignore[operator]
    if kind not in PLAIN or not isinstance(value, (int, float) if kind is float else kind):
        raise TypeError(f"{value!r} is no {kind}")
    return value


def tell(error: NeurocompileError) -> bytes:
    """Return `error` with all its problems as bytes."""
    problems = [astuple(problem) for problem in error.problems]
    return json.dumps([type(error).__name__, problems]).encode()


def raise_told(content: bytes) -> NoReturn:
    """Raise the error that `tell` made `content` of."""
    name, problems = json.loads(content)
    kind = getattr(errors, name)
    assert issubclass(kind, NeurocompileError)
    raise kind(*(Problem(*problem) for problem in problems))
