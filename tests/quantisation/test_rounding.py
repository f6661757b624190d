"""Rounding to the inputs: by hand, and that it is never worse for them than to the nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neurocompile.quantisation.rounding import Curvature, round_to_inputs, second_moments


def test_of_two_weights_whose_inputs_come_together_one_goes_up_and_one_down() -> None:
    """0.6 + 0.6 = 1.2: to the nearest that is 1 + 1, beside the inputs 1 + 0 is better."""
    together = Curvature.of(second_moments(np.array([[1.0, 1.0], [0.0, 0.0]])))

    found = round_to_inputs(np.array([[0.6, 0.6]]), together, unit=1, lowest=-2, highest=1)

    assert found.sum() == 1
    assert sorted(found[0]) == [0, 1]


def test_weights_whose_inputs_come_apart_go_to_the_nearest() -> None:
    apart = Curvature.of(second_moments(np.eye(3)))
    weight = np.array([[0.6, -1.4, 2.2]])

    found = round_to_inputs(weight, apart, unit=1, lowest=-4, highest=3)

    assert found.tolist() == [[1, -1, 2]]


def test_integers_stay_within_their_bits_and_on_their_grid() -> None:
    """With a step of 32 and 2 bits there are -64, -32, 0 and 32."""
    generator = np.random.default_rng(0)
    inputs = (generator.random((50, 8)) < 0.3).astype(float)
    curvature = Curvature.of(second_moments(inputs))

    found = round_to_inputs(
        generator.normal(0, 60, (4, 8)), curvature, unit=32, lowest=-64, highest=32
    )

    assert set(np.unique(found)) <= {-64, -32, 0, 32}


@given(st.data())
def test_no_row_is_worse_for_its_inputs_than_to_the_nearest(data: Any) -> None:
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size = data.draw(st.integers(1, 6))
    inputs = (generator.random((10, size)) < 0.5).astype(float)
    weight = generator.normal(0, 2, (3, size))
    curvature = Curvature.of(second_moments(inputs))

    found = round_to_inputs(weight, curvature, unit=1, lowest=-4, highest=3)

    damped = curvature.hessian
    nearest = np.clip(np.rint(weight), -4, 3)
    for row, ours, simple in zip(weight, found, nearest, strict=True):
        error = (row - ours) @ damped @ (row - ours)
        assert error <= (row - simple) @ damped @ (row - simple) + 1e-9
