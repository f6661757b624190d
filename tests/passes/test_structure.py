"""The structural passes: hand examples, and that no spike changes on random networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurocompile.errors import UnsupportedError
from neurocompile.ir import LIF, Conv2d, Dense, Flatten, Network, Node, Pool2d
from neurocompile.passes.assemble import assemble
from neurocompile.passes.fuse_flatten import fuse_flatten
from neurocompile.passes.fuse_pooling import fuse_pooling
from neurocompile.populations import ReadoutPopulation, SpikingPopulation
from neurocompile.reference import simulate

Chain = Callable[..., Network]
MakeLif = Callable[..., LIF]


@given(data=st.data())
def test_fusing_changes_no_spike_and_no_output(
    data: Any,
    draw_network: Callable[..., Network],
    draw_inputs: Callable[..., NDArray[np.float64]],
) -> None:
    network = draw_network(data)
    inputs = draw_inputs(data, network)

    fused = fuse_pooling(fuse_flatten(network))

    assert not fused.of_type(Pool2d | Flatten)
    before, after = simulate(network, inputs), simulate(fused, inputs)
    np.testing.assert_array_equal(before.output, after.output)
    for name, spikes in before.spikes.items():
        np.testing.assert_array_equal(spikes, after.spikes[name], err_msg=name)


def test_a_two_by_two_average_before_a_convolution_is_one_wider_kernel(
    chain: Chain, lif: MakeLif
) -> None:
    weight = np.array([[[[4.0, 8.0]]]])
    network = chain(
        (1, 4, 4),
        {
            "pool": Pool2d((2, 2), (2, 2), scale=0.25),
            "conv": Conv2d(weight, np.zeros(1)),
            "lif": lif((1, 2, 1)),
        },
    )

    fused = fuse_pooling(network).nodes["conv"]

    assert isinstance(fused, Conv2d)
    assert fused.weight[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    assert fused.stride == (2, 2)


def test_a_global_average_before_a_dense_layer_spreads_its_columns(chain: Chain) -> None:
    network = chain(
        (2, 2, 2),
        {
            "pool": Pool2d((2, 2), (2, 2), scale=0.25),
            "flatten": Flatten(),
            "fc": Dense(np.array([[4.0, 8.0]]), np.zeros(1)),
        },
    )

    fused = fuse_pooling(fuse_flatten(network)).nodes["fc"]

    assert isinstance(fused, Dense)
    assert fused.weight.tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]]
    assert fused.input_shape == (2, 2, 2)


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

    fused = fuse_pooling(network)

    assert not fused.of_type(Pool2d)
    conv = fused.nodes["conv"]
    assert isinstance(conv, Conv2d)
    assert conv.weight.shape == (1, 1, 4, 4)
    assert (conv.weight == 1 / 16).all()


def test_a_pool_in_front_of_neurons_becomes_a_depthwise_convolution(
    chain: Chain, lif: MakeLif
) -> None:
    network = chain((2, 4, 4), {"pool": Pool2d((2, 2), (2, 2)), "lif": lif((2, 2, 2))})

    conv = fuse_pooling(network).nodes["pool"]

    assert isinstance(conv, Conv2d)
    assert conv.groups == 2
    assert conv.weight.tolist() == np.ones((2, 1, 2, 2)).tolist()


@pytest.mark.parametrize(
    ("pool", "size", "why"),
    [
        (Pool2d((3, 3), (2, 2)), 9, "its windows overlap"),
        (Pool2d((2, 2), (2, 2)), 5, "5 pixels leave a rest"),
    ],
)
def test_pools_that_a_padding_convolution_cannot_absorb_are_refused(
    chain: Chain, lif: MakeLif, pool: Pool2d, size: int, why: str
) -> None:
    conv = Conv2d(np.ones((1, 1, 3, 3)), np.zeros(1), padding=(1, 1))
    shape = chain((1, size, size), {"pool": pool, "conv": conv}).shapes["conv"]
    network = chain((1, size, size), {"pool": pool, "conv": conv, "lif": lif(shape)})

    with pytest.raises(
        UnsupportedError, match=f"layer 'pool' cannot be merged exactly into 'conv'.*{why}"
    ):
        fuse_pooling(network)


def test_a_flatten_that_feeds_neurons_stays(chain: Chain, lif: MakeLif) -> None:
    network = chain((2, 1, 1), {"flatten": Flatten(), "lif": lif((2,))})

    assert fuse_flatten(network).of_type(Flatten) == ("flatten",)


def test_gain_leak_and_bias_become_weights_and_bias(chain: Chain, lif: MakeLif) -> None:
    """u = .5 v + .5 * 4 + 3 (W x + b): weights times 3, bias 3 b + 2."""
    network = chain(
        (1,),
        {"fc": Dense(np.array([[2.0]]), np.array([1.0])), "lif": lif((1,), gain=3.0, leak=4.0)},
    )

    populations = assemble(network)

    (group,) = populations.synapses
    neurons = populations["lif"]
    assert isinstance(neurons, SpikingPopulation)
    assert group.operator.weight.tolist() == [[6.0]]
    assert neurons.bias.tolist() == [5.0]
    assert neurons.decay == 0.5


def test_a_linear_layer_at_the_end_becomes_a_readout(chain: Chain) -> None:
    populations = assemble(chain((2,), {"fc": Dense(np.ones((3, 2)), np.arange(3.0))}))

    readout = populations["fc"]
    assert isinstance(readout, ReadoutPopulation)
    assert readout.bias.tolist() == [0, 1, 2]
    assert populations.outputs == ("fc",)


def test_two_layers_into_one_population_add_up(lif: MakeLif, chain: Chain) -> None:
    a, b = Dense(np.ones((2, 2)), np.ones(2)), Dense(2 * np.ones((2, 2)), np.ones(2))
    one = chain((2,), {"a": a, "lif": lif((2,))})
    nodes: dict[str, Node] = {**one.nodes, "b": b}
    network = Network(nodes, (*one.edges, ("input", "b"), ("b", "lif")))

    populations = assemble(network)

    neurons = populations["lif"]
    assert isinstance(neurons, SpikingPopulation)
    assert sorted(group.name for group in populations.into("lif")) == [
        "input>a>lif",
        "input>b>lif",
    ] or sorted(group.name for group in populations.into("lif")) == ["a", "b"]
    assert neurons.bias.tolist() == [2, 2]


def test_all_unsupported_neurons_are_reported_together(chain: Chain, lif: MakeLif) -> None:
    mixed = lif((2,))
    uneven = LIF(
        decay=np.array([0.5, 0.25]),
        gain=mixed.gain,
        leak=mixed.leak,
        threshold=mixed.threshold,
        reset_to=mixed.reset_to,
    )
    network = chain(
        (2,),
        {
            "a": Dense(np.ones((2, 2)), np.zeros(2)),
            "uneven": uneven,
            "b": Dense(np.ones((2, 2)), np.zeros(2)),
            "soft": lif((2,), reset="subtract"),
            "c": Dense(np.ones((2, 2)), np.zeros(2)),
            "shifted": lif((2,), reset_to=0.25),
        },
    )

    with pytest.raises(UnsupportedError) as raised:
        assemble(network)

    text = str(raised.value)
    assert "3 problems" in text
    assert (
        "layer 'uneven' needs one leak factor for all its neurons, but there are 2 different ones"
        in text
    )
    assert "layer 'soft' needs a reset to zero, but it subtracts the threshold" in text
    assert "layer 'shifted' needs a reset to zero, but it resets to 0.25" in text


def test_a_gain_that_differs_inside_a_channel_is_refused_without_a_dense_layer(
    chain: Chain, lif: MakeLif
) -> None:
    plain = lif((1, 2, 2))
    uneven = LIF(
        decay=plain.decay,
        gain=np.array([[[1.0, 1.0], [1.0, 4.0]]]),
        leak=plain.leak,
        threshold=plain.threshold,
        reset_to=plain.reset_to,
    )

    with pytest.raises(UnsupportedError, match="layer 'lif' needs one input gain per channel"):
        assemble(chain((1, 2, 2), {"lif": uneven}))


def test_two_linear_layers_in_a_row_are_refused(chain: Chain) -> None:
    dense = Dense(np.ones((2, 2)), np.zeros(2))

    with pytest.raises(
        UnsupportedError,
        match="layer 'b' needs neurons or an input before it, but the linear layer 'a'",
    ):
        assemble(chain((2,), {"a": dense, "b": dense}))
