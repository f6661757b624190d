"""Phases inherit everything that was trained, and nothing of how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import neurocompile
from neurocompile.errors import CheckpointError
from neurocompile.training.checkpoint import load_checkpoint
from neurocompile.training.config import TrainSettings
from neurocompile.training.history import Epoch, History
from neurocompile.training.module import TrainingModule
from neurocompile.training.train import train

pytestmark = pytest.mark.usefixtures("no_pictures")

Small = Callable[..., TrainSettings]


@pytest.fixture(scope="session")
def epoch_of() -> Callable[..., Epoch]:
    """Makes an epoch of a phase with a test accuracy."""

    def make(phase: int, accuracy: float) -> Epoch:
        return Epoch(
            phase=phase,
            learning_rate=0.1,
            train_loss=1.0,
            train_accuracy=0.5,
            test_accuracy=accuracy,
            test_loss_sdt=1.0,
            test_loss_tet=1.0,
            per_moment=[0.5],
            seconds=1.0,
        )

    return make


def test_a_phase_starts_from_the_weights_and_statistics_before_it(
    tmp_path: Path, small: Small, few_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TIT: another number of steps, an optimiser of its own without memory, one directory."""
    started: list[tuple[dict[str, torch.Tensor], torch.optim.Optimizer, int]] = []

    def on_fit_start(self: TrainingModule) -> None:
        state = {name: values.clone() for name, values in self.network.state_dict().items()}
        optimiser = self.trainer.optimizers[0]
        assert not optimiser.state
        started.append((state, optimiser, self.steps))

    monkeypatch.setattr(TrainingModule, "on_fit_start", on_fit_start)
    phases = 'phases=[{"epochs": 1, "timesteps": 3, "optimiser": "sgd", "learning_rate": 1e-9}]'

    metrics = train(small(phases, data=str(few_samples)), tmp_path / "run").metrics

    (_, adam, _), (before, sgd, steps) = started
    assert (type(adam), type(sgd)) == (torch.optim.Adam, torch.optim.SGD)
    assert steps == 3
    trained = load_checkpoint(tmp_path / "run")
    assert trained.steps == 3
    after = trained.network.state_dict()
    for name, values in before.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], values, rtol=0, atol=1e-6)
    assert int(before["body.bn1.num_batches_tracked"]) == 2
    assert int(after["body.bn1.num_batches_tracked"]) == 3
    assert [(phase["epochs"], phase["timesteps"]) for phase in metrics["phases"]] == [
        (2, 2),
        (1, 3),
    ]
    assert len(metrics["accuracy_per_moment"]) == 3
    assert len(metrics["accuracy_per_epoch"]) == 3


@pytest.mark.parametrize(("steps", "kept"), [(2, True), (3, False)])
def test_weights_of_steps_start_again_where_the_steps_change(
    steps: int, kept: bool, tmp_path: Path, small: Small, few_samples: Path
) -> None:
    """TWO's weights belong to one number of steps, and go on through phases that keep it."""
    phases = f'phases=[{{"epochs": 1, "timesteps": {steps}}}]'
    settings = small(phases, "two.start_epoch=0", data=str(few_samples))

    train(settings, tmp_path / "run")

    stored = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    _, second, third = (
        torch.tensor(epoch["time_weights"]) for epoch in stored["neurocompile_run"]["epochs"]
    )
    assert len(second) == 2
    assert float(second.sum()) == pytest.approx(2)
    assert len(third) == steps
    assert torch.equal(third, torch.ones(steps)) != kept
    network = load_checkpoint(tmp_path / "run").network
    assert network.time_weights is not None
    assert torch.equal(network.time_weights, third)


def test_a_run_starts_from_the_weights_of_another(
    tmp_path: Path, small: Small, few_samples: Path
) -> None:
    train(small(data=str(few_samples)), tmp_path / "first")

    settings = small(
        f"start={tmp_path / 'first'}", "learning_rate=1e-9", data=str(few_samples), epochs=1
    )
    train(settings, tmp_path / "second")

    first = load_checkpoint(tmp_path / "first").network
    second = load_checkpoint(tmp_path / "second").network
    for name, values in first.named_parameters():
        torch.testing.assert_close(second.get_parameter(name), values, rtol=0, atol=1e-6)


def test_another_network_is_no_start(tmp_path: Path, small: Small, few_samples: Path) -> None:
    train(small(data=str(few_samples), epochs=1), tmp_path / "first")
    other = small(
        'network.stages=[{"channels":5,"kernel":3,"pool":2}]',
        f"start={tmp_path / 'first'}",
        data=str(few_samples),
    )

    with pytest.raises(CheckpointError) as raised:
        train(other, tmp_path / "second")

    text = str(raised.value)
    assert "layer 'conv1.weight' cannot start from" in text
    assert "it needs the shape (5, 1, 3, 3), but there it is the shape (4, 1, 3, 3)" in text
    assert "layer 'conv2.weight' cannot start from" in text
    assert "it needs nothing, but there it is the shape (4, 4, 3, 3)" in text
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        train(
            small(f"start={tmp_path / 'none'}", data=str(few_samples)),
            tmp_path / "third",
        )


