"""
The spiking networks of the papers, as bodies for `SpikingNetwork`.

    ConvolutionalBody   stages of a convolution, batch norm, neurons and an average pool: the digits
                        network, SNN-5 and VGGSNN (TET section 5)
    DenseBody           hidden layers of neurons, without batch norms
    ResidualBody        a stem, blocks with shortcuts and a global average pool: ResNet-19 (Zheng 2021,
                        TET), Spiking-ResNet34, SEW-ResNet34 (Fang 2021), ResNet-18 for event data

A plan (`Stages`, `Residual`) says what a network is made of, `width` scaling its channels; `Parts` are
the layers that settings ask for. Images may be of any size that the plan's average pools divide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from neurocompile.errors import Problem
from neurocompile.integer import Shape
from neurocompile.training.initialisation import Initialisation, initialise

Size = tuple[int, int]  # height and width


@dataclass(frozen=True)
class Stage:
    """A convolution with batch norm and neurons, and the average pooling after it (1 is none)."""

    channels: int
    kernel: int
    stride: int = 1
    pool: int = 1


@dataclass(frozen=True)
class Stages:
    """The plan of a `ConvolutionalBody`; `remedy` is for images that its pools do not divide."""

    stages: tuple[Stage, ...]
    remedy: str

    def problems(self, size: Size) -> Iterator[Problem]:
        """Yield what keeps images of `size` out, in the order of the layers."""
        for number, stage in enumerate(self.stages, start=1):
            size = _strided(size, stage.stride)
            if any(extent % stage.pool for extent in size):
                yield _indivisible(f"pool{number}", stage.pool, size, self.remedy)
                return
            size = size[0] // stage.pool, size[1] // stage.pool

    def last_size(self, size: Size) -> Size:
        """Return the height and width behind the last stage, for images of `size`."""
        for stage in self.stages:
            height, width = _strided(size, stage.stride)
            size = height // stage.pool, width // stage.pool
        return size


@dataclass(frozen=True)
class Residual:
    """
    The plan of a `ResidualBody`.

    `stem` and the pool behind it ("max" is 3x3 with stride 2, of spikes; "average" is 2x2); of each
    stage of blocks the channels, the number of blocks and the stride of the first one; `hidden` neurons
    before the read-out (0: none). `adds` tells where shortcuts end: in the membrane of a block's last
    neurons, or, with neurons of their own, in what these fire (SEW). `averaged` shortcuts shrink by an
    average pool, not by the stride of their convolution; `still` blocks begin as their shortcuts, as the
    weight of their last batch norm is 0. `remedy` is for images that average pools do not divide.
    """

    stem: tuple[Stage, ...]
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    strides: tuple[int, ...]
    pool: Literal["max", "average"] | None = None
    hidden: int = 0
    adds: Literal["membranes", "spikes"] = "membranes"
    averaged: bool = False
    still: bool = False
    remedy: str = "crop or resize the images"

    def places(self) -> Iterator[tuple[int, int, int]]:
        """Yield channels before and behind, and the stride, of each block."""
        inputs = self.stem[-1].channels
        for outputs, count, stride in zip(self.channels, self.blocks, self.strides, strict=True):
            for number in range(count):
                yield inputs, outputs, 1 if number else stride
                inputs = outputs

    def problems(self, size: Size) -> Iterator[Problem]:
        """Yield what keeps images of `size` out, in the order of the layers."""
        for stage in self.stem:
            size = _strided(size, stage.stride)
        if self.pool == "average" and any(extent % 2 for extent in size):
            yield _indivisible("pool", 2, size, self.remedy)
            return
        size = _strided(size, 1 if self.pool is None else 2)
        for number, (_, _, stride) in enumerate(self.places()):
            if self.averaged and any(extent % stride for extent in size):
                yield _indivisible(f"blocks.{number}.short_pool", stride, size, self.remedy)
                return
            size = _strided(size, stride)

    def last_size(self, size: Size) -> Size:
        """Return the height and width behind the last block, for images of `size`."""
        before = [stage.stride for stage in self.stem]
        blocks = [stride for _, _, stride in self.places()]
        for stride in (*before, 1 if self.pool is None else 2, *blocks):
            size = _strided(size, stride)
        return size


def _strided(size: Size, stride: int) -> Size:
    """Return the size behind odd kernels that are padded to keep it, with a stride: rounded up."""
    return -(-size[0] // stride), -(-size[1] // stride)


def _indivisible(layer: str, pool: int, size: Size, remedy: str) -> Problem:
    need = f"needs an image that it divides by {pool}"
    return Problem(layer, need, f"it gets {size[0]} x {size[1]}", remedy)


class Norms(Protocol):
    """What makes the batch norm of some channels; `summed`: its result is added to another's."""

    def __call__(self, channels: int, *, summed: bool = False) -> nn.BatchNorm2d: ...


