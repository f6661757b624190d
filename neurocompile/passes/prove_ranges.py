"""
Prove that no accumulator leaves the range in which the chip computes exactly.

For a neuron with weights w and sources between lo and hi (0 and 1 for spikes, 0 and the largest sum for
a relay), every partial sum of its input, in any order and with any delays, lies between

    n = sum min(w lo, w hi, 0)    and    p = sum max(w lo, w hi, 0)

over all its groups: merged branches and feedback are groups like any other, and no cycle can raise a
spike above 1, or above the number that neurons may fire in one step. Where no pixel of a padded image sees
all taps of a kernel, each counts those that it sees. From there the chip's own equations, which are monotone
even where they round, are followed in integers, step by step, with a = 1 - (du + 1) / 4096 and
d = 1 - dv / 4096 (R rounds as the chip does):

    u_low  = R(a u_low) + 64 n      u_high = R(a u_high) + 64 p        the pulse comes at the first step
    v_low  = R(d v_low) + u_low + b                                    and so does the start
    v_high = R(d v_high) + u_high + b

Biases so count at every step, with their sign. A spike may have cleared any membrane before: each step
starts with v_low at 0 at most, and v_high at 0 at least. Upwards,

    hard reset      a membrane may saturate: it is above its threshold then and fires, as it would have
                    (thresholds are below the end of membranes, and those that are not have no such leave).
                    Where membranes wrap instead, V at most is left after a step
    subtract        n spikes take n S off: max(V + (most - 1) max(V - S, 0), v_high - most S) is left at
                    most, and -most max(S - V, 0) at least
    read-out        must never fire: bounded as well

A membrane with a floor is never below it before it fires. Where a source computes in saturating integers
itself, or a user asks for it, a membrane may saturate: all targets clip it alike, and count that. Input
sums never may, as they would wrap.

Sources that send at every step all that is below 0 and nothing that is above, or the other way round, take
a neuron to its bound.

Populations whose spikes outlive a step (feedback, delays) must be silent between samples; microcode is by
itself. A current of `silence` weight units, taken off their input, does that, whatever arrives: with the
largest current p,

    v' <= V + 64 p + b - 64 silence < V

and is part of their input's range. Their current remembers what arrives in the gap as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from neurocompile.blocks import row_blocks
from neurocompile.errors import Problem, RangeError, raise_all
from neurocompile.integer import (
    Bound,
    Geometry,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
    Shape,
    image_shape,
    outliving,
)
from neurocompile.limits import Limits

Real = NDArray[np.float64]
Number = TypeVar("Number", np.int64, np.float64)
Extreme = Callable[[Integer, Integer], Integer]  # the larger or the smaller one

FAR_BITS = 50  # of a state unit beyond every limit
PRODUCT_BITS = 62  # of a state and a decay together
OF_NEURONS = ("du", "dv", "threshold", "bias_mantissa", "start", "pulse", "subtracts", "floor")
EXACT_STEPS = 1024  # that are followed one by one; what comes after them is bounded


def prove_ranges(network: IntegerNetwork, limits: Limits, *, steps: int) -> tuple[Bound, ...]:
    """
    Return the bounds of every population of `network` over `steps` steps.

    Raises `RangeError` with every layer whose bound is beyond its limit, and by how much.
    """
    bounds, problems = find_bounds(network, limits, steps=steps)
    raise_all(RangeError, problems)
    return bounds


def find_bounds(
    network: IntegerNetwork, limits: Limits, *, steps: int
) -> tuple[tuple[Bound, ...], list[Problem]]:
    """Return the bounds of every population of `network`, and everything that is beyond its limit."""
    relays = {item.name for item in network.populations if isinstance(item, IntegerRelay)}
    heard = outliving([item.name for item in network.populations], network.synapses, relays)
    bounds: list[Bound] = []
    problems: list[Problem] = []
    for neurons in network.neurons:
        silent_steps = network.longest_delay if neurons.name in heard else 0
        reach = reach_of(network, neurons, limits, steps=steps, silent_steps=silent_steps)
        bounds.append(reach.bound(steps))
        problems += excess(network, neurons, limits, reach, steps=steps, silent_steps=silent_steps)
    problems += [problem for neurons in network.neurons for problem in _widths(neurons, limits)]
    problems += [
        problem
        for population in network.populations
        if isinstance(population, IntegerRelay)
        for problem in _relayed(network, population, limits)
    ]
    problems += [
        problem
        for group in network.synapses
        if not group.on_host
        for problem in _weights(group, limits)
    ]
    return tuple(bounds), problems


@dataclass(frozen=True)
class Reach:
    """
    What each neuron of a population can reach at most, (*shape), and what it may.

    `current` is in weight units, `membrane` in state units; `silence` as in `Bound`.
    """

    layer: str
    current: Integer
    current_limit: int
    membrane: Integer
    membrane_limit: int
    silence: int

    @property
    def over(self) -> Real:
        """By how many times each neuron leaves its limits, (*shape); 1 is just inside."""
        current, membrane = self.current / self.current_limit, self.membrane / self.membrane_limit
        over: Real = np.maximum(current, membrane)
        return over

    @property
    def holds(self) -> bool:
        """Whether nothing leaves its limits."""
        return not (self.over > 1).any()

    def bound(self, steps: int) -> Bound:
        """Return the largest of all neurons, over `steps` steps."""
        return Bound(
            layer=self.layer,
            current=int(self.current.max(initial=0)),
            current_limit=self.current_limit,
            membrane=int(self.membrane.max(initial=0)),
            membrane_limit=self.membrane_limit,
            steps=steps,
            silence=self.silence,
        )

    def saturated(self) -> Reach:
        """Return the reach of neurons whose membranes stay at the end of their range."""
        return replace(self, membrane=np.minimum(self.membrane, self.membrane_limit))


def bound_of(
    network: IntegerNetwork,
    neurons: IntegerNeurons,
    limits: Limits,
    *,
    steps: int,
    silent_steps: int = 0,
) -> Bound:
    """
    Return the largest magnitudes that one population can reach, whether allowed or not.

    `silent_steps` is how many steps in a row it must be kept silent between samples.
    """
    return reach_of(network, neurons, limits, steps=steps, silent_steps=silent_steps).bound(steps)


def reach_of(
    network: IntegerNetwork,
    neurons: IntegerNeurons,
    limits: Limits,
    *,
    steps: int,
    silent_steps: int = 0,
) -> Reach:
    """Return what `bound_of` does, for each neuron."""
    arriving = _arriving(network, neurons, limits)
    current, silence = _current_reach(neurons, arriving, limits, steps, silent_steps)
    membrane = -_lowest_membrane(neurons, arriving, limits, steps)
    membrane_limit = limits.state_maximum
    if neurons.readout:
        membrane_limit = min(limits.threshold_maximum << limits.fraction_bits, membrane_limit)
    if not neurons.hides_saturation or limits.membrane_overflow == "wrap":
        membrane = np.maximum(membrane, _highest_membrane(neurons, arriving, limits, steps))
    reach = Reach(
        layer=neurons.name,
        current=np.broadcast_to(current, neurons.shape),
        current_limit=limits.current_maximum,
        membrane=np.broadcast_to(membrane, neurons.shape),
        membrane_limit=membrane_limit,
        silence=silence,
    )
    saturates = neurons.saturates and limits.membrane_overflow == "saturate"
    return reach.saturated() if saturates else reach


def membrane_range(
    network: IntegerNetwork, neurons: IntegerNeurons, limits: Limits, *, steps: int
) -> tuple[Integer, Integer]:
    """
    Return the lowest and the highest membrane that each neuron can have, in state units, (*shape).

    The highest is that before a spike takes anything off, and as if membranes had no end.
    """
    arriving = _arriving(network, neurons, limits, everywhere=True)
    low = _lowest_membrane(neurons, arriving, limits, steps)
    high = _highest_membrane(neurons, arriving, limits, steps)
    return np.broadcast_to(low, neurons.shape), np.broadcast_to(high, neurons.shape)


def can_fire(
    network: IntegerNetwork, neurons: IntegerNeurons, limits: Limits, *, steps: int
) -> tuple[NDArray[np.bool_], float, NDArray[np.bool_]]:
    """
    Return which neurons can fire within `steps` steps, and which do at every step, whatever arrives, (*shape).

    In between is the highest membrane that any has before it fires, in thresholds.
    """
    arriving = _arriving(network, neurons, limits, everywhere=True)
    at_once = _highest_membrane(neurons, arriving, limits, 1)
    fires, nearest = _beyond(neurons, np.broadcast_to(at_once, neurons.shape), limits)
    if not fires.all():
        # Most neurons can at the first step: only the others are followed.
        others = np.flatnonzero(~fires)

        def of_others(values: Integer) -> Integer:
            return np.broadcast_to(values, neurons.shape).ravel()[others]

        fields: dict[str, Any] = {name: of_others(getattr(neurons, name)) for name in OF_NEURONS}
        some = replace(
            neurons, shape=others.shape, scale=np.ones(()), origin=np.zeros(()), **fields
        )
        of_some = _Arriving(of_others(arriving.low), of_others(arriving.high))
        reached, further = _beyond(some, _highest_membrane(some, of_some, limits, steps), limits)
        fires = fires.copy()
        fires.ravel()[others] = reached
        nearest = max(nearest, further)
    return fires, nearest, _always_fires(neurons, arriving, limits, steps)


def _always_fires(
    neurons: IntegerNeurons, arriving: _Arriving, limits: Limits, steps: int
) -> NDArray[np.bool_]:
    """Return which neurons fire at every step: the least that arrives takes a membrane from 0 far enough."""
    if neurons.refractory:
        return np.zeros(neurons.shape, np.bool_)
    threshold = neurons.threshold << limits.fraction_bits
    least = _extreme_current(neurons, [(arriving.low, steps)], np.minimum, limits)
    fires = least + neurons.bias + np.minimum(neurons.start, 0) > threshold
    if neurons.reset == "subtract":
        fires = fires & (neurons.subtracts <= threshold)
    return np.broadcast_to(fires, neurons.shape)


def _beyond(
    neurons: IntegerNeurons, membrane: Integer, limits: Limits
) -> tuple[NDArray[np.bool_], float]:
    """Return which neurons fire at `membrane`, and the highest one in thresholds."""
    threshold = np.broadcast_to(neurons.threshold << limits.fraction_bits, neurons.shape)
    membrane = np.broadcast_to(membrane, neurons.shape)
    fires = membrane >= threshold if neurons.inclusive else membrane > threshold
    return fires, float((membrane / np.maximum(threshold, 1)).max(initial=0))


@dataclass(frozen=True)
class _Arriving:
    """The least and the largest sum that can arrive in a step, in weight units."""

    low: Integer
    high: Integer


def _arriving(
    network: IntegerNetwork, neurons: IntegerNeurons, limits: Limits, *, everywhere: bool = False
) -> _Arriving:
    """
    Return what can arrive at each neuron; arrays that broadcast to the population's shape.

    Of a channel of an image it is the largest of all pixels, unless it is asked for `everywhere`.
    """
    low: Integer = np.zeros((), np.int64)
    high: Integer = np.zeros((), np.int64)
    for group in network.into(neurons.name):
        group_low, group_high = (
            _by_neuron(sums, network.views(group)[1], neurons.shape)
            for sums in _sums_of(network, group, everywhere=everywhere)
        )
        low, high = low + group_low, high + group_high
    far = _far(limits) >> limits.fraction_bits
    return _Arriving(np.maximum(low, -far), np.minimum(high, far))


def _far(limits: Limits) -> int:
    """Return what is beyond every limit: states end there, so that no product overflows."""
    return 1 << min(FAR_BITS, PRODUCT_BITS - limits.decay_bits)


def _kept(state: Integer, decay: Integer, limits: Limits) -> Integer:
    """Return what a decay (of 2^decay_bits) leaves of `state`, rounded as the chip does."""
    if not decay.any() or not state.any():
        return state
    product: Integer = state * ((1 << limits.decay_bits) - decay)
    if limits.rounding == "zero":
        kept: Integer = np.sign(product) * (np.abs(product) >> limits.decay_bits)
        return kept
    half = (1 << limits.decay_bits >> 1) if limits.rounding == "nearest" else 0
    return (product + half) >> limits.decay_bits


def _lowest_membrane(
    neurons: IntegerNeurons, arriving: _Arriving, limits: Limits, steps: int
) -> Integer:
    """Return the lowest membrane of each neuron, what spikes take included; 0 if it is never below."""
    left: Integer = np.zeros((), np.int64)
    if neurons.reset == "subtract":
        threshold = neurons.threshold << limits.fraction_bits
        most_taken = neurons.most * np.maximum(neurons.subtracts - threshold, 0)
        left = -np.minimum(most_taken, _far(limits))

    def leave(membrane: Integer) -> Integer:
        return membrane if neurons.readout else np.minimum(membrane, left)

    drives = _drives(neurons, arriving.low, np.minimum, limits, steps)
    return np.minimum(left, _follow(neurons, drives, leave, np.minimum, limits, steps, linear=True))


def _highest_membrane(
    neurons: IntegerNeurons, arriving: _Arriving, limits: Limits, steps: int
) -> Integer:
    """Return the highest membrane of each neuron, before spikes take anything; 0 if it is never above."""
    threshold = neurons.threshold << limits.fraction_bits
    # At most so much is left where another spike could have been fired.
    uncapped: Integer = threshold
    if neurons.reset == "subtract":
        more = np.maximum(threshold - neurons.subtracts, 0)
        uncapped = threshold + (neurons.most - 1) * more

    def leave(membrane: Integer) -> Integer:
        if neurons.readout:
            return membrane
        left = np.minimum(membrane, uncapped)
        if neurons.reset == "subtract":
            left = np.maximum(left, membrane - neurons.most * neurons.subtracts)
        return np.maximum(left, 0)

    drives = _drives(neurons, arriving.high, np.maximum, limits, steps)
    return _follow(neurons, drives, leave, np.maximum, limits, steps, linear=neurons.readout)


def _drives(
    neurons: IntegerNeurons, arrives: Integer, extreme: Extreme, limits: Limits, steps: int
) -> Iterator[tuple[Integer, bool]]:
    """
    Yield what each step adds to the membrane, state units, and whether all steps after it add the same.

    `arrives` is what arrives at every step, in weight units.
    """
    current = _next_current(np.zeros((), np.int64), arrives + neurons.pulse, neurons, limits)
    yield current + neurons.bias + neurons.start, False
    for step in range(1, steps):
        following = _next_current(current, arrives, neurons, limits)
        settled = _forgets(neurons, limits) or np.array_equal(following, current)
        if not settled and step == EXACT_STEPS:
            end = _far_on(following, following - current, steps - step, limits)
            following = extreme(following, end)
            settled = True
        current = following
        drive = current + neurons.bias
        while settled:
            yield drive, True
        yield drive, False


def _follow(
    neurons: IntegerNeurons,
    drives: Iterable[tuple[Integer, bool]],
    leave: Callable[[Integer], Integer],
    extreme: Extreme,
    limits: Limits,
    steps: int,
    *,
    linear: bool,
) -> Integer:
    """
    Return the extreme of the membranes that `drives` lead to, of which each step will `leave` something.

    Once drives are settled, membranes change by less and less, and in one direction only: all of that is
    monotone, and takes two states no further apart. So the last change bounds what `EXACT_STEPS` do not
    reach; and where nothing leaks, `linear` says, a change that repeats itself does until the end.
    """
    far = _far(limits)
    floor: Integer = np.array(-far)
    if neurons.floored:
        floor = np.where(neurons.floor > limits.arithmetic.no_floor, neurons.floor, floor)
    linear = linear and not neurons.dv.any()
    left = reach = membrane = change = np.zeros((), np.int64)
    before = False
    for step, (drive, settled) in zip(range(steps), drives, strict=False):
        reached = _kept(left, neurons.dv, limits) + drive
        reached = np.minimum(np.maximum(reached, floor), far)
        reach = extreme(reach, reached)
        if before:
            same = np.array_equal(reached - membrane, change)
            change = reached - membrane
            if (linear and same) or step >= EXACT_STEPS or not change.any():
                end = _far_on(reached, change, steps - 1 - step, limits)
                return extreme(reach, np.maximum(end, floor))
        before = settled
        membrane, left = reached, leave(reached)
    return reach


def _far_on(value: Integer, change: Integer, steps: int, limits: Limits) -> Integer:
    """Return `value` after `steps` further changes."""
    far = float(_far(limits))
    return np.clip(value + np.float64(steps) * change, -far, far).astype(np.int64)


def _forgets(neurons: IntegerNeurons, limits: Limits) -> bool:
    """Return whether the currents of `neurons` have no memory."""
    return not (neurons.du != limits.arithmetic.memoryless).any()


def _next_current(
    current: Integer, arrives: Integer, neurons: IntegerNeurons, limits: Limits
) -> Integer:
    """Return the current, in state units, one step after `current`."""
    far = _far(limits)
    kept = _kept(current, neurons.du + 1, limits) + (arrives << limits.fraction_bits)
    return np.minimum(np.maximum(kept, -far), far)


def _current_reach(
    neurons: IntegerNeurons, arriving: _Arriving, limits: Limits, steps: int, silent_steps: int
) -> tuple[Integer, int]:
    """Return the largest magnitude of each neuron's input sum, in weight units, and the silence in it."""
    # What arrives in the gap is remembered, too, by those who must be silent in it.
    phases = [(arriving.high, steps + silent_steps)]
    highest = _extreme_current(neurons, phases, np.maximum, limits)
    silence = 0
    if silent_steps and neurons.plain:
        needed = (highest + neurons.bias) >> limits.fraction_bits
        silence = max(0, int(needed.max(initial=0)) + 1)
    phases = [(arriving.low, steps), (arriving.low - silence, silent_steps)]
    lowest = _extreme_current(neurons, phases, np.minimum, limits)
    reach = np.maximum(highest, -lowest)
    return -(-reach >> limits.fraction_bits), silence


