"""
The definition of the integers: Lava's fixed-point LIF, and its family, in plain numpy on int64.

Every other target is held to this file. For each population, at each step of the layer-by-layer
clock (lava-nc 0.10.0, `PyLifModelBitAcc`; `>>` is an arithmetic shift, `trunc12(z)` is
`sign(z) * (|z| >> 12)`):

    a = sum of the inputs                                     int32, wraps
    x = trunc12(u * (4096 - (du + 1))) + (a << 6)             int32, wraps
    u = x - 2^24 if x > 2^23, x + 2^24 if x <= -2^23, else x  one wrap
    v = clip(trunc12(v * (4096 - dv)) + u + bias, -(2^23 - 1), 2^23 - 1)
    s = v > (threshold << 6)                                  strict
    v = 0 where s

with u = v = 0 before a sample; at its first step `pulse` is added to a, and `start` to v before the clip.
Neurons that need microcode on the chip differ in the last lines: with V = threshold << 6

    v = max(v, floor)
    s = clip(ceil(v / V) - 1, 0, most)                        floor(v / V) where they are inclusive
    v = 0 where s > 0                                         or v - s * subtracts: reset "subtract"

where v and s are 0 in the `refractory` steps after a spike.

These numbers are Loihi 2's. A chip of another `Arithmetic` has its own in the place of

    << 6              << fraction_bits
    4096              2^decay_bits
    trunc12(z)        z / 2^decay_bits, rounded toward zero, down (z >> decay_bits), or to nearest:
                      (z + 2^(decay_bits - 1)) >> decay_bits
    u, one wrap       the same with 2^current_bits for 2^24; or clip(x, -end, end), end = 2^(current_bits - 1) - 1
    v, clip           the same with end = 2^(membrane_bits - 1) - 1; or max with a floor where there is one,
                      then one wrap with 2^membrane_bits

Every wrap and every clip is counted: a program with a range proof must show none, except that a
membrane far above its threshold may saturate on its way to a spike, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from neurocompile.integer import (
    LOIHI2,
    Arithmetic,
    Geometry,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
    Shape,
    Trace,
    recorded_type,
)

DECAY_BITS = LOIHI2.decay_bits
WRAP_AT = LOIHI2.current_end + 1
STATE_MAXIMUM = LOIHI2.membrane_end
EXACT_IN_FLOAT64 = 1 << 53

SAMPLES_AT_ONCE = 64

Real = NDArray[np.float64]
WINDOWS: Callable[..., Real] = sliding_window_view  # numpy 1 types its axis as one number


def decayed(state: Integer, factor: Integer, arithmetic: Arithmetic = LOIHI2) -> Integer:
    """Return what is left of `state`: `state * factor / 2^decay_bits`, rounded as `arithmetic` does."""
    product: Integer = state * factor
    bits = arithmetic.decay_bits
    match arithmetic.rounding:
        case "zero":
            magnitude: Integer = np.abs(product) >> bits
            return np.sign(product) * magnitude
        case "down":
            return product >> bits
        case "nearest":
            return (product + (1 << bits >> 1)) >> bits


def wrap_int32(values: Integer) -> Integer:
    """Return `values` as a 32-bit machine keeps them."""
    return ((values + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def wrap_state(x: Integer, bits: int = LOIHI2.current_bits) -> Integer:
    """Return the state `x` after the model's single wrap by 2^`bits`."""
    end = 1 << (bits - 1)
    return np.where(x > end, x - 2 * end, np.where(x <= -end, x + 2 * end, x))


def kept_current(x: Integer, arithmetic: Arithmetic) -> Integer:
    """Return the current that a chip keeps of `x`."""
    if arithmetic.current_overflow == "wrap":
        return wrap_state(x, arithmetic.current_bits)
    return np.clip(x, -arithmetic.current_end, arithmetic.current_end)


def kept_membrane(x: Integer, floor: Integer, arithmetic: Arithmetic) -> Integer:
    """Return the membrane that a chip keeps of `x`, which does not fall below `floor`."""
    if arithmetic.membrane_overflow == "saturate":
        lowest = np.maximum(floor, arithmetic.no_floor)
        return np.clip(x, lowest, arithmetic.membrane_end)
    floored = np.where(floor > arithmetic.no_floor, np.maximum(x, floor), x)
    return wrap_state(floored, arithmetic.membrane_bits)


