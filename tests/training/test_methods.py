"""Neurons, surrogate, loss and network, against the formulas of the TET paper."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from neurocompile.training.config import resolve
from neurocompile.training.losses import tet_loss
from neurocompile.training.networks import build, spikes_of
from neurocompile.training.neurons import LIF, lif_sequence
from neurocompile.training.surrogates import Triangle


def test_the_hand_sequence_of_the_neuron() -> None:
    """u = .6 1.1 0 1.0 1.7 2.0: a membrane at exactly 1 does not fire."""
    current = torch.tensor([0.6, 0.8, 0.0, 1.0, 1.2, 2.0]).reshape(1, 6, 1)

    spikes = lif_sequence(current, tau=0.5, threshold=1.0, surrogate=Triangle())

    assert spikes.flatten().tolist() == [0, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_the_triangle_has_area_one_and_its_peak_at_the_threshold(width: float) -> None:
    x = torch.linspace(-3, 3, 60001, dtype=torch.float64)

    slope = Triangle(width).slope(x)

    assert float(torch.trapezoid(slope, x)) == pytest.approx(1, abs=1e-6)
    assert float(slope.max()) == pytest.approx(1 / width, rel=1e-3)
    assert float(slope[x.abs() > width].sum()) == 0


@pytest.mark.parametrize("detach", [False, True])
def test_gradients_follow_the_recursion(detach: bool) -> None:
    """Gu[t] = Ga[t] g[t] + tau Gu[t+1] k[t], k = (1 - a) - u g attached, 1 - a detached."""
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(3, 6, 5, generator=generator, dtype=torch.float64).requires_grad_()
    arriving = torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)

    spikes = lif_sequence(
        current, tau=0.5, threshold=1.0, surrogate=Triangle(), detach_reset=detach
    )
    torch.autograd.backward(spikes, arriving)

    membranes, v = [], torch.zeros(3, 5, dtype=torch.float64)
    for t in range(6):
        u = 0.5 * v + current[:, t].detach()
        membranes.append(u)
        v = u * (u <= 1)
    expected = torch.zeros(3, 6, 5, dtype=torch.float64)
    later = torch.zeros(3, 5, dtype=torch.float64)
    for t in reversed(range(6)):
        u = membranes[t]
        g = (1 - (u - 1).abs()).clamp(min=0)
        k = (u <= 1).double() - (0 if detach else u * g)
        later = arriving[:, t] * g + 0.5 * later * k
        expected[:, t] = later
    assert current.grad is not None
    torch.testing.assert_close(current.grad, expected, rtol=0, atol=1e-12)


def test_the_loss_is_equation_13() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(5, 4, 3, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1])

    per_moment = [nn.functional.cross_entropy(outputs[:, t], labels) for t in range(4)]
    regulariser = torch.stack([((outputs[:, t] - 1) ** 2).mean() for t in range(4)]).mean()
    expected: Tensor = 0.95 * torch.stack(per_moment).mean() + 0.05 * regulariser

    torch.testing.assert_close(tet_loss(outputs, labels, mse_weight=0.05, mse_target=1.0), expected)


def test_tet_is_never_below_the_loss_of_the_mean() -> None:
    """The lemma of TET section 4.1: true by convexity of logsumexp, whatever the paper's proof."""
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 10.0):
        outputs = scale * torch.randn(200, 6, 5, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 5, (200,), generator=generator)
        of_the_mean = nn.functional.cross_entropy(outputs.mean(1), labels)

        assert tet_loss(outputs, labels, mse_weight=0, mse_target=1) >= of_the_mean - 1e-9


def test_samples_and_steps_do_not_mix() -> None:
    settings = resolve(preset="digits")
    network = build(settings, (1, 8, 8), 10)
    x = torch.rand(3, 4, 1, 8, 8)

    together, spikes = spikes_of(network, x)
    alone, _ = spikes_of(network, x[1:2])
    earlier, _ = spikes_of(network, x[:, :2])

    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together[:, :2], earlier, rtol=0, atol=1e-5)
    assert {name: tuple(values.shape) for name, values in spikes.items()} == {
        "lif1": (3, 4, 16, 8, 8), "lif2": (3, 4, 32, 8, 8), "lif3": (3, 4, 64, 4, 4),
    }  # fmt: skip
    assert network.training


def test_the_digits_network_has_the_shape_of_snn_5() -> None:
    network = build(resolve(preset="digits"), (1, 8, 8), 10)

    kinds = [type(module).__name__ for module in network.body.children()]
    assert kinds == [
        "Conv2d", "BatchNorm2d", "LIF",
        "Conv2d", "BatchNorm2d", "LIF", "AvgPool2d",
        "Conv2d", "BatchNorm2d", "LIF", "AvgPool2d",
        "Flatten", "Linear",
    ]  # fmt: skip
    assert sum(parameter.numel() for parameter in network.parameters()) == 26_090
    neuron = next(module for module in network.modules() if isinstance(module, LIF))
    assert (neuron.tau, neuron.threshold, neuron.detach_reset) == (0.5, 1.0, False)
