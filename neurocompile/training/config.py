"""What a training run is made of, checked when it is built."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from neurocompile.errors import OptionError, Problem
from neurocompile.quantisation.recipe import Recipe
from neurocompile.training.presets import PRESETS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


MOST_NEURONS = 1 << 24  # of one dense layer
MOST_STEPS = 1 << 20
MOST_WIDTH = 64.0

WeightMethod = Literal["max", "percentile", "mse", "power-of-two"]  # those that need no samples
Percentile = Annotated[float, Field(gt=0, le=100)]
WEIGHT_METHOD: WeightMethod = "mse"  # from 4 bits down `max` loses most of the network at the start
Blocks = Annotated[int, Field(gt=0, le=64)]  # of one stage
Steps = Annotated[int, Field(gt=0, le=MOST_STEPS)]


class _Settings(BaseModel):
    # infinity is no JSON: what a run stores of it could not be read again
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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


class Convolutional(_Settings):
    """Stages of convolutions, then a linear read-out."""

    name: Literal["convolutional"]
    stages: tuple[StageSettings, ...] = Field(min_length=1)


class Dense(_Settings):
    """Hidden layers of LIF neurons, then a linear read-out; no batch norm."""

    name: Literal["dense"]
    hidden: tuple[Annotated[int, Field(gt=0, le=MOST_NEURONS)], ...] = Field(min_length=1)


class _Scaled(_Settings):
    """A published network; `width` scales the channels of all layers (1: as published)."""

    width: float = Field(default=1.0, gt=0, le=MOST_WIDTH)


class Snn5(_Scaled):
    """SNN-5 of the TET paper (section 5)."""

    name: Literal["snn5"]


class VggSnn(_Scaled):
    """VGGSNN of the TET paper; `pooling` "stride" is its variant without average pools."""

    name: Literal["vggsnn"]
    pooling: Literal["average", "stride"] = "average"


class ResNet19(_Scaled):
    """ResNet-19 of the TET paper; `hidden` 0 leaves out the dense layer before the read-out."""

    name: Literal["resnet19"]
    stem_channels: int = Field(default=64, gt=0)
    hidden: int = Field(default=256, ge=0)


class SpikingResNet34(_Scaled):
    """Spiking-ResNet34 for ImageNet, with a max pool in the stem or a stride in the first stage."""

    name: Literal["spiking-resnet34"]
    stem: Literal["maxpool", "stride"] = "stride"
    blocks: tuple[Blocks, Blocks, Blocks, Blocks] = (3, 4, 6, 3)


class SewResNet34(_Scaled):
    """SEW-ResNet34 for ImageNet: shortcuts are added to the spikes."""

    name: Literal["sew-resnet34"]
    blocks: tuple[Blocks, Blocks, Blocks, Blocks] = (3, 4, 6, 3)


class ResNet18Dvs(_Scaled):
    """Spiking ResNet-18 for event data: the plain layout, or the one with a stem of three layers."""

    name: Literal["resnet18-dvs"]
    layout: Literal["plain", "modified"] = "plain"


NetworkSettings = Annotated[
    Convolutional | Dense | Snn5 | VggSnn | ResNet19 | SpikingResNet34 | SewResNet34 | ResNet18Dvs,
    Field(discriminator="name"),
]


class NeuronSettings(_Settings):
    """
    The neuron of all layers; `tau` is the discrete leak factor, 1 for "if".

    With `learn_tau` every layer learns its own, from `tau` on. `activation` "sigmoid" is the ablation of
    TET section 5.1: neurons that emit sigmoid(`steepness` (u - threshold)) and train by its true gradient.
    """

    kind: Literal["lif", "if"] = "lif"
    tau: float = Field(default=0.5, gt=0, le=1)
    learn_tau: bool = False
    threshold: float = Field(default=1.0, gt=0)
    detach_reset: bool = False
    activation: Literal["step", "sigmoid"] = "step"
    steepness: float = Field(default=10.0, gt=0)


class NormalisationSettings(_Settings):
    """
    Batch norm over batch and time: TET's ("bn"), or with the factor alpha * threshold of tdBN.

    "tdbn" keeps the factor in the forward pass, "tdbn-init" starts the weight at it. With `sync`, several
    processes normalise by their common statistics.
    """

    kind: Literal["bn", "tdbn", "tdbn-init"] = "bn"
    sync: bool = True


class Triangle(_Settings):
    """max(0, width - |x|) / width^2 (TET, Eq. 5): `width` is the paper's gamma."""

    name: Literal["triangle"]
    width: float = Field(default=1.0, gt=0)


class Rectangle(_Settings):
    """1 / width for |x| < width / 2 (STBP)."""

    name: Literal["rectangle"]
    width: float = Field(default=1.0, gt=0)


