"""
Which class a read-out means: the largest mean of its outputs over the steps, on the host.

A network that was trained with a temporally weighted output (TWO) weighs the steps in that mean. No
synapse can do that, as its weight is the same in every step, so the weights go beside the network: in
the metadata of its NIR file and in the manifest of its program. They belong to one number of steps; with
any other the mean is plain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurocompile.errors import Problem, ProgramFormatError

DECISION = "decision"  # in the facts of a program
MOST_WEIGHTS = 1_000_000


def decisions(
    output: NDArray[Any], time_weights: Sequence[float] | None = None
) -> NDArray[np.int64]:
    """
    Return the class with the largest mean over steps, for `output` (samples, steps, classes).

    `time_weights` weigh the steps if there are as many; else all count alike.
    """
    values = output.reshape(*output.shape[:2], -1)
    if time_weights is not None and len(time_weights) == values.shape[1]:
        values = np.asarray(time_weights)[:, np.newaxis] * values
    result: NDArray[np.int64] = values.mean(1).argmax(1)
    return result


def checked_weights(values: ArrayLike) -> tuple[float, ...]:
    """Return weights of steps as plain numbers; raises `ValueError` where they are none."""
    weights = np.asarray(values)
    if weights.dtype.kind not in "iuf" or weights.ndim != 1:
        raise ValueError("not a list of numbers")
    if not 0 < len(weights) <= MOST_WEIGHTS or not np.isfinite(weights).all():
        raise ValueError("not a finite number for each step")
    return tuple(float(weight) for weight in weights)


def facts_of(time_weights: Sequence[float] | None) -> dict[str, Any]:
    """Return what a program's facts say of its decision: nothing if all steps count alike."""
    return {} if time_weights is None else {DECISION: {"time_weights": list(time_weights)}}


def remarks_on(time_weights: Sequence[float] | None) -> list[str]:
    """Return what people must know of a decision, for the notes of a program."""
    if time_weights is None:
        return []
    least, most = min(time_weights), max(time_weights)
    return [
        f"the decision weighs the {len(time_weights)} time steps by {least:.2f} to {most:.2f}, on the host"
    ]


def weights_in(facts: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Return the weights in a program's `facts`, if any; raises `ProgramFormatError` for damaged ones."""
    if DECISION not in facts:
        return None
    try:
        return checked_weights(facts[DECISION]["time_weights"])
    except (KeyError, TypeError, ValueError) as error:
        raise ProgramFormatError(
            Problem("", "the manifest's weights of time steps are damaged", str(error))
        ) from error
