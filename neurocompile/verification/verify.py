"""Verify a program: count over all samples, look closely at a few, and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from neurocompile import reference
from neurocompile.counted import remarks
from neurocompile.data import Inputs, map_inputs
from neurocompile.decision import DECISION
from neurocompile.dequantise import real_inputs
from neurocompile.ir import LIF, Threshold
from neurocompile.population_reference import simulate_populations
from neurocompile.populations import SpikingPopulation
from neurocompile.program import Program
from neurocompile.samples import SampleSource
from neurocompile.statistics import Share
from neurocompile.verification.report import (
    Comparison,
    Divergence,
    LayerComparison,
    Report,
    StageSummary,
)
from neurocompile.verification.stages import ProgressOf, Runner, plan_of
from neurocompile.verification.stream import count_all
from neurocompile.verification.tallies import LayerTally, PairTally, StageTally, Tally

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
) -> Report:
    """
    Run every stage on all samples of `source` and return how they differ.

    `against` chooses stages by name, as `plan_of` explains.
    """
    plan = plan_of(program, against)
    runner = Runner(program, plan)
    progress_of = progress_of or (lambda _stage: lambda _done, _total: None)
    tally = count_all(runner, source, progress_of=progress_of, deadline=deadline)
    pairs = {
        (pair.reference, pair.candidate): _comparison(runner, source, tally, pair.must_match, key)
        for pair in (*plan.pairs, plan.overall)
        for key in [(pair.reference, pair.candidate)]
    }
    return Report(
        target=program.target,
        samples=tally.samples,
        steps=tally.steps,
        stages=tuple(
            _summary(name, name in plan.integers, counted, tally)
            for name, counted in tally.stages.items()
        ),
        comparisons=tuple(pairs[pair.reference, pair.candidate] for pair in plan.pairs),
        overall=pairs[plan.overall.reference, plan.overall.candidate],
        counters=tally.counters,
        facts={name: program.facts[name] for name in TOLD if name in program.facts},
        data=source.name,
        whole=source.whole,
        remarks=tuple(remarks(program.network, tally.counters, places=tally.samples * tally.steps)),
    )


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


def _comparison(
    runner: Runner, source: SampleSource, tally: Tally, must_match: bool, key: tuple[str, str]
) -> Comparison:
    counted: PairTally = tally.pairs[key]
    found = [item for item in (counted.first,) if item is not None]
    kept = {item.sample: item for item in (*counted.kept, *found)}
    seen = looked_up(runner, source, key[1], [kept[sample] for sample in sorted(kept)])
    by_sample = {item.sample: item for item in seen}
    return Comparison(
        reference=key[0],
        candidate=key[1],
        must_match=must_match,
        layers=tuple(_layer(name, layer) for name, layer in counted.layers.items()),
        output_slots=counted.output_slots,
        output_mismatches=counted.output_mismatches,
        output_difference=counted.output_difference,
        first_divergence=None if counted.first is None else by_sample[counted.first.sample],
        divergences=tuple(by_sample[item.sample] for item in counted.kept),
        differing_samples=Share(counted.differing, tally.samples),
        same_decisions=Share(counted.agreeing, tally.samples),
    )


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


def looked_up(
    runner: Runner, source: SampleSource, stage: str, divergences: Sequence[Divergence]
) -> list[Divergence]:
    """
    Return `divergences` with the membranes and thresholds of the candidate `stage`.

    Integer stages are looked up in the engine that defines them.
    """
    if not divergences:
        return []
    samples = source.fetch(np.array([item.sample for item in divergences]))
    inputs = runner.inputs_of(samples)
    result = []
    for number, item in enumerate(divergences):
        part = map_inputs(lambda values, at=number: values[at : at + 1], inputs)  # type: ignore[misc]
        membrane, threshold = _membrane(runner, stage, part, item)
        result.append(replace(item, membrane=membrane, threshold=threshold))
    return result


def _membrane(
    runner: Runner, stage: str, inputs: Inputs, place: Divergence
) -> tuple[float | None, float | None]:
    """Return the membrane just before the spike was decided, and its threshold, in the source's units."""
    from neurocompile_fixedpoint.definition import execute

    program, layer = runner.program, place.layer
    if stage == "torch":
        return None, None
    at = (0, place.step)
    if stage == "float":
        node = runner.network.nodes[layer]
        assert isinstance(node, LIF | Threshold)
        trace = reference.simulate(runner.network, inputs, membranes=True)
        return float(trace.membrane[layer][at].flat[place.neuron]), float(
            node.threshold.flat[place.neuron]
        )
    if stage == "quantised":
        assert runner.dequantised is not None
        shown = real_inputs(program.network, program.payloads(inputs))
        real = simulate_populations(runner.dequantised, shown)
        item = runner.dequantised[layer]
        assert isinstance(item, SpikingPopulation)
        membranes = real.membrane[layer][at] + item.origin
        fires_at = np.broadcast_to(item.threshold + item.origin, item.shape)
        return float(membranes.flat[place.neuron]), float(fires_at.flat[place.neuron])
    payloads = program.payloads(inputs)
    engine = execute(
        program.network,
        payloads,
        samples=1,
        steps=next(iter(payloads.values())).shape[1],
        record=[f"membrane/{layer}"],
        before_reset=True,
    )
    units = program.to_source_units(engine)
    neurons = next(item for item in program.network.neurons if item.name == layer)
    thresholds = np.broadcast_to(
        neurons.threshold << neurons.arithmetic.fraction_bits, neurons.shape
    )
    threshold = neurons.in_source_units(thresholds).flat[place.neuron]
    return float(units.membrane[layer][at].flat[place.neuron]), float(threshold)
