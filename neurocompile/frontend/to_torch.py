"""
Rebuild a PyTorch module from a `Network`, to hold an imported file against the module it came from.

With the same kernels on both sides, a difference in a single spike is a difference in the files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurocompile.errors import Problem, UnsupportedError, raise_all
from neurocompile.ir import LIF, Conv2d, Dense, Flatten, Input, Network, Node, Output, Pool2d
from neurocompile.training import neurons
from neurocompile.training.networks import SpikingNetwork


def to_torch(network: Network) -> SpikingNetwork:
    """
    Return a float32 PyTorch module that computes `network`, whose LIFs keep their names.

    Raises `UnsupportedError` for neurons that the training half does not have.
    """
    raise_all(
        UnsupportedError,
        [problem for name in network.of_type(LIF) for problem in _check(network, name)],
    )
    (input_name,) = network.of_type(Input)
    return SpikingNetwork(_Body(network), network.shapes[input_name])


class _Body(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        for name, node in network.nodes.items():
            module = _module(node)
            if module is not None:
                self._modules[name] = module

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
                return total
            else:
                values[name] = self._modules[name](total)  # type: ignore[misc]
        raise AssertionError("a Network has an output")


def _module(node: Node) -> nn.Module | None:
    match node:
        case Dense():
            dense = nn.Linear(node.weight.shape[1], node.weight.shape[0])
            return _filled(dense, node)
        case Conv2d():
            conv = nn.Conv2d(
                node.weight.shape[1] * node.groups,
                node.weight.shape[0],
                (node.weight.shape[2], node.weight.shape[3]),
                stride=node.stride,
                padding=node.padding,
                dilation=node.dilation,
                groups=node.groups,
            )
            return _filled(conv, node)
        case Pool2d():
            divisor = None if node.scale == 1 / (node.kernel[0] * node.kernel[1]) else 1
            return nn.AvgPool2d(node.kernel, node.stride, node.padding, divisor_override=divisor)
        case Flatten():
            return nn.Flatten()
        case LIF():
            return neurons.LIF(float(node.decay.flat[0]), float(node.threshold.flat[0]))
        case _:
            return None


def _filled(module: nn.Linear | nn.Conv2d, node: Dense | Conv2d) -> nn.Module:
    module.weight = nn.Parameter(torch.tensor(node.weight, dtype=torch.float32))
    module.bias = nn.Parameter(torch.tensor(node.bias, dtype=torch.float32))
    return module


def _check(network: Network, name: str) -> list[Problem]:
    node = network.nodes[name]
    assert isinstance(node, LIF)
    uniform = all((values == values.flat[0]).all() for values in (node.decay, node.threshold))
    plain = not node.leak.any() and not node.reset_to.any() and node.reset == "zero"
    unit_gain = bool(abs(node.gain - 1).max() < 1e-12)
    if uniform and plain and unit_gain:
        return []
    return [
        Problem(name, "needs uniform parameters, unit gain, no leak voltage and a reset to zero")
    ]
