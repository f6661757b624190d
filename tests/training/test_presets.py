"""The recipes by name hold what the papers print."""

from __future__ import annotations

import pytest

from neurocompile.training.config import TrainSettings, resolve
from neurocompile.training.presets import PRESETS
from neurocompile.training.summary import closing, opening

NAMES = [
    "digits",
    "mnist5k",
    "cifar10-resnet19-tet",
    "cifar100-resnet19-tet",
    "imagenet-sew34-tet",
    "imagenet-spiking34-tet",
    "cifar10dvs-vggsnn-tet",
    "cifar10dvs-resnet18-dspike",
    "cifar10dvs-vggsnn-msg-two",
]


def test_these_recipes_are_there() -> None:
    assert list(PRESETS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_a_whole_configuration(name: str) -> None:
    settings = resolve(preset=name)

    assert settings.preset == name
    assert TrainSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("name", "phases", "mse_weight", "weight_decay"),
    [
        ("cifar10-resnet19-tet", [(2, 300, "adam", 0.01), (6, 50, "adam", 1e-4)], 0.05, 0),
        ("cifar100-resnet19-tet", [(2, 300, "adam", 0.01), (6, 50, "adam", 1e-4)], 0.05, 0),
        ("imagenet-sew34-tet", [(4, 120, "sgd", 0.1)], 0.001, 4e-5),
        ("imagenet-spiking34-tet", [(4, 90, "sgd", 0.1), (6, 30, "adam", 1e-4)], 0.001, 4e-5),
        ("cifar10dvs-vggsnn-tet", [(10, 300, "adam", 1e-3)], 0.001, 0),
        ("cifar10dvs-resnet18-dspike", [(10, 400, "sgd", 0.1)], 0, 1e-4),
        ("cifar10dvs-vggsnn-msg-two", [(10, 120, "adamw", 3.125e-3)], 0, 0),
    ],
)
def test_the_papers_recipes(
    name: str,
    phases: list[tuple[int, int, str, float]],
    mse_weight: float,
    weight_decay: float,
) -> None:
    settings = resolve(preset=name)

    assert [
        (phase.timesteps, phase.epochs, phase.optimiser, phase.learning_rate)
        for phase in settings.all_phases()
    ] == phases
    assert settings.loss.mse_weight == mse_weight
    assert settings.weight_decay == weight_decay


def test_the_methods_of_the_three_papers_are_in_their_recipes() -> None:
    tet, dspike, msg = (
        resolve(preset=f"cifar10dvs-{name}")
        for name in ("vggsnn-tet", "resnet18-dspike", "vggsnn-msg-two")
    )

    assert (tet.loss.name, tet.surrogate.name, tet.mask, tet.two) == ("tet", "triangle", None, None)
    assert dspike.surrogate.name == "dspike"
    assert dspike.surrogate.adapt is not None
    assert msg.mask is not None
    assert msg.two is not None


def test_the_published_number_is_printed_before_and_after() -> None:
    settings = resolve(preset="cifar10-resnet19-tet", seed=3)
    metrics = {
        "test_accuracy": {"last": 0.9412, "best": 0.943},
        "data": {"test": 10000},
        "seconds": 12.3,
        "device": "cuda:0",
        "settings": settings.model_dump(mode="json"),
        "layers": [],
    }

    before, after = opening(settings), closing(metrics)

    assert before[0].startswith("preset cifar10-resnet19-tet: TET on CIFAR-10")
    assert before[1] == "resnet19 on cifar10, seed 3"
    assert before[2] == "phase 1 of 2: 300 epochs, T = 2, adam, learning rate 0.01"
    assert before[3] == "phase 2 of 2: 50 epochs, T = 6, adam, learning rate 0.0001"
    assert after == [
        "test accuracy 94.12 % after the last epoch, best 94.30 % (10000 samples), 12 s on cuda:0",
        "published: 94.50 % (TET, Table 3, T = 6, mean of 3 runs, +- 0.07)",
    ]
    assert after[1] in before


def test_a_phase_of_fewer_bits_says_so() -> None:
    settings = resolve(preset="digits", overrides=['phases=[{"epochs":2,"weight_bits":4}]'])

    assert opening(settings)[-1] == (
        "phase 2 of 2: 2 epochs, T = 4, adam, learning rate 0.003, with 4-bit weights"
    )


@pytest.mark.parametrize("changed", ["data=mine.npz", "network.width=0.25"])
def test_other_data_or_another_network_have_no_published_number(changed: str) -> None:
    settings = resolve(preset="cifar10-resnet19-tet", overrides=[changed])

    assert not any(line.startswith("published") for line in opening(settings))
