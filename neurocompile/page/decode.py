"""
Dataclasses from JSON that strangers wrote: types, sizes and ranges are checked, and the key is told.

What a dataclass declares is what is accepted: `int`, `float`, `str`, `bool`, literals, unions with None,
tuples, mappings from text, other dataclasses, `Share`, and `Any` (bounded plain values). Keys that nobody
declared are ignored: a newer version may write them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from neurocompile.errors import FormatError, Problem
from neurocompile.page.markup import clean
from neurocompile.statistics import Share

MOST_ITEMS = 200_000  # of one list or mapping
LONGEST_STRING = 20_000  # characters
LONGEST_KEY = 60  # characters of a key in a message
DEEPEST = 24  # lists and mappings within each other
LARGEST_INTEGER = 1 << 63

T = TypeVar("T")


def decode(kind: type[T], value: object, where: str) -> T:
    """Return `value`, found at the key `where`, as a `kind`; raises `FormatError` that names the key."""
    result: T = _decode(kind, value, where)
    return result


def key_of(name: object) -> str:
    """Return a stranger's name as a message can hold it: short, and without what moves a cursor."""
    return clean(str(name)[:LONGEST_KEY])


def refuse(where: str, need: str, value: object) -> FormatError:
    """Return the error for a `value` at the key `where`."""
    shown = {
        NoneType: "null",
        bool: f"{value}".lower(),
        dict: "an object",
        list: "a list",
    }.get(type(value), repr(value)[:60])
    return FormatError(Problem("", f"'{where}' must be {need}", f"it is {shown}"))


def _decode(kind: Any, value: object, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return plain_value(value, where)
    if origin in {Union, UnionType}:
        if value is None and NoneType in arguments:
            return None
        (wanted,) = (item for item in arguments if item is not NoneType)
        return _decode(wanted, value, where)
    if origin is Literal:
        if value not in arguments:
            raise refuse(where, f"one of {', '.join(map(str, arguments))}", value)
        return value
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin is not None and issubclass(origin, Mapping):
        return {
            name: _decode(arguments[1], item, f"{where}.{key_of(name)}")
            for name, item in mapping(value, where).items()
        }
    if kind is Share:
        return _decode_share(value, where)
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    return _decode_scalar(kind, value, where)


def _decode_scalar(kind: Any, value: object, where: str) -> Any:
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= LARGEST_INTEGER:
            raise refuse(where, "an integer of 64 bits", value)
        return value
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value, where)
    if kind is str and isinstance(value, str):
        return string(value, where)
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    raise refuse(where, names[kind], value)


def _decode_tuple(arguments: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    items = sequence(value, where)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_decode(arguments[0], item, f"{where}[{at}]") for at, item in enumerate(items))
    if len(items) != len(arguments):
        raise refuse(where, f"a list of {len(arguments)}", f"a list of {len(items)}")
    return tuple(
        _decode(kind, item, f"{where}[{at}]")
        for at, (kind, item) in enumerate(zip(arguments, items, strict=True))
    )


def _decode_dataclass(kind: Any, value: object, where: str) -> Any:
    given = mapping(value, where)
    hints = get_type_hints(kind)
    prefix = f"{where}." if where else ""
    found = {}
    for item in fields(kind):
        if not item.init:
            continue
        if item.name in given:
            found[item.name] = _decode(hints[item.name], given[item.name], f"{prefix}{item.name}")
        elif item.default is MISSING and item.default_factory is MISSING:
            raise FormatError(Problem("", f"'{prefix}{item.name}' is missing"))
    return kind(**found)


def _decode_share(value: object, where: str) -> Share:
    given = mapping(value, where)
    count, of = (_decode(int, given.get(name), f"{where}.{name}") for name in ("count", "of"))
    if not 0 <= count <= of:
        raise refuse(where, "a share: a count from 0 to 'of'", f"{count} of {of}")
    return Share(count, of)


def mapping(value: object, where: str) -> Mapping[str, Any]:
    """Return a bounded mapping from text."""
    if not isinstance(value, Mapping):
        raise refuse(where or "the file", "an object", value)
    if len(value) > MOST_ITEMS:
        raise refuse(where, f"an object of at most {MOST_ITEMS} keys", len(value))
    for name in value:
        string(name, f"{where} (a key)")
    return value


def sequence(value: object, where: str) -> list[Any] | tuple[Any, ...]:
    """Return a bounded list."""
    if not isinstance(value, (list, tuple)):
        raise refuse(where, "a list", value)
    if len(value) > MOST_ITEMS:
        raise refuse(where, f"a list of at most {MOST_ITEMS}", len(value))
    return value


def string(value: object, where: str) -> str:
    """Return a bounded text."""
    if not isinstance(value, str):
        raise refuse(where, "a text", value)
    if len(value) > LONGEST_STRING:
        raise refuse(where, f"a text of at most {LONGEST_STRING} characters", value)
    return value


def number(value: float, where: str) -> float:
    """Return a finite number."""
    if isinstance(value, int) and abs(value) >= LARGEST_INTEGER:
        raise refuse(where, "a number of 64 bits", value)
    if not math.isfinite(value):
        raise refuse(where, "a finite number", value)
    return float(value)


def plain_value(value: object, where: str, depth: int = 0) -> Any:
    """Return plain values of any form, bounded."""
    if depth > DEEPEST:
        raise refuse(where, f"at most {DEEPEST} levels deep", "it is deeper")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _decode_scalar(int, value, where)
    if isinstance(value, float):
        return number(value, where)
    if isinstance(value, str):
        return string(value, where)
    if isinstance(value, Mapping):
        return {
            name: plain_value(item, f"{where}.{key_of(name)}", depth + 1)
            for name, item in mapping(value, where).items()
        }
    return [
        plain_value(item, f"{where}[{at}]", depth + 1)
        for at, item in enumerate(sequence(value, where))
    ]
