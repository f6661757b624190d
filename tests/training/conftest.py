"""Short runs on small networks, for the tests of training runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurocompile.training.config import TrainSettings, resolve

SMALL = (
    'network.stages=[{"channels":4,"kernel":3,"pool":2},{"channels":4,"kernel":3,"pool":2}]',
    "batch_size=256",
)
DEADLINE = 240  # seconds, for a program that takes a few


@pytest.fixture(scope="session")
def small() -> Callable[..., TrainSettings]:
    """Makes settings of a network of 600 weights that is trained for two epochs."""

    def make(*overrides: str, **changes: Any) -> TrainSettings:
        changes = {"epochs": 2, "timesteps": 2, **changes}
        return resolve(preset="digits", overrides=[*SMALL, *overrides], **changes)

    return make


@pytest.fixture(scope="session")
def few_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training file of 64 images to train on and 27 to test, of 8x8 pixels and 4 classes."""
    path = tmp_path_factory.mktemp("data") / "few.npz"
    generator = np.random.default_rng(0)
    labels = {"train": np.arange(64) % 4, "test": np.arange(27) % 4}
    images = {
        split: generator.integers(0, 128, (len(classes), 8, 8, 1), dtype=np.uint8)
        + (32 * classes).astype(np.uint8)[:, None, None, None]
        for split, classes in labels.items()
    }
    np.savez(
        path,
        x_train=images["train"],
        y_train=labels["train"],
        x_test=images["test"],
        y_test=labels["test"],
    )
    return path


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw nothing: that takes longer than what these tests are about."""
    monkeypatch.setattr("neurocompile.training.train.write_figures", lambda *_: None)


@pytest.fixture
def run_program() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs a program to its end, or kills it at a deadline, with all processes that it started."""
    started: list[subprocess.Popen[str]] = []

    def end(process: subprocess.Popen[str]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        started.append(process)
        try:
            output, errors = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            end(process)
            _, errors = process.communicate()
            pytest.fail(f"did not end within {DEADLINE} seconds: {errors}")
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    yield run
    for process in started:
        end(process)
