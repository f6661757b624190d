"""What differences of the same samples say: tables, worked examples, and how often chance is taken for more."""

from __future__ import annotations

import numpy as np
import pytest

from neurocompile.verification.paired import mean_chance, mean_interval, sign_chance, student_tail


@pytest.mark.parametrize(
    ("t", "freedom", "chance"),
    [  # printed tables of Student's t
        (12.706, 1, 0.05),
        (4.303, 2, 0.05),
        (3.182, 3, 0.05),
        (2.571, 5, 0.05),
        (2.228, 10, 0.05),
        (2.042, 30, 0.05),
        (3.169, 10, 0.01),
        (5.408, 7, 0.001),
    ],
)
def test_the_tails_are_those_of_the_tables(t: float, freedom: int, chance: float) -> None:
    assert student_tail(t, freedom) == pytest.approx(chance, rel=2e-3)
    assert student_tail(-t, freedom) == student_tail(t, freedom)


def test_no_difference_is_certain_to_be_chance() -> None:
    assert student_tail(0.0, 4) == 1.0
    assert mean_chance(np.zeros(9)) == 1.0
    assert sign_chance(np.zeros(9)) == 1.0


def test_an_interval_worked_by_hand() -> None:
    """Of -3, -1, -2 the mean is -2, the deviation 1: 4.303 / sqrt(3) to both sides."""
    found = mean_interval(np.array([-3.0, -1.0, -2.0]))

    assert found == pytest.approx((-2 - 2.4841, -2 + 2.4841), abs=1e-3)


@pytest.mark.parametrize("differences", [[], [1.0], [1.0, 2.0], [-1.0] * 8])
def test_where_nothing_varies_there_is_no_interval(differences: list[float]) -> None:
    assert mean_interval(np.array(differences)) is None


def test_too_few_show_nothing() -> None:
    assert mean_chance(np.array([-5.0, -5.1])) == 1.0


def test_outcomes_are_tosses_of_a_coin() -> None:
    """All of 5 one way: 2 / 32; 6 of 7: 2 (1 + 7) / 128."""
    assert sign_chance(np.array([1.0] * 5 + [0.0] * 20)) == 2 / 32
    assert sign_chance(np.array([-1.0] * 6 + [1.0])) == 16 / 128
    assert mean_chance(np.array([-2.0] * 5)) == 2 / 32


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    intervals = [mean_interval(random.normal(1.0, 3.0, 4)) for _ in range(2000)]

    held = [found is not None and found[0] <= 1.0 <= found[1] for found in intervals]

    assert np.mean(held) == pytest.approx(0.95, abs=0.015)
