"""
Decide how spikes wait on their way: behind relay neurons, in delayed connections, or on the host.

A group's spikes take one machine step through its connection; `Schedule.wait` says how many more they
need, for skipped layers and delays alike. Three things can make them wait:

    host      the host sends an input once more, later: free
    relay     neurons that fire when their source has: one step each, shared by all groups of the source
    delay     Lava's `DelaySparse`, up to 62 steps; the chip has 6 bits for them

Waits beyond 62 steps start with long relays, whose own connections are delayed by 62, 63 steps each. A
group whose neurons or synapses wait for different times is always delayed: it is split into one
connection for each number of long relays, with what is left as its synapses' delays.

For the rest the cheaper way is taken. Lava's CPU simulator does, in each machine step,

    2 n                 for a step of waiting in relays: n neurons and the n synapses that feed them
    synapses (w + 2)    more than without, for a delay of w steps: it rebuilds the matrix every time

and among all lengths of a source's chain of relays, which all its groups can tap, the cheapest is
chosen; groups that wait for longer are delayed. Needs numpy only.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from neurocompile.integer import (
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerSynapses,
    Schedule,
    frozen_integers,
)

LONGEST_DELAY = 62  # machine steps besides a connection's own; what netx clips delays to, too
HOP = LONGEST_DELAY + 1  # machine steps through a long relay
ABSENT = -1  # the delay of a synapse that another connection of its group has


@dataclass(frozen=True)
class Relay:
    """
    A population that repeats what `source` sent `wait` machine steps ago.

    It is fed by the relay `start` steps behind the source (0: by the source), through a connection that
    is delayed by `delay` steps.
    """

    source: str
    start: int
    wait: int

    @property
    def delay(self) -> int:
        return self.wait - self.start - 1


@dataclass(frozen=True)
class Leg:
    """
    One connection of a group: it starts `wait` machine steps behind the group's source.

    `delay` is what its synapses wait besides, from 0 to 62 steps: one number for all, or in the shape of
    the group's delay, with -1 where a synapse belongs to another leg.
    """

    group: str
    source: str
    wait: int
    delay: Integer

    @property
    def longest(self) -> int:
        """The longest delay of a synapse, in machine steps."""
        return int(self.delay.max(initial=0))


@dataclass(frozen=True)
class Routes:
    """How all waits of a network are realised; `notes` says so for people."""

    relays: tuple[Relay, ...]
    legs: tuple[Leg, ...]
    notes: tuple[str, ...]

    @property
    def copies(self) -> tuple[tuple[str, int], ...]:
        """Which nodes legs start at: a population, and how many machine steps behind it."""
        return tuple(dict.fromkeys((leg.source, leg.wait) for leg in self.legs))


@dataclass
class _Chains:
    """What has been decided so far."""

    relays: dict[tuple[str, int], Relay] = field(default_factory=dict)
    legs: dict[str, list[Leg]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def tap(self, source: str, wait: int) -> None:
        """Make sure that `source` can be tapped `wait` steps behind it."""
        missing: list[Relay] = []
        while wait > 0 and (source, wait) not in self.relays:
            start = wait - (1 if wait % HOP else HOP)
            missing.append(Relay(source, start, wait))
            wait = start
        for relay in reversed(missing):
            self.relays[source, relay.wait] = relay


def route(network: IntegerNetwork, schedule: Schedule, balance: str) -> Routes:
    """
    Return relays and legs for every group of `network` that runs on the chip.

    `balance` is "relay" or "delay" where one of them shall be used wherever possible, or "auto".
    """
    chains = _Chains()
    equal: dict[tuple[str, int], list[tuple[IntegerSynapses, int]]] = defaultdict(list)
    for group in network.synapses:
        if group.on_host:
            continue
        waits = _uniform(schedule.wait(group))
        if waits.ndim:
            chains.legs[group.name] = _split(network, group, waits, chains)
            how = _told_split(network, group, chains.legs[group.name])
        elif isinstance(network[group.source], IntegerInput):
            chains.legs[group.name] = [
                Leg(group.name, group.source, int(waits), frozen_integers(0))
            ]
            how = f"the host sends '{group.source}' {in_steps(int(waits))} later"
        else:
            hops, rest = divmod(int(waits), HOP)
            equal[group.source, hops].append((group, rest))
            continue
        _note(network, schedule, group, how, chains)
    for (source, hops), groups in equal.items():
        _choose(network, schedule, source, hops, groups, balance, chains)
    order = [group.name for group in network.synapses if not group.on_host]
    return Routes(
        relays=tuple(chains.relays.values()),
        legs=tuple(leg for name in order for leg in chains.legs[name]),
        notes=tuple(chains.notes[name] for name in order if name in chains.notes),
    )


def in_steps(number: int) -> str:
    """Return a number of machine steps in words."""
    return "1 step" if number == 1 else f"{number} steps"


def _uniform(waits: Integer) -> Integer:
    """Return one number for waits that are all the same."""
    if waits.size and (waits == waits.flat[0]).all():
        return np.asarray(waits.flat[0])
    return waits


def _split(
    network: IntegerNetwork, group: IntegerSynapses, waits: Integer, chains: _Chains
) -> list[Leg]:
    legs = []
    hops = waits // HOP
    for count in (int(number) for number in np.unique(hops)):
        delay = np.where(hops == count, waits % HOP, ABSENT)
        legs.append(Leg(group.name, group.source, count * HOP, frozen_integers(delay)))
        if not isinstance(network[group.source], IntegerInput):
            chains.tap(group.source, count * HOP)
    return legs


def _choose(
    network: IntegerNetwork,
    schedule: Schedule,
    source: str,
    hops: int,
    groups: list[tuple[IntegerSynapses, int]],
    balance: str,
    chains: _Chains,
) -> None:
    """Decide how far the chain of relays reaches that starts `hops` long relays behind `source`."""
    neurons = math.prod(network[source].shape)

    def cost(reach: int) -> int:
        return 2 * neurons * reach + sum(
            network.synapse_count(group) * (rest + 2) for group, rest in groups if rest > reach
        )

    lengths = sorted({0, *(rest for _, rest in groups)}, reverse=True)
    reach = {"relay": lengths[0], "delay": 0}.get(balance)
    if reach is None:
        reach = min(lengths, key=cost)
    for group, rest in groups:
        relayed = rest if rest <= reach else 0
        wait = hops * HOP + relayed
        chains.tap(source, wait)
        chains.legs[group.name] = [Leg(group.name, source, wait, frozen_integers(rest - relayed))]
        parts = []
        if hops:
            parts.append(_told_hops(hops, neurons))
        if relayed:
            shared = any(other is not group and 0 < left <= reach for other, left in groups)
            parts.append(
                f"{relayed} x {neurons} relay neurons"
                + (", shared by its groups" if shared else "")
            )
        if rest > relayed:
            parts.append(f"a connection delayed by {in_steps(rest)}")
        _note(network, schedule, group, " and ".join(parts), chains)


def _told_split(network: IntegerNetwork, group: IntegerSynapses, legs: list[Leg]) -> str:
    used = [leg.delay[leg.delay != ABSENT] for leg in legs]
    shortest, longest = min(part.min() for part in used), max(part.max() for part in used)
    told = f"{len(legs)} connections" if len(legs) > 1 else "a connection"
    told += f" with delays of {shortest} to {in_steps(int(longest))}"
    hops = legs[-1].wait // HOP
    if hops and isinstance(network[group.source], IntegerInput):
        told += f", and the host sends '{group.source}' up to {in_steps(hops * HOP)} later"
    elif hops:
        told += ", behind " + _told_hops(hops, math.prod(network[group.source].shape))
    return told


def _told_hops(hops: int, neurons: int) -> str:
    return f"{hops} x {neurons} relay neurons behind connections delayed by {LONGEST_DELAY} steps"


def _note(
    network: IntegerNetwork,
    schedule: Schedule,
    group: IntegerSynapses,
    how: str,
    chains: _Chains,
) -> None:
    """Note `how` the spikes of `group` wait, if they do, and what for."""
    waits = schedule.wait(group)
    shortest, longest = int(waits.min(initial=waits.max(initial=0))), int(waits.max(initial=0))
    if longest == 0:
        return
    told = in_steps(longest) if shortest == longest else f"{shortest} to {in_steps(longest)}"
    others = [other for other in network.into(group.target) if other.name != group.name]
    if group.delay.any() or not others:
        what = f"'{group.name}' waits {told}"
    else:
        slowest = max(others, key=lambda other: schedule.depth[other.source])
        what = f"'{group.name}' waits {told} for '{slowest.source}'"
    chains.notes[group.name] = f"{what}: {how}"
