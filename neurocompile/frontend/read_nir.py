"""
Read a NIR file into plain values.

nir's own reader corrects and fills in values silently, and trusts its files. So they are read here, into
dictionaries of arrays, and what the graph means is decided by `from_nir`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurocompile.errors import NirFormatError, Problem
from neurocompile.frontend.read_hdf5 import Dialect, read_hdf5

NIR = Dialect("NIR file", NirFormatError)


@dataclass(frozen=True)
class NirFile:
    """The values of a NIR file: the node tree as nested dictionaries, and the writer's version."""

    root: Mapping[str, Any]
    version: str


def read_nir(path: Path) -> NirFile:
    """Return the contents of the NIR file at `path`; every failure is a `NirFormatError`."""
    entries = read_hdf5(path, ("version", "node"), NIR)
    root = entries.get("node")
    if not isinstance(root, Mapping):
        raise NirFormatError(Problem("", f"'{path}' is an HDF5 file, but not a NIR graph"))
    version = entries.get("version", "")
    return NirFile(root, "" if isinstance(version, Mapping) else str(version))
