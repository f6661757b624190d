"""
Modules of PyTorch frameworks, read and run beside the framework itself: every spike at every step is equal.

Weights are binary fractions, so that floats compute every sum exactly. Where a framework is not
installed, a stand-in with its names takes its place, and the real one's tests are skipped.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neurocompile.data import InputRange
from neurocompile.errors import EquivalenceError, OptionError, UnsupportedError
from neurocompile.frontend.from_module import from_module
from neurocompile.frontend.from_nir import Imported, from_nir
from neurocompile.frontend.modules.layers import nodes_of
from neurocompile.frontend.modules.neurons import UnreadableError, comparison_of, neurons_of
from neurocompile.ir import (
    LIF,
    Conv2d,
    Delay,
    Dense,
    Flatten,
    Integrator,
    MaxPool2d,
    Network,
    Pool2d,
    Scale,
    output_shape,
)
from neurocompile.reference import apply_stateless, simulate
from neurocompile.training import neurons as own
from neurocompile.training.networks import SpikingNetwork, spikes_of

SPIKES = InputRange(0, 1, 1)
SIXTEENTHS = InputRange(0, 1, 1 / 16)
SAMPLES, STEPS = 8, 24

# `--import-mode=importlib` makes no package of the tests, and stand-ins are no fixtures
_spec = importlib.util.spec_from_file_location(
    "stand_ins", Path(__file__).with_name("stand_ins.py")
)
assert _spec is not None
assert _spec.loader is not None
stand_ins = importlib.util.module_from_spec(_spec)
sys.modules["stand_ins"] = stand_ins
_spec.loader.exec_module(stand_ins)


@pytest.fixture(params=["stand-in", "real"])
def snn(request: Any) -> Any:
    """Gives snnTorch's neurons."""
    if request.param == "stand-in":
        return stand_ins.snntorch
    return pytest.importorskip("snntorch", reason="snnTorch is not installed")


@pytest.fixture(params=["stand-in", "real"])
def sj(request: Any) -> Any:
    """Gives SpikingJelly's neurons and layers."""
    if request.param == "stand-in":
        return SimpleNamespace(neuron=stand_ins.neuron, layer=stand_ins.layer)
    based = "spikingjelly.activation_based"
    pytest.importorskip(based, reason="SpikingJelly is not installed")
    return SimpleNamespace(
        **{name: importlib.import_module(f"{based}.{name}") for name in ("neuron", "layer")}
    )


def dyadic(module: Any, seed: int = 0) -> Any:
    """Give every weight few bits, and every batch norm those that leave few bits when folded."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear):
            for parameter in part.parameters():
                values = torch.randint(-8, 13, parameter.shape, generator=generator)
                parameter.data = values / 16
        elif isinstance(part, _BatchNorm):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.eps = 0.0
            part.running_var.fill_(4.0)
            shape = part.running_mean.shape
            part.running_mean.copy_(torch.randint(-2, 3, shape, generator=generator) / 4)
            part.weight.data = 2.0 ** torch.randint(0, 2, shape, generator=generator)
    return module.eval()


class Net(nn.Module):
    """A network whose forward pass is a function of its modules."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


def forget(module: nn.Module) -> None:
    for part in module.modules():
        for name in ("reset_mem", "reset"):
            reset = getattr(part, name, None)
            if callable(reset):
                reset()


def prove(
    module: nn.Module,
    shape: tuple[int, ...],
    *,
    multi: bool = False,
    limits: InputRange | None = None,
    quiet: tuple[str, ...] = (),
    samples: int = SAMPLES,
    steps: int = STEPS,
    **options: Any,
) -> Imported:
    """
    Read `module`, run it in the framework's own way, and assert that all spikes at all steps are equal.

    All of its neurons must fire, but not always; `multi` says that it takes all steps at once.
    """
    imported = from_module(module, shape, input_range=limits, **options)
    network = imported.network
    generator = np.random.default_rng(1)
    levels = 1 if limits is None else round((limits.maximum - limits.minimum) / limits.step)
    x = generator.integers(0, levels + 1, (samples, steps, *shape)) / levels
    fired: dict[str, list[Tensor]] = {}
    handles = []
    for name, part in module.named_modules():
        if neurons_of(part) is not None:

            def keep(_m: Any, _x: Any, y: Any, name: str = name) -> None:
                fired.setdefault(name, []).append((y[0] if isinstance(y, tuple) else y).clone())

            handles.append(part.register_forward_hook(keep))
    forget(module)
    inputs = torch.from_numpy(x).float()
    with torch.no_grad():
        outputs: Any = (
            module(inputs.transpose(0, 1)) if multi else [module(now) for now in inputs.unbind(1)]
        )
    for handle in handles:
        handle.remove()
    trace = simulate(network, x)
    assert fired
    for name, parts in fired.items():
        spikes = parts[0].transpose(0, 1) if len(parts) == 1 else torch.stack(parts, 1)
        if name not in trace.spikes:
            assert name in quiet
            continue
        factor = network.nodes.get(f"{name}.graded")
        sent = trace.spikes[name] * (factor.scale if isinstance(factor, Scale) else 1.0)
        assert np.array_equal(spikes.numpy(), sent), name
        assert name in quiet or 0 < trace.spikes[name].mean() < 1, name
    if multi:
        assert np.array_equal(outputs.transpose(0, 1).numpy(), trace.output)
    elif isinstance(outputs[0], Tensor):
        assert np.array_equal(torch.stack(outputs, 1).numpy(), trace.output)
    return imported


def one_layer(neurons: nn.Module, outputs: int = 6) -> Any:
    return dyadic(nn.Sequential(nn.Linear(5, outputs), neurons))


def lif_of(network: Network, name: str = "1") -> LIF:
    node = network.nodes[name]
    assert isinstance(node, LIF)
    return node


