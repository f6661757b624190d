"""
Write a program as a `.net` file, which lava-dl's netx loads.

The format is a chain: an input, then layers of weights with their neurons, each fed by the one before, and
dense ones by their own spikes of the step before as well. netx knows Lava's LIF alone, with one du, dv and vth for a layer and biases of whole weight units, and it
computes Lava's weights anew. Whatever does not fit, or would be loaded as something else, is refused.

netx builds, for dense weights w,

    Dense(w << s, weight_exp = -s, num_weight_bits = b)

with the largest s at which w << s fits 8 bits, and b counting the bits that are left; Lava chooses between
mixed, excitatory and inhibitory weights, clips and truncates to b bits. Where both use the same kind of
weights nothing is lost; purely inhibitory ones, to which netx gives -256 and Lava -255 at most, lose
something where their least is a power of 2. Weights of a layer's own spikes get the s and b of both, but
Lava looks at the signs of each. netx delays them like the others, and forgets their exponent then.

What a read-out shows is not written: a read-out is neurons with the largest threshold, and its membrane is
for the reader of the file. Needs h5py to write, numpy to check.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import Problem, UnsupportedError, raise_all
from neurocompile.integer import (
    STATE_FRACTION_BITS,
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
    Shape,
)
from neurocompile_loihi2.limits import CONV_ATTRIBUTE_MAXIMUM, LIMITS
from neurocompile_loihi2.lower import needs_microcode
from neurocompile_loihi2.route import LONGEST_DELAY

if TYPE_CHECKING:
    from neurocompile.program import Program

NETX = "network.net"
UNIT = 1 << STATE_FRACTION_BITS  # state units in a weight unit; netx gives biases the exponent 6
TYPE_BYTES = 10  # of a layer's type; slayer writes as many
AXES = (1, 3)  # of an input: a vector, or (channels, height, width)


def netx_bytes(program: Program) -> bytes:
    """
    Return `program` as a `.net` file; the same program gives the same bytes.

    Raises `UnsupportedError` with everything in it that the format cannot say.
    """
    raise_all(UnsupportedError, problems_of_netx(program))
    network = program.network
    (source,) = network.inputs
    layers: list[dict[str, Any]] = [{"type": "input", "shape": source.shape}]
    shape = source.shape
    for neurons in network.neurons:
        own = _own_groups(network, neurons)
        (group,) = (item for item in network.into(neurons.name) if item.source != neurons.name)
        if group.geometry is not None:
            layers.append(_conv(group, neurons))
        else:
            if len(shape) > 1:
                layers.append({"type": "flatten", "shape": (math.prod(shape), 1, 1)})
            layers.append(_dense(group, neurons, own))
        shape = neurons.shape
    return _hdf5(
        {
            "layer": {str(number): layer for number, layer in enumerate(layers)},
            "simulation": {"Ts": 1, "tSample": program.steps},
        }
    )


def notes_of_netx(program: Program) -> tuple[str, ...]:
    """Return how netx has to load the file, in words."""
    (source,) = program.network.inputs
    graded = not _is_binary(source)
    options = f"reset_interval={program.steps}, reset_offset=1"
    if graded:
        options += f", input_message_bits={LIMITS.payload_bits}"
    note = f"'{NETX}' is loaded by netx with {options}"
    if graded:
        note += f"; its inputs are integers, the network's times {source.scale:g}"
    if program.schedule.gap:
        note += (
            "; it has delays or feedback, and netx does not silence its neurons between samples, so spikes"
            " of one reach the next: run one sample at a time"
        )
    return (note,)


def problems_of_netx(program: Program) -> list[Problem]:
    """Return everything in `program` that a `.net` file cannot say, or netx would load otherwise."""
    network = program.network
    problems = list(_problems_of_chain(network))
    for population in network.populations:
        if isinstance(population, IntegerNeurons):
            problems += _problems_of_neurons(program, population)
            problems += _problems_of_feedback(network, population)
    for group in network.synapses:
        problems += _problems_of_synapses(network, group)
    return problems


def _own_groups(network: IntegerNetwork, neurons: IntegerNeurons) -> list[IntegerSynapses]:
    """Return the synapses from `neurons` to themselves."""
    return [group for group in network.into(neurons.name) if group.source == neurons.name]


def _problems_of_chain(network: IntegerNetwork) -> Iterable[Problem]:
    """Yield what is no chain: several ends, branches, feedback."""
    for what, names in (
        ("input", [item.name for item in network.inputs]),
        ("output", list(network.outputs)),
    ):
        if len(names) > 1:
            yield Problem("", f"a .net file has one {what}", f"there are {', '.join(names)}")
    for source in network.inputs:
        if len(source.shape) not in AXES:
            yield Problem(
                source.name,
                "needs a vector, or (channels, height, width), in a .net file",
                f"its shape is {source.shape}",
            )
    names = [population.name for population in network.populations]
    for before, population in zip([None, *network.populations], network.populations, strict=False):
        if isinstance(population, IntegerRelay):
            yield Problem(
                population.name,
                "cannot be written to a .net file, which has no sums of spikes",
                "it is one",
                "export with --sums duplicate",
            )
        forward = []
        for group in network.into(population.name):
            if names.index(group.source) < names.index(population.name):
                forward.append(group)
            elif group.source != group.target:
                yield Problem(
                    group.name,
                    "must lead from a layer to itself, as feedback in a .net file",
                    f"it leads from '{group.source}' to '{group.target}'",
                )
        if isinstance(population, IntegerInput) or before is None:
            continue
        if [group.source for group in forward] != [before.name]:
            sources = ", ".join(f"'{group.source}' by '{group.name}'" for group in forward)
            yield Problem(
                population.name,
                f"needs one group of synapses, from '{before.name}', in a .net file",
                f"it is fed from {sources or 'nowhere'}",
            )
    for output, shown in network.outputs.items():
        if shown != names[-1]:
            yield Problem("", f"a .net file ends with its output '{output}'", f"that is '{shown}'")


def _problems_of_neurons(program: Program, neurons: IntegerNeurons) -> Iterable[Problem]:
    if needs_microcode(program, neurons):
        yield Problem(neurons.name, "needs Lava's LIF in a .net file", "it needs microcode")
    for what, values in (
        ("current leak", neurons.du),
        ("leak", neurons.dv),
        ("threshold", neurons.threshold),
    ):
        if values.size and (values != values.flat[0]).any():
            yield Problem(
                neurons.name,
                f"needs one {what} for all of its neurons in a .net file",
                f"there are {len(np.unique(values))}",
                "export with --scales layer" if neurons.scale.ndim else "",
            )
    if neurons.pulse.any() or neurons.start.any():
        yield Problem(
            neurons.name,
            "must start each sample like any other step in a .net file",
            "it starts with a pulse, from a bias before its current or from another membrane",
        )
    bias = neurons.bias
    off = (bias % UNIT) != 0
    if off.any():
        yield Problem(
            neurons.name,
            "needs biases of whole weight units in a .net file",
            f"{int(off.sum())} of {off.size} lie between, like {bias[off].flat[0] / UNIT:g}",
        )
    elif len(neurons.shape) == 3 and _differs_by_pixel(bias, neurons.shape):
        yield Problem(
            neurons.name,
            "needs one bias for each channel in a .net file",
            "they differ within one",
        )
    elif np.abs(bias).max(initial=0) > LIMITS.bias_mantissa_maximum * UNIT:
        yield Problem(
            neurons.name,
            f"needs biases up to {LIMITS.bias_mantissa_maximum} weight units in a .net file",
            f"one is {np.abs(bias).max() // UNIT}",
        )


def _problems_of_feedback(network: IntegerNetwork, neurons: IntegerNeurons) -> Iterable[Problem]:
    """Yield why the feedback of `neurons` to themselves is not that of a 'dense_rec' layer."""
    own = _own_groups(network, neurons)
    if not own:
        return
    groups = network.into(neurons.name)
    if len(own) > 1:
        yield Problem(
            neurons.name,
            "needs one group of synapses to itself in a .net file",
            f"there are {', '.join(sorted(group.name for group in own))}",
        )
    convolved = sorted(group.name for group in groups if group.geometry is not None)
    if convolved:
        verb = "is a convolution" if len(convolved) == 1 else "are convolutions"
        yield Problem(
            neurons.name,
            "needs dense weights beside feedback in a .net file",
            f"{', '.join(convolved)} {verb}",
        )
    for group in groups:
        on_time = int(group.source == group.target)
        if (group.delay != on_time).any():
            yield Problem(
                group.name,
                f"needs delays of {on_time} steps in a .net file, as there is feedback",
                f"the longest is {int(group.delay.max())}",
            )


def _differs_by_pixel(values: Integer, shape: Shape) -> bool:
    image = np.broadcast_to(values, shape)
    return bool((image != image[:, :1, :1]).any())


def _problems_of_synapses(network: IntegerNetwork, group: IntegerSynapses) -> Iterable[Problem]:
    if group.on_host:
        yield Problem(
            group.name,
            "must be computed on the chip in a .net file",
            "the host does",
            "export with --first-layer graded",
        )
        return
    longest = int(group.delay.max(initial=0))
    target = network[group.target].shape
    feedback = group.source == group.target
    if group.geometry is None:
        if longest > LONGEST_DELAY:
            yield Problem(
                group.name,
                f"needs delays of at most {LONGEST_DELAY} steps in a .net file",
                f"the longest is {longest}",
            )
        if len(target) != 1:
            yield Problem(
                group.name, "needs a vector as its target in a .net file", f"it is {target}"
            )
        if not feedback:  # whose weights are loaded with those that it is beside
            yield from _problems_of_weights(network, group)
        return
    if feedback:
        return  # as its neurons say
    if longest:
        yield Problem(
            group.name,
            "must not be late in a .net file, as it is a convolution",
            f"it is, by up to {longest} steps",
        )
    if network.views(group) != (network[group.source].shape, target):
        yield Problem(
            group.name,
            "must see its populations as they are in a .net file",
            f"it sees {group.source_view} in '{group.source}' and {group.target_view} in"
            f" '{group.target}'",
        )
    elif len(target) != 3:
        yield Problem(group.name, "needs images in a .net file", f"its target is {target}")
    geometry = group.geometry
    sizes = (*geometry.stride, *geometry.padding, *geometry.dilation, *group.weight.shape[2:])
    if max(*sizes, geometry.groups) > CONV_ATTRIBUTE_MAXIMUM:
        yield Problem(
            group.name,
            "needs strides, paddings, dilations, kernels and groups up to "
            f"{CONV_ATTRIBUTE_MAXIMUM} in a .net file",
            f"the largest is {max(*sizes, geometry.groups)}",
        )


def _problems_of_weights(network: IntegerNetwork, group: IntegerSynapses) -> Iterable[Problem]:
    """Yield what netx would make of a layer's dense weights, and of those to itself beside them."""
    target = network[group.target]
    assert isinstance(target, IntegerNeurons)
    own = _own_groups(network, target)
    if len(own) > 1 or any(item.geometry is not None for item in own):
        return  # refused already
    parts = (group.weight, *(item.weight for item in own))
    if not any(part.any() for part in parts):
        yield Problem(group.name, "needs a weight for netx to load", "all are 0")
        return
    for item, (loaded, wanted) in zip((group, *own), _loaded_by_netx(*parts), strict=True):
        if (loaded != wanted).any():
            yield Problem(
                item.name,
                "needs weights that netx does not change",
                f"it would change {int((loaded != wanted).sum())}, as none is positive",
                "give one synapse a positive weight",
            )


