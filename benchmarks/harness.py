"""
How the benchmarks measure: side by side, in turns, and told as medians.

Cases take turns (A B C A B C), so that a machine that slows down slows all of them; a round before the
first warms everything up, and is left out. What was asked, what was measured and whether that is met is
computed here from the same numbers as the tables.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from neurocompile.atomic import write_text

RESULTS = Path(__file__).parent / "results"
CPU_INFO = Path("/proc/cpuinfo")
CPU_TIMES = Path("/proc/stat")
QUIET = (
    0.05  # of all cores, for other programs; beyond, PyTorch's threads wait for each other a lot
)
PACKAGES = ("neurocompile", "numpy", "numba", "torch", "onnxruntime", "scipy", "lava-nc")
THREADS = "OMP_NUM_THREADS"  # `make bench` sets it for everybody, children too


@dataclass(frozen=True)
class Times:
    """Seconds that one case took, round by round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        """The fastest and the slowest round."""
        return f"{shown(min(self.seconds))} to {shown(max(self.seconds))} s"


def timed(action: Callable[[], object]) -> Callable[[], float]:
    """Return a case that does `action` and returns the seconds it took."""

    def case() -> float:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started

    return case


def interleave(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Times]:
    """Let `cases`, which return their seconds, take turns: a round to warm up, then `rounds` that count."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, case in cases.items():
            seconds[name].append(case())
    return {name: Times(tuple(values[1:])) for name, values in seconds.items()}


@dataclass(frozen=True)
class Fit:
    """A straight line through measurements, `slope * x + intercept`, and how much of them it explains."""

    slope: float
    intercept: float
    r_squared: float


def fit_line(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Return the least-squares line through at least two different `x`."""
    across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)
    off_x, off_y = across - across.mean(), up - up.mean()
    slope = float(off_x @ off_y / (off_x @ off_x))
    left = off_y - slope * off_x
    total = float(off_y @ off_y)
    r_squared = 1 - float(left @ left) / total if total else 1.0
    return Fit(slope, float(up.mean() - slope * across.mean()), r_squared)


@dataclass(frozen=True)
class Claim:
    """
    One number that was asked for: at least `least`, at most `most`, or that there is one.

    `aimed` is what one would like. `measured` is None where there was nothing to measure, which meets
    nothing.
    """

    what: str
    measured: float | None
    unit: str
    least: float | None = None
    most: float | None = None
    aimed: float | None = None

    @property
    def met(self) -> bool:
        if self.measured is None:
            return False
        return (self.least is None or self.measured >= self.least) and (
            self.most is None or self.measured <= self.most
        )

    def row(self) -> tuple[str, ...]:
        """What was asked, what was measured, met or not."""
        bounds = [
            f"{sign} {bound:g}{self.unit}"
            for sign, bound in ((">=", self.least), ("<=", self.most))
            if bound is not None
        ]
        return (
            self.what,
            " and ".join(bounds) or "a number",
            "" if self.aimed is None else f"{self.aimed:g}{self.unit}",
            "nothing to measure" if self.measured is None else f"{shown(self.measured)}{self.unit}",
            "met" if self.met else "**not met**",
        )


@dataclass(frozen=True)
class Section:
    """What one benchmark found: a paragraph and a table's lines, `data` for machines, `claims` for the top."""

    title: str
    text: str
    table: Sequence[str]
    data: Any
    claims: Sequence[Claim] = field(default_factory=tuple)


def shown(value: float) -> str:
    """Return `value` with three digits, and whole from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def keep_to_threads() -> None:
    """
    Keep this process and its children to as many cores as `OMP_NUM_THREADS` allows threads.

    Our own engine takes as many threads as there are cores for it; BLAS and PyTorch read the variable.
    """
    if THREADS in os.environ and hasattr(os, "sched_setaffinity"):  # not on macOS
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[: int(os.environ[THREADS])])


def machine() -> dict[str, str]:
    """Return what measured: the processor, its cores, how many threads were allowed, versions."""
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": os.environ.get(THREADS, "as many as each takes"),
        "versions": ", ".join(versions),
    }


def _processor() -> str:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class Others:
    """Watches how much of all cores programs took that are not this one, or its children."""

    def __init__(self) -> None:
        self._before = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Return seconds since some time: of all cores, of what was busy on them, of what was us."""
        ours = os.times()
        first, *_ = CPU_TIMES.read_text(encoding="utf-8").splitlines()
        ticks = [int(number) for number in first.split()[1:9]]  # user to steal; guests are users
        idle = ticks[3] + ticks[4]
        second = os.sysconf("SC_CLK_TCK")
        return (sum(ticks) / second, (sum(ticks) - idle) / second, sum(ours[:4]))

    def share(self) -> float:
        """Return their share of all cores since this was made, from 0 to 1."""
        all_cores, busy, ours = np.subtract(self._read(), self._before)
        return float(max(0.0, busy - ours) / all_cores) if all_cores else 0.0


def run_python(
    arguments: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    python: Path | str = sys.executable,
) -> str:
    """Run `python` with `arguments` and return what it printed; raises, with its errors, if it fails."""
    finished = subprocess.run(
        [python, *arguments],
        env={**os.environ, **(environment or {})},
        check=False,
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))} failed:\n{finished.stderr}")
    return finished.stdout


def child(arguments: Sequence[str | Path], python: Path | str = sys.executable) -> dict[str, Any]:
    """Run a program that ends with a line of JSON, and return that."""
    result: dict[str, Any] = json.loads(run_python(arguments, python=python).splitlines()[-1])
    return result


def report(
    name: str,
    introduction: str,
    sections: Sequence[Section],
    measured: dict[str, str],
    others: float,
) -> str:
    """Return the page: what was asked and measured first, then the sections; `others` is their share."""
    claims = [claim for section in sections for claim in section.claims]
    told = (
        f"{measured['processor']}, {measured['cores']} cores, threads: {measured['threads']}; "
        f"{measured['versions']}. Other programs took {100 * others:.0f} % of the cores meanwhile."
    )
    if others > QUIET:
        told += " **That is too much for numbers to be trusted; measure again where it is quiet.**"
    lines = [f"# {name}", "", introduction, "", told, ""]
    if claims:
        head = ("what", "asked", "aimed at", "measured", "")
        lines += [*table(head, [claim.row() for claim in claims]), ""]
    for section in sections:
        lines += [f"## {section.title}", "", section.text, ""]
        if section.table:
            lines += [*section.table, ""]
    return "\n".join(lines).rstrip() + "\n"


def write_report(
    directory: Path | None,
    stem: str,
    page: str,
    sections: Sequence[Section],
    measured: dict[str, str],
) -> None:
    """Print the page, and write it and its numbers to `directory` unless that is None."""
    print(page)
    if directory is None:
        return
    numbers = {
        "machine": measured,
        "claims": [
            {**asdict(claim), "met": claim.met} for item in sections for claim in item.claims
        ],
        "sections": {section.title: section.data for section in sections},
    }
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / f"{stem}.md", page)
    write_text(directory / f"{stem}.json", json.dumps(numbers, indent=1) + "\n")
