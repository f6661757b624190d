"""
Several processes count parts of the samples side by side, each with executors of its own.

They are started afresh, with the program in a directory, and get their work over pipes: nothing of the
program that called `verify` runs twice, as it would where `multiprocessing` imports its main module
again, no lock or thread is copied, as by a fork, and nothing is unpickled. A data set is opened by its
name in every process; other samples are handed over, a part at a time, as .npz files.

Each process leads a session of its own, so that Ctrl-C is for us alone, and ends when its standard input
does: by our closing it, or by our end, however that came about. What it started (Lava's processes) it ends
before. Its working directory is the one with the program, since Python would import modules from where a
user happens to be.
"""

from __future__ import annotations

import json
import math
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from neurocompile.data import SEVERAL, Samples, named_split
from neurocompile.errors import DeadlineError, ExecutionError, Problem
from neurocompile.samples import SampleSource
from neurocompile.tensors import npz_bytes
from neurocompile.verification.stages import Runner
from neurocompile.verification.tallies import Tally
from neurocompile.verification.wire import from_bytes, raise_told, to_bytes

MODULE = "neurocompile.verification.worker"
SETUP, PLAN, PROGRAM = "setup.json", "plan.npz", "program"  # in the directory that processes share
READY, COUNTED, FAILED, BROKEN = b"r", b"t", b"e", b"b"  # the first byte of what a process says
END = b"end\n"  # the last line to a process; one that does not get it has lost us
START_SECONDS = 300.0  # importing PyTorch or Lava's parts, and proving the program again
END_SECONDS = 20.0  # a process has so long to end what it started
LENGTH_BYTES = 8
DIGEST_BYTES = 32  # of the samples of a part, before what was counted of them
READ_BYTES = 1 << 20
PACKAGES = "PYTHONPATH"  # directories of modules, in the environment
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True)
class Part:
    """The samples from `start` up to `stop`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


Counted = tuple[Part, bytes, Tally]


def count_in_processes(
    runner: Runner,
    source: SampleSource,
    parts: Sequence[Part],
    *,
    jobs: int,
    ends: float = math.inf,
) -> Generator[tuple[Part, bytes, Tally], None, None]:
    """
    Yield each of `parts`, the digest of its samples, and what is counted of it, as they are done.

    At most `jobs` processes run; none is left when this ends, or is closed. Raises what a process did,
    `ExecutionError` for one that ended without a word, and `DeadlineError` if they are not done at `ends`, a
    time of `time.monotonic`.
    """
    jobs = min(jobs, len(parts))
    with tempfile.TemporaryDirectory(prefix="neurocompile-") as name:
        directory = Path(name)
        _prepare(directory, runner, source)
        todo: queue.SimpleQueue[Part] = queue.SimpleQueue()
        for part in parts:
            todo.put(part)
        done: queue.SimpleQueue[Counted | BaseException] = queue.SimpleQueue()
        lock = threading.Lock()  # a source need not be read by several threads
        workers: list[Worker] = []
        threads: list[threading.Thread] = []
        try:
            for number in range(jobs):
                workers.append(Worker(directory, number, jobs, ends))
                feed = threading.Thread(
                    target=_feed, args=(workers[-1], source, lock, todo, done), daemon=True
                )
                threads.append(feed)
                feed.start()
            for _ in parts:
                found = done.get()
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            end_all(workers)
            for thread in threads:
                thread.join()
            for worker in workers:
                worker.replies.close()


def processors() -> list[int]:
    """Return the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def processors_of(number: int, jobs: int) -> list[int]:
    """Return the processors of process `number` of `jobs`: its share, or all where there are fewer."""
    every = processors()
    return every[number::jobs] if jobs <= len(every) else every


