"""The float network as ONNX: its numbers against the reference, and its graphs as other tools read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.cli import main
from neurocompile.data import InputRange, load_samples
from neurocompile.errors import RangeError
from neurocompile.frontend.network_to_nir import network_to_nir
from neurocompile.ir import LIF, Conv2d, Dense, Flatten, Network
from neurocompile.passes.assemble import assemble
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.population_reference import simulate_populations
from neurocompile.populations import (
    InputPopulation,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SumPopulation,
    SynapseGroup,
)
from neurocompile.program import load
from neurocompile.target import find

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

STEP, SEQUENCE = "float_step.onnx", "float_sequence.onnx"
FILES = ("step.onnx", "sequence.onnx", "trace.onnx", STEP, SEQUENCE)

Values = NDArray[Any]
Made = dict[str, bytes]


def session_of(content: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(content: bytes, inputs: Mapping[str, Values]) -> dict[str, Values]:
    """Return all outputs of a model, by name."""
    session = session_of(content)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def run_steps(content: bytes, inputs: Mapping[str, Values]) -> dict[str, Values]:
    """Return what the model of a step shows, step by step, with nothing but its metadata to go by."""
    session = session_of(content)
    states = json.loads(session.get_modelmeta().custom_metadata_map["neurocompile"])["states"]
    samples, steps = next(iter(inputs.values())).shape[:2]
    held = {
        state["tensor"]: np.full((samples, *state["shape"]), state["initial"], state["type"])
        for state in states
    }
    names = [output.name for output in session.get_outputs()]
    shown: dict[str, list[Values]] = {}
    for step in range(steps):
        now = {name: values[:, step] for name, values in inputs.items()}
        found = dict(zip(names, session.run(names, {**now, **held}), strict=True))
        held = {state["tensor"]: found.pop(state["next"]) for state in states}
        for name, values in found.items():
            shown.setdefault(name, []).append(values)
    return {name: np.stack(values, axis=1) for name, values in shown.items()}


def models_of(network: PopulationNetwork, steps: int) -> Made:
    from neurocompile_onnx.real import real_models

    return real_models(network, steps=steps)


def neuron(name: str, shape: tuple[int, ...] = (1,), **changes: Any) -> SpikingPopulation:
    """Return neurons with a leak of 1/2 and a threshold of 1."""
    values = {"decay": np.array(0.5), "threshold": np.array(1.0), "bias": np.array(0.0)}
    return SpikingPopulation(name, shape, **{**values, **changes})


def network_of(
    item: SpikingPopulation | ReadoutPopulation, weight: Any = ((1.0,),), delay: Any = 0
) -> PopulationNetwork:
    """Return a network of one layer, on as many real inputs as it has weights."""
    dense = Dense(np.array(weight), np.zeros(len(weight)))
    size = dense.weight.shape[1]
    group = SynapseGroup("w", "in", item.name, dense, (size,), item.shape, np.array(delay))
    source = InputPopulation("in", (size,), InputRange(-4, 4, 0))
    return PopulationNetwork((source, item), (group,), {"out": item.name}, None)


def shown_by(network: PopulationNetwork, inputs: Any, steps: int = 8) -> dict[str, Values]:
    """Return what both models show of one sample, (steps, inputs), after a look that they agree."""
    values = {"in": np.array(inputs, np.float32)[np.newaxis]}
    models = models_of(network, steps)
    found, stepped = run(models[SEQUENCE], values), run_steps(models[STEP], values)
    assert found.keys() == stepped.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, stepped[name], err_msg=name)
    return {name: array[0].squeeze(-1) for name, array in found.items()}


# Worked examples: 3/4 arrives at every step, and 1 fires


def test_neurons_leak_and_fire_above_their_threshold() -> None:
    found = shown_by(network_of(neuron("n"), [[0.75]]), [[1], [1], [1], [0]])

    assert found["membrane/n"].tolist() == [0.75, 1.125, 0.75, 0.375]
    assert found["out"].tolist() == found["spikes/n"].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("size", [1e39, 1e-42, 1e-50])
def test_numbers_that_float32_does_not_hold_are_refused(size: float) -> None:
    """Too large ones would be infinite, and near 0 they have fewer bits than 24."""
    network = network_of(neuron("n", threshold=np.array(1.5 * size)), [[0.7 * size]])

    with pytest.raises(RangeError) as caught:
        models_of(network, 4)

    assert [problem.layer for problem in caught.value.problems] == ["n", "n"]
    assert all("1 of its" in str(problem) for problem in caught.value.problems)


def test_tiny_weights_are_as_good_as_none_beside_a_threshold() -> None:
    network = network_of(neuron("n"), [[0.75, 1e-42]])

    found = shown_by(network, [[1, 1], [1, 4]])

    assert found["membrane/n"].tolist() == [0.75, 1.125]


def test_metadata_have_the_keys_of_the_integers() -> None:
    item = ReadoutPopulation("r", (1,), np.array([0.25]))
    session = onnxruntime.InferenceSession(models_of(network_of(item), 4)[STEP])
    about = json.loads(session.get_modelmeta().custom_metadata_map["neurocompile"])

    assert about["form"] == "float"
    assert about["inputs"] == {"in": {"tensor": "in", "scale": 1}}
    assert about["outputs"] == {
        "out": {"tensor": "out", "shows": "membrane", "scale": 1, "origin": 0}
    }
    assert about["sent"] == about["membranes"] == {}


@pytest.mark.parametrize(("comparison", "fires"), [(">", 0), (">=", 1)])
def test_a_membrane_at_its_threshold_fires_where_it_should(comparison: Any, fires: int) -> None:
    found = shown_by(network_of(neuron("n", comparison=comparison)), [[1]])

    assert found["out"].tolist() == [fires]


@pytest.mark.parametrize(
    ("comparison", "most", "spikes"), [(">=", None, 3), (">", None, 2), (">=", 2, 2)]
)
def test_neurons_fire_as_often_as_the_threshold_fits(
    comparison: Any, most: int | None, spikes: int
) -> None:
    item = neuron("n", comparison=comparison, most_spikes=most, reset="subtract")
    found = shown_by(network_of(item), [[3], [0]])

    assert found["out"].tolist() == [spikes, 0]
    assert found["membrane/n"].tolist() == [3, (3 - spikes) / 2]


def test_a_spike_may_take_more_than_its_threshold() -> None:
    item = neuron("n", reset="subtract", subtracts=np.array(2.0), decay=np.array(1.0))
    found = shown_by(network_of(item), [[1.5], [0]])

    assert found["membrane/n"].tolist() == [1.5, -0.5]


def test_membranes_stop_at_their_floor() -> None:
    found = shown_by(network_of(neuron("n", floor=np.array(-0.5))), [[-3], [0]])

    assert found["membrane/n"].tolist() == [-0.5, -0.25]


def test_neurons_rest_after_a_spike() -> None:
    found = shown_by(network_of(neuron("n", refractory=2)), [[2]] * 5)

    assert found["out"].tolist() == [1, 0, 0, 1, 0]
    assert found["membrane/n"].tolist() == [2, 0, 0, 2, 0]


def test_currents_pulses_starts_and_biases_add_up() -> None:
    item = neuron(
        "n",
        current_decay=np.array(0.5),
        pulse=np.array(2.0),
        start=np.array(0.25),
        bias=np.array(0.125),
        threshold=np.array(9.0),
    )
    found = shown_by(network_of(item), [[1], [0]])

    # currents 3 and 3/2; membranes 3 + 1/8 + 1/4, and half of that + 3/2 + 1/8
    assert found["membrane/n"].tolist() == [3.375, 3.3125]


def test_read_outs_show_what_they_receive_or_integrate() -> None:
    zero, bias = np.array(0.0), np.array(0.25)
    receives = ReadoutPopulation("r", (1,), bias, None, zero, np.array(1.0))
    integrates = ReadoutPopulation("r", (1,), bias, np.array(0.5))

    assert shown_by(network_of(receives), [[1], [2]])["out"].tolist() == [2.25, 2.25]
    assert shown_by(network_of(integrates), [[1], [2]])["out"].tolist() == [1.25, 2.875]


@pytest.mark.parametrize(
    ("delay", "received"),
    [
        (1, [0, 3, 0, 0]),  # one for all
        ([0, 2], [1, 0, 2, 0]),  # by source
        ([[2, 1]], [0, 2, 1, 0]),  # by synapse
        ([[0, 9]], [1, 0, 0, 0]),  # after the sample's end
    ],
)
def test_delays_are_kept_until_they_are_over(delay: Any, received: list[float]) -> None:
    item = ReadoutPopulation("r", (1,), np.array(0.0))
    network = network_of(item, [[1.0, 2.0]], delay)

    found = shown_by(network, [[1, 1], [0, 0], [0, 0], [0, 0]], steps=4)

    assert found["out"].tolist() == received


def test_a_network_without_memory_has_no_states() -> None:
    network = network_of(neuron("n", decay=np.array(0.0)))

    assert shown_by(network, [[2], [0.5]])["out"].tolist() == [1, 0]
    assert [value.name for value in session_of(models_of(network, 4)[STEP]).get_inputs()] == ["in"]


def everything() -> PopulationNetwork:
    """Return a network with a sum, feedback, views, a grouped convolution, and a layer nobody excites."""
    shape = (2, 4, 3)
    source = InputPopulation("in", shape, InputRange(-1, 1, 0.25))
    generator = np.random.default_rng(0)

    def dyadic(*shape: int) -> Values:
        return generator.integers(-8, 16, shape) / 8

    conv = Conv2d(dyadic(2, 1, 3, 1), np.zeros(2), (1, 1), (1, 0), (1, 1), 2)
    strided = Conv2d(dyadic(2, 2, 2, 2), np.zeros(2), (2, 1), (0, 1), (1, 2))
    populations = (
        source,
        neuron("a", shape, threshold=dyadic(2, 1, 1) + 2, reset="subtract", most_spikes=3),
        neuron("quiet", (3,), bias=np.array([0.25, 0.75, 1.5])),
        SumPopulation("sum", shape, 4),
        neuron("b", (2, 2, 3), comparison=">="),
        ReadoutPopulation("r", (3,), dyadic(3), np.array(0.5)),
    )

    def group(name: str, source: str, target: str, operator: Any, delay: Any = 0) -> SynapseGroup:
        shapes = {item.name: item.shape for item in populations}
        return SynapseGroup(
            name, source, target, operator, shapes[source], shapes[target], np.array(delay)
        )

    same = Conv2d(np.ones((2, 1, 1, 1)), np.zeros(2), groups=2)
    late = generator.integers(0, 3, shape)
    groups = (
        group("conv", "in", "a", conv),
        group("back", "b", "a", Dense(dyadic(24, 12) / 8, np.zeros(24)), 1),
        group("one", "a", "sum", same),
        group("two", "in", "sum", same, late),
        group("down", "sum", "b", strided),
        group("fc", "b", "r", Dense(dyadic(3, 12), np.zeros(3))),
        group(
            "still",
            "quiet",
            "r",
            Dense(dyadic(3, 3), np.zeros(3)),
            generator.integers(0, 4, (3, 3)),
        ),
    )
    return PopulationNetwork(populations, groups, {"out": "r", "spikes": "b"}, None)


def test_everything_at_once_is_the_reference_exactly() -> None:
    network, steps = everything(), 6
    inputs = np.random.default_rng(1).integers(-4, 5, (5, steps, 2, 4, 3)) / 4
    models = models_of(network, steps)
    values = {"in": inputs.astype(np.float32)}

    found, stepped = run(models[SEQUENCE], values), run_steps(models[STEP], values)

    expected = simulate_populations(network, inputs)
    assert 0.05 < expected.spikes["b"].mean() < 0.95
    for one in (found, stepped):
        for name in ("out", "spikes"):
            np.testing.assert_array_equal(one[name], expected.outputs[name], err_msg=name)
        for name in ("a", "quiet", "b"):
            np.testing.assert_array_equal(one[f"spikes/{name}"], expected.spikes[name])
            np.testing.assert_array_equal(one[f"membrane/{name}"], expected.membrane[name])


def test_the_reference_evaluator_of_onnx_agrees() -> None:
    from onnx.reference import ReferenceEvaluator

    network, steps = everything(), 4
    inputs = np.random.default_rng(3).integers(-4, 5, (2, steps, 2, 4, 3)).astype(np.float32) / 4
    content = models_of(network, steps)[SEQUENCE]
    names = [output.name for output in session_of(content).get_outputs()]

    evaluated: Any = ReferenceEvaluator(onnx.load_from_string(content)).run(names, {"in": inputs})

    for name, values in run(content, {"in": inputs}).items():
        np.testing.assert_array_equal(values, evaluated[names.index(name)], err_msg=name)


def test_samples_do_not_hear_each_other() -> None:
    network, steps = everything(), 4
    inputs = np.random.default_rng(2).integers(-4, 5, (3, steps, 2, 4, 3)).astype(np.float32) / 4
    model = models_of(network, steps)[SEQUENCE]

    together = run(model, {"in": inputs})
    apart = [run(model, {"in": inputs[number : number + 1]}) for number in range(3)]

    for name, values in together.items():
        np.testing.assert_array_equal(values, np.concatenate([one[name] for one in apart]))


def test_the_models_are_the_same_bytes_every_time() -> None:
    assert models_of(everything(), 4) == models_of(everything(), 4)


@pytest.mark.parametrize("name", ["out", "spikes/out", "next/v/n", "step/n", "v/n"])
def test_layers_may_have_any_name(name: str) -> None:
    network = network_of(neuron(name), [[0.75]])

    found = shown_by(network, [[1], [1]])

    assert found["out"].tolist() == [0, 1]


# Real images, and weights that no float holds exactly


@pytest.fixture(scope="module")
def images() -> Values:
    """scikit-learn's test images, shown for 4 steps."""
    pytest.importorskip("sklearn")
    samples = load_samples("digits:test").inputs
    assert isinstance(samples, np.ndarray)
    return np.repeat(samples[:, :1], 4, axis=1).astype(np.float64)


