"""
Hold our `.net` files, and others', to lava-dl's netx itself: `make netx`.

    compare.py PYTHON [--shared FOLDER]

PYTHON is an interpreter that has `requirements.txt`. Networks of ours are compiled with -O netx=yes, loaded
and run by netx there, and by the definition of the integers here; then third-party files, read by us and by
netx. Every spike must be the same, and the membranes of the last layer at the end. Besides, what the writer
believes netx does to weights is compared on random matrices.
"""

from __future__ import annotations

import argparse
import itertools
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from neurocompile_loihi2.lower import TARGET
from neurocompile_loihi2.netx import NETX, _loaded_by_netx
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.frontend.from_netx import from_netx
from neurocompile.ir import LIF, Conv2d, Delay, Dense, Flatten, Input, Network, Node, Output
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program

LOADER = Path(__file__).parent / "load_netx.py"
MATRICES = 4000
SEED = 7


@dataclass(frozen=True)
class Case:
    """A network, in a file `netx` reads, and the spikes (samples, steps, *input shape) that drive it."""

    name: str
    program: Program
    file: bytes
    inputs: NDArray[np.int64]


class Lines:
    """Random weights, neurons and spikes, and the cases made of them."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def weights(self, *shape: int) -> NDArray[np.float64]:
        values = 2 * self.generator.integers(-40, 60, shape).astype(np.float64)
        values.flat[0] = 30
        return values

    def biases(self, count: int) -> NDArray[np.float64]:
        return self.generator.integers(-20, 30, count).astype(float)

    def case(
        self,
        name: str,
        shape: tuple[int, ...],
        nodes: dict[str, Node],
        *,
        samples: int = 12,
        steps: int = 16,
        largest: int = 1,
        own: dict[str, NDArray[np.float64]] | None = None,
    ) -> Case:
        """
        Compile a chain of nodes, with the steps of a sample, and draw inputs up to `largest`.

        `own` are the weights of layers' own spikes, by the name of their neurons.
        """
        ranged = InputRange(0, largest, 1) if largest > 1 else None
        last = list(nodes.values())[-1]
        end = last.shape if isinstance(last, LIF) else (len(last.weight),)  # type: ignore[union-attr]
        everything: dict[str, Node] = {
            "input": Input(shape, ranged),
            **nodes,
            "output": Output(end),
        }
        names = list(everything)
        edges = [*itertools.pairwise(names)]
        feedback = []
        for neurons, weight in (own or {}).items():
            back = f"{neurons} again"
            everything[back] = Dense(weight, np.zeros(len(weight)))
            feedback.append((neurons, back))
            edges += [(neurons, back), (back, neurons)]
        network = Network(everything, tuple(edges), steps, frozenset(feedback), weight_unit=1.0)
        program = compile_network(
            network, TARGET, CompileOptions(steps=steps, target_options={"netx": "yes"})
        )
        inputs = self.generator.integers(0, largest + 1, (samples, steps, *shape))
        return Case(name, program, program.extra_files[NETX], inputs)


def cells(shape: tuple[int, ...], threshold: float, leak: int, current: int = 4096) -> LIF:
    """Return neurons by their numbers on the chip: vThMant, vDecay and iDecay."""
    same = np.ones(shape)
    memory = None if current == 4096 else (1 - current / 4096) * same
    return LIF(
        (1 - leak / 4096) * same, same, 0 * same, threshold * same, 0 * same, current_decay=memory
    )


def our_cases(draw: Lines) -> Iterator[Case]:
    """Yield networks of ours with everything that a `.net` file can say."""
    yield draw.case(
        "dense, with biases",
        (20,),
        {
            "fc1": Dense(draw.weights(30, 20), draw.biases(30)),
            "lif1": cells((30,), 150, 300),
            "fc2": Dense(draw.weights(12, 30), draw.biases(12)),
            "lif2": cells((12,), 90, 1000),
        },
    )
    yield draw.case(
        "currents with memory",
        (20,),
        {
            "fc1": Dense(draw.weights(30, 20), np.zeros(30)),
            "lif1": cells((30,), 300, 410, 410),
            "fc2": Dense(draw.weights(12, 30), np.zeros(12)),
            "lif2": cells((12,), 220, 0, 1024),
        },
    )
    yield draw.case(
        "odd weights above 0",
        (20,),
        {
            "fc": Dense(draw.generator.integers(0, 256, (15, 20)).astype(float), draw.biases(15)),
            "lif": cells((15,), 2500, 500),
        },
    )
    yield draw.case(
        "weights below 0 only",
        (20,),
        {
            "fc": Dense(
                -2 * draw.generator.integers(1, 75, (15, 20)).astype(float), np.full(15, 900.0)
            ),
            "lif": cells((15,), 700, 500),
        },
    )
    yield draw.case(
        "convolutions",
        (2, 9, 7),
        {
            "conv1": Conv2d(draw.weights(6, 2, 3, 2), draw.biases(6), (2, 1), (1, 0)),
            "lif1": cells((6, 5, 6), 150, 300),
            "conv2": Conv2d(draw.weights(4, 3, 2, 2), draw.biases(4), (1, 2), (0, 1), (2, 1), 2),
            "lif2": cells((4, 3, 4), 120, 2000),
            "flatten": Flatten(),
            "fc": Dense(draw.weights(10, 48), draw.biases(10)),
            "lif3": cells((10,), 200, 100),
        },
    )
    yield draw.case(
        "a convolution at the end",
        (2, 5, 4),
        {
            "conv": Conv2d(draw.weights(3, 2, 2, 3), draw.biases(3)),
            "lif": cells((3, 4, 2), 150, 300),
        },
    )
    yield draw.case(
        "delays",
        (8,),
        {
            "late1": Delay(draw.generator.integers(0, 5, 8)),
            "fc1": Dense(draw.weights(8, 8), np.zeros(8)),
            "lif1": cells((8,), 60, 300),
            "late2": Delay(draw.generator.integers(0, 62, 8)),
            "fc2": Dense(draw.weights(6, 8), np.zeros(6)),
            "lif2": cells((6,), 60, 1000),
        },
        samples=1,
        steps=100,
    )
    # One sample: netx does not silence neurons between samples, and spikes would reach the next.
    yield draw.case(
        "feedback",
        (20,),
        {
            "fc1": Dense(draw.weights(30, 20), draw.biases(30)),
            "lif1": cells((30,), 900, 300),
            "fc2": Dense(draw.weights(12, 30), np.zeros(12)),
            "lif2": cells((12,), 700, 0, 1024),
        },
        samples=1,
        steps=100,
        own={"lif1": draw.weights(30, 30) / 2 // 2 * 2 - 10, "lif2": draw.weights(12, 12) - 40},
    )
    yield draw.case(
        "feedback of small weights, below 0 only",
        (20,),
        {
            "fc": Dense(draw.weights(15, 20), draw.biases(15)),
            "lif": cells((15,), 300, 300),
        },
        samples=1,
        steps=100,
        own={"lif": -2 * draw.generator.integers(0, 6, (15, 15)).astype(float)},
    )
    yield draw.case(
        "graded inputs and feedback",
        (10,),
        {"fc": Dense(draw.weights(20, 10), np.zeros(20)), "lif": cells((20,), 2000, 300)},
        samples=1,
        steps=100,
        largest=63,
        own={"lif": draw.weights(20, 20)},
    )
    yield draw.case(
        "graded inputs",
        (10,),
        {
            "fc1": Dense(draw.weights(20, 10), np.zeros(20)),
            "lif1": cells((20,), 4500, 300),
            "fc2": Dense(draw.weights(12, 20), draw.biases(12)),
            "lif2": cells((12,), 90, 1000),
        },
        largest=127,
    )
    yield draw.case(
        "a read-out",
        (20,),
        {
            "fc1": Dense(draw.weights(30, 20), draw.biases(30)),
            "lif1": cells((30,), 150, 300),
            "fc2": Dense(draw.weights(5, 30), draw.biases(5)),
        },
        samples=1,
        steps=40,
    )


def their_cases(data: Path) -> Iterator[Case]:
    """Yield third-party files, with what they were made for as input."""
    with np.load(data / "nets/oxford_io.npz") as file:
        yield theirs("oxford", data / "nets/oxford_network.net", file["input_dense"].T[None, :400])
    with np.load(data / "images/mnist.npz") as file:
        pixels = file["x_test"][:40].reshape(40, 784) / 255
    membrane, spikes = np.zeros_like(pixels), []
    for _ in range(20):
        membrane += pixels
        spikes.append(membrane > 1)
        membrane[membrane > 1] = 0
    name = "trained_mnist_network"
    yield theirs("digits", data / f"nets/{name}.net", np.stack(spikes, 1).astype(np.int64))


def theirs(name: str, path: Path, inputs: NDArray[Any]) -> Case:
    """Compile somebody's `.net` file, which netx gets as it is."""
    options = CompileOptions(steps=inputs.shape[1])
    program = compile_network(from_netx(path).network, TARGET, options)
    return Case(name, program, path.read_bytes(), inputs.astype(np.int64))


