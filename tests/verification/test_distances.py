"""Distances of spike trains: worked by hand, and held against their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurocompile.errors import MissingDependencyError
from neurocompile.verification import distances
from neurocompile.verification.distances import distances_of
from neurocompile.verification.report import Distances

pytest.importorskip("elephant")


def trains(*rows: Sequence[int]) -> NDArray[np.uint8]:
    """Return the trains of some neurons as one sample, (1, steps, neurons)."""
    return np.array(rows, np.uint8).T[np.newaxis]


def of(first: NDArray[Any], second: NDArray[Any], tau: float = 2.0, cost: float = 0.5) -> Distances:
    (found,) = distances_of({"fc": first}, {"fc": second}, tau=tau, cost=cost)
    return found


@pytest.mark.parametrize(
    ("first", "second", "rossum", "victor"),
    [
        # one step late: sqrt(2 (1 - exp(-1 / 2))), and half a spike's price
        ([1, 0, 0, 0], [0, 1, 0, 0], math.sqrt(2 * (1 - math.exp(-0.5))), 0.5),
        # a spike more, a spike less
        ([1, 0, 0, 0], [1, 0, 1, 0], 1.0, 1.0),
        ([0, 0, 0, 1], [0, 0, 0, 0], 1.0, 1.0),
        # 5 steps late: cheaper to remove and add
        ([1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], math.sqrt(2 * (1 - math.exp(-2.5))), 2.0),
        # graded: one more at the same time, then two more
        ([0, 1, 0, 0], [0, 2, 0, 0], 1.0, 1.0),
        ([0, 1, 0, 0], [0, 3, 0, 0], 2.0, 2.0),
        # two spikes for none: |f(t) + f(t - 1)|, 2 + 2 exp(-1 / 2) under the root
        ([1, 1, 0, 0], [0, 0, 0, 0], math.sqrt(2 + 2 * math.exp(-0.5)), 2.0),
        ([1, 0, 1, 0], [1, 0, 1, 0], 0.0, 0.0),
    ],
)
def test_worked_by_hand(first: list[int], second: list[int], rossum: float, victor: float) -> None:
    found = of(trains(first), trains(second))

    assert found.van_rossum == pytest.approx(rossum, abs=1e-12)
    assert found.victor_purpura == pytest.approx(victor, abs=1e-12)
    assert (found.name, found.tau, found.cost) == ("fc", 2.0, 0.5)
    assert (found.membrane_mean, found.membrane_largest) == (None, None)


def test_means_are_over_all_neurons_and_samples() -> None:
    first = np.concatenate([trains([1, 0], [0, 0]), trains([1, 1], [0, 0])])
    second = np.concatenate([trains([0, 1], [0, 0]), trains([1, 0], [0, 1])])
    late = math.sqrt(2 * (1 - math.exp(-0.5)))

    found = of(first, second)

    assert found.van_rossum == pytest.approx((late + 0 + 1 + 1) / 4)
    assert found.victor_purpura == pytest.approx((0.5 + 0 + 1 + 1) / 4)


def test_layers_that_both_show_are_compared() -> None:
    same = trains([1, 0])

    found = distances_of({"a": same, "b": same}, {"b": same, "c": same})

    assert [item.name for item in found] == ["b"]


def test_images_count_each_pixel() -> None:
    first = np.zeros((1, 3, 2, 2, 2), np.uint8)
    second = first.copy()
    second[0, 1, 1, 0, 1] = 1

    assert of(first, second).victor_purpura == 1 / 8


def closed_form(first: Sequence[int], second: Sequence[int], tau: float) -> float:
    """Van Rossum's distance from inner products of filtered spikes: exp(-|t - s| / tau)."""
    signed = [(t, n) for t, n in enumerate(first)] + [(t, -n) for t, n in enumerate(second)]
    total = sum(n * m * math.exp(-abs(t - s) / tau) for t, n in signed for s, m in signed)
    return math.sqrt(max(0.0, total))


def cheapest(first: Sequence[int], second: Sequence[int], cost: float) -> float:
    """Victor and Purpura's distance by their table."""
    ours = [t for t, n in enumerate(first) for _ in range(n)]
    theirs = [t for t, n in enumerate(second) for _ in range(n)]
    table = [[float(i + j) for j in range(len(theirs) + 1)] for i in range(len(ours) + 1)]
    for i, t in enumerate(ours, 1):
        for j, s in enumerate(theirs, 1):
            moved = table[i - 1][j - 1] + cost * abs(t - s)
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, moved)
    return table[-1][-1]


PAIRS = st.integers(1, 7).flatmap(
    lambda steps: st.tuples(*[st.lists(st.integers(0, 2), min_size=steps, max_size=steps)] * 2)
)


