"""
Fold batch norms into the layers around them.

In evaluation a batch norm is y = s x + t per channel (`modules.channel_affine`). With Eq. 6 of the TET
paper, its alpha made exact,

    s = gamma / sqrt(var + eps)     t = beta - mu s
    W' = s W                        b' = s b + t          per output channel of the layer before it

What it follows decides where s and t go; each rule is exact, and the first that fits is taken:

    a layer               into its weights; if others see its output too, or it is called at other
                          places, into a copy of it
    a + b                 s into both, t into one, where both lead to such layers
    an average            in front of it: the mean of s x + t is s mean(x) + t, unless padding counts
    anything else,        W'' = W s, b'' = b + W t     per input channel of the layers behind it, if
      then layers         they pad with what they see, or with zeros where t = 0 or there is no padding
    anything else         it becomes a layer of its own: 1 x 1, one channel each

All is computed in float64 and rounded to the weights' type once. ReLUs and whatever else is in the
graph stay, so that this also folds networks without spikes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neurocompile.errors import Problem, UnsupportedError, raise_all
from neurocompile.frontend.find_shapes import find_shapes
from neurocompile.frontend.modules.channel_affine import (
    ChannelAffine,
    NotAffineError,
    affine_of,
    is_batchnorm,
)
from neurocompile.frontend.modules.evaluation_copy import evaluation_copy

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed
Layer = Convolution | nn.Linear

LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
AVERAGES = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # in evaluation
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")

RANKS: dict[type[nn.Module], int] = {  # axes of what they make, the batch included
    nn.Conv1d: 3,
    nn.ConvTranspose1d: 3,
    nn.AvgPool1d: 3,
    nn.MaxPool1d: 3,
    nn.AdaptiveAvgPool1d: 3,
    nn.Conv2d: 4,
    nn.ConvTranspose2d: 4,
    nn.AvgPool2d: 4,
    nn.MaxPool2d: 4,
    nn.AdaptiveAvgPool2d: 4,
    nn.BatchNorm2d: 4,
    nn.Conv3d: 5,
    nn.ConvTranspose3d: 5,
    nn.BatchNorm3d: 5,
}
SINGLE = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}  # of a rank, for one channel each


class LayerTracer(fx.Tracer):
    """Records the layers of a network; batch norms of other packages stay whole, `leaves` too."""

    def __init__(self, leaves: tuple[type[nn.Module], ...] = ()) -> None:
        super().__init__()
        self.leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = is_batchnorm(m) or isinstance(m, self.leaves)
        return whole or super().is_leaf_module(m, module_qualified_name)


def trace_layers(module: nn.Module, leaves: tuple[type[nn.Module], ...] = ()) -> fx.GraphModule:
    """Return `module` as a graph of its layers, sharing its parameters; `leaves` are not looked into."""
    return fx.GraphModule(module, LayerTracer(leaves).trace(module))


def fold_batchnorm(
    graph: fx.GraphModule, *, input_shape: Sequence[int] | None = None
) -> fx.GraphModule:
    """
    Return a copy of `graph` without batch norms, in evaluation mode and with plain weights.

    `input_shape` (without the batch) tells how many axes there are where the graph does not: a
    `BatchNorm1d` has one or two. Without it, a linear layer whose input is not known gets vectors.
    Raises `UnsupportedError` with every batch norm that cannot be folded, and why.
    """
    folded = evaluation_copy(graph)
    if input_shape is not None:
        find_shapes(folded, input_shape, batch=2)
    folder = _Folder(folded)
    for node in list(folded.graph.nodes):
        folder.fold(node)
    raise_all(UnsupportedError, folder.problems)
    folded.graph.eliminate_dead_code()
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded


def scale_outputs(layer: Layer, affine: ChannelAffine) -> None:
    """Make `layer` compute `affine` of what it computed."""
    weight = layer.weight.detach().double()
    rows = _by_output(layer, weight)
    scaled = rows * affine.scale.reshape(rows.shape[0], rows.shape[1], *[1] * (rows.ndim - 2))
    bias = torch.zeros_like(affine.shift) if layer.bias is None else layer.bias.detach().double()
    _assign(
        layer,
        _from_outputs(layer, scaled).reshape(weight.shape),
        bias * affine.scale + affine.shift,
    )


def scale_inputs(
    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear, affine: ChannelAffine
) -> None:
    """Make `layer` compute of x what it computed of `affine` of x."""
    weight = layer.weight.detach().double()
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    # (groups, outputs of a group, inputs of a group, window)
    rows = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    scale, shift = (part.reshape(groups, 1, -1, 1) for part in (affine.scale, affine.shift))
    bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    if layer.bias is not None:
        bias = layer.bias.detach().double()
    _assign(
        layer, (rows * scale).reshape(weight.shape), bias + (rows * shift).sum((2, 3)).flatten()
    )


def _by_output(layer: Layer, weight: Tensor) -> Tensor:
    """Return the weights as (groups, outputs of a group, ...): the first two axes are the output channel."""
    if not isinstance(layer, Transposed):
        return weight.reshape(1, *weight.shape)
    rows = weight.reshape(layer.groups, weight.shape[0] // layer.groups, *weight.shape[1:])
    return rows.transpose(1, 2)


def _from_outputs(layer: Layer, rows: Tensor) -> Tensor:
    return rows.transpose(1, 2) if isinstance(layer, Transposed) else rows


def _assign(layer: Layer, weight: Tensor, bias: Tensor) -> None:
    kind = layer.weight.dtype
    layer.weight = nn.Parameter(weight.to(kind).contiguous())
    layer.bias = nn.Parameter(bias.to(kind))


def _outputs(layer: Layer) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


class _Folder:
    """Folds one batch norm after the other, in the order of the graph, which it changes."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.problems: list[Problem] = []

    def fold(self, node: fx.Node) -> None:
        """Fold what `node` calls if that is a batch norm, or note why not."""
        if node.op == "call_function" and node.target is nn.functional.batch_norm:
            self.problems.append(
                Problem(
                    node.name,
                    "must be a module to be folded",
                    "it is a call of the function batch_norm",
                    "use a BatchNorm of torch.nn",
                )
            )
            return
        norm = self._module(node)
        if not is_batchnorm(norm):
            return
        assert isinstance(norm, _BatchNorm)
        before = _first(node)
        if not isinstance(before, fx.Node):
            self.problems.append(
                Problem(
                    str(node.target), "must work on a tensor of the network", f"it gets {before}"
                )
            )
            return
        try:
            affine = affine_of(norm)
        except NotAffineError as error:
            self.problems.append(Problem(str(node.target), *error.reason))
            return
        if self._can_push(before, node, affine):
            self._push(before, node, affine)
            node.replace_all_uses_with(_first(node))  # the layer's copy, where it was copied
        elif self._can_pull(node):
            for user in list(node.users):
                self._pull(user, node, affine)
            node.replace_all_uses_with(before)
        elif (rank := self._rank(node, norm)) is None:
            self.problems.append(
                Problem(
                    str(node.target),
                    "needs to know how many axes its input has to become a layer of its own",
                    "nothing before it says so",
                    "give the shape of the input",
                )
            )
            return
        else:
            node.replace_all_uses_with(self._single(node, norm, affine, rank))
        self.graph.graph.erase_node(node)

    def _module(self, node: object) -> nn.Module | None:
        if isinstance(node, fx.Node) and node.op == "call_module":
            return self.graph.get_submodule(str(node.target))
        return None

    def _layer(self, node: object) -> Layer | None:
        """Return the layer that `node` calls, unless hooks change what it computes."""
        module = self._module(node)
        if not isinstance(module, LAYERS):
            return None
        hooks: Any = (module._forward_hooks, module._forward_pre_hooks)  # noqa: SLF001
        return None if any(hooks) else module

    def _can_push(self, node: fx.Node, user: fx.Node, affine: ChannelAffine) -> bool:
        """Return whether `affine` of `node`'s value, as `user` needs it, can be had from what makes it."""
        layer = self._layer(node)
        channels = len(affine.scale)
        if isinstance(layer, nn.Linear):
            vectors = self._rank(node, layer) in (2, None)
            return vectors and layer.out_features == channels
        if layer is not None:
            return _outputs(layer) == channels
        if set(node.users) != {user}:
            return False
        if terms := _terms(node):
            first, second = terms
            only_scale = ChannelAffine(affine.scale, torch.zeros_like(affine.shift))
            return (
                first is not second
                and self._can_push(first, node, affine)
                and self._can_push(second, node, only_scale)
            )
        before = _first(node)
        module = self._module(node)
        if not isinstance(before, fx.Node):
            return False
        if isinstance(module, AVERAGES) and (_is_mean(module) or not affine.shift.any()):
            return self._can_push(before, node, affine)
        return isinstance(module, NOTHING) and self._can_push(before, node, affine)

    def _push(self, node: fx.Node, user: fx.Node, affine: ChannelAffine) -> None:
        """Change what makes `node`'s value, or a copy that `user` gets instead."""
        layer = self._layer(node)
        if layer is not None:
            if set(node.users) != {user} or self._calls(node) > 1:
                copied = self._copied(node, user)
                user.replace_input_with(node, copied)
                node = copied
                layer = self._layer(node)
                assert layer is not None
            scale_outputs(layer, affine)
        elif terms := _terms(node):
            first, second = terms
            self._push(first, node, affine)
            self._push(second, node, ChannelAffine(affine.scale, torch.zeros_like(affine.shift)))
        else:
            before = _first(node)
            assert isinstance(before, fx.Node)
            self._push(before, node, affine)

    def _can_pull(self, node: fx.Node) -> bool:
        """Return whether all that use a batch norm are layers that can take it in."""
        affine = affine_of(self._module(node))  # type: ignore[arg-type]
        return bool(node.users) and all(
            self._can_pull_into(user, node, affine) for user in node.users
        )

    def _can_pull_into(self, user: fx.Node, node: fx.Node, affine: ChannelAffine) -> bool:
        layer = self._layer(user)
        if layer is None or isinstance(layer, Transposed):
            return False
        if isinstance(layer, nn.Linear):
            norm = self._module(node)
            return self._rank(node, norm) == 2 and layer.in_features == len(affine.scale)
        pads_zeros = layer.padding_mode == "zeros" and _pads(layer)
        return layer.in_channels == len(affine.scale) and not (pads_zeros and affine.shift.any())

    def _pull(self, user: fx.Node, node: fx.Node, affine: ChannelAffine) -> None:
        if self._calls(user) > 1:
            copied = self._copied(user, user)
            user.replace_all_uses_with(copied, delete_user_cb=lambda other: other is not copied)
            self.graph.graph.erase_node(user)
            user = copied
        layer = self._layer(user)
        assert layer is not None
        assert not isinstance(layer, Transposed)
        scale_inputs(layer, affine)
        assert node in user.all_input_nodes

    def _single(self, node: fx.Node, norm: _BatchNorm, affine: ChannelAffine, rank: int) -> fx.Node:
        """Return a new layer that computes `affine` alone, in the place of `node`."""
        channels = len(affine.scale)
        like = norm.running_mean
        assert like is not None
        options: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        if rank == 2:
            layer: Any = nn.Linear(channels, channels, **options)
            weight = torch.diag(affine.scale)
        else:
            layer = SINGLE[rank](channels, channels, 1, groups=channels, **options)
            weight = affine.scale.reshape(-1, *[1] * (rank - 1))
        _assign(layer, weight, affine.shift)
        name = str(node.target) if self._calls(node) == 1 else self._free(node.name)
        self.graph.add_submodule(name, layer.eval())
        with self.graph.graph.inserting_after(node):
            new = self.graph.graph.call_module(name, (_first(node),))
        new.meta = dict(node.meta)
        return new

    def _copied(self, node: fx.Node, user: fx.Node) -> fx.Node:
        """Return a call, behind `node`, of a copy of the layer that `node` calls."""
        layer = self._module(node)
        assert layer is not None
        name = self._free(f"{node.name}_of_{user.name}" if user is not node else node.name)
        self.graph.add_submodule(name, evaluation_copy(layer))
        with self.graph.graph.inserting_after(node):
            new = self.graph.graph.call_module(name, node.args, node.kwargs)
        new.meta = dict(node.meta)
        return new

    def _calls(self, node: fx.Node) -> int:
        """Return how often the module that `node` calls is called, by any of its names."""
        module = self._module(node)
        return sum(self._module(other) is module for other in self.graph.graph.nodes)

    def _free(self, name: str) -> str:
        number, free = 2, name
        while hasattr(self.graph, free):
            number, free = number + 1, f"{name}_{number}"
        return free

    def _rank(self, node: fx.Node, module: nn.Module | None) -> int | None:
        """Return the number of axes of what `node` makes, the batch included; None: not known."""
        meta = node.meta.get("tensor_meta")
        if meta is not None:
            return len(meta.shape)
        for kind, rank in RANKS.items():
            if isinstance(module, kind):
                return rank
        if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
            return 2
        if node.target in (torch.flatten, "flatten") and node.args[1:] == (1,):
            return 2
        for before in _sources(node):
            rank_before = self._rank(before, self._module(before))
            if rank_before is not None and _keeps_rank(node, module):
                return rank_before
        if isinstance(module, nn.Linear):
            return 2  # what the caller is told
        return None


