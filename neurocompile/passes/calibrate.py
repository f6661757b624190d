"""
Decide what samples, or a memory budget, can decide before anything becomes an integer.

It makes no network: what it found are wishes (`recipe.Wish`), one for each population, which `quantise`
takes instead of its own, and proves again. Populations are taken in order. The target of each is what it
does in the network of real numbers, where all before it are real, too; what it is judged on are the spikes
that the integers chosen so far send, so that a layer makes good what those before it spoilt. Feedback from
populations that have no integers yet is taken from the real network.

In the end the whole network runs, beside those that the simplest methods make: were one of them better on
the samples, it would be taken.

A memory budget gives each layer as many bits as cost the answer least (`quantisation.memory`). With samples
that is measured, as the layer's own share of differing spikes; without, it is the variance of the input
sum that rounding the weights leaves, in thresholds squared, were every source as active as any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import OptionError, Problem, RangeError, raise_all
from neurocompile.integer import (
    Integer,
    IntegerNeurons,
    IntegerPopulation,
    to_payload,
)
from neurocompile.limits import Limits
from neurocompile.passes.quantise import (
    FirstLayer,
    Membranes,
    Quantised,
    layers_of,
    quantise,
    silent_steps_of,
)
from neurocompile.populations import (
    InputPopulation,
    Population,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SumPopulation,
)
from neurocompile.quantisation.biases import correct_biases
from neurocompile.quantisation.fit import Fitter
from neurocompile.quantisation.memory import Offer, Packing, pack, weights_held, weights_in_sums
from neurocompile.quantisation.observe import (
    SAMPLES_AT_ONCE,
    Observation,
    integer_sums,
    observe,
    run_neurons,
    sum_of_spikes,
)
from neurocompile.quantisation.recipe import FEWEST_BITS, Method, Recipe, Wish
from neurocompile.quantisation.rounding import round_to_samples
from neurocompile.quantisation.scales import by_row, payload_scale, wished_scale
from neurocompile.quantisation.search import (
    IMBALANCE,
    Layer,
    Search,
    begin,
    search_gain,
    search_scale,
)

Float = NDArray[np.float64]
Samples = Mapping[str, NDArray[Any]]
Progress = Callable[[int, int], None]

ACTIVITY = 0.1  # of every source, where nothing is measured: it is the same for all
LEAST = 1e-30  # of a threshold or sum squared, beside which noise is counted
BASELINES: tuple[Literal["max", "power-of-two"], ...] = ("max", "power-of-two")


@dataclass(frozen=True)
class Calibrated:
    """
    What `quantise` shall do: its `recipe`, `first_layer` and `choices`, the wishes by population.

    `reason` says why the first layer is computed where it is, "" if that is not decided; `report` is what
    was tried and found, for the program's facts.
    """

    recipe: Recipe
    first_layer: FirstLayer
    choices: Mapping[str, Wish] = field(default_factory=dict)
    reason: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)


def calibrate(
    network: PopulationNetwork,
    limits: Limits,
    recipe: Recipe,
    *,
    steps: int,
    first_layer: FirstLayer = "auto",
    membranes: Membranes = "proven",
    samples: Samples | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """
    Return what `recipe` asks samples to decide, and which bits fit its memory.

    `samples` are real inputs by name, (samples, steps, *shape), of which the first `recipe.samples` are
    used. A recipe that needs neither samples nor memory is returned as it is. `progress` is called with
    the number of populations done, and of all.

    Raises `OptionError` where samples are missing or nothing fits the memory, and what `quantise` does.
    """
    if not recipe.needs_samples and recipe.memory is None:
        return Calibrated(recipe, first_layer)
    recipe.check(limits, layers_of(network))
    if recipe.needs_samples and samples is None:
        raise_all(OptionError, _missing_samples(recipe))
    base = _base(network, limits, recipe, steps, first_layer, membranes)
    calibrator = _Calibrator(network, limits, recipe, steps, membranes, base)
    observed = None
    if samples is not None:
        observed = observe(
            network, {name: values[: recipe.samples] for name, values in samples.items()}
        )
    report: dict[str, Any] = {}
    if recipe.memory is not None:
        packing = calibrator.packing(recipe.memory, observed)
        report["memory"] = calibrator.told(packing, recipe.memory, measured=observed is not None)
        recipe = replace(recipe, bits=dict(packing.bits), memory=None)
        calibrator = replace(calibrator, recipe=recipe)
    if observed is None or not recipe.needs_samples:
        # Had the host its first layer at the most bits, its weights are not counted, and stay there.
        return Calibrated(recipe, calibrator.first_layer, {}, base.reason, report)
    return calibrator.calibrated(observed, report, progress or (lambda _done, _of: None))


def _base(
    network: PopulationNetwork,
    limits: Limits,
    recipe: Recipe,
    steps: int,
    first_layer: FirstLayer,
    membranes: Membranes,
) -> Quantised:
    """
    Return what the network is without samples, which says who computes the first layer.

    A search clips weights where that is better, as `mse` does: where its scales are too large to be proven on
    the chip, the first layer is the host's for a search, too.
    """

    def made(method: Method, first_layer: FirstLayer) -> Quantised:
        return quantise(
            network,
            limits,
            recipe=replace(_without_samples(recipe), method=method),
            steps=steps,
            first_layer=first_layer,
            membranes=membranes,
        )

    method = _without_samples(recipe).method
    base = made(method, first_layer)
    if recipe.method == "search" and first_layer == "auto" and base.first_layer == "graded":
        try:
            clipping = made("mse", "auto")
            if clipping.first_layer == "host":
                return replace(made(method, "host"), reason=clipping.reason)
        except RangeError:
            return base
    return base


def present(samples: Samples | None, steps: int) -> Samples | None:
    """Return `samples` at most `steps` steps long; what has one step is shown at all of them."""
    if samples is None:
        return None
    return {
        name: np.repeat(values, steps, axis=1) if values.shape[1] == 1 else values[:, :steps]
        for name, values in samples.items()
    }


def _missing_samples(recipe: Recipe) -> list[Problem]:
    asked = (
        ("--method search", recipe.method == "search", "--method mse"),
        ("--rounding adaptive", recipe.rounding == "adaptive", "--rounding nearest"),
        ("--correct-biases", recipe.correct_biases, ""),
    )
    return [
        Problem(
            "",
            f"{option} needs samples",
            "there are none",
            "give some with --calibrate DATA" + (f", or use {other}" if other else ""),
        )
        for option, given, other in asked
        if given
    ]


def _without_samples(recipe: Recipe) -> Recipe:
    """Return the recipe that needs no samples and is nearest."""
    return replace(
        recipe,
        method="max" if recipe.method == "search" else recipe.method,
        rounding="nearest",
        correct_biases=False,
        memory=None,
    )


@dataclass(frozen=True)
class _Calibrator:
    """Calibrates one network; `base` is what it is without samples, at the most bits."""

    network: PopulationNetwork
    limits: Limits
    recipe: Recipe
    steps: int
    membranes: Membranes
    base: Quantised

    @property
    def fitter(self) -> Fitter:
        unit = self.network.weight_unit
        of_source = unit is not None and not isinstance(unit, Mapping)
        on_host = frozenset(group.name for group in self.base.network.synapses if group.on_host)
        saturating = self.membranes == "saturating" or of_source
        return Fitter(self.limits, self.steps, saturating, unit, on_host)

    @property
    def first_layer(self) -> FirstLayer:
        found = self.base.first_layer
        return "graded" if found == "graded" else "host" if found == "host" else "auto"

    # Samples

    def calibrated(
        self, observed: Observation, report: dict[str, Any], progress: Progress
    ) -> Calibrated:
        """Return the wishes of all populations, and what was found."""
        choices: dict[str, Wish] = {}
        chosen: dict[str, IntegerPopulation] = {}
        told: dict[str, Any] = {}
        sent = self._inputs(observed)
        names = [item.name for item in self.network.populations]
        for done, item in enumerate(self.network.populations):
            if isinstance(item, SumPopulation):
                sent[item.name] = sum_of_spikes(self.network, item, sent)
            elif not isinstance(item, InputPopulation):
                layer = self._layer(item, chosen, sent, observed)
                search, facts = self._search(layer, observed)
                choices[item.name] = search.best.wish
                chosen[item.name] = search.best.fit.neurons
                told[item.name] = facts
                if isinstance(item, SpikingPopulation):
                    sent[item.name] = _spikes(layer, search)
            progress(done + 1, len(names))
        result = Calibrated(self.recipe, self.first_layer, choices, self.base.reason)
        return self._compared(result, observed, told, report)

    def _inputs(self, observed: Observation) -> dict[str, NDArray[Any]]:
        """Return what is sent in integers, as far as it is known: of inputs."""
        sent: dict[str, NDArray[Any]] = dict(observed.sent)
        for item in self.base.network.inputs:
            payload = to_payload(item, np.asarray(sent[item.name]))
            sent[item.name] = np.clip(payload, item.minimum, item.maximum)
        return sent

    def _layer(
        self,
        item: SpikingPopulation | ReadoutPopulation,
        chosen: Mapping[str, IntegerPopulation],
        sent: Mapping[str, NDArray[Any]],
        observed: Observation,
    ) -> Layer:
        groups = self.network.into(item.name)
        names = dict.fromkeys(group.source for group in groups)
        return Layer(
            self.fitter,
            item,
            groups,
            {name: chosen.get(name) or self._before(name) for name in names},
            silent_steps_of(self.network).get(item.name, 0),
            {name: sent[name] for name in names},
            observed.places[item.name],
            observed.records[item.name],
            self.recipe.objective,
        )

    def _before(self, name: str) -> IntegerPopulation:
        """Return a source that has no integers yet, as `quantise` takes it."""
        found, real = self.base.network[name], self.network[name]
        if isinstance(found, IntegerNeurons) and isinstance(real, SpikingPopulation):
            return replace(found, most=real.most_spikes or found.most)
        return found

    def _wish(self, layer: Layer, bits: int) -> Wish:
        scale = wished_scale(
            layer.population,
            layer.groups,
            layer.sources,
            self.limits,
            weight_bits=bits,
            method=self.recipe.method,
            scales=self.recipe.scales,
            percentile=self.recipe.percentile,
            on_host=self.fitter.on_host,
        )
        return Wish(bits, scale)

    def _search(self, layer: Layer, observed: Observation) -> tuple[Search, dict[str, Any]]:
        """Return the search that ended, and what it found."""
        name = layer.population.name
        bits = self.recipe.bits_of(name)
        search = begin(layer, self._wish(layer, bits))
        if search is None:
            # It is proven beside the sources of `base`; it may not be beside those chosen since.
            raise RangeError(
                Problem(
                    name,
                    "needs a scale that is proven beside the layers before it, as calibration chose them",
                    "there is none",
                    "export without calibration",
                )
            )
        first = search.best
        fixed = self.fitter.given_unit(name) is not None
        if not fixed:
            if self.recipe.method == "search":
                search_scale(search, self.recipe, bits)
            if self.recipe.rounding == "adaptive":
                round_to_samples(search)
            if self.recipe.method == "search":
                search_gain(search)
            if self.recipe.correct_biases:
                correct_biases(search, observed.sent)
        best = search.best
        ratio = best.fit.scale / first.fit.scale
        measure = "spikes that differ" if self.recipe.objective == "spikes" else "membrane error"
        if isinstance(layer.population, ReadoutPopulation):
            measure = "output error"
        minimised = measure
        if first.score.differ is not None:
            minimised += f", and {IMBALANCE:g} times by how much mean rates do"
        return search, {
            "bits": bits,
            "measure": measure,
            "before": first.score.told,
            "after": best.score.told,
            "minimised": {
                "what": minimised,
                "before": first.score.total[0],
                "after": best.score.total[0],
            },
            "candidates": search.tried,
            "scale_ratio": [float(ratio.min()), float(ratio.max())],
            "weights": "given by the source"
            if fixed
            else "chosen apart from the threshold"
            if best.wish.weights
            else "to the nearest",
            "bias_corrected": best.wish.bias is not None,
            "places": len(layer.places),
            "all_places": layer.places.every,
        }

    # The whole network

    def _compared(
        self,
        result: Calibrated,
        observed: Observation,
        told: Mapping[str, Any],
        report: dict[str, Any],
    ) -> Calibrated:
        """Return `result` with its report, or what a simpler method makes if that is better."""
        simple = _without_samples(self.recipe)
        recipes = {
            method: replace(simple, method=method)
            for method in dict.fromkeys((simple.method, *BASELINES))
        }
        runs = {"chosen": self._run(result, observed)}
        for method, recipe in recipes.items():
            other = Calibrated(recipe, self.first_layer, {}, self.base.reason)
            try:
                runs[method] = self._run(other, observed)
            except RangeError:
                continue  # it has no integers at all
        best = min(runs, key=lambda name: runs[name].order(self.recipe.objective))
        samples, steps = next(iter(observed.sent.values())).shape[:2]
        report = {
            "samples": samples,
            "steps": steps,
            "objective": self.recipe.objective,
            "taken": best,
            "layers": dict(told),
            "network": {name: asdict(run) for name, run in runs.items()},
            **report,
        }
        if best != "chosen":
            result = replace(result, recipe=recipes[best], choices={})  # type: ignore[index]
        return replace(result, report=report)

    def _run(self, calibrated: Calibrated, observed: Observation) -> _Run:
        from neurocompile_fixedpoint.definition import execute

        quantised = quantise(
            self.network,
            self.limits,
            recipe=calibrated.recipe,
            steps=self.steps,
            first_layer=calibrated.first_layer,
            membranes=self.membranes,
            choices=calibrated.choices,
        )
        integers = quantised.network
        sent = self._inputs(observed)
        samples, steps = next(iter(observed.sent.values())).shape[:2]
        trace = execute(
            integers,
            {item.name: sent[item.name] for item in integers.inputs},
            samples=samples,
            steps=steps,
            record=[neurons.name for neurons in integers.spiking],
        )
        differ = {
            name: spikes != observed.sent[name].reshape(spikes.shape)
            for name, spikes in trace.spikes.items()
        }
        errors = {}
        for output, name in integers.outputs.items():
            neurons = integers[name]
            assert isinstance(neurons, IntegerNeurons)
            if neurons.readout:
                shown = neurons.in_source_units(trace.outputs[output])
                places = observed.places[name]
                error = places.of_record(shown) - observed.records[name].membrane
                errors[output] = float(np.square(error).mean())
        return _Run(
            {name: float(wrong.mean()) for name, wrong in differ.items()},
            sum(int(wrong.sum()) for wrong in differ.values()),
            sum(wrong.size for wrong in differ.values()),
            errors,
        )

    # Memory

    def packing(self, memory: int, observed: Observation | None) -> Packing:
        """Return the bits of each layer, so that all weights fit `memory` bytes."""
        held = weights_held(self.network, self.fitter.on_host)
        sums = weights_in_sums(self.network) * self.limits.weight_bits
        sent = {} if observed is None else self._inputs(observed)
        offers: dict[str, list[Offer]] = {}
        for item in self.network.populations:
            if item.name not in held or not isinstance(item, SpikingPopulation | ReadoutPopulation):
                continue
            most = self.recipe.bits_of(item.name)
            fixed = item.name in self.recipe.bits or self.fitter.given_unit(item.name) is not None
            offers[item.name] = [
                Offer(
                    bits,
                    held[item.name] * bits,
                    self._unmeasured_cost(item, bits)
                    if observed is None
                    else self._measured_cost(item, bits, sent, observed),
                )
                for bits in range(most if fixed else FEWEST_BITS, most + 1)
            ]
        return pack(offers, 8 * memory, fixed=sums)

    def _measured_cost(
        self,
        item: SpikingPopulation | ReadoutPopulation,
        bits: int,
        sent: Mapping[str, NDArray[Any]],
        observed: Observation,
    ) -> float:
        """Return how far the layer alone, on what real layers before it send, is off with so many bits."""
        layer = self._layer(item, {}, sent, observed)
        search = begin(layer, self._wish(layer, bits))
        if search is None:
            return math.inf
        if self.recipe.method == "search":
            search_scale(search, self.recipe, bits, quickly=True)
        first, _ = search.best.score.total
        return math.sqrt(first) if isinstance(item, ReadoutPopulation) else first

    def _unmeasured_cost(self, item: SpikingPopulation | ReadoutPopulation, bits: int) -> float:
        """Return the variance that rounding leaves in input sums, in thresholds or sums squared."""
        groups = self.network.into(item.name)
        sources = {group.source: self._before(group.source) for group in groups}
        scale = wished_scale(
            item,
            groups,
            sources,
            self.limits,
            weight_bits=bits,
            method=_without_samples(self.recipe).method,
            scales=self.recipe.scales,
            percentile=self.recipe.percentile,
            on_host=self.fitter.on_host,
        )
        silent_steps = silent_steps_of(self.network).get(item.name, 0)
        try:
            fit = self.fitter.fit(
                item, groups, sources, Wish(bits, scale), silent_steps=silent_steps
            )
        except RangeError:
            return math.inf
        noise = signal = 0.0
        for group, integers in zip(groups, fit.groups, strict=True):
            if integers.on_host:
                continue
            real = group.operator.weight.reshape(len(group.operator.weight), -1)
            rows = by_row(fit.scale / payload_scale(group, sources), len(real))[:, None]
            kept = integers.weight.reshape(real.shape) / rows
            activity = ACTIVITY * _largest_sent(self.network[group.source]) ** 2
            noise += activity * float(np.square(real - kept).sum(1).mean())
            signal += activity * float(np.square(real).sum(1).mean())
        if isinstance(item, SpikingPopulation):
            return noise / max(float(np.square(item.threshold).mean()), LEAST)
        return noise / max(signal, LEAST)

    def told(self, packing: Packing, memory: int, *, measured: bool) -> dict[str, Any]:
        """Return what is reported of the bits that were chosen."""
        return {
            "budget_bytes": memory,
            "bytes": -(-packing.size // 8),
            "bits": dict(packing.bits),
            "by": "what each layer does on the samples"
            if measured
            else "the noise that rounding leaves in input sums",
            "optimal": packing.gap == 0,
        }


@dataclass(frozen=True)
class _Run:
    """What integers changed on the samples: shares by layer, spikes of all slots, mean squares of outputs."""

    layers: Mapping[str, float]
    mismatches: int
    slots: int
    output_errors: Mapping[str, float]

    def order(self, objective: str) -> tuple[float, float]:
        """Return what is compared: the smaller, the better."""
        errors = sum(self.output_errors.values())
        if objective == "spikes" or not self.output_errors:
            return float(self.mismatches), errors
        return errors, float(self.mismatches)


def _largest_sent(source: Population) -> float:
    """Return the largest magnitude that a population sends, one spike at a time."""
    if isinstance(source, InputPopulation):
        return max(abs(source.range.minimum), abs(source.range.maximum))
    return float(source.largest) if isinstance(source, SumPopulation) else 1.0


def remarks_on(report: Mapping[str, Any]) -> list[str]:
    """Return what people should know of a report, a line each; it may come from a program's facts."""
    remarks = []
    if "memory" in report:
        memory = report["memory"]
        bits = ", ".join(f"{name} {count}" for name, count in memory["bits"].items())
        remarks.append(
            f"weights take {memory['bytes']} of {memory['budget_bytes']} bytes, with bits by "
            f"{memory['by']}: {bits}" + ("" if memory["optimal"] else " (nearly the best choice)")
        )
    if "network" in report:
        runs, taken = report["network"], report["taken"]
        others = " and ".join(
            f"{_changed(run)} with '{name}'" for name, run in runs.items() if name != taken
        )
        remarks.append(
            f"calibrated on {report['samples']} samples of '{report['data']}', {report['steps']} steps: "
            f"{_changed(runs[taken])}; {others}"
        )
        if taken != "chosen":
            remarks.append(
                f"'{taken}' did better on the samples than what was chosen layer by layer, and was taken"
            )
    return remarks


def _changed(run: Mapping[str, Any]) -> str:
    if run["slots"]:
        return f"{100 * run['mismatches'] / run['slots']:.4f} % of spikes differ"
    return f"outputs are off by {math.sqrt(sum(run['output_errors'].values())):.3g}"


def _spikes(layer: Layer, search: Search) -> Integer:
    """Return what the integers that were chosen send, (samples, steps, *shape)."""
    fit = search.best.fit
    count = len(next(iter(layer.sent.values())))
    parts = []
    for start in range(0, count, SAMPLES_AT_ONCE):
        part = {
            name: values[start : start + SAMPLES_AT_ONCE] for name, values in layer.sent.items()
        }
        sums = integer_sums(fit.groups, layer.sources, fit.neurons, part)
        parts.append(run_neurons(fit.neurons, sums)[0])
    spikes: Integer = np.concatenate(parts)
    return spikes.astype(np.uint8 if fit.neurons.most < 256 else np.int64)
