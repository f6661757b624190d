"""Networks of every form, hand-made in integers, on Lava: every layer as the engine computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import execute
from neurocompile_loihi2 import batching, run
from neurocompile_loihi2.limits import LIMITS
from neurocompile_loihi2.lower import TARGET, lower
from neurocompile_loihi2.route import ABSENT, LONGEST_DELAY, route
from neurocompile_loihi2.run import LavaExecutor
from numpy.typing import NDArray

from neurocompile.integer import (
    Geometry,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
    Schedule,
)
from neurocompile.passes.prove_ranges import prove_ranges
from neurocompile.passes.schedule import schedule
from neurocompile.program import Program
from neurocompile.target import resolve_options

Neurons = Callable[..., IntegerNeurons]
Compiled = Callable[..., Program]
Same = Callable[..., None]
Weights = Callable[..., NDArray[np.int64]]


@pytest.fixture
def weights() -> Weights:
    """Draws even weights, more of them positive."""
    generator = np.random.default_rng(11)
    return lambda *shape: 2 * generator.integers(-40, 60, shape)


@pytest.fixture
def neurons() -> Neurons:
    """Makes neurons of which some fire without any input."""
    generator = np.random.default_rng(12)

    def make(name: str, *shape: int, **changes: Any) -> IntegerNeurons:
        chosen = {
            "du": 4095,
            "dv": 2048,
            "threshold": 100,
            "bias_mantissa": generator.integers(-20, 70, shape),
            "bias_exponent": 6,
            "scale": 1.0,
        }
        return IntegerNeurons(name, shape, **{**chosen, **changes})

    return make


@pytest.fixture
def readout(neurons: Neurons) -> Neurons:
    """Makes read-outs that show what they receive."""

    def make(name: str, *shape: int, **changes: Any) -> IntegerNeurons:
        return neurons(name, *shape, **{"dv": 0, "threshold": 131071, "shows": "input", **changes})

    return make


@pytest.fixture
def compiled() -> Compiled:
    """Lowers a network; `timing` replaces the compiler's schedule."""

    def make(
        network: IntegerNetwork, *, steps: int, timing: Schedule | None = None, **options: str
    ) -> Program:
        program = Program(
            target="loihi2",
            options=resolve_options(TARGET, options),
            network=network,
            schedule=timing or schedule(network),
            bounds=prove_ranges(network, LIMITS, steps=steps),
            steps=steps,
            native_steps=None,
            facts={},
        )
        assert TARGET.check(program) == []
        return replace(program, extra_files=TARGET.lower(program).files)

    return make


@pytest.fixture
def same_as_engine() -> Same:
    """Runs a program on Lava and the engine, and compares all that every population does."""

    def compare(program: Program, *, samples: int = 3, quiet: tuple[str, ...] = ()) -> None:
        network = program.network
        generator = np.random.default_rng(13)
        payloads = {
            item.name: generator.integers(
                item.minimum, item.maximum + 1, (samples, program.steps, *item.shape)
            )
            for item in network.inputs
        }
        record = [item.name for item in network.populations if not isinstance(item, IntegerInput)]
        record += [f"membrane/{item.name}" for item in network.neurons]
        executor = LavaExecutor(program)
        try:
            ours = executor.run(payloads, record=record)
        finally:
            executor.close()

        meant = execute(network, payloads, samples=samples, steps=program.steps, record=record)
        for kind in ("spikes", "membrane", "outputs"):
            assert list(getattr(ours, kind)) == list(getattr(meant, kind))
            for name, values in getattr(meant, kind).items():
                np.testing.assert_array_equal(getattr(ours, kind)[name], values, f"{kind} {name}")
        for item in network.spiking:
            if item.name not in quiet:
                assert 0.02 < meant.spikes[item.name].mean() < 0.98

    return compare


def dense(source: str, target: str, weight: Any, **changes: Any) -> IntegerSynapses:
    return IntegerSynapses(f"{source}>{target}", source, target, np.asarray(weight), **changes)


def binary(name: str, *shape: int) -> IntegerInput:
    return IntegerInput(name, shape, 1.0, 0, 1, exact=True)


