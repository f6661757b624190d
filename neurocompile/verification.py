"""
Hold every stage against the one before it, spike by spike, on one clock.

    torch        the trained network in PyTorch, batch norms and all (where there is one)
    float        the folded graph of the program, in float64
    fixedpoint   the integers
    the target   the same integers, run by the target itself

A target may keep the integers in several files of which a run takes one (`FormsTarget`): every other form
is held against the target's run, as `onnx:step` against `onnx`.

Integers against integers must match in every spike and every output; float against integers, and
torch against float, are measured. A network that was trained in integers computes with them in PyTorch
as well: then `torch` must match `fixedpoint`, beside the comparisons of neighbours. The first divergence of each pair is the earliest spike that
differs, of the lowest sample: within a step, the first layer in the order of the network.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile import reference
from neurocompile.counted import remarks
from neurocompile.data import Inputs, Samples, by_input, map_inputs
from neurocompile.decision import DECISION, decisions, weights_in
from neurocompile.errors import DataError, OptionError, Problem, ProgramFormatError
from neurocompile.frontend.exact_nir import exact_network
from neurocompile.frontend.from_nir import from_nir
from neurocompile.frontend.import_options import ImportOptions
from neurocompile.frontend.read_nir import read_nir
from neurocompile.ir import LIF, Network, Threshold
from neurocompile.program import GRAPH, REFERENCE, Program, Result
from neurocompile.run_file import repeat_steps
from neurocompile.target import FormsTarget, Progress, find

SCHEMA = 1
WRITTEN_EXACTLY = ("netx", "module")  # sources whose network is in `graph.nir` to the last bit

ProgressOf = Callable[[str], Progress]  # a progress report for each stage, by name


@dataclass(frozen=True)
class Stage:
    """What one stage did; spikes by layer and outputs by name are (samples, steps, *shape)."""

    name: str
    integers: bool
    outputs: Mapping[str, NDArray[Any]]
    spikes: Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Divergence:
    """The first spike in which two stages differ; membranes are the candidate's, before its reset."""

    sample: int
    step: int
    layer: str
    neuron: int
    reference_spike: int
    candidate_spike: int
    membrane: float | None
    threshold: float | None


@dataclass(frozen=True)
class LayerComparison:
    """How one layer differs; rates are spikes per neuron and step."""

    name: str
    slots: int
    mismatches: int
    rate_reference: float
    rate_candidate: float


@dataclass(frozen=True)
class Comparison:
    """How two stages differ; `slots` counts the compared (sample, step, neuron) places."""

    reference: str
    candidate: str
    must_match: bool
    layers: tuple[LayerComparison, ...]
    output_slots: int
    output_mismatches: int
    output_difference: float
    first_divergence: Divergence | None

    @property
    def slots(self) -> int:
        return sum(layer.slots for layer in self.layers)

    @property
    def mismatches(self) -> int:
        return sum(layer.mismatches for layer in self.layers)

    @property
    def failed(self) -> bool:
        """Whether integers differ that must not: a spike, or an output."""
        return self.must_match and (self.mismatches > 0 or self.output_mismatches > 0)


