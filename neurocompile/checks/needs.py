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
from neurocompile.populations import (
    Population,
    ReadoutPopulation,
    SpikingPopulation,
    SynapseGroup,
)
from neurocompile.quantisation.fit import HOST_WEIGHT_BITS
from neurocompile.quantisation.recipe import Recipe


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

    `wait` is how many machine steps its spikes wait, at most.
    """

    name: str
    source: str
    on_host: bool
    weight: Need
    count: int
    zeroed: int
    clipped: int
    wait: int

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


def needs_of(compiled: Compiled, limits: Limits, recipe: Recipe) -> dict[str, LayerNeeds]:
    """Return what each population of a compiled network needs, by name."""
    real = {item.name: item for item in compiled.populations.populations}
    groups = {group.name: group for group in compiled.populations.synapses}
    network = compiled.quantised.network
    result = {}
    for item in network.populations:
        numbers = {"payload_bits": _payload(item, limits)}
        decays: dict[str, Decay] = {}
        if isinstance(item, IntegerNeurons):
            numbers |= dict(_numbers(real[item.name], item, limits))
            decays = dict(_decays(real[item.name], item, limits))
        synapses = tuple(
            _synapses(compiled, groups[group.name], group, limits, recipe.bits_of(item.name))
            for group in network.into(item.name)
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
    real: Population, neurons: IntegerNeurons, limits: Limits
) -> Iterable[tuple[str, Need]]:
    assert isinstance(real, SpikingPopulation | ReadoutPopulation)
    error = 0.0
    if isinstance(real, SpikingPopulation):
        lowered = real.comparison == ">=" and not neurons.inclusive
        error = _largest(real.threshold * neurons.scale - lowered - neurons.threshold)
    if not neurons.readout:
        yield "threshold", _between(neurons.threshold, 0, limits.threshold_maximum, error)
    exact = real.bias * neurons.scale * neurons.arithmetic.state_units
    most = limits.bias_mantissa_maximum
    yield (
        "bias_mantissa",
        _between(neurons.bias_mantissa, -most - 1, most, _largest(exact - neurons.bias)),
    )
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


def _synapses(
    compiled: Compiled,
    real: SynapseGroup,
    group: IntegerSynapses,
    limits: Limits,
    weight_bits: int,
) -> SynapseNeeds:
    network = compiled.quantised.network
    source, target = network[group.source], network[group.target]
    rows = len(real.operator.weight)
    scale = target.scale_of_rows(rows) if isinstance(target, IntegerNeurons) else np.ones(rows)
    scale = scale.reshape(-1, *[1] * (real.operator.weight.ndim - 1))
    payload = source.scale if isinstance(source, IntegerInput) else 1.0
    wanted = real.operator.weight * (scale / payload * 2.0**-group.exponent)
    unit = limits.weight_unit(weight_bits)
    most = limits.largest_weight(weight_bits)
    least = -most - unit
    if group.on_host:
        most = (1 << (HOST_WEIGHT_BITS - 1)) - 1
        least, unit = -most - 1, 1
    elif (group.weight % limits.weight_step).any():
        least, most, unit = 0, limits.excitatory_maximum, 1
    used = real.operator.weight != 0
    outside = (wanted < least - unit / 2) | (wanted > most + unit / 2)
    return SynapseNeeds(
        group.name,
        group.source,
        group.on_host,
        _between(group.weight, least, most, _largest(wanted - group.weight)),
        count=int(used.sum()),
        zeroed=int((used & (group.weight == 0)).sum()),
        clipped=int(outside.sum()),
        wait=int(compiled.program.schedule.wait(group).max(initial=0)),
    )
