"""
Prove that no accumulator leaves the range in which the chip computes exactly.

For a neuron with weights w and sources between lo and hi (0 and 1 for spikes), every partial sum of
its input, in any order, lies between

    n = sum min(w lo, w hi, 0)    and    p = sum max(w lo, w hi, 0)

and its membrane, with leak factor d, never below `(64 n + min(b, 0)) (1 + d + d^2 + ... )`, taken
over the steps of a sample; rounding toward zero only shrinks it. Upwards a spiking membrane may
saturate: it is above its threshold then and fires, as it would have without. A read-out has neither
excuse, and is bounded on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import Problem, RangeError, raise_all
from neurocompile.integer import (
    READOUT_THRESHOLD,
    STATE_FRACTION_BITS,
    Bound,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerSynapses,
)
from neurocompile.limits import Limits


def prove_ranges(network: IntegerNetwork, limits: Limits, *, steps: int) -> tuple[Bound, ...]:
    """
    Return the bounds of every population of `network` over `steps` steps.

    Raises `RangeError` with every layer whose bound is beyond its limit, and by how much.
    """
    bounds = tuple(bound_of(network, neurons, limits, steps=steps) for neurons in network.neurons)
    problems = [problem for bound in bounds for problem in excess(bound)]
    problems += [problem for neurons in network.neurons for problem in _widths(neurons, limits)]
    problems += [
        problem
        for group in network.synapses
        if not group.on_host
        for problem in _weights(group, limits)
    ]
    raise_all(RangeError, problems)
    return bounds


def bound_of(
    network: IntegerNetwork, neurons: IntegerNeurons, limits: Limits, *, steps: int
) -> Bound:
    """Return the largest magnitudes that one population can reach, whether allowed or not."""
    low: Integer = np.zeros(neurons.shape, np.int64)
    high: Integer = np.zeros(neurons.shape, np.int64)
    for group in network.into(neurons.name):
        group_low, group_high = sum_range(network, group)
        low, high = low + group_low, high + group_high
    current = int(max(high.max(initial=0), -low.min(initial=0)))

    current_growth = geometric(1 - (neurons.du + 1) / (1 << limits.decay_bits), steps)
    growth = geometric(1 - neurons.dv / (1 << limits.decay_bits), steps)
    bias = neurons.bias
    downward = (low << STATE_FRACTION_BITS) * current_growth + np.minimum(bias, 0)
    upward = (high << STATE_FRACTION_BITS) * current_growth + np.maximum(bias, 0)
    membrane = -downward.min(initial=0) * growth
    membrane_limit = limits.state_maximum
    if neurons.readout:
        membrane = max(membrane, upward.max(initial=0) * growth)
        membrane_limit = READOUT_THRESHOLD << STATE_FRACTION_BITS
    return Bound(
        layer=neurons.name,
        current=int(np.ceil(current * current_growth)),
        current_limit=limits.current_maximum,
        membrane=int(np.ceil(membrane)),
        membrane_limit=membrane_limit,
        steps=steps,
    )


def sum_range(network: IntegerNetwork, group: IntegerSynapses) -> tuple[Integer, Integer]:
    """Return the smallest and largest partial sum of `group`, broadcasting to the target's shape."""
    source = network[group.source]
    least, most = (source.minimum, source.maximum) if isinstance(source, IntegerInput) else (0, 1)
    flat = group.weight.reshape(len(group.weight), -1)
    ends = np.stack([flat * least, flat * most, np.zeros_like(flat)])
    low, high = ends.min(0).sum(1), ends.max(0).sum(1)
    if group.exponent > 0:
        low, high = low << group.exponent, high << group.exponent
    elif group.exponent < 0:
        low, high = low >> -group.exponent, -(-high >> -group.exponent)
    if group.geometry is not None:
        return low[:, np.newaxis, np.newaxis], high[:, np.newaxis, np.newaxis]
    shape = network[group.target].shape
    return low.reshape(shape), high.reshape(shape)


def geometric(factor: float, steps: int) -> float:
    """Return `1 + factor + ... + factor^(steps - 1)`."""
    if factor <= 0:
        return 1.0
    if factor >= 1:
        return float(steps)
    return float((1 - factor**steps) / (1 - factor))


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
    lowest, highest = -limits.bias_mantissa_maximum - 1, limits.bias_mantissa_maximum
    mantissa = neurons.bias_mantissa
    for what, value, least, most in (
        ("a threshold", neurons.threshold, 0, limits.threshold_maximum),
        ("a decay dv", neurons.dv, 0, decay_maximum),
        ("a decay du", neurons.du, 0, decay_maximum - 1),
        ("a bias exponent", neurons.bias_exponent, 0, limits.bias_exponent_maximum),
        ("bias mantissas", int(mantissa.min(initial=0)), lowest, highest),
        ("bias mantissas", int(mantissa.max(initial=0)), lowest, highest),
    ):
        if not least <= value <= most:
            yield Problem(neurons.name, f"needs {what} from {least} to {most}", f"it is {value}")


def _weights(group: IntegerSynapses, limits: Limits) -> Iterable[Problem]:
    highest = limits.largest_weight(limits.weight_bits)
    lowest = -highest - limits.weight_unit(limits.weight_bits)
    weight: NDArray[np.int64] = group.weight
    if weight.size and (weight.min() < lowest or weight.max() > highest):
        yield Problem(
            group.name,
            f"needs weights from {lowest} to {highest}",
            f"they reach from {weight.min()} to {weight.max()}",
        )
    if (weight % limits.weight_step).any():
        yield Problem(group.name, f"needs weights that are multiples of {limits.weight_step}")
    if group.exponent:
        yield Problem(group.name, "needs a weight exponent of 0", f"it is {group.exponent}")
