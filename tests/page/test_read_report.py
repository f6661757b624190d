from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import neurocompile
from neurocompile.errors import FormatError
from neurocompile.page import read_report
from neurocompile.page.read_report import NO_SPIKES, read_json, report_of
from neurocompile.verification.report import Report

Path_ = tuple[str | int, ...]


@pytest.fixture(scope="session")
def written(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(report.to_json()))
    return found


@pytest.fixture
def changed(written: dict[str, Any]) -> Callable[[Path_, object], dict[str, Any]]:
    """Return the JSON of a report with the value at one place changed."""

    def change(path: Path_, value: object) -> dict[str, Any]:
        data = copy.deepcopy(written)
        place: Any = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return data

    return change


def test_a_report_reads_back_as_it_was(report: Report, written: dict[str, Any]) -> None:
    found = report_of(written)

    assert found == replace(
        report, exhibits=(), not_measured={**report.not_measured, "exhibits": NO_SPIKES}
    )


def test_an_almost_empty_report_reads_back(bare: Report) -> None:
    found = report_of(json.loads(json.dumps(bare.to_json())))

    assert found.overall == bare.overall
    assert found.examination is None


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("schema",), 2, "'schema' must be 1, but it is 2"),
        (("schema",), True, "'schema' must be 1, but it is true"),
        (("samples",), "many", "'samples' must be an integer, but it is 'many'"),
        (("samples",), 0, "'samples' must be at least 1, but it is 0"),
        (("samples",), 1 << 80, "'samples' must be an integer of 64 bits"),
        (("target",), None, "'target' must be a text, but it is null"),
        (("stages",), {}, "'stages' must be a list, but it is an object"),
        (("stages",), [], "'stages' must be a list of at least one"),
        (("stages",), [{}] * 65, "'stages' must be a list of at most 64, but it is 65"),
        (("comparisons",), [{}] * 257, "'comparisons' must be a list of at most 256"),
        (("stages", 1, "name"), "torch", "'stages[1].name' must be another one than those before, but it is 'torch'"),
        (("comparisons", 0, "candidate"), "onnx:sequence", "'comparisons[0].candidate' must be one of the stages"),
        (("comparisons", 0, "candidate"), "loihi2:", "'comparisons[0].candidate' must be one of the stages"),
        (("examination", "readouts", 0, "own"), {"count": 5, "of": 4}, "'examination.readouts[0].own' must be a share"),
        (("versions",), {"numpy": 2}, "'versions.numpy' must be a text, but it is 2"),
        (("stages", 1, "accuracy", "count"), 361, "'stages[1].accuracy' must be a share"),
        (("stages", 0, "rates", "lif1"), float("nan"), "'stages[0].rates.lif1' must be a finite number"),
        (("comparisons", 2, "must_match"), 1, "'comparisons[2].must_match' must be true or false"),
        (("comparisons", 0, "reference"), "x", "'comparisons[0].reference' must be one of the stages"),
        (("comparisons", 0, "layers", 1, "mismatches"), -1, "'comparisons[0].layers[1].mismatches' must be from 0"),
        (("overall", "layers", 0, "slots"), 1.5, "'overall.layers[0].slots' must be an integer, but it is 1.5"),
        (("examination", "causes", 0, "contributions", 0, "amount"), "big", "'examination.causes[0].contributions[0].amount' must be a number"),
        (("examination", "weights", 0, "edges"), [1.0], "must be edges for as many bins as it counts"),
        (("energy", 0, "layers", 0, "kind"), "fusion", "'energy[0].layers[0].kind' must be one of mac, ac"),
        (("network", "synapses", 0, "target"), "gone", "'network.synapses[0].target' must be a population"),
        (("network", "populations", 1, "neurons"), "x", "'network.populations[1].neurons' must be an integer"),
        (("resources", "layers", "lif1", "cores"), {"value": "9", "status": "exact"}, "'resources.layers.lif1.cores.value' must be an integer"),
        (("program", "notes"), ["x" * 20_001], "'program.notes[0]' must be a text of at most 20000"),
        (("budgets", 0, "interval"), [0.1], "'budgets[0].interval' must be a list of 2"),
        (("not_measured",), [1], "'not_measured' must be an object, but it is a list"),
    ],
)  # fmt: skip
def test_what_no_report_can_say_is_refused_by_its_key(
    changed: Callable[[Path_, object], dict[str, Any]], path: Path_, value: object, told: str
) -> None:
    with pytest.raises(FormatError) as refused:
        report_of(changed(path, value))

    assert told in str(refused.value)


