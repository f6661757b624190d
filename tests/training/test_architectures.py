"""The networks of the papers: their numbers of parameters, their shapes, and what their layers are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurocompile.training.config import TrainSettings, resolve
from neurocompile.training.graded import GradedNeuron
from neurocompile.training.networks import SpikingNetwork, build, check_shapes, trace
from neurocompile.training.neurons import LIF

Settings = Callable[..., TrainSettings]

CIFAR, DVS, IMAGENET = (3, 32, 32), (2, 48, 48), (3, 224, 224)
WIDTH = 1 / 16


@pytest.fixture
def settings_of() -> Settings:
    """Makes the settings of a network from those of the network and others."""

    def make(network: dict[str, Any], **others: Any) -> TrainSettings:
        given = {"network": network, "epochs": 1, "learning_rate": 1e-3, **others}
        return TrainSettings.model_validate(given)

    return make


def parameters_of(network: nn.Module) -> int:
    return sum(values.numel() for values in network.parameters())


@pytest.mark.parametrize(
    ("network", "shape", "classes", "parameters"),
    [
        ({"name": "snn5"}, CIFAR, 10, 2_253_098),
        ({"name": "vggsnn"}, DVS, 10, 9_271_498),
        ({"name": "vggsnn", "pooling": "stride"}, DVS, 10, 9_271_498),
        ({"name": "resnet19"}, CIFAR, 10, 12_630_858),
        ({"name": "resnet19"}, CIFAR, 100, 12_653_988),
        ({"name": "resnet19", "stem_channels": 128}, CIFAR, 10, 12_697_994),
        ({"name": "resnet19", "stem_channels": 128}, CIFAR, 100, 12_721_124),
        ({"name": "resnet19", "stem_channels": 128, "hidden": 0}, CIFAR, 10, 12_569_226),
        ({"name": "resnet19", "stem_channels": 128, "hidden": 0}, CIFAR, 100, 12_615_396),
        ({"name": "spiking-resnet34", "stem": "maxpool"}, IMAGENET, 1000, 21_797_672),
        ({"name": "spiking-resnet34", "stem": "stride"}, IMAGENET, 1000, 21_801_896),
        ({"name": "sew-resnet34"}, IMAGENET, 1000, 21_797_672),
        ({"name": "resnet18-dvs"}, DVS, 10, 11_173_386),
        ({"name": "resnet18-dvs", "layout": "modified"}, DVS, 10, 11_247_370),
        ({"name": "dense", "hidden": (512, 512)}, (1, 28, 28), 10, 669_706),
    ],
)
def test_the_published_networks_have_their_parameters(
    settings_of: Settings,
    network: dict[str, Any],
    shape: tuple[int, ...],
    classes: int,
    parameters: int,
) -> None:
    with torch.device("meta"):
        built = build(settings_of(network), shape, classes)

    assert parameters_of(built) == parameters


RESIDUAL_34 = {
    "lif1": (64, 112),
    "blocks.0": (64, 56),
    "blocks.2": (64, 56),
    "blocks.3": (128, 28),
    "blocks.7": (256, 14),
    "blocks.13": (512, 7),
    "blocks.15": (512, 7),
    "average": (512, 1),
}


@pytest.mark.parametrize(
    ("network", "shape", "stages"),
    [
        (
            {"name": "snn5"},
            CIFAR,
            {
                "lif1": (16, 32),
                "lif2": (64, 32),
                "pool2": (64, 16),
                "pool3": (128, 8),
                "pool4": (256, 4),
                "lif5": (512, 4),
                "pool5": (512, 2),
            },
        ),
        (
            {"name": "vggsnn"},
            DVS,
            {
                "lif1": (64, 48),
                "lif2": (128, 48),
                "pool2": (128, 24),
                "pool4": (256, 12),
                "lif5": (512, 12),
                "pool6": (512, 6),
                "pool8": (512, 3),
            },
        ),
        (
            {"name": "vggsnn", "pooling": "stride"},
            DVS,
            {"lif1": (64, 48), "lif2": (128, 24), "lif4": (256, 12), "lif8": (512, 3)},
        ),
        (
            {"name": "resnet19"},
            CIFAR,
            {
                "lif1": (64, 32),
                "blocks.2": (128, 32),
                "blocks.3": (256, 16),
                "blocks.5": (256, 16),
                "blocks.7": (512, 8),
                "average": (512, 1),
            },
        ),
        (
            {"name": "spiking-resnet34", "stem": "maxpool"},
            IMAGENET,
            {**RESIDUAL_34, "pool": (64, 56)},
        ),
        ({"name": "spiking-resnet34", "stem": "stride"}, IMAGENET, RESIDUAL_34),
        ({"name": "sew-resnet34"}, IMAGENET, {**RESIDUAL_34, "pool": (64, 56)}),
        (
            {"name": "resnet18-dvs"},
            DVS,
            {
                "lif1": (64, 48),
                "blocks.1": (64, 48),
                "blocks.3": (128, 24),
                "blocks.5": (256, 12),
                "blocks.7": (512, 6),
                "average": (512, 1),
            },
        ),
        (
            {"name": "resnet18-dvs", "layout": "modified"},
            DVS,
            {
                "lif3": (64, 48),
                "pool": (64, 24),
                "blocks.1": (64, 24),
                "blocks.3": (128, 12),
                "blocks.2.short_pool": (64, 12),
                "blocks.7": (512, 3),
                "average": (512, 1),
            },
        ),
    ],
)
def test_stages_have_the_shapes_of_the_papers(
    settings_of: Settings,
    network: dict[str, Any],
    shape: tuple[int, ...],
    stages: dict[str, tuple[int, int]],
) -> None:
    built = build(settings_of({**network, "width": WIDTH}), shape, 10).eval()
    seen: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        return lambda _module, _inputs, output: seen.update({name: tuple(output.shape[1:])})

    for name in stages:
        built.body.get_submodule(name).register_forward_hook(note(name))
    with torch.no_grad():
        built(torch.zeros(1, 1, *shape))

    assert seen == {name: (full * WIDTH, size, size) for name, (full, size) in stages.items()}


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        ({"name": "convolutional", "stages": [{"channels": 3, "kernel": 5, "pool": 3}]}, (1, 9, 6)),
        ({"name": "dense", "hidden": [7]}, (2, 3, 5)),
        ({"name": "snn5"}, (1, 16, 32)),
        ({"name": "vggsnn"}, (3, 32, 16)),
        ({"name": "vggsnn", "pooling": "stride"}, (1, 17, 23)),
        ({"name": "resnet19"}, (1, 7, 10)),
        ({"name": "spiking-resnet34", "stem": "maxpool", "blocks": (1, 1, 1, 1)}, (2, 45, 33)),
        ({"name": "spiking-resnet34", "blocks": (1, 2, 1, 1)}, (2, 45, 33)),
        ({"name": "sew-resnet34", "blocks": (1, 1, 1, 1)}, (3, 31, 50)),
        ({"name": "resnet18-dvs"}, (2, 13, 9)),
        ({"name": "resnet18-dvs", "layout": "modified"}, (2, 32, 16)),
    ],
)
def test_other_images_and_classes_fit(
    settings_of: Settings, network: dict[str, Any], shape: tuple[int, ...]
) -> None:
    scaled = network if network["name"] in ("convolutional", "dense") else {"width": 1 / 32}
    settings = settings_of({**network, **scaled})

    outputs = build(settings, shape, 6)(torch.rand(2, 3, *shape))

    assert not check_shapes(settings, shape)
    assert outputs.shape == (2, 3, 6)


def test_channels_are_rounded_and_never_none(settings_of: Settings) -> None:
    """An eightieth of 64, 128, 256 and 512: 0.8, 1.6, 3.2 and 6.4, and of the 256 hidden neurons 3.2."""
    built = build(settings_of({"name": "resnet19", "width": 1 / 80}), CIFAR, 10)

    layers = {name: len(values) for name, values in built.body.named_parameters()}
    assert layers["conv1.weight"] == 1
    assert [layers[f"blocks.{number}.conv2.weight"] for number in (0, 3, 6)] == [2, 3, 6]
    assert layers["fc.weight"] == 3


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        (
            {"name": "snn5"},
            (3, 28, 28),
            (
                "layer 'pool4' needs an image that it divides by 2, but it gets 7 x 7: "
                "crop or resize the images to multiples of 16"
            ),
        ),
        (
            {"name": "vggsnn"},
            (2, 48, 34),
            (
                "layer 'pool4' needs an image that it divides by 2, but it gets 24 x 17: crop or "
                "resize the images to multiples of 16, or set network.pooling to stride"
            ),
        ),
        (
            {"name": "resnet18-dvs", "layout": "modified"},
            (2, 33, 48),
            (
                "layer 'pool' needs an image that it divides by 2, but it gets 33 x 48: "
                "crop or resize the images to multiples of 16"
            ),
        ),
        (
            {"name": "resnet18-dvs", "layout": "modified"},
            (2, 40, 40),
            (
                "layer 'blocks.6.short_pool' needs an image that it divides by 2, but it gets 5 x 5: "
                "crop or resize the images to multiples of 16"
            ),
        ),
        (
            {"name": "convolutional", "stages": [{"channels": 2, "kernel": 3, "pool": 2}]},
            (1, 5, 4),
            (
                "layer 'pool1' needs an image that it divides by 2, but it gets 5 x 4: "
                "crop or resize the images, or leave out a pool with --config"
            ),
        ),
        (
            {"name": "resnet19"},
            (700,),
            (
                "the network 'resnet19' needs images (channels, height, width), but it gets (700,): "
                "choose the network 'dense'"
            ),
        ),
    ],
)
def test_images_that_pools_do_not_divide_are_told(
    settings_of: Settings, network: dict[str, Any], shape: tuple[int, ...], expected: str
) -> None:
    assert [str(problem) for problem in check_shapes(settings_of(network), shape)] == [expected]


def test_dense_networks_take_any_shape(settings_of: Settings) -> None:
    settings = settings_of({"name": "dense", "hidden": [5, 4]})

    assert not check_shapes(settings, (700,))
    assert build(settings, (700,), 20)(torch.rand(2, 3, 700)).shape == (2, 3, 20)


def test_neurons_are_those_of_the_settings(settings_of: Settings) -> None:
    neuron = {"tau": 0.25, "threshold": 0.5, "detach_reset": True, "learn_tau": True}
    settings = settings_of({"name": "sew-resnet34", "width": WIDTH}, neuron=neuron)

    found = [part for part in build(settings, CIFAR, 10).modules() if isinstance(part, LIF)]

    assert len(found) == len(set(found)) == 1 + 16 * 2 + 3
    assert {(part.tau, part.threshold, part.detach_reset) for part in found} == {(0.25, 0.5, True)}
    assert len({id(part.surrogate) for part in found}) == 1
    assert all(part.tau_logit is not None for part in found)


def test_neurons_may_have_no_leak_or_no_spikes(settings_of: Settings) -> None:
    network = {"name": "snn5", "width": WIDTH}
    perfect = build(settings_of(network, neuron={"kind": "if"}), CIFAR, 10)
    graded = build(
        settings_of(network, neuron={"activation": "sigmoid", "steepness": 5.0}), CIFAR, 10
    )

    assert [part.tau for part in perfect.modules() if isinstance(part, LIF)] == [1.0] * 5
    found = [part for part in graded.modules() if isinstance(part, GradedNeuron)]
    assert [(part.tau, part.steepness) for part in found] == [(0.5, 5.0)] * 5
    x = torch.rand(2, 3, *CIFAR)
    traced = trace(graded.body)(x.flatten(0, 1), 3)
    assert torch.equal(traced.unflatten(0, (2, 3)), graded(x))


@pytest.mark.parametrize(("name", "halved"), [("resnet19", True), ("sew-resnet34", False)])
def test_branches_that_are_summed_share_the_variance(
    settings_of: Settings, name: str, *, halved: bool
) -> None:
    """tdBN, threshold 0.5: only what is added in front of neurons is scaled by 1 / sqrt(2)."""
    settings = settings_of(
        {"name": name, "width": WIDTH},
        normalisation={"kind": "tdbn-init"},
        neuron={"threshold": 0.5},
    )
    body = build(settings, CIFAR, 10).body

    starts = {name.removesuffix(".weight"): values for name, values in body.named_parameters()}
    summed = 0.5 / math.sqrt(2) if halved else 0.5
    for name_of_norm, expected in (
        ("bn1", 0.5),
        ("blocks.3.bn1", 0.5),
        ("blocks.3.bn2", summed),
        ("blocks.3.short_bn", summed),
        ("blocks.4.bn2", summed),
    ):
        torch.testing.assert_close(
            starts[name_of_norm], torch.full_like(starts[name_of_norm], expected)
        )


def test_blocks_of_the_modified_network_begin_as_their_shortcuts(settings_of: Settings) -> None:
    settings = settings_of({"name": "resnet18-dvs", "layout": "modified", "width": WIDTH})

    body = build(settings, DVS, 10).body

    weights = dict(body.named_parameters())
    assert all((weights[f"blocks.{number}.bn2.weight"] == 0).all() for number in range(8))
    assert (weights["blocks.0.bn1.weight"] == 1).all()
    assert (weights["blocks.2.short_bn.weight"] == 1).all()


def test_kaiming_is_he_normal_by_outputs_and_torch_is_pytorch(settings_of: Settings) -> None:
    """A stage of the plain ResNet-18: 128 outputs with 9 taps each, so a variance of 2 / 1152."""
    network = {"name": "resnet18-dvs"}
    drawn = {
        how: build(settings_of(network, initialisation=how), DVS, 10).body.state_dict()
        for how in ("kaiming", "torch")
    }

    he, own = (drawn[how]["blocks.2.conv1.weight"] for how in ("kaiming", "torch"))
    assert float(he.std()) == pytest.approx(math.sqrt(2 / 1152), rel=0.02)
    assert float(he.abs().max()) > 3 * float(he.std())  # normal, not uniform
    limit = 1 / math.sqrt(64 * 9)
    assert float(own.abs().max()) <= limit
    assert float(own.std()) == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert float(drawn["kaiming"]["readout.weight"].abs().max()) <= 1 / math.sqrt(512)


def test_the_digits_network_draws_what_it_always_drew() -> None:
    """Convolutions are drawn twice, by PyTorch and by Kaiming, each before the next layer is made."""
    torch.manual_seed(3)
    network = build(resolve(preset="digits"), (1, 8, 8), 10)

    torch.manual_seed(3)
    expected: dict[str, Tensor] = {}
    inputs = 1
    for number, outputs in enumerate((16, 32, 64), start=1):
        convolution = nn.Conv2d(inputs, outputs, 3)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        expected |= {f"conv{number}.{name}": v for name, v in convolution.state_dict().items()}
        expected |= {f"bn{number}.{n}": v for n, v in nn.BatchNorm2d(outputs).state_dict().items()}
        inputs = outputs
    expected |= {f"readout.{n}": v for n, v in nn.Linear(64 * 2 * 2, 10).state_dict().items()}
    state = network.body.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(values, expected[name]) for name, values in state.items())
    neurons = [name for name, part in network.body.named_modules() if isinstance(part, LIF)]
    assert neurons == ["lif1", "lif2", "lif3"]


@pytest.mark.parametrize(
    "network",
    [
        {"name": "snn5", "width": WIDTH},
        {"name": "resnet19", "width": WIDTH},
        {"name": "dense", "hidden": [6]},
    ],
)
def test_inputs_are_normalised_by_a_first_layer_that_is_not_trained(
    settings_of: Settings, network: dict[str, Any]
) -> None:
    settings = settings_of(network)
    mean, deviation = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
    torch.manual_seed(0)
    plain = build(settings, CIFAR, 10)
    torch.manual_seed(0)
    network_with = build(settings, CIFAR, 10, (mean, deviation))
    x = torch.rand(2, 3, *CIFAR)

    normal = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
    theirs, ours = plain.eval()(normal), network_with.eval()(x)

    torch.testing.assert_close(ours, theirs)
    layer = network_with.body.get_submodule("normalise")
    assert isinstance(layer, nn.Conv2d)
    assert (layer.kernel_size, layer.groups) == ((1, 1), 3)
    trained = {name for name, values in network_with.named_parameters() if values.requires_grad}
    assert trained == {name for name, _ in plain.named_parameters()}
    assert set(network_with.state_dict()) - set(plain.state_dict()) == {
        "body.normalise.weight",
        "body.normalise.bias",
    }


def after_training(network: SpikingNetwork, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the outputs of two passes in training, and all gradients and buffers after them."""
    for _ in range(2):
        outputs = network(x)
        outputs.square().mean().backward()
    gradients = {f"d{n}": p.grad for n, p in network.named_parameters() if p.grad is not None}
    return outputs, {**gradients, **dict(network.named_buffers())}


