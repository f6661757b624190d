"""Teacher forcing: a layer's own errors stay, whatever the layers before it do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import execute

from neurocompile.integer import IntegerNetwork, IntegerRelay
from neurocompile.statistics import Share
from neurocompile.verification.examine import run_integers
from neurocompile.verification.forcing import (
    Answers,
    Counts,
    blame_of,
    count_answers,
    count_own,
    force,
    most_fired,
    readout_blame_of,
)


def fired(network: IntegerNetwork, payloads: Any) -> Any:
    return run_integers(network, payloads, [item.name for item in network.spiking]).spikes


def own_spikes(network: IntegerNetwork, payloads: Any, reference: Any) -> Any:
    forced = force(network, most_fired(reference))
    layers = [item.name for item in network.spiking]
    return run_integers(forced.network, {**payloads, **forced.played(reference)}, layers).spikes


@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 30))
def test_forced_by_itself_a_network_does_what_it_does(maker: Any, seed: int) -> None:
    """Delays, feedback, sums and several spikes a step included; every engine that may be taken."""
    made = maker(seed, rounded=True)
    network, payloads = made.network(), made.payloads()
    reference = fired(network, payloads)

    found = own_spikes(network, payloads, reference)

    for name, spikes in reference.items():
        np.testing.assert_array_equal(found[name], spikes)


@settings(max_examples=30)
@given(seed=st.integers(0, 1 << 30), layer=st.sampled_from(["conv", "side", "hidden"]))
def test_an_error_planted_in_one_layer_is_own_there_and_nowhere_else(
    maker: Any, seed: int, layer: str
) -> None:
    made = maker(seed, rounded=True)
    network, payloads = made.network(), made.payloads()
    reference = fired(network, payloads)
    wrong = replace(
        network,
        synapses=tuple(
            replace(group, weight=group.weight - 2) if group.target == layer else group
            for group in network.synapses
        ),
    )

    counts = count_own(reference, fired(wrong, payloads), own_spikes(wrong, payloads, reference))

    for name, found in counts.items():
        if name != layer:
            assert found.own == 0
            assert found.inherited == found.total
        assert found.total <= found.own + found.inherited
        assert found.inherited <= found.total


def test_planted_errors_are_seen_and_blamed(maker: Any) -> None:
    seen = 0
    for seed in range(12):
        made = maker(seed, rounded=True)
        network, payloads = made.network(), made.payloads()
        reference = fired(network, payloads)
        wrong = replace(
            network,
            synapses=tuple(
                replace(group, weight=-group.weight) if group.target == "side" else group
                for group in network.synapses
            ),
        )
        counts = count_own(
            reference, fired(wrong, payloads), own_spikes(wrong, payloads, reference)
        )
        if counts["side"].own:
            seen += 1
            assert blame_of(counts)[0].name == "side"
    assert seen > 6


def test_the_first_layer_inherits_nothing_where_nothing_leads_back(one_layer: Any) -> None:
    network = one_layer([[60], [90]], delay=1)
    payloads = {"in": np.ones((2, 6, 1), np.int64)}
    free = fired(network, payloads)
    reference = {"out": 1 - free["out"]}

    counts = count_own(reference, free, own_spikes(network, payloads, reference))

    assert counts == {"out": Counts(slots=24, total=24, own=24, inherited=0)}


def test_players_have_names_of_their_own_and_play_all_that_was_fired(one_layer: Any) -> None:
    network = one_layer([[1]])
    heard = replace(
        network,
        populations=(
            *network.populations,
            replace(network["out"], name="reference of out"),
        ),
        synapses=(
            *network.synapses,
            replace(network.synapses[0], name="w2", source="out", target="reference of out"),
        ),
    )

    forced = force(heard, {"out": 5})

    assert forced.players == {"out": "reference of out.2"}
    (player,) = [item for item in forced.network.inputs if item.name == "reference of out.2"]
    assert (player.minimum, player.maximum, player.shape) == (0, 5, (1,))
    # The last layer is heard by nobody, and nobody plays it.
    assert not [
        item for item in forced.network.inputs if item.name == "reference of reference of out"
    ]


def test_relays_sum_what_the_reference_fired(maker: Any) -> None:
    made = maker(3)
    network = made.network()
    forced = force(network, {})

    assert isinstance(forced.network["sum"], IntegerRelay)
    assert {group.source for group in forced.network.into("sum")} == {
        "reference of conv",
        "reference of side",
    }
    assert {group.source for group in forced.network.into("hidden")} == {
        "sum",
        "reference of hidden",
    }


def test_the_most_own_errors_come_first() -> None:
    blamed = blame_of(
        {
            "few": Counts(slots=100, total=50, own=1, inherited=49),
            "small": Counts(slots=10, total=5, own=5, inherited=0),
            "many": Counts(slots=1000, total=9, own=9, inherited=0),
        }
    )

    assert [layer.name for layer in blamed] == ["small", "few", "many"]
    assert (blamed[1].total.count, blamed[1].inherited.count, blamed[1].own.of) == (50, 49, 100)


def test_differences_are_counted_by_hand() -> None:
    reference = {"n": np.array([[0, 1, 1, 0]])}
    free = {"n": np.array([[1, 1, 0, 0]])}
    forced = {"n": np.array([[1, 1, 1, 1]])}

    # Step 0 differs both ways, step 2 only as it runs, step 3 only under forcing.
    assert count_own(reference, free, forced) == {"n": Counts(4, total=2, own=2, inherited=1)}
    # Ties at the steps 0 and 2: only the first of them differs under forcing.
    ties = {"n": np.array([[True, False, True, False]])}
    assert count_own(reference, free, forced, ties) == {
        "n": Counts(4, total=2, own=1, inherited=1, ties=1)
    }


def test_answers_are_counted_by_hand() -> None:
    """Three samples of one step: the first decides alike, the second not, the third only under forcing."""
    before = np.array([[[3.0, 1.0]], [[3.0, 1.0]], [[3.0, 1.0]]])
    free = np.array([[[3.0, 2.0]], [[1.0, 3.0]], [[1.0, 3.0]]])
    forced = np.array([[[3.0, 1.0]], [[1.0, 3.0]], [[3.0, 1.5]]])

    found = count_answers(before, free, forced)

    assert found == Answers(3, total=2, own=1, slots=6, total_error=9.0, own_error=4.5)
    (blamed,) = readout_blame_of({"out": found})
    assert (blamed.total, blamed.own) == (Share(2, 3), Share(1, 3))
    assert (blamed.total_error, blamed.own_error) == (1.5, 0.75)
    assert found + Answers() == found
    assert (found + found).own_error == 9.0


def test_answers_weigh_steps_as_training_did() -> None:
    """Class 0 leads by the mean, class 1 at the step that alone counts."""
    before = np.array([[[5.0, 0.0], [0.0, 1.0]]])
    off = np.array([[[5.0, 0.0], [0.5, 0.0]]])

    assert count_answers(before, off, before).total == 0
    assert count_answers(before, off, before, (0.0, 1.0)).total == 1
    assert count_answers(before[..., :1], off[..., :1], before[..., :1]).samples == 0


def test_the_read_out_that_changes_most_decisions_comes_first() -> None:
    blamed = readout_blame_of(
        {
            "far": Answers(10, total=5, own=1, slots=10, own_error=90.0),
            "near": Answers(10, total=5, own=1, slots=10, own_error=1.0),
            "worst": Answers(10, total=0, own=2, slots=10),
            "none": Answers(slots=10),
        }
    )

    assert [item.name for item in blamed] == ["worst", "far", "near", "none"]


@pytest.mark.parametrize("samples", [1, 70])
def test_membranes_before_the_reset_are_those_of_the_definition(
    one_layer: Any, samples: int
) -> None:
    network = one_layer([[60], [90]])
    payloads = {"in": np.ones((samples, 6, 1), np.int64)}
    record = ["out", "membrane/out"]

    expected = execute(
        network, payloads, samples=samples, steps=6, record=record, before_reset=True
    )

    found = run_integers(network, payloads, record)
    np.testing.assert_array_equal(found.membrane["out"], expected.membrane["out"])
    assert found.membrane["out"].max() > 100 * 64
