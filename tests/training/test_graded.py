"""Neurons that emit sigmoids train by their true gradient, and are refused by every exporter."""

from __future__ import annotations

import pytest
import torch

from neurocompile.data import InputRange
from neurocompile.errors import UnsupportedError
from neurocompile.frontend.fold_batchnorm import fold_batchnorm
from neurocompile.frontend.from_module import from_module
from neurocompile.frontend.to_nir import to_nir
from neurocompile.training.config import resolve
from neurocompile.training.graded import GradedNeuron
from neurocompile.training.networks import build, trace


def test_a_graded_neuron_follows_its_equations() -> None:
    current = torch.tensor([0.5, 1.5, -0.5, 1.0], dtype=torch.float64)

    emitted = GradedNeuron(0.5, 1.0, 2.0)(current[:, None], 4)

    v = 0.0
    for now, a in zip(current.tolist(), emitted.flatten().tolist(), strict=True):
        u = 0.5 * v + now
        assert a == pytest.approx(1 / (1 + 2.718281828459045 ** (-2 * (u - 1))))
        v = u * (1 - a)


def test_samples_are_the_major_axis() -> None:
    current = torch.randn(3, 4, 2)

    together = GradedNeuron()(current.flatten(0, 1), 4).reshape(3, 4, 2)

    for sample in range(3):
        torch.testing.assert_close(together[sample], GradedNeuron()(current[sample], 4))


def test_membranes_are_exact_in_mixed_precision() -> None:
    current = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).bfloat16()

    emitted = GradedNeuron()(current, 8)

    assert emitted.dtype == torch.bfloat16
    assert torch.equal(emitted, GradedNeuron()(current.float(), 8).bfloat16())


def test_gradients_are_those_of_finite_differences() -> None:
    current = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x: GradedNeuron()(x, 3), (current,))


def test_a_network_of_graded_neurons_trains_but_is_not_exported() -> None:
    torch.manual_seed(0)
    settings = resolve(preset="digits", overrides=["neuron.activation=sigmoid"])
    network = build(settings, (1, 8, 8), 10)
    network(torch.rand(2, 4, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())

    network.eval()
    folded = fold_batchnorm(trace(network.body), input_shape=(1, 8, 8))
    with pytest.raises(UnsupportedError) as error:
        to_nir(folded, (1, 8, 8), steps=4, input_range=InputRange(0, 1, 1 / 16))
    text = str(error.value)
    assert text.count("must spike to be exported, but a 'GradedNeuron' emits sigmoids") == 3
    assert "train with neuron.activation=step" in text
    with pytest.raises(UnsupportedError, match="needs layers of spiking neurons"):
        from_module(network.body, (1, 8, 8), steps=4)
