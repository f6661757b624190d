"""The picture that a training run leaves: loss and test accuracy by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from neurocompile.atomic import replacing

CURVES = "curves.png"


def plot_curves(metrics: Mapping[str, Any], path: Path) -> None:
    """Draw the metrics of a run into the PNG file `path`."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(metrics["accuracy_per_epoch"]) + 1)
    left.plot(epochs, metrics["loss_per_epoch"], color="black")
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    right.plot(epochs, [100 * value for value in metrics["accuracy_per_epoch"]], color="black")
    last = 100 * metrics["test_accuracy"]["last"]
    right.set(xlabel="epoch", ylabel="test accuracy (%)", title=f"last epoch: {last:.2f} %")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
