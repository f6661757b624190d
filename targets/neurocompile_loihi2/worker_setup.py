"""
What a Lava worker is told to build, and the files through which it is fed; stdlib and numpy only.

Both sides, the supervisor and the worker, read the same `setup.json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CONTROL = "control.bin"
SETUP = "setup.json"


@dataclass(frozen=True)
class Setup:
    """
    One set-up of Lava processes.

    `layout` is the program's `loihi2.json`; `period` the steps of a sample; `replicas` how many
    samples run side by side; `rows` how many machine steps a run takes at most; `record` which
    layers are recorded (`membrane/<layer>` for a membrane).
    """

    layout: dict[str, Any]
    convolution: str
    period: int
    replicas: int
    rows: int
    record: tuple[str, ...]
    shm_prefix: str

    def file_of(self, name: str) -> str:
        """Return the name of the file that carries population, host connection or record `name`."""
        names = [*self.sources(), *self.record]
        return f"stream{names.index(name)}.bin"

    def is_fed(self, population: str) -> bool:
        """Return whether an input population is connected on the chip (else the host reads it)."""
        return any(
            connection["process"] != "Source" and connection["source"] == population
            for connection in self.layout["connections"]
        )

    def sources(self) -> tuple[str, ...]:
        """Return what the host streams in: input populations, and connections it computes itself."""
        inputs = [
            entry["name"]
            for entry in self.layout["populations"]
            if entry["process"] == "Source" and self.is_fed(entry["name"])
        ]
        host = [
            connection["source"]
            for connection in self.layout["connections"]
            if connection["process"] == "Source"
        ]
        return (*inputs, *host)

    def write(self, directory: Path) -> None:
        (directory / SETUP).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(directory: Path) -> Setup:
        values = json.loads((directory / SETUP).read_text(encoding="utf-8"))
        values["record"] = tuple(values["record"])
        return Setup(**values)
