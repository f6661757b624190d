"""Fixtures of the front end's tests: small NIR files, and what a network does on given values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.frontend.from_nir import from_nir
from neurocompile.reference import simulate

Edges = Sequence[tuple[str, str]]


@pytest.fixture
def write_graph(tmp_path: Path) -> Callable[..., Path]:
    """Writes NIR nodes, ports included, and edges; nothing is checked."""

    def make(nodes: dict[str, Any], edges: Edges, **metadata: Any) -> Path:
        graph = nir.NIRGraph(dict(nodes), list(edges), metadata, type_check=False)
        path = tmp_path / "graph.nir"
        nir.write(path, graph)
        return path

    return make


@pytest.fixture
def run_node(write_graph: Callable[..., Path]) -> Callable[..., NDArray[np.float64]]:
    """Writes one NIR node between an input and an output, reads it, and returns its outputs (steps, *shape)."""

    def run(node: Any, values: Any, out: tuple[int, ...] | None = None, **options: Any) -> Any:
        values = np.asarray(values, float)
        nodes = {
            "input": nir.Input({"input": np.array(values.shape[1:])}),
            "node": node,
            "output": nir.Output({"output": np.array(out or values.shape[1:])}),
        }
        path = write_graph(nodes, [("input", "node"), ("node", "output")])
        return simulate(
            from_nir(path, **{"profile": "literal", **options}).network, values[np.newaxis]
        ).output[0]

    return run
