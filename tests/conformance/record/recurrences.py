"""
The recurrences that we take each framework to run, in numpy and float64, as the documentation says.

Each takes what reaches the neurons, (samples, steps, *shape), and returns their spikes and the
membrane at which they decided, of the same shape. `rec` gives what the spikes of the step before add
to the input of a recurrent layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Feedback = Callable[[Float], Float]
Traces = tuple[Float, Float]


def _steps(inputs: Float, step: Callable[[Float], Traces]) -> Traces:
    pairs = [step(inputs[:, number]) for number in range(inputs.shape[1])]
    spikes, membranes = zip(*pairs, strict=True)
    return np.stack(spikes, 1), np.stack(membranes, 1)


def hard(
    inputs: Float,
    *,
    decay: float | Float = 1.0,
    gain: float | Float = 1.0,
    leak: float = 0.0,
    threshold: float | Float = 1.0,
    reset_to: float = 0.0,
    at: bool = False,
    start: float = 0.0,
    rec: Feedback | None = None,
) -> Traces:
    """Euler or exact leak, then a spike above (or at) the threshold, then a reset to a voltage."""
    v = np.full_like(inputs[:, 0], start)
    last = np.zeros_like(v)

    def step(x: Float) -> Traces:
        nonlocal v, last
        x = x + rec(last) if rec else x
        u = decay * v + (1 - np.asarray(decay)) * leak + gain * x
        last = (u >= threshold if at else u > threshold).astype(np.float64)
        v = np.where(last > 0, reset_to, u)
        return last, u

    return _steps(inputs, step)


def soft(
    inputs: Float,
    *,
    decay: float | Float = 1.0,
    gain: float | Float = 1.0,
    threshold: float | Float = 1.0,
    floor: float | None = None,
    several: bool = True,
    synapse: float | Float | None = None,
    reset_to: float | None = None,
    rec: Feedback | None = None,
) -> Traces:
    """
    sinabs and rockpool: how often the threshold fits, that much off the membrane, a floor afterwards.

    With a `synapse` the current decays after the input has been added: i = synapse * (i + x).
    """
    v = np.zeros_like(inputs[:, 0])
    i, last = np.zeros_like(v), np.zeros_like(v)

    def step(x: Float) -> Traces:
        nonlocal v, i, last
        x = x + rec(last) if rec else x
        i = x if synapse is None else synapse * (i + x)
        u = decay * v + gain * i
        fits = np.floor(u / threshold) if several else (u >= threshold).astype(np.float64)
        last = np.maximum(fits, 0)
        v = u - last * threshold
        if reset_to is not None:
            v = np.where(last > 0, reset_to, u)
        if floor is not None:
            v = np.maximum(v, floor)
        return last, u

    return _steps(inputs, step)


def snntorch(
    inputs: Float,
    *,
    beta: float | Float,
    alpha: float | Float | None = None,
    threshold: float | Float = 1.0,
    reset: str,
    late: bool,
    drops_input: bool,
    rec: Feedback | None = None,
) -> Traces:
    """
    snnTorch: with `late`, what a spike takes off the membrane is taken in the next step.

    A late reset to zero of all but Leaky (`drops_input`) takes the next step's input with it. An early
    subtraction is taken off once more before the comparison where a membrane is still above its
    threshold, and given back behind it.
    """
    v = np.zeros_like(inputs[:, 0])
    i, last = np.zeros_like(v), np.zeros_like(v)

    def step(x: Float) -> Traces:
        nonlocal v, i, last
        x = x + rec(last) if rec else x
        i = x if alpha is None else alpha * i + x
        above = (v > threshold).astype(np.float64)
        if late and reset == "zero" and drops_input:
            u = np.where(above > 0, 0.0, beta * v + i)
        elif late and reset == "zero":
            u = beta * np.where(above > 0, 0.0, v) + i
        elif reset == "subtract":
            u = beta * v + i - above * threshold
        else:
            u = beta * v + i
        last = (u > threshold).astype(np.float64)
        v = u
        if not late:
            v = np.where(last > 0, 0.0, u) if reset == "zero" else u + (above - last) * threshold
        return last, u

    return _steps(inputs, step)


def cuba(inputs: Float, *, synapse: float, **membrane: Any) -> Traces:
    """i = synapse i + x, whose membrane is that of `hard` with a spike at the threshold."""
    i = np.zeros_like(inputs[:, 0])
    currents = []
    for number in range(inputs.shape[1]):
        i = synapse * i + inputs[:, number]
        currents.append(i)
    return hard(np.stack(currents, 1), at=True, **membrane)


def norse_lif(
    inputs: Float, *, synapse: float, membrane: float, leak: float = 0.0, threshold: float = 1.0
) -> Traces:
    """Norse's LIFCell: i jumps by x, charges v in the same step, and decays afterwards."""
    v = np.full_like(inputs[:, 0], leak)
    i = np.zeros_like(v)

    def step(x: Float) -> Traces:
        nonlocal v, i
        i = i + x
        u = v + membrane * (leak - v + i)
        i = i - synapse * i
        fired = (u > threshold).astype(np.float64)
        v = np.where(fired > 0, 0.0, u)
        return fired, u

    return _steps(inputs, step)


def spyx(
    inputs: Float,
    *,
    beta: float | Float = 1.0,
    alpha: float | None = None,
    threshold: float = 1.0,
    rec: Feedback | None = None,
) -> Traces:
    """Spyx: a spike tells that the step before ended above the threshold; a threshold is taken off."""
    v = np.zeros_like(inputs[:, 0])
    i = np.zeros_like(v)

    def step(x: Float) -> Traces:
        nonlocal v, i
        fired = (v > threshold).astype(np.float64)
        compared = v
        x = x + rec(fired) if rec else x
        if alpha is None:
            v = beta * v + x - fired * threshold
        else:
            i = alpha * i + x
            v = beta * (v - fired * threshold) + i
        return fired, compared

    return _steps(inputs, step)
