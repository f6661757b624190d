"""The finite difference gradient, by hand and against plain passes, and the temperature that follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurocompile.errors import OptionError
from neurocompile.training.config import FdgSettings, LossSettings, TrainSettings, resolve
from neurocompile.training.fdg import adapt_temperature
from neurocompile.training.losses import loss_of
from neurocompile.training.networks import SpikingNetwork, build
from neurocompile.training.neurons import LIF
from neurocompile.training.normalisation import unmoved_statistics
from neurocompile.training.surrogates import Dspike, Masked, Surrogate, Triangle, surrogate_of

LOSS = loss_of(LossSettings(), 0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """For layers as small as these, more threads wait more than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def settings() -> Callable[..., TrainSettings]:
    """Makes the settings of a small network with Dspike."""

    def make(*overrides: str) -> TrainSettings:
        small = 'network.stages=[{"channels":4,"kernel":3},{"channels":4,"kernel":3,"pool":2}]'
        others = any(override.startswith("network.") for override in overrides)
        chosen = ["surrogate.name=dspike", "timesteps=2", *overrides, *([] if others else [small])]
        return resolve(preset="digits", overrides=chosen)

    return make


@pytest.fixture
def trial() -> Callable[[TrainSettings], tuple[SpikingNetwork, Surrogate, Tensor, Tensor]]:
    """Makes a network of settings, its surrogate, and a batch."""

    def make(chosen: TrainSettings) -> tuple[SpikingNetwork, Surrogate, Tensor, Tensor]:
        torch.manual_seed(0)
        network = build(chosen, (2, 6, 6), 3)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.bias)
        surrogate = next(item for item in network.modules() if isinstance(item, LIF)).surrogate
        inputs = torch.rand(8, 1, 2, 6, 6).expand(-1, 2, -1, -1, -1)
        return network, surrogate, inputs, torch.randint(0, 3, (8,))

    return make


class _OneLayer(nn.Module):
    """One weight, one neuron, and a read-out that shows the spike as logits (a, 0)."""

    def __init__(self, weight: float, surrogate: Dspike) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1, bias=False)
        self.lif = LIF(0.5, 1.0, surrogate)
        self.readout = nn.Linear(1, 2, bias=False)
        nn.init.constant_(self.linear.weight, weight)
        with torch.no_grad():
            self.readout.weight[:] = torch.tensor([[1.0], [0.0]])

    def forward(self, x: Tensor, steps: int) -> Tensor:
        shown: Tensor = self.readout(self.lif(self.linear(x), steps))
        return shown


def test_of_one_weight_it_is_the_change_of_the_loss_over_twice_the_step() -> None:
    """w = 1 moves by 0.1 to 1.1, which fires, and to 0.9, which does not: (log 2 - log(1 + e)) / 0.2."""
    surrogate = Dspike(3.0)
    network = SpikingNetwork(_OneLayer(1.0, surrogate), (1,))

    def loss(outputs: Tensor, _labels: Tensor) -> Tensor:
        losses.append(float(outputs.detach().sum()))
        return outputs.sum()

    losses: list[float] = []
    x, labels = torch.ones(1, 1, 1), torch.zeros(1, dtype=torch.long)
    temperature, report = adapt_temperature(
        network, surrogate, loss, x, labels, FdgSettings(epsilon=0.1), seed=0
    )

    # as it is (no spike at the threshold), with the spike, without; then a pass for each candidate
    assert losses[0] == 0
    assert losses[1:-3] == [1]  # below, nothing changes: the loss of before is taken
    assert (report.weights, report.felt) == (1, 1)
    # one weight: all candidates point the same way, and a tie keeps the temperature
    assert report.cosines == {3.0: 1.0, 3.2: 1.0, 2.8: 1.0}
    assert temperature == 3.0


def test_without_any_effect_the_temperature_stays() -> None:
    surrogate = Dspike(3.0)
    network = SpikingNetwork(_OneLayer(0.5, surrogate), (1,))

    temperature, report = adapt_temperature(
        network,
        surrogate,
        LOSS,
        torch.ones(1, 1, 1),
        torch.zeros(1, dtype=torch.long),
        FdgSettings(epsilon=0.1),
        seed=0,
    )

    assert temperature == 3.0
    assert set(report.cosines.values()) == {0.0}
    assert report.felt == 0


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["normalisation.kind=tdbn", "neuron.learn_tau=true"],
        ["network.name=dense", "network.hidden=[6,5]", "neuron.threshold=0.1"],
        [
            "network.name=sew-resnet34",
            "network.blocks=[1,1,1,1]",
            "network.width=0.03",
            "neuron.threshold=0.3",
        ],
    ],
    ids=["stages", "tdbn", "dense", "residual"],
)
def test_it_is_what_plain_passes_find(
    overrides: list[str], settings: Callable[..., TrainSettings], trial: Callable[..., Any]
) -> None:
    """Each weight is moved in the network itself, which runs as in training."""
    network, surrogate, inputs, labels = trial(settings(*overrides))
    network.double()
    inputs = inputs.double()
    seen: list[Tensor] = []

    def kept(first: Tensor, second: Tensor, _axis: int) -> Tensor:
        seen.append(first)
        return (first * second).sum()

    patched = pytest.MonkeyPatch()
    patched.setattr("neurocompile.training.fdg.functional.cosine_similarity", kept)
    with patched.context():
        adapt_temperature(network, surrogate, LOSS, inputs, labels, FdgSettings(epsilon=0.5), 0)
    patched.undo()

    weight = next(p for p in network.parameters() if p.ndim > 1)
    eps = 0.5 * float(weight.detach().std(correction=0))
    expected = []
    with torch.no_grad(), unmoved_statistics(network):
        for place in range(weight.numel()):
            losses = []
            for sign in (1, -1):
                weight.view(-1)[place] += sign * eps
                losses.append(LOSS(network(inputs), labels))
                weight.view(-1)[place] -= sign * eps
            expected.append((losses[0] - losses[1]) / (2 * eps))
    torch.testing.assert_close(seen[0], torch.stack(expected), rtol=0, atol=1e-9)
    assert int(seen[0].count_nonzero()) > weight.numel() / 5


