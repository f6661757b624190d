"""What `.net` files mean: layer by layer, by hand; other kinds and damaged files are refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from neurocompile.errors import NetxFormatError, OptionError, UnsupportedError
from neurocompile.frontend.from_netx import from_netx
from neurocompile.frontend.read_netx import NetxFile
from neurocompile.ir import LIF, Dense, Input, Integrator, Network
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.reference import simulate
from neurocompile.target import find

Layer = Mapping[str, Any]
Write = Callable[..., Path]

SATURATED = -((1 << 23) - 1) / 64  # the lowest membrane, in weight units


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes layers as lava-dl does: texts of layers in arrays of one element, texts of neurons as such."""
    numbers = itertools.count()

    def make(*layers: Layer, **simulation: Any) -> Path:
        path = tmp_path / f"{next(numbers)}.net"
        with h5py.File(path, "w") as file:
            for number, layer in enumerate(layers):
                group = file.create_group(f"layer/{number}")
                for key, value in layer.items():
                    if key == "type":
                        group.create_dataset(key, (1,), "S10", [value.encode()])
                    else:
                        group.create_dataset(key, data=value)
            for key, value in simulation.items():
                file.create_dataset(f"simulation/{key}", data=value)
        return path

    return make


def neuron(current: Any = 4096, voltage: Any = 0, threshold: Any = 10, **more: Any) -> Layer:
    fields = {
        "type": "CUBA",
        "iDecay": current,
        "vDecay": voltage,
        "vThMant": threshold,
        "refDelay": 1,
        "gradedSpike": False,
        **more,
    }
    return {f"neuron/{key}": value for key, value in fields.items()}


def dense(weight: ArrayLike, **more: Any) -> dict[str, Any]:
    rows = np.array(weight, np.float32)
    size = {"shape": [len(rows)], "inFeatures": rows.shape[1], "outFeatures": len(rows)}
    return {"type": "dense", "weight": rows, **size, **neuron(), **more}


def conv(weight: ArrayLike, shape: Any, **more: Any) -> dict[str, Any]:
    kernels = np.array(weight, np.float32)[..., np.newaxis]
    return {
        "type": "conv",
        "shape": shape,
        "weight": kernels,
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
        "kernelSize": kernels.shape[2:4],
        "inChannels": kernels.shape[1] * more.get("groups", 1),
        "outChannels": len(kernels),
        **neuron(),
        **more,
    }


IMAGE: Layer = {"type": "input", "shape": [2, 3, 4]}


def fired(network: Network, inputs: ArrayLike) -> NDArray[Any]:
    """Return what comes out for one sample (steps, *shape), and check the integers against it."""
    values = np.asarray(inputs, np.float64)[np.newaxis]
    floats = simulate(network, values)
    program = compile_network(network, find("fixedpoint"), CompileOptions(steps=values.shape[1]))
    np.testing.assert_array_equal(program.run(values).output, floats.output)
    sample: NDArray[Any] = floats.output[0]
    return sample


def without(layer: Layer, *names: str) -> Layer:
    return {key: value for key, value in layer.items() if not key.startswith(names)}


# ---- what layers mean


def test_the_numbers_of_the_chip_are_those_of_the_network(write: Write) -> None:
    path = write(dense([[2, -4]], bias=[6], **neuron(4096, 1024, 5)))

    imported = from_netx(path)
    network = imported.network

    (layer,) = (network.nodes[name] for name in network.of_type(Dense))
    (cells,) = (network.nodes[name] for name in network.of_type(LIF))
    assert isinstance(layer, Dense)
    assert isinstance(cells, LIF)
    np.testing.assert_array_equal(layer.weight, [[2, -4]])
    np.testing.assert_array_equal(layer.bias, [6])
    assert (cells.threshold[0], cells.decay[0], cells.gain[0]) == (5, 0.75, 1)
    assert (cells.comparison, cells.reset, cells.current_decay) == (">", "zero", None)
    assert cells.floor is not None
    assert cells.floor.tolist() == [SATURATED]
    assert network.weight_unit == 1
    assert network.steps is None
    assert imported.inferred == {
        "weights": "the chip's integers, kept as they are",
        "time": "layer by layer, without the step that each layer takes on the chip",
        "fires": "above the threshold",
        "input": "spikes, 0 or 1, as the file names no range",
    }


