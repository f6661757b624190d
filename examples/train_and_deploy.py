"""
Train a spiking network on handwritten digits, put it on Loihi 2, and prove what it fires there.

    python examples/train_and_deploy.py            # a few minutes
    python examples/train_and_deploy.py --quick    # seconds, a smaller network on fewer images
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import neurocompile

QUICK = [
    'network.stages=[{"channels":8,"kernel":3,"pool":2},{"channels":16,"kernel":3,"pool":2}]',
    "epochs=8",
]


def main(*, quick: bool) -> float:
    """Return the accuracy on the chip's integers."""
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        neurocompile.train(preset="digits", overrides=QUICK if quick else [], output=run)
        with neurocompile.export(run, target="loihi2") as program:
            report = neurocompile.verify(program, data="digits:test", samples=60 if quick else None)
    for comparison in report.comparisons:
        print(
            f"{comparison.reference} / {comparison.candidate}: "
            f"{comparison.mismatches} of {comparison.slots} spikes differ"
        )
    print(report.accuracy)
    assert not report.failed, "the chip's simulator and our integers fire different spikes"
    return report.accuracy["loihi2"]


if __name__ == "__main__":
    main(quick="--quick" in sys.argv[1:])
