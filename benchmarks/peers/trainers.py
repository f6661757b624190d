"""
Training steps of one network in one framework, on the CPU in float32; runs in that framework's environment.

    trainers.py CONTESTANT SETTINGS.json

CONTESTANT is `ours`, `twin` (ours with ReLU in place of neurons), `reference` (the loop of the TET paper),
`spikingjelly`, `snntorch` or `norse`. All make the same weights, inputs and labels from one seed, and give
convolutions, batch norms, pools and linear layers all steps at once; what differs is the neuron, and whether
the batch (ours, reference) or time comes first (the others, as they like it). Neurons leak 1/2, fire above
1 and reset to zero, with the triangle as their surrogate.

Prints a line of JSON when it is ready. For each line `N` that it reads it takes N steps (forward, loss at
every step of time, backward, Adam) and prints their seconds and the last loss; at the end of its input,
its memory in bytes: before the first step, and the most since.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

STATUS = Path("/proc/self/status")
THRESHOLD, LEAK = 1.0, 0.5

Neuron = Callable[[Tensor], Tensor]
"""A layer of neurons, on (steps, batch, ...) or (batch, steps, ...)."""


class Triangle(torch.autograd.Function):
    """A step whose slope is max(0, 1 - |x|), as the TET paper's code writes it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = (1 - x.abs()).clamp(min=0)
        return grads[0] * slope


