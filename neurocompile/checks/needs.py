"""
What each layer needs of the widths of a chip's integers, and what rounding to them cost.

Thresholds and weights are in weight units, biases in state units of 1/64 of them, decays in fractions of
what is kept in a step; `neurocompile.integer` says what these are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from neurocompile.integer import (
    IntegerInput,
    IntegerNeurons,
    IntegerPopulation,
    IntegerSynapses,
)
from neurocompile.limits import Limits
from neurocompile.pipeline import Compiled
from neurocompile.populations import Population, ReadoutPopulation, SpikingPopulation
from neurocompile.quantisation.tally import NumberTally, WeightTally


@dataclass(frozen=True)
class Need:
    """
    Integers from `low` to `high`, where `least` to `most` fit (None: no limit).

    `error` is the largest rounding error, in these integers' unit, or the quantity's own for decays.
    """

    low: int
    high: int
    least: int | None = None
    most: int | None = None
    error: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "needs": [self.low, self.high],
            "limit": [self.least, self.most],
            "error": self.error,
        }


@dataclass(frozen=True)
class Decay:
    """A factor that is kept each step: as it was trained, as the chip has it, and the chip's integer."""

    real: tuple[float, float]
    kept: tuple[float, float]
    integers: Need

    def to_json(self) -> dict[str, Any]:
        return {"real": list(self.real), "represented": list(self.kept), **self.integers.to_json()}


@dataclass(frozen=True)
class SynapseNeeds:
    """
    The weights of one group: of `count` that are not 0, `zeroed` became 0, and `clipped` were cut.

    `rms_error` is in weight units; of its `bits` it needs `used_bits`. `wait` is how many machine steps its spikes wait, at most.
    """

    name: str
    source: str
    on_host: bool
    weight: Need
    count: int
    zeroed: int
    clipped: int
    wait: int
    rms_error: float
    bits: int
    used_bits: int

    def to_json(self) -> dict[str, Any]:
        fields = {key: value for key, value in vars(self).items() if key != "weight"}
        return {**fields, **self.weight.to_json()}


@dataclass(frozen=True)
class LayerNeeds:
    """What one population needs; `numbers` by name, and the synapses that end in it."""

    numbers: Mapping[str, Need]
    decays: Mapping[str, Decay]
    synapses: tuple[SynapseNeeds, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: need.to_json() for name, need in self.numbers.items()},
            **{name: decay.to_json() for name, decay in self.decays.items()},
            "weights": [group.to_json() for group in self.synapses],
        }


def needs_of(compiled: Compiled, limits: Limits) -> dict[str, LayerNeeds]:
    """Return what each population of a compiled network needs, by name."""
    real = {item.name: item for item in compiled.populations.populations}
    network = compiled.quantised.network
    result = {}
    for item in network.populations:
        numbers = {"payload_bits": _payload(item, limits)}
        decays: dict[str, Decay] = {}
        if isinstance(item, IntegerNeurons):
            errors = compiled.tally[item.name].numbers
            numbers |= dict(_numbers(item, limits, errors))
            decays = dict(_decays(real[item.name], item, limits))
        synapses = tuple(
            _synapses(compiled, group, tallied)
            for group, tallied in zip(
                network.into(item.name), compiled.tally[item.name].weights, strict=True
            )
        )
        result[item.name] = LayerNeeds(numbers, decays, synapses)
    return result


def _between(values: ArrayLike, least: int | None, most: int | None, error: float = 0.0) -> Need:
    array = np.asarray(values)
    return Need(int(array.min()), int(array.max()), least, most, error)


def _largest(values: Any) -> float:
    return float(np.abs(values).max(initial=0))


def _payload(item: IntegerPopulation, limits: Limits) -> Need:
    """Return the bits of the largest value that is sent, without its sign."""
    if isinstance(item, IntegerInput):
        largest = max(abs(item.minimum), abs(item.maximum))
    elif isinstance(item, IntegerNeurons):
        largest = 0 if item.readout else item.most
    else:
        largest = item.largest
    bits = largest.bit_length()
    return Need(bits, bits, 0, limits.payload_bits)


def _numbers(
    neurons: IntegerNeurons, limits: Limits, errors: Mapping[str, NumberTally]
) -> Iterable[tuple[str, Need]]:
    if not neurons.readout:
        error = errors["threshold"].largest_error
        yield "threshold", _between(neurons.threshold, 0, limits.threshold_maximum, error)
    most = limits.bias_mantissa_maximum
    error = errors["bias"].largest_error
    yield "bias_mantissa", _between(neurons.bias_mantissa, -most - 1, most, error)
    yield "bias_exponent", _between(neurons.bias_exponent, 0, limits.bias_exponent_maximum)


def _decays(
    real: Population, neurons: IntegerNeurons, limits: Limits
) -> Iterable[tuple[str, Decay]]:
    assert isinstance(real, SpikingPopulation | ReadoutPopulation)
    unit = 1 << limits.decay_bits
    if real.decay is not None:
        yield "leak", _decay(real.decay, 1 - neurons.dv / unit, _between(neurons.dv, 0, unit))
    kept = 1 - (neurons.du + 1) / unit
    yield "current_leak", _decay(real.current_decay, kept, _between(neurons.du, 0, unit - 1))


def _decay(real: Any, kept: Any, integers: Need) -> Decay:
    error = _largest(real - kept)
    return Decay(
        (float(np.min(real)), float(np.max(real))),
        (float(np.min(kept)), float(np.max(kept))),
        Need(integers.low, integers.high, integers.least, integers.most, error),
    )


def _synapses(compiled: Compiled, group: IntegerSynapses, tallied: WeightTally) -> SynapseNeeds:
    weight = _between(group.weight, tallied.least, tallied.most, tallied.largest_error)
    return SynapseNeeds(
        group.name,
        group.source,
        group.on_host,
        weight,
        count=tallied.count,
        zeroed=tallied.zeroed,
        clipped=tallied.clipped,
        wait=int(compiled.program.schedule.wait(group).max(initial=0)),
        rms_error=tallied.rms_error,
        bits=tallied.bits,
        used_bits=tallied.used_bits,
    )
