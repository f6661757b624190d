"""The promises that every installed target keeps; a new target is held to them by being installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import DataError, MissingDependencyError, NeurocompileError, OptionError
from neurocompile.ir import LIF, Conv2d, Dense, Flatten, Network, Pool2d
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program, load
from neurocompile.quantisation.recipe import Recipe
from neurocompile.target import find, installed, resolve_options

SELECTIVE = ("netx",)  # options that take some networks only

NEEDED = {"onnx": ("onnx", "onnxruntime")}  # what tests of a target are skipped without


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    missing = [package for package in NEEDED.get(name, ()) if find_spec(package) is None]
    marks = [pytest.mark.skip(reason=f"{', '.join(missing)} not installed")] if missing else []
    return [*marks, pytest.mark.lava] if name == "loihi2" else marks


TARGETS = [pytest.param(name, marks=marks_of(name)) for name in installed()]
Opened = Callable[[Program], Program]


@pytest.fixture(scope="module")
def network(lif: Callable[..., LIF], chain: Callable[..., Network]) -> Network:
    """Graded input, strided convolution, pool, flatten, dense, read-out."""
    generator = np.random.default_rng(0)
    return chain(
        (2, 6, 8),
        {
            "conv1": Conv2d(
                generator.normal(size=(3, 2, 3, 2)) / 3,
                generator.normal(size=3) / 4,
                padding=(1, 0),
            ),
            "lif1": lif((3, 6, 7)),
            "conv2": Conv2d(
                generator.normal(size=(4, 3, 3, 2)) / 2, generator.normal(size=4) / 4, stride=(1, 1)
            ),
            "lif2": lif((4, 4, 6), decay=0.75),
            "pool2": Pool2d((2, 2), (2, 2), scale=0.25),
            "flatten": Flatten(),
            "fc": Dense(generator.normal(size=(5, 24)), generator.normal(size=5)),
        },
        steps=4,
        input_range=InputRange(-1, 1, 1 / 16),
    )


@pytest.fixture(scope="module")
def inputs() -> NDArray[np.float64]:
    return np.random.default_rng(1).integers(-16, 17, (7, 4, 2, 6, 8)) / 16


def program_for(network: Network, name: str, **options: Any) -> Program:
    return compile_network(network, find(name), CompileOptions(**options))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("first_layer", ["graded", "host"])
def test_it_fires_the_spikes_that_fixedpoint_fires(
    network: Network, inputs: NDArray[np.float64], name: str, first_layer: str, opened: Opened
) -> None:
    program = opened(program_for(network, name, first_layer=first_layer))
    record = ["all", "membrane/lif1", "membrane/fc"]

    ours = program.run(inputs, record)
    definition = program.run(inputs, record, on="fixedpoint")

    np.testing.assert_array_equal(ours.output, definition.output)
    assert list(ours.spikes) == ["lif1", "lif2"]
    for layer in ours.spikes:
        np.testing.assert_array_equal(ours.spikes[layer], definition.spikes[layer], err_msg=layer)
        assert 0 < ours.spikes[layer].mean() < 1
    for layer in ours.membrane:
        np.testing.assert_array_equal(
            ours.membrane[layer], definition.membrane[layer], err_msg=layer
        )


@pytest.mark.parametrize("name", TARGETS)
def test_a_stored_program_is_the_same_program(
    network: Network, inputs: NDArray[np.float64], name: str, tmp_path: Path, opened: Opened
) -> None:
    program = opened(program_for(network, name))
    program.save(tmp_path / "program")

    loaded = opened(load(tmp_path / "program"))

    np.testing.assert_array_equal(loaded.run(inputs).output, program.run(inputs).output)
    assert loaded.schedule == program.schedule
    assert loaded.bounds == program.bounds
    assert [vars(a)["shape"] for a in loaded.network.populations] == [
        vars(a)["shape"] for a in program.network.populations
    ]


@pytest.mark.parametrize("name", TARGETS)
def test_the_same_network_gives_the_same_bytes(network: Network, name: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        program_for(network, name).save(tmp_path / folder)

    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert json.loads((tmp_path / "a" / "program.json").read_text())["target"] == name


@pytest.mark.parametrize("name", TARGETS)
def test_running_again_gives_the_same_and_other_lengths_work(
    network: Network, inputs: NDArray[np.float64], name: str, opened: Opened
) -> None:
    program = opened(program_for(network, name))

    first = program.run(inputs, "all")
    again = program.run(inputs[2:5], "all")
    shorter = program.run(inputs[:, :3], "all")

    np.testing.assert_array_equal(again.output, first.output[2:5])
    np.testing.assert_array_equal(again.spikes["lif2"], first.spikes["lif2"][2:5])
    np.testing.assert_array_equal(shorter.output, first.output[:, :3])


@pytest.mark.parametrize("name", TARGETS)
def test_one_step_a_sample_works_through_a_deep_pipeline(
    network: Network, inputs: NDArray[np.float64], name: str, opened: Opened
) -> None:
    """The period is shorter than the pipeline is deep: resets of three samples overlap."""
    program = opened(program_for(network, name))

    alone = program.run(inputs[:, :1], "all")

    expected = program.run(inputs[:, :1], "all", on="fixedpoint")
    np.testing.assert_array_equal(alone.output, expected.output)
    np.testing.assert_array_equal(alone.spikes["lif2"], expected.spikes["lif2"])


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=8, phases=[Phase.generate])
@given(data=st.data())
def test_random_networks_fire_the_spikes_of_fixedpoint(
    data: Any,
    name: str,
    draw_network: Callable[..., Network],
    draw_inputs: Callable[..., NDArray[np.float64]],
) -> None:
    network = draw_network(data)
    inputs = draw_inputs(data, network)
    target = find(name)
    options = {
        option: data.draw(st.sampled_from(choice.choices), label=option)
        for option, choice in target.options.items()
        if option not in SELECTIVE
    }
    bits = data.draw(st.integers(2, 8), label="bits")

    with program_for(network, name, recipe=Recipe(bits), target_options=options) as program:
        ours = program.run(inputs, "all")
        definition = program.run(inputs, "all", on="fixedpoint")

    np.testing.assert_array_equal(ours.output, definition.output)
    for layer in ours.spikes:
        np.testing.assert_array_equal(ours.spikes[layer], definition.spikes[layer], err_msg=layer)


@pytest.mark.parametrize("name", TARGETS)
def test_all_engines_of_a_target_agree(
    network: Network, inputs: NDArray[np.float64], name: str, opened: Opened
) -> None:
    program = opened(program_for(network, name))
    record = ["all", "membrane/lif1", "membrane/fc"]

    definition = program.run(inputs, record, on="fixedpoint:definition")
    by_engine = {}
    for engine in find(name).engines:
        with suppress(MissingDependencyError):  # not every environment has every engine
            by_engine[engine] = program.run(inputs, record, on=f"{name}:{engine}")

    for engine, ours in by_engine.items():
        np.testing.assert_array_equal(ours.output, definition.output, err_msg=engine)
        for layer in definition.spikes:
            np.testing.assert_array_equal(ours.spikes[layer], definition.spikes[layer])
        for layer in definition.membrane:
            np.testing.assert_array_equal(ours.membrane[layer], definition.membrane[layer])


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_the_proof_does_not_cover_are_refused(
    network: Network, inputs: NDArray[np.float64], name: str
) -> None:
    program = program_for(network, name)

    with pytest.raises(
        DataError, match=r"layer 'input' needs inputs of shape \(samples, steps, 2, 6, 8\)"
    ):
        program.run(inputs[..., :5])
    with pytest.raises(
        DataError, match="layer 'input' needs values from -1 to 1, but 1 values reach"
    ):
        program.run(np.where(np.arange(inputs.size).reshape(inputs.shape) == 5, 3.0, inputs))
    with pytest.raises(DataError, match=r"needs multiples of 0.0625, but \d+ values are not"):
        program.run(inputs * 0.99)
    with pytest.raises(
        DataError, match="the range proof covers 4 steps a sample, but the inputs have 8"
    ):
        program.run(np.tile(inputs, (1, 2, 1, 1, 1)))
    with pytest.raises(DataError, match="inputs must be finite, but 1 values are NaN or infinite"):
        program.run(np.where(np.arange(inputs.size).reshape(inputs.shape) == 5, np.nan, inputs))
    with pytest.raises(OptionError, match="there is no layer 'lif9' to record"):
        program.run(inputs, ["lif9"])


@pytest.mark.parametrize("name", TARGETS)
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f"target '{name}' has no option 'speed'"):
        resolve_options(find(name), {"speed": "high"})


@pytest.mark.parametrize("name", TARGETS)
def test_limits_and_availability_need_no_vendor(name: str) -> None:
    target = find(name)

    assert target.name == name
    assert target.limits.largest_weight(8) == 254
    assert target.availability().detail


def test_an_unknown_target_names_those_that_are_there() -> None:
    with pytest.raises(
        OptionError, match="there is no target 'loihi': installed are fixedpoint, loihi2, onnx"
    ):
        find("loihi")


def test_a_program_runs_on_its_target_or_on_the_definition(network: Network) -> None:
    with pytest.raises(
        NeurocompileError, match="a program for 'fixedpoint' cannot run on 'loihi2'"
    ):
        program_for(network, "fixedpoint").run(np.zeros((1, 4, 2, 6, 8)), on="loihi2")
