"""Batch norms: what they compute, how they start, and that they fold exactly."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from neurocompile.frontend.fold_batchnorm import fold_batchnorm
from neurocompile.frontend.modules.channel_affine import OWN_FORWARDS
from neurocompile.training.config import NormalisationSettings, resolve
from neurocompile.training.networks import build, spikes_of, trace
from neurocompile.training.normalisation import (
    ScaledBatchNorm2d,
    batch_norm,
    processes,
    synchronise,
    unmoved_statistics,
)

KINDS = ("bn", "tdbn", "tdbn-init")


@pytest.fixture
def made() -> Callable[..., nn.BatchNorm2d]:
    """Makes the batch norm of a kind for three channels."""

    def make(kind: str, *, threshold: float = 0.5, summed: bool = False) -> nn.BatchNorm2d:
        settings = NormalisationSettings(kind=kind)  # type: ignore[arg-type]
        return batch_norm(settings, 3, threshold=threshold, summed=summed)

    return make


@pytest.mark.parametrize("summed", [False, True])
def test_what_comes_out_has_the_deviation_of_the_threshold(
    made: Callable[..., nn.BatchNorm2d], *, summed: bool
) -> None:
    x = 3 + 2 * torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = {"bn": 1.0, "tdbn": 0.5, "tdbn-init": 0.5}

    for kind in KINDS:
        deviation = made(kind, summed=summed)(x).std((0, 2, 3), correction=0)
        alpha = 1 / math.sqrt(2) if summed and kind != "bn" else 1.0
        torch.testing.assert_close(deviation, torch.full((3,), alpha * expected[kind]))


def test_only_the_first_way_keeps_its_factor(made: Callable[..., nn.BatchNorm2d]) -> None:
    """One step of gradient descent tells them apart: the factor scales gamma's gradient too."""
    x = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    gradients = {}
    for kind in KINDS:
        norm = made(kind)
        (norm(x) * x).sum().backward()
        assert norm.weight.grad is not None
        gradients[kind] = norm.weight.grad

    assert torch.equal(made("tdbn").weight, torch.ones(3))
    assert torch.equal(made("tdbn-init").weight.detach(), torch.full((3,), 0.5))
    torch.testing.assert_close(gradients["tdbn"], 0.5 * gradients["bn"])
    torch.testing.assert_close(gradients["tdbn-init"], gradients["bn"])


def test_a_factor_beside_gamma_is_no_factor_of_beta() -> None:
    norm, plain = ScaledBatchNorm2d(3, 0.7), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 2, 2)
    with torch.no_grad():
        for values in (norm, plain):
            values.bias[:] = torch.tensor([1.0, 2.0, 3.0])
        plain.weight[:] = 0.7

    for _ in range(2):
        torch.testing.assert_close(norm(x), plain(x))
    norm.eval()
    plain.eval()
    torch.testing.assert_close(norm(x), plain(x))
    assert torch.equal(norm.running_var, plain.running_var)  # type: ignore[arg-type]
    assert norm.num_batches_tracked == 2
    assert "factor=0.7" in repr(norm)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_folds_exactly(kind: str) -> None:
    """In float64, with a residual network whose branches are scaled by 1/sqrt(2)."""
    torch.manual_seed(0)
    chosen = [
        f"normalisation.kind={kind}",
        "network.name=resnet19",
        "network.width=0.05",
        "neuron.threshold=0.5",
    ]
    network = build(resolve(preset="digits", overrides=chosen), (2, 8, 8), 3).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.weight, 1, 0.3)
    x = torch.rand(4, 2, 2, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(3):
            network(x)

    outputs, spikes = spikes_of(network, x)
    folded = fold_batchnorm(trace(network.body), input_shape=(2, 8, 8))

    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        after = folded(x.flatten(0, 1), 2).reshape_as(outputs)
    torch.testing.assert_close(after, outputs, rtol=0, atol=1e-10)
    assert any(0 < float(fired.mean()) < 1 for fired in spikes.values())


def test_ours_is_folded_by_its_parameters() -> None:
    assert ScaledBatchNorm2d.forward in OWN_FORWARDS


def test_synchronised_networks_compute_the_same_in_one_process() -> None:
    torch.manual_seed(0)
    network = build(resolve(preset="digits"), (1, 8, 8), 10)
    x = torch.rand(4, 2, 1, 8, 8)
    outputs: list[Tensor] = []
    names = list(network.state_dict())
    parameters = list(network.parameters())

    for _ in range(2):
        stored = {name: value.clone() for name, value in network.state_dict().items()}
        outputs.append(network(x))
        network.load_state_dict(stored)
        synchronise(network)

    assert processes() == 1
    assert torch.equal(*outputs)
    assert list(network.state_dict()) == names
    assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True))
    norms = [item for item in network.modules() if isinstance(item, nn.BatchNorm2d)]
    assert all(isinstance(norm, ScaledBatchNorm2d) and norm.synchronised for norm in norms)


def test_statistics_can_be_left_alone() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), ScaledBatchNorm2d(3, 0.5))
    x = torch.randn(4, 3, 2, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    with unmoved_statistics(network):
        alone = network(x)

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    torch.testing.assert_close(alone, network(x))
    assert not torch.equal(network.state_dict()["0.running_mean"], before["0.running_mean"])