def test_forms_of_a_target_are_compared_without_being_stages(report: Report) -> None:
    pair = report.comparisons[-2]
    form = replace(pair, reference="loihi2", candidate="loihi2:sequence", layers=())

    found = report_of(json.loads(json.dumps(replace(report, comparisons=(form,)).to_json())))

    assert found.comparisons == (form,)


def test_the_report_of_an_onnx_program_reads_back(tmp_path: Path) -> None:
    """Its forms are candidates of comparisons, but no stages."""
    for needed in ("torch", "onnx", "onnxruntime"):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    full = np.ones(2)
    nodes = {
        "input": nir.Input({"input": np.array([2])}),
        "fc": nir.Affine(weight=np.array([[1.0, 0.5], [0.25, 0.75]]), bias=0 * full),
        "lif": nir.LIF(tau=2e-4 * full, r=full, v_leak=0 * full, v_threshold=full / 4, v_reset=0 * full),
        "output": nir.Output({"output": np.array([2])}),
    }  # fmt: skip
    nir.write(tmp_path / "graph.nir", nir.NIRGraph(nodes=nodes, edges=list(pairwise(nodes))))
    inputs = np.random.default_rng(0).integers(0, 2, (3, 4, 2)).astype(np.float32)
    np.savez(tmp_path / "in.npz", input=inputs)

    with neurocompile.export(
        tmp_path / "graph.nir", target="onnx", profile="literal", dt=1e-4
    ) as program:
        made = neurocompile.verify(program, data=str(tmp_path / "in.npz"), examine=2)
    found = report_of(json.loads(json.dumps(made.to_json())))

    names = {stage.name for stage in found.stages}
    assert any(pair.candidate not in names for pair in found.comparisons)
    assert found.comparisons == made.comparisons


@pytest.mark.parametrize("key", ["\x1b]0;pwned\x07\x1b[31mRED", "two\nlines", "\u202eback"])
def test_names_in_messages_cannot_move_the_cursor(
    changed: Callable[[Path_, object], dict[str, Any]], key: str
) -> None:
    for path, value in (
        (("stages", 0, "rates"), {key: "x"}),
        (("program",), {key: {key: float("nan")}}),
        (("resources", "layers"), {key: {key: {"value": "x"}}}),
        (("resources", "totals"), {key: 1}),
        (("network", "synapses", 0, "target"), key),
        (("examination", "weights", 0, "name"), key),
    ):
        data = changed(path, value)
        data["examination"]["weights"][0]["edges"] = [1.0]
        with pytest.raises(FormatError) as refused:
            report_of(data)
        assert str(refused.value).isprintable(), path


@pytest.mark.parametrize("key", ["target", "samples", "steps", "stages", "comparisons", "overall"])
def test_a_missing_key_is_named(written: dict[str, Any], key: str) -> None:
    data = {name: value for name, value in written.items() if name != key}

    with pytest.raises(FormatError, match=key):
        report_of(data)


def test_a_key_that_a_newer_version_may_write_is_ignored(written: dict[str, Any]) -> None:
    assert report_of({**written, "weather": "fine"}).samples == 360


def test_deep_and_large_values_are_refused(written: dict[str, Any]) -> None:
    deep: Any = 0
    for _ in range(40):
        deep = [deep]

    with pytest.raises(FormatError, match="at most 24 levels deep"):
        report_of({**written, "program": {"x": deep}})
    with pytest.raises(FormatError, match="'remarks' must be a list of at most 200000"):
        report_of({**written, "remarks": [""] * 200_001})


@given(data=st.data())
def test_damage_is_refused_and_no_crash(written: dict[str, Any], data: st.DataObject) -> None:
    damaged = copy.deepcopy(written)
    place: Any = damaged
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not place[key] or not isinstance(place[key], (dict, list)) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(
        st.sampled_from([None, True, -1, 0, 1e300, float("inf"), "x", [], {}, [[]], {"a": 1}])
    )

    with contextlib.suppress(FormatError):
        report_of(damaged)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, '{"a": 1}x', "\x00", "[]", "3"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(content, encoding="utf-8")

    with pytest.raises(FormatError, match="cannot be read as JSON|must be an object"):
        read_json(file)


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_report, "LARGEST_FILE", 10)
    (tmp_path / "report.json").write_text('{"a": "bcdefgh"}')

    with pytest.raises(FormatError, match="must be at most 10 bytes, but it has 16"):
        read_json(tmp_path / "report.json")
