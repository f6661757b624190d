"""
What a verification found; `Report.to_json` is the contract for machines.

Two kinds of facts are in it. Counts are over all samples. What takes membranes or several runs is the
`Examination`, over a few samples, whose number it tells. What was not measured is in `not_measured`,
with the reason, and in no other place: no field holds a number that nobody measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neurocompile.statistics import Share

SCHEMA = 1

OF_PLACES = {"of_places": True}
"""Marks shares of spikes, which are not independent within a sample: the JSON has no interval for them."""


@dataclass(frozen=True)
class Contribution:
    """
    How much one cause moved the distance between membrane and threshold, in the source's units.

    Positive numbers move the candidate toward firing.
    """

    cause: str
    amount: float


@dataclass(frozen=True)
class MembraneTrace:
    """One neuron of one sample, step by step: membranes before their reset, in the source's units."""

    reference: tuple[float, ...]
    candidate: tuple[float, ...]
    reference_threshold: float
    candidate_threshold: float
    reference_spikes: tuple[int, ...]
    candidate_spikes: tuple[int, ...]
    first_step: int = 0  # of the sample: a long trace begins later


@dataclass(frozen=True)
class Divergence:
    """
    A spike in which two stages differ; membranes are those before the reset, in the source's units.

    `membrane` and `threshold` are the candidate's. A stage that shows no membranes has None: PyTorch, and a
    target whose spike is not that of the integers.
    """

    sample: int
    step: int
    layer: str
    neuron: int
    reference_spike: int
    candidate_spike: int
    membrane: float | None
    threshold: float | None
    reference_membrane: float | None = None
    reference_threshold: float | None = None


@dataclass(frozen=True)
class Cause:
    """
    Why a layer's first differing spike differs: `contributions` add up to the change of the margin.

    `margin_reference` is membrane minus threshold of the reference, `margin_candidate` that of the
    candidate; their difference is the sum of the contributions, which is checked, not assumed.
    """

    reference: str
    candidate: str
    divergence: Divergence
    margin_reference: float
    margin_candidate: float
    contributions: tuple[Contribution, ...]
    trace: MembraneTrace
    note: str = ""  # as of a tie, which float64's last bit decides, or of weights that rounding cannot explain


@dataclass(frozen=True)
class LayerBlame:
    """
    Whose error a layer's differing spikes are, float against integers, over the examined samples.

    `total` counts differences of the network as it runs; `own` those of the layer alone, run on
    the reference's input spikes (teacher forcing); `inherited` differences of the running network that
    vanish when its inputs are the reference's.
    """

    name: str
    total: Share = field(metadata=OF_PLACES)
    own: Share = field(metadata=OF_PLACES)
    inherited: Share = field(metadata=OF_PLACES)


@dataclass(frozen=True)
class ReadoutBlame:
    """
    What a read-out itself does to the outputs and decisions, over the examined samples.

    `total` and `own` count samples that are decided otherwise than by the float network: as the network
    runs, and by the read-out alone, run on the reference's spikes. `own_error` and `total_error` are mean
    differences of its outputs, without sign, in the source's units.
    """

    name: str
    total: Share
    own: Share
    total_error: float
    own_error: float


@dataclass(frozen=True)
class Alternative:
    """
    Another way to quantise, measured on the examined samples.

    `options` is what to add to (or change in) the export command; `weight_bytes` all weights' memory. It was
    measured on `samples` samples; `same_decisions` and `output_error` (a mean, without sign) are against the
    float network. `difference` is the 95 % interval of its share of differing places less the program's own;
    `better` says that it is clearly better, beyond what so few samples leave to chance.
    """

    name: str
    options: str
    mismatches: Share = field(metadata=OF_PLACES)
    accuracy: Share | None
    weight_bytes: int
    samples: int = 0
    same_decisions: Share | None = None
    output_error: float | None = None
    difference: tuple[float, float] | None = None
    better: bool = False


@dataclass(frozen=True)
class Histogram:
    """
    Values before and after quantisation in the same bins, in the source's units; `clipped` of them were
    cut. `edges` has one number more than there are bins.
    """

    name: str
    edges: tuple[float, ...]
    reference: tuple[int, ...]
    candidate: tuple[int, ...]
    clipped: int
    threshold: float | None = None


