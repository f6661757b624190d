"""The pipeline's timing: depths, waits, gaps and strides, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurocompile_loihi2.limits import LIMITS

from neurocompile.errors import UnsupportedError
from neurocompile.integer import (
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerSynapses,
    Schedule,
)
from neurocompile.ir import LIF, Dense, Network
from neurocompile.passes.assemble import assemble
from neurocompile.passes.quantise import quantise
from neurocompile.passes.schedule import schedule

Joins = tuple[str, str] | tuple[str, str, int]


@pytest.fixture(scope="module")
def joined(integer_neurons: Callable[..., IntegerNeurons]) -> Callable[..., IntegerNetwork]:
    """Makes a network of joins (source, target[, delay]) between populations of some sizes and `in`."""

    def make(*joins: Joins, host: str = "", **sizes: int) -> IntegerNetwork:
        populations: list[IntegerPopulation] = [IntegerInput("in", (1,), 1.0, 0, 1, True)]
        populations += [integer_neurons(name, (size,)) for name, size in sizes.items()]
        size = {"in": 1, **sizes}
        synapses = tuple(
            IntegerSynapses(
                f"{join[0]}>{join[1]}",
                join[0],
                join[1],
                np.ones((size[join[1]], size[join[0]]), np.int64),
                delay=np.array(join[2] if len(join) == 3 else 0),
                on_host=join[1] == host and join[0] == "in",
            )
            for join in joins
        )
        return IntegerNetwork(tuple(populations), synapses, {"out": next(reversed(sizes))})

    return make


def waits(network: IntegerNetwork, timing: Schedule) -> dict[str, int]:
    return {group.name: int(timing.wait(group)) for group in network.synapses}


def test_depth_counts_connections_on_the_chip(
    chain: Callable[..., Network], lif: Callable[..., LIF], dense: Callable[..., Dense]
) -> None:
    network = chain((2,), {"a": dense(np.eye(2)), "lif": lif((2,)), "b": dense(np.eye(2))})
    integers = quantise(assemble(network), LIMITS, steps=4).network
    host = replace(
        integers,
        synapses=(replace(integers.synapses[0], on_host=True), *integers.synapses[1:]),
    )

    assert schedule(integers) == Schedule({"input": 0, "lif": 1, "b": 2}, gap=0, stride=1)
    assert schedule(host).depth == {"input": 0, "lif": 0, "b": 1}


def test_what_skips_a_layer_waits_for_it(joined: Callable[..., IntegerNetwork]) -> None:
    network = joined(("in", "a"), ("a", "b"), ("b", "c"), ("in", "c"), ("a", "c"), a=1, b=1, c=1)

    timing = schedule(network)

    assert timing.depth == {"in": 0, "a": 1, "b": 2, "c": 3}
    assert waits(network, timing) == {"in>a": 0, "a>b": 0, "b>c": 0, "in>c": 2, "a>c": 1}


def test_what_the_host_computes_waits_there(joined: Callable[..., IntegerNetwork]) -> None:
    """The host's current takes no step: beside two connections it waits for two."""
    network = joined(("in", "a"), ("a", "b"), ("in", "b"), a=1, b=1, host="b")

    timing = schedule(network)

    assert waits(network, timing)["in>b"] == 2
    assert timing.depth["b"] == 2


def test_a_population_that_feeds_itself_needs_no_stride(
    joined: Callable[..., IntegerNetwork],
) -> None:
    network = joined(("in", "a"), ("a", "a", 1), a=3)

    timing = schedule(network)

    assert timing == Schedule({"in": 0, "a": 1}, gap=1, stride=1)
    assert waits(network, timing)["a>a"] == 0


def test_a_cycle_of_two_layers_takes_two_machine_steps(
    joined: Callable[..., IntegerNetwork],
) -> None:
    network = joined(("in", "a"), ("a", "b"), ("b", "a", 1), a=1, b=1)

    timing = schedule(network)

    assert timing == Schedule({"in": 0, "a": 1, "b": 2}, gap=1, stride=2)
    assert waits(network, timing) == {"in>a": 0, "a>b": 0, "b>a": 0}


