"""
The integers of one population, and of the synapses into it, at the largest scale that is proven.

What is wished (`recipe.Wish`) is a scale for each channel, or one for all; that at which the host's weights
fill 16 bits is the largest. It shrinks until the biases fit, and then, channel by channel, until the range
proof holds for the rounded integers. Thresholds are exact: V_int = floor(V S), and S becomes V_int / V.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.blocks import row_blocks
from neurocompile.errors import Problem, RangeError, raise_all
from neurocompile.integer import (
    Geometry,
    Integer,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerSynapses,
    Reset,
    Shows,
)
from neurocompile.ir import Conv2d
from neurocompile.limits import Limits
from neurocompile.linear import slide_of
from neurocompile.passes.prove_ranges import Reach, excess, most_spikes, reach_of
from neurocompile.populations import ReadoutPopulation, SpikingPopulation, SynapseGroup
from neurocompile.quantisation.recipe import Wish
from neurocompile.quantisation.scales import by_channel, by_row, magnitude, payload_scale, spread

Float = NDArray[np.float64]

HOST_WEIGHT_BITS = 16
HOST_WEIGHT_MAXIMUM = (1 << (HOST_WEIGHT_BITS - 1)) - 1
HOST_FRACTION_BITS = 40  # smaller weights than this are nothing beside a threshold of 17 bits
SCALE_ATTEMPTS = 64
FAR_BEYOND = 1 << 40
GRID_TOLERANCE = 1e-6  # of a weight unit, of sources that compute in integers


@dataclass(frozen=True)
class Fit:
    """
    The integers of one population, and of the synapses into it.

    `scale` has one number for each channel, or one for all, and so do `lowering`, by how much the range proof
    shrank it, `cramping`, by how much the biases before it, and `rounded_at`, the scale at which weights on
    the chip were rounded. `weight_bits` are those it was fitted to.
    """

    neurons: IntegerNeurons
    groups: tuple[IntegerSynapses, ...]
    scale: Float
    lowering: Float
    cramping: Float
    rounded_at: Float
    weight_bits: int

    @property
    def lowered(self) -> float:
        """By how much the range proof shrank the scale where it shrank it most."""
        return float(self.lowering.max())

    @property
    def cramped(self) -> float:
        """By how much biases shrank the scale where they shrank it most."""
        return float(self.cramping.max())

    @property
    def channels_lowered(self) -> int:
        """Of how many channels the range proof shrank the scale."""
        return int((self.lowering > 1).sum())


@dataclass(frozen=True)
class Fitter:
    """
    Makes integers of populations; what is alike for all populations of a network.

    `given_units` are the weight units of those whose integers the source chose; `in_integers` says that it
    computes in integers itself, so that nothing may be rounded; groups in `on_host` are computed by the host.
    """

    limits: Limits
    steps: int
    saturating: bool = False
    weight_unit: float | Mapping[str, float] | None = None
    on_host: frozenset[str] = frozenset()

    def fit(
        self,
        population: SpikingPopulation | ReadoutPopulation,
        groups: tuple[SynapseGroup, ...],
        sources: Mapping[str, IntegerPopulation],
        wish: Wish,
        *,
        silent_steps: int = 0,
    ) -> Fit:
        """
        Return the integers at the largest scale, up to the wished one, whose range proof holds.

        `sources` are the populations that feed it, `silent_steps` as `prove_ranges.bound_of` has them.
        Raises `RangeError` where no scale is small enough.
        """
        if wish.bias is not None:
            population = replace(population, bias=wish.bias)
        allowed, channels = wish.scale, len(wish.scale)
        unit = self.given_unit(population.name)
        if unit is None and not wish.final:
            allowed = np.minimum(allowed, self._scale_of_host(groups, sources, channels))
        wanted = np.minimum(allowed, self._scale_of_biases(population, channels))
        if unit is not None:
            allowed = wanted = np.array([1 / unit])
            channels = 1
        elif wish.final:
            wanted = allowed
        scale = wanted
        attempts = 0
        while True:
            attempts += 1
            asked = scale
            neurons, scale = self._neurons(population, asked, exact=wish.final or unit is not None)
            integers = tuple(self._synapses(group, scale, sources, wish) for group in groups)
            probe = _stand_alone(neurons, integers, sources)
            if isinstance(population, SpikingPopulation) and population.most_spikes != 1:
                possible = most_spikes(probe, neurons, self.limits, steps=self.steps)
                neurons = replace(neurons, most=min(possible, population.most_spikes or possible))
                probe = _stand_alone(neurons, integers, sources)
            reach = reach_of(
                probe, neurons, self.limits, steps=self.steps, silent_steps=silent_steps
            )
            if self.saturating and not neurons.readout and not reach.holds:
                saturated = reach.saturated()
                if (saturated.membrane < reach.membrane).any():
                    neurons, reach = replace(neurons, saturates=True), saturated
            if unit is not None:
                trained = isinstance(self.weight_unit, Mapping)
                _refuse_rounding(
                    population, groups, neurons, integers, sources, self.limits, trained=trained
                )
                raise_all(RangeError, self._excess(neurons, integers, sources, reach, silent_steps))
            if reach.holds:
                _refuse_vanished(
                    population, groups, integers, float((wanted / asked).max()), self.steps
                )
                return Fit(
                    neurons,
                    integers,
                    scale,
                    lowering=_more(wanted / asked, wish.lowering),
                    cramping=_more(allowed / wanted, wish.cramping),
                    rounded_at=scale if wish.rounded_at is None else wish.rounded_at,
                    weight_bits=wish.weight_bits,
                )
            if wish.final or attempts == SCALE_ATTEMPTS:
                raise RangeError(*self._excess(neurons, integers, sources, reach, silent_steps))
            over = reach.over.reshape(channels, -1).max(1)
            scale = np.where(over > 1, scale / np.maximum(over, 1.001), scale)
            del integers, probe, reach  # as large as the next ones

    def _excess(
        self,
        neurons: IntegerNeurons,
        groups: tuple[IntegerSynapses, ...],
        sources: Mapping[str, IntegerPopulation],
        reach: Reach,
        silent_steps: int,
    ) -> Iterable[Problem]:
        """Return what is beyond its limits, and what would pass."""
        return excess(
            _stand_alone(neurons, groups, sources),
            neurons,
            self.limits,
            reach,
            steps=self.steps,
            silent_steps=silent_steps,
        )

    def given_unit(self, name: str) -> float | None:
        """Return the weight unit that the source gives to a population, if it computes in integers."""
        if isinstance(self.weight_unit, Mapping):
            return self.weight_unit.get(name)
        return self.weight_unit

    def _scale_of_biases(
        self, population: SpikingPopulation | ReadoutPopulation, channels: int
    ) -> Float:
        """Return the largest scale at which every bias fits, for each channel."""
        largest = np.abs(by_channel(population.bias, population.shape, channels)).max(1)
        room: Float = np.full(channels, np.inf)
        np.divide(self.limits.bias_maximum, largest, out=room, where=largest > 0)
        return room

    def _scale_of_host(
        self,
        groups: Iterable[SynapseGroup],
        sources: Mapping[str, IntegerPopulation],
        channels: int,
    ) -> Float:
        """Return the largest scale at which every weight fits those of the host, for each channel."""
        room: Float = np.full(channels, np.inf)
        for group in groups:
            if group.name in self.on_host:
                rows = group.operator.weight.reshape(channels, -1)
                with np.errstate(over="ignore"):
                    top = np.array([magnitude(row) for row in rows]) / payload_scale(group, sources)
                limit = HOST_WEIGHT_MAXIMUM / np.where(top > 0, top, np.nan)
                room = np.fmin(room, np.maximum(limit, np.finfo(np.float64).tiny))
        return room

    def _neurons(
        self,
        population: SpikingPopulation | ReadoutPopulation,
        scale: Float,
        *,
        exact: bool,
    ) -> tuple[IntegerNeurons, Float]:
        """Return the neurons, without what may still shrink, and the scale at which thresholds are exact."""
        name = population.name
        threshold: NDArray[np.int64] = np.array(self.limits.threshold_maximum)
        dv: NDArray[np.int64] = np.array(0)
        start: NDArray[np.int64] = np.array(0)
        origin: NDArray[np.float64] = np.zeros(())
        shows: Shows = "input"
        reset: Reset = "zero"
        firing: dict[str, Any] = {}
        if isinstance(population, SpikingPopulation):
            threshold, scale, firing = self._firing(population, scale, exact=exact)
            units = spread(scale, population.shape)
            dv = self._leak(name, population.decay)
            start = _whole(population.start * units) << self.limits.fraction_bits
            shows, reset, origin = "spikes", population.reset, population.origin
        elif population.decay is not None:
            dv = self._leak(name, population.decay)
            shows = "membrane"
        units = spread(scale, population.shape)
        mantissa, exponent = self._bias(population.bias * units)
        neurons = IntegerNeurons(
            name,
            population.shape,
            du=self._current_leak(name, population.current_decay),
            dv=dv,
            threshold=threshold,
            bias_mantissa=mantissa,
            bias_exponent=exponent,
            scale=units,
            shows=shows,
            reset=reset,
            start=start,
            pulse=_whole(population.pulse * units),
            origin=origin,
            arithmetic=self.limits.arithmetic,
            **firing,
        )
        return neurons, scale

    def _firing(
        self, population: SpikingPopulation, scale: Float, *, exact: bool
    ) -> tuple[NDArray[np.int64], Float, dict[str, Any]]:
        """
        Return the integer thresholds, the scale at which the (largest) ones are exact, and the rest.

        Neurons that fire at their threshold get one that is lower by 1, if they are Lava's otherwise.
        """
        threshold, scale = self._threshold(population, scale, exact=exact)
        units = spread(scale, population.shape)
        at_threshold = population.comparison == ">="
        single = population.most_spikes == 1
        firing: dict[str, Any] = {"refractory": population.refractory, "most": 1 if single else 2}
        if population.reset == "subtract" and population.subtracts is not None:
            firing["subtracts"] = self._in_state_units(population.subtracts * units)
        if population.floor is not None:
            lowest = self.limits.arithmetic.no_floor
            firing["floor"] = np.maximum(self._in_state_units(population.floor * units), lowest)
        lowered = (
            at_threshold
            and single
            and population.reset == "zero"
            and population.floor is None
            and not population.refractory
            and self.given_unit(population.name) is None  # integers of the source are exact
            and bool((threshold > 0).all())
        )
        firing["inclusive"] = at_threshold and not lowered
        return threshold - lowered, scale, firing

    def _threshold(
        self, population: SpikingPopulation, scale: Float, *, exact: bool
    ) -> tuple[NDArray[np.int64], Float]:
        """
        Return the integer thresholds, and the scale at which the (largest) one of each channel is exact.

        With `exact` the scale stays as it is.
        """
        if not exact:
            by_channels = by_channel(population.threshold, population.shape, len(scale))
            positive = np.where(by_channels > 0, by_channels, np.inf).min(1)
            room = scale * positive
            if (room < 1).any():
                raise RangeError(
                    Problem(
                        population.name,
                        "needs a threshold of at least 1 weight unit",
                        f"its weights leave room for {room.min():.3g}"
                        + (f" in channel {int(room.argmin())}" if len(room) > 1 else ""),
                        "its weights are too large for its threshold",
                    )
                )
            largest = by_channels.max(1)
            whole = np.floor(scale * largest)
            scale = np.divide(whole, largest, out=scale.copy(), where=largest > 0)
        units = spread(scale, population.shape)
        return np.rint(population.threshold * units).astype(np.int64), scale

    def _leak(self, name: str, decay: NDArray[np.float64]) -> NDArray[np.int64]:
        dv = np.rint((1 - decay) * (1 << self.limits.decay_bits)).astype(np.int64)
        lost = (dv == 0) & (decay < 1)
        if lost.any():
            raise RangeError(
                Problem(
                    name,
                    f"needs a leak of at least 1/{2 << self.limits.decay_bits} a step",
                    f"it is {1 - float(decay[lost].max()):.3g}",
                    "use neurons without a leak, or a shorter time constant",
                )
            )
        return dv

    def _current_leak(self, name: str, decay: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return du; Lava's current keeps (4095 - du) / 4096 of itself."""
        du = np.rint((1 - decay) * (1 << self.limits.decay_bits)).astype(np.int64) - 1
        no_memory = (1 << self.limits.decay_bits) - 1  # u forgets all, as Lava adds 1
        lost = (du < 0) | ((du == no_memory) & (decay > 0))
        if lost.any():
            raise RangeError(
                Problem(
                    name,
                    f"needs a current that keeps 0, or 1/{2 << self.limits.decay_bits} to all but "
                    "that of itself each step",
                    f"it keeps {float(decay[lost].max()):.6g}",
                    "use another synaptic time constant",
                )
            )
        return du

    def _bias(self, bias: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
        """Return mantissas and the smallest common exponent for biases in weight units."""
        in_state_units = bias * self.limits.arithmetic.state_units
        for exponent in range(self.limits.bias_exponent_maximum + 1):
            mantissa = np.rint(in_state_units / (1 << exponent)).astype(np.int64)
            if np.abs(mantissa).max(initial=0) <= self.limits.bias_mantissa_maximum:
                break
        return mantissa, exponent

    def _in_state_units(self, values: Float) -> NDArray[np.int64]:
        return _whole(values * self.limits.arithmetic.state_units)

    def _synapses(
        self,
        group: SynapseGroup,
        scale: Float,
        sources: Mapping[str, IntegerPopulation],
        wish: Wish,
    ) -> IntegerSynapses:
        operator = group.operator
        real = operator.weight
        rows = by_row(scale / payload_scale(group, sources), len(real))
        factor = rows.reshape(-1, *[1] * (real.ndim - 1))
        integers = without_weights(group)
        if group.name in wish.weights:
            return replace(integers, weight=wish.weights[group.name])
        if group.name in self.on_host:
            room = HOST_WEIGHT_MAXIMUM / (magnitude(real * factor) or 1.0)
            # Weights that were rounded so once, the largest to all bits, must not lose one for an ulp.
            fraction_bits = math.floor(math.log2(room) + GRID_TOLERANCE)
            if fraction_bits < 0:
                raise RangeError(
                    Problem(
                        group.target,
                        f"needs weights on the host of at most {HOST_WEIGHT_MAXIMUM}",
                        f"those of '{group.name}' reach {HOST_WEIGHT_MAXIMUM / room:.6g}",
                    )
                )
            fraction_bits = min(fraction_bits, HOST_FRACTION_BITS)
            host = factor * 2.0**fraction_bits
            weight = _integers(real, lambda part, rows: np.rint(part * host[rows]))
            return replace(integers, weight=weight, exponent=-fraction_bits, on_host=True)
        if self.weight_unit is not None and not isinstance(self.weight_unit, Mapping):
            kept = _integers(real, lambda part, rows: np.rint(part * factor[rows]))
            return replace(integers, weight=kept)
        unit = self.limits.weight_unit(wish.weight_bits)
        highest = self.limits.largest_weight(wish.weight_bits)
        lowest = -highest - unit
        weight = _integers(
            real,
            lambda part, rows: np.clip(np.rint(part * factor[rows] / unit) * unit, lowest, highest),
        )
        return replace(integers, weight=weight)


def _more(shrunk: Float, before: Float | None) -> Float:
    """Return by how much scales were shrunk: now, or when the wish was first proven."""
    return shrunk if before is None else np.maximum(shrunk, before)


def _integers(values: Float, function: Callable[[Float, slice], Float]) -> Integer:
    """Return what `function` makes of some rows of `values`, which are whole numbers; read-only."""
    result: Integer = np.empty(values.shape, np.int64)
    for rows in row_blocks(values):
        result[rows] = np.clip(function(values[rows], rows), -FAR_BEYOND, FAR_BEYOND)
    result.flags.writeable = False
    return result


def _refuse_vanished(
    population: SpikingPopulation | ReadoutPopulation,
    groups: tuple[SynapseGroup, ...],
    integers: tuple[IntegerSynapses, ...],
    shrunk: float,
    steps: int,
) -> None:
    """Raise `RangeError` if synapses that are not zero all became zero."""
    lost = [
        real.name
        for real, integer in zip(groups, integers, strict=True)
        if real.operator.weight.any() and not integer.weight.any()
    ]
    if lost:
        raise RangeError(
            Problem(
                population.name,
                "needs weights that are not all rounded to zero",
                f"those of {', '.join(lost)} are, the range proof over {steps} steps having shrunk "
                f"them {shrunk:.3g} times"
                if shrunk > 1
                else f"those of {', '.join(lost)} are, beside the layer's bias, threshold or other weights",
                "export for fewer steps with --steps" if shrunk > 1 else "rescale the layer",
            )
        )


def _refuse_rounding(
    population: SpikingPopulation | ReadoutPopulation,
    groups: tuple[SynapseGroup, ...],
    neurons: IntegerNeurons,
    integers: tuple[IntegerSynapses, ...],
    inputs: Mapping[str, IntegerPopulation],
    limits: Limits,
    *,
    trained: bool,
) -> None:
    """
    Raise `RangeError` if a number of a source that computes in integers is none, after all.

    Biases of `trained` integers may be rounded: behind a padded image with an offset there are some that
    no layer has by itself.
    """
    unit = 1 << limits.decay_bits
    scale = float(neurons.scale)
    state_units = limits.arithmetic.state_units
    compared = [
        ("current leaks", (1 - population.current_decay) * unit - 1, neurons.du),
        *(
            (
                f"weights of '{real.name}'",
                real.operator.weight * (scale / payload_scale(real, inputs)),
                integer.weight,
            )
            for real, integer in zip(groups, integers, strict=True)
            if not integer.on_host
        ),
    ]
    if not trained:
        in_state_units = population.bias * scale * state_units
        compared.append(("biases", in_state_units, neurons.bias))
    if population.decay is not None:
        compared.append(("leaks", (1 - population.decay) * unit, neurons.dv))
    if isinstance(population, SpikingPopulation):
        lowered = population.comparison == ">=" and not neurons.inclusive
        compared.append(("thresholds", population.threshold * scale - lowered, neurons.threshold))
    problems = [
        Problem(
            population.name,
            f"needs {what} that are integers, as its source computes in them",
            f"they are off by up to {np.abs(real - kept).max():.3g}",
            "export with as many weight bits as it was trained for" if trained else "",
        )
        for what, real, kept in compared
        if np.abs(real - kept).max(initial=0) > GRID_TOLERANCE
    ]
    raise_all(RangeError, problems)


def _whole(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the nearest integers; what is far beyond every range stays beyond, without overflow."""
    return np.rint(np.clip(values, -FAR_BEYOND, FAR_BEYOND)).astype(np.int64)


def without_weights(group: SynapseGroup) -> IntegerSynapses:
    """Return all of `group` but its weights."""
    operator = group.operator
    slides = isinstance(operator, Conv2d)
    return IntegerSynapses(
        group.name,
        group.source,
        group.target,
        np.zeros(1, np.int64),
        Geometry(*slide_of(operator)) if isinstance(operator, Conv2d) else None,
        delay=group.delay,
        source_view=group.source_view if slides else (),
        target_view=group.target_view if slides else (),
    )


def _stand_alone(
    neurons: IntegerNeurons,
    groups: tuple[IntegerSynapses, ...],
    sources: Mapping[str, IntegerPopulation],
) -> IntegerNetwork:
    """Return just enough of a network to prove the ranges of one population."""
    others = [item for name, item in sources.items() if name != neurons.name]
    return IntegerNetwork((*others, neurons), groups, {neurons.name: neurons.name})