@pytest.mark.parametrize(("kind", "momentum"), [("bn", 0.1), ("bn", None), ("tdbn", 0.1)])
def test_still_images_are_convolved_once_and_train_as_if_shown_at_every_step(
    settings_of: Settings, kind: str, momentum: float | None
) -> None:
    settings = settings_of(
        {"name": "convolutional", "stages": [{"channels": 3, "kernel": 3}]},
        normalisation={"kind": kind},
    )
    once = build(settings, (2, 4, 4), 5, ((0.5, 0.4), (0.2, 0.3))).double()
    once.body.get_submodule("bn1").momentum = momentum  # type: ignore[assignment]
    every = copy.deepcopy(once)
    batches: list[int] = []
    once.body.get_submodule("conv1").register_forward_hook(
        lambda _module, inputs, _output: batches.append(len(inputs[0]))
    )
    x = torch.rand(3, 1, 2, 4, 4, dtype=torch.float64)

    outputs, state = after_training(once, x.expand(-1, 4, -1, -1, -1))
    expected, expected_state = after_training(every, x.repeat(1, 4, 1, 1, 1))

    assert batches == [3, 3]
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    for name, values in expected_state.items():
        torch.testing.assert_close(state[name], values, rtol=0, atol=1e-12, msg=name)
    once.eval(), every.eval()
    assert torch.equal(once(x.expand(-1, 4, -1, -1, -1)), every(x.repeat(1, 4, 1, 1, 1)))


def test_passes_that_are_no_training_leave_the_statistics_of_still_images(
    settings_of: Settings,
) -> None:
    network = build(settings_of({"name": "snn5", "width": WIDTH}), CIFAR, 10)
    norm = network.body.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    norm.track_running_stats = False

    network(torch.rand(2, 1, *CIFAR).expand(-1, 4, -1, -1, -1))

    assert norm.running_var is not None
    assert torch.equal(norm.running_var, torch.ones(1))
