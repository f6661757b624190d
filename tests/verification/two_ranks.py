"""
What `test_ranks.py` starts twice: each counts its part of the samples in a folder.

Each leaves in `<labels>-<rank>.npz` what it got in the end, or in `<labels>-<rank>.txt` why there is
nothing. With "dies" for labels the second process ends in the middle.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from neurocompile.data import Samples
from neurocompile.errors import NeurocompileError
from neurocompile.integer import Integer
from neurocompile.program import load
from neurocompile.samples import SampleSource
from neurocompile.target import Progress
from neurocompile.verification import stream
from neurocompile.verification.ranks import ranks_here
from neurocompile.verification.resume import remove_kept
from neurocompile.verification.stages import Runner, plan_of
from neurocompile.verification.wire import to_bytes

DIES = "dies"


def count(folder: Path, kind: str) -> None:
    """Count with the labels `kind` of the folder's samples, 6 samples at once."""
    ranks = ranks_here()
    stream.AT_ONCE = 6
    with np.load(folder / "samples.npz") as file:
        samples = Samples(file["input"], file["label" if kind == DIES else kind])
    told: list[str] = []

    def fetch(indices: Integer) -> Samples:
        if kind == DIES and not ranks.first and len(indices) == stream.AT_ONCE:
            os._exit(5)
        return samples.at(indices)

    def progress_of(stage: str) -> Progress:
        told.append(stage)
        return lambda _done, _of: None

    with load(folder / "program") as program:
        try:
            found = stream.count_all(
                Runner(program, plan_of(program)),
                SampleSource("", len(samples.inputs), fetch),
                progress_of=progress_of,
                state=folder / "state",
            )
        except NeurocompileError as error:
            (folder / f"{kind}-{ranks.rank}.txt").write_text(f"{type(error).__name__}: {error}")
            return
    if ranks.first:
        remove_kept(folder / "state")
    assert bool(told) == ranks.first
    (folder / f"{kind}-{ranks.rank}.npz").write_bytes(to_bytes(found))


if __name__ == "__main__":
    for labels in sys.argv[2:]:
        count(Path(sys.argv[1]), labels)
