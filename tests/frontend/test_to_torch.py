"""What PyTorch's half has no layer for is refused; what it has computes what the reference does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from neurocompile.errors import UnsupportedError
from neurocompile.frontend.to_torch import to_torch
from neurocompile.ir import (
    LIF,
    Delay,
    Flatten,
    Input,
    Integrator,
    MaxPool2d,
    Network,
    Node,
    Output,
    Pool2d,
    Scale,
    Threshold,
)
from neurocompile.reference import simulate

Chain = Callable[..., Network]
Neurons = Callable[..., LIF]


def test_layers_without_neurons_compute_what_the_reference_does(chain: Chain) -> None:
    network = chain(
        (2, 4, 6),
        {
            "scale": Scale(np.array([[[0.5]], [[2.0]]])),
            "max": MaxPool2d((2, 3), (2, 3), (1, 1)),
            "sum": Pool2d((1, 2), (1, 1), scale=1.0),
            "average": Pool2d((2, 1), (1, 1), scale=0.5),
            "fire": Threshold(np.full((2, 2, 1), 0.5)),
            "flat": Flatten(1, 2),
        },
    )
    values = np.random.default_rng(0).integers(-8, 9, (3, 2, 2, 4, 6)) / 8

    output = to_torch(network)(torch.tensor(values, dtype=torch.float32))

    expected = simulate(network, values).output
    assert output.tolist() == expected.tolist()
    assert 0 < expected.mean() < 1


def test_several_problems_come_together(chain: Chain, lif: Neurons) -> None:
    one = np.ones(2)
    network = chain(
        (2,),
        {
            "cuba": replace(lif((2,)), current_decay=0.5 * one),
            "late": Delay(np.array(1)),
            "started": replace(lif((2,)), start=0.5 * one),
            "soft": lif((2,), reset="subtract"),
            "li": Integrator(0.5 * one, one, 0 * one),
        },
    )

    with pytest.raises(UnsupportedError) as raised:
        to_torch(network)

    text = str(raised.value)
    assert "5 problems" in text
    for name in ("cuba", "started", "soft"):
        assert f"layer '{name}' needs uniform parameters, unit gain, no synaptic current" in text
    assert (
        "layer 'late' must be a layer that the training half has, but it is of type Delay" in text
    )
    assert "layer 'li' must be a layer that the training half has" in text


def test_recurrence_and_several_ports_are_refused(lif: Neurons) -> None:
    nodes: dict[str, Node] = {
        "a": Input((2,)),
        "b": Input((2,)),
        "lif": lif((2,)),
        "out": Output((2,)),
    }
    edges = (("a", "lif"), ("b", "lif"), ("lif", "lif"), ("lif", "out"))

    with pytest.raises(UnsupportedError) as raised:
        to_torch(Network(nodes, edges, None, frozenset({("lif", "lif")})))

    assert "PyTorch networks have no feedback edges, but this one has" in str(raised.value)
    assert "one input and one output, but this one has 2 and 1" in str(raised.value)
