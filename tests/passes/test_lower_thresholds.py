"""Neurons without memory as LIF neurons that forget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neurocompile.ir import LIF, Input, Network, Node, Output, Threshold
from neurocompile.passes.lower_thresholds import lower_thresholds
from neurocompile.reference import simulate


def only_lif(network: Network) -> LIF:
    (name,) = network.of_type(LIF)
    node = network.nodes[name]
    assert isinstance(node, LIF)
    return node


def network_of(threshold: Any) -> Network:
    shape = np.shape(threshold)
    nodes: dict[str, Node] = {
        "input": Input(shape),
        "fire": Threshold(np.array(threshold)),
        "output": Output(shape),
    }
    return Network(nodes, (("input", "fire"), ("fire", "output")))


def test_a_threshold_below_zero_becomes_a_bias() -> None:
    node = only_lif(lower_thresholds(network_of([0.5, 0.0, -0.25])))

    assert node.decay.tolist() == [0, 0, 0]
    assert node.gain.tolist() == [1, 1, 1]
    assert node.threshold.tolist() == [0.5, 0, 0]
    assert node.leak.tolist() == [0, 0, 0.25]


def test_nothing_is_remembered_and_the_threshold_itself_does_not_fire() -> None:
    network = lower_thresholds(network_of([0.5, -0.25]))
    values = np.array([[[0.5, -0.25], [0.25, 0.0], [0.25, -0.5], [0.75, 0.0]]])

    assert simulate(network, values).output.tolist() == [[[0, 0], [0, 1], [0, 0], [1, 1]]]


@given(data=st.data())
def test_no_spike_changes(data: Any) -> None:
    """Not even where input and threshold are equal, in any floating-point number."""
    number = st.floats(-2, 2, allow_subnormal=False)
    thresholds = data.draw(st.lists(number, min_size=1, max_size=5))
    values = np.array(
        [[[data.draw(st.one_of(st.just(value), number)) for value in thresholds] for _ in range(3)]]
    )
    network = network_of(thresholds)

    lowered = lower_thresholds(network)

    np.testing.assert_array_equal(
        simulate(network, values).output, simulate(lowered, values).output
    )


def test_other_neurons_are_left_alone(
    lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    network = chain((2,), {"lif": lif((2,))})

    assert lower_thresholds(network).nodes["lif"] is network.nodes["lif"]
