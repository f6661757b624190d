"""
What it takes to export networks at full size, and to load them: seconds, and memory at its peak.

The papers' networks, and SNN-5 with more and more channels: is the growth linear in parameters? Each
export is a process of its own, `neurocompile export` from a `.nir` file or a checkpoint, and so is each
load. Networks are trained for nothing but their batch norms' statistics. Validation is left out, as it
is by default for networks of this size. Writes `benchmarks/results/compile_deep.md`.

    python benchmarks/compile_deep.py [--rounds 3] [--quick]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from harness import (
    RESULTS,
    Claim,
    Others,
    Section,
    Times,
    child,
    fit_line,
    interleave,
    machine,
    report,
    shown,
    table,
    write_report,
)
from networks import EVENTS, PIXELS, settings_of
from torch import nn

from neurocompile.data import InputRange
from neurocompile.frontend.fold_batchnorm import fold_batchnorm
from neurocompile.frontend.to_nir import to_nir, write_nir
from neurocompile.training.checkpoint import Trained
from neurocompile.training.config import TrainSettings
from neurocompile.training.networks import SpikingNetwork, build, trace

CHILD = Path(__file__).parent / "compile_child.py"
CALIBRATION_SAMPLES = 2
RESNET, VGG, SEW = (
    "ResNet-19, 3x32x32, T=4",
    "VGGSNN, 2x48x48, T=10",
    "SEW-ResNet34, 3x64x64, T=4",
)
CHECKPOINT = "VGGSNN, from a checkpoint"
MOST_SECONDS, AIMED_SECONDS, MOST_GIGABYTES, MOST_LOADING = 10, 3, 2, 1
LEAST_R_SQUARED = 0.95


@dataclass(frozen=True)
class Sizes:
    """How often is measured, and how large the networks are; `doublings` of SNN-5's parameters."""

    rounds: int = 3
    width: float = 1.0
    doublings: tuple[int, ...] = (0, 1, 2, 3)


QUICK = Sizes(rounds=1, width=0.125, doublings=(-6, -5))


@dataclass(frozen=True)
class Case:
    """A network in a file, to be exported for `target`."""

    name: str
    source: Path
    parameters: int
    target: str

    @property
    def program(self) -> Path:
        return self.source.with_suffix(f".{self.target}")


@dataclass(frozen=True)
class Measured:
    """What exports and loads of a case took; peaks are the largest of all rounds, in bytes."""

    case: Case
    export: Times
    load: Times
    export_peak: int
    load_peak: int

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.case.program.iterdir())

    def row(self) -> tuple[str, ...]:
        """What the tables say about it."""
        return (
            self.case.name,
            f"{self.case.parameters:,}",
            self.case.target,
            f"{shown(self.export.median)} s",
            self.export.spread,
            f"{self.export_peak / 1e9:.2f} GB",
            f"{shown(self.load.median)} s",
            f"{self.load_peak / 1e9:.2f} GB",
            f"{self.bytes / 1e6:.0f} MB",
        )


HEAD = (
    *("network", "parameters", "target", "export", "spread", "peak memory"),
    *("load", "peak memory", "program"),
)


def settled(network: SpikingNetwork, steps: int, *, events: bool) -> SpikingNetwork:
    """Return `network` in evaluation; its batch norms have the statistics of some random inputs."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the mean over all batches, which is one
    inputs = torch.rand(CALIBRATION_SAMPLES, steps, *network.input_shape)
    with torch.no_grad():
        network((inputs < 0.2).float() if events else inputs)
    return network.eval()


def nir_file(
    path: Path,
    settings: TrainSettings,
    shape: tuple[int, ...],
    limits: InputRange,
    *,
    classes: int = 10,
) -> int:
    """Write the NIR file of the network of `settings`, and return the number of its parameters."""
    steps = settings.timesteps
    network = settled(build(settings, shape, classes), steps, events=limits == EVENTS)
    folded = fold_batchnorm(trace(network.body))
    write_nir(path, to_nir(folded, shape, steps=steps, input_range=limits))
    return parameters_of(network)


def parameters_of(network: SpikingNetwork) -> int:
    """Return how many numbers are trained."""
    return sum(values.numel() for values in network.parameters())


def checkpoint(path: Path, width: float) -> int:
    """Write VGGSNN as `train` would, and return the number of its parameters."""
    settings, shape = settings_of("vggsnn", 10, width=width), (2, 48, 48)
    network = settled(build(settings, shape, 10), 10, events=True)
    description = Trained(network, settings, 10, EVENTS).description()
    state = {f"network.{name}": values for name, values in network.state_dict().items()}
    torch.save({"neurocompile": description, "state_dict": state}, path)
    return parameters_of(network)


def papers(folder: Path, sizes: Sizes) -> list[Case]:
    """Write the papers' networks into `folder`, for each target."""
    torch.manual_seed(0)
    width = sizes.width
    makers: dict[str, Callable[[Path], int]] = {
        RESNET: lambda path: nir_file(
            path, settings_of("resnet19", 4, width=width), (3, 32, 32), PIXELS
        ),
        VGG: lambda path: nir_file(
            path, settings_of("vggsnn", 10, width=width), (2, 48, 48), EVENTS
        ),
        SEW: lambda path: nir_file(
            path, settings_of("sew-resnet34", 4, width=width), (3, 64, 64), PIXELS, classes=1000
        ),
    }
    cases = []
    for number, (name, make) in enumerate(makers.items()):
        source = folder / f"{number}.nir"
        parameters = make(source)
        cases += [Case(name, source, parameters, target) for target in ("fixedpoint", "loihi2")]
    source = folder / "vgg.ckpt"
    return [*cases, Case(CHECKPOINT, source, checkpoint(source, sizes.width), "fixedpoint")]


