"""Quantisation-aware training: its forward pass is the integers that export emits, before and after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from neurocompile_loihi2.limits import LIMITS
from torch import Tensor, nn

import neurocompile
from neurocompile import ir
from neurocompile.data import InputRange, load_samples
from neurocompile.errors import OptionError, RangeError, UnsupportedError
from neurocompile.frontend.from_checkpoint import from_checkpoint
from neurocompile.integer import IntegerNetwork, IntegerNeurons
from neurocompile.ir import Conv2d, Delay, Dense, Input, Network, Node, Output
from neurocompile.program import REFERENCE, Program
from neurocompile.quantisation.recipe import Recipe
from neurocompile.reference import simulate
from neurocompile.training.checkpoint import Trained, load_checkpoint, rebuild
from neurocompile.training.config import TrainSettings, resolve
from neurocompile.training.integer_layers import Fixed, IntegerLIF, IntegerWeights, round_bias
from neurocompile.training.integer_terms import read_terms
from neurocompile.training.losses import tet_loss
from neurocompile.training.networks import SpikingNetwork, build, spikes_of
from neurocompile.training.neurons import LIF
from neurocompile.training.quantised import QuantisedBody, describe, prepare, program_of, restore

STEPS = 3
GREY, COLOUR, SPIKES = InputRange(0, 1, 1 / 16), InputRange(0, 1, 1 / 255), InputRange(0, 1, 1)
STAGES = 'network.stages=[{"channels":6,"kernel":3,"pool":2},{"channels":8,"kernel":3,"pool":2}]'
CHANNELS = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))  # means and deviations of the inputs
NETWORKS: dict[str, tuple[list[str], tuple[int, ...], InputRange, Any]] = {
    "convolutional": ([STAGES], (1, 8, 8), GREY, None),
    "a slow leak": ([STAGES, "neuron.tau=0.3"], (1, 8, 8), GREY, None),
    "no leak": ([STAGES, "neuron.kind=if"], (1, 8, 8), GREY, None),
    "normalised": ([STAGES], (3, 8, 8), COLOUR, CHANNELS),
    "dense": (["network.name=dense", "network.hidden=[12,9]"], (1, 8, 8), GREY, None),
    "vggsnn": (["network.name=vggsnn", "network.width=0.03"], (2, 16, 16), SPIKES, None),
    "resnet19": (["network.name=resnet19", "network.width=0.03"], (3, 8, 8), COLOUR, CHANNELS),
    "sew": (
        ["network.name=sew-resnet34", "network.width=0.05", "network.blocks=[1,1,1,1]"],
        (3, 32, 32),
        COLOUR,
        None,
    ),
    "resnet18-dvs": (
        ["network.name=resnet18-dvs", "network.width=0.03", "network.layout=modified"],
        (2, 16, 16),
        SPIKES,
        None,
    ),
}


def settings_of(overrides: list[str], **changes: Any) -> TrainSettings:
    return resolve(preset="digits", overrides=overrides, timesteps=STEPS, **changes)


def pixels(shape: tuple[int, ...], limits: InputRange, *, count: int = 4, seed: int = 1) -> Tensor:
    """Return images, shown at every step."""
    generator = torch.Generator().manual_seed(seed)
    most = round(limits.maximum / limits.step)
    values = torch.randint(0, most + 1, (count, 1, *shape), generator=generator) * float(
        limits.step
    )
    return values.expand(-1, STEPS, *shape)


def a_network(name: str) -> Trained:
    """Return an untrained network whose batch norms have seen images, and make its neurons fire."""
    overrides, shape, limits, channels = NETWORKS[name]
    settings = settings_of(overrides)
    torch.manual_seed(0)
    network = build(settings, shape, 10, channels)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
            nn.init.uniform_(part.weight, 0.6, 1.8)
            nn.init.uniform_(part.bias, -0.2, 0.6)
        if isinstance(part, nn.Linear):
            nn.init.uniform_(part.weight, -0.2, 0.4)
    with torch.no_grad():
        network.train()(pixels(shape, limits, seed=2))
    return Trained(network.eval(), settings, 10, limits, channels)


def jolt(network: SpikingNetwork) -> None:
    """Move all that is trained about as much as its own size."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for values in network.parameters():
            noise = torch.randn(values.shape, generator=generator)
            values.add_(noise * values.std(correction=0).clamp(min=0.01))