# snnTorch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Leaky", {"beta": 0.5}),
        ("Leaky", {"beta": 0.0}),
        ("Leaky", {"beta": 1.0, "threshold": 1.5}),
        ("Leaky", {"beta": 1.5, "threshold": 2.0}),  # clipped to 1
        ("Leaky", {"beta": torch.tensor([0.0, 0.5, 0.25, 0.5, 1.0, 0.5])}),
        ("Synaptic", {"alpha": 0.5, "beta": 0.5, "threshold": 1.5}),
        ("Synaptic", {"alpha": 0.25, "beta": 1.0, "threshold": 2.0}),
        ("RLeaky", {"beta": 0.5, "linear_features": 6}),
        ("RLeaky", {"beta": 0.5, "all_to_all": False, "V": 0.75}),
        ("RSynaptic", {"alpha": 0.5, "beta": 0.5, "linear_features": 6, "threshold": 1.5}),
    ],
)
def test_snntorchs_neurons_fire_the_same(snn: Any, kind: str, options: Any, reset: str) -> None:
    neurons = getattr(snn, kind)(reset_mechanism=reset, init_hidden=True, **options)

    imported = prove(one_layer(neurons), (5,))

    assert lif_of(imported.network).comparison == ">"
    assert f"snnTorch's {kind}" in imported.inferred["neurons"]
    assert ("1", "1.recurrent") in imported.network.feedback or not kind.startswith("R")


@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "RLeaky"])
@pytest.mark.parametrize("reset", ["zero", "none"])
def test_snntorchs_neurons_that_reset_at_once_fire_the_same(
    snn: Any, kind: str, reset: str
) -> None:
    options = {"linear_features": 6} if kind == "RLeaky" else {"alpha": 0.5}
    options = {} if kind == "Leaky" else options
    neurons = getattr(snn, kind)(
        beta=0.5, reset_mechanism=reset, reset_delay=False, init_hidden=True, **options
    )

    node = lif_of(prove(one_layer(neurons), (5,)).network)

    assert node.refractory == 0


def test_the_rest_after_a_spike_is_that_of_snntorch(snn: Any) -> None:
    synaptic = snn.Synaptic(alpha=0.5, beta=0.5, reset_mechanism="zero", init_hidden=True)
    leaky = snn.Leaky(beta=0.5, reset_mechanism="zero", init_hidden=True)

    assert lif_of(from_module(one_layer(synaptic), (5,)).network).refractory == 1
    assert lif_of(from_module(one_layer(leaky), (5,)).network).refractory == 0


def test_a_delayed_subtraction_is_taken_before_the_leak(snn: Any) -> None:
    leaky = snn.Leaky(beta=0.5, threshold=0.75, init_hidden=True)

    node = lif_of(from_module(one_layer(leaky), (5,)).network)

    assert node.subtracts is not None
    assert (node.subtracts == 1.5).all()


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_lapicques_neurons_fire_the_same(snn: Any, reset: str) -> None:
    """Their leak is a logarithm: floats round it, and no sum is on the threshold."""
    torch.manual_seed(0)
    module: Any = nn.Sequential(
        nn.Linear(5, 6), snn.Lapicque(beta=0.5, reset_mechanism=reset, init_hidden=True)
    )
    module[0].weight.data *= 4

    prove(module, (5,))


@pytest.mark.parametrize("scale", [1 / 4, 1])
@pytest.mark.parametrize(("kind", "alpha"), [("Leaky", {}), ("Synaptic", {"alpha": 0.25})])
def test_an_immediate_subtraction_is_exact_for_small_inputs_alone(
    snn: Any, kind: str, alpha: Any, scale: float
) -> None:
    """Above twice its threshold snnTorch's neuron does not fire as often as it should."""
    neurons = getattr(snn, kind)(beta=0.5, reset_delay=False, init_hidden=True, **alpha)
    module = one_layer(neurons)
    for parameter in module[0].parameters():
        parameter.data = parameter.data.abs() * scale

    if scale < 1:
        prove(module, (5,))
    else:
        with pytest.raises(
            UnsupportedError,
            match="layer '1' needs inputs of at most .* to subtract its threshold at once, but one "
            "may get .*: use reset_delay=True or reset_mechanism='zero'",
        ):
            from_module(module, (5,))


@pytest.mark.parametrize(("weights", "exact"), [([1.5, -2.0], True), ([2.0, -2.0], False)])
def test_the_largest_input_counts_what_excites(
    snn: Any, weights: list[float], *, exact: bool
) -> None:
    """What inhibits does not have to come at the same time."""
    module = nn.Sequential(
        nn.Linear(2, 1, bias=False), snn.Leaky(beta=0.5, reset_delay=False, init_hidden=True)
    )
    module[0].weight = nn.Parameter(torch.tensor([weights]))

    if exact:
        prove(module, (2,))
    else:
        with pytest.raises(UnsupportedError, match="at most 1.5 to subtract.* one may get 2:"):
            from_module(module, (2,))


@pytest.mark.parametrize("factor", [0.5, torch.tensor([0.5, 2.0, 1.0, -1.0, 0.25, 4.0])])
def test_graded_spikes_leave_through_a_scale(snn: Any, factor: Any) -> None:
    module = dyadic(
        nn.Sequential(
            nn.Linear(5, 6),
            snn.Leaky(beta=0.5, graded_spikes_factor=factor, init_hidden=True),
            nn.Linear(6, 4),
            snn.Leaky(beta=0.5, init_hidden=True, threshold=0.25),
        )
    )

    network = prove(module, (5,)).network

    assert network.targets("1") == ("1.graded",)


def test_a_convolutional_network_of_snntorch_fires_the_same(snn: Any) -> None:
    module = dyadic(
        nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            snn.Leaky(
                beta=torch.tensor([0.5, 0.25, 1.0, 0.5]).reshape(4, 1, 1),
                threshold=torch.tensor([0.5, 0.75, 1.0, 0.5]).reshape(1, 4, 1, 1),
                init_hidden=True,
            ),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4),
            snn.Synaptic(alpha=0.5, beta=0.5, init_hidden=True, reset_mechanism="zero"),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(16, 3),
            nn.BatchNorm1d(3),
            snn.Leaky(beta=0.5, init_hidden=True, output=True),
        )
    )

    imported = prove(module, (1, 8, 8), limits=SIXTEENTHS)

    kinds = [type(node) for node in imported.network.nodes.values()]
    assert sorted(kind.__name__ for kind in kinds[1:-1]) == sorted(
        kind.__name__ for kind in (Conv2d, LIF, MaxPool2d, Conv2d, LIF, Flatten, Dense, LIF)
    )
    assert imported.inferred["batch norms"] == "3 folded, in float64"
    assert imported.network.shapes["output"] == (3,)


