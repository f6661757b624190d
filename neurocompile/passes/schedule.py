"""
Give every population its place in the pipeline.

A connection on the chip delivers one machine step later; the host's currents arrive at once. With `m`
machine steps in a step of the clock, a group with a delay of `d` steps may deliver

    depth(source) + c - m d   <=   depth(target)              c = 1, or 0 from the host

machine steps after the source worked, and what is left between the two sides is time to wait, in relay
neurons or delayed synapses. Around a cycle the depths cancel: `m` must be at least the connections of
the cycle over its steps of delay. A population that feeds itself needs m = 1, a cycle through two
populations with one step of delay m = 2.

Delayed spikes outlive a sample, so samples are `gap` steps apart: the longest delay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from neurocompile.errors import Problem, UnsupportedError
from neurocompile.integer import IntegerInput, IntegerNetwork, IntegerSynapses, Schedule


def schedule(network: IntegerNetwork) -> Schedule:
    """
    Return depths, gap and stride: the smallest stride, and the smallest depths for it.

    Then populations that wait on their way out work as late as they can, where waiting on their way in
    takes fewer neurons (an input waits on the host, for nothing). Raises `UnsupportedError` for a
    cycle without any delay.
    """
    stride, depth = 1, _earliest(network, 1)
    most = len(network.synapses) + 1  # a longer cycle would pass some group twice
    while depth is None and stride < most:
        stride *= 2
        depth = _earliest(network, stride)
    if depth is None:
        raise UnsupportedError(
            Problem(
                "",
                "a cycle needs a delay of at least one step",
                f"there is none among {', '.join(group.name for group in network.synapses)}",
            )
        )
    too_small = stride // 2
    while stride - too_small > 1:  # what is enough for a cycle is enough for more
        middle = (stride + too_small) // 2
        tried = _earliest(network, middle)
        if tried is None:
            too_small = middle
        else:
            stride, depth = middle, tried
    return Schedule(_later_where_cheaper(network, depth, stride), network.longest_delay, stride)


def _least_delay(group: IntegerSynapses) -> int:
    return int(group.delay.min(initial=group.delay.max(initial=0)))


def _time(group: IntegerSynapses, stride: int) -> int:
    """Return by how many machine steps the target of `group` must be behind its source, at least."""
    return (0 if group.on_host else 1) - stride * _least_delay(group)


def _earliest(network: IntegerNetwork, stride: int) -> dict[str, int] | None:
    """Return the smallest depths (Bellman and Ford's longest paths), None if a cycle has no time."""
    depth = {population.name: 0 for population in network.populations}
    for _ in range(len(depth) + 1):
        changed = False
        for group in network.synapses:
            needed = depth[group.source] + _time(group, stride)
            if needed > depth[group.target]:
                depth[group.target] = needed
                changed = True
        if not changed:
            return depth
    return None


def _later_where_cheaper(
    network: IntegerNetwork, earliest: Mapping[str, int], stride: int
) -> dict[str, int]:
    depth = dict(earliest)
    sizes = {population.name: math.prod(population.shape) for population in network.populations}
    for population in reversed(network.populations):
        name = population.name
        leaving = [group for group in network.out_of(name) if group.target != name]
        if isinstance(population, IntegerInput) or not leaving:
            continue
        room = min(depth[group.target] - depth[name] - _time(group, stride) for group in leaving)
        waiting_in = sum(
            sizes[source]
            for source in {group.source for group in network.into(name)} - {name}
            if not isinstance(network[source], IntegerInput)
        )
        if room > 0 and waiting_in < sizes[name]:
            depth[name] += room
    return depth
