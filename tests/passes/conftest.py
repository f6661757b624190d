"""Fixtures of the tests of passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.ir import Network
from neurocompile.population_reference import simulate_populations
from neurocompile.populations import PopulationNetwork
from neurocompile.reference import simulate


@pytest.fixture(scope="session")
def check_same() -> Callable[..., None]:
    """Checks that two networks, or a network and populations, do the same on some inputs."""

    def check(
        before: Network,
        after: Network | PopulationNetwork,
        inputs: NDArray[np.float64] | dict[str, NDArray[np.float64]],
    ) -> None:
        expected = simulate(before, inputs)
        found = (
            simulate(after, inputs)
            if isinstance(after, Network)
            else simulate_populations(after, inputs)
        )
        assert list(found.outputs) == list(expected.outputs)
        for name, values in expected.outputs.items():
            np.testing.assert_array_equal(found.outputs[name], values, err_msg=name)
        for name, spikes in expected.spikes.items():
            np.testing.assert_array_equal(found.spikes[name], spikes, err_msg=name)

    return check


@pytest.fixture(scope="session")
def spikes() -> Callable[..., NDArray[np.float64]]:
    """Makes random spikes (samples, steps, *shape)."""

    def make(*shape: int, seed: int = 0) -> NDArray[np.float64]:
        return np.random.default_rng(seed).integers(0, 2, shape).astype(np.float64)

    return make
