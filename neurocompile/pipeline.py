"""
The order of the passes, on one page.

    Network              from_nir: what the file means
      lower_max_pooling  OR of spikes: sum pools and memoryless neurons
      lower_thresholds   memoryless neurons: LIF that forget
      shift_resets       reset voltages to zero
    PopulationNetwork    assemble: everything linear becomes synapses, every bias a neuron's
      share_sums         sums of spikes: graded, or duplicated synapses
    choices              calibrate: what samples or a memory budget decide; nothing, if not asked
    IntegerNetwork       quantise: floats end here
    bounds               prove_ranges: or no program at all
    Schedule             schedule: who works when
    Program              + what the target adds

After each pass the network is checked against the table of `stages`, and run beside the one before
(`validation`).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from neurocompile import __version__
from neurocompile.chips import largest_sum
from neurocompile.counted import COUNTED_BY
from neurocompile.errors import (
    NeurocompileError,
    Problem,
    RangeError,
    UnsupportedError,
    raise_all,
)
from neurocompile.integer import Schedule
from neurocompile.ir import Network
from neurocompile.passes.assemble import assemble
from neurocompile.passes.calibrate import Calibrated, calibrate, present, remarks_on
from neurocompile.passes.lower_max_pooling import lower_max_pooling
from neurocompile.passes.lower_thresholds import lower_thresholds
from neurocompile.passes.prove_ranges import find_bounds
from neurocompile.passes.quantise import FirstLayer, Membranes, Quantised, quantise
from neurocompile.passes.schedule import schedule
from neurocompile.passes.share_sums import SharedSum, Sums, share_sums
from neurocompile.passes.shift_resets import shift_resets
from neurocompile.populations import PopulationNetwork
from neurocompile.program import Program
from neurocompile.quantisation.recipe import Recipe
from neurocompile.quantisation.scales import resolved
from neurocompile.quantisation.silence import Fired, Firing, firing_of
from neurocompile.quantisation.tally import LayerTally, tally_of
from neurocompile.stages import LEGAL, Stage, check_stage
from neurocompile.target import Progress, Target, form_in_reals, resolve_options
from neurocompile.validation import AFFORDABLE, MOST_STEPS, Validator, cost, probe_inputs

STEPS_IF_UNKNOWN = 100

PASSES = tuple(LEGAL)  # "import" and the passes, in order

Observe = Callable[[str, Stage], None]  # called with each pass's name and what it made

S = TypeVar("S")
Made = TypeVar("Made")


@dataclass(frozen=True)
class CompileOptions:
    """
    What a user can choose; the defaults need no data.

    `steps` is how many steps a sample may have at most (None: as many as it was trained with).
    `validate` runs the network after every pass (None: where that takes a few seconds), also on
    `calibration`, samples by input of the data `calibrated_on`, which also decide what `recipe` asks of
    samples. `real` asks the target for the network in real numbers as well.
    """

    recipe: Recipe = field(default_factory=Recipe)
    steps: int | None = None
    first_layer: FirstLayer = "auto"
    membranes: Membranes = "proven"
    sums: Sums = "auto"
    validate: bool | None = None
    calibration: Mapping[str, NDArray[Any]] | None = None
    calibrated_on: str = ""
    real: bool = False
    target_options: Mapping[str, str] = field(default_factory=dict)


class Passes:
    """
    Applies passes one after the other, checking what each made; the first refusal ends it.

    `check` has another kind, which goes on behind a refusal; `options` may then change on the way.
    """

    def __init__(
        self,
        options: CompileOptions,
        *,
        validator: Validator | None = None,
        observe: Observe | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.options = options
        self.validator = validator
        self.observe = observe
        self.progress = progress

    def apply(self, name: str, function: Callable[[S], Made], stage: S) -> Made:
        """Return what the pass `name` makes of `stage`."""
        del name
        return function(stage)

    def refuse(self, stage: str, kind: type[NeurocompileError], problems: list[Problem]) -> None:
        """Raise what is wrong behind the passes, if anything is."""
        del stage
        raise_all(kind, problems)

    def done(self, name: str, stage: Stage) -> None:
        """Check what the pass `name` made, and show it."""
        check_stage(name, stage)
        if self.validator and name != "import":
            self.validator.after(name, stage)
        if self.observe:
            self.observe(name, stage)


@dataclass(frozen=True)
class Compiled:
    """What the passes made: populations of real numbers, their integers, and the program without files."""

    populations: PopulationNetwork
    sums: tuple[SharedSum, ...]
    quantised: Quantised
    program: Program
    tally: Mapping[str, LayerTally]
    firing: tuple[Firing, ...]
    fired: tuple[Fired, ...]


def compile_network(
    network: Network,
    target: Target,
    options: CompileOptions,
    *,
    observe: Observe | None = None,
    progress: Progress | None = None,
) -> Program:
    """
    Return the program of `network` for `target`, without any files.

    `observe` is called with each pass's name and what it made, `progress` while samples decide.

    Raises an error of `neurocompile.errors` with all reasons if there can be none.
    """
    chosen = resolve_options(target, options.target_options)
    if options.real:
        form_in_reals(target)  # or it is refused before anything is compiled
    options = replace(options, target_options=chosen)
    steps = options.steps or network.steps or STEPS_IF_UNKNOWN
    validator, skipped = validator_of(network, options, steps)
    passes = Passes(options, validator=validator, observe=observe, progress=progress)
    compiled = run_passes(network, target, passes)
    program = compiled.program
    lowered = target.lower(program)
    files = dict(lowered.files)
    if options.real:
        files |= form_in_reals(target).lower_real(compiled.populations, program)
    validation = skipped or {
        "samples": len(next(iter(validator.inputs.values()))) if validator else 0,
        "passes": [report.to_json() for report in validator.reports] if validator else [],
    }
    notes = [*_notes(compiled, program.schedule), *lowered.notes]
    facts = {**program.facts, **lowered.facts, "validation": validation, "notes": notes}
    return replace(program, facts=facts, extra_files=files)


def run_passes(network: Network, target: Target, passes: Passes) -> Compiled:
    """
    Return what all `passes` make of `network`, but for the files that `target` adds.

    The options of `passes` name all those of the target.
    """
    options = passes.options
    steps = options.steps or network.steps or STEPS_IF_UNKNOWN

    populations, sums = _structural(network, target, passes)
    decided = Calibrated(options.recipe, options.first_layer)

    def in_integers(populations: PopulationNetwork) -> Quantised:
        nonlocal decided
        chosen = passes.options
        shown = options.steps or network.steps or MOST_STEPS
        decided = calibrate(
            populations,
            target.limits,
            chosen.recipe,
            steps=steps,
            first_layer=chosen.first_layer,
            membranes=chosen.membranes,
            samples=present(chosen.calibration, shown),
            progress=passes.progress,
        )
        quantised = quantise(
            populations,
            target.limits,
            recipe=decided.recipe,
            steps=steps,
            first_layer=decided.first_layer,
            membranes=chosen.membranes,
            choices=decided.choices,
        )
        return replace(quantised, reason=decided.reason or quantised.reason)

    quantised = passes.apply("quantise", in_integers, populations)
    passes.done("quantise", quantised.network)
    bounds, problems = find_bounds(quantised.network, target.limits, steps=steps)
    passes.refuse("prove_ranges", RangeError, problems)
    can_fire = firing_of(populations, quantised.network, target.limits, steps=steps)
    fired = passes.validator.fired if passes.validator else ()
    activity: list[Firing | Fired] = [*can_fire, *fired]
    silenced = [told.problem for told in activity if told.problem]
    passes.refuse("silence", RangeError, silenced)
    tally = tally_of(
        populations,
        quantised.network,
        target.limits,
        weight_bits=quantised.weight_bits,
        lowered=quantised.lowered,
        cramped=quantised.cramped,
        rounded_at=quantised.rounded_at,
    )
    timing = passes.apply("schedule", schedule, quantised.network)

    program = Program(
        target=target.name,
        options=options.target_options,
        network=quantised.network,
        schedule=timing,
        bounds=bounds,
        steps=steps,
        native_steps=network.steps,
        facts={
            "first_layer": {"computed_by": quantised.first_layer, "because": quantised.reason},
            "choices": {"sums": options.sums, "first_layer": passes.options.first_layer},
            "quantisation": {
                **_asked(passes.options),
                "scales_lowered_by_range_proof": dict(quantised.lowered),
                "channels_lowered_by_range_proof": dict(quantised.channels_lowered),
                "scales_lowered_by_biases": dict(quantised.cramped),
                "layers": _layers(tally, can_fire, fired, _chosen(populations, quantised, decided)),
                **_calibration(decided, passes.options),
            },
            "limits": asdict(target.limits),
            "versions": versions(),
        },
    )
    passes.refuse("target", UnsupportedError, target.check(program))
    return Compiled(populations, sums, quantised, program, tally, can_fire, fired)


def populations_of(network: Network, target: Target, sums: Sums = "auto") -> PopulationNetwork:
    """
    Return the populations whose integers a program of `network` for `target` holds, in real numbers.

    `sums` is what the program was compiled with. Raises what an export would.
    """
    return _structural(network, target, Passes(CompileOptions(sums=sums)))[0]


def _structural(
    network: Network, target: Target, passes: Passes
) -> tuple[PopulationNetwork, tuple[SharedSum, ...]]:
    """Return what the passes before the first integers make of `network`, and how sums travel."""
    passes.done("import", network)
    unpooled = passes.apply("lower_max_pooling", lower_max_pooling, network)
    passes.done("lower_max_pooling", unpooled)
    firing = passes.apply("lower_thresholds", lower_thresholds, unpooled)
    passes.done("lower_thresholds", firing)
    shifted = passes.apply("shift_resets", shift_resets, firing)
    passes.done("shift_resets", shifted)
    assembled = passes.apply("assemble", assemble, shifted)
    passes.done("assemble", assembled)
    asked = passes.options.sums
    # What is asked for is tried, and refused by the chip; what nobody asked for is not.
    fits = largest_sum(target) if asked == "auto" else target.limits.payload_maximum
    populations, shared = share_sums(assembled, sums=asked, largest_sum=fits)
    passes.done("share_sums", populations)
    return populations, shared


def _asked(options: CompileOptions) -> dict[str, Any]:
    """Return all that was asked for, for the manifest."""
    recipe = options.recipe
    return {**asdict(recipe), "bits": dict(recipe.bits), "membranes": options.membranes}


def _chosen(
    populations: PopulationNetwork, quantised: Quantised, decided: Calibrated
) -> dict[str, dict[str, Any]]:
    """Return how each layer was quantised in the end, for the manifest."""
    unit = populations.weight_unit
    result: dict[str, dict[str, Any]] = {}
    for neurons in quantised.network.neurons:
        name = neurons.name
        into = quantised.network.into(name)
        bits, wish = quantised.weight_bits[name], decided.choices.get(name)
        method: str = resolved(decided.recipe.method, bits)
        if unit is not None and (not isinstance(unit, Mapping) or name in unit):
            method = "source"  # whose integers these are
        elif method != "search" and into and all(group.on_host for group in into):
            method = "host"  # which has bits to spare: only the threshold decides
        result[name] = {
            "method": method,
            "weight_bits": bits,
            "scales": int(neurons.scale.size),
            "weights": "of samples" if wish is not None and wish.weights else "nearest",
            "bias_corrected": wish is not None and wish.bias is not None,
        }
    return result


def _calibration(decided: Calibrated, options: CompileOptions) -> dict[str, Any]:
    """Return what samples and memory decided, for the manifest; nothing where they were not asked."""
    if not decided.report:
        return {}
    return {"calibration": {"data": options.calibrated_on, **decided.report}}


def _layers(
    tally: Mapping[str, LayerTally],
    firing: Iterable[Firing],
    fired: Iterable[Fired],
    chosen: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what rounding did to each layer, for the manifest."""
    layers = {name: layer.to_json() for name, layer in tally.items()}
    for name, how in chosen.items():
        layers[name]["chosen"] = dict(how)
    for can in firing:
        layers[can.layer]["firing"] = can.to_json()
    for did in fired:
        layers[did.layer]["on_samples"] = did.to_json()
    return layers


