"""What the kernels of the compiled engine read of a network: weights, runs and parameters, laid out once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.integer import (
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerSynapses,
    largest_of,
)
from neurocompile_fixedpoint import kernels
from neurocompile_fixedpoint.layout import (
    NARROW_MAXIMUM,
    Layout,
    Lines,
    Segments,
    lines_of,
    segments_of,
)
from neurocompile_fixedpoint.plan import (
    INT32_MAXIMUM,
    GroupKernel,
    NeuronKernel,
    Plan,
)

SHORTEST_PERIOD = 512  # neurons whose parameters are written out, so that loops are long
NOTHING_BELOW = -(1 << 62)


@dataclass(frozen=True)
class Push:
    """A group that adds events to the sums of its target, or to sums of its own that are shifted later."""

    group: IntegerSynapses
    delay: int
    kernel: GroupKernel
    arguments: tuple[Any, ...]
    graded: bool
    own_type: type | None  # of its own sums, if they are shifted to the right


@dataclass(frozen=True)
class Parameters:
    """What a kernel reads of a population, each written out over the same period."""

    kernel: NeuronKernel
    leak: NDArray[Any]  # k / 4096 of the membrane, or k for int64
    keeps: NDArray[Any]  # k of the current
    leaks: int
    bias: NDArray[Any]
    first_bias: NDArray[Any]  # with what starts a sample
    threshold: NDArray[Any]
    lowest: NDArray[Any]
    amount: NDArray[Any]
    floored: NDArray[np.bool_]
    pulse: Integer  # in the engine's order, or nothing


class Tables:
    """A network as the kernels of `plan` read it."""

    def __init__(self, network: IntegerNetwork, plan: Plan) -> None:
        self.network, self.plan = network, plan
        self.pushes = {
            item.name: [
                _push(network, group, plan)
                for group in network.out_of(item.name)
                if plan.groups[group.name] != "definition"
            ]
            for item in network.populations
        }
        self.parameters = {
            item.name: _parameters(item, plan.neurons[item.name], plan.layouts[item.name])
            for item in network.neurons
        }

    def wide_parameters(self, neurons: IntegerNeurons) -> Parameters:
        """Return what the kernel for int64 reads, whatever the plan says: it tells more."""
        return _parameters(neurons, "int64", self.plan.layouts[neurons.name])

    @property
    def weights(self) -> int:
        """How many weights the kernels fetch in a step, if they fetch all."""
        return sum(push.arguments[-1].size for pushes in self.pushes.values() for push in pushes)

    @property
    def bytes_per_sample(self) -> int:
        """What one sample's sums, membranes, spikes and events take."""
        waiting = sum(
            (1 + push.delay) * self.plan.layouts[push.group.target].size
            for pushes in self.pushes.values()
            for push in pushes
        )
        return 4 * (3 * sum(layout.size for layout in self.plan.layouts.values()) + waiting)


def _push(network: IntegerNetwork, group: IntegerSynapses, plan: Plan) -> Push:
    source, target = plan.layouts[group.source], plan.layouts[group.target]
    own_type = None
    if group.exponent < 0:
        rounded = plan.before[group.name] + (1 << -group.exponent)
        own_type = np.int32 if rounded <= INT32_MAXIMUM else np.int64
    sender = network[group.source]
    graded = plan.sent[group.source] != 1 or (
        isinstance(sender, IntegerInput) and sender.minimum < 0
    )
    weight = _narrow(group.weight << group.exponent if group.exponent > 0 else group.weight)
    kernel = plan.groups[group.name]
    if kernel == "gather":
        lines = lines_of(weight, group.geometry, source, target, kernels.WIDTHS)
        graded = graded or lines.reach > NARROW_MAXIMUM
        arguments = gather_arguments(lines)
    else:
        arguments = scatter_arguments(segments_of(weight, group.geometry, source, target))
    delay = int(group.delay.max(initial=0))
    return Push(group, delay, kernel, arguments, graded, own_type)


def gather_arguments(lines: Lines) -> tuple[Any, ...]:
    """Return what `kernels.gather` reads of a group, from `first` to `weight`."""
    weight = np.array(lines.weight, order="C")
    return lines.first, lines.begin, lines.end, lines.base, lines.row, lines.outputs, weight


def scatter_arguments(segments: Segments) -> tuple[Any, ...]:
    """Return what `kernels.scatter` reads of a group, from `channels` to `weight`."""
    runs = segments.first, segments.start, segments.length, segments.row, segments.offset
    return segments.channels, *runs, np.array(segments.weight, order="C")


def _narrow(weight: Integer) -> NDArray[Any]:
    """Return `weight` in the narrowest type of the kernels: fewer bytes are fetched for each spike."""
    largest = largest_of(weight)
    dtype = np.int16 if largest < 1 << 15 else np.int32 if largest <= INT32_MAXIMUM else np.int64
    return weight.astype(dtype)


def _parameters(neurons: IntegerNeurons, kernel: NeuronKernel, layout: Layout) -> Parameters:
    def inside(values: NDArray[Any]) -> NDArray[Any]:
        return layout.inside(np.broadcast_to(values, neurons.shape).reshape(-1))

    narrow: Any = np.int32 if kernel == "int32" else np.int64
    arithmetic = neurons.arithmetic
    threshold = neurons.threshold << arithmetic.fraction_bits
    keeps_v = arithmetic.decay_one - neurons.dv
    floored = neurons.floor > arithmetic.no_floor
    # A membrane that wraps has nothing to stop at but a floor.
    saturates = arithmetic.membrane_overflow == "saturate"
    lowest = np.maximum(neurons.floor, arithmetic.no_floor)
    if not saturates:
        lowest = np.where(floored, neurons.floor, NOTHING_BELOW)
    if kernel == "int32":
        threshold = threshold - int(neurons.inclusive)  # then it is the highest that stays silent
    full = {
        "leak": inside(keeps_v / arithmetic.decay_one if kernel == "int32" else keeps_v),
        "keeps": inside(arithmetic.decay_one - (neurons.du + 1)),
        "bias": inside(neurons.bias).astype(narrow),
        "first_bias": inside(neurons.bias + neurons.start).astype(narrow),
        "threshold": inside(threshold).astype(narrow),
        "lowest": inside(lowest).astype(narrow),
        "amount": inside(neurons.subtracts).astype(narrow),
        "floored": inside(floored),
    }
    period = _period(list(full.values()), layout)
    if (neurons.dv == arithmetic.decay_one // 2).all():
        leaks = kernels.HALVES
    else:
        leaks = kernels.LEAKS if neurons.dv.any() else kernels.KEEPS
    pulse = inside(neurons.pulse) if neurons.pulse.any() else np.zeros(0, np.int64)
    # Copies: a kernel is compiled anew for arrays that are read only.
    written = {name: np.array(values[:period]) for name, values in full.items()}
    return Parameters(kernel=kernel, leaks=leaks, pulse=pulse, **written)


def _period(parameters: list[NDArray[Any]], layout: Layout) -> int:
    """Return after how many neurons all parameters repeat, at least `SHORTEST_PERIOD` if possible."""
    for period in (1, layout.channels):
        if all((values.reshape(-1, period) == values[:period]).all() for values in parameters):
            return min(layout.size, period * -(-SHORTEST_PERIOD // period))
    return layout.size
