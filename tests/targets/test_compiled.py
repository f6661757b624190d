"""How the compiled engine arranges networks: small enough to check by hand. What it computes: test_engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from neurocompile_fixedpoint import definition
from neurocompile_fixedpoint.layout import Layout, Lines, Segments, layout_of, lines_of, segments_of
from neurocompile_fixedpoint.plan import costs, make_plan
from neurocompile_fixedpoint.run import open_engine

from neurocompile import load
from neurocompile.errors import MissingDependencyError, OptionError, ProgramFormatError
from neurocompile.integer import (
    Geometry,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
)
from neurocompile.ir import Network
from neurocompile.manifest import seal
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program
from neurocompile.target import find

OneLayer = Callable[..., IntegerNetwork]

WIDTHS = (4, 8)


def convolution(
    weight: Any,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> IntegerSynapses:
    """Return a convolution that slides alike in both directions."""
    geometry = Geometry((stride,) * 2, (padding,) * 2, (dilation,) * 2, groups)
    return IntegerSynapses("w", "in", "out", np.array(weight), geometry)


def segments(group: IntegerSynapses, source: Layout, target: Layout) -> Segments:
    return segments_of(group.weight, group.geometry, source, target)


def lines(group: IntegerSynapses, source: Layout, target: Layout) -> Lines:
    return lines_of(group.weight, group.geometry, source, target, WIDTHS)


def runs_of(laid_out: Segments, pixel: int) -> list[tuple[int, int, int]]:
    """Return where the events of a pixel reach: start of the sums, place in the weights, length."""
    where = slice(laid_out.first[pixel], laid_out.first[pixel + 1])
    return list(
        zip(
            laid_out.start[where].tolist(),
            laid_out.row[where].tolist(),
            laid_out.length[where].tolist(),
            strict=True,
        )
    )


def test_channels_come_last_inside_and_first_outside() -> None:
    layout = Layout(2, 1, 3)
    values = np.array([[0, 1, 2, 10, 11, 12]])

    inside = layout.inside(values)

    assert inside.tolist() == [[0, 10, 1, 11, 2, 12]]
    assert layout.outside(inside).tolist() == values.tolist()


def test_a_vector_is_arranged_as_the_convolutions_into_it_see_it() -> None:
    dense = IntegerSynapses("w", "in", "out", np.ones((12, 3), np.int64))
    seen = IntegerSynapses(
        "w", "in", "out", np.ones((3, 1, 1, 1), np.int64), Geometry(), target_view=(3, 2, 2)
    )

    assert layout_of((12,), [dense]) == Layout(12)
    assert layout_of((12,), [dense, seen]) == Layout(3, 2, 2)
    assert layout_of((3, 4), []) == Layout(3, 1, 4)


def test_an_event_reaches_neighbouring_pixels_in_one_run() -> None:
    """A row of three pixels, two outputs, kernel 1x3 (taps -1, 0, 1), padding 1: a run is up to 6 long."""
    weight = np.arange(6).reshape(2, 1, 1, 3)
    group = IntegerSynapses("w", "in", "out", weight, Geometry(padding=(0, 1)))

    laid_out = segments(group, Layout(1, 1, 3), Layout(2, 1, 3))

    assert laid_out.weight.tolist() == [[2, 5, 1, 4, 0, 3]]  # taps from the last to the first
    assert runs_of(laid_out, 0) == [(0, 2, 4)]  # its taps reach the columns 1 (left out), 0 and 1
    assert runs_of(laid_out, 1) == [(0, 0, 6)]
    assert runs_of(laid_out, 2) == [(2, 0, 4)]


def test_a_stride_sorts_taps_by_the_columns_that_hear_them() -> None:
    """Stride 2 without padding: even columns reach by taps 0 and 2, odd ones by tap 1."""
    laid_out = segments(
        convolution(np.arange(9).reshape(1, 1, 3, 3), stride=2), Layout(1, 5, 5), Layout(1, 2, 2)
    )

    assert laid_out.weight.tolist() == [[2, 0, 1, 5, 3, 4, 8, 6, 7]]
    assert runs_of(laid_out, 0) == [(0, 1, 1)]
    assert runs_of(laid_out, 2) == [(0, 0, 2)]
    assert runs_of(laid_out, 1) == [(0, 2, 1)]
    assert runs_of(laid_out, 5 + 2) == [(0, 3, 2)]
    assert runs_of(laid_out, 10 + 2) == [(2, 0, 2), (0, 6, 2)]


def test_taps_that_are_apart_are_runs_of_their_own() -> None:
    group = convolution(np.ones((1, 1, 1, 2)), dilation=2)

    laid_out = segments(group, Layout(1, 1, 5), Layout(1, 1, 3))

    assert runs_of(laid_out, 2) == [(0, 0, 1), (2, 1, 1)]


def test_a_channel_reaches_the_outputs_of_its_own_group() -> None:
    weight = np.array([1, 2, 3, 4]).reshape(4, 1, 1, 1)

    laid_out = segments(convolution(weight, groups=2), Layout(2, 1, 1), Layout(4, 1, 1))

    assert laid_out.weight.tolist() == [[1, 2], [3, 4]]
    assert laid_out.offset.tolist() == [0, 2]


def test_a_pixel_hears_a_line_for_each_row_of_its_kernel() -> None:
    """3x3 pixels of two channels, a kernel of 2x2, padding 1: the first pixel hears one source pixel."""
    weight = np.arange(8).reshape(1, 2, 2, 2)

    found = lines(convolution(weight, padding=1), Layout(2, 3, 3), Layout(1, 4, 4))

    assert found.weight.shape == (1, 8, 4)
    assert found.weight[0, :, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]  # by row, column, channel
    assert not found.weight[0, :, 1:].any()
    assert found.first[:3].tolist() == [0, 1, 2]
    # Pixel 0 hears source pixel 0 by the last tap: neuron 0 has the row 4 + 2, so the base is -2.
    begin, end, base, row = (part[0] for part in (found.begin, found.end, found.base, found.row))
    assert (begin, end, row + 0 - base) == (0, 1, 6)


def test_equal_taps_are_kept_once() -> None:
    """A kernel that begins with a 2x2 average pool has each weight four times."""
    pooled = np.array([[3, 3, 5, 5], [3, 3, 5, 5], [7, 7, 9, 9], [7, 7, 9, 9]]).reshape(1, 1, 4, 4)

    found = lines(convolution(pooled, stride=2), Layout(1, 4, 4), Layout(1, 1, 1))

    assert found.weight[0, :, 0].tolist() == [3, 5, 7, 9]
    assert len(found.begin) == 16
    heard = [found.weight[0, row, 0] for row in found.row]
    assert heard == pooled.ravel().tolist()


def test_lines_of_a_dense_group_are_cut_where_16_bits_are_full() -> None:
    weight = np.array([[20000, 12767, 1, -30000, -2768, -1]])
    group = IntegerSynapses("w", "in", "out", weight)

    found = lines(group, Layout(6), Layout(1))

    assert found.begin.tolist() == [0, 2, 4]
    assert found.end.tolist() == [2, 4, 6]
    assert found.reach == 32767


def test_the_quicker_kernel_depends_on_the_channels() -> None:
    """One channel has few spikes a pixel to gather; 64 have many."""
    image = Layout(1, 28, 28), Layout(16, 28, 28)
    thin = costs(convolution(np.ones((16, 1, 3, 3)), padding=1), *image)
    wide = Layout(64, 8, 8), Layout(64, 8, 8)
    thick = costs(convolution(np.ones((64, 64, 3, 3)), padding=1), *wide)

    assert thin[1] < thin[0]
    assert thick[0] < thick[1]


def test_a_plan_says_what_is_possible(one_layer: OneLayer) -> None:
    plain = make_plan(one_layer([[2, 4]]), "gather")
    delayed = make_plan(one_layer([[2, 4]], delay=np.array([0, 1])))
    wide = make_plan(one_layer([[1 << 20, 4]]), "gather")
    grouped = make_plan(
        one_layer(np.ones((2, 1, 1, 1)), geometry=Geometry(groups=2), shape=(2, 1, 1)), "gather"
    )

    assert (plain.groups["w"], plain.neurons["out"]) == ("gather", "int32")
    assert delayed.groups["w"] == "definition"
    assert (wide.groups["w"], wide.neurons["out"]) == ("scatter", "int64")
    assert grouped.groups["w"] == "scatter"


@pytest.mark.parametrize(
    "changes",
    [
        {"du": 4094},
        {"most": 2},
        {"refractory": 1},
        {"pulse": 131071},
        {"bias_exponent": 29},
        {"threshold": 1 << 24},
        {"subtracts": 1 << 30},
        {"floor": np.array([-64, -(1 << 23) + 1])},
    ],
)
def test_neurons_that_could_leave_32_bits_are_computed_in_64(
    changes: dict[str, Any], one_layer: OneLayer
) -> None:
    network = one_layer([[2, 4], [6, 8]], bias=2, **changes)

    assert make_plan(network).neurons["out"] == "int64"


def test_relays_that_feed_each_other_have_no_largest_sum(integer_neurons: Any) -> None:
    one = np.ones((1, 1), np.int64)
    network = IntegerNetwork(
        (
            IntegerInput("in", (1,), 1.0, 0, 1, True),
            IntegerRelay("relay", (1,), 4),
            integer_neurons("out"),
        ),
        (
            IntegerSynapses("a", "in", "relay", one),
            IntegerSynapses("b", "relay", "relay", one, delay=np.array(1)),
            IntegerSynapses("c", "relay", "out", one),
        ),
        {"out": "out"},
    )

    plan = make_plan(network, "gather")

    assert plan.groups == {"a": "gather", "b": "definition", "c": "definition"}


def test_synapses_are_counted_as_often_as_a_window_uses_them(one_layer: OneLayer) -> None:
    network = one_layer(
        np.ones((2, 1, 3, 3)), geometry=Geometry(), input_shape=(1, 4, 4), shape=(2, 2, 2)
    )

    assert network.synapse_count(network.synapses[0]) == 18 * 4


def test_a_small_first_run_is_computed_by_the_definition(
    one_layer: OneLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def note(_network: Any, _plan: Any, engine: str) -> Any:
        used.append(engine)
        return lambda payloads, **options: definition.execute(network, payloads, **options)

    network = one_layer([[200]])
    monkeypatch.setattr("neurocompile_fixedpoint.run._set_up", note)
    payload = {"in": np.ones((1, 2, 1), np.int64)}

    executor = open_engine(network, make_plan(network), "")
    executor.run(payload)
    first = list(used)
    executor.run(payload)
    executor.run(payload)
    large = open_engine(network, make_plan(network), "")
    monkeypatch.setattr("neurocompile_fixedpoint.run.SMALL_RUN", 1)
    large.run(payload)

    assert first == []
    assert len(used) == 2


def test_an_engine_that_is_not_installed_is_an_error(
    one_layer: OneLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurocompile_fixedpoint.run.find_spec", lambda _name: None)
    network = one_layer([[1]])

    with pytest.raises(
        MissingDependencyError,
        match="the engine 'compiled' needs numba, but it is not installed: "
        r"install it with: pip install 'neurocompile\[fast\]'",
    ):
        open_engine(network, make_plan(network), "compiled")
    assert open_engine(network, make_plan(network), "").engine == "definition"


def test_an_engine_that_cannot_be_imported_is_an_error(
    one_layer: OneLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    monkeypatch.setitem(sys.modules, "neurocompile_fixedpoint.compiled", None)
    monkeypatch.setattr("neurocompile_fixedpoint.run.SMALL_RUN", 0)
    network = one_layer([[1]])

    with pytest.raises(
        MissingDependencyError,
        match=r"needs numba, but it cannot be imported \(.*\): .*, or run on fixedpoint:definition",
    ):
        open_engine(network, make_plan(network), "").run({"in": np.ones((1, 1, 1), np.int64)})


ONE_RUN = """
import numpy as np
from neurocompile.integer import IntegerInput, IntegerNetwork, IntegerNeurons, IntegerSynapses
from neurocompile_fixedpoint.compiled import CompiledEngine
neurons = IntegerNeurons("n", (1,), 4095, 2048, 10, np.zeros(1), 0, 1.0)
network = IntegerNetwork(
    (IntegerInput("i", (1,), 1.0, 0, 1, True), neurons),
    (IntegerSynapses("w", "i", "n", np.array([[20]])),),
    {"o": "n"},
)
trace = CompiledEngine(network).execute({"i": np.ones((1, 2, 1), np.int64)}, samples=1, steps=2)
print(trace.outputs["o"].ravel().tolist())
"""


@pytest.mark.parametrize("damage", ["cut short", "emptied", "no room"])
def test_a_broken_cache_of_kernels_costs_time_only(damage: str, tmp_path: Path) -> None:
    pytest.importorskip("numba")

    def run() -> str:
        finished = subprocess.run(
            [sys.executable, "-c", ONE_RUN],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            check=False,
            capture_output=True,
            text=True,
        )
        return finished.stdout + finished.stderr

    if damage == "no room":
        (tmp_path / "a file").touch()
        tmp_path = tmp_path / "a file"
    assert run() == "[1, 1]\n"
    for file in tmp_path.glob("**/*.nb[ic]"):
        content = file.read_bytes()
        file.write_bytes(content[:100] if damage == "cut short" else b"")
    assert run() == "[1, 1]\n"


@pytest.fixture
def small_program(chain: Callable[..., Network], dense: Any, lif: Any) -> Callable[..., Program]:
    """Compiles two layers of neurons for `fixedpoint`."""

    def make(**options: str) -> Program:
        network = chain(
            (2,),
            {"fc1": dense([[0.5, 1], [1, -1]]), "lif1": lif((2,)), "fc2": dense([[1, 1]])},
        )
        return compile_network(network, find("fixedpoint"), CompileOptions(target_options=options))

    return make


@pytest.mark.parametrize("kernels", ["gather", "scatter", "definition"])
def test_a_kernel_can_be_forced_and_is_kept_with_the_program(
    kernels: str, small_program: Callable[..., Program], tmp_path: Path
) -> None:
    program = small_program(kernels=kernels)
    program.save(tmp_path / "program")
    inputs = np.array([[[1, 0], [1, 1], [0, 1], [1, 1]]])

    again = load(tmp_path / "program")
    stored = json.loads((tmp_path / "program" / "fixedpoint.json").read_text())

    assert set(stored["synapses"].values()) == {kernels}
    assert again.options["kernels"] == kernels
    assert np.array_equal(
        again.run(inputs).output, small_program().run(inputs, on="fixedpoint:definition").output
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"{", "Expecting property name"),
        (b'{"version": 1, "synapses": {}, "neurons": {}}', "KeyError: 'fc1'|'fc1'"),
        (b'{"version": 1, "synapses": {"fc1": "fft", "fc2": "gather"}}', "cannot be computed"),
        (b"[1]", "list indices"),
        (b"[" * 200_000, "recursion"),
        (
            b'{"version": 2, "synapses": {"fc1": "gather", "fc2": "gather"}}',
            "does not fit the network",
        ),
    ],
)
def test_a_damaged_choice_of_kernels_is_refused(
    damage: bytes, said: str, small_program: Callable[..., Program], tmp_path: Path
) -> None:
    directory = tmp_path / "program"
    small_program().save(directory)
    (directory / "fixedpoint.json").write_bytes(damage)
    manifest = json.loads((directory / "program.json").read_text())
    for key in ("checksum", "checksums", "format", "version"):
        del manifest[key]
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    del files["program.json"]
    (directory / "program.json").write_text(seal(manifest, files))

    with pytest.raises(ProgramFormatError, match=said):
        load(directory).run(np.zeros((1, 1, 2)))


def test_an_engine_that_does_not_exist_is_an_error(small_program: Callable[..., Program]) -> None:
    with pytest.raises(
        OptionError,
        match="target 'fixedpoint' has no engine 'fast': it has compiled, torch, definition",
    ):
        small_program().run(np.zeros((1, 1, 2)), on="fixedpoint:fast")


def spikes(samples: int, steps: int, seed: int = 0) -> dict[str, Integer]:
    generator = np.random.default_rng(seed)
    return {"in": generator.integers(0, 2, (samples, steps, 6))}


def layer(one_layer: OneLayer) -> IntegerNetwork:
    generator = np.random.default_rng(3)
    return one_layer(generator.integers(-60, 90, (5, 6)))


def test_nothing_is_compiled_again_for_another_batch(one_layer: OneLayer) -> None:
    pytest.importorskip("numba")
    from neurocompile_fixedpoint import kernels
    from neurocompile_fixedpoint.compiled import CompiledEngine

    engine = CompiledEngine(layer(one_layer), threads=1)
    engine.execute(spikes(3, 4), samples=3, steps=4)
    dispatchers = [value for value in vars(kernels).values() if hasattr(value, "signatures")]
    before = [len(dispatcher.signatures) for dispatcher in dispatchers]

    engine.execute(spikes(1, 2), samples=1, steps=2)
    engine.execute(spikes(200, 1), samples=200, steps=1)
    engine.execute({"in": np.repeat(spikes(3, 1)["in"], 6, 1)}, samples=3, steps=6)
    read_only = spikes(3, 4)["in"][:, ::2]
    read_only.flags.writeable = False
    engine.execute({"in": read_only}, samples=3, steps=2)

    assert [len(dispatcher.signatures) for dispatcher in dispatchers] == before


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("samples", [1, 2, 3, 7])
def test_blocks_and_threads_change_nothing(
    threads: int, samples: int, one_layer: OneLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    from neurocompile_fixedpoint import compiled

    monkeypatch.setattr(compiled, "BLOCK_SAMPLES", 2)
    network = layer(one_layer)
    inputs = spikes(samples, 5)
    wanted: dict[str, Any] = {"samples": samples, "steps": 5, "record": ["out", "membrane/out"]}
    done: list[int] = []

    trace = compiled.CompiledEngine(network, threads=threads).execute(
        inputs, progress=done.append, **wanted
    )

    expected = definition.execute(network, inputs, **wanted)
    assert np.array_equal(trace.spikes["out"], expected.spikes["out"])
    assert np.array_equal(trace.membrane["out"], expected.membrane["out"])
    assert trace.counters == expected.counters
    assert done[-1] == samples
    assert done == sorted(done)


def test_memory_beyond_the_result_does_not_grow_with_steps(one_layer: OneLayer) -> None:
    pytest.importorskip("numba")
    from neurocompile_fixedpoint.compiled import CompiledEngine

    engine = CompiledEngine(layer(one_layer), threads=1)
    engine.execute(spikes(4, 4), samples=4, steps=4)
    beyond = []
    for steps in (400, 4000):
        inputs = {"in": np.repeat(spikes(4, 1)["in"], steps, 1)}
        tracemalloc.start()
        trace = engine.execute(inputs, samples=4, steps=steps)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        beyond.append(peak - trace.outputs["out"].nbytes)

    assert beyond[1] < beyond[0] + 10_000


def test_an_interruption_ends_blocks_in_the_middle(
    one_layer: OneLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first block fails at its first step; the second would take its million steps."""
    pytest.importorskip("numba")
    from neurocompile_fixedpoint import kernels
    from neurocompile_fixedpoint.compiled import CompiledEngine

    network = layer(one_layer)
    take = kernels.take_input
    calls: list[int] = []
    turn = threading.Lock()

    def failing(*arguments: Any) -> None:
        with turn:
            calls.append(1)
            if len(calls) == 1:
                raise KeyboardInterrupt
        take(*arguments)

    engine = CompiledEngine(network, threads=2)
    monkeypatch.setattr(kernels, "take_input", failing)
    inputs = {"in": np.broadcast_to(np.arange(2)[:, None, None], (2, 1_000_000, 6))}
    inputs["in"] = np.concatenate([inputs["in"][:, :1], 1 - inputs["in"][:, 1:]], axis=1)

    with pytest.raises(KeyboardInterrupt):
        engine.execute(inputs, samples=2, steps=1_000_000)

    assert len(calls) < 1_000_000


