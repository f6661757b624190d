"""
Compare how a module's first step is made with how the others are.

In the first step there are no spikes of the step before. A module's own loop puts something in their
place; it is the same network only if that is what silence would have made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neurocompile.frontend.modules.recording import Expr, Recorder, RefusedError

TOLERANCE = 1e-6  # of what a float32 layer makes of zeros


def starts_like(recorder: Recorder, first: Expr, later: Expr) -> bool:
    """Return whether `first` is `later` with silence in the place of the spikes of the step before."""
    if first is later:
        return True
    if later.kind == "operation" and later.name == "add" and later.detail == (1.0, 1.0):
        for now, before in (later.arguments, later.arguments[::-1]):
            if before.kind == "late" and _silent_start(recorder, first, now, before.arguments[0]):
                return True
    same = (first.kind, first.name, first.shape) == (later.kind, later.name, later.shape)
    detail = type(first.detail) is type(later.detail) and _equal(first.detail, later.detail)
    if not same or not detail or len(first.arguments) != len(later.arguments):
        return False
    pairs = zip(first.arguments, later.arguments, strict=True)
    return bool(first.arguments) and all(starts_like(recorder, *pair) for pair in pairs)


def _silent_start(recorder: Recorder, first: Expr, now: Expr, before: Expr) -> bool:
    """Return whether `first` is `now` plus what `before` is without spikes."""
    try:
        silent = _without_spikes(recorder, before)
    except RefusedError:
        return False
    if first.kind == "operation" and first.name == "shift" and first.detail[1] == 1:
        constant = first.detail[0]
        close = torch.allclose(constant.double(), silent.double(), rtol=0, atol=TOLERANCE)
        if close and starts_like(recorder, first.arguments[0], now):
            return True
    return not silent.any() and starts_like(recorder, first, now)


@torch.no_grad()
def _without_spikes(recorder: Recorder, expr: Expr) -> Tensor:
    """Return what an expression of spikes is where none is fired, (1, *shape)."""
    given = [_without_spikes(recorder, part) for part in expr.arguments]
    detail: Any = expr.detail
    result: Tensor
    match expr.kind, expr.name:
        case "spikes", _:
            kind = next((p.dtype for p in recorder.module.parameters()), torch.float32)
            result = torch.zeros(1, *expr.shape, dtype=kind)
        case "module", name:
            result = recorder.module.get_submodule(name)(*given)
        case "layer", _:
            result = detail(*given)
        case "operation", "reshape":
            result = given[0].reshape(1, *expr.shape)
        case "operation", "scale":
            result = given[0] * detail
        case "operation", "shift":
            constant, factor = detail
            result = factor * given[0] + constant
        case "operation", "cat":
            result = torch.cat(given, 1)
        case "operation", "add":
            one, other = detail
            result = one * given[0] + other * given[1]
        case _:
            raise RefusedError(expr.name, "must be made of spikes alone", f"it is a {expr.kind}")
    return result


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        both = isinstance(one, Tensor) and isinstance(other, Tensor)
        return both and torch.equal(one, other)  # type: ignore[arg-type]
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one is other or bool(one == other)
