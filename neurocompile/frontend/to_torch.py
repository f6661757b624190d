"""
Rebuild a PyTorch module from a `Network`, to hold an imported file against the module it came from.

With the same kernels on both sides, a difference in a single spike is a difference in the files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurocompile.errors import Problem, UnsupportedError, raise_all
from neurocompile.integer import Shape
from neurocompile.ir import (
    LIF,
    Conv2d,
    Dense,
    Flatten,
    Float,
    Input,
    MaxPool2d,
    Network,
    Node,
    Output,
    Pool2d,
    Scale,
    Threshold,
)
from neurocompile.training import neurons
from neurocompile.training.networks import SpikingNetwork

REBUILT = (Input, Output, Dense, Conv2d, Pool2d, MaxPool2d, Scale, Flatten, LIF, Threshold)


def to_torch(network: Network) -> SpikingNetwork:
    """
    Return a float32 PyTorch module that computes `network`, whose LIFs keep their names.

    Raises `UnsupportedError` for what the training half does not have.
    """
    inputs, outputs = network.of_type(Input), network.of_type(Output)
    problems = [problem for name, node in network.nodes.items() for problem in _check(name, node)]
    if network.feedback:
        problems.append(Problem("", "PyTorch networks have no feedback edges", "this one has"))
    if len(inputs) != 1 or len(outputs) != 1:
        have = f"this one has {len(inputs)} and {len(outputs)}"
        problems.append(Problem("", "PyTorch networks have one input and one output", have))
    raise_all(UnsupportedError, problems)
    return SpikingNetwork(_Body(network), network.shapes[inputs[0]])


class _Body(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        for name, node in network.nodes.items():
            if not isinstance(node, Input | Output):
                self._modules[name] = _module(node, network.shapes[network.sources(name)[0]])

    def forward(self, x: Tensor, steps: int) -> Tensor:
        values: dict[str, Tensor] = {}
        for name, node in self.network.nodes.items():
            if isinstance(node, Input):
                values[name] = x
                continue
            first, *others = (values[source] for source in self.network.sources(name))
            total = first
            for other in others:
                total = total + other
            if isinstance(node, LIF):
                values[name] = self._modules[name](total, steps)  # type: ignore[misc]
            elif isinstance(node, Output):
                values[name] = total
            else:
                values[name] = self._modules[name](total)  # type: ignore[misc]
        (output,) = self.network.of_type(Output)
        return values[output]


class _Scaled(nn.Module):
    def __init__(self, scale: Float) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class _Fired(nn.Module):
    def __init__(self, threshold: Float) -> None:
        super().__init__()
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(threshold, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return (x > self.threshold).to(x.dtype)


def _module(node: Node, shape: Shape) -> nn.Module:
    """Return the module that computes `node` on inputs of `shape`."""
    match node:
        case Dense():
            return _filled(nn.Linear(node.weight.shape[1], node.weight.shape[0]), node)
        case Conv2d():
            return _filled(_convolution(node, shape), node)
        case Pool2d():
            divisor = None if node.scale == 1 / (node.kernel[0] * node.kernel[1]) else 1
            return nn.AvgPool2d(node.kernel, node.stride, node.padding, divisor_override=divisor)
        case MaxPool2d():
            return nn.MaxPool2d(node.kernel, node.stride, node.padding)
        case Scale():
            return _Scaled(node.scale)
        case Flatten():
            start, end = (axis + (axis >= 0) for axis in (node.start, node.end))
            return nn.Flatten(start, end)
        case LIF():
            return neurons.LIF(float(node.decay.flat[0]), float(node.threshold.flat[0]))
        case Threshold():
            return _Fired(node.threshold)
    raise AssertionError(f"{node} was not refused")


def _convolution(node: Conv2d, shape: Shape) -> nn.Conv1d | nn.Conv2d:
    """Return the convolution: of one axis where its input has one, as its kernels may round otherwise."""
    channels = node.weight.shape[1] * node.groups
    if len(shape) == 2:
        return nn.Conv1d(
            channels,
            node.weight.shape[0],
            node.weight.shape[3],
            stride=node.stride[1],
            padding=node.padding[1],
            dilation=node.dilation[1],
            groups=node.groups,
        )
    return nn.Conv2d(
        channels,
        node.weight.shape[0],
        (node.weight.shape[2], node.weight.shape[3]),
        stride=node.stride,
        padding=node.padding,
        dilation=node.dilation,
        groups=node.groups,
    )


def _filled(module: nn.Linear | nn.Conv1d | nn.Conv2d, node: Dense | Conv2d) -> nn.Module:
    weight = torch.tensor(node.weight, dtype=torch.float32)
    module.weight = nn.Parameter(weight.reshape(module.weight.shape))
    module.bias = nn.Parameter(torch.tensor(node.bias, dtype=torch.float32))
    return module


def _check(name: str, node: Node) -> list[Problem]:
    if not isinstance(node, REBUILT):
        have = f"it is of type {type(node).__name__}"
        return [Problem(name, "must be a layer that the training half has", have)]
    if isinstance(node, Pool2d) and node.scale not in (1, 1 / (node.kernel[0] * node.kernel[1])):
        return [Problem(name, "must be a sum or an average pool", f"it scales by {node.scale}")]
    if not isinstance(node, LIF):
        return []
    uniform = all((values == values.flat[0]).all() for values in (node.decay, node.threshold))
    plain = not node.leak.any() and not node.reset_to.any() and node.reset == "zero"
    stateless = node.current_decay is None and (node.start is None or not node.start.any())
    unit_gain = bool(abs(node.gain - 1).max() < 1e-12)
    if uniform and plain and stateless and unit_gain:
        return []
    return [
        Problem(
            name,
            "needs uniform parameters, unit gain, no synaptic current, no leak voltage and a reset to zero",
        )
    ]
