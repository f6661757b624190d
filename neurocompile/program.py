"""
A program: integers, timing and their proof, in memory and on disk.

PROGRAM_DIR holds `program.json` (for people), `tensors.npz` (for machines; no pickles), `graph.nir`
(the folded float graph), whatever else the compiler and the target add, and a checksum of each. This
module needs numpy only: it is what a Loihi host reads programs with.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurocompile import target as targets
from neurocompile.atomic import replacing_directory
from neurocompile.errors import DataError, OptionError, Problem, ProgramFormatError, RangeError
from neurocompile.integer import (
    STATE_FRACTION_BITS,
    Bound,
    Geometry,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerSynapses,
    Schedule,
    Trace,
    to_payload,
)

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT = "neurocompile program"
VERSION = 1
MANIFEST = "program.json"
TENSORS = "tensors.npz"
GRAPH = "graph.nir"
REFERENCE = "reference.npz"

LARGEST_TENSOR_BYTES = 2 << 30
NPY_HEADER_BYTES = 256
GRID_TOLERANCE = 1e-4  # of one payload; float32 inputs on a grid of 1/255 are off by 1e-5 at most


@dataclass(frozen=True)
class Result:
    """
    What a program did on some samples; arrays are (samples, steps, *shape).

    `output` is in the units of the source network: logits of a read-out as float64, or spikes as
    integers. `spikes` are 0 or 1, `membrane` in the units of the source network's membrane, after the reset.
    """

    output: NDArray[Any]
    spikes: Mapping[str, NDArray[np.uint8]]
    membrane: Mapping[str, NDArray[np.float64]]
    trace: Trace


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

    def run(
        self,
        inputs: ArrayLike,
        record: Collection[str] = (),
        on: str | None = None,
        *,
        progress: targets.Progress | None = None,
        deadline: float | None = None,
    ) -> Result:
        """
        Run `inputs` (samples, steps, *input shape) and return what came out.

        `record` names spiking layers (or is "all"), and `membrane/<layer>`. `on` names another
        executor of the same integers. A second call costs no second set-up. Raises `DataError` for
        inputs that the proof does not cover, `ExecutionError` if the target fails or takes more than
        `deadline` seconds.
        """
        payloads = self.payloads(np.asarray(inputs))
        names = self.resolve_record(record)
        trace = self.executor(on).run(payloads, record=names, progress=progress, deadline=deadline)
        return self.to_source_units(trace)

    def executor(self, on: str | None = None) -> targets.Executor:
        """Return the executor of this program on target `on`, set up once."""
        name = on or self.target
        if name not in self._executors:
            self._executors[name] = self._open(name)
        return self._executors[name]

    def _open(self, name: str) -> targets.Executor:
        """Open an executor; a target may need files that only its own compile half writes."""
        if name not in (self.target, "fixedpoint"):
            raise OptionError(
                Problem(
                    "",
                    f"a program for '{self.target}' cannot run on '{name}'",
                    remedy=f"choose '{self.target}' or 'fixedpoint', or export it for '{name}'",
                )
            )
        return targets.find(name).open(self)

    def close(self) -> None:
        """Release what `run` set up; `run` may be called again."""
        while self._executors:
            self._executors.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def input(self) -> IntegerInput:
        (only,) = self.network.inputs
        return only

    def resolve_record(self, record: Collection[str]) -> tuple[str, ...]:
        """Return the names of `record`, with "all" spelled out; raises `OptionError` for unknown ones."""
        spiking = [neurons.name for neurons in self.network.spiking]
        names = [record] if isinstance(record, str) else list(record)
        if "all" in names:
            names = [name for name in names if name != "all"] + spiking
        known = {*spiking, *(f"membrane/{neurons.name}" for neurons in self.network.neurons)}
        problems = [
            Problem(
                "",
                f"there is no layer '{name}' to record",
                remedy=f"choose from {', '.join(sorted(known))}",
            )
            for name in names
            if name not in known
        ]
        if problems:
            raise OptionError(*problems)
        return tuple(dict.fromkeys(names))

    def payloads(self, inputs: NDArray[Any]) -> Integer:
        """Return the integers that stand for `inputs`; raises `DataError` for what is not covered."""
        problems: list[Problem] = []
        shape = self.input.shape
        if inputs.dtype.kind not in "biuf":
            raise DataError(Problem("", "inputs must be numbers", f"they are {inputs.dtype}"))
        if inputs.shape[2:] != shape or inputs.ndim < 2:
            wanted = ", ".join(["samples", "steps", *map(str, shape)])
            raise DataError(
                Problem(
                    self.input.name,
                    f"needs inputs of shape ({wanted})",
                    f"they have {inputs.shape}",
                    "put samples first, steps second, channels third",
                )
            )
        if 0 in inputs.shape:
            problems.append(
                Problem(
                    "", "inputs need at least one sample and one step", f"they have {inputs.shape}"
                )
            )
        if inputs.shape[1] > self.steps:
            problems.append(
                Problem(
                    "",
                    f"the range proof covers {self.steps} steps a sample",
                    f"the inputs have {inputs.shape[1]}",
                    f"export again with --steps {inputs.shape[1]}",
                )
            )
        if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
            bad = int((~np.isfinite(inputs)).sum())
            problems.append(
                Problem("", "inputs must be finite", f"{bad} values are NaN or infinite")
            )
            raise DataError(*problems)
        payloads = to_payload(self.input, inputs)
        outside = (payloads < self.input.minimum) | (payloads > self.input.maximum)
        if outside.any():
            low, high = (end / self.input.scale for end in (self.input.minimum, self.input.maximum))
            problems.append(
                Problem(
                    self.input.name,
                    f"needs values from {low:g} to {high:g}",
                    f"{int(outside.sum())} values reach from {inputs.min():g} to {inputs.max():g}",
                    "scale them as in training, or export again with --input-range",
                )
            )
        elif self.input.exact:
            off = np.abs(inputs * self.input.scale - payloads) > GRID_TOLERANCE
            if off.any():
                problems.append(
                    Problem(
                        self.input.name,
                        f"needs multiples of {1 / self.input.scale:g}",
                        f"{int(off.sum())} values are not",
                        "prepare them as in training, or export again with --input-range MIN:MAX",
                    )
                )
        if problems:
            raise DataError(*problems)
        return payloads

    def to_source_units(self, trace: Trace) -> Result:
        """Return `trace` in the units of the source network."""
        (output,) = self.network.outputs
        units = {
            neurons.name: neurons.scale * (1 << STATE_FRACTION_BITS)
            for neurons in self.network.neurons
        }
        neurons = self.network[output]
        readout = isinstance(neurons, IntegerNeurons) and neurons.readout
        return Result(
            output=trace.output / units[output] if readout else trace.output,
            spikes=trace.spikes,
            membrane={name: values / units[name] for name, values in trace.membrane.items()},
            trace=trace,
        )

    def save(self, directory: Path) -> None:
        """Write PROGRAM_DIR, whole or not at all; the same program gives the same bytes."""
        with replacing_directory(directory, marker=MANIFEST) as temporary:
            files = {TENSORS: npz_bytes(_tensors(self.network)), **self.extra_files}
            for name, content in files.items():
                (temporary / name).write_bytes(content)
            manifest = self._manifest()
            manifest["checksums"] = {
                name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())
            }
            manifest["checksum"] = _checksum_of(manifest)
            text = json.dumps(manifest, indent=2) + "\n"
            (temporary / MANIFEST).write_text(text, encoding="utf-8")

    def _manifest(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "target": self.target,
            "options": dict(self.options),
            "steps": self.steps,
            "native_steps": self.native_steps,
            "populations": [_describe_population(item) for item in self.network.populations],
            "synapses": [_describe_synapses(group) for group in self.network.synapses],
            "outputs": list(self.network.outputs),
            "schedule": asdict(self.schedule),
            "bounds": [asdict(bound) for bound in self.bounds],
            **self.facts,
        }


def load(directory: Path | str) -> Program:
    """
    Return the program in `directory`.

    Raises `ProgramFormatError` if anything is missing, changed or not what the manifest says.
    """
    path = Path(directory)
    manifest = _read_manifest(path)
    files = _read_files(path, manifest)
    try:
        program = _from_manifest(manifest, files)
    except (KeyError, TypeError, ValueError, AttributeError, RangeError) as error:
        raise ProgramFormatError(
            Problem(
                "",
                f"'{path / MANIFEST}' is not a complete program ({type(error).__name__}: {error})",
            )
        ) from error
    return program


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return `arrays` as an .npz file whose bytes depend on nothing else."""
    buffer = io.BytesIO()
    ordered: dict[str, Any] = {name: arrays[name] for name in sorted(arrays)}
    np.savez(buffer, **ordered)
    return buffer.getvalue()


