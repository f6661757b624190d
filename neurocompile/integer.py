"""
`IntegerNetwork`: the network in the integers that the chip computes with.

This module needs numpy only, because a Loihi host reads programs with it. What the numbers mean,
step by step, is Lava's fixed-point LIF (lava-nc 0.10.0, `PyLifModelBitAcc`); the engine of the
`fixedpoint` target writes it out. Two units occur:

    weight unit    the least significant bit of a synapse's input current
    state unit     1/64 weight unit: the least significant bit of u, v and biases (the `<< 6`)
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Integer = NDArray[np.int64]
Shape = tuple[int, ...]
Reset = Literal["zero", "subtract"]
Comparison = Literal[">", ">="]
Shows = Literal["spikes", "input", "membrane"]
Rounding = Literal["zero", "down", "nearest"]
Overflow = Literal["wrap", "saturate"]

STATE_FRACTION_BITS = 6  # Lava LIF, fixed_pt model: a_in << 6 and vth << 6
READOUT_THRESHOLD = 131071  # the largest 17-bit threshold: a read-out must never reach it
AS_THRESHOLD = -1  # of `subtracts`: what a spike takes off is its threshold
NO_FLOOR = -((1 << 23) - 1)  # state units: where Lava's membrane saturates anyway


def frozen_integers(values: ArrayLike) -> Integer:
    """Return `values` as read-only int64: a copy, or itself if nobody can write to it."""
    if (
        isinstance(values, np.ndarray)
        and values.dtype == np.int64
        and values.base is None
        and values.flags.c_contiguous
        and not values.flags.writeable
    ):
        return values
    copy: Integer = np.array(values, dtype=np.int64, order="C")
    copy.flags.writeable = False
    return copy


@dataclass(frozen=True)
class Arithmetic:
    """
    How a family of chips computes with states; the defaults are Lava's and Loihi 2's.

    A state unit is 2^-`fraction_bits` weight units. u and v are two's complement of `current_bits` and
    `membrane_bits`, their ends -(2^(bits - 1) - 1) and 2^(bits - 1) - 1. A decay multiplies by a number of
    `decay_bits` bits behind the point, and `rounding` says where its product goes: toward zero, down, or
    to the nearest integer, halves up. Beyond its ends a state saturates at them, or wraps as Lava's
    current does: 2^bits is taken off or added, once.
    """

    fraction_bits: int = STATE_FRACTION_BITS
    decay_bits: int = 12
    current_bits: int = 24
    membrane_bits: int = 24
    rounding: Rounding = "zero"
    current_overflow: Overflow = "wrap"
    membrane_overflow: Overflow = "saturate"

    @property
    def state_units(self) -> int:
        """How many state units a weight unit has."""
        return 1 << self.fraction_bits

    @property
    def decay_one(self) -> int:
        """The number that stands for a factor of 1."""
        return 1 << self.decay_bits

    @property
    def current_end(self) -> int:
        """The largest u, in state units."""
        return (1 << (self.current_bits - 1)) - 1

    @property
    def membrane_end(self) -> int:
        """The largest v, in state units."""
        return (1 << (self.membrane_bits - 1)) - 1

    @property
    def no_floor(self) -> int:
        """The lowest v, in state units: a floor from here down is none."""
        return -self.membrane_end

    @property
    def memoryless(self) -> int:
        """The du of a current that is the input of its step alone."""
        return self.decay_one - 1


LOIHI2 = Arithmetic()


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
class IntegerRelay:
    """
    Neurons without memory that send the sum of what arrives, at once, as one graded spike.

    The sum is proven to stay between 0 and `largest`: it is how SEW's sums of spikes travel.
    """

    name: str
    shape: Shape
    largest: int


@dataclass(frozen=True)
class IntegerNeurons:
    """
    A population of Lava's LIF neurons.

    `du`, `dv` and `threshold` are one number each, as the chip wants them, or arrays that broadcast to
    `shape`, which a target splits into populations of equal neurons. `scale` (one number, or one per
    channel) is the number of weight units in one unit of the float network's membrane, which is
    v / (64 scale) + `origin`, 64 being the state units of the population's `arithmetic`. At the first step of each sample `pulse` (weight units) is added to the input sum, and `start` (state units,
    multiples of 64) to the membrane.

    Lava's LIF fires above its threshold and resets to zero. What follows needs microcode on the chip:
    `reset` "subtract" takes `subtracts` (state units; `AS_THRESHOLD`: the threshold) off the membrane for each
    spike; `inclusive` neurons fire at their threshold, too; `most` is how often the threshold may fit
    into the membrane in one step, and is sent as one graded spike; the membrane never falls below
    `floor` (state units; `NO_FLOOR`: where the chip's ends anyway); in the `refractory` steps after a spike
    the membrane is 0 and nothing fires.

    Neurons that `saturates` is true for may have inputs that take their membrane out of its range, where
    it stays at the end: on every target alike, and counted whenever they run.

    What a population `shows` is its spikes; or, for a read-out, which is proven never to reach its
    threshold, what it receives at each step ("input") or its membrane ("membrane").
    """

    name: str
    shape: Shape
    du: Integer
    dv: Integer
    threshold: Integer
    bias_mantissa: Integer  # broadcasts to shape
    bias_exponent: int
    scale: NDArray[np.float64]
    shows: Shows = "spikes"
    reset: Reset = "zero"
    start: Integer = field(default_factory=lambda: frozen_integers(0))
    pulse: Integer = field(default_factory=lambda: frozen_integers(0))
    origin: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))
    subtracts: Integer = field(default_factory=lambda: frozen_integers(AS_THRESHOLD))
    inclusive: bool = False
    most: int = 1
    floor: Integer = field(default_factory=lambda: frozen_integers(NO_FLOOR))
    refractory: int = 0
    saturates: bool = False
    arithmetic: Arithmetic = LOIHI2

    def __post_init__(self) -> None:
        if np.array_equal(self.subtracts, AS_THRESHOLD):
            in_state_units = np.asarray(self.threshold, np.int64) << self.arithmetic.fraction_bits
            object.__setattr__(self, "subtracts", in_state_units)
        if self.arithmetic != LOIHI2 and np.array_equal(self.floor, NO_FLOOR):
            object.__setattr__(self, "floor", self.arithmetic.no_floor)
        for name in (
            "du",
            "dv",
            "threshold",
            "bias_mantissa",
            "start",
            "pulse",
            "subtracts",
            "floor",
        ):
            object.__setattr__(self, name, frozen_integers(getattr(self, name)))
        for name in ("scale", "origin"):
            real = np.array(getattr(self, name), dtype=np.float64)
            real.flags.writeable = False
            object.__setattr__(self, name, real)

    @property
    def readout(self) -> bool:
        """Whether the population never fires."""
        return self.shows != "spikes"

    @property
    def plain(self) -> bool:
        """Whether these are Lava's LIF neurons, which fire once, above a threshold, and reset to zero."""
        return (
            self.reset == "zero"
            and not self.inclusive
            and self.most == 1
            and self.refractory == 0
            and not self.floored
        )

    @property
    def hides_saturation(self) -> bool:
        """Whether a membrane at the upper end of its range fires once and is cleared, however high it would be."""
        end = self.arithmetic.membrane_end - (not self.inclusive)
        return (
            not self.readout
            and self.reset == "zero"
            and self.most == 1
            and self.arithmetic.membrane_overflow == "saturate"
            and not (self.threshold > end >> self.arithmetic.fraction_bits).any()
        )

    @property
    def floored(self) -> bool:
        """Whether some membranes stop before they reach the end of their range."""
        return bool((self.floor > self.arithmetic.no_floor).any())

    def in_source_units(self, states: NDArray[Any]) -> NDArray[np.float64]:
        """Return membranes (..., *shape), in state units, as the source network counts them."""
        result: NDArray[np.float64] = (
            states / (self.scale * self.arithmetic.state_units) + self.origin
        )
        return result

    def scale_of_rows(self, rows: int) -> NDArray[np.float64]:
        """Return the scale of each of `rows` rows of weights: one for each neuron, or for each channel."""
        each: NDArray[np.float64] = np.broadcast_to(self.scale, self.shape).reshape(rows, -1)[:, 0]
        return each

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

    `weight` is (out, in) for a dense group, with `in` and `out` in the C order of the populations'
    shapes, and (out channels, in channels / groups, kernel h, kernel w) where there is a `geometry`.
    A convolution sees its source as an image of shape `source_view` and its target as `target_view`,
    both in C order ((): the population's own shape, with (C, L) as (C, 1, L)). The sum is shifted by
    `exponent`: left if positive, else right, as Lava does, rounding down on the chip and to nearest on
    the host.

    `delay` counts steps of the layer-by-layer clock: one for all, one per source neuron (the source's
    shape) or, for a dense group, one per synapse (the weight's shape). A group that leads from a
    population to itself or to an earlier one must have a delay of at least 1: feedback carries the
    previous step's spikes. A group with `on_host` is computed by the host, which sends the sum as
    input current; its weights need not fit the chip.
    """

    name: str
    source: str
    target: str
    weight: Integer
    geometry: Geometry | None = None
    exponent: int = 0
    delay: Integer = field(default_factory=lambda: frozen_integers(0))
    on_host: bool = False
    source_view: Shape = ()
    target_view: Shape = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", frozen_integers(self.weight))
        object.__setattr__(self, "delay", frozen_integers(self.delay))


IntegerPopulation = IntegerInput | IntegerRelay | IntegerNeurons


@dataclass(frozen=True)
class IntegerNetwork:
    """
    Integer populations and the synapses between them.

    Each population follows its sources, but for groups whose delays are at least 1. `outputs` names the
    population that each output of the network shows.
    """

    populations: tuple[IntegerPopulation, ...]
    synapses: tuple[IntegerSynapses, ...]
    outputs: Mapping[str, str]

    def __getitem__(self, name: str) -> IntegerPopulation:
        return next(population for population in self.populations if population.name == name)

    def into(self, name: str) -> tuple[IntegerSynapses, ...]:
        """Return the synapse groups that end in population `name`."""
        return tuple(group for group in self.synapses if group.target == name)

    def out_of(self, name: str) -> tuple[IntegerSynapses, ...]:
        """Return the synapse groups that start in population `name`."""
        return tuple(group for group in self.synapses if group.source == name)

    def views(self, group: IntegerSynapses) -> tuple[Shape, Shape]:
        """Return the shapes in which `group` sees its source and its target."""
        return (
            group.source_view or image_shape(self[group.source].shape),
            group.target_view or image_shape(self[group.target].shape),
        )

    def synapse_count(self, group: IntegerSynapses) -> int:
        """Return how many synapses `group` has when written out, borders of images not subtracted."""
        used = int(np.count_nonzero(group.weight))
        if group.geometry is None:
            return used
        return used * math.prod(self.views(group)[1][1:])

    @property
    def longest_delay(self) -> int:
        """The most steps that a spike is late, by feedback or delays."""
        return max((int(group.delay.max(initial=0)) for group in self.synapses), default=0)

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

    `current` is in weight units, `membrane` in state units, over `steps` steps. `silence` is the current
    (weight units, taken off the input) that keeps the population from firing whatever arrives; it is
    part of `current`. It is 0 where nobody needs silence: see `Schedule.gap`.
    """

    layer: str
    current: int
    current_limit: int
    membrane: int
    membrane_limit: int
    steps: int
    silence: int = 0


@dataclass(frozen=True)
class Schedule:
    """
    When each population works: step t (from 1) of a sample is machine step

        (sample * (steps + gap) + t - 1) * stride + depth + 1

    A connection on the chip takes one machine step, a host-side one none. `gap` blank steps separate
    samples, in which populations with delayed connections must not fire, so that no sample hears the one
    before. `stride` is the number of machine steps in a step: more than 1 where a cycle has more
    connections than steps of delay; neurons then work at every stride-th machine step only.
    """

    depth: dict[str, int]
    gap: int = 0
    stride: int = 1

    @property
    def deepest(self) -> int:
        return max(self.depth.values())

    def period(self, steps: int) -> int:
        """Return the machine steps from one sample to the next."""
        return (steps + self.gap) * self.stride

    def wait(self, group: IntegerSynapses) -> Integer:
        """
        Return how many machine steps the spikes of `group` wait besides its connection's own step.

        It is never negative, and has the shape of the group's delay. Skipped layers and delays are one
        thing here: both are time to pass.
        """
        ahead = self.depth[group.target] - self.depth[group.source]
        return np.asarray(ahead - (0 if group.on_host else 1) + self.stride * group.delay)


@dataclass(frozen=True)
class Trace:
    """
    What an executor saw, on the layer-by-layer clock; every array is (samples, steps, *shape).

    `outputs` holds, by output, the input sums or membranes of a read-out in state units, or spikes.
    `spikes` (of the type `recorded_type`) and `membrane` (after the reset, in state units) hold what was
    asked for; `counters` how often a state wrapped or saturated, by layer (empty where the executor cannot
    see it).
    """

    outputs: dict[str, Integer]
    spikes: dict[str, NDArray[Any]]
    membrane: dict[str, Integer]
    counters: dict[str, dict[str, int]]


def recorded_type(item: IntegerPopulation) -> np.dtype[Any]:
    """Return what `Trace.spikes` holds of a population: uint8 where that holds all that it can send."""
    if isinstance(item, IntegerNeurons):
        return np.dtype(np.uint8 if item.most <= np.iinfo(np.uint8).max else np.int64)
    return np.dtype(np.int64)


class Joins(Protocol):
    """What all groups of synapses have, with real weights or integers."""

    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def delay(self) -> Integer: ...


def outliving(order: Iterable[str], groups: Iterable[Joins], relays: Container[str]) -> set[str]:
    """
    Return the populations whose values are heard in later steps: by a delay, or through such a relay.

    `order` names all populations, each after its sources; `relays` those that send sums at once.
    """
    leaving: dict[str, list[Joins]] = {}
    for group in groups:
        leaving.setdefault(group.source, []).append(group)
    heard: set[str] = set()
    for name in reversed(list(order)):
        for group in leaving.get(name, ()):
            if group.delay.any() or (group.target in relays and group.target in heard):
                heard.add(name)
    return heard


def largest_of(values: Integer) -> int:
    """Return the largest magnitude in `values`, 0 if there are none."""
    return max(int(values.max(initial=0)), -int(values.min(initial=0)))


def image_shape(shape: Shape) -> Shape:
    """Return (C, 1, L) for (C, L), and other shapes as they are."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def conv_output(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Return the length of a convolution's output, rounded down; 0 if nothing fits."""
    return max(0, (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)


def to_payload(population: IntegerInput, values: NDArray[Any]) -> Integer:
    """Return the integers that stand for `values`, unclipped; halves round to even."""
    scaled: Integer = np.rint(values.astype(np.float64) * population.scale).astype(np.int64)
    return scaled
