"""A close look at some samples: blame, causes, distances and histograms, and what could not be measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurocompile import reference
from neurocompile.data import InputRange
from neurocompile.ir import Conv2d, Delay, Dense, Flatten, Input, MaxPool2d, Network, Node, Output
from neurocompile.program import GRAPH, Program
from neurocompile.verification import examine as examination
from neurocompile.verification.examine import choose
from neurocompile.verification.report import Divergence, plain
from neurocompile.verification.tallies import PairTally, Tally

Make = Callable[..., Any]
MakeNetwork = Callable[..., Network]


@pytest.fixture
def network(chain: MakeNetwork, lif: Make) -> Network:
    """Two layers and a read-out on analogue inputs; few bits leave much to explain."""
    random = np.random.default_rng(0)
    return chain(
        (2, 4, 4),
        {
            "conv1": Conv2d(
                random.normal(size=(3, 2, 3, 3)) / 2, random.normal(size=3) / 8, padding=(1, 1)
            ),
            "lif1": lif((3, 4, 4), decay=0.7),
            "pool": MaxPool2d((2, 2), (2, 2)),
            "flatten": Flatten(),
            "fc2": Dense(random.normal(size=(8, 12)) / 2, random.normal(size=8) / 8),
            "lif2": lif((8,), decay=0.9),
            "out": Dense(random.normal(size=(3, 8)), np.zeros(3)),
        },
        steps=6,
        input_range=InputRange(-1.0, 1.0, 1 / 16),
    )


@pytest.fixture
def program(network: Network, program_of: Make) -> Program:
    made: Program = program_of(network, bits=3)
    return made


@pytest.fixture
def inputs() -> Any:
    random = np.random.default_rng(1)
    return np.rint(random.uniform(-1, 1, (8, 6, 2, 4, 4)) * 16) / 16


def test_everything_is_found(program: Program, inputs: Any, look: Make) -> None:
    pytest.importorskip("elephant")
    found, missing = look(program, inputs)

    # Whether a maximum is above nothing cannot be measured in thresholds.
    assert missing == {"membrane errors of 'pool'": "its threshold is 0, which measures nothing"}
    assert [item.membrane_mean is None for item in found.distances] == [False, True, False]
    assert found.samples == tuple(range(8))
    assert {layer.name for layer in found.blame} == {"lif1", "pool", "lif2"}
    blame = {layer.name: layer for layer in found.blame}
    assert blame["lif1"].total.of == 8 * 6 * 48
    assert blame["lif1"].inherited.count == 0
    assert blame["lif1"].own == blame["lif1"].total
    # A maximum of spikes has no numbers to round.
    assert blame["pool"].own.count == 0 < blame["pool"].inherited.count == blame["pool"].total.count
    assert found.blame[-1].name == "pool"
    assert [histogram.name for histogram in found.weights] == ["lif1", "pool", "lif2", "out"]
    assert [histogram.name for histogram in found.membranes] == ["lif1", "pool", "lif2"]
    assert all(sum(item.reference) == sum(item.candidate) for item in found.membranes)
    assert sum(found.membranes[0].reference) == 8 * 6 * 48
    assert found.membranes[0].threshold == 1.0
    assert json.dumps(plain(found)) == json.dumps(plain(look(program, inputs)[0]))


def test_causes_come_by_pair_and_then_by_layer(program: Program, inputs: Any, look: Make) -> None:
    found, _ = look(program, inputs)

    pairs = [(cause.reference, cause.candidate) for cause in found.causes]
    assert pairs[:2] == [("float", "quantised"), ("float", "fixedpoint")] or pairs[:3] == [
        ("float", "quantised"),
        ("quantised", "fixedpoint"),
        ("float", "fixedpoint"),
    ]
    layers = [
        cause.divergence.layer
        for cause in found.causes
        if (cause.reference, cause.candidate) == ("float", "fixedpoint")
    ]
    assert sorted(layers) == ["lif1", "lif2", "pool"]
    for cause in found.causes:
        change = cause.margin_candidate - cause.margin_reference
        assert sum(item.amount for item in cause.contributions) == pytest.approx(change, abs=1e-12)
        place, trace = cause.divergence, cause.trace
        assert trace.reference_spikes[place.step] == place.reference_spike
        assert trace.candidate_spikes[place.step] == place.candidate_spike
        assert trace.candidate[place.step] == pytest.approx(place.membrane)
        assert (cause.margin_candidate > 0) == bool(place.candidate_spike)
        assert (cause.margin_reference > 0) == bool(place.reference_spike)
    (pool,) = [
        cause
        for cause in found.causes
        if cause.divergence.layer == "pool" and cause.candidate == "fixedpoint"
    ]
    assert [item.cause for item in pool.contributions] == ["propagated spikes of 'lif1'"]


def test_chunks_change_nothing(
    program: Program, inputs: Any, look: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = look(program, inputs)
    monkeypatch.setattr(examination, "MOST_VALUES", 1)

    single, _ = look(program, inputs)

    assert single.blame == whole.blame
    assert len(single.causes) == len(whole.causes)
    for one, other in zip(single.causes, whole.causes, strict=True):
        # Sums of fewer samples may be added in another order.
        assert one.divergence.neuron == other.divergence.neuron
        assert [item.cause for item in one.contributions] == [
            item.cause for item in other.contributions
        ]
        assert [item.amount for item in one.contributions] == pytest.approx(
            [item.amount for item in other.contributions]
        )
    assert single.membranes == whole.membranes
    for one, other in zip(single.distances, whole.distances, strict=True):
        assert one.membrane_mean == pytest.approx(other.membrane_mean)
        assert one.membrane_largest == pytest.approx(other.membrane_largest)


def test_membrane_errors_are_in_thresholds(
    program_of: Make, chain: Make, lif: Make, look: Make
) -> None:
    """Weights of 0.9 and 2 at 2 bits: units of 1 at the most, so 0.9 is off by what it rounds to."""
    pytest.importorskip("elephant")
    network = chain(
        (1,),
        {"fc": Dense(np.array([[2.0], [0.9]]), np.zeros(2)), "lif": lif((2,), threshold=4.0)},
        steps=1,
    )
    made = program_of(network, bits=2)
    found, _ = look(made, np.ones((1, 1, 1)))

    group, neurons = made.network.synapses[0], made.network.neurons[0]
    kept = group.weight.ravel() * 2.0**group.exponent / float(neurons.scale)
    errors = np.abs(kept - [2.0, 0.9]) / 4
    (distances,) = found.distances
    assert distances.membrane_mean == pytest.approx(errors.mean())
    assert distances.membrane_largest == pytest.approx(errors.max())


def test_ties_are_left_out_and_told(
    program: Program, inputs: Any, look: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate = reference.simulate

    def other(network: Any, values: Any, **options: Any) -> Any:
        """Return what the graph does, but for a spike of sample 3, as a sum in another order might."""
        trace = simulate(network, values, **options)
        spikes = trace.spikes["lif2"].copy()
        spikes[3, 2, 1] ^= 1
        return replace(trace, spikes={**trace.spikes, "lif2": spikes})

    monkeypatch.setattr(reference, "simulate", other)
    found, missing = look(program, inputs)

    assert "3" not in map(str, found.samples)
    assert len(found.samples) == 7
    assert "in samples 3:" in missing["samples left out"]

    # With chunks of one sample, each is its sample 0.
    monkeypatch.setattr(
        reference,
        "simulate",
        lambda network, values, **options: replace(
            trace := simulate(network, values, **options),
            spikes={name: 1 - spikes for name, spikes in trace.spikes.items()},
        ),
    )
    found, missing = look(program, inputs)
    assert found.samples == ()
    assert found.blame == ()
    assert missing["blame"] == "there is no sample in which populations and graph fire alike"


def test_a_program_whose_graph_is_another_is_not_examined(
    program: Program, inputs: Any, look: Make
) -> None:
    relay_less = replace(
        program,
        extra_files={
            name: content for name, content in program.extra_files.items() if name == GRAPH
        },
        network=replace(
            program.network,
            synapses=tuple(
                replace(group, name="other" if group.name == "fc2" else group.name)
                for group in program.network.synapses
            ),
        ),
    )

    found, missing = look(relay_less, inputs, alternatives=True)

    assert found.samples == ()
    assert set(missing) == {"blame", "causes", "distances", "weights", "membranes", "alternatives"}
    assert missing["causes"] == (
        "layer 'other' must be the same synapses in the program's graph and in its integers: export it "
        "again (and 1 more)"
    )


def test_a_large_network_gets_fewer_samples_and_says_so(
    program: Program, inputs: Any, look: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = 6 * sum(map(program.network.synapse_count, program.network.synapses))
    monkeypatch.setattr(examination, "WORK", 5 * work)
    monkeypatch.setattr(examination, "MOST_KEPT", 10)

    found, missing = look(program, inputs)

    assert len(found.samples) == 5
    assert "5 of 8 are examined" in missing["more samples examined"]
    assert missing["distances"] == "the network is too large to keep its spikes"
    assert found.distances == ()
    assert found.blame


def test_integers_that_no_target_may_change_get_no_contributions(
    program: Program, inputs: Any, look: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted fault of the target: what it computed is not to be seen, so nothing is invented."""
    place = Divergence(2, 1, "lif2", 5, 0, 1, None, None)
    pair = PairTally({}, 0, 0, 0.0, 1, 0, first=place, kept=(place,))
    count = examination.choose

    def planted(of: int, wanted: int, tally: Tally, seed: int = 0) -> Any:
        tally.pairs["fixedpoint", "loihi2"] = pair  # type: ignore[index]
        tally.pairs["torch", "float"] = pair  # type: ignore[index]
        tally.pairs["float", "onnx"] = pair  # type: ignore[index]
        return count(of, wanted, tally, seed)

    monkeypatch.setattr(examination, "choose", planted)
    found, missing = look(program, inputs)

    told = missing["cause of fixedpoint/loihi2"]
    assert told.startswith(
        "'loihi2' computes another number than the integers say, at sample 2, step 1, layer 'lif2', neuron 5: "
        "it fired 1, they 0 (membrane "
    )
    assert ", threshold 1); what it computed instead" in told
    assert missing["cause of torch/float"] == "PyTorch shows no membranes"
    assert "which 'onnx' must match" in missing["cause of float/onnx"]
    assert all(cause.candidate != "loihi2" for cause in found.causes)