@pytest.fixture
def skipping(weights: Weights, neurons: Neurons, readout: Neurons) -> IntegerNetwork:
    """`a` skips two layers on its way to `c`, `in` three; the neurons of `c` are of three kinds."""
    return IntegerNetwork(
        (
            binary("in", 6),
            neurons("a", 8),
            neurons("b1", 9),
            neurons("b2", 7),
            neurons(
                "c",
                5,
                du=[4095, 2000, 4095, 2000, 3000],
                dv=[2048, 1024, 2048, 1024, 0],
                threshold=[80, 100, 80, 100, 120],
            ),
            readout("out", 3),
        ),
        (
            dense("in", "a", weights(8, 6)),
            dense("a", "b1", weights(9, 8)),
            dense("b1", "b2", weights(7, 9)),
            dense("b2", "c", weights(5, 7)),
            dense("a", "c", weights(5, 8)),
            dense("in", "c", weights(5, 6)),
            dense("c", "out", weights(3, 5)),
        ),
        {"logits": "out", "spikes": "c"},
    )


def test_notes_say_what_waits_for_what(skipping: IntegerNetwork, compiled: Compiled) -> None:
    relayed, delayed = (
        TARGET.lower(compiled(skipping, steps=4, balance=way, parameters=parameters)).notes
        for way, parameters in (("auto", "split"), ("delay", "arrays"))
    )

    assert relayed == (
        "'a>c' waits 2 steps for 'b2': 2 x 8 relay neurons",
        "'in>c' waits 3 steps for 'b2': the host sends 'in' 3 steps later",
        "'c' is split into 3 processes of equal neurons",
    )
    assert delayed == (
        "'a>c' waits 2 steps for 'b2': a connection delayed by 2 steps",
        "'in>c' waits 3 steps for 'b2': the host sends 'in' 3 steps later",
        "'c' keeps 3 different current leaks in one process: simulator only",
        "'c' keeps 3 different leaks in one process: simulator only",
        "'c' keeps 3 different thresholds in one process: simulator only",
    )


def test_a_convolution_that_must_delay_is_not_lavas_own(
    neurons: Neurons, compiled: Compiled
) -> None:
    ones = np.full((1, 1, 1, 1), 2)
    network = IntegerNetwork(
        (binary("in", 1, 2, 2), neurons("a", 1, 2, 2), neurons("b", 1, 2, 2)),
        (
            IntegerSynapses("1", "in", "a", ones, Geometry()),
            IntegerSynapses("2", "a", "b", ones, Geometry()),
            IntegerSynapses("3", "a", "b", ones, Geometry(), delay=np.array(1)),
        ),
        {"y": "b"},
    )

    notes = TARGET.lower(compiled(network, steps=4, convolution="conv", balance="delay")).notes

    assert {
        "'3' waits 1 step: a connection delayed by 1 step",
        "'3' is unrolled: Lava's Conv cannot delay spikes",
    } <= set(notes)


def test_few_synapses_are_delayed_and_many_relayed(neurons: Neurons) -> None:
    """Two steps in relays cost 2 * 2 * 10; delayed, each synapse costs 4."""
    populations = (binary("in", 1), neurons("a", 10), neurons("b", 10))
    timing = Schedule({"in": 0, "a": 1, "b": 4})
    ways = []
    for synapses in (9, 11):
        weight = np.zeros((10, 10), np.int64)
        weight.flat[:synapses] = 2
        network = IntegerNetwork(
            populations, (dense("in", "a", np.ones((10, 1))), dense("a", "b", weight)), {"y": "b"}
        )
        routes = route(network, timing, "auto")
        ways.append((len(routes.relays), routes.legs[-1].longest))

    assert ways == [(0, 2), (2, 0)]


@given(st.data())
def test_legs_and_relays_wait_as_long_as_the_schedule_says(data: Any) -> None:
    ahead = data.draw(st.integers(1, 150), label="ahead")
    shape = data.draw(st.sampled_from([(), (3,), (2, 3)]), label="one for all, neuron or synapse")
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    group = dense("a", "b", np.full((2, 3), 2), delay=generator.integers(0, 100, shape))
    zero = np.array(0)
    one = IntegerNeurons("b", (2,), zero, zero, zero, zero, bias_exponent=6, scale=np.ones(()))
    network = IntegerNetwork(
        (binary("in", 3), replace(one, name="a", shape=(3,)), one),
        (dense("in", "a", np.eye(3)), group),
        {"y": "b"},
    )
    timing = Schedule({"in": 0, "a": 1, "b": 1 + ahead})

    routes = route(network, timing, data.draw(st.sampled_from(["auto", "relay", "delay"])))

    reached = {("a", 0)}
    for relay in routes.relays:
        assert ("a", relay.start) in reached
        assert 0 <= relay.delay <= LONGEST_DELAY
        reached.add(("a", relay.start + 1 + relay.delay))
    waits = np.full(shape, -1)
    for leg in routes.legs[1:]:
        assert (leg.source, leg.wait) in reached
        assert leg.longest <= LONGEST_DELAY
        here = np.broadcast_to(leg.delay != ABSENT, shape)
        assert (waits[here] == -1).all()
        waits = np.where(here, leg.wait + leg.delay, waits)
    np.testing.assert_array_equal(waits, timing.wait(group))
    assert len(routes.relays) <= waits.max() // (LONGEST_DELAY + 1) + LONGEST_DELAY


