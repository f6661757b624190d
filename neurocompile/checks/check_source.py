"""
Say everything that is wrong with a network for a target, at once, and what it would take there.

The same passes run as for an export (`pipeline.run_passes`), so that a network checks without a problem
exactly when it exports. But a refusal does not end them: what was refused is replaced (`mend`), and the
pass runs again, so that one check finds the problems of all passes. What was found behind a replacement
is marked as such, and what could not be looked at is named. Nothing is written; what an export would run on
samples runs here as well, as it may refuse a layer that they do not make fire.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from neurocompile.checks.mend import Mender, options_in
from neurocompile.checks.needs import LayerNeeds, needs_of
from neurocompile.data import InputRange
from neurocompile.errors import (
    EquivalenceError,
    NeurocompileError,
    OptionError,
    Problem,
)
from neurocompile.frontend.flatten_graph import flatten_graph
from neurocompile.frontend.from_nir import Imported, from_nir
from neurocompile.frontend.import_options import ImportOptions
from neurocompile.frontend.read_nir import NirFile, read_nir
from neurocompile.integer import Bound, IntegerNeurons, IntegerPopulation, Shape
from neurocompile.ir import Linear, Network
from neurocompile.passes.prove_ranges import reach_of
from neurocompile.passes.quantise import quantise
from neurocompile.pipeline import (
    STEPS_IF_UNKNOWN,
    Compiled,
    CompileOptions,
    Made,
    Observe,
    Passes,
    S,
    run_passes,
    validator_of,
)
from neurocompile.populations import (
    InputPopulation,
    Population,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SumPopulation,
)
from neurocompile.quantisation.recipe import Recipe
from neurocompile.quantisation.tally import LayerTally
from neurocompile.resources import Figure, LayerResources, Resources, kind_of
from neurocompile.stages import Stage
from neurocompile.target import BuiltTarget, Progress, Target, form_in_reals, resolve_options

MOST_ROUNDS = 12  # of one pass
SEARCHED_WEIGHTS = 4_000_000  # a larger layer is not searched for the steps at which it would pass
NO_LIMIT = 1 << 62  # of a range proof that shall not shrink anything

WITHOUT_OPTIONS = "the options that were refused are left out"
BEHIND_IMPORT = ("the passes", "range proof", "hardware ranges", "resources")


@dataclass(frozen=True)
class Found:
    """A problem, the stage that found it, and whether that was behind a replacement."""

    stage: str
    problem: Problem
    assumed: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "layer": self.problem.layer,
            "needs": self.problem.need,
            "has": self.problem.have,
            "remedy": self.problem.remedy,
            "assumed": self.assumed,
        }


@dataclass(frozen=True)
class Miss:
    """
    How far a layer that quantisation refused is from its range proof.

    `excess` is the factor by which it leaves its limits at the scale (weight units per unit) that its
    weights' bits allow, so that it would hold at `scale`; `steps` the most for which the layer passes as
    it is, None if not for one, or if it was not searched. `beyond` is how many neurons leave their limits
    there, `worst` the channel of the one that does most. All are of the layer alone.
    """

    excess: float
    scale: float
    steps: int | None
    beyond: int = 0
    worst: int = 0


@dataclass(frozen=True)
class LayerCheck:
    """
    What is known about one population; `assumed` if its own numbers are replacements.

    `scales` are the smallest and the largest of its channels, in weight units per unit of the membrane.
    """

    name: str
    kind: str
    shape: Shape
    assumed: bool
    scales: tuple[float, float]
    bound: Bound | None
    shrunk: float
    needs: LayerNeeds
    resources: LayerResources | None
    tally: LayerTally
    miss: Miss | None = None

    @property
    def room(self) -> float | None:
        """How many times its sums fit their limits, for the tighter one."""
        if self.bound is None:
            return None
        bound = self.bound
        return min(
            bound.current_limit / max(1, bound.current),
            bound.membrane_limit / max(1, bound.membrane),
        )

    def to_json(self) -> dict[str, Any]:
        proof = None
        if self.bound is not None:
            proof = {
                **{key: value for key, value in asdict(self.bound).items() if key != "layer"},
                "head_room": self.room,
                "shrunk_by_proof": self.shrunk,
                "miss": None if self.miss is None else asdict(self.miss),
            }
        return {
            "name": self.name,
            "kind": self.kind,
            "shape": list(self.shape),
            "assumed": self.assumed,
            "scale": self.scales[0],
            "largest_scale": self.scales[1],
            "range_proof": proof,
            **self.needs.to_json(),
            "rounding": self.tally.to_json(),
            "resources": None if self.resources is None else self.resources.to_json(),
        }


@dataclass(frozen=True)
class Check:
    """
    What was found: `ok` says that an export would succeed.

    `not_checked` are pairs of what and why; `assumptions` what was replaced on the way; `steps` those of
    the range proof.
    """

    source: str
    target: str
    steps: int | None
    problems: tuple[Found, ...]
    assumptions: tuple[str, ...] = ()
    not_checked: tuple[tuple[str, str], ...] = ()
    inferred: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[LayerCheck, ...] = ()
    resources: Resources | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def verdict(self) -> str:
        """The last line of a report."""
        text = f"would export to {self.target}: {'yes' if self.ok else 'no'}"
        if not self.ok:
            count = len(self.problems)
            return f"{text}, {count} problem{'s' if count > 1 else ''}"
        if self.resources is None or "cores" not in self.resources.totals:
            return text
        cores, chips = (self.resources.totals[name] for name in ("cores", "chips"))
        told = f"about {_many(cores, 'core')} on {_many(chips, 'chip')}"
        unplaced = self.resources.unplaced
        if unplaced:
            names = ", ".join(f"'{name}'" for name in unplaced)
            told = (
                f"but {names} fit{'s' if len(unplaced) == 1 else ''} no core; the rest takes {told}"
            )
        return f"{text}, {told} ({cores.status})"

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values; `docs/files.md` describes them."""
        resources = self.resources
        known = resources.totals if resources else {}
        limits = resources.limits if resources else {}
        return {
            "schema": 1,
            "source": self.source,
            "target": self.target,
            "ok": self.ok,
            "steps": self.steps,
            "problems": [found.to_json() for found in self.problems],
            "assumptions": list(self.assumptions),
            "not_checked": [{"what": what, "because": why} for what, why in self.not_checked],
            "inferred": dict(self.inferred),
            "layers": [layer.to_json() for layer in self.layers],
            "relays": [
                {"name": layer.name, "resources": layer.to_json()}
                for layer in (resources.layers if resources else ())
                if layer.kind == "relays"
            ],
            "totals": {name: figure.to_json() for name, figure in known.items()},
            "unplaced": list(resources.unplaced) if resources else [],
            "limits": {name: limit.to_json() for name, limit in limits.items()},
            "notes": list(resources.notes) if resources else [],
        }


