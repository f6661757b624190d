"""
Goldens: what a program did on a few samples, and whether a program still does it.

`write_golden` stores what the definition of the integers makes of the samples; `replay_golden` runs a
program on them again and compares every spike, output and decision. Replaying needs numpy only (the
command needs what the command line needs), so that a golden in a repository holds a program to its spikes
wherever Python runs (`golden_file` has the format).

A program that was exported again is replayed as well, as long as its layers have the same names and
shapes: that is how a regression is found, and the checksums say which of its integers are others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.atomic import check_writable, not_ours
from neurocompile.data import Samples, by_input, map_inputs
from neurocompile.decision import DECISION
from neurocompile.errors import DataError, OptionError, Problem, raise_all
from neurocompile.integer import IntegerNetwork, IntegerNeurons, Trace
from neurocompile.manifest import VERSION, describe_network, tensors_of
from neurocompile.program import Program
from neurocompile.run_file import repeat_steps
from neurocompile.verification.golden_file import (
    FORMAT,
    MANIFEST,
    MOST_SAMPLES,
    Arrays,
    Golden,
    Recorded,
    describe_arrays,
    read_arrays,
    read_golden,
    write_files,
)

if TYPE_CHECKING:
    from neurocompile.samples import SampleSource

SCHEMA = 1
DEFINITION = "fixedpoint:definition"
MOST_SHOWN = 8  # of anything listed for people
MOST_START = 4096  # bytes in which `golden.json` says what it is
ADVICE = (
    "if the change is meant, store the golden again: neurocompile verify PROGRAM_DIR --input DATA "
    "--golden DIR, or pytest --neurocompile-update-golden"
)


def write_golden(
    program: Program, source: SampleSource, directory: Path, *, samples: int = 8
) -> Golden:
    """
    Store what `program` does on the first `samples` of `source` in `directory`.

    Fewer are stored where the source has fewer. An older golden there is replaced, whole or not at all,
    and what else is in its directory stays. Raises `OptionError` where the directory is something else,
    `DataError` for samples that the program does not take and for labels that are no classes.
    """
    _check_place(directory)
    if not 1 <= samples <= MOST_SAMPLES:
        raise OptionError(
            Problem("", f"a golden holds 1 to {MOST_SAMPLES} samples", f"{samples} are asked for")
        )
    taken = source.part(0, samples)
    shown = min(program.native_steps or 1, program.steps)
    inputs = map_inputs(
        lambda values: repeat_steps(values, shown if values.shape[1] == 1 else None), taken.inputs
    )
    return _store(program, Samples(inputs, taken.labels), directory, source.name)


def update_golden(program: Program, directory: Path) -> Golden:
    """Store the golden in `directory` again: its own samples, with what `program` does on them now."""
    golden = read_golden(directory)
    raise_all(DataError, misfits(golden, program))
    arrays = read_arrays(directory, golden)
    labels = None if golden.labels is None else np.array(golden.labels, np.int64)
    return _store(program, Samples(arrays.inputs, labels), directory, golden.data)


def _store(program: Program, samples: Samples, directory: Path, data: str) -> Golden:
    network = program.network
    labels = None if samples.labels is None else tuple(int(item) for item in samples.labels)
    if labels is not None and min(labels, default=0) < 0:
        raise DataError(
            Problem("", "a golden's labels are classes, from 0 on", f"there is a {min(labels)}")
        )
    names = [item.name for item in network.inputs]
    inputs = {name: _as_stored(values) for name, values in by_input(samples.inputs, names).items()}
    trace = _run_definition(program, inputs)
    arrays = Arrays(inputs, trace.spikes, trace.outputs)
    count, steps = next(iter(inputs.values())).shape[:2]
    shows = {output: _neurons(network, name).shows for output, name in network.outputs.items()}
    described = describe_arrays(arrays, shows=shows)
    golden = Golden(
        target=program.target,
        program_format=VERSION,
        parts=parts_of(program),
        data=data,
        samples=count,
        steps=steps,
        inputs=described["inputs"],
        layers=described["layers"],
        outputs=described["outputs"],
        decisions=tuple(int(item) for item in program.decisions(program.to_source_units(trace))),
        labels=labels,
    )
    return write_files(golden, arrays, directory)


def _as_stored(values: NDArray[Any]) -> NDArray[Any]:
    """Return the same numbers in a type that a golden has: of this machine's bytes, no half floats."""
    native = values.dtype.newbyteorder("=")
    return values.astype(np.float32 if native == np.float16 else native, copy=False)


