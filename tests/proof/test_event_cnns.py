"""
Other people's event CNNs on real N-MNIST recordings, under the semantics that trained them.

The NIR paper's network (sinabs, one spike a step, 98 % reported) and BRANDY's (sinabs' default: any
number of spikes, membranes clipped at minus the threshold, 96 % with 30 time bins): float, integers, Lava.
`make proof` takes all 50 test recordings, the tests the first ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.counted import remarks
from neurocompile.data import InputRange
from neurocompile.frontend.from_nir import from_nir
from neurocompile.ir import Input, Network
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program
from neurocompile.reference import simulate
from neurocompile.target import find

EVERYTHING = bool(os.environ.get("NEUROCOMPILE_PROOF_WIDTH"))
SIZE = 34
MILLISECONDS, BINS = 300, 30
COUNTS = InputRange(0, 15, 1)

Recordings = tuple[NDArray[np.uint8], NDArray[np.int64]]


def _frames(t: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
    """Return the step of each event: of 1 ms from the first event, or of equal bins, the rest of a bin lost."""
    width = 1000 if steps == MILLISECONDS else (t[-1] - t[0]) // steps
    return np.asarray((t - t[0]) // width)


@pytest.fixture(scope="module")
def recordings(shared_data: Path) -> Callable[[int, int], Recordings]:
    """Makes counts (samples, steps, polarity, y, x) of the first test recordings, and their labels."""
    stored = np.load(shared_data / "events/nmnist_small.npz")
    x, y, t, p = (stored[f"test_{name}"] for name in "xytp")
    offsets = stored["test_offsets"]

    def make(samples: int, steps: int) -> Recordings:
        frames = np.zeros((samples, steps, 2, SIZE, SIZE), np.uint8)
        for sample in range(samples):
            events = slice(offsets[sample], offsets[sample + 1])
            step = _frames(t[events].astype(np.int64), steps)
            kept = step < steps
            place = (step, *(axis[events] for axis in (p, y, x)))
            np.add.at(frames[sample], tuple(index[kept] for index in place), 1)
        return frames, stored["test_label"][:samples].astype(np.int64)

    return make


def read(shared_data: Path, name: str, **options: Any) -> Network:
    network = from_nir(shared_data / f"nir/{name}.nir", profile="sinabs", **options).network
    return network.replaced(
        {
            name: replace(node, range=COUNTS) if isinstance(node, Input) else node
            for name, node in network.nodes.items()
        }
    )


def compiled(network: Network, steps: int) -> Program:
    return compile_network(
        network,
        find("loihi2"),
        CompileOptions(steps=steps, membranes="saturating", validate=False),
    )


def accuracy(output: NDArray[Any], labels: NDArray[np.int64]) -> float:
    return float((output.reshape(*output.shape[:2], -1).sum(1).argmax(1) == labels).mean())


@pytest.mark.parametrize(
    ("max_spikes", "min_membrane", "reported"),
    [("any", "threshold", 0.96), ("any", "none", 0.80), (1, "none", 0.66)],
)
def test_brandy_is_as_accurate_as_its_semantics_say(
    shared_data: Path,
    recordings: Callable[[int, int], Recordings],
    max_spikes: int | str,
    min_membrane: str,
    reported: float,
) -> None:
    """Neither is in the file, and both decide what the network is worth."""
    frames, labels = recordings(50, BINS)
    network = read(shared_data, "brandy_100", max_spikes=max_spikes, min_membrane=min_membrane)

    assert accuracy(simulate(network, frames).output, labels) == pytest.approx(reported)


def test_brandy_keeps_its_accuracy_in_integers(
    shared_data: Path, recordings: Callable[[int, int], Recordings]
) -> None:
    frames, labels = recordings(50, BINS)
    program = compiled(
        read(shared_data, "brandy_100", max_spikes=31, min_membrane="threshold"), BINS
    )

    result = program.run(frames, "all", on="fixedpoint")

    assert accuracy(result.output, labels) == pytest.approx(0.96)
    assert max(spikes.max() for spikes in result.spikes.values()) > 10
    assert remarks(program.network, result.trace.counters) == []


def test_brandy_without_a_limit_is_refused(shared_data: Path) -> None:
    """The worst case multiplies from layer to layer; the message names the way out."""
    from neurocompile.errors import RangeError

    network = read(shared_data, "brandy_100", max_spikes="any", min_membrane="threshold")

    with pytest.raises(RangeError, match="--max-spikes"):
        compiled(network, BINS)


@pytest.mark.lava
@pytest.mark.parametrize("name", ["brandy_100", "brandy_10"])
def test_brandy_fires_the_same_spikes_on_lava(
    shared_data: Path, recordings: Callable[[int, int], Recordings], name: str
) -> None:
    frames, _ = recordings(50 if EVERYTHING else 5, BINS)
    network = read(shared_data, name, max_spikes=31, min_membrane="threshold")
    identical(compiled(network, BINS), frames)


def test_the_network_of_the_nir_paper_keeps_its_accuracy_in_integers(
    shared_data: Path, recordings: Callable[[int, int], Recordings]
) -> None:
    frames, labels = recordings(50 if EVERYTHING else 6, MILLISECONDS)
    network = read(shared_data, "cnn_sinabs", max_spikes=1, min_membrane="none")
    program = compiled(network, MILLISECONDS)

    float_output = simulate(network, frames).output
    result = program.run(frames, "all", on="fixedpoint")

    assert accuracy(float_output, labels) == (0.98 if EVERYTHING else 1.0)
    assert accuracy(result.output, labels) == (0.98 if EVERYTHING else 1.0)
    told = remarks(program.network, result.trace.counters)
    assert told  # 300 steps without a leak do reach the end of 24 bits, and it is said
    assert all("saturated its membranes" in remark for remark in told)


@pytest.mark.lava
def test_the_network_of_the_nir_paper_fires_the_same_spikes_on_lava(
    shared_data: Path, recordings: Callable[[int, int], Recordings]
) -> None:
    frames, _ = recordings(8 if EVERYTHING else 1, MILLISECONDS)
    network = read(shared_data, "cnn_sinabs", max_spikes=1, min_membrane="none")
    identical(compiled(network, MILLISECONDS), frames)


def identical(program: Program, frames: NDArray[np.uint8]) -> None:
    with program:
        ours = program.run(frames, "all")
        definition = program.run(frames, "all", on="fixedpoint")
    np.testing.assert_array_equal(ours.output, definition.output)
    for layer, spikes in definition.spikes.items():
        np.testing.assert_array_equal(ours.spikes[layer], spikes, err_msg=layer)
        assert spikes.any()
