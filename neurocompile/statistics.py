"""Shares of samples, with what a sample of them says about all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Z = 1.959963984540054  # of the normal distribution: 95 % lie within
STUDENT = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462)  # of 1 to 7 degrees


def student(freedom: int) -> float:
    """
    Return within how many deviations 95 % of Student's t lie, of `freedom` degrees; to four digits.

    From tables for few degrees, else by its series (Abramowitz and Stegun, 26.7.5).
    """
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
        (79 * Z**9 + 776 * Z**7 + 1482 * Z**5 - 1920 * Z**3 - 945 * Z) / 92160,
    )
    return Z + sum(term / float(freedom) ** power for power, term in enumerate(terms, 1))


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