def test_layers_of_too_many_kinds_are_refused(neurons: Neurons) -> None:
    network = IntegerNetwork(
        (binary("in", 1), neurons("a", 300, threshold=np.arange(300))),
        (dense("in", "a", np.full((300, 1), 2)),),
        {"y": "a"},
    )
    program = Program(
        "loihi2", resolve_options(TARGET, {}), network, schedule(network), (), 4, None, {}
    )

    (problem,) = TARGET.check(program)

    assert str(problem) == (
        "layer 'a' needs at most 256 different sets of leaks and thresholds, but it has 300:"
        " export with -O parameters=arrays, for the simulator only"
    )
    other = replace(program, options={**program.options, "parameters": "arrays"})
    assert TARGET.check(other) == []


def test_what_lava_cannot_compute_is_listed_whole(neurons: Neurons, readout: Neurons) -> None:
    network = IntegerNetwork(
        (binary("in", 2), neurons("a", 2), readout("out", 2, dv=100)),
        (
            dense("in", "a", np.eye(2) * 2),
            dense("a", "out", np.eye(2) * 2, on_host=True),
        ),
        {"y": "out"},
    )
    options = resolve_options(TARGET, {})
    program = Program("loihi2", options, network, schedule(network), (), 4, None, {})

    assert [str(problem) for problem in TARGET.check(program)] == [
        "layer 'out' needs du 4095 and dv 0 to show its input, but it has du 4095 and dv 100",
        "layer 'a>out' is computed by the host and needs an input as its source, but that is 'a'",
    ]


def test_lowering_gives_the_same_bytes_twice(skipping: IntegerNetwork, compiled: Compiled) -> None:
    program = compiled(skipping, steps=4)

    assert TARGET.lower(program).files == TARGET.lower(program).files


@pytest.mark.lava
@pytest.mark.parametrize(
    ("balance", "parameters", "replicas"), [("relay", "split", 2), ("delay", "arrays", 256)]
)
def test_skipped_layers_and_different_neurons(
    skipping: IntegerNetwork,
    compiled: Compiled,
    same_as_engine: Same,
    monkeypatch: pytest.MonkeyPatch,
    *,
    balance: str,
    parameters: str,
    replicas: int,
) -> None:
    monkeypatch.setattr(batching, "REPLICAS_MAXIMUM", replicas)
    program = compiled(skipping, steps=5, balance=balance, parameters=parameters)

    same_as_engine(program, samples=5)


@pytest.mark.lava
def test_waits_beyond_what_a_connection_can_delay(
    weights: Weights, neurons: Neurons, compiled: Compiled, same_as_engine: Same
) -> None:
    """63 steps are a long relay, 130 two of them and a delay; synapses wait for 60 to 65."""
    delays = np.arange(12).reshape(3, 4) % 6
    network = IntegerNetwork(
        (
            binary("in", 3),
            neurons("a", 4),
            neurons("b63", 3),
            neurons("b130", 3),
            neurons("each", 3),
        ),
        (
            dense("in", "a", weights(4, 3)),
            dense("a", "b63", weights(3, 4)),
            dense("a", "b130", weights(3, 4)),
            dense("a", "each", weights(3, 4), delay=delays),
        ),
        {"y": "b130"},
    )
    depth = {"in": 0, "a": 1, "b63": 65, "b130": 132, "each": 62}
    program = compiled(network, steps=6, timing=Schedule(depth, gap=5), balance="delay")
    waits = {
        (connection["target"], connection["wait"], connection["longest_delay"])
        for connection in lower(program).layout["connections"]
    }

    assert waits == {
        ("a", 0, 0),
        ("b63", 63, 0),
        ("b130", 126, 4),
        ("each", 0, 62),
        ("each", 63, 2),
    }
    same_as_engine(program)


