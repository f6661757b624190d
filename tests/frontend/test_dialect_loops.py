"""
Each framework's recurrence, written out once more, against its file as our importer reads it.

Numbers are dyadic and reach thresholds exactly, so that `>` and `>=` part and no spike is a matter of
rounding; where a leak is an exponential, the same float64 operations are made in the same order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.errors import NirFormatError, OptionError, UnsupportedError
from neurocompile.frontend.from_nir import Imported, from_nir
from neurocompile.ir import LIF, Delay, Dense, Integrator, Network
from neurocompile.reference import simulate

Float = NDArray[Any]
WriteGraph = Callable[..., Path]

STEPS = 200
DT = 1 / 1024  # a dyadic step, so that decays of Euler are exact
COUNT = 4
DECAYS = np.array([0.5, 0.75, 0.25, 0.875])
FASTER = np.array([0.25, 0.5, 0.75, 0.5])
THRESHOLDS = np.array([1.0, 0.5, 1.5, 2.0])
WEIGHT = np.random.default_rng(3).integers(-16, 33, (COUNT, 3)) / 16
BIAS = np.array([0.0, 0.25, -0.125, 0.5])
INPUT = np.random.default_rng(4).integers(0, 2, (STEPS, 3)).astype(float)
CURRENT = INPUT @ WEIGHT.T + BIAS
ZERO = np.zeros(COUNT)
ONE = np.ones(COUNT)
SUBTRACT_NEXT = {"reset": "subtract", "reset_at": "next"}


@pytest.fixture
def read(write_graph: WriteGraph) -> Callable[..., Imported]:
    """Writes affine input, one population and further nodes in a chain, and reads the file."""

    def make(*populations: Any, **options: Any) -> Imported:
        chain = dict(zip(["lif", "second"], populations, strict=False))
        nodes: dict[str, Any] = {
            "input": nir.Input({"input": np.array([3])}),
            "fc": nir.Affine(WEIGHT, BIAS),
            **chain,
            "output": nir.Output({"output": np.array([COUNT])}),
        }
        return from_nir(write_graph(nodes, list(itertools.pairwise(nodes))), **options)

    return make


def output(network: Network) -> Float:
    shown: Float = simulate(network, INPUT[np.newaxis]).output[0]
    return shown


def fire(
    recurrence: Callable[[dict[str, Float], Float], Float], start: Float | float = 0.0
) -> Float:
    """Run a recurrence over the currents; it keeps what it likes in a dictionary, v at first `start`."""
    state = {"v": ZERO + start, "i": ZERO, "s": ZERO, "r": ZERO}
    spikes = []
    for x in CURRENT:
        state["s"] = recurrence(state, x).astype(float)
        spikes.append(state["s"])
    result = np.array(spikes)
    assert 0.01 < (result > 0).mean() < 0.99
    return result


def euler_lif(*, gain_one: Any = True, **more: Any) -> nir.LIF:
    tau = DT / (1 - DECAYS)
    fields = {
        "tau": tau,
        "r": tau / DT if gain_one else ONE,
        "v_leak": ZERO,
        "v_threshold": THRESHOLDS,
        "v_reset": ZERO,
    }
    return nir.LIF(**{**fields, **more})


def euler_cuba(**more: Any) -> nir.CubaLIF:
    slow, fast = DT / (1 - DECAYS), DT / (1 - FASTER)
    fields = {
        "tau_mem": slow,
        "tau_syn": fast,
        "r": slow / DT,
        "w_in": fast / DT,
        "v_leak": ZERO,
        "v_threshold": 2 * THRESHOLDS,
        "v_reset": ZERO,
    }
    return nir.CubaLIF(**{**fields, **more})


# snnTorch


def leaky(
    state: dict[str, Float], x: Float, reset: str, *, late: bool, decays: Float = DECAYS
) -> Float:
    """`Leaky.forward`, in its own order: the reset is decided by the membrane before the step."""
    again = state["v"] > THRESHOLDS
    if reset == "subtract":
        v = decays * state["v"] + x - again * THRESHOLDS
    else:
        v = decays * np.where(again, 0, state["v"]) + x
    spikes = v > THRESHOLDS
    if not late:
        do_reset = spikes.astype(float) - again
        v = v - do_reset * (THRESHOLDS if reset == "subtract" else v)
    state["v"] = v
    return np.asarray(spikes)


def synaptic(state: dict[str, Float], x: Float, reset: str, *, late: bool) -> Float:
    threshold = 2 * THRESHOLDS
    again = state["v"] > threshold
    state["i"] = FASTER * state["i"] + x
    v = DECAYS * state["v"] + state["i"]
    v = v - again * threshold if reset == "subtract" else np.where(again, 0, v)
    spikes = v > threshold
    if not late:
        do_reset = spikes.astype(float) - again
        v = v - do_reset * (threshold if reset == "subtract" else v)
    state["v"] = v
    return np.asarray(spikes)


@pytest.mark.parametrize("late", [True, False], ids=["next", "spike"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("kind", ["leaky", "synaptic"])
def test_snntorch_resets_in_four_ways(
    read: Callable[..., Imported], kind: str, reset: str, late: bool
) -> None:
    node = euler_lif() if kind == "leaky" else euler_cuba()
    step = leaky if kind == "leaky" else synaptic

    imported = read(node, profile="snntorch", reset=reset, reset_at="next" if late else "spike")

    expected = fire(lambda state, x: step(state, x, reset, late=late))
    assert output(imported.network).tolist() == expected.tolist()
    held = {name for name in imported.network.nodes if ".held" in name}
    assert bool(held) == (reset == "subtract" and not late), "these inputs exceed two thresholds"
    assert ("twice" in imported.inferred) == bool(held)


def test_inputs_that_stay_below_two_thresholds_need_no_second_layer(
    read: Callable[..., Imported],
) -> None:
    high = np.full(COUNT, 64.0)

    imported = read(
        euler_lif(v_threshold=high), profile="snntorch", reset="subtract", reset_at="spike"
    )

    assert len(imported.network.of_type(LIF)) == 1
    assert "twice" not in imported.inferred


@pytest.mark.parametrize("kind", ["leaky", "synaptic"])
def test_snntorch_subtracts_from_membranes_without_memory(
    read: Callable[..., Imported], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With beta 0 there is no leak between a spike and its reset; some neurons have one, some not."""
    mixed = np.array([0.0, 0.75, 0.0, 0.5])
    tau = DT / (1 - mixed)
    fields: dict[str, Any] = {"tau" if kind == "leaky" else "tau_mem": tau, "r": tau / DT}
    node = euler_lif(**fields) if kind == "leaky" else euler_cuba(**fields)
    monkeypatch.setitem(globals(), "DECAYS", mixed)

    def step(state: dict[str, Float], x: Float) -> Float:
        if kind == "leaky":
            return leaky(state, x, "subtract", late=True, decays=mixed)
        return synaptic(state, x, "subtract", late=True)

    network = read(node, profile="snntorch", **SUBTRACT_NEXT).network

    assert output(network).tolist() == fire(step).tolist()
    assert any(edge[0] == "lif" for edge in network.feedback)