class Loop(nn.Module):
    """The form of snnTorch's tutorials: the module makes its own steps."""

    def __init__(self, snn: Any, result: str, *, each: bool) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(5, 6), snn.Leaky(beta=0.5)
        self.fc2, self.lif2 = nn.Linear(6, 3), snn.Leaky(beta=0.5, threshold=0.5)
        self.each, self.result = each, result

    def forward(self, x: Tensor) -> Any:
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        spikes, membranes = [], []
        total: Any = 0
        for step in range(x.size(0) if self.each else 7):
            current = self.fc1(x[step] if self.each else x)
            spike, mem1 = self.lif1(current, mem1)
            last, mem2 = self.lif2(self.fc2(spike), mem2)
            spikes.append(last)
            membranes.append(mem2)
            total += last
        results: dict[str, Any] = {
            "stacks": lambda: (torch.stack(spikes), torch.stack(membranes)),
            "behind": lambda: torch.stack(spikes, dim=1),
            "lists": lambda: (spikes, membranes),
            "sum": lambda: torch.stack(spikes).sum(0),
            "mean": lambda: torch.stack(spikes, dim=1).mean(dim=1) * 2,
            "total": lambda: total / len(spikes),
            "last": lambda: last,
            "dictionary": lambda: {"spikes": spikes},
            "membranes": lambda: torch.stack(membranes),
        }
        return results[self.result]()


@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize("result", ["stacks", "behind", "lists", "sum", "mean", "total", "last"])
def test_a_loop_over_time_inside_the_module_is_one_step(
    snn: Any, result: str, *, each: bool
) -> None:
    module = dyadic(Loop(snn, result, each=each))
    plain = nn.Sequential(
        *(module.fc1, snn.Leaky(beta=0.5, init_hidden=True)),
        *(module.fc2, snn.Leaky(beta=0.5, init_hidden=True, threshold=0.5)),
    )

    imported = from_module(module, (5,), steps=4 if each else None)

    expected = prove(plain, (5,)).network
    names = {"0": "fc1", "1": "lif1", "2": "fc2", "3": "lif2"}
    for name, node in expected.nodes.items():
        for field in fields(node):
            ours = getattr(imported.network.nodes[names.get(name, name)], field.name)
            assert np.array_equal(ours, getattr(node, field.name)), (name, field.name)
    assert imported.network.steps == (4 if each else 7)
    several = result in ("sum", "mean", "total", "last")
    assert ("output" in imported.inferred) == several


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("dictionary", "must return a tensor that it makes alike at every step"),
        ("membranes", "layer 'lif2' must never reset to show its membrane.*reset_mechanism='none'"),
    ],
)
def test_a_loop_that_returns_something_else_is_refused(snn: Any, result: str, text: str) -> None:
    with pytest.raises(UnsupportedError, match=text):
        from_module(Loop(snn, result, each=False), (5,), layout="constant")


def test_a_loop_takes_its_own_number_of_steps(snn: Any) -> None:
    with pytest.raises(UnsupportedError, match="must take the 9 steps asked for.*it takes 7"):
        from_module(Loop(snn, "sum", each=False), (5,), steps=9, layout="constant")


class Stateful(Net):
    """A network that takes and returns its states."""

    def forward(self, x: Tensor, syn: Any, mem: Any, mem2: Any) -> Any:
        return self.function(self, x, syn, mem, mem2)


def test_states_that_are_handed_on_belong_to_their_neurons(snn: Any) -> None:
    def forward(m: Any, x: Tensor, syn: Any, mem: Any, mem2: Any) -> Any:
        spike, syn, mem = m.lif1(m.fc1(x), syn, mem)
        spike, mem2 = m.lif2(m.fc2(spike), mem2)
        return spike, syn, mem, mem2

    modules = {
        "fc1": nn.Linear(5, 6),
        "lif1": snn.Synaptic(alpha=0.5, beta=0.5),
        "fc2": nn.Linear(6, 6),
        "lif2": snn.Leaky(beta=0.5),
    }

    def swapped(m: Any, x: Tensor, syn: Any, mem: Any, mem2: Any) -> Any:
        spike, syn, mem, mem2 = forward(m, x, syn, mem, mem2)
        return spike, syn, mem2, mem

    network = from_module(dyadic(Stateful(forward, **modules)), (5,)).network
    assert set(network.nodes) == {"input", "fc1", "lif1", "fc2", "lif2", "output"}
    with pytest.raises(
        UnsupportedError,
        match="layer 'lif1' must get the membrane that it returned a step before, but it gets the "
        "membrane of 'lif2': hand on what it returns",
    ):
        from_module(Stateful(swapped, **modules), (5,))


def test_a_recurrence_that_is_written_out_feeds_back(snn: Any) -> None:
    def forward(m: Any, x: Tensor, start: float = 0.0) -> Tensor:
        spike, mem = torch.full((x.shape[1], 6), start), m.lif.reset_mem()
        result = []
        for now in x:
            spike, mem = m.lif(m.fc(now) + m.rec(spike), mem)
            result.append(m.out(spike))
        return torch.stack(result)

    modules = {
        "fc": nn.Linear(5, 6),
        "rec": nn.Linear(6, 6),
        "lif": snn.Leaky(beta=0.5),
        "out": nn.Linear(6, 2),
    }
    imported = from_module(dyadic(Net(forward, **modules)), (5,), steps=5)

    assert imported.network.feedback == {("lif", "rec")}
    assert "lif -> rec, one step later" in imported.inferred["feedback"]
    with pytest.raises(
        UnsupportedError, match="layer 'lif' must get the same in every step.*first"
    ):
        from_module(Net(lambda m, x: forward(m, x, 1.0), **modules), (5,), layout="time first")


