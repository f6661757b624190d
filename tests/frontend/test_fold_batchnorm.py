"""
Folding: equal to PyTorch's own evaluation, for every kind of batch norm, or refused with the reason.

Most networks here compute in float64, where what folding changes is in the last digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations

from neurocompile.errors import UnsupportedError
from neurocompile.frontend.fold_batchnorm import fold_batchnorm, trace_layers

EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def with_statistics(norm: Any, seed: int = 0) -> Any:
    """Give a batch norm the statistics and affine parameters of a trained one, negative gammas too."""
    generator = torch.Generator().manual_seed(seed)
    count = norm.num_features
    norm.running_mean = torch.randn(count, generator=generator)
    norm.running_var = torch.rand(count, generator=generator) + 1e-6
    if norm.affine:
        norm.weight = nn.Parameter(torch.randn(count, generator=generator))
        norm.bias = nn.Parameter(torch.randn(count, generator=generator))
    return norm


def bn(channels: int, *, seed: int = 0, **options: Any) -> Any:
    return with_statistics(nn.BatchNorm2d(channels, **options), seed)


def bn1d(channels: int, *, seed: int = 0, **options: Any) -> Any:
    return with_statistics(nn.BatchNorm1d(channels, **options), seed)


def norms_of(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


class Net(nn.Module):
    """A network whose forward pass is a function of its modules."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def check(network: nn.Module, *shape: int, told: bool = True, **tolerance: Any) -> fx.GraphModule:
    """Assert that `network` computes the same when it is folded, and return that."""
    network = network.double().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, *shape, dtype=torch.float64, generator=generator)

    folded = fold_batchnorm(trace_layers(network), input_shape=shape if told else None)

    assert not norms_of(folded)
    torch.testing.assert_close(folded(x), network(x), **(tolerance or EXACT))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    return folded


def layers_of(folded: nn.Module) -> list[str]:
    return [type(part).__name__ for part in folded.modules() if not list(part.children())][:]


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), (3, 6, 6)),
        (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), (3, 6, 6)),
        (nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4, eps=0.1), (4, 6, 6)),
        (nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4, momentum=None), (4, 6, 6)),
        (nn.Conv2d(4, 8, (1, 3), dilation=2, groups=4), nn.BatchNorm2d(8), (4, 6, 6)),
        (nn.Conv2d(2, 3, 3, padding=2, padding_mode="circular"), nn.BatchNorm2d(3), (2, 6, 6)),
        (nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1), nn.BatchNorm2d(4), (3, 4, 5)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6), (4, 4, 5)),
        (nn.ConvTranspose1d(4, 4, 3, groups=4), nn.BatchNorm1d(4), (4, 5)),
        (nn.Linear(5, 4), nn.BatchNorm1d(4), (5,)),
        (nn.Conv1d(3, 4, 3, stride=2), nn.BatchNorm1d(4), (3, 9)),
        (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), (2, 3, 3, 3)),
        (nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), (3, 6, 6)),
    ],
)
@pytest.mark.parametrize("told", [True, False], ids=["shape", "no shape"])
def test_a_folded_layer_computes_the_same(
    layer: nn.Module, norm: nn.Module, shape: Any, *, told: bool
) -> None:
    folded = check(nn.Sequential(layer, with_statistics(norm)), *shape, told=told)

    assert len(layers_of(folded)) == 1


def test_weights_are_rounded_once() -> None:
    """A third in float32 is not a third in float64: W' is that of the exact product."""
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, eps=0.0))
    network[0].weight = nn.Parameter(torch.tensor([[3.0]]))
    network[1].running_var = torch.tensor([3.0])
    network.eval()

    layer: Any
    (layer,) = fold_batchnorm(fx.symbolic_trace(network)).children()

    assert layer.weight.item() == float(np.float32(3 / np.sqrt(3.0)))


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_a_gamma_may_be_zero_or_negative(value: float) -> None:
    norm = bn(2)
    norm.weight.data[:] = value

    check(nn.Sequential(nn.Conv2d(1, 2, 3), norm), 1, 5, 5)


