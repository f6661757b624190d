"""Go over all samples, a chunk at a time, and add up what is counted: memory does not grow with the data."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import add

from neurocompile.data import Samples, sample_count
from neurocompile.decision import weights_in
from neurocompile.samples import SampleSource
from neurocompile.verification.stages import Counters, ProgressOf, Runner, Stage
from neurocompile.verification.tallies import (
    PairTally,
    StageTally,
    Tally,
    decisions_over_steps,
    tally_pair,
    tally_stage,
)

AT_ONCE = 256  # samples


def count_all(
    runner: Runner,
    source: SampleSource,
    *,
    progress_of: ProgressOf,
    deadline: float | None = None,
) -> Tally:
    """Return what is counted on all samples of `source`."""
    bars = {name: progress_of(name) for name in (*runner.plan.stages, *runner.plan.forms)}
    tallies: list[Tally] = []
    for start, samples in chunks(source):
        tallies.append(
            count_chunk(
                runner,
                samples,
                start,
                progress_of=lambda name, start=start: (  # type: ignore[misc]
                    lambda done, _of: bars[name](start + done, source.count)
                ),
                deadline=deadline,
            )
        )
    return reduce(add, tallies)


def chunks(source: SampleSource) -> Iterator[tuple[int, Samples]]:
    """Yield parts of `source` in order, each with the number of its first sample."""
    for start in range(0, source.count, AT_ONCE):
        yield start, source.part(start, start + AT_ONCE)


def count_chunk(
    runner: Runner,
    samples: Samples,
    offset: int,
    *,
    progress_of: ProgressOf,
    deadline: float | None = None,
) -> Tally:
    """Run every stage on `samples`, the first of which has the number `offset`, and count."""
    inputs = runner.inputs_of(samples)
    plan, weights = runner.plan, weights_in(runner.program.facts)
    stages: dict[str, Stage] = {}
    counters: Counters = {}
    for name in plan.stages:
        stages[name], counted = runner.run(
            name, inputs, progress=progress_of(name), deadline=deadline
        )
        counters = counted or counters
    pairs: dict[tuple[str, str], PairTally] = {}
    tallies: dict[str, StageTally] = {
        name: tally_stage(stage, samples.labels, weights) for name, stage in stages.items()
    }
    last = {
        name: decisions_over_steps(next(iter(stage.outputs.values())), weights)[:, -1]
        for name, stage in stages.items()
    }
    for pair in plan.pairs:
        form = pair.candidate in plan.forms
        if form:  # one after the other: all of them at once would take much memory
            second, _ = runner.run(
                pair.candidate, inputs, progress=progress_of(pair.candidate), deadline=deadline
            )
            decided = decisions_over_steps(next(iter(second.outputs.values())), weights)[:, -1]
        else:
            second, decided = stages[pair.candidate], last[pair.candidate]
        pairs[pair.reference, pair.candidate] = tally_pair(
            stages[pair.reference],
            second,
            offset=offset,
            agreeing=int((decided == last[pair.reference]).sum()),
        )
    overall = (plan.overall.reference, plan.overall.candidate)
    if overall not in pairs:
        pairs[overall] = tally_pair(
            stages[overall[0]],
            stages[overall[1]],
            offset=offset,
            agreeing=int((last[overall[0]] == last[overall[1]]).sum()),
        )
    steps = next(iter(next(iter(stages.values())).outputs.values())).shape[1]
    return Tally(sample_count(samples.inputs), steps, pairs, tallies, counters)
