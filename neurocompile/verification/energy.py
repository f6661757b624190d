"""
What a network's arithmetic would cost, counted exactly and priced by constants: an estimate, never measured.

The count is that of TET (Deng et al., ICLR 2022, sec. 5.1): values that are no spikes are multiplied at
every step, each spike costs an addition at every synapse that it reaches. What a spike reaches is counted
neuron by neuron, borders of images and weights of zero left out, so that

    additions = sum over neurons of (spikes of the neuron) * (its synapses)

is exact, and not a rate times a layer's size. The prices are those of 45 nm (Horowitz, ISSCC 2014): 3.7 pJ
a multiplication of 32-bit floats, 0.9 pJ an addition. No maker has published a price for Loihi 2; the one
for Loihi 1 is told beside, as what it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.dequantise import operator_of
from neurocompile.integer import (
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerPopulation,
    IntegerRelay,
    IntegerSynapses,
)
from neurocompile.ir import Conv2d, Dense, Float
from neurocompile.program import Program
from neurocompile.reference import apply_stateless
from neurocompile.resources import fan_out
from neurocompile.verification.report import Energy, LayerEnergy

MAC_PICOJOULES = 4.6  # Horowitz, ISSCC 2014: 3.7 to multiply and 0.9 to add, 32-bit floats, 45 nm
AC_PICOJOULES = 0.9
LOIHI = "loihi2"  # the target whose programs are priced as Loihi 1, too
LOIHI1_PICOJOULES = 23.6  # Davies et al., IEEE Micro 38(1), 2018, table 2: before there was silicon

RULE = (
    "An estimate from exact counts and constants of 45 nm (32-bit floats; Horowitz, ISSCC 2014), not a "
    "measurement of any chip. Counted as by Deng et al. (TET, ICLR 2022, sec. 5.1): values that are no "
    f"spikes cost {MAC_PICOJOULES} pJ at each synapse that they reach, at every step, zeros too; a spike costs "
    f"{AC_PICOJOULES} pJ at each synapse that it reaches, and a graded one as many times as its number. Synapses "
    "are the program's, for every stage: weights of zero and borders of images are left out, merged "
    "pooling is in the weights. Synapses that the host computes count as any; sums that travel as graded "
    "spikes count as layers of their own; a delayed spike counts even if the sample ends before it arrives. "
    "Not counted: neuron updates, biases, memory, routing. The dense network beside it multiplies once at each "
    "synapse, where several synapses repeat the same weights for a sum once for all."
)
LOIHI1_RULE = (
    f"Synaptic operations on the chip alone, at {LOIHI1_PICOJOULES} pJ each: a figure for Loihi 1 from before "
    "there was silicon (Davies et al., IEEE Micro 38(1), 2018). For Loihi 2 none is published, and this is "
    "none. Values that are no spikes count at every step, zeros too, a graded spike once for each of its "
    "number. Not counted: neuron updates, routing, and what the host computes. The dense network beside it is "
    "priced by the constants of 45 nm."
)

Counts = Mapping[str, NDArray[Any]]  # by population: spikes of each neuron in a sample, a mean


def counts_as_spikes(population: IntegerPopulation) -> bool:
    """Return whether what `population` sends are spikes, and not values: inputs that are 0 or 1 are."""
    if not isinstance(population, IntegerInput):
        return True
    return population.exact and (population.minimum, population.maximum) == (0, 1)


def energy_of(
    program: Program, spikes: Mapping[str, Counts], *, steps: int
) -> tuple[tuple[Energy, ...], dict[str, str]]:
    """
    Estimate what a sample of `steps` steps costs in each stage, and say of which that cannot be told.

    `spikes[stage][layer]` is how often each neuron fires in a sample (a mean over samples, of the layer's
    shape), of inputs that are 0 or 1 as well. The stage of a program for Loihi 2 is also priced as Loihi 1.
    """
    found: list[Energy] = []
    reasons: dict[str, str] = {}
    network = program.network
    senders = {group.source for group in network.synapses}
    needed = [
        item.name
        for item in network.populations
        if item.name in senders and counts_as_spikes(item) and not isinstance(item, IntegerRelay)
    ]
    for stage, fired in spikes.items():
        missing = [name for name in needed if name not in fired]
        if missing:
            reasons[f"energy of {stage}"] = f"it does not show the spikes of {', '.join(missing)}"
            continue
        counted = with_sums(network, fired)
        found.append(_estimate(network, stage, counted, steps))
        if stage == program.target == LOIHI:
            found.append(_as_loihi1(network, stage, counted, steps))
    return tuple(found), reasons


def with_sums(network: IntegerNetwork, fired: Counts) -> dict[str, Float]:
    """Return `fired` with what relays send: sums are linear, so that means of spikes give means of sums."""
    counted: dict[str, Float] = {
        name: np.asarray(values, np.float64) for name, values in fired.items()
    }
    for relay in network.populations:
        if not isinstance(relay, IntegerRelay):
            continue
        total = np.zeros(relay.shape)
        for group in network.into(relay.name):
            seen = counted[group.source].reshape(1, *network.views(group)[0])
            total += apply_stateless(_operator(group), seen).reshape(relay.shape)
        counted[relay.name] = total
    return counted


def _operator(group: IntegerSynapses) -> Dense | Conv2d:
    weight = np.asarray(group.weight * 2.0**group.exponent, np.float64)
    return operator_of(weight, group.geometry)


def _operations(
    network: IntegerNetwork, target: str, counted: Counts, steps: int, *, host: bool
) -> Iterator[tuple[bool, float]]:
    """Yield, for each group into `target`, whether values arrive, and the operations of a sample."""
    for group in network.into(target):
        if group.on_host and not host:
            continue
        reach: Integer = fan_out(network, group)
        if counts_as_spikes(network[group.source]):
            yield False, float((counted[group.source].ravel() * reach).sum())
        else:
            yield True, float(steps * int(reach.sum()))


def _estimate(network: IntegerNetwork, stage: str, counted: Counts, steps: int) -> Energy:
    layers: list[LayerEnergy] = []
    for item in network.populations:
        each = list(_operations(network, item.name, counted, steps, host=True))
        macs = [number for values, number in each if values]
        acs = [number for values, number in each if not values]
        if macs:
            count = math.fsum(macs)
            layers.append(LayerEnergy(item.name, "mac", count, count * MAC_PICOJOULES))
        if acs:
            count = math.fsum(acs)
            layers.append(LayerEnergy(item.name, "ac", count, count * AC_PICOJOULES))
    total = math.fsum(layer.picojoules for layer in layers)
    return Energy(stage, RULE, tuple(layers), total, _dense(network))


def _as_loihi1(network: IntegerNetwork, stage: str, counted: Counts, steps: int) -> Energy:
    layers = []
    for item in network.populations:
        each = [number for _, number in _operations(network, item.name, counted, steps, host=False)]
        if each:
            count = math.fsum(each)
            layers.append(LayerEnergy(item.name, "ac", count, count * LOIHI1_PICOJOULES))
    total = math.fsum(layer.picojoules for layer in layers)
    return Energy(stage, LOIHI1_RULE, tuple(layers), total, _dense(network))


def _dense(network: IntegerNetwork) -> float:
    """Return the picojoules of every multiplication once; sums are no multiplications."""
    known: set[tuple[Any, ...]] = set()
    synapses = 0
    for group in network.synapses:
        if isinstance(network[group.target], IntegerRelay):
            continue
        weights = (group.weight.shape, group.weight.tobytes(), group.exponent)
        alike = (group.target, weights, group.geometry, network.views(group))
        if alike not in known:
            known.add(alike)
            synapses += int(fan_out(network, group).sum())
    return synapses * MAC_PICOJOULES
