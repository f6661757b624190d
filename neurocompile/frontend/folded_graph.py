"""
Fold the body of a trained network, write it as a NIR file, and read that back.

What is compiled is what was read: export and quantisation-aware training start from the same numbers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import fx, nn

from neurocompile.data import InputRange
from neurocompile.frontend.fold_batchnorm import fold_batchnorm
from neurocompile.frontend.from_nir import Imported, from_nir
from neurocompile.frontend.plain_pools import plain_pools
from neurocompile.frontend.to_nir import to_nir, write_nir
from neurocompile.integer import Shape
from neurocompile.program import GRAPH
from neurocompile.training.networks import trace


@dataclass(frozen=True)
class FoldedBody:
    """A folded body as PyTorch's modules, its NIR file's bytes, and the network that is read from them."""

    body: fx.GraphModule
    nir: bytes
    imported: Imported


def fold_body(
    body: nn.Module,
    input_shape: Shape,
    *,
    steps: int,
    input_range: InputRange,
    time_weights: Sequence[float] | None = None,
) -> FoldedBody:
    """
    Return `body` without batch norms and adaptive pools, for samples of `steps` steps.

    `time_weights` are those of the decision, if the steps do not count alike.
    Raises `UnsupportedError` with everything that cannot be folded, or that NIR cannot express.
    """
    traced = fold_batchnorm(trace(body), input_shape=input_shape)
    folded = plain_pools(traced, input_shape)
    graph = to_nir(
        folded, input_shape, steps=steps, input_range=input_range, time_weights=time_weights
    )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / GRAPH
        write_nir(path, graph)
        return FoldedBody(folded, path.read_bytes(), from_nir(path))
