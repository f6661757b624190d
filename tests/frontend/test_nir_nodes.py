"""Each NIR primitive against its equation, written out once more, on numbers that floats keep exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.errors import NirFormatError, UnsupportedError
from neurocompile.frontend.from_nir import from_nir
from neurocompile.ir import LIF
from neurocompile.reference import simulate

Run = Callable[..., NDArray[np.float64]]
WriteGraph = Callable[..., Path]

DT = 0.25


def ports(shape: tuple[int, ...], out: tuple[int, ...] | None = None) -> dict[str, Any]:
    return {
        "input": nir.Input({"input": np.array(shape)}),
        "output": nir.Output({"output": np.array(out or shape)}),
    }


def full(*values: float) -> NDArray[np.float64]:
    return np.array(values)


def dyadic(seed: int, *shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).integers(-8, 17, shape) / 8


def test_affine_and_linear_maps(run_node: Run) -> None:
    weight = np.array([[1.0, 2.0], [0.5, -1.0], [0.0, 4.0]])

    affine = run_node(nir.Affine(weight, full(1, 2, 3)), [[1, 2]], (3,))
    linear = run_node(nir.Linear(weight), [[1, 2]], (3,))

    assert affine.tolist() == [[6.0, 0.5, 11.0]]
    assert linear.tolist() == [[5.0, -1.5, 8.0]]


def test_a_scale_multiplies_each_element(run_node: Run) -> None:
    output = run_node(nir.Scale(full(2, -1, 0)), [[1, 2, 3], [4, 5, 6]])

    assert output.tolist() == [[2, -2, 0], [8, -5, 0]]


def test_a_convolution_over_time_series(run_node: Run) -> None:
    """Two groups, stride 2, padding 1 and dilation 2, summed by hand."""
    weight = np.array([[[1.0, 10.0]], [[100.0, 1000.0]]])
    conv = nir.Conv1d(5, weight, 2, 1, 2, 2, full(0.5, 0))

    output = run_node(conv, [[[1, 2, 3, 4, 5], [6, 7, 8, 9, 1]]], (2, 3))

    # padded: 0 1 2 3 4 5 0; windows (0, 2), (2, 4), (4, 6)
    expected = [[20.5, 42.5, 4.5], [7000, 9700, 900]]
    assert output[0].tolist() == expected


def test_same_padding_along_one_axis(run_node: Run) -> None:
    conv = nir.Conv1d(3, np.array([[[1.0, 10.0, 100.0]]]), 1, "same", 1, 1, full(0))

    assert run_node(conv, [[[1, 2, 3]]]).tolist() == [[[210, 321, 32]]]


def test_a_convolution_over_images(run_node: Run) -> None:
    weight = np.array([[[[1.0, 10.0, 100.0]]]])
    conv = nir.Conv2d((2, 3), weight, 1, (0, 1), 1, 1, full(1))

    assert run_node(conv, [[[[1, 2, 3], [4, 5, 6]]]]).tolist() == [
        [[[211, 322, 33], [541, 655, 66]]]
    ]


def test_pools_add_or_average(run_node: Run) -> None:
    image = [[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]]
    window = {
        "kernel_size": np.array([2, 2]),
        "stride": np.array([2, 2]),
        "padding": np.array([1, 1]),
    }

    sums = run_node(nir.SumPool2d(**window), image, (1, 2, 2))
    averages = run_node(nir.AvgPool2d(**window), image, (1, 2, 2))

    assert sums.tolist() == [[[[1, 5], [11, 28]]]]
    assert averages.tolist() == [[[[0.25, 1.25], [2.75, 7]]]]


@pytest.mark.parametrize(
    ("start", "end", "out"),
    [(0, -1, (24,)), (1, -1, (2, 12)), (0, 1, (6, 4)), (1, 2, (2, 12)), (-2, -1, (2, 12))],
)
def test_a_flatten_joins_the_axes_it_names(
    run_node: Run, start: int, end: int, out: tuple[int, ...]
) -> None:
    values = np.arange(24.0).reshape(1, 2, 3, 4)
    node = nir.Flatten({"input": np.array([2, 3, 4])}, start_dim=start, end_dim=end)

    output = run_node(node, values, out)

    assert output.tolist() == values.reshape(1, *out).tolist()


def test_a_threshold_fires_above_it_only(run_node: Run) -> None:
    output = run_node(nir.Threshold(full(1, 0.5)), [[1, 1], [1.5, 0.5], [0, 2]])

    assert output.tolist() == [[0, 1], [1, 0], [0, 1]]


def test_one_delay_for_all(write_graph: WriteGraph) -> None:
    nodes = {**ports((2,)), "late": nir.Delay(full(0, 0))}
    path = write_graph(nodes, [("input", "late"), ("late", "output")])
    with h5py.File(path, "a") as file:
        del file["node/nodes/late/delay"]
        file["node/nodes/late/delay"] = 2 * DT

    output = simulate(
        from_nir(path, profile="literal", dt=DT).network, np.array([[[1, 2], [3, 4], [5, 6]]])
    ).output

    assert output.tolist() == [[[0, 0], [0, 0], [1, 2]]]


def test_a_delay_for_each_element(run_node: Run) -> None:
    output = run_node(nir.Delay(full(0, DT, 2 * DT)), [[1, 2, 3], [4, 5, 6], [7, 8, 9]], dt=DT)

    assert output.tolist() == [[1, 0, 0], [4, 2, 0], [7, 5, 3]]


def test_a_float32_delay_counts_in_whole_steps(run_node: Run) -> None:
    output = run_node(nir.Delay(np.array([0.0004], np.float32)), [[1], *[[0]] * 4], dt=1e-4)

    assert output.ravel().tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("delay", "text"),
    [
        (1.5 * DT, "needs delays of whole time steps, but 0.375 s is 1.5 steps of 0.25 s: .*--dt"),
        (-DT, "needs delays from 0 on, but one is -0.25 s"),
        (1e6, "needs delays of at most 1000000 steps"),
        (np.nan, "needs finite numbers in 'delay'"),
    ],
)
def test_delays_that_no_step_can_make_are_refused(run_node: Run, delay: float, text: str) -> None:
    with pytest.raises(NirFormatError, match=f"layer 'node' {text}"):
        run_node(nir.Delay(full(delay)), [[1]], dt=DT)


def test_delays_need_the_time_step(run_node: Run) -> None:
    with pytest.raises(UnsupportedError, match="layer 'node' needs the time step"):
        run_node(nir.Delay(full(1)), [[1]])


def test_an_integrator_adds_up(run_node: Run) -> None:
    """v += r dt I, and v is what it shows."""
    output = run_node(nir.I(full(2, 4)), [[1, 1], [1, -1], [2, 0]], dt=DT)

    assert output.tolist() == [[0.5, 1], [1, 0], [2, 0]]


def test_a_leaky_integrator_follows_its_equation(run_node: Run) -> None:
    tau, r, leak = full(0.5, 1), full(2, 4), full(0, 0.5)
    values = dyadic(0, 6, 2)

    output = run_node(nir.LI(tau, r, leak), values, dt=DT)

    v = np.zeros(2)
    for step, current in enumerate(values):
        v = v + DT / tau * ((leak - v) + r * current)
        assert output[step].tolist() == v.tolist()


def test_leaky_neurons_follow_their_equation(run_node: Run) -> None:
    tau, r, leak, threshold, reset = (
        full(0.5, 1),
        full(2, 4),
        full(0.25, 0),
        full(1, 0.5),
        full(-0.5, 0.25),
    )
    values = dyadic(1, 12, 2)

    output = run_node(nir.LIF(tau, r, leak, threshold, reset), values, dt=DT)

    v, fired_ever = np.zeros(2), 0
    for step, current in enumerate(values):
        v = v + DT / tau * ((leak - v) + r * current)
        fired = v > threshold
        assert output[step].tolist() == fired.astype(float).tolist()
        v = np.where(fired, reset, v)
        fired_ever += fired.sum()
    assert 0 < fired_ever < output.size


def test_neurons_without_a_leak_follow_their_equation(run_node: Run) -> None:
    r, threshold, reset = full(2), full(1), full(0.5)
    values = dyadic(2, 12, 1)

    output = run_node(nir.IF(r, threshold, reset), values, dt=DT)

    v = np.zeros(1)
    for step, current in enumerate(values):
        v = v + r * DT * current
        fired = v > threshold
        assert output[step].tolist() == fired.astype(float).tolist()
        v = np.where(fired, reset, v)


def cuba_parameters() -> dict[str, NDArray[np.float64]]:
    return {
        "tau_syn": full(0.5, 1, 0.25),
        "tau_mem": full(1, 0.5, 0.25),
        "r": full(2, 1, 4),
        "v_leak": full(0, 0.5, -0.25),
        "w_in": full(4, 2, 1),
    }


def literal_cuba(
    values: NDArray[np.float64], threshold: Any, reset_to: Any, *, subtract: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both differential equations by forward Euler, the membrane with the current of the same step."""
    p = cuba_parameters()
    i, v = np.zeros(3), np.zeros(3)
    membranes, spikes = [], []
    for arriving in values:
        i = i + DT / p["tau_syn"] * (-i + p["w_in"] * arriving)
        v = v + DT / p["tau_mem"] * ((p["v_leak"] - v) + p["r"] * i)
        fired = v > threshold
        membranes.append(v)
        spikes.append(fired)
        v = v - threshold * fired if subtract else np.where(fired, reset_to, v)
    return np.array(membranes), np.array(spikes, float)


