"""
Layers that compute in a chip's integers, and learn real numbers.

Rounding is as `passes.quantise` does it, neurons as `fixedpoint` defines them. Backward, rounding and
truncation count as identities (straight-through), and spikes have the slope of a surrogate. All
integers are kept in floats that hold them exactly: float32 below 2^24, float64 where more is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from neurocompile.integer import STATE_FRACTION_BITS
from neurocompile.ir import Conv2d, Dense
from neurocompile.limits import Limits
from neurocompile.quantisation.fit import GRID_TOLERANCE, HOST_FRACTION_BITS, HOST_WEIGHT_BITS
from neurocompile.training.neurons import LIF
from neurocompile.training.surrogates import Surrogate

STATE_UNITS = 1 << STATE_FRACTION_BITS
EXACT_IN_FLOAT32 = (0.0, 0.5, 1.0)  # shares of a membrane of 24 bits

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Fixed:
    """What stays of a population: its weight unit (1 / S), threshold (weight units) and leak `dv`."""

    unit: float
    threshold: int
    dv: int

    @property
    def scale(self) -> float:
        """S, the weight units in one unit of the membrane, as the quantiser takes it from the unit."""
        return 1 / self.unit

    def kept(self, limits: Limits) -> float:
        """Return the share of a membrane that is left after a step."""
        return 1 - self.dv / (1 << limits.decay_bits)


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, factor: Tensor, step: float, lowest: float, highest: float
    ) -> Tensor:
        """Return `weight * factor` as multiples of `step` (0: as it is), clipped, in float64."""
        scaled = weight.double() * factor
        ctx.save_for_backward(factor, scaled > highest, scaled < lowest)
        ctx.type = weight.dtype
        rounded = (scaled / step).round().mul_(step) if step else scaled
        return rounded.clamp(lowest, highest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        factor, above, below = ctx.saved_tensors
        (grad,) = grads
        # What is beyond the bits may come back, but is not pushed further.
        stuck = (above & (grad < 0)) | (below & (grad > 0))
        return (grad * factor).masked_fill(stuck, 0).to(ctx.type), None, None, None, None


class _RoundBias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias: Tensor, scale: float, mantissas: int, exponents: int) -> Tensor:
        """Return biases in state units: mantissas with the smallest common exponent that fits."""
        in_state_units = bias * scale * STATE_UNITS
        ctx.scale = scale * STATE_UNITS
        for exponent in range(exponents + 1):
            mantissa = (in_state_units / (1 << exponent)).round()
            if float(mantissa.abs().max()) <= mantissas:
                break
        return mantissa.clamp(-mantissas, mantissas) * (1 << exponent)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] * ctx.scale, None, None, None


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor, on_host: bool) -> Tensor:
        """Return the nearest integers; halves go up, as the host's shift has it."""
        del ctx
        return (sums + 0.5).floor_() if on_host else sums.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        del ctx
        return grads[0], None


def round_bias(bias: Tensor, scale: float, limits: Limits) -> Tensor:
    """
    Return real biases (float64) of a population with S = `scale` in state units, as the chip has them.

    They are rounded to mantissas with the smallest common exponent that fits.
    """
    rounded: Tensor = _RoundBias.apply(  # type: ignore[no-untyped-call]
        bias, scale, limits.bias_mantissa_maximum, limits.bias_exponent_maximum
    )
    return rounded


