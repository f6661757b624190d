"""The main job at full size: three seeds trained on digits, compiled, and compared on all test images."""

from __future__ import annotations

from pathlib import Path

import pytest

import neurocompile
from neurocompile.verification.report import Report


@pytest.fixture(scope="module", params=[0, 1, 2])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / str(request.param)
    neurocompile.train(preset="digits", seed=request.param, output=path)
    return path


def check(report: Report) -> None:
    """Hold a report to what the README promises."""
    accuracy = report.accuracy
    torch_float = report.between("torch", "float")
    assert report.samples == 360
    assert accuracy["torch"] >= 0.985
    assert min(accuracy.values()) >= accuracy["torch"] - 0.006
    assert torch_float.differing_samples is not None
    assert torch_float.differing_samples.count <= 3  # float32 ties, which a whole sample inherits
    if torch_float.mismatches == 0:
        assert torch_float.output_difference < 1e-5
    assert not report.failed
    for layer in report.counters.values():
        assert layer["current_wraps"] == layer["u_wraps"] == layer["v_saturations_low"] == 0


@pytest.mark.lava
def test_digits_from_training_to_lava(trained: Path) -> None:
    with neurocompile.export(trained, target="loihi2") as program:
        report = neurocompile.verify(program, data="digits:test")

    check(report)
    last = report.between("fixedpoint", "loihi2")
    assert last.slots == 360 * 4 * (1024 + 2048 + 1024)
    assert last.mismatches == 0
    assert last.output_mismatches == 0
    assert program.facts["first_layer"]["computed_by"] == "graded"
    assert program.facts["folding"]["largest_logit_difference_without_flips"] < 1e-5
