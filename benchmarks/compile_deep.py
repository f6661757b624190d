"""
What it takes to compile the papers' networks at full size: seconds, and memory at its peak.

Each network is trained for nothing but its batch norms' statistics, exported, and compiled in a process
of its own, so that peaks are its own (PyTorch and the network included). Validation is left out, as it
is by default for networks of this size. Writes `benchmarks/results/compile_deep.md`.

    python benchmarks/compile_deep.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurocompile.data import InputRange
from neurocompile.frontend.fold_batchnorm import fold_batchnorm
from neurocompile.frontend.from_nir import from_nir
from neurocompile.frontend.to_nir import to_nir, write_nir
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.target import find
from neurocompile.training.architectures import ResNet19, SewResNet, VggSnn
from neurocompile.training.networks import SpikingNetwork, trace

RESULTS = Path(__file__).parent / "results" / "compile_deep.md"
CASES = {
    "ResNet-19, 3x32x32, T=4": (ResNet19, {}, (3, 32, 32), 4),
    "VGGSNN, 2x48x48, T=10": (VggSnn, {}, (2, 48, 48), 10),
    "SEW-ResNet34, 3x64x64, T=4": (SewResNet, {"size": 64}, (3, 64, 64), 4),
}
TARGETS = ("fixedpoint", "loihi2")


def measure(case: str, target: str) -> dict[str, Any]:
    """Compile one network here, and return what it took."""
    make, arguments, shape, steps = CASES[case]
    torch.manual_seed(0)
    body = make(**arguments)
    network = SpikingNetwork(body, shape)
    with torch.no_grad():
        network(torch.rand(2, steps, *shape))  # in training mode: batch norms see real statistics
    network.eval()
    folded = fold_batchnorm(trace(body))
    graph = to_nir(folded, shape, steps=steps, input_range=InputRange(0, 1, 1 / 255))
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "graph.nir"
        write_nir(file, graph)
        imported = from_nir(file).network
        started = time.perf_counter()
        program = compile_network(imported, find(target), CompileOptions())
        program.save(Path(directory) / "program")
        seconds = time.perf_counter() - started
        size = sum(path.stat().st_size for path in (Path(directory) / "program").iterdir())
    return {
        "seconds": seconds,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parameters": sum(values.numel() for values in body.parameters()),
        "bytes": size,
        "notes": len(program.facts["notes"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("CASE", "TARGET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    machine = f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
    lines = [
        f"From imported network to program directory, {options.rounds} processes each; {machine}",
        "",
        "| network | parameters | target | seconds | spread | peak memory | program |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        for target in TARGETS:
            rounds = [
                json.loads(
                    subprocess.run(
                        [sys.executable, __file__, "--one", case, target],
                        check=True,
                        capture_output=True,
                        text=True,
                    ).stdout
                )
                for _ in range(options.rounds)
            ]
            seconds = [one["seconds"] for one in rounds]
            peak = max(one["peak"] for one in rounds) / 1e9
            lines.append(
                f"| {case} | {rounds[0]['parameters']:,} | {target} | "
                f"{statistics.median(seconds):.1f} | {min(seconds):.1f} to {max(seconds):.1f} | "
                f"{peak:.2f} GB | {rounds[0]['bytes'] / 1e6:.0f} MB |"
            )
            print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
