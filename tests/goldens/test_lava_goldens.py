"""Recordings of Lava, lava-dl and Loihi 2 silicon, matched bit for bit by the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from neurocompile_fixedpoint.definition import accumulate, execute

from neurocompile.integer import (
    Geometry,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerPopulation,
    IntegerSynapses,
)
from neurocompile.passes.schedule import schedule
from neurocompile.program import Program
from neurocompile.target import find, resolve_options


def netx_neurons(layer: Any, name: str, shape: tuple[int, ...], bias: Any = 0) -> IntegerNeurons:
    """Read a layer of a .net file; netx passes du = iDecay - 1 and biases with exponent 6."""
    neuron = layer["neuron"]
    return IntegerNeurons(
        name,
        shape,
        du=np.array(int(neuron["iDecay"][()]) - 1),
        dv=np.array(int(neuron["vDecay"][()])),
        threshold=np.array(int(neuron["vThMant"][()])),
        bias_mantissa=np.array(bias, dtype=np.int64),
        bias_exponent=6,
        scale=np.ones(()),
    )


def test_dense_layer_of_lava_dl(shared_data: Path) -> None:
    with np.load(shared_data / "goldens/lavadl_dense/dense.npz") as file:
        weight, spikes, expected = file["weight"], file["inp"], file["out"]
        du, dv, vth = (np.array(int(file[name])) for name in ("du", "dv", "vth"))
    network = IntegerNetwork(
        (
            IntegerInput("in", (200,), 1.0, 0, 1, True),
            IntegerNeurons("out", (256,), du, dv, vth, np.zeros(1, np.int64), 0, np.ones(())),
        ),
        (IntegerSynapses("w", "in", "out", weight),),
        {"out": "out"},
    )

    trace = execute(
        network, {"in": spikes.T[None].astype(np.int64)}, samples=1, steps=2000, record=["out"]
    )

    # The connection delivers one step later; the layer-by-layer clock has that removed.
    np.testing.assert_array_equal(trace.spikes["out"][0, :-1].T, expected[:, 1:])
    assert expected.sum() == 1826


def test_tinynet_with_its_input_in_the_biases(shared_data: Path) -> None:
    folder = shared_data / "goldens/lavadl_tinynet"
    with np.load(folder / "tinynet.npz") as file:
        recorded = {name: file[name] for name in file}
    with h5py.File(folder / "tiny.net", "r") as file:
        layers = [file[f"layer/{number}"] for number in range(3)]
        biases = [layer["bias"][()].astype(int).reshape(-1, 1, 1) for layer in layers[1:]]
        populations = (
            netx_neurons(
                layers[0], "l0", (3, 16, 16), recorded["input_bias_xyc"].transpose(2, 1, 0)
            ),
            netx_neurons(layers[1], "l1", (24, 6, 6), biases[0]),
            netx_neurons(layers[2], "l2", (36, 1, 1), biases[1]),
        )
        synapses = tuple(
            IntegerSynapses(
                f"w{number}",
                f"l{number - 1}",
                f"l{number}",
                layers[number]["weight"][()][..., 0].astype(int),
                Geometry(stride=(2, 2)),
            )
            for number in (1, 2)
        )

    names = ["l0", "l1", "l2"]
    trace = execute(
        IntegerNetwork(populations, synapses, {"out": "l2"}), {}, samples=1, steps=16, record=names
    )

    for name, key in zip(names, ("input_cyxt", "layer1_cyxt", "output_cyxt"), strict=True):
        ours = np.moveaxis(trace.spikes[name][0], 0, -1)
        np.testing.assert_array_equal(ours[..., :-1], recorded[key][..., 1:], err_msg=name)
        assert recorded[key].sum() > 50


def ntidigits(folder: Path) -> IntegerNetwork:
    populations: list[IntegerPopulation] = [IntegerInput("l1", (64,), 1.0, 0, 1, True)]
    synapses: list[IntegerSynapses] = []
    with h5py.File(folder / "ntidigits.net", "r") as file:
        for number in (2, 3, 4):
            layer, before = file[f"layer/{number}"], file[f"layer/{number - 1}"]
            weight = layer["weight"][()].astype(int)
            delay = np.array(before["delay"][()] if "delay" in before else 0, dtype=np.int64)
            populations.append(netx_neurons(layer, f"l{number}", (len(weight),)))
            synapses.append(
                IntegerSynapses(f"w{number}", f"l{number - 1}", f"l{number}", weight, delay=delay)
            )
    return IntegerNetwork(tuple(populations), tuple(synapses), {"out": "l4"})


def test_ntidigits_with_axonal_delays(shared_data: Path) -> None:
    folder = shared_data / "goldens/lavadl_ntidigits"
    with np.load(folder / "ntidigits.npz") as file:
        spikes, expected = file["inp"], file["out"]

    trace = execute(
        ntidigits(folder),
        {"l1": spikes.T[None].astype(np.int64)},
        samples=1,
        steps=3000,
        record=["l4"],
    )

    np.testing.assert_array_equal(trace.spikes["l4"][0, :-4].T, expected[:, 4:])
    assert expected.sum() == 22572


@pytest.mark.lava
def test_ntidigits_with_axonal_delays_on_lava(shared_data: Path) -> None:
    """Our lowering of the delays, on Lava: the beginning of the recording, every neuron of the output."""
    folder = shared_data / "goldens/lavadl_ntidigits"
    steps = 100
    with np.load(folder / "ntidigits.npz") as file:
        spikes, expected = file["inp"][:, :steps], file["out"][:, : steps + 4]
    network, target = ntidigits(folder), find("loihi2")
    program = Program(
        target="loihi2",
        options=resolve_options(target, {}),
        network=network,
        schedule=schedule(network),
        bounds=(),
        steps=steps,
        native_steps=None,
        facts={},
    )
    program = replace(program, extra_files=dict(target.lower(program).files))

    assert not target.check(program)
    assert max(int(group.delay.max()) for group in network.synapses) > 30
    with program:
        result = program.run(spikes.T[None].astype(np.float64), ["l4"])

    np.testing.assert_array_equal(result.spikes["l4"][0, :-4].T, expected[:, 4:steps])
    assert expected[:, 4:steps].sum() > 100


def test_loihi_2_silicon(shared_data: Path, integer_neurons: Callable[..., IntegerNeurons]) -> None:
    """The NIR paper's LIF, recorded on the chip: w 10, dv 163, du 4095, vth 25."""
    recorded = np.loadtxt(
        shared_data / "goldens/nirpaper_lif/lif_lava_loihi_fixed.csv", delimiter=","
    )
    network = IntegerNetwork(
        (
            IntegerInput("in", (1,), 1.0, 0, 1, True),
            integer_neurons("out", du=4095, dv=163, threshold=25),
        ),
        (IntegerSynapses("w", "in", "out", np.array([[10]])),),
        {"out": "out"},
    )

    trace = execute(
        network,
        {"in": recorded[:, 0].astype(np.int64).reshape(1, -1, 1)},
        samples=1,
        steps=len(recorded),
        record=["out", "membrane/out"],
    )

    spikes, membrane = trace.spikes["out"].ravel()[:-1], trace.membrane["out"].ravel()[:-1]
    np.testing.assert_array_equal(spikes, recorded[1:, 2])
    silent = recorded[1:, 2] == 0  # in the step of a spike the chip reads back 128 instead of 0
    np.testing.assert_array_equal(membrane[silent], recorded[1:, 1][silent])
    assert spikes.sum() == 4


