"""What a training run is made of, checked when it is built, and the presets."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from neurocompile.errors import OptionError, Problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageSettings(_Settings):
    """A convolution with batch norm and LIF, and the average pooling after it (1 is none)."""

    channels: int = Field(gt=0)
    kernel: int = Field(gt=0)  # odd: "same" padding is the same on both sides for odd ones only
    pool: int = Field(default=1, gt=0)

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("kernels must be odd, so that both sides are padded alike")
        return kernel


class NeuronSettings(_Settings):
    """The neuron of all layers; `tau` is the discrete leak factor."""

    tau: float = Field(default=0.5, gt=0, le=1)
    threshold: float = Field(default=1.0, gt=0)
    surrogate_width: float = Field(default=1.0, gt=0)
    detach_reset: bool = False


class LossSettings(_Settings):
    """L_TOTAL of TET (Eq. 13): `mse_weight` is lambda, `mse_target` is phi."""

    mse_weight: float = Field(default=0.05, ge=0, le=1)
    mse_target: float = 1.0


class TrainSettings(_Settings):
    """A whole training run. The same settings and seed give the same weights on one machine."""

    preset: str = "digits"
    data: str = "digits"
    stages: tuple[StageSettings, ...] = Field(min_length=1)
    neuron: NeuronSettings = NeuronSettings()
    loss: LossSettings = LossSettings()
    timesteps: int = Field(default=4, gt=0)
    epochs: int = Field(gt=0)
    batch_size: int = Field(default=64, gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**32)


# SNN-5 of the TET paper is 16C3-64C5-AP2-128C5-AP2-256C5-AP2-512C3-AP2-FC on 32x32 images; this is
# its shape on 8x8 ones: a convolution at full resolution, then convolutions that end in pools.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "digits": {
        "preset": "digits",
        "data": "digits",
        "stages": [
            {"channels": 16, "kernel": 3},
            {"channels": 32, "kernel": 3, "pool": 2},
            {"channels": 64, "kernel": 3, "pool": 2},
        ],
        "epochs": 40,
        "learning_rate": 3e-3,
        "weight_decay": 2e-3,
    }
}


def resolve(
    *,
    preset: str | None = None,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> TrainSettings:
    """
    Return the settings of a preset or a TOML or JSON file, with `key=value` overrides on top.

    Dots reach inwards (`neuron.tau=0.25`). `settings` that are not None win over everything.
    Raises `OptionError` with every key that is unknown or has an impossible value.
    """
    if preset is not None and config is not None:
        raise OptionError("give either a preset or a configuration file, not both")
    values = _read(config) if config else _preset(preset or "digits")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise OptionError(Problem("", f"--set needs key=value, got '{override}'"))
        _assign(values, key, value)
    values.update({key: value for key, value in settings.items() if value is not None})
    try:
        return TrainSettings.model_validate(values)
    except ValidationError as error:
        raise OptionError(*map(_problem_of, error.errors())) from error


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise OptionError(
            Problem("", f"there is no preset '{name}'", remedy=f"choose from {', '.join(PRESETS)}")
        )
    copied: dict[str, Any] = json.loads(json.dumps(PRESETS[name]))
    return copied


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise OptionError(
            Problem("", f"cannot read the configuration '{path}' ({error})")
        ) from error
    if not isinstance(values, dict):
        raise OptionError(Problem("", f"the configuration '{path}' must be a table of settings"))
    return values


def _assign(values: dict[str, Any], key: str, value: str) -> None:
    *outer, last = key.split(".")
    for name in outer:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise OptionError(Problem("", f"--set {key}: '{name}' has no settings of its own"))
        values = inner
    try:
        values[last] = json.loads(value)
    except ValueError:
        values[last] = value


def _problem_of(error: Any) -> Problem:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return Problem("", f"setting '{key}' is {error['input']!r}", remedy=error["msg"])
    known = _known_keys(TrainSettings)
    near = get_close_matches(key, known, n=3, cutoff=0.4)
    return Problem(
        "", f"there is no setting '{key}'", remedy=f"did you mean {', '.join(near or known)}?"
    )


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys
