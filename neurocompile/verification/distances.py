"""
How far the spike trains of two stages are apart, by the measures of neuroscience; Elephant computes them.

Time is counted in steps. A neuron that fires n times in one step has n spikes at that time.

    van Rossum (2001)         trains are filtered by exp(-t / tau); the Euclidean distance of the results,
                              scaled so that one spike more is a distance of 1. Two single spikes that are
                              d steps apart: sqrt(2 (1 - exp(-d / tau))).
    Victor, Purpura (1996)    the least cost of making one train the other: 1 for adding or removing a
                              spike, `cost` for moving one by a step. Single spikes d apart: min(2, d cost).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import MissingDependencyError, Problem
from neurocompile.verification.report import Distances

TAU = 2.0  # steps: spikes one or two steps late are close, those of other spikes are not
COST = 0.5  # a step: a spike is moved by up to 4 steps before it is cheaper to remove and add one
MOST_PAIRS = 1024  # different pairs of trains of a layer: about 3 s
SEED = 0

Spikes = Mapping[str, NDArray[Any]]  # by layer, (samples, steps, *shape)


def need_elephant() -> None:
    """Raise `MissingDependencyError` if Elephant is not there."""
    if find_spec("elephant") is None:
        raise MissingDependencyError(
            Problem(
                "",
                "distances of spike trains need Elephant",
                "it is not installed",
                "pip install 'neurocompile[distances]'",
            )
        )


def distances_of(
    reference: Spikes, candidate: Spikes, *, tau: float = TAU, cost: float = COST
) -> tuple[Distances, ...]:
    """
    Return the mean distances of the trains in each layer that both show; membranes are not looked at.

    Means are over all neurons and samples, those that fire alike included (their distance is 0).
    Each pair of trains that occurs is computed once. A layer with more than `MOST_PAIRS` different ones
    has a mean over so many differing neurons, drawn at random with a fixed seed, times the share of those
    that differ. Raises `MissingDependencyError` without Elephant.
    """
    need_elephant()
    return tuple(
        _of_layer(name, values, candidate[name], tau, cost)
        for name, values in reference.items()
        if name in candidate
    )


def _of_layer(
    name: str, before: NDArray[Any], after: NDArray[Any], tau: float, cost: float
) -> Distances:
    first, second = _trains(before), _trains(after)
    differs = (first != second).any(1)
    differing = np.concatenate([first[differs], second[differs]], axis=1)
    distinct, counts = np.unique(differing, axis=0, return_counts=True)
    share = len(differing) / max(1, len(first))
    if len(distinct) > MOST_PAIRS:
        drawn = np.random.default_rng(SEED).choice(len(differing), MOST_PAIRS, replace=False)
        distinct, counts = np.unique(differing[np.sort(drawn)], axis=0, return_counts=True)
    steps = before.shape[1]
    each = np.array([_pair(row[:steps], row[steps:], tau, cost) for row in distinct])
    means = counts @ each / counts.sum() * share if len(each) else np.zeros(2)
    return Distances(name, float(means[0]), tau, float(means[1]), cost, None, None)


def _trains(spikes: NDArray[Any]) -> NDArray[Any]:
    """Return (samples * neurons, steps) of (samples, steps, *shape)."""
    return np.moveaxis(spikes, 1, -1).reshape(-1, spikes.shape[1])


def _pair(
    first: NDArray[Any], second: NDArray[Any], tau: float, cost: float
) -> tuple[float, float]:
    """Return van Rossum's and Victor and Purpura's distance of two trains."""
    import quantities as pq
    from elephant.spike_train_dissimilarity import van_rossum_distance, victor_purpura_distance

    # Elephant wants units; a step is a second here, and no second anywhere else.
    trains = [
        np.repeat(np.arange(len(train)), train.astype(np.int64)) * pq.s for train in (first, second)
    ]
    rossum = van_rossum_distance(trains, time_constant=tau * pq.s, sort=False)[0, 1]
    victor = victor_purpura_distance(trains, cost_factor=cost * pq.Hz, sort=False)[0, 1]
    return float(rossum), float(victor)
