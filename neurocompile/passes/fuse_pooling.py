"""
Move average and sum pooling into the synapses that follow.

A pool of kernel k, stride s, padding p and factor f, then a convolution of kernel K, stride S,
padding P and dilation D, read the input at

    x[(o S - P + i D) s - p + a] = x[o (S s) - (P s + p) + (i D s + a)],   i < K, a < k

so together they are one convolution of kernel (K - 1) D s + k, stride S s and padding P s + p, with
`f W[i]` added at every tap `i D s + a`. Before a dense layer each column is spread over its window.
The chip has no pooling and needs none: no neuron, no step of latency.

One case is not equal: where the convolution pads (P > 0), its padding stands for pools that the
merged kernel would fill with real pixels, if windows overlap (k > s + p) or pixels are left over at
the far edge. Such a pool is refused rather than changed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neurocompile.errors import Problem, UnsupportedError, raise_all
from neurocompile.ir import Conv2d, Dense, Network, Node, Pool2d, Shape


def fuse_pooling(network: Network) -> Network:
    """
    Return `network` without `Pool2d` nodes.

    A pool in front of anything but convolutions and dense layers becomes a depthwise convolution.
    Raises `UnsupportedError` for pools that cannot be merged exactly, all at once.
    """
    problems: list[Problem] = []
    for name in reversed(network.of_type(Pool2d)):
        pool = network.nodes[name]
        assert isinstance(pool, Pool2d)
        (shape,) = {network.shapes[source] for source in network.sources(name)}
        targets = network.targets(name)
        linear = all(isinstance(network.nodes[target], Conv2d | Dense) for target in targets)
        alone = all(network.sources(target) == (name,) for target in targets)
        nodes: dict[str, Node] = dict(network.nodes)
        if not (linear and alone):
            nodes[name] = _as_convolution(pool, shape[0])
            network = Network(nodes, network.edges, network.steps)
            continue
        for target in targets:
            merged = nodes[target]
            if isinstance(merged, Dense):
                nodes[target] = _into_dense(pool, merged, shape)
            elif isinstance(merged, Conv2d):
                problems += _not_exact(name, pool, target, merged, shape)
                nodes[target] = _into_convolution(pool, merged)
        del nodes[name]
        edges = [edge for edge in network.edges if name not in edge]
        edges += [(source, target) for source in network.sources(name) for target in targets]
        if problems:
            break
        network = Network(nodes, tuple(edges), network.steps)
    raise_all(UnsupportedError, problems)
    return network


def _as_convolution(pool: Pool2d, channels: int) -> Conv2d:
    weight = np.full((channels, 1, *pool.kernel), pool.scale)
    return Conv2d(weight, np.zeros(channels), pool.stride, pool.padding, groups=channels)


def _into_convolution(pool: Pool2d, conv: Conv2d) -> Conv2d:
    taps = conv.weight.shape[2:]
    spacing = tuple(d * s for d, s in zip(conv.dilation, pool.stride, strict=True))
    reach = tuple(
        (tap - 1) * space + kernel
        for tap, space, kernel in zip(taps, spacing, pool.kernel, strict=True)
    )
    weight = np.zeros((*conv.weight.shape[:2], *reach))
    for row in range(taps[0]):
        for column in range(taps[1]):
            top, left = row * spacing[0], column * spacing[1]
            window = weight[:, :, top : top + pool.kernel[0], left : left + pool.kernel[1]]
            window += conv.weight[:, :, row, column, np.newaxis, np.newaxis] * pool.scale
    return replace(
        conv,
        weight=weight,
        stride=(conv.stride[0] * pool.stride[0], conv.stride[1] * pool.stride[1]),
        padding=(
            conv.padding[0] * pool.stride[0] + pool.padding[0],
            conv.padding[1] * pool.stride[1] + pool.padding[1],
        ),
        dilation=(1, 1),
    )


def _into_dense(pool: Pool2d, dense: Dense, shape: Shape) -> Dense:
    channels, height, width = shape
    _, rows, columns = dense.input_shape
    before = dense.weight.reshape(-1, channels, rows, columns)
    padded = np.zeros(
        (len(before), channels, height + 2 * pool.padding[0], width + 2 * pool.padding[1])
    )
    for row in range(rows):
        for column in range(columns):
            top, left = row * pool.stride[0], column * pool.stride[1]
            window = padded[:, :, top : top + pool.kernel[0], left : left + pool.kernel[1]]
            window += before[:, :, row, column, np.newaxis, np.newaxis] * pool.scale
    inside = padded[
        :, :, pool.padding[0] : pool.padding[0] + height, pool.padding[1] : pool.padding[1] + width
    ]
    return replace(dense, weight=inside.reshape(len(before), -1), input_shape=shape)


def _not_exact(name: str, pool: Pool2d, target: str, conv: Conv2d, shape: Shape) -> list[Problem]:
    for size, kernel, stride, padding, conv_padding in zip(
        shape[1:], pool.kernel, pool.stride, pool.padding, conv.padding, strict=True
    ):
        if conv_padding == 0:
            continue
        pools = (size + 2 * padding - kernel) // stride + 1
        overlap = kernel > stride + padding
        left_over = pools * stride - padding < size
        if overlap or left_over:
            why = "its windows overlap" if overlap else f"{size} pixels leave a rest"
            return [
                Problem(
                    name,
                    f"cannot be merged exactly into '{target}', which pads by {conv_padding}",
                    why,
                    "use a pool without overlap that divides its input, or no padding",
                )
            ]
    return []
