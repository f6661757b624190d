"""What is in a golden, in NIR data, in a run of `train` and in a checkpoint file, as far as it is cheap."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neurocompile.errors import CheckpointError, FormatError, Problem, raise_all
from neurocompile.frontend.read_hdf5 import Dialect, read_hdf5
from neurocompile.inspection import Found, described
from neurocompile.verification.golden_file import MANIFEST, read_arrays, read_golden

NIRDATA = Dialect("NIR data file", FormatError)
MOST_JSON_BYTES = 64 << 20
SETTINGS = ("preset", "data", "timesteps", "epochs", "seed", "weight_bits")
KINDS_OF_DATA = {"data": "TimeGriddedData", "value": "ValuedEventData", "idx": "EventData"}


def inspect_golden(path: Path) -> Found:
    """Return what a golden says, and how often its layers fire; raises for damaged ones."""
    golden = read_golden(path)
    arrays = read_arrays(path, golden)
    rates = {name: float(spikes.mean()) for name, spikes in arrays.spikes.items() if spikes.size}
    described_ = golden.described()
    said = {key: value for key, value in described_.items() if key not in ("schema", "format")}
    return Found(
        {"golden_schema": described_["schema"], **said, "rates": rates},
        checked=frozenset(file.name for file in path.iterdir())
        & {MANIFEST, "golden.npz", "nirdata.h5"},
    )


def inspect_nirdata(path: Path) -> Found:
    """Return the observables of a file of NIR's data format; raises `FormatError` where it is none."""
    nodes = read_hdf5(path, ("nodes",), NIRDATA).get("nodes")
    if not isinstance(nodes, Mapping):
        raise FormatError(
            Problem("", f"'{path}' is an HDF5 file, but not NIR data: it has no nodes")
        )
    return Found({"observables": list(_observables("", nodes))})


def _observables(prefix: str, nodes: Mapping[str, Any]) -> Any:
    for name, node in nodes.items():
        values = node if isinstance(node, Mapping) else {}
        inner, own = values.get("nodes"), values.get("observables")
        if isinstance(inner, Mapping):
            yield from _observables(f"{prefix}{name}.", inner)
        for observable, fields in own.items() if isinstance(own, Mapping) else ():
            arrays = fields if isinstance(fields, Mapping) else {}
            key = next((key for key in KINDS_OF_DATA if key in arrays), "")
            values_of = arrays.get("idx" if key == "value" else key)
            yield {
                "node": f"{prefix}{name}",
                "name": observable,
                "kind": KINDS_OF_DATA.get(key),
                **(described(values_of) if isinstance(values_of, np.ndarray) else {}),
            }


def inspect_run(path: Path) -> Found:
    """Return what a run of `train` was, from its JSON files; raises `CheckpointError` with all damaged ones."""
    problems: list[Problem] = []
    settings = _json(path / "settings.json", problems)
    metrics = _json(path / "metrics.json", problems)
    raise_all(CheckpointError, problems)
    return Found(
        {
            "settings": {name: settings[name] for name in SETTINGS if name in settings},
            "network": settings.get("network"),
            "neuron": settings.get("neuron"),
            "finished": bool(metrics),
            "test_accuracy": metrics.get("test_accuracy"),
            "accuracy_per_moment": metrics.get("accuracy_per_moment"),
            "checkpoints": sorted(file.name for file in path.glob("*.ckpt")),
        }
    )


def _json(path: Path, problems: list[Problem]) -> Mapping[str, Any]:
    """Return an object from a JSON file, {} where there is no file, or a problem."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MOST_JSON_BYTES:
        problems.append(Problem("", f"'{path}' is larger than {MOST_JSON_BYTES} bytes"))
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        problems.append(Problem("", f"'{path}' is damaged ({error})"))
        return {}
    if not isinstance(values, dict):
        problems.append(Problem("", f"'{path}' must be an object", "it is something else"))
        return {}
    return values


def inspect_checkpoint(path: Path) -> Found:
    """
    Return the number and size of a checkpoint's tensors; its objects are not loaded.

    Raises `CheckpointError` for what is no checkpoint of PyTorch, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = sum(entry.file_size for entry in entries) > path.stat().st_size
            damaged = None if packed else archive.testzip()
    except Exception as error:  # damaged archives fail in zlib, struct, codecs and elsewhere
        raise CheckpointError(
            Problem("", f"'{path}' is not a checkpoint of PyTorch ({error})")
        ) from error
    if packed:  # a bomb; PyTorch compresses nothing
        raise CheckpointError(
            Problem("", f"'{path}' is not a checkpoint of PyTorch: it is compressed")
        )
    if damaged is not None:
        raise CheckpointError(Problem("", f"'{path}' is damaged", f"'{damaged}' is not whole"))
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        raise CheckpointError(Problem("", f"'{path}' is not a checkpoint of PyTorch"))
    tensors = [entry.file_size for entry in entries if "/data/" in entry.filename]
    return Found({"tensors": len(tensors), "tensor_bytes": sum(tensors)})
