"""Verify a program: count over all samples, look closely at a few, and report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

from neurocompile.counted import remarks
from neurocompile.decision import DECISION
from neurocompile.pipeline import versions
from neurocompile.program import REFERENCE, Program
from neurocompile.samples import SampleSource
from neurocompile.statistics import Share, student
from neurocompile.verification.budgets import Budgets, check_measurable, judge
from neurocompile.verification.energy import energy_of
from neurocompile.verification.examine import examine as look_closely
from neurocompile.verification.exhibits import exhibits_of
from neurocompile.verification.lookup import affordable, look_up
from neurocompile.verification.report import (
    Comparison,
    Divergence,
    Energy,
    Examination,
    LayerComparison,
    Report,
    StageSummary,
)
from neurocompile.verification.shape import network_of, resources_of
from neurocompile.verification.stages import Plan, ProgressOf, Runner, check_labels, plan_of
from neurocompile.verification.stream import count_all
from neurocompile.verification.tallies import LayerTally, PairTally, StageTally, Tally

EXAMINED = 32  # samples, unless asked otherwise
LEFT_OUT = "--against left it out"
ONE_OUTPUT = "the network has one output, no classes"
FEWEST = 3  # samples, of which an interval says something
RUNS_ON = {"torch": "torch", "loihi2": "lava-nc", "onnx": "onnxruntime"}  # beside Python and NumPy
TOLD = (  # of a program's facts
    "source",
    "import",
    "folding",
    DECISION,
    "first_layer",
    "quantisation",
    "notes",
    "validation",
    "versions",
)


def verify_program(
    program: Program,
    source: SampleSource,
    *,
    against: Sequence[str] = (),
    progress_of: ProgressOf | None = None,
    deadline: float | None = None,
    jobs: int = 1,
    state: Path | None = None,
    examine: int = EXAMINED,
    alternatives: bool = False,
    budgets: Budgets | None = None,
) -> Report:
    """
    Run every stage on all samples of `source` and return how they differ.

    `against` chooses stages by name, as `plan_of` explains; `jobs` processes share the samples, and
    `state` is a directory that keeps what is counted, which the caller removes. `examine` samples are looked
    at closely, with `alternatives` also quantised in other ways. `deadline` seconds are there to count all
    samples, for each later run of the target, and for all alternatives together. Raises `OptionError` for
    `budgets` that this cannot measure, before anything runs.
    """
    budgets = budgets or Budgets()
    plan = plan_of(program, against)
    if budgets.given:
        check_measurable(
            budgets,
            plan,
            labelled=source.part(0, 1).labels is not None,
            spiking=bool(program.network.spiking),
            target=program.target,
            classes=_classes(program),
        )
    check_labels(program, source.labels)
    runner = Runner(program, plan)
    progress_of = progress_of or (lambda _stage: lambda _done, _total: None)
    tally = count_all(
        runner, source, progress_of=progress_of, deadline=deadline, jobs=jobs, state=state
    )
    comparisons, overall, unseen = _comparisons(runner, source, tally, closely=examine > 0)
    stages = tuple(
        _summary(name, name in plan.integers, counted, tally, classes=_classes(program))
        for name, counted in tally.stages.items()
    )
    examination, unexamined = _examined(
        runner,
        source,
        tally,
        examine,
        alternatives=alternatives,
        progress_of=progress_of,
        deadline=deadline,
    )
    energy, unknown = _energy(runner, tally)
    return Report(
        target=program.target,
        samples=tally.samples,
        steps=tally.steps,
        stages=stages,
        comparisons=comparisons,
        overall=overall,
        counters=tally.counters,
        facts={name: program.facts[name] for name in TOLD if name in program.facts},
        data=source.name,
        whole=source.whole,
        resources=resources_of(program),
        network=network_of(program),
        exhibits=exhibits_of(runner, source, tally, deadline),
        remarks=(
            *remarks(program.network, tally.counters, places=tally.samples * tally.steps),
            *_silent(stages, spiking=bool(program.network.spiking)),
        ),
        budgets=judge(budgets, overall, stages, whole=source.whole, alone=_alone(plan, tally)),
        examination=examination,
        energy=energy,
        not_measured={
            **_left_out(program, plan, tally),
            **unseen,
            **unexplained(unexamined, examination, comparisons),
            **unknown,
        },
        versions=_versions(plan),
    )


def _classes(program: Program) -> int:
    """Return among how many classes the first output decides."""
    return math.prod(program.network[next(iter(program.network.outputs.values()))].shape)


def _alone(plan: Plan, tally: Tally) -> tuple[int, int] | None:
    counted = tally.pairs[plan.overall.reference, plan.overall.candidate]
    if counted.only_first is None or counted.only_second is None:
        return None
    return counted.only_first, counted.only_second


def _silent(stages: Iterable[StageSummary], *, spiking: bool) -> list[str]:
    """Return a remark on stages in which nothing fired."""
    silent = [stage.name for stage in stages if not stage.spikes] if spiking else []
    return [f"{', '.join(silent)}: no neuron fired in any sample"] if silent else []


def _versions(plan: Plan) -> dict[str, str]:
    """Return the versions of what runs the stages of `plan`, as installed here, whatever process ran them."""
    from neurocompile_fixedpoint.run import NEEDS, installed_engines

    found = {key: str(told) for key, told in versions().items()}
    ran = {name.partition(":")[0] for name in (*plan.stages, *plan.forms)}
    packages = [package for name, package in RUNS_ON.items() if name in ran]
    if "fixedpoint" in ran and (quickest := installed_engines()[0]) in NEEDS:
        packages.append(NEEDS[quickest][0])
    for package in dict.fromkeys(packages):
        try:
            found[package] = version_of(package)
        except PackageNotFoundError:
            continue  # a target's own package brings what runs there
    return found


def unexplained(
    reasons: Mapping[str, str], examination: Examination | None, comparisons: Iterable[Comparison]
) -> dict[str, str]:
    """
    Return `reasons` without those of causes between PyTorch and a stage which the float network explains.

    It does if its own cause was found, for this stage or for integers that this stage matches.
    """
    causes = () if examination is None else examination.causes
    explained = {cause.candidate for cause in causes if cause.reference == "float"}
    explained |= {
        pair.candidate
        for pair in comparisons
        if pair.reference in explained and pair.must_match and not pair.mismatches
    }
    dropped = {f"cause of torch/{name}" for name in explained}
    return {name: reason for name, reason in reasons.items() if name not in dropped}


def _left_out(program: Program, plan: Plan, tally: Tally) -> dict[str, str]:
    """Return the stages that were not run, and what no stage could show, with the reasons."""
    found = {}
    if "torch" not in plan.stages:
        known = REFERENCE in program.extra_files
        found["torch"] = LEFT_OUT if known else "the program comes from no PyTorch network of ours"
    found.update({name: LEFT_OUT for name in ("float", "quantised") if name not in plan.stages})
    if program.target != "fixedpoint" and "fixedpoint" not in plan.stages:
        found["fixedpoint"] = LEFT_OUT
    if not program.network.spiking:
        found["spikes"] = "no layer of the network spikes"
    for pair in plan.pairs:
        if not pair.spikes:
            found[f"spikes of {pair.candidate}"] = "it shows outputs alone"
    found.update(_uncompared(plan, tally))
    if _classes(program) < 2:
        found["decisions"] = found["accuracy"] = ONE_OUTPUT
    elif next(iter(tally.stages.values())).right_by_step is None:
        found["accuracy"] = "the data has no labels"
    return found


def _uncompared(plan: Plan, tally: Tally) -> dict[str, str]:
    """Return the layers that one stage of a pair shows and the other one does not."""
    found = {}
    for pair in dict.fromkeys((*plan.pairs, plan.overall)):
        if not pair.spikes:
            continue
        names = (pair.reference, pair.candidate)
        compared = tally.pairs[names].layers
        for shown, other in (names, names[::-1]):
            spikes = tally.stages[shown].spikes if shown in tally.stages else {}
            for layer in spikes:
                if layer not in compared:
                    found[f"'{layer}' in {names[0]} / {names[1]}"] = f"{other} does not show it"
    return found


def _examined(
    runner: Runner,
    source: SampleSource,
    tally: Tally,
    count: int,
    *,
    alternatives: bool,
    progress_of: ProgressOf,
    deadline: float | None,
) -> tuple[Examination | None, dict[str, str]]:
    """Look closely at `count` samples; what that could not measure comes with its reasons."""
    if not count:
        return None, {"examination": "it was left out (--examine 0)"}
    if "float" not in runner.plan.stages:
        return None, {"examination": f"it compares float with the integers: {LEFT_OUT}"}
    found, reasons = look_closely(
        runner,
        source,
        tally,
        count=count,
        alternatives=alternatives,
        progress=progress_of("examination"),
        deadline=deadline,
    )
    if not alternatives:
        reasons = {"alternatives": "not asked for (--suggest)", **reasons}
    return found, reasons


def _energy(runner: Runner, tally: Tally) -> tuple[tuple[Energy, ...], dict[str, str]]:
    """Estimate the energy of each stage that shows spikes, from their means over all samples."""
    means = {
        name: {
            layer: total / tally.samples
            for layer, total in {**tally.inputs, **counted.by_neuron}.items()
        }
        for name, counted in tally.stages.items()
    }
    return energy_of(runner.program, means, steps=tally.steps)


def _summary(
    name: str, integers: bool, counted: StageTally, tally: Tally, *, classes: int
) -> StageSummary:
    decides = classes > 1
    right = counted.right_by_step if decides else None
    shares = None if right is None else tuple(Share(count, tally.samples) for count in right)
    decided = tally.samples - counted.undecided
    return StageSummary(
        name=name,
        integers=integers,
        accuracy=None if shares is None else shares[-1],
        accuracy_over_steps=shares,
        steps_to_decision=counted.decided / decided if decides and decided else None,
        spikes=sum(counted.spikes.values()),
        rates={layer: count / counted.slots[layer] for layer, count in counted.spikes.items()},
        undecided=Share(counted.undecided, tally.samples) if decides else None,
    )


def _comparisons(
    runner: Runner, source: SampleSource, tally: Tally, *, closely: bool
) -> tuple[tuple[Comparison, ...], Comparison, dict[str, str]]:
    """
    Return how the pairs of the plan differ, how the overall one does, and which membranes are not told.

    Those of each pair's first difference always are; with `closely` those of others, while samples are
    affordable.
    """
    plan = runner.plan
    named = {(pair.reference, pair.candidate): pair for pair in (*plan.pairs, plan.overall)}
    first = {key: tally.pairs[key].first for key in named}
    every = {
        key: [item for item in (first[key], *tally.pairs[key].kept) if item is not None]
        for key in named
    }
    sure = {item.sample for item in first.values() if item is not None}
    others = sorted({item.sample for items in every.values() for item in items} - sure)
    room = max(0, affordable(runner, tally.steps) - len(sure)) if closely else 0
    chosen = sure.union(others[:room])
    wanted = {
        key: [item for item in items if item.sample in chosen] for key, items in every.items()
    }
    looked = look_up(runner, source, wanted, steps=tally.steps)
    seen = {
        key: {item.sample: looked[key].get(item.sample, item) for item in items}
        for key, items in every.items()
    }
    pairs = {
        key: _comparison(
            key,
            tally.pairs[key],
            seen[key],
            tally,
            must_match=pair.must_match,
            decides=_classes(runner.program) > 1,
        )
        for key, pair in named.items()
    }
    overall = pairs[plan.overall.reference, plan.overall.candidate]
    missing = {}
    if others[room:]:
        missing["membranes of other divergences"] = (
            f"a sample takes so many multiplications that they were looked up in {len(chosen)} of "
            f"{len(sure) + len(others)} samples"
            if closely
            else "they were left out (--examine 0)"
        )
    return tuple(pairs[pair.reference, pair.candidate] for pair in plan.pairs), overall, missing


def _comparison(
    key: tuple[str, str],
    counted: PairTally,
    seen: dict[int, Divergence],
    tally: Tally,
    *,
    must_match: bool,
    decides: bool,
) -> Comparison:
    return Comparison(
        reference=key[0],
        candidate=key[1],
        must_match=must_match,
        layers=tuple(_layer(name, layer) for name, layer in counted.layers.items()),
        output_slots=counted.output_slots,
        output_mismatches=counted.output_mismatches,
        output_difference=counted.output_difference,
        first_divergence=None if counted.first is None else seen[counted.first.sample],
        divergences=tuple(seen[item.sample] for item in counted.kept),
        differing_samples=Share(counted.differing, tally.samples) if counted.layers else None,
        same_decisions=Share(counted.agreeing, tally.samples) if decides else None,
        interval=mismatch_interval(counted, tally.samples),
    )


def mismatch_interval(counted: PairTally, samples: int) -> tuple[float, float] | None:
    """
    Return the 95 % confidence interval of the share of differing places.

    Spikes of one sample are not independent, samples are: it is that of the mean of the samples' shares,
    by Student's t. None where that says nothing: of fewer than three samples, or of samples that are all
    alike.
    """
    slots = sum(layer.slots for layer in counted.layers.values()) / samples  # of each sample
    total = sum(layer.mismatches for layer in counted.layers.values())
    varies = samples * counted.squares - total * total  # exactly: these are integers
    if samples < FEWEST or not varies:
        return None
    mean = total / samples
    reach = student(samples - 1) * math.sqrt(varies / (samples - 1)) / samples
    return max(0.0, (mean - reach) / slots), min(1.0, (mean + reach) / slots)


def _layer(name: str, layer: LayerTally) -> LayerComparison:
    return LayerComparison(
        name=name,
        slots=layer.slots,
        mismatches=layer.mismatches,
        rate_reference=layer.spikes_reference / layer.slots,
        rate_candidate=layer.spikes_candidate / layer.slots,
        spikes_reference=layer.spikes_reference,
        spikes_candidate=layer.spikes_candidate,
        missing=layer.missing,
        extra=layer.extra,
        by_step=layer.by_step,
        count_difference=layer.moved / layer.trains,
    )
