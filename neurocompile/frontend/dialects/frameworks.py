"""
The recurrence that each framework runs, found in the numbers that its exporter writes.

D is the decay of the membrane in a step, G the gain of its input, a and g those of a synaptic current.

    literal         forward Euler:  D = 1 - dt/tau, G = r dt/tau         (IF: D = 1, G = r dt)
                    a = 1 - dt/tau_syn, g = w_in dt/tau_syn
    snntorch        Euler; r and w_in are written so that G = g = 1
    spikingjelly    Euler; r is 1 or tau/dt
    lava-dl         as snntorch, from integers: D and a are multiples of 1/4096
    spyx            Euler D, but r = D, and G = 1
    norse           Euler; its exporter writes tau = dt * (true tau), older ones the true tau; G = dt/tau,
                    currents jump by their input: g = 1
    sinabs          D = exp(-1/tau), tau in steps; r is always 1, G is 1 - D or 1
    rockpool        D = exp(-dt/tau), r = tau/dt D, and G = 1; its currents leak at once: g = a

How they fire and reset is each function's `Habits`. Sources: the frameworks' code at the versions that
the conformance page names, and their recordings in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neurocompile.frontend.dialects.readings import (
    Context,
    Dynamics,
    Habits,
    Reading,
    check_finite,
    integrating,
    open_gain,
    spiking,
    subtracting_twice,
)
from neurocompile.frontend.nir_neurons import NirNeurons
from neurocompile.frontend.nir_nodes import MalformedError, UndecidedError, needed_dt
from neurocompile.ir import LIF

Float = NDArray[np.float64]

DT_TOLERANCE = 1e-6  # of float32 files whose tau is dt
SAME = 1e-3  # relative: numbers of a file that mean one dt
USUAL_DT = 1e-4  # seconds: snnTorch writes no other, and the scripts for lava-dl neither
GRID = 4096  # of lava-dl's decays


@dataclass(frozen=True)
class Dialect:
    """How to find the step in seconds where nobody gives it, and how to read one population."""

    find_dt: Callable[[Iterable[NirNeurons]], float | None]
    read: Callable[[NirNeurons, Context], Reading]


# Steps


def _no_dt(_neurons: Iterable[NirNeurons]) -> None:
    return None


def _one(values: Iterable[Float]) -> float | None:
    """Return the number that all `values` are, within a relative tolerance; None if they differ."""
    every = [value.ravel() for value in values]
    flat = np.concatenate(every) if every else np.zeros(0)
    flat = flat[np.isfinite(flat)]
    if not flat.size or (flat <= 0).any() or flat.max() > flat.min() * (1 + SAME):
        return None
    return float(_rounded(float(np.median(flat))))


def _rounded(dt: float) -> float:
    """Return `dt` without the noise of float32, if there is a short number that near."""
    short = float(f"{dt:.3g}")
    return short if abs(short - dt) <= 1e-5 * dt else dt


def unit_gain_dt(neurons: Iterable[NirNeurons]) -> float | None:
    """Return the dt at which all gains of forward Euler are 1: tau / r, of IF neurons 1 / r."""
    found = []
    for item in neurons:
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append((item[item.membrane_time] if item.leaks else 1.0) / item["r"])
    return _one(found)


def spikingjelly_dt(neurons: Iterable[NirNeurons]) -> float | None:
    """
    Return the dt that SpikingJelly wrote into r, for all neurons that have it there.

    An LIFNode that divides its input by tau, the default, has r = 1, which tells nothing.
    """
    telling = [
        item for item in neurons if item.has_current or not item.leaks or not (item["r"] == 1).all()
    ]
    return unit_gain_dt(telling)


def rockpool_dt(neurons: Iterable[NirNeurons]) -> float | None:
    """Return the dt at which r = y exp(-1/y) with y = tau / dt, for all neurons."""
    found = []
    for item in neurons:
        if item.leaks:
            time, r = np.broadcast_arrays(item[item.membrane_time], item["r"])
            known = np.isfinite(time) & np.isfinite(r)
            found.append(time[known] / _steps_of(r[known]))
    return _one(found)


def _steps_of(r: Float) -> Float:
    """Return y with y exp(-1/y) = r, by Newton's method: the left side is steep and convex above 1."""
    y = r + 1.0
    for _ in range(50):
        value = y * np.exp(-1 / y)
        y = np.maximum(y - (value - r) / (np.exp(-1 / y) * (1 + 1 / y)), 1e-3)
    return np.asarray(y)


