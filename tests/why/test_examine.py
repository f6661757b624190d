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
from neurocompile.statistics import Share
from neurocompile.verification import examine as examination
from neurocompile.verification.examine import choose
from neurocompile.verification.report import Divergence, plain
from neurocompile.verification.stages import Runner, plan_of
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
    assert missing == {
        "membrane errors of 'pool'": "they are in thresholds, and no neuron has one above 0"
    }
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

    def planted(tally: Tally) -> list[int]:
        tally.pairs["fixedpoint", "loihi2"] = pair  # type: ignore[index]
        tally.pairs["torch", "float"] = pair  # type: ignore[index]
        tally.pairs["float", "onnx"] = pair  # type: ignore[index]
        return []

    monkeypatch.setattr(examination, "differing", planted)
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
    def planted(tally: Tally) -> list[int]:
        pairs: Any = tally.pairs
        same = pairs["float", "fixedpoint"]
        pairs["torch", "float"] = replace(same, first=None, kept=(), differing=0)
        pairs["torch", "fixedpoint"] = same
        return []

    monkeypatch.setattr(examination, "differing", planted)
    found, missing = look(program, inputs)

    assert not [name for name in missing if "torch" in name]
    assert "float" in {cause.reference for cause in found.causes}


def test_progress_is_told(program: Program, inputs: Any, look: Make) -> None:
    told: list[tuple[int, int]] = []

    look(program, inputs, count=5, progress=lambda done, of: told.append((done, of)))

    assert told[-1] == (5, 5)


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(0, 9))
def test_samples_are_evenly_spread(of: int, count: int, seed: int) -> None:
    chosen = choose(of, count, seed).tolist()

    assert len(chosen) == min(of, count)
    assert chosen == sorted(set(chosen))
    assert chosen[0] >= 0
    assert chosen[-1] < of
    gaps = np.diff(chosen)
    assert not gaps.size or gaps.max() - gaps.min() <= 1
    assert max(chosen[0], of - 1 - chosen[-1]) <= of / count + 1


@pytest.fixture
def rarely() -> Any:
    """Inputs of 64 samples, of which only sample 37 shows anything."""
    random = np.random.default_rng(1)
    values = np.zeros((64, 6, 2, 4, 4))
    values[37] = np.rint(random.uniform(-1, 1, (6, 2, 4, 4)) * 16) / 16
    return values


def test_what_differs_is_not_examined_for_that_but_is_explained(
    network: Network, rarely: Any, look: Make, program_of: Make
) -> None:
    """Statistics do not choose what fails; causes are looked for there, too."""
    silent = {
        name: replace(node, bias=np.zeros_like(node.bias))
        if isinstance(node, Conv2d | Dense)
        else node
        for name, node in network.nodes.items()
    }
    program = program_of(network.replaced(silent), bits=3)

    found, missing = look(program, rarely, count=8)

    assert found.samples == tuple(choose(64, 8).tolist())
    assert 37 not in found.samples
    assert all(layer.total.count == 0 for layer in found.blame)
    assert {cause.divergence.sample for cause in found.causes} == {37}
    assert {"lif1", "lif2"} <= {cause.divergence.layer for cause in found.causes}
    assert found.cause_samples == tuple(sorted([*found.samples, 37]))
    assert not [name for name in missing if "cause" in name]
    assert (found.reference, found.candidate) == ("float", "fixedpoint")


def test_where_pairs_first_differ_was_looked_at_too(
    program: Program, inputs: Any, look: Make
) -> None:
    """Of eight samples the fourth and the last are examined, and float / quantised differ first in sample 0."""
    found, _ = look(program, inputs, count=2, seed=3)

    assert 0 not in found.samples
    assert found.causes[0].divergence.sample == 0
    assert found.cause_samples == (0, *found.samples)


@pytest.fixture
def decider(chain: MakeNetwork, lif: Make, program_of: Make) -> Program:
    """Weights of a layer that 2 bits hold as they are, and of a read-out that they do not."""
    random = np.random.default_rng(3)
    network = chain(
        (8,),
        {
            "fc": Dense(np.sign(random.normal(size=(16, 8))) / 2, np.zeros(16)),
            "lif": lif((16,), decay=0.5),
            "out": Dense(random.normal(size=(10, 16)) * 0.3, np.zeros(10)),
        },
        steps=4,
    )
    made: Program = program_of(network, bits=2)
    return made


def test_a_read_out_is_blamed_for_the_decisions_it_changes(decider: Program, look: Make) -> None:
    """No spike differs, and most decisions do."""
    inputs = np.random.default_rng(3).integers(0, 2, (60, 4, 8)).astype(np.float64)
    found, _ = look(decider, inputs, count=40)

    assert [(layer.name, layer.total.count) for layer in found.blame] == [("lif", 0)]
    (blamed,) = found.readouts
    float_outputs = reference.simulate(Runner(decider, plan_of(decider)).network, inputs).outputs
    result = decider.run(inputs)
    examined = list(found.samples)
    before, after = (outputs["output"][examined] for outputs in (float_outputs, result.outputs))
    changed = int((before.mean(1).argmax(1) != after.mean(1).argmax(1)).sum())
    assert changed > 10
    assert (blamed.name, blamed.total, blamed.own) == (
        "out",
        Share(changed, 40),
        Share(changed, 40),
    )
    assert blamed.own_error == pytest.approx(np.abs(before - after).mean())
    assert blamed.total_error == pytest.approx(blamed.own_error)


