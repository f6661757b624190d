r"""
Train a spiking network on handwritten digits, put it on Loihi 2, prove what it fires there, and keep the proof.

    python examples/train_and_deploy.py FOLDER            # a few minutes
    python examples/train_and_deploy.py FOLDER --quick    # seconds, a smaller network on fewer images

FOLDER then holds the training run, the program for the chip, report.html with everything that was compared,
and golden/, which a test of your project holds later builds to (see regression_test/). The commands are

    neurocompile train  --preset digits -o FOLDER/run
    neurocompile check  FOLDER/run --target loihi2
    neurocompile export FOLDER/run --target loihi2 -o FOLDER/program
    neurocompile verify FOLDER/program --input digits:test --report FOLDER/report \
                        --max-mismatch 5% --min-accuracy 90% --max-accuracy-drop 5% --golden FOLDER/golden
    neurocompile verify FOLDER/program --golden FOLDER/golden
"""

from __future__ import annotations

import sys
from pathlib import Path

import neurocompile
from neurocompile.data import DataOptions
from neurocompile.page import write_page
from neurocompile.samples import open_source
from neurocompile.verification.golden import replay_golden, write_golden

QUICK = [
    'network.stages=[{"channels":8,"kernel":3,"pool":2},{"channels":16,"kernel":3,"pool":2}]',
    "epochs=8",
]
DATA = "digits:test"


def main(folder: Path, *, quick: bool) -> float:
    """Return the accuracy on the chip's integers."""
    run = folder / "run"
    neurocompile.train(preset="digits", overrides=QUICK if quick else [], output=run)

    check = neurocompile.check(run, target="loihi2")
    assert not check.problems, [str(found.problem) for found in check.problems]

    with neurocompile.export(run, target="loihi2", output=folder / "program") as program:
        report = neurocompile.verify(
            program,
            data=DATA,
            samples=60 if quick else None,
            max_mismatch=0.05,  # of all places (sample, step, neuron), PyTorch against the chip
            min_accuracy=0.9,
            max_accuracy_drop=0.05,
        )
        for comparison in report.comparisons:
            print(
                f"{comparison.reference} / {comparison.candidate}: "
                f"spikes differ at {comparison.mismatches} of {comparison.slots} places"
            )
        for budget in report.budgets:
            print(budget.text)
        write_page(report, folder / "report.html")
        assert not report.failed, "integers fire different spikes, or a floor was missed"
        write_golden(program, open_source(DATA, DataOptions()), folder / "golden")

    # Later, perhaps on another machine: numpy is enough for this.
    with neurocompile.load(folder / "program") as program:
        replay = replay_golden(program, folder / "golden")
    print(*replay.lines(), sep="\n")
    assert not replay.failed
    return report.accuracy["loihi2"]


if __name__ == "__main__":
    folders = [argument for argument in sys.argv[1:] if argument != "--quick"]
    if len(folders) != 1:
        sys.exit("usage: python train_and_deploy.py FOLDER [--quick]")
    main(Path(folders[0]), quick="--quick" in sys.argv[1:])
