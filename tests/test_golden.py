"""Goldens: what is stored, that replaying finds what changed, and that damaged ones are refused."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurocompile import __version__
from neurocompile.data import Samples
from neurocompile.errors import DataError, FormatError, OptionError
from neurocompile.ir import LIF, Dense, Input, Network, Output
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program, load
from neurocompile.samples import source_of_samples
from neurocompile.target import find
from neurocompile.tensors import npz_bytes
from neurocompile.verification import golden_file
from neurocompile.verification.golden import (
    is_golden,
    parts_of,
    replay_golden,
    update_golden,
    write_golden,
)
from neurocompile.verification.golden_file import Arrays, describe_arrays, read_arrays, read_golden

INPUTS = np.array([[[1, 0], [1, 1], [0, 0]], [[0, 1], [0, 1], [1, 1]]], np.float32)

SCHEMA_1 = Path(__file__).parent / "goldens" / "schema1"

Make = Callable[..., Program]


@pytest.fixture
def make(lif: Callable[..., LIF], chain: Callable[..., Network]) -> Make:
    """Compiles two neurons without memory that hear both inputs, and two more behind them."""

    def compiled(
        weight: Any = ((2, 0), (0.75, 0.75)), *, second: Any = ((2, 0), (0, 2)), **more: Any
    ) -> Program:
        nodes: dict[str, Any] = {
            "fc1": Dense(np.array(weight, float), np.zeros(2)),
            "lif1": lif((2,), decay=0.0, **more),
            "fc2": Dense(np.array(second, float), np.zeros(len(second))),
            "lif2": lif((len(second),), decay=0.0),
        }
        network = chain((2,), nodes, steps=3)
        return compile_network(network, find("fixedpoint"), CompileOptions())

    return compiled


@pytest.fixture
def program(make: Make) -> Program:
    return make()


@pytest.fixture
def directory(program: Program, tmp_path: Path) -> Path:
    path = tmp_path / "golden"
    source = source_of_samples(Samples(INPUTS, np.array([0, 1])), "by hand")
    write_golden(program, source, path)
    return path


@pytest.fixture
def rewrite() -> Callable[..., None]:
    """Changes a golden and seals it again, as somebody hostile would."""

    def change(directory: Path, *, contents: Mapping[str, bytes] = {}, **values: Any) -> None:
        file = directory / "golden.json"
        golden = {**json.loads(file.read_text()), **values}
        for name, content in contents.items():
            (directory / name).write_bytes(content)
            golden["files"][name] = hashlib.sha256(content).hexdigest()
        golden.pop("checksum")
        text = json.dumps(golden, sort_keys=True)
        golden["checksum"] = hashlib.sha256(text.encode()).hexdigest()
        file.write_text(json.dumps(golden))

    return change


def test_a_golden_holds_what_can_be_worked_out_by_hand(directory: Path) -> None:
    golden = read_golden(directory)
    arrays = read_arrays(directory, golden)

    # The first neuron fires with the first input, the second where both are there: 1.5 > 1.
    spikes = [[[1, 0], [1, 1], [0, 0]], [[0, 0], [0, 0], [1, 1]]]
    assert arrays.spikes["lif1"].tolist() == spikes
    assert arrays.spikes["lif2"].tolist() == spikes
    assert arrays.outputs["output"].tolist() == spikes
    assert np.array_equal(arrays.inputs["input"], INPUTS)
    assert golden.decisions == (0, 0)  # 2 spikes against 1; a draw goes to the first
    assert golden.labels == (0, 1)
    assert (golden.samples, golden.steps, golden.data, golden.stage) == (
        2,
        3,
        "by hand",
        "fixedpoint",
    )


def test_files_are_as_documented_for_readers_without_neurocompile(directory: Path) -> None:
    golden = json.loads((directory / "golden.json").read_text())
    tensors = np.load(directory / "golden.npz")

    assert sorted(path.name for path in directory.iterdir()) == [
        "golden.json", "golden.npz", "nirdata.h5",
    ]  # fmt: skip
    assert golden["schema"] == 1
    assert golden["layers"]["lif1"] == {"shape": [2], "dtype": "bits", "spikes": 5}
    assert golden["outputs"]["output"]["shows"] == "spikes"
    bits = np.unpackbits(tensors["spikes/lif1"], count=2 * 3 * 2).reshape(2, 3, 2)
    assert bits.sum() == 5
    for name, checksum in golden["files"].items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == checksum


def test_the_data_format_of_nir_holds_inputs_and_spikes(directory: Path) -> None:
    data = nir.read_data(str(directory / "nirdata.h5"))
    arrays = read_arrays(directory, read_golden(directory))

    assert sorted(data.nodes) == ["input", "lif1", "lif2"]
    spikes = data.nodes["lif1"].observables["spikes"]
    assert spikes.data.dtype == bool
    assert np.array_equal(spikes.data, arrays.spikes["lif1"])
    assert np.array_equal(data.nodes["input"].observables["input"].data, INPUTS)


def test_graded_spikes_are_events_with_values(make: Make, tmp_path: Path) -> None:
    program = make(((3.5, 0), (0, 3.5)), most_spikes=4, reset="subtract")
    write_golden(program, source_of_samples(Samples(INPUTS, None)), tmp_path / "golden")

    golden = read_golden(tmp_path / "golden")
    counts = read_arrays(tmp_path / "golden", golden).spikes["lif1"]
    events = (
        nir.read_data(str(tmp_path / "golden" / "nirdata.h5")).nodes["lif1"].observables["spikes"]
    )

    assert counts.max() == 3
    assert golden.layers["lif1"].dtype == "uint8"
    assert isinstance(events, nir.ValuedEventData)
    assert np.array_equal(events.to_time_gridded(1.0).data, counts)
    assert golden.labels is None
    assert not replay_golden(program, tmp_path / "golden").failed


def test_the_same_program_gives_the_same_bytes(program: Program, directory: Path) -> None:
    before = {path.name: path.read_bytes() for path in directory.iterdir()}

    source = source_of_samples(Samples(INPUTS, np.array([0, 1])), "by hand")
    write_golden(program, source, directory)

    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_what_is_shown_at_every_step_is_stored_once(program: Program, tmp_path: Path) -> None:
    source = source_of_samples(Samples(INPUTS[:, :1], None))
    write_golden(program, source, tmp_path / "golden", samples=1)

    golden = read_golden(tmp_path / "golden")

    assert (golden.samples, golden.steps) == (1, 3)
    assert np.load(tmp_path / "golden" / "golden.npz")["input/input"].shape == (1, 1, 2)
    assert read_arrays(tmp_path / "golden", golden).inputs["input"].shape == (1, 3, 2)
    assert not replay_golden(program, tmp_path / "golden").failed


def test_a_program_read_back_replays_its_golden(
    program: Program, directory: Path, tmp_path: Path, opened: Callable[[Program], Program]
) -> None:
    program.save(tmp_path / "program")

    replay = replay_golden(
        opened(load(tmp_path / "program")), directory, on=["fixedpoint", "fixedpoint:definition"]
    )

    assert not replay.failed
    assert replay.changed == ()
    assert [run.name for run in replay.runs] == ["fixedpoint:definition", "fixedpoint"]
    assert replay.lines() == [
        f"golden '{directory}': 2 samples, 3 steps, 2 layers, written by neurocompile {__version__}",
        "fixedpoint:definition: 24 places for spikes, 12 output values, all decisions the same",
        "fixedpoint: 24 places for spikes, 12 output values, all decisions the same",
    ]
    assert replay.to_json()["failed"] is False


def test_a_changed_program_is_told_with_place_membrane_and_cause(
    make: Make, directory: Path
) -> None:
    replay = replay_golden(make(((2, 0), (0.25, 0.25))), directory)

    assert replay.failed
    (run,) = replay.runs
    first = run.first
    assert first is not None
    # 0.5 stays below the threshold of 1 where 1.5 was above it.
    assert (first.sample, first.step, first.layer, first.neuron) == (0, 1, "lif1", 1)
    assert (first.golden, first.now) == (1, 0)
    assert first.membrane_in_source_units == pytest.approx(0.5, abs=0.02)
    assert first.threshold_in_source_units == pytest.approx(1.0, abs=0.02)
    assert [(item.name, item.mismatches) for item in run.layers] == [("lif1", 2), ("lif2", 2)]
    assert run.decisions == ()
    text = "\n".join(replay.lines())
    assert "4 of 24 spikes, 2 of 12 output values, 0 decisions differ" in text
    assert (
        "first difference: sample 0, step 1, 'lif1', neuron 1: 0, the golden has 1 (membrane"
        in text
    )
    assert "the program changed since: synapses 'fc1'" in text
    assert "--golden DIR, or pytest --neurocompile-update-golden" in text
    assert json.loads(json.dumps(replay.to_json()))["runs"][0]["first"]["neuron"] == 1


def test_decisions_that_differ_are_told(make: Make, directory: Path) -> None:
    replay = replay_golden(make(second=((0, 0), (0, 2))), directory)

    assert replay.runs[0].decisions == ((0, 0, 1), (1, 0, 1))
    assert "  decision of sample 0: 1, the golden has 0" in replay.lines()
    assert replay.changed == ("synapses/fc2",)


def test_a_read_out_that_differs_where_no_spike_does_is_told(
    chain: Callable[..., Network], lif: Callable[..., LIF], tmp_path: Path
) -> None:
    def compiled(weight: float) -> Program:
        nodes: dict[str, Any] = {
            "fc": Dense(np.eye(2) * 2, np.zeros(2)),
            "lif": lif((2,), decay=0.0),
            "out": Dense(np.array([[1.0, weight], [0.0, 1.0]]), np.zeros(2)),
        }
        return compile_network(chain((2,), nodes, steps=3), find("fixedpoint"), CompileOptions())

    write_golden(compiled(0.0), source_of_samples(Samples(INPUTS, None)), tmp_path / "golden")
    golden = read_golden(tmp_path / "golden")
    replay = replay_golden(compiled(0.5), tmp_path / "golden")

    (shown,) = golden.outputs.values()
    assert shown.shows == "input"
    (run,) = replay.runs
    first = run.first
    assert first is not None
    # The second neuron is heard by the first output from where it fires: at step 1 of sample 0.
    assert (first.sample, first.step, first.layer, first.neuron) == (0, 1, "output", 0)
    assert (first.membrane, first.threshold) == (None, None)
    assert all(item.mismatches == 0 for item in run.layers)
    assert replay.failed


def test_another_program_with_the_same_spikes_passes_and_says_that_it_is_another(
    make: Make, directory: Path
) -> None:
    replay = replay_golden(make(((2, 0), (0.8125, 0.8125))), directory)

    assert not replay.failed
    assert any("the program changed since" in line for line in replay.lines())


def test_an_engine_that_errs_is_called_a_bug(program: Program, directory: Path) -> None:
    golden = read_golden(directory)
    arrays = read_arrays(directory, golden)

    class Wrong:
        def run(self, payloads: Any, *, record: Any = (), **_rest: Any) -> Any:
            from neurocompile_fixedpoint.definition import execute

            trace = execute(program.network, payloads, samples=2, steps=3, record=record)
            trace.spikes["lif2"][1, 2, 0] ^= 1
            return trace

        def close(self) -> None: ...

    program._executors["fixedpoint"] = Wrong()

    replay = replay_golden(program, directory, on=["fixedpoint"])

    assert [run.failed for run in replay.runs] == [False, True]
    first = replay.runs[1].first
    assert first is not None
    assert (first.sample, first.step, first.layer, first.neuron) == (1, 2, "lif2", 0)
    assert first.golden == arrays.spikes["lif2"][1, 2, 0]
    assert any("what runs them changed, which is a bug" in line for line in replay.lines())


def test_a_program_of_other_layers_is_refused_with_all_of_them(
    chain: Callable[..., Network], lif: Callable[..., LIF], directory: Path
) -> None:
    network = chain((2,), {"fc": Dense(np.ones((3, 2)), np.zeros(3)), "lif1": lif((3,))}, steps=2)
    other = compile_network(network, find("fixedpoint"), CompileOptions())

    with pytest.raises(DataError) as raised:
        replay_golden(other, directory)

    text = str(raised.value)
    assert "4 problems" in text
    assert "layer 'lif1' has the shape (2,) in the golden, but the program's is (3,)" in text
    assert "layer 'lif2' is a spiking layer of the golden, but the program has lif1" in text
    assert "layer 'output' has the shape (2,) in the golden" in text
    assert "the golden has 3 steps, but the program's range proof covers 2" in text


def test_a_program_with_a_layer_more_is_refused(
    chain: Callable[..., Network], lif: Callable[..., LIF], directory: Path
) -> None:
    nodes: dict[str, Any] = {}
    for number in (1, 2, 3):
        nodes |= {f"fc{number}": Dense(np.eye(2), np.zeros(2)), f"lif{number}": lif((2,))}
    other = compile_network(chain((2,), nodes, steps=3), find("fixedpoint"), CompileOptions())

    with pytest.raises(DataError, match="'lif3' is a spiking layer of the program, but the golden"):
        replay_golden(other, directory)


def test_an_update_keeps_the_samples_and_takes_the_new_spikes(make: Make, directory: Path) -> None:
    changed = make(((2, 0), (0.25, 0.25)))

    golden = update_golden(changed, directory)

    assert not replay_golden(changed, directory).failed
    assert (golden.labels, golden.data) == ((0, 1), "by hand")
    assert np.array_equal(read_arrays(directory, golden).inputs["input"], INPUTS)


@pytest.mark.parametrize("samples", [0, -1, 5000])
def test_numbers_of_samples_that_make_no_sense_are_refused(
    program: Program, tmp_path: Path, samples: int
) -> None:
    source = source_of_samples(Samples(INPUTS, None))

    with pytest.raises(OptionError, match="a golden holds 1 to 4096 samples"):
        write_golden(program, source, tmp_path / "golden", samples=samples)
    assert not (tmp_path / "golden").exists()


def test_a_directory_of_somebody_else_stays(program: Program, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")

    with pytest.raises(OptionError, match="was not written by neurocompile"):
        write_golden(program, source_of_samples(Samples(INPUTS, None)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_files_of_others_beside_a_golden_stay(program: Program, directory: Path) -> None:
    (directory / "NOTES.md").write_text("mine")
    (directory / "tests").mkdir()

    write_golden(program, source_of_samples(Samples(INPUTS[:1], None)), directory)

    assert (directory / "NOTES.md").read_text() == "mine"
    assert (directory / "tests").is_dir()
    assert read_golden(directory).samples == 1


def test_a_manifest_of_somebody_else_is_no_golden(program: Program, tmp_path: Path) -> None:
    (tmp_path / "golden.json").write_text('{"mine": 1}')
    (tmp_path / "data.csv").write_text("1,2")

    with pytest.raises(OptionError, match="choose another place with --golden"):
        write_golden(program, source_of_samples(Samples(INPUTS, None)), tmp_path)

    assert not is_golden(tmp_path)
    assert (tmp_path / "golden.json").read_text() == '{"mine": 1}'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.csv", "golden.json"]


def test_a_damaged_golden_can_be_stored_again(program: Program, directory: Path) -> None:
    file = directory / "golden.json"
    file.write_text(f"<<<<<<< HEAD\n{file.read_text()}=======\n>>>>>>> other\n")

    assert is_golden(directory)
    write_golden(program, source_of_samples(Samples(INPUTS, None)), directory)

    assert not replay_golden(program, directory).failed


def test_a_link_to_a_golden_stays_one(make: Make, directory: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(directory)
    changed = make(((2, 0), (0.25, 0.25)))

    update_golden(changed, link)

    assert link.is_symlink()
    assert not replay_golden(changed, directory).failed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["golden", "link"]


def test_a_full_disk_leaves_the_old_golden(
    program: Program, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    monkeypatch.setattr(golden_file, "npz_bytes", full)

    with pytest.raises(OptionError, match="golden' cannot be written, but No space left"):
        write_golden(program, source_of_samples(Samples(INPUTS[:1], None)), directory)

    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_labels_that_are_no_classes_are_refused(program: Program, tmp_path: Path) -> None:
    source = source_of_samples(Samples(INPUTS, np.array([0, -1])))

    with pytest.raises(DataError, match="labels are classes, from 0 on, but there is a -1"):
        write_golden(program, source, tmp_path / "golden")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [">f4", "<f2", ">i2", "?", "<f8"])
def test_inputs_of_any_type_replay(program: Program, tmp_path: Path, dtype: str) -> None:
    write_golden(program, source_of_samples(Samples(INPUTS.astype(dtype), None)), tmp_path / "g")

    assert np.array_equal(
        read_arrays(tmp_path / "g", read_golden(tmp_path / "g")).inputs["input"], INPUTS
    )
    assert not replay_golden(program, tmp_path / "g").failed


def test_what_nobody_could_read_again_is_never_stored(program: Program, tmp_path: Path) -> None:
    source = source_of_samples(Samples(INPUTS.astype(np.longdouble), None))

    with pytest.raises(DataError, match="readable again, but the type of 'input' is 'float128'"):
        write_golden(program, source, tmp_path / "golden")

    assert list(tmp_path.iterdir()) == []


def test_inputs_that_the_program_does_not_take_leave_nothing_behind(
    program: Program, tmp_path: Path
) -> None:
    source = source_of_samples(Samples(np.full((1, 3, 2), 0.5, np.float32), None))

    with pytest.raises(DataError, match="needs multiples of 1"):
        write_golden(program, source, tmp_path / "golden")
    assert list(tmp_path.iterdir()) == []


def test_a_golden_of_the_first_schema_still_replays(program: Program) -> None:
    """
    A golden that was written by neurocompile 0.1.0, of the program that `make` makes.

    It is never written again: what later versions must read is this very file.
    """
    replay = replay_golden(program, SCHEMA_1)

    assert not replay.failed
    assert replay.golden.version == "0.1.0"
    assert replay.golden.decisions == (0, 0)


def test_a_program_of_another_format_replays_and_cannot_say_what_changed(
    make: Make, directory: Path, rewrite: Callable[..., None]
) -> None:
    described = json.loads((directory / "golden.json").read_text())["program"]
    rewrite(directory, program={**described, "format": described["format"] - 1})

    same = replay_golden(make(), directory)
    other = replay_golden(make(((2, 0), (0.25, 0.25))), directory)

    assert (same.failed, other.failed) == (False, True)
    assert same.changed is None
    assert any("whether the program changed cannot be said" in line for line in other.lines())


# Damaged and hostile goldens


def test_missing_and_changed_files_are_told_together(program: Program, directory: Path) -> None:
    (directory / "nirdata.h5").unlink()
    (directory / "golden.npz").write_bytes(b"PK")

    with pytest.raises(FormatError) as raised:
        replay_golden(program, directory)

    assert "2 problems" in str(raised.value)
    assert "needs the file 'nirdata.h5', but it is missing" in str(raised.value)
    assert "golden.npz' was changed or cut short, but its checksum differs" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "golden.json' is damaged"),
        ("[" * 100_000, "golden.json' is damaged"),
        ("[]", "is not a golden of neurocompile"),
        (
            '{"format": "neurocompile golden", "schema": 2}',
            "must be of schema 1 or earlier, but it is 2: update neurocompile",
        ),
        ('{"format": "neurocompile golden", "schema": 1}', "was changed after it was written"),
    ],
)
def test_other_manifests_are_refused(
    program: Program, directory: Path, text: str, message: str
) -> None:
    (directory / "golden.json").write_text(text)

    with pytest.raises(FormatError, match=message):
        replay_golden(program, directory)


def test_what_is_no_golden_is_refused(program: Program, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is no golden: it has no golden.json: make one with"):
        replay_golden(program, tmp_path)
    with pytest.raises(FormatError, match=f"there is no '{tmp_path / 'none'}': make one with"):
        replay_golden(program, tmp_path / "none")


def test_every_wrong_value_is_told(
    program: Program, directory: Path, rewrite: Callable[..., None]
) -> None:
    rewrite(
        directory,
        samples=True,
        steps=-1,
        decisions="all",
        labels=[0.5],
        data=3,
        layers={"lif1": {"shape": [2.5], "dtype": "O"}, "lif2": 7},
        nirdata=None,
    )

    with pytest.raises(FormatError) as raised:
        replay_golden(program, directory)

    text = str(raised.value)
    for told in (
        "'samples' is True, and no integer",
        "'steps' is -1",
        "'decisions' must be 1 classes",
        "one of 'labels' is 0.5",
        "'data' is 3, and no text",
        "an extent of 'lif1' is 2.5",
        "the type of 'lif1' is 'O', none of bits",
        "layers 'lif2' is 7, and no table",
        "'nirdata' is None",
    ):
        assert told in text


@pytest.mark.parametrize("name", ["../outside.npz", "/etc/passwd", "other.npz"])
def test_no_other_file_is_read(
    program: Program, directory: Path, rewrite: Callable[..., None], name: str
) -> None:
    files = json.loads((directory / "golden.json").read_text())["files"]
    rewrite(directory, files={**files, name: "0" * 64})

    with pytest.raises(FormatError, match="must list the golden's own files"):
        replay_golden(program, directory)


def test_a_zip_bomb_is_not_unpacked(
    program: Program, directory: Path, rewrite: Callable[..., None]
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("input/input", "spikes/lif1", "spikes/lif2", "output/output"):
            archive.writestr(f"{name}.npy", bytes(50_000_000))
    rewrite(directory, contents={"golden.npz": buffer.getvalue()})

    with pytest.raises(FormatError, match="is larger than the manifest says"):
        replay_golden(program, directory)


def test_tensors_of_other_types_and_pickles_are_refused(
    program: Program, directory: Path, rewrite: Callable[..., None]
) -> None:
    tensors = dict(np.load(directory / "golden.npz"))
    tensors["output/output"] = tensors["output/output"].astype(np.int16)
    rewrite(directory, contents={"golden.npz": npz_bytes(tensors)})
    with pytest.raises(FormatError, match="'output/output' is int16"):
        replay_golden(program, directory)

    buffer = io.BytesIO()
    np.savez(buffer, **{**tensors, "output/output": np.array([object()] * 2, object)})
    rewrite(directory, contents={"golden.npz": buffer.getvalue()})
    with pytest.raises(FormatError, match="golden.npz' is damaged"):
        replay_golden(program, directory)


def test_an_encrypted_archive_is_refused(
    program: Program, directory: Path, rewrite: Callable[..., None]
) -> None:
    content = bytearray((directory / "golden.npz").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the first entry of the directory
    rewrite(directory, contents={"golden.npz": bytes(content)})

    with pytest.raises(FormatError, match="golden.npz' is damaged"):
        replay_golden(program, directory)


def test_several_inputs_are_stored_by_name(lif: Callable[..., LIF], tmp_path: Path) -> None:
    network = Network(
        {
            "left": Input((1,)),
            "right": Input((1,)),
            "fc1": Dense(np.array([[0.75]]), np.zeros(1)),
            "fc2": Dense(np.array([[0.75]]), np.zeros(1)),
            "lif": lif((1,), decay=0.0),
            "output": Output((1,)),
        },
        (("left", "fc1"), ("right", "fc2"), ("fc1", "lif"), ("fc2", "lif"), ("lif", "output")),
        2,
    )
    program = compile_network(network, find("fixedpoint"), CompileOptions())
    inputs = {
        "left": np.array([[[1], [1]]], np.float32),
        "right": np.array([[[0], [1]]], np.float32),
    }
    write_golden(program, source_of_samples(Samples(inputs, None)), tmp_path / "golden")

    golden = read_golden(tmp_path / "golden")
    arrays = read_arrays(tmp_path / "golden", golden)

    assert arrays.spikes["lif"].ravel().tolist() == [0, 1]  # fires where both do
    assert {name: values.tolist() for name, values in arrays.inputs.items()} == {
        name: values.tolist() for name, values in inputs.items()
    }
    assert not replay_golden(program, tmp_path / "golden").failed


def test_more_than_a_golden_may_hold_is_refused_before_anything_is_read(
    program: Program, directory: Path, rewrite: Callable[..., None]
) -> None:
    huge = {"shape": [1 << 30, 1 << 30], "dtype": "bits"}
    rewrite(directory, layers={"lif1": huge, "lif2": huge}, contents={"golden.npz": b""})

    with pytest.raises(FormatError, match="may have at most 1073741824 values in a golden"):
        replay_golden(program, directory)


def test_inputs_that_are_stored_once_are_unpacked_to_nothing(
    program: Program, directory: Path, rewrite: Callable[..., None]
) -> None:
    write_golden(program, source_of_samples(Samples(INPUTS[:, :1], None)), directory)

    inputs = read_arrays(directory, read_golden(directory)).inputs["input"]

    assert inputs.shape == (2, 3, 2)
    assert inputs.strides[1] == 0  # a view: as many steps as a hostile golden says cost nothing

    item = {"shape": [1024], "dtype": "float64", "every_step": False}
    listed = {"input": item, "more": item, "most": item}
    rewrite(directory, inputs=listed, steps=1 << 19, samples=1, decisions=[0])
    with pytest.raises(FormatError, match="at most 1073741824 values in all, but it has"):
        read_golden(directory)


def test_more_than_the_file_holds_is_not_unpacked(
    directory: Path, rewrite: Callable[..., None]
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in np.load(directory / "golden.npz").items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.save(stream, np.zeros((2, 3, 100_000), np.uint8) if "lif1" in name else values)
    content = buffer.getvalue()
    rewrite(
        directory,
        contents={"golden.npz": content},
        layers={
            "lif1": {"shape": [100_000], "dtype": "uint8"},
            "lif2": {"shape": [2], "dtype": "bits"},
        },
    )

    with pytest.raises(FormatError, match=f"and the file has {len(content)}"):
        read_arrays(directory, read_golden(directory))


# An environment with numpy alone

BLOCKED = (
    "torch", "h5py", "nir", "click", "rich", "numba", "scipy", "onnx", "onnxruntime", "lava",
    "pydantic", "plotly", "matplotlib",
)  # fmt: skip
REPLAYS = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError(f"there is no {{name}}")

sys.meta_path.insert(0, Blocked())
from pathlib import Path
import neurocompile
from neurocompile.verification.golden import replay_golden

replay = replay_golden(neurocompile.load(sys.argv[1]), Path(sys.argv[2]))
print("\\n".join(replay.lines()))
sys.exit(replay.failed)
"""


