"""Weights and membranes before and after quantisation, counted in the same bins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neurocompile.dequantise import dequantise
from neurocompile.ir import Dense
from neurocompile.quantisation.recipe import Recipe
from neurocompile.verification.histograms import (
    MOST_BINS,
    WEIGHT_BINS,
    binned,
    clipped_weights,
    joined,
    saturated,
    weight_ends,
    weight_histograms,
)
from neurocompile.verification.real import real_populations
from neurocompile.verification.rows import Ends
from neurocompile.verification.stages import folded_network

Make = Callable[..., Any]

VALUES = st.lists(st.floats(-1e4, 1e4, allow_subnormal=False), min_size=1, max_size=30).map(
    np.array
)


def counts(histogram: Any, values: Any) -> list[int]:
    """Count as numpy does, all but the last bin without its right end."""
    edges = np.array(histogram.edges)
    width = edges[1] - edges[0]  # a power of two: dividing by it is exact
    places = (np.floor(values / width) - edges[0] / width).astype(int)
    return [int(count) for count in np.bincount(places, minlength=len(edges) - 1)]


@given(VALUES, VALUES)
def test_every_value_is_in_its_bin(before: Any, after: Any) -> None:
    found = binned(before, after, 3).histogram("n", 1.0)

    assert (found.name, found.threshold, found.clipped) == ("n", 1.0, 3)
    assert len(found.edges) == len(found.reference) + 1 == len(found.candidate) + 1
    assert len(found.reference) <= MOST_BINS + 1
    assert list(found.reference) == counts(found, before)
    assert list(found.candidate) == counts(found, after)
    widths = np.diff(found.edges)
    assert (widths == widths[0]).all()
    assert np.log2(widths[0]).is_integer()


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=5))
def test_chunks_add_up_in_any_order(parts: Any) -> None:
    pieces = [binned(before, after, number) for number, (before, after) in enumerate(parts)]
    one, other = joined(pieces), joined(pieces[::-1])

    assert one.histogram("n", None) == other.histogram("n", None)
    found = one.histogram("n", None)
    assert list(found.reference) == counts(found, np.concatenate([before for before, _ in parts]))
    assert list(found.candidate) == counts(found, np.concatenate([after for _, after in parts]))
    assert found.clipped == sum(range(len(parts)))
    assert len(found.reference) <= MOST_BINS + 1


def test_values_that_are_all_alike_have_a_bin() -> None:
    for value in (0.0, 3.0, -1e-3, 1e6):
        found = binned(np.full(4, value), np.full(2, value)).histogram("n", None)
        assert sum(found.reference) == 4
        assert sum(found.candidate) == 2
        assert found.edges[0] <= value < found.edges[-1]


def test_saturated_membranes_are_those_at_an_end(integer_neurons: Make) -> None:
    states = np.array([0, 8388606, 8388607, -8388607, 12])

    assert saturated(integer_neurons("n", (5,)), states) == 2


def test_weights_are_counted_before_and_after(program_of: Make, chain: Make, lif: Make) -> None:
    """Of 8 weights two are no synapses; the largest two are cut by 'percentile'."""
    weight = np.array([[0.0, 0.1, 0.2, 0.3], [0.25, 0.15, 5.0, 0.0]])
    network = chain((4,), {"fc": Dense(weight, np.zeros(2)), "lif": lif((2,))})
    program = program_of(network, recipe=Recipe(4, method="percentile", percentile=70.0))
    real = real_populations(program, folded_network(program))

    (found,), missing = weight_histograms(program, real, dequantise(program.network))

    assert missing == {}
    assert (found.name, len(found.edges), found.threshold) == ("lif", WEIGHT_BINS + 1, None)
    assert sum(found.reference) == sum(found.candidate) == 6
    assert found.edges[-1] == 5.0
    assert found.reference[-1] == 1  # 5.0 before,
    assert found.candidate[-1] == 0  # and after it was cut
    assert found.clipped == 2 == clipped_weights(program)["fc"]
    assert weight_ends(program) == {"fc": Ends(-256, 224)}


def test_what_the_manifest_does_not_count_is_not_told(
    program_of: Make, chain: Make, lif: Make
) -> None:
    network = chain((2,), {"fc": Dense(np.ones((2, 2)), np.zeros(2)), "lif": lif((2,))})
    program = program_of(network)
    real = real_populations(program, folded_network(program))
    damaged: tuple[Any, ...] = (
        {},
        {"layers": {}},
        {"layers": {"lif": {"weights": [{"name": "fc"}]}}},
        5,
    )
    for quantisation in damaged:
        old = replace(program, facts={**program.facts, "quantisation": quantisation})

        found, missing = weight_histograms(old, real, dequantise(program.network))

        assert found == ()
        assert missing == {"weights of 'lif'": "the program does not count clipped weights"}
        assert weight_ends(old) == {}