def test_neurons_that_never_reset_show_their_membrane(snn: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        _, mem = m.out(m.fc2(m.lif(m.fc1(x))))
        return mem  # type: ignore[no-any-return]

    module = dyadic(
        Net(
            forward,
            fc1=nn.Linear(5, 6),
            lif=snn.Leaky(beta=0.5, init_hidden=True),
            fc2=nn.Linear(6, 3),
            out=snn.Leaky(beta=0.5, reset_mechanism="none", init_hidden=True, output=True),
        )
    )
    imported = from_module(module, (5,))
    x = np.random.default_rng(0).integers(0, 2, (4, 9, 5)).astype(float)
    forget(module)

    with torch.no_grad():
        expected = torch.stack([module(now.float()) for now in torch.from_numpy(x).unbind(1)], 1)

    assert isinstance(imported.network.nodes["out.membrane"], Integrator)
    assert "out" not in imported.network.nodes
    np.testing.assert_allclose(
        simulate(imported.network, x).output, expected.numpy(), rtol=1e-6, atol=1e-6
    )


def quantised(x: Tensor) -> Tensor:
    return x.round()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"state_quant": quantised}, "must keep its state as it is.*: use state_quant=False"),
        ({"spike_grad": torch.sigmoid}, "needs a surrogate function that gives 0 or 1"),
        ({"spike_grad": torch.sign}, "needs a surrogate function that gives 0 or 1"),
        (
            {"threshold": -0.5, "reset_mechanism": "zero", "reset_delay": False},
            "needs thresholds above 0 for this reset, but one is -0.5",
        ),
        ({"threshold": -0.5, "reset_delay": False}, "needs thresholds above 0 to subtract them"),
    ],
)
def test_what_only_snntorch_can_do_is_refused(snn: Any, options: Any, text: str) -> None:
    module = nn.Sequential(nn.Linear(5, 6), snn.Leaky(beta=0.5, init_hidden=True, **options))

    with pytest.raises(UnsupportedError, match=f"layer '1' {text}"):
        from_module(module, (5,))


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
def test_inhibition_is_refused(snn: Any) -> None:
    module = nn.Sequential(nn.Linear(5, 6), snn.Leaky(beta=0.5, init_hidden=True, inhibition=True))

    with pytest.raises(
        UnsupportedError, match="layer '1' must fire whatever its neighbours do.*: use inhibition"
    ):
        from_module(module, (5,))


def test_a_reset_that_was_changed_afterwards_is_refused(snn: Any) -> None:
    leaky = snn.Leaky(beta=0.5, init_hidden=True)
    leaky.load_state_dict({**leaky.state_dict(), "reset_mechanism_val": torch.tensor(1)})

    with pytest.raises(
        UnsupportedError,
        match="needs one reset mechanism, but it was made with 'subtract', and set",
    ):
        from_module(one_layer(leaky), (5,))


def test_a_derived_class_may_only_name_itself(snn: Any) -> None:
    class Named(snn.Leaky):  # type: ignore[misc]
        def extra_repr(self) -> str:
            return "mine"

    class Other(snn.Leaky):  # type: ignore[misc]
        def forward(self, x: Tensor, *_: Any) -> Any:
            return super().forward(x * 2)

    prove(one_layer(Named(beta=0.5, init_hidden=True)), (5,))
    with pytest.raises(
        UnsupportedError,
        match="layer '1' must compute what its class 'Leaky' does, but 'Other' has its own forward",
    ):
        from_module(one_layer(Other(beta=0.5, init_hidden=True)), (5,))


def test_neurons_that_are_not_known_are_told_all_at_once(snn: Any) -> None:
    module = nn.Sequential(
        nn.Linear(5, 6),
        snn.Alpha(alpha=0.75, beta=0.5, init_hidden=True),
        nn.Linear(6, 6),
        snn.RSynaptic(alpha=0.5, beta=0.5, linear_features=6, init_hidden=True, reset_delay=False),
    )

    with pytest.raises(UnsupportedError) as raised:
        from_module(module, (5,))

    text = str(raised.value)
    assert "2 problems" in text
    assert (
        "layer '1' is a 'Alpha' of snnTorch, which cannot be compiled: supported are Leaky" in text
    )
    assert "layer '3' needs a reset at the next step" in text


def test_a_trained_recurrent_network_of_snntorch_fires_the_same(
    snn: Any, shared_data: Path
) -> None:
    """The braille reader behind a published NIR file: its weights are those of the file."""
    folder = shared_data / "ckpt"
    trained = json.loads((folder / "parameters_noDelay_bias_ref_zero.json").read_text())
    options = {"reset_mechanism": "zero", "init_hidden": True}
    module = nn.Sequential(
        nn.Linear(12, 38),
        snn.RSynaptic(
            alpha=trained["alpha_r"], beta=trained["beta_r"], linear_features=38, **options
        ),
        nn.Linear(38, 7),
        snn.Synaptic(alpha=trained["alpha_out"], beta=trained["beta_out"], **options),
    )
    state = torch.load(
        folder / "model_noDelay_bias_ref_zero.pt", map_location="cpu", weights_only=True
    )
    for place, name in enumerate(("fc1.", "lif1.", "fc2.", "lif2.")):
        part = {key.removeprefix(name): value for key, value in state.items() if name in key}
        module[place].load_state_dict(part)

    network = prove(module, (12,)).network

    file = from_nir(
        shared_data / "nir/braille_noDelay_bias_zero.nir", profile="literal", dt=1e-4, reset="zero"
    ).network
    for ours, theirs in (("0", "fc1"), ("1.recurrent", "lif1.w_rec"), ("2", "fc2")):
        node, other = network.nodes[ours], file.nodes[theirs]
        assert isinstance(node, Dense)
        assert isinstance(other, Dense)
        assert np.array_equal(node.weight, other.weight)
        assert np.array_equal(node.bias, other.bias)


