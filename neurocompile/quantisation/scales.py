"""
The scale that a method wishes for a population, from its weights alone.

A scale S (weight units per unit of the membrane) turns a weight W into W S / s, where s is the source's
payload per unit, and is one number for a layer, or one for each of its channels: every neuron has one S for
all its synapses, its bias and its threshold, so that channels are those of the neurons that receive.

With L the largest integer of the bits in use and q the distance of two of them,

    auto            max from `FINE_BITS` bits up, mse below
    max             S = L / max |W / s|
    percentile      L / the percentile of |W / s|, over weights that are not zero; larger ones are clipped
    mse             of a grid from that of max up, the S with the least sum of (W / s - Q(W S / s) / S)^2
    power-of-two    the largest power of two up to that of max; `fit` then makes thresholds exact, V S whole
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from neurocompile.integer import IntegerInput, IntegerPopulation, Shape
from neurocompile.ir import Conv2d
from neurocompile.limits import Limits
from neurocompile.populations import ReadoutPopulation, SpikingPopulation, SynapseGroup
from neurocompile.quantisation.recipe import Method, Scales

Float = NDArray[np.float64]

FINE_BITS = 6  # fewer lose less by clipping; see benchmarks/results/quantisation.md
RATIOS = np.geomspace(1, 8, 64)  # of scales that `mse` tries: how far beyond the largest weight's


def resolved(method: Method, weight_bits: int) -> Method:
    """Return the method that is meant for so many bits."""
    if method != "auto":
        return method
    return "max" if weight_bits >= FINE_BITS else "mse"


def channel_count(
    population: SpikingPopulation | ReadoutPopulation, groups: Iterable[SynapseGroup]
) -> int:
    """
    Return how many scales of its own a population may have: one for each channel.

    Convolutions share weights within a channel of their target; a vector's neurons are channels of their
    own. Convolutions that see the population as different images leave one scale for all.
    """
    seen = {group.target_view[0] for group in groups if isinstance(group.operator, Conv2d)}
    if len(seen) > 1:
        return 1
    return seen.pop() if seen else population.shape[0]


def spread(values: Float, shape: Shape) -> Float:
    """Return one value for each channel, or one for all, so that it broadcasts to `shape`."""
    if len(values) == 1:
        return values.reshape(())
    if len(values) == shape[0]:
        return values.reshape(-1, *[1] * (len(shape) - 1))
    return np.repeat(values, math.prod(shape) // len(values)).reshape(shape)


def by_channel(values: Float, shape: Shape, channels: int) -> Float:
    """Return `values`, which broadcast to `shape`, as (channels, neurons of a channel)."""
    return np.broadcast_to(values, shape).reshape(channels, -1)


def by_row(values: Float, rows: int) -> Float:
    """Return one value for each channel, or one for all, for each of `rows` rows of weights."""
    if rows % len(values):
        raise ValueError(f"{len(values)} channels have no part each in {rows} rows of weights")
    return np.repeat(values, rows // len(values))


def payload_scale(group: SynapseGroup, sources: Mapping[str, IntegerPopulation]) -> float:
    """Return how many integers stand for one unit of what the source of `group` sends."""
    source = sources.get(group.source)
    return source.scale if isinstance(source, IntegerInput) else 1.0


def magnitude(values: Float) -> float:
    """Return the largest magnitude in `values`, 0 if there are none."""
    return max(float(values.max(initial=0)), -float(values.min(initial=0)))


def wished_scale(
    population: SpikingPopulation | ReadoutPopulation,
    groups: Sequence[SynapseGroup],
    sources: Mapping[str, IntegerPopulation],
    limits: Limits,
    *,
    weight_bits: int,
    method: Method = "max",
    scales: Scales = "layer",
    percentile: float = 99.9,
    on_host: Collection[str] = (),
) -> Float:
    """
    Return the scale of each channel, or the one for all, that `method` wishes; sums are not looked at.

    `groups` are all into the population: those that the host computes (by name, `on_host`) have rows of
    weights for each channel as well, but the chip need not hold them. Thresholds always fit.
    """
    method = resolved(method, weight_bits)
    channels = channel_count(population, groups) if scales == "channel" else 1
    largest = np.full(channels, float(limits.threshold_maximum))
    if isinstance(population, SpikingPopulation):
        threshold = by_channel(population.threshold, population.shape, channels).max(1)
        largest = np.divide(largest, threshold, out=largest.copy(), where=threshold > 0)
    weights = [
        (group.operator.weight.reshape(channels, -1), payload_scale(group, sources))
        for group in groups
        if group.name not in on_host
    ]
    highest = limits.largest_weight(weight_bits)
    unit = limits.weight_unit(weight_bits)
    if method in ("max", "power-of-two", "search"):
        tops = [np.array([magnitude(row) for row in rows]) / payload for rows, payload in weights]
        wished = _up_to(largest, [highest / np.where(top > 0, top, math.nan) for top in tops])
        return 2.0 ** np.floor(np.log2(wished)) if method == "power-of-two" else wished
    scale: Float = np.empty(channels)
    for channel in range(channels):
        parts = [rows[channel][rows[channel] != 0] / payload for rows, payload in weights]
        joined = np.concatenate(parts) if parts else np.zeros(0)
        if not joined.size:
            scale[channel] = largest[channel]
        elif method == "percentile":
            scale[channel] = highest / np.percentile(np.abs(joined), percentile)
        else:
            scale[channel] = _least_error(joined, highest, unit)
    fitting: Float = np.minimum(scale, largest)
    return fitting


def _up_to(largest: Float, wishes: Iterable[Float]) -> Float:
    """Return the least of all wishes, which may be NaN where there is none."""
    result = largest
    for wish in wishes:
        result = np.fmin(result, wish)
    return result


def _least_error(values: Float, highest: int, unit: int) -> float:
    """Return the scale at which rounding and clipping `values` leaves the least mean square error."""
    first = highest / magnitude(values)
    errors = []
    for scale in first * RATIOS:
        kept = np.clip(np.rint(values * (scale / unit)) * unit, -highest - unit, highest) / scale
        errors.append(float(np.square(values - kept).sum()))
    return float(first * RATIOS[int(np.argmin(errors))])
