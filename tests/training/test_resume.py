"""A run that is killed goes on as if nothing had happened, wherever the kill came."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurocompile import api, cli, console
from neurocompile.errors import CheckpointError, DataError, OptionError
from neurocompile.training.checkpoint import load_checkpoint
from neurocompile.training.config import TrainSettings
from neurocompile.training.train import train

pytestmark = pytest.mark.usefixtures("no_pictures")

EVERYTHING = (
    "mask.probability=0.2",
    "mask.final=0.4",
    "mask.start_epoch=0",
    "two.start_epoch=0",
    'input.augment=["roll"]',
    "surrogate.name=dspike",
    'surrogate.adapt={"weights": 6}',
    'phases=[{"epochs": 3, "timesteps": 3, "optimiser": "sgd", "learning_rate": 0.01}]',
    "batch_size=16",
)

DIES = """
import os, signal, sys
from pathlib import Path
import torch
from neurocompile import atomic
from neurocompile.training import callbacks, module
from neurocompile.training.config import resolve
from neurocompile.training.train import train

config, run, spot, epoch, resume = sys.argv[1:]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

step = module.TrainingModule.training_step
def dying_step(self, batch, index):
    if spot == "step" and len(self.history.epochs) == int(epoch) and index == 2:
        die()
    return step(self, batch, index)
module.TrainingModule.training_step = dying_step

save = torch.save
def dying_save(stored, path):
    save(stored, path)
    told = stored["neurocompile_run"]["epochs"]
    if spot == "writing" and len(told) == int(epoch) and "last" in str(path):
        with open(path, "r+b") as file:
            file.truncate(100)
        die()
callbacks.torch.save = dying_save

