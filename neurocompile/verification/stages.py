"""
The stages of a verification: which there are, which are compared, and how each runs some samples.

A target may keep the integers in several files of which a run takes one (`FormsTarget`): every other
form is held against the target's run, as `onnx:step` against `onnx`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile import reference
from neurocompile.data import Inputs, Samples, by_input, map_inputs
from neurocompile.dequantise import dequantise, simulate_dequantised
from neurocompile.errors import DataError, OptionError, Problem, ProgramFormatError
from neurocompile.frontend.exact_nir import exact_network
from neurocompile.frontend.from_nir import from_nir
from neurocompile.frontend.import_options import ImportOptions
from neurocompile.frontend.read_nir import read_nir
from neurocompile.ir import Network
from neurocompile.program import GRAPH, REFERENCE, Program
from neurocompile.run_file import repeat_steps
from neurocompile.target import FormsTarget, Progress, find

WRITTEN_EXACTLY = ("netx", "module")  # sources whose network is in `graph.nir` to the last bit
REAL = ("torch", "float", "quantised")

ProgressOf = Callable[[str], Progress]  # a progress report for each stage, by name
Counters = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Stage:
    """What one stage did; spikes by layer and outputs by name are (samples, steps, *shape)."""

    name: str
    integers: bool
    outputs: Mapping[str, NDArray[Any]]
    spikes: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Pair:
    """Two stages that are compared; where the candidate shows no spikes, in their outputs alone."""

    reference: str
    candidate: str
    must_match: bool
    spikes: bool = True


@dataclass(frozen=True)
class Plan:
    """
    What is run and compared: `stages` in order, `forms` of the target with whether they show spikes.

    `integers` are the stages that compute with integers; `overall` is the first stage against the target.
    """

    stages: tuple[str, ...]
    forms: Mapping[str, bool]
    integers: frozenset[str]
    pairs: tuple[Pair, ...]
    overall: Pair


def plan_of(program: Program, against: Sequence[str] = ()) -> Plan:
    """
    Return what there is to run and to compare for `program`.

    `against` chooses stages by name ("torch", "float", "quantised", "fixedpoint", the target, its
    forms); all that there are by default. Raises `OptionError` for stages that this program does not have.
    """
    available = ["float", "quantised", "fixedpoint"]
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
    integers = frozenset(name for name in (*chosen, *forms) if name not in REAL)
    if "torch" in chosen and program.facts["reference"].get("quantised") is not None:
        integers |= {"torch"}

    def pair(first: str, second: str, *, spikes: bool = True) -> Pair:
        return Pair(first, second, {first, second} <= integers, spikes)

    pairs: list[Pair] = []
    for first, second in pairwise(chosen):
        # What rounding the numbers does, and what rounding the states does, and then both at once.
        pairs.append(pair(first, second))
        if second == "fixedpoint" and first == "quantised" and "float" in chosen:
            pairs.append(pair("float", "fixedpoint"))
    pairs += [pair(chosen[-1], name, spikes=shows) for name, shows in forms.items()]
    if {"torch", "fixedpoint"} <= set(chosen) and "torch" in integers and "float" in chosen:
        pairs.append(pair("torch", "fixedpoint"))
    overall = pair(chosen[0], chosen[-1]) if len(chosen) > 1 else pairs[-1]
    return Plan(tuple(chosen), forms, integers, tuple(pairs), overall)


class Runner:
    """
    Runs stages of one program on samples; a missing runtime is refused when it is made.

    `counters` of the integers come with a stage's run.
    """

    def __init__(self, program: Program, plan: Plan) -> None:
        self.program, self.plan = program, plan
        self.network = folded_network(program)
        self.dequantised = dequantise(program.network) if "quantised" in plan.stages else None
        for name in (*plan.stages, *plan.forms):
            if name not in REAL:
                program.executor(name)

    def inputs_of(self, samples: Samples) -> Inputs:
        """Return inputs with their steps; raises `DataError` for what the program cannot take."""
        program = self.program
        shown = min(program.native_steps or 1, program.steps)
        inputs = map_inputs(
            lambda values: repeat_steps(values, shown if values.shape[1] == 1 else None),
            samples.inputs,
        )
        program.payloads(inputs)
        check_labels(program, samples.labels)
        return inputs

    def run(
        self, name: str, inputs: Inputs, *, progress: Progress, deadline: float | None = None
    ) -> tuple[Stage, Counters]:
        """Return what stage `name` does on `inputs`, and what its integers counted."""
        integers = name in self.plan.integers
        if name == "torch":
            return self._torch(inputs, progress), {}
        if name == "float":
            trace = reference.simulate(self.network, inputs, progress=progress)
            return Stage(name, integers, trace.outputs, trace.spikes), {}
        if name == "quantised":
            payloads = self.program.payloads(inputs)
            trace = simulate_dequantised(self.program.network, payloads)
            return Stage(name, integers, trace.outputs, trace.spikes), {}
        record = "all" if self.plan.forms.get(name, True) else ()
        result = self.program.run(inputs, record, on=name, progress=progress, deadline=deadline)
        return Stage(name, integers, result.outputs, result.spikes), result.trace.counters

    def _torch(self, inputs: Inputs, progress: Progress) -> Stage:
        from neurocompile.frontend.from_checkpoint import run_reference

        network = self.program.network
        (only,) = by_input(inputs, [item.name for item in network.inputs]).values()
        output, spikes = run_reference(self.program, only, progress)
        integers = "torch" in self.plan.integers
        return Stage("torch", integers, {next(iter(network.outputs)): output}, spikes)


def check_labels(program: Program, labels: NDArray[np.int64] | None) -> None:
    """Raise `DataError` for labels that are none of the first output's classes."""
    first_shown = next(iter(program.network.outputs.values()))
    classes = math.prod(program.network[first_shown].shape)
    if labels is None or not labels.size:
        return
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= classes:
        raise DataError(
            Problem(
                "",
                f"labels must be from 0 to {classes - 1}, as there are {classes} outputs",
                f"they reach from {least} to {most}",
            )
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
