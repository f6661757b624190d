"""
What a batch norm computes in evaluation: y = scale x + shift, per channel.

PyTorch's own ones say it in their parameters,

    scale = gamma / sqrt(var + eps)        shift = beta - mu scale

and our threshold-dependent one has a factor f beside gamma. Other classes that derive from them may do
something else: those of other packages multiply x's part by alpha Vth, in their forward pass or in their
initial gamma. So these are asked: they are run, in float64, on zeros and on ones, and the two numbers that
this gives must explain what they make of other values.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from neurocompile.training.normalisation import ScaledBatchNorm2d

TOLERANCE = 1e-9  # of float64 results, relative to the largest
SIZE = 3  # of the axes behind the channels in a trial
SEED = 20260214

OWN_FORWARDS = {_BatchNorm.forward, nn.SyncBatchNorm.forward, ScaledBatchNorm2d.forward}


class NotAffineError(Exception):
    """A batch norm that does not scale and shift its channels; `reason` is (need, have, remedy)."""

    def __init__(self, *reason: str) -> None:
        self.reason = reason


@dataclass(frozen=True)
class ChannelAffine:
    """`y = scale * x + shift`, one number per channel, (channels,) in float64."""

    scale: Tensor
    shift: Tensor


def is_batchnorm(module: object) -> bool:
    """Return whether a module is a batch norm of PyTorch's, or derived from one."""
    return isinstance(module, _BatchNorm) and not isinstance(module, _InstanceNorm)


def affine_of(norm: _BatchNorm) -> ChannelAffine:
    """
    Return what `norm` computes in evaluation.

    Raises `NotAffineError` where nothing is stored to normalise with, or it computes something else.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise NotAffineError(
            "needs stored statistics to be folded",
            "it tracks none",
            "train with track_running_stats=True",
        )
    if type(norm).forward in OWN_FORWARDS:
        return _by_parameters(norm, norm.running_mean, norm.running_var)
    return _by_trial(norm)


def _by_parameters(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> ChannelAffine:
    mean, variance = mean.double(), variance.double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    factor = norm.factor if isinstance(norm, ScaledBatchNorm2d) else 1.0
    scale = factor * gamma / torch.sqrt(variance + norm.eps)
    return ChannelAffine(scale, beta - mean * scale)


@torch.no_grad()
def _by_trial(norm: _BatchNorm) -> ChannelAffine:
    asked = copy.deepcopy(norm).double().eval()
    generator = torch.Generator().manual_seed(SEED)
    for shape, channels in _trials(norm.num_features):
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        try:
            shift, one, result = (asked(x) for x in (values * 0, values * 0 + 1, values))
        except Exception:  # noqa: BLE001, S112 - somebody's forward pass, on a shape that is not its
            continue
        if result.shape != shape:
            continue
        first = [0] * len(shape)
        first[channels] = slice(None)  # type: ignore[call-overload]
        offset = shift[tuple(first)]
        affine = ChannelAffine(one[tuple(first)] - offset, offset)
        along = [-1 if axis == channels else 1 for axis in range(len(shape))]
        expected = values * affine.scale.reshape(along) + affine.shift.reshape(along)
        if torch.allclose(result, expected, rtol=0, atol=TOLERANCE * float(result.abs().max())):
            return affine
    raise NotAffineError(
        "must scale and shift its channels, always alike, to be folded",
        f"a '{type(norm).__name__}' computes something else",
        "use a plain batch norm",
    )


def _trials(channels: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield shapes to try, and the axis of the channels: with a batch, or with time and a batch."""
    for behind in range(4):
        for before in (1, 2):
            yield (*(range(5, 5 + before)), channels, *([SIZE] * behind)), before
