"""Lava itself: what the worker builds, how it fails, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import accumulate
from neurocompile_loihi2 import batching, interpreter, run
from neurocompile_loihi2.lower import TARGET, lower
from neurocompile_loihi2.run import LavaExecutor, main

from neurocompile.data import InputRange
from neurocompile.errors import (
    DeadlineError,
    ExecutionError,
    MissingDependencyError,
    UnsupportedError,
)
from neurocompile.integer import Geometry, IntegerSynapses
from neurocompile.ir import LIF, Conv2d, Dense, Flatten, Network
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


@pytest.fixture
def program(
    lif: Callable[..., LIF], chain: Callable[..., Network], opened: Callable[[Program], Program]
) -> Program:
    generator = np.random.default_rng(0)
    network = chain(
        (2, 4, 4),
        {
            "conv": Conv2d(
                generator.normal(size=(3, 2, 3, 3)) / 3, generator.normal(size=3), padding=(1, 1)
            ),
            "lif1": lif((3, 4, 4)),
            "flatten": Flatten(),
            "fc": Dense(generator.normal(size=(5, 48)), np.zeros(5)),
            "lif2": lif((5,)),
        },
        steps=4,
    )
    return opened(compile_network(network, TARGET, CompileOptions()))


@pytest.fixture
def inputs() -> Any:
    return np.random.default_rng(1).integers(0, 2, (9, 4, 2, 4, 4))


@pytest.fixture
def left_behind(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Lists the files, shared memory and processes that the sessions of a test have left."""
    sessions: list[Any] = []
    prepare = run._Session._prepare_files

    def prepare_and_remember(session: Any) -> None:
        sessions.append(session)
        prepare(session)

    monkeypatch.setattr(run._Session, "_prepare_files", prepare_and_remember)

    def look() -> list[str]:
        assert sessions
        found = []
        for session in sessions:
            prefix = session.setup.shm_prefix.removeprefix("/")
            found += traces_of(str(session.directory), prefix)
        return found

    return look


