"""Program directories: complete, checked, and refused when anything about them is wrong."""

from __future__ import annotations

import io
import json
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurocompile.errors import DataError, OptionError, ProgramFormatError
from neurocompile.integer import IntegerRelay
from neurocompile.ir import LIF, Conv2d, Delay, Dense, Input, Integrator, Network, Node, Output
from neurocompile.manifest import describe_network, seal, tensors_of
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program, load
from neurocompile.target import find
from neurocompile.tensors import npz_bytes, read_tensors


@pytest.fixture
def directory(tmp_path: Path, lif: Callable[..., LIF], chain: Callable[..., Network]) -> Path:
    network = chain(
        (2,), {"fc": Dense(np.array([[0.5, -0.25]]), np.ones(1)), "lif": lif((1,))}, steps=4
    )
    path = tmp_path / "program"
    compile_network(network, find("loihi2"), CompileOptions()).save(path)
    return path


def test_a_program_directory_says_in_words_what_it_holds(directory: Path) -> None:
    manifest = json.loads((directory / "program.json").read_text())

    assert sorted(path.name for path in directory.iterdir()) == [
        "loihi2.json", "loihi2.npz", "program.json", "tensors.npz",
    ]  # fmt: skip
    assert manifest["populations"][1]["threshold"] == 508
    assert manifest["synapses"][0]["computed_by"] == "chip"
    assert manifest["first_layer"]["computed_by"] == "spikes"
    assert manifest["bounds"][0]["current_limit"] == 131071
    assert manifest["schedule"] == {"depth": {"input": 0, "lif": 1}, "gap": 0, "stride": 1}
    assert set(manifest["checksums"]) == {"loihi2.json", "loihi2.npz", "tensors.npz"}


def test_a_missing_a_changed_and_a_cut_file_are_told_together(directory: Path) -> None:
    (directory / "loihi2.npz").unlink()
    tensors = directory / "tensors.npz"
    tensors.write_bytes(tensors.read_bytes()[:-20])
    (directory / "loihi2.json").write_text("{}")

    with pytest.raises(ProgramFormatError) as raised:
        load(directory)

    text = str(raised.value)
    assert "3 problems" in text
    assert "needs the file 'loihi2.npz', but it is missing: export it again" in text
    assert "tensors.npz' was changed or cut short, but its checksum differs" in text
    assert "loihi2.json' was changed or cut short" in text


def test_a_changed_manifest_is_refused(directory: Path) -> None:
    manifest = directory / "program.json"
    manifest.write_text(manifest.read_text().replace('"threshold": 508', '"threshold": 509'))

    with pytest.raises(ProgramFormatError, match="program.json' was changed after it was written"):
        load(directory)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "program.json' is damaged"),
        ("[]", "is not a manifest of neurocompile"),
        (
            '{"format": "neurocompile program", "version": 99}',
            "must be of version 4, but it is 99: export it again",
        ),
        ("[" * 100_000, "program.json' is damaged"),
    ],
)
def test_other_manifests_are_refused(directory: Path, text: str, message: str) -> None:
    (directory / "program.json").write_text(text)

    with pytest.raises(ProgramFormatError, match=message):
        load(directory)


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ProgramFormatError, match="is not a program directory: it has no program.json"
    ):
        load(tmp_path)


def test_pickles_in_tensors_are_refused() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, w=np.array([{"a": 1}], dtype=object))

    with pytest.raises(
        ValueError, match=r"Object arrays cannot be loaded|larger than the manifest"
    ):
        read_tensors(buffer.getvalue(), {"w": ((1,), "int8")})


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", b"\x93NUMPY" + bytes(50_000_000))

    with pytest.raises(ValueError, match="tensor 'w' is larger than the manifest says"):
        read_tensors(buffer.getvalue(), {"w": ((2,), "int8")})


def test_tensors_of_another_shape_type_or_name_are_refused() -> None:
    content = npz_bytes({"w": np.zeros(4, np.int16)})

    with pytest.raises(ValueError, match=r"tensor 'w' is int16 \(4,\), not int16 \(2, 2\)"):
        read_tensors(content, {"w": ((2, 2), "int16")})
    with pytest.raises(ValueError, match="does not hold the tensors"):
        read_tensors(content, {"v": ((4,), "int16")})


