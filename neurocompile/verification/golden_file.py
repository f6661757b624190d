"""
The files of a golden: what a program did on a few samples, kept for years.

    golden.json    what is in it, for people; a checksum of itself and of the other files
    golden.npz     the tensors, as plain arrays of numpy (no pickles)
    nirdata.h5     the same inputs and spikes as NIR's data format has them, for other tools

`golden.json`, schema 1:

    format, schema       "neurocompile golden", 1
    neurocompile         the version that wrote it
    stage                "fixedpoint": the definition of the integers produced everything
    program              target; format of its manifest; `parts`, a checksum of every population and of
                         every group of synapses, so that a later replay can say what changed
    data, samples, steps the samples' source, the first `samples` of it, and the steps of each
    inputs               name -> shape, dtype, `every_step` (false: one step is stored, shown at each)
    layers               name -> shape, dtype ("bits": 0 or 1, packed), spikes of the recording
    outputs              name -> shape, dtype, what it `shows` ("spikes"; "input", "membrane": state units)
    decisions, labels    a class for each sample; null where there are no labels
    nirdata              `file` and `dt`, or why there is no file
    files, checksum      SHA-256 of the other files, and of this one's rest

`golden.npz` holds `input/<name>` (samples, steps or 1, *shape), in the units that the program takes;
`spikes/<layer>` (samples, steps, *shape), where "bits" are what `numpy.packbits` makes of all values in
C order; `output/<name>` (samples, steps, *shape) as the integers themselves, not scaled.

`nirdata.h5` is a `NIRGraphData` of nir: for each input an observable "input" (`TimeGriddedData`), for
each layer "spikes": `TimeGriddedData` of booleans where a neuron fires at most once a step, else
`ValuedEventData`. Neurons are in C order, and `dt` is 1: times are steps. Integers of outputs, shapes,
decisions and labels have no place in that format: they are in the other two files only, from which alone
a golden is replayed.

A schema is never changed: a reader of a later version reads all earlier ones. Reading needs numpy only;
writing `nirdata.h5` needs nir and h5py. A golden from a stranger is hostile: nothing in it is compressed, so
that what is unpacked is never larger than eight times its file, and a limit holds for all of it together.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurocompile import __version__
from neurocompile.atomic import replacing_files
from neurocompile.errors import DataError, EquivalenceError, FormatError, Problem, raise_all
from neurocompile.integer import Shape
from neurocompile.tensors import npz_bytes, read_tensors

if TYPE_CHECKING:
    import nir

FORMAT, SCHEMA = "neurocompile golden", 1
MANIFEST, TENSORS, NIRDATA = "golden.json", "golden.npz", "nirdata.h5"
BITS = "bits"  # the type of spikes that are 0 or 1

MOST_SAMPLES = 4096
MOST_STEPS = 1 << 20
MOST_VALUES = 1 << 30  # of all tensors, unpacked
MOST_JSON_BYTES = 16 << 20
MOST_FILE_BYTES = 2 << 30
INPUT_TYPES = (
    "float32",
    "float64",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "bool",
)
INTEGER_TYPES = ("uint8", "int8", "int16", "int32", "int64")
DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Recorded:
    """The shape of one tensor without samples and steps, and its type; `every_step` as above."""

    shape: Shape
    dtype: str
    every_step: bool = True
    shows: str = ""
    spikes: int = 0


@dataclass(frozen=True)
class Golden:
    """What `golden.json` says; tensors are read by `read_arrays`."""

    target: str
    program_format: int
    parts: Mapping[str, str]
    data: str
    samples: int
    steps: int
    inputs: Mapping[str, Recorded]
    layers: Mapping[str, Recorded]
    outputs: Mapping[str, Recorded]
    decisions: tuple[int, ...]
    labels: tuple[int, ...] | None
    nirdata: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__
    stage: str = "fixedpoint"

    @property
    def fingerprint(self) -> str:
        """The checksum of the program's integers, in all."""
        return hashlib.sha256(json.dumps(dict(self.parts), sort_keys=True).encode()).hexdigest()

    def described(self) -> dict[str, Any]:
        """Return it as plain values, without the checksums of its files."""
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "neurocompile": self.version,
            "stage": self.stage,
            "program": {
                "target": self.target,
                "format": self.program_format,
                "fingerprint": self.fingerprint,
                "parts": dict(self.parts),
            },
            "data": self.data,
            "samples": self.samples,
            "steps": self.steps,
            **{
                kind: {name: _described(item) for name, item in getattr(self, kind).items()}
                for kind in ("inputs", "layers", "outputs")
            },
            "decisions": list(self.decisions),
            "labels": None if self.labels is None else list(self.labels),
            "nirdata": dict(self.nirdata),
        }