def _extreme_current(
    neurons: IntegerNeurons,
    phases: Iterable[tuple[Integer, int]],
    extreme: Extreme,
    limits: Limits,
) -> Integer:
    """
    Return the largest or least partial sum of any step, in state units.

    `phases` are what arrives at each step, and for how many.
    """
    zero: Integer = np.zeros((), np.int64)
    forgets = _forgets(neurons, limits)
    # The chip gets the start of neurons without memory as a pulse of input current; the definition does not.
    start = neurons.start >> limits.fraction_bits if forgets else zero
    first = neurons.pulse + start
    # So neither makes up for the other.
    most_at_first = extreme(neurons.pulse, zero) + extreme(start, zero)
    reach = current = zero
    for arrives, steps in phases:
        for step in range(steps):
            # All partial sums within a step, in any order: what has the other sign may come last.
            kept = extreme(_kept(current, neurons.du + 1, limits), zero)
            at_once = arrives + most_at_first
            reach = extreme(reach, kept + (at_once << limits.fraction_bits))
            following = _next_current(current, arrives + first, neurons, limits)
            change, current = following - current, following
            if not (first.any() or most_at_first.any()) and (
                forgets or not change.any() or step == EXACT_STEPS
            ):
                if not forgets:
                    end = _far_on(current, change, steps - 1 - step, limits)
                    current = extreme(current, end)
                    reach = extreme(reach, current)
                break
            first = most_at_first = zero
    return reach


