"""
Understand a `.net` file of lava-dl: which network is it?

The file holds the integers that Loihi computes with, layer by layer. It is read as what slayer, which
writes these files, computes, without the step by which each of its layers is later than the one before:

    u = (4096 - iDecay) / 4096 u + W x        v = (4096 - vDecay) / 4096 v + u + bias
    fire and reset to 0 where v > vThMant

A membrane stops where its 24 bits end, at -(2^23 - 1) / 64 weight units: that is part of what the chip
computes, and of the network.

One unit of `ir.Network` is one weight unit of the chip, so all of its numbers are the file's, and the
compiler keeps them. Images are (channels, height, width), flattened in this order, and kernels those of
PyTorch: netx, which loads the files, flips them because Lava flips them back.

    input       values from outside; with neurons, a weight a (64 if there is none) and a bias b each of
                them gets a x + b as its bias
    flatten     the image as a vector
    dense       W x; delays of the outputs' shape make the layer's spikes late, as slayer does (netx
                delays what arrives, which is the same where there is no bias), delays of the inputs'
                or the weights' shape what arrives
    dense_rec   the same, with weights for the layer's own spikes of the step before
    conv        a convolution; pool is one whose channels do not mix and share a kernel
    average     at the end, a mean over groups of neurons: left to the host

The last layer may never fire: it has no neurons (netx lets their current integrate), or a threshold
that no membrane reaches. Then the output is its membrane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import NetxFormatError, OptionError, Problem, UnsupportedError, raise_all
from neurocompile.frontend.from_nir import MOST_STEPS, Imported
from neurocompile.frontend.netx_layers import (
    check_size,
    check_windows,
    declared_shape,
    read_bias,
    read_channel_delays,
    read_delays,
    read_kernels,
    read_matrix,
    read_shape,
    read_windows,
)
from neurocompile.frontend.netx_neurons import Neurons, read_neurons
from neurocompile.frontend.read_netx import Found, Integers, LayerFields, NetxFile, read_netx
from neurocompile.integer import Comparison, Shape
from neurocompile.ir import (
    Conv2d,
    Delay,
    Dense,
    Edge,
    Flatten,
    Input,
    Network,
    Node,
    Output,
    Reshape,
    frozen_array,
    output_shape,
)

FIRES: Mapping[str, Comparison] = {"above": ">", "at": ">="}
NETX_LONGEST_DELAY = 62
INPUT_WEIGHT = 64  # of an input layer that names none: slayer's 1.0

OTHER_LAYERS = {
    "convT": "a transposed convolution",
    "unpool": "a pool backwards",
    "concat": "a join of several layers",
    "dense_comp": "complex weights, those of resonate-and-fire neurons",
}


def from_netx(source: Path | NetxFile, *, fires: str | None = None) -> Imported:
    """
    Return the network that a `.net` file means, in weight units of the chip.

    `fires` is "above" its thresholds, as the chip does (None), or "at" them as well, as slayer did before
    it made the difference.

    Raises `NetxFormatError` for files that contradict themselves or the format, `UnsupportedError` for
    layers and neurons of other kinds, with all reasons at once, and `OptionError` for another `fires`.
    """
    file = read_netx(source) if isinstance(source, Path) else source
    if fires not in (None, *FIRES):
        raise OptionError(
            Problem("", f"there is no fires '{fires}'", remedy=f"use {' or '.join(FIRES)}")
        )
    chain = _Chain(FIRES[fires or "above"])
    for number, fields in enumerate(file.layers):
        chain.add(
            LayerFields(str(number), fields, chain.found), last=number == len(file.layers) - 1
        )
    _raise_by_kind(chain.found)
    network = chain.network(_steps(file, chain.inferred))
    return Imported(network, {key: "; ".join(told) for key, told in chain.inferred.items()})


def _raise_by_kind(found: list[Found]) -> None:
    """Raise all problems in one error; a damaged file outweighs an unsupported one."""
    damaged = any(kind is NetxFormatError for kind, _ in found)
    raise_all(NetxFormatError if damaged else UnsupportedError, [problem for _, problem in found])


def _steps(file: NetxFile, inferred: dict[str, list[str]]) -> int | None:
    """Return how many steps a sample had in training, if the file says it."""
    found: list[Found] = []
    fields = LayerFields("simulation", file.simulation, found)
    length = fields.integer("tSample", least=1, default=0)
    unit = fields.integer("Ts", least=1, default=1)
    if found or not length or not unit or length % unit or length // unit > MOST_STEPS:
        return None
    inferred["steps"] = [f"{length // unit}, from the file's simulation"]
    return length // unit


@dataclass
class _Chain:
    """The layers so far: `tip` is the node that the next one follows, `shape` what it gives."""

    comparison: Comparison
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    feedback: set[Edge] = field(default_factory=set)
    tip: str = ""
    shape: Shape | None = None
    spiking: bool = False
    ended: bool = False
    last: bool = False
    found: list[Found] = field(default_factory=list)
    inferred: dict[str, list[str]] = field(
        default_factory=lambda: {
            "weights": ["the chip's integers, kept as they are"],
            "time": ["layer by layer, without the step that each layer takes on the chip"],
        }
    )

    def tell(self, key: str, what: str) -> None:
        self.inferred.setdefault(key, []).append(what)

    def network(self, steps: int | None) -> Network:
        if self.shape is None or not (self.spiking or self.ended):
            raise NetxFormatError(
                Problem("", "a network needs a layer of neurons", "there is none")
            )
        self._append("output", Output(self.shape))
        told = "above" if self.comparison == ">" else "at or above"
        self.tell("fires", f"{told} the threshold")
        if self.inferred.get("input") is None:
            self.tell("input", "spikes, 0 or 1, as the file names no range")
        return Network(
            self.nodes, tuple(self.edges), steps, frozenset(self.feedback), weight_unit=1.0
        )

    def add(self, layer: LayerFields, *, last: bool) -> None:
        """Add a layer; one with problems still says which shape follows it."""
        kind = layer.text("type")
        if kind is None:
            return
        if self.ended and kind != "average":
            layer.unsupported("must be the last that computes", "the layer before never fires")
            return
        reader = READERS.get(kind)
        if reader is None:
            what = OTHER_LAYERS.get(kind)
            layer.unsupported(
                f"is a '{kind}' layer",
                f"that is {what}" if what else "no such layer is known",
                f"supported are {', '.join(READERS)}",
            )
        else:
            self.last = last
            reader(self, layer)
        if layer.found:  # nothing is built any more, but what follows is still checked
            self.shape = declared_shape(layer) or self.shape
            self.spiking = True

    def _append(self, name: str, node: Node) -> None:
        self.nodes[name] = node
        if self.tip:
            self.edges.append((self.tip, name))
        self.tip = name

    # ---- what has no neurons

    def input(self, layer: LayerFields) -> None:
        if self.tip:
            layer.unsupported("must be the first layer to bring in values", "others are before it")
            return
        shape = read_shape(layer)
        if shape is None:
            return
        neurons = read_neurons(layer, shape, np.zeros(1, np.int64)) if "neuron" in layer else None
        weight = layer.integer("weight", default=INPUT_WEIGHT)
        bias = layer.integer("bias", default=0)
        self.shape = shape
        self._append("input", Input(shape))
        if neurons is None or weight is None or bias is None:
            return
        # What comes in is a bias, which does not go through the current.
        image = shape if len(shape) > 1 else (*shape, 1, 1)
        kernel = np.full((image[0], 1, 1, 1), weight)
        if image != shape:
            self._append(f"image{layer.name}", Reshape(image))
        self._append(
            f"scale{layer.name}",
            Conv2d(kernel, np.full(image[0], float(bias)), groups=image[0]),
        )
        if image != shape:
            self._append(f"vector{layer.name}", Reshape(shape))
        self._fire(layer, neurons.without_current())
        self.tell(
            "input", f"raw values x, which drive their neurons as a bias of {weight} x + {bias}"
        )

    def flatten(self, layer: LayerFields) -> None:
        declared = read_shape(layer) if "shape" in layer else None
        if self.shape is None:
            return  # the first weights say how many inputs there are
        size = math.prod(self.shape)
        if declared is not None and math.prod(declared) != size:
            layer.damaged(f"makes a vector of {math.prod(declared)}", f"gets {self.shape}")
        if len(self.shape) > 1 and self.tip:
            self._append(f"flatten{layer.name}", Flatten())
        self.shape = (size,)

    def average(self, layer: LayerFields) -> None:
        if not self.last:
            layer.unsupported("must be the last layer to be left to the host", "others follow")
            return
        declared = read_shape(layer)
        if declared is None or self.shape is None:
            return
        groups, size = math.prod(declared), math.prod(self.shape)
        if size % groups:
            layer.damaged(f"needs inputs in {groups} equal groups", f"there are {size}")
        self.tell(
            "average",
            f"left to the host: the output is the {size} neurons before it, of which each "
            f"{size // groups} in a row are one of its {groups} means",
        )

    # ---- what has neurons

    def dense(self, layer: LayerFields) -> None:
        self._dense(layer, recurrent=False)

    def dense_rec(self, layer: LayerFields) -> None:
        self._dense(layer, recurrent=True)

    def _dense(self, layer: LayerFields, *, recurrent: bool) -> None:
        declared = read_shape(layer)
        weight = read_matrix(layer, "weight", declared)
        own = read_matrix(layer, "weight_rec", declared) if recurrent else None
        if weight is None or declared is None or (recurrent and own is None):
            return
        outputs, inputs = weight.shape
        for what, told, count in (
            ("inFeatures", "inputs", inputs),
            ("outFeatures", "outputs", outputs),
        ):
            if what in layer and layer.integer(what, default=count) not in (None, count):
                layer.damaged(f"has weights for {count} {told}", f"'{what}' says something else")
        if math.prod(declared) != outputs:
            layer.damaged(f"has the shape {declared}", f"weights for {outputs} outputs")
        if own is not None and own.shape != (outputs, outputs):
            layer.damaged(
                f"needs 'weight_rec' of shape {(outputs, outputs)}", f"it has {own.shape}"
            )
        self._check_vector(layer, inputs)
        bias = read_bias(layer, outputs)
        neurons = read_neurons(layer, (outputs,), bias)
        early, late = read_delays(layer, outputs, inputs)
        if own is not None and neurons is not None and not neurons.fires:
            layer.unsupported("needs neurons that fire, to feed back their spikes")
        if layer.found or neurons is None or bias is None:
            return
        if not self.tip:
            self.shape = (inputs,)
            self._append("input", Input((inputs,)))
        self._weights(layer, weight, neurons.weight_bias, early)
        self._fire(layer, neurons)
        if own is not None:
            name, fired = f"recurrent{layer.name}", self.tip
            self.nodes[name] = Dense(frozen_array(own), np.zeros(outputs))
            self.edges += [(fired, name), (name, fired)]
            self.feedback.add((fired, name))
            self.tell("feedback", f"{fired} -> {name}, one step later")
            if early.any() or late.any():
                self.tell("netx", f"delays the feedback of layer {layer.name} as well")
        self._delay(layer, late)
        if late.any() and bias.any():
            told = (
                f"delays what reaches layer {layer.name}, not its spikes, which its bias drives too"
            )
            self.tell("netx", told)

    def _check_vector(self, layer: LayerFields, inputs: int) -> None:
        if self.shape is None:
            return
        if math.prod(self.shape) != inputs:
            layer.damaged(f"needs {inputs} inputs", f"gets {self.shape}")
        elif sum(extent > 1 for extent in self.shape) > 1:
            layer.damaged("needs a vector", f"gets {self.shape}", "put a 'flatten' layer before it")

    def _weights(
        self, layer: LayerFields, weight: Integers, bias: NDArray[np.float64], delay: Integers
    ) -> None:
        """Append dense weights behind delays of what arrives: (), (in,) or (out, in)."""
        assert self.shape is not None
        name, shape = f"dense{layer.name}", self.shape
        if delay.ndim < 2:
            if delay.any():
                self._append(
                    f"wait{layer.name}", Delay(delay.reshape(shape) if delay.ndim else delay)
                )
            self._append(name, Dense(frozen_array(weight), bias, shape))
            return
        fork, joined = self.tip, f"sum{layer.name}"
        for steps in np.unique(delay):
            here = np.where(delay == steps, weight, 0)
            self.tip = fork
            if steps:
                self._append(f"wait{layer.name}.{steps}", Delay(np.array(steps)))
            self._append(f"{name}.{steps}", Dense(frozen_array(here), bias, shape))
            self.edges.append((self.tip, joined))
            bias = np.zeros_like(bias)  # it is there once
        self.nodes[joined] = Reshape((len(weight),))
        self.tip = joined

    def conv(self, layer: LayerFields) -> None:
        kernels = read_kernels(layer)
        groups = layer.integer("groups", least=1, default=1)
        windows = read_windows(layer)
        if kernels is None or groups is None or windows is None:
            return
        channels = kernels.shape[1] * groups
        for what, count in (("inChannels", channels), ("outChannels", len(kernels))):
            if what in layer and layer.integer(what, default=count) not in (None, count):
                layer.damaged(f"has kernels for {count} channels", f"'{what}' says something else")
        if len(kernels) % groups:
            layer.damaged(f"needs output channels in {groups} groups", f"there are {len(kernels)}")
        bias = read_bias(layer, len(kernels))
        if self.shape is not None and not check_windows(layer, self.shape, kernels, windows[1]):
            return
        self._slide(
            layer,
            "conv",
            Conv2d(frozen_array(kernels), np.zeros(len(kernels)), *windows, groups),
            bias,
        )

    def pool(self, layer: LayerFields) -> None:
        kernels = read_kernels(layer)
        windows = read_windows(layer)
        if kernels is None or windows is None:
            return
        if kernels.shape[:2] != (1, 1):
            layer.damaged(
                "needs one kernel for all channels, (1, 1, height, width)",
                f"its weights have the shape {kernels.shape}",
            )
            return
        channels = self.shape[0] if self.shape else 1
        shared = np.broadcast_to(kernels, (channels, *kernels.shape[1:]))
        if self.shape is not None and not check_windows(layer, self.shape, shared, windows[1]):
            return
        each = Conv2d(frozen_array(shared), np.zeros(channels), *windows, channels)
        self._slide(layer, "pool", each, np.zeros(channels, np.int64))

    def _slide(self, layer: LayerFields, kind: str, conv: Conv2d, bias: Integers | None) -> None:
        """Append a convolution and its neurons."""
        declared = read_shape(layer)
        if self.shape is None:
            layer.unsupported(
                "needs to know the size of its images",
                "no layer before it says so",
                "put an 'input' layer with a shape before it",
            )
            return
        try:
            shape = output_shape(conv, self.shape)
            if len(shape) != 3:
                raise ValueError(f"needs an input (channels, height, width), but gets {self.shape}")
        except ValueError as error:
            layer.damaged(str(error))
            return
        if declared is not None and declared != shape:
            layer.damaged(f"has the shape {declared}", f"its windows make {shape}")
        if not check_size(layer, shape):
            return
        neurons = read_neurons(layer, shape, bias)
        late = read_channel_delays(layer, shape)
        if layer.found or neurons is None or bias is None:
            return
        name = f"{kind}{layer.name}"
        self._append(
            name,
            replace(conv, bias=neurons.weight_bias),
        )
        self._fire(layer, neurons)
        self._delay(layer, late)
        if kind == "pool":
            self.tell("netx", f"does not load layer {layer.name}, a pool")
        elif late.any():
            self.tell("netx", f"ignores the delays of layer {layer.name}, a convolution")

    def _fire(self, layer: LayerFields, neurons: Neurons) -> None:
        name = f"lif{layer.name}" if neurons.fires else f"readout{layer.name}"
        self._append(name, neurons.node(self.comparison))
        if "messageBits" in layer.values.get("neuron", {}):
            self.tell("netx", f"does not run layer {layer.name}, which names messageBits")
        self.shape = neurons.shape
        self.spiking = neurons.fires
        if not neurons.fires:
            self.ended = True
            self.tell("readout", f"the membranes of layer {layer.name}, {neurons.because}")

    def _delay(self, layer: LayerFields, steps: Integers) -> None:
        """Make the spikes of the layer that was just added late."""
        if not steps.any():
            return
        if self.ended:
            layer.unsupported("needs neurons that fire, to delay their spikes")
            return
        self._append(f"delay{layer.name}", Delay(steps))
        self.tell("delays", f"the spikes of layer {layer.name}, up to {steps.max()} steps")
        if steps.max() > NETX_LONGEST_DELAY:
            told = f"shortens the delays of layer {layer.name} to {NETX_LONGEST_DELAY} steps"
            self.tell("netx", told)


READERS: Mapping[str, Callable[[_Chain, LayerFields], None]] = {
    "input": _Chain.input,
    "flatten": _Chain.flatten,
    "dense": _Chain.dense,
    "dense_rec": _Chain.dense_rec,
    "conv": _Chain.conv,
    "pool": _Chain.pool,
    "average": _Chain.average,
}
