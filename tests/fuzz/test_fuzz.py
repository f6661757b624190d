"""
Random legal networks: every pass keeps the spikes, every target fires those of the definition.

`make fuzz` draws ten times as many, from a new seed that it prints; NEUROCOMPILE_FUZZ is the factor.
Failures are shrunk by Hypothesis, and end as cases of `test_regressions.py`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, seed, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurocompile import pipeline
from neurocompile.errors import EquivalenceError, OptionError, RangeError
from neurocompile.integer import IntegerNetwork, IntegerRelay
from neurocompile.ir import LIF, Conv2d, Delay, Input, Network, Node, Threshold
from neurocompile.manifest import VERSION
from neurocompile.passes.assemble import assemble
from neurocompile.passes.schedule import schedule
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.populations import PopulationNetwork, SpikingPopulation
from neurocompile.program import Program, load
from neurocompile.quantisation.recipe import Recipe
from neurocompile.stages import Stage
from neurocompile.target import find, installed
from neurocompile.validation import probe_inputs, run_stage

FACTOR = int(os.environ.get("NEUROCOMPILE_FUZZ", "1"))
THROUGH_FIXEDPOINT = 500 * FACTOR
THROUGH_LAVA = 60 * FACTOR
WITH_A_FAULT = 40
BATCHES = 8  # of so many networks, until a fault in a rare feature is caught
SAMPLES = 3

Draw = Callable[[Any], Network]
DrawRecipe = Callable[[Any, int], Recipe]


def examples(count: int) -> settings:
    """Return settings for `count` random networks: the same ones in each CI run, new ones in `make fuzz`."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=FACTOR == 1,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def options_of(data: Any, name: str, network: Network, draw_recipe: DrawRecipe) -> CompileOptions:
    def choose(label: str, *options: Any) -> Any:
        return data.draw(st.sampled_from(options), label=label)

    ranges = [node.range for node in network.nodes.values() if isinstance(node, Input)]
    analogue = any(values and values.minimum < 0 for values in ranges)
    recipe = draw_recipe(data, choose("bits", 8, 8, 4, 2))
    samples = None
    if recipe.needs_samples or choose("samples", False, False, True):
        samples = probe_inputs(network, None, steps=network.steps or 4)
    return CompileOptions(
        recipe=recipe,
        calibration=samples,
        first_layer=choose("first layer", "auto", "graded", "host") if analogue else "auto",
        sums=choose("sums", "auto", "graded", "duplicate"),
        validate=True,
        target_options={
            option: choose(option, *choice.choices)
            for option, choice in find(name).options.items()
            if option != "netx"  # takes chains of plain neurons only
        },
    )


def streamed(network: Network) -> dict[str, NDArray[np.float64]]:
    """Return several samples on the grid of each input."""
    steps = network.steps or 4
    return {
        name: values[-SAMPLES:] for name, values in probe_inputs(network, None, steps=steps).items()
    }


def compiled(network: Network, name: str, options: CompileOptions) -> Program:
    """Return the program; an example for which no integers are small enough, or fit, does not count."""
    try:
        return compile_network(network, find(name), options)
    except RangeError:
        reject()
    except OptionError as error:
        if options.recipe.memory is None or "weights must fit" not in str(error):
            raise
        reject()


