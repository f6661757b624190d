"""
The compile half of `loihi2`: integers to the processes of Lava.

Every population is flat, in the C order of its shape (channels first), and every group of synapses is
written down as it is: the run half unrolls convolutions, or turns kernels into those of Lava's `Conv`.
What has to be decided is

  - how spikes wait for others (`route`);
  - which Lava process computes a population: `LIFReset`, one for each set of parameters that its
    neurons have, as a core of the chip wants them; `GradedVec` for sums of spikes; or `Microcode`, a
    process of ours, for what Lava's neurons cannot do;
  - what the host drives neurons with besides the inputs: a pulse where a sample starts from another
    membrane than 0, and a current that silences them between samples.

What comes out is `loihi2.json`, a list of processes with their numbers, and `loihi2.npz`, their arrays.
It needs numpy only, and is all that the run half reads of the network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import Problem, UnsupportedError, raise_all
from neurocompile.integer import (
    LOIHI2,
    STATE_FRACTION_BITS,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
)
from neurocompile.limits import Limits
from neurocompile.target import Availability, Executor, Lowered, Option
from neurocompile_loihi2.limits import CONV_ATTRIBUTE_MAXIMUM, LIMITS, PARTS_MAXIMUM, RELAYS_MAXIMUM
from neurocompile_loihi2.route import Leg, Routes, in_steps, route

if TYPE_CHECKING:
    from neurocompile.program import Program
    from neurocompile.resources import Resources

LAYOUT = "loihi2.json"
ARRAYS = "loihi2.npz"
VERSION = 3
SYNAPSES_MAXIMUM = 1 << 23  # of a convolution that is written out; 8 bytes each, some four times

MEMORYLESS = 4095  # du: u is the input of this step alone
PARAMETERS = {"du": "du", "dv": "dv", "vth": "threshold"}  # Lava's names and ours
PARAMETER_BITS = 13  # hold a decay, up to 4096
SPOKEN = {"du": "current leaks", "dv": "leaks", "vth": "thresholds"}

OPTIONS: Mapping[str, Option] = {
    "convolution": Option(
        ("sparse", "gemm", "conv"),
        "simulate convolutions as Lava's Sparse, written out, as a matrix product of ours (fastest), "
        "or, one sample at a time, as Lava's Conv",
    ),
    "balance": Option(
        ("auto", "relay", "delay"),
        "let spikes that skip layers wait in relay neurons, in delayed connections, or where it is cheaper",
    ),
    "parameters": Option(
        ("split", "arrays"),
        "split layers of different neurons into processes of equal ones, or keep arrays (simulator only)",
    ),
    "netx": Option(
        ("no", "yes"),
        "also write the network as network.net, for lava-dl's netx; refused where it is no chain of layers",
    ),
}


@dataclass(frozen=True)
class Loihi2Target:
    """Loihi 2 through Lava; programs run on Lava's CPU simulator."""

    name: str = "loihi2"
    summary: str = "Intel Loihi 2 through Lava 0.10, run on Lava's CPU simulator"
    limits: Limits = LIMITS
    options: Mapping[str, Option] = field(default_factory=lambda: OPTIONS)
    engines: tuple[str, ...] = ()

    def check(self, program: Program) -> list[Problem]:
        """Return everything in `program` that Lava's processes cannot do."""
        problems = problems_of_arithmetic(program.network)
        for neurons in program.network.neurons:
            problems += _problems_of_neurons(program, neurons)
        for group in program.network.synapses:
            problems += _problems_of_synapses(program, group)
        relays = route(program.network, program.schedule, program.options["balance"]).relays
        if len(relays) > RELAYS_MAXIMUM:
            longest = max(relays, key=lambda relay: relay.wait)
            problems.append(
                Problem(
                    longest.source,
                    f"needs at most {RELAYS_MAXIMUM} layers of relay neurons to wait in",
                    f"all waits together take {len(relays)}, the longest is {longest.wait} steps",
                    "use shorter delays, or -O balance=delay",
                )
            )
        if program.options["netx"] == "yes":
            from neurocompile_loihi2.netx import problems_of_netx

            problems += problems_of_netx(program)
        return problems

    def resources(self, program: Program) -> Resources:
        """Return neurons, synapses and axons, and the cores that they take by Intel's printed tables."""
        from neurocompile_loihi2.resources import resources

        return resources(program)

    def lower(self, program: Program) -> Lowered:
        """Return `loihi2.json` and `loihi2.npz`, perhaps `network.net`, and what was decided."""
        from neurocompile.tensors import npz_bytes

        lowering = lower(program)
        files = {
            LAYOUT: (json.dumps(lowering.layout, indent=2) + "\n").encode(),
            ARRAYS: npz_bytes(lowering.arrays),
        }
        notes = lowering.notes
        if program.options["netx"] == "yes":
            from neurocompile_loihi2.netx import NETX, netx_bytes, notes_of_netx

            files[NETX] = netx_bytes(program)
            notes += notes_of_netx(program)
        return Lowered(files, notes)

    def availability(self) -> Availability:
        """Return which interpreter runs Lava, or what is missing."""
        from neurocompile_loihi2.interpreter import availability

        return availability()

    def open(self, program: Program, engine: str = "") -> Executor:
        """Return a Lava session; its processes start at the first run."""
        del engine
        raise_all(UnsupportedError, problems_of_arithmetic(program.network))
        from neurocompile_loihi2.run import LavaExecutor

        return LavaExecutor(program)