@dataclass
class Counters:
    """How often a population left the safe ranges; what saturates and what wraps has the same counter."""

    current_wraps: int = 0  # the input sum left int32, alone or shifted
    u_wraps: int = 0
    v_saturations_low: int = 0
    v_saturations_high: int = (
        0  # each of these fires, so it changes nothing unless vth is beyond 17 bit
    )
    spikes_capped: int = 0  # a neuron could have fired more often than it may in one step


@dataclass
class NeuronState:
    """u and v of a population in state units, and how many steps it rests: (samples, *shape)."""

    u: Integer
    v: Integer
    resting: Integer = field(default_factory=lambda: np.zeros((), np.int64))
    counters: Counters = field(default_factory=Counters)


def step_neurons(
    neurons: IntegerNeurons, state: NeuronState, current: Integer, *, first: bool = False
) -> tuple[Integer, Integer]:
    """
    Advance `state` by one step with the input sum `current`; return (spikes, v before the reset).

    `first` says that this is the first step of a sample.

    Read-outs follow the same rule: that they never fire is proven, not assumed here.
    """
    arithmetic = neurons.arithmetic
    one = arithmetic.decay_one
    if first:
        current = current + neurons.pulse
    a = wrap_int32(current)
    shifted = a << arithmetic.fraction_bits
    remembered = decayed(state.u, one - (neurons.du + 1), arithmetic)
    sum_before = remembered + shifted
    x = wrap_int32(remembered + wrap_int32(shifted))
    u = kept_current(x, arithmetic)
    unclipped = decayed(state.v, one - neurons.dv, arithmetic) + u + neurons.bias
    if first:
        unclipped = unclipped + neurons.start
    v = kept_membrane(unclipped, neurons.floor, arithmetic)
    resting = state.resting > 0
    if neurons.refractory:
        v = np.where(resting, 0, v)
    fits = count_spikes(neurons, v)
    spikes = np.minimum(fits, neurons.most)
    if neurons.refractory:
        spikes = np.where(resting, 0, spikes)
        state.resting = np.where(spikes > 0, neurons.refractory, np.maximum(state.resting - 1, 0))

    counters = state.counters
    counters.current_wraps += int(((a != current) | (sum_before != x)).sum())
    counters.u_wraps += int((u != x).sum())
    end = arithmetic.membrane_end
    left = (unclipped < -end) & (neurons.floor <= arithmetic.no_floor)
    counters.v_saturations_low += int(left.sum())
    counters.v_saturations_high += int((unclipped > end).sum())

    if neurons.most > 1:
        counters.spikes_capped += int((fits > neurons.most).sum())

    state.u = u
    after = v - spikes * neurons.subtracts if neurons.reset == "subtract" else 0
    state.v = np.where(spikes > 0, after, v)
    return spikes, v


def count_spikes(neurons: IntegerNeurons, v: Integer) -> Integer:
    """Return how often the threshold of `neurons` fits into `v`; at most once, if that is all they fire."""
    threshold = neurons.threshold << neurons.arithmetic.fraction_bits
    if neurons.most == 1:
        above = v >= threshold if neurons.inclusive else v > threshold
        return above.astype(np.int64)
    counted: Integer = np.maximum((v if neurons.inclusive else v - 1) // threshold, 0)
    return counted


def accumulate(synapses: IntegerSynapses, x: Integer, views: tuple[Shape, Shape]) -> Integer:
    """
    Return the input sums (samples, *target view) of `x` (samples, *source), before the shift.

    Computed in float64, which is exact while |sum| < 2^53; that is checked, not assumed.
    """
    flat_weight = synapses.weight.reshape(len(synapses.weight), -1)
    worst = int(np.abs(flat_weight).sum(1).max(initial=0)) * int(np.abs(x).max(initial=0))
    if worst >= EXACT_IN_FLOAT64:
        raise OverflowError(f"sums of '{synapses.name}' could reach {worst}, beyond 2^53")
    values = x.astype(np.float64)
    source_view, target_view = views
    if synapses.geometry is None:
        sums = values.reshape(len(x), -1) @ flat_weight.T.astype(np.float64)
    else:
        image = values.reshape(len(x), *source_view)
        sums = _convolve(image, synapses.weight.astype(np.float64), synapses.geometry)
    return sums.astype(np.int64).reshape(len(x), *target_view)


def _convolve(x: Real, weight: Real, geometry: Geometry) -> Real:
    """Cross-correlate (samples, channels, h, w) with zero padding, group by group."""
    pad_h, pad_w = geometry.padding
    padded = np.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)))
    out_channels, channels, kernel_h, kernel_w = weight.shape
    dilation_h, dilation_w = geometry.dilation
    reach = (dilation_h * (kernel_h - 1) + 1, dilation_w * (kernel_w - 1) + 1)
    windows = WINDOWS(padded, reach, axis=(2, 3))
    windows = windows[
        :, :, :: geometry.stride[0], :: geometry.stride[1], ::dilation_h, ::dilation_w
    ]
    grouped = windows.reshape(len(x), geometry.groups, channels, *windows.shape[2:])
    kernels = weight.reshape(
        geometry.groups, out_channels // geometry.groups, channels, kernel_h, kernel_w
    )
    parts = [
        np.tensordot(grouped[:, group], kernels[group], axes=([1, 4, 5], [1, 2, 3]))
        for group in range(geometry.groups)
    ]
    return np.concatenate(parts, axis=3).transpose(0, 3, 1, 2)