def features_of(network: Network, program: Program) -> set[str]:
    """Return what is in a network, for the list of what must have been tried."""
    nodes = network.nodes.values()
    found = {type(node).__name__ for node in nodes}
    lifs = [node for node in nodes if isinstance(node, LIF)]
    convolutions = [node for node in nodes if isinstance(node, Conv2d)]
    depths = [
        program.schedule.wait(group).max(initial=0) - program.schedule.stride * group.delay.max()
        for group in program.network.synapses
        if not group.on_host
    ]
    return found | {
        name
        for name, there in {
            "several inputs": len(program.network.inputs) > 1,
            "several outputs": len(program.network.outputs) > 1,
            "fan-in": any(len(network.sources(name)) > 1 for name in network.of_type(LIF)),
            "fan-out": any(len(network.targets(name)) > 1 for name in network.of_type(LIF)),
            "graded input": any(item.minimum < 0 for item in program.network.inputs),
            "host": any(group.on_host for group in program.network.synapses),
            "feedback": bool(network.feedback),
            "cycle through layers": program.schedule.stride > 1,
            "late feedback": program.schedule.gap > 1 and bool(network.feedback),
            "skipped layers": any(depth > 0 for depth in depths),
            "delay by element": any(isinstance(n, Delay) and n.steps.ndim for n in nodes),
            "delay by synapse": any(
                group.delay.ndim and group.delay.shape == group.weight.shape
                for group in program.network.synapses
            ),
            "sums": any(isinstance(item, IntegerRelay) for item in program.network.populations),
            "groups": any(1 < node.groups < node.weight.shape[0] for node in convolutions),
            "depthwise": any(1 < node.groups == len(node.weight) for node in convolutions),
            "dilation": any(max(node.dilation) > 1 for node in convolutions),
            "stride": any(max(node.stride) > 1 for node in convolutions),
            "one-dimensional": any(
                len(network.shapes[network.sources(name)[0]]) == 2
                for name in network.of_type(Conv2d)
            ),
            "CUBA": any(node.current_decay is not None for node in lifs),
            "subtract": any(node.reset == "subtract" for node in lifs),
            "reset voltage": any(node.reset_to.any() for node in lifs),
            "leak voltage": any(node.leak.any() for node in lifs),
            "mixed leaks": any(np.ptp(node.decay) > 0 for node in lifs),
            "mixed thresholds": any(np.ptp(node.threshold) > 0 for node in lifs),
            "fires at its threshold": any(node.comparison == ">=" for node in lifs),
            "several spikes": any(neurons.most > 1 for neurons in program.network.neurons),
            "any number of spikes": any(node.most_spikes is None for node in lifs),
            "subtracts more": any(node.subtracts is not None for node in lifs),
            "floor": any(node.floor is not None for node in lifs),
            "refractory": any(node.refractory for node in lifs),
            "silence": any(bound.silence for bound in program.bounds),
        }.items()
        if there
    }


MUST_OCCUR = {
    *("Dense", "Conv2d", "Pool2d", "MaxPool2d", "Scale", "Flatten", "Reshape", "Delay"),
    *("LIF", "Threshold", "Integrator", "several inputs", "several outputs", "fan-in", "fan-out"),
    *("graded input", "host", "feedback", "cycle through layers", "late feedback"),
    *("skipped layers", "delay by element", "delay by synapse", "sums", "groups", "depthwise"),
    *("dilation", "stride", "one-dimensional", "CUBA", "subtract", "reset voltage"),
    *("leak voltage", "mixed leaks", "mixed thresholds", "silence", "fires at its threshold"),
    *("several spikes", "any number of spikes", "subtracts more", "floor", "refractory"),
}


def test_every_pass_keeps_the_spikes_of_random_networks(
    draw_topology: Draw, draw_recipe: DrawRecipe
) -> None:
    tried: Counter[str] = Counter()

    @examples(THROUGH_FIXEDPOINT)
    @given(data=st.data())
    def compare(data: Any) -> None:
        network = draw_topology(data)
        program = compiled(
            network, "fixedpoint", options_of(data, "fixedpoint", network, draw_recipe)
        )
        reports = [PassReportView(report) for report in program.facts["validation"]["passes"]]
        assert [report.name for report in reports] == list(pipeline.PASSES[1:])
        assert all(report.mismatches == report.ties == 0 for report in reports if report.exact)
        assert reports[0].slots > 0
        assert schedule(program.network) == program.schedule
        waits = [program.schedule.wait(group) for group in program.network.synapses]
        assert all((wait >= 0).all() for wait in waits)
        tried.update({"networks", *features_of(network, program)})

    compare()

    assert tried["networks"] >= THROUGH_FIXEDPOINT
    assert {name for name in MUST_OCCUR if tried[name] < 2} == set()


