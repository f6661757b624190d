"""What a target's integers can hold. Plain data: a target states it once, every pass asks it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from neurocompile.errors import Problem
from neurocompile.integer import STATE_FRACTION_BITS, Arithmetic, Overflow, Rounding

WIDTHS = {
    "weight_bits": (2, 16),
    "weight_step": (1, 16),
    "bias_mantissa_bits": (2, 24),
    "bias_exponent_maximum": (0, 15),
    "decay_bits": (1, 16),
    "payload_bits": (1, 16),
    "fraction_bits": (0, 16),
    "current_bits": (4, 32),
    "membrane_bits": (4, 32),
}
"""The least and the most of what a chip may have: with these, everything is exact in 64 bits."""


@dataclass(frozen=True)
class Limits:
    """
    Widths of one chip; see `loihi2.limits` for where Loihi 2's numbers come from.

    `weight_step` is the distance of two weights at the full `weight_bits`. `neurocompile.chips` reads limits
    from files.
    """

    weight_bits: int
    weight_step: int
    current_maximum: int  # |input sum|, in weight units
    threshold_maximum: int  # in weight units
    bias_mantissa_bits: int  # two's complement
    bias_exponent_maximum: int
    decay_bits: int
    state_maximum: int  # |u|, |v|, in state units
    payload_bits: int  # of a graded input
    fraction_bits: int = STATE_FRACTION_BITS  # of a weight unit, in states
    current_bits: int = 24  # of u, two's complement
    rounding: Rounding = "zero"
    current_overflow: Overflow = "wrap"
    membrane_overflow: Overflow = "saturate"

    @property
    def arithmetic(self) -> Arithmetic:
        """What neurons of this family compute with."""
        return Arithmetic(
            fraction_bits=self.fraction_bits,
            decay_bits=self.decay_bits,
            current_bits=self.current_bits,
            membrane_bits=self.state_maximum.bit_length() + 1,
            rounding=self.rounding,
            current_overflow=self.current_overflow,
            membrane_overflow=self.membrane_overflow,
        )

    def weight_unit(self, bits: int) -> int:
        """Return the distance of two weights when only `bits` bits are used."""
        return self.weight_step << (self.weight_bits - bits)

    def largest_weight(self, bits: int) -> int:
        """Return the largest weight of `bits` bits; the most negative one is a unit further."""
        return ((1 << (bits - 1)) - 1) * self.weight_unit(bits)

    @property
    def excitatory_step(self) -> int:
        """The distance of two weights of synapses that are all positive: they need no sign bit."""
        return max(1, self.weight_step // 2)

    @property
    def excitatory_maximum(self) -> int:
        """The largest weight of synapses that are all positive."""
        return ((1 << self.weight_bits) - 1) * self.excitatory_step

    @property
    def payload_maximum(self) -> int:
        """The largest graded spike."""
        return (1 << self.payload_bits) - 1

    @property
    def bias_mantissa_maximum(self) -> int:
        return (1 << (self.bias_mantissa_bits - 1)) - 1

    @property
    def bias_maximum(self) -> float:
        """The largest bias in weight units."""
        return float(
            (self.bias_mantissa_maximum << self.bias_exponent_maximum) >> self.fraction_bits
        )


def contradictions(limits: Limits) -> Iterable[Problem]:
    """Yield what no chip can have, or not together."""
    arithmetic = limits.arithmetic
    for name, (least, most) in WIDTHS.items():
        value = getattr(arithmetic if name == "membrane_bits" else limits, name)
        if not least <= value <= most:
            yield Problem("", f"a chip needs '{name}' from {least} to {most}", f"it is {value}")
            return  # nothing else could be told
    if limits.weight_step & (limits.weight_step - 1):
        yield Problem(
            "", "the step of weights must be a power of two", f"it is {limits.weight_step}"
        )
    if arithmetic.membrane_end != limits.state_maximum:
        yield Problem(
            "", "the largest membrane must be that of its bits", f"it is {limits.state_maximum}"
        )
    largest_current = arithmetic.current_end >> limits.fraction_bits
    if not 0 < limits.current_maximum <= largest_current:
        yield Problem(
            "",
            f"the largest input sum must be from 1 to {largest_current} weight units, as a current of "
            f"{limits.current_bits} bits with {limits.fraction_bits} of a fraction holds it",
            f"it is {limits.current_maximum}",
        )
    # A membrane must be able to go beyond it, or nothing would fire.
    largest_threshold = (limits.state_maximum - 1) >> limits.fraction_bits
    if not 0 < limits.threshold_maximum <= largest_threshold:
        yield Problem(
            "",
            f"the largest threshold must be from 1 to {largest_threshold} weight units, as a membrane of "
            f"{arithmetic.membrane_bits} bits with {limits.fraction_bits} of a fraction goes beyond it",
            f"it is {limits.threshold_maximum}",
        )
    heaviest = limits.weight_step << (limits.weight_bits - 1)
    if heaviest > largest_current:
        yield Problem(
            "",
            f"a current of {limits.current_bits} bits must hold the heaviest weight",
            f"it holds {largest_current} weight units, and the weight has {heaviest}",
        )
    if limits.bias_maximum < 1:
        yield Problem(
            "", "a bias must be able to reach a weight unit", "mantissa and exponent cannot"
        )