def compare(case: Case, python: str) -> tuple[int, int, float]:
    """Return the differing places of the output and the last membranes, all places, the rate of spikes."""
    last = case.program.network.neurons[-1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / NETX).write_bytes(case.file)
        graded = case.inputs.max() > 1
        np.savez(folder / "in.npz", inputs=case.inputs, graded=graded)
        subprocess.run([python, "-W", "ignore", str(LOADER), "run", name], check=True, cwd=name)
        with np.load(folder / "out.npz") as file:
            output, membrane = file["output"], file["membrane"]
    trace = case.program.run(case.inputs, ["all", f"membrane/{last.name}"], on="fixedpoint").trace
    spikes = np.zeros_like(output) if last.readout else trace.spikes[last.name]
    differing = int((output != spikes).sum())
    places = output.size
    if (
        len(case.inputs) == 1
    ):  # membranes are reset where the next sample starts, and ours are not yet
        differing += int((membrane != trace.membrane[last.name][-1, -1]).sum())
        places += membrane.size
    fired = trace.spikes.values()
    return differing, places, min(float(values.mean()) for values in fired)


def compare_weights(python: str) -> int:
    """Return on how many random matrices netx keeps other weights than the writer believes."""
    generator = np.random.default_rng(SEED)
    matrices: dict[str, Any] = {}
    for number in range(MATRICES):
        largest = 2 ** int(generator.integers(0, 8))
        shape = tuple(generator.integers(1, 5, 2))
        kind = ("mixed", "excitatory", "inhibitory")[number % 3]
        weight = generator.integers(0, largest + 1, shape)
        if kind == "mixed":
            weight = np.clip(2 * (weight - largest // 2), -256, 254)
        elif kind == "inhibitory":
            weight = np.maximum(-2 * weight, -256)
        own = int(generator.integers(0, shape[1]))  # columns of the layer's own spikes
        if weight.any():
            matrices[f"{number}.{shape[1] - own}"] = weight
    with tempfile.TemporaryDirectory() as name:
        np.savez(Path(name) / "in.npz", **matrices)
        subprocess.run([python, "-W", "ignore", str(LOADER), "weights", name], check=True, cwd=name)
        with np.load(Path(name) / "out.npz") as file:
            wrong = 0
            for key, weight in matrices.items():
                columns = int(key.partition(".")[2])
                parts = [part for part in np.hsplit(weight, [columns]) if part.size]
                kept, meant = (
                    np.hstack(both) for both in zip(*_loaded_by_netx(*parts), strict=True)
                )
                same = np.array_equal(kept, file[f"kept/{key}"])
                wrong += not (same and np.array_equal(meant, file[f"meant/{key}"]))
            changed = sum((file[f"kept/{key}"] != file[f"meant/{key}"]).any() for key in matrices)
    print(f"{len(matrices)} matrices: {wrong} foreseen wrongly; netx changes {changed}")
    return wrong


def main() -> int:
    """Compare everything, print a line each, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python")
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[3] / "shared")
    options = parser.parse_args()
    cases = list(our_cases(Lines(np.random.default_rng(SEED))))
    if (options.shared / "data/README.md").is_file():
        cases += their_cases(options.shared / "data")
    python = str(Path(options.python).absolute())  # not resolved: a venv's is a link
    failed = compare_weights(python)
    for case in cases:
        differing, places, rate = compare(case, python)
        shape = "x".join(str(extent) for extent in case.inputs.shape)
        print(
            f"{case.name}: {differing} of {places} places differ (inputs {shape}, at least "
            f"{rate:.3f} spikes a step in each layer)",
            flush=True,
        )
        failed += differing + (not math.isfinite(rate) or not 0 < rate < 1)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