def plain_program(trained: Trained, recipe: Recipe, steps: int = STEPS) -> Program:
    body = prepare(trained, Recipe(8)).body
    assert isinstance(body, QuantisedBody)
    return program_of(body.unrounded(), recipe, steps)


def own_program(network: SpikingNetwork, bits: int = 8) -> Program:
    assert isinstance(network.body, QuantisedBody)
    return program_of(network.body.rounded(), Recipe(bits), STEPS)


def check_same(network: SpikingNetwork, program: Program, x: Tensor) -> None:
    """Hold every spike and every output of PyTorch against those of the integers."""
    outputs, spikes = spikes_of(network, x)
    result = program.run(x.numpy(), "all", on="fixedpoint:definition")
    assert {name for name, values in spikes.items() if values.any()}
    for name, values in spikes.items():
        assert np.array_equal(values.numpy(), result.spikes[name]), name
    assert outputs.dtype == torch.float64
    assert np.array_equal(outputs.numpy(), result.output)
    for counted in result.trace.counters.values():
        assert counted["current_wraps"] == counted["u_wraps"] == counted["v_saturations_low"] == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_fires_the_spikes_of_fixedpoint_whatever_is_learnt(name: str) -> None:
    trained = a_network(name)
    _, shape, limits, _ = NETWORKS[name]
    for bits in (8, 3) if name == "convolutional" else (4,):
        network = prepare(trained, Recipe(bits))
        jolt(network)
        check_same(network, own_program(network), pixels(shape, limits))


RECIPES = [
    *(Recipe(bits) for bits in (8, 4, 3, 2)),
    *(Recipe(bits, method="mse") for bits in (8, 3, 2)),
    *(Recipe(bits, method="percentile", percentile=90) for bits in (4, 2)),
    *(Recipe(bits, method="power-of-two") for bits in (6, 3)),
]


@pytest.mark.parametrize(
    "recipe", RECIPES, ids=lambda recipe: f"{recipe.method}-{recipe.weight_bits}"
)
@pytest.mark.parametrize("name", ["convolutional", "normalised", "dense"])
def test_before_the_first_step_it_is_what_export_makes_of_the_float_network(
    name: str, recipe: Recipe
) -> None:
    trained = a_network(name)
    _, shape, limits, _ = NETWORKS[name]
    x = pixels(shape, limits)
    network = prepare(trained, recipe)

    outputs, spikes = spikes_of(network, x)
    result = plain_program(trained, recipe).run(x.numpy(), "all", on="fixedpoint:definition")

    for layer, values in spikes.items():
        assert np.array_equal(values.numpy(), result.spikes[layer]), layer
    assert np.allclose(outputs.numpy(), result.output, rtol=1e-12)  # a scale is told by its inverse


@pytest.mark.parametrize("steps", [16, 32])
@pytest.mark.parametrize(
    "recipe", [Recipe(8), Recipe(3, method="mse"), Recipe(2, method="percentile", percentile=80)],
    ids=lambda recipe: str(recipe.weight_bits),
)  # fmt: skip
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_scales_that_the_proof_lowered_shrink_no_row_once_more(
    recipe: Recipe, steps: int, shift: float
) -> None:
    """Without a leak worst cases add up: the proof lowers scales to just below where it would not hold."""
    trained = a_network("no leak")
    with torch.no_grad():
        for part in trained.network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.bias.add_(shift)  # which leaves more room for inhibition
    x = pixels((1, 8, 8), GREY)
    network = prepare(trained, recipe, steps=steps)

    outputs, spikes = spikes_of(network, x)
    program = plain_program(trained, recipe, steps)
    result = program.run(x.numpy(), "all", on="fixedpoint:definition")

    assert "lif2" in program.facts["quantisation"]["scales_lowered_by_range_proof"]
    for layer, values in spikes.items():
        assert np.array_equal(values.numpy(), result.spikes[layer]), layer
    assert np.allclose(outputs.numpy(), result.output, rtol=1e-12)


