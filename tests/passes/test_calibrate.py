"""
Calibration: by hand, where it is obvious what samples must change, and what holds for every network.

Layers are made of populations directly: what calibration sees is a population network.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import execute
from neurocompile_loihi2.limits import LIMITS
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import OptionError
from neurocompile.integer import IntegerNetwork, IntegerNeurons, to_payload
from neurocompile.ir import Dense, Input, Network
from neurocompile.passes.assemble import assemble
from neurocompile.passes.calibrate import (
    BASELINES,
    Calibrated,
    calibrate,
    present,
    remarks_on,
)
from neurocompile.passes.prove_ranges import prove_ranges
from neurocompile.passes.quantise import quantise
from neurocompile.passes.shift_resets import shift_resets
from neurocompile.population_reference import simulate_populations
from neurocompile.populations import (
    InputPopulation,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SumPopulation,
    SynapseGroup,
)
from neurocompile.quantisation import search
from neurocompile.quantisation.recipe import Recipe
from neurocompile.quantisation.scales import by_row, payload_scale

Float = NDArray[np.float64]
SPIKES = InputRange(0, 1, 1)
STEPS = 4


def group(source: str, target: str, weight: Any, delay: Any = 0) -> SynapseGroup:
    rows = np.array(weight, dtype=float)
    out, into = rows.shape
    return SynapseGroup(
        f"{source}_{target}",
        source,
        target,
        Dense(rows, np.zeros(out)),
        (into,),
        (out,),
        np.array(delay),
    )


def neurons(name: str, size: int, *, threshold: Any = 1.0, **more: Any) -> SpikingPopulation:
    values: dict[str, Any] = {"decay": 0.5, "bias": 0.0, **more}
    return SpikingPopulation(name, (size,), threshold=np.array(threshold), **values)


def layer(weight: Any, *, threshold: Any = 1.0, **more: Any) -> PopulationNetwork:
    """Return one layer of spiking neurons, 'lif', behind spikes."""
    out, into = np.shape(weight)
    return PopulationNetwork(
        (
            InputPopulation("input", (into,), SPIKES),
            neurons("lif", out, threshold=threshold, **more),
        ),
        (group("input", "lif", weight),),
        {"output": "lif"},
        STEPS,
    )


def calibrated(network: PopulationNetwork, inputs: Float, recipe: Recipe) -> Calibrated:
    return calibrate(network, LIMITS, recipe, steps=STEPS, samples={"input": inputs})


def integers(network: PopulationNetwork, found: Calibrated) -> IntegerNetwork:
    return quantise(
        network,
        LIMITS,
        recipe=found.recipe,
        steps=STEPS,
        first_layer=found.first_layer,
        choices=found.choices,
    ).network


def neurons_of(network: IntegerNetwork, name: str = "lif") -> IntegerNeurons:
    found = network[name]
    assert isinstance(found, IntegerNeurons)
    return found


def mismatches(network: PopulationNetwork, chip: IntegerNetwork, inputs: Float) -> int:
    """Return how many spikes of `chip` differ from those of `network` on `inputs`."""
    wanted = simulate_populations(network, {"input": inputs})
    payloads = {
        item.name: np.clip(to_payload(item, inputs), item.minimum, item.maximum)
        for item in chip.inputs
    }
    record = [item.name for item in chip.spiking]
    did = execute(chip, payloads, samples=len(inputs), steps=inputs.shape[1], record=record)
    return sum(int((wanted.spikes[name] != did.spikes[name]).sum()) for name in record)


def spikes(*shape: int, share: float = 0.5, seed: int = 0) -> Float:
    return (np.random.default_rng(seed).random(shape) < share).astype(float)


@pytest.fixture
def outlier() -> tuple[PopulationNetwork, Float]:
    """
    Four weights of 0.3, which together pass the threshold, and one of 3 whose input is silent.

    At 3 bits, with the largest weight 3 units, 0.3 is 0.3 units, and rounds to nothing.
    """
    inputs = spikes(16, STEPS, 5, share=0.8)
    inputs[..., 4] = 0
    return layer([[0.3, 0.3, 0.3, 0.3, 3.0]]), inputs


def test_an_outlier_is_clipped_where_samples_do_not_need_it(
    outlier: tuple[PopulationNetwork, Float],
) -> None:
    network, inputs = outlier
    simple = quantise(network, LIMITS, weight_bits=3, steps=STEPS).network

    found = calibrated(network, inputs, Recipe(3, method="search"))

    chip = integers(network, found)
    assert simple.synapses[0].weight.tolist() == [[0, 0, 0, 0, 192]]
    assert (chip.synapses[0].weight[0, :4] > 0).all()
    assert mismatches(network, chip, inputs) == 0 < mismatches(network, simple, inputs)
    told = found.report["layers"]["lif"]
    assert told["after"] == 0 < told["before"]
    assert told["scale_ratio"][1] > 1


def test_a_channel_of_small_weights_gets_a_scale_of_its_own() -> None:
    """Beside weights of 4, those of 0.3 are nothing at 2 bits; with their own scale they are exact."""
    network = layer([[4.0, 0, 4.0], [0.3, 0.3, 0.3]], threshold=[6.0, 0.5])
    inputs = spikes(16, STEPS, 3)

    layerwise = calibrated(network, inputs, Recipe(2, method="search"))
    found = calibrated(network, inputs, Recipe(2, method="search", scales="channel"))

    chip = integers(network, found)
    assert mismatches(network, chip, inputs) == 0
    assert mismatches(network, integers(network, layerwise), inputs) > 0
    assert np.unique(neurons_of(chip).scale).size == 2


def test_a_correction_takes_the_mean_error_off_the_bias_exactly() -> None:
    """
    With 3 bits the largest weight is 3 units of 1 / 3, and 0.3 becomes one of them: 0.0333 too much, at
    every step. The bias becomes -0.0333, and membranes are as in real numbers but for its rounding.
    """
    network = layer([[1.0, 0.3]], threshold=1.7)
    inputs = np.zeros((4, STEPS, 2))
    inputs[..., 1] = 1

    found = calibrated(network, inputs, Recipe(3, correct_biases=True))

    wish = found.choices["lif"]
    assert wish.bias is not None
    scale = float(wish.scale[0])
    error = 0.3 - 64 / scale
    np.testing.assert_allclose(wish.bias, error, rtol=1e-12)
    chip = integers(network, found)
    grid = 2.0 ** neurons_of(chip).bias_exponent / 64
    assert abs(float(neurons_of(chip).bias) / 64 - error * scale) <= grid / 2
    assert found.report["layers"]["lif"]["bias_corrected"]


@pytest.mark.parametrize("recipe", [Recipe(2, method="search"), Recipe(3, correct_biases=True)])
def test_the_share_that_is_told_of_a_layer_is_what_the_network_does(recipe: Recipe) -> None:
    """What is minimised counts mean rates as well; what is called spikes that differ are these alone."""
    weight = np.random.default_rng(3).normal(size=(6, 9))
    network = layer(weight, threshold=1.3)
    inputs = spikes(16, STEPS, 9)

    found = calibrated(network, inputs, recipe)

    told, runs = found.report["layers"]["lif"], found.report["network"]
    assert told["all_places"]
    assert told["measure"] == "spikes that differ"
    assert told["after"] == pytest.approx(runs["chosen"]["layers"]["lif"])
    assert told["minimised"]["after"] > told["after"] > 0


@pytest.mark.parametrize("scales", ["layer", "channel"])
def test_what_the_proof_lowered_is_told_of_calibrated_layers_too(scales: Any) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 24)) - 0.5
    weight[:2] += 1  # of which the proof has nothing to lower
    network = layer(weight, decay=1.0)
    plain = Recipe(8, method="max", scales=scales)
    options: dict[str, Any] = {"steps": 100}
    simple = quantise(network, LIMITS, recipe=plain, **options)

    found = calibrate(
        network,
        LIMITS,
        replace(plain, correct_biases=True),
        samples={"input": spikes(6, 100, 24)},
        **options,
    )
    chosen = quantise(network, LIMITS, recipe=found.recipe, choices=found.choices, **options)

    assert found.choices["lif"].bias is not None
    assert chosen.lowered == simple.lowered
    assert chosen.lowered["lif"] > 1
    assert chosen.channels_lowered == simple.channels_lowered


@pytest.mark.parametrize("asked", [{"correct_biases": True}, {"rounding": "adaptive"}])
def test_a_poor_method_is_replaced_by_a_simple_one_that_does_better(asked: dict[str, Any]) -> None:
    """Half of the weights are at most 0.1: 3, without which nothing fires, would be cut to that."""
    network = layer([[0.1, 0.1, 0.1, 3.0]])
    inputs = spikes(16, STEPS, 4)

    found = calibrated(network, inputs, Recipe(8, method="percentile", percentile=50, **asked))

    runs = found.report["network"]
    assert set(runs) == {"chosen", "percentile", *BASELINES}
    assert found.report["taken"] in BASELINES
    assert mismatches(network, integers(network, found), inputs) == 0 < runs["chosen"]["mismatches"]


def test_a_correction_that_helps_nothing_is_left_out() -> None:
    network = layer([[0.5, -0.5]])  # exact with 8 bits

    found = calibrated(network, spikes(4, STEPS, 2), Recipe(8, correct_biases=True))

    assert found.choices["lif"].bias is None
    assert not found.report["layers"]["lif"]["bias_corrected"]


def test_weights_are_rounded_so_that_their_sum_is_right() -> None:
    """Inputs 0 and 1 come together: of 0.6 + 0.6 units to the nearest 2 are left, adaptively 1."""
    network = layer([[0.2, 0.2, 1.0]], threshold=0.55)
    inputs = spikes(32, STEPS, 3)
    inputs[..., 1] = inputs[..., 0]
    inputs[..., 2] = 0
    nearest = quantise(network, LIMITS, weight_bits=3, steps=STEPS).network

    found = calibrated(network, inputs, Recipe(3, rounding="adaptive"))

    chip = integers(network, found)
    assert nearest.synapses[0].weight[0, :2].tolist() == [64, 64]
    assert chip.synapses[0].weight[0, :2].sum() == 64
    assert mismatches(network, chip, inputs) < mismatches(network, nearest, inputs)


def test_a_readout_is_judged_by_what_it_shows() -> None:
    network = PopulationNetwork(
        (
            InputPopulation("input", (4,), SPIKES),
            ReadoutPopulation("out", (2,), np.zeros(2)),
        ),
        (group("input", "out", [[0.3, 0.3, 0.3, 5.0], [0.3, -0.3, 0.3, 5.0]]),),
        {"output": "out"},
        STEPS,
    )
    inputs = spikes(16, STEPS, 4)
    inputs[..., 3] = 0

    found = calibrated(network, inputs, Recipe(3, method="search"))

    runs = found.report["network"]
    assert runs["chosen"]["output_errors"]["output"] < runs["max"]["output_errors"]["output"] / 2
    assert "outputs are off by" in remarks_on({**found.report, "data": "x"})[-1]


def looped() -> PopulationNetwork:
    """Return neurons that hear themselves, and others, a step later."""
    generator = np.random.default_rng(1)
    return PopulationNetwork(
        (
            InputPopulation("input", (5,), SPIKES),
            neurons("one", 6, current_decay=0.25),
            neurons("two", 4),
        ),
        (
            group("input", "one", generator.normal(size=(6, 5))),
            group("one", "one", generator.normal(size=(6, 6)), delay=1),
            group("two", "one", generator.normal(size=(6, 4)), delay=[1, 1, 2, 1]),
            group("one", "two", generator.normal(size=(4, 6)) / 2),
        ),
        {"output": "two"},
        STEPS,
    )


def delayed() -> PopulationNetwork:
    """Return neurons with a delay for each synapse."""
    generator = np.random.default_rng(2)
    return PopulationNetwork(
        (InputPopulation("input", (5,), SPIKES), neurons("one", 4)),
        (
            group(
                "input",
                "one",
                generator.normal(size=(4, 5)),
                delay=generator.integers(0, 3, (4, 5)),
            ),
        ),
        {"output": "one"},
        STEPS,
    )


def microcode() -> PopulationNetwork:
    """Return neurons that subtract, fire several times, rest, and stop at a floor."""
    generator = np.random.default_rng(3)
    return PopulationNetwork(
        (
            InputPopulation("input", (5,), SPIKES),
            neurons("one", 6, reset="subtract", most_spikes=None, comparison=">="),
            neurons("two", 6, refractory=1, floor=np.array(-0.5), start=np.array(0.25)),
            neurons("three", 4, reset="subtract", pulse=np.array(0.3)),
        ),
        (
            group("input", "one", generator.normal(size=(6, 5))),
            group("one", "two", generator.normal(size=(6, 6))),
            group("two", "three", generator.normal(size=(4, 6))),
        ),
        {"output": "three"},
        STEPS,
    )


def summed() -> PopulationNetwork:
    """Return a sum of spikes that travels as one graded spike, and a path around it."""
    generator = np.random.default_rng(4)
    return PopulationNetwork(
        (
            InputPopulation("input", (5,), SPIKES),
            neurons("one", 6),
            neurons("two", 6),
            SumPopulation("sum", (6,), 2),
            neurons("three", 4),
        ),
        (
            group("input", "one", generator.normal(size=(6, 5))),
            group("one", "two", generator.normal(size=(6, 6))),
            group("one", "sum", np.eye(6)),
            group("two", "sum", np.eye(6)),
            group("sum", "three", generator.normal(size=(4, 6))),
            group("one", "three", generator.normal(size=(4, 6))),
        ),
        {"output": "three"},
        STEPS,
    )


@pytest.mark.usefixtures("few_candidates")
@pytest.mark.parametrize("make", [looped, delayed, microcode, summed])
@pytest.mark.parametrize("scales", ["layer", "channel"])
def test_every_kind_of_population_is_calibrated_and_proven(
    make: Callable[[], PopulationNetwork], scales: Any
) -> None:
    network = make()
    inputs = spikes(8, STEPS, 5)
    recipe = Recipe(3, method="search", scales=scales, rounding="adaptive", correct_biases=True)

    found = calibrated(network, inputs, recipe)

    chip = integers(network, found)
    prove_ranges(chip, LIMITS, steps=STEPS)
    simple = quantise(network, LIMITS, weight_bits=3, steps=STEPS).network
    assert mismatches(network, chip, inputs) <= mismatches(network, simple, inputs)
    for told in found.report["layers"].values():
        assert told["minimised"]["after"] <= told["minimised"]["before"]
    json.dumps(dict(found.report))


@pytest.fixture
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes searches short."""
    shorten(monkeypatch)


