"""
Neurons in ONNX's operators, as `fixedpoint`'s definition steps them; what a population does not need is left out.

All numbers are integers: int32, or int64 where a product or a sum could be larger. ONNX's `Div` of integers is
used of what is not negative only, where all runtimes agree. With V = threshold in state units:

    u = decayed(u, 1 - (du + 1)) + a        a alone, if the current has no memory
    v = decayed(v, 1 - dv) + u + bias       and what the first step adds
    v = clip(v, floor, end)
    s = v > V                               or how often V fits, at most `most` times
    v = 0 where s, or v - s * subtracts
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurocompile.integer import Bound, Integer, IntegerNeurons, largest_of
from neurocompile_onnx.graph import Graph, Value
from neurocompile_onnx.ranges import (
    INT32_END,
    common_divisor,
    smallest_type,
    span,
    wide_type,
)
from neurocompile_onnx.sums import Sum

MANY = 64  # values of a constant from which on it is worth a `Cast` to store them narrowly


@dataclass(frozen=True)
class State:
    """
    What a population remembers from one step to the next: (batch, *shape).

    `initial` is what every element is before the first step of a sample.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    initial: int
    doc: str

    @property
    def described(self) -> str:
        """What people read of it; a state that begins with zeros needs no word on that."""
        return f"{self.doc}; {self.initial} before the first step" if self.initial else self.doc


@dataclass(frozen=True)
class Fired:
    """
    What neurons did in a step, and their next states.

    `shown` is what a read-out shows, or the membrane before the reset; `after` the membrane after it.
    """

    spikes: Value | None
    shown: Value
    after: Value
    next_states: Mapping[str, Value]


