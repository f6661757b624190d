"""Floors that a user sets: how they are read, what they are held against, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import neurocompile
from neurocompile.data import Samples
from neurocompile.errors import OptionError
from neurocompile.frontend.network_to_nir import network_to_nir
from neurocompile.ir import Network
from neurocompile.program import GRAPH, Program
from neurocompile.statistics import Share
from neurocompile.verification.budgets import (
    Budgets,
    difference_interval,
    fraction_of,
    judge,
)
from neurocompile.verification.report import Comparison, LayerComparison, StageSummary

COMPARED = Comparison("torch", "chip", False, (LayerComparison("a", 1000, 7, 0, 0),), 0, 0, 0, None)


@pytest.fixture
def stages() -> Callable[..., tuple[StageSummary, ...]]:
    """Makes two stages that are right on so many of 200 samples."""

    def make(first: int, last: int) -> tuple[StageSummary, ...]:
        return tuple(
            StageSummary(name, name == "chip", Share(right, 200), None, None, 0)
            for name, right in (("torch", first), ("chip", last))
        )

    return make


@pytest.mark.parametrize(
    ("text", "fraction"),
    [
        ("0.5%", 0.005), ("0.005", 0.005), (" 98 % ", 0.98), ("0%", 0.0), ("0", 0.0), ("1", 1.0),
        ("98.6%", 0.986), ("1e-3", 0.001), ("100%", 1.0),
    ],
)  # fmt: skip
def test_shares_are_read_exactly(text: str, fraction: float) -> None:
    assert fraction_of(text, "--max-mismatch") == fraction


def test_no_share_is_no_limit() -> None:
    assert fraction_of(None, "--max-mismatch") is None
    assert Budgets().given == {}


@pytest.mark.parametrize(
    "text", ["", "%", "much", "nan", "nan%", "inf", "0,5%", "5%%", "5% of it", "0x1"]
)
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"--max-mismatch must be a share, as 0\.5% or 0\.005"):
        fraction_of(text, "--max-mismatch")


def test_percents_without_their_sign_are_asked_for() -> None:
    with pytest.raises(OptionError, match=r"but it is '98': write 98% for that"):
        fraction_of("98", "--min-accuracy")


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), float("inf")])
def test_shares_beyond_all_or_nothing_are_refused(value: float) -> None:
    with pytest.raises(OptionError, match="--min-accuracy must be from 0 to 100 %, but it is"):
        Budgets(min_accuracy=value)


def test_floors_that_nothing_can_miss_are_refused_all_together() -> None:
    with pytest.raises(OptionError) as caught:
        Budgets(max_mismatch=1.0, min_accuracy=0.0, max_accuracy_drop=1.0)

    assert [str(problem).partition(" can")[0] for problem in caught.value.problems] == [
        "--max-mismatch 100 %", "--min-accuracy 0 %", "--max-accuracy-drop 100 %",
    ]  # fmt: skip


def test_each_budget_is_held_against_what_it_names(
    stages: Callable[..., tuple[StageSummary, ...]],
) -> None:
    """7 of 1000 spikes differ; 196 and 190 of 200 samples are right: 98 %, 95 %, a drop of 3 points."""
    measured = stages(196, 190)

    met = judge(Budgets(0.007, 0.95, 0.03), COMPARED, measured, whole=True)
    missed = judge(Budgets(0.0069, 0.951, 0.0299), COMPARED, measured, whole=True)

    assert [item.failed for item in met] == [False] * 3  # at the limit is within it
    assert [item.failed for item in missed] == [True] * 3
    assert [item.measured for item in met] == [0.007, 0.95, 0.03]
    assert [item.text for item in missed] == [
        "--max-mismatch 0.69 % missed by 0.01 %: torch / chip: spikes differ at 0.7 %",
        "--min-accuracy 95.1 % missed by 0.1 %: chip: accuracy is 95 %",
        "--max-accuracy-drop 2.99 points missed by 0.01 points: torch / chip: accuracy drops by 3 points",
    ]
    assert [item.unit for item in met] == ["%", "%", "points"]
    assert all(item.interval is None for item in met)


def test_a_part_of_the_data_comes_with_intervals(
    stages: Callable[..., tuple[StageSummary, ...]],
) -> None:
    pair = replace(COMPARED, interval=(0.005, 0.009))

    spikes, accuracy, drop = judge(Budgets(0.5, 0.5, 0.5), pair, stages(196, 190), whole=False)

    assert spikes.interval == (0.005, 0.009)
    assert spikes.text.endswith("0.7 % (95 %: 0.5 % to 0.9 %)")
    assert accuracy.interval == Share(190, 200).interval
    assert drop.interval is not None
    assert drop.interval[0] < 0.03 < drop.interval[1]


def test_an_accuracy_that_rises_is_no_drop(
    stages: Callable[..., tuple[StageSummary, ...]],
) -> None:
    (drop,) = judge(Budgets(max_accuracy_drop=0), COMPARED, stages(100, 120), whole=True)

    assert (drop.failed, drop.measured) == (False, -0.1)


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """His worked example (1998, table II, a): 56/70 less 48/80, by method 10: 0.0524 to 0.3339."""
    assert difference_interval(Share(56, 70), Share(48, 80)) == pytest.approx(
        (0.0524, 0.3339), abs=5e-5
    )


@pytest.mark.parametrize(
    ("cells", "interval"),
    [
        # Both, the first alone, the second alone, neither: Fagerland et al., Stat. Med. 33 (2014), sec. 5.
        ((1, 1, 7, 12), (-0.507, -0.026)),
        # By hand: none is right alone, so that all of the intervals' width is that of both.
        ((100, 0, 0, 0), (-0.037, 0.037)),
    ],
)
def test_the_interval_of_a_difference_on_the_same_samples_is_newcombes_paired_one(
    cells: tuple[int, int, int, int], interval: tuple[float, float]
) -> None:
    both, one, other, neither = cells
    of = sum(cells)

    found = difference_interval(Share(both + one, of), Share(both + other, of), (one, other))

    assert found == pytest.approx(interval, abs=5e-4)
    assert both + neither + one + other == of


def test_stages_that_are_right_on_the_same_samples_have_a_narrower_interval() -> None:
    """90 of 100 right, and the same ones but one: a point apart, by less than 13 points up or down."""
    paired = difference_interval(Share(90, 100), Share(89, 100), (1, 0))
    independent = difference_interval(Share(90, 100), Share(89, 100))

    assert independent[0] < paired[0] < 0.01 < paired[1] < independent[1]
    assert paired[1] - paired[0] < (independent[1] - independent[0]) / 2


def test_the_drop_of_accuracy_is_judged_on_the_same_samples(
    stages: Callable[..., tuple[StageSummary, ...]],
) -> None:
    measured = stages(190, 188)

    (paired,) = judge(
        Budgets(max_accuracy_drop=0.05), COMPARED, measured, whole=False, alone=(3, 1)
    )
    assert paired.interval == difference_interval(Share(190, 200), Share(188, 200), (3, 1))
    assert paired.text.endswith("points)")


def test_floors_of_accuracy_are_missed_where_nothing_is_decided(
    stages: Callable[..., tuple[StageSummary, ...]],
) -> None:
    """All labels are 0, and so is the first of the largest outputs of a network that fires nothing."""
    one, last = stages(200, 200)
    silent = (one, replace(last, undecided=Share(200, 200)))
    some = (one, replace(last, undecided=Share(199, 200)))
    budgets = Budgets(max_mismatch=0.5, min_accuracy=0.9, max_accuracy_drop=0.5)

    results = judge(budgets, COMPARED, silent, whole=True)

    assert [item.failed for item in results] == [False, True, True]
    assert results[1].text == (
        "--min-accuracy 90 % missed: chip: no output is ever the largest, so that no sample is decided; "
        "chip: accuracy is 100 %"
    )
    assert not any(item.failed for item in judge(budgets, COMPARED, some, whole=True))


@given(first=st.integers(0, 50), second=st.integers(0, 50))
def test_the_interval_of_a_difference_holds_it(first: int, second: int) -> None:
    one, two = Share(first, 50), Share(second, 50)

    low, high = difference_interval(one, two)

    assert -1 <= low <= one.value - two.value <= high <= 1
    back = difference_interval(two, one)
    assert (low, high) == pytest.approx((-back[1], -back[0]))


@pytest.fixture
def small(
    chain: Callable[..., Network],
    dense: Callable[..., Any],
    lif: Callable[..., Any],
    opened: Callable[[Program], Program],
    tmp_path: Any,
) -> Callable[..., Program]:
    """Makes a program of one layer and a read-out; with `spiking` false of the read-out alone."""

    def make(*, spiking: bool = True) -> Program:
        layers = {"fc": dense(np.eye(3)), "lif": lif((3,))} if spiking else {}
        path = tmp_path / GRAPH
        network = chain((3,), {**layers, "out": dense([[1, 0, 0.5], [0, 1, 0.25]])})
        path.write_bytes(network_to_nir(network))
        return opened(neurocompile.export(path, target="fixedpoint", validate=False))

    return make


def test_budgets_that_cannot_be_measured_are_refused_before_anything_runs(
    small: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurocompile.verification.verify.count_all", None)
    bare = Samples(np.ones((4, 4, 3)), None)

    with pytest.raises(OptionError) as caught:
        neurocompile.verify(
            small(spiking=False), data=bare, max_mismatch=0.1, min_accuracy=0.9, max_accuracy_drop=0
        )

    assert [str(problem) for problem in caught.value.problems] == [
        "--max-mismatch needs spikes that are compared, but no spikes are compared",
        "--min-accuracy needs labels, but the data has none",
        "--max-accuracy-drop needs labels, but the data has none",
    ]


def test_a_missed_budget_fails_the_report_and_is_in_its_json(small: Callable[..., Program]) -> None:
    data = Samples(np.ones((4, 4, 3)), np.array([0, 0, 0, 1]))

    met = neurocompile.verify(small(), data=data, min_accuracy=0.75, max_mismatch=0)
    missed = neurocompile.verify(small(), data=data, min_accuracy=0.8)

    assert not met.failed
    assert missed.failed
    assert missed.to_json()["failed"] is True
    (told,) = missed.to_json()["budgets"]
    assert (told["name"], told["limit"], told["measured"], told["failed"]) == (
        "--min-accuracy", 0.8, 0.75, True,
    )  # fmt: skip
