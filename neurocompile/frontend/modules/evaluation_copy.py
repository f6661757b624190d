"""
A module as it computes in evaluation, with plain weights: what may be taken apart.

Weights that a module computes from others (weight norm, spectral norm, pruning, anything of
`torch.nn.utils.parametrize`) are computed once more, by PyTorch's own code, and stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

M = TypeVar("M", bound=nn.Module)

COLLECTIONS = (dict, list, tuple)


def evaluation_copy(module: M) -> M:
    """Return a copy of `module` in evaluation mode whose weights are plain parameters; shares nothing."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for tensor in _tensors(vars(part)):
            if not tensor.is_leaf:  # states and computed weights, which PyTorch refuses to copy
                memo[id(tensor)] = tensor.detach().clone()
    copied = copy.deepcopy(module, memo)
    copied.eval()  # before anything is computed: in training spectral norm would change
    with torch.no_grad():
        for part in list(copied.modules()):
            _make_plain(part)
    return copied


def _tensors(value: Any, depth: int = 3) -> Iterator[Tensor]:
    """Yield the tensors in a value: a module's attributes, buffers and states."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, COLLECTIONS) and depth:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner, depth - 1)


def _make_plain(module: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        # PyTorch's way to remove them changes the class, which a copy shares with its original
        parametrizations: Any = module.parametrizations
        values = {name: getattr(module, name).detach().clone() for name in parametrizations}
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        for name, value in values.items():
            setattr(module, name, nn.Parameter(value))
    for hook in list(module._forward_pre_hooks.values()):  # noqa: SLF001 - there is no other way to see them
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]  # noqa: SLF001
