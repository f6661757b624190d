"""
What a float network means: its equations in float64, one step after the other, in numpy.

This is the float side of every comparison. It is written to be read; it needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from neurocompile.data import Inputs, by_input, sample_count
from neurocompile.integer import Comparison, image_shape
from neurocompile.ir import (
    LIF,
    Conv2d,
    Delay,
    Dense,
    Flatten,
    Float,
    Input,
    Integrator,
    MaxPool2d,
    Network,
    Node,
    Output,
    Pool2d,
    Reshape,
    Scale,
    Spiking,
    Threshold,
    output_shape,
)

SAMPLES_AT_ONCE = 64

WINDOWS: Callable[..., Float] = sliding_window_view  # numpy 1 types its axis as one number


@dataclass(frozen=True)
class Trace:
    """
    What a network did: by output and by layer, arrays (samples, steps, *shape).

    `spikes` are 0 or 1, or the number of spikes in one step. `membrane` is the membrane as it was compared with the threshold, before
    any reset, in the units of the network that ran.
    """

    outputs: Mapping[str, NDArray[np.float64]]
    spikes: Mapping[str, NDArray[Any]]
    membrane: Mapping[str, NDArray[np.float64]]

    @property
    def output(self) -> NDArray[np.float64]:
        """The only output, of a network that has one."""
        (only,) = self.outputs.values()
        return only


def simulate(
    network: Network,
    inputs: Inputs,
    *,
    membranes: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """
    Run `network` on `inputs`, (samples, steps, *input shape) or one such array per input, by name.

    `progress` is called with the number of samples done, and of all.
    """
    named = by_input(inputs, network.of_type(Input))
    samples = sample_count(inputs)
    parts: list[Trace] = []
    for start in range(0, samples, SAMPLES_AT_ONCE):
        stop = min(samples, start + SAMPLES_AT_ONCE)
        part = {name: values[start:stop].astype(np.float64) for name, values in named.items()}
        parts.append(_simulate(network, part, membranes))
        if progress:
            progress(stop, samples)
    return joined(parts)


def joined(parts: Sequence[Trace]) -> Trace:
    """Return the traces of some samples each as that of all."""
    return Trace(
        *(
            {
                name: np.concatenate([getattr(part, field)[name] for part in parts])
                for name in getattr(parts[0], field)
            }
            for field in ("outputs", "spikes", "membrane")
        )
    )


def fired(
    membrane: Float, threshold: Float, comparison: Comparison, most_spikes: int | None
) -> Float:
    """Return how many spikes neurons fire at `membrane`: 0 or 1, or up to `most_spikes` (None: any)."""
    if most_spikes == 1:
        above = membrane >= threshold if comparison == ">=" else membrane > threshold
        return above.astype(np.float64)
    fits = membrane / threshold
    count: Float = np.floor(fits) if comparison == ">=" else np.ceil(fits) - 1
    return np.clip(count, 0, most_spikes)


def spike_type(most_spikes: int | None) -> type[np.unsignedinteger[Any]]:
    """Return the type in which traces keep spikes."""
    return np.uint8 if most_spikes == 1 else np.uint32


class MembraneState:
    """i and v of neurons, (samples, *shape), how long they still rest, and the step that all make."""

    def __init__(self, node: LIF | Integrator, samples: int) -> None:
        self.node = node
        self.current: Float = np.zeros((samples, *node.shape))
        start = node.start if isinstance(node, LIF) and node.start is not None else 0.0
        self.membrane: Float = np.broadcast_to(start, (samples, *node.shape)).astype(np.float64)
        self.resting = np.zeros((samples, *node.shape), np.int64)

    def step(self, arriving: Float) -> tuple[Float, Float]:
        """Return the spikes (none of an integrator) and the membrane before the reset."""
        node = self.node
        if node.current_decay is not None:
            self.current = node.current_decay * self.current + arriving
        else:
            self.current = arriving
        membrane = (
            node.decay * self.membrane + (1 - node.decay) * node.leak + node.gain * self.current
        )
        if isinstance(node, Integrator):
            self.membrane = membrane
            return np.zeros_like(membrane), membrane
        if node.floor is not None:
            membrane = np.maximum(membrane, node.floor)
        if node.refractory:
            membrane = np.where(self.resting > 0, node.reset_to, membrane)
        spikes = fired(membrane, node.threshold, node.comparison, node.most_spikes)
        if node.refractory:
            spikes = np.where(self.resting > 0, 0.0, spikes)
            self.resting = np.where(spikes > 0, node.refractory, np.maximum(self.resting - 1, 0))
        if node.reset == "zero":
            self.membrane = np.where(spikes > 0, node.reset_to, membrane)
        else:
            self.membrane = membrane - node.taken * spikes
        return spikes, membrane


def most_of(network: Network, name: str) -> int | None:
    """Return how many spikes a neuron of a spiking node can fire in one step (None: any number)."""
    node = network.nodes[name]
    return node.most_spikes if isinstance(node, LIF) else 1


def _simulate(network: Network, inputs: Mapping[str, Float], membranes: bool) -> Trace:
    samples, steps = next(iter(inputs.values())).shape[:2]
    states = {
        name: MembraneState(node, samples)
        for name, node in network.nodes.items()
        if isinstance(node, LIF | Integrator)
    }
    layers = network.of_type(Spiking)
    spikes = {
        name: np.zeros((samples, steps, *network.shapes[name]), spike_type(most_of(network, name)))
        for name in layers
    }
    traces = {
        name: np.zeros((samples, steps, *network.shapes[name])) for name in layers if membranes
    }
    outputs = {
        name: np.zeros((samples, steps, *network.shapes[name])) for name in network.of_type(Output)
    }
    previous = {
        source: np.zeros((samples, *network.shapes[source])) for source, _ in network.feedback
    }
    # What is later than the sample is long never comes, and needs no memory.
    delays = {
        name: np.minimum(node.steps, steps)
        for name, node in network.nodes.items()
        if isinstance(node, Delay)
    }
    late = {
        name: np.zeros((int(delay.max(initial=0)) + 1, samples, *network.shapes[name]))
        for name, delay in delays.items()
    }
    for step in range(steps):
        values: dict[str, Float] = {}
        for name, node in network.nodes.items():
            if isinstance(node, Input):
                values[name] = inputs[name][:, step]
                continue
            total = sum(
                (
                    previous[source] if (source, name) in network.feedback else values[source]
                    for source in network.sources(name)
                ),
                np.zeros(()),
            )
            if isinstance(node, LIF | Integrator):
                spiked, membrane = states[name].step(total)
                values[name] = spiked if isinstance(node, LIF) else membrane
            elif isinstance(node, Threshold):
                membrane = total
                values[name] = fired(total, node.threshold, node.comparison, 1)
            elif isinstance(node, Delay):
                late[name] = np.concatenate([total[np.newaxis], late[name][:-1]])
                values[name] = delayed(late[name], delays[name])
            else:
                values[name] = apply_stateless(node, total)
            if name in spikes:
                spikes[name][:, step] = values[name]
            if name in traces:
                traces[name][:, step] = membrane
            if name in outputs:
                outputs[name][:, step] = values[name]
        previous = {name: values[name] for name in previous}
    return Trace(outputs, spikes, traces)


def delayed(history: NDArray[Any], steps: NDArray[np.int64]) -> NDArray[Any]:
    """Return each element of `history` (steps ago, samples, *shape) as many `steps` ago as asked."""
    if steps.ndim == 0:
        return np.asarray(history[int(steps)])
    chosen = np.broadcast_to(steps, history.shape[1:])[np.newaxis]
    return np.asarray(np.take_along_axis(history, chosen, 0)[0])


def apply_stateless(node: Node, x: Float) -> Float:
    """Return what a node without state makes of `x` (samples, *shape)."""
    match node:
        case Dense():
            product: Float = x.reshape(len(x), -1) @ node.weight.T
            return product + node.bias
        case Conv2d():
            image = x.reshape(len(x), *image_shape(x.shape[1:]))
            result = convolve(image, node.weight, node) + node.bias[:, np.newaxis, np.newaxis]
            return result.reshape(len(x), *output_shape(node, x.shape[1:]))
        case Pool2d():
            sums: Float = windows(x, node.kernel, node.stride, node.padding).sum((4, 5))
            return sums * node.scale
        case MaxPool2d():
            pads = ((0, 0), (0, 0), *((amount, amount) for amount in node.padding))
            padded = np.pad(x, pads, constant_values=-np.inf)
            largest: Float = windows(padded, node.kernel, node.stride, (0, 0)).max((4, 5))
            return largest
        case Scale():
            scaled: Float = x * node.scale
            return scaled
        case Flatten() | Reshape():
            return x.reshape(len(x), *output_shape(node, x.shape[1:]))
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
