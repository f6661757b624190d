"""Comparing stages: what is counted, what is located, and that a planted fault is found."""

from __future__ import annotations

import io
import json
import platform
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from numpy.typing import NDArray

import neurocompile
from neurocompile.data import Samples, map_inputs
from neurocompile.decision import decisions
from neurocompile.errors import DataError, OptionError
from neurocompile.frontend.network_to_nir import network_to_nir
from neurocompile.frontend.to_nir import write_nir
from neurocompile.ir import Conv2d, Flatten, MaxPool2d, Network
from neurocompile.program import Program
from neurocompile.reference import simulate
from neurocompile.samples import source_of_samples
from neurocompile.statistics import Share
from neurocompile.tensors import npz_bytes
from neurocompile.verification.lookup import look_up
from neurocompile.verification.report import (
    Cause,
    Comparison,
    Divergence,
    Examination,
    LayerComparison,
    MembraneTrace,
)
from neurocompile.verification.stages import Runner, Stage, folded_network, plan_of
from neurocompile.verification.tallies import PairTally, tally_pair
from neurocompile.verification.verify import unexplained


@pytest.fixture(scope="module")
def nir_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of IF and LIF neurons and a read-out, driven by spikes."""
    generator = np.random.default_rng(0)
    full = np.ones(12)
    graph = nir.NIRGraph(
        nodes={
            "input": nir.Input({"input": np.array([6])}),
            "fc1": nir.Affine(
                weight=generator.normal(size=(12, 6)), bias=generator.normal(size=12) / 4
            ),
            "lif1": nir.LIF(
                tau=2e-4 * full, r=2 * full, v_leak=0 * full, v_threshold=full, v_reset=0 * full
            ),
            "fc2": nir.Linear(weight=generator.normal(size=(12, 12)) / 2),
            "lif2": nir.IF(r=1e4 * full, v_threshold=full, v_reset=0 * full),
            "out": nir.Affine(weight=generator.normal(size=(3, 12)), bias=np.zeros(3)),
            "output": nir.Output({"output": np.array([3])}),
        },
        edges=[
            ("input", "fc1"),
            ("fc1", "lif1"),
            ("lif1", "fc2"),
            ("fc2", "lif2"),
            ("lif2", "out"),
            ("out", "output"),
        ],
    )
    path = tmp_path_factory.mktemp("nir") / "graph.nir"
    write_nir(path, graph)
    return path


@pytest.fixture
def program(nir_file: Path, opened: Callable[[Program], Program]) -> Program:
    return opened(neurocompile.export(nir_file, target="fixedpoint", profile="literal", dt=1e-4))


@pytest.fixture
def samples() -> Samples:
    generator = np.random.default_rng(1)
    return Samples(
        generator.integers(0, 2, (20, 6, 6)).astype(np.float32), generator.integers(0, 3, 20)
    )


Located = Callable[..., Divergence]


@pytest.fixture
def located() -> Located:
    """Look up the only divergence of two stages of one program, which run on `samples`."""

    def look(
        program: Program, samples: Samples, first: Stage, second: Stage, names: tuple[str, str]
    ) -> Divergence:
        counted = tally_pair(first, second, offset=0, agreeing=0)
        assert counted.first is not None
        source = source_of_samples(samples)
        steps = next(iter(first.outputs.values())).shape[1]
        runner = Runner(program, plan_of(program))
        seen = look_up(runner, source, {names: [counted.first]}, steps=steps)
        return seen[names][counted.first.sample]

    return look


def counted(first: Stage, second: Stage) -> PairTally:
    return tally_pair(first, second, offset=0, agreeing=0)


def test_a_nir_file_has_no_torch_stage(program: Program, samples: Samples) -> None:
    report = neurocompile.verify(program, data=samples)

    assert [stage.name for stage in report.stages] == ["float", "quantised", "fixedpoint"]
    document = report.to_json()
    assert document["schema"] == 1
    assert sorted(document["accuracy"]) == ["fixedpoint", "float", "quantised"]
    pairs = {(item["reference"], item["candidate"]): item for item in document["comparisons"]}
    assert list(pairs) == [
        ("float", "quantised"), ("quantised", "fixedpoint"), ("float", "fixedpoint"),
    ]  # fmt: skip
    comparison = pairs["float", "fixedpoint"]
    assert comparison["slots"] == 20 * 6 * 24
    assert comparison["must_match"] is False
    assert document["not_measured"]["torch"] == "the program comes from no PyTorch network of ours"
    assert [layer["name"] for layer in document["layers"]] == ["lif1", "lif2"]
    assert sum(layer["mismatches"] for layer in document["layers"]) == comparison["mismatches"]
    assert document["counters"]["lif1"]["u_wraps"] == 0


def test_the_json_has_what_its_page_explains(program: Program, samples: Samples) -> None:
    page = Path(__file__).parents[1] / "docs" / "verification.md"
    if not page.is_file():
        pytest.skip("the documentation is not beside these tests")
    table = page.read_text(encoding="utf-8").partition("## The JSON, schema 1")[2]
    explained = set(re.findall(r"`(\w+)`", table.partition("## Limits")[0]))
    document = neurocompile.verify(program, data=samples, max_mismatch=0.9).to_json()

    assert {*document} - {"schema"} <= explained
    for part in (document["comparisons"][0], document["stages"][0], document["budgets"][0]):
        assert {*part} - {"name"} <= explained
    assert {*document["examination"]} <= explained
    json.dumps(document, allow_nan=False)


def test_mismatches_per_spike_are_told_where_there_are_spikes(
    program: Program, samples: Samples
) -> None:
    report = neurocompile.verify(program, data=samples, examine=0)
    for layer, told in zip(report.overall.layers, report.to_json()["layers"], strict=True):
        assert told["per_spike"] == layer.mismatches / layer.spikes_reference
    silent = replace(report.overall.layers[0], spikes_reference=0)
    assert silent.per_spike is None


def test_without_labels_there_is_no_accuracy(program: Program, samples: Samples) -> None:
    report = neurocompile.verify(program, data=Samples(samples.inputs, None))

    assert report.accuracy == {}
    assert report.not_measured["accuracy"] == "the data has no labels"


def test_the_first_divergence_is_the_earliest_of_the_lowest_sample(
    program: Program, samples: Samples, located: Located
) -> None:
    result = program.run(samples.inputs, "all")
    first = Stage("fixedpoint", True, result.outputs, result.spikes)
    flipped = {name: spikes.copy() for name, spikes in result.spikes.items()}
    for sample, step, layer, neuron in (
        (7, 0, "lif1", 0),
        (3, 5, "lif1", 2),
        (3, 4, "lif2", 9),
        (3, 4, "lif2", 11),
    ):
        flipped[layer][sample, step, neuron] ^= 1
    second = Stage("other", True, result.outputs, flipped)

    found = located(program, samples, first, second, ("fixedpoint", "fixedpoint"))

    assert (found.sample, found.step, found.layer, found.neuron) == (3, 4, "lif2", 9)
    assert found.reference_spike == int(result.spikes["lif2"][3, 4, 9])
    assert found.candidate_spike == 1 - found.reference_spike
    assert found.threshold == 1.0
    assert found.membrane is not None
    assert (found.membrane > found.threshold) == bool(found.reference_spike)
    assert (found.reference_membrane, found.reference_threshold) == (
        found.membrane, found.threshold,
    )  # fmt: skip
    tally = counted(first, second)
    assert sum(layer.mismatches for layer in tally.layers.values()) == 4
    assert (tally.differing, [item.sample for item in tally.kept]) == (2, [3, 7])


def test_both_sides_of_a_divergence_are_looked_up(program: Program, samples: Samples) -> None:
    """A neuron whose weights were rounded: each side's membrane decides its own spike."""
    report = neurocompile.verify(program, data=samples)
    for pair in report.comparisons:
        found = [item for item in (pair.first_divergence, *pair.divergences) if item is not None]
        for item in found:
            assert item.reference_membrane is not None
            assert item.reference_threshold is not None
            assert item.membrane is not None
            assert item.threshold is not None
            before = item.reference_membrane - item.reference_threshold
            after = item.membrane - item.threshold
            assert (before > 0, after > 0) == (item.reference_spike > 0, item.candidate_spike > 0)
    assert report.between("float", "fixedpoint").first_divergence is not None


