"""
Record the frameworks again, in their environments: `make conformance`.

The committed recordings must come out again. Then all are recorded from another seed, and the tests of
recordings run on those: exported, run in the framework, imported here and compared.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ENVIRONMENTS = {
    "torch": ("snntorch", "norse", "spikingjelly"),
    "synsense": ("sinabs", "rockpool"),
    "spyx": ("spyx",),
}


def record(environments: Path, folder: Path, seed: int) -> None:
    """Let every recorder write into `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    for environment, frameworks in ENVIRONMENTS.items():
        python = environments / environment / "bin/python"
        for framework in frameworks:
            script = HERE / f"record/with_{framework}.py"
            command = [str(python), "-W", "ignore", str(script), str(folder), "--seed", str(seed)]
            subprocess.run(command, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})


def differences(committed: Path, again: Path) -> list[str]:
    """Return what two folders of recordings do not have in common."""
    names = {path.relative_to(folder) for folder in (committed, again) for path in _files(folder)}
    return [line for name in sorted(names) for line in _difference(committed / name, again / name)]


def _files(folder: Path) -> list[Path]:
    return list(folder.glob("*/*.npz"))


def _difference(one: Path, other: Path) -> list[str]:
    label = f"{one.parent.name}/{one.stem}"
    for path in (one, other):
        if not path.is_file():
            return [f"{label} is missing in {path.parents[1]}"]
    with np.load(one) as first, np.load(other) as second:
        if set(first) != set(second):
            return [f"{label} holds {sorted(set(first) ^ set(second))} only once"]
        return [f"{label}: '{key}' differs" for key in first if not _equal(first[key], second[key])]


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)


def main() -> None:
    """Record, compare, record others, test those."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "environments", type=Path, help="the folder of the frameworks' environments"
    )
    parser.add_argument("--seed", type=int, help="of the other networks; drawn if it is not given")
    options = parser.parse_args()
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed

    record(options.environments, options.environments / "again", 0)
    found = differences(HERE / "recordings", options.environments / "again")
    if found:
        raise SystemExit("\n".join(["the committed recordings do not come out again:", *found]))

    live = options.environments / "live"
    print(f"seed {seed} (again: make conformance SEED={seed})", flush=True)
    record(options.environments, live, seed)
    tests = [sys.executable, "-m", "pytest", str(HERE / "test_recorded.py")]
    chosen = {**os.environ, "NEUROCOMPILE_RECORDINGS": str(live.resolve())}
    raise SystemExit(subprocess.run(tests, check=False, env=chosen).returncode)


if __name__ == "__main__":
    main()