def _many(figure: Figure, what: str) -> str:
    return f"{figure.value} {what}{'' if figure.value == 1 else 's'}"


def check_source(
    source: str,
    target: Target,
    options: CompileOptions,
    *,
    choices: Mapping[str, Any],
    read: Callable[[ImportOptions], Imported],
    graph: Path | None = None,
    finish: Callable[[Network], tuple[Network, Mapping[str, Any] | None]] | None = None,
    observe: Observe | None = None,
    progress: Progress | None = None,
) -> Check:
    """
    Return what is wrong with the file, directory or module called `source` for `target`.

    `read` imports it as an export would, with options that `choices` give; `graph` is its NIR file, if it
    is one, whose nodes can be replaced where they cannot be read; `finish` returns what an export makes
    of the network before it is compiled, and samples to validate and calibrate on, by input.
    """
    found = _Findings()
    import_options = _legal_choices(choices, found)
    _legal_target_options(target, options, found)
    imported = _import(graph, import_options, read, found)
    if imported is None:
        why = "the network could not be built"
        return found.check(
            source, target, None, not_checked=tuple((what, why) for what in BEHIND_IMPORT)
        )
    network = imported.network
    if finish is not None:
        try:
            network, calibration = finish(network)
            options = replace(options, calibration=calibration)
        except NeurocompileError as error:
            found.add("options", error)
    return check_network(
        network,
        target,
        options,
        source=source,
        inferred=imported.inferred,
        found=found,
        observe=observe,
        progress=progress,
    )


