"""
Surrogate gradients: the Heaviside step forward, something useful backward.

With `x = u - Vth` the forward pass is `1 if x > 0 else 0`, strictly (TET, Deng et al., ICLR 2022,
Eq. 2: a membrane exactly at the threshold does not fire, as on Loihi). A surrogate is the slope that the
backward pass takes in its place.

    Triangle       max(0, width - |x|) / width^2                                 TET, Eq. 5
    Rectangle      1 / width for |x| < width / 2                                 STBP
    Exponential    scale / (2 width) exp(-|x| / width)                           SLAYER, lava-dl
    Sigmoid        k s (1 - s), s = sigmoid(k x)                                 k is the steepness
    Arctan         (k / 2) / (1 + (pi k x / 2)^2)
    FastSigmoid    1 / (1 + k |x|)^2
    Dspike         b / (4 Vth tanh(b/2)) sech^2(b x / (2 Vth)) for |x| <= Vth    Li et al., NeurIPS 2021
    Masked         0 with some probability, else another one's                   MSG

Each but the masked one has the `soft` step that it is the slope of: their areas are 1, but `scale` of
Exponential and 2 / k of FastSigmoid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from neurocompile.training.config import MaskSettings, SurrogateSettings, TrainSettings


class Surrogate(Protocol):
    """What stands in for the derivative of a spike."""

    def slope(self, x: Tensor) -> Tensor:
        """Return the derivative at `x` = membrane less threshold, of any shape, elementwise."""
        ...


class SoftStep(Surrogate, Protocol):
    """A surrogate that is the derivative of a function."""

    def soft(self, x: Tensor) -> Tensor:
        """Return the step whose derivative is `slope`, of any shape, elementwise."""
        ...


@dataclass(frozen=True)
class Triangle:
    """max(0, width - |x|) / width^2 (TET, Eq. 5); `width` is the paper's gamma, the area is 1."""

    width: float = 1.0

    def slope(self, x: Tensor) -> Tensor:
        return (self.width - x.abs()).clamp(min=0) / self.width**2

    def soft(self, x: Tensor) -> Tensor:
        inside = x.clamp(-self.width, self.width) / self.width
        return 0.5 + inside - inside * inside.abs() / 2


@dataclass(frozen=True)
class Rectangle:
    """1 / width for |x| < width / 2 (STBP); the area is 1."""

    width: float = 1.0

    def slope(self, x: Tensor) -> Tensor:
        return (x.abs() < self.width / 2).to(x.dtype) / self.width

    def soft(self, x: Tensor) -> Tensor:
        return 0.5 + (x / self.width).clamp(-0.5, 0.5)


@dataclass(frozen=True)
class Exponential:
    """scale / (2 width) exp(-|x| / width) (SLAYER, lava-dl); the area is `scale`."""

    width: float = 1.0
    scale: float = 1.0

    def slope(self, x: Tensor) -> Tensor:
        return torch.exp(-x.abs() / self.width) * (self.scale / (2 * self.width))

    def soft(self, x: Tensor) -> Tensor:
        return self.scale / 2 * (1 - torch.sign(x) * torch.expm1(-x.abs() / self.width))


@dataclass(frozen=True)
class Sigmoid:
    """The slope of sigmoid(steepness x); the area is 1."""

    steepness: float = 4.0

    def slope(self, x: Tensor) -> Tensor:
        step = self.soft(x)
        return self.steepness * step * (1 - step)

    def soft(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.steepness * x)


@dataclass(frozen=True)
class Arctan:
    """(steepness / 2) / (1 + (pi steepness x / 2)^2); the area is 1."""

    steepness: float = 2.0

    def slope(self, x: Tensor) -> Tensor:
        return self.steepness / 2 / (1 + (math.pi / 2 * self.steepness * x).square())

    def soft(self, x: Tensor) -> Tensor:
        return 0.5 + torch.atan(math.pi / 2 * self.steepness * x) / math.pi


