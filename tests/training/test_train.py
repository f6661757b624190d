"""A training run from end to end: what it leaves, what it refuses, and how it stops."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurocompile import cli, console
from neurocompile.errors import (
    CheckpointError,
    DataError,
    MissingDependencyError,
    OptionError,
    TrainingError,
    UnsupportedError,
)
from neurocompile.training import train as training
from neurocompile.training.callbacks import duration, learning_rate
from neurocompile.training.checkpoint import load_checkpoint
from neurocompile.training.config import Dense, TrainSettings
from neurocompile.training.history import History
from neurocompile.training.module import TrainingModule
from neurocompile.training.neurons import LIF
from neurocompile.training.provenance import provenance
from neurocompile.training.train import train

Small = Callable[..., TrainSettings]


def weights(run: Path) -> dict[str, Tensor]:
    return load_checkpoint(run).network.state_dict()


def test_a_run_leaves_checkpoints_metrics_settings_logs_and_pictures(
    tmp_path: Path, small: Small
) -> None:
    result = train(small(), tmp_path / "run")

    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "activity.png", "best.ckpt", "confusion.png", "curves.png", "last.ckpt", "logs",
        "metrics.json", "settings.json",
    ]  # fmt: skip
    assert metrics == result.metrics
    accuracy = metrics["test_accuracy"]
    assert accuracy["last"] == metrics["accuracy_per_epoch"][-1]
    assert accuracy["best"] == max(metrics["accuracy_per_epoch"])
    assert accuracy["best"] == metrics["accuracy_per_epoch"][accuracy["best_epoch"] - 1]
    assert len(metrics["accuracy_per_moment"]) == 2
    assert len(metrics["test_loss_per_epoch"]["sdt"]) == 2
    losses = metrics["test_loss_per_epoch"]
    assert all(sdt <= tet + 1e-6 for sdt, tet in zip(losses["sdt"], losses["tet"], strict=True))
    data = metrics["data"]
    assert (data["name"], data["train"], data["test"]) == ("digits", 1437, 360)
    assert (data["input_shape"], data["classes"]) == ([1, 8, 8], 10)
    assert metrics["settings"]["seed"] == metrics["seed"] == 0
    assert metrics["settings"] == json.loads((tmp_path / "run/settings.json").read_text())
    assert metrics["versions"]["torch"] == torch.__version__
    assert metrics["processes"] == 1
    with (tmp_path / "run/logs/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["train_loss"]) for row in rows] == metrics["loss_per_epoch"]


@pytest.mark.usefixtures("no_pictures")
def test_the_evidence_is_what_the_stored_network_does(tmp_path: Path, small: Small) -> None:
    """Confusions and spikes, summed over the whole test set, against a plain loop."""
    from neurocompile.data import load_samples

    metrics = train(small(), tmp_path / "run").metrics

    network = load_checkpoint(tmp_path / "run").network
    samples = load_samples("digits:test")
    assert isinstance(samples.inputs, np.ndarray)
    assert samples.labels is not None
    counts: dict[str, Tensor] = {}
    for name, module in network.body.named_modules():
        if isinstance(module, LIF):
            module.register_forward_hook(
                lambda _module, _inputs, spikes, name=name: counts.update({name: spikes})
            )
    with torch.no_grad():
        outputs = network(torch.from_numpy(samples.inputs).expand(-1, 2, -1, -1, -1))
    decided = network.decision(outputs).argmax(1).numpy()
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (samples.labels, decided), 1)
    assert metrics["confusion"] == confusion.tolist()
    assert np.trace(confusion) / 360 == metrics["test_accuracy"]["last"]
    assert [layer["name"] for layer in metrics["layers"]] == ["lif1", "lif2"]
    for layer in metrics["layers"]:
        by_step = counts[layer["name"]].reshape(360, 2, -1).mean((0, 2))
        assert layer["rate_per_step"] == pytest.approx(by_step.tolist(), abs=1e-6)


@pytest.mark.usefixtures("no_pictures")
def test_the_same_seed_gives_the_same_weights_and_another_gives_others(
    tmp_path: Path, small: Small
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(small(seed=seed, epochs=1), tmp_path / name)

    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["body.conv1.weight"], c["body.conv1.weight"])


@pytest.mark.usefixtures("no_pictures")
def test_somebodys_images_change_channels_size_and_classes(tmp_path: Path, small: Small) -> None:
    generator = np.random.default_rng(0)
    path = tmp_path / "mine.npz"
    np.savez(
        path,
        x_train=generator.integers(0, 256, (20, 12, 8, 3), dtype=np.uint8),
        y_train=np.arange(20) % 4,
        x_test=generator.integers(0, 256, (8, 12, 8, 3), dtype=np.uint8),
        y_test=np.arange(8) % 4,
    )

    train(small(data=str(path), epochs=1), tmp_path / "run")

    trained = load_checkpoint(tmp_path / "run")
    assert trained.network.input_shape == (3, 12, 8)
    assert trained.classes == 4
    assert trained.input_range.step == 1 / 255


def test_images_that_pools_do_not_divide_and_wrong_frames_are_refused_together(
    tmp_path: Path, small: Small
) -> None:
    path = tmp_path / "tiny.npz"
    frames = np.zeros((4, 5, 1, 3, 3), np.float32)
    np.savez(path, x_train=frames, y_train=np.arange(4), x_test=frames, y_test=np.arange(4))

    with pytest.raises(DataError) as raised:
        train(small(data=str(path)), tmp_path / "run")

    assert "has 5 frames a sample, but 2 steps are asked for: use --timesteps 5" in str(
        raised.value
    )
    assert "layer 'pool1' needs an image that it divides by 2, but it gets 3 x 3" in str(
        raised.value
    )
    assert not (tmp_path / "run").exists()


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")

    for name in ("text", "other"):
        with pytest.raises(CheckpointError, match="is not a checkpoint of 'neurocompile train'"):
            load_checkpoint(tmp_path / f"{name}.ckpt")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("where", "place"), [("weights", "step 4"), ("inputs", "layer 'conv1.weight'")]
)
def test_what_is_no_number_ends_the_run_with_the_place(
    where: str, place: str, tmp_path: Path, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    In the second epoch: the first one's checkpoint stays, and the run is not finished.

    Neurons hide such inputs from the loss, since a membrane that is no number does not fire.
    """
    step = TrainingModule.training_step

    def broken(self: TrainingModule, batch: list[Tensor], index: int) -> Tensor:
        if len(self.history.epochs) == 1 and index == 3:
            if where == "weights":
                self.network.body.readout.bias.data.fill_(math.nan)  # type: ignore[union-attr, operator]
            else:
                batch = [batch[0] * math.nan, batch[1]]
        return step(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", broken)

    with pytest.raises(TrainingError, match=f"not in epoch 2, {place}: try a lower learning_rate"):
        train(small(), tmp_path / "run")

    assert all(values.isfinite().all() for values in weights(tmp_path / "run").values())
    assert not (tmp_path / "run/metrics.json").exists()


@pytest.mark.usefixtures("no_pictures")
def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path,
    small: Small,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = TrainingModule.training_step

    def interrupted(self: TrainingModule, batch: list[Tensor], index: int) -> Tensor:
        if len(self.history.epochs) == 1:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", interrupted)
    config = tmp_path / "settings.json"
    config.write_text(small().model_dump_json())

    code = cli.main(["train", "--config", str(config), "-o", str(tmp_path / "run")])

    assert code == console.IMPOSSIBLE
    error = capsys.readouterr().err
    assert "epoch 1 of 2: loss " in error
    assert f"after epoch 1: 'neurocompile train --resume -o {tmp_path / 'run'}' goes on" in error
    monkeypatch.setattr(TrainingModule, "training_step", step)
    assert cli.main(["train", "--resume", "-o", str(tmp_path / "run")]) == console.DONE


@pytest.mark.usefixtures("no_pictures")
def test_lines_say_how_far_a_run_is(
    tmp_path: Path,
    small: Small,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One for each epoch, and more within epochs that take long: here after no time at all."""
    monkeypatch.setattr("neurocompile.training.callbacks.LONGEST_SILENCE", 0.0)

    train(small(), tmp_path / "run", progress=True)

    lines = capsys.readouterr().err.splitlines()
    assert sum(" of 2, step 3 of 6: loss " in line for line in lines) == 2
    ends = [line for line in lines if "test accuracy" in line]
    assert [line[:12] for line in ends] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert ends[-1].endswith(", 0 s left")


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_optimisers_decay_as_their_recipes_say(
    name: str, kind: type[torch.optim.Optimizer], tmp_path: Path, small: Small
) -> None:
    """Adam has L2 in the gradient, AdamW beside it; sgd has momentum."""
    settings = small(f"optimiser={name}", "weight_decay=0.01", "momentum=0.8", learning_rate=0.5)
    train(settings.model_copy(update={"epochs": 1, "learning_rate": 1e-3}), tmp_path / "run")
    module = TrainingModule(load_checkpoint(tmp_path / "run"), History())

    optimiser = module.configure_optimizers()

    assert type(optimiser) is kind
    assert optimiser.defaults["weight_decay"] == 0.01
    assert optimiser.defaults.get("momentum", 0.8) == 0.8
    assert optimiser.defaults["lr"] == 1e-3


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(small: Small) -> None:
    settings = small("warmup_epochs=2", epochs=6, learning_rate=1.0)
    (phase,) = settings.all_phases()

    rates = [learning_rate(settings, phase, epoch) for epoch in range(7)]

    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.8535534, 0.5, 0.1464466, 0.0])
    constant = small("schedule=constant", epochs=3, learning_rate=0.5)
    assert learning_rate(constant, constant.all_phases()[0], 2) == 0.5


@pytest.mark.usefixtures("no_pictures")
def test_the_learning_rates_of_a_run_are_those_of_its_schedule(
    tmp_path: Path, small: Small
) -> None:
    settings = small("warmup_epochs=1", epochs=3)
    train(settings, tmp_path / "run")

    (phase,) = settings.all_phases()
    with (tmp_path / "run/logs/metrics.csv").open() as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert rates == [learning_rate(settings, phase, epoch) for epoch in range(3)]


@pytest.mark.usefixtures("no_pictures")
def test_accumulated_batches_are_one_step_of_a_large_one(
    tmp_path: Path, small: Small, few_samples: Path
) -> None:
    """Without batch norm, whose statistics are of a batch; equal up to the order of sums."""
    dense = {"network": Dense(name="dense", hidden=(8,))}
    for name, how in (
        ("whole", ["batch_size=32"]),
        ("parts", ["batch_size=16", "running.accumulate=2"]),
    ):
        settings = small("optimiser=sgd", *how, data=str(few_samples))
        train(settings.model_copy(update=dense), tmp_path / name)

    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, values in whole.items():
        torch.testing.assert_close(parts[name], values, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("no_pictures")
def test_the_last_batches_of_an_epoch_are_a_mean_of_their_own_number(
    tmp_path: Path, small: Small, few_samples: Path
) -> None:
    """Two batches where four would make a step."""
    dense = {"network": Dense(name="dense", hidden=(8,))}
    for name, how in (
        ("whole", ["batch_size=64"]),
        ("parts", ["batch_size=32", "running.accumulate=4"]),
    ):
        settings = small("optimiser=sgd", *how, data=str(few_samples), epochs=1)
        train(settings.model_copy(update=dense), tmp_path / name)

    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, values in whole.items():
        torch.testing.assert_close(parts[name], values, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("no_pictures")
def test_a_full_disk_is_an_error_with_the_file(
    tmp_path: Path, small: Small, few_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:858] . unexpected pos")

    monkeypatch.setattr(torch, "save", full)

    with pytest.raises(TrainingError, match=r"best.ckpt' must be written, .* is the disk full\?"):
        train(small(data=str(few_samples)), tmp_path / "run")


def test_metrics_stay_where_pictures_fail(
    tmp_path: Path, small: Small, few_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(training, "write_figures", fails)

    with pytest.raises(MemoryError):
        train(small(data=str(few_samples), epochs=1), tmp_path / "run")

    assert (tmp_path / "run/metrics.json").is_file()


def test_a_directory_of_somebody_else_is_left_alone(
    tmp_path: Path, small: Small, few_samples: Path
) -> None:
    (tmp_path / ".mine.ckpt").write_text("precious")

    with pytest.raises(OptionError, match="holds files that are not of a training run"):
        train(small(data=str(few_samples)), tmp_path)

    assert (tmp_path / ".mine.ckpt").read_text() == "precious"


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_was_killed_in_its_first_epoch_starts_again(
    tmp_path: Path, small: Small, few_samples: Path
) -> None:
    settings = small(data=str(few_samples), epochs=1)
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    (run / "settings.json").write_text(settings.model_dump_json())
    (run / ".best.ckpt.abc.ckpt").write_text("half")
    (run / ".mine.ckpt").write_text("precious")

    train(settings, run)

    assert [path.name for path in run.glob(".*")] == [".mine.ckpt"]


def test_half_precision_needs_a_gpu(tmp_path: Path, small: Small, few_samples: Path) -> None:
    settings = small("running.precision=16-mixed", "running.accelerator=cpu", data=str(few_samples))

    with pytest.raises(OptionError, match="running.precision=16-mixed needs a GPU"):
        train(settings, tmp_path / "run")


def test_integers_that_no_compiler_makes_are_refused_before_the_first_epoch(
    tmp_path: Path, small: Small, few_samples: Path
) -> None:
    settings = small(
        'phases=[{"epochs": 1, "weight_bits": 4}]',
        "neuron.activation=sigmoid",
        data=str(few_samples),
    )

    with pytest.raises(UnsupportedError):
        train(settings, tmp_path / "run")

    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_pictures")
def test_clipping_bounds_the_gradient(
    tmp_path: Path, small: Small, few_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = []

    def seen(self: TrainingModule, *_: Any) -> None:
        gradients = [value.grad for value in self.parameters() if value.grad is not None]
        norms.append(float(nn.utils.get_total_norm(gradients)))

    monkeypatch.setattr(TrainingModule, "on_train_batch_end", seen)
    train(small("running.clip=0.01", data=str(few_samples), epochs=1), tmp_path / "run")

    assert max(norms) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.usefixtures("no_pictures")
def test_mixed_precision_keeps_weights_in_float32(
    tmp_path: Path, small: Small, few_samples: Path
) -> None:
    settings = small("running.precision=bf16-mixed", data=str(few_samples))

    metrics = train(settings, tmp_path / "run").metrics

    assert {values.dtype for values in weights(tmp_path / "run").values()} <= {
        torch.float32,
        torch.int64,
    }
    assert metrics["loss_per_epoch"][1] < metrics["loss_per_epoch"][0]


@pytest.mark.usefixtures("no_pictures")
def test_a_phase_stops_where_nothing_improves(
    tmp_path: Path, small: Small, few_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best checkpoint is the first epoch's, the last one that of the epoch it stopped in."""
    monkeypatch.setattr(
        "neurocompile.training.callbacks.learning_rate", lambda *_: 0.0
    )  # nothing is learnt, so nothing improves; batch norm's statistics still move
    settings = small("running.early_stop=2", data=str(few_samples), epochs=9)

    metrics = train(settings, tmp_path / "run").metrics

    accuracies = metrics["accuracy_per_epoch"]
    assert len(accuracies) < 9
    assert max(accuracies[-2:]) <= max(accuracies[:-2])
    assert metrics["phases"][0]["epochs"] == len(accuracies)
    again = train(settings, tmp_path / "run", resume=True).metrics
    assert again["accuracy_per_epoch"] == accuracies


@pytest.mark.usefixtures("no_pictures")
def test_the_best_checkpoint_is_that_of_the_best_epoch(
    tmp_path: Path, small: Small, few_samples: Path
) -> None:
    metrics = train(small(data=str(few_samples), epochs=4), tmp_path / "run").metrics

    best = torch.load(tmp_path / "run/best.ckpt", weights_only=True)
    assert len(best["neurocompile_run"]["epochs"]) == metrics["test_accuracy"]["best_epoch"]
    assert load_checkpoint(tmp_path / "run/best.ckpt").steps == 2


def test_a_compiler_that_is_missing_is_named(
    tmp_path: Path, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", fails)

    with pytest.raises(OptionError, match=r"needs a compiler .* it fails on cpu \(no C\+\+ comp"):
        train(small("running.compile=true", "running.accelerator=cpu"), tmp_path / "run")

    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_gets_every_epoch(tmp_path: Path, small: Small, few_samples: Path) -> None:
    train(small("running.tensorboard=true", data=str(few_samples)), tmp_path / "run")

    names = [path.name for path in (tmp_path / "run/logs").iterdir()]
    assert "metrics.csv" in names
    assert any(name.startswith("events.out.tfevents") for name in names)


def test_tensorboard_that_is_missing_is_named(
    tmp_path: Path, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "find_spec", lambda _: None)

    with pytest.raises(MissingDependencyError, match=r"neurocompile\[tensorboard\]"):
        train(small("running.tensorboard=true"), tmp_path / "run")


def test_a_device_that_is_not_here_is_refused(tmp_path: Path, small: Small) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(OptionError, match="cannot train with running.accelerator=gpu"):
        train(small("running.accelerator=gpu"), tmp_path / "run")


def test_a_directory_without_a_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    assert provenance()["git_commit"] is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7300, "2 h 1 min"), (180000, "2 d 2 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
