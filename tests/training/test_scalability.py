"""One pass says what networks do with other numbers of steps, as passes of their own would."""

from __future__ import annotations

import json

import pytest
import torch

from neurocompile.training.scalability import TimeScalability, scalability_of, time_scalability

# Table 4 of TET: steps of training, accuracies of the moments 1 to 8, and their variance to three digits
TABLE_4 = {
    "SDT (3)": (3, (55.61, 57.95, 56.87, 55.09, 57.56, 53.54, 57.72, 54.04), 3.818),
    "SDT (4)": (4, (37.96, 61.78, 55.03, 56.64, 57.47, 54.24, 58.74, 55.48), 4.035),
    "TET (3)": (3, (65.97, 72.22, 71.78, 70.55, 71.90, 69.57, 72.15, 69.78), 1.412),
    "TET (4)": (4, (62.17, 71.57, 71.05, 72.08, 71.77, 71.23, 71.81, 71.36), 0.085),
}


@pytest.mark.parametrize("row", TABLE_4)
def test_the_variance_is_that_of_the_published_rows(row: str) -> None:
    trained, moments, variance = TABLE_4[row]
    shares = tuple(percent / 100 for percent in moments)
    longer = (*shares, 0.0, 1.0)  # it ends at the eighth moment

    for given in (shares, longer):
        found = TimeScalability(trained, 10_000, given, given).variance
        assert found == pytest.approx(variance, abs=5e-4)


def test_accuracies_are_those_of_the_first_steps_and_of_each() -> None:
    """Two samples of class 1: the first turns right at step 2, the second is right at step 1 only."""
    outputs = torch.tensor([[[1.0, 0], [0, 4], [0, 1]], [[0, 1], [3, 0], [3, 0]]])

    found = time_scalability(outputs, torch.tensor([1, 1]), trained_steps=1)

    assert found.cumulative == (0.5, 0.5, 0.5)
    assert found.per_moment == (0.5, 0.5, 0.5)
    first = time_scalability(outputs[:1], torch.tensor([1]), trained_steps=2)
    assert list(first.cumulative) == list(first.per_moment) == [0, 1, 1]
    assert first.growth is not None
    assert list(first.growth) == [-1, 0, 0]
    assert first.variance is None
    assert json.loads(json.dumps(first.to_json()))["growth"] == [-1, 0, 0]


def test_growth_needs_the_accuracy_of_training() -> None:
    outputs = torch.tensor([[[1.0, 0], [1, 0]]])

    assert time_scalability(outputs, torch.tensor([1]), trained_steps=1).growth is None  # 0 %
    assert time_scalability(outputs, torch.tensor([0]), trained_steps=3).growth is None


def test_sums_over_batches_are_those_of_all_samples() -> None:
    outputs, labels = torch.randn(40, 6, 10), torch.randint(0, 10, (40,))
    batches = [(outputs[:25], labels[:25]), (outputs[25:], labels[25:])]

    assert scalability_of(batches, 4) == time_scalability(outputs, labels, 4)
    with pytest.raises(ValueError, match="no samples"):
        scalability_of([], 4)
