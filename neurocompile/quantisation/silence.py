"""
Which neurons can never fire, and which always do, whatever arrives: in real numbers, and in integers.

The highest membrane that a neuron can reach (`prove_ranges.membrane_range`) beside its threshold says whether
it can fire at all; the least that arrives in a step, whether it must. The same is followed in real numbers,
so that it is known what rounding changed: a layer that can fire in real numbers and in integers cannot is
refused, before anybody waits for its spikes. That of a layer which never fires anyway is told.

On samples, layers are compared by what they did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import Problem
from neurocompile.integer import Geometry, IntegerNetwork
from neurocompile.ir import Conv2d
from neurocompile.limits import Limits
from neurocompile.linear import slide_of
from neurocompile.passes.prove_ranges import can_fire, signed_sums
from neurocompile.populations import (
    InputPopulation,
    PopulationNetwork,
    SpikingPopulation,
    SumPopulation,
)

Float = NDArray[np.float64]

ON_THE_EDGE = 1e-9  # of a threshold: a real membrane so close to it may be on either side
OF_POPULATIONS = (
    "decay",
    "threshold",
    "bias",
    "current_decay",
    "start",
    "pulse",
    "origin",
    "subtracts",
    "floor",
)
CLEARLY = 1.05  # thresholds: what reaches no further in real numbers hardly fires there either
STEPS_FOLLOWED = 1024  # in real numbers; what has not fired by then hardly will
ENOUGH_SPIKES = 20  # of a layer on samples, for its silence in integers to be no accident

HELP = "give it more --bits, one scale per channel with --scales channel, or another --method"


@dataclass(frozen=True)
class Firing:
    """
    What the neurons of one layer can do: of `neurons`, `never` can never fire, and `always` fire at each step.

    `never_real` and `always_real` are those of them that do so in real numbers as well. `nearest` is the
    highest membrane that any can reach before it fires, in integers, beside its threshold, `nearest_real` that of
    real numbers.
    """

    layer: str
    neurons: int
    never: int
    never_real: int
    always: int
    always_real: int
    nearest: float
    nearest_real: float

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "layer"}

    @property
    def problem(self) -> Problem | None:
        """What is wrong if rounding silenced the whole layer."""
        if self.never == self.neurons and self.nearest_real > CLEARLY:
            return Problem(
                self.layer,
                "needs weights that can make it fire",
                f"whatever arrives, no membrane gets further than {self.nearest:.3g} of its threshold in "
                f"integers, where real numbers reach {self.nearest_real:.3g} of it: rounding would silence it",
                HELP,
            )
        return None

    @property
    def notes(self) -> Iterable[str]:
        """What a user should know of it."""
        told = (
            ("can never fire", self.never, self.never_real),
            ("fire at every step", self.always, self.always_real),
        )
        for what, count, real in told:
            if count:
                changed = count - real
                rounded = f"; {changed} of them only by rounding" if changed else ""
                which = "all" if count == self.neurons else f"{count} of"
                yield (
                    f"{which} {self.neurons} neurons of '{self.layer}' {what}, whatever arrives"
                    f"{rounded}"
                )


def firing_of(
    real: PopulationNetwork, network: IntegerNetwork, limits: Limits, *, steps: int
) -> tuple[Firing, ...]:
    """Return what the neurons of each spiking layer can do within `steps` steps."""
    most = {item.name: item.most for item in network.spiking}
    found = []
    for neurons in network.spiking:
        population = real[neurons.name]
        assert isinstance(population, SpikingPopulation)
        fires, nearest, always = can_fire(network, neurons, limits, steps=steps)
        real_fires, nearest_real, real_always = _in_real_numbers(real, population, most, steps)
        found.append(
            Firing(
                neurons.name,
                fires.size,
                never=int((~fires).sum()),
                never_real=int((~fires & ~real_fires).sum()),
                always=int(always.sum()),
                always_real=int((always & real_always).sum()),
                nearest=nearest,
                nearest_real=nearest_real,
            )
        )
    return tuple(found)


def _in_real_numbers(
    network: PopulationNetwork,
    population: SpikingPopulation,
    most: Mapping[str, int],
    steps: int,
) -> tuple[NDArray[np.bool_], float, NDArray[np.bool_]]:
    """
    Return which neurons can fire, (*shape), the highest membrane in thresholds, and which always fire.

    As in integers, which `prove_ranges` follows; `most` is how often each population may fire in a step.
    """
    low, high = _sums(network, population, most)
    spikes = most[population.name]
    threshold = np.broadcast_to(population.threshold, population.shape)
    edge = ON_THE_EDGE * np.abs(threshold)
    # What lies on its threshold to within the rounding of float64 fires only where it may.
    needed = threshold if population.comparison == ">=" else threshold + edge
    beside = np.where(threshold > 0, threshold, 1)
    highest, least = _real_reach(population, low, high, spikes, 1)
    fires = highest >= needed
    nearest = float((highest / beside).max(initial=0))
    always = least > threshold + edge
    if population.refractory:
        always = np.zeros_like(always)
    # Most neurons are decided at the first step: only the others are followed.
    others = np.flatnonzero(~fires | always)
    if others.size:
        some = _some(population, others)
        highest, least = _real_reach(some, low.ravel()[others], high.ravel()[others], spikes, steps)
        fires.ravel()[others] |= highest >= needed.ravel()[others]
        always.ravel()[others] &= least > (threshold + edge).ravel()[others]
        nearest = max(nearest, float((highest / beside.ravel()[others]).max()))
    return fires, nearest, always


def _some(population: SpikingPopulation, places: NDArray[np.intp]) -> SpikingPopulation:
    """Return the neurons of `population` at some `places`, in a row."""

    def of_places(values: Float) -> Float:
        chosen: Float = np.broadcast_to(values, population.shape).ravel()[places]
        return chosen

    fields: dict[str, Any] = {
        name: of_places(getattr(population, name))
        for name in OF_POPULATIONS
        if getattr(population, name) is not None
    }
    return replace(population, shape=places.shape, **fields)


def _real_reach(
    population: SpikingPopulation, low: Float, high: Float, spikes: int, steps: int
) -> tuple[Float, Float]:
    """
    Return the highest membrane of each neuron, and the least that a step adds to it, (*shape).

    `low` and `high` are the least and the largest sum that can arrive at each step.
    """
    current_low = current_high = left = np.zeros(population.shape)
    highest = np.zeros(population.shape)
    least = np.full(population.shape, np.inf)
    uncapped = population.threshold
    if population.reset == "subtract":
        more = np.maximum(population.threshold - population.taken, 0)
        uncapped = population.threshold + (spikes - 1) * more
    for step in range(min(steps, STEPS_FOLLOWED)):
        pulse = population.pulse if step == 0 else 0.0
        current_low = population.current_decay * current_low + low + pulse
        current_high = population.current_decay * current_high + high + pulse
        start = population.start if step == 0 else 0.0
        membrane = population.decay * left + current_high + population.bias + start
        if population.floor is not None:
            membrane = np.maximum(membrane, population.floor)
        highest = np.maximum(highest, membrane)
        least = np.minimum(least, current_low + population.bias + np.minimum(start, 0))
        before, left = left, np.minimum(membrane, uncapped)
        if population.reset == "subtract":
            left = np.maximum(left, membrane - spikes * population.taken)
        left = np.maximum(left, 0)
        if step > 1 and not population.current_decay.any() and np.array_equal(before, left):
            break
    return highest, least


def _sums(
    network: PopulationNetwork, population: SpikingPopulation, most: Mapping[str, int]
) -> tuple[Float, Float]:
    """Return the least and the largest sum that can arrive at each neuron in a step."""
    low, high = np.zeros((2, *population.shape))
    for group in network.into(population.name):
        source = network[group.source]
        match source:
            case InputPopulation():
                least, largest = source.range.minimum, source.range.maximum
            case SumPopulation():
                least, largest = 0.0, float(source.largest)
            case _:
                least, largest = 0.0, float(most.get(source.name, 0))
        operator = group.operator
        geometry = Geometry(*slide_of(operator)) if isinstance(operator, Conv2d) else None
        view = group.target_view
        negative, positive = (
            (np.broadcast_to(sums, view) if geometry else sums).reshape(population.shape)
            for sums in signed_sums(
                operator.weight, geometry, group.source_view, view, everywhere=True
            )
        )
        low = low + positive * min(least, 0) + negative * max(largest, 0)
        high = high + positive * max(largest, 0) + negative * min(least, 0)
    return low, high


@dataclass(frozen=True)
class Fired:
    """
    What one layer did on samples: its spikes in real numbers and in integers, of as many `slots`.

    `ended` is how often membranes reached an end of their range, where that matters.
    """

    layer: str
    slots: int
    real: int
    integer: int
    ended: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "spike_rate": self.integer / max(1, self.slots),
            "real_spike_rate": self.real / max(1, self.slots),
            "saturations": self.ended,
        }

    @property
    def problem(self) -> Problem | None:
        """What is wrong if rounding silenced the layer."""
        if self.integer or self.real < ENOUGH_SPIKES:
            return None
        return Problem(
            self.layer,
            "needs to fire in integers as it does in real numbers",
            f"on the samples it fires {self.real} times in real numbers, and never in integers",
            HELP,
        )

    @property
    def notes(self) -> Iterable[str]:
        """What a user should know of it."""
        if not self.integer:
            real = f"in real numbers {self.real} times" if self.real else "neither do real numbers"
            yield f"'{self.layer}' never fires on the samples; {real}"
        if self.ended:
            yield f"membranes of '{self.layer}' reach the end of their range {self.ended} times on the samples"
