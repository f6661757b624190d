"""What shapes a traced module's tensors have: it runs once, on zeros."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx


class _Shapes(fx.Interpreter):
    """Notes the shape of each tensor; `torch.fx`'s own `ShapeProp` takes most of a second to import."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["tensor_meta"] = SimpleNamespace(shape=result.shape)
        return result


def find_shapes(graph: fx.GraphModule, input_shape: Sequence[int], *, batch: int = 1) -> None:
    """
    Note the shape of each traced tensor, batch included, in its node, as `meta["tensor_meta"].shape`.

    `input_shape` has no batch and no time: the module is shown one step, in evaluation mode.
    """
    held = (*graph.parameters(), *graph.buffers())
    kind = next((tensor.dtype for tensor in held if tensor.is_floating_point()), torch.float32)
    was_training = graph.training
    graph.eval()
    with torch.no_grad():
        _Shapes(graph).run(torch.zeros(batch, *input_shape, dtype=kind), 1)
    graph.train(was_training)
