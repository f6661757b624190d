"""
A training step beside the same network with ReLU, the TET paper's loop, SpikingJelly, snnTorch and Norse.

    python benchmarks/train_step.py [PEERS_PYTHON] [--quick] [--output DIR]

`make bench-train` makes the environment of `PEERS_PYTHON`; without it, the frameworks are left out. Each
contestant runs in a process of its own that waits while others have their turn. Writes
`benchmarks/results/train_step.md`, and its numbers as JSON beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from harness import (
    RESULTS,
    Claim,
    Others,
    Section,
    Times,
    interleave,
    keep_to_threads,
    machine,
    report,
    shown,
    table,
    write_report,
)

TRAINERS = Path(__file__).parent / "peers" / "trainers.py"
OURS, TWIN = "ours", "twin"
PEERS = {"spikingjelly": "SpikingJelly", "snntorch": "snnTorch", "norse": "Norse"}
NAMES = {
    OURS: "neurocompile",
    TWIN: "ANN twin, ReLU",
    "reference": "loop of the TET paper",
    **PEERS,
}
SAME = 2.0  # % of the first loss: a sum that rounds otherwise lets a neuron fire a step later
MORE_MEMORY = 1.05
FASTEST = "the fastest of the others"
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""For everybody: glibc keeps freed memory, as `neurocompile.training.allocator` has it."""


@dataclass(frozen=True)
class Case:
    """A network and its batch; `steps_each` training steps make a turn, `most` is asked of the twin's time."""

    title: str
    settings: Mapping[str, Any]
    most: float
    rounds: int
    steps_each: int = 1

    @property
    def what(self) -> str:
        return f"{self.title}, T={self.settings['steps']}, batch {self.settings['batch']}"


SNN5 = {
    "network": "convolutional",
    "size": 32,
    "stages": [(16, 3, 1), (64, 5, 2), (128, 5, 2), (256, 5, 2), (512, 3, 2)],
    "classes": 10,
    "steps": 4,
}
MLP = {"network": "dense", "inputs": 784, "hidden": [512, 512], "classes": 10, "steps": 32}
CASES = (
    Case("SNN-5 (3x32x32)", {**SNN5, "batch": 8}, 1.05, rounds=9, steps_each=2),
    Case("SNN-5 (3x32x32)", {**SNN5, "batch": 64}, 1.05, rounds=5),
    Case("784-512-512-10", {**MLP, "batch": 128}, 1.3, rounds=9, steps_each=2),
)
QUICK = (
    Case(
        "two stages",
        {**SNN5, "size": 8, "stages": [(4, 3, 1), (8, 3, 2)], "steps": 2, "batch": 2},
        1.05,
        rounds=1,
    ),
    Case("16-8-10", {**MLP, "inputs": 16, "hidden": [8], "steps": 3, "batch": 2}, 1.3, rounds=1),
)


@dataclass
class Contestant:
    """A process that trains when it is asked, and what it said."""

    name: str
    process: subprocess.Popen[str]
    said: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)

    def read(self) -> dict[str, Any]:
        """Return the next thing it says; raises, with its errors, if it ended instead."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} failed:\n{self.process.stderr.read()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def train(self, steps: int) -> float:
        """Take `steps` training steps and return the seconds of one."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        found = self.read()
        self.losses.append(found["loss"])
        self.rates = found["rates"]
        return float(found["seconds"]) / steps

    def finish(self) -> int:
        """Let it end; return how many bytes more than before its first step it had at most."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        found = self.read()
        return int(found["peak"]) - int(found["before"])


def start(name: str, settings: Path, python: Path | str) -> subprocess.Popen[str]:
    """Start the process of a contestant."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [python, TRAINERS, name, settings],
        env={**os.environ, **KEPT},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )


def measure(case: Case, peers: Path | None) -> Section:
    """Measure the training step of all contestants on one case."""
    names = [name for name in NAMES if name not in PEERS or peers]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as open_processes:
        file = Path(scratch) / "settings.json"
        file.write_text(json.dumps(dict(case.settings)), encoding="utf-8")
        contestants = {}
        for name in names:
            python = peers if peers and name in PEERS else sys.executable
            process = open_processes.enter_context(start(name, file, python))
            open_processes.callback(process.kill)
            contestants[name] = Contestant(name, process)
            contestants[name].said = contestants[name].read()  # one after the other is set up
        first = {name: contestant.train(1) for name, contestant in contestants.items()}
        times = interleave(
            {
                name: partial(contestant.train, case.steps_each)
                for name, contestant in contestants.items()
            },
            case.rounds,
        )
        memory = {name: contestant.finish() for name, contestant in contestants.items()}
    return _section(case, contestants, first, times, memory)


