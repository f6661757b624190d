"""
What is counted while samples pass: sums that add up over chunks of samples and over processes.

Everything is integers, but for the largest difference of outputs, so that the order of adding does
not matter and any split of the samples gives the same report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.decision import decisions
from neurocompile.verification.report import Divergence, plain
from neurocompile.verification.stages import Counters, Stage

KEPT = 16  # divergences of each pair: a random choice among the samples that differ


@dataclass(frozen=True)
class LayerTally:
    """Sums over samples of one layer in two stages; `moved` adds up how spike counts of samples differ."""

    slots: int
    mismatches: int
    missing: int
    extra: int
    spikes_reference: int
    spikes_candidate: int
    trains: int  # samples times neurons
    moved: int
    by_step: tuple[int, ...]

    def __add__(self, other: LayerTally) -> LayerTally:
        sums = {
            item.name: getattr(self, item.name) + getattr(other, item.name)
            for item in fields(self)
            if item.name != "by_step"
        }
        steps = tuple(a + b for a, b in zip(self.by_step, other.by_step, strict=True))
        return LayerTally(**sums, by_step=steps)


@dataclass(frozen=True)
class PairTally:
    """
    Sums over samples of two stages; `first` is the divergence of the lowest sample.

    `squares` adds up the squared number of mismatches of each sample: how much samples vary. `only_first`
    and `only_second` are samples that one of both decides rightly; None where that was not counted.
    """

    layers: Mapping[str, LayerTally]
    output_slots: int
    output_mismatches: int
    output_difference: float
    differing: int  # samples
    agreeing: int  # samples that both stages decide alike
    first: Divergence | None = None
    kept: tuple[Divergence, ...] = ()
    squares: int = 0
    only_first: int | None = None
    only_second: int | None = None

    def __add__(self, other: PairTally) -> PairTally:
        found = [item for item in (self.first, other.first) if item is not None]
        return PairTally(
            layers={name: layer + other.layers[name] for name, layer in self.layers.items()},
            output_slots=self.output_slots + other.output_slots,
            output_mismatches=self.output_mismatches + other.output_mismatches,
            output_difference=max(self.output_difference, other.output_difference),
            differing=self.differing + other.differing,
            agreeing=self.agreeing + other.agreeing,
            first=min(found, key=lambda item: item.sample, default=None),
            kept=chosen((*self.kept, *other.kept)),
            squares=self.squares + other.squares,
            only_first=_both(self.only_first, other.only_first),
            only_second=_both(self.only_second, other.only_second),
        )


@dataclass(frozen=True, eq=False)
class StageTally:
    """
    Sums over samples of one stage; `right_by_step` counts right decisions after each step.

    `undecided` are samples in which no output is largest in the end, which is the decision of none.
    `by_neuron` are spikes by layer, of the layer's shape, added up over samples and steps; a graded
    spike counts its number. Equal tallies have equal numbers.
    """

    spikes: Mapping[str, int]
    slots: Mapping[str, int]
    right_by_step: tuple[int, ...] | None
    decided: int  # the steps after which decisions stay, added up over samples that have one
    by_neuron: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    undecided: int = 0

    def __add__(self, other: StageTally) -> StageTally:
        ours, theirs = self.right_by_step, other.right_by_step
        return StageTally(
            _added(self.spikes, other.spikes),
            _added(self.slots, other.slots),
            None
            if ours is None or theirs is None
            else tuple(a + b for a, b in zip(ours, theirs, strict=True)),
            self.decided + other.decided,
            {name: counts + other.by_neuron[name] for name, counts in self.by_neuron.items()},
            self.undecided + other.undecided,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StageTally) and plain(self) == plain(other)

    __hash__ = None  # type: ignore[assignment]  # it holds arrays


@dataclass(frozen=True, eq=False)
class Tally:
    """
    Everything that was counted on `samples` samples of `steps` steps.

    `inputs` are what was shown, in the program's integers, of each input's shape, added up over samples
    and steps.
    """

    samples: int
    steps: int
    pairs: Mapping[tuple[str, str], PairTally]
    stages: Mapping[str, StageTally]
    counters: Counters = field(default_factory=dict)
    inputs: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.samples + other.samples,
            self.steps,
            {key: pair + other.pairs[key] for key, pair in self.pairs.items()},
            {name: stage + other.stages[name] for name, stage in self.stages.items()},
            {
                layer: _added(counts, other.counters[layer])
                for layer, counts in self.counters.items()
            },
            {name: total + other.inputs[name] for name, total in self.inputs.items()},
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and plain(self) == plain(other)

    __hash__ = None  # type: ignore[assignment]  # it holds arrays


def _both(ours: int | None, theirs: int | None) -> int | None:
    return None if ours is None or theirs is None else ours + theirs


def _added(ours: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, int]:
    return {name: count + theirs[name] for name, count in ours.items()}


def chosen(divergences: Iterable[Divergence]) -> tuple[Divergence, ...]:
    """Return at most `KEPT` of `divergences`, chosen by their samples' numbers alone."""
    least = sorted(divergences, key=lambda item: _priority(item.sample))[:KEPT]
    return tuple(sorted(least, key=lambda item: item.sample))


