"""Networks in NIR files: every field comes back to the last bit, others read what NIR can say, damage is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import h5py
import nir
import numpy as np
import pytest

from neurocompile.data import InputRange
from neurocompile.errors import NirFormatError, UnsupportedError
from neurocompile.frontend.exact_fields import FIELDS, KINDS
from neurocompile.frontend.exact_nir import exact_network
from neurocompile.frontend.from_nir import from_nir
from neurocompile.frontend.network_to_nir import network_to_nir
from neurocompile.frontend.read_nir import read_nir
from neurocompile.ir import (
    LIF,
    Conv2d,
    Delay,
    Dense,
    Flatten,
    Input,
    Integrator,
    MaxPool2d,
    Network,
    Node,
    Output,
    Pool2d,
    Reshape,
    Scale,
    Threshold,
)

Chain = Callable[..., Network]
generator = np.random.default_rng(7)


def odd(*shape: int) -> Any:
    """Return numbers that time constants do not carry."""
    return generator.uniform(0.1, 0.9, shape)


def written(network: Network, path: Path) -> Path:
    path.write_bytes(network_to_nir(network))
    return path


def test_weights_are_stored_as_they_are_and_equal_neurons_packed(
    chain: Chain, lif: Callable[..., LIF], tmp_path: Path
) -> None:
    network = chain(
        (40,), {"fc": Dense(generator.normal(size=(600, 40)), np.zeros(600)), "lif": lif((600,))}
    )

    path = written(network, tmp_path / "graph.nir")

    with h5py.File(path) as file:
        packed = {
            name: item.compression == "gzip"
            for node in ("fc", "lif")
            for name, item in file[f"node/nodes/{node}"].items()
            if isinstance(item, h5py.Dataset) and item.ndim
        }
    assert packed["weight"] is False
    assert packed["v_threshold"] is True
    check_equal(read(path), network)


def read(path: Path) -> Network:
    network = exact_network(read_nir(path))
    assert network is not None
    return network


def check_equal(first: Network, second: Network) -> None:
    assert first.edges == second.edges
    assert first.feedback == second.feedback
    assert (first.steps, first.weight_unit) == (second.steps, second.weight_unit)
    assert list(first.nodes) == list(second.nodes)
    for name, node in first.nodes.items():
        other = second.nodes[name]
        assert type(node) is type(other)
        for field in fields(node):
            ours, theirs = getattr(node, field.name), getattr(other, field.name)
            if isinstance(ours, np.ndarray):
                assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), (name, field.name)
                assert ours.tobytes() == theirs.tobytes(), (name, field.name)
                assert not theirs.flags.writeable
            else:
                assert ours == theirs, (name, field.name)


def test_every_field_of_every_node_has_a_place() -> None:
    kinds = {kind for part in get_args(Node) for kind in (get_args(part) or (part,))}
    assert set(FIELDS) == kinds
    for kind, known in FIELDS.items():
        assert list(known) == [field.name for field in fields(kind)]
    assert set(KINDS) == {kind.__name__ for kind in kinds}


def everything(shape: tuple[int, ...]) -> LIF:
    return LIF(
        decay=odd(*shape),
        gain=odd(*shape),
        leak=-odd(*shape),
        threshold=1 + odd(*shape),
        reset_to=np.zeros(shape),
        reset="subtract",
        current_decay=odd(*shape),
        start=odd(*shape),
        origin=-odd(*shape),
        comparison=">=",
        subtracts=odd(*shape),
        most_spikes=7,
        floor=-odd(*shape),
        refractory=3,
    )


CHAINS: dict[str, tuple[tuple[int, ...], dict[str, Node]]] = {
    "dense": ((3,), {"fc": Dense(odd(2, 3), odd(2)), "lif": everything((2,))}),
    "image into dense": ((2, 1, 3), {"fc": Dense(odd(2, 6), odd(2), (2, 1, 3))}),
    "conv": (
        (4, 6, 5),
        {
            "conv": Conv2d(odd(6, 2, 2, 3), odd(6), (2, 1), (1, 0), (2, 1), 2),
            "lif": everything((6, 3, 3)),
        },
    ),
    "conv1d": (
        (2, 6),
        {"conv": Conv2d(odd(3, 2, 1, 2), odd(3), (3, 2), (0, 1)), "lif": everything((3, 4))},
    ),
    "conv higher than its input": (
        (2, 6),
        {"conv": Conv2d(odd(3, 2, 3, 2), odd(3), (1, 1), (1, 0))},
    ),
    "sum": ((1, 4, 4), {"pool": Pool2d((2, 2), (2, 1), (1, 0))}),
    "average": ((1, 4, 4), {"pool": Pool2d((2, 3), (2, 1), (0, 1), 1 / 6)}),
    "another pool": ((1, 4, 4), {"pool": Pool2d((2, 2), (2, 2), scale=0.1)}),
    "max": ((1, 4, 4), {"pool": MaxPool2d((2, 3), (1, 2), (1, 0))}),
    "one scale": ((2, 3), {"scale": Scale(np.array(0.3))}),
    "scales of channels": ((2, 3), {"scale": Scale(odd(2, 1))}),
    "flatten": ((2, 3, 4), {"flatten": Flatten(1, -1), "all": Flatten()}),
    "reshape": ((2, 6), {"image": Reshape((3, 2, 2)), "vector": Reshape((12,))}),
    "one delay": ((3,), {"delay": Delay(np.array(5))}),
    "delays": ((3,), {"delay": Delay(np.array([0, 7, 2]))}),
    "threshold": ((3,), {"fire": Threshold(-odd(3), ">=")}),
    "integrator": ((3,), {"sum": Integrator(odd(3), odd(3), odd(3), odd(3))}),
    "perfect integrator": ((3,), {"sum": Integrator(np.ones(3), odd(3), odd(3))}),
    "leaks of 1 and less": (
        (2,),
        {"lif": LIF(np.array([1, 0.3]), odd(2), odd(2), odd(2), odd(2), current_decay=np.ones(2))},
    ),
    "unlimited spikes": (
        (2,),
        {"lif": LIF(np.ones(2), odd(2), odd(2), odd(2), np.zeros(2), most_spikes=None)},
    ),
    "numbers at the edge": (
        (4,),
        {"scale": Scale(np.array([-0.0, 5e-324, np.nextafter(1, 2), 1.7976931348623157e308]))},
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_each_node_comes_back(name: str, chain: Chain, tmp_path: Path) -> None:
    shape, nodes = CHAINS[name]
    network = chain(shape, nodes, steps=None, input_range=InputRange(-0.1, 1.0, 0.1))

    path = written(network, tmp_path / "graph.nir")

    check_equal(network, read(path))
    assert nir.read(path, type_check=False).metadata["framework"] == "neurocompile"


def several(lif: Callable[..., LIF]) -> Network:
    """Return a network with two inputs and outputs, a cycle, and names that HDF5 cannot hold."""
    nodes: dict[str, Node] = {
        "left/in": Input((2,)),
        "left.in": Input((2,), InputRange(0, 1, 1)),
        "block/0/fc": Dense(odd(3, 2), odd(3)),
        ".": lif((3,), decay=odd(3)),
        "/": Dense(odd(3, 3), odd(3)),
        "": Output((3,)),
        "größe": Output((3,)),
    }
    edges = (
        ("left/in", "block/0/fc"),
        (".", ""),
        ("block/0/fc", "."),
        ("/", "."),
        (".", "/"),
        ("left.in", "block/0/fc"),
        ("block/0/fc", "größe"),
    )
    return Network(nodes, edges, 9, frozenset({(".", "/")}), 0.25)


def test_cycles_names_and_ports_come_back(lif: Callable[..., LIF], tmp_path: Path) -> None:
    network = several(lif)

    path = written(network, tmp_path / "graph.nir")

    check_equal(network, read(path))
    assert path.read_bytes() == network_to_nir(read(path))
    graph = nir.read(path)
    assert {"left.in", "left.in.2", "block.0.fc", "node", "größe"} <= {*graph.nodes}


def test_other_tools_read_what_nir_can_say(
    chain: Chain, lif: Callable[..., LIF], tmp_path: Path
) -> None:
    """A dyadic network means the same where the exact numbers are not looked at."""
    network = chain(
        (2, 4, 4),
        {
            "conv": Conv2d(odd(4, 2, 3, 3), odd(4), padding=(1, 1)),
            "lif1": lif((4, 4, 4), decay=0.5, gain=0.25, leak=0.5, current_decay=0.75),
            "pool": Pool2d((2, 2), (2, 2), scale=0.25),
            "delay": Delay(np.array(3)),
            "scale": Scale(np.array(2.0)),
            "flatten": Flatten(),
            "fc": Dense(odd(3, 16), odd(3)),
            "lif2": lif((3,), decay=1.0, gain=0.5),
            "sum": Integrator(np.full(3, 0.75), np.ones(3), np.zeros(3)),
        },
    )

    path = written(network, tmp_path / "graph.nir")

    graph = nir.read(path)  # checks every shape
    assert {name: type(node).__name__ for name, node in graph.nodes.items()} == {
        "conv": "Conv2d",
        "delay": "Delay",
        "fc": "Affine",
        "flatten": "Flatten",
        "input": "Input",
        "lif1": "CubaLIF",
        "lif2": "IF",
        "output": "Output",
        "pool": "AvgPool2d",
        "scale": "Scale",
        "sum": "LI",
    }
    literal = from_nir(path, profile="literal", dt=1e-4).network
    for name in ("lif1", "lif2", "sum"):
        ours, theirs = vars(network.nodes[name]), vars(literal.nodes[name])
        for field in ("decay", "gain", "leak", "threshold", "current_decay"):
            if ours.get(field) is not None and (name, field) != ("lif2", "leak"):
                np.testing.assert_allclose(theirs[field], ours[field], rtol=1e-12, atol=1e-15)


def test_images_into_dense_layers_are_flattened_for_others(
    chain: Chain, lif: Callable[..., LIF], tmp_path: Path
) -> None:
    nodes = {"fc": Dense(odd(2, 6), odd(2), (2, 1, 3)), "lif": lif((2,))}

    graph = nir.read(written(chain((2, 1, 3), nodes), tmp_path / "graph.nir"))

    assert type(graph.nodes["fc.view"]).__name__ == "Flatten"
    assert {("input", "fc.view"), ("fc.view", "fc")} <= {*graph.edges}


def test_a_copy_by_nir_is_the_same(lif: Callable[..., LIF], tmp_path: Path) -> None:
    network = several(lif)
    graph = nir.read(written(network, tmp_path / "graph.nir"))

    nir.write(tmp_path / "copy.nir", graph)

    check_equal(network, read(tmp_path / "copy.nir"))


def test_files_of_others_carry_no_network(chain: Chain, tmp_path: Path) -> None:
    path = written(chain((3,), CHAINS["threshold"][1]), tmp_path / "graph.nir")
    with h5py.File(path, "a") as file:
        del file["node/metadata/exact"]
    assert exact_network(read_nir(path)) is None
    with h5py.File(path, "a") as file:
        file["node/metadata/exact"] = 1
        del file["node/metadata/framework"]
        file["node/metadata/framework"] = "other"
    assert exact_network(read_nir(path)) is None
    with h5py.File(path, "a") as file:
        del file["node/metadata"]
    assert exact_network(read_nir(path)) is None


def test_names_without_a_place_are_refused(chain: Chain) -> None:
    network = chain((3,), {"a\0b": Threshold(odd(3)), "\udcff": Threshold(odd(3))})

    with pytest.raises(UnsupportedError) as raised:
        network_to_nir(network)

    assert [problem.layer for problem in raised.value.problems] == ["a\0b", "\udcff"]
    huge = LIF(np.ones(3), odd(3), odd(3), odd(3), np.zeros(3), most_spikes=1 << 70)
    with pytest.raises(UnsupportedError, match="layer 'lif' needs a 'most_spikes' of 64 bits"):
        network_to_nir(chain((3,), {"lif": huge}))


LIF_NODE = "node/nodes/lif"
CHANGED = "the file was changed after it was written"
HOSTILE: list[tuple[str, Any, str]] = [
    ("node/metadata/exact", 2, "exact numbers must be of version 1, but they are of 2"),
    ("node/metadata/exact", "1", "they are of '1'"),
    ("node/metadata/steps", 0, "needs integers from 1 to 1000000 in 'steps', but it is 0"),
    ("node/metadata/steps", np.uint64((1 << 64) - 1), "in 'steps', but it is 18446744073709551615"),
    ("node/metadata/steps", np.ones(3, int), "needs one integer in 'steps'"),
    ("node/metadata/weight_unit", -1.0, "needs a number above 0 in 'weight_unit'"),
    ("node/metadata/weight_unit", np.nan, "needs finite numbers in 'weight_unit'"),
    ("node/metadata/weight_units", -np.ones(1), "needs numbers above 0 in 'weight_units'"),
    ("node/metadata/weight_units", np.ones(1), "needs a name for each unit in 'units_of'"),
    ("node/metadata/edges", np.zeros((2, 2)), "need pairs of names in 'edges'"),
    ("node/metadata/edges", np.array([["a"]], object), "need pairs of names in 'edges'"),
    ("node/metadata/edges", np.array([["input", "x"]], object), "needs a node 'x'"),
    ("node/metadata/feedback", np.array([["lif", "fc"]], object), "lif -> fc must be an edge"),
    ("node/edges", np.array([["input", "lif"]], object), "edges must be those of its metadata"),
    ("node/edges", 3, "edges must be those of its metadata"),
    (f"{LIF_NODE}/tau", np.ones(2), "layer 'lif' needs 'tau' as its exact fields"),
    (f"{LIF_NODE}/v_threshold", "1", "'v_threshold' as its exact fields"),
    (f"{LIF_NODE}/type", "IF", f"needs 'type' as its exact fields in the metadata say, but {CHANGED}"),
    (f"{LIF_NODE}/metadata", None, "layer 'lif' needs its exact fields, but it has no metadata"),
    (f"{LIF_NODE}/metadata/kind", "Exec", "layer 'lif' needs a kind of Input, Output"),
    (f"{LIF_NODE}/metadata/kind", np.zeros(9), "but it is float64 of shape (9,)"),
    (f"{LIF_NODE}/metadata/kind", "view", "needs a node 'lif'"),
    (f"{LIF_NODE}/metadata/name", "fc", "needs a name of its own"),
    (f"{LIF_NODE}/metadata/name", 1, "needs a name of its own"),
    (f"{LIF_NODE}/metadata/decay", None, "layer 'lif' needs float64 numbers in 'decay', but there is none"),
    (f"{LIF_NODE}/metadata/decay", np.ones(2, np.float32), "needs float64 numbers in 'decay'"),
    (f"{LIF_NODE}/metadata/decay", np.array([1, np.inf]), "1 of 2 are NaN or infinite"),
    (f"{LIF_NODE}/metadata/floor", np.ones(3), "layer 'lif' needs parameters of one shape"),
    (f"{LIF_NODE}/metadata/floor", np.ones(0), "needs at least one number in 'floor'"),
    (f"{LIF_NODE}/metadata/floor", np.full(2, 9.0), "needs a lowest membrane below its threshold"),
    (f"{LIF_NODE}/metadata/reset", "never", "needs one of zero, subtract in 'reset', but it is 'never'"),
    (f"{LIF_NODE}/metadata/comparison", 1, "needs one of >, >= in 'comparison'"),
    (f"{LIF_NODE}/metadata/most_spikes", 0, "in 'most_spikes', but it is 0"),
    (f"{LIF_NODE}/metadata/refractory", 1 << 40, "in 'refractory', but it is 1099511627776"),
    (f"{LIF_NODE}/metadata/refractory", 0.5, "in 'refractory', but it is 0.5"),
    ("node/nodes/fc/weight", np.ones((2, 3), np.float32), "layer 'fc' needs float64 numbers in 'weight'"),
    ("node/nodes/fc/weight", np.ones((2, 3, 1)), "layer 'fc' needs a weight with 2 axes"),
    ("node/nodes/fc/weight", np.ones((2, 4)), "layer 'fc' needs an input of 4 numbers"),
    ("node/nodes/fc/bias", np.ones(3), "layer 'fc' needs a bias of shape (2,)"),
    ("node/nodes/fc/metadata/input_shape", np.array([1 << 30]), "in 'input_shape'"),
    ("node/nodes/fc/metadata/input_shape", np.full(9, 1 << 24), "elements in 'input_shape'"),
    ("node/nodes/fc/metadata/input_shape", np.ones(40, int), "needs a shape in 'input_shape'"),
    ("node/nodes/input/shape", np.array([4]), "layer 'fc' needs an input of shape (3,)"),
    ("node/nodes/input/metadata/range", np.array([1.0, 0.0, 0.0]), "needs a minimum, a maximum above it"),
    ("node/nodes/extra", "x", "layer 'extra' needs its exact fields"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "text"), HOSTILE)
def test_damage_is_named(
    place: str, value: Any, text: str, chain: Chain, lif: Callable[..., LIF], tmp_path: Path
) -> None:
    network = chain((3,), {"fc": Dense(odd(2, 3), odd(2)), "lif": lif((2,))})
    path = written(network, tmp_path / "graph.nir")
    with h5py.File(path, "a") as file:
        if place in file:
            del file[place]
        if isinstance(value, np.ndarray) and value.dtype == object:
            file.create_dataset(place, data=value, dtype=h5py.string_dtype())
        elif value is not None:
            file[place] = value

    with pytest.raises(NirFormatError) as raised:
        exact_network(read_nir(path))

    assert text in str(raised.value)


def test_all_damage_is_told_at_once(chain: Chain, lif: Callable[..., LIF], tmp_path: Path) -> None:
    network = chain((3,), {"fc": Dense(odd(2, 3), odd(2)), "lif": lif((2,))})
    path = written(network, tmp_path / "graph.nir")
    with h5py.File(path, "a") as file:
        del file["node/nodes/fc/bias"], file[f"{LIF_NODE}/metadata/gain"]
        del file[f"{LIF_NODE}/metadata/leak"], file["node/metadata/steps"]
        file["node/metadata/steps"] = -1

    with pytest.raises(NirFormatError) as raised:
        exact_network(read_nir(path))

    assert {(problem.layer, problem.need.split()[-1]) for problem in raised.value.problems} == {
        ("fc", "'bias'"), ("lif", "'gain'"), ("lif", "'leak'"), ("", "'steps'"),
    }  # fmt: skip


def windows(kind: str, **changes: Any) -> tuple[dict[str, Node], dict[str, Any]]:
    made: dict[str, Node] = {
        "Conv2d": Conv2d(odd(2, 2, 2, 2), odd(2)),
        "MaxPool2d": MaxPool2d((2, 2), (1, 1)),
        "Flatten": Flatten(),
        "Delay": Delay(np.array(1)),
        "Pool2d": Pool2d((2, 2), (2, 2)),
    }
    return {"node": made[kind]}, changes


@pytest.mark.parametrize(
    ("kind", "changes", "text"),
    [
        ("Conv2d", {"stride": np.array([0, 1])}, "needs integers from 1 to 16777216 in 'stride'"),
        ("Conv2d", {"padding": np.array([-1, 1])}, "in 'padding'"),
        ("Conv2d", {"padding": np.array([1, 1, 1])}, "needs 2 integers in 'padding'"),
        ("Conv2d", {"padding": np.array([1 << 24] * 2)}, "layer 'output' has the shape (2, 3, 3)"),
        ("Conv2d", {"groups": 3}, "needs groups that divide 2 channels"),
        ("Conv2d", {"groups": 0}, "in 'groups'"),
        ("Conv2d", {"dilation": np.array([1 << 20] * 2)}, "window larger than its input"),
        ("MaxPool2d", {"padding": np.array([2, 1])}, "needs a padding of at most half its kernel"),
        ("MaxPool2d", {"stride": np.array([0, 0])}, "in 'stride'"),
        ("Flatten", {"start": 9}, "flattens axes 9 to -1"),
        ("Delay", {"steps": np.array([1, 2])}, "delays the shape (2,)"),
        ("Delay", {"steps": -1}, "needs integers from 0 to 1000000 in 'steps'"),
        ("Delay", {"steps": 1 << 60}, "needs integers from 0 to 1000000 in 'steps'"),
        ("Pool2d", {"scale": np.nan}, "needs finite numbers in 'scale'"),
        ("Pool2d", {"scale": 0.25}, "needs 'type' as its exact fields"),
    ],
)
def test_windows_and_delays_are_checked(
    kind: str, changes: dict[str, Any], text: str, chain: Chain, tmp_path: Path
) -> None:
    nodes, changes = windows(kind, **changes)
    path = written(chain((2, 4, 4), nodes), tmp_path / "graph.nir")
    with h5py.File(path, "a") as file:
        for name, value in changes.items():
            del file[f"node/nodes/node/metadata/{name}"]
            file[f"node/nodes/node/metadata/{name}"] = value

    with pytest.raises(NirFormatError) as raised:
        exact_network(read_nir(path))

    assert "layer '" in str(raised.value)
    assert text in str(raised.value)


def test_intermediate_shapes_have_an_end(chain: Chain) -> None:
    large = 1 << 24
    nodes: dict[str, Node] = {
        "large": Conv2d(odd(1, 1, 1, 1), odd(1), padding=(large - 1, large - 1)),
        "small": Conv2d(odd(1, 1, 1, 1), odd(1), stride=(large, large)),
    }

    with pytest.raises(NirFormatError, match="layer 'large' needs at most"):
        network_to_nir(chain((1, 4, 4), nodes))
