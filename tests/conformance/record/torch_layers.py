"""PyTorch layers with given numbers, for the recorders of frameworks that build on PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def tensor(values: Any) -> Any:
    """Return values in the type that these frameworks compute with."""
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def linear(weight: Any, bias: Any = None) -> Any:
    """Return a fully connected layer."""
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _filled(layer, weight, bias)


def conv(weight: Any, bias: Any = None, **geometry: Any) -> Any:
    """Return a convolution."""
    channels = weight.shape[1] * geometry.get("groups", 1)
    layer = torch.nn.Conv2d(
        channels, weight.shape[0], weight.shape[2:], bias=bias is not None, **geometry
    )
    return _filled(layer, weight, bias)


def _filled(layer: Any, weight: Any, bias: Any) -> Any:
    layer.weight.data = tensor(weight)
    if bias is not None:
        layer.bias.data = tensor(bias)
    return layer


def numbers(values: Any) -> Any:
    """Return a tensor as numpy's float64."""
    return values.detach().double().numpy()