def test_a_read_out_is_not_blamed_for_the_spikes_it_hears(
    program: Program, inputs: Any, look: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the reference's spikes its outputs are closer; chunks change nothing."""
    found, _ = look(program, inputs)

    (blamed,) = found.readouts
    assert blamed.own.of == blamed.total.of == 8
    assert 0 < blamed.own_error < blamed.total_error
    monkeypatch.setattr(examination, "MOST_VALUES", 1)
    (again,) = look(program, inputs)[0].readouts
    assert (again.total, again.own) == (blamed.total, blamed.own)
    assert again.own_error == pytest.approx(blamed.own_error)


def test_one_output_decides_nothing(program_of: Make, chain: Make, lif: Make, look: Make) -> None:
    random = np.random.default_rng(3)
    network = chain(
        (4,),
        {
            "fc": Dense(random.normal(size=(6, 4)), np.zeros(6)),
            "lif": lif((6,)),
            "out": Dense(random.normal(size=(1, 6)), np.zeros(1)),
        },
        steps=3,
    )
    found, _ = look(program_of(network, bits=3), np.ones((2, 3, 4)))

    assert [(item.name, item.own, item.total) for item in found.readouts] == [
        ("out", Share(0, 0), Share(0, 0))
    ]
    assert found.readouts[0].total_error > 0


def test_without_a_spiking_layer_the_read_out_is_all_there_is(
    program_of: Make, chain: Make, look: Make
) -> None:
    random = np.random.default_rng(3)
    network = chain((4,), {"out": Dense(random.normal(size=(3, 4)), np.zeros(3))}, steps=3)
    inputs = random.integers(0, 2, (5, 3, 4)).astype(np.float64)

    found, _ = look(program_of(network, bits=2), inputs)

    assert found.blame == ()
    (blamed,) = found.readouts
    assert blamed.own == blamed.total
    assert blamed.own_error == blamed.total_error > 0


def test_alternatives_are_counted_with_the_samples(
    program: Program, inputs: Any, look: Make
) -> None:
    told: list[tuple[int, int]] = []

    found, _ = look(
        program, inputs, alternatives=True, progress=lambda done, of: told.append((done, of))
    )

    assert found.alternatives
    assert told[0] == (8, 8)
    assert told[-1][0] == told[-1][1] > 8
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_alternatives_have_a_deadline(
    program: Program, inputs: Any, look: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def alternatives_of(*_: Any, **options: Any) -> Any:
        given.update(options)
        return (), {}

    monkeypatch.setattr(examination, "alternatives_of", alternatives_of)
    look(program, inputs, alternatives=True, deadline=5.0)

    assert given["deadline"] == 5.0


def test_neurons_without_a_threshold_are_left_out_of_errors_and_told(
    program_of: Make, chain: Make, lif: Make, look: Make
) -> None:
    """One of two neurons fires above 0: errors are those of the other, of threshold 4."""
    pytest.importorskip("elephant")
    network = chain(
        (1,),
        {
            "fc": Dense(np.array([[2.0], [0.9]]), np.zeros(2)),
            "lif": replace(lif((2,)), threshold=np.array([0.0, 4.0])),
        },
        steps=1,
    )
    made = program_of(network, bits=2)
    found, missing = look(made, np.ones((1, 1, 1)))

    assert missing == {
        "membrane errors of all of 'lif'": "they are in thresholds: 1 of 2 neurons, which have none above 0, "
        "are left out"
    }
    group, neurons = made.network.synapses[0], made.network.neurons[0]
    kept = group.weight.ravel()[1] * 2.0**group.exponent / float(neurons.scale.flat[-1])
    (distances,) = found.distances
    assert distances.membrane_mean == pytest.approx(abs(kept - 0.9) / 4)
    assert distances.membrane_largest == pytest.approx(abs(kept - 0.9) / 4)


def test_a_tie_is_nobodys_error(program_of: Make, chain: Make, lif: Make, look: Make) -> None:
    """
    0.1 + 0.2 is above 0.3 in float64 alone; the second neuron, at 0.7, fires in neither.

    The largest weight makes 1200 units of 1, of which weights of 0.1 and 0.2 are even numbers.
    """
    network = chain(
        (2,),
        {
            "fc": Dense(np.array([[0.1, 0.2], [254 / 1200, 0.2]]), np.zeros(2)),
            "lif": replace(lif((2,)), threshold=np.array([0.3, 0.7])),
        },
        steps=1,
    )
    found, missing = look(program_of(network), np.ones((1, 1, 2)))

    (layer,) = found.blame
    assert (layer.total.count, layer.own.count, layer.inherited.count) == (1, 0, 0)
    assert missing["own errors of 'lif' at ties"].startswith("at 1 of 2 places the float membrane")
    assert {cause.contributions[-1].cause for cause in found.causes} == {"float64 rounding (a tie)"}


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
    largest = max(first.contributions, key=lambda item: abs(item.amount))
    assert largest.cause == "weights off by more than rounding"
    assert first.note == (
        "weights of 'conv1' are off by more than a step, which no rounding explains: this points at a bug"
    )
    assert not [cause for cause in look(right, inputs)[0].causes if cause.note]
    (lif2,) = [
        cause
        for cause in found.causes
        if cause.divergence.layer == "lif2" and cause.candidate == "fixedpoint"
    ]
    largest = max(lif2.contributions, key=lambda item: abs(item.amount))
    assert largest.cause == "propagated spikes of 'pool'"
