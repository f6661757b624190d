"""Every example runs, and its number holds."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import neurocompile

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "where_do_spikes_differ.ipynb"
DEADLINE = 240  # seconds for a child process, where machines are slow

pytestmark = pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason="the examples are not beside these tests"
)

Example = Mapping[str, Any]


@pytest.fixture
def example() -> Callable[[str], Example]:
    """Gives the names that an example defines."""
    return lambda name: runpy.run_path(str(EXAMPLES / name))


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python in `tmp_path`, or in another directory, and returns what came of it."""

    def run(*arguments: str | Path, cwd: Path = tmp_path, **more: str) -> Any:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **more},
            check=False,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    return run


@pytest.mark.lava
def test_train_and_deploy(example: Callable[[str], Example], tmp_path: Path) -> None:
    pytest.importorskip("plotly")

    accuracy = example("train_and_deploy.py")["main"](tmp_path, quick=True)

    assert accuracy > 0.9
    assert {path.name for path in tmp_path.iterdir()} == {"run", "program", "report.html", "golden"}


@pytest.mark.lava
def test_export_module(example: Callable[[str], Example]) -> None:
    assert example("export_module.py")["main"]() == 0


@pytest.mark.lava
def test_a_recorded_snntorch_network_fires_on_loihi_2_as_it_should(
    example: Callable[[str], Example], capsys: pytest.CaptureFixture[str]
) -> None:
    found = example("snntorch_to_loihi2.py")["main"]()

    assert found["misread"] == 0
    assert found["mismatches"] == 0
    assert found["loihi2"] >= found["float"] - 0.02 > 0.9
    printed = capsys.readouterr().out
    assert "choose with --profile" in printed
    assert "choose with --reset zero or --reset subtract" in printed


