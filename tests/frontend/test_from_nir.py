"""Reading NIR files: what they mean, what they leave open, and files that must be refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

from neurocompile.errors import NeurocompileError, NirFormatError, OptionError, UnsupportedError
from neurocompile.frontend.from_nir import from_nir
from neurocompile.ir import LIF, Conv2d, Pool2d

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a chain of NIR nodes between an input and an output."""

    def make(
        nodes: dict[str, Any], shape: tuple[int, ...], out: tuple[int, ...], **metadata: Any
    ) -> Path:
        names = ["input", *nodes, "output"]
        graph = nir.NIRGraph(
            nodes={
                "input": nir.Input({"input": np.array(shape)}),
                **nodes,
                "output": nir.Output({"output": np.array(out)}),
            },
            edges=list(itertools.pairwise(names)),
            metadata=metadata,
            type_check=False,
        )
        path = tmp_path / "graph.nir"
        nir.write(path, graph)
        return path

    return make


def lif_node(size: int = 2, tau: float = 2e-4, r: float = 2.0) -> nir.LIF:
    full = np.full(size, 1.0)
    return nir.LIF(tau=tau * full, r=r * full, v_leak=0 * full, v_threshold=full, v_reset=0 * full)


def affine(out: int = 2, size: int = 2) -> nir.Affine:
    return nir.Affine(weight=np.ones((out, size)), bias=np.arange(float(out)))


def test_forward_euler_gives_decay_and_gain(write: Write) -> None:
    path = write({"fc": affine(), "lif": lif_node()}, (2,), (2,))

    imported = from_nir(path, profile="literal", dt=1e-4)

    node = imported.network.nodes["lif"]
    assert isinstance(node, LIF)
    assert node.decay.tolist() == [0.5, 0.5]
    assert node.gain.tolist() == [1.0, 1.0]
    assert node.reset == "zero"
    assert imported.inferred["dt"] == "0.0001, as asked for"
    assert imported.inferred["reset"].startswith("to v_reset")
    assert imported.inferred["input"].startswith("spikes, 0 or 1")


def test_if_neurons_have_no_leak(write: Write) -> None:
    full = np.ones(2)
    node = nir.IF(r=1e4 * full, v_threshold=full, v_reset=0 * full)

    network = from_nir(
        write({"fc": affine(), "if": node}, (2,), (2,)), profile="literal", dt=1e-4
    ).network

    found = network.nodes["if"]
    assert isinstance(found, LIF)
    assert found.decay.tolist() == [1.0, 1.0]
    assert found.gain.tolist() == [1.0, 1.0]


def test_convolutions_pools_and_shapes_are_ours(write: Write) -> None:
    """nir 1.0.8 gets the output of a 3x5 kernel and of groups wrong; we do not ask it."""
    conv = nir.Conv2d(
        input_shape=(10, 10),
        weight=np.ones((4, 1, 3, 5)),
        stride=1,
        padding=0,
        dilation=1,
        groups=2,
        bias=np.zeros(4),
    )
    pool = nir.AvgPool2d(
        kernel_size=np.array([2, 2]), stride=np.array([2, 2]), padding=np.array([0, 0])
    )

    network = from_nir(write({"conv": conv, "pool": pool}, (2, 10, 10), (4, 4, 3))).network

    assert network.shapes["conv"] == (4, 8, 6)
    assert network.shapes["pool"] == (4, 4, 3)
    found = network.nodes["pool"]
    assert isinstance(found, Pool2d)
    assert found.scale == 0.25
    assert isinstance(network.nodes["conv"], Conv2d)


def test_same_padding_is_written_out(write: Write) -> None:
    conv = nir.Conv2d(
        input_shape=(6, 6),
        weight=np.ones((1, 1, 5, 3)),
        stride=1,
        padding="same",
        dilation=1,
        groups=1,
        bias=np.zeros(1),
    )

    node = from_nir(write({"conv": conv}, (1, 6, 6), (1, 6, 6))).network.nodes["conv"]

    assert isinstance(node, Conv2d)
    assert node.padding == (2, 1)


def test_a_missing_time_step_is_asked_for(write: Write) -> None:
    path = write({"fc": affine(), "lif": lif_node()}, (2,), (2,))

    with pytest.raises(
        UnsupportedError, match="layer 'lif' needs the time step.*give it with --dt"
    ):
        from_nir(path, profile="literal")


def test_a_missing_reset_is_asked_for(write: Write) -> None:
    path = write({"fc": affine(), "lif": lif_node()}, (2,), (2,))
    with h5py.File(path, "a") as file:
        del file["node/nodes/lif/v_reset"]

    with pytest.raises(
        UnsupportedError, match="can reset to zero or subtract.*--reset zero or --reset subtract"
    ):
        from_nir(path, profile="literal", dt=1e-4)
    node = from_nir(path, profile="literal", dt=1e-4, reset="subtract").network.nodes["lif"]
    assert isinstance(node, LIF)
    assert node.reset == "subtract"


