"""Record networks of snnTorch: every neuron that its exporter knows, with every reset."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import snntorch
import torch
from common import Draw, Float, Recorded, record
from recurrences import snntorch as recurrence
from snntorch.export_nir import export_to_nir
from torch_layers import conv, linear, numbers, tensor

STEPS, SAMPLES = 50, 4


def run(
    name: str,
    net: Any,
    inputs: Float,
    resets: dict[str, Any],
    *,
    exact: bool = True,
    follows: bool = True,
) -> Recorded:
    """Export and run a network; its neurons' inputs and states are taken at each step."""
    neurons = {
        name: module
        for name, module in net.named_children()
        if isinstance(module, snntorch.SpikingNeuron)
    }
    seen: dict[str, list[Any]] = {
        f"{kind}/{name}": [] for kind in ("in", "out", "v") for name in neurons
    }
    for layer, module in neurons.items():

        def keep(module: Any, arriving: Any, spikes: Any, layer: str = layer) -> None:
            seen[f"in/{layer}"].append(arriving[0])
            seen[f"out/{layer}"].append(spikes)
            seen[f"v/{layer}"].append(module.mem)

        module.register_forward_hook(keep)
    graph = export_to_nir(net, tensor(inputs[:1, 0]), ignore_dims=[0])
    for trace in seen.values():
        trace.clear()
    for module in neurons.values():
        module.reset_mem()
    outputs = []
    with torch.no_grad():
        for step in range(inputs.shape[1]):
            outputs.append(net(tensor(inputs[:, step])))
    traces = {key: numbers(torch.stack(values, 1)) for key, values in seen.items()}
    arrays: dict[str, Any] = {"input": inputs, "output": torch.stack(outputs, 1).numpy()}
    expected, compared = {}, {}
    for layer, module in neurons.items():
        node = layer if layer in graph.nodes else f"{layer}.lif"
        arrays[f"spikes/{node}"] = traces[f"out/{layer}"]
        kind = "membrane" if module.reset_delay else "after"
        arrays[f"{kind}/{node}"] = traces[f"v/{layer}"]
        if follows:
            spikes, membrane = recurrence(traces[f"in/{layer}"], **parameters(module, resets))
            expected[node] = spikes
            compared[node] = membrane, np.broadcast_to(module.threshold.numpy(), membrane.shape[2:])
    return Recorded(name, graph, arrays, expected, compared, exact)


def parameters(module: Any, resets: dict[str, Any]) -> dict[str, Any]:
    """Return what the recurrence of a neuron needs."""
    values: dict[str, Any] = {
        "beta": numbers(module.beta),
        "threshold": numbers(module.threshold),
        "reset": resets["reset_mechanism"],
        "late": resets["reset_delay"],
        "drops_input": not isinstance(module, snntorch.Leaky),
    }
    if hasattr(module, "alpha"):
        values["alpha"] = numbers(module.alpha)
    if hasattr(module, "recurrent"):
        values["rec"] = lambda spikes: numbers(module.recurrent(tensor(spikes)))
    return values


def dense(
    name: str,
    neuron: Callable[..., Any],
    *,
    reset: str,
    late: bool,
    least: int = -2,
    most: int = 3,
    unit: float = 0.5,
    rate: float = 0.4,
    real: bool = False,
    exact: bool = True,
    follows: bool = True,
) -> Callable[[Draw], Recorded]:
    """Two fully connected layers of one kind of neuron."""
    resets = {"reset_mechanism": reset, "reset_delay": late}

    def case(draw: Draw) -> Recorded:
        net = torch.nn.Sequential(
            OrderedDict(
                fc1=linear(
                    draw.weights(8, 6, least=least, most=most, unit=unit),
                    draw.weights(8, least=-1, most=1, unit=unit / 2),
                ),
                lif1=neuron(draw, 8, init_hidden=True, **resets),
                fc2=linear(draw.weights(4, 8, least=least, most=most, unit=unit), None),
                lif2=neuron(draw, 4, init_hidden=True, **resets),
            )
        )
        shape = SAMPLES, STEPS, 6
        inputs = draw.reals(*shape) if real else draw.spikes(*shape, rate=rate)
        return run(name, net, inputs, resets, exact=exact, follows=follows)

    return case


def leaky(_draw: Draw, count: int, **options: Any) -> Any:
    return snntorch.Leaky(torch.full((count,), 0.5), threshold=torch.ones(count), **options)


def leaky_of_each_kind(draw: Draw, count: int, **options: Any) -> Any:
    beta = draw.generator.choice([0.0, 0.25, 0.5, 0.75], count)
    threshold = draw.generator.choice([0.5, 1.0, 1.5], count)
    return snntorch.Leaky(tensor(beta), threshold=tensor(threshold), **options)


def leaky_inexact(_draw: Draw, count: int, **options: Any) -> Any:
    return snntorch.Leaky(torch.full((count,), 0.9), threshold=torch.ones(count), **options)


