"""Why a spike differs: by hand, where one thing is rounded alone, and on random networks, where all are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import execute

from neurocompile.data import InputRange
from neurocompile.dequantise import dequantise, simulate_dequantised
from neurocompile.integer import (
    Arithmetic,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
)
from neurocompile.ir import Dense
from neurocompile.population_reference import simulate_populations
from neurocompile.populations import (
    InputPopulation,
    PopulationNetwork,
    SpikingPopulation,
    SynapseGroup,
)
from neurocompile.verification.causes import LONGEST_TRACE, Behaviour, cause_of, first_place
from neurocompile.verification.report import Cause
from neurocompile.verification.rows import Ends

Both = tuple[PopulationNetwork, IntegerNetwork]


def behaviour(level: Any, real: PopulationNetwork, network: IntegerNetwork, inputs: Any) -> Any:
    """Run sample 0 of `inputs`, real numbers by input, on one level."""
    payloads = {
        item.name: np.rint(inputs[item.name] * item.scale).astype(np.int64)
        for item in network.inputs
    }
    layers = [item.name for item in network.spiking]
    if level == "float":
        trace: Any = simulate_populations(real, inputs)
    elif level == "quantised":
        trace = simulate_dequantised(network, payloads)
    else:
        samples, steps = next(iter(payloads.values())).shape[:2]
        trace = execute(
            network,
            payloads,
            samples=samples,
            steps=steps,
            record=[*layers, *(f"membrane/{name}" for name in layers)],
            before_reset=True,
        )
    membranes = {}
    for item in network.spiking:
        values = trace.membrane[item.name][0]
        if level == "fixedpoint":
            values = values / (item.scale * item.arithmetic.state_units)
        membranes[item.name] = values
    shown = inputs if level == "float" else payloads
    return Behaviour(
        level,
        {name: values[0] for name, values in {**shown, **trace.spikes}.items()},
        membranes,
    )


def explain(
    both: Both, inputs: Any, layer: str = "n", pair: Any = ("float", "fixedpoint"), **more: Any
) -> Cause | None:
    """Return the cause of the first difference of `layer`; None if there is none."""
    real, network = both
    return first_cause(
        both, [behaviour(level, real, network, inputs) for level in pair], layer, **more
    )


def first_cause(both: Both, sides: Any, layer: str, **more: Any) -> Cause | None:
    """Return the cause of the first difference of `layer` between two behaviours; None if there is none."""
    real, network = both
    place = first_place(sides[0].sent[layer], sides[1].sent[layer])
    if place is None:
        return None
    return cause_of(
        real,
        dequantise(network),
        network,
        reference=sides[0],
        candidate=sides[1],
        sample=7,
        layer=layer,
        place=place,
        **more,
    )


def told(cause: Cause | None) -> dict[str, float]:
    """Return the contributions by name, having checked their sum."""
    assert cause is not None
    found = {item.cause: item.amount for item in cause.contributions}
    assert sum(found.values()) == pytest.approx(
        cause.margin_candidate - cause.margin_reference, abs=1e-12
    )
    return found


def spikes(*values: float) -> dict[str, Any]:
    return {"input": np.array(values, np.float64).reshape(1, -1, 1)}


@pytest.fixture
def neuron() -> Callable[..., Both]:
    """
    Makes one neuron of scale 10 that keeps its membrane and fires above 1, in real numbers and integers.

    They are equal but for what is changed: `weight` and `integer`, fields of the population in `real`, and of
    the integers in `changes`.
    """

    def make(
        weight: float = 0.5,
        integer: int = 5,
        *,
        scale: float = 10.0,
        exponent: int = 0,
        payload: float = 1.0,
        real: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Both:
        neurons = {
            "du": 4095,
            "dv": 0,
            "threshold": 10,
            "bias_mantissa": 0,
            "bias_exponent": 6,
            "scale": np.array(scale),
        }
        network = IntegerNetwork(
            (
                IntegerInput("input", (1,), payload, 0, 2, exact=False),
                IntegerNeurons("n", (1,), **{**neurons, **changes}),
            ),
            (IntegerSynapses("w", "input", "n", np.array([[integer]]), exponent=exponent),),
            {"output": "n"},
        )
        population = SpikingPopulation(
            "n",
            (1,),
            **{
                "decay": np.array(1.0),
                "threshold": np.array(1.0),
                "bias": np.array(0.0),
                **(real or {}),
            },
        )
        synapses = SynapseGroup(
            "w", "input", "n", Dense(np.array([[weight]]), np.zeros(1)), (1,), (1,)
        )
        given = InputPopulation("input", (1,), InputRange(0, 1, 1))
        return (
            PopulationNetwork((given, population), (synapses,), {"output": "n"}, None),
            network,
        )

    return make


def test_where_only_the_weight_rounds_it_is_the_weight(neuron: Callable[..., Both]) -> None:
    """0.54 becomes 0.5: after two spikes 1.08 fires and 1.0 does not."""
    cause = explain(neuron(weight=0.54), spikes(1, 1, 0))

    assert told(cause) == pytest.approx({"weight rounding": -0.08})
    assert cause is not None
    assert cause.margin_reference == pytest.approx(0.08)
    assert cause.margin_candidate == pytest.approx(0.0)
    place = cause.divergence
    assert (place.sample, place.step, place.layer, place.neuron) == (7, 1, "n", 0)
    assert (place.reference_spike, place.candidate_spike) == (1, 0)
    assert (place.membrane, place.threshold) == pytest.approx((1.0, 1.0))
    assert (place.reference_membrane, place.reference_threshold) == pytest.approx((1.08, 1.0))
    assert cause.trace.reference == pytest.approx((0.54, 1.08, 0.0))
    assert cause.trace.candidate == pytest.approx((0.5, 1.0, 1.0))
    assert cause.trace.reference_spikes == (0, 1, 0)
    assert cause.trace.candidate_spikes == (0, 0, 0)


def test_where_only_the_bias_rounds_it_is_the_bias(neuron: Callable[..., Both]) -> None:
    """The bias is 0.54, and 5 weight units: 0.5."""
    both = neuron(real={"bias": np.array(0.54)}, bias_mantissa=5)

    assert told(explain(both, spikes(0, 0))) == pytest.approx({"bias rounding": -0.08})


def test_where_only_the_threshold_rounds_it_is_the_threshold(neuron: Callable[..., Both]) -> None:
    """1.04 becomes 1.01 of scale 100; a weight of 1.02 lies between."""
    both = neuron(1.02, 102, scale=100.0, real={"threshold": np.array(1.04)}, threshold=101)
    cause = explain(both, spikes(1))

    assert told(cause) == pytest.approx({"threshold rounding": 0.03})
    assert cause is not None
    assert (cause.trace.reference_threshold, cause.trace.candidate_threshold) == (1.04, 1.01)


def test_where_only_the_decay_rounds_it_is_the_decay(neuron: Callable[..., Both]) -> None:
    """0.6 decays by 0.75 to 0.45, or by 1/2 to 0.3, which whole states hold: 1.05 fires, 0.9 does not."""
    both = neuron(0.6, 6, real={"decay": np.array(0.75)}, dv=2048)

    assert told(explain(both, spikes(1, 1))) == pytest.approx({"decay rounding": -0.15})


def test_leak_truncation_is_that_of_the_integers(neuron: Callable[..., Both]) -> None:
    """
    A bias of 43 states, of which 21.5 are left after a step: 64.5 are above 64, but 21 + 43 are not.

    The threshold is 1 weight unit, and the unit of the source is one, too.
    """
    both = neuron(
        1.0,
        1,
        scale=1.0,
        real={"decay": np.array(0.5), "bias": np.array(43 / 64)},
        dv=2048,
        threshold=1,
        bias_mantissa=43,
        bias_exponent=0,
    )

    assert told(explain(both, spikes(0, 0))) == pytest.approx({"leak truncation": -0.5 / 64})
    assert told(explain(both, spikes(0, 0), pair=("quantised", "fixedpoint"))) == pytest.approx(
        {"leak truncation": -0.5 / 64}
    )
    assert explain(both, spikes(0, 0), pair=("float", "quantised")) is None


def test_a_membrane_at_its_end_is_saturated(neuron: Callable[..., Both]) -> None:
    """10 bits end at 511 states: a threshold of 8 (512) is beyond, and 9 (576) become 511."""
    both = neuron(
        9.0,
        9,
        scale=1.0,
        real={"threshold": np.array(8.0)},
        threshold=8,
        arithmetic=Arithmetic(membrane_bits=10),
    )

    assert told(explain(both, spikes(1))) == pytest.approx({"saturation": -65 / 64})


def test_a_current_beyond_its_register_is_wrapped(neuron: Callable[..., Both]) -> None:
    """9 weight units are 576 states, and in a register of 10 bits 576 - 1024."""
    both = neuron(
        9.0,
        9,
        scale=1.0,
        real={"threshold": np.array(8.0)},
        threshold=8,
        arithmetic=Arithmetic(current_bits=10),
    )

    assert told(explain(both, spikes(1))) == pytest.approx({"wrapping": -16.0})


def test_a_sum_that_is_shifted_right_is_rounded_down(neuron: Callable[..., Both]) -> None:
    """5, shifted by one, is 2 and not 2.5: a threshold of 2 lies between."""
    both = neuron(2.5, 5, exponent=-1, scale=1.0, real={"threshold": np.array(2.0)}, threshold=2)

    assert told(explain(both, spikes(1))) == pytest.approx({"shift rounding": -0.5})


def test_inputs_off_the_grid_are_told_apart(neuron: Callable[..., Both]) -> None:
    """0.54 is payload 1 of 2 to the unit, 0.5; twice that is 1.08, or 1.0."""
    both = neuron(2.0, 10, payload=2.0)

    assert told(explain(both, spikes(0.54))) == pytest.approx({"input quantisation": -0.08})


def test_clipping_is_told_apart_from_rounding(neuron: Callable[..., Both]) -> None:
    """Weights end at 254: 3.0 becomes 2.54, the threshold is 2.6. Without ends it is all rounding."""
    both = neuron(3.0, 254, scale=100.0, real={"threshold": np.array(2.6)}, threshold=260)

    assert told(explain(both, spikes(1), ends={"w": Ends(-256, 254)})) == pytest.approx(
        {"weight clipping": -0.46}
    )
    assert told(explain(both, spikes(1))) == pytest.approx({"weight rounding": -0.46})
    # By less than half a step of 2 units nothing was cut.
    near = neuron(2.545, 254, scale=100.0, real={"threshold": np.array(2.542)}, threshold=254)
    assert "weight clipping" not in told(explain(near, spikes(1), ends={"w": Ends(-256, 254)}))


def test_weights_that_no_rounding_makes_are_told_apart(neuron: Callable[..., Both]) -> None:
    """1.2 is -120 instead of 120: a step of 2 units may be rounding's, the rest is not."""
    flipped = neuron(1.2, -120, scale=100.0, threshold=100)

    cause = explain(flipped, spikes(1), ends={"w": Ends(-256, 254)})

    assert told(cause) == pytest.approx({"weights off by more than rounding": -2.4})
    assert cause is not None
    assert cause.note == (
        "weights of 'w' are off by more than a step, which no rounding explains: this points at a bug"
    )
    # One step is what adaptive rounding may do, and without ends nothing is known.
    known: dict[str, Ends] = {"w": Ends(-240, 220)}
    for integer, given_ends in ((100, known), (-120, {})):
        both = neuron(1.2, integer, scale=100.0, threshold=100)
        near = explain(both, spikes(1), ends=given_ends)
        assert set(told(near)) == {"weight rounding"}
        assert near is not None
        assert near.note == ""


