"""ONNX models of integers: standard, complete, small, and the same numbers as the definition."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import execute
from numpy.typing import NDArray

import neurocompile
from neurocompile.chips import for_spec
from neurocompile.data import Samples
from neurocompile.frontend.network_to_nir import network_to_nir
from neurocompile.integer import (
    Arithmetic,
    Geometry,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
    Trace,
    conv_output,
)
from neurocompile.ir import LIF, Conv2d, Dense, Flatten, Network
from neurocompile.limits import Limits
from neurocompile.passes.prove_ranges import bound_of
from neurocompile.passes.schedule import schedule
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program
from neurocompile.quantisation.recipe import Recipe
from neurocompile.target import find

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from neurocompile_onnx.lower import TARGET  # noqa: E402  # needs onnx
from neurocompile_onnx.models import make_models  # noqa: E402
from neurocompile_onnx.run import OnnxExecutor, session_options  # noqa: E402

FILES = ("step.onnx", "sequence.onnx", "trace.onnx")
MakeNeurons = Callable[..., IntegerNeurons]
OneLayer = Callable[..., IntegerNetwork]


def limits_of(arithmetic: Arithmetic) -> Limits:
    """Return limits with this arithmetic, for bounds that nothing is refused by."""
    return replace(
        TARGET.limits,
        decay_bits=arithmetic.decay_bits,
        fraction_bits=arithmetic.fraction_bits,
        current_bits=arithmetic.current_bits,
        state_maximum=arithmetic.membrane_end,
        rounding=arithmetic.rounding,
        current_overflow=arithmetic.current_overflow,
        membrane_overflow=arithmetic.membrane_overflow,
    )


def program_of(network: IntegerNetwork, *, steps: int, kernels: str = "integer") -> Program:
    """Return integers as a program, whatever their ranges, with its models."""
    bounds = tuple(
        bound_of(network, item, limits_of(item.arithmetic), steps=steps) for item in network.neurons
    )
    timing = schedule(network)
    options = {"kernels": kernels}
    program = Program("onnx", options, network, timing, bounds, steps, steps, {})
    return replace(program, extra_files=make_models(program, kernels))


def run_onnx(program: Program, payloads: dict[str, Integer], engine: str) -> Trace:
    from neurocompile_onnx.digest import digest_of

    executor = OnnxExecutor(program.network, program.extra_files, digest_of(program), engine)
    return executor.run(payloads, record=everything(program.network))


def everything(network: IntegerNetwork) -> list[str]:
    sent = [item.name for item in network.populations if item not in network.inputs]
    shown = {item.name for item in network.neurons if item.readout}
    return [name for name in sent if name not in shown] + [
        f"membrane/{item.name}" for item in network.neurons
    ]


def assert_same(network: IntegerNetwork, payloads: dict[str, Integer], **options: Any) -> Trace:
    """Run `network` by the definition, and by both engines; return what the definition did."""
    samples, steps = next(iter(payloads.values())).shape[:2]
    expected = execute(network, payloads, samples=samples, steps=steps, record=everything(network))
    program = program_of(network, steps=steps, **options)
    for engine in ("sequence", "step"):
        found = run_onnx(program, payloads, engine)
        for kind in ("outputs", "spikes", "membrane"):
            ours, theirs = getattr(found, kind), getattr(expected, kind)
            assert ours.keys() == theirs.keys()
            for name, values in theirs.items():
                np.testing.assert_array_equal(ours[name], values, err_msg=f"{engine} {kind} {name}")
                assert ours[name].dtype == values.dtype
    return expected


def integers(data: Any, label: str, least: int, most: int) -> int:
    found: int = data.draw(st.integers(least, most), label=label)
    return found


def choose(data: Any, label: str, *options: Any) -> Any:
    return data.draw(st.sampled_from(options), label=label)


# By hand


def test_a_neuron_by_hand(one_layer: OneLayer) -> None:
    """Weight 3, leak 1/2, threshold 4 weight units of 64: 192, then 96 + 192 = 288 > 256 and a reset."""
    network = one_layer([[3]], threshold=4)
    session = session_of(program_of(network, steps=3).extra_files["step.onnx"])
    one = np.ones((1, 1), np.uint8)
    v = np.zeros((1, 1), np.int32)

    told = []
    for _ in range(3):
        spikes, v = session.run(["spikes/out", "next/v/out"], {"in": one, "v/out": v})
        told.append((spikes.item(), v.item()))

    assert told == [(0, 192), (1, 0), (0, 192)]


def test_a_plain_neuron_takes_few_nodes(one_layer: OneLayer) -> None:
    model = onnx.load_from_string(
        program_of(one_layer([[6]], dv=2049, threshold=4), steps=3).extra_files["step.onnx"]
    )

    assert [node.op_type for node in model.graph.node] == [
        *("MatMulInteger", "Mul"),  # the sum, in state units
        *("Abs", "Mul", "Div", "Sign", "Mul"),  # what the leak leaves, rounded toward zero
        *("Add", "Greater", "Where", "Cast", "Identity"),  # the output is what the layer sends
    ]


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("most", [1, 3])
def test_a_membrane_at_its_threshold_by_hand(
    one_layer: OneLayer, most: int, *, inclusive: bool
) -> None:
    """The threshold of 4 fits once into 4, and into 8 twice, unless it has to be passed."""
    network = one_layer([[4, 4]], threshold=4, inclusive=inclusive, most=most, dv=4096)

    told = assert_same(network, {"in": np.array([[[1, 0], [1, 1]]])})

    at_once = min(most, 2 if inclusive else 1)
    assert told.spikes["out"].reshape(-1).tolist() == [int(inclusive), at_once]


def test_more_than_255_spikes_a_step_are_recorded(one_layer: OneLayer) -> None:
    """800 fits 799 times below 800; a byte would wrap to 31."""
    network = one_layer([[800]], threshold=1, most=1000, dv=4096, reset="subtract", subtracts=64)

    told = assert_same(network, {"in": np.ones((1, 1, 1), np.int64)})

    assert told.spikes["out"].item() == 799


def test_a_number_that_a_record_does_not_hold_ends_in_an_error() -> None:
    from neurocompile_onnx.run import _fitting

    from neurocompile.errors import ExecutionError

    with pytest.raises(ExecutionError, match=r"from 0 to 255, but .* from 31 to 300"):
        _fitting(np.array([31, 300]), np.zeros(2, np.uint8), "step.onnx")


# What the files are


@pytest.fixture(scope="module")
def network(lif: Callable[..., LIF], chain: Callable[..., Network]) -> Network:
    """160000 weights in four layers and a read-out."""
    generator = np.random.default_rng(5)

    def weights(*shape: int) -> NDArray[np.float64]:
        return generator.normal(size=shape) / math.sqrt(math.prod(shape[1:]))

    return chain(
        (1, 8, 8),
        {
            "conv1": Conv2d(weights(16, 1, 3, 3) * 4, np.zeros(16), padding=(1, 1)),
            "lif1": lif((16, 8, 8), decay=0.9),
            "conv2": Conv2d(weights(48, 16, 3, 3) * 4, np.zeros(48), padding=(1, 1)),
            "lif2": lif((48, 8, 8), decay=0.9),
            "conv3": Conv2d(weights(96, 48, 3, 3) * 4, np.zeros(96), stride=(2, 2)),
            "lif3": lif((96, 3, 3), decay=0.9),
            "flatten": Flatten(),
            "fc": Dense(weights(128, 864) * 4, np.zeros(128)),
            "lif4": lif((128,)),
            "readout": Dense(weights(10, 128), generator.normal(size=10)),
        },
        steps=4,
    )


@pytest.fixture(scope="module", params=["integer", "float"])
def program(network: Network, request: pytest.FixtureRequest) -> Iterator[Program]:
    options = CompileOptions(validate=False, target_options={"kernels": request.param})
    with compile_network(network, find("onnx"), options) as compiled:
        yield compiled


@pytest.fixture(scope="module", params=FILES)
def model(program: Program, request: pytest.FixtureRequest) -> Any:
    return onnx.load_from_string(program.extra_files[request.param])


def graphs_of(model: Any) -> list[Any]:
    """Return the graph of `model` and the bodies in it."""
    found = [model.graph]
    for node in model.graph.node:
        found += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found


def test_models_are_standard_and_complete(model: Any) -> None:
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)

    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert model.producer_name == "neurocompile"
    assert model.producer_version
    assert model.doc_string
    assert not model.functions
    for graph in graphs_of(model):
        assert {node.domain for node in graph.node} == {""}


def test_every_node_and_tensor_has_a_name_and_a_use(model: Any) -> None:
    nodes: list[str] = []
    tensors: list[str] = []
    for graph in graphs_of(model):
        outputs = [value.name for value in graph.output]
        made = [name for node in graph.node for name in node.output]
        used = {name for node in graph.node for name in node.input} | set(outputs)
        constants = [tensor.name for tensor in graph.initializer]
        inputs = [value.name for value in graph.input]
        scans = [name for node in graph.node if node.op_type == "Scan" for name in node.output]

        assert set(made) - set(scans) <= used  # the last states of a Scan have no use
        assert set(constants) <= used
        assert all(node.name for node in graph.node)
        assert all(made)
        nodes += [node.name for node in graph.node]
        tensors += made + constants + inputs
    assert len(set(nodes)) == len(nodes)
    assert len(set(tensors)) == len(tensors)
    assert {name.split("/")[0] for name in nodes} >= {"lif1", "lif2"} or any(
        name.startswith("step/lif1/") for name in nodes
    )


def test_all_tensors_have_types_and_shapes(model: Any) -> None:
    for graph in graphs_of(model):
        known = {value.name: value for value in (*graph.value_info, *graph.output, *graph.input)}
        for node in graph.node:
            for name in node.output:
                kind = known[name].type.tensor_type
                assert kind.elem_type
                assert kind.HasField("shape")
                if name not in [value.name for value in graph.output] and kind.shape.dim:
                    assert all(dim.dim_value or dim.dim_param for dim in kind.shape.dim), name


def test_a_model_is_as_large_as_its_integers(program: Program) -> None:
    held = sum(group.weight.size for group in program.network.synapses)  # all fit into int8
    assert held > 150_000
    for file in FILES:
        assert len(program.extra_files[file]) < 1.1 * held, file


@pytest.mark.parametrize("chip", ["loihi2", "core4"])
def test_models_of_the_preset_digits_are_within_a_tenth_of_their_weights(
    chip: str, lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    """88720 weights in four layers, each channel at a scale of its own; what is as long as in any network counts."""
    generator = np.random.default_rng(5)

    def conv(target: int, source: int, size: int, **more: Any) -> Conv2d:
        weight = generator.normal(size=(target, source, size, size)) / math.sqrt(source * size**2)
        return Conv2d(4 * weight, generator.normal(size=target) / 4, **more)

    network = chain(
        (1, 8, 8),
        {
            "conv1": conv(16, 1, 3, padding=(1, 1)),
            "lif1": lif((16, 8, 8), decay=0.5),
            "conv2": conv(32, 16, 3, padding=(1, 1)),
            "lif2": lif((32, 8, 8), decay=0.5),
            "conv3": conv(64, 32, 6, stride=(2, 2), padding=(2, 2)),
            "lif3": lif((64, 4, 4), decay=0.5),
            "flatten": Flatten(),
            "readout": Dense(generator.normal(size=(10, 1024)) / 9, generator.normal(size=10)),
        },
        steps=4,
    )
    target = for_spec(TARGET, chip)
    recipe = Recipe(target.limits.weight_bits, scales="channel")
    options = CompileOptions(validate=False, recipe=recipe)

    with compile_network(network, target, options) as program:
        sizes = {name: len(program.extra_files[name]) for name in FILES}

    held = sum(group.weight.size for group in program.network.synapses)
    assert held == 88_720
    assert sizes["step.onnx"] < 1.1 * held
    assert sizes["sequence.onnx"] < 1.1 * held
    assert sizes["trace.onnx"] < 1.13 * held


def test_a_weight_is_stored_in_a_byte(model: Any, program: Program) -> None:
    """As int8, or by a zero point of 128 as uint8, which is all that ConvInteger takes in older runtimes."""
    stored = [
        onnx.numpy_helper.to_array(tensor)
        for graph in graphs_of(model)
        for tensor in graph.initializer
        if np.prod(tensor.dims) > 140
    ]

    assert len(stored) == 5
    by_zero_point = program.options["kernels"] == "integer"
    assert {array.dtype.name for array in stored if array.ndim == 2} == {"int8"}
    assert {array.dtype.name for array in stored if array.ndim == 4} == {
        "uint8" if by_zero_point else "int8"
    }


def test_metadata_say_how_to_use_a_model(program: Program) -> None:
    """With the metadata alone, numpy and ONNX Runtime, to the logits."""
    file = program.extra_files["step.onnx"]
    session = session_of(file)
    interface = json.loads(session.get_modelmeta().custom_metadata_map["neurocompile"])
    inputs = np.random.default_rng(3).integers(0, 2, (5, 4, 1, 8, 8)).astype(np.float64)

    (told,) = interface["inputs"].values()
    (output,) = interface["outputs"].values()
    states = {
        state["tensor"]: np.full((5, *state["shape"]), state["initial"], state["type"])
        for state in interface["states"]
    }
    logits = []
    for step in range(4):
        payload = np.rint(inputs[:, step] * told["scale"]).astype(np.uint8)
        wanted = [output["tensor"], *(state["next"] for state in interface["states"])]
        numbers, *following = session.run(wanted, {told["tensor"]: payload, **states})
        states = dict(zip(states, following, strict=True))
        logits.append(numbers / np.array(output["scale"]) + np.array(output["origin"]))

    np.testing.assert_array_equal(np.stack(logits, 1), program.run(inputs, on="fixedpoint").output)
    assert interface["steps"] == 4


@pytest.mark.parametrize("level", ["DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"])
def test_optimisations_change_no_integer(program: Program, level: str) -> None:
    inputs = np.random.default_rng(7).integers(0, 2, (6, 4, 1, 8, 8))
    options = session_options()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    session = onnxruntime.InferenceSession(program.extra_files["trace.onnx"], options)

    wanted = [value.name for value in session.get_outputs()]
    (name,) = (value.name for value in session.get_inputs())
    found = dict(zip(wanted, session.run(None, {name: inputs.astype(np.uint8)}), strict=True))

    expected = program.run(inputs, "all", on="fixedpoint")
    for layer, spikes in expected.spikes.items():
        np.testing.assert_array_equal(found[f"spikes/{layer}"], spikes)
    (output,) = expected.trace.outputs
    np.testing.assert_array_equal(found[output], expected.trace.outputs[output])


def test_batches_and_samples_may_have_any_size(program: Program) -> None:
    session = session_of(program.extra_files["sequence.onnx"])
    (value,) = session.get_inputs()
    inputs = np.random.default_rng(7).integers(0, 2, (5, 4, 1, 8, 8), np.uint8)

    (whole,) = session.run(None, {value.name: inputs})
    (part,) = session.run(None, {value.name: inputs[2:4, :3]})

    assert value.shape == ["batch", "steps", 1, 8, 8]
    np.testing.assert_array_equal(part, whole[2:4, :3])


# Sums


@settings(max_examples=60, phases=[Phase.generate])
@given(data=st.data())
def test_sums_of_any_width_are_exact(data: Any, integer_neurons: MakeNeurons) -> None:
    """Weights and values of one to three bytes, with and without signs; every geometry, shift and delay."""
    generator = np.random.default_rng(integers(data, "seed", 0, 2**32 - 1))
    low, high = choose(
        data, "values", (0, 1), (0, 255), (-3, 100), (-128, 127), (0, 300), (-129, 5), (-70000, 99)
    )
    least, most = choose(
        data, "weights", (-254, 254), (0, 255), (0, 60000), (-257, 3), (-40000, 40000), (0, 0)
    )
    step = choose(data, "weight step", 1, 2, 3)
    dense = choose(data, "dense", False, True)
    channels, groups = choose(data, "groups", (2, 1), (2, 2), (4, 2))
    shape = (channels, 5, 4)
    geometry = None
    if dense:
        weight = generator.integers(least, most + 1, (6, math.prod(shape)))
        target: tuple[int, ...] = (6,)
    else:
        kernel = (integers(data, "height", 1, 3), integers(data, "width", 1, 3))
        geometry = Geometry(
            choose(data, "stride", (1, 1), (2, 1)),
            choose(data, "padding", (0, 0), (1, 2)),
            choose(data, "dilation", (1, 1), (1, 2)),
            groups,
        )
        size = (
            conv_output(*each)
            for each in zip(
                shape[1:],
                kernel,
                geometry.stride,
                geometry.padding,
                geometry.dilation,
                strict=True,
            )
        )
        weight = generator.integers(least, most + 1, (4, channels // groups, *kernel))
        target = (4, *size)
        if 0 in target:
            return
    weight = weight // step * step
    exponent = integers(data, "exponent", -9, 3)
    delay: Any = choose(data, "delay", 0, 1, "by neuron", "by synapse")
    if delay == "by neuron" or (delay == "by synapse" and not dense):
        delay = generator.integers(0, 5, shape)
    elif delay == "by synapse":
        delay = generator.integers(0, 5, weight.shape)
    readout = integer_neurons(
        "out", target, shows="input", arithmetic=Arithmetic(current_bits=32, membrane_bits=32)
    )
    network = IntegerNetwork(
        (IntegerInput("in", shape, 1.0, low, high, exact=True), readout),
        (
            IntegerSynapses(
                "w",
                "in",
                "out",
                weight,
                geometry,
                exponent,
                np.asarray(delay),
                on_host=choose(data, "host", False, True),
            ),
        ),
        {"logits": "out"},
    )
    payloads = {"in": generator.integers(low, high + 1, (3, 4, *shape))}
    payloads["in"][0] = choose(data, "extreme", low, high)

    samples, steps = payloads["in"].shape[:2]
    expected = execute(network, payloads, samples=samples, steps=steps)
    program = program_of(network, steps=steps, kernels=choose(data, "kernels", "integer", "float"))
    for file, engine in (("sequence.onnx", "sequence"), ("step.onnx", "step")):
        assert file in program.extra_files
        found = run_outputs(program, payloads, engine)
        np.testing.assert_array_equal(found["logits"], expected.outputs["logits"])


def run_outputs(program: Program, payloads: dict[str, Integer], engine: str) -> dict[str, Integer]:
    from neurocompile_onnx.digest import digest_of

    executor = OnnxExecutor(program.network, program.extra_files, digest_of(program), engine)
    return executor.run(payloads).outputs


def test_weights_of_bytes_that_could_saturate_are_unsigned(one_layer: OneLayer) -> None:
    """127 * 255 twice is beyond 16 bits, in which uint8 times int8 may be added: uint8 times uint8 is not."""
    spikes = one_layer([[127, -127], [126, 1]], maximum=1)
    graded = one_layer([[127, -127], [126, 1]], maximum=255)

    types = [
        {
            onnx.numpy_helper.to_array(tensor).dtype
            for tensor in onnx.load_from_string(
                program_of(item, steps=2).extra_files["step.onnx"]
            ).graph.initializer
            if len(tensor.dims) == 2
        }
        for item in (spikes, graded)
    ]

    assert types == [{np.dtype(np.int8)}, {np.dtype(np.uint8)}]
    assert_same(graded, {"in": np.array([[[255, 0], [0, 255]]])})


@pytest.mark.parametrize("largest", [32766, 32767])
def test_float_kernels_are_for_sums_below_2_to_24(
    largest: int, integer_neurons: MakeNeurons
) -> None:
    """2 * 300 * 32767 is above 2^24: there float32 keeps even numbers only."""
    readout = integer_neurons(
        "out",
        (1,),
        shows="input",
        arithmetic=Arithmetic(fraction_bits=0, current_bits=32, membrane_bits=32),
    )
    weight = np.array([[largest, largest - 1, 1]])
    network = IntegerNetwork(
        (IntegerInput("in", (3,), 1.0, 0, 300, exact=True), readout),
        (IntegerSynapses("w", "in", "out", weight, on_host=True),),
        {"out": "out"},
    )

    payloads = {"in": np.array([[[300, 299, 1], [299, 300, 300]]])}

    found = run_outputs(program_of(network, steps=2, kernels="float"), payloads, "sequence")

    assert found["out"].tolist() == (payloads["in"] @ weight.T).tolist()


@pytest.mark.parametrize("on_host", [False, True])
def test_the_most_negative_sum_is_shifted_down(
    integer_neurons: MakeNeurons, *, on_host: bool
) -> None:
    """-1000 / 16 is -62.5: -63 rounded down, -62 to the nearest."""
    network = IntegerNetwork(
        (
            IntegerInput("in", (1,), 1.0, 0, 1, exact=True),
            integer_neurons("out", (1,), shows="input"),
        ),
        (IntegerSynapses("w", "in", "out", np.array([[-1000]]), exponent=-4, on_host=on_host),),
        {"out": "out"},
    )

    told = assert_same(network, {"in": np.ones((1, 1, 1), np.int64)})

    assert told.outputs["out"].item() == (-62 if on_host else -63) * 64


def test_weights_of_two_bytes_are_two_products(one_layer: OneLayer) -> None:
    network = one_layer([[1000, -3, 7]], threshold=131000)
    model = onnx.load_from_string(program_of(network, steps=2).extra_files["step.onnx"])

    products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]

    assert len(products) == 2
    expected = assert_same(network, {"in": np.array([[[1, 1, 1], [1, 0, 0]]])})
    assert expected.membrane["out"].tolist() == [[[1004 * 64], [502 * 64 + 64000]]]


def test_sums_beyond_32_bits_are_refused(one_layer: OneLayer) -> None:
    """34000 inputs of up to 255, by weights of up to 255: the product of bytes would wrap."""
    network = one_layer(np.full((1, 34000), 255) - np.arange(34000) % 2, maximum=255)
    bound = bound_of(network, network.neurons[0], TARGET.limits, steps=1)
    program = Program("onnx", {}, network, schedule(network), (bound,), 1, 1, {})

    problems = TARGET.check(program)

    assert problems[0].layer == "w"
    assert "needs sums of bytes up to 2147483647" in str(problems[0])
    assert any("currents" in str(problem) for problem in problems)


# Neurons


@settings(max_examples=150, phases=[Phase.generate])
@given(data=st.data())
def test_neurons_of_any_kind_step_as_the_definition(
    data: Any, integer_neurons: MakeNeurons
) -> None:
    """All kinds of resets and arithmetics, in range or not: saturating, wrapping, floored, resting."""
    generator = np.random.default_rng(integers(data, "seed", 0, 2**32 - 1))
    arithmetic = choose(
        data,
        "arithmetic",
        Arithmetic(),
        Arithmetic(),
        Arithmetic(rounding="down"),
        Arithmetic(rounding="nearest", decay_bits=8),
        Arithmetic(
            fraction_bits=0,
            decay_bits=6,
            current_bits=16,
            membrane_bits=16,
            current_overflow="saturate",
        ),
        Arithmetic(
            fraction_bits=2,
            decay_bits=7,
            current_bits=16,
            membrane_bits=12,
            rounding="nearest",
            membrane_overflow="wrap",
        ),
    )
    one = arithmetic.decay_one
    shape = (2, 3)

    def numbers(label: str, least: int, most: int) -> Integer:
        size: Any = choose(data, f"{label} for", (), (2, 1), shape)
        return np.asarray(generator.integers(least, most + 1, size))

    most = choose(data, "most", 1, 1, 3, 300)
    threshold = numbers("threshold", 1, choose(data, "largest threshold", 50, 2000))
    reset = choose(data, "reset", "zero", "subtract")
    subtracts = threshold * arithmetic.state_units
    if choose(data, "subtracts its own", False, True):
        subtracts = generator.integers(1, 1 + int(subtracts.max()), shape)
    end = arithmetic.membrane_end
    neurons = integer_neurons(
        "n",
        shape,
        du=choose(data, "du", np.asarray(one - 1), numbers("du", 0, one - 1)),
        dv=choose(data, "dv", np.asarray(0), np.asarray(one), numbers("dv", 0, one)),
        threshold=threshold,
        bias_mantissa=choose(data, "bias", np.asarray(0), numbers("bias", -60, 60)),
        bias_exponent=integers(data, "bias exponent", 0, 3),
        reset=reset,
        subtracts=subtracts,
        most=most,
        inclusive=choose(data, "inclusive", False, True),
        refractory=choose(data, "refractory", 0, 0, 2),
        floor=choose(data, "floor", np.asarray(-end), numbers("floor", -end // 4, 0)),
        start=choose(data, "start", np.asarray(0), numbers("start", -9, 9))
        * arithmetic.state_units,
        pulse=choose(data, "pulse", np.asarray(0), numbers("pulse", -9, 9)),
        saturates=True,
        arithmetic=arithmetic,
    )
    wide = choose(data, "wide", False, True)
    largest = min(4 * end >> arithmetic.fraction_bits, 120_000) if wide else 90
    weight = np.diag(generator.integers(-largest, largest + 1, 6))
    network = IntegerNetwork(
        (IntegerInput("in", shape, 1.0, 0, 1, exact=True), neurons),
        (IntegerSynapses("w", "in", "n", weight),),
        {"out": "n"},
    )

    assert_same(network, {"in": generator.integers(0, 2, (4, 12, *shape))})


@settings(max_examples=30, phases=[Phase.generate])
@given(data=st.data())
def test_relays_feedback_and_several_inputs(data: Any, integer_neurons: MakeNeurons) -> None:
    generator = np.random.default_rng(integers(data, "seed", 0, 2**32 - 1))
    late = integers(data, "late", 1, 6)
    network = IntegerNetwork(
        (
            IntegerInput("a", (3,), 1.0, 0, 1, exact=True),
            IntegerInput("b", (2, 2), 1.0, -4, 4, exact=True),
            integer_neurons("one", (4,), threshold=20),
            integer_neurons("two", (4,), threshold=10, most=choose(data, "most", 1, 5)),
            IntegerRelay("sum", (4,), 6),
            integer_neurons("alone", (2,), threshold=1, bias_mantissa=1, bias_exponent=6),
            integer_neurons("read", (2,), threshold=131071, shows="membrane"),
        ),
        (
            IntegerSynapses("a1", "a", "one", generator.integers(-20, 40, (4, 3))),
            IntegerSynapses("b1", "b", "one", generator.integers(-9, 9, (4, 4))),
            IntegerSynapses("12", "one", "two", generator.integers(0, 30, (4, 4))),
            IntegerSynapses(
                "21", "two", "one", generator.integers(-30, 9, (4, 4)), delay=np.asarray(late)
            ),
            IntegerSynapses("11", "one", "one", np.diag([9] * 4), delay=np.asarray(1)),
            IntegerSynapses("1s", "one", "sum", np.eye(4, dtype=np.int64)),
            IntegerSynapses("2s", "two", "sum", np.eye(4, dtype=np.int64)),
            IntegerSynapses("sr", "sum", "read", generator.integers(-9, 9, (2, 4))),
        ),
        {"logits": "read", "again": "read", "spikes": "two", "x": "alone"},
    )

    expected = assert_same(
        network,
        {"a": generator.integers(0, 2, (3, 7, 3)), "b": generator.integers(-4, 5, (3, 7, 2, 2))},
    )

    assert expected.spikes["alone"].any()


def test_names_that_meet_are_told_apart(integer_neurons: MakeNeurons) -> None:
    """An output that is called as an input, and layers that are called as our own tensors."""
    network = IntegerNetwork(
        (
            IntegerInput("x", (1,), 1.0, 0, 1, exact=True),
            integer_neurons("v/x", threshold=2),
            integer_neurons("step/x", threshold=2),
            integer_neurons("x/x", threshold=2),
        ),
        (
            IntegerSynapses("v/v/x", "x", "v/x", np.array([[3]])),
            IntegerSynapses("next/v/x", "v/x", "step/x", np.array([[3]])),
            IntegerSynapses("x", "step/x", "x/x", np.array([[3]])),
        ),
        {"x": "x/x", "v/v/x": "v/x", "spikes/v/x": "step/x"},
    )

    expected = assert_same(network, {"x": np.ones((1, 3, 1), np.int64)})

    assert expected.outputs["x"].any()


def test_the_reference_evaluator_agrees(integer_neurons: MakeNeurons) -> None:
    """ONNX's own implementation in numpy, of a step and of whole sequences."""
    from onnx.reference import ReferenceEvaluator

    generator = np.random.default_rng(11)
    network = IntegerNetwork(
        (
            IntegerInput("in", (2, 5, 4), 1.0, -3, 90, exact=True),
            integer_neurons("conv", (3, 5, 4), dv=409, threshold=90, pulse=[[[4]], [[0]], [[-7]]]),
            integer_neurons(
                "fc", (4,), du=1000, dv=300, most=4, reset="subtract", refractory=1, start=640
            ),
            integer_neurons("read", (2,), dv=1, threshold=131071, shows="membrane"),
        ),
        (
            IntegerSynapses(
                "w1",
                "in",
                "conv",
                generator.integers(-9, 9, (3, 2, 3, 3)),
                Geometry(padding=(1, 1)),
                exponent=-2,
                on_host=True,
            ),
            IntegerSynapses("w2", "conv", "fc", 2 * generator.integers(-90, 99, (4, 60))),
            IntegerSynapses(
                "back",
                "fc",
                "fc",
                generator.integers(-300, 9, (4, 4)),
                delay=generator.integers(1, 4, (4, 4)),
            ),
            IntegerSynapses(
                "w3", "fc", "read", generator.integers(-9, 9, (2, 4)), delay=np.array([0, 1, 2, 1])
            ),
        ),
        {"logits": "read"},
    )
    payloads = {"in": generator.integers(-3, 91, (2, 5, 2, 5, 4))}
    expected = assert_same(network, payloads)

    for kernels in ("integer", "float"):
        program = program_of(network, steps=5, kernels=kernels)
        evaluator = ReferenceEvaluator(onnx.load_from_string(program.extra_files["trace.onnx"]))
        names = evaluator.output_names
        told = dict(
            zip(names, evaluator.run(None, {"in": payloads["in"].astype(np.int8)}), strict=True)
        )
        step: Any = ReferenceEvaluator(onnx.load_from_string(program.extra_files["step.onnx"]))
        first = step.run(
            ["next/v/fc"],
            {
                "in": payloads["in"][:, 0].astype(np.int8),
                **{
                    name: np.full(
                        (2, *(dim.dim_value for dim in kind.tensor_type.shape.dim[1:])),
                        int(name.startswith("first/")),
                        onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type),
                    )
                    for name, kind in zip(step.input_names, step.input_types, strict=True)
                    if name != "in"
                },
            },
        )[0]

        np.testing.assert_array_equal(told["logits"], expected.outputs["logits"])
        for layer in ("conv", "fc"):
            np.testing.assert_array_equal(told[f"spikes/{layer}"], expected.spikes[layer])
            np.testing.assert_array_equal(told[f"membrane/{layer}"], expected.membrane[layer])
            assert expected.spikes[layer].any()
        np.testing.assert_array_equal(first, expected.membrane["fc"][:, 0])


