"""What is counted: by hand on a few spikes, and that any split of the samples adds up to the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurocompile.decision import decisions
from neurocompile.verification.report import Divergence
from neurocompile.verification.stages import Stage
from neurocompile.verification.tallies import (
    KEPT,
    LayerTally,
    PairTally,
    StageTally,
    Tally,
    chosen,
    decisions_over_steps,
    first_divergences,
    largest_is_alone,
    right_alone,
    tally_pair,
    tally_stage,
)
from neurocompile.verification.verify import mismatch_interval

Array = NDArray[Any]
StageOf = Callable[..., Stage]


@pytest.fixture(scope="module")
def stage() -> StageOf:
    """Makes a stage from spikes by layer; its outputs are zeros unless given."""

    def make(spikes: dict[str, Array], output: Array | None = None, name: str = "stage") -> Stage:
        samples, steps = next(iter(spikes.values())).shape[:2]
        shown = np.zeros((samples, steps, 2)) if output is None else output
        return Stage(name, True, {"output": shown}, spikes)

    return make


def test_a_layer_is_counted_by_hand(stage: StageOf) -> None:
    """Two samples of three steps and two neurons; the second sample's spikes are graded."""
    before = np.array([[[1, 0], [0, 0], [1, 1]], [[0, 2], [0, 0], [3, 0]]], np.uint8)
    after = np.array([[[1, 1], [0, 0], [0, 1]], [[0, 2], [1, 0], [1, 0]]], np.uint8)

    pair = tally_pair(stage({"a": before}), stage({"a": after}), offset=5, agreeing=1)

    layer = pair.layers["a"]
    assert (layer.slots, layer.trains) == (12, 4)
    assert layer.mismatches == 4  # places, whatever the number of spikes there
    assert (layer.missing, layer.extra) == (1 + 2, 1 + 1)  # spikes
    assert (layer.spikes_reference, layer.spikes_candidate) == (8, 7)
    assert layer.by_step == (1, 1, 2)
    # In a whole sample the neurons fired 2 and 1 against 1 and 2, and 3 and 2 against 2 and 2.
    assert layer.moved == 1 + 1 + 1 + 0
    assert (pair.differing, pair.agreeing, pair.squares) == (2, 1, 2**2 + 2**2)
    assert pair.first == Divergence(5, 0, "a", 1, 0, 1, None, None)
    assert [(item.sample, item.step, item.neuron) for item in pair.kept] == [(5, 0, 1), (6, 1, 0)]


def test_spikes_of_unsigned_numbers_do_not_wrap(stage: StageOf) -> None:
    few, many = np.full((1, 2, 3), 0, np.uint8), np.full((1, 2, 3), 255, np.uint8)

    pair = tally_pair(stage({"a": many}), stage({"a": few}), offset=0, agreeing=0)

    assert (pair.layers["a"].missing, pair.layers["a"].extra) == (6 * 255, 0)
    counted = tally_stage(stage({"a": many}), None, None)
    assert counted.spikes == {"a": 1530}
    assert counted.by_neuron["a"].tolist() == [510, 510, 510]


def test_only_layers_that_both_show_are_compared(stage: StageOf) -> None:
    spikes = np.zeros((1, 2, 3), np.uint8)

    pair = tally_pair(stage({"a": spikes, "b": spikes}), stage({"b": spikes}), offset=0, agreeing=1)

    assert list(pair.layers) == ["b"]
    assert (pair.first, pair.kept, pair.differing) == (None, (), 0)


def test_outputs_are_compared_all_of_them(stage: StageOf) -> None:
    spikes = {"a": np.zeros((2, 3, 1), np.uint8)}
    output = np.zeros((2, 3, 2))
    other = output.copy()
    other[1, 2, 0], other[0, 1, 1] = -0.5, 0.25

    pair = tally_pair(stage(spikes, output), stage(spikes, other), offset=0, agreeing=2)

    assert (pair.output_slots, pair.output_mismatches, pair.output_difference) == (12, 2, 0.5)


def test_the_first_divergence_is_the_earliest_step_then_the_first_layer_and_neuron() -> None:
    before = {name: np.zeros((3, 4, 2, 2), np.uint8) for name in ("late", "early")}
    after = {name: values.copy() for name, values in before.items()}
    after["late"][0, 2, 1, 1] = after["late"][0, 2, 1, 0] = 1  # of one step the first neuron
    after["early"][0, 2, 0, 0] = 1  # the same step, in a layer that comes later
    after["late"][2, 3, 0, 0] = 1
    after["early"][2, 1, 0, 1] = 1  # a later layer, at an earlier step

    found = first_divergences(before, after, 10)

    assert [(item.sample, item.step, item.layer, item.neuron) for item in found] == [
        (10, 2, "late", 2),
        (12, 1, "early", 1),
    ]


def test_decisions_over_steps_take_the_mean_so_far() -> None:
    output = np.array([[[1.0, 0.0], [0.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0], [5.0, 0.0]]])

    plain = decisions_over_steps(output, None)

    assert plain.tolist() == [[0, 1, 1], [0, 1, 0]]  # of equal sums the first class
    assert plain[:, -1].tolist() == decisions(output).tolist()


