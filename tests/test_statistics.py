"""Shares and their intervals: Wilson's, as published tables have them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurocompile.statistics import Share, Z, student


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I: method 3, the score interval.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_the_published_ones(count: int, of: int, low: float, high: float) -> None:
    assert Share(count, of).interval == pytest.approx((low, high), abs=5e-5)


def test_none_and_all_end_at_the_ends() -> None:
    # (z^2 / n) / (1 + z^2 / n) with z^2 = 3.8415 and n = 10
    assert Share(0, 10).interval == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert Share(10, 10).interval == pytest.approx((0.72247, 1.0), abs=1e-5)
    assert (Share(0, 10).interval[0], Share(10, 10).interval[1]) == (0.0, 1.0)


def test_of_nothing_anything_may_be() -> None:
    assert (Share(0, 0).value, Share(0, 0).interval) == (0.0, (0.0, 1.0))


@given(st.integers(1, 10_000), st.data())
def test_ends_are_where_the_share_is_z_deviations_away(of: int, data: st.DataObject) -> None:
    share = Share(data.draw(st.integers(1, of)), of)
    low, high = share.interval

    assert 0 <= low <= share.value <= high <= 1
    # Wilson's equation: (p - P)^2 = z^2 P (1 - P) / n at both ends P.
    for end in (low, high):
        if 0 < end < 1:
            deviation = math.sqrt(end * (1 - end) / of)
            assert abs(share.value - end) == pytest.approx(Z * deviation, rel=1e-6)


@pytest.mark.parametrize(
    ("freedom", "reach"),
    [
        # Abramowitz and Stegun, table 26.10, as every table of Student's t has it.
        (1, 12.706), (2, 4.303), (5, 2.571), (7, 2.365), (8, 2.306), (10, 2.228), (30, 2.042),
        (120, 1.980), (10**9, 1.960),
    ],
)  # fmt: skip
def test_students_t_is_that_of_the_tables(freedom: int, reach: float) -> None:
    assert student(freedom) == pytest.approx(reach, abs=5e-4)


def test_more_samples_never_widen_students_t() -> None:
    reaches = [student(freedom) for freedom in range(1, 200)]

    assert reaches == sorted(reaches, reverse=True)
    assert reaches[-1] > Z


def test_a_share_says_all_of_it_to_machines() -> None:
    assert Share(1, 4).to_json() == {
        "count": 1,
        "of": 4,
        "value": 0.25,
        "low": pytest.approx(0.0456, abs=1e-4),
        "high": pytest.approx(0.6994, abs=1e-4),
    }
