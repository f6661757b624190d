"""Bits under a memory budget: by hand, against every choice there is, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurocompile.errors import OptionError
from neurocompile.quantisation import memory
from neurocompile.quantisation.memory import Offer, pack


def test_a_knapsack_of_three_layers_by_hand() -> None:
    """
    Of 46 bits: 'b' cannot have its 40 beside the least of the others (2 + 2), but 20; 'c' gains most of
    its 8 (9 to 0), and 'a' fits with 4 beside them: 4 + 20 + 8 = 32.
    """
    offers = {
        "a": [Offer(2, 2, 4.0), Offer(4, 4, 1.0)],
        "b": [Offer(2, 20, 5.0), Offer(4, 40, 0.0)],
        "c": [Offer(2, 2, 9.0), Offer(8, 8, 0.0)],
    }

    packing = pack(offers, 43)

    assert packing.bits == {"a": 4, "b": 2, "c": 8}
    assert (packing.size, packing.cost, packing.gap) == (32, 6.0, 0.0)


def test_what_is_fixed_leaves_less_to_the_others() -> None:
    offers = {"a": [Offer(2, 20, 1.0), Offer(4, 40, 0.0)]}

    assert pack(offers, 50).bits == {"a": 4}
    assert pack(offers, 50, fixed=20).bits == {"a": 2}
    assert pack(offers, 50, fixed=20).size == 40


def test_a_budget_that_is_too_small_names_the_least_that_passes() -> None:
    offers = {"a": [Offer(2, 20, 1.0), Offer(4, 40, 0.0)], "b": [Offer(2, 50, 0.0)]}

    with pytest.raises(OptionError, match="allow at least --memory 9") as refused:
        pack(offers, 64)

    assert "must fit 8 bytes" in str(refused.value)
    assert pack(offers, 72).size == 70


def test_a_layer_without_integers_at_some_bits_gets_others() -> None:
    offers = {"a": [Offer(2, 20, float("inf")), Offer(4, 40, 1.0)]}

    assert pack(offers, 100).bits == {"a": 4}


@st.composite
def layers(draw: Any) -> dict[str, list[Offer]]:
    return {
        f"layer{number}": [
            Offer(bits, bits * draw(st.integers(1, 40)), draw(st.floats(0, 1)))
            for bits in range(2, draw(st.integers(3, 7)))
        ]
        for number in range(draw(st.integers(1, 4)))
    }


@pytest.mark.parametrize("most_sums", [memory.MOST_SUMS, 3])
@given(offers=layers(), budget=st.integers(0, 500))
def test_no_choice_that_fits_is_better_by_more_than_the_gap(
    offers: dict[str, list[Offer]], budget: int, most_sums: int
) -> None:
    fitting = [
        sum(offer.cost for offer in choice)
        for choice in itertools.product(*offers.values())
        if sum(offer.size for offer in choice) <= budget
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "MOST_SUMS", most_sums)
        patch.setattr(memory, "GRID", 16)
        if not fitting:
            with pytest.raises(OptionError):
                pack(offers, budget)
            return
        packing = pack(offers, budget)

    chosen = [
        next(o for o in offers[name] if o.bits == bits) for name, bits in packing.bits.items()
    ]
    assert packing.size == sum(offer.size for offer in chosen) <= budget
    assert packing.cost == pytest.approx(sum(offer.cost for offer in chosen))
    assert min(fitting) - 1e-9 <= packing.cost <= min(fitting) + packing.gap + 1e-9
    if most_sums == memory.MOST_SUMS:
        assert packing.gap == 0
