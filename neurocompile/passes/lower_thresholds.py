"""
Turn memoryless neurons into LIF neurons that forget everything.

    a = 1 if I > V      is      u = 0 v + I,   a = 1 if u > V

A threshold below 0 becomes a bias, since the chip has none: I > V is I - V > 0 (and exactly so in floating
point: a difference is 0 only if both sides are equal).
"""

from __future__ import annotations

import numpy as np

from neurocompile.ir import LIF, Network, Node, Threshold


def lower_thresholds(network: Network) -> Network:
    """Return `network` without `Threshold` nodes."""
    nodes: dict[str, Node] = dict(network.nodes)
    for name in network.of_type(Threshold):
        node = nodes[name]
        assert isinstance(node, Threshold)
        zeros = np.zeros(node.shape)
        negative = node.threshold < 0
        nodes[name] = LIF(
            decay=zeros,
            gain=np.ones(node.shape),
            leak=np.where(negative, -node.threshold, 0),
            threshold=np.where(negative, 0, node.threshold),
            reset_to=zeros,
            origin=np.where(negative, node.threshold, 0),
            comparison=node.comparison,
        )
    return network.replaced(nodes)
