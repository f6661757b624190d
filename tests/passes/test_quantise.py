"""Quantisation and the range proof: by hand, and that the proof is never wrong on random networks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import execute
from neurocompile_loihi2.limits import LIMITS

from neurocompile.data import InputRange
from neurocompile.errors import OptionError, RangeError
from neurocompile.integer import IntegerNetwork, IntegerNeurons, to_payload
from neurocompile.ir import LIF, Conv2d, Dense, Input, Network, Node, Output
from neurocompile.manifest import describe_network, tensors_of
from neurocompile.passes.assemble import assemble
from neurocompile.passes.prove_ranges import prove_ranges
from neurocompile.passes.quantise import quantise
from neurocompile.passes.shift_resets import shift_resets
from neurocompile.populations import PopulationNetwork
from neurocompile.quantisation.recipe import Recipe
from neurocompile.reference import simulate

Chain = Callable[..., Network]
MakeLif = Callable[..., LIF]


def dense(weight: Any, bias: Any = None) -> Dense:
    weight = np.array(weight, dtype=float)
    return Dense(weight, np.zeros(len(weight)) if bias is None else np.array(bias, dtype=float))


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


@pytest.mark.parametrize(("bias", "where"), [(0.4, "graded"), (0.6, "host")])
def test_auto_moves_a_first_layer_whose_biases_leave_it_few_bits_to_the_host(
    chain: Chain, lif: MakeLif, bias: float, where: str
) -> None:
    """Weights of 254 units for 1 need a bias of 0.5 to be 254 * 255 / 2 units: 4 times too many."""
    network = chain(
        (2,),
        {"fc": Dense(np.array([[1.0, -0.5]]), np.array([bias])), "lif": lif((1,))},
        input_range=InputRange(0, 1, 1 / 255),
    )

    quantised = quantise(assemble(network), LIMITS, steps=4)

    assert quantised.first_layer == where
    if where == "host":
        assert quantised.reason.startswith("on the chip its biases would shrink its weights 4.")


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


@pytest.mark.parametrize("most", [1, None])
def test_what_auto_tries_on_the_chip_leaves_no_trace_in_what_the_host_computes(
    chain: Chain, lif: MakeLif, most: int | None
) -> None:
    """8.1 arrive at most, and a bit less than 1 is left: 9 spikes a step, of coarser weights 8."""
    several = lif((1,), comparison=">=", reset="subtract", most_spikes=most, decay=1.0)
    network = chain(
        (27,),
        {
            "fc": dense(np.full((1, 27), 0.3)),
            "one": several,
            "two": dense([[0.7]]),
            "next": several,
        },
        input_range=InputRange(0, 1, 1 / 255),
    )
    populations = assemble(network)

    auto, host, graded = (
        quantise(populations, LIMITS, steps=2, first_layer=first)
        for first in ("auto", "host", "graded")
    )

    assert auto.first_layer == "host"
    assert tensors_of(auto.network).keys() == tensors_of(host.network).keys()
    for name, values in tensors_of(auto.network).items():
        np.testing.assert_array_equal(values, tensors_of(host.network)[name], err_msg=name)
    assert describe_network(auto.network) == describe_network(host.network)
    assert (auto.lowered, auto.cramped) == (host.lowered, host.cramped)
    first = [neurons_of(each.network, "one") for each in (host, graded)]
    second = [neurons_of(each.network, "next") for each in (host, graded)]
    assert first[0].scale != first[1].scale
    assert [item.most for item in (*first, *second)] == ([9, 8, 7, 6] if most is None else [1] * 4)


def test_quantising_takes_little_more_memory_than_its_integers(chain: Chain, lif: MakeLif) -> None:
    """8 bytes a weight, of the scale that fits: those of the one that was too large are gone by then."""
    weight = np.random.default_rng(0).normal(size=(500, 4000)) / 100
    network = assemble(chain((4000,), {"fc": dense(weight), "lif": lif((500,))}))
    tracemalloc.start()

    quantised = quantise(network, LIMITS, steps=4)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert quantised.lowered
    assert peak < 1.3 * 8 * weight.size


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


def test_thresholds_and_leaks_of_each_neuron_share_one_scale(chain: Chain, lif: MakeLif) -> None:
    """The largest threshold, 2, is exact at 254 a unit; .3 * 254 = 76.2 is rounded."""
    neurons = lif((2,), threshold=[2.0, 0.3], decay=[0.5, 0.25])
    network = chain((1,), {"fc": dense([[1.0], [0.5]]), "lif": neurons})

    integers = neurons_of(quantise(assemble(network), LIMITS, steps=4).network, "lif")

    assert integers.scale == 254
    assert integers.threshold.tolist() == [508, 76]
    assert integers.dv.tolist() == [2048, 3072]


def test_a_current_keeps_one_less_than_its_du_says(chain: Chain, lif: MakeLif) -> None:
    """A half is du 2047. A bias b is 2 b, and a pulse of -b: 254 / 4 = 63.5 rounds to even."""
    network = chain((1,), {"fc": dense([[1.0]], [0.25]), "lif": lif((1,), current_decay=0.5)})

    integers = neurons_of(quantise(assemble(network), LIMITS, steps=4).network, "lif")

    assert integers.du == 2047
    assert integers.bias.tolist() == [2 * 254 * 64 // 4]
    assert integers.pulse.tolist() == -64


def test_a_start_is_rounded_to_whole_weight_units(chain: Chain, lif: MakeLif) -> None:
    """The threshold .7 is 177 of 177.8, so a unit is 252.9; half of the start -.3 is left: -37.9."""
    network = shift_resets(chain((1,), {"fc": dense([[1.0]]), "lif": lif((1,), reset_to=0.3)}))

    integers = neurons_of(quantise(assemble(network), LIMITS, steps=4).network, "lif")

    assert integers.threshold == 177
    assert integers.start.tolist() == -38 * 64


@pytest.mark.parametrize(("keeps", "text"), [(1 - 1e-5, "0.99999"), (1e-5, "1e-05")])
def test_a_current_that_twelve_bits_cannot_hold_is_refused(
    chain: Chain, lif: MakeLif, keeps: float, text: str
) -> None:
    """It would never leak, or not remember at all."""
    network = assemble(chain((1,), {"fc": dense([[1.0]]), "lif": lif((1,), current_decay=keeps)}))

    with pytest.raises(
        RangeError,
        match=f"layer 'lif' needs a current that keeps 0, or 1/8192 .* but it keeps {text}",
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


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"method": "MSE"}, "method must be one of auto, max, .*, but it is 'MSE'"),
        ({"scales": "channels"}, "scales must be one of layer, channel, but"),
        ({"rounding": "adaptiv"}, "rounding must be one of nearest, adaptive, but"),
        ({"objective": "rate"}, "objective must be one of spikes, membrane, but"),
        ({"correct_biases": "no"}, "correct_biases must be true or false, but it is 'no'"),
        ({"percentile": "x"}, "a percentile must be a number, but it is 'x'"),
        ({"weight_bits": 4.0}, "weight bits must be a whole number, but it is 4.0"),
        ({"bits": {"lif": "4"}}, "bits of 'lif' must be a whole number, but it is '4'"),
        ({"memory": 10.5}, "a memory budget must be a whole number, but it is 10.5"),
        ({"samples": True}, "samples must be a whole number, but it is True"),
    ],
)
def test_a_recipe_of_what_there_is_not_is_refused_by_name(wrong: dict[str, Any], told: str) -> None:
    """Spelt otherwise, it must not become another method in silence."""
    with pytest.raises(OptionError, match=told):
        Recipe(**wrong)


def test_weights_of_the_host_never_need_more_than_16_bits(chain: Chain, lif: MakeLif) -> None:
    """Beside 1000 all that the proof allows is 65 536: 32 767 is the largest, and so 32.767 the scale."""
    layer = {"fc": dense([[1000.0, 0.25]]), "lif": lif((1,), threshold=4.0)}
    network = assemble(chain((2,), layer, input_range=InputRange(-1, 1, 1)))

    quantised = quantise(network, LIMITS, steps=1, first_layer="host")

    neurons, group = neurons_of(quantised.network, "lif"), quantised.network.synapses[0]
    assert neurons.threshold == 131  # floor(4 * 32.767), so that the scale is 32.75
    assert (group.weight.tolist(), group.exponent) == ([[32750, 8]], 0)


@pytest.mark.parametrize("largest", [1e6, 1e17, 1e25, 1e200])
@pytest.mark.parametrize("scales", ["layer", "channel"])
@pytest.mark.parametrize("first_layer", ["auto", "host", "graded"])
def test_weights_beyond_all_integers_are_refused_and_not_wrapped(
    chain: Chain, lif: MakeLif, first_layer: Any, scales: Any, largest: float
) -> None:
    layer = {"fc": dense([[largest, 1.0], [0.5, -0.5]]), "lif": lif((2,))}
    network = assemble(chain((2,), layer, input_range=InputRange(-1, 1, 0)))

    with pytest.raises(RangeError, match="needs a threshold of at least 1 weight unit"):
        quantise(network, LIMITS, steps=4, first_layer=first_layer, recipe=Recipe(scales=scales))


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


# Ways of firing that Lava's neurons do not have, and sources that compute in integers


def test_neurons_that_fire_at_their_threshold_get_one_that_is_lower_by_one(
    chain: Chain, lif: MakeLif
) -> None:
    """0.5 + 0.5 reaches 1 in the float network, and 254 + 254 is above 507."""
    network = chain(
        (2,), {"fc": dense([[0.5, 0.5]]), "lif": lif((1,), decay=1.0, comparison=">=")}, steps=2
    )

    quantised = quantise(assemble(network), LIMITS, steps=2).network

    neurons = neurons_of(quantised, "lif")
    assert (int(neurons.threshold), float(neurons.scale), neurons.plain) == (507, 508, True)
    assert quantised.synapses[0].weight.tolist() == [[254, 254]]


@pytest.mark.parametrize(
    "options",
    [{"reset": "subtract"}, {"floor": -np.ones(1)}, {"refractory": 1}, {"most_spikes": 3}],
)
def test_microcode_compares_as_the_source_does(
    chain: Chain, lif: MakeLif, options: dict[str, Any]
) -> None:
    neuron = lif((1,), comparison=">=", **options)
    network = chain((2,), {"fc": dense([[0.5, 0.5]]), "lif": neuron})

    neurons = neurons_of(quantise(assemble(network), LIMITS, steps=2).network, "lif")

    assert (int(neurons.threshold), float(neurons.scale), neurons.inclusive) == (508, 508, True)


def test_floors_and_what_spikes_take_are_in_the_scale_of_the_layer(
    chain: Chain, lif: MakeLif
) -> None:
    neuron = lif((1,), reset="subtract", subtracts=np.full(1, 1.25), floor=np.full(1, -0.75))
    network = chain((1,), {"fc": dense([[0.5]]), "lif": neuron})

    neurons = neurons_of(quantise(assemble(network), LIMITS, steps=2).network, "lif")

    assert neurons.scale == 508
    assert neurons.subtracts == 508 * 1.25 * 64
    assert neurons.floor == -508 * 0.75 * 64


def test_the_number_of_spikes_in_a_step_is_proven(chain: Chain, lif: MakeLif) -> None:
    """Without a leak 0.9 may be left below the threshold of 1, and 2.5 arrive at most."""
    several = lif((1,), decay=1.0, comparison=">=", reset="subtract", most_spikes=None)
    network = chain(
        (1,),
        {"a": dense([[2.5]]), "one": several, "b": dense([[0.75]]), "two": several},
        steps=9,
    )

    quantised = quantise(assemble(network), LIMITS, steps=9).network

    assert neurons_of(quantised, "one").most == 3
    assert neurons_of(quantised, "two").most == 3  # 1 + 3 * 0.75 = 3.25


def test_a_cycle_of_neurons_without_a_limit_is_refused(lif: MakeLif) -> None:
    several = lif((1,), reset="subtract", most_spikes=None)
    nodes: dict[str, Node] = {
        "in": Input((1,)),
        "lif": several,
        "back": dense([[0.5]]),
        "out": Output((1,)),
    }
    edges = (("in", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "out"))
    network = Network(nodes, edges, 4, frozenset({("lif", "back")}))

    with pytest.raises(
        RangeError,
        match="layer 'lif' needs to know how often each neuron that feeds it can fire in a step, but "
        "'lif' feeds it with a delay of a step, and may fire any number of times: limit it with "
        "--max-spikes",
    ):
        quantise(assemble(network), LIMITS, steps=4)


def test_integers_of_the_source_stay_as_they_are(chain: Chain, lif: MakeLif) -> None:
    """As in files of netx: weights are even, leaks multiples of 1/4096."""
    neuron = lif((2,), decay=1 - 413 / 4096, current_decay=np.full(2, 1 - 1023 / 4096))
    network = replace(
        chain(
            (3,),
            {
                "fc": dense([[2, -4, 6], [10, 20, -254]]),
                "lif": replace(neuron, threshold=np.full(2, 80.0)),
            },
        ),
        weight_unit=1.0,
    )
    quantised = quantise(assemble(network), LIMITS, steps=4).network

    neurons = neurons_of(quantised, "lif")
    assert (float(neurons.scale), int(neurons.threshold)) == (1, 80)
    assert (int(neurons.dv), int(neurons.du)) == (413, 1022)
    assert quantised.synapses[0].weight.tolist() == [[2, -4, 6], [10, 20, -254]]


def test_a_source_of_integers_that_has_other_numbers_is_refused(chain: Chain, lif: MakeLif) -> None:
    neuron = replace(lif((1,), decay=0.3), threshold=np.full(1, 10.5))
    network = replace(chain((1,), {"fc": dense([[2.25]], [0.001]), "lif": neuron}), weight_unit=1.0)

    with pytest.raises(RangeError) as raised:
        quantise(assemble(network), LIMITS, steps=4)

    text = str(raised.value)
    for what in ("weights of 'fc'", "thresholds", "biases", "leaks"):
        assert f"layer 'lif' needs {what} that are integers, as its source computes in them" in text


def test_inputs_off_a_grid_leave_integers_of_the_source_to_the_host(
    chain: Chain, lif: MakeLif
) -> None:
    neuron = replace(lif((1,)), threshold=np.full(1, 80.0))
    analogue = replace(
        chain((1,), {"fc": dense([[6]]), "lif": neuron}, input_range=InputRange(0, 1, 0)),
        weight_unit=1.0,
    )

    quantised = quantise(assemble(analogue), LIMITS, steps=4)

    assert quantised.first_layer == "host"
    assert neurons_of(quantised.network, "lif").threshold == 80


def test_populations_whose_integers_were_trained_keep_them_and_others_do_not_mind(
    chain: Chain, lif: MakeLif
) -> None:
    """With a unit of 1/100, 0.32 are 32 weight units, of 4 bits; the read-out takes its largest weight."""
    nodes = {
        "fc": dense([[0.32, -0.64]], [0.123]),
        "lif": lif((1,), threshold=1.5),
        "out": dense([[0.5]]),
    }
    network = replace(chain((2,), nodes), weight_unit={"lif": 0.01})
    for bits in (8, 4):
        quantised = quantise(assemble(network), LIMITS, weight_bits=bits, steps=4).network

        neurons = neurons_of(quantised, "lif")
        assert (float(neurons.scale), int(neurons.threshold)) == (100, 150)
        assert neurons.bias.item() == round(0.123 * 100 * 64)  # rounded: it is none
        assert quantised.synapses[0].weight.tolist() == [[32, -64]]
        assert quantised.synapses[1].weight.tolist() == [[254 if bits == 8 else 224]]
        assert not neurons.saturates


def test_trained_integers_that_do_not_fit_the_bits_or_the_ranges_are_refused(
    chain: Chain, lif: MakeLif
) -> None:
    network = replace(
        chain((1,), {"fc": dense([[0.32]]), "lif": lif((1,), threshold=1.501)}),
        weight_unit={"lif": 0.01},
    )
    with pytest.raises(RangeError) as raised:
        quantise(assemble(network), LIMITS, weight_bits=2, steps=4)
    told = "that are integers, as its source computes in them, but they are off by up to"
    assert f"needs weights of 'fc' {told} 32: export with as many weight bits" in str(raised.value)
    assert f"needs thresholds {told} 0.1: export with" in str(raised.value)

    heavy = {"fc": dense(np.full((1, 600), 2.54)), "lif": lif((1,))}
    wide = replace(chain((600,), heavy), weight_unit={"lif": 0.01})
    with pytest.raises(RangeError, match="needs an input sum of at most 131071, but it can reach"):
        quantise(assemble(wide), LIMITS, steps=4)


def test_the_host_takes_a_first_layer_that_no_integers_on_the_chip_fit(
    chain: Chain, lif: MakeLif
) -> None:
    """Of 2 bits there are -256, -128, 0 and 128, times pixels of 255: 128 is all that is left of 127."""
    layer = {"fc": dense(np.full((1, 40), 0.5)), "lif": lif((1,))}
    network = chain((40,), layer, input_range=InputRange(0, 1, 1 / 255))

    quantised = quantise(assemble(network), LIMITS, weight_bits=2, steps=4)

    assert quantised.first_layer == "host"
    assert quantised.reason == "on the chip no integers of its weights fit"
    with pytest.raises(RangeError, match="needs weights that are not all rounded to zero"):
        quantise(assemble(network), LIMITS, weight_bits=2, steps=4, first_layer="graded")


def test_integers_of_the_source_compare_exactly(chain: Chain, lif: MakeLif) -> None:
    """One less would do where membranes are whole weight units; leaks leave fractions."""
    neuron = replace(lif((1,), comparison=">="), threshold=np.full(1, 80.0))
    network = replace(chain((1,), {"fc": dense([[6]]), "lif": neuron}), weight_unit=1.0)

    neurons = neurons_of(quantise(assemble(network), LIMITS, steps=4).network, "lif")

    assert (int(neurons.threshold), neurons.inclusive) == (80, True)