def neurons_of(network: IntegerNetwork, name: str) -> IntegerNeurons:
    neurons = network[name]
    assert isinstance(neurons, IntegerNeurons)
    return neurons


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_the_integers_that_are_emitted_are_those_of_the_forward_pass(bits: int) -> None:
    """The second convolution and the read-out are behind 2x2 pools: their taps are repeated."""
    network = prepare(a_network("convolutional"), Recipe(bits))
    jolt(network)
    body = network.body
    assert isinstance(body, QuantisedBody)

    emitted = own_program(network).network

    groups = {group.name: group.weight for group in emitted.synapses}
    for layer, population in (("conv1", "lif1"), ("conv2", "lif2"), ("readout", "readout")):
        module = body.get_submodule(layer)
        assert isinstance(module, IntegerWeights)
        used = module.rounded().detach().numpy()
        if layer == "conv2":
            used = used.repeat(2, axis=2).repeat(2, axis=3)
        if layer == "readout":  # 8 channels of 2 x 2 behind the pool, 4 x 4 before it
            used = used.reshape(10, 8, 2, 2).repeat(2, axis=2).repeat(2, axis=3).reshape(10, -1)
        assert np.array_equal(groups[layer], used)
        assert np.abs(used).max() <= 256
        assert not (used % (2 << (8 - bits))).any()
        fixed = body.integers.populations[population]
        neurons = neurons_of(emitted, population)
        bias = round_bias(module.bias.double(), fixed.scale, LIMITS).detach().numpy()
        assert np.array_equal(np.broadcast_to(neurons.bias.ravel(), bias.shape), bias)
        assert (int(neurons.threshold), int(neurons.dv)) == (fixed.threshold, fixed.dv)
        assert neurons.scale == fixed.scale


def test_integers_do_not_change_with_the_bits_of_the_export_and_too_few_are_refused() -> None:
    network = prepare(a_network("convolutional"), Recipe(4))
    jolt(network)
    weights = [
        {group.name: group.weight.tolist() for group in own_program(network, bits).network.synapses}
        for bits in (8, 6, 4)
    ]
    assert weights[0] == weights[1] == weights[2]

    with pytest.raises(RangeError) as raised:
        own_program(network, 3)
    assert "layer 'lif2' needs weights of 'conv2' that are integers" in str(raised.value)
    assert "export with as many weight bits as it was trained for" in str(raised.value)


def test_float_differs_from_the_integers_by_the_truncation_of_leaks_alone() -> None:
    """Without a leak nothing is truncated: then the file's real numbers fire the same spikes."""
    network = prepare(a_network("no leak"), Recipe(4))
    jolt(network)
    assert isinstance(network.body, QuantisedBody)
    x = pixels((1, 8, 8), GREY)

    real = simulate(network.body.rounded(), x.double().numpy())

    outputs, spikes = spikes_of(network, x)
    for name, values in spikes.items():
        assert np.array_equal(real.spikes[name], values.numpy())
    assert np.allclose(real.outputs["output"], outputs.numpy(), atol=1e-9)


