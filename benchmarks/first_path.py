"""
What the first path costs on this machine: Lava's two ways to convolve, and our integers beside them.

Everything is measured in one run, interleaved, and told as medians and as ratios to the engine.
Writes `benchmarks/results/first_path.md`.

    python benchmarks/first_path.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import time
from pathlib import Path

import numpy as np

from neurocompile.ir import LIF, Conv2d, Dense, Flatten, Input, Network, Node, Output
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program
from neurocompile.target import find

SAMPLES, STEPS = 24, 4
RESULTS = Path(__file__).parent / "results" / "first_path.md"


def neurons(shape: tuple[int, ...]) -> LIF:
    full = np.ones(shape)
    return LIF(0.5 * full, full, 0 * full, full, 0 * full)


def network() -> Network:
    """28x28 - 16C3 - 32C3s2 - FC10, with random weights, on spikes."""
    generator = np.random.default_rng(0)
    nodes: dict[str, Node] = {
        "input": Input((1, 28, 28)),
        "conv1": Conv2d(generator.normal(size=(16, 1, 3, 3)), np.zeros(16), padding=(1, 1)),
        "lif1": neurons((16, 28, 28)),
        "conv2": Conv2d(generator.normal(size=(32, 16, 3, 3)) / 4, np.zeros(32), (2, 2), (1, 1)),
        "lif2": neurons((32, 14, 14)),
        "flatten": Flatten(),
        "fc": Dense(generator.normal(size=(10, 6272)) / 20, np.zeros(10)),
        "output": Output((10,)),
    }
    names = list(nodes)
    return Network(nodes, tuple(itertools.pairwise(names)), STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    inputs = np.random.default_rng(1).integers(0, 2, (SAMPLES, STEPS, 1, 28, 28))
    programs: dict[str, tuple[Program, str]] = {
        "fixedpoint": (
            compile_network(network(), find("fixedpoint"), CompileOptions()),
            "fixedpoint",
        )
    }
    for convolution in ("sparse", "conv"):
        options = CompileOptions(target_options={"convolution": convolution})
        program = compile_network(network(), find("loihi2"), options)
        programs[f"loihi2, {convolution}"] = (program, "loihi2")
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds + 1):  # the first round sets Lava's processes up, and is left out
        for name, (program, on) in programs.items():
            started = time.perf_counter()
            program.run(inputs, on=on)
            seconds[name].append(time.perf_counter() - started)
    for program, _on in programs.values():
        program.close()
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    machine = f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
    lines = [
        f"28x28 16C3-32C3s2-FC10, {SAMPLES} samples of {STEPS} steps, {rounds} rounds; {machine}",
        "",
        "| executor | sample-steps per second | time over fixedpoint's | spread |",
        "|---|---|---|---|",
    ]
    for name, median in medians.items():
        values = seconds[name][1:]
        spread = f"{min(values):.2f} to {max(values):.2f} s"
        ratio = median / medians["fixedpoint"]
        lines.append(f"| {name} | {SAMPLES * STEPS / median:.0f} | {ratio:.2f} | {spread} |")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
