"""Draws random legal networks over everything that the compiler takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.ir import (
    LIF,
    Conv2d,
    Delay,
    Dense,
    Flatten,
    Input,
    Integrator,
    MaxPool2d,
    Network,
    Node,
    Output,
    Pool2d,
    Reshape,
    Scale,
    Threshold,
    output_shape,
)
from neurocompile.quantisation import search
from neurocompile.quantisation.recipe import Recipe

Shape = tuple[int, ...]


class Drawer:
    """
    Builds a network node by node from Hypothesis' choices.

    Weights, leaks and thresholds are small dyadic numbers: float64 computes every sum exactly, so that
    an exact pass has no excuse, not even a tie.
    """

    def __init__(self, data: Any) -> None:
        self.data = data
        self.nodes: dict[str, Node] = {}
        self.edges: list[tuple[str, str]] = []
        self.feedback: list[tuple[str, str]] = []
        self.shapes: dict[str, Shape] = {}
        self.spiking: list[str] = []
        seed = data.draw(st.integers(0, 2**32 - 1), label="numbers")
        self.generator = np.random.default_rng(seed)

    def choose(self, label: str, *options: Any) -> Any:
        return self.data.draw(st.sampled_from(options), label=label)

    def maybe(self, label: str, one_in: int = 2) -> bool:
        return bool(self.choose(label, *[False] * (one_in - 1), True))

    def dyadic(self, shape: Shape, least: int = -16, most: int = 24) -> NDArray[np.float64]:
        return self.generator.integers(least, most, shape) / 16

    def node(self, wanted: str, node: Node, *sources: str) -> str:
        name = f"{wanted}{len(self.nodes)}"
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        self.shapes[name] = output_shape(node, self.shapes[sources[0]] if sources else ())
        return name

    # Inputs and outputs

    def inputs(self) -> list[str]:
        names = []
        for _ in range(self.choose("inputs", 1, 1, 1, 2)):
            shape = self.choose("input shape", (2, 4, 4), (3, 5, 4), (5,), (2, 6), (1, 6, 3))
            graded = InputRange(-0.5, 1.0, 1 / 8)
            values = self.choose("input values", None, InputRange(0, 1, 1), graded)
            names.append(self.node("in", Input(shape, values)))
        return names

    def end(self) -> None:
        loose = [
            name
            for name, node in self.nodes.items()
            if not any(edge[0] == name and edge not in self.feedback for edge in self.edges)
        ]
        groups = [loose[::2], loose[1::2]] if len(loose) > 1 and self.maybe("outputs") else [loose]
        for names in (names for names in groups if names):
            kind = self.choose("output", "read-out", "integrator", "spikes")
            if kind == "spikes" and len(names) == 1 and names[0] in self.spiking:
                self.node("out", Output(self.shapes[names[0]]), names[0])
                continue
            size = self.choose("classes", 2, 3)
            ends = [self.dense(name, size) for name in names]
            if kind == "integrator":
                node = Integrator(
                    decay=np.full(size, self.choose("integrator leak", 1.0, 0.5)),
                    gain=np.ones(size),
                    leak=self.dyadic((size,)) if self.maybe("integrator rest") else np.zeros(size),
                    current_decay=np.full(size, 0.5) if self.maybe("integrator current") else None,
                )
                ends = [self.node("integrator", node, *ends)]
            self.node("out", Output((size,)), *ends)

    # Synapses

    def dense(self, source: str, size: int, *, bias: bool = True) -> str:
        shape = self.shapes[source]
        if len(shape) > 1:
            source = self.node("flatten", Flatten(), source)
        count = self.shapes[source][0]
        own = self.dyadic((size,)) if bias and self.maybe("bias") else np.zeros(size)
        return self.node("fc", Dense(self.dyadic((size, count)) / 2, own), source)

    def convolution(self, source: str, *, same: bool = False, bias: bool = True) -> str:
        shape = self.shapes[source]
        channels = shape[0]
        height, width = (1, shape[1]) if len(shape) == 2 else shape[1:]
        groups = self.choose("groups", *[g for g in (1, 2, channels) if channels % g == 0])
        out = channels if same else groups * self.choose("channels", 1, 2)
        kernel = [self.choose("kernel", *[k for k in (1, 2, 3) if k <= n]) for n in (height, width)]
        if same:
            kernel = [1 if k == 2 else k for k in kernel]
        padding = [(k - 1) // 2 if same else self.choose("padding", 0, 1) for k in kernel]
        stride = [1 if same else self.choose("stride", 1, 2) for _ in kernel]
        dilation = [
            1 if same or k == 1 or 2 * k - 1 > n else self.choose("dilation", 1, 2)
            for k, n in zip(kernel, (height, width), strict=True)
        ]
        if len(shape) == 2:
            padding[0], stride[0], dilation[0] = 0, 1, 1
        conv = Conv2d(
            self.dyadic((out, channels // groups, *kernel)),
            self.dyadic((out,)) if bias and self.maybe("bias") else np.zeros(out),
            (stride[0], stride[1]),
            (padding[0], padding[1]),
            (dilation[0], dilation[1]),
            groups,
        )
        return self.node("conv", conv, source)

    def pool(self, source: str) -> str:
        shape = self.shapes[source]
        kernel = tuple(self.choose("pool", *[k for k in (1, 2, 3) if k <= n]) for n in shape[1:])
        stride = tuple(self.choose("pool stride", 1, 2) for _ in kernel)
        padding = tuple(self.choose("pool padding", 0, k // 2) for k in kernel)
        scale = self.choose("pool scale", 1.0, 0.25)
        return self.node(
            "pool",
            Pool2d((kernel[0], kernel[1]), (stride[0], stride[1]), (padding[0], padding[1]), scale),
            source,
        )

    def delay(self, source: str, longest: int = 3) -> str:
        shape = self.shapes[source] if self.maybe("delay by element") else ()
        steps = self.generator.integers(0, longest + 1, shape)
        return self.node("delay", Delay(steps), source)

    def branch(self, source: str, target: Shape | None) -> str:
        """Add a chain of linear nodes from `source`, to `target` shape if given."""
        here = source
        large = min(self.shapes[here][1:], default=0) > 1 and len(self.shapes[here]) == 3
        if source in self.spiking and large and not self._graded(source) and self.maybe("max pool"):
            here = self.node(
                "maxpool", MaxPool2d((2, 2), (1, 1), (self.choose("max padding", 0, 1), 0)), here
            )
            self.spiking.append(here)
        if self.maybe("delay", 4):
            here = self.delay(here)
        if self.maybe("scale", 4):
            shape = self.choose("scale shape", (), self.shapes[here])
            here = self.node("scale", Scale(self.generator.integers(1, 4, shape) / 2), here)
        if len(self.shapes[here]) == 3 and self.maybe("pool", 3):
            here = self.pool(here)
        bias = True
        if len(self.shapes[here]) > 1 and self.maybe("convolve"):
            here = self.convolution(here, same=target == self.shapes[here])
            bias = not self._constant(here)
            if self.maybe("second convolution", 4):
                here = self.convolution(here, same=target == self.shapes[here])
        if self.maybe("late delay", 6) and not self._constant(here):
            here = self.delay(here, 2)
        del bias
        if target is None:
            if self.maybe("dense", 3) or self.shapes[here] == self.shapes[source]:
                here = self.dense(here, self.choose("neurons", 3, 4))
        elif self.shapes[here] != target:
            here = self.dense(here, int(np.prod(target)))
        if target is not None and self.shapes[here] != target:
            here = self.node("reshape", Reshape(target), here)
        if target is None and len(self.shapes[here]) == 3 and self.maybe("flatten", 5):
            here = self.node("flatten", Flatten(*self.choose("axes", (0, -1), (1, 2))), here)
        return here

    def _constant(self, name: str) -> bool:
        """Return whether a bias has its way into a linear node."""
        node = self.nodes[name]
        if isinstance(node, Dense | Conv2d) and node.bias.any():
            return True
        if isinstance(node, Input | LIF | Threshold):
            return False
        return any(self._constant(source) for source, target in self.edges if target == name)

    def _graded(self, name: str) -> bool:
        node = self.nodes[name]
        return isinstance(node, LIF) and node.most_spikes != 1

    # Neurons

    def parameter(self, label: str, shape: Shape, *options: float) -> NDArray[np.float64]:
        kinds = ["one", "one", "each"] + (["channel"] if len(shape) == 3 else [])
        kind = self.choose(f"{label} for", *kinds)
        if kind == "one":
            return np.full(shape, self.choose(label, *options))
        own = shape if kind == "each" else (shape[0], 1, 1)
        return np.broadcast_to(self.generator.choice(np.array(options[:3]), own), shape).copy()

    def neurons(self, *sources: str) -> str:
        shape = self.shapes[sources[0]]
        if self.maybe("threshold only", 6):
            node: Node = Threshold(
                self.parameter("firing above", shape, 0.5, 0.0, -0.25, 1.0),
                self.choose("comparison", ">", ">="),
            )
        else:
            subtract = self.maybe("subtract", 4)
            to = 0.0
            if not subtract and self.maybe("reset voltage", 4):
                to = self.choose("reset to", 0.25, -0.5)
            threshold = self.parameter("threshold", shape, 1.0, 0.5, 1.5)
            more = subtract and self.maybe("subtract more", 3)
            node = LIF(
                decay=self.parameter("leak", shape, 0.5, 0.75, 1.0, 0.0),
                gain=self.parameter("gain", shape, 1.0, 0.5, 2.0)
                if self.maybe("gain", 4)
                else np.ones(shape),
                leak=self.dyadic(shape) if self.maybe("leak voltage", 4) else np.zeros(shape),
                threshold=threshold,
                reset_to=np.full(shape, to),
                reset="subtract" if subtract else "zero",
                current_decay=self.parameter("current", shape, 0.5, 0.75, 0.875)
                if self.maybe("synaptic current", 4)
                else None,
                comparison=self.choose("comparison", ">", ">", ">="),
                subtracts=threshold * self.choose("subtracts", 2.0, 1.5) if more else None,
                most_spikes=1 if to else self.choose("most spikes", 1, 1, 1, 1, 1, 2, 5, None),
                floor=np.full(shape, self.choose("floor", -0.5, -1.0, 0.0))
                if self.maybe("floor", 6)
                else None,
                refractory=self.choose("refractory", 0, 0, 0, 0, 0, 1, 2),
            )
        name = self.node("lif", node, *sources)
        self.spiking.append(name)
        return name

    def layer(self, sources: list[str]) -> str:
        first = self.choose("source", *sources)
        ends = [self.branch(first, None)]
        shape = self.shapes[ends[0]]
        for _ in range(self.choose("branches", 0, 0, 1, 2)):
            other = self.choose("other source", *sources)
            if self.shapes[other] == shape and other not in ends and self.maybe("identity"):
                ends.append(other)
            else:
                ends.append(self.branch(other, shape))
        ends = list(dict.fromkeys(ends))
        return self.neurons(*ends)

    def sew(self, source: str) -> list[str]:
        """Add layers whose spikes are added to those of `source`, and one that reads the sum."""
        shape, terms = self.shapes[source], [source]
        for _ in range(self.choose("terms", 1, 2)):
            if len(shape) > 1 and self.maybe("convolve"):
                here = self.convolution(terms[-1], same=True)
            else:
                here = self.dense(terms[-1], int(np.prod(shape)))
            if self.shapes[here] != shape:
                here = self.node("reshape", Reshape(shape), here)
            terms.append(self.neurons(here))
        before = len(self.edges)
        here = self.convolution(source) if len(shape) > 1 else self.dense(source, 4)
        _source, reader = self.edges[before]
        self.edges += [(term, reader) for term in terms[1:]]
        return [*terms[1:], self.neurons(here)]

    def cycle(self, layers: list[str]) -> None:
        """Feed a layer, perhaps through others, back to itself or to an earlier one."""
        late = self.data.draw(st.integers(0, len(layers) - 1), label="from layer")
        early = self.data.draw(st.integers(0, late), label="to layer")
        source, target = layers[late], layers[early]
        before = len(self.edges)
        if self.shapes[source] == self.shapes[target] and self.maybe("plain feedback", 3):
            if (source, target) in self.edges:
                return
            self.edges.append((source, target))
        else:
            here = self.delay(source, 2) if self.maybe("late feedback", 3) else source
            same = self.shapes[here] == self.shapes[target] and len(self.shapes[here]) > 1
            if same and self.maybe("feedback convolution"):
                here = self.convolution(here, same=True)
            else:
                here = self.dense(here, int(np.prod(self.shapes[target])))
            if self.shapes[here] != self.shapes[target]:
                here = self.node("reshape", Reshape(self.shapes[target]), here)
            self.edges.append((here, target))
        self.feedback.append(self.edges[before])

    def draw(self) -> Network:
        inputs = self.inputs()
        layers: list[str] = []
        for _ in range(self.choose("layers", 1, 2, 3, 4)):
            layers.append(self.layer([*inputs, *layers]))
            if self.maybe("sew", 5):
                layers += self.sew(layers[-1])
        for _ in range(self.choose("cycles", 0, 0, 1, 2)):
            self.cycle(layers)
        self.end()
        steps = self.choose("steps", 1, 3, 5)
        return Network(self.nodes, tuple(self.edges), steps, frozenset(self.feedback))


@pytest.fixture(scope="session")
def draw_topology() -> Callable[[Any], Network]:
    """Draws a random legal network: branches, cycles, pools, delays, groups, mixed neurons."""
    return lambda data: Drawer(data).draw()


@pytest.fixture(autouse=True)
def quick_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer candidates do for what holds of any of them."""
    monkeypatch.setattr(search, "COARSE", 4)
    monkeypatch.setattr(search, "FINE", 1)
    monkeypatch.setattr(search, "GAINS", (0.9, 1.1))


@pytest.fixture(scope="session")
def draw_recipe() -> Callable[..., Recipe]:
    """Draws a way to quantise with so many bits; most are plain, as samples take their time."""

    def draw(data: Any, bits: int) -> Recipe:
        def choose(label: str, *options: Any) -> Any:
            return data.draw(st.sampled_from(options), label=label)

        if choose("plain", True, True, False):
            return Recipe(bits)
        return Recipe(
            bits,
            method=choose("method", "auto", "max", "percentile", "mse", "power-of-two", "search"),
            scales=choose("scales", "layer", "channel"),
            percentile=choose("percentile", 99.9, 60.0),
            objective=choose("objective", "spikes", "membrane"),
            rounding=choose("rounding", *["nearest"] * 4, "adaptive"),
            correct_biases=choose("correct biases", *[False] * 4, True),
            memory=choose("memory", None, None, None, 40, 400),
            samples=2,
        )

    return draw
