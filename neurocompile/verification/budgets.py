"""
Floors that the user sets, and whether they were met.

    --max-mismatch         of the compared places, the share in which the target's spikes differ from those
                           of the first stage (PyTorch's, or the float network's)
    --min-accuracy         the share of samples that the target puts in their class
    --max-accuracy-drop    the accuracy of the first stage minus that of the target, in points

Measured values decide, not the ends of their intervals: what the intervals say beside them is how far
another sample of the data could be from this one. A budget that cannot be measured, or never be missed,
is refused.
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
    budgets: Budgets, plan: Plan, *, labelled: bool, spiking: bool, target: str
) -> None:
    """
    Raise `OptionError` for budgets of what `plan` does not measure.

    `labelled` says whether samples have labels, `spiking` whether the network has layers that spike.
    """
    problems = []
    for name in budgets.given:
        if name == MISMATCH and not (spiking and plan.overall.spikes):
            have = "no spikes are compared"
            problems.append(Problem("", f"{name} needs spikes that are compared", have))
        if name != MISMATCH and not labelled:
            problems.append(Problem("", f"{name} needs labels", "the data has none"))
        if name == DROP and len(plan.stages) < 2:
            have = f"only '{target}' is run"
            problems.append(Problem("", f"{name} needs two stages", have, "leave --against out"))
    raise_all(OptionError, problems)


def judge(
    budgets: Budgets, overall: Comparison, stages: Sequence[StageSummary], *, whole: bool
) -> tuple[BudgetResult, ...]:
    """
    Hold what was measured against `budgets`: the `overall` pair, and the first and the last of `stages`.

    Intervals are given where the samples are not the `whole` data.
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
            what, interval = f"{pair}: accuracy drops by", difference_interval(first, last)
        results.append(_result(name, limit, measured, None if whole else interval, what))
    return tuple(results)


def _result(
    name: str, limit: float, measured: float, interval: tuple[float, float] | None, what: str
) -> BudgetResult:
    over = limit - measured if name == ACCURACY else measured - limit
    failed = over > 0
    reach = ""
    if interval is not None:
        reach = f" (95 %: {_percent(interval[0])} to {_percent(interval[1])})"
    verdict = f"missed by {_percent(over)}" if failed else "met"
    return BudgetResult(
        name=name,
        limit=limit,
        measured=measured,
        interval=interval,
        failed=failed,
        text=f"{name} {_percent(limit)} {verdict}: {what} {_percent(measured)}{reach}",
    )


def difference_interval(first: Share, second: Share) -> tuple[float, float]:
    """
    Return the 95 % confidence interval of the share `first` minus the share `second`.

    By method 10 of Newcombe (1998), from the Wilson intervals of both. It takes them for independent:
    stages that are right on the same samples differ less, so that it is rather too wide.
    """
    difference = first.value - second.value
    low_one, high_one = first.interval
    low_two, high_two = second.interval
    below = math.hypot(first.value - low_one, high_two - second.value)
    above = math.hypot(high_one - first.value, second.value - low_two)
    return difference - below, difference + above


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