def validator_of(
    network: Network, options: CompileOptions, steps: int
) -> tuple[Validator | None, dict[str, Any] | None]:
    """Return what compares the passes, as `options` want it, or why it was left out."""
    if options.validate is False:
        return None, {"skipped": "not asked for"}
    work = cost(network, steps=steps, calibrated=options.calibration is not None)
    if options.validate is None and work > AFFORDABLE:
        return None, {"skipped": f"it takes about {work:.1e} multiplications: --validate does it"}
    return Validator(probe_inputs(network, options.calibration, steps=steps), network), None


def _notes(compiled: Compiled, timing: Schedule) -> list[str]:
    notes = [
        f"the membranes of '{name}' would saturate in the worst case: {COUNTED_BY}"
        for name in compiled.quantised.saturating
    ]
    for shared in compiled.sums:
        ways = ("graded spikes", "duplicated synapses")
        costs = (shared.cost_graded, shared.cost_duplicate)
        taken = 0 if shared.graded else 1
        notes.append(
            f"the sum of {', '.join(shared.sources)} travels by {ways[taken]}: {costs[taken]} operations "
            f"a step, {costs[1 - taken]} by {ways[1 - taken]}"
        )
    if timing.gap:
        blank = "1 blank step" if timing.gap == 1 else f"{timing.gap} blank steps"
        notes.append(f"samples are {blank} apart, the longest delay")
    if timing.stride > 1:
        notes.append(
            f"each step takes {timing.stride} machine steps: a cycle has that many connections for "
            "each step of delay"
        )
    notes += remarks_on(compiled.program.facts["quantisation"].get("calibration", {}))
    activity: list[Firing | Fired] = [*compiled.firing, *compiled.fired]
    return [*notes, *(note for told in activity for note in told.notes)]


def versions() -> dict[str, Any]:
    """Return what was used to compile, for the manifest."""
    return {
        "neurocompile": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