@dataclass(frozen=True)
class Distances:
    """
    How far the spike trains of a layer are apart, means over neurons and examined samples.

    `van_rossum` has the time constant `tau`, `victor_purpura` the cost `cost` of moving a spike by one
    step. `membrane_mean` and `membrane_largest` are errors of membranes before reset, in thresholds.
    """

    name: str
    van_rossum: float
    tau: float
    victor_purpura: float
    cost: float
    membrane_mean: float | None
    membrane_largest: float | None
    pairs: int = 0  # different pairs of trains, each computed once
    drawn: int | None = None  # of them, where they were too many: the means are estimates then


@dataclass(frozen=True)
class Exhibit:
    """
    One sample to look at: what each stage fired and put out.

    `spikes[stage][layer]` is (steps, *shape), `outputs[stage]` (steps, classes) of the first output.
    """

    sample: int
    label: int | None
    spikes: Mapping[str, Mapping[str, NDArray[Any]]]
    outputs: Mapping[str, NDArray[Any]]
    decisions: Mapping[str, int]


@dataclass(frozen=True)
class Examination:
    """
    What a close look at `samples` (their numbers) showed, `reference` against `candidate`.

    They are spread evenly over the data, whatever happens in them; `cause_samples` are those that causes
    were looked for in, some of them because they differ.
    """

    samples: tuple[int, ...]
    blame: tuple[LayerBlame, ...] = ()  # the worst own error first
    causes: tuple[Cause, ...] = ()
    distances: tuple[Distances, ...] = ()
    weights: tuple[Histogram, ...] = ()
    membranes: tuple[Histogram, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    readouts: tuple[ReadoutBlame, ...] = ()
    cause_samples: tuple[int, ...] = ()
    reference: str = "float"
    candidate: str = "fixedpoint"


@dataclass(frozen=True)
class LayerComparison:
    """
    How one layer differs; rates are spikes per neuron and step.

    `missing` spikes only the reference fired, `extra` ones only the candidate. `by_step` are mismatches
    at each step. `count_difference` is the mean over samples and neurons of how many spikes more or
    fewer one fired in a whole sample, without sign.
    """

    name: str
    slots: int
    mismatches: int
    rate_reference: float
    rate_candidate: float
    spikes_reference: int = 0
    spikes_candidate: int = 0
    missing: int = 0
    extra: int = 0
    by_step: tuple[int, ...] = ()
    count_difference: float = 0.0

    @property
    def per_spike(self) -> float | None:
        """Mismatches for each spike of the reference; None if it fired none."""
        return self.mismatches / self.spikes_reference if self.spikes_reference else None


@dataclass(frozen=True)
class Comparison:
    """
    How two stages differ; `slots` counts the compared (sample, step, neuron) places.

    `divergences` are the first ones of a few samples, a random choice that does not depend on how the
    samples were split up; `differing_samples` is the share of samples with any; `same_decisions` the
    share that both put in the same class, None where there are no classes. `interval` is the 95 % one of the share of mismatches, from how
    much samples vary; None where that says nothing.
    """

    reference: str
    candidate: str
    must_match: bool
    layers: tuple[LayerComparison, ...]
    output_slots: int
    output_mismatches: int
    output_difference: float
    first_divergence: Divergence | None
    divergences: tuple[Divergence, ...] = ()
    differing_samples: Share | None = None
    same_decisions: Share | None = None
    interval: tuple[float, float] | None = None

    @property
    def slots(self) -> int:
        return sum(layer.slots for layer in self.layers)

    @property
    def mismatches(self) -> int:
        return sum(layer.mismatches for layer in self.layers)

    @property
    def failed(self) -> bool:
        """Whether integers differ that must not: a spike, or an output."""
        return self.must_match and (self.mismatches > 0 or self.output_mismatches > 0)


@dataclass(frozen=True)
class StageSummary:
    """
    What one stage did over all samples.

    `accuracy_over_steps[t]` is the share of right decisions after t + 1 steps, `steps_to_decision` the
    mean first step from which on the decision is the final one, over samples that have one; None where there
    are no classes, or no sample is decided. `undecided` are samples in which no output is largest: their
    decision is the first of the largest.
    """

    name: str
    integers: bool
    accuracy: Share | None
    accuracy_over_steps: tuple[Share, ...] | None
    steps_to_decision: float | None
    spikes: int
    rates: Mapping[str, float] = field(default_factory=dict)  # by layer, spikes per neuron and step
    undecided: Share | None = None


@dataclass(frozen=True)
class LayerEnergy:
    """Operations of one layer per sample, a mean; `kind` is "mac" (values arrive) or "ac" (spikes do)."""

    name: str
    kind: Literal["mac", "ac"]
    operations: float
    picojoules: float


@dataclass(frozen=True)
class Energy:
    """An estimate, never a measurement: `rule` says how it was counted."""

    stage: str
    rule: str
    layers: tuple[LayerEnergy, ...]
    picojoules: float
    dense_picojoules: float  # the same network as an ANN: every multiplication once


@dataclass(frozen=True)
class BudgetResult:
    """A floor that the user set, and what was measured; `interval` is the 95 % one where there is one."""

    name: str
    limit: float
    measured: float
    interval: tuple[float, float] | None
    failed: bool
    text: str
    unit: str = "%"  # or "points", of differences of accuracies


@dataclass(frozen=True)
class Report:
    """
    The outcome of a verification; `to_json` is the contract for machines.

    `versions` are of what runs the stages, by package, as installed where this was verified.
    """

    target: str
    samples: int
    steps: int
    stages: tuple[StageSummary, ...]
    comparisons: tuple[Comparison, ...]
    overall: Comparison
    counters: Mapping[str, Mapping[str, int]]
    facts: Mapping[str, Any]
    data: str = ""
    whole: bool = True  # whether these are all samples of the data
    remarks: tuple[str, ...] = ()
    budgets: tuple[BudgetResult, ...] = ()
    examination: Examination | None = None
    energy: tuple[Energy, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)  # `Resources`, as plain values
    network: Mapping[str, Any] = field(
        default_factory=dict
    )  # populations and synapses, for drawings
    exhibits: tuple[Exhibit, ...] = ()  # not in the JSON
    not_measured: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether a comparison that must match did not, or a budget was missed."""
        return any(comparison.failed for comparison in self.comparisons) or any(
            budget.failed for budget in self.budgets
        )

    @property
    def accuracy(self) -> dict[str, float]:
        """The share of samples that each stage classifies as labelled; empty without labels."""
        return {
            stage.name: stage.accuracy.value for stage in self.stages if stage.accuracy is not None
        }

    def between(self, reference: str, candidate: str) -> Comparison:
        """Return the comparison of these two stages; raises `KeyError` if they were not compared."""
        for comparison in self.comparisons:
            if (comparison.reference, comparison.candidate) == (reference, candidate):
                return comparison
        raise KeyError(f"{reference} / {candidate}")

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values, schema 1."""
        return {
            "schema": SCHEMA,
            "target": self.target,
            "data": self.data,
            "whole_data": self.whole,
            "samples": self.samples,
            "steps": self.steps,
            "failed": self.failed,
            "accuracy": self.accuracy,
            "stages": plain(self.stages),
            "comparisons": [_comparison_json(item) for item in self.comparisons],
            "overall": _comparison_json(self.overall),
            "layers": [_layer_json(layer) for layer in self.overall.layers],
            "budgets": plain(self.budgets),
            "remarks": list(self.remarks),
            "counters": {layer: dict(counts) for layer, counts in self.counters.items()},
            "examination": plain(self.examination),
            "energy": plain(self.energy),
            "resources": plain(self.resources),
            "network": plain(self.network),
            "not_measured": dict(self.not_measured),
            "versions": dict(self.versions),
            "program": dict(self.facts),
        }


def plain(value: Any) -> Any:
    """Return dataclasses, mappings and sequences as what JSON has."""
    if isinstance(value, Share):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        shown = {item.name: plain(getattr(value, item.name)) for item in fields(value)}
        for item in fields(value):
            if item.metadata.get("of_places"):
                shown[item.name] = {
                    name: shown[item.name][name] for name in ("count", "of", "value")
                }
        return shown
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "reference": comparison.reference,
        "candidate": comparison.candidate,
        "slots": comparison.slots,
        "mismatches": comparison.mismatches,
        "interval": plain(comparison.interval),
        "must_match": comparison.must_match,
        "output": {
            "slots": comparison.output_slots,
            "mismatches": comparison.output_mismatches,
            "largest_difference": comparison.output_difference,
        },
        "first_divergence": plain(comparison.first_divergence),
        "divergences": plain(comparison.divergences),
        "differing_samples": plain(comparison.differing_samples),
        "same_decisions": plain(comparison.same_decisions),
        "layers": [_layer_json(layer) for layer in comparison.layers],
    }


def _layer_json(layer: LayerComparison) -> dict[str, Any]:
    return {**plain(layer), "per_spike": layer.per_spike}
