"""Programs as `.net` files: read again they are the same, and what the format cannot say is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from neurocompile_loihi2.lower import TARGET
from neurocompile_loihi2.netx import NETX, _loaded_by_netx, netx_bytes, problems_of_netx
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import UnsupportedError
from neurocompile.frontend.from_netx import from_netx
from neurocompile.ir import (
    LIF,
    Conv2d,
    Delay,
    Dense,
    Flatten,
    Input,
    Integrator,
    Network,
    Output,
    Reshape,
)
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program, load

STEPS = 8
EXPORT = CompileOptions(steps=STEPS, target_options={"netx": "yes"})


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Program], Path]:
    """Writes the `.net` file of a program."""

    def write(program: Program) -> Path:
        path = tmp_path / NETX
        path.write_bytes(program.extra_files[NETX])
        return path

    return write


def even(shape: tuple[int, ...], seed: int, largest: int = 60) -> NDArray[np.float64]:
    """Return even numbers with both signs, 0 among them: weights of the chip."""
    generator = np.random.default_rng(seed)
    return 2 * generator.integers(-largest // 2, largest // 2 + 4, shape).astype(np.float64)


def cells(
    shape: tuple[int, ...],
    *,
    threshold: Any = 40,
    decay: Any = 0.75,
    current: Any = None,
    leak: Any = 0,
    **more: Any,
) -> LIF:
    return LIF(
        np.full(shape, decay),
        np.ones(shape),
        np.full(shape, leak),
        np.full(shape, threshold),
        np.zeros(shape),
        current_decay=None if current is None else np.full(shape, current),
        **more,
    )


def in_weight_units(network: Network) -> Network:
    """Return `network` as one whose numbers are the chip's."""
    return Network(network.nodes, network.edges, network.steps, network.feedback, weight_unit=1.0)


def spikes(shape: tuple[int, ...], largest: int = 1) -> NDArray[np.int64]:
    return np.random.default_rng(5).integers(0, largest + 1, (6, STEPS, *shape))


def check_round_trip(program: Program, path: Path, ranged: InputRange | None = None) -> Network:
    """Check that the file means a network whose integers and spikes are those of `program`; return it."""
    network = from_netx(path).network
    shape = network.shapes["input"]
    again = compile_network(
        network.replaced({**network.nodes, "input": Input(shape, ranged)}), TARGET, EXPORT
    )
    for ours, theirs in zip(program.network.neurons, again.network.neurons, strict=True):
        assert (ours.shape, ours.readout) == (theirs.shape, theirs.readout)
        for field in ("du", "dv", "threshold", "bias"):
            one, two = (np.broadcast_to(getattr(x, field), x.shape) for x in (ours, theirs))
            np.testing.assert_array_equal(one, two, err_msg=field)
    for group, other in zip(program.network.synapses, again.network.synapses, strict=True):
        np.testing.assert_array_equal(group.weight, other.weight)
        one, two = np.broadcast_arrays(group.delay, other.delay)
        np.testing.assert_array_equal(one, two)
        assert group.geometry == other.geometry
    inputs = spikes(shape, 1 if ranged is None else int(ranged.maximum))
    before, after = (
        each.run(inputs, "all", on="fixedpoint").spikes.values() for each in (program, again)
    )
    for fired, refired in zip(before, after, strict=True):
        np.testing.assert_array_equal(fired, refired)
        assert 0 < fired.mean() < 0.98
    assert again.extra_files[NETX] == program.extra_files[NETX]
    return network


Chain = Callable[..., Network]
Written = Callable[[Program], Path]


def convolutional(chain: Chain) -> Network:
    return in_weight_units(
        chain(
            (2, 6, 5),
            {
                "conv": Conv2d(even((4, 1, 3, 2), 1), even((4,), 2), (2, 1), (1, 0), (1, 2), 2),
                "lif1": cells((4, 3, 3)),
                "again": Conv2d(even((3, 4, 1, 3), 3), np.zeros(3)),
                "lif2": cells((3, 3, 1), decay=1.0, threshold=30),
                "flatten": Flatten(),
                "fc": Dense(even((5, 9), 4), even((5,), 5)),
                "lif3": cells((5,)),
            },
            steps=STEPS,
        )
    )


