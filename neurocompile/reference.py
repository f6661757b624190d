"""
What a float `Network` means: its equations in float64, one step after the other, in numpy.

This is the float side of every comparison. It is written to be read; it needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from neurocompile.ir import LIF, Conv2d, Dense, Flatten, Float, Input, Network, Node, Output, Pool2d

SAMPLES_AT_ONCE = 64

WINDOWS: Callable[..., Float] = sliding_window_view  # numpy 1 types its axis as one number


@dataclass(frozen=True)
class Trace:
    """
    What a network did: `output` (samples, steps, *shape) and, by layer, spikes and membranes.

    `spikes` are 0 or 1. `membrane` is the membrane as it was compared with the threshold, before
    any reset, in the units of the network that ran.
    """

    output: NDArray[np.float64]
    spikes: Mapping[str, NDArray[np.uint8]]
    membrane: Mapping[str, NDArray[np.float64]]


def simulate(
    network: Network,
    inputs: NDArray[np.floating[Any]],
    *,
    membranes: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """
    Run `network` on `inputs` (samples, steps, *input shape) and return all it did.

    `progress` is called with the number of samples done, and of all. Only networks with one input and one
    output are simulated.
    """
    parts: list[Trace] = []
    for start in range(0, len(inputs), SAMPLES_AT_ONCE):
        part = inputs[start : start + SAMPLES_AT_ONCE]
        parts.append(_simulate(network, part.astype(np.float64), membranes))
        if progress:
            progress(start + len(part), len(inputs))
    return Trace(
        output=np.concatenate([part.output for part in parts]),
        spikes={
            name: np.concatenate([part.spikes[name] for part in parts]) for name in parts[0].spikes
        },
        membrane={
            name: np.concatenate([part.membrane[name] for part in parts])
            for name in parts[0].membrane
        },
    )


def _simulate(network: Network, inputs: Float, membranes: bool) -> Trace:
    samples, steps = inputs.shape[:2]
    neurons = network.of_type(LIF)
    state = {name: np.zeros((samples, *network.shapes[name])) for name in neurons}
    spikes = {name: np.zeros((samples, steps, *network.shapes[name]), np.uint8) for name in neurons}
    traces = {name: np.zeros(array.shape) for name, array in spikes.items()} if membranes else {}
    (output_name,) = network.of_type(Output)
    output = np.zeros((samples, steps, *network.shapes[output_name]))
    for step in range(steps):
        values: dict[str, Float] = {}
        for name, node in network.nodes.items():
            if isinstance(node, Input):
                values[name] = inputs[:, step]
                continue
            total = sum((values[source] for source in network.sources(name)), np.zeros(()))
            if isinstance(node, LIF):
                membrane = (
                    node.decay * state[name] + (1 - node.decay) * node.leak + node.gain * total
                )
                fired = membrane > node.threshold
                if node.reset == "zero":
                    state[name] = np.where(fired, node.reset_to, membrane)
                else:
                    state[name] = membrane - node.threshold * fired
                spikes[name][:, step] = fired
                if membranes:
                    traces[name][:, step] = membrane
                values[name] = fired.astype(np.float64)
            else:
                values[name] = apply_stateless(node, total)
        output[:, step] = values[output_name]
    return Trace(output, spikes, traces)


def apply_stateless(node: Node, x: Float) -> Float:
    """Return what a node without state makes of `x` (samples, *shape)."""
    match node:
        case Dense():
            product: Float = x.reshape(len(x), -1) @ node.weight.T
            return product + node.bias
        case Conv2d():
            return convolve(x, node.weight, node) + node.bias[:, np.newaxis, np.newaxis]
        case Pool2d():
            sums: Float = windows(x, node.kernel, node.stride, node.padding).sum((4, 5))
            return sums * node.scale
        case Flatten():
            return x.reshape(len(x), -1)
        case _:
            return x


def windows(
    x: Float,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> Float:
    """Return the windows (samples, channels, out h, out w, kernel h, kernel w) of zero-padded `x`."""
    padded = np.pad(x, ((0, 0), (0, 0), *((amount, amount) for amount in padding)))
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    view = WINDOWS(padded, reach, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def convolve(x: Float, weight: Float, geometry: Conv2d) -> Float:
    """
    Return the cross-correlation of `x` (samples, channels, h, w) with `weight`, without a bias.

    A matrix product over all windows: on integers it is exact as long as every partial sum stays
    below 2^53.
    """
    kernel = (weight.shape[2], weight.shape[3])
    patches = windows(x, kernel, geometry.stride, geometry.padding, geometry.dilation)
    samples, _, height, width = patches.shape[:4]
    per_group_in = weight.shape[1]
    per_group_out = weight.shape[0] // geometry.groups
    result = np.empty((samples, weight.shape[0], height, width))
    for group in range(geometry.groups):
        columns = patches[:, group * per_group_in : (group + 1) * per_group_in]
        rows = weight[group * per_group_out : (group + 1) * per_group_out]
        flat = columns.transpose(0, 2, 3, 1, 4, 5).reshape(samples * height * width, -1)
        product = flat @ rows.reshape(per_group_out, -1).T
        result[:, group * per_group_out : (group + 1) * per_group_out] = product.reshape(
            samples, height, width, per_group_out
        ).transpose(0, 3, 1, 2)
    return result
