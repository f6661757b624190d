"""
Two processes train as one does with batches twice as large.

Sums are then added in another order, so that numbers agree up to rounding; an epoch later a spike may have flipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neurocompile.errors import OptionError
from neurocompile.training.config import TrainSettings
from neurocompile.training.processes import all_processes, check_processes
from neurocompile.training.train import train

Small = Callable[..., TrainSettings]
Run = Callable[..., subprocess.CompletedProcess[str]]

TOLERANCE = 1e-4  # of losses, relative
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TWO = ("running.devices=2", "running.accelerator=cpu")


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., Path]:
    """Writes settings to a file."""

    def write(settings: TrainSettings) -> Path:
        path = tmp_path / "settings.json"
        path.write_text(settings.model_dump_json())
        return path

    return write


def metrics_of(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


def processes_of(run: Path) -> list[str]:
    """Return the command lines of processes that still work for `run`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(run) in line:
            found.append(line)
    return found


PROGRAM = """
import sys, neurocompile

print("begins")
two = neurocompile.train(config=sys.argv[1], output=sys.argv[2])
one = neurocompile.train(config=sys.argv[1], output=sys.argv[3], overrides=["running.devices=1"])
print(two.metrics["processes"], one.metrics["processes"])
"""


@pytest.mark.usefixtures("no_pictures")
def test_two_processes_are_one_with_twice_the_batch(
    tmp_path: Path, small: Small, few_samples: Path, run_program: Run, told: Callable[..., Path]
) -> None:
    """
    With common statistics of batch norm, in two phases; 27 test samples are no multiple of 2.

    The program that asks for them runs once, and goes on with one device.
    """
    phases = 'phases=[{"epochs": 1, "timesteps": 3}]'
    one = train(small("batch_size=16", phases, data=str(few_samples)), tmp_path / "one").metrics
    settings = told(small("batch_size=8", phases, *TWO, data=str(few_samples)))

    done = run_program(
        "-c", PROGRAM, str(settings), str(tmp_path / "two"), str(tmp_path / "after"), **ONE_THREAD
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "begins\n2 1\n"
    both = metrics_of(tmp_path / "two")
    assert (both["processes"], both["device"]) == (2, "2 x cpu")
    assert both["loss_per_epoch"] == pytest.approx(one["loss_per_epoch"], rel=TOLERANCE)
    for name in ("sdt", "tet"):
        losses = [metrics["test_loss_per_epoch"][name] for metrics in (one, both)]
        assert losses[1] == pytest.approx(losses[0], rel=TOLERANCE)
    assert both["accuracy_per_epoch"] == one["accuracy_per_epoch"]
    assert both["confusion"] == one["confusion"]
    assert both["samples"] == one["samples"] == 27
    assert processes_of(tmp_path / "two") == []


@pytest.mark.usefixtures("no_pictures")
def test_all_processes_of_a_resumed_run_have_its_settings(
    tmp_path: Path, small: Small, few_samples: Path, run_program: Run
) -> None:
    """What is changed on the way reaches the others too; else they would wait for one another."""
    train(small("batch_size=16", data=str(few_samples), epochs=1), tmp_path / "run")
    words = [word for setting in TWO for word in ("--set", setting)]

    done = run_program(
        *("-m", "neurocompile", "train", "--resume", "-o", str(tmp_path / "run")),
        *("--epochs", "2", *words),
        **ONE_THREAD,
    )

    assert done.returncode == 0, done.stderr
    assert "the resumed run changes " in done.stderr
    metrics = metrics_of(tmp_path / "run")
    assert metrics["processes"] == 2
    assert len(metrics["accuracy_per_epoch"]) == 2
    assert processes_of(tmp_path / "run") == []


def test_torchrun_starts_the_processes_of_the_command(
    tmp_path: Path, small: Small, few_samples: Path, run_program: Run, told: Callable[..., Path]
) -> None:
    """Only the first of them speaks, writes and draws."""
    settings = small(*TWO, "batch_size=16", data=str(few_samples), epochs=1)

    done = run_program(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "neurocompile", "train", "--config", str(told(settings))),
        *("-o", str(tmp_path / "run")),
        **ONE_THREAD,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1
    assert done.stderr.count("epoch 1 of 1") == 1
    assert metrics_of(tmp_path / "run")["processes"] == 2
    assert (tmp_path / "run/confusion.png").exists()
    assert processes_of(tmp_path / "run") == []


FAILS = """
import os, sys
from pathlib import Path
from neurocompile.training import processes
from neurocompile.training.config import resolve
from neurocompile.training.train import train

start = processes._start
processes._start = lambda command, rank: start(["false"], rank)
train(resolve(config=Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_a_process_that_fails_ends_the_run(
    tmp_path: Path, small: Small, few_samples: Path, run_program: Run, told: Callable[..., Path]
) -> None:
    """Rather than leaving the first one to wait for it."""
    settings = small(*TWO, data=str(few_samples))
    variables = {"TORCH_GLOO_LAZY_INIT": "0", **ONE_THREAD}

    done = run_program(
        "-c",
        FAILS.replace("processes._start =", "processes.GRACE = 0.0\nprocesses._start ="),
        str(told(settings)),
        str(tmp_path / "run"),
        **variables,
    )

    assert done.returncode != 0
    assert "process 1" in done.stderr
    assert not (tmp_path / "run/metrics.json").exists()


def test_nothing_is_left_of_the_processes_in_the_environment(
    tmp_path: Path, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "neurocompile.training.processes._start",
        lambda *_: subprocess.Popen(["true"]),
    )
    before = dict(os.environ)

    with all_processes(small(*TWO), tmp_path, resume=False):
        assert os.environ["WORLD_SIZE"] == "2"
        assert os.environ["LOCAL_RANK"] == "0"

    assert dict(os.environ) == before


def test_torchrun_with_another_number_of_processes_is_refused(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in {**variables, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(OptionError, match="has started 4: use --set running.devices=2 --set runn"):
        check_processes(small("running.devices=4", "running.nodes=2").running)


def test_nodes_need_an_address_and_sessions_cannot_have_several_devices(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match="MASTER_ADDR, MASTER_PORT, NODE_RANK are not in the"):
        check_processes(small("running.nodes=2").running)
    with pytest.raises(OptionError, match="running.devices must be at least 1"):
        check_processes(small("running.devices=0").running)
    monkeypatch.setattr("sys.ps1", ">>> ", raising=False)
    with pytest.raises(OptionError, match="several devices need a program"):
        check_processes(small("running.devices=2").running)
