"""
One network in another framework, on the CPU in float32; runs in that framework's environment.

    infer.py snntorch|spikingjelly|norse NETWORK.npz BATCH...

`NETWORK.npz` holds `input` (steps, samples, channels, h, w), the weights `conv1`, `conv2` and `readout`, and
the neurons' `decay` and `threshold`; strides are 1 and 2, paddings 1, and resets go to zero. All samples
run once to warm up and once more with a watch, for each BATCH at once. The last line is JSON: seconds by
batch, and `output`, what the read-out received, (steps, samples, classes).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import nn

Infer = Callable[[torch.Tensor], torch.Tensor]


def layers(arrays: Mapping[str, Any], gain: float = 1.0) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return the three layers that have weights; those in front of neurons are `gain` times as strong."""
    made: list[nn.Module] = []
    for name, stride in (("conv1", 1), ("conv2", 2)):
        out, into, kernel, _ = arrays[name].shape
        conv = nn.Conv2d(into, out, kernel, stride, 1, bias=False)
        conv.weight.data = gain * torch.tensor(arrays[name], dtype=torch.float32)
        made.append(conv)
    classes, features = arrays["readout"].shape
    dense = nn.Linear(features, classes, bias=False)
    dense.weight.data = torch.tensor(arrays["readout"], dtype=torch.float32)
    return made[0], made[1], dense


def snntorch(arrays: Mapping[str, Any]) -> Infer:
    """`Leaky` neurons that reset at once, step by step."""
    from snntorch import Leaky

    conv1, conv2, dense = layers(arrays)
    chosen = {
        "beta": float(arrays["decay"]),
        "threshold": float(arrays["threshold"]),
        "reset_mechanism": "zero",
        "reset_delay": False,
    }
    lif1, lif2 = Leaky(**chosen), Leaky(**chosen)

    def infer(inputs: torch.Tensor) -> torch.Tensor:
        mem1, mem2 = lif1.reset_mem(), lif2.reset_mem()
        outputs = []
        for x in inputs:
            spikes, mem1 = lif1(conv1(x), mem1)
            spikes, mem2 = lif2(conv2(spikes), mem2)
            outputs.append(dense(spikes.flatten(1)))
        return torch.stack(outputs)

    return infer


def spikingjelly(arrays: Mapping[str, Any]) -> Infer:
    """`LIFNode` in its multi-step mode, which gives convolutions all steps at once."""
    from spikingjelly.activation_based import functional, layer, neuron

    conv1, conv2, dense = layers(arrays)

    def lif() -> nn.Module:
        made: nn.Module = neuron.LIFNode(
            tau=1 / (1 - float(arrays["decay"])),
            decay_input=False,
            v_threshold=float(arrays["threshold"]),
            v_reset=0.0,
            step_mode="m",
        )
        return made

    def whole(*modules: nn.Module) -> nn.Module:
        made: nn.Module = layer.SeqToANNContainer(*modules)
        return made

    network = nn.Sequential(
        whole(conv1), lif(), whole(conv2), lif(), whole(nn.Flatten(), dense)
    ).eval()

    def infer(inputs: torch.Tensor) -> torch.Tensor:
        functional.reset_net(network)
        result: torch.Tensor = network(inputs)
        return result

    return infer


def norse(arrays: Mapping[str, Any]) -> Infer:
    """`LIFBoxCell`, step by step; its neurons take dt / tau of their input."""
    from norse.torch import SequentialState
    from norse.torch.functional.lif_box import LIFBoxParameters
    from norse.torch.module.lif_box import LIFBoxCell

    rate = 1 - float(arrays["decay"])
    conv1, conv2, dense = layers(arrays, gain=1 / rate)
    step = 1e-3
    parameters = LIFBoxParameters(
        tau_mem_inv=torch.as_tensor(rate / step), v_th=torch.as_tensor(float(arrays["threshold"]))
    )
    network = SequentialState(
        conv1,
        LIFBoxCell(parameters, dt=step),
        conv2,
        LIFBoxCell(parameters, dt=step),
        nn.Flatten(),
        dense,
    )

    def infer(inputs: torch.Tensor) -> torch.Tensor:
        state = None
        outputs = []
        for x in inputs:
            output, state = network(x, state)
            outputs.append(output)
        return torch.stack(outputs)

    return infer


PEERS = {"snntorch": snntorch, "spikingjelly": spikingjelly, "norse": norse}


def main() -> None:
    name, file, *batches = sys.argv[1:]
    with np.load(file) as opened:
        arrays = dict(opened)
    infer = PEERS[name](arrays)
    inputs = torch.tensor(arrays["input"], dtype=torch.float32)
    seconds: dict[str, float] = {}
    output = torch.empty(0)
    with torch.inference_mode():
        for batch in batches:
            starts = range(0, inputs.shape[1], int(batch))
            parts = [inputs[:, start : start + int(batch)].contiguous() for start in starts]
            for _ in range(2):
                started = time.perf_counter()
                output = torch.cat([infer(part) for part in parts], 1)
                seconds[batch] = time.perf_counter() - started
    found = {"version": version(name), "seconds": seconds, "output": output.numpy().tolist()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
