"""The range proof: by hand, and that it is never wrong on random networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import NeuronState, accumulate, execute, step_neurons
from neurocompile_loihi2.limits import LIMITS
from numpy.typing import NDArray

from neurocompile.errors import RangeError
from neurocompile.integer import (
    NO_FLOOR,
    Geometry,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
    conv_output,
    to_payload,
)
from neurocompile.ir import Input, Network
from neurocompile.passes import prove_ranges as proof
from neurocompile.passes.assemble import assemble
from neurocompile.passes.prove_ranges import (
    bound_of,
    geometric,
    membrane_range,
    most_spikes,
    prove_ranges,
    reach_of,
    sum_range,
)
from neurocompile.passes.quantise import quantise

OneLayer = Callable[..., IntegerNetwork]

ROUNDINGS = [
    LIMITS,
    replace(LIMITS, rounding="down"),
    replace(LIMITS, rounding="nearest"),
    replace(LIMITS, membrane_overflow="wrap"),
]


def neurons_of(network: IntegerNetwork, name: str) -> IntegerNeurons:
    neurons = network[name]
    assert isinstance(neurons, IntegerNeurons)
    return neurons


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
    assert (
        "its weights must shrink by a factor of 3.88, to 0.258 weight units per unit" in text
    )  # of its scale of 1; fewer steps would not help
    assert "--steps" not in text
    assert "needs a threshold from 0 to 131071, but it is 200000" in text
    assert "needs bias mantissas from -4096 to 4095, but it is 5000" in text


def test_a_failing_layer_is_told_where_it_fails_and_what_would_pass(one_layer: OneLayer) -> None:
    """
    Down to 9 * -20000 * 64 without a leak: 8388607 holds 6 steps of that, and -15000 less is within it.

    The neurons have scales of their own; the second one is beyond its limit most.
    """
    network = one_layer(
        [[-150], [-200], [-100]], dv=0, maximum=100, scale=np.array([300.0, 200.0, 100.0])
    )

    with pytest.raises(RangeError) as raised:
        prove_ranges(network, LIMITS, steps=9)

    told = str(raised.value)
    assert (
        "layer 'out' needs a membrane of at most 8388607, but it can reach 11520000 within 9 steps, in "
        "neuron 1; 2 of 3 neurons can be beyond it"
    ) in told
    assert "must shrink by a factor of 1.37, to 145.6 weight units per unit" in told
    assert "or export for at most 6 steps with --steps" in told
    assert "or let membranes saturate with --membranes saturating" in told
    longest = prove_ranges(network, LIMITS, steps=6)[0]
    assert longest.membrane == 6 * 20_000 * 64


def test_odd_weights_and_weights_beyond_eight_bits_are_refused(
    one_layer: Callable[..., IntegerNetwork],
) -> None:
    with pytest.raises(
        RangeError,
        match="layer 'w' needs weights that are multiples of 2, or from 0 to 255, but they reach "
        "from -1 to 3",
    ):
        prove_ranges(one_layer([[3, -1]]), LIMITS, steps=1)
    with pytest.raises(RangeError, match="or from 0 to 255, but they reach from 257 to 257"):
        prove_ranges(one_layer([[257]]), LIMITS, steps=1)
    with pytest.raises(
        RangeError, match="layer 'w' needs weights from -256 to 254, but they reach from 256 to 256"
    ):
        prove_ranges(one_layer([[256]]), LIMITS, steps=1)


def test_one_odd_weight_among_many_is_refused(one_layer: Callable[..., IntegerNetwork]) -> None:
    weight = np.full((300, 200), -2)
    prove_ranges(one_layer(weight), LIMITS, steps=1)
    weight[299, 199] = 1

    with pytest.raises(RangeError, match="layer 'w' needs weights that are multiples of 2"):
        prove_ranges(one_layer(weight), LIMITS, steps=1)


def test_weights_may_be_three_apart(one_layer: Callable[..., IntegerNetwork]) -> None:
    limits = replace(LIMITS, weight_step=3)
    prove_ranges(one_layer([[-3, 6]]), limits, steps=1)

    with pytest.raises(RangeError, match="multiples of 3, .* they reach from -3 to 4"):
        prove_ranges(one_layer([[-3, 4]]), limits, steps=1)


def test_sums_over_many_rows_are_those_of_each_row(
    one_layer: Callable[..., IntegerNetwork],
) -> None:
    """The first row has the most below 0, the last one the most above: 400 weights each."""
    weight = np.random.default_rng(0).integers(-30, 31, (300, 400)) * 2
    weight[0], weight[-1] = -abs(weight[0]), abs(weight[-1])

    network = one_layer(weight)

    low, high = sum_range(network, network.synapses[0])
    assert low.tolist() == [sum(value for value in row if value < 0) for row in weight.tolist()]
    assert high.tolist() == [sum(value for value in row if value > 0) for row in weight.tolist()]


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
        assemble(network), LIMITS, weight_bits=bits, steps=steps, first_layer=first_layer
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
def test_any_neurons_stay_within_their_bounds(data: Any, one_layer: OneLayer) -> None:
    """Mixed leaks and thresholds, feedback, either reset, a start and a pulse."""
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shows = data.draw(st.sampled_from(["spikes", "spikes", "membrane"]), label="shows")
    reset = data.draw(st.sampled_from(["zero", "subtract"]), label="reset")
    fires = shows == "spikes"
    steps = data.draw(st.integers(1, 6), label="steps")
    network = one_layer(
        generator.integers(-64, 64, (3, 4)) * 2,
        du=generator.choice([4095, 2047, 100, 0], 3),
        dv=generator.choice([0, 1000, 4096], 3),
        threshold=generator.integers(1, 200, 3) if fires else 131071,
        bias=generator.integers(-200, 200, 3),
        minimum=-3,
        maximum=5,
        shows=shows,
        reset=reset if fires else "zero",
        start=generator.integers(-9, 9, 3) * 64 if fires else 0,
        pulse=generator.integers(-9, 9, 3),
    )
    if fires:
        weight = generator.integers(-32, 32, (3, 3)) * 2
        back = IntegerSynapses("back", "out", "out", weight, delay=np.array([1, 2, 1]))
        network = replace(network, synapses=(*network.synapses, back))
    (bound,) = prove_ranges(network, LIMITS, steps=steps)
    inputs = generator.choice([-3, 0, 5], (20, steps, 4))

    trace = execute(
        network,
        {"in": inputs},
        samples=20,
        steps=steps,
        record=["membrane/out"],
        before_reset=True,
    )

    counts = trace.counters["out"]
    assert counts["current_wraps"] == counts["u_wraps"] == counts["v_saturations_low"] == 0
    assert -trace.membrane["out"].min() <= bound.membrane
    if not fires or reset == "subtract":
        assert counts["v_saturations_high"] == 0
        assert trace.membrane["out"].max() <= bound.membrane


def with_feedback(network: IntegerNetwork, weight: int, delay: int) -> IntegerNetwork:
    """Add synapses from `out` to itself."""
    back = IntegerSynapses("back", "out", "out", np.array([[weight]]), delay=np.array(delay))
    return replace(network, synapses=(*network.synapses, back))


def test_a_bound_takes_each_sign_by_itself(one_layer: OneLayer) -> None:
    """
    Of 100 and -60 the sum reaches from -60 to 100 weight units.

    A leak of 1/2 over 3 steps: -3870, -1935 - 3870, -2902 (rounded toward zero) - 3870 state units.
    """
    (bound,) = prove_ranges(one_layer([[100, -60]], bias=[-30], bias_exponent=0), LIMITS, steps=3)

    assert (bound.current, bound.membrane, bound.silence) == (100, 6772, 0)
    assert (bound.current_limit, bound.membrane_limit) == (131071, 2**23 - 1)


def test_a_current_with_memory_adds_up(one_layer: OneLayer) -> None:
    """du 2047 keeps 1/2: 100 * (1 + 1/2 + 1/4); below it -60 * (1 + 3/2 + 7/4), u being added up."""
    (bound,) = prove_ranges(one_layer([[100, -60]], du=2047, dv=0), LIMITS, steps=3)

    assert bound.current == 175
    assert bound.membrane == 60 * 64 * (1 + 3 / 2 + 7 / 4)


def test_the_largest_of_many_neurons_counts(one_layer: OneLayer) -> None:
    """The leakier neuron has the larger weights; the other one sums up more of its own."""
    network = one_layer([[-10], [-16]], dv=np.array([0, 2048]))

    (bound,) = prove_ranges(network, LIMITS, steps=3)

    assert bound.membrane == max(10 * 64 * 3, 16 * 64 * 7 / 4)


def test_a_readout_is_bounded_above_as_well(one_layer: OneLayer) -> None:
    """Without a leak: 4 steps of 100 weight units and a bias of 64 state units."""
    network = one_layer(
        [[100]], dv=0, threshold=131071, bias=[64], bias_exponent=0, shows="membrane"
    )

    (bound,) = prove_ranges(network, LIMITS, steps=4)

    assert (bound.membrane, bound.membrane_limit) == (4 * (6400 + 64), 131071 * 64)
    ones = np.ones((1, 4, 1), np.int64)
    trace = execute(network, {"in": ones}, samples=1, steps=4, record=["membrane/out"])
    assert trace.membrane["out"].max() == bound.membrane


def test_subtracting_neurons_are_bounded_above_as_well(one_layer: OneLayer) -> None:
    """
    30 weight units against a threshold of 10, without a leak.

    Each of 3 steps leaves at most 20 over, and 30 more arrive at the last one: 70.
    """
    network = one_layer([[30]], dv=0, threshold=10, reset="subtract")

    (bound,) = prove_ranges(network, LIMITS, steps=3)

    assert bound.membrane == 70 * 64
    trace = execute(
        network,
        {"in": np.ones((1, 3, 1), np.int64)},
        samples=1,
        steps=3,
        record=["membrane/out"],
        before_reset=True,
    )
    assert trace.membrane["out"].ravel().tolist() == [30 * 64, 50 * 64, 70 * 64]


def test_a_subtracting_neuron_that_would_saturate_is_refused(one_layer: OneLayer) -> None:
    """A hard reset may saturate, above its threshold; what is left after a subtraction may not."""
    wide = np.full((1, 500), 254)
    prove_ranges(one_layer(wide, dv=0), LIMITS, steps=4)

    with pytest.raises(RangeError, match="layer 'out' needs a membrane of at most 8388607"):
        prove_ranges(one_layer(wide, dv=0, reset="subtract"), LIMITS, steps=4)


def test_what_feeds_back_must_be_silenced_between_samples(one_layer: OneLayer) -> None:
    """100 from outside, 60 from itself, 130 state units of bias (2.03), the next whole number: 163."""
    network = with_feedback(one_layer([[100]], bias=[130], bias_exponent=0), weight=60, delay=1)

    (bound,) = prove_ranges(network, LIMITS, steps=3)

    assert (bound.silence, bound.current) == (163, 163)
    at_its_threshold = NeuronState(np.array([0]), np.array([100 * 64]))
    arriving = np.array([160 - bound.silence])
    fired, _ = step_neurons(neurons_of(network, "out"), at_its_threshold, arriving)
    assert fired.tolist() == [0]


def test_silence_lasts_as_long_as_the_longest_delay(one_layer: OneLayer) -> None:
    """The current keeps half: 100 * 15/8 over 2 steps and 2 blank ones; 188 in two: 188 * 3/2 = 282."""
    network = with_feedback(one_layer([[100]], du=2047), weight=0, delay=2)

    (bound,) = prove_ranges(network, LIMITS, steps=2)

    assert (bound.silence, bound.current) == (188, 282)


def test_only_what_is_heard_later_needs_silence(
    one_layer: OneLayer, integer_neurons: Callable[..., IntegerNeurons]
) -> None:
    one = one_layer([[100]])
    last = integer_neurons("last")
    late = IntegerSynapses("late", "out", "last", np.array([[10]]), delay=np.array(1))
    network = replace(one, populations=(*one.populations, last), synapses=(*one.synapses, late))

    silence = {bound.layer: bound.silence for bound in prove_ranges(network, LIMITS, steps=2)}

    assert silence == {"out": 101, "last": 0}


@pytest.fixture
def summed(integer_neurons: Callable[..., IntegerNeurons]) -> Callable[..., IntegerNetwork]:
    """Makes two inputs of one spike each, their sum, and a layer that hears it."""

    def make(largest: int, weight: int = 1) -> IntegerNetwork:
        return IntegerNetwork(
            (
                IntegerInput("a", (1,), 1.0, 0, 1, True),
                IntegerInput("b", (1,), 1.0, 0, 1, True),
                IntegerRelay("a+b", (1,), largest),
                integer_neurons("out"),
            ),
            (
                IntegerSynapses("a>", "a", "a+b", np.array([[weight]])),
                IntegerSynapses("b>", "b", "a+b", np.array([[1]])),
                IntegerSynapses("w", "a+b", "out", np.array([[50]])),
            ),
            {"out": "out"},
        )

    return make


def test_a_sum_counts_with_all_its_spikes(summed: Callable[..., IntegerNetwork]) -> None:
    (bound,) = prove_ranges(summed(2), LIMITS, steps=1)

    assert bound.current == 100


def test_sums_that_their_relay_cannot_carry_are_refused(
    summed: Callable[..., IntegerNetwork],
) -> None:
    with pytest.raises(
        RangeError,
        match=r"layer 'a\+b' needs sums from 0 to 1, as graded spikes carry them, but they can reach "
        "from 0 to 2",
    ):
        prove_ranges(summed(1), LIMITS, steps=1)
    with pytest.raises(RangeError, match="they can reach from -2 to 1"):
        prove_ranges(summed(2, weight=-2), LIMITS, steps=1)
    with pytest.raises(RangeError, match=r"needs sums from 0 to 255.*they can reach from 0 to 256"):
        prove_ranges(summed(256, weight=255), LIMITS, steps=1)


def test_a_pulse_is_part_of_the_current(one_layer: OneLayer) -> None:
    """It comes once: -40, and half of that with -30 more."""
    network = one_layer([[-30]], du=2047, dv=4096, pulse=[-10])

    (bound,) = prove_ranges(network, LIMITS, steps=2)

    assert bound.current == 50
    assert bound.membrane == 50 * 64


def test_a_pulse_up_does_not_hide_what_the_other_inputs_sum_up_to(one_layer: OneLayer) -> None:
    """The sum of the others is -30 before the pulse of 20 joins it; the membrane only sees -10."""
    network = one_layer([[-30]], dv=4096, pulse=[20])

    (bound,) = prove_ranges(network, LIMITS, steps=1)

    assert bound.current == 30
    assert bound.membrane == 10 * 64


def test_a_start_is_part_of_the_membrane(one_layer: OneLayer) -> None:
    """Where the current forgets, the chip gets it as a pulse of current: 30 + 5."""
    network = one_layer([[-30]], dv=4096, start=[-5 * 64])

    (bound,) = prove_ranges(network, LIMITS, steps=2)

    assert bound.current == 35
    assert bound.membrane == 35 * 64


@pytest.mark.parametrize(("pulse", "start"), [(-1500, 1450), (1500, -1450)])
def test_a_pulse_and_a_start_do_not_make_up_for_each_other(
    one_layer: OneLayer, pulse: int, start: int
) -> None:
    """Only the pulse is part of the input sum, unless the chip gets both as one: then in any order."""
    network = one_layer([[0]], dv=4096, pulse=[pulse], start=[start * 64])

    (bound,) = prove_ranges(network, LIMITS, steps=2)

    assert bound.current == 1500
    assert bound.membrane == (50 * 64 if pulse < 0 else 0)


def test_a_geometric_sum_by_hand() -> None:
    assert geometric(np.array([0.5, 1.0, 0.0, -0.25]), 3).tolist() == [1.75, 3, 1, 1]


def test_neurons_that_fire_several_times_count_as_often(one_layer: OneLayer) -> None:
    network = one_layer([[10]])
    several = replace(neurons_of(network, "out"), name="several", most=7)
    after = IntegerSynapses("w", "several", "out", np.array([[3]]))
    into = IntegerSynapses("v", "in", "several", np.array([[1]]))
    network = replace(
        network,
        populations=(network.populations[0], several, neurons_of(network, "out")),
        synapses=(into, after),
    )

    bounds = {bound.layer: bound for bound in prove_ranges(network, LIMITS, steps=2)}

    assert bounds["out"].current == 21


def test_more_spikes_than_a_graded_one_carries_are_refused(one_layer: OneLayer) -> None:
    network = one_layer([[10]], most=256, reset="subtract")

    with pytest.raises(
        RangeError,
        match="layer 'out' needs at most 255 spikes a step, as graded spikes carry them, but it can "
        "fire 256: limit them with --max-spikes",
    ):
        prove_ranges(network, LIMITS, steps=2)


def test_how_often_neurons_can_fire_at_most(one_layer: OneLayer) -> None:
    """A threshold of 100, which a membrane just below it keeps half of: (50 + 350) / 100."""
    network = one_layer([[350]], dv=2048, reset="subtract", most=2)

    assert most_spikes(network, neurons_of(network, "out"), LIMITS, steps=9) == 4
    small = one_layer([[40]], dv=2048, reset="subtract", most=2)
    assert most_spikes(small, neurons_of(small, "out"), LIMITS, steps=9) == 1


def test_a_membrane_is_never_below_its_floor_but_for_what_spikes_take(one_layer: OneLayer) -> None:
    floored = {"dv": 0, "floor": -50 * 64}

    (bound,) = prove_ranges(one_layer([[-100]], **floored), LIMITS, steps=9)
    assert bound.membrane == 50 * 64

    subtracting = one_layer([[-100]], reset="subtract", subtracts=170 * 64, **floored)
    (bound,) = prove_ranges(subtracting, LIMITS, steps=9)
    assert bound.membrane == 70 * 64  # what a spike takes more than there is


@given(data=st.data())
def test_no_membrane_of_any_neurons_leaves_its_bound(data: Any) -> None:
    """Every way of firing, on random inputs; microcode has no saturation to hide behind."""

    def choose(*options: Any) -> Any:
        return data.draw(st.sampled_from(options))

    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    threshold = choose(20, 100, 3000)
    subtract = choose(False, True)
    neurons = IntegerNeurons(
        "out",
        (3,),
        du=np.array(choose(4095, 2047, 1000)),
        dv=np.array(choose(0, 100, 2048, 4096)),
        threshold=np.array(threshold),
        bias_mantissa=generator.integers(-500, 500, 3),
        bias_exponent=choose(0, 2),
        scale=np.ones(()),
        reset="subtract" if subtract else "zero",
        subtracts=np.array(64 * threshold * choose(1, 1, 2) // choose(1, 1, 2)),
        inclusive=choose(False, True),
        most=choose(1, 2, 5),
        floor=np.array(choose(NO_FLOOR, -64 * 10, -64 * 500)),
        refractory=choose(0, 0, 2),
        start=64 * generator.integers(-50, 50, 3),
    )
    source = IntegerInput("in", (4,), 1.0, 0, 3, True)
    weight = IntegerSynapses("w", "in", "out", 2 * generator.integers(-127, 127, (3, 4)))
    network = IntegerNetwork((source, neurons), (weight,), {"out": "out"})
    steps = 12
    bound = bound_of(network, neurons, LIMITS, steps=steps)
    extremes = generator.integers(0, 2, (16, steps, 4)) * 3

    for before_reset in (False, True):
        trace = execute(
            network,
            {"in": extremes},
            samples=16,
            steps=steps,
            record=["membrane/out"],
            before_reset=before_reset,
        )
        low, high = trace.membrane["out"].min(), trace.membrane["out"].max()
        assert -low <= bound.membrane
        if subtract or neurons.most > 1:
            assert high <= bound.membrane


def extreme_inputs(network: IntegerNetwork, steps: int) -> NDArray[np.int64]:
    """
    Return the inputs that take each neuron of a dense layer down, then those that take each up.

    (2 * neurons, steps, inputs): at each step all that is below 0 and nothing above, or the other way round.
    """
    (source,), weight = network.inputs, network.synapses[0].weight
    down = np.where(weight < 0, source.maximum, source.minimum)
    up = np.where(weight > 0, source.maximum, source.minimum)
    return np.repeat(np.concatenate([down, up])[:, np.newaxis], steps, axis=1)


def reached(network: IntegerNetwork, inputs: NDArray[np.int64]) -> tuple[Any, Any]:
    """Return the lowest and highest membrane of each neuron of a layer, before resets."""
    trace = execute(
        network,
        {"in": inputs},
        samples=len(inputs),
        steps=inputs.shape[1],
        record=["membrane/out"],
        before_reset=True,
    )
    membrane = trace.membrane["out"]
    return membrane.min((0, 1)), membrane.max((0, 1))


@given(data=st.data())
def test_a_bound_is_reached(data: Any, one_layer: OneLayer) -> None:
    """
    Biases of either sign, leaks, currents with memory, a pulse: not a state unit is given away.

    Only what first rises and falls later may have to be above its threshold in between, and is not then.
    """
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shows = data.draw(st.sampled_from(["spikes", "membrane"]), label="shows")
    limits = data.draw(st.sampled_from(ROUNDINGS), label="limits")
    steps = data.draw(st.integers(1, 7), label="steps")
    network = one_layer(
        generator.integers(-64, 64, (5, 4)) * 2,
        du=generator.choice([4095, 4095, 2047, 100, 0], 5),
        dv=generator.choice([0, 1000, 2048, 4096], 5),
        threshold=generator.integers(1, 500, 5) if shows == "spikes" else 131071,
        bias=generator.integers(-9000, 9000, 5),
        bias_exponent=0,
        minimum=data.draw(st.sampled_from([0, -3]), label="minimum"),
        maximum=5,
        shows=shows,
        pulse=generator.integers(-90, 1, 5),
        arithmetic=limits.arithmetic,
    )
    neurons = neurons_of(network, "out")

    low, high = membrane_range(network, neurons, limits, steps=steps)

    lowest, highest = reached(network, extreme_inputs(network, steps))
    least, _ = sum_range(network, network.synapses[0])
    falls = neurons.readout | ((least + neurons.pulse) * 64 + neurons.bias <= 0)
    np.testing.assert_array_equal(low[falls], np.minimum(lowest, 0)[falls])
    assert (low <= lowest).all()
    if neurons.readout:
        np.testing.assert_array_equal(high, np.maximum(highest, 0))
        assert (
            reach_of(network, neurons, limits, steps=steps).membrane == np.maximum(-low, high)
        ).all()


@given(data=st.data())
def test_no_inputs_at_all_leave_a_bound(data: Any, one_layer: OneLayer) -> None:
    """All 256 inputs of two spiking sources over 4 steps; some of them reach what a reset leaves open."""
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    limits = data.draw(st.sampled_from(ROUNDINGS), label="limits")
    subtract = data.draw(st.booleans(), label="subtract")
    network = one_layer(
        generator.integers(-40, 40, (6, 2)) * 2,
        du=generator.choice([4095, 2047], 6),
        dv=generator.choice([0, 1000, 4096], 6),
        threshold=generator.integers(1, 60, 6),
        bias=generator.integers(-500, 500, 6),
        bias_exponent=0,
        start=generator.integers(-20, 20, 6) * 64,
        pulse=generator.integers(-20, 20, 6),
        reset="subtract" if subtract else "zero",
        arithmetic=limits.arithmetic,
    )
    everything = np.array(list(itertools.product([0, 1], repeat=8))).reshape(-1, 4, 2)

    low, high = membrane_range(network, neurons_of(network, "out"), limits, steps=4)

    lowest, highest = reached(network, everything)
    assert (low <= np.minimum(lowest, 0)).all()
    assert (high >= highest).all()
    if not subtract:
        threshold = neurons_of(network, "out").threshold * 64
        assert (high <= np.maximum(highest, 0) + threshold).all()  # a membrane that does not fire


def test_a_bias_is_there_at_every_step(one_layer: OneLayer) -> None:
    """What lifts a membrane does so when it is pulled down, too: 3 times (-20 + 5), not 3 times -20."""
    network = one_layer([[-20]], dv=0, bias=[5])

    (bound,) = prove_ranges(network, LIMITS, steps=3)

    assert bound.membrane == 3 * 15 * 64


def test_membranes_that_wrap_must_not_even_on_their_way_to_a_spike(one_layer: OneLayer) -> None:
    """At a threshold of 100, 100 + 4 * 40000 weight units are too many; saturating ones may get there."""
    network = one_layer(np.full((1, 4), 40_000), dv=0)
    wraps = replace(LIMITS, current_maximum=1 << 20, membrane_overflow="wrap")
    neurons = neurons_of(network, "out")

    assert bound_of(network, neurons, wraps, steps=9).membrane == (100 + 160_000) * 64
    assert bound_of(network, neurons, LIMITS, steps=9).membrane == 0


@given(data=st.data())
def test_taps_that_lie_outside_an_image_do_not_count(data: Any, one_layer: OneLayer) -> None:
    """Each neuron's sums are those of the rows of the matrix that the convolution is."""

    def choose(label: str, *options: int) -> int:
        return int(data.draw(st.sampled_from(options), label=label))

    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    groups = choose("groups", 1, 2)
    source = (2, choose("height", 1, 2, 3, 5), choose("width", 1, 2, 4))
    kernel = (choose("kernel h", 1, 3), choose("kernel w", 2, 3))
    geometry = Geometry((choose("stride", 1, 2), 1), (1, 2), (1, choose("dilation", 1, 2)), groups)
    slides = zip(
        source[1:], kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True
    )
    shape = (4, *(conv_output(*slide) for slide in slides))
    assume(min(shape) > 0)
    weight = 2 * generator.integers(-50, 50, (4, 2 // groups, *kernel))
    network = one_layer(weight, geometry=geometry, input_shape=source, shape=shape)
    group = network.synapses[0]

    low, high = sum_range(network, group)

    ones = np.eye(math.prod(source), dtype=np.int64).reshape(-1, *source)
    matrix = accumulate(group, ones, network.views(group)).reshape(len(ones), -1)
    exact_low, exact_high = np.minimum(matrix, 0).sum(0), np.maximum(matrix, 0).sum(0)
    assert (low <= exact_low).all()
    assert (high >= exact_high).all()
    for bound, exact in ((-low, -exact_low), (high, exact_high)):
        np.testing.assert_array_equal(
            bound.reshape(4, -1).max(1), exact.reshape(4, -1).max(1), "the largest of a channel"
        )


@given(data=st.data())
def test_long_samples_are_bounded_by_how_their_membranes_change(
    data: Any, one_layer: OneLayer
) -> None:
    """What is not followed step by step is never below what is; and without a leak it is the same."""
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    leaky = data.draw(st.booleans(), label="leaky")
    reset = data.draw(st.sampled_from(["zero", "subtract"]), label="reset")
    network = one_layer(
        generator.integers(-64, 64, (4, 3)) * 2,
        du=generator.choice([4095, 100, 0], 4) if leaky else 4095,
        dv=generator.choice([0, 3, 1000], 4) if leaky else 0,
        threshold=generator.integers(1, 500, 4),
        bias=generator.integers(-100, 100, 4),
        start=generator.integers(-20, 20, 4) * 64,
        pulse=generator.integers(-90, 90, 4),
        reset=reset,
    )
    neurons = neurons_of(network, "out")
    steps = 40

    exact = reach_of(network, neurons, LIMITS, steps=steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "EXACT_STEPS", 5)
        bounded = reach_of(network, neurons, LIMITS, steps=steps)

    assert (bounded.current >= exact.current).all()
    assert (bounded.membrane >= exact.membrane).all()
    if not leaky:
        np.testing.assert_array_equal(bounded.current, exact.current)
        low, _ = membrane_range(network, neurons, LIMITS, steps=steps)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(proof, "EXACT_STEPS", 5)
            bounded_low, _ = membrane_range(network, neurons, LIMITS, steps=steps)
        np.testing.assert_array_equal(bounded_low, low)


def test_a_sample_without_end_has_its_bound_at_once(one_layer: OneLayer) -> None:
    """Without a leak 10^9 steps of -60; with one of 1/4096 about 4096 of them; a slow current as well."""
    network = one_layer([[-60], [-60], [-60]], dv=np.array([0, 1, 1]), du=np.array([4095, 4095, 0]))
    neurons = neurons_of(network, "out")

    reach = reach_of(network, neurons, LIMITS, steps=10**9)

    assert reach.membrane[0] == 60 * 64 * 10**9
    assert reach.membrane[1] >= 4095 * 60 * 64
    assert (reach.membrane <= 60 * 64 * 10**18).all()
    assert reach.current[2] >= 4095 * 60