def check_network(
    network: Network,
    target: Target,
    options: CompileOptions,
    *,
    source: str = "",
    inferred: Mapping[str, str] | None = None,
    found: _Findings | None = None,
    observe: Observe | None = None,
    progress: Progress | None = None,
) -> Check:
    """Return what is wrong with `network` for `target`, and what it takes there."""
    found = found or _Findings()
    inferred = inferred or {}
    steps = options.steps or network.steps or STEPS_IF_UNKNOWN
    options = replace(options, target_options=_legal_target_options(target, options, found))
    if isinstance(target, BuiltTarget):
        found.add("options", target.missing())
    passes = _Persistent(target, options, found, observe, progress)
    if options.validate or options.calibration is not None:
        # Only on samples of its user is a network refused for what it does, unless passes have bugs.
        passes.validator, _ = validator_of(network, options, steps)
    try:
        compiled = run_passes(network, target, passes)
    except _StoppedError as stopped:
        left = _left_behind(stopped.stage)
        return found.check(
            source,
            target,
            steps,
            inferred=inferred,
            not_checked=tuple((what, str(stopped)) for what in left),
        )
    resources = target.resources(compiled.program)
    changed = _fed_by(network, found.mender.changed)
    layers = _layers(compiled, target, passes, resources, changed)
    return found.check(source, target, steps, inferred=inferred, layers=layers, resources=resources)


class _Findings:
    """Collects problems, each once, and what replaced what was refused."""

    def __init__(self) -> None:
        self.problems: dict[tuple[str, str, str], Found] = {}
        self.mender = Mender()

    def add(self, stage: str, error: NeurocompileError | Iterable[Problem]) -> list[Problem]:
        """Keep the problems of `error`, and return those that are new."""
        problems = error.problems if isinstance(error, NeurocompileError) else tuple(error)
        if isinstance(error, OptionError):
            stage = "options"
        certain = stage == "options" or {*self.mender.assumptions} <= {WITHOUT_OPTIONS}
        new = []
        for problem in problems:
            key = (stage, problem.layer, problem.need)  # what a layer has changes with others
            if key not in self.problems:
                self.problems[key] = Found(stage, problem, not certain)
                new.append(problem)
        return new

    def check(self, source: str, target: Target, steps: int | None, **more: Any) -> Check:
        return Check(
            source,
            target.name,
            steps,
            tuple(sorted(self.problems.values(), key=lambda found: found.assumed)),
            tuple(self.mender.assumptions),
            **more,
        )


class _StoppedError(Exception):
    """A pass refuses, and nothing that could be put in the place of what it refused is left."""

    def __init__(self, stage: str, reason: str) -> None:
        self.stage = stage
        super().__init__(reason)