class Exponential(_Settings):
    """scale / (2 width) * exp(-|x| / width) (SLAYER, lava-dl)."""

    name: Literal["exponential"]
    width: float = Field(default=1.0, gt=0)
    scale: float = Field(default=1.0, gt=0)


class Sigmoid(_Settings):
    """The slope of sigmoid(steepness x)."""

    name: Literal["sigmoid"]
    steepness: float = Field(default=4.0, gt=0)


class Arctan(_Settings):
    """(steepness / 2) / (1 + (pi steepness x / 2)^2)."""

    name: Literal["arctan"]
    steepness: float = Field(default=2.0, gt=0)


class FastSigmoid(_Settings):
    """1 / (1 + steepness |x|)^2."""

    name: Literal["fast-sigmoid"]
    steepness: float = Field(default=25.0, gt=0)


class FdgSettings(_Settings):
    """
    How the temperature of Dspike follows the finite difference gradient, every `every` epochs.

    Candidates are the temperature and `step` above and below, within [`minimum`, `maximum`]; weights of
    the first layer are moved by `epsilon` times their standard deviation, at most `weights` of them.
    """

    step: float = Field(default=0.2, gt=0)
    minimum: float = Field(default=1.0, gt=0)
    maximum: float = Field(default=6.0, gt=0)
    epsilon: float = Field(default=0.1, gt=0)
    weights: int = Field(default=1728, gt=0)
    every: int = Field(default=1, gt=0)


class Dspike(_Settings):
    """Dspike (Li et al., 2021) with its temperature b; `adapt` follows the finite difference gradient."""

    name: Literal["dspike"]
    temperature: float = Field(default=3.0, gt=0)
    adapt: FdgSettings | None = None


SurrogateSettings = Annotated[
    Triangle | Rectangle | Exponential | Sigmoid | Arctan | FastSigmoid | Dspike,
    Field(discriminator="name"),
]


class MaskSettings(_Settings):
    """
    Masked surrogate gradients (MSG): with `probability` a gradient is 0, drawn anew in every backward pass.

    If `final` is given, the probability grows linearly to it, from epoch `start_epoch` to the last.
    """

    probability: float = Field(default=0.5, ge=0, le=1)
    final: float | None = Field(default=None, ge=0, le=1)
    start_epoch: int = Field(default=5, ge=0)


class LossSettings(_Settings):
    """
    "tet" is Eq. 9 of TET, "sdt" Eq. 7; both mixed with Eq. 12 by Eq. 13.

    `mse_weight` is lambda, `mse_target` is phi. From epoch `switch_epoch` on (counted from 0) the loss is
    `switch_to`.
    """

    name: Literal["tet", "sdt"] = "tet"
    mse_weight: float = Field(default=0.05, ge=0, le=1)
    mse_target: float = 1.0
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    switch_epoch: int | None = Field(default=None, ge=1)
    switch_to: Literal["tet", "sdt"] = "tet"


class TwoSettings(_Settings):
    """Temporally weighted output (TWO): `rate` is rho; weights move after epoch `start_epoch`."""

    rate: float = Field(default=0.3, gt=0, le=1)
    start_epoch: int = Field(default=5, ge=0)


class InputSettings(_Settings):
    """
    How samples become inputs.

    `root` is the directory of data sets that are files (else the environment's NEUROCOMPILE_DATA, else
    ./data). Event recordings are cut into as many frames as there are time steps, by equal numbers of
    `events` or by `time`; `binary` frames say that something happened, others count. `size` is the height
    and width that frames are resized to (None: as recorded).
    """

    root: str | None = None
    augment: tuple[Literal["crop", "flip", "roll", "nda", "resized-crop"], ...] = ()
    split_by: Literal["events", "time"] = "events"
    binary: bool = False
    resize: Literal["bilinear", "nearest", "area"] = "bilinear"
    size: int | None = Field(default=None, gt=0)
    workers: int = Field(default=0, ge=0)