def shift(sums: Integer, exponent: int, *, to_nearest: bool) -> Integer:
    """Return `sums * 2^exponent`: to the right, down on the chip and to nearest on the host."""
    if exponent >= 0:
        return sums << exponent
    rounding = (1 << (-exponent - 1)) if to_nearest else 0
    return (sums + rounding) >> -exponent


def input_sum(
    synapses: IntegerSynapses, history: Mapping[int, Integer], views: tuple[Shape, Shape]
) -> Integer:
    """
    Return what `synapses` deliver now; `history[d]` are the source's values d steps ago.

    Each delay's sum is shifted by itself, as Lava's `DelayDense` does. That only matters where the
    shift rounds; where it does not, all delays of a source neuron share one sum.
    """
    delays = [int(delay) for delay in np.unique(synapses.delay)]
    parts: list[tuple[IntegerSynapses, Integer]]
    if synapses.delay.ndim and synapses.delay.shape == synapses.weight.shape:
        parts = [
            (
                replace(synapses, weight=np.where(synapses.delay == delay, synapses.weight, 0)),
                history[delay],
            )
            for delay in delays
        ]
    elif synapses.exponent >= 0 or len(delays) == 1:
        x = history[delays[0]]
        for delay in delays[1:]:
            x = np.where(synapses.delay == delay, history[delay], x)
        parts = [(synapses, x)]
    else:
        parts = [
            (synapses, np.where(synapses.delay == delay, history[delay], 0)) for delay in delays
        ]
    return sum(
        (
            shift(accumulate(group, x, views), synapses.exponent, to_nearest=synapses.on_host)
            for group, x in parts
        ),
        np.zeros((), np.int64),
    )


def input_sums(synapses: IntegerSynapses, values: Integer, views: tuple[Shape, Shape]) -> Integer:
    """
    Return what `synapses` deliver at every step of whole samples.

    `values` are the source's, (samples, steps, *shape); the result is (samples, steps, *target view).
    Delays reach back to the beginning of a sample only.
    """
    samples, steps = values.shape[:2]
    history: dict[int, Integer] = {}
    for delay in (int(number) for number in np.unique(synapses.delay)):
        late = np.zeros_like(values)
        late[:, delay:] = values[:, : max(0, steps - delay)]
        history[delay] = late.reshape(samples * steps, *values.shape[2:])
    sums = input_sum(synapses, history, views)
    return sums.reshape(samples, steps, *views[1])


