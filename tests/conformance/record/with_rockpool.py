"""Record networks of Rockpool's torch modules: every neuron that its exporter knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import Draw, Float, Recorded, record
from recurrences import hard, soft
from rockpool.nn.combinators import Sequential
from rockpool.nn.modules import ExpSynTorch, LIFNeuronTorch, LIFTorch, LinearTorch
from rockpool.nn.modules.torch.nir import to_nir
from torch_layers import numbers, tensor

STEPS, SAMPLES, DT = 50, 4, 1e-3
UNIT = 0.23  # of weights: with leaks of exp(), membranes stay off their thresholds
Follow = Callable[[Float], tuple[Float, Float]]
Maker = Callable[[Draw, int], tuple[Any, Follow | None]]


def linear(weight: Float, bias: Float | None = None) -> Any:
    if bias is None:
        return LinearTorch(weight.T.shape, weight=tensor(weight.T), has_bias=False)
    return LinearTorch(weight.T.shape, weight=tensor(weight.T), bias=tensor(bias), has_bias=True)


def dense(
    name: str, first: Maker, second: Maker | None = None, *, unit: float = UNIT
) -> Callable[[Draw], Recorded]:
    """Two fully connected layers; neurons that do not fire are the read-out."""

    def case(draw: Draw) -> Recorded:
        layers, follow = [], []
        for maker, outputs, arriving in ((first, 8, 6), (second or first, 4, 8)):
            weight = draw.weights(outputs, arriving, least=-2, most=4, unit=unit)
            bias = draw.weights(outputs, least=-1, most=1, unit=unit / 2) if arriving == 6 else None
            module, recurrence = maker(draw, outputs)
            layers += [linear(weight, bias), module]
            follow.append(recurrence)
        net = Sequential(*layers)
        names = [f"{number}_{type(layer).__name__}" for number, layer in enumerate(layers)]
        inputs = draw.spikes(SAMPLES, STEPS, 6)
        with torch.no_grad():
            traces = []
            for sample in range(SAMPLES):
                net.reset_state()
                output, _, kept = net(tensor(inputs[sample : sample + 1]), record=True)
                traces.append((output, kept))
        net.reset_state()
        graph = to_nir(net)
        arrays: dict[str, Any] = {
            "input": inputs,
            "output": numbers(torch.cat([output for output, _ in traces])),
        }
        expected, compared = {}, {}
        for number, recurrence in zip((1, 3), follow, strict=True):
            layer = names[number]
            before = numbers(torch.cat([kept[f"{names[number - 1]}_output"] for _, kept in traces]))
            if isinstance(layers[number], ExpSynTorch):
                assert recurrence is not None
                assert np.abs(recurrence(before)[1] - arrays["output"]).max() < 1e-5
                continue
            arrays[f"spikes/{layer}"] = numbers(
                torch.cat([kept[f"{layer}_output"] for _, kept in traces])
            )
            arrays[f"after/{layer}"] = numbers(
                torch.cat([kept[layer]["vmem"] for _, kept in traces])
            )
            if recurrence is not None:
                expected[layer], membrane = recurrence(before)
                threshold = np.broadcast_to(numbers(layers[number].threshold), membrane.shape[2:])
                compared[layer] = membrane, threshold
        return Recorded(name, graph, arrays, expected, compared, exact=False)

    return case


def decay(tau: Any) -> Float:
    fraction: Float = numbers(torch.exp(-DT / tensor(tau)))
    return fraction


def lif_neuron(*, several: bool = True, bias: float = 0.0) -> Maker:
    def make(_draw: Draw, count: int) -> tuple[Any, Follow]:
        tau = np.linspace(2e-3, 20e-3, count)
        most = {} if several else {"max_spikes_per_dt": torch.tensor(1.0)}
        module = LIFNeuronTorch(
            (count,), tau_mem=tensor(tau), bias=torch.full((count,), bias), dt=DT, **most
        )
        return module, lambda inputs: soft(inputs + bias, decay=decay(tau), several=several)

    return make


def lif(*, recurrent: bool = False) -> Maker:
    def make(draw: Draw, count: int) -> tuple[Any, Follow]:
        tau, tau_syn = np.linspace(2e-3, 20e-3, count), np.linspace(5e-3, 2e-3, count)
        weights = draw.weights(count, count, least=-2, most=1, unit=UNIT)
        more = {"has_rec": True, "w_rec": tensor(weights)} if recurrent else {}
        module = LIFTorch(
            (count,), tau_mem=tensor(tau), tau_syn=tensor(tau_syn)[:, None], dt=DT, **more
        )

        def follows(inputs: Float) -> tuple[Float, Float]:
            rec = (lambda spikes: spikes @ weights) if recurrent else None
            return soft(inputs, decay=decay(tau), synapse=decay(tau_syn), rec=rec)

        return module, follows

    return make


def exp_syn(_draw: Draw, count: int) -> tuple[Any, Follow]:
    tau = np.linspace(2e-3, 20e-3, count)
    module = ExpSynTorch((count,), tau=tensor(tau), dt=DT)
    module.tau.requires_grad_(False)  # else its exporter hands nir what it cannot store
    return module, lambda inputs: hard(inputs, decay=decay(tau), gain=decay(tau), threshold=np.inf)


CASES = {
    "lif_neuron": dense("lif_neuron", lif_neuron()),
    "lif_neuron_single": dense("lif_neuron_single", lif_neuron(several=False), unit=UNIT / 2),
    "lif_neuron_bias": dense("lif_neuron_bias", lif_neuron(bias=0.1)),
    "lif": dense("lif", lif(), unit=UNIT / 2),
    "lif_recurrent": dense("lif_recurrent", lif(recurrent=True), unit=UNIT / 2),
    "exp_syn_readout": dense("exp_syn_readout", lif_neuron(), exp_syn),
}

if __name__ == "__main__":
    record("rockpool", CASES)