@pytest.mark.parametrize("changed", [False, True])
def test_a_golden_replays_with_numpy_alone(
    make: Make, directory: Path, tmp_path: Path, *, changed: bool
) -> None:
    program = make(((2, 0), (0.25, 0.25))) if changed else make()
    program.save(tmp_path / "program")
    script = REPLAYS.format(blocked=set(BLOCKED))

    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "program"), str(directory)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.stderr == ""
    assert done.returncode == int(changed)
    assert ("first difference" in done.stdout) == changed


# Properties


@given(st.data())
@settings(max_examples=20)
def test_whatever_fires_is_packed_and_unpacked_alike(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    from neurocompile.verification.golden_file import Golden, write_files

    shape = tuple(data.draw(st.lists(st.integers(1, 3), max_size=3), label="shape"))
    samples, steps = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    most = data.draw(st.sampled_from([1, 2, 200, 255, 256, 70_000]), label="most")
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))

    def drawn(low: int, high: int) -> NDArray[np.int64]:
        return generator.integers(low, high + 1, (samples, steps, *shape))

    arrays = Arrays(
        {"in": drawn(-3, 3).astype(np.float32)},
        {"a": drawn(0, most)},
        {"out": drawn(-(1 << 40), 9)},
    )
    described = describe_arrays(arrays, shows={"out": "membrane"})
    golden = Golden(
        "fixedpoint", 4, {}, "", samples, steps,
        described["inputs"], described["layers"], described["outputs"], (0,) * samples, None,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("golden") / "g"

    written = write_files(golden, arrays, directory)
    back = read_golden(directory)
    unpacked = read_arrays(directory, back)

    assert back == written
    assert np.array_equal(unpacked.inputs["in"], arrays.inputs["in"])
    assert np.array_equal(unpacked.spikes["a"], arrays.spikes["a"])
    assert np.array_equal(unpacked.outputs["out"], arrays.outputs["out"])
    shutil.rmtree(directory)


def test_every_number_of_a_program_has_a_part_that_tells_of_it(program: Program) -> None:
    network = program.network
    before = parts_of(program)

    def changed(**changes: Any) -> set[str]:
        now = parts_of(replace(program, network=replace(network, **changes)))
        return {name for name in before if before[name] != now[name]}

    relay, first, *rest = network.populations
    fc1, fc2 = network.synapses
    for change in (
        {"threshold": np.array([7, 8])},
        {"du": np.array(3)},
        {"bias_mantissa": np.array([5, 5])},
        {"reset": "subtract"},
        {"refractory": 2},
        {"scale": np.array(3.5)},
    ):
        neurons = replace(first, **change)
        assert changed(populations=(relay, neurons, *rest)) == {"population/lif1"}
    for synapses in (replace(fc2, weight=fc2.weight + 2), replace(fc2, delay=np.array(1))):
        assert changed(synapses=(fc1, synapses)) == {"synapses/fc2"}
    decided = parts_of(
        replace(program, facts={**program.facts, "decision": {"time_weights": [1.0]}})
    )
    assert {name for name in before if before[name] != decided[name]} == {"decision"}
