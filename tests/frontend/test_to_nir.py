"""
Sums, joined channels and pools of PyTorch networks, as NIR graphs that mean the same.

Each network goes the whole way, folded, written, read and rebuilt. Its weights are dyadic numbers, so
that floats compute every sum exactly: PyTorch, the rebuilt PyTorch and the float64 reference must agree
in every spike. Where their order matters, weights are random floats and only PyTorch is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurocompile.data import InputRange
from neurocompile.errors import UnsupportedError
from neurocompile.frontend.fold_batchnorm import fold_batchnorm
from neurocompile.frontend.from_nir import from_nir
from neurocompile.frontend.plain_pools import plain_pools
from neurocompile.frontend.to_nir import to_nir, write_nir
from neurocompile.frontend.to_torch import to_torch
from neurocompile.ir import Network, Pool2d, Scale, Threshold
from neurocompile.reference import simulate
from neurocompile.training.networks import SpikingNetwork, spikes_of, trace
from neurocompile.training.neurons import LIF

SPIKES = InputRange(0, 1, 1)
COUNTS = InputRange(0, 3, 1)
SIXTEENTHS = InputRange(0, 1, 1 / 16)
STEPS = 4

Prove = Callable[..., Network]


def make_dyadic(body: nn.Module) -> None:
    """Give every weight, and every batch norm after folding, few bits."""
    generator = torch.Generator().manual_seed(0)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps = 0.0
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_var.fill_(4.0)
            module.running_mean.copy_(
                torch.randint(-2, 3, module.running_mean.shape, generator=generator) / 4
            )
            module.weight = nn.Parameter(
                2.0 ** torch.randint(0, 2, module.weight.shape, generator=generator)
            )
            module.bias = nn.Parameter(torch.zeros_like(module.bias))
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            for parameter in module.parameters():
                parameter.data = torch.randint(-8, 13, parameter.shape, generator=generator) / 16


@pytest.fixture
def prove(tmp_path: Path) -> Prove:
    """Sends a body through NIR and back, asserts that all spikes stay, and returns the read network."""

    def run(
        body: nn.Module,
        shape: tuple[int, ...],
        *,
        limits: InputRange = SPIKES,
        exact: bool = True,
    ) -> Network:
        torch.manual_seed(0)
        for parameter in body.parameters():
            parameter.data = 2 * torch.randn(parameter.shape) / parameter[0].numel() ** 0.5
        if exact:
            make_dyadic(body)
        body.eval()
        folded = SpikingNetwork(plain_pools(fold_batchnorm(trace(body)), shape), shape)
        path = tmp_path / "graph.nir"
        write_nir(path, to_nir(folded.body, shape, steps=STEPS, input_range=limits))  # type: ignore[arg-type]
        network = from_nir(path).network
        levels = round((limits.maximum - limits.minimum) / limits.step)
        x = torch.randint(0, levels + 1, (8, STEPS, *shape)).float() * limits.step

        output, spikes = spikes_of(folded, x)
        rebuilt_output, rebuilt = spikes_of(to_torch(network), x)

        assert torch.equal(output, rebuilt_output)
        assert spikes.keys() == rebuilt.keys()
        for name, values in spikes.items():
            assert torch.equal(values, rebuilt[name]), name
            assert 0 < values.mean() < 1, name
        if exact:
            before, _ = spikes_of(SpikingNetwork(body, shape), x)
            assert torch.equal(before, output)
            reference = simulate(network, x.numpy())
            assert np.array_equal(reference.output, output.numpy())
            for name, values in spikes.items():
                assert np.array_equal(reference.spikes[name], values.numpy()), name
        return network

    return run


class Body(nn.Module):
    """A body whose forward pass is a function of its modules; `steps` is for neurons."""

    def __init__(self, forward: Callable[[Any, Tensor, int], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        return self.function(self, x, steps)


def conv(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)


class MembraneBlock(nn.Module):
    """ResNet-19's block: the shortcut joins before the second neurons."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(before, after, 3, stride), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = conv(after, after), nn.BatchNorm2d(after)
        self.lif1, self.lif2 = LIF(), LIF()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(conv(before, after, 1, stride), nn.BatchNorm2d(after))

    def forward(self, x: Tensor, steps: int) -> Tensor:
        y = self.lif1(self.bn1(self.conv1(x)), steps)
        result: Tensor = self.lif2(self.bn2(self.conv2(y)) + self.shortcut(x), steps)
        return result


