"""
Fold batch norm into the convolution or linear layer before it.

    y = gamma (W x + b - mu) / sqrt(var + eps) + beta  =  W' x + b'

    W' = W gamma / sqrt(var + eps)        b' = beta + (b - mu) gamma / sqrt(var + eps)

per output channel: Eq. 6 of the TET paper with its alpha made exact. Computed in float64 from the
stored (evaluation) statistics and rounded to the weights' type once.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from neurocompile.errors import Problem, UnsupportedError, raise_all

BatchNorm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batchnorm(graph: fx.GraphModule) -> fx.GraphModule:
    """
    Return a copy of `graph` without batch norms; every folded layer has a bias.

    Raises `UnsupportedError` with every batch norm that cannot be folded, and why.
    """
    folded = copy.deepcopy(graph)
    folded.eval()
    problems: list[Problem] = []
    for node in list(folded.graph.nodes):
        norm = _module(folded, node)
        if not isinstance(norm, BatchNorm):
            continue
        before = node.args[0]
        layer = _module(folded, before)
        reason = _why_not(norm, layer, before) or _why_not_alone(folded, node, before)
        if reason:
            problems.append(Problem(str(node.target), *reason))
            continue
        assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
        weight, bias = folded_parameters(layer.weight, layer.bias, norm)
        layer.weight = nn.Parameter(weight)
        layer.bias = nn.Parameter(bias)
        node.replace_all_uses_with(before)
        folded.graph.erase_node(node)
    raise_all(UnsupportedError, problems)
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded


def folded_parameters(
    weight: Tensor, bias: Tensor | None, norm: nn.Module
) -> tuple[Tensor, Tensor]:
    """Return W' and b' for a layer whose output channels are the first axis of `weight`."""
    assert isinstance(norm, BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    before = torch.zeros_like(mean) if bias is None else bias.detach().double()
    scale = gamma / torch.sqrt(variance + norm.eps)
    rows = scale.reshape(-1, *[1] * (weight.ndim - 1))
    new_weight = weight.detach().double() * rows
    new_bias = beta + (before - mean) * scale
    return new_weight.to(weight.dtype), new_bias.to(weight.dtype)


def _module(graph: fx.GraphModule, node: object) -> nn.Module | None:
    if isinstance(node, fx.Node) and node.op == "call_module":
        return graph.get_submodule(str(node.target))
    return None


def _why_not(norm: nn.Module, layer: nn.Module | None, before: object) -> tuple[str, ...]:
    """Return (need, have, remedy) if `norm` cannot be folded into `layer`, else nothing."""
    assert isinstance(norm, BatchNorm)
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
        have = f"'{before}' is before it"
        return ("needs a convolution or linear layer before it to be folded into", have)
    assert isinstance(before, fx.Node)
    if len(before.users) > 1:
        others = ", ".join(sorted(str(user) for user in before.users))
        return (
            f"must be the only one to use '{before.target}' to be folded into it",
            f"its users are {others}",
            "give the batch norm a layer of its own",
        )
    if norm.running_mean is None or norm.running_var is None:
        return (
            "needs stored statistics to be folded",
            "it tracks none",
            "train with track_running_stats=True",
        )
    return ()


def _why_not_alone(graph: fx.GraphModule, norm: fx.Node, before: fx.Node) -> tuple[str, ...]:
    """Return (need, have, remedy) if a module that folding would change is called twice."""
    for name in (str(norm.target), str(before.target)):
        calls = sum(n.op == "call_module" and n.target == name for n in graph.graph.nodes)
        if calls > 1:
            return (
                f"needs '{name}' to be called once to be folded",
                f"it is called {calls} times",
                "make one for each place",
            )
    return ()