def test_an_input_that_never_changes_is_added_up_once(
    one_layer: OneLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    from neurocompile_fixedpoint import kernels
    from neurocompile_fixedpoint.compiled import CompiledEngine

    network = layer(one_layer)
    calls: list[int] = []
    gather = kernels.gather

    def counting(*arguments: Any) -> None:
        calls.append(1)
        gather(*arguments)

    monkeypatch.setattr(kernels, "gather", counting)
    inputs = {"in": np.repeat(spikes(3, 1)["in"], 6, 1)}

    engine = CompiledEngine(network, make_plan(network, "gather"), threads=1)
    trace = engine.execute(inputs, samples=3, steps=6)

    assert len(calls) == 1
    expected = definition.execute(network, inputs, samples=3, steps=6)
    assert np.array_equal(trace.outputs["out"], expected.outputs["out"])


def test_payloads_beyond_what_the_input_declares_are_computed_all_the_same(
    one_layer: OneLayer,
) -> None:
    pytest.importorskip("numba")
    from neurocompile_fixedpoint.compiled import CompiledEngine

    network = layer(one_layer)
    inputs = {"in": spikes(2, 3)["in"] * 70000}

    trace = CompiledEngine(network).execute(inputs, samples=2, steps=3)

    expected = definition.execute(network, inputs, samples=2, steps=3)
    assert np.array_equal(trace.outputs["out"], expected.outputs["out"])
    assert trace.counters == expected.counters


def test_weights_of_zero_take_any_payload(one_layer: OneLayer) -> None:
    pytest.importorskip("numba")
    from neurocompile_fixedpoint.compiled import CompiledEngine

    network = one_layer([[0, 0]], minimum=-(1 << 31), maximum=1 << 31)
    engine = CompiledEngine(network, make_plan(network, "gather"))

    trace = engine.execute({"in": np.full((1, 1, 2), 1 << 31)}, samples=1, steps=1)

    assert engine.plan.groups["w"] == "gather"
    assert not trace.outputs["out"].any()


def test_every_neuron_fires_and_none(one_layer: OneLayer) -> None:
    pytest.importorskip("numba")
    from neurocompile_fixedpoint.compiled import CompiledEngine

    neurons: list[IntegerNeurons] = []
    for bias, rate in ((101, 1), (0, 0)):
        network = one_layer(np.zeros((300, 2)), bias=bias)
        neurons += network.neurons
        inputs = {"in": np.zeros((2, 3, 2), np.int64)}
        trace = CompiledEngine(network).execute(inputs, samples=2, steps=3, record=["out"])

        assert (trace.spikes["out"] == rate).all()
