"""
Turn weights, thresholds and biases into integers; no data are needed (`calibrate` may have used some).

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

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from neurocompile.errors import OptionError, Problem, RangeError, raise_all
from neurocompile.integer import (
    LOIHI2,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerRelay,
    IntegerSynapses,
    outliving,
)
from neurocompile.limits import Limits
from neurocompile.populations import (
    InputPopulation,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SumPopulation,
    SynapseGroup,
)
from neurocompile.quantisation.fit import Fit, Fitter, Float, without_weights
from neurocompile.quantisation.recipe import Recipe, Wish
from neurocompile.quantisation.scales import wished_scale

FirstLayer = Literal["auto", "graded", "host"]
Membranes = Literal["proven", "saturating"]

TWO_BITS = 4  # times by which biases may shrink a first layer's weights before the host computes it
DEFAULT = Recipe()


@dataclass(frozen=True)
class Quantised:
    """
    The integers, and the decisions behind them.

    `first_layer` is "graded", "host" or, for spikes as input, "spikes"; `reason` says why.
    `lowered` names the layers whose scale the range proof pushed below what the weights' bits would
    allow, with the factor (of the channel that it pushed most, where there are several), and
    `channels_lowered` how many of its channels; `cramped` those whose biases did. `weight_bits` are those
    that each layer was fitted to, `rounded_at` the scales, by channel or one for all, at which its weights on
    the chip were rounded. `saturating` are the layers whose membranes may leave their range.
    """

    network: IntegerNetwork
    first_layer: str
    reason: str
    lowered: Mapping[str, float]
    cramped: Mapping[str, float] = field(default_factory=dict)
    weight_bits: Mapping[str, int] = field(default_factory=dict)
    channels_lowered: Mapping[str, int] = field(default_factory=dict)
    rounded_at: Mapping[str, Float] = field(default_factory=dict)

    @property
    def saturating(self) -> tuple[str, ...]:
        return tuple(neurons.name for neurons in self.network.neurons if neurons.saturates)


def quantise(
    network: PopulationNetwork,
    limits: Limits,
    *,
    weight_bits: int | None = None,
    steps: int,
    first_layer: FirstLayer = "auto",
    membranes: Membranes = "proven",
    recipe: Recipe = DEFAULT,
    choices: Mapping[str, Wish] | None = None,
) -> Quantised:
    """
    Return `network` in integers that fit `limits`, over samples of `steps` steps.

    `recipe` says how, for all layers but those that `choices` decides, as `calibrate` found it on samples;
    `weight_bits` goes before its own.

    With `membranes` "saturating" only what wraps limits the scale: the membranes of spiking layers may
    saturate where a worst case would. They do the same on every target, but not what floats do.

    Raises `RangeError` where no scale is small enough, `OptionError` for impossible bits, or for membranes
    that shall saturate where they wrap.
    """
    if weight_bits is not None:
        recipe = replace(recipe, weight_bits=weight_bits)
    recipe.check(limits, layers_of(network))
    of_source = network.weight_unit is not None and not isinstance(network.weight_unit, Mapping)
    _check_arithmetic(limits, membranes, of_source=of_source)
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
        fitter = Fitter(limits, steps, saturating, network.weight_unit)
        quantiser = _Quantiser(fitter, recipe, choices or {})
        return quantiser.run(network, inputs, "spikes", "the input is spikes")

    on_host = frozenset(group.name for group in network.synapses if group.source in analogue)
    fitter = Fitter(limits, steps, saturating, network.weight_unit)
    on_chip = _Quantiser(fitter, recipe, choices or {})
    # What both do alike is done once.
    by_host = replace(on_chip, fitter=replace(fitter, on_host=on_host))
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
    bits = max(recipe.bits_of(group.target) for group in network.synapses if group.name in on_host)
    reason = f"the range proof holds with all {bits} bits of its weights"
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


def _check_arithmetic(limits: Limits, membranes: Membranes, *, of_source: bool) -> None:
    """Raise `OptionError` for what a chip does otherwise than is asked for, or than the source did."""
    problems = []
    if membranes == "saturating" and limits.membrane_overflow == "wrap":
        problems.append(
            Problem(
                "",
                "--membranes saturating is for chips whose membranes saturate",
                "this chip's wrap",
                "leave it out",
            )
        )
    if of_source and limits.arithmetic != LOIHI2:
        problems.append(
            Problem(
                "",
                "a source that computes in Loihi 2's integers needs a chip that computes alike",
                "this chip's states have another width, rounding or overflow",
                "leave --spec out",
            )
        )
    raise_all(OptionError, problems)


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
        # Rounded as `to_payload` rounds values.
        minimum=int(np.rint(values.minimum * scale)),
        maximum=int(np.rint(values.maximum * scale)),
        exact=exact,
    )


@dataclass(frozen=True)
class _Quantiser:
    """
    Quantises one network; `fits` are those found so far, by all that they depend on.

    Copies with another `fitter` share them.
    """

    fitter: Fitter
    recipe: Recipe
    choices: Mapping[str, Wish]
    fits: dict[Hashable, Fit] = field(default_factory=dict)

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
        weight_bits: dict[str, int] = {}
        channels_lowered: dict[str, int] = {}
        rounded_at: dict[str, Float] = {}
        problems: list[Problem] = []
        silent_steps = silent_steps_of(network)
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
            weight_bits[population.name] = fit.weight_bits
            rounded_at[population.name] = fit.rounded_at
            if fit.lowered > 1:
                lowered[population.name] = fit.lowered
                channels_lowered[population.name] = fit.channels_lowered
            if fit.cramped > 1:
                cramped[population.name] = fit.cramped
        raise_all(RangeError, problems)
        integers = IntegerNetwork(tuple(populations), tuple(synapses), network.outputs)
        return Quantised(
            integers,
            first_layer,
            reason,
            lowered,
            cramped,
            weight_bits,
            channels_lowered,
            rounded_at,
        )

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
    ) -> Fit:
        """Return the integers of one population; found once for what feeds it."""
        on_host = tuple(group.name for group in groups if group.name in self.fitter.on_host)
        # Of neurons only the number of spikes matters to others; inputs and relays are plain numbers.
        sent = tuple(
            (name, item.most if isinstance(item, IntegerNeurons) else item)
            for name, item in inputs.items()
        )
        key = (population.name, on_host, sent)
        if key not in self.fits:
            wish = self.choices.get(population.name) or self._wish(population, groups, inputs)
            self.fits[key] = self.fitter.fit(
                population, groups, inputs, wish, silent_steps=silent_steps
            )
        return self.fits[key]

    def _wish(
        self,
        population: SpikingPopulation | ReadoutPopulation,
        groups: tuple[SynapseGroup, ...],
        inputs: Mapping[str, IntegerPopulation],
    ) -> Wish:
        """Return what the recipe wishes for a population."""
        bits = self.recipe.bits_of(population.name)
        scale = wished_scale(
            population,
            groups,
            inputs,
            self.fitter.limits,
            weight_bits=bits,
            method=self.recipe.method,
            scales=self.recipe.scales,
            percentile=self.recipe.percentile,
            on_host=self.fitter.on_host,
        )
        return Wish(bits, scale)


def _stand_in(name: str, most: int) -> IntegerNeurons:
    """Return neurons of which only the number of spikes in a step matters."""
    zero = np.array(0)
    return IntegerNeurons(name, (1,), zero, zero, np.array(1), zero, 0, np.ones(()), most=most)


def _carried(group: SynapseGroup) -> IntegerSynapses:
    """Return the synapses into a sum: the weights are 1, and stay 1."""
    return replace(without_weights(group), weight=np.rint(group.operator.weight).astype(np.int64))


def layers_of(network: PopulationNetwork) -> list[str]:
    """Return the populations that have weights of their own."""
    return [
        item.name
        for item in network.populations
        if isinstance(item, SpikingPopulation | ReadoutPopulation)
    ]


def silent_steps_of(network: PopulationNetwork) -> dict[str, int]:
    """Return, for populations whose spikes outlive their step, the steps they must be silent for."""
    longest = max((int(group.delay.max(initial=0)) for group in network.synapses), default=0)
    sums = {item.name for item in network.populations if isinstance(item, SumPopulation)}
    heard = outliving([item.name for item in network.populations], network.synapses, sums)
    return dict.fromkeys(heard, longest)