@dataclass(frozen=True)
class Parts:
    """What makes the layers of a body."""

    neurons: Callable[[], nn.Module]
    norm: Norms
    initialisation: Initialisation = "kaiming"

    def convolution(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, bias: bool = False
    ) -> nn.Conv2d:
        """Return a convolution with an odd kernel that keeps the size of its input, but for its stride."""
        made = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)
        initialise(made, self.initialisation)
        return made


def normalised(norm: nn.BatchNorm2d, x: Tensor, repeats: int) -> Tensor:
    """
    Return `norm` of `x`, and leave the running statistics that so many copies of `x` would leave.

    Mean and variance of n values and of `repeats` n are the same; but what is stored is the unbiased
    variance, whose factor n / (n - 1) counts them.
    """
    if repeats == 1 or not (norm.training and norm.track_running_stats):
        result: Tensor = norm(x)
        return result
    assert norm.running_var is not None
    before = norm.running_var.clone()
    result = norm(x)
    share = norm.momentum
    if share is None:  # the mean over all batches
        assert norm.num_batches_tracked is not None
        share = 1 / float(norm.num_batches_tracked)
    count = x.numel() // x.shape[1]
    unbiased = (count - 1) * repeats / (count * repeats - 1)
    kept = (1 - share) * before
    # past autograd, which kept the buffer, but does not look at it: in training, batches are what counts
    norm.running_var.data.copy_(kept + (norm.running_var - kept) * unbiased)
    return result


class Body(nn.Module):
    """
    A network from its input, (batch * steps, *input shape), to O(t), (batch * steps, classes).

    `normalise`, if there is one, is the first layer. What a body computes is `currents`, which is what
    the first neurons get and knows nothing of time, and then `outputs`.
    """

    normalise: nn.Conv2d | None

    def __init__(self) -> None:
        super().__init__()
        self.register_module("normalise", None)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Return O(t) as (batch * steps, classes) for `x` (batch * steps, *input shape), batch major."""
        return self.outputs(self.currents(x), steps)

    def currents(self, x: Tensor, repeats: int = 1) -> Tensor:
        """
        Return what the first layer of neurons gets.

        In training, batch norms count `x` as so many equal ones: images that are shown at each step.
        """
        return self.encoded(x if self.normalise is None else self.normalise(x), repeats)

    def encoded(self, x: Tensor, repeats: int) -> Tensor:
        """Return what the first layer of neurons gets of a normalised input."""
        raise NotImplementedError

    def outputs(self, current: Tensor, steps: int) -> Tensor:
        """Return O(t) of what the first layer of neurons gets."""
        raise NotImplementedError


class StagedBody(Body):
    """A body that begins with convolutions: `conv1`, `bn1`, `lif1`, `conv2`, ..."""

    def add_stage(
        self, number: int, inputs: int, stage: Stage, parts: Parts, *, bias: bool
    ) -> None:
        """Make the layers of `stage`, but for its pool."""
        convolution = parts.convolution(
            inputs, stage.channels, stage.kernel, stage.stride, bias=bias
        )
        self.add_module(f"conv{number}", convolution)
        self.add_module(f"bn{number}", parts.norm(stage.channels))
        self.add_module(f"lif{number}", parts.neurons())

    def encoded(self, x: Tensor, repeats: int) -> Tensor:
        """Return what the first layer of neurons gets of a normalised input."""
        return self.current(x, 1, repeats)

    def current(self, x: Tensor, number: int, repeats: int = 1) -> Tensor:
        """Return what the neurons of a stage get."""
        return normalised(getattr(self, f"bn{number}"), getattr(self, f"conv{number}")(x), repeats)


class ConvolutionalBody(StagedBody):
    """Convolution, batch norm, neurons and pooling for each stage, then a linear read-out."""

    def __init__(self, input_shape: Shape, classes: int, plan: Stages, parts: Parts) -> None:
        super().__init__()
        channels, *size = input_shape
        self.depth = len(plan.stages)
        for number, stage in enumerate(plan.stages, start=1):
            self.add_stage(number, channels, stage, parts, bias=True)
            if stage.pool > 1:
                self.add_module(f"pool{number}", nn.AvgPool2d(stage.pool))
            channels = stage.channels
        height, width = plan.last_size((size[0], size[1]))
        self.flatten = nn.Flatten()
        self.readout = nn.Linear(channels * height * width, classes)

    def outputs(self, current: Tensor, steps: int) -> Tensor:
        """Return O(t) of what the first layer of neurons gets."""
        for number in range(1, self.depth + 1):
            x = getattr(self, f"lif{number}")(current, steps)
            if hasattr(self, f"pool{number}"):
                x = getattr(self, f"pool{number}")(x)
            if number < self.depth:
                current = self.current(x, number + 1)
        result: Tensor = self.readout(self.flatten(x))
        return result


class DenseBody(Body):
    """Linear layers with neurons behind all but the last, the read-out."""

    def __init__(
        self, input_shape: Shape, classes: int, hidden: Sequence[int], parts: Parts
    ) -> None:
        super().__init__()
        inputs = math.prod(input_shape)
        self.flatten = nn.Flatten()
        self.depth = len(hidden)
        for number, outputs in enumerate(hidden, start=1):
            self.add_module(f"fc{number}", nn.Linear(inputs, outputs))
            self.add_module(f"lif{number}", parts.neurons())
            inputs = outputs
        self.readout = nn.Linear(inputs, classes)

    def encoded(self, x: Tensor, repeats: int) -> Tensor:  # noqa: ARG002 - nothing counts here
        """Return what the first layer of neurons gets of a normalised input."""
        result: Tensor = self.get_submodule("fc1")(self.flatten(x))
        return result

    def outputs(self, current: Tensor, steps: int) -> Tensor:
        """Return O(t) of what the first layer of neurons gets."""
        for number in range(1, self.depth + 1):
            x = getattr(self, f"lif{number}")(current, steps)
            layer = self.readout if number == self.depth else getattr(self, f"fc{number + 1}")
            current = layer(x)
        return current


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm and neurons, and a shortcut, as a plan says."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, plan: Residual, parts: Parts
    ) -> None:
        super().__init__()
        self.sew = plan.adds == "spikes"
        self.conv1 = parts.convolution(inputs, outputs, 3, stride)
        self.bn1, self.lif1 = parts.norm(outputs), parts.neurons()
        self.conv2 = parts.convolution(outputs, outputs, 3)
        self.bn2, self.lif2 = parts.norm(outputs, summed=not self.sew), parts.neurons()
        if plan.still:
            nn.init.zeros_(self.bn2.weight)
        self.changes = stride > 1 or inputs != outputs
        self.averages = plan.averaged and stride > 1
        if self.averages:
            self.short_pool = nn.AvgPool2d(stride)
        if self.changes:
            self.short = parts.convolution(inputs, outputs, 1, 1 if plan.averaged else stride)
            self.short_bn = parts.norm(outputs, summed=not self.sew)
        if self.changes and self.sew:
            self.short_lif = parts.neurons()

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Return what leaves, for `x` (batch * steps, channels, h, w), batch major."""
        y = self.bn2(self.conv2(self.lif1(self.bn1(self.conv1(x)), steps)))
        if self.averages:
            x = self.short_pool(x)
        if self.changes:
            x = self.short_bn(self.short(x))
            if self.sew:
                x = self.short_lif(x, steps)
        result: Tensor = self.lif2(y, steps) + x if self.sew else self.lif2(y + x, steps)
        return result