def spyx_dt(neurons: Iterable[NirNeurons]) -> float | None:
    """Return the dt at which r = 1 - dt / tau, for all neurons that leak."""
    leaky = [item for item in neurons if item.leaks and item.fires]
    return _one([item[item.membrane_time] * (1 - item["r"]) for item in leaky])


def _usual_dt(neurons: Iterable[NirNeurons]) -> float | None:
    return unit_gain_dt(list(neurons)) or USUAL_DT


# Recurrences


def _fraction(neurons: NirNeurons, name: str, dt: float | None) -> Float:
    """Return dt / tau for the time constants in a field; forward Euler needs it in (0, 1]."""
    step = needed_dt(dt)
    fraction = step / neurons[name]
    if (fraction > 1 + DT_TOLERANCE).any():
        raise MalformedError(
            (
                f"needs a time step of at most its time constant, {neurons[name].min():g} s",
                f"dt is {step:g} s",
                "give the dt that the network was trained with: --dt",
            )
        )
    return np.minimum(fraction, 1)


def _leak_voltage(neurons: NirNeurons) -> Float:
    return neurons.values.get("v_leak", np.zeros(neurons.shape))


def _decay(neurons: NirNeurons, tau: str, gain: str, dt: float) -> Float:
    """
    Return 1 - dt / tau as the framework multiplies with it, in float32.

    Several decays may be rounded to the same `tau` and `gain` = tau / dt of a float32 file ("": it has no
    such field); the one of them with the shortest binary fraction is what somebody chose, if anybody did.
    """
    found = (1 - _fraction(neurons, tau, dt)).astype(np.float32)
    if not neurons.single:
        return found.astype(np.float64)
    written = neurons[tau].astype(np.float32)
    single_dt = np.float32(dt)
    left = np.ones(found.shape, bool)
    result = found.copy()
    for bits in range(24):
        short = (np.rint(found.astype(np.float64) * 2**bits) / 2**bits).astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            again = single_dt / (1 - short)
            fits = left & (again == written)
            if gain:
                fits &= again / single_dt == neurons[gain].astype(np.float32)
        result = np.where(fits, short, result)
        left &= ~fits
    return result.astype(np.float64)


def _euler(neurons: NirNeurons, context: Context) -> Dynamics:
    """Return NIR's equations with the forward Euler step dt."""
    check_finite(neurons)
    current_decay, gain = None, np.ones(neurons.shape)
    if neurons.has_current:
        fraction = _fraction(neurons, "tau_syn", context.dt)
        current_decay, gain = 1 - fraction, fraction * neurons["w_in"]
    if not neurons.leaks:
        gain = neurons["r"] * needed_dt(context.dt)
        return Dynamics(np.ones(neurons.shape), gain, np.zeros(neurons.shape))
    fraction = _fraction(neurons, neurons.membrane_time, context.dt)
    return Dynamics(
        1 - fraction, neurons["r"] * fraction * gain, _leak_voltage(neurons), current_decay
    )


def _of_unit_gain(neurons: NirNeurons, context: Context, framework: str) -> Dynamics:
    """Return forward Euler with gains of exactly 1; raises `MalformedError` where they are others."""
    dt = needed_dt(context.dt)
    ones = np.ones(neurons.shape)
    decay, current_decay = ones, None
    with np.errstate(invalid="ignore"):  # a leak factor of 1 is an infinite time constant
        gains = [neurons["r"] * dt]
        if neurons.leaks:
            decay = _decay(neurons, neurons.membrane_time, "r", dt)
            gains = [neurons["r"] * dt / neurons[neurons.membrane_time]]
        if neurons.has_current:
            current_decay = _decay(neurons, "tau_syn", "w_in", dt)
            gains.append(neurons["w_in"] * dt / neurons["tau_syn"])
    for gain in gains:
        known = gain[np.isfinite(gain)]
        if (np.abs(known - 1) > SAME).any():
            extreme = known.flat[int(np.abs(known - 1).argmax())]
            raise MalformedError(
                (
                    f"needs an input gain of 1 to be a neuron of {framework}",
                    f"with dt {dt:g} it is {extreme:g}",
                    "give another --dt, or --profile literal",
                )
            )
    return Dynamics(decay, ones, _leak_voltage(neurons), current_decay)


