"""
The engine on PyTorch tensors: for GPUs, and for a CPU where nothing faster is installed.

It does what `definition.execute` says, bit for bit, with the samples of a block side by side and one
step after the other. Two things make it fast, and both rest on ranges that are worked out first, from
the weights and from the largest values that the sources can send (`Span`); what the network declares
of its inputs is checked against the values of each run.

**Sums are matrix products of floats** that round nothing; `torch_sums` has the argument. What would break it
is ruled out: TF32 and bfloat16, which cut the factors, are switched off for our products, and put back
afterwards; autocast leaves products alone that are told where to write, as ours are.

**States are 32-bit integers** where it is proven that nothing wraps, in which case nothing needs to be
counted either; a membrane is clipped and counted where it may saturate. `trunc12` is then a shift, or a
product in float64 (31 + 13 bits) whose conversion to an integer rounds toward zero. Populations for which
this is not proven take the definition's own lines, in int64; so do those of a chip with another
arithmetic than Loihi 2's.

Each population is laid out with its channels last, as the windows are. The device is not waited for
within a chunk of steps; counters stay on it until the end. Nothing is random, and no sum depends on an
order: two runs are equal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocompile.errors import OptionError, Problem
from neurocompile.integer import (
    LOIHI2,
    STATE_FRACTION_BITS,
    Arithmetic,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerRelay,
    IntegerSynapses,
    Trace,
    recorded_type,
)
from neurocompile_fixedpoint.definition import (
    DECAY_BITS,
    STATE_MAXIMUM,
    WRAP_AT,
    Counters,
)
from neurocompile_fixedpoint.torch_sums import (
    INT32,
    UNKNOWN,
    Arrivals,
    Convolution,
    Dense,
    History,
    Part,
    Scratch,
    Span,
    channels_last,
    places,
    span_of,
)

COUNTED = tuple(vars(Counters()))
CURRENT_WRAPS, U_WRAPS, LOW, HIGH, CAPPED = range(len(COUNTED))

CPU_BYTES = 1 << 20  # of the states of the largest population in a block: it stays in the cache
CHUNK_BYTES = 1 << 23  # of inputs and records between two looks at the host
CHUNK_BYTES_ON_A_DEVICE = 1 << 28
MOST_AT_ONCE = 1 << 14


class _Parameters:
    """Numbers of the neurons of one population: one if all have the same, else one for each, as stored."""

    def __init__(self, neurons: IntegerNeurons, device: torch.device) -> None:
        self.shape, self.device = neurons.shape, device
        self.places = places(neurons.shape)

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return `values`, which broadcast to the shape, as they are stored."""
        every: NDArray[Any] = np.broadcast_to(values, self.shape).ravel()[self.places]
        return every

    def take(self, values: NDArray[Any], dtype: torch.dtype = torch.int32) -> Tensor | int:
        every = self.stored(values)
        if (every == every[:1]).all():
            return int(every[0]) if len(every) else 0
        return torch.from_numpy(every).to(self.device, dtype)


class _Decay:
    """`trunc12(v * factor)`, in place, for int32 of a magnitude that is proven."""

    def __init__(self, factors: Integer, magnitude: int, parameters: _Parameters) -> None:
        every = parameters.stored(factors)
        self.exact: Tensor | float | None = None
        self.shift, self.times = 0, 1
        self.forgets = not every.any()
        factor = int(every[0]) if len(every) and (every == every[0]).all() else 0
        twos = (factor & -factor).bit_length() - 1
        if factor and (magnitude * (factor >> twos)) + (1 << DECAY_BITS) < INT32:
            self.shift, self.times = DECAY_BITS - twos, factor >> twos
        elif factor:
            self.exact = factor / (1 << DECAY_BITS)
        elif not self.forgets:
            each = torch.from_numpy(every / (1 << DECAY_BITS))
            self.exact = each.to(parameters.device, torch.float64)

    def __call__(self, v: Tensor, scratch: Scratch) -> None:
        if self.forgets:
            v.zero_()
        elif self.exact is not None:
            product = scratch.take("product", torch.float64, *v.shape).copy_(v)
            v.copy_(product.mul_(self.exact))  # toward zero
        elif self.shift:
            if self.times > 1:
                v.mul_(self.times)
            sign = scratch.take("sign", torch.int32, *v.shape)
            torch.bitwise_right_shift(v, 31, out=sign)
            if self.shift > 1:
                sign.bitwise_and_((1 << self.shift) - 1)
                v.add_(sign)
            else:
                v.sub_(sign)
            v.bitwise_right_shift_(self.shift)


