"""
Turn weights, thresholds and biases into integers, without calibration data.

A LIF neuron is homogeneous: one positive factor S on its weights, bias and threshold changes no
spike. So each population gets the largest S (weight units per unit of its membrane) at which

    weights     |W| S / s_in  fit the bits in use      (s_in: the source's payload per unit, 1 for spikes)
    threshold   V S           is an integer that fits
    bias        b S           fits mantissa and exponent
    ranges      the proof of `prove_ranges` holds for the rounded integers

Rounding the threshold down to an integer V_int and taking S = V_int / V makes the threshold exact;
only weights and biases are rounded (and thresholds, where a layer has several). Leaks become multiples
of 1/4096. Lava's neurons fire above their threshold: those that fire at it get V_int - 1 beside the same
S, which is exact wherever membranes are whole weight units, and half a unit off on average elsewhere.
Neurons that need microcode anyway compare as they should.

Where the source computes in integers (`weight_unit`), S is 1 / `weight_unit` and nothing is rounded. Where
training chose the integers of a population, S is one over its own unit, and only biases are rounded.

Neurons without a limit on their spikes in one step get the proven one: what arrives at most, and what a
membrane at its threshold keeps, hold the threshold so often.

The analogue first layer either stays on the chip, fed by graded spikes (integers), or is computed by
the host in integers of up to 16 bits, whose sums the chip receives as input current.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neurocompile.blocks import row_blocks
from neurocompile.errors import OptionError, Problem, RangeError, raise_all
from neurocompile.integer import (
    NO_FLOOR,
    READOUT_THRESHOLD,
    STATE_FRACTION_BITS,
    Geometry,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerRelay,
    IntegerSynapses,
    Reset,
    Shows,
    outliving,
)
from neurocompile.ir import Conv2d
from neurocompile.limits import Limits
from neurocompile.linear import slide_of
from neurocompile.passes.prove_ranges import bound_of, excess, most_spikes
from neurocompile.populations import (
    InputPopulation,
    Population,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SumPopulation,
    SynapseGroup,
)

FirstLayer = Literal["auto", "graded", "host"]
Membranes = Literal["proven", "saturating"]

NO_CURRENT_MEMORY = 4095  # du: u forgets all (Lava adds 1), so that u is the input of this step
HOST_WEIGHT_BITS = 16
HOST_FRACTION_BITS = 40  # smaller weights than this are nothing beside a threshold of 17 bits
SCALE_ATTEMPTS = 64
FAR_BEYOND = 1 << 40
TWO_BITS = 4  # times by which biases may shrink a first layer's weights before the host computes it
GRID_TOLERANCE = 1e-6  # of a weight unit, of sources that compute in integers


@dataclass(frozen=True)
class Quantised:
    """
    The integers, and the decisions behind them.

    `first_layer` is "graded", "host" or, for spikes as input, "spikes"; `reason` says why.
    `lowered` names the layers whose scale the range proof pushed below what the weights' bits would
    allow, with the factor, and `cramped` those whose biases did. `saturating` are the layers whose
    membranes may leave their range.
    """

    network: IntegerNetwork
    first_layer: str
    reason: str
    lowered: Mapping[str, float]
    cramped: Mapping[str, float] = field(default_factory=dict)

    @property
    def saturating(self) -> tuple[str, ...]:
        return tuple(neurons.name for neurons in self.network.neurons if neurons.saturates)


def quantise(
    network: PopulationNetwork,
    limits: Limits,
    *,
    weight_bits: int = 8,
    steps: int,
    first_layer: FirstLayer = "auto",
    membranes: Membranes = "proven",
) -> Quantised:
    """
    Return `network` in integers that fit `limits`, over samples of `steps` steps.

    With `membranes` "saturating" only what wraps limits the scale: the membranes of spiking layers may
    saturate where a worst case would. They do the same on every target, but not what floats do.

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
    of_source = network.weight_unit is not None and not isinstance(network.weight_unit, Mapping)
    saturating = membranes == "saturating" or of_source
    inputs = {
        population.name: _quantise_input(population, limits)
        for population in network.populations
        if isinstance(population, InputPopulation)
    }
    analogue = {
        name
        for name, item in inputs.items()
        if (item.minimum, item.maximum, item.exact) != (0, 1, True)
    }
    if not analogue:
        if first_layer != "auto":
            raise OptionError(
                Problem(
                    "",
                    f"--first-layer {first_layer} is for analogue inputs",
                    "this network's input is spikes",
                    "leave it out, or give the values with --input-range",
                )
            )
        quantiser = _Quantiser(limits, weight_bits, steps, saturating, network.weight_unit)
        return quantiser.run(network, inputs, "spikes", "the input is spikes")

    on_host = frozenset(group.name for group in network.synapses if group.source in analogue)
    on_chip = _Quantiser(limits, weight_bits, steps, saturating, network.weight_unit)
    by_host = replace(on_chip, on_host=on_host)  # and what both do alike is done once
    if first_layer == "host":
        return by_host.run(network, inputs, "host", "asked for")
    if first_layer == "graded":
        return on_chip.run(network, inputs, "graded", "asked for")
    if network.weight_unit is not None:
        try:
            return on_chip.run(network, inputs, "graded", "its integers stay those of the source")
        except RangeError:
            reason = "inputs off a grid would scale the source's integers on the chip"
            return by_host.run(network, inputs, "host", reason)
    reason = f"the range proof holds with all {weight_bits} bits of its weights"
    try:
        graded = on_chip.run(network, inputs, "graded", reason)
    except RangeError:
        return by_host.run(network, inputs, "host", "on the chip no integers of its weights fit")
    fed = [group.target for group in network.synapses if group.source in analogue]
    for name in fed:
        if name in graded.lowered:
            factor = graded.lowered[name]
            reason = f"on the chip the range proof would shrink its weights {factor:.3g} times"
            return by_host.run(network, inputs, "host", reason)
        if graded.cramped.get(name, 1) >= TWO_BITS:
            factor = graded.cramped[name]
            reason = f"on the chip its biases would shrink its weights {factor:.3g} times"
            return by_host.run(network, inputs, "host", reason)
    return graded


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
class _Fit:
    """
    The integers of one population, and of the synapses into it.

    `lowered` is by how much the range proof shrank their scale, `cramped` the biases before it.
    """

    neurons: IntegerNeurons
    groups: tuple[IntegerSynapses, ...]
    lowered: float
    cramped: float


