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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import MissingDependencyError, Problem
from neurocompile.verification.report import Distances

TAU = 2.0  # steps: spikes one or two steps late are close, those of other spikes are not
COST = 0.5  # a step: a spike is moved by up to 4 steps before it is cheaper to remove and add one
MOST_PAIRS = 1024  # different pairs of trains of a network, whatever its size: about 4 s
SEED = 0
WORTH = 2  # so many pairs computed at once take as long as one by itself
LARGEST = 2**62  # that stands for a row of numbers as one

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


@dataclass(frozen=True)
class _Differing:
    """
    The pairs of trains of a layer that differ, as rows of both, the smaller first: distances have no direction.

    `pairs` are the different ones, `counts` how often each is there, `share` of all neurons and samples differ.
    """

    pairs: NDArray[np.int64]
    counts: NDArray[np.int64]
    share: float
    drawn: int | None = None

    def of(self, most: int) -> _Differing:
        """Return at most `most` differing neurons, drawn at random, if there are more different pairs."""
        if len(self.pairs) <= most:
            return self
        random = np.random.default_rng(SEED)
        drawn = random.multivariate_hypergeometric(self.counts, most, method="marginals")
        there = drawn > 0
        return _Differing(self.pairs[there], drawn[there], self.share, int(there.sum()))


def distances_of(
    reference: Spikes, candidate: Spikes, *, tau: float = TAU, cost: float = COST
) -> tuple[Distances, ...]:
    """
    Return the mean distances of the trains in each layer that both show; membranes are not looked at.

    Means are over all neurons and samples, those that fire alike included (their distance is 0).
    Each pair of trains that occurs in the network is computed once. Where there are more than `MOST_PAIRS`,
    the layers with most of them have a mean over some of their differing neurons, drawn at random with a
    fixed seed, times the share of those that differ; `drawn` says so. Raises `MissingDependencyError`
    without Elephant.
    """
    need_elephant()
    layers = {
        name: _differing(values, candidate[name])
        for name, values in reference.items()
        if name in candidate
    }
    chosen = _bounded(layers)
    known = _each({row.tobytes(): row for item in chosen.values() for row in item.pairs}, tau, cost)
    result = []
    for name, item in chosen.items():
        means = np.zeros(2)
        if len(item.pairs):
            each = np.array([known[row.tobytes()] for row in item.pairs])
            means = item.counts @ each / item.counts.sum() * item.share
        result.append(
            Distances(
                name,
                float(means[0]),
                tau,
                float(means[1]),
                cost,
                None,
                None,
                pairs=len(layers[name].pairs),
                drawn=item.drawn,
            )
        )
    return tuple(result)


def _bounded(layers: Mapping[str, _Differing]) -> dict[str, _Differing]:
    """Return `layers` with so many pairs that they are `MOST_PAIRS` together; small ones keep all of theirs."""
    if all(len(item.pairs) <= MOST_PAIRS for item in layers.values()):
        different = {row.tobytes() for item in layers.values() for row in item.pairs}
        if len(different) <= MOST_PAIRS:
            return dict(layers)
    bounded: dict[str, _Differing] = {}
    left = MOST_PAIRS
    by_size = sorted(layers, key=lambda name: len(layers[name].pairs))
    for number, name in enumerate(by_size):
        bounded[name] = layers[name].of(max(1, left // (len(by_size) - number)))
        left -= len(bounded[name].pairs)
    return {name: bounded[name] for name in layers}


def _differing(before: NDArray[Any], after: NDArray[Any]) -> _Differing:
    first, second = _trains(before), _trains(after)
    unlike = first != second
    differs = unlike.any(1)
    share = float(differs.mean()) if len(differs) else 0.0
    first, second = first[differs], second[differs]
    at = np.arange(len(first)), unlike[differs].argmax(1) if len(first) else np.zeros(0, np.int64)
    smaller = (first[at] < second[at])[:, np.newaxis]
    rows = np.concatenate(
        [np.where(smaller, first, second), np.where(smaller, second, first)], axis=1
    )
    pairs, counts = _distinct(rows)
    return _Differing(pairs.astype(np.int64), counts, share)


def _distinct(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the different rows of numbers from 0 on, in order, and how often each is there."""
    base = int(rows.max(initial=0)) + 1
    number, span = np.zeros(len(rows), np.int64), 1
    for column in rows.T:
        if span * base > LARGEST:  # what is there so far is numbered anew
            _, number = np.unique(number, return_inverse=True)
            span = len(rows)
        number, span = base * number + column.astype(np.int64), span * base
    _, at, counts = np.unique(number, return_index=True, return_counts=True)
    return rows[at], counts


def _trains(spikes: NDArray[Any]) -> NDArray[Any]:
    """Return (samples * neurons, steps) of (samples, steps, *shape)."""
    return np.moveaxis(spikes, 1, -1).reshape(-1, spikes.shape[1])


def _each(
    pairs: Mapping[bytes, NDArray[np.int64]], tau: float, cost: float
) -> dict[bytes, tuple[float, float]]:
    """
    Return both distances of each pair.

    Where few trains make many pairs, all of them are computed at once, which takes less time.
    """
    if not pairs:
        return {}
    trains: dict[bytes, NDArray[np.int64]] = {}
    ends: dict[bytes, tuple[bytes, bytes]] = {}
    for key, row in pairs.items():
        halves = row[: len(row) // 2], row[len(row) // 2 :]
        ends[key] = halves[0].tobytes(), halves[1].tobytes()
        trains |= dict(zip(ends[key], halves, strict=True))
    if len(trains) * (len(trains) - 1) // 2 > WORTH * len(pairs):
        alone = {key: _matrices([trains[a], trains[b]], tau, cost) for key, (a, b) in ends.items()}
        return {
            key: (float(rossum[0, 1]), float(victor[0, 1]))
            for key, (rossum, victor) in alone.items()
        }
    rossum, victor = _matrices(list(trains.values()), tau, cost)
    place = {key: number for number, key in enumerate(trains)}
    return {
        key: (float(rossum[place[a], place[b]]), float(victor[place[a], place[b]]))
        for key, (a, b) in ends.items()
    }


def _matrices(
    trains: Sequence[NDArray[np.int64]], tau: float, cost: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return van Rossum's and Victor and Purpura's distances of all pairs of some trains."""
    import quantities as pq
    from elephant.spike_train_dissimilarity import van_rossum_distance, victor_purpura_distance

    # Elephant wants units; a step is a second here, and no second anywhere else.
    times = [np.repeat(np.arange(len(train)), train) * pq.s for train in trains]
    return (
        van_rossum_distance(times, time_constant=tau * pq.s, sort=False),
        victor_purpura_distance(times, cost_factor=cost * pq.Hz, sort=False),
    )