def test_a_network_in_training_folds_as_in_evaluation() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), bn(2), nn.Dropout(0.9), nn.ReLU())
    network.train()
    x = torch.randn(2, 1, 5, 5)

    folded = fold_batchnorm(fx.symbolic_trace(network))

    assert network.training
    assert not folded.training
    torch.testing.assert_close(folded(x), network.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inplace", [True, False])
def test_activations_stay_and_what_does_nothing_is_no_obstacle(*, inplace: bool) -> None:
    folded = check(
        nn.Sequential(
            nn.Conv2d(1, 2, 3),
            nn.Identity(),
            nn.Dropout2d(0.3),
            bn(2),
            bn(2, seed=1),
            nn.ReLU6(inplace),
            nn.ConvTranspose2d(2, 2, 3),
            bn(2, seed=2),
            nn.ReLU(inplace),
        ),
        *(1, 6, 6),
    )

    kinds = layers_of(folded)
    assert kinds == ["Conv2d", "Identity", "Dropout2d", "ReLU6", "ConvTranspose2d", "ReLU"]


def test_a_layer_that_others_use_too_is_folded_in_a_copy() -> None:
    network = Net(
        lambda m, x: torch.relu(m.bn(y := m.conv(x))) + y, conv=nn.Conv2d(1, 2, 3), bn=bn(2)
    )

    folded = check(network, 1, 5, 5)

    assert layers_of(folded).count("Conv2d") == 2
    check(Net(lambda m, x: m.bn(y := m.conv(x)) + y, conv=nn.Conv2d(1, 2, 3), bn=bn(2)), 1, 5, 5)


def test_modules_that_are_called_at_several_places_are_copied() -> None:
    folded = check(
        Net(
            lambda m, x: (
                (y := m.one(m.conv(x)) + m.two(m.conv(x + 1))) + m.shared(m.a(y)) + m.shared(m.b(y))
            ),
            conv=nn.Conv2d(1, 1, 1),
            one=bn(1),
            two=bn(1, seed=1),
            a=nn.Conv2d(1, 1, 1),
            b=nn.Conv2d(1, 1, 1),
            shared=bn(1, seed=2),
        ),
        *(1, 4, 4),
    )

    assert layers_of(folded) == ["Conv2d"] * 4


def test_one_module_under_two_names_is_one() -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1)
    folded = check(nn.Sequential(conv, bn(1), conv, bn(1, seed=1), conv), 1, 5, 5)

    assert layers_of(folded) == ["Conv2d"] * 3


def test_both_branches_of_a_residual_block_fold() -> None:
    folded = check(
        Net(
            lambda m, x: torch.relu(m.bn_a(m.a(x)) + m.bn_b(m.b(x)) + x),
            a=nn.Conv2d(2, 2, 3, padding=1),
            bn_a=bn(2),
            b=nn.Conv2d(2, 2, 1),
            bn_b=bn(2, seed=1),
        ),
        *(2, 5, 5),
    )

    assert layers_of(folded) == ["Conv2d"] * 2


