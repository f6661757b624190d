"""
The order of the passes, on one page.

    Network              from_nir: what the file means
      lower_max_pooling  OR of spikes: sum pools and memoryless neurons
      lower_thresholds   memoryless neurons: LIF that forget
      shift_resets       reset voltages to zero
    PopulationNetwork    assemble: everything linear becomes synapses, every bias a neuron's
      share_sums         sums of spikes: graded, or duplicated synapses
    IntegerNetwork       quantise: floats end here
    bounds               prove_ranges: or no program at all
    Schedule             schedule: who works when
    Program              + what the target adds

After each pass the network is checked against the table of `stages`, and run beside the one before
(`validation`).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile import __version__
from neurocompile.errors import UnsupportedError, raise_all
from neurocompile.integer import Schedule
from neurocompile.ir import Network
from neurocompile.passes.assemble import assemble
from neurocompile.passes.lower_max_pooling import lower_max_pooling
from neurocompile.passes.lower_thresholds import lower_thresholds
from neurocompile.passes.prove_ranges import prove_ranges
from neurocompile.passes.quantise import FirstLayer, quantise
from neurocompile.passes.schedule import schedule
from neurocompile.passes.share_sums import SharedSum, Sums, share_sums
from neurocompile.passes.shift_resets import shift_resets
from neurocompile.program import Program
from neurocompile.stages import LEGAL, Stage, check_stage
from neurocompile.target import Target, resolve_options
from neurocompile.validation import AFFORDABLE, Validator, cost, probe_inputs

STEPS_IF_UNKNOWN = 100

PASSES = tuple(LEGAL)  # "import" and the passes, in order

Observe = Callable[[str, Stage], None]  # called with each pass's name and what it made


@dataclass(frozen=True)
class CompileOptions:
    """
    What a user can choose; the defaults need no data.

    `steps` is how many steps a sample may have at most (None: as many as it was trained with).
    `validate` runs the network after every pass (None: where that takes a few seconds), also on
    `calibration`, samples by input.
    """

    weight_bits: int = 8
    steps: int | None = None
    first_layer: FirstLayer = "auto"
    sums: Sums = "auto"
    validate: bool | None = None
    calibration: Mapping[str, NDArray[Any]] | None = None
    target_options: Mapping[str, str] = field(default_factory=dict)


class _Passes:
    """Applies passes one after the other, checking each."""

    def __init__(self, validator: Validator | None, observe: Observe | None) -> None:
        self.validator = validator
        self.observe = observe

    def done(self, name: str, stage: Stage) -> None:
        check_stage(name, stage)
        if self.validator and name != "import":
            self.validator.after(name, stage)
        if self.observe:
            self.observe(name, stage)


def compile_network(
    network: Network, target: Target, options: CompileOptions, *, observe: Observe | None = None
) -> Program:
    """
    Return the program of `network` for `target`, without any files.

    Raises an error of `neurocompile.errors` with all reasons if there can be none.
    """
    target_options = resolve_options(target, options.target_options)
    steps = options.steps or network.steps or STEPS_IF_UNKNOWN
    validator, skipped = _validator(network, options, steps)
    passes = _Passes(validator, observe)

    passes.done("import", network)
    unpooled = lower_max_pooling(network)
    passes.done("lower_max_pooling", unpooled)
    firing = lower_thresholds(unpooled)
    passes.done("lower_thresholds", firing)
    shifted = shift_resets(firing)
    passes.done("shift_resets", shifted)
    assembled = assemble(shifted)
    passes.done("assemble", assembled)
    populations, sums = share_sums(
        assembled, sums=options.sums, largest_sum=target.limits.payload_maximum
    )
    passes.done("share_sums", populations)
    quantised = quantise(
        populations,
        target.limits,
        weight_bits=options.weight_bits,
        steps=steps,
        first_layer=options.first_layer,
    )
    passes.done("quantise", quantised.network)
    bounds = prove_ranges(quantised.network, target.limits, steps=steps)
    timing = schedule(quantised.network)

    program = Program(
        target=target.name,
        options=target_options,
        network=quantised.network,
        schedule=timing,
        bounds=bounds,
        steps=steps,
        native_steps=network.steps,
        facts={
            "first_layer": {"computed_by": quantised.first_layer, "because": quantised.reason},
            "quantisation": {
                "weight_bits": options.weight_bits,
                "scales_lowered_by_range_proof": dict(quantised.lowered),
                "scales_lowered_by_biases": dict(quantised.cramped),
            },
            "validation": skipped
            or {
                "samples": len(next(iter(validator.inputs.values()))) if validator else 0,
                "passes": [report.to_json() for report in validator.reports] if validator else [],
            },
            "limits": asdict(target.limits),
            "versions": versions(),
        },
    )
    raise_all(UnsupportedError, target.check(program))
    lowered = target.lower(program)
    notes = [*_notes(sums, timing), *lowered.notes]
    return replace(
        program,
        facts={**program.facts, "notes": notes},
        extra_files=dict(lowered.files),
    )


def _validator(
    network: Network, options: CompileOptions, steps: int
) -> tuple[Validator | None, dict[str, Any] | None]:
    """Return what compares the passes, or why it was left out."""
    if options.validate is False:
        return None, {"skipped": "not asked for"}
    work = cost(network, steps=steps, calibrated=options.calibration is not None)
    if options.validate is None and work > AFFORDABLE:
        return None, {"skipped": f"it takes about {work:.1e} multiplications: --validate does it"}
    return Validator(probe_inputs(network, options.calibration, steps=steps), network), None


def _notes(sums: tuple[SharedSum, ...], timing: Schedule) -> list[str]:
    notes = []
    for shared in sums:
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
    return notes


def versions() -> dict[str, Any]:
    """Return what was used to compile, for the manifest."""
    return {
        "neurocompile": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
