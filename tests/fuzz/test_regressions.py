"""Networks that random testing found, shrunk, each with what was wrong once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from neurocompile.errors import UnsupportedError
from neurocompile.ir import (
    LIF,
    Conv2d,
    Delay,
    Dense,
    Edge,
    Input,
    Integrator,
    Network,
    Node,
    Output,
    Pool2d,
    Scale,
)
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program
from neurocompile.target import find

MakeLif = Callable[..., LIF]


def validated(
    nodes: Mapping[str, Node],
    edges: str,
    *,
    feedback: frozenset[Edge] = frozenset(),
    steps: int = 5,
) -> Program:
    """Compile "a>b>c, x>y"-style edges with every pass compared."""
    pairs: list[Edge] = []
    for chain in edges.split(", "):
        names = chain.split(">")
        pairs += list(itertools.pairwise(names))
    network = Network(nodes, tuple(dict.fromkeys(pairs)), steps, feedback)
    return compile_network(network, find("fixedpoint"), CompileOptions(validate=True))


def test_a_constant_input_builds_up_in_a_synaptic_current(lif: MakeLif) -> None:
    """The bias of a layer before CUBA neurons went into the membrane, where it does not build up."""
    program = validated(
        {
            "in": Input((1,)),
            "fc": Dense(np.ones((1, 1)), np.array([0.25])),
            "lif": lif((1,), current_decay=np.full(1, 0.5)),
            "out": Output((1,)),
        },
        "in>fc>lif>out",
    )

    neurons = next(item for item in program.network.neurons if item.name == "lif")
    assert neurons.pulse < 0 < neurons.bias.item()


def test_a_constant_input_builds_up_in_an_integrator_too() -> None:
    half = np.full(2, 0.5)

    validated(
        {
            "in": Input((2,)),
            "fc": Dense(np.eye(2), np.array([0.5, -0.25])),
            "sum": Integrator(decay=half, gain=np.ones(2), leak=half, current_decay=half),
            "out": Output((2,)),
        },
        "in>fc>sum>out",
    )


def test_a_cycle_of_two_layers_takes_two_machine_steps_a_step(lif: MakeLif) -> None:
    program = validated(
        {
            "in": Input((2,)),
            "a": lif((2,)),
            "w": Dense(np.array([[0.0, 1.0], [1.0, 0.5]]), np.zeros(2)),
            "b": lif((2,)),
            "out": Output((2,)),
        },
        "in>a>w>b>a, b>out",
        feedback=frozenset({("b", "a")}),
    )

    assert (program.schedule.stride, program.schedule.gap) == (2, 1)


def test_a_pool_over_late_pixels_keeps_each_pixel_s_delay(lif: MakeLif) -> None:
    """A delay for each element, then windows that overlap, then a convolution that pads."""
    steps = np.arange(16).reshape(1, 4, 4) % 4

    validated(
        {
            "in": Input((1, 4, 4)),
            "late": Delay(steps),
            "pool": Pool2d((3, 3), (1, 1), (1, 1), 0.25),
            "conv": Conv2d(np.ones((1, 1, 3, 3)) / 4, np.zeros(1), padding=(1, 1)),
            "lif": lif((1, 4, 4)),
            "out": Output((1, 4, 4)),
        },
        "in>late>pool>conv>lif>out",
    )


@pytest.mark.lava
def test_parts_that_do_not_hear_each_other_all_run_on_lava(lif: MakeLif) -> None:
    """Lava ran only the part that the last process belonged to; the other one's records stayed 0."""
    nodes: dict[str, Node] = {
        "in": Input((2,)),
        "other": Input((2,)),
        "lif": lif((2,)),
        "weak": lif((2,), threshold=0.5),
        "out": Output((2,)),
        "out2": Output((2,)),
    }
    edges = (("in", "lif"), ("lif", "out"), ("other", "weak"), ("weak", "out2"))
    network = Network(nodes, edges, 3)
    ones = np.ones((2, 3, 2))
    inputs = {"in": ones, "other": ones}

    with compile_network(network, find("loihi2"), CompileOptions()) as program:
        ours = program.run(inputs, "all")
        definition = program.run(inputs, "all", on="fixedpoint")

    for layer, spikes in definition.spikes.items():
        assert spikes.any()
        np.testing.assert_array_equal(ours.spikes[layer], spikes, err_msg=layer)


