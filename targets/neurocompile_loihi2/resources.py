"""
What a program takes of Loihi 2: cores, synapse memory, axons; and how many chips.

Neurons, synapses, axons and fan-out are counted from what the lowering makes: relays, copies and parts
included. Cores and memory are estimates. Intel's compiler for the chip is not public, so they follow
what its printed tables show (outputs stored in lava-dl's notebooks `netx/mnist`, `netx/oxford` and
`netx/pilotnet_snn`); each limit below names its source. The formulas, inferred from those tables:

    words        of a source neuron with n synapses in a core: ceil(((bits + 12) n + h) / 64); the tables
                 leave h between 1 and 24, and the largest is taken
    dense        as many neurons in a core as the words of all their sources leave room for: a lower
                 bound of cores (784-128-64-10 took exactly that; 2560-100 took 12 for a bound of 6)
    convolution  kernels are shared: ceil((bits c + h) / 64) words for each input channel and tap, with c
                 output channels in the core. The image is cut along x, in pieces of p columns, the
                 largest power of two with p H c < 4096; where H C or the kernel is too large, the
                 channels are cut as well

Convolutions are taken as Lava's Conv, which a chip would get, unless delays need them written out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurocompile.integer import (
    Integer,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerSynapses,
    Shape,
)
from neurocompile.resources import (
    ChipLimit,
    Figure,
    LayerResources,
    Resources,
    counts_of,
    fan_in,
    fan_out,
    kind_of,
    totals_of,
)
from neurocompile_loihi2.lower import needs_microcode, parts_of
from neurocompile_loihi2.route import ABSENT, LONGEST_DELAY, Leg, Relay, route

if TYPE_CHECKING:
    from neurocompile.program import Program

PRINTED = "tables of Intel's compiler in lava-dl's tutorials"
BRIEF = "Intel's technology brief on Loihi 2 (2021), as quoted by others"
LOIHI_1 = "nengo-loihi's constants, for comparison"

LIMITS: Mapping[str, ChipLimit] = {
    "neurons_per_core": ChipLimit(4096, "published", f"{PRINTED}: 64 neurons are 1.56 % of a core"),
    "parts_per_core": ChipLimit(8, "published", f"{PRINTED}: a neuron group is 12.5 % of a core"),
    "axons_per_core": ChipLimit(16000, "published", f"{PRINTED}: 784 axons are 4.90 % of a core"),
    "words_per_core": ChipLimit(
        16000, "published", f"{PRINTED} of 2024; 12000 in those of 2022 and 2023"
    ),
    "cores_per_chip": ChipLimit(128, "published", f"{BRIEF}; papers say 120 to 128 are usable"),
    "neurons_per_chip": ChipLimit(1 << 20, "published", BRIEF),
    "delay_of_a_connection": ChipLimit(
        LONGEST_DELAY,
        "published",
        "6 bits; lava-dl's netx takes up to 62, longer waits take relays",
    ),
    "axons_per_core_of_loihi_1": ChipLimit(4096, "published", LOIHI_1),
}

WORD_BITS = 64  # inferred: 16000 words of 64 bits are most of a core's 192 KB
SYNAPSE_BITS = 12  # besides the weight's: inferred
HEADER_BITS = 24  # inferred: 1 to 24 fit the tables
WEIGHT_BITS = 8

NEURONS, PARTS, AXONS, WORDS = "neurons", "different neurons", "input axons", "synapse memory"
REMEDIES = {
    NEURONS: "fewer channels, or a smaller image",
    PARTS: "fewer different leaks and thresholds",
    AXONS: "fewer neurons that feed it",
    WORDS: "fewer weights, or fewer bits of them with --weight-bits",
}


@dataclass(frozen=True)
class Fan:
    """Synapses into a population that are stored one by one, from `axons` source neurons."""

    axons: int
    synapses: int
    bits: int

    def words(self, share: float) -> tuple[int, int]:
        """Return the axons and words in a core that has `share` of the population's neurons."""
        if not self.axons:
            return 0, 0
        each = self.synapses * share / self.axons
        axons = self.axons if each >= 1 else math.ceil(self.axons * each)
        return axons, axons * synapse_words(max(1, math.ceil(each)), self.bits)


