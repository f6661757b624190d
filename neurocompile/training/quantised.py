"""
Quantisation-aware training: a network whose forward pass is the integers that `export` emits.

`prepare` folds a trained network and quantises it once, as `export` would. From then on the scale S of
each population (weight units per unit of its membrane), its threshold and its leak stay; weights and
biases go on training as real numbers, which every forward pass rounds as the quantiser does:

    weights     W_int = clip(round(W S / s_in), bits)        s_in: the input's payload per unit, 1 for spikes
    biases      mantissa * 2^exponent, in 1/64 weight unit, the smallest exponent that fits
    membranes   v = trunc(v (4096 - dv) / 4096) + 64 sum + bias, a spike above 64 threshold, reset to zero

so that spikes and read-outs are those of `fixedpoint`, which every export proves anew. Average pools
are sums here: their factor goes into the weights behind them, as in the compiler. Rows of weights that
the range proof would not hold for are shrunk until it does, within the same forward pass.

What is trained is stored as the real numbers; `QuantisedBody.rounded` is the network of the integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from neurocompile import target as targets
from neurocompile.data import InputRange
from neurocompile.errors import Problem, RangeError, UnsupportedError, raise_all
from neurocompile.frontend.folded_graph import fold_body
from neurocompile.integer import (
    READOUT_THRESHOLD,
    Geometry,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerSynapses,
    Shape,
)
from neurocompile.ir import LIF as NEURONS
from neurocompile.ir import Conv2d, Dense, Edge, Float, Network, Node, Output, Scale
from neurocompile.limits import Limits
from neurocompile.linear import slide_of
from neurocompile.names import free_name
from neurocompile.passes.prove_ranges import geometric, reach_of, signed_sums
from neurocompile.pipeline import CompileOptions, Passes, run_passes
from neurocompile.program import Program
from neurocompile.quantisation.fit import HOST_WEIGHT_MAXIMUM
from neurocompile.quantisation.recipe import Recipe
from neurocompile.training.architectures import Body
from neurocompile.training.integer_layers import (
    STATE_UNITS,
    Fixed,
    IntegerLIF,
    IntegerWeights,
    round_bias,
)
from neurocompile.training.integer_terms import Term, read_terms
from neurocompile.training.networks import SpikingNetwork
from neurocompile.training.neurons import LIF

TARGET = "fixedpoint"  # whose widths are Loihi 2's
SHRINK = 0.98  # at least, of rows that are too large: rounding could undo less
ATTEMPTS = 256


@dataclass(frozen=True)
class Integers:
    """
    What is fixed in a quantised network, by population, and for how many `steps` its ranges are proven.

    Inputs are `round(x * input_scale)`, from `least` to `most`; `on_host` says that the host computes
    the first layer. `readout` is the population that the output shows.
    """

    weight_bits: int
    steps: int
    input_scale: float
    least: int
    most: int
    on_host: bool
    readout: str
    populations: Mapping[str, Fixed]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, from which `from_json` makes the same."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Integers:
        """Return what `to_json` wrote; raises `TypeError` or `KeyError` for anything else."""
        populations = {name: Fixed(**fixed) for name, fixed in values["populations"].items()}
        return cls(**{**values, "populations": populations})


class Starting(Protocol):
    """What `prepare` needs of a `checkpoint.Trained`."""

    @property
    def network(self) -> SpikingNetwork: ...
    @property
    def input_range(self) -> InputRange: ...
    @property
    def steps(self) -> int: ...


def prepare(trained: Starting, recipe: Recipe, *, steps: int | None = None) -> SpikingNetwork:
    """
    Return `trained` as a network that computes in the integers of `recipe`, ready to be trained.

    Before the first training step it fires the spikes of the program that `export` makes of `trained` by
    the same recipe, up to biases at the borders of padded images that a first layer shifts. Its ranges
    are proven for `steps` (None: those of `trained`). Raises `UnsupportedError` with everything that cannot
    be trained so, `RangeError` where no integers fit, and `OptionError` for impossible bits.
    """
    raise_all(UnsupportedError, _beyond_training(recipe))
    steps = steps or trained.steps
    spiking = trained.network
    if isinstance(spiking.body, QuantisedBody):
        network = replace(spiking.body.unrounded(), steps=steps)
    else:
        network = _folded(spiking, trained.input_range, steps)
    integers = _quantised(network, recipe, steps)
    return _with_body(spiking, network, integers)


def _beyond_training(recipe: Recipe) -> list[Problem]:
    """Return what a recipe asks for that training does not do: scales are one for each layer, and stay."""
    remedy = (
        "train with one scale for each layer, or quantise the trained network when it is exported"
    )
    asked = {
        "a scale for each channel": recipe.scales != "layer",
        "layers with bits of their own": bool(recipe.bits) or recipe.memory is not None,
        "samples to decide how it rounds": recipe.needs_samples,
    }
    return [
        Problem("", f"cannot train in integers with {what}", remedy=remedy)
        for what, wanted in asked.items()
        if wanted
    ]


def restore(
    network: SpikingNetwork, input_range: InputRange, described: Mapping[str, Any]
) -> SpikingNetwork:
    """
    Return the quantised network that `describe` described, with weights that are still to be loaded.

    `network` is one of the same settings, trained or not.
    """
    integers = Integers.from_json(described)
    return _with_body(network, _folded(network, input_range, integers.steps), integers)


def describe(network: SpikingNetwork) -> dict[str, Any] | None:
    """Return what `restore` needs of `network`, as plain values; None if it computes in real numbers."""
    return network.body.integers.to_json() if isinstance(network.body, QuantisedBody) else None


def _folded(network: SpikingNetwork, input_range: InputRange, steps: int) -> Network:
    folded = fold_body(network.body, network.input_shape, steps=steps, input_range=input_range)
    return folded.imported.network


def program_of(network: Network, recipe: Recipe, steps: int) -> Program:
    """Return the program that `export` makes of `network` for `fixedpoint`, without its files."""
    target = targets.find(TARGET)
    options = CompileOptions(
        recipe=recipe,
        steps=steps,
        target_options=targets.resolve_options(target, {}),
    )
    return run_passes(network, target, Passes(options)).program


def _quantised(network: Network, recipe: Recipe, steps: int) -> Integers:
    """Return what `export` finds for `network`."""
    integers = program_of(network, recipe, steps).network
    (pixels,) = integers.inputs
    (readout,) = (integers.outputs[name] for name in network.of_type(Output))
    trained = {*network.of_type(NEURONS), readout}
    return Integers(
        weight_bits=recipe.weight_bits,
        steps=steps,
        input_scale=pixels.scale,
        least=pixels.minimum,
        most=pixels.maximum,
        on_host=any(group.on_host for group in integers.synapses),
        readout=readout,
        populations={item.name: _fixed(item) for item in integers.neurons if item.name in trained},
    )


def _fixed(neurons: IntegerNeurons) -> Fixed:
    return Fixed(1 / float(neurons.scale), int(neurons.threshold.max()), int(neurons.dv.max()))


def _with_body(spiking: SpikingNetwork, network: Network, integers: Integers) -> SpikingNetwork:
    neurons = {
        name: module for name, module in spiking.body.named_modules() if isinstance(module, LIF)
    }
    weights = spiking.time_weights
    made = SpikingNetwork(
        QuantisedBody(network, integers, neurons),
        spiking.input_shape,
        time_weights=None if weights is None else weights.clone(),
    )
    return made.train(spiking.training)


@dataclass(frozen=True)
class _Part:
    """A term of a population's input: a layer of weights, or, as all are alike, the only weight."""

    term: Term
    layer: IntegerWeights | None
    weight: int
    slide: Geometry | None = None  # of a convolution, from images to those of `shape`
    shape: Shape = ()

    def signed_sums(self, rounded: Tensor) -> tuple[Float, Float]:
        """Return the negative and the positive weights that its neurons see, summed, (rows, places)."""
        weights: Float = rounded.cpu().double().numpy()
        negative, positive = signed_sums(weights, self.slide, self.term.values.shape, self.shape)
        return negative.reshape(len(weights), -1), positive.reshape(len(weights), -1)


