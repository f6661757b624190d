"""
Spiking networks by name.

A network is a `body` on tensors whose first axis is batch times steps (batch major), so that
convolutions, batch norms and pools see time as a larger batch, and only `LIF` knows about steps.
Batch norm is over batch, time and space: one statistic per channel (TET section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from neurocompile.errors import Problem
from neurocompile.training.architectures import (
    Body,
    ConvolutionalBody,
    DenseBody,
    Parts,
    Residual,
    ResidualBody,
    Stage,
    Stages,
)
from neurocompile.training.config import (
    Convolutional,
    Dense,
    ResNet18Dvs,
    ResNet19,
    SewResNet34,
    Snn5,
    SpikingResNet34,
    TrainSettings,
    VggSnn,
)
from neurocompile.training.graded import GradedNeuron
from neurocompile.training.neurons import LIF
from neurocompile.training.normalisation import batch_norm, processes
from neurocompile.training.surrogates import surrogate_of

PlannedSettings = (
    Convolutional | Snn5 | VggSnn | ResNet19 | SpikingResNet34 | SewResNet34 | ResNet18Dvs
)
ChannelStatistics = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of each

SNN5 = ((16, 3, 1), (64, 5, 2), (128, 5, 2), (256, 5, 2), (512, 3, 2))  # channels, kernel, pool
VGG = (64, 128, 256, 256, 512, 512, 512, 512)  # channels; every second convolution shrinks
MULTIPLES = "crop or resize the images to multiples of 16"


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
        """
        Return O(t), (batch, steps, classes), for `x` (batch, steps, *input shape).

        If `x` is expanded over the steps, which are then the same memory, what comes before the first
        neurons is computed once; the result is the same.
        """
        steps = x.shape[1]
        if isinstance(self.body, Body) and self._repeats(x):
            current = self.body.currents(x[:, 0], steps)
            shown = current.unsqueeze(1).expand(-1, steps, *current.shape[1:])
            result: Tensor = self.body.outputs(shown.flatten(0, 1), steps)
        else:
            result = self.body(x.flatten(0, 1), steps)
        return result.reshape(-1, steps, *result.shape[1:])

    def _repeats(self, x: Tensor) -> bool:
        """Whether all steps are one and the same, and no other process's statistics are counted."""
        return x.shape[1] > 1 and x.stride(1) == 0 and not (self.training and processes() > 1)

    def decision(self, outputs: Tensor) -> Tensor:
        """
        Return the read-out (batch, classes) of O(t), (batch, steps, classes): its weighted mean.

        Weights belong to one number of steps; for another the mean is plain (MSG/TWO).
        """
        if self.time_weights is None or len(self.time_weights) != outputs.shape[1]:
            return outputs.mean(1)
        return (self.time_weights[:, None] * outputs).mean(1)


def build(
    settings: TrainSettings,
    input_shape: Sequence[int],
    classes: int,
    normalise: ChannelStatistics | None = None,
) -> SpikingNetwork:
    """
    Return the untrained network of `settings` for inputs of `input_shape`, (channels, height, width).

    `normalise` are the mean and the standard deviation of each channel: x becomes (x - mean) / deviation
    in a first layer that is not trained, so that a deployed network takes the inputs as they are.
    `check_shapes` tells which shapes fit.
    """
    shape = tuple(input_shape)
    parts, network = _parts(settings), settings.network
    body: Body
    if isinstance(network, Dense):
        body = DenseBody(shape, classes, network.hidden, parts)
    else:
        plan = plan_of(network)
        if isinstance(plan, Stages):
            body = ConvolutionalBody(shape, classes, plan, parts)
        else:
            body = ResidualBody(shape, classes, plan, parts)
    if normalise is not None:
        body.normalise = _normaliser(*normalise)
    weights = None if settings.two is None else torch.ones(settings.timesteps)
    return SpikingNetwork(body, shape, time_weights=weights)


def check_shapes(settings: TrainSettings, input_shape: Sequence[int]) -> list[Problem]:
    """
    Return what keeps inputs of `input_shape` out of the network of `settings`, which is nothing if they fit.

    Average pools must divide what they get: the pixels left over would be lost.
    """
    if isinstance(settings.network, Dense):
        return []
    if len(input_shape) != 3:
        return [
            Problem(
                "",
                f"the network '{settings.network.name}' needs images (channels, height, width)",
                f"it gets {tuple(input_shape)}",
                "choose the network 'dense'",
            )
        ]
    _, height, width = input_shape
    return list(plan_of(settings.network).problems((height, width)))