@dataclass(frozen=True)
class Kernel:
    """A convolution's kernel: (out channels, in channels / groups, h, w), in so many groups and bits."""

    shape: Shape
    groups: int
    bits: int

    def words(self, channels: int) -> int:
        """Return the words in a core that has `channels` of the output channels."""
        of_group = self.shape[0] // self.groups
        groups = math.ceil(channels / of_group)
        rows = groups * math.prod(self.shape[1:])
        return rows * math.ceil((self.bits * min(channels, of_group) + HEADER_BITS) / WORD_BITS)


@dataclass(frozen=True)
class Placed:
    """How a population lies on cores: how many, words and axons of a full one, and what decides."""

    cores: int
    words: int
    axons: int
    tightest: str
    fits: bool = True


def resources(program: Program) -> Resources:
    """Return what `program` takes of Loihi 2."""
    network = program.network
    routes = route(network, program.schedule, program.options["balance"])
    layers: list[LayerResources] = []
    images: dict[str, Shape] = {}
    for population in network.populations:
        if isinstance(population, IntegerInput):
            continue
        name, kind = population.name, kind_of(population)
        parts = _parts(program, population) if isinstance(population, IntegerNeurons) else 1
        legs = [leg for leg in routes.legs if _group(network, leg).target == name]
        fans, kernels = _incoming(network, legs)
        fans += [_from_host(network, group) for group in network.into(name) if group.on_host]
        size = math.prod(population.shape)
        image = _image(network, legs, population.shape) if kernels else ()
        placed = place(size, image, fans, kernels, parts=parts)
        figures = counts_of(network, name)
        layers.append(_layer(name, kind, figures, placed, parts))
        images[name] = image
    layers += _relays(network, routes.relays)
    totals = totals_of(tuple(layers))
    placeable = [layer for layer in layers if layer.fits]
    cores = sum(layer.figures["cores"].value for layer in placeable)
    chips = max(
        1,
        math.ceil(cores / LIMITS["cores_per_chip"].value),
        math.ceil(totals["neurons"].value / LIMITS["neurons_per_chip"].value),
    )
    words = sum(layer.figures["words"].value for layer in placeable)
    estimates = {"cores": cores, "chips": chips, "words": words}
    totals |= {name: Figure(value, "estimated") for name, value in estimates.items()}
    notes = list(_notes(layers, images))
    if chips > 1:
        largest = max(placeable, key=lambda layer: layer.figures["cores"].value)
        notes.append(
            f"one chip has {LIMITS['cores_per_chip'].value} cores; '{largest.name}' takes the most, "
            f"{largest.figures['cores'].value}, for its {largest.tightest}: {largest.remedy}"
        )
    return Resources(tuple(layers), totals, LIMITS, tuple(notes))


def synapse_words(synapses: int, bits: int = WEIGHT_BITS) -> int:
    """Return the words of synapse memory for one axon with so many synapses in a core."""
    return math.ceil(((bits + SYNAPSE_BITS) * synapses + HEADER_BITS) / WORD_BITS)


def columns_of_chunk(height: int, width: int, channels: int) -> int:
    """Return how many columns of an image a core gets; 0 if not even one fits."""
    most = LIMITS["neurons_per_core"].value
    columns = 1
    while 2 * columns <= width and 2 * columns * height * channels < most:
        columns *= 2
    return columns if columns * height * channels < most else 0


def place(
    neurons: int, image: Shape, fans: list[Fan], kernels: list[Kernel], *, parts: int = 1
) -> Placed:
    """
    Return how a population of `neurons` lies on cores; `image` (C, H, W) is that of its `kernels`.

    `parts` is the number of different sets of parameters, each a neuron group.
    """
    placed = _cut_image(image, fans, kernels) if kernels else _cut_rows(neurons, fans)
    of_parts = math.ceil(parts / LIMITS["parts_per_core"].value)
    if of_parts > placed.cores:
        return Placed(of_parts, placed.words, placed.axons, PARTS, placed.fits)
    return placed


