"""
Loihi 2 as Lava's fixed-point models define it (lava-nc 0.10.0).

Lava enforces none of these: wider values wrap, clip or hang silently. The compiler does.
"""

from __future__ import annotations

from neurocompile.limits import Limits

LIMITS = Limits(
    weight_bits=8,
    weight_step=2,  # a mixed-sign synapse drops the lowest bit of [-256, 255]
    current_maximum=131071,  # u is 24 bits and holds a_in << 6
    threshold_maximum=131071,  # 17 bits
    bias_mantissa_bits=13,
    bias_exponent_maximum=7,  # 3 bits
    decay_bits=12,
    state_maximum=(1 << 23) - 1,  # v saturates there
    payload_bits=8,  # what Intel's brief calls typical; the chip can carry more
)

CONV_ATTRIBUTE_MAXIMUM = 127  # Lava's Conv keeps strides, sizes and groups in int8
CONV_SUM_MAXIMUM = (1 << 23) - 1  # Lava's Conv wraps its sums at 24 bits
PARTS_MAXIMUM = 256  # processes that a population may be split into; each is one of the system's
RELAYS_MAXIMUM = 256  # processes of relay neurons