@pytest.mark.parametrize(
    ("function", "layers"),
    [
        (lambda m, x: m.bn(m.a(x) + m.b(x)), 2),
        (lambda m, x: m.bn(torch.add(m.pool(m.a(x) + m.b(x)), m.c(x))), 3),
        (lambda m, x: m.bn(m.a(x).add(m.a(x))), 2),  # its layer twice: one becomes a copy
        (lambda m, x: m.bn((y := m.a(x)) + y), 2),  # one tensor twice: not halves of a shift
        (lambda m, x: m.bn(m.a(x) + x), 2),
        (lambda m, x: m.bn(m.pool(m.a(x))), 1),
        (lambda m, x: m.bn(m.pool(y := m.a(x))) + y, 2),
        (lambda m, x: m.bn(m.padded(m.a(x))), 2),
        (lambda m, x: m.bn(m.uncounted(m.a(x))), 1),
        (lambda m, x: m.bn(m.divided(m.a(x))), 2),
        (lambda m, x: m.bn(m.adaptive(m.a(x))), 1),
        (lambda m, x: m.bn(m.largest(m.a(x))), 2),
        (lambda m, x: m.bn(x), 1),
        (lambda m, x: m.bn(torch.relu(x)), 1),
        (lambda m, x: m.bn(m.bn(x)), 1),
    ],
)
def test_a_batch_norm_behind_sums_and_pools_folds_or_becomes_a_layer(
    function: Any, layers: int
) -> None:
    network = Net(
        function,
        bn=bn(2),
        a=nn.Conv2d(2, 2, 3, padding=1),
        b=nn.Conv2d(2, 2, 1),
        c=nn.Conv2d(2, 2, 1),
        pool=nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        padded=nn.AvgPool2d(3, 1, 1),
        uncounted=nn.AvgPool2d(2, ceil_mode=True),
        divided=nn.AvgPool2d(2, divisor_override=1),
        adaptive=nn.AdaptiveAvgPool2d(2),
        largest=nn.MaxPool2d(2),
    )

    folded = check(network, 2, 5, 5)

    assert layers_of(folded).count("Conv2d") == layers


def test_a_mean_with_padding_folds_where_there_is_no_shift() -> None:
    norm = bn(2)
    norm.running_mean.zero_()
    norm.bias.data.zero_()
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.AvgPool2d(3, 1, 1), norm)

    assert layers_of(check(network, 2, 5, 5)) == ["Conv2d", "AvgPool2d"]


@pytest.mark.parametrize(
    ("layer", "before"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), 0),
        (nn.Conv2d(4, 2, 3, padding="valid"), 0),
        (nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"), 0),
        (nn.Conv2d(4, 2, 1, padding="same"), 0),
        (nn.Conv2d(4, 2, 3, padding=1), 1),  # the zeros of its border are no zeros of the norm's
        (nn.Conv2d(4, 2, 3, padding="same"), 1),
        (nn.ConvTranspose2d(4, 2, 3), 1),
        (nn.Linear(5, 2), 1),  # works on the last axis, the norm on the channels
    ],
)
def test_a_batch_norm_of_spikes_goes_into_the_layer_behind_it_or_becomes_one(
    layer: nn.Module, before: int
) -> None:
    folded = check(nn.Sequential(nn.Threshold(0.1, 0.0), bn(4), layer), 4, 5, 5)

    assert len(layers_of(folded)) == 2 + before


def test_all_layers_behind_must_take_a_batch_norm() -> None:
    def network(padding: int) -> Net:
        return Net(
            lambda m, x: m.a(y := m.bn(torch.relu(x))) + m.b(y),
            bn=bn(2),
            a=nn.Conv2d(2, 2, 3),
            b=nn.Conv2d(2, 2, 3 + 2 * padding, padding=padding),
        )

    assert len(layers_of(check(network(0), 2, 7, 7))) == 2
    assert len(layers_of(check(network(1), 2, 7, 7))) == 3


def test_a_layer_behind_that_is_called_twice_is_copied() -> None:
    network = Net(lambda m, x: m.a(m.bn(torch.relu(x))) + m.a(x), bn=bn(2), a=nn.Conv2d(2, 2, 3))

    assert layers_of(check(network, 2, 5, 5)) == ["Conv2d"] * 2


def test_a_padding_is_harmless_without_a_shift() -> None:
    norm = bn(2)
    norm.running_mean.zero_()
    norm.bias.data.zero_()

    folded = check(nn.Sequential(nn.ReLU(), norm, nn.Conv2d(2, 2, 3, padding=1)), 2, 5, 5)

    assert layers_of(folded) == ["ReLU", "Conv2d"]