def test_gradients_reach_every_weight_and_the_loss_falls() -> None:
    network = prepare(a_network("convolutional"), Recipe(4)).train()
    x = pixels((1, 8, 8), GREY, count=10)
    labels = torch.arange(10)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(10):
        loss = tet_loss(network(x), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for name, values in network.named_parameters():
            assert values.grad is not None, name
            assert values.grad.any(), name
        optimiser.step()
        losses.append(loss.item())

    assert losses[-1] < 0.8 * losses[0]


def test_the_gradient_is_that_of_the_real_network_with_integers_for_numbers() -> None:
    """With weights and biases that need no rounding, and leaks that truncate nothing, both are one."""
    fixed = Fixed(unit=1 / 64, threshold=64, dv=2048)
    current = torch.randn(2 * STEPS, 5, generator=torch.Generator().manual_seed(0))
    current = (current * 64).round() / 64
    neurons = LIF()
    wanted, given = current.clone().requires_grad_(), current.clone().requires_grad_()
    weights = torch.randn(2 * STEPS, 5, generator=torch.Generator().manual_seed(1))

    (weights * neurons(wanted, STEPS)).sum().backward()
    integers = IntegerLIF(fixed, LIMITS, neurons)
    (weights * integers(given * 64 * 64, STEPS)).sum().backward()

    assert wanted.grad is not None
    assert given.grad is not None
    assert wanted.grad.any()
    assert torch.allclose(wanted.grad, given.grad)
    assert (integers.tau, integers.threshold) == (0.5, 1)


def test_a_membrane_is_truncated_toward_zero() -> None:
    """-3 and 3 state units halve to -1 and 1; 1/3 of them, of 12 bits, is just below 1."""
    for dv, left in ((2048, 1), (2731, 0)):
        layer = IntegerLIF(Fixed(1.0, 1, dv), LIMITS, LIF())
        total = torch.tensor([[-3.0, 3.0], [64.0 + left, 64.0 - left]])
        assert not layer(total, 2).any()
        total[1] += 1
        assert layer(total, 2).tolist() == [[0, 0], [1, 1]]


def test_a_host_rounds_half_a_weight_unit_up() -> None:
    half = Dense(np.array([[0.5]]), np.zeros(1))
    layer = IntegerWeights(half, np.ones((1, 1)), 4, LIMITS, on_host=True, constant=None)
    rounded = layer.rounded()

    sums = layer.sums(torch.tensor([[-3.0], [-1.0], [1.0], [3.0]]), rounded)

    assert rounded.item() == 0.5
    assert sums.flatten().tolist() == [-1, 0, 1, 2]


def test_a_weight_beyond_its_bits_is_pushed_back_but_not_further() -> None:
    """4 bits: from -256 to 224 in steps of 32."""
    layer = IntegerWeights(
        Dense(np.array([[300.0, 300.0, -300.0, -300.0, 20.0]]), np.zeros(1)),
        np.ones((1, 1)),
        4,
        LIMITS,
        on_host=False,
        constant=None,
    )

    rounded = layer.rounded()
    (rounded * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])).sum().backward()  # type: ignore[no-untyped-call]

    assert rounded.tolist() == [[224, 224, -256, -256, 32]]
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[1, 0, 0, -1, 1]]


def test_rows_that_the_range_proof_would_refuse_are_shrunk() -> None:
    """Pixels of 128: a row of weights can have no more than 131071 / 128 weight units of one sign."""
    values = InputRange(0, 1, 1 / 128)
    trained = replace(a_network("convolutional"), input_range=values)
    network = prepare(trained, Recipe(8))
    with torch.no_grad():
        network.body.get_submodule("conv1").get_parameter("weight").fill_(10.0)

    program = own_program(network)

    (first,) = (group for group in program.network.synapses if group.target == "lif1")
    assert 960 < first.weight[0].sum() <= 131071 / 128
    check_same(network, program, pixels((1, 8, 8), values))


def test_weights_of_the_host_are_shrunk_to_its_bits() -> None:
    """Pixels are 0, 1 and 2: the range proof allows twice as much."""
    values = InputRange(0, 1, 0.5)
    trained = replace(a_network("convolutional"), input_range=values)
    described = describe(prepare(trained, Recipe(2)))
    assert described is not None
    network = restore(trained.network, values, {**described, "on_host": True}).eval()
    with torch.no_grad():
        weight = network.body.get_submodule("conv1").get_parameter("weight")
        weight.zero_()
        weight[:, 0, 1, 1] = 1e6

    program = own_program(network)

    (first,) = (group for group in program.network.synapses if group.on_host)
    assert (first.weight.max() > 16_000, first.exponent) == (True, 0)
    assert first.weight.max() <= 32_767


def test_a_read_out_behind_a_pool_is_shrunk_for_long_samples() -> None:
    """In 300 steps: at most 131071 / 300 weight units a step, from windows of 4 spikes."""
    network = prepare(a_network("convolutional"), Recipe(8), steps=300)
    with torch.no_grad():
        network.body.get_submodule("readout").get_parameter("weight").fill_(10.0)
    assert isinstance(network.body, QuantisedBody)

    program = program_of(network.body.rounded(), Recipe(8), 300)

    (last,) = (group for group in program.network.synapses if group.target == "readout")
    assert 200 < last.weight[0].sum() <= 131071 / 300


def test_what_no_shrinking_helps_is_refused() -> None:
    network = prepare(a_network("convolutional"), Recipe(8), steps=1000)
    body = network.body
    with torch.no_grad():
        body.get_submodule("readout").get_parameter("bias").fill_(1e6)

    with pytest.raises(RangeError, match="layer 'readout' needs weights that can be shrunk"):
        network(pixels((1, 8, 8), GREY))


