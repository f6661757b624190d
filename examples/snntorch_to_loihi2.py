r"""
Take a network that snnTorch trained and exported to NIR to Loihi 2, and prove what it fires there.

    python examples/snntorch_to_loihi2.py                # the network beside this file
    python examples/snntorch_to_loihi2.py FOLDER         # one that snntorch_model/train.py wrote, or yours

snnTorch itself is not needed: snntorch_model/ holds the file that its exporter wrote, 100 test images and the
spikes that snnTorch fired on them, made by train.py there. All that follows is what you do with a file of
your own.

A NIR file does not say which framework computes its neurons, nor how they reset, so that is said here:
`profile`, `dt`, `reset`, `reset_at`. The commands are

    neurocompile check  network.nir --target loihi2
    neurocompile export network.nir --target loihi2 --profile snntorch --dt 1e-4 --reset subtract \
                        --reset-at next --input-range 0:1:0.0625 --steps 10 -o program
    neurocompile verify program --input test.npz --report report
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import neurocompile
from neurocompile.data import InputRange
from neurocompile.frontend.from_nir import from_nir
from neurocompile.reference import simulate

RECORDED = Path(__file__).with_name("snntorch_model")
STEPS = 10
MEANT: dict[str, Any] = {
    "profile": "snntorch",
    "dt": 1e-4,  # what snnTorch's exporter divides by
    "reset": "subtract",  # Leaky's reset_mechanism
    "reset_at": "next",  # Leaky's reset_delay=True
}
GREY = InputRange(0, 1, 1 / 16)  # 17 levels of grey, which need not be rounded


def read_as_snntorch_runs_it(folder: Path) -> int:
    """Return in how many places the file, read so, fires other spikes than snnTorch itself did."""
    network = from_nir(folder / "network.nir", **MEANT).network
    with np.load(folder / "test.npz") as test:
        trace = simulate(network, test["input"])
    wrong = 0
    with np.load(folder / "spikes.npz") as recorded:
        for name, fired in recorded.items():
            count = int((trace.spikes[name] != fired).sum())
            print(
                f"snnTorch / float, layer '{name}': spikes differ at {count} of {fired.size} places"
            )
            wrong += count
    return wrong


def show_what_is_asked_for(folder: Path) -> None:
    """Print what `check` wants to know of the file, with and without its framework."""
    for profile in ("auto", "snntorch"):
        check = neurocompile.check(folder / "network.nir", target="loihi2", profile=profile)
        print(f"--profile {profile}:")
        for found in check.problems:
            if not found.assumed:  # others are behind what is asked for first
                print(f"  - {found.problem}")


def main(folder: Path = RECORDED, samples: int | None = None) -> dict[str, float]:
    """Return the spikes that differ, of snnTorch's and on the chip's simulator, and both accuracies."""
    show_what_is_asked_for(folder)
    misread = read_as_snntorch_runs_it(folder)
    with (
        tempfile.TemporaryDirectory() as scratch,
        neurocompile.export(
            folder / "network.nir",
            target="loihi2",
            input_range=GREY,
            steps=STEPS,
            output=Path(scratch) / "program",
            **MEANT,
        ) as program,
    ):
        report = neurocompile.verify(program, data=str(folder / "test.npz"), samples=samples)
    for comparison in report.comparisons:
        print(
            f"{comparison.reference} / {comparison.candidate}: "
            f"spikes differ at {comparison.mismatches} of {comparison.slots} places"
        )
    print(", ".join(f"{stage} {100 * right:.1f} %" for stage, right in report.accuracy.items()))
    assert not report.failed, "the chip's simulator and our integers fire different spikes"
    return {
        "misread": misread,
        "mismatches": report.between("fixedpoint", "loihi2").mismatches,
        "float": report.accuracy["float"],
        "loihi2": report.accuracy["loihi2"],
    }


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit("usage: python snntorch_to_loihi2.py [FOLDER]")
    main(Path(sys.argv[1]) if sys.argv[1:] else RECORDED)