def environment_for(jobs: int) -> dict[str, str]:
    """Return the environment of one of `jobs` processes: each has its share of the processors' threads."""
    share = max(1, len(processors()) // jobs)
    limits = {name: os.environ.get(name, "") for name in THREADS}
    environment = dict(os.environ) | {
        name: str(min(share, int(limit)) if limit.isdecimal() and int(limit) else share)
        for name, limit in limits.items()
    }
    if PACKAGES in environment:  # what a user has put there may be named from where we are
        named = environment[PACKAGES].split(os.pathsep)
        environment[PACKAGES] = os.pathsep.join(os.path.abspath(item) for item in named if item)  # noqa: PTH100  # of no file yet
    return environment


def _prepare(directory: Path, runner: Runner, source: SampleSource) -> None:
    opening = source.opening
    setup: dict[str, Any] = {"data": None, "options": None, "count": None}
    if opening is not None:
        options = opening.options
        setup["data"] = _from_anywhere(opening.data)
        setup["options"] = {**asdict(options), "root": str(options.directory.absolute())}
        setup["count"] = opening.count
    (directory / SETUP).write_text(json.dumps(setup), encoding="utf-8")
    (directory / PLAN).write_bytes(to_bytes(runner.plan))
    runner.program.save(directory / PROGRAM)


def _from_anywhere(data: str) -> str:
    """Return the name of a data set for processes that are elsewhere: files with their whole path."""
    name, _ = named_split(data)
    if Path(name).suffix != ".npz":
        return data
    return f"{Path(name).absolute()}{data[len(name) :]}"


def _feed(
    worker: Worker,
    source: SampleSource,
    lock: threading.Lock,
    todo: queue.SimpleQueue[Part],
    done: queue.SimpleQueue[Counted | BaseException],
) -> None:
    """Give `worker` one part after the other."""
    try:
        worker.wait_for_start()
        while True:
            try:
                part = todo.get_nowait()
            except queue.Empty:
                return
            file = ""
            if source.opening is None:
                with lock:
                    samples = source.part(part.start, part.stop)
                file = f"{part.start}.npz"
                (worker.directory / file).write_bytes(packed(samples))
            done.put((part, *worker.count(part, file)))
    except BaseException as error:  # noqa: BLE001  # raised by who reads `done`
        done.put(error)


def packed(samples: Samples) -> bytes:
    """Return samples as an .npz file, in the types that they have."""
    inputs, labels = samples.inputs, samples.labels
    named = (
        {"input": inputs}
        if isinstance(inputs, np.ndarray)
        else {f"{SEVERAL}{name}": values for name, values in inputs.items()}
    )
    return npz_bytes(named if labels is None else {**named, "label": labels})


def unpacked(file: Path) -> Samples:
    """Return what `packed` made `file` of, and remove it."""
    with np.load(file, allow_pickle=False) as arrays:
        named = {name: arrays[name] for name in arrays}
    file.unlink()
    labels = named.pop("label", None)
    if "input" in named:
        return Samples(named["input"], labels)
    return Samples({name.removeprefix(SEVERAL): item for name, item in named.items()}, labels)


class Worker:
    """A process that counts the parts that it is given, one after the other."""

    def __init__(self, directory: Path, number: int, jobs: int, ends: float = math.inf) -> None:
        self.directory, self.number, self.ends = directory, number, ends
        mine = ",".join(str(processor) for processor in processors_of(number, jobs))
        reading, writing = os.pipe()
        self.replies: IO[bytes] = os.fdopen(reading, "rb", buffering=0)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(directory), str(writing), mine],
                cwd=directory,  # `-m` looks there first
                env=environment_for(jobs),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(writing,),
                start_new_session=True,
            )
        except BaseException:
            self.replies.close()
            raise
        finally:
            os.close(writing)

    def wait_for_start(self) -> None:
        """Wait until the process is ready to count."""
        patience = min(START_SECONDS, self._left())
        if not select.select([self.replies], [], [], patience)[0] and patience == START_SECONDS:
            raise ExecutionError(
                Problem(
                    "",
                    f"a process of --jobs must start within {START_SECONDS:g} s",
                    f"number {self.number} did not",
                    "use fewer",
                )
            )
        self._reply(READY, "no samples yet")

    def count(self, part: Part, file: str) -> tuple[bytes, Tally]:
        """
        Return the digest of the samples of `part`, and what the process counts of them.

        They are in `file` if it can not open them by itself.
        """
        left = None if self.ends == math.inf else self._left()
        request = json.dumps(
            {"start": part.start, "stop": part.stop, "file": file, "seconds": left}
        )
        assert self.process.stdin is not None
        with suppress(OSError):  # it has ended: its reply says so
            self.process.stdin.write(f"{request}\n".encode())
            self.process.stdin.flush()
        samples = f"the samples {part.start} to {part.stop - 1}"
        content = self._reply(COUNTED, samples)
        return content[:DIGEST_BYTES], from_bytes(Tally, content[DIGEST_BYTES:])

    def _left(self) -> float:
        """Return how many seconds there are until the deadline."""
        return max(0.0, self.ends - time.monotonic())

    def _reply(self, wanted: bytes, samples: str) -> bytes:
        """Return what comes with a reply of the kind `wanted`; raises what the process tells instead."""
        head = self._read(LENGTH_BYTES)
        length = int.from_bytes(head, "little")
        content = self._read(length) if len(head) == LENGTH_BYTES else b""
        if len(head) < LENGTH_BYTES or len(content) < length:
            raise ExecutionError(
                Problem(
                    "",
                    "every process of --jobs must finish",
                    f"the one with {samples} {self._how_it_ended()}",
                    "what it printed says why"
                    if wanted == READY
                    else "with fewer jobs each has more memory",
                )
            )
        kind, rest = content[:1], content[1:]
        if kind == FAILED:
            raise_told(rest)
        if kind == BROKEN:
            raise RuntimeError(f"a process of --jobs failed on {samples}:\n{rest.decode()}")
        assert kind == wanted
        return rest

    def _read(self, length: int) -> bytes:
        """Return the next `length` bytes that the process says, fewer if it ends; raises at the deadline."""
        said = bytearray()
        while len(said) < length:
            left = None if self.ends == math.inf else self._left()
            if not select.select([self.replies], [], [], left)[0]:
                raise out_of_time("the processes of --jobs")
            more = self.replies.read(min(READ_BYTES, length - len(said)))
            if not more:
                break
            said += more
        return bytes(said)

    def _how_it_ended(self) -> str:
        try:
            code = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with code {code}"


def out_of_time(what: str) -> DeadlineError:
    """Return the error of what was not done in time."""
    return DeadlineError(
        Problem(
            "", f"{what} did not finish before the deadline", remedy="give it more with --deadline"
        )
    )


def end_all(workers: Sequence[Worker]) -> None:
    """End the processes of `workers`, with what they started: politely, then by force."""
    for worker in workers:
        assert worker.process.stdin is not None
        with suppress(OSError):
            worker.process.stdin.write(END)
        with suppress(OSError):
            worker.process.stdin.close()
    ends = time.monotonic() + END_SECONDS
    for worker in workers:
        try:
            worker.process.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