# SpikingJelly -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("reset", [None, 0.0, -0.5])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("IFNode", {}),
        ("IFNode", {"v_threshold": 0.75}),
        ("LIFNode", {"tau": 2.0, "v_threshold": 0.5}),
        ("LIFNode", {"tau": 4.0, "decay_input": False}),
        ("ParametricLIFNode", {"init_tau": 2.0, "v_threshold": 0.5}),
        ("ParametricLIFNode", {"init_tau": 2.0, "decay_input": False}),
        ("CUBALIFNode", {"c_decay": 0.5, "v_decay": 0.5, "v_threshold": 1.5}),
    ],
)
def test_spikingjellys_neurons_fire_the_same(
    sj: Any, kind: str, options: Any, reset: float | None, mode: str
) -> None:
    neurons = getattr(sj.neuron, kind)(v_reset=reset, **options)
    neurons.step_mode = mode
    module = dyadic(nn.Sequential(sj.layer.Linear(5, 6, step_mode=mode), neurons))

    imported = prove(module, (5,), multi=mode == "m")

    node = lif_of(imported.network)
    assert node.comparison == ">="
    assert node.reset == ("subtract" if reset is None else "zero")
    assert (
        imported.inferred["layout"]
        == {
            "s": "one call for each step",
            "m": "one call, time first",
        }[mode]
    )


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_convolutional_network_of_spikingjelly_fires_the_same(sj: Any, mode: str) -> None:
    options = {"step_mode": mode}
    layer, neuron = sj.layer, sj.neuron
    module = dyadic(
        nn.Sequential(
            layer.Conv2d(2, 4, 3, padding=1, bias=False, **options),
            layer.BatchNorm2d(4, **options),
            neuron.LIFNode(tau=2.0, v_threshold=0.25, **options),
            layer.MaxPool2d(2, **options),
            layer.Conv2d(4, 4, 3, padding=1, **options),
            layer.BatchNorm2d(4, **options),
            neuron.IFNode(v_reset=None, v_threshold=2.0, **options),
            layer.AvgPool2d(2, **options),
            layer.Flatten(**options),
            layer.Dropout(0.5, **options),
            layer.Linear(16, 8, **options),
            neuron.LIFNode(tau=2.0, v_threshold=0.5, **options),
            layer.VotingLayer(2, **options),
        )
    )

    imported = prove(module, (2, 8, 8), multi=mode == "m", limits=SIXTEENTHS)

    assert imported.network.of_type(LIF) == ("2", "6", "11")
    assert imported.network.of_type(Pool2d) == ("7",)
    assert imported.network.shapes["output"] == (4,)
    assert imported.inferred["batch norms"] == "2 folded, in float64"


def test_containers_with_and_without_time_are_looked_into(sj: Any) -> None:
    layer, neuron = sj.layer, sj.neuron
    module = dyadic(
        nn.Sequential(
            layer.SeqToANNContainer(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)),
            neuron.IFNode(step_mode="m"),
            layer.SeqToANNContainer(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)),
            layer.MultiStepContainer(nn.Linear(5, 6), neuron.LIFNode(tau=2.0, v_threshold=0.25)),
            layer.Linear(6, 3, step_mode="m"),
        )
    )

    imported = from_module(module, (1, 8, 8), input_range=SIXTEENTHS)

    assert set(imported.network.of_type(LIF)) == {"1", "3.1"}
    assert imported.network.of_type(Conv2d) == ("0.0",)


def test_a_residual_network_of_all_steps_is_read(sj: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        first = m.lif1(m.bn1(m.conv1(x)))
        second = m.lif2(m.bn2(m.conv2(first)) + first)
        joined = torch.cat((first + second, second), 2)
        return m.fc(joined.flatten(2)).mean(0)  # type: ignore[no-any-return]

    options = {"step_mode": "m"}
    module = dyadic(
        Net(
            forward,
            conv1=sj.layer.Conv2d(1, 2, 3, padding=1, **options),
            bn1=sj.layer.BatchNorm2d(2, **options),
            lif1=sj.neuron.LIFNode(tau=2.0, v_threshold=0.5, **options),
            conv2=sj.layer.Conv2d(2, 2, 3, padding=1, **options),
            bn2=sj.layer.BatchNorm2d(2, **options),
            lif2=sj.neuron.IFNode(**options),
            fc=nn.Linear(4 * 16, 3),
        )
    )

    imported = from_module(module, (1, 4, 4))

    assert imported.network.sources("lif2") == ("conv2", "lif1")
    assert imported.inferred["output"] == "of every step; the module takes the mean of them"


@pytest.mark.parametrize(
    "repeat",
    [
        lambda x: x.unsqueeze(0).repeat(5, 1, 1, 1, 1),
        lambda x: x.unsqueeze(0).expand(5, -1, -1, -1, -1),
        lambda x: torch.stack([x] * 5),
        lambda x: torch.stack([x for _ in range(5)], 1).transpose(0, 1),
    ],
)
def test_an_image_that_the_module_gives_to_all_steps_is_direct_encoding(
    sj: Any, repeat: Any
) -> None:
    """The form of SpikingJelly's tutorials."""
    module = dyadic(
        Net(
            lambda m, x: m.body(repeat(x)).mean(0),
            body=nn.Sequential(
                sj.layer.Conv2d(1, 2, 3, step_mode="m"),
                sj.layer.BatchNorm2d(2, step_mode="m"),
                sj.neuron.IFNode(step_mode="m"),
                sj.layer.Flatten(step_mode="m"),
                sj.layer.Linear(2 * 9, 3, step_mode="m"),
                sj.neuron.IFNode(step_mode="m"),
            ),
        )
    )

    imported = from_module(module, (1, 5, 5), input_range=SIXTEENTHS)

    assert imported.network.steps == 5
    assert imported.inferred["layout"] == "one call, which takes 5 steps of one input"
    assert imported.inferred["output"] == "of every step; the module takes the mean of them"


@pytest.mark.parametrize("where", ["node", "layer"])
def test_a_step_mode_that_does_not_fit_is_refused(sj: Any, where: str) -> None:
    modes = ("m", "s") if where == "node" else ("s", "m")
    module = nn.Sequential(nn.Linear(5, 6), sj.neuron.IFNode(step_mode=modes[0]))
    chosen = "step" if where == "node" else "time first"

    with pytest.raises(
        UnsupportedError, match=r"layer '1' (needs an input whose|works on one step)"
    ):
        from_module(module, (5,), layout=chosen)


def test_a_neuron_of_spikingjelly_that_is_not_known_is_refused(sj: Any) -> None:
    with pytest.raises(
        UnsupportedError, match="layer '1' is a 'QIFNode' of SpikingJelly, which cannot be compiled"
    ):
        from_module(nn.Sequential(nn.Linear(5, 6), sj.neuron.QIFNode()), (5,))


@pytest.mark.parametrize("mode", ["s", "m"])
def test_the_real_delay_waits(mode: str) -> None:
    based = "spikingjelly.activation_based"
    pytest.importorskip(based, reason="SpikingJelly is not installed")
    layer, neuron = (importlib.import_module(f"{based}.{name}") for name in ("layer", "neuron"))
    options = {"step_mode": mode}
    module = nn.Sequential(
        layer.Linear(5, 6, **options),
        neuron.IFNode(**options),
        layer.Delay(2, **options),
        layer.Linear(6, 6, **options),
        neuron.IFNode(v_reset=None, **options),
    )

    network = prove(dyadic(module), (5,), multi=mode == "m").network

    assert isinstance(network.nodes["2"], Delay)


def test_the_real_threshold_dependent_batch_norm_folds() -> None:
    based = "spikingjelly.activation_based"
    pytest.importorskip(based, reason="SpikingJelly is not installed")
    layer, neuron = (importlib.import_module(f"{based}.{name}") for name in ("layer", "neuron"))
    module = nn.Sequential(
        layer.Conv2d(1, 4, 3, step_mode="m"),
        layer.ThresholdDependentBatchNorm2d(2**-0.5, 1.0, 4),
        neuron.LIFNode(tau=2.0, v_threshold=0.125, step_mode="m"),
    )

    network = from_module(module, (1, 5, 5)).network

    assert set(network.nodes) == {"input", "0", "2", "output"}
    timed = nn.Sequential(module[0], layer.TemporalEffectiveBatchNorm2d(4, 4), module[2])
    timed[1].scale.data = torch.arange(1.0, 5)
    with pytest.raises(
        UnsupportedError, match="layer '1' must scale and shift its channels, always"
    ):
        from_module(timed, (1, 5, 5), steps=4)


# Ours and everybody's ---------------------------------------------------------------------------


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)
        self.lif1, self.lif2 = own.LIF(), own.LIF(tau=1.0, threshold=2.0)
        self.conv2, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        first = self.lif1(self.bn(self.conv(x)), steps)
        second = self.lif2(self.conv2(first) - first, steps)
        pooled = torch.cat((first + first, second), 1).mean((2, 3))
        result: Tensor = self.fc(pooled)
        return result