def test_integers_stay_as_they_are(write: Write) -> None:
    path = write(dense([[2, -4], [254, -256]], bias=[6, -8], **neuron(1000, 300, 77)))

    program = compile_network(from_netx(path).network, find("loihi2"), CompileOptions(steps=3))

    (group,), (cells,) = program.network.synapses, program.network.neurons
    np.testing.assert_array_equal(group.weight, [[2, -4], [254, -256]])
    assert [int(value) for value in (cells.du, cells.dv, cells.threshold)] == [999, 300, 77]
    assert cells.scale == 1
    np.testing.assert_array_equal(cells.bias, [6 * 64, -8 * 64])
    assert cells.plain
    assert not program.facts["quantisation"]["scales_lowered_by_range_proof"]


def test_a_membrane_at_the_threshold_does_not_fire_unless_it_is_said_to(write: Write) -> None:
    path = write(dense([[10]], **neuron(4096, 4096, 10)))

    assert fired(from_netx(path).network, [[1], [1]]).ravel().tolist() == [0, 0]
    at = from_netx(path, fires="at")
    assert fired(at.network, [[1], [0]]).ravel().tolist() == [1, 0]
    assert at.inferred["fires"] == "at or above the threshold"
    with pytest.raises(OptionError, match="there is no fires 'below': use above or at"):
        from_netx(path, fires="below")


def test_a_current_with_memory_decays_beside_the_membrane(write: Write) -> None:
    path = write(dense([[8]], **neuron(2048, 0, 13)))

    output = fired(from_netx(path).network, [[1], [0], [0], [0]])

    # u = 8, 4, 2, 1 and v = 8, 12, 14: fires at the third step
    assert output.ravel().tolist() == [0, 0, 1, 0]


def test_a_bias_goes_past_a_current_with_memory(write: Write) -> None:
    path = write(dense([[2]], bias=[3], **neuron(1024, 1024, 8)))

    output = fired(from_netx(path).network, np.zeros((5, 1)))

    # v = 3, 5.25, 6.94, 8.2 and not 3, 7.5 as through the current
    assert output.ravel().tolist() == [0, 0, 0, 1, 0]


def test_leaks_and_thresholds_may_differ_by_channel(write: Write) -> None:
    by_channel = neuron([4096, 0], [4096, 2048], [1, 3], type="LOIHI")
    path = write(IMAGE, conv(np.full((2, 2, 1, 1), 2), [2, 3, 4], **by_channel))

    network = from_netx(path).network

    (name,) = network.of_type(LIF)
    cells = network.nodes[name]
    assert isinstance(cells, LIF)
    assert cells.current_decay is not None
    assert cells.decay[:, 0, 0].tolist() == [0, 0.5]
    assert cells.current_decay[:, 2, 3].tolist() == [0, 1]
    assert cells.threshold[:, 1, 1].tolist() == [1, 3]


def test_a_layer_of_vectors_is_read_in_order_of_channels(write: Write) -> None:
    weight = np.zeros((1, 24))
    weight[0, 12 + 2 * 4 + 1] = 12  # channel 1, row 2, column 1
    path = write(IMAGE, {"type": "flatten", "shape": [24, 1, 1]}, dense(weight))
    inputs = np.zeros((2, 2, 3, 4))
    inputs[1, 1, 2, 1] = 1

    assert fired(from_netx(path).network, inputs).ravel().tolist() == [0, 1]


def test_weights_may_be_a_vector_and_inputs_a_vector_of_three_axes(write: Write) -> None:
    flat = {**dense([[6, 6, 0], [0, 0, 12]]), "weight": [6.0, 6, 0, 0, 0, 12], "shape": [2, 1, 1]}
    path = write({"type": "input", "shape": [1, 1, 3]}, flat)

    assert fired(from_netx(path).network, [[[[1, 1, 0]]], [[[0, 0, 1]]]]).tolist() == [
        [1, 0],
        [0, 1],
    ]