def test_the_host_computes_a_first_layer_that_the_chip_has_no_integers_for() -> None:
    network = prepare(a_network("normalised"), Recipe(2))
    assert isinstance(network.body, QuantisedBody)
    assert network.body.integers.on_host
    jolt(network)

    program = own_program(network)

    assert [group.on_host for group in program.network.synapses] == [True, False, False]
    check_same(network, program, pixels((3, 8, 8), COLOUR))


def test_impossible_bits_and_networks_are_refused_before_training() -> None:
    trained = a_network("convolutional")
    for bits in (1, 9):
        with pytest.raises(OptionError, match="weight bits must be from 2 to 8"):
            prepare(trained, Recipe(bits))
    body = prepare(trained, Recipe(8)).body
    assert isinstance(body, QuantisedBody)
    network = body.unrounded()
    neurons = network.nodes["lif1"]
    assert isinstance(neurons, ir.LIF)
    first = network.nodes["conv1"]
    assert isinstance(first, Conv2d)
    nodes: dict[str, Node] = {
        "input": Input((1, 8, 8), GREY),
        "conv1": first,
        "late": Delay(np.array(1)),
        "lif1": neurons,
        "mixed": Conv2d(np.ones((6, 6, 1, 1)), np.zeros(6)),
        "again": Conv2d(np.ones((6, 6, 1, 1)), np.zeros(6)),
        "lif2": neurons,
        "twice": Conv2d(np.ones((6, 6, 1, 1)), np.zeros(6)),
        "lif3": neurons,
        "lif4": neurons,
        "output": Output((6, 8, 8)),
    }
    edges = [("input", "conv1"), ("conv1", "lif1"), ("lif1", "late"), ("late", "lif4")]
    edges += [("lif1", "mixed"), ("mixed", "again"), ("again", "lif2"), ("lif1", "twice")]
    edges += [("lif1", "lif3"), ("twice", "lif3"), ("lif2", "output"), ("lif3", "output")]
    edges += [("lif4", "output")]

    problems = read_terms(Network(nodes, tuple(edges), STEPS), (0, 16), 16.0).problems

    assert {(problem.layer, problem.need) for problem in problems} == {
        ("late", "must be a layer that integers are trained for"),
        ("again", "must not be behind weights, without neurons between"),
        ("lif3", "must get what each layer sends by one way"),
    }


def test_training_in_fewer_bits_goes_on_from_more() -> None:
    trained = a_network("convolutional")
    eight = prepare(trained, Recipe(8))
    jolt(eight)

    four = prepare(replace(trained, network=eight), Recipe(4))

    assert isinstance(four.body, QuantisedBody)
    assert four.body.integers.weight_bits == 4
    for name, values in eight.named_parameters():
        assert torch.equal(values, four.get_parameter(name)), name
    check_same(four, own_program(four), pixels((1, 8, 8), GREY))


@pytest.mark.parametrize(
    ("recipe", "what"),
    [
        (Recipe(4, scales="channel"), "a scale for each channel"),
        (Recipe(4, bits={"lif1": 8}), "layers with bits of their own"),
        (Recipe(4, memory=1000), "layers with bits of their own"),
        (Recipe(4, method="search"), "samples to decide how it rounds"),
        (Recipe(4, rounding="adaptive"), "samples to decide how it rounds"),
        (Recipe(4, correct_biases=True), "samples to decide how it rounds"),
    ],
)
def test_recipes_that_training_does_not_follow_are_refused(recipe: Recipe, what: str) -> None:
    with pytest.raises(UnsupportedError, match=f"cannot train in integers with {what}"):
        prepare(a_network("convolutional"), recipe)


def recipes(*overrides: str, **changes: Any) -> list[Recipe | None]:
    """Return the recipe of each phase."""
    changes = {"start": "elsewhere", **changes}
    return [phase.recipe for phase in settings_of(list(overrides), **changes).all_phases()]


