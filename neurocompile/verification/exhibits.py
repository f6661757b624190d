"""A few samples to look at, with everything that each stage fired on them."""

from __future__ import annotations

import math

import numpy as np

from neurocompile.data import sample_count
from neurocompile.decision import decisions, weights_in
from neurocompile.samples import SampleSource
from neurocompile.verification.report import Exhibit
from neurocompile.verification.stages import Runner, Stage
from neurocompile.verification.tallies import Tally

FIRST, DIFFERING = 4, 4  # samples: the first ones, and some that differ
MOST_VALUES = 1 << 23  # spikes of all exhibits and stages together: 8 MiB


def exhibits_of(
    runner: Runner, source: SampleSource, tally: Tally, deadline: float | None = None
) -> tuple[Exhibit, ...]:
    """
    Run the stages again on a few samples of `source` and return what they did; no forms of a target.

    These are the first samples and some in which the first stage and the target differ: fewer of both where
    a network is so large that they would take much memory, one at least.
    """
    chosen = samples_to_show(runner, tally)
    samples = source.fetch(np.array(chosen, np.int64))
    inputs = runner.inputs_of(samples)
    weights = weights_in(runner.program.facts)
    stages: list[Stage] = []
    for name in runner.plan.stages:
        stage, _ = runner.run(name, inputs, progress=lambda _done, _of: None, deadline=deadline)
        stages.append(stage)
    first_output = {stage.name: next(iter(stage.outputs.values())) for stage in stages}
    decided = {name: decisions(output, weights) for name, output in first_output.items()}
    assert sample_count(samples.inputs) == len(chosen)
    return tuple(
        Exhibit(
            sample=sample,
            label=None if samples.labels is None else int(samples.labels[at]),
            spikes={
                stage.name: {layer: values[at] for layer, values in stage.spikes.items()}
                for stage in stages
            },
            outputs={
                name: output[at].reshape(output.shape[1], -1)
                for name, output in first_output.items()
            },
            decisions={name: int(classes[at]) for name, classes in decided.items()},
        )
        for at, sample in enumerate(chosen)
    )


def samples_to_show(runner: Runner, tally: Tally) -> list[int]:
    """Return the numbers of the samples that are worth looking at, in order."""
    overall = tally.pairs[runner.plan.overall.reference, runner.plan.overall.candidate]
    differing = [item.sample for item in (overall.first, *overall.kept) if item is not None]
    wanted = list(
        dict.fromkeys(
            [
                *differing[:1],
                *range(min(FIRST, tally.samples)),
                *differing[1:DIFFERING],
            ]
        )
    )
    neurons = sum(math.prod(item.shape) for item in runner.program.network.spiking)
    values = max(1, neurons * tally.steps * len(runner.plan.stages))
    return sorted(wanted[: max(1, MOST_VALUES // values)])
