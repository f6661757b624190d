"""
Look closely at a few samples: whose errors a layer's spikes are, why they differ, and what would help.

The float network is run as the populations that became integers, and must fire as the program's graph
does; a sample in which it does not (a membrane on its threshold, decided by the order of a sum) is left out,
and that is said. Membranes and forced runs take memory and time, so there are few samples, fewer of
a large network, and one chunk of them is held at once.

The samples lie evenly over the data, whatever happens in them: were they chosen because this program fails on
them, it would look worse than it is, and worse than any alternative. Causes alone are looked for in
samples that are known to differ, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile import reference
from neurocompile.data import Inputs, by_input
from neurocompile.decision import weights_in
from neurocompile.dequantise import dequantise, simulate_dequantised
from neurocompile.errors import MissingDependencyError, NeurocompileError
from neurocompile.integer import Integer, IntegerNetwork, IntegerNeurons
from neurocompile.integer import Trace as IntegerTrace
from neurocompile.population_reference import simulate_populations
from neurocompile.populations import PopulationNetwork, SpikingPopulation
from neurocompile.reference import Trace
from neurocompile.samples import SampleSource
from neurocompile.verification.alternatives import Examined, alternatives_of, calibration_of
from neurocompile.verification.causes import (
    LEVELS,
    NOTHING,
    Behaviour,
    Level,
    cause_of,
    first_place,
)
from neurocompile.verification.forcing import (
    Answers,
    Counts,
    Forced,
    blame_of,
    count_answers,
    count_own,
    force,
    most_fired,
    readout_blame_of,
)
from neurocompile.verification.histograms import (
    Binned,
    binned,
    saturated,
    weight_ends,
    weight_histograms,
)
from neurocompile.verification.real import first_reason, real_populations
from neurocompile.verification.report import Cause, Distances, Divergence, Examination
from neurocompile.verification.rows import Ends, numbers_of
from neurocompile.verification.stages import Runner
from neurocompile.verification.tallies import Tally

DIFFERING = 4  # samples that are known to differ, in which causes are looked for besides, at most
WORK = 30_000_000_000  # multiplications of one run on all examined samples: half a minute each
MOST_VALUES = 4_000_000  # membranes that are held of one network at once
MOST_KEPT = 100_000_000  # spikes that are kept for distances and alternatives

Progress = Callable[[int, int], None]
Spikes = Mapping[str, NDArray[Any]]

EVERYTHING = ("blame", "causes", "distances", "weights", "membranes")


@dataclass(frozen=True)
class _Network:
    """A program's populations as real numbers, dequantised, and as integers; all of the same names."""

    runner: Runner
    real: PopulationNetwork
    middle: PopulationNetwork
    integers: IntegerNetwork
    ends: Mapping[str, Ends]

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.integers.spiking)

    @property
    def readouts(self) -> dict[str, IntegerNeurons]:
        """What is shown without spikes, each once, by output."""
        shown: dict[str, str] = {}
        for output, name in self.integers.outputs.items():
            shown.setdefault(name, output)
        return {
            shown[item.name]: item
            for item in self.integers.neurons
            if item.readout and item.name in shown
        }


@dataclass(frozen=True)
class _Runs:
    """What the networks did on some samples; `numbers` are those of the samples."""

    numbers: Integer
    inputs: Mapping[str, NDArray[Any]]
    payloads: Mapping[str, Integer]
    labels: Integer | None
    real: Trace
    free: IntegerTrace


@dataclass
class _Found:
    """What adds up over chunks."""

    numbers: list[int] = field(default_factory=list)
    ties: list[int] = field(default_factory=list)
    counts: dict[str, Counts] = field(default_factory=dict)
    answers: dict[str, Answers] = field(default_factory=dict)
    causes: dict[str, Cause] = field(default_factory=dict)
    searched: list[int] = field(default_factory=list)
    membranes: dict[str, Binned] = field(default_factory=dict)
    errors: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    reference: list[Spikes] = field(default_factory=list)
    candidate: list[Spikes] = field(default_factory=list)
    inputs: list[Mapping[str, NDArray[Any]]] = field(default_factory=list)
    labels: list[Integer] = field(default_factory=list)


