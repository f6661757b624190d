"""What needs ONNX Runtime and numpy alone: the example, and the code of the page about ONNX."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neurocompile.data import InputRange, load_samples
from neurocompile.ir import LIF, Dense, Flatten, Network
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program
from neurocompile.reference import simulate
from neurocompile.target import find

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("sklearn")

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "onnx.md"
STEPS, HIDDEN = 4, 128
ALONE = """
import sys
for name in ("neurocompile", "onnx", "torch"):
    sys.modules[name] = None  # whoever imports it fails
sys.argv = sys.argv[1:]
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"), {"__name__": "__main__"})
"""


@pytest.fixture(scope="module")
def program(lif: Callable[..., LIF], chain: Callable[..., Network]) -> Program:
    """A classifier of digits: random features that spike, and a read-out by ridge regression."""
    train = load_samples("digits:train")
    assert isinstance(train.inputs, np.ndarray)
    assert train.labels is not None
    generator = np.random.default_rng(0)
    features = generator.normal(size=(HIDDEN, 64)) / 4
    nodes = {
        "flatten": Flatten(),
        "features": Dense(features, generator.normal(size=HIDDEN) / 8),
        "lif": lif((HIDDEN,)),
    }
    grey = InputRange(0, 1, 1 / 16)
    images = np.repeat(train.inputs, STEPS, axis=1)
    counts = simulate(chain((1, 8, 8), dict(nodes)), images).output.mean(1)
    wanted = np.eye(10)[train.labels]
    weight = np.linalg.solve(counts.T @ counts + np.eye(HIDDEN), counts.T @ wanted).T
    network = chain(
        (1, 8, 8),
        {**nodes, "readout": Dense(weight, np.zeros(10))},
        steps=STEPS,
        input_range=grey,
    )
    return compile_network(network, find("onnx"), CompileOptions(validate=False))


@pytest.fixture
def directory(program: Program, tmp_path: Path) -> Path:
    """The program's directory, with test images beside it."""
    program.save(tmp_path / "program")
    test = load_samples("digits:test")
    np.savez(tmp_path / "data.npz", input=np.asarray(test.inputs), label=np.asarray(test.labels))
    return tmp_path


def run_alone(directory: Path, code: Path, *arguments: str) -> str:
    """Return what `code` prints where neither neurocompile nor onnx can be imported."""
    command = [sys.executable, "-c", ALONE, str(code), *arguments]
    finished = subprocess.run(
        command, cwd=directory, check=False, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.skipif(
    not (ROOT / "examples").is_dir(), reason="the examples are not beside these tests"
)
def test_the_example_needs_neither_neurocompile_nor_onnx(directory: Path, program: Program) -> None:
    printed = run_alone(directory, ROOT / "examples" / "onnx_only.py", "program", "data.npz")

    test = load_samples("digits:test")
    found = re.match(r"([\d.]+) % of 360 samples, 4 steps", printed)
    assert found is not None
    with program:
        result = program.run(np.repeat(np.asarray(test.inputs), STEPS, axis=1))
    accuracy = float((program.decisions(result) == test.labels).mean())
    assert float(found[1]) == pytest.approx(100 * accuracy, abs=0.01)
    assert accuracy > 0.85


@pytest.mark.skipif(
    not (ROOT / "examples").is_dir(), reason="the examples are not beside these tests"
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage: python onnx_only.py PROGRAM [DATA.npz]"),
        (("nowhere",), "there is no nowhere"),
        ((".",), "'.' has no sequence.onnx"),
    ],
)
def test_the_example_says_what_it_misses(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    command = [sys.executable, str(ROOT / "examples" / "onnx_only.py"), *arguments]

    finished = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)

    assert finished.returncode == 1
    assert finished.stderr.startswith(message)


@pytest.mark.skipif(not PAGE.is_file(), reason="the documentation is not beside these tests")
def test_the_code_of_the_page_runs(directory: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    code = directory / "page.py"
    code.write_text("\n".join(blocks), encoding="utf-8")

    printed = run_alone(directory, code)

    assert len(blocks) >= 2
    assert "the same logits, step by step" in printed
    assert "[10 classes] accuracy" in printed