@pytest.fixture(scope="module")
def classifier(lif: Callable[..., LIF], chain: Callable[..., Network]) -> Network:
    """A network of two convolutions for 8x8 images, with random weights."""
    generator = np.random.default_rng(0)
    nodes = {
        "conv1": Conv2d(generator.normal(size=(8, 1, 3, 3)), np.zeros(8), padding=(1, 1)),
        "lif1": lif((8, 8, 8), decay=0.7),
        "conv2": Conv2d(generator.normal(size=(8, 8, 3, 3)) / 3, np.full(8, 0.1), (2, 2), (1, 1)),
        "lif2": lif((8, 4, 4), decay=0.9, current_decay=0.3),
        "flatten": Flatten(),
        "fc": Dense(generator.normal(size=(10, 128)) / 8, generator.normal(size=10)),
    }
    return chain((1, 8, 8), nodes, input_range=InputRange(0, 1, 1 / 16))


def test_real_images_give_the_reference_within_rounding(
    classifier: Network, images: Values
) -> None:
    populations = assemble(classifier)

    found = run(models_of(populations, 4)[SEQUENCE], {"input": images.astype(np.float32)})

    expected = simulate_populations(populations, images)
    flips = sum(
        (found[f"spikes/{name}"] != spikes).reshape(len(images), -1).sum(1)
        for name, spikes in expected.spikes.items()
    )
    alike = flips == 0
    assert all(0.05 < spikes.mean() < 0.5 for spikes in expected.spikes.values())
    assert alike.mean() > 0.99
    assert np.abs(found["output"] - expected.output)[alike].max() < 1e-5
    for name, theirs in expected.membrane.items():
        off = np.abs(found[f"membrane/{name}"] - theirs) / np.maximum(1, np.abs(theirs))
        assert off[alike].max() < 1e-5


