"""
Put something in the place of what was refused, so that `check` finds what else is wrong.

A refusal ends an export. `check` goes on: what was refused gets what its remedy proposes, or the mildest
thing of the same shape, and the pass runs again. Each replacement is told, as whatever is found behind it
holds under that assumption only. A layer that is refused again gets a stronger replacement, and in the
end none: then what is left stays unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from neurocompile.errors import Problem
from neurocompile.frontend.import_options import ImportOptions, flag
from neurocompile.frontend.nir_nodes import kind_of
from neurocompile.frontend.read_nir import NirFile
from neurocompile.ir import (
    LIF,
    Delay,
    Input,
    Integrator,
    MaxPool2d,
    Network,
    Node,
    Output,
    Pool2d,
)
from neurocompile.limits import Limits
from neurocompile.names import free_name
from neurocompile.populations import PopulationNetwork, ReadoutPopulation, SpikingPopulation

Fields = Mapping[str, Any]

ASSUMED: Mapping[str, Any] = {
    "profile": "literal",
    "reset": "zero",
    "reset_at": "spike",
    "fires": "above",
    "max_spikes": 1,
    "min_membrane": "none",
    "input_gain": "1",
    "synapse": "now",
}
USUAL_DT = 1e-4  # seconds: what snnTorch and SpikingJelly write where nobody says
DELAY_TOLERANCE = 1e-3  # steps
TIME_CONSTANTS = ("tau", "tau_mem", "tau_syn")


class Mender:
    """
    Replaces what is refused; `assumptions` says what by what, in the order in which it was needed.

    `changed` are the layers whose own numbers are replacements, `decided` the options of the import.
    """

    def __init__(self) -> None:
        self.decided: set[str] = set()
        self.assumptions: list[str] = []
        self.changed: set[str] = set()
        self._tries: dict[tuple[str, str], int] = {}

    def _attempt(self, stage: str, layer: str) -> int:
        """Return how often `layer` was mended at `stage` before."""
        count = self._tries.get((stage, layer), 0)
        self._tries[stage, layer] = count + 1
        return count

    def told(self, text: str, layer: str = "") -> None:
        """Note an assumption, and the layer whose numbers it replaced."""
        if text not in self.assumptions:
            self.assumptions.append(text)
        if layer:
            self.changed.add(layer)

    # What a file leaves open, and nodes that cannot be read

    def options(
        self, choices: ImportOptions, problems: Iterable[Problem], file: NirFile
    ) -> ImportOptions | None:
        """Return `choices` with a value for each option that a remedy names; None if none does."""
        wanted = {name for problem in problems for name in options_in(problem.remedy)}
        values: dict[str, Any] = {}
        for name in asdict(choices):
            if name in wanted and not self._attempt("options", name):
                values[name] = _likely_dt(file) if name == "dt" else ASSUMED[name]
                self.decided.add(name)
                self.told(f"{flag(name)} {values[name]}")
        return replace(choices, **values) if values else None

    def nodes(self, file: NirFile, layers: Iterable[str]) -> NirFile | None:
        """Return `file` with nodes in the place of `layers` that can be read; None if nothing is left to try."""
        nodes, done = _unfrozen(file.root), False
        for name in layers:
            place = _find(nodes, name)
            if place is None:
                continue
            parent, key = place
            fields, attempt = parent[key], self._attempt("import", name)
            finite = _finite(fields)
            if attempt == 0 and finite is not None:
                parent[key], told = (
                    finite,
                    f"'{name}' holds 0 in the place of each number that is none",
                )
            elif attempt < 2 and "kernel_size" in fields and kind_of(fields) != "AvgPool2d":
                parent[key] = {**fields, "type": "AvgPool2d"}
                told = f"'{name}' averages"
            elif attempt < 2 and kind_of(fields) not in ("Input", "Output", "NIRGraph"):
                parent[key] = {"type": "Scale", "scale": np.ones(())}
                told = f"'{name}' changes nothing"
            else:
                continue
            done = True
            self.told(told, name)
        return NirFile(nodes, file.version) if done else None

    # Passes over float networks

    def network(self, stage: str, network: Network, layers: Iterable[str]) -> Network | None:
        """Return `network` with `layers` replaced, which the pass `stage` refused; None if nothing helps."""
        done = False
        for name in layers:
            node = network.nodes.get(name)
            attempt = self._attempt(stage, name)
            legal = _legal(node) if isinstance(node, LIF | Integrator) and attempt == 0 else None
            if node is None or attempt > 2:
                continue
            if isinstance(node, MaxPool2d):
                height, width = node.kernel
                mean = Pool2d(node.kernel, node.stride, node.padding, 1 / (height * width))
                network = network.replaced({**network.nodes, name: mean})
                self.told(f"'{name}' averages", name)
            elif legal is not None:
                network = network.replaced({**network.nodes, name: legal})
                self.told(f"'{name}' has leaks and thresholds that are legal", name)
            elif isinstance(node, Delay) and node.steps.any():
                network = network.replaced({**network.nodes, name: Delay(0 * node.steps)})
                self.told(f"'{name}' delays nothing", name)
            elif isinstance(node, Integrator):
                network = network.replaced({**network.nodes, name: _firing(node)})
                self.told(f"'{name}' fires", name)
            elif isinstance(node, LIF) and attempt < 2:
                network = network.replaced({**network.nodes, name: _uniform(node)})
                self.told(f"'{name}' has one gain, and a current that forgets", name)
            elif not isinstance(node, Input):
                network = _behind_neurons(network, name)
                self.told(f"neurons feed '{name}'", name)
            else:
                continue
            done = True
        return network if done else None

    # Quantisation

    def populations(
        self, network: PopulationNetwork, layers: Iterable[str], limits: Limits
    ) -> PopulationNetwork | None:
        """Return `network` with `layers` that can be quantised; None if nothing helps."""
        wanted, done = set(layers), False
        if network.weight_unit is not None and wanted:
            self.told("numbers are rounded, although the source computes in integers")
            return replace(network, weight_unit=None)
        populations = list(network.populations)
        synapses = list(network.synapses)
        for place, item in enumerate(populations):
            if item.name not in wanted or not isinstance(
                item, SpikingPopulation | ReadoutPopulation
            ):
                continue
            attempt = self._attempt("quantise", item.name)
            leaking = _representable(item, limits) if attempt < 2 else None
            if leaking is not None:
                populations[place] = leaking
                self.told(f"'{item.name}' has the nearest leak that the chip has", item.name)
            elif attempt < 3 and isinstance(item, SpikingPopulation) and np.ptp(item.threshold) > 0:
                most = np.full_like(item.threshold, item.threshold.max())
                populations[place] = replace(item, threshold=most, subtracts=None)
                self.told(f"'{item.name}' has one threshold, its largest", item.name)
            elif attempt < 5:
                populations[place] = replace(item, bias=0 * item.bias, pulse=0 * item.pulse)
                synapses = [
                    replace(
                        group, operator=replace(group.operator, weight=0 * group.operator.weight)
                    )
                    if group.target == item.name
                    else group
                    for group in synapses
                ]
                self.told(f"'{item.name}' hears nothing", item.name)
            else:
                continue
            done = True
        # Whoever is heard late may fire any number of times: the remedy is a limit.
        for place, item in enumerate(populations):
            late = {
                group.source for group in synapses if group.target in wanted and group.delay.any()
            }
            if (
                isinstance(item, SpikingPopulation)
                and item.most_spikes is None
                and item.name in late
            ):
                populations[place] = replace(item, most_spikes=1)
                self.told(f"'{item.name}' fires at most once a step", item.name)
                done = True
        if not done:
            return None
        return replace(network, populations=tuple(populations), synapses=tuple(synapses))


def options_in(remedy: str) -> set[str]:
    """Return the import options that a remedy names."""
    names = {flag(name): name for name in asdict(ImportOptions())}
    return {names[found] for found in re.findall(r"--[a-z][a-z-]*", remedy) if found in names}


def _likely_dt(file: NirFile) -> float:
    """Return a time step, in seconds, that all time constants and delays of `file` allow."""
    taus = [value for name in TIME_CONSTANTS for value in _numbers_of(file.root, name) if value > 0]
    delays = [value for value in _numbers_of(file.root, "delay") if value > 0]
    shortest = min(taus, default=2 * USUAL_DT)
    candidates = [shortest / 2, shortest / 4, min(delays, default=USUAL_DT), USUAL_DT, shortest]
    for dt in (float(f"{candidate:.6g}") for candidate in candidates):  # files are often float32
        steps = np.array(delays) / dt
        if dt <= shortest and (np.abs(steps - np.rint(steps)) <= DELAY_TOLERANCE).all():
            return dt
    return shortest / 2


def _numbers_of(fields: Fields, name: str) -> Iterable[float]:
    """Yield all finite numbers in the fields called `name`, at any depth."""
    for key, value in fields.items():
        if isinstance(value, Mapping):
            yield from _numbers_of(value, name)
        elif key == name and isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            finite = value[np.isfinite(value)]
            yield from (float(number) for number in np.unique(finite))


def _unfrozen(fields: Fields) -> dict[str, Any]:
    """Return nested dictionaries that can be changed, with the same arrays."""
    return {
        key: _unfrozen(value) if isinstance(value, Mapping) else value
        for key, value in fields.items()
    }


def _find(graph: Fields, name: str) -> tuple[dict[str, Any], str] | None:
    """Return the dictionary that holds the node of a full name, and the node's key in it."""
    nodes = graph.get("nodes")
    if not isinstance(nodes, dict):
        return None
    if isinstance(nodes.get(name), dict):
        return nodes, name
    for key, inner in nodes.items():
        if isinstance(inner, dict) and name.startswith(f"{key}."):
            found = _find(inner, name[len(key) + 1 :])
            if found is not None:
                return found
    return None