def execute(
    network: IntegerNetwork,
    inputs: Mapping[str, Integer],
    *,
    samples: int,
    steps: int,
    record: Collection[str] = (),
    before_reset: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Trace:
    """
    Run `network` and return what it did, on the layer-by-layer clock.

    `inputs` holds the payloads of each input population, (samples, steps, *shape). `record` names
    populations whose spikes (of relays: graded spikes) are kept, and `membrane/<name>` their membranes in state units, after
    the reset unless `before_reset`. Memory beyond the result does not grow with `steps`.
    """
    parts = []
    for start in range(0, samples, SAMPLES_AT_ONCE):
        stop = min(start + SAMPLES_AT_ONCE, samples)
        part = {name: values[start:stop] for name, values in inputs.items()}
        parts.append(_execute(network, part, stop - start, steps, record, before_reset))
        if progress:
            progress(stop)
    return Trace(
        outputs={
            name: np.concatenate([part.outputs[name] for part in parts])
            for name in parts[0].outputs
        },
        spikes={
            name: np.concatenate([part.spikes[name] for part in parts]) for name in parts[0].spikes
        },
        membrane={
            name: np.concatenate([part.membrane[name] for part in parts])
            for name in parts[0].membrane
        },
        counters={
            layer: {
                kind: sum(part.counters[layer][kind] for part in parts)
                for kind in parts[0].counters[layer]
            }
            for layer in parts[0].counters
        },
    )


def _execute(
    network: IntegerNetwork,
    inputs: Mapping[str, Integer],
    samples: int,
    steps: int,
    record: Collection[str],
    before_reset: bool,
) -> Trace:
    states = {
        neurons.name: NeuronState(*np.zeros((3, samples, *neurons.shape), np.int64))
        for neurons in network.neurons
    }
    # What is later than the sample is long never comes, and needs no memory.
    network = replace(
        network,
        synapses=tuple(
            replace(group, delay=np.minimum(group.delay, steps)) for group in network.synapses
        ),
    )
    longest = {
        population.name: max(
            (int(group.delay.max(initial=0)) for group in network.out_of(population.name)),
            default=0,
        )
        for population in network.populations
    }
    history: dict[str, dict[int, Integer]] = {
        population.name: {
            delay: np.zeros((samples, *population.shape), np.int64)
            for delay in range(longest[population.name] + 1)
        }
        for population in network.populations
    }
    trace = empty_trace(network, samples, steps, record)
    arrives = {item.name: network.into(item.name) for item in network.populations}
    views = {group.name: network.views(group) for group in network.synapses}
    for step in range(steps):
        for name, past in history.items():
            for delay in range(longest[name], 0, -1):
                past[delay] = past[delay - 1]
        for population in network.populations:
            name = population.name
            past = history[name]
            if isinstance(population, IntegerInput):
                past[0] = inputs[name][:, step]
                continue
            current = np.zeros((samples, *population.shape), np.int64)
            for group in arrives[name]:
                delivered = input_sum(group, history[group.source], views[group.name])
                current = current + delivered.reshape(current.shape)
            if isinstance(population, IntegerRelay):
                past[0] = current
                if name in trace.spikes:
                    trace.spikes[name][:, step] = current
                continue
            fired, v = step_neurons(population, states[name], current, first=step == 0)
            past[0] = fired
            if name in trace.spikes:
                trace.spikes[name][:, step] = fired
            if name in trace.membrane:
                trace.membrane[name][:, step] = v if before_reset else states[name].v
            for output, shown in network.outputs.items():
                if shown == name:
                    trace.outputs[output][:, step] = _shown(population, fired, current, v)
    return replace(
        trace, counters={name: vars(state.counters).copy() for name, state in states.items()}
    )


def empty_trace(
    network: IntegerNetwork, samples: int, steps: int, record: Collection[str]
) -> Trace:
    """Return a trace with room for what `execute` tells, all zeros."""
    shown = {name: network[name].shape for name in network.outputs.values()}
    return Trace(
        outputs={
            output: np.zeros((samples, steps, *shown[name]), np.int64)
            for output, name in network.outputs.items()
        },
        spikes={
            item.name: np.zeros((samples, steps, *item.shape), recorded_type(item))
            for item in network.populations
            if item.name in record
        },
        membrane={
            item.name: np.zeros((samples, steps, *item.shape), np.int64)
            for item in network.neurons
            if f"membrane/{item.name}" in record
        },
        counters={},
    )


def _shown(neurons: IntegerNeurons, fired: Integer, current: Integer, v: Integer) -> Integer:
    """Return what an output shows of `neurons` at one step."""
    match neurons.shows:
        case "spikes":
            return fired
        case "input":
            return (current << neurons.arithmetic.fraction_bits) + neurons.bias
        case "membrane":
            return v
