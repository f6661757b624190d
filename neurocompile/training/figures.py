"""The pictures that a training run leaves: curves, confusions, and what the neurons did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neurocompile.atomic import replacing
from neurocompile.errors import OptionError, Problem
from neurocompile.training.activity import LayerActivity

if TYPE_CHECKING:
    from neurocompile.training.evaluation import Evaluation
    from neurocompile.training.evidence import Evidence

CURVES, CONFUSION, ACTIVITY, STEPS = "curves.png", "confusion.png", "activity.png", "steps.png"

MOST_WRITTEN = 12  # classes up to which the counts are written into their cells
MOST_TICKS = 40  # classes up to which each has its name


def write_figures(directory: Path, metrics: Mapping[str, Any], evidence: Evidence) -> None:
    """Draw all pictures of a run into `directory`."""
    plot_curves(metrics, directory / CURVES)
    _write_evidence(directory, evidence, metrics["data"]["class_names"])


def write_evaluation(directory: Path, evaluation: Evaluation) -> None:
    """Draw all pictures of an evaluation into `directory`."""
    plot_steps(evaluation, directory / STEPS)
    _write_evidence(directory, evaluation.evidence, evaluation.class_names)


def check_no_run(directory: Path) -> None:
    """Raise `OptionError` if `directory` holds a run, whose pictures an evaluation would replace."""
    if any((directory / name).exists() for name in ("settings.json", "metrics.json", "last.ckpt")):
        raise OptionError(
            Problem(
                "",
                "the pictures of an evaluation need a directory of their own",
                f"'{directory}' holds a training run",
                f"use --report {directory / 'evaluation'}",
            )
        )


def _write_evidence(directory: Path, evidence: Evidence, class_names: Sequence[str]) -> None:
    names = class_names or [str(label) for label in range(len(evidence.confusion))]
    plot_confusion(evidence.confusion, names, directory / CONFUSION)
    if evidence.layers:  # neurons that emit numbers have no rates
        plot_activity(evidence.layers, directory / ACTIVITY)


def plot_curves(metrics: Mapping[str, Any], path: Path) -> None:
    """Draw losses and accuracies by epoch into the PNG file `path`, phases told apart."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    accuracies = [100 * value for value in metrics["accuracy_per_epoch"]]
    epochs = range(1, len(accuracies) + 1)
    left.plot(epochs, metrics["loss_per_epoch"], color="black", label="training")
    for name, colour in (("sdt", "tab:blue"), ("tet", "tab:orange")):
        losses = metrics.get("test_loss_per_epoch", {}).get(name)
        if losses:
            left.plot(epochs, losses, color=colour, label=f"test, {name.upper()}")
    left.set(xlabel="epoch", ylabel="loss", yscale="log")
    left.legend(fontsize="small")
    right.plot(epochs, accuracies, color="black")
    last, best = (100 * metrics["test_accuracy"][name] for name in ("last", "best"))
    right.set(
        xlabel="epoch", ylabel="test accuracy (%)", title=f"last {last:.2f} %, best {best:.2f} %"
    )
    ends = np.cumsum([phase["epochs"] for phase in metrics.get("phases", ())])[:-1]
    for axes in (left, right):
        axes.grid(alpha=0.3)
        for end in ends:
            axes.axvline(float(end) + 0.5, color="grey", linestyle="--")
    _save(figure, path)


def plot_confusion(confusion: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """
    Draw how often each class was taken for which into the PNG file `path`.

    `confusion` (classes, classes) counts test samples, by true class and by decision; colours are shares
    of the true class.
    """
    classes = len(confusion)
    side = min(4 + 0.25 * classes, 12)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, label="share of the true class", shrink=0.8)
    axes.set(xlabel="decision", ylabel="true class")
    if classes <= MOST_TICKS:
        turned = 90 if max(map(len, names)) > 2 else 0
        axes.set_xticks(range(classes), names, rotation=turned, parse_math=False)
        axes.set_yticks(range(classes), names, parse_math=False)
    if classes <= MOST_WRITTEN:
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour)
    _save(figure, path)


def plot_activity(layers: Sequence[LayerActivity], path: Path) -> None:
    """Draw firing rates by step, and the shares of dead and saturated neurons, into a PNG file."""
    figure = Figure(figsize=(10, max(3.5, 0.35 * len(layers) + 1)), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [layer.name for layer in layers]
    rates = np.array([layer.rate_per_step for layer in layers])
    rows = np.arange(len(layers))
    steps = rates.shape[1]
    drawn = left.imshow(100 * rates, aspect="auto", cmap="viridis", vmin=0)
    figure.colorbar(drawn, label="firing rate (% of steps)")
    left.set(xlabel="step", title="firing rate")
    left.set_xticks(range(0, steps, max(1, steps // 10)))
    left.set_yticks(rows, names)
    shares = {
        "dead": [100 * float(layer.dead.mean()) for layer in layers],
        "saturated": [100 * float(layer.saturated.mean()) for layer in layers],
    }
    right.barh(rows - 0.2, shares["dead"], 0.4, color="black", label="never fired")
    right.barh(rows + 0.2, shares["saturated"], 0.4, color="tab:red", label="always fired")
    right.set(xlabel="neurons (%)", xlim=(0, max(1.0, *(1.1 * max(s) for s in shares.values()))))
    right.set_yticks(rows, names)
    right.set_ylim(len(layers) - 0.5, -0.5)
    right.grid(axis="x", alpha=0.3)
    right.legend(fontsize="small")
    _save(figure, path)


def plot_steps(evaluation: Evaluation, path: Path) -> None:
    """Draw the accuracy by number of steps, and of each step alone, into a PNG file."""
    scalability = evaluation.scalability
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    steps = range(1, len(scalability.cumulative) + 1)
    cumulative, moments = (
        [100 * value for value in values]
        for values in (scalability.cumulative, scalability.per_moment)
    )
    axes.plot(steps, cumulative, color="black", marker=".", label="mean of the steps so far")
    axes.plot(steps, moments, color="tab:blue", marker=".", label="this step alone")
    axes.axvline(scalability.trained_steps, color="grey", linestyle="--", label="as trained")
    axes.set(xlabel="steps", ylabel="accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
