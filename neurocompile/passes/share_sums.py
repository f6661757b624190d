"""
Send sums of spikes as graded spikes, where that is cheaper than duplicated synapses.

A SEW block adds spikes to spikes, so that a convolution W behind it reads x_1 + x_2 + ...: after
`assemble`, one group with the same W from each of them. Both

    W x_1 + ... + W x_n        n copies of W's synapses
    W (x_1 + ... + x_n)        n identities, one population that sends the sum, one W

are the same. The second costs one synapse per spike and addend, the neurons of the sum, and a step of the
pipeline; it is taken where

    (n - 1) * synapses of all W that read this sum   >   n N + NEURON_COST * N         N neurons

A sum that contains an earlier one takes that as a single addend. Neurons that fire several times a step
send graded spikes themselves; their sums are always duplicated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from neurocompile.ir import Conv2d
from neurocompile.linear import identity, operator_of, slide_of
from neurocompile.names import free_name
from neurocompile.populations import (
    PopulationNetwork,
    SpikingPopulation,
    SumPopulation,
    SynapseGroup,
)

Sums = Literal["auto", "graded", "duplicate"]

NEURON_COST = 8  # synaptic operations that one more neuron is worth, at each step


@dataclass(frozen=True)
class SharedSum:
    """One decision: the layers that are added, what each way costs a step, and which was taken."""

    sources: tuple[str, ...]
    graded: bool
    cost_graded: int
    cost_duplicate: int


def share_sums(
    network: PopulationNetwork, *, sums: Sums = "auto", largest_sum: int = 255
) -> tuple[PopulationNetwork, tuple[SharedSum, ...]]:
    """
    Return `network` with sums of spikes shared, and the decisions.

    `sums` forces one way. A sum of more than `largest_sum` addends does not fit a graded spike.
    """
    decisions: list[SharedSum] = []
    made: dict[str, tuple[str, ...]] = {}
    readers = _same_readers(network)
    for names in sorted(readers, key=len):
        alike = readers[names]
        addends = _addends(names, made)
        shape = network[names[0]].shape
        size = math.prod(shape)
        duplicate = (len(names) - 1) * sum(_synapses(groups[0]) for groups in alike)
        graded = (len(addends) + NEURON_COST) * size
        take = len(names) <= largest_sum and (
            sums == "graded" or (sums == "auto" and graded < duplicate)
        )
        decisions.append(SharedSum(names, take, graded, duplicate))
        if take:
            network, name = _shared(network, names, addends, alike)
            made[name] = names
    return network, tuple(decisions)


def _addends(names: tuple[str, ...], made: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return what to add for the sum of `names`: sums that were `made`, largest first, and layers."""
    left = set(names)
    addends = []
    for name, inner in sorted(made.items(), key=lambda item: -len(item[1])):
        if left.issuperset(inner):
            addends.append(name)
            left.difference_update(inner)
    return (*addends, *sorted(left))


def _same_readers(
    network: PopulationNetwork,
) -> dict[tuple[str, ...], list[list[SynapseGroup]]]:
    """Return, for each set of layers that is read as a sum, the groups of each reader."""
    found: dict[tuple[str, ...], list[list[SynapseGroup]]] = {}
    for target in network.populations:
        bunches: list[list[SynapseGroup]] = []
        for group in network.into(target.name):
            source = network[group.source]
            if not isinstance(source, SpikingPopulation) or source.most_spikes != 1:
                continue
            if group.delay.any():
                continue
            bunch = next((bunch for bunch in bunches if _same_map(bunch[0], group)), None)
            if bunch is None:
                bunches.append([group])
            else:
                bunch.append(group)
        for bunch in bunches:
            shapes = {network[group.source].shape for group in bunch}
            if len(bunch) > 1 and len(shapes) == 1 and _synapses(bunch[0]) > math.prod(*shapes):
                names = tuple(sorted(group.source for group in bunch))
                found.setdefault(names, []).append(bunch)
    return found


def _same_map(one: SynapseGroup, other: SynapseGroup) -> bool:
    first, second = one.operator, other.operator
    if type(first) is not type(second) or one.source == other.source:
        return False
    if (one.source_view, one.target_view) != (other.source_view, other.target_view):
        return False
    if (
        isinstance(first, Conv2d)
        and isinstance(second, Conv2d)
        and slide_of(first) != slide_of(second)
    ):
        return False
    return first.weight is second.weight or np.array_equal(first.weight, second.weight)


def _synapses(group: SynapseGroup) -> int:
    """Return the number of synapses of a group, written out."""
    if isinstance(group.operator, Conv2d):
        return group.operator.weight.size * math.prod(group.target_view[1:])
    return group.operator.weight.size


def _shared(
    network: PopulationNetwork,
    names: tuple[str, ...],
    addends: tuple[str, ...],
    alike: Sequence[Sequence[SynapseGroup]],
) -> tuple[PopulationNetwork, str]:
    """Return `network` with the sum of `names`, made of `addends`, and the sum's name."""
    shape = network[names[0]].shape
    populations = list(network.populations)
    name = free_name({item.name for item in populations}, "+".join(names))
    last = max(place for place, item in enumerate(populations) if item.name in addends)
    populations.insert(last + 1, SumPopulation(name, shape, len(names)))
    operator, source_view, target_view = operator_of(identity(shape))
    replaced = {group.name for groups in alike for group in groups}
    synapses = [group for group in network.synapses if group.name not in replaced]
    synapses += [
        SynapseGroup(f"{source}>{name}", source, name, operator, source_view, target_view)
        for source in addends
    ]
    synapses += [
        replace(groups[0], name=f"{name}>{groups[0].target}", source=name) for groups in alike
    ]
    taken: set[str] = set()
    unique = []
    for group in synapses:
        chosen = free_name(taken, group.name)
        taken.add(chosen)
        unique.append(replace(group, name=chosen))
    return replace(network, populations=tuple(populations), synapses=tuple(unique)), name
