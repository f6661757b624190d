"""What an installed neurocompile promises: light imports, entry points, types, one command."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points, files
from importlib.resources import files as resources

HEAVY = (
    "torch",
    "nir",
    "h5py",
    "lava",
    "pytorch_lightning",
    "sklearn",
    "matplotlib",
    "pydantic",
    "click",
    "rich",
    "scipy",
    "onnx",
    "onnxruntime",
)

HOST = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
import neurocompile, neurocompile.program, neurocompile.errors
import neurocompile_loihi2.run, neurocompile_loihi2.lower, neurocompile_fixedpoint.run
import neurocompile_onnx.run, neurocompile_onnx.lower
print("light")
"""


def test_a_loihi_host_needs_numpy_only() -> None:
    done = subprocess.run([sys.executable, "-c", HOST], capture_output=True, text=True, check=False)

    assert done.stdout.strip() == "light", done.stderr


def test_importing_neurocompile_loads_nothing_heavy() -> None:
    code = "import sys, neurocompile; print(sorted(set(sys.modules) & {'torch', 'numpy', 'h5py', 'click'}))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_all_targets_are_found_by_entry_point() -> None:
    found = {entry.name: entry.value for entry in entry_points(group="neurocompile.targets")}

    assert found["fixedpoint"] == "neurocompile_fixedpoint.lower:TARGET"
    assert found["loihi2"] == "neurocompile_loihi2.lower:TARGET"
    assert found["onnx"] == "neurocompile_onnx.lower:TARGET"


def test_the_distribution_is_typed_and_claims_four_names_only() -> None:
    assert resources("neurocompile").joinpath("py.typed").is_file()
    assert resources("neurocompile_loihi2").joinpath("py.typed").is_file()
    assert resources("neurocompile_fixedpoint").joinpath("py.typed").is_file()
    assert resources("neurocompile_onnx").joinpath("py.typed").is_file()
    names = {path.parts[0] for path in files("neurocompile") or [] if path.suffix == ".py"}
    assert names <= {
        "neurocompile",
        "neurocompile_fixedpoint",
        "neurocompile_loihi2",
        "neurocompile_onnx",
    }


def test_python_m_neurocompile_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "neurocompile", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.startswith("neurocompile 0.")