def shorten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(search, "COARSE", 4)
    patch.setattr(search, "FINE", 1)
    patch.setattr(search, "GAINS", (0.9, 1.1))


@settings(max_examples=8)
@given(st.data())
def test_what_was_chosen_is_proven_reproduced_and_no_worse_than_the_simple_methods(
    draw_network: Callable[..., Network], draw_inputs: Callable[..., Any], data: Any
) -> None:
    graph = draw_network(data)
    inputs = (
        draw_inputs(data, graph)
        if on_a_grid(graph)
        else spikes(4, graph.steps or 4, *graph.shapes["input"])
    )
    network = assemble(shift_resets(graph))
    bits = data.draw(st.sampled_from([2, 4, 8]), label="bits")
    method: Any = data.draw(st.sampled_from(["search", "search", "auto", "percentile"]))
    recipe = Recipe(
        bits,
        method=method,
        percentile=70,
        scales=data.draw(st.sampled_from(["layer", "channel"]), label="scales"),
        objective=data.draw(st.sampled_from(["spikes", "membrane"]), label="objective"),
        rounding=data.draw(st.sampled_from(["nearest", "adaptive"]), label="rounding"),
        correct_biases=data.draw(st.booleans(), label="biases"),
    )
    if not recipe.needs_samples:
        recipe = replace(recipe, correct_biases=True)

    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        found = calibrated(network, inputs, recipe)
        again = calibrated(network, inputs, recipe)

    assert json.dumps(dict(again.report)) == json.dumps(dict(found.report))
    chip = integers(network, found)
    prove_ranges(chip, LIMITS, steps=STEPS)
    for first, second in zip(chip.synapses, integers(network, again).synapses, strict=True):
        np.testing.assert_array_equal(first.weight, second.weight)
    if recipe.rounding == "nearest":
        check_rounding(network, found, bits)
    runs = found.report["network"]
    assert mismatches(network, chip, inputs) == runs[found.report["taken"]]["mismatches"]
    if recipe.objective == "spikes":
        for method in BASELINES:
            simple = quantise(
                network,
                LIMITS,
                recipe=Recipe(bits, method=method, scales=recipe.scales),
                steps=STEPS,
                first_layer=found.first_layer,
            ).network
            assert mismatches(network, chip, inputs) <= mismatches(network, simple, inputs)


