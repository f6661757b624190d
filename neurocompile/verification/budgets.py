"""
Floors that the user sets, and whether they were met.

    --max-mismatch         of the compared places (sample, step, neuron), the share in which the target's
                           spikes differ from those of the first stage (PyTorch's, or the float network's)
    --min-accuracy         the share of samples that the target puts in their class
    --max-accuracy-drop    the accuracy of the first stage minus that of the target, in points

Measured values decide, not the ends of their intervals: what the intervals say beside them is how far
another sample of the data could be from this one. A budget that cannot be measured, or never be missed,
is refused: so are those of two stages of the same integers, which may not differ anyhow. Where no sample
is decided, as no output is ever the largest, accuracy says nothing, and its floors are missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from neurocompile.errors import OptionError, Problem, raise_all
from neurocompile.statistics import Share
from neurocompile.verification.report import BudgetResult, Comparison, StageSummary
from neurocompile.verification.stages import Plan

MISMATCH, ACCURACY, DROP = "--max-mismatch", "--min-accuracy", "--max-accuracy-drop"
SHARE = "must be a share, as 0.5% or 0.005"


@dataclass(frozen=True)
class Budgets:
    """What may be lost, as fractions; None where anything goes."""

    max_mismatch: float | None = None
    min_accuracy: float | None = None
    max_accuracy_drop: float | None = None

    def __post_init__(self) -> None:
        raise_all(OptionError, self._problems())

    @property
    def given(self) -> dict[str, float]:
        """The limits that were set, by their option."""
        limits = {
            MISMATCH: self.max_mismatch,
            ACCURACY: self.min_accuracy,
            DROP: self.max_accuracy_drop,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}

    def _problems(self) -> list[Problem]:
        found = []
        for name, limit in self.given.items():
            never = limit <= 0 if name == ACCURACY else limit >= 1
            if not 0 <= limit <= 1:  # also what is not a number
                problem = Problem("", f"{name} must be from 0 to 100 %", f"it is {_percent(limit)}")
            elif never:
                problem = Problem(
                    "", f"{name} {_percent(limit)} can never be missed", remedy=f"it {SHARE}"
                )
            else:
                continue
            found.append(problem)
        return found


def fraction_of(text: str | None, option: str) -> float | None:
    """Return the fraction that "0.5%" or "0.005" says; raises `OptionError` for what is none."""
    if text is None:
        return None
    number, percent, rest = text.strip().partition("%")
    try:
        value = Decimal(number.strip())
    except InvalidOperation:
        value = Decimal("nan")
    if rest or not value.is_finite():
        raise OptionError(Problem("", f"{option} {SHARE}", f"it is '{text}'"))
    if not percent and value > 1:
        raise OptionError(
            Problem("", f"{option} {SHARE}", f"it is '{text}'", f"write {number.strip()}% for that")
        )
    return float(value / 100 if percent else value)


def check_measurable(
    budgets: Budgets, plan: Plan, *, labelled: bool, spiking: bool, target: str, classes: int
) -> None:
    """
    Raise `OptionError` for budgets of what `plan` does not measure.

    `labelled` says whether samples have labels, `spiking` whether the network has layers that spike,
    `classes` how many outputs decide.
    """
    problems = []
    overall = plan.overall
    for name in budgets.given:
        compared = name != ACCURACY
        if name == MISMATCH and not (spiking and overall.spikes):
            have = "no spikes are compared"
            problems.append(Problem("", f"{name} needs spikes that are compared", have))
            continue
        if name != MISMATCH and not labelled:
            problems.append(Problem("", f"{name} needs labels", "the data has none"))
        elif name != MISMATCH and classes < 2:
            problems.append(Problem("", f"{name} needs classes", "the network has one output"))
        if name == DROP and len(plan.stages) < 2:
            have = f"only '{target}' is run"
            problems.append(Problem("", f"{name} needs two stages", have, "leave --against out"))
        elif compared and overall.must_match:
            have = (
                f"'{overall.reference}' and '{overall.candidate}' compute with the same integers, of "
                "which any difference fails"
            )
            remedy = "--against float compares with the float network"
            problems.append(Problem("", f"{name} can never be missed", have, remedy))
    raise_all(OptionError, problems)


def judge(
    budgets: Budgets,
    overall: Comparison,
    stages: Sequence[StageSummary],
    *,
    whole: bool,
    alone: tuple[int, int] | None = None,
) -> tuple[BudgetResult, ...]:
    """
    Hold what was measured against `budgets`: the `overall` pair, and the first and the last of `stages`.

    Intervals are given where the samples are not the `whole` data; `alone` are the samples that the first
    stage has right alone, and the last one.
    """
    results = []
    pair = f"{overall.reference} / {overall.candidate}"
    first, last = stages[0].accuracy, stages[-1].accuracy
    for name, limit in budgets.given.items():
        if name == MISMATCH:
            measured = overall.mismatches / overall.slots
            what, interval = f"{pair}: spikes differ at", overall.interval
        elif name == ACCURACY:
            assert last is not None
            measured = last.value
            what, interval = f"{stages[-1].name}: accuracy is", last.interval
        else:
            assert first is not None
            assert last is not None
            measured = (first.count - last.count) / first.of
            interval = difference_interval(first, last, alone)
            what = f"{pair}: accuracy drops by"
        silent = [] if name == MISMATCH else _silent(stages, name)
        results.append(_result(name, limit, measured, None if whole else interval, what, silent))
    return tuple(results)


def _silent(stages: Sequence[StageSummary], name: str) -> list[str]:
    """Return the stages behind a floor of accuracy that decided nothing."""
    behind = stages[-1:] if name == ACCURACY else (stages[0], stages[-1])
    return [
        stage.name
        for stage in behind
        if stage.undecided is not None and stage.undecided.count == stage.undecided.of
    ]


def _result(
    name: str,
    limit: float,
    measured: float,
    interval: tuple[float, float] | None,
    what: str,
    silent: Sequence[str],
) -> BudgetResult:
    unit = "points" if name == DROP else "%"
    over = limit - measured if name == ACCURACY else measured - limit
    reach = ""
    if interval is not None:
        reach = f" (95 %: {_shown(interval[0], unit)} to {_shown(interval[1], unit)})"
    verdict = "met"
    if silent:
        what = f"{', '.join(silent)}: no output is ever the largest, so that no sample is decided; {what}"
        verdict = "missed"
    elif over > 0:
        verdict = f"missed by {_shown(over, unit)}"
    return BudgetResult(
        name=name,
        limit=limit,
        measured=measured,
        interval=interval,
        failed=bool(silent) or over > 0,
        text=f"{name} {_shown(limit, unit)} {verdict}: {what} {_shown(measured, unit)}{reach}",
        unit=unit,
    )


def difference_interval(
    first: Share, second: Share, alone: tuple[int, int] | None = None
) -> tuple[float, float]:
    """
    Return the 95 % confidence interval of the share `first` minus the share `second` of the same samples.

    By method 10 of Newcombe for paired shares (Statistics in Medicine 17, 1998, p. 2635), from the Wilson
    intervals of both and how they go together: `alone` are the samples that count in the first share
    only, and in the second only. Where that is not known, they are taken for independent (p. 873), which
    is rather too wide.
    """
    difference = first.value - second.value
    low_one, high_one = first.interval
    low_two, high_two = second.interval
    together = 0.0 if alone is None else _correlation(first, second, alone)

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * together * one * other + other * other))

    below = reach(first.value - low_one, high_two - second.value)
    above = reach(high_one - first.value, second.value - low_two)
    return difference - below, difference + above


def _correlation(first: Share, second: Share, alone: tuple[int, int]) -> float:
    """Return how two shares of the same samples go together, with his correction for small numbers."""
    both = first.count - alone[0]
    neither = first.of - both - sum(alone)
    spread = first.count * (first.of - first.count) * second.count * (second.of - second.count)
    if not spread:
        return 0.0
    apart = float(both * neither - alone[0] * alone[1])
    if apart > 0:
        apart = max(0.0, apart - first.of / 2)
    return apart / math.sqrt(spread)


def _percent(share: float) -> str:
    return _shown(share, "%")


def _shown(share: float, unit: str) -> str:
    return f"{100 * share:.4g} {unit}"
