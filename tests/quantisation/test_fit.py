"""The integers of one population: the largest proven scale, and what is refused, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from neurocompile_loihi2.limits import LIMITS

from neurocompile.errors import RangeError
from neurocompile.integer import IntegerInput, IntegerNetwork, IntegerPopulation
from neurocompile.ir import Dense
from neurocompile.limits import Limits
from neurocompile.passes.prove_ranges import reach_of
from neurocompile.populations import SpikingPopulation, SynapseGroup
from neurocompile.quantisation.fit import Fit, Fitter
from neurocompile.quantisation.recipe import Wish

SPIKES = IntegerInput("in", (1,), 1.0, 0, 1, True)


def fitted(
    weight: Any,
    scale: Any,
    biases: Any = 0.0,
    *,
    steps: int = 1,
    decay: float = 0.5,
    saturating: bool = False,
    limits: Limits = LIMITS,
    **wish: Any,
) -> Fit:
    rows = np.array(weight, np.float64)
    shape = rows.shape[:1]
    population = SpikingPopulation(
        "out", shape, np.array(decay), np.ones(()), np.array(biases, np.float64)
    )
    group = SynapseGroup("w", "in", "out", Dense(rows, np.zeros(len(rows))), rows.shape[1:], shape)
    sources: dict[str, IntegerPopulation] = {"in": replace(SPIKES, shape=rows.shape[1:])}
    wished = Wish(8, np.array(scale, np.float64), **wish)
    return Fitter(limits, steps, saturating).fit(population, (group,), sources, wished)


def test_a_wish_that_is_proven_is_granted() -> None:
    fit = fitted([[0.5], [-1.0]], [254.0])

    assert fit.scale.tolist() == [254]
    assert fit.groups[0].weight.tolist() == [[128], [-254]]  # 127 is no weight
    assert (fit.lowered, fit.cramped, fit.weight_bits) == (1, 1, 8)


def test_biases_shrink_the_scale_of_their_channel_only() -> None:
    """A bias fits up to 4095 * 2^7 / 64 = 8190 weight units: 82 of them for 100, but 254 for 1."""
    fit = fitted([[1.0], [1.0]], [254.0, 254.0], [100.0, 1.0])

    assert fit.scale.tolist() == [81, 254]
    assert fit.cramped == pytest.approx(254 / 81.9)
    assert fit.lowered == 1


def test_the_scale_is_lowered_as_far_as_needed_and_not_much_further() -> None:
    """Down to 400 steps of 100 weights of -1 is 8388607 / 64 at 3.28 weight units per unit: 3 is whole."""
    weight = np.full((1, 101), -1.0)
    weight[0, 0] = 1.0

    fit = fitted(weight, [254.0], steps=400, decay=1.0, limits=replace(LIMITS, weight_step=1))

    assert fit.scale.tolist() == [3]
    populations = (replace(SPIKES, shape=(101,)), fit.neurons)
    network = IntegerNetwork(populations, fit.groups, {"out": "out"})
    reach = reach_of(network, fit.neurons, LIMITS, steps=400)
    assert reach.membrane.max() == 400 * 100 * 3 * 64
    assert fit.lowered > 254 / 3.3


def test_a_positive_bias_leaves_more_room_for_inhibition() -> None:
    """It is there at every step: without it 1000 steps of -200 are too much, beside +100 they are not."""
    alone = fitted([[-100.0, 1.0]], [2.0], steps=1000, decay=1.0)
    lifted = fitted([[-100.0, 1.0]], [2.0], 50.0, steps=1000, decay=1.0)

    assert alone.lowered > 1
    assert lifted.lowered == 1


def test_what_was_decided_is_not_lowered_but_must_fit() -> None:
    """Weights that calibration chose stay; if they do not pass, it is said at what scale they would."""
    chosen = np.array([[-254, 254]])
    fit = fitted([[-1.0, 1.0]], [100.0], final=True, weights={"w": chosen})
    assert fit.groups[0].weight.tolist() == chosen.tolist()
    assert fit.scale.tolist() == [100]

    with pytest.raises(RangeError) as raised:
        fitted([[-1.0, 1.0]], [100.0], final=True, weights={"w": chosen}, steps=900, decay=1.0)

    told = str(raised.value)
    assert f"it can reach {900 * 254 * 64} within 900 steps" in told
    assert "must shrink by a factor of 1.74, to 57.34 weight units per unit" in told
    assert "for at most 516 steps" in told  # 8388607 / (254 * 64) = 516.03


def test_a_bias_that_was_decided_replaces_that_of_the_population() -> None:
    own = fitted([[1.0]], [100.0], 1.0)
    decided = fitted([[1.0]], [100.0], 1.0, final=True, bias=np.array([0.5]))

    assert (own.neurons.bias == 100 * 64).all()
    assert (decided.neurons.bias == 50 * 64).all()


def test_membranes_may_saturate_where_the_user_lets_them() -> None:
    weight = [[-1.0, 1.0]]

    proven = fitted(weight, [254.0], steps=900, decay=1.0)
    let = fitted(weight, [254.0], steps=900, decay=1.0, saturating=True)

    assert not proven.neurons.saturates
    assert proven.scale[0] < 254
    assert let.neurons.saturates
    assert let.scale.tolist() == [254]
