"""
Other ways to quantise, tried: the program is compiled again from its graph, and counted on the same samples.

Nothing is a rule of thumb here. Each recipe differs from the program's in one thing, and makes other
integers than all before it: what comes to the same is not told twice. What calibrates does so on samples
that none is judged by; which ones, its name says.

An alternative is called better only if it is clearly so. Spikes and answers (decisions, or outputs where
there are no classes) are held against the float network's, sample by sample, beside the program's own: one
must be closer by more than chance leaves open (`CHANCE` for all that is tried together, by Bonferroni), and
neither spikes, nor decisions, nor outputs further away, nor fewer samples right, by more than it leaves open to
one.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from hashlib import sha256
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import DataOptions, Inputs, by_input, load_samples, sample_count
from neurocompile.decision import decisions, weights_in
from neurocompile.errors import NeurocompileError
from neurocompile.integer import IntegerNetwork
from neurocompile.ir import Network
from neurocompile.pipeline import CompileOptions, Passes, run_passes
from neurocompile.program import Program
from neurocompile.quantisation.recipe import Recipe
from neurocompile.quantisation.scales import resolved
from neurocompile.reference import simulate
from neurocompile.samples import SampleSource
from neurocompile.statistics import Share
from neurocompile.target import Progress
from neurocompile.verification.paired import mean_chance, mean_interval, sign_chance
from neurocompile.verification.real import choice, first_reason, ranged, sums_of, target_of
from neurocompile.verification.report import Alternative

UNCHANGED = "as it is"
FEWEST_SAMPLES, MOST_SAMPLES = 8, 4096  # to calibrate on: fewer say nothing, more take memory
MOST_READOUTS = 4  # that are given more bits one by one
CHANCE = 0.05  # of calling any alternative better that is not


@dataclass(frozen=True)
class Examined:
    """
    Samples that all alternatives are judged by, and what the float network fires and puts out on them.

    Outputs are computed from the graph where they are not given.
    """

    inputs: Inputs
    labels: NDArray[np.int64] | None
    spikes: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]] | None = None


@dataclass(frozen=True)
class Calibration:
    """Samples that alternatives may be fitted to, by input: what they are, and what to give export."""

    samples: Mapping[str, NDArray[Any]]
    what: str
    data: str


@dataclass(frozen=True)
class Measured:
    """
    What a program does on the examined samples, one number each; `slots` are the places of all of them.

    `wrong` places differ from the float network's, `errors` are the outputs' mean ones; None: no classes, no labels.
    """

    wrong: NDArray[np.int64]
    slots: int
    errors: NDArray[np.float64]
    same: NDArray[np.bool_] | None
    right: NDArray[np.bool_] | None


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
    deadline: float | None = None,
) -> tuple[tuple[Alternative, ...], dict[str, str]]:
    """
    Return the program as it is, then other ways to quantise it, the fewest mismatches first; and what failed.

    `network` is its folded graph, `worst` the layer with most errors of its own; `calibration` may be the
    reason why there is none. None is begun later than `deadline` seconds after the call. `progress` is
    called with the number of those done, and of all.
    """
    why = _why_none(program, network)
    if why is not None:
        return (), {"alternatives": why}
    try:
        base = recipe_of(program)
        bytes_now = weight_bytes(program)
    except (KeyError, TypeError, ValueError, AttributeError, NeurocompileError) as error:
        return (), {"alternatives": f"the program does not say how it was quantised ({error!r})"}
    began = monotonic()
    if examined.outputs is None:
        examined = replace(examined, outputs=simulate(network, examined.inputs).outputs)
    own = measured(program, program, examined)
    ideas = list(ideas_for(program, base, worst))
    known: dict[str, IntegerNetwork] = {UNCHANGED: program.network}
    tried: list[tuple[Idea, Measured, int]] = []
    missing: dict[str, str] = {
        "alternative: quantisation-aware training": _training(program, base.weight_bits)
    }
    for number, idea in enumerate(ideas):
        if deadline is not None and monotonic() - began > deadline:
            missing |= {
                f"alternative: {item.name}": f"not begun, as {deadline:g} s were over"
                for item in ideas[number:]
            }
            break
        made = _made(program, network, idea, calibration, known)
        if isinstance(made, str):
            missing[f"alternative: {idea.name}"] = made
        else:
            named, other, size = made
            known[named.name] = other.network
            try:
                tried.append((named, measured(program, other, examined), size))
            except NeurocompileError as error:
                missing[f"alternative: {idea.name}"] = first_reason(error)
            finally:
                other.close()
        if progress:
            progress(number + 1, len(ideas))
    found = [
        replace(
            _told(item, idea.name, idea.options, size),
            difference=_difference(own, item),
            better=clearly_better(own, item, len(tried)),
        )
        for idea, item, size in tried
    ]
    # Of equal ones the one that was tried first comes first.
    found.sort(key=in_order)
    return (_told(own, UNCHANGED, "", bytes_now), *found), missing


def in_order(item: Alternative) -> tuple[float, ...]:
    """Return what sorts alternatives: by spikes, then decisions, then outputs; of equal ones by bytes."""
    return (
        item.mismatches.count,
        0 if item.same_decisions is None else -item.same_decisions.count,
        item.output_error or 0.0,
        item.weight_bytes,
    )


def best_of(alternatives: Sequence[Alternative]) -> Alternative | None:
    """Return the first alternative that is clearly better than the program as it is, if any is."""
    return next((item for item in alternatives if item.better), None)


def clearly_better(own: Measured, other: Measured, tries: int) -> bool:
    """
    Return whether `other` is closer to the float network than `own`, and not by chance.

    `tries` alternatives are held against the same `own`: the more there are, the more must each show.
    """
    spikes = _further(other.wrong - own.wrong)
    outputs = _further(other.errors - own.errors)
    decided = _less_often(own.same, other.same)
    answer = outputs if decided is None else decided
    if not any(way < 0 and chance <= CHANCE / (2 * tries) for way, chance in (spikes, answer)):
        return False
    all_ways = (spikes, outputs, decided, _less_often(own.right, other.right))
    return not any(item and item[0] > 0 and item[1] <= CHANCE for item in all_ways)


def _further(differences: NDArray[Any]) -> tuple[float, float]:
    """Return by how much errors are larger in the mean, and how probable that is by chance."""
    return float(differences.mean()), mean_chance(differences.astype(np.float64))


def _less_often(
    own: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None
) -> tuple[float, float] | None:
    """Return by how much `other` succeeds less often, and how probable that is by chance."""
    if own is None or other is None:
        return None
    fewer = own.astype(np.float64) - other
    return float(fewer.mean()), sign_chance(fewer)


def _difference(own: Measured, other: Measured) -> tuple[float, float] | None:
    """Return the 95 % interval of the share of differing places of `other` less that of `own`."""
    if not own.slots:
        return None
    return mean_interval((other.wrong - own.wrong) * len(own.wrong) / own.slots)


def _made(
    program: Program,
    network: Network,
    idea: Idea,
    calibration: Calibration | str,
    known: Mapping[str, IntegerNetwork],
) -> tuple[Idea, Program, int] | str:
    """Return `idea` with its whole name, its program and bytes of weights; or why there is nothing to measure."""
    samples = None
    if idea.calibrates:
        if isinstance(calibration, str):
            return calibration
        samples = calibration.samples
        idea = replace(
            idea,
            name=f"{idea.name}, calibrated on {calibration.what}",
            options=f"{idea.options} --calibrate {shlex.quote(calibration.data)}",
        )
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
        compiled = run_passes(ranged(network, program.network), target_of(program), Passes(asked))
    except NeurocompileError as error:
        return first_reason(error)
    taken = taken_instead(compiled.program)
    if taken is not None:
        return (
            f"calibrating took its baseline, method {taken}, which did better on its samples than what "
            "it chose layer by layer"
        )
    for name, integers in known.items():
        if same_numbers(integers, compiled.program.network):
            return f"it makes the very integers of '{name}'"
    size = math.ceil(sum(layer.memory_bits for layer in compiled.tally.values()) / 8)
    return idea, compiled.program, size


def taken_instead(program: Program) -> str | None:
    """Return the simple method that calibrating took instead of what it chose, if it did."""
    quantisation = program.facts.get("quantisation")
    report = quantisation.get("calibration") if isinstance(quantisation, Mapping) else None
    taken = report.get("taken", "chosen") if isinstance(report, Mapping) else "chosen"
    return None if taken == "chosen" else str(taken)


def same_numbers(first: Any, second: Any) -> bool:
    """Return whether two dataclasses hold equal numbers, all the way down."""
    if type(first) is not type(second):
        return False
    if is_dataclass(first) and not isinstance(first, type):
        return all(
            same_numbers(getattr(first, item.name), getattr(second, item.name))
            for item in fields(first)
        )
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(same_numbers, first, second))
    if isinstance(first, Mapping):
        return list(first) == list(second) and all(
            same_numbers(value, second[name]) for name, value in first.items()
        )
    return bool(first == second)


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
    return (
        "it takes a training: neurocompile train --config RUN_DIR/settings.json --set start=RUN_DIR "
        f"--set weight_bits={bits} --set learning_rate=1e-3 --epochs 3 -o TRAINED_DIR, then export and "
        "verify that"
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

    There are as many as the program's recipe asks for. They are training data where the program says which
    and they are here, else samples of `source`; none is equal to one that is `examined`.
    """
    quantisation = program.facts.get("quantisation")
    asked = quantisation.get("samples") if isinstance(quantisation, Mapping) else None
    count = asked if isinstance(asked, int) and 0 < asked <= MOST_SAMPLES else Recipe().samples
    names = [item.name for item in program.network.inputs]
    judging = prints_of(by_input(source.fetch(examined).inputs, names))
    trained_on = _training_data(program, names, count, judging)
    if trained_on is not None:
        return trained_on
    others = np.setdiff1d(np.arange(source.count, dtype=np.int64), examined)
    for wanted in dict.fromkeys((count, count + len(examined))):
        taken = others[_evenly(min(wanted, len(others)), len(others))]
        samples = by_input(source.fetch(taken).inputs, names)
        apart = _apart(samples, judging)
        number = min(count, len(apart))
        if len(apart) == len(taken):
            break
    if number < FEWEST_SAMPLES:
        return (
            "there are no samples to calibrate on but those that are judged by: verify on more, or give "
            "export some with --calibrate"
        )
    samples = _at(samples, apart[_evenly(number, len(apart))])
    return Calibration(samples, f"{number} other samples of the same data", "DATA")