@pytest.mark.parametrize("number", [0, 3, 5])
def test_convolutions_of_lava(shared_data: Path, number: int) -> None:
    """Odd strides, paddings, dilations and groups; the recorded inputs are reals on [0, 1)."""
    with np.load(shared_data / f"goldens/lava_conv/gt_conv_{number}.npz") as file:
        data = {name: file[name] for name in file}
    expected = data["out_gt"].transpose(2, 0, 1)
    kernel = data["weights"].transpose(0, 3, 1, 2)
    stride, padding, dilation = (
        (int(data[name][0]), int(data[name][1])) for name in ("stride", "padding", "dilation")
    )
    geometry = Geometry(stride, padding, dilation, int(data["groups"]))
    grid = 2.0**24
    x = np.rint(data["input"].transpose(2, 0, 1) * grid).astype(np.int64)
    views = (x.shape, expected.shape)

    sums = accumulate(IntegerSynapses("w", "a", "b", kernel, geometry), x[None], views)[0]
    flipped = accumulate(
        IntegerSynapses("w", "a", "b", kernel[:, :, ::-1, ::-1], geometry), x[None], views
    )[0]

    # Lava convolves: its kernels are ours, flipped. The recording is float32.
    assert np.abs(flipped / grid - expected).max() < 1e-3
    assert np.abs(sums / grid - expected).max() > 100