def check_rounding(network: PopulationNetwork, found: Calibrated, bits: int) -> None:
    """Hold the weights on the chip against those rounded at the scale that is told."""
    quantised = quantise(
        network,
        LIMITS,
        recipe=found.recipe,
        steps=STEPS,
        first_layer=found.first_layer,
        choices=found.choices,
    )
    unit, highest = LIMITS.weight_unit(bits), LIMITS.largest_weight(bits)
    for real, group in zip(network.synapses, quantised.network.synapses, strict=True):
        if group.on_host or group.target not in quantised.rounded_at:
            continue
        sources = {item.name: item for item in quantised.network.populations}
        weight = real.operator.weight
        rows = by_row(
            quantised.rounded_at[group.target] / payload_scale(real, sources), len(weight)
        )
        wanted = weight * rows.reshape(-1, *[1] * (weight.ndim - 1))
        rounded = np.clip(np.rint(wanted / unit) * unit, -highest - unit, highest)
        np.testing.assert_array_equal(group.weight, rounded)


def on_a_grid(graph: Network) -> bool:
    node = graph.nodes["input"]
    return isinstance(node, Input) and node.range is not None


def test_a_first_layer_on_the_host_keeps_its_weights_and_may_move_its_threshold() -> None:
    generator = np.random.default_rng(5)
    network = PopulationNetwork(
        (
            InputPopulation("input", (6,), InputRange(-2, 2, 0.0)),
            neurons("lif", 5),
            ReadoutPopulation("out", (3,), np.zeros(3)),
        ),
        (
            group("input", "lif", generator.normal(size=(5, 6))),
            group("lif", "out", generator.normal(size=(3, 5))),
        ),
        {"output": "out"},
        STEPS,
    )
    inputs = generator.uniform(-2, 2, (8, STEPS, 6))
    recipe = Recipe(4, method="search", rounding="adaptive")

    found = calibrate(
        network, LIMITS, recipe, steps=STEPS, first_layer="host", samples={"input": inputs}
    )

    chip = integers(network, found)
    assert found.first_layer == "host"
    assert chip.synapses[0].on_host
    assert not found.choices["lif"].weights
    prove_ranges(chip, LIMITS, steps=STEPS)


