"""
What arrives at the neurons of a folded network, told so that it can be computed in integers.

Between two layers of neurons, `read_terms` allows what becomes one synapse for each weight: sums of
spikes, pools and scales before a layer of weights, and behind it nothing but additions. Then an input of
a population is a sum of terms, each of which is a layer's weights on integers that stand for

    real number = factor * integer + constant

(a pool adds its window up and shrinks the factor; an input's grid is a factor; what a first layer of one
channel each adds, is a constant), or such integers without weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from torch import Tensor
from torch.nn import functional

from neurocompile.errors import Problem
from neurocompile.integer import Shape
from neurocompile.ir import (
    LIF,
    Conv2d,
    Dense,
    Flatten,
    Float,
    Input,
    MaxPool2d,
    Network,
    Node,
    Output,
    Pool2d,
    Reshape,
    Scale,
    Threshold,
)
from neurocompile.reference import apply_stateless

Values = Mapping[str, Tensor]  # the integers that nodes send, (batch, *shape) in float32


@dataclass(frozen=True)
class Sent:
    """
    The sum of what `nodes` send: integers from `least` to `most`, and what they stand for.

    `factor` broadcasts to `shape`, `constant` has it. `origins` are the populations behind it, `from_input`
    says that one of them is the network's input.
    """

    nodes: tuple[str, ...]
    shape: Shape
    factor: Float
    constant: Float
    least: int
    most: int
    origins: tuple[str, ...]
    from_input: bool = False

    def of(self, values: Values) -> Tensor:
        """Return the sum."""
        total = values[self.nodes[0]]
        for name in self.nodes[1:]:
            total = total + values[name]
        return total


@dataclass(frozen=True)
class Term:
    """What the node `source` brings to a population: a `layer` of weights (None: none) on integers."""

    source: str
    layer: str | None
    values: Sent

    def factor(self, node: Conv2d | Dense) -> Float:
        """Return what one integer of the input is worth before each weight of `node`."""
        factor = np.broadcast_to(self.values.factor, self.values.shape)
        if isinstance(node, Dense):
            return factor.reshape(1, -1)
        channels = factor[:, 0, 0].reshape(node.groups, 1, node.weight.shape[1], 1, 1)
        per_group = len(node.weight) // node.groups
        return np.repeat(channels, per_group, axis=1).reshape(len(node.weight), -1, 1, 1)


@dataclass
class Terms:
    """
    What arrives at each population, at outputs too, and the nodes that send integers of their own.

    `steps` compute these from what other nodes send, in the order of the network. `shifts` are the layers
    that add constants to the input.
    """

    input: str = ""
    terms: dict[str, tuple[Term, ...]] = field(default_factory=dict)
    steps: dict[str, Callable[[Values], Tensor]] = field(default_factory=dict)
    shifts: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_terms(network: Network, payloads: tuple[int, int], input_scale: float) -> Terms:
    """
    Return what arrives at the neurons of `network`, whose one input sends `round(x * input_scale)`.

    These are from `payloads[0]` to `payloads[1]`. What cannot be told so is among the problems.
    """
    reader = _Reader(network, payloads, input_scale)
    for name, node in network.nodes.items():
        try:
            reader.read(name, node)
        except _RefusedError as refused:
            reader.found.problems.append(refused.problem)
        except _UnknownError:
            pass  # a problem before it says why
    return reader.found


class _RefusedError(Exception):
    def __init__(self, name: str, need: str, have: str) -> None:
        super().__init__(need)
        remedy = "train it in real numbers, and quantise it when it is exported"
        self.problem = Problem(name, need, have, remedy)


class _UnknownError(Exception):
    """What a node works on was refused."""


class _Reader:
    """Goes from node to node; each sends values, or weighted sums that only neurons understand."""

    def __init__(self, network: Network, payloads: tuple[int, int], input_scale: float) -> None:
        self.network = network
        self.payloads = payloads
        self.input_scale = input_scale
        self.found = Terms()
        self.values: dict[str, Sent] = {}
        self.sums: dict[str, tuple[Term, ...]] = {}

    def read(self, name: str, node: Node) -> None:
        """Take in the next node; all before it are known, or were refused."""
        match node:
            case Input():
                self._read_input(name, node)
            case LIF():
                self.found.terms[name] = self._terms(name)
                self.values[name] = _spikes(name, node.shape)
            case Output():
                self.found.terms[name] = self._terms(name)
            case Conv2d() if self._is_first_scale(name, node):
                x = self._added(name)
                factor = x.factor * node.weight.reshape(-1, 1, 1)
                constant = apply_stateless(node, x.constant[np.newaxis])[0]
                self.values[name] = replace(x, factor=factor, constant=constant)
                self.found.shifts.append(name)
            case Conv2d() | Dense():
                self._read_weights(name, node)
            case Pool2d():
                x = self._added(name)
                area = math.prod(node.kernel)
                pooled = _pooled(x, node, self.network.shapes[name])
                self.found.steps[name] = partial(_sum_pool, x, node)
                self.values[name] = replace(
                    pooled, nodes=(name,), least=min(x.least, 0) * area, most=max(x.most, 0) * area
                )
            case MaxPool2d():
                x = self._added(name)  # of one layer's spikes, as the compiler has checked
                self.found.steps[name] = partial(_max_pool, x, node)
                self.values[name] = _spikes(name, self.network.shapes[name])
            case Threshold():
                x = self._added(name)
                if node.threshold.any() or node.comparison != ">" or x.from_input or x.least < 0:
                    raise _RefusedError(
                        name, "must say whether any of some spikes is there", "it does not"
                    )
                self.found.steps[name] = partial(_any, x)
                self.values[name] = _spikes(name, node.shape)
            case Scale():
                self._read_scale(name, node)
            case Flatten() | Reshape():
                x, shape = self._added(name), self.network.shapes[name]
                self.found.steps[name] = partial(_reshape, x, shape)
                factor = _narrow(np.broadcast_to(x.factor, x.shape).reshape(shape))
                self.values[name] = replace(
                    x, nodes=(name,), shape=shape, factor=factor, constant=x.constant.reshape(shape)
                )
            case _:
                kind = type(node).__name__
                raise _RefusedError(
                    name, "must be a layer that integers are trained for", f"it is of type {kind}"
                )

    def _read_input(self, name: str, node: Input) -> None:
        self.found.input = name
        least, most = self.payloads
        self.values[name] = Sent(
            (name,),
            node.shape,
            np.array(1 / self.input_scale),
            np.zeros(node.shape),
            least,
            most,
            (name,),
            from_input=True,
        )

    def _read_weights(self, name: str, node: Conv2d | Dense) -> None:
        x = self._added(name)
        images = len(x.shape) == 3 and _by_channel(x.factor, x) and _by_channel(x.constant, x)
        if isinstance(node, Conv2d) and not images:
            raise _RefusedError(
                name, "needs images with one scale for each channel", f"it gets {x.shape}"
            )
        users = self.network.targets(name)
        if len(users) != 1:
            raise _RefusedError(
                name, "must lead to one layer of neurons", f"it feeds {', '.join(users)}"
            )
        self.sums[name] = (Term(name, name, x),)

    def _read_scale(self, name: str, node: Scale) -> None:
        sources = self.network.sources(name)
        if (node.scale == 1).all() and any(source in self.sums for source in sources):
            self.sums[name] = self._terms(name)
            return
        x = self._added(name)
        self.values[name] = replace(
            x, factor=_narrow(x.factor * node.scale), constant=x.constant * node.scale
        )

    def _terms(self, name: str) -> tuple[Term, ...]:
        """Return all that arrives at neurons."""
        terms: list[Term] = []
        for source in self.network.sources(name):
            if source in self.sums:
                terms += self.sums[source]
                continue
            x = self._known(source)
            if x.from_input or x.constant.any() or (x.factor != x.factor.flat[0]).any():
                raise _RefusedError(
                    name, "needs weights between the input and the neurons", "there are none"
                )
            terms.append(Term(source, None, x))
        _refuse_twice(name, [term.values for term in terms])
        if all(term.layer is None for term in terms):
            raise _RefusedError(name, "needs a layer of weights before it", "there is none")
        return tuple(terms)

    def _added(self, name: str) -> Sent:
        """Return the sum of what arrives at a node that is no layer of neurons."""
        parts = []
        for source in self.network.sources(name):
            if source in self.sums:
                layer = self.sums[source][0].source
                raise _RefusedError(
                    name,
                    "must not be behind weights, without neurons between",
                    f"'{layer}' is before it",
                )
            parts.append(self._known(source))
        _refuse_twice(name, parts)
        first = parts[0]
        if any(not np.array_equal(part.factor, first.factor) for part in parts):
            raise _RefusedError(name, "must add what is scaled alike", "it adds what is not")
        return replace(
            first,
            nodes=tuple(node for part in parts for node in part.nodes),
            constant=sum((part.constant for part in parts), np.zeros(first.shape)),
            least=sum(part.least for part in parts),
            most=sum(part.most for part in parts),
            origins=tuple(origin for part in parts for origin in part.origins),
            from_input=any(part.from_input for part in parts),
        )

    def _known(self, source: str) -> Sent:
        if source not in self.values:
            raise _UnknownError
        return self.values[source]

    def _is_first_scale(self, name: str, node: Conv2d) -> bool:
        """Return whether a convolution is what shifts and scales the input's channels, before weights."""
        kernel = node.weight.shape[1:] == (1, 1, 1) and len(node.weight) == node.groups
        plain = (node.stride, node.padding) == ((1, 1), (0, 0))
        sources, users = self.network.sources(name), self.network.targets(name)
        first = all(isinstance(self.network.nodes[source], Input) for source in sources)
        weighted = all(
            isinstance(self.network.nodes[user], Conv2d | Dense | Flatten) for user in users
        )
        return kernel and plain and first and weighted


