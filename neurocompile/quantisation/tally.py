"""
What rounding did to each layer: counted from the real numbers and their integers, not estimated.

Every number of a population becomes an integer, in one of these units,

    weights, thresholds, pulses             weight units
    biases, starts, floors, what spikes     state units
    take off
    leaks                                   2^-`decay_bits` of what is kept in a step

and may be off by its rounding, be cut because it does not fit, or become zero. What calibration chose
otherwise (weights that are rounded to fit samples, corrected biases) is off by that, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurocompile.blocks import row_blocks
from neurocompile.integer import (
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerSynapses,
)
from neurocompile.limits import Limits
from neurocompile.populations import (
    Population,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SynapseGroup,
)
from neurocompile.quantisation.fit import HOST_WEIGHT_BITS
from neurocompile.quantisation.scales import by_row

Float = NDArray[np.float64]

EXACT = 1e-9  # of a unit: what float64 makes of a number that is whole


@dataclass(frozen=True)
class WeightTally:
    """
    The weights of one group of synapses.

    Of `count` that are not 0, `zeroed` became 0 and `clipped` were cut at the ends, `least` and `most`; those of
    the host never are. `largest_error` and `rms_error` are in weight units, over these, at the scale at which
    they were rounded: a threshold that was moved beside them afterwards is none of their errors. `bits` are those it may use, `used_bits`
    those without which its integers would not fit; `memory_bits` is what it takes on the chip.
    """

    name: str
    source: str
    on_host: bool
    count: int
    zeroed: int
    clipped: int
    largest_error: float
    rms_error: float
    least: int
    most: int
    bits: int
    used_bits: int
    memory_bits: int

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class NumberTally:
    """
    One kind of numbers of a layer: of `count`, `rounded` are no integers, and `clipped` did not fit.

    `largest_error` is in their own unit. `relative` is that error beside the layer's smallest threshold (None
    where it has none), or, of leaks, that of the time constant beside itself.
    """

    count: int
    rounded: int
    clipped: int
    largest_error: float
    relative: float | None

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class LayerTally:
    """
    What rounding did to one population, and to the synapses that end in it.

    `lowered` is by how many times the range proof shrank its scale, `cramped` its biases; of inputs, `step` is
    the distance of two values, and `exact` says that all their values are multiples of it.
    """

    weights: tuple[WeightTally, ...] = ()
    numbers: Mapping[str, NumberTally] = field(default_factory=dict)
    lowered: float = 1.0
    cramped: float = 1.0
    step: float | None = None
    exact: bool | None = None

    @property
    def memory_bits(self) -> int:
        """The memory of its weights on the chip."""
        return sum(group.memory_bits for group in self.weights)

    def to_json(self) -> dict[str, Any]:
        if self.step is not None:
            return {"step": self.step, "exact": self.exact}
        return {
            "weights": [group.to_json() for group in self.weights],
            "numbers": {name: number.to_json() for name, number in self.numbers.items()},
            "lowered_by_range_proof": self.lowered,
            "lowered_by_biases": self.cramped,
            "memory_bits": self.memory_bits,
        }


def tally_of(
    real: PopulationNetwork,
    network: IntegerNetwork,
    limits: Limits,
    *,
    weight_bits: Mapping[str, int],
    lowered: Mapping[str, float],
    cramped: Mapping[str, float],
    rounded_at: Mapping[str, Float],
) -> dict[str, LayerTally]:
    """
    Return what rounding did to each population of `real`, whose integers are `network`, by name.

    `weight_bits`, `lowered`, `cramped` and `rounded_at` are those of `passes.quantise.Quantised`.
    """
    groups = {group.name: group for group in real.synapses}
    found = {}
    for item in network.populations:
        if isinstance(item, IntegerInput):
            found[item.name] = LayerTally(step=1 / item.scale, exact=item.exact)
            continue
        bits = weight_bits.get(item.name, limits.weight_bits)
        weights = tuple(
            _weights(network, groups[group.name], group, limits, bits, rounded_at.get(item.name))
            for group in network.into(item.name)
        )
        numbers: dict[str, NumberTally] = {}
        if isinstance(item, IntegerNeurons):
            numbers = dict(_numbers(real[item.name], item, limits))
        found[item.name] = LayerTally(
            weights, numbers, lowered.get(item.name, 1.0), cramped.get(item.name, 1.0)
        )
    return found


def _weights(
    network: IntegerNetwork,
    real: SynapseGroup,
    group: IntegerSynapses,
    limits: Limits,
    bits: int,
    rounded_at: Float | None,
) -> WeightTally:
    source, target = network[group.source], network[group.target]
    weight, integers = real.operator.weight, group.weight
    scale: Float = np.ones(len(weight))
    if isinstance(target, IntegerNeurons):
        scale = target.scale_of_rows(len(weight))
        if rounded_at is not None and not group.on_host:
            scale = by_row(rounded_at, len(weight))
    payload = source.scale if isinstance(source, IntegerInput) else 1.0
    factor = (scale / payload * 2.0**-group.exponent).reshape(-1, *[1] * (weight.ndim - 1))
    unit, most = limits.weight_unit(bits), limits.largest_weight(bits)
    least = -most - unit
    step = limits.weight_step
    if group.on_host:
        bits, unit, step, most = HOST_WEIGHT_BITS, 1, 1, (1 << (HOST_WEIGHT_BITS - 1)) - 1
        least = -most - 1
    elif integers.size and int(np.bitwise_or.reduce(integers, axis=None)) & (step - 1):
        # Synapses of one sign keep the bit that a mixed group spends on it.
        unit = step = limits.excitatory_step
        least, most = 0, limits.excitatory_maximum
    count = zeroed = clipped = 0
    largest = squares = 0.0
    for rows in row_blocks(weight):
        part, kept = weight[rows], integers[rows]
        wanted = part * factor[rows]
        used = part != 0
        error = np.abs(wanted - kept)
        count += int(used.sum())
        zeroed += int((used & (kept == 0)).sum())
        if not group.on_host:
            clipped += int(((wanted < least - unit / 2) | (wanted > most + unit / 2)).sum())
        largest = max(largest, float(error.max(initial=0)))
        squares += float(np.square(error).sum())
    return WeightTally(
        group.name,
        group.source,
        group.on_host,
        count,
        zeroed,
        clipped,
        largest,
        math.sqrt(squares / max(1, count)),
        least,
        most,
        bits,
        _used_bits(integers, step),
        0 if group.on_host else integers.size * bits,
    )


def _used_bits(integers: NDArray[np.int64], step: int) -> int:
    """Return the fewest bits that hold `integers`, multiples of `step`, with what they are multiples of."""
    if not integers.any():
        return 0
    low, high = int(integers.min()), int(integers.max())
    multiple = int(np.bitwise_or.reduce(integers, axis=None))
    multiple = max(step, multiple & -multiple)
    low, high = low // multiple, high // multiple
    magnitude = max(high, -low - 1).bit_length()
    return max(1, magnitude + (low < 0))


def _numbers(
    real: Population, neurons: IntegerNeurons, limits: Limits
) -> Iterable[tuple[str, NumberTally]]:
    """Yield what became of each kind of numbers that `neurons` have."""
    assert isinstance(real, SpikingPopulation | ReadoutPopulation)
    units = neurons.scale
    states = units * limits.arithmetic.state_units
    smallest = math.inf
    if isinstance(real, SpikingPopulation):
        # A membrane that is off by as much as the smallest threshold is off by a spike.
        smallest = float(neurons.threshold.min(initial=limits.threshold_maximum)) or 1.0
        lowered = real.comparison == ">=" and not neurons.inclusive
        yield (
            "threshold",
            _number(
                real.threshold * units - lowered,
                neurons.threshold,
                smallest,
                (0, limits.threshold_maximum),
            ),
        )
    room = float(limits.bias_mantissa_maximum << neurons.bias_exponent)
    in_states = smallest * limits.arithmetic.state_units
    yield "bias", _number(real.bias * states, neurons.bias, in_states, (-room, room))
    yield "pulse", _number(real.pulse * units, neurons.pulse, smallest)
    if isinstance(real, SpikingPopulation):
        yield (
            "start",
            _number(real.start * units, neurons.start >> limits.fraction_bits, smallest),
        )
        if real.reset == "subtract":
            yield "subtracts", _number(real.taken * states, neurons.subtracts, in_states)
        if real.floor is not None:
            lowest = limits.arithmetic.no_floor
            floor = _number(real.floor * states, neurons.floor, in_states, (lowest, math.inf))
            yield "floor", floor
    one = limits.arithmetic.decay_one
    if real.decay is not None:
        yield "leak", _leak(real.decay, neurons.dv, one)
    yield "current_leak", _leak(real.current_decay, neurons.du + 1, one)


def _number(
    real: ArrayLike,
    kept: ArrayLike,
    beside: float,
    ends: tuple[float, float] = (-math.inf, math.inf),
) -> NumberTally:
    wanted, integers = np.broadcast_arrays(np.asarray(real, np.float64), np.asarray(kept))
    error = np.abs(wanted - integers)
    largest = float(error.max(initial=0))
    return NumberTally(
        count=wanted.size,
        rounded=int((error > EXACT * np.maximum(1, np.abs(wanted))).sum()),
        clipped=int(((wanted < ends[0] - 0.5) | (wanted > ends[1] + 0.5)).sum()),
        largest_error=largest,
        relative=None if math.isinf(beside) else largest / beside,
    )


def _leak(decay: Float, leak: NDArray[np.int64], one: int) -> NumberTally:
    """Return what became of decay factors; they become `one` less the integers `leak`."""
    number = _number((1 - decay) * one, leak, math.inf)
    kept = 1 - leak / one
    real, integer = np.broadcast_arrays(decay, kept)
    inside = (real > 0) & (real < 1) & (integer > 0) & (integer < 1)
    # The time constant of a factor d is -1 / ln d steps.
    relative = np.abs(np.log(real[inside]) / np.log(integer[inside]) - 1)
    return NumberTally(
        number.count,
        number.rounded,
        number.clipped,
        number.largest_error,
        float(relative.max(initial=0)),
    )
