"""
The networks that are measured: random weights, with layers that fire about as trained ones do.

Some executors are fast where spikes are few, so firing rates belong to every measurement: results tell
them, measured on the integers. Trained networks fire at some 5 to 25 % a step.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from neurocompile.data import InputRange, read_npz
from neurocompile.frontend.fold_batchnorm import fold_batchnorm
from neurocompile.frontend.from_nir import from_nir
from neurocompile.frontend.to_nir import to_nir, write_nir
from neurocompile.ir import LIF, Conv2d, Dense, Flatten, Input, Network, Node, Output
from neurocompile.program import Program
from neurocompile.training.config import TrainSettings
from neurocompile.training.networks import SpikingNetwork, build, trace

Values = NDArray[Any]
Inference = Callable[[torch.Tensor], torch.Tensor]

INPUT_RATE = 0.2  # of random input spikes, a step
CALIBRATION_SAMPLES = 4
PIXELS = InputRange(0, 1, 1 / 255)
EVENTS = InputRange(0, 1, 1)
INK = 0.19  # of MNIST's pixels are not black


def small_network(steps: int, *, hidden: int = 32, size: int = 28) -> Network:
    """
    Return `size` x `size` - 16C3 - 32C3s2 - FC10 on spikes, without biases.

    `hidden` are the channels of the second convolution: they scale the number of synapses.
    """
    generator = np.random.default_rng(0)
    half = -(-size // 2)
    first = generator.normal(size=(16, 1, 3, 3)) * 0.6
    second = generator.normal(size=(hidden, 16, 3, 3)) * 0.25
    readout = generator.normal(size=(10, hidden * half**2)) / 20
    nodes: dict[str, Node] = {
        "input": Input((1, size, size)),
        "conv1": Conv2d(first, np.zeros(16), padding=(1, 1)),
        "lif1": _neurons((16, size, size)),
        "conv2": Conv2d(second, np.zeros(hidden), (2, 2), (1, 1)),
        "lif2": _neurons((hidden, half, half)),
        "flatten": Flatten(),
        "fc": Dense(readout, np.zeros(10)),
        "output": Output((10,)),
    }
    return Network(nodes, tuple(itertools.pairwise(nodes)), steps)


def _neurons(shape: tuple[int, ...]) -> LIF:
    full = np.ones(shape)
    return LIF(0.5 * full, full, 0 * full, full, 0 * full)


def random_spikes(samples: int, steps: int, shape: tuple[int, ...], seed: int = 1) -> Values:
    """Return random spikes (samples, steps, *shape), 0 or 1, as bytes."""
    drawn = np.random.default_rng(seed).random((samples, steps, *shape), np.float32)
    return (drawn < INPUT_RATE).astype(np.uint8)


def firing_rates(program: Program, inputs: Values) -> dict[str, float]:
    """Return the spikes a neuron and step of each layer that fires, on `inputs`."""
    spikes = program.run(inputs, record="all").spikes
    return {name: float(values.mean()) for name, values in spikes.items()}


def eager(network: Network, *, channels_last: bool) -> Inference:
    """
    Return the loop that one writes by hand in PyTorch for `small_network`, in float32.

    It maps (steps, samples, 1, h, w) to what the read-out receives, (steps, samples, classes). There are
    no biases to add; membranes are changed in place, which saves memory traffic.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    layers: list[tuple[torch.Tensor, tuple[int, int], tuple[int, int]]] = []
    for node in network.nodes.values():
        if isinstance(node, Conv2d):
            weight = torch.tensor(node.weight, dtype=torch.float32)
            layers.append((weight.contiguous(memory_format=layout), node.stride, node.padding))
    (dense,) = (node for node in network.nodes.values() if isinstance(node, Dense))
    readout = torch.tensor(dense.weight, dtype=torch.float32)
    lif = next(node for node in network.nodes.values() if isinstance(node, LIF))
    decay, threshold = float(lif.decay.flat[0]), float(lif.threshold.flat[0])

    @torch.inference_mode()
    def infer(inputs: torch.Tensor) -> torch.Tensor:
        membranes: dict[int, torch.Tensor] = {}
        outputs = []
        for x in inputs:
            for number, (weight, stride, padding) in enumerate(layers):
                current = functional.conv2d(x, weight, None, stride, padding)
                v = membranes[number].mul_(decay).add_(current) if number in membranes else current
                fires = v > threshold
                membranes[number] = v.masked_fill_(fires, 0)
                x = fires.float()  # noqa: PLW2901  # what goes on to the next layer
            outputs.append(functional.linear(x.flatten(1), readout))
        return torch.stack(outputs)

    return infer


