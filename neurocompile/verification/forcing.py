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

Where a real membrane lies on its threshold, the last bit of a float64 decides what it fires. A difference there
is no error of the layer, nor one that it inherited: it counts as a tie, and the rule holds for the rest.

A read-out has no spikes to count: what counts is how far its outputs are off, and what they decide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.decision import decisions
from neurocompile.integer import IntegerInput, IntegerNetwork
from neurocompile.names import free_name
from neurocompile.statistics import Share
from neurocompile.verification.report import LayerBlame, ReadoutBlame

Spikes = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Forced:
    """`network` on the integers, and the input that plays each layer, by layer."""

    network: IntegerNetwork
    players: Mapping[str, str]

    def played(self, spikes: Spikes) -> dict[str, NDArray[np.int64]]:
        """Return what the inputs get where the layers fire `spikes`, (samples, steps, *shape)."""
        return {player: spikes[name].astype(np.int64) for name, player in self.players.items()}


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
    """Places of one layer, of which differ: as it runs, under forcing, and only as it runs; `ties` are neither."""

    slots: int = 0
    total: int = 0
    own: int = 0
    inherited: int = 0
    ties: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.slots + other.slots,
            self.total + other.total,
            self.own + other.own,
            self.inherited + other.inherited,
            self.ties + other.ties,
        )


def count_own(
    reference: Spikes, free: Spikes, forced: Spikes, ties: Spikes | None = None
) -> dict[str, Counts]:
    """
    Return, by layer, how the running network and the forced one differ from `reference`.

    `ties` says where the reference's membranes lie on their thresholds, up to rounding.
    """
    result = {}
    for name, expected in reference.items():
        if name not in free or name not in forced:
            continue
        total, own = free[name] != expected, forced[name] != expected
        tied = own & ties[name] if ties and name in ties else np.zeros_like(own)
        result[name] = Counts(
            expected.size,
            int(total.sum()),
            int((own & ~tied).sum()),
            int((total & ~own).sum()),
            int(tied.sum()),
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


@dataclass(frozen=True)
class Answers:
    """
    Samples, of which a read-out decides otherwise: as the network runs, and under forcing.

    `total_error` and `own_error` are sums over `slots` outputs of differences without sign, in the source's
    units. A read-out of one output decides nothing: its `samples` are 0.
    """

    samples: int = 0
    total: int = 0
    own: int = 0
    slots: int = 0
    total_error: float = 0.0
    own_error: float = 0.0

    def __add__(self, other: Answers) -> Answers:
        return Answers(
            self.samples + other.samples,
            self.total + other.total,
            self.own + other.own,
            self.slots + other.slots,
            self.total_error + other.total_error,
            self.own_error + other.own_error,
        )


def count_answers(
    reference: NDArray[Any],
    free: NDArray[Any],
    forced: NDArray[Any],
    time_weights: Sequence[float] | None = None,
) -> Answers:
    """
    Return how outputs (samples, steps, *shape) of the running network and the forced one differ.

    All are in the source's units; `time_weights` are those of `decision.decisions`.
    """
    sides = (free, forced)
    errors = [float(np.abs(side - reference).sum()) for side in sides]
    decides = math.prod(reference.shape[2:]) > 1
    expected = decisions(reference, time_weights)
    others = [
        int((decisions(side, time_weights) != expected).sum()) if decides else 0 for side in sides
    ]
    return Answers(
        len(reference) if decides else 0, others[0], others[1], reference.size, errors[0], errors[1]
    )


def readout_blame_of(answers: Mapping[str, Answers]) -> tuple[ReadoutBlame, ...]:
    """Return the read-outs with their shares and mean errors, the most own changed decisions first."""
    blamed = [
        ReadoutBlame(
            name,
            total=Share(found.total, found.samples),
            own=Share(found.own, found.samples),
            total_error=found.total_error / max(1, found.slots),
            own_error=found.own_error / max(1, found.slots),
        )
        for name, found in answers.items()
    ]
    return tuple(sorted(blamed, key=lambda item: (-item.own.value, -item.own_error)))