def most_spikes(
    network: IntegerNetwork, neurons: IntegerNeurons, limits: Limits, *, steps: int
) -> int:
    """
    Return how often one of `neurons` could fire in one step, were there no limit; at least 1.

    Where spikes subtract less than the threshold a membrane keeps more and more, and there is no such
    number; then one more than fits a graded spike is returned, which the proof refuses.
    """
    threshold = neurons.threshold << limits.fraction_bits
    if neurons.reset == "subtract" and (neurons.subtracts < threshold).any():
        return limits.payload_maximum + 1
    # As if nothing were capped: what is left is a threshold at most.
    uncapped = replace(neurons, reset="zero", refractory=0)
    _, high = membrane_range(network, uncapped, limits, steps=steps)
    return max(1, int((high // np.maximum(threshold, 1)).max(initial=1)))


def sum_range(network: IntegerNetwork, group: IntegerSynapses) -> tuple[Integer, Integer]:
    """Return the smallest and largest partial sum of `group`, one per neuron of its target, in order."""
    _, view = network.views(group)
    low, high = _sums_of(network, group)
    if group.geometry is not None:
        low, high = (np.broadcast_to(sums, view).ravel() for sums in (low, high))
    return low, high


def _by_neuron(sums: Integer, view: Shape, shape: Shape) -> Integer:
    """
    Return `sums` for the rows of a dense group, or that broadcast to a convolution's `view` of its target.

    The result broadcasts to the `shape` of the target.
    """
    if sums.ndim == 1:
        return sums.reshape(shape)
    if view == image_shape(shape):
        return sums if len(shape) == len(view) else sums[:, 0]
    return np.broadcast_to(sums, view).reshape(shape)


def _sums_of(
    network: IntegerNetwork, group: IntegerSynapses, *, everywhere: bool = False
) -> tuple[Integer, Integer]:
    """Return the smallest and largest partial sum of `group`: for each row, or to broadcast to its view."""
    least, most = _values(network, group.source)
    negative, positive = signed_sums(
        group.weight, group.geometry, *network.views(group), everywhere=everywhere
    )
    low = positive * min(least, 0) + negative * max(most, 0)
    high = positive * max(most, 0) + negative * min(least, 0)
    if group.exponent > 0:
        low, high = low << group.exponent, high << group.exponent
    elif group.exponent < 0:
        # The sum of each delay is rounded by itself.
        roundings = max(1, np.unique(group.delay).size) if group.delay.ndim else 1
        low = (low >> -group.exponent) - (roundings - 1)
        high = -(-high >> -group.exponent) + (roundings - 1)
    return low, high


def signed_sums(
    weight: NDArray[Number],
    geometry: Geometry | None,
    source: Shape,
    target: Shape,
    *,
    everywhere: bool = False,
) -> tuple[NDArray[Number], NDArray[Number]]:
    """
    Return the sums of the negative and of the positive weights that each neuron sees.

    A convolution, from an image of shape `source` to one of shape `target`, has one of each for a channel,
    (channels, 1, 1), where some pixel sees all taps, whose sums are the largest; else, and `everywhere`, one
    for each pixel, (channels, h, w). A dense group has one for each row.
    """
    if geometry is None:
        return sums_by_sign(weight)
    slides = zip(
        source[1:],
        target[1:],
        weight.shape[2:],
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        strict=True,
    )
    seen = [_taps(*slide) for slide in slides]
    if all(taps.all() or (taps.all(1).any() and not everywhere) for taps in seen):
        negative, positive = sums_by_sign(weight)
        return negative.reshape(-1, 1, 1), positive.reshape(-1, 1, 1)
    high, wide = seen
    negative, positive = (
        high @ sums.reshape(len(weight), *weight.shape[2:]) @ wide.T
        for sums in sums_by_sign(weight, by_tap=True)
    )
    return negative, positive


def _taps(
    size: int, count: int, kernel: int, stride: int, padding: int, dilation: int
) -> NDArray[np.int64]:
    """Return which taps of a kernel lie within an image, (places, taps), of 0 and 1."""
    places = np.arange(count)[:, np.newaxis] * stride - padding
    at = places + np.arange(kernel) * dilation
    return ((at >= 0) & (at < size)).astype(np.int64)


def sums_by_sign(
    weight: NDArray[Number], *, by_tap: bool = False
) -> tuple[NDArray[Number], NDArray[Number]]:
    """
    Return the sums of the negative and of the positive weights in each row of `weight`.

    With `by_tap` those of each tap of a kernel, (rows, taps).
    """
    shape: Shape = (len(weight), weight[:1].size)
    if by_tap:
        shape = (*weight.shape[:2], math.prod(weight.shape[2:]))
    flat: NDArray[Number] = weight.reshape(shape)
    negative = np.empty((len(flat), *flat.shape[2:]), weight.dtype)
    total = np.empty_like(negative)
    for rows in row_blocks(flat):
        negative[rows] = np.minimum(flat[rows], 0).sum(1)
        total[rows] = flat[rows].sum(1)
    return negative, total - negative


def _values(network: IntegerNetwork, name: str) -> tuple[int, int]:
    """Return the smallest and largest value that a population sends."""
    match network[name]:
        case IntegerInput() as source:
            return source.minimum, source.maximum
        case IntegerRelay() as relay:
            return 0, relay.largest
        case IntegerNeurons() as neurons:
            return 0, neurons.most


def geometric(factor: float | Real, steps: int) -> Real:
    """Return `1 + factor + ... + factor^(steps - 1)`, element by element; 1 for factors below 0."""
    inside = np.clip(np.asarray(factor, np.float64), 0, 1)
    below = np.where(inside < 1, inside, 0)
    return np.where(inside < 1, (1 - below**steps) / (1 - below), float(steps))


def excess(
    network: IntegerNetwork,
    neurons: IntegerNeurons,
    limits: Limits,
    reach: Reach,
    *,
    steps: int,
    silent_steps: int = 0,
) -> Iterable[Problem]:
    """Yield what of `neurons` is beyond its limit, by how much, where most, and what would pass."""
    for what, values, limit in (
        ("an input sum", reach.current, reach.current_limit),
        ("a membrane", reach.membrane, reach.membrane_limit),
    ):
        over = values > limit
        if not over.any():
            continue
        most = int(values.max())
        have = f"it can reach {most} within {_steps(steps)}"
        if values.size > 1:
            place = tuple(map(int, np.unravel_index(int(values.argmax()), values.shape)))
            which = place[0] if len(place) == 1 else place
            have += (
                f", in neuron {which}; {int(over.sum())} of {values.size} neurons can be beyond it"
            )
        scale = np.broadcast_to(neurons.scale, values.shape)
        passing = float((scale / np.maximum(values / limit, 1)).flat[int(values.argmax())])
        remedy = (
            f"its weights must shrink by a factor of {most / limit:.3g}, to {passing:.4g} weight units "
            "per unit"
        )
        longest = _longest(network, neurons, limits, steps, silent_steps)
        if longest:
            remedy += f", or export for at most {_steps(longest)} with --steps"
        if what == "a membrane" and not neurons.readout and limits.membrane_overflow == "saturate":
            remedy += ", or let membranes saturate with --membranes saturating"
        yield Problem(reach.layer, f"needs {what} of at most {limit}", have, remedy)


def _steps(count: int) -> str:
    return f"{count} step{'' if count == 1 else 's'}"


def _longest(
    network: IntegerNetwork,
    neurons: IntegerNeurons,
    limits: Limits,
    steps: int,
    silent_steps: int,
) -> int:
    """Return the most steps, below `steps`, in which nothing of `neurons` leaves its limits; 0 if none."""
    longest, too_many = 0, steps
    while too_many - longest > 1:
        middle = (longest + too_many) // 2
        reach = reach_of(network, neurons, limits, steps=middle, silent_steps=silent_steps)
        longest, too_many = (middle, too_many) if reach.holds else (longest, middle)
    return longest


def _widths(neurons: IntegerNeurons, limits: Limits) -> Iterable[Problem]:
    decay_maximum = 1 << limits.decay_bits
    if neurons.most > limits.payload_maximum:
        yield Problem(
            neurons.name,
            f"needs at most {limits.payload_maximum} spikes a step, as graded spikes carry them",
            f"it can fire {neurons.most}",
            "limit them with --max-spikes",
        )
    lowest, highest = -limits.bias_mantissa_maximum - 1, limits.bias_mantissa_maximum
    for what, values, least, most in (
        ("a threshold", neurons.threshold, 0, limits.threshold_maximum),
        ("a decay dv", neurons.dv, 0, decay_maximum),
        ("a decay du", neurons.du, 0, decay_maximum - 1),
        ("a bias exponent", np.array(neurons.bias_exponent), 0, limits.bias_exponent_maximum),
        ("bias mantissas", neurons.bias_mantissa, lowest, highest),
    ):
        for value in dict.fromkeys((int(values.min(initial=most)), int(values.max(initial=least)))):
            if not least <= value <= most:
                yield Problem(
                    neurons.name, f"needs {what} from {least} to {most}", f"it is {value}"
                )


def _relayed(network: IntegerNetwork, relay: IntegerRelay, limits: Limits) -> Iterable[Problem]:
    low: Integer = np.zeros(relay.shape, np.int64)
    high: Integer = np.zeros(relay.shape, np.int64)
    for group in network.into(relay.name):
        group_low, group_high = sum_range(network, group)
        low, high = low + group_low.reshape(relay.shape), high + group_high.reshape(relay.shape)
    largest = min(relay.largest, limits.payload_maximum)
    if low.min(initial=0) < 0 or high.max(initial=0) > largest:
        yield Problem(
            relay.name,
            f"needs sums from 0 to {largest}, as graded spikes carry them",
            f"they can reach from {low.min(initial=0)} to {high.max(initial=0)}",
        )


def _all_multiples(values: Integer, step: int) -> bool:
    """Return whether all `values` are multiples of `step`."""
    if step & (step - 1):
        return not (values % step).any()
    # The bits below a power of two say it, of all values at once.
    return int(np.bitwise_or.reduce(values, axis=None)) & (step - 1) == 0


def _weights(group: IntegerSynapses, limits: Limits) -> Iterable[Problem]:
    weight: NDArray[np.int64] = group.weight
    if not weight.size:
        return
    least, most = int(weight.min()), int(weight.max())
    if not _all_multiples(weight, limits.weight_step):
        # Synapses of one sign keep the bit that a mixed group spends on it.
        step = limits.excitatory_step
        if least < 0 or most > limits.excitatory_maximum or not _all_multiples(weight, step):
            yield Problem(
                group.name,
                f"needs weights that are multiples of {limits.weight_step}, or from 0 to "
                f"{limits.excitatory_maximum}" + (f" in steps of {step}" if step > 1 else ""),
                f"they reach from {least} to {most}",
            )
    else:
        highest = limits.largest_weight(limits.weight_bits)
        lowest = -highest - limits.weight_unit(limits.weight_bits)
        if least < lowest or most > highest:
            yield Problem(
                group.name,
                f"needs weights from {lowest} to {highest}",
                f"they reach from {least} to {most}",
            )
    if group.exponent:
        yield Problem(group.name, "needs a weight exponent of 0", f"it is {group.exponent}")