def test_a_step_longer_than_the_time_constant_is_refused(write: Write) -> None:
    path = write({"fc": affine(), "lif": lif_node()}, (2,), (2,))

    with pytest.raises(
        NirFormatError,
        match="layer 'lif' needs a time step of at most its time constant, 0.0002 s, but dt is 0.001 s",
    ):
        from_nir(path, profile="literal", dt=1e-3)


def test_a_float32_time_constant_may_equal_the_step(write: Write) -> None:
    node = lif_node()
    node.tau, node.r = np.full(2, 1e-4, np.float32), np.ones(2)

    path = write({"fc": affine(), "lif": node}, (2,), (2,))
    found = from_nir(path, profile="literal", dt=1e-4).network.nodes["lif"]

    assert isinstance(found, LIF)
    assert found.decay.min() >= 0
    np.testing.assert_allclose(found.decay, 0, atol=1e-6)


@pytest.mark.parametrize(
    ("node", "field", "value", "text"),
    [
        ("conv", "groups", 1.5, "needs an integer in 'groups'"),
        ("conv", "groups", "one", "needs numbers in 'groups'"),
        ("conv", "stride", [2.0**62, 1.0], "needs one or two integers from 1 in 'stride'"),
        ("lif", "tau", [1e-3, 1e-3, 1e-3], "needs parameters of one shape"),
        ("output", "shape", [1, 4, 5], "has the shape"),
    ],
)
def test_fields_that_make_no_sense_are_named(
    write: Write, node: str, field: str, value: Any, text: str
) -> None:
    conv = nir.Conv2d((4, 4), np.ones((1, 1, 1, 1)), 1, 0, 1, 1, np.zeros(1))
    full = np.ones((1, 4, 4))
    lif = nir.LIF(full, full, 0 * full, full, 0 * full)
    path = write({"conv": conv, "lif": lif}, (1, 4, 4), (1, 4, 4))
    with h5py.File(path, "a") as file:
        del file[f"node/nodes/{node}/{field}"]
        file[f"node/nodes/{node}/{field}"] = value

    with pytest.raises(NirFormatError, match=f"layer '{node}' {text}"):
        from_nir(path, profile="literal", dt=1e-4)


def test_metadata_of_strangers_is_not_trusted(write: Write) -> None:
    path = write({"fc": affine(), "lif": lif_node()}, (2,), (2,), dt=1e-4, framework="someone")

    with pytest.raises(
        UnsupportedError, match="neurons are computed differently by each framework"
    ):
        from_nir(path)
    with pytest.raises(OptionError, match="--profile ours needs a file of neurocompile"):
        from_nir(path, profile="ours")


def test_all_problems_come_together(write: Write) -> None:
    bad_lif = lif_node()
    nodes = {
        "nan": nir.Affine(weight=np.array([[np.nan, 1], [1, 1]]), bias=np.zeros(2)),
        "pool": nir.Threshold(threshold=np.ones(2)),
        "short": nir.Affine(weight=np.ones((2, 2)), bias=np.zeros(3)),
        "lif": bad_lif,
    }

    path = write(nodes, (2,), (2,))
    with h5py.File(path, "a") as file:
        del file["node/nodes/pool/type"]
        file["node/nodes/pool/type"] = "MaxPool2d"

    with pytest.raises(NirFormatError) as raised:
        from_nir(path, profile="literal")

    text = str(raised.value)
    assert "4 problems" in text
    assert "layer 'nan' needs finite numbers in 'weight', but 1 of 4 are NaN or infinite" in text
    assert (
        "layer 'pool' is a 'MaxPool2d' node, but that cannot be compiled: supported are Input"
        in text
    )
    assert "layer 'short' needs a bias of shape (2,), but it has (3,)" in text
    assert "layer 'lif' needs the time step" in text


def test_shapes_that_do_not_fit_are_named(write: Write) -> None:
    with pytest.raises(
        NirFormatError, match=r"layer 'b' needs an input of shape \(3,\), but gets \(2,\)"
    ):
        from_nir(write({"a": affine(), "b": affine(2, 3)}, (2,), (2,)))