def _check_place(directory: Path) -> None:
    """Raise `OptionError` where there is something that is no golden."""
    check_writable(directory, directory=True, option="--golden")
    if directory.is_dir() and any(directory.iterdir()) and not is_golden(directory):
        raise not_ours(directory, "--golden")


def _run_definition(program: Program, inputs: Mapping[str, NDArray[Any]]) -> Trace:
    from neurocompile_fixedpoint.definition import execute

    payloads = program.payloads(inputs)
    count, steps = next(iter(payloads.values())).shape[:2]
    layers = [neurons.name for neurons in program.network.spiking]
    return execute(program.network, payloads, samples=count, steps=steps, record=layers)


def parts_of(program: Program) -> dict[str, str]:
    """
    Return a checksum of every part of `program` that can change a spike or a decision, by name.

    A part is a population with all its numbers, a group of synapses, the outputs, the arithmetic of the
    chip or the weights of time steps in the decision. Equal integers have equal checksums, however
    narrow their types are.
    """
    described = describe_network(program.network)
    tensors = tensors_of(program.network)
    said: dict[str, Any] = {
        "arithmetic": described["arithmetic"],
        "outputs": described["outputs"],
        "decision": program.facts.get(DECISION),
    }
    owners = {
        **{f"population/{entry['name']}": entry for entry in described["populations"]},
        **{f"synapses/{entry['name']}": entry for entry in described["synapses"]},
    }
    kinds = ("weight", "delay")
    found: dict[str, str] = {}
    for part, entry in {**said, **owners}.items():
        digest = hashlib.sha256(json.dumps(entry, sort_keys=True).encode())
        kind, _, name = part.partition("/")
        for tensor in sorted(tensors):
            what, _, owner = tensor.partition("/")
            if name and owner == name and (what in kinds) == (kind == "synapses"):
                values = tensors[tensor]
                wide = "<f8" if values.dtype.kind == "f" else "<i8"
                digest.update(f"{tensor} {values.shape}".encode())
                digest.update(np.ascontiguousarray(values, wide).tobytes())
        found[part] = digest.hexdigest()
    return found


# Replaying


@dataclass(frozen=True)
class Differs:
    """How many places of a layer or an output differ; `largest` by how much at most."""

    name: str
    slots: int
    mismatches: int
    largest: int


@dataclass(frozen=True)
class FirstDifference:
    """
    The first spike, or where no spike differs the first output, that is not the golden's.

    Membrane and threshold are the replaying program's, before the reset, in state units and in those of
    the source network; None for outputs of read-outs.
    """

    sample: int
    step: int
    layer: str
    neuron: int
    golden: int
    now: int
    membrane: int | None = None
    threshold: int | None = None
    membrane_in_source_units: float | None = None
    threshold_in_source_units: float | None = None


@dataclass(frozen=True)
class ReplayedOn:
    """What one executor of the program made of the golden's samples."""

    name: str
    layers: tuple[Differs, ...]
    outputs: tuple[Differs, ...]
    decisions: tuple[tuple[int, int, int], ...]  # (sample, the golden's, now), where they differ
    first: FirstDifference | None

    @property
    def failed(self) -> bool:
        return self.first is not None or bool(self.decisions)


