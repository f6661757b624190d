"""
How the compiled engine computes a network: a kernel for each group of synapses, and for each population.

    gather       every pixel of the target adds up the weights of the spikes in its window: the work is that
                 of the synapses that transmit, and the sums stay in the processor's registers
    scatter      every spike adds its synapses' weights to the sums they reach, of any width
    definition   the sums of `definition.input_sum`, for what events cannot: delays that differ between
                 neurons or synapses, images that are seen in two ways, sums beyond 53 bits

    int32        Loihi 2's neurons whose current has no memory and that fire once a step, where no sum can wrap
    int64        everything else, wraps included, and other chips' arithmetic

What is possible follows from the largest sums that can be proven, and the quicker of what is possible from
a measured cost, for `ASSUMED_RATE` of the neurons firing in a step: it is the network's, not the data's, so
that it can be told in advance. The choice changes how long a run takes, never what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from neurocompile.integer import (
    LOIHI2,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
    largest_of,
)
from neurocompile.passes.prove_ranges import sums_by_sign
from neurocompile_fixedpoint.definition import EXACT_IN_FLOAT64
from neurocompile_fixedpoint.layout import NARROW_MAXIMUM, Layout, gathers, layout_of, suits

GroupKernel = Literal["gather", "scatter", "definition"]
NeuronKernel = Literal["int32", "int64"]

CURRENT_MAXIMUM = (
    LOIHI2.current_end >> LOIHI2.fraction_bits
)  # weight units: what u holds without a wrap
WITHOUT_END = 1 << 62
INT32_MAXIMUM = (1 << 31) - 1
AUTO = "auto"
ASSUMED_RATE = 0.1
WIDEST_BLOCK = 64  # sums that `kernels.gather` holds at once
# Nanoseconds: of a line of a pixel's window, of a run of sums, of a synapse that transmits either way.
LINE, RUN, GATHERED, SCATTERED = 9.5, 12.0, 0.045, 0.05
STATE_SAFE = 1 << 29  # state units: a bias or an amount that cannot carry a membrane out of int32


@dataclass(frozen=True)
class Plan:
    """
    The kernels, by group and by population of neurons; layouts and largest magnitudes, by population.

    `before` is the largest magnitude of a group's sums before its shift; `arriving` and `sent` are those of
    what arrives at a population in a step, pulses included, and of what it sends.
    """

    groups: Mapping[str, GroupKernel]
    neurons: Mapping[str, NeuronKernel]
    layouts: Mapping[str, Layout]
    before: Mapping[str, int]
    arriving: Mapping[str, int]
    sent: Mapping[str, int]

    def describe(self) -> dict[str, Any]:
        """Return the choice as plain values, for a program's files."""
        return {"synapses": dict(self.groups), "neurons": dict(self.neurons)}


def make_plan(network: IntegerNetwork, forced: Mapping[str, str] | str = AUTO) -> Plan:
    """
    Return how to compute `network`.

    `forced` is a kernel for all groups of synapses that it can compute, or a kernel for each, by name.
    Raises `ValueError` for a group that is to be computed by a kernel that cannot.
    """
    layouts = {
        item.name: layout_of(item.shape, network.into(item.name)) for item in network.populations
    }
    ranges = _Ranges(network)
    before = {group.name: ranges.before(group) for group in network.synapses}
    groups: dict[str, GroupKernel] = {}
    for group in network.synapses:
        possible = _possible(network, group, layouts, before[group.name])
        wanted = forced if isinstance(forced, str) else forced[group.name]
        chosen = next((kernel for kernel in possible if kernel == wanted), possible[0])
        if not isinstance(forced, str) and chosen != wanted:
            raise ValueError(f"'{group.name}' cannot be computed by the kernel '{wanted}'")
        groups[group.name] = chosen
    arriving = {
        item.name: ranges.arriving(item)
        for item in network.populations
        if not isinstance(item, IntegerInput)
    }
    neurons: dict[str, NeuronKernel] = {
        item.name: "int32" if _fits_int32(item, arriving[item.name]) else "int64"
        for item in network.neurons
    }
    sent = {name: max(abs(low), abs(high)) for name, (low, high) in ranges.sent.items()}
    return Plan(groups, neurons, layouts, before, arriving, sent)


