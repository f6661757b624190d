"""
Round weights up or down as the inputs want it, instead of each to the nearest.

A row w of real weights (in weight units) becomes integers q on the grid of its bits. What matters is not
the error of each weight but that of the sum, over inputs x:

    E[(x (w - q))^2] = e H e,    e = w - q,    H = E[x x] + damping

Two errors whose inputs come together can cancel. Finding the best q is hard; two ways to a good one are
taken, from equations (2) to (4) of Frantar et al. (GPTQ, ICLR 2023) and by coordinate descent, and for each
row the better of both, which is never worse than rounding to the nearest:

    one after the other   q_j is the nearest; its error e_j moves the weights that are still real by
                          -e_j (U_j,j+1.. / U_jj), with U the upper Cholesky factor of the inverse of H
    descent               q_j becomes the nearest to q_j + (e H)_j / H_jj, again and again, until none moves
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neurocompile.integer import Integer
from neurocompile.quantisation.fit import Fit
from neurocompile.quantisation.scales import by_row, payload_scale
from neurocompile.quantisation.search import Layer, Search

Float = NDArray[np.float64]

DAMPING = 0.01  # of the mean of H's diagonal: few samples shall not decide weights they do not show
LEAST_DAMPING = 1e-12
SWEEPS = 6
FACTORS = (0.85, 1.0, 1.15)  # of the scale that was best with weights rounded to the nearest
MOST_INPUTS = 4096  # of one row; H has the square of that


@dataclass(frozen=True)
class Curvature:
    """H, damped, and U of the module's docstring, of rows that see the same inputs."""

    hessian: Float
    upper: Float

    @classmethod
    def of(cls, moments: Float) -> Curvature:
        """Return that of inputs with E[x x] = `moments`."""
        size = len(moments)
        damping = max(DAMPING * float(np.trace(moments)) / max(1, size), LEAST_DAMPING)
        hessian: Float = moments + damping * np.eye(size)
        # U^T U = H^-1, from the factor of H whose rows and columns are reversed, J H J = L L^T: then
        # H^-1 = J L^-T L^-1 J, and U is L^-1 with both axes reversed.
        factor = np.linalg.cholesky(hessian[::-1, ::-1])
        return cls(hessian, np.linalg.inv(factor)[::-1, ::-1])


def second_moments(inputs: NDArray[np.floating]) -> Float:
    """Return E[x x] of `inputs` (samples, inputs)."""
    moments: Float = (inputs.T @ inputs).astype(np.float64) / max(1, len(inputs))
    return moments


def round_to_inputs(
    weight: Float, curvature: Curvature, *, unit: int, lowest: int, highest: int
) -> Float:
    """
    Return integers for `weight` (rows, inputs), in no row worse for the inputs than the nearest ones.

    The integers are multiples of `unit` from `lowest` to `highest`.
    """
    real = weight / unit
    low, high = lowest / unit, highest / unit
    hessian = curvature.hessian
    nearest = np.clip(np.rint(real), low, high)
    best, least = nearest, _errors(real - nearest, hessian)
    for start in (nearest, _one_after_the_other(real, curvature.upper, low, high)):
        found = _descend(real, start, hessian, low, high)
        error = _errors(real - found, hessian)
        better = error < least * (1 - 1e-9)
        best = np.where(better[:, None], found, best)
        least = np.where(better, error, least)
    return best * unit


def _errors(error: Float, hessian: Float) -> Float:
    """Return e H e of each row."""
    result: Float = np.einsum("ri,ri->r", error @ hessian, error)
    return result


