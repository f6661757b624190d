"""
How many bits each layer's weights get, where all together must fit a memory.

A group of synapses takes `weights * bits / 8` bytes: each weight that it holds, once, zeros included; a
convolution's kernels are held once for all places. What the host computes is not in the chip's memory.

Each layer offers a size and a cost for each number of bits, and the sum of costs shall be least while the
sizes fit: a multiple-choice knapsack. It is solved exactly by keeping, layer after layer, every sum that
no other beats in both size and cost. Should these be more than `MOST_SUMS`, costs are rounded up to a grid
on the way, and the answer says by how much it may miss the optimum.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import OptionError, Problem
from neurocompile.populations import PopulationNetwork, SumPopulation

MOST_SUMS = 200_000
GRID = 1 << 14  # of costs that are rounded, for the most that a sum can cost


@dataclass(frozen=True)
class Offer:
    """A way to hold the weights of one layer: `size` in bits, and what it costs the answer."""

    bits: int
    size: int
    cost: float


@dataclass(frozen=True)
class Packing:
    """The bits of each layer, their size in bits, their cost, and the most that a better one may save."""

    bits: Mapping[str, int]
    size: int
    cost: float
    gap: float


def weights_held(network: PopulationNetwork, on_host: Container[str] = ()) -> dict[str, int]:
    """Return how many weights end in each population that has its own, on the chip."""
    held: dict[str, int] = {}
    for group in network.synapses:
        if isinstance(network[group.target], SumPopulation) or group.name in on_host:
            continue
        held[group.target] = held.get(group.target, 0) + int(group.operator.weight.size)
    return held


def weights_in_sums(network: PopulationNetwork) -> int:
    """Return how many weights end in sums of spikes; they are ones, of as many bits as any weight has."""
    return sum(
        int(group.operator.weight.size)
        for group in network.synapses
        if isinstance(network[group.target], SumPopulation)
    )


def pack(offers: Mapping[str, Sequence[Offer]], budget: int, *, fixed: int = 0) -> Packing:
    """
    Return the cheapest choice of one offer for each layer whose sizes, beside what is `fixed`, fit `budget`.

    All sizes are in bits; that of the result holds what is fixed.

    Raises `OptionError`, naming the least that passes, where nothing fits.
    """
    offers = {
        name: [offer for offer in choice if math.isfinite(offer.cost)] or choice
        for name, choice in offers.items()
    }
    least = fixed + sum(min(offer.size for offer in choice) for choice in offers.values())
    if least > budget:
        fewest = min((offer.bits for choice in offers.values() for offer in choice), default=0)
        raise OptionError(
            Problem(
                "",
                f"weights must fit {budget // 8} bytes",
                f"with as few bits as they may have (down to {fewest}) they take {-(-least // 8)}",
                f"allow at least --memory {-(-least // 8)}",
            )
        )
    sizes: NDArray[np.int64] = np.full(1, fixed, np.int64)
    costs: NDArray[np.float64] = np.zeros(1)
    reached: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # (which before, which offer)
    rest = least - fixed
    gap = 0.0
    for choice in offers.values():
        rest -= min(offer.size for offer in choice)
        size = np.concatenate([sizes + offer.size for offer in choice])
        cost = np.concatenate([costs + offer.cost for offer in choice])
        before = np.tile(np.arange(len(sizes)), len(choice))
        which = np.repeat(np.arange(len(choice)), len(sizes))
        kept = _unbeaten(size, cost, budget - rest)
        if len(kept) > MOST_SUMS:
            step = float(cost[kept].max() - cost[kept].min()) / GRID
            gap += step
            kept = kept[_unbeaten(size[kept], np.ceil(cost[kept] / step), budget - rest)]
        sizes, costs = size[kept], cost[kept]
        reached.append((before[kept], which[kept]))
    place = best = int(np.argmin(costs))
    chosen: dict[str, int] = {}
    for (name, choice), (before, which) in zip(
        reversed(offers.items()), reversed(reached), strict=True
    ):
        chosen[name] = choice[int(which[place])].bits
        place = int(before[place])
    in_order = {name: chosen[name] for name in offers}
    return Packing(in_order, int(sizes[best]), float(costs[best]), gap)


def _unbeaten(
    size: NDArray[np.int64], cost: NDArray[np.float64], largest: int
) -> NDArray[np.int64]:
    """Return which sums fit `largest` and are beaten by no other in both size and cost, by size."""
    order: NDArray[np.int64] = np.lexsort((cost, size))
    order = order[size[order] <= largest]
    lowest = np.minimum.accumulate(cost[order])
    better = np.ones(len(order), bool)
    better[1:] = lowest[1:] < lowest[:-1]
    kept: NDArray[np.int64] = order[better]
    return kept