def test_integrators_of_a_synaptic_current_follow_both_equations(run_node: Run) -> None:
    values = dyadic(3, 10, 3)

    output = run_node(nir.CubaLI(**cuba_parameters()), values, dt=DT)

    assert output.tolist() == literal_cuba(values, np.inf, 0)[0].tolist()


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_neurons_with_a_synaptic_current_follow_both_equations(run_node: Run, reset: str) -> None:
    values = dyadic(4, 20, 3)
    threshold, reset_to = full(3, 1.5, 0.5), full(0.5, -0.25, 0)
    node = nir.CubaLIF(**cuba_parameters(), v_threshold=threshold, v_reset=reset_to)

    output = run_node(node, values, dt=DT, reset=reset)

    expected = literal_cuba(values, threshold, reset_to, subtract=reset == "subtract")[1]
    assert output.tolist() == expected.tolist()
    assert (expected.sum(0) > 0).all()
    assert (expected.sum(0) < len(expected)).all()


def test_a_missing_input_weight_is_one(write_graph: WriteGraph) -> None:
    """Files of older versions do not have the field."""
    one = full(1)
    node = nir.CubaLIF(tau_syn=2 * one, tau_mem=one, r=one, v_leak=0 * one, v_threshold=one)
    path = write_graph({**ports((1,)), "lif": node}, [("input", "lif"), ("lif", "output")])
    with h5py.File(path, "a") as file:
        del file["node/nodes/lif/w_in"]

    read = from_nir(path, profile="literal", dt=0.5).network.nodes["lif"]

    assert isinstance(read, LIF)
    assert read.current_decay is not None
    assert (read.decay[0], read.current_decay[0], read.gain[0]) == (0.5, 0.75, 0.125)


