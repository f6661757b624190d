"""The float reference: the neuron by hand, resets, and convolutions against their definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from neurocompile.errors import NirFormatError, Problem, raise_all
from neurocompile.ir import LIF, Conv2d, Dense, Network, Pool2d
from neurocompile.reference import apply_stateless, simulate

CURRENT = np.array([0.6, 0.8, 0.0, 1.0, 1.2, 2.0]).reshape(1, 6, 1)


@pytest.mark.parametrize(
    ("options", "spikes", "membrane"),
    [
        ({}, [0, 1, 0, 0, 1, 1], [0.6, 1.1, 0.0, 1.0, 1.7, 2.0]),
        ({"reset_to": 0.5}, [0, 1, 0, 1, 1, 1], [0.6, 1.1, 0.25, 1.125, 1.45, 2.25]),
        ({"reset": "subtract"}, [0, 1, 0, 1, 1, 1], [0.6, 1.1, 0.05, 1.025, 1.2125, 2.10625]),
        ({"leak": 1.0}, [1, 1, 0, 1, 1, 1], [1.1, 1.3, 0.5, 1.75, 1.7, 2.5]),
        ({"gain": 0.5}, [0, 0, 0, 0, 0, 1], [0.3, 0.55, 0.275, 0.6375, 0.91875, 1.459375]),
    ],
)
def test_the_neuron_by_hand(
    lif: Callable[..., LIF], chain: Callable[..., Network], options: Any, spikes: Any, membrane: Any
) -> None:
    network = chain((1,), {"fc": Dense(np.eye(1), np.zeros(1)), "lif": lif((1,), **options)})

    trace = simulate(network, CURRENT, membranes=True)

    assert trace.spikes["lif"].ravel().tolist() == spikes
    np.testing.assert_allclose(trace.membrane["lif"].ravel(), membrane, atol=1e-12)


def test_convolutions_and_pools_by_hand() -> None:
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    conv = Conv2d(np.array([[[[1.0, 10.0]]]]), np.array([0.5]), stride=(2, 1), padding=(0, 1))

    assert apply_stateless(conv, x)[0, 0].tolist() == [
        [0.5, 10.5, 21.5, 32.5, 3.5], [80.5, 98.5, 109.5, 120.5, 11.5],
    ]  # fmt: skip
    assert apply_stateless(Pool2d((2, 2), (2, 2), scale=0.25), x)[0, 0].tolist() == [
        [2.5, 4.5],
        [10.5, 12.5],
    ]


def test_arrays_of_a_network_are_private_and_read_only() -> None:
    weight = np.ones((1, 1))
    dense = Dense(weight, np.zeros(1))

    weight[:] = 5

    assert dense.weight.tolist() == [[1.0]]
    with pytest.raises(ValueError, match="read-only"):
        dense.weight[0, 0] = 2


def test_errors_carry_their_problems() -> None:
    problems = [Problem("a", "needs x", "there is y", "do z"), Problem("", "is wrong")]

    with pytest.raises(NirFormatError) as raised:
        raise_all(NirFormatError, problems)

    assert raised.value.problems == tuple(problems)
    assert (
        str(raised.value) == "2 problems\n  - layer 'a' needs x, but there is y: do z\n  - is wrong"
    )
    raise_all(NirFormatError, [])
