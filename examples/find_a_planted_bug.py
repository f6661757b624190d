"""
Plant a bug in a compiled network twice, and let `verify` find it: which layer, which neuron, and why.

    python examples/find_a_planted_bug.py

First the integers are right, but what was lowered for the chip is not: one neuron's weights have the wrong
sign there. Integers may not differ in a single spike, so verify fails, and the first spike that differs names the
neuron.

Then the integers themselves are wrong, in the same way. Chip and integers agree, and rounding makes some
spikes differ from the float network's anyhow, so it takes a floor to fail. Each layer's *own* error tells where: all
layers behind the bug fire differently, but run on the right input spikes, only the one with the bug does. And its
weights are off by more than rounding explains, which the cause of its first differing spike says.

The network is the one that snnTorch trained, in snntorch_model/.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np

import neurocompile
from neurocompile.data import InputRange
from neurocompile.program import Program
from neurocompile.tensors import npz_bytes
from neurocompile.verification.report import Cause, Report

MODEL = Path(__file__).with_name("snntorch_model")
TEST = str(MODEL / "test.npz")
CHIP_NEURON, NEURON = 3, 20  # of 10 in the layer 'lif2', of 48 in the layer 'lif1'
MOST = 0.005  # of all places (sample, step, neuron) may differ between the float network and the integers


def export(target: str) -> Program:
    """Return the network's program, as yet without bugs."""
    return neurocompile.export(
        MODEL / "network.nir",
        target=target,
        profile="snntorch",
        reset="subtract",
        reset_at="next",
        input_range=InputRange(0, 1, 1 / 16),
        steps=10,
    )


def wrong_on_the_chip(program: Program) -> Program:
    """Return `program` with a wrong sign in what the chip is given, and only there."""
    with np.load(io.BytesIO(program.extra_files["loihi2.npz"])) as file:
        arrays = dict(file)
    weights = arrays["weight/fc2"].copy()
    weights[CHIP_NEURON] *= -1
    lowered = npz_bytes({**arrays, "weight/fc2": weights})
    return replace(program, extra_files={**program.extra_files, "loihi2.npz": lowered})


def wrong_in_the_integers(program: Program) -> Program:
    """Return `program` with a wrong sign in its integers, which every target gets."""

    def flipped(weights: np.ndarray) -> np.ndarray:
        weights = weights.copy()
        weights[NEURON] *= -1
        return weights

    groups = tuple(
        replace(group, weight=flipped(group.weight)) if group.target == "lif1" else group
        for group in program.network.synapses
    )
    return replace(program, network=replace(program.network, synapses=groups))


def find_on_the_chip() -> Report:
    """Show that integers which differ fail, and where they start to."""
    with export("loihi2") as right:
        wrong = wrong_on_the_chip(right)
        with wrong:
            report = neurocompile.verify(wrong, data=TEST, samples=20, examine=0)
    pair = report.between("fixedpoint", "loihi2")
    first = pair.first_divergence
    assert first is not None
    print("a wrong sign on the chip:")
    for layer in pair.layers:
        print(f"  fixedpoint / loihi2, layer '{layer.name}': {layer.mismatches} spikes differ")
    print(
        f"  first: sample {first.sample}, step {first.step}, layer '{first.layer}', neuron {first.neuron}; "
        f"verify {'fails' if report.failed else 'passes'}"
    )
    return report


def find_in_the_integers() -> tuple[Report, Report]:
    """Show that a layer's own error finds a bug which all stages of integers share; before, after."""
    reports = []
    with export("fixedpoint") as right:
        for title, program in (("right", right), ("wrong", wrong_in_the_integers(right))):
            with program:
                report = neurocompile.verify(program, data=TEST, examine=100, max_mismatch=MOST)
            reports.append(report)
            print(f"{title} integers: verify {'fails' if report.failed else 'passes'}")
            for budget in report.budgets:
                print(f"  {budget.text}")
            assert report.examination is not None
            for layer in report.examination.blame:
                print(
                    f"  layer '{layer.name}': {layer.total.value:.3%} of its places differ, "
                    f"own error {layer.own.value:.3%}, inherited {layer.inherited.value:.3%}"
                )
    cause = why(reports[1], "lif1")
    first = cause.divergence
    print(
        f"  first in '{first.layer}': sample {first.sample}, step {first.step}, neuron {first.neuron}; "
        f"its margin moved from {cause.margin_reference:.3f} to {cause.margin_candidate:.3f}:"
    )
    for item in cause.contributions:
        print(f"    {item.amount:+.3f} by {item.cause}")
    print(f"  {cause.note}")
    return reports[0], reports[1]


def why(report: Report, layer: str) -> Cause:
    """Return why the first differing spike of `layer` differs, float against the integers."""
    assert report.examination is not None
    return next(
        cause
        for cause in report.examination.causes
        if cause.divergence.layer == layer and cause.reference == "float"
    )


def main() -> None:
    report = find_on_the_chip()
    first = report.between("fixedpoint", "loihi2").first_divergence
    assert report.failed
    assert first is not None
    assert (first.layer, first.neuron) == ("lif2", CHIP_NEURON)

    before, after = find_in_the_integers()
    assert before.examination is not None
    assert after.examination is not None
    worst = after.examination.blame[0]
    own_before = {layer.name: layer.own.count for layer in before.examination.blame}
    own_after = {layer.name: layer.own.count for layer in after.examination.blame}
    assert not before.failed
    assert after.failed
    assert worst.name == "lif1"
    assert own_after["lif1"] > 10 * own_before["lif1"]
    assert (
        own_after["lif2"] == own_before["lif2"]
    )  # it fires differently, and is as right as before
    cause = why(after, "lif1")
    assert cause.divergence.neuron == NEURON
    assert "points at a bug" in cause.note
    assert why(before, "lif1").note == ""


if __name__ == "__main__":
    main()
