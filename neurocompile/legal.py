"""
What makes an integer network legal: names, shapes and ranges that fit each other.

The compiler builds only such networks; one that is read from disk is held to the same rules before
anything computes with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from neurocompile.errors import Problem
from neurocompile.integer import (
    Geometry,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerRelay,
    IntegerSynapses,
    conv_output,
    largest_of,
)

LARGEST_PAYLOAD = 1 << 31
LONGEST_DELAY = 1 << 16
LARGEST_SHIFT = 62
LARGEST_STATE = 1 << 40  # far beyond the states of every chip, and no product of the proofs wraps
LARGEST_SUM = 1 << 53  # what float64 holds, which sums of weights are computed in


def problems_of(network: IntegerNetwork) -> list[Problem]:
    """Return everything that is illegal about `network`; nothing for what the compiler builds."""
    problems = list(_problems_of_names(network))
    if problems:
        return problems
    for population in network.populations:
        problems += _problems_of_population(population)
    for group in network.synapses:
        problems += _problems_of_synapses(network, group)
    return problems or list(_problems_of_sums(network))


def _problems_of_names(network: IntegerNetwork) -> Iterable[Problem]:
    names = [population.name for population in network.populations]
    groups = [group.name for group in network.synapses]
    for kind, listed in (("population", names), ("synapse group", groups)):
        for name in sorted({name for name in listed if listed.count(name) > 1}):
            yield Problem(name, f"must be the only {kind} of its name")
    for kind, found in (("input", network.inputs), ("output", network.outputs)):
        if not found:
            yield Problem("", f"a program needs an {kind}", "there is none")
    for output, name in network.outputs.items():
        if name not in {neurons.name for neurons in network.neurons}:
            yield Problem(
                "", f"the output '{output}' must show a population of neurons", f"it shows '{name}'"
            )
    for group in network.synapses:
        known = [name for name in (group.source, group.target) if name in names]
        if len(known) < 2:
            yield Problem(
                group.name, "must join populations", f"{group.source} or {group.target} is none"
            )
        elif group.target in {item.name for item in network.inputs}:
            yield Problem(group.name, "must not end in an input")
        elif names.index(group.source) >= names.index(group.target) and (
            not group.delay.size or group.delay.min() < 1
        ):
            yield Problem(
                group.name,
                "must lead from an earlier population to a later one, or be late by a step",
            )
        elif group.on_host and not isinstance(network[group.source], IntegerInput):
            yield Problem(group.name, "must start in an input to be computed by the host")


def _problems_of_population(population: IntegerPopulation) -> Iterable[Problem]:
    if not isinstance(population, IntegerRelay):
        scale = np.asarray(population.scale)
        if not (np.isfinite(scale) & (scale > 0)).all():
            yield Problem(population.name, "needs a positive scale", f"it is {scale.min()}")
    if any(extent < 1 for extent in population.shape):
        yield Problem(population.name, "needs a shape", f"it is {population.shape}")
    if isinstance(population, IntegerInput):
        low, high = population.minimum, population.maximum
        if not -LARGEST_PAYLOAD <= low <= high <= LARGEST_PAYLOAD:
            yield Problem(population.name, "needs a range of values", f"it is {low} to {high}")
    elif isinstance(population, IntegerRelay):
        if not 0 < population.largest <= LARGEST_PAYLOAD:
            yield Problem(population.name, "needs a largest sum", f"it is {population.largest}")
    elif isinstance(population, IntegerNeurons):
        for name in ("threshold", "bias_mantissa", "start", "pulse", "subtracts"):
            largest = largest_of(getattr(population, name))
            if largest > LARGEST_STATE:
                yield Problem(
                    population.name,
                    f"needs a {name} of at most {LARGEST_STATE}",
                    f"it is {largest}",
                )
        if abs(population.bias_exponent) > LARGEST_SHIFT:
            yield Problem(
                population.name, "needs a bias exponent", f"it is {population.bias_exponent}"
            )
        if (population.start % population.arithmetic.state_units).any():
            yield Problem(population.name, "needs a start in whole weight units")
        if population.readout and (
            not population.plain or population.saturates or population.start.any()
        ):
            yield Problem(population.name, "must start at 0 and never reset, as a read-out")
        yield from _problems_of_firing(population)
        if population.shows == "input" and population.pulse.any():
            yield Problem(population.name, "must get no pulse, as it shows its input")


def _problems_of_firing(neurons: IntegerNeurons) -> Iterable[Problem]:
    if not 1 <= neurons.most <= LARGEST_PAYLOAD:
        yield Problem(neurons.name, "needs a number of spikes a step", f"it is {neurons.most}")
    if neurons.most > 1 and neurons.threshold.min(initial=1) < 1:
        least = neurons.threshold.min()
        yield Problem(
            neurons.name, "needs thresholds from 1 to fire several times", f"one is {least}"
        )
    if not 0 <= neurons.refractory <= LONGEST_DELAY:
        yield Problem(neurons.name, "needs refractory steps", f"there are {neurons.refractory}")
    if neurons.subtracts.min(initial=0) < 0:
        yield Problem(
            neurons.name, "must subtract something", f"it adds {-int(neurons.subtracts.min())}"
        )
    end = neurons.arithmetic.membrane_end
    if neurons.floor.size and not -end <= neurons.floor.min() <= neurons.floor.max() <= end:
        yield Problem(neurons.name, f"needs a floor from {-end} to {end}")
    if neurons.saturates and neurons.arithmetic.membrane_overflow == "wrap":
        yield Problem(neurons.name, "must not saturate, as its membranes wrap")


def _problems_of_synapses(network: IntegerNetwork, group: IntegerSynapses) -> Iterable[Problem]:
    source, target = network[group.source].shape, network[group.target].shape
    if group.geometry is None:
        needed: tuple[int, ...] = (math.prod(target), math.prod(source))
        if group.weight.shape != needed:
            yield Problem(
                group.name, f"needs weights of shape {needed}", f"they have {group.weight.shape}"
            )
        if group.source_view or group.target_view:
            yield Problem(group.name, "must see no images, as it is no convolution")
    else:
        views = network.views(group)
        for shape, view in ((source, views[0]), (target, views[1])):
            if math.prod(shape) != math.prod(view):
                yield Problem(group.name, f"must see {shape} in as many values", f"sees {view}")
        yield from _problems_of_convolution(group.name, group.geometry, group, *views)
    per_synapse = [group.weight.shape] if group.geometry is None else []
    if group.delay.shape not in ((), source, *per_synapse):
        yield Problem(
            group.name, f"needs delays of shape {source}", f"they have {group.delay.shape}"
        )
    if group.delay.size and not 0 <= group.delay.min() <= group.delay.max() <= LONGEST_DELAY:
        yield Problem(group.name, f"needs delays from 0 to {LONGEST_DELAY}")
    if abs(group.exponent) > LARGEST_SHIFT:
        yield Problem(group.name, "needs a weight exponent", f"it is {group.exponent}")


def _problems_of_sums(network: IntegerNetwork) -> Iterable[Problem]:
    """Yield where sums could be too large for the proofs, which are sums themselves and must not wrap."""
    for population in network.populations:
        groups = network.into(population.name)
        reach = sum(_reach(network, group) for group in groups)
        if reach >= LARGEST_SUM:
            names = ", ".join(group.name for group in groups[:3])
            yield Problem(
                population.name,
                f"needs input sums below {LARGEST_SUM}",
                f"those of {len(groups)} groups ({names}{', ...' if len(groups) > 3 else ''}) "
                f"could reach {reach}",
            )


def _reach(network: IntegerNetwork, group: IntegerSynapses) -> int:
    """Return a bound of the sums of `group`, before its shift and after it, in Python's integers."""
    fan_in = math.prod(group.weight.shape[1:])
    return (largest_of(group.weight) * fan_in * _largest_value(network[group.source])) << max(
        group.exponent, 0
    )


