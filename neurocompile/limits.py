"""What a target's integers can hold. Plain data: a target states it once, every pass asks it."""

from __future__ import annotations

from dataclasses import dataclass

from neurocompile.integer import STATE_FRACTION_BITS, Arithmetic, Overflow, Rounding


@dataclass(frozen=True)
class Limits:
    """
    Widths of one family of chips; see `loihi2.limits` for where Loihi 2's numbers come from.

    `weight_step` is the distance of two weights at the full `weight_bits`.
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
    def excitatory_maximum(self) -> int:
        """The largest weight of synapses that are all positive: they need no sign bit."""
        return (1 << self.weight_bits) - 1

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
