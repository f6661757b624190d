"""Reset voltages moved to zero: a neuron by hand, before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurocompile.ir import LIF, Network
from neurocompile.passes.shift_resets import shift_resets
from neurocompile.reference import simulate

Chain = Callable[..., Network]
MakeLif = Callable[..., LIF]

CURRENT = np.array([0.6, 0.8, 0.0, 1.0, 1.2, 2.0]).reshape(1, 6, 1)


def lif_of(network: Network) -> LIF:
    node = network.nodes["lif"]
    assert isinstance(node, LIF)
    return node


def test_a_neuron_that_resets_to_a_quarter_by_hand(chain: Chain, lif: MakeLif) -> None:
    """
    u: .6, .3 + .8 fires; .25 / 2 = .125, .0625 + 1 fires; .125 + 1.2 fires, .125 + 2 fires.

    A quarter lower, from -.25 on, with a leak to -.25 and the threshold .75: the same.
    """
    network = chain((1,), {"lif": lif((1,), reset_to=0.25)})

    shifted = shift_resets(network)

    node = lif_of(shifted)
    assert node.start is not None
    numbers = (node.threshold, node.leak, node.start, node.reset_to)
    assert [values.tolist() for values in numbers] == [[0.75], [-0.25], [-0.25], [0]]
    before, after = (simulate(each, CURRENT, membranes=True) for each in (network, shifted))
    membrane = np.array([0.6, 1.1, 0.125, 1.0625, 1.325, 2.125])
    np.testing.assert_allclose(before.membrane["lif"].ravel(), membrane, atol=1e-15)
    np.testing.assert_allclose(after.membrane["lif"].ravel(), membrane - 0.25, atol=1e-15)
    for trace in (before, after):
        assert trace.spikes["lif"].ravel().tolist() == [0, 1, 0, 1, 1, 1]


def test_the_membrane_does_not_start_at_the_reset(chain: Chain, lif: MakeLif) -> None:
    """From 0, .5 stays below 1; from the reset voltage .75, .375 + .6875 would fire."""
    network = chain((1,), {"lif": lif((1,), reset_to=0.75)})
    values = np.array([0.6875]).reshape(1, 1, 1)

    for each in (network, shift_resets(network)):
        assert simulate(each, values).output.tolist() == [[[0]]]


@given(data=st.data())
def test_no_spike_changes(data: Any, chain: Chain, lif: MakeLif) -> None:
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    neurons = lif(
        (5,),
        decay=data.draw(st.sampled_from([0.0, 0.5, 0.75, 1.0])),
        threshold=generator.integers(8, 16, 5) / 8,
        leak=generator.integers(-8, 8, 5) / 8,
        gain=generator.integers(1, 4, 5) / 2,
        reset_to=generator.integers(-8, 8, 5) / 8,
        current_decay=data.draw(st.sampled_from([None, 0.5])),
    )
    if data.draw(st.booleans(), label="start"):
        neurons = replace(neurons, start=generator.integers(-8, 8, 5) / 8)
    network = chain((5,), {"lif": neurons})
    inputs = generator.integers(-8, 16, (4, 6, 5)) / 8

    shifted = shift_resets(network)

    assert not lif_of(shifted).reset_to.any()
    np.testing.assert_array_equal(
        simulate(network, inputs).output, simulate(shifted, inputs).output
    )


def test_a_neuron_that_subtracts_never_resets_to_anything(chain: Chain, lif: MakeLif) -> None:
    network = chain((1,), {"lif": lif((1,), reset_to=0.25, reset="subtract")})

    shifted = shift_resets(network)

    node = lif_of(shifted)
    assert (node.reset_to.tolist(), node.threshold.tolist(), node.start) == ([0], [1], None)
    assert node.leak.tolist() == [0]
    for each in (network, shifted):
        assert simulate(each, CURRENT).output.ravel().tolist() == [0, 1, 0, 1, 1, 1]


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_neurons_without_a_reset_voltage_are_left_alone(
    chain: Chain, lif: MakeLif, reset: str
) -> None:
    network = chain((1,), {"lif": lif((1,), reset=reset)})

    assert shift_resets(network).nodes["lif"] is network.nodes["lif"]