@pytest.mark.parametrize(("delay", "stride", "wait"), [(1, 3, 0), (2, 2, 1), (3, 1, 0), (5, 1, 2)])
def test_a_cycle_of_three_layers_takes_its_connections_over_its_delay(
    joined: Callable[..., IntegerNetwork], delay: int, stride: int, wait: int
) -> None:
    """3 connections in `delay` steps; what a whole stride is too long is waited."""
    network = joined(("in", "a"), ("a", "b"), ("b", "c"), ("c", "a", delay), a=1, b=1, c=1)

    timing = schedule(network)

    assert (timing.stride, timing.gap) == (stride, delay)
    assert waits(network, timing)["c>a"] == wait


def test_the_gap_is_the_longest_delay(joined: Callable[..., IntegerNetwork]) -> None:
    network = joined(("in", "a", 2), ("a", "b", 7), ("a", "a", 1), a=1, b=1)

    timing = schedule(network)

    assert timing.gap == 7
    assert timing.period(4) == 11


def test_delays_per_neuron_wait_per_neuron(joined: Callable[..., IntegerNetwork]) -> None:
    """A delay is time that a connection may use: the target is as early as the shortest allows."""
    network = joined(("in", "a"), ("a", "b"), a=3, b=1)
    group = replace(network.synapses[1], delay=np.array([2, 0, 1]))
    network = replace(network, synapses=(network.synapses[0], group))

    timing = schedule(network)

    assert timing.depth == {"in": 0, "a": 1, "b": 2}
    assert timing.wait(group).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("a", "b", "depth"), [(1, 10, 3), (10, 1, 2), (4, 4, 2)], ids=["later", "earlier", "equal"]
)
def test_layers_work_late_where_fewer_neurons_wait(
    joined: Callable[..., IntegerNetwork], a: int, b: int, depth: int
) -> None:
    """b may work at 2 or 3: either its spikes wait a step for d, or those of a wait for it."""
    network = joined(
        ("in", "a"), ("a", "b"), ("b", "d"), ("a", "c1"), ("c1", "c2"), ("c2", "d"),
        a=a, b=b, c1=1, c2=1, d=1,
    )  # fmt: skip

    timing = schedule(network)

    assert timing.depth == {"in": 0, "a": 1, "b": depth, "c1": 2, "c2": 3, "d": 4}
    assert waits(network, timing)["a>b"] == depth - 2
    assert waits(network, timing)["b>d"] == 3 - depth


def test_inputs_wait_on_the_host_for_nothing(joined: Callable[..., IntegerNetwork]) -> None:
    network = joined(
        ("in", "a"), ("in", "b"), ("b", "c"), ("a", "d"), ("c", "d"), a=9, b=1, c=9, d=1
    )

    assert schedule(network).depth == {"in": 0, "a": 2, "b": 1, "c": 2, "d": 3}


@given(data=st.data())
def test_nothing_ever_arrives_before_it_was_sent(
    data: st.DataObject, joined: Callable[..., IntegerNetwork]
) -> None:
    sizes = {name: data.draw(st.integers(1, 5)) for name in "abcde"}
    order = list(sizes)
    ends = st.sampled_from(order)
    joins: list[Joins] = [("in", "a")]
    for source, target, delay in data.draw(
        st.lists(st.tuples(ends, ends, st.integers(0, 3)), unique_by=lambda join: join[:2])
    ):
        back = order.index(source) >= order.index(target)
        joins.append((source, target, max(delay, int(back))))
    network = joined(*joins, **sizes)

    timing = schedule(network)

    assert min(waits(network, timing).values()) >= 0
    assert min(timing.depth.values()) >= 0


def test_a_cycle_without_a_delay_is_refused(joined: Callable[..., IntegerNetwork]) -> None:
    with pytest.raises(
        UnsupportedError,
        match="a cycle needs a delay of at least one step, but there is none among in>a, a>b, b>a",
    ):
        schedule(joined(("in", "a"), ("a", "b"), ("b", "a"), a=1, b=1))
