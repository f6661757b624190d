"""
A program: integers, timing and their proof, in memory and on disk.

PROGRAM_DIR holds `program.json` (for people), `tensors.npz` (for machines; no pickles), `graph.nir`
(the folded float graph), whatever else the compiler and the target add, and a checksum of each. This
module needs numpy only: it is what a Loihi host reads programs with.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurocompile import chips
from neurocompile import target as targets
from neurocompile.atomic import replacing_directory
from neurocompile.blocks import row_blocks
from neurocompile.data import Inputs, by_input
from neurocompile.decision import decisions, weights_in
from neurocompile.errors import (
    DataError,
    MissingDependencyError,
    NeurocompileError,
    OptionError,
    Problem,
    ProgramFormatError,
    raise_all,
)
from neurocompile.integer import (
    Bound,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerRelay,
    Schedule,
    Trace,
    to_payload,
)
from neurocompile.legal import problems_of
from neurocompile.limits import Limits, contradictions
from neurocompile.manifest import (
    MANIFEST,
    describe_network,
    expected_tensors,
    network_of,
    read_files,
    read_manifest,
    seal,
    tensors_of,
)
from neurocompile.passes.prove_ranges import prove_ranges
from neurocompile.passes.schedule import schedule
from neurocompile.tensors import npz_bytes, read_tensors

if TYPE_CHECKING:
    from typing_extensions import Self

TENSORS = "tensors.npz"
GRAPH = "graph.nir"
REFERENCE = "reference.npz"

LARGEST_LIMIT = (1 << 31) - 1  # what the engines compute with, whatever a manifest says
GRID_TOLERANCE = 1e-4  # of one payload; float32 inputs on a grid of 1/255 are off by 1e-5 at most


@dataclass(frozen=True)
class Result:
    """
    What a program did on some samples; arrays are (samples, steps, *shape).

    `outputs` are in the units of the source network: logits of a read-out as float64, or spikes as
    integers. `spikes` are 0 or 1, or how many there were in one step (uint8, or wider where a layer may fire
    more than 255 times in one); `membrane` is in the units of the source network's membrane, after the reset.
    """

    outputs: Mapping[str, NDArray[Any]]
    spikes: Mapping[str, NDArray[Any]]
    membrane: Mapping[str, NDArray[np.float64]]
    trace: Trace

    @property
    def output(self) -> NDArray[Any]:
        """The only output; raises `OptionError` where there are several."""
        if len(self.outputs) > 1:
            names = ", ".join(self.outputs)
            raise OptionError(Problem("", "there are several outputs", names, "use .outputs"))
        (only,) = self.outputs.values()
        return only


@dataclass(frozen=True)
class Program:
    """
    Integers that are proven to fit, with the timing of their pipeline.

    `steps` is how many steps a sample may have at most: the proof covers no more. `facts` is what
    else `program.json` tells people (how the network was read, folded and quantised); `extra_files`
    are the other files of the directory.
    """

    target: str
    options: Mapping[str, str]
    network: IntegerNetwork
    schedule: Schedule
    bounds: tuple[Bound, ...]
    steps: int
    native_steps: int | None
    facts: Mapping[str, Any]
    extra_files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    _executors: dict[str, targets.Executor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _opening: threading.Lock = field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )

    def run(
        self,
        inputs: Inputs,
        record: Collection[str] = (),
        on: str | None = None,
        *,
        progress: targets.Progress | None = None,
        deadline: float | None = None,
    ) -> Result:
        """
        Run `inputs` and return what came out.

        They are (samples, steps, *input shape), or one such array per input, by name.

        `record` names spiking layers (or is "all"), and `membrane/<layer>`. `on` names another
        executor of the same integers, and perhaps its engine: "fixedpoint:definition". A second call
        costs no second set-up. Raises `DataError` for inputs that the proof does not cover,
        `ExecutionError` if the target fails or takes more than `deadline` seconds.
        """
        payloads = self.payloads(inputs)
        names = self.resolve_record(record)
        trace = self.executor(on).run(payloads, record=names, progress=progress, deadline=deadline)
        return self.to_source_units(trace)

    def decisions(self, result: Result) -> NDArray[np.int64]:
        """
        Return the class of each sample of `result`, (samples,): the largest mean of the first output.

        The steps count as in training, if there are as many; else all alike.
        """
        return decisions(next(iter(result.outputs.values())), weights_in(self.facts))

    def executor(self, on: str | None = None) -> targets.Executor:
        """Return the executor of this program on target `on`, set up once."""
        name = on or self.target
        with self._opening:
            if name not in self._executors:
                self._executors[name] = self._open(name)
            return self._executors[name]

    def _open(self, name: str) -> targets.Executor:
        """Open an executor; a target may need files that only its own compile half writes."""
        target_name, colon, engine = name.partition(":")
        if target_name not in (self.target, "fixedpoint"):
            raise OptionError(
                Problem(
                    "",
                    f"a program for '{self.target}' cannot run on '{name}'",
                    remedy=f"export it for '{target_name}', or leave --on out"
                    if target_name
                    else "",
                )
            )
        target = targets.find(target_name)
        if colon and engine not in target.engines:
            raise OptionError(
                Problem(
                    "",
                    f"target '{target_name}' has no engine '{engine}'",
                    remedy=f"it has {', '.join(target.engines)}"
                    if target.engines
                    else "it has one",
                )
            )
        return target.open(self, engine) if engine else target.open(self)

    def close(self) -> None:
        """Release what `run` set up; `run` may be called again."""
        while self._executors:
            self._executors.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def resolve_record(self, record: Collection[str]) -> tuple[str, ...]:
        """
        Return the names of `record`, with "all" spelled out; raises `OptionError` for unknown ones.

        "all" are the spiking layers; relays, which the compiler added, are recorded by name.
        """
        spiking = [neurons.name for neurons in self.network.spiking]
        names = [record] if isinstance(record, str) else list(record)
        if "all" in names:
            names = [name for name in names if name != "all"] + spiking
        relays = [item.name for item in self.network.populations if isinstance(item, IntegerRelay)]
        membranes = (f"membrane/{neurons.name}" for neurons in self.network.neurons)
        known = {*spiking, *relays, *membranes}
        problems = [
            Problem(
                "",
                f"there is no layer '{name}' to record",
                remedy=f"choose from {', '.join(sorted(known))}",
            )
            for name in names
            if name not in known
        ]
        raise_all(OptionError, problems)
        return tuple(dict.fromkeys(names))

    def payloads(self, inputs: Inputs) -> dict[str, Integer]:
        """
        Return the integers that stand for `inputs`, by input.

        Raises `DataError` for what the proof does not cover.
        """
        named = by_input(inputs, [population.name for population in self.network.inputs])
        problems: list[Problem] = []
        payloads: dict[str, Integer] = {}
        for population in self.network.inputs:
            values = named[population.name]
            found = _problems_of_input(population, values, self.steps)
            if not found:
                payloads[population.name], found = _payload(population, values)
            problems += found
        raise_all(DataError, problems)
        return payloads

    def to_source_units(self, trace: Trace) -> Result:
        """Return `trace` in the units of the source network."""
        neurons = {item.name: item for item in self.network.neurons}
        outputs: dict[str, NDArray[Any]] = {}
        for output, name in self.network.outputs.items():
            shown, values = neurons[name], trace.outputs[output]
            outputs[output] = shown.in_source_units(values) if shown.readout else values
        return Result(
            outputs=outputs,
            spikes=trace.spikes,
            membrane={
                name: neurons[name].in_source_units(values)
                for name, values in trace.membrane.items()
            },
            trace=trace,
        )

    def save(self, directory: Path) -> None:
        """Write PROGRAM_DIR, whole or not at all; the same program gives the same bytes."""
        with replacing_directory(directory, marker=MANIFEST) as temporary:
            files = {TENSORS: npz_bytes(tensors_of(self.network)), **self.extra_files}
            for name, content in files.items():
                (temporary / name).write_bytes(content)
            (temporary / MANIFEST).write_text(seal(self._manifest(), files), encoding="utf-8")

    def _manifest(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "options": dict(self.options),
            "steps": self.steps,
            "native_steps": self.native_steps,
            **describe_network(self.network),
            "schedule": asdict(self.schedule),
            "bounds": [asdict(bound) for bound in self.bounds],
            **self.facts,
        }


def _problems_of_input(population: IntegerInput, inputs: NDArray[Any], steps: int) -> list[Problem]:
    """Return what is wrong with the type, the shape or the length of `inputs`."""
    if inputs.dtype.kind not in "biuf":
        return [Problem(population.name, "needs numbers", f"its inputs are {inputs.dtype}")]
    if inputs.shape[2:] != population.shape or inputs.ndim < 2:
        wanted = ", ".join(["samples", "steps", *map(str, population.shape)])
        return [
            Problem(
                population.name,
                f"needs inputs of shape ({wanted})",
                f"they have {inputs.shape}",
                "put samples first, steps second, channels third",
            )
        ]
    problems: list[Problem] = []
    if 0 in inputs.shape:
        problems.append(
            Problem("", "inputs need at least one sample and one step", f"they have {inputs.shape}")
        )
    if inputs.shape[1] > steps:
        problems.append(
            Problem(
                "",
                f"the range proof covers {steps} steps a sample",
                f"the inputs have {inputs.shape[1]}",
                f"export again with --steps {inputs.shape[1]}",
            )
        )
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        bad = int((~np.isfinite(inputs)).sum())
        problems.append(Problem("", "inputs must be finite", f"{bad} values are NaN or infinite"))
    return problems


def _payload(population: IntegerInput, values: NDArray[Any]) -> tuple[Integer, list[Problem]]:
    """Return the integers that stand for `values`, and whether those leave the proven range, or the grid."""
    payload: Integer = np.empty(values.shape, np.int64)
    outside = off = 0
    for rows in row_blocks(values):
        part = to_payload(population, values[rows])
        payload[rows] = part
        beyond = (part < population.minimum) | (part > population.maximum)
        outside += int(beyond.sum())
        if population.exact:
            off += int((np.abs(values[rows] * population.scale - part) > GRID_TOLERANCE).sum())
    if outside:
        low, high = (end / population.scale for end in (population.minimum, population.maximum))
        return payload, [
            Problem(
                population.name,
                f"needs values from {low:g} to {high:g}",
                f"{outside} values reach from {values.min():g} to {values.max():g}",
                "scale them as in training, or export again with --input-range",
            )
        ]
    if off:
        return payload, [
            Problem(
                population.name,
                f"needs multiples of {1 / population.scale:g}",
                f"{off} values are not",
                "prepare them as in training, or export again with --input-range MIN:MAX",
            )
        ]
    return payload, []


def load(directory: Path | str) -> Program:
    """
    Return the program in `directory`.

    Raises `ProgramFormatError` if anything is missing, changed or not what the manifest says.
    """
    path = Path(directory)
    manifest = read_manifest(path)
    files = read_files(path, manifest)
    try:
        program = _from_manifest(manifest, files)
    except (ProgramFormatError, MissingDependencyError):
        raise
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        NeurocompileError,
    ) as error:
        raise ProgramFormatError(
            Problem(
                "",
                f"'{path / MANIFEST}' is not a complete program ({type(error).__name__}: {error})",
            )
        ) from error
    return program


def _from_manifest(manifest: dict[str, Any], files: dict[str, bytes]) -> Program:
    # Neither the file nor its narrow arrays are kept beside the network that they become.
    network = network_of(manifest, read_tensors(files.pop(TENSORS), expected_tensors(manifest)))
    known = {
        "format",
        "version",
        "target",
        "options",
        "steps",
        "native_steps",
        "arithmetic",
        "populations",
        "synapses",
        "outputs",
        "schedule",
        "bounds",
        "checksums",
        "checksum",
    }
    raise_all(ProgramFormatError, problems_of(network))
    weights_in(manifest)  # or the decision would only fail when it is asked for
    program = Program(
        target=str(manifest["target"]),
        options={str(key): str(value) for key, value in manifest["options"].items()},
        network=network,
        schedule=Schedule(**manifest["schedule"]),
        bounds=tuple(Bound(**bound) for bound in manifest["bounds"]),
        steps=int(manifest["steps"]),
        native_steps=None if manifest["native_steps"] is None else int(manifest["native_steps"]),
        facts={key: value for key, value in manifest.items() if key not in known},
        extra_files=files,
    )
    _prove_again(program)
    return program


def _prove_again(program: Program) -> None:
    """Refuse a program whose timing or range proof is not that of its integers."""
    stored = program.facts["limits"]
    odd = {field.name for field in fields(Limits)} ^ set(stored)
    if odd:
        raise ProgramFormatError(f"the manifest's limits lack or add {', '.join(sorted(odd))}")
    limits = Limits(**stored)
    wrong = [
        name
        for name, value in stored.items()
        if not isinstance(value, str)
        and (
            not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_LIMIT
        )
    ]
    if wrong:
        raise ProgramFormatError(f"the manifest's limits are none: {', '.join(wrong)}")
    raise_all(ProgramFormatError, contradictions(limits))
    _hold_to_chip(program, limits)
    if any(neurons.arithmetic != limits.arithmetic for neurons in program.network.neurons):
        raise ProgramFormatError("the manifest's arithmetic is not that of its limits")
    if program.steps < 1 or (program.native_steps or 1) < 1:
        raise ProgramFormatError("the manifest's steps must be positive")
    if prove_ranges(program.network, limits, steps=program.steps) != program.bounds:
        raise ProgramFormatError("the manifest's bounds are not those of its integers")
    if schedule(program.network) != program.schedule:
        raise ProgramFormatError("the manifest's schedule is not that of its network")


def _hold_to_chip(program: Program, limits: Limits) -> None:
    """Refuse a program whose chip is not the one that its manifest tells of, or cannot do what it needs."""
    told, content = program.facts.get("chip"), program.extra_files.get(chips.CHIP)
    if content is None:
        if told is not None:
            raise ProgramFormatError(
                f"the manifest tells of a chip, and there is no '{chips.CHIP}'"
            )
        return
    chip = chips.parse_chip(content, chips.CHIP)
    if chip.limits != limits:
        raise ProgramFormatError(f"the manifest's limits are not those of its '{chips.CHIP}'")
    if chip.facts != told:
        raise ProgramFormatError(f"the manifest's chip is not that of its '{chips.CHIP}'")
    raise_all(ProgramFormatError, chips.problems_of(program.network, chip))