@dataclass(frozen=True)
class Arrays:
    """The tensors of a golden, unpacked: (samples, steps, *shape) by name."""

    inputs: Mapping[str, NDArray[Any]]
    spikes: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]


def describe_arrays(arrays: Arrays, *, shows: Mapping[str, str]) -> dict[str, dict[str, Recorded]]:
    """Return what `golden.json` says of `arrays`; `shows` tells it of the outputs."""
    return {
        "inputs": {
            name: Recorded(values.shape[2:], values.dtype.name, every_step=not _constant(values))
            for name, values in arrays.inputs.items()
        },
        "layers": {
            name: Recorded(
                values.shape[2:], _type_of_spikes(values), spikes=int(values.sum(dtype=np.int64))
            )
            for name, values in arrays.spikes.items()
        },
        "outputs": {
            name: Recorded(values.shape[2:], _narrowest(values), shows=shows[name])
            for name, values in arrays.outputs.items()
        },
    }


def write_files(golden: Golden, arrays: Arrays, directory: Path) -> Golden:
    """
    Write `golden` to `directory`, whole or not at all; the same golden gives the same bytes.

    The golden's own files are replaced, the manifest last; others in `directory` stay. Returns it with
    what was written of NIR's data. Raises `OptionError` where nothing can be written, `DataError` for
    more than a golden may hold and for what could not be read again.
    """
    raise_all(DataError, _too_large(golden))
    own = (TENSORS, NIRDATA, MANIFEST)
    with replacing_files(directory, own, option="--golden") as temporary:
        said, content = _nirdata(arrays)
        if content is not None:
            (temporary / NIRDATA).write_bytes(content)
        (temporary / TENSORS).write_bytes(npz_bytes(_packed(golden, arrays)))
        complete = Golden(**{**vars(golden), "nirdata": said})
        sealed = complete.described()
        sealed["files"] = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(temporary.iterdir())
        }
        sealed["checksum"] = _checksum(sealed)
        text = json.dumps(sealed, indent=2) + "\n"
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        _read_again(temporary, complete, arrays)
    return complete


def _read_again(directory: Path, golden: Golden, arrays: Arrays) -> None:
    """Raise an error unless `directory` holds `golden` and `arrays` for those who read it."""
    try:
        back = read_golden(directory)
        kept = read_arrays(directory, back)
    except FormatError as error:
        problems = (problem.have or problem.need for problem in error.problems)
        raise DataError(
            *(Problem("", "a golden must be readable again", problem) for problem in problems)
        ) from error
    same = back == golden and all(
        _equal(getattr(arrays, kind), getattr(kept, kind)) for kind in vars(arrays)
    )
    if not same:
        raise EquivalenceError("the golden does not come back from its files as written")


def _equal(written: Mapping[str, NDArray[Any]], back: Mapping[str, NDArray[Any]]) -> bool:
    return written.keys() == back.keys() and all(
        np.array_equal(values, back[name]) for name, values in written.items()
    )


def read_golden(directory: Path) -> Golden:
    """
    Return what the golden in `directory` says, checked against its checksum.

    Raises `FormatError` with everything that is wrong with it.
    """
    return _golden_of(directory, _sealed(directory))


def read_files(directory: Path) -> dict[str, bytes]:
    """Return the files beside `golden.json`; raises `FormatError` for all that are not as it says."""
    listed = _sealed(directory).get("files")
    if not isinstance(listed, dict) or TENSORS not in listed or not {*listed} <= {TENSORS, NIRDATA}:
        raise FormatError(Problem("", f"'{directory / MANIFEST}' must list the golden's own files"))
    problems: list[Problem] = []
    files: dict[str, bytes] = {}
    for name, checksum in listed.items():
        file = directory / name
        if not file.is_file():
            remedy = "restore it, or store the golden again from its data"
            problems.append(
                Problem("", f"'{directory}' needs the file '{name}'", "it is missing", remedy)
            )
            continue
        if file.stat().st_size > MOST_FILE_BYTES:
            problems.append(Problem("", f"'{file}' is larger than a golden may be"))
            continue
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != checksum:
            problems.append(
                Problem("", f"'{file}' was changed or cut short", "its checksum differs")
            )
        files[name] = content
    raise_all(FormatError, problems)
    return files


