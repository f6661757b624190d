"""
Neurons without spikes, for TET's ablation of "gradient and loss match" (section 5.1).

    u[t] = tau * v[t-1] + I[t]
    a[t] = sigmoid(steepness * (u[t] - Vth))
    v[t] = u[t] * (1 - a[t])

What they emit is graded, and their gradient is the true one. They are for comparison: no chip computes
them, and a network of them is not exported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GradedNeuron(nn.Module):
    """A leaky neuron that emits sigmoid(steepness (u - threshold)); called as `LIF` is."""

    def __init__(self, tau: float = 0.5, threshold: float = 1.0, steepness: float = 10.0) -> None:
        super().__init__()
        self.tau = tau
        self.threshold = threshold
        self.steepness = steepness

    def forward(self, current: Tensor, steps: int) -> Tensor:
        """
        Return what is emitted, of the shape of `current`, (batch * steps, *shape), batch major.

        Membranes have float32 at least, also in mixed precision.
        """
        emitted = []
        membrane: Tensor | float = 0.0
        exact = current.to(torch.promote_types(current.dtype, torch.float32))
        for input_now in exact.reshape(-1, steps, *current.shape[1:]).unbind(1):
            membrane = self.tau * membrane + input_now
            graded = torch.sigmoid(self.steepness * (membrane - self.threshold))
            emitted.append(graded)
            membrane = membrane * (1 - graded)
        return torch.stack(emitted, 1).flatten(0, 1).to(current.dtype)

    def extra_repr(self) -> str:
        return f"tau={self.tau}, threshold={self.threshold}, steepness={self.steepness}"