def _training_data(
    program: Program, names: Sequence[str], count: int, judging: frozenset[bytes]
) -> Calibration | None:
    """
    Return samples that `program` was trained on but those that are `judging`; None where they are not here.

    They are the very samples that export takes, unless some of these judge.
    """
    try:
        reference = program.facts["reference"]
        data = str(reference["settings"]["data"])
        options = DataOptions.from_settings(reference["settings"], phase=reference.get("phase"))
        if data.endswith(".npz"):  # a file's place is not the program's to know
            return None
        options = options.where_data_are_now()
        for wanted in dict.fromkeys((count, count + len(judging))):
            loaded = load_samples(data, options, count=wanted, unnamed="train", spread=True)
            samples = by_input(loaded.inputs, names)
            apart = _apart(samples, judging)
            if len(apart) == sample_count(loaded.inputs):
                break
    except (KeyError, TypeError, AttributeError, NeurocompileError):
        return None
    number = min(count, len(apart))
    if number < FEWEST_SAMPLES:
        return None
    rest = "" if len(apart) == sample_count(loaded.inputs) else ", without those that judge"
    chosen = _at(samples, apart[_evenly(number, len(apart))])
    return Calibration(chosen, f"{number} training samples of '{data}'{rest}", data)


def prints_of(samples: Mapping[str, NDArray[Any]]) -> frozenset[bytes]:
    """Return what tells samples from others: equal ones have equal prints, whatever they are stored as."""
    return frozenset(_prints(samples))


