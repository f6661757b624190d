"""What a user's own tests can hold a program to, in a project that is not this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neurocompile import pytest_plugin, testing
from neurocompile.data import Samples
from neurocompile.ir import LIF, Dense, Network
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program
from neurocompile.samples import source_of_samples
from neurocompile.target import find
from neurocompile.testing import assert_matches_golden, assert_same_spikes, assert_verifies
from neurocompile.verification.golden import replay_golden, write_golden
from neurocompile.verification.golden_file import read_golden

INPUTS = np.array([[[1, 0], [1, 1], [0, 0]], [[0, 1], [0, 1], [1, 1]]], np.float32)
SAMPLES = Samples(INPUTS, np.array([0, 1]))

Make = Callable[..., Program]


@pytest.fixture
def make(lif: Callable[..., LIF], chain: Callable[..., Network]) -> Make:
    def compiled(second: float = 0.75, neurons: int = 2) -> Program:
        weight = np.array([[2, 0], [second, second], [0, 2]])[:neurons]
        nodes: dict[str, Any] = {
            "fc": Dense(weight, np.zeros(neurons)),
            "lif": lif((neurons,), decay=0.0),
        }
        return compile_network(chain((2,), nodes, steps=3), find("fixedpoint"), CompileOptions())

    return compiled


@pytest.fixture
def golden(make: Make, tmp_path: Path) -> Path:
    path = tmp_path / "golden"
    write_golden(make(), source_of_samples(SAMPLES, "by hand"), path)
    return path


@pytest.fixture
def updating(monkeypatch: pytest.MonkeyPatch) -> testing.Session:
    session = testing.Session(update=True)
    monkeypatch.setattr(testing, "SESSION", session)
    return session


def test_a_program_that_does_the_same_passes(make: Make, golden: Path) -> None:
    assert_matches_golden(make(), golden, on=["fixedpoint"])


def test_a_failure_says_where_why_and_what_to_do(make: Make, golden: Path) -> None:
    with pytest.raises(AssertionError) as raised:
        assert_matches_golden(make(0.25), golden)

    lines = str(raised.value).splitlines()
    assert lines[1] == (
        "fixedpoint:definition: 2 of 12 spikes, 2 of 12 output values, 0 decisions differ"
    )
    assert "first difference: sample 0, step 1, 'lif', neuron 1: 0, the golden has 1" in lines[2]
    assert "the program changed since: synapses 'fc'" in lines
    assert lines[-1].endswith("or pytest --neurocompile-update-golden")
    assert len(lines) < 10


def test_a_missing_golden_is_a_failure_that_says_how_to_store_one(
    make: Make, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError) as raised:
        assert_matches_golden(make(), tmp_path / "none", data=SAMPLES)

    assert f"there is no golden '{tmp_path / 'none'}'" in str(raised.value)
    assert "pytest --neurocompile-update-golden" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_golden_that_was_never_stored_needs_data(
    make: Make, tmp_path: Path, updating: testing.Session
) -> None:
    with pytest.raises(
        AssertionError, match=r"there is no '.*none': .*give data=\.\.\. in this test"
    ):
        assert_matches_golden(make(), tmp_path / "none")

    assert updating.stored == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["golden.npz", "golden.json"])
def test_an_update_of_a_damaged_golden_takes_data(
    make: Make, golden: Path, updating: testing.Session, damage: str
) -> None:
    file = golden / damage
    file.write_text(file.read_text()[:-9] if damage == "golden.json" else "")

    with pytest.raises(AssertionError, match=r"give data=\.\.\. in this test") as raised:
        assert_matches_golden(make(), golden)
    assert damage in str(raised.value)

    assert_matches_golden(make(), golden, data=SAMPLES)
    assert updating.stored == [str(golden)]
    assert not replay_golden(make(), golden).failed


def test_a_damaged_golden_is_not_called_a_missing_one(make: Make, golden: Path) -> None:
    (golden / "golden.json").write_text("{}")

    with pytest.raises(AssertionError, match="is not a golden of neurocompile"):
        assert_matches_golden(make(), golden)


def test_what_cannot_be_met_is_a_failure_of_one_line(make: Make, golden: Path) -> None:
    with pytest.raises(AssertionError, match="neurocompile: .*is not a program directory"):
        assert_matches_golden(golden.parent, golden)
    with pytest.raises(AssertionError, match="neurocompile: there is no '.*nothing': make one"):
        assert_matches_golden(golden.parent / "nothing", golden)
    (golden / "golden.npz").write_bytes(b"")
    with pytest.raises(AssertionError, match="was changed or cut short"):
        assert_matches_golden(make(), golden)


def test_an_update_stores_what_the_program_does_now(
    make: Make, golden: Path, updating: testing.Session
) -> None:
    changed = make(0.25)

    assert_matches_golden(changed, golden)

    assert not replay_golden(changed, golden).failed
    assert updating.stored == [str(golden)]
    assert read_golden(golden).data == "by hand"


def test_an_update_makes_a_golden_from_data_where_the_old_one_does_not_fit(
    make: Make, golden: Path, updating: testing.Session
) -> None:
    larger = make(neurons=3)
    with pytest.raises(AssertionError, match="has the shape"):
        assert_matches_golden(larger, golden)

    assert_matches_golden(larger, golden, data=SAMPLES, samples=1)
    assert_matches_golden(larger, golden.parent / "new", data=SAMPLES)

    assert read_golden(golden).samples == 1
    assert read_golden(golden.parent / "new").samples == 2
    assert updating.stored == [str(golden), str(golden.parent / "new")]


def test_without_the_option_nothing_is_ever_stored(make: Make, golden: Path) -> None:
    before = {path.name: path.read_bytes() for path in golden.iterdir()}

    with pytest.raises(AssertionError):
        assert_matches_golden(make(0.25), golden, data=SAMPLES)

    assert {path.name: path.read_bytes() for path in golden.iterdir()} == before


@pytest.mark.parametrize("samples", [INPUTS, {"input": INPUTS}, SAMPLES, INPUTS[:, :1]])
def test_executors_that_agree_pass(make: Make, samples: Any) -> None:
    assert_same_spikes(make(), samples)


@pytest.mark.parametrize(
    ("on", "reference"), [("fixedpoint:definition", None), (None, "fixedpoint")]
)
def test_an_executor_is_never_compared_with_itself(
    make: Make, on: str | None, reference: str | None
) -> None:
    options = {} if reference is None else {"reference": reference}

    with pytest.raises(AssertionError, match="two executors are needed, .* compared with itself"):
        assert_same_spikes(make(), INPUTS, on=on, **options)


def test_an_executor_that_errs_fails_with_the_place(make: Make) -> None:
    program = make()

    class Wrong:
        def run(self, payloads: Any, *, record: Any = (), **_rest: Any) -> Any:
            from neurocompile_fixedpoint.definition import execute

            trace = execute(program.network, payloads, samples=2, steps=3, record=record)
            trace.spikes["lif"][1, 0, 1] ^= 1
            return trace

        def close(self) -> None: ...

    program._executors["fixedpoint"] = Wrong()

    with pytest.raises(AssertionError) as raised:
        assert_same_spikes(program, INPUTS)

    assert "sample 1, step 0, 'lif', neuron 1: 1, fixedpoint:definition has 0" in str(raised.value)


def test_a_verification_is_asserted_and_returned(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurocompile import api
    from neurocompile.verification.report import BudgetResult, Comparison, Divergence, Report

    asked: dict[str, Any] = {}
    layers = ()
    first = Divergence(3, 1, "lif", 7, 1, 0, 0.5, 1.0)
    failing = Comparison("fixedpoint", "loihi2", True, layers, 10, 2, 4.0, first)
    passing = Comparison("float", "fixedpoint", False, layers, 10, 5, 4.0, first)
    budget = BudgetResult(
        "max_mismatch", 0.005, 0.01, None, True, "mismatches are 1 %, above 0.5 %"
    )
    good = Report("loihi2", 8, 3, (), (passing,), passing, {}, {})
    bad = Report("loihi2", 8, 3, (), (passing, failing), passing, {}, {}, budgets=(budget,))
    answers = iter([good, bad])

    def verify(_program: Program, **options: Any) -> Report:
        asked.update(options)
        return next(answers)

    monkeypatch.setattr(api, "verify", verify)

    assert assert_verifies(make(), data=SAMPLES, max_mismatch=0.005) is good
    assert asked == {"data": SAMPLES, "max_mismatch": 0.005}
    with pytest.raises(AssertionError) as raised:
        assert_verifies(make(), data=SAMPLES)
    assert str(raised.value).splitlines() == [
        "'loihi2' on 8 samples of 3 steps",
        "fixedpoint / loihi2: 0 of 0 spikes and 2 of 10 output values differ, which must not",
        "  first difference: sample 3, step 1, 'lif', neuron 7: 0, fixedpoint has 1",
        "mismatches are 1 %, above 0.5 %",
    ]


def test_a_verification_that_fails_tells_the_cause_where_it_is_known() -> None:
    from neurocompile.verification.report import (
        BudgetResult,
        Cause,
        Comparison,
        Contribution,
        Divergence,
        Examination,
        MembraneTrace,
        Report,
    )

    at = Divergence(2, 1, "lif", 5, 1, 0, 0.9, 1.0)
    trace = MembraneTrace((1.1,), (0.9,), 1.0, 1.0, (1,), (0,))
    moved = (
        Contribution("bias", -0.01),
        Contribution("weights", -0.2),
        Contribution("inputs", 0.0),
        Contribution("decay", 0.01),
    )
    cause = Cause("float", "quantised", at, 0.1, -0.1, moved, trace)
    passing = Comparison("float", "fixedpoint", False, (), 10, 5, 4.0, at)
    budget = BudgetResult("max_mismatch", 0.0, 0.1, None, True, "too many")
    report = Report(
        "fixedpoint", 8, 3, (), (passing,), passing, {}, {},
        budgets=(budget,), examination=Examination((2,), causes=(cause,)),
    )  # fmt: skip

    lines = list(testing._lines_of_report(report))

    assert lines[1] == "too many"
    assert lines[2].startswith("cause in 'lif', float / quantised, at sample 2, step 1, neuron 5: ")
    assert lines[2].endswith("moved by weights by -0.2, bias by -0.01, decay by +0.01")


def test_workers_of_other_processes_tell_what_they_stored(updating: testing.Session) -> None:
    updating.stored.append("a")
    output: dict[str, Any] = {}
    config = SimpleNamespace(workeroutput=output)
    pytest_plugin.pytest_sessionfinish(SimpleNamespace(config=config))  # type: ignore[arg-type]
    updating.stored = []

    workers = pytest_plugin._Workers()
    workers.pytest_testnodedown(SimpleNamespace(workeroutput=output))
    workers.pytest_testnodedown(SimpleNamespace())  # one that crashed

    assert updating.stored == ["a"]


# A project of its own


@dataclass(frozen=True)
class Project:
    """A directory with tests of somebody else, and what running them printed."""

    root: Path

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name != "CI" and not name.startswith(("PYTEST", "COV"))
        }
        own = {**inherited, "PYTHONPATH": _offering(self.root), "NO_COLOR": "1", **environment}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            cwd=self.root / "tests",  # not the root: paths must not depend on it
            env=own,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


def _offering(root: Path) -> str:
    """Return a PYTHONPATH that offers the plugin as an installed package would, where it is too old to."""
    offered = [
        entry.value for entry in entry_points(group="pytest11") if "neurocompile" in entry.value
    ]
    if not offered:
        metadata = root / "installed" / "neurocompile_plugin-0.dist-info"
        metadata.mkdir(parents=True, exist_ok=True)
        (metadata / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: neurocompile-plugin\nVersion: 0\n"
        )
        (metadata / "entry_points.txt").write_text(
            "[pytest11]\nneurocompile = neurocompile.pytest_plugin\n"
        )
        return str(root / "installed")
    return ""


@pytest.fixture
def project(make: Make, tmp_path: Path) -> Project:
    root = tmp_path / "project"
    (root / "tests").mkdir(parents=True)
    (root / "pyproject.toml").write_text(
        '[project]\nname = "toy"\nversion = "1"\n\n'
        '[tool.pytest.ini_options]\ntestpaths = ["tests"]\nfilterwarnings = ["error"]\n'
    )
    (root / "tests" / "test_deployed.py").write_text(
        "from neurocompile.testing import assert_matches_golden\n\n"
        "def test_spikes(neurocompile_program):\n"
        '    assert neurocompile_program("deploy/program").target == "fixedpoint"\n'
        '    assert_matches_golden("deploy/program", "deploy/golden")\n'
    )
    make().save(root / "deploy" / "program")
    write_golden(make(), source_of_samples(SAMPLES, "by hand"), root / "deploy" / "golden")
    return Project(root)


def test_a_project_of_its_own_is_green_then_red_then_updated(project: Project, make: Make) -> None:
    code, text = project.run()
    assert (code, "1 passed" in text) == (0, True), text

    make(0.25).save(project.root / "deploy" / "program")
    code, text = project.run()
    assert code == 1, text
    assert "first difference: sample 0, step 1, 'lif', neuron 1: 0, the golden has 1" in text
    assert "the program changed since: synapses 'fc'" in text
    assert "pytest --neurocompile-update-golden" in text
    assert "neurocompile/testing.py" not in text  # the traceback ends in the user's own line

    code, text = project.run("--neurocompile-update-golden", CI="true")
    assert code == 4
    assert "--neurocompile-update-golden is refused in CI (the environment has CI=true)" in text

    code, text = project.run("--neurocompile-update-golden")
    assert code == 0, text
    golden = project.root / "deploy" / "golden"
    assert f"stored the golden again, nothing was compared: {golden}" in text

    code, text = project.run()
    assert code == 0, text
    assert "stored the golden" not in text


def test_what_is_missing_is_told_without_a_line_of_the_library(project: Project) -> None:
    (project.root / "deploy" / "golden" / "golden.npz").unlink()
    with (project.root / "tests" / "test_deployed.py").open("a") as file:
        file.write(
            "\n\ndef test_no_golden():\n"
            '    assert_matches_golden("deploy/program", "deploy/none")\n'
            "\n\ndef test_no_program():\n"
            '    assert_matches_golden("deploy", "deploy/golden")\n'
            "\n\ndef test_no_program_to_read(neurocompile_program):\n"
            '    neurocompile_program("deploy")\n'
        )

    code, text = project.run()

    assert code == 1
    assert "4 failed" in text
    assert "needs the file 'golden.npz', but it is missing: restore it" in text
    assert "there is no golden 'deploy/none'" in text
    assert text.count("deploy' is not a program directory") >= 2
    # Each traceback ends in the user's own line.
    for place in ("contextlib", "neurocompile/testing.py", "neurocompile/program.py", "plugin.py:"):
        assert place not in text


def test_the_plugin_imports_nothing_heavy(project: Project) -> None:
    (project.root / "tests" / "test_deployed.py").write_text(
        "import sys\n\n"
        "def test_nothing():\n"
        '    heavy = {"numpy", "torch", "h5py", "nir", "click", "rich"} & {*sys.modules}\n'
        "    assert not heavy\n"
        '    assert "neurocompile.pytest_plugin" in sys.modules\n'
    )

    code, text = project.run()

    assert code == 0, text
