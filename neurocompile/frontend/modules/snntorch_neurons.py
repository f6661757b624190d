"""
snnTorch's neurons. With s = 1 where mem > threshold, D = clamp(beta, 0, 1), one step is

    Leaky       mem = D mem + I                   Synaptic    syn = A syn + I,  mem = D mem + syn
    Lapicque    mem = (1 - dt/(R C)) mem + (dt/C) I
    RLeaky      like Leaky, with I + recurrent(s of the step before); RSynaptic likewise

and the spikes of the step before, r, change mem as `reset_mechanism` and `reset_delay` say:

    subtract    mem - r threshold: what a spike takes off u is taken after the leak. In v, that is
                threshold / D; where D is 0, a connection of every neuron to itself does it.
    zero        Leaky takes r off mem before the leak, which is an immediate reset to 0. The others
                drop the whole next step, their input too: they rest for one step.
    none        nothing.

With `reset_delay=False` the reset comes at once. Then "subtract" still looks, at the next step, whether
mem is above the threshold, and takes the threshold off before it compares: a mem that was above twice
the threshold does not fire as often as it should. This has no counterpart; where no input is large
enough for such a mem, it is the plain reset.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurocompile.frontend.modules.neurons import (
    Neurons,
    Population,
    Role,
    UnreadableError,
    class_of,
    comparison_of,
    leaky,
    numbers,
    require_unchanged,
    spread,
    unknown,
)
from neurocompile.integer import Shape
from neurocompile.ir import Float

STATES: dict[str, tuple[tuple[str, ...], tuple[Role, ...]]] = {
    "Leaky": (("mem",), ("membrane",)),
    "Lapicque": (("mem",), ("membrane",)),
    "Synaptic": (("syn", "mem"), ("current", "membrane")),
    "RLeaky": (("spk", "mem"), ("spikes", "membrane")),
    "RSynaptic": (("spk", "syn", "mem"), ("spikes", "current", "membrane")),
}
BASE = "SpikingNeuron"  # of all of snnTorch's neurons
RESETS = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}
AT_ONCE = (
    "needs a reset at the next step",
    "snnTorch's RSynaptic does not run with reset_delay=False",
    "use reset_delay=True",
)
MECHANISMS = ("subtract", "zero", "none")


def snntorch(module: nn.Module) -> Neurons | None:
    """Return how a module of neurons of snnTorch's is called, or None if it is none."""
    kind = class_of(module, "snntorch")
    if kind is None or BASE not in {base.__name__ for base in kind.__mro__}:
        return None
    name = kind.__name__
    if name not in STATES:
        return unknown(kind, "step", "snnTorch", tuple(STATES))
    held, states = STATES[name]
    shown: tuple[Role, ...] = ("spikes", *(role for role in states if role != "spikes"))
    hidden = bool(getattr(module, "init_hidden", False))
    alone = hidden and not getattr(module, "output", False)
    return Neurons(
        f"snnTorch's {name}, {_description(module)}",
        "step",
        lambda shape: _population(module, kind, shape),
        returns=("spikes",) if alone else shown,
        states=states,
        held=held,
        broken=() if name != "RSynaptic" or getattr(module, "reset_delay", True) else AT_ONCE,
    )


def _description(module: Any) -> str:
    mechanism = str(getattr(module, "reset_mechanism", "unknown"))
    when = "at the next step" if getattr(module, "reset_delay", True) else "at once"
    return "no reset" if mechanism == "none" else f"reset '{mechanism}' {when}"