def test_snntorch_without_a_leak_has_infinite_time_constants(
    read: Callable[..., Imported],
) -> None:
    endless = np.full(COUNT, np.inf)
    node = euler_lif(tau=endless, r=endless, v_threshold=8 * THRESHOLDS)

    found = read(node, profile="snntorch", **SUBTRACT_NEXT).network.nodes["lif"]

    assert isinstance(found, LIF)
    assert found.decay.tolist() == [1.0] * COUNT
    with pytest.raises(NirFormatError, match="layer 'lif' needs finite numbers in 'tau'"):
        read(node, profile="literal", dt=DT, reset="zero")


def test_decays_come_back_as_they_were_trained(read: Callable[..., Imported]) -> None:
    """snnTorch divides in float32, and again; that leaves the decays that a person would choose."""
    chosen = np.array([0.5, 0.9, 41 / 64, 0.03125], np.float32)
    tau = np.float32(1e-4) / (1 - chosen)
    node = euler_lif(
        tau=tau,
        r=tau / np.float32(1e-4),
        v_leak=ZERO.astype(np.float32),
        v_threshold=ONE.astype(np.float32),
    )

    found = read(node, profile="snntorch", reset="zero").network.nodes["lif"]

    assert isinstance(found, LIF)
    assert found.decay.tolist() == chosen.astype(float).tolist()


