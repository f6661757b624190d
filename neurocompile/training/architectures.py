"""
The deep spiking networks of the TET paper and its sources, as bodies for `SpikingNetwork`.

    ResNet19     TET's CIFAR network: shortcuts are added to the membrane (Zheng 2021, TET)
    SewResNet    spike-element-wise ResNet: shortcuts are added to the spikes (Fang 2021)
    VggSnn       eight convolutions with average pools, for event data

`width` scales all channel numbers and `size` is the input's height and width, so that small ones can be
tested; the defaults are the published networks, with their numbers of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from neurocompile.training.neurons import LIF


class Block(nn.Module):
    """
    Two convolutions with batch norm and LIF, and a shortcut.

    The shortcut is added to the membrane of the second LIF (ResNet-19), or, as spikes, to its spikes
    (SEW); where the shape changes, it is a 1x1 convolution with batch norm (and LIF, for SEW).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, sew: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.lif1 = nn.BatchNorm2d(outputs), LIF()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2, self.lif2 = nn.BatchNorm2d(outputs), LIF()
        self.sew = sew
        self.changes = stride > 1 or inputs != outputs
        if self.changes:
            self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.short_bn = nn.BatchNorm2d(outputs)
            if sew:
                self.short_lif = LIF()

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Return what leaves, for `x` (batch * steps, channels, h, w), batch major."""
        y = self.bn2(self.conv2(self.lif1(self.bn1(self.conv1(x)), steps)))
        if self.changes:
            x = self.short_bn(self.short(x))
            if self.sew:
                x = self.short_lif(x, steps)
        result: Tensor = self.lif2(y, steps) + x if self.sew else self.lif2(y + x, steps)
        return result


class ResNet19(nn.Module):
    """Three stages of 3, 3 and 2 blocks, a global average pool and two dense layers."""

    def __init__(
        self, channels: int = 3, size: int = 32, width: float = 1.0, classes: int = 10
    ) -> None:
        super().__init__()
        stem, *widths = (int(full * width) for full in (64, 128, 256, 512))
        self.conv = nn.Conv2d(channels, stem, 3, 1, 1, bias=False)
        self.bn, self.lif = nn.BatchNorm2d(stem), LIF()
        self.blocks = _blocks(stem, widths, (3, 3, 2), (1, 2, 2), sew=False)
        self.pool, self.flatten = nn.AvgPool2d(size // 4), nn.Flatten()
        self.fc1, self.lif2 = nn.Linear(widths[-1], widths[-1] // 2), LIF()
        self.fc2 = nn.Linear(widths[-1] // 2, classes)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Return what leaves, for `x` (batch * steps, channels, h, w), batch major."""
        x = self.lif(self.bn(self.conv(x)), steps)
        for block in self.blocks:
            x = block(x, steps)
        x = self.lif2(self.fc1(self.flatten(self.pool(x))), steps)
        result: Tensor = self.fc2(x)
        return result


class SewResNet(nn.Module):
    """A 7x7 stem, a max pool of its spikes, and four stages whose shortcuts add spikes."""

    def __init__(
        self,
        channels: int = 3,
        size: int = 224,
        width: float = 1.0,
        classes: int = 1000,
        depth: Sequence[int] = (3, 4, 6, 3),
    ) -> None:
        super().__init__()
        stem, *widths = (int(full * width) for full in (64, 64, 128, 256, 512))
        self.conv = nn.Conv2d(channels, stem, 7, 2, 3, bias=False)
        self.bn, self.lif = nn.BatchNorm2d(stem), LIF()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.blocks = _blocks(stem, widths, depth, (1, 2, 2, 2), sew=True)
        self.pool, self.flatten = nn.AvgPool2d(-(-size // 32)), nn.Flatten()
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Return what leaves, for `x` (batch * steps, channels, h, w), batch major."""
        x = self.maxpool(self.lif(self.bn(self.conv(x)), steps))
        for block in self.blocks:
            x = block(x, steps)
        result: Tensor = self.fc(self.flatten(self.pool(x)))
        return result


class VggSnn(nn.Module):
    """Eight 3x3 convolutions with bias, an average pool after every second one, a dense layer."""

    def __init__(
        self, channels: int = 2, size: int = 48, width: float = 1.0, classes: int = 10
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for number, full in enumerate((64, 128, 256, 256, 512, 512, 512, 512)):
            outputs = int(full * width)
            stages += [nn.Conv2d(channels, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), LIF()]
            if number % 2:
                stages.append(nn.AvgPool2d(2))
            channels = outputs
        self.stages = nn.ModuleList(stages)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels * (size // 16) ** 2, classes)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Return what leaves, for `x` (batch * steps, channels, h, w), batch major."""
        for stage in self.stages:
            x = stage(x, steps) if isinstance(stage, LIF) else stage(x)
        result: Tensor = self.fc(self.flatten(x))
        return result


def _blocks(
    inputs: int, widths: Sequence[int], depth: Sequence[int], strides: Sequence[int], *, sew: bool
) -> nn.ModuleList:
    blocks = nn.ModuleList()
    for outputs, count, stride in zip(widths, depth, strides, strict=True):
        for number in range(count):
            blocks.append(Block(inputs, outputs, 1 if number else stride, sew=sew))
            inputs = outputs
    return blocks
