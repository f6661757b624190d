"""
Move the reset voltage to zero, where the chip's is.

With w = v - r for a neuron that resets to r,

    u = d v + (1 - d) leak + g i        becomes        u - r = d w + (1 - d) (leak - r) + g i

so threshold, leak, floor and starting value shrink by r, and the reset is to zero. The membrane starts at 0 - r
then, not at 0: `start` keeps that, and costs one pulse at the first step of a sample.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neurocompile.ir import LIF, Network, Node


def shift_resets(network: Network) -> Network:
    """Return `network` in which every LIF resets to zero, or subtracts its threshold."""
    nodes: dict[str, Node] = dict(network.nodes)
    for name in network.of_type(LIF):
        node = nodes[name]
        assert isinstance(node, LIF)
        if not node.reset_to.any():
            continue
        zeros = np.zeros(node.shape)
        if node.reset == "subtract":
            nodes[name] = replace(node, reset_to=zeros)  # it is never reset to anything
            continue
        start = zeros if node.start is None else node.start
        origin = zeros if node.origin is None else node.origin
        nodes[name] = replace(
            node,
            leak=node.leak - node.reset_to,
            threshold=node.threshold - node.reset_to,
            reset_to=zeros,
            start=start - node.reset_to,
            floor=None if node.floor is None else node.floor - node.reset_to,
            origin=origin + node.reset_to,
        )
    return network.replaced(nodes)
