"""Scales by method, for layers and channels, by hand; and what they do to spikes and ranges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import execute
from neurocompile_loihi2.limits import LIMITS
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import OptionError, RangeError
from neurocompile.integer import IntegerInput, IntegerNetwork, IntegerNeurons, to_payload
from neurocompile.ir import LIF, Conv2d, Dense, Flatten, Input, Network
from neurocompile.passes.assemble import assemble
from neurocompile.passes.prove_ranges import prove_ranges
from neurocompile.passes.quantise import quantise
from neurocompile.populations import SpikingPopulation, SynapseGroup
from neurocompile.quantisation.recipe import Recipe
from neurocompile.quantisation.scales import by_row, channel_count, spread, wished_scale
from neurocompile.reference import simulate

Chain = Callable[..., Network]
MakeLif = Callable[..., LIF]
MakeDense = Callable[..., Dense]

WEIGHT = np.array([[0.5, -0.25], [0.125, 0.1]])


def spiking(shape: tuple[int, ...], threshold: Any = 1.0) -> SpikingPopulation:
    return SpikingPopulation("out", shape, np.array(0.5), np.array(threshold), np.zeros(()))


def synapses(weight: Any) -> SynapseGroup:
    rows = np.array(weight, np.float64)
    operator = Dense(rows, np.zeros(len(rows)))
    return SynapseGroup("w", "in", "out", operator, rows.shape[1:], rows.shape[:1])


def wished(weight: Any, threshold: Any = 1.0, bits: int = 8, **how: Any) -> list[float]:
    group = synapses(weight)
    population = spiking(group.target_view, threshold)
    scale = wished_scale(population, [group], {}, LIMITS, weight_bits=bits, **how)
    result: list[float] = scale.tolist()
    return result


@pytest.mark.parametrize(
    ("how", "scale"),
    [
        ({}, [254 / 0.5]),
        ({"scales": "channel"}, [254 / 0.5, 254 / 0.125]),
        ({"method": "power-of-two"}, [256]),
        ({"method": "power-of-two", "scales": "channel"}, [256, 1024]),
        ({"method": "percentile", "percentile": 50}, [254 / 0.1875]),
        (
            {"method": "percentile", "percentile": 50, "scales": "channel"},
            [254 / 0.375, 254 / 0.1125],
        ),
        ({"bits": 2}, [128 / 0.5]),
    ],
)
def test_the_scale_of_a_method_by_hand(how: dict[str, Any], scale: list[float]) -> None:
    """The largest integer is 254, or 128 with 2 bits; half of the weights lie below 0.1875."""
    assert wished(WEIGHT, **how) == pytest.approx(scale)


def test_the_least_square_error_clips_what_is_rare() -> None:
    """Of 2 bits 128 is the largest: 100 weights of 0.1 are hit at 1280, which cuts one of 0.3 to 0.1."""
    weight = [[0.3, *[0.1] * 100]]

    (scale,) = wished(weight, bits=2, method="mse")

    assert scale == pytest.approx(1280, rel=0.02)
    assert wished(weight, bits=2) == pytest.approx([128 / 0.3])


def test_no_threshold_leaves_its_range_and_no_channel_pays_for_another() -> None:
    assert wished([[1e-6], [1.0]], threshold=[2.0, 1.0], scales="channel") == pytest.approx(
        [131071 / 2, 254]
    )


def test_a_channel_of_zeros_has_the_scale_of_its_threshold() -> None:
    for method in ("max", "percentile", "mse"):
        assert wished([[0.0], [1.0]], scales="channel", method=method)[0] == 131071


def test_weights_count_in_the_payloads_of_their_source() -> None:
    """A unit of the input is 255 payloads: 254 weight units for 1/255 of 0.5."""
    source = {"in": IntegerInput("in", (2,), 255.0, 0, 255, True)}

    scale = wished_scale(spiking((2,)), [synapses(WEIGHT)], source, LIMITS, weight_bits=8)

    assert scale == pytest.approx([min(131071, 254 * 255 / 0.5)])


def test_channels_are_those_of_the_neurons_that_receive() -> None:
    conv = Conv2d(np.ones((4, 1, 1, 1)), np.zeros(4))
    image = SynapseGroup("c", "in", "out", conv, (1, 3, 3), (4, 3, 3))
    other = SynapseGroup(
        "d", "in", "out", Conv2d(np.ones((2, 1, 1, 1)), np.zeros(2)), (1, 3, 6), (2, 3, 6)
    )

    assert channel_count(spiking((4, 3, 3)), [image]) == 4
    assert channel_count(spiking((36,)), [image]) == 4
    assert channel_count(spiking((36,)), [image, other]) == 1
    assert channel_count(spiking((5,)), [synapses(np.ones((5, 2)))]) == 5
    assert spread(np.arange(4.0), (4, 3, 3)).shape == (4, 1, 1)
    assert spread(np.arange(4.0), (36,)).tolist() == [0.0] * 9 + [1.0] * 9 + [2.0] * 9 + [3.0] * 9


def neurons_of(network: IntegerNetwork, name: str) -> IntegerNeurons:
    neurons = network[name]
    assert isinstance(neurons, IntegerNeurons)
    return neurons


def test_thresholds_absorb_the_scales_of_channels(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    """0.5 and 0.125 are 254 both, beside thresholds of 508 and 2032; 0.1 is 203.2, so 204."""
    network = assemble(chain((2,), {"fc": dense(WEIGHT, [0.5, 0.25]), "lif": lif((2,))}))

    integers = quantise(network, LIMITS, steps=4, recipe=Recipe(scales="channel")).network

    neurons = neurons_of(integers, "lif")
    assert neurons.threshold.tolist() == [508, 2032]
    assert neurons.scale.tolist() == [508, 2032]
    assert integers.synapses[0].weight.tolist() == [[254, -128], [254, 204]]
    assert neurons.bias.tolist() == [0.5 * 508 * 64, 0.25 * 2032 * 64]
    np.testing.assert_array_equal(neurons.in_source_units(np.array([508, 2032]) * 64), [1.0, 1.0])


@given(data=st.data())
def test_channels_of_different_size_keep_every_spike_where_weights_are_exact(
    data: Any, chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    """Rows of odd multiples of powers of two, the largest 127: no one scale holds them, their own do."""
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = generator.integers(-63, 64, (4, 6)) * 2 + 1
    rows[:, 0] = 127
    weight = rows * 2.0 ** -generator.integers(3, 9, (4, 1))
    network = chain((6,), {"fc": dense(weight), "lif": lif((4,))}, steps=6)
    inputs = generator.integers(0, 2, (8, 6, 6)).astype(np.float64)

    integers = quantise(assemble(network), LIMITS, steps=6, recipe=Recipe(scales="channel")).network

    expected = simulate(network, inputs).spikes["lif"]
    trace = execute(
        integers,
        {"input": to_payload(integers.inputs[0], inputs)},
        samples=8,
        steps=6,
        record=["lif"],
    )
    np.testing.assert_array_equal(trace.spikes["lif"], expected)


def test_the_proof_shrinks_only_the_channels_that_need_it(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    """Without a leak over 100 steps the first row's sum of -30 is too much at 254, the second's -1 is not."""
    weight = np.zeros((2, 31))
    weight[0], weight[1, :2] = -1.0, (-1.0, 1.0)
    weight[0, 30] = 1.0
    network = assemble(chain((31,), {"fc": dense(weight), "lif": lif((2,), decay=1.0)}))

    by_channel = quantise(network, LIMITS, steps=100, recipe=Recipe(scales="channel"))
    by_layer = quantise(network, LIMITS, steps=100)

    first, second = neurons_of(by_channel.network, "lif").threshold.tolist()
    assert first < 8388607 / 64 / 100 / 30 <= first + 2
    assert second == 254
    assert by_channel.lowered["lif"] == pytest.approx(254 / first, rel=0.03)
    assert int(neurons_of(by_layer.network, "lif").threshold) == first


def test_a_layer_may_have_bits_of_its_own(chain: Chain, lif: MakeLif, dense: MakeDense) -> None:
    generator = np.random.default_rng(0)
    nodes = {
        "one": dense(generator.normal(size=(20, 9))),
        "lif1": lif((20,)),
        "two": dense(generator.normal(size=(5, 20))),
        "lif2": lif((5,)),
    }
    recipe = Recipe(bits={"lif1": 3})

    quantised = quantise(assemble(chain((9,), nodes)), LIMITS, steps=4, recipe=recipe)

    one, two = (group.weight for group in quantised.network.synapses)
    assert not (one % 64).any()
    assert (two % 64).any()
    assert not (two % 2).any()
    assert quantised.weight_bits == {"lif1": 3, "lif2": 8}


def test_a_recipe_is_refused_with_all_that_is_impossible() -> None:
    recipe = Recipe(weight_bits=9, bits={"lif1": 1, "lif9": 4}, percentile=0.0, memory=0, samples=0)

    with pytest.raises(OptionError) as raised:
        recipe.check(LIMITS, ["lif1", "lif2"])

    told = str(raised.value)
    for part in (
        "weight bits must be from 2 to 8, but 9 are asked for",
        "layer 'lif1' needs weight bits from 2 to 8, but 1 are asked for",
        "there is no layer 'lif9' to give 4 bits: choose from lif1, lif2",
        "a percentile must be above 0 and at most 100, but 0.0 is asked for",
        "a memory budget must be positive, but it is 0",
        "calibration needs samples, but 0 are asked for",
    ):
        assert part in told


METHODS = ["max", "percentile", "mse", "power-of-two"]


@given(data=st.data())
def test_no_method_leaves_the_ranges_that_are_proven(
    data: Any,
    draw_network: Callable[..., Network],
    draw_inputs: Callable[..., NDArray[np.float64]],
) -> None:
    network = draw_network(data)
    inputs = draw_inputs(data, network)
    steps = inputs.shape[1]
    recipe = Recipe(
        weight_bits=data.draw(st.integers(2, 8), label="bits"),
        method=data.draw(st.sampled_from(METHODS), label="method"),
        scales=data.draw(st.sampled_from(["layer", "channel"]), label="scales"),
        percentile=data.draw(st.sampled_from([60.0, 95.0]), label="percentile"),
    )

    integers = quantise(assemble(network), LIMITS, steps=steps, recipe=recipe).network

    bounds = {bound.layer: bound for bound in prove_ranges(integers, LIMITS, steps=steps)}
    names = [neurons.name for neurons in integers.neurons]
    trace = execute(
        integers,
        {"input": to_payload(integers.inputs[0], inputs)},
        samples=len(inputs),
        steps=steps,
        record=[f"membrane/{name}" for name in names],
        before_reset=True,
    )
    for name in names:
        counts = trace.counters[name]
        assert counts["current_wraps"] == counts["u_wraps"] == counts["v_saturations_low"] == 0
        assert -trace.membrane[name].min() <= bounds[name].membrane
        if neurons_of(integers, name).readout:
            assert trace.membrane[name].max() <= bounds[name].membrane


@given(data=st.data())
def test_an_input_sum_is_off_by_what_its_weights_and_bias_are_at_most(
    data: Any, chain: Chain, dense: MakeDense
) -> None:
    """Half a step of the weights for each input, and half a step of the bias's mantissa."""
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    bits = data.draw(st.integers(2, 8), label="bits")
    scales = data.draw(st.sampled_from(["layer", "channel"]), label="scales")
    weight = generator.normal(size=(5, 12)) * generator.uniform(0.1, 3, (5, 1))
    network = chain((12,), {"fc": dense(weight, generator.normal(size=5))}, steps=2)
    inputs = generator.integers(0, 2, (16, 2, 12)).astype(np.float64)

    integers = quantise(
        assemble(network), LIMITS, steps=2, recipe=Recipe(bits, method="max", scales=scales)
    ).network

    (neurons,) = integers.neurons
    trace = execute(
        integers, {"input": to_payload(integers.inputs[0], inputs)}, samples=16, steps=2
    )
    found = neurons.in_source_units(trace.outputs["output"])
    expected = simulate(network, inputs).output
    step = LIMITS.weight_unit(bits)
    off = inputs.sum(2, keepdims=True) * step / 2 + 2.0**neurons.bias_exponent / 2 / 64
    assert (np.abs(found - expected) * neurons.scale <= off + 1e-9).all()


