"""
What the kernels of the compiled engine cost: the factors of `neurocompile_fixedpoint.plan.costs`, fitted.

One thread, one layer after the other, random spikes; least squares without negative factors. Writes
`benchmarks/results/kernels.md`.

    python benchmarks/kernels.py [--rounds 7]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from harness import (
    RESULTS,
    Others,
    Section,
    interleave,
    machine,
    report,
    table,
    timed,
    write_report,
)
from neurocompile_fixedpoint import kernels, plan
from neurocompile_fixedpoint.layout import Layout, lines_of, segments_of
from neurocompile_fixedpoint.tables import gather_arguments, scatter_arguments
from scipy.optimize import nnls

from neurocompile.integer import Geometry, conv_output

SAMPLES = 16
RATES = (0.05, 0.1, 0.2)
# Channels, size, outputs, kernel, stride.
LAYERS = (
    (1, 28, 16, 3, 1),
    (2, 48, 64, 3, 1),
    (16, 28, 32, 3, 2),
    (32, 14, 32, 3, 1),
    (64, 16, 128, 3, 1),
    (128, 8, 128, 5, 1),
    (256, 8, 256, 3, 1),
)


@dataclass(frozen=True)
class Case:
    """One layer at one rate: its two kernels, ready to run, and what their costs depend on."""

    name: str
    gather: Callable[[], float]
    scatter: Callable[[], float]
    gather_counts: tuple[float, ...]  # lines, synapses that transmit
    scatter_counts: tuple[float, ...]  # runs, synapses that transmit


def make_case(layer: tuple[int, ...], rate: float, generator: np.random.Generator) -> Case:
    channels, size, outputs, kernel, stride = layer
    padding = kernel // 2
    reach = conv_output(size, kernel, stride, padding, 1)
    source, target = Layout(channels, size, size), Layout(outputs, reach, reach)
    weight = generator.integers(-60, 61, (outputs, channels, kernel, kernel), np.int16)
    geometry = Geometry((stride,) * 2, (padding,) * 2)
    values = (generator.random((SAMPLES, source.size)) < rate).astype(np.uint8)
    events = np.zeros((SAMPLES, source.size), np.int32)
    for row, fired in zip(events, values, strict=True):
        row[: fired.sum()] = np.flatnonzero(fired)
    counts = values.sum(1, dtype=np.int64)
    by_unit = values.reshape(SAMPLES, source.units, -1).sum(2)
    starts = np.zeros((SAMPLES, source.units + 1), np.int32)
    starts[:, 1:] = by_unit.cumsum(1)
    sums = np.zeros((SAMPLES, target.size), np.int32)

    gathered = gather_arguments(lines_of(weight, geometry, source, target, kernels.WIDTHS))
    scattered = scatter_arguments(segments_of(weight, geometry, source, target))
    spikes = float(counts.mean())
    transmitted = spikes * outputs * kernel**2 / stride**2
    blocks = -(-outputs // max(kernels.WIDTHS))
    return Case(
        f"{channels}x{size}x{size}, {outputs}C{kernel}s{stride}, {rate:.0%}",
        timed(partial(kernels.gather, *(events, starts, values, False, *gathered, sums))),
        timed(partial(kernels.scatter, *(events, values, counts, False, *scattered, sums))),
        (target.pixels * kernel * blocks, transmitted),
        (spikes * kernel / stride, transmitted),
    )


def fitted(counts: list[tuple[float, ...]], nanoseconds: list[float]) -> list[float]:
    """Return the factors of `counts` that tell `nanoseconds` best, relative to each."""
    rows = np.array(counts) / np.array(nanoseconds)[:, np.newaxis]
    factors, _ = nnls(rows, np.ones(len(rows)))
    return [float(factor) for factor in factors]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    others, generator = Others(), np.random.default_rng(0)
    cases = [make_case(layer, rate, generator) for layer in LAYERS for rate in RATES]
    turns = {f"gather {case.name}": case.gather for case in cases}
    turns |= {f"scatter {case.name}": case.scatter for case in cases}
    seconds = interleave(turns, rounds)
    took = {name: times.median / SAMPLES * 1e9 for name, times in seconds.items()}
    gathering = [took[f"gather {case.name}"] for case in cases]
    scattering = [took[f"scatter {case.name}"] for case in cases]
    line, gathered = fitted([case.gather_counts for case in cases], gathering)
    run, scattered = fitted([case.scatter_counts for case in cases], scattering)
    factors = table(
        ("nanoseconds of", "measured", "assumed"),
        [
            ("a line of a pixel's window", f"{line:.3g}", f"{plan.LINE:g}"),
            ("a synapse that is gathered", f"{gathered:.3g}", f"{plan.GATHERED:g}"),
            ("a run that is scattered", f"{run:.3g}", f"{plan.RUN:g}"),
            ("a synapse that is scattered", f"{scattered:.3g}", f"{plan.SCATTERED:g}"),
        ],
    )
    by_layer = table(
        ("layer", "gather, microseconds", "scatter", "quicker", "chosen at 10 %"),
        [
            (
                case.name,
                f"{one / 1e3:.1f}",
                f"{other / 1e3:.1f}",
                "gather" if one <= other else "scatter",
                chosen(case),
            )
            for case, one, other in zip(cases, gathering, scattering, strict=True)
        ],
    )
    sections = [
        Section("Factors", "Least squares over all layers below.", factors, {}),
        Section("Layers", "One sample and step, one thread.", by_layer, took),
    ]
    measured = machine()
    page = report("Kernels", __doc__.strip().splitlines()[0], sections, measured, others.share())
    write_report(RESULTS, "kernels", page, sections, measured)


def chosen(case: Case) -> str:
    """Return what `plan.costs` prefers, by its own factors."""
    lines, heard = case.gather_counts
    runs, reached = case.scatter_counts
    gathering = lines * plan.LINE + heard * plan.GATHERED
    return "gather" if gathering <= runs * plan.RUN + reached * plan.SCATTERED else "scatter"


if __name__ == "__main__":
    main()