def shares_of_core(neurons: int, axons: int, words: int) -> dict[str, float]:
    """Return the share of a core's limits that these take, by limit; more than 1 does not fit."""
    return {
        NEURONS: neurons / LIMITS["neurons_per_core"].value,
        AXONS: axons / LIMITS["axons_per_core"].value,
        WORDS: words / LIMITS["words_per_core"].value,
    }


def _largest(shares: Mapping[str, float]) -> str:
    return max(shares, key=lambda limit: shares[limit])


def _cut_rows(neurons: int, fans: list[Fan]) -> Placed:
    """Put as many neurons into a core as fit, one after the other."""

    def needs(count: int) -> dict[str, float]:
        several = [fan.words(count / neurons) for fan in fans]
        axons, words = (sum(values) for values in zip(*several, strict=True)) if several else (0, 0)
        return shares_of_core(count, axons, words)

    most, too_many = 0, neurons + 1
    while too_many - most > 1:  # needs only grow
        middle = (most + too_many) // 2
        if max(needs(middle).values()) <= 1:
            most = middle
        else:
            too_many = middle
    per_core = max(1, most)
    several = [fan.words(per_core / neurons) for fan in fans]
    beyond = needs(min(per_core + 1, neurons))
    return Placed(
        math.ceil(neurons / per_core),
        sum(words for _, words in several),
        sum(axons for axons, _ in several),
        _largest(beyond),
        fits=most > 0,
    )


def _cut_image(image: Shape, fans: list[Fan], kernels: list[Kernel]) -> Placed:
    """
    Cut an image along x and, where that is not enough, its channels.

    What decides is the limit that larger pieces would miss by most: columns are cut for neurons alone. Of
    an image in one core it is the limit of which that takes most.
    """
    channels, height, width = image
    words = axons = 0
    tightest = ""
    for slices in range(1, channels + 1):
        own = math.ceil(channels / slices)
        columns = columns_of_chunk(height, width, own)
        several = [fan.words(own * max(1, columns) / (channels * width)) for fan in fans]
        words = sum(kernel.words(own) for kernel in kernels)
        words += sum(of_fan for _, of_fan in several)
        axons = sum(of_fan for of_fan, _ in several) + 2 * len(kernels)  # printed: 1 or 2
        shares = shares_of_core(own * height * max(1, columns), axons, words)
        if columns and max(shares[WORDS], shares[AXONS]) <= 1:
            if not tightest:
                tightest = NEURONS if columns < width else _largest(shares)
            cores = math.ceil(channels / own) * math.ceil(width / columns)
            return Placed(cores, words, axons, tightest)
        tightest = _largest(shares)
    return Placed(channels * width, words, axons, tightest, fits=False)


def weight_bits(weight: Integer) -> int:
    """Return the bits of the widest weight, in multiples of what all are multiples of."""
    used = np.abs(weight[weight != 0])
    if not used.size:
        return 1
    together = int(np.bitwise_or.reduce(used.ravel()))
    unit = together & -together
    low, high = int(weight.min()) // unit, int(weight.max()) // unit
    if low >= 0 or high <= 0:
        return min(WEIGHT_BITS, max(high, -low).bit_length())
    return min(WEIGHT_BITS, max(high.bit_length(), (-low - 1).bit_length()) + 1)


def _group(network: IntegerNetwork, leg: Leg) -> IntegerSynapses:
    return next(group for group in network.synapses if group.name == leg.group)


def _incoming(network: IntegerNetwork, legs: Iterable[Leg]) -> tuple[list[Fan], list[Kernel]]:
    """Return what connections bring: synapses of their own, and kernels."""
    fans: list[Fan] = []
    kernels: list[Kernel] = []
    for leg in legs:
        group = _group(network, leg)
        bits = weight_bits(group.weight)
        if group.geometry is not None and not leg.longest and not leg.delay.ndim:
            kernels.append(Kernel(group.weight.shape, group.geometry.groups, bits))
            continue
        if group.geometry is None and leg.delay.shape == group.weight.shape:  # one per synapse
            there = (group.weight != 0) & (leg.delay != ABSENT)
            sent = np.count_nonzero(there, axis=0)
        else:
            sent = fan_out(network, group)
            if leg.delay.ndim:
                sent = np.where(leg.delay.ravel() != ABSENT, sent, 0)
        fans.append(Fan(int(np.count_nonzero(sent)), int(sent.sum()), bits))
    return fans, kernels