def test_a_missing_reset_of_a_current_based_neuron_is_asked_for(write_graph: WriteGraph) -> None:
    one = full(1)
    node = nir.CubaLIF(tau_syn=one, tau_mem=one, r=one, v_leak=one, v_threshold=one)
    path = write_graph({**ports((1,)), "lif": node}, [("input", "lif"), ("lif", "output")])
    with h5py.File(path, "a") as file:
        del file["node/nodes/lif/v_reset"]

    with pytest.raises(UnsupportedError, match="layer 'lif' can reset to zero or subtract"):
        from_nir(path, profile="literal", dt=0.5)


def test_time_constants_of_both_equations_are_checked(run_node: Run) -> None:
    parameters = cuba_parameters()

    with pytest.raises(NirFormatError, match="at most its time constant, 0.25 s, but dt is 0.5 s"):
        run_node(nir.CubaLI(**parameters), dyadic(0, 2, 3), dt=0.5)
    parameters["tau_syn"] = full(1, 0, 1)
    with pytest.raises(NirFormatError, match="above 0, but the smallest in 'tau_syn' is 0"):
        run_node(nir.CubaLI(**parameters), dyadic(0, 2, 3), dt=DT)


def test_a_convolution_along_one_axis_refuses_images(run_node: Run) -> None:
    conv = nir.Conv1d(4, np.ones((2, 1, 3)), 1, 1, 1, 1, np.zeros(2))

    with pytest.raises(
        NirFormatError,
        match=r"layer 'node' needs an input \(channels, length\), but gets \(1, 3, 4\)",
    ):
        run_node(conv, np.zeros((1, 1, 3, 4)), (2, 3, 4))


def test_a_graph_has_as_many_inputs_and_outputs_as_it_likes(write_graph: WriteGraph) -> None:
    nodes = {
        "left": nir.Input({"input": np.array([2])}),
        "right": nir.Input({"input": np.array([2])}),
        "double": nir.Scale(full(2, 2)),
        "sum": nir.Output({"output": np.array([2])}),
        "right_only": nir.Output({"output": np.array([2])}),
    }
    edges = [("left", "double"), ("double", "sum"), ("right", "sum"), ("right", "right_only")]

    network = from_nir(write_graph(nodes, edges)).network
    outputs = simulate(
        network, {"left": np.array([[[1, 2]]]), "right": np.array([[[10, 20]]])}
    ).outputs

    assert {name: values.tolist() for name, values in outputs.items()} == {
        "sum": [[[12, 24]]],
        "right_only": [[[10, 20]]],
    }
