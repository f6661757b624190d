"""Record networks of sinabs: every layer that its exporter knows, in the form for squeezed time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import sinabs.layers
import torch
from common import Draw, Float, Recorded, record
from recurrences import hard, soft
from sinabs.activation import MembraneReset, MembraneSubtract, MultiSpike, SingleSpike
from sinabs.nir import to_nir
from torch_layers import conv, linear, numbers, tensor

STEPS, SAMPLES = 50, 4
Follow = Callable[[Float], tuple[Float, Float]]
Maker = Callable[[int], tuple[Any, Follow | None]]


def run(
    name: str,
    layers: Mapping[str, Any],
    follow: Mapping[str, Follow | None],
    inputs: Float,
    *,
    exact: bool = True,
) -> Recorded:
    """Run a sequence of layers, whose time and samples are one axis, and export it."""
    net = torch.nn.Sequential(OrderedDict(layers))
    samples, steps = inputs.shape[:2]
    seen: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: Any, arriving: Any, result: Any) -> None:
            seen[f"in/{name}"], seen[f"out/{name}"] = arriving[0], result

        return hook

    handles = [layers[layer].register_forward_hook(keep(layer)) for layer in follow]
    with torch.no_grad():
        output = net(tensor(inputs).flatten(0, 1))
    traces = {
        key: numbers(value).reshape(samples, steps, *value.shape[1:]) for key, value in seen.items()
    }
    for handle in handles:
        handle.remove()
    arrays: dict[str, Any] = {
        "input": inputs,
        "output": numbers(output).reshape(samples, steps, *output.shape[1:]),
    }
    expected, compared = {}, {}
    for layer, recurrence in follow.items():
        module = layers[layer]
        recorded = numbers(module.recordings["v_mem"])
        if module.spike_fn is None:
            assert recurrence is not None
            assert np.abs(recurrence(traces[f"in/{layer}"])[1] - recorded).max() < 1e-5
            continue
        arrays[f"spikes/{layer}"] = traces[f"out/{layer}"]
        arrays[f"after/{layer}"] = recorded
        if recurrence is not None:
            expected[layer], membrane = recurrence(traces[f"in/{layer}"])
            threshold = np.broadcast_to(numbers(module.spike_threshold), membrane.shape[2:])
            compared[layer] = membrane, threshold
        module.reset_states()
    graph = to_nir(net, tensor(inputs[0]))
    if any(isinstance(layer, torch.nn.Conv2d) for layer in layers.values()):
        graph.infer_types()  # sinabs leaves the input shape open, which nir cannot write
    return Recorded(name, graph, arrays, expected, compared, exact)


def dense(
    name: str,
    maker: Maker,
    *,
    exact: bool = True,
    least: int = -2,
    most: int = 6,
    unit: float = 0.25,
) -> Callable[[Draw], Recorded]:
    def case(draw: Draw) -> Recorded:
        (first, follows_first), (second, follows_second) = maker(8), maker(4)
        layers = {
            "fc1": linear(
                draw.weights(8, 6, least=least, most=most, unit=unit),
                draw.weights(8, least=-1, most=1, unit=unit),
            ),
            "spk1": first,
            "fc2": linear(draw.weights(4, 8, least=least, most=most, unit=unit)),
            "spk2": second,
        }
        follow = {"spk1": follows_first, "spk2": follows_second}
        return run(name, layers, follow, draw.spikes(SAMPLES, STEPS, 6), exact=exact)

    return case


def options(*, several: bool, zero: bool, floor: float | None) -> dict[str, Any]:
    return {
        "spike_fn": MultiSpike if several else SingleSpike,
        "reset_fn": MembraneReset() if zero else MembraneSubtract(),
        "min_v_mem": floor,
        "num_timesteps": STEPS,
        "record_states": True,
    }


def iaf(*, several: bool = True, zero: bool = False, floor: float | None = None) -> Maker:
    def make(_count: int) -> tuple[Any, Follow]:
        layer = sinabs.layers.IAFSqueeze(**options(several=several, zero=zero, floor=floor))
        return layer, lambda inputs: soft(
            inputs, several=several, floor=floor, reset_to=0.0 if zero else None
        )

    return make


def lif(
    *,
    several: bool = True,
    zero: bool = False,
    floor: float | None = None,
    norm_input: bool = True,
    tau_syn: float | None = None,
    scalar: bool = False,
) -> Maker:
    def make(count: int) -> tuple[Any, Follow]:
        layer = sinabs.layers.LIFSqueeze(
            tau_mem=5.0 if scalar else torch.linspace(2.0, 5.0, count),
            spike_threshold=torch.ones(() if scalar else count),
            norm_input=norm_input,
            tau_syn=tau_syn,
            **options(several=several, zero=zero, floor=floor),
        )
        decay = numbers(layer.alpha_mem_calculated)
        synapse = None if tau_syn is None else numbers(layer.alpha_syn_calculated)

        def follows(inputs: Float) -> tuple[Float, Float]:
            return soft(
                inputs,
                decay=decay,
                gain=1 - decay if norm_input else 1.0,
                several=several,
                floor=floor,
                synapse=synapse,
                reset_to=0.0 if zero else None,
            )

        return layer, follows

    return make


def readout(draw: Draw) -> Recorded:
    """Spiking neurons before a leaky integrator, whose membrane is the output."""
    first, follows_first = iaf(floor=-1.0)(8)
    leak = sinabs.layers.ExpLeakSqueeze(
        tau_mem=torch.linspace(2.0, 5.0, 4), num_timesteps=STEPS, record_states=True
    )
    decay = numbers(leak.alpha_mem_calculated)
    layers = {
        "fc1": linear(draw.weights(8, 6, least=-2)),
        "spk1": first,
        "fc2": linear(draw.weights(4, 8)),
        "leak": leak,
    }
    follow = {
        "spk1": follows_first,
        "leak": lambda inputs: hard(inputs, decay=decay, threshold=np.inf),
    }
    return run("exp_leak_readout", layers, follow, draw.spikes(SAMPLES, STEPS, 6))


def images(draw: Draw) -> Recorded:
    """Convolutions, a sum pool, a flatten: what chips of SynSense run."""
    layers: dict[str, Any] = {}
    follow: dict[str, Follow | None] = {}

    def spiking(name: str) -> None:
        layers[name], follow[name] = iaf(floor=-1.0)(0)

    layers["conv1"] = conv(draw.weights(4, 2, 3, 3, most=3), None, padding=1)
    spiking("spk1")
    layers["pool1"] = sinabs.layers.SumPool2d(2)
    layers["conv2"] = conv(draw.weights(4, 4, 2, 2, most=2), draw.weights(4, least=-1, most=1))
    spiking("spk2")
    layers["flatten"] = torch.nn.Flatten()
    layers["fc"] = linear(draw.weights(3, 16, most=3))
    spiking("spk3")
    return run("conv", layers, follow, draw.spikes(SAMPLES, STEPS, 2, 6, 6, rate=0.1))


ODD = 0.23  # a unit of weights that keeps membranes with leaks of exp() off their thresholds

CASES = {
    "iaf": dense("iaf", iaf()),
    "iaf_clipped": dense("iaf_clipped", iaf(floor=-1.0), least=-6),
    "iaf_clipped_at_half": dense("iaf_clipped_at_half", iaf(floor=-0.5), least=-6),
    "iaf_single": dense("iaf_single", iaf(several=False), least=-4, most=4),
    "iaf_zero": dense("iaf_zero", iaf(zero=True)),
    "lif": dense("lif", lif(), exact=False, unit=2 * ODD),
    "lif_scalar": dense("lif_scalar", lif(scalar=True), exact=False, unit=4 * ODD),
    "lif_input_kept": dense("lif_input_kept", lif(norm_input=False), exact=False, unit=ODD),
    "lif_single_clipped": dense(
        "lif_single_clipped",
        lif(several=False, floor=-1.0, norm_input=False),
        exact=False,
        least=-6,
        unit=ODD,
    ),
    "lif_zero": dense("lif_zero", lif(zero=True), exact=False, unit=2 * ODD),
    "lif_tau_syn": dense("lif_tau_syn", lif(tau_syn=3.0), exact=False, unit=2 * ODD),
    "exp_leak_readout": readout,
    "conv": images,
}

if __name__ == "__main__":
    record("sinabs", CASES)