def test_a_convolution_is_that_of_pytorch(write: Write) -> None:
    kernels = np.zeros((1, 2, 2, 2))
    kernels[0, 1, 0, 1] = 12
    path = write(IMAGE, conv(kernels, [1, 1, 3], stride=[2, 1]))
    inputs = np.zeros((1, 2, 3, 4))
    inputs[0, 1, 0, 3] = 1  # under the kernel's upper right corner when it is at column 2

    assert fired(from_netx(path).network, inputs).tolist() == [[[[0, 0, 1]]]]


def test_windows_pad_dilate_and_group(write: Write) -> None:
    kernels = np.full((2, 1, 2, 1), 6)
    path = write(IMAGE, conv(kernels, [2, 3, 4], padding=[1, 0], dilation=[2, 1], groups=2))
    inputs = np.zeros((1, 2, 3, 4))
    inputs[0, 0, [0, 2], 1] = 1

    output = fired(from_netx(path).network, inputs)

    assert np.argwhere(output).tolist() == [[0, 0, 1, 1]]


def test_a_pool_shares_a_kernel_between_channels(write: Write) -> None:
    pool = without(conv([[[[6, 6], [6, 6]]]], [2, 1, 2]), "inChannels", "outChannels", "groups")
    path = write(IMAGE, {**pool, "type": "pool", "stride": 2})
    inputs = np.zeros((1, 2, 3, 4))
    inputs[0, 0, 0, 2:] = inputs[0, 1, 0, 0] = 1

    imported = from_netx(path)

    assert np.argwhere(fired(imported.network, inputs)).tolist() == [[0, 0, 0, 1]]
    assert imported.inferred["netx"] == "does not load layer 1, a pool"


def test_an_input_with_neurons_takes_raw_values_as_their_bias(write: Write) -> None:
    first = {"type": "input", "shape": [2], "weight": [8.0], "bias": [2.0], **neuron(1024, 0, 9)}
    path = write(first, dense([[12, 0], [0, 12]]))

    imported = from_netx(path)
    trace = simulate(imported.network, np.array([[[0.0, 1.0]] * 5]))

    # 0 gives 2, 4, ..., 10 and fires at the fifth step; 1 gives 10 at once, past the current
    assert trace.spikes["lif0"][0, :, 0].tolist() == [0, 0, 0, 0, 1]
    assert trace.spikes["lif0"][0, :, 1].tolist() == [1, 1, 1, 1, 1]
    assert (
        imported.inferred["input"] == "raw values x, which drive their neurons as a bias of 8 x + 2"
    )


def test_an_input_that_names_no_weight_has_slayers(write: Write) -> None:
    path = write({"type": "input", "shape": [1, 2, 2], **neuron()}, dense(np.full((1, 4), 2)))

    assert (
        "as a bias of 64 x + 0"
        in from_netx(
            write(
                {"type": "input", "shape": [1, 2, 2], **neuron()},
                {"type": "flatten"},
                dense([[2] * 4]),
            )
        ).inferred["input"]
    )
    with pytest.raises(
        NetxFormatError, match="'1' needs a vector, but gets .1, 2, 2.: put a 'flatten'"
    ):
        from_netx(path)


def test_what_netx_delays_otherwise_is_told(write: Write) -> None:
    own = {**dense([[12], [0]], weight_rec=[[0.0, 0], [12, 0]], delay=[0, 2]), "type": "dense_rec"}
    biased = dense([[12], [0]], bias=[3, 0], delay=[0, 2])

    recurrent, driven = (from_netx(write(layer)) for layer in (own, biased))

    assert recurrent.inferred["netx"] == "delays the feedback of layer 0 as well"
    # The spikes arrive at once in the layer itself, and two steps late outside.
    output = fired(recurrent.network, [[1], [0], [0], [0]])
    assert output.tolist() == [[1, 0], [0, 0], [0, 0], [0, 1]]
    assert driven.inferred["netx"] == (
        "delays what reaches layer 0, not its spikes, which its bias drives too"
    )


