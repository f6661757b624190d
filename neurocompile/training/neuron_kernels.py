"""
The recursions of `neurons` in float32 on a processor, for numba: the same numbers, in one pass.

Arrays are (batch, steps, neurons). A stretch of neurons of one sample goes through all steps while it is in
the nearest cache. Products and sums are rounded one by one as PyTorch's are: numba fuses none of them.

The work is shared by as many threads of Python as PyTorch has. They live for one call: a pool of numba's own
would wait for work where PyTorch's threads work, and could not be forked.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from threading import Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocompile.kernel_cache import kernel

Array = NDArray[np.float32]

STRETCH = 2048
"""Neurons of one sample that go through all steps together."""

SHARE = 1 << 21
"""Numbers for which another thread is worth starting."""

ZERO, ONE = np.float32(0), np.float32(1)


def run(membrane: Tensor, current: Tensor, tau: float, threshold: float, memory: Tensor) -> Tensor:
    """
    Return the spikes of `current`, (batch, steps, neurons), and leave u in `memory`.

    `memory` has `steps` or two steps, which are written in turns; `membrane` is (batch, neurons), or (0,
    neurons) for zero.
    """
    spikes = torch.empty_like(current)
    arrays = (_array(membrane), _array(current), np.float32(tau), np.float32(threshold))
    _share(_forward, (*arrays, _array(memory), _array(spikes)), current)
    return spikes


def run_backward(
    membranes: Tensor,
    by_spikes: Tensor,
    by_last: Tensor,
    *,
    tau: float,
    threshold: float,
    width: float,
    attached: bool,
) -> Tensor:
    """
    Return the derivative by the current, for the triangle of `width`.

    `by_last` (batch, neurons) is the derivative by v after the last step, (0, neurons) for zero.
    """
    result = torch.empty_like(membranes)
    numbers = (np.float32(value) for value in (tau, threshold, width, width**2, attached))
    arrays = (_array(membranes), _array(by_spikes), _array(by_last))
    _share(_backward, (*arrays, *numbers, _array(result)), membranes)
    return result


def step_backward(
    membrane: Tensor,
    by_spikes: Tensor,
    slopes: Tensor,
    by_v: Tensor,
    result: Tensor,
    *,
    tau: float,
    threshold: float,
    attached: bool,
) -> None:
    """
    Go back one step: write the derivative by u to `result`, and that by v of the step before to `by_v`.

    All are (batch, neurons); `slopes` are those of any surrogate.
    """
    _step_backward(
        _array(membrane),
        _array(by_spikes),
        _array(slopes),
        _array(by_v),
        _array(result),
        np.float32(tau),
        np.float32(threshold),
        np.float32(attached),
    )


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().numpy()
    return array


def _share(function: Callable[..., None], arguments: tuple[Any, ...], work: Tensor) -> None:
    """Call `function` with the stretches of `work`, in parts for threads if there is enough of it."""
    batch, _, neurons = work.shape
    stretches = batch * -(-neurons // STRETCH)
    count = min(torch.get_num_threads(), max(1, work.numel() // SHARE))
    bounds = [part * stretches // count for part in range(count + 1)]
    parts = [(*arguments, *bound) for bound in pairwise(bounds)]
    threads = [Thread(target=function, args=part) for part in parts[1:]]
    for thread in threads:
        thread.start()
    function(*parts[0])
    for thread in threads:
        thread.join()


@kernel
def _forward(
    membrane: Array,
    current: Array,
    tau: np.float32,
    threshold: np.float32,
    memory: Array,
    spikes: Array,
    start: int,
    stop: int,
) -> None:
    _, steps, neurons = current.shape
    depth = memory.shape[1]
    stretches = (neurons + STRETCH - 1) // STRETCH
    for item in range(start, stop):
        sample = item // stretches
        low = item % stretches * STRETCH
        high = min(low + STRETCH, neurons)
        for step in range(steps):
            arriving = current[sample, step, low:high]
            now = memory[sample, step % depth, low:high]
            fired = spikes[sample, step, low:high]
            if step > 0:
                before = memory[sample, (step - 1) % depth, low:high]
                for n in range(high - low):
                    v = ZERO if before[n] > threshold else before[n]
                    u = tau * v + arriving[n]
                    now[n] = u
                    fired[n] = ONE if u > threshold else ZERO
            elif membrane.shape[0]:
                first = membrane[sample, low:high]
                for n in range(high - low):
                    u = tau * first[n] + arriving[n]
                    now[n] = u
                    fired[n] = ONE if u > threshold else ZERO
            else:
                for n in range(high - low):
                    u = arriving[n]
                    now[n] = u
                    fired[n] = ONE if u > threshold else ZERO


@kernel
def _backward(
    membranes: Array,
    by_spikes: Array,
    by_last: Array,
    tau: np.float32,
    threshold: np.float32,
    width: np.float32,
    area: np.float32,
    attached: np.float32,
    result: Array,
    start: int,
    stop: int,
) -> None:
    _, steps, neurons = membranes.shape
    stretches = (neurons + STRETCH - 1) // STRETCH
    for item in range(start, stop):
        sample = item // stretches
        low = item % stretches * STRETCH
        high = min(low + STRETCH, neurons)
        for back in range(steps):
            step = steps - 1 - back
            now = membranes[sample, step, low:high]
            arriving = by_spikes[sample, step, low:high]
            by_u = result[sample, step, low:high]
            if back > 0:
                later = result[sample, step + 1, low:high]
                for n in range(high - low):
                    u = now[n]
                    slope = max(ZERO, width - abs(u - threshold)) / area
                    factor = (ZERO if u > threshold else ONE) - attached * (u * slope)
                    by_u[n] = arriving[n] * slope + tau * later[n] * factor
            elif by_last.shape[0]:
                last = by_last[sample, low:high]
                for n in range(high - low):
                    u = now[n]
                    slope = max(ZERO, width - abs(u - threshold)) / area
                    factor = (ZERO if u > threshold else ONE) - attached * (u * slope)
                    by_u[n] = arriving[n] * slope + last[n] * factor
            else:
                for n in range(high - low):
                    slope = max(ZERO, width - abs(now[n] - threshold)) / area
                    by_u[n] = arriving[n] * slope


@kernel
def _step_backward(
    membrane: Array,
    by_spikes: Array,
    slopes: Array,
    by_v: Array,
    result: Array,
    tau: np.float32,
    threshold: np.float32,
    attached: np.float32,
) -> None:
    batch, neurons = membrane.shape
    for sample in range(batch):
        now, arriving = membrane[sample], by_spikes[sample]
        slope, by_now, by_u = slopes[sample], by_v[sample], result[sample]
        for n in range(neurons):
            u = now[n]
            factor = (ZERO if u > threshold else ONE) - attached * (u * slope[n])
            derivative = arriving[n] * slope[n] + by_now[n] * factor
            by_u[n] = derivative
            by_now[n] = tau * derivative
