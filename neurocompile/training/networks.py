"""
Spiking networks by name.

A network is a `body` on tensors whose first axis is batch times steps (batch major), so that
convolutions, batch norms and pools see time as a larger batch, and only `LIF` knows about steps.
Batch norm is TET's: one statistic per channel over batch, time and space (section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn

from neurocompile.training.config import Convolutional, StageSettings, TrainSettings
from neurocompile.training.neurons import LIF
from neurocompile.training.surrogates import surrogate_of


class ConvolutionalBody(nn.Module):
    """Convolution, batch norm, LIF and pooling for each stage, then a linear read-out."""

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        stages: Sequence[StageSettings],
        lif: Callable[[], LIF],
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.depth = len(stages)
        for number, stage in enumerate(stages, start=1):
            convolution = nn.Conv2d(channels, stage.channels, stage.kernel, padding="same")
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", nn.BatchNorm2d(stage.channels))
            self.add_module(f"lif{number}", lif())
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
    """
    A body and the bookkeeping of time around it.

    `time_weights` (steps,) are those of the temporally weighted output (TWO); None counts all steps alike.
    """

    time_weights: Tensor | None

    def __init__(
        self, body: nn.Module, input_shape: Sequence[int], *, time_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.body = body
        self.input_shape = tuple(input_shape)
        self.register_buffer("time_weights", time_weights)

    def forward(self, x: Tensor) -> Tensor:
        """Return O(t), (batch, steps, classes), for `x` (batch, steps, *input shape)."""
        steps = x.shape[1]
        result: Tensor = self.body(x.flatten(0, 1), steps)
        return result.reshape(-1, steps, *result.shape[1:])

    def decision(self, outputs: Tensor) -> Tensor:
        """
        Return the read-out (batch, classes) of O(t), (batch, steps, classes): its weighted mean.

        Weights belong to one number of steps; for another the mean is plain (MSG/TWO).
        """
        if self.time_weights is None or len(self.time_weights) != outputs.shape[1]:
            return outputs.mean(1)
        return (self.time_weights[:, None] * outputs).mean(1)


def build(settings: TrainSettings, input_shape: Sequence[int], classes: int) -> SpikingNetwork:
    """Return the untrained network of `settings` for inputs (channels, height, width)."""
    assert isinstance(settings.network, Convolutional)
    neuron, surrogate = settings.neuron, surrogate_of(settings)

    def lif() -> LIF:
        return LIF(
            1.0 if neuron.kind == "if" else neuron.tau,
            neuron.threshold,
            surrogate,
            detach_reset=neuron.detach_reset,
            learn_tau=neuron.learn_tau,
        )

    body = ConvolutionalBody(input_shape, classes, settings.network.stages, lif)
    weights = None if settings.two is None else torch.ones(settings.timesteps)
    return SpikingNetwork(body, input_shape, time_weights=weights)


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
