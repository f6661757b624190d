"""
Write adaptive average pools and means over an image as plain average pools.

    an adaptive pool from (H, W) to (h, w) averages windows of (H/h, W/w), where these are whole
    x.mean((2, 3)) averages one window of (H, W), and drops both axes

PyTorch divides by the height and then by the width in one, by their product in the other, which may
round differently. So the network is rewritten before it is compared with its NIR file.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from neurocompile.frontend.find_shapes import find_shapes

IMAGE_AXES = {2, 3}


def plain_pools(graph: fx.GraphModule, input_shape: Sequence[int]) -> fx.GraphModule:
    """
    Return a copy of `graph` with plain pools, for inputs of `input_shape` (no batch, no time).

    An adaptive pool whose output does not divide its input is left alone.
    """
    changed = copy.deepcopy(graph)
    averages = [node for node in changed.graph.nodes if _averages(changed, node)]
    if not averages:
        return changed
    find_shapes(changed, input_shape)
    for node in averages:
        before, after = node.args[0].meta["tensor_meta"].shape, node.meta["tensor_meta"].shape
        height, width = after[2:] or (1, 1)
        if len(before) != 4 or before[2] % height or before[3] % width:
            continue
        pool = nn.AvgPool2d((before[2] // height, before[3] // width))
        with changed.graph.inserting_before(node):
            result = _call(changed, _name(changed, node), pool, node.args[0])
            if len(after) == 2:
                result = _call(changed, f"{node.name}_flatten", nn.Flatten(), result)
        node.replace_all_uses_with(result)
        changed.graph.erase_node(node)
    changed.recompile()
    return changed


def _call(graph: fx.GraphModule, name: str, module: nn.Module, argument: Any) -> fx.Node:
    graph.add_submodule(name, module)
    return graph.graph.call_module(name, (argument,))


def _name(graph: fx.GraphModule, node: fx.Node) -> str:
    """Return the name of the module that `node` calls, or a new one where it is not its only user."""
    users = [other for other in graph.graph.nodes if other.target == node.target]
    return str(node.target) if node.op == "call_module" and len(users) == 1 else f"{node.name}_pool"


def _averages(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` is an adaptive average pool, or a mean over the last two of four axes."""
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), nn.AdaptiveAvgPool2d)
    if node.op not in ("call_function", "call_method") or not node.args:
        return False
    if node.target is nn.functional.adaptive_avg_pool2d:
        return True
    axes: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    return (
        node.target in ("mean", torch.mean)
        and isinstance(axes, Sequence)
        and {axis % 4 for axis in axes} == IMAGE_AXES
        and set(node.kwargs) <= {"dim", "keepdim"}
    )
