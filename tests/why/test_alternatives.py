"""Other ways to quantise are compiled and counted, not guessed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from neurocompile.data import InputRange, Samples
from neurocompile.errors import RangeError
from neurocompile.ir import Dense, Network
from neurocompile.pipeline import run_passes
from neurocompile.quantisation.recipe import Recipe
from neurocompile.samples import source_of_samples
from neurocompile.statistics import Share
from neurocompile.verification import alternatives
from neurocompile.verification.alternatives import (
    Calibration,
    Examined,
    alternatives_of,
    best_of,
    calibration_of,
    ideas_for,
    recipe_of,
    weight_bytes,
)
from neurocompile.verification.real import real_populations
from neurocompile.verification.report import Alternative
from neurocompile.verification.stages import folded_network

Make = Callable[..., Any]
MakeNetwork = Callable[..., Network]


@pytest.fixture
def network(chain: MakeNetwork, lif: Make) -> Network:
    random = np.random.default_rng(0)
    return chain(
        (6,),
        {
            "fc1": Dense(random.normal(size=(16, 6)), random.normal(size=16) / 4),
            "lif1": lif((16,), decay=0.7),
            "fc2": Dense(random.normal(size=(12, 16)) / 2, random.normal(size=12) / 4),
            "lif 2": lif((12,), decay=0.9),
            "out": Dense(random.normal(size=(3, 12)), np.zeros(3)),
        },
        steps=5,
        input_range=InputRange(0.0, 1.0, 1 / 16),
    )


@pytest.fixture
def inputs() -> Any:
    random = np.random.default_rng(1)
    return np.rint(random.uniform(0, 1, (40, 5, 6)) * 16) / 16


@pytest.fixture
def labels() -> Any:
    return np.random.default_rng(2).integers(0, 3, 40)


def test_each_is_measured_on_the_examined_samples(
    program_of: Make, look: Make, network: Network, inputs: Any, labels: Any
) -> None:
    program = program_of(network, bits=3)

    found, missing = look(program, inputs, labels, count=16, alternatives=True)

    own, *others = found.alternatives
    assert (own.name, own.options) == ("as it is", "")
    assert own.mismatches.count == sum(layer.total.count for layer in found.blame)
    assert own.mismatches.of == 16 * 5 * 28
    assert own.weight_bytes == weight_bytes(program) == (96 + 192 + 36) * 3 / 8 + 0.5
    assert [item.mismatches.count for item in others] == sorted(
        item.mismatches.count for item in others
    )
    by_name = {item.name: item for item in others}
    finest = by_name["8 weight bits"]
    assert finest.options == "--weight-bits 8"
    assert finest.weight_bytes == 96 + 192 + 36
    # What it measured is what that export does.
    again = program_of(network, bits=8)
    chosen = np.array(found.samples)
    result = again.run(inputs[chosen], "all")
    graph = folded_network(program)
    from neurocompile.reference import simulate

    expected = simulate(graph, inputs[chosen])
    assert finest.mismatches == Share(
        sum(int((result.spikes[name] != expected.spikes[name]).sum()) for name in expected.spikes),
        own.mismatches.of,
    )
    right = int((again.decisions(result) == labels[chosen]).sum())
    assert finest.accuracy == Share(right, 16)
    worst = found.blame[0].name
    assert f"8 weight bits for '{worst}'" in by_name
    assert by_name["a scale for each channel"].options == "--scales channel"
    calibrated = [
        item for item in others if "calibrated on 24 other samples of the same data" in item.name
    ]
    assert sorted(item.options for item in calibrated) == [
        "--correct-biases --calibrate DATA",
        "--method search --calibrate DATA",
        "--rounding adaptive --calibrate DATA",
    ]
    assert list(missing) == ["alternative: quantisation-aware training"]
    assert missing["alternative: quantisation-aware training"] == (
        "it takes the training that made the network, which is not ours"
    )


def test_layer_names_are_quoted_for_a_shell(program_of: Make, network: Network) -> None:
    ideas = ideas_for(program_of(network, bits=3), Recipe(3), "lif 2")

    found = {idea.name: idea.options for idea in ideas}
    assert found["8 weight bits for 'lif 2'"] == "--bits 'lif 2'=8"


def test_no_sample_calibrates_what_it_judges(
    program_of: Make, network: Network, inputs: Any, look: Make
) -> None:
    program = program_of(network, recipe=Recipe(3, samples=8))
    source = source_of_samples(Samples(inputs, None))

    found = calibration_of(program, source, np.arange(0, 40, 2))

    assert isinstance(found, Calibration)
    taken = found.samples["input"]
    assert taken.shape == (8, 5, 6)
    numbers = [int(np.flatnonzero((inputs == sample).all((1, 2)))[0]) for sample in taken]
    assert all(number % 2 for number in numbers)
    why = calibration_of(program, source, np.arange(35))
    assert isinstance(why, str)
    assert why.startswith("there are no samples to calibrate on but those that are judged by")
    # Then nothing that needs them is tried, and that is said.
    found, missing = look(program, inputs, alternatives=True)
    assert missing["alternative: method search"] == why
    assert not [item for item in found.alternatives if "calibrated" in item.name]
    assert all(item.accuracy is None for item in found.alternatives)


def test_what_does_not_compile_is_listed_with_its_reason(
    program_of: Make,
    network: Network,
    inputs: Any,
    look: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refusing(net: Any, target: Any, passes: Any) -> Any:
        if passes.options.recipe.scales == "channel":
            raise RangeError("no scale is small enough", "and more")
        return run_passes(net, target, passes)

    program = program_of(network, bits=3)
    monkeypatch.setattr(alternatives, "run_passes", refusing)

    found, missing = look(program, inputs, alternatives=True)

    assert (
        missing["alternative: a scale for each channel"] == "no scale is small enough (and 1 more)"
    )
    assert "a scale for each channel" not in [item.name for item in found.alternatives]


def test_integers_of_the_source_leave_nothing_to_choose(
    program_of: Make, chain: Make, lif: Make, look: Make
) -> None:
    network = chain(
        (2,), {"fc": Dense(np.array([[2.0, 4.0]]), np.zeros(1)), "lif": lif((1,), threshold=4.0)}
    )
    given = replace(network, weight_unit=1.0)
    mapped = replace(network, weight_unit={"lif": 1.0})

    for unit, reason in (
        (given, "the integers are those of the module itself: there is nothing to choose"),
        (mapped, "training chose the integers"),
    ):
        found, missing = look(program_of(unit), np.ones((2, 4, 2)), alternatives=True)
        assert found.alternatives == ()
        assert missing["alternatives"].startswith(reason)


def test_a_program_that_does_not_say_how_it_was_quantised_is_left_alone(
    program_of: Make, network: Network, inputs: Any, look: Make
) -> None:
    program = program_of(network, bits=3)
    damaged: tuple[Any, ...] = (
        {"layers": {}},
        {**program.facts["quantisation"], "layers": 7},
        {**program.facts["quantisation"], "weight_bits": "8"},
        5,
    )
    for quantisation in damaged:
        facts = {**program.facts, "quantisation": quantisation}

        found, missing = look(replace(program, facts=facts), inputs, count=2, alternatives=True)

        assert found.alternatives == ()
        assert "does not say how it was quantised" in missing["alternatives"]


def test_training_is_what_a_user_can_type(program_of: Make, network: Network, inputs: Any) -> None:
    program = program_of(network, bits=3)
    facts = {**program.facts, "reference": {"settings": {"preset": "digits", "data": "digits"}}}

    _, missing = alternatives_of(
        replace(program, facts=facts),
        network,
        Examined(inputs, None, {}),
        worst=None,
        calibration="none",
    )

    assert (
        "neurocompile train --preset digits --set start=RUN_DIR --set weight_bits=3 "
        in missing["alternative: quantisation-aware training"]
    )


def test_recipes_are_read_from_the_manifest(program_of: Make, network: Network) -> None:
    recipe = Recipe(4, bits={"lif1": 6}, method="percentile", percentile=99.0, scales="channel")

    assert recipe_of(program_of(network, recipe=recipe)) == recipe


def test_saturating_membranes_are_tried_where_the_range_proof_cost_something(
    program_of: Make, chain: Make, lif: Make, look: Make
) -> None:
    """Perfect integrators that subtract may pile up all their input: 200 steps of the largest weights."""
    network = chain(
        (64,),
        {
            "fc": Dense(np.full((2, 64), -1.0), np.zeros(2)),
            "lif": lif((2,), decay=1.0, reset="subtract"),
        },
        steps=200,
    )
    program = program_of(network)
    assert program.facts["quantisation"]["scales_lowered_by_range_proof"]

    found, _ = look(program, np.zeros((1, 200, 64)), alternatives=True)

    (item,) = [item for item in found.alternatives if "saturate" in item.name]
    assert item.options == "--membranes saturating"


def test_the_best_is_the_one_with_the_fewest_mismatches_if_it_beats_what_is() -> None:
    def of(name: str, count: int) -> Alternative:
        return Alternative(name, "", Share(count, 100), None, 1)

    assert best_of(()) is None
    assert best_of((of("own", 5),)) is None
    assert best_of((of("own", 5), of("same", 5))) is None
    found = best_of((of("own", 5), of("best", 1), of("good", 2)))
    assert found is not None
    assert found.name == "best"


def test_for_another_target_the_integers_are_run_by_fixedpoint(
    program_of: Make, network: Network, inputs: Any
) -> None:
    pytest.importorskip("lava")
    program = program_of(network, bits=3, target="loihi2")
    graph = folded_network(program)
    real = real_populations(program, graph)
    assert [item.name for item in real.populations] == [
        item.name for item in program.network.populations
    ]
    spikes = program.run(inputs, "all", on="fixedpoint").spikes

    found, _ = alternatives_of(
        program,
        graph,
        Examined(inputs, None, spikes),
        worst=None,
        calibration="none here",
    )

    assert found[0].mismatches.count == 0
    assert len(found) > 3