def test_a_float_comparison_never_fails_and_an_output_alone_does(
    program: Program, samples: Samples
) -> None:
    report = neurocompile.verify(program, data=samples)
    measured = report.between("float", "fixedpoint")
    held = replace(measured, must_match=True, layers=())

    assert measured.mismatches > 0
    assert not measured.failed
    assert not replace(held, output_mismatches=0).failed
    assert replace(held, output_mismatches=1).failed


@pytest.mark.lava
def test_a_wrong_weight_on_the_chip_is_found_and_located(nir_file: Path, samples: Samples) -> None:
    """The integers are right, what was lowered is not: exactly what verify exists for."""
    right = neurocompile.export(nir_file, target="loihi2", profile="literal", dt=1e-4)
    with np.load(io.BytesIO(right.extra_files["loihi2.npz"])) as file:
        arrays: dict[str, NDArray[np.int64]] = {name: file[name].copy() for name in file}
    arrays["weight/fc2"][5] = -arrays["weight/fc2"][5]
    wrong = replace(right, extra_files={**right.extra_files, "loihi2.npz": npz_bytes(arrays)})

    with right, wrong:
        assert not neurocompile.verify(right, data=samples).failed
        report = neurocompile.verify(wrong, data=samples)

    comparison = report.between("fixedpoint", "loihi2")
    assert report.failed
    assert comparison.failed
    layers = {layer.name: layer.mismatches for layer in comparison.layers}
    assert layers["lif1"] == 0
    assert layers["lif2"] > 0
    assert comparison.first_divergence is not None
    assert comparison.first_divergence.neuron == 5