def _loaded_by_netx(*parts: Integer) -> list[tuple[Integer, Integer]]:
    """
    Return what Lava's `Dense` holds after netx has loaded weights, not all 0, and what it should.

    `parts` are the weights of a layer, (out, in), and perhaps those of its own spikes, (out, out).
    """
    weight: Integer = np.hstack(parts)
    least, most = int(weight.min()), int(weight.max())
    mixed = least < 0 <= most
    if least >= 0:
        room = 255 / most
    elif most < 0:
        room = -256 / least
    else:
        room = min(127 / most if most else math.inf, -128 / least)
    shift = math.floor(math.log2(room)) + mixed
    unused = next((bits for bits in range(8, 0, -1) if not (weight % (1 << bits)).any()), 0)
    bits = 8 - shift - unused + mixed
    shifted: list[Integer] = [part << shift for part in parts]
    return [(_kept_by_lava(part, bits=bits), part) for part in shifted]


def _kept_by_lava(weight: Integer, *, bits: int) -> Integer:
    """Return what Lava's `Dense` keeps of `weight` in `bits` bits, once it has looked for signs."""
    least, most = int(weight.min()), int(weight.max())
    cut = 8 - bits + (least < 0 < most)
    if least >= 0:
        return np.clip(weight, 0, 255) >> cut << cut
    if most <= 0:
        return -(-np.clip(weight, -255, 0) >> cut << cut)
    return np.clip(weight, -256, 255) >> cut << cut


