"""Random networks come back from their NIR files to the last bit, and damaged files are refused in words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurocompile.errors import NirFormatError
from neurocompile.frontend.exact_nir import exact_network
from neurocompile.frontend.network_to_nir import identical, network_to_nir
from neurocompile.frontend.read_nir import read_nir
from neurocompile.ir import Network

FACTOR = int(os.environ.get("NEUROCOMPILE_FUZZ", "1"))
Draw = Callable[[Any], Network]

VALUES: tuple[Any, ...] = (
    *(-1, 0, 7, 1 << 30, (1 << 63) - 1, np.uint64((1 << 64) - 1)),
    *(np.nan, np.inf, 0.1, np.float32(0.1)),
    *("", "zero", "LIF", "Dense", "view", "../x"),
    *(np.zeros((0,)), np.zeros((2, 0)), np.full((3, 1), np.nan), np.ones((1, 2, 3, 4)), np.array([True])),
    *(np.array([1 << 24, 1 << 24]), np.array([0, -3]), np.array([1] * 31), np.array([2, 2])),
)  # fmt: skip


@settings(max_examples=30 * FACTOR)
@given(data=st.data())
def test_random_networks_come_back(
    data: Any, draw_topology: Draw, tmp_path_factory: pytest.TempPathFactory
) -> None:
    network = draw_topology(data)
    path = tmp_path_factory.mktemp("exact") / "graph.nir"

    content = network_to_nir(network)
    path.write_bytes(content)
    read = exact_network(read_nir(path))

    assert read is not None
    assert identical(network, read)
    assert network_to_nir(read) == content


def places(path: Path) -> list[str]:
    found: list[str] = []
    with h5py.File(path, "r") as file:
        file["node"].visit(lambda name: found.append(f"node/{name}"))
    return found


@settings(max_examples=80 * FACTOR)
@given(data=st.data())
def test_damaged_files_are_refused_in_words(
    data: Any, draw_topology: Draw, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What still reads is a network that writes a file of its own."""
    path = tmp_path_factory.mktemp("exact") / "graph.nir"
    path.write_bytes(network_to_nir(draw_topology(data)))
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        place = data.draw(st.sampled_from(places(path)), label="place")
        change = data.draw(st.sampled_from(["remove", "replace", "copy"]), label="change")
        other = data.draw(st.sampled_from(places(path)), label="from")
        with h5py.File(path, "a") as file:
            if change == "copy" and not place.startswith(other):
                copied = f"node/nodes/{data.draw(st.integers(0, 9))}.copy"
                if copied not in file:
                    file.copy(file[other], copied)
                del file[place]
                file.move(copied, place)
                continue
            del file[place]
            if change == "replace":
                file[place] = data.draw(st.sampled_from(VALUES), label="value")
    try:
        read = exact_network(read_nir(path))
    except NirFormatError:
        return
    if read is not None:
        assert network_to_nir(read)
