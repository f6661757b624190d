"""
The fields of `.net` layers besides their neurons: shapes, weights, biases, windows and delays.

Each function returns what it read, or None after noting what is wrong with it. Weights are what Loihi's
synapses hold: even numbers from -256 to 254, or any from 0 to 255 where none is negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from neurocompile.frontend.read_netx import Found, Integers, LayerFields
from neurocompile.integer import Shape

LEAST_WEIGHT, MOST_WEIGHT = -256, 254
MOST_EXCITATORY = 255
LARGEST_POPULATION = 1 << 22  # neurons in a layer, four chips full of them
LARGEST_UNROLLED = 1 << 27  # weights, once they are written out for each delay or channel
COMPLEX = "those of resonate-and-fire neurons"


def read_shape(layer: LayerFields) -> Shape | None:
    """Return the shape that a layer declares; (n, 1, 1) of a vector stays as it is."""
    values = layer.integers("shape", axes=(0, 1), least=1)
    if values is None:
        return None
    shape = tuple(int(extent) for extent in values.ravel())
    if len(shape) > 3:
        layer.damaged("needs a shape of at most 3 axes", f"it is {shape}")
        return None
    return shape if check_size(layer, shape) else None


def check_size(layer: LayerFields, shape: Shape) -> bool:
    """Return whether a population of `shape` is small enough."""
    if math.prod(shape) > LARGEST_POPULATION:
        layer.unsupported(f"needs at most {LARGEST_POPULATION} neurons", f"its shape is {shape}")
        return False
    return True


def declared_shape(layer: LayerFields) -> Shape | None:
    """Return the shape that a layer with problems would leave behind, without noting more of them."""
    found: list[Found] = []
    shape = read_shape(LayerFields(layer.name, layer.values, found))
    kind = str(layer.values.get("type"))
    flat = "dense" in kind or "flatten" in kind
    return (math.prod(shape),) if shape and flat else shape


def read_matrix(layer: LayerFields, key: str, declared: Shape | None) -> Integers | None:
    """Return dense weights (out, in), which may be stored as a vector."""
    if not _is_real(layer, key):
        return None
    weight = layer.integers(key, axes=(1, 2))
    if weight is None or declared is None:
        return None
    if weight.ndim == 1:
        outputs = math.prod(declared)
        if weight.size % outputs:
            layer.damaged(f"needs '{key}' for {outputs} outputs", f"it has {weight.size} numbers")
            return None
        weight = weight.reshape(outputs, -1)
    _check_weights(layer, key, weight)
    return weight


def read_kernels(layer: LayerFields) -> Integers | None:
    """Return kernels (out channels, in channels / groups, height, width)."""
    if not _is_real(layer, "weight"):
        return None
    weight = layer.integers("weight", axes=(4, 5))
    if weight is None:
        return None
    if weight.ndim == 5:
        if weight.shape[4] != 1:
            layer.damaged(
                "needs kernels of one step in time", f"they have the shape {weight.shape}"
            )
            return None
        weight = weight[..., 0]
    if "kernelSize" in layer:
        size = layer.sizes("kernelSize", 2, least=1)
        if size is not None and size != weight.shape[2:]:
            layer.damaged(f"has kernels of size {weight.shape[2:]}", f"'kernelSize' says {size}")
    _check_weights(layer, "weight", weight)
    return weight


def _is_real(layer: LayerFields, key: str) -> bool:
    if isinstance(layer.values.get(key), Mapping):
        layer.unsupported(f"has complex numbers in '{key}'", COMPLEX)
        return False
    return True


def _check_weights(layer: LayerFields, key: str, weight: Integers) -> None:
    least, most = int(weight.min()), int(weight.max())
    if least < LEAST_WEIGHT or most > (MOST_EXCITATORY if least >= 0 else MOST_WEIGHT):
        layer.damaged(
            f"needs '{key}' from {LEAST_WEIGHT} to {MOST_WEIGHT}, or from 0 to {MOST_EXCITATORY}",
            f"they reach from {least} to {most}",
        )
    elif least < 0 and (weight % 2).any():
        layer.damaged(
            f"needs '{key}' to be even where some are negative",
            f"{int((weight % 2).sum())} are odd",
            "quantise to steps of 2, as slayer does",
        )


def check_windows(
    layer: LayerFields, shape: Shape, kernels: Integers, padding: tuple[int, int]
) -> bool:
    """Return whether the padded images and the kernels of a layer that gets `shape` fit in memory."""
    if len(shape) != 3:
        return True  # which is refused for itself
    padded = shape[0] * math.prod(
        extent + 2 * margin for extent, margin in zip(shape[1:], padding, strict=True)
    )
    if padded > LARGEST_POPULATION:
        layer.unsupported(
            f"needs images of at most {LARGEST_POPULATION} values with their padding",
            f"those of {shape} have {padded}",
        )
        return False
    if kernels.size > LARGEST_UNROLLED:
        layer.unsupported(
            f"needs kernels of at most {LARGEST_UNROLLED} weights",
            f"they have {kernels.size} for all channels",
        )
        return False
    return True


def read_bias(layer: LayerFields, channels: int) -> Integers | None:
    """Return one bias for each output channel, zeros if the layer has none."""
    if "bias" not in layer:
        return np.zeros(channels, np.int64)
    bias = layer.integers("bias")
    if bias is not None and bias.size not in (1, channels):
        layer.damaged(f"needs {channels} biases", f"there are {bias.size}")
        return None
    return None if bias is None else np.broadcast_to(bias.ravel(), (channels,))


def read_windows(
    layer: LayerFields,
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None:
    """Return stride, padding and dilation, (height, width) each."""
    pairs = [
        layer.sizes(key, 2, least=least)
        for key, least in (("stride", 1), ("padding", 0), ("dilation", 1))
    ]
    if None in pairs:
        return None
    stride, padding, dilation = ((pair[0], pair[1]) for pair in pairs if pair is not None)
    return stride, padding, dilation


def read_delays(layer: LayerFields, outputs: int, inputs: int) -> tuple[Integers, Integers]:
    """
    Return the delays of a dense layer, zeros where there are none or a problem.

    First those of what arrives, (), (in,) or (out, in), then those of the layer's spikes, () or (out,).
    """
    none = np.array(0)
    delay = layer.integers("delay", axes=(0, 1, 2), least=0) if "delay" in layer else none
    if delay is None:
        return none, none
    if delay.shape == (outputs,):
        return none, delay
    if (delay == delay.flat[0]).all():
        return np.array(delay.flat[0]), none
    if delay.shape not in ((inputs,), (outputs, inputs)):
        layer.damaged(
            f"needs delays of shape ({outputs},), ({inputs},) or ({outputs}, {inputs})",
            f"they have the shape {delay.shape}",
        )
        return none, none
    if delay.ndim == 2:
        different = len(np.unique(delay))
        if different * delay.size > LARGEST_UNROLLED:  # each delay has weights of its own
            layer.unsupported(
                f"needs at most {LARGEST_UNROLLED // delay.size} different delays of its"
                f" {delay.size} synapses",
                f"there are {different}",
            )
            return none, none
    return delay, none


def read_channel_delays(layer: LayerFields, shape: Shape) -> Integers:
    """Return the delays of a convolution's spikes, () or *shape; the file has one for each channel."""
    delay = layer.integers("delay", axes=(0, 1), least=0) if "delay" in layer else np.array(0)
    if delay is None or not delay.any():
        return np.array(0)
    if delay.size not in (1, shape[0]):
        layer.damaged(f"needs {shape[0]} delays", f"there are {delay.size}")
        return np.array(0)
    return np.broadcast_to(delay.reshape(-1, 1, 1), shape)
