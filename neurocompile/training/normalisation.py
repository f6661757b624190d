"""
Batch norm over batch, time and space: one statistic per channel (TET section 3.3).

    y = f gamma (x - mean) / sqrt(var + eps) + beta

TET's is f = 1. The threshold-dependent one (tdBN, Zheng et al., AAAI 2021) has alpha Vth, so that what
arrives at a neuron has the standard deviation of its threshold: alpha is 1, or 1/sqrt(2) where two such
branches are added before a neuron. "tdbn" keeps it as the factor f; "tdbn-init" is an ordinary batch norm
whose gamma starts there: the same functions, trained differently, as gamma's gradient is not scaled.

Several processes normalise by common statistics after `synchronise`. PyTorch's SyncBatchNorm refuses
tensors on processors and knows no factor; this one works on both, and takes PyTorch's kernels on GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.modules._functions import SyncBatchNorm as FusedStatistics

if TYPE_CHECKING:
    from neurocompile.training.config import NormalisationSettings

SUMMED = 1 / math.sqrt(2)  # alpha of two branches whose sum should have the variance of one


class ScaledBatchNorm2d(nn.BatchNorm2d):
    """
    Batch norm whose weight counts `factor` times; `synchronised`: with the statistics of all processes.

    In evaluation, and wherever there is one process, the latter changes nothing.
    """

    def __init__(
        self, channels: int, factor: float = 1.0, *, synchronised: bool = False, **options: Any
    ) -> None:
        super().__init__(channels, **options)
        self.factor = factor
        self.synchronised = synchronised

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        """Return what `input` (samples, channels, height, width) is normalised to."""
        self._check_input_dim(input)
        tracks = self.training and self.track_running_stats
        if tracks and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        stored = (self.running_mean, self.running_var)
        mean, variance = stored if tracks or not self.training else (None, None)
        weight = scale_of(self)
        share = self.momentum
        if share is None:  # the mean over all batches, as in PyTorch
            share = 1 / float(self.num_batches_tracked or 1)
        if tracks and self.synchronised and processes() > 1:
            return _synchronised(input, weight, self.bias, stored, self.eps, share)
        return functional.batch_norm(
            input, mean, variance, weight, self.bias, self.training, share, self.eps
        )

    def extra_repr(self) -> str:
        return f"{self.num_features}, factor={self.factor}, synchronised={self.synchronised}"


def batch_norm(
    settings: NormalisationSettings, channels: int, *, threshold: float, summed: bool = False
) -> nn.BatchNorm2d:
    """
    Return the batch norm of `settings` for the neurons of a `threshold` behind it.

    `summed`: what it makes is added to what another one makes before it comes to the neurons.
    """
    if settings.kind == "bn":
        return nn.BatchNorm2d(channels)
    scale = threshold * (SUMMED if summed else 1.0)
    if settings.kind == "tdbn":
        return ScaledBatchNorm2d(channels, scale)
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, scale)
    return norm


def scale_of(norm: nn.BatchNorm2d) -> Tensor:
    """Return what `norm` multiplies normalised values with, (channels,): f gamma."""
    factor = norm.factor if isinstance(norm, ScaledBatchNorm2d) else 1.0
    return norm.weight if factor == 1 else norm.weight * factor


def synchronise(network: nn.Module) -> None:
    """
    Let all batch norms of `network` use the statistics of all processes in training, in place.

    Parameters and buffers stay the same objects with the same names.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ScaledBatchNorm2d):
                child.synchronised = True
            elif type(child) is nn.BatchNorm2d:
                setattr(parent, name, _replaced(child))


def processes() -> int:
    """Return how many processes train together."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


@contextmanager
def unmoved_statistics(network: nn.Module) -> Iterator[None]:
    """
    Normalise by the statistics of the batch without storing them, and without other processes.

    For passes in training mode that are no training.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats  # noqa: SLF001
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _replaced(norm: nn.BatchNorm2d) -> ScaledBatchNorm2d:
    made = ScaledBatchNorm2d(
        norm.num_features,
        synchronised=True,
        eps=norm.eps,
        momentum=norm.momentum,
        device="meta",  # no memory: everything is taken over
    )
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(made, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(made, name, buffer)
    return made.train(norm.training)


def _synchronised(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stored: tuple[Tensor | None, Tensor | None],
    eps: float,
    momentum: float,
) -> Tensor:
    mean, variance = stored
    assert mean is not None
    assert variance is not None
    result: Tensor
    if x.is_cuda:
        group, count = distributed.group.WORLD, processes()
        result = FusedStatistics.apply(  # type: ignore[no-untyped-call]
            x, weight, bias, mean, variance, eps, momentum, group, count
        )
        return result
    result = _CommonStatistics.apply(x, weight, bias, mean, variance, eps, momentum)  # type: ignore[no-untyped-call]
    return result


class _CommonStatistics(torch.autograd.Function):
    """
    Batch norm over the batches of all processes.

    With n values of a channel in all processes together, g the gradient that arrives and x^ = (x - mean) / s,

        dL/dx = gamma / s (g - sum g / n - x^ sum (g x^) / n)

    where sums run over all processes; the gradients of gamma and beta are this process's own, which DDP
    then averages as it does all others.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        momentum: float,
    ) -> Tensor:
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        here = float(x.numel() // x.shape[1])
        own_variance, own_mean = torch.var_mean(values, (0, 2, 3), correction=0)
        own = torch.cat([own_mean, own_variance, own_mean.new_tensor([here])])
        all_of_them = [torch.empty_like(own) for _ in range(processes())]
        distributed.all_gather(all_of_them, own)
        together = torch.stack(all_of_them).double()
        channels = x.shape[1]
        means, variances, counts = (
            together[:, :channels],
            together[:, channels:-1],
            together[:, -1:],
        )
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        # parallel axes: a variance of everything is the mean variance and the variance of the means
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        unbiased = variance * total / (total - 1)
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        inverse = (variance + eps).rsqrt().to(values.dtype)
        mean = mean.to(values.dtype)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.total = float(total)
        normal = (values - _along(mean)) * _along(inverse)
        return (normal * _along(weight) + _along(bias)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        arriving = gradients[0].to(mean.dtype)
        normal = (x.to(mean.dtype) - _along(mean)) * _along(inverse)
        own = torch.stack([arriving.sum((0, 2, 3)), (arriving * normal).sum((0, 2, 3))])
        common = own.clone()
        distributed.all_reduce(common)
        of_bias, of_weight = (_along(part / ctx.total) for part in common)
        of_x = _along(weight * inverse) * (arriving - of_bias - normal * of_weight)
        return of_x.to(x.dtype), own[1].to(weight.dtype), own[0].to(weight.dtype), *[None] * 4


def _along(channels: Tensor) -> Tensor:
    return channels[:, None, None]
