"""Membranes behind differing spikes: of the right side, place and unit, in one run of each stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import neurocompile
from neurocompile.data import Samples
from neurocompile.frontend.network_to_nir import network_to_nir
from neurocompile.ir import Network
from neurocompile.program import Program
from neurocompile.samples import SampleSource, source_of_samples
from neurocompile.verification import lookup
from neurocompile.verification.report import Divergence, Report
from neurocompile.verification.stages import Runner, plan_of

SAMPLES, STEPS = 7, 3


@pytest.fixture
def program(
    chain: Callable[..., Network],
    dense: Callable[..., Any],
    lif: Callable[..., Any],
    opened: Callable[[Program], Program],
    tmp_path: Path,
) -> Program:
    """
    Two neurons that add up what comes, with thresholds 1 and 2, and a read-out.
    """
    network = chain(
        (2,),
        {
            "fc": dense([[0.25, 0.5], [0.5, 1.0]]),
            "lif": lif((2,), decay=1.0, threshold=[1.0, 2.0]),
            "out": dense([[1, 0], [0, 1]]),
        },
        steps=STEPS,
    )
    path = tmp_path / "graph.nir"
    path.write_bytes(network_to_nir(network))
    return opened(neurocompile.export(path, target="fixedpoint"))


@pytest.fixture
def source() -> SampleSource:
    """Samples that show the first input alone, both inputs, and so on."""
    shown = np.tile(np.array([[1, 0], [1, 1]], np.float32)[:, np.newaxis], (4, STEPS, 1))
    return source_of_samples(Samples(shown[:SAMPLES], None))


def place(sample: int, step: int, neuron: int) -> Divergence:
    return Divergence(sample, step, "lif", neuron, 0, 1, None, None)


def test_both_sides_are_looked_up_in_the_sources_units(
    program: Program, source: SampleSource
) -> None:
    """
    By hand: 0.25 a step, or 0.75, on the first neuron; twice that on the second, whose threshold is 2.

    With both inputs neuron 0 reaches 0.75, then 1.5, which is above 1, and begins anew.
    """
    runner = Runner(program, plan_of(program))
    places = [place(0, 2, 0), place(1, 1, 0), place(3, 2, 0), place(6, 1, 1)]
    pairs = dict.fromkeys((("float", "quantised"), ("float", "fixedpoint")), places)

    found = lookup.look_up(runner, source, pairs, steps=STEPS)

    expected = {0: (0.75, 1), 1: (1.5, 1), 3: (0.75, 1), 6: (1.0, 2)}
    for key in pairs:
        for sample, (membrane, threshold) in expected.items():
            item = found[key][sample]
            assert (item.reference_membrane, item.reference_threshold) == (membrane, threshold)
            # Integers have one scale for all, at which weights are rounded to 1/127.
            assert item.membrane == pytest.approx(membrane, rel=1e-2)
            assert item.threshold == pytest.approx(threshold, rel=1e-2)
    assert found[key][1].step == 1


def test_each_stage_runs_once_for_all_pairs_in_parts_that_fit_memory(
    program: Program, source: SampleSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(program, plan_of(program))
    runs: list[tuple[str, int]] = []

    def counting(stage: str, look: Callable[..., Any]) -> Callable[..., Any]:
        def counted(runner: Runner, inputs: Any, layers: Any) -> Any:
            runs.append((stage, len(inputs)))
            return look(runner, inputs, layers)

        return counted

    looks = {stage: counting(stage, look) for stage, look in lookup.LOOKS.items()}
    monkeypatch.setattr(lookup, "LOOKS", looks)
    places = [place(sample, sample % STEPS, sample % 2) for sample in range(SAMPLES)]
    pairs = {
        ("float", "quantised"): places,
        ("quantised", "fixedpoint"): places[2:4],
        ("float", "fixedpoint"): places[:2],
    }

    whole = lookup.look_up(runner, source, pairs, steps=STEPS)
    assert sorted(runs) == [("fixedpoint", 7), ("float", 7), ("quantised", 7)]
    runs.clear()
    monkeypatch.setattr(lookup, "MOST_MEMBRANES", 3 * 2 * STEPS)  # of three samples
    parts = lookup.look_up(runner, source, pairs, steps=STEPS)

    assert [count for stage, count in runs if stage == "float"] == [3, 3, 1]
    assert parts == whole
    assert list(whole["quantised", "fixedpoint"]) == [2, 3]


def test_nothing_is_run_where_nothing_differs_and_pytorch_shows_nothing(
    program: Program, source: SampleSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(program, plan_of(program))
    key = ("torch", "float")

    found = lookup.look_up(runner, source, {key: [place(1, 1, 0)]}, steps=STEPS)

    item = found[key][1]
    assert (item.reference_membrane, item.reference_threshold) == (None, None)
    assert (item.membrane, item.threshold) == (1.5, 1.0)
    monkeypatch.setattr(lookup, "LOOKS", {"float": None})
    assert lookup.look_up(runner, source, {key: []}, steps=STEPS) == {key: {}}


def test_a_target_that_fired_something_else_has_a_membrane_that_nobody_saw(
    program: Program, source: SampleSource
) -> None:
    """The integers do not fire at sample 0, step 1, neuron 0: a target that did is not they."""
    plan = plan_of(program)
    runner = Runner(program, replace(plan, integers=plan.integers | {"chip", "form"}))
    fired, silent = place(0, 1, 0), replace(place(0, 1, 0), reference_spike=1, candidate_spike=0)

    found = lookup.look_up(
        runner,
        source,
        {("fixedpoint", "chip"): [fired], ("chip", "form"): [silent]},
        steps=STEPS,
    )

    item = found["fixedpoint", "chip"][0]
    assert item.reference_membrane == pytest.approx(0.5, rel=1e-2)
    assert (item.membrane, item.threshold) == (None, None)
    item = found["chip", "form"][0]
    assert item.membrane == pytest.approx(0.5, rel=1e-2)
    assert (item.reference_membrane, item.reference_threshold) == (None, None)


@pytest.fixture
def differing(
    chain: Callable[..., Network],
    dense: Callable[..., Any],
    lif: Callable[..., Any],
    opened: Callable[[Program], Program],
    tmp_path: Path,
) -> tuple[Program, Samples]:
    """A program of 2 bits, and samples in which it fires otherwise than the float network."""
    generator = np.random.default_rng(3)
    layers = {
        "fc": dense(generator.normal(size=(8, 4))),
        "lif": lif((8,)),
        "out": dense(generator.normal(size=(2, 8))),
    }
    path = tmp_path / "differing.nir"
    path.write_bytes(network_to_nir(chain((4,), layers, steps=4)))
    program = opened(neurocompile.export(path, target="fixedpoint", weight_bits=2))
    return program, Samples(generator.integers(0, 2, (30, 4, 4)).astype(float), None)


def told(report: Report) -> list[Divergence]:
    """Return all divergences that the report tells."""
    pairs = (*report.comparisons, report.overall)
    found = [item for pair in pairs for item in (pair.first_divergence, *pair.divergences)]
    return [item for item in found if item is not None]


def without_membranes(report: Report) -> set[int]:
    return {item.sample for item in told(report) if item.reference_membrane is None}


def test_without_a_close_look_only_first_differences_are_looked_up(
    differing: tuple[Program, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, samples = differing
    looked: list[set[int]] = []

    def noting(*arguments: Any, **options: Any) -> Any:
        looked.append({item.sample for items in arguments[2].values() for item in items})
        return lookup.look_up(*arguments, **options)

    monkeypatch.setattr("neurocompile.verification.verify.look_up", noting)

    report = neurocompile.verify(program, data=samples, examine=0)

    firsts = [pair.first_divergence for pair in report.comparisons]
    found = [item for item in (*firsts, report.overall.first_divergence) if item is not None]
    assert looked == [{item.sample for item in found}]
    assert all(item.membrane is not None for item in found)
    assert without_membranes(report)
    assert report.not_measured["membranes of other divergences"] == (
        "they were left out (--examine 0)"
    )
    closely = neurocompile.verify(program, data=samples, examine=1)
    assert not without_membranes(closely)
    assert "membranes of other divergences" not in closely.not_measured


def test_a_large_network_is_looked_up_in_fewer_samples(
    differing: tuple[Program, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, samples = differing
    runner = Runner(program, plan_of(program))
    work = program.network
    each = 4 * sum(work.synapse_count(group) for group in work.synapses)
    monkeypatch.setattr(lookup, "WORK", 5 * each)

    report = neurocompile.verify(program, data=samples, examine=1)

    assert lookup.affordable(runner, 4) == 5
    every = {item.sample for item in told(report)}
    assert len(every - without_membranes(report)) == 5
    assert report.not_measured["membranes of other divergences"] == (
        f"a sample takes so many multiplications that they were looked up in 5 of {len(every)} samples"
    )
    monkeypatch.setattr(lookup, "WORK", 1)
    assert lookup.affordable(runner, 4) == 1