def make_layers(settings: dict[str, Any], gain: float) -> list[nn.Module | None]:
    """
    Return the network's layers in order, None for neurons; what feeds these is `gain` times as strong.

    The dense network's weights are large enough that trained rates come from random numbers, too.
    """
    layers: list[nn.Module | None] = []
    if settings["network"] == "dense":
        width = settings["inputs"]
        for number, hidden in enumerate(settings["hidden"]):
            dense = nn.Linear(width, hidden)
            dense.weight.data *= gain * (4 if number else 1)
            dense.bias.data *= gain
            layers += [dense, None]
            width = hidden
        return [*layers, nn.Linear(width, settings["classes"])]
    channels, size = 3, settings["size"]
    for outputs, kernel, pool in settings["stages"]:
        norm = nn.BatchNorm2d(outputs)
        norm.weight.data *= gain
        layers += [nn.Conv2d(channels, outputs, kernel, padding=kernel // 2), norm, None]
        if pool > 1:
            layers.append(nn.AvgPool2d(pool))
        channels, size = outputs, size // pool
    return [*layers, nn.Flatten(), nn.Linear(channels * size**2, settings["classes"])]


def layerwise(layers: Sequence[nn.Module | None], neuron: Neuron) -> Callable[[Tensor], Tensor]:
    """Return what runs layers on all steps at once, and neurons in sequence."""

    def run(x: Tensor) -> Tensor:
        leading = x.shape[:2]
        x = x.flatten(0, 1)
        for layer in layers:
            if layer is None:
                x = neuron(x.reshape(*leading, *x.shape[1:])).flatten(0, 1)
                continue
            x = layer(x)
        return x.reshape(*leading, *x.shape[1:])

    return run


def reference() -> Neuron:
    """The loop of the TET paper: Eqs. 1 to 3, one operation after the other."""

    def neuron(x: Tensor) -> Tensor:
        membrane: Tensor | float = 0.0
        spikes = []
        for step in range(x.shape[1]):
            membrane = membrane * LEAK + x[:, step]
            spike = Triangle.apply(membrane - THRESHOLD)  # type: ignore[no-untyped-call]
            membrane = (1 - spike) * membrane
            spikes.append(spike)
        return torch.stack(spikes, dim=1)

    return neuron


def spikingjelly() -> Neuron:
    """`LIFNode` in its multi-step mode."""
    from spikingjelly.activation_based import neuron, surrogate

    node = neuron.LIFNode(
        tau=1 / (1 - LEAK),
        decay_input=False,
        v_threshold=THRESHOLD,
        v_reset=0.0,
        surrogate_function=surrogate.PiecewiseQuadratic(alpha=1.0),
        step_mode="m",
    )

    def run(x: Tensor) -> Tensor:
        node.reset()
        result: Tensor = node(x)
        return result

    return run


def snntorch() -> Neuron:
    """`Leaky` neurons that reset at once, step by step."""
    from snntorch import Leaky

    node = Leaky(
        beta=LEAK,
        threshold=THRESHOLD,
        reset_mechanism="zero",
        reset_delay=False,
        spike_grad=Triangle.apply,
    )

    def run(x: Tensor) -> Tensor:
        membrane = torch.zeros_like(x[0])
        spikes = []
        for arriving in x:
            spike, membrane = node(arriving, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    return run


def norse() -> Neuron:
    """`LIFBoxCell`, step by step; its neurons take dt / tau of their input."""
    from norse.torch.functional.lif_box import LIFBoxParameters
    from norse.torch.module.lif_box import LIFBoxCell

    step = 1e-3
    parameters = LIFBoxParameters(
        tau_mem_inv=torch.as_tensor((1 - LEAK) / step),
        v_th=torch.as_tensor(THRESHOLD),
        method="triangle",
        alpha=torch.as_tensor(1.0),
    )
    cell = LIFBoxCell(parameters, dt=step)

    def run(x: Tensor) -> Tensor:
        state = None
        spikes = []
        for arriving in x:
            spike, state = cell(arriving, state)
            spikes.append(spike)
        return torch.stack(spikes)

    return run


PEERS = {"spikingjelly": spikingjelly, "snntorch": snntorch, "norse": norse}


class Relu(nn.Module):
    """In the place of neurons."""

    def forward(self, current: Tensor, _steps: int) -> Tensor:
        return torch.relu(current)


def our_network(
    settings: dict[str, Any], layers: Sequence[nn.Module | None], twin: bool
) -> nn.Module:
    """Return the network as `neurocompile train` builds it, with the weights of `layers`."""
    from neurocompile.training.config import TrainSettings
    from neurocompile.training.networks import build
    from neurocompile.training.neurons import LIF

    if settings["network"] == "dense":
        network = {"name": "dense", "hidden": settings["hidden"]}
        shape = (settings["inputs"], 1, 1)
    else:
        stages = [
            {"channels": channels, "kernel": kernel, "pool": pool}
            for channels, kernel, pool in settings["stages"]
        ]
        network = {"name": "convolutional", "stages": stages}
        shape = (3, settings["size"], settings["size"])
    chosen = TrainSettings.model_validate(
        {"network": network, "epochs": 1, "learning_rate": 1e-3, "timesteps": settings["steps"]}
    )
    built = build(chosen, shape, settings["classes"])
    theirs = nn.ModuleList(layer for layer in layers if layer is not None)
    with torch.no_grad():
        for mine, other in zip(built.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other)
    if twin:
        for name, module in list(built.named_modules()):
            if isinstance(module, LIF):
                built.set_submodule(name, Relu())
    return built


def warm_up() -> None:
    """Load what everybody needs, so that the memory of a first step is the network's."""
    weight = torch.ones(1, 1, 1, 1, requires_grad=True)
    torch.autograd.backward(functional.conv2d(torch.ones(1, 1, 1, 1), weight))


def kernel_seconds() -> float:
    """Return what it takes until our neurons' kernels are there, from numba's cache or compiled."""
    from neurocompile.training.neurons import LIF

    started = time.perf_counter()
    torch.autograd.backward(LIF()(torch.ones(2, 1, requires_grad=True), 2).sum())
    return time.perf_counter() - started


def watch(network: nn.Module, rates: dict[str, float]) -> list[Any]:
    """Let `rates` be told how often the neurons of each layer fire at a step; return the hooks."""
    from neurocompile.training.neurons import LIF

    return [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: rates.update({name: output.mean().item()})
        )
        for name, module in network.named_modules()
        if isinstance(module, LIF)
    ]


def main() -> None:
    contestant, file = sys.argv[1:]
    settings = json.loads(Path(file).read_text(encoding="utf-8"))
    torch.manual_seed(0)
    ours, time_first = contestant in ("ours", "twin"), contestant in PEERS
    layers = make_layers(settings, 1 / (1 - LEAK) if contestant == "norse" else 1.0)
    batch, steps = settings["batch"], settings["steps"]
    torch.manual_seed(1)
    shape = (
        (settings["inputs"],) if settings["network"] == "dense" else (3, *(settings["size"],) * 2)
    )
    inputs = 2 * torch.randn(batch, steps, *shape)  # different at every step
    labels = torch.randint(0, settings["classes"], (batch,))
    said: dict[str, Any] = {}
    if ours:
        network = our_network(settings, layers, twin=contestant == "twin")
        parameters = list(network.parameters())
        run: Callable[[Tensor], Tensor] = network
        if settings["network"] == "dense":
            inputs = inputs[..., None, None]
    else:
        neuron = (PEERS.get(contestant) or reference)()
        run = layerwise(layers, neuron)
        parameters = [
            parameter for layer in layers if layer is not None for parameter in layer.parameters()
        ]
    said["version"] = version(contestant) if contestant in PEERS else torch.__version__
    said["parameters"] = sum(parameter.numel() for parameter in parameters)
    if time_first:
        inputs = inputs.transpose(0, 1).contiguous()
    repeated = labels.repeat(steps) if time_first else labels.repeat_interleave(steps)
    optimiser = torch.optim.Adam(parameters, lr=1e-3)

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(run(inputs).flatten(0, 1), repeated)
        torch.autograd.backward(loss)
        optimiser.step()
        return loss

    warm_up()
    rates: dict[str, float] = {}
    hooks = []
    if contestant == "ours":
        said["kernel_seconds"] = kernel_seconds()
        hooks = watch(network, rates)
    print(json.dumps(said), flush=True)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets VmHWM back
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            loss = step()
        found = {"seconds": time.perf_counter() - started, "loss": loss.item(), "rates": rates}
        for hook in hooks:  # they belong to the first step
            hook.remove()
        print(json.dumps(found), flush=True)
    print(json.dumps({"before": before, "peak": memory("VmHWM")}))


def memory(name: str) -> int:
    """Return what this process has of `name` (VmRSS now, VmHWM at most), in bytes."""
    (line,) = (
        line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(name)
    )
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