def test_recurrent_weights_carry_the_spikes_of_the_step_before(write: Write) -> None:
    layer = dense([[12], [0]], weight_rec=[[0.0, 0], [12, 0]])
    path = write({**layer, "type": "dense_rec"})

    imported = from_netx(path)

    assert fired(imported.network, [[1], [0], [0]]).tolist() == [[1, 0], [0, 1], [0, 0]]
    assert imported.inferred["feedback"] == "lif0 -> recurrent0, one step later"


# ---- delays


def test_delays_of_the_outputs_make_their_spikes_late(write: Write) -> None:
    path = write(dense([[12, 0], [0, 12], [12, 12]], delay=[0.0, 2, 1]), dense(12 * np.eye(3)))

    imported = from_netx(path)
    trace = simulate(imported.network, np.array([[[1, 1], [0, 0], [0, 0], [0, 0]]]))

    assert trace.spikes["lif0"][0].tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert trace.spikes["lif1"][0].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert imported.inferred["delays"] == "the spikes of layer 0, up to 2 steps"
    assert "netx" not in imported.inferred


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        ([0, 2], [[1, 1, 0], [0, 0, 0], [0, 1, 1]]),  # of what arrives
        (1, [[0, 0, 0], [1, 1, 1], [0, 0, 0]]),  # of everything
        ([[2, 0], [0, 1], [0, 0]], [[0, 1, 1], [0, 1, 0], [1, 0, 0]]),  # of synapses
    ],
)
def test_delays_of_inputs_and_synapses(write: Write, delay: Any, expected: Any) -> None:
    path = write(dense([[12, 0], [12, 12], [0, 12]], delay=np.array(delay, np.float32)))

    assert fired(from_netx(path).network, [[1, 1], [0, 0], [0, 0]]).tolist() == expected


def test_a_square_layers_delays_are_those_of_its_spikes(write: Write) -> None:
    path = write(dense([[12, 12], [0, 0]], delay=[2, 0]), dense([[12, 0]]))

    output = fired(from_netx(path).network, [[1, 0], [0, 1], [0, 0], [0, 0]])

    assert output.ravel().tolist() == [0, 0, 1, 1]


def test_the_bias_of_delayed_synapses_is_there_once(write: Write) -> None:
    path = write(dense([[2, 2]], bias=[12], delay=[[1, 2]], **neuron(threshold=11)))

    network = from_netx(path).network

    assert sum(network.nodes[name].bias.sum() for name in network.of_type(Dense)) == 12  # type: ignore[union-attr]
    assert fired(network, np.zeros((2, 2))).ravel().tolist() == [1, 1]


def test_the_last_layers_delays_are_seen_outside(write: Write) -> None:
    path = write(dense([[12], [12]], delay=[0, 2]))

    assert fired(from_netx(path).network, [[1], [0], [0]]).tolist() == [[1, 0], [0, 0], [0, 1]]


def test_delays_of_a_convolution_are_those_of_its_channels(write: Write) -> None:
    path = write(
        {"type": "input", "shape": [1, 1, 2]},
        conv([[[[12]]], [[[12]]]], [2, 1, 2], delay=[0, 70]),
        {"type": "flatten"},
        dense(12 * np.eye(4)),
    )
    inputs = np.zeros((71, 1, 1, 2))
    inputs[0, 0, 0, 1] = 1

    imported = from_netx(path)

    assert np.argwhere(fired(imported.network, inputs)).tolist() == [[0, 1], [70, 3]]
    assert imported.inferred["netx"] == (
        "shortens the delays of layer 1 to 62 steps; ignores the delays of layer 1, a convolution"
    )


# ---- ends


def test_a_layer_without_neurons_integrates(write: Write) -> None:
    path = write(without(dense([[6, -4]]), "neuron"))

    imported = from_netx(path)

    assert fired(imported.network, [[1, 0], [1, 1], [0, 1]]).ravel().tolist() == [6, 8, 4]
    assert imported.inferred["readout"] == "the membranes of layer 0, which has no neurons"


