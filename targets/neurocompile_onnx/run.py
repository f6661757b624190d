"""
The run half of `onnx`: sessions of ONNX Runtime behind the interface of an executor.

    sequence    all steps of some samples in one call: sequence.onnx, or trace.onnx if layers are recorded
    step        step.onnx, once for each step, the states being passed on

Both agree with `fixedpoint` in every integer. It needs ONNX Runtime and numpy; what tensors are called and
mean is in the metadata of the models.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from neurocompile_fixedpoint.definition import empty_trace
from numpy.typing import NDArray

from neurocompile.errors import (
    DeadlineError,
    ExecutionError,
    MissingDependencyError,
    Problem,
    ProgramFormatError,
)
from neurocompile.integer import (
    Integer,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    Trace,
)
from neurocompile.target import Availability, Progress
from neurocompile_onnx.operators import problem_of

if TYPE_CHECKING:
    from neurocompile.program import Program

STEP, SEQUENCE, TRACE = "step.onnx", "sequence.onnx", "trace.onnx"
INTERFACE = "neurocompile"
VERSION = 1
TYPES = ("uint8", "int8", "int16", "int32", "int64")
REMEDY = "install it with: pip install 'neurocompile[onnx]'"
EXTERNAL_WEIGHTS = "session.model_external_initializers_file_folder_path"
NO_FALLBACK = 0  # to another provider, of which ONNX Runtime would tell on standard output
OLDEST = (1, 22)  # older ones would read any file of this machine that a model names as its weights
MOST_THREADS = 1 << 10
FATAL = 4  # of ONNX Runtime's levels of messages
BYTES_AT_ONCE = 64 << 20  # of the results that one call of `sequence` makes
SAMPLES_AT_ONCE = 64


def availability() -> Availability:
    """Return the version of ONNX Runtime, or how to get it; it is not imported."""
    if find_spec("onnxruntime") is None:
        return Availability(False, "ONNX Runtime is not installed", REMEDY.split(": ")[1])
    try:
        found = version("onnxruntime")
    except PackageNotFoundError:  # builds for GPUs are packages of other names
        return Availability(True, "ONNX Runtime")
    if _is_too_old(found):
        return Availability(False, f"ONNX Runtime {found} is too old", REMEDY.split(": ")[1])
    return Availability(True, f"ONNX Runtime {found}")


def open_executor(program: Program, engine: str) -> OnnxExecutor:
    """
    Return an executor of the models of `program`, by `engine`, "sequence" for "".

    Raises `MissingDependencyError` without ONNX Runtime or with one that is too old, `ProgramFormatError`
    for models that are missing or belong to another program.
    """
    if find_spec("onnxruntime") is None:
        raise MissingDependencyError(
            Problem("", "running on 'onnx' needs ONNX Runtime", "it is not installed", REMEDY)
        )
    import onnxruntime

    if _is_too_old(onnxruntime.__version__):
        oldest = ".".join(map(str, OLDEST))
        raise MissingDependencyError(
            Problem(
                "",
                f"running on 'onnx' needs ONNX Runtime {oldest} or newer",
                f"{onnxruntime.__version__} is installed",
                REMEDY,
            )
        )
    from neurocompile_onnx.digest import digest_of

    return OnnxExecutor(program.network, program.extra_files, digest_of(program), engine)


def _is_too_old(found: str) -> bool:
    return tuple(map(int, re.findall(r"\d+", found)[:2])) < OLDEST


class Clock:
    """Ends what ONNX Runtime computes when it has taken too long."""

    def __init__(self) -> None:
        import onnxruntime

        self.options = onnxruntime.RunOptions()
        self.options.log_severity_level = FATAL
        self.over = False

    def end(self) -> None:
        self.over = True
        self.options.terminate = True  # which ONNX Runtime looks at between two nodes

    @classmethod
    @contextmanager
    def until(cls, deadline: float | None) -> Iterator[Clock]:
        """Yield a clock that runs for `deadline` seconds, for None without an end."""
        clock = cls()
        timer = None if deadline is None else threading.Timer(deadline, clock.end)
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            yield clock
        finally:
            if timer is not None:
                timer.cancel()


@dataclass(frozen=True)
class Session:
    """A model that ONNX Runtime has loaded, and what its metadata say."""

    file: str
    session: Any
    interface: Mapping[str, Any]

    def run(
        self, wanted: list[str], values: Mapping[str, NDArray[Any]], clock: Clock
    ) -> dict[str, NDArray[Any]]:
        """
        Return the outputs named.

        Raises `ExecutionError` if the model is not what its metadata say, `DeadlineError` when `clock` ends it.
        """
        try:
            found = self.session.run(wanted, dict(values), clock.options)
            return dict(zip(wanted, found, strict=True))
        except Exception as error:  # ONNX Runtime's errors have no common class but this
            if clock.over:
                raise DeadlineError(
                    Problem(
                        "",
                        "ONNX Runtime did not finish before the deadline",
                        remedy="give it more with --deadline",
                    )
                ) from error
            raise ExecutionError(
                Problem("", f"ONNX Runtime cannot run '{self.file}'", _first_line(error))
            ) from error


class OnnxExecutor:
    """Runs the models of one program; they are loaded when they are first needed."""

    def __init__(
        self, network: IntegerNetwork, files: Mapping[str, bytes], digest: str, engine: str
    ) -> None:
        self.network, self.files, self.digest = network, files, digest
        self.engine = engine or "sequence"
        self._sessions: dict[str, Session] = {}

    def run(
        self,
        payloads: Mapping[str, Integer],
        *,
        record: Collection[str] = (),
        progress: Progress | None = None,
        deadline: float | None = None,
    ) -> Trace:
        """Run `payloads`, (samples, steps, *shape) by input, within `deadline` seconds."""
        samples, steps = next(iter(payloads.values())).shape[:2]
        trace = empty_trace(self.network, samples, steps, record)
        at_once = self._samples_at_once(steps, trace)
        run = self._run_steps if self.engine == "step" else self._run_sequence
        with Clock.until(deadline) as clock:
            for start in range(0, samples, at_once):
                where = slice(start, min(start + at_once, samples))
                part = {name: values[where] for name, values in payloads.items()}
                run(part, where, trace, clock)
                if progress:
                    progress(where.stop, samples)
        return trace

    def close(self) -> None:
        """Release the sessions."""
        self._sessions.clear()

    def _run_sequence(
        self, part: Mapping[str, Integer], where: slice, trace: Trace, clock: Clock
    ) -> None:
        recorded = bool(trace.spikes or trace.membrane)
        session = self._session(TRACE if recorded else SEQUENCE)
        places = _places(session.interface, trace)
        found = session.run(list(places), self._typed(session, part), clock)
        for tensor, goals in places.items():
            for goal in goals:
                goal[where] = _fitting(found[tensor], goal[where], session.file)

    def _run_steps(
        self, part: Mapping[str, Integer], where: slice, trace: Trace, clock: Clock
    ) -> None:
        session = self._session(STEP)
        states = session.interface["states"]
        values = self._typed(session, part)
        samples, steps = next(iter(part.values())).shape[:2]
        held = {
            state["tensor"]: np.full((samples, *state["shape"]), state["initial"], state["type"])
            for state in states
        }
        following = {state["next"]: state["tensor"] for state in states}
        places = _places(session.interface, trace)
        wanted = list(dict.fromkeys([*places, *following]))
        for step in range(steps):
            now = {name: array[:, step] for name, array in values.items()}
            found = session.run(wanted, {**now, **held}, clock)
            for tensor, goals in places.items():
                for goal in goals:
                    goal[where, step] = _fitting(found[tensor], goal[where, step], session.file)
            held = {old: found[new] for new, old in following.items()}

    def _typed(self, session: Session, part: Mapping[str, Integer]) -> dict[str, NDArray[Any]]:
        """Return payloads as the model takes them, by tensor."""
        found = {}
        for item in self.network.inputs:
            tensor = session.interface["inputs"][item.name]["tensor"]
            found[tensor] = part[item.name].astype(_type_of(item.minimum, item.maximum))
        return found

    def _samples_at_once(self, steps: int, trace: Trace) -> int:
        """Return how many samples go into a call, so that what it holds is bounded."""
        if self.engine == "step":
            return SAMPLES_AT_ONCE
        shown = {**trace.outputs}
        populations = self.network.populations if trace.spikes or trace.membrane else ()
        values: int = sum(array[0, 0].size for array in shown.values())
        values += sum(int(np.prod(item.shape)) * 2 for item in populations)
        values += sum(int(np.prod(item.shape)) for item in self.network.inputs)
        each = max(1, values * steps * np.dtype(np.int32).itemsize)
        return max(1, min(SAMPLES_AT_ONCE, BYTES_AT_ONCE // each))

    def _session(self, file: str) -> Session:
        if file not in self._sessions:
            self._sessions[file] = load_session(self.files, file, self.digest, self.network)
        return self._sessions[file]


def load_session(
    files: Mapping[str, bytes], file: str, digest: str, network: IntegerNetwork
) -> Session:
    """Return the model `file`, loaded; raises `ProgramFormatError` if it is not that of the integers."""
    import onnxruntime

    if file not in files:
        raise ProgramFormatError(
            Problem("", f"the program has no '{file}'", remedy="export it again")
        )
    if problem := problem_of(files[file]):
        raise ProgramFormatError(
            Problem(
                "",
                f"ONNX Runtime cannot load the program's '{file}'",
                problem,
                "export it again",
            )
        )
    options = session_options()
    try:
        session = onnxruntime.InferenceSession(
            files[file],
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=NO_FALLBACK,
        )
    except Exception as error:  # ONNX Runtime's errors have no common class but this
        raise ProgramFormatError(
            Problem(
                "",
                f"ONNX Runtime {onnxruntime.__version__} cannot load the program's '{file}'",
                _first_line(error),
                "export it again, or use a newer ONNX Runtime",
            )
        ) from error
    try:
        interface = json.loads(session.get_modelmeta().custom_metadata_map[INTERFACE])
        if interface["version"] != VERSION:
            raise ValueError(f"its version is {interface['version']}")
        if interface["digest"] != digest:
            raise ValueError("it was made from other integers")
        _check_interface(interface, network, stateful=file == STEP)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ProgramFormatError(
            Problem(
                "", f"the program's '{file}' is not its own ({error})", remedy="export it again"
            )
        ) from error
    return Session(file, session, interface)


def _check_interface(
    interface: Mapping[str, Any], network: IntegerNetwork, *, stateful: bool
) -> None:
    """Raise `ValueError`, `KeyError` or `TypeError` if metadata are not those of a model of `network`."""
    firing = [item for item in network.populations if item not in network.inputs]
    names = [interface["inputs"][item.name]["tensor"] for item in network.inputs]
    names += [interface["outputs"][name]["tensor"] for name in network.outputs]
    names += [interface["membranes"][item.name] for item in network.neurons]
    names += [interface["sent"][item.name] for item in firing if not _is_readout(item)]
    most = (1 + network.longest_delay) * max(math.prod(item.shape) for item in network.populations)
    for state in interface["states"] if stateful else ():
        names += [state["tensor"], state["next"]]
        shape = state["shape"]
        if not all(type(extent) is int and extent > 0 for extent in shape):
            raise ValueError(f"a state has the shape {shape}")
        if math.prod(shape) > most or state["type"] not in TYPES or state["initial"] not in (0, 1):
            raise ValueError(f"'{state['tensor']}' is no state of the network")
    if not all(isinstance(name, str) for name in names):
        raise TypeError("names of tensors are none")


def _is_readout(item: IntegerPopulation) -> bool:
    return isinstance(item, IntegerNeurons) and item.readout


def session_options() -> Any:
    """Return options with which ONNX Runtime starts no more threads than OMP_NUM_THREADS says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():
        options.intra_op_num_threads = min(int(threads), MOST_THREADS)
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL  # what fails is raised, and warnings are about optimisations
    # A model from a stranger could ask for files of this machine as its weights; there are none here.
    options.add_session_config_entry(EXTERNAL_WEIGHTS, f"{os.devnull}/none")
    # Nor is it in ONNX Runtime's own format, which would not have been looked through.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _fitting(found: NDArray[Any], goal: NDArray[Any], file: str) -> NDArray[Any]:
    """Return what a model told, if it has the shape and the kind of numbers that it must have."""
    ends = np.iinfo(goal.dtype)
    integers = found.shape == goal.shape and found.dtype.kind in "iu"
    if not integers or not ends.min <= found.min(initial=0) <= found.max(initial=0) <= ends.max:
        told = f"it tells {found.dtype} of shape {found.shape}"
        if integers:
            told += f", from {found.min()} to {found.max()}"
        raise ExecutionError(
            Problem(
                "",
                f"'{file}' must tell integers of shape {goal.shape}, from {ends.min} to {ends.max}",
                told,
                "export the program again",
            )
        )
    return found


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _places(interface: Mapping[str, Any], trace: Trace) -> dict[str, list[NDArray[Any]]]:
    """Return the arrays of `trace` by the tensors that belong into them."""
    found: dict[str, list[NDArray[Any]]] = {}
    for name, array in trace.outputs.items():
        found.setdefault(interface["outputs"][name]["tensor"], []).append(array)
    for name, array in trace.spikes.items():
        found.setdefault(interface["sent"][name], []).append(array)
    for name, array in trace.membrane.items():
        found.setdefault(interface["membranes"][name], []).append(array)
    return found


def _type_of(minimum: int, maximum: int) -> np.dtype[Any]:
    from neurocompile_onnx.ranges import smallest_type

    return smallest_type((minimum, maximum))