def test_dangling_edges_and_unfed_nodes_are_named(write: Write) -> None:
    path = write({"a": affine()}, (2,), (2,))
    with h5py.File(path, "a") as file:
        del file["node/edges"]
        file["node/edges"] = np.array([["input", "a"], ["a", "gone"]], dtype="S")

    with pytest.raises(
        NirFormatError, match="edge a -> gone needs a node 'gone', but there is none"
    ) as raised:
        from_nir(path)
    assert "layer 'output' needs an input, but nothing feeds it" in str(raised.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"profile": "brian"}, "there is no profile 'brian'"),
        ({"reset": "soft"}, "there is no reset 'soft'"),
        ({"dt": -1.0}, "--dt must be a positive number"),
    ],
)
def test_impossible_options_are_refused(write: Write, options: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        from_nir(write({"a": affine()}, (2,), (2,)), **options)


def test_what_is_no_nir_file_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.nir"
    text.write_text("hello")
    empty = tmp_path / "empty.nir"
    h5py.File(empty, "w").close()

    with pytest.raises(NirFormatError, match=r"text.nir' is not a NIR file"):
        from_nir(text)
    with pytest.raises(NirFormatError, match="is an HDF5 file, but not a NIR graph"):
        from_nir(empty)
    with pytest.raises(NirFormatError, match="there is no file"):
        from_nir(tmp_path / "none.nir")


def test_a_truncated_file_is_refused(write: Write) -> None:
    path = write({"a": affine()}, (2,), (2,))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(NirFormatError, match="is not a NIR file"):
        from_nir(path)


def plant_external_link(node: Any) -> None:
    node["stolen"] = h5py.ExternalLink("/etc/hostname", "/")


def plant_soft_link(node: Any) -> None:
    node["loop"] = h5py.SoftLink("/node")


def plant_external_storage(node: Any) -> None:
    node.create_dataset("raw", (8,), "u1", external=[("/etc/hostname", 0, 8)])


def plant_terabytes(node: Any) -> None:
    node.create_dataset("huge", (1 << 40,), "f8", chunks=(1 << 20,), compression="gzip")


def plant_objects(node: Any) -> None:
    node.create_dataset("reference", data=node.ref, dtype=h5py.ref_dtype)


@pytest.mark.parametrize(
    ("plant", "text"),
    [
        (plant_external_link, "is a link"),
        (plant_soft_link, "is a link"),
        (plant_external_storage, "keeps its data in another file"),
        (plant_terabytes, "declares far more data than the file holds"),
        (plant_objects, "neither numbers nor text"),
    ],
)
def test_hostile_files_are_refused(write: Write, plant: Callable[[Any], None], text: str) -> None:
    path = write({"a": affine()}, (2,), (2,))
    with h5py.File(path, "a") as file:
        plant(file["node"])

    with pytest.raises(NirFormatError, match=text):
        from_nir(path)


def heap_of(path: Path) -> tuple[bytearray, int]:
    """Return a file's bytes, and where the first object of its texts begins."""
    content = bytearray(path.read_bytes())
    return content, content.index(b"GCOL") + 16


@pytest.mark.parametrize("length", [0, 8, (1 << 64) - 16])
def test_texts_that_hdf5_would_read_for_ever_are_refused(write: Write, length: int) -> None:
    """HDF5 2.0.0 walks over its texts by their lengths, and over a free space of length 0 for ever."""
    path = write({"a": affine()}, (2,), (2,))
    content, place = heap_of(path)
    index = 0 if length < 16 else 1
    content[place : place + 2] = index.to_bytes(2, "little")
    content[place + 8 : place + 16] = length.to_bytes(8, "little")
    path.write_bytes(content)

    with pytest.raises(NirFormatError, match="is not a NIR file .its texts are damaged"):
        from_nir(path)


def test_overlapping_texts_do_not_take_for_ever(write: Write) -> None:
    """A hundred thousand heaps inside each other, each of which is walked to its end."""
    path = write({"a": affine()}, (2,), (2,))
    heap = b"GCOL\x01\0\0\0" + (1 << 40).to_bytes(8, "little")
    one = b"\1\0\0\0\0\0\0\0" + (16).to_bytes(8, "little") + heap
    path.write_bytes(path.read_bytes() + heap + one * 100_000)

    with pytest.raises(NirFormatError, match="its texts are damaged"):
        from_nir(path)


def test_random_damage_never_escapes_the_error_tree(write: Write) -> None:
    """A changed byte may go unnoticed or be refused, but nothing else may happen."""
    path = write({"fc": affine(), "lif": lif_node()}, (2,), (2,))
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), 3):
            damaged[place] = generator.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            from_nir(path, profile="literal", dt=1e-4)
        except NeurocompileError:
            refused += 1
    assert refused > 10


def test_a_reset_voltage_that_nobody_resets_to_is_told(write_graph: Callable[..., Path]) -> None:
    full = np.ones(2)
    neurons = nir.LIF(tau=full, r=full, v_leak=0 * full, v_threshold=full, v_reset=full / 4)
    shape = np.array([2])
    nodes = {
        "in": nir.Input({"input": shape}),
        "lif": neurons,
        "out": nir.Output({"output": shape}),
    }
    path = write_graph(nodes, [("in", "lif"), ("lif", "out")])

    inferred = from_nir(path, profile="literal", dt=0.5, reset="subtract").inferred

    assert inferred["v_reset"] == "not used, as they subtract: lif"
    assert "v_reset" not in from_nir(path, profile="literal", dt=0.5, reset="zero").inferred
