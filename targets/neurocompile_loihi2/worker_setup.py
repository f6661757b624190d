"""
What a Lava worker is told to build, and the files through which it is fed; stdlib and numpy only.

Both sides, the supervisor and the worker, read the same `setup.json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

CONTROL = "control.bin"
SETUP = "setup.json"

MEMBRANE = "membrane/"
CHANNEL_SLOTS = 2  # of shared memory per connection; Lava's 64 exhaust /dev/shm on large networks


@dataclass(frozen=True)
class Stream:
    """
    One file of numbers, a row for each machine step; (neurons, replicas) in each row.

    Step 1 of sample 0 is row `offset`. What `population` names is what the numbers are for or from.
    """

    name: str
    population: str
    neurons: int
    offset: int
    dtype: str = "int32"


@dataclass(frozen=True)
class Setup:
    """
    One set-up of Lava processes.

    `layout` is the program's `loihi2.json`; `steps` the steps of a sample; `replicas` how many
    samples run side by side; `rows` how many machine steps a run takes at most; `record` which
    layers are recorded (`membrane/<layer>` for a membrane).
    """

    layout: dict[str, Any]
    convolution: str
    steps: int
    replicas: int
    rows: int
    record: tuple[str, ...]
    shm_prefix: str

    @property
    def side_by_side(self) -> tuple[int, ...]:
        """The last axis of all arrays, replicas; none with Lava's own processes, which have no such axis."""
        return () if self.convolution == "conv" else (self.replicas,)

    @property
    def stride(self) -> int:
        return int(self.layout["stride"])

    @property
    def steps_apart(self) -> int:
        """The steps from one sample to the next."""
        return int(self.steps + self.layout["gap"])

    @property
    def period(self) -> int:
        """The machine steps from one sample to the next."""
        return self.steps_apart * self.stride

    @cached_property
    def populations(self) -> dict[str, dict[str, Any]]:
        return {entry["name"]: entry for entry in self.layout["populations"]}

    @cached_property
    def sources(self) -> tuple[Stream, ...]:
        """What the host sends of inputs, one stream for each time it lets them wait."""
        return tuple(
            Stream(
                source_stream(entry["name"], entry["wait"]),
                entry["name"],
                math.prod(entry["shape"]),
                entry["depth"] + entry["wait"],
            )
            for entry in self.layout["sources"]
        )

    @cached_property
    def host(self) -> tuple[Stream, ...]:
        """The currents of connections that the host computes itself."""
        return tuple(
            self._current(f"host/{entry['name']}", entry["target"]) for entry in self.layout["host"]
        )

    @cached_property
    def drives(self) -> tuple[Stream, ...]:
        """The currents that start or silence neurons, the same for all inputs."""
        return tuple(
            self._current(f"drive/{name}", name)
            for name, entry in self.populations.items()
            if is_driven(entry)
        )

    @cached_property
    def records(self) -> tuple[Stream, ...]:
        """What is recorded, in the order of `record`."""
        streams = []
        for name in self.record:
            entry = self.populations[name.removeprefix(MEMBRANE)]
            graded = entry["process"] == "GradedVec" or entry.get("most", 1) > 1
            wide = name.startswith(MEMBRANE) or graded
            streams.append(
                Stream(
                    f"record/{name}",
                    entry["name"],
                    math.prod(entry["shape"]),
                    entry["depth"],
                    "int32" if wide else "uint8",
                )
            )
        return tuple(streams)

    @cached_property
    def streams(self) -> dict[str, Stream]:
        """All streams by name."""
        every = (*self.sources, *self.host, *self.drives, *self.records)
        return {stream.name: stream for stream in every}

    def file_of(self, stream: Stream) -> str:
        """Return the name of the file that carries `stream`."""
        return f"stream{list(self.streams).index(stream.name)}.bin"

    def _current(self, name: str, target: str) -> Stream:
        entry = self.populations[target]
        return Stream(name, target, math.prod(entry["shape"]), entry["depth"])

    def write(self, directory: Path) -> None:
        (directory / SETUP).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(directory: Path) -> Setup:
        values = json.loads((directory / SETUP).read_text(encoding="utf-8"))
        values["record"] = tuple(values["record"])
        return Setup(**values)


def source_stream(name: str, wait: int) -> str:
    """Return the name of the stream of input `name`, sent `wait` machine steps later."""
    return f"source/{name}/{wait}"


def is_driven(population: Mapping[str, Any]) -> bool:
    """Return whether the host starts or silences the neurons of a population."""
    return bool(population.get("pulse") or population.get("silence"))
