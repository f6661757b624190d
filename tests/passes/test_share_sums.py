"""Sums of spikes, graded or duplicated: the cost by hand, and the same spikes either way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.ir import LIF, Conv2d, Delay, Dense, Input, Network, Node, Output
from neurocompile.passes.assemble import assemble
from neurocompile.passes.share_sums import SharedSum, share_sums
from neurocompile.populations import PopulationNetwork, SumPopulation

MakeLif = Callable[..., LIF]
Same = Callable[..., None]
Spikes = Callable[..., NDArray[np.float64]]
MakeSew = Callable[..., Network]

SHAPE = (1, 4, 4)


@pytest.fixture
def sew(lif: MakeLif) -> MakeSew:
    """
    Makes SEW blocks of 16 neurons each: from the second on, each layer hears the sum of all before.

    Each has a 3 x 3 kernel of its own; `channels` is how many the last layer has.
    """

    def make(layers: int, *, channels: int = 1, delay: int = 0) -> Network:
        generator = np.random.default_rng(0)
        nodes: dict[str, Node] = {"input": Input(SHAPE), "lif1": lif(SHAPE, threshold=0.5)}
        edges = [("input", "lif1")]
        for number in range(2, layers + 1):
            out = channels if number == layers else 1
            weight = generator.integers(-4, 9, (out, 1, 3, 3)) / 8
            nodes[f"conv{number}"] = Conv2d(weight, np.zeros(out), padding=(1, 1))
            nodes[f"lif{number}"] = lif((out, 4, 4))
            before = [f"lif{earlier}" for earlier in range(1, number)]
            if delay and number == layers:
                nodes["late"] = Delay(np.array(delay))
                edges.append((before[-1], "late"))
                before[-1] = "late"
            edges += [(earlier, f"conv{number}") for earlier in before]
            edges.append((f"conv{number}", f"lif{number}"))
        nodes["output"] = Output((channels, 4, 4))
        edges.append((f"lif{layers}", "output"))
        return Network(nodes, tuple(edges))

    return make


def sums_of(network: PopulationNetwork) -> dict[str, int]:
    return {
        item.name: item.largest for item in network.populations if isinstance(item, SumPopulation)
    }


@pytest.mark.parametrize(("channels", "graded"), [(1, False), (2, True)])
def test_a_sum_is_graded_where_that_costs_less(
    sew: MakeSew, channels: int, *, graded: bool
) -> None:
    """
    The kernel has 9 * 16 = 144 synapses a channel, which a second source would need again.

    The sum has 16 neurons, each with two synapses and worth 8 itself: 160.
    """
    shared, decisions = share_sums(assemble(sew(3, channels=channels)))

    assert decisions == (SharedSum(("lif1", "lif2"), graded, 160, 144 * channels),)
    assert sums_of(shared) == ({"lif1+lif2": 2} if graded else {})


def test_the_sum_stands_between_its_layers_and_its_readers(sew: MakeSew) -> None:
    before = assemble(sew(3, channels=2))

    after, _ = share_sums(before)

    names = [item.name for item in after.populations]
    assert names == ["input", "lif1", "lif2", "lif1+lif2", "lif3"]
    identity = {group.source: group for group in after.into("lif1+lif2")}
    assert sorted(identity) == ["lif1", "lif2"]
    for group in identity.values():
        assert (group.operator.weight == 1).all()
    (group,) = after.into("lif3")
    assert group.source == "lif1+lif2"
    np.testing.assert_array_equal(group.operator.weight, before.into("lif3")[0].operator.weight)


@pytest.mark.parametrize("sums", ["auto", "graded", "duplicate"])
def test_every_way_fires_the_same_spikes(
    sew: MakeSew, check_same: Same, spikes: Spikes, sums: Any
) -> None:
    network = sew(5, channels=3)

    shared, _ = share_sums(assemble(network), sums=sums)

    assert bool(sums_of(shared)) == (sums != "duplicate")
    check_same(network, shared, spikes(5, 6, *SHAPE))


def test_a_sum_that_holds_an_earlier_one_adds_to_it(sew: MakeSew) -> None:
    """lif1 + lif2 + lif3 has two addends: 10 * 16, not the 11 * 16 of three."""
    shared, decisions = share_sums(assemble(sew(4)), sums="graded")

    assert sums_of(shared) == {"lif1+lif2": 2, "lif1+lif2+lif3": 3}
    sources = {group.source for group in shared.into("lif1+lif2+lif3")}
    assert sources == {"lif1+lif2", "lif3"}
    assert [(item.cost_graded, item.cost_duplicate) for item in decisions] == [
        (160, 144),
        (160, 288),
    ]


def test_without_the_earlier_sum_three_layers_are_three_addends(sew: MakeSew) -> None:
    """Duplicating the smaller sum is cheaper: 144 < 160; then the larger costs 11 * 16 = 176."""
    shared, decisions = share_sums(assemble(sew(4)))

    assert sums_of(shared) == {"lif1+lif2+lif3": 3}
    assert decisions[1] == SharedSum(("lif1", "lif2", "lif3"), True, 176, 288)


def test_a_sum_beyond_a_graded_spike_is_duplicated(sew: MakeSew) -> None:
    network = assemble(sew(4, channels=4))

    shared, decisions = share_sums(network, sums="graded", largest_sum=2)

    assert sums_of(shared) == {"lif1+lif2": 2}
    assert [item.graded for item in decisions] == [True, False]


def test_layers_that_arrive_at_different_steps_are_no_sum(
    sew: MakeSew, check_same: Same, spikes: Spikes
) -> None:
    network = sew(3, channels=2, delay=1)

    shared, decisions = share_sums(assemble(network), sums="graded")

    assert decisions == ()
    check_same(network, shared, spikes(5, 6, *SHAPE))


def test_sums_without_weights_or_with_different_ones_are_left_alone(
    lif: MakeLif, dense: Callable[..., Dense]
) -> None:
    """An identity has nothing to share; two dense layers are two."""
    nodes: dict[str, Node] = {
        "input": Input((3,)),
        "lif1": lif((3,)),
        "lif2": lif((3,), decay=0.25),
        "plain": lif((3,)),
        "a": dense(np.ones((3, 3))),
        "b": dense(2 * np.ones((3, 3))),
        "mixed": lif((3,)),
        "sum": Output((3,)),
    }
    edges = (
        ("input", "lif1"),
        ("input", "lif2"),
        ("lif1", "plain"),
        ("lif2", "plain"),
        ("lif1", "a"),
        ("lif2", "b"),
        ("a", "mixed"),
        ("b", "mixed"),
        ("plain", "sum"),
        ("mixed", "sum"),
    )

    shared, decisions = share_sums(assemble(Network(nodes, edges)), sums="graded")

    assert decisions == ()
    assert sums_of(shared) == {}