def test_a_network_comes_back_as_it_was(chain: Chain, written: Written) -> None:
    program = compile_network(convolutional(chain), TARGET, EXPORT)

    network = check_round_trip(program, written(program))

    assert network.steps == STEPS
    assert [type(node).__name__ for node in network.nodes.values()] == [
        *("Input", "Conv2d", "LIF", "Conv2d", "LIF", "Flatten", "Dense", "LIF", "Output")
    ]


def test_currents_with_memory_come_back(chain: Chain, written: Written) -> None:
    nodes = {
        "fc1": Dense(even((7, 5), 1), np.zeros(7)),
        "lif1": cells((7,), current=0.5, leak=8),  # a bias of 2
        "fc2": Dense(even((4, 7), 2), np.zeros(4)),
        "lif2": cells((4,), current=0.125, decay=0.5, threshold=70),
    }
    program = compile_network(in_weight_units(chain((5,), nodes, steps=STEPS)), TARGET, EXPORT)

    check_round_trip(program, written(program))


@pytest.mark.parametrize(
    ("sizes", "steps"),
    [
        ((5, 7), np.array([0, 3, 1, 62, 2])),  # of the inputs
        ((5, 5), np.array([0, 3, 1, 2, 2])),  # of the inputs, of which there are as many as outputs
        ((5, 7), np.array(2)),
    ],
)
def test_delays_come_back(
    chain: Chain, written: Written, sizes: tuple[int, int], steps: NDArray[np.int64]
) -> None:
    inputs, outputs = sizes
    nodes = {
        "wait": Delay(steps),
        "fc": Dense(even((outputs, inputs), 1), np.zeros(outputs)),
        "lif": cells((outputs,)),
    }
    program = compile_network(in_weight_units(chain((inputs,), nodes, steps=STEPS)), TARGET, EXPORT)

    check_round_trip(program, written(program))

    assert "does not silence" in program.facts["notes"][-1]


def test_delays_of_synapses_come_back(written: Written) -> None:
    weight = even((3, 4), 1) + 2  # never 0 for these
    delay = np.array([[0, 1, 2, 0], [3, 0, 0, 1], [0, 0, 5, 0]])
    nodes: dict[str, Any] = {"input": Input((4,)), "lif": cells((3,)), "output": Output((3,))}
    edges = [("lif", "output")]
    for steps in np.unique(delay):
        nodes[f"wait{steps}"] = Delay(np.array(steps))
        nodes[f"fc{steps}"] = Dense(np.where(delay == steps, weight, 0), np.zeros(3))
        edges += [("input", f"wait{steps}"), (f"wait{steps}", f"fc{steps}"), (f"fc{steps}", "lif")]
    network = Network(nodes, tuple(edges), STEPS, weight_unit=1.0)
    program = compile_network(network, TARGET, EXPORT)
    np.testing.assert_array_equal(program.network.synapses[0].delay, delay)

    check_round_trip(program, written(program))


def recurrent(own: Any, *, weight: Any = None, late: int = 0, own_late: int = 0) -> Network:
    """Return a layer of three neurons that hear their own spikes, between two others."""
    nodes: dict[str, Any] = {
        "input": Input((5,)),
        "fc1": Dense(even((4, 5), 1), np.zeros(4)),
        "lif1": cells((4,)),
        "late": Delay(np.array(late)),
        "fc2": Dense(even((3, 4), 2) if weight is None else np.array(weight), np.zeros(3)),
        "lif2": cells((3,), threshold=20),
        "fc3": Dense(np.abs(even((2, 3), 3)), np.zeros(2)),
        "lif3": cells((2,)),
        "output": Output((2,)),
        "wait": Delay(np.array(own_late)),
        "own": Dense(np.array(own, float), np.zeros(3)),
    }
    edges = (
        *itertools.pairwise(list(nodes)[:9]),
        *(("lif2", "wait"), ("wait", "own"), ("own", "lif2")),
    )
    return Network(nodes, edges, STEPS, frozenset({("lif2", "wait")}), weight_unit=1.0)


