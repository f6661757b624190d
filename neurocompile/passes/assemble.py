"""
Turn operations into populations of neurons and the synapses between them.

    u = d v + (1 - d) leak + g (sum_k W_k x_k + b_k)
      = d v + sum_k (g W_k) x_k + [ (1 - d) leak + g sum_k b_k ]

so the gain goes into the weights, and leak and biases become the neuron's own bias. A linear layer
that feeds an output becomes a read-out population, which receives and never fires.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import Problem, UnsupportedError, raise_all
from neurocompile.ir import (
    LIF,
    Conv2d,
    Dense,
    Flatten,
    Float,
    Input,
    Network,
    Output,
    Pool2d,
    Shape,
)
from neurocompile.populations import (
    InputPopulation,
    Population,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SynapseGroup,
)

SPIKES = InputRange(0.0, 1.0, 1.0)


def assemble(network: Network) -> PopulationNetwork:
    """
    Return the populations and synapses of `network`; nothing else is left afterwards.

    An input whose range is not known carries spikes. Raises `UnsupportedError` with everything that
    cannot become a population or a synapse group.
    """
    problems = [*_unsupported_nodes(network), *_unsupported_neurons(network)]
    raise_all(UnsupportedError, problems)
    populations: list[Population] = []
    synapses: list[SynapseGroup] = []
    outputs: list[str] = []
    for name, node in network.nodes.items():
        if isinstance(node, Input):
            populations.append(InputPopulation(name, node.shape, node.range or SPIKES))
        elif isinstance(node, LIF):
            groups, bias = _incoming(network, name, name, node.gain)
            populations.append(
                SpikingPopulation(
                    name,
                    network.shapes[name],
                    decay=float(node.decay.flat[0]),
                    threshold=float(node.threshold.flat[0]),
                    bias=_narrow(bias + (1 - node.decay) * node.leak),
                )
            )
            synapses += groups
        elif isinstance(node, Output):
            first = network.sources(name)[0]
            if isinstance(network.nodes[first], LIF):
                outputs.append(first)
                continue
            groups, bias = _incoming(network, name, first, np.ones(node.shape))
            populations.append(ReadoutPopulation(first, node.shape, _narrow(bias)))
            synapses += groups
            outputs.append(first)
    return PopulationNetwork(tuple(populations), tuple(synapses), tuple(outputs), network.steps)


def _incoming(
    network: Network, node: str, population: str, gain: Float
) -> tuple[list[SynapseGroup], Float]:
    """Return the synapses into `population`, which stands for `node`, and its bias (*shape)."""
    groups: list[SynapseGroup] = []
    bias = np.zeros(network.shapes[node])
    for linear in network.sources(node):
        operator = network.nodes[linear]
        if not isinstance(operator, Dense | Conv2d):
            identity = _identity(network.shapes[linear])
            groups.append(_group(f"{linear}>{population}", linear, population, identity, gain))
            continue
        own = operator.bias if isinstance(operator, Dense) else operator.bias[:, None, None]
        bias = bias + gain * own
        sources = network.sources(linear)
        unique = len(sources) == 1 and network.targets(linear) == (node,)
        for source in sources:
            name = linear if unique else f"{source}>{linear}>{population}"
            groups.append(_group(name, source, population, operator, gain))
    return groups, bias


def _group(
    name: str, source: str, target: str, operator: Dense | Conv2d, gain: Float
) -> SynapseGroup:
    per_row = gain if isinstance(operator, Dense) else gain[:, 0, 0]
    weight = operator.weight * per_row.reshape(-1, *[1] * (operator.weight.ndim - 1))
    bias = np.zeros_like(operator.bias)
    return SynapseGroup(name, source, target, replace(operator, weight=weight, bias=bias))


def _identity(shape: Shape) -> Dense | Conv2d:
    if len(shape) == 3:
        return Conv2d(np.ones((shape[0], 1, 1, 1)), np.zeros(shape[0]), groups=shape[0])
    size = int(np.prod(shape))
    return Dense(np.eye(size), np.zeros(size), input_shape=shape)


def _narrow(bias: Float) -> Float:
    """Return `bias` as (channels, 1, 1) where it is the same over a whole channel."""
    if bias.ndim == 3 and (bias == bias[:, :1, :1]).all():
        return bias[:, :1, :1]
    return bias


def _unsupported_nodes(network: Network) -> list[Problem]:
    problems: list[Problem] = []
    for name in network.of_type(Pool2d | Flatten):
        problems.append(
            Problem(
                name,
                "must be followed by a convolution or a dense layer only",
                f"it feeds {', '.join(network.targets(name))}",
            )
        )
    for name in network.of_type(Dense | Conv2d):
        for source in network.sources(name):
            if isinstance(network.nodes[source], Dense | Conv2d):
                problems.append(
                    Problem(
                        name,
                        "needs neurons or an input before it",
                        f"the linear layer '{source}' feeds it directly",
                        "multiply the two into one layer",
                    )
                )
    for name in network.of_type(Output):
        sources = network.sources(name)
        spiking = [source for source in sources if isinstance(network.nodes[source], LIF)]
        if any(isinstance(network.nodes[source], Input) for source in sources):
            problems.append(Problem(name, "needs a layer before it", "an input feeds it directly"))
        elif spiking and len(sources) > 1:
            problems.append(
                Problem(
                    name,
                    "can show one layer of spikes",
                    f"{len(sources)} layers feed it",
                    "give each its own output",
                )
            )
    for kind in (Input, Output):
        if len(network.of_type(kind)) > 1:
            problems.append(
                Problem(
                    "",
                    f"only one {kind.__name__.lower()} is supported yet",
                    f"there are {', '.join(network.of_type(kind))}",
                )
            )
    return problems


def _unsupported_neurons(network: Network) -> list[Problem]:
    problems: list[Problem] = []
    for name in network.of_type(LIF):
        node = network.nodes[name]
        assert isinstance(node, LIF)
        for field, values in (("leak factor", node.decay), ("threshold", node.threshold)):
            if values.size and (values != values.flat[0]).any():
                problems.append(
                    Problem(
                        name,
                        f"needs one {field} for all its neurons",
                        f"there are {len(np.unique(values))} different ones",
                        "split it into layers of equal neurons",
                    )
                )
        if (node.threshold <= 0).any():
            problems.append(
                Problem(name, "needs a threshold above 0", f"it is {node.threshold.min():g}")
            )
        if ((node.decay < 0) | (node.decay > 1)).any():
            problems.append(
                Problem(
                    name, "needs a leak factor between 0 and 1", f"it is {_extreme(node.decay):g}"
                )
            )
        if node.reset != "zero" or node.reset_to.any():
            problems.append(
                Problem(
                    name,
                    "needs a reset to zero",
                    "it subtracts the threshold"
                    if node.reset == "subtract"
                    else f"it resets to {_extreme(node.reset_to):g}",
                    "train with a hard reset to 0, or check --reset",
                )
            )
        by_channel = any(not isinstance(network.nodes[s], Dense) for s in network.sources(name))
        if by_channel and node.gain.ndim == 3 and (node.gain != node.gain[:, :1, :1]).any():
            problems.append(
                Problem(name, "needs one input gain per channel", "it differs inside a channel")
            )
    return problems


def _extreme(values: NDArray[Any]) -> float:
    return float(values.flat[int(np.abs(values - 0.5).argmax())])
