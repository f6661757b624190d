"""What a user may ask of quantisation, and what is decided for one population."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import OptionError, Problem, raise_all
from neurocompile.integer import Integer
from neurocompile.limits import Limits

Method = Literal["auto", "max", "percentile", "mse", "power-of-two", "search"]
Scales = Literal["layer", "channel"]
Objective = Literal["spikes", "membrane"]
WeightRounding = Literal["nearest", "adaptive"]

FEWEST_BITS = 2


@dataclass(frozen=True)
class Recipe:
    """
    How real numbers become integers; the default needs no data.

    `weight_bits` are those of all layers but the ones that `bits` names. `method` chooses the scale of each
    layer, or with `scales` "channel" of each of its channels:

        auto            max from 6 bits up, mse below
        max             the largest weight takes the largest integer
        percentile      that share of the weights (`percentile`, in per cent) is not clipped
        mse             the mean square error of the weights is least
        power-of-two    as max, with a scale that is a power of two (before thresholds are made exact)
        search          real samples decide: least `objective` on each layer ("spikes" that differ, or
                        error of the "membrane")

    With `correct_biases` the mean error that rounding leaves in a layer's input is taken off its bias, with
    `rounding` "adaptive" weights are rounded up or down as data want it; both need samples, of which
    `samples` are used. `memory` (bytes of weights) lets layers have bits of their own, at most `weight_bits`,
    so that together they fit.

    Raises `OptionError` for a choice that there is not, and for numbers that are none.
    """

    weight_bits: int = 8
    bits: Mapping[str, int] = field(default_factory=dict)
    method: Method = "auto"
    scales: Scales = "layer"
    percentile: float = 99.9
    objective: Objective = "spikes"
    rounding: WeightRounding = "nearest"
    correct_biases: bool = False
    memory: int | None = None
    samples: int = 64

    def __post_init__(self) -> None:
        raise_all(OptionError, self._of_no_kind())

    @property
    def needs_samples(self) -> bool:
        """Whether real samples are needed."""
        return self.method == "search" or self.rounding == "adaptive" or self.correct_biases

    @property
    def uses_samples(self) -> bool:
        """Whether samples are used where there are any."""
        return self.needs_samples or self.memory is not None

    def bits_of(self, layer: str) -> int:
        """Return the weight bits of a population."""
        return self.bits.get(layer, self.weight_bits)

    def alone(self, layer: str) -> Recipe:
        """Return what this is for a network of one layer: without samples, with its bits."""
        return Recipe(
            self.bits_of(layer),
            method="max" if self.method == "search" else self.method,
            scales=self.scales,
            percentile=self.percentile,
        )

    def without_effect(self, given: Iterable[str], *, calibrated: bool) -> list[Problem]:
        """Return which of the `given` fields change nothing beside the others, with or without samples."""
        names = set(given)
        decided = self.needs_samples or (self.memory is not None and calibrated)
        return [
            Problem("", f"{option} needs {needed}", "it would change nothing", "leave it out")
            for name, option, effective, needed in (
                (
                    "percentile",
                    "--percentile",
                    self.method in ("percentile", "search"),
                    "--method percentile, or search, which tries it",
                ),
                (
                    "objective",
                    "--minimise",
                    decided,
                    "--method search, or other options by which samples decide",
                ),
                (
                    "samples",
                    "--calibration-samples",
                    self.needs_samples or decided,
                    "--calibrate, and options by which its samples decide",
                ),
            )
            if name in names and not effective
        ]

    def check(self, limits: Limits, layers: Iterable[str]) -> None:
        """Raise `OptionError` with all that is impossible for `limits`, or for a network of `layers`."""
        known = list(layers)
        most = limits.weight_bits
        problems = [
            Problem(
                layer,
                f"weight bits must be from {FEWEST_BITS} to {most}"
                if not layer
                else f"needs weight bits from {FEWEST_BITS} to {most}",
                f"{bits} are asked for",
            )
            for layer, bits in (("", self.weight_bits), *self.bits.items())
            if not FEWEST_BITS <= bits <= most
        ]
        problems += [
            Problem(
                "",
                f"there is no layer '{layer}' to give {bits} bits",
                remedy=f"choose from {', '.join(known)}",
            )
            for layer, bits in self.bits.items()
            if layer not in known
        ]
        if not 0 < self.percentile <= 100:
            problems.append(
                Problem(
                    "",
                    "a percentile must be above 0 and at most 100",
                    f"{self.percentile} is asked for",
                )
            )
        if self.memory is not None and self.memory < 1:
            problems.append(Problem("", "a memory budget must be positive", f"it is {self.memory}"))
        if self.samples < 1:
            problems.append(
                Problem("", "calibration needs samples", f"{self.samples} are asked for")
            )
        raise_all(OptionError, problems)

    def _of_no_kind(self) -> Iterable[Problem]:
        """Yield what is no choice, or no number, at all: what is misspelt must not be another choice."""
        for what, given, choices in (
            ("method", self.method, Method),
            ("scales", self.scales, Scales),
            ("objective", self.objective, Objective),
            ("rounding", self.rounding, WeightRounding),
        ):
            known = get_args(choices)
            if given not in known:
                yield Problem("", f"{what} must be one of {', '.join(known)}", f"it is {given!r}")
        corrects: object = self.correct_biases
        if not isinstance(corrects, bool | np.bool_):
            yield Problem("", "correct_biases must be true or false", f"it is {corrects!r}")
        if not _is_number(self.percentile):
            yield Problem("", "a percentile must be a number", f"it is {self.percentile!r}")
        counts: dict[str, object] = {"weight bits": self.weight_bits, "samples": self.samples}
        counts |= {f"bits of '{layer}'": bits for layer, bits in self.bits.items()}
        if self.memory is not None:
            counts["a memory budget"] = self.memory
        for what, count in counts.items():
            if not isinstance(count, int | np.integer) or isinstance(count, bool):
                yield Problem("", f"{what} must be a whole number", f"it is {count!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


@dataclass(frozen=True)
class Wish:
    """
    What one population should get, before its ranges are proven.

    `scale` is in weight units per unit of its membrane, one number for each of its channels, or one for all.
    A `final` wish was proven already: its scale is not lowered, and must fit. `lowering` and `cramping` tell, as
    `fit.Fit` does, what it took (None: nothing). `weights` are the integers of some groups, where something
    else than rounding to the nearest chose them, at the scale `rounded_at`; `bias` replaces the population's
    own, in units of its membrane.
    """

    weight_bits: int
    scale: NDArray[np.float64]
    final: bool = False
    weights: Mapping[str, Integer] = field(default_factory=dict)
    bias: NDArray[np.float64] | None = None
    lowering: NDArray[np.float64] | None = None
    cramping: NDArray[np.float64] | None = None
    rounded_at: NDArray[np.float64] | None = None
