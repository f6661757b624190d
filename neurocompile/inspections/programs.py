"""What is in a program directory: integers, their proof, timing, resources and where they came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from neurocompile import target as targets
from neurocompile.chips import CHIP
from neurocompile.decision import DECISION
from neurocompile.errors import NeurocompileError
from neurocompile.inspection import Found, span
from neurocompile.integer import (
    Bound,
    IntegerInput,
    IntegerNeurons,
    IntegerPopulation,
    IntegerRelay,
    IntegerSynapses,
)
from neurocompile.manifest import MANIFEST, VERSION
from neurocompile.program import TENSORS, Program, load
from neurocompile.resources import kind_of

RANGES = ("du", "dv", "threshold", "scale", "origin")
AS_THEY_ARE = ("source", "import", "folding", DECISION, "first_layer", "chip", "versions", "notes")


def inspect_program(path: Path) -> Found:
    """Return what the program in `path` is; `program.load` raises with all that is wrong with it."""
    program = load(path)
    return Found(facts_of(program), checked=frozenset({MANIFEST, TENSORS, *program.extra_files}))


def facts_of(program: Program) -> dict[str, Any]:
    """Return the facts of a program as plain values."""
    network = program.network
    bounds = {bound.layer: bound for bound in program.bounds}
    bits = _bits(program.facts)
    schedule = asdict(program.schedule)
    return {
        "target": program.target,
        "options": dict(program.options),
        "format": VERSION,
        "steps": program.steps,
        "native_steps": program.native_steps,
        "populations": [_population(item, bounds.get(item.name)) for item in network.populations],
        "synapses": [
            {**_synapses(group), "bits": bits.get(group.name)} for group in network.synapses
        ],
        "outputs": dict(network.outputs),
        "arithmetic": next((asdict(item.arithmetic) for item in network.neurons), None),
        "schedule": {**schedule, "deepest": program.schedule.deepest},
        "resources": _resources(program),
        "quantisation": _without(program.facts.get("quantisation"), "layers"),
        "reference": _reference(program.facts.get("reference")),
        "validation": _without(program.facts.get("validation"), "passes"),
        **{name: program.facts[name] for name in AS_THEY_ARE if name in program.facts},
        "has_chip_file": CHIP in program.extra_files,
    }


def _population(item: IntegerPopulation, bound: Bound | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": item.name,
        "kind": kind_of(item),
        "shape": list(item.shape),
        "neurons": math.prod(item.shape),
    }
    if isinstance(item, IntegerInput):
        values = {"scale": item.scale, "range": [item.minimum, item.maximum], "exact": item.exact}
        return {**facts, **values}
    if isinstance(item, IntegerRelay):
        return {**facts, "range": [0, item.largest]}
    return {**facts, **_neurons(item), "proof": None if bound is None else _proof(bound)}


def _neurons(item: IntegerNeurons) -> dict[str, Any]:
    facts: dict[str, Any] = {name: span(getattr(item, name)) for name in RANGES}
    facts |= {
        "bias": span(item.bias),
        "shows": item.shows,
        "reset": item.reset,
        "fires": "at" if item.inclusive else "above",
        "most_spikes": item.most,
        "refractory": item.refractory,
        "saturates": item.saturates,
    }
    for name in ("pulse", "start"):
        if getattr(item, name).any():
            facts[name] = span(getattr(item, name))
    if item.floored:
        facts["floor"] = span(item.floor)
    if item.reset == "subtract":
        facts["subtracts"] = span(item.subtracts)
    return facts


def _proof(bound: Bound) -> dict[str, Any]:
    return {
        name: {
            "reaches": reaches,
            "limit": limit,
            "used": reaches / limit if limit else None,
        }
        for name, reaches, limit in (
            ("current", bound.current, bound.current_limit),
            ("membrane", bound.membrane, bound.membrane_limit),
        )
    }


def _synapses(group: IntegerSynapses) -> dict[str, Any]:
    geometry = group.geometry
    return {
        "name": group.name,
        "source": group.source,
        "target": group.target,
        "kind": "dense" if geometry is None else "convolution",
        "shape": list(group.weight.shape),
        "geometry": None if geometry is None else asdict(geometry),
        "weights": int(group.weight.size),
        "nonzero": int(np.count_nonzero(group.weight)),
        "range": span(group.weight),
        "delay": span(group.delay),
        "exponent": group.exponent,
        "computed_by": "host" if group.on_host else "chip",
    }


def _bits(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bits of each group of synapses that quantisation tells of; a stranger's may tell anything."""
    quantisation = facts.get("quantisation")
    layers = quantisation.get("layers") if isinstance(quantisation, Mapping) else None
    found: dict[str, Any] = {}
    for layer in layers.values() if isinstance(layers, Mapping) else ():
        groups = layer.get("weights") if isinstance(layer, Mapping) else None
        for group in groups if isinstance(groups, list) else ():
            if isinstance(group, Mapping) and isinstance(group.get("bits"), int):
                found[str(group.get("name"))] = group["bits"]
    return found


def _resources(program: Program) -> dict[str, Any]:
    try:
        resources = targets.find(program.target).resources(program)
    except NeurocompileError as error:  # a target that is not installed here
        return {"not_known": str(error)}
    return {
        "layers": {layer.name: layer.to_json() for layer in resources.layers},
        "totals": {name: figure.to_json() for name, figure in resources.totals.items()},
        "limits": {name: limit.to_json() for name, limit in resources.limits.items()},
        "notes": list(resources.notes),
    }


def _without(value: Any, name: str) -> Any:
    return (
        {key: item for key, item in value.items() if key != name}
        if isinstance(value, Mapping)
        else None
    )


def _reference(value: Any) -> Any:
    """Return what the manifest says of the trained network, without its settings."""
    return _without(value, "settings")
