"""What a run counted that its user must know: membranes that saturated, spikes that were held back."""

from __future__ import annotations

from collections.abc import Mapping

from neurocompile.integer import IntegerNetwork

COUNTED_BY = "verify, and run on fixedpoint, count it"


def remarks(network: IntegerNetwork, counters: Mapping[str, Mapping[str, int]]) -> list[str]:
    """
    Return a sentence for each layer in which integers did what floats do not.

    `counters` are those of a trace; an executor that cannot see its states gives none.
    """
    found = []
    for neurons in network.neurons:
        counts = counters.get(neurons.name, {})
        saturated = counts.get("v_saturations_low", 0)
        if neurons.reset == "subtract" or neurons.most > 1:
            # Above, a neuron that fires once and is cleared loses nothing.
            saturated += counts.get("v_saturations_high", 0)
        if neurons.saturates and saturated:
            found.append(f"'{neurons.name}' saturated its membranes {saturated} times")
        capped = counts.get("spikes_capped", 0)
        if capped:
            found.append(
                f"'{neurons.name}' would have fired more than {neurons.most} times a step {capped} times"
            )
    return found
