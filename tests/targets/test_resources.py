"""What programs take of Loihi 2: counts against brute force, estimates against what Intel printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurocompile_loihi2.resources import (
    LIMITS,
    Fan,
    Kernel,
    columns_of_chunk,
    place,
    synapse_words,
    weight_bits,
)

from neurocompile.integer import (
    Geometry,
    IntegerInput,
    IntegerNetwork,
    IntegerSynapses,
    conv_output,
)
from neurocompile.ir import LIF, Conv2d, Delay, Dense, Flatten, Input, Network, Node, Output
from neurocompile.linear import Window, matrix_of
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.resources import Resources, counts_of, fan_in, fan_out
from neurocompile.target import find, installed


def taken(network: Network, target: str = "loihi2", **options: str) -> Resources:
    chosen = find(target)
    program = compile_network(
        network, chosen, CompileOptions(validate=False, target_options=options)
    )
    return chosen.resources(program)


def figure(resources: Resources, layer: str, name: str) -> int:
    row = next(row for row in resources.layers if row.name == layer)
    return row.figures[name].value


def dense_without_zeros(rows: int, columns: int) -> Dense:
    """Weights that all stay, over the whole range of 8 bits."""
    generator = np.random.default_rng(rows)
    weight = generator.uniform(0.1, 1, (rows, columns)) * generator.choice([-1, 1], (rows, columns))
    weight.flat[0] = -1
    return Dense(weight, np.zeros(rows))


# What Intel's compiler printed


@pytest.mark.parametrize(
    ("synapses", "words"), [(10, 4), (50, 16), (64, 21), (85, 27), (200, 63), (256, 81)]
)
def test_words_of_an_axon_are_those_of_the_tables(synapses: int, words: int) -> None:
    assert synapse_words(synapses) == words


def test_the_mnist_network_takes_the_five_cores_of_the_table(
    lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    nodes: dict[str, Node] = {}
    for name, (rows, columns) in {"1": (128, 784), "2": (64, 128), "3": (10, 64)}.items():
        nodes |= {f"fc{name}": dense_without_zeros(rows, columns), f"lif{name}": lif((rows,))}

    resources = taken(chain((784,), nodes))

    assert [figure(resources, f"lif{n}", "cores") for n in (1, 2, 3)] == [3, 1, 1]
    assert [figure(resources, f"lif{n}", "words") for n in (2, 3)] == [2688, 256]
    assert [figure(resources, f"lif{n}", "axons") for n in (1, 2, 3)] == [784, 128, 64]
    assert resources.totals["cores"].to_json() == {"value": 5, "status": "estimated"}
    assert resources.totals["synapses"].to_json() == {
        "value": 784 * 128 + 128 * 64 + 640,
        "status": "exact",
    }
    assert resources.totals["chips"].value == 1


@pytest.mark.parametrize(
    ("shape", "inputs", "bits", "columns", "cores", "words"),
    [
        ((24, 32, 99), 3, 6, 4, 25, 81),
        ((36, 15, 49), 24, 6, 4, 13, 864),
        ((48, 7, 24), 36, 6, 8, 3, 1620),
        ((64, 4, 22), 48, 4, 8, 3, 2160),
        ((64, 2, 20), 64, 4, 16, 2, 2880),
    ],
)
def test_pilotnets_convolutions_are_cut_as_in_the_table(
    shape: tuple[int, ...], inputs: int, bits: int, columns: int, cores: int, words: int
) -> None:
    """The table gives cores and words; bits are those of the weights that explain the words."""
    channels, height, width = shape
    kernel = Kernel((channels, inputs, 3, 3), 1, bits)

    placed = place(channels * height * width, shape, [], [kernel])

    assert columns_of_chunk(height, width, channels) == columns
    assert (placed.cores, placed.words) == (cores, words)


@pytest.mark.parametrize(
    ("shape", "kernel", "tightest"),
    [
        (
            (64, 4, 4),
            (64, 128, 3, 3),
            "synapse memory",
        ),  # 1024 of 4096 neurons, 10368 of 16000 words
        ((64, 4, 4), (64, 1, 1, 1), "neurons"),  # 9 words
        ((64, 4, 22), (64, 48, 3, 3), "neurons"),  # cut along x
        ((512, 4, 4), (512, 512, 3, 3), "synapse memory"),  # channels are cut, for 299520 words
        ((86, 48, 3), (86, 1, 1, 1), "neurons"),  # channels are cut, for 4128 neurons of a column
    ],
)
def test_the_limit_that_decides_about_an_image(
    shape: tuple[int, ...], kernel: tuple[int, ...], tightest: str
) -> None:
    weights = Kernel(kernel, 1, 8)

    assert place(int(np.prod(shape)), shape, [], [weights]).tightest == tightest


def test_pilotnets_input_is_cut_as_in_the_table() -> None:
    kernel = Kernel((3, 1, 1, 1), 3, 8)

    assert place(3 * 66 * 200, (3, 66, 200), [], [kernel]).cores == 13


@pytest.mark.parametrize(
    ("inputs", "neurons", "printed"), [(784, 128, 3), (128, 64, 1), (64, 10, 1), (2560, 100, 12)]
)
def test_cores_of_dense_layers_are_a_lower_bound(inputs: int, neurons: int, printed: int) -> None:
    placed = place(neurons, (), [Fan(inputs, inputs * neurons, 8)], [])

    assert placed.cores <= printed
    assert placed.words <= LIMITS["words_per_core"].value


@pytest.mark.parametrize(
    ("weights", "bits"),
    [([-256, 254], 8), ([254], 7), ([0], 1), ([2, -2], 2), ([255, 1], 8), ([-64, 64], 2), ([6], 2)],
)
def test_bits_of_weights(weights: list[int], bits: int) -> None:
    assert weight_bits(np.array(weights)) == bits


# Counts


@given(data=st.data())
def test_synapses_of_convolutions_are_counted_at_borders(
    data: Any, integer_neurons: Callable[..., Any]
) -> None:
    def choose(*values: int) -> int:
        return int(data.draw(st.sampled_from(values)))

    groups = choose(1, 2)
    kernel, stride, padding, dilation = (
        (choose(*values), choose(*values)) for values in ((1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2))
    )
    source = (2 * groups, choose(5, 6), choose(5, 7))
    size = [
        conv_output(*sizes)
        for sizes in zip(source[1:], kernel, stride, padding, dilation, strict=True)
    ]
    target = (3 * groups, *size)
    generator = np.random.default_rng(choose(0, 1, 2))
    weight = generator.integers(0, 3, (target[0], 2, *kernel))  # a third of them are 0
    group = IntegerSynapses("w", "in", "out", weight, Geometry(stride, padding, dilation, groups))
    network = IntegerNetwork(
        (IntegerInput("in", source, 1.0, 0, 1, True), integer_neurons("out", target)),
        (group,),
        {"out": "out"},
    )
    conv = Conv2d(weight.astype(np.float64), np.zeros(target[0]), stride, padding, dilation, groups)

    written_out = matrix_of(Window(conv, source, (target[0], size[0], size[1]))) != 0

    np.testing.assert_array_equal(fan_in(network, group), written_out.sum(1))
    np.testing.assert_array_equal(fan_out(network, group), written_out.sum(0))
    counts = counts_of(network, "out")
    assert counts["synapses"].value == written_out.sum()
    assert counts["axons"].value == written_out.any(0).sum()
    assert counts["fan_in"].value == written_out.sum(1).max()
    assert counts["weights"].value == np.count_nonzero(weight)
    assert {count.status for count in counts.values()} == {"exact"}


def test_relays_and_parts_that_the_lowering_adds_are_counted(
    lif: Callable[..., LIF], dense: Callable[..., Dense]
) -> None:
    """in -> a -> b -> c, and a -> c: the spikes of a wait for those of b."""
    eye = np.eye(20)
    nodes: dict[str, Node] = {
        "in": Input((20,)),
        "wa": dense(eye), "a": lif((20,)),
        "wb": dense(eye), "b": lif((20,), threshold=np.linspace(1, 2, 20)),
        "wc": dense(eye), "skip": dense(2 * eye), "c": lif((20,)),
        "out": Output((20,)),
    }  # fmt: skip
    edges = (
        ("in", "wa"), ("wa", "a"), ("a", "wb"), ("wb", "b"), ("b", "wc"), ("wc", "c"),
        ("a", "skip"), ("skip", "c"), ("c", "out"),
    )  # fmt: skip
    network = Network(nodes, edges, 4)

    resources = taken(network, balance="relay")

    assert figure(resources, "a (relays)", "neurons") == 20
    assert resources.totals["neurons"].value == 80
    assert resources.totals["synapses"].value == 5 * 20
    assert figure(resources, "b", "parts") == 20
    assert figure(resources, "b", "cores") == 3  # 8 groups of equal neurons to a core
    row = next(row for row in resources.layers if row.name == "b")
    assert (row.tightest, row.remedy) == (
        "different neurons",
        "fewer different leaks and thresholds",
    )
    assert figure(taken(network, balance="delay"), "c", "synapses") == 40
    assert figure(taken(network, parameters="arrays"), "b", "cores") == 1


def test_delays_by_synapse_split_a_group_and_keep_its_synapses(
    lif: Callable[..., LIF], chain: Callable[..., Network], dense: Callable[..., Dense]
) -> None:
    network = chain(
        (4,),
        {
            "fc": dense(np.ones((3, 4))),
            "late": Delay(np.array([0, 70, 140])),
            "lif": lif((3,)),
            "fc2": dense(np.ones((2, 3))),
            "late2": Delay(np.array([0, 70])),
            "lif2": lif((2,)),
        },
    )

    resources = taken(network)

    assert figure(resources, "lif", "synapses") == 12
    assert figure(resources, "lif2", "synapses") == 6
    assert figure(resources, "lif (relays)", "neurons") == 3


def test_a_fan_in_beyond_loihi_1_is_told(
    lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    """The question of spikingjelly #543: does a 3x3 convolution of 512 channels fit 4096 axons?"""
    conv = Conv2d(np.ones((8, 512, 3, 3)), np.zeros(8), padding=(1, 1))
    network = chain((512, 4, 4), {"conv": conv, "lif": lif((8, 4, 4))})

    resources = taken(network)

    assert figure(resources, "lif", "fan_in") == 4608
    assert figure(resources, "lif", "synapses") == 8 * 512 * (2 + 3 + 3 + 2) ** 2
    (note,) = resources.notes
    assert "'lif' 4608 by a shared kernel" in note
    assert "Loihi 1 has 4096 input axons, one of Loihi 2 16000" in note


