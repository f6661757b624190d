"""
Read a `.net` file of lava-dl into plain values.

`.net` is HDF5: a group `layer` with the layers "0" to "n-1", each a group of datasets, and perhaps a
group `simulation`. Texts are scalars or arrays of one element, and so are most numbers. `LayerFields` is
how the values of a layer are asked for: what is missing or no integer becomes a problem, and None.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import NetxFormatError, Problem, UnsupportedError, raise_all
from neurocompile.frontend.read_hdf5 import Dialect, read_hdf5

NETX = Dialect(".net file", NetxFormatError)
LARGEST_INTEGER = 1 << 31  # of anything in a file; no chip has wider numbers

Integers = NDArray[np.int64]
Found = tuple[type[NetxFormatError | UnsupportedError], Problem]


@dataclass(frozen=True)
class NetxFile:
    """The values of a `.net` file: its layers in order, and what it says of its simulation."""

    layers: tuple[Mapping[str, Any], ...]
    simulation: Mapping[str, Any]


def read_netx(path: Path) -> NetxFile:
    """Return the contents of the `.net` file at `path`; every failure is a `NetxFormatError`."""
    entries = read_hdf5(path, ("layer", "simulation"), NETX)
    layers = entries.get("layer")
    if not isinstance(layers, Mapping) or not layers:
        raise NetxFormatError(
            Problem("", f"'{path}' is an HDF5 file, but not a .net network: it has no layers")
        )
    raise_all(NetxFormatError, _problems_of_numbers(layers))
    simulation = entries.get("simulation")
    return NetxFile(
        tuple(layers[str(number)] for number in range(len(layers))),
        simulation if isinstance(simulation, Mapping) else {},
    )


def _problems_of_numbers(layers: Mapping[str, Any]) -> Iterable[Problem]:
    expected = [str(number) for number in range(len(layers))]
    missing = [name for name in expected if name not in layers]
    if missing:
        others = sorted(set(layers) - set(expected))
        yield Problem(
            "",
            f"needs its {len(layers)} layers to be called 0 to {len(layers) - 1}",
            f"there are {', '.join(others[:8])}",
        )
    for name in expected:
        if name in layers and not isinstance(layers[name], Mapping):
            yield Problem(name, "must be a group of datasets", "it is a dataset")


class LayerFields:
    """The fields of a layer, or of its neurons, by name; `found` collects what is wrong with them."""

    def __init__(self, name: str, values: Mapping[str, Any], found: list[Found]) -> None:
        self.name = name
        self.values = values
        self.found = found

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def damaged(self, need: str, have: str = "", remedy: str = "") -> None:
        """Note that the layer contradicts itself or the format."""
        self.found.append((NetxFormatError, Problem(self.name, need, have, remedy)))

    def unsupported(self, need: str, have: str = "", remedy: str = "") -> None:
        """Note that the layer is legal, and cannot be compiled."""
        self.found.append((UnsupportedError, Problem(self.name, need, have, remedy)))

    def text(self, key: str) -> str | None:
        """Return a text, or None; a missing one is a problem."""
        value = self.values.get(key)
        if isinstance(value, np.ndarray) and value.dtype.kind == "U" and value.size == 1:
            value = str(value.ravel()[0])
        if not isinstance(value, str):
            self.damaged(f"needs a text in '{key}'", "there is none")
            return None
        return value

    def integers(
        self, key: str, *, axes: Collection[int] = (), least: int = -LARGEST_INTEGER
    ) -> Integers | None:
        """
        Return the integers under `key`, or None where there is a problem.

        They may be stored as floats, must be at least `least`, and have one of the numbers of `axes`, if
        some are given.
        """
        value = self.values.get(key)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or not value.size:
            self.damaged(f"needs integers in '{key}'", "there are none")
            return None
        if axes and value.ndim not in axes:
            wanted = " or ".join(str(number) for number in axes)
            self.damaged(f"needs '{key}' with {wanted} axes", f"it has the shape {value.shape}")
            return None
        with np.errstate(invalid="ignore"):  # numpy warns of signalling NaNs, which are told below
            real = value.astype(np.float64)
        wrong = ~np.isfinite(real) | (real != np.rint(np.nan_to_num(real)))
        if wrong.any():
            self.damaged(
                f"needs integers in '{key}'",
                f"{int(wrong.sum())} of {value.size} are not, {real[wrong].flat[0]:g} is the first",
                "quantise the network when it is exported",
            )
            return None
        if real.min() < least or np.abs(real).max() > LARGEST_INTEGER:
            extreme = real.min() if real.min() < least else real.flat[int(np.abs(real).argmax())]
            self.damaged(f"needs integers from {least} in '{key}'", f"one is {extreme:g}")
            return None
        return real.astype(np.int64)

    def sizes(
        self, key: str, count: int, *, least: int, default: int | None = None
    ) -> tuple[int, ...] | None:
        """Return `count` integers, of which the file may give one for all; None for a problem."""
        if key not in self.values and default is not None:
            return (default,) * count
        values = self.integers(key, least=least)
        if values is None:
            return None
        flat = np.repeat(values.ravel(), count) if values.size == 1 else values.ravel()
        if flat.size != count:
            self.damaged(f"needs {count} integers in '{key}'", f"there are {flat.size}")
            return None
        return tuple(int(value) for value in flat)

    def integer(self, key: str, *, least: int = -LARGEST_INTEGER, default: int) -> int | None:
        """Return one integer, `default` if the file has none; None for a problem."""
        value = self.sizes(key, 1, least=least, default=default)
        return None if value is None else value[0]