def _is_binary(source: IntegerInput) -> bool:
    return (source.minimum, source.maximum) == (0, 1)


def _dense(
    group: IntegerSynapses, neurons: IntegerNeurons, own: list[IntegerSynapses]
) -> dict[str, Any]:
    outputs, inputs = group.weight.shape
    layer: dict[str, Any] = {
        "type": "dense_rec" if own else "dense",
        "shape": (outputs,),
        "inFeatures": inputs,
        "outFeatures": outputs,
        "weight": group.weight.astype(np.float32),
        **_bias(neurons, neurons.shape),
        "neuron": _cuba(neurons),
    }
    for item in own:
        layer["weight_rec"] = item.weight.astype(np.float32)
    if group.delay.any():
        delay = group.delay.astype(np.float32)
        if delay.ndim and delay.shape != group.weight.shape:
            delay = delay.ravel()
            if inputs == outputs:  # a vector would be the delays of the layer's own spikes
                delay = np.repeat(delay[np.newaxis], outputs, 0)
        layer["delay"] = delay
    return layer


def _conv(group: IntegerSynapses, neurons: IntegerNeurons) -> dict[str, Any]:
    geometry, weight = group.geometry, group.weight
    assert geometry is not None
    return {
        "type": "conv",
        "shape": neurons.shape,
        "inChannels": weight.shape[1] * geometry.groups,
        "outChannels": len(weight),
        "kernelSize": weight.shape[2:],
        "stride": geometry.stride,
        "padding": geometry.padding,
        "dilation": geometry.dilation,
        "groups": geometry.groups,
        "weight": weight.astype(np.float32)[..., np.newaxis],
        **_bias(neurons, (neurons.shape[0], 1, 1)),
        "neuron": _cuba(neurons),
    }