OWN = [[0, 30, -8], [-20, 2, 4], [12, 0, 40]]


def test_feedback_of_a_layer_to_itself_comes_back(written: Written) -> None:
    program = compile_network(recurrent(OWN), TARGET, EXPORT)
    path = written(program)

    network = check_round_trip(program, path)

    with h5py.File(path) as file:
        layer = file["layer/2"]
        assert layer["type"][0] == b"dense_rec"
        np.testing.assert_array_equal(layer["weight_rec"][()], OWN)
    assert len(network.feedback) == 1
    silent = compile_network(recurrent(np.zeros((3, 3))), TARGET, EXPORT)
    with_feedback, without = (
        each.run(spikes((5,)), "all", on="fixedpoint").spikes["lif2"] for each in (program, silent)
    )
    assert (with_feedback != without).any()
    assert program.facts["notes"][-1].endswith(
        "it has delays or feedback, and netx does not silence its neurons between samples, so spikes of"
        " one reach the next: run one sample at a time"
    )


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (
            recurrent(OWN, late=2),
            "'fc2' needs delays of 0 steps in a .net file, as there is feedback, but the longest is 2",
        ),
        (
            recurrent(OWN, own_late=3),
            "'own' needs delays of 1 steps in a .net file, as there is feedback, but the longest is 4",
        ),
        (
            # netx makes -256 of them, beside what is positive, and Lava then sees none that is.
            recurrent(-4 * np.ones((3, 3)), weight=np.full((3, 4), 2.0)),
            "'own' needs weights that netx does not change, but it would change 9",
        ),
        (
            recurrent(np.zeros((3, 3)), weight=np.zeros((3, 4))),
            "'fc2' needs a weight for netx to load, but all are 0",
        ),
    ],
)
def test_feedback_that_netx_would_change_is_refused(network: Network, reason: str) -> None:
    compile_network(network, TARGET, CompileOptions())
    with pytest.raises(UnsupportedError, match=reason):
        compile_network(network, TARGET, EXPORT)


@pytest.mark.parametrize("integrates", [True, False])
def test_a_read_out_comes_back_as_its_membrane(
    chain: Chain, written: Written, integrates: bool
) -> None:
    shape = (3,)
    nodes: dict[str, Any] = {
        "fc1": Dense(even((6, 4), 1), np.zeros(6)),
        "lif": cells((6,)),
        "fc2": Dense(even((3, 6), 2), even((3,), 3)),
    }
    if integrates:
        nodes["readout"] = Integrator(np.full(shape, 0.5), np.ones(shape), np.zeros(shape))
    program = compile_network(in_weight_units(chain((4,), nodes, steps=STEPS)), TARGET, EXPORT)

    network = check_round_trip(program, written(program))

    assert network.of_type(Integrator) == ("readout2",)
    again = compile_network(network, TARGET, CompileOptions(steps=STEPS))
    inputs = spikes((4,))
    shown = program.run(inputs, on="fixedpoint").output
    membrane = shown if integrates else shown.cumsum(1)
    np.testing.assert_array_equal(again.run(inputs, on="fixedpoint").output, membrane)


def test_graded_inputs_are_integers_in_the_file(chain: Chain, written: Written) -> None:
    nodes = {"fc": Dense(4 * even((6, 4), 1), np.zeros(6)), "lif": cells((6,), threshold=500)}
    quarters = InputRange(0, 2, 0.25)
    network = in_weight_units(chain((4,), nodes, steps=STEPS, input_range=quarters))
    program = compile_network(
        network,
        TARGET,
        CompileOptions(steps=STEPS, first_layer="graded", target_options={"netx": "yes"}),
    )

    again = from_netx(written(program)).network
    (name,) = again.of_type(Dense)
    node = again.nodes[name]

    assert isinstance(node, Dense)
    np.testing.assert_array_equal(node.weight, even((6, 4), 1))
    assert program.facts["notes"][-1] == (
        "'network.net' is loaded by netx with reset_interval=8, reset_offset=1, input_message_bits=8;"
        " its inputs are integers, the network's times 4"
    )


