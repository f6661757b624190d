"""
What rounding costs: three trained networks by every method, from 8 bits down to 2, beside their floats.

Each program is compiled for `fixedpoint` and shown the whole test set; the folded network in float64 is
shown it once. Beside our methods stand the two that need no thought, as they are usually done: a scale from
the largest weight of each layer, and the power of two below it, with thresholds and biases rounded to that
scale, nothing clipped. Where such integers would leave the chip's ranges, the layer gets the largest scale
that is proven, or there would be nothing to run.

Two ways are held to what is asked: the default, which needs nothing, and the most thorough one. Of two
methods on the same samples only those count that one gets right and the other wrong; "beyond chance" is
McNemar's exact test, one-sided, at 5 %, for each case or, by Holm's correction, for all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
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
from numpy.typing import NDArray

import neurocompile
from neurocompile import reference
from neurocompile import target as targets
from neurocompile.atomic import write_text
from neurocompile.data import Samples, load_samples
from neurocompile.decision import decisions
from neurocompile.errors import NeurocompileError, RangeError
from neurocompile.frontend.from_checkpoint import from_checkpoint
from neurocompile.frontend.from_nir import Imported
from neurocompile.integer import IntegerInput, IntegerNeurons, IntegerPopulation
from neurocompile.passes.quantise import FirstLayer, Quantised, quantise
from neurocompile.pipeline import CompileOptions, Passes, run_passes
from neurocompile.populations import PopulationNetwork, ReadoutPopulation, SpikingPopulation
from neurocompile.program import Program
from neurocompile.quantisation.recipe import Recipe, Scales, Wish
from neurocompile.quantisation.scales import wished_scale
from neurocompile.run_file import repeat_steps
from neurocompile.training.checkpoint import LAST, METRICS, load_settings
from neurocompile.training.config import TrainSettings, resolve

ROOT = Path(__file__).parents[1]
IMAGES = ROOT.parent / "shared" / "data" / "images"
SCRATCH = ROOT / "runs" / "quantisation"
TARGET = "fixedpoint"
BITS = (8, 6, 5, 4, 3, 2)
SEED = 0
AT_ONCE = 250  # samples
CHANCE = 0.05
LEFT_OUT = "not measured"
CHECKED = 100  # samples on which fine-tuned networks are held against PyTorch


@dataclass(frozen=True)
class Case:
    """
    A network and its data: a preset with changes, and how it is fine-tuned for each number of bits.

    `data` is a data set, or the name of a file of images.
    """

    name: str
    data: str
    epochs: int
    overrides: tuple[str, ...] = ()
    preset: str = "mnist5k"
    tuning_epochs: int = 1
    tuning_rate: float = 1e-3

    @property
    def folder(self) -> str:
        """The name of its run."""
        return self.name.lower().partition("-")[0]

    def settings(self, images: Path, **changes: Any) -> TrainSettings:
        """Return the settings of the training run."""
        data = self.data if self.data == "digits" else str(images / self.data)
        values: dict[str, Any] = {"epochs": self.epochs, "seed": SEED, "data": data, **changes}
        return resolve(preset=self.preset, overrides=self.overrides, **values)


CIFAR_STAGES = [
    {"channels": 32, "kernel": 3, "pool": 2},
    {"channels": 64, "kernel": 3, "pool": 2},
    {"channels": 128, "kernel": 3, "pool": 2},
    {"channels": 128, "kernel": 3},
]
CASES = (
    Case("digits", "digits", 40, preset="digits", tuning_epochs=3),
    Case("MNIST", "mnist.npz", 3),
    Case(
        "CIFAR-10",
        "cifar10_jpeg.npz",
        20,
        (
            f"network.stages={json.dumps(CIFAR_STAGES)}",
            'input.augment=["crop","flip"]',
        ),
        tuning_epochs=2,
    ),
)
TINY = Case(
    "digits",
    "digits",
    3,
    (
        'network.stages=[{"channels":6,"kernel":3,"pool":2},{"channels":8,"kernel":3,"pool":2}]',
        "learning_rate=0.01",
        "timesteps=2",
    ),
    preset="digits",
)


@dataclass(frozen=True)
class Way:
    """
    A way to get integers: a recipe for `export`, what others do (`simple`), or training (`tuned`).

    With `mixed`, layers have bits of their own that take as much memory as if all had the row's.
    """

    name: str
    recipe: Recipe
    simple: bool = False
    tuned: bool = False
    mixed: bool = False


LARGEST = Way("largest weight (as usual)", Recipe(method="max"), simple=True)
POWER = Way("power of two (as usual)", Recipe(method="power-of-two"), simple=True)
PLAIN = (
    Way("auto (the default)", Recipe()),
    Way("max", Recipe(method="max")),
    Way("percentile", Recipe(method="percentile")),
    Way("mse", Recipe(method="mse")),
    Way("max, channel", Recipe(method="max", scales="channel")),
    Way("mse, channel", Recipe(method="mse", scales="channel")),
)
MIXED = Way("mse, mixed bits", Recipe(method="mse"), mixed=True)
CALIBRATED = tuple(
    Way(f"search{', channel' * (scales == 'channel')}{added}", replace(recipe, scales=scales))
    for scales in get_args(Scales)
    for added, recipe in {
        "": Recipe(method="search"),
        ", biases, adaptive": Recipe(method="search", correct_biases=True, rounding="adaptive"),
    }.items()
)
TUNED = Way("fine-tuned (mse)", Recipe(method="mse"), tuned=True)
WAYS = (LARGEST, POWER, *PLAIN, MIXED, *CALIBRATED, TUNED)
JUDGED = (PLAIN[0], CALIBRATED[-1])  # the default, and the most thorough


@dataclass(frozen=True)
class Row:
    """
    What one way gives in some bits.

    `wrong` are the test samples it gets wrong, `spikes` the share of a layer's places (sample, step, neuron)
    where its spikes are not the float's; `first_layer` says who computes it, `problem` why there is no program, `lowered` which layers the range proof kept
    from the scale that was wished.
    """

    bits: int
    wrong: tuple[int, ...] = ()
    spikes: Mapping[str, float] | None = None
    torch_mismatches: int | None = None
    lowered: tuple[str, ...] = ()
    first_layer: str = ""
    problem: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """Return what `asdict` wrote."""
        listed = {name: tuple(values[name]) for name in ("wrong", "lowered")}
        return cls(**{**values, **listed})


@dataclass(frozen=True)
class Truth:
    """What the float network does with samples: its decisions, and its spikes, eight to a byte."""

    samples: Samples
    decided: NDArray[np.int64]
    spikes: Sequence[Mapping[str, NDArray[np.uint8]]]  # of each batch

    def batches(self) -> Iterable[tuple[NDArray[Any], Mapping[str, NDArray[np.uint8]]]]:
        """Yield inputs, and the spikes there."""
        inputs = self.samples.inputs
        assert isinstance(inputs, np.ndarray)
        for number, spikes in enumerate(self.spikes):
            yield inputs[number * AT_ONCE : (number + 1) * AT_ONCE], spikes


@dataclass(frozen=True)
class Subject:
    """A trained network, and what it does in float64 on test samples."""

    case: Case
    run: Path
    data: str
    imported: Imported
    steps: int
    weights: int  # that the chip holds
    test: Truth

    @property
    def wrong(self) -> frozenset[int]:
        """The test samples that the float network gets wrong."""
        return _wrong(self.test.decided, self.test.samples)

    @property
    def samples(self) -> int:
        return len(self.test.decided)


def trained(case: Case, images: Path, directory: Path) -> Path:
    """Return the run of a case in `directory`, trained there unless it was; raises if it is another."""
    run, settings = directory / case.folder, case.settings(images)
    _train(case, settings, run)
    stored = load_settings(run)
    if _what_counts(stored) != _what_counts(settings):
        raise SystemExit(
            f"'{run}' is not a run of this benchmark: remove it, or name another folder"
        )
    return run


def _train(case: Case, settings: TrainSettings, run: Path) -> None:
    """Train, go on where a run was stopped, or leave one that is done."""
    if (run / METRICS).is_file():
        return
    values = settings.model_dump(mode="json", exclude_unset=True, exclude={"preset"})
    overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    if (run / LAST).is_file():
        neurocompile.train(output=run, resume=True)
    else:
        neurocompile.train(output=run, preset=case.preset, overrides=overrides)


def _what_counts(settings: TrainSettings) -> dict[str, Any]:
    """Return settings without names, and where data are."""
    values = settings.model_dump(mode="json", exclude={"preset"})
    return {**values, "data": Path(values["data"]).name}


def subject_of(case: Case, images: Path, directory: Path) -> Subject:
    """Return a trained case, run in float64."""
    run = trained(case, images, directory)
    data = case.settings(images).data
    folded = from_checkpoint(run)
    imported = folded.imported
    steps = imported.network.steps
    assert steps is not None
    return Subject(
        case,
        run,
        data,
        imported,
        steps,
        _weights(neurocompile.export(run, target=TARGET, validate=False)),
        _float_of(imported, load_samples(data), steps),
    )


def _weights(program: Program) -> int:
    network = program.network
    return sum(
        group.weight.size
        for group in network.synapses
        if not group.on_host and isinstance(network[group.target], IntegerNeurons)
    )


def _float_of(imported: Imported, samples: Samples, steps: int) -> Truth:
    assert isinstance(samples.inputs, np.ndarray)
    repeated = replace(samples, inputs=repeat_steps(samples.inputs, steps))
    decided, spikes = [], []
    assert isinstance(repeated.inputs, np.ndarray)
    for start in range(0, len(repeated.inputs), AT_ONCE):
        trace = reference.simulate(imported.network, repeated.inputs[start : start + AT_ONCE])
        decided.append(decisions(trace.output, imported.time_weights))
        spikes.append({name: np.packbits(values) for name, values in trace.spikes.items()})
    return Truth(repeated, np.concatenate(decided), spikes)


def _wrong(decided: NDArray[np.int64], samples: Samples) -> frozenset[int]:
    return frozenset(np.flatnonzero(decided != samples.labels).tolist())


def measured(subject: Subject, program: Program, bits: int, *, compared: bool) -> Row:
    """Return what a program does; its spikes are `compared` unless it was trained to others."""
    decided = []
    different: dict[str, int] = {}
    places: dict[str, int] = {}
    for inputs, spikes in subject.test.batches():
        result = program.run(inputs, "all" if compared else ())
        decided.append(program.decisions(result))
        for name in result.spikes:
            bits_apart = np.bitwise_xor(np.packbits(result.spikes[name]), spikes[name])
            different[name] = different.get(name, 0) + int(np.unpackbits(bits_apart).sum())
            places[name] = places.get(name, 0) + result.spikes[name].size
    wrong = _wrong(np.concatenate(decided), subject.test.samples)
    shares = {name: different[name] / places[name] for name in different}
    return Row(
        bits,
        wrong=tuple(sorted(wrong)),
        spikes=shares if compared else None,
        first_layer=program.facts["first_layer"]["computed_by"],
        lowered=tuple(program.facts["quantisation"]["scales_lowered_by_range_proof"]),
    )


class AsUsual(Passes):
    """Passes that quantise as is usual: one scale for each layer, to which all is rounded; then it is proven."""

    def apply(self, name: str, function: Callable[[Any], Any], stage: Any) -> Any:
        """Return what the pass `name` makes of `stage`."""
        return self._rounded(stage) if name == "quantise" else function(stage)

    def _rounded(self, network: PopulationNetwork) -> Quantised:
        limits, recipe = targets.find(TARGET).limits, self.options.recipe
        steps = self.options.steps
        assert steps is not None
        proven = quantise(network, limits, recipe=recipe, steps=steps)
        inputs: dict[str, IntegerPopulation] = {
            item.name: item for item in proven.network.populations if isinstance(item, IntegerInput)
        }
        on_host = {group.name for group in proven.network.synapses if group.on_host}
        wishes: dict[str, Wish] = {}
        for population in network.populations:
            if not isinstance(population, SpikingPopulation | ReadoutPopulation):
                continue
            groups = [group for group in network.into(population.name) if group.name not in on_host]
            scale = wished_scale(
                population,
                groups,
                inputs,
                limits,
                weight_bits=recipe.weight_bits,
                method=recipe.method,
            )
            wishes[population.name] = Wish(recipe.weight_bits, scale, final=True)
        first: FirstLayer = "host" if on_host else "auto"
        while True:
            try:
                return quantise(
                    network, limits, recipe=recipe, steps=steps, first_layer=first, choices=wishes
                )
            except RangeError as error:  # these layers get the proven integers instead
                refused = {problem.layer for problem in error.problems} & wishes.keys()
                if not refused:
                    raise
                wishes = {name: wish for name, wish in wishes.items() if name not in refused}


def as_usual(subject: Subject, recipe: Recipe) -> Program:
    """Return the program that the usual rounding makes."""
    target = targets.find(TARGET)
    options = CompileOptions(
        recipe=recipe,
        steps=subject.steps,
        validate=False,
        target_options=targets.resolve_options(target, {}),
    )
    return run_passes(subject.imported.network, target, AsUsual(options)).program


def exported(subject: Subject, recipe: Recipe) -> Program:
    """Return the program that `neurocompile export` makes; samples are training samples."""
    return neurocompile.export(
        subject.run,
        target=TARGET,
        recipe=recipe,
        calibrate=f"{subject.data}:train" if recipe.needs_samples else None,
        validate=False,
    )


def fine_tuned(subject: Subject, recipe: Recipe, images: Path, directory: Path) -> Path:
    """Return a run that goes on from the trained network in integers of `recipe`."""
    case = subject.case
    run = directory / f"{case.folder}-{recipe.weight_bits}"
    settings = case.settings(
        images,
        epochs=case.tuning_epochs,
        learning_rate=case.tuning_rate,
        start=str(subject.run),
        weight_bits=recipe.weight_bits,
        weight_method=recipe.method,
    )
    _train(case, settings, run)
    return run


def row_of(subject: Subject, way: Way, bits: int, images: Path, scratch: Path) -> Row:
    """Return what `way` gives in `bits`; kept in `scratch`, by the network, the way and the code."""
    key = _key(subject, way, bits)
    kept = scratch / "rows" / f"{key}.json"
    if kept.is_file():
        return Row.from_json(json.loads(kept.read_text(encoding="utf-8")))
    recipe = replace(way.recipe, weight_bits=bits)
    if way.mixed:
        recipe = replace(way.recipe, weight_bits=max(BITS), memory=subject.weights * bits // 8)
    try:
        if way.tuned:
            run = fine_tuned(subject, recipe, images, scratch / f"tuned-{key[:16]}")
            program = neurocompile.export(run, target=TARGET, weight_bits=bits, validate=False)
            row = measured(subject, program, bits, compared=False)
            check = neurocompile.verify(
                program, data=subject.data, samples=CHECKED, against=["torch", "fixedpoint"]
            )
            apart = sum(item.mismatches + item.output_mismatches for item in check.comparisons)
            row = replace(row, torch_mismatches=apart)
        else:
            program = as_usual(subject, recipe) if way.simple else exported(subject, recipe)
            row = measured(subject, program, bits, compared=True)
    except NeurocompileError as error:
        row = Row(bits, problem=str(error))
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, json.dumps(asdict(row)) + "\n")
    return row


def _key(subject: Subject, way: Way, bits: int) -> str:
    """Return what a row depends on, in short: the network, the way, the data and all code."""
    digest = hashlib.sha256((subject.run / LAST).read_bytes())
    tuning = (subject.case.tuning_epochs, subject.case.tuning_rate) if way.tuned else ()
    digest.update(json.dumps([asdict(way), bits, tuning, CHECKED]).encode())
    package = Path(neurocompile.__file__).parent
    for path in sorted([*package.rglob("*.py"), *(ROOT / "targets").rglob("*.py"), Path(__file__)]):
        digest.update(path.read_bytes())
    if Path(subject.data).is_file():
        digest.update(Path(subject.data).read_bytes())
    return digest.hexdigest()


Rows = dict[str, list[Row]]  # by way, one for each number of bits


def measure_case(
    subject: Subject,
    ways: Sequence[Way],
    bits: Sequence[int],
    tuned_bits: Sequence[int],
    images: Path,
    scratch: Path,
) -> Rows:
    """Measure all ways of one network; it is fine-tuned in `tuned_bits` only."""
    rows: Rows = {}
    for way in ways:
        rows[way.name] = []
        for number in bits:
            left_out = way.tuned and number not in tuned_bits
            row = (
                Row(number, problem=LEFT_OUT)
                if left_out
                else row_of(subject, way, number, images, scratch)
            )
            rows[way.name].append(row)
            told = row.problem or f"{len(row.wrong)} of {subject.samples} wrong"
            print(f"{subject.case.name}, {way.name}, {number} bits: {told}", flush=True)
    return rows


def points_lost(subject: Subject, row: Row) -> float | None:
    """Return by how many percentage points a row is below float; None without a program."""
    if row.problem:
        return None
    return 100 * (len(row.wrong) - len(subject.wrong)) / subject.samples


def chance(lost: int, won: int) -> float:
    """
    Return how likely at least `lost` of `lost + won` samples are by chance (McNemar's exact test).

    >>> chance(3, 0)
    0.125
    """
    total = lost + won
    ways = sum(math.comb(total, count) for count in range(lost, total + 1))
    return float(ways / 2**total)


@dataclass(frozen=True)
class Duel:
    """Two rows on the same samples: how many only the first, or only the second, gets wrong."""

    case: str
    bits: int
    opponent: str
    lost: int
    won: int
    samples: int

    @property
    def points(self) -> float:
        """By how many percentage points the first is better; negative where it is worse."""
        return 100 * (self.won - self.lost) / self.samples

    @property
    def beyond_chance(self) -> bool:
        """Whether the first is worse, and not by chance."""
        return self.lost > self.won and chance(self.lost, self.won) < CHANCE


def together(duels: Sequence[Duel]) -> int:
    """Return in how many of `duels` the first is worse beyond chance, all of them being tried (Holm)."""
    likely = sorted(chance(item.lost, item.won) for item in duels)
    for found, each in enumerate(likely):
        if each * (len(likely) - found) >= CHANCE:
            return found
    return len(likely)


def duel(subject: Subject, first: Row, second: Row, opponent: str) -> Duel:
    """Compare two rows; what has no program gets everything wrong."""
    everything = frozenset(range(subject.samples))
    mine = everything if first.problem else frozenset(first.wrong)
    other = everything if second.problem else frozenset(second.wrong)
    return Duel(
        subject.case.name,
        first.bits,
        opponent,
        len(mine - other),
        len(other - mine),
        subject.samples,
    )


HEAD = ("method", "worse", "beyond chance", "together", "worst case (points)")


def asked(subjects: Sequence[Subject], found: Mapping[str, Rows], ways: Sequence[Way]) -> Section:
    """Return what was asked of the quantiser, computed from the rows."""
    simple = [way for way in ways if way.simple]
    lines, data = [], []
    for way in ways:
        if way.simple or way.tuned:
            continue
        duels = _duels(subjects, found, way, simple)
        worst = min(duels, key=lambda item: item.points)
        worse = sum(item.points < 0 for item in duels)
        beyond, together_beyond = sum(item.beyond_chance for item in duels), together(duels)
        data.append(
            {
                "method": way.name,
                "cases": len(duels),
                "worse": worse,
                "worse_beyond_chance": beyond,
                "worse_beyond_chance_together": together_beyond,
                "worst": asdict(worst),
            }
        )
        numbers = (f"{worse} of {len(duels)}", str(beyond), str(together_beyond))
        name = f"**{way.name}**" if way in JUDGED else way.name
        lines.append((name, *numbers, _told(worst)))
    return Section(
        "What was asked",
        "Beside the two usual methods, on the test sets, for each network and number of bits: where a method is "
        "worse at all, where it is so beyond chance if that case were the only one (of many, one in twenty may be "
        "by chance), and where so with all cases tried together (Holm).",
        table(HEAD, lines),
        {"methods": data},
        _claims(subjects, found, ways),
    )


def _told(worst: Duel) -> str:
    where = f"{worst.case}, {worst.bits} bits, {worst.opponent}"
    return f"{worst.points:+.2f} ({where}: {worst.lost} lost, {worst.won} won)"


def _duels(
    subjects: Sequence[Subject], found: Mapping[str, Rows], way: Way, simple: Sequence[Way]
) -> list[Duel]:
    return [
        duel(subject, mine, other, opponent.name)
        for subject in subjects
        for opponent in simple
        for mine, other in zip(
            found[subject.case.name][way.name], found[subject.case.name][opponent.name], strict=True
        )
    ]


def _claims(
    subjects: Sequence[Subject], found: Mapping[str, Rows], ways: Sequence[Way]
) -> list[Claim]:
    points = " points"
    claims = []
    by_name = {subject.case.name: subject for subject in subjects}

    def below(name: str, way: Way, bits: int) -> float | None:
        if name not in by_name or way not in ways:
            return None
        row = next((row for row in found[name][way.name] if row.bits == bits), None)
        return None if row is None else points_lost(by_name[name], row)

    judged = [way for way in JUDGED if way in ways]
    for way in judged:
        for bits, most in ((8, 0.2), (4, 1.5)):
            lost = below("MNIST", way, bits)
            claims.append(
                Claim(f"MNIST, {bits} bits below float: {way.name}", lost, points, most=most)
            )
    claims.append(
        Claim("MNIST, 4 bits below float, fine-tuned", below("MNIST", TUNED, 4), points, most=0.5)
    )
    for way in judged:
        duels = _duels(subjects, found, way, [each for each in ways if each.simple])
        claims += [
            Claim(
                f"{way.name}, beside the two usual methods: the worst of {len(duels)} cases",
                min(item.points for item in duels),
                points,
                least=0,
            ),
            Claim(
                "cases where it is worse beyond chance, each case for itself",
                float(sum(item.beyond_chance for item in duels)),
                "",
                most=0,
            ),
            Claim(
                "cases where it is worse beyond chance, all tried together",
                float(together(duels)),
                "",
                most=0,
            ),
        ]
    tuned = [
        row
        for rows in found.values()
        for row in rows.get(TUNED.name, [])
        if row.torch_mismatches is not None
    ]
    claims.append(
        Claim(
            "fine-tuned networks: spikes and outputs that are not those of their forward pass in PyTorch",
            float(sum(row.torch_mismatches or 0 for row in tuned)) if tuned else None,
            "",
            most=0,
        )
    )
    return claims


def sections_of(subject: Subject, rows: Rows, bits: Sequence[int]) -> list[Section]:
    """Return the tables of one network: accuracies, and spikes that differ."""
    accuracy = 100 * (1 - len(subject.wrong) / subject.samples)
    share = accuracy / 100
    error = 100 * math.sqrt(share * (1 - share) / subject.samples)
    case = subject.case
    layers = list(subject.test.spikes[0])
    head = ("method", *(f"{number} bits" for number in bits))

    def accuracy_of(row: Row) -> str:
        if row.problem:
            return "-" if row.problem == LEFT_OUT else "none"
        return f"{100 * (1 - len(row.wrong) / subject.samples):.2f}{'*' if row.lowered else ''}"

    def spikes_of(row: Row) -> str:
        if row.spikes is None:
            return "none"
        return " / ".join(f"{100 * row.spikes[name]:.2f}" for name in layers)

    compared = {name: each for name, each in rows.items() if any(row.spikes for row in each)}
    return [
        Section(
            f"{case.name}: accuracy",
            f"Float: **{accuracy:.2f} %** of {subject.samples} test samples, with a standard error of "
            f"{error:.2f} points; one sample is {100 / subject.samples:.2f}. Trained for {case.epochs} epochs "
            f"with seed {SEED}; fine-tuned for each number of bits for {case.tuning_epochs} more, learning rate "
            f"{case.tuning_rate:g}. In %; \\* where the range proof lowered a layer's scale (not "
            "marked where samples decided it), none where no integers fit, - where not measured.",
            table(head, [(name, *map(accuracy_of, each)) for name, each in rows.items()]),
            {
                "samples": subject.samples,
                "float": accuracy / 100,
                "standard_error": error / 100,
                "settings": _what_counts(load_settings(subject.run)),
                "rows": {name: [asdict(row) for row in each] for name, each in rows.items()},
            },
        ),
        Section(
            f"{case.name}: spikes that differ",
            f"Of all places (sample, step, neuron) of the test set, those where the integers fire and the float does "
            f"not, or the other way round, in %, for {' / '.join(layers)}. Where the host computes the first layer, "
            f"in 16 bits, it hardly differs ({_hosts(rows)}).",
            table(head, [(name, *map(spikes_of, each)) for name, each in compared.items()]),
            None,
        ),
    ]


def _hosts(rows: Rows) -> str:
    measured_rows = [row for each in rows.values() for row in each if not row.problem]
    hosts = sum(row.first_layer == "host" for row in measured_rows)
    return f"{hosts} of {len(measured_rows)} programs"


def measure(
    cases: Sequence[Case],
    ways: Sequence[Way],
    bits: Sequence[int],
    *,
    tuned_bits: Sequence[int] = BITS,
    images: Path,
    runs: Path,
    scratch: Path,
) -> list[Section]:
    """Return what was asked, then the tables of each network."""
    subjects = [subject_of(case, images, runs) for case in cases]
    found = {
        subject.case.name: measure_case(subject, ways, bits, tuned_bits, images, scratch)
        for subject in subjects
    }
    tables = [
        section
        for subject in subjects
        for section in sections_of(subject, found[subject.case.name], bits)
    ]
    return [asked(subjects, found, ways), *tables]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--quick", action="store_true", help="a small network; writes nothing")
    parser.add_argument("--images", type=Path, default=IMAGES, help="the folder of image files")
    parser.add_argument("--runs", type=Path, default=SCRATCH, help="trained networks, or where to")
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="where rows are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the page is written")
    parser.add_argument("--cases", nargs="+", default=[case.name for case in CASES])
    parser.add_argument("--bits", nargs="+", type=int, default=BITS)
    parser.add_argument(
        "--tuned-bits", nargs="+", type=int, default=BITS, help="fine-tune in these only"
    )
    parser.add_argument("--ways", nargs="+", help="some ways only, by their names")
    options = parser.parse_args(arguments)
    keep_to_threads()
    others = Others()
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            sections = measure(
                (TINY,),
                (LARGEST, PLAIN[3], TUNED),
                (4,),
                images=options.images,
                runs=scratch,
                scratch=scratch,
            )
    else:
        sections = measure(
            [case for case in CASES if case.name in options.cases],
            [way for way in WAYS if options.ways is None or way.name in options.ways],
            options.bits,
            tuned_bits=options.tuned_bits,
            images=options.images,
            runs=options.runs,
            scratch=options.scratch,
        )
    measuring = machine()
    page = report(
        "Quantisation",
        "Written by `make bench-quantisation`. "
        + __doc__.strip()
        .partition("\n\n")[2]
        .replace("\n\n", "\0")
        .replace("\n", " ")
        .replace("\0", "\n\n"),
        sections,
        measuring,
        others.share(),
    )
    write_report(
        None if options.quick else options.results, "quantisation", page, sections, measuring
    )


if __name__ == "__main__":
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    main()