def growing(folder: Path, sizes: Sizes) -> list[Case]:
    """Write SNN-5 with more and more channels into `folder`: parameters grow with their square."""
    torch.manual_seed(0)
    cases = []
    for doubling in sizes.doublings:
        width = 2 ** (doubling / 2)
        source = folder / f"snn{doubling}.nir"
        parameters = nir_file(source, settings_of("snn5", 4, width=width), (3, 32, 32), PIXELS)
        name = f"SNN-5, {width:.2g} times the channels"
        cases.append(Case(name, source, parameters, "fixedpoint"))
    return cases


def measure(cases: list[Case], rounds: int) -> list[Measured]:
    """Export and load all `cases`, which take turns."""
    peaks: dict[str, int] = {}

    def export(case: Case) -> tuple[float, int]:
        started = time.perf_counter()
        found = child([CHILD, "export", case.source, case.target, case.program])
        return time.perf_counter() - started, int(found["peak"])

    def load(case: Case) -> tuple[float, int]:
        found = child([CHILD, "load", case.program])
        return float(found["seconds"]), int(found["peak"])

    def keeping_peaks(
        key: str, action: Callable[[Case], tuple[float, int]], case: Case
    ) -> Callable[[], float]:
        def timed() -> float:
            seconds, peak = action(case)
            peaks[key] = max(peak, peaks.get(key, 0))
            return seconds

        return timed

    actions = {}
    for number, case in enumerate(cases):
        for verb, action in (("export", export), ("load", load)):
            key = f"{verb} {number}"
            actions[key] = keeping_peaks(key, action, case)
    times = interleave(actions, rounds)
    return [
        Measured(
            case,
            times[f"export {number}"],
            times[f"load {number}"],
            peaks[f"export {number}"],
            peaks[f"load {number}"],
        )
        for number, case in enumerate(cases)
    ]


def papers_section(measured: list[Measured]) -> Section:
    """Return what the papers' networks took, and what was asked."""
    found = {item.case.name: item for item in measured if item.case.target == "fixedpoint"}
    claims = []
    for name in (VGG, RESNET, CHECKPOINT):
        item = found[name]
        aimed = None if name == CHECKPOINT else AIMED_SECONDS  # PyTorch's import takes most of them
        claims += [
            Claim(f"export: {name}", item.export.median, " s", None, MOST_SECONDS, aimed),
            Claim(f"peak memory: {name}", item.export_peak / 1e9, " GB", None, MOST_GIGABYTES),
        ]
    loading = found[VGG].load.median
    claims.append(Claim(f"load: {VGG}", loading, " s", None, MOST_LOADING))
    return Section(
        "The papers' networks",
        "Whole processes, Python's start and imports included; loads as well, from the call on.",
        table(HEAD, [item.row() for item in measured]),
        data_of(measured),
        claims,
    )


def growth_section(measured: list[Measured]) -> Section:
    """Return how seconds and memory grow with parameters."""
    parameters = [item.case.parameters / 1e6 for item in measured]
    seconds = fit_line(parameters, [item.export.median for item in measured])
    loading = fit_line(parameters, [item.load.median for item in measured])
    memory = fit_line(parameters, [item.export_peak / 1e6 for item in measured])
    text = (
        "SNN-5 of the TET paper on 3x32x32, T=4. Least squares, m being millions of parameters: an export "
        f"takes {seconds.intercept:.2f} + {seconds.slope:.3f} m seconds (R² {seconds.r_squared:.3f}) and "
        f"{memory.intercept:.0f} + {memory.slope:.1f} m MB (R² {memory.r_squared:.3f}), a load "
        f"{loading.intercept:.2f} + {loading.slope:.3f} m seconds (R² {loading.r_squared:.3f})."
    )
    return Section(
        "Growth",
        text,
        table(HEAD, [item.row() for item in measured]),
        {
            **data_of(measured),
            "fits": {
                name: vars(fit)
                for name, fit in (("export", seconds), ("load", loading), ("memory", memory))
            },
        },
        [Claim("R² of seconds over parameters", seconds.r_squared, "", LEAST_R_SQUARED)],
    )


def data_of(measured: list[Measured]) -> dict[str, object]:
    """Return all that was measured, for machines."""
    return {
        f"{item.case.name}, {item.case.target}": {
            "parameters": item.case.parameters,
            "export_seconds": item.export.seconds,
            "export_peak": item.export_peak,
            "load_seconds": item.load.seconds,
            "load_peak": item.load_peak,
            "bytes": item.bytes,
        }
        for item in measured
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="how often each case is measured")
    parser.add_argument(
        "--quick", action="store_true", help="the smallest sizes, to see that it runs"
    )
    parser.add_argument("--output", type=Path, help="where to write compile_deep.md and .json")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    if options.rounds:
        sizes = replace(sizes, rounds=options.rounds)
    about, others = machine(), Others()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        print("writing networks ...", file=sys.stderr, flush=True)
        deep, wide = papers(folder, sizes), growing(folder, sizes)
        print("measuring ...", file=sys.stderr, flush=True)
        measured = measure([*deep, *wide], sizes.rounds)
        sections = [papers_section(measured[: len(deep)]), growth_section(measured[len(deep) :])]
    introduction = "Export and load of large networks, measured in one go by `make bench-compile`: cases take turns, numbers are medians."
    page = report("Compiling deep networks", introduction, sections, about, others.share())
    output = options.output or (None if options.quick else RESULTS)
    write_report(output, "compile_deep", page, sections, about)


if __name__ == "__main__":
    main()
