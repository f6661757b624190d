"""
The NIR node of one PyTorch module, and the shape behind it.

A neuron `u = tau_d v + I` with threshold Vth becomes, for forward Euler with step dt,

    tau = dt / (1 - tau_d)    r = tau / dt    v_leak = 0    v_threshold = Vth    v_reset = 0

Neuron parameters are float64, so that reading them back with the same dt gives the same leak. nir's
constructors keep and change what they are given, and compute wrong shapes for groups and for kernels
that are not square: they get copies, and shapes are computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray
from torch import nn

from neurocompile.integer import Shape
from neurocompile.ir import Conv2d, Flatten, Node, Pool2d, output_shape
from neurocompile.training.graded import GradedNeuron
from neurocompile.training.neurons import LIF


class InexpressibleError(Exception):
    """A module that NIR has no node for; `reason` is a (need, have, remedy) triple."""

    def __init__(self, *reason: str) -> None:
        self.reason = reason


def nir_module(module: nn.Module, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the NIR node of `module` for an input of `shape`, or raise `InexpressibleError`."""
    match module:
        case LIF():
            return _neurons(module, shape, dt)
        case nn.Conv1d() | nn.Conv2d():
            return _convolution(module, shape)
        case nn.AvgPool2d():
            if module.ceil_mode or not module.count_include_pad or module.divisor_override:
                raise InexpressibleError(
                    "needs a plain average pool",
                    "ceil_mode, count_include_pad or a divisor is set",
                )
            return nir.AvgPool2d(
                kernel_size=_pair(module.kernel_size),
                stride=_pair(module.stride),
                padding=_pair(module.padding),
            )
        case nn.AdaptiveAvgPool2d():  # those that divide their input are plain pools by now
            raise InexpressibleError(
                "needs an output size that divides its input's",
                f"it makes {module.output_size} of {shape[1:]}",
                "use an AvgPool2d",
            )
        case nn.Flatten():
            return flatten(shape, module.start_dim, module.end_dim)
        case nn.Linear():
            if len(shape) != 1:
                raise InexpressibleError(
                    "needs a flat input", f"it gets {shape}", "flatten before it"
                )
            return nir.Affine(
                weight=_numpy(module.weight), bias=_bias(module.bias, module.out_features)
            )
        case GradedNeuron():
            raise InexpressibleError(
                "must spike to be exported",
                "a 'GradedNeuron' emits sigmoids",
                "train with neuron.activation=step",
            )
        case _:
            raise InexpressibleError(
                f"is a '{type(module).__name__}', which cannot be exported",
                "NIR has no node for it",
            )


def flatten(shape: Shape, start: int, end: int) -> nir.Flatten:
    """Return the flatten of axes `start` to `end`, which count the batch as axis 0 as in PyTorch."""
    axes = len(shape) + 1
    first, last = (axis + axes if axis < 0 else axis for axis in (start, end))
    if not 1 <= first <= last < axes:
        raise InexpressibleError(
            "must flatten axes behind the batch", f"it flattens {start} to {end} of {axes}"
        )
    return nir.Flatten(
        input_type={"input": np.array(shape)},
        start_dim=first - 1,
        end_dim=-1 if last == axes - 1 else last - 1,
    )


def or_pool(module: nn.MaxPool2d, shape: Shape) -> tuple[nir.SumPool2d, nir.Threshold]:
    """
    Return the two nodes that, one after the other, pool spikes as `module` does.

    The largest of some zeros and ones is 1 where their sum is above 0. PyTorch pads with minus infinity
    and NIR with 0, which is the same here: no window lies in the padding alone.
    """
    if module.ceil_mode or module.return_indices or _pair(module.dilation).tolist() != [1, 1]:
        raise InexpressibleError(
            "needs a plain max pool", "ceil_mode, return_indices or a dilation is set"
        )
    pool = nir.SumPool2d(
        kernel_size=_pair(module.kernel_size),
        stride=_pair(module.stride),
        padding=_pair(module.padding),
    )
    return pool, nir.Threshold(threshold=np.zeros(shape_after(pool, shape)))


