"""The commands as a person types them: what they print, write, and answer with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

from neurocompile.cli import main
from neurocompile.frontend.to_nir import write_nir

SMALL = [
    "--set", 'network.stages=[{"channels":4,"kernel":3,"pool":2},{"channels":4,"kernel":3,"pool":2}]',
    "--epochs", "2", "--timesteps", "3",
]  # fmt: skip
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "--preset", "digits", *SMALL, "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def program(run: Path) -> Path:
    path = run.parent / "program"
    assert main(["export", str(run), "--target", "loihi2", "-o", str(path)]) == 0
    return path


def refused(arguments: list[str], capsys: Capture, *texts: str) -> None:
    """Check that a command ends with code 2, says `texts` on standard error, and nothing else."""
    capsys.readouterr()

    assert main(arguments) == 2

    captured = capsys.readouterr()
    for text in texts:
        assert text in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.lava
def test_train_export_verify(run: Path, program: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "report"

    code = main([
        "verify", str(program), "--input", "digits:test", "--samples", "30",
        "--report", str(report), "--json", str(tmp_path / "facts.json"),
    ])  # fmt: skip

    printed = capsys.readouterr().out
    assert code == 0
    for text in (
        "torch / float",
        "float / fixedpoint",
        "fixedpoint / loihi2",
        "identical",
        "30 samples, a part of the data, 3 steps",
    ):
        assert text in printed
    facts = json.loads((report / "report.json").read_text())
    assert facts == json.loads((tmp_path / "facts.json").read_text())
    assert list(facts["accuracy"]) == ["torch", "float", "quantised", "fixedpoint", "loihi2"]
    last = facts["comparisons"][-1]
    assert (last["reference"], last["candidate"], last["must_match"], last["mismatches"]) == (
        "fixedpoint", "loihi2", True, 0,
    )  # fmt: skip
    assert last["first_divergence"] is None
    assert (report / "raster.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "metrics.json").is_file()


@pytest.mark.lava
def test_run_on_lava_and_on_the_definition(program: Path, tmp_path: Path, capsys: Capture) -> None:
    images = np.random.default_rng(0).integers(0, 17, (5, 1, 1, 8, 8)) / 16
    np.savez(tmp_path / "in.npz", input=images)
    common = [
        "run",
        str(program),
        "--input",
        str(tmp_path / "in.npz"),
        "--record",
        "all,membrane/lif1",
        "--steps",
        "3",
    ]

    assert main([*common, "--output", str(tmp_path / "chip.npz")]) == 0
    assert main([*common, "--output", str(tmp_path / "ours.npz"), "--on", "fixedpoint"]) == 0

    assert "output (5, 3, 10)" in capsys.readouterr().out
    with np.load(tmp_path / "chip.npz") as chip, np.load(tmp_path / "ours.npz") as ours:
        assert sorted(chip) == ["membrane/lif1", "output", "spikes/lif1", "spikes/lif2"]
        for name in chip:
            np.testing.assert_array_equal(chip[name], ours[name])


FORGETFUL = """
import sys
import numpy as np
import neurocompile