class IntegerWeights(nn.Module):
    """
    The synapses of a layer, and its biases: real parameters, and the integers that they stand for.

    One integer of its input is `factor` (broadcasts to the weight) weight units of the population behind
    it. With `on_host`, weights have 16 bits with as many behind the point as fit. `constant` (*input shape)
    is added to every input, in real numbers, and through real weights becomes a bias.
    """

    factor: Tensor
    constant: Tensor | None

    def __init__(
        self,
        layer: Conv2d | Dense,
        factor: Float,
        bits: int,
        limits: Limits,
        *,
        on_host: bool,
        constant: Float | None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(layer.weight, dtype=torch.float32))
        self.bias = nn.Parameter(torch.tensor(layer.bias, dtype=torch.float32))
        self.register_buffer("factor", torch.tensor(factor), persistent=False)
        shift = None if constant is None else torch.tensor(constant).unsqueeze(0)
        self.register_buffer("constant", shift, persistent=False)
        self.slide: dict[str, Any] | None = None
        if isinstance(layer, Conv2d):
            self.slide = {
                "stride": layer.stride,
                "padding": layer.padding,
                "dilation": layer.dilation,
                "groups": layer.groups,
            }
        self.on_host = on_host
        self.step = limits.weight_unit(bits)
        self.highest = limits.largest_weight(bits)

    def rounded(self, shrink: Tensor | None = None) -> Tensor:
        """
        Return the weights in weight units, in float64, with each row `shrink` times as large.

        Those of the host are multiples of a power of two.
        """
        factor = self._factor(shrink)
        step, highest = float(self.step), float(self.highest)
        lowest = -highest - step
        if self.on_host:
            with torch.no_grad():
                largest = float((self.weight.double() * factor).abs().max()) or 1.0
            room = ((1 << (HOST_WEIGHT_BITS - 1)) - 1) / largest
            bits = math.floor(math.log2(room) + GRID_TOLERANCE)
            step = 2.0 ** -min(max(0, bits), HOST_FRACTION_BITS)
            lowest, highest = -math.inf, math.inf
        rounded: Tensor = _Round.apply(self.weight, factor, step, lowest, highest)  # type: ignore[no-untyped-call]
        return rounded

    def real(self, shrink: Tensor | None = None) -> Tensor:
        """Return the weights that a constant goes through: as `rounded`, but neither that nor in its units."""
        factor = self._factor(shrink)
        highest = math.inf if self.on_host else float(self.highest)
        clipped: Tensor = _Round.apply(  # type: ignore[no-untyped-call]
            self.weight, factor, 0.0, -highest - self.step, highest
        )
        return clipped / self.factor

    def real_bias(self, shrink: Tensor | None = None) -> Tensor:
        """Return the biases in units of the membrane: one for each row, or (*shape) of an image's constant."""
        bias = self.bias.double()
        if self.constant is None:
            return bias
        return self._connect(self.constant, self.real(shrink), bias)[0]

    def sums(self, x: Tensor, rounded: Tensor) -> Tensor:
        """Return what arrives of the integers `x`, in weight units: whole numbers, in float32."""
        # A host's sums go beyond 2^24. All others are exact in float32 but for ways to convolve that
        # multiply by fractions, as some GPU's do: their small errors are rounded off.
        kind = torch.float64 if self.on_host else torch.float32
        sums = self._connect(x.to(kind), rounded.to(kind), None)
        whole: Tensor = _Whole.apply(sums, self.on_host)  # type: ignore[no-untyped-call]
        return whole.float()

    def _factor(self, shrink: Tensor | None) -> Tensor:
        if shrink is None:
            return self.factor
        return self.factor * shrink.reshape(-1, *[1] * (self.weight.ndim - 1))

    def _connect(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.slide is None:
            return functional.linear(x.flatten(1), weight, bias)
        return functional.conv2d(x, weight, bias, **self.slide)


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        fixed: Fixed,
        limits: Limits,
        surrogate: Surrogate,
        detach_reset: bool,
    ) -> Tensor:
        membranes, spikes = torch.empty_like(current), torch.empty_like(current)
        kept, threshold = fixed.kept(limits), fixed.threshold * STATE_UNITS
        exact = kept in EXACT_IN_FLOAT32
        v = torch.zeros_like(current[:, 0])
        for t in range(current.shape[1]):
            left = (v * kept).trunc_() if exact else (v.double() * kept).trunc_().float()
            u = (left + current[:, t]).clamp_(-limits.state_maximum, limits.state_maximum)
            membranes[:, t] = u
            spikes[:, t] = u > threshold
            v = u * (1 - spikes[:, t])
        ctx.save_for_backward(membranes)
        ctx.kept, ctx.threshold, ctx.unit = kept, threshold, fixed.unit / STATE_UNITS
        ctx.surrogate, ctx.detach_reset = surrogate, detach_reset
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (membranes,) = ctx.saved_tensors
        (by_spikes,) = grads
        above = membranes - ctx.threshold
        slopes = ctx.surrogate.slope(above * ctx.unit) * ctx.unit
        factor = (above <= 0).to(above.dtype)
        if not ctx.detach_reset:
            factor = factor - membranes * slopes
        by_current = by_spikes * slopes
        for t in reversed(range(membranes.shape[1] - 1)):
            by_current[:, t] += ctx.kept * by_current[:, t + 1] * factor[:, t]
        return by_current, None, None, None, None


class IntegerLIF(LIF):
    """
    LIF neurons in integers, with the surrogate and the kind of reset of `layer`.

    `tau` and `threshold` are those of the integers, in units of the membrane.
    """

    def __init__(self, fixed: Fixed, limits: Limits, layer: LIF) -> None:
        super().__init__(
            fixed.kept(limits),
            fixed.threshold * fixed.unit,
            layer.surrogate,
            detach_reset=layer.detach_reset,
        )
        self.fixed, self.limits = fixed, limits

    def forward(self, current: Tensor, steps: int) -> Tensor:
        """Return spikes of the shape of `current`, (batch * steps, *shape), whole state units in float32."""
        spikes: Tensor = _Sequence.apply(  # type: ignore[no-untyped-call]
            current.reshape(-1, steps, *current.shape[1:]),
            self.fixed,
            self.limits,
            self.surrogate,
            self.detach_reset,
        )
        return spikes.flatten(0, 1)