class _Persistent(Passes):
    """Collects refusals, and goes on behind them."""

    def __init__(
        self,
        target: Target,
        options: CompileOptions,
        found: _Findings,
        observe: Observe | None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(options, observe=observe, progress=progress)
        self.target = target
        self.found = found
        self.refused: dict[str, PopulationNetwork] = {}  # by layer: what quantisation refused

    def apply(self, name: str, function: Callable[[S], Made], stage: S) -> Made:
        """Return what the pass makes of `stage`, or of what is left of it."""
        for _ in range(MOST_ROUNDS):
            try:
                return function(stage)
            except NeurocompileError as error:
                self.found.add(name, error)
                self.validator = None
                mended = self._mended(name, stage, error)
                if mended is None:
                    break
                stage = mended
            except (AssertionError, ValueError, IndexError, KeyError) as error:
                if not self.found.mender.assumptions:
                    raise  # a bug, not a misfit of what was put in
                raise _StoppedError(
                    name, f"the replacements do not fit together ({error})"
                ) from error
        raise _StoppedError(name, f"nothing fits in the place of what {name} refuses")

    def refuse(self, stage: str, kind: type[NeurocompileError], problems: list[Problem]) -> None:
        """Keep the problems, and go on."""
        del kind
        if stage == "silence" and self.found.mender.assumptions:
            return  # what was replaced may be what would have fired
        self.found.add(stage, problems)

    def done(self, name: str, stage: Stage) -> None:
        """Check what the pass made, as long as nothing was replaced."""
        if self.found.mender.assumptions:
            return
        try:
            super().done(name, stage)
        except EquivalenceError as error:
            self.found.add(name, error)
            self.validator = None

    def _mended(self, name: str, stage: Any, error: NeurocompileError) -> Any:
        """Return `stage` without what was refused, None if nothing helps."""
        mender = self.found.mender
        layers = tuple(dict.fromkeys(problem.layer for problem in error.problems))
        if isinstance(error, OptionError):
            return stage if self._legal_options() else None
        if isinstance(stage, Network):
            return mender.network(name, stage, layers)
        if isinstance(stage, PopulationNetwork):
            self.refused |= {layer: stage for layer in layers if layer not in self.refused}
            return mender.populations(stage, layers, self.target.limits)
        return None

    def _legal_options(self) -> bool:
        """Give the next option that quantisation can refuse its default; return whether one was left."""
        recipe, default = self.options.recipe, Recipe()
        if recipe.weight_bits != default.weight_bits:
            recipe = replace(recipe, weight_bits=default.weight_bits)
            self.found.mender.told(f"--weight-bits {default.weight_bits}")
        elif recipe != default:
            recipe = default
            self.found.mender.told("quantised as by default")
        elif self.options.first_layer != "auto":
            self.options = replace(self.options, first_layer="auto")
            self.found.mender.told("--first-layer auto")
            return True
        else:
            return False
        self.options = replace(self.options, recipe=recipe)
        return True


def _left_behind(stage: str) -> tuple[str, ...]:
    """Return what cannot be looked at where the pass `stage` gave up."""
    behind: tuple[str, ...] = ("range proof", "hardware ranges", "resources")
    return behind if stage in ("quantise", "schedule") else ("quantisation", *behind)


# The import


def _legal_choices(choices: Mapping[str, Any], found: _Findings) -> ImportOptions:
    """Return the import options, those that make no sense left out."""
    try:
        return ImportOptions(**choices)
    except OptionError as error:
        found.add("options", error)
    legal: dict[str, Any] = {}
    for name, value in choices.items():
        try:
            ImportOptions(**{name: value})
        except OptionError:
            continue
        legal[name] = value
    found.mender.told(WITHOUT_OPTIONS)
    return ImportOptions(**legal)


def _legal_target_options(
    target: Target, options: CompileOptions, found: _Findings
) -> dict[str, str]:
    """Return all options of `target`, those that make no sense left out."""
    if options.real:
        try:
            form_in_reals(target)
        except OptionError as error:
            found.add("options", error)
    try:
        return resolve_options(target, options.target_options)
    except OptionError as error:
        found.add("options", error)
    legal = {
        name: value
        for name, value in options.target_options.items()
        if name in target.options and value in target.options[name].choices
    }
    found.mender.told(WITHOUT_OPTIONS)
    return resolve_options(target, legal)


def _import(
    graph: Path | None,
    choices: ImportOptions,
    read: Callable[[ImportOptions], Imported],
    found: _Findings,
) -> Imported | None:
    """Return the network, with replacements for what could not be read; None if there is none."""
    try:
        return read(choices)
    except NeurocompileError as error:
        new = found.add("import", error)
        without_options = isinstance(error, OptionError) and choices.given
    if without_options:
        found.mender.told(WITHOUT_OPTIONS)
        return _import(graph, ImportOptions(), read, found)
    if graph is None:
        return None
    try:
        file = read_nir(graph)
    except NeurocompileError:
        return None  # known already
    mender = found.mender
    guessed = False  # a node of unknown shape was replaced
    for _ in range(MOST_ROUNDS):
        decided = mender.options(choices, new, file)
        choices = decided or choices
        # A node that only lacks an option is read with it; it may have other faults then.
        faulty = [p.layer for p in new if p.layer and not options_in(p.remedy)]
        readable = mender.nodes(file, dict.fromkeys(faulty))
        if readable is not None:
            guessed = guessed or any("changes nothing" in told for told in mender.assumptions)
            file = readable
        if decided is None and readable is None:
            return None
        try:
            imported = from_nir(file, **choices.to_json())
            return replace(imported, inferred=_told_assumed(imported.inferred, mender))
        except NeurocompileError as error:
            if guessed:
                behind = _behind(file, mender.changed)
                certain = [p for p in error.problems if p.layer not in behind or not _of_shapes(p)]
                if len(certain) < len(error.problems):
                    found.add("import", certain)
                    return None  # shapes behind the replacement are not known
            new = found.add("import", error)
    return None


def _of_shapes(problem: Problem) -> bool:
    """Return whether a problem is that shapes do not fit; `ir.output_shape` words them alike."""
    return re.search(r"\bgets\b|its input of shape", f"{problem.need} {problem.have}") is not None


def _told_assumed(inferred: Mapping[str, str], mender: Mender) -> dict[str, str]:
    """Return how a file was read, saying which options nobody asked for."""
    return {
        name: how.replace("as asked for", "assumed") if name in mender.decided else how
        for name, how in inferred.items()
    }


def _behind(file: NirFile, names: Iterable[str]) -> set[str]:
    """Return the nodes that `names` feed, directly or through others."""
    edges = flatten_graph(file.root)[0].edges
    reached, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        further = {target for source, target in edges if source == name} - reached
        reached |= further
        waiting += further
    return reached


# Layers


def _fed_by(network: Network, names: Iterable[str]) -> set[str]:
    """Return `names` and whatever they feed through linear nodes, which pass their numbers on."""
    reached, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            if isinstance(network.nodes.get(name), Linear):
                waiting += network.targets(name)
    return reached


def _layers(
    compiled: Compiled,
    target: Target,
    passes: _Persistent,
    resources: Resources,
    changed: Container[str],
) -> tuple[LayerCheck, ...]:
    """Return the row of each population, inputs included; `changed` are those with replacements."""
    quantised, program = compiled.quantised, compiled.program
    needs = needs_of(compiled, target.limits)
    bounds = {bound.layer: bound for bound in program.bounds}
    taken = {layer.name: layer for layer in resources.layers}
    rows = []
    for item in quantised.network.populations:
        name = item.name
        miss = None
        if name in passes.refused:
            miss = _miss(passes.refused[name], name, target, passes.options, program.steps)
        rows.append(
            LayerCheck(
                name,
                kind_of(item),
                item.shape,
                assumed=name in changed,
                scales=_scales(item),
                bound=bounds.get(name),
                shrunk=quantised.lowered.get(name, 1.0),
                needs=needs[name],
                resources=taken.get(name),
                tally=compiled.tally[name],
                miss=miss,
            )
        )
    return tuple(rows)


def _scales(item: IntegerPopulation) -> tuple[float, float]:
    """Return the smallest and the largest scale of a population; relays have 1."""
    scale = np.asarray(getattr(item, "scale", 1.0))
    return float(scale.min()), float(scale.max())


def _miss(
    network: PopulationNetwork, name: str, target: Target, options: CompileOptions, steps: int
) -> Miss | None:
    """Return how far the layer `name` is from its proof, None if that has no answer."""
    alone = _alone(network, name)
    if alone is None:
        return None
    graded = any(
        isinstance(item, InputPopulation) and _is_analogue(item) for item in alone.populations
    )

    def compiled(limits: Any, steps: int) -> Any:
        return quantise(
            alone,
            limits,
            recipe=options.recipe.alone(name),
            steps=steps,
            first_layer="graded" if graded else "auto",
        ).network

    def passes(steps: int) -> bool:
        try:
            compiled(target.limits, steps)
        except NeurocompileError:
            return False
        return True

    endless = replace(target.limits, current_maximum=NO_LIMIT, state_maximum=NO_LIMIT)
    try:
        integers = compiled(endless, steps)
    except NeurocompileError:
        return None  # it is not the proof that refuses
    neurons = integers[name]
    assert isinstance(neurons, IntegerNeurons)
    over = reach_of(integers, neurons, target.limits, steps=steps).over
    excess = float(over.max())
    weights = sum(group.operator.weight.size for group in alone.synapses)
    longest = 0
    if weights <= SEARCHED_WEIGHTS and passes(1):
        longest, too_many = 1, steps
        while too_many - longest > 1:
            middle = (longest + too_many) // 2
            longest, too_many = (middle, too_many) if passes(middle) else (longest, middle)
    worst = np.unravel_index(int(over.argmax()), over.shape)
    scale = float(np.broadcast_to(neurons.scale, over.shape)[worst]) / max(1.0, excess)
    beyond = int((over > 1).sum())
    return Miss(excess, scale, longest or None, beyond, int(worst[0]))


def _is_analogue(item: InputPopulation) -> bool:
    return (item.range.minimum, item.range.maximum, item.range.step) != (0, 1, 1)


def _alone(network: PopulationNetwork, name: str) -> PopulationNetwork | None:
    """Return a network of the layer `name`, whose sources are inputs with the values that they send."""
    item = network[name]
    if not isinstance(item, SpikingPopulation | ReadoutPopulation):
        return None
    groups = network.into(name)
    sources: dict[str, Population] = {}
    for group in groups:
        source = network[group.source]
        if source.name == name:
            continue
        if isinstance(source, InputPopulation):
            sources[source.name] = source
            continue
        largest = 1
        if isinstance(source, SumPopulation):
            largest = source.largest
        elif isinstance(source, SpikingPopulation):
            largest = source.most_spikes or 1
        values = InputRange(0.0, float(largest), 1.0)
        sources[source.name] = InputPopulation(source.name, source.shape, values)
    if not sources or math.prod(item.shape) == 0:
        return None
    return replace(
        network,
        populations=(*sources.values(), item),
        synapses=groups,
        outputs={name: name},
    )
