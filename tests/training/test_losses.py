"""Losses, against their equations, their gradients by hand, and the lemma that TET bounds SDT."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from neurocompile.training.config import LossSettings
from neurocompile.training.losses import loss_of, mse_loss, sdt_loss, tet_loss, total_loss

SAMPLES, STEPS, CLASSES = 5, 4, 3
LABELS = torch.tensor([0, 1, 2, 0, 1])


@pytest.fixture
def outputs() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SAMPLES, STEPS, CLASSES, generator=generator, dtype=torch.float64)


def test_losses_are_equations_7_9_12_and_13(outputs: Tensor) -> None:
    per_moment = [functional.cross_entropy(outputs[:, t], LABELS) for t in range(STEPS)]
    tet = torch.stack(per_moment).mean()
    sdt = functional.cross_entropy(outputs.mean(1), LABELS)
    regulariser = torch.stack([((outputs[:, t] - 0.5) ** 2).mean() for t in range(STEPS)]).mean()

    torch.testing.assert_close(sdt_loss(outputs, LABELS), sdt)
    torch.testing.assert_close(tet_loss(outputs, LABELS), tet)
    torch.testing.assert_close(mse_loss(outputs, 0.5), regulariser)
    for name, loss in (("tet", tet), ("sdt", sdt)):
        for weight in (0.0, 0.05, 1.0):
            total = total_loss(outputs, LABELS, name=name, mse_weight=weight, mse_target=0.5)  # type: ignore[arg-type]
            torch.testing.assert_close(total, (1 - weight) * loss + weight * regulariser)


def test_gradients_are_equations_8_and_10(outputs: Tensor) -> None:
    outputs.requires_grad_()
    one_hot = functional.one_hot(LABELS, CLASSES)
    per_step = STEPS * SAMPLES

    (of_sdt,) = torch.autograd.grad(sdt_loss(outputs, LABELS), outputs)
    (of_tet,) = torch.autograd.grad(tet_loss(outputs, LABELS), outputs)
    (of_mse,) = torch.autograd.grad(mse_loss(outputs, 1.0), outputs)

    mean = (outputs.mean(1).softmax(1) - one_hot) / per_step
    torch.testing.assert_close(of_sdt, mean[:, None].expand_as(outputs))
    torch.testing.assert_close(of_tet, (outputs.softmax(2) - one_hot[:, None]) / per_step)
    torch.testing.assert_close(of_mse, 2 * (outputs - 1) / (per_step * CLASSES))


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.01, 1.0, 10.0, 100.0]),
    st.integers(1, 6),
    st.floats(0, 0.9),
)
def test_tet_is_never_below_the_loss_of_the_mean(
    seed: int, scale: float, steps: int, smoothing: float
) -> None:
    """The lemma of TET section 4.1: true by convexity of logsumexp, whatever the paper's proof."""
    generator = torch.Generator().manual_seed(seed)
    outputs = scale * torch.randn(20, steps, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (20,), generator=generator)

    tet = tet_loss(outputs, labels, label_smoothing=smoothing)
    sdt = sdt_loss(outputs, labels, label_smoothing=smoothing)

    assert float(tet - sdt) >= -1e-9 * max(1.0, float(tet))


def test_both_are_equal_where_moments_differ_by_constants_only(outputs: Tensor) -> None:
    alike = outputs[:, :1] + torch.arange(STEPS)[:, None]

    for same in (alike, outputs[:, :1]):
        torch.testing.assert_close(tet_loss(same, LABELS), sdt_loss(same, LABELS))
    assert tet_loss(outputs, LABELS) > sdt_loss(outputs, LABELS) + 1e-3


def test_weights_of_steps_weigh_outputs_or_losses(outputs: Tensor) -> None:
    weights = torch.tensor([0.5, 0.5, 1.0, 2.0], dtype=torch.float64)
    per_moment = torch.stack(
        [functional.cross_entropy(outputs[:, t], LABELS) for t in range(STEPS)]
    )
    weighted = (
        0.5 * outputs[:, 0] + 0.5 * outputs[:, 1] + outputs[:, 2] + 2 * outputs[:, 3]
    ) / STEPS

    torch.testing.assert_close(tet_loss(outputs, LABELS, weights), (weights * per_moment).mean())
    torch.testing.assert_close(
        sdt_loss(outputs, LABELS, weights), functional.cross_entropy(weighted, LABELS)
    )
    for loss in (tet_loss, sdt_loss):
        torch.testing.assert_close(
            loss(outputs, LABELS, torch.ones(STEPS)), loss(outputs, LABELS, None)
        )


def test_the_gradient_of_weighted_outputs(outputs: Tensor) -> None:
    weights = torch.tensor([0.5, 0.5, 1.0, 2.0], dtype=torch.float64)
    outputs.requires_grad_()
    (gradient,) = torch.autograd.grad(sdt_loss(outputs, LABELS, weights), outputs)

    decision = (weights[:, None] * outputs).mean(1)
    wrong = decision.softmax(1) - functional.one_hot(LABELS, CLASSES)
    expected = weights[:, None] * wrong[:, None] / (STEPS * SAMPLES)
    torch.testing.assert_close(gradient, expected)


def test_labels_can_be_smoothed(outputs: Tensor) -> None:
    soft = 0.8 * functional.one_hot(LABELS, CLASSES) + 0.2 / CLASSES
    by_hand = -(soft[:, None] * outputs.log_softmax(2)).sum(2).mean()

    torch.testing.assert_close(tet_loss(outputs, LABELS, label_smoothing=0.2), by_hand)
    weighted = tet_loss(outputs, LABELS, torch.ones(STEPS), label_smoothing=0.2)
    torch.testing.assert_close(weighted, by_hand)


def test_the_loss_is_switched_at_its_epoch(outputs: Tensor) -> None:
    settings = LossSettings(name="sdt", mse_weight=0, switch_epoch=3, switch_to="tet")

    losses = [loss_of(settings, epoch)(outputs, LABELS) for epoch in (0, 2, 3, 4)]

    sdt, tet = sdt_loss(outputs, LABELS), tet_loss(outputs, LABELS)
    assert [float(loss) for loss in losses] == pytest.approx(
        [float(loss) for loss in (sdt, sdt, tet, tet)]
    )


def test_settings_reach_the_loss(outputs: Tensor) -> None:
    settings = LossSettings(mse_weight=0.1, mse_target=0.5, label_smoothing=0.2)
    weights = torch.tensor([0.5, 0.5, 1.0, 2.0], dtype=torch.float64)
    expected = 0.9 * tet_loss(outputs, LABELS, weights, label_smoothing=0.2) + 0.1 * mse_loss(
        outputs, 0.5
    )

    torch.testing.assert_close(loss_of(settings, 0)(outputs, LABELS, weights), expected)
