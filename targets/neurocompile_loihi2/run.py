"""
The run half of `loihi2`: streams samples through Lava in a watched child process.

As a program it is all that a Loihi host needs, with numpy and lava-nc installed:

    python -m neurocompile_loihi2.run PROGRAM_DIR --input in.npz --output out.npz

Lava's processes live in a process group of their own. If they stop making progress, or a deadline
passes, or anything goes wrong, the group is ended, first politely, and its shared memory removed.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from neurocompile_fixedpoint.definition import SAMPLES_AT_ONCE, input_sums
from numpy.typing import NDArray

from neurocompile.errors import (
    DeadlineError,
    ExecutionError,
    NeurocompileError,
    Problem,
    ProgramFormatError,
)
from neurocompile.integer import Integer, IntegerNeurons, Trace
from neurocompile.program import Program, load
from neurocompile.run_file import run_file
from neurocompile.target import Progress
from neurocompile.tensors import npz_bytes, read_tensors
from neurocompile_loihi2.batching import (
    SETUP_SECONDS,
    SHARED_MEMORY,
    check_room,
    choose_replicas,
    run_seconds,
)
from neurocompile_loihi2.interpreter import lava_python, link_packages, worker_environment
from neurocompile_loihi2.lower import ARRAYS, LAYOUT, lower, pulse_of
from neurocompile_loihi2.worker_setup import CONTROL, MEMBRANE, Setup, Stream, source_stream

START_SECONDS = 300.0  # importing Lava and building large matrices
STALL_SECONDS = 120.0  # without a single step done
POLL_SECONDS = 0.1
POLITE_SECONDS = 3.0
STREAM_BYTES = 256 << 20  # of files that carry inputs and records of one run
SLOTS_MINIMUM = 32  # samples in a row that the files have room for, also if the first run has fewer
WORKER = {
    # Layers are processes side by side already: threads of one would wait for those of another.
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # Arrays come and go at every step; glibc would give their pages back, and ask for them again.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
}
PROCESSES = Path("/proc")
ZOMBIE = "Z"
LOG_LINES = 12


class LavaExecutor:
    """
    A program on Lava's fixed-point CPU simulator.

    The Lava processes are built at the first run, and kept for further runs of as many steps a sample
    that record no other layers.
    """

    def __init__(self, program: Program) -> None:
        self._session: _Session | None = None
        self._ending: weakref.finalize[..., Any] | None = None
        self._turn = threading.RLock()  # a session runs one input after the other
        lava_python()
        self.program = program
        self.layout = _layout_of(program)

    def run(
        self,
        payloads: Mapping[str, Integer],
        *,
        record: Collection[str] = (),
        progress: Progress | None = None,
        deadline: float | None = None,
    ) -> Trace:
        """Run `payloads`, (samples, steps, *shape) by input; `deadline` counts the set-up, too."""
        with self._turn:
            return self._run(payloads, record, progress, deadline)

    def _run(
        self,
        payloads: Mapping[str, Integer],
        record: Collection[str],
        progress: Progress | None,
        deadline: float | None,
    ) -> Trace:
        shown = [_shown(neurons) for neurons in self._outputs().values()]
        wanted = dict.fromkeys([*record, *shown])
        samples, steps = next(iter(payloads.values())).shape[:2]
        ends = None if deadline is None else time.monotonic() + deadline
        session = self._session_for(samples, steps, tuple(wanted), ends)
        try:
            recorded = session.run(self._streams(payloads), progress, ends)
        except BaseException:
            self.close(at_once=True)
            raise
        return self._trace(recorded, record)

    def close(self, *, at_once: bool = False) -> None:
        """End the Lava processes; `at_once` does not wait for them to finish."""
        session, self._session = self._session, None
        if session is not None:
            session.close(at_once=at_once)
        if self._ending is not None:
            self._ending.detach()

    def _outputs(self) -> dict[str, IntegerNeurons]:
        """Return the population that each output shows."""
        network = self.program.network
        populations = {name: network[shown] for name, shown in network.outputs.items()}
        return {
            name: neurons
            for name, neurons in populations.items()
            if isinstance(neurons, IntegerNeurons)
        }

    def _session_for(
        self, samples: int, steps: int, record: tuple[str, ...], ends: float | None
    ) -> _Session:
        setup = Setup(
            layout=self.layout,
            convolution=self.program.options["convolution"],
            steps=steps,
            replicas=1,
            rows=0,
            record=record,
            shm_prefix=f"/nc{os.urandom(2).hex()}_",
        )
        drain = _drain(self.program, setup)
        setup = replace(setup, replicas=choose_replicas(setup, samples, drain))
        session = self._session
        if session and _serves(session.setup, setup, samples, drain):
            return session
        self.close()
        check_room(setup)
        slots = max(SLOTS_MINIMUM, -(-samples // setup.replicas)) + drain
        row_bytes = setup.replicas * sum(4 * stream.neurons for stream in setup.streams.values())
        slots_at_once = max(drain + 1, min(slots, STREAM_BYTES // (row_bytes * setup.period)))
        setup = replace(setup, rows=setup.period * slots_at_once)
        self._session = _Session(self.program, setup, ends)
        # Who forgets to close it: when it is collected, or at exit, while signals can be held back still.
        self._ending = weakref.finalize(self, self._session.close, at_once=False)
        return self._session

    def _streams(self, payloads: Mapping[str, Integer]) -> dict[str, Integer]:
        """Return what the host sends: payloads, or the currents of connections it computes itself."""
        network = self.program.network
        streams = {
            source_stream(entry["name"], entry["wait"]): payloads[entry["name"]]
            for entry in self.layout["sources"]
        }
        for group in network.synapses:
            if group.on_host:
                values, views = payloads[group.source], network.views(group)
                streams[f"host/{group.name}"] = np.concatenate(
                    [
                        input_sums(group, values[start : start + SAMPLES_AT_ONCE], views)
                        for start in range(0, len(values), SAMPLES_AT_ONCE)
                    ]
                )
        return streams

    def _trace(self, recorded: Mapping[str, NDArray[Any]], record: Collection[str]) -> Trace:
        outputs = {}
        for name, neurons in self._outputs().items():
            values = recorded[_shown(neurons)].astype(np.int64)
            if neurons.shows == "input":
                # The read-out integrates; what arrived at each step is the difference of two steps.
                values = np.diff(values, axis=1, prepend=0)
                values[:, :1] -= neurons.start
            outputs[name] = values
        return Trace(
            outputs=outputs,
            spikes={name: recorded[name] for name in record if not name.startswith(MEMBRANE)},
            membrane={
                name.removeprefix(MEMBRANE): recorded[name].astype(np.int64)
                for name in record
                if name.startswith(MEMBRANE)
            },
            counters={},
        )


def _shown(neurons: IntegerNeurons) -> str:
    """Return what must be recorded to show `neurons`."""
    return f"{MEMBRANE}{neurons.name}" if neurons.readout else neurons.name


def _serves(old: Setup, new: Setup, samples: int, drain: int) -> bool:
    """Return whether a session of `old` does for `samples`: a new one would not pay for its set-up."""
    if old.steps != new.steps or not set(new.record) <= set(old.record):
        return False
    gain = run_seconds(old, samples, drain) - run_seconds(new, samples, drain)
    return gain <= SETUP_SECONDS


def _drain(program: Program, setup: Setup) -> int:
    """Return for how many periods Lava must go on until the last sample has passed all layers."""
    return -(-program.schedule.deepest // setup.period)


def _layout_of(program: Program) -> dict[str, Any]:
    """Return the stored layout; raises `ProgramFormatError` unless it is that of the integers."""
    try:
        layout: dict[str, Any] = json.loads(program.extra_files[LAYOUT])
        expected = lower(program).layout
        names = {
            name: (tuple(entry["shape"]), entry["dtype"])
            for name, entry in layout["arrays"].items()
        }
        read_tensors(program.extra_files[ARRAYS], names)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ProgramFormatError(
            Problem("", f"the program's '{LAYOUT}' is damaged ({error})", remedy="export it again")
        ) from error
    if layout != expected:
        raise ProgramFormatError(
            Problem(
                "",
                f"the program's '{LAYOUT}' is not that of its integers",
                remedy="export it again",
            )
        )
    return layout


class _Session:
    """A worker process with a built network, and the files that it shares with us."""

    def __init__(self, program: Program, setup: Setup, ends: float | None) -> None:
        self.program = program
        self.setup = setup
        self.base = 0
        self.directory = Path(tempfile.mkdtemp(prefix="neurocompile-"))
        self.worker: subprocess.Popen[str] | None = None
        try:
            self._prepare_files()
            self._start(ends)
        except BaseException:
            self.close(at_once=True)
            raise

    def _prepare_files(self) -> None:
        setup, directory = self.setup, self.directory
        link_packages(directory)
        setup.write(directory)
        expected = {
            name: (tuple(entry["shape"]), entry["dtype"])
            for name, entry in setup.layout["arrays"].items()
        }
        arrays = read_tensors(self.program.extra_files[ARRAYS], expected)
        (directory / "arrays.npz").write_bytes(npz_bytes(arrays))
        self.control = np.memmap(directory / CONTROL, np.int64, "w+", shape=(2,))
        self.files: dict[str, Any] = {
            name: np.memmap(
                directory / setup.file_of(stream),
                stream.dtype,
                "w+",
                shape=(setup.rows, stream.neurons, setup.replicas),
            )
            for name, stream in setup.streams.items()
        }
        for stream in setup.drives:
            self._fill_drive(stream)

    def _fill_drive(self, stream: Stream) -> None:
        """
        Lay out the current that starts and silences a population, the same for every sample.

        It also stands before the first sample and after the last, where neurons must not be heard, either.
        """
        setup = self.setup
        (neurons,) = (
            neurons for neurons in self.program.network.neurons if neurons.name == stream.population
        )
        entry = setup.populations[stream.population]
        pulse = pulse_of(neurons, microcode=entry["process"] == "Microcode")
        step = (np.arange(setup.rows) - stream.offset) % setup.period
        self.files[stream.name][step == 0] = np.broadcast_to(pulse, neurons.shape).reshape(-1, 1)
        # Microcode is silent by itself, and in its blank steps it does not listen.
        self.files[stream.name][step >= setup.steps] = -entry.get("silence", 0)

    def _start(self, ends: float | None) -> None:
        reading, writing = os.pipe()
        self.log = (self.directory / "worker.log").open("w+", encoding="utf-8", errors="replace")
        self.replies: IO[bytes] = os.fdopen(reading, "rb", buffering=0)
        try:
            self.worker = subprocess.Popen(
                [
                    lava_python(),
                    "-m",
                    "neurocompile_loihi2.worker",
                    str(self.directory),
                    str(writing),
                ],
                cwd=self.directory,
                env=worker_environment(self.directory) | WORKER,
                stdin=subprocess.PIPE,
                stdout=self.log,
                stderr=self.log,
                text=True,
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        self._await("ready", START_SECONDS, "start", ends)

    def run(
        self, streams: Mapping[str, Integer], progress: Progress | None, ends: float | None
    ) -> dict[str, NDArray[Any]]:
        """Stream all samples through, as many at a time as the files hold; return the records."""
        setup = self.setup
        samples = len(next(iter(streams.values())))
        drain = _drain(self.program, setup)
        slots_at_once = setup.rows // setup.period - drain
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in setup.record}
        for start in range(0, samples, slots_at_once * setup.replicas):
            stop = min(samples, start + slots_at_once * setup.replicas)
            slots = -(-(stop - start) // setup.replicas)
            for stream in (*setup.sources, *setup.host):
                self._fill(stream, streams[stream.name][start:stop], slots)
            machine_steps = (slots + drain) * setup.period
            report = _reporter(progress, (start, stop, samples), setup.steps, machine_steps)
            self._step(machine_steps, ends, report)
            for name, stream in zip(setup.record, setup.records, strict=True):
                parts[name].append(self._recorded(stream, slots)[: stop - start])
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def _rows(self, stream: Stream, slots: int) -> NDArray[Any]:
        """Return the row of every step of every sample, (slots * steps,)."""
        setup = self.setup
        step = np.arange(slots)[:, None] * setup.steps_apart + np.arange(setup.steps)
        return (step * setup.stride + stream.offset).ravel()

    def _fill(self, stream: Stream, values: Integer, slots: int) -> None:
        """Lay samples into rows: slot after slot in time, replicas side by side, zeros elsewhere."""
        steps, replicas = self.setup.steps, self.setup.replicas
        flat = np.zeros((slots * replicas, steps, stream.neurons), np.int32)
        flat[: len(values)] = values.reshape(len(values), steps, stream.neurons)
        by_row = flat.reshape(slots, replicas, steps, -1).transpose(0, 2, 3, 1)
        file, rows = self.files[stream.name], self._rows(stream, slots)
        seen = rows < len(file)  # what comes later is for nobody: its target is done by then
        file[: (slots + _drain(self.program, self.setup)) * self.setup.period] = 0
        file[rows[seen]] = by_row.reshape(slots * steps, -1, replicas)[seen]

    def _recorded(self, stream: Stream, slots: int) -> NDArray[Any]:
        """Return what was recorded in the last run, (samples, steps, *shape), latency removed."""
        steps, replicas = self.setup.steps, self.setup.replicas
        rows = np.array(self.files[stream.name][self._rows(stream, slots)])
        by_sample = rows.reshape(slots, steps, -1, replicas).transpose(0, 3, 1, 2)
        shape = self.program.network[stream.population].shape
        return by_sample.reshape(slots * replicas, steps, *shape)

    def _step(self, steps: int, ends: float | None, report: Callable[[int], None]) -> None:
        self.control[:] = self.base, self.base
        assert self.worker is not None
        assert self.worker.stdin is not None
        try:
            self.worker.stdin.write(f"run {steps}\n")
            self.worker.stdin.flush()
        except OSError as error:
            raise ExecutionError(
                Problem("", "Lava's worker ended before it could run", remedy=self._said())
            ) from error
        self._await("done", STALL_SECONDS, "make a step", ends, report)
        report(steps)
        self.base += steps

    def _await(
        self,
        reply: str,
        patience: float,
        what: str,
        ends: float | None,
        report: Callable[[int], None] = lambda _steps: None,
    ) -> None:
        """
        Wait for `reply`; `patience` starts anew with every step that Lava makes.

        `report` is called with the number of steps made since the request.
        """
        assert self.worker is not None
        reached, last_progress = int(self.control[1]), time.monotonic()
        while not select.select([self.replies], [], [], POLL_SECONDS)[0]:
            now = time.monotonic()
            if int(self.control[1]) != reached:
                reached, last_progress = int(self.control[1]), now
                report(max(0, reached - 1 - self.base))  # the step that is reached is being made
            if ends is not None and now > ends:
                raise DeadlineError(
                    Problem(
                        "",
                        "Lava did not finish before the deadline",
                        remedy="give it more with --deadline",
                    )
                )
            if now - last_progress > patience:
                said = self._said()
                raise DeadlineError(
                    Problem("", f"Lava did not {what} within {patience:g} s", remedy=said)
                )
        answer = self.replies.read(64).decode().strip()
        if answer != reply:
            self.worker.wait(POLITE_SECONDS)
            raise ExecutionError(Problem("", "Lava's worker failed", remedy=self._said()))

    def _said(self) -> str:
        """Return the end of what the worker printed."""
        self.log.flush()
        self.log.seek(0)
        lines = [line.rstrip() for line in self.log if line.strip()]
        return "it said:\n    " + "\n    ".join(lines[-LOG_LINES:]) if lines else "it said nothing"

    def close(self, *, at_once: bool) -> None:
        """
        End the worker's process group, remove its shared memory and our files.

        A worker that finished its last request ends by itself when told; `at_once` it is not asked.
        An interruption waits until this is done: half of it would leave processes behind.
        """
        with _uninterrupted():
            if self.worker is not None:
                self._end(self.worker, at_once=at_once)
                self.replies.close()
                self.log.close()
            for file in SHARED_MEMORY.glob(f"{self.setup.shm_prefix.removeprefix('/')}*"):
                file.unlink(missing_ok=True)
            shutil.rmtree(self.directory, ignore_errors=True)
            self.worker = None

    @staticmethod
    def _end(worker: subprocess.Popen[str], *, at_once: bool) -> None:
        """Tell the worker to stop, then its group to end, then kill it."""
        assert worker.stdin is not None
        with suppress(OSError):
            if not at_once:
                worker.stdin.write("stop\n")
            worker.stdin.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is None and at_once:
                continue
            if number is not None:
                with suppress(ProcessLookupError):
                    os.killpg(worker.pid, number)
            deadline = time.monotonic() + POLITE_SECONDS
            while time.monotonic() < deadline:
                if worker.poll() is not None and not _group_is_alive(worker.pid):
                    return
                time.sleep(0.01)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Keep SIGINT away for the length of the block, where Python lets us (in the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _reporter(
    progress: Progress | None, samples: tuple[int, int, int], steps: int, machine_steps: int
) -> Callable[[int], None]:
    """
    Return what tells how many of all sample steps are done, from machine steps.

    `samples` are those before this round and after it, and all; the round takes `machine_steps`, of
    which the first and the last serve some layers only.
    """
    before, after, every = samples

    def report(made: int) -> None:
        if progress is not None:
            done = (after - before) * steps * made // machine_steps
            progress(before * steps + done, every * steps)

    return report


def _group_is_alive(group: int) -> bool:
    """Return whether a process of `group` still runs; orphans that init is slow to reap do not."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    states = list(_states_on_linux(group))
    return not states or any(state != ZOMBIE for state in states)


