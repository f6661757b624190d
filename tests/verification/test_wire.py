"""Counts survive being bytes, and bytes that are none are refused."""

from __future__ import annotations

import pytest

from neurocompile.data import Samples
from neurocompile.errors import DataError, DeadlineError, Problem
from neurocompile.samples import source_of_samples
from neurocompile.verification.stages import Plan, ProgressOf, Runner
from neurocompile.verification.stream import count_all
from neurocompile.verification.tallies import Tally
from neurocompile.verification.wire import from_bytes, raise_told, tell, to_bytes


@pytest.fixture
def tally(runner: Runner, spikes_in: Samples, quiet: ProgressOf) -> Tally:
    return count_all(runner, source_of_samples(spikes_in), progress_of=quiet)


def test_a_tally_comes_back_as_it_was(tally: Tally) -> None:
    back = from_bytes(Tally, to_bytes(tally))

    assert back == tally
    assert to_bytes(back) == to_bytes(tally)
    assert list(back.pairs) == list(tally.pairs)
    assert any(pair.kept for pair in back.pairs.values())
    assert back + back == tally + tally


def test_a_plan_comes_back_as_it_was(runner: Runner) -> None:
    assert from_bytes(Plan, to_bytes(runner.plan)) == runner.plan


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"{}"])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="Tally|pickled|load"):
        from_bytes(Tally, content)


def test_another_dataclass_is_refused(runner: Runner) -> None:
    with pytest.raises(ValueError, match="these bytes are no Tally"):
        from_bytes(Tally, to_bytes(runner.plan))


def test_damaged_bytes_are_refused(tally: Tally) -> None:
    content = to_bytes(tally)

    with pytest.raises(ValueError, match="these bytes are no Tally"):
        from_bytes(Tally, content[: len(content) // 2])


@pytest.mark.parametrize("kind", [DataError, DeadlineError])
def test_errors_are_told_with_all_their_problems(kind: type[DataError]) -> None:
    error = kind(Problem("fc1", "needs this", "there is that", "do so"), "and that")

    with pytest.raises(kind) as told:
        raise_told(tell(error))

    assert told.value.problems == error.problems