def test_a_first_layer_is_the_hosts_where_clipped_weights_would_leave_the_chips_range() -> None:
    """
    At 2 bits, with 1.0 as the largest weight, 20 weights of 0.2 are lost on the chip, whose proof holds;
    clipped, 21 weights of 128 times a payload of 255 are far beyond 131071.
    """
    network = PopulationNetwork(
        (InputPopulation("input", (21,), InputRange(0, 1, 1 / 255)), neurons("lif", 1)),
        (group("input", "lif", [[1.0, *[0.2] * 20]]),),
        {"output": "lif"},
        STEPS,
    )
    inputs = np.random.default_rng(0).integers(0, 256, (8, STEPS, 21)) / 255

    simple = quantise(network, LIMITS, steps=STEPS, recipe=Recipe(2, method="max"))
    found = calibrated(network, inputs, Recipe(2, method="search"))

    assert simple.first_layer == "graded"
    assert found.first_layer == "host"
    assert "would shrink its weights" in found.reason


def test_what_asks_for_nothing_is_left_as_it_is() -> None:
    network = layer([[1.0]])
    recipe = Recipe(4, method="mse")

    found = calibrate(network, LIMITS, recipe, steps=STEPS)

    assert found == Calibrated(recipe, "auto")


def test_everything_that_needs_samples_says_so_at_once() -> None:
    recipe = Recipe(4, method="search", rounding="adaptive", correct_biases=True)

    with pytest.raises(OptionError) as refused:
        calibrate(layer([[1.0]]), LIMITS, recipe, steps=STEPS)

    for option in ("--method search", "--rounding adaptive", "--correct-biases"):
        assert f"{option} needs samples" in str(refused.value)