program = neurocompile.load(sys.argv[1])
print(program.run(np.zeros((2, 3, 1, 8, 8))).output.shape)
"""


@pytest.mark.lava
def test_a_program_that_nobody_closes_ends_in_silence(program: Path, tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", FORGETFUL, str(program)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert (found.returncode, found.stdout, found.stderr) == (0, "(2, 3, 10)\n", "")
    assert list(tmp_path.iterdir()) == []


def test_one_step_stays_one_step_unless_asked(
    program: Path, tmp_path: Path, capsys: Capture
) -> None:
    np.savez(tmp_path / "in.npz", input=np.zeros((2, 1, 1, 8, 8)))
    files = ["--input", str(tmp_path / "in.npz"), "--output", str(tmp_path / "out.npz")]

    assert main(["run", str(program), *files, "--on", "fixedpoint"]) == 0

    printed = capsys.readouterr().out
    assert "output (2, 1, 10)" in printed
    assert "shown for 1 step; training showed it for 3 (--steps)" in printed


def test_a_program_is_one_checkpoint_in_and_the_same_bytes_out(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert (
            main(
                [
                    "export",
                    str(run / "last.ckpt"),
                    "--target",
                    "fixedpoint",
                    "-o",
                    str(tmp_path / name),
                ]
            )
            == 0
        )

    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_help_has_examples(capsys: Capture) -> None:
    for command in ("train", "export", "run", "verify", "targets", "doctor"):
        assert main([command, "--help"]) == 0
        assert f"neurocompile {command}" in capsys.readouterr().out


def test_targets_and_doctor(capsys: Capture) -> None:
    assert main(["targets"]) == 0
    assert "fixedpoint" in capsys.readouterr().out
    assert main(["doctor"]) == 0
    assert "target loihi2" in capsys.readouterr().out


def test_usage_errors_are_code_2(capsys: Capture) -> None:
    refused(["export"], capsys, "Missing argument 'SOURCE'")
    refused(
        ["verify", "x", "--input", "digits", "--samples", "many"], capsys, "is not a valid integer"
    )
    refused(["compile"], capsys, "No such command 'compile'")


def test_bad_sources_are_refused_and_nothing_is_written(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    text = tmp_path / "text.nir"
    text.write_text("hello")
    out = tmp_path / "out"

    refused(
        ["export", str(text), "--target", "loihi2", "-o", str(out)], capsys, "is not a NIR file"
    )
    refused(["export", "none", "--target", "loihi2", "-o", str(out)], capsys, "there is no 'none'")
    refused(
        ["export", str(run), "--target", "loihi", "-o", str(out)],
        capsys,
        "there is no target 'loihi': installed are",
    )
    refused(
        ["export", str(run), "--target", "loihi2", "--dt", "1", "-o", str(out)],
        capsys,
        "--dt is for .nir files",
    )
    refused(
        ["export", str(run), "--target", "loihi2", "--weight-bits", "1", "-o", str(out)],
        capsys,
        "weight bits must be from 2 to 8",
    )
    refused(
        ["export", str(run), "--target", "loihi2", "-O", "speed=9", "-o", str(out)],
        capsys,
        "has no option 'speed'",
    )
    refused(
        ["export", str(run), "--target", "loihi2", "-O", "convolution", "-o", str(out)],
        capsys,
        "-O needs NAME=VALUE",
    )
    refused(
        ["export", str(run), "--target", "loihi2", "--input-range", "1:2", "-o", str(out)],
        capsys,
        "--input-range must reach",
    )
    refused(
        ["export", str(tmp_path), "--target", "loihi2", "-o", str(out)],
        capsys,
        "there is no checkpoint",
    )

    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.nir"]


def test_nan_weights_unknown_nodes_and_impossible_layers_are_named(
    tmp_path: Path, capsys: Capture
) -> None:
    full = np.ones(2)
    nodes = {
        "input": nir.Input({"input": np.array([2])}),
        "nan": nir.Affine(weight=np.array([[np.nan, 1.0], [1.0, 1.0]]), bias=np.zeros(2)),
        "unknown": nir.Delay(delay=full),
        "fc": nir.Affine(weight=np.eye(2), bias=np.zeros(2)),
        "output": nir.Output({"output": np.array([2])}),
    }
    names = list(nodes)
    path = tmp_path / "bad.nir"
    write_nir(path, nir.NIRGraph(nodes=nodes, edges=list(pairwise(names))))
    with h5py.File(path, "a") as file:
        del file["node/nodes/unknown/type"]
        file["node/nodes/unknown/type"] = "Dropout"

    refused(
        ["export", str(path), "--target", "loihi2", "-o", str(tmp_path / "out")],
        capsys,
        "2 problems",
        "layer 'nan' needs finite numbers in 'weight', but 1 of 4 are NaN",
        "layer 'unknown' is a 'Dropout' node, but that cannot be compiled",
    )

    nodes = {
        "input": nir.Input({"input": np.array([2])}),
        "fc": nir.Affine(weight=np.eye(2), bias=np.zeros(2)),
        "low": nir.IF(r=full, v_threshold=-full),
        "output": nir.Output({"output": np.array([2])}),
    }
    names = list(nodes)
    write_nir(path, nir.NIRGraph(nodes=nodes, edges=list(pairwise(names))))
    refused(
        [
            "export",
            str(path),
            "--target",
            "loihi2",
            "--profile",
            "literal",
            "--dt",
            "1",
            "-o",
            str(tmp_path / "out"),
        ],
        capsys,
        "layer 'low' needs a threshold of at least its reset voltage, but it is 1 below",
    )


def test_damaged_programs_and_wrong_inputs_are_refused(
    program: Path, tmp_path: Path, capsys: Capture
) -> None:
    np.savez(tmp_path / "wrong.npz", input=np.zeros((2, 3, 1, 8, 9)))
    np.savez(tmp_path / "other.npz", data=np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    out = ["--output", str(tmp_path / "out.npz"), "--on", "fixedpoint"]

    refused(
        ["run", str(program), "--input", str(tmp_path / "wrong.npz"), *out],
        capsys,
        "needs inputs of shape (samples, steps, 1, 8, 8)",
    )
    refused(
        ["run", str(program), "--input", str(tmp_path / "other.npz"), *out],
        capsys,
        "must hold 'input' (samples, steps, *input shape)",
    )
    refused(
        ["run", str(program), "--input", str(tmp_path / "text.npz"), *out],
        capsys,
        "is not a readable .npz file",
    )
    refused(
        ["run", str(program), "--input", str(tmp_path / "none.npz"), *out],
        capsys,
        "there is no file",
    )
    refused(
        ["run", str(tmp_path), "--input", str(tmp_path / "wrong.npz"), *out],
        capsys,
        "is not a program directory",
    )
    refused(["verify", str(program), "--input", "mnist"], capsys, "there is no data set 'mnist'")
    refused(
        ["verify", str(program), "--input", "digits:dev"], capsys, "'digits' has no split 'dev'"
    )
    assert not (tmp_path / "out.npz").exists()


def test_outputs_that_cannot_be_written_are_refused_first(
    program: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "in.npz", input=np.zeros((1, 3, 1, 8, 8)))
    execute = [
        "run",
        str(program),
        "--on",
        "fixedpoint",
        "--input",
        str(tmp_path / "in.npz"),
        "--output",
    ]
    verify = ["verify", str(program), "--input", "digits", "--samples", "1"]
    file, folder = str(tmp_path / "file"), str(tmp_path / "folder")

    refused([*execute, folder], capsys, "cannot be written, but it is a directory")
    refused([*execute, f"{file}/x.npz"], capsys, "cannot be written, but", "is a file")
    refused([*verify, "--json", folder], capsys, "cannot be written, but it is a directory")
    refused([*verify, "--report", file], capsys, "cannot be written, but it is a file")
    refused(["export", str(run), "--target", "fixedpoint", "-o", f"{file}/x"], capsys, "is a file")
    refused(
        ["export", str(run), "--target", "fixedpoint", "-o", "n" * 300],
        capsys,
        "its name is empty or too long",
    )
    refused(
        ["train", "--preset", "digits", "-o", file], capsys, "cannot be written, but it is a file"
    )


def test_fewer_steps_than_trained_are_verified_with_those(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    short = str(tmp_path / "short")
    assert main(["export", str(run), "--target", "fixedpoint", "--steps", "2", "-o", short]) == 0

    assert main(["verify", short, "--input", "digits", "--samples", "5"]) == 0

    assert "5 samples, a part of the data, 2 steps" in capsys.readouterr().out


def test_too_many_steps_are_refused_with_the_way_out(
    program: Path, tmp_path: Path, capsys: Capture
) -> None:
    np.savez(tmp_path / "in.npz", input=np.zeros((1, 1, 1, 8, 8)))
    arguments = [
        "run",
        str(program),
        "--input",
        str(tmp_path / "in.npz"),
        "--output",
        str(tmp_path / "out.npz"),
        "--on",
        "fixedpoint",
    ]

    refused(
        [*arguments, "--steps", "4"],
        capsys,
        "the range proof covers 3 steps a sample, but the inputs have 4: export again with --steps 4",
    )


def test_training_mistakes_are_refused(tmp_path: Path, capsys: Capture) -> None:
    out = ["-o", str(tmp_path / "run")]

    refused(["train", "--preset", "digit", *out], capsys, "there is no preset 'digit'")
    refused(
        ["train", "--preset", "digits", "--set", "lr=1", *out], capsys, "there is no setting 'lr'"
    )
    refused(
        ["train", "--preset", "digits", "--data", "none.npz", *out],
        capsys,
        "there is no file 'none.npz'",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("dt", -1.0), ("fire", ">="), ("scheme", "exact"), ("steps", 1.5), ("reset", "soft")],
)
def test_a_stranger_file_with_metadata_of_ours_damaged(
    run: Path, tmp_path: Path, capsys: Capture, name: str, value: object
) -> None:
    assert (
        main(["export", str(run), "--target", "fixedpoint", "-o", str(tmp_path / "program")]) == 0
    )
    path = tmp_path / "graph.nir"
    path.write_bytes((tmp_path / "program" / "graph.nir").read_bytes())
    with h5py.File(path, "a") as file:
        del file[f"node/metadata/{name}"]
        file[f"node/metadata/{name}"] = value

    refused(
        ["export", str(path), "--target", "fixedpoint", "-o", str(tmp_path / "out")],
        capsys,
        f"metadata '{name}' is damaged",
    )


def test_ranges_that_make_no_sense_are_refused(run: Path, tmp_path: Path, capsys: Capture) -> None:
    export = ["export", str(run), "--target", "fixedpoint", "-o", str(tmp_path / "out")]
    np.savez(tmp_path / "in.npz", input=np.zeros((1, 1, 5)))

    for text in ("0:inf", "nan:1", "0:1e-320", "0", "a:b"):
        refused([*export, "--input-range", text], capsys, "--input-range")
    refused(
        [*export, "--calibrate", str(tmp_path / "in.npz")],
        capsys,
        "--calibrate needs samples of shape (1, 8, 8)",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npz"]


def test_a_report_on_a_network_without_spikes_has_no_picture(
    tmp_path: Path, capsys: Capture
) -> None:
    nodes = {
        "input": nir.Input({"input": np.array([2])}),
        "fc": nir.Affine(weight=np.eye(2), bias=np.zeros(2)),
        "output": nir.Output({"output": np.array([2])}),
    }
    write_nir(tmp_path / "fc.nir", nir.NIRGraph(nodes=nodes, edges=list(pairwise(nodes))))
    np.savez(tmp_path / "in.npz", input=np.ones((2, 3, 2)))
    program, report = str(tmp_path / "program"), tmp_path / "report"
    assert main(["export", str(tmp_path / "fc.nir"), "--target", "fixedpoint", "-o", program]) == 0

    assert (
        main(["verify", program, "--input", str(tmp_path / "in.npz"), "--report", str(report)]) == 0
    )

    assert sorted(path.name for path in report.iterdir()) == ["report.html", "report.json"]
    assert "raster" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def two_way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two inputs, two layers of which one hears itself, their sum read by 20 neurons, two outputs."""

    def neurons(count: int) -> nir.IF:
        full = np.ones(count)
        return nir.IF(r=full, v_threshold=full, v_reset=0 * full)

    generator = np.random.default_rng(0)
    nodes = {
        "left": nir.Input({"input": np.array([2])}),
        "right": nir.Input({"input": np.array([3])}),
        "a": nir.Linear(weight=generator.normal(size=(4, 2))),
        "b": nir.Linear(weight=generator.normal(size=(4, 3))),
        "lif1": neurons(4),
        "lif2": neurons(4),
        "back": nir.Linear(weight=np.eye(4) / 2),
        "fc": nir.Affine(weight=generator.normal(size=(20, 4)) / 2, bias=np.ones(20) / 4),
        "fired": nir.Output({"output": np.array([4])}),
        "value": nir.Output({"output": np.array([20])}),
    }
    edges = [
        ("left", "a"),
        ("a", "lif1"),
        ("right", "b"),
        ("b", "lif2"),
        ("lif1", "back"),
        ("back", "lif1"),
        ("lif1", "fc"),
        ("lif2", "fc"),
        ("lif1", "fired"),
        ("fc", "value"),
    ]
    folder = tmp_path_factory.mktemp("two")
    write_nir(folder / "two.nir", nir.NIRGraph(nodes=nodes, edges=edges))
    arrays: dict[str, Any] = {
        "input/left": generator.integers(0, 2, (5, 6, 2)),
        "input/right": generator.integers(0, 2, (5, 6, 3)),
        "label": np.arange(5) % 4,
    }
    np.savez(folder / "in.npz", **arrays)
    return folder