@pytest.mark.parametrize("threshold", [131071, (1 << 18) - 1])
def test_a_threshold_that_nothing_reaches_is_a_read_out(write: Write, threshold: int) -> None:
    path = write(dense([[6, -4]], **neuron(4096, 2048, threshold)))

    imported = from_netx(path)

    (name,) = imported.network.of_type(Integrator)
    assert fired(imported.network, [[1, 0], [1, 1]]).ravel().tolist() == [6, 5]
    assert imported.inferred["readout"] == (
        f"the membranes of layer 0, whose threshold of {threshold} no membrane reaches"
    )
    assert name == "readout0"


def test_a_mean_at_the_end_is_left_to_the_host(write: Write) -> None:
    path = write(dense([[12]] * 6), {"type": "average", "shape": [2, 1, 1]})

    imported = from_netx(path)

    assert imported.network.shapes["output"] == (6,)
    assert imported.inferred["average"] == (
        "left to the host: the output is the 6 neurons before it, of which each 3 in a row are one of"
        " its 2 means"
    )


@pytest.mark.parametrize(
    ("simulation", "steps"),
    [
        ({"tSample": 300, "Ts": 1}, 300),
        ({"tSample": 300, "Ts": 2}, 150),
        ({"tSample": 300, "Ts": 7}, None),
        ({"tSample": 0}, None),
        ({"tSample": 1 << 30}, None),
    ],
)
def test_the_simulations_length_is_that_of_a_sample(
    write: Write, simulation: Any, steps: int | None
) -> None:
    imported = from_netx(write(dense([[12]]), **simulation))

    assert imported.network.steps == steps
    assert ("steps" in imported.inferred) == (steps is not None)


def test_message_bits_do_not_grade_spikes(write: Write) -> None:
    imported = from_netx(write(dense([[12]], **neuron(messageBits=8))))

    assert imported.inferred["netx"] == "does not run layer 0, which names messageBits"


def test_a_membrane_stops_where_its_bits_end(write: Write) -> None:
    network = from_netx(write(dense([[-256] * 500, [254] * 500]))).network
    program = compile_network(network, find("fixedpoint"), CompileOptions(steps=3))

    trace = program.run(np.ones((1, 3, 500)), ["membrane/lif0"])

    assert trace.membrane["lif0"][0, :, 0].tolist() == [-128000, SATURATED, SATURATED]
    assert fired(network, np.ones((3, 500))).tolist() == [[0, 1]] * 3


# ---- refusals


CONV = conv(np.full((2, 2, 2, 2), 2), [2, 2, 3])