@pytest.mark.parametrize("bits", [3, 8])
def test_an_image_that_the_host_computes_has_a_scale_for_each_of_its_channels(
    chain: Chain, lif: MakeLif, dense: MakeDense, bits: int
) -> None:
    """The population behind it is a vector, but two kernels have two scales."""
    generator = np.random.default_rng(2)
    kernel = generator.normal(0, 0.5, (2, 3, 3, 3)) * np.array([1, 4]).reshape(2, 1, 1, 1)
    layers = {
        "conv": Conv2d(kernel, np.zeros(2)),
        "flat": Flatten(),
        "lif": lif((32,)),
        "fc": dense(generator.normal(0, 0.5, (3, 32))),
    }
    network = chain((3, 6, 6), layers, steps=4)
    network = network.replaced({**network.nodes, "input": Input((3, 6, 6), InputRange(0, 1, 0))})
    recipe = Recipe(bits, scales="channel")

    quantised = quantise(
        assemble(network), LIMITS, steps=4, recipe=recipe, first_layer="host"
    ).network

    group = next(group for group in quantised.synapses if group.on_host)
    (first, *_) = quantised.neurons
    scales = first.scale_of_rows(2)
    payload = quantised.inputs[0].scale
    integers = group.weight * 2.0**group.exponent
    expected = kernel * (scales / payload).reshape(2, 1, 1, 1)
    assert len(np.unique(first.scale)) <= 2
    np.testing.assert_allclose(integers, expected, atol=2.0**group.exponent)


