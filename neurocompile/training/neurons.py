"""
The leaky integrate-and-fire neuron over a whole sequence.

    u[t] = tau * v[t-1] + I[t]            TET Eq. 1, v[0] = 0
    a[t] = 1 if u[t] > Vth else 0         TET Eq. 2, strict
    v[t] = u[t] * (1 - a[t])              TET Eq. 3, hard reset to zero

`tau` is the discrete leak factor in (0, 1]; the input has unit gain. Backward, with g[t] the surrogate's
slope at u[t] - Vth, and G the derivative of the loss by what it is of:

    Gv[t-1] = tau * Gu[t]
    Gu[t]   = Ga[t] * g[t] + Gv[t] * k[t],    k[t] = 1 - a[t] - u[t] * g[t], or 1 - a[t] if detached
    Gtau    = sum of Gu[t] * v[t-1]

so that one membrane for each step is all that must be kept. The gradient flows through the reset unless
`detach_reset` (the reference implementation of TET does not detach).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from neurocompile.errors import OptionError, Problem
from neurocompile.training.surrogates import Surrogate, Triangle

BLOCK = 1 << 16
"""Neurons that a processor takes through all steps together, so that their membranes stay in its caches."""


def lif_sequence(
    current: Tensor,
    membrane: Tensor | None = None,
    *,
    tau: float | Tensor,
    threshold: float,
    surrogate: Surrogate,
    detach_reset: bool = False,
) -> Tensor:
    """
    Return the spikes (batch, steps, *shape) of LIF neurons driven by `current` of that shape.

    `membrane` (batch, *shape) is v before the first step, zero if None: the state is a value, and nothing is
    kept between calls. Membranes are float32 (float64 for such currents) whatever the current is; spikes are
    of its type. `tau` may be a tensor of one number, which then gets a gradient.
    """
    spikes, _ = _sequence(current, membrane, tau, threshold, surrogate, detach_reset)
    return spikes


def lif_sequence_and_state(
    current: Tensor,
    membrane: Tensor | None = None,
    *,
    tau: float | Tensor,
    threshold: float,
    surrogate: Surrogate,
    detach_reset: bool = False,
) -> tuple[Tensor, Tensor]:
    """
    Return spikes as `lif_sequence` does, and v after the last step, (batch, *shape).

    Given to the next call as its `membrane`, that continues the sequence, gradients included.
    """
    spikes, last = _sequence(current, membrane, tau, threshold, surrogate, detach_reset, state=True)
    assert last is not None
    return spikes, last


def _sequence(
    current: Tensor,
    membrane: Tensor | None,
    tau: float | Tensor,
    threshold: float,
    surrogate: Surrogate,
    detach_reset: bool,
    *,
    state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    steps, axes = current.shape[1], _axes_in_memory(current)
    state_type = torch.promote_types(current.dtype, torch.float32)
    rows = _rows(current, axes).to(state_type)
    first = None if membrane is None else _rows(membrane[:, None], axes)[:, 0].to(state_type)
    if torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in (rows, first, tau)
    ):
        spikes, last = _Sequence.apply(  # type: ignore[no-untyped-call]
            rows, first, tau, threshold, surrogate, detach_reset, state
        )
    else:
        spikes, memory = _forward(rows, first, tau, threshold, min(2, steps))
        last = _reset(memory[:, (steps - 1) % 2], threshold) if state else None
    spikes = _as_before(spikes, current.shape, axes).to(current.dtype)
    if last is None:
        return spikes, None
    return spikes, _as_before(last[:, None], current.shape, axes)[:, 0]


def _axes_in_memory(sequence: Tensor) -> list[int]:
    """Return the axes of neurons in the order that they have in memory: channels may come last."""
    return sorted(range(2, sequence.ndim), key=sequence.stride, reverse=True)


def _rows(sequence: Tensor, axes: Sequence[int]) -> Tensor:
    """Return `sequence` as (batch, steps, neurons), a view if there is one."""
    batch, steps, *shape = sequence.shape
    return sequence.permute(0, 1, *axes).reshape(batch, steps, math.prod(shape)).contiguous()


def _as_before(rows: Tensor, shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Return a view of (batch, steps, neurons) that undoes `_rows` for a sequence of `shape`."""
    permuted = rows.reshape(*rows.shape[:2], *(shape[axis] for axis in axes))
    back = sorted(range(2, len(shape)), key=lambda axis: axes[axis - 2])
    return permuted.permute(0, 1, *back)


