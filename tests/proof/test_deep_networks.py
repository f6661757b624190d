"""
The papers' deep networks on Lava: every layer, sums included, spike by spike.

Channels are a sixteenth of the published ones; `make proof` takes them all (NEUROCOMPILE_PROOF_WIDTH is the
share), which needs some minutes and about 10 GB.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from neurocompile.integer import IntegerRelay
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program
from neurocompile.target import find

SIZES = {"resnet19": 8, "sew-resnet18": 32, "vggsnn": 16}
SAMPLES = 3
WIDTH = float(os.environ.get("NEUROCOMPILE_PROOF_WIDTH", "0.0625"))


def assert_identical(program: Program, images: Any) -> dict[str, float]:
    """Run Lava and the definition; return the firing rate of each layer."""
    sums = [item.name for item in program.network.populations if isinstance(item, IntegerRelay)]
    record = ["all", *sums]
    with program:
        ours = program.run(images, record)
        definition = program.run(images, record, on="fixedpoint")
    np.testing.assert_array_equal(ours.output, definition.output)
    for layer, spikes in definition.spikes.items():
        np.testing.assert_array_equal(ours.spikes[layer], spikes, err_msg=layer)
    return {layer: float(spikes.mean()) for layer, spikes in definition.spikes.items()}


@pytest.mark.lava
@pytest.mark.parametrize("pictures", ["digit_images", "cifar_images"])
@pytest.mark.parametrize("name", SIZES)
def test_lava_fires_every_spike_of_the_definition(
    name: str, pictures: str, train_briefly: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    images = request.getfixturevalue(pictures)(40, SIZES[name])
    trained = train_briefly(name, images, width=WIDTH)
    calibration = {"input": trained.images[:4]}

    program = compile_network(
        trained.network,
        find("loihi2"),
        CompileOptions(validate=True, calibration=calibration),
    )
    rates = assert_identical(program, trained.images[:SAMPLES])

    reports = program.facts["validation"]["passes"]
    assert [report["mismatches"] for report in reports if report["exact"]] == [0] * 5
    # Something is proven only where something fires.
    assert np.median(list(rates.values())) > 0.02
    assert sum(rate == 0 for rate in rates.values()) <= len(rates) // 4, rates


def test_a_sew_network_sends_its_sums_as_graded_spikes(
    train_briefly: Callable[..., Any], digit_images: Callable[..., Any]
) -> None:
    trained = train_briefly("sew-resnet18", digit_images(20, 32), width=1 / 16, rounds=2)

    graded, duplicated = (
        compile_network(trained.network, find("fixedpoint"), CompileOptions(sums=sums))
        for sums in ("graded", "duplicate")
    )

    sums = [item for item in graded.network.populations if isinstance(item, IntegerRelay)]
    assert {item.largest for item in sums} == {2, 3}
    assert not [item for item in duplicated.network.populations if isinstance(item, IntegerRelay)]
    one, two = (item.run(trained.images[:4], "all") for item in (graded, duplicated))
    for layer, spikes in two.spikes.items():
        np.testing.assert_array_equal(one.spikes[layer], spikes, err_msg=layer)
    np.testing.assert_array_equal(one.output, two.output)
