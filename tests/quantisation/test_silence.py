"""Which layers rounding would silence: named before they run; what cannot fire anyway is only told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import execute
from neurocompile_loihi2.limits import LIMITS
from numpy.typing import NDArray

import neurocompile
from neurocompile.errors import Problem, RangeError
from neurocompile.frontend.network_to_nir import network_to_nir
from neurocompile.integer import to_payload
from neurocompile.ir import LIF, Conv2d, Dense, Network
from neurocompile.passes.assemble import assemble
from neurocompile.passes.quantise import quantise
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program
from neurocompile.quantisation.recipe import Recipe
from neurocompile.quantisation.silence import Fired, Firing, firing_of
from neurocompile.target import find

Chain = Callable[..., Network]
MakeLif = Callable[..., LIF]
MakeDense = Callable[..., Dense]


def firing(network: Network, *, steps: int = 4, **recipe: Any) -> Firing:
    """Return what the only layer of `network` can do."""
    populations = assemble(network)
    integers = quantise(populations, LIMITS, steps=steps, recipe=Recipe(**recipe)).network
    (found,) = firing_of(populations, integers, LIMITS, steps=steps)
    return found


def compiled(network: Network, **options: Any) -> Program:
    recipe = Recipe(weight_bits=options.pop("weight_bits", 8), method="max")
    return compile_network(network, find("fixedpoint"), CompileOptions(recipe=recipe, **options))


def test_a_layer_that_rounding_silences_is_refused_by_name(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    """Beside -1, 2 bits make 0 of each 0.2; six of them fire in real numbers: 1.2."""
    network = chain((7,), {"fc": dense([[-1.0, *[0.2] * 6]]), "lif": lif((1,))}, steps=2)

    with pytest.raises(RangeError) as raised:
        compiled(network, weight_bits=2)

    assert (
        "layer 'lif' needs weights that can make it fire, but whatever arrives, no membrane gets further "
        "than 0 of its threshold in integers, where real numbers reach 1.2 of it: rounding would silence it"
    ) in str(raised.value)
    assert "--bits" in str(raised.value)
    assert firing(network, steps=2).problem is None  # with 8 bits


def test_a_layer_that_never_fires_in_real_numbers_either_is_no_error(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    network = chain((2,), {"fc": dense([[-1.0, 0.2], [0.9, 0.4]]), "lif": lif((2,))})

    program = compiled(network, weight_bits=2)

    can = program.facts["quantisation"]["layers"]["lif"]["firing"]
    assert (can["neurons"], can["never"], can["never_real"]) == (2, 1, 1)
    assert can["nearest_real"] == pytest.approx(1.3)
    assert "1 of 2 neurons of 'lif' can never fire, whatever arrives" in program.facts["notes"]


def test_what_lies_on_its_threshold_is_silent_in_real_numbers_too(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    """It fires above 1, and reaches 1 in one step; neurons that fire at 1 do, in integers as well."""
    above = chain((1,), {"fc": dense([[1.0]]), "lif": lif((1,))}, steps=1)
    at = chain((1,), {"fc": dense([[1.0]]), "lif": lif((1,), comparison=">=")}, steps=1)

    silent, fires = firing(above, steps=1), firing(at, steps=1)

    assert (silent.never, silent.never_real, silent.problem) == (1, 1, None)
    assert (fires.never, fires.never_real) == (0, 0)


def test_a_layer_that_hardly_fires_in_real_numbers_is_told_and_not_refused() -> None:
    barely = Firing("lif", 4, 4, 1, 0, 0, nearest=0.99, nearest_real=1.04)

    assert barely.problem is None
    assert list(barely.notes) == [
        "all 4 neurons of 'lif' can never fire, whatever arrives; 3 of them only by rounding"
    ]
    assert Firing("lif", 4, 4, 1, 0, 0, nearest=0.99, nearest_real=1.06).problem is not None
    assert Firing("lif", 4, 3, 1, 0, 0, nearest=1.99, nearest_real=2.0).problem is None


def test_some_neurons_that_rounding_silences_are_told(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    silenced = [-1.0, *[0.2] * 6]
    network = chain((7,), {"fc": dense([silenced, np.ones(7), -np.ones(7)]), "lif": lif((3,))})

    notes = compiled(network, weight_bits=2).facts["notes"]

    assert (
        "2 of 3 neurons of 'lif' can never fire, whatever arrives; 1 of them only by rounding"
        in notes
    )


def test_neurons_that_always_fire_are_told(chain: Chain, lif: MakeLif, dense: MakeDense) -> None:
    """A bias of 2 beside a weight of -0.5 is above 1 whatever arrives; one of 1.2 is not."""
    network = chain((1,), {"fc": dense([[-0.5], [-0.5]], [2.0, 1.2]), "lif": lif((2,), decay=0.0)})

    found = firing(network)

    assert (found.always, found.always_real, found.never) == (1, 1, 0)
    assert list(found.notes) == ["1 of 2 neurons of 'lif' fire at every step, whatever arrives"]


def test_pixels_at_a_border_are_looked_at_one_by_one(chain: Chain, lif: MakeLif) -> None:
    """Nine taps of 0.2 reach 1.8 in the middle; four in a corner 0.8, or 0.4 + 0.8 after one step more."""
    conv = Conv2d(np.full((1, 1, 3, 3), 0.2), np.zeros(1), padding=(1, 1))
    network = chain((1, 3, 3), {"conv": conv, "lif": lif((1, 3, 3))}, steps=1)

    assert firing(network, steps=1).never == 4
    assert firing(network, steps=2).never == 0


@given(data=st.data())
def test_what_never_and_always_fires_does(
    data: Any,
    draw_network: Callable[..., Network],
    draw_inputs: Callable[..., NDArray[np.float64]],
) -> None:
    network = draw_network(data)
    inputs = draw_inputs(data, network)
    steps = inputs.shape[1]
    bits = data.draw(st.integers(2, 8), label="bits")
    populations = assemble(network)
    integers = quantise(populations, LIMITS, weight_bits=bits, steps=steps).network

    found = firing_of(populations, integers, LIMITS, steps=steps)

    names = [layer.layer for layer in found]
    payload = {"input": to_payload(integers.inputs[0], inputs)}
    trace = execute(integers, payload, samples=len(inputs), steps=steps, record=names)
    for layer in found:
        spikes = trace.spikes[layer.layer] > 0
        assert spikes.any((0, 1)).sum() <= layer.neurons - layer.never
        assert spikes.all((0, 1)).sum() >= layer.always
        assert layer.never_real <= layer.never
        assert layer.always_real <= layer.always


def test_a_layer_that_rounding_silences_on_samples_is_refused(
    chain: Chain, lif: MakeLif, dense: MakeDense
) -> None:
    """The first input still makes it fire; the others, of 0.6, are 0 beside it, and all that samples show."""
    network = chain((5,), {"fc": dense([[2.0, *[0.6] * 4]]), "lif": lif((1,))}, steps=8)
    shown = np.zeros((4, 8, 5))
    shown[..., 1:] = 1
    options = {"calibration": {"input": shown}, "validate": True}

    with pytest.raises(
        RangeError, match="on the samples it fires 32 times in real numbers, and never in integers"
    ):
        compiled(network, weight_bits=2, **options)
    did = compiled(network, **options).facts["quantisation"]["layers"]["lif"]["on_samples"]
    assert did == {"spike_rate": 1.0, "real_spike_rate": 1.0, "saturations": 0}


@pytest.mark.parametrize("validate", [None, True, False])
def test_a_check_refuses_silence_on_samples_exactly_where_an_export_does(
    chain: Chain, lif: MakeLif, dense: MakeDense, tmp_path: Path, validate: bool | None
) -> None:
    network = chain((5,), {"fc": dense([[2.0, *[0.6] * 4]]), "lif": lif((1,))}, steps=8)
    shown = np.zeros((4, 8, 5), np.float32)
    shown[..., 1:] = 1
    source, data = tmp_path / "net.nir", tmp_path / "in.npz"
    source.write_bytes(network_to_nir(network, None))
    np.savez(data, input=shown)
    asked: dict[str, Any] = {
        "target": "fixedpoint",
        "recipe": Recipe(2, method="max"),
        "calibrate": str(data),
        "steps": 8,
        "validate": validate,
    }
    reasons: tuple[Problem, ...] = ()

    try:
        neurocompile.export(source, **asked)
    except RangeError as error:
        reasons = error.problems
    check = neurocompile.check(source, **asked)

    assert bool(reasons) == (validate is not False)
    assert tuple(found.problem for found in check.problems) == reasons


def test_few_spikes_on_samples_decide_nothing() -> None:
    silent = Fired("lif", slots=1000, real=19, integer=0)

    assert silent.problem is None
    assert list(silent.notes) == ["'lif' never fires on the samples; in real numbers 19 times"]
    assert Fired("lif", 1000, 20, 0).problem is not None
    assert Fired("lif", 1000, 20, 1).problem is None
    assert list(Fired("lif", 9, 0, 0).notes) == [
        "'lif' never fires on the samples; neither do real numbers"
    ]
    assert list(Fired("lif", 9, 5, 5, ended=3).notes) == [
        "membranes of 'lif' reach the end of their range 3 times on the samples"
    ]