UNSUPPORTED: list[tuple[list[Layer], str]] = [
    ([dense([[2]], **neuron(type="SDNN"))], "'0' has 'SDNN' neurons, but sigma-delta neurons"),
    ([dense([[2]], **neuron(type="RF_PHASE"))], "'RF_PHASE' neurons, but resonate-and-fire"),
    ([dense([[2]], **neuron(type="ours"))], "'ours' neurons, but none that is known: use CUBA"),
    ([dense([[2]], **neuron(gradedSpike=True))], "gradedSpike 0, but their spikes are graded"),
    ([dense([[2]], **neuron(refDelay=3))], "refDelay 1, but they rest after a spike"),
    ([dense([[2]], **neuron(wgtExp=1))], "wgtExp 0, but their weights are shifted"),
    ([dense([[2]], **neuron(weight_exp=-2))], "weight_exp 0, .* which netx ignores"),
    ([IMAGE, {"type": "convT"}], "'1' is a 'convT' layer, but that is a transposed convolution"),
    ([IMAGE, {"type": "unpool"}], "that is a pool backwards: supported are input, flatten, dense"),
    ([IMAGE, {"type": "concat"}], "that is a join of several layers"),
    ([{"type": "dense_comp"}], "that is complex weights"),
    ([{"type": "attention"}], "a 'attention' layer, but no such layer is known"),
    (
        [{**without(dense([[2]]), "weight"), "weight/real": [[2]], "weight/imag": [[2]]}],
        "complex numbers in 'weight', but those of resonate-and-fire neurons",
    ),
    ([CONV], "'0' needs to know the size of its images, .*: put an 'input' layer"),
    ([dense([[2]]), IMAGE], "'1' must be the first layer to bring in values"),
    ([without(dense([[2]], bias=[2]), "neuron")], "'0' needs neurons, to have a bias"),
    (
        [without(dense([[2]]), "neuron"), dense([[2]])],
        "'1' must be the last that computes, but the layer before never fires",
    ),
    (
        [without(dense([[2]], delay=[3]), "neuron")],
        "'0' needs neurons that fire, to delay their spikes",
    ),
    (
        [dense([[2], [2]], **neuron(threshold=[5, 131071]))],
        "thresholds below 131071, or none, but 1 of 2 neurons never fire",
    ),
    (
        [dense([[2]], bias=[2], **neuron(1024, 0))],
        "a leak of its membranes, beside a bias and a current with memory, but vDecay is 0 for 1",
    ),
    (
        [{**without(dense([[2]], weight_rec=[[2]]), "neuron"), "type": "dense_rec"}],
        "needs neurons that fire, to feed back",
    ),
    (
        [dense([[2]]), {"type": "average", "shape": [1]}, dense([[2]])],
        "'1' must be the last layer to be left to the host",
    ),
    ([{"type": "input", "shape": [5000, 5000]}, CONV], "needs at most 4194304 neurons"),
    (
        [
            {"type": "input", "shape": [1, 2000, 2000]},
            conv(np.full((8, 1, 1, 1), 2), [8, 2000, 2000]),
        ],
        "'1' needs at most 4194304 neurons, but its shape is .8, 2000, 2000.",
    ),
    (
        [IMAGE, {**CONV, "padding": [1 << 30, 0], "stride": [1 << 31, 1], "shape": [2, 1, 3]}],
        "'1' needs images of at most 4194304 values with their padding, but those of .2, 3, 4. have",
    ),
    (
        [
            {"type": "input", "shape": [20000, 1, 1]},
            {**conv(np.full((1, 1, 90, 90), 2), [20000, 1, 1], padding=[45, 0]), "type": "pool"},
        ],
        "'1' needs kernels of at most 134217728 weights, but they have 162000000 for all channels",
    ),
    (
        [dense(np.full((300, 300), 2), delay=np.arange(90000).reshape(300, 300) % 2000)],
        "'0' needs at most 1491 different delays of its 90000 synapses, but there are 2000",
    ),
]


