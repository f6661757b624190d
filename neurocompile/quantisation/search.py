"""
Choose the integers of one population by what its neurons do on samples.

A candidate is a set of integers that is proven: `Fitter.fit` made it. It is judged by running the exact
integer dynamics on what its sources send, beside what the population of real numbers does on real inputs:

    spikes      the share of spikes that differ, and half of how far the mean rate of each row is off, as
                what is off to one side adds up behind it; ties go to the smaller error of membranes
    membrane    the mean square of (v / (64 S) - V) / threshold, before resets

A read-out fires nothing: its error is the mean square of what it shows at the end, the mean over all steps,
where samples that are decided by little weigh more (1 / (margin^2 + median margin^2)).

The candidates are scales from well below that of the largest weight to well beyond it, where weights are
clipped; with a scale for each channel, channels are independent of each other, and each takes its own best.
Among them are those of all methods that need no data, so that on these places none of them is better. Then
thresholds alone are moved, beside the same weights: where weights are coarse, the scale that fits them best
is not the one that rounded them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import RangeError
from neurocompile.integer import Integer, IntegerNeurons, IntegerPopulation
from neurocompile.populations import ReadoutPopulation, SpikingPopulation, SynapseGroup
from neurocompile.quantisation.fit import Fit, Fitter
from neurocompile.quantisation.observe import (
    Places,
    Record,
    Values,
    Windows,
    integer_sums,
    run_neurons,
)
from neurocompile.quantisation.recipe import Method, Objective, Recipe, Scales, Wish
from neurocompile.quantisation.scales import by_channel, channel_count, wished_scale

Float = NDArray[np.float64]

LOWEST_RATIO = 0.6  # of scales that are tried, to that of the largest weight
HIGHEST_RATIO = {2: 6.0, 3: 4.0, 4: 3.0, 5: 2.5, 6: 2.0, 7: 1.7}  # by weight bits
HIGHEST_OF_MORE = 1.5
COARSE, FINE = 16, 4  # how many scales are tried first, and between the best one and its neighbours
GAINS = (0.85, 0.9, 0.94, 0.97, 1.03, 1.06, 1.1, 1.15)  # of thresholds beside the same weights
IMBALANCE = 0.5  # what a change of the mean rate counts, beside spikes that differ
SIMPLE: tuple[Method, ...] = ("max", "power-of-two", "mse", "percentile")


@dataclass(frozen=True)
class Score:
    """
    What is minimised, for each row of the places, and what decides ties; smaller is better.

    `differ` is the share of spikes that differ, None of what fires none or is judged by its membrane.
    """

    first: Float
    second: Float
    differ: Float | None = None

    @property
    def total(self) -> tuple[float, float]:
        """The means over rows."""
        return float(self.first.mean()), float(self.second.mean())

    @property
    def told(self) -> float:
        """What people are told: the plain share of spikes that differ, or what is minimised."""
        return float((self.first if self.differ is None else self.differ).mean())


@dataclass(frozen=True)
class Layer:
    """
    A population whose integers are to be chosen, and what to judge them by.

    `sources` are the integer populations that feed it, `sent` the integers that these send on the samples,
    (samples, steps, *shape); `record` is what it shall do at its `places`.
    """

    fitter: Fitter
    population: SpikingPopulation | ReadoutPopulation
    groups: tuple[SynapseGroup, ...]
    sources: Mapping[str, IntegerPopulation]
    silent_steps: int
    sent: Values
    places: Places
    record: Record
    objective: Objective = "spikes"

    @property
    def on_chip(self) -> tuple[SynapseGroup, ...]:
        """The groups whose weights the chip must hold."""
        return tuple(group for group in self.groups if group.name not in self.fitter.on_host)

    @cached_property
    def windows(self) -> dict[str, Windows]:
        """What arrives at the places, by group."""
        return {
            group.name: Windows(group, self.sent[group.source], self.places)
            for group in self.groups
        }

    @cached_property
    def weighing(self) -> Float:
        """How much each place counts, (places, 1)."""
        if isinstance(self.population, SpikingPopulation):
            return np.ones((len(self.places), 1))
        shown = self.record.membrane.mean(1)
        if self.places.pixels > 1 or shown.shape[1] < 2:
            spreading = float(shown.var()) or 1.0
            return np.full((len(shown), 1), 1 / spreading)
        ordered = np.sort(shown, axis=1)
        margin = ordered[:, -1] - ordered[:, -2]
        typical = float(np.median(margin)) or float(margin.mean()) or 1.0
        weights: Float = 1 / (np.square(margin) + typical**2)
        return weights[:, None]

    def fit(self, wish: Wish) -> Fit | None:
        """Return the proven integers of a wish, None if there are none."""
        try:
            return self.fitter.fit(
                self.population,
                self.groups,
                self.sources,
                wish,
                silent_steps=self.silent_steps,
            )
        except RangeError:
            return None

    def sums(self, fit: Fit) -> Integer:
        """Return the input sums at the places, (places, steps, rows)."""
        from neurocompile_fixedpoint.definition import shift

        if self.places.whole:
            sums = integer_sums(fit.groups, self.sources, fit.neurons, self.sent)
            return np.asarray(self.places.of_record(sums), np.int64)
        total: Integer = np.zeros((), np.int64)
        for group in fit.groups:
            whole = self.windows[group.name].sums(group.weight).astype(np.int64)
            total = total + shift(whole, group.exponent, to_nearest=group.on_host)
        shape = (len(self.places), self.record.membrane.shape[1], self.places.rows)
        return np.broadcast_to(total, shape)

    def judge(self, fit: Fit) -> Score:
        """Return how far integers are from the real numbers."""
        neurons = self.places.neurons(fit.neurons)
        sums = self.sums(fit)
        spikes, membrane = run_neurons(neurons, sums)
        if isinstance(self.population, ReadoutPopulation):
            if neurons.shows == "input":
                shifted = sums << neurons.arithmetic.fraction_bits
                membrane = shifted + _over_steps(neurons.bias).astype(np.int64)
            shown = _in_units(neurons, membrane)
            error = np.square((shown - self.record.membrane).mean(1)) * self.weighing
            each = np.square(shown - self.record.membrane).mean(1) * self.weighing
            return Score(error.mean(0), each.mean(0))
        threshold = np.maximum(np.abs(self.places.of_parameter(self.population.threshold)), 1e-12)
        shown = _in_units(neurons, membrane)
        error = np.square((shown - self.record.membrane) / _over_steps(threshold)).mean(1)
        second: Float = error.mean(0)
        if self.objective == "membrane":
            return Score(second, second)
        assert self.record.spikes is not None
        wanted = self.record.spikes.astype(np.int64)
        differ = (spikes != wanted).mean((0, 1))
        imbalance = np.abs((spikes - wanted).mean((0, 1)))
        return Score(differ + IMBALANCE * imbalance, second, differ)


def _over_steps(values: NDArray[np.generic]) -> Float:
    """Return what broadcasts to (places, rows) as what broadcasts to (places, steps, rows)."""
    array = np.asarray(values)
    return array[:, None, :] if array.ndim == 2 else array


def _in_units(neurons: IntegerNeurons, states: Integer) -> Float:
    result: Float = states / (_over_steps(neurons.scale) * neurons.arithmetic.state_units)
    return result


@dataclass(frozen=True)
class Candidate:
    """Proven integers, the wish that gives them again, and how good they are."""

    wish: Wish
    fit: Fit
    score: Score

    def better_than(self, other: Candidate) -> bool:
        return self.score.total < other.score.total


@dataclass
class Search:
    """Tries candidates for one layer, each once; `best` is the best one of all, and never gets worse."""

    layer: Layer
    best: Candidate
    tried: int = 0
    seen: dict[bytes, Candidate] = field(default_factory=dict)

    def offer(self, wish: Wish) -> Candidate | None:
        """Try a wish; return the candidate, None if nothing of it is proven."""
        fit = self.layer.fit(wish)
        if fit is None:
            return None
        key = fit.scale.tobytes() + (b"" if wish.bias is None else wish.bias.tobytes())
        plain = not wish.weights
        if plain and key in self.seen:
            return self.seen[key]
        self.tried += 1
        candidate = Candidate(_final(wish, fit), fit, self.layer.judge(fit))
        if plain:
            self.seen[key] = candidate
        if candidate.better_than(self.best):
            self.best = candidate
        return candidate

    def offer_best_of_channels(
        self, candidates: Sequence[Candidate], channels: int
    ) -> Candidate | None:
        """Try, for each channel, what is best for it among `candidates`."""
        if channels == 1 or len(candidates) < 2:
            return None
        places = best_places([candidate.score for candidate in candidates], channels)
        return self.offer(_gathered(self.layer, candidates, places, channels))


def _final(wish: Wish, fit: Fit) -> Wish:
    """Return the wish that gives the integers of `fit` again, and tells what the proof of `wish` took."""
    return replace(
        wish,
        scale=fit.scale,
        final=True,
        lowering=fit.lowering,
        cramping=fit.cramping,
        rounded_at=fit.rounded_at if wish.weights else None,
    )


def best_places(scores: Sequence[Score], channels: int) -> Integer:
    """Return which score is the best one of each channel."""
    first = np.stack([score.first.reshape(channels, -1).mean(1) for score in scores])
    second = np.stack([score.second.reshape(channels, -1).mean(1) for score in scores])
    places: Integer = np.where(first == first.min(0), second, np.inf).argmin(0)
    return places


def _gathered(
    layer: Layer, candidates: Sequence[Candidate], places: Integer, channels: int
) -> Wish:
    """Return the wish for each channel's own candidate."""
    population = layer.population
    own = np.arange(channels)
    weights: dict[str, Integer] = {}
    if any(item.wish.weights for item in candidates):
        for number, group in enumerate(candidates[0].fit.groups):
            if group.on_host:
                continue
            rows = [item.fit.groups[number].weight for item in candidates]
            by_channels = np.stack([part.reshape(channels, -1) for part in rows])
            weights[group.name] = by_channels[places, own].reshape(rows[0].shape)
    bias = None
    if any(item.wish.bias is not None for item in candidates):
        biases = np.stack(
            [
                by_channel(
                    population.bias if item.wish.bias is None else item.wish.bias,
                    population.shape,
                    channels,
                )
                for item in candidates
            ]
        )
        bias = biases[places, own].reshape(population.shape)
    one_for_all = all(len(item.fit.scale) == 1 for item in candidates)  # before and after

    def chosen(numbers: Sequence[Float]) -> Float:
        by_channels = np.stack([np.broadcast_to(each, channels) for each in numbers])[places, own]
        return by_channels[:1] if one_for_all else by_channels

    return Wish(
        candidates[0].wish.weight_bits,
        chosen([item.fit.scale for item in candidates]),
        final=True,
        weights=weights,
        bias=bias,
        lowering=chosen([item.fit.lowering for item in candidates]),
        cramping=chosen([item.fit.cramping for item in candidates]),
        rounded_at=chosen([item.fit.rounded_at for item in candidates]) if weights else None,
    )