class RunningSettings(_Settings):
    """How and where the run is computed; numbers of devices and processes may change on resume."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int | Literal["auto"] = 1
    nodes: int = Field(default=1, gt=0)
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    accumulate: int = Field(default=1, gt=0)
    clip: float | None = Field(default=None, gt=0)
    early_stop: int | None = Field(default=None, gt=0)
    compile: bool = False
    tensorboard: bool = False


class PhaseSettings(_Settings):
    """
    A phase after the first: weights and statistics are kept, the optimiser is new (TIT).

    `timesteps`, `weight_bits`, `weight_method` and `weight_percentile` that are None are those of the phase
    before, the rest those of the first. With `weight_bits` the phase is quantisation-aware: its forward pass
    uses integers at the scales that `export --weight-bits --method` would begin with, by `weight_method`
    (None: that of `WEIGHT_METHOD`).
    """

    epochs: int = Field(gt=0)
    timesteps: Steps | None = None
    optimiser: Literal["adam", "adamw", "sgd"] | None = None
    learning_rate: float | None = Field(default=None, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)
    weight_bits: int | None = Field(default=None, ge=2, le=8)
    weight_method: WeightMethod | None = None
    weight_percentile: Percentile | None = None

    @property
    def recipe(self) -> Recipe | None:
        """How weights are rounded in this phase; None where they are real numbers."""
        if self.weight_bits is None:
            return None
        method = self.weight_method or WEIGHT_METHOD
        if self.weight_percentile is None:
            return Recipe(self.weight_bits, method=method)
        return Recipe(self.weight_bits, method=method, percentile=self.weight_percentile)


class TrainSettings(_Settings):
    """A whole training run. The same settings and seed give the same weights on one machine."""

    preset: str = ""
    data: str = "digits"
    input: InputSettings = InputSettings()
    network: NetworkSettings
    initialisation: Literal["kaiming", "torch"] = "kaiming"
    neuron: NeuronSettings = NeuronSettings()
    surrogate: SurrogateSettings = Triangle(name="triangle")
    mask: MaskSettings | None = None
    normalisation: NormalisationSettings = NormalisationSettings()
    loss: LossSettings = LossSettings()
    two: TwoSettings | None = None
    start: str | None = None  # a run or checkpoint to take the weights from
    timesteps: Steps = 4
    epochs: int = Field(gt=0)
    batch_size: int = Field(default=64, gt=0)
    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)  # of sgd
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: int = Field(default=0, ge=0)
    weight_bits: int | None = Field(default=None, ge=2, le=8)  # of the first phase, after a `start`
    weight_method: WeightMethod | None = None
    weight_percentile: Percentile | None = None
    phases: tuple[PhaseSettings, ...] = ()
    running: RunningSettings = RunningSettings()
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _fit_together(self) -> TrainSettings:
        """Refuse settings that would do nothing beside others."""
        neuron, surrogate = self.neuron, self.surrogate
        problems = []
        if neuron.learn_tau and (neuron.kind == "if" or neuron.tau == 1):
            problems.append("neuron.learn_tau needs a leak below 1 to start from")
        adapts = surrogate.name == "dspike" and surrogate.adapt is not None
        if neuron.activation == "sigmoid":
            without = {
                "neuron.learn_tau": neuron.learn_tau,
                "neuron.detach_reset": neuron.detach_reset,
                "mask": self.mask is not None,
                "surrogate.adapt": adapts,
            }
            found = ", ".join(name for name, given in without.items() if given)
            if found:
                problems.append(f"neuron.activation sigmoid has no surrogate and no {found}")
        if surrogate.name == "dspike" and surrogate.adapt is not None:
            limits = surrogate.adapt
            if not limits.minimum <= surrogate.temperature <= limits.maximum:
                problems.append(
                    f"surrogate.temperature must lie from surrogate.adapt.minimum, {limits.minimum:g}, to "
                    f"surrogate.adapt.maximum, {limits.maximum:g}; it is {surrogate.temperature:g}"
                )
        problems += self._rounding_without_effect()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _rounding_without_effect(self) -> list[str]:
        """Return what phases say of rounding that they do not do."""
        problems: list[str] = []
        spoken: tuple[TrainSettings | PhaseSettings, ...] = (self, *self.phases)
        for number, (said, phase) in enumerate(zip(spoken, self.all_phases(), strict=True)):
            place = f"phases.{number - 1}." if number else ""
            if phase.weight_bits is None:
                problems += [
                    f"{place}{name} needs weight_bits, as it says how these are found"
                    for name in ("weight_method", "weight_percentile")
                    if getattr(said, name) is not None
                ]
            elif said.weight_percentile is not None and phase.weight_method != "percentile":
                problems.append(
                    f"{place}weight_percentile needs weight_method percentile; it is "
                    f"{phase.weight_method or WEIGHT_METHOD}"
                )
        return problems

    def all_phases(self) -> tuple[PhaseSettings, ...]:
        """Return the first phase and those after it, with nothing left open but how weights are rounded."""
        first: dict[str, Any] = {
            "timesteps": self.timesteps,
            "optimiser": self.optimiser,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
        }
        inherited = ("timesteps", "weight_bits", "weight_method", "weight_percentile")
        rounding = {name: getattr(self, name) for name in inherited[1:]}
        made = [PhaseSettings(**first, epochs=self.epochs, **rounding)]
        for phase in self.phases:
            before = {name: getattr(made[-1], name) for name in inherited}
            given = phase.model_dump(exclude_none=True)
            made.append(PhaseSettings(**{**first, **before, **given}))
        return tuple(made)


def resolve(
    *,
    preset: str | None = None,
    config: Path | None = None,
    stored: TrainSettings | None = None,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> TrainSettings:
    """
    Return the settings of a preset, a TOML or JSON file or a `stored` run, with `key=value` overrides on top.

    Dots reach inwards (`neuron.tau=0.25`). A new `name` of a network or surrogate drops what belonged
    to the old one, wherever it stands among the overrides. `settings` that are not None win over
    everything. Raises `OptionError` with every key that is unknown or has an impossible value.
    """
    if preset is not None and config is not None:
        raise OptionError("give either a preset or a configuration file, not both")
    if stored is not None:
        values = stored.model_dump(mode="json")
    else:
        values = _read(config) if config else _preset(preset or "digits")
    assignments = [_parsed(override) for override in overrides]
    other = settings.get("data") or dict(assignments).get("data", values.get("data"))
    if config is None and stored is None and other != values.get("data"):
        # how a preset frames its recordings says nothing of other data
        for name in FRAMING:
            values.get("input", {}).pop(name, None)
    for key, value in _in_order(assignments):
        _assign(values, key, value)
    values.update({key: value for key, value in settings.items() if value is not None})
    try:
        resolved = TrainSettings.model_validate(values)
    except ValidationError as error:
        raise OptionError(*map(_problem_of, error.errors())) from error
    if resolved.weight_bits is not None and resolved.start is None:
        raise OptionError(
            Problem(
                "",
                "weight_bits in the first phase needs a trained network to round",
                "there is none",
                "name its run with start, or give weight_bits to a later phase",
            )
        )
    return resolved


def _in_order(assignments: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return assignments as they are made: whole tables, then names, then what belongs to these."""

    def rank(assignment: tuple[str, Any]) -> int:
        key, _ = assignment
        if key == "preset":
            raise OptionError(
                Problem("", "--set cannot choose a preset", remedy="give its name to --preset")
            )
        return 0 if "." not in key else 1 if key in RENAMING else 2

    return sorted(assignments, key=rank)


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise OptionError(
            Problem("", f"there is no preset '{name}'", remedy=f"choose from {', '.join(PRESETS)}")
        )
    copied: dict[str, Any] = json.loads(json.dumps(PRESETS[name].settings))
    return {"preset": name, **copied}


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