def _finite(fields: Fields) -> dict[str, Any] | None:
    """Return `fields` with 0 for what is no number; None if all are."""
    wrong = {
        key: np.nan_to_num(value, nan=0, posinf=0, neginf=0)
        for key, value in fields.items()
        if isinstance(value, np.ndarray)
        and value.dtype.kind == "f"
        and not np.isfinite(value).all()
    }
    return {**fields, **wrong} if wrong else None


def _legal(node: LIF | Integrator) -> Node | None:
    """Return `node` with leaks and thresholds that `assemble` takes; None if it has them."""
    changes: dict[str, Any] = {"decay": np.clip(node.decay, 0, 1)}
    if node.current_decay is not None:
        changes["current_decay"] = np.clip(node.current_decay, 0, 1)
    if isinstance(node, LIF):
        lowest = 1.0 if node.reset == "subtract" else 0.0
        threshold = np.where(node.threshold < 0, -node.threshold, node.threshold)
        changes["threshold"] = np.where(threshold == 0, lowest, threshold)
        if node.subtracts is not None:
            changes["subtracts"] = np.abs(node.subtracts)
    same = all(np.array_equal(getattr(node, name), value) for name, value in changes.items())
    return None if same else replace(node, **changes)


def _firing(node: Integrator) -> LIF:
    """Return neurons that integrate as `node` does, and fire above 1."""
    return LIF(
        node.decay,
        node.gain,
        node.leak,
        np.ones(node.shape),
        np.zeros(node.shape),
        current_decay=node.current_decay,
    )