@pytest.mark.lava
def test_delays_of_inputs_neurons_synapses_and_images(
    weights: Weights, neurons: Neurons, readout: Neurons, compiled: Compiled, same_as_engine: Same
) -> None:
    generator = np.random.default_rng(5)
    network = IntegerNetwork(
        (binary("in", 6), neurons("a", 2, 4), neurons("b", 3, 4), readout("out", 4)),
        (
            dense("in", "a", weights(8, 6), delay=generator.integers(0, 4, (8, 6))),
            IntegerSynapses(
                "conv",
                "a",
                "b",
                weights(3, 2, 1, 3),
                Geometry(padding=(0, 1)),
                delay=generator.integers(0, 3, (2, 4)),
            ),
            dense("b", "out", weights(4, 12), delay=generator.integers(0, 3, (4, 12))),
            dense("a", "out", weights(4, 8), delay=2),
        ),
        {"logits": "out"},
    )

    same_as_engine(compiled(network, steps=6))


@pytest.mark.lava
@pytest.mark.parametrize("steps", [1, 5])
def test_a_layer_that_feeds_itself(
    weights: Weights,
    neurons: Neurons,
    readout: Neurons,
    compiled: Compiled,
    same_as_engine: Same,
    monkeypatch: pytest.MonkeyPatch,
    *,
    steps: int,
) -> None:
    """Its neurons fire before the first sample, too; the files hold one sample, so each is a run."""
    monkeypatch.setattr(batching, "REPLICAS_MAXIMUM", 1)
    monkeypatch.setattr(run, "STREAM_BYTES", 1)
    bias = np.array([90, 110, 60, -10, 20, 30])
    network = IntegerNetwork(
        (
            binary("in", 5),
            neurons("a", 4),
            neurons("r", 6, bias_mantissa=bias, threshold=[70, 100, 100, 100, 70, 70]),
            readout("out", 3, shows="membrane"),
        ),
        (
            dense("in", "a", weights(4, 5)),
            dense("a", "r", weights(6, 4)),
            dense("r", "r", weights(6, 6), delay=1),
            dense("r", "out", weights(3, 6)),
        ),
        {"logits": "out"},
    )
    program = compiled(network, steps=steps)

    assert program.schedule.gap == 1
    silence = max(bound.silence for bound in program.bounds if bound.layer == "r")
    assert TARGET.lower(program).notes[-1] == (
        f"'r' is silenced between samples: the host takes {silence} off its input for 1 step"
    )
    same_as_engine(program)


