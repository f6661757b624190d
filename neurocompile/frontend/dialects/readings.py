"""
What a NIR neuron is in discrete time, said once for all frameworks.

A dialect finds out how its framework's neurons leak and weigh their input; here this becomes an
`ir.LIF` or `ir.Integrator` that fires and resets as the options, or else the framework's habits, say.
Where neither does, the reading is undecided. What one node cannot do, others around it do:

    an input, or the spikes, one step late      a `Delay` before, or behind the neurons
    a reset in the next step, by subtraction    `subtracts` = threshold / decay, as the decay comes between
    the same without a memory (decay 0)         minus the threshold, fed back with the spikes

What is fed back like that reaches a synaptic current as a pulse into the membrane: in the next step,
current_decay times as much is taken out of the current again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neurocompile.frontend.import_options import ANY, NONE, THRESHOLD, ImportOptions, flag
from neurocompile.frontend.nir_neurons import MAY_BE_INFINITE, NirNeurons
from neurocompile.frontend.nir_nodes import MalformedError, Reason, UndecidedError, not_finite
from neurocompile.ir import LIF, Delay, Edge, Integrator, Node, Scale

Float = NDArray[np.float64]
Notes = dict[str, str]


@dataclass(frozen=True)
class Habits:
    """
    How a framework's neurons fire and reset, in the words of `ImportOptions`.

    None: its files leave it open. `late_zero` is what a reset to zero in the next step means: the "same"
    as at the spike, a step in which the neuron "rests", or None where nobody says.
    """

    framework: str
    reset: str | None
    fires: str = "above"
    max_spikes: int | str | None = 1
    min_membrane: float | str | None = NONE
    reset_at: str | None = "spike"
    synapse: str = "now"
    late_zero: Literal["same", "rests"] | None = None
    least_threshold: float = -np.inf  # below it, its first step differs from the others


@dataclass(frozen=True)
class Dynamics:
    """Factors of the membrane, the input and the current in one step, and where the membrane leaks to."""

    decay: Float
    gain: Float
    leak: Float
    current_decay: Float | None = None
    start: Float | None = None


@dataclass(frozen=True)
class Context:
    """What is known besides the neurons; `notes` collects what was decided, and from what."""

    options: ImportOptions
    dt: float | None
    notes: Notes
    recurrent: frozenset[str] = frozenset()  # neurons that feed themselves through one linear node
    new_enough: bool = False  # the file's reset voltages were written by whoever wrote the file
    shortest_time: float = np.inf  # of all time constants in the file
    before_nir_1: bool = False  # the file's version of nir is older


@dataclass(frozen=True)
class Reading:
    """
    A population, and what has to be around it.

    Its input passes a delay of `before` steps, its spikes one of `after`. `nodes` are further ones by
    the suffix to its name, `edges` join suffixes, "" being the population; what feeds the population also
    feeds its `twins`. Where inputs can be above `largest_input`, the population is `otherwise`.
    """

    node: LIF | Integrator
    before: int = 0
    after: int = 0
    nodes: Mapping[str, Node] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()
    twins: tuple[str, ...] = ()
    largest_input: Float | None = None
    otherwise: Reading | None = None


def check_finite(neurons: NirNeurons) -> None:
    """Raise `MalformedError` where a parameter is infinite."""
    reasons = [
        not_finite(name, neurons[name])
        for name in MAY_BE_INFINITE
        if name in neurons.values and not np.isfinite(neurons[name]).all()
    ]
    if reasons:
        raise MalformedError(*reasons)


def integrating(neurons: NirNeurons, dynamics: Dynamics, context: Context, now: str) -> Reading:
    """Return the reading of neurons without spikes; `now` is the habit for synaptic currents."""
    node = Integrator(
        dynamics.decay, dynamics.gain, dynamics.leak, current_decay=dynamics.current_decay
    )
    if dynamics.start is not None and dynamics.start.any():
        raise UndecidedError(
            (
                "starts at its leak voltage in its framework",
                "a read-out can only start at 0",
                "shift its v_leak to 0",
            )
        )
    late = neurons.has_current and _chosen("synapse", now, context, "its currents") == "next"
    return Reading(node, before=int(late))


def spiking(neurons: NirNeurons, dynamics: Dynamics, context: Context, habits: Habits) -> Reading:
    """
    Return the reading of neurons that fire.

    Raises `UndecidedError` with everything that neither the options nor the framework decide.
    """
    options = context.options
    values: dict[str, Any] = {}
    reasons: list[Reason] = []
    for name, open_reason in OPEN.items():
        habit = getattr(habits, name)
        given = getattr(options, name)
        if name == "reset_at" and given is None and not _reset_time_matters(values, habits):
            values[name] = "spike"
        elif given is None and habit is None:
            reasons.append((*open_reason, _remedy(name)))
        else:
            values[name] = _chosen(name, habit, context, habits.framework)
    if reasons:
        raise UndecidedError(*reasons)
    threshold = neurons["v_threshold"]
    if threshold.size and threshold.min() < habits.least_threshold:
        raise UndecidedError(
            (
                f"needs thresholds from {habits.least_threshold:g} on",
                f"one is {threshold.min():g}",
                f"{habits.framework} would reset neurons that never fired",
            )
        )
    zero = values["reset"] == "zero"
    reset_to = neurons.values.get("v_reset", np.zeros(neurons.shape))
    if not zero and reset_to.any():
        unused = context.notes.get("v_reset", "not used, as they subtract: ")
        context.notes["v_reset"] = f"{unused}{', ' if unused.endswith('s') else ''}{neurons.name}"
    node = LIF(
        dynamics.decay,
        dynamics.gain,
        dynamics.leak,
        threshold,
        reset_to if zero else np.zeros(neurons.shape),
        values["reset"],
        current_decay=dynamics.current_decay,
        start=dynamics.start if dynamics.start is not None and dynamics.start.any() else None,
        comparison=">=" if values["fires"] == "at" else ">",
        most_spikes=None if values["max_spikes"] == ANY else values["max_spikes"],
        floor=_floor(values["min_membrane"], threshold),
    )
    late = neurons.has_current and values["synapse"] == "next"
    reading = Reading(node, before=int(late))
    if values["reset_at"] == "spike":
        return reading
    if not zero:
        return _subtracting_late(reading)
    if habits.late_zero is None:
        raise UndecidedError(
            (
                "resets to zero in the step after its spike",
                f"nobody says what {habits.framework} does then with that step's input",
                "use --reset-at spike, or --profile snntorch if it is snnTorch's",
            )
        )
    resting = replace(node, refractory=1) if habits.late_zero == "rests" else node
    return replace(reading, node=replace(resting, reset_to=np.zeros(neurons.shape)))


def _subtracting_late(reading: Reading) -> Reading:
    """Return neurons that subtract their threshold in the step after the spike, the leak in between."""
    node = reading.node
    assert isinstance(node, LIF)
    forgets = node.decay == 0
    own = np.divide(node.threshold, node.decay, out=node.threshold.copy(), where=~forgets)
    reading = replace(reading, node=replace(node, subtracts=own))
    if not forgets.any():
        return reading
    return _with_pulses(reading, "", "", ".reset", [np.where(forgets, -node.threshold, 0.0)])


def subtracting_twice(reading: Reading) -> Reading:
    """
    Return snnTorch's neurons that subtract their threshold at the spike (`reset_delay=False`).

    Before a step, snnTorch takes the threshold off membranes above it, and gives it back behind the
    comparison: neurons above their threshold even after a reset need twice of it to fire again. With m
    the membrane after a step:

        r[t] = 1 if m[t-1] > threshold          u[t] = decay m[t-1] + I[t] - threshold r[t]
        s[t] = 1 if u[t] > threshold            m[t] = u[t] + threshold r[t] - threshold s[t]

    Without inputs that lift a membrane above two thresholds r stays 0, and this is the plain reset.
    Otherwise a twin that is never reset, and from whose membrane s subtracts, has the membrane m and
    fires r.
    """
    node = reading.node
    assert isinstance(node, LIF)
    alpha = _current_decay(node)
    room = (2 - node.decay) * node.threshold * (1 - alpha) / node.gain
    twin = replace(node, subtracts=np.zeros(node.shape))
    held = replace(reading, nodes={".held": twin}, twins=(".held",))
    held = _with_pulses(held, "", ".held", ".taken", [-node.threshold])
    again = [-node.threshold, node.decay * node.threshold]
    held = _with_pulses(held, ".held", "", ".again", again)
    return replace(reading, largest_input=room, otherwise=held)


def _current_decay(node: LIF) -> Float:
    return np.zeros(node.shape) if node.current_decay is None else node.current_decay


def _with_pulses(
    reading: Reading, source: str, target: str, name: str, amounts: Sequence[Float]
) -> Reading:
    """Return `reading` with spikes of `source` adding amounts[n] to the membrane of `target` n steps on."""
    node = reading.node
    assert isinstance(node, LIF)
    kernel: list[Float] = [*amounts, np.zeros(node.shape)]
    for step, amount in enumerate(amounts):
        kernel[step + 1] = kernel[step + 1] - _current_decay(node) * amount
    nodes, edges = dict(reading.nodes), list(reading.edges)
    for steps, amount in enumerate(kernel):
        if not amount.any():
            continue
        last = f"{name}{steps or ''}"
        nodes[last] = Scale(amount / node.gain)
        edges.append((source, last))
        if steps:
            nodes[f"{last}.late"] = Delay(np.array(steps))
            edges.append((last, f"{last}.late"))
            last = f"{last}.late"
        edges.append((last, target))
    return replace(reading, nodes=nodes, edges=tuple(edges))


# In the order of the questions: whether the time of a reset matters depends on the reset.
OPEN: Mapping[str, Reason] = {
    "reset": ("can reset to zero or subtract its threshold", "the file does not say which"),
    "reset_at": ("can reset at its spike or in the next step", "the file does not say when"),
    "fires": ("can fire above its threshold or at it", "the file does not say which"),
    "max_spikes": ("can fire once or several times a step", "the file does not say how often"),
    "min_membrane": ("can have a lowest membrane", "the file names none"),
    "synapse": ("can feel its current at once or in the next step", "the file does not say when"),
}
REMEDIES = {
    "max_spikes": "--max-spikes 1 or --max-spikes any",
    "min_membrane": "--min-membrane none, threshold or a number",
    "reset": "--reset zero or --reset subtract",
    "reset_at": "--reset-at spike or --reset-at next",
    "input_gain": "--input-gain 1 or --input-gain leak",
}


def open_gain() -> Reason:
    """Return the reason of neurons whose file does not say how they weigh their input."""
    return (
        "can weigh its input by 1 or by its leak",
        "the file does not say which",
        _remedy("input_gain"),
    )


def _remedy(name: str) -> str:
    return f"choose with {REMEDIES.get(name, flag(name))}"


def _reset_time_matters(values: Mapping[str, Any], habits: Habits) -> bool:
    """Return whether resets at the spike and one step later differ."""
    return not (values.get("reset") == "zero" and habits.late_zero == "same")


def _chosen(name: str, habit: Any, context: Context, framework: str) -> Any:
    """Return the option, or else the framework's habit, and note which."""
    given = getattr(context.options, name)
    if given is not None:
        context.notes.setdefault(name, f"{given}, as asked for")  # unless the file said so
        return given
    context.notes.setdefault(name, f"{habit}, as in {framework}")
    return habit


def _floor(lowest: float | str, threshold: Float) -> Float | None:
    if lowest == NONE:
        return None
    return -threshold if lowest == THRESHOLD else np.full(threshold.shape, float(lowest))
