"""The numbers of a report against their definitions, on a network whose accuracy changes with the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import nir
import numpy as np
import pytest

import neurocompile
from neurocompile import reference
from neurocompile.data import Samples
from neurocompile.program import Program
from neurocompile.verification.report import Report
from neurocompile.verification.stages import folded_network

pytest.importorskip("torch")  # what writes NIR files needs it
from neurocompile.frontend.to_nir import write_nir


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Integrating neurons in two bits, so that floats and integers differ, and a read-out of their spikes."""
    generator = np.random.default_rng(5)
    full = np.ones(16)
    graph = nir.NIRGraph(
        nodes={
            "input": nir.Input({"input": np.array([6])}),
            "fc": nir.Affine(weight=generator.normal(size=(16, 6)) / 2, bias=np.zeros(16)),
            "if": nir.IF(r=1e4 * full, v_threshold=full, v_reset=0 * full),
            "out": nir.Affine(weight=generator.normal(size=(3, 16)), bias=np.zeros(3)),
            "output": nir.Output({"output": np.array([3])}),
        },
        edges=[("input", "fc"), ("fc", "if"), ("if", "out"), ("out", "output")],
    )
    path = tmp_path_factory.mktemp("nir") / "graph.nir"
    write_nir(path, graph)
    with neurocompile.export(
        path, target="fixedpoint", profile="literal", dt=1e-4, weight_bits=2, steps=6
    ) as made:
        yield made


@pytest.fixture(scope="module")
def samples(program: Program) -> Samples:
    """Random spikes, of which the integers decide all but two as labelled in the end."""
    inputs = np.random.default_rng(6).integers(0, 2, (24, 6, 6)).astype(np.float32)
    labels = program.run(inputs).output.mean(1).argmax(1)
    labels[:2] = (labels[:2] + 1) % 3
    return Samples(inputs, labels)


@pytest.fixture(scope="module")
def report(program: Program, samples: Samples) -> Report:
    return neurocompile.verify(program, data=samples, examine=0)


def test_accuracy_is_that_of_all_steps(program: Program, samples: Samples, report: Report) -> None:
    assert isinstance(samples.inputs, np.ndarray)
    output = program.run(samples.inputs).output
    right = [
        int((output[:, : step + 1].mean(1).argmax(1) == samples.labels).sum()) for step in range(6)
    ]
    summary = next(stage for stage in report.stages if stage.name == "fixedpoint")

    assert summary.accuracy_over_steps is not None
    assert summary.accuracy is not None
    assert [share.count for share in summary.accuracy_over_steps] == right
    assert summary.accuracy.count == right[-1]
    assert right[0] != right[-1] == 22
    assert report.accuracy["fixedpoint"] == right[-1] / 24


def test_spike_counts_differ_by_their_mean_over_samples_and_neurons(
    program: Program, samples: Samples, report: Report
) -> None:
    assert isinstance(samples.inputs, np.ndarray)
    integers = program.run(samples.inputs, "all").spikes["if"].astype(int).sum(1)
    floats = reference.simulate(folded_network(program), samples.inputs).spikes["if"]
    (layer,) = report.between("float", "fixedpoint").layers

    assert layer.count_difference == np.abs(integers - floats.astype(int).sum(1)).mean()
    assert layer.count_difference > 0


def test_energy_is_of_one_sample(
    program: Program, samples: Samples, report: Report, twice: Callable[[Samples], Samples]
) -> None:
    again = neurocompile.verify(program, data=twice(samples), examine=0)

    assert report.energy
    assert [entry.picojoules for entry in again.energy] == pytest.approx(
        [entry.picojoules for entry in report.energy]
    )
    assert report.energy[0].picojoules > 0


@pytest.fixture
def twice() -> Callable[[Samples], Samples]:
    """Returns all samples a second time behind the first ones."""

    def double(samples: Samples) -> Samples:
        return samples.at(np.concatenate([np.arange(24), np.arange(24)]))

    return double