def ratio(one: Times, other: Times) -> float:
    """Return how many times as long `one` took: the median over rounds, whose two are neighbours."""
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))


def _section(
    case: Case,
    contestants: Mapping[str, Contestant],
    first: Mapping[str, float],
    times: Mapping[str, Times],
    memory: Mapping[str, int],
) -> Section:
    spiking = [name for name in times if name not in (OURS, TWIN)]
    fastest = min(spiking, key=lambda name: times[name].median)
    leanest = min(spiking, key=memory.__getitem__)
    ratios = {name: ratio(times[OURS], value) for name, value in times.items()}
    ours = contestants[OURS]
    off = max(abs(contestants[name].losses[0] / ours.losses[0] - 1) for name in spiking)
    counts = {contestant.said["parameters"] for contestant in contestants.values()}
    rates = ours.rates
    rows = [
        (
            NAMES[name],
            f"{ratios[name]:.3f}",
            f"{shown(value.median)} s",
            value.spread,
            f"{shown(first[name])} s",
            f"{memory[name] / 2**20:,.0f} MiB",
            f"{contestants[name].losses[0]:.4f}",
        )
        for name, value in times.items()
    ]
    head = (
        "who",
        "neurocompile's time by theirs",
        "median of a step",
        "spread",
        "first step",
        "peak memory",
        "first loss",
    )
    versions = ", ".join(
        f"{NAMES[name]} {contestants[name].said['version']}" for name in spiking if name in PEERS
    )
    told = ", ".join(
        f"{name.rpartition('.')[2]} {100 * rate:.1f} %" for name, rate in rates.items()
    )
    claims = [
        Claim(f"{case.what}: time by that of {NAMES[TWIN]}", ratios[TWIN], "x", most=case.most),
        Claim(f"{case.what}: time by {FASTEST}, {NAMES[fastest]}", ratios[fastest], "x", most=1.0),
        Claim(
            f"{case.what}: peak memory by the lowest of the others, {NAMES[leanest]}",
            memory[OURS] / memory[leanest],
            "x",
            most=MORE_MEMORY,
        ),
        Claim(f"{case.what}: first losses differ by", 100 * off, "%", most=SAME),
    ]
    return Section(
        case.what,
        (
            f"{', '.join(f'{count:,}' for count in counts)} parameters, random inputs that differ at every "
            f"step, Adam; {versions or 'no other framework'}. At the first step neurons fire at {told} of "
            f"the steps. {case.rounds} rounds of {case.steps_each}, in turns; times are compared within "
            "rounds. Peak memory is resident memory above that before the first step. The first use of our "
            f"neurons took {shown(ours.said['kernel_seconds'])} s more, for numba's kernels."
        ),
        table(head, rows),
        {
            "ratios": ratios,
            "seconds": {name: value.seconds for name, value in times.items()},
            "first": first,
            "memory": memory,
            "losses": {name: item.losses[0] for name, item in contestants.items()},
            "rates": rates,
            "kernel_seconds": ours.said["kernel_seconds"],
        },
        claims,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("python", type=Path, nargs="?", help="of the frameworks' environment")
    parser.add_argument("--quick", action="store_true", help="tiny networks; writes nothing")
    parser.add_argument("--output", type=Path, help="where to write train_step.md and .json")
    options = parser.parse_args(arguments)
    keep_to_threads()
    measured, others = machine(), Others()
    sections = [measure(case, options.python) for case in (QUICK if options.quick else CASES)]
    page = report(
        "Training steps",
        "Written by `make bench-train`: forward, backward and optimiser, side by side in one run. All "
        "processes keep the memory that they free (`MALLOC_MMAP_MAX_=0`).",
        sections,
        measured,
        others.share(),
    )
    directory = options.output or (None if options.quick else RESULTS)
    write_report(directory, "train_step", page, sections, measured)


if __name__ == "__main__":
    main()