@pytest.mark.lava
def test_snntorch_itself_trains_exports_and_fires_the_same(
    example: Callable[[str], Example],
    child: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    if not find_spec("snntorch") or not find_spec("nirtorch"):
        pytest.skip("snnTorch is not installed")

    trained = child(EXAMPLES / "snntorch_model" / "train.py", tmp_path)

    assert trained.returncode == 0, trained.stderr
    found = example("snntorch_to_loihi2.py")["main"](tmp_path, samples=20)
    assert found["misread"] == 0
    assert found["mismatches"] == 0


def test_the_table_has_every_example() -> None:
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")]
    projects = [path.parent.name + "/" for path in EXAMPLES.glob("*/pyproject.toml")]

    assert len(files) >= 7
    assert [name for name in (*files, *projects) if f"[{name}](" not in table] == []


def test_the_recording_of_snntorch_is_small() -> None:
    files = {path.name: path.stat().st_size for path in (EXAMPLES / "snntorch_model").iterdir()}
    files.pop("__pycache__", None)

    assert sorted(files) == ["network.nir", "spikes.npz", "test.npz", "train.py"]
    assert sum(files.values()) < 120_000


@pytest.mark.lava
def test_a_bug_on_the_chip_is_found(
    example: Callable[[str], Example], capsys: pytest.CaptureFixture[str]
) -> None:
    names = example("find_a_planted_bug.py")

    report = names["find_on_the_chip"]()

    pair = report.between("fixedpoint", "loihi2")
    assert report.failed
    assert {layer.name: layer.mismatches > 0 for layer in pair.layers} == {
        "lif1": False,
        "lif2": True,
    }
    assert pair.first_divergence.neuron == names["CHIP_NEURON"]
    assert "verify fails" in capsys.readouterr().out


@pytest.mark.lava
def test_find_a_planted_bug(
    example: Callable[[str], Example], capsys: pytest.CaptureFixture[str]
) -> None:
    """The example asserts the layer and the neuron itself."""
    example("find_a_planted_bug.py")["main"]()

    printed = capsys.readouterr().out
    assert "right integers: verify passes" in printed
    assert "wrong integers: verify fails" in printed
    assert "by weights off by more than rounding" in printed


def test_a_bug_in_the_integers_ends_the_command_with_1(
    example: Callable[[str], Example],
    child: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    names = example("find_a_planted_bug.py")
    right = names["export"]("fixedpoint")
    right.save(tmp_path / "right")
    names["wrong_in_the_integers"](right).save(tmp_path / "wrong")

    def verify(program: str) -> int:
        options = ("--samples", "20", "--examine", "0", "--max-mismatch", "0.5%")
        done = child("-m", "neurocompile", "verify", program, "--input", names["TEST"], *options)
        assert "--max-mismatch 0.5 %" in done.stdout, done.stderr
        return int(done.returncode)

    assert verify("right") == 0
    assert verify("wrong") == 1


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project with a regression test, somewhere else."""
    ignored = shutil.ignore_patterns("program", "__pycache__", ".pytest_cache")
    return shutil.copytree(
        EXAMPLES / "regression_test", tmp_path / "regression_test", ignore=ignored
    )


def test_the_project_s_regression_test_passes_and_fails(
    project: Path, child: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    def build_and_test(*options: str) -> subprocess.CompletedProcess[str]:
        built = child("make_program.py", *options, cwd=project)
        assert built.returncode == 0, built.stderr
        return child("-m", "pytest", "-q", cwd=project)

    right = build_and_test()
    wrong = build_and_test("--weight-bits", "3")

    assert right.returncode == 0, right.stdout
    assert "1 passed" in right.stdout
    assert wrong.returncode == 1, wrong.stdout
    assert "first difference: sample 0, step 0, 'lif1', neuron 0" in wrong.stdout


def test_the_project_s_golden_is_what_it_records(
    project: Path, child: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """What is committed was made by the code that is shown."""
    file = project / "golden" / "golden.npz"
    with np.load(file) as arrays:
        committed = dict(arrays)

    made = child("make_program.py", "--golden", cwd=project)

    assert made.returncode == 0, made.stderr
    with np.load(file) as arrays:
        assert sorted(arrays) == sorted(committed)
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, committed[name])


def test_report_side_by_side(example: Callable[[str], Example], tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    small = 'network.stages=[{"channels":8,"kernel":3,"pool":2}]'
    neurocompile.train(preset="digits", epochs=2, overrides=[small], output=tmp_path / "run")

    reports = example("report_side_by_side.py")["main"](tmp_path / "run", tmp_path)

    differ = [report.between("float", "fixedpoint").mismatches for report in reports.values()]
    assert list(reports) == [8, 5, 3]
    assert differ == sorted(differ)
    assert 0 < differ[0] < differ[-1]
    pages = {path.name for path in tmp_path.glob("*.html")}
    assert pages == {"8-bit.html", "5-bit.html", "3-bit.html", "comparison.html"}
    text = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert all(f"{bits} bits" in text for bits in reports)


EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
try:
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
finally:
    nbformat.write(notebook, sys.argv[2])
"""


def test_the_notebook_runs(
    child: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """In a kernel of this Python, of which nothing is left behind in the user's folders."""
    for package in ("nbclient", "ipykernel", "matplotlib", "torch", "sklearn"):
        if not find_spec(package):
            pytest.skip(f"{package} is not installed")
    installed = child("-m", "ipykernel", "install", "--prefix", tmp_path / "jupyter")
    assert installed.returncode == 0, installed.stderr

    finished = child(
        *("-c", EXECUTE, NOTEBOOK, tmp_path / "executed.ipynb"),
        JUPYTER_PATH=str(tmp_path / "jupyter" / "share" / "jupyter"),
        JUPYTER_CONFIG_DIR=str(tmp_path / "config"),
        JUPYTER_DATA_DIR=str(tmp_path / "data"),
        JUPYTER_RUNTIME_DIR=str(tmp_path / "runtime"),
        IPYTHONDIR=str(tmp_path / "ipython"),
        TMPDIR=str(tmp_path),
    )

    assert finished.returncode == 0, finished.stderr[-4000:]
    executed = json.loads((tmp_path / "executed.ipynb").read_text(encoding="utf-8"))
    shown = "".join(
        "".join(output.get("text", ()))
        for cell in executed["cells"]
        for output in cell.get("outputs", ())
    )
    assert "float / fixedpoint" in shown
    pictures = sum(
        "image/png" in output.get("data", {})
        for cell in executed["cells"]
        for output in cell.get("outputs", ())
    )
    assert pictures >= 4


def test_the_notebook_is_committed_clean() -> None:
    """Nothing that running it leaves behind: outputs, counts, names of machines and versions."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))

    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