def exporting(folder: Path, *more: str, target: str = "fixedpoint") -> list[str]:
    out = str(folder / f"program-{target}")
    reading = ["--profile", "literal", "--dt", "1"]
    return ["export", str(folder / "two.nir"), "--target", target, *reading, "-o", out, *more]


def test_several_inputs_and_outputs_have_names_in_files(
    two_way: Path, tmp_path: Path, capsys: Capture
) -> None:
    program, out = str(two_way / "program-fixedpoint"), tmp_path / "out.npz"
    assert main(exporting(two_way)) == 0
    common = ["run", program, "--output", str(out), "--input"]
    capsys.readouterr()

    assert main([*common, str(two_way / "in.npz"), "--record", "lif2,membrane/fc"]) == 0

    printed = capsys.readouterr().out
    assert f"wrote {out}: fired (5, 6, 4), value (5, 6, 20)" in printed
    with np.load(out) as written:
        assert sorted(written) == ["membrane/fc", "output/fired", "output/value", "spikes/lif2"]
        assert written["output/value"].dtype == np.float64
        assert set(np.unique(written["output/fired"])) == {0, 1}
        long = written["output/fired"].copy()
    with np.load(two_way / "in.npz") as given:
        still: dict[str, Any] = {name: given[name][:, :1] for name in given if name != "label"}
        np.savez(tmp_path / "still.npz", **still)
    assert main([*common, str(tmp_path / "still.npz"), "--steps", "6"]) == 0
    with np.load(out) as written:
        np.testing.assert_array_equal(written["output/fired"][:, :1], long[:, :1])
        assert written["output/value"].shape == (5, 6, 20)