def _largest_value(population: IntegerPopulation) -> int:
    """Return the largest magnitude of what a population sends."""
    match population:
        case IntegerInput():
            return max(abs(population.minimum), abs(population.maximum))
        case IntegerRelay():
            return population.largest
        case IntegerNeurons():
            return population.most


def _problems_of_convolution(
    name: str,
    geometry: Geometry,
    group: IntegerSynapses,
    source: tuple[int, ...],
    target: tuple[int, ...],
) -> Iterable[Problem]:
    positive = (*geometry.stride, *geometry.dilation, geometry.groups)
    if min(positive) < 1 or min(geometry.padding) < 0:
        yield Problem(name, "needs strides, dilations and groups from 1 and paddings from 0")
        return
    weight = group.weight.shape
    if len(weight) != 4 or len(source) != 3 or len(target) != 3:
        yield Problem(name, "needs weights with four axes, between images", f"they have {weight}")
        return
    size = [
        conv_output(*sizes)
        for sizes in zip(
            source[1:],
            weight[2:],
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            strict=True,
        )
    ]
    channels = weight[1] * geometry.groups
    if channels != source[0] or weight[0] % geometry.groups or (weight[0], *size) != target:
        yield Problem(name, f"must lead from {source} to {target}", f"its weights have {weight}")