def test_phases_say_how_weights_are_rounded_or_go_on_as_before() -> None:
    phases = (
        '[{"epochs":1}, {"epochs":1,"weight_bits":4},'
        '{"epochs":1,"weight_method":"percentile","weight_percentile":99}, {"epochs":1,"weight_bits":3},'
        '{"epochs":1,"weight_method":"max"}]'
    )

    found = recipes(f"phases={phases}")

    assert found == [
        None,
        None,
        Recipe(4, method="mse"),
        Recipe(4, method="percentile", percentile=99),
        Recipe(3, method="percentile", percentile=99),
        Recipe(3, method="max", percentile=99),
    ]
    assert recipes("weight_bits=2", "weight_method=power-of-two") == [
        Recipe(2, method="power-of-two")
    ]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["weight_method=max"], "weight_method needs weight_bits"),
        (["weight_percentile=99"], "weight_percentile needs weight_bits"),
        (
            ['phases=[{"epochs":1,"weight_method":"max"}]'],
            "phases.0.weight_method needs weight_bits",
        ),
        (
            ["weight_bits=4", "weight_percentile=99"],
            "weight_percentile needs weight_method percentile; it is mse",
        ),
        (["weight_bits=4", "weight_method=search"], "setting 'weight_method' is 'search'"),
        (
            ["weight_bits=4", "weight_method=percentile", "weight_percentile=0"],
            "setting 'weight_percentile' is 0",
        ),
    ],
)
def test_roundings_that_do_nothing_or_that_there_are_none_of_are_refused(
    overrides: list[str], problem: str
) -> None:
    with pytest.raises(OptionError) as raised:
        recipes(*overrides)

    assert problem in str(raised.value)


def store(trained: Trained, path: Path) -> Path:
    state = {f"network.{name}": values for name, values in trained.network.state_dict().items()}
    torch.save({"neurocompile": trained.description(), "state_dict": state}, path)
    return path


@pytest.mark.parametrize("name", ["convolutional", "normalised"])
def test_a_checkpoint_gives_back_the_same_network(name: str, tmp_path: Path) -> None:
    trained = a_network(name)
    network = prepare(trained, Recipe(3))
    jolt(network)
    trained = replace(trained, network=network.eval())

    read = load_checkpoint(store(trained, tmp_path / "net.ckpt"))  # without pickle

    assert describe(read.network) == trained.description()["quantised"] == describe(network)
    x = pixels(*NETWORKS[name][1:3])
    assert torch.equal(read.network(x), network(x))
    assert read.network.state_dict().keys() == network.state_dict().keys()
    again = rebuild(read.description(), read.network.state_dict())
    assert torch.equal(again.network(x), network(x))
    assert describe(trained.network) is not None
    assert describe(a_network(name).network) is None


def test_a_resumed_phase_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    trained = a_network("convolutional")
    x, labels = pixels((1, 8, 8), GREY, count=10), torch.arange(10)

    def steps(network: SpikingNetwork, optimiser: torch.optim.Optimizer, count: int) -> None:
        network.train()
        for _ in range(count):
            optimiser.zero_grad()
            tet_loss(network(x), labels).backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    straight = prepare(trained, Recipe(4))
    steps(straight, torch.optim.Adam(straight.parameters(), lr=0.01), 4)
    stopped = prepare(trained, Recipe(4))
    optimiser = torch.optim.Adam(stopped.parameters(), lr=0.01)
    steps(stopped, optimiser, 2)
    path = store(replace(trained, network=stopped), tmp_path / "net.ckpt")

    resumed = load_checkpoint(path).network
    continued = torch.optim.Adam(resumed.parameters(), lr=0.01)
    continued.load_state_dict(optimiser.state_dict())
    steps(resumed, continued, 2)

    for name, values in straight.state_dict().items():
        assert torch.equal(values, resumed.state_dict()[name]), name


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_torch_fires_the_spikes_of_fixedpoint_on_digits(bits: int) -> None:
    network = prepare(a_network("convolutional"), Recipe(bits))
    jolt(network)
    inputs = load_samples("digits:test").first(60).inputs
    assert isinstance(inputs, np.ndarray)
    images = torch.from_numpy(inputs)

    check_same(network, own_program(network), images.expand(-1, STEPS, -1, -1, -1))


