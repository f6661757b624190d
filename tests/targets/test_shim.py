"""The import shim: it changes what it says, and nothing where Lava runs as it is."""

from __future__ import annotations

import subprocess
import sys

import pytest
from neurocompile_loihi2.interpreter import probe

STAYS = """
import dataclasses, numpy
before = dataclasses.dataclass, numpy.reshape
from neurocompile_loihi2 import shim
shim.install()
assert (dataclasses.dataclass, numpy.reshape) == before
try:
    @dataclasses.dataclass
    class Holder:
        items: list = []
except ValueError:
    print("as strict as before")
"""


@pytest.mark.lava
def test_a_worker_says_what_was_changed() -> None:
    found = probe(sys.executable)

    assert found["lava-nc"] == "0.10.0"
    assert bool(found["shim"]) == (sys.version_info >= (3, 11))


@pytest.mark.lava
def test_dataclasses_and_numpy_are_left_as_they_were() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STAYS], capture_output=True, text=True, check=False
    )

    assert done.stdout.strip() == "as strict as before", done.stderr