def test_scales_that_have_no_part_each_in_the_rows_are_a_bug() -> None:
    assert by_row(np.array([1.0, 2.0]), 4).tolist() == [1, 1, 2, 2]
    with pytest.raises(ValueError, match="32 channels have no part each in 2 rows"):
        by_row(np.ones(32), 2)


def test_a_graded_input_keeps_its_scale_in_every_channel(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    """A payload of 1 is 1/16: the thresholds are 16 times those for spikes."""
    nodes = {"fc": dense(WEIGHT), "lif": lif((2,))}
    network = chain((2,), nodes, input_range=InputRange(0, 1, 1 / 16))
    assert isinstance(network.nodes["input"], Input)

    quantised = quantise(
        assemble(network),
        LIMITS,
        steps=4,
        first_layer="graded",
        recipe=Recipe(scales="channel"),
    )

    neurons = neurons_of(quantised.network, "lif")
    assert neurons.threshold.tolist() == [508 * 16, 2032 * 16]
    assert quantised.network.synapses[0].weight.tolist() == [[254, -128], [254, 204]]


def test_a_channel_that_no_scale_fits_is_named(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    """A weight of 300 leaves a threshold of 1 no room: it would be 0.85 units."""
    network = chain((1,), {"fc": dense([[300.0], [1.0]]), "lif": lif((2,))})

    with pytest.raises(RangeError, match=r"weights leave room for 0\.847 in channel 0"):
        quantise(assemble(network), LIMITS, steps=1, recipe=Recipe(scales="channel"))