def _one_after_the_other(real: Float, upper: Float, low: float, high: float) -> Float:
    left = real.copy()
    rounded = np.empty_like(left)
    for column in range(left.shape[1]):
        rounded[:, column] = np.clip(np.rint(left[:, column]), low, high)
        error = (left[:, column] - rounded[:, column]) / upper[column, column]
        left[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
    return rounded


def _descend(real: Float, start: Float, hessian: Float, low: float, high: float) -> Float:
    rounded = start.copy()
    pull = (real - rounded) @ hessian
    diagonal = np.diag(hessian)
    for _ in range(SWEEPS):
        moved = False
        for column in range(real.shape[1]):
            wanted = np.clip(
                np.rint(rounded[:, column] + pull[:, column] / diagonal[column]), low, high
            )
            step = wanted - rounded[:, column]
            rows = np.flatnonzero(step)
            if len(rows):
                moved = True
                rounded[rows, column] = wanted[rows]
                pull[rows] -= step[rows, None] * hessian[column]
        if not moved:
            break
    return rounded


def round_to_samples(search: Search) -> None:
    """Try weights rounded to what arrives, at some scales around that of the best candidate so far."""
    start = search.best
    layer = search.layer
    inputs = sum(group.operator.weight[0].size for group in layer.on_chip)
    if layer.places.whole or not 0 < inputs <= MOST_INPUTS:
        return
    blocks = _blocks(layer)
    found = [start]
    for factor in FACTORS:
        asked = replace(
            start.wish,
            scale=start.fit.scale * factor,
            final=False,
            weights={},
            rounded_at=None,
        )
        nearest = layer.fit(asked)
        if nearest is None:
            continue
        weights = _rounded(layer, nearest, blocks, start.wish.weight_bits)
        candidate = search.offer(
            replace(
                start.wish,
                scale=nearest.scale,
                final=True,
                weights=weights,
                lowering=nearest.lowering,
                cramping=nearest.cramping,
                rounded_at=nearest.scale,
            )
        )
        if candidate is not None:
            found.append(candidate)
    search.offer_best_of_channels(found, len(start.fit.scale))


@dataclass(frozen=True)
class _Block:
    """Rows of some groups of synapses that see the same inputs."""

    parts: tuple[tuple[str, slice], ...]  # (group, its rows)
    curvature: Curvature


def _blocks(layer: Layer) -> list[_Block]:
    groups = layer.on_chip
    windows = [layer.windows[group.name] for group in groups]
    if all(len(item.parts) == 1 for item in windows):
        joined = np.concatenate([item.parts[0] for item in windows], axis=1)
        parts = tuple((group.name, slice(None)) for group in groups)
        return [_Block(parts, Curvature.of(second_moments(joined)))]
    blocks = []
    for group, item in zip(groups, windows, strict=True):
        rows = len(group.operator.weight) // len(item.parts)
        for number, part in enumerate(item.parts):
            where = slice(number * rows, (number + 1) * rows)
            curvature = Curvature.of(second_moments(part))
            blocks.append(_Block(((group.name, where),), curvature))
    return blocks


def _rounded(layer: Layer, fit: Fit, blocks: list[_Block], bits: int) -> dict[str, Integer]:
    limits = layer.fitter.limits
    unit, highest = limits.weight_unit(bits), limits.largest_weight(bits)
    real: dict[str, Float] = {}
    for group in layer.on_chip:
        weight = group.operator.weight
        rows = by_row(fit.scale / payload_scale(group, layer.sources), len(weight))
        real[group.name] = weight.reshape(len(weight), -1) * rows[:, None]
    result = {name: np.empty(values.shape, np.int64) for name, values in real.items()}
    for block in blocks:
        columns = [real[name][where] for name, where in block.parts]
        integers = round_to_inputs(
            np.concatenate(columns, axis=1),
            block.curvature,
            unit=unit,
            lowest=-highest - unit,
            highest=highest,
        )
        start = 0
        for (name, where), part in zip(block.parts, columns, strict=True):
            result[name][where] = integers[:, start : start + part.shape[1]]
            start += part.shape[1]
    shapes = {group.name: group.operator.weight.shape for group in layer.on_chip}
    return {name: values.reshape(shapes[name]) for name, values in result.items()}