@settings(max_examples=60)
@given(PAIRS, st.sampled_from([0.5, 2.0, 10.0]), st.sampled_from([0.1, 0.5, 3.0]))
def test_the_library_means_what_the_papers_do(
    pair: tuple[list[int], list[int]], tau: float, cost: float
) -> None:
    first, second = pair

    found = of(trains(first), trains(second), tau, cost)

    assert found.van_rossum == pytest.approx(closed_form(first, second, tau), abs=1e-6)
    assert found.victor_purpura == pytest.approx(cheapest(first, second, cost), abs=1e-9)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many trains Elephant was given, call by call."""
    sizes: list[int] = []
    matrices = distances._matrices  # to count its calls

    def counting(rows: Sequence[NDArray[np.int64]], tau: float, cost: float) -> object:
        sizes.append(len(rows))
        return matrices(rows, tau, cost)

    monkeypatch.setattr(distances, "_matrices", counting)
    return sizes


def test_equal_trains_ask_for_nothing(computed: list[int]) -> None:
    same = np.ones((3, 4, 100), np.uint8)

    found = of(same, same)

    assert found.van_rossum == 0.0
    assert (found.pairs, found.drawn) == (0, None)
    assert computed == []


def test_each_pair_of_trains_is_computed_once_for_all_layers(computed: list[int]) -> None:
    """Also where one layer has it the other way round: a distance has no direction."""
    first = np.zeros((10, 3, 50), np.uint8)
    second = first.copy()
    second[:, 1] = 1

    found = distances_of({"a": first, "b": second}, {"a": second, "b": first})

    assert [item.victor_purpura for item in found] == [1.0, 1.0]
    assert [(item.pairs, item.drawn) for item in found] == [(1, None), (1, None)]
    assert computed == [2]


def test_few_trains_are_computed_at_once(computed: list[int]) -> None:
    """Eight trains of three steps make 28 pairs."""
    every = np.array([[[n >> bit & 1 for n in range(8)] for bit in range(3)]], np.uint8)
    first, second = np.repeat(every, 8, axis=2), np.tile(every, 8)

    found = of(first, second)

    assert found.pairs == 28
    assert computed == [8]
    one_by_one = [of(trains(a), trains(b)) for a in every[0].T for b in every[0].T]
    assert found.van_rossum == pytest.approx(np.mean([item.van_rossum for item in one_by_one]))
    assert found.victor_purpura == pytest.approx(
        np.mean([item.victor_purpura for item in one_by_one])
    )


def test_many_steps_and_graded_spikes_are_told_apart() -> None:
    """Trains that are too long for one number, and spikes of more than 1."""
    first = np.zeros((1, 70, 2), np.int64)
    second = first.copy()
    second[0, 0, 0], second[0, 1, 1] = 1, 1
    assert of(first, second).pairs == 2
    second[0, 0, 0] = 3
    assert of(first[:, :3], second[:, :3]).victor_purpura == 4 / 2


def test_many_different_pairs_are_a_draw_that_is_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(0)
    first = generator.integers(0, 2, (4, 12, 100)).astype(np.uint8)
    second = generator.integers(0, 2, (4, 12, 100)).astype(np.uint8)
    second[:, :, :50] = first[:, :, :50]
    exact = of(first, second)
    monkeypatch.setattr(distances, "MOST_PAIRS", 60)

    drawn = of(first, second)

    assert drawn == of(first, second)
    assert exact.drawn is None
    assert exact.pairs == drawn.pairs == 200
    assert drawn.drawn == 60
    assert drawn != exact
    assert drawn.van_rossum == pytest.approx(exact.van_rossum, rel=0.1)
    assert drawn.victor_purpura == pytest.approx(exact.victor_purpura, rel=0.1)


def test_the_draw_is_bounded_for_the_whole_network(
    computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve layers of 300 pairs each, and a small one, which keeps all of its."""
    generator = np.random.default_rng(0)
    sides: list[dict[str, NDArray[np.uint8]]] = [
        {f"large {n}": generator.integers(0, 2, (3, 12, 100)).astype(np.uint8) for n in range(12)}
        for _ in range(2)
    ]
    for side, train in zip(sides, ([1, 0, 0] * 4, [0, 0, 1] * 4), strict=True):
        side["small"] = trains(train)
    monkeypatch.setattr(distances, "MOST_PAIRS", 100)

    *large, small = distances_of(*sides)

    assert len(computed) <= 100
    assert (small.pairs, small.drawn) == (1, None)
    assert {item.drawn for item in large} <= {8, 9}


def test_pairs_that_are_common_count_for_more_in_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 960 differing neurons 900 are a spike short, the others 11 to 70, each its own number."""
    first = np.zeros((1, 1, 960), np.int64)
    second = first.copy()
    second[0, 0] = [1] * 900 + list(range(11, 71))
    exact = float(second.mean())
    monkeypatch.setattr(distances, "MOST_PAIRS", 50)

    found = of(first, second)

    assert found.pairs == 61
    assert found.drawn is not None
    assert found.drawn < 10
    assert found.victor_purpura == pytest.approx(exact, rel=0.5)


def test_without_elephant_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "find_spec", lambda _name: None)

    with pytest.raises(
        MissingDependencyError,
        match=r"distances of spike trains need Elephant, but it is not installed: pip install",
    ):
        distances_of({}, {})
