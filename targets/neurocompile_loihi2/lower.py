"""
The compile half of `loihi2`: integers to the processes of Lava.

Lava's convolutions are channels last and flip their kernels, so here every population (C, H, W) is
laid out as (H, W, C), kernels are transposed and flipped, and the columns of a dense layer behind a
flatten are renumbered:

    w_lava[o, h, w, i] = w[o, i, K - 1 - h, K - 1 - w]        x_lava[h, w, c] = x[c, h, w]

What comes out is `loihi2.json`, a list of processes with their numbers, and `loihi2.npz`, arrays as
Lava's constructors take them. It needs numpy only, and is all that the run half reads of the network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import Problem
from neurocompile.integer import (
    Integer,
    IntegerInput,
    IntegerNeurons,
    IntegerSynapses,
    Shape,
)
from neurocompile.limits import Limits
from neurocompile.target import Availability, Executor, Option
from neurocompile_loihi2.limits import CONV_ATTRIBUTE_MAXIMUM, LIMITS

if TYPE_CHECKING:
    from neurocompile.program import Program

LAYOUT = "loihi2.json"
ARRAYS = "loihi2.npz"

OPTIONS: Mapping[str, Option] = {
    "convolution": Option(
        ("sparse", "conv"),
        "run convolutions as unrolled Sparse processes (fast on a CPU) or as Lava's Conv process",
    )
}


@dataclass(frozen=True)
class Loihi2Target:
    """Loihi 2 through Lava; programs run on Lava's CPU simulator."""

    name: str = "loihi2"
    summary: str = "Intel Loihi 2 through Lava 0.10, run on Lava's CPU simulator"
    limits: Limits = LIMITS
    options: Mapping[str, Option] = field(default_factory=lambda: OPTIONS)

    def check(self, program: Program) -> list[Problem]:
        """Return everything in `program` that Lava's processes cannot do."""
        problems: list[Problem] = []
        for group in program.network.synapses:
            problems += _problems_of_synapses(group, program.options["convolution"] == "conv")
        return problems

    def lower(self, program: Program) -> Mapping[str, bytes]:
        """Return `loihi2.json` and `loihi2.npz`."""
        from neurocompile.tensors import npz_bytes

        layout, arrays = lower(program)
        return {
            LAYOUT: (json.dumps(layout, indent=2) + "\n").encode(),
            ARRAYS: npz_bytes(arrays),
        }

    def availability(self) -> Availability:
        """Return which interpreter runs Lava, or what is missing."""
        from neurocompile_loihi2.interpreter import availability

        return availability()

    def open(self, program: Program) -> Executor:
        """Return a Lava session; its processes start at the first run."""
        from neurocompile_loihi2.run import LavaExecutor

        return LavaExecutor(program)


TARGET = Loihi2Target()


def lower(program: Program) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the list of Lava processes of `program` as plain values, and their arrays."""
    network = program.network
    arrays: dict[str, NDArray[Any]] = {}
    populations = []
    for population in network.populations:
        entry: dict[str, Any] = {
            "name": population.name,
            "shape": list(channels_last_shape(population.shape)),
            "depth": program.schedule.depth[population.name],
        }
        if isinstance(population, IntegerNeurons):
            arrays[f"bias/{population.name}"] = _bias(population).astype(np.int32)
            entry |= {
                "process": "LIFReset",
                "du": population.du,
                "dv": population.dv,
                "vth": population.threshold,
                "bias_exp": population.bias_exponent,
                "readout": population.readout,
            }
        else:
            entry |= {"process": "Source"}
        populations.append(entry)
    connections = []
    for group in network.synapses:
        if group.on_host:
            connections.append(
                {
                    "process": "Source",
                    "source": group.name,
                    "target": group.target,
                    "computed_by": "host",
                }
            )
            continue
        arrays[f"weight/{group.name}"] = _weight(group, network[group.source].shape).astype(
            np.int16
        )
        source = network[group.source]
        spikes = not isinstance(source, IntegerInput) or (source.minimum, source.maximum) == (0, 1)
        entry = {
            "process": "Dense" if group.geometry is None else "Convolution",
            "name": group.name,
            "source": group.source,
            "target": group.target,
            "message_bits": 1 if spikes else LIMITS.payload_bits,
        }
        if group.geometry is not None:
            entry |= {
                "stride": list(group.geometry.stride),
                "padding": list(group.geometry.padding),
                "dilation": list(group.geometry.dilation),
                "groups": group.geometry.groups,
            }
        connections.append(entry)
    layout = {
        "populations": populations,
        "connections": connections,
        "output": network.outputs[0],
        "arrays": {
            name: {"shape": list(array.shape), "dtype": str(array.dtype)}
            for name, array in sorted(arrays.items())
        },
    }
    return layout, arrays


def channels_last_shape(shape: Shape) -> Shape:
    """Return (H, W, C) for (C, H, W), and other shapes as they are."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def channels_last(values: NDArray[Any], axes: int) -> NDArray[Any]:
    """Return `values` with its last `axes` axes, a population's (C, H, W), as (H, W, C)."""
    return np.moveaxis(values, -3, -1) if axes == 3 else values


def channels_first(values: NDArray[Any], axes: int) -> NDArray[Any]:
    """Undo `channels_last`."""
    return np.moveaxis(values, -1, -3) if axes == 3 else values


def _bias(neurons: IntegerNeurons) -> Integer:
    full: Integer = np.broadcast_to(neurons.bias_mantissa, neurons.shape)
    return np.ascontiguousarray(channels_last(full, len(neurons.shape)))


def _weight(group: IntegerSynapses, source_shape: Shape) -> Integer:
    if group.geometry is not None:
        return np.ascontiguousarray(group.weight.transpose(0, 2, 3, 1)[:, ::-1, ::-1])
    columns = group.weight.reshape(len(group.weight), *source_shape)
    return np.ascontiguousarray(channels_last(columns, len(source_shape))).reshape(len(columns), -1)


def _problems_of_synapses(group: IntegerSynapses, as_process: bool) -> list[Problem]:
    problems: list[Problem] = []
    if group.delay.any():
        problems.append(
            Problem(
                group.name,
                "needs synapses without delays",
                f"the longest is {group.delay.max()} steps",
            )
        )
    if group.geometry is not None and as_process and not group.on_host:
        largest = max(*group.geometry.stride, *group.geometry.padding, *group.geometry.dilation)
        if largest > CONV_ATTRIBUTE_MAXIMUM:
            problems.append(
                Problem(
                    group.name,
                    f"needs strides, paddings and dilations up to {CONV_ATTRIBUTE_MAXIMUM} in Lava's Conv",
                    f"the largest is {largest}",
                    "export with -O convolution=sparse",
                )
            )
    return problems