def read_tensors(
    content: bytes, expected: Mapping[str, tuple[tuple[int, ...], str]]
) -> dict[str, NDArray[Any]]:
    """
    Return the arrays of an .npz file that must hold exactly `expected` (name: shape, type).

    Sizes are checked before anything is unpacked; no pickles. Raises `ValueError` with the reason.
    """
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if sorted(members) != sorted(expected) or len(members) != len(archive.infolist()):
                raise ValueError("it does not hold the tensors that the manifest lists")
            for name, (shape, dtype) in expected.items():
                size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
                if size > LARGEST_TENSOR_BYTES or members[name].file_size > size + NPY_HEADER_BYTES:
                    raise ValueError(
                        f"tensor '{name}' is larger than the manifest says, or than is allowed"
                    )
                with archive.open(members[name]) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
                if array.shape != shape or array.dtype != np.dtype(dtype):
                    raise ValueError(
                        f"tensor '{name}' is {array.dtype} {array.shape}, not {dtype} {shape}"
                    )
                arrays[name] = array
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise ValueError(str(error)) from error
    return arrays


def _checksum_of(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise ProgramFormatError(
            Problem(
                "",
                f"'{path}' is not a program directory: it has no {MANIFEST}",
                remedy="make one with 'neurocompile export'",
            )
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ProgramFormatError(Problem("", f"'{file}' is damaged ({error})")) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ProgramFormatError(Problem("", f"'{file}' is not a manifest of neurocompile"))
    if manifest.get("version") != VERSION:
        raise ProgramFormatError(
            Problem(
                "",
                f"'{file}' must be of version {VERSION}",
                f"it is {manifest.get('version')!r}",
                "export it again",
            )
        )
    if manifest.get("checksum") != _checksum_of(manifest):
        raise ProgramFormatError(
            Problem(
                "",
                f"'{file}' was changed after it was written",
                "its checksum differs",
                "export it again",
            )
        )
    return manifest


def _read_files(path: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the contents of all listed files, or raise with every file that is missing or changed."""
    problems: list[Problem] = []
    files: dict[str, bytes] = {}
    for name, checksum in manifest.get("checksums", {}).items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            problems.append(
                Problem("", f"'{path}' needs the file '{name}'", "it is missing", "export it again")
            )
            continue
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != checksum:
            problems.append(
                Problem(
                    "",
                    f"'{file}' was changed or cut short",
                    "its checksum differs",
                    "export it again",
                )
            )
        files[name] = content
    if problems:
        raise ProgramFormatError(*problems)
    return files


def _from_manifest(manifest: dict[str, Any], files: Mapping[str, bytes]) -> Program:
    expected = {
        key: (tuple(int(extent) for extent in entry["shape"]), str(entry["dtype"]))
        for key, entry in _described_tensors(manifest)
    }
    tensors = read_tensors(files[TENSORS], expected)
    known = {
        "format",
        "version",
        "target",
        "options",
        "steps",
        "native_steps",
        "populations",
        "synapses",
        "outputs",
        "schedule",
        "bounds",
        "checksums",
        "checksum",
    }
    return Program(
        target=str(manifest["target"]),
        options={str(key): str(value) for key, value in manifest["options"].items()},
        network=IntegerNetwork(
            tuple(_population(entry, tensors) for entry in manifest["populations"]),
            tuple(_synapses(entry, tensors) for entry in manifest["synapses"]),
            tuple(str(name) for name in manifest["outputs"]),
        ),
        schedule=Schedule(**manifest["schedule"]),
        bounds=tuple(Bound(**bound) for bound in manifest["bounds"]),
        steps=int(manifest["steps"]),
        native_steps=manifest["native_steps"],
        facts={key: value for key, value in manifest.items() if key not in known},
        extra_files={name: content for name, content in files.items() if name != TENSORS},
    )


def _smallest_type(values: Integer) -> NDArray[Any]:
    for dtype in (np.int8, np.int16, np.int32):
        information = np.iinfo(dtype)
        if values.size == 0 or (
            values.min() >= information.min and values.max() <= information.max
        ):
            return values.astype(dtype)
    return values


def _tensors(network: IntegerNetwork) -> dict[str, NDArray[Any]]:
    tensors = {f"bias/{neurons.name}": neurons.bias_mantissa for neurons in network.neurons}
    tensors |= {f"weight/{group.name}": group.weight for group in network.synapses}
    tensors |= {f"delay/{group.name}": group.delay for group in network.synapses}
    return {name: _smallest_type(values) for name, values in tensors.items()}


def _tensor_entry(values: Integer) -> dict[str, Any]:
    stored = _smallest_type(values)
    return {"shape": list(stored.shape), "dtype": str(stored.dtype)}


def _described_tensors(manifest: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for entry in manifest["populations"]:
        if entry["kind"] != "input":
            yield f"bias/{entry['name']}", entry["bias_mantissa"]
    for entry in manifest["synapses"]:
        yield f"weight/{entry['name']}", entry["weight"]
        yield f"delay/{entry['name']}", entry["delay"]


def _describe_population(population: IntegerPopulation) -> dict[str, Any]:
    if isinstance(population, IntegerInput):
        return {"kind": "input", **asdict(population), "shape": list(population.shape)}
    return {
        "kind": "readout" if population.readout else "spiking",
        "name": population.name,
        "shape": list(population.shape),
        "du": population.du,
        "dv": population.dv,
        "threshold": population.threshold,
        "bias_mantissa": _tensor_entry(population.bias_mantissa),
        "bias_exponent": population.bias_exponent,
        "scale": population.scale,
    }


def _population(entry: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> IntegerPopulation:
    shape = tuple(int(extent) for extent in entry["shape"])
    if entry["kind"] == "input":
        return IntegerInput(
            str(entry["name"]),
            shape,
            float(entry["scale"]),
            int(entry["minimum"]),
            int(entry["maximum"]),
            bool(entry["exact"]),
        )
    bias = tensors[f"bias/{entry['name']}"].astype(np.int64)
    np.broadcast_to(bias, shape)
    return IntegerNeurons(
        str(entry["name"]),
        shape,
        du=int(entry["du"]),
        dv=int(entry["dv"]),
        threshold=int(entry["threshold"]),
        bias_mantissa=bias,
        bias_exponent=int(entry["bias_exponent"]),
        scale=float(entry["scale"]),
        readout=entry["kind"] == "readout",
    )


def _describe_synapses(group: IntegerSynapses) -> dict[str, Any]:
    return {
        "name": group.name,
        "source": group.source,
        "target": group.target,
        "kind": "dense" if group.geometry is None else "convolution",
        "weight": _tensor_entry(group.weight),
        "geometry": None if group.geometry is None else asdict(group.geometry),
        "exponent": group.exponent,
        "delay": _tensor_entry(group.delay),
        "computed_by": "host" if group.on_host else "chip",
    }


def _synapses(entry: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> IntegerSynapses:
    geometry = entry["geometry"]
    return IntegerSynapses(
        str(entry["name"]),
        str(entry["source"]),
        str(entry["target"]),
        tensors[f"weight/{entry['name']}"].astype(np.int64),
        None
        if geometry is None
        else Geometry(**{key: _tuple_or_int(value) for key, value in geometry.items()}),
        exponent=int(entry["exponent"]),
        delay=tensors[f"delay/{entry['name']}"].astype(np.int64),
        on_host=entry["computed_by"] == "host",
    )


def _tuple_or_int(value: Any) -> Any:
    return tuple(int(item) for item in value) if isinstance(value, list) else int(value)
