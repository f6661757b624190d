"""
Hold the network after each pass against the one before, spike by spike.

A pass is exact or lossy. An exact one must keep every spike and every output, on random inputs over the
whole range and on calibration samples: a spike that differs is a bug of the pass, and there is no
program. Two float64 programs of one network may round a sum differently, though, and a membrane that
lies on its threshold to within that rounding (`TIE` of it) is a coin toss: such ties are counted, and
what follows them in their sample is not compared. A lossy pass, quantisation, is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.counted import saturations
from neurocompile.data import InputRange
from neurocompile.errors import EquivalenceError, Problem, raise_all
from neurocompile.integer import IntegerNetwork, to_payload
from neurocompile.integer import Trace as IntegerTrace
from neurocompile.ir import LIF, Conv2d, Dense, Input, Network, Threshold
from neurocompile.population_reference import simulate_populations
from neurocompile.populations import PopulationNetwork
from neurocompile.quantisation.silence import Fired
from neurocompile.reference import Trace, simulate
from neurocompile.stages import LOSSY, Stage

RANDOM_SAMPLES = 4
CALIBRATION_SAMPLES = 4
MOST_STEPS = 16
SEED = 20261125
TIE = 1e-9  # of the largest number in the comparison; float64 sums of millions of terms stay below
AFFORDABLE = 3e9  # multiplications of all runs together: some seconds


@dataclass(frozen=True)
class PassReport:
    """
    What one pass changed: compared places, spikes that differ, ties, the largest output difference.

    `layers` are the mismatches of each layer, of a lossy pass.
    """

    name: str
    exact: bool
    slots: int
    mismatches: int
    ties: int
    output_difference: float
    layers: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"pass": self.name, **{k: v for k, v in vars(self).items() if k != "name"}}


class Validator:
    """Runs each stage on the same inputs, and compares it with the stage before."""

    def __init__(self, inputs: Mapping[str, NDArray[np.float64]], network: Network) -> None:
        self.inputs = inputs
        self.reports: list[PassReport] = []
        self.fired: tuple[Fired, ...] = ()  # what quantised layers did, on calibration samples
        self._before = simulate(network, inputs, membranes=True)
        self._thresholds = _thresholds(network)

    def after(self, name: str, stage: Stage) -> None:
        """Compare `stage`, which pass `name` made, with the stage before; raises `EquivalenceError`."""
        if isinstance(stage, IntegerNetwork):
            trace = run_integers(stage, self.inputs)
            now = in_source_units(stage, trace)
            self.fired = _fired(stage, self._before, trace)
        else:
            now = run_stage(stage, self.inputs)
        exact = name not in LOSSY
        report = (
            compare_exactly(name, self._before, now, self._thresholds)
            if exact
            else measure(name, self._before, now)
        )
        self.reports.append(report)
        self._before = now
        self._thresholds = _thresholds(stage)


def run_stage(stage: Stage, inputs: Mapping[str, NDArray[np.float64]]) -> Trace:
    """Return what a network of any stage does on `inputs`, in the units of that stage."""
    if isinstance(stage, Network):
        return simulate(stage, inputs, membranes=True)
    if isinstance(stage, PopulationNetwork):
        return simulate_populations(stage, inputs)
    return in_source_units(stage, run_integers(stage, inputs))


def run_integers(stage: IntegerNetwork, inputs: Mapping[str, NDArray[np.float64]]) -> IntegerTrace:
    """Return what an integer network does on `inputs`, by the definition."""
    from neurocompile_fixedpoint.definition import execute

    samples, steps = next(iter(inputs.values())).shape[:2]
    return execute(
        stage,
        {item.name: to_payload(item, inputs[item.name]) for item in stage.inputs},
        samples=samples,
        steps=steps,
        record=[neurons.name for neurons in stage.spiking],
    )


def in_source_units(stage: IntegerNetwork, trace: IntegerTrace) -> Trace:
    """Return what an integer network did, in the units of the source network."""
    outputs = {}
    for output, name in stage.outputs.items():
        shown = next(neurons for neurons in stage.neurons if neurons.name == name)
        values = trace.outputs[output]
        outputs[output] = shown.in_source_units(values) if shown.readout else values.astype(float)
    return Trace(outputs, trace.spikes, {})


def _fired(stage: IntegerNetwork, before: Trace, trace: IntegerTrace) -> tuple[Fired, ...]:
    """Return how often each layer fired on calibration samples, which follow the random ones."""
    fired = []
    for neurons in stage.spiking:
        real = before.spikes[neurons.name][RANDOM_SAMPLES:]
        integer = trace.spikes[neurons.name][RANDOM_SAMPLES:]
        if real.size:
            ended = saturations(neurons, trace.counters.get(neurons.name, {}))
            fired.append(Fired(neurons.name, real.size, int(real.sum()), int(integer.sum()), ended))
    return tuple(fired)


def _thresholds(stage: Stage) -> dict[str, NDArray[np.float64]]:
    if isinstance(stage, Network):
        return {
            name: node.threshold
            for name, node in stage.nodes.items()
            if isinstance(node, LIF | Threshold)
        }
    if isinstance(stage, PopulationNetwork):
        return {
            item.name: np.broadcast_to(item.threshold, item.shape)
            for item in stage.populations
            if hasattr(item, "threshold")
        }
    return {}


def compare_exactly(
    name: str, before: Trace, after: Trace, thresholds: Mapping[str, NDArray[np.float64]]
) -> PassReport:
    """
    Return the comparison of an exact pass; raises `EquivalenceError` with every layer that differs.

    Layers are those that both traces have: a pass may add some of its own.
    """
    layers = [layer for layer in before.spikes if layer in after.spikes]
    lost = [layer for layer in before.spikes if layer not in after.spikes]
    problems = [Problem(layer, f"must still exist after pass '{name}'") for layer in lost]
    samples, steps = next(iter(before.outputs.values())).shape[:2]
    slots = ties = 0
    ends = np.full(samples, steps)  # where a sample's comparison ends, at a tie
    for sample in range(samples):
        for step in range(steps):
            differing = [
                layer
                for layer in layers
                if (before.spikes[layer][sample, step] != after.spikes[layer][sample, step]).any()
            ]
            slots += sum(before.spikes[layer][sample, step].size for layer in layers)
            if not differing:
                continue
            # Layers come in the order of the network: the first one heard only equal spikes.
            layer = differing[0]
            places = np.argwhere(
                before.spikes[layer][sample, step] != after.spikes[layer][sample, step]
            )
            membrane = before.membrane[layer][sample, step]
            decided_at = thresholds[layer]
            if before.spikes[layer].dtype != np.uint8:  # several spikes: at multiples as well
                fits = np.rint(membrane / decided_at)
                decided_at = decided_at * np.maximum(fits, 1)
            margin = np.abs(membrane - decided_at)[tuple(places.T)]
            scale = max(1.0, float(np.abs(membrane).max()), float(thresholds[layer].max()))
            if (margin > TIE * scale).any():
                place = places[int(margin.argmax())]
                problems.append(
                    Problem(
                        layer,
                        f"must fire the same spikes after pass '{name}'",
                        f"{len(places)} differ at sample {sample}, step {step}, first at neuron "
                        f"{tuple(int(axis) for axis in place)}",
                        "this is a bug of neurocompile: please report it",
                    )
                )
            ties += len(places)
            ends[sample] = step
            break
    largest = 0.0
    for output, values in before.outputs.items():
        for sample, end in enumerate(ends):
            one, two = values[sample, :end], after.outputs[output][sample, :end]
            difference = float(np.abs(one - two).max(initial=0))
            largest = max(largest, difference)
            if difference > TIE * max(1.0, float(np.abs(one).max(initial=0))):
                problems.append(
                    Problem(
                        output,
                        f"must show the same values after pass '{name}'",
                        f"they differ by {difference:.3g} in sample {sample}",
                        "this is a bug of neurocompile: please report it",
                    )
                )
    raise_all(EquivalenceError, problems)
    return PassReport(name, True, slots, 0, ties, largest)


def measure(name: str, before: Trace, after: Trace) -> PassReport:
    """Return how much a lossy pass changed."""
    differ = {
        layer: before.spikes[layer] != after.spikes[layer]
        for layer in before.spikes
        if layer in after.spikes
    }
    return PassReport(
        name,
        exact=False,
        slots=sum(wrong.size for wrong in differ.values()),
        mismatches=sum(int(wrong.sum()) for wrong in differ.values()),
        ties=0,
        output_difference=max(
            float(np.abs(values - after.outputs[output]).max(initial=0))
            for output, values in before.outputs.items()
        ),
        layers={layer: float(wrong.mean()) for layer, wrong in differ.items()},
    )


def probe_inputs(
    network: Network,
    calibration: Mapping[str, NDArray[Any]] | None,
    *,
    steps: int,
) -> dict[str, NDArray[np.float64]]:
    """
    Return random inputs for `network`, sparse to dense, then the first calibration samples.

    Values are drawn over each input's whole range, on its grid if it has one.
    """
    generator = np.random.default_rng(SEED)
    length = min(steps, MOST_STEPS)
    result = {}
    for name in network.of_type(Input):
        node = network.nodes[name]
        assert isinstance(node, Input)
        limits = node.range or InputRange(0, 1, 1)
        shape = (RANDOM_SAMPLES, length, *node.shape)
        values = limits.minimum + generator.random(shape) * (limits.maximum - limits.minimum)
        if limits.step:
            values = np.rint(values / limits.step) * limits.step
        share = np.linspace(0.15, 0.9, RANDOM_SAMPLES).reshape(-1, *[1] * (len(shape) - 1))
        values = np.where(generator.random(shape) < share, values, 0)
        if (limits.minimum, limits.maximum, limits.step) == (0, 1, 1):
            values = (generator.random(shape) < share).astype(np.float64)
        if calibration is not None:
            real = np.asarray(calibration[name][:CALIBRATION_SAMPLES], np.float64)
            if real.shape[1] < length:
                real = np.concatenate([real] * -(-length // real.shape[1]), axis=1)
            values = np.concatenate([values, real[:, :length]])
        result[name] = values
    return result


def cost(network: Network, *, steps: int, calibrated: bool) -> float:
    """Return about how many multiplications it takes to validate `network`."""
    samples = RANDOM_SAMPLES + (CALIBRATION_SAMPLES if calibrated else 0)
    stages = 7
    return _multiplications(network) * samples * min(steps, MOST_STEPS) * stages


def affordable_samples(
    network: Network, *, steps: int, least: int, most: int, multiplications: float
) -> int:
    """Return how many samples of `steps` steps run in so many `multiplications`: `least` to `most`."""
    fitting = int(multiplications / max(1.0, _multiplications(network) * steps))
    return min(max(fitting, least), most)


def _multiplications(network: Network) -> float:
    """Return about how many multiplications one step of one sample takes."""
    synapses = 0
    for name, node in network.nodes.items():
        if isinstance(node, Dense | Conv2d):
            pixels = 1 if isinstance(node, Dense) else math.prod(network.shapes[name][1:])
            synapses += node.weight.size * pixels
    return float(synapses)
