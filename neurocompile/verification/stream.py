"""
Go over all samples, a chunk at a time, and add up what is counted: memory does not grow with the data.

How many samples make a chunk depends on the network and on nothing else, so that the same chunks are
counted whether one process does, or several (`jobs`), or those that torchrun started (`ranks`), or one
that goes on with what an interrupted run has kept (`resume`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import Inputs, Samples, sample_count
from neurocompile.decision import weights_in
from neurocompile.errors import OptionError, Problem
from neurocompile.integer import Integer
from neurocompile.samples import SampleSource, digest_of
from neurocompile.target import Progress
from neurocompile.verification.energy import counts_as_spikes
from neurocompile.verification.jobs import Counted, Part, count_in_processes, out_of_time
from neurocompile.verification.ranks import Meeting, Ranks, meeting, ranks_here
from neurocompile.verification.resume import Kept, open_kept
from neurocompile.verification.stages import Counters, ProgressOf, Runner, Stage
from neurocompile.verification.tallies import (
    PairTally,
    StageTally,
    Tally,
    decisions_over_steps,
    right_alone,
    tally_pair,
    tally_stage,
)
from neurocompile.verification.wire import from_bytes, to_bytes

AT_ONCE = 128  # samples, at most: what engines run side by side, and what an interruption costs
BYTES_AT_ONCE = (
    256 << 20
)  # of a chunk's inputs, spikes, outputs, and the numbers made to count them
EVERYTHING = "samples"  # the progress of several processes, which have no stage in common


def count_all(
    runner: Runner,
    source: SampleSource,
    *,
    progress_of: ProgressOf,
    deadline: float | None = None,
    jobs: int = 1,
    state: Path | None = None,
) -> Tally:
    """
    Return what is counted on all samples of `source`; the result is the same for any number of `jobs`.

    With `jobs` above 1 as many processes share the samples, and there is one progress instead of one for
    each stage. Under torchrun the processes that it started share them, and all return the same.
    `state` is a directory that keeps what is done: a later call with the same program and data goes on
    there. Who calls removes it (`resume.remove_kept`), when what comes after is done as well.

    Raises `OptionError` for `jobs` that make no sense, or for a `state` of something else, `ExecutionError`
    if a process ends before it is done, `DeadlineError` if all is not counted after `deadline` seconds, and
    whatever running the stages raises.
    """
    ends = math.inf if deadline is None else time.monotonic() + deadline
    ranks = ranks_here()
    _check_jobs(jobs, ranks)
    if not ranks.first:
        progress_of = _silent
    with meeting(ranks) as all_of_us:
        kept = None
        if state is not None:
            kept = _opened_by_all(all_of_us, state, runner, source)

        def count_mine() -> bytes:
            parts = parts_of(source.count, samples_at_once(runner, source))
            mine = parts[ranks.rank :: ranks.world]
            found = _counted(
                runner,
                source,
                mine,
                progress_of=progress_of,
                ends=ends,
                jobs=jobs,
                kept=kept,
            )
            return b"" if found is None else to_bytes(found)

        tallies = [from_bytes(Tally, item) for item in all_of_us.agree(count_mine) if item]
    return reduce(add, tallies)


def _opened_by_all(all_of_us: Meeting, state: Path, runner: Runner, source: SampleSource) -> Kept:
    """Open what is kept in `state`: the first process makes it, the others find it."""
    opened: list[Kept] = []

    def opening(*, first: bool) -> bytes:
        if first == all_of_us.ranks.first:
            opened.append(open_kept(state, runner, source, samples_at_once(runner, source)))
        return b""

    all_of_us.agree(lambda: opening(first=True))
    all_of_us.agree(lambda: opening(first=False))
    return opened[0]


def parts_of(count: int, at_once: int) -> list[Part]:
    """Return the chunks of `count` samples, in order."""
    return [Part(start, min(start + at_once, count)) for start in range(0, count, at_once)]


def samples_at_once(runner: Runner, source: SampleSource) -> int:
    """Return how many samples make a chunk: at most `AT_ONCE`, and about `BYTES_AT_ONCE`."""
    payloads = runner.program.payloads(runner.inputs_of(source.part(0, 1)))
    steps = int(next(iter(payloads.values())).shape[1])
    network = runner.program.network
    neurons = [math.prod(item.shape) for item in network.neurons]
    # Spikes take a byte each; numbers of spikes, and what read-outs show, eight at most.
    recorded = sum(
        math.prod(item.shape) * (1 if item.most == 1 and not item.readout else 8)
        for item in network.neurons
    )
    each = 2 * len(runner.plan.stages) * recorded  # engines join parts of it at the end
    # Membranes of the quantised stage, twice; or what counting one layer of a pair makes.
    each += max(2 * 8 * sum(neurons), (4 * 8 + 2) * max(neurons))
    each += (4 + 8 + 8) * sum(math.prod(item.shape) for item in network.inputs)
    return max(1, min(AT_ONCE, BYTES_AT_ONCE // (steps * each)))


def _check_jobs(jobs: int, ranks: Ranks) -> None:
    if jobs < 1:
        raise OptionError(Problem("", "--jobs must be at least 1", f"it is {jobs}"))
    if jobs > 1 and ranks.world > 1:
        raise OptionError(
            Problem(
                "",
                "--jobs starts processes of its own",
                f"torchrun has started {ranks.world} already",
                "leave --jobs out, or torchrun",
            )
        )


def _silent(_stage: str) -> Progress:
    return lambda _done, _of: None


def _counted(
    runner: Runner,
    source: SampleSource,
    parts: Sequence[Part],
    *,
    progress_of: ProgressOf,
    ends: float,
    jobs: int,
    kept: Kept | None,
) -> Tally | None:
    """Return the sum of `parts`, of those that were kept as well; None of no parts."""
    total: Tally | None = None
    missing: list[Part] = []
    for part in parts:
        known = None if kept is None else _known(kept, source, part)
        if known is None:
            missing.append(part)
        else:
            total = known if total is None else total + known
    done = sum(len(part) for part in parts) - sum(len(part) for part in missing)
    of = sum(len(part) for part in parts)
    if jobs > 1 and len(missing) > 1:
        found = _side_by_side(runner, source, missing, progress_of, ends, jobs, done, of)
    else:
        found = _one_by_one(runner, source, missing, progress_of, ends, done, of)
    with closing(found):
        for part, samples, tally in found:
            if kept is not None:
                kept.write(part, samples, tally)
            total = tally if total is None else total + tally
    return total


def _known(kept: Kept, source: SampleSource, part: Part) -> Tally | None:
    """Return what was counted of the very samples that `part` has now."""
    if not kept.holds(part):
        return None
    return kept.read(part, digest_of(source.part(part.start, part.stop)))


def _one_by_one(
    runner: Runner,
    source: SampleSource,
    parts: Sequence[Part],
    progress_of: ProgressOf,
    ends: float,
    done: int,
    of: int,
) -> Generator[Counted, None, None]:
    bars = {name: progress_of(name) for name in (*runner.plan.stages, *runner.plan.forms)}
    for part in parts:

        def of_chunk(name: str, before: int = done) -> Progress:
            return lambda now, _of: bars[name](before + now, of)

        samples = source.part(part.start, part.stop)
        tally = count_chunk(runner, samples, part.start, progress_of=of_chunk, ends=ends)
        yield part, digest_of(samples), tally
        done += len(part)


def _side_by_side(
    runner: Runner,
    source: SampleSource,
    parts: Sequence[Part],
    progress_of: ProgressOf,
    ends: float,
    jobs: int,
    done: int,
    of: int,
) -> Generator[Counted, None, None]:
    progress = progress_of(EVERYTHING)
    progress(done, of)
    with closing(count_in_processes(runner, source, parts, jobs=jobs, ends=ends)) as found:
        for part, samples, tally in found:
            done += len(part)
            progress(done, of)
            yield part, samples, tally


def count_chunk(
    runner: Runner,
    samples: Samples,
    offset: int,
    *,
    progress_of: Callable[[str], Progress],
    ends: float = math.inf,
) -> Tally:
    """
    Run every stage on `samples`, the first of which has the number `offset`, and count.

    Raises `DeadlineError` where a stage is not done at `ends`, a time of `time.monotonic`.
    """
    inputs = runner.inputs_of(samples)
    plan, weights = runner.plan, weights_in(runner.program.facts)
    stages: dict[str, Stage] = {}
    counters: Counters = {}
    for name in plan.stages:
        stages[name], counted = _run(runner, name, inputs, progress_of(name), ends)
        counters = counted or counters
    pairs: dict[tuple[str, str], PairTally] = {}
    shown = spikes_shown(runner, inputs)
    tallies: dict[str, StageTally] = {
        name: _with_inputs(tally_stage(stage, samples.labels, weights), shown)
        for name, stage in stages.items()
    }
    last = {
        name: decisions_over_steps(next(iter(stage.outputs.values())), weights)[:, -1]
        for name, stage in stages.items()
    }

    def tallied(name: str, second: Stage, decided: Integer) -> PairTally:
        return tally_pair(
            stages[name],
            second,
            offset=offset,
            agreeing=int((decided == last[name]).sum()),
            alone=right_alone(last[name], decided, samples.labels),
        )

    for pair in plan.pairs:
        form = pair.candidate in plan.forms
        if form:  # one after the other: all of them at once would take much memory
            second, _ = _run(runner, pair.candidate, inputs, progress_of(pair.candidate), ends)
            decided = decisions_over_steps(next(iter(second.outputs.values())), weights)[:, -1]
        else:
            second, decided = stages[pair.candidate], last[pair.candidate]
        pairs[pair.reference, pair.candidate] = tallied(pair.reference, second, decided)
    overall = (plan.overall.reference, plan.overall.candidate)
    if overall not in pairs:
        pairs[overall] = tallied(overall[0], stages[overall[1]], last[overall[1]])
    steps = next(iter(next(iter(stages.values())).outputs.values())).shape[1]
    shown = {
        name: values.sum((0, 1), dtype=np.int64)
        for name, values in runner.program.payloads(inputs).items()
    }
    return Tally(sample_count(samples.inputs), steps, pairs, tallies, counters, shown)


def _run(
    runner: Runner, name: str, inputs: Inputs, progress: Progress, ends: float
) -> tuple[Stage, Counters]:
    """Run a stage until `ends`: targets that can hang watch the time, others are looked at as they go on."""
    if ends == math.inf:
        return runner.run(name, inputs, progress=progress)

    def watched(done: int, of: int) -> None:
        progress(done, of)
        _check_time(name, ends)

    _check_time(name, ends)
    found = runner.run(name, inputs, progress=watched, deadline=ends - time.monotonic())
    _check_time(name, ends)
    return found


def _check_time(stage: str, ends: float) -> None:
    if time.monotonic() > ends:
        raise out_of_time(f"'{stage}'")


def spikes_shown(runner: Runner, inputs: Inputs) -> dict[str, NDArray[np.int64]]:
    """Return how often each place of an input that is 0 or 1 was 1: what hears it counts spikes."""
    payloads = runner.program.payloads(inputs)
    return {
        item.name: payloads[item.name].sum((0, 1), dtype=np.int64)
        for item in runner.program.network.inputs
        if counts_as_spikes(item)
    }


def _with_inputs(tally: StageTally, shown: Mapping[str, NDArray[np.int64]]) -> StageTally:
    return replace(tally, by_neuron={**shown, **tally.by_neuron})
