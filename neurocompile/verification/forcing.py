"""
Teacher forcing: every layer of a network runs on given spikes of the layers before it.

Spikes that a population would send come from an input instead, which plays what a reference fired;
delays stay, and sums of spikes are summed from the reference's. So one run shows each layer's own error,
with nothing inherited: the populations hear each other's reference only, and feedback is the reference's,
too. Resets are the layer's own. Values of the host come as integers: rounding them is the own error of the
layers that they feed.

The sum rule: over the same places,

    total - inherited  =  differences of the running network that stay under forcing  <=  own

so that `own` + `inherited` is at least `total`; they are equal if no own difference is hidden by
inherited ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.integer import IntegerInput, IntegerNetwork
from neurocompile.names import free_name
from neurocompile.populations import InputPopulation, PopulationNetwork, SpikingPopulation
from neurocompile.statistics import Share
from neurocompile.verification.report import LayerBlame

Spikes = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Forced:
    """`network` on the integers, and the input that plays each layer, by layer."""

    network: IntegerNetwork
    players: Mapping[str, str]

    def played(self, spikes: Spikes) -> dict[str, NDArray[np.int64]]:
        """Return what the inputs get where the layers fire `spikes`, (samples, steps, *shape)."""
        return {player: spikes[name].astype(np.int64) for name, player in self.players.items()}


@dataclass(frozen=True)
class ForcedReals:
    """`network` in real numbers, and the input that plays each layer, by layer."""

    network: PopulationNetwork
    players: Mapping[str, str]

    def played(self, spikes: Spikes) -> dict[str, NDArray[np.float64]]:
        """Return what the inputs get where the layers fire `spikes`, (samples, steps, *shape)."""
        return {player: spikes[name].astype(np.float64) for name, player in self.players.items()}


def force(network: IntegerNetwork, most: Mapping[str, int]) -> Forced:
    """
    Return `network` with an input in the place of every layer that others hear.

    `most` is how many spikes a neuron of each layer is played at most in a step; where a layer can fire
    more, that counts.
    """
    heard = {group.source for group in network.synapses}
    layers = [item for item in network.spiking if item.name in heard]
    players = _players([item.name for item in network.populations], [item.name for item in layers])
    inputs = tuple(
        IntegerInput(
            players[item.name],
            item.shape,
            scale=1.0,
            minimum=0,
            maximum=max(item.most, most.get(item.name, 1)),
            exact=True,
        )
        for item in layers
    )
    synapses = tuple(
        replace(group, source=players.get(group.source, group.source)) for group in network.synapses
    )
    return Forced(
        replace(network, populations=(*inputs, *network.populations), synapses=synapses), players
    )


def force_reals(network: PopulationNetwork, most: Mapping[str, int]) -> ForcedReals:
    """Return `network` with an input in the place of every layer that others hear, as `force` does."""
    heard = {group.source for group in network.synapses}
    layers = [
        item
        for item in network.populations
        if isinstance(item, SpikingPopulation) and item.name in heard
    ]
    players = _players([item.name for item in network.populations], [item.name for item in layers])
    inputs = tuple(
        InputPopulation(
            players[item.name],
            item.shape,
            InputRange(0, max(item.most_spikes or 1, most.get(item.name, 1)), 1),
        )
        for item in layers
    )
    synapses = tuple(
        replace(group, source=players.get(group.source, group.source)) for group in network.synapses
    )
    return ForcedReals(
        replace(network, populations=(*inputs, *network.populations), synapses=synapses), players
    )


def _players(taken: Sequence[str], layers: Sequence[str]) -> dict[str, str]:
    names = set(taken)
    players: dict[str, str] = {}
    for layer in layers:
        players[layer] = free_name(names, f"reference of {layer}")
        names.add(players[layer])
    return players


def most_fired(spikes: Spikes) -> dict[str, int]:
    """Return how many spikes a neuron of each layer fired at most in a step."""
    return {name: int(values.max(initial=0)) for name, values in spikes.items()}


@dataclass(frozen=True)
class Counts:
    """Places of one layer, of which differ: as it runs, under forcing, and only as it runs."""

    slots: int = 0
    total: int = 0
    own: int = 0
    inherited: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.slots + other.slots,
            self.total + other.total,
            self.own + other.own,
            self.inherited + other.inherited,
        )


def count_own(reference: Spikes, free: Spikes, forced: Spikes) -> dict[str, Counts]:
    """Return, by layer, how the running network and the forced one differ from `reference`."""
    result = {}
    for name, expected in reference.items():
        if name not in free or name not in forced:
            continue
        total, own = free[name] != expected, forced[name] != expected
        result[name] = Counts(
            expected.size, int(total.sum()), int(own.sum()), int((total & ~own).sum())
        )
    return result


def blame_of(counts: Mapping[str, Counts]) -> tuple[LayerBlame, ...]:
    """Return the layers with their shares, the most own differences per place first."""
    blamed = [
        LayerBlame(
            name,
            total=Share(layer.total, layer.slots),
            own=Share(layer.own, layer.slots),
            inherited=Share(layer.inherited, layer.slots),
        )
        for name, layer in counts.items()
    ]
    return tuple(sorted(blamed, key=lambda layer: -layer.own.value))