def test_a_flipped_weight_beyond_the_ends_is_clipped_first(neuron: Callable[..., Both]) -> None:
    """3.0 is cut to 2.54, and then has the wrong sign."""
    both = neuron(3.0, -254, scale=100.0, real={"threshold": np.array(2.0)}, threshold=200)

    assert told(explain(both, spikes(1), ends={"w": Ends(-256, 254)})) == pytest.approx(
        {"weight clipping": -0.46, "weights off by more than rounding": -5.08}
    )


def test_where_samples_chose_weights_they_may_be_off_by_what_the_program_tells(
    neuron: Callable[..., Both],
) -> None:
    """Thresholds that were scaled by 1.1 beside the same weights are no bug, a wrong sign is."""
    for integer, expected in (
        (99, "weight rounding"),  # 120 / 1.2
        (112, "weight rounding"),
        (-120, "weights off by more than rounding"),
    ):
        both = neuron(1.2, integer, scale=100.0, real={"threshold": np.array(1.15)}, threshold=115)
        found = explain(both, spikes(1), ends={"w": Ends(-128, 127, error=0.5)})
        assert set(told(found)) == {expected}


@pytest.mark.parametrize(
    ("ends", "step"),
    [
        (Ends(-256, 254), 2),
        (Ends(-128, 127), 1),
        (Ends(-256, 224), 32),
        (Ends(0, 255), 1),
        (Ends(0, 2040), 8),
        (Ends(-1, 5), 1),  # no ends of ours
    ],
)
def test_a_step_is_known_by_its_ends(ends: Ends, step: int) -> None:
    assert ends.step == step


