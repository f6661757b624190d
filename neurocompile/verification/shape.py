"""What a report draws of a program: its populations, its synapses, and what it takes on the target."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from neurocompile.integer import Bound, IntegerNeurons, IntegerPopulation
from neurocompile.program import Program
from neurocompile.resources import kind_of
from neurocompile.target import find


def resources_of(program: Program) -> dict[str, Any]:
    """
    Return what `program` takes on its target, as plain values: "layers" by name, "totals", "limits", "notes".

    Each figure has a "value" and a "status": exact, published or estimated.
    """
    found = find(program.target).resources(program)
    return {
        "layers": {layer.name: {"kind": layer.kind, **layer.to_json()} for layer in found.layers},
        "totals": {name: figure.to_json() for name, figure in found.totals.items()},
        "limits": {name: limit.to_json() for name, limit in found.limits.items()},
        "notes": list(found.notes),
    }


def network_of(program: Program) -> dict[str, Any]:
    """
    Return the network of `program` as plain values: "populations" and "synapses" in order, "outputs".

    `head_room` is how many times larger the currents and membranes of a population could be before they
    left their range: the smaller of both, by the range proof.
    """
    network = program.network
    bounds = {bound.layer: bound for bound in program.bounds}
    return {
        "populations": [
            _population(item, bounds.get(item.name), program.schedule.depth.get(item.name, 0))
            for item in network.populations
        ],
        "synapses": [
            {
                "name": group.name,
                "source": group.source,
                "target": group.target,
                "kind": "dense" if group.geometry is None else "convolution",
                "shape": list(group.weight.shape),
                "weights": int(np.count_nonzero(group.weight)),
                "synapses": network.synapse_count(group),
                "delay": int(group.delay.max(initial=0)),
                "on_host": group.on_host,
            }
            for group in network.synapses
        ],
        "outputs": dict(network.outputs),
    }


def _population(item: IntegerPopulation, bound: Bound | None, depth: int) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": item.name,
        "kind": kind_of(item),
        "shape": list(item.shape),
        "neurons": math.prod(item.shape),
        "depth": depth,
    }
    if isinstance(item, IntegerNeurons) and bound is not None:
        facts["threshold"] = [int(item.threshold.min()), int(item.threshold.max())]
        facts["saturates"] = item.saturates
        facts["bound"] = {
            "current": bound.current,
            "current_limit": bound.current_limit,
            "membrane": bound.membrane,
            "membrane_limit": bound.membrane_limit,
        }
        facts["head_room"] = min(
            bound.current_limit / max(1, bound.current),
            bound.membrane_limit / max(1, bound.membrane),
        )
    return facts
