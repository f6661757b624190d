"""Quantisation and the range proof: by hand, and that the proof is never wrong on random networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurocompile_fixedpoint.engine import execute
from neurocompile_loihi2.limits import LIMITS
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import OptionError, RangeError, UnsupportedError
from neurocompile.integer import IntegerNetwork, IntegerNeurons, to_payload
from neurocompile.ir import LIF, Conv2d, Dense, Input, Network, Node
from neurocompile.passes.assemble import assemble
from neurocompile.passes.fuse_flatten import fuse_flatten
from neurocompile.passes.fuse_pooling import fuse_pooling
from neurocompile.passes.prove_ranges import prove_ranges
from neurocompile.passes.quantise import quantise
from neurocompile.passes.schedule import schedule
from neurocompile.populations import PopulationNetwork
from neurocompile.reference import simulate

Chain = Callable[..., Network]
MakeLif = Callable[..., LIF]


def dense(weight: Any, bias: Any = None) -> Dense:
    weight = np.array(weight, dtype=float)
    return Dense(weight, np.zeros(len(weight)) if bias is None else np.array(bias, dtype=float))


def populations_of(network: Network) -> PopulationNetwork:
    return assemble(fuse_pooling(fuse_flatten(network)))


def neurons_of(network: IntegerNetwork, name: str) -> IntegerNeurons:
    neurons = network[name]
    assert isinstance(neurons, IntegerNeurons)
    return neurons


def test_the_largest_weight_sets_the_scale_and_the_threshold_stays_exact(
    chain: Chain, lif: MakeLif
) -> None:
    """|W| = 0.5 fits 254 at scale 508; 1/508 * 508 is the threshold, so it is not rounded."""
    network = chain((2,), {"fc": dense([[0.5, -0.25]]), "lif": lif((1,))})

    quantised = quantise(assemble(network), LIMITS, steps=4)

    neurons = neurons_of(quantised.network, "lif")
    assert neurons.threshold == 508
    assert neurons.scale == 508
    assert neurons.du == 4095
    assert neurons.dv == 2048
    assert quantised.network.synapses[0].weight.tolist() == [[254, -128]]  # -127 is no weight
    assert quantised.first_layer == "spikes"


def test_the_scale_follows_the_rounded_threshold(chain: Chain, lif: MakeLif) -> None:
    """254 / 0.3 = 846.7: the threshold is 846, and weights and biases use 846, too."""
    network = chain((1,), {"fc": dense([[0.3]], [1.0]), "lif": lif((1,))})

    neurons = neurons_of(quantise(assemble(network), LIMITS, steps=4).network, "lif")

    assert neurons.threshold == neurons.scale == 846
    assert abs(int(neurons.bias[0]) - 846 * 64) <= 2 ** (neurons.bias_exponent - 1)


@pytest.mark.parametrize(("bits", "step"), [(8, 2), (6, 8), (4, 32), (2, 128)])
def test_fewer_bits_are_coarser_steps(chain: Chain, lif: MakeLif, bits: int, step: int) -> None:
    generator = np.random.default_rng(0)
    network = chain((50,), {"fc": dense(generator.normal(size=(20, 50))), "lif": lif((20,))})

    weight = (
        quantise(assemble(network), LIMITS, weight_bits=bits, steps=4).network.synapses[0].weight
    )

    assert not (weight % step).any()
    assert weight.min() >= -256
    assert weight.max() <= 254
    assert len(np.unique(weight)) <= 2**bits


def test_biases_take_the_smallest_exponent_that_fits(chain: Chain, lif: MakeLif) -> None:
    """0.1 * 254 * 64 = 1625.6 fits exponent 0; 1 * 254 * 64 = 16256 needs exponent 2: 4064."""
    small = chain((1,), {"fc": dense([[1.0]], [0.1]), "lif": lif((1,))})
    large = chain((1,), {"fc": dense([[1.0]], [1.0]), "lif": lif((1,))})

    first, second = (
        neurons_of(quantise(assemble(each), LIMITS, steps=4).network, "lif")
        for each in (small, large)
    )

    assert (first.bias_exponent, first.bias_mantissa.tolist()) == (0, [1626])
    assert (second.bias_exponent, second.bias_mantissa.tolist()) == (2, [4064])


def test_a_graded_input_on_a_grid_is_exact(chain: Chain, lif: MakeLif) -> None:
    network = chain(
        (1,), {"fc": dense([[0.5]]), "lif": lif((1,))}, input_range=InputRange(0, 1, 1 / 16)
    )

    quantised = quantise(assemble(network), LIMITS, steps=4)

    (source,) = quantised.network.inputs
    assert (source.scale, source.minimum, source.maximum, source.exact) == (16, 0, 16, True)
    assert quantised.first_layer == "graded"
    assert to_payload(source, np.array([0.5])).tolist() == [8]
    assert neurons_of(quantised.network, "lif").threshold == 508 * 16


def test_an_input_without_a_grid_takes_the_payload_bits(chain: Chain, lif: MakeLif) -> None:
    network = chain((1,), {"fc": dense([[0.5]]), "lif": lif((1,))}, input_range=InputRange(-2, 1))

    (source,) = quantise(assemble(network), LIMITS, steps=4).network.inputs

    assert (source.minimum, source.maximum, source.exact) == (-255, 128, False)


def wide_image_layer(chain: Chain, lif: MakeLif) -> PopulationNetwork:
    """With a threshold of 17 bits its 27 inputs could reach 884 000, beyond 131071."""
    conv = Conv2d(np.full((1, 3, 3, 3), 0.25), np.zeros(1))
    return assemble(
        chain(
            (3, 3, 3), {"conv": conv, "lif": lif((1, 1, 1))}, input_range=InputRange(0, 1, 1 / 255)
        )
    )


def test_auto_moves_a_first_layer_that_would_lose_bits_to_the_host(
    chain: Chain, lif: MakeLif
) -> None:
    quantised = quantise(wide_image_layer(chain, lif), LIMITS, steps=4)

    (group,) = quantised.network.synapses
    assert quantised.first_layer == "host"
    assert "the range proof would shrink its weights 7" in quantised.reason
    assert group.on_host
    assert group.exponent < 0
    prove_ranges(quantised.network, LIMITS, steps=4)


def test_graded_lowers_the_scale_until_the_proof_holds(chain: Chain, lif: MakeLif) -> None:
    quantised = quantise(wide_image_layer(chain, lif), LIMITS, steps=4, first_layer="graded")

    assert quantised.first_layer == "graded"
    assert quantised.lowered["lif"] > 6
    (bound,) = prove_ranges(quantised.network, LIMITS, steps=4)
    assert 100_000 < bound.current <= 131071


def test_a_readout_over_more_steps_has_a_smaller_scale(chain: Chain) -> None:
    network = assemble(chain((1000,), {"fc": dense(np.full((1, 1000), 0.5))}))

    scales = [
        neurons_of(quantise(network, LIMITS, steps=steps).network, "fc").scale
        for steps in (1, 4, 16)
    ]

    assert scales[0] / scales[1] == pytest.approx(4, rel=0.05)
    assert scales[1] / scales[2] == pytest.approx(4, rel=0.15)


def test_weights_too_large_for_their_threshold_are_refused(chain: Chain, lif: MakeLif) -> None:
    network = chain((1,), {"fc": dense([[1000.0]]), "lif": lif((1,))})

    with pytest.raises(RangeError, match="layer 'lif' needs a threshold of at least 1 weight unit"):
        quantise(assemble(network), LIMITS, steps=4)


def test_weights_that_a_long_sample_would_round_to_zero_are_refused(chain: Chain) -> None:
    network = assemble(chain((1000,), {"fc": dense(np.full((1, 1000), 0.5))}))

    with pytest.raises(
        RangeError,
        match=r"layer 'fc' needs weights that are not all rounded to zero.*over 1000 steps.*--steps",
    ):
        quantise(network, LIMITS, steps=1000)


def test_weights_that_vanish_beside_a_bias_are_refused(chain: Chain, lif: MakeLif) -> None:
    network = assemble(chain((1,), {"fc": dense([[1e-6]], [5000.0]), "lif": lif((1,))}))

    with pytest.raises(RangeError, match="those of fc are, beside the layer's bias"):
        quantise(network, LIMITS, steps=4)


def test_a_leak_that_twelve_bits_cannot_hold_is_refused(chain: Chain, lif: MakeLif) -> None:
    """1 - 1e-4 would round to no leak at all, and the neuron would count forever."""
    network = assemble(chain((1,), {"fc": dense([[1.0]]), "lif": lif((1,), decay=1 - 1e-4)}))

    with pytest.raises(
        RangeError, match="layer 'lif' needs a leak of at least 1/8192 a step, but it is 0.0001"
    ):
        quantise(network, LIMITS, steps=4)


def test_a_first_layer_is_not_chosen_for_spikes(chain: Chain, lif: MakeLif) -> None:
    network = assemble(chain((1,), {"fc": dense([[1.0]]), "lif": lif((1,))}))

    with pytest.raises(OptionError, match="--first-layer host is for analogue inputs"):
        quantise(network, LIMITS, steps=4, first_layer="host")


def test_impossible_bits_are_refused(chain: Chain, lif: MakeLif) -> None:
    network = assemble(chain((1,), {"fc": dense([[1.0]]), "lif": lif((1,))}))

    with pytest.raises(OptionError, match="weight bits must be from 2 to 8, but 9 are asked for"):
        quantise(network, LIMITS, weight_bits=9, steps=4)


def test_the_proof_names_every_layer_and_by_how_much(
    one_layer: Callable[..., IntegerNetwork],
) -> None:
    network = one_layer(np.full((1, 2000), 254), threshold=200_000, bias=5000, bias_exponent=6)

    with pytest.raises(RangeError) as raised:
        prove_ranges(network, LIMITS, steps=4)

    text = str(raised.value)
    assert (
        "layer 'out' needs an input sum of at most 131071, but it can reach 508000 within 4 steps"
        in text
    )
    assert "must shrink by a factor of 3.88" in text
    assert "needs a threshold from 0 to 131071, but it is 200000" in text
    assert "needs bias mantissas from -4096 to 4095, but it is 5000" in text


def test_odd_weights_and_weights_beyond_eight_bits_are_refused(
    one_layer: Callable[..., IntegerNetwork],
) -> None:
    with pytest.raises(RangeError, match="layer 'w' needs weights that are multiples of 2"):
        prove_ranges(one_layer([[3]]), LIMITS, steps=1)
    with pytest.raises(
        RangeError, match="layer 'w' needs weights from -256 to 254, but they reach from 256 to 256"
    ):
        prove_ranges(one_layer([[256]]), LIMITS, steps=1)


@given(data=st.data())
def test_what_is_proven_never_leaves_its_range(
    data: Any,
    draw_network: Callable[..., Network],
    draw_inputs: Callable[..., NDArray[np.float64]],
) -> None:
    network = draw_network(data)
    inputs = draw_inputs(data, network)
    bits = data.draw(st.integers(2, 8), label="bits")
    node = network.nodes["input"]
    assert isinstance(node, Input)
    choices = ["auto", "graded", "host"] if node.range else ["auto"]
    first_layer = data.draw(st.sampled_from(choices), label="first layer")
    steps = inputs.shape[1]

    quantised = quantise(
        populations_of(network), LIMITS, weight_bits=bits, steps=steps, first_layer=first_layer
    ).network
    bounds = {bound.layer: bound for bound in prove_ranges(quantised, LIMITS, steps=steps)}
    names = [neurons.name for neurons in quantised.neurons]
    trace = execute(
        quantised,
        {"input": to_payload(quantised.inputs[0], inputs)},
        samples=len(inputs),
        steps=steps,
        record=[f"membrane/{name}" for name in names],
        before_reset=True,
    )

    for name in names:
        counts = trace.counters[name]
        assert counts["current_wraps"] == counts["u_wraps"] == counts["v_saturations_low"] == 0
        assert -trace.membrane[name].min() <= bounds[name].membrane
        if neurons_of(quantised, name).readout:
            assert counts["v_saturations_high"] == 0
            assert trace.membrane[name].max() <= bounds[name].membrane


@given(data=st.data())
def test_networks_of_small_integers_keep_every_spike(data: Any, chain: Chain, lif: MakeLif) -> None:
    """Weights, biases and threshold that are integers already lose nothing, up to seven steps."""
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    nodes: dict[str, Node] = {}
    for layer in (1, 2):
        weight = generator.integers(-127, 128, (6, 6)) * 2
        weight[0, 0] = 254
        nodes[f"fc{layer}"] = dense(weight, generator.integers(-60, 60, 6))
        nodes[f"lif{layer}"] = lif((6,), threshold=100.0)
    network = chain((6,), nodes, steps=7)
    inputs = generator.integers(0, 2, (5, 7, 6)).astype(float)

    integers = quantise(assemble(network), LIMITS, steps=7).network
    trace = execute(
        integers, {"input": inputs.astype(np.int64)}, samples=5, steps=7, record=["lif1", "lif2"]
    )

    expected = simulate(network, inputs)
    for name in ("lif1", "lif2"):
        assert neurons_of(integers, name).scale == 1
        np.testing.assert_array_equal(trace.spikes[name], expected.spikes[name])


def test_depth_counts_connections_on_the_chip(chain: Chain, lif: MakeLif) -> None:
    network = chain((2,), {"a": dense(np.eye(2)), "lif": lif((2,)), "b": dense(np.eye(2))})
    integers = quantise(assemble(network), LIMITS, steps=4).network
    host = replace(
        integers,
        synapses=(replace(integers.synapses[0], on_host=True), *integers.synapses[1:]),
    )

    assert schedule(integers).depth == {"input": 0, "lif": 1, "b": 2}
    assert schedule(host).depth == {"input": 0, "lif": 0, "b": 1}


def test_branches_of_different_depth_are_refused(chain: Chain, lif: MakeLif) -> None:
    one = chain(
        (2,),
        {"a": dense(np.eye(2)), "first": lif((2,)), "b": dense(np.eye(2)), "second": lif((2,))},
    )
    network = Network(
        {**one.nodes, "skip": dense(np.eye(2))}, (*one.edges, ("input", "skip"), ("skip", "second"))
    )

    integers = quantise(assemble(network), LIMITS, steps=4).network

    with pytest.raises(
        UnsupportedError,
        match=r"layer 'second' needs inputs that arrive in the same step.*'b' after 2",
    ):
        schedule(integers)
