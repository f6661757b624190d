"""
The neurons of PyTorch frameworks, each with the recurrence that it really computes.

A framework is known by the path of a class, and is never imported: where a module is one of its
classes it is there, and where not, it is not missed. With u the membrane before a reset:

    ours           u = tau v + I                       reset to 0, fires above the threshold
    snnTorch       (`snntorch_neurons`)                fires above, resets at the next step by default
    SpikingJelly   (`spikingjelly_neurons`)            fires at the threshold, resets at once

Whether a neuron fires at its threshold or above it is asked of its surrogate function, which decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neurocompile.integer import Comparison, Reset, Shape
from neurocompile.ir import LIF, Float
from neurocompile.training import neurons as own

Role = Literal["spikes", "membrane", "current"]
Timing = Literal["step", "time first", "merged"]

HARMLESS = {
    "__init__",
    "__repr__",
    "extra_repr",
}  # what a derived class may define and stay what it is
FARTHEST, CLOSEST = (
    7,
    -149,
)  # powers of two at which a surrogate function is asked: floats' smallest


class UnreadableError(Exception):
    """A module that has no exact counterpart here; `reason` is (need, have, remedy)."""

    def __init__(self, need: str, have: str = "", remedy: str = "") -> None:
        self.reason = (need, have, remedy)


@dataclass(frozen=True)
class Population:
    """
    What a module of neurons is, for a population of the shape of `node`.

    `recurrent` is what the spikes of the step before go through on their way back: a layer, or a factor
    for each neuron. `factor` is what leaves for a spike (None: 1). Where `largest_input` is given, the
    node is the module only as long as no more than that arrives at a neuron in a step.
    """

    node: LIF
    recurrent: nn.Module | Float | None = None
    factor: Float | None = None
    largest_input: Float | None = None


@dataclass(frozen=True)
class Neurons:
    """
    How a module of neurons is called, and what it is.

    `states` are its parameters behind the input, `returns` what it returns (one alone is no tuple), and
    `held` the names under which it keeps its state. `broken` says why it cannot even run, as a (need,
    have, remedy), or that it is not known. `population` raises `UnreadableError`.
    """

    kind: str
    timing: Timing
    population: Callable[[Shape], Population]
    returns: tuple[Role, ...] = ("spikes",)
    states: tuple[Role, ...] = ()
    held: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


def class_of(module: nn.Module, package: str) -> type | None:
    """Return the class of `package` that `module` is, or is derived from; None: of another package."""
    for kind in type(module).__mro__:
        if kind.__module__.split(".")[0] == package:
            return kind
    return None


def require_unchanged(module: nn.Module, kind: type) -> None:
    """Raise `UnreadableError` if a class derived from `kind` computes something of its own."""
    for derived in type(module).__mro__:
        if derived is kind:
            return
        own = sorted(
            name
            for name, value in vars(derived).items()
            if callable(value) and name not in HARMLESS
        )
        if own:
            raise UnreadableError(
                f"must compute what its class '{kind.__name__}' does",
                f"'{derived.__name__}' has its own {', '.join(own)}",
                f"use {kind.__name__} itself, or write the network as a NIR graph",
            )


def comparison_of(surrogate: Callable[[Tensor], Any]) -> Comparison:
    """
    Return where a surrogate function, which gets the membrane less the threshold, starts to fire.

    Raises `UnreadableError` if it does anything but 0 below and 1 above.
    """
    powers = torch.arange(CLOSEST, FARTHEST + 1, dtype=torch.float64)
    above = torch.cat((torch.exp2(powers), torch.linspace(1 / 16, 16, 1021, dtype=torch.float64)))
    above = above.float()
    with torch.no_grad():
        asked = [torch.as_tensor(surrogate(x)) for x in (above, -above, torch.zeros(8))]
    ones, zeros, at = asked
    fires = torch.equal(ones, torch.ones_like(ones)) and not zeros.any()
    if not fires or not bool((at == at[0]).all()) or float(at[0]) not in (0.0, 1.0):
        raise UnreadableError(
            "needs a surrogate function that gives 0 or 1",
            "its own gives something else",
            "let it spike",
        )
    return ">=" if float(at[0]) else ">"


def spread(value: Any, shape: Shape, name: str) -> Float:
    """
    Return `value`, a number or an array as PyTorch would broadcast it, over a population's shape.

    Raises `UnreadableError` if it does not fit.
    """
    array = numbers(value)
    while array.ndim > len(shape) and array.shape[0] == 1:
        array = array[0]
    try:
        return np.broadcast_to(array, shape).astype(np.float64)
    except ValueError:
        raise UnreadableError(
            f"needs a '{name}' that fits its neurons, {shape}", f"it has the shape {array.shape}"
        ) from None


def numbers(value: Any) -> NDArray[np.float64]:
    """Return a number or a tensor as an array."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, np.float64)


def leaky(
    shape: Shape,
    *,
    decay: Any,
    threshold: Any,
    comparison: Comparison,
    reset: Reset = "zero",
    gain: Any = 1.0,
    **more: Any,
) -> LIF:
    """Return LIF neurons of `shape` with a leak to 0 and a reset to 0; `more` is the node's."""
    zeros = np.zeros(shape)
    node = LIF(
        spread(decay, shape, "decay"),
        spread(gain, shape, "gain"),
        zeros,
        spread(threshold, shape, "threshold"),
        zeros,
        reset,
        comparison=comparison,
    )
    return replace(node, **more)


def ours(module: nn.Module) -> Neurons | None:
    """Return the neurons of our own training half, or None."""
    if not isinstance(module, own.LIF):
        return None
    neurons = module

    def population(shape: Shape) -> Population:
        require_unchanged(neurons, own.LIF)
        node = leaky(shape, decay=neurons.tau, threshold=neurons.threshold, comparison=">")
        return Population(node)

    return Neurons("our LIF", "merged", population)


def neurons_of(module: nn.Module) -> Neurons | None:
    """
    Return how `module` is called if it is a layer of neurons, or None.

    Neurons of a framework that cannot be read are neurons, too: they say so when they are asked.
    """
    from neurocompile.frontend.modules.snntorch_neurons import snntorch
    from neurocompile.frontend.modules.spikingjelly_neurons import spikingjelly

    readers: Sequence[Callable[[nn.Module], Neurons | None]] = (ours, snntorch, spikingjelly)
    return next((found for reader in readers if (found := reader(module))), None)


def unknown(kind: type, timing: Timing, package: str, known: Sequence[str]) -> Neurons:
    """Return neurons of a class that has no reader."""
    need = f"is a '{kind.__name__}' of {package}, which cannot be compiled"
    reason = (need, "", "supported are " + ", ".join(known))

    def refuse(_shape: Shape) -> Population:
        raise UnreadableError(*reason)

    return Neurons(kind.__name__, timing, refuse, broken=reason)
