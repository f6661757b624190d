"""
Losses on the read-out O(t), shape (batch, steps, classes).

TET (Deng et al., ICLR 2022) asks every moment for the answer, instead of only their mean:

    L_TET   = 1/T sum_t CE(O(t), y)                          (9)
    L_MSE   = 1/T sum_t mean over batch and classes of (O(t) - phi)^2      (12)
    L_TOTAL = (1 - lambda) L_TET + lambda L_MSE              (13)
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def tet_loss(outputs: Tensor, labels: Tensor, *, mse_weight: float, mse_target: float) -> Tensor:
    """
    Return L_TOTAL of `outputs` (batch, steps, classes) for integer `labels` (batch,).

    `mse_weight` is the paper's lambda, `mse_target` its phi (the threshold, by default 1).
    """
    steps = outputs.shape[1]
    repeated = labels.repeat_interleave(steps)
    cross_entropy = functional.cross_entropy(outputs.flatten(0, 1), repeated)
    regulariser = (outputs - mse_target).square().mean()
    return (1 - mse_weight) * cross_entropy + mse_weight * regulariser