class Neurons:
    """The equations of one population; `bound` is its proof, over the steps that a sample may have."""

    def __init__(self, neurons: IntegerNeurons, bound: Bound) -> None:
        self.neurons, self.bound = neurons, bound
        arithmetic = neurons.arithmetic
        one = arithmetic.decay_one
        self.current_factor = _collapsed(one - (neurons.du + 1))
        self.leak_factor = _collapsed(one - neurons.dv)
        self.remembers_current = bool(self.current_factor.any())
        self.remembers_membrane = bool(self.leak_factor.any())
        # What shows its input is seldom a neuron as well.
        self.integrates = (
            neurons.shows != "input" or self.remembers_current or self.remembers_membrane
        )
        self.starts = self.integrates and bool(neurons.start.any())
        self.first_matters = self.starts or bool(neurons.pulse.any())
        # The largest u, from the proof; one that is not proven to fit wraps or saturates.
        largest = bound.current * arithmetic.state_units
        self.u_fits = largest <= arithmetic.current_end
        self.largest_u = largest if self.u_fits else largest + arithmetic.current_end
        added = self.largest_u + largest_of(neurons.bias) + largest_of(neurons.start)
        self.largest_v = self._find_largest_v(added)
        threshold = largest_of(neurons.threshold) * arithmetic.state_units
        self.v_type = wide_type(max(self.largest_v + added, self._widest_v(added), threshold))

    def states(self) -> list[State]:
        """Return what the population remembers, in the order of the model's inputs."""
        neurons = self.neurons
        name, shape = neurons.name, neurons.shape
        found = []
        if self.first_matters:
            doc = "1 in the first step of a sample, 0 after it"
            ones = (1,) * len(shape)
            found.append(State(f"first/{name}", np.dtype(np.int32), ones, 1, doc))
        if self.remembers_current:
            dtype = wide_type(self.largest_u)
            found.append(State(f"u/{name}", dtype, shape, 0, "currents, in state units"))
        if self.remembers_membrane:
            doc = "membranes after the reset, in state units"
            found.append(State(f"v/{name}", self.v_type, shape, 0, doc))
        if neurons.refractory:
            doc = "steps that neurons still rest"
            found.append(State(f"resting/{name}", np.dtype(np.int32), shape, 0, doc))
        return found

    @property
    def spike_type(self) -> np.dtype[Any]:
        """What spikes are stored as."""
        return smallest_type((0, self.neurons.most))

    def step(self, graph: Graph, arriving: Sum, states: Mapping[str, Value]) -> Fired:
        """
        Write one step into `graph`.

        `arriving` is what groups deliver, in state units; `states` are the values of `self.states()`.
        """
        neurons, name = self.neurons, self.neurons.name
        following: dict[str, Value] = {}
        first: Value | None = None
        if self.first_matters:
            first = states[f"first/{name}"]
            following[f"first/{name}"] = graph.node("Sub", first, first, name="never_again")
        x = arriving.value
        if neurons.pulse.any():
            assert first is not None
            pulse = neurons.pulse << neurons.arithmetic.fraction_bits
            x = self._add_at_first(graph, x, "pulse", pulse, first)
        shown: Value | None = None
        if neurons.shows == "input":
            dtype = wide_type(arriving.largest + largest_of(neurons.bias))
            shown = self._plus(graph, graph.cast(x, dtype), "bias", neurons.bias)
            if not self.integrates:
                return Fired(None, shown, shown, following)

        u = self._current(graph, x, states)
        if self.remembers_current:
            following[f"u/{name}"] = u
        before = self._membrane(graph, u, states.get(f"v/{name}"), first)
        resting: Value | None = None
        if neurons.readout:
            # It is proven never to fire.
            if self.remembers_membrane:
                following[f"v/{name}"] = before
            return Fired(None, before if shown is None else shown, before, following)
        if neurons.refractory:
            rest = states[f"resting/{name}"]
            resting = graph.node("Greater", rest, self._number(graph, 0, rest), dtype=bool)
            before = graph.node(
                "Where", resting, self._number(graph, 0, before), before, dtype=before.dtype
            )
        fired, count, after = self._fire(graph, before, resting)
        if neurons.refractory:
            rested = graph.node("Sub", rest, self._number(graph, 1, rest))
            rested = graph.node("Max", rested, self._number(graph, 0, rest))
            lasts = self._number(graph, neurons.refractory, rest)
            following[f"resting/{name}"] = graph.node(
                "Where", fired, lasts, rested, dtype=rest.dtype
            )
        if self.remembers_membrane:
            following[f"v/{name}"] = after
        return Fired(graph.cast(count, self.spike_type), before, after, following)

    def _current(self, graph: Graph, x: Value, states: Mapping[str, Value]) -> Value:
        arithmetic = self.neurons.arithmetic
        if self.remembers_current:
            with graph.scope("current"):
                u = states[f"u/{self.neurons.name}"]
                kept = self._decayed(graph, u, self.current_factor, self.largest_u, False)
                dtype = np.promote_types(kept.dtype, x.dtype)
                x = graph.node("Add", graph.cast(kept, dtype), graph.cast(x, dtype))
        if not self.u_fits:
            with graph.scope("current"):
                overflow, bits = arithmetic.current_overflow, arithmetic.current_bits
                x = self._ended(graph, x, overflow, bits)
        if self.remembers_current:
            return graph.cast(x, wide_type(self.largest_u))
        return x

    def _membrane(self, graph: Graph, u: Value, old: Value | None, first: Value | None) -> Value:
        neurons, arithmetic = self.neurons, self.neurons.arithmetic
        v = graph.cast(u, self.v_type)
        if self.remembers_membrane:
            assert old is not None
            with graph.scope("leak"):
                kept = self._decayed(
                    graph, old, self.leak_factor, self.largest_v, self._never_negative()
                )
            v = graph.node("Add", graph.cast(kept, self.v_type), v)
        v = self._plus(graph, v, "bias", neurons.bias)
        if self.starts:
            assert first is not None
            v = self._add_at_first(graph, v, "start", neurons.start, first)
        if arithmetic.membrane_overflow == "saturate":
            return self._clipped(graph, v)
        if neurons.floored:
            never = np.iinfo(v.dtype).min
            lowest = np.where(neurons.floor > arithmetic.no_floor, neurons.floor, never)
            v = graph.node("Max", v, self._array(graph, "floor", lowest, v.dtype))
        if self._never_wraps():
            return graph.cast(v, self.v_type)
        with graph.scope("membrane"):
            return graph.cast(self._ended(graph, v, "wrap", arithmetic.membrane_bits), self.v_type)

    def _clipped(self, graph: Graph, v: Value) -> Value:
        neurons, arithmetic = self.neurons, self.neurons.arithmetic
        if self._stays_inside():
            return v
        lowest = np.maximum(neurons.floor, arithmetic.no_floor)
        # Older runtimes have no `Clip` of int32.
        v = graph.node("Max", v, self._array(graph, "floor", lowest, v.dtype))
        return graph.node("Min", v, self._number(graph, arithmetic.membrane_end, v))

    def _fire(self, graph: Graph, v: Value, resting: Value | None) -> tuple[Value, Value, Value]:
        """Return where neurons fire, how often, and the membranes after it."""
        neurons = self.neurons
        threshold = _collapsed(neurons.threshold << neurons.arithmetic.fraction_bits)
        count: Value | None = None
        if neurons.most == 1:
            operator = "GreaterOrEqual" if neurons.inclusive else "Greater"
            level = self._array(graph, "threshold", threshold, v.dtype)
            fired = graph.node(operator, v, level, name="fires", dtype=bool)
            if resting is not None:
                awake = graph.node("Not", resting)
                fired = graph.node("And", fired, awake)
        else:
            fits = v if neurons.inclusive else graph.node("Sub", v, self._number(graph, 1, v))
            fits = graph.node("Max", fits, self._number(graph, 0, v))
            fits = graph.node("Div", fits, self._array(graph, "threshold", threshold, v.dtype))
            most = self._number(graph, min(neurons.most, INT32_END), v)
            count = graph.node("Min", fits, most, name="spikes")
            if resting is not None:
                zero = self._number(graph, 0, v)
                count = graph.node("Where", resting, zero, count, dtype=v.dtype)
            fired = graph.node("Greater", count, self._number(graph, 0, v), dtype=bool)
        if neurons.reset == "subtract":
            amount = self._array(graph, "subtracts", neurons.subtracts, v.dtype)
            if count is not None:
                after = graph.node("Sub", v, graph.node("Mul", count, amount), name="reset")
            else:
                less = graph.node("Sub", v, amount)
                after = graph.node("Where", fired, less, v, name="reset", dtype=v.dtype)
        else:
            zero = self._number(graph, 0, v)
            after = graph.node("Where", fired, zero, v, name="reset", dtype=v.dtype)
        return fired, fired if count is None else count, after

    def _decayed(
        self, graph: Graph, state: Value, factor: Integer, largest: int, positive: bool
    ) -> Value:
        """Return `state * factor / 2^decay_bits`, rounded as the arithmetic says; see `Arithmetic`."""
        arithmetic = self.neurons.arithmetic
        one, bits = arithmetic.decay_one, arithmetic.decay_bits
        if (factor == one).all():
            return state
        while bits and not (factor & 1).any():
            # The same fraction in lower terms: smaller products.
            factor, bits = factor >> 1, bits - 1
        one = 1 << bits
        rounding = (one >> 1) if arithmetic.rounding == "nearest" else 0
        zero = positive or arithmetic.rounding == "zero"
        product_largest = largest * largest_of(factor)
        # A multiple of 2^bits that makes every product positive.
        offset = 0 if zero else (product_largest >> bits) + 1
        dtype = wide_type(product_largest + (offset << bits) + rounding + one)
        values = graph.cast(state, dtype)
        divisor = graph.constant(f"two_to_{bits}", one, dtype)
        if arithmetic.rounding == "zero" and not positive:
            size = graph.node(
                "Div", self._multiplied(graph, graph.node("Abs", values), factor), divisor
            )
            return graph.node("Mul", graph.node("Sign", values), size)
        product = self._multiplied(graph, values, factor)
        if (offset << bits) + rounding:
            add = graph.constant("offset", (offset << bits) + rounding, dtype)
            product = graph.node("Add", product, add)
        divided = graph.node("Div", product, divisor)
        if not offset:
            return divided
        return graph.node("Sub", divided, graph.constant("offset", offset, dtype))

    def _multiplied(self, graph: Graph, values: Value, factor: Integer) -> Value:
        if (factor == 1).all():
            return values
        return graph.node("Mul", values, self._array(graph, "factor", factor, values.dtype))

    def _ended(self, graph: Graph, x: Value, overflow: str, bits: int) -> Value:
        """Return what a chip keeps of states that may leave `bits`; see `Arithmetic`."""
        end = 1 << (bits - 1)
        x = graph.cast(x, np.int64)
        if overflow == "saturate":
            return graph.node(
                "Clip", x, self._number(graph, 1 - end, x), self._number(graph, end - 1, x)
            )
        turn = self._number(graph, 2 * end, x)
        above = graph.node("Greater", x, self._number(graph, end, x), dtype=bool)
        below = graph.node("LessOrEqual", x, self._number(graph, -end, x), dtype=bool)
        raised = graph.node("Where", below, graph.node("Add", x, turn), x, dtype=x.dtype)
        return graph.node("Where", above, graph.node("Sub", x, turn), raised, dtype=x.dtype)

    def _add_at_first(
        self, graph: Graph, x: Value, name: str, amount: Integer, first: Value
    ) -> Value:
        dtype = np.promote_types(x.dtype, wide_type(largest_of(amount) + INT32_END // 2))
        once = graph.node("Mul", graph.cast(first, dtype), self._array(graph, name, amount, dtype))
        return graph.node("Add", graph.cast(x, dtype), once)

    def _plus(self, graph: Graph, x: Value, name: str, amount: Integer) -> Value:
        if not amount.any():
            return x
        return graph.node("Add", x, self._array(graph, name, amount, x.dtype), name=f"add_{name}")

    def _array(self, graph: Graph, name: str, values: Integer, dtype: Any) -> Value:
        """Return a constant of type `dtype`, stored as narrowly as it can be where it is large."""
        array = _collapsed(values)
        if array.size < MANY:
            return graph.constant(name, array, dtype)
        divisor = common_divisor(array)
        narrow = array // divisor
        stored = smallest_type(span(narrow))
        if stored.itemsize >= np.dtype(dtype).itemsize:
            return graph.constant(name, array, dtype)
        wide = graph.cast(graph.constant(name, narrow, stored), dtype)
        if divisor == 1:
            return wide
        return graph.node("Mul", wide, graph.constant(f"times_{divisor}", divisor, dtype))

    def _number(self, graph: Graph, number: int, like: Value) -> Value:
        return graph.constant(f"{'minus_' if number < 0 else ''}{abs(number)}", number, like.dtype)

    def _find_largest_v(self, added: int) -> int:
        """
        Return the largest magnitude of a membrane after the reset, where a step adds `added` at most.

        Neurons that did not fire are not above their threshold, and below them reaches the proof. Where
        membranes saturate below or wrap, they may be anywhere.
        """
        neurons, arithmetic = self.neurons, self.neurons.arithmetic
        widest = self._widest_v(added)
        if neurons.saturates or arithmetic.membrane_overflow == "wrap":
            return widest
        threshold = largest_of(neurons.threshold) * arithmetic.state_units
        return min(max(self.bound.membrane, threshold), widest)

    def _widest_v(self, added: int) -> int:
        """Return the largest magnitude that a membrane can have without any proof, before or after the reset."""
        neurons, arithmetic = self.neurons, self.neurons.arithmetic
        widest = arithmetic.membrane_end
        if arithmetic.membrane_overflow == "wrap":
            # One wrap a step takes off less than such a step adds.
            widest += 1 + max(0, added - 2 * widest) * self.bound.steps
        if neurons.reset == "subtract":
            least = max(1, int(neurons.threshold.min(initial=1))) * arithmetic.state_units
            fits = 1 if neurons.most == 1 else min(neurons.most, widest // least + 1)
            widest += fits * largest_of(neurons.subtracts)
        return widest

    def _stays_inside(self) -> bool:
        """
        Return whether no end of the membrane's range matters.

        Below that is proven. Above it is, too, but for neurons that are reset to zero: they fire there all the
        same, once.
        """
        neurons, arithmetic = self.neurons, self.neurons.arithmetic
        proven = self.bound.membrane <= arithmetic.membrane_end
        threshold = largest_of(neurons.threshold) * arithmetic.state_units
        once = neurons.reset == "zero" and neurons.most == 1
        above = threshold < arithmetic.membrane_end if once else True
        return proven and above and not neurons.saturates and not neurons.floored

    def _never_wraps(self) -> bool:
        """Return whether membranes are proven to stay inside: where they would wrap, the proof bounds both ends."""
        return self.bound.membrane <= self.neurons.arithmetic.membrane_end and (
            not self.neurons.saturates
        )

    def _never_negative(self) -> bool:
        neurons = self.neurons
        return (
            neurons.arithmetic.membrane_overflow == "saturate"
            and neurons.reset == "zero"
            and bool((neurons.floor >= 0).all())
        )


def _collapsed(values: Integer) -> Integer:
    """Return `values` with an extent of 1 along axes on which they do not differ; a number if nowhere."""
    array = np.asarray(values)
    for axis in range(array.ndim):
        first = array.take([0], axis)
        if (array == first).all():
            array = first
    return array.reshape(()) if array.size == 1 else array
