"""The table of quantisation: its arithmetic, the usual rounding that stands in it, and that it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import harness
import numpy as np
import pytest
import quantisation
from numpy.typing import NDArray
from quantisation import Duel, Row, Subject, Truth

from neurocompile.data import Samples
from neurocompile.frontend.from_nir import Imported
from neurocompile.integer import IntegerNeurons
from neurocompile.ir import LIF, Dense, Input, Network, Output
from neurocompile.program import Program
from neurocompile.quantisation.recipe import Recipe

FLOATS_WRONG = 2
SAMPLES = 20


@pytest.fixture
def subject(lif: Callable[..., LIF]) -> Subject:
    """Two inputs, two neurons and two classes; the float network gets the first two of 20 samples wrong."""
    network = Network(
        {
            "input": Input((2,)),
            "dense": Dense(np.array([[1.0, 0.3], [-0.6, 0.05]]), np.zeros(2)),
            "lif": lif((2,), threshold=0.9),
            "readout": Dense(np.eye(2), np.zeros(2)),
            "output": Output((2,)),
        },
        (("input", "dense"), ("dense", "lif"), ("lif", "readout"), ("readout", "output")),
        steps=2,
    )
    labels = np.zeros(SAMPLES, np.int64)
    decided = labels.copy()
    decided[:FLOATS_WRONG] = 1
    truth = Truth(
        Samples(np.zeros((SAMPLES, 2, 2)), labels), decided, [{"lif": np.zeros(1, np.uint8)}]
    )
    case = quantisation.CASES[1]
    return Subject(case, Path(), "", Imported(network, {}, None), 2, 8, truth)


@pytest.mark.parametrize(
    ("lost", "won", "expected"), [(0, 0, 1.0), (3, 0, 0.125), (1, 1, 0.75), (5, 0, 1 / 32)]
)
def test_chance_is_that_of_coins(lost: int, won: int, expected: float) -> None:
    assert quantisation.chance(lost, won) == expected


def test_two_methods_differ_by_the_samples_that_only_one_gets_wrong(subject: Subject) -> None:
    mine, other = Row(4, wrong=(0, 1, 2, 3, 4, 5, 6)), Row(4, wrong=(0, 1, 9))

    found = quantisation.duel(subject, mine, other, "another")

    assert (found.lost, found.won) == (5, 1)
    assert found.points == -20
    assert not found.beyond_chance  # 7 of 64 by chance
    assert replace(found, won=0).beyond_chance  # 1 of 32
    assert not replace(found, lost=0, won=9).beyond_chance


def test_one_case_of_twenty_may_be_by_chance() -> None:
    """5 coins: 1 of 32. Two cases together need 1 of 40 of the rarer one, 6 coins have 1 of 64."""
    five, six, even = (Duel("digits", 4, "another", lost, 0, SAMPLES) for lost in (5, 6, 0))

    assert five.beyond_chance
    assert quantisation.together([five]) == 1
    assert quantisation.together([five, even]) == 0
    assert quantisation.together([six, five]) == 2
    assert quantisation.together([even, six]) == 1


def test_without_a_program_everything_is_wrong(subject: Subject) -> None:
    none, some = Row(2, problem="no integers fit"), Row(2, wrong=(0, 1, 9))

    assert quantisation.duel(subject, none, some, "another").points == -85
    assert quantisation.duel(subject, some, none, "another").points == 85
    assert quantisation.points_lost(subject, none) is None
    assert quantisation.points_lost(subject, some) == pytest.approx(5)


def test_claims_are_computed_from_the_rows(subject: Subject) -> None:
    """Of 20 samples one is 5 points: no claim but those of a method that loses nothing can be met."""
    ways = (quantisation.LARGEST, quantisation.POWER, quantisation.PLAIN[0], quantisation.TUNED)
    eight, four = Row(8, wrong=(0, 1)), Row(4, wrong=(0, 1, 2))
    usual = [Row(8, wrong=(0, 1)), Row(4, wrong=(0, 1))]
    tuned = [replace(row, torch_mismatches=number) for number, row in enumerate((eight, eight))]
    found = {
        "MNIST": {
            ways[0].name: usual,
            ways[1].name: usual,
            ways[2].name: [eight, four],
            ways[3].name: [tuned[0], replace(tuned[1], bits=4)],
        }
    }

    section = quantisation.asked([subject], found, ways)

    told = [(claim.measured, claim.met) for claim in section.claims]
    assert told == [
        (pytest.approx(0), True),
        (pytest.approx(5), False),
        (pytest.approx(0), True),
        (-5, False),
        (0, True),  # one sample may be chance
        (0, True),
        (1, False),  # a spike that PyTorch has not
    ]
    assert section.data["methods"][0]["worst"] == asdict(
        Duel("MNIST", 4, ways[0].name, lost=1, won=0, samples=SAMPLES)
    )


def test_the_usual_rounding_takes_the_largest_weight_to_the_largest_integer(
    subject: Subject,
) -> None:
    """4 bits: 1.0 becomes 7 of 32 each, 224; 0.9 * 224 = 201.6 is rounded, as nothing else keeps it."""
    program = quantisation.as_usual(subject, Recipe(4))
    power = quantisation.as_usual(subject, Recipe(4, method="power-of-two"))

    def parts(of: Program) -> tuple[NDArray[np.int64], IntegerNeurons]:
        neurons = of.network["lif"]
        assert isinstance(neurons, IntegerNeurons)
        return of.network.into("lif")[0].weight, neurons

    weight, neurons = parts(program)
    assert weight.tolist() == [[224, 64], [-128, 0]]
    assert neurons.scale == 224
    assert neurons.threshold == 202
    weight, neurons = parts(power)
    assert weight.tolist() == [[128, 32], [-64, 0]]
    assert neurons.scale == 128
    assert neurons.threshold == 115


def test_the_table_runs_and_goes_on_from_rows_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digits in 4 bits, by a network that is soon trained; the folder of images is not looked into."""
    monkeypatch.setattr("neurocompile.training.train.write_figures", lambda *_: None)
    ways = (quantisation.LARGEST, quantisation.PLAIN[3], quantisation.TUNED)

    def measure() -> list[harness.Section]:
        return quantisation.measure(
            (quantisation.TINY,), ways, (4,), images=tmp_path, runs=tmp_path, scratch=tmp_path
        )

    first = measure()

    rows = first[1].data["rows"]
    assert [section.title for section in first] == [
        "What was asked",
        "digits: accuracy",
        "digits: spikes that differ",
    ]
    assert rows["mse"][0]["spikes"].keys() == {"lif1", "lif2"}
    assert 0 < rows["mse"][0]["spikes"]["lif1"] < 0.2
    assert rows[quantisation.TUNED.name][0]["torch_mismatches"] == 0
    assert first[1].data["float"] > 0.6
    json.dumps([section.data for section in first])
    monkeypatch.setattr(quantisation, "write_text", None)  # no row is made again
    assert [section.data for section in measure()] == [section.data for section in first]
