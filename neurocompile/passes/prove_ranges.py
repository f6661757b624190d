"""
Prove that no accumulator leaves the range in which the chip computes exactly.

For a neuron with weights w and sources between lo and hi (0 and 1 for spikes, 0 and the largest sum for
a relay), every partial sum of its input, in any order and with any delays, lies between

    n = sum min(w lo, w hi, 0)    and    p = sum max(w lo, w hi, 0)

over all its groups: merged branches and feedback are groups like any other, and no cycle can raise a
spike above 1, or above the number that neurons may fire in one step. With the current's memory a = 1 - (du + 1) / 4096, u stays within n and p times
1 + a + a^2 + ..., and the membrane, with leak factor d, never falls below `(64 n + min(b, 0))` (n with
that factor) times 1 + d + d^2 + ..., taken over the steps of a sample; rounding toward zero only shrinks
it. Upwards,

    hard reset      a membrane may saturate: it is above its threshold then and fires, as it would have;
                    but v <= d V + A, A = 64 p + max(b, 0), where it is counted how often it would
    subtract        n spikes take n S off: v <= max(B, d v + A - most S) after each step, with
                    B = V + most max(V - S, 0); they leave it above -most max(S - V, 0)
    read-out        must never fire: bounded as well

A membrane with a floor is never below it before it fires. Where a source computes in saturating integers
itself, or a user asks for it, a membrane may saturate: all targets clip it alike, and count that. Input
sums never may, as they would wrap.

Populations whose spikes outlive a step (feedback, delays) must be silent between samples; microcode is by
itself. A current of
`silence` = p + max(b, 0) + 1 weight units, taken off their input, does that, whatever arrives:

    v' <= V + 64 p + b - 64 silence < V

and is part of their input's range. Their current remembers what arrives in the gap as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neurocompile.blocks import row_blocks
from neurocompile.errors import Problem, RangeError, raise_all
from neurocompile.integer import (
    NO_FLOOR,
    Bound,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
    outliving,
)
from neurocompile.limits import Limits

Real = NDArray[np.float64]


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
    bounds = tuple(
        bound_of(
            network,
            neurons,
            limits,
            steps=steps,
            silent_steps=network.longest_delay if neurons.name in heard else 0,
        )
        for neurons in network.neurons
    )
    problems = [problem for bound in bounds for problem in excess(bound)]
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
    return bounds, problems


@dataclass(frozen=True)
class Reach:
    """
    What each neuron of a population can reach at most, (*shape), and what it may.

    `current` is in weight units, `membrane` in state units; `silence` as in `Bound`.
    """

    layer: str
    current: Real
    current_limit: int
    membrane: Real
    membrane_limit: int
    silence: int

    def bound(self, steps: int) -> Bound:
        """Return the largest of all neurons, over `steps` steps."""
        return Bound(
            layer=self.layer,
            current=int(np.ceil(self.current.max(initial=0))),
            current_limit=self.current_limit,
            membrane=int(np.ceil(self.membrane.max(initial=0))),
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
    low, high = _input_range(network, neurons, limits)
    unit = 1 << limits.decay_bits
    state_units = limits.arithmetic.state_units
    # What arrives in the gap is remembered, too, by those who must be silent in it.
    memory = geometric(1 - (neurons.du + 1) / unit, steps + silent_steps)
    least, most = low * memory, high * memory
    bias = neurons.bias
    silence = 0
    if silent_steps and neurons.plain:
        quiet = np.ceil(most) + -(-np.maximum(bias, 0) // state_units) + 1
        silence = int(quiet.max(initial=0))
        least = least - silence * geometric(1 - (neurons.du + 1) / unit, silent_steps)
    current = np.maximum(most, -least)

    leak = 1 - neurons.dv / unit
    growth = geometric(leak, steps)
    start = neurons.start
    downward = (low * memory * state_units + np.minimum(bias, 0)) * growth + np.minimum(start, 0)
    step_up = high * memory * state_units + np.maximum(bias, 0)
    floored = np.maximum(downward, neurons.floor)
    downward = np.where(neurons.floor > NO_FLOOR, floored, downward)
    threshold = neurons.threshold << limits.fraction_bits
    if neurons.reset == "subtract":
        downward = downward - neurons.most * np.maximum(neurons.subtracts - threshold, 0)
    membrane = np.maximum(-downward, 0)
    membrane_limit = limits.state_maximum
    if neurons.readout:
        membrane = np.maximum(membrane, step_up * growth + np.maximum(start, 0))
        membrane_limit = min(limits.threshold_maximum << limits.fraction_bits, membrane_limit)
    elif neurons.reset == "subtract" or neurons.most > 1:
        after = threshold + np.maximum(start, 0)
        if neurons.reset == "subtract":
            over = np.maximum(step_up - neurons.most * neurons.subtracts, 0)
            left = neurons.most * np.maximum(threshold - neurons.subtracts, 0)
            after = after + left + over * growth
        highest = np.maximum(leak * after + step_up + np.maximum(start, 0), neurons.floor)
        membrane = np.maximum(membrane, highest)
    reach = Reach(
        layer=neurons.name,
        current=np.broadcast_to(np.asarray(current, np.float64), neurons.shape),
        current_limit=limits.current_maximum,
        membrane=np.broadcast_to(np.asarray(membrane, np.float64), neurons.shape),
        membrane_limit=membrane_limit,
        silence=silence,
    )
    return reach.saturated() if neurons.saturates else reach


def _input_range(
    network: IntegerNetwork, neurons: IntegerNeurons, limits: Limits
) -> tuple[Integer, Integer]:
    """Return the smallest and largest sum that can arrive in a step, (*shape), pulses included."""
    low: Integer = np.zeros(neurons.shape, np.int64)
    high: Integer = np.zeros(neurons.shape, np.int64)
    for group in network.into(neurons.name):
        group_low, group_high = sum_range(network, group)
        low = low + group_low.reshape(neurons.shape)
        high = high + group_high.reshape(neurons.shape)
    if neurons.start.any() and not (neurons.du != _forgetful(limits)).any():
        # The chip gets it as a pulse of input current.
        pulse = neurons.start >> limits.fraction_bits
        low, high = low + np.minimum(pulse, 0), high + np.maximum(pulse, 0)
    low, high = low + np.minimum(neurons.pulse, 0), high + np.maximum(neurons.pulse, 0)
    return low, high


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
    _, high = _input_range(network, neurons, limits)
    unit = 1 << limits.decay_bits
    memory = geometric(1 - (neurons.du + 1) / unit, steps)
    step_up = high * memory * limits.arithmetic.state_units + np.maximum(neurons.bias, 0)
    start = np.maximum(neurons.start, 0)
    reach = (1 - neurons.dv / unit) * (threshold + start) + step_up + start
    reach = np.maximum(reach, neurons.floor)
    return max(1, int((reach // np.maximum(threshold, 1)).max(initial=1)))


def _forgetful(limits: Limits) -> int:
    return (1 << limits.decay_bits) - 1


def sum_range(network: IntegerNetwork, group: IntegerSynapses) -> tuple[Integer, Integer]:
    """Return the smallest and largest partial sum of `group`, one per neuron of its target, in order."""
    least, most = _values(network, group.source)
    negative, positive = sums_by_sign(group.weight)
    low = positive * min(least, 0) + negative * max(most, 0)
    high = positive * max(most, 0) + negative * min(least, 0)
    if group.exponent > 0:
        low, high = low << group.exponent, high << group.exponent
    elif group.exponent < 0:
        # The sum of each delay is rounded by itself.
        roundings = max(1, np.unique(group.delay).size) if group.delay.ndim else 1
        low = (low >> -group.exponent) - (roundings - 1)
        high = -(-high >> -group.exponent) + (roundings - 1)
    if group.geometry is not None:
        _, view = network.views(group)
        pixels = view[1] * view[2]
        return np.repeat(low, pixels), np.repeat(high, pixels)
    return low, high


def sums_by_sign(weight: Integer) -> tuple[Integer, Integer]:
    """Return the sums of the negative and of the positive weights in each row of `weight`."""
    negative: Integer = np.empty(len(weight), np.int64)
    total: Integer = np.empty(len(weight), np.int64)
    flat = weight.reshape(len(weight), -1)
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


def excess(bound: Bound) -> Iterable[Problem]:
    """Yield what in `bound` is beyond its limit, with the factor by which scales would have to shrink."""
    for what, value, limit in (
        ("an input sum", bound.current, bound.current_limit),
        ("a membrane", bound.membrane, bound.membrane_limit),
    ):
        if value > limit:
            yield Problem(
                bound.layer,
                f"needs {what} of at most {limit}",
                f"it can reach {value} within {bound.steps} steps",
                f"its weights must shrink by a factor of {value / limit:.3g}",
            )


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
        if least < 0 or most > limits.excitatory_maximum:
            yield Problem(
                group.name,
                f"needs weights that are multiples of {limits.weight_step}, or from 0 to "
                f"{limits.excitatory_maximum}",
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
