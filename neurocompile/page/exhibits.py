"""
Spikes of a few samples for the page, packed: what differs first, and as much as fits.

For each sample and layer some neurons are chosen: those that differ between any two compared stages
first, then evenly spaced ones. Their spikes at all stages are packed as bits, or as 16-bit counts where
a neuron fires more than once in a step, in base64: (neurons, steps) in C order.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.page.markup import clean
from neurocompile.verification.report import Exhibit, Report

MOST_ROWS = 128  # neurons of a layer
MOST_STEPS = 512
LARGEST = 1_500_000  # characters of all exhibits
LISTED = 40  # differences in the table of a selection


@dataclass(frozen=True)
class Packed:
    """The exhibits for the page's script, and what was left out."""

    data: dict[str, Any]
    samples: int
    left_out: str


def pack_exhibits(report: Report, room: int = LARGEST) -> Packed | None:
    """Return the exhibits in about `room` characters, None if there is nothing to show."""
    room = max(1, min(room, LARGEST))
    pairs = _pairs(report)
    shown = [exhibit for exhibit in report.exhibits if exhibit.spikes]
    if not shown or not pairs:
        return None
    packed: list[dict[str, Any]] = []
    size = 0
    for exhibit in shown:
        sample = _sample(exhibit, pairs, room)
        length = sum(len(text) for layer in sample["layers"] for text in layer["spikes"].values())
        if packed and size + length > room:
            break
        size += length
        packed.append(sample)
    left = len(shown) - len(packed)
    return Packed(
        {
            "pairs": [
                {
                    "reference": first,
                    "candidate": second,
                    "overall": (first, second) == _overall(report),
                }
                for first, second in pairs
            ],
            "samples": packed,
            "listed": LISTED,
        },
        len(packed),
        f"{left} samples more did not fit into the page." if left else "",
    )


def _overall(report: Report) -> tuple[str, str]:
    return report.overall.reference, report.overall.candidate


def _pairs(report: Report) -> list[tuple[str, str]]:
    """Return the compared stages that every exhibit shows, that of the whole way first."""
    known = set(report.exhibits[0].spikes) if report.exhibits else set()
    found = [_overall(report), *((pair.reference, pair.candidate) for pair in report.comparisons)]
    return [pair for pair in dict.fromkeys(found) if set(pair) <= known and pair[0] != pair[1]]


def _sample(exhibit: Exhibit, pairs: list[tuple[str, str]], room: int) -> dict[str, Any]:
    names = list(
        dict.fromkeys(
            layer
            for stages in pairs
            for layer in exhibit.spikes[stages[0]]
            if layer in exhibit.spikes[stages[1]]
        )
    )
    return {
        "sample": exhibit.sample,
        "label": exhibit.label,
        "decisions": dict(exhibit.decisions),
        "layers": [_layer(exhibit, name, pairs, room // max(1, len(names))) for name in names],
    }


def _layer(exhibit: Exhibit, name: str, pairs: list[tuple[str, str]], room: int) -> dict[str, Any]:
    """Return a layer's spikes in at most about `room` characters."""
    stages = {
        stage: _rows(layers[name]) for stage, layers in exhibit.spikes.items() if name in layers
    }
    compared = [pair for pair in pairs if set(pair) <= set(stages)]
    some = next(iter(stages.values()))
    neurons, steps = some.shape
    differing = np.zeros(neurons, np.int64)
    counts: list[list[int] | None] = []
    for pair in pairs:
        if pair not in compared:
            counts.append(None)
            continue
        reference, candidate = stages[pair[0]], stages[pair[1]]
        differing += (reference != candidate).sum(1)
        counts.append(_counted(reference, candidate))
    last = min(steps, MOST_STEPS)
    graded = any(bool(((values < 0) | (values > 1)).any()) for values in stages.values())
    row = max(1, len(stages) * last * (16 if graded else 1) // 6)  # characters; one holds 6 bits
    chosen = _chosen(differing, max(1, min(MOST_ROWS, room // row)))
    return {
        "name": clean(name),
        "neurons": neurons,
        "steps": last,
        "all_steps": steps,
        "rows": [int(at) for at in chosen],
        "differing": int((differing > 0).sum()),
        "counts": counts,
        "graded": graded,
        "spikes": {
            stage: _encoded(values[chosen, :last], graded=graded)
            for stage, values in stages.items()
        },
    }


def _counted(reference: NDArray[np.int64], candidate: NDArray[np.int64]) -> list[int]:
    """Return missing and extra spikes, neurons that differ, and places with another number of spikes."""
    differ = reference != candidate
    missing, extra = differ & (candidate == 0), differ & (reference == 0)
    found = (missing.sum(), extra.sum(), differ.any(1).sum(), (differ & ~missing & ~extra).sum())
    return [int(count) for count in found]


def _rows(spikes: NDArray[Any]) -> NDArray[np.int64]:
    """Return (neurons, steps) of (steps, *shape)."""
    return np.asarray(spikes.reshape(spikes.shape[0], -1).T, np.int64)


def _chosen(differing: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most `most` neurons in order: those with most differences, then evenly spaced ones."""
    count = len(differing)
    if count <= most:
        return np.arange(count)
    ranked = np.argsort(-differing, kind="stable")
    first = ranked[: min(most, int((differing > 0).sum()))]
    others = np.setdiff1d(np.arange(count), first)
    more = most - len(first)
    spaced = others[np.linspace(0, len(others) - 1, more).astype(np.int64)] if more else first[:0]
    return np.sort(np.concatenate([first, spaced]))


def _encoded(values: NDArray[np.int64], *, graded: bool) -> str:
    if graded:
        content = np.clip(values, -32768, 32767).astype("<i2").tobytes()
    else:
        content = np.packbits(values.astype(bool).ravel(), bitorder="little").tobytes()
    return base64.b64encode(content).decode("ascii")
