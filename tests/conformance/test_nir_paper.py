"""
The leaky neuron of the NIR paper, one file on five simulators and a Loihi 2, spike for spike.

The file was written by a Norse whose exporter still wrote time constants in seconds: it is read
literally. The recordings are from the paper's repository; they are skipped where they are not here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from neurocompile_fixedpoint.definition import execute
from numpy.typing import NDArray

from neurocompile.frontend.from_nir import from_nir
from neurocompile.integer import IntegerInput, IntegerNetwork, IntegerNeurons, IntegerSynapses
from neurocompile.ir import LIF, Network
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program
from neurocompile.reference import simulate
from neurocompile.target import find

STEPS, SPIKES = 1000, 4


@pytest.fixture
def neuron(shared_data: Path) -> Network:
    options: dict[str, Any] = {"profile": "literal", "dt": 1e-4, "reset": "zero"}
    return from_nir(shared_data / "nir/lif_norse.nir", **options).network


def recording(shared_data: Path, platform: str) -> NDArray[np.float64]:
    path = shared_data / f"goldens/nirpaper_lif/lif_{platform}.csv"
    rows = np.loadtxt(path, delimiter=",")
    assert rows.shape == (STEPS, 3)
    assert rows[:, 2].sum() == SPIKES
    return np.asarray(rows, np.float64)


def run(network: Network, values: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the neuron's spikes, and its membrane after the reset."""
    trace = simulate(network, values.reshape(1, -1, 1), membranes=True)
    spikes, membrane = trace.spikes["1"].ravel(), trace.membrane["1"].ravel()
    return spikes, np.where(spikes > 0, 0.0, membrane)


def test_a_file_of_an_older_norse_is_read_as_norse_s(shared_data: Path, neuron: Network) -> None:
    """Its time constant is longer than a step, so it is no product of the two."""
    options: dict[str, Any] = {"profile": "norse", "dt": 1e-4, "reset": "zero"}
    read = from_nir(shared_data / "nir/lif_norse.nir", **options).network.nodes["1"]

    literal = neuron.nodes["1"]
    assert isinstance(read, LIF)
    assert isinstance(literal, LIF)
    for name in ("decay", "gain", "leak", "threshold", "reset_to"):
        np.testing.assert_array_equal(getattr(read, name), getattr(literal, name), err_msg=name)


@pytest.mark.parametrize(
    ("platform", "late", "unit"),
    [
        ("norse", 0, 1.0),
        ("snntorch", 0, 25.0),  # its input is not scaled by dt / tau, so its threshold is 2.5
        ("lava_cpu_float", 1, 1.0),  # a connection takes a step
    ],
)
def test_simulators_in_floating_point(
    shared_data: Path, neuron: Network, platform: str, late: int, unit: float
) -> None:
    rows = recording(shared_data, platform)

    spikes, membrane = run(neuron, rows[:, 0])

    np.testing.assert_array_equal(spikes[: STEPS - late], rows[late:, 2])
    if platform == "snntorch":  # it shows what it compared, and resets in the next step
        quiet = spikes == 0
        np.testing.assert_allclose(rows[quiet, 1] / unit, membrane[quiet], rtol=0, atol=1e-6)
    else:
        np.testing.assert_allclose(rows[late:, 1], membrane[: STEPS - late], rtol=0, atol=1e-7)


def test_the_closed_form_fires_in_the_same_steps(shared_data: Path, neuron: Network) -> None:
    """It resets within a step and integrates on, so membranes differ by up to 0.0063, of 0.1."""
    rows = recording(shared_data, "exact")

    spikes, membrane = run(neuron, rows[:, 0])

    np.testing.assert_array_equal(spikes, rows[:, 2])
    assert 0.006 < np.abs(membrane - rows[:, 1]).max() < 0.0063


@pytest.mark.parametrize("platform", ["lava_cpu_fixed", "lava_loihi_fixed"])
def test_integers_of_lava_and_of_the_chip(shared_data: Path, platform: str) -> None:
    """The paper's own integers: weight 10, dv 163, a threshold of 25. The chip's are tested beside Lava's."""
    rows = recording(shared_data, platform)
    neurons = IntegerNeurons(
        "out",
        (1,),
        du=np.array(4095),
        dv=np.array(163),
        threshold=np.array(25),
        bias_mantissa=np.zeros(1, np.int64),
        bias_exponent=0,
        scale=np.ones(()),
    )
    network = IntegerNetwork(
        (IntegerInput("in", (1,), 1.0, 0, 1, True), neurons),
        (IntegerSynapses("w", "in", "out", np.array([[10]])),),
        {"out": "out"},
    )

    values = {"in": rows[:, 0].astype(np.int64).reshape(1, -1, 1)}
    trace = execute(network, values, samples=1, steps=STEPS, record=["out", "membrane/out"])

    spikes, membrane = trace.spikes["out"].ravel()[:-1], trace.membrane["out"].ravel()[:-1]
    np.testing.assert_array_equal(spikes, rows[1:, 2])
    quiet = spikes == 0
    np.testing.assert_array_equal(membrane[quiet], rows[1:, 1][quiet])


@pytest.mark.parametrize("target", ["fixedpoint", pytest.param("loihi2", marks=pytest.mark.lava)])
def test_our_own_integers(
    shared_data: Path, neuron: Network, target: str, opened: Callable[[Program], Program]
) -> None:
    rows = recording(shared_data, "norse")
    program = opened(compile_network(neuron, find(target), CompileOptions(steps=STEPS)))

    result = program.run(rows[:, 0].reshape(1, -1, 1), ["1"])

    np.testing.assert_array_equal(result.spikes["1"].ravel(), rows[:, 2])
