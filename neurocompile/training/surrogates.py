"""
Surrogate gradients: the Heaviside step forward, something useful backward.

With `x = u - Vth` the forward pass is `1 if x > 0 else 0`, strictly (TET, Deng et al., ICLR 2022,
Eq. 2: a membrane exactly at the threshold does not fire, as on Loihi).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Surrogate = Callable[[Tensor], Tensor]


class _Triangle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.width = width
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        slope = (ctx.width - x.abs()).clamp(min=0) / ctx.width**2
        return grad_outputs[0] * slope, None


def triangle(width: float = 1.0) -> Surrogate:
    """
    Return the step whose gradient is `max(0, width - |x|) / width^2` (TET, Eq. 5).

    `width` is the paper's gamma, in units of the membrane; the area under the gradient is 1.
    """

    def spike(x: Tensor) -> Tensor:
        result: Tensor = _Triangle.apply(x, width)  # type: ignore[no-untyped-call]
        return result

    return spike
