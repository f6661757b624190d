"""The few samples that a report shows: which ones, and that they are what the stages did."""

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
from neurocompile.raster import STEPS_SHOWN, draw_raster, samples_drawn
from neurocompile.verification import exhibits
from neurocompile.verification.report import Report


@pytest.fixture
def program(
    chain: Callable[..., Network],
    dense: Callable[..., Any],
    lif: Callable[..., Any],
    opened: Callable[[Program], Program],
    tmp_path: Path,
) -> Program:
    generator = np.random.default_rng(5)
    network = chain(
        (4,),
        {
            "fc": dense(generator.normal(size=(8, 4))),
            "lif": lif((8,)),
            "out": dense(generator.normal(size=(2, 8))),
        },
        steps=6,
    )
    path = tmp_path / "graph.nir"
    path.write_bytes(network_to_nir(network))
    return opened(neurocompile.export(path, target="fixedpoint", weight_bits=2))


@pytest.fixture
def samples() -> Samples:
    generator = np.random.default_rng(6)
    return Samples(generator.integers(0, 2, (30, 6, 4)).astype(float), generator.integers(0, 2, 30))


@pytest.fixture
def report(program: Program, samples: Samples) -> Report:
    return neurocompile.verify(program, data=samples, examine=0)


def test_the_first_samples_and_some_that_differ_are_shown_as_they_are(
    program: Program, samples: Samples, report: Report
) -> None:
    numbers = [exhibit.sample for exhibit in report.exhibits]

    assert numbers == sorted(set(numbers))
    assert numbers[:4] == [0, 1, 2, 3]
    assert 4 < len(numbers) <= 8
    assert samples.labels is not None
    assert not isinstance(samples.inputs, dict)
    result = program.run(samples.inputs, "all")
    for exhibit in report.exhibits:
        assert list(exhibit.spikes) == ["float", "quantised", "fixedpoint"]
        shown = exhibit.spikes["fixedpoint"]["lif"]
        np.testing.assert_array_equal(shown, result.spikes["lif"][exhibit.sample])
        np.testing.assert_array_equal(exhibit.outputs["fixedpoint"], result.output[exhibit.sample])
        assert exhibit.label == samples.labels[exhibit.sample]
        assert exhibit.decisions["fixedpoint"] == program.decisions(result)[exhibit.sample]
    apart = [
        exhibit.sample
        for exhibit in report.exhibits
        if (exhibit.spikes["float"]["lif"] != exhibit.spikes["fixedpoint"]["lif"]).any()
    ]
    assert set(numbers[4:]) <= set(apart)


def test_a_large_network_shows_one_sample_that_differs(
    program: Program, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exhibits, "MOST_VALUES", 1)

    report = neurocompile.verify(program, data=samples, examine=0)

    (shown,) = report.exhibits
    first = report.overall.first_divergence
    assert first is not None
    assert shown.sample == first.sample


def test_the_picture_shows_as_many_samples_as_fit(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    few = replace(report, steps=STEPS_SHOWN // 2)

    assert samples_drawn(report) == report.exhibits[: STEPS_SHOWN // 6]
    assert len(samples_drawn(few)) == 2
    assert len(samples_drawn(replace(report, steps=10 * STEPS_SHOWN))) == 1
    draw_raster(report, tmp_path / "raster.png")
    assert (tmp_path / "raster.png").read_bytes().startswith(b"\x89PNG")


def test_there_is_no_picture_without_two_stages_that_spike(report: Report) -> None:
    silent = replace(report, overall=replace(report.overall, layers=()))

    assert samples_drawn(silent) == ()
    assert samples_drawn(replace(report, stages=report.stages[:1])) == ()