TARGET = Loihi2Target()


@dataclass(frozen=True)
class Lowering:
    """The Lava processes of a program as plain values, their arrays, and notes for people."""

    layout: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    notes: tuple[str, ...]


def lower(program: Program) -> Lowering:
    """Return the Lava processes of `program`."""
    network = program.network
    routes = route(network, program.schedule, program.options["balance"])
    arrays: dict[str, NDArray[Any]] = {}
    notes = list(routes.notes)
    as_process = program.options["convolution"] == "conv"
    populations = []
    for population in network.populations:
        if isinstance(population, IntegerInput):
            continue
        entry: dict[str, Any] = {
            "name": population.name,
            "shape": list(population.shape),
            "depth": program.schedule.depth[population.name],
        }
        if isinstance(population, IntegerRelay):
            entry["process"] = "GradedVec"
        else:
            entry |= _neurons(program, population, arrays)
            notes += _notes_of_neurons(program, population, entry)
        populations.append(entry)
    connections = []
    for leg in routes.legs:
        entry = _connection(network, leg, arrays)
        entry["simulated_by"] = _simulated_by(entry, program.options["convolution"])
        connections.append(entry)
        if entry["process"] == "Convolution" and as_process and leg.longest:
            notes.append(f"'{leg.group}' is unrolled: Lava's Conv cannot delay spikes")
        if entry["simulated_by"] == "BatchConvolution":
            notes.append(
                f"'{leg.group}' is simulated by a convolution of ours, with the sums of Lava's Sparse: "
                f"written out, it has {entry['synapses']:,} synapses"
            )
    layout = {
        "version": VERSION,
        "gap": program.schedule.gap,
        "stride": program.schedule.stride,
        "sources": _sources(program, routes),
        "host": [
            {"name": group.name, "target": group.target}
            for group in network.synapses
            if group.on_host
        ],
        "populations": populations,
        "relays": [
            {
                "source": relay.source,
                "start": relay.start,
                "wait": relay.wait,
                "delay": relay.delay,
                "neurons": math.prod(network[relay.source].shape),
                "process": "GradedVec" if _message_bits(network, relay.source) > 1 else "LIF",
                "message_bits": _message_bits(network, relay.source),
            }
            for relay in routes.relays
        ],
        "connections": connections,
        "outputs": dict(network.outputs),
        "arrays": {
            name: {"shape": list(array.shape), "dtype": str(array.dtype)}
            for name, array in sorted(arrays.items())
        },
    }
    return Lowering(layout, arrays, tuple(notes))


def _sources(program: Program, routes: Routes) -> list[dict[str, Any]]:
    """Return what the host streams of inputs: each as it is, or some machine steps later."""
    return [
        {
            "name": name,
            "wait": wait,
            "depth": program.schedule.depth[name],
            "shape": list(program.network[name].shape),
        }
        for name, wait in routes.copies
        if isinstance(program.network[name], IntegerInput)
    ]