@pytest.mark.parametrize("whole", [True, False])
def test_our_own_networks_fire_the_same(*, whole: bool) -> None:
    body = dyadic(Body())
    network = SpikingNetwork(body, (1, 4, 4))
    prefix = "body." if whole else ""

    read = from_module(network if whole else body, (1, 4, 4), input_range=SIXTEENTHS).network

    x = torch.randint(0, 17, (8, 9, 1, 4, 4), generator=torch.Generator().manual_seed(0)) / 16
    output, spikes = spikes_of(network, x)
    trace = simulate(read, x.numpy())
    assert np.array_equal(output.numpy(), trace.output)
    for name, values in spikes.items():
        assert np.array_equal(values.numpy(), trace.spikes[f"{prefix}{name}"])
        assert 0 < values.mean() < 1


def leaky(**options: Any) -> Any:
    return stand_ins.snntorch.Leaky(beta=0.5, init_hidden=True, **options)


def test_a_module_stays_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), leaky())
    module(torch.ones(2, 5))  # in training: its membrane is no leaf
    before = {name: value.clone() for name, value in module.state_dict().items()}
    membrane = module[2].mem

    from_module(module, (5,))

    assert module.training
    assert module[2].mem is membrane
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())
    assert {value.dtype for value in module.state_dict().values() if value.is_floating_point()} == {
        torch.float32
    }


def test_a_layer_of_neurons_alone_is_a_network() -> None:
    network = from_module(leaky(), (5,)).network

    assert set(network.nodes) == {"input", "0", "output"}


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.lif(m.fc(x).reshape(-1, 2, 3).flatten(1).contiguous().clone()),
        lambda m, x: m.lif(m.fc(x.unsqueeze(1)).squeeze(1)),
        lambda m, x: m.lif(nn.functional.linear(x, m.fc.weight, m.fc.bias)),
        lambda m, x: m.lif(m.fc(nn.functional.dropout(x, 0.5, training=m.training))),
        lambda m, x: m.lif(m.fc(x) * 2 / 4 + 0.5 - 0.25),
        lambda m, x: m.lif(1 - m.fc(x)),
        lambda m, x: m.lif(m.fc(x) * torch.tensor([1.0, 2.0, 0.5, 1.0, 2.0, 4.0])),
        lambda m, x: m.lif(m.fc(x) - m.fc(x) / 2),
        lambda m, x: m.lif(-m.fc(x) + torch.arange(6) / 4),
        lambda m, x: m.lif(m.fc(x) + m.fc(x)),
        lambda m, x: m.lif((y := m.fc(x)).add_(y * 0.5)),
        lambda m, x: m.lif(sum((m.fc(x), m.fc(x) * 0.25))),
        lambda m, x: m.lif(m.fc(x) + torch.zeros_like(x).sum()),
        lambda m, x: (m.lif(m.fc(x)), x.shape)[0],
    ],
)
def test_arithmetic_between_layers_is_read(function: Any) -> None:
    prove(dyadic(Net(function, fc=nn.Linear(5, 6), lif=leaky(threshold=0.5))), (5,))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.lif(m.conv(x) + torch.arange(2).reshape(2, 1, 1) / 4),
        lambda m, x: m.lif(nn.functional.avg_pool2d(m.conv(x), 2)),
        lambda m, x: m.lif(nn.functional.max_pool2d(m.lif2(m.conv(x)), 2)),
        lambda m, x: m.lif(torch.nn.functional.adaptive_avg_pool2d(m.conv(x), 2)),
        lambda m, x: m.lif(m.conv(x).mean((2, 3)) * 4),
        lambda m, x: m.lif(m.conv(x).mean(dim=(-1, -2), keepdim=True) * 4),
        lambda m, x: m.lif(nn.functional.conv2d(x, m.conv.weight * 0.5, m.conv.bias, padding=1)),
        lambda m, x: m.lif(torch.cat((x, m.conv(x), x), dim=1)),
    ],
)
def test_functions_on_images_are_read(function: Any) -> None:
    module = Net(
        function,
        conv=nn.Conv2d(1, 2, 3, padding=1),
        lif=leaky(threshold=0.5),
        lif2=leaky(threshold=0.5),
    )

    prove(dyadic(module), (1, 4, 4), quiet=("lif2",))


def test_a_series_over_space_is_read() -> None:
    module = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1),
        nn.BatchNorm1d(4),
        leaky(threshold=0.5),
        nn.MaxPool1d(2),
        nn.Conv1d(4, 4, 3, padding="same", groups=2),
        nn.AvgPool1d(2),
        leaky(threshold=0.25),
    )

    prove(dyadic(module), (2, 8))


