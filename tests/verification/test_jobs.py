"""Several processes: the same counts, and nothing left behind however it ends."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import neurocompile
from neurocompile.data import DataOptions, Samples
from neurocompile.errors import DataError, DeadlineError, ExecutionError
from neurocompile.program import Program
from neurocompile.samples import open_source, source_of_samples
from neurocompile.target import Progress
from neurocompile.verification import jobs, stream
from neurocompile.verification.jobs import Worker, environment_for, processors_of
from neurocompile.verification.stages import ProgressOf, Runner, plan_of
from neurocompile.verification.stream import count_all
from neurocompile.verification.tallies import Tally
from neurocompile.verification.wire import to_bytes


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "AT_ONCE", 6)  # of 20 samples: the last chunk has 2


@pytest.fixture(autouse=True)
def nothing_left(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[list[Worker]]:
    """The processes of a test, none of which is there at its end; neither are files or shared memory."""
    started: list[Worker] = []
    begin = Worker.__init__

    def noting(self: Worker, *given: object) -> None:
        begin(self, *given)  # type: ignore[arg-type]
        started.append(self)

    folder = tmp_path_factory.mktemp("tmp")
    monkeypatch.setattr(Worker, "__init__", noting)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = shared_memory()
    yield started
    assert all(worker.process.returncode is not None for worker in started)
    assert not list(folder.iterdir())
    if "lava" in request.keywords:
        assert shared_memory() <= before
    assert not processes_about(folder)


def shared_memory() -> set[str]:
    """Return the names of Lava's segments that no process uses: those of other tests are in use."""
    folder = Path("/dev/shm")  # noqa: S108
    names = {file.name for file in folder.glob("nc*_*")} if folder.is_dir() else set()
    for file in Path("/proc").glob("[0-9]*/maps"):
        try:
            used = file.read_text(errors="replace")
        except OSError:
            continue
        names = {name for name in names if name not in used}
    return {name for name in names if (folder / name).exists()}