# As other tools read them


@pytest.fixture(scope="module")
def files(classifier: Network) -> Mapping[str, bytes]:
    """All models of a program."""
    options = CompileOptions(validate=False, real=True)
    return compile_network(classifier, find("onnx"), options).extra_files


def graphs_in(graph: Any) -> Iterator[Any]:
    """Yield a graph, and the graphs inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_in(attribute.g)


def look_at(content: bytes) -> None:
    """Check that a model has a name, a type, a shape and a use for everything."""
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    names: list[str] = []
    tensors: list[str] = []
    for graph in graphs_in(model.graph):
        known = {value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}
        for node in graph.node:
            names.append(node.name)
            assert node.domain == ""
            for tensor in node.output:
                tensors.append(tensor)
                kind = known[tensor].type.tensor_type
                assert kind.elem_type, tensor
                assert kind.HasField("shape"), tensor
                assert all(extent.dim_value or extent.dim_param for extent in kind.shape.dim), (
                    tensor
                )
        used = {name for node in graph.node for name in node.input}
        used |= {value.name for value in graph.output}
        used |= {name for inner in graphs_in(graph) for node in inner.node for name in node.input}
        made = {tensor for node in graph.node for tensor in node.output}
        assert {tensor for tensor in made - used if not tensor.startswith("last/")} == set()
        assert {constant.name for constant in graph.initializer} <= used
        assert graph.name
    assert all(names)
    assert len(set(names)) == len(names)
    assert len(set(tensors)) == len(tensors)
    assert {item.domain for item in model.opset_import} == {""}
    assert model.producer_name == "neurocompile"
    assert model.doc_string
    assert {"neurocompile", "inputs", "outputs", "runtime"} <= {p.key for p in model.metadata_props}


@pytest.mark.parametrize("file", FILES)
def test_a_viewer_finds_names_types_and_shapes_everywhere(
    files: Mapping[str, bytes], file: str
) -> None:
    look_at(files[file])


@pytest.mark.parametrize("file", [STEP, SEQUENCE])
@pytest.mark.parametrize(
    "changes",
    [
        {"refractory": 1, "most_spikes": 2},
        {"refractory": 1, "reset": "subtract"},
        {"most_spikes": None, "reset": "subtract", "comparison": ">="},
        {"most_spikes": 3, "decay": np.array(0.0)},
        {"start": np.array(0.5), "floor": np.array(0.0), "decay": np.array(1.0)},
    ],
)
def test_neurons_of_all_kinds_leave_nothing_unused(changes: Any, file: str) -> None:
    look_at(models_of(network_of(neuron("n", **changes)), 4)[file])


@pytest.mark.parametrize("file", [STEP, SEQUENCE])
def test_networks_of_all_kinds_leave_nothing_unused(file: str) -> None:
    look_at(models_of(everything(), 4)[file])


# The command


@pytest.fixture(scope="module")
def stored(classifier: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as a file."""
    path = tmp_path_factory.mktemp("stored") / "graph.nir"
    path.write_bytes(network_to_nir(classifier))
    return path


def test_float_is_written_beside_the_integers(stored: Path, images: Values, tmp_path: Path) -> None:
    command = ["export", str(stored), "--target", "onnx", "--no-validate"]

    assert main([*command, "--output", str(tmp_path / "integers")]) == 0
    assert main([*command, "--float", "--output", str(tmp_path / "both")]) == 0

    integers, both = load(tmp_path / "integers"), load(tmp_path / "both")
    assert {*both.extra_files} - {*integers.extra_files} == {STEP, SEQUENCE}
    with both:
        result = both.run(images[:20])
    real = run(both.extra_files[SEQUENCE], {"input": images[:20].astype(np.float32)})
    assert np.corrcoef(result.output.ravel(), real["output"].ravel())[0, 1] > 0.9


def test_a_target_without_real_numbers_refuses_float(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(stored), "--target", "fixedpoint", "--float"]

    code = main([*command, "--output", str(tmp_path / "program")])

    assert code == 2
    assert "has no form for networks in real numbers" in capsys.readouterr().err
    assert not (tmp_path / "program").exists()