def _reset(membrane: Tensor, threshold: float) -> Tensor:
    return membrane.masked_fill(membrane > threshold, 0)


class _Sequence(torch.autograd.Function):
    """Spikes, and v after the last step if asked, of a current (batch, steps, neurons)."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        membrane: Tensor | None,
        tau: float | Tensor,
        threshold: float,
        surrogate: Surrogate,
        detach_reset: bool,
        state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        spikes, membranes = _forward(current, membrane, tau, threshold, current.shape[1])
        learns = ctx.needs_input_grad[2]
        ctx.save_for_backward(
            membranes, membrane if learns else None, tau if isinstance(tau, Tensor) else None
        )
        ctx.tau, ctx.threshold = None if isinstance(tau, Tensor) else tau, threshold
        ctx.surrogate, ctx.detach_reset = surrogate, detach_reset
        ctx.set_materialize_grads(False)
        return spikes, _reset(membranes[:, -1], threshold) if state else None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        # `once_differentiable` would let second derivatives pass that are wrong.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError("neurons have no second derivative: leave out create_graph")
        membranes, membrane, learnt = ctx.saved_tensors
        tau = ctx.tau if learnt is None else learnt
        by_spikes, by_last = grads
        by_current = _backward(
            membranes,
            torch.zeros_like(membranes) if by_spikes is None else by_spikes.contiguous(),
            None if by_last is None else by_last.contiguous(),
            tau,
            ctx,
        )
        by_membrane = by_current[:, 0] * tau if ctx.needs_input_grad[1] else None
        by_tau = None
        if ctx.needs_input_grad[2]:
            by_tau = _by_tau(by_current, membranes, membrane, ctx.threshold).to(learnt.dtype)
        return by_current, by_membrane, by_tau, None, None, None, None


def _forward(
    current: Tensor, membrane: Tensor | None, tau: float | Tensor, threshold: float, depth: int
) -> tuple[Tensor, Tensor]:
    """
    Return spikes and membranes u of (batch, steps, neurons).

    Membranes are of `depth` steps: all, or two that are written in turns.
    """
    batch, steps, neurons = current.shape
    memory = current.new_empty(batch, depth, neurons)
    if kernels := _kernels(current):
        first = current.new_empty(0, neurons) if membrane is None else membrane.contiguous()
        return kernels.run(first, current, _number(tau), threshold, memory), memory
    spikes = torch.empty_like(current)
    for part in _blocks(current):
        v = None if membrane is None else membrane[part]
        for step in range(steps):
            arriving = current[part, step]
            u = arriving if v is None else tau * v + arriving
            fired = u > threshold
            memory[part, step % depth] = u
            spikes[part, step] = fired
            v = u.masked_fill(fired, 0)
    return spikes, memory


def _backward(
    membranes: Tensor, by_spikes: Tensor, by_last: Tensor | None, tau: float | Tensor, ctx: Any
) -> Tensor:
    """Return the derivative by the current; `ctx` has threshold, surrogate and `detach_reset`."""
    threshold, attached = ctx.threshold, not ctx.detach_reset
    kernels = _kernels(membranes)
    if kernels and type(ctx.surrogate) is Triangle:
        found: Tensor = kernels.run_backward(
            membranes,
            by_spikes,
            membranes[:0, 0] if by_last is None else by_last,
            tau=_number(tau),
            threshold=threshold,
            width=ctx.surrogate.width,
            attached=attached,
        )
        return found
    by_current = torch.empty_like(membranes)
    for part in _blocks(membranes):
        by_v = torch.zeros_like(membranes[part, 0]) if by_last is None else by_last[part].clone()
        for step in reversed(range(membranes.shape[1])):
            u = membranes[part, step]
            slopes = ctx.surrogate.slope(u - threshold)
            if kernels:
                kernels.step_backward(
                    u,
                    by_spikes[part, step],
                    slopes,
                    by_v,
                    by_current[part, step],
                    tau=_number(tau),
                    threshold=threshold,
                    attached=attached,
                )
                continue
            factor = (u <= threshold).to(u.dtype)
            if attached:
                factor -= u * slopes
            by_u = by_spikes[part, step] * slopes + by_v * factor
            by_current[part, step] = by_u
            by_v = tau * by_u
    return by_current


def _by_tau(
    by_current: Tensor, membranes: Tensor, membrane: Tensor | None, threshold: float
) -> Tensor:
    """Return the derivative by the leak: the sum of Gu[t] v[t-1]."""
    total = membranes.new_zeros(())
    for part in _blocks(membranes):
        for step in range(1, membranes.shape[1]):
            v = _reset(membranes[part, step - 1], threshold)
            total = total + (by_current[part, step] * v).sum()
        if membrane is not None:
            total = total + (by_current[part, 0] * membrane[part]).sum()
    return total


def _blocks(sequence: Tensor) -> list[slice]:
    """Return parts of the batch of `sequence` (batch, steps, neurons) that a processor's caches hold."""
    batch, _, neurons = sequence.shape
    if sequence.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(0, batch)]
    size = max(1, BLOCK // max(1, neurons))
    return [slice(start, start + size) for start in range(0, batch, size)]


def _number(tau: float | Tensor) -> float:
    return tau.item() if isinstance(tau, Tensor) else tau


def _kernels(sequence: Tensor) -> Any:
    """Return the compiled form of what is here, or None where it does not fit, or numba is missing."""
    fits = sequence.dtype == torch.float32 and sequence.device.type == "cpu"
    if torch.compiler.is_compiling() or not fits or type(sequence) is not Tensor:
        return None
    return _compiled()


@cache
def _compiled() -> Any:
    try:
        return import_module("neurocompile.training.neuron_kernels")
    except ImportError:
        return None


class LIF(nn.Module):
    """
    LIF neurons on a batch whose first axis is batch times steps, the batch major.

    Stateless layers see such a tensor as one large batch; this one is told the number of steps. `tau` 1 is
    the IF neuron. With `learn_tau` the leak is the sigmoid of a parameter of the layer, `tau_logit`, from
    `tau` on. Raises `OptionError` where a leak of 1, which no sigmoid reaches, is to be learnt.
    """

    tau_logit: nn.Parameter | None

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
        if learn_tau and not 0 < tau < 1:
            raise OptionError(
                Problem(
                    "",
                    "a leak factor that is learnt must start between 0 and 1",
                    f"tau is {tau}",
                    "leave out learn_tau, or set a smaller tau",
                )
            )
        self._tau = tau
        logit = nn.Parameter(torch.tensor(math.log(tau / (1 - tau)))) if learn_tau else None
        self.register_parameter("tau_logit", logit)
        self.threshold = threshold
        self.surrogate = surrogate or Triangle()
        self.detach_reset = detach_reset

    @property
    def tau(self) -> float:
        """The leak factor; one that is learnt is the number that the forward pass takes."""
        return _number(self._leak())

    def _leak(self) -> float | Tensor:
        return self._tau if self.tau_logit is None else self.tau_logit.float().sigmoid()

    def forward(self, current: Tensor, steps: int) -> Tensor:
        """Return spikes of the shape of `current`, (batch * steps, *shape)."""
        return lif_sequence(
            current.reshape(len(current) // steps, steps, *current.shape[1:]),
            tau=self._leak(),
            threshold=self.threshold,
            surrogate=self.surrogate,
            detach_reset=self.detach_reset,
        ).flatten(0, 1)

    def extra_repr(self) -> str:
        learnt = ", learn_tau=True" if self.tau_logit is not None else ""
        return f"tau={self.tau:g}, threshold={self.threshold}, detach_reset={self.detach_reset}{learnt}"
