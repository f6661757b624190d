"""Max pooling of spikes as OR: by hand, exact, and refused for anything but spikes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import UnsupportedError
from neurocompile.ir import (
    LIF,
    Conv2d,
    Input,
    MaxPool2d,
    Network,
    Node,
    Output,
    Pool2d,
    Reshape,
    Threshold,
)
from neurocompile.passes.lower_max_pooling import lower_max_pooling
from neurocompile.reference import simulate

Chain = Callable[..., Network]
MakeLif = Callable[..., LIF]
Same = Callable[..., None]
Spikes = Callable[..., NDArray[np.float64]]

POOL = MaxPool2d((2, 2), (2, 2))


def test_a_max_pool_is_a_sum_and_neurons_that_say_or(chain: Chain) -> None:
    network = chain((1, 2, 4), {"pool": POOL})
    image = np.array([[0, 1, 0, 0], [1, 1, 0, 0]], float).reshape(1, 1, 1, 2, 4)

    lowered = lower_max_pooling(network)

    assert lowered.nodes["pool.sum"] == Pool2d((2, 2), (2, 2))
    neurons = lowered.nodes["pool"]
    assert isinstance(neurons, Threshold)
    assert neurons.threshold.tolist() == [[[0, 0]]]
    assert lowered.edges == (("input", "pool.sum"), ("pool", "output"), ("pool.sum", "pool"))
    assert simulate(lowered, image).output.ravel().tolist() == [1, 0]


@pytest.mark.parametrize(
    "pool",
    [POOL, MaxPool2d((3, 2), (1, 2)), MaxPool2d((3, 3), (2, 2), (1, 1)), MaxPool2d((2, 2), (3, 1))],
)
def test_windows_strides_and_paddings_keep_every_spike(
    chain: Chain, lif: MakeLif, check_same: Same, spikes: Spikes, pool: MaxPool2d
) -> None:
    network = chain(
        (2, 5, 6),
        {"reshape": Reshape((3, 4, 5)), "lif": lif((3, 4, 5), threshold=0.5), "pool": pool},
    )

    lowered = lower_max_pooling(network)

    assert not lowered.of_type(MaxPool2d)
    check_same(network, lowered, spikes(5, 4, 2, 5, 6))


def test_max_pools_in_a_row_and_behind_a_reshape_are_pools_of_spikes(
    chain: Chain, check_same: Same, spikes: Spikes
) -> None:
    network = chain((16,), {"image": Reshape((1, 4, 4)), "first": POOL, "second": POOL})

    lowered = lower_max_pooling(network)

    assert lowered.of_type(Threshold) == ("first", "second")
    check_same(network, lowered, spikes(8, 3, 16) * spikes(8, 3, 16, seed=1))


def test_a_name_that_is_taken_is_not_taken_again(chain: Chain) -> None:
    network = chain((1, 4, 4), {"pool": POOL, "pool.sum": Pool2d((2, 2), (2, 2))})

    assert set(lower_max_pooling(network).of_type(Pool2d)) == {"pool.sum", "pool.sum.2"}


def test_feedback_into_a_max_pool_stays_feedback(
    lif: MakeLif, check_same: Same, spikes: Spikes
) -> None:
    """A layer that hears only itself, pooled: the first spike comes from outside."""
    shape = (1, 2, 2)
    conv = Conv2d(np.ones((1, 1, 2, 2)), np.zeros(1), padding=(1, 1))
    nodes: dict[str, Node] = {
        "input": Input(shape),
        "lif": lif(shape),
        "pool": MaxPool2d((2, 2), (1, 1)),
        "back": conv,
        "output": Output(shape),
    }
    edges = (
        ("input", "lif"),
        ("lif", "pool"),
        ("pool", "back"),
        ("back", "lif"),
        ("lif", "output"),
    )
    network = Network(nodes, edges, 4, frozenset({("lif", "pool")}))

    lowered = lower_max_pooling(network)

    assert lowered.feedback == {("lif", "pool.sum")}
    check_same(network, lowered, spikes(4, 5, *shape))


def test_max_pools_of_other_values_are_all_refused(chain: Chain, lif: MakeLif) -> None:
    graded = InputRange(0, 1, 1 / 16)
    one = chain(
        (1, 4, 4),
        {
            "first": MaxPool2d((2, 2), (1, 1)),
            "lif1": lif((1, 3, 3)),
            "lif2": lif((1, 3, 3)),
            "second": MaxPool2d((2, 2), (1, 1)),
        },
        input_range=graded,
    )
    network = Network(one.nodes, (*one.edges, ("lif1", "second")))

    with pytest.raises(UnsupportedError) as raised:
        lower_max_pooling(network)

    text = str(raised.value)
    assert "2 problems" in text
    assert (
        "layer 'first' needs spikes, 0 or 1, to take the largest of, but it gets other values"
        in text
    )
    assert (
        "layer 'second' needs spikes, 0 or 1, to take the largest of, but it gets a sum of layers: "
        "pool each layer of spikes before they are added, or use average pooling" in text
    )