def place_channels(shape: Shape, start: int, total: int) -> nir.NIRNode:
    """Return the linear node that puts an input of `shape` at channel `start` of `total`, zeros elsewhere."""
    weight = np.zeros((total, shape[0]), np.float32)
    weight[start : start + shape[0]] = np.eye(shape[0])
    bias = np.zeros(total, np.float32)
    if len(shape) == 1:
        return nir.Affine(weight=weight, bias=bias)
    if len(shape) == 2:
        return nir.Conv1d(shape[1], weight[:, :, np.newaxis], 1, 0, 1, 1, bias)
    return nir.Conv2d(shape[1:], weight[:, :, np.newaxis, np.newaxis], 1, 0, 1, 1, bias)


def shape_after(node: nir.NIRNode, shape: Shape) -> Shape:
    """Return the shape behind `node`; raises `InexpressibleError` where an input does not fit."""
    match node:
        case nir.Conv1d():
            ours: Node = Conv2d(
                node.weight[:, :, np.newaxis],
                node.bias,
                (1, node.stride),
                (0, node.padding),
                (1, node.dilation),
                node.groups,
            )
        case nir.Conv2d():
            ours = Conv2d(
                node.weight,
                node.bias,
                _two(node.stride),
                _two(node.padding),
                _two(node.dilation),
                node.groups,
            )
        case nir.AvgPool2d() | nir.SumPool2d():
            ours = Pool2d(_two(node.kernel_size), _two(node.stride), _two(node.padding))
        case nir.Flatten():
            ours = Flatten(node.start_dim, node.end_dim)
        case nir.Affine():
            return (node.weight.shape[0],)
        case _:
            return shape
    try:
        return output_shape(ours, shape)
    except ValueError as error:
        raise InexpressibleError(str(error)) from None


def _neurons(module: LIF, shape: Shape, dt: float) -> nir.NIRNode:
    threshold = np.full(shape, float(module.threshold))
    if module.tau == 1:
        return nir.IF(r=np.full(shape, 1 / dt), v_threshold=threshold, v_reset=np.zeros(shape))
    return nir.LIF(
        tau=np.full(shape, dt / (1 - module.tau)),
        r=np.full(shape, 1 / (1 - module.tau)),
        v_leak=np.zeros(shape),
        v_threshold=threshold,
        v_reset=np.zeros(shape),
    )


def _convolution(module: nn.Conv1d | nn.Conv2d, shape: Shape) -> nir.NIRNode:
    if module.padding_mode != "zeros":
        raise InexpressibleError("needs zero padding", f"it pads with '{module.padding_mode}'")
    extents = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if module.padding == "same" and any(extent % 2 for extent in extents):
        raise InexpressibleError(
            "needs a padding that is the same on both sides", "its kernel is even"
        )
    if len(shape) != len(extents) + 1:
        raise InexpressibleError(f"needs an input with {len(extents) + 1} axes", f"gets {shape}")
    match module.padding:
        case "valid":
            padding: tuple[int, ...] = (0,) * len(extents)
        case "same":
            padding = tuple(extent // 2 for extent in extents)
        case numbers:
            padding = tuple(int(number) for number in numbers)
    weight, bias = _numpy(module.weight), _bias(module.bias, module.out_channels)
    if isinstance(module, nn.Conv1d):
        (stride,), (dilation,) = module.stride, module.dilation
        return nir.Conv1d(shape[1], weight, stride, padding[0], dilation, module.groups, bias)
    return nir.Conv2d(
        shape[1:], weight, module.stride, padding, module.dilation, module.groups, bias
    )


def _pair(value: Any) -> NDArray[np.int64]:
    return np.array(value if isinstance(value, Sequence) else (value, value), dtype=np.int64)


def _two(values: Any) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _numpy(parameter: Any) -> NDArray[Any]:
    array: NDArray[Any] = parameter.detach().cpu().numpy()
    return array.copy()


def _bias(bias: Any, channels: int) -> NDArray[Any]:
    return np.zeros(channels, np.float32) if bias is None else _numpy(bias)