def _priority(sample: int) -> bytes:
    return hashlib.blake2b(sample.to_bytes(8, "little"), digest_size=8).digest()


def right_alone(
    first: NDArray[np.int64], second: NDArray[np.int64], labels: NDArray[np.int64] | None
) -> tuple[int, int] | None:
    """Return how many samples the decisions `first` have right alone, and `second` alone; None without labels."""
    if labels is None:
        return None
    ours, theirs = first == labels, second == labels
    return int((ours & ~theirs).sum()), int((theirs & ~ours).sum())


def tally_pair(
    first: Stage,
    second: Stage,
    *,
    offset: int,
    agreeing: int,
    alone: tuple[int, int] | None = None,
) -> PairTally:
    """
    Count how `second` differs from `first` in the layers that both show; samples count from `offset`.

    `agreeing` is how many samples both decide alike, `alone` what `right_alone` returns.
    """
    layers = {
        name: _layer(first.spikes[name], second.spikes[name])
        for name in first.spikes
        if name in second.spikes
    }
    found = first_divergences({name: first.spikes[name] for name in layers}, second.spikes, offset)
    outputs = [(values, second.outputs[name]) for name, values in first.outputs.items()]
    in_sample = np.zeros(len(outputs[0][0]), np.int64)
    for name in layers:
        differs = first.spikes[name] != second.spikes[name]
        in_sample += differs.reshape(len(in_sample), -1).sum(1)
    return PairTally(
        layers=layers,
        output_slots=sum(before.size for before, _ in outputs),
        output_mismatches=sum(int((before != after).sum()) for before, after in outputs),
        output_difference=max(_largest(before, after) for before, after in outputs),
        differing=len(found),
        agreeing=agreeing,
        first=found[0] if found else None,
        kept=chosen(found),
        squares=int((in_sample * in_sample).sum()),
        only_first=None if alone is None else alone[0],
        only_second=None if alone is None else alone[1],
    )


def _layer(before: NDArray[Any], after: NDArray[Any]) -> LayerTally:
    steps = before.shape[1]
    ours, theirs = before.astype(np.int64), after.astype(np.int64)
    difference = theirs - ours
    differs = difference != 0
    return LayerTally(
        slots=before.size,
        mismatches=int(differs.sum()),
        missing=int(-difference[difference < 0].sum()),
        extra=int(difference[difference > 0].sum()),
        spikes_reference=int(ours.sum()),
        spikes_candidate=int(theirs.sum()),
        trains=before.size // steps,
        moved=int(np.abs(difference.sum(1)).sum()),
        by_step=tuple(int(number) for number in differs.swapaxes(0, 1).reshape(steps, -1).sum(1)),
    )