def test_vectors_and_series_tell_batch_norms_of_one_axis_apart() -> None:
    vectors = nn.Sequential(nn.Sigmoid(), bn1d(4))
    behind = nn.Sequential(nn.Sigmoid(), bn1d(4), nn.Linear(4, 2))

    assert layers_of(check(vectors, 4)) == ["Sigmoid", "Linear"]
    assert layers_of(check(vectors, 4, 6)) == ["Sigmoid", "Conv1d"]
    assert layers_of(check(behind, 4)) == ["Sigmoid", "Linear"]
    assert layers_of(check(behind, 4, 4)) == ["Sigmoid", "Conv1d", "Linear"]
    with pytest.raises(
        UnsupportedError,
        match="layer '1' needs to know how many axes its input has.*: give the shape of the input",
    ):
        fold_batchnorm(fx.symbolic_trace(vectors))


def test_a_linear_layer_on_a_series_is_not_one_of_its_channels() -> None:
    """Its outputs are the last axis and the norm's channels the first, of 4 each."""
    network = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Linear(4, 4), bn1d(4))

    assert layers_of(check(network, 2, 6, told=False)) == ["Conv1d", "Linear", "Conv1d"]
    assert layers_of(check(nn.Sequential(nn.Linear(4, 4), bn1d(4)), 4, 4)) == ["Linear", "Conv1d"]


def test_flat_images_are_vectors() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.ReLU(), bn1d(18))

    assert layers_of(check(network, 1, 5, 5, told=False))[-1] == "Linear"


class ThresholdDependent(nn.BatchNorm2d):
    """The threshold-dependent batch norm with its factor in the forward pass."""

    def __init__(self, channels: int, alpha: float, threshold: float) -> None:
        super().__init__(channels)
        self.factor = alpha * threshold

    def forward(self, x: Tensor) -> Tensor:
        along = (1, -1, 1, 1)
        assert self.running_mean is not None
        assert self.running_var is not None
        scaled = x - self.running_mean.reshape(along)
        scaled = scaled * self.factor / torch.sqrt(self.running_var + self.eps).reshape(along)
        return scaled * self.weight.reshape(along) + self.bias.reshape(along)