def read_arrays(directory: Path, golden: Golden) -> Arrays:
    """Return the tensors; raises `FormatError` where they are not those of `golden`."""
    content = read_files(directory)[TENSORS]
    expected = _expected(golden)
    try:
        listed = sum(
            math.prod(shape) * np.dtype(kind).itemsize for shape, kind in expected.values()
        )
        if listed > len(content):
            raise ValueError(f"{MANIFEST} lists {listed} bytes, and the file has {len(content)}")
        packed = read_tensors(content, expected)
    except Exception as error:  # damaged archives fail in zlib, struct, numpy and elsewhere
        raise FormatError(Problem("", f"'{directory / TENSORS}' is damaged ({error})")) from error
    inputs = {
        name: np.broadcast_to(values, (golden.samples, golden.steps, *item.shape))
        for name, item in golden.inputs.items()
        for values in [packed[f"input/{name}"]]
    }
    spikes = {
        name: _unpacked(packed[f"spikes/{name}"], item, golden)
        for name, item in golden.layers.items()
    }
    outputs = {
        name: packed[f"output/{name}"].astype(np.int64, copy=False) for name in golden.outputs
    }
    return Arrays(inputs, spikes, outputs)


def _described(item: Recorded) -> dict[str, Any]:
    usual = asdict(Recorded((), ""))
    return {
        name: list(value) if name == "shape" else value
        for name, value in asdict(item).items()
        if name in ("shape", "dtype") or value != usual[name]
    }


def _constant(values: NDArray[Any]) -> bool:
    """Return whether the same is shown at every step of several."""
    return values.shape[1] > 1 and bool((values == values[:, :1]).all())


def _type_of_spikes(values: NDArray[Any]) -> str:
    inside = not values.size or (int(values.min()) >= 0 and int(values.max()) <= 1)
    return BITS if inside else _narrowest(values)


def _narrowest(values: NDArray[Any]) -> str:
    least, most = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for name in INTEGER_TYPES:
        kept = np.iinfo(name)
        if kept.min <= least and most <= kept.max:
            return name
    raise AssertionError("integers of 64 bits hold whatever an engine makes")


def _packed(golden: Golden, arrays: Arrays) -> dict[str, NDArray[Any]]:
    packed = {
        f"input/{name}": values if golden.inputs[name].every_step else values[:, :1]
        for name, values in arrays.inputs.items()
    }
    for name, values in arrays.spikes.items():
        dtype = golden.layers[name].dtype
        packed[f"spikes/{name}"] = (
            np.packbits(values.astype(np.uint8)) if dtype == BITS else values.astype(dtype)
        )
    for name, values in arrays.outputs.items():
        packed[f"output/{name}"] = values.astype(golden.outputs[name].dtype)
    return {name: np.ascontiguousarray(values) for name, values in packed.items()}


def _unpacked(values: NDArray[Any], item: Recorded, golden: Golden) -> NDArray[Any]:
    if item.dtype != BITS:
        return values
    shape = (golden.samples, golden.steps, *item.shape)
    return np.unpackbits(values, count=math.prod(shape)).reshape(shape)