def test_integers_of_the_source_stay_what_they_are() -> None:
    """Where training chose the weights' unit, samples have nothing to choose."""
    network = layer([[64.0, -128.0]], threshold=40.0)
    given = PopulationNetwork(
        network.populations, network.synapses, network.outputs, STEPS, {"lif": 1.0}
    )

    found = calibrated(given, spikes(4, STEPS, 2), Recipe(3, method="search"))

    assert integers(given, found).synapses[0].weight.tolist() == [[64, -128]]
    assert found.report["layers"]["lif"]["weights"] == "given by the source"


def two_layers() -> PopulationNetwork:
    """Return a layer of 40 weights and one of 8."""
    generator = np.random.default_rng(6)
    return PopulationNetwork(
        (InputPopulation("input", (10,), SPIKES), neurons("one", 4), neurons("two", 2)),
        (
            group("input", "one", generator.normal(size=(4, 10))),
            group("one", "two", generator.normal(size=(2, 4))),
        ),
        {"output": "two"},
        STEPS,
    )


def test_weights_fit_the_memory_that_is_given() -> None:
    """48 weights of 8 bits are 48 bytes, of 2 bits 12; with 24 some layer has more than 2."""
    network = two_layers()

    found = calibrate(network, LIMITS, Recipe(8, memory=24), steps=STEPS)

    bits = found.recipe.bits
    assert 40 * bits["one"] + 8 * bits["two"] <= 24 * 8
    assert max(bits.values()) > 2
    assert found.report["memory"]["bytes"] <= 24
    assert found.report["memory"]["optimal"]
    assert "of 24 bytes" in remarks_on(found.report)[0]
    assert calibrate(network, LIMITS, Recipe(8, memory=48), steps=STEPS).recipe.bits == {
        "one": 8,
        "two": 8,
    }


