"""`inspect`: what it says of each kind of file, of damaged ones, and of names that strangers chose."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurocompile.cli import main
from neurocompile.console import printable
from neurocompile.data import Samples
from neurocompile.errors import (
    CheckpointError,
    FormatError,
    NirFormatError,
    OptionError,
    ProgramFormatError,
)
from neurocompile.inspection import Inspection, described, inspect_path, told
from neurocompile.inspections.graphs import cycles, in_order
from neurocompile.inspections.tables import MOST_ROWS, print_inspection
from neurocompile.ir import LIF, Conv2d, Dense, Flatten, Network
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.samples import source_of_samples
from neurocompile.target import find
from neurocompile.tensors import npz_bytes
from neurocompile.verification.golden import write_golden


@pytest.fixture
def program_directory(
    tmp_path: Path, lif: Callable[..., LIF], chain: Callable[..., Network]
) -> Path:
    weight = np.array([[[[0.5, -0.25]]], [[[0.0, 1.0]]]])
    nodes: dict[str, Any] = {
        "conv": Conv2d(weight, np.zeros(2)),
        "lif": lif((2, 1, 2), reset="subtract"),
        "flatten": Flatten(),
        "fc": Dense(np.ones((3, 4)), np.zeros(3)),
    }
    path = tmp_path / "program"
    compile_network(chain((1, 1, 3), nodes, steps=4), find("loihi2"), CompileOptions()).save(path)
    return path


@pytest.fixture
def graph() -> nir.NIRGraph:
    """A recurrent network in forward Euler, of which nobody says who trained it."""
    full = np.ones(2)
    return nir.NIRGraph(
        nodes={
            "input": nir.Input({"input": np.array([3])}),
            "fc": nir.Affine(weight=np.arange(6.0).reshape(2, 3), bias=np.array([-1.0, 0.5])),
            "lif": nir.LIF(
                tau=2e-4 * full, r=2 * full, v_leak=0 * full, v_threshold=full, v_reset=0 * full
            ),
            "rec": nir.Linear(weight=np.eye(2)),
            "output": nir.Output({"output": np.array([2])}),
        },
        edges=[("input", "fc"), ("fc", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "output")],
    )


@pytest.fixture
def nir_file(graph: nir.NIRGraph, tmp_path: Path) -> Path:
    path = tmp_path / "graph.nir"
    nir.write(path, graph)
    return path


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command and returns its exit code and what it printed."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        code = main(["inspect", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


# Programs


def test_a_program_is_told_from_its_integers(program_directory: Path) -> None:
    facts = inspect_path(program_directory).to_json()

    assert (facts["schema"], facts["kind"], facts["target"], facts["steps"]) == (
        1, "program", "loihi2", 4,
    )  # fmt: skip
    source, neurons, readout = facts["populations"]
    assert (source["kind"], source["shape"], source["range"]) == ("input", [1, 1, 3], [0, 1])
    assert (neurons["kind"], neurons["neurons"], neurons["reset"]) == ("neurons", 4, "subtract")
    assert readout["kind"] == "read-out"
    used = neurons["proof"]["current"]
    assert used["used"] == used["reaches"] / used["limit"] < 1
    conv, fc = facts["synapses"]
    assert (conv["kind"], conv["shape"], conv["weights"], conv["nonzero"]) == (
        "convolution", [2, 1, 1, 2], 4, 3,
    )  # fmt: skip
    assert conv["geometry"]["stride"] == [1, 1]
    assert conv["bits"] == 8
    assert (fc["source"], fc["target"], fc["delay"]) == (neurons["name"], readout["name"], 0)
    assert facts["schedule"]["deepest"] == 2
    assert facts["resources"]["totals"]["cores"]["status"] == "estimated"
    assert facts["resources"]["totals"]["neurons"] == {"value": 7, "status": "exact"}
    assert {file["name"]: file["checked"] for file in facts["files"]} == dict.fromkeys(
        ("loihi2.json", "loihi2.npz", "program.json", "tensors.npz"), True
    )


def test_a_program_prints_tables(
    program_directory: Path, says: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = says(program_directory)

    assert (code, err) == (0, "")
    for row in (
        ("input", "input", "1x1x3", "3", "0..1"),
        ("lif", "neurons", "2x1x2", "4", "subtract"),
        ("conv", "input", "->", "lif", "2x1x1x2", "convolution", "3/4"),
        ("tensors.npz", "right"),
    ):
        assert any(all(cell in line.split() for cell in row) for line in out.splitlines()), row
    assert "schedule: depth 2, 0 blank steps between samples, 1 machine steps a step" in out


def test_a_damaged_program_is_refused_with_all_reasons(
    program_directory: Path, says: Callable[..., tuple[int, str, str]]
) -> None:
    (program_directory / "loihi2.npz").unlink()
    (program_directory / "tensors.npz").write_bytes(b"")

    with pytest.raises(ProgramFormatError, match="2 problems"):
        inspect_path(program_directory)
    code, out, err = says(program_directory)
    assert (code, out) == (2, "")
    assert "loihi2.npz', but it is missing" in err
    assert "tensors.npz' was changed or cut short" in err


def test_a_target_that_is_not_installed_leaves_the_rest(
    program_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurocompile import target as targets

    def missing(_name: str) -> Any:
        raise OptionError("there is no target 'loihi2'")

    monkeypatch.setattr(targets, "find", missing)

    facts = inspect_path(program_directory).to_json()

    assert facts["resources"] == {"not_known": "there is no target 'loihi2'"}
    assert len(facts["populations"]) == 3


# NIR


def test_a_file_of_somebody_else_is_told_with_the_choices_it_needs(nir_file: Path) -> None:
    inspection = inspect_path(nir_file)
    facts = inspection.to_json()

    assert not inspection.damaged
    assert [node["name"] for node in facts["nodes"]][:3] == ["input", "fc", "lif"]
    nodes = {node["name"]: node for node in facts["nodes"]}
    assert {name: node["shape"] for name, node in nodes.items()} == {
        "input": [3], "fc": [2], "lif": [2], "rec": [2], "output": [2],
    }  # fmt: skip
    assert nodes["fc"]["parameters"]["weight"] == {
        "shape": [2, 3], "dtype": "float64", "range": [0.0, 5.0],
    }  # fmt: skip
    assert nodes["lif"]["parameters"]["tau"]["range"] == 2e-4
    # weights 6 and 4, biases 2, and of two neurons tau, r, v_leak, v_threshold and v_reset
    assert facts["parameters"] == 6 + 4 + 2 + 5 * 2
    assert facts["cycles"] == [["lif", "rec"]]
    assert facts["late_edges"] == [["lif", "rec"]]
    assert facts["reading"]["readable"] is False
    assert "--profile" in facts["reading"]["needs"][0]["remedy"]
    readings = {reading["profile"]: reading for reading in facts["readings"]}
    assert readings["lava-dl"]["readable"]
    assert readings["lava-dl"]["how"]["dt"].startswith("0.0001")
    needed = [need["remedy"] for need in readings["snntorch"]["needs"]]
    assert any("--reset zero" in remedy for remedy in needed)


def test_a_file_of_ours_says_how_it_is_read(
    nir_file: Path, says: Callable[..., tuple[int, str, str]]
) -> None:
    with h5py.File(nir_file, "a") as file:
        metadata = file["node"].create_group("metadata")
        for key, value in {
            "framework": "neurocompile", "dt": 1e-4, "reset": "zero", "steps": 7,
        }.items():  # fmt: skip
            metadata[key] = value

    inspection = inspect_path(nir_file)

    assert inspection.problems == ()
    assert inspection.facts["reading"]["steps"] == 7
    assert inspection.facts["reading"]["how"]["profile"] == "ours, from the file's metadata"
    assert inspection.facts["reading"]["how"]["reset"] == "zero, from the file's metadata"
    assert inspection.facts["readings"] == []
    code, out, _ = says(nir_file)
    assert code == 0
    assert "read as it is: profile: ours, from the file's metadata" in out
    assert "cycle: lif, rec" in out
    assert "one step later: lif -> rec" in out


def test_subgraphs_and_nodes_that_cannot_be_compiled_are_told(
    graph: nir.NIRGraph, tmp_path: Path
) -> None:
    outer = nir.NIRGraph(
        nodes={
            "in": nir.Input({"input": np.array([3])}),
            "block": graph,
            "out": nir.Output({"output": np.array([2])}),
        },
        edges=[("in", "block"), ("block", "out")],
    )
    path = tmp_path / "nested.nir"
    nir.write(path, outer)
    with h5py.File(path, "a") as file:
        del file["node/nodes/block/nodes/rec/type"]
        file["node/nodes/block/nodes/rec/type"] = "Mystery"

    inspection = inspect_path(path)

    assert inspection.facts["subgraphs"] == ["block"]
    assert {"block.lif", "block.rec"} <= {node["name"] for node in inspection.facts["nodes"]}
    assert not inspection.damaged
    assert any("is a 'Mystery' node" in str(problem) for problem in inspection.problems)


def test_a_graph_that_contradicts_itself_is_shown_with_all_problems(
    nir_file: Path, says: Callable[..., tuple[int, str, str]]
) -> None:
    with h5py.File(nir_file, "a") as file:
        weight = np.ones((2, 5))
        weight[0, 0] = np.nan
        del file["node/nodes/fc/weight"], file["node/nodes/lif/tau"]
        file["node/nodes/fc/weight"] = weight
        file["node/nodes/lif/tau"] = -np.ones(2)

    code, out, err = says(nir_file)

    assert (code, err) == (2, "")
    assert "finds 2 problems" in out
    assert "layer 'fc' needs finite numbers in 'weight'" in out
    assert "layer 'lif' needs" in out
    assert "weight 1 (2x5), 1 not finite" in out


def test_edges_to_nowhere_are_found_although_no_profile_is_chosen(nir_file: Path) -> None:
    with h5py.File(nir_file, "a") as file:
        del file["node/nodes/rec"]

    inspection = inspect_path(nir_file)

    assert inspection.damaged
    texts = [str(problem) for problem in inspection.problems]
    assert any("choose with --profile" in text for text in texts)
    assert "edge lif -> rec needs a node 'rec', but there is none" in texts


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is not a NIR file"), (b"\x89HDF\r\n\x1a\n" * 9, "is not a NIR file")],
)
def test_what_is_no_hdf5_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.nir"
    path.write_bytes(content)

    with pytest.raises(NirFormatError, match=message):
        inspect_path(path)


@pytest.mark.parametrize("kind", ["LIF", 3])
def test_a_root_that_is_no_graph_is_refused(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "root.nir"
    with h5py.File(path, "w") as file:
        file["node/type"] = kind

    with pytest.raises(NirFormatError, match="a NIR file must hold a NIRGraph"):
        inspect_path(path)


def test_odd_nodes_do_not_stop_an_inspection(nir_file: Path) -> None:
    with h5py.File(nir_file, "a") as file:
        nodes = file["node/nodes"]
        nodes["number"] = 3.0
        nodes.create_group("empty")
        nodes["fc/text"] = "words"
        nodes["fc/words"] = np.array([b"a", b"b"])
        nodes["fc/group/inner"] = np.arange(30)

    facts = inspect_path(nir_file).to_json()

    assert not facts["damaged"]  # what a node of unknown kind is, a newer NIR may say
    assert {problem["layer"] for problem in facts["problems"]} >= {"number", "empty"}
    nodes_told = {node["name"]: node for node in facts["nodes"]}
    assert nodes_told["number"] == {
        "name": "number", "type": "None", "shape": None, "count": 0, "parameters": {},
    }  # fmt: skip
    assert nodes_told["fc"]["parameters"]["text"] == "words"
    assert nodes_told["fc"]["parameters"]["group"]["inner"]["range"] == [0, 29]
    json.dumps(facts, allow_nan=False)


def test_names_of_strangers_are_text(
    nir_file: Path, says: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    hostile = "[bold red]x[blink]\x1b[2J\u202e"
    with h5py.File(nir_file, "a") as file:
        file["node/nodes"].move("rec", hostile)
        file["node/metadata/[link=a]"] = "\x07 bell"

    code, out, err = says(nir_file, "--json", tmp_path / "out.json")

    assert code == 2
    assert "\x1b" not in out + err
    assert "\x07" not in out + err
    assert "\u202e" not in out + err
    joined = "".join(out.split())
    assert r"[boldred]x[blink]\x1b[2J\u202e" in joined
    assert r"[link=a]\x07bell" in joined
    facts = json.loads((tmp_path / "out.json").read_text())
    assert hostile in [node["name"] for node in facts["nodes"]]


def test_errors_print_names_of_strangers_as_text(
    tmp_path: Path, says: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "link.nir"
    with h5py.File(path, "w") as file:
        file["node/type"] = "NIRGraph"
        file["node/\x1b[2Jx"] = h5py.SoftLink("/node/type")

    code, out, err = says(path)

    assert (code, out) == (2, "")
    assert "\x1b" not in err
    assert r"\x1b[2Jx' is a link" in err


# lava-dl


def test_a_net_file_is_told_by_layers(tmp_path: Path) -> None:
    path = tmp_path / "two.net"
    with h5py.File(path, "w") as file:
        layer = file.create_group("layer/0")
        layer["type"] = np.array([b"dense"])
        layer["shape"] = np.array([2])
        layer["inFeatures"], layer["outFeatures"] = 3, 2
        layer["weight"] = np.array([[2, -2, 0], [4, 0, 6]])
        neuron = {"type": np.array([b"CUBA"]), "iDecay": 4096, "vDecay": 410, "vThMant": 64}
        for key, value in {**neuron, "refDelay": 1, "gradedSpike": 0}.items():
            layer[f"neuron/{key}"] = value

    inspection = inspect_path(path)

    (told_layer,) = inspection.facts["layers"]
    assert (told_layer["type"], told_layer["shape"], told_layer["count"]) == ("dense", 2, 6)
    assert told_layer["parameters"]["neuron"]["vDecay"] == 410
    assert inspection.facts["reading"]["readable"]
    assert inspection.problems == ()

    with h5py.File(path, "a") as file:
        file["layer/0/neuron/vDecay"][()] = 5000
    inspection = inspect_path(path)
    assert inspection.problems
    assert inspection.damaged


# Others


def test_a_golden_is_told_with_its_rates(
    tmp_path: Path, lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    nodes: dict[str, Any] = {
        "fc": Dense(np.array([[2.0], [0.5]]), np.zeros(2)),
        "lif": lif((2,), decay=0),
    }
    program = compile_network(chain((1,), nodes, steps=2), find("fixedpoint"), CompileOptions())
    source = source_of_samples(
        Samples(np.array([[[1.0], [0.0]]], np.float32), np.array([1])), "made"
    )
    write_golden(program, source, tmp_path / "golden")

    facts = inspect_path(tmp_path / "golden").to_json()

    assert (facts["kind"], facts["golden_schema"], facts["samples"]) == ("golden", 1, 1)
    assert facts["rates"] == {"lif": 0.25}  # one of two neurons, in one of two steps
    assert {file["name"] for file in facts["files"] if file["checked"]} == {
        "golden.json", "golden.npz", "nirdata.h5",
    }  # fmt: skip
    data = inspect_path(tmp_path / "golden" / "nirdata.h5").to_json()
    assert {item["node"]: (item["kind"], item["shape"]) for item in data["observables"]} == {
        "input": ("TimeGriddedData", [1, 2, 1]),
        "lif": ("TimeGriddedData", [1, 2, 2]),
    }
    (tmp_path / "golden" / "golden.npz").write_bytes(b"")
    with pytest.raises(FormatError, match="was changed or cut short"):
        inspect_path(tmp_path / "golden")


def test_a_run_is_told_from_its_json(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(
        '{"preset": "digits", "epochs": 2, "network": {"name": "cnn"}}'
    )
    (tmp_path / "last.ckpt").write_bytes(b"")

    facts = inspect_path(tmp_path).to_json()

    assert facts["settings"] == {"preset": "digits", "epochs": 2}
    assert (facts["finished"], facts["checkpoints"]) == (False, ["last.ckpt"])

    (tmp_path / "settings.json").write_text("[" * 100_000)
    (tmp_path / "metrics.json").write_text("[]")
    with pytest.raises(CheckpointError, match="2 problems"):
        inspect_path(tmp_path)


def test_a_checkpoint_is_told_without_loading_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"cos\nsystem\n(S'false'\ntR.")
        archive.writestr("model/data/0", bytes(40))
        archive.writestr("model/data/1", bytes(2))

    facts = inspect_path(path).to_json()

    assert (facts["kind"], facts["tensors"], facts["tensor_bytes"]) == ("checkpoint", 2, 42)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", "is not a checkpoint of PyTorch"),
        (npz_bytes({"a": np.zeros(3)}), "is not a checkpoint of PyTorch"),
        (npz_bytes({"\xe4": np.zeros(3)}).replace(b"\xc3\xa4", b"\xff\xff"), "is not a checkpoint"),
    ],
)
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=message):
        inspect_path(path)


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/0", bytes(10_000_000))

    with pytest.raises(CheckpointError, match="it is compressed"):
        inspect_path(path)


def test_what_inspect_does_not_know_is_refused(
    tmp_path: Path, says: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "notes.txt").write_text("notes")

    for path, message in (
        (tmp_path / "notes.txt", "is nothing that inspect knows: give a program directory"),
        (tmp_path, "is nothing that inspect knows"),
        (tmp_path / "none", f"there is no '{tmp_path / 'none'}': give a program directory"),
    ):
        code, out, err = says(path)
        assert (code, out) == (2, "")
        assert message in err


def test_an_unwritable_json_is_refused_before_anything_is_read(
    nir_file: Path, tmp_path: Path, says: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = says(nir_file, "--json", tmp_path)

    assert (code, out) == (2, "")
    assert "cannot be written" in err


def test_what_is_inspected_is_never_written_over(
    nir_file: Path,
    program_directory: Path,
    tmp_path: Path,
    says: Callable[..., tuple[int, str, str]],
) -> None:
    (tmp_path / "link.json").symlink_to(nir_file)
    before = nir_file.read_bytes()

    for path, file in (
        (nir_file, nir_file),
        (nir_file, tmp_path / "link.json"),
        (program_directory, program_directory / "program.json"),
    ):
        code, out, err = says(path, "--json", file)
        assert (code, out) == (2, "")
        assert "it is part of what is inspected" in err
    assert nir_file.read_bytes() == before


def test_a_report_is_for_another_command(
    tmp_path: Path, says: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "report.json").write_text("{}")

    for path in (tmp_path, tmp_path / "report.json"):
        code, _, err = says(path)
        assert code == 2
        assert f"'neurocompile report {path} -o PAGE.html' shows the report" in err


def test_the_same_file_gives_the_same_bytes(
    nir_file: Path, tmp_path: Path, says: Callable[..., tuple[int, str, str]]
) -> None:
    first = says(nir_file, "--json", tmp_path / "out.json")
    bytes_before = (tmp_path / "out.json").read_bytes()

    assert says(nir_file, "--json", tmp_path / "out.json") == first
    assert (tmp_path / "out.json").read_bytes() == bytes_before


@pytest.mark.parametrize("width", [20, 40, 71, 72, 100, 200])
def test_every_width_shows_every_population(program_directory: Path, width: int) -> None:
    from rich.console import Console

    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    print_inspection(inspect_path(program_directory), console)
    console.file.close()
    text = "".join(console.export_text().split())

    for name in ("input", "lif", "conv", "fc"):
        assert name in text


def test_long_tables_are_cut_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    layers = [
        {"name": str(n), "type": "dense", "shape": 1, "parameters": {}}
        for n in range(MOST_ROWS + 5)
    ]
    reading = {"readable": True, "how": {}}
    facts = {"layers": layers, "parameters": 0, "simulation": {}, "reading": reading}

    print_inspection(Inspection("netx", "x.net", facts))

    assert "and 5 more; --json FILE has all" in capsys.readouterr().out


def test_all_shared_recordings_can_be_inspected(
    shared_data: Path, says: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    graphs = sorted([*shared_data.rglob("*.nir"), *shared_data.rglob("*.net")])
    damaged = {"braille_subgraph_dangling_edge.nir", "conv_without_input_shape.nir"}

    assert graphs
    for path in graphs:
        code, out, err = says(path, "--json", tmp_path / "out.json")

        assert (code, err) == (2 if path.name in damaged else 0, ""), path
        facts = json.loads((tmp_path / "out.json").read_text())
        assert facts["parameters"] > 0
        assert path.name in out
        if path.name not in damaged and facts["kind"] == "nir":
            assert all(node["shape"] for node in facts["nodes"]), path


# Properties


@given(st.data())
def test_cycles_are_the_nodes_that_reach_themselves(data: Any) -> None:
    names = [str(number) for number in range(data.draw(st.integers(1, 7), label="nodes"))]
    pair = st.tuples(st.sampled_from(names), st.sampled_from(names))
    edges = data.draw(st.lists(pair, max_size=14), label="edges")

    reach = {name: {b for a, b in edges if a == name} for name in names}
    for _ in names:
        reach = {a: set.union(bs, *(reach[b] for b in bs)) for a, bs in reach.items()}
    wanted = {
        frozenset({b for b in reach[name] if name in reach[b]})
        for name in names
        if name in reach[name]
    }

    found = cycles(names, edges)
    assert {frozenset(group) for group in found} == wanted
    assert len(found) == len(wanted)
    assert sorted(in_order(dict.fromkeys(names), edges)) == sorted(names)
    if not found:
        order = in_order(dict.fromkeys(names), edges)
        assert all(order.index(a) < order.index(b) for a, b in edges)


@given(st.text())
def test_printed_text_moves_no_cursor(text: str) -> None:
    assert printable(text).isprintable() or not text


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_whatever_a_file_holds_becomes_json(value: Any) -> None:
    json.dumps(told(value), allow_nan=False).encode()


def test_arrays_are_told_by_range_and_small_ones_by_their_numbers() -> None:
    assert described(np.array([1.0, np.nan, np.inf])) == {
        "shape": [3], "dtype": "float64", "range": 1.0, "not_finite": 2,
    }  # fmt: skip
    signalling = np.array([0x7F800001, 0], np.uint32).view(np.float32)
    assert described(signalling)["not_finite"] == 1  # and no warning
    assert described(np.zeros((0, 2))) == {"shape": [0, 2], "dtype": "float64"}
    assert described(np.array(["a"]))["shape"] == [1]
    assert described(np.array([True, False]))["range"] == [False, True]
    assert told(np.array([1, 2])) == [1, 2]
    assert told(np.arange(17))["range"] == [0, 16]
    assert told(float("inf")) == "inf"