class ResidualBody(StagedBody):
    """A stem, blocks, the average over the image, and one or two dense layers."""

    def __init__(self, input_shape: Shape, classes: int, plan: Residual, parts: Parts) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.depth = len(plan.stem)
        for number, stage in enumerate(plan.stem, start=1):
            self.add_stage(number, channels, stage, parts, bias=False)
            channels = stage.channels
        self.pool: nn.Module | None = None
        if plan.pool is not None:
            self.pool = nn.MaxPool2d(3, 2, 1) if plan.pool == "max" else nn.AvgPool2d(2)
        self.blocks = nn.ModuleList(Block(*place, plan, parts) for place in plan.places())
        # not an adaptive pool: that rounds otherwise, and NIR has none
        self.average = nn.AvgPool2d(plan.last_size((height, width)))
        self.flatten = nn.Flatten()
        features = plan.channels[-1]
        self.fc: nn.Module | None = None
        if plan.hidden:
            self.fc, self.lif = nn.Linear(features, plan.hidden), parts.neurons()
        self.readout = nn.Linear(plan.hidden or features, classes)

    def outputs(self, current: Tensor, steps: int) -> Tensor:
        """Return O(t) of what the first layer of neurons gets."""
        for number in range(1, self.depth + 1):
            x = getattr(self, f"lif{number}")(current, steps)
            if number < self.depth:
                current = self.current(x, number + 1)
        if self.pool is not None:
            x = self.pool(x)
        for block in self.blocks:
            x = block(x, steps)
        x = self.flatten(self.average(x))
        if self.fc is not None:
            x = self.lif(self.fc(x), steps)
        result: Tensor = self.readout(x)
        return result
