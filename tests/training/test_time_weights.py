"""Weights of time steps (TWO): how they move, and that they go with a network to wherever it is deployed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

import neurocompile
from neurocompile.data import InputRange, Samples
from neurocompile.decision import decisions, weights_in
from neurocompile.errors import NirFormatError, ProgramFormatError
from neurocompile.frontend.from_nir import from_nir
from neurocompile.program import GRAPH, Program
from neurocompile.run_file import run_file
from neurocompile.training.checkpoint import Trained
from neurocompile.training.config import TrainSettings, TwoSettings, resolve
from neurocompile.training.networks import build
from neurocompile.training.time_weights import MomentAccuracies, for_steps, updated

SHAPE, STEPS, CLASSES = (1, 4, 4), 3, 4
WEIGHTS = (0.25, 0.5, 2.25)
SETTINGS = TwoSettings(rate=0.3, start_epoch=2)


def test_accuracies_of_moments_count_samples_and_not_batches() -> None:
    moments = MomentAccuracies(2)
    outputs = torch.tensor([[[2.0, 1], [0, 1]], [[0, 1], [0, 1]], [[0, 1], [0, 1]]])
    assert moments.mean().tolist() == [0, 0]

    moments.add(outputs[:1], torch.tensor([0]))
    moments.add(outputs[1:], torch.tensor([0, 1]))

    assert moments.mean().tolist() == pytest.approx([2 / 3, 1 / 3])
    again = MomentAccuracies(2)
    again.load_state_dict(json.loads(json.dumps(moments.state_dict())))
    assert torch.equal(again.mean(), moments.mean())


def test_weights_follow_accuracies_behind_the_starting_epoch() -> None:
    """acc / mean(acc) is 0.5 and 1.5: 0.7 x 0.8 + 0.3 x 0.5 and 0.7 x 1.2 + 0.3 x 1.5."""
    weights = torch.tensor([0.8, 1.2])
    accuracies = torch.tensor([0.2, 0.6], dtype=torch.float64)

    assert updated(weights, accuracies, SETTINGS, 2).tolist() == [1, 1]
    assert updated(weights, accuracies, SETTINGS, 3).tolist() == pytest.approx([0.71, 1.29])
    assert torch.equal(updated(weights, torch.zeros(2), SETTINGS, 3), weights)
    with pytest.raises(ValueError, match="2 weights cannot follow 3 accuracies"):
        updated(weights, torch.ones(3), SETTINGS, 3)


def test_weights_sum_to_the_number_of_steps_after_any_number_of_epochs() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.ones(10)
    for epoch in range(1000):
        accuracies = torch.rand(10, generator=generator, dtype=torch.float64)
        weights = updated(weights, accuracies, SETTINGS, epoch)

        assert float(weights.double().sum()) == pytest.approx(10, abs=5e-6)
        assert float(weights.min()) >= 0


def test_another_number_of_steps_starts_again() -> None:
    weights = torch.tensor(WEIGHTS)

    assert for_steps(weights, 3) is weights
    assert for_steps(weights, 4).tolist() == [1, 1, 1, 1]


def test_decisions_weigh_as_many_steps_as_there_are_weights() -> None:
    output = np.array([[[3.0, 0.0], [0.0, 2.0]]])

    assert decisions(output).tolist() == [0]
    assert decisions(output, (0.5, 1.5)).tolist() == [1]
    assert decisions(output, (0.5, 1.5, 1.0)).tolist() == [0]


@pytest.fixture(scope="module")
def settings() -> TrainSettings:
    return resolve(
        preset="digits",
        overrides=[
            'network.stages=[{"channels":6,"kernel":3,"pool":2}]',
            f"timesteps={STEPS}",
            "two={}",
        ],
    )


@pytest.fixture(scope="module")
def weighted(settings: TrainSettings) -> Trained:
    """A network whose weights of the steps change many of its answers."""
    torch.manual_seed(0)
    network = build(settings, SHAPE, CLASSES)
    with torch.no_grad():
        for _ in range(20):
            network(_shown(64))
        assert network.time_weights is not None
        network.time_weights.copy_(torch.tensor(WEIGHTS))
    return Trained(network.eval(), settings, CLASSES, InputRange(0, 1, 1 / 16))


@pytest.fixture(scope="module")
def checkpoint(weighted: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as `train` stores it."""
    path = tmp_path_factory.mktemp("weighted") / "last.ckpt"
    state = {f"network.{name}": value for name, value in weighted.network.state_dict().items()}
    torch.save({"neurocompile": weighted.description(), "state_dict": state}, path)
    return path


@pytest.fixture
def program(checkpoint: Path, opened: Callable[[Program], Program]) -> Program:
    return opened(neurocompile.export(checkpoint, target="fixedpoint"))