def test_a_program_replaces_a_program_but_nothing_else(directory: Path, tmp_path: Path) -> None:
    program = load(directory)
    program.save(directory)
    strange = tmp_path / "mine"
    strange.mkdir()
    (strange / "thesis.txt").write_text("two years of work")

    with pytest.raises(OptionError, match="mine' exists and was not written by neurocompile"):
        program.save(strange)

    assert (strange / "thesis.txt").read_text() == "two years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "program"]


def test_a_failed_save_leaves_the_old_program(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (directory / "program.json").read_bytes()
    program = load(directory)

    def fail(*_arguments: Any, **_options: Any) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(OSError, match="disk full"):
        program.save(directory)

    assert (directory / "program.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["program"]


def test_a_moved_program_still_loads(directory: Path, tmp_path: Path) -> None:
    shutil.move(directory, tmp_path / "elsewhere")

    assert load(tmp_path / "elsewhere").target == "loihi2"


def resealed(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest and seal it again, as somebody would who means it."""
    path = directory / "program.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    for name in ("format", "version", "checksums", "checksum"):
        manifest.pop(name, None)
    files = {file.name: file.read_bytes() for file in directory.iterdir() if file != path}
    path.write_text(seal(manifest, files))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m["populations"][1].update(name="other"), "is not a complete program"),
        (
            lambda m: m["populations"][1].update(shape=[3]),
            "is not a complete program|needs weights of shape",
        ),
        (
            lambda m: m["populations"][1].update(threshold=131072),
            "is not a complete program.*needs a threshold",
        ),
        (lambda m: m["populations"][1].update(dv=10_000_000), "needs a decay dv"),
        (lambda m: m["populations"][1].update(scale=0), "needs a positive scale"),
        (lambda m: m["populations"][0].update(scale=float("nan")), "needs a positive scale"),
        (lambda m: m["populations"][1].update(bias_exponent=10**7), "needs a bias exponent"),
        (lambda m: m["synapses"][0].update(source="none"), "must join populations"),
        (lambda m: m["synapses"][0].update(source="lif"), "must lead from an earlier population"),
        (
            lambda m: m["synapses"][0].update(geometry={"stride": [0, 1]}),
            "from 1 and paddings from 0",
        ),
        (lambda m: m["outputs"].clear(), "a program needs an output, but there is none"),
        (
            lambda m: m["outputs"].update(x="input"),
            "the output 'x' must show a population of neurons",
        ),
        (
            lambda m: m["bounds"][0].update(current=5),
            "the manifest's bounds are not those of its integers",
        ),
        (lambda m: m["schedule"]["depth"].update(lif=2), "the manifest's schedule is not that"),
        (lambda m: m.update(steps=-1), "the manifest's steps must be positive"),
        (lambda m: m.update(native_steps="many"), "is not a complete program"),
        (lambda m: m.pop("limits"), "is not a complete program"),
        (lambda m: m["populations"][1].update(reset="soft"), "'soft' is none of"),
        (lambda m: m["populations"][1].update(shows="rates"), "'rates' is none of"),
        (lambda m: m["populations"][1].update(start=63), "needs a start in whole weight units"),
        (lambda m: m["populations"][1].update(start=640), "the manifest's bounds are not those"),
        (
            lambda m: m["populations"][1].update(threshold={"shape": [1], "dtype": "int16"}),
            "does not hold the tensors",
        ),
        (lambda m: m["populations"][1].update(kind="relay"), "is not a complete program"),
        (lambda m: m["bounds"][0].update(silence=1), "the manifest's bounds are not those"),
        (lambda m: m["schedule"].update(stride=2), "the manifest's schedule is not that"),
        (lambda m: m["schedule"].update(gap=1), "the manifest's schedule is not that"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    directory: Path, change: Callable[[dict[str, Any]], Any], text: str
) -> None:
    resealed(directory, change)

    with pytest.raises(ProgramFormatError, match=text):
        load(directory)


@pytest.mark.parametrize("name", ["weight/fc", "bias/lif", "delay/fc"])
def test_real_numbers_are_refused_where_integers_are_needed(directory: Path, name: str) -> None:
    with np.load(directory / "tensors.npz") as file:
        tensors = {key: file[key] for key in file}
    tensors[name] = tensors[name].astype(np.float64)
    (directory / "tensors.npz").write_bytes(npz_bytes(tensors))

    def declare(manifest: dict[str, Any]) -> None:
        kind, _, owner = name.partition("/")
        entries = manifest["populations" if kind == "bias" else "synapses"]
        (entry,) = (entry for entry in entries if entry["name"] == owner)
        entry["bias_mantissa" if kind == "bias" else kind]["dtype"] = "float64"

    resealed(directory, declare)

    with pytest.raises(ProgramFormatError, match=f"'{name}' holds float64"):
        load(directory)


def test_loading_takes_little_more_memory_than_the_program(
    tmp_path: Path, lif: Callable[..., LIF], chain: Callable[..., Network]
) -> None:
    """8 bytes a weight, and the 2 that it is stored in, while they become the 8."""
    weight = np.random.default_rng(0).normal(size=(500, 4000)) / 400
    network = chain((4000,), {"fc": Dense(weight, np.zeros(500)), "lif": lif((500,))}, steps=4)
    options = CompileOptions(validate=False)
    compile_network(network, find("fixedpoint"), options).save(tmp_path / "program")
    load(tmp_path / "program")  # imports what is imported late
    tracemalloc.start()

    program = load(tmp_path / "program")

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "program" / "tensors.npz").stat().st_size < 2.1 * weight.size
    assert program.network.synapses[0].weight.size == weight.size
    assert peak < 10.5 * weight.size


def test_a_layout_that_is_not_that_of_the_integers_is_refused(directory: Path) -> None:
    layout = directory / "loihi2.json"
    layout.write_text(layout.read_text().replace('"vth": 508', '"vth": 507'))
    resealed(directory, lambda _manifest: None)
    program = load(directory)

    pytest.importorskip("lava")
    with pytest.raises(
        ProgramFormatError, match="the program's 'loihi2.json' is not that of its integers"
    ):
        program.run(np.zeros((1, 1, 2)))


@pytest.fixture
def everything(lif: Callable[..., LIF]) -> Program:
    """
    Two inputs, a shared sum, feedback in a cycle of two, delays by synapse, mixed and CUBA neurons.

    The outputs are spikes, a sum of what arrives, and a membrane.
    """
    generator = np.random.default_rng(0)
    shape = (2, 3, 3)

    def dyadic(*extents: int) -> Any:
        return generator.integers(-8, 12, extents) / 8

    nodes: dict[str, Node] = {
        "image": Input(shape),
        "row": Input((4,)),
        "lif1": lif(shape, decay=generator.choice([0.5, 0.75], shape), threshold=0.5),
        "conv": Conv2d(dyadic(2, 2, 3, 3), np.ones(2) / 8, padding=(1, 1)),
        "lif2": lif(shape, threshold=np.array([0.5, 1.0]).reshape(2, 1, 1), reset_to=0.25),
        "back": Conv2d(dyadic(2, 2, 1, 1), np.zeros(2)),
        "sum": Conv2d(dyadic(16, 2, 2, 2), np.zeros(16)),
        "lif3": lif((16, 2, 2), reset="subtract", decay=1.0),
        "fc": Dense(dyadic(3, 4), np.zeros(3)),
        "late": Delay(np.array([2, 1, 1])),
        "drive": Dense(dyadic(3, 4), np.ones(3) / 8),
        "cuba": lif((3,), current_decay=0.5),
        "value": Dense(dyadic(2, 3), np.ones(2)),
        "weigh": Dense(dyadic(2, 3), np.zeros(2)),
        "membrane": Integrator(decay=np.array([0.5, 1.0]), gain=np.ones(2), leak=np.zeros(2)),
        "fired": Output((16, 2, 2)),
        "values": Output((2,)),
        "membranes": Output((2,)),
    }
    edges = [
        ("image", "lif1"), ("lif1", "conv"), ("conv", "lif2"), ("lif2", "back"), ("back", "lif1"),
        ("lif1", "sum"), ("lif2", "sum"), ("sum", "lif3"), ("lif3", "fired"),
        ("row", "fc"), ("fc", "late"), ("late", "cuba"), ("row", "drive"), ("drive", "cuba"), ("cuba", "value"), ("value", "values"),
        ("cuba", "weigh"), ("weigh", "membrane"), ("membrane", "membranes"),
    ]  # fmt: skip
    network = Network(nodes, tuple(edges), 5, frozenset({("lif2", "back")}))
    return compile_network(network, find("fixedpoint"), CompileOptions())


@pytest.fixture
def values() -> dict[str, Any]:
    generator = np.random.default_rng(1)
    return {
        "image": generator.integers(0, 2, (3, 5, 2, 3, 3)),
        "row": generator.integers(0, 2, (3, 5, 4)),
    }


def test_every_kind_of_number_is_the_same_when_it_is_read_back(
    everything: Program, values: dict[str, Any], tmp_path: Path
) -> None:
    before = everything.network
    kinds = {type(item) for item in before.populations}
    assert IntegerRelay in kinds
    assert {item.shows for item in before.neurons} == {"spikes", "input", "membrane"}
    assert {item.reset for item in before.neurons} == {"zero", "subtract"}
    assert any(item.start.any() for item in before.neurons)
    assert any(item.pulse.any() for item in before.neurons)
    assert any(group.delay.ndim == 2 for group in before.synapses)
    everything.save(tmp_path / "program")

    loaded = load(tmp_path / "program")

    assert describe_network(loaded.network) == describe_network(before)
    tensors = tensors_of(before)
    assert {name.partition("/")[0] for name in tensors} >= {"dv", "threshold", "delay", "bias"}
    for name, array in tensors_of(loaded.network).items():
        np.testing.assert_array_equal(array, tensors[name], err_msg=name)
    assert (loaded.schedule, loaded.bounds) == (everything.schedule, everything.bounds)
    result, again = everything.run(values, "all"), loaded.run(values, "all")
    assert list(result.outputs) == list(again.outputs)
    assert sorted(result.outputs) == ["fired", "membranes", "values"]
    for name, array in result.outputs.items():
        np.testing.assert_array_equal(array, again.outputs[name], err_msg=name)
    for name, array in result.spikes.items():
        assert 0 < array.mean() < 1, name
        np.testing.assert_array_equal(array, again.spikes[name], err_msg=name)


def test_a_cycle_of_two_layers_is_told(everything: Program) -> None:
    assert (everything.schedule.gap, everything.schedule.stride) == (2, 2)
    assert everything.facts["notes"] == [
        (
            "the sum of lif1, lif2 travels by graded spikes: 180 operations a step, 512 by "
            "duplicated synapses"
        ),
        "samples are 2 blank steps apart, the longest delay",
        "each step takes 2 machine steps: a cycle has that many connections for each step of delay",
    ]


def test_the_only_output_is_asked_for_by_its_name(
    everything: Program, values: dict[str, Any]
) -> None:
    result = everything.run(values)

    with pytest.raises(
        OptionError,
        match="there are several outputs, but .*values.*: use .outputs",
    ):
        _ = result.output


def test_payloads_are_named_by_input(everything: Program, values: dict[str, Any]) -> None:
    payloads = everything.payloads(values)

    assert sorted(payloads) == ["image", "row"]
    for name, array in payloads.items():
        np.testing.assert_array_equal(array, values[name])
    with pytest.raises(DataError) as raised:
        everything.payloads({"image": values["image"] * 2, "row": values["row"][..., :3]})
    text = str(raised.value)
    assert "layer 'image' needs values from 0 to 1" in text
    assert "layer 'row' needs inputs of shape (samples, steps, 4), but they have (3, 5, 3)" in text


def test_sums_are_recorded_by_name_as_graded_spikes(
    everything: Program, values: dict[str, Any]
) -> None:
    result = everything.run(values, ["all", "lif1+lif2"])

    assert sorted(result.spikes) == ["cuba", "lif1", "lif1+lif2", "lif2", "lif3"]
    np.testing.assert_array_equal(
        result.spikes["lif1+lif2"], result.spikes["lif1"].astype(int) + result.spikes["lif2"]
    )
    assert result.spikes["lif1+lif2"].max() == 2


@pytest.mark.parametrize(
    ("reset_to", "expected"), [(0.25, [0.75, 0.25, 0.875, 0.25]), (0.0, [0.75, 0.0, 0.75, 0.0])]
)
def test_membranes_come_back_as_the_source_counts_them(
    reset_to: float,
    expected: list[float],
    chain: Callable[..., Network],
    lif: Callable[..., LIF],
    dense: Callable[..., Dense],
    tmp_path: Path,
) -> None:
    """The chip resets to 0 only, so the compiler shifts the membrane; nobody else is to notice."""
    network = chain((1,), {"fc": dense([[0.75]]), "lif": lif((1,), reset_to=reset_to)})
    program = compile_network(network, find("fixedpoint"), CompileOptions())
    program.save(tmp_path / "program")

    for opened in (program, load(tmp_path / "program")):
        membrane = opened.run(np.ones((1, 4, 1)), ["membrane/lif"]).membrane["lif"]
        np.testing.assert_allclose(membrane[0, :, 0], expected, atol=0.005)