def _bias(neurons: IntegerNeurons, shape: Shape) -> dict[str, NDArray[np.float32]]:
    """Return the biases of the first `shape` neurons in weight units, if there are any."""
    if not neurons.bias.any():
        return {}
    whole = np.broadcast_to(neurons.bias // UNIT, neurons.shape)
    return {"bias": whole[tuple(slice(extent) for extent in shape)].ravel().astype(np.float32)}


def _cuba(neurons: IntegerNeurons) -> dict[str, Any]:
    return {
        "type": "CUBA",
        "iDecay": int(neurons.du.flat[0]) + 1,
        "vDecay": int(neurons.dv.flat[0]),
        "vThMant": int(neurons.threshold.flat[0]),
        "refDelay": 1,
        "gradedSpike": False,
    }


def _hdf5(content: Mapping[str, Any]) -> bytes:
    """Return nested groups of datasets as an HDF5 file whose bytes depend on nothing else."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        _fill(file, content)
    return buffer.getvalue()


def _fill(group: Any, content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        if isinstance(value, Mapping):
            _fill(group.create_group(name), value)
        elif isinstance(value, str):
            group.create_dataset(name, data=np.array([value.encode()], f"S{TYPE_BYTES}"))
        else:
            group.create_dataset(name, data=np.asarray(value), track_times=False)
