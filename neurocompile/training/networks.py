"""
Spiking networks by name.

A network is a `body` on tensors whose first axis is batch times steps (batch major), so that
convolutions, batch norms and pools see time as a larger batch, and only `LIF` knows about steps.
Batch norm is TET's: one statistic per channel over batch, time and space (section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from neurocompile.training.config import NeuronSettings, StageSettings, TrainSettings
from neurocompile.training.neurons import LIF


class ConvolutionalBody(nn.Module):
    """Convolution, batch norm, LIF and pooling for each stage, then a linear read-out."""

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        stages: Sequence[StageSettings],
        neuron: NeuronSettings,
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.depth = len(stages)
        for number, stage in enumerate(stages, start=1):
            convolution = nn.Conv2d(channels, stage.channels, stage.kernel, padding="same")
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", nn.BatchNorm2d(stage.channels))
            self.add_module(
                f"lif{number}",
                LIF(neuron.tau, neuron.threshold, neuron.surrogate_width, neuron.detach_reset),
            )
            if stage.pool > 1:
                self.add_module(f"pool{number}", nn.AvgPool2d(stage.pool))
            channels = stage.channels
            height, width = height // stage.pool, width // stage.pool
        self.flatten = nn.Flatten()
        self.readout = nn.Linear(channels * height * width, classes)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Return O(t) as (batch * steps, classes) for `x` (batch * steps, channels, h, w)."""
        for number in range(1, self.depth + 1):
            x = getattr(self, f"conv{number}")(x)
            x = getattr(self, f"bn{number}")(x)
            x = getattr(self, f"lif{number}")(x, steps)
            if hasattr(self, f"pool{number}"):
                x = getattr(self, f"pool{number}")(x)
        result: Tensor = self.readout(self.flatten(x))
        return result


class SpikingNetwork(nn.Module):
    """A body and the bookkeeping of time around it."""

    def __init__(self, body: nn.Module, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.input_shape = tuple(input_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return O(t), (batch, steps, classes), for `x` (batch, steps, *input shape)."""
        steps = x.shape[1]
        result: Tensor = self.body(x.flatten(0, 1), steps)
        return result.reshape(-1, steps, *result.shape[1:])


def build(settings: TrainSettings, input_shape: Sequence[int], classes: int) -> SpikingNetwork:
    """Return the untrained network of `settings` for inputs (channels, height, width)."""
    body = ConvolutionalBody(input_shape, classes, settings.stages, settings.neuron)
    return SpikingNetwork(body, input_shape)


class BodyTracer(fx.Tracer):
    """Records the modules of a body and how they are wired; neurons stay whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LIF) or super().is_leaf_module(m, module_qualified_name)


def trace(body: nn.Module) -> fx.GraphModule:
    """Return `body` as a graph of its modules, sharing its parameters."""
    return fx.GraphModule(body, BodyTracer().trace(body))


@torch.no_grad()
def spikes_of(network: SpikingNetwork, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """
    Return O(t) and the spikes of every LIF by module name, for `x` (batch, steps, *input shape).

    Runs in evaluation mode, and leaves the network in the mode it was in.
    """
    steps = x.shape[1]
    spikes: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: spikes.update(
                {name: output.reshape(-1, steps, *output.shape[1:])}
            )
        )
        for name, module in network.body.named_modules()
        if isinstance(module, LIF)
    ]
    was_training = network.training
    network.eval()
    try:
        outputs = network(x)
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return outputs, spikes
