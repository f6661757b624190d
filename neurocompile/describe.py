"""A network of any stage, as lines of text: what `--print-after` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.integer import (
    LOIHI2,
    Arithmetic,
    IntegerInput,
    IntegerNeurons,
    IntegerRelay,
)
from neurocompile.ir import Network
from neurocompile.stages import Stage

HIDDEN = ("name", "shape", "input_shape", "arithmetic")
USUAL = {
    "comparison": ">",
    "most_spikes": 1,
    "refractory": 0,
    "inclusive": False,
    "saturates": False,
    "most": 1,
}
"""What goes without saying; so does what spikes subtract where they do not, or take the threshold, no floor."""


def describe(stage: Stage) -> list[str]:
    """Return a line for each node, or for each population and each group of synapses."""
    if isinstance(stage, Network):
        return _table(
            [
                (
                    name,
                    type(node).__name__,
                    str(stage.shapes[name]),
                    ", ".join(
                        source + (" (previous step)" if (source, name) in stage.feedback else "")
                        for source in stage.sources(name)
                    ),
                    _fields(node),
                )
                for name, node in stage.nodes.items()
            ],
            ("node", "kind", "shape", "from", "parameters"),
        )
    rows = [
        (item.name, _kind(item), str(item.shape), "", _fields(item)) for item in stage.populations
    ]
    rows += [
        (
            group.name,
            "synapses",
            str(_weight(group).shape),
            f"{group.source} -> {group.target}",
            "" if not group.delay.any() else f"delay {_values(group.delay)}",
        )
        for group in stage.synapses
    ]
    shown = ", ".join(f"{output}: {name}" for output, name in stage.outputs.items())
    lines = [*_table(rows, ("name", "kind", "shape", "from", "parameters")), f"outputs  {shown}"]
    found = {item.arithmetic for item in stage.populations if isinstance(item, IntegerNeurons)}
    return [*lines, *(f"arithmetic  {_fields_of(each)}" for each in found if each != LOIHI2)]


def _fields_of(arithmetic: Arithmetic) -> str:
    return ", ".join(f"{name} {value}" for name, value in vars(arithmetic).items())


def _kind(item: Any) -> str:
    match item:
        case IntegerInput():
            return "input"
        case IntegerNeurons():
            return "read-out" if item.readout else "neurons"
        case IntegerRelay():
            return "sum"
        case _:
            return type(item).__name__.removesuffix("Population").lower()


def _weight(group: Any) -> NDArray[Any]:
    weight: NDArray[Any] = group.weight if hasattr(group, "weight") else group.operator.weight
    return weight


def _fields(thing: Any) -> str:
    parts = []
    for name, value in vars(thing).items():
        if name in HIDDEN or value is None or name.startswith("_"):
            continue
        if name in USUAL and bool(np.all(value == USUAL[name])):
            continue
        if name == "floor" and isinstance(thing, IntegerNeurons) and not thing.floored:
            continue
        if name == "subtracts" and (thing.reset == "zero" or _takes_threshold(thing)):
            continue
        text = _values(value) if isinstance(value, np.ndarray) else str(value)
        parts.append(f"{name} {text}")
    return ", ".join(parts)


def _takes_threshold(thing: Any) -> bool:
    unit = thing.arithmetic.state_units if isinstance(thing, IntegerNeurons) else 1
    return bool((thing.subtracts == unit * thing.threshold).all())


def _values(values: NDArray[Any]) -> str:
    if values.size and (values == values.flat[0]).all():
        return f"{values.flat[0]:g}"
    return f"{values.min():g}..{values.max():g} {values.shape}" if values.size else "none"


def _table(rows: Sequence[tuple[str, ...]], heading: tuple[str, ...]) -> list[str]:
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [heading, *rows]
    ]