def _shown(samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(samples)
    return torch.randint(0, 17, (samples, STEPS, *SHAPE), generator=generator) / 16


def _labels(trained: Trained, inputs: Tensor) -> tuple[Any, Any]:
    """Return what a network decides with its weights, and what it would without."""
    with torch.no_grad():
        outputs = trained.network(inputs)
    return trained.network.decision(outputs).argmax(1).numpy(), outputs.mean(1).argmax(1).numpy()


def test_verify_applies_the_weights_in_every_stage(program: Program, weighted: Trained) -> None:
    inputs = _shown(200)
    with_weights, without = _labels(weighted, inputs)
    changed = float((with_weights != without).mean())
    assert changed > 0.05

    report = neurocompile.verify(program, data=Samples(inputs.numpy(), with_weights))

    assert set(report.accuracy) == {"torch", "float", "quantised", "fixedpoint"}
    assert report.accuracy["torch"] == 1
    assert report.accuracy["float"] > 0.99
    assert report.accuracy["fixedpoint"] > 1 - changed / 2
    assert report.to_json()["program"]["decision"] == {"time_weights": list(WEIGHTS)}
    assert (
        "the decision weighs the 3 time steps by 0.25 to 2.25, on the host"
        in (program.facts["notes"])
    )


def test_other_numbers_of_steps_count_all_alike(program: Program, weighted: Trained) -> None:
    inputs = _shown(200)[:, :2]
    labels = _labels(weighted, inputs)[0]

    report = neurocompile.verify(program, data=Samples(inputs.numpy(), labels), against=["torch"])

    assert report.accuracy["torch"] == 1


def test_a_stored_program_decides_the_same(program: Program, tmp_path: Path) -> None:
    inputs = _shown(50).numpy()
    result = program.run(inputs)
    program.save(tmp_path / "program")
    np.savez(tmp_path / "in.npz", input=inputs)
    with neurocompile.load(tmp_path / "program") as loaded:
        again = loaded.decisions(loaded.run(inputs))
        run_file(loaded, loaded.executor(), tmp_path / "in.npz", tmp_path / "out.npz")

    expected = (np.array(WEIGHTS)[:, np.newaxis] * result.output).mean(1).argmax(1)
    assert (program.decisions(result) == expected).all()
    assert (again == expected).all()
    with np.load(tmp_path / "out.npz") as written:
        assert (written["decision"] == expected).all()
    assert (expected != result.output.mean(1).argmax(1)).any()


def test_a_nir_file_keeps_the_weights(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "again.nir"
    path.write_bytes(program.extra_files[GRAPH])

    again = neurocompile.export(path, target="fixedpoint")

    assert from_nir(path).time_weights == WEIGHTS
    assert weights_in(again.facts) == WEIGHTS
    again.close()


def test_a_module_keeps_the_weights_in_its_own_file(weighted: Trained, tmp_path: Path) -> None:
    program = neurocompile.export(
        weighted.network,
        target="fixedpoint",
        input_shape=SHAPE,
        steps=STEPS,
        input_range=weighted.input_range,
    )
    path = tmp_path / "module.nir"
    path.write_bytes(program.extra_files[GRAPH])

    assert weights_in(program.facts) == WEIGHTS
    assert from_nir(path).time_weights == WEIGHTS
    program.close()


def test_networks_without_weights_say_nothing_of_them(
    weighted: Trained, settings: TrainSettings
) -> None:
    plain = build(settings.model_copy(update={"two": None}), SHAPE, CLASSES).eval()
    plain.body.load_state_dict(weighted.network.body.state_dict())
    with neurocompile.export(plain, target="fixedpoint", input_shape=SHAPE, steps=STEPS) as program:
        assert "decision" not in program.facts
        assert weights_in(program.facts) is None
        result = program.run(np.ones((2, STEPS, *SHAPE)))
        assert (program.decisions(result) == result.output.mean(1).argmax(1)).all()


@pytest.mark.parametrize("damage", [[np.nan, 1.0], [[1.0]], [], ["one"], None, 3.0])
def test_damaged_weights_are_refused(program: Program, tmp_path: Path, damage: Any) -> None:
    broken = replace(program, facts={**program.facts, "decision": {"time_weights": damage}})
    broken.save(tmp_path / "program")
    with pytest.raises(ProgramFormatError, match="weights of time steps are damaged"):
        neurocompile.load(tmp_path / "program")
    with pytest.raises(ProgramFormatError, match="weights of time steps are damaged"):
        weights_in({"decision": "none"})

    if damage is None:
        return
    path = tmp_path / "broken.nir"
    path.write_bytes(program.extra_files[GRAPH])
    with h5py.File(path, "a") as file:
        del file["node/metadata/time_weights"]
        file["node/metadata/time_weights"] = damage
    with pytest.raises(NirFormatError, match="metadata 'time_weights' is damaged"):
        from_nir(path)