def recurrent_nodes() -> dict[str, Any]:
    rec = np.random.default_rng(9).integers(-8, 9, (COUNT, COUNT)) / 8
    inner = nir.NIRGraph(
        {
            "input": nir.Input({"input": np.array([COUNT])}),
            "lif": euler_lif(),
            "w_rec": nir.Affine(rec, BIAS / 4),
            "output": nir.Output({"output": np.array([COUNT])}),
        },
        [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
        {},
        type_check=False,
    )
    return {
        "input": nir.Input({"input": np.array([3])}),
        "fc": nir.Affine(WEIGHT, BIAS),
        "lif": inner,
        "output": nir.Output({"output": np.array([COUNT])}),
    }


def test_snntorch_drops_the_next_input_of_recurrent_neurons(write_graph: WriteGraph) -> None:
    nodes = recurrent_nodes()
    weights = nodes["lif"].nodes["w_rec"]
    path = write_graph(nodes, list(itertools.pairwise(nodes)))

    network = from_nir(path, profile="snntorch", reset="zero", reset_at="next").network

    def rleaky(state: dict[str, Float], x: Float) -> Float:
        again = state["v"] > THRESHOLDS
        heard = weights.weight @ state["s"] + weights.bias
        state["v"] = np.where(again, 0, DECAYS * state["v"] + x + heard)
        return np.asarray(state["v"] > THRESHOLDS)

    assert output(network).tolist() == fire(rleaky).tolist()


# SpikingJelly


@pytest.mark.parametrize("weighs", [True, False], ids=["decay_input", "kept"])
def test_spikingjelly_fires_at_the_threshold_from_its_reset_voltage(
    read: Callable[..., Imported], weighs: bool
) -> None:
    to = np.full(COUNT, -0.25)
    tau = 1 / (1 - DECAYS)

    network = read(
        euler_lif(gain_one=not weighs, v_leak=to, v_reset=to), profile="spikingjelly", dt=DT
    ).network

    def lif(state: dict[str, Float], x: Float) -> Float:
        towards = (to - state["v"] + x) / tau if weighs else (to - state["v"]) / tau + x
        v = state["v"] + towards
        spikes = v >= THRESHOLDS
        state["v"] = np.where(spikes, to, v)
        return np.asarray(spikes)

    assert output(network).tolist() == fire(lif, -0.25).tolist()


def test_spikingjelly_integrates_and_fires(read: Callable[..., Imported]) -> None:
    node = nir.IF(r=ONE / DT, v_threshold=4 * THRESHOLDS, v_reset=ZERO)

    imported = read(node, profile="spikingjelly")

    def integrate(state: dict[str, Float], x: Float) -> Float:
        v = state["v"] + x
        spikes = v >= 4 * THRESHOLDS
        state["v"] = np.where(spikes, 0, v)
        return np.asarray(spikes)

    assert output(imported.network).tolist() == fire(integrate).tolist()
    assert imported.inferred["dt"] == "0.000976562, from the numbers of spikingjelly"


def test_spikingjelly_s_weighed_inputs_do_not_tell_the_step(read: Callable[..., Imported]) -> None:
    """tau / r of a single time constant is a number too, but no step: every neuron would forget at once."""
    same = euler_lif(gain_one=False, tau=np.full(COUNT, 2 * DT))

    with pytest.raises(UnsupportedError, match="layer 'lif' needs the time step.*--dt"):
        read(same, profile="spikingjelly")
    found = read(same, euler_lif(), profile="spikingjelly").network.nodes["second"]
    assert isinstance(found, LIF)
    assert found.decay.tolist() == DECAYS.tolist()


def test_other_gains_are_none_of_spikingjelly(read: Callable[..., Imported]) -> None:
    with pytest.raises(NirFormatError, match="needs an input gain of 1 to be a neuron of Spiking"):
        read(euler_lif(r=3 * ONE), profile="spikingjelly", dt=DT)


# sinabs


@pytest.mark.parametrize("most", [1, 2, "any"])
@pytest.mark.parametrize("lowest", ["none", "threshold", -0.125])
def test_sinabs_fires_several_times_and_cuts_off_behind_the_reset(
    read: Callable[..., Imported], most: Any, lowest: Any
) -> None:
    node = nir.IF(r=ONE, v_threshold=THRESHOLDS, v_reset=ZERO)

    network = read(node, profile="sinabs", max_spikes=most, min_membrane=lowest).network

    floors = {"none": np.full(COUNT, -np.inf), "threshold": -THRESHOLDS}
    floor = floors.get(lowest, np.full(COUNT, lowest) if lowest not in floors else ZERO)

    def iaf(state: dict[str, Float], x: Float) -> Float:
        v = state["v"] + x - 0.5
        count = np.where(v > 0, np.trunc(v / THRESHOLDS), 0)
        count = count if most == "any" else np.minimum(count, most)
        state["v"] = np.maximum(v - count * THRESHOLDS, floor)
        return np.asarray(count)

    lowered = network.replaced({**network.nodes, "fc": Dense(WEIGHT, BIAS - 0.5)})
    assert output(lowered).tolist() == fire(iaf).tolist()


@pytest.mark.parametrize("gain", ["1", "leak"])
def test_sinabs_leaks_exponentially_in_steps(read: Callable[..., Imported], gain: str) -> None:
    tau = np.array([2.0, 3.0, 5.0, 8.0])
    node = nir.LIF(tau=tau, r=ONE, v_leak=ZERO, v_threshold=THRESHOLDS / 2, v_reset=ZERO)

    imported = read(node, profile="sinabs", max_spikes="any", min_membrane="none", input_gain=gain)

    alpha = np.exp(-1 / tau)

    def lif(state: dict[str, Float], x: Float) -> Float:
        v = alpha * state["v"] + (x if gain == "1" else (1 - alpha) * x)
        count = np.where(v > 0, np.trunc(v / (THRESHOLDS / 2)), 0)
        state["v"] = v - count * (THRESHOLDS / 2)
        return np.asarray(count)

    assert output(imported.network).tolist() == fire(lif).tolist()
    assert imported.inferred["dt"] == "1, as sinabs counts in steps"


def test_sinabs_leaves_three_questions_open(read: Callable[..., Imported]) -> None:
    node = nir.IF(r=ONE, v_threshold=THRESHOLDS, v_reset=ZERO)

    with pytest.raises(UnsupportedError) as raised:
        read(node, profile="sinabs")

    text = str(raised.value)
    assert "choose with --max-spikes 1 or --max-spikes any" in text
    assert "choose with --min-membrane none, threshold or a number" in text
    leaky_node = nir.LIF(tau=2 * ONE, r=ONE, v_leak=ZERO, v_threshold=ONE, v_reset=ZERO)
    with pytest.raises(UnsupportedError, match="--input-gain 1 or --input-gain leak"):
        read(leaky_node, profile="sinabs", max_spikes=1, min_membrane="none")


def test_a_floor_above_zero_is_none_of_sinabs(read: Callable[..., Imported]) -> None:
    """It would lift membranes behind the reset, which ours is before."""
    node = nir.IF(r=ONE, v_threshold=THRESHOLDS, v_reset=ZERO)

    with pytest.raises(UnsupportedError, match="needs a lowest membrane of at most 0.*it is 0.25"):
        read(node, profile="sinabs", max_spikes="any", min_membrane=0.25)


# Norse


def norse_step(state: dict[str, Float], x: Float, *, synapse: str = "") -> Float:
    """LIFBox without a current; LIF of Norse 1.1, and of 1.0, whose current acts a step later."""
    rest, part, part_syn = 0.125, 1 - DECAYS, 1 - FASTER
    if not synapse:
        arriving = x
    elif synapse == "now":
        jumped = state["i"] + x
        arriving, state["i"] = jumped, jumped - part_syn * jumped
    else:
        arriving, state["i"] = state["i"], state["i"] - part_syn * state["i"] + x
    v = state["v"] + part * ((rest - state["v"]) + arriving)
    spikes = v > THRESHOLDS / 4
    state["v"] = np.where(spikes, 0, v)
    return np.asarray(spikes)


def test_norse_writes_dt_times_its_time_constants(read: Callable[..., Imported]) -> None:
    """Files from before nir 1.0 have the true ones: the shared `lif_norse.nir` is one."""
    rest = np.full(COUNT, 0.125)
    node = nir.LIF(DT / (1 - DECAYS) * DT, ONE, rest, THRESHOLDS / 4, ZERO)

    imported = read(node, profile="norse", dt=DT, reset="zero")

    assert output(imported.network).tolist() == fire(norse_step, 0.125).tolist()
    assert "is dt times the true one" in imported.inferred["tau"]


@pytest.mark.parametrize("synapse", ["now", "next"])
def test_norse_s_currents_jump(read: Callable[..., Imported], synapse: str) -> None:
    rest = np.full(COUNT, 0.125)
    node = nir.CubaLIF(
        DT**2 / (1 - FASTER), DT**2 / (1 - DECAYS), ONE, rest, THRESHOLDS / 4, ZERO, w_in=ONE
    )

    network = read(node, profile="norse", dt=DT, reset="zero", synapse=synapse).network

    expected = fire(lambda state, x: norse_step(state, x, synapse=synapse), 0.125)
    assert output(network).tolist() == expected.tolist()
    assert len(network.of_type(Delay)) == (synapse == "next")


def test_one_short_time_constant_of_norse_decides_for_all(read: Callable[..., Imported]) -> None:
    """A membrane of 2 s beside one of 10 ms: alone, the first would be read as 2 ms."""
    fast = nir.LIF(ONE * 1e-2 * 1e-3, ONE, ZERO, ONE, ZERO)
    slow = nir.LIF(ONE * 2.0 * 1e-3, ONE, ZERO, ONE, ZERO)

    network = read(fast, slow, profile="norse", dt=1e-3, reset="zero").network

    found = network.nodes["second"]
    assert isinstance(found, LIF)
    np.testing.assert_allclose(found.decay, 1 - 1e-3 / 2.0)


# Rockpool


@pytest.mark.parametrize("current", [False, True], ids=["neuron", "synapse"])
def test_rockpool_decays_what_arrives(read: Callable[..., Imported], current: bool) -> None:
    tau, tau_syn = np.array([2e-3, 3e-3, 5e-3, 8e-3]), np.array([1e-3, 2e-3, 4e-3, 2e-3])
    alpha, beta = np.exp(-1e-3 / tau), np.exp(-1e-3 / tau_syn)
    r = tau * alpha / 1e-3
    node: Any = nir.LIF(tau, r, ZERO, THRESHOLDS, ZERO)
    if current:
        node = nir.CubaLIF(tau_syn, tau, r, ZERO, THRESHOLDS, ZERO, w_in=ONE)

    imported = read(node, profile="rockpool")

    def step(state: dict[str, Float], x: Float) -> Float:
        arriving = x
        if current:
            state["i"] = (state["i"] + x) * beta
            arriving = state["i"]
        v = alpha * state["v"] + arriving
        count = np.where(v >= THRESHOLDS, np.floor(v / THRESHOLDS), 0)
        state["v"] = v - count * THRESHOLDS
        return np.asarray(count)

    assert output(imported.network).tolist() == fire(step).tolist()
    assert imported.inferred["dt"] == "0.001, from the numbers of rockpool"
    found = imported.network.nodes["lif"]
    assert isinstance(found, LIF)
    assert found.most_spikes is None


def test_rockpool_s_read_out_decays_its_input_too(read: Callable[..., Imported]) -> None:
    tau = np.array([2e-3, 3e-3, 5e-3, 8e-3])
    alpha = np.exp(-1e-3 / tau)

    network = read(nir.LI(tau, tau * alpha / 1e-3, ZERO), profile="rockpool").network

    i = ZERO
    for x, shown in zip(CURRENT, output(network), strict=True):
        i = (i + x) * alpha
        np.testing.assert_allclose(shown, i, rtol=1e-12)


# Spyx


def spyx_lif(state: dict[str, Float], x: Float) -> Float:
    spikes = state["v"] > THRESHOLDS
    state["v"] = DECAYS * state["v"] + x - spikes * THRESHOLDS
    return np.asarray(spikes)


def test_spyx_fires_a_step_late(read: Callable[..., Imported]) -> None:
    imported = read(euler_lif(r=DECAYS), profile="spyx")

    assert output(imported.network).tolist() == fire(spyx_lif).tolist()
    assert imported.inferred["dt"] == "0.000976562, from the numbers of spyx"


def test_spyx_subtracts_before_the_leak_where_there_is_a_current(
    read: Callable[..., Imported],
) -> None:
    def cuba(state: dict[str, Float], x: Float) -> Float:
        spikes = state["v"] > 2 * THRESHOLDS
        kept = state["v"] - spikes * 2 * THRESHOLDS
        state["i"] = FASTER * state["i"] + x
        state["v"] = DECAYS * kept + state["i"]
        return np.asarray(spikes)

    network = read(euler_cuba(r=DECAYS, w_in=ONE), profile="spyx").network

    assert output(network).tolist() == fire(cuba).tolist()


def test_spyx_leads_inputs_past_the_recurrent_weights(write_graph: WriteGraph) -> None:
    """Its exporter draws them through; a literal reader keeps that, and says so."""
    nodes = recurrent_nodes()
    inner = nodes["lif"]
    inner.nodes["lif"] = euler_lif(r=DECAYS)
    inner.nodes["w_rec"] = weights = nir.Linear(inner.nodes["w_rec"].weight)
    inner.edges = [("input", "w_rec"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
    path = write_graph(nodes, list(itertools.pairwise(nodes)))

    imported = from_nir(path, profile="spyx")

    def rlif(state: dict[str, Float], x: Float) -> Float:
        spikes = state["v"] > THRESHOLDS
        heard = weights.weight @ spikes
        state["v"] = DECAYS * state["v"] + x + heard - spikes * THRESHOLDS
        return np.asarray(spikes)

    assert output(imported.network).tolist() == fire(rlif).tolist()
    assert "where its framework adds it behind them" in imported.inferred["wiring"]
    literal = from_nir(path, profile="literal", dt=DT, reset="zero")
    assert literal.inferred["wiring"].startswith("the file is read as leading the input of lif.lif")


# lava-dl


def test_lava_dl_computes_in_integers(read: Callable[..., Imported]) -> None:
    steps = np.array([1024, 2048, 512, 4000])
    tau, tau_syn = DT * 4096 / steps, DT * 4096 / steps[::-1]
    node = euler_cuba(
        tau_mem=tau, r=tau / DT, tau_syn=tau_syn, w_in=tau_syn / DT, v_threshold=THRESHOLDS
    )

    imported = read(node, profile="lava-dl")

    def cuba(state: dict[str, Float], x: Float) -> Float:
        """In units of 1/4096 without its rounding: at the threshold and 0.01 units more is above it."""
        state["i"] = (4096 - steps[::-1]) / 4096 * state["i"] + x
        v = (4096 - steps) / 4096 * state["v"] + state["i"]
        spikes = v * 4096 >= THRESHOLDS * 4096 + 0.01
        state["v"] = np.where(spikes, 0, v)
        return np.asarray(spikes)

    assert output(imported.network).tolist() == fire(cuba).tolist()
    assert imported.network.weight_unit == 1 / 64


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"v_threshold": THRESHOLDS + 1 / 100},
            "the thresholds of 'lif' are no multiples of 0.0156",
        ),
        (
            {"tau_mem": DT / np.full(COUNT, 0.3), "r": ONE / 0.3},
            "the decays of 'lif' are no multiples of 0.00024",
        ),
    ],
)
def test_numbers_between_the_integers_stay_floats(
    read: Callable[..., Imported], changes: Mapping[str, Any], text: str
) -> None:
    imported = read(euler_cuba(**changes), profile="lava-dl")

    assert imported.network.weight_unit is None
    assert imported.inferred["integers"].startswith(f"none: {text}")


