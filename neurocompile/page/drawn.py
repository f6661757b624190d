"""What a report says of its network and its target, as types: `Report.network` and `.resources`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neurocompile.errors import FormatError, Problem
from neurocompile.page.decode import decode, key_of, mapping


@dataclass(frozen=True)
class Reach:
    """The largest current and membrane that the range proof allows for, and their limits."""

    current: int
    current_limit: int
    membrane: int
    membrane_limit: int


@dataclass(frozen=True)
class Population:
    """A population of neurons, a sum or an input; `depth` is its place from left to right."""

    name: str
    kind: str
    shape: tuple[int, ...]
    neurons: int
    depth: int
    saturates: bool = False
    bound: Reach | None = None
    head_room: float | None = None


@dataclass(frozen=True)
class Group:
    """A group of synapses."""

    name: str
    source: str
    target: str
    kind: str
    synapses: int
    delay: int = 0
    on_host: bool = False


@dataclass(frozen=True)
class Drawing:
    """A network to draw."""

    populations: tuple[Population, ...]
    synapses: tuple[Group, ...]
    outputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Number:
    """A figure of resources and how it is known: exact, published or estimated."""

    value: int
    status: str
    source: str = ""


@dataclass(frozen=True)
class LayerCosts:
    """What one layer takes: `figures` by name."""

    name: str
    kind: str
    figures: Mapping[str, Number]
    tightest: str = ""
    remedy: str = ""
    fits: bool = True


@dataclass(frozen=True)
class Costs:
    """What a program takes."""

    layers: tuple[LayerCosts, ...]
    totals: Mapping[str, Number]
    limits: Mapping[str, Number]
    notes: tuple[str, ...]


def drawing_of(network: Mapping[str, Any]) -> Drawing | None:
    """Return the network to draw, None if there is none; raises `FormatError` where it contradicts itself."""
    if not network:
        return None
    found = decode(Drawing, network, "network")
    names = [population.name for population in found.populations]
    if len(set(names)) != len(names):
        raise FormatError(Problem("", "'network.populations' must have distinct names"))
    for at, group in enumerate(found.synapses):
        for key, name in (("source", group.source), ("target", group.target)):
            if name not in names:
                raise FormatError(
                    Problem(
                        "",
                        f"'network.synapses[{at}].{key}' must be a population",
                        f"there is no '{key_of(name)}'",
                    )
                )
    return found


def costs_of(resources: Mapping[str, Any]) -> Costs | None:
    """Return what the program takes, None if nobody counted; raises `FormatError`."""
    if not resources:
        return None
    layers = []
    for name, given in mapping(resources.get("layers", {}), "resources.layers").items():
        where = f"resources.layers.{key_of(name)}"
        figures = {
            key: decode(Number, item, f"{where}.{key_of(key)}")
            for key, item in mapping(given, where).items()
            if isinstance(item, Mapping)
        }
        texts = {
            key: decode(str, given.get(key, ""), f"{where}.{key}")
            for key in ("kind", "tightest", "remedy")
        }
        fits = decode(bool, given.get("fits", True), f"{where}.fits")
        layers.append(LayerCosts(name=name, figures=figures, fits=fits, **texts))
    totals, limits = (
        {
            name: decode(Number, item, f"resources.{key}.{key_of(name)}")
            for name, item in mapping(resources.get(key, {}), f"resources.{key}").items()
        }
        for key in ("totals", "limits")
    )
    notes = decode(tuple[str, ...], resources.get("notes", []), "resources.notes")
    return Costs(tuple(layers), totals, limits, notes)
