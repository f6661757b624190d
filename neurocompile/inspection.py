"""
What is in a program directory, a NIR or `.net` file, a golden, a run or a checkpoint.

Nothing is run and nothing is changed; a file is read with the distrust that reading it always takes.
`Inspection.to_json`, schema 1:

    schema, kind, path   1; "program", "nir", "netx", "golden", "nirdata", "run" or "checkpoint"
    files                of each file: name, bytes, sha256, `checked` (the manifest has its checksum)
    problems             what reading finds: layer, need, have, remedy; all of them
    damaged              whether what is there contradicts itself; a choice that is missing is no damage

and by kind

    program      target, options, format, steps, native_steps, populations, synapses, outputs, schedule,
                 resources (or why not), first_layer, quantisation, source, import, chip, versions, notes
    nir          version, metadata, nodes, edges, cycles, subgraphs, parameters, reading (how it is read
                 as it is: `readable`, and `how` or what it `needs`), readings (the same for each profile
                 that the numbers fit, where it cannot be read as it is)
    netx         layers, simulation, parameters, reading
    golden       what `golden.json` says (`verification.golden_file`)
    nirdata      observables: node, name, kind, shape
    run          settings, test_accuracy, checkpoints
    checkpoint   tensors, tensor_bytes

A population has `neurons` (how many), the ranges of its integers as [least, most] or one number, and
`proof`: the current and membrane it can reach, their limits, and the share `used` of them. A group of
synapses has `weights`, `nonzero`, `range`, `bits`, `delay` and `exponent`. A node has `type`, `shape`
(of what it gives, null where no reading tells it) and `parameters`: shape, type and range of each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import OptionError, Problem
from neurocompile.manifest import MANIFEST

SCHEMA = 1
HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
REPORT = "report.json"  # of `verify`; the command `report` makes pages of them
MOST_TEXT = 1000  # characters of a text from a file; a metadata entry may be a whole book
MOST_LISTED = 16  # numbers of an array that are told one by one
KINDS = (
    "a program directory, a .nir or .net file, a golden, NIR data, a run directory or a checkpoint"
)


@dataclass(frozen=True)
class FileFacts:
    """One file; `checked` says that a manifest has its checksum, which is right."""

    name: str
    bytes: int
    sha256: str
    checked: bool = False


@dataclass(frozen=True)
class Inspection:
    """
    What was found; `facts` are plain values, by kind as documented above.

    `problems` are those of a file that could be opened; one that could not raises instead.
    """

    kind: str
    path: str
    facts: Mapping[str, Any]
    files: tuple[FileFacts, ...] = ()
    problems: tuple[Problem, ...] = ()
    damaged: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, schema 1."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "path": self.path,
            **told(self.facts),
            "files": [dict(vars(file)) for file in self.files],
            "problems": [dict(vars(problem)) for problem in self.problems],
            "damaged": self.damaged,
        }


@dataclass(frozen=True)
class Found:
    """What a kind's module returns."""

    facts: Mapping[str, Any]
    problems: tuple[Problem, ...] = ()
    damaged: bool = False
    checked: frozenset[str] = field(default_factory=frozenset)  # files whose checksums are right


def inspect_path(path: Path) -> Inspection:
    """
    Return what is in the file or directory `path`.

    Raises `FormatError` with all reasons for what is damaged beyond reading, and `OptionError` for what
    is none of the kinds.
    """
    kind = kind_of(path)
    found = _inspectors()[kind](path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return Inspection(
        kind,
        str(path),
        found.facts,
        tuple(
            FileFacts(
                file.relative_to(path).as_posix() if path.is_dir() else file.name,
                file.stat().st_size,
                _sha256(file),
                file.name in found.checked,
            )
            for file in files
            if file.is_file()
        ),
        found.problems,
        found.damaged,
    )


def kind_of(path: Path) -> str:
    """Return the kind of `path`, by its name and first bytes; raises `OptionError` for others."""
    if path.is_dir():
        kinds = {MANIFEST: "program", "golden.json": "golden", "settings.json": "run"}
        for name, kind in kinds.items():
            if (path / name).is_file():
                return kind
        if any(path.glob("*.ckpt")):
            return "run"
    elif path.is_file():
        suffixes = {".nir": "nir", ".net": "netx", ".h5": "nirdata", ".ckpt": "checkpoint"}
        if path.suffix in suffixes:
            return suffixes[path.suffix]
        with path.open("rb") as stream:
            start = stream.read(len(HDF5))
        if start == HDF5:
            return "nir"
        if start.startswith(ZIP) and path.suffix in (".pt", ".pth"):
            return "checkpoint"
    else:
        raise OptionError(Problem("", f"there is no '{path}'", remedy=f"give {KINDS}"))
    report = path.name == REPORT or (path / REPORT).is_file()
    shown = f"'neurocompile report {path} -o PAGE.html' shows the report; " if report else ""
    raise OptionError(
        Problem("", f"'{path}' is nothing that inspect knows", remedy=f"{shown}give {KINDS}")
    )


def _inspectors() -> Mapping[str, Callable[[Path], Found]]:
    from neurocompile.inspections import graphs, others, programs

    return {
        "program": programs.inspect_program,
        "nir": graphs.inspect_nir,
        "netx": graphs.inspect_netx,
        "golden": others.inspect_golden,
        "nirdata": others.inspect_nirdata,
        "run": others.inspect_run,
        "checkpoint": others.inspect_checkpoint,
    }


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


# Values from files, as JSON has them


def told(value: Any) -> Any:
    """Return `value` as what JSON has: no NaN, and texts and arrays of strangers cut to a length."""
    if isinstance(value, Mapping):
        return {told(str(key)): told(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        many = value.size > MOST_LISTED
        return described(value) if many else told(value.tolist())
    if isinstance(value, np.generic):
        return told(value.item())
    if isinstance(value, list | tuple):
        return [told(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        # A lone surrogate is in no encoding; a file of strangers may have one.
        text = value.encode("utf-8", "backslashreplace").decode()
        return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}..."
    return value if value is None or isinstance(value, int) else str(value)


def described(values: NDArray[Any]) -> dict[str, Any]:
    """Return the shape, type and range of an array; of reals how many are not finite."""
    facts: dict[str, Any] = {"shape": list(values.shape), "dtype": str(values.dtype)}
    if values.dtype.kind not in "biuf":
        return facts
    real = values.dtype.kind == "f"
    finite = values[np.isfinite(values)].astype(np.float64) if real else values
    if finite.size:
        facts["range"] = span(finite)
    if finite.size < values.size:
        facts["not_finite"] = int(values.size - finite.size)
    return facts


def span(values: NDArray[Any]) -> Any:
    """Return the only number in `values`, or [least, most]; None of nothing."""
    if not values.size:
        return None
    least, most = values.min().item(), values.max().item()
    return least if least == most else [least, most]