def test_a_tie_is_decided_by_float64_and_nothing_else(neuron: Callable[..., Both]) -> None:
    """
    0.1 + 0.2 is above 0.3 in float64 alone: 1 + 2 are not above 3 in integers, and no number was rounded.

    The margins are those of the networks.
    """
    real, network = neuron(0.1, 1, payload=1.0, real={"threshold": np.array(0.3)}, threshold=3)
    cause = explain((real, network), spikes(1, 2))

    assert cause is not None
    (only,) = cause.contributions
    assert only.cause == "float64 rounding (a tie)"
    assert cause.margin_reference == 0.1 + 0.2 - 0.3 > 0 == cause.margin_candidate
    assert only.amount == cause.margin_candidate - cause.margin_reference
    assert cause.divergence.reference_spike == 1
    assert cause.note == (
        "the membrane of 'float' lies on its threshold: the last bit of a float64 decides there whether it "
        "fires"
    )


def test_a_tie_that_rounding_moves_is_told_with_it(neuron: Callable[..., Both]) -> None:
    """Beside the tie the weight of 0.1 becomes 0, which is what moves the margin."""
    both = neuron(0.1, 0, real={"threshold": np.array(0.3)}, threshold=3)
    cause = explain(both, spikes(1, 2))

    assert told(cause)["weight rounding"] == pytest.approx(-0.3)
    assert cause is not None
    assert cause.note.startswith("the membrane of 'float' lies on its threshold")


