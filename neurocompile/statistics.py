"""Shares of samples, with what a sample of them says about all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Z = 1.959963984540054  # of the normal distribution: 95 % lie within


@dataclass(frozen=True)
class Share:
    """`count` of `of`."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """The share itself; 0 of nothing is 0."""
        return self.count / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """
        The 95 % confidence interval of what the share would be of all, by Wilson (1927).

        Its premise is independent cases: right for samples, not for the spikes of one sample.
        """
        if not self.of:
            return (0.0, 1.0)
        p, n = self.value, self.of
        centre = p + Z * Z / (2 * n)
        reach = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        scale = 1 + Z * Z / n
        low, high = (centre - reach) / scale, (centre + reach) / scale
        return (0.0 if not self.count else max(0.0, low), 1.0 if self.count == self.of else high)

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        return {"count": self.count, "of": self.of, "value": self.value, "low": low, "high": high}
