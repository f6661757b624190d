"""
The leaky integrate-and-fire neuron over a whole sequence.

    u[t] = tau * v[t-1] + I[t]            TET Eq. 1, v[0] = 0
    a[t] = 1 if u[t] > Vth else 0         TET Eq. 2, strict
    v[t] = u[t] * (1 - a[t])              TET Eq. 3, hard reset to zero

`tau` is the discrete leak factor in (0, 1]; the input has unit gain. The gradient flows through the
reset unless `detach_reset` (the reference implementation of TET does not detach).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neurocompile.training.surrogates import Surrogate, Triangle


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.surrogate.slope(x), None


def lif_sequence(
    current: Tensor,
    *,
    tau: float | Tensor,
    threshold: float,
    surrogate: Surrogate,
    detach_reset: bool = False,
) -> Tensor:
    """
    Return the spikes (batch, steps, *shape) of LIF neurons driven by `current` of that shape.

    The state is a value inside this function: nothing is kept between calls.
    """
    membrane = torch.zeros_like(current[:, 0])
    spikes = []
    for input_now in current.unbind(1):
        membrane = tau * membrane + input_now
        spike: Tensor = _Fire.apply(membrane - threshold, surrogate)  # type: ignore[no-untyped-call]
        spikes.append(spike)
        membrane = membrane * (1 - (spike.detach() if detach_reset else spike))
    return torch.stack(spikes, 1)


class LIF(nn.Module):
    """
    LIF neurons on a batch whose first axis is batch times steps, the batch major.

    Stateless layers see such a tensor as one large batch; this one is told the number of steps. `tau` 1 is
    the IF neuron. With `learn_tau` the leak is a parameter of the layer, and `tau` its value.
    """

    def __init__(
        self,
        tau: float = 0.5,
        threshold: float = 1.0,
        surrogate: Surrogate | None = None,
        *,
        detach_reset: bool = False,
        learn_tau: bool = False,
    ) -> None:
        super().__init__()
        assert not learn_tau
        self.tau = tau
        self.threshold = threshold
        self.surrogate = surrogate or Triangle()
        self.detach_reset = detach_reset

    def forward(self, current: Tensor, steps: int) -> Tensor:
        """Return spikes of the shape of `current`, (batch * steps, *shape)."""
        return lif_sequence(
            current.reshape(-1, steps, *current.shape[1:]),
            tau=self.tau,
            threshold=self.threshold,
            surrogate=self.surrogate,
            detach_reset=self.detach_reset,
        ).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"tau={self.tau}, threshold={self.threshold}, detach_reset={self.detach_reset}"
