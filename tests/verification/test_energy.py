"""Operations counted by hand and against a sum over all synapses, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurocompile.integer import (
    Geometry,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
    Schedule,
)
from neurocompile.ir import Conv2d
from neurocompile.program import Program
from neurocompile.reference import convolve
from neurocompile.verification.energy import LOIHI1_RULE, RULE, energy_of
from neurocompile.verification.report import Energy

VALUES = IntegerInput("in", (2,), 16.0, 0, 16, True)
SPIKES = IntegerInput("in", (2,), 1.0, 0, 1, True)

Neurons = Callable[..., IntegerNeurons]


def program_of(populations: Any, *groups: IntegerSynapses, target: str = "fixedpoint") -> Program:
    network = IntegerNetwork(tuple(populations), groups, {"output": "out"})
    return Program(target, {}, network, Schedule({}), (), 4, None, {})


def dense(source: str, target: str, weight: Any, **more: Any) -> IntegerSynapses:
    return IntegerSynapses(f"{source}_{target}", source, target, np.array(weight), **more)


def estimate(program: Program, fired: dict[str, Any], *, steps: int = 4) -> Energy:
    """Return the estimate by constants of 45 nm of a stage that fired so."""
    means = {name: np.array(values, float) for name, values in fired.items()}
    (found,), reasons = energy_of(program, {"float": means}, steps=steps)
    assert not reasons
    return found


def counted(energy: Energy) -> list[tuple[str, str, float]]:
    return [(layer.name, layer.kind, layer.operations) for layer in energy.layers]


def test_values_are_multiplied_and_spikes_are_added(integer_neurons: Neurons) -> None:
    program = program_of(
        [VALUES, integer_neurons("fc", (2,)), integer_neurons("out", (3,), shows="input")],
        dense("in", "fc", [[1, 0], [2, 3]]),
        dense("fc", "out", [[1, 1], [0, 5], [0, 0]]),
    )

    energy = estimate(program, {"fc": [1.5, 2.0]})

    # 3 synapses in 4 steps; the first neuron has 1 synapse, the second one 2
    assert counted(energy) == [("fc", "mac", 12.0), ("out", "ac", 1.5 * 1 + 2.0 * 2)]
    assert [layer.picojoules for layer in energy.layers] == pytest.approx([12 * 4.6, 5.5 * 0.9])
    assert energy.picojoules == pytest.approx(12 * 4.6 + 5.5 * 0.9)
    assert energy.dense_picojoules == pytest.approx((3 + 3) * 4.6)
    assert (energy.stage, energy.rule) == ("float", RULE)


def test_borders_of_an_image_are_not_reached(integer_neurons: Neurons) -> None:
    geometry = Geometry(padding=(1, 1))
    image = IntegerInput("in", (1, 3, 3), 1.0, 0, 1, True)
    kernel = np.ones((1, 1, 3, 3), np.int64)
    program = program_of(
        [image, integer_neurons("out", (1, 3, 3))],
        IntegerSynapses("conv", "in", "out", kernel, geometry),
    )
    spikes = np.zeros((1, 3, 3))
    spikes[0, 0, 0], spikes[0, 1, 1], spikes[0, 2, 1] = 1, 2, 0.5

    energy = estimate(program, {"in": spikes})

    # a corner is in 4 windows, the middle in 9, a side in 6
    assert counted(energy) == [("out", "ac", 1 * 4 + 2 * 9 + 0.5 * 6)]
    assert energy.dense_picojoules == pytest.approx((4 * 4 + 4 * 6 + 9) * 4.6)


@given(st.data())
def test_additions_are_those_of_all_synapses(integer_neurons: Neurons, data: st.DataObject) -> None:
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    groups = data.draw(st.sampled_from([1, 2]))
    geometry = Geometry(
        stride=(data.draw(st.integers(1, 2)), 1),
        padding=(1, data.draw(st.integers(0, 1))),
        groups=groups,
    )
    weight = generator.integers(-1, 2, (4, 2 // groups, 2, 3))
    image = IntegerInput("in", (2, 5, 4), 1.0, 0, 1, True)
    operator = Conv2d(
        (weight != 0).astype(float),
        np.zeros(4),
        stride=geometry.stride,
        padding=geometry.padding,
        groups=groups,
    )
    spikes = generator.integers(0, 3, (2, 5, 4)).astype(float)
    reached = convolve(spikes[np.newaxis], operator.weight, operator)
    program = program_of(
        [image, integer_neurons("out", reached.shape[1:])],
        IntegerSynapses("conv", "in", "out", weight, geometry),
    )

    energy = estimate(program, {"in": spikes})

    assert counted(energy) == [("out", "ac", reached.sum())]


@pytest.mark.parametrize(
    "changes", [{"exact": False}, {"maximum": 2}, {"minimum": -1}, {"scale": 2.0, "maximum": 2}]
)
def test_other_inputs_than_spikes_are_values(
    changes: dict[str, Any], integer_neurons: Neurons
) -> None:
    def program(item: IntegerInput) -> Program:
        return program_of([item, integer_neurons("out", (1,))], dense("in", "out", [[1, 1]]))

    assert counted(estimate(program(SPIKES), {"in": [0.5, 3]})) == [("out", "ac", 3.5)]
    other = replace(SPIKES, **changes)
    assert counted(estimate(program(other), {})) == [("out", "mac", 8.0)]


def test_sums_are_layers_of_their_own(integer_neurons: Neurons) -> None:
    first, second = integer_neurons("a", (2,)), integer_neurons("b", (2,))
    into = dense("in", "a", [[1, 0], [0, 1]]), dense("in", "b", [[1, 0], [0, 1]])
    fired = {"in": [1, 1], "a": [1.0, 0.0], "b": [2.0, 1.0]}
    last = integer_neurons("out", (1,), shows="input")
    shared = program_of(
        [SPIKES, first, second, IntegerRelay("sum", (2,), 2), last],
        *into,
        dense("a", "sum", [[1, 0], [0, 1]]),
        dense("b", "sum", [[1, 0], [0, 1]]),
        dense("sum", "out", [[7, 7]]),
    )
    repeated = program_of(
        [SPIKES, first, second, last],
        *into,
        dense("a", "out", [[7, 7]]),
        dense("b", "out", [[7, 7]]),
    )

    energies = estimate(shared, fired), estimate(repeated, fired)

    before = [("a", "ac", 2.0), ("b", "ac", 2.0)]
    assert counted(energies[0]) == [*before, ("sum", "ac", 4.0), ("out", "ac", 3.0 + 1.0)]
    assert counted(energies[1]) == [*before, ("out", "ac", 4.0)]
    # the same network as an ANN: 2 + 2 into a and b, and 2 behind the sum
    assert [energy.dense_picojoules for energy in energies] == pytest.approx([6 * 4.6, 6 * 4.6])


def test_sums_of_sums_and_of_images(integer_neurons: Neurons) -> None:
    one = np.ones((1, 1, 1, 1), np.int64)
    image = (1, 2, 2)
    program = program_of(
        [
            IntegerInput("in", image, 1.0, 0, 1, True),
            IntegerRelay("sum", image, 1),
            IntegerRelay("more", image, 2),
            integer_neurons("out", (1,)),
        ],
        IntegerSynapses("1", "in", "sum", one, Geometry()),
        IntegerSynapses("2", "sum", "more", one, Geometry()),
        IntegerSynapses("3", "in", "more", one, Geometry()),
        dense("more", "out", [[1, 0, 0, 1]]),
    )

    energy = estimate(program, {"in": [[[1, 2], [0, 4]]]})

    assert counted(energy) == [
        ("sum", "ac", 7.0),
        ("more", "ac", 14.0),
        ("out", "ac", 2 * (1 + 4)),
    ]


def test_feedback_and_delays_count_every_spike(integer_neurons: Neurons) -> None:
    program = program_of(
        [SPIKES, integer_neurons("out", (2,))],
        dense("in", "out", [[1, 1], [1, 1]], delay=np.array(9)),
        dense("out", "out", [[0, 1], [1, 0]], delay=np.array(1)),
    )

    energy = estimate(program, {"in": [1, 0], "out": [3, 2]})

    assert counted(energy) == [("out", "ac", 2.0 + 5.0)]


def test_values_and_spikes_into_one_layer_are_told_apart(integer_neurons: Neurons) -> None:
    program = program_of(
        [VALUES, integer_neurons("fc", (1,)), integer_neurons("out", (1,))],
        dense("in", "fc", [[1, 1]]),
        dense("in", "out", [[1, 1]]),
        dense("fc", "out", [[1]]),
    )

    energy = estimate(program, {"fc": [2.5]}, steps=3)

    assert counted(energy) == [("fc", "mac", 6.0), ("out", "mac", 6.0), ("out", "ac", 2.5)]


def test_a_program_for_loihi_2_is_priced_as_loihi_1_without_the_host(
    integer_neurons: Neurons,
) -> None:
    program = program_of(
        [VALUES, integer_neurons("fc", (2,)), integer_neurons("out", (1,))],
        dense("in", "fc", [[1, 1], [1, 1]], on_host=True),
        dense("fc", "out", [[1, 1]]),
        target="loihi2",
    )
    fired = {"fc": np.array([1.0, 2.0])}

    found, reasons = energy_of(program, {"float": fired, "loihi2": fired}, steps=4)

    assert not reasons
    assert [(item.stage, item.rule) for item in found] == [
        ("float", RULE),
        ("loihi2", RULE),
        ("loihi2", LOIHI1_RULE),
    ]
    assert counted(found[1]) == [("fc", "mac", 16.0), ("out", "ac", 3.0)]
    assert counted(found[2]) == [("out", "ac", 3.0)]
    assert found[2].picojoules == pytest.approx(3 * 23.6)
    assert found[2].dense_picojoules == found[1].dense_picojoules == pytest.approx(6 * 4.6)
    assert "Loihi 1" in LOIHI1_RULE
    assert "no" in LOIHI1_RULE


@pytest.mark.parametrize("target", ["fixedpoint", "onnx"])
def test_programs_for_other_targets_have_no_price_of_loihi_1(
    target: str, integer_neurons: Neurons
) -> None:
    program = program_of(
        [VALUES, integer_neurons("out", (1,))], dense("in", "out", [[1, 1]]), target=target
    )

    found, _ = energy_of(program, {"float": {}, target: {}}, steps=4)

    assert [(item.stage, item.rule) for item in found] == [("float", RULE), (target, RULE)]


def test_a_stage_that_hides_spikes_has_no_estimate(integer_neurons: Neurons) -> None:
    program = program_of(
        [VALUES, integer_neurons("fc", (1,)), integer_neurons("out", (1,))],
        dense("in", "fc", [[1, 1]]),
        dense("fc", "out", [[1]]),
    )

    found, reasons = energy_of(program, {"torch": {}, "float": {"fc": np.ones(1)}}, steps=1)

    assert [item.stage for item in found] == ["float"]
    assert reasons == {"energy of torch": "it does not show the spikes of fc"}
