"""Record networks of SpikingJelly: every neuron that its exporter knows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from common import Draw, Float, Recorded, record
from recurrences import cuba, hard
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based.nir_exchange.to_nir import export_to_nir
from torch_layers import conv, linear, numbers, tensor

STEPS, SAMPLES = 50, 4
Follow = Callable[[Float], tuple[Float, Float]]
Maker = Callable[[], tuple[Any, Follow]]


def run(
    name: str,
    layers: Mapping[str, Any],
    follow: Mapping[str, Follow],
    inputs: Float,
    *,
    exact: bool = True,
    dt: float = 1e-4,
) -> Recorded:
    """Export a sequence of layers, and run it step by step."""
    net = torch.nn.Sequential(OrderedDict(layers))
    graph = export_to_nir(net, tensor(inputs[:1, 0]), dt=dt)
    functional.reset_net(net)
    seen: dict[str, list[Any]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, arriving: Any, spikes: Any) -> None:
            for kind, value in (("in", arriving[0]), ("out", spikes), ("v", module.v)):
                seen.setdefault(f"{kind}/{name}", []).append(value)

        return hook

    for layer in follow:
        layers[layer].register_forward_hook(keep(layer))
    with torch.no_grad():
        outputs = [net(tensor(inputs[:, step])) for step in range(inputs.shape[1])]
    traces = {key: numbers(torch.stack(values, 1)) for key, values in seen.items()}
    arrays: dict[str, Any] = {"input": inputs, "output": numbers(torch.stack(outputs, 1))}
    expected, compared = {}, {}
    for layer, recurrence in follow.items():
        expected[layer], membrane = recurrence(traces[f"in/{layer}"])
        threshold = np.full(membrane.shape[2:], layers[layer].v_threshold)
        compared[layer] = membrane, threshold
        arrays[f"spikes/{layer}"] = traces[f"out/{layer}"]
        arrays[f"after/{layer}"] = traces[f"v/{layer}"]
    return Recorded(name, graph, arrays, expected, compared, exact)


def dense(
    name: str, maker: Maker, *, exact: bool = True, unit: float = 0.5, dt: float = 1e-4
) -> Callable[[Draw], Recorded]:
    def case(draw: Draw) -> Recorded:
        (first, follows_first), (second, follows_second) = maker(), maker()
        layers = {
            "fc1": linear(
                draw.weights(8, 6, least=-1, unit=unit),
                draw.weights(8, least=-1, most=1, unit=unit / 2),
            ),
            "sn1": first,
            "fc2": linear(draw.weights(4, 8, least=-1, unit=unit)),
            "sn2": second,
        }
        follow = {"sn1": follows_first, "sn2": follows_second}
        return run(name, layers, follow, draw.spikes(SAMPLES, STEPS, 6), exact=exact, dt=dt)

    return case


def integrate(v_reset: float = 0.0) -> Maker:
    def make() -> tuple[Any, Follow]:
        return neuron.IFNode(v_reset=v_reset), lambda inputs: hard(
            inputs, at=True, reset_to=v_reset, start=v_reset
        )

    return make


def lif(
    tau: float = 2.0, v_reset: float = 0.0, *, decay_input: bool = True, parametric: bool = False
) -> Maker:
    def make() -> tuple[Any, Follow]:
        options: dict[str, Any] = {"v_reset": v_reset, "decay_input": decay_input}
        if parametric:
            module = neuron.ParametricLIFNode(init_tau=tau, **options)
        else:
            module = neuron.LIFNode(tau=tau, **options)

        def follows(inputs: Float) -> tuple[Float, Float]:
            return hard(
                inputs,
                decay=1 - 1 / tau,
                gain=1 / tau if decay_input else 1.0,
                leak=v_reset,
                reset_to=v_reset,
                at=True,
                start=v_reset,
            )

        return module, follows

    return make


def cuba_lif(v_reset: float = 0.0, *, c_decay: float = 0.5, v_decay: float = 0.75) -> Maker:
    def make() -> tuple[Any, Follow]:
        module = neuron.CUBALIFNode(c_decay, v_decay, v_threshold=1.0, v_reset=v_reset)
        return module, lambda inputs: cuba(
            inputs, synapse=c_decay, decay=v_decay, reset_to=v_reset, start=v_reset
        )

    return make


def images(draw: Draw) -> Recorded:
    """Convolutions with padding and dilation, an average pool with padding, a flatten."""
    layers, follow = {}, {}

    def add(name: str, module: Any) -> None:
        layers[name] = module

    def spiking(name: str) -> None:
        layers[name], follow[name] = lif()()

    add("conv1", conv(draw.weights(4, 2, 3, 3), draw.weights(4, least=-1, most=1), padding=1))
    spiking("sn1")
    add("pool", torch.nn.AvgPool2d(2, padding=1))
    add("conv2", conv(draw.weights(4, 4, 2, 2), None, dilation=2, stride=1))
    spiking("sn2")
    add("flatten", torch.nn.Flatten())
    add("fc", linear(draw.weights(3, 16)))
    spiking("sn3")
    return run("conv", layers, follow, draw.spikes(SAMPLES, 30, 2, 6, 6, rate=0.3))


CASES = {
    "if": dense("if", integrate()),
    "if_v_reset": dense("if_v_reset", integrate(-0.25)),
    "lif": dense("lif", lif()),
    "lif_step_of_one": dense("lif_step_of_one", lif(4.0), dt=1.0),
    "lif_input_kept": dense("lif_input_kept", lif(decay_input=False)),
    "lif_v_reset": dense("lif_v_reset", lif(v_reset=-0.25)),
    "lif_v_reset_input_kept": dense(
        "lif_v_reset_input_kept", lif(v_reset=-0.25, decay_input=False)
    ),
    "lif_tau_3": dense("lif_tau_3", lif(3.0), exact=False, unit=1.15),
    "parametric_lif": dense("parametric_lif", lif(parametric=True)),
    "cuba_lif": dense("cuba_lif", cuba_lif(), unit=0.125),
    "cuba_lif_v_reset": dense("cuba_lif_v_reset", cuba_lif(-0.25), unit=0.125),
    "conv": images,
}

if __name__ == "__main__":
    record("spikingjelly", CASES)