train(resolve(config=Path(config)), Path(run), resume=resume == "resume")
"""  # a program that kills itself at a place in the run


def stored(run: Path) -> dict[str, Any]:
    """Return the last checkpoint of a run, without what depends on the clock."""
    checkpoint: dict[str, Any] = torch.load(run / "last.ckpt", weights_only=True)
    for epoch in checkpoint["neurocompile_run"]["epochs"]:
        epoch.pop("seconds")
    return checkpoint


def same(a: Any, b: Any) -> bool:
    """Whether two stored values are the same bits."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_a_run_that_is_killed_twice_ends_with_the_same_bits(
    tmp_path: Path,
    small: Callable[..., TrainSettings],
    few_samples: Path,
    run_program: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """In the middle of epoch 2, and while the fourth epoch's checkpoint is written, in the second phase."""
    settings = small(*EVERYTHING, data=str(few_samples))
    config = tmp_path / "settings.json"
    config.write_text(settings.model_dump_json())
    whole = train(settings, tmp_path / "whole")

    for spot, epoch, resume in (("step", "1", "no"), ("writing", "4", "resume")):
        done = run_program("-c", DIES, str(config), str(tmp_path / "run"), spot, epoch, resume)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (tmp_path / "run/metrics.json").exists()
        assert len(stored(tmp_path / "run")["neurocompile_run"]["epochs"]) == int(epoch) - (
            spot == "writing"
        )
    resumed = train(settings, tmp_path / "run", resume=True)

    a, b = stored(tmp_path / "whole"), stored(tmp_path / "run")
    for part in ("state_dict", "optimizer_states", "neurocompile_run", "neurocompile"):
        assert same(a[part], b[part]), part
    for part in ("accuracy_per_epoch", "loss_per_epoch", "confusion", "layers", "phases"):
        assert whole.metrics[part] == resumed.metrics[part]
    assert a["neurocompile_run"]["epochs"][-1]["temperature"] is not None
    assert [path.name for path in (tmp_path / "run").glob(".*")] == []
    rows = (tmp_path / "run/logs/metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + len(whole.metrics["accuracy_per_epoch"])


def test_workers_repeat_the_order_of_a_resumed_epoch(
    tmp_path: Path, small: Callable[..., TrainSettings], few_samples: Path
) -> None:
    """They start before Lightning tells the sampler where the run is."""
    settings = small(
        "input.workers=1", 'input.augment=["roll"]', "batch_size=16", data=str(few_samples)
    )
    constant = settings.model_copy(update={"schedule": "constant", "epochs": 3})
    train(constant, tmp_path / "whole")

    train(constant.model_copy(update={"epochs": 1}), tmp_path / "run")
    train(constant, tmp_path / "run", resume=True)

    a, b = stored(tmp_path / "whole"), stored(tmp_path / "run")
    assert same(a["state_dict"], b["state_dict"])


def test_a_resumed_run_keeps_its_history(
    tmp_path: Path, small: Callable[..., TrainSettings]
) -> None:
    train(small(epochs=1), tmp_path / "run")

    result = train(small(epochs=3), tmp_path / "run", resume=True)

    assert len(result.metrics["accuracy_per_epoch"]) == 3
    again = train(small(epochs=3), tmp_path / "run", resume=True)
    assert again.metrics["accuracy_per_epoch"] == result.metrics["accuracy_per_epoch"]
    assert again.metrics["confusion"] == result.metrics["confusion"]


def test_a_resumed_run_needs_no_settings(
    tmp_path: Path, small: Callable[..., TrainSettings]
) -> None:
    train(small(epochs=1, seed=5), tmp_path / "run")

    result = api.train(output=tmp_path / "run", resume=True, epochs=2)

    assert result.metrics["seed"] == 5
    assert len(result.metrics["accuracy_per_epoch"]) == 2


def test_a_run_is_resumed_with_its_own_settings_only(
    tmp_path: Path, small: Callable[..., TrainSettings]
) -> None:
    train(small(epochs=1), tmp_path / "run")

    with pytest.raises(OptionError) as raised:
        train(
            small("neuron.tau=0.25", "running.clip=1", epochs=2, seed=3, timesteps=3),
            tmp_path / "run",
            resume=True,
        )

    assert "a resumed run must keep 'seed' at 0, but 3 is asked for" in str(raised.value)
    assert "a resumed run must keep 'timesteps' at 2, but 3 is asked for" in str(raised.value)
    assert "a resumed run must keep 'neuron.tau' at 0.5, but 0.25 is asked for" in str(raised.value)
    assert "a resumed run must keep 'running.clip' at None, but 1.0 is asked for" in str(
        raised.value
    )


def test_a_preset_must_agree_with_the_run_and_changes_nothing(
    tmp_path: Path,
    small: Callable[..., TrainSettings],
    few_samples: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "config.json"
    config.write_text(small(epochs=5, data=str(few_samples)).model_dump_json())
    train(small("input.workers=1", epochs=1, data=str(few_samples)), tmp_path / "run")
    (tmp_path / "run/settings.json").unlink()

    with pytest.raises(OptionError, match="a resumed run must keep 'network.stages' at"):
        api.train(preset="digits", output=tmp_path / "run", resume=True)
    same = api.train(config=config, output=tmp_path / "run", resume=True).metrics
    more = ["train", "--config", str(config), "--resume", "-o", str(tmp_path / "run")]
    code = cli.main([*more, "--epochs", "2", "--set", "input.workers=0"])

    assert same["settings"]["epochs"] == 1
    assert same["settings"]["input"]["workers"] == 1
    assert code == console.DONE
    error = capsys.readouterr().err
    assert "the resumed run changes input.workers from 1 to 0, epochs from 1 to 2\n" in error
    with pytest.raises(OptionError, match="at least the 2 epochs that are done, but epochs=1"):
        api.train(output=tmp_path / "run", resume=True, epochs=1)


def test_a_run_goes_on_with_the_same_data_wherever_it_lies(
    tmp_path: Path, small: Callable[..., TrainSettings], few_samples: Path
) -> None:
    arrays = dict(np.load(few_samples))
    np.savez(tmp_path / "moved.npz", **arrays)
    np.savez(tmp_path / "labels.npz", **{**arrays, "y_train": arrays["y_train"][::-1]})
    np.savez(
        tmp_path / "fewer.npz",
        **{**arrays, "x_test": arrays["x_test"][:9], "y_test": arrays["y_test"][:9]},
    )
    train(small(epochs=1, data=str(few_samples)), tmp_path / "run")

    with pytest.raises(DataError, match="needs the labels that it began with"):
        api.train(output=tmp_path / "run", resume=True, data=str(tmp_path / "labels.npz"))
    with pytest.raises(DataError, match="needs data with test=27, but these have 9"):
        api.train(output=tmp_path / "run", resume=True, data=str(tmp_path / "fewer.npz"))
    moved = str(tmp_path / "moved.npz")
    assert (
        api.train(output=tmp_path / "run", resume=True, data=moved, epochs=2).metrics["settings"][
            "data"
        ]
        == moved
    )


@pytest.mark.parametrize(
    ("part", "change", "text"),
    [
        ("neurocompile", {"format": 1}, "was written by another version of neurocompile"),
        ("neurocompile", {"phase": 7}, r"\(there is no phase 7\)"),
        ("neurocompile_run", {"epochs": []}, "its epochs are not those of its phases"),
        ("neurocompile_run", {"epochs": [{"phase": "one"}]}, "is not a checkpoint"),
        ("neurocompile_run", None, r"\(there is no 'neurocompile_run' in it\)"),
        ("optimizer_states", None, r"\(there is no 'optimizer_states' in it\)"),
        ("loops", None, r"\(there is no 'loops' in it\)"),
    ],
)
def test_what_a_checkpoint_lacks_is_said(
    part: str,
    change: dict[str, Any] | None,
    text: str,
    tmp_path: Path,
    small: Callable[..., TrainSettings],
    few_samples: Path,
) -> None:
    settings = small(epochs=1, data=str(few_samples))
    train(settings, tmp_path / "run")
    whole = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    if change is None:
        del whole[part]
    else:
        whole[part].update(change)
    torch.save(whole, tmp_path / "run/last.ckpt")

    with pytest.raises(CheckpointError, match=text):
        train(settings, tmp_path / "run", resume=True)


def test_nobody_is_told_to_run_what_is_in_a_file(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("x")}, tmp_path / "pickle.ckpt")

    with pytest.raises(CheckpointError, match="something else than weights") as raised:
        load_checkpoint(tmp_path / "pickle.ckpt")

    assert "weights_only" not in str(raised.value)


def test_a_run_is_not_overwritten(tmp_path: Path, small: Callable[..., TrainSettings]) -> None:
    train(small(epochs=1), tmp_path / "run")

    with pytest.raises(OptionError, match="already holds a training run.*--resume"):
        train(small(epochs=1), tmp_path / "run")
    with pytest.raises(CheckpointError, match="cannot resume: there is no"):
        train(small(epochs=1), tmp_path / "other", resume=True)


def test_a_checkpoint_that_was_cut_is_refused(
    tmp_path: Path, small: Callable[..., TrainSettings]
) -> None:
    train(small(epochs=1), tmp_path / "run")
    whole = (tmp_path / "run/last.ckpt").read_bytes()
    (tmp_path / "run/last.ckpt").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(CheckpointError, match="is not a checkpoint of 'neurocompile train'"):
        load_checkpoint(tmp_path / "run")
    with pytest.raises(CheckpointError, match="is not a checkpoint of 'neurocompile train'"):
        train(small(epochs=2), tmp_path / "run", resume=True)


def test_settings_of_a_run_are_a_configuration(
    tmp_path: Path, small: Callable[..., TrainSettings]
) -> None:
    first = train(small(epochs=1), tmp_path / "run")

    again = api.train(config=tmp_path / "run/settings.json", output=tmp_path / "again")

    assert json.loads((tmp_path / "run/settings.json").read_text()) == first.metrics["settings"]
    assert again.metrics["loss_per_epoch"] == first.metrics["loss_per_epoch"]