@dataclass(frozen=True)
class Deep:
    """A network of the papers: as a module with folded batch norms, and as it is imported."""

    module: nn.Module
    network: Network
    steps: int


def settings_of(name: str, steps: int, **network: Any) -> TrainSettings:
    """Return the settings of the network `name` of the training half, with PyTorch's initial weights."""
    return TrainSettings.model_validate(
        {
            "network": {"name": name, **network},
            "initialisation": "torch",
            "timesteps": steps,
            "epochs": 1,
            "learning_rate": 1e-3,
        }
    )


def deep_network(name: str, width: float) -> Deep:
    """
    Return "ResNet-19", "VGGSNN" or "SNN-5" with `width` times the papers' channels.

    Their batch norms take the statistics of some inputs, which makes layers fire as in training.
    """
    torch.manual_seed(0)
    limits, steps = (EVENTS, 10) if name == "VGGSNN" else (PIXELS, 4)
    named, shape = {
        "ResNet-19": ("resnet19", (3, 32, 32)),
        "VGGSNN": ("vggsnn", (2, 48, 48)),
        "SNN-5": ("snn5", (1, 28, 28)),
    }[name]
    training = build(settings_of(named, steps, width=width), shape, 10)
    body = training.body
    if name == "ResNet-19":
        with torch.no_grad():  # no batch norm follows, and a global average is small
            body.get_parameter("fc.weight").mul_(6)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches, which is one
    inputs = deep_inputs(name, CALIBRATION_SAMPLES, seed=2)
    with torch.no_grad():
        training(torch.tensor(inputs, dtype=torch.float32))
    training.eval()
    folded = fold_batchnorm(trace(body))
    graph = to_nir(folded, shape, steps=steps, input_range=limits)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "graph.nir"
        write_nir(file, graph)
        network = from_nir(file).network
    return Deep(SpikingNetwork(folded, shape), network, steps)


def deep_inputs(name: str, samples: int, seed: int = 1) -> Values:
    """Return inputs for a network of `deep_network`: random images shown at each step, or events."""
    if name == "VGGSNN":
        return random_spikes(samples, 10, (2, 48, 48), seed)
    if name == "SNN-5":
        return digit_images(samples)[0]
    pixels = np.random.default_rng(seed).integers(0, 256, (samples, 1, 3, 32, 32))
    return np.repeat((pixels / 255).astype(np.float32), 4, 1)


def digit_images(samples: int) -> tuple[Values, str]:
    """
    Return images (samples, 4, 1, 28, 28) from 0 to 1, and what they are.

    They are MNIST's test images where there is a folder of third-party data, as for the tests; else
    random ones, with as many black pixels and a black border.
    """
    named = os.environ.get("NEUROCOMPILE_SHARED")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared"
    file = folder / "data" / "images" / "mnist.npz"
    if file.is_file():
        pixels, what = read_npz(file)["x_test"][:samples], "MNIST's test images"
    else:
        generator = np.random.default_rng(1)
        pixels = np.zeros((samples, 28, 28), np.uint8)
        inside = generator.integers(1, 256, (samples, 20, 20))
        inked = generator.random(inside.shape) < INK * (28 / 20) ** 2
        pixels[:, 4:24, 4:24] = np.where(inked, inside, 0)
        what = "random images with as much ink as MNIST's"
    images = (pixels[:, np.newaxis, np.newaxis] / np.float32(255)).astype(np.float32)
    return np.repeat(images, 4, 1), what