def _literal(neurons: NirNeurons, context: Context) -> Reading:
    dynamics = _euler(neurons, context)
    if not neurons.fires:
        return integrating(neurons, dynamics, context, "now")
    reset = "zero" if neurons.names_reset and context.new_enough else None
    reading = spiking(neurons, dynamics, context, Habits("NIR", reset))
    if reset is not None and context.options.reset is None:
        context.notes["reset"] = "to v_reset, which the file names"
    return reading


def _snntorch(neurons: NirNeurons, context: Context) -> Reading:
    _without_leak_voltage(neurons, "snnTorch")
    dynamics = _of_unit_gain(neurons, context, "snnTorch")
    if not neurons.fires:
        return integrating(neurons, dynamics, context, "now")
    # Its exporter writes v_reset 0 whatever the reset is; only Leaky keeps the input of a late reset.
    keeps = not neurons.has_current and neurons.name not in context.recurrent
    late_zero: Literal["same", "rests"] = "same" if keeps else "rests"
    habits = Habits("snnTorch", None, reset_at=None, late_zero=late_zero, least_threshold=0.0)
    reading = spiking(neurons, dynamics, context, habits)
    if context.options.reset == "subtract" and context.options.reset_at == "spike":
        return subtracting_twice(reading)
    return reading


def _spikingjelly(neurons: NirNeurons, context: Context) -> Reading:
    weighs = (
        neurons.kind == "LIF" and (neurons["r"] == 1).all()
    )  # its input by dt/tau, `decay_input`
    dynamics = _euler(neurons, context)
    if not weighs:
        dynamics = _of_unit_gain(neurons, context, "SpikingJelly")
    if not neurons.fires:
        return integrating(neurons, dynamics, context, "now")
    start = neurons.values.get("v_reset")
    if start is not None and neurons.kind == "LIF" and (_leak_voltage(neurons) != start).any():
        raise MalformedError(
            (
                "needs v_leak = v_reset to be a neuron of SpikingJelly",
                f"they are {neurons['v_leak'].flat[0]:g} and {start.flat[0]:g}",
                "use another --profile",
            )
        )
    if context.options.reset == "subtract":
        start = None  # its soft reset has no voltage, and starts at 0
    dynamics = Dynamics(dynamics.decay, dynamics.gain, dynamics.leak, dynamics.current_decay, start)
    return spiking(neurons, dynamics, context, Habits("SpikingJelly", "zero", fires="at"))


def _sinabs(neurons: NirNeurons, context: Context) -> Reading:
    check_finite(neurons)
    _without_leak_voltage(neurons, "sinabs")
    if context.dt != 1:
        raise MalformedError(
            (
                "counts its time constants in steps, as sinabs does",
                f"--dt is {context.dt:g}",
                "leave --dt out",
            )
        )
    if (neurons["r"] != 1).any():
        raise MalformedError(
            ("needs r = 1 to be a neuron of sinabs", f"it is {neurons['r'].flat[0]:g}")
        )
    ones = np.ones(neurons.shape)
    decay = gain = ones
    if neurons.leaks:
        decay = np.exp(-(context.dt or 1.0) / neurons[neurons.membrane_time])
        if context.options.input_gain is None:
            raise UndecidedError(open_gain())
        gain = ones if context.options.input_gain == "1" else 1 - decay
        context.notes["input_gain"] = f"{context.options.input_gain}, as asked for"
    dynamics = Dynamics(decay, gain, np.zeros(neurons.shape))
    if not neurons.fires:
        return integrating(neurons, dynamics, context, "now")
    habits = Habits(
        "sinabs",
        "subtract",
        fires="at",
        max_spikes=None,
        min_membrane=None,
    )
    reading = spiking(neurons, dynamics, context, habits)
    # sinabs cuts the membrane off behind the reset, which leaves nothing below 0.
    floor = reading.node.floor if isinstance(reading.node, LIF) else None
    if floor is not None and (floor > 0).any():
        raise UndecidedError(
            (
                "needs a lowest membrane of at most 0 to be a neuron of sinabs",
                f"it is {floor.max():g}",
                "use another --min-membrane",
            )
        )
    return reading


