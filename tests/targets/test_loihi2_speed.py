"""Samples side by side: the same integers as Lava's models, bounded memory and processes, progress."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from neurocompile_loihi2 import batching, lower, run
from neurocompile_loihi2.lower import TARGET
from neurocompile_loihi2.run import LavaExecutor
from neurocompile_loihi2.worker_setup import Setup

from neurocompile.errors import ExecutionError
from neurocompile.ir import LIF, Conv2d, Dense, Flatten, Network, Node, Pool2d
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108

MODELS = """
import numpy as np
from types import SimpleNamespace
from neurocompile_loihi2 import shim
shim.install()
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.proc.conv.utils import conv
from lava.proc.lif.models import PyLifResetModelBitAcc
from lava.proc.sparse.models import PyDelaySparseModelBitAcc
from lava.utils.weightutils import SignMode
from scipy.sparse import csr_matrix
from neurocompile_loihi2.processes import batch
from neurocompile_loihi2.unroll import unroll

generator = np.random.default_rng(0)


def edges(low, high, shape):
    values = generator.integers(low, high + 1, shape)
    nearby = generator.choice([low, low + 1, -1, 0, 1, high - 1, high], shape)
    return np.where(generator.random(shape) < 0.3, nearby, values)


def neurons(shape):
    of_each = shape[:1] + (1,) * (len(shape) - 1)
    model = object.__new__(batch.BatchLIFModel)
    vars(model).update(
        ds_offset=1, dm_offset=0, max_uv_val=1 << 23, decay_shift=12, decay_unity=4096, act_shift=6,
        du=edges(0, 4095, of_each) if generator.random() < 0.5 else int(edges(0, 4095, ())),
        dv=edges(0, 4096, of_each) if generator.random() < 0.5 else int(edges(0, 4096, ())),
        u=edges(-(1 << 23) + 1, 1 << 23, shape).astype(np.int32),
        v=edges(1 - (1 << 23), (1 << 23) - 1, shape).astype(np.int32),
        effective_bias=edges(-524288, 524160, shape).astype(np.int32),
    )
    return model
"""

SAME_NEURONS = """
batch.AT_ONCE = 40  # several turns
for _ in range(500):
    shape = tuple(int(size) for size in generator.integers(2, 9, 2))
    model = neurons(shape)
    theirs = SimpleNamespace(**vars(model) | {name: getattr(model, name).copy() for name in "uv"})
    # From 131072 on, in either direction, what is in 24 bits wraps.
    low, high = generator.choice(
        [(-131072, 131072), (0, 131072 * 3), (-131072 * 3, 0), (-400000, 400000), (-9, 9)]
    )
    if generator.random() < 0.5:
        model.du = theirs.du = 4095  # no memory: the current alone decides
    currents = edges(low, high, shape).astype(np.int32)
    PyLifResetModelBitAcc.subthr_dynamics(theirs, currents)
    model._integrate(currents)
    for name in "uv":
        np.testing.assert_array_equal(getattr(model, name), getattr(theirs, name))
    spikes = generator.random(shape) < 0.5
    model.reset_voltage(spikes)
    PyLifResetModelBitAcc.reset_voltage(theirs, spikes)
    np.testing.assert_array_equal(model.v, theirs.v)
print("the same")
"""

WATCHED = """
model = neurons((4, 3))
model._integrate = lambda currents: model.u.fill(7)
try:
    model.subthr_dynamics(np.zeros((4, 3), np.int32))
except RuntimeError as error:
    print(error)