def _prints(samples: Mapping[str, NDArray[Any]]) -> list[bytes]:
    parts = [np.asarray(values, np.float64) + 0.0 for values in samples.values()]
    return [
        sha256(b"".join(part[number].tobytes() for part in parts)).digest()
        for number in range(len(parts[0]))
    ]


def _apart(samples: Mapping[str, NDArray[Any]], judging: frozenset[bytes]) -> NDArray[np.int64]:
    """Return the places of samples that are not `judging`."""
    prints = _prints(samples)
    return np.array([at for at, item in enumerate(prints) if item not in judging], np.int64)


def _at(samples: Mapping[str, NDArray[Any]], places: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {name: values[places] for name, values in samples.items()}


def _evenly(count: int, of: int) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) * of // max(1, count)


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
        most = limits.weight_bits
        readouts = [item.name for item in program.network.neurons if item.readout]
        alone = [item.name for item in program.network.neurons if item.name == worst]
        for layer in dict.fromkeys((*alone, *readouts[:MOST_READOUTS])):
            if base.bits_of(layer) < most:
                yield idea(
                    f"{most} weight bits for '{layer}'",
                    f"--bits {shlex.quote(layer)}={most}",
                    bits={**base.bits, layer: most},
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


def measured(program: Program, other: Program, examined: Examined) -> Measured:
    """Return how `other` does on the examined samples; `program` says how its outputs are decided."""
    result = other.run(examined.inputs, "all", on="fixedpoint")
    outputs = examined.outputs or {}
    samples = sample_count(examined.inputs)

    def by_sample(values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape(samples, -1)

    layers = [layer for layer in examined.spikes if layer in result.spikes]
    wrong = np.zeros(samples, np.int64)
    for layer in layers:
        wrong += by_sample(result.spikes[layer] != examined.spikes[layer]).sum(1)
    errors = np.concatenate(
        [by_sample(np.abs(result.outputs[name] - outputs[name])) for name in outputs], axis=1
    )
    first = next(iter(result.outputs))
    same = right = None
    if math.prod(outputs[first].shape[2:]) > 1:
        decided = program.decisions(result)
        same = decided == decisions(outputs[first], weights_in(program.facts))
        right = None if examined.labels is None else decided == examined.labels
    return Measured(
        wrong,
        sum(examined.spikes[layer].size for layer in layers),
        errors.mean(1),
        same,
        right,
    )


def _told(item: Measured, name: str, options: str, size: int) -> Alternative:
    """Return what was measured as a report shows it; what compares it with the program comes later."""
    return Alternative(
        name,
        options,
        Share(int(item.wrong.sum()), item.slots),
        _share(item.right),
        size,
        samples=len(item.wrong),
        same_decisions=_share(item.same),
        output_error=float(item.errors.mean()),
    )


def _share(outcomes: NDArray[np.bool_] | None) -> Share | None:
    return None if outcomes is None else Share(int(outcomes.sum()), len(outcomes))
