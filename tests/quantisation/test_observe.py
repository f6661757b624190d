"""Places and windows: every place's sums are those of the definition, and parameters are its neurons'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import input_sums

from neurocompile.integer import Geometry, IntegerSynapses
from neurocompile.ir import Conv2d, Dense
from neurocompile.linear import slide_of
from neurocompile.populations import SpikingPopulation, SynapseGroup
from neurocompile.quantisation import observe
from neurocompile.quantisation.observe import Windows, choose_places


def population(*shape: int) -> SpikingPopulation:
    return SpikingPopulation("lif", shape, decay=0.5, threshold=1.0, bias=0.0)  # type: ignore[arg-type]


@given(st.data())
def test_windows_of_a_convolution_give_the_sums_of_the_definition(data: Any) -> None:
    def choose(label: str, *options: int) -> int:
        return int(data.draw(st.sampled_from(options), label=label))

    groups, stride, padding = choose("groups", 1, 2), choose("stride", 1, 2), choose("pad", 0, 1)
    delay, dilation = choose("delay", 0, 1), choose("dilation", 1, 2)
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    weight = generator.integers(-100, 100, (4, 4 // groups, 2, 3))
    operator = Conv2d(
        weight.astype(float),
        np.zeros(4),
        stride=(stride, 1),
        padding=(padding, 1),
        dilation=(dilation, 1),
        groups=groups,
    )
    height = (6 + 2 * padding - dilation - 1) // stride + 1
    view = (4, height, 5)
    real = SynapseGroup("w", "in", "lif", operator, (4, 6, 5), view, np.array(delay))
    values = generator.integers(0, 3, (2, 3, 4, 6, 5))
    places = choose_places(population(*view), [real], samples=2, steps=3)
    integers = IntegerSynapses(
        "w", "in", "lif", weight, Geometry(*slide_of(operator)), delay=np.array(delay)
    )

    found = Windows(real, values, places).sums(weight)

    expected = input_sums(integers, values, ((4, 6, 5), view))
    np.testing.assert_array_equal(found, places.of_record(expected))
    assert places.every
    assert not places.whole


def test_windows_of_many_places_are_some_that_are_drawn_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observe, "FEWEST_PLACES", 7)
    monkeypatch.setattr(observe, "MOST_NEURONS", 0)
    weight = np.arange(18.0).reshape(2, 1, 3, 3)
    group = SynapseGroup("w", "in", "lif", Conv2d(weight, np.zeros(2)), (1, 6, 6), (2, 4, 4))
    values = np.random.default_rng(0).integers(0, 2, (3, 2, 1, 6, 6))

    places = choose_places(population(2, 4, 4), [group], samples=3, steps=2)

    again = choose_places(population(2, 4, 4), [group], samples=3, steps=2)
    assert (len(places), places.every) == (7, False)
    np.testing.assert_array_equal(places.sample, again.sample)
    np.testing.assert_array_equal(places.pixel, again.pixel)
    sums = Windows(group, values, places).sums(weight.astype(np.int64))
    synapses = IntegerSynapses("w", "in", "lif", weight.astype(np.int64), Geometry())
    everywhere = input_sums(synapses, values, ((1, 6, 6), (2, 4, 4)))
    np.testing.assert_array_equal(sums, places.of_record(everywhere))


def test_sums_beyond_float32_stay_exact() -> None:
    """2^24 + 1 is no float32: such weights are added in float64."""
    group = SynapseGroup("w", "in", "lif", Dense(np.ones((1, 2)), np.zeros(1)), (2,), (1,))
    places = choose_places(population(1), [group], samples=1, steps=1)

    windows = Windows(group, np.ones((1, 1, 2), np.int64), places)

    assert windows.sums(np.array([[1 << 24, 1]])).tolist() == [[[(1 << 24) + 1]]]


def test_mixed_operators_are_looked_at_as_a_whole() -> None:
    conv = SynapseGroup(
        "c", "in", "lif", Conv2d(np.ones((2, 1, 1, 1)), np.zeros(2)), (1, 2, 2), (2, 2, 2)
    )
    dense = SynapseGroup("d", "in", "lif", Dense(np.ones((8, 4)), np.zeros(8)), (4,), (8,))

    places = choose_places(population(2, 2, 2), [conv, dense], samples=3, steps=2)

    assert (places.whole, places.rows, places.pixels, len(places)) == (True, 8, 1, 3)


def test_parameters_follow_their_neurons_to_the_places() -> None:
    group = SynapseGroup(
        "c", "in", "lif", Conv2d(np.ones((2, 1, 1, 1)), np.zeros(2)), (1, 2, 2), (2, 2, 2)
    )
    places = choose_places(population(2, 2, 2), [group], samples=2, steps=1)

    each = places.of_parameter(np.arange(8).reshape(2, 2, 2))
    channels = places.of_parameter(np.array([5, 6]).reshape(2, 1, 1))

    assert each[places.pixel == 3].tolist() == [[3, 7], [3, 7]]
    assert channels[0].tolist() == [5, 6]
    assert places.of_parameter(np.array(9)).shape == ()
