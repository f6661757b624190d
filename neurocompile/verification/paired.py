"""
What differences on the same samples say of all samples: is one way better than another, or was it chance?

Differences are one number a sample, the second way's less the first's. Means of measurements are
held against Student's t, yes-or-no outcomes against a fair coin (McNemar's test, exact).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from neurocompile.statistics import student

FEWEST = 3  # samples: the spread of two says next to nothing


def student_tail(t: float, freedom: int) -> float:
    """Return how probable a value of Student's t beyond +-`t` is, by Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for power in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1.0 - inside)


def mean_interval(differences: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean by Student's t; None of fewer than 3, or of ones that do not vary."""
    number = len(differences)
    if number < FEWEST or np.ptp(differences) == 0:
        return None
    mean = float(differences.mean())
    reach = float(differences.std(ddof=1)) / math.sqrt(number) * student(number - 1)
    return (mean - reach, mean + reach)


def mean_chance(differences: NDArray[np.float64]) -> float:
    """
    Return how probable a mean so far from 0 is if it is 0 in truth, on both sides.

    Where all differences are one number there is no spread: then each is a toss of a coin.
    """
    number = len(differences)
    if number < FEWEST:
        return 1.0
    if np.ptp(differences) == 0:
        return sign_chance(np.sign(differences))
    error = float(differences.std(ddof=1)) / math.sqrt(number)
    return student_tail(float(differences.mean()) / error, number - 1)


def sign_chance(differences: NDArray[np.float64]) -> float:
    """Return how probable so many more of one sign are if both are as likely, on both sides; zeros say nothing."""
    signs = np.sign(differences)
    up, down = int((signs > 0).sum()), int((signs < 0).sum())
    number = up + down
    outer = sum(math.comb(number, count) for count in range(min(up, down) + 1))
    return min(1.0, 2 * outer / (1 << number))