def test_verify_finds_no_difference_between_torch_and_fixedpoint(
    tmp_path: Path, opened: Callable[[Program], Program]
) -> None:
    trained = a_network("convolutional")
    trained.network.time_weights = torch.tensor([0.5, 1.0, 1.5])
    network = prepare(trained, Recipe(4))
    jolt(network)
    path = store(replace(trained, network=network), tmp_path / "net.ckpt")

    program = opened(neurocompile.export(path, target="fixedpoint", output=tmp_path / "program"))
    assert from_checkpoint(path).imported.time_weights == (0.5, 1, 1.5)
    report = neurocompile.verify(tmp_path / "program", data=load_samples("digits:test"), samples=60)

    pairs = {(item.reference, item.candidate): item for item in report.comparisons}
    torch_fixedpoint = pairs["torch", "fixedpoint"]
    assert torch_fixedpoint.must_match
    assert torch_fixedpoint.slots == 60 * STEPS * (6 * 64 + 8 * 16)
    assert torch_fixedpoint.mismatches == torch_fixedpoint.output_mismatches == 0
    assert not pairs["torch", "float"].must_match
    assert not report.failed
    assert report.accuracy["torch"] == report.accuracy["fixedpoint"]
    assert program.facts["reference"]["quantised"]["weight_bits"] == 4
    again = opened(neurocompile.export(tmp_path / "program/graph.nir", target="fixedpoint"))
    for one, two in zip(program.network.synapses, again.network.synapses, strict=True):
        assert np.array_equal(one.weight, two.weight)


def test_verify_fails_where_torch_is_another_network_than_its_integers(
    tmp_path: Path, opened: Callable[[Program], Program]
) -> None:
    trained = a_network("convolutional")
    network = prepare(trained, Recipe(4))
    path = store(replace(trained, network=network), tmp_path / "net.ckpt")
    program = opened(neurocompile.export(path, target="fixedpoint"))
    jolt(network)
    other = opened(
        neurocompile.export(
            store(replace(trained, network=network), tmp_path / "other.ckpt"), target="fixedpoint"
        )
    )
    mixed = replace(
        program,
        extra_files={**program.extra_files, REFERENCE: other.extra_files[REFERENCE]},
    )

    assert neurocompile.verify(mixed, data=load_samples("digits:test"), samples=4).failed


LEARNT: dict[str, Any] = {"seed": 0, "timesteps": 2, "preset": "digits"}
QUICKLY = [STAGES, "learning_rate=0.01"]


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on digits, in real numbers."""
    run = tmp_path_factory.mktemp("runs") / "real"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neurocompile.training.train.write_figures", lambda *_: None)
        neurocompile.train(output=run, epochs=3, overrides=QUICKLY, **LEARNT)
    return run


@pytest.mark.usefixtures("no_pictures")
def test_a_phase_in_integers_wins_back_what_rounding_costs(
    real_run: Path, tmp_path: Path, opened: Callable[[Program], Program]
) -> None:
    """Digits in 3 bits, after a run that is short."""
    trained = neurocompile.train(
        output=tmp_path / "run",
        epochs=1,
        start=str(real_run),
        overrides=[*QUICKLY, 'phases=[{"epochs":2,"weight_bits":3,"weight_method":"max"}]'],
        **LEARNT,
    )

    rounded = opened(neurocompile.export(real_run, target="fixedpoint", weight_bits=3))
    kept = opened(neurocompile.export(tmp_path / "run", target="fixedpoint"))
    digits = load_samples("digits:test")
    before = neurocompile.verify(rounded, data=digits, against=["fixedpoint", "float"])
    after = neurocompile.verify(kept, data=digits)

    assert not after.failed
    assert after.accuracy["fixedpoint"] == after.accuracy["torch"] == trained.test_accuracy
    assert after.accuracy["fixedpoint"] > before.accuracy["fixedpoint"] + 0.03
    assert after.accuracy["fixedpoint"] > before.accuracy["float"] - 0.05


@pytest.mark.usefixtures("no_pictures")
def test_at_2_bits_the_scale_that_training_starts_from_decides(
    real_run: Path, tmp_path: Path
) -> None:
    """With that of the largest weight most others are 0, and little is left to learn with."""
    accuracy = {
        method: neurocompile.train(
            output=tmp_path / method,
            epochs=2,
            start=str(real_run),
            overrides=[*QUICKLY, "weight_bits=2", f"weight_method={method}"],
            **LEARNT,
        ).test_accuracy
        for method in ("max", "mse")
    }
    usual = neurocompile.train(
        output=tmp_path / "usual",
        epochs=2,
        start=str(real_run),
        overrides=[*QUICKLY, "weight_bits=2"],
        **LEARNT,
    )

    assert accuracy["mse"] > accuracy["max"] + 0.1
    assert usual.test_accuracy == accuracy["mse"]