def _uniform(node: LIF) -> LIF:
    """Return `node` with one input gain, and a current that leaks."""
    current = node.current_decay
    if current is not None:
        current = np.where(current == 1, 0.5, current)
    return replace(node, gain=np.full(node.shape, node.gain.max(initial=0)), current_decay=current)


def _behind_neurons(network: Network, name: str) -> Network:
    """Return `network` with a layer of neurons, which fire above 1, in front of the node `name`."""
    shape = network.shapes[network.sources(name)[0]]
    zeros, ones = np.zeros(shape), np.ones(shape)
    inner = free_name({*network.nodes}, f"{name}.in")
    edges = [(source, inner if target == name else target) for source, target in network.edges]
    feedback = {
        (source, inner if target == name else target) for source, target in network.feedback
    }
    neurons = LIF(zeros, ones, zeros, ones, zeros)
    nodes = {**network.nodes, inner: neurons}
    if isinstance(network.nodes[name], Output):
        nodes[name] = Output(shape)
    return Network(
        nodes, (*edges, (inner, name)), network.steps, frozenset(feedback), network.weight_unit
    )


def _representable(
    item: SpikingPopulation | ReadoutPopulation, limits: Limits
) -> SpikingPopulation | ReadoutPopulation | None:
    """
    Return `item` with the nearest leak that is a multiple of the chip's; None if it has such leaks.

    The membrane's comes first, and the current's the next time, as quantisation looks at them.
    """
    unit = 1 / (1 << limits.decay_bits)
    if item.decay is not None:
        nearest = np.rint(item.decay / unit) * unit
        lost = (nearest == 1) & (item.decay < 1)
        if lost.any():
            return replace(item, decay=np.where(lost, nearest, item.decay))
    current = item.current_decay
    nearest = np.rint(current / unit) * unit
    lost = (nearest == 1) | ((nearest == 0) & (current > 0))
    if lost.any():
        return replace(item, current_decay=np.where(lost, np.minimum(nearest, 1 - unit), current))
    return None
