"""What `train` says before and after a run, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neurocompile.training.activity import remarks
from neurocompile.training.config import PhaseSettings, TrainSettings, resolve
from neurocompile.training.evaluation import Evaluation
from neurocompile.training.presets import PRESETS

MOST_ROWS = 16  # numbers of steps that get a line of their own


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
    lines += _published(settings.model_dump(mode="json"))
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
    return lines + _published(metrics["settings"]) + remarks(metrics["layers"])


def evaluation_lines(evaluation: Evaluation) -> list[str]:
    """Return the accuracies of an evaluation by number of steps, and the neurons to look at."""
    found = evaluation.scalability
    lines = [
        f"{found.samples} samples of {evaluation.data}, trained with T = {found.trained_steps}",
        "         mean so far  this step alone",
    ]
    steps = range(1, len(found.cumulative) + 1)
    rows = [
        step
        for step in steps
        if step <= MOST_ROWS or not step & (step - 1) or step in (found.trained_steps, steps[-1])
    ]
    lines += [
        f"T' = {step:<3d} {100 * found.cumulative[step - 1]:9.2f} % "
        f"{100 * found.per_moment[step - 1]:14.2f} %"
        for step in rows
    ]
    if found.weighted:
        lines.append(
            f"the mean at T' = {found.trained_steps} has the trained weights of steps (TWO), others have none"
        )
    if found.variance is not None:
        behind = f"steps {found.trained_steps + 1} to {min(8, steps[-1])}"
        lines.append(f"variance of the accuracies of {behind}: {found.variance:.3f} (TET, Table 4)")
    return lines + remarks([layer.to_json() for layer in evaluation.evidence.layers])


def _published(settings: Mapping[str, Any]) -> list[str]:
    """Return what is published for the preset of `settings`, nothing of other data or another network."""
    preset = PRESETS.get(settings["preset"])
    if preset is None or preset.published is None:
        return []
    own = resolve(preset=settings["preset"]).model_dump(mode="json")
    same = all(settings[name] == own[name] for name in ("data", "network"))
    return [f"published: {preset.published}"] if same else []


def _phase(phase: PhaseSettings) -> str:
    bits = f", with {phase.weight_bits}-bit weights" if phase.weight_bits else ""
    return (
        f"{phase.epochs} epochs, T = {phase.timesteps}, {phase.optimiser}, "
        f"learning rate {phase.learning_rate:g}{bits}"
    )
