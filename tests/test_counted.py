"""What a run counted is told for each layer: what saturated, wrapped, or was held back, and how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from neurocompile.counted import COUNTED_BY, EXCLUDED, remarks, saturations
from neurocompile.integer import LOIHI2, IntegerNetwork, IntegerNeurons

Make = Callable[..., IntegerNeurons]


def told(neurons: IntegerNeurons, counts: dict[str, int], **more: Any) -> list[str]:
    network = IntegerNetwork((neurons,), (), {"out": "out"})
    return remarks(network, {"out": counts}, **more)


def test_nothing_counted_is_nothing_told(integer_neurons: Make) -> None:
    assert told(integer_neurons("out"), {"u_wraps": 0, "v_saturations_low": 0}) == []
    assert remarks(IntegerNetwork((integer_neurons("out"),), (), {}), {}) == []


def test_a_run_that_does_not_count_says_so_of_what_may_saturate(integer_neurons: Make) -> None:
    may = IntegerNetwork((integer_neurons("out", saturates=True),), (), {})

    assert remarks(may, {}) == [
        f"'out' may saturate its membranes, which was not counted: {COUNTED_BY}"
    ]
    assert remarks(may, {"out": {"v_saturations_low": 0}}) == []


def test_membranes_that_may_saturate_are_told_with_their_share(integer_neurons: Make) -> None:
    """5 of 4 neurons in 25 steps are 5 %."""
    neurons = integer_neurons("out", (4,), saturates=True)

    found = told(neurons, {"v_saturations_low": 5}, places=25)

    assert found == ["'out' saturated its membranes 5 times (5 % of its steps)"]
    assert told(neurons, {"v_saturations_low": 1}) == ["'out' saturated its membranes 1 time"]


def test_what_the_proof_excludes_is_a_bug(integer_neurons: Make) -> None:
    found = told(integer_neurons("out"), {"current_wraps": 1, "u_wraps": 2, "v_saturations_low": 3})

    assert found == [
        f"'out' wrapped its input sums 1 time, {EXCLUDED}",
        f"'out' wrapped its currents 2 times, {EXCLUDED}",
        f"'out' saturated its membranes 3 times, {EXCLUDED}",
    ]


def test_membranes_that_saturate_on_their_way_to_a_spike_are_told_apart(
    integer_neurons: Make,
) -> None:
    counts = {"v_saturations_high": 7}
    cleared = integer_neurons("out")

    assert saturations(cleared, counts) == 0
    assert told(cleared, counts) == [
        "'out' saturated membranes 7 times on their way to a spike, which changes nothing"
    ]
    for neurons in (
        integer_neurons("out", reset="subtract", saturates=True),
        integer_neurons("out", most=3, saturates=True),
    ):
        assert saturations(neurons, counts) == 7
        assert told(neurons, counts) == ["'out' saturated its membranes 7 times"]
    assert saturations(integer_neurons("out", shows="membrane"), counts) == 7


def test_a_membrane_that_saturates_at_its_threshold_never_fires(integer_neurons: Make) -> None:
    arithmetic = replace(LOIHI2, fraction_bits=0, membrane_bits=8)
    counts = {"v_saturations_high": 7}

    stuck = integer_neurons("out", threshold=127, arithmetic=arithmetic)
    fires = integer_neurons("out", threshold=126, arithmetic=arithmetic)

    assert (saturations(stuck, counts), saturations(fires, counts)) == (7, 0)
    assert told(stuck, counts) == [f"'out' saturated its membranes 7 times, {EXCLUDED}"]


@pytest.mark.parametrize(
    ("count", "share"), [(1, "0.1"), (123, "12"), (990, "99"), (999, "99.9"), (1000, "100")]
)
def test_shares_are_numbers_that_people_read(integer_neurons: Make, count: int, share: str) -> None:
    neurons = integer_neurons("out", (1,), saturates=True)

    (text,) = told(neurons, {"v_saturations_low": count}, places=1000)

    assert text.endswith(f"({share} % of its steps)")


@pytest.mark.parametrize(("overflow", "verb"), [("wrap", "wrapped"), ("saturate", "saturated")])
def test_states_are_told_to_do_what_their_chip_does(
    integer_neurons: Make, overflow: Any, verb: str
) -> None:
    arithmetic = replace(LOIHI2, current_overflow=overflow, membrane_overflow=overflow)
    neurons = integer_neurons("out", arithmetic=arithmetic)

    found = told(neurons, {"u_wraps": 1, "v_saturations_low": 1})

    assert [text.split()[1] for text in found] == [verb, verb]


def test_spikes_that_were_held_back_are_told(integer_neurons: Make) -> None:
    found = told(integer_neurons("out", most=3), {"spikes_capped": 2}, places=100)

    assert found == ["'out' would have fired more than 3 times a step 2 times (2 % of its steps)"]