class OverTime(nn.BatchNorm2d):
    """A plain batch norm for (time, batch, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.flatten(0, 1))
        return y.reshape(*x.shape[:2], *y.shape[1:])


class TimeDependent(OverTime):
    """A factor for each of four steps, as no static weight can have."""

    def forward(self, x: Tensor) -> Tensor:
        factors = torch.arange(1.0, 1 + len(x)).reshape(-1, 1, 1, 1, 1)
        return super().forward(x) * factors


def test_a_threshold_dependent_batch_norm_keeps_its_factor() -> None:
    """In its forward pass, where beta has no factor, or in its gamma from the start."""
    norm = with_statistics(ThresholdDependent(4, 2**-0.5, 0.3))
    plain = bn(4)
    plain.weight.data *= 2**-0.5 * 0.3

    one, other = (
        check(nn.Sequential(nn.Conv2d(1, 4, 3), n), 1, 5, 5, rtol=1e-9, atol=1e-9)
        for n in (norm, plain)
    )

    assert layers_of(one) == layers_of(other) == ["Conv2d"]


def test_a_batch_norm_with_time_folds_where_all_steps_are_alike() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), with_statistics(OverTime(2)))
    folded = fold_batchnorm(trace_layers(network))
    plain = nn.Sequential(network[0], bn(2)).eval()
    x = torch.randn(2, 1, 5, 5)

    torch.testing.assert_close(folded(x), plain(x), rtol=1e-5, atol=1e-5)


def test_all_that_cannot_be_folded_is_told_with_reasons() -> None:
    class Refused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3)
            self.untracked = nn.BatchNorm2d(1, track_running_stats=False)
            self.timed = with_statistics(TimeDependent(1))
            self.constant = nn.BatchNorm2d(1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.timed(self.untracked(self.conv(x)))
            other: Tensor = self.constant(1)
            return nn.functional.batch_norm(y, torch.zeros(1), torch.ones(1)) + other

    with pytest.raises(UnsupportedError) as raised:
        fold_batchnorm(trace_layers(Refused()))

    text = str(raised.value)
    assert "4 problems" in text
    assert "layer 'untracked' needs stored statistics to be folded, but it tracks none" in text
    assert (
        "layer 'timed' must scale and shift its channels, always alike, to be folded, but a "
        "'TimeDependent' computes something else: use a plain batch norm"
    ) in text
    assert "layer 'batch_norm' must be a module to be folded, but it is a call" in text
    assert "layer 'constant' must work on a tensor of the network, but it gets 1" in text


def with_weight_norm(layer: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning):
        result: nn.Module = nn.utils.weight_norm(layer)
    return result


def pruned(layer: nn.Module) -> nn.Module:
    methods: Any = import_module("torch.nn.utils.prune")  # has no types
    methods.random_unstructured(layer, "weight", 0.5)
    methods.random_unstructured(layer, "weight", 2)
    methods.l1_unstructured(layer, "bias", 1)
    return layer


@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        with_weight_norm,
        nn.utils.spectral_norm,
        pruned,
    ],
)
def test_weights_that_are_computed_from_others_are_plain_afterwards(change: Any) -> None:
    network = nn.Sequential(change(nn.Conv2d(2, 4, 3)), bn(4))
    network(torch.randn(2, 2, 5, 5))  # in training: what it computes of weights stays in the module
    network.eval()
    x = torch.randn(2, 2, 5, 5)

    folded = fold_batchnorm(fx.symbolic_trace(network))

    torch.testing.assert_close(folded(x), network(x), rtol=1e-5, atol=1e-4)
    assert sorted(name for name, _ in folded.named_parameters()) == ["0.bias", "0.weight"]


def test_a_layer_with_a_hook_is_left_as_it_is() -> None:
    conv = nn.Conv2d(1, 2, 3)
    conv.register_forward_hook(lambda _module, _inputs, output: output * 2)

    folded = check(nn.Sequential(conv, bn(2)), 1, 5, 5)

    assert layers_of(folded) == ["Conv2d", "Conv2d"]


DRAWN = ("conv", "conv", "bn", "bn", "pool", "relu", "sum", "again", "dropout", "grouped")


@given(st.data())
@settings(max_examples=60)
def test_random_networks_fold(data: Any) -> None:
    """Graphs of layers, norms, pools, activations and sums, with layers that are used again."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32), label="seed"))
    torch.manual_seed(data.draw(st.integers(0, 2**32), label="weights"))
    steps = data.draw(st.lists(st.sampled_from(DRAWN), min_size=2, max_size=9), label="steps")
    channels = data.draw(st.sampled_from([2, 4]), label="channels")
    modules: dict[str, nn.Module] = {}
    plan: list[tuple[str, int, int]] = []  # module or "sum", and the tensors that it takes
    for place, step in enumerate(steps):
        source = data.draw(st.integers(max(0, place - 2), place), label="source")
        name = f"{step}{place}"
        match step:
            case "conv":
                modules[name] = nn.Conv2d(channels, channels, 3, padding=1)
            case "grouped":
                modules[name] = nn.Conv2d(
                    channels, channels, 1, groups=2, bias=data.draw(st.booleans())
                )
            case "bn":
                affine = data.draw(st.booleans(), label="affine")
                modules[name] = bn(channels, seed=place, affine=affine)
            case "pool":
                counts = data.draw(st.booleans(), label="padding counts")
                modules[name] = nn.AvgPool2d(3, 1, 1, count_include_pad=counts)
            case "relu":
                modules[name] = nn.ReLU6()
            case "dropout":
                modules[name] = nn.Dropout()
            case "again" if modules:
                name = data.draw(st.sampled_from(sorted(modules)), label="module")
            case _:
                name = "sum"
        plan.append((name, source, data.draw(st.integers(0, place), label="other")))

    def forward(m: Any, x: Tensor) -> Tensor:
        values = [x]
        for name, source, other in plan:
            if name == "sum":
                values.append(values[source] + values[other])
            else:
                values.append(getattr(m, name)(values[source]))
        return values[-1]

    x = torch.randn(2, channels, 5, 5, generator=generator)
    network = Net(forward, **modules).eval()
    # Twice: in the network's own precision, and where only folding's order of operations is left
    for kind, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        network = network.to(kind)
        expected = network(x.to(kind))

        folded = fold_batchnorm(fx.symbolic_trace(network), input_shape=x.shape[1:])

        scale = max(1.0, float(expected.detach().abs().max()))
        assert not norms_of(folded)
        torch.testing.assert_close(folded(x.to(kind)), expected, rtol=0, atol=tolerance * scale)