def test_everything_is_left_as_it_was(
    settings: Callable[..., TrainSettings], trial: Callable[..., Any]
) -> None:
    network, surrogate, inputs, labels = trial(settings("mask.probability=0.5"))
    assert isinstance(surrogate, Masked)
    torch.autograd.backward(LOSS(network(inputs), labels))
    network.body.get_submodule("bn2").eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    modes = [module.training for module in network.modules()]
    masks = Masked(Triangle(), 0.5, seed=surrogate._seed)
    surrogate.reseed(surrogate._seed)
    state = torch.get_rng_state()

    chosen, report = adapt_temperature(
        network, surrogate, LOSS, inputs, labels, FdgSettings(epsilon=0.5), seed=1
    )

    assert torch.equal(torch.get_rng_state(), state)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    now = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, now, strict=True))
    assert [module.training for module in network.modules()] == modes
    norms = [item for item in network.modules() if isinstance(item, nn.BatchNorm2d)]
    assert all(norm.track_running_stats for norm in norms)
    assert isinstance(surrogate.base, Dspike)
    assert (surrogate.probability, surrogate.base.temperature) == (0.5, 3.0)
    ones = torch.zeros(100)
    assert torch.equal(surrogate.slope(ones) == 0, masks.slope(ones) == 0)  # no mask was drawn
    assert chosen in report.cosines
    assert report.to_json()["temperature"] == chosen


def test_another_temperature_wins_where_it_fits_better() -> None:
    """
    Two weights: one neuron at the threshold, one at 0.45 that only a move of 0.6 brings to fire.

    Both change the loss by as much, so the wider slope, which weighs both more alike, fits better.
    """

    class Two(nn.Module):
        def __init__(self, surrogate: Dspike) -> None:
            super().__init__()
            self.linear = nn.Linear(1, 2, bias=False)
            self.lif = LIF(0.5, 1.0, surrogate)
            self.readout = nn.Linear(2, 1, bias=False)
            with torch.no_grad():
                self.linear.weight[:] = torch.tensor([[1.0], [0.45]])
                self.readout.weight[:] = 1.0

        def forward(self, x: Tensor, steps: int) -> Tensor:
            shown: Tensor = self.readout(self.lif(self.linear(x), steps))
            return shown

    def loss(outputs: Tensor, _labels: Tensor) -> Tensor:
        return outputs.sum()

    x, labels = torch.ones(1, 1, 1), torch.zeros(1, dtype=torch.long)
    far = FdgSettings(epsilon=0.6 / 0.275)  # the two weights deviate by 0.275
    for settings, expected in (
        (far, 2.8),
        (far.model_copy(update={"minimum": 2.9}), 3.0),
        (FdgSettings(epsilon=0.1), 3.2),  # the second cannot fire: the narrower, the better
    ):
        surrogate = Dspike(3.0)
        network = SpikingNetwork(Two(surrogate), (1,))
        temperature, _ = adapt_temperature(network, surrogate, loss, x, labels, settings, 0)
        assert temperature == expected


def test_some_weights_are_drawn_by_the_seed(
    settings: Callable[..., TrainSettings], trial: Callable[..., Any]
) -> None:
    few = FdgSettings(epsilon=0.5, weights=10)
    reports = []
    for seed in (0, 0, 1):
        network, surrogate, inputs, labels = trial(settings())
        reports.append(adapt_temperature(network, surrogate, LOSS, inputs, labels, few, seed)[1])

    assert [report.weights for report in reports] == [10, 10, 10]
    assert reports[0] == reports[1]
    assert reports[0] != reports[2]


def test_a_surrogate_without_temperature_and_a_strange_first_layer_are_refused(
    settings: Callable[..., TrainSettings], trial: Callable[..., Any]
) -> None:
    network, _, inputs, labels = trial(settings())
    with pytest.raises(OptionError, match=r"the surrogate is Triangle.*surrogate\.name=dspike"):
        adapt_temperature(network, Triangle(), LOSS, inputs, labels, FdgSettings(), 0)

    class Own(nn.Conv2d):
        pass

    surrogate = surrogate_of(settings())
    for layer, name in (
        (Own(2, 4, 3, padding=1), r"'conv1\.weight' is trained before"),
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), "'conv1' is a Conv2d"),
        (nn.BatchNorm2d(2), "'conv1' is a BatchNorm2d"),
    ):
        network.body.add_module("conv1", layer)
        with pytest.raises(OptionError, match=rf"{name}.*leave surrogate\.adapt out"):
            adapt_temperature(network, surrogate, LOSS, inputs, labels, FdgSettings(), 0)
