"""What an integer network from disk must fulfil before anything computes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from neurocompile.integer import IntegerNetwork
from neurocompile.legal import problems_of

OneLayer = Callable[..., IntegerNetwork]


@pytest.mark.parametrize(
    ("weight", "maximum", "legal"),
    [
        (1 << 50, 3, True),
        (1 << 50, 4, False),
        (-(1 << 50), 4, False),
        (1 << 62, 1, False),  # two of them are a negative number of 64 bits
    ],
)
def test_sums_that_proofs_could_not_compute_are_illegal(
    weight: int, maximum: int, legal: bool, one_layer: OneLayer
) -> None:
    network = one_layer(np.array([[weight, weight]]), maximum=maximum)

    assert not problems_of(one_layer([[2, 4]]))
    told = [str(problem) for problem in problems_of(network)]

    if legal:
        assert told == []
    else:
        said = f"those of 1 groups (w) could reach {2 * abs(weight) * maximum}"
        assert told == [f"layer 'out' needs input sums below {1 << 53}, but {said}"]


@pytest.mark.parametrize("field", ["threshold", "bias", "start", "pulse", "subtracts"])
@pytest.mark.parametrize("value", [-(1 << 63), -(1 << 62), (1 << 40) + 64, (1 << 63) - 64])
def test_states_that_proofs_could_not_compute_are_illegal(
    field: str, value: int, one_layer: OneLayer
) -> None:
    network = one_layer([[2]], **{"subtracts": 64, field: np.array([value])})

    told = [str(problem) for problem in problems_of(network)]

    assert not problems_of(one_layer([[2]], **{"subtracts": 64, field: np.array([1 << 40])}))
    name = "bias_mantissa" if field == "bias" else field
    said = f"layer 'out' needs a {name} of at most {1 << 40}, but it is {abs(value)}"
    assert said in told


def test_sums_of_all_groups_together_are_what_counts(one_layer: OneLayer) -> None:
    """4096 groups of 2 << 51 add up to 0 in 64 bits."""
    network = one_layer([[2]])
    (group,) = network.synapses
    many = tuple(replace(group, name=f"w{number}", exponent=51) for number in range(4096))

    (problem,) = problems_of(replace(network, synapses=many))

    assert str(problem) == (
        f"layer 'out' needs input sums below {1 << 53}, "
        f"but those of 4096 groups (w0, w1, w2, ...) could reach {1 << 64}"
    )
