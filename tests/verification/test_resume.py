"""An interrupted verification goes on where it was, or says why it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import neurocompile
from neurocompile.data import Samples
from neurocompile.errors import OptionError
from neurocompile.program import Program
from neurocompile.samples import SampleSource, source_of_samples
from neurocompile.target import Progress
from neurocompile.verification import resume, stream
from neurocompile.verification.resume import MARKER, remove_kept
from neurocompile.verification.stages import ProgressOf, Runner, plan_of
from neurocompile.verification.stream import count_all
from neurocompile.verification.tallies import Tally
from neurocompile.verification.wire import to_bytes

STARTS = [0, 6, 12, 18]  # of 20 samples, 6 at once


class StopError(Exception):
    """Stands for whatever ends a run."""


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first samples of the chunks that were run."""
    starts: list[int] = []
    count = stream.count_chunk

    def noting(runner: Runner, samples: Samples, offset: int, **rest: Any) -> Tally:
        starts.append(offset)
        return count(runner, samples, offset, **rest)

    monkeypatch.setattr(stream, "AT_ONCE", 6)
    monkeypatch.setattr(stream, "count_chunk", noting)
    return starts


@pytest.fixture
def whole(runner: Runner, spikes_in: Samples, quiet: ProgressOf, counted: list[int]) -> bytes:
    """What an uninterrupted run counts."""
    before = list(counted)
    tally = count_all(runner, source_of_samples(spikes_in), progress_of=quiet)
    counted[:] = before
    return to_bytes(tally)


@pytest.fixture
def half(tmp_path: Path, runner: Runner, spikes_in: Samples, counted: list[int]) -> Path:
    """What is kept of a run that stopped in the middle of its third chunk."""

    def stopping(_name: str) -> Progress:
        def progress(done: int, _of: int) -> None:
            if done > 12:
                raise StopError

        return progress

    state = tmp_path / "state"
    with pytest.raises(StopError):
        count_all(runner, source_of_samples(spikes_in), progress_of=stopping, state=state)
    assert counted == STARTS[:3]
    counted.clear()
    return state


def test_it_goes_on_and_counts_nothing_twice(
    half: Path,
    whole: bytes,
    runner: Runner,
    spikes_in: Samples,
    counted: list[int],
) -> None:
    told: list[tuple[int, int]] = []

    def progress_of(_name: str) -> Progress:
        return lambda done, of: told.append((done, of))

    found = count_all(runner, source_of_samples(spikes_in), progress_of=progress_of, state=half)

    assert to_bytes(found) == whole
    assert counted == STARTS[2:]
    assert told[0] == (18, 20)  # the two chunks before are done
    assert len(list(half.glob("*.tally"))) == 4  # whoever has more to do may be interrupted, too
    remove_kept(half)
    assert not half.exists()
    remove_kept(half)  # another verification was as fast


def test_several_processes_go_on_as_well(
    half: Path, whole: bytes, runner: Runner, spikes_in: Samples, quiet: ProgressOf
) -> None:
    found = count_all(runner, source_of_samples(spikes_in), progress_of=quiet, state=half, jobs=2)

    assert to_bytes(found) == whole


def test_what_all_is_kept_of_is_not_run_again(
    half: Path,
    whole: bytes,
    runner: Runner,
    spikes_in: Samples,
    counted: list[int],
    quiet: ProgressOf,
) -> None:
    source = source_of_samples(spikes_in)
    count_all(runner, source, progress_of=quiet, state=half)
    counted.clear()

    assert to_bytes(count_all(runner, source, progress_of=quiet, state=half)) == whole
    assert not counted


def flip(file: Path, _other: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path, _other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path, _other: Path) -> None:
    file.write_bytes(b"")


def swap(file: Path, other: Path) -> None:
    file.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [flip, cut, empty, swap])
def test_a_damaged_file_is_counted_again(
    damage: Callable[[Path, Path], None],
    half: Path,
    whole: bytes,
    runner: Runner,
    spikes_in: Samples,
    counted: list[int],
    quiet: ProgressOf,
) -> None:
    first, second = sorted(half.glob("*.tally"))
    damage(first, second)

    found = count_all(runner, source_of_samples(spikes_in), progress_of=quiet, state=half)

    assert to_bytes(found) == whole
    assert counted == [0, *STARTS[2:]]


def test_other_data_are_refused(
    half: Path, runner: Runner, spikes_in: Samples, quiet: ProgressOf, counted: list[int]
) -> None:
    with pytest.raises(
        OptionError,
        match="keeps results of another verification, but these are others: data: remove",
    ):
        count_all(runner, source_of_samples(spikes_in.first(19)), progress_of=quiet, state=half)
    assert not counted
    assert len(list(half.glob("*.tally"))) == 2


