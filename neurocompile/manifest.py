"""
The manifest of a program directory, `program.json`: written for people, and read back with distrust.

An integer network becomes plain values here, and its arrays the tensors that they name; a manifest
carries a checksum of itself and of every other file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import Problem, ProgramFormatError, raise_all
from neurocompile.integer import (
    LOIHI2,
    Arithmetic,
    Geometry,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerRelay,
    IntegerSynapses,
)
from neurocompile.limits import WIDTHS

FORMAT = "neurocompile program"
VERSION = 4
MANIFEST = "program.json"

REAL = ("scale", "origin")
NUMBER_OR_ARRAY = ("du", "dv", "threshold", "start", "pulse", "subtracts", "floor", *REAL)
"""Fields of neurons that are one number, or one per neuron; all but `REAL` are integers."""


def seal(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """Return the text of `manifest` with its own checksum and those of `files`."""
    sealed: dict[str, Any] = {"format": FORMAT, "version": VERSION, **manifest}
    sealed["checksums"] = {
        name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())
    }
    sealed["checksum"] = _checksum_of(sealed)
    return json.dumps(sealed, indent=2) + "\n"


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest in directory `path`; raises `ProgramFormatError` unless it is whole."""
    file = path / MANIFEST
    if not file.is_file():
        raise ProgramFormatError(
            Problem(
                "",
                f"'{path}' is not a program directory: it has no {MANIFEST}"
                if path.exists()
                else f"there is no '{path}'",
                remedy="make one with 'neurocompile export'",
            )
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ProgramFormatError(Problem("", f"'{file}' is damaged ({error})")) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ProgramFormatError(Problem("", f"'{file}' is not a manifest of neurocompile"))
    if manifest.get("version") != VERSION:
        raise ProgramFormatError(
            Problem(
                "",
                f"'{file}' must be of version {VERSION}",
                f"it is {manifest.get('version')!r}",
                "export it again",
            )
        )
    if manifest.get("checksum") != _checksum_of(manifest):
        raise ProgramFormatError(
            Problem(
                "",
                f"'{file}' was changed after it was written",
                "its checksum differs",
                "export it again",
            )
        )
    return manifest


def read_files(path: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the contents of all listed files, or raise with every file that is missing or changed."""
    problems: list[Problem] = []
    files: dict[str, bytes] = {}
    listed = manifest.get("checksums")
    if not isinstance(listed, dict):
        raise ProgramFormatError(Problem("", f"'{path / MANIFEST}' lists no checksums"))
    for name, checksum in listed.items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            problems.append(
                Problem("", f"'{path}' needs the file '{name}'", "it is missing", "export it again")
            )
            continue
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != checksum:
            problems.append(
                Problem(
                    "",
                    f"'{file}' was changed or cut short",
                    "its checksum differs",
                    "export it again",
                )
            )
        files[name] = content
    raise_all(ProgramFormatError, problems)
    return files


def describe_network(network: IntegerNetwork) -> dict[str, Any]:
    """Return `network` as plain values; its arrays are described by shape and type."""
    arithmetics = {neurons.arithmetic for neurons in network.neurons} or {LOIHI2}
    if len(arithmetics) > 1:
        raise AssertionError("all neurons of a network compute alike")
    return {
        "arithmetic": asdict(arithmetics.pop()),
        "populations": [_describe_population(item) for item in network.populations],
        "synapses": [_describe_synapses(group) for group in network.synapses],
        "outputs": dict(network.outputs),
    }


def network_of(manifest: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> IntegerNetwork:
    """Return the network that `describe_network` described, with its arrays."""
    arithmetic = _arithmetic(manifest["arithmetic"])
    return IntegerNetwork(
        tuple(_population(entry, tensors, arithmetic) for entry in manifest["populations"]),
        tuple(_synapses(entry, tensors) for entry in manifest["synapses"]),
        {str(name): str(shown) for name, shown in manifest["outputs"].items()},
    )


def expected_tensors(manifest: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and type of every array that a manifest names."""
    return {
        key: (tuple(int(extent) for extent in entry["shape"]), str(entry["dtype"]))
        for key, entry in _described_tensors(manifest)
    }


def _checksum_of(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _smallest_type(values: NDArray[Any]) -> np.dtype[Any]:
    """Return the narrowest type that holds `values`; real numbers keep theirs."""
    if values.dtype.kind == "f":
        return values.dtype
    least, most = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for dtype in (np.int8, np.int16, np.int32):
        information = np.iinfo(dtype)
        if information.min <= least and most <= information.max:
            return np.dtype(dtype)
    return values.dtype


def tensors_of(network: IntegerNetwork) -> dict[str, NDArray[Any]]:
    """Return the arrays of `network` by name, each in the smallest type that holds it."""
    tensors = {f"bias/{neurons.name}": neurons.bias_mantissa for neurons in network.neurons}
    tensors |= {
        f"{field}/{neurons.name}": getattr(neurons, field)
        for neurons in network.neurons
        for field in NUMBER_OR_ARRAY
        if getattr(neurons, field).ndim
    }
    tensors |= {f"weight/{group.name}": group.weight for group in network.synapses}
    tensors |= {f"delay/{group.name}": group.delay for group in network.synapses}
    return {
        name: values.astype(_smallest_type(values), copy=False) for name, values in tensors.items()
    }


def _tensor_entry(values: NDArray[Any]) -> dict[str, Any]:
    return {"shape": list(values.shape), "dtype": str(_smallest_type(values))}


def _number_or_tensor(values: NDArray[Any]) -> Any:
    return _tensor_entry(values) if values.ndim else values.item()


def _described_tensors(manifest: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for entry in manifest["populations"]:
        if entry["kind"] not in ("input", "relay"):
            yield f"bias/{entry['name']}", entry["bias_mantissa"]
            for field in NUMBER_OR_ARRAY:
                if isinstance(entry[field], Mapping):
                    yield f"{field}/{entry['name']}", entry[field]
    for entry in manifest["synapses"]:
        yield f"weight/{entry['name']}", entry["weight"]
        yield f"delay/{entry['name']}", entry["delay"]


def _describe_population(population: IntegerPopulation) -> dict[str, Any]:
    if isinstance(population, IntegerInput):
        return {"kind": "input", **asdict(population), "shape": list(population.shape)}
    if isinstance(population, IntegerRelay):
        return {"kind": "relay", **asdict(population), "shape": list(population.shape)}
    return {
        "kind": "readout" if population.readout else "spiking",
        "name": population.name,
        "shape": list(population.shape),
        **{field: _number_or_tensor(getattr(population, field)) for field in NUMBER_OR_ARRAY},
        "reset": population.reset,
        "inclusive": population.inclusive,
        "most": population.most,
        "refractory": population.refractory,
        "saturates": population.saturates,
        "bias_mantissa": _tensor_entry(population.bias_mantissa),
        "bias_exponent": population.bias_exponent,
        "shows": population.shows,
    }


def _arithmetic(entry: Mapping[str, Any]) -> Arithmetic:
    odd = {field.name for field in fields(Arithmetic)} ^ set(entry)
    if odd:
        raise ValueError(f"the arithmetic lacks or adds {', '.join(sorted(odd))}")
    widths = ("fraction_bits", "decay_bits", "current_bits", "membrane_bits")
    for name in widths:
        least, most = WIDTHS[name]
        if not least <= _whole(entry[name]) <= most:
            raise ValueError(f"'{name}' is {entry[name]}")
    overflow = ("wrap", "saturate")
    return Arithmetic(
        **{name: entry[name] for name in widths},
        rounding=_one_of(entry["rounding"], ("zero", "down", "nearest")),
        current_overflow=_one_of(entry["current_overflow"], overflow),
        membrane_overflow=_one_of(entry["membrane_overflow"], overflow),
    )


def _population(
    entry: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], arithmetic: Arithmetic
) -> IntegerPopulation:
    shape = tuple(int(extent) for extent in entry["shape"])
    name = str(entry["name"])
    if entry["kind"] == "input":
        return IntegerInput(
            name,
            shape,
            float(entry["scale"]),
            int(entry["minimum"]),
            int(entry["maximum"]),
            bool(entry["exact"]),
        )
    if entry["kind"] == "relay":
        return IntegerRelay(name, shape, int(entry["largest"]))
    fields: dict[str, NDArray[Any]] = {}
    for field in NUMBER_OR_ARRAY:
        stored = entry[field]
        values = np.asarray(tensors[f"{field}/{name}"] if isinstance(stored, Mapping) else stored)
        kinds, dtype = ("if", np.float64) if field in REAL else ("i", np.int64)
        if values.dtype.kind not in kinds or not np.isfinite(values).all():
            raise ValueError(f"'{field}' of '{name}' holds {values.dtype}")
        fields[field] = values.astype(dtype)
    fields["bias_mantissa"] = _integers(tensors, f"bias/{name}")
    for values in fields.values():
        np.broadcast_to(values, shape)
    return IntegerNeurons(
        name,
        shape,
        **fields,
        bias_exponent=int(entry["bias_exponent"]),
        arithmetic=arithmetic,
        shows=_one_of(entry["shows"], ("spikes", "input", "membrane")),
        reset=_one_of(entry["reset"], ("zero", "subtract")),
        inclusive=bool(_one_of(entry["inclusive"], (False, True))),
        most=_whole(entry["most"]),
        refractory=_whole(entry["refractory"]),
        saturates=bool(_one_of(entry["saturates"], (False, True))),
    )


def _integers(tensors: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """Return a tensor as it is stored, which must be in integers; what it is for widens it."""
    values = tensors[name]
    if values.dtype.kind != "i":
        raise ValueError(f"'{name}' holds {values.dtype}")
    return values


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no integer")
    return value


def _one_of(value: Any, known: tuple[Any, ...]) -> Any:
    if value not in known:
        raise ValueError(f"{value!r} is none of {known}")
    return value


def _describe_synapses(group: IntegerSynapses) -> dict[str, Any]:
    return {
        "name": group.name,
        "source": group.source,
        "target": group.target,
        "kind": "dense" if group.geometry is None else "convolution",
        "weight": _tensor_entry(group.weight),
        "geometry": None if group.geometry is None else asdict(group.geometry),
        "exponent": group.exponent,
        "delay": _tensor_entry(group.delay),
        "computed_by": "host" if group.on_host else "chip",
        "source_view": list(group.source_view),
        "target_view": list(group.target_view),
    }


def _synapses(entry: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> IntegerSynapses:
    geometry = entry["geometry"]
    return IntegerSynapses(
        str(entry["name"]),
        str(entry["source"]),
        str(entry["target"]),
        _integers(tensors, f"weight/{entry['name']}"),
        None
        if geometry is None
        else Geometry(**{key: _tuple_or_int(value) for key, value in geometry.items()}),
        exponent=int(entry["exponent"]),
        delay=_integers(tensors, f"delay/{entry['name']}"),
        on_host=entry["computed_by"] == "host",
        source_view=tuple(int(extent) for extent in entry["source_view"]),
        target_view=tuple(int(extent) for extent in entry["target_view"]),
    )


def _tuple_or_int(value: Any) -> Any:
    return tuple(int(item) for item in value) if isinstance(value, list) else int(value)