def _is_narrow(neurons: IntegerNeurons, current: Span, steps: int) -> tuple[bool, Span]:
    """
    Return whether 32-bit states are enough and nothing wraps; and where v is before the clip.

    `current` is what arrives, without the pulse.
    """
    if neurons.arithmetic != LOIHI2:
        return False, Span()
    unit = 1 << STATE_FRACTION_BITS
    keeps_u, keeps_v = (1 << DECAY_BITS) - (neurons.du + 1), (1 << DECAY_BITS) - neurons.dv
    factors = np.concatenate([keeps_u.ravel(), keeps_v.ravel()])
    legal = factors.min() >= 0 and factors.max() <= 1 << DECAY_BITS
    first = current + span_of(neurons.pulse)
    threshold = neurons.threshold << STATE_FRACTION_BITS
    spent = neurons.most * span_of(neurons.subtracts).magnitude
    bias, start = span_of(neurons.bias), span_of(neurons.start)
    highest_floor = int(neurons.floor.max())
    small = (
        spent + bias.magnitude + start.magnitude + 4 * WRAP_AT < INT32
        and span_of(threshold).magnitude < INT32
        and highest_floor <= STATE_MAXIMUM
        and (neurons.most == 1 or (neurons.most > 1 and threshold.min() > 0))
    )
    nothing = Span()
    if not (legal and small):
        return False, nothing
    u = Span(first.low * unit, first.high * unit)
    arrives = Span(current.low * unit, current.high * unit)
    keeps = int(keeps_u.max())
    for _ in range(steps - 1 if keeps else 0):
        later = u.union(u.decayed(keeps) + arrives)
        if later == u or later.magnitude >= WRAP_AT:
            u = later
            break
        u = later
    if u.magnitude >= WRAP_AT:
        return False, nothing
    return True, _membranes(neurons, u + bias, start, int(keeps_v.max()), steps)


def _membranes(neurons: IntegerNeurons, drive: Span, start: Span, keeps: int, steps: int) -> Span:
    """Return where membranes are before the clip; without care for what is beyond it."""
    threshold = span_of(neurons.threshold << STATE_FRACTION_BITS).high
    lowest = int(neurons.threshold.min()) << STATE_FRACTION_BITS
    less, more = int(neurons.subtracts.min()), int(neurons.subtracts.max())
    floor = max(int(neurons.floor.max()), -STATE_MAXIMUM)
    v = drive + start
    ends = Span(-STATE_MAXIMUM, STATE_MAXIMUM)
    for _ in range(steps - 1):
        high, low = max(v.high, floor), v.low
        if neurons.reset == "subtract":
            left = threshold + neurons.most * max(threshold - less, 0)
            high = max(left, min(high, STATE_MAXIMUM) - neurons.most * less)
            low = min(low, -neurons.most * max(more - lowest, 0))
        else:
            high = min(high, threshold)
        later = v.union(Span(low, high).decayed(keeps) + drive)
        if later == v or (ends.low > later.low and ends.high < later.high):
            return later
        v = later
    return v


class _Kept:
    """What is kept of one population in a chunk of steps: by kind, memory of (steps, samples, neurons)."""

    def __init__(self) -> None:
        self.chunks: dict[str, list[Tensor]] = {}

    def __contains__(self, kind: str) -> bool:
        return kind in self.chunks

    def keep(self, kind: str, step: int, values: Tensor) -> None:
        for chunk in self.chunks.get(kind, ()):
            chunk[step].copy_(values)