@dataclass(frozen=True)
class Report:
    """The outcome of a verification; `to_json` is the contract for machines."""

    target: str
    steps: int
    stages: tuple[Stage, ...]
    labels: NDArray[np.int64] | None
    comparisons: tuple[Comparison, ...]
    overall: Comparison
    counters: Mapping[str, Mapping[str, int]]
    facts: Mapping[str, Any]
    remarks: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        return len(next(iter(self.stages[0].outputs.values())))

    @property
    def failed(self) -> bool:
        """Whether any comparison that must match did not."""
        return any(comparison.failed for comparison in self.comparisons)

    @property
    def accuracy(self) -> dict[str, float]:
        """
        The share of samples that each stage classifies as labelled; empty without labels.

        Of several outputs the first one is the decision, with the weights of the steps if there are any.
        """
        if self.labels is None:
            return {}
        weights = weights_in(self.facts)
        return {
            stage.name: float((decisions(_first(stage.outputs), weights) == self.labels).mean())
            for stage in self.stages
        }

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values, schema 1."""
        return {
            "schema": SCHEMA,
            "target": self.target,
            "samples": self.samples,
            "steps": self.steps,
            "accuracy": self.accuracy,
            "comparisons": [_comparison_json(item) for item in self.comparisons],
            "layers": [vars(layer) for layer in self.overall.layers],
            "remarks": list(self.remarks),
            "counters": {layer: dict(counts) for layer, counts in self.counters.items()},
            "program": dict(self.facts),
        }


def _first(outputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    return next(iter(outputs.values()))


def verify_program(
    program: Program,
    samples: Samples,
    *,
    against: Sequence[str] = (),
    progress_of: ProgressOf | None = None,
    deadline: float | None = None,
) -> Report:
    """
    Run every stage on `samples` and return how they differ.

    `against` chooses stages by name ("torch", "float", "fixedpoint", the target, its forms); all that
    there are by default. Raises `OptionError` for stages that this program does not have.
    """
    shown = min(program.native_steps or 1, program.steps)
    inputs = map_inputs(
        lambda values: repeat_steps(values, shown if values.shape[1] == 1 else None),
        samples.inputs,
    )
    program.payloads(inputs)  # refuse inputs before anything is run
    first_shown = next(iter(program.network.outputs.values()))
    classes = math.prod(program.network[first_shown].shape)
    if samples.labels is not None and samples.labels.size:
        least, most = int(samples.labels.min()), int(samples.labels.max())
        if least < 0 or most >= classes:
            raise DataError(
                Problem(
                    "",
                    f"labels must be from 0 to {classes - 1}, as there are {classes} outputs",
                    f"they reach from {least} to {most}",
                )
            )
    names, forms = _choose_stages(program, against)
    network = folded_network(program)
    progress_of = progress_of or (lambda _stage: lambda _done, _total: None)
    for name in (*names, *forms):
        if name not in ("torch", "float"):
            program.executor(name)  # refuse a missing runtime before anything is run
    counters: Mapping[str, Mapping[str, int]] = {}
    stages: list[Stage] = []
    for name in names:
        progress = progress_of(name)
        if name == "torch":
            stages.append(_run_torch(program, inputs, progress))
        elif name == "float":
            trace = reference.simulate(network, inputs, progress=progress)
            stages.append(Stage("float", False, trace.outputs, trace.spikes))
        else:
            result = program.run(inputs, "all", on=name, progress=progress, deadline=deadline)
            counters = result.trace.counters or counters
            stages.append(Stage(name, True, result.outputs, result.spikes))
    comparisons = [
        compare(first, second, program, network, inputs) for first, second in pairwise(stages)
    ]
    for name, shows_spikes in forms.items():
        # Held against the target one after the other: all of them at once would take much memory.
        record = "all" if shows_spikes else ()
        result = program.run(inputs, record, on=name, progress=progress_of(name), deadline=deadline)
        shown_by_both = stages[-1] if shows_spikes else replace(stages[-1], spikes={})
        form = Stage(name, True, result.outputs, result.spikes)
        comparisons.append(compare(shown_by_both, form, program, network, inputs))
    by_name = {stage.name: stage for stage in stages}
    if {"torch", "float", "fixedpoint"} <= by_name.keys() and by_name["torch"].integers:
        trained, engine = by_name["torch"], by_name["fixedpoint"]
        comparisons.append(compare(trained, engine, program, network, inputs))
    whole = len(stages) > 1  # or forms of the target are all that it is compared with
    overall = compare(stages[0], stages[-1], program, network, inputs) if whole else comparisons[-1]
    places = math.prod(_first(stages[0].outputs).shape[:2])
    return Report(
        target=program.target,
        steps=_first(stages[0].outputs).shape[1],
        stages=tuple(stages),
        labels=samples.labels,
        comparisons=tuple(comparisons),
        overall=overall,
        counters=counters,
        remarks=tuple(remarks(program.network, counters, places=places)),
        facts={
            name: program.facts[name]
            for name in (
                "source",
                "import",
                "folding",
                DECISION,
                "first_layer",
                "quantisation",
                "notes",
                "validation",
                "versions",
            )
            if name in program.facts
        },
    )


def folded_network(program: Program) -> Network:
    """
    Return the folded float network of a program, as its `graph.nir` and its manifest say.

    Of what was no NIR file, `graph.nir` carries the exact network. Raises `ProgramFormatError` where it
    is missing or nothing says how to read it, and what reading it does.
    """
    if GRAPH not in program.extra_files:
        raise ProgramFormatError(
            Problem(
                "", f"a comparison needs the program's '{GRAPH}'", "it has none", "export it again"
            )
        )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / GRAPH
        path.write_bytes(program.extra_files[GRAPH])
        if _written_exactly(program):
            network = exact_network(read_nir(path))
            if network is None:
                raise ProgramFormatError(
                    Problem("", f"the program's '{GRAPH}' must carry its network", "it does not")
                )
            return network
        try:
            choices = ImportOptions.from_json(program.facts["import"]["options"])
        except (KeyError, TypeError, OptionError) as error:
            raise ProgramFormatError("the manifest does not say how its graph was read") from error
        return from_nir(path, **choices.to_json()).network


def _written_exactly(program: Program) -> bool:
    """Return whether the graph of `program` is that of a source which is no graph itself."""
    source = program.facts.get("source")
    return isinstance(source, Mapping) and source.get("kind") in WRITTEN_EXACTLY


def _choose_stages(program: Program, against: Sequence[str]) -> tuple[list[str], dict[str, bool]]:
    """Return the stages, and the target's other forms, with whether they show spikes."""
    available = ["float", "fixedpoint"]
    if REFERENCE in program.extra_files:
        available.insert(0, "torch")
    if program.target not in available:
        available.append(program.target)
    target = find(program.target)
    other = target.forms if isinstance(target, FormsTarget) else {}
    forms = {f"{target.name}:{engine}": shows_spikes for engine, shows_spikes in other.items()}
    unknown = [name for name in against if name not in available and name not in forms]
    if unknown:
        raise OptionError(
            Problem(
                "",
                f"this program cannot be compared with {', '.join(unknown)}",
                remedy=f"choose from {', '.join([*available, *forms])}",
            )
        )
    chosen = [name for name in available if not against or name in against]
    forms = {name: shows for name, shows in forms.items() if not against or name in against}
    if program.target not in chosen:
        chosen.append(program.target)
    if len(chosen) == 1 and not forms:
        raise OptionError(
            Problem(
                "",
                "a comparison needs two stages",
                f"only '{chosen[0]}' is left",
                "leave --against out",
            )
        )
    return chosen, forms


