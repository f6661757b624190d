"""
Each network of the papers, from batch norms to the chip's integers, at reduced width and resolution.

Folding keeps the spikes, the NIR file fires as the folded network does and reads as the same network twice,
and `fixedpoint` takes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurocompile
from neurocompile.data import InputRange
from neurocompile.errors import UnsupportedError
from neurocompile.frontend.fold_batchnorm import fold_batchnorm
from neurocompile.frontend.from_nir import from_nir
from neurocompile.frontend.network_to_nir import identical, network_to_nir
from neurocompile.frontend.to_nir import to_nir, write_nir
from neurocompile.frontend.to_torch import to_torch
from neurocompile.ir import Network
from neurocompile.training.checkpoint import Trained
from neurocompile.training.config import TrainSettings
from neurocompile.training.networks import SpikingNetwork, build, spikes_of, trace
from neurocompile.training.neurons import LIF

STEPS, SAMPLES, CLASSES = 3, 6, 10
PIXELS, EVENTS = InputRange(0, 1, 1 / 255), InputRange(0, 1, 1)
NEAR = 1e-5  # of the threshold: only there may float32 round to the other side
SMALL = {"width": 1 / 16, "blocks": (1, 1, 1, 1)}

NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, int, int], dict[str, Any]]] = {
    "digits": (
        {"name": "convolutional", "stages": [{"channels": 4, "kernel": 3, "pool": 2}]},
        (1, 8, 8),
        {},
    ),
    "dense": ({"name": "dense", "hidden": (20, 12)}, (1, 6, 6), {}),
    "SNN-5": ({"name": "snn5", "width": 1 / 16}, (3, 16, 16), {}),
    "VGGSNN": ({"name": "vggsnn", "width": 1 / 16}, (2, 16, 16), {}),
    "VGGSNN without pools": (
        {"name": "vggsnn", "pooling": "stride", "width": 1 / 16},
        (2, 16, 16),
        {},
    ),
    "ResNet-19": ({"name": "resnet19", "width": 1 / 16}, (3, 8, 8), {}),
    "ResNet-19 with a stem of 128": (
        {"name": "resnet19", "stem_channels": 128, "hidden": 0, "width": 1 / 16},
        (3, 8, 8),
        {},
    ),
    "Spiking-ResNet34": ({"name": "spiking-resnet34", **SMALL}, (3, 32, 32), {}),
    "Spiking-ResNet34 with a max pool": (
        {"name": "spiking-resnet34", "stem": "maxpool", **SMALL},
        (3, 32, 32),
        {},
    ),
    "SEW-ResNet34": ({"name": "sew-resnet34", **SMALL}, (3, 32, 32), {}),
    "SEW-ResNet34 without leaks": (
        {"name": "sew-resnet34", **SMALL},
        (3, 32, 32),
        {"neuron": {"kind": "if"}},
    ),
    "ResNet-18": ({"name": "resnet18-dvs", "width": 1 / 16}, (2, 16, 16), {}),
    "ResNet-18, modified": (
        {"name": "resnet18-dvs", "layout": "modified", "width": 1 / 16},
        (2, 16, 16),
        {},
    ),
    "ResNet-19 with tdBN and leaks that it learnt": (
        {"name": "resnet19", "width": 1 / 16},
        (3, 8, 8),
        {
            "normalisation": {"kind": "tdbn"},
            "neuron": {"tau": 0.4, "threshold": 0.5, "learn_tau": True},
        },
    ),
}


@dataclass(frozen=True)
class Case:
    """A network as training leaves it, and inputs for it (samples, steps, *shape)."""

    settings: TrainSettings
    network: SpikingNetwork
    inputs: Tensor
    limits: InputRange

    @functools.cached_property
    def folded(self) -> SpikingNetwork:
        """The network without its batch norms."""
        shape = self.network.input_shape
        body = fold_batchnorm(trace(self.network.body), input_shape=shape)
        return SpikingNetwork(body, shape)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """For layers as small as these, more threads wait more than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def case() -> Callable[[str], Case]:
    """
    Makes a network by its name in `NETWORKS`; those of images normalise them.

    Batch norms have gammas of both signs, and statistics that are not those of any batch; leaks that are
    learnt differ from layer to layer.
    """
    made: dict[str, Case] = {}

    def make(name: str) -> Case:
        if name not in made:
            made[name] = _make(*NETWORKS[name])
        return made[name]

    return make