class _Ranges:
    """
    What can be proven about the sums of `network` from its weights alone, in Python's integers.

    `sent` is the smallest and largest value of each population. A relay's is that of its sums, whatever
    it declares; relays that feed each other in a cycle may grow without end.
    """

    def __init__(self, network: IntegerNetwork) -> None:
        self.network = network
        self.by_sign = {group.name: sums_by_sign(group.weight) for group in network.synapses}
        self.sent: dict[str, tuple[int, int]] = {}
        for item in network.populations:
            if isinstance(item, IntegerInput):
                self.sent[item.name] = (item.minimum, item.maximum)
            elif isinstance(item, IntegerNeurons):
                self.sent[item.name] = (0, item.most)
        for item in network.populations:
            if isinstance(item, IntegerRelay):
                low, high = self._arriving(item)
                self.sent[item.name] = (min(0, low), max(0, high))

    def before(self, group: IntegerSynapses) -> int:
        """Return the largest magnitude of a sum of `group` before its shift."""
        low, high = self._sums(group)
        return max(-int(low.min(initial=0)), int(high.max(initial=0)))

    def arriving(self, item: IntegerRelay | IntegerNeurons) -> int:
        """Return the largest magnitude of what arrives at `item` in a step, pulses included."""
        low, high = self._arriving(item)
        return max(-low, high)

    def _arriving(self, item: IntegerRelay | IntegerNeurons) -> tuple[int, int]:
        # Python's integers cannot wrap.
        pulse = item.pulse if isinstance(item, IntegerNeurons) else np.zeros((), np.int64)
        pulses = np.broadcast_to(pulse, item.shape).reshape(-1).astype(object)
        low, high = np.minimum(pulses, 0), np.maximum(pulses, 0)
        for group in self.network.into(item.name):
            least, most = self._sums(group)
            if group.exponent >= 0:
                least, most = least * 2**group.exponent, most * 2**group.exponent
            else:
                # Each delay's sum is rounded by itself, by less than 1.
                roundings = np.unique(group.delay).size
                least = least // 2**-group.exponent - roundings
                most = most // 2**-group.exponent + roundings
            repeats = len(low) // len(least)
            low = low + np.repeat(least, repeats)
            high = high + np.repeat(most, repeats)
        return int(low.min(initial=0)), int(high.max(initial=0))

    def _sums(self, group: IntegerSynapses) -> tuple[Any, Any]:
        """Return the smallest and the largest partial sum, by row of weights."""
        negative, positive = (sums.astype(object) for sums in self.by_sign[group.name])
        least, most = self.sent.get(group.source, (-WITHOUT_END, WITHOUT_END))
        low = positive * min(least, 0) + negative * max(most, 0)
        high = positive * max(most, 0) + negative * min(least, 0)
        return low, high


def _possible(
    network: IntegerNetwork, group: IntegerSynapses, layouts: Mapping[str, Layout], before: int
) -> list[GroupKernel]:
    """Return the kernels that compute `group` exactly, the quickest first."""
    source, target = layouts[group.source], layouts[group.target]
    suited = suits(group, network.views(group), source, target)
    together = np.unique(group.delay).size == 1
    if not suited or not together or before >= EXACT_IN_FLOAT64:
        return ["definition"]
    left = max(group.exponent, 0)
    narrow = largest_of(group.weight) << left <= NARROW_MAXIMUM
    if not gathers(group) or not narrow or before << left > INT32_MAXIMUM:
        return ["scatter", "definition"]
    gathering, scattering = costs(group, source, target)
    if gathering <= scattering:
        return ["gather", "scatter", "definition"]
    return ["scatter", "gather", "definition"]


def costs(group: IntegerSynapses, source: Layout, target: Layout) -> tuple[float, float]:
    """
    Return what gathering and scattering of one sample and step are expected to take, in nanoseconds.

    The factors come from `benchmarks/kernels.py`.
    """
    spikes = ASSUMED_RATE * source.size
    if group.geometry is None:
        outputs, lines, runs = target.size, 1.0, 1.0
        transmitted = spikes * target.size
    else:
        kernel_h, kernel_w = group.weight.shape[2:]
        stride_h, stride_w = group.geometry.stride
        outputs, lines, runs = len(group.weight), kernel_h, kernel_h / stride_h
        own = outputs / group.geometry.groups
        transmitted = spikes * own * kernel_h * kernel_w / (stride_h * stride_w)
    blocks = -(-outputs // WIDEST_BLOCK)
    gathering = target.pixels * lines * blocks * LINE + transmitted * GATHERED
    return gathering, spikes * runs * RUN + transmitted * SCATTERED


def _fits_int32(neurons: IntegerNeurons, arriving: int) -> bool:
    """Return whether `kernels.fire` computes `neurons` exactly."""
    floored = neurons.floor > LOIHI2.no_floor
    return bool(
        neurons.arithmetic == LOIHI2
        and (neurons.du == LOIHI2.memoryless).all()
        and neurons.most == 1
        and neurons.refractory == 0
        and arriving <= CURRENT_MAXIMUM
        and largest_of(neurons.bias) + largest_of(neurons.start) <= STATE_SAFE
        and largest_of(neurons.subtracts) <= STATE_SAFE
        and largest_of(neurons.threshold) <= STATE_SAFE >> LOIHI2.fraction_bits
        and ((neurons.dv >= 0) & (neurons.dv <= LOIHI2.decay_one)).all()
        and floored.all() == floored.any()
    )