def test_weights_on_the_host_take_no_memory_of_the_chip() -> None:
    """Of 40 and 8 weights the host has the 40: 8 bytes hold the others with all their bits."""
    network = two_layers()
    graded = InputPopulation("input", (10,), InputRange(-2, 2, 0.0))
    network = PopulationNetwork(
        (graded, *network.populations[1:]), network.synapses, network.outputs, STEPS
    )

    found = calibrate(network, LIMITS, Recipe(8, memory=8), steps=STEPS, first_layer="host")

    assert found.recipe.bits == {"two": 8}
    assert (found.first_layer, found.report["memory"]["bytes"]) == ("host", 8)


def test_bits_that_were_asked_for_stay() -> None:
    found = calibrate(two_layers(), LIMITS, Recipe(8, memory=28, bits={"two": 8}), steps=STEPS)

    assert found.recipe.bits == {"one": 4, "two": 8}


def test_too_little_memory_names_the_least_that_passes() -> None:
    with pytest.raises(OptionError, match="allow at least --memory 12"):
        calibrate(two_layers(), LIMITS, Recipe(8, memory=11), steps=STEPS)


def test_samples_say_where_bits_are_needed() -> None:
    """Only one input ever comes, by a weight that is exact at 2 bits: 'one' needs no more."""
    network = two_layers()
    inputs = np.zeros((8, STEPS, 10))

    found = calibrate(network, LIMITS, Recipe(8, memory=40), steps=STEPS, samples={"input": inputs})

    assert found.report["memory"]["by"] == "what each layer does on the samples"
    assert found.recipe.bits["one"] == 2  # nothing comes, and nothing differs, whatever the bits


def test_samples_of_one_step_are_shown_at_all_steps_and_long_ones_cut() -> None:
    one = present({"input": np.ones((2, 1, 3))}, 4)
    long = present({"input": np.arange(12).reshape(1, 6, 2)}, 4)

    assert one is not None
    assert one["input"].shape == (2, 4, 3)
    assert long is not None
    assert long["input"][0, -1].tolist() == [6, 7]
    assert present(None, 4) is None