def test_pulse_start_and_floor_are_one_thing(neuron: Callable[..., Both]) -> None:
    """The first step adds 1.08, or 10 weight units."""
    both = neuron(real={"start": np.array(1.08)}, start=640)

    assert told(explain(both, spikes(0))) == pytest.approx(
        {"pulse, start and floor rounding": -0.08}
    )


@pytest.fixture
def two_layers(neuron: Callable[..., Both]) -> Both:
    """The neuron of the tests above hears "a" and "b", whose weights are rounded; their spikes weigh 0.6, -0.3."""
    real, network = neuron()
    a, b = (replace(network["n"], name=name) for name in "ab")
    one = InputPopulation("input", (1,), InputRange(0, 1, 1))
    own = real["n"]
    assert isinstance(own, SpikingPopulation)

    def group(name: str, source: str, target: str, weight: float) -> SynapseGroup:
        return SynapseGroup(
            name, source, target, Dense(np.array([[weight]]), np.zeros(1)), (1,), (1,)
        )

    def integers(name: str, source: str, target: str, weight: int) -> IntegerSynapses:
        return IntegerSynapses(name, source, target, np.array([[weight]]))

    return (
        PopulationNetwork(
            (one, replace(own, name="a"), replace(own, name="b"), own),
            (
                group("input>a", "input", "a", 1.04),
                group("input>b", "input", "b", 0.98),
                group("a>n", "a", "n", 1.2),
                group("b>n", "b", "n", -0.3),
            ),
            {"output": "n"},
            None,
        ),
        IntegerNetwork(
            (network.populations[0], a, b, network["n"]),
            (
                integers("input>a", "input", "a", 10),
                integers("input>b", "input", "b", 11),
                integers("a>n", "a", "n", 12),
                integers("b>n", "b", "n", -3),
            ),
            {"output": "n"},
        ),
    )


def test_spikes_of_the_layers_before_are_told_by_layer(two_layers: Both) -> None:
    """In integers "a" (1.0) is silent and "b" (1.1) fires, each the other way round than in real numbers."""
    assert told(explain(two_layers, spikes(1))) == pytest.approx(
        {"propagated spikes of 'a'": -1.2, "propagated spikes of 'b'": -0.3}
    )
    assert told(explain(two_layers, spikes(1), "a")) == pytest.approx({"weight rounding": -0.04})
    assert told(explain(two_layers, spikes(1), "b")) == pytest.approx({"weight rounding": 0.12})


def test_of_two_levels_of_integers_only_what_lies_between_counts(two_layers: Both) -> None:
    found = explain(two_layers, spikes(1), pair=("float", "quantised"))

    assert told(found) == pytest.approx(
        {"propagated spikes of 'a'": -1.2, "propagated spikes of 'b'": -0.3}
    )
    assert explain(two_layers, spikes(1), pair=("quantised", "fixedpoint")) is None


