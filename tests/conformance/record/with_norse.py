"""Record networks of Norse: every cell that its exporter knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import norse.torch as norse
import numpy as np
import torch
from common import Draw, Float, Recorded, record
from norse.torch.functional.iaf import IAFParameters
from norse.torch.functional.leaky_integrator_box import LIBoxParameters
from norse.torch.functional.lif import LIFParameters
from norse.torch.functional.lif_box import LIFBoxParameters
from norse.torch.functional.reset import reset_subtract
from norse.torch.module.iaf import IAFCell
from norse.torch.module.leaky_integrator_box import LIBoxCell
from norse.torch.module.lif import LIFCell
from norse.torch.module.lif_box import LIFBoxCell
from norse.torch.utils.export_nir import to_nir
from recurrences import hard, norse_lif
from torch_layers import conv, linear, numbers, tensor

STEPS, SAMPLES = 50, 4
BINARY_DT = 2.0**-10  # seconds: dt / tau is exact
Cell = Callable[[tuple[int, ...]], tuple[Any, Callable[[Float], tuple[Float, Float]]]]


def run(
    name: str,
    layers: list[Any],
    follow: dict[int, Callable[[Float], tuple[Float, Float]]],
    inputs: Float,
    *,
    dt: float,
    exact: bool = True,
    readout: int | None = None,
) -> Recorded:
    """Export a sequence of layers without a batch, and run it with one."""
    net = norse.SequentialState(*layers)
    graph = to_nir(net, tensor(inputs[0, 0]), dt=dt)
    if any(isinstance(layer, torch.nn.Conv2d) for layer in layers):
        graph.infer_types()  # Norse leaves the input shape open, which nir cannot write
    seen: dict[str, list[Any]] = {}

    def keep(number: int) -> Callable[..., None]:
        def hook(_module: Any, arriving: Any, result: Any) -> None:
            for kind, value in (("in", arriving[0]), ("out", result[0]), ("v", result[1].v)):
                seen.setdefault(f"{kind}/{number}", []).append(value)

        return hook

    for number in follow:
        layers[number].register_forward_hook(keep(number))
    outputs, state = [], None
    with torch.no_grad():
        for step in range(inputs.shape[1]):
            output, state = net(tensor(inputs[:, step]), state)
            outputs.append(output)
    traces = {key: numbers(torch.stack(values, 1)) for key, values in seen.items()}
    arrays: dict[str, Any] = {"input": inputs, "output": numbers(torch.stack(outputs, 1))}
    expected, compared = {}, {}
    for number, recurrence in follow.items():
        spikes, membrane = recurrence(traces[f"in/{number}"])
        if number == readout:
            assert np.abs(membrane - arrays["output"]).max() < 1e-5
            continue
        arrays[f"spikes/{number}"] = traces[f"out/{number}"]
        arrays[f"after/{number}"] = traces[f"v/{number}"]
        threshold = np.broadcast_to(numbers(layers[number].p.v_th), membrane.shape[2:])
        expected[str(number)] = spikes
        compared[str(number)] = membrane, threshold
    return Recorded(name, graph, arrays, expected, compared, exact)


def dense(
    name: str, cell: Cell, *, dt: float = BINARY_DT, exact: bool = True, unit: float = 0.5
) -> Callable[[Draw], Recorded]:
    def case(draw: Draw) -> Recorded:
        first, follows_first = cell((8,))
        second, follows_second = cell((4,))
        layers = [
            linear(
                draw.weights(8, 6, least=-1, unit=unit),
                draw.weights(8, least=-1, most=1, unit=unit / 2),
            ),
            first,
            linear(draw.weights(4, 8, least=-1, unit=unit)),
            second,
        ]
        inputs = draw.spikes(SAMPLES, STEPS, 6)
        return run(name, layers, {1: follows_first, 3: follows_second}, inputs, dt=dt, exact=exact)

    return case


def box(
    rate: float = 512.0,
    *,
    dt: float = BINARY_DT,
    leak: float = 0.0,
    scalar: bool = False,
    subtract: bool = False,
    reset_to: float = 0.0,
    threshold: float = 1.0,
) -> Cell:
    """LIFBoxCell with the inverse time constant `rate`."""

    def make(shape: tuple[int, ...]) -> tuple[Any, Any]:
        size = () if scalar else shape
        options: dict[str, Any] = {"reset_method": reset_subtract} if subtract else {}
        parameters = LIFBoxParameters(
            tau_mem_inv=torch.full(size, rate),
            v_leak=torch.full(size, leak),
            v_th=torch.full(size, threshold),
            v_reset=torch.full(size, reset_to),
            **options,
        )
        fraction = float(np.float32(dt) * np.float32(rate))

        def follows(inputs: Float) -> tuple[Float, Float]:
            if subtract:
                return soft_above(inputs, fraction, threshold)
            return hard(
                inputs,
                decay=1 - fraction,
                gain=fraction,
                leak=leak,
                threshold=threshold,
                reset_to=reset_to,
                start=leak,
            )

        return LIFBoxCell(parameters, dt=dt), follows

    return make


def soft_above(inputs: Float, fraction: float, threshold: float) -> tuple[Float, Float]:
    """One spike above the threshold, which is then taken off."""
    v = np.zeros_like(inputs[:, 0])
    spikes, membranes = [], []
    for step in range(inputs.shape[1]):
        u = v + fraction * (inputs[:, step] - v)
        fired = (u > threshold).astype(np.float64)
        v = u - threshold * fired
        spikes.append(fired)
        membranes.append(u)
    return np.stack(spikes, 1), np.stack(membranes, 1)


def iaf(reset_to: float = 0.0) -> Cell:
    def make(shape: tuple[int, ...]) -> tuple[Any, Any]:
        parameters = IAFParameters(v_th=torch.ones(shape), v_reset=torch.full(shape, reset_to))

        def follows(inputs: Float) -> tuple[Float, Float]:
            return hard(inputs, reset_to=reset_to, start=reset_to)

        return IAFCell(parameters), follows

    return make


def lif(
    synapse: float = 512.0, membrane: float = 256.0, *, dt: float = BINARY_DT, leak: float = 0.0
) -> Cell:
    def make(shape: tuple[int, ...]) -> tuple[Any, Any]:
        parameters = LIFParameters(
            tau_syn_inv=torch.full(shape, synapse),
            tau_mem_inv=torch.full(shape, membrane),
            v_leak=torch.full(shape, leak),
            v_th=torch.ones(shape),
        )
        fractions = (float(np.float32(dt) * np.float32(rate)) for rate in (synapse, membrane))
        of_synapse, of_membrane = fractions

        def follows(inputs: Float) -> tuple[Float, Float]:
            return norse_lif(inputs, synapse=of_synapse, membrane=of_membrane, leak=leak)

        return LIFCell(parameters, dt=dt), follows

    return make


def readout(draw: Draw) -> Recorded:
    """Spiking neurons before a leaky integrator, whose membrane is the output."""
    first, follows_first = box()((8,))
    parameters = LIBoxParameters(tau_mem_inv=torch.full((4,), 256.0), v_leak=torch.zeros(4))
    layers = [
        linear(draw.weights(8, 6, least=-1, unit=0.5), draw.weights(8, least=-1, most=1)),
        first,
        linear(draw.weights(4, 8)),
        LIBoxCell(parameters, dt=BINARY_DT),
    ]

    def follows(inputs: Float) -> tuple[Float, Float]:
        return hard(inputs, decay=0.75, gain=0.25, threshold=np.inf)

    inputs = draw.spikes(SAMPLES, STEPS, 6)
    return run(
        "li_readout", layers, {1: follows_first, 3: follows}, inputs, dt=BINARY_DT, readout=3
    )


def images(draw: Draw) -> Recorded:
    first, follows_first = box()((4, 5, 5))
    second, follows_second = box()((3, 3, 3))
    layers = [
        conv(
            draw.weights(4, 2, 3, 3, least=-1, unit=0.5),
            draw.weights(4, least=-1, most=1, unit=0.5),
            padding=1,
            stride=1,
        ),
        first,
        conv(draw.weights(3, 4, 3, 3, least=-1, unit=0.5), draw.weights(3, least=-1, most=1)),
        second,
    ]
    inputs = draw.spikes(SAMPLES, 30, 2, 5, 5, rate=0.3)
    return run("conv", layers, {1: follows_first, 3: follows_second}, inputs, dt=BINARY_DT)


DEFAULT_DT = 1e-3  # of Norse's cells and of its exporter

CASES = {
    "lifbox": dense("lifbox", box()),
    "lifbox_defaults": dense(
        "lifbox_defaults", box(100.0, dt=DEFAULT_DT), dt=DEFAULT_DT, exact=False, unit=1.75
    ),
    "lifbox_subtract": dense("lifbox_subtract", box(subtract=True)),
    "lifbox_v_leak": dense("lifbox_v_leak", box(leak=0.25)),
    "lifbox_v_reset": dense("lifbox_v_reset", box(reset_to=-0.25)),
    "iaf": dense("iaf", iaf()),
    "iaf_v_reset": dense("iaf_v_reset", iaf(-0.25)),
    "lif": dense("lif", lif()),
    "lif_defaults": dense(
        "lif_defaults", lif(200.0, 100.0, dt=DEFAULT_DT), dt=DEFAULT_DT, exact=False
    ),
    "li_readout": readout,
    "conv": images,
}

if __name__ == "__main__":
    record("norse", CASES)