def test_decisions_over_steps_are_weighted_if_there_are_as_many_weights() -> None:
    output = np.array([[[1.0, 0.0], [0.0, 3.0], [0.0, 0.0]]])
    weights = (4.0, 1.0, 1.0)

    assert decisions_over_steps(output, weights).tolist() == [[0, 0, 0]]
    assert decisions_over_steps(output, weights)[:, -1].tolist() == decisions(output, weights)
    assert decisions_over_steps(output[:, :2], weights).tolist() == [[0, 1]]  # others: plain


@pytest.mark.parametrize(
    ("classes", "step"),
    [
        ([0, 0, 0], 1),
        ([1, 0, 0], 2),
        ([0, 1, 0], 3),
        ([0, 0, 1], 3),
        ([1, 1, 0], 3),
        ([2, 1, 1], 2),
    ],
)
def test_a_decision_is_made_at_the_step_after_which_it_stays(
    classes: list[int], step: int, stage: StageOf
) -> None:
    """Outputs whose sum so far is largest where `classes` say, and nowhere else."""
    sums = np.eye(3)[classes][np.newaxis] * np.array([1.0, 2.0, 3.0])[:, np.newaxis]
    output = np.diff(sums, axis=1, prepend=0)

    counted = tally_stage(stage({"a": np.zeros((1, 3, 1), np.uint8)}, output), None, None)

    assert counted.decided == step


def test_a_sample_without_a_largest_output_is_undecided(stage: StageOf) -> None:
    """
    Four samples: silent; tied at the end; decided for 1 after 2 steps; tied at the second step of three.

    A tie in between takes the decision back, so that the last one is decided after the third step.
    """
    output = np.array(
        [
            [[0, 0], [0, 0], [0, 0]],
            [[1, 0], [0, 0], [0, 1]],
            [[0, 0], [0, 1], [0, 0]],
            [[1, 0], [0, 1], [1, 0]],
        ],
        float,
    )
    spikes = {"a": np.zeros((4, 3, 1), np.uint8)}

    counted = tally_stage(stage(spikes, output), np.array([0, 0, 1, 0]), None)

    assert largest_is_alone(output, None).tolist() == [
        [False, False, False],
        [True, True, False],
        [False, True, True],
        [True, False, True],
    ]
    assert (counted.undecided, counted.decided) == (2, 2 + 3)
    assert counted.right_by_step == (3, 4, 4)  # the first of the largest is a decision, too
    assert (counted + counted).undecided == 4
    # Weights of steps can make a tie, or break it.
    assert largest_is_alone(output[1:2], (2.0, 1.0, 1.0)).tolist() == [[True, True, True]]


def test_samples_that_one_stage_has_right_alone_are_counted(stage: StageOf) -> None:
    labels = np.array([0, 0, 0, 1, 1])
    first, second = np.array([0, 0, 0, 0, 1]), np.array([0, 1, 1, 1, 1])
    spikes = {"a": np.zeros((5, 2, 1), np.uint8)}

    alone = right_alone(first, second, labels)
    pair = tally_pair(stage(spikes), stage(spikes), offset=0, agreeing=2, alone=alone)

    assert alone == (2, 1)
    assert (pair.only_first, pair.only_second) == (2, 1)
    assert ((pair + pair).only_first, (pair + pair).only_second) == (4, 2)
    unknown = tally_pair(stage(spikes), stage(spikes), offset=0, agreeing=2)
    assert (unknown.only_first, (pair + unknown).only_second) == (None, None)
    assert right_alone(first, second, None) is None


def test_right_decisions_are_counted_after_each_step(stage: StageOf) -> None:
    output = np.array([[[1.0, 0.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, 1.0]]])
    spikes = {"a": np.zeros((2, 2, 1), np.uint8)}

    counted = tally_stage(stage(spikes, output), np.array([1, 1]), None)

    assert counted.right_by_step == (1, 2)
    assert tally_stage(stage(spikes, output), None, None).right_by_step is None


@pytest.mark.parametrize("cuts", [[], [1], [3, 4], list(range(1, 40))])
def test_the_choice_of_divergences_does_not_depend_on_the_split(cuts: list[int]) -> None:
    found = [Divergence(sample, 0, "a", 0, 0, 1, None, None) for sample in range(40)]
    whole = chosen(found)

    parts = [found[start:stop] for start, stop in zip([0, *cuts], [*cuts, 40], strict=True)]
    together: tuple[Divergence, ...] = ()
    for part in parts:
        together = chosen((*together, *chosen(part)))

    assert together == whole
    assert len(whole) == KEPT
    assert [item.sample for item in whole] == sorted(item.sample for item in whole)
    assert whole != tuple(found[:KEPT])  # not simply the first ones


