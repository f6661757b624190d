"""Settings: presets, files, overrides, and every mistake told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neurocompile.errors import OptionError
from neurocompile.training.config import Convolutional, Snn5, Triangle, resolve


def test_the_preset_is_tet() -> None:
    settings = resolve(preset="digits")

    assert settings.loss.mse_weight == 0.05
    assert settings.timesteps == 4
    assert settings.data == "digits"


def test_overrides_reach_inwards_and_arguments_win() -> None:
    settings = resolve(
        preset="digits",
        overrides=["neuron.tau=0.25", "epochs=3", "data=mine.npz"],
        epochs=5,
        seed=None,
    )

    assert settings.neuron.tau == 0.25
    assert settings.epochs == 5
    assert settings.data == "mine.npz"


def test_names_come_before_what_belongs_to_them() -> None:
    settings = resolve(
        preset="digits",
        overrides=[
            "surrogate.steepness=3",
            "surrogate.name=arctan",
            'network={"name":"dense","hidden":[8]}',
            "network.name=snn5",
            "network.width=0.5",
        ],
    )

    assert (settings.surrogate.name, settings.surrogate.steepness) == ("arctan", 3)  # type: ignore[union-attr]
    assert settings.network == Snn5(name="snn5", width=0.5)


def test_a_preset_for_recordings_takes_images_as_they_are() -> None:
    own = resolve(preset="cifar10dvs-vggsnn-tet").input
    other = resolve(preset="cifar10dvs-vggsnn-tet", data="mine.npz").input
    sized = resolve(
        preset="cifar10dvs-vggsnn-tet", overrides=["data=nmnist", "input.size=32"]
    ).input

    assert (own.size, own.binary) == (48, True)
    assert (other.size, other.binary, other.augment) == (None, False, own.augment)
    assert (sized.size, sized.binary) == (32, False)


def test_the_usual_surrogate_needs_no_name() -> None:
    settings = resolve(preset="digits", overrides=["surrogate.width=0.5"])

    assert settings.surrogate == Triangle(name="triangle", width=0.5)


def test_later_phases_go_on_with_the_steps_and_bits_before_them() -> None:
    settings = resolve(
        preset="digits",
        overrides=['phases=[{"epochs":1,"timesteps":8},{"epochs":2,"weight_bits":4},{"epochs":3}]'],
    )

    assert [(phase.timesteps, phase.weight_bits) for phase in settings.all_phases()] == [
        (4, None), (8, None), (8, 4), (8, 4),
    ]  # fmt: skip


def test_resolved_settings_are_a_configuration_file_again(tmp_path: Path) -> None:
    settings = resolve(preset="digits", seed=7)
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings.model_dump(mode="json")))

    assert resolve(config=path) == settings


def test_toml_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        "epochs = 2\nlearning_rate = 0.01\n[network]\nname = 'convolutional'\nstages = [{channels = 4, kernel = 3}]\n"
    )

    network = resolve(config=path).network
    assert isinstance(network, Convolutional)
    assert network.stages[0].channels == 4


def test_all_mistakes_are_told_with_the_nearest_names() -> None:
    with pytest.raises(OptionError) as raised:
        resolve(preset="digits", overrides=["epoch=3", "neuron.tau=1.5", "neuron.treshold=1"])

    text = str(raised.value)
    assert "3 problems" in text
    assert "there is no setting 'epoch': did you mean epochs" in text
    assert "there is no setting 'neuron.treshold': did you mean neuron.threshold" in text
    assert "setting 'neuron.tau' is 1.5: Input should be less than or equal to 1" in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"preset": "digits", "overrides": ['network.stages=[{"channels":4,"kernel":2}]']},
            "kernels must be odd",
        ),
        ({"preset": "mnist"}, "there is no preset 'mnist': choose from digits, mnist5k, cifar10-"),
        (
            {"preset": "digits", "overrides": ["network.name=resnet"]},
            "setting 'network.name' is 'resnet': choose from convolutional, dense, snn5, vggsnn",
        ),
        (
            {"preset": "digits", "overrides": ["surrogate.name=arctan", "surrogate.width=2"]},
            "there is no setting 'surrogate.width': did you mean surrogate.name, surrogate.steepness",
        ),
        ({"preset": "digits", "overrides": ["preset=mnist5k"]}, "give its name to --preset"),
        ({"preset": "digits", "overrides": ["weight_bits=4"]}, "needs a trained network to round"),
        ({"preset": "digits", "overrides": ["neuron.threshold=Infinity"]}, "a finite number"),
        (
            {"preset": "digits", "overrides": ['network={"name":"dense","hidden":[8,0]}']},
            "setting 'network.hidden.1' is 0",
        ),
        (
            {"preset": "digits", "overrides": ["neuron.activation=sigmoid", 'mask={"final":1}']},
            r"^neuron.activation sigmoid has no surrogate and no mask$",
        ),
        (
            {"preset": "digits", "overrides": ["neuron.kind=if", "neuron.learn_tau=true"]},
            "neuron.learn_tau needs a leak below 1",
        ),
        (
            {
                "preset": "digits",
                "overrides": ['surrogate={"name":"dspike","temperature":9,"adapt":{}}'],
            },
            "surrogate.temperature must lie from surrogate.adapt.minimum, 1, to",
        ),
        ({"preset": "digits", "overrides": ["epochs"]}, "--set needs key=value, got 'epochs'"),
        ({"config": Path("none.toml")}, "cannot read the configuration 'none.toml'"),
        ({"preset": "digits", "config": Path("x.toml")}, "either a preset or a configuration file"),
        ({"preset": "digits", "overrides": ["epochs.x=1"]}, "'epochs' has no settings of its own"),
    ],
)
def test_impossible_requests_are_refused(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        resolve(**arguments)  # type: ignore[arg-type]
