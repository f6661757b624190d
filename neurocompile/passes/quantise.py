"""
Turn weights, thresholds and biases into integers, without calibration data.

A LIF neuron is homogeneous: one positive factor S on its weights, bias and threshold changes no
spike. So each population gets the largest S (weight units per unit of its membrane) at which

    weights     |W| S / s_in  fit the bits in use      (s_in: the source's payload per unit, 1 for spikes)
    threshold   V S           is an integer that fits
    bias        b S           fits mantissa and exponent
    ranges      the proof of `prove_ranges` holds for the rounded integers

Rounding the threshold down to an integer V_int and taking S = V_int / V makes the threshold exact;
only weights and biases are rounded.

The analogue first layer either stays on the chip, fed by graded spikes (integers), or is computed by
the host in integers of up to 16 bits, whose sums the chip receives as input current.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import OptionError, Problem, RangeError, raise_all
from neurocompile.integer import (
    READOUT_THRESHOLD,
    STATE_FRACTION_BITS,
    Geometry,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerSynapses,
)
from neurocompile.ir import Conv2d
from neurocompile.limits import Limits
from neurocompile.passes.prove_ranges import bound_of, excess
from neurocompile.populations import (
    InputPopulation,
    Population,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SynapseGroup,
)

FirstLayer = Literal["auto", "graded", "host"]

NO_CURRENT_MEMORY = 4095  # du: u forgets all (Lava adds 1), so that u is the input of this step
HOST_WEIGHT_BITS = 16
HOST_FRACTION_BITS = 40  # smaller weights than this are nothing beside a threshold of 17 bits
SCALE_ATTEMPTS = 64


@dataclass(frozen=True)
class Quantised:
    """
    The integers, and the decisions behind them.

    `first_layer` is "graded", "host" or, for spikes as input, "spikes"; `reason` says why.
    `lowered` names the layers whose scale the range proof pushed below what the weights' bits would
    allow, with the factor.
    """

    network: IntegerNetwork
    first_layer: str
    reason: str
    lowered: Mapping[str, float]


def quantise(
    network: PopulationNetwork,
    limits: Limits,
    *,
    weight_bits: int = 8,
    steps: int,
    first_layer: FirstLayer = "auto",
) -> Quantised:
    """
    Return `network` in integers that fit `limits`, over samples of `steps` steps.

    Raises `RangeError` where no scale is small enough, `OptionError` for impossible bits.
    """
    if not 2 <= weight_bits <= limits.weight_bits:
        raise OptionError(
            Problem(
                "",
                f"weight bits must be from 2 to {limits.weight_bits}",
                f"{weight_bits} are asked for",
            )
        )
    inputs = {
        population.name: _quantise_input(population, limits)
        for population in network.populations
        if isinstance(population, InputPopulation)
    }
    spikes = all(
        (item.minimum, item.maximum, item.exact) == (0, 1, True) for item in inputs.values()
    )
    if spikes:
        if first_layer != "auto":
            raise OptionError(
                Problem(
                    "",
                    f"--first-layer {first_layer} is for analogue inputs",
                    "this network's input is spikes",
                    "leave it out, or give the values with --input-range",
                )
            )
        chosen = _Quantiser(limits, weight_bits, steps, frozenset()).run(network, inputs)
        return Quantised(chosen[0], "spikes", "the input is spikes", chosen[1])

    on_host = frozenset(group.name for group in network.synapses if group.source in inputs)
    graded_quantiser = _Quantiser(limits, weight_bits, steps, frozenset())
    host_quantiser = _Quantiser(limits, weight_bits, steps, on_host)
    if first_layer == "host":
        result, lowered = host_quantiser.run(network, inputs)
        return Quantised(result, "host", "asked for", lowered)
    result, lowered = graded_quantiser.run(network, inputs)
    if first_layer == "graded":
        return Quantised(result, "graded", "asked for", lowered)
    fed = [group.target for group in network.synapses if group.source in inputs]
    squeezed = [name for name in fed if name in lowered]
    if not squeezed:
        reason = f"the range proof holds with all {weight_bits} bits of its weights"
        return Quantised(result, "graded", reason, lowered)
    reason = (
        f"on the chip the range proof would shrink its weights {lowered[squeezed[0]]:.3g} times"
    )
    result, lowered = host_quantiser.run(network, inputs)
    return Quantised(result, "host", reason, lowered)


def _quantise_input(population: InputPopulation, limits: Limits) -> IntegerInput:
    values = population.range
    largest = max(abs(values.minimum), abs(values.maximum))
    payload = (1 << limits.payload_bits) - 1
    exact = values.step > 0 and largest / values.step <= payload + 0.5
    scale = 1 / values.step if exact else payload / (largest or 1.0)
    return IntegerInput(
        population.name,
        population.shape,
        scale=scale,
        minimum=math.floor(values.minimum * scale + 0.5),
        maximum=math.floor(values.maximum * scale + 0.5),
        exact=exact,
    )


@dataclass(frozen=True)
class _Quantiser:
    limits: Limits
    weight_bits: int
    steps: int
    on_host: frozenset[str]

    def run(
        self, network: PopulationNetwork, inputs: Mapping[str, IntegerInput]
    ) -> tuple[IntegerNetwork, dict[str, float]]:
        """Quantise one population after the other; return the network and the lowered scales."""
        populations: list[IntegerPopulation] = []
        synapses: list[IntegerSynapses] = []
        lowered: dict[str, float] = {}
        problems: list[Problem] = []
        for population in network.populations:
            if isinstance(population, InputPopulation):
                populations.append(inputs[population.name])
                continue
            try:
                neurons, groups, factor = self._fit(
                    population, network.into(population.name), inputs
                )
            except RangeError as error:
                problems += error.problems
                continue
            populations.append(neurons)
            synapses += groups
            if factor > 1:
                lowered[population.name] = factor
        raise_all(RangeError, problems)
        return IntegerNetwork(tuple(populations), tuple(synapses), network.outputs), lowered

    def _fit(
        self,
        population: SpikingPopulation | ReadoutPopulation,
        groups: tuple[SynapseGroup, ...],
        inputs: Mapping[str, IntegerInput],
    ) -> tuple[IntegerNeurons, tuple[IntegerSynapses, ...], float]:
        """Return the integers at the largest scale whose range proof holds, and how much it shrank."""
        wanted = scale = self._wished_scale(population, groups, inputs)
        for _ in range(SCALE_ATTEMPTS):
            neurons = self._neurons(population, scale)
            integers = tuple(self._synapses(group, neurons.scale, inputs) for group in groups)
            sources = tuple(inputs[g.source] for g in groups if g.source in inputs)
            probe = _stand_alone(neurons, integers, sources)
            bound = bound_of(probe, neurons, self.limits, steps=self.steps)
            if not list(excess(bound)):
                _refuse_vanished(population, groups, integers, wanted / scale, self.steps)
                return neurons, integers, wanted / scale
            overshoot = max(
                bound.current / bound.current_limit, bound.membrane / bound.membrane_limit
            )
            scale = neurons.scale / max(overshoot, 1.001)
        raise RangeError(*excess(bound))

    def _wished_scale(
        self,
        population: Population,
        groups: tuple[SynapseGroup, ...],
        inputs: Mapping[str, IntegerInput],
    ) -> float:
        """Return the largest scale at which every single number fits, before any sum is looked at."""
        assert isinstance(population, SpikingPopulation | ReadoutPopulation)
        highest = self.limits.largest_weight(self.weight_bits)
        candidates = [float(self.limits.threshold_maximum)]
        if isinstance(population, SpikingPopulation):
            candidates = [self.limits.threshold_maximum / population.threshold]
        largest_bias = float(np.abs(population.bias).max(initial=0))
        if largest_bias > 0:
            candidates.append(self.limits.bias_maximum / largest_bias)
        for group in groups:
            largest = float(np.abs(group.operator.weight).max(initial=0))
            if largest > 0 and group.name not in self.on_host:
                candidates.append(highest * _payload_scale(group, inputs) / largest)
        return min(candidates)

    def _neurons(
        self, population: SpikingPopulation | ReadoutPopulation, scale: float
    ) -> IntegerNeurons:
        if isinstance(population, SpikingPopulation):
            threshold = math.floor(scale * population.threshold)
            if threshold < 1:
                raise RangeError(
                    Problem(
                        population.name,
                        "needs a threshold of at least 1 weight unit",
                        f"its weights leave room for {scale * population.threshold:.3g}",
                        "its weights are too large for its threshold",
                    )
                )
            scale = threshold / population.threshold
            dv = round((1 - population.decay) * (1 << self.limits.decay_bits))
            if dv == 0 and population.decay < 1:
                raise RangeError(
                    Problem(
                        population.name,
                        f"needs a leak of at least 1/{2 << self.limits.decay_bits} a step",
                        f"it is {1 - population.decay:.3g}",
                        "use neurons without a leak, or a shorter time constant",
                    )
                )
        else:
            threshold, dv = READOUT_THRESHOLD, 0
        mantissa, exponent = self._bias(population.bias * scale)
        return IntegerNeurons(
            population.name,
            population.shape,
            du=NO_CURRENT_MEMORY,
            dv=dv,
            threshold=threshold,
            bias_mantissa=mantissa,
            bias_exponent=exponent,
            scale=scale,
            readout=isinstance(population, ReadoutPopulation),
        )

    def _bias(self, bias: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
        """Return mantissas and the smallest common exponent for biases in weight units."""
        in_state_units = bias * (1 << STATE_FRACTION_BITS)
        for exponent in range(self.limits.bias_exponent_maximum + 1):
            mantissa = np.rint(in_state_units / (1 << exponent)).astype(np.int64)
            if np.abs(mantissa).max(initial=0) <= self.limits.bias_mantissa_maximum:
                break
        return mantissa, exponent

    def _synapses(
        self, group: SynapseGroup, scale: float, inputs: Mapping[str, IntegerInput]
    ) -> IntegerSynapses:
        operator = group.operator
        real = operator.weight * (scale / _payload_scale(group, inputs))
        geometry = None
        if isinstance(operator, Conv2d):
            geometry = Geometry(
                operator.stride, operator.padding, operator.dilation, operator.groups
            )
        integers = IntegerSynapses(
            group.name, group.source, group.target, np.zeros(1, np.int64), geometry
        )
        if group.name in self.on_host:
            largest = float(np.abs(real).max(initial=0)) or 1.0
            room = ((1 << (HOST_WEIGHT_BITS - 1)) - 1) / largest
            fraction_bits = min(max(0, math.floor(math.log2(room))), HOST_FRACTION_BITS)
            weight = np.rint(real * 2.0**fraction_bits)
            return replace(integers, weight=weight, exponent=-fraction_bits, on_host=True)
        unit = self.limits.weight_unit(self.weight_bits)
        highest = self.limits.largest_weight(self.weight_bits)
        return replace(
            integers, weight=np.clip(np.rint(real / unit) * unit, -highest - unit, highest)
        )


def _refuse_vanished(
    population: SpikingPopulation | ReadoutPopulation,
    groups: tuple[SynapseGroup, ...],
    integers: tuple[IntegerSynapses, ...],
    shrunk: float,
    steps: int,
) -> None:
    """Raise `RangeError` if synapses that are not zero all became zero."""
    lost = [
        real.name
        for real, integer in zip(groups, integers, strict=True)
        if real.operator.weight.any() and not integer.weight.any()
    ]
    if lost:
        raise RangeError(
            Problem(
                population.name,
                "needs weights that are not all rounded to zero",
                f"those of {', '.join(lost)} are, the range proof over {steps} steps having shrunk "
                f"them {shrunk:.3g} times"
                if shrunk > 1
                else f"those of {', '.join(lost)} are, beside the layer's bias, threshold or other weights",
                "export for fewer steps with --steps" if shrunk > 1 else "rescale the layer",
            )
        )


def _payload_scale(group: SynapseGroup, inputs: Mapping[str, IntegerInput]) -> float:
    return inputs[group.source].scale if group.source in inputs else 1.0


def _stand_alone(
    neurons: IntegerNeurons,
    groups: tuple[IntegerSynapses, ...],
    inputs: tuple[IntegerInput, ...],
) -> IntegerNetwork:
    """Return just enough of a network to prove the ranges of one population."""
    known = {item.name for item in inputs}
    spiking = {
        group.source: IntegerNeurons(group.source, (), 0, 0, 1, np.zeros(1, np.int64), 0, 1.0)
        for group in groups
        if group.source not in known
    }
    return IntegerNetwork((*inputs, *spiking.values(), neurons), groups, (neurons.name,))