class PassReportView:
    """The report of one pass, as the program stores it."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.name: str = report["pass"]
        self.exact: bool = report["exact"]
        self.slots: int = report["slots"]
        self.mismatches: int = report["mismatches"]
        self.ties: int = report["ties"]


@examples(40)
@given(data=st.data())
def test_random_programs_reload_identically(
    data: Any,
    draw_topology: Draw,
    draw_recipe: DrawRecipe,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    network = draw_topology(data)
    program = compiled(network, "loihi2", options_of(data, "loihi2", network, draw_recipe))
    directory = tmp_path_factory.mktemp("program") / "p"
    program.save(directory)

    loaded = load(directory)
    loaded.save(directory.with_name("again"))

    for file in directory.iterdir():
        assert file.read_bytes() == (directory.with_name("again") / file.name).read_bytes()
    assert (loaded.schedule, loaded.bounds) == (program.schedule, program.bounds)
    assert json.loads((directory / "program.json").read_text())["version"] == VERSION
    inputs = streamed(network)
    one, two = (item.run(inputs, "all", on="fixedpoint") for item in (program, loaded))
    for name, values in one.outputs.items():
        np.testing.assert_array_equal(values, two.outputs[name])
    for name, spikes in one.spikes.items():
        np.testing.assert_array_equal(spikes, two.spikes[name])


without_onnx = pytest.mark.skipif(
    not (find_spec("onnx") and find_spec("onnxruntime")), reason="onnx is not installed"
)
MARKS = {"loihi2": pytest.mark.lava, "onnx": without_onnx}
OTHERS = [
    pytest.param(name, marks=MARKS.get(name, ())) for name in installed() if name != "fixedpoint"
]


@pytest.mark.parametrize("name", OTHERS)
@examples(THROUGH_LAVA)
@given(data=st.data())
def test_targets_fire_the_spikes_of_the_definition(
    data: Any, name: str, draw_topology: Draw, draw_recipe: DrawRecipe
) -> None:
    """
    Every layer, sums included, at every step of several samples, by every engine.

    They stream through one runtime one after the other, or run side by side in replicas.
    """
    from neurocompile_loihi2 import batching

    most = data.draw(st.sampled_from([1, 1, batching.REPLICAS_MAXIMUM]), label="replicas")
    network = draw_topology(data)
    program = compiled(
        network, name, replace(options_of(data, name, network, draw_recipe), validate=False)
    )
    inputs = streamed(network)
    layers = [
        item.name for item in program.network.populations if item not in program.network.inputs
    ]
    shown = [neurons.name for neurons in program.network.neurons if neurons.readout]
    record = [layer for layer in layers if layer not in shown]
    record += [f"membrane/{neurons.name}" for neurons in program.network.neurons]

    with program, mock.patch.object(batching, "REPLICAS_MAXIMUM", most):
        engines = [f"{name}:{engine}" for engine in find(name).engines] or [name]
        by_engine = [program.run(inputs, record, on=engine) for engine in engines]
        definition = program.run(inputs, record, on="fixedpoint")

    for ours in by_engine:
        for output, values in definition.outputs.items():
            np.testing.assert_array_equal(ours.outputs[output], values, err_msg=output)
        for layer, spikes in definition.spikes.items():
            np.testing.assert_array_equal(ours.spikes[layer], spikes, err_msg=layer)
        for layer, membrane in definition.membrane.items():
            np.testing.assert_array_equal(ours.membrane[layer], membrane, err_msg=layer)


# The harness itself: a fault planted in any exact pass must be seen.


def drop_bias(network: PopulationNetwork) -> PopulationNetwork:
    return with_neurons(network, lambda item: replace(item, bias=0 * item.bias))


def raise_threshold(network: PopulationNetwork) -> PopulationNetwork:
    return with_neurons(network, lambda item: replace(item, threshold=item.threshold + 1 / 8))


def forget_start(network: PopulationNetwork) -> PopulationNetwork:
    return with_neurons(network, lambda item: replace(item, start=0 * item.start))


def leak_more(network: PopulationNetwork) -> PopulationNetwork:
    return with_neurons(network, lambda item: replace(item, decay=item.decay / 2))


def reset_to_zero(network: PopulationNetwork) -> PopulationNetwork:
    return with_neurons(network, lambda item: replace(item, reset="zero"))


def compare_otherwise(network: PopulationNetwork) -> PopulationNetwork:
    return with_neurons(
        network, lambda item: replace(item, comparison=">" if item.comparison == ">=" else ">=")
    )


def fire_once(network: PopulationNetwork) -> PopulationNetwork:
    return with_neurons(network, lambda item: replace(item, most_spikes=1))


def subtract_thresholds(network: PopulationNetwork) -> PopulationNetwork:
    return with_neurons(network, lambda item: replace(item, subtracts=None))


def fall_below(network: PopulationNetwork) -> PopulationNetwork:
    return with_neurons(network, lambda item: replace(item, floor=None))


def never_rest(network: PopulationNetwork) -> PopulationNetwork:
    return with_neurons(network, lambda item: replace(item, refractory=0))


def with_neurons(
    network: PopulationNetwork, change: Callable[[SpikingPopulation], SpikingPopulation]
) -> PopulationNetwork:
    return replace(
        network,
        populations=tuple(
            change(item) if isinstance(item, SpikingPopulation) else item
            for item in network.populations
        ),
    )


def lose_delays(network: PopulationNetwork) -> PopulationNetwork:
    """Feedback keeps one step, or the stage would be illegal."""
    return replace(
        network,
        synapses=tuple(
            replace(group, delay=np.minimum(group.delay, 1)) for group in network.synapses
        ),
    )


def transpose_weights(network: PopulationNetwork) -> PopulationNetwork:
    def flipped(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.ascontiguousarray(weight[..., ::-1])

    return replace(
        network,
        synapses=tuple(
            replace(group, operator=replace(group.operator, weight=flipped(group.operator.weight)))
            for group in network.synapses
        ),
    )


FAULTS = (
    drop_bias,
    raise_threshold,
    forget_start,
    leak_more,
    reset_to_zero,
    fire_once,
    subtract_thresholds,
    fall_below,
    never_rest,
    lose_delays,
    transpose_weights,
)


def raise_thresholds(network: Network) -> Network:
    return with_nodes(
        network, Threshold | LIF, lambda node: replace(node, threshold=node.threshold + 1 / 8)
    )


def forget_starts(network: Network) -> Network:
    return with_nodes(network, LIF, lambda node: replace(node, start=None))


def leak_less(network: Network) -> Network:
    return with_nodes(network, LIF, lambda node: replace(node, decay=(1 + node.decay) / 2))


def with_nodes(network: Network, kind: Any, change: Callable[[Any], Node]) -> Network:
    return network.replaced(
        {
            name: change(node) if isinstance(node, kind) else node
            for name, node in network.nodes.items()
        }
    )


def skip(network: Network) -> Network:
    """A pass that forgets its work."""
    return network


def outcomes(draw_topology: Draw, error: type[BaseException], text: str) -> Counter[str]:
    """Compile random networks; count those in which `error` named the guilty pass, by `text`."""
    counted: Counter[str] = Counter()

    @examples(WITH_A_FAULT)
    @given(data=st.data())
    def compile_some(data: Any) -> None:
        network = draw_topology(data)
        try:
            compiled(network, "fixedpoint", CompileOptions(validate=True))
        except error as raised:
            counted["caught" if text in str(raised) else "blamed another"] += 1
        else:
            counted["passed"] += 1  # the fault may change nothing in this network

    for batch in range(BATCHES):
        if not counted["caught"]:
            seed(batch)(compile_some)()
    return counted


PLANTED = [
    *((fault, pass_name) for fault in FAULTS for pass_name in ("assemble", "share_sums")),
    (raise_thresholds, "lower_max_pooling"),
    (raise_thresholds, "lower_thresholds"),
    (leak_less, "lower_thresholds"),
    (forget_starts, "shift_resets"),
    (raise_thresholds, "shift_resets"),
]


@pytest.mark.parametrize(
    ("fault", "pass_name"), PLANTED, ids=[f"{fault.__name__}-{name}" for fault, name in PLANTED]
)
def test_a_fault_planted_in_a_pass_is_caught(
    fault: Callable[[Any], Any],
    pass_name: str,
    draw_topology: Draw,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original: Callable[..., Any] = getattr(pipeline, pass_name)

    def faulty(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        return (fault(result[0]), *result[1:]) if isinstance(result, tuple) else fault(result)

    monkeypatch.setattr(pipeline, pass_name, faulty)

    counted = outcomes(draw_topology, EquivalenceError, f"after pass '{pass_name}'")

    assert counted["caught"] > 0, counted
    assert not counted["blamed another"], counted


@pytest.mark.parametrize("pass_name", ["lower_max_pooling", "lower_thresholds", "shift_resets"])
def test_a_pass_that_does_nothing_is_caught_by_the_table_of_stages(
    pass_name: str, draw_topology: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, pass_name, skip)

    counted = outcomes(draw_topology, AssertionError, f"after '{pass_name}', layer")

    assert counted["caught"] > 0, counted
    assert not counted["blamed another"], counted


def test_another_comparison_is_seen_as_ties(
    draw_topology: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding may decide at a threshold, so this alone is no error; these networks do not round."""
    monkeypatch.setattr(pipeline, "assemble", lambda network: compare_otherwise(assemble(network)))
    ties: Counter[str] = Counter()

    @examples(WITH_A_FAULT)
    @given(data=st.data())
    def compare(data: Any) -> None:
        program = compiled(draw_topology(data), "fixedpoint", CompileOptions(validate=True))
        reports = map(PassReportView, program.facts["validation"]["passes"])
        ties.update({report.name: report.ties for report in reports})

    compare()

    assert ties["assemble"] > 0
    assert ties["lower_max_pooling"] == ties["shift_resets"] == 0