def test_what_pytorch_fires_alike_is_explained_by_the_float_network(
    program: Program, inputs: Any, look: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_samples = examination.choose

    def planted(of: int, wanted: int, tally: Tally, seed: int = 0) -> Any:
        pairs: Any = tally.pairs
        same = pairs["float", "fixedpoint"]
        pairs["torch", "float"] = replace(same, first=None, kept=(), differing=0)
        pairs["torch", "fixedpoint"] = same
        return choose_samples(of, wanted, tally, seed)

    monkeypatch.setattr(examination, "choose", planted)
    found, missing = look(program, inputs)

    assert not [name for name in missing if "torch" in name]
    assert "float" in {cause.reference for cause in found.causes}


def test_progress_is_told(program: Program, inputs: Any, look: Make) -> None:
    told: list[tuple[int, int]] = []

    look(program, inputs, count=5, progress=lambda done, of: told.append((done, of)))

    assert told[-1] == (5, 5)


def tally_of(*samples: int) -> Tally:
    places = tuple(Divergence(number, 0, "n", 0, 0, 1, None, None) for number in samples)
    pair = PairTally({}, 0, 0, 0.0, len(samples), 0, first=places[0], kept=places)
    return Tally(1, 1, {("float", "fixedpoint"): pair}, {})


@given(
    st.integers(1, 5000),
    st.integers(1, 64),
    st.lists(st.integers(0, 4999), min_size=1, max_size=16),
    st.integers(0, 9),
)
def test_samples_are_spread_and_hold_some_that_differ(
    of: int, count: int, differing: list[int], seed: int
) -> None:
    differing = sorted({number % of for number in differing})
    chosen = choose(of, count, tally_of(*differing), seed).tolist()

    assert len(chosen) == min(of, count)
    assert chosen == sorted(set(chosen))
    assert chosen[0] >= 0
    assert chosen[-1] < of
    assert differing[0] in chosen
    assert chosen == choose(of, count, tally_of(*differing), seed).tolist()
    if count < of:
        gaps = np.diff([0, *chosen, of])
        assert gaps.max() <= 3 * of / max(1, count - 4) + 2


def test_no_difference_no_causes(program_of: Make, chain: Make, lif: Make, look: Make) -> None:
    network = chain(
        (2,), {"fc": Dense(np.array([[1.0, 0.5]]), np.zeros(1)), "lif": lif((1,))}, steps=3
    )
    found, missing = look(program_of(network), np.ones((2, 3, 2)))

    assert found.causes == ()
    assert [layer.total.count for layer in found.blame] == [0]
    assert not [name for name in missing if "cause" in name]


@pytest.fixture
def mixed(lif: Make) -> Network:
    """Two inputs, neurons of every kind with delays and feedback, and two outputs."""
    random = np.random.default_rng(5)

    def dense(out: int, into: int) -> Dense:
        return Dense(random.normal(size=(out, into)) / 2 + 0.1, random.normal(size=out) / 8)

    nodes: dict[str, Node] = {
        "left": Input((4,), InputRange(0.0, 1.0, 0.0)),
        "right": Input((3,), InputRange(0, 1, 1)),
        "a.in": dense(8, 4),
        "a": lif((8,), decay=0.8, reset="subtract", most_spikes=3, comparison=">="),
        "b.in": dense(8, 3),
        "late": Delay(np.array([0, 1, 2])),
        "b": lif((8,), decay=0.6, current_decay=0.3, refractory=2, floor=np.full(8, -0.7)),
        "c.a": dense(6, 8),
        "c.b": dense(6, 8),
        "c.c": dense(6, 6),
        "c": lif((6,), decay=0.9, reset_to=-0.25, leak=0.1, start=np.full(6, 0.2)),
        "out": dense(2, 6),
        "output": Output((2,)),
        "seen": Output((8,)),
    }
    edges = (
        ("left", "a.in"),
        ("a.in", "a"),
        ("right", "late"),
        ("late", "b.in"),
        ("b.in", "b"),
        ("a", "c.a"),
        ("b", "c.b"),
        ("c", "c.c"),
        ("c.a", "c"),
        ("c.b", "c"),
        ("c.c", "c"),
        ("c", "out"),
        ("out", "output"),
        ("b", "seen"),
    )
    return Network(nodes, edges, 12, frozenset({("c", "c.c")}))


@pytest.mark.parametrize("bits", [3, 8])
def test_networks_of_all_kinds_are_explained(
    program_of: Make, mixed: Network, look: Make, bits: int
) -> None:
    random = np.random.default_rng(6)
    inputs = {
        "left": random.uniform(0, 1, (12, 12, 4)),
        "right": random.integers(0, 2, (12, 12, 3)).astype(np.float64),
    }

    found, missing = look(program_of(mixed, bits=bits), inputs, alternatives=True)

    assert {layer.name for layer in found.blame} == {"a", "b", "c"}
    assert not [name for name in missing if "cause" in name or "left out" in name]
    names = {item.cause for cause in found.causes for item in cause.contributions}
    assert {"weight rounding", "input quantisation"} <= names
    assert found.alternatives[0].mismatches.count > 0


def test_a_layer_with_wrong_integers_is_blamed(
    program_of: Make, network: Network, inputs: Any, look: Make
) -> None:
    """Weights of "conv1" with the wrong sign make all later layers differ, but none by its own error."""
    right = program_of(network, bits=8)
    wrong = replace(
        right,
        extra_files={name: file for name, file in right.extra_files.items() if name == GRAPH},
        network=replace(
            right.network,
            synapses=tuple(
                replace(group, weight=-group.weight) if group.name == "conv1" else group
                for group in right.network.synapses
            ),
        ),
    )
    before = {layer.name: layer for layer in look(right, inputs)[0].blame}

    found, _ = look(wrong, inputs)

    assert found.blame[0].name == "lif1"
    after = {layer.name: layer for layer in found.blame}
    assert after["lif1"].own.count > 100 > before["lif1"].own.count
    for name in ("pool", "lif2"):
        assert after[name].own == before[name].own
        assert after[name].inherited.count > before[name].inherited.count
    first = next(cause for cause in found.causes if cause.divergence.layer == "lif1")
    assert max(first.contributions, key=lambda item: abs(item.amount)).cause == "weight rounding"
    (lif2,) = [
        cause
        for cause in found.causes
        if cause.divergence.layer == "lif2" and cause.candidate == "fixedpoint"
    ]
    largest = max(lif2.contributions, key=lambda item: abs(item.amount))
    assert largest.cause == "propagated spikes of 'pool'"