class _Narrow:
    """Neurons in int32, of which it is proven that no sum and no current wraps."""

    dtype = torch.int32

    def __init__(self, neurons: IntegerNeurons, membrane: Span, device: torch.device) -> None:
        self.neurons, self.device = neurons, device
        # A CPU tells at once that there is nothing to count; others would have to be waited for.
        self.asks = device.type == "cpu"
        self.parameters = parameters = _Parameters(neurons, device)
        unit = 1 << DECAY_BITS
        spent = neurons.most * span_of(neurons.subtracts).magnitude
        self.keeps_u = _Decay(unit - (neurons.du + 1), WRAP_AT, parameters)
        self.keeps_v = _Decay(unit - neurons.dv, STATE_MAXIMUM + spent, parameters)
        threshold = neurons.threshold << STATE_FRACTION_BITS
        self.threshold = parameters.take(threshold)
        self.divisor = parameters.take(threshold, torch.float64)
        self.subtracts = parameters.take(neurons.subtracts)
        self.bias = parameters.take(neurons.bias)
        self.start = parameters.take(neurons.start)
        self.pulse = parameters.take(neurons.pulse << STATE_FRACTION_BITS)
        self.floor = parameters.take(np.maximum(neurons.floor, -STATE_MAXIMUM))
        self.falls = membrane.low < -STATE_MAXIMUM
        self.rises = membrane.high > STATE_MAXIMUM
        self.unfloored = parameters.take(neurons.floor <= LOIHI2.no_floor, torch.bool)
        self.arrivals: Arrivals

    def sum_up(self, parts: list[Part], spans: Mapping[str, Span], size: int) -> None:
        """Take the input from `parts`, in state units, with the bias where u is forgotten at once."""
        self.arrivals = Arrivals(
            parts,
            spans,
            self.device,
            size,
            unit=STATE_FRACTION_BITS,
            narrow=True,
            bias=self.parameters.stored(self.neurons.bias) if self.keeps_u.forgets else None,
        )

    def begin(self, samples: int, scratch: Scratch) -> None:
        def take(state: str) -> Tensor:
            use = f"{state} of {self.neurons.name}"
            return scratch.take(use, torch.int32, samples, self.arrivals.size).zero_()

        self.v = take("v")
        self.u = self.v if self.keeps_u.forgets else take("u")
        self.resting = take("resting") if self.neurons.refractory else self.v

    def step(
        self,
        current: Tensor,
        spikes: Tensor,
        counts: Tensor,
        kept: _Kept,
        at: int,
        scratch: Scratch,
        *,
        first: bool,
    ) -> None:
        """Advance by one step with the input `current`; put what is fired into `spikes`."""
        neurons, v = self.neurons, self.v
        biased = self.arrivals.has_bias or _is_zero(self.bias)
        if not biased and self.keeps_u.forgets:
            current.add_(self.bias)
            biased = True
        if "current" in kept:
            kept.keep("current", at, current if biased else current + self.bias)
        if first and not _is_zero(self.pulse):
            current.add_(self.pulse)
        if not self.keeps_u.forgets:
            self.keeps_u(self.u, scratch)
            current = self.u.add_(current)
        if self.keeps_v.forgets:
            v.copy_(current)
        else:
            self.keeps_v(v, scratch)
            v.add_(current)
        if not biased:
            v.add_(self.bias)
        if first and not _is_zero(self.start):
            v.add_(self.start)
        self._clip(counts)
        if neurons.refractory:
            awake = scratch.take("awake", torch.int32, *v.shape)
            v.mul_(torch.eq(self.resting, 0, out=awake))
        self._fire(spikes, counts, scratch)
        if neurons.refractory:
            spikes.mul_(awake)
            rests = torch.gt(spikes, 0, out=awake).mul_(neurons.refractory)
            # Whoever fires was awake, and rested for 0 steps.
            self.resting.sub_(1).clamp_(min=0).add_(rests)
        kept.keep("spikes", at, spikes)
        kept.keep("before", at, v)
        self._reset(spikes, scratch)
        kept.keep("after", at, v)

    def _clip(self, counts: Tensor) -> None:
        v = self.v
        if self.falls and not (self.asks and bool(v.amin() >= -STATE_MAXIMUM)):
            low = v < -STATE_MAXIMUM
            counts[LOW].add_((low & self.unfloored if self.neurons.floored else low).sum())
        if self.neurons.floored or self.falls:
            v.clamp_(min=self.floor)
        if self.rises and not (self.asks and bool(v.amax() <= STATE_MAXIMUM)):
            counts[HIGH].add_((v > STATE_MAXIMUM).sum())
            v.clamp_(max=STATE_MAXIMUM)

    def _fire(self, spikes: Tensor, counts: Tensor, scratch: Scratch) -> None:
        neurons, v = self.neurons, self.v
        if neurons.most == 1:
            compare = torch.ge if neurons.inclusive else torch.gt
            compare(v, self.threshold, out=spikes)
        else:
            # Below 2^24, a quotient that is no integer is further from one than float64 rounds.
            fits = scratch.take("fits", torch.int32, *v.shape)
            torch.sub(v, 0 if neurons.inclusive else 1, out=fits)
            quotient = scratch.take("product", torch.float64, *v.shape).copy_(fits)
            fits.copy_(quotient.div_(self.divisor)).clamp_(min=0)
            if not (self.asks and bool(fits.amax() <= neurons.most)):
                counts[CAPPED].add_((fits > neurons.most).sum())
            torch.clamp(fits, max=neurons.most, out=spikes)

    def _reset(self, spikes: Tensor, scratch: Scratch) -> None:
        v = self.v
        if self.neurons.reset == "zero":
            if self.neurons.most == 1:
                v.addcmul_(v, spikes, value=-1)
            else:
                v.mul_(torch.eq(spikes, 0, out=scratch.take("silent", torch.int32, *v.shape)))
        elif isinstance(self.subtracts, int):
            v.sub_(spikes, alpha=self.subtracts)
        else:
            v.addcmul_(spikes, self.subtracts, value=-1)