def examine(
    runner: Runner,
    source: SampleSource,
    tally: Tally,
    *,
    count: int,
    seed: int = 0,
    alternatives: bool = False,
    progress: Progress | None = None,
    deadline: float | None = None,
) -> tuple[Examination, dict[str, str]]:
    """
    Return what `count` samples of `source` show, float against integers, and why something is not in it.

    They lie evenly over the source, from a place that `seed` chooses. A layer that fires alike in all of
    them has its cause looked for in a few that are known to differ, by `tally`. With `alternatives` other ways
    to quantise are measured on the samples, too, for `deadline` seconds at the most. `progress` is called with the
    number of samples and of alternatives done, and of all.
    """
    try:
        network = _network_of(runner)
    except NeurocompileError as error:
        reason = first_reason(error)
        names = (*EVERYTHING, "alternatives") if alternatives else EVERYTHING
        return Examination(()), dict.fromkeys(names, reason)
    missing: dict[str, str] = {}
    affordable = _affordable(network.integers, tally.steps)
    if affordable < count and affordable < source.count:
        missing["more samples examined"] = (
            f"one sample takes so many multiplications that {affordable} of {min(count, source.count)} "
            "are examined"
        )
    chosen = choose(source.count, min(count, affordable), seed)
    found, kept = _Found(), _worth_keeping(network.integers, tally.steps, len(chosen))
    forced: Forced | None = None
    done = 0
    for numbers in _chunks(network.integers, tally.steps, chosen):
        runs = _run(network, source, numbers, found)
        if runs is not None:
            most = most_fired(runs.real.spikes)
            if forced is None or not _covers(forced, most):
                forced = force(network.integers, most)
            _add(network, forced, runs, found, kept=kept)
        done += len(numbers)
        if progress:
            progress(done, len(chosen))
    _search_more(network, source, tally, found, min(DIFFERING, affordable))
    if found.ties:
        missing["samples left out"] = (
            f"the populations fire otherwise than the graph in samples {', '.join(map(str, found.ties))}: "
            "a membrane lies on its threshold there, up to float64's rounding"
        )
    if not found.numbers:
        reason = "there is no sample in which populations and graph fire alike"
        return Examination(()), {**missing, **dict.fromkeys(EVERYTHING, reason)}
    causes, unexplained = _causes_of_pairs(network, source, tally, found)
    searched = {*found.numbers, *found.searched, *(cause.divergence.sample for cause in causes)}
    weights, uncounted = weight_histograms(runner.program, network.real, network.middle)
    distances, unmeasured = _distances(network, found, kept=kept)
    missing |= unexplained | uncounted | unmeasured
    for name, counts in found.counts.items():
        if counts.ties:
            missing[f"own errors of '{name}' at ties"] = (
                f"at {counts.ties} of {counts.slots} places the float membrane lies on its threshold, up to "
                "float64's rounding: a difference there is no error of the layer"
            )
    blame = blame_of({name: found.counts[name] for name in network.layers if name in found.counts})
    tried = ()
    if alternatives:
        tried, failed = _alternatives(
            network,
            source,
            found,
            blame[0].name if blame else None,
            kept=kept,
            progress=_after(progress, len(chosen)),
            deadline=deadline,
        )
        missing |= failed
    return (
        Examination(
            samples=tuple(found.numbers),
            blame=blame,
            causes=causes,
            distances=distances,
            weights=weights,
            membranes=tuple(
                found.membranes[name].histogram(name, _threshold(network, name))
                for name in network.layers
                if name in found.membranes
            ),
            alternatives=tried,
            readouts=readout_blame_of(found.answers),
            cause_samples=tuple(sorted(searched)),
            reference="float",
            candidate="fixedpoint",
        ),
        missing,
    )


def _after(progress: Progress | None, samples: int) -> Progress | None:
    """Return a progress of alternatives that goes on after so many samples."""
    if progress is None:
        return None
    return lambda done, of: progress(samples + done, samples + of)


