"""
Losses on the read-out O(t), shape (batch, steps, classes).

TET (Deng et al., ICLR 2022) asks every moment for the answer, instead of only their mean:

    L_SDT   = CE(1/T sum_t w_t O(t), y)                      (7)
    L_TET   = 1/T sum_t w_t CE(O(t), y)                      (9)
    L_MSE   = 1/T sum_t mean over batch and classes of (O(t) - phi)^2      (12)
    L_TOTAL = (1 - lambda) L + lambda L_MSE                  (13), L one of both

The weights w_t are 1, or those of a temporally weighted output (TWO, MSG), whose sum is T. With weights
of 1, L_SDT <= L_TET, since the cross entropy is convex in O; so is its label-smoothed form.
"""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor
from torch.nn import functional

from neurocompile.training.config import LossSettings


class Loss(Protocol):
    """A loss of O(t), (batch, steps, classes), for labels (batch,), with weights (steps,) or None."""

    def __call__(
        self, outputs: Tensor, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor: ...


def sdt_loss(
    outputs: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """
    Return L_SDT of `outputs` (batch, steps, classes) for integer `labels` (batch,).

    `weights` (steps,) are those of the steps (None: all 1).
    """
    weighted = outputs if weights is None else weights[:, None] * outputs
    return functional.cross_entropy(weighted.mean(1), labels, label_smoothing=label_smoothing)


def tet_loss(
    outputs: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """
    Return L_TET of `outputs` (batch, steps, classes) for integer `labels` (batch,).

    `weights` (steps,) are those of the steps (None: all 1).
    """
    batch, steps, _ = outputs.shape
    every_moment = functional.cross_entropy(
        outputs.flatten(0, 1),
        labels.repeat_interleave(steps),
        reduction="mean" if weights is None else "none",
        label_smoothing=label_smoothing,
    )
    if weights is None:
        return every_moment
    return (every_moment.reshape(batch, steps) * weights).mean()


def mse_loss(outputs: Tensor, target: float) -> Tensor:
    """Return L_MSE of `outputs` (batch, steps, classes); `target` is the paper's phi."""
    return (outputs - target).square().mean()


def total_loss(
    outputs: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    name: Literal["tet", "sdt"] = "tet",
    mse_weight: float,
    mse_target: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """
    Return L_TOTAL of `outputs` (batch, steps, classes) for integer `labels` (batch,).

    `mse_weight` is the paper's lambda, `mse_target` its phi (the threshold, by default 1). The regulariser
    has no weights.
    """
    chosen = tet_loss if name == "tet" else sdt_loss
    loss = chosen(outputs, labels, weights, label_smoothing=label_smoothing)
    if mse_weight == 0:
        return loss
    return (1 - mse_weight) * loss + mse_weight * mse_loss(outputs, mse_target)


def loss_of(settings: LossSettings, epoch: int) -> Loss:
    """Return the loss of `epoch`, counted from 0: from `switch_epoch` on it is `switch_to`."""
    switched = settings.switch_epoch is not None and epoch >= settings.switch_epoch
    name = settings.switch_to if switched else settings.name

    def loss(outputs: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return total_loss(
            outputs,
            labels,
            weights,
            name=name,
            mse_weight=settings.mse_weight,
            mse_target=settings.mse_target,
            label_smoothing=settings.label_smoothing,
        )

    return loss