def _run_torch(program: Program, inputs: Inputs, progress: Progress) -> Stage:
    from neurocompile.frontend.from_checkpoint import run_reference

    (only,) = by_input(inputs, [item.name for item in program.network.inputs]).values()
    output, spikes = run_reference(program, only, progress)
    integers = program.facts["reference"].get("quantised") is not None
    return Stage("torch", integers, {next(iter(program.network.outputs)): output}, spikes)


def compare(
    first: Stage,
    second: Stage,
    program: Program,
    network: Network,
    inputs: Inputs,
) -> Comparison:
    """Return how `second` differs from `first`, in every layer that both have."""
    layers = []
    for name in first.spikes:
        before, after = first.spikes[name], second.spikes[name]
        layers.append(
            LayerComparison(
                name=name,
                slots=int(before.size),
                mismatches=int((before != after).sum()),
                rate_reference=float(before.mean()),
                rate_candidate=float(after.mean()),
            )
        )
    return Comparison(
        reference=first.name,
        candidate=second.name,
        must_match=first.integers and second.integers,
        layers=tuple(layers),
        output_slots=sum(values.size for values in first.outputs.values()),
        output_mismatches=sum(
            int((values != second.outputs[name]).sum()) for name, values in first.outputs.items()
        ),
        output_difference=max(
            float(np.abs(values - second.outputs[name]).max())
            for name, values in first.outputs.items()
        ),
        first_divergence=_first_divergence(first, second, program, network, inputs),
    )


def _first_divergence(
    first: Stage,
    second: Stage,
    program: Program,
    network: Network,
    inputs: Inputs,
) -> Divergence | None:
    """Locate the earliest differing spike of the lowest sample, and look up its membrane."""
    found: list[tuple[int, int, int, int]] = []
    for order, name in enumerate(first.spikes):
        places = np.argwhere(
            (first.spikes[name] != second.spikes[name]).reshape(*first.spikes[name].shape[:2], -1)
        )
        if len(places):
            sample, step, neuron = (int(number) for number in places[0])
            found.append((sample, step, order, neuron))
    if not found:
        return None
    sample, step, order, neuron = min(found)
    layer = list(first.spikes)[order]
    spikes = [stage.spikes[layer][sample, step].flat[neuron] for stage in (first, second)]
    membrane, threshold = _membrane(
        second,
        program,
        network,
        map_inputs(lambda values: values[sample : sample + 1], inputs),
        (step, layer, neuron),
    )
    return Divergence(
        sample, step, layer, neuron, int(spikes[0]), int(spikes[1]), membrane, threshold
    )


def _membrane(
    stage: Stage,
    program: Program,
    network: Network,
    inputs: Inputs,
    place: tuple[int, str, int],
) -> tuple[float, float]:
    """
    Return the membrane just before the spike was decided, and its threshold, in the source's units.

    Integer stages are looked up in the engine that defines them.
    """
    from neurocompile_fixedpoint.definition import execute

    step, layer, neuron = place
    if not stage.integers:
        node = network.nodes[layer]
        assert isinstance(node, LIF | Threshold)
        trace = reference.simulate(network, inputs, membranes=True)
        return float(trace.membrane[layer][0, step].flat[neuron]), float(
            node.threshold.flat[neuron]
        )
    payloads = program.payloads(inputs)
    engine = execute(
        program.network,
        payloads,
        samples=1,
        steps=next(iter(payloads.values())).shape[1],
        record=[f"membrane/{layer}"],
        before_reset=True,
    )
    units: Result = program.to_source_units(engine)
    neurons = next(item for item in program.network.neurons if item.name == layer)
    thresholds = np.broadcast_to(
        neurons.threshold << neurons.arithmetic.fraction_bits, neurons.shape
    )
    threshold = neurons.in_source_units(thresholds).flat[neuron]
    return float(units.membrane[layer][0, step].flat[neuron]), float(threshold)


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    first = comparison.first_divergence
    return {
        "reference": comparison.reference,
        "candidate": comparison.candidate,
        "slots": comparison.slots,
        "mismatches": comparison.mismatches,
        "must_match": comparison.must_match,
        "output": {
            "slots": comparison.output_slots,
            "mismatches": comparison.output_mismatches,
            "largest_difference": comparison.output_difference,
        },
        "first_divergence": None if first is None else vars(first),
        "layers": [vars(layer) for layer in comparison.layers],
    }
