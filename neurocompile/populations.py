"""
`PopulationNetwork`: neurons and the synapses between them, and nothing else.

After the structural passes there are no pools, reshapes, delays or biases between populations any
more: a synapse group carries the spikes (or graded inputs) of one population to another, and the bias
is the neuron's. Weights are real numbers still; `quantise` ends that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.integer import Comparison, Reset, Shape, image_shape
from neurocompile.ir import Conv2d, Dense, frozen_array

Float = NDArray[np.float64]


@dataclass(frozen=True)
class InputPopulation:
    """Values that the host sends."""

    name: str
    shape: Shape
    range: InputRange


@dataclass(frozen=True)
class SpikingPopulation:
    """
    LIF neurons with unit gain, which reset to zero or subtract their threshold.

        i = current_decay i + I        v = decay v + i + bias

    with `pulse` added to I and `start` to v at the first step, and fire as `ir.LIF` does, with its
    `comparison`, `subtracts`, `most_spikes`, `floor` and `refractory`. Arrays broadcast to `shape`:
    (channels, 1, 1) behind convolutions.
    """

    name: str
    shape: Shape
    decay: Float
    threshold: Float
    bias: Float
    current_decay: Float = field(default_factory=lambda: frozen_array(0.0))
    start: Float = field(default_factory=lambda: frozen_array(0.0))
    pulse: Float = field(default_factory=lambda: frozen_array(0.0))
    origin: Float = field(default_factory=lambda: frozen_array(0.0))  # + v: the source's membrane
    reset: Reset = "zero"
    comparison: Comparison = ">"
    subtracts: Float | None = None
    most_spikes: int | None = 1
    floor: Float | None = None
    refractory: int = 0

    def __post_init__(self) -> None:
        for name in ("decay", "threshold", "bias", "current_decay", "start", "pulse", "origin"):
            object.__setattr__(self, name, frozen_array(getattr(self, name)))
        for name in ("subtracts", "floor"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else frozen_array(value))

    @property
    def taken(self) -> Float:
        """What a spike takes off the membrane, where it is not reset to zero."""
        return self.threshold if self.subtracts is None else self.subtracts


@dataclass(frozen=True)
class ReadoutPopulation:
    """
    Neurons that never fire; the output is what they receive at each step plus `bias`.

    With a `decay` they integrate, as a spiking population does (`pulse` included), and the output is
    their membrane.
    """

    name: str
    shape: Shape
    bias: Float
    decay: Float | None = None
    current_decay: Float = field(default_factory=lambda: frozen_array(0.0))
    pulse: Float = field(default_factory=lambda: frozen_array(0.0))

    def __post_init__(self) -> None:
        for name in ("bias", "decay", "current_decay", "pulse"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else frozen_array(value))


@dataclass(frozen=True)
class SumPopulation:
    """Neurons that send the sum of the spikes they receive, 0 to `largest`, as one graded spike."""

    name: str
    shape: Shape
    largest: int


Population = InputPopulation | SpikingPopulation | ReadoutPopulation | SumPopulation


@dataclass(frozen=True)
class SynapseGroup:
    """
    All synapses from one population to another; the operator's own bias is zero.

    A convolution sees source and target as images of shape `source_view` and `target_view`. `delay`
    counts steps: one for all, one per source neuron, or one per synapse of a dense operator.
    """

    name: str
    source: str
    target: str
    operator: Dense | Conv2d
    source_view: Shape
    target_view: Shape
    delay: NDArray[np.int64] = field(default_factory=lambda: frozen_array(0, np.int64))

    def __post_init__(self) -> None:
        object.__setattr__(self, "delay", frozen_array(self.delay, np.int64))
        for name in ("source_view", "target_view"):
            object.__setattr__(self, name, image_shape(getattr(self, name)))


@dataclass(frozen=True)
class PopulationNetwork:
    """
    Populations, each after its sources but for delayed ones, and the synapses between them.

    `outputs` names the population that each output of the network shows; `weight_unit` is that of
    `ir.Network`.
    """

    populations: tuple[Population, ...]
    synapses: tuple[SynapseGroup, ...]
    outputs: Mapping[str, str]
    steps: int | None
    weight_unit: float | Mapping[str, float] | None = None

    def __getitem__(self, name: str) -> Population:
        return next(population for population in self.populations if population.name == name)

    def into(self, name: str) -> tuple[SynapseGroup, ...]:
        """Return the synapse groups that end in population `name`."""
        return tuple(group for group in self.synapses if group.target == name)

    def out_of(self, name: str) -> tuple[SynapseGroup, ...]:
        """Return the synapse groups that start in population `name`."""
        return tuple(group for group in self.synapses if group.source == name)