"""

SAME_CONVOLUTIONS = """
PyLoihiProcessModel.__init__ = lambda self, parameters: None
for _ in range(200):
    def draw(low, high):
        return int(generator.integers(low, high + 1))
    groups, samples = draw(1, 2), draw(1, 3)
    geometry = dict(
        stride=(draw(1, 3), draw(1, 2)), padding=(draw(0, 2), draw(0, 2)),
        dilation=(draw(1, 2), draw(1, 2)), groups=groups,
    )
    channels, out = groups * draw(1, 2), groups * draw(1, 2)
    weight = generator.integers(-128, 128, (out, channels // groups, draw(1, 3), draw(1, 3))) * 2
    large = draw(0, 1)  # sums that float32 does not hold, and that Lava's Conv would wrap
    height, width = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip(
            (7, 6), geometry["padding"], geometry["dilation"], weight.shape[2:], geometry["stride"]
        )
    )
    most = 200001 if large else 2
    model = batch.BatchConvolutionModel(dict(
        source_view=(channels, 7, 6), target_view=(out, height, width), weight=weight,
        largest=most, samples=samples, delay=0, **geometry,
    ))
    assert large or model.dtype == np.float32
    spikes = generator.integers(1 - most, most, (channels * 42, samples)).astype(np.int32)
    ours = model.convolve(spikes)
    if large:
        views = (channels, 7, 6), (out, height, width)
        np.testing.assert_array_equal(ours, unroll(weight, *views, **geometry) @ spikes)
        continue
    for sample in range(samples):
        theirs = conv(
            spikes[:, sample].reshape(channels, 7, 6).transpose(1, 2, 0),
            weight.transpose(0, 2, 3, 1)[:, ::-1, ::-1].astype(np.int32), weight.shape[2:],
            geometry["stride"], geometry["padding"], geometry["dilation"], groups,
        )
        np.testing.assert_array_equal(ours[:, sample], theirs.transpose(2, 0, 1).ravel())
print("the same")
"""

SAME_DELAYS = """
class Port:
    def __init__(self):
        self.sent = []
    def send(self, values):
        self.sent.append(np.array(values))
    def recv(self):
        return self.spikes

def model_of(kind, weights, delays, buffer):
    model = object.__new__(kind)
    vars(model).update(
        proc_params={"sign_mode": SignMode.MIXED}, weights_set=False, by_delay=None, weights=weights,
        delays=delays, a_buff=buffer, num_message_bits=np.array(1), s_in=Port(), a_out=Port(),
    )
    return model

for _ in range(30):
    rows, columns, longest, samples = (int(number) for number in generator.integers(1, 6, 4))
    weights = csr_matrix(generator.integers(1, 128, (rows, columns)) * 2)
    delays = csr_matrix(generator.integers(0, longest + 1, (rows, columns)))
    ours = model_of(
        batch.BatchDelaySparseModel, weights, delays, np.zeros((longest + 1, rows, samples), np.int32)
    )
    theirs = [
        model_of(
            PyDelaySparseModelBitAcc, weights.copy(), delays, np.zeros((rows, longest + 1), np.int32)
        )
        for _ in range(samples)
    ]
    for _ in range(8):
        spikes = generator.integers(0, 3, (columns, samples)).astype(np.int32)
        ours.s_in.spikes = spikes
        ours.run_spk()
        for sample, model in enumerate(theirs):
            model.s_in.spikes = spikes[:, sample]
            model.run_spk()
    sent = np.array(ours.a_out.sent)
    for sample, model in enumerate(theirs):
        np.testing.assert_array_equal(sent[:, :, sample], model.a_out.sent)
print("the same")
"""


def outside(script: str) -> str:
    """Return what `script` prints in a process of its own, where Lava may be imported."""
    done = subprocess.run(
        [sys.executable, "-c", MODELS + script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.lava
@pytest.mark.parametrize("script", [SAME_NEURONS, SAME_CONVOLUTIONS, SAME_DELAYS])
def test_our_models_compute_what_lavas_do(script: str) -> None:
    assert outside(script) == "the same"


@pytest.mark.lava
def test_lavas_own_code_watches_over_the_first_sample() -> None:
    assert outside(WATCHED) == "'u' of the first sample is not what Lava's LIF computes"


@pytest.fixture
def compiled(
    lif: Callable[..., LIF], chain: Callable[..., Network], opened: Callable[[Program], Program]
) -> Callable[..., Program]:
    """Makes a small program; its weights are the same each time."""

    def make(steps: int = 4, **options: str) -> Program:
        generator = np.random.default_rng(0)
        network = chain(
            (2, 6, 6),
            {
                "conv1": Conv2d(
                    generator.normal(size=(4, 2, 3, 3)) / 2, np.zeros(4), padding=(1, 1)
                ),
                "lif1": lif((4, 6, 6)),
                "pool": Pool2d((2, 2), (2, 2), scale=0.25),
                "conv2": Conv2d(generator.normal(size=(6, 4, 3, 3)), np.zeros(6), padding=(1, 1)),
                "lif2": lif((6, 3, 3)),
                "flatten": Flatten(),
                "fc": Dense(generator.normal(size=(5, 54)), np.zeros(5)),
            },
            steps=steps,
        )
        return opened(compile_network(network, TARGET, CompileOptions(target_options=options)))

    return make


@pytest.fixture
def setup_of() -> Callable[..., Setup]:
    """Returns the set-up of a program with one sample, without running it."""

    def make(program: Program, record: tuple[str, ...] = ()) -> Setup:
        return Setup(
            layout=json.loads(program.extra_files["loihi2.json"]),
            convolution=program.options["convolution"],
            steps=4,
            replicas=1,
            rows=0,
            record=record,
            shm_prefix="/x",
        )

    return make


def inputs(samples: int) -> Any:
    return np.random.default_rng(1).integers(0, 2, (samples, 4, 2, 6, 6))


def pages(size: int) -> int:
    return -(-size // 4096) * 4096


def session(program: Program) -> Any:
    executor = program.executor()
    assert isinstance(executor, LavaExecutor)
    return executor._session


@pytest.mark.lava
@pytest.mark.parametrize("samples", [1, 7])
@pytest.mark.parametrize("convolution", ["sparse", "gemm", "conv"])
def test_every_way_to_convolve_fires_the_spikes_of_the_definition(
    compiled: Callable[..., Program], convolution: str, samples: int
) -> None:
    program = compiled(convolution=convolution)
    record = ["all", "membrane/lif1", "membrane/lif2"]

    ours = program.run(inputs(samples), record)
    definition = program.run(inputs(samples), record, on="fixedpoint")

    assert session(program).setup.replicas == (1 if convolution == "conv" else samples)
    assert definition.spikes["lif2"].any()
    np.testing.assert_array_equal(ours.output, definition.output)
    for layer in ("lif1", "lif2"):
        np.testing.assert_array_equal(ours.spikes[layer], definition.spikes[layer])
        np.testing.assert_array_equal(ours.membrane[layer], definition.membrane[layer])


def test_a_convolution_too_large_to_write_out_is_named(
    compiled: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lower, "SYNAPSES_MAXIMUM", 3000)

    lowering = lower.lower(compiled())

    ways = {entry["name"]: entry["simulated_by"] for entry in lowering.layout["connections"]}
    assert ways == {"conv1": "Sparse", "conv2": "BatchConvolution", "fc": "Sparse"}
    (note,) = lowering.notes
    assert note.startswith("'conv2' is simulated by a convolution of ours")


def test_samples_run_side_by_side_as_far_as_it_pays(
    compiled: Callable[..., Program],
    setup_of: Callable[..., Setup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = setup_of(compiled())
    choose = batching.choose_replicas

    assert choose(setup, 1, 1) == 1
    assert choose(setup, 9, 1) == 9
    assert choose(setup, 10_000, 1) == batching.REPLICAS_MAXIMUM
    assert choose(setup_of(compiled(convolution="conv")), 10_000, 1) == 1

    room = batching.shared_memory_bytes(replace(setup, replicas=16))
    monkeypatch.setattr(batching, "_free", lambda: room * batching.SHARED_MEMORY_PART)
    assert choose(setup, 10_000, 1) == 16

    monkeypatch.setattr(
        batching, "STEP_SECONDS_MAXIMUM", batching.step_seconds(replace(setup, replicas=4))
    )
    assert choose(setup, 10_000, 1) == 4


def test_samples_side_by_side_are_fewer_where_the_last_layers_would_wait(
    compiled: Callable[..., Program],
    setup_of: Callable[..., Setup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where work is all that counts, every period that fills or drains the layers costs its samples."""
    setup = setup_of(compiled())
    monkeypatch.setattr(batching, "PROCESS_SECONDS", 0)
    monkeypatch.setattr(batching, "_each", lambda _seconds, replicas: 1e-6 * replicas)

    assert batching.choose_replicas(setup, 64, 1) == 1


@pytest.mark.lava
def test_a_session_for_one_sample_makes_room_where_many_more_come(
    compiled: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = compiled()
    program.run(inputs(1))
    first = session(program)
    program.run(inputs(9))
    assert session(program) is first  # a new one would take longer than it saves

    monkeypatch.setattr(run, "SETUP_SECONDS", 0.0)
    result = program.run(inputs(9))

    assert session(program).setup.replicas == 9
    np.testing.assert_array_equal(result.output, program.run(inputs(9), on="fixedpoint").output)


@pytest.mark.lava
@pytest.mark.parametrize("convolution", ["sparse", "conv"])
def test_processes_and_shared_memory_are_as_many_as_expected(
    compiled: Callable[..., Program], convolution: str
) -> None:
    program = compiled(convolution=convolution)
    program.run(inputs(64), ["all", "membrane/lif1"])
    setup, group = session(program).setup, session(program).worker.pid

    prefix = setup.shm_prefix.removeprefix("/")
    taken = sum(pages(path.stat().st_size) for path in SHARED_MEMORY.glob(f"{prefix}*"))
    expected = batching.shared_memory_bytes(setup)
    assert expected / 2 < taken <= expected < 1 << 20

    alive = len(list(run._states_on_linux(group)))
    assert batching.process_count(setup) - 2 <= alive <= batching.process_count(setup)


def test_too_many_processes_or_too_little_memory_are_refused_before_anything_starts(
    compiled: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = compiled()
    monkeypatch.setattr(run, "_Session", None)
    monkeypatch.setattr(batching, "PROCESSES_MAXIMUM", 5)
    monkeypatch.setattr(batching, "_free", lambda: 1 << 10)

    with pytest.raises(ExecutionError) as caught:
        program.run(inputs(2))

    processes, memory = (str(problem) for problem in caught.value.problems)
    assert processes.startswith("Lava may have at most 5 processes, but the network needs 13: ")
    assert memory.startswith(
        "Lava's channels need 1 MiB of shared memory, but /dev/shm has 0 MiB left: "
    )
    assert "--shm-size" in memory


def test_a_delayed_convolution_that_is_too_large_is_refused(
    compiled: Callable[..., Program],
    setup_of: Callable[..., Setup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "UNROLLED_MAXIMUM", 3000)

    with pytest.raises(
        ExecutionError, match=r"layer 'conv2' can be written out as at most 3,000 synapses"
    ):
        batching.check_room(setup_of(compiled()))


@pytest.mark.lava
def test_steps_of_a_single_sample_are_reported_as_they_are_made(
    compiled: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "POLL_SECONDS", 0.001)
    reports: list[tuple[int, int]] = []
    long = np.repeat(inputs(1), 100, axis=1)

    compiled(steps=400).run(long, progress=lambda done, total: reports.append((done, total)))

    done = [number for number, _ in reports]
    assert {total for _, total in reports} == {400}
    assert done == sorted(done)
    assert len(set(done)) > 10
    assert done[-1] == 400


def test_a_step_counts_when_it_is_done_in_all_layers() -> None:
    """One of two rounds: samples 2 to 3 of 4, 3 steps each, in 3 + 2 periods of machine steps."""
    reports: list[tuple[int, int]] = []
    report = run._reporter(lambda *numbers: reports.append(numbers), (2, 4, 4), 3, 12)

    for made in (0, 6, 11, 12):
        report(made)

    assert reports == [(6, 12), (9, 12), (11, 12), (12, 12)]


@pytest.mark.lava
def test_snn5_runs_to_the_end_and_shows_its_steps(
    lif: Callable[..., LIF],
    chain: Callable[..., Network],
    opened: Callable[[Program], Program],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SNN-5 with all its channels at 32x32: half a billion synapses, if they were written out."""
    generator = np.random.default_rng(0)
    nodes: dict[str, Node] = {}
    channels, size = 3, 32
    for number, (out, kernel) in enumerate([(16, 3), (64, 5), (128, 5), (256, 5), (512, 3)], 1):
        weight = generator.normal(size=(out, channels, kernel, kernel)) * 4
        nodes[f"conv{number}"] = Conv2d(
            weight / np.sqrt(weight[0].size), np.zeros(out), padding=(kernel // 2, kernel // 2)
        )
        nodes[f"lif{number}"] = lif((out, size, size))
        if number > 1:
            nodes[f"pool{number}"] = Pool2d((2, 2), (2, 2), scale=0.25)
            size //= 2
        channels = out
    nodes |= {"flatten": Flatten(), "fc": Dense(generator.normal(size=(10, 2048)), np.zeros(10))}
    program = opened(compile_network(chain((3, 32, 32), nodes), TARGET, CompileOptions()))
    images = np.random.default_rng(1).integers(0, 2, (1, 4, 3, 32, 32))
    monkeypatch.setattr(run, "POLL_SECONDS", 0.001)
    done: list[int] = []

    ours = program.run(images, "all", progress=lambda steps, _total: done.append(steps))
    definition = program.run(images, "all", on="fixedpoint")

    assert done == sorted(done)
    assert set(done) == {0, 1, 2, 3, 4}
    assert definition.spikes["lif5"].any()
    np.testing.assert_array_equal(ours.output, definition.output)
    for layer, spikes in definition.spikes.items():
        np.testing.assert_array_equal(ours.spikes[layer], spikes)