def test_inputs_that_do_not_fit_their_names_are_refused(
    two_way: Path, tmp_path: Path, capsys: Capture
) -> None:
    program = str(two_way / "program-fixedpoint")
    assert main(exporting(two_way)) == 0
    left, right = np.zeros((2, 6, 2)), np.zeros((2, 6, 3))
    files: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        (
            {"input": left},
            ("the network has the inputs 'left', 'right', but one array is given",),
        ),
        (
            {"input/left": left, "input/up": right},
            (
                "2 problems",
                "layer 'right' needs an input, but there is none",
                "there is no input 'up': there are left, right",
            ),
        ),
        (
            {"input/left": left, "input/right": right[:, :5]},
            ("inputs need equal samples and steps",),
        ),
        ({"input/left": left[:1], "input/right": right}, ("need equal samples",)),
        ({"input": left, "input/right": right}, ("must hold 'input' or 'input/<name>'",)),
        (
            {"input/left": left + 2, "input/right": np.zeros((2, 6, 4))},
            (
                "layer 'left' needs values from 0 to 1",
                "layer 'right' needs inputs of shape (samples, steps, 3)",
            ),
        ),
    ]

    for number, (arrays, texts) in enumerate(files):
        path = tmp_path / f"{number}.npz"
        np.savez(path, **arrays)
        out = ["--output", str(tmp_path / "out.npz")]
        refused(["run", program, "--input", str(path), *out], capsys, *texts)
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.lava
def test_several_inputs_and_outputs_are_verified(
    two_way: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(exporting(two_way, target="loihi2")) == 0
    program, facts = str(two_way / "program-loihi2"), tmp_path / "facts.json"

    code = main(["verify", program, "--input", str(two_way / "in.npz"), "--json", str(facts)])

    assert code == 0
    printed = capsys.readouterr().out
    assert "fixedpoint / loihi2: identical, all spikes and outputs" in printed
    assert "5 samples, 6 steps" in printed
    assert "accuracy      float" in printed
    report = json.loads(facts.read_text())
    last = report["comparisons"][-1]
    assert last["output"] == {
        "slots": 5 * 6 * (4 + 20), "mismatches": 0, "largest_difference": 0.0,
    }  # fmt: skip
    assert last["slots"] == 5 * 6 * 8
    assert report["program"]["notes"]


def test_a_network_is_printed_after_a_pass_or_after_all(two_way: Path, capsys: Capture) -> None:
    assert main(exporting(two_way, "--print-after", "assemble")) == 0
    one = capsys.readouterr().out
    assert main(exporting(two_way, "--print-after", "all")) == 0
    everything = capsys.readouterr().out

    assert one.startswith("after assemble:\nname ")
    assert one.count("after ") == 1
    rows = [line.split() for line in one.splitlines()]
    assert ["back", "synapses", "(4,", "4)", "lif1", "->", "lif1", "delay", "1"] in rows
    assert ["outputs", "fired:", "lif1,", "value:", "fc"] in rows
    headings = [line for line in everything.splitlines() if line.startswith("after ")]
    assert headings == [
        "after import:", "after lower_max_pooling:", "after lower_thresholds:",
        "after shift_resets:", "after assemble:", "after share_sums:", "after quantise:",
    ]  # fmt: skip
    refused(exporting(two_way, "--print-after", "lowering"), capsys, "'lowering' is not one of")


def test_validation_is_told_and_can_be_left_out(two_way: Path, capsys: Capture) -> None:
    manifest = two_way / "program-fixedpoint" / "program.json"

    assert main(exporting(two_way, "--no-validate")) == 0
    assert "passes not validated: not asked for" in capsys.readouterr().out
    assert json.loads(manifest.read_text())["validation"] == {"skipped": "not asked for"}
    assert main(exporting(two_way, "--validate", "--steps", "6")) == 0

    printed = capsys.readouterr().out
    assert f"validated on 4 samples: 5 exact passes changed 0 of {5 * 4 * 6 * 8} spikes" in printed
    assert "; quantise changed " in printed
    facts = json.loads(manifest.read_text())["validation"]
    assert facts["samples"] == 4
    assert [report["mismatches"] for report in facts["passes"]][:5] == [0] * 5


@pytest.mark.parametrize(
    ("sums", "note"),
    [
        ("auto", "graded spikes: 40 operations a step, 80 by duplicated synapses"),
        ("duplicate", "duplicated synapses: 80 operations a step, 40 by graded spikes"),
    ],
)
def test_decisions_are_printed_and_kept(
    two_way: Path, capsys: Capture, sums: str, note: str
) -> None:
    """The sum has 4 neurons, worth 8 each, with 2 synapses each; it saves the 80 of a second fc."""
    assert main(exporting(two_way, "--sums", sums)) == 0

    printed = capsys.readouterr().out
    notes = [
        f"the sum of lif1, lif2 travels by {note}",
        "samples are 1 blank step apart, the longest delay",
        "2 of 4 neurons of 'lif2' can never fire, whatever arrives",
    ]
    for text in notes:
        assert text in printed
    manifest = json.loads((two_way / "program-fixedpoint" / "program.json").read_text())
    assert manifest["notes"] == notes
    kinds = [population["kind"] for population in manifest["populations"]]
    assert ("relay" in kinds) == (sums == "auto")


def test_calibration_is_for_one_input(two_way: Path, capsys: Capture) -> None:
    refused(
        exporting(two_way, "--calibrate", "digits"),
        capsys,
        "--calibrate is for networks with one input, but there are left, right",
    )


def test_several_inputs_are_calibrated_by_a_file_that_holds_them_by_name(
    two_way: Path, tmp_path: Path, capsys: Capture
) -> None:
    calibrate = ["--calibrate", str(two_way / "in.npz"), "--method", "search", "--weight-bits", "3"]
    command = exporting(two_way, *calibrate)
    command[command.index("-o") + 1] = str(tmp_path / "program")

    assert main(command) == 0

    assert "calibrated on 5 samples of 'in.npz', 6 steps" in capsys.readouterr().out
    with np.load(two_way / "in.npz") as arrays:
        np.savez(tmp_path / "wide.npz", **{**arrays, "input/left": np.zeros((5, 6, 4))})
    refused(
        exporting(two_way, "--calibrate", str(tmp_path / "wide.npz")),
        capsys,
        "layer 'left' needs samples of shape (2,) from --calibrate",
    )