def traces_of(directory: str, prefix: str) -> list[str]:
    """Return what one session has left: its directory, segments, and processes that name it."""
    found = [directory] if Path(directory).exists() else []
    found += [path.name for path in SHARED_MEMORY.glob(f"{prefix}*")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if directory in path.read_bytes().decode(errors="replace"):
                found.append(path.parent.name)
    return found


def test_layout_lists_processes_and_keeps_the_integers(program: Program) -> None:
    lowering = lower(program)
    layout = lowering.layout

    assert [entry["process"] for entry in layout["populations"]] == ["LIFReset", "LIFReset"]
    assert layout["populations"][0]["shape"] == [3, 4, 4]
    assert layout["connections"][0]["target_view"] == [3, 4, 4]
    assert [entry["process"] for entry in layout["connections"]] == ["Convolution", "Dense"]
    for group in program.network.synapses:
        np.testing.assert_array_equal(lowering.arrays[f"weight/{group.name}"], group.weight)
    assert lowering.notes == ()


@pytest.mark.parametrize(
    ("weight", "shape", "geometry"),
    [
        (np.ones((1, 1, 1, 1)), (1, 201, 201), {"stride": (200, 200)}),
        (np.ones((128, 1, 1, 1)), (128, 2, 2), {"groups": 128}),
    ],
)
def test_convolutions_beyond_lavas_int8_are_refused(
    lif: Callable[..., LIF],
    chain: Callable[..., Network],
    weight: Any,
    shape: tuple[int, ...],
    geometry: dict[str, Any],
) -> None:
    conv = Conv2d(weight, np.zeros(len(weight)), **geometry)
    network = chain(shape, {"conv": conv, "lif": lif((len(weight), 2, 2))})

    compile_network(network, TARGET, CompileOptions())
    with pytest.raises(
        UnsupportedError,
        match="layer 'conv' needs strides, paddings, dilations, kernels and groups up to 127",
    ):
        compile_network(network, TARGET, CompileOptions(target_options={"convolution": "conv"}))


@pytest.mark.lava
@given(st.data())
def test_an_unrolled_convolution_is_the_convolution(data: Any) -> None:
    from neurocompile_loihi2.unroll import unroll

    draw: Callable[..., Any] = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    groups = draw(1, 2)
    geometry = Geometry(
        (draw(1, 3), draw(1, 2)), (draw(0, 2), draw(0, 2)), (draw(1, 2), draw(1, 2)), groups
    )
    generator = np.random.default_rng(draw(0, 2**16))
    channels, out = groups * draw(1, 2), groups * draw(1, 2)
    weight = generator.integers(-128, 128, (out, channels // groups, draw(1, 3), draw(1, 3))) * 2
    x = generator.integers(-3, 4, (1, channels, 7, 6))
    shape = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip(
            (7, 6),
            geometry.padding,
            geometry.dilation,
            weight.shape[2:],
            geometry.stride,
            strict=True,
        )
    ]
    views = ((channels, 7, 6), (out, shape[0], shape[1]))
    expected = accumulate(IntegerSynapses("w", "a", "b", weight, geometry), x, views)[0]

    matrix = unroll(weight, *views, **asdict(geometry))

    np.testing.assert_array_equal(matrix @ x.ravel(), expected.ravel())
    assert matrix.nnz == np.count_nonzero(matrix.data)
    assert matrix.has_canonical_format  # columns ascend, none twice


@pytest.mark.lava
def test_lavas_own_convolution_gives_the_same_spikes(
    lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    generator = np.random.default_rng(3)
    network = chain(
        (2, 5, 7),
        {
            "conv1": Conv2d(
                generator.normal(size=(4, 2, 3, 2)),
                generator.normal(size=4),
                stride=(2, 1),
                padding=(1, 0),
            ),
            "lif1": lif((4, 3, 6)),
            "conv2": Conv2d(
                generator.normal(size=(4, 2, 2, 3)), np.zeros(4), dilation=(1, 2), groups=2
            ),
            "lif2": lif((4, 2, 2)),
            "flatten": Flatten(),
            "fc": Dense(generator.normal(size=(3, 16)), np.ones(3)),
        },
        steps=3,
        input_range=InputRange(0, 1, 1 / 8),
    )
    inputs = generator.integers(0, 9, (4, 3, 2, 5, 7)) / 8
    results = []
    for convolution in ("sparse", "conv"):
        options = CompileOptions(target_options={"convolution": convolution})
        with compile_network(network, TARGET, options) as program:
            results.append(program.run(inputs, "all"))

    np.testing.assert_array_equal(results[0].output, results[1].output)
    for layer in ("lif1", "lif2"):
        np.testing.assert_array_equal(results[0].spikes[layer], results[1].spikes[layer])
        assert results[0].spikes[layer].any()


@pytest.mark.lava
def test_samples_that_need_several_rounds_are_the_same(
    program: Program, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two replicas and the smallest files: nine samples take several runs of one runtime."""
    monkeypatch.setattr(batching, "REPLICAS_MAXIMUM", 2)
    monkeypatch.setattr(run, "STREAM_BYTES", 1)
    reports: list[tuple[int, int]] = []

    with program:
        ours = program.run(
            inputs, "all", progress=lambda done, total: reports.append((done, total))
        )
        definition = program.run(inputs, "all", on="fixedpoint")

    for layer in ("lif1", "lif2"):
        np.testing.assert_array_equal(ours.spikes[layer], definition.spikes[layer])
    assert reports[-1] == (36, 36)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


@pytest.mark.lava
def test_a_second_run_uses_the_same_processes(program: Program, inputs: Any) -> None:
    with program:
        program.run(inputs, "all")
        executor = program.executor()
        assert isinstance(executor, LavaExecutor)
        session = executor._session
        program.run(inputs[:3])

        assert executor._session is session


@pytest.mark.lava
def test_a_clean_end_leaves_nothing(
    program: Program, inputs: Any, left_behind: Callable[[], list[str]]
) -> None:
    program.run(inputs)
    assert len(left_behind()) > 10  # the directory, segments of every channel, many processes

    program.close()

    assert left_behind() == []


@pytest.mark.lava
def test_a_deadline_ends_lava_and_leaves_nothing(
    program: Program, inputs: Any, left_behind: Callable[[], list[str]]
) -> None:
    with pytest.raises(
        DeadlineError, match="Lava did not finish before the deadline: give it more with --deadline"
    ):
        program.run(inputs, deadline=0.2)  # importing Lava alone takes longer

    assert left_behind() == []


@pytest.mark.lava
def test_a_lava_that_hangs_is_ended(
    program: Program,
    inputs: Any,
    monkeypatch: pytest.MonkeyPatch,
    left_behind: Callable[[], list[str]],
) -> None:
    """All of Lava's processes are stopped in their tracks: no step is made any more."""
    program.run(inputs)
    monkeypatch.setattr(run, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(run, "POLITE_SECONDS", 0.5)
    executor = program.executor()
    assert isinstance(executor, LavaExecutor)
    assert executor._session is not None
    assert executor._session.worker is not None
    os.killpg(executor._session.worker.pid, signal.SIGSTOP)

    with pytest.raises(DeadlineError, match="Lava did not make a step within 1 s"):
        program.run(inputs)

    assert left_behind() == []


@pytest.mark.lava
def test_an_exception_inside_lava_is_told_and_ends_it(
    program: Program,
    inputs: Any,
    left_behind: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lava would hang: a process that dies never answers those that wait for it."""
    broken = dict(program.extra_files)
    broken["loihi2.json"] = broken["loihi2.json"].replace(b'"vth": ', b'"vth": 0.5, "was": ')
    changed = Program(
        **{
            **{
                name: getattr(program, name)
                for name in (
                    "target",
                    "options",
                    "network",
                    "schedule",
                    "bounds",
                    "steps",
                    "native_steps",
                    "facts",
                )
            },
            "extra_files": broken,
        }
    )

    monkeypatch.setattr(
        run, "_layout_of", lambda program: json.loads(program.extra_files["loihi2.json"])
    )
    with (
        changed,
        pytest.raises(ExecutionError, match=r"(?s)Lava's worker failed: it said:.*TypeError"),
    ):
        changed.run(inputs)

    assert left_behind() == []


CHILD = """
import sys, numpy as np
from neurocompile.program import load
program = load(sys.argv[1])
program.run(np.zeros((2, 4, 2, 4, 4)))
session = program.executor()._session
print(session.directory, session.worker.pid, session.setup.shm_prefix, flush=True)
program.run(np.zeros((40000, 4, 2, 4, 4)))
"""


@pytest.mark.lava
def test_lava_ends_when_its_parent_is_killed(program: Program, tmp_path: Path) -> None:
    program.save(tmp_path / "program")
    parent = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "program")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    directory, group, prefix = parent.stdout.readline().split()

    parent.kill()
    parent.wait()
    parent.stdout.close()

    until = time.monotonic() + 30
    while time.monotonic() < until and (
        run._group_is_alive(int(group)) or traces_of(directory, prefix.removeprefix("/"))
    ):
        os.sched_yield()
    assert not run._group_is_alive(int(group))
    assert traces_of(directory, prefix.removeprefix("/")) == []


INTERRUPTED = """
import os, signal, sys, threading, numpy as np
from neurocompile.program import load
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
program = load(sys.argv[1])
program.run(np.zeros((2, 4, 2, 4, 4)))
session = program.executor()._session
print(session.directory, session.setup.shm_prefix, flush=True)
try:
    program.run(np.zeros((40000, 4, 2, 4, 4)), progress=lambda done, total: os.kill(os.getpid(), signal.SIGINT))
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.lava
def test_repeated_interruptions_leave_nothing(program: Program, tmp_path: Path) -> None:
    """Every report of progress interrupts, also while Lava is being ended."""
    program.save(tmp_path / "program")

    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "program")],
        capture_output=True,
        text=True,
        check=False,
    )

    directory, prefix = done.stdout.split()
    assert done.returncode != 0
    assert traces_of(directory, prefix.removeprefix("/")) == []


def test_a_missing_lava_is_named_with_the_command_that_installs_it(
    program: Program, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(interpreter.VARIABLE, raising=False)
    monkeypatch.setattr(interpreter, "find_spec", lambda _name: None)

    with pytest.raises(
        MissingDependencyError,
        match=r"needs lava-nc 0.10.0, but lava, .* cannot be imported here: pip install",
    ):
        program.run(inputs)


def test_an_interpreter_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(interpreter.VARIABLE, "/no/python")

    with pytest.raises(
        MissingDependencyError, match="must name a Python, but '/no/python' cannot be run"
    ):
        interpreter.lava_python()


def test_an_interpreter_without_lava_says_what_it_misses() -> None:
    with pytest.raises(MissingDependencyError, match=r"cannot import Lava"):
        interpreter.probe("/bin/false")


@pytest.mark.lava
def test_the_command_of_a_loihi_host(program: Program, inputs: Any, tmp_path: Path) -> None:
    program.save(tmp_path / "program")
    np.savez(tmp_path / "in.npz", input=inputs)

    code = main([
        str(tmp_path / "program"), "--input", str(tmp_path / "in.npz"),
        "--output", str(tmp_path / "out.npz"), "--record", "all,membrane/lif1",
    ])  # fmt: skip

    definition = program.run(inputs, ["all", "membrane/lif1"], on="fixedpoint")
    assert code == 0
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert sorted(file) == ["membrane/lif1", "output", "spikes/lif1", "spikes/lif2"]
        np.testing.assert_array_equal(file["output"], definition.output)
        np.testing.assert_array_equal(file["spikes/lif1"], definition.spikes["lif1"])
        np.testing.assert_array_equal(file["membrane/lif1"], definition.membrane["lif1"])


def test_the_command_of_a_loihi_host_refuses_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([str(tmp_path), "--input", "none.npz", "--output", str(tmp_path / "out.npz")])

    assert code == 2
    assert "is not a program directory" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()