def _parsed(override: str) -> tuple[str, Any]:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise OptionError(Problem("", f"--set needs key=value, got '{override}'"))
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split(".")
    for name in outer:
        inner = values.get(name)
        if inner is None:
            inner = values[name] = {"name": "triangle"} if name == "surrogate" else {}
        if not isinstance(inner, dict):
            raise OptionError(Problem("", f"--set {key}: '{name}' has no settings of its own"))
        values = inner
    if key in RENAMING and values.get("name") != value:
        values.clear()
    values[last] = value


def _problem_of(error: Any) -> Problem:
    place = [str(part) for part in error["loc"]]
    chosen = next((model for model in _NAMED_MODELS if place[:2] == list(model)), None)
    if chosen is not None:
        place.pop(1)  # pydantic puts the name that the settings go by into the path
    key = ".".join(place)
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        given = error["input"]
        name = given.get("name", "missing") if isinstance(given, Mapping) else given
        names = [name for setting, name in _NAMED_MODELS if setting == key]
        need = f"setting '{key}.name' is {name!r}"
        return Problem("", need, remedy=f"choose from {', '.join(names)}")
    if not place:  # settings that do not fit together
        return Problem("", error["msg"].removeprefix("Value error, "))
    if error["type"] != "extra_forbidden":
        return Problem("", f"setting '{key}' is {error['input']!r}", remedy=error["msg"])
    known = list(_known_keys(TrainSettings))
    if chosen is not None:
        known = list(_known_keys(_NAMED_MODELS[chosen], f"{chosen[0]}."))
    near = get_close_matches(key, known, n=3, cutoff=0.4)
    return Problem(
        "", f"there is no setting '{key}'", remedy=f"did you mean {', '.join(near or known)}?"
    )


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the settings that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, UnionType):
        for part in get_args(annotation):
            yield from _models(part)


def _known_keys(model: type[BaseModel], prefix: str = "") -> dict[str, None]:
    """Return all keys below `model`, in order, each once."""
    keys: dict[str, None] = {}
    for name, field in model.model_fields.items():
        keys[prefix + name] = None
        for inner in _models(field.annotation):
            keys |= _known_keys(inner, f"{prefix}{name}.")
    return keys


FRAMING = ("split_by", "binary", "resize", "size")  # settings of the input that recordings need

RENAMING = ("network.name", "surrogate.name")  # which other settings there are depends on them

# The settings that a network or surrogate of a name has, by both.
_NAMED_MODELS = {
    (setting, get_args(model.model_fields["name"].annotation)[0]): model
    for setting, union in (("network", NetworkSettings), ("surrogate", SurrogateSettings))
    for model in _models(union)
}
