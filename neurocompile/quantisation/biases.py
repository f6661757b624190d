"""
Take the mean error of a population's input off its bias.

Rounding leaves a mean difference between what arrives in real numbers and in integers, d = E[I - I_int / S],
over samples, steps and the places of a channel. A bias that is larger by d takes it off; where the current
remembers a share c of itself, d arrives 1 / (1 - c) times.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neurocompile.populations import SpikingPopulation
from neurocompile.quantisation.observe import Values, Windows, delivered
from neurocompile.quantisation.scales import by_channel, channel_count, spread
from neurocompile.quantisation.search import Candidate, Float, Layer, Search


def mean_error(layer: Layer, candidate: Candidate, real: Values) -> Float:
    """
    Return E[I - I_int / S] for each row of the places of `layer`.

    `real` is what the sources send in real numbers, (samples, steps, *shape).
    """
    places = layer.places
    shape = (len(places), layer.record.membrane.shape[1], places.rows)
    wanted: Float = np.zeros(shape)
    for group in layer.groups:
        if places.whole:
            arriving = delivered(group, real[group.source], layer.population.shape)
            wanted += places.of_record(arriving)
        else:
            windows = Windows(group, real[group.source], places)
            wanted += windows.sums(np.asarray(group.operator.weight, np.float64))
    scale = places.of_parameter(candidate.fit.neurons.scale)
    scale = scale[:, None, :] if scale.ndim == 2 else scale
    difference: Float = (wanted - layer.sums(candidate.fit) / scale).mean((0, 1))
    return difference


def correct_biases(search: Search, real: Values) -> None:
    """Try the best candidate with its mean error taken off, for all channels or those that gain."""
    layer, start = search.layer, search.best
    population = layer.population
    channels = channel_count(population, layer.groups)
    error = mean_error(layer, start, real).reshape(channels, -1).mean(1)
    keeps = 1 - by_channel(population.current_decay, population.shape, channels).mean(1)
    if isinstance(population, SpikingPopulation) or population.decay is not None:
        error = np.divide(error, keeps, out=error.copy(), where=keeps > 0)
    bias = population.bias if start.wish.bias is None else start.wish.bias
    corrected = np.asarray(bias + spread(error, population.shape), np.float64)
    largest = float(np.abs(corrected * start.fit.neurons.scale).max(initial=0))
    if largest > layer.fitter.limits.bias_maximum:
        return
    wish = replace(start.wish, bias=corrected)
    candidate = search.offer(wish)
    if candidate is not None:
        search.offer_best_of_channels([start, candidate], channels)
