"""What an integer network from disk must fulfil before anything computes with it."""

from __future__ import annotations

from collections.abc import Callable

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
        said = f"2 weights of up to {abs(weight)} are shifted by 0"
        assert told == [f"layer 'w' needs weights whose sums stay below {1 << 53}, but {said}"]