@given(st.data())
@settings(max_examples=40)
def test_random_chains_of_vectors_and_series_fold(data: Any) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**32), label="weights"))
    series = data.draw(st.booleans(), label="series")
    kinds = data.draw(st.lists(st.sampled_from(["layer", "bn", "relu"]), min_size=2, max_size=6))
    layers: list[nn.Module] = []
    for place, kind in enumerate(kinds):
        if kind == "bn":
            layers.append(bn1d(4, seed=place, affine=data.draw(st.booleans(), label="affine")))
        elif kind == "relu":
            layers.append(nn.ReLU())
        else:
            layers.append(nn.Conv1d(4, 4, 3, padding=1, groups=2) if series else nn.Linear(4, 4))

    check(nn.Sequential(*layers), *((4, 6) if series else (4,)), rtol=1e-10, atol=1e-10)


class ConvNet(nn.Module):
    """The inverted-bottleneck network that a state dict holds: its shapes say all but the strides."""

    def __init__(self, state: dict[str, Tensor], strides: tuple[int, ...]) -> None:
        super().__init__()
        self.state = {name: tuple(value.shape) for name, value in state.items()}
        self.features = nn.Sequential(self.block("features.0", strides[0]))
        for number, stride in enumerate(strides[1:], 1):
            inner = f"features.{number}.bottleneck"
            bottleneck = nn.Sequential(
                *self.block(inner, 1),
                self.block(f"{inner}.3", stride),
                *itertools.islice(self.block(inner, 1, first=4), 2),
            )
            self.features.append(Net(lambda m, x: m.bottleneck(x), bottleneck=bottleneck))
        self.classifier = nn.Sequential(
            self.block("classifier.0", 1),
            nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()),
            nn.Linear(self.state["classifier.2.weight"][1], self.state["classifier.2.weight"][0]),
        )
        self.load_state_dict(state)

    def block(self, name: str, stride: int, first: int = 0) -> nn.Sequential:
        out, per_group, kernel, _ = self.state[f"{name}.{first}.weight"]
        groups = out if per_group == 1 else 1
        conv = nn.Conv2d(
            per_group * groups,
            out,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            bias=f"{name}.{first}.bias" in self.state,
        )
        return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.classifier(self.features(x))
        return result


@torch.no_grad()
def test_a_trained_convolutional_network_keeps_its_logits_and_its_accuracy(
    shared_data: Path,
) -> None:
    """All of its eleven batch norms fold; 77.4 % of the first 1000 test images stay right."""
    state = torch.load(
        shared_data / "ckpt" / "quartz_cifar-convnet.pth", map_location="cpu", weights_only=True
    )
    network = ConvNet(state, (2, 2, 1, 2)).eval()
    with np.load(shared_data / "images" / "cifar10_jpeg.npz") as file:
        images, labels = file["x_test"][:1000], torch.from_numpy(file["y_test"][:1000])
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255

    folded = fold_batchnorm(trace_layers(network))

    logits, expected = (
        torch.cat([net(x[i : i + 250]) for i in range(0, 1000, 250)]) for net in (folded, network)
    )
    assert len(norms_of(network)) == 11
    assert not norms_of(folded)
    assert float((logits - expected).abs().max()) < 1e-4
    assert int((logits.argmax(1) == labels).sum()) == 774
    assert "ReLU6" in layers_of(folded)
