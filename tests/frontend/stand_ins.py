"""
Small modules with the names and the behaviour of snnTorch's and SpikingJelly's, for where these are missing.

Each does at a step what the framework's class of that name does, as far as these tests go; with the
frameworks installed the same tests run on the real ones, so that a stand-in that differs is noticed.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


def above(x: Tensor) -> Tensor:
    return (x > 0).float()


def from_zero_on(x: Tensor) -> Tensor:
    return (x >= 0).to(x)


class OneToOne(nn.Module):
    def __init__(self, V: float) -> None:  # noqa: N803 - the framework's name
        super().__init__()
        self.V = nn.Parameter(torch.as_tensor(V))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.V


class SpikingNeuron(nn.Module):
    """All of snnTorch's: a step, its reset from the step before, and what it hands out."""

    has_current = False
    recurrent: Any
    beta: Any
    alpha: Any
    threshold: Any
    graded_spikes_factor: Any
    reset: Any
    spk: Any
    syn: Any
    mem: Any

    def __init__(
        self,
        beta: Any = 0.5,
        alpha: Any = 0.5,
        threshold: Any = 1.0,
        *,
        linear_features: int = 0,
        V: Any = None,  # noqa: N803
        all_to_all: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        mechanism = options.get("reset_mechanism", "subtract")
        self.register_buffer("beta", torch.as_tensor(beta))
        self.register_buffer("alpha", torch.as_tensor(alpha))
        self.register_buffer("threshold", torch.as_tensor(threshold))
        number = ("subtract", "zero", "none").index(mechanism)
        self.register_buffer("reset_mechanism_val", torch.as_tensor(number))
        factor = torch.as_tensor(options.get("graded_spikes_factor", 1.0))
        self.register_buffer("graded_spikes_factor", factor)
        self.reset_mechanism = mechanism
        self.state_function = (self._base_sub, self._base_zero, self._base_int)[number]
        self.reset_delay = options.get("reset_delay", True)
        self.init_hidden = options.get("init_hidden", False)
        self.output = options.get("output", False)
        self.inhibition = options.get("inhibition", False)
        self.state_quant = options.get("state_quant", False)
        self.spike_grad = options.get("spike_grad") or above
        for name in self.held():
            self.register_buffer(name, torch.zeros(0), persistent=False)
        if self.is_recurrent():
            everyone = all_to_all and linear_features
            self.recurrent = (
                nn.Linear(linear_features, linear_features) if everyone else OneToOne(V)
            )

    def is_recurrent(self) -> bool:
        return type(self).__name__.startswith("R")

    def held(self) -> tuple[str, ...]:
        current = ("syn",) if self.has_current else ()
        return (*(("spk",) if self.is_recurrent() else ()), *current, "mem")

    def reset_mem(self) -> Any:
        for name in self.held():
            setattr(self, name, torch.zeros_like(getattr(self, name)))
        held = tuple(getattr(self, name) for name in self.held())
        return held[0] if len(held) == 1 else held

    def decay(self) -> Any:
        return self.beta.clamp(0, 1)

    def gain(self) -> Any:
        return 1.0

    def charged(self, x: Tensor, mem: Tensor) -> Any:
        if self.is_recurrent():
            x = x + self.recurrent(self.spk)
        if self.has_current:
            self.syn = x = self.alpha.clamp(0, 1) * self.syn + x
        return self.decay() * mem + x * self.gain()

    def _base_sub(self, x: Tensor) -> Any:
        return self.charged(x, self.mem) - self.reset * self.threshold

    def _base_zero(self, x: Tensor) -> Any:
        return self.charged(x, self.mem) * (1 - self.reset)

    def _base_int(self, x: Tensor) -> Any:
        return self.charged(x, self.mem)

    def forward(self, input_: Tensor, *states: Any) -> Any:
        for name, given in zip(self.held(), states, strict=False):
            if given is not None:
                setattr(self, name, given)
        for name in self.held():
            if getattr(self, name).shape != input_.shape:
                setattr(self, name, torch.zeros_like(input_))
        self.reset = self.spike_grad(self.mem - self.threshold)
        self.mem = self.state_function(input_)
        fires = self.spike_grad(self.mem - self.threshold)
        spk = fires * self.graded_spikes_factor
        if self.is_recurrent():
            self.spk = spk
        if not self.reset_delay:
            late = fires - self.reset
            if self.reset_mechanism == "subtract":
                self.mem = self.mem - late * self.threshold
            elif self.reset_mechanism == "zero":
                self.mem = self.mem - late * self.mem
        if self.init_hidden and not self.output:
            return spk
        return (spk, *(getattr(self, name) for name in self.held() if name != "spk"))


class Leaky(SpikingNeuron):
    def _base_zero(self, x: Tensor) -> Any:
        return self.charged(x, (1 - self.reset) * self.mem)


class Synaptic(SpikingNeuron):
    has_current = True


class Lapicque(SpikingNeuron):
    """A resistor and a capacitor that leak by e^(-1 / RC) = beta, to first order."""

    def __init__(self, beta: float, **options: Any) -> None:
        super().__init__(beta=beta, **options)
        self.R, self.time_step = torch.tensor(1), torch.tensor(1)
        self.C: Any = self.time_step / (self.R * torch.log(1 / torch.as_tensor(self.beta)))

    def decay(self) -> Any:
        return 1 - self.time_step / (self.R * self.C)

    def gain(self) -> Any:
        return self.R * (1 / (self.R * self.C)) * self.time_step


class RLeaky(SpikingNeuron):
    pass


class RSynaptic(SpikingNeuron):
    has_current = True


class Alpha(SpikingNeuron):
    """One that is not known."""


class _Node(nn.Module):
    """All of SpikingJelly's: a charge, a spike and a reset; one step, or all of them."""

    def __init__(
        self, v_threshold: float = 1.0, v_reset: float | None = 0.0, **options: Any
    ) -> None:
        super().__init__()
        self.v_threshold, self.v_reset = v_threshold, v_reset
        self.step_mode = options.get("step_mode", "s")
        self.surrogate_function = options.get("surrogate_function") or from_zero_on
        self.tau = options.get("tau", 2.0)
        self.decay_input = options.get("decay_input", True)
        self._memories: dict[str, Any] = {"v": 0.0 if v_reset is None else v_reset}
        self._memories_rv = dict(self._memories)

    def __getattr__(self, name: str) -> Any:
        memories = self.__dict__.get("_memories", {})
        return memories[name] if name in memories else super().__getattr__(name)

    def reset(self) -> None:
        self._memories.update(self._memories_rv)

    def charge(self, v: Any, x: Tensor) -> Any:
        return v + x

    def leaked(self, v: Any, x: Tensor, fraction: Any) -> Any:
        away = v - (self.v_reset or 0.0)
        return v + (x - away) * fraction if self.decay_input else v - away * fraction + x

    def step(self, x: Tensor) -> Tensor:
        u = self.charge(self._memories["v"], x)
        spike: Tensor = self.surrogate_function(u - self.v_threshold)
        soft = self.v_reset is None
        hard: Any = self.v_reset
        after = u - spike * self.v_threshold if soft else (1 - spike) * u + spike * hard
        self._memories["v"] = after
        return spike

    def forward(self, x: Tensor) -> Tensor:
        if self.step_mode == "s":
            return self.step(x)
        return torch.stack([self.step(now) for now in x])


class IFNode(_Node):
    pass


class LIFNode(_Node):
    def charge(self, v: Any, x: Tensor) -> Any:
        return self.leaked(v, x, 1 / self.tau)


class ParametricLIFNode(_Node):
    def __init__(self, init_tau: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        self.w = nn.Parameter(torch.tensor(-math.log(init_tau - 1)))

    def charge(self, v: Any, x: Tensor) -> Any:
        return self.leaked(v, x, self.w.sigmoid())


class CUBALIFNode(_Node):
    def __init__(
        self,
        c_decay: float = 0.5,
        v_decay: float = 0.75,
        v_threshold: float = 0.5,
        v_reset: float | None = 0.0,
    ) -> None:
        super().__init__(v_threshold, v_reset)
        self.c_decay, self.v_decay = c_decay, v_decay
        self._memories["c"] = self._memories_rv["c"] = 0.0

    def charge(self, v: Any, x: Tensor) -> Any:
        self._memories["c"] = self._memories["c"] * self.c_decay + x
        return v * self.v_decay + self._memories["c"]


class QIFNode(_Node):
    """One that is not known."""


def stepwise(layer: type[nn.Module]) -> Any:
    """Return a layer that takes time in front of the batch where its step_mode is 'm'."""

    class Wrapped(layer):  # type: ignore[valid-type, misc]
        def __init__(self, *args: Any, step_mode: str = "s", **options: Any) -> None:
            super().__init__(*args, **options)
            self.step_mode = step_mode

        def forward(self, x: Tensor) -> Tensor:
            if self.step_mode == "s":
                return super().forward(x)  # type: ignore[no-any-return]
            y: Tensor = super().forward(x.flatten(0, 1))
            return y.reshape(*x.shape[:2], *y.shape[1:])

    Wrapped.__name__ = Wrapped.__qualname__ = layer.__name__
    Wrapped.__module__ = "spikingjelly.activation_based.layer.stateless_wrapper"
    return Wrapped


class SeqToANNContainer(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        forward: Any = super().forward
        y: Tensor = forward(x.flatten(0, 1))
        return y.reshape(*x.shape[:2], *y.shape[1:])


class MultiStepContainer(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        forward: Any = super().forward
        return torch.stack([forward(now) for now in x])


class VotingLayer(nn.Module):
    def __init__(self, voting_size: int, step_mode: str = "s") -> None:
        super().__init__()
        self.voting_size, self.step_mode = voting_size, step_mode

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], -1, self.voting_size).mean(-1)


SNNTORCH: tuple[type, ...] = (Leaky, Synaptic, Lapicque, RLeaky, RSynaptic, Alpha)
NODES: tuple[type, ...] = (IFNode, LIFNode, ParametricLIFNode, CUBALIFNode, QIFNode)
CONTAINERS: tuple[type, ...] = (SeqToANNContainer, MultiStepContainer, VotingLayer)
LAYERS = (
    *(nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.Flatten, nn.Dropout),
)

for kinds, module in (
    (SNNTORCH, "snntorch._neurons.{}"),
    (NODES, "spikingjelly.activation_based.neuron.lif"),
    (CONTAINERS, "spikingjelly.activation_based.layer.container"),
):
    for kind in kinds:
        kind.__module__ = module.format(kind.__name__.lower())

snntorch = SimpleNamespace(**{kind.__name__: kind for kind in SNNTORCH})
neuron = SimpleNamespace(**{kind.__name__: kind for kind in NODES})
layer = SimpleNamespace(
    **{kind.__name__: stepwise(kind) for kind in LAYERS},
    **{kind.__name__: kind for kind in CONTAINERS},
)
