"""
The picture of a verification: spikes of the reference and of the chip, one under the other.

Time runs to the right, several samples after each other; each layer has two panels, the reference
above the chip. A spike that both fired is black, one that only one of the two fired is red in its
panel, and a red ring marks the place in the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.atomic import replacing
from neurocompile.errors import MissingDependencyError, Problem
from neurocompile.verification.report import Exhibit, Report

NEURONS_SHOWN = 64
STEPS_SHOWN = 64
RED = "#d62728"


def need_matplotlib() -> None:
    """Raise `MissingDependencyError` unless pictures can be drawn."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise MissingDependencyError(
            Problem(
                "",
                "pictures need matplotlib",
                "it is not installed",
                "pip install 'neurocompile[plot]'",
            )
        ) from error
    del matplotlib


def draw_raster(report: Report, path: Path) -> None:
    """Draw the spikes of the first and the last stage of `report` into the PNG file `path`."""
    need_matplotlib()
    from matplotlib.figure import Figure

    first, last = report.stages[0].name, report.stages[-1].name
    shown_samples = samples_drawn(report)
    samples = len(shown_samples)
    names = [layer.name for layer in report.overall.layers]
    figure = Figure(figsize=(13, 1 + 4.2 * len(names)), layout="constrained")
    panels = figure.subplots(2 * len(names), 1, sharex=True, squeeze=False)[:, 0]
    for number, name in enumerate(names):
        reference, candidate = (
            _selected(np.stack([exhibit.spikes[stage][name] for exhibit in shown_samples]))
            for stage in (first, last)
        )
        shown = reference.shape[1]
        total = int(np.prod(shown_samples[0].spikes[first][name].shape[1:]))
        layer = next(item for item in report.overall.layers if item.name == name)
        share = 100 * layer.mismatches / layer.slots
        heading = (
            f"{name}: {shown} of {total} neurons, evenly spaced; over all {report.samples} samples "
            f"{layer.mismatches} of {layer.slots} places differ ({share:.3f} %)"
        )
        above, below = panels[2 * number : 2 * number + 2]
        above.set_title(heading, loc="left", fontsize=10)
        _draw_panel(above, reference, candidate, first)
        _draw_panel(below, candidate, reference, last)
        for panel in (above, below):
            for start in range(0, samples * report.steps, report.steps):
                panel.axvline(start - 0.5, color="0.75", linewidth=0.6, zorder=0)
    panels[-1].set_xlabel(
        f"step ({report.steps} steps a sample, {_told(shown_samples)}); red: the other one differs"
    )
    figure.suptitle(f"{first} above, {last} below", fontsize=12)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})


def samples_drawn(report: Report) -> tuple[Exhibit, ...]:
    """Return the exhibits that the picture shows: as many as fit; none without spikes of two stages."""
    if len(report.stages) < 2 or not report.overall.slots:
        return ()
    return report.exhibits[: max(1, STEPS_SHOWN // report.steps)]


def _told(exhibits: tuple[Exhibit, ...]) -> str:
    """Return which samples the picture shows."""
    numbers = [exhibit.sample for exhibit in exhibits]
    return f"sample{'s' if len(numbers) > 1 else ''} {', '.join(str(number) for number in numbers)}"


def _selected(spikes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (time, neurons) for evenly spaced neurons of (samples, steps, *shape)."""
    flat = spikes.reshape(spikes.shape[0] * spikes.shape[1], -1)
    chosen = np.unique(np.linspace(0, flat.shape[1] - 1, NEURONS_SHOWN).astype(int))
    return flat[:, chosen]


def _draw_panel(panel: Any, own: NDArray[np.uint8], other: NDArray[np.uint8], name: str) -> None:
    marks = {"s": 9, "marker": "s", "linewidths": 0}
    for mask, style in (
        ((own > 0) & (own == other), {**marks, "color": "black"}),
        ((own > 0) & (own != other), {**marks, "color": RED}),
        (
            (own == 0) & (other > 0),
            {"s": 16, "marker": "o", "facecolors": "none", "edgecolors": RED},
        ),
    ):
        steps, neurons = np.nonzero(mask)
        panel.scatter(steps, neurons, **style)
    panel.set(ylabel=f"{name}\nneuron", ylim=(-1, own.shape[1]), xlim=(-0.5, own.shape[0] - 0.5))
