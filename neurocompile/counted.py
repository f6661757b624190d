"""What a run counted that its user must know: states that saturated or wrapped, spikes that were held back."""

from __future__ import annotations

import math
from collections.abc import Mapping

from neurocompile.integer import IntegerNetwork, IntegerNeurons

COUNTED_BY = "verify, and run on fixedpoint, count it"
EXCLUDED = "which its range proof excludes: please report this as a bug of neurocompile"


def saturations(neurons: IntegerNeurons, counts: Mapping[str, int]) -> int:
    """Return how often membranes reached an end of their range where that matters."""
    saturated = counts.get("v_saturations_low", 0)
    if not neurons.hides_saturation:
        # Above, a neuron that fires once and is cleared loses nothing.
        saturated += counts.get("v_saturations_high", 0)
    return saturated


def remarks(
    network: IntegerNetwork,
    counters: Mapping[str, Mapping[str, int]],
    *,
    places: int | None = None,
) -> list[str]:
    """
    Return a sentence for each layer, and each thing, in which integers did what floats do not.

    `counters` are those of a trace; an executor that cannot see its states gives none, which is said of
    the layers that are not proven to stay inside. `places` is how many
    steps all samples had together, for shares of a layer's neurons and steps.
    """
    found = []
    for neurons in network.neurons:
        if neurons.saturates and neurons.name not in counters:
            found.append(
                f"'{neurons.name}' may saturate its membranes, which was not counted: {COUNTED_BY}"
            )
        counts = counters.get(neurons.name, {})
        arithmetic = neurons.arithmetic
        saturated = saturations(neurons, counts)
        on_the_way = counts.get("v_saturations_high", 0)
        current = "wrapped" if arithmetic.current_overflow == "wrap" else "saturated"
        membrane = "wrapped" if arithmetic.membrane_overflow == "wrap" else "saturated"
        excluded = "" if neurons.saturates else f", {EXCLUDED}"
        slots = None if places is None else places * math.prod(neurons.shape)
        told = (
            (f"wrapped its input sums {{}}, {EXCLUDED}", counts.get("current_wraps", 0)),
            (f"{current} its currents {{}}, {EXCLUDED}", counts.get("u_wraps", 0)),
            (f"{membrane} its membranes {{}}{excluded}", saturated),
            (
                "saturated membranes {} on their way to a spike, which changes nothing",
                0 if saturated or arithmetic.membrane_overflow == "wrap" else on_the_way,
            ),
            (
                f"would have fired more than {neurons.most} times a step {{}}",
                counts.get("spikes_capped", 0),
            ),
        )
        found += [
            f"'{neurons.name}' {text.format(_often(count, slots))}" for text, count in told if count
        ]
    return found


def _often(count: int, slots: int | None) -> str:
    """Return how often something happened, and in what share of all places it could."""
    times = f"{count} time{'' if count == 1 else 's'}"
    if not slots:
        return times
    share = 100 * count / slots
    return f"{times} ({share:.{3 if share >= 99 else 2}g} % of its steps)"
