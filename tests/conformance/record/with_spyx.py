"""Record networks of Spyx: every neuron that its exporter knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from common import Draw, Float, Recorded, record
from flax import nnx
from recurrences import hard, spyx
from spyx import nn
from spyx.nir import to_nir

STEPS, SAMPLES = 50, 4
Follow = Callable[[Float], tuple[Float, Float]]
Maker = Callable[[Draw, int], tuple[Any, Follow | None]]


def linear(weight: Float, bias: Float | None = None) -> Any:
    outputs, inputs = weight.shape
    layer = nnx.Linear(inputs, outputs, use_bias=bias is not None, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.array(weight.T, jnp.float32)
    if bias is not None:
        layer.bias[...] = jnp.array(bias, jnp.float32)
    return layer


def numbers(value: Any) -> Float:
    """Return an array as float64, images with their channels first."""
    array = np.asarray(value, np.float64)
    return np.moveaxis(array, -1, 2) if array.ndim == 5 else array


def run(
    name: str,
    layers: list[Any],
    follow: dict[int, Follow | None],
    inputs: Float,
    *,
    dt: float,
    folded: frozenset[int] = frozenset(),
) -> Recorded:
    """Run a sequence of layers step by step, and export it."""
    model = nn.Sequential(*layers)
    first = np.moveaxis(inputs, 2, -1) if inputs.ndim == 5 else inputs
    state = model.initial_state(len(inputs))
    seen: dict[str, list[Any]] = {}
    outputs = []
    for step in range(inputs.shape[1]):
        x = jnp.array(first[:, step], jnp.float32)
        for number, layer in enumerate(layers):
            if state[number] is None:
                x = layer(x)
                continue
            seen.setdefault(f"in/{number}", []).append(x)
            seen.setdefault(f"v/{number}", []).append(state[number])
            x, state[number] = layer(x, state[number])
            seen.setdefault(f"out/{number}", []).append(x)
        outputs.append(x)
    traces = {key: numbers(np.stack(values, 1)) for key, values in seen.items()}
    output = numbers(np.stack(outputs, 1))
    arrays: dict[str, Any] = {"input": inputs, "output": output}
    shapes = {"input": np.array(inputs.shape[2:])}, {"output": np.array(output.shape[2:])}
    graph = to_nir(model, *shapes, dt=dt)
    expected, compared = {}, {}
    for number, recurrence in follow.items():
        key = f"layer_{number}"
        if key not in graph.nodes or type(graph.nodes[key]).__name__ == "NIRGraph":
            key = f"layer_{number}.layer_{number}.lif"
        elif number in folded:
            key = f"layer_{number}_threshold"
        arrays[f"spikes/{key}"] = traces[f"out/{number}"]
        if recurrence is not None:
            expected[key], membrane = recurrence(traces[f"in/{number}"])
            compared[key] = membrane, np.full(membrane.shape[2:], layers[number].threshold)
    return Recorded(name, graph, arrays, expected, compared)


def dense(
    name: str, maker: Maker, *, dt: float = 1.0, unit: float = 0.5, folded: bool = False
) -> Callable[[Draw], Recorded]:
    def case(draw: Draw) -> Recorded:
        (first, follows_first), (second, follows_second) = maker(draw, 8), maker(draw, 4)
        layers = [
            linear(
                draw.weights(8, 6, least=-2, most=3, unit=unit),
                draw.weights(8, least=-1, most=1, unit=unit / 2),
            ),
            first,
            linear(draw.weights(4, 8, least=-2, most=3, unit=unit)),
            second,
        ]
        return run(
            name,
            layers,
            {1: follows_first, 3: follows_second},
            draw.spikes(SAMPLES, STEPS, 6),
            dt=dt,
            folded=frozenset({1, 3} if folded else ()),
        )

    return case


def integrate(_draw: Draw, count: int) -> tuple[Any, Follow]:
    return nn.IF((count,)), spyx


def lif(beta: float = 0.5) -> Maker:
    def make(_draw: Draw, count: int) -> tuple[Any, Follow]:
        return nn.LIF((count,), beta=beta, rngs=nnx.Rngs(0)), lambda x: spyx(x, beta=beta)

    return make


def cuba_lif(_draw: Draw, count: int) -> tuple[Any, Follow]:
    module = nn.CuBaLIF((count,), alpha=0.5, beta=0.75, rngs=nnx.Rngs(0))
    return module, lambda x: spyx(x, alpha=0.5, beta=0.75)


def psu_lif(_draw: Draw, count: int) -> tuple[Any, Follow]:
    """Neurons without a reset."""

    def follows(inputs: Float) -> tuple[Float, Float]:
        _, membrane = hard(inputs, decay=0.5, threshold=np.inf)
        return (membrane > 1).astype(np.float64), membrane

    return nn.PSU_LIF((count,), beta=0.5, rngs=nnx.Rngs(0)), follows


def recurrent(kind: str) -> Maker:
    """RIF, RLIF or RCuBaLIF, with a beta of 0.5 and an alpha of 0.5 where they have them."""

    def make(draw: Draw, count: int) -> tuple[Any, Follow]:
        decays: dict[str, Any] = {} if kind == "RIF" else {"beta": 0.5}
        if kind == "RCuBaLIF":
            decays["alpha"] = 0.5
        module = getattr(nn, kind)((count,), rngs=nnx.Rngs(0), **decays)
        weights = draw.weights(count, count, least=-2, most=1)
        module.recurrent_w[...] = jnp.array(weights, jnp.float32)
        return module, lambda x: spyx(x, rec=lambda spikes: spikes @ weights, **decays)

    return make


def images(draw: Draw) -> Recorded:
    """Convolutions, a sum pool, a flatten; Spyx has the channels last, NIR first."""

    def convolution(weight: Float) -> Any:
        outputs, inputs, *kernel = weight.shape
        layer = nnx.Conv(inputs, outputs, kernel, padding="SAME", rngs=nnx.Rngs(0))
        layer.kernel[...] = jnp.array(weight.transpose(2, 3, 1, 0), jnp.float32)
        layer.bias[...] = jnp.array(draw.weights(outputs, least=-1, most=1), jnp.float32)
        return layer

    def neurons(*shape: int) -> Any:
        return nn.LIF(shape, beta=0.5, rngs=nnx.Rngs(0))

    layers = [
        convolution(draw.weights(4, 2, 3, 3, most=3)),
        neurons(6, 6, 4),
        nn.SumPool((2, 2), (2, 2), "VALID", channel_axis=-1),
        convolution(draw.weights(3, 4, 3, 3, most=2)),
        neurons(3, 3, 3),
    ]
    follow: dict[int, Follow | None] = dict.fromkeys((1, 4), lambda x: spyx(x, beta=0.5))
    return run("conv", layers, follow, draw.spikes(SAMPLES, 30, 2, 6, 6, rate=0.3), dt=1.0)


def flattened(draw: Draw) -> Recorded:
    """A flatten of channels-last values, whose order NIR's channels-first flatten does not keep."""
    layers = [
        nn.LIF((4, 4, 2), beta=0.5, threshold=0.5, rngs=nnx.Rngs(0)),
        nn.Flatten(),
        linear(draw.weights(6, 32, least=-2, most=3)),
        nn.LIF((6,), beta=0.5, rngs=nnx.Rngs(0)),
    ]
    follow: dict[int, Follow | None] = {
        0: lambda x: spyx(x, beta=0.5, threshold=0.5),
        3: lambda x: spyx(x, beta=0.5),
    }
    return run("flatten", layers, follow, draw.spikes(SAMPLES, 30, 2, 4, 4, rate=0.3), dt=1.0)


CASES = {
    "if": dense("if", integrate),
    "lif": dense("lif", lif()),
    "lif_small_step": dense("lif_small_step", lif(0.75), dt=2.0**-10),
    "cuba_lif": dense("cuba_lif", cuba_lif, unit=0.25),
    "psu_lif": dense("psu_lif", psu_lif, folded=True),
    "rif": dense("rif", recurrent("RIF")),
    "rlif": dense("rlif", recurrent("RLIF")),
    "rcuba_lif": dense("rcuba_lif", recurrent("RCuBaLIF")),
    "conv": images,
    "flatten": flattened,
}

if __name__ == "__main__":
    record("spyx", CASES)
