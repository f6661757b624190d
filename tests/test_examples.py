"""Every example runs, and its number holds."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.lava
@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not beside these tests")
def test_train_and_deploy() -> None:
    example = runpy.run_path(str(EXAMPLES / "train_and_deploy.py"))

    assert example["main"](quick=True) > 0.9


@pytest.mark.lava
@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not beside these tests")
def test_export_module() -> None:
    example = runpy.run_path(str(EXAMPLES / "export_module.py"))

    assert example["main"]() == 0
