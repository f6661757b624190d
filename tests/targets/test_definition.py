"""The definition of the integers, by hand and at the ends of every range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import (
    NeuronState,
    accumulate,
    decayed,
    execute,
    shift,
    step_neurons,
    wrap_int32,
    wrap_state,
)

from neurocompile.integer import (
    Arithmetic,
    Geometry,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerRelay,
    IntegerSynapses,
    Overflow,
    Rounding,
)

OneLayer = Callable[..., IntegerNetwork]


def neurons(**changes: Any) -> IntegerNeurons:
    values: dict[str, Any] = {
        "name": "n",
        "shape": (1,),
        "du": 4095,
        "dv": 2048,
        "threshold": 100,
        "bias_mantissa": np.zeros(1),
        "bias_exponent": 0,
        "scale": 1.0,
    }
    return IntegerNeurons(**{**values, **changes})


def state(u: int = 0, v: int = 0) -> NeuronState:
    return NeuronState(np.array([u]), np.array([v]))


def test_the_tet_neuron_in_units_of_ten() -> None:
    """tau .5, Vth 1, I = .6 .8 0 1 1.2 2 (in tenths): u[4] is exactly 1 and must not fire."""
    current = state()
    spikes, membranes = [], []
    for arriving in (6, 8, 0, 10, 12, 20):
        fired, membrane = step_neurons(neurons(threshold=10), current, np.array([arriving]))
        spikes.append(int(fired[0]))
        membranes.append(int(membrane[0]) / 64)

    assert spikes == [0, 1, 0, 0, 1, 1]
    assert membranes == [6, 11, 0, 10, 17, 20]


def test_decay_rounds_toward_zero_on_both_sides() -> None:
    states = np.array([4095, -4095, 4096, -4097])

    assert decayed(states, np.array(1)).tolist() == [0, 0, 1, -1]


@pytest.mark.parametrize(
    ("rounding", "left"),
    [
        ("zero", [1, 1, 0, 0, -1, -1]),
        ("down", [1, 1, 0, -1, -2, -2]),
        ("nearest", [2, 1, 1, 0, -1, -2]),
    ],
)
def test_what_a_decay_leaves_is_rounded_as_the_chip_does(
    rounding: Rounding, left: list[int]
) -> None:
    """Quarters: 1.75, 1.25, 0.5, -0.5, -1.5 and -1.75."""
    arithmetic = Arithmetic(decay_bits=2, rounding=rounding)

    found = decayed(np.array([7, 5, 2, -2, -6, -7]), np.array(1), arithmetic)

    assert found.tolist() == left


def test_states_of_other_widths_saturate_or_wrap_and_are_counted() -> None:
    """5 bits end at 15: 14 and 9 more is 23, which stays 15, or becomes 23 - 32; likewise below."""
    kept: dict[Overflow, list[int]] = {"saturate": [15, -15], "wrap": [-9, 9]}
    for overflow, expected in kept.items():
        arithmetic = Arithmetic(
            fraction_bits=0, decay_bits=4, membrane_bits=5, membrane_overflow=overflow
        )
        some = neurons(
            shape=(2,), du=15, dv=0, threshold=15, bias_mantissa=np.zeros(2), arithmetic=arithmetic
        )
        current = NeuronState(np.zeros(2, np.int64), np.array([14, -14]))

        step_neurons(some, current, np.array([9, -9]))

        assert current.v.tolist() == expected
        assert current.counters.v_saturations_high == current.counters.v_saturations_low == 1


def test_a_current_of_another_width_saturates_or_wraps() -> None:
    ends: dict[Overflow, int] = {"saturate": 15, "wrap": 20 - 32}
    for overflow, expected in ends.items():
        arithmetic = Arithmetic(fraction_bits=1, current_bits=5, current_overflow=overflow)
        current = state()

        step_neurons(neurons(arithmetic=arithmetic), current, np.array([10]))

        assert current.u[0] == expected
        assert current.counters.u_wraps == 1


def test_a_floor_stops_a_membrane_before_it_wraps() -> None:
    arithmetic = Arithmetic(fraction_bits=0, membrane_bits=5, membrane_overflow="wrap")
    current = state(v=-14)

    step_neurons(neurons(dv=0, floor=-3, arithmetic=arithmetic), current, np.array([-9]))

    assert current.v[0] == -3
    assert current.counters.v_saturations_low == 0


def test_current_decays_with_du_plus_one_and_voltage_with_dv() -> None:
    current = state(u=4096, v=4096)

    step_neurons(neurons(du=1023, dv=1024, threshold=100000), current, np.array([0]))

    assert current.u[0] == 3072
    assert current.v[0] == 3072 + 3072


def test_u_wraps_once_and_is_counted() -> None:
    current = state()

    step_neurons(neurons(threshold=131071), current, np.array([131073]))

    assert current.u[0] == 131073 * 64 - 2**24
    assert current.counters.u_wraps == 1


@pytest.mark.parametrize(
    ("x", "u"),
    [(2**23, 2**23), (2**23 + 1, 2**23 + 1 - 2**24), (-(2**23), 2**23), (1 - 2**23, 1 - 2**23)],
)
def test_the_ends_of_the_wrap(x: int, u: int) -> None:
    assert wrap_state(np.array([x]))[0] == u


def test_v_saturates_below_and_is_counted() -> None:
    current = state(v=-(2**23 - 1))

    step_neurons(neurons(dv=0), current, np.array([-1]))

    assert current.v[0] == -(2**23 - 1)
    assert current.counters.v_saturations_low == 1


def test_input_sums_wrap_at_32_bits_and_are_counted() -> None:
    current = state()

    step_neurons(neurons(), current, np.array([2**31 + 5]))

    assert current.counters.current_wraps == 1
    assert wrap_int32(np.array([2**31]))[0] == -(2**31)


def test_a_membrane_at_its_threshold_does_not_fire() -> None:
    assert step_neurons(neurons(threshold=7), state(), np.array([7]))[0][0] == 0
    assert step_neurons(neurons(threshold=7), state(), np.array([8]))[0][0] == 1


def test_a_spike_resets_v_but_not_u() -> None:
    current = state()

    step_neurons(neurons(du=0, threshold=1), current, np.array([5]))

    assert current.v[0] == 0
    assert current.u[0] == 320


def test_negative_bias_exponents_shift_down() -> None:
    assert neurons(bias_mantissa=np.array([-3]), bias_exponent=-1).bias.tolist() == [-2]
    assert neurons(bias_mantissa=np.array([-3]), bias_exponent=2).bias.tolist() == [-12]


def test_delays_keep_spikes_back(one_layer: Callable[..., IntegerNetwork]) -> None:
    network = one_layer([[200, 200]], delay=[0, 2], dv=4096)
    spikes = np.array([[[1, 0], [0, 1], [0, 0], [0, 0]]])

    trace = execute(network, {"in": spikes}, samples=1, steps=4, record=["out"])

    assert trace.spikes["out"].ravel().tolist() == [1, 0, 0, 1]


def test_delays_are_shifted_apart(one_layer: Callable[..., IntegerNetwork]) -> None:
    """Lava's DelayDense shifts each delay's sum: -3 >> 1 twice is -4, -6 >> 1 would be -3."""
    network = one_layer([[-3, -3]], delay=[0, 1], dv=4096, threshold=0)
    halved = replace(network, synapses=(replace(network.synapses[0], exponent=-1),))
    spikes = np.array([[[0, 1], [1, 0]]])

    traces = [
        execute(each, {"in": spikes}, samples=1, steps=2, record=["membrane/out"])
        for each in (network, halved)
    ]

    assert traces[0].membrane["out"].ravel().tolist() == [0, -6 * 64]
    assert traces[1].membrane["out"].ravel().tolist() == [0, -4 * 64]


def test_shifts_round_down_on_the_chip_and_to_nearest_on_the_host() -> None:
    sums = np.array([-3, 3, 5])

    assert shift(sums, -1, to_nearest=False).tolist() == [-2, 1, 2]
    assert shift(sums, -1, to_nearest=True).tolist() == [-1, 2, 3]
    assert shift(sums, 1, to_nearest=False).tolist() == [-6, 6, 10]


def test_sums_beyond_exact_floats_are_refused() -> None:
    group = IntegerSynapses("w", "a", "b", np.array([[2**30]]))

    with pytest.raises(OverflowError, match=r"sums of 'w' could reach .* beyond 2\^53"):
        accumulate(group, np.array([[2**30]]), ((1,), (1,)))


@given(st.data())
def test_convolution_equals_its_sum_over_taps(data: Any) -> None:
    draw: Callable[..., Any] = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    groups = draw(1, 2)
    geometry = Geometry(
        (draw(1, 3), draw(1, 2)), (draw(0, 2), draw(0, 2)), (draw(1, 2), draw(1, 2)), groups
    )
    generator = np.random.default_rng(draw(0, 2**16))
    channels, out = groups * draw(1, 2), groups * draw(1, 2)
    x = generator.integers(-9, 9, (1, channels, 7, 6))
    weight = generator.integers(-256, 255, (out, channels // groups, draw(1, 3), draw(1, 2)))
    padded = np.pad(x[0], ((0, 0), *((p, p) for p in geometry.padding)))
    reach = [d * (k - 1) + 1 for d, k in zip(geometry.dilation, weight.shape[2:], strict=True)]
    size = [
        (extent - r) // s + 1
        for extent, r, s in zip(padded.shape[1:], reach, geometry.stride, strict=True)
    ]
    expected = np.zeros((out, *size), np.int64)
    for o, row, column in np.ndindex(*expected.shape):
        first = o // (out // groups) * (channels // groups)
        for i, kr, kc in np.ndindex(*weight.shape[1:]):
            h = row * geometry.stride[0] + kr * geometry.dilation[0]
            w = column * geometry.stride[1] + kc * geometry.dilation[1]
            expected[o, row, column] += weight[o, i, kr, kc] * padded[first + i, h, w]

    sums = accumulate(
        IntegerSynapses("w", "a", "b", weight, geometry), x, (x.shape[1:], expected.shape)
    )

    np.testing.assert_array_equal(sums[0], expected)


def test_samples_are_independent(one_layer: Callable[..., IntegerNetwork]) -> None:
    generator = np.random.default_rng(0)
    network = one_layer(generator.integers(-128, 127, (5, 6)) * 2)
    spikes = generator.integers(0, 2, (130, 7, 6))

    together = execute(network, {"in": spikes}, samples=130, steps=7, record=["out"])
    alone = execute(network, {"in": spikes[129:]}, samples=1, steps=7, record=["out"])

    np.testing.assert_array_equal(together.spikes["out"][129:], alone.spikes["out"])


def test_the_tet_neuron_that_subtracts_in_units_of_ten() -> None:
    """v: 6, 3 + 8 = 11 leaves 1, .5, .25 + 10 leaves .25, .125 + 12 leaves 2.125, 1.0625 + 20."""
    current = state()
    subtracting = neurons(threshold=10, reset="subtract")
    spikes, before, after = [], [], []
    for arriving in (6, 8, 0, 10, 12, 20):
        fired, membrane = step_neurons(subtracting, current, np.array([arriving]))
        spikes.append(int(fired[0]))
        before.append(int(membrane[0]))
        after.append(int(current.v[0]))

    assert spikes == [0, 1, 0, 1, 1, 1]
    assert before == [384, 704, 32, 656, 776, 1348]
    assert after == [384, 64, 32, 16, 136, 708]


def test_a_start_is_added_at_the_first_step_of_every_sample(one_layer: OneLayer) -> None:
    """6 + 5 is above 10 at the first step only; in the second step it would be 6 alone."""
    network = one_layer([[6]], threshold=10, start=[5 * 64])
    spikes = np.ones((2, 2, 1), np.int64)

    trace = execute(
        network,
        {"in": spikes},
        samples=2,
        steps=2,
        record=["out", "membrane/out"],
        before_reset=True,
    )

    assert trace.spikes["out"].ravel().tolist() == [1, 0, 1, 0]
    assert trace.membrane["out"].ravel().tolist() == [11 * 64, 6 * 64] * 2


def test_a_pulse_is_input_of_the_first_step_of_every_sample(one_layer: OneLayer) -> None:
    """The current keeps half of it (du 2047): 8, 4, 2 weight units; the membrane keeps nothing."""
    network = one_layer([[100]], du=2047, dv=4096, pulse=[8])

    trace = execute(
        network,
        {"in": np.zeros((2, 3, 1), np.int64)},
        samples=2,
        steps=3,
        record=["membrane/out"],
    )

    assert trace.membrane["out"].ravel().tolist() == [512, 256, 128] * 2


def test_a_current_with_memory_outlives_spikes_and_resets(one_layer: OneLayer) -> None:
    """One spike of weight 8 is 8, 4, 2, 1 in the current; the membrane is reset above 3."""
    network = one_layer([[8]], du=2047, dv=0, threshold=3)
    spikes = np.array([1, 0, 0, 0]).reshape(1, 4, 1)

    trace = execute(
        network,
        {"in": spikes},
        samples=1,
        steps=4,
        record=["out", "membrane/out"],
        before_reset=True,
    )

    assert trace.membrane["out"].ravel().tolist() == [8 * 64, 4 * 64, 2 * 64, 3 * 64]
    assert trace.spikes["out"].ravel().tolist() == [1, 1, 0, 0]


def test_leaks_and_thresholds_of_each_neuron(one_layer: OneLayer) -> None:
    """All get 4 a step: one adds up 4 8 12, one has 4 6 7, one forgets; 7 is not above 7."""
    network = one_layer([[4], [4], [4]], dv=[0, 2048, 4096], threshold=[9, 7, 3])
    ones = np.ones((1, 3, 1), np.int64)

    trace = execute(
        network,
        {"in": ones},
        samples=1,
        steps=3,
        record=["out", "membrane/out"],
        before_reset=True,
    )

    assert (trace.membrane["out"][0] // 64).T.tolist() == [[4, 8, 12], [4, 6, 7], [4, 4, 4]]
    assert trace.spikes["out"][0].T.tolist() == [[0, 0, 1], [0, 0, 0], [1, 1, 1]]


def test_currents_of_each_neuron(one_layer: OneLayer) -> None:
    network = one_layer([[8], [8]], du=[4095, 2047], dv=4096)
    spikes = np.array([1, 0, 0]).reshape(1, 3, 1)

    trace = execute(network, {"in": spikes}, samples=1, steps=3, record=["membrane/out"])

    assert (trace.membrane["out"][0] // 64).T.tolist() == [[8, 0, 0], [8, 4, 2]]


@pytest.fixture
def population() -> Callable[..., IntegerNeurons]:
    """Makes neurons without memory that fire above 10, or show something else."""

    def make(name: str, **changes: Any) -> IntegerNeurons:
        return neurons(**{"name": name, "dv": 4096, "threshold": 10, **changes})

    return make


@pytest.fixture
def wired() -> Callable[..., IntegerNetwork]:
    """Makes a network of populations, and of synapses (source, target, weight[, delay])."""

    def make(
        populations: list[IntegerPopulation], joins: list[Any], **outputs: str
    ) -> IntegerNetwork:
        synapses = tuple(
            IntegerSynapses(
                f"{source}>{target}",
                source,
                target,
                np.array(weight),
                delay=np.array(delay[0] if delay else 0),
            )
            for source, target, weight, *delay in joins
        )
        return IntegerNetwork(tuple(populations), synapses, outputs)

    return make


def source(name: str, size: int = 1) -> IntegerInput:
    return IntegerInput(name, (size,), 1.0, -9, 9, True)


def test_a_relay_sends_sums_in_the_same_step(
    population: Callable[..., IntegerNeurons], wired: Callable[..., IntegerNetwork]
) -> None:
    network = wired(
        [source("a"), source("b"), IntegerRelay("a+b", (1,), 2), population("out")],
        [("a", "a+b", [[1]]), ("b", "a+b", [[1]]), ("a+b", "out", [[6]])],
        out="out",
    )
    values = {"a": np.array([0, 1, 1]), "b": np.array([0, 0, 1])}

    trace = execute(
        network,
        {name: each.reshape(1, 3, 1) for name, each in values.items()},
        samples=1,
        steps=3,
        record=["a+b", "out"],
    )

    assert trace.spikes["a+b"].ravel().tolist() == [0, 1, 2]
    assert trace.outputs["out"].ravel().tolist() == [0, 0, 1]
    assert "a+b" not in trace.counters


def test_a_delay_of_each_synapse(
    population: Callable[..., IntegerNeurons], wired: Callable[..., IntegerNetwork]
) -> None:
    """Both inputs fire once, at the first step: 1 at once and 2 a step later; 8 at once, 4 after 2."""
    network = wired(
        [source("in", 2), population("out", shape=(2,), threshold=100)],
        [("in", "out", [[1, 2], [4, 8]], [[0, 1], [2, 0]])],
        out="out",
    )
    spikes = np.array([[[1, 1], [0, 0], [0, 0]]])

    trace = execute(network, {"in": spikes}, samples=1, steps=3, record=["membrane/out"])

    assert (trace.membrane["out"][0] // 64).T.tolist() == [[1, 2, 0], [8, 0, 4]]


def test_delays_of_synapses_are_shifted_apart(one_layer: OneLayer) -> None:
    """-3 >> 1 twice is -4; of one sum, -6 >> 1 would be -3."""
    network = one_layer([[-3, -3]], delay=[[0, 1]], dv=4096)
    halved = replace(network, synapses=(replace(network.synapses[0], exponent=-1),))
    spikes = np.array([[[0, 1], [1, 0]]])

    trace = execute(halved, {"in": spikes}, samples=1, steps=2, record=["membrane/out"])

    assert trace.membrane["out"].ravel().tolist() == [0, -4 * 64]


def test_feedback_carries_the_spikes_of_the_step_before(
    population: Callable[..., IntegerNeurons], wired: Callable[..., IntegerNetwork]
) -> None:
    """a wakes b in the same step, b wakes a in the next, and holds itself back two steps later."""
    network = wired(
        [source("in"), population("a"), population("b")],
        [("in", "a", [[11]]), ("a", "b", [[11]]), ("b", "a", [[11]], 1), ("b", "b", [[-4]], 2)],
        out="b",
    )
    spikes = np.array([[0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]).reshape(2, 5, 1)

    trace = execute(network, {"in": spikes}, samples=2, steps=5, record=["a", "b"])

    assert trace.spikes["a"][..., 0].tolist() == [[0, 1, 1, 1, 0], [0, 0, 0, 0, 1]]
    assert trace.spikes["b"][..., 0].tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1]]


def test_several_inputs_and_outputs_of_every_kind(
    population: Callable[..., IntegerNeurons], wired: Callable[..., IntegerNetwork]
) -> None:
    """Spikes; what arrives plus the bias, in state units; and a membrane that adds up."""
    silent = {"threshold": 131071, "bias_mantissa": np.array([5])}
    network = wired(
        [
            source("left"),
            source("right"),
            population("fired"),
            population("arrived", shows="input", **silent),
            population("added", shows="membrane", dv=0, **silent),
        ],
        [
            ("left", "fired", [[5]]),
            ("right", "fired", [[2]]),
            ("right", "arrived", [[3]]),
            ("left", "added", [[1]]),
        ],
        spikes="fired",
        values="arrived",
        sums="added",
        again="fired",
    )
    values = {"left": np.array([2, 2, -1]), "right": np.array([0, 1, 2])}

    trace = execute(
        network,
        {name: each.reshape(1, 3, 1) for name, each in values.items()},
        samples=1,
        steps=3,
    )

    shown = {name: each.ravel().tolist() for name, each in trace.outputs.items()}
    assert shown == {
        "spikes": [0, 1, 0],
        "values": [5, 3 * 64 + 5, 6 * 64 + 5],
        "sums": [2 * 64 + 5, 4 * 64 + 10, 3 * 64 + 15],
        "again": [0, 1, 0],
    }


def test_a_convolution_sees_its_populations_in_its_own_views() -> None:
    """Six values in a row are an image of 2 x 3: the kernel adds what is above each other."""
    network = IntegerNetwork(
        (source("in", 6), neurons(name="out", shape=(3,), dv=4096)),
        (
            IntegerSynapses(
                "w", "in", "out", np.ones((1, 1, 2, 1), np.int64), Geometry(),
                source_view=(1, 2, 3), target_view=(1, 1, 3),
            ),
        ),
        {"out": "out"},
    )  # fmt: skip
    values = np.array([[[1, 2, 3, 4, 5, 6]]])

    trace = execute(network, {"in": values}, samples=1, steps=1, record=["membrane/out"])

    assert (trace.membrane["out"][0, 0] // 64).tolist() == [5, 7, 9]


# What needs microcode on the chip


def fire(item: IntegerNeurons, arriving: list[int]) -> tuple[list[int], list[float], NeuronState]:
    """Return spikes, membranes after the reset in weight units, and the state in the end."""
    current = state()
    spikes, after = [], []
    for value in arriving:
        fired, _ = step_neurons(item, current, np.array([value]))
        spikes.append(int(fired[0]))
        after.append(int(current.v[0]) / 64)
    return spikes, after, current


def test_inclusive_neurons_fire_at_their_threshold() -> None:
    assert fire(neurons(dv=0, inclusive=True), [50, 50, 100, 99])[0] == [0, 1, 1, 0]
    assert fire(neurons(dv=0), [50, 50, 1])[0] == [0, 0, 1]


def test_several_spikes_each_take_the_threshold_off() -> None:
    item = neurons(dv=0, inclusive=True, most=3, reset="subtract")

    spikes, after, current = fire(item, [250, 50, 450, 0])

    assert spikes == [2, 1, 3, 1]  # the fourth of 450 waits for its turn
    assert after == [50, 0, 150, 50]
    assert current.counters.spikes_capped == 1


def test_a_membrane_at_a_multiple_of_its_threshold_is_not_above_it() -> None:
    item = neurons(dv=0, most=5, reset="subtract")

    assert fire(item, [200, 1, 0])[:2] == ([1, 1, 0], [100, 1, 1])


def test_spikes_may_take_more_or_less_than_the_threshold_off() -> None:
    more = neurons(dv=0, reset="subtract", subtracts=250 * 64)
    less = neurons(dv=0, reset="subtract", subtracts=30 * 64 + 1)

    assert fire(more, [110, 0])[1] == [-140, -140]
    assert fire(less, [110, 0])[1] == [80 - 1 / 64, 80 - 1 / 64]


def test_a_floor_is_no_saturation() -> None:
    spikes, after, current = fire(neurons(dv=0, floor=-10 * 64), [-500, 111, 0])

    assert (spikes, after) == ([0, 1, 0], [-10, 0, 0])
    assert current.counters.v_saturations_low == 0


def test_refractory_neurons_hold_their_membrane_but_not_their_current() -> None:
    item = neurons(dv=0, du=2047, refractory=2)

    spikes, after, current = fire(item, [160, 0, 0, 0])

    assert spikes == [1, 0, 0, 0]
    assert after == [0, 0, 0, 20]  # the current went on: 160, 80, 40, 20
    assert current.u[0] == 20 * 64


def test_plain_neurons_are_those_of_lava() -> None:
    assert neurons().plain
    for changes in (
        {"inclusive": True},
        {"most": 2},
        {"floor": -1},
        {"refractory": 1},
        {"reset": "subtract"},
    ):
        assert not neurons(**changes).plain