def test_a_column_of_more_than_4096_neurons_is_cut_by_channels(
    lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    conv = Conv2d(np.ones((86, 1, 1, 1)), np.zeros(86))
    network = chain((1, 48, 3), {"conv": conv, "lif": lif((86, 48, 3))})  # 48 * 86 = 4128

    resources = taken(network)

    assert figure(resources, "lif", "cores") == 6  # two halves of the channels, three columns
    assert any("'lif' 4128: the channels are cut" in note for note in resources.notes)


def test_what_fits_no_core_has_no_number_of_cores(
    lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    network = chain((16001,), {"fc": Dense(np.ones((1, 16001)), np.zeros(1)), "lif": lif((1,))})

    resources = taken(network)

    assert resources.unplaced == ("lif",)
    assert "cores" not in resources.layers[0].figures
    assert "'lif' fits no core" in resources.notes[0]


def test_more_cores_than_a_chip_has_take_several_chips(
    lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    conv = Conv2d(np.ones((16, 1, 1, 1)), np.zeros(16))
    network = chain((1, 200, 300), {"conv": conv, "lif": lif((16, 200, 300))})

    resources = taken(network)

    assert figure(resources, "lif", "cores") == 300  # 3200 neurons of a column each
    assert resources.totals["chips"].value == 3
    assert "'lif' takes the most, 300" in resources.notes[-1]


def test_the_host_sends_a_sum_to_each_neuron(
    lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    network = chain(
        (1, 4, 4),
        {"flat": Flatten(), "fc": Dense(np.ones((6, 16)), np.zeros(6)), "lif": lif((6,))},
    )
    analogue = Network(
        {**network.nodes, "input": Input((1, 4, 4), _tenths())}, network.edges, network.steps
    )
    target = find("loihi2")
    program = compile_network(analogue, target, CompileOptions(validate=False, first_layer="host"))

    resources = target.resources(program)

    assert figure(resources, "lif", "synapses") == 0
    assert figure(resources, "lif", "axons_per_core") == 6


def _tenths() -> Any:
    from neurocompile.data import InputRange

    return InputRange(-1.0, 1.0)


@pytest.mark.parametrize("target", installed())
def test_every_target_says_what_a_program_takes(
    target: str, lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    network = chain((5,), {"fc": Dense(np.ones((3, 5)), np.zeros(3)), "lif": lif((3,))})

    resources = taken(network, target)

    assert figure(resources, "lif", "neurons") == 3
    assert resources.totals["synapses"].value == 15


def test_the_reference_engine_has_counts_and_no_limits(
    lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    network = chain((5,), {"fc": Dense(np.ones((3, 5)), np.zeros(3)), "lif": lif((3,))})

    resources = taken(network, "fixedpoint")

    assert {name: total.value for name, total in resources.totals.items()} == {
        "neurons": 3,
        "synapses": 15,
        "weights": 15,
    }
    assert not resources.limits
    assert resources.layers[0].tightest == ""