def _states_on_linux(group: int) -> Iterator[str]:
    """Yield the state of each process of `group`, where there is a /proc to tell."""
    for file in PROCESSES.glob("[0-9]*/stat"):
        with suppress(OSError):  # processes end while we look
            # The name, in parentheses, can hold anything; then come state, parent and group.
            state, _parent, own_group = file.read_text().rpartition(")")[2].split()[:3]
            if int(own_group) == group:
                yield state


def main(arguments: list[str] | None = None) -> int:
    """Run a program directory on Lava; the command line of a Loihi host."""
    parser = argparse.ArgumentParser(
        prog="python -m neurocompile_loihi2.run",
        description="Run a neurocompile program for Loihi 2 with numpy and lava-nc only.",
    )
    parser.add_argument("program", type=Path, metavar="PROGRAM_DIR")
    parser.add_argument("--input", required=True, type=Path, metavar="IN.npz", help="holds 'input'")
    parser.add_argument("--output", required=True, type=Path, metavar="OUT.npz")
    parser.add_argument(
        "--record", default="", help="layers to record, separated by commas, or all"
    )
    parser.add_argument("--steps", type=_positive, help="how often to present an input of one step")
    parser.add_argument("--deadline", type=float, help="seconds after which to give up")
    options = parser.parse_args(arguments)
    try:
        program = load(options.program)
        if program.target != "loihi2":
            raise ExecutionError(
                f"'{options.program}' was compiled for '{program.target}', not 'loihi2'"
            )
        run_file(
            program,
            LavaExecutor(program),
            options.input,
            options.output,
            record=tuple(name for name in options.record.split(",") if name),
            steps=options.steps,
            progress=_print_progress if sys.stderr.isatty() else None,
            deadline=options.deadline,
        )
    except NeurocompileError as error:
        print(f"neurocompile: {error}", file=sys.stderr)
        return 2
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _print_progress(done: int, total: int) -> None:
    end = "\n" if done >= total else "\r"
    print(f"{done} of {total} sample steps", file=sys.stderr, end=end, flush=True)


if __name__ == "__main__":
    sys.exit(main())