def begin(layer: Layer, wish: Wish) -> Search | None:
    """Return a search that starts from a wish, None if nothing of it is proven."""
    fit = layer.fit(wish)
    if fit is None:
        return None
    start = Candidate(_final(wish, fit), fit, layer.judge(fit))
    return Search(layer, start, tried=1)


def search_scale(search: Search, recipe: Recipe, bits: int, *, quickly: bool = False) -> None:
    """
    Try scales from well below that of the largest weight to well beyond it.

    `quickly` tries half of them, and none between.
    """
    layer = search.layer
    channels = channel_count(layer.population, layer.groups) if recipe.scales == "channel" else 1
    tops = {scales: _wished(layer, bits, "max", scales) for scales in _kinds(recipe)}
    highest = HIGHEST_RATIO.get(bits, HIGHEST_OF_MORE)
    ratios = np.geomspace(LOWEST_RATIO, highest, COARSE // 2 if quickly else COARSE)
    found: list[Candidate] = []

    def offer(scale: Float) -> None:
        candidate = search.offer(Wish(bits, np.broadcast_to(scale, channels).copy()))
        if candidate is not None:
            found.append(candidate)

    for scales, top in tops.items():
        for method in SIMPLE:
            offer(_wished(layer, bits, method, scales, recipe.percentile))
        for ratio in ratios:
            offer(top * ratio)
    if not found:
        return
    step = float(ratios[1] / ratios[0])
    finer = [step ** (part / (FINE + 1) * side) for side in (-1, 1) for part in range(1, FINE + 1)]
    places = best_places([candidate.score for candidate in found], channels)
    scale = np.stack([np.broadcast_to(item.fit.scale, channels) for item in found])
    around = scale[places, np.arange(channels)]
    for factor in () if quickly else finer:
        offer(around * factor)
    search.offer_best_of_channels(found, channels)


def search_gain(search: Search) -> None:
    """Try other thresholds beside the weights that were chosen."""
    start = search.best
    found = [start]
    weights = {group.name: group.weight for group in start.fit.groups if not group.on_host}
    for gain in GAINS:
        wish = replace(
            start.wish,
            scale=start.fit.scale * gain,
            final=False,
            weights=weights,
            rounded_at=start.fit.rounded_at,
        )
        candidate = search.offer(wish)
        if candidate is not None:
            found.append(candidate)
    search.offer_best_of_channels(found, len(start.fit.scale))


def _kinds(recipe: Recipe) -> tuple[Scales, ...]:
    return ("channel", "layer") if recipe.scales == "channel" else ("layer",)


def _wished(
    layer: Layer, bits: int, method: Method, scales: Scales, percentile: float = 99.9
) -> Float:
    return wished_scale(
        layer.population,
        layer.groups,
        layer.sources,
        layer.fitter.limits,
        weight_bits=bits,
        method=method,
        scales=scales,
        percentile=percentile,
        on_host=layer.fitter.on_host,
    )
