"""
Which network a file means: what is inferred, what is asked for, and worked examples of every dialect.

That spikes are those of the frameworks themselves is what `tests/conformance` shows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from neurocompile.errors import NirFormatError, UnsupportedError
from neurocompile.frontend.from_nir import Imported, from_nir
from neurocompile.ir import LIF, Delay, Integrator
from neurocompile.reference import simulate

WriteGraph = Callable[..., Path]


def lif(tau: ArrayLike, r: ArrayLike, *, threshold: float = 1.0, **more: Any) -> nir.LIF:
    taus = np.atleast_1d(np.asarray(tau, float))
    ones = np.ones_like(taus)
    return nir.LIF(
        tau=taus,
        r=r * ones,
        v_leak=0 * ones,
        v_threshold=threshold * ones,
        v_reset=0 * ones,
        **more,
    )


@pytest.fixture
def read(write_graph: WriteGraph) -> Callable[..., Imported]:
    """Writes neurons between an input and an output, one after the other, and reads them back."""

    def make(*neurons: nir.NIRNode, size: int = 1, **options: Any) -> Imported:
        ends = np.array([size])
        names = [f"n{number}" for number, _ in enumerate(neurons)]
        nodes = {"in": nir.Input({"input": ends}), **dict(zip(names, neurons, strict=True))}
        nodes["out"] = nir.Output({"output": ends})
        path = write_graph(nodes, list(zip(["in", *names], [*names, "out"], strict=True)))
        return from_nir(path, **options)

    return make


Read = Callable[..., Imported]


def neuron(imported: Imported, name: str = "n0") -> LIF:
    node = imported.network.nodes[name]
    assert isinstance(node, LIF)
    return node


def spikes(imported: Imported, values: ArrayLike, name: str = "n0") -> list[int]:
    inputs: NDArray[np.float64] = np.asarray(values, float).reshape(1, -1, 1)
    fired: list[int] = simulate(imported.network, inputs).spikes[name].ravel().tolist()
    return fired


# Time steps


@pytest.mark.parametrize(
    ("profile", "tau", "r", "dt", "options"),
    [
        ("snntorch", 1e-3, 10.0, 1e-4, {"reset": "zero"}),
        ("spikingjelly", 4e-3, 4.0, 1e-3, {}),
        ("lava-dl", 2e-4, 2.0, 1e-4, {}),
        ("spyx", 2.0, 0.5, 1.0, {}),
        ("spyx", 4e-3, 0.75, 1e-3, {}),
        ("rockpool", 2.5e-3, 24.019735979, 1e-4, {}),
        ("rockpool", 2e-3, 2 * np.exp(-0.5), 1e-3, {}),
        ("sinabs", 5.0, 1.0, 1.0, {"input_gain": "leak", "max_spikes": 1, "min_membrane": "none"}),
    ],
)
def test_the_step_follows_from_the_numbers(
    read: Read, profile: str, tau: float, r: float, dt: float, options: dict[str, Any]
) -> None:
    imported = read(lif(tau, r), profile=profile, **options)

    assert imported.inferred["dt"].startswith(f"{dt:g}, ")
    decay = np.exp(-dt / tau) if profile in ("sinabs", "rockpool") else 1 - dt / tau
    assert neuron(imported).decay == pytest.approx(decay, rel=1e-6)


def test_a_step_that_differs_between_layers_is_asked_for(read: Read) -> None:
    with pytest.raises(UnsupportedError, match="needs the time step that it was trained with"):
        read(lif(2e-3, 2.0), lif(2e-3, 4.0), profile="spikingjelly")


@pytest.mark.parametrize("profile", ["norse", "literal"])
def test_some_files_never_say_their_step(read: Read, profile: str) -> None:
    with pytest.raises(UnsupportedError, match="give it with --dt"):
        read(lif(2e-3, 1.0), profile=profile, reset="zero")


def test_numbers_that_are_not_the_framework_s_are_refused(read: Read) -> None:
    for profile, text in (
        ("snntorch", "needs an input gain of 1 to be a neuron of snnTorch"),
        ("lava-dl", "needs an input gain of 1 to be a neuron of lava-dl"),
        ("rockpool", r"needs r = tau/dt exp\(-dt/tau\) = 1.21306 to be a neuron of Rockpool"),
        ("spyx", "needs r = 0.5 to be a neuron of Spyx"),
        ("sinabs", "needs r = 1 to be a neuron of sinabs"),
    ):
        step = 1.0 if profile == "sinabs" else 1e-3
        with pytest.raises(NirFormatError, match=text):
            read(lif(2e-3, 7.0), profile=profile, dt=step, reset="zero", reset_at="spike")
    with pytest.raises(NirFormatError, match="counts its time constants in steps.*leave --dt out"):
        read(lif(5.0, 1.0), profile="sinabs", dt=1e-3)


@pytest.mark.parametrize("profile", ["norse", "rockpool", "spyx"])
def test_numbers_that_a_profile_would_drop_are_refused(read: Read, profile: str) -> None:
    node = nir.IF(r=np.full(1, 5.0), v_threshold=np.ones(1), v_reset=np.zeros(1))

    with pytest.raises(NirFormatError, match="needs r = 1 to be a neuron of .*, but it is 5"):
        read(node, profile=profile, dt=1e-3, reset="zero")


# What is left open


def test_a_file_of_nobody_is_refused_with_who_could_have_written_it(read: Read) -> None:
    for neurons, fits in (
        (lif(1e-3, 10.0), "snntorch with dt 0.0001, lava-dl with dt 0.0001, spikingjelly"),
        (lif([2.0, 4.0], [0.5, 0.75]), "spyx with dt 1, literal"),
        (lif([2e-3, 4e-3], [2 * np.exp(-0.5), 4 * np.exp(-0.25)]), "rockpool with dt 0.001"),
        (lif(5.0, 1.0), "sinabs, norse, literal"),
    ):
        with pytest.raises(UnsupportedError) as raised:
            read(neurons, size=neurons.tau.size)
        assert (
            "neurons are computed differently by each framework, but the file does not say which one "
            "trained them: choose with --profile; the numbers fit "
        ) in str(raised.value)
        assert fits in str(raised.value)


def test_a_reset_voltage_of_zero_is_no_evidence(read: Read) -> None:
    """snnTorch writes it whatever its neurons do, and nir fills it in."""
    with pytest.raises(UnsupportedError, match="choose with --profile"):
        read(lif(1e-3, 10.0), dt=1e-4, reset="zero")
    with pytest.raises(UnsupportedError, match="--reset zero or --reset subtract"):
        read(lif(1e-3, 10.0), profile="snntorch")
    assert neuron(read(lif(1e-3, 10.0), profile="literal", dt=1e-4)).reset == "zero"


def test_when_a_reset_acts_is_asked_for_where_it_matters(read: Read) -> None:
    assert neuron(read(lif(1e-3, 10.0), profile="snntorch", reset="zero")).refractory == 0
    with pytest.raises(UnsupportedError, match="--reset-at spike or --reset-at next"):
        read(lif(1e-3, 10.0), profile="snntorch", reset="subtract")


def test_what_sinabs_does_not_write_is_asked_for_together(read: Read) -> None:
    with pytest.raises(UnsupportedError, match="--input-gain 1 or --input-gain leak"):
        read(lif(5.0, 1.0), profile="sinabs")
    with pytest.raises(UnsupportedError) as raised:
        read(lif(5.0, 1.0), profile="sinabs", input_gain="1")
    assert "--max-spikes 1 or --max-spikes any" in str(raised.value)
    assert "--min-membrane none, threshold or a number" in str(raised.value)


def test_decisions_are_kept_with_where_they_came_from(read: Read) -> None:
    inferred = read(
        lif(5.0, 1.0), profile="sinabs", input_gain="leak", max_spikes="any", min_membrane=-2
    ).inferred

    assert inferred["profile"] == "sinabs, as asked for"
    assert inferred["dt"] == "1, as sinabs counts in steps"
    assert inferred["reset"] == "subtract, as in sinabs"
    assert inferred["fires"] == "at, as in sinabs"
    assert inferred["max_spikes"] == "any, as asked for"
    assert inferred["min_membrane"] == "-2.0, as asked for"


# Recurrences, by hand


def test_snntorch_subtracts_in_the_next_step(read: Read) -> None:
    """beta 0.5: u = 1.5, 0.75 - 1 + 1.5 = 1.25, 0.625 - 1 + 1.5 = 1.125."""
    imported = read(lif(2e-4, 2.0), profile="snntorch", reset="subtract", reset_at="next")

    inputs = np.full((1, 3, 1), 1.5)
    trace = simulate(imported.network, inputs, membranes=True)
    assert trace.membrane["n0"].ravel().tolist() == [1.5, 1.25, 1.125]


def test_neurons_that_forget_subtract_by_feedback(read: Read) -> None:
    """beta 0: u = 1.5, 1.5 - 1, 1.5."""
    imported = read(lif(1e-4, 1.0), profile="snntorch", reset="subtract", reset_at="next")

    assert spikes(imported, [1.5, 1.5, 1.5]) == [1, 0, 1]
    assert imported.inferred["feedback"] == "n0 -> n0.reset, one step later"


def test_spikingjelly_fires_at_its_threshold_and_starts_at_its_reset(read: Read) -> None:
    node = nir.LIF(
        tau=np.array([2e-3]),
        r=np.array([2.0]),
        v_leak=np.array([-0.5]),
        v_threshold=np.array([1.0]),
        v_reset=np.array([-0.5]),
    )
    imported = read(node, profile="spikingjelly")

    assert spikes(imported, [1.5, 1.25, 1.5]) == [1, 0, 1]
    found = neuron(imported)
    assert found.comparison == ">="
    assert found.start is not None
    assert found.start.tolist() == [-0.5]


def test_sinabs_fires_several_times(read: Read) -> None:
    node = nir.IF(r=np.ones(1), v_threshold=np.ones(1))
    several = read(node, profile="sinabs", max_spikes="any", min_membrane="threshold")

    assert spikes(several, [3.5, 0.5, -9, 1.5, 0.5]) == [3, 1, 0, 0, 1]


def test_norse_writes_its_time_constants_times_dt(read: Read) -> None:
    true_tau, dt = 1e-2, 1e-3
    new = read(lif(dt * true_tau, 1.0), profile="norse", dt=dt, reset="zero")

    assert neuron(new).decay == pytest.approx(0.9)
    assert new.inferred["tau"] == "tau is dt times the true one, as Norse 1.1 writes it"
    with pytest.raises(
        UnsupportedError, match="may have the true time constant in 'tau', or dt times"
    ):
        read(lif(true_tau, 1.0), profile="norse", dt=dt, reset="zero")


def test_norse_currents_jump(read: Read) -> None:
    one = np.ones(1)
    node = nir.CubaLIF(
        tau_syn=2e-6 * one, tau_mem=4e-6 * one, r=one, v_leak=0 * one, v_threshold=one, w_in=one
    )
    found = neuron(read(node, profile="norse", dt=1e-3, reset="zero"))

    assert found.current_decay is not None
    read_as = (found.current_decay[0], found.gain[0], found.decay[0])
    assert read_as == pytest.approx((0.5, 0.25, 0.75))


def test_rockpool_currents_leak_at_once(read: Read) -> None:
    one, leak = np.ones(1), np.exp(-0.5)
    node = nir.CubaLIF(
        tau_syn=2e-3 * one, tau_mem=2e-3 * one, r=2 * leak * one, v_leak=0 * one, v_threshold=one
    )
    found = neuron(read(node, profile="rockpool"))

    assert found.current_decay == pytest.approx(leak)
    assert found.gain == pytest.approx(leak)
    assert found.most_spikes is None


def test_spyx_tells_a_spike_a_step_late(read: Read) -> None:
    imported = read(lif(2.0, 0.5), profile="spyx")

    assert isinstance(imported.network.nodes["n0.after"], Delay)
    trace = simulate(imported.network, np.full((1, 4, 1), 1.5))
    assert trace.output.ravel().tolist() == [0, 1, 1, 1]  # v = 1.5, 1.25, 1.125, ...


def test_spyx_draws_its_recurrent_layers_wrongly(write_graph: WriteGraph) -> None:
    """The input goes through the recurrent weights in the file, and not in the framework."""
    nodes = {
        "in": nir.Input({"input": np.array([1])}),
        "w": nir.Linear(weight=np.array([[-4.0]])),
        "lif": nir.IF(r=np.ones(1), v_threshold=np.ones(1), v_reset=np.zeros(1)),
        "out": nir.Output({"output": np.array([1])}),
    }
    path = write_graph(nodes, [("in", "w"), ("w", "lif"), ("lif", "w"), ("lif", "out")])

    moved = from_nir(path, profile="spyx", dt=1)
    drawn = from_nir(path, profile="literal", dt=1, reset="zero")

    assert ("in", "lif") in moved.network.edges
    assert "where its framework adds it behind them" in moved.inferred["wiring"]
    assert ("in", "w") in drawn.network.edges
    assert "the file is read as leading the input of lif" in drawn.inferred["wiring"]


def test_integers_of_lava_dl_stay_integers(write_graph: WriteGraph) -> None:
    ones = np.ones(1)
    decay, current = 1229 / 4096, 1024 / 4096
    node = nir.CubaLIF(
        tau_syn=np.float32(1e-4 / current) * ones,
        tau_mem=np.float32(1e-4 / decay) * ones,
        r=np.float32(1 / decay) * ones,
        v_leak=0 * ones,
        v_threshold=80 / 64 * ones,
        w_in=np.float32(1 / current) * ones,
    )
    for weight, kept in ((22 / 64, True), (21.5 / 64, False)):
        nodes = {
            "in": nir.Input({"input": np.array([1])}),
            "fc": nir.Linear(weight=np.array([[weight]])),
            "lif": node,
            "out": nir.Output({"output": np.array([1])}),
        }
        path = write_graph(nodes, [("in", "fc"), ("fc", "lif"), ("lif", "out")])
        imported = from_nir(path, profile="lava-dl")

        found = neuron(imported, "lif")
        assert found.decay.tolist() == [1 - decay]
        assert found.current_decay is not None
        assert found.current_decay.tolist() == [1 - current]
        assert imported.network.weight_unit == (1 / 64 if kept else None)
        assert ("are kept" in imported.inferred["integers"]) == kept


def test_neurons_that_are_an_integrator_and_a_threshold(read: Read) -> None:
    """Spyx' PSU_LIF; never reset."""
    leak = nir.LI(tau=np.array([2.0]), r=np.ones(1), v_leak=np.zeros(1))
    imported = read(leak, nir.Threshold(threshold=np.ones(1)), profile="spyx", dt=1)

    assert not imported.network.of_type(Integrator)
    assert spikes(imported, [1.5, 0.5, 0.25], "n1") == [1, 1, 0]  # 1.5, 1.25, 0.875
