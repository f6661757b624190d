"""Integers as real numbers again: the same spikes wherever no state is rounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import execute

from neurocompile.dequantise import dequantise, simulate_dequantised
from neurocompile.integer import (
    READOUT_THRESHOLD,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
)
from neurocompile.population_reference import simulate_populations
from neurocompile.populations import (
    InputPopulation,
    ReadoutPopulation,
    SpikingPopulation,
    SumPopulation,
)

Make = Callable[..., Any]


def run(network: IntegerNetwork, payloads: dict[str, Any]) -> Any:
    names = [item.name for item in network.spiking]
    return execute(
        network,
        payloads,
        samples=len(payloads["image"]),
        steps=payloads["image"].shape[1],
        record=[*names, *(f"membrane/{name}" for name in names)],
        before_reset=True,
    )


@settings(max_examples=150)
@given(seed=st.integers(0, 1 << 30))
def test_where_no_state_is_rounded_all_spikes_are_those_of_the_integers(
    maker: Make, seed: int
) -> None:
    made = maker(seed)
    network, payloads = made.network(), made.payloads()
    expected = run(network, payloads)

    found = simulate_dequantised(network, payloads)
    # These scales are powers of two: the source's units are as exact as the chip's.
    as_source = simulate_populations(dequantise(network), made.real_inputs(network, payloads))

    for trace in (found, as_source):
        for item in network.spiking:
            np.testing.assert_array_equal(trace.spikes[item.name], expected.spikes[item.name])
            membrane = item.in_source_units(expected.membrane[item.name])
            np.testing.assert_array_equal(trace.membrane[item.name] + item.origin, membrane)
        for name, layer in network.outputs.items():
            shown = next(item for item in network.neurons if item.name == layer)
            values = expected.outputs[name]
            values = shown.in_source_units(values) if shown.readout else values
            np.testing.assert_array_equal(trace.outputs[name], values)


def test_the_networks_of_that_property_do_fire(maker: Make) -> None:
    fired = []
    for seed in range(30):
        made = maker(seed)
        trace = run(made.network(), made.payloads())
        assert all(not count["current_wraps"] for count in trace.counters.values())
        fired.append([float(spikes.mean()) for spikes in trace.spikes.values()])
    for rates in zip(*fired, strict=True):
        assert 0.02 < float(np.mean(rates)) < 1.5


def test_a_membrane_on_its_threshold_is_on_it_whatever_the_scale() -> None:
    """3 spikes of weight 7 make 21, the threshold: above it nothing lies, at any scale."""
    neurons = IntegerNeurons(
        "n",
        (1,),
        np.array(4095),
        np.array(0),
        np.array(21),
        np.array(0),
        0,
        np.ones(()),
    )
    network = IntegerNetwork(
        (IntegerInput("input", (1,), 1.0, 0, 1, exact=True), neurons),
        (IntegerSynapses("w", "input", "n", np.array([[7]])),),
        {"output": "n"},
    )
    payloads = {"input": np.ones((1, 4, 1), np.int64)}
    for scale in np.linspace(0.1, 99, 200):
        scaled = replace(
            network, populations=(network.populations[0], replace(neurons, scale=scale))
        )
        trace = simulate_dequantised(scaled, payloads)
        assert trace.spikes["n"].ravel().tolist() == [0, 0, 0, 1]
        np.testing.assert_allclose(trace.membrane["n"].ravel(), np.array([7, 14, 21, 28]) / scale)


def test_every_number_is_in_the_units_of_the_source() -> None:
    """Scale 10: a weight of 5 is 0.5; states are 640 to the unit, and inputs of a scale of 4 a quarter."""
    neurons = IntegerNeurons(
        "n",
        (2,),
        du=np.array(1023),
        dv=np.array(1024),
        threshold=np.array(20),
        bias_mantissa=np.array([32, -16]),
        bias_exponent=1,
        scale=np.array([10.0, 5.0]),
        start=np.array(640),
        pulse=np.array(3),
        origin=np.array(-1.0),
        reset="subtract",
        subtracts=np.array(320),
        inclusive=True,
        most=4,
        floor=np.array(-640),
        refractory=2,
    )
    shown = replace(neurons, name="r", shows="membrane", refractory=0)
    network = IntegerNetwork(
        (
            IntegerInput("input", (1,), 4.0, -4, 8, exact=True),
            IntegerRelay("relay", (2,), 3),
            neurons,
            shown,
        ),
        (
            IntegerSynapses("w", "input", "n", np.array([[5], [-5]]), exponent=1),
            IntegerSynapses("r", "relay", "n", np.array([[10, 0], [0, 10]]), delay=np.array(2)),
        ),
        {"output": "r"},
    )

    real = dequantise(network)

    given = real["input"]
    assert isinstance(given, InputPopulation)
    assert (given.range.minimum, given.range.maximum, given.range.step) == (-1.0, 2.0, 0.25)
    assert real["relay"] == SumPopulation("relay", (2,), 3)
    spiking = real["n"]
    assert isinstance(spiking, SpikingPopulation)
    assert float(spiking.current_decay) == 0.75
    assert float(spiking.decay) == 0.75
    assert spiking.threshold.tolist() == [2.0, 4.0]
    assert spiking.bias.tolist() == [0.1, -0.1]
    assert spiking.start.tolist() == [1.0, 2.0]
    assert spiking.pulse.tolist() == [0.3, 0.6]
    assert float(spiking.origin) == -1.0
    assert spiking.subtracts is not None
    assert spiking.subtracts.tolist() == [0.5, 1.0]
    assert spiking.floor is not None
    assert spiking.floor.tolist() == [-1.0, -2.0]
    assert (spiking.comparison, spiking.most_spikes, spiking.refractory) == (">=", 4, 2)
    readout = real["r"]
    assert isinstance(readout, ReadoutPopulation)
    assert readout.decay is not None
    weights = {group.name: group for group in real.synapses}
    # One unit of input is 4 payloads of weight 5, shifted left by 1: 40 weight units.
    np.testing.assert_allclose(weights["w"].operator.weight, [[4.0], [-8.0]])
    np.testing.assert_allclose(weights["r"].operator.weight, [[1.0, 0.0], [0.0, 2.0]])
    assert int(weights["r"].delay) == 2


@pytest.mark.parametrize("shows", ["input", "membrane"])
def test_a_readout_shows_its_first_pulse_only_where_it_integrates(shows: Any) -> None:
    neurons = IntegerNeurons(
        "r",
        (1,),
        np.array(4095),
        np.array(0),
        np.array(READOUT_THRESHOLD),
        np.array(0),
        0,
        np.array(2.0),
        shows=shows,
        pulse=np.array(6),
    )
    network = IntegerNetwork(
        (IntegerInput("input", (1,), 1.0, 0, 1, exact=True), neurons),
        (IntegerSynapses("w", "input", "r", np.array([[4]])),),
        {"output": "r"},
    )
    payloads = {"input": np.ones((1, 2, 1), np.int64)}
    expected = execute(network, payloads, samples=1, steps=2).outputs["output"]

    found = simulate_dequantised(network, payloads).outputs["output"]

    np.testing.assert_array_equal(found, neurons.in_source_units(expected))