@dataclass(frozen=True)
class Replay:
    """
    A program held to a golden; `changed` are the parts of the program that are not what they were.

    `changed` is None where a program of another format cannot tell.
    """

    directory: str
    golden: Golden
    runs: tuple[ReplayedOn, ...]
    changed: tuple[str, ...] | None

    @property
    def failed(self) -> bool:
        """Whether any spike, output or decision differs."""
        return any(run.failed for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, schema 1."""
        golden = self.golden
        return {
            "schema": SCHEMA,
            "golden": self.directory,
            "failed": self.failed,
            "samples": golden.samples,
            "steps": golden.steps,
            "data": golden.data,
            "target": golden.target,
            "written_by": golden.version,
            "fingerprint": golden.fingerprint,
            "program_changed": None if self.changed is None else list(self.changed),
            "runs": [{**asdict(run), "failed": run.failed} for run in self.runs],
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        golden = self.golden
        size = [(golden.samples, "sample"), (golden.steps, "step"), (len(golden.layers), "layer")]
        counted = ", ".join(_many(count, what) for count, what in size)
        head = f"golden '{self.directory}': {counted}, written by neurocompile {golden.version}"
        told = [line for run in self.runs for line in lines_of(run)]
        after = [self._cause(), ADVICE if self.failed else ""]
        return [head, *told, *filter(None, after)]

    def _cause(self) -> str:
        if self.changed is None:
            return (
                f"whether the program changed cannot be said: the golden was made of format "
                f"{self.golden.program_format}, this is {VERSION}"
            )
        if self.changed:
            return f"the program changed since: {_listed(map(_in_words, self.changed))}"
        if self.failed:
            return "the program's integers are the golden's: what runs them changed, which is a bug"
        return ""


def replay_golden(program: Program, directory: Path, *, on: Collection[str] = ()) -> Replay:
    """
    Run `program` on the samples of the golden in `directory`, and compare all of it.

    The definition of the integers always runs, and needs numpy only; `on` names further executors of the
    program, as `Program.run` takes them. Raises `FormatError` for a damaged golden, and `DataError` with
    every layer and shape of the golden that the program does not have.
    """
    golden = read_golden(directory)
    raise_all(DataError, misfits(golden, program))
    arrays = read_arrays(directory, golden)
    payloads = program.payloads(arrays.inputs)
    layers = list(arrays.spikes)
    traces = {DEFINITION: _run_definition(program, arrays.inputs)}
    for name in dict.fromkeys(on):
        if name != DEFINITION:
            traces[name] = program.executor(name).run(payloads, record=layers)
    runs = [
        compare_trace(program, arrays, golden.decisions, name, trace)
        for name, trace in traces.items()
    ]
    return Replay(str(directory), golden, tuple(runs), _changed(golden, program))


def misfits(golden: Golden, program: Program) -> list[Problem]:
    """Return every reason why `program` cannot be run on, or compared with, `golden`."""
    network = program.network
    shapes: list[tuple[str, Mapping[str, Recorded], dict[str, tuple[int, ...]]]] = [
        ("an input", golden.inputs, {item.name: item.shape for item in network.inputs}),
        ("a spiking layer", golden.layers, {item.name: item.shape for item in network.spiking}),
        (
            "an output",
            golden.outputs,
            {output: network[name].shape for output, name in network.outputs.items()},
        ),
    ]
    problems: list[Problem] = []
    for what, recorded, there in shapes:
        for name, item in recorded.items():
            if name not in there:
                have = f"the program has {_listed(there) or 'none'}"
                problems.append(Problem(name, f"is {what} of the golden", have))
            elif there[name] != item.shape:
                have = f"the program's is {there[name]}"
                problems.append(Problem(name, f"has the shape {item.shape} in the golden", have))
        problems += [
            Problem(name, f"is {what} of the program", "the golden has none of that name")
            for name in there
            if name not in recorded
        ]
    if golden.steps > program.steps:
        problems.append(
            Problem(
                "",
                f"the golden has {golden.steps} steps",
                f"the program's range proof covers {program.steps}",
                f"export again with --steps {golden.steps}",
            )
        )
    return problems


def _changed(golden: Golden, program: Program) -> tuple[str, ...] | None:
    if golden.program_format != VERSION:
        return None
    now = parts_of(program)
    names = dict.fromkeys((*golden.parts, *now))
    return tuple(name for name in names if golden.parts.get(name) != now.get(name))


def compare_trace(
    program: Program, arrays: Arrays, decisions: Collection[int], name: str, trace: Trace
) -> ReplayedOn:
    """Return how `trace`, of the executor `name`, differs from the `arrays` and `decisions` wanted."""
    made = program.decisions(program.to_source_units(trace))
    return ReplayedOn(
        name,
        tuple(
            _differs(layer, arrays.spikes[layer], trace.spikes[layer]) for layer in arrays.spikes
        ),
        tuple(_differs(key, arrays.outputs[key], trace.outputs[key]) for key in arrays.outputs),
        tuple(
            (sample, then, int(now))
            for sample, (then, now) in enumerate(zip(decisions, made, strict=True))
            if then != now
        ),
        _first_difference(program, arrays, trace),
    )


def _differs(name: str, then: NDArray[Any], now: NDArray[Any]) -> Differs:
    difference = np.abs(now.astype(np.int64) - then.astype(np.int64))
    return Differs(
        name, then.size, int(np.count_nonzero(difference)), int(difference.max(initial=0))
    )


def _first_difference(program: Program, arrays: Arrays, trace: Trace) -> FirstDifference | None:
    """Return the first difference: of the lowest sample, its first step, in the order of layers."""
    spike = _first(arrays.spikes, trace.spikes)
    if spike is None:
        return _first(arrays.outputs, trace.outputs)
    from neurocompile_fixedpoint.definition import execute

    neurons = _neurons(program.network, spike.layer)
    inputs = {
        name: values[spike.sample : spike.sample + 1] for name, values in arrays.inputs.items()
    }
    payloads = program.payloads(inputs)
    close = execute(
        program.network,
        payloads,
        samples=1,
        steps=next(iter(payloads.values())).shape[1],
        record=[f"membrane/{spike.layer}"],
        before_reset=True,
    )
    membranes = close.membrane[spike.layer][0, spike.step]
    thresholds = np.broadcast_to(
        neurons.threshold << neurons.arithmetic.fraction_bits, neurons.shape
    )
    at = spike.neuron
    return FirstDifference(
        **{
            **asdict(spike),
            "membrane": int(membranes.flat[at]),
            "threshold": int(thresholds.flat[at]),
            "membrane_in_source_units": float(neurons.in_source_units(membranes).flat[at]),
            "threshold_in_source_units": float(neurons.in_source_units(thresholds).flat[at]),
        }
    )


def _first(
    then: Mapping[str, NDArray[Any]], now: Mapping[str, NDArray[Any]]
) -> FirstDifference | None:
    best: tuple[int, int, int, int] | None = None
    names = list(then)
    for layer, name in enumerate(names):
        differs = then[name] != now[name]
        if differs.any():
            place = int(differs.argmax())  # C order: by sample, then step, then neuron
            per_step = differs[0, 0].size
            sample, step = divmod(place // per_step, differs.shape[1])
            found = (sample, step, layer, place % per_step)
            best = found if best is None else min(best, found)
    if best is None:
        return None
    sample, step, layer, neuron = best
    values = [int(array[names[layer]][sample, step].flat[neuron]) for array in (then, now)]
    return FirstDifference(sample, step, names[layer], neuron, *values)


def _neurons(network: IntegerNetwork, name: str) -> IntegerNeurons:
    return next(item for item in network.neurons if item.name == name)


# For people


def lines_of(run: ReplayedOn, wanted: str = "the golden") -> Iterable[str]:
    """Yield what a run did for people; `wanted` is what it is compared with."""
    slots = sum(item.slots for item in run.layers)
    wrong = sum(item.mismatches for item in run.layers)
    values = sum(item.slots for item in run.outputs)
    others = sum(item.mismatches for item in run.outputs)
    yield (
        f"{run.name}: {wrong} of {slots} spikes, {others} of {values} output values, "
        f"{_many(len(run.decisions), 'decision')} differ"
        if run.failed
        else f"{run.name}: {slots} places for spikes, {values} output values, all decisions the same"
    )
    first = run.first
    if first is not None:
        yield _line_of_first(first, wanted)
    for item in (*run.layers, *run.outputs):
        if item.mismatches:
            yield f"  '{item.name}': {item.mismatches} of {item.slots}, by {item.largest} at most"
    for sample, then, now in run.decisions[:MOST_SHOWN]:
        yield f"  decision of sample {sample}: {now}, {wanted} has {then}"
    if len(run.decisions) > MOST_SHOWN:
        yield f"  and {len(run.decisions) - MOST_SHOWN} more decisions"


def _line_of_first(first: FirstDifference, wanted: str) -> str:
    where = (
        f"  first difference: sample {first.sample}, step {first.step}, '{first.layer}', "
        f"neuron {first.neuron}: {first.now}, {wanted} has {first.golden}"
    )
    if first.membrane is None:
        return where
    return (
        f"{where} (membrane {first.membrane}, threshold {first.threshold}; in the source's units "
        f"{first.membrane_in_source_units:.6g} and {first.threshold_in_source_units:.6g})"
    )


def _in_words(part: str) -> str:
    kind, slash, name = part.partition("/")
    if not slash:
        return "the weights of steps in the decision" if kind == DECISION else f"the {kind}"
    return f"synapses '{name}'" if kind == "synapses" else f"'{name}'"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - MOST_SHOWN
    return ", ".join(every[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def is_golden(directory: Path) -> bool:
    """
    Return whether `golden.json` in `directory` says that it is a golden's, without reading all of it.

    A damaged one may still say so: it is ours to replace.
    """
    file = directory / MANIFEST
    if not file.is_file():
        return False
    try:
        with file.open("rb") as stream:
            return json.dumps(FORMAT).encode() in stream.read(MOST_START)
    except OSError:
        return False