def test_stages_that_do_not_exist_are_refused(program: Program, samples: Samples) -> None:
    with pytest.raises(
        OptionError, match="cannot be compared with torch: choose from float, quantised, fixedpoint"
    ):
        neurocompile.verify(program, data=samples, against=["torch"])
    with pytest.raises(
        OptionError, match="a comparison needs two stages, but only 'fixedpoint' is left"
    ):
        neurocompile.verify(program, data=samples, against=["fixedpoint"])


def test_samples_that_make_no_sense_are_refused(program: Program, samples: Samples) -> None:
    with pytest.raises(OptionError, match="--samples must be at least 1, but it is 0"):
        neurocompile.verify(program, data=samples, samples=0)
    with pytest.raises(DataError, match="there are no samples to verify on"):
        neurocompile.verify(
            program, data=Samples(map_inputs(lambda values: values[:0], samples.inputs), None)
        )
    with pytest.raises(
        DataError,
        match="labels must be from 0 to 2, as there are 3 outputs, but they reach from -1 to 9",
    ):
        neurocompile.verify(program, data=Samples(samples.inputs, np.repeat([9, -1], 10)))


def test_decisions_are_the_largest_mean() -> None:
    output = np.array([[[0.0, 5.0], [4.0, 0.0]], [[1.0, 0.0], [1.0, 1.0]]])

    assert decisions(output).tolist() == [1, 0]


@pytest.fixture
def several(tmp_path: Path, opened: Callable[[Program], Program]) -> Program:
    """Two inputs, three neurons of different thresholds that hear themselves, and two outputs."""
    generator = np.random.default_rng(0)
    full = np.ones(3)
    graph = nir.NIRGraph(
        nodes={
            "left": nir.Input({"input": np.array([2])}),
            "right": nir.Input({"input": np.array([4])}),
            "a": nir.Linear(weight=generator.normal(size=(3, 2))),
            "b": nir.Linear(weight=generator.normal(size=(3, 4))),
            "lif": nir.LIF(
                tau=2 * full,
                r=2 * full,
                v_leak=0 * full,
                v_threshold=np.array([1.0, 0.5, 0.75]),
                v_reset=0 * full,
            ),
            "back": nir.Linear(weight=generator.normal(size=(3, 3)) / 4),
            "fc": nir.Linear(weight=np.ones((1, 3))),
            "fired": nir.Output({"output": np.array([3])}),
            "value": nir.Output({"output": np.array([1])}),
        },
        edges=[
            ("left", "a"),
            ("right", "b"),
            ("a", "lif"),
            ("b", "lif"),
            ("lif", "back"),
            ("back", "lif"),
            ("lif", "fired"),
            ("lif", "fc"),
            ("fc", "value"),
        ],
    )
    write_nir(tmp_path / "several.nir", graph)
    return opened(
        neurocompile.export(
            tmp_path / "several.nir", target="fixedpoint", profile="literal", dt=1.0
        )
    )


@pytest.fixture
def named_samples() -> Samples:
    generator = np.random.default_rng(1)
    return Samples(
        {
            "left": generator.integers(0, 2, (10, 6, 2)).astype(np.float32),
            "right": generator.integers(0, 2, (10, 6, 4)).astype(np.float32),
        },
        generator.integers(0, 3, 10),
    )


