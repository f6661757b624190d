"""The table of what may exist after which pass: whatever is planted there is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from neurocompile.integer import IntegerNetwork
from neurocompile.ir import LIF, Dense, MaxPool2d, Network, Threshold
from neurocompile.passes.assemble import assemble
from neurocompile.pipeline import PASSES, CompileOptions, compile_network
from neurocompile.populations import PopulationNetwork, SumPopulation
from neurocompile.stages import check_stage
from neurocompile.target import find

Chain = Callable[..., Network]
MakeLif = Callable[..., LIF]


@pytest.fixture
def small(chain: Chain, lif: MakeLif, dense: Callable[..., Dense]) -> Network:
    return chain((2,), {"fc": dense(np.eye(2)), "lif": lif((2,)), "back": dense(np.eye(2))})


@pytest.fixture
def populations(small: Network) -> PopulationNetwork:
    return assemble(small)


def test_passes_are_those_of_the_table_in_order_and_each_is_shown(small: Network) -> None:
    seen: list[str] = []

    compile_network(
        small, find("fixedpoint"), CompileOptions(), observe=lambda name, _stage: seen.append(name)
    )

    assert tuple(seen) == PASSES
    assert PASSES == (
        "import", "lower_max_pooling", "lower_thresholds", "shift_resets", "assemble", "share_sums",
        "quantise",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("after", "node"),
    [
        ("lower_max_pooling", MaxPool2d((2, 2), (2, 2))),
        ("lower_thresholds", Threshold(np.ones((1, 2, 2)))),
    ],
)
def test_a_node_that_a_pass_left_over_is_found(chain: Chain, after: str, node: Any) -> None:
    network = chain((1, 2, 2), {"left": node})

    check_stage("import", network)
    with pytest.raises(
        AssertionError, match=f"after '{after}', layer 'left' must not be a {type(node).__name__}"
    ):
        check_stage(after, network)


def test_a_reset_voltage_that_was_left_is_found(chain: Chain, lif: MakeLif) -> None:
    network = chain((1,), {"lif": lif((1,), reset_to=0.5)})

    check_stage("lower_thresholds", network)
    with pytest.raises(
        AssertionError, match="after 'shift_resets', layer 'lif' must reset to zero"
    ):
        check_stage("shift_resets", network)


def test_a_sum_before_sums_are_shared_is_found(populations: PopulationNetwork) -> None:
    summed = replace(
        populations, populations=(*populations.populations, SumPopulation("sum", (2,), 2))
    )

    check_stage("share_sums", summed)
    with pytest.raises(
        AssertionError, match="after 'assemble', layer 'sum' must not be a SumPopulation"
    ):
        check_stage("assemble", summed)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"source": "back", "target": "lif"}, "synapses 'fc' lead back without a delay"),
        ({"source": "lif", "target": "lif"}, "synapses 'fc' lead back without a delay"),
        (
            {"operator": Dense(np.eye(2), np.ones(2))},
            "synapses 'fc' must be plain weights",
        ),
        ({"source_view": (3,)}, r"synapses 'fc' see \(3,\) in 'input'"),
        ({"target_view": (1, 3, 1)}, r"synapses 'fc' see \(1, 3, 1\) in 'lif'"),
        ({"name": "back"}, "the name 'back' must be used once"),
    ],
)
def test_synapses_that_are_wrong_are_found(
    populations: PopulationNetwork, change: dict[str, Any], text: str
) -> None:
    first, second = populations.synapses
    wrong = replace(populations, synapses=(replace(first, **change), second))

    check_stage("assemble", populations)
    with pytest.raises(AssertionError, match=f"after 'assemble', {text}"):
        check_stage("assemble", wrong)


def test_synapses_may_lead_back_a_step_later(populations: PopulationNetwork) -> None:
    first, second = populations.synapses
    late = replace(first, name="late", source="lif", target="lif", delay=np.array([1, 2]))

    check_stage("assemble", replace(populations, synapses=(first, late, second)))


def test_two_populations_of_one_name_are_found(populations: PopulationNetwork) -> None:
    twice = replace(populations, populations=(*populations.populations, populations["lif"]))

    with pytest.raises(AssertionError, match="after 'assemble', the name 'lif' must be used once"):
        check_stage("assemble", twice)


def test_integers_are_held_to_the_rules_of_stored_programs(
    one_layer: Callable[..., IntegerNetwork],
) -> None:
    check_stage("quantise", one_layer([[2, 4]]))

    with pytest.raises(
        AssertionError, match="after 'quantise', layer 'out' needs a start in whole weight units"
    ):
        check_stage("quantise", one_layer([[2, 4]], start=[63]))
