"""
Record what a module computes in one time step, by running it.

A run on tensors that remember where they come from sees what the module really does, whatever Python
it is written in. Each tensor of the run is known by an `Expr`, what makes it of the inputs and spikes
of its own step, and by when: at one step, at all of them (a time axis, or time inside the batch), or
at none, where it does not depend on time. Equal expressions are one object. So a network that steps
through time in its own loop has the same expressions in every turn, or it is no network of neurons that
does the same at every step, and is refused; what it takes from the turn before is `late`.

Only what reaches the output matters: what cannot be expressed is an `unknown` that may go unused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neurocompile.errors import Problem
from neurocompile.frontend.modules.channel_affine import is_batchnorm
from neurocompile.frontend.modules.neurons import Neurons, UnreadableError, neurons_of
from neurocompile.integer import Shape

Layout = Literal["step", "time first", "batch first", "merged", "constant"]

Lead = Literal["n", "1n", "n1", "tn", "nt", "tn*", "nt*"]  # the leading axes; * where they are one
FORMS: Mapping[Lead, tuple[Lead, ...]] = {  # that a change of shape can make of each other
    **dict.fromkeys(("n", "1n", "n1"), ("n", "1n", "n1")),
    **dict.fromkeys(("tn", "tn*"), ("tn", "tn*")),
    **dict.fromkeys(("nt", "nt*"), ("nt", "nt*")),
}

SIZES = (
    3,
    5,
    7,
    11,
    13,
    17,
    19,
    23,
    29,
    31,
    37,
    41,
    43,
    47,
)  # of batches and times, unlike any other
STEPS = 3  # that a module which is called for each step is called for
UNKNOWN = "unknown"

REPEATS = {"repeat", "expand", "tile", "broadcast_to", "expand_as", "repeat_interleave"}
MOVES = {  # what rearranges values without changing any
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose"),
    *("movedim", "moveaxis", "swapaxes", "swapdims", "t", "select", "getitem", "unbind", "narrow"),
    *("chunk", "split", "view_as", "reshape_as", "ravel", *REPEATS),
}
COPIES = {
    *("clone", "contiguous", "detach", "requires_grad_", "to", "float", "double", "cpu", "type"),
    *("alias", "retain_grad", "type_as", "detach_", "identity"),
}
SHAPES_ONLY = {  # what takes no value from a tensor
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "new_zeros", "new_ones"),
    *("new_empty", "new_full", "new_tensor", "randn_like"),
}
LEAKS = {  # what hands values to Python
    *("bool", "item", "tolist", "float", "int", "index", "numpy", "equal", "allclose", "contains"),
    *("is_nonzero", "array", "complex"),
}
SPIKINGJELLY_LAYERS = {
    *("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "Linear", "Flatten"),
    *("MaxPool1d", "MaxPool2d", "AvgPool1d", "AvgPool2d", "AdaptiveAvgPool2d", "GroupNorm"),
    *("Dropout", "Dropout2d", "VotingLayer", "Delay", "Upsample", "SynapseFilter"),
}


class RefusedError(Exception):
    """A run that cannot be taken apart; `problem` says where and why."""

    def __init__(self, layer: str, *reason: str) -> None:
        self.problem = Problem(layer, *reason)


@dataclass(frozen=True, eq=False)
class Expr:
    """
    A value of one step: what `kind` of thing makes it, and of what.

    `name` is a module's or an operation's; `shape` is without batch and time. `detail` is what else an
    operation needs.
    """

    kind: str
    name: str
    arguments: tuple[Expr, ...]
    shape: Shape
    detail: Any = None


@dataclass(frozen=True)
class Value:
    """
    An expression of a tensor in the run, and when: at a step, "all", or None where time plays no part.

    `total` are the steps of a sum over time, `note` what else was done over time.
    """

    expr: Expr
    time: int | Literal["all", "over"] | None
    lead: Lead = "n"
    total: tuple[int, ...] = ()
    note: str = ""


class Traced(Tensor):
    """A tensor that knows its `Value`, and tells a `Recorder` what is done with it."""

    value: Value
    recorder: Recorder

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        traced = next(_traced((args, kwargs or {})), None)
        if traced is None:  # hidden in something else: a result that nothing is known of
            return func(*args, **dict(kwargs or {}))
        return traced.recorder.operation(func, args, dict(kwargs or {}))


@dataclass
class Called:
    """What is known of a layer of neurons after the run: its input at every step, and its shape."""

    neurons: Neurons
    shape: Shape
    inputs: list[Expr] = field(default_factory=list)
    state: tuple[int, ...] = ()


class Recorder:
    """Runs a module, and collects its neurons and the expressions of all of its tensors."""

    def __init__(self, module: nn.Module, input_shape: Shape) -> None:
        self.module = module
        self.input_shape = input_shape
        self.exprs: dict[Any, Expr] = {}
        self.kept: list[Any] = []  # what keys name by its address
        self.called: dict[str, Called] = {}
        self.steps: int | None = None
        self.inside: list[str] = []
        self.names = {id(part): name for name, part in module.named_modules()}
        self.neurons = {
            id(part): found for part in module.modules() if (found := neurons_of(part)) is not None
        }
        sizes = {size for held in module.state_dict().values() for size in held.shape}
        free = [size for size in SIZES if size not in sizes | set(input_shape)]
        self.batch = free[0]
        self.times = free[1]

    def run(self, layout: Layout, x: Tensor, extra: int = 0) -> list[Any]:
        """
        Run the module in a `layout` on `x` (time, batch, *shape), and return what each call returned.

        `extra` is how many states the module takes and returns, where it is called for each step.
        """
        handles = list(self._hooks())
        times, batch = x.shape[:2]
        try:
            with torch.no_grad():
                if layout == "step":
                    return self._step_by_step(x, extra)
                source = self.expr("input", "input", (), self.input_shape)
                match layout:
                    case "time first":
                        tensor, lead = x, "tn"
                    case "batch first":
                        tensor, lead = x.transpose(0, 1).contiguous(), "nt"
                    case "merged":
                        tensor, lead = x.transpose(0, 1).reshape(-1, *x.shape[2:]), "nt*"
                    case _:
                        tensor, lead = x[0], "n"
                self.steps = None if layout == "constant" else times
                self.batch, self.times = batch, times
                time = None if layout == "constant" else "all"
                traced = self.wrap(tensor.clone(), Value(source, time, lead))  # type: ignore[arg-type]
                more = (times,) if layout == "merged" else ()
                return [self.module(traced, *more)]
        finally:
            for handle in handles:
                handle.remove()

    def _step_by_step(self, x: Tensor, extra: int) -> list[Any]:
        source = self.expr("input", "input", (), self.input_shape)
        self.steps, self.batch = len(x), x.shape[1]
        states: tuple[Any, ...] = (None,) * extra
        results = []
        for step, now in enumerate(x):
            result = self.module(self.wrap(now.clone(), Value(source, step)), *states)
            if extra:
                if not isinstance(result, tuple | list) or len(result) <= extra:
                    raise RefusedError(
                        "",
                        f"must return its {extra} states behind its output, as it takes them",
                        f"it returns {_describe(result)}",
                    )
                states = tuple(result[-extra:])
                result = tuple(result[:-extra])
            results.append(result)
        return results

    def expr(
        self, kind: str, name: str, arguments: tuple[Expr, ...], shape: Shape, detail: Any = None
    ) -> Expr:
        """Return the one expression of these parts."""
        key = (kind, name, tuple(id(part) for part in arguments), shape, _key(detail))
        if key not in self.exprs:
            self.exprs[key] = Expr(kind, name, arguments, shape, detail)
            self.kept.append(detail)
        return self.exprs[key]

    def wrap(self, tensor: Tensor, value: Value) -> Traced:
        """Return `tensor` as one that knows its value."""
        traced = tensor.detach().as_subclass(Traced)
        traced.value, traced.recorder = value, self
        return traced

    # Modules ------------------------------------------------------------------------------------

    def _hooks(self) -> Iterator[Any]:
        for name, part in self.module.named_modules():
            if id(part) in self.neurons or is_leaf(part):
                before, after = self._leaf_hooks(name, part)
                yield part.register_forward_pre_hook(before, with_kwargs=True)
                yield part.register_forward_hook(after, with_kwargs=True)

    def _leaf_hooks(self, name: str, part: nn.Module) -> tuple[Any, Any]:
        pending: list[tuple[tuple[Any, ...], dict[str, Any]] | None] = []

        def before(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            traced = any(True for _ in _traced((args, kwargs)))
            outermost = traced and not any(self.inside)
            pending.append((args, kwargs) if outermost else None)
            self.inside.append(name if outermost else "")
            if outermost and id(part) in self.neurons:
                self._before_neurons(name, part)
            return _plain(args), _plain(kwargs)

        def after(_module: nn.Module, _args: Any, _kwargs: Any, result: Any) -> Any:
            self.inside.pop()
            given = pending.pop()
            if given is None:
                return result
            if id(part) in self.neurons:
                return self._after_neurons(name, part, *given, result)
            return self._after_leaf(name, *given, result)

        return before, after

    def _after_leaf(self, name: str, args: Any, kwargs: Any, result: Any) -> Any:
        values = [traced.value for traced in _traced((args, kwargs))]
        if not isinstance(result, Tensor) or len(values) != 1:
            return self._unknown(name, values, result)
        (value,) = values
        shape = self._rest(value.lead, result.shape)
        if shape is None or value.time == "over" or value.total:
            return self._unknown(name, values, result)
        made = self.expr("module", name, (value.expr,), shape)
        return self.wrap(result, replace(value, expr=made, total=(), note=""))

    def _before_neurons(self, name: str, part: nn.Module) -> None:
        """Check that the neurons still hold what the step before left in them."""
        known = self.called.get(name)
        if known is not None and known.state and known.state != self._state(part, known.neurons):
            raise RefusedError(
                name,
                "must keep its state from step to step",
                "it is set anew between them",
                "reset it between samples only, outside of the module",
            )

    def _state(self, part: Any, neurons: Neurons) -> tuple[int, ...]:
        held = [getattr(part, role, None) for role in neurons.held]
        self.kept.append(held)  # so that no address is used again
        return tuple(id(tensor) for tensor in held)

    def _after_neurons(
        self, name: str, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        neurons = self.neurons[id(part)]
        current, *given = args or (kwargs.pop("input_", None),)
        if not isinstance(current, Traced):
            raise RefusedError(name, "must get a tensor of the network", f"it gets {type(current)}")
        value = current.value
        shape = self._rest(value.lead, current.shape)
        if shape is None or value.time == "over" or value.total:
            have = "it gets what several steps made together"
            raise RefusedError(name, "must get the values of a step", have)
        called = self.called.setdefault(name, Called(neurons, shape))
        if called.shape != shape:
            raise RefusedError(
                name, "needs inputs of one shape", f"gets {called.shape} and {shape}"
            )
        if neurons.timing == "step":
            made = self._one_step(name, called, value)
            self._check_states(name, called, given, kwargs)
        else:
            made = self._all_steps(name, called, value, given, kwargs)
        called.state = self._state(part, neurons)
        results = (result,) if isinstance(result, Tensor) else tuple(result)
        if len(results) != len(neurons.returns):
            raise RefusedError(name, f"must return {neurons.returns}", f"it returns {len(results)}")
        wrapped = tuple(
            self.wrap(tensor, replace(made, expr=self.expr(role, name, (), shape)))
            for role, tensor in zip(neurons.returns, results, strict=True)
        )
        return wrapped[0] if isinstance(result, Tensor) else wrapped

    def _one_step(self, name: str, called: Called, value: Value) -> Value:
        step = len(called.inputs)
        if value.time == "all":
            raise RefusedError(
                name,
                "works on one step",
                "it gets all of them at once",
                "set its step_mode to 'm', or call it in a loop over time",
            )
        called.inputs.append(self._at(value, step, name))
        return Value(value.expr, step, "n")

    def _all_steps(
        self, name: str, called: Called, value: Value, given: Any, kwargs: dict[str, Any]
    ) -> Value:
        needed: Lead = "tn" if called.neurons.timing == "time first" else "nt*"
        if value.lead != needed:
            axes = {"tn": "time, then batch", "nt*": "batch times steps, the batch major"}[needed]
            raise RefusedError(
                name, f"needs an input whose first axes are {axes}", "it gets another"
            )
        if needed == "nt*" and (*given, *kwargs.values()) != (self.times,):
            raise RefusedError(
                name, f"must be told the number of steps, {self.times}", f"it is told {given}"
            )
        if called.inputs:
            raise RefusedError(
                name,
                "must be used once",
                "it is used again, with the state that it had",
                "make one for each place",
            )
        called.inputs.append(value.expr)
        return value

    def _check_states(
        self, name: str, called: Called, given: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Check that neurons which are handed their state get what they returned a step before."""
        step = len(called.inputs) - 1
        named = [kwargs.get(role) for role in called.neurons.held[len(given) :]]
        for role, state in zip(called.neurons.states, (*given, *named), strict=False):
            if state is None:
                continue
            if isinstance(state, Traced):
                expr, time = state.value.expr, state.value.time
                if (expr.kind, expr.name, time) == (role, name, step - 1):
                    continue
                have = f"it gets the {expr.kind} of '{expr.name}'"
                if (expr.kind, expr.name) == (role, name):
                    have = "it gets that of another step"
            elif isinstance(state, Tensor) and step == 0 and not state.any():
                continue
            else:
                have = "it is set anew" if step else "it starts with something else than 0"
            raise RefusedError(
                name,
                f"must get the {role} that it returned a step before",
                have,
                "hand on what it returns, from 0 on, or use init_hidden=True",
            )

    # Operations ---------------------------------------------------------------------------------

    def operation(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Do what PyTorch was asked to do, and return its result as what it is."""
        name = _name(func)
        plain_args, plain_kwargs = _plain(args), _plain(kwargs)
        tensors = list(_traced((args, kwargs)))
        values = [traced.value for traced in tensors]
        result = func(*plain_args, **plain_kwargs)
        if any(self.inside):
            return result
        if not any(isinstance(part, Tensor) for part in _flat(result)):
            if name in LEAKS and not isinstance(result, type(NotImplemented)):
                where = values[0].expr.name
                raise RefusedError(
                    where,
                    "must not decide how the network goes on",
                    f"its values are read by '{name}'",
                    "a compiled network does the same for every input",
                )
            return result
        if name == "get":  # an attribute: x.T, x.data, x.grad
            attribute = getattr(getattr(func, "__self__", None), "__name__", "")
            if attribute == "data":
                return self.wrap(result, values[0])
            return self._unknown(attribute, values, result)
        if name in SHAPES_ONLY:
            return result
        made = self._made(name, func, args, kwargs, values, result)
        inplace = isinstance(args[0], Traced) if args else False
        if inplace and result is plain_args[0] and isinstance(made, Traced):
            args[0].value = made.value
            return args[0]
        return made

    def _made(
        self,
        name: str,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        values: list[Value],
        result: Any,
    ) -> Any:
        first = args[0] if args else None
        if name in COPIES and isinstance(result, Tensor):
            return self.wrap(result, values[0])
        if name in MOVES and isinstance(first, Traced):
            return self._moved(name, func, args, kwargs, values, result)
        if name in ("stack", "cat", "concat", "concatenate"):
            return self._joined(name, args, kwargs, values, result)
        if not isinstance(result, Tensor):
            return self._unknown(name, values, result)
        if "dropout" in name and isinstance(first, Traced) and torch.equal(result, _plain(first)):
            return self.wrap(result, first.value)
        if name in ("add", "radd", "iadd", "sub", "rsub", "isub") and len(args) == 2:
            return self._added(name, args, kwargs, values, result)
        if name in ("mul", "rmul", "imul", "div", "truediv", "itruediv", "neg"):
            return self._scaled(name, args, values, result)
        if name in ("mean", "sum") and not values[0].total:
            return self._reduced(name, args, kwargs, values, result)
        if any(value.total for value in values):
            return self._unknown(name, values, result)
        if name in FUNCTIONS and len(values) == 1 and isinstance(first, Traced):
            layer = FUNCTIONS[name](*_plain(args[1:]), **_plain(kwargs))
            if layer is not None:
                shape = self._rest(first.value.lead, result.shape)
                if shape is not None:
                    made = self.expr("layer", name, (first.value.expr,), shape, layer)
                    return self.wrap(result, replace(first.value, expr=made))
        return self._unknown(name, values, result)

    def _moved(
        self,
        name: str,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        values: list[Value],
        result: Any,
    ) -> Any:
        """Return what moves values, after moving their places to see where each went."""
        value = args[0].value
        places = torch.arange(args[0].numel()).reshape(args[0].shape)
        try:
            moved = func(places, *_plain(args[1:]), **_plain(kwargs))
        except (RuntimeError, TypeError, IndexError):
            return self._unknown(name, values, result)
        if isinstance(result, Tensor):
            return self._placed(name, value, places, moved, result)
        parts = [
            self._placed(name, value, places, where, part)
            for where, part in zip(moved, result, strict=True)
        ]
        return type(result)(parts) if isinstance(result, list | tuple) else parts

    def _placed(
        self, name: str, value: Value, places: Tensor, moved: Tensor, result: Tensor
    ) -> Any:
        lead: Lead = value.lead
        time: Any = value.time
        kept = torch.equal(moved.flatten(), places.flatten())
        if not kept and lead in ("tn", "nt"):
            turned = places.transpose(0, 1)
            if torch.equal(moved.flatten(), turned.flatten()):
                lead, kept = "nt" if lead == "tn" else "tn", True
            elif moved.numel() * self.times == places.numel():
                axis = lead.index("t")
                for step in range(self.times):
                    if torch.equal(moved.flatten(), places.select(axis, step).flatten()):
                        lead, time, kept = "n", step, True
                        break
        if not kept and name in REPEATS and time is None:
            return self._repeated(name, value, places, moved, result)
        if not kept:
            return self._unknown(name, [value], result)
        if value.time == "over":
            return self.wrap(result, value)
        for form in FORMS[lead]:
            shape = self._rest(form, result.shape)
            if shape is not None and np.prod(shape) == np.prod(value.expr.shape):
                expr = value.expr
                if shape != expr.shape:
                    expr = self.expr("operation", "reshape", (expr,), shape)
                return self.wrap(result, replace(value, expr=expr, time=time, lead=form))
        return self._unknown(name, [value], result)

    def _repeated(
        self, name: str, value: Value, places: Tensor, moved: Tensor, result: Tensor
    ) -> Any:
        """Return one input that is given to all steps, if that is what a repetition makes."""
        leads: tuple[Lead, ...] = ("tn", "nt")
        for axis, lead in enumerate(leads):
            times = moved.shape[axis] if moved.ndim > axis else 0
            each = moved.numel() == times * places.numel() and all(
                torch.equal(moved.select(axis, step).flatten(), places.flatten())
                for step in range(times)
            )
            if each and self.steps in (None, times):
                self.steps = self.times = times
                if self._rest(lead, result.shape) == value.expr.shape:
                    return self.wrap(result, Value(value.expr, "all", lead))
        return self._unknown(name, [value], result)

    def _joined(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        values: list[Value],
        result: Any,
    ) -> Any:
        parts = kwargs.get("tensors", args[0] if args else ())
        axis = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        traced = isinstance(parts, list | tuple) and all(isinstance(p, Traced) for p in parts)
        if not traced or not isinstance(axis, int):
            return self._unknown(name, values, result)
        axis += result.ndim if axis < 0 else 0
        if name == "stack":
            series = self.series(values) or self._constant_series(values)
            if series is not None and axis in (0, 1):
                self.steps, self.times = len(values), len(values)
                lead: Lead = "nt" if axis else "tn"
                return self.wrap(result, Value(series.expr, "all", lead))
            return self._unknown(name, values, result)
        if any(value.total for value in values):
            return self._unknown(name, values, result)
        value = self._together(values)
        shape = self._rest(value.lead, result.shape)
        if shape is None or axis != result.ndim - len(shape):
            return self._unknown(name, values, result)
        exprs = tuple(self._at(part, value.time, name) for part in values)
        return self.wrap(result, replace(value, expr=self.expr("operation", "cat", exprs, shape)))

    def series(self, values: Sequence[Value]) -> Value | None:
        """Return values of one step after the other as one, if they are that."""
        if not values or any(value.time != step for step, value in enumerate(values)):
            return None
        last = values[-1].expr
        if any(value.expr is not last for value in values[1:]):
            return None  # the first may have started without a step before it
        return Value(last, "all", "tn")

    def _constant_series(self, values: Sequence[Value]) -> Value | None:
        """Return one value that is stacked as often as there are steps, as one of all steps."""
        one = values[0]
        same = all(value.expr is one.expr and value.time is None for value in values)
        return Value(one.expr, "all", "tn") if same and self.steps in (None, len(values)) else None

    def _added(
        self, name: str, args: Sequence[Any], kwargs: Any, values: list[Value], result: Tensor
    ) -> Any:
        sign = -1.0 if "sub" in name else 1.0
        factors = (sign, 1.0) if name == "rsub" else (1.0, sign)
        if set(kwargs) - {"alpha"} or kwargs.get("alpha", 1) != 1:
            return self._unknown(name, values, result)
        if len(values) == 1:
            place = 0 if isinstance(args[0], Traced) else 1
            (value,) = values
            constant = torch.as_tensor(_plain(args[1 - place]))
            if not constant.any() and factors[place] == 1:
                return self.wrap(result, value)
            return self._shifted(name, value, constant * factors[1 - place], factors[place], result)
        one, other = values
        total = self._total(one, other) if sign > 0 else None
        if total is not None:
            return self.wrap(result, total)
        if one.total or other.total:
            return self._unknown(name, values, result)
        value = self._together(values)
        shape = self._rest(value.lead, result.shape)
        exprs = tuple(self._at(part, value.time, name) for part in values)
        if shape is None or any(expr.shape != shape for expr in exprs) or value.time == "over":
            return self._unknown(name, values, result)
        made = self.expr("operation", "add", exprs, shape, factors)
        return self.wrap(result, replace(value, expr=made))

    def _total(self, one: Value, other: Value) -> Value | None:
        """Return a sum of one expression at several steps, as a read-out makes it."""
        steps = [value.total or (value.time,) for value in (one, other)]
        flat = [*steps[0], *steps[1]]
        if one.expr is not other.expr or len(set(flat)) != len(flat):
            return None
        if not all(isinstance(step, int) for step in flat):
            return None
        times = tuple(sorted(int(step) for step in flat))
        return Value(one.expr, max(times), total=times, note="sum")

    def _shifted(
        self, name: str, value: Value, constant: Tensor, factor: float, result: Tensor
    ) -> Any:
        shape = self._rest(value.lead, result.shape)
        wrong = shape is None or value.time == "over" or value.total
        if wrong or shape != value.expr.shape:
            return self._unknown(name, [value], result)
        made = self.expr("operation", "shift", (value.expr,), shape, (constant, factor))
        return self.wrap(result, replace(value, expr=made))

    def _scaled(self, name: str, args: Sequence[Any], values: list[Value], result: Tensor) -> Any:
        place = 0 if isinstance(args[0], Traced) else 1
        (value, *others) = values
        if others or (name == "truediv" and place) or (name == "div" and place):
            return self._unknown(name, values, result)
        factor = torch.tensor(-1.0) if name == "neg" else torch.as_tensor(_plain(args[1 - place]))
        inverse = "div" in name
        if value.total or value.time == "over":
            positive = bool((factor > 0).all()) and factor.numel() == 1
            if positive:
                return self.wrap(result, replace(value, note=f"{value.note}, scaled"))
            return self._unknown(name, values, result)
        shape = self._rest(value.lead, result.shape)
        if shape is None or shape != value.expr.shape:
            return self._unknown(name, values, result)
        detail = factor.double()
        detail = 1 / detail if inverse else detail
        if detail.numel() == 1 and float(detail) == 1:
            return self.wrap(result, value)
        return self.wrap(
            result,
            replace(value, expr=self.expr("operation", "scale", (value.expr,), shape, detail)),
        )

    def _reduced(
        self, name: str, args: Sequence[Any], kwargs: Any, values: list[Value], result: Tensor
    ) -> Any:
        axes = kwargs.get("dim", args[1] if len(args) > 1 else None)
        (value,) = values
        ndim = args[0].ndim
        if axes is None or value.time == "over":
            return self._unknown(name, values, result)
        found = sorted(axis % ndim for axis in (axes if isinstance(axes, Sequence) else (axes,)))
        if value.lead in ("tn", "nt") and found == [value.lead.index("t")]:
            return self.wrap(result, replace(value, time="over", note=name))
        shape = self._rest(value.lead, result.shape)
        leading = ndim - len(value.expr.shape)
        if shape is not None and len(value.expr.shape) == 3 and found == [leading + 1, leading + 2]:
            height, width = value.expr.shape[1:]
            layer = nn.AvgPool2d((height, width), divisor_override=1 if name == "sum" else None)
            pooled = self.expr("layer", name, (value.expr,), (value.expr.shape[0], 1, 1), layer)
            if shape != pooled.shape:
                pooled = self.expr("operation", "reshape", (pooled,), shape)
            return self.wrap(result, replace(value, expr=pooled))
        return self._unknown(name, values, result)

    def _together(self, values: Sequence[Value]) -> Value:
        """Return when several values are taken together: at the latest, or at all steps."""
        times = {value.time for value in values} - {None}
        if "all" in times or "over" in times:
            leads = {value.lead for value in values if value.time is not None}
            if len(times) > 1 or len(leads) > 1:
                raise RefusedError(
                    values[0].expr.name, "must be taken with values of its own time", "it is not"
                )
            return next(value for value in values if value.time is not None)
        steps = [time for time in times if isinstance(time, int)]
        return replace(values[0], time=max(steps) if steps else None, total=(), note="")

    def _at(self, value: Value, time: Any, where: str) -> Expr:
        """Return a value's expression as seen from a step: `late`, if it is of the one before."""
        if value.time is None or value.time == time:
            return value.expr
        if not isinstance(value.time, int) or not isinstance(time, int) or value.time > time:
            raise RefusedError(
                where,
                "must take values of its own step, or of the one before",
                f"it takes those of step {value.time} at step {time}",
            )
        return self.expr("late", "late", (value.expr,), value.expr.shape, time - value.time)

    def _rest(self, lead: Lead, shape: Sequence[int]) -> Shape | None:
        """Return a shape without its leading axes, or None if it does not start with them."""
        expected = {
            "n": (self.batch,),
            "1n": (1, self.batch),
            "n1": (self.batch, 1),
            "tn": (self.times, self.batch),
            "nt": (self.batch, self.times),
            "tn*": (self.times * self.batch,),
            "nt*": (self.times * self.batch,),
        }[lead]
        if tuple(shape[: len(expected)]) != expected:
            return None
        return tuple(shape[len(expected) :])

    def _unknown(self, name: str, values: Sequence[Value], result: Any) -> Any:
        """Return tensors that nothing may depend on in the end."""
        exprs = tuple(value.expr for value in values)
        for value in values:
            if value.expr.kind == UNKNOWN:  # the first cause is the one to tell
                return self._wrapped(value.expr, values, result)
        return self._wrapped(self.expr(UNKNOWN, name, exprs, ()), values, result)

    def _wrapped(self, expr: Expr, values: Sequence[Value], result: Any) -> Any:
        if isinstance(result, Tensor):
            times = [value.time for value in values if value.time is not None]
            time = times[0] if times else None
            return self.wrap(result, Value(expr, time, values[0].lead))
        if isinstance(result, list | tuple):
            return type(result)([self._wrapped(expr, values, part) for part in result])
        return result


def is_leaf(module: nn.Module) -> bool:
    """Return whether a module is one layer: what PyTorch and SpikingJelly bring, but no containers."""
    kind = type(module)
    if is_batchnorm(module):
        return True
    package = kind.__module__.split(".")[0]
    if package == "spikingjelly":
        timed = "BatchNorm" in kind.__name__ or kind.__name__ == "NeuNorm"
        return timed or kind.__name__ in SPIKINGJELLY_LAYERS
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    own = kind.__module__.startswith("torch.nn") and kind is not nn.Module
    return own and not isinstance(module, containers)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    return _filled(layer, weight, bias)


def _conv(kind: type[nn.Conv1d | nn.Conv2d]) -> Callable[..., nn.Module]:
    def make(
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> nn.Module:
        def size(value: Any) -> Any:
            return value[0] if isinstance(value, Sequence) and len(value) == 1 else value

        layer = kind(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),  # type: ignore[arg-type]
            size(stride),
            padding if isinstance(padding, str) else size(padding),
            size(dilation),
            groups,
        )
        return _filled(layer, weight, bias)

    return make


def _filled(layer: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight.detach().clone())
    zeros = torch.zeros(len(layer.weight), dtype=weight.dtype)
    layer.bias = nn.Parameter(zeros if bias is None else bias.detach().clone())
    return layer  # type: ignore[no-any-return]


def _max_pool(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: Any = False,
    return_indices: Any = False,
) -> nn.Module:
    return nn.MaxPool2d(kernel_size, stride or None, padding, dilation, return_indices, ceil_mode)


FUNCTIONS: Mapping[str, Callable[..., nn.Module | None]] = {
    "linear": _linear,
    "conv1d": _conv(nn.Conv1d),
    "conv2d": _conv(nn.Conv2d),
    "avg_pool2d": nn.AvgPool2d,
    "max_pool2d": _max_pool,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
}


def _name(func: Callable[..., Any]) -> str:
    """Return what is called, without the marks of operators and of changes in place."""
    name = getattr(func, "__name__", str(func))
    if name.startswith("__") and name.endswith("__"):
        return name[2:-2]
    special = name in ("requires_grad_", "detach_")
    return name if special else name.rstrip("_").removeprefix("_")


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def _traced(value: Any) -> Iterator[Traced]:
    yield from (part for part in _flat(value) if isinstance(part, Traced))


def _plain(value: Any) -> Any:
    """Return a value whose tensors are plain ones."""
    if isinstance(value, Traced):
        return value.as_subclass(Tensor)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_plain(part) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(_plain(part) for part in value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value


def _key(detail: Any) -> Any:
    """Return something hashable that is equal for equal details."""
    if isinstance(detail, Tensor):
        array = detail.detach().cpu().contiguous()
        return (tuple(array.shape), str(array.dtype), array.numpy().tobytes())
    if isinstance(detail, nn.Module):
        held = tuple(_key(tensor) for tensor in detail.state_dict().values())
        return (repr(detail), held)
    if isinstance(detail, tuple):
        return tuple(_key(part) for part in detail)
    return detail


def _describe(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"{len(value)} things"
    return f"one {type(value).__name__}"


__all__ = [
    "Called",
    "Expr",
    "Layout",
    "Recorder",
    "RefusedError",
    "Traced",
    "UnreadableError",
    "Value",
]