@pytest.mark.parametrize(("layers", "reason"), UNSUPPORTED)
def test_what_is_something_else_is_refused(write: Write, layers: list[Layer], reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        from_netx(write(*layers))


DAMAGED: list[tuple[list[Layer], str]] = [
    ([dense([[2.5, 4]])], "'0' needs integers in 'weight', but 1 of 2 are not, 2.5 is the first"),
    ([dense([[np.nan, np.inf]])], "needs integers in 'weight', but 2 of 2 are not, nan"),
    (
        [dense([[2, 256]])],
        "'weight' from -256 to 254, or from 0 to 255, but they reach from 2 to 256",
    ),
    ([dense([[-2, 255]])], "but they reach from -2 to 255"),
    ([dense([[-258, 2]])], "but they reach from -258 to 2"),
    (
        [dense([[-3, 3, 2]])],
        "to be even where some are negative, but 2 are odd: quantise to steps of 2",
    ),
    (
        [{**dense([[2]]), "weight": [[1e30]]}],
        "needs integers from -2147483648 in 'weight', but one is",
    ),
    ([{**dense([[2]]), "weight": "2"}], "needs integers in 'weight', but there are none"),
    (
        [{**dense([[2]]), "weight": [[[2]]]}],
        "needs 'weight' with 1 or 2 axes, but it has the shape",
    ),
    ([without(dense([[2]]), "weight")], "needs integers in 'weight', but there are none"),
    ([without(dense([[2]]), "type")], "'0' needs a text in 'type', but there is none"),
    ([without(dense([[2]]), "shape")], "needs integers in 'shape', but there are none"),
    ([{**dense([[2]]), "shape": [0]}], "needs integers from 1 in 'shape', but one is 0"),
    ([{**dense([[2]]), "shape": [3]}], "has the shape .3,., but weights for 1 outputs"),
    ([{**dense([[2]]), "shape": [1, 1, 1, 1]}], "needs a shape of at most 3 axes"),
    ([{**dense([[2]]), "inFeatures": 2}], "weights for 1 inputs, but 'inFeatures' says something"),
    (
        [{**dense([[2]]), "weight": [2.0, 2, 2], "shape": [2]}],
        "for 2 outputs, but it has 3 numbers",
    ),
    ([dense([[2]], bias=[1, 2])], "needs 1 biases, but there are 2"),
    ([dense([[2]], bias=[0.5])], "needs integers in 'bias'"),
    ([dense([[2, 2]], delay=[1, 2, 3])], "delays of shape .1,., .2,. or .1, 2., but they have"),
    ([dense([[2, 2]], delay=[-1, 2])], "needs integers from 0 in 'delay', but one is -1"),
    ([dense([[2, 2]], delay=[0.5, 2])], "needs integers in 'delay', but 1 of 2 are not"),
    ([dense([[2]], **neuron(current=5000))], "needs 'iDecay' from 0 to 4096, but one is 5000"),
    ([dense([[2]], **neuron(voltage=-1))], "needs integers from 0 in 'vDecay', but one is -1"),
    ([dense([[2]], **neuron(threshold=[1, 2]))], "needs 'vThMant' for all, each channel or each"),
    ([without(dense([[2]]), "neuron/iDecay")], "needs integers in 'iDecay', but there are none"),
    ([without(dense([[2]]), "neuron/type")], "needs a text in 'type', but there is none"),
    ([{**without(dense([[2]]), "neuron"), "neuron": 3}], "a group of datasets in 'neuron'"),
    ([{**dense([[2]]), "type": "dense_rec"}], "needs integers in 'weight_rec', but there are none"),
    (
        [{**dense([[2]], weight_rec=[[2, 2]]), "type": "dense_rec"}],
        "needs 'weight_rec' of shape .1, 1., but it has .1, 2.",
    ),
    ([IMAGE, dense([[2]])], "'1' needs 1 inputs, but gets .2, 3, 4."),
    ([IMAGE, {"type": "flatten", "shape": [25]}], "makes a vector of 25, but gets .2, 3, 4."),
    (
        [IMAGE, {**CONV, "shape": [2, 3, 3]}],
        "has the shape .2, 3, 3., but its windows make .2, 2, 3.",
    ),
    (
        [IMAGE, {**CONV, "kernelSize": [3, 3]}],
        "kernels of size .2, 2., but 'kernelSize' says .3, 3.",
    ),
    ([IMAGE, {**CONV, "stride": [1, 2, 3]}], "needs 2 integers in 'stride', but there are 3"),
    ([IMAGE, {**CONV, "stride": 0}], "needs integers from 1 in 'stride', but one is 0"),
    ([IMAGE, without(CONV, "padding")], "needs integers in 'padding', but there are none"),
    ([IMAGE, {**CONV, "groups": 2}], "needs an input .4, height, width., but gets .2, 3, 4."),
    ([IMAGE, {**CONV, "inChannels": 3}], "kernels for 2 channels, but 'inChannels' says something"),
    ([IMAGE, {**CONV, "weight": np.full((2, 2, 2, 2, 2), 2)}], "kernels of one step in time"),
    ([IMAGE, without(CONV, "neuron")], "'1' needs neurons, but it has none"),
    ([IMAGE, {**CONV, "delay": [1, 2, 3]}], "needs 2 delays, but there are 3"),
    ([IMAGE, {**CONV, "type": "pool"}], "needs one kernel for all channels, .1, 1, height, width."),
    ([dense([[2]]), conv([[[[2]]]], [1, 1, 1])], "'1' needs an input .1, height, width., but gets"),
    ([dense([[2]] * 5), {"type": "average", "shape": [2]}], "in 2 equal groups, but there are 5"),
    ([IMAGE], "a network needs a layer of neurons, but there is none"),
]


@pytest.mark.parametrize(("layers", "reason"), DAMAGED)
def test_what_contradicts_itself_is_refused(write: Write, layers: list[Layer], reason: str) -> None:
    with pytest.raises(NetxFormatError, match=reason):
        from_netx(write(*layers))


def test_all_reasons_are_given_at_once(write: Write) -> None:
    path = write(
        IMAGE,
        {**CONV, "weight": np.full((2, 2, 2, 2), 300), "stride": 0},
        {"type": "unpool", "shape": [2, 2, 3]},
        {"type": "flatten"},
        dense(np.full((2, 11), 2.5), **neuron(type="ALIF")),
    )

    with pytest.raises(NetxFormatError) as refused:
        from_netx(path)

    told = [problem.layer for problem in refused.value.problems]
    assert told == ["1", "1", "2", "4"]


def test_files_of_other_kinds_are_refused(write: Write, tmp_path: Path) -> None:
    text, other, empty = (tmp_path / name for name in ("text.net", "other.net", "empty.net"))
    text.write_text("layer")
    with h5py.File(other, "w") as file:
        file["node"] = 1
    with h5py.File(empty, "w") as file:
        file.create_group("layer")
    gap, dataset = write(dense([[2]]), dense([[2]])), write(dense([[2]]))
    with h5py.File(gap, "a") as file:
        file.move("layer/1", "layer/2")
    with h5py.File(dataset, "a") as file:
        del file["layer/0"]
        file["layer/0"] = 1

    for path, reason in (
        (tmp_path / "none.net", "there is no file"),
        (text, "is not a .net file"),
        (other, "is an HDF5 file, but not a .net network: it has no layers"),
        (empty, "it has no layers"),
        (gap, "needs its 2 layers to be called 0 to 1, but there are 2"),
        (dataset, "layer '0' must be a group of datasets, but it is a dataset"),
    ):
        with pytest.raises(NetxFormatError, match=reason):
            from_netx(path)


def plant_link(file: Any) -> None:
    file["layer/0/weight"] = h5py.ExternalLink("/etc/hostname", "/")


def plant_soft_link(file: Any) -> None:
    file["layer/0/weight"] = h5py.SoftLink("/layer/0/shape")


def plant_terabytes(file: Any) -> None:
    file.create_dataset("layer/0/weight", (1 << 20, 1 << 20), "f4", chunks=(64, 64), fillvalue=2)


def plant_external_storage(file: Any) -> None:
    storage = [("/etc/hostname", 0, 4)]
    file.create_dataset("layer/0/weight", (1, 1), "f4", external=storage)


def plant_objects(file: Any) -> None:
    file.create_dataset("layer/0/weight", data=file.ref, dtype=h5py.ref_dtype)


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (plant_link, "'layer/0/weight' is a link, which a .net file may not have"),
        (plant_soft_link, "'layer/0/weight' is a link, which a .net file may not have"),
        (plant_terabytes, "declares far more data than the file holds"),
        (plant_external_storage, "'layer/0/weight' keeps its data in another file"),
        (plant_objects, "neither numbers nor text"),
    ],
)
def test_hostile_files_are_refused(write: Write, plant: Callable[[Any], None], reason: str) -> None:
    path = write(without(dense([[2]]), "weight"))
    with h5py.File(path, "a") as file:
        plant(file)

    with pytest.raises(NetxFormatError, match=reason):
        from_netx(path)


def test_damaged_bytes_end_in_a_refusal_or_a_network(write: Write, tmp_path: Path) -> None:
    content = write(dense([[2, -4]], delay=[1]), dense([[12]])).read_bytes()
    generator = np.random.default_rng(3)
    refused = 0
    for number in range(300):
        damaged = bytearray(content[: len(content) - 100 * (number % 7 == 0)])
        for place in generator.integers(0, len(damaged), 1 + number % 5):
            damaged[place] ^= int(generator.integers(1, 256))
        path = tmp_path / f"damaged{number}.net"
        path.write_bytes(bytes(damaged))
        try:
            imported = from_netx(path)
        except (NetxFormatError, UnsupportedError):
            refused += 1
        else:
            assert imported.network.of_type(Input)
    assert 30 < refused < 270


def test_values_in_hand_are_read_as_well() -> None:
    layer = {"type": "dense", "shape": np.array([1]), "weight": np.array([[2.0]])}

    assert from_netx(NetxFile((layer,), {})).network.shapes["output"] == (1,)