def synaptic(_draw: Draw, count: int, **options: Any) -> Any:
    return snntorch.Synaptic(
        torch.full((count,), 0.5),
        torch.full((count,), 0.75),
        threshold=torch.ones(count),
        **options,
    )


def with_weights(module: Any, draw: Draw, count: int) -> Any:
    module.recurrent.weight.data = tensor(draw.weights(count, count, least=-2, most=1, unit=0.125))
    module.recurrent.bias.data = tensor(draw.weights(count, least=-1, most=1, unit=0.125))
    return module


def rleaky(draw: Draw, count: int, **options: Any) -> Any:
    return with_weights(snntorch.RLeaky(0.5, linear_features=count, **options), draw, count)


def rleaky_one_to_one(draw: Draw, count: int, **options: Any) -> Any:
    weights = tensor(draw.weights(count, least=-2, most=2))
    return snntorch.RLeaky(0.5, all_to_all=False, V=weights, **options)


def rsynaptic(draw: Draw, count: int, **options: Any) -> Any:
    module = snntorch.RSynaptic(0.5, 0.75, linear_features=count, **options)
    return with_weights(module, draw, count)


def images(draw: Draw) -> Recorded:
    """Convolutions with padding and groups, an average pool, a flatten."""
    resets = {"reset_mechanism": "zero", "reset_delay": True}

    def neurons(*shape: int) -> Any:
        return snntorch.Leaky(
            torch.full(shape, 0.5), threshold=torch.ones(shape), init_hidden=True, **resets
        )

    net = torch.nn.Sequential(
        OrderedDict(
            conv1=conv(draw.weights(4, 2, 3, 3), draw.weights(4, least=-1, most=1), padding=1),
            lif1=neurons(4, 6, 6),
            pool=torch.nn.AvgPool2d(2),
            conv2=conv(draw.weights(4, 2, 2, 2, most=4), None, stride=1, groups=2),
            lif2=neurons(4, 2, 2),
            flatten=torch.nn.Flatten(),
            fc=linear(draw.weights(3, 16), None),
            lif3=neurons(3),
        )
    )
    return run("conv", net, draw.spikes(SAMPLES, 30, 2, 6, 6, rate=0.2), resets)


def padded_pool(draw: Draw) -> Recorded:
    """An average pool whose padding does not show in its output's size: the exporter writes 0."""
    resets = {"reset_mechanism": "zero", "reset_delay": True}
    shape = (2, 2, 2)
    net = torch.nn.Sequential(
        OrderedDict(
            conv=conv(draw.weights(2, 2, 1, 1, least=1), None),
            pool=torch.nn.AvgPool2d(2, stride=3, padding=1),
            lif=snntorch.Leaky(
                torch.full(shape, 0.5), threshold=torch.ones(shape), init_hidden=True, **resets
            ),
        )
    )
    return run("padded_pool", net, draw.spikes(SAMPLES, STEPS, 2, 5, 5), resets)


def leaky_without_leak(_draw: Draw, count: int, **options: Any) -> Any:
    return snntorch.Leaky(torch.ones(count), threshold=torch.ones(count), **options)


def kinds() -> dict[str, Callable[[Draw], Recorded]]:
    makers: dict[str, Callable[..., Any]] = {
        "leaky": leaky,
        "synaptic": synaptic,
        "rleaky": rleaky,
        "rsynaptic": rsynaptic,
    }
    cases = {}
    for kind, maker in makers.items():
        for reset in ("zero", "subtract"):
            for late in (True, False):
                if kind == "rsynaptic" and not late:
                    continue  # snnTorch 1.0's RSynaptic divides by None with reset_delay=False
                name = f"{kind}_{reset}_{'next' if late else 'spike'}"
                cases[name] = dense(name, maker, reset=reset, late=late)
    return cases


CASES = {
    **kinds(),
    "leaky_of_each_kind": dense(
        "leaky_of_each_kind", leaky_of_each_kind, reset="subtract", late=True, real=True
    ),
    "leaky_beta_0.9": dense(
        "leaky_beta_0.9", leaky_inexact, reset="subtract", late=True, exact=False, unit=0.46
    ),
    "rleaky_one_to_one": dense("rleaky_one_to_one", rleaky_one_to_one, reset="zero", late=True),
    "leaky_without_reset": dense(
        "leaky_without_reset", leaky, reset="none", late=True, follows=False
    ),
    # No membrane reaches two thresholds, beyond which an early subtraction is no plain one.
    "leaky_subtract_spike_weak": dense(
        "leaky_subtract_spike_weak",
        leaky,
        reset="subtract",
        late=False,
        least=0,
        most=1,
        unit=0.25,
        rate=0.5,
    ),
    "leaky_beta_1": dense("leaky_beta_1", leaky_without_leak, reset="subtract", late=True),
    "conv": images,
    "padded_pool": padded_pool,
}

if __name__ == "__main__":
    record("snntorch", CASES)
