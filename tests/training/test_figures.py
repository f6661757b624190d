"""The pictures of a run are written whole, the same bytes for the same run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neurocompile.training.activity import activity_of
from neurocompile.training.figures import plot_activity, plot_confusion, plot_curves

METRICS = {
    "accuracy_per_epoch": [0.5, 0.75, 0.7],
    "loss_per_epoch": [2.0, 1.0, 0.5],
    "test_loss_per_epoch": {"sdt": [1.0, 0.9, 0.8], "tet": [1.1, 1.0, 0.9]},
    "test_accuracy": {"last": 0.7, "best": 0.75},
    "phases": [{"epochs": 2}, {"epochs": 1}],
}


def test_the_same_metrics_draw_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        plot_curves(METRICS, tmp_path / f"{name}.png")

    first = (tmp_path / "a.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    assert first == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("classes", [2, 10, 60])
def test_confusions_of_few_and_many_classes(tmp_path: Path, classes: int) -> None:
    confusion = np.eye(classes, dtype=np.int64)
    confusion[1] = 0  # a class that no test sample has

    plot_confusion(confusion, [f"class {n}" for n in range(classes)], tmp_path / "confusion.png")

    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_names_of_classes_are_no_formulas(tmp_path: Path) -> None:
    plot_confusion(np.eye(2, dtype=np.int64), ["$\\bad$", "a$b_$"], tmp_path / "confusion.png")

    assert (tmp_path / "confusion.png").is_file()


def test_activity_of_layers_of_any_shape(tmp_path: Path) -> None:
    layers = activity_of({"lif1": np.ones((3, 2, 4, 4), int), "lif2": np.zeros((3, 5), int)}, 2)

    plot_activity(layers, tmp_path / "activity.png")

    assert (tmp_path / "activity.png").read_bytes().startswith(b"\x89PNG")