def _is_zero(values: Tensor | int) -> bool:
    return isinstance(values, int) and values == 0


class _Wide:
    """Neurons of which nothing is proven: the lines of `definition.step_neurons`, in int64."""

    dtype = torch.int64

    def __init__(self, neurons: IntegerNeurons, device: torch.device) -> None:
        self.neurons, self.device = neurons, device
        self.arithmetic = arithmetic = neurons.arithmetic
        parameters = _Parameters(neurons, device)

        def take(values: Integer) -> Tensor:
            return torch.from_numpy(parameters.stored(values)).to(device, torch.int64)

        self.keeps_u = take(arithmetic.decay_one - (neurons.du + 1))
        self.keeps_v = take(arithmetic.decay_one - neurons.dv)
        self.threshold = take(neurons.threshold << arithmetic.fraction_bits)
        # Numpy finds that 0 fits 0 times into anything.
        self.divisor = self.threshold.masked_fill(self.threshold == 0, 1 << 60)
        self.subtracts, self.bias = take(neurons.subtracts), take(neurons.bias)
        self.start, self.pulse = take(neurons.start), take(neurons.pulse)
        self.floor = take(neurons.floor)
        self.unfloored = self.floor <= arithmetic.no_floor
        self.arrivals: Arrivals

    def sum_up(self, parts: list[Part], spans: Mapping[str, Span], size: int) -> None:
        """Take the input from `parts`, in weight units."""
        self.arrivals = Arrivals(parts, spans, self.device, size, narrow=False)

    def begin(self, samples: int, scratch: Scratch) -> None:
        del scratch
        shape = (samples, self.arrivals.size)
        self.u = torch.zeros(shape, dtype=torch.int64, device=self.device)
        self.v, self.resting = torch.zeros_like(self.u), torch.zeros_like(self.u)

    def step(
        self,
        current: Tensor,
        spikes: Tensor,
        counts: Tensor,
        kept: _Kept,
        at: int,
        scratch: Scratch,
        *,
        first: bool,
    ) -> None:
        """Advance by one step with the input `current`; put what is fired into `spikes`."""
        del scratch
        neurons, arithmetic = self.neurons, self.arithmetic
        if "current" in kept:
            kept.keep("current", at, (current << arithmetic.fraction_bits) + self.bias)
        if first:
            current = current + self.pulse
        a = _wrap_int32(current)
        shifted = a << arithmetic.fraction_bits
        remembered = _decayed(self.u, self.keeps_u, arithmetic)
        x = _wrap_int32(remembered + _wrap_int32(shifted))
        self.u = _kept_current(x, arithmetic)
        unclipped = _decayed(self.v, self.keeps_v, arithmetic) + self.u + self.bias
        if first:
            unclipped = unclipped + self.start
        v = self._kept_membrane(unclipped)
        awake = self.resting <= 0
        if neurons.refractory:
            v = v * awake
        fits = self._count(v)
        torch.clamp(fits, max=neurons.most, out=spikes)
        if neurons.refractory:
            spikes.mul_(awake)
            rested = (self.resting - 1).clamp_(min=0)
            self.resting = rested.masked_fill_(spikes > 0, neurons.refractory)
        counts[CURRENT_WRAPS].add_(((a != current) | (remembered + shifted != x)).sum())
        counts[U_WRAPS].add_((self.u != x).sum())
        end = arithmetic.membrane_end
        counts[LOW].add_(((unclipped < -end) & self.unfloored).sum())
        counts[HIGH].add_((unclipped > end).sum())
        if neurons.most > 1:
            counts[CAPPED].add_((fits > neurons.most).sum())
        kept.keep("spikes", at, spikes)
        kept.keep("before", at, v)
        fired = spikes > 0
        if neurons.reset == "subtract":
            self.v = torch.where(fired, v - spikes * self.subtracts, v)
        else:
            self.v = v.masked_fill(fired, 0)
        kept.keep("after", at, self.v)

    def _count(self, v: Tensor) -> Tensor:
        if self.neurons.most == 1:
            above = v >= self.threshold if self.neurons.inclusive else v > self.threshold
            return above.to(torch.int64)
        whole = v if self.neurons.inclusive else v - 1
        return torch.div(whole, self.divisor, rounding_mode="floor").clamp_(min=0)

    def _kept_membrane(self, x: Tensor) -> Tensor:
        arithmetic = self.arithmetic
        if arithmetic.membrane_overflow == "saturate":
            lowest = self.floor.clamp(min=arithmetic.no_floor)
            return torch.maximum(x, lowest).clamp_(max=arithmetic.membrane_end)
        floored = torch.where(self.unfloored, x, torch.maximum(x, self.floor))
        return _wrap_state(floored, arithmetic.membrane_bits)