@dataclass(frozen=True)
class FastSigmoid:
    """1 / (1 + steepness |x|)^2, without a factor; the area is 2 / steepness."""

    steepness: float = 25.0

    def slope(self, x: Tensor) -> Tensor:
        return (1 + self.steepness * x.abs()).square().reciprocal()

    def soft(self, x: Tensor) -> Tensor:
        return 1 / self.steepness + x / (1 + self.steepness * x.abs())


@dataclass
class Dspike:
    """
    The slope of a piece of tanh that is 0 for u <= 0 and 1 for u >= 2 Vth (Dspike); the area is 1.

    `temperature` is the paper's b: toward 0 the slope is a box, toward infinity a peak at the threshold.
    It may be set between two training steps, and holds for all layers at once.
    """

    temperature: float = 3.0
    threshold: float = 1.0

    def slope(self, x: Tensor) -> Tensor:
        b, vth = self.temperature, self.threshold
        peak = b / (4 * vth * math.tanh(b / 2))
        inside = (x.abs() <= vth).to(x.dtype)
        return inside * peak * (1 - torch.tanh(b / (2 * vth) * x).square())

    def soft(self, x: Tensor) -> Tensor:
        b, vth = self.temperature, self.threshold
        inside = x.clamp(-vth, vth)
        return 0.5 + torch.tanh(b / (2 * vth) * inside) / (2 * math.tanh(b / 2))


class Masked:
    """
    Masked surrogate gradients (MSG): each element's slope is 0 with `probability`, else that of `base`.

    Masks are drawn anew in every call of `slope`, from generators of their own, one for each device, so
    that they neither follow nor move the global one. `reseed` before a training step makes a run that was
    resumed repeat them; in several processes each needs its own seed. What is left is not scaled up.
    """

    def __init__(self, base: Surrogate, probability: float = 0.5, seed: int = 0) -> None:
        self.base = base
        self.probability = probability
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Draw from the sequence of `seed` from now on, from its start."""
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def slope(self, x: Tensor) -> Tensor:
        slope = self.base.slope(x)
        if self.probability == 0:
            return slope
        generator = self._generators.get(x.device)
        if generator is None:
            generator = torch.Generator(x.device).manual_seed(self._seed)
            self._generators[x.device] = generator
        kept = torch.empty_like(slope).bernoulli_(1 - self.probability, generator=generator)
        return slope * kept

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies keep: generators cannot be copied, so a copy draws from the start."""
        return {**vars(self), "_generators": {}}

    def __repr__(self) -> str:
        return f"Masked({self.base}, probability={self.probability})"


def surrogate_of(settings: TrainSettings) -> Surrogate:
    """Return the surrogate that a run's settings ask for, masked if they say so."""
    base = _base(settings.surrogate, settings.neuron.threshold)
    if settings.mask is None:
        return base
    return Masked(base, settings.mask.probability, settings.seed)


def probability_at(settings: MaskSettings, epoch: int, epochs: int) -> float:
    """
    Return the probability that masks of `epoch` (counted from 0) have, in a run of `epochs`.

    Up to `start_epoch` it is `probability`; from there it grows linearly to `final`, which the last epoch
    has (the schedule of MSG's code).
    """
    start, last = settings.start_epoch, epochs - 1
    if settings.final is None or epoch <= start:
        return settings.probability
    done = min(1.0, (epoch - start) / max(1, last - start))
    return settings.probability + (settings.final - settings.probability) * done


def _base(settings: SurrogateSettings, threshold: float) -> SoftStep:
    match settings.name:
        case "triangle":
            return Triangle(settings.width)
        case "rectangle":
            return Rectangle(settings.width)
        case "exponential":
            return Exponential(settings.width, settings.scale)
        case "sigmoid":
            return Sigmoid(settings.steepness)
        case "arctan":
            return Arctan(settings.steepness)
        case "fast-sigmoid":
            return FastSigmoid(settings.steepness)
        case "dspike":
            return Dspike(settings.temperature, threshold)
