"""Other ways to quantise are compiled and counted, not guessed."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurocompile.data import DataOptions, InputRange, Samples, by_input
from neurocompile.errors import DataError, RangeError
from neurocompile.integer import Geometry
from neurocompile.ir import Dense, Network
from neurocompile.pipeline import run_passes
from neurocompile.quantisation.recipe import Recipe
from neurocompile.reference import simulate
from neurocompile.samples import open_source, source_of_samples
from neurocompile.statistics import Share
from neurocompile.verification import alternatives
from neurocompile.verification.alternatives import (
    Calibration,
    Examined,
    Measured,
    alternatives_of,
    best_of,
    calibration_of,
    clearly_better,
    ideas_for,
    in_order,
    prints_of,
    recipe_of,
    same_numbers,
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
    # Without Elephant nothing is known of distances, which is no matter here.
    assert [name for name in missing if name.startswith("alternative")] == [
        "alternative: quantisation-aware training"
    ]
    assert all(item.samples == 16 for item in found.alternatives)
    assert own.difference is None
    assert finest.difference is not None
    low, high = finest.difference
    assert (low + high) / 2 == pytest.approx(finest.mismatches.value - own.mismatches.value)
    decided = again.decisions(replace(result, outputs=expected.outputs))
    same = int((again.decisions(result) == decided).sum())
    assert finest.same_decisions == Share(same, 16)
    assert finest.output_error == pytest.approx(
        np.mean(np.abs(result.outputs["output"] - expected.outputs["output"]))
    )
    assert finest.better
    assert not own.better
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


def test_training_is_what_a_user_can_type(
    program_of: Make,
    network: Network,
    inputs: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also for a run whose network and data are not its preset's: its settings say what they were."""
    pytest.importorskip("pytorch_lightning")
    from neurocompile.cli import main

    monkeypatch.setattr("neurocompile.training.train.write_figures", lambda *_: None)
    labels = np.arange(16) % 4
    images = np.tile(labels[:, None, None, None].astype(np.uint8), (1, 8, 8, 1))
    np.savez(tmp_path / "few.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    given = [
        "train",
        "--preset",
        "digits",
        "--data",
        str(tmp_path / "few.npz"),
        "--set",
        'network.stages=[{"channels":4,"kernel":3,"pool":2},{"channels":4,"kernel":3,"pool":2}]',
        "--set",
        "timesteps=2",
        "--epochs",
        "1",
    ]
    assert main([*given, "-o", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    program = program_of(network, bits=3)
    facts = {**program.facts, "reference": {"settings": {"preset": "digits", "data": "digits"}}}

    _, missing = alternatives_of(
        replace(program, facts=facts),
        network,
        Examined(inputs, None, {}),
        worst=None,
        calibration="none",
    )

    told = missing["alternative: quantisation-aware training"]
    command = told.partition("neurocompile ")[2].partition(", then")[0]
    assert "--set weight_bits=3" in command
    for name, place in (("RUN_DIR", "run"), ("TRAINED_DIR", "trained")):
        command = command.replace(name, str(tmp_path / place))
    words = shlex.split(command.replace("--epochs 3", "--epochs 1"))
    assert main(words) == 0, capsys.readouterr().err


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


def test_the_best_is_the_first_that_is_clearly_better() -> None:
    def of(name: str, *, better: bool) -> Alternative:
        return Alternative(name, "", Share(1, 100), None, 1, better=better)

    own, luck, good, next_best = (
        of("own", better=False),
        of("luck", better=False),
        of("good", better=True),
        of("next", better=True),
    )
    assert best_of(()) is None
    assert best_of((own,)) is None
    assert best_of((own, luck)) is None
    assert best_of((own, luck, good, next_best)) == good


def test_the_closest_come_first() -> None:
    """Spikes come before decisions, those before outputs, those before bytes."""
    ordered = [
        Alternative("", "", Share(spikes, 9), None, size, 4, Share(same, 4), error)
        for spikes, same, error, size in (
            (0, 3, 9.0, 9),
            (1, 4, 2.0, 9),
            (1, 3, 1.0, 8),
            (1, 3, 1.0, 9),
            (1, 3, 2.0, 1),
            (2, 4, 0.0, 1),
        )
    ]

    assert [*map(in_order, ordered)] == sorted(map(in_order, ordered))


def outcome(wrong: Any, *, same: Any = None, right: Any = None, errors: Any = None) -> Measured:
    """Return what was measured on samples of 100 places each."""
    wrong = np.array(wrong, np.int64)
    same, right = (None if item is None else np.array(item, bool) for item in (same, right))
    errors = np.zeros(len(wrong)) if errors is None else np.array(errors, float)
    return Measured(wrong, 100 * len(wrong), errors, same, right)


def test_a_lucky_spike_makes_nothing_better() -> None:
    own = outcome([3, 0, 5, 2, 0, 1, 4, 2])

    assert not clearly_better(own, own, 1)
    assert not clearly_better(own, outcome([3, 0, 4, 2, 0, 1, 4, 2]), 1)
    assert not clearly_better(own, outcome([0, 2, 4, 1, 2, 0, 3, 3]), 1)
    # A single sample that all of it comes from is luck, too.
    assert not clearly_better(outcome([90] + [2] * 7), outcome([1] + [2] * 7), 1)
    assert not clearly_better(outcome([9, 9]), outcome([0, 0]), 1)


def test_what_is_better_in_most_samples_is_and_the_more_are_tried_the_more_it_takes() -> None:
    own = outcome([8, 6, 9, 7, 5, 8, 7, 9])
    good = outcome([5, 5, 6, 6, 3, 4, 6, 6])

    assert clearly_better(own, good, 1)
    assert clearly_better(own, good, 5)
    assert not clearly_better(own, good, 50)
    assert not clearly_better(good, own, 1)


def test_decisions_and_outputs_count_where_no_spike_differs() -> None:
    wrong = [0] * 20
    own = outcome(wrong, same=[False] * 12 + [True] * 8)

    assert clearly_better(own, outcome(wrong, same=[True] * 20), 5)
    assert not clearly_better(own, outcome(wrong, same=[True] + [False] * 11 + [True] * 8), 5)
    far, near = np.linspace(1, 2, 20), np.linspace(0.2, 0.5, 20)
    assert clearly_better(outcome(wrong, errors=far), outcome(wrong, errors=near), 5)
    # Where there are classes, what changes no decision does not matter.
    sure = [True] * 20
    assert not clearly_better(
        outcome(wrong, errors=far, same=sure), outcome(wrong, errors=near, same=sure), 5
    )
    # No spikes at all, no classes.
    none = replace(outcome(wrong, errors=far), slots=0)
    assert clearly_better(none, replace(none, errors=near), 5)


def test_what_is_clearly_worse_in_another_way_is_not_better() -> None:
    own, good = np.arange(20) % 3 + 6, np.arange(20) % 2 + 1
    all_of, half = [True] * 20, [True] * 10 + [False] * 10

    assert clearly_better(outcome(own, same=all_of), outcome(good, same=all_of), 5)
    assert not clearly_better(outcome(own, same=all_of), outcome(good, same=half), 5)
    assert not clearly_better(outcome(own, right=all_of), outcome(good, right=half), 5)
    # One sample fewer is not clearly worse; the report shows it.
    assert clearly_better(outcome(own, right=all_of), outcome(good, right=[False] + [True] * 19), 5)


@pytest.fixture
def exact_but_for_its_readout(chain: MakeNetwork, lif: Make) -> Network:
    """Hidden weights of +-0.5 are right with any bits, so that no spike ever differs; the read-out's are not."""
    random = np.random.default_rng(3)
    return chain(
        (8,),
        {
            "fc": Dense(np.sign(random.normal(size=(16, 8))) / 2, np.zeros(16)),
            "lif": lif((16,), decay=0.5),
            "read out": Dense(random.normal(0, 0.3, (10, 16)), np.zeros(10)),
        },
        steps=4,
    )


def test_a_readout_to_blame_gets_its_bits(
    program_of: Make, look: Make, exact_but_for_its_readout: Network
) -> None:
    program = program_of(exact_but_for_its_readout, bits=2)
    inputs = np.random.default_rng(0).integers(0, 2, (60, 4, 8)).astype(float)
    decided = simulate(folded_network(program), inputs).output.mean(1).argmax(1)

    found, _ = look(program, inputs, decided, alternatives=True)

    own, *others = found.alternatives
    assert own.mismatches.count == 0
    assert own.same_decisions == own.accuracy
    assert own.same_decisions.value < 0.8
    (alone,) = [item for item in others if item.options == "--bits 'read out'=8"]
    assert alone.name == "8 weight bits for 'read out'"
    assert alone.better
    assert alone.same_decisions == Share(60, 60)
    assert alone.output_error < own.output_error / 10
    # Of those that differ nowhere, the one with the decisions and outputs of the float network is first.
    best = best_of(found.alternatives)
    assert best is others[0]
    assert best.same_decisions == Share(60, 60)


def test_a_network_without_spikes_is_judged_by_its_outputs(
    program_of: Make, chain: MakeNetwork
) -> None:
    random = np.random.default_rng(0)
    network = chain((5,), {"fc": Dense(random.normal(0, 0.3, (1, 5)), np.zeros(1))}, steps=4)
    program = program_of(network, bits=3)
    inputs = random.integers(0, 2, (30, 4, 5)).astype(float)

    found, _ = alternatives_of(
        program, folded_network(program), Examined(inputs, None, {}), worst=None, calibration="none"
    )

    own, *_ = found
    assert own.mismatches == Share(0, 0)
    assert own.same_decisions is None  # one output is no classes
    best = best_of(found)
    assert best is not None
    assert best.output_error is not None
    assert own.output_error is not None
    assert best.output_error < own.output_error
    assert best.difference is None


def test_one_output_has_no_accuracy(program_of: Make, chain: MakeNetwork) -> None:
    network = chain((2,), {"fc": Dense(np.array([[0.3, 0.7]]), np.zeros(1))}, steps=2)
    program = program_of(network, bits=3)
    labels = np.zeros(4, np.int64)

    found, _ = alternatives_of(
        program,
        folded_network(program),
        Examined(np.ones((4, 2, 2)), labels, {}),
        worst=None,
        calibration="none",
    )

    assert {(item.accuracy, item.same_decisions) for item in found} == {(None, None)}


def test_what_calibrating_gave_up_is_not_told_under_its_name(
    program_of: Make, network: Network, inputs: Any, look: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def giving_up(net: Any, target: Any, passes: Any) -> Any:
        made = run_passes(net, target, passes)
        if not passes.options.recipe.correct_biases:
            return made
        told = {
            **made.program.facts["quantisation"],
            "calibration": {"taken": "max"},
        }
        facts = {**made.program.facts, "quantisation": told}
        return replace(made, program=replace(made.program, facts=facts))

    program = program_of(network, bits=3)
    monkeypatch.setattr(alternatives, "run_passes", giving_up)

    found, missing = look(program, inputs, count=12, alternatives=True)

    assert missing["alternative: corrected biases"].startswith(
        "calibrating took its baseline, method max"
    )
    assert not [item for item in found.alternatives if "corrected" in item.name]


def test_equal_integers_are_told_once(
    program_of: Make, network: Network, inputs: Any, look: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = program_of(network, bits=3)
    finest = run_passes  # what 8 bits make, whatever is asked for by channel

    def same_twice(net: Any, target: Any, passes: Any) -> Any:
        if passes.options.recipe.scales == "channel":
            passes.options = replace(passes.options, recipe=replace(recipe_of(program)))
        if passes.options.recipe.method == "percentile":
            passes.options = replace(
                passes.options, recipe=replace(recipe_of(program), weight_bits=8)
            )
        return finest(net, target, passes)

    monkeypatch.setattr(alternatives, "run_passes", same_twice)

    found, missing = look(program, inputs, count=12, alternatives=True)

    assert missing["alternative: a scale for each channel"] == (
        "it makes the very integers of 'as it is'"
    )
    assert missing["alternative: method percentile"] == (
        "it makes the very integers of '8 weight bits'"
    )
    names = [item.name for item in found.alternatives]
    assert "8 weight bits" in names
    assert "method percentile" not in names


def test_numbers_are_compared_all_the_way_down(program_of: Make, network: Network) -> None:
    first, second = (program_of(network, bits=3).network for _ in range(2))

    assert same_numbers(first, second)
    group = second.synapses[0]
    weight = group.weight.copy()
    weight.flat[-1] += 1
    changed = replace(group, weight=weight)
    assert not same_numbers(first, replace(second, synapses=(changed, *second.synapses[1:])))
    assert not same_numbers(first, replace(second, outputs={}))
    assert not same_numbers(first, replace(second, synapses=()))
    assert not same_numbers(Geometry(), Geometry((2, 2)))
    assert not same_numbers(Geometry(), None)


def test_what_fails_when_it_runs_is_listed(
    program_of: Make, network: Network, inputs: Any, look: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = program_of(network, bits=3)
    measure = alternatives.measured

    def failing(ours: Any, other: Any, examined: Examined) -> Measured:
        if other.facts["quantisation"]["scales"] == "channel":
            raise DataError("beyond its range")
        return measure(ours, other, examined)

    monkeypatch.setattr(alternatives, "measured", failing)

    found, missing = look(program, inputs, count=8, alternatives=True)

    assert missing["alternative: a scale for each channel"] == "beyond its range"
    assert len(found.alternatives) > 2


def test_none_is_begun_after_the_deadline_and_how_far_it_is_is_told(
    program_of: Make, network: Network, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = program_of(network, bits=3)
    now = iter(range(100))
    monkeypatch.setattr(alternatives, "monotonic", lambda: float(next(now)))
    told: list[tuple[int, int]] = []

    found, missing = alternatives_of(
        program,
        folded_network(program),
        Examined(inputs, None, {}),
        worst=None,
        calibration="none here",
        progress=lambda done, of: told.append((done, of)),
        deadline=2.0,
    )

    ideas = [idea.name for idea in ideas_for(program, recipe_of(program), None)]
    assert [item.name for item in found[1:]] == ideas[:2] or len(found) == 3
    assert told == [(1, len(ideas)), (2, len(ideas))]
    assert {name for name, why in missing.items() if why == "not begun, as 2 s were over"} == {
        f"alternative: {name}" for name in ideas[2:]
    }


def test_training_data_that_are_judged_by_calibrate_nothing(
    program_of: Make, network: Network
) -> None:
    """The same training samples, verified: each that is examined is left out, and others fill its place."""
    program = program_of(network, recipe=Recipe(3, samples=32))
    settings = {"data": "digits", "timesteps": 1}
    ours = replace(program, facts={**program.facts, "reference": {"settings": settings}})
    source = open_source("digits:train", DataOptions())
    # What export would take: 32, evenly spread.
    taken = np.arange(32) * source.count // 32
    names = [item.name for item in program.network.inputs]

    def prints(numbers: Any) -> frozenset[bytes]:
        return prints_of(by_input(source.fetch(np.array(numbers)).inputs, names))

    apart = calibration_of(ours, open_source("digits:test", DataOptions()), np.arange(8))
    assert isinstance(apart, Calibration)
    assert apart.what == "32 training samples of 'digits'"
    assert prints_of(apart.samples) == prints(taken)

    found = calibration_of(ours, source, taken[:20])

    assert isinstance(found, Calibration)
    assert found.what == "32 training samples of 'digits', without those that judge"
    assert len(found.samples["input"]) == 32
    assert not prints_of(found.samples) & prints(taken[:20])


def test_equal_samples_have_equal_prints() -> None:
    values = np.array([[[0, 1]], [[1, 0]]], np.uint8)

    prints = prints_of({"input": values})

    assert len(prints) == 2
    assert prints_of({"input": values[::-1].astype(np.float32)}) == prints
    assert prints_of({"input": -0.0 * values[:1]}) == prints_of({"input": 0.0 * values[:1]})


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
