"""Networks as sequences: samples and steps stay apart, and digits has its published shape."""

from __future__ import annotations

import torch

from neurocompile.training.config import resolve
from neurocompile.training.networks import build, spikes_of
from neurocompile.training.neurons import LIF


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
