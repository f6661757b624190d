"""What rounding did, counted by hand and against the numbers themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurocompile_loihi2.limits import LIMITS
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.integer import IntegerNeurons
from neurocompile.ir import LIF, Dense, Network
from neurocompile.passes.assemble import assemble
from neurocompile.passes.quantise import Quantised, quantise
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.populations import PopulationNetwork
from neurocompile.quantisation.recipe import Recipe, Wish
from neurocompile.quantisation.tally import LayerTally, tally_of
from neurocompile.target import find

Chain = Callable[..., Network]
MakeLif = Callable[..., LIF]
MakeDense = Callable[..., Dense]


def tally(network: Network, *, steps: int = 4, **recipe: Any) -> dict[str, LayerTally]:
    populations = assemble(network)
    return told(populations, quantise(populations, LIMITS, steps=steps, recipe=Recipe(**recipe)))


def told(populations: PopulationNetwork, quantised: Quantised) -> dict[str, LayerTally]:
    return tally_of(
        populations,
        quantised.network,
        LIMITS,
        weight_bits=quantised.weight_bits,
        lowered=quantised.lowered,
        cramped=quantised.cramped,
        rounded_at=quantised.rounded_at,
    )


def test_weights_by_hand(chain: Chain, lif: MakeLif, dense: MakeDense) -> None:
    """0.5 is 254 at 508; -127 became -128, 0.4 became 0, and 0 is none of the four."""
    weight = [[0.5, -0.25, 0.0, 0.4 / 508, 2 / 508]]

    layer = tally(chain((5,), {"fc": dense(weight), "lif": lif((1,))}))["lif"]

    (group,) = layer.weights
    assert (group.name, group.source, group.on_host) == ("fc", "input", False)
    assert (group.count, group.zeroed, group.clipped) == (4, 1, 0)
    assert group.largest_error == pytest.approx(1.0)
    assert group.rms_error == pytest.approx(np.sqrt((1 + 0.4**2) / 4))
    assert (group.least, group.most, group.bits, group.used_bits) == (-256, 254, 8, 8)
    assert group.memory_bits == layer.memory_bits == 5 * 8


def test_clipped_weights_are_counted(chain: Chain, lif: MakeLif, dense: MakeDense) -> None:
    """Half of 1, 1, 1 and 4 are at most 1, so 4 is cut to 254: by 762 units."""
    network = chain((4,), {"fc": dense([[1.0, 1.0, 1.0, 4.0]]), "lif": lif((1,))})

    (group,) = tally(network, method="percentile", percentile=50.0)["lif"].weights

    assert (group.clipped, group.zeroed) == (1, 0)
    assert group.largest_error == pytest.approx(4 * 254 - 254)


def test_weights_are_told_at_the_scale_at_which_they_were_rounded(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    """1.2 is cut by 50.8 units; at the threshold of 200, beside which they stand now, 240 would have fit."""
    populations = assemble(chain((2,), {"fc": dense([[1.0, 1.2]]), "lif": lif((1,))}))
    wish = Wish(
        8,
        np.array([200.0]),
        final=True,
        weights={"fc": np.array([[254, 254]])},
        rounded_at=np.array([254.0]),
    )

    quantised = quantise(populations, LIMITS, steps=4, choices={"lif": wish})

    (group,) = told(populations, quantised)["lif"].weights
    assert quantised.network.neurons[0].threshold == 200
    assert group.clipped == 1
    assert group.largest_error == pytest.approx(50.8)


@pytest.mark.parametrize(
    ("weight", "used"), [([[1.0, -1.0]], 4), ([[0.5, 1.0]], 3), ([[0.0, 0.0]], 0), ([[-1.0]], 4)]
)
def test_the_bits_that_weights_need(
    chain: Chain, lif: MakeLif, dense: MakeDense, weight: Any, used: int
) -> None:
    """The largest weight is 7 steps: 3 bits, and one more for a sign; 0.5 beside it is 4."""
    network = chain((len(weight[0]),), {"fc": dense(weight), "lif": lif((1,))})

    (group,) = tally(network, weight_bits=4)["lif"].weights

    assert group.used_bits == used


def test_numbers_of_neurons_by_hand(chain: Chain, lif: MakeLif, dense: MakeDense) -> None:
    """Thresholds of 1 and 0.7501 at 508; a bias of 1625.6 state units; leaks of 0.9 and 1/2."""
    neurons = lif((2,), decay=[0.9, 0.5], threshold=[1.0, 0.7501])
    network = chain((1,), {"fc": dense([[0.5], [0.5]], [0.05, 0.0]), "lif": neurons})

    numbers = tally(network)["lif"].numbers

    threshold = numbers["threshold"]
    assert (threshold.count, threshold.rounded, threshold.clipped) == (2, 1, 0)
    assert threshold.largest_error == pytest.approx(0.0508)
    assert threshold.relative == pytest.approx(0.0508 / 381)
    bias = numbers["bias"]
    assert (bias.count, bias.rounded) == (2, 1)
    assert bias.largest_error == pytest.approx(0.4)
    assert bias.relative == pytest.approx(0.4 / (381 * 64))
    leak = numbers["leak"]  # 0.1 is 409.6 of 4096
    assert (leak.count, leak.rounded) == (2, 1)
    assert leak.largest_error == pytest.approx(0.4)
    assert leak.relative == pytest.approx(abs(np.log(0.9) / np.log(1 - 410 / 4096) - 1))
    assert numbers["current_leak"].rounded == 0


def test_inputs_tell_their_grid(chain: Chain, lif: MakeLif, dense: MakeDense) -> None:
    nodes = {"fc": dense([[0.5]]), "lif": lif((1,))}
    on_grid = tally(chain((1,), nodes, input_range=InputRange(0, 1, 1 / 16)))["input"]
    off_grid = tally(chain((1,), nodes, input_range=InputRange(-2, 1)))["input"]

    assert (on_grid.step, on_grid.exact) == (1 / 16, True)
    assert (off_grid.step, off_grid.exact) == (2 / 255, False)
    assert on_grid.to_json() == {"step": 1 / 16, "exact": True}


@given(data=st.data())
def test_a_tally_is_what_the_numbers_say(
    data: Any, chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    """With any scales; what it counts is what numpy does of all at once."""
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    recipe = Recipe(
        weight_bits=data.draw(st.integers(2, 8), label="bits"),
        scales=data.draw(st.sampled_from(["layer", "channel"]), label="scales"),
        method=data.draw(st.sampled_from(["max", "percentile", "mse"]), label="method"),
        percentile=80.0,
    )
    weight = generator.normal(size=(6, 9)) * (generator.random((6, 9)) < 0.8)
    network = chain((9,), {"fc": dense(weight, generator.normal(size=6)), "lif": lif((6,))})
    populations = assemble(network)
    quantised = quantise(populations, LIMITS, steps=4, recipe=recipe)

    found = tally_of(
        populations,
        quantised.network,
        LIMITS,
        weight_bits=quantised.weight_bits,
        lowered={},
        cramped={},
        rounded_at={},
    )["lif"]

    neurons = quantised.network["lif"]
    assert isinstance(neurons, IntegerNeurons)
    scale = np.broadcast_to(neurons.scale, (6,))
    integers: NDArray[np.int64] = quantised.network.synapses[0].weight
    error = np.abs(weight * scale[:, np.newaxis] - integers)
    (group,) = found.weights
    assert group.largest_error == pytest.approx(error.max())
    assert group.rms_error == pytest.approx(np.sqrt(np.square(error[weight != 0]).mean()))
    assert group.zeroed == ((weight != 0) & (integers == 0)).sum()
    unit = LIMITS.weight_unit(recipe.weight_bits)
    assert group.clipped == (error > unit / 2 + 1e-9).sum()
    assert group.used_bits <= group.bits == recipe.weight_bits
    bias = np.abs(np.asarray(populations["lif"].bias) * scale * 64 - neurons.bias)  # type: ignore[union-attr]
    assert found.numbers["bias"].largest_error == pytest.approx(bias.max(), abs=1e-9)


def test_a_program_tells_what_rounding_did(chain: Chain, lif: MakeLif, dense: MakeDense) -> None:
    network = chain((2,), {"fc": dense([[0.5, -0.25]]), "lif": lif((1,))})

    program = compile_network(network, find("fixedpoint"), CompileOptions())

    layers = program.facts["quantisation"]["layers"]
    assert list(layers) == ["input", "lif"]
    assert layers["lif"]["weights"][0]["count"] == 2
    assert layers["lif"]["lowered_by_range_proof"] == 1.0
    assert layers["lif"]["memory_bits"] == 16