class MembraneNet(nn.Module):
    def __init__(self, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.stem_bn, self.stem_lif = conv(1, 2), nn.BatchNorm2d(2), LIF()
        self.block1, self.block2 = MembraneBlock(2, 2, 1), MembraneBlock(2, 4, 2)
        self.pool = pool or nn.AdaptiveAvgPool2d((1, 1))
        self.flatten = nn.Flatten()
        self.fc1, self.lif, self.fc2 = nn.Linear(4, 6), LIF(threshold=0.25), nn.Linear(6, 3)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        x = self.stem_lif(self.stem_bn(self.stem(x)), steps)
        x = self.block2(self.block1(x, steps), steps)
        x = self.flatten(self.pool(x))
        result: Tensor = self.fc2(self.lif(self.fc1(x), steps))
        return result


def test_residual_blocks_that_add_membranes(prove: Prove) -> None:
    network = prove(MembraneNet(), (1, 8, 8), limits=SIXTEENTHS)

    assert set(network.sources("block1.lif2")) == {"block1.conv2", "stem_lif"}
    assert set(network.sources("block2.lif2")) == {"block2.conv2", "block2.shortcut.0"}
    assert network.nodes["pool"] == Pool2d((4, 4), (4, 4), scale=1 / 16)
    assert not network.of_type(Scale)


class SewBlock(nn.Module):
    """SEW-ResNet's block: spikes are added to spikes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.lif1 = (
            conv(channels, channels),
            nn.BatchNorm2d(channels),
            LIF(),
        )
        self.conv2, self.bn2, self.lif2 = (
            conv(channels, channels),
            nn.BatchNorm2d(channels),
            LIF(),
        )

    def forward(self, x: Tensor, steps: int) -> Tensor:
        y = self.lif1(self.bn1(self.conv1(x)), steps)
        z: Tensor = self.lif2(self.bn2(self.conv2(y)), steps)
        return z + x


class SewNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn, self.stem_lif = conv(1, 2), nn.BatchNorm2d(2), LIF()
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.block1, self.block2, self.block3 = SewBlock(2), SewBlock(2), SewBlock(2)
        self.fc = nn.Linear(2 * 4 * 4, 3)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        x = self.pool(self.stem_lif(self.stem_bn(self.stem(x)), steps))
        x = self.block3(self.block2(self.block1(x, steps), steps), steps)
        result: Tensor = self.fc(torch.flatten(x, 1))
        return result


def test_blocks_that_add_spikes_behind_a_max_pool(prove: Prove) -> None:
    network = prove(SewNet(), (1, 8, 8))

    assert isinstance(network.nodes["pool.or"], Threshold)
    assert network.nodes["pool"] == Pool2d((3, 3), (2, 2), (1, 1), scale=1)
    assert set(network.sources("block1.conv1")) == {"pool.or"}
    # each sum is one node, fed by the sum before it
    assert set(network.sources("add")) == {"block1.lif2", "pool.or"}
    assert set(network.sources("add_1")) == {"block2.lif2", "add"}
    assert set(network.sources("flatten")) == {"block3.lif2", "add_1"}


def test_max_pools_of_every_geometry(prove: Prove) -> None:
    for kernel, stride, padding in ((2, 2, 0), (3, 1, 1), ((3, 2), (2, 1), (1, 0))):
        body = Body(
            lambda m, x, steps: m.conv(m.pool(m.lif(m.stem(x), steps))),
            stem=conv(1, 2),
            lif=LIF(),
            pool=nn.MaxPool2d(kernel, stride, padding),
            conv=conv(2, 1),
        )
        prove(body, (1, 7, 6))


def test_a_max_pool_of_input_spikes(prove: Prove) -> None:
    body = Body(lambda m, x, _steps: m.pool(x), pool=nn.MaxPool2d(2))

    assert set(prove(body, (2, 4, 4)).sources("pool.or")) == {"pool"}


@pytest.mark.parametrize(
    ("forward", "limits", "text"),
    [
        (lambda m, x, _s: m.pool(x), SIXTEENTHS, "it gets other numbers"),
        (lambda m, x, _s: m.pool(x), COUNTS, "it gets sums of spikes"),
        (lambda m, x, s: m.pool(m.lif(x, s) + x), SPIKES, "it gets sums of spikes"),
        (lambda m, x, s: m.pool(m.average(m.lif(x, s))), SPIKES, "it gets other numbers"),
    ],
)
def test_a_max_pool_of_other_values_is_refused(forward: Any, limits: InputRange, text: str) -> None:
    body = Body(forward, pool=nn.MaxPool2d(2), lif=LIF(), average=nn.AvgPool2d(1))

    with pytest.raises(
        UnsupportedError,
        match=f"layer 'pool' needs spikes, 0 or 1, to take the largest of, but {text}",
    ):
        to_nir(trace(body), (1, 4, 4), steps=1, input_range=limits)


@pytest.mark.parametrize("options", [{"ceil_mode": True}, {"dilation": 2}])
def test_a_max_pool_with_options_is_refused(options: Any) -> None:
    body = Body(lambda m, x, _s: m.pool(x), pool=nn.MaxPool2d(2, **options))

    with pytest.raises(
        UnsupportedError, match="layer 'pool' needs a plain max pool, but ceil_mode"
    ):
        to_nir(trace(body), (1, 5, 5), steps=1, input_range=SPIKES)


def test_a_layer_added_to_itself_counts_twice(prove: Prove) -> None:
    body = Body(
        lambda m, x, s: m.fc((s1 := m.lif(m.stem(x), s)) + s1),
        stem=nn.Linear(4, 6),
        lif=LIF(),
        fc=nn.Linear(6, 3),
    )

    network = prove(body, (4,))

    assert network.sources("fc") == ("lif.times2",)
    node = network.nodes["lif.times2"]
    assert isinstance(node, Scale)
    assert (node.scale == 2).all()


def test_paths_that_meet_again_multiply(prove: Prove) -> None:
    """(a + x) + a = 2 a + x, and two consumers of it share the doubled layer."""

    def forward(m: Any, x: Tensor, s: int) -> Tensor:
        a = m.lif(m.stem(x), s)
        total = (a + x) + a
        result: Tensor = m.one(m.drop(total)) + m.two(m.lif2(total, s))
        return result

    body = Body(
        forward,
        stem=nn.Linear(4, 4),
        lif=LIF(),
        lif2=LIF(threshold=3),
        drop=nn.Dropout(),
        one=nn.Linear(4, 3),
        two=nn.Linear(4, 3),
    )

    network = prove(body, (4,))

    assert set(network.sources("add_1")) == {"lif.times2", "input"}
    assert network.sources("one") == network.sources("lif2") == ("add_1",)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x, _s: m.a(x) + (m.b(x) + m.c(x)),
        lambda m, x, _s: (m.a(x) + m.b(x)) + (m.c(x) + m.d(x)),
        lambda m, x, _s: (y := m.a(x)) + (m.b(x) + y),
        lambda m, x, _s: ((y := m.a(x)) + m.b(x)) + y,
        lambda m, x, _s: (y := m.a(x)) + y + m.b(x) + x,
        lambda m, x, _s: (y := m.a(x)) + (y + y),
    ],
)
def test_sums_of_floats_keep_their_order(prove: Prove, forward: Any) -> None:
    """Float sums round, so (a + b) + c is another number than a + (b + c); `prove` compares all bits."""
    body = Body(forward, **{name: nn.Linear(40, 40) for name in "abcd"})

    prove(body, (40,), limits=SIXTEENTHS, exact=False)


def test_a_float_sum_in_another_order_would_be_noticed() -> None:
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 1000)

    assert not torch.equal((a + b) + c, a + (b + c))


def test_channels_are_joined(prove: Prove) -> None:
    """A dense block: each layer sees all before it, and a shortcut is added to the joined channels."""

    def forward(m: Any, x: Tensor, s: int) -> Tensor:
        a = m.lif1(m.bn1(m.conv1(x)), s)
        both = torch.cat([x, a], dim=1)
        b = m.lif2(m.conv2(both), s)
        pooled = m.pool(torch.cat((both, b), 1))
        result: Tensor = m.fc(m.lif3(m.conv3(pooled) + pooled, s).flatten(1))
        return result

    body = Body(
        forward,
        conv1=conv(1, 2),
        bn1=nn.BatchNorm2d(2),
        lif1=LIF(),
        conv2=conv(3, 2),
        lif2=LIF(),
        pool=nn.MaxPool2d(2),
        conv3=conv(5, 5),
        lif3=LIF(),
        fc=nn.Linear(5 * 9, 3),
    )

    network = prove(body, (1, 6, 6))

    assert set(network.sources("conv2")) == {"cat.0", "cat.1"}
    assert set(network.sources("cat_1.0")) == {"cat.0", "cat.1"}
    assert set(network.sources("pool")) == {"cat_1.0", "cat_1.1"}
    assert network.shapes["cat_1.0"] == (5, 6, 6)


def test_flat_layers_and_time_series_are_joined_too(prove: Prove) -> None:
    flat = Body(
        lambda m, x, s: m.fc(torch.cat((a := m.lif(m.a(x), s), x, a), -1)),
        a=nn.Linear(3, 2),
        lif=LIF(),
        fc=nn.Linear(7, 2),
    )
    series = Body(
        lambda m, x, s: m.c(torch.concat((m.lif(m.a(x), s), x), 1)),
        a=nn.Conv1d(2, 3, 3, padding=1),
        lif=LIF(),
        c=nn.Conv1d(5, 2, 2),
    )

    prove(flat, (3,))
    prove(series, (2, 7))


@pytest.mark.parametrize("axis", [2, -1])
def test_other_axes_are_not_joined(axis: int) -> None:
    body = Body(lambda _m, x, _s: torch.cat((x, x), axis))

    with pytest.raises(UnsupportedError, match="layer 'cat' must join channels, axis 1, but"):
        to_nir(trace(body), (1, 4, 4), steps=1, input_range=SPIKES)


def test_convolutions_over_time_series(prove: Prove) -> None:
    body = Body(
        lambda m, x, s: m.fc(m.flat(m.lif2(m.bn2(m.c2(m.lif1(m.bn1(m.c1(x)), s))), s))),
        c1=nn.Conv1d(2, 4, 5, stride=2, padding=2),
        bn1=nn.BatchNorm1d(4),
        lif1=LIF(),
        c2=nn.Conv1d(4, 4, 3, padding="same", dilation=2, groups=2),
        bn2=nn.BatchNorm1d(4),
        lif2=LIF(),
        flat=nn.Flatten(),
        fc=nn.Linear(20, 3),
    )

    network = prove(body, (2, 10), limits=SIXTEENTHS)

    assert network.shapes["c2"] == (4, 5)
    prove(body, (2, 10), limits=SIXTEENTHS, exact=False)


def test_odd_kernels_and_groups_that_nir_itself_gets_wrong(prove: Prove) -> None:
    body = Body(
        lambda m, x, s: m.lif(m.c(x), s),
        c=nn.Conv2d(2, 4, (3, 5), (2, 1), (1, 0), groups=2),
        lif=LIF(),
    )

    assert prove(body, (2, 7, 9)).shapes["c"] == (4, 4, 5)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x, s: m.fc(m.lif(m.c(x), s).mean((2, 3))),
        lambda m, x, s: m.fc(m.lif(m.c(x), s).mean(dim=[-1, -2], keepdim=True).flatten(1)),
        lambda m, x, s: m.fc(torch.mean(m.lif(m.c(x), s), (2, 3))),
        lambda m, x, s: m.fc(torch.flatten(m.one(m.lif(m.c(x), s)), 1)),
        lambda m, x, s: m.fc(nn.functional.adaptive_avg_pool2d(m.lif(m.c(x), s), 1).flatten(1)),
    ],
)
def test_global_means_are_average_pools(prove: Prove, forward: Any) -> None:
    """An image of 6 x 5: torch rounds such means in another way than its average pool."""
    body = Body(forward, c=conv(1, 2), lif=LIF(), one=nn.AdaptiveAvgPool2d(1), fc=nn.Linear(2, 3))

    network = prove(body, (1, 6, 5), limits=SIXTEENTHS, exact=False)

    (pool,) = (node for node in network.nodes.values() if isinstance(node, Pool2d))
    assert (pool.kernel, pool.scale) == ((6, 5), 1 / 30)


def test_adaptive_pools_of_a_whole_ratio(prove: Prove) -> None:
    body = Body(
        lambda m, x, s: m.two(m.pool(m.lif(m.pool(m.c(x)), s))),
        c=conv(1, 2),
        pool=nn.AdaptiveAvgPool2d((None, 2)),
        lif=LIF(threshold=0.25),
        two=conv(2, 1),
    )

    network = prove(body, (1, 3, 8))

    assert [n.kernel for n in network.nodes.values() if isinstance(n, Pool2d)] == [(1, 4), (1, 1)]


@pytest.mark.parametrize("shape", [(1, 5, 4), (1, 4, 5)])
def test_an_adaptive_pool_of_a_broken_ratio_is_refused(shape: tuple[int, ...]) -> None:
    body = Body(lambda m, x, _s: m.pool(x), pool=nn.AdaptiveAvgPool2d(2))

    with pytest.raises(
        UnsupportedError, match="layer 'pool' needs an output size that divides.*it makes 2 of"
    ) as raised:
        to_nir(trace(body), shape, steps=1, input_range=SPIKES)
    assert str(shape[1:]) in str(raised.value)


def test_a_partial_flatten_keeps_the_first_axis(prove: Prove) -> None:
    body = Body(
        lambda m, x, s: m.c(m.flat(m.lif(m.stem(x), s))),
        stem=conv(1, 2),
        lif=LIF(),
        flat=nn.Flatten(2),
        c=nn.Conv1d(2, 1, 4),
    )

    assert prove(body, (1, 3, 4)).shapes["flat"] == (2, 12)


def test_the_input_may_feed_several_layers(prove: Prove) -> None:
    body = Body(
        lambda m, x, s: m.b(m.lif(m.a(x) + x, s) + x) + m.c(x),
        a=nn.Linear(4, 4),
        b=nn.Linear(4, 3),
        c=nn.Linear(4, 3),
        lif=LIF(),
    )

    network = prove(body, (4,))

    assert {target for source, target in network.edges if source == "input"} == {
        "a",
        "b",
        "c",
        "lif",
    }


def test_names_of_modules_win_over_names_of_ours(prove: Prove) -> None:
    body = Body(
        lambda m, x, s: m.output(m.add(m.lif(m.input(x), s) + x, s) + x),
        input=nn.Linear(3, 3),
        lif=LIF(),
        add=LIF(threshold=1.5),
        output=nn.Linear(3, 2),
    )

    network = prove(body, (3,))

    assert network.sources("output.2") == ("output",)
    assert network.sources("input") == ("input.2",)


def test_a_module_without_state_may_be_used_twice(prove: Prove) -> None:
    body = Body(
        lambda m, x, s: m.pool(m.lif(m.pool(m.c(x)), s)),
        c=conv(1, 2),
        pool=nn.AvgPool2d(2),
        lif=LIF(threshold=0.25),
    )

    assert {"pool", "pool.2"} < set(prove(body, (1, 8, 8)).nodes)


def test_nir_itself_reads_residual_networks(tmp_path: Path) -> None:
    body = SewNet()
    make_dyadic(body)
    graph = to_nir(fold_batchnorm(trace(body.eval())), (1, 8, 8), steps=1, input_range=SPIKES)
    write_nir(tmp_path / "graph.nir", graph)

    read = nir.read(tmp_path / "graph.nir")

    assert type(read.nodes["pool"]).__name__ == "SumPool2d"
    assert len(set(read.edges)) == len(read.edges)


@pytest.mark.parametrize(
    ("forward", "text"),
    [
        (lambda m, x, _s: m.up(x), "layer 'up' is a 'Upsample', which cannot be exported"),
        (lambda _m, x, _s: x + 1, "layer 'add' must work on tensors of the network, but it gets 1"),
        (lambda _m, x, _s: torch.add(x, x, alpha=2), "layer 'add' must be a plain addition"),
        (lambda m, x, _s: x + m.pool(x), r"layer 'add' needs tensors of one shape.*\(1, 1, 1\)"),
        (
            lambda m, x, s: m.lif(m.lif(x, s), s),
            "layer 'lif' must be used once, but it is used again",
        ),
        (lambda m, x, _s: m.fc(x), r"layer 'fc' needs a flat input, but it gets \(1, 4, 4\)"),
        (lambda _m, x, _s: torch.flatten(x), "layer 'flatten' must flatten axes behind the batch"),
        (lambda _m, x, _s: (x, x), "layer 'output' must be one tensor"),
        (lambda m, x, _s: x * m.scale, "layer 'scale' is a get_attr 'scale', which NIR cannot"),
        (lambda m, x, _s: x.mean(1, keepdim=True) + m.pool(x), "layer 'mean' is 'mean', which NIR"),
    ],
)
def test_what_nir_cannot_express_is_refused_by_name(forward: Any, text: str) -> None:
    body = Body(
        forward, up=nn.Upsample(scale_factor=2), pool=nn.AvgPool2d(4), lif=LIF(), fc=nn.Linear(4, 4)
    )
    body.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(UnsupportedError, match=text):
        to_nir(trace(body), (1, 4, 4), steps=1, input_range=SPIKES)


def test_a_problem_makes_no_others() -> None:
    """What follows a module that cannot be expressed is checked with the shape that it really has."""
    body = Body(
        lambda m, x, _s: m.fc(m.flat(m.pool(m.up(x))).tanh()),
        up=nn.Upsample(scale_factor=2),
        pool=nn.MaxPool2d(2),
        flat=nn.Flatten(),
        fc=nn.Linear(16, 2),
    )

    with pytest.raises(UnsupportedError) as raised:
        to_nir(trace(body), (1, 4, 4), steps=1, input_range=SPIKES)

    assert "2 problems" in str(raised.value)
    assert "layer 'up' is a 'Upsample'" in str(raised.value)
    assert "layer 'tanh' is 'tanh'" in str(raised.value)
