"""Who fired how often, and the neurons that never or always did, by name."""

from __future__ import annotations

import numpy as np

from neurocompile.training.activity import activity_of, remarks


def test_rates_are_spikes_per_neuron_step_and_sample() -> None:
    counts = np.array([[4, 0], [2, 2]])  # two steps, two neurons, four samples

    (layer,) = activity_of({"lif1": counts}, samples=4)

    assert layer.rate == 8 / 16
    assert layer.rate_per_step == [0.5, 0.5]


def test_dead_and_saturated_neurons_are_named_channels_first() -> None:
    counts = np.full((3, 2, 2, 2), 1)
    counts[:, 0] = 0  # a channel that never fires
    counts[:, 1, 0, 1] = 0  # and one neuron of the other
    counts[:, 1, 1, 0] = 5  # one that fires at each of 3 steps of 5 samples

    layers = activity_of({"lif1": counts}, samples=5)

    assert layers[0].to_json()["dead"] == {"count": 5, "channels": [0], "neurons": [[1, 0, 1]]}
    assert layers[0].to_json()["saturated"] == {"count": 1, "channels": [], "neurons": [[1, 1, 0]]}
    assert remarks([layer.to_json() for layer in layers]) == [
        "lif1: 5 of 8 neurons never fired (all of channel 0; 1/0/1)",
        "lif1: 1 of 8 neurons always fired (1/1/0)",
    ]


def test_a_neuron_that_missed_one_step_of_one_sample_is_not_saturated() -> None:
    counts = np.array([[5], [4]])

    (layer,) = activity_of({"lif1": counts}, samples=5)

    assert not layer.saturated.any()
    assert remarks([layer.to_json()]) == []


def test_long_lists_of_neurons_are_cut() -> None:
    counts = np.zeros((1, 20), int)

    (layer,) = activity_of({"lif1": counts}, samples=1)

    assert remarks([layer.to_json()]) == [
        "lif1: 20 of 20 neurons never fired (0, 1, 2, 3, 4, 5, 6, 7, ...)"
    ]