def processes_about(folder: Path) -> list[bytes]:
    """Return the commands of running processes that name `folder`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in command:
            found.append(command)
    return found


@pytest.fixture
def alone(runner: Runner, spikes_in: Samples, quiet: ProgressOf) -> Tally:
    """What one process counts."""
    return count_all(runner, source_of_samples(spikes_in), progress_of=quiet)


def test_samples_in_memory_are_handed_over(
    runner: Runner, spikes_in: Samples, alone: Tally, nothing_left: list[Worker]
) -> None:
    told: dict[str, list[tuple[int, int]]] = {}

    def progress_of(name: str) -> Progress:
        told[name] = []
        return lambda done, of: told[name].append((done, of))

    found = count_all(runner, source_of_samples(spikes_in), progress_of=progress_of, jobs=2)

    assert to_bytes(found) == to_bytes(alone)
    assert [worker.process.returncode for worker in nothing_left] == [0, 0]
    assert list(told) == ["samples"]  # stages run side by side
    assert len(told["samples"]) == 5
    assert (told["samples"][0], told["samples"][-1]) == ((0, 20), (20, 20))


def test_a_data_set_is_opened_by_its_name(
    runner: Runner, spikes_in: Samples, alone: Tally, tmp_path: Path, quiet: ProgressOf
) -> None:
    assert spikes_in.labels is not None
    path = tmp_path / "frames.npz"
    frames = {f"x_{split}": spikes_in.inputs for split in ("train", "test")}
    labels = {f"y_{split}": spikes_in.labels for split in ("train", "test")}
    np.savez(path, **frames, **labels)  # type: ignore[arg-type]
    source = open_source(f"{path}:test", DataOptions())
    assert source.opening is not None

    found = count_all(runner, source, progress_of=quiet, jobs=3)

    assert to_bytes(found) == to_bytes(alone)


def test_there_are_no_more_processes_than_chunks(
    runner: Runner, spikes_in: Samples, quiet: ProgressOf, nothing_left: list[Worker]
) -> None:
    count_all(runner, source_of_samples(spikes_in.first(5)), progress_of=quiet, jobs=8)
    assert not nothing_left  # one chunk needs no other process

    count_all(runner, source_of_samples(spikes_in.first(8)), progress_of=quiet, jobs=8)
    assert len(nothing_left) == 2


def test_what_a_process_refuses_is_refused(
    runner: Runner, spikes_in: Samples, quiet: ProgressOf
) -> None:
    labels = np.zeros(20, np.int64)
    labels[17] = 7
    source = source_of_samples(Samples(spikes_in.inputs, labels))

    with pytest.raises(
        DataError,
        match="labels must be from 0 to 2, as there are 3 outputs.*they reach from 0 to 7",
    ):
        count_all(runner, source, progress_of=quiet, jobs=2)


def test_an_interruption_ends_all_processes(
    runner: Runner, spikes_in: Samples, nothing_left: list[Worker]
) -> None:
    def progress_of(_name: str) -> Progress:
        def progress(done: int, _of: int) -> None:
            if done:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        count_all(runner, source_of_samples(spikes_in), progress_of=progress_of, jobs=2)

    assert len(nothing_left) == 2


READY_THEN = """
import os, sys, threading, time
replies = os.fdopen(int(sys.argv[2]), "wb")
replies.write((1).to_bytes(8, "little") + b"r")
replies.flush()
sys.stdin.readline()
{}
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has another module take the place of processes, which does something when it gets its first part."""

    def replace(then: str) -> None:
        (tmp_path / "stand_in.py").write_text(READY_THEN.format(then))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(jobs, "MODULE", "stand_in")

    return replace


@pytest.mark.parametrize(
    ("then", "how"),
    [
        ("os._exit(3)", "ended with code 3"),
        (f"os.kill(os.getpid(), {int(signal.SIGKILL)})", "was ended by SIGKILL"),
        ("replies.write(b'half'); replies.flush(); os._exit(0)", "ended with code 0"),
    ],
)
def test_a_process_that_dies_is_told_with_its_samples(
    then: str,
    how: str,
    stand_in: Callable[[str], None],
    runner: Runner,
    spikes_in: Samples,
    quiet: ProgressOf,
) -> None:
    stand_in(then)
    source = source_of_samples(spikes_in.first(12))

    with pytest.raises(
        ExecutionError,
        match=f"every process of --jobs must finish, but the one with the samples [06] to (5|11) {how}",
    ):
        count_all(runner, source, progress_of=quiet, jobs=2)


def test_a_process_that_does_not_start_is_told(
    stand_in: Callable[[str], None], runner: Runner, spikes_in: Samples, quiet: ProgressOf
) -> None:
    stand_in("")
    assert "PYTHONPATH" in os.environ
    Path(os.environ["PYTHONPATH"], "stand_in.py").write_text("raise SystemExit(4)")

    with pytest.raises(ExecutionError, match="with no samples yet ended with code 4"):
        count_all(runner, source_of_samples(spikes_in), progress_of=quiet, jobs=2)


def test_a_process_that_does_not_end_is_ended(
    stand_in: Callable[[str], None],
    runner: Runner,
    spikes_in: Samples,
    quiet: ProgressOf,
    monkeypatch: pytest.MonkeyPatch,
    nothing_left: list[Worker],
) -> None:
    # The first one hangs, the second one fails.
    stand_in(
        "try:\n"
        "    os.mkdir(sys.argv[1] + '/taken')\n"
        "except OSError:\n"
        "    os._exit(3)\n"
        "threading.Event().wait()"
    )
    monkeypatch.setattr(jobs, "END_SECONDS", 0.5)

    with pytest.raises(ExecutionError, match="ended with code 3"):
        count_all(runner, source_of_samples(spikes_in), progress_of=quiet, jobs=2)

    assert sorted(worker.process.returncode for worker in nothing_left) == [-signal.SIGKILL, 3]


def test_a_bug_in_a_process_keeps_its_traceback(
    stand_in: Callable[[str], None], runner: Runner, spikes_in: Samples, quiet: ProgressOf
) -> None:
    stand_in(
        "from pathlib import Path\n"
        "from neurocompile.verification import worker\n"
        "worker._work = lambda *given: 1 / 0\n"
        "worker.main(Path(sys.argv[1]), replies)"
    )

    with pytest.raises(
        RuntimeError, match="failed on the samples (?s:.)*Traceback(?s:.)*ZeroDivisionError"
    ):
        count_all(runner, source_of_samples(spikes_in), progress_of=quiet, jobs=2)


@pytest.mark.parametrize(
    "then",
    [
        f"os.kill(os.getpid(), {int(signal.SIGSTOP)})",
        f"replies.write(b'half'); replies.flush(); os.kill(os.getpid(), {int(signal.SIGSTOP)})",
    ],
)
def test_a_deadline_holds_for_a_process_that_says_nothing(
    then: str,
    stand_in: Callable[[str], None],
    runner: Runner,
    spikes_in: Samples,
    quiet: ProgressOf,
    monkeypatch: pytest.MonkeyPatch,
    nothing_left: list[Worker],
) -> None:
    stand_in(then)
    monkeypatch.setattr(jobs, "END_SECONDS", 0.5)

    with pytest.raises(
        DeadlineError,
        match="the processes of --jobs did not finish before the deadline: give it more",
    ):
        count_all(runner, source_of_samples(spikes_in), progress_of=quiet, jobs=2, deadline=1.0)

    assert {worker.process.returncode for worker in nothing_left} == {-signal.SIGKILL}


def test_modules_where_the_user_is_are_not_imported(
    runner: Runner,
    spikes_in: Samples,
    alone: Tally,
    tmp_path: Path,
    quiet: ProgressOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("queue", "select", "random", "nir"):
        (tmp_path / f"{name}.py").write_text("open('taken', 'w').close()\nraise SystemExit(9)\n")
    assert spikes_in.labels is not None
    frames = {f"x_{split}": np.asarray(spikes_in.inputs) for split in ("train", "test")}
    labels = {f"y_{split}": spikes_in.labels for split in ("train", "test")}
    np.savez(tmp_path / "frames.npz", **frames, **labels)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    source = open_source("frames.npz:test", DataOptions())  # a path from here

    found = count_all(runner, source, progress_of=quiet, jobs=2)

    assert to_bytes(found) == to_bytes(alone)
    assert not (tmp_path / "taken").exists()


def test_what_a_process_uses_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["mine", "", "/there"]))

    named = environment_for(2)["PYTHONPATH"].split(os.pathsep)

    assert named == [str(tmp_path / "mine"), "/there"]
    assert jobs._from_anywhere("digits:test") == "digits:test"
    assert jobs._from_anywhere("a.npz") == str(tmp_path / "a.npz")
    assert jobs._from_anywhere("x/a.npz:train") == f"{tmp_path}/x/a.npz:train"


KILLED = """
import os, signal, sys
from neurocompile import api
from neurocompile.verification import stream
stream.AT_ONCE = 6