@pytest.mark.lava
def test_a_cycle_through_two_layers(
    weights: Weights,
    neurons: Neurons,
    readout: Neurons,
    compiled: Compiled,
    same_as_engine: Same,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neurons work at every second machine step; different ones stay in one process."""
    monkeypatch.setattr(batching, "REPLICAS_MAXIMUM", 2)
    monkeypatch.setattr(run, "STREAM_BYTES", 1)
    network = IntegerNetwork(
        (
            binary("in", 5),
            neurons("a", 6, threshold=[80, 100, 120, 80, 100, 120], du=[4095, 1000] * 3),
            neurons("b", 4, start=64 * np.array([0, 50, -30, 99]), du=2000),
            neurons("late", 4),
            readout("out", 3),
        ),
        (
            dense("in", "a", weights(6, 5)),
            dense("a", "b", weights(4, 6)),
            dense("b", "a", weights(6, 4), delay=1),
            dense("b", "late", weights(4, 4)),
            dense("late", "out", weights(3, 4)),
            dense("a", "out", weights(3, 6)),
        ),
        {"logits": "out"},
    )
    program = compiled(network, steps=6)

    assert program.schedule.stride == 2
    assert "'a' works at one machine step in 2: needs microcode on silicon" in (
        TARGET.lower(program).notes
    )
    same_as_engine(program, samples=4)


@pytest.mark.lava
def test_neurons_with_microcode_pulses_and_memory(
    weights: Weights, neurons: Neurons, compiled: Compiled, same_as_engine: Same
) -> None:
    """Subtraction and a start with a current's memory are microcode; a start without is a pulse."""
    starts = 64 * np.array([150, -200, 40, 0, 99])
    network = IntegerNetwork(
        (
            binary("in", 6),
            neurons("subtract", 8, reset="subtract", du=3000, dv=[100] * 4 + [4096] * 4, pulse=-90),
            neurons("start", 5, start=starts, du=1500),
            neurons("pulse", 5, start=starts, dv=[512, 512, 512, 2048, 2048]),
            neurons("cuba", 7, du=[1000] * 3 + [0] * 4, dv=300, pulse=40 * np.arange(7) - 90),
        ),
        (
            dense("in", "subtract", weights(8, 6)),
            dense("subtract", "start", weights(5, 8)),
            dense("start", "pulse", weights(5, 5)),
            dense("pulse", "cuba", weights(7, 5)),
            dense("cuba", "cuba", weights(7, 7) // 4 * 2, delay=1),
        ),
        {"y": "cuba"},
    )
    program = compiled(network, steps=6)
    lowering = lower(program)

    processes = [entry["process"] for entry in lowering.layout["populations"]]
    assert processes == ["Microcode", "Microcode", "LIFReset", "LIFReset"]
    assert lowering.notes[:5] == (
        "'subtract' subtracts its threshold: needs microcode on silicon",
        "'subtract' gets a pulse of input from the host at the first step of each sample",
        "'start' starts from a membrane other than 0: needs microcode on silicon",
        "'pulse' gets a pulse of input from the host at the first step of each sample",
        "'pulse' is split into 2 processes of equal neurons",
    )
    assert "'cuba' gets a pulse of input from the host at the first step of each sample" in (
        lowering.notes
    )
    same_as_engine(program, samples=4)


@pytest.mark.lava
@pytest.mark.parametrize("balance", ["relay", "delay"])
def test_sums_of_spikes_two_inputs_and_two_outputs(
    weights: Weights,
    neurons: Neurons,
    readout: Neurons,
    compiled: Compiled,
    same_as_engine: Same,
    *,
    balance: str,
) -> None:
    """Graded spikes travel with odd weights, wait in relays that repeat them, and are recorded."""
    identity, host = (
        np.eye(4, dtype=np.int64),
        41 * np.random.default_rng(2).integers(-9, 9, (5, 3)),
    )
    network = IntegerNetwork(
        (
            IntegerInput("x", (3,), 1.0, -100, 100, exact=True),
            IntegerInput("y", (2,), 1.0, 0, 3, exact=True),
            neurons("a", 5, threshold=8000),
            neurons("b", 4),
            neurons("c", 4),
            IntegerRelay("sum", (4,), 251),
            neurons("d", 4, threshold=1500),
            IntegerRelay("sum2", (4,), 252),
            neurons("e", 4, threshold=1500),
            readout("out", 3, start=64 * np.array([5, -7, 9])),
        ),
        (
            dense("x", "a", host, on_host=True, exponent=-1, delay=1),
            dense("a", "b", weights(4, 5)),
            dense("y", "b", weights(4, 2), delay=[1, 2]),
            dense("b", "c", weights(4, 4)),
            dense("c", "sum", 150 * identity),
            dense("b", "sum", 101 * identity),
            dense("sum", "d", weights(4, 4) // 8 * 2),
            dense("d", "sum2", identity),
            dense("sum", "sum2", identity),
            dense("sum2", "e", weights(4, 4) // 8 * 2),
            dense("sum", "out", weights(3, 4) // 8 * 2),
            dense("e", "out", weights(3, 4)),
        ),
        {"logits": "out", "spikes": "d"},
    )

    same_as_engine(compiled(network, steps=5, balance=balance), samples=4)


@pytest.mark.lava
@pytest.mark.parametrize("convolution", ["sparse", "conv"])
def test_images_their_views_and_channels_of_different_kinds(
    weights: Weights,
    neurons: Neurons,
    readout: Neurons,
    compiled: Compiled,
    same_as_engine: Same,
    *,
    convolution: str,
) -> None:
    """A flat population is seen as an image, an image with other channels, and one with one row."""
    network = IntegerNetwork(
        (
            IntegerInput("in", (2, 5, 4), 1.0, 0, 3, exact=True),
            neurons(
                "a",
                4,
                3,
                4,
                bias_mantissa=np.arange(-20, 60, 20).reshape(4, 1, 1),
                threshold=np.reshape([100, 250, 100, 250], (4, 1, 1)),
            ),
            neurons("b", 24),
            neurons("c", 3, 8, threshold=[[100], [100], [90]]),
            readout("out", 3),
        ),
        (
            IntegerSynapses(
                "1", "in", "a", weights(4, 1, 3, 2), Geometry((2, 1), (1, 1), (1, 2), 2)
            ),
            IntegerSynapses(
                "2", "a", "b", weights(2, 4, 2, 2), Geometry(padding=(1, 0)), target_view=(2, 4, 3)
            ),
            IntegerSynapses(
                "3", "b", "c", weights(3, 3, 1, 1), source_view=(3, 1, 8), geometry=Geometry()
            ),
            IntegerSynapses(
                "skip", "a", "c", weights(3, 6, 1, 1), source_view=(6, 1, 8), geometry=Geometry()
            ),
            dense("c", "out", weights(3, 24)),
        ),
        {"logits": "out"},
    )

    same_as_engine(compiled(network, steps=4, convolution=convolution, balance="relay"))