@pytest.mark.lava
@pytest.mark.parametrize(
    ("neurons", "weight", "fires"), [(1, 3.0, True), (200, -1.0, False)], ids=["up", "down"]
)
def test_a_current_remembers_the_gap_between_samples(
    neurons: int, weight: float, fires: bool, lif: MakeLif, dense: Callable[..., Dense]
) -> None:
    """
    Layer a fires by itself, in the gap as well, and b's current keeps 99 % of it.

    The silence of b was reckoned without the gap: it fired there, or wrapped and then fired, and the
    next sample heard it.
    """
    nodes: dict[str, Node] = {
        "in": Input((1,)),
        "fa": dense(np.full((neurons, 1), 0.5)),
        "a": lif((neurons,), decay=0.0, leak=2.0),
        "w": dense(np.full((1, neurons), weight)),
        "b": lif((1,), decay=0.0, current_decay=0.99),
        "late": Delay(np.array(1)),
        "c": lif((1,), decay=0.0, threshold=0.5),
        "out": Output((1,)),
    }
    network = Network(nodes, tuple(itertools.pairwise(nodes)), 4)
    options = CompileOptions(target_options={"convolution": "conv"})  # no replicas: one by one

    with compile_network(network, find("loihi2"), options) as program:
        ours = program.run(np.zeros((3, 4, 1)), "all")
        definition = program.run(np.zeros((3, 4, 1)), "all", on="fixedpoint")

    assert definition.spikes["a"].all()
    assert definition.spikes["b"].any() == fires
    for layer, spikes in definition.spikes.items():
        np.testing.assert_array_equal(ours.spikes[layer], spikes, err_msg=layer)


def test_delays_of_each_pixel_behind_a_convolution_are_one_matrix(lif: MakeLif) -> None:
    """There was a matrix for each of the delays, all held at once."""
    steps = np.arange(32).reshape(2, 4, 4)

    program = validated(
        {
            "in": Input((1, 4, 4)),
            "conv": Conv2d(np.ones((2, 1, 3, 3)), np.zeros(2), padding=(1, 1)),
            "late": Delay(steps),
            "lif": lif((2, 4, 4)),
            "out": Output((2, 4, 4)),
        },
        "in>conv>late>lif>out",
        steps=40,
    )

    (group,) = program.network.synapses
    assert group.delay.shape == group.weight.shape == (32, 16)
    assert group.delay.max() == 31


def test_delays_of_each_pixel_before_another_layer_are_one_step_each(lif: MakeLif) -> None:
    program = validated(
        {
            "in": Input((3,)),
            "first": Dense(np.array([[1.0, 0, 1], [0.5, 1, 0]]), np.zeros(2)),
            "late": Delay(np.array([2, 0])),
            "second": Dense(np.array([[1.0, 1], [1, -0.5]]), np.zeros(2)),
            "lif": lif((2,)),
            "out": Output((2,)),
        },
        "in>first>late>second>lif>out",
    )

    assert sorted(int(group.delay) for group in program.network.synapses) == [0, 2]


@pytest.mark.parametrize(
    ("nodes", "edges", "text"),
    [
        (
            {
                "in": Input((3, 32, 32)),
                "conv": Conv2d(np.ones((64, 3, 3, 3)), np.zeros(64), padding=(1, 1)),
            },
            "in>conv>lif>out",
            "layer 'lif' needs one input gain per channel behind so large a convolution",
        ),
        (
            {
                "in": Input((64, 32, 32)),
                "a": Delay(np.array(40_000)),
                "b": Delay(np.array(40_000)),
            },
            "in>a>b>lif>out",
            "layer 'b' needs delays of at most 65536 steps, .* but the longest is 80000",
        ),
    ],
)
def test_what_is_too_large_is_refused_by_name(
    nodes: dict[str, Node], edges: str, text: str, lif: MakeLif
) -> None:
    shape = (64, 32, 32)
    gain = np.random.default_rng(0).uniform(1, 2, shape)

    with pytest.raises(UnsupportedError, match=text):
        validated({**nodes, "lif": lif(shape, gain=gain), "out": Output(shape)}, edges)


def test_long_chains_and_long_rings_compile(lif: MakeLif) -> None:
    """A chain was walked by recursion, and a ring's stride was searched one by one."""
    chain: dict[str, Node] = {f"s{number}": Scale(np.array(1.0)) for number in range(2000)}
    validated(
        {"in": Input((1,)), **chain, "lif": lif((1,)), "out": Output((1,))},
        ">".join(["in", *chain, "lif", "out"]),
        steps=1,
    )
    ring: dict[str, Node] = {f"n{number}": lif((1,)) for number in range(40)}
    program = validated(
        {"in": Input((1,)), **ring, "out": Output((1,))},
        ">".join(["in", *ring, "n0"]) + ", n39>out",
        feedback=frozenset({("n39", "n0")}),
        steps=2,
    )
    assert program.schedule.stride == 40


def test_a_bias_that_takes_the_bits_of_the_weights_is_named(lif: MakeLif) -> None:
    program = validated(
        {
            "in": Input((1,)),
            "fc": Dense(np.ones((1, 1)), np.array([0.25])),
            "lif": lif((1,), decay=0.75, current_decay=1 - 1 / 2048),
            "out": Output((1,)),
        },
        "in>fc>lif>out",
    )

    assert program.facts["quantisation"]["scales_lowered_by_biases"]["lif"] > 10