def test_every_output_is_compared_and_the_first_one_decides(
    several: Program, named_samples: Samples
) -> None:
    report = neurocompile.verify(several, data=named_samples)

    comparison = report.between("float", "fixedpoint")
    fired = simulate(folded_network(several), named_samples.inputs).outputs["fired"]
    assert list(several.network.outputs) == ["fired", "value"]  # in the order of the network
    assert comparison.output_slots == 10 * 6 * (3 + 1)
    assert (report.samples, report.steps) == (10, 6)
    assert report.accuracy["float"] == (decisions(fired) == named_samples.labels).mean()
    assert report.to_json()["comparisons"][0]["output"]["slots"] == 240
    with pytest.raises(DataError, match="labels must be from 0 to 2, as there are 3 outputs"):
        neurocompile.verify(several, data=replace(named_samples, labels=np.full(10, 3)))


def test_a_difference_in_the_last_output_alone_counts(
    several: Program, named_samples: Samples
) -> None:
    result = several.run(named_samples.inputs, "all")
    first = Stage("fixedpoint", True, result.outputs, result.spikes)
    wrong = result.outputs["value"].copy()
    wrong[9, 5, 0] += 0.5
    second = Stage("other", True, {**result.outputs, "value": wrong}, result.spikes)

    tally = counted(first, second)

    assert (tally.first, tally.output_slots, tally.output_mismatches) == (None, 240, 1)
    assert tally.output_difference == pytest.approx(0.5)


def test_a_neuron_is_looked_up_with_its_own_threshold(
    several: Program, named_samples: Samples, located: Located
) -> None:
    result = several.run(named_samples.inputs, "all")
    flipped = result.spikes["lif"].copy()
    flipped[4, 2, 1] ^= 1
    one = Stage("one", True, result.outputs, result.spikes)
    two = Stage("two", True, result.outputs, {"lif": flipped})

    found = located(several, named_samples, one, two, ("float", "fixedpoint"))
    rounded = located(several, named_samples, one, two, ("torch", "quantised"))

    assert (found.sample, found.step, found.neuron) == (4, 2, 1)
    assert found.reference_threshold == 0.5
    assert found.threshold == pytest.approx(0.5, abs=0.005)
    assert found.membrane is not None
    assert found.threshold is not None
    assert found.membrane == pytest.approx(found.reference_membrane, abs=0.05)
    assert (found.membrane > found.threshold) == bool(result.spikes["lif"][4, 2, 1])
    assert (rounded.reference_membrane, rounded.reference_threshold) == (None, None)
    assert rounded.threshold == pytest.approx(found.threshold, abs=1e-12)
    assert rounded.membrane == pytest.approx(found.membrane, abs=0.05)


def test_a_report_says_what_the_compiler_decided(several: Program, named_samples: Samples) -> None:
    facts = neurocompile.verify(several, data=named_samples).to_json()["program"]

    assert facts["notes"] == ["samples are 1 blank step apart, the longest delay"]
    assert [report["pass"] for report in facts["validation"]["passes"]][-1] == "quantise"


def test_inputs_without_names_are_refused_before_anything_runs(
    several: Program, named_samples: Samples
) -> None:
    assert not isinstance(named_samples.inputs, np.ndarray)

    with pytest.raises(
        DataError, match="the network has the inputs 'left', 'right', but one array is given"
    ):
        neurocompile.verify(several, data=Samples(named_samples.inputs["left"], None))


@pytest.fixture
def made(
    chain: Callable[..., Network],
    opened: Callable[[Program], Program],
    tmp_path: Path,
) -> Callable[..., Program]:
    """Makes a program for fixedpoint of an input's shape and layers in a row."""

    def make(shape: tuple[int, ...], layers: dict[str, Any], **options: Any) -> Program:
        path = tmp_path / "made.nir"
        path.write_bytes(network_to_nir(chain(shape, layers, steps=4)))
        return opened(neurocompile.export(path, target="fixedpoint", validate=False, **options))

    return make


def test_a_layer_that_floats_do_not_show_is_told_for_each_pair(
    made: Callable[..., Program], lif: Callable[..., Any], dense: Callable[..., Any]
) -> None:
    """The largest of four spikes is a neuron of the integers, and no layer of the graph."""
    program = made(
        (1, 4, 4),
        {
            "conv": Conv2d(np.ones((2, 1, 1, 1)), np.zeros(2)),
            "lif": lif((2, 4, 4)),
            "pool": MaxPool2d((2, 2), (2, 2)),
            "flatten": Flatten(),
            "out": dense(np.ones((2, 8))),
        },
    )
    inputs = np.random.default_rng(0).integers(0, 2, (5, 4, 1, 4, 4)).astype(float)

    report = neurocompile.verify(program, data=Samples(inputs, None), examine=0)

    assert [layer.name for layer in report.overall.layers] == ["lif"]
    told = {name: why for name, why in report.not_measured.items() if name.startswith("'")}
    assert told == {
        "'pool' in float / quantised": "float does not show it",
        "'pool' in float / fixedpoint": "float does not show it",
    }


