"""What is measured of each entry of a comparison, in words."""

from __future__ import annotations

from collections.abc import Callable

from neurocompile.page.absent import on_samples
from neurocompile.page.energy_part import energy_of_target
from neurocompile.page.entries import Entry
from neurocompile.page.markup import (
    Numeric,
    percent,
    quantity,
)
from neurocompile.page.summary import interval, per_spike, verdict_words, weight_memory
from neurocompile.statistics import Share
from neurocompile.verification.budgets import difference_interval
from neurocompile.verification.report import Energy

UNKNOWN = "not measured"

Measure = tuple[str, Callable[[Entry], object]]


def _match(entry: Entry) -> object:
    return UNKNOWN if entry.report is None else verdict_words(entry.report)


def right(entry: Entry) -> object:
    """Return the accuracy with its interval, in words."""
    if entry.accuracy is not None:
        told = f"{percent(entry.accuracy.value)} ({interval(entry.accuracy)})"
        return told if entry.report is not None else f"{told}, {by_training(entry)}"
    if entry.training is not None:
        return f"{percent(entry.training.test_accuracy.last)}, {by_training(entry)}"
    return UNKNOWN


def by_training(entry: Entry) -> str:
    """Return which samples the accuracy of a training run is of."""
    found = entry.training.samples if entry.training else None
    return f"by training, of {quantity(found)} test samples" if found else "by training"


def first_accuracy(entry: Entry) -> Share | None:
    """Return the accuracy of the first stage."""
    return entry.report.stages[0].accuracy if entry.report else None


def _drop(entry: Entry) -> object:
    first, last = first_accuracy(entry), entry.accuracy
    if first is None or last is None:
        return UNKNOWN
    low, high = difference_interval(last, first)
    return Numeric(
        f"{100 * (last.value - first.value):+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})"
    )


def _differ(entry: Entry) -> object:
    if entry.report is None or not entry.report.overall.slots:
        return UNKNOWN
    pair = entry.report.overall
    return Numeric(
        f"{percent(pair.mismatches / pair.slots, 3)} ({pair.reference} / {pair.candidate})"
    )


def _per_spike(entry: Entry) -> object:
    found = per_spike(entry.report.overall) if entry.report else None
    return UNKNOWN if found is None else Numeric(percent(found))


def _worst(entry: Entry) -> object:
    examined = entry.report.examination if entry.report else None
    if examined is None or not examined.blame:
        return UNKNOWN
    first = examined.blame[0]
    on = on_samples(entry.report) if entry.report else ""
    return f"{first.name} ({percent(first.own.value, 3)} own, {on})"


def _total(name: str) -> Callable[[Entry], object]:
    def measure(entry: Entry) -> object:
        if entry.costs is None:
            return UNKNOWN
        found = entry.costs.totals.get(name)
        if found is None:
            return "none on this target" if name in ("cores", "chips") else UNKNOWN
        return Numeric(
            quantity(found.value) + (" (estimated)" if found.status == "estimated" else "")
        )

    return measure


def _memory(entry: Entry) -> object:
    return weight_memory(entry.settings) or UNKNOWN


def energy_of(entry: Entry) -> Energy | None:
    """Return the estimate for what is deployed."""
    return None if entry.report is None else energy_of_target(entry.report)


def _nanojoules(entry: Entry) -> object:
    found = energy_of(entry)
    return (
        UNKNOWN
        if found is None
        else Numeric(f"{quantity(found.picojoules / 1000)} nJ ({found.stage})")
    )


MEASURES: tuple[Measure, ...] = (
    ("what", lambda entry: entry.kind),
    ("target", lambda entry: entry.target or "none"),
    ("does it match?", _match),
    ("right, with 95 % interval", right),
    ("against its first stage, with 95 % interval", _drop),
    ("places that differ", _differ),
    ("differing places for each spike of the first stage", _per_spike),
    ("worst layer", _worst),
    ("neurons", _total("neurons")),
    ("synapses", _total("synapses")),
    ("cores", _total("cores")),
    ("chips", _total("chips")),
    ("weights' memory", _memory),
    ("energy a sample, an estimate", _nanojoules),
    ("left unmeasured", lambda entry: len(entry.missing)),
)

ON_DATA = frozenset(
    (
        "right, with 95 % interval",
        "left unmeasured",
    )
)
"""Measures that a training run and a verification take from different samples, or count otherwise."""