def test_long_traces_are_cut_around_the_place(neuron: Callable[..., Both]) -> None:
    both = neuron(weight=0.54)
    drive = np.zeros(600)
    drive[[400, 450]] = 1
    cause = explain(both, spikes(*drive))
    assert cause is not None

    trace = cause.trace
    assert cause.divergence.step == 450
    assert trace.first_step == 350
    assert len(trace.reference) == len(trace.candidate) == LONGEST_TRACE
    assert trace.reference_spikes.index(1) == 450 - trace.first_step


def test_margins_that_are_not_those_of_the_network_are_a_bug(neuron: Callable[..., Both]) -> None:
    real, network = neuron(weight=0.54)
    sides = [behaviour(level, real, network, spikes(1, 1)) for level in ("float", "fixedpoint")]
    wrong = replace(sides[1], membranes={"n": sides[1].membranes["n"] + 0.001})

    with pytest.raises(ArithmeticError, match=r"candidate \(fixedpoint\) at 'n', neuron 0, step 1"):
        cause_of(
            real,
            dequantise(network),
            network,
            reference=sides[0],
            candidate=wrong,
            sample=0,
            layer="n",
            place=(1, 0),
        )


def perturbed(network: IntegerNetwork, random: np.random.Generator) -> PopulationNetwork:
    """Return real numbers that round to about what `network` has."""

    def near(values: Any, by: float = 0.1) -> Any:
        return np.asarray(values) * (1 + by * random.normal(size=np.shape(values)))

    real = dequantise(network)
    populations = [
        replace(
            item,
            decay=np.clip(near(item.decay), 0, 1),
            current_decay=np.clip(near(item.current_decay), 0, 1),
            threshold=np.abs(near(item.threshold)),
            bias=near(item.bias),
            pulse=near(item.pulse),
            start=near(item.start),
            subtracts=None if item.subtracts is None else near(item.subtracts),
            floor=None if item.floor is None else near(item.floor),
        )
        if isinstance(item, SpikingPopulation)
        else item
        for item in real.populations
    ]
    relays = {item.name for item in network.populations if isinstance(item, IntegerRelay)}
    synapses = [
        group
        if group.target in relays
        else replace(
            group, operator=replace(group.operator, weight=near(group.operator.weight, 0.2))
        )
        for group in real.synapses
    ]
    return replace(real, populations=tuple(populations), synapses=tuple(synapses))


PAIRS = (("float", "fixedpoint"), ("float", "quantised"), ("quantised", "fixedpoint"))


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 30))
def test_contributions_add_up_in_networks_of_all_kinds(maker: Any, seed: int) -> None:
    """Chips of all arithmetics, delays, feedback, sums, floors, rests, several spikes a step: all of it."""
    made = maker(seed, rounded=True)
    network, payloads = made.network(), made.payloads()
    inputs = made.real_inputs(network, payloads)
    inputs["image"] = inputs["image"] + made.random.uniform(-0.05, 0.05, inputs["image"].shape)
    both = perturbed(network, made.random), network

    levels = {
        level: behaviour(level, *both, inputs) for level in ("float", "quantised", "fixedpoint")
    }
    for pair in PAIRS:
        for layer in (item.name for item in network.spiking):
            cause = first_cause(both, [levels[level] for level in pair], layer)
            if cause is None:
                continue
            found = told(cause)
            allowed = {"float": 0, "quantised": 8, "fixedpoint": 12}
            assert len(found) <= allowed[pair[1]] - allowed[pair[0]] + 3
            if network[layer].most == 1:
                assert cause.divergence.reference_spike + cause.divergence.candidate_spike == 1


def test_all_kinds_of_causes_occur_in_these_networks(maker: Any) -> None:
    names: set[str] = set()
    for seed in range(25):
        made = maker(seed, rounded=True)
        network, payloads = made.network(), made.payloads()
        inputs = made.real_inputs(network, payloads)
        inputs["image"] = inputs["image"] + made.random.uniform(-0.05, 0.05, inputs["image"].shape)
        both = perturbed(network, made.random), network
        sides = [behaviour(level, *both, inputs) for level in ("float", "fixedpoint")]
        for layer in (item.name for item in network.spiking):
            cause = first_cause(both, sides, layer)
            names |= set() if cause is None else set(told(cause))
    assert {
        "input quantisation",
        "weight rounding",
        "bias rounding",
        "threshold rounding",
        "pulse, start and floor rounding",
        "decay rounding",
        "shift rounding",
        "leak truncation",
        "wrapping",
        "propagated spikes of 'conv'",
        "propagated spikes of 'side'",
        "propagated spikes of 'hidden'",
    } <= names
