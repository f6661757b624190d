"""Surrogates: formulas, areas and limits, against autograd and finite differences in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from neurocompile.training.config import MaskSettings, resolve
from neurocompile.training.surrogates import (
    Arctan,
    Dspike,
    Exponential,
    FastSigmoid,
    Masked,
    Rectangle,
    Sigmoid,
    SoftStep,
    Triangle,
    probability_at,
    surrogate_of,
)

# each with the area of its slope, and its height at the threshold
SOFT = [
    (Triangle(), 1.0, 1.0),
    (Triangle(0.5), 1.0, 2.0),
    (Rectangle(), 1.0, 1.0),
    (Rectangle(0.5), 1.0, 2.0),
    (Exponential(), 1.0, 0.5),
    (Exponential(0.5, 2.0), 2.0, 2.0),
    (Sigmoid(), 1.0, 1.0),
    (Sigmoid(25.0), 1.0, 25 / 4),
    (Arctan(), 1.0, 1.0),
    (FastSigmoid(), 2 / 25, 1.0),
    (Dspike(), 1.0, 3 / (4 * math.tanh(1.5))),
    (Dspike(0.5, 0.5), 1.0, 0.5 / (2 * math.tanh(0.25))),
    (Dspike(20.0, 2.0), 1.0, 20 / (8 * math.tanh(10))),
]


@pytest.mark.parametrize(("surrogate", "area", "height"), SOFT, ids=str)
def test_a_slope_has_its_area_and_is_highest_at_the_threshold(
    surrogate: SoftStep, area: float, height: float
) -> None:
    # far tails in coarser steps
    near = torch.linspace(-5, 5, 200_001, dtype=torch.float64)
    far = torch.logspace(math.log10(5), 6, 20_001, dtype=torch.float64)
    x = torch.cat([-far.flip(0), near[1:-1], far])

    slope = surrogate.slope(x)

    assert float(torch.trapezoid(slope, x)) == pytest.approx(area, abs=2e-4)
    assert float(surrogate.slope(torch.zeros(1, dtype=torch.float64))) == pytest.approx(height)
    assert float(slope.max()) == pytest.approx(height)
    assert float(slope.min()) >= 0
    torch.testing.assert_close(slope, slope.flip(0))


@pytest.mark.parametrize(("surrogate", "area"), [case[:2] for case in SOFT], ids=str)
def test_a_slope_is_the_derivative_of_its_soft_step(surrogate: SoftStep, area: float) -> None:
    # beside the corners: -2, -1, -.5, -.25, 0, .25, .5, 1, 2
    x = torch.arange(-3, 3, 0.0625, dtype=torch.float64) + 0.03
    by_autograd = x.clone().requires_grad_()

    (gradient,) = torch.autograd.grad(surrogate.soft(by_autograd).sum(), by_autograd)
    by_difference = (surrogate.soft(x + 1e-6) - surrogate.soft(x - 1e-6)) / 2e-6

    slope = surrogate.slope(x)
    torch.testing.assert_close(slope, gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(slope, by_difference, rtol=1e-6, atol=1e-8)
    ends = surrogate.soft(torch.tensor([-1e9, 0.0, 1e9], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([0, area / 2, area], abs=1e-8)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_triangles_and_rectangles_end_where_their_widths_say(width: float) -> None:
    x = torch.tensor([-1.01, -0.99, -0.51, -0.49, 0.49, 0.51, 0.99, 1.01]) * width

    assert (Triangle(width).slope(x) > 0).tolist() == [False, *[True] * 6, False]
    assert (Rectangle(width).slope(x) > 0).tolist() == [*[False] * 3, True, True, *[False] * 3]


def test_dspike_goes_from_a_box_to_a_peak() -> None:
    x = torch.tensor([-1.01, -0.9, -0.1, 0.0, 0.1, 0.9, 1.01], dtype=torch.float64)

    box = Dspike(1e-4).slope(x)
    step = Dspike(200.0).soft(x)

    torch.testing.assert_close(box, 0.5 * (x.abs() < 1).double(), rtol=1e-6, atol=1e-9)
    assert step.tolist() == pytest.approx([0, 0, 0, 0.5, 1, 1, 1], abs=1e-8)


def test_dspike_at_a_temperature_that_was_set_is_the_other_dspike() -> None:
    x = torch.linspace(-2, 2, 101)
    surrogate = Dspike(3.0)
    surrogate.temperature = 5.0

    # the lab's other form: width 1, gamma = b / (2 Vth) = 2.5
    expected = 2.5 / (2 * math.tanh(2.5)) * (1 - torch.tanh(2.5 * x) ** 2) * (x.abs() <= 1)

    torch.testing.assert_close(surrogate.slope(x), expected)


def test_a_mask_takes_its_share_and_leaves_the_rest_as_it_was() -> None:
    x = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) - 0.5
    slope = Masked(Triangle(), 0.3, seed=1).slope(x)

    masked = slope == 0
    assert float(masked.float().mean()) == pytest.approx(0.3, abs=0.005)
    torch.testing.assert_close(slope[~masked], Triangle().slope(x)[~masked])


def test_masks_are_drawn_anew_until_they_are_reseeded() -> None:
    x = torch.zeros(1000)
    surrogate = Masked(Triangle(), 0.5, seed=3)
    first, second = surrogate.slope(x), surrogate.slope(x)
    surrogate.reseed(3)
    again = surrogate.slope(x)
    surrogate.reseed(4)
    other = surrogate.slope(x)

    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_masks_leave_the_global_generator_alone() -> None:
    surrogate = Masked(Triangle(), 0.5)
    before = torch.get_rng_state()
    surrogate.slope(torch.zeros(100))

    assert torch.equal(torch.get_rng_state(), before)


def test_a_copy_of_a_masked_surrogate_masks_alike() -> None:
    surrogate = Masked(Triangle(), 0.5, seed=5)
    first = surrogate.slope(torch.zeros(100))

    assert torch.equal(copy.deepcopy(surrogate).slope(torch.zeros(100)), first)


def test_a_probability_of_zero_is_the_base_and_of_one_nothing() -> None:
    x = torch.linspace(-2, 2, 101)

    assert torch.equal(Masked(Arctan(), 0.0).slope(x), Arctan().slope(x))
    assert not Masked(Arctan(), 1.0).slope(x).any()


def test_probabilities_grow_from_the_starting_epoch_to_the_last() -> None:
    settings = MaskSettings(probability=0.5, final=1.0, start_epoch=5)

    assert [probability_at(settings, epoch, 11) for epoch in (0, 5, 6, 8, 10)] == pytest.approx(
        [0.5, 0.5, 0.6, 0.8, 1.0]
    )
    assert probability_at(settings, 3, 4) == 0.5  # a run that ends before
    assert probability_at(settings, 6, 6) == settings.final  # or there, and is resumed with fewer
    assert probability_at(MaskSettings(probability=0.2), 9, 10) == 0.2


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "Triangle(width=1.0)"),
        (["surrogate.name=rectangle"], "Rectangle(width=1.0)"),
        (["surrogate.name=exponential", "surrogate.scale=2"], "Exponential(width=1.0, scale=2.0)"),
        (["surrogate.name=sigmoid"], "Sigmoid(steepness=4.0)"),
        (["surrogate.name=arctan"], "Arctan(steepness=2.0)"),
        (["surrogate.name=fast-sigmoid"], "FastSigmoid(steepness=25.0)"),
        (
            ["surrogate.name=dspike", "neuron.threshold=0.5"],
            "Dspike(temperature=3.0, threshold=0.5)",
        ),
        (["mask.probability=0.2"], "Masked(Triangle(width=1.0), probability=0.2)"),
    ],
)
def test_settings_choose_a_surrogate(overrides: list[str], expected: Any) -> None:
    assert repr(surrogate_of(resolve(preset="digits", overrides=overrides))) == expected
