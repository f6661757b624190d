"""What the values in a float network can be at most, by interval arithmetic from its inputs on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from neurocompile.data import InputRange
from neurocompile.ir import (
    LIF,
    Conv2d,
    Delay,
    Dense,
    Float,
    Input,
    Integrator,
    Network,
    Node,
    Threshold,
)
from neurocompile.reference import apply_stateless

SPIKES = InputRange(0, 1, 1)


@dataclass
class ValueBounds:
    """The least and the most that each node of `network` can show, as arrays of its shape."""

    network: Network
    known: dict[str, tuple[Float, Float]] = field(default_factory=dict)

    def into(self, name: str) -> tuple[Float, Float]:
        """Return the bounds of the sum that arrives at a node."""
        pairs = [self.of(source) for source in self.network.sources(name)]
        least, most = (np.sum(np.stack(ends), axis=0) for ends in zip(*pairs, strict=True))
        return least, most

    def of(self, name: str) -> tuple[Float, Float]:
        """Return the bounds of what a node shows."""
        if name not in self.known:
            self.known[name] = self._bounds(name, self.network.nodes[name])
        return self.known[name]

    def _bounds(self, name: str, node: Node) -> tuple[Float, Float]:
        shape = self.network.shapes[name]
        match node:
            case Input():
                limits = node.range or SPIKES
                return np.full(shape, limits.minimum), np.full(shape, limits.maximum)
            case LIF() | Threshold():  # cycles end here
                limit = node.most_spikes if isinstance(node, LIF) else 1
                return np.zeros(shape), np.full(shape, np.inf if limit is None else float(limit))
            case Integrator():
                return np.full(shape, -np.inf), np.full(shape, np.inf)
        least, most = self.into(name)
        match node:
            case Dense() | Conv2d():
                if not (np.isfinite(least).all() and np.isfinite(most).all()):
                    return np.full(shape, -np.inf), np.full(shape, np.inf)
                rising = replace(node, weight=np.maximum(node.weight, 0))
                falling = replace(
                    node, weight=np.minimum(node.weight, 0), bias=np.zeros_like(node.bias)
                )
                return (
                    _applied(rising, least) + _applied(falling, most),
                    _applied(rising, most) + _applied(falling, least),
                )
            case Delay():  # 0 before the first
                return np.minimum(least, 0), np.maximum(most, 0)
        ends = _applied(node, least), _applied(node, most)  # a factor below 0 swaps them
        return np.minimum(*ends), np.maximum(*ends)


def _applied(node: Node, x: Float) -> Float:
    result: Float = apply_stateless(node, x[np.newaxis])[0]
    return result