# Which framework, and options that do not fit


CANDIDATES: dict[str, tuple[Any, str]] = {
    "unit gains": (euler_lif(tau=1e-4 / (1 - DECAYS)), "snntorch with dt 0.0001, .*spikingjelly"),
    "spyx": (euler_lif(tau=1 / (1 - DECAYS), r=DECAYS), "fit spyx with dt 1, literal"),
    "rockpool": (
        euler_lif(
            tau=np.array([2.5e-3, 5e-3, 1e-2, 2e-2]),
            r=np.array(
                [
                    25 * np.exp(-1 / 25),
                    50 * np.exp(-1 / 50),
                    100 * np.exp(-1 / 100),
                    200 * np.exp(-1 / 200),
                ]
            ),
        ),
        "fit rockpool with dt 0.0001, literal",
    ),
    "r = 1": (euler_lif(tau=2 * ONE, r=ONE), "sinabs, norse, literal"),
    "integrate and fire": (nir.IF(1e4 * ONE, ONE, ZERO), "spikingjelly with dt 0.0001"),
}


@pytest.mark.parametrize("name", CANDIDATES)
def test_files_of_strangers_name_their_candidates(read: Callable[..., Imported], name: str) -> None:
    node, text = CANDIDATES[name]

    with pytest.raises(UnsupportedError, match=f"choose with --profile; the numbers .*{text}"):
        read(node)