def test_a_network_with_one_output_decides_nothing(
    made: Callable[..., Program], lif: Callable[..., Any], dense: Callable[..., Any]
) -> None:
    program = made((2,), {"fc": dense(np.eye(2)), "lif": lif((2,)), "out": dense([[1, 1]])})
    data = Samples(np.ones((3, 4, 2)), np.zeros(3, np.int64))

    report = neurocompile.verify(program, data=data, examine=0)

    assert report.accuracy == {}
    for stage in report.stages:
        assert (stage.accuracy_over_steps, stage.steps_to_decision, stage.undecided) == (
            None, None, None,
        )  # fmt: skip
    assert all(pair.same_decisions is None for pair in report.comparisons)
    reason = "the network has one output, no classes"
    assert (report.not_measured["accuracy"], report.not_measured["decisions"]) == (reason, reason)
    with pytest.raises(OptionError, match="--min-accuracy needs classes"):
        neurocompile.verify(program, data=data, min_accuracy=0.9)


def test_a_network_that_fires_nothing_decides_nothing_and_misses_its_floors(
    made: Callable[..., Program], lif: Callable[..., Any], dense: Callable[..., Any]
) -> None:
    """All labels are 0, the first of outputs that are all 0: "100 % accurate"."""
    program = made(
        (2,),
        {"fc": dense(0.1 * np.eye(2)), "lif": lif((2,), threshold=100.0), "out": dense(np.eye(2))},
    )
    data = Samples(np.ones((6, 4, 2)), np.zeros(6, np.int64))

    report = neurocompile.verify(program, data=data, examine=0, min_accuracy=0.9)

    assert report.failed
    assert report.accuracy == dict.fromkeys(["float", "quantised", "fixedpoint"], 1.0)
    assert [stage.undecided for stage in report.stages] == [Share(6, 6)] * 3
    assert [stage.steps_to_decision for stage in report.stages] == [None] * 3
    assert report.remarks == ("float, quantised, fixedpoint: no neuron fired in any sample",)
    (floor,) = report.budgets
    assert "no output is ever the largest" in floor.text


def test_the_versions_of_what_ran_are_told(program: Program, samples: Samples) -> None:
    versions = neurocompile.verify(program, data=samples, examine=0).to_json()["versions"]

    assert versions["neurocompile"] == neurocompile.__version__
    assert versions["numpy"] == np.__version__
    assert versions["python"] == platform.python_version()
    assert {*versions} <= {
        "neurocompile",
        "python",
        "numpy",
        "numba",
    }  # no PyTorch, no Lava: none ran


def test_a_form_of_onnx_ran_on_its_runtime(nir_file: Path, samples: Samples) -> None:
    pytest.importorskip("onnxruntime")
    with neurocompile.export(nir_file, target="onnx", profile="literal", dt=1e-4) as exported:
        report = neurocompile.verify(exported, data=samples, examine=0)

    assert report.versions["onnxruntime"] == version("onnxruntime")


def test_pytorchs_causes_are_not_missing_where_the_float_network_has_its_own() -> None:
    """Integers that the target matches are its own, too."""
    first = Divergence(4, 2, "lif", 7, 1, 0, None, None)
    trace = MembraneTrace((), (), 1.0, 1.0, (), ())
    found = Examination((4,), causes=(Cause("float", "fixedpoint", first, 0, 0, (), trace),))
    equal = Comparison("fixedpoint", "chip", True, (), 0, 0, 0, None)
    wrong = replace(equal, layers=(LayerComparison("lif", 9, 1, 0, 0),))
    shows = "PyTorch shows no membranes"
    reasons = {f"cause of torch/{name}": shows for name in ("float", "fixedpoint", "chip")}

    assert unexplained(reasons, found, [equal]) == {"cause of torch/float": shows}
    assert [*unexplained(reasons, found, [wrong])] == [
        "cause of torch/float", "cause of torch/chip",
    ]  # fmt: skip
    assert unexplained(reasons, None, [equal]) == reasons


def test_a_close_look_has_the_deadline_too(
    program: Program, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def look(*_places: Any, **options: Any) -> tuple[Examination, dict[str, str]]:
        asked.update(options)
        return Examination(()), {}

    monkeypatch.setattr("neurocompile.verification.verify.look_closely", look)

    neurocompile.verify(program, data=samples, examine=3, suggest=True, deadline=1234.0)

    assert (asked["deadline"], asked["count"], asked["alternatives"]) == (1234.0, 3, True)
