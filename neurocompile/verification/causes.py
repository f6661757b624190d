"""
Why a spike differs: one thing after the other is exchanged until the reference has become the candidate.

Take the first step t at which a layer differs in some sample, and there its first neuron. Before t the
neuron fired alike in both networks, so that its resets are known, and its membrane up to t is a plain
recursion of one neuron on what arrived. It runs again and again, each time with one more of these as the
candidate has it, in this order:

    input quantisation      values of the host become integers
    weight clipping         weights are cut where their integers end
    weights off by more than rounding
                            of more than a step: no rounding does that, but a bug may
    weight rounding
    bias rounding
    threshold rounding      and that of what a spike takes off
    pulse, start and floor rounding
    decay rounding          of both decay constants
    shift rounding          sums that are shifted to the right
    leak truncation         products of states and decays become integers
    wrapping                of sums, currents and membranes at the ends of their registers
    saturation              of states at the ends of their ranges
    propagated spikes       what each layer before it fired differently, layer by layer

Each contribution is the change of the margin, membrane minus threshold, that its exchange makes. In another
order the single numbers would be others, their sum the same: from the margin of the reference to that of
the candidate. Both ends are checked against what the whole networks did.

Real numbers may tie: the membrane is on its threshold up to what float64 leaves of a sum, and the last bit
decides. What is left to that is told as `TIE`, and a note says where.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neurocompile.integer import (
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
)
from neurocompile.ir import Float
from neurocompile.populations import PopulationNetwork, SpikingPopulation
from neurocompile.verification.report import (
    Cause,
    Contribution,
    Divergence,
    MembraneTrace,
)
from neurocompile.verification.rows import Ends, Numbers, Row, late, numbers_of, rows_of

Level = Literal["float", "quantised", "fixedpoint"]
LEVELS: tuple[Level, ...] = ("float", "quantised", "fixedpoint")

TOLERANCE = 1e-9  # of the largest number in sight: what float64 leaves of sums in another order
NOTHING = 1e-12  # of the largest number in sight: a contribution that is float64's, not a cause
LONGEST_TRACE = 200  # steps
TIE = "float64 rounding (a tie)"
WRONG_WEIGHTS = "weights off by more than rounding"


@dataclass(frozen=True)
class Behaviour:
    """
    What a network did with one sample.

    `sent` is (steps, *shape) by population: values (of the integers: payloads) of inputs, spikes. `membranes`
    are those before the reset, by layer, in the source's units, without the origin.
    """

    level: Level
    sent: Mapping[str, NDArray[Any]]
    membranes: Mapping[str, Float]


@dataclass(frozen=True)
class _Setting:
    """What is as in the candidate already: `done` of `NUMBERS` and `STATES`, spikes of the layers `heard`."""

    done: frozenset[str] = frozenset()
    heard: frozenset[str] = frozenset()


NUMBERS = (
    "input quantisation",
    "weight clipping",
    WRONG_WEIGHTS,
    "weight rounding",
    "bias rounding",
    "threshold rounding",
    "pulse, start and floor rounding",
    "decay rounding",
)
STATES = ("shift rounding", "leak truncation", "wrapping", "saturation")


def first_place(expected: NDArray[Any], found: NDArray[Any]) -> tuple[int, int] | None:
    """Return the step and the neuron of the first difference of two spike trains (steps, *shape)."""
    differs = (expected != found).reshape(len(expected), -1)
    if not differs.any():
        return None
    step = int(differs.any(1).argmax())
    return step, int(differs[step].argmax())


def cause_of(
    real: PopulationNetwork,
    middle: PopulationNetwork,
    network: IntegerNetwork,
    *,
    reference: Behaviour,
    candidate: Behaviour,
    sample: int,
    layer: str,
    place: tuple[int, int],
    ends: Mapping[str, Ends] | None = None,
) -> Cause:
    """
    Return why `layer` of `candidate` fires otherwise than `reference`'s at `place`, (step, neuron).

    It must be the layer's first difference. `real`, `middle` and `network` are the program's populations in
    real numbers, as dequantised integers and in integers; `ends` those of the weights, by group of synapses.

    Raises `ArithmeticError` if the margins are not those of the networks: a bug.
    """
    step, neuron = place
    case = _Case(
        network,
        rows_of(real, network, layer, neuron, ends or {}),
        _spiking_numbers(real, layer, neuron),
        _spiking_numbers(middle, layer, neuron),
        layer,
        neuron,
        step,
        reference,
        candidate,
    )
    settings = list(case.settings())
    margins = [case.margin(setting) for _, setting in settings]
    _check(case, margins[0], reference, "reference")
    _check(case, margins[-1], candidate, "candidate")
    nothing = NOTHING * case.size(margins)
    contributions = [
        Contribution(name, after - before)
        for (before, after), (name, _) in zip(pairwise(margins), settings[1:], strict=True)
        if abs(after - before) > nothing
    ]
    wholes = [case.whole_margin(item) for item in (reference, candidate)]
    ties = [
        item.level
        for item, margin in zip((reference, candidate), wholes, strict=True)
        if item.level != "fixedpoint" and 0 < abs(margin) <= nothing
    ]
    left = wholes[1] - wholes[0] - sum(item.amount for item in contributions)
    if ties and left:
        contributions.append(Contribution(TIE, left))
    spikes = [
        int(item.sent[layer].reshape(len(item.sent[layer]), -1)[step, neuron])
        for item in (reference, candidate)
    ]
    trace = case.trace()
    return Cause(
        reference=reference.level,
        candidate=candidate.level,
        divergence=Divergence(
            sample,
            step,
            layer,
            neuron,
            spikes[0],
            spikes[1],
            membrane=case.membrane(candidate) + case.middle.origin,
            threshold=trace.candidate_threshold,
            reference_membrane=case.membrane(reference) + case.real.origin,
            reference_threshold=trace.reference_threshold,
        ),
        margin_reference=wholes[0],
        margin_candidate=wholes[1],
        contributions=tuple(contributions),
        trace=trace,
        note="; ".join(_notes(case, contributions, ties)),
    )


def _notes(
    case: _Case, contributions: Iterable[Contribution], ties: Iterable[Level]
) -> Iterator[str]:
    """Yield what must be said of a cause besides its numbers."""
    if WRONG_WEIGHTS in {item.cause for item in contributions}:
        names = [row.name for row in case.rows if (row.moved != row.cut).any()]
        yield (
            f"weights of {', '.join(map(repr, names))} are off by more than a step, which no rounding "
            "explains: this points at a bug"
        )
    for level in ties:
        yield (
            f"the membrane of '{level}' lies on its threshold: the last bit of a float64 decides there "
            "whether it fires"
        )


def _spiking_numbers(network: PopulationNetwork, layer: str, neuron: int) -> Numbers:
    population = network[layer]
    assert isinstance(population, SpikingPopulation)
    return numbers_of(population, neuron)


def _check(case: _Case, margin: float, whole: Behaviour, what: str) -> None:
    """Raise `ArithmeticError` if `margin`, of the neuron alone, is not that of the `whole` network."""
    expected = case.whole_margin(whole)
    if abs(margin - expected) > TOLERANCE * case.size([margin, expected]):
        raise ArithmeticError(
            f"the margin of the {what} ({whole.level}) at '{case.layer}', neuron {case.neuron}, step "
            f"{case.step} must be {expected!r}, but the neuron alone has {margin!r}: this is a bug of "
            "neurocompile: please report it"
        )


@dataclass(frozen=True)
class _Case:
    """One neuron at one step, in both networks."""

    network: IntegerNetwork
    rows: tuple[Row, ...]
    real: Numbers
    middle: Numbers
    layer: str
    neuron: int
    step: int
    reference: Behaviour
    candidate: Behaviour

    @cached_property
    def upstream(self) -> frozenset[str]:
        """What reaches the layer at once or with a delay: populations, relays, and what these sum."""
        found: set[str] = set()
        ahead = [row.source for row in self.rows]
        while ahead:
            name = ahead.pop()
            if name not in found and isinstance(self.network[name], IntegerRelay):
                ahead += [group.source for group in self.network.into(name)]
            found.add(name)
        return frozenset(found)

    def numbers(self, level: Level) -> Numbers:
        return self.real if level == "float" else self.middle

    def membrane(self, whole: Behaviour) -> float:
        values = whole.membranes[self.layer]
        return float(values.reshape(len(values), -1)[self.step, self.neuron])

    def whole_margin(self, whole: Behaviour) -> float:
        """Return membrane minus threshold at the step, as the `whole` network had it."""
        return self.membrane(whole) - self.numbers(whole.level).threshold

    def size(self, margins: list[float]) -> float:
        """Return the largest number in sight, beside which float64 is exact enough."""
        there = [self.real.threshold, self.middle.threshold, *margins]
        for whole in (self.reference, self.candidate):
            values = whole.membranes[self.layer]
            there.append(np.abs(values.reshape(len(values), -1)[:, self.neuron]).max())
        return float(max(np.abs(there)))

    def settings(self) -> Iterator[tuple[str, _Setting]]:
        """Yield what is exchanged, and all that is then, from the reference to the candidate."""
        begin, end = LEVELS.index(self.reference.level), LEVELS.index(self.candidate.level)
        now = _Setting()
        if begin >= 1:
            now = replace(now, done=frozenset(NUMBERS))
        if begin >= 2:
            now = replace(now, done=now.done | set(STATES))
        yield "", now
        for name in (
            *NUMBERS[: None if begin < 1 <= end else 0],
            *STATES[: None if begin < 2 <= end else 0],
        ):
            now = replace(now, done=now.done | {name})
            yield name, now
        for name in self._hearing():
            now = replace(now, heard=now.heard | {name})
            yield f"propagated spikes of '{name}'", now

    def _hearing(self) -> list[str]:
        """Return the layers whose spikes reach this one, directly or in sums, in the network's order."""
        return [item.name for item in self.network.spiking if item.name in self.upstream]

    def margin(self, setting: _Setting) -> float:
        """Return membrane minus threshold at the step, in the source's units."""
        numbers = self._numbers(setting)
        sent = self._sent(setting)
        if not setting.done.isdisjoint(STATES):
            return self._integers(setting, sent) - numbers.threshold
        return self._reals(setting, numbers, sent) - numbers.threshold

    def _numbers(self, setting: _Setting) -> Numbers:
        real, middle = self.real, self.middle
        result = real
        if "bias rounding" in setting.done:
            result = replace(result, bias=middle.bias)
        if "threshold rounding" in setting.done:
            result = replace(result, threshold=middle.threshold, taken=middle.taken)
        if "pulse, start and floor rounding" in setting.done:
            result = replace(result, pulse=middle.pulse, start=middle.start, floor=middle.floor)
        if "decay rounding" in setting.done:
            result = replace(result, decay=middle.decay, current_decay=middle.current_decay)
        return result

    def _sent(self, setting: _Setting) -> dict[str, NDArray[Any]]:
        """Return what each source sends up to the step, (steps, neurons), inputs in real numbers."""
        sent: dict[str, NDArray[Any]] = {}
        for item in self.network.populations:
            if item.name not in self.upstream:
                continue
            if isinstance(item, IntegerInput):
                # Integers of both levels are payloads.
                whole = self.candidate if "input quantisation" in setting.done else self.reference
                values = whole.sent[item.name].astype(np.float64)
                sent[item.name] = values if whole.level == "float" else values / item.scale
            elif isinstance(item, IntegerNeurons):
                whole = self.candidate if item.name in setting.heard else self.reference
                sent[item.name] = whole.sent[item.name]
        summed = relayed(self.network, sent, self.upstream)
        return {
            name: values[: self.step + 1].reshape(self.step + 1, -1)
            for name, values in {**sent, **summed}.items()
        }

    def _reals(
        self, setting: _Setting, numbers: Numbers, sent: Mapping[str, NDArray[Any]]
    ) -> float:
        arriving: NDArray[Any] = np.zeros(self.step + 1)
        for row in self.rows:
            weight = row.real
            if "weight rounding" in setting.done:
                weight = (row.weight * row.unit).astype(np.float64)
            elif WRONG_WEIGHTS in setting.done:
                weight = row.moved
            elif "weight clipping" in setting.done:
                weight = row.cut
            arriving += late(sent[row.source], row) @ weight
        return self._recursion(numbers, arriving)

    def _recursion(self, numbers: Numbers, arriving: Float) -> float:
        spikes = self._spikes()
        current = membrane = before = 0.0
        resting = 0
        for step, sum_now in enumerate(arriving.tolist()):
            first = step == 0
            current = numbers.current_decay * current + (
                sum_now + numbers.pulse if first else sum_now
            )
            before = numbers.decay * membrane + current + numbers.bias
            before = max(before + numbers.start if first else before, numbers.floor)
            if resting:
                before = 0.0
            membrane, resting = self._after(before, spikes[step], numbers.taken, resting)
        return float(before)

    def _after(self, before: float, fired: int, taken: float, resting: int) -> tuple[float, int]:
        """Return the membrane after the reset, and how many steps the neuron rests from now on."""
        if not fired:
            return before, max(0, resting - 1)
        kept = before - taken * fired if self.real.reset == "subtract" else 0.0
        return kept, self.real.refractory

    def _spikes(self) -> list[int]:
        """Return what the neuron fired up to the step: the same in both before it."""
        values = self.reference.sent[self.layer]
        own = values[: self.step + 1].reshape(self.step + 1, -1)[:, self.neuron]
        return [int(number) for number in own]

    def _integers(self, setting: _Setting, sent: Mapping[str, NDArray[Any]]) -> float:
        """
        Return the membrane of the integers at the step, in the source's units.

        Without truncation and the rest it is counted in state units with fractions, in float64, which holds
        all integers that occur.
        """
        neurons = self.network[self.layer]
        assert isinstance(neurons, IntegerNeurons)
        arithmetic = neurons.arithmetic
        du, dv, pulse, start, bias, floor, subtracts, scale = (
            float(np.broadcast_to(values, neurons.shape).flat[self.neuron])
            for values in (
                neurons.du,
                neurons.dv,
                neurons.pulse,
                neurons.start,
                neurons.bias,
                neurons.floor,
                neurons.subtracts,
                neurons.scale,
            )
        )
        sums = np.zeros(self.step + 1)
        for row in self.rows:
            sums = sums + self._delivered(
                row, sent[row.source], rounds="shift rounding" in setting.done
            )
        one, end = arithmetic.decay_one, arithmetic.membrane_end
        spikes = self._spikes()
        current = membrane = before = 0.0
        resting = 0
        for step, sum_now in enumerate(sums.tolist()):
            first = step == 0
            arriving = sum_now + pulse if first else sum_now
            if "wrapping" in setting.done:
                arriving = _wrap(arriving, 1 << 31)
            shifted = arriving * arithmetic.state_units
            if "wrapping" in setting.done:
                shifted = _wrap(shifted, 1 << 31)
            rest = (current * (one - (du + 1)), membrane * (one - dv))
            rests = [
                _rounded(product / one, arithmetic.rounding)
                if "leak truncation" in setting.done
                else product / one
                for product in rest
            ]
            current = rests[0] + shifted
            if "wrapping" in setting.done:
                current = _wrap(current, 1 << 31)
                if arithmetic.current_overflow == "wrap":
                    current = _wrap_once(current, arithmetic.current_end + 1)
            if "saturation" in setting.done and arithmetic.current_overflow == "saturate":
                current = min(max(current, -arithmetic.current_end), arithmetic.current_end)
            before = rests[1] + current + bias
            if first:
                before += start
            if floor > arithmetic.no_floor:
                before = max(before, floor)
            if "wrapping" in setting.done and arithmetic.membrane_overflow == "wrap":
                before = _wrap_once(before, end + 1)
            if "saturation" in setting.done and arithmetic.membrane_overflow == "saturate":
                before = min(max(before, -end), end)
            if resting:
                before = 0.0
            membrane, resting = self._after(before, spikes[step], subtracts, resting)
        return before / (scale * arithmetic.state_units)

    def _delivered(self, row: Row, values: NDArray[Any], *, rounds: bool) -> Float:
        """Return what arrives from the synapses of `row`, (steps,) in weight units."""
        source = self.network[row.source]
        payloads = np.rint(values * source.scale) if isinstance(source, IntegerInput) else values
        seen = late(payloads, row) * row.weight
        unit = 2.0**row.exponent
        total = np.zeros(len(values))
        # As on the chip, the sum of each delay is shifted by itself.
        for delay in np.unique(row.delay):
            sums = seen[:, row.delay == delay].sum(1) * unit
            if rounds and row.exponent < 0:
                sums = np.floor(sums + 0.5) if row.on_host else np.floor(sums)
            total = total + sums
        return total

    def trace(self) -> MembraneTrace:
        """Return the membranes of both, step by step, at most `LONGEST_TRACE` steps around the place."""
        steps = len(self.reference.sent[self.layer])
        start = max(0, min(self.step - LONGEST_TRACE // 2, steps - LONGEST_TRACE))
        there = slice(start, min(steps, start + LONGEST_TRACE))
        origins = self.numbers(self.reference.level), self.numbers(self.candidate.level)

        def along(values: NDArray[Any]) -> NDArray[Any]:
            return values.reshape(len(values), -1)[there, self.neuron]

        membranes = [
            tuple(float(value) + own.origin for value in along(whole.membranes[self.layer]))
            for whole, own in zip((self.reference, self.candidate), origins, strict=True)
        ]
        spikes = [
            tuple(int(value) for value in along(whole.sent[self.layer]))
            for whole in (self.reference, self.candidate)
        ]
        return MembraneTrace(
            reference=membranes[0],
            candidate=membranes[1],
            reference_threshold=origins[0].threshold + origins[0].origin,
            candidate_threshold=origins[1].threshold + origins[1].origin,
            reference_spikes=spikes[0],
            candidate_spikes=spikes[1],
            first_step=start,
        )


def relayed(
    network: IntegerNetwork, sent: Mapping[str, NDArray[Any]], wanted: Container[str]
) -> dict[str, Integer]:
    """Return the sums that the `wanted` relays send, (steps, *shape), of what the layers `sent`."""
    from neurocompile_fixedpoint.definition import input_sums

    known = dict(sent)
    result: dict[str, Integer] = {}
    for item in network.populations:
        if not isinstance(item, IntegerRelay) or item.name not in wanted:
            continue
        steps = len(next(iter(known.values())))
        total: Integer = np.zeros((steps, *item.shape), np.int64)
        for group in network.into(item.name):
            values = known[group.source][np.newaxis].astype(np.int64)
            total = total + input_sums(group, values, network.views(group))[0].reshape(total.shape)
        known[item.name] = result[item.name] = total
    return result


def _rounded(value: float, rounding: str) -> float:
    match rounding:
        case "zero":
            return float(math.trunc(value))
        case "down":
            return float(math.floor(value))
        case _:
            return float(math.floor(value + 0.5))


def _wrap(value: float, end: int) -> float:
    return (value + end) % (2 * end) - end


def _wrap_once(value: float, end: int) -> float:
    if value > end:
        return value - 2 * end
    return value + 2 * end if value <= -end else value
