"""
What a user's tests hold a program to: its spikes in a golden, on every executor, or a verification.

    from neurocompile.testing import assert_matches_golden

    def test_spikes():
        assert_matches_golden("deploy/program", "deploy/golden")

Works in any test runner. With pytest, paths are relative to its root directory, and

    pytest --neurocompile-update-golden

stores goldens again instead of comparing (`pytest_plugin`); nothing else ever changes one. A failure is
an `AssertionError` whose text has the first difference, its cause and what to do.

Importing this module imports nothing but the standard library, so that a plugin costs no test run time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from neurocompile.data import Inputs, Samples
    from neurocompile.errors import Problem
    from neurocompile.program import Program
    from neurocompile.verification.report import Comparison, Report

UPDATE = "--neurocompile-update-golden"
DEFINITION = "fixedpoint:definition"
COMMAND = "neurocompile verify PROGRAM_DIR --input DATA --golden DIR"


@dataclass
class Session:
    """
    What a test run decided: whether goldens are stored again, and relative to what paths are.

    The plugin sets it, as nothing else can tell a plain function how its test was started; `stored`
    collects the goldens that were written, for the summary.
    """

    update: bool = False
    root: Path | None = None
    stored: list[str] = field(default_factory=list)


SESSION = Session()
Options = ParamSpec("Options")
Result = TypeVar("Result")


def failing(check: Callable[Options, Result]) -> Callable[Options, Result]:
    """
    Turn what cannot be met into a failure of a few lines: a traceback into the library says no more.

    No context manager, whose frames pytest would show.
    """

    @wraps(check)
    def checked(*arguments: Options.args, **options: Options.kwargs) -> Result:
        __tracebackhide__ = True
        from neurocompile.errors import NeurocompileError

        try:
            return check(*arguments, **options)
        except NeurocompileError as error:
            problem = f"neurocompile: {error}"
        raise AssertionError(problem)

    return checked


@failing
def assert_matches_golden(
    program: Program | Path | str,
    golden: Path | str,
    *,
    on: Collection[str] = (),
    data: str | Samples | None = None,
    samples: int = 8,
) -> None:
    """
    Check that `program` does on a golden's samples what it did when the golden was stored.

    The definition of the integers always runs, `on` names further executors. `data` is what a golden is
    made from (`samples` of it) when it is asked for, where there is none yet or the old one's samples do
    not fit the program any more.
    """
    __tracebackhide__ = True
    from neurocompile.verification.golden import replay_golden
    from neurocompile.verification.golden_file import MANIFEST

    place = _rooted(golden)
    if not SESSION.update and not (place / MANIFEST).exists():
        has = "this test has data" if data is not None else "this test has no data=..., so give it"
        raise AssertionError(
            f"there is no golden '{golden}'\nstore it: pytest {UPDATE} ({has}), or {COMMAND}"
        )
    with _opened(program) as opened:
        if SESSION.update:
            _store(opened, place, data, samples)
            return
        replay = replay_golden(opened, place, on=on)
    if replay.failed:
        raise AssertionError("\n".join(replay.lines()))


@failing
def assert_same_spikes(
    program: Program | Path | str,
    samples: Inputs | Samples | str,
    *,
    on: str | None = None,
    reference: str = DEFINITION,
) -> None:
    """
    Check that two executors of `program` make the same spikes, outputs and decisions of `samples`.

    `on` is the program's own target if not given; `reference` the definition of the integers. `samples`
    are inputs (samples, steps, *input shape), by name where there are several, or DATA ("digits:test").
    """
    __tracebackhide__ = True
    from neurocompile.verification.golden import compare_trace, lines_of
    from neurocompile.verification.golden_file import Arrays

    with _opened(program) as opened:
        name = on or opened.target
        _check_two(name, reference)
        inputs = _inputs(opened, samples)
        payloads = opened.payloads(inputs)
        layers = [neurons.name for neurons in opened.network.spiking]
        wanted = opened.executor(reference).run(payloads, record=layers)
        decisions = opened.decisions(opened.to_source_units(wanted)).tolist()
        arrays = Arrays(inputs, wanted.spikes, wanted.outputs)
        trace = opened.executor(name).run(payloads, record=layers)
        run = compare_trace(opened, arrays, decisions, name, trace)
    if run.failed:
        raise AssertionError("\n".join(lines_of(run, reference)))


@failing
def assert_verifies(
    program: Program | Path | str, *, data: str | Samples, **options: Any
) -> Report:
    """
    Check that `neurocompile.verify` passes: integers agree, and every budget is kept; return the report.

    `options` are those of `neurocompile.verify`: `samples`, `against`, `max_mismatch`, `min_accuracy`,
    `max_accuracy_drop` (shares: 0.005 is half a percent) and the rest.
    """
    __tracebackhide__ = True
    from neurocompile import api

    with _opened(program) as opened:
        report = api.verify(opened, data=data, **options)
    if report.failed:
        raise AssertionError("\n".join(_lines_of_report(report)))
    return report


def _check_two(name: str, reference: str) -> None:
    """Raise `OptionError` where an executor would be compared with itself, which it always equals."""
    from neurocompile.errors import OptionError, Problem

    if name == reference:
        raise OptionError(
            Problem(
                "",
                "two executors are needed",
                f"'{name}' is compared with itself",
                "give another one as on=... or reference=...",
            )
        )


def _store(program: Program, place: Path, data: str | Samples | None, samples: int) -> None:
    """Store a golden again with its own samples, or where these are lost or do not fit, of `data`."""
    from neurocompile.errors import DataError, FormatError
    from neurocompile.verification.golden import update_golden, write_golden

    try:
        update_golden(program, place)
    except (DataError, FormatError) as error:
        if data is None:
            raise type(error)(*map(_with_data, error.problems)) from error
        write_golden(program, _source(data, samples), place, samples=samples)
    SESSION.stored.append(str(place))


def _with_data(problem: Problem) -> Problem:
    """Return why a golden's own samples cannot be used, with what helps an update."""
    return replace(
        problem, remedy=", or ".join(filter(None, [problem.remedy, "give data=... in this test"]))
    )