@settings(max_examples=40)
@given(data=st.data())
def test_any_split_of_the_samples_adds_up_to_the_whole(data: st.DataObject, stage: StageOf) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1), label="seed")
    samples = data.draw(st.integers(1, 9), label="samples")
    rarely = data.draw(st.sampled_from([0.0, 0.02, 0.5]), label="how often spikes differ")
    generator = np.random.default_rng(seed)
    shape = (samples, 4, 3)
    before = {name: generator.integers(0, 3, shape).astype(np.uint8) for name in ("a", "b")}
    after = {
        name: np.where(generator.random(shape) < rarely, generator.integers(0, 3, shape), values)
        for name, values in before.items()
    }
    outputs = [generator.integers(0, 3, (samples, 4, 2)) / 4 for _ in range(2)]
    labels = generator.integers(0, 2, samples) if data.draw(st.booleans(), label="labels") else None
    cuts = sorted(data.draw(st.sets(st.integers(1, samples)), label="cuts") - {samples})
    first, second = stage(before, outputs[0]), stage(after, outputs[1])

    def counted(start: int, stop: int) -> Tally:
        one, two = (
            replace(
                item,
                outputs={name: values[start:stop] for name, values in item.outputs.items()},
                spikes={name: values[start:stop] for name, values in item.spikes.items()},
            )
            for item in (first, second)
        )
        own = None if labels is None else labels[start:stop]
        return Tally(
            stop - start,
            4,
            {("one", "two"): tally_pair(one, two, offset=start, agreeing=stop - start)},
            {"one": tally_stage(one, own, None), "two": tally_stage(two, own, (1.0, 2.0, 0.5, 1))},
            {"a": {"wraps": int(before["a"][start:stop].sum())}},
        )

    whole = counted(0, samples)
    ends = zip([0, *cuts], [*cuts, samples], strict=True)
    parts = [counted(start, stop) for start, stop in ends]

    assert reduce(add, parts) == whole
    assert reduce(add, data.draw(st.permutations(parts), label="order")) == whole
    by_neuron = whole.stages["one"].by_neuron["a"]
    np.testing.assert_array_equal(by_neuron, before["a"].sum((0, 1)))
    assert by_neuron.sum() == whole.stages["one"].spikes["a"]


def test_tallies_with_other_numbers_are_not_equal() -> None:
    counted = StageTally({"a": 1}, {"a": 2}, None, 1, {"a": np.array([1, 0])})

    assert counted == replace(counted, by_neuron={"a": np.array([1, 0])})
    assert counted != replace(counted, by_neuron={"a": np.array([0, 1])})
    assert counted != replace(counted, decided=2)


def test_the_interval_of_mismatches_is_that_of_the_samples_shares(stage: StageOf) -> None:
    """Samples of 4 places with 0, 0, 2 and 2 mismatches: a mean of 1, a deviation of 1.1547; t is 3.182."""
    before = {"a": np.zeros((4, 2, 2), np.uint8)}
    after = {"a": before["a"].copy()}
    after["a"][2:, 0] = 1
    pair = tally_pair(stage(before), stage(after), offset=0, agreeing=0)

    found = mismatch_interval(pair, 4)

    reach = 3.18245 * (4 / 3) ** 0.5 / 4**0.5 / 4
    assert reach > 0.25
    assert found == pytest.approx((0.0, 0.25 + reach), abs=1e-5)


@pytest.mark.parametrize(
    ("mismatches", "samples"),
    [([3], 1), ([1, 3], 2), ([2, 2, 2], 3), ([0, 0, 0, 0], 4)],
    ids=["one", "two", "all alike", "none"],
)
def test_there_is_no_interval_where_it_says_nothing(mismatches: list[int], samples: int) -> None:
    layer = LayerTally(4 * samples, sum(mismatches), 0, sum(mismatches), 9, 9, 1, 0, (0,))
    squares = sum(number**2 for number in mismatches)

    assert (
        mismatch_interval(PairTally({"a": layer}, 0, 0, 0, 0, 0, squares=squares), samples) is None
    )


def test_the_interval_holds_the_mean_about_as_often_as_it_says() -> None:
    """Of few samples, which the normal distribution's is too narrow for: 0.87 of five."""
    generator = np.random.default_rng(0)
    held = 0
    for counts in generator.poisson(5.0, (2000, 5)):
        layer = LayerTally(500, int(counts.sum()), 0, 0, 9, 9, 1, 0, (0,))
        pair = PairTally({"a": layer}, 0, 0, 0, 0, 0, squares=int((counts**2).sum()))
        found = mismatch_interval(pair, 5)
        held += found is None or found[0] <= 0.05 <= found[1]

    assert held / 2000 == pytest.approx(0.95, abs=0.02)


def test_tallies_of_pairs_keep_the_lowest_sample() -> None:
    early, late = (Divergence(sample, 0, "a", 0, 0, 1, None, None) for sample in (3, 8))
    nothing = PairTally({}, 0, 0, 0.0, 0, 0)

    found = replace(nothing, first=late) + replace(nothing, first=early)

    assert found.first == early
    assert (nothing + nothing).first is None