def _network_of(runner: Runner) -> _Network:
    program = runner.program
    real = real_populations(program, runner.network)
    middle = runner.dequantised or dequantise(program.network)
    return _Network(runner, real, middle, program.network, weight_ends(program))


def choose(of: int, count: int, seed: int = 0) -> Integer:
    """Return the numbers of at most `count` of `of` samples, in order and evenly spread."""
    count = min(count, of)
    start = int(np.random.default_rng(seed).integers(max(1, of // count)))
    return start + np.arange(count, dtype=np.int64) * of // count


def differing(tally: Tally) -> list[int]:
    """Return the numbers of samples that are known to differ: of float and the integers first."""
    known = [
        item.sample
        for key in (("float", "fixedpoint"), *tally.pairs)
        if (pair := tally.pairs.get(key)) is not None
        for item in (pair.first, *pair.kept)
        if item is not None
    ]
    return list(dict.fromkeys(known))


def _affordable(network: IntegerNetwork, steps: int) -> int:
    """Return how many samples may be examined: one at least."""
    work = sum(map(network.synapse_count, network.synapses)) * steps
    return max(1, WORK // max(1, work))


def _places(network: IntegerNetwork, steps: int) -> int:
    return max(1, steps * sum(math.prod(item.shape) for item in network.neurons))


def _worth_keeping(network: IntegerNetwork, steps: int, samples: int) -> bool:
    return _places(network, steps) * samples <= MOST_KEPT


def _chunks(network: IntegerNetwork, steps: int, chosen: Integer) -> Iterator[Integer]:
    at_once = max(1, MOST_VALUES // _places(network, steps))
    for start in range(0, len(chosen), at_once):
        yield chosen[start : start + at_once]


def _run(network: _Network, source: SampleSource, numbers: Integer, found: _Found) -> _Runs | None:
    """Run the samples called `numbers`; None if all of them are ties, which are noted."""
    runner = network.runner
    samples = source.fetch(numbers)
    inputs = _named(network, runner.inputs_of(samples))
    graph = reference.simulate(runner.network, inputs)
    real = simulate_populations(network.real, inputs)
    tied = np.zeros(len(numbers), bool)
    for name, spikes in graph.spikes.items():
        if name in real.spikes:
            tied |= (spikes != real.spikes[name]).reshape(len(numbers), -1).any(1)
    found.ties += numbers[tied].tolist()
    if tied.all():
        return None
    alike = ~tied
    if tied.any():
        inputs = {name: values[alike] for name, values in inputs.items()}
        real = _at(real, alike)
    payloads = runner.program.payloads(inputs)
    free = run_integers(network.integers, payloads, [*network.layers, *_membranes(network)])
    labels = None if samples.labels is None else samples.labels[alike]
    return _Runs(numbers[alike], inputs, payloads, labels, real, free)


def _named(network: _Network, inputs: Inputs) -> dict[str, NDArray[Any]]:
    return by_input(inputs, [item.name for item in network.integers.inputs])


def _membranes(network: _Network) -> list[str]:
    return [f"membrane/{name}" for name in network.layers]


def _at(trace: Trace, chosen: NDArray[Any]) -> Trace:
    return Trace(
        *(
            {name: values[chosen] for name, values in kind.items()}
            for kind in (trace.outputs, trace.spikes, trace.membrane)
        )
    )


def run_integers(
    network: IntegerNetwork, payloads: Mapping[str, Integer], record: Sequence[str]
) -> IntegerTrace:
    """Run `network` by the quickest engine, with the membranes that `record` names before their reset."""
    from neurocompile_fixedpoint.plan import make_plan
    from neurocompile_fixedpoint.run import open_engine

    engine = open_engine(network, make_plan(network), "")
    return engine.run(payloads, record=record, before_reset=True)


def _covers(forced: Forced, most: Mapping[str, int]) -> bool:
    """Return whether the inputs that play layers can play so many spikes."""
    ends = {item.name: item.maximum for item in forced.network.inputs}
    return all(ends[player] >= most.get(name, 0) for name, player in forced.players.items())


def _add(network: _Network, forced: Forced, runs: _Runs, found: _Found, *, kept: bool) -> None:
    """Add what `runs` show to what was found."""
    expected, free = runs.real.spikes, runs.free.spikes
    alone = run_integers(
        forced.network, {**runs.payloads, **forced.played(expected)}, network.layers
    )
    ties = {name: _ties(network, runs, name) for name in network.layers}
    for name, counts in count_own(expected, free, alone.spikes, ties).items():
        found.counts[name] = found.counts.get(name, Counts()) + counts
    for name in network.layers:
        neurons, population = network.integers[name], network.real[name]
        assert isinstance(neurons, IntegerNeurons)
        assert isinstance(population, SpikingPopulation)
        states = runs.free.membrane[f"{name}"]
        before = runs.real.membrane[name] + population.origin
        after = neurons.in_source_units(states)
        part = binned(before, after, saturated(neurons, states))
        found.membranes[name] = found.membranes[name] + part if name in found.membranes else part
        found.errors[name] = _with_errors(found.errors.get(name), before, after, population)
    for output, item in network.readouts.items():
        answers = count_answers(
            runs.real.outputs[output],
            item.in_source_units(runs.free.outputs[output]),
            item.in_source_units(alone.outputs[output]),
            weights_in(network.runner.program.facts),
        )
        found.answers[item.name] = found.answers.get(item.name, Answers()) + answers
    _search(network, runs, found)
    found.numbers += runs.numbers.tolist()
    if runs.labels is not None:
        found.labels.append(runs.labels)
    if kept:
        found.reference.append({name: expected[name] for name in network.layers})
        found.candidate.append({name: free[name] for name in network.layers})
        found.inputs.append(runs.inputs)


def _ties(network: _Network, runs: _Runs, layer: str) -> NDArray[np.bool_]:
    """Return where the real membranes of `layer` are so close to their thresholds that float64 decides."""
    population = network.real[layer]
    assert isinstance(population, SpikingPopulation)
    margin = np.abs(runs.real.membrane[layer] - population.threshold)
    return (margin > 0) & (margin <= NOTHING * np.abs(population.threshold))


def _search(network: _Network, runs: _Runs, found: _Found) -> None:
    """Look for the causes of layers that have none yet."""
    for place, number in enumerate(runs.numbers.tolist()):
        for name in network.layers:
            if name not in found.causes:
                cause = _first_cause(network, runs, place, number, name)
                if cause is not None:
                    found.causes[name] = cause


def _search_more(
    network: _Network, source: SampleSource, tally: Tally, found: _Found, most: int
) -> None:
    """Look for the causes of layers that have none yet in samples that are known to differ."""
    looked = {*found.numbers, *found.ties}
    others = [number for number in differing(tally) if number not in looked][:most]
    if all(name in found.causes for name in network.layers):
        return
    for numbers in _chunks(network.integers, tally.steps, np.array(sorted(others), np.int64)):
        runs = _run(network, source, numbers, found)
        if runs is not None:
            _search(network, runs, found)
            found.searched += runs.numbers.tolist()


def _with_errors(
    known: tuple[float, float, int] | None,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    population: SpikingPopulation,
) -> tuple[float, float, int]:
    """Return the sum of errors in thresholds, the largest, and of how many; only neurons above 0 have one."""
    total, largest, count = known or (0.0, 0.0, 0)
    threshold = np.broadcast_to(population.threshold, population.shape)
    there = threshold > 0
    if not there.any():
        return total, largest, count
    error = np.abs(after - before)[..., there] / threshold[there]
    return total + float(error.sum()), max(largest, float(error.max())), count + error.size


def _first_cause(
    network: _Network, runs: _Runs, place: int, number: int, layer: str
) -> Cause | None:
    """Return why `layer` differs first in the sample at `place`, float against integers, if it does."""
    where = first_place(runs.real.spikes[layer][place], runs.free.spikes[layer][place])
    if where is None:
        return None
    return _cause(
        network,
        _behaviour(network, "float", runs.inputs, runs.real, place),
        _behaviour(network, "fixedpoint", runs.payloads, runs.free, place),
        number,
        layer,
        where,
    )


def _cause(
    network: _Network,
    reference: Behaviour,
    candidate: Behaviour,
    number: int,
    layer: str,
    where: tuple[int, int],
) -> Cause:
    return cause_of(
        network.real,
        network.middle,
        network.integers,
        reference=reference,
        candidate=candidate,
        sample=number,
        layer=layer,
        place=where,
        ends=network.ends,
    )


def _behaviour(
    network: _Network,
    level: Level,
    inputs: Mapping[str, NDArray[Any]],
    trace: Trace | IntegerTrace,
    place: int,
) -> Behaviour:
    """Return what a network of `level` did with the sample at `place`."""
    membranes = {}
    for name in network.layers:
        values = trace.membrane[name][place]
        item = network.integers[name]
        if isinstance(trace, IntegerTrace):
            assert isinstance(item, IntegerNeurons)
            values = values / (item.scale * item.arithmetic.state_units)
        membranes[name] = values
    return Behaviour(
        level,
        {
            **{name: values[place] for name, values in inputs.items()},
            **{name: trace.spikes[name][place] for name in network.layers},
        },
        membranes,
    )


def _causes_of_pairs(
    network: _Network, source: SampleSource, tally: Tally, found: _Found
) -> tuple[tuple[Cause, ...], dict[str, str]]:
    """Return the causes: of each pair's very first difference, then of each layer's first one."""
    result: list[Cause] = []
    missing: dict[str, str] = {}
    for (first, second), pair in tally.pairs.items():
        if pair.first is None or (first == "torch" and _explained_by_float(tally, second)):
            continue
        name = f"cause of {first}/{second}"
        if first in LEVELS and second in LEVELS:
            cause = _cause_at(network, source, first, second, pair.first)
            if cause is None:
                missing[name] = (
                    "the populations fire otherwise than the graph there: a membrane lies on its "
                    "threshold, up to float64's rounding"
                )
            else:
                result.append(cause)
        elif "torch" in (first, second):
            missing[name] = "PyTorch shows no membranes"
        elif first in ("float", "quantised"):
            missing[name] = (
                f"looked for between {first} and the integers themselves ('fixedpoint'), which "
                f"'{second}' must match"
            )
        else:
            missing[name] = _other_number(network, source, second, pair.first)
    same = {_key(cause) for cause in result}
    layers = [found.causes[name] for name in network.layers if name in found.causes]
    return (*result, *(cause for cause in layers if _key(cause) not in same)), missing


def _explained_by_float(tally: Tally, second: str) -> bool:
    """Return whether PyTorch fired as the float network in all samples, which is compared with `second`, too."""
    alike = tally.pairs.get(("torch", "float"))
    return alike is not None and alike.first is None and ("float", second) in tally.pairs


def _key(cause: Cause) -> tuple[str, str, int, str, int, int]:
    place = cause.divergence
    return (
        cause.reference,
        cause.candidate,
        place.sample,
        place.layer,
        place.step,
        place.neuron,
    )


def _other_number(network: _Network, source: SampleSource, target: str, place: Divergence) -> str:
    """Return what is known of a number that a target computes otherwise than the integers say."""
    inputs = _one_sample(network, source, place.sample)
    payloads = network.runner.program.payloads(inputs)
    integers = _side(network, "fixedpoint", inputs, payloads).membranes[place.layer]
    population = network.middle[place.layer]
    assert isinstance(population, SpikingPopulation)
    numbers = numbers_of(population, place.neuron)
    membrane = float(integers.reshape(len(integers), -1)[place.step, place.neuron])
    return (
        f"'{target}' computes another number than the integers say, at sample {place.sample}, step "
        f"{place.step}, layer '{place.layer}', neuron {place.neuron}: it fired {place.candidate_spike}, they "
        f"{place.reference_spike} (membrane {membrane + numbers.origin:.6g}, threshold "
        f"{numbers.threshold + numbers.origin:.6g}); what it computed instead, it does not show"
    )


def _one_sample(network: _Network, source: SampleSource, number: int) -> dict[str, NDArray[Any]]:
    samples = source.fetch(np.array([number], np.int64))
    return _named(network, network.runner.inputs_of(samples))


def _cause_at(
    network: _Network, source: SampleSource, first: str, second: str, place: Divergence
) -> Cause | None:
    """Return why two stages first differ at `place`; None if the populations do not differ there first."""
    inputs = _one_sample(network, source, place.sample)
    payloads = network.runner.program.payloads(inputs)
    sides = [_side(network, level, inputs, payloads) for level in (first, second)]
    expected, seen = (side.sent[place.layer] for side in sides)
    if first_place(expected, seen) != (place.step, place.neuron):
        return None
    return _cause(
        network, sides[0], sides[1], place.sample, place.layer, (place.step, place.neuron)
    )


def _side(
    network: _Network,
    level: str,
    inputs: Mapping[str, NDArray[Any]],
    payloads: Mapping[str, Integer],
) -> Behaviour:
    if level == "float":
        real = simulate_populations(network.real, inputs)
        return _behaviour(network, "float", inputs, real, 0)
    if level == "quantised":
        middle = simulate_dequantised(network.integers, payloads)
        return _behaviour(network, "quantised", payloads, middle, 0)
    free = run_integers(network.integers, payloads, [*network.layers, *_membranes(network)])
    return _behaviour(network, "fixedpoint", payloads, free, 0)


def _threshold(network: _Network, layer: str) -> float | None:
    """Return the threshold of a layer in the source's units; None where neurons have their own."""
    population = network.real[layer]
    assert isinstance(population, SpikingPopulation)
    values = population.threshold + population.origin
    return float(values.flat[0]) if (values == values.flat[0]).all() else None


def _distances(
    network: _Network, found: _Found, *, kept: bool
) -> tuple[tuple[Distances, ...], dict[str, str]]:
    """Return how far spike trains are apart, with errors of membranes, and why some are not told."""
    if not kept:
        return (), {"distances": "the network is too large to keep its spikes"}
    from neurocompile.verification.distances import distances_of

    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in network.layers}
        for parts in (found.reference, found.candidate)
    ]
    try:
        measured = distances_of(joined[0], joined[1])
    except MissingDependencyError as error:
        return (), {"distances": first_reason(error)}
    missing = {}
    result = []
    for item in measured:
        total, largest, count = found.errors.get(item.name, (0.0, 0.0, 0))
        population = network.real[item.name]
        assert isinstance(population, SpikingPopulation)
        above = np.broadcast_to(population.threshold, population.shape) > 0
        if not count:
            missing[f"membrane errors of '{item.name}'"] = (
                "they are in thresholds, and no neuron has one above 0"
            )
            result.append(item)
            continue
        if not above.all():
            missing[f"membrane errors of all of '{item.name}'"] = (
                f"they are in thresholds: {above.size - int(above.sum())} of {above.size} neurons, which "
                "have none above 0, are left out"
            )
        result.append(replace(item, membrane_mean=total / count, membrane_largest=largest))
    return tuple(result), missing


def _alternatives(
    network: _Network,
    source: SampleSource,
    found: _Found,
    worst: str | None,
    *,
    kept: bool,
    progress: Progress | None,
    deadline: float | None,
) -> tuple[Any, dict[str, str]]:
    if not kept:
        return (), {"alternatives": "the network is too large to keep its spikes"}
    program = network.runner.program
    names = list(found.inputs[0])
    labels = np.concatenate(found.labels) if len(found.labels) == len(found.inputs) else None
    inputs = {name: np.concatenate([part[name] for part in found.inputs]) for name in names}
    spikes = {
        name: np.concatenate([part[name] for part in found.reference]) for name in network.layers
    }
    examined = np.array(found.numbers, np.int64)
    return alternatives_of(
        program,
        network.runner.network,
        Examined(inputs, labels, spikes),
        worst=worst,
        calibration=calibration_of(program, source, examined),
        progress=progress,
        deadline=deadline,
    )