def test_a_fault_in_the_integers_is_measured(draw_topology: Draw) -> None:
    """A lossy pass has no spike to keep, but its budget shows what it did."""
    shares: list[tuple[float, float]] = []

    @examples(20)
    @given(data=st.data())
    def compare(data: Any) -> None:
        network = draw_topology(data)
        stages: dict[str, Stage] = {}
        try:
            program = compile_network(
                network,
                find("fixedpoint"),
                CompileOptions(validate=True),
                observe=lambda name, stage: stages.update({name: stage}),
            )
        except RangeError:
            return
        integers = stages["quantise"]
        assert isinstance(integers, IntegerNetwork)
        worse = replace(
            integers,
            synapses=tuple(replace(group, weight=-group.weight) for group in integers.synapses),
        )
        inputs = probe_inputs(network, None, steps=network.steps or 4)
        before, after = run_stage(stages["share_sums"], inputs), run_stage(worse, inputs)
        wrong = [
            float((before.spikes[layer] != after.spikes[layer]).mean()) for layer in before.spikes
        ]
        measured = PassReportView(program.facts["validation"]["passes"][-1])
        shares.append((measured.mismatches / max(1, measured.slots), float(np.mean(wrong or [0]))))

    compare()
    own, planted = np.mean(shares, axis=0)
    assert own < 0.05 < planted
