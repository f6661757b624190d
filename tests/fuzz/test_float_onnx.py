"""
Random legal networks in real numbers: ONNX Runtime fires the spikes of the reference.

The networks' numbers are dyadic, and most of their sums exact in float32: ties, too, are decided alike. Where
24 bits do not hold a sum, a spike may differ whose membrane lies within rounding of a threshold, and nothing
else; what follows from it is not compared.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurocompile.ir import Network
from neurocompile.passes.assemble import assemble
from neurocompile.passes.lower_max_pooling import lower_max_pooling
from neurocompile.passes.lower_thresholds import lower_thresholds
from neurocompile.passes.share_sums import Sums, share_sums
from neurocompile.passes.shift_resets import shift_resets
from neurocompile.population_reference import simulate_populations
from neurocompile.populations import PopulationNetwork, SpikingPopulation
from neurocompile.validation import probe_inputs

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

FACTOR = int(os.environ.get("NEUROCOMPILE_FUZZ", "1"))
NETWORKS = 100 * FACTOR
SAMPLES = 3
ROUNDING = 1e-5  # what float32 may be off, of numbers up to about 1

Values = NDArray[Any]


def in_populations(network: Network, sums: Sums) -> PopulationNetwork:
    """Return the populations that `network` is compiled to, before they are quantised."""
    firing = lower_thresholds(lower_max_pooling(network))
    populations, _ = share_sums(assemble(shift_resets(firing)), sums=sums)
    return populations


def run(content: bytes, inputs: Mapping[str, Values]) -> dict[str, Values]:
    """Return what a model of whole samples makes of `inputs`, by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    real = {name: values.astype(np.float32) for name, values in inputs.items()}
    return dict(zip(names, session.run(names, real), strict=True))


def near_threshold(item: SpikingPopulation, membrane: Values) -> Values:
    """Return where a membrane lies within rounding of where one spike more is fired."""
    room = ROUNDING * np.maximum(1, np.abs(membrane))
    if item.most_spikes == 1:
        near: Values = np.abs(membrane - item.threshold) <= room
        return near
    fits = membrane / item.threshold
    return np.asarray(np.abs(fits - np.rint(fits)) * np.abs(item.threshold) <= room)


def compare(
    populations: PopulationNetwork, inputs: Mapping[str, Values], steps: int
) -> Counter[str]:
    """Compare ONNX Runtime with the reference; return how many samples there were, and ties in them."""
    from neurocompile_onnx.real import SEQUENCE, real_models

    found = run(real_models(populations, steps=steps)[SEQUENCE], inputs)

    expected = simulate_populations(populations, inputs)
    spiking = [item for item in populations.populations if isinstance(item, SpikingPopulation)]
    samples = len(next(iter(inputs.values())))
    seen = Counter({"samples": samples})
    for sample in range(samples):
        alike = steps  # steps before the first spike that differs
        for item in spiking:  # each after those that it hears in the same step
            differs = found[f"spikes/{item.name}"][sample] != expected.spikes[item.name][sample]
            if differs.any():
                here = int(differs.reshape(steps, -1).any(1).argmax())
                if here < alike:
                    alike = here
                    ours = expected.membrane[item.name][sample, here]
                    rounded = found[f"membrane/{item.name}"][sample, here] != ours
                    excused = (near_threshold(item, ours) & rounded)[differs[here]].all()
        if alike < steps:
            assert excused, "a spike differs without reason"
            seen["ties"] += 1
        pairs = {
            **{f"membrane/{name}": values for name, values in expected.membrane.items()},
            **expected.outputs,
        }
        for name, values in pairs.items():
            np.testing.assert_allclose(
                found[name][sample, :alike],
                values[sample, :alike],
                atol=ROUNDING,
                rtol=ROUNDING,
                err_msg=name,
            )
    return seen


def test_random_networks_fire_the_spikes_of_the_reference(
    draw_topology: Callable[[Any], Network],
) -> None:
    seen: Counter[str] = Counter()

    @settings(
        max_examples=NETWORKS,
        deadline=None,
        derandomize=FACTOR == 1,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def draw(data: Any) -> None:
        network = draw_topology(data)
        populations = in_populations(network, data.draw(st.sampled_from(["graded", "duplicate"])))
        steps = network.steps or 4
        probes = probe_inputs(network, None, steps=steps)
        inputs = {name: values[-SAMPLES:] for name, values in probes.items()}
        seen.update(compare(populations, inputs, steps))

    draw()

    assert seen["samples"] >= NETWORKS * SAMPLES
    assert seen["ties"] <= seen["samples"] / 50