def _keeps_rank(node: fx.Node, module: nn.Module | None) -> bool:
    """Return whether what `node` makes has as many axes as what it gets: it works value by value."""
    if node.op == "call_module":
        return not isinstance(module, nn.Flatten | nn.Unflatten)
    return bool(_terms(node)) or node.target in (torch.relu, "relu", nn.functional.relu)


def _sources(node: fx.Node) -> Iterator[fx.Node]:
    yield from (before for before in node.args if isinstance(before, fx.Node))


def _first(node: fx.Node) -> Any:
    """Return the first argument of a call."""
    return next(iter((*node.args, *node.kwargs.values())), None)


def _terms(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return the two tensors that `node` adds, if it is a plain addition of two."""
    if node.op not in ("call_function", "call_method") or node.target not in ADDITIONS:
        return None
    match node.args:
        case (fx.Node() as first, fx.Node() as second) if not node.kwargs:
            return first, second
    return None


def _is_mean(module: nn.Module) -> bool:
    """Return whether an average of a constant is the constant: no padding counts, nothing divides."""
    if getattr(module, "divisor_override", None):
        return False
    padding: Any = getattr(module, "padding", 0)
    unpadded = not any(padding) if isinstance(padding, tuple) else not padding
    return unpadded or not getattr(module, "count_include_pad", True)


def _pads(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> bool:
    if layer.padding == "valid":
        return False
    if layer.padding == "same":
        return any(size > 1 for size in layer.kernel_size)
    return any(layer.padding)