def _source(data: str | Samples, count: int) -> Any:
    from neurocompile.data import load_samples
    from neurocompile.samples import source_of_samples

    if isinstance(data, str):
        return source_of_samples(load_samples(data, count=count), data)
    return source_of_samples(data)


def _inputs(program: Program, samples: Inputs | Samples | str) -> dict[str, Any]:
    from neurocompile.data import Samples, by_input, load_samples
    from neurocompile.run_file import repeat_steps

    read = load_samples(samples) if isinstance(samples, str) else samples
    inputs = read.inputs if isinstance(read, Samples) else read
    shown = min(program.native_steps or 1, program.steps)
    return {
        name: repeat_steps(values, shown if values.shape[1:2] == (1,) else None)
        for name, values in by_input(inputs, [item.name for item in program.network.inputs]).items()
    }


def _rooted(path: Path | str) -> Path:
    return Path(path) if SESSION.root is None else SESSION.root / path


@contextmanager
def _opened(program: Program | Path | str) -> Iterator[Program]:
    """Yield a program, which is closed again if it was read here."""
    from neurocompile.program import load

    if isinstance(program, str | Path):
        with load(_rooted(program)) as loaded:
            yield loaded
    else:
        yield program


def _lines_of_report(report: Report) -> Iterator[str]:
    yield f"'{report.target}' on {report.samples} samples of {report.steps} steps"
    for comparison in report.comparisons:
        if comparison.failed:
            yield from _lines_of_comparison(comparison)
    for budget in report.budgets:
        if budget.failed:
            yield budget.text
    causes = report.examination.causes if report.examination is not None else ()
    for cause in causes[:1]:
        largest = sorted(cause.contributions, key=lambda item: -abs(item.amount))[:3]
        moved = ", ".join(f"{item.cause} by {item.amount:+.4g}" for item in largest)
        at = cause.divergence
        yield (
            f"cause in '{at.layer}', {cause.reference} / {cause.candidate}, at sample {at.sample}, step "
            f"{at.step}, neuron {at.neuron}: the membrane's distance to its threshold is moved by {moved}"
        )


def _lines_of_comparison(comparison: Comparison) -> Iterator[str]:
    yield (
        f"{comparison.reference} / {comparison.candidate}: {comparison.mismatches} of "
        f"{comparison.slots} spikes and {comparison.output_mismatches} of "
        f"{comparison.output_slots} output values differ, which must not"
    )
    first = comparison.first_divergence
    if first is not None:
        yield (
            f"  first difference: sample {first.sample}, step {first.step}, '{first.layer}', neuron "
            f"{first.neuron}: {first.candidate_spike}, {comparison.reference} has {first.reference_spike}"
        )
