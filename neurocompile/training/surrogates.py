"""
Surrogate gradients: the Heaviside step forward, something useful backward.

With `x = u - Vth` the forward pass is `1 if x > 0 else 0`, strictly (TET, Deng et al., ICLR 2022,
Eq. 2: a membrane exactly at the threshold does not fire, as on Loihi). A surrogate is the slope that the
backward pass takes in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from neurocompile.training.config import TrainSettings


class Surrogate(Protocol):
    """What stands in for the derivative of a spike."""

    def slope(self, x: Tensor) -> Tensor:
        """Return the derivative at `x` = membrane less threshold, of any shape, elementwise."""
        ...


@dataclass(frozen=True)
class Triangle:
    """max(0, width - |x|) / width^2 (TET, Eq. 5); `width` is the paper's gamma, the area is 1."""

    width: float = 1.0

    def slope(self, x: Tensor) -> Tensor:
        return (self.width - x.abs()).clamp(min=0) / self.width**2


def surrogate_of(settings: TrainSettings) -> Surrogate:
    """Return the surrogate that a run's settings ask for."""
    chosen = settings.surrogate
    assert chosen.name == "triangle"
    return Triangle(chosen.width)
