"""Every engine of `fixedpoint` does what the definition says: by hand, and on random integer networks."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import execute
from neurocompile_fixedpoint.plan import make_plan

from neurocompile.errors import OptionError, RangeError
from neurocompile.integer import (
    AS_THRESHOLD,
    LOIHI2,
    NO_FLOOR,
    Arithmetic,
    Geometry,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerRelay,
    IntegerSynapses,
    Trace,
    conv_output,
    to_payload,
)
from neurocompile.ir import Input, Network
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.quantisation.recipe import Recipe
from neurocompile.target import find
from neurocompile.validation import probe_inputs

EXAMPLES = 150
COMPILED = 25

OneLayer = Callable[..., IntegerNetwork]
MakeNeurons = Callable[..., IntegerNeurons]


class Engine(Protocol):
    """What `definition.execute` is, set up for one network."""

    def execute(
        self,
        inputs: Mapping[str, Integer],
        *,
        samples: int,
        steps: int,
        record: Collection[str] = (),
        before_reset: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Trace: ...


Make = Callable[[IntegerNetwork], Engine]


def on_torch(network: IntegerNetwork) -> Engine:
    pytest.importorskip("torch")
    from neurocompile_fixedpoint.torch_engine import TorchEngine

    return TorchEngine(network, "cpu")


def compiled(network: IntegerNetwork, kernels: str = "auto") -> Engine:
    pytest.importorskip("numba")
    from neurocompile_fixedpoint.compiled import CompiledEngine

    return CompiledEngine(network, make_plan(network, kernels))


ENGINES: dict[str, Make] = {
    "torch": on_torch,
    "compiled": compiled,
    "compiled, gather": partial(compiled, kernels="gather"),
    "compiled, scatter": partial(compiled, kernels="scatter"),
}


@pytest.fixture(scope="session", params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Make:
    """Sets an engine up for a network."""
    return ENGINES[request.param]


def everything(network: IntegerNetwork) -> list[str]:
    names = [population.name for population in network.populations]
    return names + [f"membrane/{name}" for name in names]


def assert_equal(found: Trace, expected: Trace) -> None:
    for kind in ("outputs", "spikes", "membrane"):
        ours, theirs = getattr(found, kind), getattr(expected, kind)
        assert set(ours) == set(theirs), kind
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values, f"{kind} of {name}", strict=True)
    assert found.counters == expected.counters


def compare(
    make: Make, network: IntegerNetwork, inputs: Mapping[str, Integer], **options: Any
) -> Trace:
    """Run the engine and the definition; return what both did."""
    samples, steps = next(iter(inputs.values())).shape[:2]
    asked: dict[str, Any] = {"samples": samples, "steps": steps, "record": everything(network)}
    expected = execute(network, inputs, **{**asked, **options})
    assert_equal(make(network).execute(inputs, **{**asked, **options}), expected)
    return expected


def series(*values: int) -> dict[str, Integer]:
    """Return one sample of these values, one a step, for one input neuron."""
    return {"in": np.array(values).reshape(1, -1, 1)}


# By hand


def test_the_tet_neuron_in_units_of_ten(engine: Make, one_layer: OneLayer) -> None:
    network = one_layer([[1]], threshold=10, maximum=20)

    trace = engine(network).execute(
        series(6, 8, 0, 10, 12, 20),
        samples=1,
        steps=6,
        record=["out", "membrane/out"],
        before_reset=True,
    )

    assert trace.spikes["out"].ravel().tolist() == [0, 1, 0, 0, 1, 1]
    assert (trace.membrane["out"].ravel() / 64).tolist() == [6, 11, 0, 10, 17, 20]
    assert trace.outputs["out"].ravel().tolist() == [0, 1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("neurons", "arriving", "spikes", "after"),
    [
        ({"threshold": 10, "reset": "subtract"}, [6, 8, 0, 10, 12, 20], [0, 1, 0, 1, 1, 1], [6, 1, 0.5, 0.25, 2.125, 708 / 64]),
        ({"dv": 0, "inclusive": True}, [50, 50, 100, 99], [0, 1, 1, 0], [50, 0, 0, 99]),
        ({"dv": 0}, [50, 50, 1], [0, 0, 1], [50, 100, 0]),
        ({"dv": 0, "inclusive": True, "most": 3, "reset": "subtract"}, [250, 50, 450, 0], [2, 1, 3, 1], [50, 0, 150, 50]),
        ({"dv": 0, "most": 5, "reset": "subtract"}, [200, 1, 0], [1, 1, 0], [100, 1, 1]),
        ({"dv": 0, "most": 5}, [350, 1, 100], [3, 0, 1], [0, 1, 0]),
        ({"dv": 0, "reset": "subtract", "subtracts": 250 * 64}, [110, 0], [1, 0], [-140, -140]),
        ({"dv": 0, "floor": -10 * 64}, [-500, 111, 0], [0, 1, 0], [-10, 0, 0]),
        ({"dv": 0, "du": 2047, "refractory": 2}, [160, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 20]),
        ({"dv": 4096, "start": 6 * 64, "threshold": 10}, [5, 5], [1, 0], [0, 5]),
        ({"dv": 4096, "du": 2047, "pulse": 8}, [0, 0, 0], [0, 0, 0], [8, 4, 2]),
        ({"dv": 1024, "threshold": 131071}, [64, 0, 0], [0, 0, 0], [64, 48, 36]),
        ({"dv": 4095, "threshold": 131071}, [-131071, 0], [0, 0], [-131071, -2047 / 64]),
        ({"dv": 0, "threshold": 131071}, [-131071, -131071], [0, 0], [-131071, -(2**23 - 1) / 64]),
        ({"dv": 0, "threshold": 131071}, [131071, 131071], [0, 1], [131071, 0]),
    ],
)  # fmt: skip
def test_neurons_of_every_kind(
    neurons: dict[str, Any],
    arriving: list[int],
    spikes: list[int],
    after: list[float],
    engine: Make,
    one_layer: OneLayer,
) -> None:
    network = one_layer([[1]], maximum=500, **neurons)

    trace = engine(network).execute(
        series(*arriving), samples=1, steps=len(arriving), record=["out", "membrane/out"]
    )

    assert trace.spikes["out"].ravel().tolist() == spikes
    assert (trace.membrane["out"].ravel() / 64).tolist() == after


@pytest.mark.parametrize(
    ("changes", "arriving", "counted"),
    [
        ({"threshold": 131071}, [131073], {"u_wraps": 1}),
        ({}, [-131072], {"u_wraps": 1, "v_saturations_high": 1}),
        ({}, [131072], {"v_saturations_high": 1}),
        ({}, [-131071], {}),
        ({}, [2**31 + 5], {"current_wraps": 1}),
        ({"dv": 0, "threshold": 131071}, [-131071, -1], {"v_saturations_low": 1}),
        ({"dv": 0, "threshold": 131071}, [131071, 1], {"v_saturations_high": 1}),
        ({"most": 3}, [350, 450], {"spikes_capped": 1}),
        ({"floor": -640}, [-(2**17) + 1, -(2**17) + 1], {}),
        ({"floor": -640, "dv": 0}, [-131071, -131071], {}),
    ],
)
def test_what_leaves_the_safe_ranges_is_counted(
    changes: dict[str, Any],
    arriving: list[int],
    counted: dict[str, int],
    engine: Make,
    one_layer: OneLayer,
) -> None:
    """Also where the declared range leaves room for a wrap that does not come."""
    for room in (0, 2**18):
        network = one_layer(
            [[1]], minimum=min(0, *arriving) - room, maximum=max(0, *arriving) + room, **changes
        )

        trace = engine(network).execute(series(*arriving), samples=1, steps=len(arriving))

        assert {kind: count for kind, count in trace.counters["out"].items() if count} == counted


@pytest.mark.parametrize(
    "arithmetic",
    [
        Arithmetic(rounding="down"),
        Arithmetic(rounding="nearest"),
        Arithmetic(membrane_bits=14),
        Arithmetic(membrane_bits=14, membrane_overflow="wrap"),
        Arithmetic(fraction_bits=3),
        Arithmetic(fraction_bits=0, current_bits=9, current_overflow="saturate"),
    ],
)
def test_plain_neurons_of_other_chips(
    engine: Make, one_layer: OneLayer, arithmetic: Arithmetic
) -> None:
    """What the quickest kernels of Loihi 2 could take, but for one number of the arithmetic."""
    network = one_layer([[-130], [7], [-9], [100]], dv=1234, threshold=1000, arithmetic=arithmetic)
    inputs = {"in": np.array([1, 1, 0, 1, 0, 0, 1, 1, 0]).reshape(1, 9, 1)}

    compare(engine, network, inputs)
    assert make_plan(network).neurons["out"] == "int64"


def test_more_than_255_spikes_a_step_are_recorded(engine: Make, one_layer: OneLayer) -> None:
    """800 fits 799 times below 800: a byte would wrap to 31."""
    network = one_layer([[800]], threshold=1, most=1000, dv=4096, reset="subtract", subtracts=64)

    told = engine(network).execute(series(1), samples=1, steps=1, record=["out"])

    assert told.spikes["out"].item() == 799


def test_delays_are_shifted_apart(engine: Make, one_layer: OneLayer) -> None:
    """Each delay's sum is shifted by itself: -3 >> 1 twice is -4, -6 >> 1 would be -3."""
    spikes = {"in": np.array([[[0, 1], [1, 0]]])}
    for delay in ([0, 1], [[0, 1]]):
        network = one_layer([[-3, -3]], delay=delay, dv=4096, threshold=0)
        halved = replace(network, synapses=(replace(network.synapses[0], exponent=-1),))
        for each, expected in ((network, -6 * 64), (halved, -4 * 64)):
            trace = engine(each).execute(spikes, samples=1, steps=2, record=["membrane/out"])

            assert trace.membrane["out"].ravel().tolist() == [0, expected]


