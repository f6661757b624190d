"""
What may exist after which pass: one table, checked on the way.

A stage of compilation is a float network, a network of populations, or one of integers. Whatever a pass
was to remove and is still there, is a bug of that pass, and ends the compilation as one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from neurocompile.integer import IntegerInput, IntegerNetwork, IntegerNeurons, IntegerRelay
from neurocompile.ir import (
    LIF,
    Conv2d,
    Dense,
    Input,
    Integrator,
    Linear,
    MaxPool2d,
    Network,
    Output,
    Threshold,
)
from neurocompile.legal import problems_of
from neurocompile.populations import (
    InputPopulation,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SumPopulation,
)

Stage = Network | PopulationNetwork | IntegerNetwork

LEGAL: Mapping[str, object] = {
    "import": Input | Output | Linear | MaxPool2d | LIF | Threshold | Integrator,
    "lower_max_pooling": Input | Output | Linear | LIF | Threshold | Integrator,
    "lower_thresholds": Input | Output | Linear | LIF | Integrator,
    "shift_resets": Input | Output | Linear | LIF | Integrator,
    "assemble": InputPopulation | SpikingPopulation | ReadoutPopulation,
    "share_sums": InputPopulation | SpikingPopulation | ReadoutPopulation | SumPopulation,
    "quantise": IntegerInput | IntegerNeurons | IntegerRelay,
}

LOSSY = ("quantise",)  # all others keep every spike


def check_stage(after: str, stage: Stage) -> None:
    """Raise `AssertionError` if `stage` holds what must not exist after the pass `after`."""
    things = (
        list(stage.nodes.items())
        if isinstance(stage, Network)
        else [(item.name, item) for item in stage.populations]
    )
    wrong = [
        f"after '{after}', layer '{name}' must not be a {type(thing).__name__}"
        for name, thing in things
        if not isinstance(thing, LEGAL[after])  # type: ignore[arg-type]
    ]
    if after == "shift_resets" and isinstance(stage, Network):
        wrong += [
            f"after '{after}', layer '{name}' must reset to zero"
            for name, node in stage.nodes.items()
            if isinstance(node, LIF) and node.reset_to.any()
        ]
    if isinstance(stage, PopulationNetwork):
        wrong += _wrong_groups(after, stage)
    if isinstance(stage, IntegerNetwork):
        wrong += [f"after '{after}', {problem}" for problem in problems_of(stage)]
    if wrong:
        raise AssertionError("; ".join(wrong))


def _wrong_groups(after: str, network: PopulationNetwork) -> list[str]:
    names = [item.name for item in network.populations]
    groups = [group.name for group in network.synapses]
    wrong = [
        f"after '{after}', the name '{name}' must be used once"
        for listed in (names, groups)
        for name in sorted({name for name in listed if listed.count(name) > 1})
    ]
    for group in network.synapses:
        late = bool(group.delay.size) and group.delay.min() >= 1
        if names.index(group.source) >= names.index(group.target) and not late:
            wrong.append(f"after '{after}', synapses '{group.name}' lead back without a delay")
        if not isinstance(group.operator, Dense | Conv2d) or group.operator.bias.any():
            wrong.append(f"after '{after}', synapses '{group.name}' must be plain weights")
        for name, view in ((group.source, group.source_view), (group.target, group.target_view)):
            if math.prod(network[name].shape) != math.prod(view):
                wrong.append(f"after '{after}', synapses '{group.name}' see {view} in '{name}'")
    return wrong
