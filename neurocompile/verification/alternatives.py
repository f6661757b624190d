"""
Other ways to quantise, tried: the program is compiled again from its graph, and counted on the same samples.

Nothing is a rule of thumb here. Each recipe differs from the program's in one thing. What calibrates does
so on training data, or on samples that none is judged by; which ones, its name says.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import DataOptions, Inputs, Samples, by_input, load_samples, sample_count
from neurocompile.errors import NeurocompileError
from neurocompile.ir import Network
from neurocompile.pipeline import CompileOptions, Passes, run_passes
from neurocompile.program import Program
from neurocompile.quantisation.recipe import Recipe
from neurocompile.quantisation.scales import resolved
from neurocompile.samples import SampleSource
from neurocompile.statistics import Share
from neurocompile.target import Progress
from neurocompile.verification.real import choice, first_reason, ranged, sums_of, target_of
from neurocompile.verification.report import Alternative

UNCHANGED = "as it is"
FEWEST_SAMPLES, MOST_SAMPLES = 8, 4096  # to calibrate on: fewer say nothing, more take memory


@dataclass(frozen=True)
class Examined:
    """Samples that all alternatives are judged by, and what the float network fires on them."""

    inputs: Inputs
    labels: NDArray[np.int64] | None
    spikes: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Calibration:
    """Samples that alternatives may be fitted to, by input: what they are, and what to give export."""

    samples: Mapping[str, NDArray[Any]]
    what: str
    data: str


@dataclass(frozen=True)
class Idea:
    """A recipe to try: its name, what to add to the export command, and whether it needs samples."""

    name: str
    options: str
    recipe: Recipe
    membranes: Any
    calibrates: bool = False


def alternatives_of(
    program: Program,
    network: Network,
    examined: Examined,
    *,
    worst: str | None,
    calibration: Calibration | str,
    progress: Progress | None = None,
) -> tuple[tuple[Alternative, ...], dict[str, str]]:
    """
    Return the program as it is, then other ways to quantise it, the fewest mismatches first; and what failed.

    `network` is its folded graph, `worst` the layer with most errors of its own; `calibration` may be the
    reason why there is none.
    """
    why = _why_none(program, network)
    if why is not None:
        return (), {"alternatives": why}
    try:
        base = recipe_of(program)
        bytes_now = weight_bytes(program)
    except (KeyError, TypeError, ValueError, AttributeError, NeurocompileError) as error:
        return (), {"alternatives": f"the program does not say how it was quantised ({error!r})"}
    own = _measured(program, program, examined, UNCHANGED, "", bytes_now)
    ideas = list(ideas_for(program, base, worst))
    found: list[Alternative] = []
    missing: dict[str, str] = {
        "alternative: quantisation-aware training": _training(program, base.weight_bits)
    }
    target = target_of(program)
    for number, idea in enumerate(ideas):
        name, options, samples = idea.name, idea.options, None
        if idea.calibrates:
            if isinstance(calibration, str):
                missing[f"alternative: {name}"] = calibration
                continue
            name = f"{name}, calibrated on {calibration.what}"
            options = f"{options} --calibrate {shlex.quote(calibration.data)}"
            samples = calibration.samples
        asked = CompileOptions(
            recipe=idea.recipe,
            steps=program.steps,
            first_layer=choice(program, "first_layer", ("auto", "graded", "host")),
            membranes=idea.membranes,
            sums=sums_of(program),
            validate=False,
            calibration=samples,
            target_options=dict(program.options),
        )
        try:
            compiled = run_passes(ranged(network, program.network), target, Passes(asked))
            size = math.ceil(sum(layer.memory_bits for layer in compiled.tally.values()) / 8)
            found.append(_measured(program, compiled.program, examined, name, options, size))
        except NeurocompileError as error:
            missing[f"alternative: {name}"] = first_reason(error)
        if progress:
            progress(number + 1, len(ideas))
    # Of equal ones the cheaper comes first, then the one that was tried first.
    found.sort(key=lambda item: (item.mismatches.count, item.weight_bytes))
    return (own, *found), missing


def best_of(alternatives: tuple[Alternative, ...]) -> Alternative | None:
    """Return the alternative that differs least from the float network, if any beats the program as it is."""
    if not alternatives:
        return None
    own, *others = alternatives
    best = min(others, key=lambda item: item.mismatches.count, default=own)
    return best if best.mismatches.count < own.mismatches.count else None


def _why_none(program: Program, network: Network) -> str | None:
    """Return why there is nothing to choose for `program`, if so."""
    if network.weight_unit is None:
        return None
    if isinstance(network.weight_unit, Mapping):
        return (
            "training chose the integers: measure another choice by training with other weight_bits, and "
            "verify what that exports to"
        )
    source = program.facts.get("source")
    kind = source.get("kind", "source") if isinstance(source, Mapping) else "source"
    return f"the integers are those of the {kind} itself: there is nothing to choose"


def _training(program: Program, bits: int) -> str:
    """Return how training with rounded weights can be measured."""
    reference = program.facts.get("reference")
    settings = reference.get("settings") if isinstance(reference, Mapping) else None
    if not isinstance(settings, Mapping):
        return "it takes the training that made the network, which is not ours"
    preset = settings.get("preset")
    chosen = f"--preset {shlex.quote(preset)} " if isinstance(preset, str) else ""
    return (
        f"it takes a training: neurocompile train {chosen}--set start=RUN_DIR --set weight_bits={bits} "
        "--set learning_rate=1e-3 --epochs 3 -o TRAINED_DIR, then export and verify that"
    )


def recipe_of(program: Program) -> Recipe:
    """
    Return how `program` was quantised, as its manifest says.

    Raises `KeyError`, `TypeError` or `OptionError` where it does not.
    """
    facts = program.facts["quantisation"]
    return Recipe(**{item.name: facts[item.name] for item in fields(Recipe)})


def weight_bytes(program: Program) -> int:
    """Return the memory of all weights on the chip, as the manifest counts it."""
    layers = program.facts["quantisation"]["layers"].values()
    return math.ceil(sum(int(layer.get("memory_bits", 0)) for layer in layers) / 8)


def calibration_of(
    program: Program, source: SampleSource, examined: NDArray[np.int64]
) -> Calibration | str:
    """
    Return samples to calibrate on, or why there are none.

    There are as many as the program's recipe asks for. They are training data where the program says which and they are here, else samples of `source` that
    are not `examined`.
    """
    quantisation = program.facts.get("quantisation")
    asked = quantisation.get("samples") if isinstance(quantisation, Mapping) else None
    count = asked if isinstance(asked, int) and 0 < asked <= MOST_SAMPLES else Recipe().samples
    names = [item.name for item in program.network.inputs]
    trained_on = _training_data(program, count)
    if trained_on is not None:
        samples, data = trained_on
        number = sample_count(samples.inputs)
        what = f"{number} training samples of '{data}'"
        return Calibration(by_input(samples.inputs, names), what, data)
    others = np.setdiff1d(np.arange(source.count, dtype=np.int64), examined)
    if len(others) < FEWEST_SAMPLES:
        return (
            "there are no samples to calibrate on but those that are judged by: verify on more, or give "
            "export some with --calibrate"
        )
    count = min(count, len(others))
    samples = source.fetch(others[np.arange(count) * len(others) // count])
    what = f"{count} other samples of the same data"
    return Calibration(by_input(samples.inputs, names), what, "DATA")


def _training_data(program: Program, count: int) -> tuple[Samples, str] | None:
    """Return samples that `program` was trained on, and their name; None where they are not here."""
    try:
        reference = program.facts["reference"]
        data = str(reference["settings"]["data"])
        options = DataOptions.from_settings(reference["settings"], phase=reference.get("phase"))
        if data.endswith(".npz"):  # a file's place is not the program's to know
            return None
        samples = load_samples(
            data, options.where_data_are_now(), count=count, unnamed="train", spread=True
        )
    except (KeyError, TypeError, AttributeError, NeurocompileError):
        return None
    return (samples, data) if sample_count(samples.inputs) else None


def ideas_for(program: Program, base: Recipe, worst: str | None) -> Iterator[Idea]:
    """Yield recipes that differ in one thing from `base`, the program's own."""
    facts = program.facts["quantisation"]
    membranes = facts.get("membranes", "proven")
    limits = target_of(program).limits
    # A budget without samples packs otherwise than with them.
    calibrated = facts.get("calibration")
    calibrates = base.needs_samples or (
        base.memory is not None and isinstance(calibrated, Mapping) and bool(calibrated.get("data"))
    )

    def idea(name: str, options: str, *, calibrate: bool = False, **change: Any) -> Idea:
        recipe = replace(base, **change)
        return Idea(name, options, recipe, membranes, calibrate or calibrates)

    # A memory budget decides the bits: then they are not asked for one by one.
    if base.memory is None:
        more = {min(base.weight_bits + 1, limits.weight_bits), limits.weight_bits}
        for bits in sorted(more - {base.weight_bits}):
            yield idea(f"{bits} weight bits", f"--weight-bits {bits}", weight_bits=bits)
        if worst is not None and worst in {item.name for item in program.network.neurons}:
            most = limits.weight_bits
            if base.bits_of(worst) < most:
                yield idea(
                    f"{most} weight bits for '{worst}'",
                    f"--bits {shlex.quote(worst)}={most}",
                    bits={**base.bits, worst: most},
                )
    now = resolved(base.method, base.weight_bits)
    for method in ("max", "mse", "percentile"):
        if method != now:
            yield idea(f"method {method}", f"--method {method}", method=method)
    if base.scales == "layer":
        yield idea("a scale for each channel", "--scales channel", scales="channel")
    if base.method != "search":
        yield idea("method search", "--method search", calibrate=True, method="search")
    if not base.correct_biases:
        yield idea("corrected biases", "--correct-biases", calibrate=True, correct_biases=True)
    if base.rounding != "adaptive":
        yield idea("adaptive rounding", "--rounding adaptive", calibrate=True, rounding="adaptive")
    lowered = facts.get("scales_lowered_by_range_proof")
    if lowered and membranes == "proven" and limits.membrane_overflow == "saturate":
        yield Idea(
            "membranes that may saturate",
            "--membranes saturating",
            base,
            "saturating",
            calibrates,
        )


def _measured(
    program: Program,
    other: Program,
    examined: Examined,
    name: str,
    options: str,
    size: int,
) -> Alternative:
    """Return how `other` does on the examined samples; `program` says how its outputs are decided."""
    result = other.run(examined.inputs, "all", on="fixedpoint")
    layers = [layer for layer in examined.spikes if layer in result.spikes]
    wrong = sum(int((result.spikes[layer] != examined.spikes[layer]).sum()) for layer in layers)
    slots = sum(examined.spikes[layer].size for layer in layers)
    accuracy = None
    if examined.labels is not None:
        right = int((program.decisions(result) == examined.labels).sum())
        accuracy = Share(right, len(examined.labels))
    if other is not program:
        other.close()
    return Alternative(name, options, Share(wrong, slots), accuracy, size)
