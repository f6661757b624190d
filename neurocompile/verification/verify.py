"""Verify a program: count over all samples, look closely at a few, and report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from neurocompile.counted import remarks
from neurocompile.decision import DECISION
from neurocompile.program import REFERENCE, Program
from neurocompile.samples import SampleSource
from neurocompile.statistics import Share, Z
from neurocompile.verification.budgets import Budgets, check_measurable, judge
from neurocompile.verification.energy import energy_of
from neurocompile.verification.examine import examine as look_closely
from neurocompile.verification.exhibits import exhibits_of
from neurocompile.verification.lookup import look_up
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
    `state` is a directory that keeps what is done until all is. `examine` samples are looked at closely,
    with `alternatives` also quantised in other ways. Raises `OptionError` for `budgets` that this cannot
    measure, before anything runs.
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
        )
    check_labels(program, source.labels)
    runner = Runner(program, plan)
    progress_of = progress_of or (lambda _stage: lambda _done, _total: None)
    tally = count_all(
        runner, source, progress_of=progress_of, deadline=deadline, jobs=jobs, state=state
    )
    comparisons, overall = _comparisons(runner, source, tally)
    stages = tuple(
        _summary(name, name in plan.integers, counted, tally)
        for name, counted in tally.stages.items()
    )
    examination, unexamined = _examined(
        runner, source, tally, examine, alternatives=alternatives, progress_of=progress_of
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
        remarks=tuple(remarks(program.network, tally.counters, places=tally.samples * tally.steps)),
        budgets=judge(budgets, overall, stages, whole=source.whole),
        examination=examination,
        energy=energy,
        not_measured={**_left_out(program, plan, tally), **unexamined, **unknown},
    )


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
    if next(iter(tally.stages.values())).right_by_step is None:
        found["accuracy"] = "the data has no labels"
    return found


def _examined(
    runner: Runner,
    source: SampleSource,
    tally: Tally,
    count: int,
    *,
    alternatives: bool,
    progress_of: ProgressOf,
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


def _summary(name: str, integers: bool, counted: StageTally, tally: Tally) -> StageSummary:
    right = counted.right_by_step
    shares = None if right is None else tuple(Share(count, tally.samples) for count in right)
    return StageSummary(
        name=name,
        integers=integers,
        accuracy=None if shares is None else shares[-1],
        accuracy_over_steps=shares,
        steps_to_decision=counted.decided / tally.samples,
        spikes=sum(counted.spikes.values()),
        rates={layer: count / counted.slots[layer] for layer, count in counted.spikes.items()},
    )


def _comparisons(
    runner: Runner, source: SampleSource, tally: Tally
) -> tuple[tuple[Comparison, ...], Comparison]:
    """Return how the pairs of the plan differ, and how the overall one does."""
    plan = runner.plan
    named = {(pair.reference, pair.candidate): pair for pair in (*plan.pairs, plan.overall)}
    kept = {
        key: [item for item in (tally.pairs[key].first, *tally.pairs[key].kept) if item is not None]
        for key in named
    }
    seen = look_up(runner, source, kept, steps=tally.steps)
    pairs = {
        key: _comparison(key, tally.pairs[key], seen[key], tally, must_match=pair.must_match)
        for key, pair in named.items()
    }
    overall = pairs[plan.overall.reference, plan.overall.candidate]
    return tuple(pairs[pair.reference, pair.candidate] for pair in plan.pairs), overall


def _comparison(
    key: tuple[str, str],
    counted: PairTally,
    seen: dict[int, Divergence],
    tally: Tally,
    *,
    must_match: bool,
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
        same_decisions=Share(counted.agreeing, tally.samples),
        interval=mismatch_interval(counted, tally.samples),
    )


def mismatch_interval(counted: PairTally, samples: int) -> tuple[float, float] | None:
    """
    Return the 95 % confidence interval of the share of differing spikes.

    Spikes of one sample are not independent, samples are: it is that of the mean of the samples' shares,
    by the normal distribution. None where that says nothing: of one sample, or without a difference.
    """
    slots = sum(layer.slots for layer in counted.layers.values()) / samples  # of each sample
    total = sum(layer.mismatches for layer in counted.layers.values())
    if samples < 2 or not total:
        return None
    variance = (counted.squares - total * total / samples) / (samples - 1)
    mean, reach = total / samples, Z * math.sqrt(max(0.0, variance) / samples)
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
