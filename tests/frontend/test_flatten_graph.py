"""Graphs in graphs: the same network as without, or refused with the port that is wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

from neurocompile.errors import NeurocompileError, NirFormatError
from neurocompile.frontend.from_nir import from_nir
from neurocompile.ir import Scale
from neurocompile.reference import simulate

WriteGraph = Callable[..., Path]


def inlet(size: int = 2) -> nir.Input:
    return nir.Input({"input": np.array([size])})


def outlet(size: int = 2) -> nir.Output:
    return nir.Output({"output": np.array([size])})


def times(factor: float) -> nir.Scale:
    return nir.Scale(np.full(2, factor))


def lif() -> nir.LIF:
    one = np.ones(2)
    return nir.LIF(2 * one, 2 * one, 0 * one, one, 0 * one)


def graph(nodes: dict[str, Any], *chains: str) -> nir.NIRGraph:
    return nir.NIRGraph(nodes, edges(*chains), type_check=False)


def edges(*chains: str) -> list[tuple[str, str]]:
    return [pair for chain in chains for pair in itertools.pairwise(chain.split())]


def outputs(path: Path, values: Sequence[Sequence[float]], **options: Any) -> dict[str, Any]:
    found = simulate(from_nir(path, **options).network, np.array([values], float)).outputs
    return {name: array[0].tolist() for name, array in found.items()}


def test_a_nested_graph_is_spliced_with_full_names(write_graph: WriteGraph) -> None:
    block = graph({"input": inlet(), "by3": times(3), "output": outlet()}, "input by3 output")
    nodes = {"input": inlet(), "by2": times(2), "block": block, "output": outlet()}
    path = write_graph(nodes, edges("input by2 block output"))

    network = from_nir(path).network

    assert set(network.nodes) == {"input", "by2", "block.by3", "output"}
    assert set(network.edges) == set(edges("input by2 block.by3 output"))
    assert outputs(path, [[1, 2]]) == {"output": [[6, 12]]}


def test_graphs_nest_to_any_depth(write_graph: WriteGraph) -> None:
    block = graph({"in": inlet(), "by2": times(2), "out": outlet()}, "in by2 out")
    for _ in range(5):
        block = graph({"in": inlet(), "b": block, "by2": times(2), "out": outlet()}, "in b by2 out")
    path = write_graph({"in": inlet(), "b": block, "out": outlet()}, edges("in b out"))

    network = from_nir(path).network

    assert "b.b.b.b.b.b.by2" in network.nodes
    assert outputs(path, [[1, 2]]) == {"out": [[64, 128]]}


def test_a_nested_recurrence_equals_the_flat_one(write_graph: WriteGraph) -> None:
    weight = np.array([[0.5, -1.0], [1.0, -0.5]])
    flat = {
        "input": inlet(),
        "b.lif": lif(),
        "b.back": nir.Affine(weight, np.array([0.25, 0])),
        "by2": times(2),
        "output": outlet(),
    }
    block = graph(
        {"i": inlet(), "lif": lif(), "back": flat["b.back"], "o": outlet()},
        "i lif o",
        "lif back lif",
    )
    nested = {"input": inlet(), "b": block, "by2": times(2), "output": outlet()}
    values = np.random.default_rng(0).integers(0, 8, (1, 40, 2)) / 4

    one, two = (
        from_nir(path, profile="literal", dt=1)
        for path in (
            write_graph(flat, edges("input b.lif by2 output", "b.lif b.back b.lif")),
            write_graph(nested, edges("input b by2 output")),
        )
    )

    assert set(one.network.edges) == set(two.network.edges)
    assert one.network.feedback == two.network.feedback == {("b.lif", "b.back")}
    assert two.inferred["feedback"] == "b.lif -> b.back, one step later"
    first, second = simulate(one.network, values), simulate(two.network, values)
    assert np.array_equal(first.output, second.output)
    assert 0 < first.spikes["b.lif"].mean() < 1


def test_a_cycle_through_a_block_is_found(write_graph: WriteGraph) -> None:
    """The loop is outside, the neuron inside."""
    block = graph({"i": inlet(), "lif": lif(), "o": outlet()}, "i lif o")
    nodes = {"input": inlet(), "b": block, "back": times(1), "output": outlet()}
    path = write_graph(nodes, edges("input b output", "b back b"))

    assert from_nir(path, profile="literal", dt=1).network.feedback == {("b.lif", "back")}


@pytest.fixture
def two_ports() -> nir.NIRGraph:
    """left * 2 + right * 3 -> sum, right * 3 -> other."""
    return graph(
        {
            "left": inlet(),
            "right": inlet(),
            "by2": times(2),
            "by3": times(3),
            "sum": outlet(),
            "other": outlet(),
        },
        "left by2 sum",
        "right by3 sum",
        "by3 other",
    )


def test_several_ports_are_named_by_the_edges(
    write_graph: WriteGraph, two_ports: nir.NIRGraph
) -> None:
    nodes = {"a": inlet(), "b": times(10), "block": two_ports, "x": outlet(), "y": outlet()}
    path = write_graph(
        nodes, edges("a block.left", "a b block.right", "block.sum x", "block.other y")
    )

    assert outputs(path, [[1, 2]]) == {"x": [[32, 64]], "y": [[30, 60]]}


def test_an_edge_that_names_no_port_of_several_is_refused(
    write_graph: WriteGraph, two_ports: nir.NIRGraph
) -> None:
    nodes = {"a": inlet(), "block": two_ports, "x": outlet(), "y": outlet()}
    path = write_graph(nodes, edges("a block x", "block.nowhere y", "a block.sum"))

    with pytest.raises(NirFormatError) as raised:
        from_nir(path)

    text = str(raised.value)
    assert (
        "layer 'block' has the inputs left, right, but the edge a -> block does not say which:"
        " write block.left" in text
    )
    assert "layer 'block' has the outputs other, sum, but the edge block -> x does not say" in text
    assert "has the outputs other, sum, but the edge block.nowhere -> y names 'nowhere'" in text
    assert "has the inputs left, right, but the edge a -> block.sum names 'sum'" in text
    assert "layer 'block.left' needs an input, but nothing feeds it" in text


def test_a_port_that_nothing_feeds_is_refused(
    write_graph: WriteGraph, two_ports: nir.NIRGraph
) -> None:
    nodes = {"a": inlet(), "block": two_ports, "x": outlet()}
    path = write_graph(nodes, edges("a block.left", "block.sum x"))

    with pytest.raises(
        NirFormatError, match="layer 'block.right' needs an input, but nothing feeds it"
    ):
        from_nir(path)


def test_a_block_without_the_port_is_refused(write_graph: WriteGraph) -> None:
    block = graph({"i": inlet(), "by2": times(2)}, "i by2")
    path = write_graph({"a": inlet(), "block": block, "x": outlet()}, edges("a block x"))

    with pytest.raises(
        NirFormatError,
        match="layer 'block' needs an output for the edge block -> x, but it has none",
    ):
        from_nir(path)


def test_ports_that_carry_one_value_twice_count_twice(write_graph: WriteGraph) -> None:
    block = graph({"p": inlet(), "q": inlet(), "by3": times(3), "o": outlet()}, "p by3 o", "q by3")
    nodes = {"a": inlet(), "block": block, "x": outlet()}
    path = write_graph(nodes, edges("a block.p", "a block.q", "block x"))

    network = from_nir(path).network

    assert outputs(path, [[1, 2]]) == {"x": [[6, 12]]}
    assert isinstance(network.nodes["block.q"], Scale)


def test_a_block_may_pass_its_input_on(write_graph: WriteGraph) -> None:
    block = graph({"i": inlet(), "o": outlet()}, "i o")
    nodes = {"a": inlet(), "block": block, "by2": times(2), "x": outlet()}
    path = write_graph(nodes, edges("a block by2 x", "a x"))

    assert outputs(path, [[1, 2]]) == {"x": [[3, 6]]}


def test_blocks_that_only_pass_on_in_a_circle_are_refused(write_graph: WriteGraph) -> None:
    block = graph({"i": inlet(), "o": outlet()}, "i o")
    path = write_graph({"a": inlet(), "b": block, "x": outlet()}, edges("a b b x"))

    with pytest.raises(NirFormatError, match="a cycle needs a layer of spiking neurons"):
        from_nir(path)


def test_ports_of_another_shape_are_refused(write_graph: WriteGraph) -> None:
    block = graph({"i": inlet(3), "by2": times(2), "o": outlet(4)}, "i by2 o")
    path = write_graph({"a": inlet(), "block": block, "x": outlet()}, edges("a block x"))

    with pytest.raises(NirFormatError) as raised:
        from_nir(path)

    assert "layer 'block.i' has the shape (3,), but gets (2,)" in str(raised.value)
    assert "layer 'block.o' has the shape (4,), but gets (2,)" in str(raised.value)


def test_inputs_that_are_fed_and_outputs_that_feed_are_refused(write_graph: WriteGraph) -> None:
    block = graph({"i": inlet(), "by2": times(2), "o": outlet()}, "i by2 o", "by2 i", "o by2")
    path = write_graph({"a": inlet(), "block": block, "x": outlet()}, edges("a block x", "x a"))

    with pytest.raises(NirFormatError) as raised:
        from_nir(path)

    text = str(raised.value)
    assert "layer 'block.i' is an input, but 'by2' feeds it" in text
    assert "layer 'block.o' is an output, but feeds 'by2'" in text
    assert "layer 'a' is an input, but 'x' feeds it" in text


def test_one_name_for_two_nodes_is_refused(write_graph: WriteGraph) -> None:
    block = graph({"i": inlet(), "by2": times(2), "o": outlet()}, "i by2 o")
    nodes = {"a": inlet(), "block": block, "block.by2": times(5), "x": outlet()}
    path = write_graph(nodes, edges("a block x", "a block.by2 x"))

    with pytest.raises(NirFormatError, match="layer 'block.by2' is the name of two nodes"):
        from_nir(path)


def test_an_edge_that_is_there_twice_is_refused(write_graph: WriteGraph) -> None:
    block = graph({"i": inlet(), "by2": times(2), "o": outlet()}, "i by2 o")
    path = write_graph(
        {"a": inlet(), "block": block, "x": outlet()}, edges("a block x", "a block.i")
    )

    with pytest.raises(
        NirFormatError, match="the edge a -> block.i is there 2 times: use a weight instead"
    ):
        from_nir(path)


def test_problems_of_nested_nodes_carry_full_names(write_graph: WriteGraph) -> None:
    inner = graph({"i": inlet(), "bad": nir.Scale(np.array([np.nan, 1])), "o": outlet()}, "i bad o")
    block = graph({"i": inlet(), "deep": inner, "lif": lif(), "o": outlet()}, "i deep lif o")
    path = write_graph({"a": inlet(), "block": block, "x": outlet()}, edges("a block x"))

    with pytest.raises(NirFormatError) as raised:
        from_nir(path, profile="literal")

    text = str(raised.value)
    assert "layer 'block.deep.bad' needs finite numbers in 'scale', but 1 of 2 are NaN" in text
    assert "layer 'block.lif' needs the time step" in text


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ("nodes", "layer 'block' is a NIR graph without nodes"),
        ("edges", "layer 'block' needs edges that are pairs of node names"),
        ("nodes/i/shape", "layer 'block.i' needs numbers in 'shape', but there are none"),
        ("nodes/by2/type", "layer 'block.by2' is a 'None' node"),
    ],
)
def test_damaged_blocks_are_refused(write_graph: WriteGraph, missing: str, text: str) -> None:
    block = graph({"i": inlet(), "by2": times(2), "o": outlet()}, "i by2 o")
    path = write_graph({"a": inlet(), "block": block, "x": outlet()}, edges("a block x"))
    with h5py.File(path, "a") as file:
        del file[f"node/nodes/block/{missing}"]

    with pytest.raises(NeurocompileError, match=text):
        from_nir(path)


def test_edges_into_nothing_are_named_with_the_block(write_graph: WriteGraph) -> None:
    block = graph({"i": inlet(), "by2": times(2), "o": outlet()}, "i by2 o", "by2 gone")
    path = write_graph({"a": inlet(), "block": block, "x": outlet()}, edges("a block x"))

    with pytest.raises(
        NirFormatError, match="edge block.by2 -> block.gone needs a node 'block.gone'"
    ):
        from_nir(path)


def test_metadata_of_nested_nodes_means_nothing(write_graph: WriteGraph) -> None:
    inner = graph({"i": inlet(), "lif": lif(), "o": outlet()}, "i lif o")
    inner.metadata = {"dt": 1e-4, "framework": "neurocompile"}
    inner.nodes["lif"].metadata = {"reset": "subtract"}
    path = write_graph({"a": inlet(), "block": inner, "x": outlet()}, edges("a block x"))

    imported = from_nir(path, profile="literal", dt=1)

    assert imported.inferred["dt"] == "1, as asked for"
    assert imported.inferred["reset"].startswith("to v_reset")


def test_random_damage_of_nested_files_never_escapes_the_error_tree(
    write_graph: WriteGraph,
) -> None:
    block = graph(
        {"i": inlet(), "lif": lif(), "back": times(1), "o": outlet()}, "i lif o", "lif back lif"
    )
    path = write_graph({"a": inlet(), "block": block, "x": outlet()}, edges("a block x"))
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), 8):
            damaged[place] = generator.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            from_nir(path, profile="literal", dt=1)
        except NeurocompileError:
            refused += 1
    assert refused > 10
