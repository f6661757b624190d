"""Where a run comes from: versions, command line and the state of the working directory's repository."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

GIT_DEADLINE = 5.0  # seconds
PACKAGES = ("neurocompile", "torch", "pytorch-lightning", "numpy", "torchvision", "tonic")


def provenance() -> dict[str, Any]:
    """Return `versions`, `command` and `git_commit` (None outside a repository) as plain values."""
    return {"versions": _versions(), "command": sys.argv, "git_commit": _commit()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    try:
        # reads one reference; of what a repository can configure, nothing is run
        done = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"],
            capture_output=True,
            text=True,
            timeout=GIT_DEADLINE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
