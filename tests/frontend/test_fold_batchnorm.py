"""Folding: equal to PyTorch's own evaluation, for every kind of batch norm, or refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from neurocompile.errors import UnsupportedError
from neurocompile.frontend.fold_batchnorm import fold_batchnorm


def with_statistics(norm: Any) -> Any:
    """Give a batch norm the statistics and affine parameters of a trained one, negative gammas too."""
    generator = torch.Generator().manual_seed(0)
    count = norm.num_features
    norm.running_mean = torch.randn(count, generator=generator)
    norm.running_var = torch.rand(count, generator=generator) + 1e-6
    if norm.affine:
        norm.weight = nn.Parameter(torch.randn(count, generator=generator))
        norm.bias = nn.Parameter(torch.randn(count, generator=generator))
    return norm


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), (2, 3, 6, 6)),
        (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), (2, 3, 6, 6)),
        (nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4, eps=0.1), (2, 4, 6, 6)),
        (nn.Linear(5, 4), nn.BatchNorm1d(4), (3, 5)),
        (nn.Conv1d(3, 4, 3, stride=2), nn.BatchNorm1d(4), (2, 3, 9)),
    ],
)
def test_a_folded_layer_computes_the_same(layer: nn.Module, norm: nn.Module, shape: Any) -> None:
    network = nn.Sequential(layer, with_statistics(norm)).double().eval()
    x = torch.randn(*shape, dtype=torch.float64)

    folded = fold_batchnorm(fx.symbolic_trace(network))

    assert not [module for module in folded.modules() if isinstance(module, type(norm))]
    torch.testing.assert_close(folded(x), network(x), rtol=1e-12, atol=1e-12)


def test_folding_leaves_the_original_alone() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), with_statistics(nn.BatchNorm2d(2))).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    fold_batchnorm(fx.symbolic_trace(network))

    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


class Shared(nn.Module):
    """A convolution that feeds a batch norm and something else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)
        self.bn = nn.BatchNorm2d(1)
        self.late = nn.BatchNorm2d(1)
        self.untracked_conv = nn.Conv2d(1, 1, 1)
        self.untracked = nn.BatchNorm2d(1, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        result: Tensor = self.untracked(self.untracked_conv(self.late(torch.relu(self.bn(y) + y))))
        return result


def test_all_that_cannot_be_folded_is_told_with_reasons() -> None:
    with pytest.raises(UnsupportedError) as raised:
        fold_batchnorm(fx.symbolic_trace(Shared()))

    text = str(raised.value)
    assert "3 problems" in text
    assert (
        "layer 'bn' must be the only one to use 'conv' to be folded into it, but its users are add, bn"
        in text
    )
    assert "layer 'late' needs a convolution or linear layer before it" in text
    assert "layer 'untracked' needs stored statistics to be folded, but it tracks none" in text


class Residual(nn.Module):
    """Batch norms on both branches of a sum, and a shortcut without any."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn_a = nn.Conv2d(2, 2, 3, padding=1), with_statistics(nn.BatchNorm2d(2))
        self.b, self.bn_b = nn.Conv2d(2, 2, 1), with_statistics(nn.BatchNorm2d(2))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.relu(self.bn_a(self.a(x)) + self.bn_b(self.b(x)) + x)
        return result


def test_both_branches_of_a_residual_block_fold() -> None:
    network = Residual().double().eval()
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)

    folded = fold_batchnorm(fx.symbolic_trace(network))

    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    torch.testing.assert_close(folded(x), network(x), rtol=1e-12, atol=1e-12)


class Twice(nn.Module):
    """One convolution under two batch norms, and one batch norm over two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.BatchNorm2d(1)
        self.a, self.b, self.shared = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(self.conv(x)) + self.two(self.conv(x + 1))
        result: Tensor = self.shared(self.a(y)) + self.shared(self.b(y))
        return result


def test_modules_that_are_called_twice_are_not_folded() -> None:
    with pytest.raises(UnsupportedError) as raised:
        fold_batchnorm(fx.symbolic_trace(Twice()))

    text = str(raised.value)
    assert (
        "layer 'one' needs 'conv' to be called once to be folded, but it is called 2 times" in text
    )
    assert "layer 'two' needs 'conv' to be called once" in text
    assert "layer 'shared' needs 'shared' to be called once" in text
