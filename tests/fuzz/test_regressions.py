"""Networks that random testing found, shrunk, each with what was wrong once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pytest

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