def plan_of(network: PlannedSettings) -> Stages | Residual:
    """Return what a network with convolutions is made of; its `width` scales the published channels."""
    if isinstance(network, Convolutional):
        stages = tuple(
            Stage(stage.channels, stage.kernel, pool=stage.pool) for stage in network.stages
        )
        return Stages(stages, "crop or resize the images, or leave out a pool with --config")

    def scaled(channels: int) -> int:
        return max(1, round(channels * network.width))

    channels = (scaled(64), scaled(128), scaled(256), scaled(512))
    match network:
        case Snn5():
            stages = tuple(Stage(scaled(full), kernel, pool=pool) for full, kernel, pool in SNN5)
            return Stages(stages, MULTIPLES)
        case VggSnn():
            shrinks = "pool" if network.pooling == "average" else "stride"
            stages = tuple(
                Stage(scaled(full), 3, **{shrinks: 1 + number % 2})
                for number, full in enumerate(VGG)
            )
            return Stages(stages, f"{MULTIPLES}, or set network.pooling to stride")
        case ResNet19():
            return Residual(
                stem=(Stage(scaled(network.stem_channels), 3),),
                channels=channels[1:],
                blocks=(3, 3, 2),
                strides=(1, 2, 2),
                hidden=scaled(network.hidden) if network.hidden else 0,
            )
        case SpikingResNet34():
            pools = network.stem == "maxpool"
            return Residual(
                stem=(Stage(scaled(64), 7, 2),),
                channels=channels,
                blocks=network.blocks,
                strides=(1 if pools else 2, 2, 2, 2),
                pool="max" if pools else None,
            )
        case SewResNet34():
            return Residual(
                stem=(Stage(scaled(64), 7, 2),),
                channels=channels,
                blocks=network.blocks,
                strides=(1, 2, 2, 2),
                pool="max",
                adds="spikes",
            )
        case ResNet18Dvs():
            modified = network.layout == "modified"
            return Residual(
                stem=(Stage(scaled(64), 3),) * (3 if modified else 1),
                channels=channels,
                blocks=(2, 2, 2, 2),
                strides=(1, 2, 2, 2),
                pool="average" if modified else None,
                averaged=modified,
                still=modified,
                remedy=MULTIPLES,
            )


def _parts(settings: TrainSettings) -> Parts:
    neuron, surrogate = settings.neuron, surrogate_of(settings)
    tau = 1.0 if neuron.kind == "if" else neuron.tau

    def neurons() -> nn.Module:
        if neuron.activation == "sigmoid":
            return GradedNeuron(tau, neuron.threshold, neuron.steepness)
        return LIF(
            tau,
            neuron.threshold,
            surrogate,
            detach_reset=neuron.detach_reset,
            learn_tau=neuron.learn_tau,
        )

    def norm(channels: int, *, summed: bool = False) -> nn.BatchNorm2d:
        return batch_norm(
            settings.normalisation, channels, threshold=neuron.threshold, summed=summed
        )

    return Parts(neurons, norm, settings.initialisation)


def _normaliser(mean: Sequence[float], deviation: Sequence[float]) -> nn.Conv2d:
    """Return (x - mean) / deviation as a convolution of 1x1 and one channel each, which is not trained."""
    # made without memory: its weights would be drawn, and change what is drawn after them
    made = nn.Conv2d(len(mean), len(mean), 1, groups=len(mean), device="meta")
    scale = 1 / torch.tensor(deviation, dtype=torch.float64)
    shift = -torch.tensor(mean, dtype=torch.float64) * scale
    made.weight = nn.Parameter(scale.float().reshape(-1, 1, 1, 1), requires_grad=False)
    made.bias = nn.Parameter(shift.float(), requires_grad=False)
    return made


def weights_of(network: nn.Module) -> tuple[float, ...] | None:
    """Return the weights that `network` gives the time steps in its decision; None: it has none."""
    if not isinstance(network, SpikingNetwork) or network.time_weights is None:
        return None
    return tuple(network.time_weights.double().tolist())


class BodyTracer(fx.Tracer):
    """Records the modules of a body and how they are wired; neurons stay whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LIF | GradedNeuron | nn.BatchNorm2d) or super().is_leaf_module(
            m, module_qualified_name
        )


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