@pytest.mark.parametrize(
    ("exponent", "on_host", "expected"),
    [
        (-1, False, [-2, 1, 2]),
        (-1, True, [-1, 2, 3]),
        (1, False, [-6, 6, 10]),
        (-20, True, [0, 0, 0]),
        (-20, False, [-1, 0, 0]),
    ],
)
def test_shifts_round_down_on_the_chip_and_to_nearest_on_the_host(
    exponent: int, on_host: bool, expected: list[int], engine: Make, one_layer: OneLayer
) -> None:
    network = one_layer([[1]], dv=4096, threshold=131071, minimum=-5, maximum=5)
    group = replace(network.synapses[0], exponent=exponent, on_host=on_host)

    trace = engine(replace(network, synapses=(group,))).execute(
        series(-3, 3, 5), samples=1, steps=3, record=["membrane/out"]
    )

    assert (trace.membrane["out"].ravel() // 64).tolist() == expected


def test_relays_feedback_and_outputs_of_every_kind(
    engine: Make, integer_neurons: MakeNeurons
) -> None:
    """The relay adds both inputs up; "b" wakes "a" a step later, and holds itself back."""

    def join(source: str, target: str, weight: int, delay: int = 0) -> IntegerSynapses:
        name = f"{source}>{target}"
        return IntegerSynapses(name, source, target, np.array([[weight]]), delay=np.array(delay))

    forgets: dict[str, Any] = {"dv": 4096, "threshold": 10}
    silent: dict[str, Any] = {"threshold": 131071, "bias_mantissa": 5}
    network = IntegerNetwork(
        (
            IntegerInput("left", (1,), 1.0, -9, 9, True),
            IntegerInput("right", (1,), 1.0, -9, 9, True),
            IntegerRelay("sum", (1,), 2),
            integer_neurons("a", **forgets),
            integer_neurons("b", **forgets),
            integer_neurons("arrived", dv=4096, shows="input", **silent),
            integer_neurons("added", dv=0, shows="membrane", **silent),
        ),
        (
            *(join("left", "sum", 1), join("right", "sum", 1), join("sum", "a", 6)),
            *(join("a", "b", 11), join("b", "a", 11, 1), join("b", "b", -4, 2)),
            *(join("right", "arrived", 3), join("left", "added", 1)),
        ),
        {"spikes": "b", "values": "arrived", "sums": "added", "again": "b"},
    )
    values = {"left": np.array([0, 1, 1, 0, 0]), "right": np.array([0, 0, 1, 2, -2])}

    trace = engine(network).execute(
        {name: each.reshape(1, 5, 1) for name, each in values.items()},
        samples=1,
        steps=5,
        record=["sum", "a"],
    )

    assert trace.spikes["sum"].ravel().tolist() == [0, 1, 2, 2, -2]
    assert trace.spikes["a"].ravel().tolist() == [0, 0, 1, 1, 0]
    shown = {name: each.ravel().tolist() for name, each in trace.outputs.items()}
    assert shown == {
        "spikes": [0, 0, 1, 1, 0],
        "values": [5, 5, 3 * 64 + 5, 6 * 64 + 5, -6 * 64 + 5],
        "sums": [5, 64 + 10, 2 * 64 + 15, 2 * 64 + 20, 2 * 64 + 25],
        "again": [0, 0, 1, 1, 0],
    }
    assert set(trace.counters) == {"a", "b", "arrived", "added"}


def test_a_convolution_sees_its_populations_in_its_own_views(
    engine: Make, integer_neurons: MakeNeurons
) -> None:
    """Six values in a row are an image of 2 x 3: the kernel adds what is above each other."""
    network = IntegerNetwork(
        (IntegerInput("in", (6,), 1.0, 0, 9, True), integer_neurons("out", (3,), dv=4096)),
        (
            IntegerSynapses(
                "w", "in", "out", np.ones((1, 1, 2, 1), np.int64), Geometry(),
                source_view=(1, 2, 3), target_view=(1, 1, 3),
            ),
        ),
        {"out": "out"},
    )  # fmt: skip
    values = {"in": np.array([[[1, 2, 3, 4, 5, 6]]])}

    trace = engine(network).execute(values, samples=1, steps=1, record=["membrane/out"])

    assert (trace.membrane["out"][0, 0] // 64).tolist() == [5, 7, 9]


# Ends of what is exact


@pytest.mark.parametrize("bits", [23, 24, 25, 26, 27, 31, 32, 33, 48, 52, 53])
def test_sums_are_exact_at_the_ends_of_every_float(
    bits: int, engine: Make, one_layer: OneLayer
) -> None:
    """An odd sum of that many bits, of neurons and of a relay."""
    large = 1 << (bits - 8)
    weight = [[large, 1, 0], [-large, -1, 0]]
    network = one_layer(weight, threshold=131071, maximum=255, dv=4096, shows="input")
    network = replace(
        network,
        populations=(*network.populations, IntegerRelay("sum", (2,), 1)),
        synapses=(*network.synapses, replace(network.synapses[0], name="r", target="sum")),
    )

    trace = compare(engine, network, {"in": np.array([[[255, 255, 0], [0, 1, 255]]])})

    assert trace.outputs["out"][0, 0, 0] == 255 * (large + 1) * 64
    assert trace.spikes["sum"][0, 0].tolist() == [255 * (large + 1), -255 * (large + 1)]


def test_sums_that_float64_cannot_hold_are_refused(engine: Make, one_layer: OneLayer) -> None:
    network = one_layer([[2**30]], maximum=2**30)

    with pytest.raises(OverflowError, match=r"sums of 'w' could reach .* beyond 2\^53"):
        engine(network).execute(series(0, 2**30), samples=1, steps=2)

    compare(engine, network, series(0, 2**20))


@pytest.mark.parametrize("beyond", [2, 300, 2**20, 2**33])
def test_inputs_beyond_their_declared_range_are_exact(
    beyond: int, engine: Make, one_layer: OneLayer
) -> None:
    network = one_layer([[255, 1]], threshold=1000, shows="input")
    ready = engine(network)
    within, outside = (np.array([[[1, 1], [top, 1]]]) for top in (1, beyond))

    for values in (within, outside, -outside, within):
        expected = execute(network, {"in": values}, samples=1, steps=2)
        assert_equal(ready.execute({"in": values}, samples=1, steps=2), expected)


# Samples, steps, records


def test_samples_are_independent_of_their_neighbours(engine: Make, one_layer: OneLayer) -> None:
    generator = np.random.default_rng(0)
    network = one_layer(
        generator.integers(-128, 127, (5, 6)) * 2, du=2047, delay=[0, 1, 2, 3, 0, 1]
    )
    spikes = generator.integers(0, 2, (131, 7, 6))
    ready = engine(network)

    together = ready.execute({"in": spikes}, samples=131, steps=7, record=everything(network))
    alone = ready.execute({"in": spikes[130:]}, samples=1, steps=7, record=["out"])

    assert_equal(
        together, execute(network, {"in": spikes}, samples=131, steps=7, record=everything(network))
    )
    np.testing.assert_array_equal(together.spikes["out"][130:], alone.spikes["out"])


def test_two_threads_may_run_one_engine(engine: Make, one_layer: OneLayer) -> None:
    generator = np.random.default_rng(5)
    network = one_layer(generator.integers(-90, 120, (30, 40)))
    ready = engine(network)
    inputs = [{"in": generator.integers(0, 2, (12, 9, 40))} for _ in range(2)]
    options: dict[str, Any] = {"samples": 12, "steps": 9, "record": ["out"]}
    ready.execute(inputs[0], **options)  # compiles, where something is to be compiled

    with ThreadPoolExecutor(2) as pool:
        turns = inputs * 10
        traces = list(pool.map(lambda values: ready.execute(values, **options), turns))

    for values, trace in zip(turns, traces, strict=True):
        expected = execute(network, values, **options)
        assert np.array_equal(trace.spikes["out"], expected.spikes["out"])


def test_progress_ends_with_all_samples(engine: Make, one_layer: OneLayer) -> None:
    seen: list[int] = []
    spikes = np.ones((150, 2, 1), np.int64)

    engine(one_layer([[1]])).execute({"in": spikes}, samples=150, steps=2, progress=seen.append)

    assert seen == sorted(set(seen))
    assert seen[-1] == 150


def test_inputs_may_be_read_only_and_of_any_layout(engine: Make, one_layer: OneLayer) -> None:
    network = one_layer(np.arange(12).reshape(2, 6))
    values = np.broadcast_to(np.array([1, 0, 1, 1, 0, 1]), (4, 3, 6))

    compare(engine, network, {"in": values})
    compare(engine, network, {"in": np.asfortranarray(values)[::-1]})


def test_a_population_that_nothing_reaches_runs_on_its_bias(
    engine: Make, one_layer: OneLayer, integer_neurons: MakeNeurons
) -> None:
    network = one_layer([[1]])
    alone = integer_neurons("alone", (2, 3), bias_mantissa=60, bias_exponent=6)
    network = replace(
        network,
        populations=(*network.populations, alone, IntegerRelay("quiet", (2,), 1)),
        outputs={"out": "alone"},
    )

    trace = compare(engine, network, series(1, 1, 1))

    assert trace.spikes["alone"].reshape(3, 6).tolist() == [[0] * 6, [0] * 6, [1] * 6]


# Random integer networks


class Integers:
    """Draws an integer network and inputs for it, out to the ends of every range."""

    SHAPES = ((2, 3, 4), (1, 4, 3), (4, 2, 2), (3, 5), (2, 4), (5,), (1,))

    def __init__(self, data: Any, *, wild: bool | None = None) -> None:
        self.data = data
        self.generator = np.random.default_rng(self.draw(st.integers(0, 2**32 - 1)))
        self.wild = self.choose(False, False, True) if wild is None else wild
        self.arithmetic = self.draw_arithmetic()
        self.populations: list[IntegerPopulation] = []
        self.synapses: list[IntegerSynapses] = []

    def draw(self, strategy: Any) -> Any:
        return self.data.draw(strategy)

    def choose(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def draw_arithmetic(self) -> Arithmetic:
        """Return Loihi 2's in half of all cases, else any chip's."""
        if self.choose(True, False):
            return LOIHI2
        return Arithmetic(
            fraction_bits=self.choose(0, 1, 3, 6, 10),
            decay_bits=self.choose(1, 4, 8, 12, 16),
            current_bits=self.choose(8, 12, 16, 24, 32),
            membrane_bits=self.choose(8, 12, 16, 24, 32),
            rounding=self.choose("zero", "down", "nearest"),
            current_overflow=self.choose("wrap", "saturate"),
            membrane_overflow=self.choose("wrap", "saturate"),
        )

    def decay(self, *of_4096: int) -> tuple[int, ...]:
        """Return decays, given with Loihi 2's 12 bits, in the bits there are."""
        one = self.arithmetic.decay_one
        return tuple(one - 1 if each == 4095 else each * one >> 12 for each in of_4096)

    def among(self, shape: tuple[int, ...], *values: int) -> Integer:
        return self.generator.choice(np.array(values, np.int64), shape)

    def parameter(self, shape: tuple[int, ...], *values: int) -> Integer:
        """Return one number, one for each channel, or one for each neuron."""
        per_channel = (shape[0], *(1,) * (len(shape) - 1))
        return self.among(self.choose((), (), per_channel, shape), *values)

    def inputs(self) -> None:
        for number in range(self.choose(1, 1, 2)):
            ends = [(0, 1), (0, 1), (0, 255), (-8, 16)] + [(-(2**15), 2**15)] * self.wild
            low, high = self.choose(*ends)
            name, shape = f"in{number}", self.choose(*self.SHAPES)
            self.populations.append(IntegerInput(name, shape, 1.0, low, high, True))

    def weight(self, shape: tuple[int, ...]) -> Integer:
        kind = self.choose("any", "ends", "small", "positive")
        if self.wild and self.choose(False, True):
            return self.among(shape, -(2**15), 2**15 - 1, 2**20, -1, 1)
        if kind == "any":
            return self.generator.integers(-256, 255, shape)
        values = {"ends": (-256, 254), "small": (-2, 0, 1), "positive": (0, 1, 255)}[kind]
        return self.among(shape, *values)

    def delay(self, source: tuple[int, ...], weight: tuple[int, ...], least: int) -> Integer:
        shape = self.choose((), (), source, weight if len(weight) == 2 else ())
        return least + self.among(shape, *self.choose((0,), (0, 1), (0, 1, 3), (9, 0, 40)))

    def convolution(self, view: tuple[int, ...]) -> tuple[Integer, Geometry, tuple[int, int, int]]:
        """Return kernels for an image of that shape, and what they make of it."""
        channels, *size = view
        groups = self.choose(*(g for g in (1, 2, channels) if channels % g == 0))
        kernel = [self.choose(*(k for k in (1, 2, 3) if k <= extent)) for extent in size]
        padding, stride = ([self.choose(*options) for _ in size] for options in ((0, 1, 2), (1, 2)))
        dilation = [
            self.choose(1, 2) if 2 * k - 1 <= extent else 1
            for k, extent in zip(kernel, size, strict=True)
        ]
        out = groups * self.choose(1, 2)
        height, width = map(conv_output, size, kernel, stride, padding, dilation)
        geometry = Geometry(
            (stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]), groups
        )
        return self.weight((out, channels // groups, *kernel)), geometry, (out, height, width)

    def group(self, source: IntegerPopulation, shape: tuple[int, ...] | None) -> tuple[int, ...]:
        """Add synapses from `source` to the next population, of that shape if there is one; return its shape."""
        name = f"w{len(self.synapses)}"
        view: tuple[int, ...] = source.shape
        if len(view) != 3:
            count = int(np.prod(view))
            view = (view[0], 1, view[1]) if len(view) == 2 else (1, 1, count)
        geometry: Geometry | None = None
        views: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        if shape is None and self.choose(False, True, True):
            weight, geometry, target_view = self.convolution(view)
            count = int(np.prod(target_view))
            shape = self.choose(target_view, (count,), (target_view[0], count // target_view[0]))
            views = (view, target_view)
        else:
            shape = shape or self.choose(*self.SHAPES)
            weight = self.weight((int(np.prod(shape)), int(np.prod(source.shape))))
        self.synapses.append(
            IntegerSynapses(
                name,
                source.name,
                f"n{len(self.populations)}",
                weight,
                geometry,
                exponent=self.choose(0, 0, 0, 1, 6, -1, -3, *((20, -20) if self.wild else ())),
                delay=self.delay(source.shape, weight.shape, 0),
                on_host=self.choose(False, False, True),
                source_view=views[0],
                target_view=views[1],
            )
        )
        return shape

    def population(self) -> None:
        name = f"n{len(self.populations)}"
        shape = None
        for _ in range(self.choose(0, 1, 1, 1, 2, 3)):
            shape = self.group(self.choose(*self.populations), shape)
        shape = shape or self.choose(*self.SHAPES)
        if self.choose(False, False, False, True):
            self.populations.append(IntegerRelay(name, shape, 3))
        else:
            self.populations.append(self.neurons(name, shape))

    def neurons(self, name: str, shape: tuple[int, ...]) -> IntegerNeurons:
        most = self.choose(1, 1, 1, 2, 5, 255, 1000)
        lowest = (1, 7) if most > 1 else (0, -3)
        threshold = self.parameter(shape, *lowest, 100, 2000, 131071)
        wide = (1, 0, -20, 20, 13) if self.wild else (0, -2, 5, 7)
        return IntegerNeurons(
            name,
            shape,
            du=self.parameter(
                shape,
                *self.decay(*self.choose((4095,), (4095,), (2047, 1023), (0, 4095, 3000))),
            ),
            dv=self.parameter(
                shape,
                *self.decay(
                    *self.choose((2048,), (4096,), (0,), (0, 1, 4096), (1024, 2048), (1234, 4095))
                ),
            ),
            threshold=threshold,
            bias_mantissa=self.parameter(shape, *self.choose((0,), (-4096, 4095, 17), (60, -61))),
            bias_exponent=self.choose(*wide),
            scale=np.ones(()),
            shows=self.choose("spikes", "spikes", "input", "membrane"),
            reset=self.choose("zero", "zero", "subtract"),
            start=self.arithmetic.state_units
            * self.parameter(shape, *self.choose((0,), (0,), (-900, 5, 131071))),
            pulse=self.parameter(shape, *self.choose((0,), (0,), (-900, 5, 131071))),
            subtracts=self.choose(
                np.array(AS_THRESHOLD), self.parameter(shape, 64, 1000, 2**23, -77)
            ),
            inclusive=self.choose(False, True),
            most=most,
            floor=self.parameter(
                shape, *self.choose((NO_FLOOR,), (NO_FLOOR,), (NO_FLOOR, -640, 0), (-(2**24), 999))
            ),
            refractory=self.choose(0, 0, 0, 1, 3),
            arithmetic=self.arithmetic,
        )

    def feedback(self) -> None:
        targets = [item for item in self.populations if not isinstance(item, IntegerInput)]
        target = self.choose(*targets)
        later = self.populations[self.populations.index(target) :]
        source = self.choose(*later)
        weight = self.weight((int(np.prod(target.shape)), int(np.prod(source.shape))))
        self.synapses.append(
            IntegerSynapses(
                f"w{len(self.synapses)}",
                source.name,
                target.name,
                weight,
                exponent=self.choose(0, 0, -2, 3),
                delay=self.delay(source.shape, weight.shape, 1),
            )
        )

    def network(self) -> IntegerNetwork:
        self.inputs()
        for _ in range(self.choose(1, 2, 2, 3)):
            self.population()
        for _ in range(self.choose(0, 0, 1, 2)):
            self.feedback()
        names = [item.name for item in self.populations]
        outputs = {"last": names[-1], "some": self.choose(*names), "other": self.choose(*names)}
        return IntegerNetwork(tuple(self.populations), tuple(self.synapses), outputs)

    def values(self, item: IntegerInput, samples: int, steps: int) -> Integer:
        shape = (samples, steps, *item.shape)
        beyond = 3 if self.wild and self.choose(False, True) else 1
        low, high = item.minimum * beyond, item.maximum * beyond
        if self.choose(False, True):
            return self.among(shape, low, high)
        return self.generator.integers(low, high + 1, shape)


def test_random_integer_networks_do_what_the_definition_says(engine: Make) -> None:
    tried: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data: Any) -> None:
        integers = Integers(data)
        network = integers.network()
        samples, steps = integers.choose(1, 2, 5), integers.choose(1, 2, 5, 8)
        inputs = {item.name: integers.values(item, samples, steps) for item in network.inputs}
        options = {
            "samples": samples,
            "steps": steps,
            "record": [name for name in everything(network) if integers.choose(True, False)],
            "before_reset": integers.choose(False, True),
        }
        try:
            expected = execute(network, inputs, **options)
        except OverflowError:
            with pytest.raises(OverflowError, match=r"beyond 2\^53"):
                engine(network).execute(inputs, **options)
            return
        assert_equal(engine(network).execute(inputs, **options), expected)
        found = {kind for counts in expected.counters.values() for kind in counts if counts[kind]}
        tried.update(found or {"nothing counted"})

    check()

    kinds = ("current_wraps", "u_wraps", "v_saturations_low", "v_saturations_high", "spikes_capped")
    assert {kind for kind in (*kinds, "nothing counted") if tried[kind] < EXAMPLES // 40} == set()


def draw_topology(data: Any) -> Network:
    """Draw a random float network as the tests of random networks do."""
    path = Path(__file__).parents[1] / "fuzz" / "conftest.py"
    spec = importlib.util.spec_from_file_location("drawer_of_networks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: Network = module.Drawer(data).draw()
    return network


@settings(max_examples=COMPILED, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_compiled_networks_do_what_the_definition_says(data: Any, engine: Make) -> None:
    network = draw_topology(data)
    analogue = any(
        isinstance(node, Input) and node.range is not None and node.range.minimum < 0
        for node in network.nodes.values()
    )
    options = CompileOptions(
        recipe=Recipe(data.draw(st.sampled_from([8, 8, 4]))),
        first_layer=data.draw(st.sampled_from(["auto", "host"])) if analogue else "auto",
        sums=data.draw(st.sampled_from(["auto", "graded", "duplicate"])),
        validate=False,
    )
    try:
        program = compile_network(network, find("fixedpoint"), options)
    except RangeError:
        reject()
    probes = probe_inputs(network, None, steps=network.steps or 4)
    compare(
        engine,
        program.network,
        {item.name: to_payload(item, probes[item.name]) for item in program.network.inputs},
        before_reset=data.draw(st.booleans()),
    )


# On PyTorch


@pytest.fixture(scope="module")
def small() -> tuple[IntegerNetwork, dict[str, Integer], Trace]:
    """A network of two convolutions with delays and a matrix, its inputs, and what it does."""
    generator = np.random.default_rng(3)
    kernels = [generator.integers(-128, 127, shape) * 2 for shape in ((4, 2, 3, 3), (6, 4, 3, 3))]
    shapes = [(2, 6, 6), (4, 6, 6), (6, 3, 3), (3,)]
    neurons: dict[str, Any] = {"du": 4095, "dv": 1024, "bias_mantissa": 9, "bias_exponent": 4}
    names = ["in", "first", "second", "out"]
    network = IntegerNetwork(
        (
            IntegerInput("in", shapes[0], 1.0, 0, 1, True),
            *(
                IntegerNeurons(name, shape, threshold=np.array(300), scale=np.ones(()), **neurons)
                for name, shape in zip(names[1:], shapes[1:], strict=True)
            ),
        ),
        (
            IntegerSynapses("w1", "in", "first", kernels[0], Geometry((1, 1), (1, 1))),
            IntegerSynapses(
                "w2", "first", "second", kernels[1], Geometry((2, 2), (1, 1)), exponent=-1,
                delay=generator.integers(0, 3, shapes[1]),
            ),
            IntegerSynapses("w3", "second", "out", generator.integers(-9, 99, (3, 54))),
            IntegerSynapses("w4", "out", "first", generator.integers(-9, 9, (144, 3)), delay=np.array(1)),
        ),
        {"out": "out"},
    )  # fmt: skip
    inputs = {"in": generator.integers(0, 2, (11, 7, *shapes[0]))}
    trace = execute(network, inputs, samples=11, steps=7, record=everything(network))
    assert all(trace.spikes[name].any() for name in names[1:])
    return network, inputs, trace


Small = tuple[IntegerNetwork, dict[str, Integer], Trace]


def run_on_torch(small: Small) -> None:
    network, inputs, expected = small
    ready = on_torch(network)
    for _ in range(2):
        trace = ready.execute(inputs, samples=11, steps=7, record=everything(network))
        assert_equal(trace, expected)


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 11, 64])
@pytest.mark.parametrize("chunk", [1, 1 << 13, 1 << 30])
def test_blocks_of_samples_and_chunks_of_steps_change_nothing(
    samples: int, chunk: int, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from neurocompile_fixedpoint import torch_engine

    monkeypatch.setattr(torch_engine, "CPU_BYTES", 4 * 144 * samples)
    monkeypatch.setattr(torch_engine, "CHUNK_BYTES", chunk)

    run_on_torch(small)


def test_what_a_process_sets_for_pytorch_changes_nothing_and_stays(small: Small) -> None:
    torch = pytest.importorskip("torch")
    precision = torch.get_float32_matmul_precision()
    newer = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]

    def settings_now() -> list[Any]:
        return [getattr(backend, "fp32_precision", None) for backend in newer]

    try:
        torch.set_float32_matmul_precision("medium")
        before = settings_now()
        torch.set_default_dtype(torch.float64)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
            run_on_torch(small)

        assert torch.get_float32_matmul_precision() == "medium"
        assert settings_now() == before
        assert not torch.is_inference_mode_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision(precision)


def test_products_are_computed_in_full_precision(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU without bfloat16 would not show it, so the setting itself is looked at."""
    torch = pytest.importorskip("torch")
    multiply, seen = torch.addmm, set()

    def look(*arguments: Any, **more: Any) -> Any:
        seen.add(torch.get_float32_matmul_precision() if legacy else matmul.fp32_precision)
        return multiply(*arguments, **more)

    matmul = torch.backends.cuda.matmul
    legacy = not hasattr(matmul, "fp32_precision")
    precision = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch, "addmm", look)
    try:
        torch.set_float32_matmul_precision("high")
        run_on_torch(small)
    finally:
        torch.set_float32_matmul_precision(precision)

    assert seen == {"highest" if legacy else "ieee"}


def test_a_device_that_is_not_there_is_an_error(one_layer: OneLayer) -> None:
    pytest.importorskip("torch")
    from neurocompile_fixedpoint.torch_engine import TorchEngine

    with pytest.raises(OptionError, match="device 'abacus' .* choose another one, such as 'cpu'"):
        TorchEngine(one_layer([[1]]), "abacus")


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_everything_stays_on_the_device_and_nobody_waits_for_it(data: Any) -> None:
    """
    On PyTorch's meta device there are shapes, but no values.

    It refuses tensors of the CPU beside its own, and to tell what is in one; as a GPU would have to.
    """
    torch = pytest.importorskip("torch")
    from neurocompile_fixedpoint.torch_engine import Run, TorchEngine

    integers = Integers(data, wild=False)
    network = integers.network()
    inputs = {item.name: integers.values(item, 3, 4) for item in network.inputs}
    fetched: list[Any] = []

    with torch.inference_mode():
        engine = TorchEngine(network, "meta")
        plan = engine.plan(inputs, 4)
        for worker in plan.workers.values():
            for part in worker.arrivals.parts:
                if part.worst(plan.spans[part.group.source]) >= 1 << 53:
                    reject()  # its values have to be looked at
        run = Run(network, plan, engine.scratch, 3, 4)
        run.record(everything(network), before_reset=False)
        run.fetch = lambda *_: fetched.append(run)  # type: ignore[method-assign]
        run.block(inputs, 0, 3)

    assert fetched == [run]
    tensors = [*run.counts.values(), *engine.scratch.kept.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