def progress_of(_name):
    def progress(done, _of):
        if done:
            os.kill(os.getpid(), signal.SIGKILL)
    return progress

api.verify(sys.argv[1], data=sys.argv[2], jobs=2, progress_of=progress_of)
"""


def test_nothing_is_left_when_we_are_killed(
    coarse: Program, spikes_in: Samples, tmp_path: Path
) -> None:
    coarse.save(tmp_path / "program")
    np.savez(tmp_path / "in.npz", input=np.asarray(spikes_in.inputs))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", KILLED, f"{tmp_path}/program", f"{tmp_path}/in.npz"]

    found = subprocess.run(command, env=environment, timeout=120, check=False)

    assert found.returncode == -signal.SIGKILL
    wait_until(lambda: not processes_about(temporary))
    assert not list(temporary.iterdir())


def wait_until(true: Callable[[], bool]) -> None:
    """Wait at most a minute for something of processes that end by themselves."""
    ends = time.monotonic() + 60
    while not true() and time.monotonic() < ends:
        threading.Event().wait(0.05)


def test_processors_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "nonsense")

    environments = [environment_for(count) for count in (2, 3, 16)]

    assert [item["MKL_NUM_THREADS"] for item in environments] == ["4", "2", "1"]
    assert [item["OPENBLAS_NUM_THREADS"] for item in environments] == ["4", "2", "1"]
    assert [item["OMP_NUM_THREADS"] for item in environments] == ["2", "2", "1"]
    assert [processors_of(number, 3) for number in range(3)] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert processors_of(8, 9) == list(range(8))


@pytest.mark.lava
def test_each_process_has_its_own_lava(
    exact_nir: Path,
    spikes_in: Samples,
    quiet: ProgressOf,
    opened: Callable[[Program], Program],
) -> None:
    program = opened(
        neurocompile.export(exact_nir, target="loihi2", profile="literal", dt=1e-4, weight_bits=3)
    )
    runner = Runner(program, plan_of(program, ["fixedpoint"]))

    found = count_all(runner, source_of_samples(spikes_in), progress_of=quiet, jobs=2)

    assert found.samples == 20
    pair = found.pairs["fixedpoint", "loihi2"]
    assert sum(layer.mismatches for layer in pair.layers.values()) == 0
    assert sum(found.stages["loihi2"].spikes.values()) > 0


@pytest.mark.lava
def test_an_interruption_ends_their_lava_too(
    exact_nir: Path,
    spikes_in: Samples,
    opened: Callable[[Program], Program],
    nothing_left: list[Worker],
) -> None:
    program = opened(
        neurocompile.export(exact_nir, target="loihi2", profile="literal", dt=1e-4, weight_bits=3)
    )
    runner = Runner(program, plan_of(program, ["fixedpoint"]))
    many = Samples(
        np.concatenate([np.asarray(spikes_in.inputs)] * 30), None
    )  # the other process is at work when the first has done its part

    def progress_of(_name: str) -> Progress:
        def progress(done: int, _of: int) -> None:
            if done:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        count_all(runner, source_of_samples(many), progress_of=progress_of, jobs=2)

    assert all(
        worker.process.returncode is not None for worker in itertools.islice(nothing_left, 2)
    )
