"""
`PopulationNetwork`: neurons and the synapses between them, and nothing else.

After the structural passes there are no pools, reshapes or biases between populations any more:
a synapse group carries the spikes (or graded inputs) of one population to another, and the bias is
the neuron's. Weights are real numbers still; `quantise` ends that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.ir import Conv2d, Dense, Shape, frozen_array

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
    LIF neurons with unit input gain and hard reset to zero: `v = decay v + I + bias`, fire above.

    `bias` broadcasts to `shape`: (channels, 1, 1) for neurons behind convolutions.
    """

    name: str
    shape: Shape
    decay: float
    threshold: float
    bias: Float

    def __post_init__(self) -> None:
        object.__setattr__(self, "bias", frozen_array(self.bias))


@dataclass(frozen=True)
class ReadoutPopulation:
    """Neurons that never fire; what they receive at each step, plus `bias`, is the output."""

    name: str
    shape: Shape
    bias: Float

    def __post_init__(self) -> None:
        object.__setattr__(self, "bias", frozen_array(self.bias))


Population = InputPopulation | SpikingPopulation | ReadoutPopulation


@dataclass(frozen=True)
class SynapseGroup:
    """All synapses from one population to another; the operator's own bias is zero."""

    name: str
    source: str
    target: str
    operator: Dense | Conv2d


@dataclass(frozen=True)
class PopulationNetwork:
    """Populations, each after its sources, and the synapses between them."""

    populations: tuple[Population, ...]
    synapses: tuple[SynapseGroup, ...]
    outputs: tuple[str, ...]
    steps: int | None

    def __getitem__(self, name: str) -> Population:
        return next(population for population in self.populations if population.name == name)

    def into(self, name: str) -> tuple[SynapseGroup, ...]:
        """Return the synapse groups that end in population `name`."""
        return tuple(group for group in self.synapses if group.target == name)