def _decayed(state: Tensor, factor: Tensor, arithmetic: Arithmetic) -> Tensor:
    product, bits = state * factor, arithmetic.decay_bits
    match arithmetic.rounding:
        case "zero":
            return product.sign() * (product.abs() >> bits)
        case "down":
            return product >> bits
        case "nearest":
            return (product + (1 << bits >> 1)) >> bits


def _kept_current(x: Tensor, arithmetic: Arithmetic) -> Tensor:
    if arithmetic.current_overflow == "wrap":
        return _wrap_state(x, arithmetic.current_bits)
    return x.clamp(-arithmetic.current_end, arithmetic.current_end)


def _wrap_state(x: Tensor, bits: int) -> Tensor:
    end = 1 << (bits - 1)
    wrapped = torch.where(x <= -end, x + 2 * end, x)
    return torch.where(x > end, x - 2 * end, wrapped)


def _wrap_int32(values: Tensor) -> Tensor:
    return ((values + INT32) & (2 * INT32 - 1)) - INT32


class _Relayed:
    """Neurons without memory that send on what arrives."""

    def __init__(
        self,
        parts: list[Part],
        spans: Mapping[str, Span],
        device: torch.device,
        size: int,
        *,
        narrow: bool,
    ) -> None:
        self.dtype = torch.int32 if narrow else torch.int64
        self.arrivals = Arrivals(parts, spans, device, size, narrow=narrow)

    def begin(self, samples: int, scratch: Scratch) -> None:
        """There is no state."""

    def step(
        self,
        current: Tensor,
        spikes: Tensor,
        counts: Tensor,
        kept: _Kept,
        at: int,
        scratch: Scratch,
        *,
        first: bool,
    ) -> None:
        """Put what arrives into `spikes`."""
        del counts, scratch, first
        spikes.copy_(current)
        kept.keep("spikes", at, spikes)


_Worker = _Narrow | _Wide | _Relayed


@dataclass(frozen=True)
class Plan:
    """How each population is computed, for inputs in known ranges and samples of a known length."""

    spans: Mapping[str, Span]
    workers: Mapping[str, _Worker]
    longest: Mapping[str, int]  # delay of what a population sends
    dtypes: Mapping[str, torch.dtype]


def _smallest_dtype(span: Span) -> torch.dtype:
    """Return the integers that take inputs to the device."""
    if span.low == 0 and span.high < 1 << 8:
        return torch.uint8
    return torch.int32 if span.magnitude < INT32 else torch.int64


NUMPY = {torch.uint8: np.uint8, torch.int32: np.int32, torch.int64: np.int64}

_TURN = threading.RLock()  # runs share buffers, and PyTorch's settings are the whole process's


