"""Fixtures that all tests share; helpers are fixtures, since `tests` is a name that Lava owns."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from neurocompile.data import InputRange
from neurocompile.integer import (
    Geometry,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerSynapses,
)
from neurocompile.ir import (
    LIF,
    Conv2d,
    Dense,
    Flatten,
    Input,
    Network,
    Node,
    Output,
    Pool2d,
    output_shape,
)
from neurocompile.program import Program

settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("tests")

LAVA_PARTS = ("lava", "scipy", "networkx", "asteval")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs Lava where it is missing, unless that is a failure (as in CI)."""
    missing = [name for name in LAVA_PARTS if find_spec(name) is None]
    if not missing or os.environ.get("NEUROCOMPILE_REQUIRE_LAVA"):
        return
    skip = pytest.mark.skip(reason=f"Lava is not installed ({', '.join(missing)} missing)")
    for item in items:
        if "lava" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of third-party recordings beside the checkout; tests that need it skip without."""
    named = os.environ.get("NEUROCOMPILE_SHARED")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared"
    if not (folder / "data" / "README.md").is_file():
        pytest.skip("the shared folder with recordings is not here")
    return folder / "data"


@pytest.fixture(scope="session")
def lif() -> Callable[..., LIF]:
    """Makes LIF neurons, uniform if given numbers; the defaults are TET's."""

    def make(
        shape: tuple[int, ...],
        *,
        decay: ArrayLike = 0.5,
        threshold: ArrayLike = 1.0,
        gain: ArrayLike = 1.0,
        leak: ArrayLike = 0.0,
        reset_to: ArrayLike = 0.0,
        reset: Any = "zero",
        current_decay: ArrayLike | None = None,
        **firing: Any,
    ) -> LIF:
        return LIF(
            decay=np.full(shape, decay),
            gain=np.full(shape, gain),
            leak=np.full(shape, leak),
            threshold=np.full(shape, threshold),
            reset_to=np.full(shape, reset_to),
            reset=reset,
            current_decay=None if current_decay is None else np.full(shape, current_decay),
            **firing,
        )

    return make


@pytest.fixture(scope="session")
def dense() -> Callable[..., Dense]:
    """Makes a dense layer from nested lists, without a bias if none is given."""

    def make(weight: ArrayLike, bias: ArrayLike | None = None) -> Dense:
        rows = np.array(weight, dtype=float)
        return Dense(rows, np.zeros(len(rows)) if bias is None else np.array(bias, dtype=float))

    return make


@pytest.fixture(scope="session")
def chain() -> Callable[..., Network]:
    """Makes a network whose nodes follow each other, `input` and `output` added."""

    def make(
        input_shape: tuple[int, ...],
        nodes: dict[str, Node],
        *,
        steps: int | None = 4,
        input_range: InputRange | None = None,
    ) -> Network:
        names = ["input", *nodes, "output"]
        edges = tuple(itertools.pairwise(names))
        everything: dict[str, Node] = {"input": Input(input_shape, input_range), **nodes}
        shape = input_shape
        for node in nodes.values():
            shape = output_shape(node, shape)
        return Network({**everything, "output": Output(shape)}, edges, steps)

    return make


