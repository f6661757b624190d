"""What `train` says before and after a run, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neurocompile.training.config import PhaseSettings, TrainSettings
from neurocompile.training.presets import PRESETS


def opening(settings: TrainSettings) -> list[str]:
    """Return what will be trained: preset, phases, what is published, and what the papers leave open."""
    lines = [f"{settings.network.name} on {settings.data}, seed {settings.seed}"]
    preset = PRESETS.get(settings.preset)
    if preset is not None:
        lines.insert(0, f"preset {settings.preset}: {preset.summary}")
    phases = settings.all_phases()
    for number, phase in enumerate(phases, start=1):
        before = f"phase {number} of {len(phases)}: " if len(phases) > 1 else ""
        lines.append(before + _phase(phase))
    if preset is not None and preset.published is not None:
        lines.append(f"published: {preset.published}")
    if preset is not None:
        lines += [f"open: {point}" for point in preset.open_points]
    return lines


def closing(metrics: Mapping[str, Any]) -> list[str]:
    """Return the accuracies of a run that has ended, beside what is published."""
    accuracy, data = metrics["test_accuracy"], metrics["data"]
    last, best = (f"{100 * accuracy[name]:.2f} %" for name in ("last", "best"))
    where = f"{metrics['seconds']:.0f} s on {metrics['device']}"
    samples = f"{data['test']} samples"
    lines = [f"test accuracy {last} after the last epoch, best {best} ({samples}), {where}"]
    preset = PRESETS.get(metrics["settings"]["preset"])
    if preset is not None and preset.published is not None:
        lines.append(f"published: {preset.published}")
    return lines


def _phase(phase: PhaseSettings) -> str:
    bits = f", with {phase.weight_bits}-bit weights" if phase.weight_bits else ""
    return (
        f"{phase.epochs} epochs, T = {phase.timesteps}, {phase.optimiser}, "
        f"learning rate {phase.learning_rate:g}{bits}"
    )