def _norse(neurons: NirNeurons, context: Context) -> Reading:
    check_finite(neurons)
    _needs(neurons, "Norse", r=1, w_in=1)
    dt = needed_dt(context.dt)
    ones = np.ones(neurons.shape)
    decay, gain, current_decay = ones, ones, None
    if neurons.leaks:
        gain = _norse_fraction(neurons, neurons.membrane_time, dt, context)
        decay = 1 - gain
    if neurons.has_current:
        current_decay = 1 - _norse_fraction(neurons, "tau_syn", dt, context)
    leak = _leak_voltage(neurons)
    dynamics = Dynamics(decay, gain, leak, current_decay, leak)
    if not neurons.fires:
        return integrating(neurons, dynamics, context, "now")
    return spiking(neurons, dynamics, context, Habits("Norse", None))


def _norse_fraction(neurons: NirNeurons, name: str, dt: float, context: Context) -> Float:
    """
    Return dt / tau; Norse 1.1 writes dt times the true tau, older versions the true one.

    One version wrote the whole file, and no true tau is shorter than a step: a single one that is decides
    for all. Where none is, the file's own version does: Norse 1.1 writes none before nir 1.0.
    """
    written = neurons[name]
    if context.shortest_time >= dt * (1 - DT_TOLERANCE):
        if not context.before_nir_1:
            raise UndecidedError(
                (
                    f"may have the true time constant in '{name}', or dt times it",
                    f"with dt {dt:g} s both are possible",
                    "if it is the true one, read the file with --profile literal; Norse 1.1 writes the other",
                )
            )
        context.notes["tau"] = f"{name} as written: it is longer than a step"
        return np.minimum(dt / written, 1)
    context.notes["tau"] = f"{name} is dt times the true one, as Norse 1.1 writes it"
    fraction = dt * (dt / written)
    if (fraction > 1 + SAME).any():
        raise MalformedError(
            (
                f"needs a time step of at most its time constant, {written.min() / dt:g} s",
                f"dt is {dt:g} s",
                "give the dt that the file was exported with: --dt",
            )
        )
    return np.minimum(fraction, 1)


def _rockpool(neurons: NirNeurons, context: Context) -> Reading:
    check_finite(neurons)
    _without_leak_voltage(neurons, "Rockpool")
    _needs(neurons, "Rockpool", w_in=1, **({} if neurons.leaks else {"r": 1}))
    dt = needed_dt(context.dt)
    ones = np.ones(neurons.shape)
    decay, gain, current_decay = ones, ones, None
    if neurons.leaks:
        decay = np.exp(-dt / neurons[neurons.membrane_time])
        _check_rockpool(neurons, decay, dt)
    if neurons.has_current:
        gain = current_decay = np.exp(-dt / neurons["tau_syn"])
    if not neurons.fires:
        return integrating(
            neurons, Dynamics(decay, gain * decay, 0 * ones, current_decay), context, "now"
        )
    habits = Habits("Rockpool", "subtract", fires="at", max_spikes="any")
    return spiking(neurons, Dynamics(decay, gain, 0 * ones, current_decay), context, habits)


def _check_rockpool(neurons: NirNeurons, decay: Float, dt: float) -> None:
    written = neurons["r"]
    expected = neurons[neurons.membrane_time] / dt * decay
    if (np.abs(written - expected) > SAME * np.abs(expected)).any():
        raise MalformedError(
            (
                f"needs r = tau/dt exp(-dt/tau) = {expected.flat[0]:g} to be a neuron of Rockpool",
                f"with dt {dt:g} it is {written.flat[0]:g}",
                "give another --dt, or another --profile",
            )
        )


def _spyx(neurons: NirNeurons, context: Context) -> Reading:
    check_finite(neurons)
    _without_leak_voltage(neurons, "Spyx")
    _needs(neurons, "Spyx", w_in=1, v_reset=0, **({} if neurons.leaks else {"r": 1}))
    dt = needed_dt(context.dt)
    ones = np.ones(neurons.shape)
    decay, current_decay = ones, None
    if neurons.leaks:
        decay = _decay(neurons, neurons.membrane_time, "", dt)
        expected = decay if neurons.fires else ones
        if (np.abs(neurons["r"] - expected) > SAME).any():
            raise MalformedError(
                (
                    f"needs r = {expected.flat[0]:g} to be a neuron of Spyx",
                    f"with dt {dt:g} it is {neurons['r'].flat[0]:g}",
                    "give another --dt, or another --profile",
                )
            )
    if neurons.has_current:
        current_decay = _decay(neurons, "tau_syn", "", dt)
    dynamics = Dynamics(decay, ones, 0 * ones, current_decay)
    if not neurons.fires:
        return integrating(neurons, dynamics, context, "now")
    # A spike tells that the step before ended above the threshold, and only then is subtracted.
    at = "spike" if neurons.has_current else "next"
    habits = Habits("Spyx", "subtract", reset_at=at, least_threshold=0.0)
    reading = spiking(neurons, dynamics, context, habits)
    return replace(reading, after=1)


