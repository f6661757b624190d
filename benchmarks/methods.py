"""
Every training method, for a few epochs on digits: that it learns, and what it costs beside TET.

This says that each method works here, not which one is better: on 360 test images one image is 0.28 %, and
a few epochs are no training. The papers' comparisons need their data.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import (
    RESULTS,
    Claim,
    Others,
    Section,
    keep_to_threads,
    machine,
    report,
    table,
    write_report,
)

import neurocompile

EPOCHS, SEEDS = 8, (0, 1, 2)
LONGEST = 16  # steps that a network trained with 4 is shown
LEARNT = 90.0  # % that every method must reach; guessing is 10 %

SDT = ("loss.name=sdt", "loss.mse_weight=0")
METHODS: Mapping[str, Sequence[str]] = {
    "TET": (),
    "SDT": SDT,
    "SDT, then TET": (*SDT, f"loss.switch_epoch={EPOCHS // 2}", "loss.switch_to=tet"),
    "TET without MSE": ("loss.mse_weight=0",),
    "rectangle": ("surrogate.name=rectangle",),
    "exponential": ("surrogate.name=exponential",),
    "sigmoid surrogate": ("surrogate.name=sigmoid",),
    "arctan": ("surrogate.name=arctan",),
    "fast sigmoid": ("surrogate.name=fast-sigmoid",),
    "Dspike": ("surrogate.name=dspike",),
    "Dspike with FDG": ("surrogate.name=dspike", "surrogate.adapt={}"),
    "MSG, p = 0.2": ("mask.probability=0.2",),
    "MSG, p = 0.5": ("mask.probability=0.5",),
    "TWO": (*SDT, "two.start_epoch=1"),
    "MSG and TWO": (*SDT, "mask.probability=0.2", "two.start_epoch=1"),
    "TET and TWO": ("two.start_epoch=1",),
    "tdBN": ("normalisation.kind=tdbn",),
    "tdBN by initial weights": ("normalisation.kind=tdbn-init",),
    "IF neurons": ("neuron.kind=if",),
    "learnt leak": ("neuron.learn_tau=true",),
    "detached reset": ("neuron.detach_reset=true",),
    "true sigmoid (ablation)": ("neuron.activation=sigmoid",),
    "TIT, T = 2 to 4": ("timesteps=2", f'phases=[{{"epochs":{EPOCHS // 4},"timesteps":4}}]'),
    "4-bit weights (QAT)": (
        f'phases=[{{"epochs":{EPOCHS // 4},"weight_bits":4,"learning_rate":1e-3}}]',
    ),
}


def train(overrides: Sequence[str], seed: int, epochs: int, directory: Path) -> dict[str, Any]:
    """Train on digits and return the run's metrics."""
    result = neurocompile.train(
        preset="digits", epochs=epochs, seed=seed, overrides=overrides, output=directory
    )
    return result.metrics


def measure_methods(
    methods: Mapping[str, Sequence[str]], epochs: int, seeds: Sequence[int], scratch: Path
) -> Section:
    """Train by each of `methods`; they take turns, so that a slow minute slows all of them."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    for seed in seeds:
        for number, (name, overrides) in enumerate(methods.items()):
            runs[name].append(train(overrides, seed, epochs, scratch / f"{number}-{seed}"))
    rows, data = [], {}
    usual = statistics.median(run["seconds"] for run in runs["TET"])
    for name, its in runs.items():
        last = [100 * run["test_accuracy"]["last"] for run in its]
        moments = [100 * run["accuracy_per_moment"][0] for run in its]
        cost = statistics.median(run["seconds"] for run in its) / usual
        data[name] = {"last": last, "first_moment": moments, "cost": cost}
        rows.append(
            (
                name,
                f"{statistics.mean(last):.2f}",
                f"{min(last):.2f} to {max(last):.2f}",
                f"{statistics.mean(moments):.1f}",
                f"{cost:.2f}",
            )
        )
    claims = [
        Claim(f"{name}, its worst seed", min(data[name]["last"]), " %", least=LEARNT)
        for name in methods
    ]
    return Section(
        "Methods",
        f"Preset digits, {epochs} epochs, seeds {', '.join(map(str, seeds))}; test accuracy after the last "
        "epoch, that of the first step alone, and the time beside TET's.",
        table(("method", "accuracy (%)", "seeds", "step 1 (%)", "time"), rows),
        data,
        claims,
    )


def measure_scalability(epochs: int, seeds: Sequence[int], longest: int, scratch: Path) -> Section:
    """Show networks that were trained with 4 steps up to `longest`, without training them further."""
    shown = [steps for steps in (1, 2, 4, 8, 16, 32, 64) if steps <= longest]
    rows, data = [], {}
    for name in ("TET", "SDT"):
        evaluations = []
        for seed in seeds:
            directory = scratch / f"{name}-{seed}"
            train(METHODS[name], seed, epochs, directory)
            evaluations.append(neurocompile.evaluate(directory, steps=longest).to_json())
        means = [
            statistics.mean(100 * each["cumulative"][steps - 1] for each in evaluations)
            for steps in shown
        ]
        variance = statistics.mean(each["variance"] for each in evaluations)
        data[name] = {"accuracy": dict(zip(shown, means, strict=True)), "variance": variance}
        rows.append((name, *(f"{mean:.2f}" for mean in means), f"{variance:.3f}"))
    return Section(
        "More steps than in training",
        "Trained with T = 4, shown T' steps in one pass: accuracy (%) of the mean read-out up to T', and the "
        "variance of the accuracies (%) of the single steps from 5 to 8 (TET, Table 4).",
        table(("loss", *(f"T' = {steps}" for steps in shown), "variance"), rows),
        data,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch; writes nothing")
    options = parser.parse_args(arguments)
    keep_to_threads()
    others = Others()
    epochs, seeds = (1, SEEDS[:1]) if options.quick else (EPOCHS, SEEDS)
    names = list(METHODS)[:2] if options.quick else list(METHODS)
    with tempfile.TemporaryDirectory() as scratch:
        sections = [
            measure_methods(
                {name: METHODS[name] for name in names}, epochs, seeds, Path(scratch, "methods")
            ),
            measure_scalability(epochs, seeds, LONGEST, Path(scratch, "scalability")),
        ]
    measured = machine()
    page = report(
        "Training methods",
        "Written by `make bench-methods`. "
        + __doc__.strip().partition("\n\n")[2].replace("\n", " "),
        sections,
        measured,
        others.share(),
    )
    write_report(None if options.quick else RESULTS, "methods", page, sections, measured)


if __name__ == "__main__":
    main()
