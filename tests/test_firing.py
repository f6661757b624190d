"""How LIF neurons of every framework fire: worked examples, small enough to check by hand."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from neurocompile.errors import NirFormatError
from neurocompile.ir import LIF, Input, Network, Output, Threshold
from neurocompile.reference import simulate


def _lif(*, decay: float = 1.0, **options: Any) -> LIF:
    one = np.ones(1)
    return LIF(
        **{"reset_to": 0 * one, **options}, decay=decay * one, gain=one, leak=0 * one, threshold=one
    )


def _run(neuron: LIF | Threshold, values: ArrayLike) -> tuple[list[int], NDArray[np.float64]]:
    nodes = {"in": Input((1,)), "n": neuron, "out": Output((1,))}
    network = Network(nodes, (("in", "n"), ("n", "out")))
    inputs = np.asarray(values, np.float64).reshape(1, -1, 1)
    trace = simulate(network, inputs, membranes=True)
    return trace.spikes["n"].ravel().tolist(), trace.membrane["n"].ravel()


def test_a_membrane_at_the_threshold_fires_only_where_the_comparison_says_so() -> None:
    assert _run(_lif(), [0.5, 0.5, 0.5])[0] == [0, 0, 1]
    assert _run(_lif(comparison=">="), [0.5, 0.5, 0.5])[0] == [0, 1, 0]
    assert _run(Threshold(np.ones(1), ">="), [0.5, 1, 1.5])[0] == [0, 1, 1]


def test_several_spikes_a_step_count_how_often_the_threshold_fits() -> None:
    many = _lif(comparison=">=", reset="subtract", most_spikes=None)
    spikes, membrane = _run(many, [2.5, 0.5, 0.25, 300])
    assert spikes == [2, 1, 0, 300]
    np.testing.assert_array_equal(membrane, [2.5, 1.0, 0.25, 300.25])
    strict = _lif(reset="subtract", most_spikes=None)
    assert _run(strict, [2.5, 0.5, 0.0, 2.0])[0] == [2, 0, 0, 2]  # 1 is not above 1, 3 is above 2


def test_spikes_beyond_the_most_stay_in_the_membrane() -> None:
    capped = _lif(comparison=">=", reset="subtract", most_spikes=2)
    assert _run(capped, [5, 0, 0, 0])[0] == [2, 2, 1, 0]


def test_a_spike_may_take_more_off_than_the_threshold() -> None:
    """snnTorch subtracts before the next leak: threshold / decay."""
    later = _lif(decay=0.5, reset="subtract", subtracts=np.full(1, 2.0))
    spikes, membrane = _run(later, [1.5, 1.5, 1.5])
    assert spikes == [1, 1, 1]
    np.testing.assert_array_equal(membrane, [1.5, 0.5 * 1.5 - 1 + 1.5, 0.5 * 1.25 - 1 + 1.5])


def test_a_membrane_stays_above_its_floor() -> None:
    spikes, membrane = _run(_lif(floor=np.full(1, -1.0)), [-5, 1.5, 1])
    assert spikes == [0, 0, 1]
    np.testing.assert_array_equal(membrane, [-1, 0.5, 1.5])


def test_refractory_neurons_ignore_their_input() -> None:
    resting = _lif(refractory=2)
    spikes, membrane = _run(resting, [2, 2, 2, 2, 0.5])
    assert spikes == [1, 0, 0, 1, 0]
    np.testing.assert_array_equal(membrane, [2, 0, 0, 2, 0])


def test_a_current_goes_on_while_neurons_rest() -> None:
    resting = _lif(refractory=1, current_decay=np.full(1, 0.5))
    spikes, membrane = _run(resting, [4, 0, 0])
    assert spikes == [1, 0, 0]
    np.testing.assert_array_equal(membrane, [4, 0, 1])  # current 4, 2, 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"most_spikes": 0}, "needs at least 1 spike a step"),
        ({"most_spikes": None, "reset_to": np.full(1, 0.5)}, "needs a reset to 0 to fire several"),
        ({"refractory": -1}, "needs refractory steps from 0 to 65536"),
        ({"floor": np.full(1, 2.0)}, "needs a lowest membrane below its threshold"),
    ],
)
def test_impossible_neurons_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NirFormatError, match=message):
        _run(_lif(**options), [0])
