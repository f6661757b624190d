"""
The same network, with the same weights and inputs, in other frameworks on the CPU, and on Lava.

    python benchmarks/compare_peers.py PEERS_PYTHON [--rounds 3] [--quick] [--output DIR]

`make bench-peers` makes the environment of `PEERS_PYTHON`. Processes take turns, one for each framework
and round. Writes `benchmarks/results/peers.md`, and its numbers as JSON beside it.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import QUICK, Sizes, compiled, in_batches
from harness import (
    RESULTS,
    Others,
    Section,
    child,
    interleave,
    keep_to_threads,
    machine,
    report,
    shown,
    table,
    timed,
    write_report,
)
from networks import eager, firing_rates, random_spikes, small_network

from neurocompile.ir import LIF, Conv2d, Dense

INFER = Path(__file__).parent / "peers" / "infer.py"
PEERS = {"snntorch": "snnTorch", "spikingjelly": "SpikingJelly", "norse": "Norse"}
SAME = 1e-3  # of an output's value, which is of the order of 1: float32 adds in another order


class Peer:
    """A framework; remembers what its processes said, beside how long they took."""

    def __init__(self, name: str, python: Path, network: Path, batch: int) -> None:
        self.name, self.python, self.network, self.batch = name, python, network, batch
        self.output = np.empty(0)
        self.version = ""

    def __call__(self) -> float:
        found = child([INFER, self.name, self.network, str(self.batch)], python=self.python)
        self.output, self.version = np.array(found["output"]), found["version"]
        return float(found["seconds"][str(self.batch)])


def measure(sizes: Sizes, python: Path) -> Section:
    """Measure sample-steps per second of the small network in every framework."""
    network = small_network(sizes.steps, size=sizes.pixels)
    inputs = random_spikes(sizes.samples, sizes.steps, (1, sizes.pixels, sizes.pixels))
    by_step = torch.tensor(inputs, dtype=torch.float32).transpose(0, 1).contiguous()
    ours, lava = compiled(network), compiled(network, "loihi2", convolution="conv")
    rates = firing_rates(ours, inputs[: sizes.definition])
    plain = eager(network, channels_last=False)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "network.npz"
        np.savez(file, input=by_step.numpy().astype(np.uint8), **_weights(network))
        peers = {
            f"{shown_as}, {batch} at once": Peer(name, python, file, batch)
            for name, shown_as in PEERS.items()
            for batch in sizes.batches
        }
        eagers = {
            f"PyTorch by hand, {batch} at once": timed(partial(in_batches, plain, by_step, batch))
            for batch in sizes.batches
        }
        times = interleave(
            {
                "`fixedpoint`": timed(partial(ours.run, inputs)),
                **eagers,
                **peers,
                "Lava, Conv processes": timed(partial(lava.run, inputs[: sizes.conv])),
            },
            sizes.rounds,
        )
    ours.close()
    lava.close()
    expected = plain(by_step).numpy()
    rows, speeds, same = [], {}, {}
    for name, value in times.items():
        samples = sizes.conv if name.startswith("Lava") else sizes.samples
        speeds[name] = samples * sizes.steps / value.median
        if name in peers:
            same[name] = float((np.abs(peers[name].output - expected) < SAME).mean())
        rows.append(
            (
                name,
                shown(speeds["`fixedpoint`"] / speeds[name]),
                f"{speeds[name]:,.0f}",
                str(samples),
                f"{shown(value.median)} s",
                value.spread,
                f"{100 * same[name]:.2f} %" if name in same else "",
            )
        )
    versions = ", ".join({f"{PEERS[peer.name]} {peer.version}": "" for peer in peers.values()})
    told = ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in rates.items())
    head = (
        "executor",
        "`fixedpoint` is faster by",
        "sample-steps per second",
        "samples",
        "median",
        "spread",
        "outputs as PyTorch's",
    )
    return Section(
        f"{sizes.pixels}x{sizes.pixels} 16C3-32C3s2-FC10, T={sizes.steps}",
        (
            f"{versions}; float32, inference mode, each in processes of its own that warm up before they "
            f"measure; {sizes.rounds} rounds. Firing rates a step are {told}. `fixedpoint` and Lava compute "
            "integers, quantised to 8 bits; the others the same numbers, up to the order of sums: the last "
            "column tells how many of their outputs agree."
        ),
        table(head, rows),
        {
            "rates": rates,
            "sample_steps_per_second": speeds,
            "seconds": {name: value.seconds for name, value in times.items()},
            "outputs_that_agree": same,
        },
    )


def _weights(network: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, node in network.nodes.items():
        if isinstance(node, Conv2d):
            found[name] = node.weight
        elif isinstance(node, Dense):
            found["readout"] = node.weight
        elif isinstance(node, LIF):
            found |= {"decay": node.decay.flat[0], "threshold": node.threshold.flat[0]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", type=Path, help="of the environment with the frameworks")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is measured")
    parser.add_argument(
        "--quick", action="store_true", help="the smallest sizes, to see that it runs"
    )
    parser.add_argument("--output", type=Path, help="where to write peers.md and peers.json")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes(rounds=options.rounds)
    keep_to_threads()
    measured, others = machine(), Others()
    sections = [measure(sizes, options.python)]
    introduction = "Inference of one network in other frameworks, measured by `make bench-peers`."
    page = report("Other frameworks", introduction, sections, measured, others.share())
    write_report(
        options.output or (None if options.quick else RESULTS), "peers", page, sections, measured
    )


if __name__ == "__main__":
    main()