@pytest.fixture(scope="session")
def draw_network(lif: Callable[..., LIF], chain: Callable[..., Network]) -> Callable[..., Network]:
    """
    Draws a random convolutional network: strides, paddings, dilations, groups, pools, read-out or not.

    Weights, thresholds and leaks are small dyadic numbers, so that float64 computes every sum exactly
    and two networks that should be equal fire exactly the same spikes.
    """

    def dyadic(data: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
        generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="weights"))
        return generator.integers(-64, 96, shape) / 64

    def draw(data: Any, *, graded: bool | None = None) -> Network:
        def choose(label: str, options: Any) -> Any:
            return data.draw(st.sampled_from(options), label=label)

        channels = choose("channels", [1, 2, 4])
        shape: tuple[int, ...] = (channels, choose("height", [4, 6, 8]), choose("width", [4, 6]))
        if graded is None:
            graded = data.draw(st.booleans(), label="graded")
        input_range = InputRange(-0.5, 1.0, 1 / 8) if graded else None
        input_shape = shape
        nodes: dict[str, Node] = {}
        for number in range(1, data.draw(st.integers(1, 2), label="stages") + 1):
            groups = choose("groups", [g for g in (1, 2) if shape[0] % g == 0])
            out = choose("out", [2, 4])
            heights = [size for size in (1, 2, 3) if size <= shape[1]]
            kernel = (choose("kernel h", heights), choose("kernel w", [1, 3]))
            conv = Conv2d(
                dyadic(data, (out, shape[0] // groups, *kernel)),
                dyadic(data, (out,)),
                stride=(choose("stride", [1, 2]), 1),
                padding=(choose("padding", [0, 1]), 1),
                dilation=(1, choose("dilation", [1, 2]) if kernel[1] == 1 else 1),
                groups=groups,
            )
            trial = chain(shape, {"conv": conv})
            shape = trial.shapes["conv"]
            nodes[f"conv{number}"] = conv
            nodes[f"lif{number}"] = lif(
                shape,
                decay=choose("decay", [0.0, 0.5, 0.75, 1.0]),
                threshold=choose("threshold", [0.5, 1.0]),
            )
            can_pool = all(extent % 2 == 0 for extent in shape[1:])
            if can_pool and data.draw(st.booleans(), label="pool"):
                average = data.draw(st.booleans(), label="average")
                nodes[f"pool{number}"] = Pool2d((2, 2), (2, 2), scale=0.25 if average else 1.0)
                shape = (shape[0], shape[1] // 2, shape[2] // 2)
        size = int(np.prod(shape))
        nodes["flatten"] = Flatten()
        nodes["fc"] = Dense(dyadic(data, (3, size)), dyadic(data, (3,)))
        if data.draw(st.booleans(), label="spiking output"):
            nodes["lif_out"] = lif((3,))
        return chain(input_shape, nodes, steps=choose("steps", [1, 3, 5]), input_range=input_range)

    return draw


@pytest.fixture(scope="session")
def draw_inputs() -> Callable[..., NDArray[np.float64]]:
    """Draws inputs on the grid that a network's input names."""

    def draw(data: Any, network: Network, *, samples: int = 4) -> NDArray[np.float64]:
        node = network.nodes["input"]
        assert isinstance(node, Input)
        limits = node.range or InputRange(0, 1, 1)
        generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="inputs"))
        least, most = round(limits.minimum / limits.step), round(limits.maximum / limits.step)
        shape = (samples, network.steps or 4, *node.shape)
        return np.asarray(generator.integers(least, most + 1, shape) * limits.step, np.float64)

    return draw


@pytest.fixture(scope="session")
def integer_neurons() -> Callable[..., IntegerNeurons]:
    """Makes neurons of integers: without a current's memory, with a leak of 1/2, a threshold of 100."""

    def make(name: str, shape: tuple[int, ...] = (1,), **changes: Any) -> IntegerNeurons:
        values: dict[str, Any] = {
            "du": 4095,
            "dv": 2048,
            "threshold": 100,
            "bias_mantissa": 0,
            "bias_exponent": 0,
            "scale": 1.0,
        }
        return IntegerNeurons(name, shape, **{**values, **changes})

    return make


@pytest.fixture(scope="session")
def one_layer(integer_neurons: Callable[..., IntegerNeurons]) -> Callable[..., IntegerNetwork]:
    """Makes an integer network of one dense layer, or convolution, from `in` to `out`; `more` is the neurons'."""

    def make(
        weight: Any,
        *,
        du: Any = 4095,
        dv: Any = 2048,
        threshold: Any = 100,
        bias: Any = 0,
        bias_exponent: int = 6,
        geometry: Geometry | None = None,
        input_shape: tuple[int, ...] | None = None,
        shape: tuple[int, ...] | None = None,
        minimum: int = 0,
        maximum: int = 1,
        delay: Any = 0,
        **more: Any,
    ) -> IntegerNetwork:
        weight = np.array(weight)
        return IntegerNetwork(
            (
                IntegerInput("in", input_shape or weight.shape[1:], 1.0, minimum, maximum, True),
                integer_neurons(
                    "out",
                    shape or weight.shape[:1],
                    du=du,
                    dv=dv,
                    threshold=threshold,
                    bias_mantissa=bias,
                    bias_exponent=bias_exponent,
                    **more,
                ),
            ),
            (IntegerSynapses("w", "in", "out", weight, geometry, delay=delay),),
            {"out": "out"},
        )

    return make


@pytest.fixture
def opened() -> Iterator[Callable[[Program], Program]]:
    """Closes the programs that a test runs."""
    programs: list[Program] = []

    def keep(program: Program) -> Program:
        programs.append(program)
        return program

    yield keep
    for program in programs:
        program.close()
