"""
SpikingJelly's neurons: they fire at the threshold, and reset at once, to v_reset or (None) by subtraction.

    IFNode              u = v + x
    LIFNode             u = v - (v - v_reset) / tau + x          decay_input divides x by tau, too;
    ParametricLIFNode   the same with 1 / tau = sigmoid(w)       without a v_reset the leak is to 0
    CUBALIFNode         c = c_decay c + x,  u = v_decay v + c

Before a sample v is its registered memory: v_reset, or 0 where there is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from neurocompile.frontend.modules.neurons import (
    Neurons,
    Population,
    UnreadableError,
    class_of,
    comparison_of,
    leaky,
    numbers,
    require_unchanged,
    unknown,
)
from neurocompile.integer import Shape

LEAKY = ("LIFNode", "SimpleLIFNode", "ParametricLIFNode")
WHOLE = ("IFNode", "SimpleIFNode", "HalfThresholdIFNode")
KNOWN = ("IFNode", "LIFNode", "ParametricLIFNode", "CUBALIFNode", *WHOLE[1:], "SimpleLIFNode")


def spikingjelly(module: nn.Module) -> Neurons | None:
    """Return how a module of neurons of SpikingJelly's is called, or None if it is none."""
    kind = class_of(module, "spikingjelly")
    if kind is None or ".neuron" not in kind.__module__:
        return None
    timing: Any = "time first" if getattr(module, "step_mode", "s") == "m" else "step"
    if kind.__name__ not in KNOWN:
        return unknown(kind, timing, "SpikingJelly", KNOWN)
    reset = getattr(module, "v_reset", None)
    how = "reset by subtraction" if reset is None else f"reset to {reset:g}"
    return Neurons(
        f"SpikingJelly's {kind.__name__}, {how} at once",
        timing,
        lambda shape: _population(module, kind, shape),
        held=tuple(getattr(module, "_memories", ())),
    )


def _population(module: Any, kind: type, shape: Shape) -> Population:
    require_unchanged(module, kind)
    if getattr(module, "_neuron_precision", None) is not None:
        raise UnreadableError("must compute in its own precision", "another one is set for it")
    name = kind.__name__
    level = 0.0 if module.v_reset is None else float(module.v_reset)
    gain: Any = 1.0
    more: dict[str, Any] = {}
    leak = 0.0
    if name in WHOLE:
        decay: Any = 1.0
    elif name == "CUBALIFNode":
        decay = module.v_decay
        more["current_decay"] = np.full(shape, float(numbers(module.c_decay)))
    else:
        fraction = module.w.sigmoid() if name == "ParametricLIFNode" else 1 / float(module.tau)
        fraction = float(numbers(fraction))
        decay, leak = 1 - fraction, level
        gain = fraction if module.decay_input else 1.0
    start = getattr(module, "_memories_rv", {}).get("v", level)
    if not isinstance(start, int | float):
        raise UnreadableError("needs a membrane that starts at one number", "it is a tensor")
    if start:
        more["start"] = np.full(shape, float(start))
    node = leaky(
        shape,
        decay=decay,
        gain=gain,
        threshold=module.v_threshold,
        comparison=comparison_of(module.surrogate_function),
        reset="subtract" if module.v_reset is None else "zero",
        leak=np.full(shape, leak),
        reset_to=np.full(shape, level),
        **more,
    )
    return Population(node)
