"""A small program in numbers that float64 adds exactly, and samples for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import nir
import numpy as np
import pytest

import neurocompile
from neurocompile.data import Samples
from neurocompile.frontend.to_nir import write_nir
from neurocompile.program import Program
from neurocompile.target import Progress
from neurocompile.verification.stages import ProgressOf, Runner, plan_of

COUNT, STEPS, SHAPE = 20, 6, (1, 2, 3)


@pytest.fixture(scope="session")
def exact_nir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two spiking layers and a read-out, of multiples of 1/64, driven by spikes."""
    generator = np.random.default_rng(0)

    def dyadic(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return generator.integers(-48, 64, shape) / 64

    full = np.ones(12)
    nodes = {
        "input": nir.Input({"input": np.array(SHAPE)}),
        "flatten": nir.Flatten({"input": np.array(SHAPE)}, 0, -1),
        "fc1": nir.Affine(weight=dyadic(12, 6), bias=dyadic(12) / 4),
        "lif1": nir.LIF(
            tau=2e-4 * full, r=2 * full, v_leak=0 * full, v_threshold=full, v_reset=0 * full
        ),
        "fc2": nir.Linear(weight=dyadic(12, 12)),
        "lif2": nir.IF(r=1e4 * full, v_threshold=full, v_reset=0 * full),
        "out": nir.Affine(weight=dyadic(3, 12), bias=np.zeros(3)),
        "output": nir.Output({"output": np.array([3])}),
    }
    names = list(nodes)
    path = tmp_path_factory.mktemp("nir") / "graph.nir"
    write_nir(path, nir.NIRGraph(nodes, list(itertools.pairwise(names))))
    return path


@pytest.fixture
def coarse(exact_nir: Path, opened: Callable[[Program], Program]) -> Program:
    """Its program with weights of 3 bits, so that spikes differ."""
    return opened(
        neurocompile.export(
            exact_nir, target="fixedpoint", profile="literal", dt=1e-4, weight_bits=3
        )
    )


@pytest.fixture
def runner(coarse: Program) -> Runner:
    return Runner(coarse, plan_of(coarse))


@pytest.fixture(scope="session")
def spikes_in() -> Samples:
    generator = np.random.default_rng(1)
    return Samples(
        generator.integers(0, 2, (COUNT, STEPS, *SHAPE)).astype(np.float32),
        generator.integers(0, 3, COUNT),
    )


@pytest.fixture
def quiet() -> ProgressOf:
    """No progress."""

    def progress_of(_stage: str) -> Progress:
        return lambda _done, _of: None

    return progress_of