@dataclass(frozen=True)
class _Population:
    """What arrives at a population, in integers; the modules belong to the body."""

    name: str
    parts: tuple[_Part, ...]
    fixed: Fixed
    limits: Limits
    steps: int
    readout: bool

    def rounded(self) -> tuple[list[Tensor | None], Tensor, Tensor | None]:
        """
        Return the integers of each part's weights, the biases (rows, or *shape) in state units, and `shrink`.

        That is what rows of weights are multiplied with before they are rounded, where they would leave
        their ranges (None: nowhere). Raises `RangeError` where it does not help.
        """
        shrink: Tensor | None = None
        for _ in range(ATTEMPTS):
            weights = [
                None if part.layer is None else part.layer.rounded(shrink) for part in self.parts
            ]
            real = self._bias(shrink)
            bias = round_bias(real, self.fixed.scale, self.limits)
            with torch.no_grad():
                excess = self._excess(weights, bias)
                if real.ndim > 1:
                    # Of an image's constant, it shrinks as well; others are clipped.
                    largest = real.flatten(1).abs().amax(1) * self.fixed.scale
                    excess = torch.maximum(excess, largest / self.limits.bias_maximum)
            if not bool((excess > 1).any()):
                return weights, bias, shrink
            less = torch.where(excess > 1, (1 / excess).clamp(max=SHRINK), 1.0)
            shrink = less if shrink is None else shrink * less
        raise RangeError(
            Problem(
                self.name,
                "needs weights that can be shrunk into its range",
                "its bias, or what it gets without weights, is too large",
                "train it for fewer steps, or with a smaller learning rate",
            )
        )

    def current(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return what arrives with the bias, in state units, whole numbers in float32."""
        weights, bias, _ = self.rounded()
        total: Tensor | None = None
        for part, rounded in zip(self.parts, weights, strict=True):
            x = part.term.values.of(values)
            arrives = x * part.weight
            if part.layer is not None and rounded is not None:
                arrives = part.layer.sums(x, rounded)
            total = arrives if total is None else total + arrives
        assert total is not None
        if bias.ndim == 1:
            bias = bias.reshape(-1, *[1] * (total.ndim - 2))
        return total * STATE_UNITS + bias.float()

    def _bias(self, shrink: Tensor | None) -> Tensor:
        """Return the biases in units of the membrane, for each row, or (*shape) where they differ in it."""
        biases = [part.layer.real_bias(shrink) for part in self.parts if part.layer is not None]
        axes = max(bias.ndim for bias in biases)
        total = torch.zeros((), dtype=torch.float64, device=biases[0].device)
        for bias in biases:
            total = total + bias.reshape(*bias.shape, *[1] * (axes - bias.ndim))
        return total

    def _excess(self, weights: list[Tensor | None], bias: Tensor) -> Tensor:
        """
        Return by how much each row is beyond its ranges; 1 is just in.

        That is an upper bound, quickly found, if it is in; what matters is told as `prove_ranges` does.
        """
        excess = self._largest_excess(weights, bias)
        if bool((excess > 1).any()):
            excess = self._proven_excess(weights, bias)
        for part, rounded in zip(self.parts, weights, strict=True):
            if part.layer is not None and part.layer.on_host and rounded is not None:
                largest = rounded.flatten(1).abs().amax(1) / HOST_WEIGHT_MAXIMUM
                excess = torch.maximum(excess, largest)
        return excess

    def _proven_excess(self, weights: list[Tensor | None], bias: Tensor) -> Tensor:
        """Return what the proof says of the sums that can arrive, as if they came from one source."""
        low: Float = np.zeros((len(bias), 1))
        high = low
        for part, rounded in zip(self.parts, weights, strict=True):
            least, most = min(part.term.values.least, 0), max(part.term.values.most, 0)
            negative = positive = np.full((1, 1), float(part.weight))
            negative, positive = np.minimum(negative, 0), np.maximum(positive, 0)
            if rounded is not None:
                negative, positive = part.signed_sums(rounded)
            low = low + np.floor(positive * least + negative * most)
            high = high + np.ceil(positive * most + negative * least)
        biases = bias.cpu().double().numpy().reshape(len(bias), -1)
        least_sum, largest_sum, added = (
            each.ravel() for each in np.broadcast_arrays(low, high, biases)
        )
        arithmetic = self.limits.arithmetic
        neurons = IntegerNeurons(
            self.name,
            added.shape,
            du=np.array(arithmetic.memoryless),
            dv=np.array(self.fixed.dv),
            threshold=np.array(self.fixed.threshold),
            bias_mantissa=added.astype(np.int64),
            bias_exponent=0,
            scale=np.ones(()),
            shows="input" if self.readout else "spikes",
            arithmetic=arithmetic,
        )
        source = IntegerInput("sums", (2,), scale=1.0, minimum=0, maximum=1, exact=True)
        both = np.stack([least_sum, largest_sum], axis=1).astype(np.int64)
        group = IntegerSynapses("sums", source.name, self.name, both)
        network = IntegerNetwork((source, neurons), (group,), {self.name: self.name})
        reach = reach_of(network, neurons, self.limits, steps=self.steps)
        by_row = reach.over.reshape(len(bias), -1).max(1)
        return torch.tensor(by_row, device=bias.device)

    def _largest_excess(self, weights: list[Tensor | None], bias: Tensor) -> Tensor:
        """Return by how much each row is beyond its ranges at most, were leaks not rounded, nor biases help."""
        low, high = torch.zeros(2, len(bias), dtype=torch.float64, device=bias.device)
        for part, rounded in zip(self.parts, weights, strict=True):
            least, most = min(part.term.values.least, 0), max(part.term.values.most, 0)
            if rounded is None:
                low, high = low + part.weight * least, high + part.weight * most
                continue
            rows = rounded.flatten(1)
            positive, negative = rows.clamp(min=0).sum(1), rows.clamp(max=0).sum(1)
            low = low + (positive * least + negative * most).floor()
            high = high + (positive * most + negative * least).ceil()
        limits, growth = self.limits, float(geometric(1.0, self.steps))
        if not self.readout:
            growth = float(geometric(self.fixed.kept(limits), self.steps))
        by_row = bias.flatten(1) if bias.ndim > 1 else bias.unsqueeze(1)
        current = torch.maximum(high, -low) / limits.current_maximum
        downward = -(low * STATE_UNITS + by_row.amin(1).clamp(max=0)) * growth
        if not self.readout:
            return torch.maximum(current, downward / limits.state_maximum)
        upward = (high * STATE_UNITS + by_row.amax(1).clamp(min=0)) * growth
        membrane = torch.maximum(upward, downward) / (READOUT_THRESHOLD * STATE_UNITS)
        return torch.maximum(current, membrane)


class QuantisedBody(Body):
    """
    The integers of a folded `network`, as a body for `SpikingNetwork`.

    Parameters are the weights and biases of the network's layers by their names; neurons have the
    surrogates of those in `neurons` of the same name. Raises `UnsupportedError` with all that cannot
    be trained in integers.
    """

    def __init__(self, network: Network, integers: Integers, neurons: Mapping[str, LIF]) -> None:
        super().__init__()
        limits = targets.find(TARGET).limits
        read = read_terms(network, (integers.least, integers.most), integers.input_scale)
        problems = list(read.problems)
        problems += [
            Problem(name, "must be a layer of LIF neurons to be trained in integers")
            for name in read.terms
            if name not in neurons and name not in network.of_type(Output)
        ]
        fed = [
            name
            for name, terms in read.terms.items()
            if any(term.values.from_input for term in terms)
        ]
        problems += [
            Problem(
                name, "must not get the input as well to be trained in integers", f"'{fed[0]}' does"
            )
            for name in fed[1:]
        ]
        raise_all(UnsupportedError, problems)
        self.integers, self.limits = integers, limits
        self._network, self._read = network, read
        self._populations: dict[str, _Population] = {}
        for name, terms in read.terms.items():
            readout = name in network.of_type(Output)
            population = integers.readout if readout else name
            fixed = integers.populations[population]
            self._populations[name] = _Population(
                population,
                tuple(self._part(term, fixed) for term in terms),
                fixed,
                limits,
                integers.steps,
                readout,
            )
            if not readout:
                _place(self, name, IntegerLIF(fixed, limits, neurons[name]))

    def _part(self, term: Term, fixed: Fixed) -> _Part:
        """Return a part of a population's input, its weights made by the name of their layer."""
        bits, limits = self.integers.weight_bits, self.limits
        if term.layer is None:
            step, highest = limits.weight_unit(bits), limits.largest_weight(bits)
            weight = round(float(term.values.factor.flat[0]) * fixed.scale / step) * step
            return _Part(term, None, max(min(weight, highest), -highest - step))
        node = self._network.nodes[term.layer]
        assert isinstance(node, Conv2d | Dense)
        constant = term.values.constant
        layer = IntegerWeights(
            node,
            term.factor(node) * fixed.scale,
            bits,
            limits,
            on_host=self.integers.on_host and term.values.from_input,
            constant=constant if constant.any() else None,
        )
        _place(self, term.layer, layer)
        if isinstance(node, Conv2d):
            return _Part(
                term, layer, 0, Geometry(*slide_of(node)), self._network.shapes[term.layer]
            )
        return _Part(term, layer, 0)

    def currents(self, x: Tensor, repeats: int = 1) -> Tensor:
        """Return what the first layer of neurons gets, in state units; it is the same at each step."""
        del repeats
        with torch.autocast(x.device.type, enabled=False):
            values = {self._read.input: (x.double() * self.integers.input_scale).round().float()}
            for name in self._network.nodes:
                if name in self._populations:
                    break
                if name in self._read.steps:
                    values[name] = self._read.steps[name](values)
            return self._populations[name].current(values)

    def outputs(self, current: Tensor, steps: int) -> Tensor:
        """
        Return O(t), (batch * steps, classes), of what the first layer of neurons gets.

        In evaluation it is in float64, to the last bit what `fixedpoint` shows.
        """
        with torch.autocast(current.device.type, enabled=False):
            return self._outputs(current, steps)

    def _outputs(self, current: Tensor, steps: int) -> Tensor:
        values: dict[str, Tensor] = {}
        first, *_ = self._populations
        behind = False
        for name in self._network.nodes:
            if name in self._populations:
                population = self._populations[name]
                if name != first:
                    current = population.current(values)
                if population.readout:
                    break
                values[name] = self.get_submodule(name)(current, steps)
                behind = True
            elif behind and name in self._read.steps:
                values[name] = self._read.steps[name](values)
        if self.training:
            return current * (population.fixed.unit / STATE_UNITS)
        return current.double() / (population.fixed.scale * STATE_UNITS)

    @torch.no_grad()
    def rounded(self) -> Network:
        """
        Return the network of the integers, each times its unit, which `export` keeps.

        In real numbers it differs from the integers by the truncation of leaks, and at the borders of
        padded images behind a first layer that shifts, by the rounding of biases.
        """
        nodes, edges = dict(self._network.nodes), list(self._network.edges)
        for name, population in self._populations.items():
            fixed = population.fixed
            weights, bias, shrink = population.rounded()
            real = bias.cpu() * (fixed.unit / STATE_UNITS)
            for part, rounded in zip(population.parts, weights, strict=True):
                term, layer = part.term, part.layer
                if layer is None or rounded is None:
                    scaled = free_name(nodes, f"{term.source}.to.{name}")
                    worth = float(term.values.factor.flat[0]) * fixed.scale
                    nodes[scaled] = Scale(np.array(part.weight / worth))
                    edges[edges.index((term.source, name))] = (term.source, scaled)
                    edges.append((scaled, name))
                    continue
                if bias.ndim > 1:  # they differ at borders: the compiler adds them up
                    own = layer.bias.double().cpu()
                    through = layer.real(shrink).cpu().numpy()
                    sources = self._network.sources(term.source)
                    edges += _offset(nodes, term, through, sources, name)
                else:  # in one of the layers, as they are rounded together
                    own, real = real, torch.zeros_like(real)
                weight = (rounded / layer.factor).cpu().numpy()
                _replace(nodes, term.layer, weight, own.numpy())
            self._set_leak(nodes, name, fixed)
        for name in self._read.shifts:  # what they add has come in by the offsets
            node = nodes[name]
            assert isinstance(node, Conv2d)
            nodes[name] = replace(node, bias=np.zeros_like(node.bias))
        units = {item.name: item.fixed.unit for item in self._populations.values()}
        return Network(nodes, tuple(edges), self.integers.steps, weight_unit=units)

    @torch.no_grad()
    def unrounded(self) -> Network:
        """Return the network of the real numbers that are trained."""
        nodes = dict(self._network.nodes)
        for name, population in self._populations.items():
            for part in population.parts:
                if part.layer is not None:
                    weight, bias = (
                        values.double().cpu().numpy()
                        for values in (part.layer.weight, part.layer.bias)
                    )
                    _replace(nodes, part.term.layer, weight, bias)
            self._set_leak(nodes, name, population.fixed)
        return Network(nodes, self._network.edges, self.integers.steps)

    def _set_leak(self, nodes: dict[str, Node], name: str, fixed: Fixed) -> None:
        node = nodes[name]
        if isinstance(node, NEURONS):
            nodes[name] = replace(node, decay=np.full(node.shape, fixed.kept(self.limits)))


def _replace(nodes: dict[str, Node], name: str | None, weight: Any, bias: Any) -> None:
    """Give a layer other weights and biases."""
    assert name is not None
    node = nodes[name]
    assert isinstance(node, Conv2d | Dense)
    nodes[name] = replace(node, weight=weight, bias=bias)


def _offset(
    nodes: dict[str, Node], term: Term, weight: Any, sources: tuple[str, ...], target: str
) -> list[Edge]:
    """Add what an image's constant brings to `target` through real weights; return the edges."""
    name = term.source
    layer = nodes[name]
    assert isinstance(layer, Conv2d)
    constant = term.values.constant[:, 0, 0]
    still, offset = free_name(nodes, f"{name}.constant"), free_name(nodes, f"{name}.offset")
    nodes[still] = Conv2d(np.zeros((len(constant), 1, 1, 1)), constant, groups=len(constant))
    nodes[offset] = replace(layer, weight=weight, bias=np.zeros(len(weight)))
    return [*((source, still) for source in sources), (still, offset), (offset, target)]


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` at a name with dots."""
    *path, last = name.split(".")
    for part in path:
        if part not in dict(root.named_children()):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)
