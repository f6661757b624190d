"""Populations out of operations: examples by hand, and that no spike changes on random networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import UnsupportedError
from neurocompile.ir import (
    LIF,
    Conv2d,
    Delay,
    Dense,
    Flatten,
    Input,
    Integrator,
    Network,
    Node,
    Output,
    Pool2d,
    Reshape,
    Scale,
)
from neurocompile.passes.assemble import assemble
from neurocompile.populations import (
    InputPopulation,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SynapseGroup,
)
from neurocompile.reference import simulate

Chain = Callable[..., Network]
MakeDense = Callable[..., Dense]
MakeLif = Callable[..., LIF]
Same = Callable[..., None]
Spikes = Callable[..., NDArray[np.float64]]


def spiking(network: PopulationNetwork, name: str) -> SpikingPopulation:
    population = network[name]
    assert isinstance(population, SpikingPopulation)
    return population


def readout(network: PopulationNetwork, name: str) -> ReadoutPopulation:
    population = network[name]
    assert isinstance(population, ReadoutPopulation)
    return population


def only_group(network: PopulationNetwork) -> SynapseGroup:
    (group,) = network.synapses
    return group


def kernel_of(group: SynapseGroup) -> Conv2d:
    assert isinstance(group.operator, Conv2d)
    return group.operator


@given(data=st.data())
def test_assembling_changes_no_spike_and_no_output(
    data: Any,
    draw_network: Callable[..., Network],
    draw_inputs: Callable[..., NDArray[np.float64]],
    check_same: Same,
) -> None:
    network = draw_network(data)

    check_same(network, assemble(network), draw_inputs(data, network))


def test_a_two_by_two_average_before_a_convolution_is_one_wider_kernel(
    chain: Chain, lif: MakeLif
) -> None:
    network = chain(
        (1, 4, 4),
        {
            "pool": Pool2d((2, 2), (2, 2), scale=0.25),
            "conv": Conv2d(np.array([[[[4.0, 8.0]]]]), np.zeros(1)),
            "lif": lif((1, 2, 1)),
        },
    )

    group = only_group(assemble(network))

    assert group.name == "conv"
    assert kernel_of(group).weight[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    assert kernel_of(group).stride == (2, 2)


def test_a_global_average_before_a_dense_layer_spreads_its_columns(
    chain: Chain, dense: MakeDense
) -> None:
    network = chain(
        (2, 2, 2),
        {
            "pool": Pool2d((2, 2), (2, 2), scale=0.25),
            "flatten": Flatten(),
            "fc": dense([[4.0, 8.0]]),
        },
    )

    group = only_group(assemble(network))

    assert group.operator.weight.tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]]
    assert (group.source_view, group.target_view) == ((2, 2, 2), (1,))


def test_pools_in_a_row_are_all_merged(chain: Chain, lif: MakeLif) -> None:
    pool = Pool2d((2, 2), (2, 2), scale=0.25)
    network = chain(
        (1, 8, 4),
        {
            "p1": pool,
            "p2": pool,
            "conv": Conv2d(np.ones((1, 1, 1, 1)), np.zeros(1)),
            "lif": lif((1, 2, 1)),
        },
    )

    kernel = kernel_of(only_group(assemble(network)))

    assert kernel.weight.tolist() == np.full((1, 1, 4, 4), 1 / 16).tolist()
    assert kernel.stride == (4, 4)


def test_a_pool_in_front_of_neurons_becomes_a_depthwise_convolution(
    chain: Chain, lif: MakeLif
) -> None:
    network = chain((2, 4, 4), {"pool": Pool2d((2, 2), (2, 2)), "lif": lif((2, 2, 2))})

    kernel = kernel_of(only_group(assemble(network)))

    assert kernel.groups == 2
    assert kernel.weight.tolist() == np.ones((2, 1, 2, 2)).tolist()


@pytest.mark.parametrize(
    ("pool", "size", "kind"),
    [
        (Pool2d((3, 3), (2, 2)), 9, Dense),
        (Pool2d((2, 2), (2, 2)), 5, Dense),
        (Pool2d((3, 3), (3, 3), (1, 1)), 9, Dense),
        (Pool2d((3, 3), (3, 3), (1, 1)), 8, Conv2d),
    ],
    ids=["windows overlap", "pixels are left over", "a padded pixel is left over", "nothing shows"],
)
def test_a_pool_before_a_padding_convolution_is_a_matrix_where_the_padding_shows(
    chain: Chain,
    lif: MakeLif,
    check_same: Same,
    spikes: Spikes,
    pool: Pool2d,
    size: int,
    kind: type,
) -> None:
    conv = Conv2d(np.arange(9.0).reshape(1, 1, 3, 3) / 8, np.zeros(1), padding=(1, 1))
    shape = chain((1, size, size), {"pool": pool, "conv": conv}).shapes["conv"]
    network = chain((1, size, size), {"pool": pool, "conv": conv, "lif": lif(shape)})

    populations = assemble(network)

    assert isinstance(only_group(populations).operator, kind)
    check_same(network, populations, spikes(4, 4, 1, size, size))


def test_gain_leak_and_bias_become_weights_and_bias(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    """u = .5 v + .5 * 4 + 3 (W x + b): weights times 3, bias 3 b + 2."""
    network = chain((1,), {"fc": dense([[2.0]], [1.0]), "lif": lif((1,), gain=3.0, leak=4.0)})

    populations = assemble(network)

    neurons = spiking(populations, "lif")
    assert only_group(populations).operator.weight.tolist() == [[6.0]]
    assert neurons.bias.tolist() == [5.0]
    assert neurons.decay == 0.5


def test_leaks_and_thresholds_may_differ_by_neuron(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    neurons = lif((2,), decay=[0.5, 0.25], threshold=[1.0, 2.0])

    population = spiking(assemble(chain((2,), {"fc": dense(np.eye(2)), "lif": neurons})), "lif")

    assert population.decay.tolist() == [0.5, 0.25]
    assert population.threshold.tolist() == [1, 2]


def test_numbers_that_are_equal_in_a_channel_are_kept_once(chain: Chain, lif: MakeLif) -> None:
    by_channel = np.array([0.5, 0.25]).reshape(2, 1, 1)
    neurons = lif((2, 2, 3), decay=by_channel, threshold=1.5)

    population = spiking(assemble(chain((2, 2, 3), {"lif": neurons})), "lif")

    assert population.decay.tolist() == by_channel.tolist()
    assert population.threshold.shape == ()
    assert population.bias.shape == (2, 1, 1)


@pytest.mark.parametrize("before", [{}, {"conv": Conv2d(np.ones((1, 1, 1, 2)), np.zeros(1))}])
def test_a_gain_that_differs_inside_a_channel_is_exact(
    chain: Chain, lif: MakeLif, check_same: Same, spikes: Spikes, before: dict[str, Node]
) -> None:
    gain = np.array([[[1.0, 0.5], [2.0, 4.0]]])
    width = 2 + len(before)
    network = chain((1, 2, width), {**before, "lif": lif((1, 2, 2), gain=gain)})

    check_same(network, assemble(network), spikes(4, 4, 1, 2, width))


def test_linear_layers_in_a_row_are_one(chain: Chain, dense: MakeDense, lif: MakeLif) -> None:
    """[1 2] ([[1 0] [3 1]] x + [5 6]) + 7 = [7 2] x + 24."""
    network = chain(
        (2,),
        {
            "a": dense([[1.0, 0.0], [3.0, 1.0]], [5.0, 6.0]),
            "b": dense([[1.0, 2.0]], [7.0]),
            "lif": lif((1,)),
        },
    )

    populations = assemble(network)

    assert only_group(populations).name == "input>a>b>lif"
    assert only_group(populations).operator.weight.tolist() == [[7, 2]]
    assert spiking(populations, "lif").bias.tolist() == [24]


def test_scales_and_reshapes_vanish(chain: Chain, dense: MakeDense, lif: MakeLif) -> None:
    network = chain(
        (2, 2),
        {
            "scale": Scale(np.array([[1.0, 2.0], [3.0, 4.0]])),
            "reshape": Reshape((4,)),
            "fc": dense([[1.0, 1.0, 1.0, 0.5]]),
            "lif": lif((1,)),
        },
    )

    assert only_group(assemble(network)).operator.weight.tolist() == [[1, 2, 3, 2]]


def test_a_linear_layer_at_the_end_becomes_a_readout(chain: Chain, dense: MakeDense) -> None:
    populations = assemble(chain((2,), {"fc": dense(np.ones((3, 2)), np.arange(3.0))}))

    assert readout(populations, "fc").bias.tolist() == [0, 1, 2]
    assert readout(populations, "fc").decay is None
    assert populations.outputs == {"output": "fc"}


def test_layers_from_one_population_to_another_add_up_to_one(
    chain: Chain, dense: MakeDense, lif: MakeLif
) -> None:
    one = chain((2,), {"a": dense(np.ones((2, 2)), np.ones(2)), "lif": lif((2,))})
    nodes: dict[str, Node] = {**one.nodes, "b": dense(2 * np.ones((2, 2)), np.ones(2))}
    network = Network(nodes, (*one.edges, ("input", "b"), ("b", "lif")))

    populations = assemble(network)

    assert only_group(populations).operator.weight.tolist() == [[3, 3], [3, 3]]
    assert spiking(populations, "lif").bias.tolist() == [2, 2]


def test_layers_from_two_populations_are_two_groups_with_their_names(
    chain: Chain, dense: MakeDense, lif: MakeLif
) -> None:
    one = chain(
        (2,),
        {
            "a": dense(np.eye(2)),
            "lif1": lif((2,)),
            "b": dense(np.eye(2), [1, 0]),
            "lif2": lif((2,)),
        },
    )
    network = Network(
        {**one.nodes, "skip": dense(3 * np.eye(2), [0, 2])},
        (*one.edges, ("input", "skip"), ("skip", "lif2")),
    )

    populations = assemble(network)

    assert {(group.name, group.source) for group in populations.into("lif2")} == {
        ("b", "lif1"),
        ("skip", "input"),
    }
    assert spiking(populations, "lif2").bias.tolist() == [1, 2]


def test_a_concatenation_by_one_by_one_convolutions_splits_the_next_kernel(
    lif: MakeLif, check_same: Same, spikes: Spikes
) -> None:
    """Channel 0 of the sum is lif1's, channel 1 is lif2's: each gets its slice of the kernel."""
    first, second = (np.array(place, float).reshape(2, 1, 1, 1) for place in ([1, 0], [0, 1]))
    kernel = np.arange(8.0).reshape(1, 2, 2, 2) / 4
    shape = (1, 3, 3)
    nodes: dict[str, Node] = {
        "input": Input(shape),
        "up": Scale(np.array(1.5)),
        "lif1": lif(shape),
        "lif2": lif(shape, decay=0.25),
        "left": Conv2d(first, np.zeros(2)),
        "right": Conv2d(second, np.zeros(2)),
        "conv": Conv2d(kernel, np.zeros(1)),
        "lif3": lif((1, 2, 2)),
        "output": Output((1, 2, 2)),
    }
    edges = (
        ("input", "up"),
        ("input", "lif1"),
        ("up", "lif2"),
        ("lif1", "left"),
        ("lif2", "right"),
        ("left", "conv"),
        ("right", "conv"),
        ("conv", "lif3"),
        ("lif3", "output"),
    )
    network = Network(nodes, edges)

    populations = assemble(network)

    weights = {group.source: kernel_of(group).weight.tolist() for group in populations.into("lif3")}
    assert weights == {"lif1": kernel[:, :1].tolist(), "lif2": kernel[:, 1:].tolist()}
    check_same(network, populations, spikes(4, 5, *shape))


def test_an_identity_skip_is_a_one_by_one_kernel_by_channel(
    chain: Chain, lif: MakeLif, check_same: Same, spikes: Spikes
) -> None:
    shape = (2, 2, 3)
    conv = Conv2d(np.full((2, 2, 1, 1), 0.5), np.zeros(2))
    one = chain(shape, {"lif1": lif(shape), "conv": conv, "lif2": lif(shape)})
    network = Network(one.nodes, (*one.edges, ("lif1", "lif2")))

    populations = assemble(network)

    groups = {group.name: group for group in populations.into("lif2")}
    assert sorted(groups) == ["conv", "lif1>lif2"]
    skip = kernel_of(groups["lif1>lif2"])
    assert (skip.weight.tolist(), skip.groups) == (np.ones((2, 1, 1, 1)).tolist(), 2)
    check_same(network, populations, spikes(4, 5, *shape))


def test_a_uniform_delay_is_the_delay_of_its_group(
    chain: Chain, dense: MakeDense, lif: MakeLif, check_same: Same, spikes: Spikes
) -> None:
    network = chain(
        (2,),
        {
            "delay": Delay(np.array(2)),
            "fc": dense([[1.5, 0.5]]),
            "again": Delay(np.array([1])),
            "lif": lif((1,)),
        },
    )

    populations = assemble(network)

    assert only_group(populations).delay.tolist() == 3
    check_same(network, populations, spikes(4, 6, 2))


def test_a_delay_per_element_before_a_layer_is_one_per_source_neuron(
    chain: Chain, dense: MakeDense, lif: MakeLif, check_same: Same, spikes: Spikes
) -> None:
    network = chain(
        (2,),
        {
            "scale": Scale(np.array([1.0, 2.0])),
            "delay": Delay(np.array([0, 3])),
            "fc": dense([[1.5, 0.25]]),
            "lif": lif((1,)),
        },
    )

    populations = assemble(network)

    assert only_group(populations).delay.tolist() == [0, 3]
    assert only_group(populations).operator.weight.tolist() == [[1.5, 0.5]]
    check_same(network, populations, spikes(4, 6, 2))


def test_a_delay_per_element_behind_a_layer_is_one_per_synapse(
    chain: Chain, dense: MakeDense, lif: MakeLif, check_same: Same, spikes: Spikes
) -> None:
    network = chain(
        (2,),
        {
            "fc": dense([[1.5, 0.5], [0.75, 1.25], [2.0, 2.0]]),
            "delay": Delay(np.array([2, 0, 1])),
            "lif": lif((3,)),
        },
    )

    populations = assemble(network)

    group = only_group(populations)
    assert group.operator.weight.tolist() == [[1.5, 0.5], [0.75, 1.25], [2, 2]]
    assert group.delay.tolist() == [[2, 2], [0, 0], [1, 1]]
    check_same(network, populations, spikes(4, 6, 2))


def test_delays_of_one_synapse_stay_groups_of_their_own(
    dense: MakeDense, lif: MakeLif, check_same: Same, spikes: Spikes
) -> None:
    """Two synapses join the same neurons, one of them late: a matrix has no room for both."""
    nodes: dict[str, Node] = {
        "input": Input((2,)),
        "now": dense([[0.5, 0.75]]),
        "delay": Delay(np.array(1)),
        "later": dense([[0.25, 0.0]]),
        "lif": lif((1,)),
        "output": Output((1,)),
    }
    edges = (
        ("input", "now"),
        ("input", "delay"),
        ("delay", "later"),
        ("now", "lif"),
        ("later", "lif"),
        ("lif", "output"),
    )
    network = Network(nodes, edges)

    populations = assemble(network)

    delays = {group.name: group.delay.tolist() for group in populations.synapses}
    assert delays == {"now": 0, "later": 1}
    check_same(network, populations, spikes(8, 6, 2))


def test_a_delay_by_channel_behind_a_convolution_is_a_group_for_each(
    chain: Chain, lif: MakeLif, check_same: Same, spikes: Spikes
) -> None:
    steps = np.broadcast_to(np.array([0, 2]).reshape(2, 1, 1), (2, 2, 2))
    conv = Conv2d(np.arange(8.0).reshape(2, 1, 2, 2) / 4, np.zeros(2))
    network = chain((1, 3, 3), {"conv": conv, "delay": Delay(steps), "lif": lif((2, 2, 2))})

    populations = assemble(network)

    delays = {int(group.delay): kernel_of(group).weight for group in populations.synapses}
    assert not delays[0][1].any()
    assert not delays[2][0].any()
    check_same(network, populations, spikes(4, 5, 1, 3, 3))


def test_a_delay_behind_a_bias_is_refused(chain: Chain, dense: MakeDense, lif: MakeLif) -> None:
    network = chain(
        (1,), {"fc": dense([[1.0]], [1.0]), "delay": Delay(np.array(1)), "lif": lif((1,))}
    )

    with pytest.raises(
        UnsupportedError,
        match="layer 'delay' cannot delay a bias, which acts from the first step on, but a layer "
        "with a bias is before it: put the delay before that layer",
    ):
        assemble(network)


def test_feedback_is_a_step_late(
    chain: Chain, dense: MakeDense, lif: MakeLif, check_same: Same, spikes: Spikes
) -> None:
    one = chain((2,), {"fc": dense(np.eye(2)), "lif": lif((2,), threshold=0.75)})
    edges = (*one.edges, ("lif", "slow"), ("slow", "back"), ("back", "lif"))
    nodes: dict[str, Node] = {
        **one.nodes,
        "slow": Delay(np.array(1)),
        "back": dense([[0.0, -0.5], [0.5, 0.0]]),
    }
    network = Network(nodes, edges, 4, frozenset({("lif", "slow")}))
    direct = Network(one.nodes, (*one.edges, ("lif", "lif")), 4, frozenset({("lif", "lif")}))

    populations = assemble(network)

    groups = {group.name: group for group in populations.synapses}
    assert (groups["back"].source, groups["back"].delay.tolist()) == ("lif", 2)
    assert [group.delay.tolist() for group in assemble(direct).out_of("lif")] == [1]
    for each in (network, direct):
        check_same(each, assemble(each), spikes(4, 6, 2))


def test_a_constant_into_a_current_with_memory_is_a_bias_and_a_pulse(
    chain: Chain, dense: MakeDense, lif: MakeLif, check_same: Same, spikes: Spikes
) -> None:
    """
    i = .5 i + .5 is .5, .75, .875, ... = 1 - .5, 1 - .25, 1 - .125, ...: a bias of 1, a pulse of -.5.

    (The layer's bias is .25, and the gain 2; the leak voltage is a bias of .5 * 1 more.)
    """
    network = chain(
        (1,),
        {"fc": dense([[0.5]], [0.25]), "lif": lif((1,), gain=2.0, leak=1.0, current_decay=0.5)},
        steps=6,
    )

    populations = assemble(network)

    neurons = spiking(populations, "lif")
    assert (neurons.bias.tolist(), neurons.pulse.tolist()) == ([1.5], -0.5)
    assert neurons.current_decay == 0.5
    assert [item.name for item in populations.populations] == ["input", "lif"]
    check_same(network, populations, spikes(4, 6, 1))


def test_a_constant_into_an_integrator_with_a_current_is_a_bias_and_a_pulse(
    chain: Chain, dense: MakeDense, check_same: Same, spikes: Spikes
) -> None:
    node = Integrator(
        decay=np.full(2, 0.5), gain=np.ones(2), leak=np.zeros(2), current_decay=np.array([0.5, 0.0])
    )
    network = chain((1,), {"fc": dense([[1.0], [1.0]], [0.25, 0.25]), "sum": node}, steps=6)

    populations = assemble(network)

    shown = readout(populations, "sum")
    assert (shown.bias.tolist(), shown.pulse.tolist()) == ([0.5, 0.25], [-0.25, 0])
    check_same(network, populations, spikes(4, 6, 1))


def test_a_constant_into_a_current_that_never_leaks_is_refused(
    chain: Chain, dense: MakeDense, lif: MakeLif
) -> None:
    network = chain((1,), {"fc": dense([[1.0]], [1.0]), "lif": lif((1,), current_decay=1.0)})

    with pytest.raises(
        UnsupportedError,
        match="layer 'lif' needs a current that leaks, to get a bias, but its current never leaks, "
        "and would grow without end: remove the bias before it",
    ):
        assemble(network)


def test_a_constant_into_a_current_without_memory_stays_a_bias(
    chain: Chain, dense: MakeDense, lif: MakeLif
) -> None:
    network = chain((1,), {"fc": dense([[1.0]], [0.25]), "lif": lif((1,), current_decay=0.0)})

    populations = assemble(network)

    assert [item.name for item in populations.populations] == ["input", "lif"]
    assert spiking(populations, "lif").bias.tolist() == [0.25]


def test_an_integrator_is_a_readout_that_shows_its_membrane(
    chain: Chain, dense: MakeDense, check_same: Same, spikes: Spikes
) -> None:
    """v = .5 v + .5 * 4 + 2 (W x + b)."""
    node = Integrator(decay=np.full(1, 0.5), gain=np.full(1, 2.0), leak=np.full(1, 4.0))
    network = chain((2,), {"fc": dense([[1.0, 3.0]], [0.5]), "sum": node})

    populations = assemble(network)

    shown = readout(populations, "sum")
    assert shown.bias.tolist() == 3
    assert shown.decay == 0.5
    assert only_group(populations).operator.weight.tolist() == [[2, 6]]
    assert populations.outputs == {"output": "sum"}
    check_same(network, populations, spikes(4, 6, 2))


def test_an_output_of_two_spiking_layers_is_a_readout(lif: MakeLif, check_same: Same) -> None:
    nodes: dict[str, Node] = {
        "input": Input((2,)),
        "a": lif((2,), threshold=0.5),
        "b": lif((2,), threshold=1.25),
        "output": Output((2,)),
    }
    edges = (("input", "a"), ("input", "b"), ("a", "output"), ("b", "output"))
    network = Network(nodes, edges)

    populations = assemble(network)

    assert populations.outputs == {"output": "output"}
    assert readout(populations, "output").bias.tolist() == 0
    assert {group.name for group in populations.into("output")} == {"a>output", "b>output"}
    ones = np.ones((1, 3, 2))
    assert simulate(network, ones).output[0, :, 0].tolist() == [1, 2, 1]
    check_same(network, populations, ones)


def test_every_output_shows_a_population_of_its_own_or_the_neurons_themselves(
    dense: MakeDense, lif: MakeLif, check_same: Same, spikes: Spikes
) -> None:
    nodes: dict[str, Node] = {
        "left": Input((2,), InputRange(-1, 1, 0.5)),
        "right": Input((3,)),
        "a": dense(np.eye(2)),
        "b": dense(np.ones((2, 3))),
        "lif": lif((2,)),
        "fc": dense(np.ones((1, 2)), [0.5]),
        "spikes": Output((2,)),
        "values": Output((1,)),
        "twice": Output((1,)),
    }
    edges = (
        ("left", "a"),
        ("right", "b"),
        ("a", "lif"),
        ("b", "lif"),
        ("lif", "spikes"),
        ("lif", "fc"),
        ("fc", "values"),
        ("fc", "twice"),
    )
    network = Network(nodes, edges)

    populations = assemble(network)

    assert populations.outputs["spikes"] == "lif"
    assert "fc" in populations.outputs.values()
    assert len(set(populations.outputs.values())) == 3
    left, right = populations["left"], populations["right"]
    assert isinstance(left, InputPopulation)
    assert isinstance(right, InputPopulation)
    assert (left.range, right.range) == (InputRange(-1, 1, 0.5), InputRange(0, 1, 1))
    check_same(network, populations, {"left": spikes(3, 4, 2) - 0.5, "right": spikes(3, 4, 3)})


def test_all_unsupported_neurons_are_reported_together(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    layer = dense(np.eye(2))
    network = chain(
        (2,),
        {
            "a": layer,
            "growing": lif((2,), decay=[0.5, 1.5]),
            "b": layer,
            "low": lif((2,), threshold=[1.0, -0.25]),
            "c": layer,
            "shifted": lif((2,), reset_to=0.25),
            "d": layer,
            "ringing": lif((2,), current_decay=-0.5),
            "e": layer,
            "endless": lif((2,), threshold=0.0, reset="subtract"),
        },
    )

    with pytest.raises(UnsupportedError) as raised:
        assemble(network)

    text = str(raised.value)
    assert "5 problems" in text
    assert "layer 'growing' needs a leak factor between 0 and 1, but it is 1.5" in text
    assert (
        "layer 'low' needs a threshold of at least its reset voltage, but it is 0.25 below" in text
    )
    assert "layer 'shifted' needs a reset to zero, but it is still to be shifted there" in text
    assert "layer 'ringing' needs a current's leak factor between 0 and 1, but it is -0.5" in text
    assert "layer 'endless' needs a threshold above 0 to subtract, but it is 0" in text


def test_an_integrator_inside_a_network_is_refused(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    node = Integrator(decay=np.ones(1), gain=np.ones(1), leak=np.zeros(1))
    network = chain((1,), {"integrator": node, "fc": dense([[1.0]]), "lif": lif((1,))})

    with pytest.raises(
        UnsupportedError,
        match="layer 'integrator' must feed an output alone, as it does not fire, but it feeds fc",
    ):
        assemble(network)


def test_layers_that_only_a_huge_matrix_could_join_are_refused(
    chain: Chain, lif: MakeLif, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurocompile.linear.LARGEST_MATRIX", 100)
    network = chain(
        (1, 6, 6),
        {
            "pool": Pool2d((3, 3), (2, 2)),
            "conv": Conv2d(np.ones((1, 1, 3, 3)), np.zeros(1), padding=(1, 1)),
            "lif": lif((1, 2, 2)),
        },
    )

    with pytest.raises(
        UnsupportedError,
        match="layer 'conv' cannot be merged into one layer with those before it, but only a matrix "
        "could hold the result exactly, and it would be too large: use windows without overlap",
    ):
        assemble(network)


def test_too_many_paths_into_a_node_are_refused(
    lif: MakeLif, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurocompile.passes.assemble.MOST_PATHS", 1)
    nodes: dict[str, Node] = {
        "input": Input((1,)),
        "late": Delay(np.array(1)),
        "lif": lif((1,)),
        "output": Output((1,)),
    }
    edges = (("input", "late"), ("input", "lif"), ("late", "lif"), ("lif", "output"))

    with pytest.raises(
        UnsupportedError, match="layer 'lif' needs at most 1 paths into it, but there are 2"
    ):
        assemble(Network(nodes, edges))


def test_a_start_leaks_once_before_the_first_step(
    chain: Chain, lif: MakeLif, check_same: Same, spikes: Spikes
) -> None:
    """v = start at "step -1"; the population adds .5 * start to the first membrane."""
    network = chain((2,), {"lif": replace(lif((2,)), start=np.array([1.0, -1.0]))})

    populations = assemble(network)

    assert spiking(populations, "lif").start.tolist() == [0.5, -0.5]
    check_same(network, populations, spikes(4, 4, 2))