def test_computed_weights_are_read_as_they_are() -> None:
    module = one_layer(leaky())
    norms: Any = nn.utils.parametrizations
    norms.weight_norm(module[0])

    network = from_module(module, (5,)).network

    node = network.nodes["0"]
    assert isinstance(node, Dense)
    np.testing.assert_allclose(node.weight, module[0].weight.detach().numpy())


def double(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
    return output * 2


def test_what_cannot_be_seen_is_caught_by_the_proof() -> None:
    """A hook that changes what a layer computes is none of the layer's parameters."""
    module = one_layer(leaky())
    module[0].register_forward_hook(double)

    with pytest.raises(
        EquivalenceError,
        match="layer '1' must fire the spikes of the module, but .* differ at step 0: it computes "
        "something that could not be seen",
    ):
        from_module(module, (5,))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.fc2(m.lif(m.fc1(x))),
        lambda m, x: sum(m.fc2(m.lif(m.fc1(x))) for _ in range(6)),
        lambda m, x: torch.stack([m.fc2(m.lif(m.fc1(x))) for _ in range(6)]),
        lambda m, x: torch.stack([m.fc2(m.lif(m.fc1(x))) for _ in range(6)], 1),
        lambda m, x: torch.stack([m.fc2(m.lif(m.fc1(x))) for _ in range(6)], 1).mean(1),
    ],
)
def test_an_output_that_differs_is_caught_by_the_proof(function: Any) -> None:
    module = dyadic(Net(function, fc1=nn.Linear(5, 6), lif=leaky(), fc2=nn.Linear(6, 2)))
    assert from_module(module, (5,)).network.shapes["output"] == (2,)
    module.fc2.register_forward_hook(double)

    with pytest.raises(EquivalenceError, match="the network must return what the module does"):
        from_module(module, (5,))


class Unwelcome(nn.Module):
    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.fc, self.lif, self.other = nn.Linear(4, 4), leaky(), leaky()
        self.function = function
        self.memory: Any = None

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def remembered(m: Any, x: Tensor) -> Tensor:
    m.memory = x if m.memory is None else m.memory + x
    return m.lif(m.fc(m.memory))  # type: ignore[no-any-return]


def forgetful(m: Any, x: Tensor) -> Tensor:
    m.lif.reset_mem()
    return m.lif(m.fc(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda m, x: torch.relu(m.lif(m.fc(x))), "layer 'relu' is a 'relu', a layer of networks"),
        (
            lambda m, x: m.lif(m.fc(x)) ** 2,
            "layer 'pow' is something that a compiled network cannot",
        ),
        (lambda m, x: m.lif(m.fc(x) * x), "layer 'mul' is something"),
        (lambda m, x: m.lif(m.fc(x).cumsum(0)), "layer 'cumsum' is something"),
        (
            lambda m, x: m.lif(m.fc(x[:1].expand(len(x), -1))),
            "is something that a compiled network",
        ),
        (
            lambda m, x: m.lif(m.lif(m.fc(x))),
            "layer 'lif' must be used once in each of the 3 steps",
        ),
        (
            lambda m, x: m.lif(m.fc(x)) if x.sum() > 0 else x,
            "must not decide how the network goes on, but its values are read by 'bool'",
        ),
        (lambda m, x: m.lif(m.fc(x * x.max().item())), "its values are read by 'item'"),
        (lambda m, x: (m.lif(m.fc(x)), m.other(x)), "must return one tensor besides states"),
        (lambda m, x: m.lif(m.fc(x)).shape, "must return a tensor that it makes alike"),
        (lambda m, x: m.lif(m.fc(x)).numpy(), "are read by 'numpy'|must"),
        (remembered, "layer 'lif' must get the same in every step|must take"),
        (
            forgetful,
            "layer 'lif' must keep its state from step to step, but it is set anew between them",
        ),
        (lambda m, x: m.lif(m.fc(x) + torch.ones(len(x), 4)), "that fits its neurons|summand"),
    ],
)
def test_what_no_network_can_do_is_refused(function: Any, text: str) -> None:
    with pytest.raises(UnsupportedError, match=text):
        from_module(Unwelcome(function), (4,))