class TorchEngine:
    """
    `network` on PyTorch tensors on `device` (None: a CUDA device if PyTorch sees one, else the CPU).

    Everything that does not depend on the inputs is set up once. Raises `OptionError` for a device that
    PyTorch cannot use.
    """

    def __init__(self, network: IntegerNetwork, device: str | None = None) -> None:
        self.network = network
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.device = torch.empty(0, device=chosen).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise OptionError(
                Problem(
                    "",
                    f"device '{chosen}' is one that PyTorch can use",
                    f"it says: {str(error).splitlines()[0]}",
                    "choose another one, such as 'cpu'",
                )
            ) from error
        with torch.inference_mode():
            self.parts = [part for group in network.synapses for part in self._parts(group)]
        self.plans: dict[tuple[Any, ...], Plan] = {}
        self.scratch = Scratch(self.device)
        on_cuda = self.device.type == "cuda"
        self.memory = torch.cuda.mem_get_info(self.device)[0] // 2 if on_cuda else 1 << 30

    def _parts(self, group: IntegerSynapses) -> Iterator[Part]:
        """Cut a group by its delays, as `definition.input_sum` does."""
        source, target = self.network[group.source].shape, self.network[group.target].shape
        delays = [int(delay) for delay in np.unique(group.delay)]

        def part(cut: IntegerSynapses, late: tuple[tuple[int, Tensor | None], ...]) -> Part:
            rows = cut.weight.reshape(len(cut.weight), -1)
            negative, positive = np.minimum(rows, 0).sum(1), np.maximum(rows, 0).sum(1)
            product = (
                Dense(cut.weight, source, target)
                if cut.geometry is None
                else Convolution(cut, (source, target), self.network.views(cut), self.device)
            )
            return Part(cut, product, late, negative, positive)

        if group.delay.ndim and group.delay.shape == group.weight.shape:
            for delay in delays:
                weight = np.where(group.delay == delay, group.weight, 0)
                yield part(replace(group, weight=weight), ((delay, None),))
            return
        if len(delays) == 1:
            yield part(group, ((delays[0], None),))
            return
        every = np.broadcast_to(group.delay, source).ravel()[places(source)]
        late = tuple(
            (delay, torch.from_numpy(every == delay).to(self.device, torch.int32))
            for delay in delays
        )
        whole = part(group, late)
        if group.exponent >= 0:
            yield whole
        else:
            yield from (replace(whole, late=(each,)) for each in late)

    def execute(
        self,
        inputs: Mapping[str, Integer],
        *,
        samples: int,
        steps: int,
        record: Collection[str] = (),
        before_reset: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Trace:
        """
        Run the network and return what it did, as `definition.execute` does.

        `inputs` holds the payloads of each input population, (samples, steps, *shape); the arrays of the
        result are (samples, steps, *shape) as well, membranes in state units. `record` names populations
        and `membrane/<name>`, before the reset if `before_reset`. Memory beyond the result does not grow
        with `steps`. Raises OverflowError where a sum could reach 2^53.
        """
        with _TURN, torch.inference_mode(), _exact_products():
            plan = self.plan(inputs, steps)
            run = Run(self.network, plan, self.scratch, samples, steps)
            run.record(record, before_reset=before_reset)
            at_once = run.samples_at_once(self.memory)
            for start in range(0, samples, at_once):
                stop = min(start + at_once, samples)
                run.block(inputs, start, stop)
                if progress:
                    progress(stop)
            return run.trace()

    def plan(self, inputs: Mapping[str, Integer], steps: int) -> Plan:
        spans = {
            item.name: Span(item.minimum, item.maximum).union(span_of(inputs[item.name]))
            for item in self.network.inputs
        }
        key = (steps, *spans.values())
        if key not in self.plans:
            self.plans = {key: self._made(spans, steps)}  # of the last run only
        return self.plans[key]

    def _made(self, spans: dict[str, Span], steps: int) -> Plan:
        parts = [left for part in self.parts if (left := part.before(steps)) is not None]
        for item in self.network.populations:
            if isinstance(item, IntegerNeurons):
                spans[item.name] = Span(0, max(item.most, 1))
            elif isinstance(item, IntegerRelay):  # until its turn: others may hear it late
                spans[item.name] = Span(-UNKNOWN, UNKNOWN)
        workers: dict[str, _Worker] = {}
        dtypes = {item.name: _smallest_dtype(spans[item.name]) for item in self.network.inputs}
        for item in self.network.populations:
            if isinstance(item, IntegerInput):
                continue
            into = [part for part in parts if part.group.target == item.name]
            current = Span()
            for part in into:
                current = current + part.delivers(spans[part.group.source])
            workers[item.name] = worker = self._worker(item, into, spans, current, steps)
            dtypes[item.name] = worker.dtype
        longest = dict.fromkeys((item.name for item in self.network.populations), 0)
        for part in parts:
            latest = max(delay for delay, _ in part.late)
            longest[part.group.source] = max(longest[part.group.source], latest)
        return Plan(spans, workers, longest, dtypes)

    def _worker(
        self,
        item: IntegerNeurons | IntegerRelay,
        parts: list[Part],
        spans: dict[str, Span],
        current: Span,
        steps: int,
    ) -> _Worker:
        size = int(np.prod(item.shape))
        if isinstance(item, IntegerRelay):
            narrow = current.magnitude < INT32
            relayed = _Relayed(parts, dict(spans), self.device, size, narrow=narrow)
            spans[item.name] = current
            return relayed
        narrow, membrane = _is_narrow(item, current, steps)
        worker = _Narrow(item, membrane, self.device) if narrow else _Wide(item, self.device)
        worker.sum_up(parts, spans, size)
        return worker


class Run:
    """One call of `execute`: its result so far, and the memory of a block of samples."""

    def __init__(
        self, network: IntegerNetwork, plan: Plan, scratch: Scratch, samples: int, steps: int
    ) -> None:
        self.network, self.plan, self.scratch = network, plan, scratch
        self.device = scratch.device
        self.samples, self.steps = samples, steps
        self.counts = {
            name: torch.zeros(len(COUNTED), dtype=torch.int64, device=self.device)
            for name in plan.workers
        }
        self.kept = {item.name: _Kept() for item in network.populations}
        # By population: what kind is kept, in which integers, and where it goes.
        self.goals: dict[str, list[tuple[str, torch.dtype, NDArray[Any]]]] = {}
        self.outputs: dict[str, Integer] = {}
        self.spikes: dict[str, NDArray[Any]] = {}
        self.membrane: dict[str, Integer] = {}

    def _goal(self, item: IntegerPopulation, kind: str, small: type | None = None) -> NDArray[Any]:
        goal: NDArray[Any] = np.zeros((self.samples, self.steps, *item.shape), small or np.int64)
        dtype = torch.uint8 if small else self.plan.dtypes[item.name]
        if not isinstance(item, IntegerInput):
            self.goals.setdefault(item.name, []).append((kind, dtype, goal))
        return goal

    def record(self, record: Collection[str], *, before_reset: bool) -> None:
        """Make room for the result."""
        shown: dict[str, Integer] = {}
        for item in self.network.populations:
            if item.name in record:
                small = np.uint8 if recorded_type(item) == np.uint8 else None
                self.spikes[item.name] = self._goal(item, "spikes", small)
            if not isinstance(item, IntegerNeurons):
                continue
            if f"membrane/{item.name}" in record:
                kind = "before" if before_reset else "after"
                self.membrane[item.name] = self._goal(item, kind)
            if item.name in self.network.outputs.values():
                kinds = {"spikes": "spikes", "input": "current", "membrane": "before"}
                shown[item.name] = self._goal(item, kinds[item.shows])
        for output, name in self.network.outputs.items():
            if name not in shown:  # the definition shows neurons only
                shown[name] = np.zeros(
                    (self.samples, self.steps, *self.network[name].shape), np.int64
                )
            self.outputs[output] = shown[name]

    def samples_at_once(self, memory: int) -> int:
        """Return how many samples make a block: what the cache holds of them, or the device's `memory`."""
        sizes = {item.name: int(np.prod(item.shape)) for item in self.network.populations}
        if self.device.type == "cpu":
            return max(1, min(CPU_BYTES // (4 * max(sizes.values())), MOST_AT_ONCE))
        # 8 bytes for each value that is alive at the same time, at most.
        values = sum(size * (16 + self.plan.longest[name]) for name, size in sizes.items())
        for worker in self.plan.workers.values():
            values += 2 * sum(part.product.per_sample for part in worker.arrivals.parts)
        each = 8 * values + self._bytes_of_a_step()
        return max(1, min((memory - CHUNK_BYTES_ON_A_DEVICE) // each, MOST_AT_ONCE))

    def _bytes_of_a_step(self) -> int:
        """Return what one sample brings to the device and leaves there in one step."""
        kept = (
            dtype.itemsize * int(np.prod(goal.shape[2:]))
            for goals in self.goals.values()
            for _, dtype, goal in goals
        )
        brought = (
            self.plan.dtypes[item.name].itemsize * int(np.prod(item.shape))
            for item in self.network.inputs
        )
        return max(1, sum(kept) + sum(brought))

    def _steps_at_once(self, samples: int) -> int:
        memory = CHUNK_BYTES if self.device.type == "cpu" else CHUNK_BYTES_ON_A_DEVICE
        return max(1, min(self.steps, memory // (samples * self._bytes_of_a_step())))

    def block(self, inputs: Mapping[str, Integer], start: int, stop: int) -> None:
        """Run samples `start` to `stop`."""
        samples = stop - start
        histories = {
            item.name: self._nothing_yet(item, samples) for item in self.network.populations
        }
        for worker in self.plan.workers.values():
            worker.begin(samples, self.scratch)
        chunk = self._steps_at_once(samples)
        for begin in range(0, self.steps, chunk):
            end = min(begin + chunk, self.steps)
            payloads = {
                item.name: self._brought(item, inputs[item.name][start:stop, begin:end])
                for item in self.network.inputs
            }
            self._make_room(samples, end - begin)
            self._advance(histories, payloads, range(begin, end), samples)
            self.fetch(slice(start, stop), slice(begin, end))

    def _nothing_yet(self, item: IntegerPopulation, samples: int) -> History:
        dtype, size = self.plan.dtypes[item.name], int(np.prod(item.shape))
        return History(
            [
                self.scratch.take(f"{delay} ago: {item.name}", dtype, samples, size).zero_()
                for delay in range(self.plan.longest[item.name] + 1)
            ]
        )

    def _brought(self, item: IntegerInput, values: Integer) -> Tensor:
        """Return `values`, (samples, steps, *shape), on the device: (steps, samples, neurons)."""
        dtype = self.plan.dtypes[item.name]
        last = np.moveaxis(values, 2, -1) if len(item.shape) in {2, 3} else values
        rows = np.ascontiguousarray(last.swapaxes(0, 1), NUMPY[dtype])
        flat = rows.reshape(*rows.shape[:2], int(np.prod(item.shape)))
        return torch.from_numpy(flat.copy() if flat is values else flat).to(self.device)

    def _make_room(self, samples: int, steps: int) -> None:
        for name, goals in self.goals.items():
            chunks: dict[str, list[Tensor]] = {}
            for kind, dtype, goal in goals:
                shape = (steps, samples, int(np.prod(goal.shape[2:])))
                several = chunks.setdefault(kind, [])
                use = f"{kind} {len(several)} of {name}"
                several.append(self.scratch.take(use, dtype, *shape))
            self.kept[name].chunks = chunks

    def _advance(
        self,
        histories: Mapping[str, History],
        payloads: Mapping[str, Tensor],
        steps: range,
        samples: int,
    ) -> None:
        """Run some steps; nothing in here waits for the device, but a sum that has to be checked."""
        for at, step in enumerate(steps):
            for item in self.network.populations:
                history = histories[item.name]
                if isinstance(item, IntegerInput):
                    history.put(step, payloads[item.name][at])
                    continue
                worker = self.plan.workers[item.name]
                current = worker.arrivals.at(step, histories, samples, self.scratch)
                worker.step(
                    current,
                    history.at(step),
                    self.counts[item.name],
                    self.kept[item.name],
                    at,
                    self.scratch,
                    first=step == 0,
                )

    def fetch(self, samples: slice, steps: slice) -> None:
        """Take what was kept of a chunk into the result."""
        for name, goals in self.goals.items():
            taken: dict[str, int] = {}
            for kind, _, goal in goals:
                number = taken.get(kind, 0)
                taken[kind] = number + 1
                chunk = self.kept[name].chunks[kind][number].cpu().numpy()
                shape = goal.shape[2:]
                values = chunk.reshape(*chunk.shape[:2], *channels_last(shape)).swapaxes(0, 1)
                goal[samples, steps] = (
                    np.moveaxis(values, -1, 2) if len(shape) in {2, 3} else values
                )

    def trace(self) -> Trace:
        """Return the result; the counters come from the device here."""
        counters = {
            item.name: dict(zip(COUNTED, self.counts[item.name].tolist(), strict=True))
            for item in self.network.neurons
        }
        return Trace(self.outputs, self.spikes, self.membrane, counters)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Compute products of float32 in float32, whatever the process allows; it is allowed again afterwards."""
    name = "fp32_precision"  # since PyTorch 2.9
    backends = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    if all(hasattr(backend, name) for backend in backends):
        before = [getattr(backend, name) for backend in backends]
        try:
            for backend in backends:
                setattr(backend, name, "ieee")
            yield
        finally:
            for backend, value in zip(backends, before, strict=True):
                setattr(backend, name, value)
        return
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
