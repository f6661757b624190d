"""The deep networks have the published numbers of parameters, and fold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from neurocompile.training.architectures import ResNet19, SewResNet, VggSnn


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (ResNet19, 12_630_858),
        (lambda: ResNet19(classes=100), 12_653_988),
        (VggSnn, 9_271_498),
        (SewResNet, 21_797_672),
    ],
)
def test_the_published_networks_have_their_parameters(
    make: Callable[[], nn.Module], parameters: int
) -> None:
    network = make()

    assert sum(values.numel() for values in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (ResNet19(3, 8, 1 / 32), (3, 8, 8)),
        (SewResNet(3, 32, 1 / 32, 10, (1, 1, 1, 1)), (3, 32, 32)),
        (VggSnn(2, 16, 1 / 32), (2, 16, 16)),
    ],
)
def test_small_ones_give_logits_at_every_step(network: nn.Module, shape: tuple[int, ...]) -> None:
    logits = network(torch.zeros(2 * 3, *shape), 3)

    assert logits.shape == (6, 10)
