"""What `--print-after` shows of each stage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from neurocompile_loihi2.limits import LIMITS

from neurocompile.data import InputRange
from neurocompile.describe import describe
from neurocompile.integer import (
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
)
from neurocompile.ir import LIF, Dense, Input, Network, Node, Output
from neurocompile.passes.assemble import assemble
from neurocompile.passes.quantise import quantise


@pytest.fixture
def network(lif: Callable[..., LIF], dense: Callable[..., Dense]) -> Network:
    """Two neurons with leaks of their own that hear an input and themselves, and a read-out."""
    nodes: dict[str, Node] = {
        "input": Input((2,), InputRange(0, 1, 0.25)),
        "fc": dense(np.eye(2)),
        "lif": lif((2,), decay=[0.5, 0.25]),
        "back": dense(np.full((2, 2), 2)),
        "sum": dense(np.ones((1, 2))),
        "spikes": Output((2,)),
        "values": Output((1,)),
    }
    edges = (
        ("input", "fc"),
        ("fc", "lif"),
        ("lif", "back"),
        ("back", "lif"),
        ("lif", "spikes"),
        ("lif", "sum"),
        ("sum", "values"),
    )
    return Network(nodes, edges, 4, frozenset({("lif", "back")}))


def cells(lines: list[str], name: str) -> list[str]:
    """Return the cells of the row that begins with `name`; two blanks or more part them."""
    (row,) = [line for line in lines if line.split()[0] == name]
    return [cell.strip() for cell in row.split("  ") if cell.strip()]


def test_a_float_network_is_a_row_for_each_node(network: Network) -> None:
    lines = describe(network)

    assert len(lines) == 1 + len(network.nodes)
    assert lines[0].split() == ["node", "kind", "shape", "from", "parameters"]
    assert cells(lines, "input") == [
        "input", "Input", "(2,)", "range InputRange(minimum=0, maximum=1, step=0.25)",
    ]  # fmt: skip
    assert cells(lines, "back") == [
        "back", "Dense", "(2,)", "lif (previous step)", "weight 2, bias 0",
    ]  # fmt: skip
    assert cells(lines, "lif") == [
        "lif", "LIF", "(2,)", "fc, back",
        "decay 0.25..0.5 (2,), gain 1, leak 0, threshold 1, reset_to 0, reset zero",
    ]  # fmt: skip
    assert not any(line.endswith(" ") for line in lines)


def test_populations_are_followed_by_their_synapses_and_outputs(network: Network) -> None:
    lines = describe(assemble(network))

    assert [line.split()[0] for line in lines] == [
        "name", "input", "lif", "sum", "fc", "back", "sum", "outputs",
    ]  # fmt: skip
    assert [line.split()[1] for line in lines[1:4]] == ["input", "spiking", "readout"]
    assert cells(lines, "fc") == ["fc", "synapses", "(2, 2)", "input -> lif"]
    assert cells(lines, "back") == ["back", "synapses", "(2, 2)", "lif -> lif", "delay 1"]
    assert lines[-1] == "outputs  spikes: lif, values: sum"


def test_integers_are_shown_as_they_are(network: Network) -> None:
    lines = describe(quantise(assemble(network), LIMITS, steps=4).network)

    assert "threshold 127, " in lines[2]
    assert "dv 2048..3072 (2,), " in lines[2]
    assert [line.split()[1] for line in lines[1:4]] == ["input", "neurons", "read-out"]
    assert cells(lines, "back")[-1] == "delay 1"


def test_sums_and_delays_by_neuron_are_shown(
    integer_neurons: Callable[..., IntegerNeurons],
) -> None:
    network = IntegerNetwork(
        (
            IntegerInput("in", (2,), 1.0, 0, 1, True),
            IntegerRelay("in+in", (2,), 3),
            integer_neurons("out"),
        ),
        (
            IntegerSynapses("a", "in", "in+in", np.eye(2, dtype=np.int64), delay=np.array([0, 2])),
            IntegerSynapses("b", "in+in", "out", np.ones((1, 2), np.int64)),
        ),
        {"out": "out"},
    )

    lines = describe(network)

    assert cells(lines, "in+in") == ["in+in", "sum", "(2,)", "largest 3"]
    assert cells(lines, "a")[-1] == "delay 0..2 (2,)"
