"""
The order of the passes, on one page.

    Network            from_nir: what the file means
      fuse_flatten     reshapes become column numbers
      fuse_pooling     pools become wider kernels
    PopulationNetwork  assemble: neurons, synapses, biases
    IntegerNetwork     quantise: floats end here
    bounds             prove_ranges: or no program at all
    Schedule           schedule: who works when
    Program            + what the target adds
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from neurocompile import __version__
from neurocompile.errors import UnsupportedError, raise_all
from neurocompile.ir import Network
from neurocompile.passes.assemble import assemble
from neurocompile.passes.fuse_flatten import fuse_flatten
from neurocompile.passes.fuse_pooling import fuse_pooling
from neurocompile.passes.prove_ranges import prove_ranges
from neurocompile.passes.quantise import FirstLayer, quantise
from neurocompile.passes.schedule import schedule
from neurocompile.program import Program
from neurocompile.target import Target, resolve_options

STEPS_IF_UNKNOWN = 100


@dataclass(frozen=True)
class CompileOptions:
    """
    What a user can choose; the defaults need no data.

    `steps` is how many steps a sample may have at most (None: as many as it was trained with).
    """

    weight_bits: int = 8
    steps: int | None = None
    first_layer: FirstLayer = "auto"
    target_options: Mapping[str, str] = field(default_factory=dict)


def compile_network(network: Network, target: Target, options: CompileOptions) -> Program:
    """
    Return the program of `network` for `target`, without any files.

    Raises an error of `neurocompile.errors` with all reasons if there can be none.
    """
    target_options = resolve_options(target, options.target_options)
    steps = options.steps or network.steps or STEPS_IF_UNKNOWN

    fused = fuse_pooling(fuse_flatten(network))
    populations = assemble(fused)
    quantised = quantise(
        populations,
        target.limits,
        weight_bits=options.weight_bits,
        steps=steps,
        first_layer=options.first_layer,
    )
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
            },
            "limits": asdict(target.limits),
            "versions": versions(),
        },
    )
    raise_all(UnsupportedError, target.check(program))
    return replace(program, extra_files=dict(target.lower(program)))


def versions() -> dict[str, Any]:
    """Return what was used to compile, for the manifest."""
    return {
        "neurocompile": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
