"""
Compile the network into program/, and record what it must fire in golden/.

    python make_program.py                  # program/ alone: the build that the tests look at
    python make_program.py --golden         # golden/ too, as at first
    python make_program.py --weight-bits 3  # a change that is not meant to: `pytest` then fails

golden/ is committed, program/ is not.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import nir
import numpy as np

import neurocompile

HERE = Path(__file__).parent
STEPS, INPUTS, HIDDEN, CLASSES = 12, 16, 24, 3
DT = 1e-3


def network() -> nir.NIRGraph:
    """Return two layers of leaky neurons; a file of your training would stand here."""
    generator = np.random.default_rng(0)

    def neurons(count: int) -> nir.LIF:
        full = np.ones(count)
        return nir.LIF(
            tau=4 * DT * full, r=4 * full, v_leak=0 * full, v_threshold=full, v_reset=0 * full
        )

    return nir.NIRGraph(
        nodes={
            "input": nir.Input({"input": np.array([INPUTS])}),
            "fc1": nir.Affine(
                weight=generator.normal(scale=0.5, size=(HIDDEN, INPUTS)),
                bias=generator.normal(scale=0.1, size=HIDDEN),
            ),
            "lif1": neurons(HIDDEN),
            "fc2": nir.Linear(weight=generator.normal(scale=0.5, size=(CLASSES, HIDDEN))),
            "lif2": neurons(CLASSES),
            "output": nir.Output({"output": np.array([CLASSES])}),
        },
        edges=[
            ("input", "fc1"),
            ("fc1", "lif1"),
            ("lif1", "fc2"),
            ("fc2", "lif2"),
            ("lif2", "output"),
        ],
    )


def recorded() -> np.ndarray:
    """Return spikes (samples, steps, inputs) to record the network on; real ones would stand here."""
    return np.random.default_rng(1).integers(0, 2, (8, STEPS, INPUTS)).astype(np.float32)


def main(weight_bits: int, *, golden: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "network.nir"
        nir.write(file, network())
        program = neurocompile.export(
            file,
            target="fixedpoint",
            weight_bits=weight_bits,
            steps=STEPS,
            profile="literal",
            dt=DT,
            output=HERE / "program",
        )
    if golden:
        from neurocompile.data import Samples
        from neurocompile.samples import source_of_samples
        from neurocompile.verification.golden import write_golden

        source = source_of_samples(Samples(recorded(), None))
        write_golden(program, source, HERE / "golden", samples=8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compile the network into program/.")
    parser.add_argument("--golden", action="store_true", help="record golden/ too")
    parser.add_argument("--weight-bits", type=int, default=8)
    options = parser.parse_args()
    main(options.weight_bits, golden=options.golden)