def test_an_input_gain_is_for_those_who_leave_it_open(read: Callable[..., Imported]) -> None:
    with pytest.raises(OptionError, match="--input-gain is for --profile sinabs, but the file is"):
        read(euler_lif(), profile="snntorch", reset="zero", input_gain="leak")


def test_late_resets_to_zero_are_snntorch_s(read: Callable[..., Imported]) -> None:
    with pytest.raises(UnsupportedError, match="nobody says what SpikingJelly does then"):
        read(euler_lif(), profile="spikingjelly", reset_at="next")


@pytest.mark.parametrize("profile", ["snntorch", "spyx"])
def test_thresholds_below_the_start_are_refused_where_they_reset_it(
    read: Callable[..., Imported], profile: str
) -> None:
    node = euler_lif(v_threshold=-ONE, r=DECAYS if profile == "spyx" else 1 / (1 - DECAYS))
    options = SUBTRACT_NEXT if profile == "snntorch" else {}

    with pytest.raises(UnsupportedError, match="needs thresholds from 0 on, but one is -1"):
        read(node, profile=profile, **options)


def test_read_outs_show_their_membrane(read: Callable[..., Imported]) -> None:
    """PSU_LIF of Spyx is a leak without reset behind which a threshold stands: one population."""
    node = nir.LI(DT / (1 - DECAYS), ONE, ZERO)

    alone = read(node, profile="spyx", dt=DT).network
    joined = read(node, nir.Threshold(THRESHOLDS), profile="spyx", dt=DT).network

    assert isinstance(alone.nodes["lif"], Integrator)
    v, expected = ZERO, []
    for x in CURRENT:
        v = DECAYS * v + x
        expected.append((v > THRESHOLDS).astype(float))
    assert output(joined).tolist() == np.array(expected).tolist()
    assert len(joined.of_type(LIF)) == 1