@pytest.mark.parametrize("chip", ["core16", "core4"])
def test_models_compute_as_other_chips_do(
    chip: str, lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    """With their rounding, widths and overflow, as `fixedpoint` does for the same chip."""
    generator = np.random.default_rng(4)
    network = chain(
        (6,),
        {
            "fc1": Dense(generator.normal(size=(20, 6)), generator.normal(size=20) / 4),
            "lif1": lif((20,), decay=0.75),
            "fc2": Dense(generator.normal(size=(8, 20)) / 2, np.zeros(8)),
            "lif2": lif((8,), decay=0.75),
            "fc3": Dense(generator.normal(size=(3, 8)) / 2, np.zeros(3)),
        },
        steps=6,
    )
    inputs = generator.integers(0, 2, (9, 6, 6))
    record = ["all", "membrane/lif1", "membrane/lif2"]

    target = for_spec(TARGET, chip)
    options = CompileOptions(recipe=Recipe(target.limits.weight_bits))
    with compile_network(network, target, options) as program:
        ours = program.run(inputs, record)
        theirs = program.run(inputs, record, on="fixedpoint")

    assert program.network.neurons[0].arithmetic != Arithmetic()
    np.testing.assert_array_equal(ours.output, theirs.output)
    for layer in ("lif1", "lif2"):
        assert theirs.spikes[layer].any()
        np.testing.assert_array_equal(ours.spikes[layer], theirs.spikes[layer])
        np.testing.assert_array_equal(ours.membrane[layer], theirs.membrane[layer])


# Running


def session_of(model: bytes) -> Any:
    return onnxruntime.InferenceSession(model, session_options())


@pytest.mark.parametrize("engine", ["sequence", "step"])
def test_samples_run_in_parts(
    program: Program, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurocompile_onnx import run

    inputs = np.random.default_rng(2).integers(0, 2, (5, 4, 1, 8, 8))
    whole = program.run(inputs, "all", on=f"onnx:{engine}")
    monkeypatch.setattr(run, "BYTES_AT_ONCE", 1 << 18)
    monkeypatch.setattr(run, "SAMPLES_AT_ONCE", 2)
    seen: list[tuple[int, int]] = []

    parts = program.run(
        inputs, "all", on=f"onnx:{engine}", progress=lambda done, of: seen.append((done, of))
    )

    assert seen[-1] == (5, 5)
    assert len(seen) > 2
    np.testing.assert_array_equal(parts.output, whole.output)
    np.testing.assert_array_equal(parts.spikes["lif2"], whole.spikes["lif2"])


def test_threads_are_as_many_as_omp_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    assert session_options().intra_op_num_threads == 3


def test_more_threads_than_any_machine_has_are_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "99999999999")

    assert session_options().intra_op_num_threads == 1024


def test_an_onnx_runtime_that_reads_other_files_is_refused(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurocompile_onnx import run

    from neurocompile.errors import MissingDependencyError

    monkeypatch.setattr(onnxruntime, "__version__", "1.21.1")
    monkeypatch.setattr(run, "version", lambda _name: "1.21.1")

    with pytest.raises(MissingDependencyError, match=r"1\.22 or newer.*1\.21\.1 is installed"):
        TARGET.open(program)
    assert TARGET.availability().detail == "ONNX Runtime 1.21.1 is too old"
    assert not TARGET.availability().ready


def test_a_check_tells_that_an_export_would_need_onnx(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurocompile_onnx import lower

    from neurocompile.checks.check_source import check_network

    assert check_network(network, TARGET, CompileOptions(validate=False)).ok

    monkeypatch.setattr(lower, "find_spec", lambda _name: None)
    report = check_network(network, TARGET, CompileOptions(validate=False))

    assert not report.ok
    assert "the target 'onnx' needs the package onnx" in str(report.problems[0].problem)


def test_a_digest_does_not_depend_on_the_machine(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zip files say on what they were made."""
    from neurocompile_onnx.digest import digest_of

    here = digest_of(program)
    monkeypatch.setattr(sys, "platform", "win32" if sys.platform != "win32" else "linux")

    assert digest_of(program) == here


def test_what_is_missing_is_named(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurocompile_onnx import lower, run

    from neurocompile.errors import MissingDependencyError

    monkeypatch.setattr(lower, "find_spec", lambda _name: None)
    monkeypatch.setattr(run, "find_spec", lambda _name: None)

    with pytest.raises(MissingDependencyError, match=r"needs the package onnx.*neurocompile\[onnx"):
        TARGET.lower(program)
    with pytest.raises(MissingDependencyError, match=r"needs ONNX Runtime.*neurocompile\[onnx"):
        TARGET.open(program)
    assert not TARGET.availability().ready
    assert TARGET.availability().remedy == "pip install 'neurocompile[onnx]'"


def test_running_needs_no_onnx_and_listing_targets_neither(
    program: Program, tmp_path: Path
) -> None:
    """In a process of its own, in which nothing but ONNX Runtime and numpy may be imported."""
    program.save(tmp_path / "program")
    script = """
import sys
for name in ("onnx", "torch", "nir"):
    sys.modules[name] = None
from neurocompile.target import find, installed
assert "onnxruntime" not in sys.modules
assert find("onnx").availability().ready
assert "onnxruntime" not in sys.modules
import numpy as np
from neurocompile.program import load
program = load(sys.argv[1])
inputs = np.random.default_rng(0).integers(0, 2, (3, 4, 1, 8, 8))
same = program.run(inputs).output == program.run(inputs, on="fixedpoint:definition").output
assert same.all()
"""

    subprocess.run([sys.executable, "-c", script, str(tmp_path / "program")], check=True)


# Files that are not what they should be


def test_a_model_of_other_integers_is_refused(program: Program) -> None:
    from neurocompile.errors import ProgramFormatError

    first = program.network.synapses[0]
    other = replace(
        program.network,
        synapses=(replace(first, weight=-first.weight), *program.network.synapses[1:]),
    )
    changed = replace(program, network=other)

    with pytest.raises(ProgramFormatError, match="not its own .it was made from other integers"):
        changed.run(np.zeros((1, 4, 1, 8, 8)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the program has no 'sequence.onnx'"),
        (b"no model", "cannot load the program's 'sequence.onnx'"),
        (b"", "cannot load the program's 'sequence.onnx'"),
    ],
)
def test_a_damaged_model_is_refused(program: Program, content: bytes | None, message: str) -> None:
    from neurocompile.errors import ProgramFormatError

    files = {name: held for name, held in program.extra_files.items() if name != "sequence.onnx"}
    if content is not None:
        files["sequence.onnx"] = content

    with pytest.raises(ProgramFormatError, match=message):
        replace(program, extra_files=files).run(np.zeros((1, 4, 1, 8, 8)))


def changed_interface(program: Program, change: Callable[[dict[str, Any]], None]) -> Program:
    model = onnx.load_from_string(program.extra_files["step.onnx"])
    (entry,) = (entry for entry in model.metadata_props if entry.key == "neurocompile")
    interface = json.loads(entry.value)
    change(interface)
    entry.value = json.dumps(interface)
    files = {**program.extra_files, "step.onnx": model.SerializeToString()}
    return replace(program, extra_files=files)


@pytest.mark.parametrize(
    "change",
    [
        lambda interface: interface["states"][0].update(shape=[1 << 40]),
        lambda interface: interface["states"][0].update(shape=[-1]),
        lambda interface: interface["states"][0].update(type="object"),
        lambda interface: interface["states"][0].update(initial="x"),
        lambda interface: interface["states"][0].pop("next"),
        lambda interface: interface["outputs"].clear(),
        lambda interface: interface["inputs"]["input"].update(tensor=5),
        lambda interface: interface.update(version=99),
        lambda interface: interface.update(states=7),
    ],
)
def test_metadata_that_do_not_fit_are_refused(
    program: Program, change: Callable[[dict[str, Any]], None]
) -> None:
    from neurocompile.errors import ProgramFormatError

    damaged = changed_interface(program, change)

    with pytest.raises(ProgramFormatError, match="'step.onnx' is not its own"):
        damaged.run(np.zeros((1, 4, 1, 8, 8)), on="onnx:step")


@pytest.mark.parametrize(
    "change",
    [
        lambda interface: interface["states"][0].update(tensor="nothing"),
        lambda interface: interface["states"][0].update(shape=[3]),
        lambda interface: next(iter(interface["outputs"].values())).update(tensor="spikes/lif1"),
    ],
)
def test_a_model_that_is_not_what_it_says_ends_in_an_error(
    program: Program, change: Callable[[dict[str, Any]], None]
) -> None:
    from neurocompile.errors import ExecutionError

    damaged = changed_interface(program, change)

    with pytest.raises(ExecutionError, match="step.onnx"):
        damaged.run(np.zeros((1, 4, 1, 8, 8)), on="onnx:step")


def test_a_model_cannot_read_files_of_this_machine(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights may be in other files, by the standard; in programs they are not."""
    from neurocompile.errors import ProgramFormatError

    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    model = onnx.load_from_string(program.extra_files["step.onnx"])
    tensor = max(model.graph.initializer, key=lambda held: np.prod(held.dims))
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "secret"), ("offset", "0"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    files = {**program.extra_files, "step.onnx": model.SerializeToString()}

    with pytest.raises(ProgramFormatError, match="cannot load the program's 'step.onnx'"):
        replace(program, extra_files=files).run(np.zeros((1, 4, 1, 8, 8)), on="onnx:step")


def loop_without_end() -> Any:
    """Return a model that counts to 2^62."""
    helper, kinds = onnx.helper, onnx.TensorProto
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"], name="on"),
            helper.make_node("Add", ["sum", "many"], ["more"], name="more"),
        ],
        "body",
        [
            helper.make_tensor_value_info("k", kinds.INT64, []),
            helper.make_tensor_value_info("go", kinds.BOOL, []),
            helper.make_tensor_value_info("sum", kinds.INT64, []),
        ],
        [
            helper.make_tensor_value_info("on", kinds.BOOL, []),
            helper.make_tensor_value_info("more", kinds.INT64, []),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["many", "", "x"], ["y"], name="loop", body=body)],
        "graph",
        [helper.make_tensor_value_info("x", kinds.INT64, [])],
        [helper.make_tensor_value_info("y", kinds.INT64, [])],
        [onnx.numpy_helper.from_array(np.array(1 << 62), "many")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_takes_too_long_is_ended() -> None:
    from neurocompile_onnx.run import Clock, Session

    from neurocompile.errors import DeadlineError

    session = Session("loop", session_of(loop_without_end().SerializeToString()), {})

    with (
        Clock.until(0.05) as clock,
        pytest.raises(DeadlineError, match="did not finish before the deadline"),
    ):
        session.run(["y"], {"x": np.array(0)}, clock)


def with_a_node(program: Program, **changes: Any) -> Any:
    model = onnx.load_from_string(program.extra_files["sequence.onnx"])
    node = model.graph.node.add()
    node.CopyFrom(model.graph.node[0])
    for name, value in changes.items():
        setattr(node, name, value)
    return model


def test_operators_that_no_program_has_are_refused(program: Program) -> None:
    """Before ONNX Runtime gets them: loops, graphs in graphs, other domains and functions."""
    from neurocompile.errors import ProgramFormatError

    function = onnx.load_from_string(program.extra_files["sequence.onnx"])
    function.functions.add(name="f")
    nested = onnx.load_from_string(program.extra_files["sequence.onnx"])
    (scan,) = (node for node in nested.graph.node if node.op_type == "Scan")
    (body,) = (attribute.g for attribute in scan.attribute if attribute.HasField("g"))
    body.node.append(onnx.NodeProto.FromString(scan.SerializeToString()))
    for model, message in (
        (loop_without_end(), "it has the operator 'Loop'"),
        (with_a_node(program, op_type="While"), "it has the operator 'While'"),
        (with_a_node(program, domain="com.microsoft"), "operators of another domain"),
        (function, "it has functions"),
        (nested, "inside a"),
    ):
        files = {**program.extra_files, "sequence.onnx": model.SerializeToString()}

        with pytest.raises(ProgramFormatError, match=message):
            replace(program, extra_files=files).run(np.zeros((1, 4, 1, 8, 8)))


def test_operators_are_read_from_the_bytes_as_onnx_reads_them(program: Program) -> None:
    from neurocompile_onnx.operators import problem_of

    content = program.extra_files["sequence.onnx"]

    assert [problem_of(program.extra_files[file]) for file in FILES] == ["", "", ""]
    assert problem_of(content[:-5]) == "it is no ONNX model"
    assert problem_of(bytes([0x3A, *[0xFF] * 11])) == "it is no ONNX model"
    assert problem_of(content + loop_without_end().SerializeToString()).endswith("'Loop'")


def test_nothing_is_printed_of_a_damaged_model(
    program: Program, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime cannot say what is wrong with a name that is no text, and would try again aloud."""
    from neurocompile.errors import ProgramFormatError

    content = program.extra_files["sequence.onnx"].replace(b"lif1/", b"lif\xff/", 1)
    files = {**program.extra_files, "sequence.onnx": content}

    with pytest.raises(ProgramFormatError):
        replace(program, extra_files=files).run(np.zeros((1, 4, 1, 8, 8)))

    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("file", "candidate"), [("sequence.onnx", "onnx:sequence"), ("step.onnx", "onnx:step")]
)
def test_verify_finds_a_model_that_was_changed(
    file: str, candidate: str, network: Network, tmp_path: Path
) -> None:
    """Weights were negated, and the digest kept: nothing but running the model can tell."""
    path = tmp_path / "graph.nir"
    path.write_bytes(network_to_nir(network))
    samples = Samples(np.random.default_rng(2).integers(0, 2, (3, 4, 1, 8, 8)).astype(float), None)
    with neurocompile.export(path, target="onnx", validate=False) as program:
        sound = neurocompile.verify(program, data=samples)
    model = onnx.load_from_string(program.extra_files[file])
    for graph in graphs_of(model):
        for tensor in graph.initializer:
            if len(tensor.dims) == 2:
                weight = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(-weight, tensor.name))
    files = {**program.extra_files, file: model.SerializeToString()}
    with replace(program, extra_files=files) as changed:
        report = neurocompile.verify(changed, data=samples)
        alone = neurocompile.verify(changed, data=samples, against=[candidate])

    pairs = [(item.reference, item.candidate) for item in sound.comparisons if item.must_match]
    assert pairs == [("fixedpoint", "onnx"), ("onnx", "onnx:sequence"), ("onnx", "onnx:step")]
    assert not sound.failed
    assert report.failed
    assert [item.candidate for item in report.comparisons if item.failed] == [candidate]
    assert [item.candidate for item in alone.comparisons] == [candidate]
    assert alone.failed
    assert alone.overall is alone.comparisons[0]