def _from_host(network: IntegerNetwork, group: IntegerSynapses) -> Fan:
    """Return how the host's sums arrive: one graded axon for each neuron."""
    heard = int(np.count_nonzero(fan_in(network, group)))
    return Fan(heard, heard, WEIGHT_BITS)


def _image(network: IntegerNetwork, legs: Iterable[Leg], shape: Shape) -> Shape:
    for leg in legs:
        group = _group(network, leg)
        if group.geometry is not None:
            return network.views(group)[1]
    return shape


def _parts(program: Program, neurons: IntegerNeurons) -> int:
    """Return how many sets of equal neurons the lowering makes of a population."""
    whole = program.options["parameters"] == "arrays" or needs_microcode(program, neurons)
    return 1 if whole else len(parts_of(neurons)[0])


def _layer(
    name: str, kind: str, counts: Mapping[str, Figure], placed: Placed, parts: int
) -> LayerResources:
    figures = {
        **counts,
        "parts": Figure(parts, "exact"),
        "axons_per_core": Figure(placed.axons, "estimated"),
        "words_per_core": Figure(placed.words, "estimated"),
    }
    if placed.fits:
        figures["words"] = Figure(placed.words * placed.cores, "estimated")
        figures["cores"] = Figure(placed.cores, "estimated")
    remedy = REMEDIES[placed.tightest]
    return LayerResources(name, kind, figures, placed.tightest, remedy, placed.fits)


def _relays(network: IntegerNetwork, relays: Iterable[Relay]) -> list[LayerResources]:
    """Return what relay neurons take; those of one source are one row."""
    waits: dict[str, int] = {}
    for relay in relays:
        waits[relay.source] = waits.get(relay.source, 0) + 1
    layers = []
    for source, count in waits.items():
        size = math.prod(network[source].shape)
        placed = place(size, (), [Fan(size, size, WEIGHT_BITS)], [])
        counts = {
            "neurons": count * size,
            "synapses": count * size,
            "weights": count * size,
            "axons": count * size,
            "fan_in": 1,
            "fan_out": 1,
        }
        figures = {key: Figure(value, "exact") for key, value in counts.items()}
        alone = _layer("", "", figures, placed, count)
        more = {
            key: Figure(count * alone.figures[key].value, "estimated") for key in ("words", "cores")
        }
        layers.append(
            LayerResources(
                f"{source} (relays)",
                "relays",
                {**alone.figures, **more},
                placed.tightest,
                "shorter delays, or -O balance=delay",
            )
        )
    return layers


def _notes(layers: Iterable[LayerResources], images: Mapping[str, Shape]) -> Iterable[str]:
    """Yield what is remarkable about the layers; `images` are those of convolutions, by layer."""
    most, older = LIMITS["neurons_per_core"].value, LIMITS["axons_per_core_of_loihi_1"].value
    wide: list[str] = []
    many: list[str] = []
    for layer in layers:
        image, heard = images.get(layer.name, ()), layer.figures["fan_in"].value
        if not layer.fits:
            yield (
                f"'{layer.name}' fits no core as it is: a single neuron or channel needs more "
                f"{layer.tightest} than a core has: {layer.remedy}"
            )
        if image and image[0] * image[1] >= most:
            wide.append(f"'{layer.name}' {image[0] * image[1]}")
        if heard > older:
            shared = "by a shared kernel" if image else ""
            axons = f"through {layer.figures['axons_per_core'].value} axons of a core"
            many.append(f"'{layer.name}' {heard} {shared or axons}")
    if wide:
        yield (
            f"a core takes less than {most} neurons of an image, which is cut along x; one column, "
            f"H times C, has more in {', '.join(wide)}: the channels are cut as well"
        )
    if many:
        yield (
            f"most synapses of a neuron: {', '.join(many)}; a core of Loihi 1 has {older} input axons, "
            f"one of Loihi 2 {LIMITS['axons_per_core'].value}"
        )