def _neurons(
    program: Program, neurons: IntegerNeurons, arrays: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    """Return the entry of a population of neurons, and add its arrays."""
    size = math.prod(neurons.shape)
    arrays[f"bias/{neurons.name}"] = _flat(neurons, neurons.bias_mantissa)
    if neurons.start.any():
        arrays[f"start/{neurons.name}"] = _flat(neurons, neurons.start)
    microcode = needs_microcode(program, neurons)
    entry: dict[str, Any] = {
        "process": "Microcode" if microcode else "LIFReset",
        "bias_exp": neurons.bias_exponent,
        "shows": neurons.shows,
    }
    entry["pulse"] = bool(pulse_of(neurons, microcode=microcode).any())
    if microcode:
        entry |= {
            "inclusive": neurons.inclusive,
            "most": neurons.most,
            "refractory": neurons.refractory,
        }
        if neurons.reset == "subtract":
            arrays[f"subtracts/{neurons.name}"] = _flat(neurons, neurons.subtracts)
        if neurons.floored:
            arrays[f"floor/{neurons.name}"] = _flat(neurons, neurons.floor)
    else:
        entry["silence"] = _silence(program, neurons)
    if microcode or program.options["parameters"] == "arrays":
        part: dict[str, Any] = {"neurons": size}
        for lava, ours in PARAMETERS.items():
            values = _flat(neurons, getattr(neurons, ours))
            if len(np.unique(values)) > 1:
                arrays[f"{lava}/{neurons.name}"] = values
                part[lava] = "array"
            else:
                part[lava] = int(values[0])
        return {**entry, "parts": [part]}
    parts, numbers = parts_of(neurons)
    if len(parts) > 1:
        arrays[f"part/{neurons.name}"] = numbers.astype(np.int16)
    counts = np.bincount(numbers, minlength=len(parts))
    return {
        **entry,
        "parts": [
            {"neurons": int(count), **dict(zip(PARAMETERS, part, strict=True))}
            for count, part in zip(counts, parts, strict=True)
        ],
    }


def parts_of(neurons: IntegerNeurons) -> tuple[list[tuple[int, ...]], Integer]:
    """Return the different (du, dv, threshold) of a population, and which of them each neuron has."""
    du, dv, threshold = np.broadcast_arrays(neurons.du, neurons.dv, neurons.threshold)
    key = (threshold << 2 * PARAMETER_BITS) + (dv << PARAMETER_BITS) + du
    _keys, first, numbers = np.unique(key, return_index=True, return_inverse=True)
    parts = [tuple(int(values.flat[index]) for values in (du, dv, threshold)) for index in first]
    of_neurons = np.broadcast_to(numbers.reshape(key.shape), neurons.shape)
    return parts, of_neurons.reshape(-1)


def problems_of_arithmetic(network: IntegerNetwork) -> list[Problem]:
    """Return whose numbers are another chip's: Lava would compute something else with them."""
    return [
        Problem(
            neurons.name,
            "needs the arithmetic of another chip than Loihi 2",
            "Lava computes with 24-bit states of 6 fractional bits",
            "export it for this target, without --spec",
        )
        for neurons in network.neurons
        if neurons.arithmetic != LOIHI2
    ]


def needs_microcode(program: Program, neurons: IntegerNeurons) -> bool:
    """
    Return whether Lava's `LIFReset` cannot compute `neurons`.

    A membrane to start from can come as a pulse through the current, if that has no memory; the range
    proof has room for it.
    """
    return (
        not neurons.plain
        or program.schedule.stride > 1
        or (bool(neurons.start.any()) and bool((neurons.du != MEMORYLESS).any()))
    )


def pulse_of(neurons: IntegerNeurons, *, microcode: bool) -> Integer:
    """
    Return what the host adds to the input at the first step of a sample, in weight units.

    Where the current has no memory, a membrane to start from is a pulse of input as well as any other.
    """
    return neurons.pulse + (0 if microcode else neurons.start >> STATE_FRACTION_BITS)


def _silence(program: Program, neurons: IntegerNeurons) -> int:
    if program.schedule.gap == 0:
        return 0
    return max(
        (bound.silence for bound in program.bounds if bound.layer == neurons.name), default=0
    )


def _connection(
    network: IntegerNetwork, leg: Leg, arrays: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    """Return the entry of one connection process, and add the arrays that it does not share."""
    group = next(group for group in network.synapses if group.name == leg.group)
    arrays[f"weight/{group.name}"] = group.weight.astype(np.int16)
    entry: dict[str, Any] = {
        "process": "Dense" if group.geometry is None else "Convolution",
        "name": group.name,
        "source": leg.source,
        "wait": leg.wait,
        "target": group.target,
        "message_bits": _message_bits(network, group.source),
        "sign_mode": "excitatory" if (group.weight % LIMITS.weight_step).any() else "mixed",
        "synapses": network.synapse_count(group),
        "longest_delay": leg.longest,
    }
    if leg.delay.ndim:
        arrays[f"delay/{group.name}/{leg.wait}"] = leg.delay.astype(np.int8)
        entry["delay"] = "per neuron" if leg.delay.shape != group.weight.shape else "per synapse"
    else:
        entry["delay"] = int(leg.delay)
    if group.geometry is not None:
        source_view, target_view = network.views(group)
        entry |= {
            "source_view": list(source_view),
            "target_view": list(target_view),
            "stride": list(group.geometry.stride),
            "padding": list(group.geometry.padding),
            "dilation": list(group.geometry.dilation),
            "groups": group.geometry.groups,
        }
    return entry


def _simulated_by(connection: Mapping[str, Any], convolution: str) -> str:
    """
    Return what computes a connection on a CPU: "Conv", "Sparse", or "BatchConvolution".

    `convolution` is what the user chose. With "sparse", a convolution of more than `SYNAPSES_MAXIMUM` is
    not written out, either; where neurons or synapses have delays of their own, it must be.
    """
    if connection["process"] != "Convolution" or isinstance(connection["delay"], str):
        return "Sparse"
    if convolution == "conv":
        return "Sparse" if connection["longest_delay"] else "Conv"
    large = connection["synapses"] > SYNAPSES_MAXIMUM
    return "BatchConvolution" if large or convolution == "gemm" else "Sparse"


def _message_bits(network: IntegerNetwork, name: str) -> int:
    match network[name]:
        case IntegerInput() as source:
            binary = (source.minimum, source.maximum) == (0, 1)
            return 1 if binary else LIMITS.payload_bits
        case IntegerRelay() as relay:
            return max(1, relay.largest.bit_length())
        case IntegerNeurons() as neurons:
            return neurons.most.bit_length()


def _flat(neurons: IntegerNeurons, values: Integer) -> NDArray[np.int32]:
    return np.broadcast_to(values, neurons.shape).reshape(-1).astype(np.int32)


def _notes_of_neurons(
    program: Program, neurons: IntegerNeurons, entry: Mapping[str, Any]
) -> Iterable[str]:
    name, parts = neurons.name, entry["parts"]
    if entry["process"] == "Microcode":
        reasons = []
        if neurons.reset == "subtract":
            threshold = neurons.threshold << STATE_FRACTION_BITS
            of_threshold = bool((neurons.subtracts == threshold).all())
            reasons.append("subtracts " + ("its threshold" if of_threshold else "at its spikes"))
        if neurons.inclusive:
            reasons.append("fires at its threshold")
        if neurons.most > 1:
            reasons.append(f"fires up to {neurons.most} times a step")
        if neurons.floored:
            reasons.append("stops its membrane at a floor")
        if neurons.refractory:
            reasons.append(f"rests for {in_steps(neurons.refractory)} after a spike")
        if program.schedule.stride > 1:
            reasons.append(f"works at one machine step in {program.schedule.stride}")
        if neurons.start.any():
            reasons.append("starts from a membrane other than 0")
        yield f"'{name}' {', '.join(reasons[:-1])}{' and ' if reasons[:-1] else ''}{reasons[-1]}: needs microcode on silicon"
    if entry["pulse"]:
        yield f"'{name}' gets a pulse of input from the host at the first step of each sample"
    if entry["process"] == "Microcode":
        return
    for lava, ours in PARAMETERS.items():
        if parts[0][lava] == "array":
            count = len(np.unique(getattr(neurons, ours)))
            yield f"'{name}' keeps {count} different {SPOKEN[lava]} in one process: simulator only"
    if len(parts) > 1:
        yield f"'{name}' is split into {len(parts)} processes of equal neurons"
    if entry["silence"]:
        yield (
            f"'{name}' is silenced between samples: the host takes {entry['silence']}"
            f" off its input for {in_steps(program.schedule.gap)}"
        )


def _problems_of_neurons(program: Program, neurons: IntegerNeurons) -> Iterable[Problem]:
    if program.options["parameters"] == "split" and not needs_microcode(program, neurons):
        count = len(parts_of(neurons)[0])
        if count > PARTS_MAXIMUM:
            yield Problem(
                neurons.name,
                f"needs at most {PARTS_MAXIMUM} different sets of leaks and thresholds",
                f"it has {count}",
                "export with -O parameters=arrays, for the simulator only",
            )
    if neurons.shows == "input" and ((neurons.du != MEMORYLESS).any() or neurons.dv.any()):
        yield Problem(
            neurons.name,
            f"needs du {MEMORYLESS} and dv 0 to show its input",
            f"it has du {neurons.du.min()} and dv {neurons.dv.max()}",
        )


def _problems_of_synapses(program: Program, group: IntegerSynapses) -> Iterable[Problem]:
    if group.on_host:
        if not isinstance(program.network[group.source], IntegerInput):
            yield Problem(
                group.name,
                "is computed by the host and needs an input as its source",
                f"that is '{group.source}'",
            )
        return
    if group.geometry is not None and program.options["convolution"] == "conv":
        geometry = group.geometry
        sizes = (*geometry.stride, *geometry.padding, *geometry.dilation, *group.weight.shape[2:])
        largest = max(*sizes, geometry.groups)
        if largest > CONV_ATTRIBUTE_MAXIMUM:
            yield Problem(
                group.name,
                f"needs strides, paddings, dilations, kernels and groups up to {CONV_ATTRIBUTE_MAXIMUM}"
                " in Lava's Conv",
                f"the largest is {largest}",
                "export with -O convolution=sparse",
            )
