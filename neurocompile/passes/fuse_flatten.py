"""
Remove a flatten by telling the dense layer behind it which shape it reads.

    W vec(x) is W on x itself, if W's columns are numbered in the C order of x's shape

so a reshape costs nothing on the chip, and the channel order stays known until a target lays its
neurons out differently.
"""

from __future__ import annotations

from dataclasses import replace

from neurocompile.ir import Dense, Flatten, Network, Node


def fuse_flatten(network: Network) -> Network:
    """
    Return `network` without the `Flatten` nodes that feed dense layers only.

    A flatten that feeds anything else is left alone.
    """
    nodes: dict[str, Node] = dict(network.nodes)
    edges = list(network.edges)
    for name in network.of_type(Flatten):
        targets = [target for source, target in edges if source == name]
        sources = [source for source, target in edges if target == name]
        if not all(isinstance(nodes[target], Dense) for target in targets):
            continue
        others = {s for s, target in edges if target in targets and s != name}
        if others:
            continue
        for target in targets:
            dense = nodes[target]
            assert isinstance(dense, Dense)
            nodes[target] = replace(dense, input_shape=network.shapes[sources[0]])
        edges = [edge for edge in edges if name not in edge]
        edges += [(source, target) for source in sources for target in targets]
        del nodes[name]
    return Network(nodes, tuple(edges), network.steps)