def test_other_norms_are_no_start(tmp_path: Path, small: Small, few_samples: Path) -> None:
    """Their factor is no weight: the network would be another one without a word."""
    train(small("normalisation.kind=tdbn", data=str(few_samples), epochs=1), tmp_path / "first")
    start = f"start={tmp_path / 'first'}"

    with pytest.raises(
        CheckpointError, match="it needs normalisation.kind=bn, but there it is tdbn"
    ):
        train(small(start, data=str(few_samples)), tmp_path / "second")
    other = small(
        start, "normalisation.kind=tdbn", "neuron.threshold=0.5", data=str(few_samples), epochs=1
    )
    with pytest.raises(CheckpointError, match="it needs neuron.threshold=0.5, but there it is 1.0"):
        train(other, tmp_path / "second")

    assert not (tmp_path / "second").exists()


def test_a_network_in_integers_is_no_start(tmp_path: Path, small: Small, few_samples: Path) -> None:
    phases = 'phases=[{"epochs": 1, "weight_bits": 4, "learning_rate": 1e-3}]'
    train(small(phases, data=str(few_samples), epochs=1), tmp_path / "first")
    settings = small(f"start={tmp_path / 'first'}", data=str(few_samples))

    with pytest.raises(CheckpointError, match="but it was trained in integers"):
        train(settings, tmp_path / "second")


def test_networks_in_integers_are_not_compiled(
    tmp_path: Path, small: Small, few_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []

    def seen(network: torch.nn.Module) -> torch.nn.Module:
        compiled.append(network)
        return network

    monkeypatch.setattr(torch, "compile", seen)
    phases = 'phases=[{"epochs": 1, "weight_bits": 4, "learning_rate": 1e-3}]'
    train(small(phases, data=str(few_samples), epochs=1), tmp_path / "run")

    module = TrainingModule(load_checkpoint(tmp_path / "run"), History(), compiled=True)

    assert module.in_integers
    assert compiled == []


def test_a_phase_in_integers_follows_one_in_floats(
    tmp_path: Path, small: Small, few_samples: Path
) -> None:
    phases = 'phases=[{"epochs": 1, "weight_bits": 4, "learning_rate": 1e-3}]'

    metrics = train(small(phases, data=str(few_samples), epochs=3), tmp_path / "run").metrics

    trained = load_checkpoint(tmp_path / "run")
    assert trained.phase == 1
    assert trained.description()["quantised"]["weight_bits"] == 4
    assert metrics["phases"][1]["weight_bits"] == 4


def test_a_finished_run_can_go_on_in_integers_and_be_verified(
    tmp_path: Path, small: Small, few_samples: Path
) -> None:
    data = str(few_samples)
    train(small(data=data, epochs=1), tmp_path / "float")

    train(
        small(f"start={tmp_path / 'float'}", "weight_bits=4", data=data, epochs=1), tmp_path / "run"
    )

    program = neurocompile.export(tmp_path / "run", target="fixedpoint", weight_bits=4)
    report = neurocompile.verify(program, data=data)
    held = [item for item in report.comparisons if item.must_match]
    assert ("torch", "fixedpoint") in [(item.reference, item.candidate) for item in held]
    assert not report.failed


def test_the_history_says_which_phase_is_next(small: Small, epoch_of: Callable[..., Epoch]) -> None:
    settings = small('phases=[{"epochs": 2}]', "running.early_stop=1", epochs=3)

    def after(*epochs: tuple[int, float]) -> int:
        return History([epoch_of(*epoch) for epoch in epochs]).current_phase(settings)

    assert after() == 0
    assert after((0, 0.5), (0, 0.6)) == 0
    assert after((0, 0.5), (0, 0.6), (0, 0.7)) == 1
    assert after((0, 0.5), (0, 0.4)) == 1  # no better: stopped early
    assert after((0, 0.5), (0, 0.4), (1, 0.4), (1, 0.5)) == 2


def test_the_history_survives_a_checkpoint(epoch_of: Callable[..., Epoch]) -> None:
    history = History([epoch_of(0, 0.5), epoch_of(1, 0.75), epoch_of(1, 0.75)], 3.2, [0.1, 0.2])

    assert History.from_json(history.to_json()) == history
    assert history.best == 1


def test_the_best_epoch_is_one_of_the_last_phase(epoch_of: Callable[..., Epoch]) -> None:
    """Those before it are of another network: of other steps, or without integers."""
    assert History([epoch_of(0, 0.9), epoch_of(1, 0.5), epoch_of(1, 0.6)]).best == 2