def test_another_program_and_other_stages_are_refused(
    half: Path,
    exact_nir: Path,
    coarse: Program,
    spikes_in: Samples,
    quiet: ProgressOf,
    opened: Callable[[Program], Program],
) -> None:
    other = opened(
        neurocompile.export(
            exact_nir, target="fixedpoint", profile="literal", dt=1e-4, weight_bits=4
        )
    )
    source = source_of_samples(spikes_in)

    with pytest.raises(OptionError, match="these are others: program:"):
        count_all(Runner(other, plan_of(other)), source, progress_of=quiet, state=half)
    fewer = Runner(coarse, plan_of(coarse, ["float"]))
    with pytest.raises(
        OptionError, match="these are others: stages, chunks:|these are others: stages:"
    ):
        count_all(fewer, source, progress_of=quiet, state=half)


def test_other_versions_are_refused(
    half: Path,
    runner: Runner,
    spikes_in: Samples,
    quiet: ProgressOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resume, "_version", lambda name: "99" if name == "numpy" else "-")

    with pytest.raises(OptionError, match="these are others: versions:"):
        count_all(runner, source_of_samples(spikes_in), progress_of=quiet, state=half)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}'])
def test_a_damaged_marker_is_refused(
    text: str, half: Path, runner: Runner, spikes_in: Samples, quiet: ProgressOf
) -> None:
    (half / MARKER).write_text(text)

    with pytest.raises(OptionError, match=f"its '{MARKER}' is damaged: remove"):
        count_all(runner, source_of_samples(spikes_in), progress_of=quiet, state=half)


def test_a_directory_of_something_else_is_left_alone(
    tmp_path: Path, runner: Runner, spikes_in: Samples, quiet: ProgressOf
) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    source = source_of_samples(spikes_in)

    for place in (tmp_path, tmp_path / "letter.txt"):
        with pytest.raises(OptionError, match="it holds something else"):
            count_all(runner, source, progress_of=quiet, state=place)
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_what_others_put_there_stays(
    half: Path, runner: Runner, spikes_in: Samples, quiet: ProgressOf
) -> None:
    (half / "letter.txt").write_text("dear")

    count_all(runner, source_of_samples(spikes_in), progress_of=quiet, state=half)
    remove_kept(half)

    assert [file.name for file in half.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("changed", "jobs"), [("inputs", 1), ("labels", 1), ("dtype", 1), ("inputs", 2)]
)
def test_parts_whose_samples_have_changed_are_counted_again(
    changed: str,
    jobs: int,
    half: Path,
    runner: Runner,
    spikes_in: Samples,
    counted: list[int],
    quiet: ProgressOf,
) -> None:
    # Sample 8 is none of those that tell the data apart before all are read.
    assert spikes_in.labels is not None
    inputs, labels = np.array(spikes_in.inputs), spikes_in.labels.copy()
    if changed == "inputs":
        inputs[8] = 1 - inputs[8]
    elif changed == "labels":
        labels[8] = (labels[8] + 1) % 3
    source = SampleSource(
        "",
        20,
        lambda indices: Samples(
            inputs[indices].astype(
                np.float64 if changed == "dtype" and 8 in indices else np.float32
            ),
            labels[indices],
        ),
        labels=spikes_in.labels,
    )
    expected = to_bytes(count_all(runner, source, progress_of=quiet))
    counted.clear()

    found = count_all(runner, source, progress_of=quiet, state=half, jobs=jobs)

    assert to_bytes(found) == expected
    if jobs == 1:
        assert counted == [6, 12, 18]
    counted.clear()
    assert to_bytes(count_all(runner, source, progress_of=quiet, state=half)) == expected
    assert not counted  # what is kept now is of these samples


def test_counts_without_their_marker_are_ours(
    half: Path,
    whole: bytes,
    runner: Runner,
    spikes_in: Samples,
    quiet: ProgressOf,
    counted: list[int],
) -> None:
    (half / MARKER).unlink()  # by another verification that was done first

    found = count_all(runner, source_of_samples(spikes_in), progress_of=quiet, state=half)

    assert to_bytes(found) == whole
    assert counted == STARTS[2:]


def test_the_marker_says_what_is_kept(half: Path) -> None:
    told = json.loads((half / MARKER).read_text())

    assert sorted(told) == ["chunks", "data", "format", "program", "stages", "versions"]
    assert (told["format"], told["chunks"]) == (1, "6")
    assert f"numpy {np.__version__}" in told["versions"]