def _spikes(name: str, shape: Shape) -> Sent:
    return Sent((name,), shape, np.array(1.0), np.zeros(shape), 0, 1, (name,))


def _refuse_twice(name: str, parts: Iterable[Sent]) -> None:
    """Refuse two ways from one population: the compiler adds their weights before it rounds them."""
    origins = [origin for part in parts for origin in part.origins]
    twice = sorted({origin for origin in origins if origins.count(origin) > 1})
    if twice:
        raise _RefusedError(
            name, "must get what each layer sends by one way", f"'{twice[0]}' comes by two"
        )


def _narrow(factor: Float) -> Float:
    """Return one number where all are equal."""
    return np.array(factor.flat[0]) if (factor == factor.flat[0]).all() else factor


def _by_channel(numbers: Float, x: Sent) -> bool:
    """Return whether `numbers` are one for each channel of images `x`."""
    image = np.broadcast_to(numbers, x.shape)
    return bool((image == image[:, :1, :1]).all())


def _pooled(x: Sent, node: Pool2d, shape: Shape) -> Sent:
    """Return `x` behind a pool, but for its range."""
    channels = np.broadcast_to(x.factor, x.shape)[:, :1, :1]
    constant = apply_stateless(node, x.constant[np.newaxis])[0]
    return replace(x, shape=shape, factor=_narrow(channels * node.scale), constant=constant)


def _sum_pool(x: Sent, node: Pool2d, values: Values) -> Tensor:
    return functional.avg_pool2d(
        x.of(values), node.kernel, node.stride, node.padding, divisor_override=1
    )


def _max_pool(x: Sent, node: MaxPool2d, values: Values) -> Tensor:
    return functional.max_pool2d(x.of(values), node.kernel, node.stride, node.padding)


def _any(x: Sent, values: Values) -> Tensor:
    return (x.of(values) > 0).float()


def _reshape(x: Sent, shape: Shape, values: Values) -> Tensor:
    total = x.of(values)
    return total.reshape(len(total), *shape)