def _make(network: dict[str, Any], shape: tuple[int, ...], others: dict[str, Any]) -> Case:
    given = {"network": network, "timesteps": STEPS, "epochs": 1, "learning_rate": 1e-3, **others}
    settings = TrainSettings.model_validate(given)
    events = shape[0] == 2
    torch.manual_seed(1)
    statistics = None if events else ((0.45,) * shape[0], (0.25,) * shape[0])
    built = build(settings, shape, CLASSES, statistics)
    size = (SAMPLES, STEPS, *shape)
    inputs = (torch.rand(size) < 0.3).float() if events else torch.randint(0, 256, size) / 255
    norms = [part for part in built.modules() if isinstance(part, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0  # the statistics of the last batch
            channels = norm.num_features
            signs = torch.randint(0, 2, (channels,)) * 2 - 1
            norm.weight.copy_((0.5 + torch.rand(channels)) * signs)
            norm.bias.copy_(0.3 + 0.3 * torch.randn(channels))
        for part in built.modules():
            if isinstance(part, nn.Linear):
                part.weight.mul_(3)  # no batch norm makes its neurons fire
            if isinstance(part, LIF) and part.tau_logit is not None:
                part.tau_logit.add_(torch.randn(()))
        built.train()(inputs)
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean += 0.1 * torch.randn(norm.num_features)
            norm.running_var *= 0.5 + torch.rand(norm.num_features)
    return Case(settings, built.eval(), inputs, EVENTS if events else PIXELS)


def imported(case: Case, path: Path) -> Network:
    """Write the folded network to `path`, and read it."""
    shape = case.network.input_shape
    graph = to_nir(case.folded.body, shape, steps=STEPS, input_range=case.limits)  # type: ignore[arg-type]
    write_nir(path, graph)
    return from_nir(path).network


def currents_of(network: SpikingNetwork, x: Tensor) -> dict[str, Tensor]:
    """Return what each layer of neurons gets, (samples, steps, *shape), by name in order."""
    found: dict[str, Tensor] = {}
    handles = [
        part.register_forward_hook(
            lambda _module, inputs, _output, name=name: found.update(
                {name: inputs[0].unflatten(0, x.shape[:2])}
            )
        )
        for name, part in network.body.named_modules()
        if isinstance(part, LIF)
    ]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    return found


def first_flips(network: SpikingNetwork, folded: SpikingNetwork, x: Tensor) -> list[float]:
    """
    Return how far from the threshold, in folded `x`'s first flips, the farthest membrane was.

    A flip changes all that comes after it, so of each sample only the earliest step counts, and there the
    first layer that differs.
    """
    before, after = spikes_of(network, x)[1], spikes_of(folded, x)[1]
    currents = currents_of(folded, x)
    distances = []
    for sample in range(len(x)):
        for step in range(x.shape[1]):
            differing = [
                name
                for name in currents
                if not torch.equal(before[name][sample, step], after[name][sample, step])
            ]
            if differing:
                name = differing[0]
                neuron = folded.body.get_submodule(name)
                assert isinstance(neuron, LIF)
                v = torch.zeros_like(currents[name][sample, 0])
                for now in range(step + 1):
                    u = neuron.tau * v + currents[name][sample, now]
                    v = u * (1 - after[name][sample, now])
                flipped = before[name][sample, step] != after[name][sample, step]
                distances.append(float((u - neuron.threshold)[flipped].abs().max()))
                break
    return distances


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_keeps_every_spike_that_is_not_on_the_threshold(
    case: Callable[[str], Case], name: str
) -> None:
    given = case(name)

    distances = first_flips(given.network, given.folded, given.inputs)

    assert all(distance < NEAR for distance in distances), distances
    for layer, spikes in spikes_of(given.folded, given.inputs)[1].items():
        assert 0 < spikes.mean() < 1, layer  # else nothing could have flipped


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_fires_as_the_folded_network_and_reads_as_the_same_twice(
    case: Callable[[str], Case], tmp_path: Path, name: str
) -> None:
    given = case(name)
    network = imported(given, tmp_path / "graph.nir")

    output, spikes = spikes_of(given.folded, given.inputs)
    read_output, read_spikes = spikes_of(to_torch(network), given.inputs)

    assert torch.equal(output, read_output)
    assert all(torch.equal(read_spikes[layer], values) for layer, values in spikes.items())
    (tmp_path / "again.nir").write_bytes(network_to_nir(network))
    assert identical(network, from_nir(tmp_path / "again.nir").network)


@pytest.mark.parametrize("name", NETWORKS)
def test_checkpoints_are_exported_and_fire(
    case: Callable[[str], Case], tmp_path: Path, name: str
) -> None:
    """The import proves what the tests above do, on images that the network normalises itself."""
    given = case(name)
    images = given.limits == PIXELS
    channels = given.network.input_shape[0]
    normalisation = ((0.45,) * channels, (0.25,) * channels) if images else None
    trained = Trained(given.network, given.settings, CLASSES, given.limits, normalisation)
    description = trained.description()
    state = {f"network.{name}": values for name, values in given.network.state_dict().items()}
    torch.save({"neurocompile": description, "state_dict": state}, tmp_path / "net.ckpt")

    program = neurocompile.export(tmp_path / "net.ckpt", target="fixedpoint", validate=False)
    result = program.run(given.inputs.numpy(), "all")

    assert program.facts["folding"]["spikes_flipped"] == 0
    # biases that take the mean off pixels leave few bits for weights on the chip
    assert program.facts["first_layer"]["computed_by"] == ("host" if images else "spikes")
    fired = spikes_of(given.network, given.inputs)[1]
    assert set(result.spikes) >= set(fired)
    first = next(iter(fired))
    differ = result.spikes[first] != fired[first].numpy()
    assert differ.mean() < (0.01 if images else 0.05)  # 16-bit weights on the host, or 8 bits


def test_sigmoids_are_not_exported(tmp_path: Path) -> None:
    settings = TrainSettings.model_validate(
        {
            "network": {"name": "snn5", "width": 1 / 16},
            "neuron": {"activation": "sigmoid"},
            "epochs": 1,
            "learning_rate": 1e-3,
        }
    )
    network = build(settings, (3, 16, 16), CLASSES).eval()
    given = Case(settings, network, torch.zeros(1, 1, 3, 16, 16), PIXELS)

    with pytest.raises(UnsupportedError, match="layer 'lif1' must spike to be exported") as caught:
        imported(given, tmp_path / "graph.nir")

    assert len(caught.value.problems) == 5
