"""
The nodes that compute what one PyTorch layer does, in evaluation.

A layer that is linear but has no node of its own (a transposed convolution with a stride, a padding
that wraps around, an average whose windows differ) is written out as the matrix that it is: PyTorch is
asked for it, one input at a time, in float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neurocompile.frontend.modules.neurons import UnreadableError, numbers
from neurocompile.integer import Shape
from neurocompile.ir import Conv2d, Delay, Dense, Flatten, MaxPool2d, Node, Pool2d, Reshape

LARGEST_MATRIX = 1 << 24  # entries that a layer may be written out with; 128 MiB of float64
AT_ONCE = 256  # inputs that a layer is asked about together

NOTHING = (
    nn.Identity,
    *(
        nn.Dropout,
        nn.Dropout1d,
        nn.Dropout2d,
        nn.Dropout3d,
        nn.AlphaDropout,
        nn.FeatureAlphaDropout,
    ),
)
WRITTEN_OUT = (
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Conv1d, nn.Conv2d, nn.Upsample),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Linear),
)


def nodes_of(module: nn.Module, shape: Shape) -> list[Node]:
    """
    Return the nodes, one behind the other, of a layer that gets an input of `shape`.

    Raises `UnreadableError` for layers that have none.
    """
    kind = type(module).__name__
    if kind == "VotingLayer":
        return [_voting(module, shape)]
    if kind == "Delay":
        return [Delay(np.array(module.delay_steps))]
    match module:
        case nn.Linear():
            plain: Node | None = (
                Dense(_array(module.weight), _bias(module)) if len(shape) == 1 else None
            )
        case nn.Conv1d() | nn.Conv2d():
            plain = _convolution(module, shape)
        case nn.ConvTranspose1d() | nn.ConvTranspose2d():
            plain = _transposed(module, shape)
        case nn.AvgPool1d() | nn.AvgPool2d() | nn.AdaptiveAvgPool1d() | nn.AdaptiveAvgPool2d():
            plain = _average(module, shape)
        case nn.MaxPool1d() | nn.MaxPool2d():
            return _largest(module, shape)
        case _:
            plain = None
    if plain is not None:
        return [plain]
    if isinstance(module, WRITTEN_OUT):
        return written_out(module, shape)
    raise UnreadableError(*_refusal(module))


def reshaped(shape: Shape) -> Node:
    """Return the node that puts values into another shape."""
    return Flatten() if len(shape) == 1 else Reshape(shape)


@torch.no_grad()
def written_out(module: nn.Module, shape: Shape) -> list[Node]:
    """Return a linear layer as a matrix and a bias."""
    asked: Any = copy.deepcopy(module).double().eval()
    if hasattr(asked, "step_mode"):  # of SpikingJelly: no time here
        asked.step_mode = "s"
    zero = asked(torch.zeros(1, *shape, dtype=torch.float64))
    made = tuple(zero.shape[1:])
    size, outputs = math.prod(shape), math.prod(made)
    if size * outputs > LARGEST_MATRIX:
        raise UnreadableError(
            f"is a '{type(module).__name__}' that can only be written out as a matrix",
            f"it would have {size * outputs} entries",
            "use a plain convolution or pool",
        )
    weight = np.empty((outputs, size))
    for start in range(0, size, AT_ONCE):
        rows = torch.zeros(min(AT_ONCE, size - start), size, dtype=torch.float64)
        rows[torch.arange(len(rows)), start + torch.arange(len(rows))] = 1
        columns = asked(rows.reshape(-1, *shape)) - zero
        weight[:, start : start + len(rows)] = columns.reshape(len(rows), -1).T.numpy()
    matrix = Dense(weight, zero.flatten().numpy(), shape)
    return [matrix] if len(made) == 1 else [matrix, Reshape(made)]


def _convolution(module: nn.Conv1d | nn.Conv2d, shape: Shape) -> Node | None:
    extents = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if len(shape) != len(extents) + 1:
        raise UnreadableError(f"needs an input with {len(extents) + 1} axes", f"it gets {shape}")
    if module.padding == "valid":
        padding: Sequence[int] = (0,) * len(extents)
    elif module.padding == "same":
        if any(extent % 2 for extent in extents):
            return None
        padding = [extent // 2 for extent in extents]
    else:
        padding = [int(size) for size in module.padding]
    if module.padding_mode != "zeros" and any(padding):
        return None
    weight = _array(module.weight)
    if isinstance(module, nn.Conv1d):
        (stride,), (dilation,) = module.stride, module.dilation
        flat = weight[:, :, np.newaxis]
        sizes = ((1, stride), (0, padding[0]), (1, dilation))
        return Conv2d(flat, _bias(module), *sizes, module.groups)
    return Conv2d(
        weight,
        _bias(module),
        _two(module.stride),
        _two(padding),
        _two(module.dilation),
        module.groups,
    )


def _transposed(module: nn.ConvTranspose1d | nn.ConvTranspose2d, shape: Shape) -> Node | None:
    """
    Return the convolution that a transposed one of stride 1 is, or None for others.

    It is that with the kernel turned around and the padding that is left of a full one.
    """
    paddings: Any = module.padding
    full = [
        d * (k - 1) - p
        for d, k, p in zip(module.dilation, module.kernel_size, paddings, strict=True)
    ]
    if {*module.stride} != {1} or any(module.output_padding) or min(full) < 0:
        return None
    if len(shape) != len(full) + 1:
        raise UnreadableError(f"needs an input with {len(full) + 1} axes", f"it gets {shape}")
    weight = _array(module.weight)
    groups = module.groups
    rows = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).swapaxes(1, 2)
    rows = rows.reshape(-1, *rows.shape[2:])
    rows = np.flip(rows, tuple(range(2, rows.ndim)))
    if rows.ndim == 3:
        flat = rows[:, :, np.newaxis]
        sizes = ((1, 1), (0, full[0]), (1, module.dilation[0]))
        return Conv2d(flat, _bias(module), *sizes, groups)
    return Conv2d(rows, _bias(module), (1, 1), _two(full), _two(module.dilation), groups)


def _average(module: Any, shape: Shape) -> Node | None:
    axes = 1 if isinstance(module, nn.AvgPool1d | nn.AdaptiveAvgPool1d) else 2
    if len(shape) != axes + 1:
        raise UnreadableError(f"needs an input with {axes + 1} axes", f"it gets {shape}")
    extent = shape[1:]
    if isinstance(module, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d):
        wanted = _sizes(module.output_size, axes)
        made = [size if want is None else want for want, size in zip(wanted, extent, strict=True)]
        if any(size % part for size, part in zip(extent, made, strict=True)):
            return None
        kernel = stride = tuple(size // part for size, part in zip(extent, made, strict=True))
        padding: Sequence[int] = (0,) * axes
        divisor = None
    else:
        kernel, padding = _sizes(module.kernel_size, axes), _sizes(module.padding, axes)
        stride = _sizes(module.stride, axes)
        divisor = getattr(module, "divisor_override", None)
        windows = zip(extent, kernel, stride, padding, strict=True)
        fits = all((size + 2 * pad - k) % step == 0 for size, k, step, pad in windows)
        if (module.ceil_mode and not fits) or (any(padding) and not module.count_include_pad):
            return None
    scale = 1 / (divisor or math.prod(kernel))
    if axes == 2:
        return Pool2d(_two(kernel), _two(stride), _two(padding), scale)
    weight = np.full((shape[0], 1, 1, kernel[0]), scale)
    sizes = ((1, stride[0]), (0, padding[0]), (1, 1))
    return Conv2d(weight, np.zeros(shape[0]), *sizes, shape[0])


def _largest(module: Any, shape: Shape) -> list[Node]:
    axes = 1 if isinstance(module, nn.MaxPool1d) else 2
    if len(shape) != axes + 1:
        raise UnreadableError(f"needs an input with {axes + 1} axes", f"it gets {shape}")
    kernel, stride = _sizes(module.kernel_size, axes), _sizes(module.stride, axes)
    padding = _sizes(module.padding, axes)
    windows = zip(shape[1:], kernel, stride, padding, strict=True)
    fits = all((size + 2 * pad - k) % step == 0 for size, k, step, pad in windows)
    dilated = {*_sizes(module.dilation, axes)} != {1}
    if (module.ceil_mode and not fits) or module.return_indices or dilated:
        raise UnreadableError(
            "needs a plain max pool", "ceil_mode, return_indices or a dilation is set"
        )
    if axes == 2:
        return [MaxPool2d(_two(kernel), _two(stride), _two(padding))]
    pool = MaxPool2d((1, kernel[0]), (1, stride[0]), (0, padding[0]))
    length = (shape[1] + 2 * padding[0] - kernel[0]) // stride[0] + 1
    return [Reshape((shape[0], 1, shape[1])), pool, Reshape((shape[0], length))]


def _voting(module: Any, shape: Shape) -> Node:
    size = int(module.voting_size)
    if len(shape) != 1:
        raise UnreadableError("needs a flat input", f"it gets {shape}", "flatten before it")
    classes = shape[0] // size
    weight = np.zeros((classes, shape[0]))
    for place in range(classes * size):
        weight[place // size, place] = 1 / size
    return Dense(weight, np.zeros(classes))


def _refusal(module: nn.Module) -> tuple[str, str, str]:
    kind = type(module).__name__
    if type(module).__module__.startswith("torch.nn.modules.activation"):
        return (
            f"is a '{kind}', a layer of networks without spikes",
            "neurons can only compute their own activation",
            "replace it by a layer of neurons and train again",
        )
    if "Norm" in kind:
        return (
            f"is a '{kind}', which normalises with the values of each sample",
            "only what is known before can be folded into weights",
            "use a batch norm",
        )
    return (f"is a '{kind}', which cannot be compiled", "there is no node for it", "")


def _sizes(value: Any, axes: int) -> tuple[Any, ...]:
    if isinstance(value, Sequence):
        return tuple(value) if len(value) == axes else tuple(value) * axes
    return (value,) * axes


def _two(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


def _array(parameter: Any) -> NDArray[np.float64]:
    return numbers(parameter)


def _bias(module: Any) -> NDArray[np.float64]:
    if module.bias is not None:
        return numbers(module.bias)
    outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return np.zeros(outputs)
