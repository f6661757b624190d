"""Programs whose channels have scales, and so thresholds, of their own: on every way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from neurocompile_fixedpoint.definition import execute
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.describe import describe
from neurocompile.errors import UnsupportedError
from neurocompile.ir import LIF, Conv2d, Dense, Flatten, Network
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program, load
from neurocompile.quantisation.recipe import Recipe
from neurocompile.target import find

GRID = InputRange(0.0, 1.0, 1 / 8)


@pytest.fixture
def network(chain: Callable[..., Network], lif: Callable[..., LIF]) -> Network:
    """A convolution and two dense layers whose channels differ up to 50 times in size."""
    generator = np.random.default_rng(3)

    def drawn(*shape: int) -> NDArray[np.float64]:
        size = np.geomspace(0.05, 2.5, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        return np.asarray(generator.normal(0.3, 1, shape) * size)

    nodes = {
        "conv": Conv2d(drawn(4, 2, 3, 3), drawn(4), padding=(1, 1)),
        "lif1": lif((4, 5, 5), threshold=np.geomspace(0.1, 4, 4).reshape(4, 1, 1)),
        "flatten": Flatten(),
        "fc": Dense(drawn(6, 100) / 4, drawn(6)),
        "lif2": lif((6,), threshold=np.geomspace(0.1, 4, 6)),
        "out": Dense(drawn(3, 6), drawn(3)),
    }
    return chain((2, 5, 5), nodes, steps=6, input_range=GRID)


@pytest.fixture
def inputs() -> NDArray[np.float64]:
    generator = np.random.default_rng(4)
    return np.asarray(generator.integers(0, 9, (3, 6, 2, 5, 5)) / 8)


def compiled(network: Network, target: str, **options: str) -> Program:
    return compile_network(
        network,
        find(target),
        CompileOptions(recipe=Recipe(5, scales="channel"), target_options=options),
    )


def same(program: Program, inputs: NDArray[np.float64], on: str | None = None) -> dict[str, Any]:
    """Check that an executor does what the definition does; return the spikes."""
    names = [neurons.name for neurons in program.network.spiking]
    expected = execute(
        program.network, program.payloads(inputs), samples=len(inputs), steps=6, record=names
    )
    with program:
        result = program.run(inputs, "all", on=on)
    for name in names:
        np.testing.assert_array_equal(result.spikes[name], expected.spikes[name], err_msg=name)
    for name, values in expected.outputs.items():
        np.testing.assert_array_equal(result.trace.outputs[name], values)
    return dict(expected.spikes)


def test_channels_have_thresholds_of_their_own_and_fire_as_defined(
    network: Network, inputs: NDArray[np.float64]
) -> None:
    program = compiled(network, "fixedpoint")

    spikes = same(program, inputs)

    for neurons in program.network.spiking:
        assert len(np.unique(neurons.threshold)) == neurons.shape[0]
    assert all(0.02 < fired.mean() < 0.98 for fired in spikes.values())


def test_a_program_keeps_the_scales_of_its_channels(network: Network, tmp_path: Any) -> None:
    program = compiled(network, "fixedpoint")

    program.save(tmp_path / "program")
    loaded = load(tmp_path / "program")

    for first, second in zip(program.network.neurons, loaded.network.neurons, strict=True):
        np.testing.assert_array_equal(first.scale, second.scale)
        np.testing.assert_array_equal(first.threshold, second.threshold)
    assert loaded.bounds == program.bounds
    assert describe(loaded.network)


@pytest.mark.lava
@pytest.mark.parametrize("parameters", ["split", "arrays"])
def test_lava_fires_the_same_spikes(
    network: Network, inputs: NDArray[np.float64], parameters: str
) -> None:
    """Loihi 2's neurons of a population share a threshold: each channel is a population there."""
    same(compiled(network, "loihi2", parameters=parameters), inputs)


def test_a_net_file_has_no_scales_of_channels(
    chain: Callable[..., Network], lif: Callable[..., LIF]
) -> None:
    """Its format has one threshold for each layer; the refusal says what to ask for instead."""
    weight = np.array([[0.5, 0.25], [0.05, 0.01]])
    network = chain((2,), {"fc": Dense(weight, np.zeros(2)), "lif": lif((2,))})

    with pytest.raises(
        UnsupportedError,
        match="layer 'lif' needs one threshold for all of its neurons.*--scales layer",
    ):
        compiled(network, "loihi2", netx="yes")
