"""
Turn max pooling of spikes into neurons that say OR.

    max of a window of 0s and 1s  =  1 if their sum is above 0

so a max pool is a sum pool and a layer of memoryless neurons with threshold 0: exact for spikes, and for
nothing else. The padding of a max pool never wins, and zeros never make a sum positive.
"""

from __future__ import annotations

import numpy as np

from neurocompile.errors import Problem, UnsupportedError, raise_all
from neurocompile.ir import (
    LIF,
    Delay,
    Flatten,
    Input,
    MaxPool2d,
    Network,
    Node,
    Pool2d,
    Reshape,
    Spiking,
    Threshold,
)
from neurocompile.names import free_name


def lower_max_pooling(network: Network) -> Network:
    """
    Return `network` without `MaxPool2d` nodes; the neurons keep the pool's name.

    Raises `UnsupportedError` naming every max pool of anything but plain spikes.
    """
    names = network.of_type(MaxPool2d)
    raise_all(
        UnsupportedError,
        [
            Problem(
                name,
                "needs spikes, 0 or 1, to take the largest of",
                "it gets "
                + ("a sum of layers" if len(network.sources(name)) > 1 else "other values"),
                "pool each layer of spikes before they are added, or use average pooling",
            )
            for name in names
            if not _gets_spikes(network, name)
        ],
    )
    nodes: dict[str, Node] = dict(network.nodes)
    edges = list(network.edges)
    feedback = set(network.feedback)
    for name in names:
        pool = nodes[name]
        assert isinstance(pool, MaxPool2d)
        inner = free_name(nodes, f"{name}.sum")
        nodes[inner] = Pool2d(pool.kernel, pool.stride, pool.padding)
        nodes[name] = Threshold(np.zeros(network.shapes[name]))
        edges = [(source, inner if target == name else target) for source, target in edges]
        edges.append((inner, name))
        feedback = {(source, inner if target == name else target) for source, target in feedback}
    return Network(nodes, tuple(edges), network.steps, frozenset(feedback), network.weight_unit)


def _gets_spikes(network: Network, name: str) -> bool:
    sources = network.sources(name)
    if len(sources) != 1:
        return False
    node = network.nodes[sources[0]]
    if isinstance(node, Flatten | Reshape | Delay):
        return _gets_spikes(network, sources[0])
    if isinstance(node, Input):
        values = node.range
        return values is None or (values.minimum, values.maximum, values.step) == (0, 1, 1)
    if isinstance(node, LIF) and node.most_spikes != 1:
        return False
    return isinstance(node, Spiking | MaxPool2d)