def _population(module: Any, kind: type, shape: Shape) -> Population:
    require_unchanged(module, kind)
    _refuse_extras(module)
    name = kind.__name__
    mechanism = _mechanism(module)
    gain: Any = 1.0
    if name == "Lapicque":
        # In the module's own arithmetic, as it computes them at every step
        decay = 1 - module.time_step / (module.R * module.C)
        gain = module.R * (1 / (module.R * module.C)) * module.time_step
    else:
        decay = module.beta.clamp(0, 1)
    decay = spread(decay, shape, "beta")
    threshold = spread(module.threshold, shape, "threshold")
    more: dict[str, Any] = {"gain": gain}
    if name in ("Synaptic", "RSynaptic"):
        more["current_decay"] = spread(module.alpha.clamp(0, 1), shape, "alpha")
    delayed = bool(getattr(module, "reset_delay", True))
    recurrent: Any = getattr(module, "recurrent", None) if name in ("RLeaky", "RSynaptic") else None
    if recurrent is not None and not isinstance(recurrent, nn.Linear | nn.Conv2d):
        recurrent = spread(recurrent.V, shape, "V")
    largest: Float | None = None
    comparison = comparison_of(module.spike_grad)
    at_rest = threshold <= 0 if comparison == ">=" else threshold < 0
    if mechanism == "none":
        more |= {"reset": "subtract", "subtracts": np.zeros(shape)}
    elif mechanism == "zero":
        # Leaky drops its membrane before the leak; the others drop the next step altogether
        more["refractory"] = int(delayed and name != "Leaky")
        if at_rest.any() and (more["refractory"] or not delayed):
            raise UnreadableError(
                "needs thresholds above 0 for this reset",
                f"one is {threshold.min():g}, and a membrane of 0 fires",
            )
    elif delayed:
        more["reset"] = "subtract"
        if decay.all():
            more["subtracts"] = threshold / decay
        else:
            more["subtracts"] = np.zeros(shape)
            if "current_decay" in more or recurrent is not None or np.any(numbers(gain) != 1):
                raise UnreadableError(
                    "needs a membrane that remembers, to subtract from at the next step",
                    "its beta is 0",
                    "use reset_delay=False, or a small beta",
                )
            recurrent = -threshold
    else:
        more["reset"] = "subtract"
        largest = _largest(threshold, decay, more)
    node = leaky(shape, decay=decay, threshold=threshold, comparison=comparison, **more)
    factor = numbers(getattr(module, "graded_spikes_factor", 1.0))
    graded = None if (factor == 1).all() else spread(factor, shape, "graded_spikes_factor")
    if graded is not None and mechanism != "none" and not delayed and (graded == 0).any():
        raise UnreadableError(
            "needs a graded_spikes_factor that is not 0", "its reset divides by it"
        )
    return Population(node, recurrent, graded, largest)


def _largest(threshold: Float, decay: Float, more: dict[str, Any]) -> Float:
    """Return the largest input with which no membrane gets above twice the threshold."""
    if (threshold <= 0).any():
        raise UnreadableError(
            "needs thresholds above 0 to subtract them at once",
            f"one is {threshold.min():g}",
            "use reset_delay=True",
        )
    room: Float = (2 - decay) * threshold
    return room * (1 - more["current_decay"]) if "current_decay" in more else room


def _mechanism(module: Any) -> str:
    """Return the reset: two places of the module must agree on it."""
    stored = MECHANISMS[int(module.reset_mechanism_val)]
    function = getattr(module.state_function, "__func__", module.state_function)
    computed = RESETS.get(getattr(function, "__name__", ""))
    if computed != stored:
        raise UnreadableError(
            "needs one reset mechanism",
            f"it was made with '{computed}', and set or loaded to '{stored}'",
            "make it with the mechanism that it shall have",
        )
    return stored


def _refuse_extras(module: Any) -> None:
    if getattr(module, "inhibition", False):
        raise UnreadableError(
            "must fire whatever its neighbours do",
            "with inhibition only the highest membrane fires",
            "use inhibition=False",
        )
    if getattr(module, "state_quant", False):
        raise UnreadableError(
            "must keep its state as it is",
            "state_quant rounds it",
            "use state_quant=False: the compiler chooses the integers",
        )
    gradient = module.spike_grad
    if not callable(gradient):
        raise UnreadableError("needs a surrogate function", f"it has {gradient}")
    scale = getattr(module, "graded_spikes_factor", None)
    if isinstance(scale, Tensor) and not torch.isfinite(scale).all():
        raise UnreadableError("needs a finite graded_spikes_factor", f"it is {scale}")
