"""
`IntegerNetwork`: the network in the integers that the chip computes with.

This module needs numpy only, because a Loihi host reads programs with it. What the numbers mean,
step by step, is Lava's fixed-point LIF (lava-nc 0.10.0, `PyLifModelBitAcc`); the engine of the
`fixedpoint` target writes it out. Two units occur:

    weight unit    the least significant bit of a synapse's input current
    state unit     1/64 weight unit: the least significant bit of u, v and biases (the `<< 6`)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Integer = NDArray[np.int64]
Shape = tuple[int, ...]

STATE_FRACTION_BITS = 6  # Lava LIF, fixed_pt model: a_in << 6 and vth << 6
READOUT_THRESHOLD = 131071  # the largest 17-bit threshold: a read-out must never reach it


def frozen_integers(values: ArrayLike) -> Integer:
    """Return a read-only int64 copy of `values`."""
    copy: Integer = np.array(values, dtype=np.int64, order="C")
    copy.flags.writeable = False
    return copy


@dataclass(frozen=True)
class Geometry:
    """How a convolution slides; the meaning is PyTorch's."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class IntegerInput:
    """
    Values from the host: integers `round(x * scale)` between `minimum` and `maximum`.

    `exact` says that every value the input is known to take lies on that grid.
    """

    name: str
    shape: Shape
    scale: float
    minimum: int
    maximum: int
    exact: bool


@dataclass(frozen=True)
class IntegerNeurons:
    """
    A population of one kind: `du`, `dv` and `threshold` are single values, as on the chip.

    `scale` is the number of weight units in one unit of the float network's membrane. A read-out is
    a population that integrates (`dv` 0) and is proven never to reach its threshold.
    """

    name: str
    shape: Shape
    du: int
    dv: int
    threshold: int
    bias_mantissa: Integer  # broadcasts to shape
    bias_exponent: int
    scale: float
    readout: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bias_mantissa", frozen_integers(self.bias_mantissa))

    @property
    def bias(self) -> Integer:
        """The bias in state units, as Lava shifts it: left, or right for a negative exponent."""
        if self.bias_exponent >= 0:
            return self.bias_mantissa << self.bias_exponent
        return self.bias_mantissa >> -self.bias_exponent


@dataclass(frozen=True)
class IntegerSynapses:
    """
    Synapses from one population to another.

    `weight` is (out, in) for a dense group, with `in` in the C order of the source's shape, and
    (out channels, in channels / groups, kernel h, kernel w) where there is a `geometry`. The sum is
    shifted by `exponent`: left if positive, else right, as Lava does, rounding down on the chip and
    to nearest on the host. `delay` (in steps, one per source neuron or one for all) comes on top
    of the layer-by-layer clock. A group with `on_host` is computed by the host, which sends the sum
    as input current; its weights need not fit the chip.
    """

    name: str
    source: str
    target: str
    weight: Integer
    geometry: Geometry | None = None
    exponent: int = 0
    delay: Integer = field(default_factory=lambda: frozen_integers(0))
    on_host: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", frozen_integers(self.weight))
        object.__setattr__(self, "delay", frozen_integers(self.delay))


IntegerPopulation = IntegerInput | IntegerNeurons


@dataclass(frozen=True)
class IntegerNetwork:
    """Integer populations, each after its sources, and the synapses between them."""

    populations: tuple[IntegerPopulation, ...]
    synapses: tuple[IntegerSynapses, ...]
    outputs: tuple[str, ...]

    def __getitem__(self, name: str) -> IntegerPopulation:
        return next(population for population in self.populations if population.name == name)

    def into(self, name: str) -> tuple[IntegerSynapses, ...]:
        """Return the synapse groups that end in population `name`."""
        return tuple(group for group in self.synapses if group.target == name)

    @property
    def inputs(self) -> tuple[IntegerInput, ...]:
        return tuple(item for item in self.populations if isinstance(item, IntegerInput))

    @property
    def neurons(self) -> tuple[IntegerNeurons, ...]:
        return tuple(item for item in self.populations if isinstance(item, IntegerNeurons))

    @property
    def spiking(self) -> tuple[IntegerNeurons, ...]:
        return tuple(item for item in self.neurons if not item.readout)


@dataclass(frozen=True)
class Bound:
    """
    The proof for one population: each quantity's largest possible magnitude, and its limit.

    `current` is in weight units, `membrane` in state units, over `steps` steps.
    """

    layer: str
    current: int
    current_limit: int
    membrane: int
    membrane_limit: int
    steps: int


@dataclass(frozen=True)
class Schedule:
    """
    When each population works: at machine step `sample * period + depth + t`, for t = 1..period.

    A connection on the chip takes one step, a host-side one none. `gap` blank steps separate samples.
    """

    depth: dict[str, int]
    gap: int = 0

    @property
    def deepest(self) -> int:
        return max(self.depth.values())


@dataclass(frozen=True)
class Trace:
    """
    What an executor saw, on the layer-by-layer clock; every array is (samples, steps, *shape).

    `output` is what the output population received, in state units, or its spikes. `spikes` and
    `membrane` (after the reset, in state units) hold what was asked for; `counters` how often a
    state wrapped or saturated, by layer (empty where the executor cannot see it).
    """

    output: Integer
    spikes: dict[str, NDArray[np.uint8]]
    membrane: dict[str, Integer]
    counters: dict[str, dict[str, int]]


def conv_output(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Return the length of a convolution's output, rounded down; 0 if nothing fits."""
    return max(0, (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)


def to_payload(population: IntegerInput, values: NDArray[Any]) -> Integer:
    """Return the integers that stand for `values`, unclipped; halves round to even."""
    scaled: Integer = np.rint(values.astype(np.float64) * population.scale).astype(np.int64)
    return scaled
