"""Cycles are cut where the last spiking neurons before the closing edge send their spikes back."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from neurocompile.errors import NirFormatError
from neurocompile.frontend.find_feedback import find_feedback
from neurocompile.frontend.from_nir import Imported, from_nir
from neurocompile.ir import LIF, Edge, Input, Node, Output, Scale, Threshold
from neurocompile.reference import simulate

WriteGraph = Callable[..., Path]
ReadRecurrent = Callable[[list[Edge]], Imported]


def choice(edges: list[Edge], spiking: str) -> tuple[tuple[Edge, ...], list[str]]:
    """What is chosen where the nodes named in `spiking` are neurons, `in` is the input and the rest scales."""
    nodes: dict[str, Node] = {}
    for name in dict.fromkeys(end for edge in edges for end in edge):
        kind: Node = Scale(np.array(1.0))
        if name.startswith("in"):
            kind = Input((1,))
        elif name in spiking.split():
            kind = Threshold(np.array([0.5]))
        nodes[name] = kind
    feedback, problems = find_feedback(nodes, edges)
    return feedback, [str(problem) for problem in problems]


def chain(names: str) -> list[Edge]:
    return list(itertools.pairwise(names.split()))


def test_without_a_cycle_nothing_is_late() -> None:
    assert choice(chain("in a b c") + chain("in b") + chain("a c"), "a b") == ((), [])


def test_a_neuron_may_feed_itself() -> None:
    assert choice(chain("in lif lif out"), "lif") == ((("lif", "lif"),), [])


def test_spikes_come_back_through_a_linear_layer_one_step_later() -> None:
    edges = chain("in fc lif out") + chain("lif back lif")

    assert choice(edges, "lif") == ((("lif", "back"),), [])


def test_of_two_layers_the_last_before_the_closing_edge_is_late() -> None:
    edges = chain("in one fc two w back one") + chain("two out")

    assert choice(edges, "one two") == ((("two", "w"),), [])


def test_each_cycle_is_cut_once() -> None:
    edges = chain("in a b c a") + chain("b a") + chain("c c") + chain("c out")

    feedback, problems = choice(edges, "a b c")

    assert set(feedback) == {("b", "a"), ("c", "a"), ("c", "c")}
    assert not problems


def test_the_order_of_the_file_does_not_matter() -> None:
    edges = chain("in a b c d a") + chain("d b") + chain("c a") + chain("in c") + chain("d out")

    assert choice(edges, "a c") == choice(edges[::-1], "a c")


def test_what_no_input_reaches_is_searched_too() -> None:
    edges = chain("in out") + chain("b a b")

    assert choice(edges, "a") == ((("a", "b"),), [])


def test_a_long_chain_is_no_deep_recursion() -> None:
    names = " ".join(f"n{number}" for number in range(5000))

    assert choice(chain(f"in {names} n0"), "n7") == ((("n7", "n8"),), [])


def test_what_was_searched_is_not_searched_again() -> None:
    """Forty diamonds in a row have 2^40 paths."""
    edges = chain("in d0")
    for number in range(40):
        for side in ("left", "right"):
            edges += chain(f"d{number} {side}{number} d{number + 1}")

    assert choice(edges, "") == ((), [])


def test_every_cycle_without_neurons_is_named() -> None:
    edges = chain("in a b a") + chain("b c c") + chain("c out")

    feedback, problems = choice(edges, "")

    assert feedback == ()
    assert problems == [
        f"the network has a cycle without spiking neurons: {cycle}: a cycle needs a layer of spiking"
        " neurons, whose spikes act one step later"
        for cycle in ("a -> b -> a", "c -> c")
    ]


@pytest.fixture
def read_recurrent(write_graph: WriteGraph) -> ReadRecurrent:
    """Reads a network of one neuron `lif` (decay 1/2, threshold 1), linear nodes and the given edges."""

    def make(edges: list[Edge]) -> Imported:
        one = np.ones(1)
        known: dict[str, Any] = {
            "input": nir.Input({"input": np.array([1])}),
            "lif": nir.LIF(2 * one, 2 * one, 0 * one, one, 0 * one),
            "back": nir.Affine(np.array([[-2.0]]), np.array([0.5])),
            "half": nir.Scale(0.5 * one),
            "output": nir.Output({"output": np.array([1])}),
        }
        names = dict.fromkeys(end for edge in edges for end in edge)
        return from_nir(
            write_graph({name: known[name] for name in names}, edges), profile="literal", dt=1
        )

    return make


def spikes(imported: Imported, values: list[float]) -> list[float]:
    trace = simulate(imported.network, np.array(values).reshape(1, -1, 1))
    return [float(spike) for spike in trace.output.ravel()]


def test_a_self_loop_adds_the_last_spike(read_recurrent: ReadRecurrent) -> None:
    """u = v/2 + I + last spike: one kick above 1 keeps a steady 1/2 above it."""
    imported = read_recurrent(chain("input lif lif output"))

    assert imported.inferred["feedback"] == "lif -> lif, one step later"
    assert spikes(imported, [0.5, 1.5, 0.5, 0.5, 0.5, 0]) == [0, 1, 1, 1, 1, 0]
    # without the loop: 1/2, 7/4, 1/2, ... fires once


def test_a_loop_through_a_layer_carries_its_bias_from_the_first_step(
    read_recurrent: ReadRecurrent,
) -> None:
    """u = v/2 + I + 1/2 - 2 last: 1.5 fires; 1 + .5 - 2 = -.5; -.25 + 1.5 = 1.25 fires; ..."""
    imported = read_recurrent([*chain("input lif output"), *chain("lif back lif")])

    assert imported.network.feedback == {("lif", "back")}
    assert spikes(imported, [1, 1, 1, 1]) == [1, 0, 1, 0]


def test_recurrent_neurons_follow_a_literal_recursion(write_graph: WriteGraph) -> None:
    generator = np.random.default_rng(0)
    forward, back, second = (generator.integers(-4, 5, (3, 3)) / 4 for _ in range(3))
    bias = generator.integers(-2, 3, 3) / 4
    full = np.ones(3)
    lif = {"tau": 2 * full, "r": 2 * full, "v_leak": 0 * full, "v_threshold": full}
    nodes = {
        "input": nir.Input({"input": np.array([3])}),
        "fc": nir.Linear(forward),
        "one": nir.LIF(**lif),
        "mid": nir.Linear(second),
        "two": nir.LIF(**lif),
        "w": nir.Affine(back, bias),
        "output": nir.Output({"output": np.array([3])}),
    }
    edges = [*chain("input fc one mid two output"), *chain("two w one")]
    values = generator.integers(0, 9, (1, 30, 3)) / 4

    imported = from_nir(write_graph(nodes, edges), profile="literal", dt=1)
    output = simulate(imported.network, values).output[0]

    assert imported.network.feedback == {("two", "w")}
    v_one, v_two, last = np.zeros(3), np.zeros(3), np.zeros(3)
    for step, value in enumerate(values[0]):
        u_one = v_one / 2 + forward @ value + back @ last + bias
        v_one = np.where(u_one > 1, 0, u_one)
        u_two = v_two / 2 + second @ (u_one > 1)
        v_two = np.where(u_two > 1, 0, u_two)
        last = (u_two > 1).astype(float)
        assert output[step].tolist() == last.tolist()
    assert 0 < output.mean() < 1


def test_a_cycle_without_a_neuron_is_refused(read_recurrent: ReadRecurrent) -> None:
    edges = [*chain("input half lif output"), *chain("half back half")]

    with pytest.raises(
        NirFormatError,
        match="without spiking neurons: half -> back -> half: a cycle needs a layer of spiking neurons",
    ):
        read_recurrent(edges)


def test_an_acyclic_file_infers_no_feedback(read_recurrent: ReadRecurrent) -> None:
    imported = read_recurrent(chain("input half lif output"))

    assert "feedback" not in imported.inferred
    assert isinstance(imported.network.nodes["lif"], LIF)
    assert imported.network.of_type(Output) == ("output",)
