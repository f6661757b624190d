"""Which Python runs Lava: this one, or the one that `NEUROCOMPILE_LAVA_PYTHON` names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import neurocompile
import neurocompile_loihi2
from neurocompile.errors import MissingDependencyError, Problem
from neurocompile.target import Availability

VARIABLE = "NEUROCOMPILE_LAVA_PYTHON"
PROBE_SECONDS = 60
LONGEST_SOCKET_FOLDER = 60  # a socket's path has 108 bytes, of which multiprocessing takes 40
INSTALL = (
    "pip install 'neurocompile[loihi2]'"
    if sys.version_info < (3, 11)
    else "pip install 'neurocompile[loihi2]' && pip install --no-deps --ignore-requires-python lava-nc==0.10.0"
)


def lava_python() -> str:
    """Return the interpreter for workers; raises `MissingDependencyError` if it cannot run Lava."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        if not os.access(chosen, os.X_OK):
            raise MissingDependencyError(
                Problem("", f"{VARIABLE} must name a Python", f"'{chosen}' cannot be run")
            )
        return chosen
    missing = [name for name in ("lava", "scipy", "networkx", "asteval") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            Problem(
                "",
                "running on 'loihi2' needs lava-nc 0.10.0",
                f"{', '.join(missing)} cannot be imported here",
                f"{INSTALL}, or name a Python that has it in {VARIABLE}",
            )
        )
    return sys.executable


def link_packages(directory: Path) -> None:
    """Make our two packages importable from `directory`, and nothing else of this environment."""
    for package in (neurocompile, neurocompile_loihi2):
        assert package.__file__ is not None
        folder = Path(package.__file__).parent
        (directory / folder.name).symlink_to(folder, target_is_directory=True)


def worker_environment(directory: Path) -> dict[str, str]:
    """Return the environment of a worker that runs in `directory`."""
    environment = {**os.environ, "PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
    if len(os.fsencode(directory)) < LONGEST_SOCKET_FOLDER:
        environment["TMPDIR"] = str(directory)  # multiprocessing's own folders go with the session
    return environment


def probe(python: str) -> dict[str, Any]:
    """
    Import Lava in `python` as a worker would, and return the versions found.

    Raises `MissingDependencyError` with the last line of what it said if that fails.
    """
    with tempfile.TemporaryDirectory(prefix="neurocompile-") as name:
        directory = Path(name)
        link_packages(directory)
        try:
            done = subprocess.run(
                [python, "-m", "neurocompile_loihi2.worker", "--probe"],
                cwd=directory,
                env=worker_environment(directory),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PROBE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MissingDependencyError(
                Problem("", f"'{python}' cannot import Lava ({error})", remedy=INSTALL)
            ) from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise MissingDependencyError(
            Problem("", f"'{python}' cannot import Lava ({said[-1]})", remedy=INSTALL)
        )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def availability() -> Availability:
    """Return whether Lava can be run, by really importing it in a child."""
    try:
        python = lava_python()
        found = probe(python)
    except MissingDependencyError as error:
        return Availability(False, str(error), error.problems[0].remedy)
    how = "through the import shim" if found["shim"] else "as it is"
    return Availability(
        True, f"lava-nc {found['lava-nc']} {how}, on Python {found['python']} ({python})"
    )
