"""`check`: every problem at once, what it would take, and nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

import neurocompile
from neurocompile.checks.check_source import Check, check_network
from neurocompile.cli import commands, main
from neurocompile.data import InputRange
from neurocompile.errors import NeurocompileError, OptionError
from neurocompile.frontend.to_nir import write_nir
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
)
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.quantisation.recipe import Recipe
from neurocompile.target import find

Neurons = Callable[..., LIF]
Chain = Callable[..., Network]
Capture = pytest.CaptureFixture[str]


def checked(network: Network, target: str = "loihi2", **options: Any) -> Check:
    return check_network(network, find(target), CompileOptions(**options))


def found(check: Check) -> set[tuple[str, str]]:
    return {(item.stage, item.problem.layer) for item in check.problems}


def random_dense(rows: int, columns: int) -> Dense:
    return Dense(np.random.default_rng(rows).normal(size=(rows, columns)), np.zeros(rows))


def write(path: Path, nodes: dict[str, Any], *, kinds: dict[str, str] | None = None) -> Path:
    """Write a chain of NIR nodes, without any reset voltage; `kinds` renames types in the file."""
    write_nir(path, nir.NIRGraph(nodes=nodes, edges=list(pairwise(nodes)), type_check=False))
    with h5py.File(path, "a") as file:
        for name in nodes:
            file.pop(f"node/nodes/{name}/v_reset", None)
        for name, kind in (kinds or {}).items():
            del file[f"node/nodes/{name}/type"]
            file[f"node/nodes/{name}/type"] = kind
    return path


def ends(*names: int) -> tuple[Any, Any]:
    shape = np.array(names)
    return nir.Input({"input": shape}), nir.Output({"output": shape})


@pytest.fixture
def faulty(lif: Neurons, chain: Chain) -> Network:
    """One fault for each of four passes, in four layers."""
    generator = np.random.default_rng(0)
    return chain(
        (2, 8, 8),
        {
            "pool": MaxPool2d((2, 2), (2, 2)),
            "conv": Conv2d(generator.normal(size=(4, 2, 3, 3)), np.zeros(4), padding=(1, 1)),
            "negative": lif((4, 4, 4), threshold=-1.0),
            "flat": Flatten(),
            "fc": random_dense(300, 64),
            "slow": lif((300,), decay=1 - 1e-6),
            "fc2": random_dense(301, 300),
            "mixed": lif((301,), decay=generator.uniform(0.2, 0.8, 301)),
            "fc3": random_dense(10, 301),
        },
        input_range=InputRange(-1.0, 1.0),
    )


def test_faults_of_four_passes_are_reported_at_once(faulty: Network) -> None:
    check = checked(faulty)

    assert found(check) == {
        ("lower_max_pooling", "pool"),
        ("assemble", "negative"),
        ("quantise", "slow"),
        ("target", "mixed"),
    }
    assert [item.assumed for item in check.problems] == [False, True, True, True]
    assert check.assumptions == (
        "'pool' averages",
        "'negative' has leaks and thresholds that are legal",
        "'slow' has the nearest leak that the chip has",
    )
    assert not check.ok
    assert not check.not_checked
    assert check.verdict == "would export to loihi2: no, 4 problems"
    assert len(checked(faulty, "fixedpoint").problems) == 3


def test_repairing_one_fault_after_the_other_finds_no_others(faulty: Network, lif: Neurons) -> None:
    """What is found behind replacements is what an export says once the user has repaired."""
    repaired: dict[str, Node] = {
        "pool": Conv2d(np.ones((2, 2, 2, 2)), np.zeros(2), (2, 2)),
        "negative": lif((4, 4, 4)),
        "slow": lif((300,)),
        "mixed": lif((301,)),
    }
    expected = [item.problem for item in checked(faulty).problems]
    network = faulty
    for problem in expected:
        with pytest.raises(NeurocompileError) as refused:
            compile_network(network, find("loihi2"), CompileOptions(validate=False))
        assert [one.need for one in refused.value.problems] == [problem.need]
        network = network.replaced({**network.nodes, problem.layer: repaired[problem.layer]})

    assert checked(network).ok


def test_several_faults_of_one_layer_are_reported(lif: Neurons, chain: Chain) -> None:
    network = chain(
        (3,),
        {
            "fc": random_dense(2, 3),
            "lif": lif((2,), decay=1 - 1e-6, current_decay=1e-6, threshold=-1.0),
        },
    )

    check = checked(network)

    assert [item.stage for item in check.problems] == ["assemble", "quantise", "quantise"]
    needs = " ".join(item.problem.need for item in check.problems)
    for text in ("a threshold", "a leak of at least", "a current that keeps"):
        assert text in needs


@pytest.mark.parametrize(
    ("make", "need"),
    [
        (lambda lif: {"li": Integrator(*[np.full(3, 0.5)] * 3), "lif": lif((3,))}, "feed an output"),
        (lambda lif: {"fc2": Dense(np.eye(3), np.ones(3)), "late": Delay(np.array(2)),
                      "lif": lif((3,))}, "cannot delay a bias"),
        (lambda lif: {"late": Delay(np.array(60000)), "later": Delay(np.array(60000)),
                      "lif": lif((3,))}, "needs delays of at most"),
        (lambda lif: {"fc2": Dense(np.eye(3), np.ones(3)),
                      "lif": lif((3,), current_decay=1.0)}, "needs a current that leaks"),
        (lambda lif: {"lif": lif((3,), decay=1.5)}, "needs a leak factor between 0 and 1"),
    ],
)  # fmt: skip
def test_what_assemble_refuses_is_looked_past(
    make: Callable[[Neurons], dict[str, Node]], need: str, lif: Neurons, chain: Chain
) -> None:
    last = {"end": random_dense(2, 3), "slow": lif((2,), decay=1 - 1e-6)}
    network = chain((3,), {"fc": random_dense(3, 3), **make(lif), **last})

    check = checked(network)

    assert need in str(check.problems[0].problem)
    assert ("quantise", "slow") in found(check)
    assert check.layers


def test_a_failing_proof_says_by_how_much_and_for_how_many_steps_it_holds(
    lif: Neurons, chain: Chain
) -> None:
    """Integrators that are only inhibited sink deeper with each step."""
    network = chain(
        (300,),
        {"fc": Dense(-np.ones((2, 300)), np.zeros(2)), "lif": lif((2,), decay=1.0)},
        steps=2000,
    )

    check = checked(network)

    (problem,) = check.problems
    assert (problem.stage, problem.problem.layer) == ("quantise", "lif")
    (row,) = (layer for layer in check.layers if layer.name == "lif")
    assert row.miss is not None
    assert row.miss.steps is not None
    assert row.miss.excess == pytest.approx(2000 * 300 * 254 * 64 / ((1 << 23) - 1), rel=1e-6)
    assert row.miss.scale == pytest.approx(254 / row.miss.excess)
    assert (row.miss.beyond, row.miss.worst) == (2, 0)
    assert checked(network, steps=row.miss.steps).ok
    assert not checked(network, steps=row.miss.steps + 1).ok


def test_every_layer_has_its_bounds_ranges_and_resources(lif: Neurons, chain: Chain) -> None:
    network = chain(
        (4,),
        {
            "fc": Dense(np.array([[1.0, -0.5, 0.25, 1e-5]] * 3), np.array([0.1, 0.2, -0.3])),
            "lif": lif((3,), decay=0.9, current_decay=0.3),
            "fc2": random_dense(2, 3),
        },
        input_range=InputRange(0, 1, 1 / 255),
        steps=6,
    )

    check = checked(network)
    program = compile_network(network, find("loihi2"), CompileOptions())

    assert check.ok
    assert [layer.name for layer in check.layers] == ["input", "lif", "fc2"]
    assert [layer.bound for layer in check.layers[1:]] == list(program.bounds)
    row = check.to_json()["layers"][1]
    assert row["threshold"]["limit"] == [0, 131071]
    assert row["bias_mantissa"]["limit"] == [-4096, 4095]
    assert row["leak"]["real"] == [0.9, 0.9]
    assert row["leak"]["needs"] == [410, 410]  # 0.1 * 4096 = 409.6
    assert row["leak"]["represented"] == pytest.approx([1 - 410 / 4096] * 2)
    assert row["leak"]["error"] == pytest.approx(0.4 / 4096)
    assert row["current_leak"]["needs"] == [2866, 2866]  # du = 0.7 * 4096 - 1, rounded
    (group,) = row["weights"]
    assert (group["count"], group["zeroed"], group["clipped"]) == (12, 3, 0)
    assert group["limit"] == [-256, 254]
    assert row["range_proof"]["head_room"] > 1
    assert row["resources"]["neurons"] == {"value": 3, "status": "exact"}
    assert row["resources"]["cores"] == {"value": 1, "status": "estimated"}
    assert check.layers[0].needs.numbers["payload_bits"].low == 8


def recurrent(lif: Neurons) -> Network:
    return Network(
        {
            "in": Input((3,)),
            "fc": random_dense(4, 3),
            "lif": lif((4,)),
            "back": random_dense(4, 4),
            "out": Output((4,)),
        },
        (("in", "fc"), ("fc", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "out")),
        5,
        frozenset({("lif", "back")}),
    )


def several_outputs(lif: Neurons) -> Network:
    return Network(
        {
            "in": Input((3,)),
            "fc": random_dense(4, 3),
            "lif": lif((4,)),
            "end": random_dense(2, 4),
            "spikes": Output((4,)),
            "logits": Output((2,)),
        },
        (("in", "fc"), ("fc", "lif"), ("lif", "spikes"), ("lif", "end"), ("end", "logits")),
        5,
    )


@pytest.mark.parametrize("make", [recurrent, several_outputs])
@pytest.mark.parametrize("target", ["fixedpoint", "loihi2"])
def test_networks_of_other_forms_check(
    make: Callable[[Neurons], Network], target: str, lif: Neurons
) -> None:
    check = checked(make(lif), target)

    assert check.ok
    assert check.verdict.startswith(f"would export to {target}: yes")
    assert json.loads(json.dumps(check.to_json()))["ok"] is True


def test_options_that_are_refused_do_not_hide_the_rest(lif: Neurons, chain: Chain) -> None:
    network = chain((3,), {"fc": random_dense(2, 3), "lif": lif((2,), decay=1 - 1e-6)})

    check = checked(
        network,
        recipe=Recipe(1),
        first_layer="host",
        target_options={"speed": "9", "balance": "no"},
    )

    assert [(item.stage, item.assumed) for item in check.problems] == [
        *[("options", False)] * 4,
        ("quantise", True),
    ]
    assert check.resources is not None


def test_validation_runs_only_when_it_is_asked_for(
    lif: Neurons, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurocompile import validation

    network = chain((3,), {"fc": random_dense(2, 3), "lif": lif((2,))})
    runs: list[Any] = []
    original = validation.run_stage

    def run_stage(*arguments: Any) -> Any:
        runs.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(validation, "run_stage", run_stage)

    assert checked(network).ok
    assert not runs
    assert checked(network, validate=True).ok
    assert runs


# Files


def test_an_open_dialect_does_not_hide_faults_behind_it(tmp_path: Path) -> None:
    full = np.ones(2)
    start, end = ends(2)
    path = write(
        tmp_path / "open.nir",
        {
            "input": start,
            "nan": nir.Affine(weight=np.array([[np.nan, 1.0], [1.0, 1.0]]), bias=np.zeros(2)),
            "odd": nir.Threshold(threshold=full),
            "fc": nir.Affine(weight=np.eye(2), bias=np.zeros(2)),
            "lif": nir.LIF(tau=0.02 * full, r=full, v_leak=0 * full, v_threshold=full),
            "fc2": nir.Affine(weight=np.eye(2), bias=np.zeros(2)),
            "slow": nir.LIF(tau=2e4 * full, r=full, v_leak=0 * full, v_threshold=-full),
            "output": end,
        },
        kinds={"odd": "Dropout"},
    )

    check = neurocompile.check(path, target="loihi2")

    told = [str(item.problem) for item in check.problems]
    for text in (
        "layer 'nan' needs finite numbers",
        "layer 'odd' is a 'Dropout' node",
        "layer 'lif' needs the time step",
        "layer 'slow' needs the time step",
        "layer 'slow' can reset to zero or subtract",
        "layer 'slow' needs a threshold of at least its reset voltage",
        "layer 'slow' needs a leak of at least 1/8192",
    ):
        assert any(text in line for line in told), text
    assert "--dt 0.01" in check.assumptions
    assert "--reset zero" in check.assumptions
    assert check.inferred["dt"] == "0.01, assumed"
    assert [layer.assumed for layer in check.layers] == [False, True, True]

    decided = neurocompile.check(path, target="loihi2", profile="literal", dt=1e-3, reset="zero")

    assert not any("--dt" in str(item.problem) for item in decided.problems)
    assert decided.inferred["dt"] == "0.001, as asked for"


def test_shapes_behind_what_cannot_be_read_are_no_further_problem(tmp_path: Path) -> None:
    start, end = ends(4)
    path = write(
        tmp_path / "odd.nir",
        {
            "input": start,
            "odd": nir.Threshold(threshold=np.ones(4)),
            "fc": nir.Affine(weight=np.ones((4, 2)), bias=np.zeros(4)),  # for 2 values, not 4
            "output": end,
        },
        kinds={"odd": "Halve"},
    )

    check = neurocompile.check(path, target="loihi2")

    assert found(check) == {("import", "odd")}
    assert [what for what, _ in check.not_checked] == [
        "the passes", "range proof", "hardware ranges", "resources",
    ]  # fmt: skip
    assert not check.layers


def test_wrong_shapes_and_damaged_files_say_what_was_not_checked(tmp_path: Path) -> None:
    start, end = nir.Input({"input": np.array([4])}), nir.Output({"output": np.array([5])})
    wrong = write(
        tmp_path / "wrong.nir",
        {"input": start, "fc": nir.Affine(weight=np.ones((5, 2)), bias=np.zeros(5)), "output": end},
    )
    text = tmp_path / "text.nir"
    text.write_text("hello")

    for path, need in ((wrong, "needs an input of shape (2,)"), (text, "is not a NIR file")):
        check = neurocompile.check(path, target="fixedpoint")

        assert need in str(check.problems[0].problem)
        assert check.not_checked
        assert check.to_json()["layers"] == []


def test_every_import_option_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    start, end = ends(2)
    path = write(
        tmp_path / "a.nir",
        {"input": start, "fc": nir.Affine(weight=np.eye(2), bias=np.zeros(2)), "output": end},
    )

    check = neurocompile.check(
        path, target="loihi2", dt=-1.0, reset="never", profile="theirs", calibrate="digits"
    )

    assert [item.stage for item in check.problems] == ["options"] * 4
    assert check.layers


def test_options_that_do_not_fit_a_file_are_left_out(good: Path) -> None:
    check = neurocompile.check(good, target="loihi2", profile="ours", dt=1e-3)

    assert str(check.problems[0].problem).startswith("--profile ours needs a file of neurocompile")
    assert ("import", "lif") in found(check)
    assert check.layers


def test_there_must_be_something_to_check(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="there is no target 'x'"):
        neurocompile.check(tmp_path, target="x")
    with pytest.raises(OptionError, match="there is no 'none'"):
        neurocompile.check("none", target="loihi2")
    check = neurocompile.check(tmp_path, target="loihi2")
    assert "there is no checkpoint" in str(check.problems[0].problem)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    full = np.ones(2)
    start, end = ends(2)
    return write(
        tmp_path / "good.nir",
        {
            "input": start,
            "fc": nir.Affine(weight=np.eye(2), bias=np.zeros(2)),
            "lif": nir.LIF(tau=0.02 * full, r=full, v_leak=0 * full, v_threshold=full),
            "output": end,
        },
    )


def test_the_command_prints_answers_and_writes_nothing_else(
    good: Path, tmp_path: Path, capsys: Capture
) -> None:
    reading = ["--profile", "literal", "--dt", "1e-3"]
    arguments = ["check", str(good), "--target", "loihi2", *reading]
    facts = tmp_path / "facts.json"

    assert main([*arguments, "--json", str(facts)]) == 2  # the reset is not decided
    refused = capsys.readouterr().out
    assert refused.startswith("1 problem\n  - import: layer 'lif' can reset")
    assert refused.endswith("would export to loihi2: no, 1 problem\n")
    assert json.loads(facts.read_text())["problems"][0]["stage"] == "import"

    assert main([*arguments, "--reset", "zero", "--json", str(facts)]) == 0
    printed = capsys.readouterr().out
    for text in ("range proof, 100 steps", "hardware ranges", "synapses", "resources", "limit"):
        assert text in printed
    assert printed.endswith("would export to loihi2: yes, about 1 core on 1 chip (estimated)\n")
    tables = [line for line in printed.splitlines() if "would export" not in line]
    assert max(len(line) for line in tables) <= 100
    assert "\x1b" not in printed
    report = json.loads(facts.read_text())
    assert list(report) == [
        "schema", "source", "target", "ok", "steps", "problems", "assumptions", "not_checked",
        "inferred", "layers", "relays", "totals", "unplaced", "limits", "notes",
    ]  # fmt: skip
    assert report["limits"]["words_per_core"]["status"] == "published"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["facts.json", "good.nir"]


def test_the_command_takes_the_options_of_export(capsys: Capture) -> None:
    taken = {
        name: {str(option.opts) for option in commands.commands[name].params}
        for name in ("check", "export")
    }

    assert taken["check"] - taken["export"] == {"['--json']"}
    assert taken["export"] - taken["check"] == {"['-o', '--output']"}
    assert main(["check", "--help"]) == 0
    assert "neurocompile check theirs.nir" in capsys.readouterr().out


def test_problems_that_differ_in_their_layer_only_are_printed_once(
    tmp_path: Path, capsys: Capture
) -> None:
    full = np.ones(2)
    start, end = ends(2)
    neurons = {
        name: nir.LIF(tau=0.02 * full, r=full, v_leak=0 * full, v_threshold=full) for name in "abc"
    }
    layers = {"fc": nir.Affine(weight=np.eye(2), bias=np.zeros(2)), **neurons}
    path = write(tmp_path / "several.nir", {"input": start, **layers, "output": end})

    arguments = ["check", str(path), "--target", "fixedpoint", "--profile", "literal"]
    assert main([*arguments, "--reset", "zero"]) == 2

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 problems"
    assert lines[1].startswith("  - import: layer 'a' needs the time step")
    assert lines[1].endswith(": give it with --dt; so for 'b', 'c'")
    assert not lines[2].startswith("  - ")


def test_a_nir_file_is_checked_without_torch_lava_or_temporary_files(
    good: Path, tmp_path: Path
) -> None:
    code = """
import sys, tempfile
for name in ("torch", "lava", "scipy"):
    sys.modules[name] = None
def refuse(*args, **options):
    raise AssertionError("a temporary file")
tempfile.mkdtemp = tempfile.mkstemp = tempfile.NamedTemporaryFile = refuse
import neurocompile
assert neurocompile.check(sys.argv[1], target="loihi2", profile="literal", dt=1e-3, reset="zero").ok
"""
    before = sorted(tmp_path.rglob("*"))

    subprocess.run([sys.executable, "-c", code, str(good)], check=True, cwd=tmp_path)

    assert sorted(tmp_path.rglob("*")) == before
