"""Initial weights of convolutions; everything else starts as PyTorch starts it, batch norms at 1 and 0."""

from __future__ import annotations

from typing import Literal

from torch import nn

Initialisation = Literal["kaiming", "torch"]


def initialise(convolution: nn.Conv2d, how: Initialisation) -> None:
    """
    Draw the weights of a new `convolution` again, or leave it as PyTorch made it ("torch").

    "kaiming" is He's normal distribution for the outputs (fan out) and ReLUs, as in TET's VGGSNN and in
    Zheng's networks; TET's ResNet-19 has PyTorch's. Biases stay uniform.
    """
    if how == "kaiming":
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