def test_all_layers_that_cannot_be_compiled_are_told_at_once() -> None:
    module = nn.Sequential(
        nn.Linear(4, 4),
        nn.ReLU(),
        leaky(),
        nn.LayerNorm(4),
        nn.BatchNorm1d(4, track_running_stats=False),
        leaky(inhibition=True),
        nn.Softmax(1),
    )

    with pytest.raises(UnsupportedError) as raised:
        from_module(module, (4,))

    text = str(raised.value)
    assert "5 problems" in text
    assert (
        "layer '1' is a 'ReLU', a layer of networks without spikes, but neurons can only compute "
        "their own activation: replace it by a layer of neurons and train again"
    ) in text
    assert "layer '3' is a 'LayerNorm', which normalises with the values of each sample" in text
    assert "layer '4' needs stored statistics to be folded" in text
    assert "layer '5' must fire whatever its neighbours do" in text
    assert "layer '6' is a 'Softmax'" in text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layout": "sideways"}, "there is no layout 'sideways': choose from step, time first"),
        ({"steps": 0}, "needs at least 1 step, but it is 0"),
        ({"input_shape": ()}, "needs an input shape without batch and time"),
        (
            {"input_shape": (7,)},
            r"must take an input of shape \(7,\), \(batch, \*shape\), but it raises",
        ),
    ],
)
def test_impossible_options_are_told(options: Any, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        from_module(one_layer(leaky()), options.pop("input_shape", (5,)), **options)


def test_a_network_without_spikes_is_refused() -> None:
    with pytest.raises(
        UnsupportedError, match="needs layers of spiking neurons, but there are none"
    ):
        from_module(nn.Sequential(nn.Linear(5, 2), nn.ReLU()), (5,))


@pytest.mark.parametrize(
    ("surrogate", "expected"),
    [(stand_ins.above, ">"), (stand_ins.from_zero_on, ">="), (lambda x: (x >= 0).float(), ">=")],
)
def test_a_surrogate_function_says_where_it_fires(surrogate: Any, expected: str) -> None:
    assert comparison_of(surrogate) == expected


@pytest.mark.parametrize(
    "surrogate",
    [
        torch.sigmoid,
        torch.relu,
        lambda x: torch.bernoulli(torch.sigmoid(x)),
        lambda x: (x > 1e-3) * 1.0,
    ],
)
def test_a_surrogate_function_must_be_a_step(surrogate: Any) -> None:
    with pytest.raises(UnreadableError):
        comparison_of(surrogate)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(2, 4, (3, 2), (2, 1), (1, 0), (1, 2), 2), (2, 7, 8)),
        (nn.Conv2d(2, 3, 3, padding="same", bias=False), (2, 5, 6)),
        (nn.Conv2d(2, 3, 2, padding="same"), (2, 5, 6)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 6)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 6)),
        (nn.Conv1d(4, 4, 3, stride=2, padding=1, groups=2), (4, 9)),
        (nn.ConvTranspose2d(4, 6, (3, 2), padding=(1, 0), groups=2), (4, 5, 6)),
        (nn.ConvTranspose2d(2, 3, 3, dilation=2, bias=False), (2, 5, 6)),
        (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 4, 5)),
        (nn.ConvTranspose2d(2, 3, 2, padding=2), (2, 5, 5)),
        (nn.ConvTranspose1d(2, 3, 3, padding=1), (2, 6)),
        (nn.ConvTranspose1d(2, 3, 3, stride=3), (2, 4)),
        (nn.AvgPool2d(2, ceil_mode=True), (2, 4, 6)),
        (nn.AvgPool2d(2, ceil_mode=True), (2, 5, 5)),
        (nn.AvgPool2d(3, 2, 1), (2, 5, 6)),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 5, 6)),
        (nn.AvgPool2d((2, 3), divisor_override=4), (2, 4, 6)),
        (nn.AvgPool1d(3, 2, 1), (2, 9)),
        (nn.AdaptiveAvgPool2d((2, None)), (2, 4, 5)),
        (nn.AdaptiveAvgPool2d(3), (2, 5, 4)),
        (nn.AdaptiveAvgPool1d(2), (3, 6)),
        (nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3, 4)),
        (nn.MaxPool2d(3, 2, 1), (2, 6, 7)),
        (nn.MaxPool2d(2, ceil_mode=True), (2, 4, 6)),
        (nn.MaxPool1d(3, 2, 1), (2, 8)),
        (nn.Linear(5, 3), (5,)),
        (nn.Linear(5, 3), (2, 5)),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_a_layer_and_its_nodes_compute_the_same(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value, got = x.numpy(), shape

    for node in nodes_of(layer, shape):
        value = apply_stateless(node, value)
        got = output_shape(node, got)

    expected = layer.double()(x).detach().numpy()
    assert got == expected.shape[1:]
    np.testing.assert_allclose(value.reshape(len(x), *got), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "shape", "text"),
    [
        (nn.MaxPool2d(2, ceil_mode=True), (1, 5, 5), "needs a plain max pool"),
        (nn.MaxPool2d(2, dilation=2), (1, 5, 5), "needs a plain max pool"),
        (nn.Linear(512, 512), (512, 512), "only be written out as a matrix"),
        (nn.Conv2d(1, 1, 1), (1, 5), "needs an input with 3 axes"),
        (nn.ConvTranspose2d(64, 64, 3, stride=2), (64, 64, 64), "only be written out as a matrix"),
        (nn.Conv3d(1, 1, 1), (1, 2, 2, 2), "is a 'Conv3d', which cannot be compiled"),
        (nn.LSTM(3, 3), (3,), "is a 'LSTM', which cannot be compiled"),
    ],
)
def test_a_layer_without_nodes_says_so(layer: nn.Module, shape: Any, text: str) -> None:
    with pytest.raises(UnreadableError) as raised:
        nodes_of(layer, shape)

    assert text in raised.value.reason[0]


@given(st.data())
@settings(max_examples=20)
def test_random_networks_of_neurons_fire_the_same(data: Any) -> None:
    """Layers, batch norms, pools, sums and neurons of all kinds, one behind the other."""
    shape: tuple[int, ...] = (2, 4, 4)
    channels = 2
    modules: dict[str, nn.Module] = {}
    plan: list[tuple[str, ...]] = []
    for stage in range(data.draw(st.integers(1, 3), label="stages")):
        out = data.draw(st.sampled_from([2, 4]), label="channels")
        modules[f"conv{stage}"] = nn.Conv2d(channels, out, 3, padding=1)
        norm = data.draw(st.booleans(), label="norm")
        modules[f"bn{stage}"] = nn.BatchNorm2d(out) if norm else nn.Identity()
        modules[f"lif{stage}"] = data.draw(
            st.sampled_from(
                [
                    leaky(threshold=0.5),
                    leaky(reset_mechanism="zero"),
                    leaky(reset_mechanism="none", threshold=2.0),
                    stand_ins.snntorch.Synaptic(
                        beta=0.5, alpha=0.5, reset_mechanism="zero", init_hidden=True
                    ),
                    stand_ins.neuron.IFNode(v_reset=None),
                    stand_ins.neuron.LIFNode(tau=2.0, v_threshold=0.25, v_reset=-0.25),
                ]
            ),
            label="neurons",
        )
        shortcut = out == channels and data.draw(st.booleans(), label="shortcut")
        pool = data.draw(st.sampled_from(["none", "max", "average"]), label="pool")
        plan.append((str(stage), "shortcut" if shortcut else "", pool if stage < 1 else "none"))
        channels = out

    def forward(m: Any, x: Tensor) -> Tensor:
        for stage, shortcut, pool in plan:
            y = getattr(m, f"bn{stage}")(getattr(m, f"conv{stage}")(x))
            x = getattr(m, f"lif{stage}")(y + x if shortcut else y)
            if pool == "max":
                x = nn.functional.max_pool2d(x, 2)
            elif pool == "average":
                x = nn.functional.avg_pool2d(x, 2)
        return x

    module = copy.deepcopy(Net(forward, **modules))
    quiet = tuple(name for name in modules if name.startswith("lif"))

    weights = data.draw(st.integers(0, 99), label="weights")
    prove(dyadic(module, weights), shape, quiet=quiet, samples=4, steps=10)