@settings(max_examples=40)
@given(data=st.data())
def test_random_chains_come_back(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    def draw(label: str, least: int, most: int) -> int:
        return int(data.draw(st.integers(least, most), label=label))

    seed = draw("seed", 0, 1 << 20)
    generator = np.random.default_rng(seed)
    shape: tuple[int, ...] = (draw("channels", 1, 3), draw("height", 1, 5), draw("width", 1, 5))
    nodes: dict[str, Any] = {"input": Input(shape)}
    for number in range(draw("layers", 1, 3)):
        remembers = number % 2 and draw("remembers", 0, 1)
        if len(shape) == 3 and draw("conv", 0, 1):
            out, kernel = draw("out", 1, 4), (draw("h", 1, shape[1]), draw("w", 1, shape[2]))
            weight = 2 * generator.integers(-40, 60, (out, shape[0], *kernel))
            padding = (draw("padding", 0, 1), 0)
            operator: Any = Conv2d(
                weight.astype(float), np.zeros(out), (draw("stride", 1, 2), 1), padding
            )
            shape = (
                out,
                (shape[1] + 2 * padding[0] - kernel[0]) // operator.stride[0] + 1,
                shape[2] - kernel[1] + 1,
            )
        else:
            if len(shape) > 1:
                nodes[f"flatten{number}"] = Flatten()
            out = draw("out", 1, 6)
            weight = 2 * generator.integers(-40, 60, (out, int(np.prod(shape))))
            weight[0, 0] = 20
            operator = Dense(weight.astype(float), np.zeros(out))
            shape = (out,)
        if not remembers:
            bias = generator.integers(-30, 60, out).astype(float)
            operator = type(operator)(operator.weight, bias, *list(vars(operator).values())[2:])
        nodes[f"weights{number}"] = operator
        nodes[f"lif{number}"] = cells(
            shape,
            threshold=draw("threshold", 0, 200),
            decay=1 - draw("vDecay", 0, 4096) / 4096,
            current=draw("current", 1, 4095) / 4096 if remembers else None,
        )
    nodes["output"] = Output(shape)
    names = list(nodes)
    edges = tuple(itertools.pairwise(names))
    network = Network(nodes, edges, STEPS, weight_unit=1.0)
    program = compile_network(network, TARGET, EXPORT)
    path = tmp_path_factory.mktemp("netx") / NETX
    path.write_bytes(program.extra_files[NETX])

    again = compile_network(from_netx(path).network, TARGET, EXPORT)

    assert again.extra_files[NETX] == path.read_bytes()
    inputs = spikes(nodes["input"].shape)
    before, after = (
        each.run(inputs, "all", on="fixedpoint").spikes.values() for each in (program, again)
    )
    for fired, refired in zip(before, after, strict=True):
        np.testing.assert_array_equal(fired, refired)


# ---- the file


def test_the_file_has_what_slayers_have(chain: Chain, written: Written) -> None:
    program = compile_network(convolutional(chain), TARGET, EXPORT)

    with h5py.File(written(program)) as file:
        layers = [file[f"layer/{number}"] for number in range(5)]
        assert [layer["type"][0] for layer in layers] == [
            *(b"input", b"conv", b"conv", b"flatten", b"dense")
        ]
        assert layers[0]["shape"][()].tolist() == [2, 6, 5]
        conv, flatten, dense = layers[1], layers[3], layers[4]
        assert sorted(conv) == [
            *("bias", "dilation", "groups", "inChannels", "kernelSize", "neuron", "outChannels"),
            *("padding", "shape", "stride", "type", "weight"),
        ]
        assert conv["weight"].shape == (4, 1, 3, 2, 1)
        assert [conv[key][()].tolist() for key in ("stride", "padding", "dilation")] == [
            *([2, 1], [1, 0], [1, 2])
        ]
        assert flatten["shape"][()].tolist() == [9, 1, 1]
        assert sorted(dense) == [
            *("bias", "inFeatures", "neuron", "outFeatures", "shape", "type", "weight")
        ]
        neuron = {key: value[()] for key, value in dense["neuron"].items()}
        assert neuron.pop("type") == [b"CUBA"]
        assert neuron == {
            "iDecay": 4096,
            "vDecay": 1024,
            "vThMant": 40,
            "refDelay": 1,
            "gradedSpike": False,
        }
        assert file["simulation/tSample"][()] == STEPS


def test_the_same_program_gives_the_same_bytes(chain: Chain) -> None:
    one, two = (compile_network(convolutional(chain), TARGET, EXPORT) for _ in range(2))

    assert one.extra_files[NETX] == two.extra_files[NETX] == netx_bytes(one)


def test_the_file_is_in_the_program_if_it_is_asked_for(chain: Chain, tmp_path: Path) -> None:
    network = convolutional(chain)
    program = compile_network(network, TARGET, EXPORT)
    program.save(tmp_path / "program")

    assert (tmp_path / "program" / NETX).read_bytes() == program.extra_files[NETX]
    assert load(tmp_path / "program").extra_files == program.extra_files
    assert program.facts["notes"][-1] == (
        "'network.net' is loaded by netx with reset_interval=8, reset_offset=1"
    )
    assert NETX not in compile_network(network, TARGET, CompileOptions()).extra_files


# ---- what netx would change


@given(arrays(np.int64, (2, 3), elements=st.integers(-128, 127)))
def test_netx_keeps_weights_of_which_one_is_positive(half: NDArray[np.int64]) -> None:
    half[0, 0] = abs(half[0, 0]) or 1

    ((loaded, wanted),) = _loaded_by_netx(2 * np.clip(half, -128, 127))

    np.testing.assert_array_equal(loaded, wanted)


@given(arrays(np.int64, (2, 3), elements=st.integers(0, 255)))
def test_netx_keeps_odd_excitatory_weights(weight: NDArray[np.int64]) -> None:
    weight[0, 0] = weight[0, 0] or 1

    ((loaded, wanted),) = _loaded_by_netx(weight)

    np.testing.assert_array_equal(loaded, wanted)


def test_netx_changes_inhibitory_weights_whose_least_is_a_power_of_two() -> None:
    changed = [
        least
        for least in range(2, 258, 2)
        if (np.not_equal(*_loaded_by_netx(np.array([[-least, -2]]))[0])).any()
    ]

    assert changed == [2, 4, 8, 16, 32, 64, 128, 256]


# ---- refusals


def dense_chain(weight: Any, bias: Any = None, **more: Any) -> dict[str, Any]:
    rows = np.array(weight, float)
    given = np.zeros(len(rows)) if bias is None else np.array(bias, float)
    return {"fc": Dense(rows, given), "lif": cells((len(rows),), **more)}


CHAINS: list[tuple[tuple[int, ...], dict[str, Any], str]] = [
    (
        (1,),
        dense_chain([[2], [2]], threshold=[3, 5]),
        "'lif' needs one threshold for all of its neurons in a .net file, but there are 2",
    ),
    ((1,), dense_chain([[2], [2]], decay=[0.5, 1]), "'lif' needs one leak for all"),
    ((1,), dense_chain([[2], [2]], current=[0.5, 0.25]), "'lif' needs one current leak for all"),
    (
        (1,),
        dense_chain([[2]], reset="subtract"),
        "'lif' needs Lava's LIF in a .net file, but it needs microcode",
    ),
    ((1,), dense_chain([[2]], refractory=2), "'lif' needs Lava's LIF in a .net file"),
    (
        (2,),
        dense_chain([[2, 2]], bias=[0.25]),
        "'lif' needs biases of whole weight units in a .net file, but 1 of 1 lie between, like 0.25",
    ),
    (
        (2,),
        dense_chain([[2, 2]], bias=[5000], threshold=9000),
        "'lif' needs biases up to 4095 weight units in a .net file, but one is 5000",
    ),
    (
        (2,),
        dense_chain([[2, 2]], bias=[3], current=0.5),
        "'lif' must start each sample like any other step in a .net file, but it starts with a pulse",
    ),
    (
        (2,),
        {"wait": Delay(np.array([1, 63])), **dense_chain([[2, 2]])},
        "'fc' needs delays of at most 62 steps in a .net file, but the longest is 63",
    ),
    ((2,), dense_chain([[0, 0]]), "'fc' needs a weight for netx to load, but all are 0"),
    (
        (2,),
        dense_chain([[-4, -2]]),
        "'fc' needs weights that netx does not change, but it would change 1, as none is positive",
    ),
    (
        (4,),
        {
            "fc": Dense(even((4, 4), 1), np.zeros(4)),
            "image": Reshape((1, 2, 2)),
            "lif": cells((1, 2, 2)),
        },
        "'fc' needs a vector as its target in a .net file, but it is .1, 2, 2.",
    ),
    (
        (4,),
        {
            "image": Reshape((1, 2, 2)),
            "conv": Conv2d(even((1, 1, 2, 2), 2), np.zeros(1)),
            "lif": cells((1, 1, 1)),
        },
        "'conv' must see its populations as they are in a .net file, but it sees .1, 2, 2. in 'input'",
    ),
    (
        (1, 3),
        {"conv": Conv2d(even((1, 1, 1, 2), 2), np.zeros(1)), "lif": cells((1, 2))},
        "'input' needs a vector, or .channels, height, width., in a .net file, but its shape is .1, 3.",
    ),
    (
        (1, 2, 2),
        {
            "wait": Delay(np.array(1)),
            "conv": Conv2d(even((1, 1, 2, 2), 2), np.zeros(1)),
            "lif": cells((1, 1, 1)),
        },
        "'conv' must not be late in a .net file, as it is a convolution, but it is, by up to 1 steps",
    ),
    (
        (1, 200, 1),
        {
            "conv": Conv2d(np.full((1, 1, 1, 1), 2.0), np.zeros(1), (130, 1)),
            "lif": cells((1, 2, 1)),
        },
        "'conv' needs strides, .* up to 127 in a .net file, but the largest is 130",
    ),
    (
        (1, 2, 1),
        {
            "conv": Conv2d(np.full((1, 1, 1, 1), 2.0), np.zeros(1)),
            "lif": cells((1, 2, 1), leak=[[[4], [8]]]),
        },
        "'lif' needs one bias for each channel in a .net file, but they differ within one",
    ),
]


@pytest.mark.parametrize(("shape", "nodes", "reason"), CHAINS)
def test_what_the_format_cannot_say_is_refused(
    chain: Chain, shape: tuple[int, ...], nodes: dict[str, Any], reason: str
) -> None:
    network = in_weight_units(chain(shape, nodes, steps=STEPS))

    compile_network(network, TARGET, CompileOptions())
    with pytest.raises(UnsupportedError, match=reason):
        compile_network(network, TARGET, EXPORT)


def branched(*edges: tuple[str, str], feedback: tuple[tuple[str, str], ...] = ()) -> Network:
    """Return two layers of three neurons, `lif1` and `lif2`, behind `fc1` and `fc2`, and more edges."""
    weight = even((3, 3), 2)
    nodes: dict[str, Any] = {
        "input": Input((3,)),
        "fc1": Dense(weight, np.zeros(3)),
        "lif1": cells((3,)),
        "fc2": Dense(weight, np.zeros(3)),
        "lif2": cells((3,)),
        "output": Output((3,)),
    }
    names = list(nodes)
    more = {name: Dense(weight.T, np.zeros(3)) for edge in edges for name in edge} if edges else {}
    nodes = {**more, **nodes}
    chained = tuple(itertools.pairwise(names))
    return Network(nodes, (*chained, *edges), STEPS, frozenset(feedback), weight_unit=1.0)


def test_branches_are_refused() -> None:
    network = branched(("input", "skip"), ("skip", "lif2"))

    with pytest.raises(
        UnsupportedError,
        match="'lif2' needs one group of synapses, from 'lif1', in a .net file, but it is fed from"
        " 'lif1' by 'fc2', 'input' by 'skip'",
    ):
        compile_network(network, TARGET, EXPORT)


def test_feedback_to_another_layer_is_refused() -> None:
    network = branched(("lif2", "back"), ("back", "lif1"), feedback=(("lif2", "back"),))

    with pytest.raises(
        UnsupportedError,
        match="'back' must lead from a layer to itself, as feedback in a .net file, but it leads from"
        " 'lif2' to 'lif1'",
    ):
        compile_network(network, TARGET, EXPORT)


def test_feedback_of_a_convolution_is_refused() -> None:
    nodes: dict[str, Any] = {
        "input": Input((1, 2, 2)),
        "conv": Conv2d(even((1, 1, 1, 1), 1) + 2, np.zeros(1)),
        "lif": cells((1, 2, 2)),
        "output": Output((1, 2, 2)),
        "own": Conv2d(even((1, 1, 1, 1), 2) + 2, np.zeros(1)),
        "wait": Delay(np.array(1)),
        "also": Conv2d(even((1, 1, 1, 1), 3) + 2, np.zeros(1)),
    }
    back = [("lif", "own"), ("lif", "wait")]
    ahead = [("wait", "also"), ("own", "lif"), ("also", "lif")]
    edges = (*itertools.pairwise(list(nodes)[:4]), *back, *ahead)
    network = Network(nodes, edges, STEPS, frozenset(back), weight_unit=1.0)

    program = compile_network(network, TARGET, CompileOptions())
    told = [str(problem) for problem in problems_of_netx(program)]

    assert told[:2] == [
        "layer 'lif' needs one group of synapses to itself in a .net file, but there are also, own",
        (
            "layer 'lif' needs dense weights beside feedback in a .net file, but also, conv, own are"
            " convolutions"
        ),
    ]


def test_several_ends_are_refused_with_everything_else() -> None:
    weight = even((2, 2), 2)
    nodes: dict[str, Any] = {
        "a": Input((2,)),
        "b": Input((2,)),
        "fc": Dense(weight, np.zeros(2)),
        "lif": cells((2,), reset="subtract"),
        "out": Output((2,)),
        "fc2": Dense(weight + 0.0, np.array([0.5, 0])),
        "lif2": cells((2,)),
        "out2": Output((2,)),
    }
    edges = (
        *(("a", "fc"), ("b", "fc"), ("fc", "lif"), ("lif", "out")),
        *(("lif", "fc2"), ("fc2", "lif2"), ("lif2", "out2")),
    )
    network = Network(nodes, edges, STEPS, weight_unit=1.0)

    program = compile_network(network, TARGET, CompileOptions())
    told = [str(problem) for problem in problems_of_netx(program)]

    for reason in (
        "a .net file has one input, but there are a, b",
        "a .net file has one output, but there are out, out2",
        "layer 'lif' needs one group of synapses, from 'b', in a .net file",
        "a .net file ends with its output 'out', but that is 'lif'",
        "layer 'lif' needs Lava's LIF in a .net file, but it needs microcode",
        "layer 'lif2' needs biases of whole weight units in a .net file",
    ):
        assert any(text.startswith(reason) for text in told), reason
    with pytest.raises(UnsupportedError, match="6 problems"):
        netx_bytes(program)


def test_sums_that_travel_as_graded_spikes_are_refused() -> None:
    nodes: dict[str, Any] = {
        "input": Input((2,)),
        "fc1": Dense(even((2, 2), 1), np.zeros(2)),
        "lif1": cells((2,)),
        "fc2": Dense(even((2, 2), 2), np.zeros(2)),
        "lif2": cells((2,)),
        "fc3": Dense(even((2, 2), 3), np.zeros(2)),
        "lif3": cells((2,)),
        "output": Output((2,)),
    }
    names = list(nodes)
    edges = (*itertools.pairwise(names), ("lif1", "fc3"))
    network = Network(nodes, edges, STEPS, weight_unit=1.0)
    options = CompileOptions(sums="graded", target_options={"netx": "yes"})

    with pytest.raises(
        UnsupportedError, match="has no sums of spikes, but it is one: export with --sums"
    ):
        compile_network(network, TARGET, options)


def test_a_layer_that_the_host_computes_is_refused(chain: Chain) -> None:
    nodes = dense_chain(even((3, 2), 1))
    network = chain((2,), nodes, steps=STEPS, input_range=InputRange(0, 1))
    options = CompileOptions(first_layer="host", target_options={"netx": "yes"})

    with pytest.raises(
        UnsupportedError,
        match="'fc' must be computed on the chip .* export with --first-layer graded",
    ):
        compile_network(network, TARGET, options)
