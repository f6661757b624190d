"""Counting in chunks: the sums are those of all samples at once, and memory does not grow."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurocompile.data import Samples
from neurocompile.errors import DeadlineError, OptionError
from neurocompile.integer import Integer
from neurocompile.samples import SampleSource, source_of_samples
from neurocompile.target import Progress
from neurocompile.verification import stream
from neurocompile.verification.stages import ProgressOf, Runner
from neurocompile.verification.stream import count_all, parts_of, samples_at_once
from neurocompile.verification.wire import to_bytes


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at_once=st.integers(1, 25))
def test_any_chunks_give_the_same_tally(
    at_once: int, runner: Runner, spikes_in: Samples, quiet: ProgressOf
) -> None:
    source = source_of_samples(spikes_in)
    whole = count_all(runner, source, progress_of=quiet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "AT_ONCE", at_once)

        found = count_all(runner, source, progress_of=quiet)

    assert to_bytes(found) == to_bytes(whole)
    assert whole.samples == 20
    assert any(pair.differing for pair in whole.pairs.values())


def test_memory_does_not_grow_with_the_samples(
    runner: Runner, quiet: ProgressOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "AT_ONCE", 64)
    asked: list[int] = []

    def fetch(indices: Integer) -> Samples:
        asked.append(len(indices))
        values = np.random.default_rng(int(indices[0])).integers(0, 2, (len(indices), 40, 1, 2, 3))
        return Samples(values.astype(np.float32), None)

    def peak(chunks: int) -> int:
        tracemalloc.start()
        count_all(runner, SampleSource("", 64 * chunks, fetch), progress_of=quiet)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    runner.program = replace(
        runner.program, steps=40
    )  # longer samples; the proof is not what is tested
    peak(2)  # what is set up once
    few, many = peak(2), peak(12)

    assert max(asked) == 64
    assert few > 64 * 40 * 24  # it does see what counting takes
    assert many < 1.1 * few


def test_chunks_fit_the_budget(
    runner: Runner, spikes_in: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of_samples(spikes_in)
    # 3 stages of 12 + 12 spikes and 3 float64, twice; membranes of 27 neurons, twice; 6 inputs; 6 steps
    each = 6 * (3 * 2 * (24 + 3 * 8) + 2 * 8 * 27 + 20 * 6)

    assert samples_at_once(runner, source) == stream.AT_ONCE
    monkeypatch.setattr(stream, "BYTES_AT_ONCE", 3 * each)
    assert samples_at_once(runner, source) == 3
    monkeypatch.setattr(stream, "BYTES_AT_ONCE", 3 * each - 1)
    assert samples_at_once(runner, source) == 2
    monkeypatch.setattr(stream, "BYTES_AT_ONCE", 1)
    assert samples_at_once(runner, source) == 1


def test_parts_cover_all_samples_once() -> None:
    parts = parts_of(10, 4)

    assert [(part.start, part.stop, len(part)) for part in parts] == [
        (0, 4, 4),
        (4, 8, 4),
        (8, 10, 2),
    ]


def test_every_stage_tells_how_far_it_is(
    runner: Runner, spikes_in: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "AT_ONCE", 8)
    told: dict[str, list[tuple[int, int]]] = {}

    def progress_of(stage: str) -> Progress:
        told[stage] = []
        return lambda done, of: told[stage].append((done, of))

    count_all(runner, source_of_samples(spikes_in), progress_of=progress_of)

    assert list(told) == ["float", "quantised", "fixedpoint"]
    assert told["float"] == [(8, 20), (16, 20), (20, 20)]


def test_spikes_of_the_input_are_counted(
    runner: Runner, spikes_in: Samples, quiet: ProgressOf
) -> None:
    tally = count_all(runner, source_of_samples(spikes_in), progress_of=quiet)

    expected = np.asarray(spikes_in.inputs).sum((0, 1))
    for stage in tally.stages.values():
        np.testing.assert_array_equal(stage.by_neuron["input"], expected)


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_jobs_are_refused(
    jobs: int, runner: Runner, spikes_in: Samples, quiet: ProgressOf
) -> None:
    with pytest.raises(OptionError, match=f"--jobs must be at least 1, but it is {jobs}"):
        count_all(runner, source_of_samples(spikes_in), progress_of=quiet, jobs=jobs)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes only when a test says so."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("done", [0, 8, 16])
def test_a_deadline_holds_for_what_cannot_hang_as_well(
    done: int,
    clock: list[float],
    runner: Runner,
    spikes_in: Samples,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "AT_ONCE", 8)
    told: list[tuple[str, int]] = []

    def progress_of(stage: str) -> Progress:
        def progress(now: int, _of: int) -> None:
            told.append((stage, now))
            clock[0] += 2.0 if now > done else 0.0

        return progress

    with pytest.raises(
        DeadlineError,
        match="'float' did not finish before the deadline: give it more with --deadline",
    ):
        count_all(runner, source_of_samples(spikes_in), progress_of=progress_of, deadline=1.0)

    assert told[-1] == ("float", min(done + 8, 20))  # it is looked at before the stage goes on


def test_a_deadline_that_is_kept_changes_nothing(
    clock: list[float], runner: Runner, spikes_in: Samples, quiet: ProgressOf
) -> None:
    source = source_of_samples(spikes_in)

    found = count_all(runner, source, progress_of=quiet, deadline=1.0)

    assert clock == [0.0]
    assert to_bytes(found) == to_bytes(count_all(runner, source, progress_of=quiet))


def test_a_stage_gets_the_time_that_is_left(
    clock: list[float],
    runner: Runner,
    spikes_in: Samples,
    quiet: ProgressOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "AT_ONCE", 10)
    left: list[float] = []
    run = Runner.run

    def noting(self: Runner, *given: Any, deadline: float, **options: Any) -> Any:
        left.append(deadline)
        clock[0] += 0.5
        return run(self, *given, deadline=deadline, **options)

    monkeypatch.setattr(Runner, "run", noting)

    count_all(runner, source_of_samples(spikes_in), progress_of=quiet, deadline=9.0)

    assert left == [9.0, 8.5, 8.0, 7.5, 7.0, 6.5]  # of three stages and two chunks


def test_samples_that_one_stage_alone_decides_rightly_are_counted(
    runner: Runner, spikes_in: Samples, quiet: ProgressOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "AT_ONCE", 6)

    tally = count_all(runner, source_of_samples(spikes_in), progress_of=quiet)

    right = {name: (stage.right_by_step or (0,))[-1] for name, stage in tally.stages.items()}
    assert sum(pair.agreeing < 20 for pair in tally.pairs.values()) > 0
    for (first, second), pair in tally.pairs.items():
        assert pair.only_first is not None
        assert pair.only_second is not None
        assert pair.only_first - pair.only_second == right[first] - right[second]
        assert pair.only_first + pair.only_second <= 20 - pair.agreeing
    bare = source_of_samples(replace(spikes_in, labels=None))
    unknown = count_all(runner, bare, progress_of=quiet).pairs.values()
    assert {(pair.only_first, pair.only_second) for pair in unknown} == {(None, None)}