def _expected(golden: Golden) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and type of every stored tensor."""
    whole = (golden.samples, golden.steps)
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for name, item in golden.inputs.items():
        steps = golden.steps if item.every_step else 1
        found[f"input/{name}"] = ((golden.samples, steps, *item.shape), item.dtype)
    for name, item in golden.layers.items():
        size = math.prod((*whole, *item.shape))
        packed = ((size + 7) // 8,), "uint8"
        found[f"spikes/{name}"] = (
            packed if item.dtype == BITS else ((*whole, *item.shape), item.dtype)
        )
    for name, item in golden.outputs.items():
        found[f"output/{name}"] = ((*whole, *item.shape), item.dtype)
    return found


def _too_large(golden: Golden) -> Iterable[Problem]:
    if golden.samples > MOST_SAMPLES:
        yield Problem(
            "", f"a golden holds at most {MOST_SAMPLES} samples", f"these are {golden.samples}"
        )
    sizes = [
        (name, golden.samples * golden.steps * math.prod(item.shape))
        for kind in (golden.inputs, golden.layers, golden.outputs)
        for name, item in kind.items()
    ]
    large = [(name, values) for name, values in sizes if values > MOST_VALUES]
    whole = sum(values for _, values in sizes)
    for name, values in large or ([("", whole)] if whole > MOST_VALUES else []):
        yield Problem(
            name,
            f"may have at most {MOST_VALUES} values in a golden"
            if name
            else f"a golden may have at most {MOST_VALUES} values in all",
            f"it has {values}",
            "store fewer samples",
        )


# golden.json


def _checksum(sealed: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in sealed.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _sealed(directory: Path) -> dict[str, Any]:
    """Return the values of `golden.json`, whole and of a known schema."""
    file = directory / MANIFEST
    if not file.is_file():
        raise FormatError(
            Problem(
                "",
                f"'{directory}' is no golden: it has no {MANIFEST}"
                if directory.exists()
                else f"there is no '{directory}'",
                remedy="make one with 'neurocompile verify PROGRAM_DIR --input DATA --golden DIR'",
            )
        )
    if file.stat().st_size > MOST_JSON_BYTES:
        raise FormatError(Problem("", f"'{file}' is larger than a golden's may be"))
    try:
        sealed = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise FormatError(Problem("", f"'{file}' is damaged ({error})")) from error
    if not isinstance(sealed, dict) or sealed.get("format") != FORMAT:
        raise FormatError(Problem("", f"'{file}' is not a golden of neurocompile"))
    if sealed.get("schema") != SCHEMA:
        raise FormatError(
            Problem(
                "",
                f"'{file}' must be of schema {SCHEMA} or earlier",
                f"it is {sealed.get('schema')!r}",
                "update neurocompile",
            )
        )
    if sealed.get("checksum") != _checksum(sealed):
        raise FormatError(
            Problem("", f"'{file}' was changed after it was written", "its checksum differs")
        )
    return sealed


def _golden_of(directory: Path, sealed: Mapping[str, Any]) -> Golden:
    problems: list[str] = []

    def whole(value: Any, what: str, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            problems.append(f"{what} is {_short(value)}, and no integer from {least} to {most}")
            return least
        return value

    def text(value: Any, what: str) -> str:
        if not isinstance(value, str):
            problems.append(f"{what} is {_short(value)}, and no text")
            return ""
        return value

    def mapping(value: Any, what: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            problems.append(f"{what} is {_short(value)}, and no table")
            return {}
        return value

    def listed(value: Any, what: str) -> tuple[int, ...]:
        if not isinstance(value, list) or len(value) != samples:
            problems.append(f"{what} must be {samples} classes")
            return ()
        return tuple(whole(item, f"one of {what}", 0, MOST_VALUES) for item in value)

    def recorded(kind: str, known: tuple[str, ...]) -> dict[str, Recorded]:
        result: dict[str, Recorded] = {}
        for name, raw in mapping(sealed.get(kind), kind).items():
            item = mapping(raw, f"{kind} '{name}'")
            shape = item.get("shape")
            extents = shape if isinstance(shape, list) else [None]
            checked = tuple(whole(e, f"an extent of '{name}'", 0, MOST_VALUES) for e in extents)
            dtype = text(item.get("dtype"), f"the type of '{name}'")
            if dtype not in known:
                problems.append(
                    f"the type of '{name}' is {_short(dtype)}, none of {', '.join(known)}"
                )
            result[name] = Recorded(
                checked,
                dtype,
                item.get("every_step") is not False,
                text(item.get("shows", ""), f"what '{name}' shows"),
                whole(item.get("spikes", 0), f"the spikes of '{name}'", 0, 1 << 62),
            )
        return result

    samples = whole(sealed.get("samples"), "'samples'", 1, MOST_SAMPLES)
    program = mapping(sealed.get("program"), "'program'")
    parts = mapping(program.get("parts"), "'parts'")
    if not all(isinstance(value, str) and {*value} <= DIGITS for value in parts.values()):
        problems.append("'parts' must be checksums")
        parts = {}
    labels = sealed.get("labels")
    golden = Golden(
        target=text(program.get("target"), "'target'"),
        program_format=whole(program.get("format"), "the program's format", 1, 1 << 30),
        parts=parts,
        data=text(sealed.get("data"), "'data'"),
        samples=samples,
        steps=whole(sealed.get("steps"), "'steps'", 1, MOST_STEPS),
        inputs=recorded("inputs", INPUT_TYPES),
        layers=recorded("layers", (BITS, *INTEGER_TYPES)),
        outputs=recorded("outputs", INTEGER_TYPES),
        decisions=listed(sealed.get("decisions"), "'decisions'"),
        labels=None if labels is None else listed(labels, "'labels'"),
        nirdata=mapping(sealed.get("nirdata"), "'nirdata'"),
        version=text(sealed.get("neurocompile"), "'neurocompile'"),
        stage=text(sealed.get("stage"), "'stage'"),
    )
    raise_all(
        FormatError,
        (
            *(Problem("", f"'{directory / MANIFEST}' is damaged", found) for found in problems),
            *_too_large(golden),
        ),
    )
    return golden


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."


# NIR's data format


def _nirdata(arrays: Arrays) -> tuple[dict[str, Any], bytes | None]:
    """
    Return what `golden.json` says of NIR's data, and the file: inputs and spikes as nir keeps them.

    It is made in memory, where no disk is full, and is read back.
    """
    import nir

    if not hasattr(nir, "write_data"):
        return {"file": None, "because": f"nir {nir.version} has no data format"}, None
    data = _nirdata_of(arrays)
    file: Any = io.BytesIO()  # as h5py takes it; nir says that it reads paths only
    nir.write_data(file, data)
    back = nir.read_data(file)
    wrong = [
        name
        for name, node in data.nodes.items()
        for observable, written in node.observables.items()
        if not _same(written, back.nodes[name].observables[observable])
    ]
    raise_all(
        EquivalenceError,
        (Problem(name, "does not come back from NIR's data format as written") for name in wrong),
    )
    return {"file": NIRDATA, "dt": 1.0, "unit": "steps"}, file.getvalue()


def _nirdata_of(arrays: Arrays) -> nir.NIRGraphData:
    import nir

    nodes: dict[str, Any] = {}
    for name, values in arrays.inputs.items():
        flat = values.reshape(*values.shape[:2], -1)
        nodes[_key(name)] = nir.NIRNodeData({"input": nir.TimeGriddedData(flat, dt=1.0)})
    for name, values in arrays.spikes.items():
        flat = values.reshape(*values.shape[:2], -1)
        counted = _type_of_spikes(values) != BITS
        spikes = _events(flat) if counted else nir.TimeGriddedData(flat.astype(bool), dt=1.0)
        nodes[_key(name)] = nir.NIRNodeData({"spikes": spikes})
    return nir.NIRGraphData(nodes)


def _key(name: str) -> str:
    """Return a layer's name as HDF5 takes it: a slash would make a group."""
    return name.replace("/", "\N{DIVISION SLASH}")


def _events(flat: NDArray[Any]) -> Any:
    """Return graded spikes, (samples, steps, neurons), as events with values; none is index -1."""
    import nir

    found = [np.nonzero(sample) for sample in flat]
    most = max(1, *(len(steps) for steps, _ in found))
    index = np.full((len(flat), most), -1, np.int64)
    time = np.full((len(flat), most), np.inf)
    value = np.zeros((len(flat), most), np.float64)
    for sample, (steps, neurons) in enumerate(found):
        index[sample, : len(steps)] = neurons
        time[sample, : len(steps)] = steps
        value[sample, : len(steps)] = flat[sample, steps, neurons]
    return nir.ValuedEventData(
        idx=index, time=time, n_neurons=flat.shape[2], t_max=float(flat.shape[1]), value=value
    )


def _same(written: Any, back: Any) -> bool:
    return type(written) is type(back) and all(
        np.array_equal(value, getattr(back, name)) for name, value in vars(written).items()
    )
