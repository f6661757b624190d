"""Other people's recurrent graphs, on Lava, as their file names say they reset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.frontend.from_nir import from_nir
from neurocompile.ir import Input, Network
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program
from neurocompile.target import find

RECURRENT = {
    "braille_noDelay_bias_zero": "zero",
    "braille_noDelay_noBias_subtract": "subtract",
    "braille_zero_nested_subgraph": "zero",
}
STEPS = 100
RATES = (0.0, 0.05, 0.2, 0.6)


@pytest.fixture
def graph(shared_data: Path) -> Callable[[str], Network]:
    """Reads a third-party graph by name."""
    return lambda name: (
        from_nir(
            shared_data / "nir" / f"{name}.nir", profile="literal", dt=1e-4, reset=RECURRENT[name]
        ).network
    )


def spikes(shape: tuple[int, ...]) -> NDArray[np.float64]:
    generator = np.random.default_rng(5)
    return np.concatenate(
        [(generator.random((1, STEPS, *shape)) < rate).astype(float) for rate in RATES]
    )


def identical(program: Program, inputs: NDArray[np.float64]) -> dict[str, NDArray[np.uint8]]:
    record = ["all", "membrane/lif2"]
    with program:
        ours = program.run(inputs, record)
        definition = program.run(inputs, record, on="fixedpoint")
    np.testing.assert_array_equal(ours.output, definition.output)
    for layer, fired in definition.spikes.items():
        np.testing.assert_array_equal(ours.spikes[layer], fired, err_msg=layer)
        assert 0 < fired.mean() < 0.9
    np.testing.assert_array_equal(ours.membrane["lif2"], definition.membrane["lif2"])
    return dict(definition.spikes)


@pytest.mark.lava
@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_braille_network_fires_the_same_spikes_on_lava(
    name: str, graph: Callable[[str], Network]
) -> None:
    network = graph(name)
    (shape,) = {network.shapes["input"]}

    program = compile_network(network, find("loihi2"), CompileOptions(validate=True, steps=STEPS))

    assert (program.schedule.gap, program.schedule.stride) == (1, 1)
    reports = program.facts["validation"]["passes"]
    assert [report["mismatches"] for report in reports if report["exact"]] == [0] * 5
    identical(program, spikes(shape))
    microcode = [note for note in program.facts["notes"] if "needs microcode on silicon" in note]
    assert len(microcode) == (2 if RECURRENT[name] == "subtract" else 0)


def test_the_nested_graph_is_the_flat_one(graph: Callable[[str], Network]) -> None:
    flat, nested = (graph(name) for name in list(RECURRENT)[::2])
    inputs = spikes(flat.shapes["input"])

    one, two = (
        compile_network(network, find("fixedpoint"), CompileOptions(steps=STEPS)).run(inputs, "all")
        for network in (flat, nested)
    )

    np.testing.assert_array_equal(one.output, two.output)
    np.testing.assert_array_equal(one.spikes["lif1.lif"], two.spikes["lif1.lif1"])
    assert one.spikes["lif2"].any()


SMALL: dict[str, dict[str, Any]] = {
    "lif_norse": {"profile": "norse", "dt": 1e-4, "reset": "zero"},
    "two_lif_neurons": {"profile": "literal", "dt": 1e-4, "reset": "zero"},
}


@pytest.mark.lava
@pytest.mark.parametrize("name", SMALL)
def test_small_graphs_fire_the_same_spikes_on_lava(shared_data: Path, name: str) -> None:
    """The second one has leak voltages above its thresholds: it fires by itself."""
    network = from_nir(shared_data / f"nir/{name}.nir", **SMALL[name]).network
    (entry,) = network.of_type(Input)
    program = compile_network(network, find("loihi2"), CompileOptions(validate=True, steps=STEPS))
    inputs = spikes(network.shapes[entry])

    with program:
        ours = program.run(inputs, "all")
        definition = program.run(inputs, "all", on="fixedpoint")

    np.testing.assert_array_equal(ours.output, definition.output)
    for layer, fired in definition.spikes.items():
        np.testing.assert_array_equal(ours.spikes[layer], fired, err_msg=layer)
    assert any(fired.any() for fired in definition.spikes.values())
