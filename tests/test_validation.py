"""Comparing a network before and after a pass: differences, ties, and what is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import EquivalenceError
from neurocompile.integer import IntegerNetwork
from neurocompile.ir import LIF, Conv2d, Dense, Input, Network, Node, Output
from neurocompile.passes.assemble import assemble
from neurocompile.passes.quantise import quantise
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.populations import PopulationNetwork
from neurocompile.reference import Trace
from neurocompile.target import find
from neurocompile.validation import (
    AFFORDABLE,
    Validator,
    affordable_samples,
    compare_exactly,
    cost,
    measure,
    probe_inputs,
    run_stage,
)

Chain = Callable[..., Network]
MakeLif = Callable[..., LIF]
MakeDense = Callable[..., Dense]

THRESHOLDS = {"a": np.ones(3), "b": np.ones(2)}


@pytest.fixture
def trace() -> Trace:
    """Two samples of three steps of two silent layers far below their thresholds, and an output."""
    return Trace(
        {"output": np.zeros((2, 3, 2))},
        {"a": np.zeros((2, 3, 3), np.uint8), "b": np.zeros((2, 3, 2), np.uint8)},
        {"a": np.zeros((2, 3, 3)), "b": np.zeros((2, 3, 2))},
    )


def with_spike(trace: Trace, layer: str, *place: int) -> Trace:
    spikes = {name: values.copy() for name, values in trace.spikes.items()}
    spikes[layer][place] ^= 1
    return replace(trace, spikes=spikes)


def with_membrane(trace: Trace, layer: str, place: tuple[int, ...], value: float) -> Trace:
    membrane = {name: values.copy() for name, values in trace.membrane.items()}
    membrane[layer][place] = value
    return replace(trace, membrane=membrane)


def with_output(trace: Trace, place: tuple[int, ...], value: float) -> Trace:
    output = trace.outputs["output"].copy()
    output[place] = value
    return replace(trace, outputs={"output": output})


def test_equal_traces_are_counted_slot_by_slot(trace: Trace) -> None:
    report = compare_exactly("fuse", trace, trace, THRESHOLDS)

    assert report.to_json() == {
        "pass": "fuse",
        "exact": True,
        "slots": 2 * 3 * (3 + 2),
        "mismatches": 0,
        "ties": 0,
        "output_difference": 0.0,
        "layers": {},
    }


def test_a_spike_that_differs_is_an_error_with_its_place(trace: Trace) -> None:
    """Later layers and steps of that sample are consequences, and not told."""
    after = with_spike(with_spike(trace, "a", 1, 2, 1), "b", 1, 2, 0)

    with pytest.raises(EquivalenceError) as raised:
        compare_exactly("fuse", trace, after, THRESHOLDS)

    assert str(raised.value) == (
        "layer 'a' must fire the same spikes after pass 'fuse', but 1 differ at sample 1, step 2, "
        "first at neuron (1,): this is a bug of neurocompile: please report it"
    )


def test_every_sample_that_differs_is_told(trace: Trace) -> None:
    after = with_spike(with_spike(trace, "a", 0, 1, 1), "b", 1, 0, 0)

    with pytest.raises(EquivalenceError) as raised:
        compare_exactly("fuse", trace, after, THRESHOLDS)

    text = str(raised.value)
    assert "2 problems" in text
    assert "layer 'a' must fire the same spikes after pass 'fuse', but 1 differ at sample 0" in text
    assert "layer 'b' must fire the same spikes after pass 'fuse', but 1 differ at sample 1" in text


@pytest.mark.parametrize(
    ("membrane", "threshold", "tie"),
    [
        (1 + 5e-10, 1.0, True),
        (1 - 5e-10, 1.0, True),
        (1 + 2e-9, 1.0, False),
        (1e6 + 5e-4, 1e6, True),
        (1e6 + 2e-3, 1e6, False),
        (1e-12, 0.0, True),
    ],
)
def test_a_membrane_on_its_threshold_is_a_tie(
    trace: Trace, membrane: float, threshold: float, *, tie: bool
) -> None:
    """To within a billionth of the largest number, or of 1."""
    before = with_membrane(trace, "a", (0, 1, 2), membrane)
    after = with_spike(before, "a", 0, 1, 2)
    thresholds = {"a": np.full(3, threshold), "b": np.ones(2)}

    if tie:
        report = compare_exactly("fuse", before, after, thresholds)
        assert (report.ties, report.mismatches) == (1, 0)
    else:
        with pytest.raises(EquivalenceError, match="layer 'a' must fire the same spikes"):
            compare_exactly("fuse", before, after, thresholds)


def test_what_follows_a_tie_is_not_compared_but_what_came_before_is(trace: Trace) -> None:
    before = with_membrane(trace, "a", (0, 1, 2), 1.0)
    tied = with_spike(before, "a", 0, 1, 2)
    later = with_output(with_spike(with_spike(tied, "b", 0, 1, 0), "a", 0, 2, 0), (0, 2, 0), 9.0)

    report = compare_exactly("fuse", before, later, THRESHOLDS)

    assert report.ties == 1
    assert report.slots == (2 + 3) * 5
    with pytest.raises(EquivalenceError, match="layer 'b' .* sample 0, step 0"):
        compare_exactly("fuse", before, with_spike(tied, "b", 0, 0, 0), THRESHOLDS)
    with pytest.raises(EquivalenceError, match="in sample 0"):
        compare_exactly("fuse", before, with_output(tied, (0, 0, 0), 9.0), THRESHOLDS)


def test_a_tie_excuses_no_other_neuron_of_its_step(trace: Trace) -> None:
    before = with_membrane(trace, "a", (0, 1, 2), 1.0)
    after = with_spike(with_spike(before, "a", 0, 1, 2), "a", 0, 1, 0)

    with pytest.raises(EquivalenceError, match=r"2 differ .* first at neuron \(0,\)"):
        compare_exactly("fuse", before, after, THRESHOLDS)


def test_outputs_may_differ_by_rounding_and_by_no_more(trace: Trace) -> None:
    before = with_output(trace, (1, 0, 0), 1000.0)

    report = compare_exactly("fuse", before, with_output(before, (1, 2, 1), 5e-7), THRESHOLDS)

    assert report.output_difference == 5e-7
    with pytest.raises(
        EquivalenceError,
        match="layer 'output' must show the same values after pass 'fuse', but they differ by 2e-06 "
        "in sample 1",
    ):
        compare_exactly("fuse", before, with_output(before, (1, 2, 1), 2e-6), THRESHOLDS)
    with pytest.raises(EquivalenceError, match="in sample 0"):
        compare_exactly("fuse", before, with_output(before, (0, 2, 1), 5e-7), THRESHOLDS)


def test_a_layer_may_be_added_but_not_lost(trace: Trace) -> None:
    fewer = replace(trace, spikes={"b": trace.spikes["b"]})

    assert compare_exactly("fuse", fewer, trace, THRESHOLDS).slots == 2 * 3 * 2
    with pytest.raises(EquivalenceError, match="layer 'a' must still exist after pass 'fuse'"):
        compare_exactly("fuse", trace, fewer, THRESHOLDS)


def test_a_lossy_pass_is_measured(trace: Trace) -> None:
    after = with_spike(with_spike(trace, "a", 1, 2, 1), "b", 0, 0, 0)
    after = with_output(with_spike(after, "b", 0, 0, 1), (0, 0, 1), -0.25)

    report = measure("quantise", trace, after)

    assert (report.exact, report.slots, report.mismatches, report.ties) == (False, 30, 3, 0)
    assert report.output_difference == 0.25
    assert report.layers == {"a": 1 / 18, "b": 2 / 12}


@pytest.fixture
def network(chain: Chain, lif: MakeLif, dense: MakeDense) -> Network:
    return chain((2,), {"fc": dense([[0.5, 0.75]]), "lif": lif((1,)), "out": dense([[2.0]])})


def damaged(populations: PopulationNetwork, weight: Any) -> PopulationNetwork:
    first, *rest = populations.synapses
    wrong = replace(first, operator=Dense(np.array(weight), np.zeros(1)))
    return replace(populations, synapses=(wrong, *rest))


def test_a_validator_holds_each_stage_against_the_one_before(network: Network) -> None:
    populations = assemble(network)
    validator = Validator(probe_inputs(network, None, steps=4), network)

    validator.after("assemble", populations)
    validator.after("share_sums", populations)
    validator.after("quantise", quantise(populations, find("fixedpoint").limits, steps=4).network)

    assert [report.name for report in validator.reports] == ["assemble", "share_sums", "quantise"]
    assert [report.exact for report in validator.reports] == [True, True, False]
    assert validator.reports[0].slots == 4 * 4
    assert validator.reports[2].output_difference < 0.02
    with pytest.raises(EquivalenceError, match="after pass 'share_sums'"):
        Validator(validator.inputs, network).after("share_sums", damaged(populations, [[5, 5]]))


def test_integers_are_shown_in_the_units_of_the_network(
    chain: Chain, dense: MakeDense, one_layer: Callable[..., IntegerNetwork]
) -> None:
    """A read-out in state units: 100 * 64 of them, at 1 weight unit each, are 100."""
    values = {"in": np.ones((1, 2, 1))}

    shown = run_stage(one_layer([[100]], shows="input"), values)
    fired = run_stage(one_layer([[101]]), values)
    floats = run_stage(chain((1,), {"fc": dense([[100]])}), {"input": values["in"]})

    assert shown.output.ravel().tolist() == floats.output.ravel().tolist() == [100, 100]
    assert fired.output.ravel().tolist() == [1, 1]


def test_random_inputs_lie_on_the_grid_of_each_input(lif: MakeLif) -> None:
    nodes: dict[str, Node] = {
        "plain": Input((50,)),
        "graded": Input((50,), InputRange(-0.5, 1.0, 0.25)),
        "free": Input((50,), InputRange(0, 2)),
        "lif": lif((50,)),
        "output": Output((50,)),
    }
    edges = (("plain", "lif"), ("graded", "lif"), ("free", "lif"), ("lif", "output"))

    inputs = probe_inputs(Network(nodes, edges), None, steps=100)

    assert {values.shape for values in inputs.values()} == {(4, 16, 50)}
    assert set(np.unique(inputs["plain"])) == {0, 1}
    grid = np.arange(-2, 5) / 4
    assert set(np.unique(inputs["graded"])) == set(grid)
    assert 0 <= inputs["free"].min() < inputs["free"].max() <= 2
    density = (inputs["plain"] != 0).mean((1, 2))
    assert (np.diff(density) > 0).all()
    again = probe_inputs(Network(nodes, edges), None, steps=100)
    for name, values in inputs.items():
        np.testing.assert_array_equal(values, again[name])


def test_calibration_samples_follow_the_random_ones(network: Network) -> None:
    """Six are given, four are taken; two steps are shown again until there are five."""
    given = np.arange(24.0).reshape(6, 2, 2)

    values = probe_inputs(network, {"input": given}, steps=5)["input"]

    assert values.shape == (4 + 4, 5, 2)
    np.testing.assert_array_equal(values[4:, :2], given[:4])
    np.testing.assert_array_equal(values[4:, 2:4], given[:4])
    np.testing.assert_array_equal(values[4:, 4], given[:4, 0])


def test_the_cost_by_hand(chain: Chain) -> None:
    """9 weights at each of 4 x 3 pixels, 4 samples, 16 steps at most, 7 stages."""
    network = chain((1, 4, 3), {"conv": Conv2d(np.ones((1, 1, 3, 3)), np.zeros(1), padding=(1, 1))})

    assert cost(network, steps=5, calibrated=False) == 9 * 12 * 4 * 5 * 7
    assert cost(network, steps=100, calibrated=True) == 9 * 12 * 8 * 16 * 7


def test_long_networks_are_run_on_fewer_samples(chain: Chain) -> None:
    """9 weights at each of 4 x 3 pixels, over 10 steps: 1080 multiplications a sample."""
    network = chain((1, 4, 3), {"conv": Conv2d(np.ones((1, 1, 3, 3)), np.zeros(1), padding=(1, 1))})

    def samples(multiplications: float) -> int:
        return affordable_samples(
            network, steps=10, least=2, most=8, multiplications=multiplications
        )

    assert samples(5 * 1080) == 5
    assert samples(6 * 1080 - 1) == 5
    assert samples(1) == 2
    assert samples(1e12) == 8


def validation_facts(network: Network, **options: Any) -> Any:
    program = compile_network(network, find("fixedpoint"), CompileOptions(**options))
    return program.facts["validation"]


def test_a_program_says_what_each_pass_changed(network: Network) -> None:
    facts = validation_facts(network)

    assert facts["samples"] == 4
    assert [report["pass"] for report in facts["passes"]] == [
        "lower_max_pooling", "lower_thresholds", "shift_resets", "assemble", "share_sums", "quantise",
    ]  # fmt: skip
    assert all(report["mismatches"] == 0 for report in facts["passes"] if report["exact"])


def test_calibration_samples_are_validated_as_well(network: Network) -> None:
    calibration: dict[str, NDArray[Any]] = {"input": np.ones((3, 4, 2))}

    assert validation_facts(network, calibration=calibration)["samples"] == 7


def test_a_validation_that_was_left_out_says_why(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert validation_facts(network, validate=False) == {"skipped": "not asked for"}
    work = cost(network, steps=4, calibrated=False)
    assert work < AFFORDABLE
    monkeypatch.setattr("neurocompile.pipeline.AFFORDABLE", work - 1)
    assert validation_facts(network) == {
        "skipped": f"it takes about {work:.1e} multiplications: --validate does it"
    }
    assert "passes" in validation_facts(network, validate=True)


def test_a_pass_that_changes_a_spike_ends_the_compilation(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "neurocompile.pipeline.assemble", lambda stage: damaged(assemble(stage), [[0.5, 3.0]])
    )

    with pytest.raises(
        EquivalenceError, match="layer 'lif' must fire the same spikes after pass 'assemble'"
    ):
        compile_network(network, find("fixedpoint"), CompileOptions())
    compile_network(network, find("fixedpoint"), CompileOptions(validate=False))