@dataclass(frozen=True)
class _Quantiser:
    """
    Quantises one network; `fits` are those found so far, by all that they depend on.

    Copies with another `on_host` share them.
    """

    limits: Limits
    weight_bits: int
    steps: int
    saturating: bool
    weight_unit: float | Mapping[str, float] | None = None
    on_host: frozenset[str] = frozenset()
    fits: dict[Hashable, _Fit] = field(default_factory=dict)

    def run(
        self,
        network: PopulationNetwork,
        inputs: Mapping[str, IntegerInput],
        first_layer: str,
        reason: str,
    ) -> Quantised:
        """Quantise one population after the other."""
        populations: list[IntegerPopulation] = []
        synapses: list[IntegerSynapses] = []
        lowered: dict[str, float] = {}
        cramped: dict[str, float] = {}
        problems: list[Problem] = []
        silent_steps = _silent_steps(network)
        known: dict[str, IntegerPopulation] = dict(inputs)
        undecided = {
            item.name: item.most_spikes
            for item in network.populations
            if isinstance(item, SpikingPopulation)
        }
        for population in network.populations:
            if isinstance(population, InputPopulation):
                populations.append(inputs[population.name])
                continue
            if isinstance(population, SumPopulation):
                relay = IntegerRelay(population.name, population.shape, population.largest)
                known[relay.name] = relay
                populations.append(relay)
                synapses += [_carried(group) for group in network.into(relay.name)]
                continue
            try:
                into = network.into(population.name)
                sources = self._sources(population, into, known, undecided)
                silent = silent_steps.get(population.name, 0)
                fit = self._fit_once(population, into, sources, silent)
            except RangeError as error:
                problems += error.problems
                continue
            known[population.name] = fit.neurons
            populations.append(fit.neurons)
            synapses += fit.groups
            if fit.lowered > 1:
                lowered[population.name] = fit.lowered
            if fit.cramped > 1:
                cramped[population.name] = fit.cramped
        raise_all(RangeError, problems)
        integers = IntegerNetwork(tuple(populations), tuple(synapses), network.outputs)
        return Quantised(integers, first_layer, reason, lowered, cramped)

    def _sources(
        self,
        population: SpikingPopulation | ReadoutPopulation,
        groups: tuple[SynapseGroup, ...],
        known: Mapping[str, IntegerPopulation],
        undecided: Mapping[str, int | None],
    ) -> dict[str, IntegerPopulation]:
        """Return what feeds `population`: as it is, or a stand-in for what is not quantised yet."""
        sources: dict[str, IntegerPopulation] = {}
        for name in dict.fromkeys(group.source for group in groups):
            if name in known:
                sources[name] = known[name]
                continue
            most = undecided.get(name, 1)  # a layer that was refused is no further problem
            if most is None:
                raise RangeError(
                    Problem(
                        population.name,
                        "needs to know how often each neuron that feeds it can fire in a step",
                        f"'{name}' feeds it with a delay of a step, and may fire any number of times",
                        "limit it with --max-spikes",
                    )
                )
            sources[name] = _stand_in(name, most)
        return sources

    def _fit_once(
        self,
        population: SpikingPopulation | ReadoutPopulation,
        groups: tuple[SynapseGroup, ...],
        inputs: Mapping[str, IntegerPopulation],
        silent_steps: int,
    ) -> _Fit:
        """Return what `_fit` does; once, for one population and what feeds it."""
        on_host = tuple(group.name for group in groups if group.name in self.on_host)
        # Of neurons only the number of spikes matters to others; inputs and relays are plain numbers.
        sent = tuple(
            (name, item.most if isinstance(item, IntegerNeurons) else item)
            for name, item in inputs.items()
        )
        key = (population.name, on_host, sent)
        if key not in self.fits:
            self.fits[key] = self._fit(population, groups, inputs, silent_steps)
        return self.fits[key]

    def _fit(
        self,
        population: SpikingPopulation | ReadoutPopulation,
        groups: tuple[SynapseGroup, ...],
        inputs: Mapping[str, IntegerPopulation],
        silent_steps: int,
    ) -> _Fit:
        """Return the integers at the largest scale whose range proof holds."""
        allowed = self._wished_scale(population, groups, inputs)
        wanted = scale = min(allowed, self._scale_of_biases(population))
        unit = self._given_unit(population)
        if unit is not None:
            allowed = wanted = scale = 1 / unit
        for _ in range(SCALE_ATTEMPTS):
            neurons = self._neurons(population, scale)
            integers = tuple(self._synapses(group, neurons.scale, inputs) for group in groups)
            probe = _stand_alone(neurons, integers, inputs)
            if isinstance(population, SpikingPopulation) and population.most_spikes != 1:
                possible = most_spikes(probe, neurons, self.limits, steps=self.steps)
                neurons = replace(neurons, most=min(possible, population.most_spikes or possible))
                probe = _stand_alone(neurons, integers, inputs)
            bound = bound_of(
                probe, neurons, self.limits, steps=self.steps, silent_steps=silent_steps
            )
            if self.saturating and not neurons.readout and bound.membrane > bound.membrane_limit:
                neurons = replace(neurons, saturates=True)
                bound = replace(bound, membrane=bound.membrane_limit)
            if unit is not None:
                trained = isinstance(self.weight_unit, Mapping)
                _refuse_rounding(
                    population, groups, neurons, integers, inputs, self.limits, trained=trained
                )
                raise_all(RangeError, excess(bound))
            if not list(excess(bound)):
                _refuse_vanished(population, groups, integers, wanted / scale, self.steps)
                return _Fit(neurons, integers, wanted / scale, allowed / wanted)
            overshoot = max(
                bound.current / bound.current_limit, bound.membrane / bound.membrane_limit
            )
            scale = neurons.scale / max(overshoot, 1.001)
            del integers, probe  # as large as the next ones
        raise RangeError(*excess(bound))

    def _given_unit(self, population: Population) -> float | None:
        """Return the weight unit that the source gives to `population`, if it computes in integers."""
        if isinstance(self.weight_unit, Mapping):
            return self.weight_unit.get(population.name)
        return self.weight_unit

    def _wished_scale(
        self,
        population: Population,
        groups: tuple[SynapseGroup, ...],
        inputs: Mapping[str, IntegerPopulation],
    ) -> float:
        """Return the largest scale at which every weight and threshold fits, sums not looked at."""
        assert isinstance(population, SpikingPopulation | ReadoutPopulation)
        highest = self.limits.largest_weight(self.weight_bits)
        candidates = [float(self.limits.threshold_maximum)]
        if isinstance(population, SpikingPopulation) and population.threshold.any():
            candidates = [self.limits.threshold_maximum / float(population.threshold.max())]
        for group in groups:
            largest = _magnitude(group.operator.weight)
            if largest > 0 and group.name not in self.on_host:
                candidates.append(highest * _payload_scale(group, inputs) / largest)
        return min(candidates)

    def _scale_of_biases(self, population: SpikingPopulation | ReadoutPopulation) -> float:
        """Return the largest scale at which every bias fits."""
        largest = float(np.abs(population.bias).max(initial=0))
        return self.limits.bias_maximum / largest if largest > 0 else math.inf

    def _neurons(
        self, population: SpikingPopulation | ReadoutPopulation, scale: float
    ) -> IntegerNeurons:
        name = population.name
        threshold: NDArray[np.int64] = np.array(READOUT_THRESHOLD)
        dv: NDArray[np.int64] = np.array(0)
        start: NDArray[np.int64] = np.array(0)
        origin: NDArray[np.float64] = np.zeros(())
        shows: Shows = "input"
        reset: Reset = "zero"
        firing: dict[str, Any] = {}
        if isinstance(population, SpikingPopulation):
            threshold, scale, firing = self._firing(population, scale)
            dv = self._leak(name, population.decay)
            start = _whole(population.start * scale) << STATE_FRACTION_BITS
            shows, reset, origin = "spikes", population.reset, population.origin
        elif population.decay is not None:
            dv = self._leak(name, population.decay)
            shows = "membrane"
        mantissa, exponent = self._bias(population.bias * scale)
        return IntegerNeurons(
            name,
            population.shape,
            du=self._current_leak(name, population.current_decay),
            dv=dv,
            threshold=threshold,
            bias_mantissa=mantissa,
            bias_exponent=exponent,
            scale=scale,
            shows=shows,
            reset=reset,
            start=start,
            pulse=_whole(population.pulse * scale),
            origin=origin,
            **firing,
        )

    def _firing(
        self, population: SpikingPopulation, scale: float
    ) -> tuple[NDArray[np.int64], float, dict[str, Any]]:
        """
        Return the integer thresholds, the scale at which the (largest) one is exact, and the rest.

        Neurons that fire at their threshold get one that is lower by 1, if they are Lava's otherwise.
        """
        threshold, scale = self._threshold(population, scale)
        at_threshold = population.comparison == ">="
        single = population.most_spikes == 1
        firing: dict[str, Any] = {"refractory": population.refractory, "most": 1 if single else 2}
        if population.reset == "subtract" and population.subtracts is not None:
            firing["subtracts"] = _in_state_units(population.subtracts, scale)
        if population.floor is not None:
            firing["floor"] = np.maximum(_in_state_units(population.floor, scale), NO_FLOOR)
        lowered = (
            at_threshold
            and single
            and population.reset == "zero"
            and population.floor is None
            and not population.refractory
            and self._given_unit(population) is None  # integers of the source are exact
            and bool((threshold > 0).all())
        )
        firing["inclusive"] = at_threshold and not lowered
        return threshold - lowered, scale, firing

    def _threshold(
        self, population: SpikingPopulation, scale: float
    ) -> tuple[NDArray[np.int64], float]:
        """Return the integer thresholds, and the scale at which the (largest) one is exact."""
        largest = float(population.threshold.max(initial=0))
        if self._given_unit(population) is not None:
            return np.rint(population.threshold * scale).astype(np.int64), scale
        if largest == 0:
            return np.array(0), scale
        threshold = math.floor(scale * largest)
        smallest = float(population.threshold[population.threshold > 0].min())
        if scale * smallest < 1:
            raise RangeError(
                Problem(
                    population.name,
                    "needs a threshold of at least 1 weight unit",
                    f"its weights leave room for {scale * smallest:.3g}",
                    "its weights are too large for its threshold",
                )
            )
        scale = threshold / largest
        return np.rint(population.threshold * scale).astype(np.int64), scale

    def _leak(self, name: str, decay: NDArray[np.float64]) -> NDArray[np.int64]:
        dv = np.rint((1 - decay) * (1 << self.limits.decay_bits)).astype(np.int64)
        lost = (dv == 0) & (decay < 1)
        if lost.any():
            raise RangeError(
                Problem(
                    name,
                    f"needs a leak of at least 1/{2 << self.limits.decay_bits} a step",
                    f"it is {1 - float(decay[lost].max()):.3g}",
                    "use neurons without a leak, or a shorter time constant",
                )
            )
        return dv

    def _current_leak(self, name: str, decay: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return du; Lava's current keeps (4095 - du) / 4096 of itself."""
        du = np.rint((1 - decay) * (1 << self.limits.decay_bits)).astype(np.int64) - 1
        lost = (du < 0) | ((du == NO_CURRENT_MEMORY) & (decay > 0))
        if lost.any():
            raise RangeError(
                Problem(
                    name,
                    f"needs a current that keeps 0, or 1/{2 << self.limits.decay_bits} to all but "
                    "that of itself each step",
                    f"it keeps {float(decay[lost].max()):.6g}",
                    "use another synaptic time constant",
                )
            )
        return du

    def _bias(self, bias: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
        """Return mantissas and the smallest common exponent for biases in weight units."""
        in_state_units = bias * (1 << STATE_FRACTION_BITS)
        for exponent in range(self.limits.bias_exponent_maximum + 1):
            mantissa = np.rint(in_state_units / (1 << exponent)).astype(np.int64)
            if np.abs(mantissa).max(initial=0) <= self.limits.bias_mantissa_maximum:
                break
        return mantissa, exponent

    def _synapses(
        self,
        group: SynapseGroup,
        scale: float,
        inputs: Mapping[str, IntegerPopulation],
    ) -> IntegerSynapses:
        operator = group.operator
        real = operator.weight
        factor = scale / _payload_scale(group, inputs)
        integers = _without_weights(group)
        if group.name in self.on_host:
            room = ((1 << (HOST_WEIGHT_BITS - 1)) - 1) / (_magnitude(real) * factor or 1.0)
            # Weights that were rounded so once, the largest to all bits, must not lose one for an ulp.
            fraction_bits = math.floor(math.log2(room) + GRID_TOLERANCE)
            fraction_bits = min(max(0, fraction_bits), HOST_FRACTION_BITS)
            weight = _integers(real, lambda part: np.rint(part * factor * 2.0**fraction_bits))
            return replace(integers, weight=weight, exponent=-fraction_bits, on_host=True)
        if self.weight_unit is not None and not isinstance(self.weight_unit, Mapping):
            return replace(integers, weight=_integers(real, lambda part: np.rint(part * factor)))
        unit = self.limits.weight_unit(self.weight_bits)
        highest = self.limits.largest_weight(self.weight_bits)
        lowest = -highest - unit
        weight = _integers(
            real, lambda part: np.clip(np.rint(part * factor / unit) * unit, lowest, highest)
        )
        return replace(integers, weight=weight)


def _integers(
    values: NDArray[np.float64], function: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Integer:
    """Return what `function` makes of each of `values`, which are whole numbers; read-only."""
    result: Integer = np.empty(values.shape, np.int64)
    for rows in row_blocks(values):
        result[rows] = function(values[rows])
    result.flags.writeable = False
    return result


def _magnitude(values: NDArray[np.float64]) -> float:
    """Return the largest magnitude in `values`, 0 if there are none."""
    return max(float(values.max(initial=0)), -float(values.min(initial=0)))


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


def _refuse_rounding(
    population: SpikingPopulation | ReadoutPopulation,
    groups: tuple[SynapseGroup, ...],
    neurons: IntegerNeurons,
    integers: tuple[IntegerSynapses, ...],
    inputs: Mapping[str, IntegerPopulation],
    limits: Limits,
    *,
    trained: bool,
) -> None:
    """
    Raise `RangeError` if a number of a source that computes in integers is none, after all.

    Biases of `trained` integers may be rounded: behind a padded image with an offset there are some that
    no layer has by itself.
    """
    unit = 1 << limits.decay_bits
    compared = [
        ("current leaks", (1 - population.current_decay) * unit - 1, neurons.du),
        *(
            (
                f"weights of '{real.name}'",
                real.operator.weight * (neurons.scale / _payload_scale(real, inputs)),
                integer.weight,
            )
            for real, integer in zip(groups, integers, strict=True)
            if not integer.on_host
        ),
    ]
    if not trained:
        in_state_units = population.bias * neurons.scale * (1 << STATE_FRACTION_BITS)
        compared.append(("biases", in_state_units, neurons.bias))
    if population.decay is not None:
        compared.append(("leaks", (1 - population.decay) * unit, neurons.dv))
    if isinstance(population, SpikingPopulation):
        lowered = population.comparison == ">=" and not neurons.inclusive
        compared.append(
            ("thresholds", population.threshold * neurons.scale - lowered, neurons.threshold)
        )
    problems = [
        Problem(
            population.name,
            f"needs {what} that are integers, as its source computes in them",
            f"they are off by up to {np.abs(real - kept).max():.3g}",
            "export with as many weight bits as it was trained for" if trained else "",
        )
        for what, real, kept in compared
        if np.abs(real - kept).max(initial=0) > GRID_TOLERANCE
    ]
    raise_all(RangeError, problems)


def _in_state_units(values: NDArray[np.float64], scale: float) -> NDArray[np.int64]:
    return _whole(values * scale * (1 << STATE_FRACTION_BITS))


def _whole(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the nearest integers; what is far beyond every range stays beyond, without overflow."""
    return np.rint(np.clip(values, -FAR_BEYOND, FAR_BEYOND)).astype(np.int64)


def _stand_in(name: str, most: int) -> IntegerNeurons:
    """Return neurons of which only the number of spikes in a step matters."""
    zero = np.array(0)
    return IntegerNeurons(name, (1,), zero, zero, np.array(1), zero, 0, 1.0, most=most)


def _payload_scale(group: SynapseGroup, inputs: Mapping[str, IntegerPopulation]) -> float:
    source = inputs.get(group.source)
    return source.scale if isinstance(source, IntegerInput) else 1.0


def _without_weights(group: SynapseGroup) -> IntegerSynapses:
    """Return all of `group` but its weights."""
    operator = group.operator
    slides = isinstance(operator, Conv2d)
    return IntegerSynapses(
        group.name,
        group.source,
        group.target,
        np.zeros(1, np.int64),
        Geometry(*slide_of(operator)) if isinstance(operator, Conv2d) else None,
        delay=group.delay,
        source_view=group.source_view if slides else (),
        target_view=group.target_view if slides else (),
    )


def _carried(group: SynapseGroup) -> IntegerSynapses:
    """Return the synapses into a sum: the weights are 1, and stay 1."""
    return replace(_without_weights(group), weight=np.rint(group.operator.weight).astype(np.int64))


def _silent_steps(network: PopulationNetwork) -> dict[str, int]:
    """Return, for populations whose spikes outlive their step, the steps they must be silent for."""
    longest = max((int(group.delay.max(initial=0)) for group in network.synapses), default=0)
    sums = {item.name for item in network.populations if isinstance(item, SumPopulation)}
    heard = outliving([item.name for item in network.populations], network.synapses, sums)
    return dict.fromkeys(heard, longest)


def _stand_alone(
    neurons: IntegerNeurons,
    groups: tuple[IntegerSynapses, ...],
    sources: Mapping[str, IntegerPopulation],
) -> IntegerNetwork:
    """Return just enough of a network to prove the ranges of one population."""
    others = [item for name, item in sources.items() if name != neurons.name]
    return IntegerNetwork((*others, neurons), groups, {neurons.name: neurons.name})
