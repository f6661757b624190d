"""
The inner loops of the compiled engine, for numba.

Arrays are (samples, neurons), neurons in the engine's own order (see `layout`); the loops run over one
sample after the other, so that a population's sums and membranes stay in the cache. A population's
values are accompanied by its events: the indices of the neurons whose value is not 0, in order.

Everything is integer arithmetic on types that are proven wide enough (`plan`), but for one product: a
leak of v by k / 4096 is float64, where v * k has at most 24 + 13 bits and division by 4096 is exact, and
its conversion to an integer rounds toward zero as Lava's decay does.

Loops are written so that LLVM turns them into vector instructions: over slices (an index that may be
negative hinders it), with constants of the right type (a mixed expression grows to int64), and without
branches; two masks, 0 or -1, stand for what would be a branch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from neurocompile.integer import LOIHI2, STATE_FRACTION_BITS, Arithmetic
from neurocompile.kernel_cache import kernel
from neurocompile_fixedpoint.definition import STATE_MAXIMUM

INT32_HALF = 1 << 31
INT32_MASK = (1 << 32) - 1

ONE = np.int32(1)
SIGN = np.int32(31)
STATE_SHIFT = np.int32(STATE_FRACTION_BITS)
HIGHEST = np.int32(STATE_MAXIMUM)
LOWEST = np.int32(-STATE_MAXIMUM)

HALVES, KEEPS, LEAKS = 0, 1, 2
"""How membranes leak: dv = 2048 (an exact shift), dv = 0, or anything else."""

LANES = 16  # sums that are added at once
WIDTHS = (LANES, 2 * LANES, 4 * LANES)  # of a block of outputs
INDEX = ir.IntType(64)
WORD = ir.IntType(32)
NARROW = ir.VectorType(ir.IntType(16), LANES)
WIDE = ir.VectorType(WORD, LANES)


def _rows(blocks: int, *, graded: bool) -> Any:
    """
    Return what adds rows of int16 weights, `blocks` * `LANES` wide, to int32 sums.

    The sums of one call stay in vector registers, which neither numba nor LLVM would do by themselves:
    they cannot know that a weight and a sum never share their memory. Spikes add up in int16, which must
    be proven to hold the sum of any of the rows; graded events add in int32.
    """

    @intrinsic
    def add_rows(
        _context: Any,
        weight: Any,
        width: Any,
        column: Any,
        events: Any,
        values: Any,
        begin: Any,
        end: Any,
        base: Any,
        into: Any,
    ) -> Any:
        arguments = (weight, width, column, events, values, begin, end, base, into)

        def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            def data(position: int) -> Any:
                make = context.make_array(signature.args[position])
                return make(context, builder, given[position]).data

            def place(pointer: Any, block: int, vector: Any) -> Any:
                moved = builder.gep(pointer, [ir.Constant(INDEX, block * LANES)])
                return builder.bitcast(moved, vector.as_pointer())

            weights, listed, target = data(0), data(3), data(8)
            kept = WIDE if graded else NARROW
            sums = [cgutils.alloca_once(builder, kept) for _ in range(blocks)]
            for each in sums:
                builder.store(ir.Constant(kept, None), each)
            one = ir.Constant(INDEX, 1)
            loop = cgutils.for_range_slice(builder, given[5], given[6], one, intp=INDEX)
            with loop as (number, _):
                index = builder.sext(builder.load(builder.gep(listed, [number])), INDEX)
                row = builder.mul(builder.sub(index, given[7]), given[1])
                first = builder.gep(weights, [builder.add(row, given[2])])
                if graded:
                    factor = builder.load(builder.gep(data(4), [index]))
                    if factor.type.width > WORD.width:  # only where all weights are 0
                        factor = builder.trunc(factor, WORD)
                    elif factor.type.width < WORD.width:
                        signed = signature.args[4].dtype.signed
                        factor = (builder.sext if signed else builder.zext)(factor, WORD)
                    splat = builder.insert_element(
                        ir.Constant(WIDE, ir.Undefined), factor, ir.Constant(WORD, 0)
                    )
                    lanes = ir.Constant(ir.VectorType(WORD, LANES), None)
                    splat = builder.shuffle_vector(splat, ir.Constant(WIDE, ir.Undefined), lanes)
                for block, each in enumerate(sums):
                    added = builder.load(place(first, block, NARROW), align=2)
                    if graded:
                        added = builder.mul(builder.sext(added, WIDE), splat)
                    builder.store(builder.add(builder.load(each), added), each)
            for block, each in enumerate(sums):
                there = place(target, block, WIDE)
                total = builder.load(each)
                if not graded:
                    total = builder.sext(total, WIDE)
                builder.store(builder.add(builder.load(there, align=4), total), there, align=4)
            return context.get_dummy_value()

        return types.void(*arguments), write

    return add_rows


spikes_1, spikes_2, spikes_4 = (_rows(blocks, graded=False) for blocks in (1, 2, 4))
graded_1, graded_2, graded_4 = (_rows(blocks, graded=True) for blocks in (1, 2, 4))


@kernel
def take_input(payload: Any, values: Any, events: Any, starts: Any, counts: Any) -> None:
    """Lay `payload`, (samples, channels, pixels), out as `values`, and list its events."""
    samples, channels, pixels = payload.shape
    for sample in range(samples):
        row = values[sample].reshape(pixels, channels)
        for channel in range(channels):
            for pixel in range(pixels):
                row[pixel, channel] = payload[sample, channel, pixel]
        counts[sample] = _list_events(values[sample], events[sample], starts[sample])


@kernel
def gather(
    events: Any,
    starts: Any,
    values: Any,
    graded: Any,
    first: Any,
    begin: Any,
    end: Any,
    base: Any,
    row: Any,
    outputs: Any,
    weight: Any,
    sums: Any,
) -> None:
    """
    Add up, for one pixel of the target after the other, the weights of the spikes that it can hear.

    It hears lines `first[pixel]` to `first[pixel + 1]`; a line is the events of the source's units
    `begin` to `end`, and the weights of the neuron `base` would be in `row`. `weight` is (blocks of
    outputs, rows, outputs of a block): a block's weights are few enough to stay near the processor.
    `graded` events carry `values`; so do spikes whose sums do not fit 16 bits, which are all 1.
    """
    blocks, rows, width = weight.shape
    flat = weight.reshape(-1)
    scratch = np.empty(width, np.int32)
    for block in range(blocks):
        here = block * rows * width
        begins = block * width
        reach = min(width, outputs - begins)
        for sample in range(sums.shape[0]):
            listed, unit = events[sample], starts[sample]
            into, own = sums[sample], values[sample]
            for pixel in range(first.shape[0] - 1):
                scratch[:] = 0
                for line in range(first[pixel], first[pixel + 1]):
                    start, stop = np.int64(unit[begin[line]]), np.int64(unit[end[line]])
                    if start == stop:
                        continue
                    zero, at = np.int64(base[line]), here + row[line] * width
                    if graded:
                        if width == 4 * LANES:
                            graded_4(flat, width, at, listed, own, start, stop, zero, scratch)
                        elif width == 2 * LANES:
                            graded_2(flat, width, at, listed, own, start, stop, zero, scratch)
                        else:
                            graded_1(flat, width, at, listed, own, start, stop, zero, scratch)
                    elif width == 4 * LANES:
                        spikes_4(flat, width, at, listed, own, start, stop, zero, scratch)
                    elif width == 2 * LANES:
                        spikes_2(flat, width, at, listed, own, start, stop, zero, scratch)
                    else:
                        spikes_1(flat, width, at, listed, own, start, stop, zero, scratch)
                there = pixel * outputs + begins
                target = into[there : there + reach]
                for position in range(reach):
                    target[position] += scratch[position]


@kernel
def scatter(
    events: Any,
    values: Any,
    counts: Any,
    graded: Any,
    channels: Any,
    first: Any,
    start: Any,
    length: Any,
    row: Any,
    offset: Any,
    weight: Any,
    sums: Any,
) -> None:
    """
    Add the weights of every event, times its value if it is `graded`, to the sums it reaches.

    An event is a channel of a pixel. Segments `first[pixel]` to `first[pixel + 1]` say which runs of sums
    it reaches, `start` and `length`, and at which `row` of its channel's weights each begins; `offset` is
    where the channel's group of targets begins.
    """
    size = weight.shape[1]
    flat = weight.reshape(-1)
    for sample in range(counts.shape[0]):
        listed, into = events[sample], sums[sample]
        for event in range(counts[sample]):
            index = np.uint32(listed[event])
            pixel = index // np.uint32(channels)
            channel = np.int64(index - pixel * np.uint32(channels))
            at, shift = channel * size, np.int64(offset[channel])
            value = sums.dtype.type(values[sample, index])
            for segment in range(first[pixel], first[pixel + 1]):
                begin, reach = shift + start[segment], np.int64(length[segment])
                source = at + row[segment]
                target = into[begin : begin + reach]
                added = flat[source : source + reach]
                if graded:
                    for position in range(reach):
                        target[position] += value * added[position]
                else:
                    for position in range(reach):
                        target[position] += added[position]


@kernel
def add_shifted(own: Any, bits: Any, rounding: Any, sums: Any) -> None:
    """Add the sums of one group, shifted to the right by `bits`, and clear them."""
    for sample in range(own.shape[0]):
        source, target = own[sample], sums[sample]
        for index in range(source.shape[0]):
            target[index] += (source[index] + rounding) >> bits
            source[index] = 0


@kernel
def relay(sums: Any, values: Any, events: Any, starts: Any, counts: Any) -> None:
    """Send `sums` on as graded spikes, and clear them."""
    for sample in range(sums.shape[0]):
        source, row = sums[sample], values[sample]
        for index in range(source.shape[0]):
            row[index] = source[index]
            source[index] = 0
        counts[sample] = _list_events(row, events[sample], starts[sample])


@kernel
def _list_events(values: Any, listed: Any, starts: Any) -> Any:
    """List the neurons whose value is not 0; return how many there are. `starts` counts them by unit."""
    # Unsigned, so that numba need not look whether an index is negative.
    found, index, one = np.uint64(0), np.uint64(0), np.uint64(1)
    units = starts.shape[0] - 1
    each = values.shape[0] // max(units, 1)
    for unit in range(units):
        starts[unit] = found
        for _ in range(each):
            listed[found] = index
            found += np.uint64(values[index] != 0)
            index += one
    starts[units] = found
    return found


@kernel
def fire(
    sums: Any,
    membrane: Any,
    leak: Any,
    leaks: Any,
    bias: Any,
    threshold: Any,
    lowest: Any,
    amount: Any,
    subtracts: Any,
    spikes: Any,
    events: Any,
    starts: Any,
    counts: Any,
    saturated: Any,
) -> None:
    """
    Advance neurons whose current has no memory by one step, where no sum can wrap; clear their sums.

    The parameters repeat after `len(bias)` neurons. `threshold` is the highest membrane that stays silent;
    `lowest` the lowest membrane; `amount` comes off by a spike if `subtracts` is -1, and if it is 0 the
    membrane is cleared. `saturated` counts, below and above.
    """
    size, period = membrane.shape[1], bias.shape[0]
    for sample in range(membrane.shape[0]):
        for begin in range(0, size, period):
            end = min(begin + period, size)
            arriving, v = sums[sample, begin:end], membrane[sample, begin:end]
            fired = spikes[sample, begin:end]
            if leaks == HALVES:
                for index in range(end - begin):
                    v[index] = np.int32(v[index] - (v[index] >> SIGN)) >> ONE
            elif leaks == LEAKS:
                for index in range(end - begin):
                    v[index] = np.int32(np.float64(v[index]) * leak[index])
            low = np.int32(0)
            high = np.int32(0)
            for index in range(end - begin):
                x = np.int32(v[index] + np.int32(arriving[index] << STATE_SHIFT))
                x = np.int32(x + bias[index])
                low = np.int32(low + np.int32(x < LOWEST))
                high = np.int32(high + np.int32(x > HIGHEST))
                x = min(max(x, lowest[index]), HIGHEST)
                spike = x > threshold[index]
                arriving[index] = 0
                fired[index] = spike
                v[index] = np.int32(x - amount[index]) & subtracts if spike else x
            saturated[0] += low
            saturated[1] += high
        counts[sample] = _list_events(spikes[sample], events[sample], starts[sample])


def numbers_of(arithmetic: Arithmetic) -> tuple[int, ...]:
    """
    Return the numbers that `fire_any` reads of `arithmetic`.

    They are the bits of a state's fraction and of a decay's, whether a decay rounds toward zero, what it adds
    before it rounds down otherwise, and the end of each state, with 1 where it wraps.
    """
    return (
        arithmetic.fraction_bits,
        arithmetic.decay_bits,
        int(arithmetic.rounding == "zero"),
        arithmetic.decay_one >> 1 if arithmetic.rounding == "nearest" else 0,
        arithmetic.current_end,
        int(arithmetic.current_overflow == "wrap"),
        arithmetic.membrane_end,
        int(arithmetic.membrane_overflow == "wrap"),
    )


OWN = numbers_of(LOIHI2)


@kernel
def _decayed(product: Any, bits: Any, to_zero: Any, half: Any) -> Any:
    """Return `product / 2^bits`, rounded toward zero, or down after adding `half`."""
    return -(-product >> bits) if product < 0 and to_zero else (product + half) >> bits


@kernel
def _inside(state: Any, end: Any, wraps: Any) -> Any:
    """Return what is kept of `state` between -`end` and `end`: it wraps, once, or stays at the end."""
    if state > end + wraps:
        return state - 2 * (end + 1) if wraps else end
    if state < -end:
        return state + 2 * (end + 1) if wraps else -end
    return state


@kernel
def fire_any(
    sums: Any,
    u: Any,
    v: Any,
    resting: Any,
    keeps_u: Any,
    keeps_v: Any,
    bias: Any,
    threshold: Any,
    lowest: Any,
    amount: Any,
    floored: Any,
    inclusive: Any,
    subtracts: Any,
    most: Any,
    refractory: Any,
    before: Any,
    spikes: Any,
    events: Any,
    starts: Any,
    counts: Any,
    counted: Any,
    arithmetic: Any,
) -> None:
    """
    Advance any neurons by one step in int64, wraps and all, as `definition.step_neurons` does.

    The parameters repeat after `len(bias)` neurons; `before` gets the membranes before their reset.
    `arithmetic` are the numbers of `numbers_of`, or None for Loihi 2's: these are compiled in.
    """
    fraction_bits, decay_bits, to_zero, half, u_end, u_wraps, v_end, v_wraps = (
        OWN if arithmetic is None else arithmetic
    )
    period = bias.shape[0]
    for sample in range(v.shape[0]):
        for index in range(v.shape[1]):
            own = index % period
            current = np.int64(sums[sample, index])
            sums[sample, index] = 0
            a = ((current + INT32_HALF) & INT32_MASK) - INT32_HALF
            shifted = a << fraction_bits
            kept = _decayed(u[sample, index] * keeps_u[own], decay_bits, to_zero, half)
            whole = kept + shifted
            x = kept + (((shifted + INT32_HALF) & INT32_MASK) - INT32_HALF)
            x = ((x + INT32_HALF) & INT32_MASK) - INT32_HALF
            inside = _inside(x, u_end, u_wraps)
            counted[0] += (a != current) | (whole != x)
            counted[1] += inside != x
            u[sample, index] = inside

            kept = _decayed(v[sample, index] * keeps_v[own], decay_bits, to_zero, half)
            unclipped = kept + inside + bias[own]
            counted[2] += (unclipped < -v_end) & (not floored[own])
            counted[3] += unclipped > v_end
            membrane = _inside(max(unclipped, lowest[own]), v_end, v_wraps)
            rests = resting[sample, index] > 0
            if rests:
                membrane = 0
            if most == 1:
                fits = np.int64(
                    membrane >= threshold[own] if inclusive else membrane > threshold[own]
                )
            else:
                fits = max((membrane if inclusive else membrane - 1) // threshold[own], np.int64(0))
            counted[4] += (most > 1) & (fits > most)
            fired = 0 if rests else min(fits, most)
            if fired > 0:
                resting[sample, index] = refractory
            elif rests:
                resting[sample, index] -= 1
            before[sample, index] = membrane
            if fired > 0:
                v[sample, index] = membrane - fired * amount[own] if subtracts else 0
            else:
                v[sample, index] = membrane
            spikes[sample, index] = fired
        counts[sample] = _list_events(spikes[sample], events[sample], starts[sample])