def _largest(before: NDArray[Any], after: NDArray[Any]) -> float:
    return float(np.abs(before.astype(np.float64) - after).max())


def tally_stage(
    stage: Stage, labels: NDArray[np.int64] | None, weights: Sequence[float] | None
) -> StageTally:
    """
    Count what `stage` fired, and how its decisions compare with `labels`, after each step.

    A sample without a largest output counts as decided for the first of the largest, as everywhere, but
    when it was decided is not counted: it never was.
    """
    output = next(iter(stage.outputs.values()))
    after = decisions_over_steps(output, weights)
    clear = np.where(largest_is_alone(output, weights), after, -1)
    decided = clear[:, -1] >= 0
    changed = clear[:, :-1] != clear[:, -1:]
    before_last = changed.shape[1]  # 0 of one step, of which nothing has a place
    reversed_ = changed[:, ::-1] if before_last else np.zeros((len(after), 1), bool)
    last_change = np.where(changed.any(1), before_last - reversed_.argmax(1), 0)
    return StageTally(
        spikes={name: int(values.sum(dtype=np.int64)) for name, values in stage.spikes.items()},
        slots={name: values.size for name, values in stage.spikes.items()},
        right_by_step=None
        if labels is None
        else tuple(int(number) for number in (after == labels[:, np.newaxis]).sum(0)),
        decided=int((last_change + 1)[decided].sum()),
        by_neuron={
            name: values.sum((0, 1), dtype=np.int64) for name, values in stage.spikes.items()
        },
        undecided=int((~decided).sum()),
    )


def decisions_over_steps(
    output: NDArray[Any], weights: Sequence[float] | None
) -> NDArray[np.int64]:
    """
    Return the class of each sample after each step, (samples, steps), of `output` (samples, steps, ...).

    The last column is `decision.decisions`; earlier ones take the mean of the steps so far, with their
    `weights` if there are as many as steps.
    """
    parts = _so_far(output, weights)
    return np.stack([decisions(values, part) for values, part in parts], axis=1)


def largest_is_alone(output: NDArray[Any], weights: Sequence[float] | None) -> NDArray[np.bool_]:
    """Return where, (samples, steps), one output alone is the largest; arguments as above."""
    columns = []
    for values, part in _so_far(output, weights):
        levels = values.reshape(*values.shape[:2], -1)
        if part is not None:
            levels = np.asarray(part)[:, np.newaxis] * levels
        means = levels.mean(1)  # those of which `decisions` takes the largest
        columns.append((means == means.max(1, keepdims=True)).sum(1) == 1)
    return np.stack(columns, axis=1)


def _so_far(
    output: NDArray[Any], weights: Sequence[float] | None
) -> Iterator[tuple[NDArray[Any], list[float] | None]]:
    """Yield the outputs of the first step, of the first two, and so on, with their weights, if any."""
    steps = output.shape[1]
    used = None if weights is None or len(weights) != steps else list(weights)
    for step in range(1, steps + 1):
        yield output[:, :step], None if used is None else used[:step]


def first_divergences(
    first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]], offset: int
) -> list[Divergence]:
    """Return, for every sample that differs, its first differing spike: by step, then in layer order."""
    best: dict[int, Divergence] = {}
    for layer, before in first.items():
        after = second[layer]
        flat = (before != after).reshape(*before.shape[:2], -1)
        for sample in np.flatnonzero(flat.any((1, 2))):
            step = int(flat[sample].any(1).argmax())
            known = best.get(int(sample))
            if known is not None and known.step <= step:
                continue
            neuron = int(flat[sample, step].argmax())
            spikes = [int(values[sample, step].flat[neuron]) for values in (before, after)]
            best[int(sample)] = Divergence(
                offset + int(sample), step, layer, neuron, spikes[0], spikes[1], None, None
            )
    return [best[sample] for sample in sorted(best)]