def _lava_dl(neurons: NirNeurons, context: Context) -> Reading:
    _without_leak_voltage(neurons, "lava-dl")
    dynamics = _of_unit_gain(neurons, context, "lava-dl")
    dynamics = Dynamics(
        _on_grid(dynamics.decay),
        dynamics.gain,
        dynamics.leak,
        None if dynamics.current_decay is None else _on_grid(dynamics.current_decay),
    )
    if not neurons.fires:
        return integrating(neurons, dynamics, context, "now")
    return spiking(neurons, dynamics, context, Habits("lava-dl", "zero"))


def _on_grid(decay: Float) -> Float:
    """Return the multiple of 1/4096 that a decay is, but for the rounding of float32."""
    near = np.rint(decay * GRID)
    return np.where(np.abs(near - decay * GRID) < SAME, near / GRID, decay)


def _needs(neurons: NirNeurons, framework: str, **written: float) -> None:
    """Raise `MalformedError` unless fields hold the only number that a framework's exporter writes there."""
    reasons = [
        (
            f"needs {name} = {number:g} to be a neuron of {framework}",
            f"it is {neurons[name].flat[0]:g}",
            "use another --profile",
        )
        for name, number in written.items()
        if name in neurons.values and (neurons[name] != number).any()
    ]
    if reasons:
        raise MalformedError(*reasons)


def _without_leak_voltage(neurons: NirNeurons, framework: str) -> None:
    if _leak_voltage(neurons).any():
        raise MalformedError(
            (
                f"needs v_leak = 0 to be a neuron of {framework}",
                f"it is {neurons['v_leak'].flat[0]:g}",
                "use another --profile",
            )
        )


DIALECTS: Mapping[str, Dialect] = {
    "literal": Dialect(_no_dt, _literal),
    "ours": Dialect(_no_dt, _literal),
    "snntorch": Dialect(_usual_dt, _snntorch),
    "spikingjelly": Dialect(spikingjelly_dt, _spikingjelly),
    "sinabs": Dialect(lambda _neurons: 1.0, _sinabs),
    "norse": Dialect(_no_dt, _norse),
    "rockpool": Dialect(rockpool_dt, _rockpool),
    "spyx": Dialect(spyx_dt, _spyx),
    "lava-dl": Dialect(_usual_dt, _lava_dl),
}


def candidates(neurons: Iterable[NirNeurons]) -> list[str]:
    """Return the profiles whose frameworks could have written these numbers; literal is always one."""
    items = list(neurons)
    leaky = [item for item in items if item.leaks]
    found = []
    if leaky and (dt := rockpool_dt(items)) is not None and _is_short(dt):
        found.append(f"rockpool with dt {dt:g}")
    if (dt := spyx_dt(items)) is not None and _is_short(dt):
        found.append(f"spyx with dt {dt:g}")
    if (dt := unit_gain_dt(items)) is not None and _is_short(dt):
        usual = abs(dt - USUAL_DT) <= SAME * USUAL_DT
        found += [f"{name} with dt {dt:g}" for name in ("snntorch", "lava-dl") if usual]
    if (dt := spikingjelly_dt(items)) is not None and _is_short(dt):
        found.append(f"spikingjelly with dt {dt:g}")
    elif leaky and all((item["r"] == 1).all() for item in leaky):
        found.append("spikingjelly")  # dividing its input by tau: r tells no dt
    if all((item["r"] == 1).all() for item in items):
        found += [] if any(item.has_current for item in items) else ["sinabs"]
        found.append("norse")
    return [*dict.fromkeys(found), "literal"]


def _is_short(dt: float) -> bool:
    """Return whether `dt` is a number that somebody would choose."""
    return abs(dt - float(f"{dt:.1e}")) <= DT_TOLERANCE * 100 * dt
