"""
Write a `Network` into a NIR file that gives it back to the last bit.

`exact_fields` says what the file holds, `exact_nir` reads it. A network is written only if reading it
gives the same one, so that there is no need to believe in either.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
from numpy.typing import NDArray

from neurocompile import __version__
from neurocompile.data import InputRange
from neurocompile.errors import EquivalenceError, Problem, UnsupportedError, raise_all
from neurocompile.frontend.exact_fields import (
    DT_SECONDS,
    FIELDS,
    FRAMEWORK,
    VERSION,
    VIEW,
    file_graph,
)
from neurocompile.frontend.exact_nir import exact_network
from neurocompile.frontend.read_nir import read_nir
from neurocompile.ir import Network, Node

LARGEST_UNPACKED = 1024  # bytes of an array
PROBED = 1 << 16  # bytes of an array that tell whether it packs


def network_to_nir(network: Network, time_weights: Sequence[float] | None = None) -> bytes:
    """
    Return a NIR file from which `exact_nir.exact_network` reads `network`; the same one gives the same bytes.

    `time_weights` are those of the decision, one for each step, if the steps do not count alike. Raises
    `UnsupportedError` for names that no HDF5 file can hold, `NirFormatError` for numbers that no file
    may hold, such as extents of 0 or more steps than are read, each with all reasons, and
    `EquivalenceError` if the file would give another network.
    """
    raise_all(
        UnsupportedError,
        (
            Problem(name, "needs a name that can be written in UTF-8, without zero bytes")
            for name in network.nodes
            if "\0" in name or not _is_text(name)
        ),
    )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "graph.nir"
        with h5py.File(path, "w") as file:
            _write(file, {"version": nir.version, "node": _root(network, time_weights)})
        read = exact_network(read_nir(path))
        if read is None or not identical(network, read):
            raise EquivalenceError(
                Problem("", "the NIR file must give the same network", "it gives another")
            )
        return path.read_bytes()


def identical(first: Network, second: Network) -> bool:
    """Return whether two networks are the same to the last bit."""
    return (
        first.edges == second.edges
        and first.feedback == second.feedback
        and (first.steps, first.weight_unit) == (second.steps, second.weight_unit)
        and list(first.nodes) == list(second.nodes)
        and all(_same(node, second.nodes[name]) for name, node in first.nodes.items())
    )


def _same(first: Node, second: Node) -> bool:
    if type(first) is not type(second):
        return False
    return all(_equal(value, getattr(second, name)) for name, value in vars(first).items())


def _equal(first: Any, second: Any) -> bool:
    """Return whether two values of a field are the same; a scalar of numpy's is an array."""
    kinds = (np.ndarray, np.generic)
    if not isinstance(first, kinds) or not isinstance(second, kinds):
        return not isinstance(first, kinds) and not isinstance(second, kinds) and first == second
    return (first.dtype, first.shape) == (second.dtype, second.shape) and (
        first.tobytes() == second.tobytes()
    )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _root(network: Network, time_weights: Sequence[float] | None) -> dict[str, Any]:
    """Return the file's graph as nested dictionaries of texts and arrays."""
    graph = file_graph(network)
    exact = {key: {"kind": VIEW} for key in graph.nodes}
    for name, node in network.nodes.items():
        exact[graph.names[name]] = _exact(name, node)
    metadata: dict[str, Any] = {
        "framework": FRAMEWORK,
        "framework_version": __version__,
        "scheme": "euler",
        "dt": np.array(DT_SECONDS),
        "exact": np.array(VERSION),
        "edges": np.array(network.edges, object),
    }
    if network.feedback:
        metadata["feedback"] = np.array(sorted(network.feedback), object)
    if network.steps is not None:
        metadata["steps"] = np.array(network.steps, np.int64)
    if isinstance(network.weight_unit, Mapping):
        metadata["units_of"] = np.array(list(network.weight_unit), object)
        metadata["weight_units"] = np.array(list(network.weight_unit.values()), np.float64)
    elif network.weight_unit is not None:
        metadata["weight_unit"] = np.array(network.weight_unit, np.float64)
    if time_weights is not None:
        metadata["time_weights"] = np.array(time_weights, np.float64)
    return {
        "type": "NIRGraph",
        "nodes": {key: {**fields, "metadata": exact[key]} for key, fields in graph.nodes.items()},
        "edges": np.array(graph.edges, object),
        "metadata": metadata,
    }


def _exact(name: str, node: Node) -> dict[str, Any]:
    """Return the metadata of a node."""
    metadata: dict[str, Any] = {"kind": type(node).__name__, "name": name}
    for field_name, field in FIELDS[type(node)].items():
        value = getattr(node, field_name)
        if value is None or field.in_nir:
            continue
        if isinstance(value, InputRange):
            value = (value.minimum, value.maximum, value.step)
        if field.value != "word":
            real = field.value in ("numbers", "number", "range")
            try:
                value = np.array(value, np.float64 if real else np.int64)
            except OverflowError:
                raise UnsupportedError(
                    Problem(name, f"needs a '{field_name}' of 64 bits", f"it is {value}")
                ) from None
        metadata[field_name] = value
    return metadata


def _write(group: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _write(group.create_group(key), value)
        elif isinstance(value, str) or value.dtype == object:
            group.create_dataset(key, data=value, dtype=h5py.string_dtype())
        else:
            packed = {"compression": "gzip"} if _packs(value) else {}
            group.create_dataset(key, data=value, **packed)


def _packs(value: NDArray[Any]) -> bool:
    """Return whether gzip makes an array half as large: one for each neuron often is, weights are not."""
    if value.nbytes <= LARGEST_UNPACKED:
        return False
    first = value.ravel()[: PROBED // value.itemsize].tobytes()
    return len(zlib.compress(first, 1)) < len(first) // 2
